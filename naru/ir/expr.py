"""Expressions: shared by dims of the Graph, stages of a TensorFunction and the loop IR.

Every expression has a `dtype` and a `shape`: () for a scalar, (n,) or (m, n) for a tile value,
which lives in registers. Index arithmetic has dtype `index`. Nodes are interned; `Var` is unique.
Types are checked when a node is built, so a wrong program fails on the line that makes it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from naru.dtypes import DTYPES, is_float, is_integer
from naru.errors import IRError
from naru.ir.intern import Interned, node

if TYPE_CHECKING:
    from naru.ir.loop import Buffer
    from naru.ir.tensor import Tensor

Shape: TypeAlias = tuple[int, ...]
INT_MAX = 2**31 - 1  # an undeclared dim is 0..INT_MAX

ARITHMETIC = (
    "add",
    "sub",
    "mul",
    "div",
    "floordiv",
    "mod",
    "min",
    "max",
    "larger",
    "pow",
    "dot2",
    "dot4",
)
BITWISE = ("and", "or", "xor", "shl", "shr")  # on bool: logical
COMPARE = ("lt", "le", "eq", "ne", "gt", "ge")
FLOAT_UNARY = (
    "exp", "log", "tanh", "erf", "sqrt", "sin", "cos", "floor", "ceil", "round", "trunc", "normal",
)  # fmt: skip
UNARY = (*FLOAT_UNARY, "neg", "abs", "not", "isnan", "bits")
# Calls are the instructions that schedules tensorise to: name -> what it means (see interp.py).
CALLS = {"fma": 3, "dot": 3, "transposed": 1, "interleaved": 2}  # and how many operands they have


def _fail(text: str) -> IRError:
    return IRError([text])


_serial = itertools.count()


@dataclass(frozen=True, eq=False, repr=False)
class Var:
    """A scalar with a name: a loop index, a dim symbol, a `Let` value, or (mutable) a variable.

    Unique: two Vars of one name are two variables. lo..hi (inclusive) bound an index where known.
    """

    name: str
    dtype: str = "index"
    lo: int = 0
    hi: int = INT_MAX
    mutable: bool = False
    serial: int = field(default_factory=lambda: next(_serial), init=False)
    shape: Shape = ()


def _set(self: Any, dtype: str, shape: Shape) -> None:
    object.__setattr__(self, "dtype", dtype)
    object.__setattr__(self, "shape", shape)


def broadcast(a: Shape, b: Shape) -> Shape:
    """Tile values combine when shapes are equal or one is a scalar (then it is splat)."""
    if a == b or not b:
        return a
    if not a:
        return b
    raise _fail(f"tile shapes {a} and {b} do not match; write a splat")


@node
class Const(metaclass=Interned):
    """A scalar constant; int for integers and index, float for floats, bool for bool."""

    value: int | float | bool
    dtype: str = "index"
    shape: Shape = field(default=(), init=False)


@node
class Unary(metaclass=Interned):
    """One operand. `isnan` gives bool; `bits` reinterprets f32 as i32 and i32 as f32; `normal` is a
    zero of the operand's sign where that is smaller than every normal f32, else the operand."""

    op: str
    x: Expr
    dtype: str = field(default="", init=False)
    shape: Shape = field(default=(), init=False)

    def __post_init__(self) -> None:
        kind = self.x.dtype
        if self.op in FLOAT_UNARY and not is_float(kind):
            raise _fail(f"{self.op}: expected a float, got {kind}")
        if self.op not in UNARY:
            raise _fail(f"unknown unary operation {self.op!r}")
        bits = {"f32": "i32", "i32": "f32", "f64": "i64", "i64": "f64"}
        if self.op == "bits" and kind not in bits:
            raise _fail(f"bits: expected one of {', '.join(bits)}, got {kind}")
        dtype = "bool" if self.op == "isnan" else bits[kind] if self.op == "bits" else kind
        _set(self, dtype, self.x.shape)


@node
class Binary(metaclass=Interned):
    """Two operands of one dtype. Integer `floordiv` and `mod` round towards minus infinity; integer
    `div` towards zero; float `min`/`max` return the NaN if there is one, `larger` is a if a > b
    else b. `dot2` adds the products of the two i16 that each i32 holds, `dot4` those of the four
    i8. Integers wrap."""

    op: str
    a: Expr
    b: Expr
    dtype: str = field(default="", init=False)
    shape: Shape = field(default=(), init=False)

    def __post_init__(self) -> None:
        a, b = self.a, self.b
        if a.dtype != b.dtype:
            raise _fail(f"{self.op}: operands are {a.dtype} and {b.dtype}; cast one")
        if self.op in COMPARE:
            dtype = "bool"
        elif self.op in ARITHMETIC or self.op in BITWISE:
            dtype = a.dtype
            if self.op in ("shl", "shr") and not is_integer(dtype):
                raise _fail(f"{self.op}: expected integers, got {dtype}")
            if self.op in ("dot2", "dot4") and dtype != "i32":
                raise _fail(f"{self.op}: expected i32, which holds the numbers, got {dtype}")
        else:
            raise _fail(f"unknown binary operation {self.op!r}")
        _set(self, dtype, broadcast(a.shape, b.shape))


@node
class Select(metaclass=Interned):
    """`a` where cond else `b`. Both sides are evaluated: their loads must be in bounds."""

    cond: Expr
    a: Expr
    b: Expr
    dtype: str = field(default="", init=False)
    shape: Shape = field(default=(), init=False)

    def __post_init__(self) -> None:
        if self.cond.dtype != "bool" or self.a.dtype != self.b.dtype:
            raise _fail(
                f"select: expected (bool, T, T), got "
                f"({self.cond.dtype}, {self.a.dtype}, {self.b.dtype})"
            )
        shape = broadcast(broadcast(self.a.shape, self.b.shape), self.cond.shape)
        _set(self, self.a.dtype, shape)


@node
class Cast(metaclass=Interned):
    """Value conversion: float to integer truncates towards zero and, out of range, saturates (NaN
    gives 0); to bool means != 0; f32 to bf16/f16 rounds to nearest even."""

    x: Expr
    dtype: str
    shape: Shape = field(default=(), init=False)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise _fail(f"cast: unknown dtype {self.dtype!r}")
        object.__setattr__(self, "shape", self.x.shape)


@node
class Read(metaclass=Interned):
    """TensorFunction only: the element of a tensor (an input or another stage) at an index."""

    tensor: Tensor
    index: tuple[Expr, ...]
    dtype: str = field(default="", init=False)
    shape: Shape = field(default=(), init=False)

    def __post_init__(self) -> None:
        if len(self.index) != len(self.tensor.shape):
            raise _fail(
                f"{self.tensor.name}: expected {len(self.tensor.shape)} indices, "
                f"got {len(self.index)}"
            )
        _set(self, self.tensor.dtype, ())


@node
class Load(metaclass=Interned):
    """Loop IR only: a scalar (tile ()) or a tile that starts at `index` and extends along the last
    one or two dims of the buffer; or, when an index is itself a tile, a gather of its shape. `mask`
    (bool, same shape) off: that lane is 0 and its memory is not touched."""

    buffer: Buffer
    index: tuple[Expr, ...]
    tile: Shape = ()
    mask: Expr | None = None
    dtype: str = field(default="", init=False)
    shape: Shape = field(default=(), init=False)

    def __post_init__(self) -> None:
        check_access(self.buffer, self.index, self.tile, self.mask)
        _set(self, self.buffer.dtype, self.tile or self.index_shape())

    def index_shape(self) -> Shape:
        """A gather: when an index is itself a tile, the load has its shape."""
        shape: Shape = ()
        for i in self.index:
            shape = broadcast(shape, i.shape)
        return shape


def check_access(buffer: Buffer, index: tuple[Expr, ...], tile: Shape, mask: Expr | None) -> None:
    """Raises IRError unless the access has one index a dim and a fitting tile and mask."""
    if len(index) != len(buffer.shape):
        raise _fail(f"{buffer.name}: expected {len(buffer.shape)} indices, got {len(index)}")
    if len(tile) > len(buffer.shape):
        raise _fail(f"{buffer.name}: a tile of rank {len(tile)} from {len(buffer.shape)} dims")
    for i in index:
        if not is_integer(i.dtype):
            raise _fail(f"{buffer.name}: an index is {i.dtype}, expected an integer")
    if mask is not None and mask.dtype != "bool":
        raise _fail(f"{buffer.name}: a mask is {mask.dtype}, expected bool")


@node
class Splat(metaclass=Interned):
    """A tile with the scalar `x` in every lane; or of rank 2 with the rank-1 tile `x` in every row
    (its lanes run along `axis` 1) or in every column (along axis 0)."""

    x: Expr
    shape: Shape
    axis: int = 1
    dtype: str = field(default="", init=False)

    def __post_init__(self) -> None:
        x, shape = self.x.shape, self.shape
        if x and not (len(x) == 1 and len(shape) == 2 and x[0] == shape[self.axis]):
            raise _fail(f"splat: a tile {x} does not fill {shape} along axis {self.axis}")
        if not x and self.axis != 1:
            raise _fail("splat: a scalar has no axis")
        object.__setattr__(self, "dtype", self.x.dtype)


@node
class Lanes(metaclass=Interned):
    """The tile (0, 1, …, n-1) of dtype index."""

    n: int
    dtype: str = field(default="index", init=False)
    shape: Shape = field(default=(), init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", (self.n,))


@node
class Reduce(metaclass=Interned):
    """A rank-1 tile (a power of two lanes) to a scalar by op (add, mul, min, max, larger, and, or),
    in one fixed tree on every target: halves are combined, lane i with lane i + n/2, until one is
    left."""

    op: str
    x: Expr
    dtype: str = field(default="", init=False)
    shape: Shape = field(default=(), init=False)

    def __post_init__(self) -> None:
        if len(self.x.shape) != 1 or self.x.shape[0] & (self.x.shape[0] - 1):
            raise _fail(f"reduce: expected a rank-1 tile of 2^k lanes, got {self.x.shape}")
        _set(self, self.x.dtype, ())


@node
class Call(metaclass=Interned):
    """An instruction: fma(a, b, c) = a*b + c rounded once; dot(a, b, c) = a @ b + c for rank-2
    tiles, where b may be in pair-interleaved form ([k/2, 2n]), as AMX and VNNI want it;
    transposed(a) has the rows of a rank-2 tile as columns; interleaved(a, b) has the lanes of two
    rank-1 tiles alternately."""

    fn: str
    args: tuple[Expr, ...]
    dtype: str = field(default="", init=False)
    shape: Shape = field(default=(), init=False)

    def __post_init__(self) -> None:
        if self.fn not in CALLS:
            raise _fail(f"unknown instruction {self.fn!r}")
        shape: Shape = ()
        if self.fn == "dot":
            shape = self.args[2].shape
        elif self.fn == "transposed":
            shape = self.args[0].shape[::-1]
        elif self.fn == "interleaved":
            shape = tuple(2 * n for n in self.args[0].shape)
        else:
            for a in self.args:
                shape = broadcast(shape, a.shape)
        _set(self, self.args[-1].dtype, shape)


Expr: TypeAlias = (
    Const | Var | Unary | Binary | Select | Cast | Read | Load | Splat | Lanes | Reduce | Call
)


def children(e: Expr) -> tuple[Expr, ...]:
    """The direct operands, in order."""
    match e:
        case Const() | Var() | Lanes():
            return ()
        case Unary() | Cast() | Splat() | Reduce():
            return (e.x,)
        case Binary():
            return (e.a, e.b)
        case Select():
            return (e.cond, e.a, e.b)
        case Read():
            return e.index
        case Load():
            return e.index if e.mask is None else (*e.index, e.mask)
        case Call():
            return e.args


def with_children(e: Expr, new: tuple[Expr, ...]) -> Expr:
    """The same node over other operands."""
    match e:
        case Const() | Var() | Lanes():
            return e
        case Unary():
            return Unary(e.op, new[0])
        case Cast():
            return Cast(new[0], e.dtype)
        case Splat():
            return Splat(new[0], e.shape, e.axis)
        case Reduce():
            return Reduce(e.op, new[0])
        case Binary():
            return Binary(e.op, *new)
        case Select():
            return Select(*new)
        case Read():
            return Read(e.tensor, new)
        case Load():
            mask = new[-1] if e.mask is not None else None
            return Load(e.buffer, new[: len(e.index)], e.tile, mask)
        case Call():
            return Call(e.fn, new)


def walk(*roots: Expr) -> list[Expr]:
    """Every distinct node below the roots, operands before users, without recursion."""
    seen: set[int] = set()
    order: list[Expr] = []
    stack: list[tuple[Expr, bool]] = [(r, False) for r in reversed(roots)]
    while stack:
        e, ready = stack.pop()
        if ready:
            order.append(e)
        elif id(e) not in seen:
            seen.add(id(e))
            stack.append((e, True))
            stack.extend((c, False) for c in reversed(children(e)) if id(c) not in seen)
    return order


def free_vars(*roots: Expr) -> list[Var]:
    """The distinct Vars, in order of first appearance."""
    return [e for e in walk(*roots) if isinstance(e, Var)]
