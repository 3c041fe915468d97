"""Sequences whose length is known while the model is read: tuples of nodes, which cost nothing at
run time. That is what exporters make of lists of tensors. All others live on the host
(onnx_plan.py); Unsupported leads there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from onnx import GraphProto, NodeProto, helper

from naru.errors import ModelError
from naru.frontend.onnx_movement import slice_axis
from naru.frontend.onnx_node import Unsupported, check_axis, emit, graph_of
from naru.frontend.onnx_scope import Items, Value
from naru.ir.expr import Const
from naru.ir.graph import Node
from naru.ir.simplify import ONE, known
from naru.ops.registry import constant

MOST = 4096  # elements: each becomes nodes of the graph
Contents: TypeAlias = "Callable[[Node], np.ndarray | None]"
Body: TypeAlias = "Callable[[GraphProto, Sequence[Value]], list[Value]]"


class SequenceNode:
    """A node whose operands may be sequences. `contents`: of a node that is constant; `body`: the
    values that a body makes of its inputs."""

    def __init__(
        self, node: NodeProto, values: Sequence[Value | None], contents: Contents, body: Body
    ) -> None:
        self.node, self.values = node, values
        self.contents, self.body = contents, body

    def attr(self, name: str, default: Any) -> Any:
        found = next((a for a in self.node.attribute if a.name == name), None)
        if found is not None and found.ref_attr_name:
            raise ModelError("it refers to an attribute of a function, but is in none")
        return default if found is None else helper.get_attribute_value(found)

    def items(self, i: int) -> tuple[Node, ...]:
        found = self.values[i]
        if not isinstance(found, Items):
            raise ModelError(f"operand {i}: expected a sequence, found a tensor")
        return found.nodes

    def tensor(self, i: int) -> Node:
        found = self.values[i]
        if not isinstance(found, Node):
            raise ModelError(f"operand {i}: expected a tensor, found a sequence")
        return found

    def has(self, i: int) -> bool:
        return i < len(self.values) and self.values[i] is not None

    def position(self, i: int, count: int, *, insert: bool = False) -> int | None:
        """Operand i as a place among `count` elements; None where it is left out."""
        if not self.has(i):
            return None
        found = self.contents(self.tensor(i))
        if found is None:
            raise Unsupported("a position that only data tell")
        at, most = int(found.reshape(-1)[0]), count if insert else count - 1
        if not -count <= at <= most:
            raise ModelError(f"position {at} is outside a sequence of {count} elements")
        return at + count if at < 0 else at


def _construct(c: SequenceNode) -> Items:
    nodes = tuple(c.tensor(i) for i in range(len(c.values)))
    if len({n.type.dtype for n in nodes}) > 1:
        raise ModelError("expected elements of one element type")
    return Items(nodes)


def _empty(c: SequenceNode) -> Items:
    return Items(())


def _at(c: SequenceNode) -> Node:
    nodes = c.items(0)
    index = c.tensor(1)
    alike = len({n.type for n in nodes}) == 1
    if c.contents(index) is None and alike:
        at = index if index.type.rank == 0 else emit("reshape", index, shape=())
        return emit("gather", _joined(nodes, 0, new=True), at, axis=0)
    at = c.position(1, len(nodes))
    if at is None:
        raise ModelError("expected a position, found none")
    return nodes[at]


def _insert(c: SequenceNode) -> Items:
    nodes = c.items(0)
    at = c.position(2, len(nodes), insert=True)
    at = len(nodes) if at is None else at
    return Items((*nodes[:at], c.tensor(1), *nodes[at:]))


def _erase(c: SequenceNode) -> Items:
    nodes = c.items(0)
    at = c.position(1, len(nodes))
    at = len(nodes) - 1 if at is None else at
    if at < 0:
        raise ModelError("expected a sequence with elements, found an empty one")
    return Items((*nodes[:at], *nodes[at + 1 :]))


def _length(c: SequenceNode) -> Node:
    return constant(len(c.items(0)), np.int64)


def _concat(c: SequenceNode) -> Node:
    nodes, axis = c.items(0), c.attr("axis", None)
    if axis is None:
        raise ModelError("expected the attribute 'axis'")
    if not nodes:
        raise ModelError("expected a sequence with elements to join, found an empty one")
    return _joined(nodes, axis, new=bool(c.attr("new_axis", 0)))


def _joined(nodes: Sequence[Node], axis: int, *, new: bool) -> Node:
    rank = nodes[0].type.rank + new
    if any(n.type.rank + new != rank for n in nodes):
        raise ModelError("expected elements of one rank")
    at = check_axis(axis, rank)
    if new:
        shapes = [(*n.type.shape[:at], ONE, *n.type.shape[at:]) for n in nodes]
        nodes = [emit("reshape", n, shape=s) for n, s in zip(nodes, shapes, strict=True)]
    return emit("concat", *nodes, axis=at) if len(nodes) > 1 else nodes[0]


def _split(c: SequenceNode) -> Items:
    x = c.tensor(0)
    axis = check_axis(c.attr("axis", 0), x.type.rank)
    size = known(x.type.shape[axis])
    given = c.contents(c.tensor(1)) if c.has(1) else np.array(1)
    if given is None or size is None:
        raise Unsupported("pieces whose number only data tell")
    if given.ndim == 0:
        if given < 1:
            raise ModelError(f"expected chunks of 1 or more, found {given}")
        chunk = int(given)
        starts = range(0, size, chunk)
        _check_count(len(starts))
        sizes = [min(chunk, size - k) for k in starts]
    else:
        _check_count(len(given))
        sizes = [int(n) for n in given]
    if sum(sizes) != size or min(sizes, default=0) < 0:
        raise ModelError(f"expected sizes that sum to {size}, found {sizes[:40]}")
    ends = np.cumsum(sizes).tolist()
    parts = [
        slice_axis(x, axis, Const(end - n), Const(n)) for n, end in zip(sizes, ends, strict=True)
    ]
    if not c.has(1) and not c.attr("keepdims", 1):
        shape = (*x.type.shape[:axis], *x.type.shape[axis + 1 :])
        parts = [emit("reshape", p, shape=shape) for p in parts]
    return Items(tuple(parts))


def _check_count(pieces: int) -> None:
    if pieces > MOST:
        raise Unsupported(f"{pieces} pieces")


def _same(c: SequenceNode) -> Value:
    found = c.values[0] if c.values else None
    if found is None:
        raise Unsupported("an optional without a value")
    return found


def _has_element(c: SequenceNode) -> Node:
    return constant(bool(c.values) and c.values[0] is not None, np.bool_)


def _map(c: SequenceNode) -> Sequence[Value]:
    """The body once for each element."""
    count = len(c.items(0))
    for v in c.values:
        if isinstance(v, Items) and len(v.nodes) != count:
            raise ModelError(f"expected sequences of {count} elements, found {len(v.nodes)}")
    rows: list[list[Value]] = []
    for k in range(count):
        given = [v.nodes[k] if isinstance(v, Items) else v for v in c.values if v is not None]
        rows.append(c.body(graph_of(c.node.attribute, "body"), given))
    nodes = [[v for v in column if isinstance(v, Node)] for column in zip(*rows, strict=True)]
    if any(len(column) != count for column in nodes):
        raise Unsupported("a body that gives no tensor")
    return [Items(tuple(column)) for column in nodes] or [Items(())] * len(c.node.output)


Handler: TypeAlias = "Callable[[SequenceNode], Value | Sequence[Value]]"
# What reads or makes sequences.
TABLE: Mapping[str, Handler] = {
    "SequenceConstruct": _construct,
    "SequenceEmpty": _empty,
    "SequenceAt": _at,
    "SequenceInsert": _insert,
    "SequenceErase": _erase,
    "SequenceLength": _length,
    "SequenceMap": _map,
    "ConcatFromSequence": _concat,
    "SplitToSequence": _split,
    "Optional": _same,
}
# What takes tensors too, and is found here for sequences only.
OF_SEQUENCES: Mapping[str, Handler] = {
    "Identity": _same,
    "OptionalGetElement": _same,
    "OptionalHasElement": _has_element,
}
