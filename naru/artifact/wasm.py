"""Links relocatable WebAssembly objects, as LLVM emits them, into one module that an engine loads.

What `wasm-ld` does for code without a C library, and no more: types and functions of all objects in
one index space, read-only data at fixed addresses, a stack below the heap, relocations patched in
place. The module imports nothing (or only its memory) and exports

    the entries, `memory`, `__stack_low` and `__heap_base` (where the stack begins and ends, so the
    first free byte, a multiple of 64), `__stack_pointer` (the instance of another thread sets it to
    the top of a stack of its own), and, where code calls through pointers,
    `__indirect_function_table`.

The stack is as large as the deepest chain of calls, read off the code: nothing checks it at run
time.

Formats: WebAssembly 2.0 core specification, section 5; "Linking.md" of the WebAssembly project's
tool conventions (symbol table and relocations, version 2). Equal input gives equal bytes.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from naru.artifact.link import LinkError

DATA_START = 1024  # address 0 stays invalid
PAGE = 65536
STACK_ALIGN = 64
MAGIC = b"\0asm\1\0\0\0"
TABLE = "__indirect_function_table"

_CUSTOM, _TYPE, _IMPORT, _FUNCTION, _TABLE, _MEMORY, _GLOBAL = range(7)
_EXPORT, _ELEMENT, _CODE, _DATA = 7, 9, 10, 11
_KINDS = ("function", "table", "memory", "global")
_SYMBOL_FUNCTION, _SYMBOL_DATA, _SYMBOL_GLOBAL, _SYMBOL_SECTION, _, _SYMBOL_TABLE = range(6)
_SHARED = 3  # of a memory's limits: with a maximum, and shared
_WEAK, _LOCAL, _UNDEFINED, _EXPLICIT_NAME = 1, 2, 0x10, 0x40
_I32, _FUNCREF, _I32_CONST, _END = 0x7F, 0x70, 0x41, 0x0B


@dataclass(frozen=True, slots=True)
class WasmModule:
    """`code`: the module. Its memory begins with `pages` of 64 KiB, free from `heap_base` on.
    `stack`: bytes of stack that one thread takes."""

    code: bytes
    heap_base: int
    pages: int
    stack: int


def link_wasm(
    objects: Sequence[tuple[str, bytes]],
    entries: Sequence[str],
    *,
    import_memory: bool = False,
) -> WasmModule:
    """Links (name, wasm object) pairs; the names appear in messages only.

    `entries`: the functions to export. `import_memory`: the memory comes from outside, as
    env.memory. Raises LinkError with all problems found.
    """
    parsed = [_parse(name, data) for name, data in objects]
    linker = _Linker(parsed)
    linker.place_data()
    linker.define()
    linker.relocate()
    wanted = linker.find_entries(entries)
    stack = linker.deepest()
    if linker.problems:
        raise LinkError(linker.problems, hint=_hint(linker.problems))
    return linker.module(wanted, stack, import_memory)


def with_shared_memory(code: bytes, max_pages: int) -> bytes:
    """The same module for threads: the memory that it imports is shared, of `max_pages` of 64 KiB
    at the most. Raises LinkError for a module that does not import its memory."""
    low = imported_pages(code)
    shared = bytes([_SHARED]) + _leb(low) + _leb(max(low, max_pages))
    out = bytearray(MAGIC)
    for section, content in _sections(code):
        made = _vector([_MEMORY_IMPORT + shared]) if section == _IMPORT else content
        out += _raw_section(section, made)
    return bytes(out)


def imported_pages(code: bytes) -> int:
    """How many pages of 64 KiB the memory must have that a module imports. Raises LinkError if it
    imports something else, or its memory is shared."""
    for section, content in _sections(code):
        if section == _IMPORT and content.startswith(b"\1" + _MEMORY_IMPORT + b"\0"):
            return _Reader(content, 2 + len(_MEMORY_IMPORT)).unsigned()
    raise LinkError(["expected a module that imports a memory that is not shared, and that only"])


def with_custom_section(code: bytes, name: str, content: bytes) -> bytes:
    """The module with a custom section at its end, which engines keep and do not read."""
    return code + _raw_section(_CUSTOM, _name(name) + content)


def custom_section(code: bytes, name: str) -> bytes | None:
    """The content of the first custom section of this name. Raises LinkError for what is not a
    module, or a damaged one."""
    for section, content in _sections(code):
        if section == _CUSTOM:
            r = _Reader(content)
            try:
                found = r.text() == name
            except (_Malformed, UnicodeDecodeError) as error:
                raise LinkError([f"a malformed custom section ({error})"]) from error
            if found:
                return r.data[r.at : r.end]
    return None


def _sections(code: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, content) of the sections of a module."""
    if code[: len(MAGIC)] != MAGIC:
        raise LinkError(["not a WebAssembly module of version 1"])
    reader = _Reader(code, len(MAGIC))
    try:
        while reader.at < reader.end:
            section, inner = reader.byte(), reader.inner()
            yield section, inner.data[inner.at : inner.end]
    except _Malformed as error:
        raise LinkError([f"a truncated or malformed module ({error})"]) from error


def _hint(problems: Sequence[str]) -> str | None:
    text = "\n".join(problems)
    if "undefined" in text:
        return "define it in the module, or emit an intrinsic that does not become a library call"
    return "keep constants read-only" if "writable" in text else None


# ---- reading ----


class _Malformed(Exception):
    pass


@dataclass(slots=True)
class _Reader:
    """A position in bytes."""

    data: bytes
    at: int = 0
    end: int = -1

    def __post_init__(self) -> None:
        self.end = len(self.data) if self.end < 0 else self.end

    def take(self, size: int) -> bytes:
        if self.at + size > self.end:
            raise _Malformed(f"{size} bytes at {self.at} reach past the end of a section")
        self.at += size
        return self.data[self.at - size : self.at]

    def byte(self) -> int:
        return self.take(1)[0]

    def unsigned(self) -> int:
        """LEB128."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise _Malformed(f"a number at {self.at} is too long")

    def signed(self) -> int:
        """LEB128 with a sign."""
        start = self.at
        value = self.unsigned()
        bits = 7 * (self.at - start)
        return value - (1 << bits) if value >> (bits - 1) & 1 else value

    def text(self) -> str:
        return self.take(self.unsigned()).decode()

    def inner(self) -> _Reader:
        """What follows with its length in front."""
        size = self.unsigned()
        start = self.at
        self.take(size)
        return _Reader(self.data, start, start + size)


@dataclass(slots=True)
class _Segment:
    """Initial contents of memory."""

    content: bytearray
    start: int  # of the content, within its section
    name: str = ""
    align: int = 1
    address: int = -1


@dataclass(frozen=True, slots=True)
class _Symbol:
    """`index`: of a function, global or table in the object's spaces; of a segment for data, where
    `offset` is the place in it."""

    kind: int
    name: str
    flags: int
    index: int
    offset: int = 0

    @property
    def undefined(self) -> bool:
        return bool(self.flags & _UNDEFINED)


@dataclass(frozen=True, slots=True)
class _Relocation:
    kind: int
    offset: int
    index: int
    addend: int


@dataclass(slots=True)
class _Object:
    name: str
    types: list[bytes] = field(default_factory=list[bytes])
    imports: dict[str, list[str]] = field(default_factory=lambda: {k: [] for k in _KINDS})
    functions: list[int] = field(default_factory=list[int])  # types of those defined here
    code: bytearray = field(default_factory=bytearray)  # contents of the section
    bodies: int = 0  # where in it the first body starts
    segments: list[_Segment] = field(default_factory=list[_Segment])
    symbols: list[_Symbol] = field(default_factory=list[_Symbol])
    relocations: dict[int, list[_Relocation]] = field(
        default_factory=dict[int, list[_Relocation]]
    )  # by section number
    sections: list[int] = field(default_factory=list[int])  # ids, in order
    first_function: int = 0  # in the module: its functions follow one another


def _parse(name: str, data: bytes) -> _Object:
    if data[: len(MAGIC)] != MAGIC:
        raise LinkError([f"{name}: not a WebAssembly object of version 1"])
    found = _Object(name)
    try:
        reader = _Reader(data, len(MAGIC))
        while reader.at < reader.end:
            section = reader.byte()
            found.sections.append(section)
            _read_section(found, section, reader.inner())
    except (_Malformed, UnicodeDecodeError, IndexError) as error:
        raise LinkError([f"{name}: a truncated or malformed object ({error})"]) from error
    if not found.symbols:
        raise LinkError([f"{name}: it has no symbols; expected an object, not a linked module"])
    return found


def _read_section(o: _Object, section: int, r: _Reader) -> None:
    start = r.at
    match section:
        case 0:
            _read_custom(o, r)
        case 1:
            o.types = [_read_type(r) for _ in range(r.unsigned())]
        case 2:
            for _ in range(r.unsigned()):
                _read_import(o, r)
        case 3:
            o.functions = [r.unsigned() for _ in range(r.unsigned())]
        case 10:
            o.code = bytearray(r.data[start : r.end])
            r.unsigned()
            o.bodies = r.at - start
        case 11:
            o.segments = [_read_segment(r, start) for _ in range(r.unsigned())]
        case 9 | 12:
            pass  # functions whose address is taken, by relocations too; the number of segments
        case _:
            raise _Malformed(f"section {section} is not expected in an object")


def _read_type(r: _Reader) -> bytes:
    start = r.at
    if r.byte() != 0x60:
        raise _Malformed(f"the type at {start} is not that of a function")
    for _ in range(2):
        r.take(r.unsigned())
    return r.data[start : r.at]


def _read_import(o: _Object, r: _Reader) -> None:
    r.text()
    name, kind = r.text(), r.byte()
    if kind >= len(_KINDS):
        raise _Malformed(f"import {name!r} is of an unknown kind {kind}")
    o.imports[_KINDS[kind]].append(name)
    if kind == 0:
        r.unsigned()
    elif kind == 3:
        r.take(2)
    else:
        if kind == 1:
            r.byte()
        flags = r.byte()
        for _ in range(2 if flags & 1 else 1):
            r.unsigned()


def _read_segment(r: _Reader, section: int) -> _Segment:
    flags = r.unsigned()
    if flags:
        raise _Malformed(f"a data segment has the flags {flags}, expected 0: active, in memory 0")
    if r.byte() != _I32_CONST:
        raise _Malformed("a data segment does not start at a constant")
    r.signed()
    r.byte()
    size = r.unsigned()
    start = r.at - section
    return _Segment(bytearray(r.take(size)), start)


def _read_custom(o: _Object, r: _Reader) -> None:
    name = r.text()
    if name == "linking":
        version = r.unsigned()
        if version != 2:
            raise _Malformed(f"linking data of version {version}, expected 2")
        while r.at < r.end:
            kind = r.byte()
            _read_linking(o, kind, r.inner())
    elif name.startswith("reloc."):
        section = r.unsigned()
        o.relocations[section] = [_read_relocation(r) for _ in range(r.unsigned())]


def _read_linking(o: _Object, kind: int, r: _Reader) -> None:
    if kind == 8:
        o.symbols = [_read_symbol(o, r) for _ in range(r.unsigned())]
    elif kind == 5:
        for segment in o.segments[: r.unsigned()]:
            segment.name, segment.align = r.text(), 1 << r.unsigned()
            r.unsigned()
    elif kind == 6 and r.unsigned():
        raise _Malformed("it has initialisers, which nobody would call")


def _read_symbol(o: _Object, r: _Reader) -> _Symbol:
    kind, flags = r.byte(), r.unsigned()
    defined = not flags & _UNDEFINED
    if kind == _SYMBOL_DATA:
        name = r.text()
        if not defined:
            return _Symbol(kind, name, flags, -1)
        index, offset = r.unsigned(), r.unsigned()
        r.unsigned()
        return _Symbol(kind, name, flags, index, offset)
    index = r.unsigned()
    if kind == _SYMBOL_SECTION:
        return _Symbol(kind, "", flags, index)
    if defined or flags & _EXPLICIT_NAME:
        return _Symbol(kind, r.text(), flags, index)
    spaces = {_SYMBOL_FUNCTION: "function", _SYMBOL_GLOBAL: "global", _SYMBOL_TABLE: "table"}
    if kind not in spaces:
        raise _Malformed(f"a symbol of an unknown kind {kind}")
    return _Symbol(kind, o.imports[spaces[kind]][index], flags, index)


# Relocations that have an addend; see "Relocation Sections" in Linking.md.
_WITH_ADDEND = {3, 4, 5, 8, 9, 11, 14, 15, 16, 17, 21, 22, 23, 25}


def _read_relocation(r: _Reader) -> _Relocation:
    kind, offset, index = r.byte(), r.unsigned(), r.unsigned()
    return _Relocation(kind, offset, index, r.signed() if kind in _WITH_ADDEND else 0)


# ---- linking ----


def _padded(value: int) -> bytes:
    """LEB128 in five bytes, as relocated numbers are stored."""
    value &= 0xFFFFFFFF
    return bytes((value >> 7 * i & 127) | (128 if i < 4 else 0) for i in range(5))


def _padded_signed(value: int) -> bytes:
    value &= (1 << 35) - 1 if value < 0 else 0xFFFFFFFF
    return bytes((value >> 7 * i & 127) | (128 if i < 4 else 0) for i in range(5))


def _word(value: int) -> bytes:
    return struct.pack("<I", value & 0xFFFFFFFF)


_Place = tuple[_Object, _Symbol]


@dataclass(slots=True)
class _Linker:
    objects: list[_Object]
    problems: list[str] = field(default_factory=list[str])
    types: dict[bytes, int] = field(default_factory=dict[bytes, int])
    defined: dict[str, _Place] = field(default_factory=dict[str, _Place])
    slots: dict[int, int] = field(default_factory=dict[int, int])  # function -> place in the table
    undefined: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    data_end: int = DATA_START

    def place_data(self) -> None:
        """Gives each segment its address; only read-only data is allowed."""
        for o in self.objects:
            for s in o.segments:
                if not s.name.startswith(".rodata"):
                    name, size = s.name or "a segment", len(s.content)
                    self.problems.append(f"{o.name}: {name} is writable data, {size} bytes")
                s.address = -(-self.data_end // s.align) * s.align
                self.data_end = s.address + len(s.content)

    def define(self) -> None:
        """Numbers types and functions; finds where each global symbol is defined."""
        count = 0
        strong: dict[str, str] = {}
        for o in self.objects:
            o.first_function = count
            count += len(o.functions)
            for t in o.types:
                self.types.setdefault(t, len(self.types))
            for s in o.symbols:
                linked = s.kind in (_SYMBOL_FUNCTION, _SYMBOL_DATA)
                if s.undefined or s.flags & _LOCAL or not linked:
                    continue
                if s.flags & _WEAK:
                    self.defined.setdefault(s.name, (o, s))
                elif s.name in strong:
                    self.problems.append(
                        f"'{s.name}' is defined by both {strong[s.name]} and {o.name}"
                    )
                else:
                    strong[s.name] = o.name
                    self.defined[s.name] = (o, s)

    def resolve(self, o: _Object, s: _Symbol) -> _Place | None:
        """The definition that a symbol stands for; None, and noted, when there is none."""
        if not s.flags & _LOCAL and s.name in self.defined:
            o, s = self.defined[s.name]
        if s.undefined:
            users = self.undefined.setdefault(s.name, [])
            if o.name not in users:
                users.append(o.name)
            return None
        return o, s

    def function(self, o: _Object, s: _Symbol) -> int:
        """The number of a function in the module."""
        found = self.resolve(o, s)
        if found is None:
            return 0
        owner, symbol = found
        return owner.first_function + symbol.index - len(owner.imports["function"])

    def address(self, o: _Object, s: _Symbol) -> int:
        """The address of data."""
        found = self.resolve(o, s)
        if found is None:
            return 0
        owner, symbol = found
        return owner.segments[symbol.index].address + symbol.offset

    def slot(self, o: _Object, s: _Symbol) -> int:
        """A function pointer: its place in the table, from 1."""
        return self.slots.setdefault(self.function(o, s), len(self.slots) + 1)

    def relocate(self) -> None:
        """Patches code and data."""
        for o in self.objects:
            for section, relocations in o.relocations.items():
                kind = o.sections[section] if section < len(o.sections) else _CUSTOM
                for r in relocations:
                    if kind == _CODE:
                        self.apply(o, r, o.code, r.offset)
                    elif kind == _DATA:
                        self.apply_to_data(o, r)
        for name, users in self.undefined.items():
            self.problems.append(f"'{name}' is undefined, used by {', '.join(users)}")

    def apply_to_data(self, o: _Object, r: _Relocation) -> None:
        for s in o.segments:
            if s.start <= r.offset < s.start + len(s.content):
                self.apply(o, r, s.content, r.offset - s.start)
                return
        self.problems.append(f"{o.name}: a relocation outside of the data")

    def apply(self, o: _Object, r: _Relocation, where: bytearray, at: int) -> None:
        patch = _PATCHES.get(r.kind)
        limit = len(o.types) if r.kind == 6 else len(o.symbols)
        if patch is None or r.index >= limit:
            what = f"relocation {r.kind} is not supported" if patch is None else "a bad relocation"
            self.problems.append(f"{o.name}: {what}")
            return
        made = patch(self, o, r)
        if at + len(made) > len(where):
            self.problems.append(f"{o.name}: a relocation reaches past the end of its section")
            return
        where[at : at + len(made)] = made

    def global_number(self, o: _Object, s: _Symbol) -> int:
        if s.name != "__stack_pointer":
            self.problems.append(f"{o.name}: the global variable '{s.name}' is undefined")
        return 0

    def find_entries(self, entries: Sequence[str]) -> list[tuple[str, int]]:
        """The functions to export, by name."""
        found: list[tuple[str, int]] = []
        for name in entries:
            place = self.defined.get(name)
            if place is None or place[1].kind != _SYMBOL_FUNCTION:
                self.problems.append(f"no object defines the entry '{name}'")
            else:
                found.append((name, self.function(*place)))
        return found

    def deepest(self) -> int:
        """Bytes of stack of the deepest chain of calls. A call through a pointer may reach every
        function that has a place in the table."""
        frames, calls = self.frames_and_calls()
        depths: dict[int, int] = {}

        def depth(function: int, chain: tuple[int, ...]) -> int:
            if function in chain:
                self.problems.append("functions call each other in a circle, without end or limit")
                return 0
            if function not in depths:
                inner = [depth(f, (*chain, function)) for f in sorted(calls[function])]
                depths[function] = frames[function] + max(inner, default=0)
            return depths[function]

        return max((depth(f, ()) for f in range(len(frames))), default=0)

    def frames_and_calls(self) -> tuple[list[int], list[set[int]]]:
        """Of each function: bytes of its frame, functions that it may call."""
        count = sum(len(o.functions) for o in self.objects)
        frames, calls = [0] * count, [set[int]() for _ in range(count)]
        for o in self.objects:
            bodies = _starts(o)
            for section, relocations in o.relocations.items():
                if section >= len(o.sections) or o.sections[section] != _CODE:
                    continue
                for r in relocations:
                    here = o.first_function + bisect_right(bodies, r.offset) - 1
                    if r.kind == 0:
                        calls[here].add(self.function(o, o.symbols[r.index]))
                    elif r.kind == 6:
                        calls[here] |= set(self.slots) - {here}
                    elif r.kind == 7:
                        frame = _frame(o.code, r.offset)
                        if frame is None:
                            self.problems.append(
                                f"{o.name}: a function takes stack, unknown how much"
                            )
                        frames[here] += frame or 0
        return frames, calls

    def module(self, entries: list[tuple[str, int]], stack: int, import_memory: bool) -> WasmModule:
        """The bytes of the module."""
        bottom = -(-self.data_end // STACK_ALIGN) * STACK_ALIGN
        top = bottom + -(-stack // STACK_ALIGN) * STACK_ALIGN  # it grows down, to the data's end
        pages = -(-top // PAGE)
        table = any(TABLE in o.imports["table"] for o in self.objects) or bool(self.slots)
        exports = [_name(n) + b"\0" + _leb(f) for n, f in entries]
        exports.append(_name("__stack_pointer") + b"\3" + _leb(0))
        exports.append(_name("__heap_base") + b"\3" + _leb(1))
        exports.append(_name("__stack_low") + b"\3" + _leb(2))
        if not import_memory:
            exports.append(_name("memory") + b"\2" + _leb(0))
        if table:
            exports.append(_name(TABLE) + b"\1" + _leb(0))
        functions = [_leb(self.types[o.types[t]]) for o in self.objects for t in o.functions]
        limits = b"\0" + _leb(pages)
        memory = [_MEMORY_IMPORT + limits] if import_memory else []
        globals_ = [
            bytes([_I32, k == 0]) + _constant(at) for k, at in enumerate((top, top, bottom))
        ]
        in_order = sorted(self.slots, key=lambda f: self.slots[f])
        elements = [b"\0" + _constant(1) + _vector([_leb(f) for f in in_order])] if in_order else []
        bodies = b"".join(bytes(o.code[o.bodies :]) for o in self.objects)
        data = [
            b"\0" + _constant(s.address) + _leb(len(s.content)) + bytes(s.content)
            for o in self.objects
            for s in o.segments
        ]
        sections = [
            _section(_TYPE, list(self.types)),
            _section(_IMPORT, memory),
            _section(_FUNCTION, functions),
            _section(_TABLE, [bytes([_FUNCREF, 0]) + _leb(len(self.slots) + 1)] if table else []),
            _section(_MEMORY, [] if import_memory else [limits]),
            _section(_GLOBAL, globals_),
            _section(_EXPORT, exports),
            _section(_ELEMENT, elements),
            _raw_section(_CODE, _leb(len(functions)) + bodies),
            _section(_DATA, data),
        ]
        return WasmModule(MAGIC + b"".join(sections), top, pages, top - bottom)


def _starts(o: _Object) -> list[int]:
    """Where in the code section each body starts."""
    found: list[int] = []
    r = _Reader(bytes(o.code), o.bodies)
    for _ in o.functions:
        found.append(r.at)
        r.inner()
    return found


_GLOBAL_GET, _LOCAL_GET, _LOCAL_SET, _LOCAL_TEE = 0x23, 0x20, 0x21, 0x22
_DROP, _I32_SUB, _I32_AND = 0x1A, 0x6B, 0x71


def _frame(code: bytearray, at: int) -> int | None:
    """Bytes that a function takes from the stack. LLVM starts one that has a frame with

        global.get __stack_pointer; i32.const size; i32.sub; (i32.const -align; i32.and)?

    and moves of locals in between; `at` is the place of that operand. 0 for the operand of another
    instruction, None where the code looks different."""
    if code[at - 1] != _GLOBAL_GET:
        return 0
    r = _Reader(bytes(code[at + 5 : at + 60]))
    try:
        size = _constant_before(r, _I32_SUB)
        if size is None or size <= 0:
            return None
        align = _constant_before(r, _I32_AND)
    except _Malformed:  # the code ends here
        return None
    return size - (align or 0)


def _constant_before(r: _Reader, operation: int) -> int | None:
    """The constant that is an operation's second operand, if that comes next."""
    found = r.byte()
    while found in (_LOCAL_GET, _LOCAL_SET, _LOCAL_TEE, _DROP):
        if found != _DROP:
            r.unsigned()
        found = r.byte()
    value = r.signed() if found == _I32_CONST else None
    return value if value is not None and r.byte() == operation else None


_Patch = Callable[["_Linker", _Object, _Relocation], bytes]
_PATCHES: dict[int, _Patch] = {
    0: lambda k, o, r: _padded(k.function(o, o.symbols[r.index])),  # FUNCTION_INDEX_LEB
    1: lambda k, o, r: _padded_signed(k.slot(o, o.symbols[r.index])),  # TABLE_INDEX_SLEB
    2: lambda k, o, r: _word(k.slot(o, o.symbols[r.index])),  # TABLE_INDEX_I32
    3: lambda k, o, r: _padded(k.address(o, o.symbols[r.index]) + r.addend),  # MEMORY_ADDR_LEB
    4: lambda k, o, r: _padded_signed(k.address(o, o.symbols[r.index]) + r.addend),  # …_SLEB
    5: lambda k, o, r: _word(k.address(o, o.symbols[r.index]) + r.addend),  # MEMORY_ADDR_I32
    6: lambda k, o, r: _padded(k.types[o.types[r.index]]),  # TYPE_INDEX_LEB
    7: lambda k, o, r: _padded(k.global_number(o, o.symbols[r.index])),  # GLOBAL_INDEX_LEB
    20: lambda k, o, r: _padded(0),  # TABLE_NUMBER_LEB: there is one
}


# ---- writing ----


def _leb(value: int) -> bytes:
    out = bytearray()
    while True:
        byte, value = value & 127, value >> 7
        out.append(byte | (128 if value else 0))
        if not value:
            return bytes(out)


def _constant(value: int) -> bytes:
    """The expression `i32.const value`, value >= 0."""
    encoded = bytearray(_leb(value))
    if encoded[-1] & 0x40:  # would be read as a sign
        encoded[-1] |= 128
        encoded.append(0)
    return bytes([_I32_CONST, *encoded, _END])


def _name(text: str) -> bytes:
    return _leb(len(text.encode())) + text.encode()


def _vector(items: Sequence[bytes]) -> bytes:
    return _leb(len(items)) + b"".join(items)


_MEMORY_IMPORT = _name("env") + _name("memory") + bytes([_KINDS.index("memory")])


def _raw_section(number: int, content: bytes) -> bytes:
    return bytes([number]) + _leb(len(content)) + content


def _section(number: int, items: Sequence[bytes]) -> bytes:
    """A section that is a vector; nothing when that is empty."""
    return _raw_section(number, _vector(items)) if items else b""
