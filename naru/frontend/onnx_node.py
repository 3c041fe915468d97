"""One ONNX node as the op tables see it: operands are our nodes, attributes are typed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from onnx import AttributeProto, GraphProto

from naru.dtypes import DTYPES
from naru.errors import ModelError
from naru.ir.expr import INT_MAX, Const, Expr
from naru.ir.graph import Attr, Node
from naru.ir.simplify import index, known, prod
from naru.ops.operands import shape_text
from naru.ops.registry import OPS, apply, constant

if TYPE_CHECKING:
    from naru.frontend.onnx_import import Importer
    from naru.frontend.onnx_scope import Scope

KIND_NAMES = {int(v): k for k, v in AttributeProto.AttributeType.items()}


class Unsupported(Exception):
    """A well-formed thing that naru does not compile yet: why, and what to try. Collected, so that
    the user sees all of them at once."""

    def __init__(self, reason: str, hint: str | None = None) -> None:
        self.reason, self.hint = reason, hint
        super().__init__(reason)


Resolve: TypeAlias = Callable[[tuple[Expr, ...]], Sequence[Expr]]


MOST_NUMBERS = 64  # that become sizes: two for each dim that arrays have


class DependsOnData(Exception):
    """A handler needs numbers (operand `at`) that are known only at run time. The importer binds
    them to symbols and calls the handler again, which then finds symbols: one a number, or what
    `resolve` makes of the numbers (sizes, none below `least`). `example`: numbers that make sense;
    `rank`: of the tensor whose axes they are, from -rank on.
    """

    def __init__(
        self,
        at: int,
        what: str,
        resolve: Resolve | None,
        least: int,
        example: Sequence[Expr],
        rank: int | None = None,
    ) -> None:
        self.at, self.what, self.resolve, self.least = at, what, resolve, least
        self.rank = rank
        self.example = tuple(example)
        super().__init__(what)


class AlreadyReported(Unsupported):
    """Part of the node is unsupported, and has been reported under its own name."""

    def __init__(self) -> None:
        super().__init__("see the nodes inside")


def emit(name: str, *inputs: Node | None, **attrs: Attr) -> Node:
    """A node of the registry; Unsupported when there is no such op (yet)."""
    if name not in OPS:
        raise Unsupported(f"naru has no op {name!r} yet")
    return apply(name, *inputs, **attrs)


@dataclass
class OnnxNode:
    """`version` is the opset in force; `label` names the node in messages; `inputs` has None where
    an optional one is left out; `outputs` are the names it defines ("" for one left out)."""

    op: str
    label: str
    version: int
    inputs: Sequence[Node | None]
    outputs: Sequence[str]
    attrs: Mapping[str, AttributeProto]
    importer: Importer
    scope: Scope

    def __getitem__(self, i: int) -> Node:
        """Operand i, which must be there."""
        n = self.find(i)
        if n is None:
            raise ModelError(f"expected an operand at position {i}, found none")
        return n

    def find(self, i: int) -> Node | None:
        """Operand i, or None where it is left out."""
        return self.inputs[i] if 0 <= i < len(self.inputs) else None

    def operands(self) -> list[Node]:
        """All operands of a variadic op."""
        return [self[i] for i in range(len(self.inputs))]

    def wants(self, i: int) -> bool:
        """Is output i given a name?"""
        return i < len(self.outputs) and bool(self.outputs[i])

    def has(self, name: str) -> bool:
        return name in self.attrs

    def _value(self, name: str, kind: int) -> Any:
        a = self.attrs.get(name)
        if a is None:
            return None
        if a.type != kind:
            raise ModelError(
                f"attribute {name!r}: expected {KIND_NAMES[kind]}, "
                f"found {KIND_NAMES.get(a.type, a.type)}"
            )
        return a

    def get_int(self, name: str, default: int) -> int:
        a = self._value(name, AttributeProto.INT)
        return default if a is None else a.i

    def get_flag(self, name: str, default: bool) -> bool:
        return bool(self.get_int(name, default))

    def get_float(self, name: str, default: float) -> float:
        a = self._value(name, AttributeProto.FLOAT)
        return default if a is None else a.f

    def get_ints(self, name: str) -> tuple[int, ...] | None:
        a = self._value(name, AttributeProto.INTS)
        return None if a is None else tuple(a.ints)

    def get_floats(self, name: str) -> tuple[float, ...]:
        """The numbers of an attribute; none where it is left out."""
        a = self._value(name, AttributeProto.FLOATS)
        return () if a is None else tuple(a.floats)

    def get_strs(self, name: str) -> tuple[str, ...] | None:
        a = self._value(name, AttributeProto.STRINGS)
        return None if a is None else tuple(s.decode("utf-8", "replace") for s in a.strings)

    def get_texts(self, name: str) -> tuple[int, ...] | None:
        """The numbers of the texts in an attribute (see onnx_data.Texts)."""
        given = self.get_strs(name)
        return None if given is None else tuple(self.text_number(s) for s in given)

    def text_number(self, text: str) -> int:
        texts = self.importer.tensors.texts
        if texts is None:
            raise Unsupported("texts in native code", "compile the whole model")
        return texts.number(text)

    def is_text(self, name: str) -> bool:
        """Does a value hold texts?"""
        texts = self.importer.tensors.texts
        return texts is not None and name in texts.values

    def refuse_text_results(self) -> None:
        """ModelError where a result would be texts: for what computes, and may move as well."""
        if any(map(self.is_text, self.outputs)):
            raise ModelError("texts can be moved, and not computed with", hint='mode = "nearest"')

    def get_str(self, name: str, default: str, allowed: Sequence[str] = ()) -> str:
        """A string attribute; ModelError if it is not one of `allowed`."""
        a = self._value(name, AttributeProto.STRING)
        text = default if a is None else a.s.decode("utf-8", "replace")
        if allowed and text not in allowed:
            raise ModelError(
                f"attribute {name!r}: expected one of {', '.join(allowed)}, found {text!r}"
            )
        return text

    def get_graph(self, name: str) -> GraphProto:
        return graph_of(self.attrs.values(), name)

    def array(self, i: int) -> np.ndarray | None:
        """The contents of operand i if they are constant; None if it is left out or computed."""
        n = self.find(i)
        return None if n is None else self.importer.constants.find(n)

    def sizes(
        self,
        i: int,
        what: str,
        resolve: Resolve | None = None,
        *,
        least: int = -INT_MAX,
        example: Sequence[Expr | int] = (),
        rank: int | None = None,
    ) -> tuple[Expr, ...] | None:
        """Operand i, an integer vector or scalar, as index expressions; None where it is left out.
        Where it depends on data, these are symbols from `least` on: one an element, or what
        `resolve` makes of the elements (see DependsOnData)."""
        n = self.find(i)
        if n is None:
            return None
        array = self.importer.constants.find(n)
        values = n.type.value
        if array is not None:
            values = tuple(Const(int(v)) for v in array.reshape(-1))
        if values is None and known(prod(n.type.shape)) == 0:
            values = ()
        if values is None:
            count = known(prod(n.type.shape))
            if count is None or count > MOST_NUMBERS:
                found = "unknown number" if count is None else f"{count} numbers"
                raise Unsupported(f"{what} (operand {i}): {found} that only data tell")
            raise DependsOnData(i, what, resolve, least, tuple(map(index, example)), rank)
        bound = n.op == "bind_dim"  # it was resolved when it was bound
        return values if bound or resolve is None else tuple(resolve(values))

    def fixed(self, i: int, what: str) -> tuple[int, ...] | None:
        """Operand i as plain ints, for what no symbol can stand for; None where it is left out."""
        n = self.find(i)
        if n is None:
            return None
        if n.type.value is None and self.importer.constants.find(n) is None:
            raise Unsupported(
                f"{what} (operand {i}) is computed from the values of tensors",
                "make it a constant, or compute it from shapes only",
            )
        found = self.sizes(i, what) or ()
        values = [e.value for e in found if isinstance(e, Const)]
        if len(values) != len(found):
            raise Unsupported(f"{what} (operand {i}) depends on the size of an input")
        return tuple(int(v) for v in values)

    def held(self, n: Node) -> Node:
        """n, for readers whose sizes are operands of this node that only data tell."""
        bound = [x for x in self.inputs if x is not None and x.op == "bind_dim"]
        return emit("with_sizes", n, *bound) if bound else n

    def is_fixed(self, i: int) -> bool:
        """Is operand i left out, or known as plain numbers? (Numbers that were bound to no symbols
        look as if they were.)"""
        n = self.find(i)
        return n is None or (n.op != "bind_dim" and self.importer.constants.find(n) is not None)

    def axis(self, default: int, rank: int, name: str = "axis") -> int:
        """The attribute `axis`, brought into 0..rank-1."""
        return check_axis(self.get_int(name, default), rank)


def graph_of(attributes: Iterable[AttributeProto], name: str) -> GraphProto:
    """The graph in an attribute, which must be there."""
    for a in attributes:
        if a.name == name and a.type == AttributeProto.GRAPH:
            return a.g
    raise ModelError(f"expected a graph as the attribute {name!r}")


def check_axis(axis: int, rank: int) -> int:
    """A possibly negative axis as a non-negative one."""
    if not -rank <= axis < rank:
        raise ModelError(f"expected an axis in {-rank}..{rank - 1}, found {axis}")
    return axis % rank


def type_text(n: Node | None) -> str:
    """`f32[n, 4]`; `-` for an operand left out."""
    return "-" if n is None else f"{n.type.dtype}{shape_text(n.type.shape)}"


def as_dtype(x: Node, dtype: str) -> Node:
    """x in a dtype: itself where it has it."""
    return x if x.type.dtype == dtype else emit("cast", x, to=dtype)


def as_scalar(n: Node) -> Node:
    """An operand of one element as a scalar; some files give it as a vector."""
    return n if n.type.rank == 0 else emit("reshape", n, shape=())


def scalar(value: float | bool, like: Node) -> Node:
    """A rank-0 constant of the dtype of a node."""
    return constant(value, DTYPES[like.type.dtype].numpy)


def vector(values: Sequence[int]) -> Node:
    """An i64 vector constant."""
    return constant(list(values), np.int64)
