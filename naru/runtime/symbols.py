"""Names of kernels for perf and gdb, which see only addresses in code that no file describes.

perf reads lines `start size name` from /tmp/perf-PID.map when it reports. gdb is handed an ELF
image in memory with a table of symbols and no code.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .. import knobs
from ..artifact.bundle import Bundle
from ..artifact.manifest import check_records
from ..errors import RunError
from . import _native

_MACHINES = {"x86_64": 62, "aarch64": 183}  # e_machine
_EXECUTABLE, _LITTLE_64 = 2, b"\x7fELF\x02\x01\x01"
_SYMTAB, _STRTAB, _NOBITS = 2, 3, 8
_ALLOC_EXEC = 2 | 4
_GLOBAL_FUNCTION = 1 << 4 | 2


@dataclass(frozen=True, slots=True)
class Symbol:
    """A function of a bundle: name, address in this process, bytes."""

    name: str
    address: int
    size: int


def tell(bundle: Bundle) -> object:
    """Names the functions of a bundle, whose code is enabled, for the tools that the knobs ask
    for. They stay named for gdb as long as what comes back lives. RunError where the file that
    perf reads cannot be written."""
    now = knobs.current()
    if not (now.perf or now.gdb):
        return None
    found = symbols_of(bundle)
    if now.perf:
        write_perf_map(found)
    machine = _MACHINES.get(str(bundle.manifest["target"]["triple"]).partition("-")[0])
    if not now.gdb or machine is None:
        return None
    code = bundle.sections["code"]
    return _native.announce_symbols(make_elf(machine, bundle.image.code_address, code.size, found))


def symbols_of(bundle: Bundle) -> tuple[Symbol, ...]:
    """Kernels and entries, `model.kernel`, in the order of their addresses; each ends where its
    record says, or where the next begins."""
    size, base = bundle.sections["code"].size, bundle.image.code_address
    model = _plain(str(bundle.manifest["source"].get("name") or "model"))
    starts: dict[int, tuple[str, int]] = {}
    for e in bundle.entries:
        starts[e.plan] = ("plan", size)
        starts[e.run] = (e.name, size)
    check_records(bundle.manifest)
    for k in bundle.manifest["kernels"]:
        if 0 <= k.get("offset", -1) < size:
            starts[k["offset"]] = (str(k.get("name", "kernel")), int(k.get("size", size)))
    offsets = sorted(starts)
    ends = [*offsets[1:], size]
    return tuple(
        Symbol(f"{model}.{_plain(name)}", base + start, min(most, end - start))
        for start, end in zip(offsets, ends, strict=True)
        for name, most in [starts[start]]
    )


def _plain(name: str) -> str:
    """What neither a line nor a table of symbols can misread."""
    return re.sub(r"[^\w.$+-]", "_", name)


# ---- perf ----


def write_perf_map(symbols: Sequence[Symbol]) -> None:
    """Appends to this process's map. RunError where that is not possible."""
    path = f"/tmp/perf-{os.getpid()}.map"
    lines = "".join(f"{s.address:x} {s.size:x} {s.name}\n" for s in symbols)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(lines)
    except OSError as e:
        raise RunError(
            f"{path}: cannot write the map for perf: {e.strerror}", hint="unset NARU_PERF"
        ) from None


# ---- gdb ----


def make_elf(machine: int, address: int, size: int, symbols: Sequence[Symbol]) -> bytes:
    """An ELF image whose `.text` is code that lies elsewhere, with global functions in it."""
    names = b"\0" + b"".join(s.name.encode() + b"\0" for s in symbols)
    table = bytes(24) + b"".join(_elf_symbols(symbols))
    titles = b"\0.text\0.symtab\0.strtab\0"
    at_table = 64
    at_names = at_table + len(table)
    at_titles = at_names + len(names)
    at_sections = -(-(at_titles + len(titles)) // 8) * 8
    head = _LITTLE_64.ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", _EXECUTABLE, machine, 1, 0, 0, at_sections, 0, 64, 0, 0, 64, 5, 4
    )
    sections = (
        bytes(64),
        _section(1, _NOBITS, _ALLOC_EXEC, address, 0, size, align=64),
        _section(7, _SYMTAB, 0, 0, at_table, len(table), link=3, info=1, align=8, entry=24),
        _section(15, _STRTAB, 0, 0, at_names, len(names)),
        _section(15, _STRTAB, 0, 0, at_titles, len(titles)),
    )
    body = (head + table + names + titles).ljust(at_sections, b"\0")
    return body + b"".join(sections)


def _elf_symbols(symbols: Sequence[Symbol]) -> Iterator[bytes]:
    at = 1
    for s in symbols:
        yield struct.pack("<IBBHQQ", at, _GLOBAL_FUNCTION, 0, 1, s.address, s.size)
        at += len(s.name.encode()) + 1


def _section(
    name: int,
    kind: int,
    flags: int,
    address: int,
    offset: int,
    size: int,
    *,
    link: int = 0,
    info: int = 0,
    align: int = 1,
    entry: int = 0,
) -> bytes:
    return struct.pack(
        "<IIQQQQIIQQ", name, kind, flags, address, offset, size, link, info, align, entry
    )
