"""One call of an ATen operator as the tables of handlers see it.

Arguments have the names of the operator's schema, its defaults filled in. Tensors are our nodes,
sizes are index expressions; everything else is what Python has for it. `results` is what PyTorch
found the call to give, so that no handler need work out a shape or a dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from naru.dtypes import DTYPES
from naru.errors import ModelError
from naru.frontend.onnx_node import Unsupported, as_dtype, check_axis, emit
from naru.frontend.torch_library import dtype_name, items, library
from naru.frontend.torch_sizes import Sizes
from naru.ir.expr import Expr
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import index, known
from naru.ops.registry import constant

Handler: TypeAlias = "Callable[[AtenCall], Node | Sequence[Node | None]]"
HALF = ("f16", "bf16")


@dataclass(frozen=True)
class AtenCall:
    """`fakes` has the arguments as PyTorch sees them: its rules of promotion look at those.
    `wanted`: which of the results something reads."""

    op: str
    args: Mapping[str, Any]
    fakes: Mapping[str, Any]
    results: Sequence[TensorType | None]
    wanted: Sequence[bool]
    sizes_of: Sizes
    raw_results: Sequence[Any] = ()

    # --- arguments --------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Node:
        """A tensor."""
        n = self.find(name)
        if n is None:
            raise ModelError(f"expected a tensor as {name!r}, found none")
        return n

    def find(self, name: str) -> Node | None:
        """A tensor, or None where it is left out."""
        value = self.args.get(name)
        if value is not None and not isinstance(value, Node):
            raise ModelError(f"expected a tensor as {name!r}, found {value!r}")
        return value

    def value(self, name: str, default: Any = None) -> Any:
        """Whatever was given; the default for None."""
        found = self.args.get(name)
        return default if found is None else found

    def tensors(self, name: str) -> list[Node]:
        """A list of tensors."""
        return list(self.args[name])

    def has(self, name: str) -> bool:
        return self.args.get(name) is not None

    def size(self, name: str) -> Expr:
        """A number that may depend on sizes of inputs."""
        value = self.args[name]
        if isinstance(value, bool) or not isinstance(value, int | Expr):
            raise Unsupported(f"{name} = {value!r}: it is computed from the values of tensors")
        return index(value)

    def sizes(self, name: str) -> tuple[Expr, ...]:
        """A list of such numbers."""
        return tuple(index(v) for v in self.args[name])

    def int(self, name: str, default: int | None = None) -> int:
        """A number that must be known now."""
        value = self.args.get(name)
        value = default if value is None else value
        n = known(value) if isinstance(value, Expr) else value
        if n is None:
            raise Unsupported(f"{name}: it depends on the size of an input", "make it a number")
        return int(n)

    def ints(self, name: str) -> tuple[int, ...]:
        """A list of such numbers; a single one is a list."""
        given = self.args[name]
        parts = items(given)
        numbers = [known(index(v)) for v in ([given] if parts is None else parts)]
        if any(n is None for n in numbers):
            raise Unsupported(f"{name}: it depends on the size of an input", "make it numbers")
        return tuple(n for n in numbers if n is not None)

    def float(self, name: str, default: float | None = None) -> float:
        """A number that must be known now."""
        value = self.args.get(name)
        value = default if value is None else value
        if not isinstance(value, int | float):
            raise Unsupported(f"{name}: it is computed when running", "make it a number")
        return float(value)

    def flag(self, name: str) -> bool:
        return bool(self.args.get(name))

    def axis(self, name: str, rank: int) -> int:
        """An axis in 0..rank-1; scalars have the axis 0 here."""
        return check_axis(self.int(name), max(rank, 1))

    def axes(self, name: str, rank: int) -> tuple[int, ...]:
        """Axes in order; all of them where none is given."""
        given = self.args.get(name)
        if given is None or given == []:
            return tuple(range(rank))
        if not rank:
            return ()
        return tuple(sorted(check_axis(a, rank) for a in self.ints(name)))

    def dtype_of(self, name: str) -> str | None:
        """A dtype that was asked for."""
        given = self.args.get(name)
        return None if given is None else dtype_name(given)

    # --- results ----------------------------------------------------------------------------------

    @property
    def type(self) -> TensorType:
        """Of the only (or first) result."""
        t = self.results[0]
        if t is None:
            raise ModelError("expected a result")
        return t

    @property
    def shape(self) -> tuple[Expr, ...]:
        return self.type.shape

    def finish(self, y: Node, k: int = 0) -> Node:
        """A result in the dtype that PyTorch says it has."""
        t = self.results[k]
        return y if t is None else as_dtype(y, t.dtype)

    # --- promotion --------------------------------------------------------------------------------

    def promoted(self, *names: str, kind: str = "DEFAULT") -> list[Node]:
        """Operands, tensors or numbers, in the dtype that PyTorch computes in (`kind`: one of its
        ELEMENTWISE_TYPE_PROMOTION_KIND). Half floats stay so where only tensors are involved: our
        operators widen them, and round once. A number beside them keeps its precision."""
        prims = library("torch._prims_common")
        way = getattr(prims.ELEMENTWISE_TYPE_PROMOTION_KIND, kind)
        fakes = [self.fakes[name] for name in names]
        wide, narrow = prims.elementwise_dtypes(*fakes, type_promotion_kind=way)
        dtype = dtype_name(wide)
        all_tensors = all(isinstance(self.args[name], Node) for name in names)
        if all_tensors and kind != "ALWAYS_BOOL" and dtype_name(narrow) in HALF:
            dtype = dtype_name(narrow)
        return [self.operand(name, dtype) for name in names]

    def operand(self, name: str, dtype: str) -> Node:
        """An argument, a tensor or a number, as a node of a dtype."""
        return as_node(self.args[name], dtype, self.sizes_of)


def as_node(value: Any, dtype: str, sizes: Sizes) -> Node:
    """A tensor, a number or a size in a dtype; integers wrap, as in PyTorch."""
    if isinstance(value, Node):
        return as_dtype(value, dtype)
    if isinstance(value, Expr):
        return as_dtype(sizes.number(value), dtype)
    kind = DTYPES[dtype].numpy
    if isinstance(value, int) and DTYPES[dtype].kind in "iu":
        low = np.iinfo(kind).min
        value = (value - int(low)) % 2 ** DTYPES[dtype].bits + int(low)
    return constant(np.asarray(value).astype(kind), kind)


def axis_slice(x: Node, axis: int, start: Expr | int, end: Expr | int) -> Node:
    """Elements start..end-1 along an axis."""
    starts, ends = (index(start),), (index(end),)
    return emit("slice", x, starts=starts, ends=ends, axes=(axis,), steps=(1,))


def moved_axes(x: Node, perm: Sequence[int]) -> Node:
    """Transposed, where that changes anything."""
    same = tuple(perm) == tuple(range(x.type.rank))
    return x if same else emit("transpose", x, perm=tuple(perm))
