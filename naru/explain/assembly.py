"""The machine code of a bundle as assembly text."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

from naru.artifact.bundle import Bundle
from naru.errors import NaruError

_MACHINES = {"x86_64": "i386:x86-64", "aarch64": "aarch64"}


def disassemble(bundle: Bundle, kernel: str | None = None) -> str:
    """The machine code as assembly text, of one kernel where the manifest says where it lies.

    Uses binutils' objdump. NaruError when it is missing, or there is no such kernel.
    """
    program = shutil.which("objdump")
    if program is None:
        raise NaruError("--asm needs objdump, which is not on the PATH", hint="install binutils")
    arch = str(bundle.manifest["target"]["triple"]).partition("-")[0]
    if arch not in _MACHINES:
        raise NaruError(f"--asm knows no disassembler for {arch}")
    code = bytes(bundle.section("code"))
    start, stop = _range_of(bundle, kernel, len(code))
    command = [program, "-D", "-b", "binary", "-m", _MACHINES[arch], "--no-show-raw-insn"]
    command += [f"--start-address={start}", f"--stop-address={stop}"]
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        file.write(code)
        file.flush()
        done = subprocess.run([*command, file.name], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NaruError(f"objdump failed: {done.stderr.strip()}")
    return done.stdout.partition("<.data")[2].partition("\n")[2]


def _range_of(bundle: Bundle, kernel: str | None, size: int) -> tuple[int, int]:
    if kernel is None:
        return 0, size
    kernels: Sequence[dict[str, Any]] = bundle.manifest.get("kernels", [])
    for record in kernels:
        if record.get("name") != kernel:
            continue
        if "offset" not in record:
            return 0, size
        return record["offset"], record["offset"] + record["size"]
    names = ", ".join(str(k.get("name")) for k in kernels)
    raise NaruError(f"there is no kernel {kernel!r}; the bundle has: {names}")
