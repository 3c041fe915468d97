"""The build backend: setuptools, and a C compiler where there is none.

The extension is plain C. Where no compiler is found ($CC, Python's own, cc, gcc, clang), the build
asks pip for `ziglang`, a wheel with a complete one, and compiles with `python -m ziglang cc`.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
import sysconfig
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

Settings = dict[str, Any] | None


def find_compiler() -> str | None:
    """The compiler command to use, or None when the machine has none."""
    for command in (os.environ.get("CC"), sysconfig.get_config_var("CC"), "cc", "gcc", "clang"):
        if command and shutil.which(shlex.split(command)[0]):
            return command
    return None


def zig_command() -> str:
    """Zig's compiler for the baseline CPU (its default is this machine's) and an old libc."""
    libc = "musl" if "musl" in (sysconfig.get_config_var("HOST_GNU_TYPE") or "") else "gnu.2.17"
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    return f"{shlex.quote(sys.executable)} -m ziglang cc -target {machine}-linux-{libc}"


def _choose_compiler() -> None:
    command = find_compiler() or zig_command()
    if command != sysconfig.get_config_var("CC"):
        os.environ["CC"] = command
        os.environ.setdefault("LDSHARED", f"{command} -shared")


def _with_zig(requires: list[str]) -> list[str]:
    return requires if find_compiler() else [*requires, "ziglang"]


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    return _with_zig(build_meta.get_requires_for_build_wheel(config_settings))


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    return _with_zig(build_meta.get_requires_for_build_editable(config_settings))


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    _choose_compiler()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    _choose_compiler()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
