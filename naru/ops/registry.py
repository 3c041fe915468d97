"""The op registry. An op is declared once, here by name; everything else looks it up.

infer   types of the operands -> types of the results (raises ModelError when they do not fit)
ref     numpy arrays -> numpy arrays: the meaning. Floats may come as float64 (golden vectors)
lower   tensors -> stages of a TensorFunction
opaque  or: loop-IR text of a kernel written by hand, for a target
flops   its floating-point operations, where they are more than a few for each byte it touches
sparse  does it read only a part of its operands, so that their size says nothing of its time
expand  or: the node as a composition of other ops
samples operands and attributes that the tests run, edge cases included
rows    of an opaque op whose rows stay apart: the axis of each operand along which they lie, and of
        each result; operands beyond that, and those of None, are the same for all rows
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from naru.errors import IRError
from naru.ir.expr import Expr, Read, Var
from naru.ir.graph import Attr, Node, TensorType, get_output, make_constant, make_node
from naru.ir.simplify import index
from naru.ir.tensor import Axis, Stage, Tensor
from naru.targets import Target

Attrs: TypeAlias = Mapping[str, Any]
Types: TypeAlias = Sequence[TensorType | None]
Arrays: TypeAlias = Sequence[np.ndarray | None]
Place: TypeAlias = int | None  # an axis
RowPlaces: TypeAlias = tuple[tuple[Place, ...], tuple[int, ...]]
Infer: TypeAlias = Callable[[Types, Attrs], tuple[TensorType, ...]]
Ref: TypeAlias = Callable[[Arrays, Attrs], tuple[np.ndarray, ...]]


@dataclass
class Emit:
    """Collects the stages of one TensorFunction while ops lower into it."""

    stages: list[Stage] = field(default_factory=list[Stage])

    def _axes(self, prefix: str, extents: Sequence[Expr]) -> tuple[Axis, ...]:
        made = len(self.stages)
        return tuple(
            Axis(Var(f"{prefix}{made}_{k}", hi=_last(n)), n) for k, n in enumerate(extents)
        )

    def stage(
        self, name: str, shape: Sequence[Expr], fn: Callable[..., Expr], dtype: str | None = None
    ) -> Tensor:
        """tensor[axes] = fn(*axes). The dtype is that of the expression; `dtype` asserts it."""
        axes = self._axes("i", shape)
        value = fn(*(a.var for a in axes))
        if dtype is not None and value.dtype != dtype:
            raise IRError([f"stage {name}: expected {dtype}, got {value.dtype}"])
        tensor = Tensor(name, value.dtype, tuple(shape))
        self.stages.append(Stage(tensor, axes, value))
        return tensor

    def reduce(
        self,
        name: str,
        shape: Sequence[Expr],
        over: Sequence[Expr],
        combine: str,
        fn: Callable[[tuple[Var, ...], tuple[Var, ...]], Expr],
        init: Expr | None = None,
    ) -> Tensor:
        """tensor[axes] = combine of fn(axes, reduction axes) over extents `over`."""
        axes, reduction = self._axes("i", shape), self._axes("r", over)
        value = fn(tuple(a.var for a in axes), tuple(a.var for a in reduction))
        tensor = Tensor(name, value.dtype, tuple(shape))
        self.stages.append(Stage(tensor, axes, value, reduction, combine, init))
        return tensor


def _last(extent: Expr) -> int:
    from_value = getattr(extent, "value", None)
    return max(int(from_value) - 1, 0) if from_value is not None else 2**31 - 2


Lower: TypeAlias = Callable[[Emit, Node, Sequence[Tensor | None]], Sequence[Tensor]]
Expand: TypeAlias = Callable[[Node], Node]


@dataclass(frozen=True)
class Sample:
    """One test case: operands (None: left out) and attributes."""

    inputs: tuple[np.ndarray | None, ...]
    attrs: Attrs = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Op:
    """See the head of this file. `kind` guides fusion:
    elementwise   out[i] depends on operands at (broadcast) i only
    index         moves elements, computes nothing (transpose, slice, pad, …)
    view          keeps the bytes: only the shape changes (reshape); never a kernel
    reduction     combines along axes (softmax's parts, pooling, mean)
    contraction   sum of products of two operands
    opaque        a hand-written kernel
    control       the driver's business (if, loop, bind_dim)
    """

    name: str
    kind: str
    infer: Infer
    ref: Ref
    lower: Lower | None = None
    opaque: Callable[[Node, Target], str] | None = None
    flops: Callable[[Node], Expr] | None = None
    sparse: bool = False
    expand: Expand | None = None
    samples: Callable[[], Iterable[Sample]] | None = None
    work: int = 0  # so many of the last outputs are memory to work in; they mean nothing
    rows: RowPlaces | None = None


OPS: dict[str, Op] = {}


def register(op: Op) -> Op:
    """Adds an op; a name is given once."""
    if op.name in OPS:
        raise IRError([f"op {op.name!r} is registered twice"])
    OPS[op.name] = op
    return op


def apply(name: str, *inputs: Node | None, **attrs: Attr) -> Node:
    """Builds a node of a registered op, its types inferred; constants stay constants' business of
    the folding pass."""
    op = OPS[name]
    types = op.infer([None if n is None else n.type for n in inputs], attrs)
    return make_node(name, inputs, attrs, types)


def with_inputs(n: Node, inputs: Sequence[Node | None]) -> Node:
    """The same op over other operands; types are inferred anew only where operand types changed."""
    if all(a is b for a, b in zip(n.inputs, inputs, strict=True)):
        return n
    old = [None if x is None else x.types for x in n.inputs]
    new = [None if x is None else x.types for x in inputs]
    if all(a is b for a, b in zip(old, new, strict=True)) or n.op not in OPS:
        return Node(n.op, tuple(inputs), n.attrs, n.types)
    if all(_same(a, b) for a, b in zip(old, new, strict=True)):
        return Node(n.op, tuple(inputs), n.attrs, n.types)
    if n.op == "get" and inputs[0] is not None:
        return get_output(inputs[0], int(dict(n.attrs)["index"]))  # pyright: ignore[reportArgumentType]
    types = OPS[n.op].infer([None if x is None else x.type for x in inputs], dict(n.attrs))
    return Node(n.op, tuple(inputs), n.attrs, types)


def _same(a: tuple[TensorType, ...] | None, b: tuple[TensorType, ...] | None) -> bool:
    return a == b


def constant(value: Any, dtype: np.dtype | type = np.float32) -> Node:
    """A constant node of a numpy value."""
    return make_constant(np.asarray(value, dtype))


def dims(*sizes: int | Expr) -> tuple[Expr, ...]:
    """A shape from ints and expressions."""
    return tuple(index(n) for n in sizes)


def read(t: Tensor, *at: Expr) -> Expr:
    """The element of t at an index."""
    return Read(t, tuple(at))
