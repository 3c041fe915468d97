"""Text of names, types and expressions: the part that all three text forms share.

The text is Python syntax and `ast` is the parser. A bare number takes the dtype that its place asks
for: that of the other operand, `index` in a subscript or a dim, the buffer's in a store. Elsewhere
a whole number is an `index`, a fraction f32, and any constant may be written out: `f32(1.5)`.

    a + b  a - b  a * b  a / b  a // b  a % b  a ** b  -a   min(a, b)  max(a, b)
    a & b  a | b  a ^ b  a << b  a >> b  ~a   (bool: a and b, a or b, a ^ b, not a)
    a < b  a <= b  a == b  a != b  a > b  a >= b   select(cond, a, b)
    exp(x) … isnan(x) bits(x)   f32(x), bool(x), … a cast   cast(1, f32) a cast of a constant
    x[i, j]   x[i, j:j + 16] a tile   load(x[i, j:j + 16], mask)
    splat(x, 16)  splat(x, 4, 16), column(x, 4, 16): a tile as every row, as every column
    lanes(16)  reduce_add(x)  fma(a, b, c)  dot(a, b, c)
    transposed(x)  interleaved(a, b)
    (t := a * b) + t     shares a large operand; `t` holds until the end of the statement
"""

from __future__ import annotations

import ast
import keyword
import math
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol, TypeAlias

from naru.dtypes import DTYPES, is_float
from naru.errors import IRError
from naru.ir.expr import (
    CALLS,
    UNARY,
    Binary,
    Call,
    Cast,
    Const,
    Expr,
    Lanes,
    Load,
    Read,
    Reduce,
    Select,
    Splat,
    Unary,
    Var,
    children,
    walk,
    with_children,
)
from naru.ir.loop import Buffer
from naru.ir.simplify import known, normal, sub
from naru.ir.tensor import Tensor

REDUCTIONS = ("add", "mul", "min", "max", "larger", "and", "or")
CALLED = ("min", "max", "larger", "dot2", "dot4")  # printed as calls
# Names with a meaning of their own: a variable that is called so is printed as name_1.
RESERVED = frozenset(
    {
        *keyword.kwlist, *DTYPES, *UNARY, *CALLS, *CALLED, "select", "splat", "column",
        "lanes", "load", "store", "cast", "inf", "nan", "range", "parallel", "unroll", "get",
        "constant", "block",
        *(f"reduce_{op}" for op in REDUCTIONS),
    }
)  # fmt: skip
# Symbol, precedence, and what the left and right operand must at least have, as in Python.
OPERATORS: Mapping[str, tuple[str, int, int, int]] = {
    "or": ("|", 5, 5, 6), "xor": ("^", 6, 6, 7), "and": ("&", 7, 7, 8),
    "shl": ("<<", 8, 8, 9), "shr": (">>", 8, 8, 9),
    "add": ("+", 9, 9, 10), "sub": ("-", 9, 9, 10),
    "mul": ("*", 10, 10, 11), "div": ("/", 10, 10, 11),
    "floordiv": ("//", 10, 10, 11), "mod": ("%", 10, 10, 11), "pow": ("**", 12, 13, 11),
    "lt": ("<", 4, 5, 5), "le": ("<=", 4, 5, 5), "eq": ("==", 4, 5, 5),
    "ne": ("!=", 4, 5, 5), "gt": (">", 4, 5, 5), "ge": (">=", 4, 5, 5),
}  # fmt: skip
LOGICAL = {"or": ("or", 1, 1, 2), "and": ("and", 2, 2, 3)}  # of bool operands
UNARY_LEVEL, ATOM_LEVEL, NOT_LEVEL = 11, 13, 3
# An expression of more nodes than this, written out as a tree, names its shared parts.
LARGE = 1000

Piece: TypeAlias = "str | tuple[Expr, str | None, int]"
Named: TypeAlias = "Var | Buffer | Tensor | Expr"


def identifier(name: str) -> str:
    """name as a Python identifier: other characters become `_`."""
    text = re.sub(r"\W", "_", name) or "_"
    return f"_{text}" if text[0].isdigit() else text


def word(name: str) -> str:
    """A name as Python allows it: `and_` for a word of the language."""
    return f"{name}_" if keyword.iskeyword(name) else name


def unword(name: str) -> str:
    """The reverse of `word`."""
    return name[:-1] if name.endswith("_") and keyword.iskeyword(name[:-1]) else name


class Names:
    """One printed name for each object: its own, or the first free one of name_1, name_2, …"""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._of: dict[object, str] = {}
        self._used = {*RESERVED, *taken}
        self._next: dict[str, int] = {}
        self._order: list[tuple[object, str, str]] = []

    def declare(self, thing: object, wanted: str) -> str:
        """Gives the thing a name of its own."""
        base = name = identifier(wanted)
        k = self._next.get(base, 1)
        while name in self._used:
            name, k = f"{base}_{k}", k + 1
        self._next[base] = k
        self._used.add(name)
        self._of[thing] = name
        self._order.append((thing, name, base))
        return name

    def has(self, thing: object) -> bool:
        """Has it a name now?"""
        return thing in self._of

    def get(self, thing: Any) -> str:
        """The thing's name; one that nobody declared gets one on the spot."""
        found = self._of.get(thing)
        return self.declare(thing, thing.name) if found is None else found

    @contextmanager
    def scope(self) -> Generator[None]:
        """Names declared inside are free again afterwards."""
        mark = len(self._order)
        yield
        while len(self._order) > mark:
            thing, name, base = self._order.pop()
            self._used.discard(name)
            self._of.pop(thing, None)
            self._next.pop(base, None)


def float_text(value: float) -> str:
    """repr, with inf and nan as names; Python reads it back to the same double."""
    return "-nan" if math.isnan(value) and math.copysign(1, value) < 0 else repr(float(value))


def literal(value: int | float | bool, dtype: str, want: str | None) -> str:
    """A constant, with its dtype spelled out unless the place implies it."""
    kind = DTYPES[dtype].kind if dtype in DTYPES else "i"
    if kind == "b":
        return str(bool(value))
    text = float_text(float(value)) if kind == "f" else str(int(value))
    return text if want == dtype or (want is None and dtype == "index") else f"{dtype}({text})"


def wants(args: Sequence[Expr], want: str | None) -> list[str | None]:
    """The dtype that each of some operands of one dtype is told to have. The first that is no
    constant is on its own; it decides for the rest."""
    first = next((k for k, a in enumerate(args) if not isinstance(a, Const)), 0)
    return [want if k == first else args[first].dtype for k in range(len(args))]


class ExprPrinter:
    """Prints expressions. Iterative: a chain of any depth is fine."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self._shared: set[Expr] = set()

    def text(self, e: Expr, want: str | None = None, level: int = 0) -> str:
        """e in a place that implies dtype `want` and binds as tightly as `level`."""
        return self.join([(e, want, level)])

    def join(self, pieces: Sequence[Piece]) -> str:
        """Pieces of text and expressions, put together."""
        out: list[str] = []
        stack = list(reversed(pieces))
        while stack:
            piece = stack.pop()
            if isinstance(piece, str):
                out.append(piece)
            else:
                stack.extend(reversed(self._pieces(*piece)))
        return "".join(out)

    @contextmanager
    def statement(self, *roots: Expr) -> Generator[None]:
        """Around the printing of one statement that consists of these expressions."""
        self._shared = shared_parts(roots)
        with self.names.scope():
            yield
        self._shared = set()

    def _pieces(self, e: Expr, want: str | None, level: int) -> list[Piece]:
        if e in self._shared:
            if self.names.has(e):
                return [self.names.get(e)]
            self._shared.discard(e)
            inner = self._pieces(e, want, 0)
            self._shared.add(e)
            return [f"({self.names.declare(e, 't')} := ", *inner, ")"]
        own, pieces = self._node(e, want)
        return ["(", *pieces, ")"] if own < level else pieces

    def _node(self, e: Expr, want: str | None) -> tuple[int, list[Piece]]:
        """Precedence and text of a node."""
        match e:
            case Const():
                text = literal(e.value, e.dtype, want)
                return (UNARY_LEVEL if text[0] == "-" else ATOM_LEVEL), [text]
            case Var():
                return ATOM_LEVEL, [self.names.get(e)]
            case Unary():
                return self._unary(e, want)
            case Binary():
                return self._binary(e, want)
            case Select():
                a, b = wants((e.a, e.b), want)
                return self._call("select", [(e.cond, None, 0), (e.a, a, 0), (e.b, b, 0)])
            case Cast() if isinstance(e.x, Const):
                return self._call("cast", [(e.x, None, 0), e.dtype])
            case Cast():
                return self._call(e.dtype, [(e.x, None, 0)])
            case Read():
                return ATOM_LEVEL, self.access(e.tensor, e.index, ())
            case Load() if e.mask is not None:
                whole = self.access(e.buffer, e.index, e.tile)
                return ATOM_LEVEL, ["load(", *whole, ", ", (e.mask, None, 0), ")"]
            case Load():
                return ATOM_LEVEL, self.access(e.buffer, e.index, e.tile)
            case Splat():
                fn = "splat" if e.axis else "column"
                return self._call(fn, [(e.x, want, 0), *map(str, e.shape)])
            case Lanes():
                return ATOM_LEVEL, [f"lanes({e.n})"]
            case Reduce():
                return self._call(f"reduce_{e.op}", [(e.x, want, 0)])
            case Call():
                dtypes = wants(e.args, want)
                return self._call(e.fn, [(a, w, 0) for a, w in zip(e.args, dtypes, strict=True)])

    def _call(self, fn: str, args: Sequence[Piece]) -> tuple[int, list[Piece]]:
        pieces: list[Piece] = [fn, "("]
        for k, a in enumerate(args):
            pieces += [", ", a] if k else [a]
        return ATOM_LEVEL, [*pieces, ")"]

    def _unary(self, e: Unary, want: str | None) -> tuple[int, list[Piece]]:
        if e.op == "neg" and not isinstance(e.x, Const):
            return UNARY_LEVEL, ["-", (e.x, want, UNARY_LEVEL)]
        if e.op == "not" and e.dtype == "bool":
            return NOT_LEVEL, ["not ", (e.x, want, NOT_LEVEL)]
        if e.op == "not":
            return UNARY_LEVEL, ["~", (e.x, want, UNARY_LEVEL)]
        return self._call(e.op, [(e.x, None if e.op in ("isnan", "bits") else want, 0)])

    def _binary(self, e: Binary, want: str | None) -> tuple[int, list[Piece]]:
        a, b = wants((e.a, e.b), want if e.dtype == e.a.dtype else None)
        if e.op in CALLED:
            return self._call(e.op, [(e.a, a, 0), (e.b, b, 0)])
        table = LOGICAL if e.dtype == "bool" and e.op in LOGICAL else OPERATORS
        symbol, own, left, right = table[e.op]
        return own, [(e.a, a, left), f" {symbol} ", (e.b, b, right)]

    def access(
        self, thing: Buffer | Tensor, index: Sequence[Expr], tile: tuple[int, ...]
    ) -> list[Piece]:
        """`x[i, j:j + 16]`."""
        pieces: list[Piece] = [self.names.get(thing), "["]
        for k, i in enumerate(index):
            if k:
                pieces.append(", ")
            lane = k - len(index) + len(tile)
            pieces.append((i, "index", 0))
            if lane >= 0 and isinstance(i, Const):
                pieces.append(f":{int(i.value) + tile[lane]}")
            elif lane >= 0:
                pieces += [":", (i, "index", OPERATORS["add"][2]), f" + {tile[lane]}"]
        return [*pieces, "]" if index else "()]"]

    def dims(self, shape: Sequence[Expr]) -> str:
        """`n, 4`; `()` for rank 0."""
        return ", ".join(self.text(d, "index") for d in shape) or "()"


def shared_parts(roots: Sequence[Expr]) -> set[Expr]:
    """Parts to name in a statement whose text would be large: those used more than once."""
    order = walk(*roots)
    size: dict[Expr, int] = {}
    uses: dict[Expr, int] = {}
    for e in order:
        size[e] = 1 + sum(size[c] for c in children(e))
        for c in children(e):
            uses[c] = uses.get(c, 0) + 1
    if sum(size[r] for r in roots) <= LARGE:
        return set()
    return {e for e, n in uses.items() if n > 1 and children(e)}


def canonical(e: Expr) -> Expr:
    """Index arithmetic in the one form that `simplify` makes, so that `2 * n` is `n * 2`."""
    done: dict[Expr, Expr] = {}
    for x in walk(e):
        done[x] = normal(with_children(x, tuple(done[c] for c in children(x))))
    return done[e]


class LocatedError(IRError):
    """An error that already shows the user's line."""


class Scope(Protocol):
    """What a reader of expressions needs to know about names."""

    def __call__(self, name: str) -> Named | None: ...


ATOMS: Mapping[str, float] = {"inf": math.inf, "nan": math.nan}
BINARY_NODES: Mapping[type[ast.operator], str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.FloorDiv: "floordiv",
    ast.Mod: "mod", ast.Pow: "pow", ast.BitAnd: "and", ast.BitOr: "or", ast.BitXor: "xor",
    ast.LShift: "shl", ast.RShift: "shr",
}  # fmt: skip
COMPARE_NODES: Mapping[type[ast.cmpop], str] = {
    ast.Lt: "lt", ast.LtE: "le", ast.Eq: "eq", ast.NotEq: "ne", ast.Gt: "gt", ast.GtE: "ge",
}  # fmt: skip


class Source:
    """The user's text, for errors that point into it."""

    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()

    def fail(self, node: ast.AST, message: str) -> NoReturn:
        """Raises an error with the line of the node and a caret under it."""
        raise self.error(getattr(node, "lineno", 1), node, message)

    def error(self, line: int, node: ast.AST | None, message: str) -> LocatedError:
        """The error; `node` gives the columns."""
        text = self.lines[line - 1] if 0 < line <= len(self.lines) else ""
        # Columns of ast count bytes of UTF-8.
        start = len(text.encode()[: getattr(node, "col_offset", 0)].decode(errors="replace"))
        end = len(text.encode()[: getattr(node, "end_col_offset", 0)].decode(errors="replace"))
        same = getattr(node, "end_lineno", line) == line
        return caret_error(line, text, start, end if same else len(text), message)

    def parse(self, text: str) -> ast.Module:
        """The syntax tree; a syntax error is shown the same way."""
        try:
            return ast.parse(text)
        except SyntaxError as e:
            row, start = e.lineno or 1, (e.offset or 1) - 1
            line = self.lines[row - 1] if 0 < row <= len(self.lines) else ""
            end = (e.end_offset or 0) - 1 if e.end_lineno == row else start + 1
            raise caret_error(row, line, start, end, f"not valid syntax: {e.msg}") from None
        except (RecursionError, MemoryError, ValueError) as e:
            raise IRError([f"the text cannot be parsed: {e}"]) from None


def caret_error(line: int, text: str, start: int, end: int, message: str) -> LocatedError:
    """`start`, `end`: columns from 0, the end being outside."""
    carets = " " * start + "^" * max(1, min(end, len(text)) - start)
    return LocatedError([f"line {line}: {message}\n    {text}\n    {carets}"])


class ExprReader:
    """Reads expressions. `lookup` knows the names in scope."""

    def __init__(self, source: Source, lookup: Scope) -> None:
        self.source, self.lookup = source, lookup
        self.shared: dict[str, Expr] = {}

    def fail(self, node: ast.AST, message: str) -> NoReturn:
        self.source.fail(node, message)

    def expr(self, node: ast.expr, want: str | None = None) -> Expr:
        """The expression at a node, in a place that implies the dtype `want` for bare numbers."""
        handler = EXPR_HANDLERS.get(type(node))
        if handler is None:
            self.fail(node, f"{type(node).__name__} is not part of the language")
        try:
            return handler(self, node, want)
        except LocatedError:
            raise
        except IRError as e:
            self.fail(node, "; ".join(e.problems))
        except RecursionError:
            self.fail(node, "the expression is nested too deeply")

    def build(self, node: ast.AST, make: Callable[..., Any], *args: Any) -> Any:
        """make(*args), its errors shown at the node."""
        try:
            return make(*args)
        except LocatedError:
            raise
        except IRError as e:
            self.fail(node, "; ".join(e.problems))

    def scalar(self, node: ast.expr, want: str | None) -> Expr:
        """`expr`, which must not be a tile."""
        e = self.expr(node, want)
        if e.shape:
            self.fail(node, f"expected a scalar, found a tile of shape {e.shape}")
        return e

    def same(self, nodes: Sequence[ast.expr], want: str | None) -> list[Expr]:
        """Operands of one dtype: the first that is no bare number decides for the others."""
        first = next((k for k, n in enumerate(nodes) if number(n) is None), 0)
        decided = self.expr(nodes[first], want)
        return [decided if k == first else self.expr(n, decided.dtype) for k, n in enumerate(nodes)]

    def constant(self, node: ast.AST, value: int | float | bool, dtype: str | None) -> Const:
        """A bare number in a place that implies a dtype (None: nothing is implied)."""
        if isinstance(value, bool):
            return Const(value, "bool")
        if dtype is None:
            dtype = "f32" if isinstance(value, float) else "index"
        if is_float(dtype):
            return Const(float(value), dtype)
        if dtype == "bool":
            self.fail(node, f"expected a bool, found {value}")
        if isinstance(value, float):
            self.fail(node, f"expected a whole number ({dtype}), found {float_text(value)}")
        bits, signed = DTYPES[dtype].bits, DTYPES[dtype].kind == "i"
        lo, hi = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        if not lo <= value <= hi:
            self.fail(node, f"{value} does not fit {dtype}")
        return Const(value, dtype)

    def tile_access(
        self, node: ast.Subscript, rank: int
    ) -> tuple[tuple[Expr, ...], tuple[int, ...]]:
        """Index and tile of `x[i, j:j + 16]`."""
        parts = subscripts(node)
        if len(parts) != rank:
            plural = "index" if rank == 1 else "indices"
            self.fail(node, f"expected {rank} {plural}, found {len(parts)}")
        index: list[Expr] = []
        tile: list[int] = []
        for part in parts:
            if isinstance(part, ast.Slice):
                start, size = self._slice(part)
                index.append(start)
                tile.append(size)
            elif tile:
                self.fail(part, "slices come last: a tile extends along the last dims")
            else:
                index.append(self.expr(part, "index"))
        return tuple(index), tuple(tile)

    def _slice(self, node: ast.Slice) -> tuple[Expr, int]:
        if node.lower is None or node.upper is None or node.step is not None:
            self.fail(node, "expected start:start + size")
        start = self.scalar(node.lower, "index")
        stop = self.scalar(node.upper, "index")
        if isinstance(stop, Binary) and stop.op == "add" and stop.a is start:
            size = known(stop.b)
        else:
            both = start.dtype == stop.dtype == "index"
            size = known(sub(stop, start)) if both else None
        if size is None or size < 1:
            self.fail(node, "the size of a tile is a positive constant: start:start + 16")
        return start, size

    def load(self, node: ast.Subscript, mask: Expr | None = None) -> Expr:
        """A subscript of a buffer or a tensor."""
        thing = self.named(node.value)
        if isinstance(thing, Tensor):
            index, tile = self.tile_access(node, len(thing.shape))
            if tile or mask is not None:
                self.fail(node, f"{thing.name} is a tensor: one element is read at a time")
            return self.build(node, Read, thing, index)
        if not isinstance(thing, Buffer):
            self.fail(node, "expected a buffer or a tensor before [")
        index, tile = self.tile_access(node, len(thing.shape))
        return self.build(node, Load, thing, index, tile, mask)

    def named(self, node: ast.expr) -> Named:
        """What a name stands for."""
        if not isinstance(node, ast.Name):
            self.fail(node, "expected a name")
        found = self.shared.get(node.id) or self.lookup(node.id)
        if found is None:
            self.fail(node, f"{node.id!r} is not defined here")
        return found

    def dtype(self, node: ast.expr) -> str:
        """The name of a dtype."""
        if not isinstance(node, ast.Name) or node.id not in DTYPES:
            self.fail(node, f"expected a dtype, one of {' '.join(DTYPES)}")
        return node.id

    def typed(self, node: ast.expr) -> tuple[str, list[ast.expr] | None]:
        """dtype and dims of `f32[n, 4]`; no dims for `f32`."""
        if isinstance(node, ast.Subscript):
            return self.dtype(node.value), subscripts(node)
        return self.dtype(node), None

    def integer(self, node: ast.expr) -> int:
        """A whole number written out."""
        value = number(node)
        if not isinstance(value, int) or isinstance(value, bool):
            self.fail(node, "expected a whole number")
        return value


def subscripts(node: ast.Subscript) -> list[ast.expr]:
    """The parts between the brackets."""
    return list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]


def number(node: ast.expr) -> int | float | bool | None:
    """The value of a bare number (with a sign), else None."""
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        sign, node = -1, node.operand
    if isinstance(node, ast.Name):
        value = ATOMS.get(node.id)
        return value if value is None or sign == 1 else -value
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value if sign == 1 else None if node.value is True else -node.value
    return None


def _read_number(r: ExprReader, node: Any, want: str | None) -> Expr:
    value = number(node)
    if value is None:
        r.fail(node, f"{node.value!r} is not a number")
    return r.constant(node, value, want)


def _read_name(r: ExprReader, node: ast.Name, want: str | None) -> Expr:
    if node.id in ATOMS:
        return r.constant(node, ATOMS[node.id], want)
    found = r.named(node)
    if isinstance(found, Buffer | Tensor):
        r.fail(node, f"{node.id} has to be indexed: {node.id}[…]")
    return found


def _read_unary(r: ExprReader, node: ast.UnaryOp, want: str | None) -> Expr:
    if isinstance(node.op, ast.USub):
        if number(node) is not None:
            return _read_number(r, node, want)
        return Unary("neg", r.expr(node.operand, want))
    if isinstance(node.op, ast.UAdd):
        r.fail(node, "a sign + is not part of the language")
    x = r.expr(node.operand, want)
    if isinstance(node.op, ast.Not) and x.dtype != "bool":
        r.fail(node, f"not: expected a bool, found {x.dtype}; ~ inverts bits")
    return Unary("not", x)


def _read_binary(r: ExprReader, node: ast.BinOp, want: str | None) -> Expr:
    # The left spine of a long sum is walked by a loop, not by recursion.
    spine = [node]
    while isinstance(spine[-1].left, ast.BinOp):
        spine.append(spine[-1].left)
    for n in spine:
        if type(n.op) not in BINARY_NODES:
            r.fail(n, f"{type(n.op).__name__} is not part of the language")
    inner = spine.pop()
    a, b = r.same((inner.left, inner.right), want)
    result: Expr = r.build(inner, Binary, BINARY_NODES[type(inner.op)], a, b)
    for n in reversed(spine):
        right = r.expr(n.right, result.dtype)
        result = r.build(n, Binary, BINARY_NODES[type(n.op)], result, right)
    return result


def _read_compare(r: ExprReader, node: ast.Compare, want: str | None) -> Expr:
    if len(node.ops) != 1:
        r.fail(node, "one comparison at a time; combine them with `and`")
    op = COMPARE_NODES.get(type(node.ops[0]))
    if op is None:
        r.fail(node, "this comparison is not part of the language")
    return Binary(op, *r.same((node.left, node.comparators[0]), None))


def _read_logical(r: ExprReader, node: ast.BoolOp, want: str | None) -> Expr:
    op = "and" if isinstance(node.op, ast.And) else "or"
    values = [r.expr(v) for v in node.values]
    for v, n in zip(values, node.values, strict=True):
        if v.dtype != "bool":
            r.fail(n, f"{op}: expected a bool, found {v.dtype}")
    result = values[0]
    for v in values[1:]:
        result = Binary(op, result, v)
    return result


def _read_subscript(r: ExprReader, node: ast.Subscript, want: str | None) -> Expr:
    return r.load(node)


def _read_walrus(r: ExprReader, node: ast.NamedExpr, want: str | None) -> Expr:
    e = r.expr(node.value, want)
    r.shared[node.target.id] = e
    return e


def _read_call(r: ExprReader, node: ast.Call, want: str | None) -> Expr:
    if not isinstance(node.func, ast.Name) or node.keywords:
        r.fail(node, "expected name(operands)")
    name, args = node.func.id, node.args
    if name in DTYPES:
        _arity(r, node, 1)
        value = number(args[0])
        # True, False are bools wherever they stand, so i32(True) is a cast.
        if value is not None and (name == "bool") == isinstance(value, bool):
            return r.constant(args[0], value, name)
        return Cast(r.expr(args[0]), name)
    if name.startswith("reduce_") and name[7:] in REDUCTIONS:
        _arity(r, node, 1)
        return Reduce(name[7:], r.expr(args[0], want))
    if name in UNARY:
        _arity(r, node, 1)
        return Unary(name, r.expr(args[0], None if name in ("isnan", "bits") else want))
    if name not in FUNCTIONS:
        r.fail(node.func, f"{name!r} is not a function of the language")
    count, handler = FUNCTIONS[name]
    _arity(r, node, count)
    return handler(r, args, want)


def _arity(r: ExprReader, node: ast.Call, count: int | None) -> None:
    if count is not None and len(node.args) != count:
        name = node.func.id if isinstance(node.func, ast.Name) else "call"
        plural = "s" if count != 1 else ""
        r.fail(node, f"{name}: expected {count} operand{plural}, found {len(node.args)}")


def _fn_binary(op: str) -> Function:
    return lambda r, args, want: Binary(op, *r.same(args, want))


def _fn_select(r: ExprReader, args: list[ast.expr], want: str | None) -> Expr:
    return Select(r.expr(args[0]), *r.same(args[1:], want))


def _fn_cast(r: ExprReader, args: list[ast.expr], want: str | None) -> Expr:
    return Cast(r.expr(args[0]), r.dtype(args[1]))


def _fn_splat(r: ExprReader, args: list[ast.expr], want: str | None) -> Expr:
    if len(args) < 2:
        raise IRError(["splat: expected a scalar and a size"])
    return Splat(r.expr(args[0], want), tuple(r.integer(a) for a in args[1:]))


def _fn_column(r: ExprReader, args: list[ast.expr], want: str | None) -> Expr:
    return Splat(r.expr(args[0], want), tuple(r.integer(a) for a in args[1:]), 0)


def _fn_lanes(r: ExprReader, args: list[ast.expr], want: str | None) -> Expr:
    return Lanes(r.integer(args[0]))


def _fn_load(r: ExprReader, args: list[ast.expr], want: str | None) -> Expr:
    if not isinstance(args[0], ast.Subscript):
        r.fail(args[0], "expected x[…]")
    # The mask is printed, and may name shared parts, after the access: read in that order.
    plain = r.load(args[0])
    mask = r.expr(args[1])
    if not isinstance(plain, Load):
        r.fail(args[0], "only loads of buffers have masks")
    return Load(plain.buffer, plain.index, plain.tile, mask)


def _fn_instruction(fn: str) -> Function:
    return lambda r, args, want: Call(fn, tuple(r.same(args, want)))


Function: TypeAlias = Callable[[ExprReader, list[ast.expr], "str | None"], Expr]
FUNCTIONS: Mapping[str, tuple[int | None, Function]] = {
    "min": (2, _fn_binary("min")),
    "max": (2, _fn_binary("max")),
    "larger": (2, _fn_binary("larger")),
    "dot2": (2, _fn_binary("dot2")),
    "dot4": (2, _fn_binary("dot4")),
    "select": (3, _fn_select),
    "cast": (2, _fn_cast),
    "splat": (None, _fn_splat),
    "column": (3, _fn_column),
    "lanes": (1, _fn_lanes),
    "load": (2, _fn_load),
    "fma": (3, _fn_instruction("fma")),
    "dot": (3, _fn_instruction("dot")),
    "transposed": (1, _fn_instruction("transposed")),
    "interleaved": (2, _fn_instruction("interleaved")),
}
EXPR_HANDLERS: Mapping[type[ast.expr], Callable[[ExprReader, Any, str | None], Expr]] = {
    ast.Constant: _read_number,
    ast.Name: _read_name,
    ast.UnaryOp: _read_unary,
    ast.BinOp: _read_binary,
    ast.Compare: _read_compare,
    ast.BoolOp: _read_logical,
    ast.Subscript: _read_subscript,
    ast.NamedExpr: _read_walrus,
    ast.Call: _read_call,
}


def print_expr(e: Expr, want: str | None = None) -> str:
    """One expression on its own, for messages; variables get their names as they come."""
    printer = ExprPrinter(Names())
    with printer.statement(e):
        return printer.text(e, want)
