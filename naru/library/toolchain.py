"""The C compiler that makes a library: the system's, one for the other machine, or Zig's.

A model's code is made by naru; a C compiler is asked for what is around it (opening files, threads)
and to link. The package `ziglang` (pip install 'naru[cross]') is a complete one for every platform.
WebAssembly needs none.
"""

from __future__ import annotations

import importlib.util
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from naru import knobs
from naru.errors import NaruError, TargetError, nearest

# Where a library can run: name, architecture, and Zig's name of it. glibc 2.17 is that of 2012.
PLATFORMS = {
    "x86_64-linux": ("x86_64", "x86_64-linux-gnu.2.17"),
    "aarch64-linux": ("aarch64", "aarch64-linux-gnu.2.17"),
    "x86_64-linux-musl": ("x86_64", "x86_64-linux-musl"),
    "aarch64-linux-musl": ("aarch64", "aarch64-linux-musl"),
}
WASM = "wasm"
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
SECONDS = 300
# Segments that share pages: a loaded library costs two mappings, and the weights a third.
LINK_FLAGS = (
    *("-shared", "-Wl,-z,noseparate-code", "-Wl,-z,norelro", "-Wl,-z,noexecstack"),
    *("-Wl,--build-id=none", "-Wl,--as-needed"),
)
_ZIG_LINK_FLAGS = ("-shared", "-T", str(Path(__file__).parent / "c" / "segments.ld"))


def host_platform() -> str:
    """The platform of this machine. TargetError where libraries are not made for it."""
    machine = platform.machine().lower()
    machine = _MACHINES.get(machine, machine)
    name = f"{machine}-{platform.system().lower()}"
    if name not in PLATFORMS:
        raise TargetError(
            f"libraries for this system ({name}) are not made yet",
            hint=f"--target {' or '.join(PLATFORMS)} or {WASM}",
        )
    return f"{name}-musl" if _is_musl() else name


def find_platform(name: str) -> str:
    """A platform by its name; arm64 and amd64 are taken too. TargetError lists the known ones."""
    key = name.lower().replace("arm64-", "aarch64-").replace("amd64-", "x86_64-")
    if key in ("host", "native"):
        return host_platform()
    if key in ("wasm", "wasm32", "web"):
        return WASM
    if key not in PLATFORMS:
        known = [*PLATFORMS, WASM, "host"]
        meant = nearest(name, known)
        raise TargetError(
            f"unknown platform {name!r}" + (f"; {meant}" if meant else ""),
            hint=f"one of: {', '.join(known)}",
        )
    return key


def _is_musl() -> bool:
    return (
        platform.libc_ver()[0] != "glibc"
        and Path("/lib").is_dir()
        and any(Path("/lib").glob("ld-musl-*"))
    )


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Commands to compile C and to make archives; `version` is the first line that it says,
    `link_flags` are those of a shared library."""

    compiler: tuple[str, ...]
    archiver: tuple[str, ...]
    version: str
    link_flags: tuple[str, ...] = LINK_FLAGS

    def compile(self, args: Sequence[str], folder: Path) -> None:
        """Runs the compiler in a folder. NaruError quotes what it says."""
        _run([*self.compiler, *args], folder)

    def archive(self, args: Sequence[str], folder: Path) -> None:
        """Runs the archiver in a folder. NaruError quotes what it says."""
        _run([*self.archiver, *args], folder)


def find_toolchain(name: str, asked: str | None = None) -> Toolchain:
    """The compiler for a platform: `asked` (a command, or "zig"), else $CC and cc, gcc, clang for
    this machine, a cross compiler of the usual name, or Zig. TargetError when there is none."""
    arch, zig = PLATFORMS[name]
    if asked and asked != "zig":
        found = _toolchain(_words(asked, "compiler"), _archiver(arch))
        _check_machine(found, name, arch)
        return found
    if not asked:
        for command in _candidates(name, arch):
            if shutil.which(command[0]):
                return _toolchain(command, _archiver(arch))
    if importlib.util.find_spec("ziglang") is not None:
        python = [sys.executable, "-m", "ziglang"]
        flags = ["-target", zig, "-fno-sanitize=undefined", "-g0"]
        found = _toolchain([*python, "cc", *flags], [*python, "ar"])
        return replace(found, link_flags=_ZIG_LINK_FLAGS)
    what = "Zig is not installed" if asked else f"there is no C compiler for {name}"
    raise TargetError(
        f"{what}, and a library takes one",
        hint="pip install 'naru[cross]' (a compiler for every platform), or --emit c, "
        "whose file any C compiler takes; --target wasm needs none",
    )


def _check_machine(found: Toolchain, name: str, arch: str) -> None:
    """TargetError for a compiler that says it is for another machine or C library. (One that does
    not say is believed.)"""
    try:
        said = _run([*found.compiler, "-dumpmachine"], Path.cwd()).strip()
    except NaruError:
        return
    other = not said.replace("arm64", "aarch64").startswith(arch)
    if said.count("-") >= 2 and (other or ("musl" in said) != name.endswith("-musl")):
        raise TargetError(
            f"the compiler {shlex.join(found.compiler)} is for {said}, not for {name}",
            hint="--cc zig, or a compiler for that platform",
        )


def _candidates(name: str, arch: str) -> list[list[str]]:
    """Commands to look for, best first."""
    machine = platform.machine().lower()
    native = (
        _MACHINES.get(machine, machine) == arch
        and platform.system() == "Linux"
        and name.endswith("-musl") == _is_musl()
    )
    own = knobs.c_compiler()
    found = [_words(own, "CC")] if native and own else []
    if native:
        found += [["cc"], ["gcc"], ["clang"]]
    libc = "musl" if name.endswith("-musl") else "gnu"
    return [*found, [f"{arch}-linux-{libc}-gcc"]]


def _words(command: str, what: str) -> list[str]:
    """The words of a command, as a shell reads it. TargetError, with where it comes from, where
    there are none."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise TargetError(f"{what}: {command!r}: {error}", hint="--cc COMMAND") from None
    if not words or not words[0]:
        raise TargetError(f"{what}: {command!r} names no C compiler", hint="--cc COMMAND")
    return words


def _archiver(arch: str) -> list[str]:
    for command in (f"{arch}-linux-gnu-ar", "ar", "llvm-ar"):
        if shutil.which(command):
            return [command]
    return ["ar"]


def _toolchain(compiler: Sequence[str], archiver: Sequence[str]) -> Toolchain:
    found = shutil.which(compiler[0])
    if not found:
        raise TargetError(f"the C compiler {compiler[0]!r} is not on PATH", hint="--cc COMMAND")
    if "/" in compiler[0]:  # it runs in another folder
        compiler = [str(Path(found).absolute()), *compiler[1:]]
    said = _run([*compiler, "--version"], Path.cwd())
    return Toolchain(tuple(compiler), tuple(archiver), said.splitlines()[0] if said else "unknown")


def _run(command: Sequence[str], folder: Path) -> str:
    """What a command prints."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace",
            timeout=SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NaruError(f"{command[0]} cannot be run: {error}", hint="--cc COMMAND") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise NaruError(f"{shlex.join(command[:3])} failed:\n{said[-2000:]}", hint="--cc zig")
    return done.stdout
