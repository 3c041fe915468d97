"""What the converters of scikit-learn's estimators share: tables of columns, helpers that build
operators in f64, and the registry of converters.

A converter turns one fitted estimator into nodes. It is registered under a role, that is under what
the estimator is asked for, and under the public name of its class:

    transform   Table -> Table
    classify    Table -> Classified
    regress     Table -> Node, [rows] or [rows, targets] as `predict` gives
    cluster     Table -> Node, i64[rows]
    detect      Table -> Detected

What cannot be converted raises Refused; the reader adds where it is and goes on, so that all
problems are named at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import numpy as np

import naru.ops  # fills the registry
from naru.ir.graph import Node
from naru.ir.simplify import ONE, known
from naru.ops.registry import apply, constant

Array = np.ndarray
Operand: TypeAlias = "Node | Array | float"
_ = naru.ops


class Refused(Exception):
    """An estimator, or a parameter of one, that cannot be converted: why, and what to try."""

    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.hint = reason, hint


class Broken(Exception):
    """Something below was refused, and that is reported already."""


# --- values ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Columns side by side: f64[rows, k]; or, `texts`, i64[rows, k], numbers of texts. `names`: the
    input that a column is as it came, else ""."""

    node: Node
    texts: bool = False
    names: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        return known(self.node.type.shape[1]) or 0


@dataclass(frozen=True)
class Table:
    """The columns of X."""

    parts: tuple[Part, ...]

    @property
    def width(self) -> int:
        return sum(p.width for p in self.parts)

    def column(self, at: int) -> Part:
        """One column."""
        for p in self.parts:
            if at < p.width:
                node = p.node if p.width == 1 else pick(p.node, [at])
                return Part(node, p.texts, p.names[at : at + 1])
            at -= p.width
        raise Refused(f"column {at} is asked for, and there are {self.width}")

    def take(self, columns: Sequence[int]) -> Table:
        """Some columns, in the order given. Neighbours of one part stay together."""
        starts = np.cumsum([0, *(p.width for p in self.parts)])
        if len(columns) and not 0 <= min(columns) <= max(columns) < starts[-1]:
            raise Refused(f"columns up to {max(columns)} are asked for, and there are {starts[-1]}")
        found: list[Part] = []
        runs: list[tuple[int, list[int]]] = []
        for c in columns:
            part = int(np.searchsorted(starts, c, "right")) - 1
            if runs and runs[-1][0] == part:
                runs[-1][1].append(c - int(starts[part]))
            else:
                runs.append((part, [c - int(starts[part])]))
        for part, inside in runs:
            p = self.parts[part]
            names = tuple(p.names[k] for k in inside) if p.names else ()
            found.append(Part(pick(p.node, inside), p.texts, names))
        return Table(tuple(found))

    def texts(self) -> list[bool]:
        """For each column, does it hold texts?"""
        return [p.texts for p in self.parts for _ in range(p.width)]


def table(node: Node) -> Table:
    """Numbers as a table."""
    return Table((Part(node),))


def join(tables: Iterable[Table]) -> Table:
    """Tables side by side; those without columns vanish."""
    return Table(tuple(p for t in tables for p in t.parts if p.width))


@dataclass(frozen=True)
class Classified:
    """What a classifier says of each row: `index` i64[rows] of its class among `classes`,
    `probabilities` f64[rows, classes], `scores` as decision_function gives them."""

    index: Node
    probabilities: Node | None = None
    scores: Node | None = None


@dataclass(frozen=True)
class Detected:
    """What a detector of outliers says: 1 or -1, and the scores that it is made of."""

    label: Node
    scores: Node


# --- the registry ---------------------------------------------------------------------------------


class Reader(Protocol):
    """What converters ask of naru.frontend.sklearn.SklearnReader."""

    @property
    def rows(self) -> Any: ...

    def run(self, role: str, e: Any, x: Table, where: str) -> Any: ...
    def transform(self, e: Any, x: Table, where: str) -> Table: ...
    def classify(self, e: Any, x: Table, where: str) -> Classified: ...
    def classify_all(self, e: Any, x: Table, where: str) -> tuple[Classified, ...]: ...
    def regress(self, e: Any, x: Table, where: str) -> Node: ...
    def anchor(self, x: Table) -> Node: ...
    def number_of(self, text: str) -> int: ...
    def check(self, unknown: Node, name: str) -> None: ...
    def knows(self, role: str, e: Any) -> bool: ...


@dataclass(frozen=True)
class Call:
    """One estimator `e` over columns `x`; `where` is its path for messages."""

    e: Any
    x: Table
    where: str
    reader: Reader

    def numbers(self) -> Node:
        """X as one matrix f64[rows, features]. Refused where a column holds texts, or where there
        are not as many columns as the estimator was fitted with."""
        expected = getattr(self.e, "n_features_in_", None)
        if expected is not None and expected != self.x.width:
            raise Refused(f"it was fitted with {expected} columns, and gets {self.x.width}")
        return matrix(self.x)

    def inside(self, name: str) -> str:
        """The path of a part of this estimator."""
        return f"{self.where}.{name}" if self.where else name


def matrix(x: Table) -> Node:
    """A table of numbers as one node."""
    bad = [n for p in x.parts if p.texts for n in (p.names or ("",))]
    if bad:
        named = ", ".join(repr(n) for n in bad if n) or "a column"
        raise Refused(
            f"it needs numbers, and {named} holds texts",
            "encode the texts before it: OneHotEncoder or OrdinalEncoder in a ColumnTransformer",
        )
    if not x.parts:
        raise Refused("it gets no columns at all")
    return side_by_side([p.node for p in x.parts])


Converter: TypeAlias = Callable[[Call], Any]
ROLES = ("transform", "classify", "regress", "cluster", "detect")
CONVERTERS: dict[str, dict[str, Converter]] = {role: {} for role in ROLES}
_C = TypeVar("_C", bound=Converter)


def converts(role: str, *names: str) -> Callable[[_C], _C]:
    """Registers a converter for classes by their public names, as `sklearn.svm.SVC`."""

    def add(f: _C) -> _C:
        for name in names:
            assert name not in CONVERTERS[role], name
            CONVERTERS[role][name] = f
        return f

    return add


# --- building -------------------------------------------------------------------------------------


def numbers(value: Any) -> Array:
    """A fitted attribute as f64; sparse matrices become dense."""
    dense = value.toarray() if hasattr(value, "toarray") else value
    return np.asarray(dense, np.float64)


def as_node(x: Operand) -> Node:
    """A node as it is; numbers as a constant f64."""
    return x if isinstance(x, Node) else constant(x, np.float64)


def op(name: str, *inputs: Operand, **attrs: Any) -> Node:
    """An operator; operands that are no nodes become constants f64."""
    return apply(name, *map(as_node, inputs), **attrs)


def add(a: Operand, b: Operand) -> Node:
    return op("add", a, b)


def sub(a: Operand, b: Operand) -> Node:
    return op("sub", a, b)


def mul(a: Operand, b: Operand) -> Node:
    return op("mul", a, b)


def div(a: Operand, b: Operand) -> Node:
    return op("div", a, b)


def matmul(a: Operand, b: Operand) -> Node:
    return op("matmul", a, b)


def where(cond: Node, a: Operand, b: Operand) -> Node:
    return op("where", cond, a, b)


def cast_to(x: Node, dtype: str) -> Node:
    """x in a dtype: itself where it has it."""
    return x if x.type.dtype == dtype else apply("cast", x, to=dtype)


def f64(x: Node) -> Node:
    return cast_to(x, "f64")


def ints(values: Any) -> Node:
    """A constant i64."""
    return constant(values, np.int64)


def rows_of(x: Node) -> Any:
    return x.type.shape[0]


def width_of(x: Node) -> int:
    return known(x.type.shape[1]) or 0


def column(x: Node) -> Node:
    """[rows] -> [rows, 1]."""
    return apply("reshape", x, shape=(rows_of(x), ONE)) if x.type.rank == 1 else x


def flat(x: Node) -> Node:
    """[rows, 1] -> [rows]."""
    return apply("reshape", x, shape=(rows_of(x),)) if x.type.rank == 2 else x


def pick(x: Node, columns: Sequence[int]) -> Node:
    """Columns of a matrix: a slice where they are neighbours, itself where they are all."""
    at = [int(c) for c in columns]
    if at == list(range(width_of(x))):
        return x
    if at and at == list(range(at[0], at[0] + len(at))):
        return apply("slice", x, starts=(at[0],), ends=(at[0] + len(at),), axes=(1,), steps=(1,))
    return apply("gather", x, ints(at), axis=1)


def side_by_side(nodes: Sequence[Node]) -> Node:
    """Matrices joined along their columns."""
    return nodes[0] if len(nodes) == 1 else apply("concat", *nodes, axis=1)


def total(x: Node, name: str = "reduce_sum", *, keep: bool = False, axis: int = 1) -> Node:
    """A reduction along an axis."""
    return apply(name, x, axes=(axis,), keepdims=keep)


def greatest(x: Node) -> Node:
    """i64[rows]: the first column that has the greatest value, as np.argmax."""
    return apply("arg_max", x, axis=1, keepdims=False, select_last_index=False)


def least(x: Node) -> Node:
    """i64[rows]: the first column that has the least value."""
    return apply("arg_min", x, axis=1, keepdims=False, select_last_index=False)


def positive(scores: Node, *, equal: bool = False) -> Node:
    """i64[rows]: 1 where a score is above 0 (or 0, with `equal`)."""
    return cast_to(op("greater_or_equal" if equal else "greater", scores, 0.0), "i64")


def two(p: Node) -> Node:
    """[rows] -> [rows, 2]: (1 - p, p)."""
    p = column(p)
    return side_by_side([sub(1.0, p), p])


def zeros_like(x: Node, width: int = 1) -> Node:
    """f64[rows, width] of zeros."""
    return apply("constant_of_shape", shape=(rows_of(x), width), value=0.0, dtype="f64")


def filled(x: Node, row: Any) -> Node:
    """A row of numbers for each row of x."""
    values = np.asarray(row, np.float64).reshape(1, -1)
    return add(zeros_like(x, values.shape[1]), values)


def log1p(x: Node) -> Node:
    """log(1 + x), also where x is near to 0: what is lost in 1 + x is put back (W. Kahan)."""
    u = add(1.0, x)
    plain = op("log", u)
    better = div(mul(plain, x), sub(u, 1.0))
    infinite = op("isinf", u, detect_positive=True, detect_negative=False)
    return where(op("equal", u, 1.0), x, where(infinite, plain, better))


def expm1(x: Node) -> Node:
    """exp(x) - 1, also where x is near to 0 (W. Kahan)."""
    u = op("exp", x)
    less = sub(u, 1.0)
    better = div(mul(less, x), op("log", u))
    edge = op("or", op("equal", less, -1.0), op("isinf", u))
    return where(op("equal", u, 1.0), x, where(edge, less, better))


def squares(x: Node, *, keep: bool = False) -> Node:
    """The sum of the squares of each row."""
    return total(mul(x, x), keep=keep)


def objects(values: Any) -> list[Any]:
    """An array of anything as Python values."""
    return cast("list[Any]", np.asarray(values).tolist())


def is_texts(values: Any) -> bool:
    """Are there texts among these?"""
    array = np.asarray(values)
    return array.dtype.kind in "UST" or (
        array.dtype.kind == "O" and any(isinstance(v, str) for v in array.reshape(-1).tolist())
    )
