"""The opcodes of a pickle, followed without doing what they say.

The stack machine runs over stand-ins: texts, small numbers and tuples are kept, since names, and
the sizes of joblib's arrays, are made of them; everything else is one stand-in. So what
STACK_GLOBAL asks for is known also where the name came out of the memo, and the bytes that joblib
puts between opcodes are passed over. Anything that the file computes otherwise is reported as such.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from naru.errors import ModelError

MOST_OPCODES = 5_000_000
MOST_IMPORTS = 10_000  # different ones
MOST_STACK = 500_000  # values on the stack, and in the memo
MOST_LINE = 1 << 16  # bytes of a line that is a name or a number
MOST_TEXT = 1024  # bytes of a text that is kept: a longer one is no name
MOST_ITEMS = 64  # of a container that are kept
MOST_DEPTH = 20  # pickles within arrays of pickles
WRAPPER = ("joblib.numpy_pickle", "NumpyArrayWrapper")
WRAPPER_KEYS = frozenset(
    ("subclass", "shape", "order", "dtype", "allow_mmap", "numpy_array_alignment_bytes")
)
HAS_OBJECT = 1  # the flag of a dtype that holds Python objects


class Source(Protocol):
    """Bytes that are read forward, up to a limit; all raise ModelError beyond it."""

    def read(self, count: int) -> bytes: ...
    def skip(self, count: int) -> None: ...
    def line(self, keep: int) -> tuple[bytes, int]:
        """The beginning of a line, without its end, and how many bytes it has with that."""
        ...


class _Other:
    """Stands for a value that nothing is asked of."""


OTHER = _Other()


LIST = _Other()


class _Mark:
    """A MARK on the stack."""


MARK = _Mark()


@dataclass(frozen=True)
class Import:
    """A global that a pickle asks for, by the names that the file has."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass
class Made:
    """What calling a global gave, with its arguments and its state where they are small."""

    what: object
    arguments: object = None
    state: object = None
    called: bool = True  # not made without a call, by NEWOBJ
    built: int = 0  # how often


class _Dict(dict[object, object]):
    """A dict of texts; `odd` where something was put there that it does not show."""

    odd = False


@dataclass
class Scan:
    """What was found so far, over all pickles of a file."""

    imports: dict[Import, None] = field(default_factory=dict[Import, None])
    called: dict[Import, None] = field(default_factory=dict[Import, None])
    opcodes: int = 0
    protocol: int = 0
    unresolved: int = 0
    joblib: bool = False
    holds: str | None = None  # what the first pickle makes, in words


_CODES = {o.code.encode("latin-1"): o for o in pickletools.opcodes}
_SIZES = {
    pickletools.TAKEN_FROM_ARGUMENT1: (1, False),
    pickletools.TAKEN_FROM_ARGUMENT4: (4, True),
    pickletools.TAKEN_FROM_ARGUMENT4U: (4, False),
    pickletools.TAKEN_FROM_ARGUMENT8U: (8, False),
}
_TEXTS = frozenset(
    ("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING",
     "SHORT_BINSTRING")
)  # fmt: skip
_LINES = frozenset(("GLOBAL", "INST"))
_NUMBERS = frozenset(("BININT", "BININT1", "BININT2", "LONG1", "INT", "LONG"))


def scan(source: Source, found: Scan, depth: int = 0) -> None:
    """Follows one pickle up to its STOP. ModelError where it is none, cut short, or too large."""
    if depth > MOST_DEPTH:
        raise ModelError(f"pickles are nested more than {MOST_DEPTH} deep")
    machine = _Machine(source, found, depth)
    while machine.step():
        pass


class _Machine:
    """One pickle's stack and memo."""

    def __init__(self, source: Source, found: Scan, depth: int) -> None:
        self.source, self.found, self.depth = source, found, depth
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}
        self.at = 0
        self.frame: int | None = None  # where it ends

    def step(self) -> bool:
        """One opcode; False after STOP."""
        found = self.found
        found.opcodes += 1
        if found.opcodes > MOST_OPCODES:
            raise ModelError(f"it has more than {MOST_OPCODES} opcodes")
        self.leave_frame()
        code = self.source.read(1)
        self.at += len(code)
        op = _CODES.get(code)
        if op is None:
            what = "it ends before its STOP" if not code else f"{code!r} is no opcode"
            raise ModelError(f"expected a pickle: {what}", hint="it may be damaged or cut short")
        argument = self.argument(op)
        name = op.name
        if name == "STOP":
            self.leave_frame()
            if self.frame is not None:
                raise ModelError("expected a pickle: a frame goes on behind its STOP")
            if found.holds is None and self.depth == 0 and self.stack:
                found.holds = _in_words(self.stack[-1])
            return False
        handler = _HANDLERS.get(name)
        if handler is not None:
            handler(self, argument)
        else:
            self.plain(op, argument)
        if len(self.stack) > MOST_STACK or len(self.memo) > MOST_STACK:
            raise ModelError(f"it needs a stack of more than {MOST_STACK} values")
        return True

    # --- arguments --------------------------------------------------------------------------------

    def exactly(self, count: int) -> bytes:
        data = self.source.read(count)
        if len(data) != count:
            raise ModelError("expected a pickle: it ends within an opcode", hint="it is cut short")
        self.at += count
        return data

    def skip(self, count: int) -> None:
        self.source.skip(count)
        self.at += count

    def leave_frame(self) -> None:
        """The end of a frame lies between opcodes: readers differ in what they do elsewhere."""
        if self.frame is not None and self.at >= self.frame:
            if self.at > self.frame:
                raise ModelError("expected a pickle: a frame ends within an opcode")
            self.frame = None

    def line(self, whole: bool = True) -> str:
        """A line of text. ModelError where it is long; not `whole`: only the beginning of one."""
        data, size = self.source.line(MOST_LINE if whole else MOST_TEXT + 1)
        if whole and size > MOST_LINE:
            raise ModelError(f"it has a name or number of more than {MOST_LINE} bytes")
        self.at += size
        return data.decode("utf-8", "replace")

    def argument(self, op: Any) -> object:
        """The argument of an opcode: a text, a number, or OTHER."""
        kind = op.arg
        if kind is None:
            return None
        if op.name in _LINES:
            return self.line(), self.line()
        if kind.n == pickletools.UP_TO_NEWLINE:
            return self.from_line(op.name, self.line(op.name not in _TEXTS))
        if kind.n >= 0:
            data = self.exactly(kind.n)
            if op.name == "BINFLOAT":
                return OTHER
            return int.from_bytes(data, "little", signed=op.name == "BININT")
        width, signed = _SIZES[kind.n]
        size = int.from_bytes(self.exactly(width), "little", signed=signed)
        if size < 0:
            raise ModelError("expected a pickle: an argument has a negative length")
        if size > MOST_TEXT or not (op.name in _TEXTS or op.name == "LONG1"):
            self.skip(size)
            return OTHER
        data = self.exactly(size)
        if op.name == "LONG1":
            return int.from_bytes(data, "little", signed=True)
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:  # unpickling fails, or decodes it by another table
            return OTHER

    def from_line(self, name: str, text: str) -> object:
        """INT, LONG, FLOAT, STRING, UNICODE, PERSID, GET and PUT of protocol 0."""
        if name in ("GET", "PUT"):
            if not re.fullmatch(r"[0-9]{1,9}", text):
                raise ModelError(f"expected a pickle: {text[:40]!r} is no place of its memo")
            return int(text)
        if len(text) > MOST_TEXT:
            return OTHER
        if name == "UNICODE":
            return _escaped(text)
        if name == "STRING":
            return text[1:-1] if re.fullmatch(r"'[^'\\]*'|\"[^\"\\]*\"", text) else OTHER
        if name in ("INT", "LONG"):
            digits = text.removesuffix("L")
            return int(digits) if re.fullmatch(r"-?[0-9]{1,18}", digits) else OTHER
        return OTHER

    # --- the stack --------------------------------------------------------------------------------

    def pop(self) -> object:
        if not self.stack:
            raise ModelError("expected a pickle: it takes from an empty stack")
        return self.stack.pop()

    def to_mark(self) -> list[object]:
        """What lies above the last MARK."""
        items: list[object] = []
        while (item := self.pop()) is not MARK:
            items.append(item)
        return items[::-1]

    def plain(self, op: Any, argument: object) -> None:
        """Opcodes that only push and pop."""
        before, after = op.stack_before, op.stack_after
        if pickletools.markobject in before:
            self.to_mark()
            below = before.index(pickletools.markobject)
        else:
            below = len(before)
        for _ in range(below):
            self.pop()
        if len(after) == 1:
            keep = op.name in _TEXTS or op.name in _NUMBERS
            self.stack.append(argument if keep else OTHER)
        else:
            self.stack += [OTHER] * len(after)

    def ask(self, module: object, name: object) -> object:
        """An import."""
        if not isinstance(module, str) or not isinstance(name, str):
            self.found.unresolved += 1
            return OTHER
        made = Import(module, name)
        if made not in self.found.imports:
            if len(self.found.imports) >= MOST_IMPORTS:
                raise ModelError(f"it imports more than {MOST_IMPORTS} names")
            self.found.imports[made] = None
        return made

    # --- joblib's arrays --------------------------------------------------------------------------

    def built(self, made: object, state: object) -> None:
        """BUILD: behind joblib's wrapper of an array, the array's bytes lie in the file."""
        if not isinstance(made, Made):
            return
        made.state = state
        made.built += 1
        if _class_made(made) != WRAPPER:
            return
        self.found.joblib = True
        self.leave_frame()
        if self.frame is not None:
            raise ModelError("joblib: an array lies within a frame")
        fields = _fields(made)
        self.stack[-1] = OTHER  # the array, in place of its wrapper
        size, objects = _item_size(fields.get("dtype"))
        if objects:
            scan(self.source, self.found, self.depth + 1)
            return
        shape = fields.get("shape")
        sizes = cast("tuple[object, ...]", shape) if isinstance(shape, tuple) else None
        if sizes is None or not all(type(n) is int and n >= 0 for n in sizes):
            raise ModelError("joblib: the shape of an array cannot be told")
        if fields.get("numpy_array_alignment_bytes") is not None:
            self.skip(self.exactly(1)[0])
        self.skip(math.prod(cast("tuple[int, ...]", sizes)) * size)


def _fields(made: Made) -> dict[object, object]:
    """The state of joblib's wrapper, which decides what is read. ModelError for one that joblib
    does not write."""
    state = made.state
    if made.called or made.built > 1 or not isinstance(state, _Dict) or state.odd:
        raise ModelError("joblib: the state of an array cannot be told")
    alignment = state.get("numpy_array_alignment_bytes")
    if not state.keys() <= WRAPPER_KEYS or not (alignment is None or type(alignment) is int):
        raise ModelError("joblib: the state of an array is not as joblib writes it")
    return state


def _in_words(value: object) -> str | None:
    """What a stand-in stands for, where it is no object of a class."""
    kinds = ((dict, "a dict"), (tuple, "a tuple"), (str, "a text"), (int, "a number"))
    if value is None or value is LIST:
        return "None" if value is None else "a list"
    return next((word for kind, word in kinds if isinstance(value, kind)), None)


def _class_made(made: Made) -> tuple[str, str] | None:
    """The class of an object, which protocols 0 and 1 have as an argument of a function."""
    what = made.what
    if isinstance(what, Import) and what.name == "_reconstructor":
        what = _first(made.arguments)
    return (what.module, what.name) if isinstance(what, Import) else None


def _first(arguments: object) -> object:
    """The first of a tuple of arguments."""
    if not isinstance(arguments, tuple):
        return None
    return next(iter(cast("tuple[object, ...]", arguments)), None)


def _escaped(text: str) -> object:
    try:
        return text.encode("ascii").decode("raw-unicode-escape")
    except UnicodeError:
        return OTHER


_WIDTHS = {"U": 4, "S": 1, "V": 1, "a": 1}


def _item_size(dtype: object) -> tuple[int, bool]:
    """(bytes of an element, does it hold Python objects) of a numpy.dtype as pickles make it."""
    made = dtype if isinstance(dtype, Made) and dtype.what == Import("numpy", "dtype") else None
    text = _first(made.arguments) if made else None
    match = re.fullmatch(
        r"[<>=|]?([?bBiufcmMOSUVa])([0-9]{0,9})", text if isinstance(text, str) else ""
    )
    if match is None or made is None or made.built > 1:
        raise ModelError("joblib: the dtype of an array cannot be told")
    kind, digits = match.groups()
    size = int(digits or 1) * _WIDTHS.get(kind, 1)
    if made.state is None:
        return (0, True) if kind == "O" else (size, False)
    # (version, order of bytes, …, size, alignment, flags)
    state = made.state
    parts = cast("tuple[object, ...]", state) if isinstance(state, tuple) else ()
    items, flags = (parts[5], parts[7]) if len(parts) > 7 else (None, None)
    objects = type(flags) is int and bool(flags & HAS_OBJECT)
    if type(flags) is not int or items not in (-1, size) or (objects and kind not in "OV"):
        raise ModelError("joblib: the dtype of an array cannot be told")
    if kind == "O" and not objects:
        raise ModelError("joblib: the dtype of an array cannot be told")
    return (0, True) if objects else (size, False)


# --- opcodes that matter --------------------------------------------------------------------------


def _proto(m: _Machine, argument: object) -> None:
    if isinstance(argument, int):
        m.found.protocol = max(m.found.protocol, argument)


def _frame(m: _Machine, argument: object) -> None:
    m.leave_frame()
    if m.frame is not None:
        raise ModelError("expected a pickle: a frame begins within another")
    m.frame = m.at + cast(int, argument)


def _nothing(m: _Machine, argument: object) -> None:
    pass


def _mark(m: _Machine, argument: object) -> None:
    m.stack.append(MARK)


def _pop(m: _Machine, argument: object) -> None:
    m.pop()


def _pop_mark(m: _Machine, argument: object) -> None:
    m.to_mark()


def _dup(m: _Machine, argument: object) -> None:
    top = m.pop()
    m.stack += [top, top]


def _put(m: _Machine, argument: object) -> None:
    if not m.stack:
        raise ModelError("expected a pickle: it remembers from an empty stack")
    if isinstance(argument, int):
        m.memo[argument] = m.stack[-1]


def _memoize(m: _Machine, argument: object) -> None:
    _put(m, len(m.memo))


def _get(m: _Machine, argument: object) -> None:
    m.stack.append(m.memo.get(argument, OTHER) if isinstance(argument, int) else OTHER)


def _none(m: _Machine, argument: object) -> None:
    m.stack.append(None)


def _tuple(m: _Machine, argument: object) -> None:
    items = m.to_mark()
    m.stack.append(tuple(items) if len(items) <= MOST_ITEMS else OTHER)


def _tuple_of(count: int) -> Callable[[_Machine, object], None]:
    def make(m: _Machine, argument: object) -> None:
        items = [m.pop() for _ in range(count)][::-1]
        m.stack.append(tuple(_shallow(v) for v in items))

    return make


def _shallow(value: object) -> object:
    """A value without what lies deep in it: tuples in tuples could grow without an end."""
    if isinstance(value, tuple):
        parts = cast("tuple[object, ...]", value)
        return tuple(OTHER if isinstance(v, tuple | dict) else v for v in parts)
    return value


def _empty_tuple(m: _Machine, argument: object) -> None:
    m.stack.append(())


def _empty_dict(m: _Machine, argument: object) -> None:
    m.stack.append(_Dict())


def _dict(m: _Machine, argument: object) -> None:
    items = m.to_mark()
    made = _Dict()
    _fill(made, items)
    m.stack.append(made)


def _set_item(m: _Machine, argument: object) -> None:
    value, key = m.pop(), m.pop()
    _fill(m.stack[-1] if m.stack else None, [key, value])


def _set_items(m: _Machine, argument: object) -> None:
    items = m.to_mark()
    _fill(m.stack[-1] if m.stack else None, items)


def _fill(target: object, items: list[object]) -> None:
    """The texts among the keys of a dict, while there are few."""
    if not isinstance(target, _Dict):
        return
    for key, value in zip(items[::2], items[1::2], strict=False):
        if isinstance(key, str) and key not in target and len(target) < MOST_ITEMS:
            target[key] = OTHER if isinstance(value, dict) else value
        else:
            target.odd = True


def _empty_list(m: _Machine, argument: object) -> None:
    m.stack.append(LIST)


def _list(m: _Machine, argument: object) -> None:
    m.to_mark()
    m.stack.append(LIST)


def _append(m: _Machine, argument: object) -> None:
    m.pop()


def _global(m: _Machine, argument: object) -> None:
    module, name = cast("tuple[str, str]", argument)
    m.stack.append(m.ask(module, name))


def _stack_global(m: _Machine, argument: object) -> None:
    name, module = m.pop(), m.pop()
    m.stack.append(m.ask(module, name))


def _inst(m: _Machine, argument: object) -> None:
    m.to_mark()
    module, name = cast("tuple[str, str]", argument)
    _call(m, m.ask(module, name), None)


def _obj(m: _Machine, argument: object) -> None:
    items = m.to_mark()
    _call(m, items[0] if items else OTHER, None)


def _call(m: _Machine, what: object, arguments: object) -> None:
    if isinstance(what, Import):
        m.found.called[what] = None
    else:  # something that a call gave is called, or what a container hides
        m.found.unresolved += 1
    made = Made(what if isinstance(what, Import) else OTHER, arguments)
    made.called = not (isinstance(what, Import) and what.name == "_reconstructor")
    m.stack.append(made)


def _extension(m: _Machine, argument: object) -> None:
    """A number of copyreg's table, which only a running program knows."""
    m.found.unresolved += 1
    m.stack.append(OTHER)


def _reduce(m: _Machine, argument: object) -> None:
    arguments, what = m.pop(), m.pop()
    _call(m, what, _shallow(arguments))


def _new_object(m: _Machine, argument: object) -> None:
    arguments, what = m.pop(), m.pop()
    made = Made(what if isinstance(what, Import) else OTHER, _shallow(arguments), called=False)
    m.stack.append(made)


def _new_object_with_keywords(m: _Machine, argument: object) -> None:
    m.pop()
    _new_object(m, argument)


def _build(m: _Machine, argument: object) -> None:
    state = m.pop()
    if not m.stack:
        raise ModelError("expected a pickle: it builds on an empty stack")
    m.built(m.stack[-1], _shallow(state))


_HANDLERS: dict[str, Callable[[_Machine, object], None]] = {
    "PROTO": _proto, "FRAME": _frame, "MARK": _mark, "POP": _pop, "POP_MARK": _pop_mark,
    "DUP": _dup, "PUT": _put, "BINPUT": _put, "LONG_BINPUT": _put, "MEMOIZE": _memoize,
    "GET": _get, "BINGET": _get, "LONG_BINGET": _get, "NONE": _none, "TUPLE": _tuple,
    "TUPLE1": _tuple_of(1), "TUPLE2": _tuple_of(2), "TUPLE3": _tuple_of(3),
    "EMPTY_TUPLE": _empty_tuple, "EMPTY_DICT": _empty_dict, "DICT": _dict, "SETITEM": _set_item,
    "SETITEMS": _set_items, "APPEND": _append, "GLOBAL": _global, "STACK_GLOBAL": _stack_global,
    "INST": _inst, "OBJ": _obj, "EXT1": _extension, "EXT2": _extension, "EXT4": _extension,
    "REDUCE": _reduce, "NEWOBJ": _new_object, "NEWOBJ_EX": _new_object_with_keywords,
    "BUILD": _build,
    "EMPTY_LIST": _empty_list, "LIST": _list, "READONLY_BUFFER": _nothing,
    "APPENDS": _pop_mark, "ADDITEMS": _pop_mark,
}  # fmt: skip
