"""The C extension; everything else is in pyproject.toml.

This file serves two trees: this repository, and that of naru-runtime, which tools/build_wheels.py
puts together and where the package is called naru_runtime.
"""

from pathlib import Path

import numpy
from setuptools import Extension, setup

PACKAGE = "naru" if Path("naru").is_dir() else "naru_runtime"
NATIVE = Path(PACKAGE, "runtime", "native")
MODULE = f"{PACKAGE}.runtime._native"

setup(
    ext_modules=[
        Extension(
            MODULE,
            sources=sorted(str(path) for path in NATIVE.glob("*.c")),
            depends=sorted(str(path) for path in NATIVE.glob("*.h")),
            define_macros=[("NARU_MODULE", f'"{MODULE}"')],
            include_dirs=[numpy.get_include()],
            extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
            extra_link_args=["-pthread"],
        )
    ]
)
