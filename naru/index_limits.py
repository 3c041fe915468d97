"""Which inputs of a graph are used as indices, and into how much: token ids, positions, classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from naru.ir.expr import Var, free_vars
from naru.ir.graph import Graph, Node, toposort
from naru.ir.simplify import evaluate

# Ops through which an index comes unchanged, and the operands it may come by.
_FIRST = (
    "identity", "cast", "reshape", "transpose", "expand", "tile", "repeat", "slice", "gather",
    "clip",
)  # fmt: skip
_CARRIES: dict[str, slice] = {
    **dict.fromkeys(_FIRST, slice(0, 1)),
    **dict.fromkeys(("concat", "min", "max"), slice(None)),
    "where": slice(1, 3),
}


def index_limits(g: Graph, sizes: Mapping[str, int]) -> dict[str, int]:
    """For each input whose elements reach the indices of a gather: the number that they must stay
    below, given the sizes of the symbols by name. 1 for what may only be 0."""
    found: dict[str, int] = {}
    for n, limit in _limited(g, sizes):
        name = str(n.attr("name"))
        found[name] = min(found.get(name, limit), limit)
    return found


def _limited(g: Graph, sizes: Mapping[str, int]) -> Iterator[tuple[Node, int]]:
    """(input of the graph, limit) for every way from one to an index."""
    for n in toposort(*g.outputs):
        if n.op in ("gather", "gather_elements"):
            size = _indexed(n, sizes)
            if size is not None:
                yield from _origins(n.inputs[1], size)
        for body, first in _bodies(n):
            position = {i: k for k, i in enumerate(body.inputs)}
            for inner, limit in _limited(body, sizes):
                if inner in position:
                    yield from _origins(n.inputs[position[inner] + first], limit)


def _bodies(n: Node) -> Iterator[tuple[Graph, int]]:
    """The bodies of control flow, and which operand is a body's first input."""
    first = 1 if n.op == "if" else 0
    for name in ("then", "orelse", "body"):
        body = n.attr(name)
        if n.op in ("if", "loop") and isinstance(body, Graph):
            yield body, first


def _indexed(n: Node, sizes: Mapping[str, int]) -> int | None:
    """The size of the axis that a gather looks into; None where only a run tells."""
    x, axis = n.inputs[0], n.attr("axis", 0)
    assert x is not None
    assert isinstance(axis, int)
    size = x.type.shape[axis]
    symbols = free_vars(size)
    if any(v.name not in sizes for v in symbols):
        return None
    values: dict[Var, int] = {v: sizes[v.name] for v in symbols}
    return evaluate(size, values)


def _origins(n: Node | None, limit: int) -> Iterator[tuple[Node, int]]:
    """The inputs that an index comes from, each with the limit on its own elements."""
    stack, seen = [(n, limit)], set[Node]()
    while stack:
        n, limit = stack.pop()
        if n is None or n in seen:
            continue
        seen.add(n)
        if n.op == "input":
            yield n, max(limit, 1)
        elif n.op in _CARRIES:
            stack += [(i, limit) for i in n.inputs[_CARRIES[n.op]]]
        elif n.op == "add":
            stack += [(i, _without(limit, j)) for i, j in (n.inputs, n.inputs[::-1])]


def _without(limit: int, added: Node | None) -> int:
    """The limit on what something is added to: a constant, or else half of it."""
    data = None if added is None else added.data
    return limit - int(data.max(initial=0)) if data is not None else (limit + 1) // 2
