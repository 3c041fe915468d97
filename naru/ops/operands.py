"""What the ops share when they look at their operands: checks, broadcasting, reads.

Shapes are tuples of index expressions. Errors are ModelErrors that begin with the op's name.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from naru.dtypes import DTYPES, is_float
from naru.errors import ModelError
from naru.ir.expr import Cast, Expr, Read, Var
from naru.ir.graph import TensorType
from naru.ir.simplify import FALSE, ONE, TRUE, ZERO, bounds, compare, index, known
from naru.ir.tensor import Tensor
from naru.ir.text_expr import print_expr
from naru.ops.formula import Term, cast, number
from naru.ops.registry import Attrs, Types

Dims = tuple[Expr, ...]
T = TypeVar("T")
_SHORT = 64  # lanes of the longest vector, of bytes


def dim_text(e: Expr) -> str:
    """An index expression in Python syntax, for messages."""
    return print_expr(e)


def shape_text(shape: Iterable[Expr]) -> str:
    """`[n, 4]`, for messages; a scalar's is `[()]`, as in the text form of the IR."""
    return f"[{', '.join(map(dim_text, shape)) or '()'}]"


def operand(op: str, types: Types, i: int, rank: int | None = None) -> TensorType:
    """Operand i; it must be there, and have the rank if one is given."""
    t = types[i] if i < len(types) else None
    if t is None:
        raise ModelError(f"{op}: operand {i} is missing")
    if rank is not None and t.rank != rank:
        raise ModelError(
            f"{op}: operand {i} must have rank {rank}, got {t.rank}: {shape_text(t.shape)}"
        )
    return t


def optional(types: Types, i: int) -> TensorType | None:
    """Operand i, or None where it is left out."""
    return types[i] if i < len(types) else None


def check_kind(op: str, dtype: str, kinds: str) -> None:
    """Raises unless the dtype is of one of the kinds (f float, i signed, u unsigned, b bool)."""
    if DTYPES[dtype].kind not in kinds:
        names = {"f": "float", "i": "signed integer", "u": "unsigned integer", "b": "bool"}
        wanted = " or ".join(names[k] for k in kinds)
        raise ModelError(f"{op}: expected {wanted}, got {dtype}", hint="put a Cast before it")


def check_same_dtype(op: str, types: Sequence[TensorType]) -> str:
    """The one dtype of all operands."""
    found = list(dict.fromkeys(t.dtype for t in types))
    if len(found) != 1:
        raise ModelError(
            f"{op}: operands must have one dtype, got {' and '.join(found)}",
            hint="put a Cast before one of them",
        )
    return found[0]


@dataclass(frozen=True)
class Equality:
    """Two dims that inference took to be equal, and what they are."""

    what: str
    a: Expr
    b: Expr


_assumed: ContextVar[list[Equality] | None] = ContextVar("assumed", default=None)


@contextmanager
def assumed_equalities() -> Generator[list[Equality]]:
    """Collects what `check_equal` assumes while types are inferred inside."""
    found: list[Equality] = []
    token = _assumed.set(found)
    try:
        yield found
    finally:
        _assumed.reset(token)


@dataclass(frozen=True)
class Condition:
    """What must hold of dims for an operator to make sense, in an expression and in words."""

    cond: Expr
    what: str


_conditions: ContextVar[list[Condition] | None] = ContextVar("conditions", default=None)


@contextmanager
def conditions_needed() -> Generator[list[Condition]]:
    """Collects what `check_holds` asks for while types are inferred inside."""
    found: list[Condition] = []
    token = _conditions.set(found)
    try:
        yield found
    finally:
        _conditions.reset(token)


def check_holds(cond: Callable[[], Expr], what: str) -> None:
    """A condition over dims that are known at run time only. As with `check_equal`,
    `schedule/requirements.py` finds it again."""
    found = _conditions.get()
    if found is not None:
        found.append(Condition(cond(), what))


def check_at_most(op: str, what: str, size: Expr, most: Expr) -> None:
    """A dim is no larger than another one. Raises ModelError where it cannot be."""
    holds = compare("le", size, most)
    if holds is FALSE:
        raise ModelError(f"{op}: {what}: {dim_text(size)} is more than {dim_text(most)}")
    if holds is not TRUE:
        check_holds(lambda: holds, f"{dim_text(size)} <= {dim_text(most)}: {what}")


def check_equal(op: str, what: str, a: Expr, b: Expr) -> Expr:
    """The size that two dims must share. Dims known at run time only are taken to be equal;
    `schedule/requirements.py` finds them again, and the plan checks them before each run. Raises
    ModelError where they cannot be."""
    if a is b:
        return a
    if known(a) is not None and known(b) is not None:
        raise ModelError(f"{op}: {what} differ: {dim_text(a)} and {dim_text(b)}")
    assumed = _assumed.get()
    if assumed is not None:
        assumed.append(Equality(what, a, b))
    return plainest(a, b)


def plainest(*dims: Expr) -> Expr:
    """Of dims that are equal, the one to go by: a number, else one that is short whatever comes (no
    vector may be longer than an operand), else a symbol, else a formula."""
    return min(dims, key=_plainness)


def _plainness(e: Expr) -> int:
    if known(e) is not None:
        return 0
    return 1 if bounds(e)[1] < _SHORT else 2 if isinstance(e, Var) else 3


def axis_of(op: str, axis: Any, rank: int) -> int:
    """A possibly negative axis as a non-negative one."""
    if not -rank <= axis < rank:
        raise ModelError(f"{op}: axis {axis} is out of range for rank {rank}")
    return int(axis) % rank


def broadcast_dims(op: str, *shapes: Sequence[Expr]) -> Dims:
    """The shape that operands take together by numpy's rule: dims are aligned at the right, and are
    the same size or 1. A size that is not a number is not taken to be 1."""
    rank = max((len(s) for s in shapes), default=0)
    out: list[Expr] = [ONE] * rank
    for s in shapes:
        for k, d in enumerate(s, rank - len(s)):
            if out[k] is ONE:
                out[k] = d
            elif d is not ONE:
                what = f"sizes along axis {k - rank} of {' and '.join(map(shape_text, shapes))}"
                out[k] = check_equal(op, what, out[k], d)
    return tuple(out)


def broadcast_into(op: str, shape: Sequence[Expr], into: Sequence[Expr]) -> Dims:
    """What `broadcast_dims` gives for a shape that may not make the other one larger. ModelError
    where it does."""
    wide = broadcast_dims(op, into, shape)
    grown = any(d is ONE and w is not ONE for d, w in zip(into, wide, strict=False))
    if len(wide) != len(into) or grown:
        raise ModelError(f"{op}: {shape_text(shape)} does not fit {shape_text(into)}")
    return wide


def broadcast_read(t: Tensor, at: Sequence[Expr]) -> Read:
    """The element of t at position `at` of the broadcast shape; dims of size 1 repeat."""
    skip = len(at) - len(t.shape)
    return Read(t, tuple(ZERO if d is ONE else i for d, i in zip(t.shape, at[skip:], strict=True)))


def compute_dtype(dtype: str) -> str:
    """The dtype arithmetic is done in: half and tiny floats are widened, as every peer does."""
    return "f32" if is_float(dtype) and dtype not in ("f32", "f64") else dtype


def element(t: Tensor, at: Sequence[Expr]) -> Term:
    """The element of t, widened for arithmetic."""
    return cast(Term(Read(t, tuple(at))), compute_dtype(t.dtype))


def size_as(dtype: str, size: Expr) -> Term:
    """A size as a value of a dtype."""
    n = known(size)
    return Term(number(n, dtype)) if n is not None else Term(Cast(size, dtype))


def sizes(attrs: Attrs, name: str) -> Dims:
    """An attribute that is a tuple of ints or index expressions, as expressions."""
    return tuple(index(v) for v in attrs[name])


def ints(attrs: Attrs, name: str) -> tuple[int, ...]:
    """The same attribute as ints: where `ref` runs, every size is known."""
    return tuple(int(getattr(v, "value", v)) for v in attrs[name])


def given(xs: Sequence[T | None], i: int = 0) -> T:
    """Operand i, which `infer` has seen to be there."""
    x = xs[i]
    assert x is not None
    return x


def all_known(values: Iterable[Expr]) -> bool:
    """Are all sizes constants?"""
    return all(known(v) is not None for v in values)
