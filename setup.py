"""The C extension; everything else is in pyproject.toml."""

from pathlib import Path

import numpy
from setuptools import Extension, setup

NATIVE = Path("naru/runtime/native")

setup(
    ext_modules=[
        Extension(
            "naru.runtime._native",
            sources=sorted(str(path) for path in NATIVE.glob("*.c")),
            depends=sorted(str(path) for path in NATIVE.glob("*.h")),
            include_dirs=[numpy.get_include()],
            extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
            extra_link_args=["-pthread"],
        )
    ]
)
