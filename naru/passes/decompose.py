"""Replaces ops that are defined by other ops."""

from __future__ import annotations

from naru.ir.graph import Graph, Node
from naru.ops.registry import OPS
from naru.passes.registry import graph_pass
from naru.passes.rewrite import rewrite


@graph_pass
def decompose(g: Graph, *, keep: tuple[str, ...] = ()) -> Graph:
    """Every node whose op has `expand` becomes that composition, until no such node is left.

    `keep` names ops that a later stage handles as a whole.
    """

    def expand(n: Node) -> Node:
        op = OPS.get(n.op)
        if op is None or op.expand is None or n.op in keep:
            return n
        return op.expand(n)

    return rewrite(g, expand, repeat=True)
