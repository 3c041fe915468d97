"""Links relocatable ELF objects into one position-independent blob of machine code.

LLVM gives an object file for each kernel. A bundle wants bytes that run wherever they are mapped,
so everything here is relative to the program counter: code first, then read-only data, each at a
fixed distance from the other. What cannot be expressed so (an absolute address, writable data, a
symbol that nobody defines) is refused with a list of all places. Equal input gives equal bytes.

Supported: ELF64 little-endian for x86-64 and aarch64, compiled with reloc=pic and the small code
model. The blob must be mapped at a multiple of 4096 (adrp counts in pages).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from naru.errors import NaruError

KERNEL_ALIGN = 64

_X86_64, _AARCH64 = 62, 183
_SHF_WRITE, _SHF_ALLOC, _SHF_EXEC = 1, 2, 4
_SHT_SYMTAB, _SHT_RELA, _SHT_NOBITS, _SHT_REL = 2, 4, 8, 9
_SHN_UNDEF, _SHN_ABS, _SHN_COMMON = 0, 0xFFF1, 0xFFF2
_STB_LOCAL, _STB_WEAK = 0, 2
_STT_SECTION = 3
_FILLER = {_X86_64: b"\xcc", _AARCH64: b"\x00"}  # traps, should anything ever run into it
_MACHINE_NAMES = {_X86_64: "x86-64", _AARCH64: "aarch64"}

_Target = tuple["_Object", int, int]  # object, section, offset: where a symbol is defined
_Patch = Callable[["_Site"], None]


class LinkError(NaruError):
    """Objects that cannot become one position-independent blob. Lists every reason."""

    def __init__(self, problems: Sequence[str], *, hint: str | None = None) -> None:
        self.problems = tuple(problems)
        super().__init__("\n  ".join(["the objects cannot be linked:", *problems]), hint=hint)


@dataclass(frozen=True, slots=True)
class Linked:
    """Machine code and the offsets of the requested symbols in it."""

    code: bytes
    offsets: dict[str, int]


def link(objects: Sequence[tuple[str, bytes]], entries: Sequence[str]) -> Linked:
    """Links (name, ELF bytes) objects; the names appear in messages only.

    Text sections start at multiples of 64, in the given order, then read-only data. `entries` are
    the global symbols whose offsets the caller wants. Raises LinkError with all problems found.
    """
    parsed = [_parse(name, data) for name, data in objects]
    machines = {o.machine for o in parsed}
    if len(machines) > 1:
        raise LinkError(["the objects are for different machines"])
    problems = [p for o in parsed for p in _writable_data(o)]
    defined = _global_symbols(parsed, problems)
    blob = _lay_out(parsed)
    problems += _Relocator(blob, defined).run(parsed)
    offsets: dict[str, int] = {}
    for entry in entries:
        if entry in defined:
            owner, section, offset = defined[entry]
            offsets[entry] = owner.sections[section].address + offset
        else:
            problems.append(f"no object defines the entry '{entry}'")
    if problems:
        raise LinkError(problems, hint=_hint(problems))
    return Linked(bytes(blob), offsets)


def _hint(problems: Sequence[str]) -> str | None:
    text = "\n".join(problems)
    if "undefined" in text:
        return "define it in the module, or emit an intrinsic that does not become a library call"
    if "absolute" in text or "writable" in text:
        return "compile with reloc='pic' and codemodel='small'; keep constants free of pointers"
    return None


# ---- parsing ----


@dataclass(slots=True)
class _Section:
    index: int
    name: str
    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    address: int = -1  # in the blob; -1 when it is not placed


@dataclass(frozen=True, slots=True)
class _Symbol:
    name: str
    binding: int
    kind: int
    section: int
    value: int


@dataclass(slots=True)
class _Object:
    name: str
    data: bytes
    machine: int
    sections: list[_Section]
    symbols: list[_Symbol] = field(default_factory=list[_Symbol])


def _parse(name: str, data: bytes) -> _Object:
    try:
        return _parse_unchecked(name, data)
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise LinkError([f"{name}: a truncated or malformed object ({error})"]) from error


def _parse_unchecked(name: str, data: bytes) -> _Object:
    if data[:6] != b"\x7fELF\x02\x01":
        raise LinkError([f"{name}: not a 64-bit little-endian ELF file"])
    kind, machine = struct.unpack_from("<HH", data, 16)
    if kind != 1:
        raise LinkError([f"{name}: not a relocatable object (ELF type {kind})"])
    if machine not in _MACHINE_NAMES:
        raise LinkError([f"{name}: machine {machine} is neither x86-64 nor aarch64"])
    (start,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    rows = [struct.unpack_from("<IIQQQQIIQQ", data, start + k * size) for k in range(count)]
    strings = rows[names][4] if rows else 0
    sections = [
        _Section(k, _string(data, strings + r[0]), r[1], r[2], r[4], r[5], r[6], r[7], max(r[8], 1))
        for k, r in enumerate(rows)
    ]
    for section in sections:
        if section.kind != _SHT_NOBITS and section.offset + section.size > len(data):
            raise LinkError([f"{name}: section {section.name} reaches past the end of the file"])
    result = _Object(name, data, machine, sections)
    table = next((s for s in sections if s.kind == _SHT_SYMTAB), None)
    if table is not None:
        result.symbols = _parse_symbols(data, table, sections[table.link])
    return result


def _parse_symbols(data: bytes, table: _Section, strings: _Section) -> list[_Symbol]:
    symbols: list[_Symbol] = []
    for at in range(table.offset, table.offset + table.size, 24):
        name, info, _, section, value, _ = struct.unpack_from("<IBBHQQ", data, at)
        text = _string(data, strings.offset + name)
        symbols.append(_Symbol(text, info >> 4, info & 15, section, value))
    return symbols


def _string(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()


# ---- layout ----


def _is_dropped(section: _Section) -> bool:
    """Unwind tables and notes: allocated, but nobody unwinds through a kernel."""
    return section.name.startswith((".eh_frame", ".note", ".gnu", ".llvm", ".ARM.exidx"))


def _is_placed(section: _Section) -> bool:
    readable = section.flags & (_SHF_ALLOC | _SHF_WRITE) == _SHF_ALLOC
    return readable and section.size > 0 and not _is_dropped(section)


def _writable_data(obj: _Object) -> list[str]:
    both = _SHF_ALLOC | _SHF_WRITE
    problems: list[str] = []
    for section in obj.sections:
        if section.flags & both == both and section.size and not _is_dropped(section):
            names = sorted(s.name for s in obj.symbols if s.section == section.index and s.name)
            listed = f" ({', '.join(names)})" if names else ""
            problems.append(
                f"{obj.name}: {section.name} is writable data, {section.size} bytes{listed}"
            )
    problems += [
        f"{obj.name}: '{s.name}' is writable data (a common symbol)"
        for s in obj.symbols
        if s.section == _SHN_COMMON
    ]
    return problems


def _lay_out(objects: Sequence[_Object]) -> bytearray:
    """Gives each placed section its address and returns the blob before relocation."""
    blob = bytearray()
    placed = [(o, s) for o in objects for s in o.sections if _is_placed(s)]
    text = [(o, s) for o, s in placed if s.flags & _SHF_EXEC]
    data = [(o, s) for o, s in placed if not s.flags & _SHF_EXEC]
    for obj, section in text + data:
        align = max(section.align, KERNEL_ALIGN if section.flags & _SHF_EXEC else 1)
        filler = _FILLER[obj.machine] if section.flags & _SHF_EXEC else b"\0"
        blob += filler * (-len(blob) % align)
        section.address = len(blob)
        if section.kind == _SHT_NOBITS:
            blob += bytes(section.size)
        else:
            blob += obj.data[section.offset : section.offset + section.size]
    return blob


def _global_symbols(objects: Sequence[_Object], problems: list[str]) -> dict[str, _Target]:
    """Where each global symbol is defined; a strong definition wins over weak ones."""
    found: dict[str, _Target] = {}
    strong: dict[str, str] = {}
    for obj in objects:
        for s in obj.symbols:
            if s.binding == _STB_LOCAL or s.section in (_SHN_UNDEF, _SHN_ABS, _SHN_COMMON):
                continue
            if s.binding != _STB_WEAK and s.name in strong:
                problems.append(f"'{s.name}' is defined by both {strong[s.name]} and {obj.name}")
            elif s.binding != _STB_WEAK:
                strong[s.name] = obj.name
                found[s.name] = obj, s.section, s.value
            else:
                found.setdefault(s.name, (obj, s.section, s.value))
    return found


# ---- relocation ----


class _BadRelocation(Exception):
    """One place that cannot be relocated; the text says why."""


@dataclass(slots=True)
class _Site:
    """One relocation: the place P to patch, and S + A as one address."""

    blob: bytearray
    place: int
    symbol: int  # S
    addend: int  # A

    @property
    def distance(self) -> int:
        return self.symbol + self.addend - self.place

    def word(self) -> int:
        return int.from_bytes(self.blob[self.place : self.place + 4], "little")

    def put(self, value: int, size: int = 4) -> None:
        data = (value & (1 << size * 8) - 1).to_bytes(size, "little")
        self.blob[self.place : self.place + size] = data


@dataclass(slots=True)
class _Relocator:
    """Patches the blob and collects what cannot be patched."""

    blob: bytearray
    defined: dict[str, _Target]
    problems: list[str] = field(default_factory=list[str])
    undefined: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def run(self, objects: Sequence[_Object]) -> list[str]:
        for obj in objects:
            for table in obj.sections:
                if table.kind in (_SHT_RELA, _SHT_REL):
                    self.apply_table(obj, table)
        for name, users in self.undefined.items():
            self.problems.append(f"'{name}' is undefined, used by {', '.join(users)}")
        return self.problems

    def apply_table(self, obj: _Object, table: _Section) -> None:
        if table.info >= len(obj.sections) or obj.sections[table.info].address < 0:
            return  # of debug info or unwind tables
        if table.kind == _SHT_REL:
            self.problems.append(f"{obj.name}: {table.name} has relocations without addends")
            return
        for row in range(table.offset, table.offset + table.size - 23, 24):
            self.apply(obj, obj.sections[table.info], row)

    def apply(self, obj: _Object, section: _Section, row: int) -> None:
        offset, info, addend = struct.unpack_from("<QQq", obj.data, row)
        kind, number = info & 0xFFFFFFFF, info >> 32
        where = f"{obj.name}: {section.name}+{offset:#x}"
        if number >= len(obj.symbols) or offset >= section.size:
            self.problems.append(f"{where}: a malformed relocation")
            return
        symbol = obj.symbols[number]
        address = _address(obj, symbol, self.defined)
        if address is None:
            self.report_missing(obj, symbol, where)
            return
        try:
            patch = _PATCHES[obj.machine].get(kind)
            if patch is None:
                raise _BadRelocation(_unsupported(obj.machine, kind))
            patch(_Site(self.blob, section.address + offset, address, addend))
        except _BadRelocation as error:
            self.problems.append(f"{where}: {error} (refers to '{_shown(obj, symbol)}')")

    def report_missing(self, obj: _Object, symbol: _Symbol, where: str) -> None:
        if symbol.section == _SHN_UNDEF:
            users = self.undefined.setdefault(symbol.name, [])
            if obj.name not in users:
                users.append(obj.name)
        else:
            shown = _shown(obj, symbol)
            self.problems.append(f"{where}: refers to '{shown}', which is not part of the code")


def _shown(obj: _Object, symbol: _Symbol) -> str:
    if symbol.kind == _STT_SECTION and symbol.section < len(obj.sections):
        return obj.sections[symbol.section].name
    return symbol.name


def _address(obj: _Object, symbol: _Symbol, defined: dict[str, _Target]) -> int | None:
    owner, index, offset = obj, symbol.section, symbol.value
    if symbol.binding != _STB_LOCAL and symbol.name in defined:
        owner, index, offset = defined[symbol.name]
    if index == _SHN_UNDEF or index >= len(owner.sections) or owner.sections[index].address < 0:
        return None
    return owner.sections[index].address + offset


def _unsupported(machine: int, kind: int) -> str:
    if kind in _ABSOLUTE[machine]:
        return f"an absolute address (relocation {_ABSOLUTE[machine][kind]})"
    return f"relocation {kind} of {_MACHINE_NAMES[machine]} is not supported"


def _require_signed(value: int, bits: int) -> int:
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise _BadRelocation(f"a distance of {value} does not fit in {bits} bits")
    return value


# ---- x86-64 ----


def _pc32(site: _Site) -> None:
    site.put(_require_signed(site.distance, 32))


def _pc64(site: _Site) -> None:
    site.put(site.distance, 8)


def _got_pcrel(site: _Site) -> None:
    """Turns an access through the global offset table, which a blob does not have, into a direct
    one: `mov s@GOTPCREL(%rip), %r` -> `lea s(%rip), %r`; calls and jumps likewise."""
    opcode, modrm = site.blob[site.place - 2], site.blob[site.place - 1]
    if opcode == 0x8B and modrm & 0xC7 == 0x05:
        site.blob[site.place - 2] = 0x8D
        _pc32(site)
    elif (opcode, modrm) == (0xFF, 0x15):  # call *s -> addr32 call s
        site.blob[site.place - 2 : site.place] = b"\x67\xe8"
        _pc32(site)
    elif (opcode, modrm) == (0xFF, 0x25):  # jmp *s -> jmp s; nop
        distance = _require_signed(site.distance + 1, 32)
        site.blob[site.place - 2] = 0xE9
        site.blob[site.place - 1 : site.place + 3] = distance.to_bytes(4, "little", signed=True)
        site.blob[site.place + 3] = 0x90
    else:
        raise _BadRelocation(
            f"needs a slot of the global offset table, an absolute address (opcode {opcode:#04x})"
        )


# ---- aarch64 ----


def _adr_page(site: _Site) -> None:
    target = site.symbol + site.addend
    pages = _require_signed((target >> 12) - (site.place >> 12), 21)
    site.put(site.word() & ~0x60FFFFE0 | (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5)


def _low12(shift: int) -> _Patch:
    def patch(site: _Site) -> None:
        low = site.symbol + site.addend & 0xFFF
        if low & (1 << shift) - 1:
            raise _BadRelocation(f"an address that is not a multiple of {1 << shift}")
        site.put(site.word() & ~(0xFFF << 10) | low >> shift << 10)

    return patch


def _got_low12(site: _Site) -> None:
    """`ldr x, [x, :got_lo12:s]` -> `add x, x, :lo12:s`; the page before it is already that of s."""
    word = site.word()
    if word & 0xFFC00000 != 0xF9400000:
        raise _BadRelocation("a load through the global offset table that is not a plain ldr")
    site.put(0x91000000 | word & 0x3FF)
    _low12(0)(site)


def _branch(bits: int, at: int) -> _Patch:
    def patch(site: _Site) -> None:
        words = _require_signed(site.distance >> 2, bits)
        mask = (1 << bits) - 1
        site.put(site.word() & ~(mask << at) | (words & mask) << at)

    return patch


def _adr(site: _Site) -> None:
    distance = _require_signed(site.distance, 21)
    site.put(site.word() & ~0x60FFFFE0 | (distance & 3) << 29 | (distance >> 2 & 0x7FFFF) << 5)


def _prel16(site: _Site) -> None:
    site.put(_require_signed(site.distance, 16), 2)


_PATCHES: dict[int, dict[int, _Patch]] = {
    _X86_64: {
        2: _pc32,  # PC32
        4: _pc32,  # PLT32
        9: _got_pcrel,  # GOTPCREL
        24: _pc64,  # PC64
        41: _got_pcrel,  # GOTPCRELX
        42: _got_pcrel,  # REX_GOTPCRELX
    },
    _AARCH64: {
        260: _pc64,  # PREL64
        261: _pc32,  # PREL32
        262: _prel16,  # PREL16
        273: _branch(19, 5),  # LD_PREL_LO19
        274: _adr,  # ADR_PREL_LO21
        275: _adr_page,  # ADR_PREL_PG_HI21
        276: _adr_page,  # ADR_PREL_PG_HI21_NC
        277: _low12(0),  # ADD_ABS_LO12_NC
        278: _low12(0),  # LDST8_ABS_LO12_NC
        279: _branch(14, 5),  # TSTBR14
        280: _branch(19, 5),  # CONDBR19
        282: _branch(26, 0),  # JUMP26
        283: _branch(26, 0),  # CALL26
        284: _low12(1),  # LDST16_ABS_LO12_NC
        285: _low12(2),  # LDST32_ABS_LO12_NC
        286: _low12(3),  # LDST64_ABS_LO12_NC
        299: _low12(4),  # LDST128_ABS_LO12_NC
        311: _adr_page,  # ADR_GOT_PAGE
        312: _got_low12,  # LD64_GOT_LO12_NC
        314: _pc32,  # PLT32
    },
}

_ABSOLUTE = {
    _X86_64: {1: "R_X86_64_64", 10: "R_X86_64_32", 11: "R_X86_64_32S", 25: "R_X86_64_GOTOFF64"},
    _AARCH64: {257: "R_AARCH64_ABS64", 258: "R_AARCH64_ABS32", 259: "R_AARCH64_ABS16"},
}
