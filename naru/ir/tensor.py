"""TensorFunction: what a fused group computes, index by index, with no word on order or place.

A DAG of stages. Each stage defines every element of one tensor from elements of earlier ones:

    C[m, n]   = sum over k of A[m, k] * B[k, n]
    out[m, n] = max(C[m, n] + bias[n], 0)
"""

from __future__ import annotations

from dataclasses import dataclass

from naru.dtypes import DTYPES, is_float
from naru.errors import IRError
from naru.ir.expr import Const, Expr, Read, Var, free_vars, walk
from naru.ir.graph import Layout

COMBINE = ("add", "mul", "min", "max", "larger", "and", "or")
IDENTITY: dict[str, float | bool] = {
    "add": 0.0, "mul": 1.0, "min": float("inf"), "max": float("-inf"),
    "larger": float("-inf"), "and": True, "or": False,
}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Tensor:
    """A value with a shape, unique; `layout` says how it lies in memory (None: row-major)."""

    name: str
    dtype: str
    shape: tuple[Expr, ...]
    layout: Layout | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Axis:
    """An iteration variable and how often it runs."""

    var: Var
    extent: Expr


@dataclass(frozen=True, eq=False, repr=False)
class Stage:
    """tensor[axes] = combine over reduction axes of value, starting at `init` (a Const).

    Without `combine`, `reduction` is empty and the value is stored as it is. `place`: where an
    element lies in the tensor, if that is not at the axes (a result made tile by tile): each
    element of the tensor once, and what lies outside of the tensor nowhere."""

    tensor: Tensor
    axes: tuple[Axis, ...]
    value: Expr
    reduction: tuple[Axis, ...] = ()
    combine: str | None = None
    init: Expr | None = None
    place: tuple[Expr, ...] = ()

    def __post_init__(self) -> None:
        if (self.combine is None) != (not self.reduction) or (
            self.combine is not None and self.combine not in COMBINE
        ):
            raise IRError(
                [f"stage {self.tensor.name}: combine {self.combine!r} and reduction disagree"]
            )
        at = self.place or self.axes
        if len(at) != len(self.tensor.shape):
            what = "places" if self.place else "axes"
            raise IRError(
                [f"stage {self.tensor.name}: {len(at)} {what}, rank {len(self.tensor.shape)}"]
            )
        if self.place and self.combine is not None:
            raise IRError([f"stage {self.tensor.name}: a reduction lies at its axes"])
        if self.value.dtype != self.tensor.dtype:
            raise IRError(
                [
                    f"stage {self.tensor.name}: value is {self.value.dtype}, "
                    f"tensor is {self.tensor.dtype}"
                ]
            )

    @property
    def start(self) -> Expr:
        """The value that the reduction starts from."""
        if self.init is not None:
            return self.init
        assert self.combine is not None
        return identity(self.combine, self.tensor.dtype)


def identity(combine: str, dtype: str) -> Const:
    """The neutral element of a reduction in a dtype."""
    from_kind = ("min", "max", "larger")
    if dtype == "bool" or combine in ("and", "or"):
        return Const(combine in ("and", "min", "mul"), dtype)
    if is_float(dtype):
        return Const(float(IDENTITY[combine]), dtype)
    if combine in from_kind:
        bits, signed = DTYPES[dtype].bits, DTYPES[dtype].kind == "i"
        lo = -(2 ** (bits - 1)) if signed else 0
        hi = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        return Const(hi if combine == "min" else lo, dtype)
    return Const(int(IDENTITY[combine]), dtype)


@dataclass(frozen=True, eq=False, repr=False)
class TensorFunction:
    """`stages` in topological order; `outputs` are tensors of stages, in the caller's order.

    `opaque` is loop-IR text of a kernel written by hand (then there are no stages): its parameters
    are the inputs, the outputs, and sizes by name."""

    name: str
    inputs: tuple[Tensor, ...]
    stages: tuple[Stage, ...]
    outputs: tuple[Tensor, ...]
    opaque: str | None = None

    def stage_of(self, tensor: Tensor) -> Stage | None:
        """The stage that defines the tensor; None for an input."""
        return next((s for s in self.stages if s.tensor is tensor), None)

    def symbols(self) -> tuple[Var, ...]:
        """Dim symbols that appear free, in order of appearance: the kernel's size arguments."""
        bound = {a.var for s in self.stages for a in (*s.axes, *s.reduction)}
        roots: list[Expr] = [d for t in (*self.inputs, *self.outputs) for d in t.shape]
        for s in self.stages:
            roots += [a.extent for a in (*s.axes, *s.reduction)]
            roots.append(s.value)
        return tuple(v for v in free_vars(*roots) if v not in bound)


def reads(e: Expr) -> list[Read]:
    """Every distinct Read in an expression."""
    return [x for x in walk(e) if isinstance(x, Read)]
