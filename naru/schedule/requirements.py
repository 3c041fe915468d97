"""What input sizes must satisfy for a graph to make sense, where types could not settle it.

A reshape keeps the number of elements; no size is negative. Conditions over the dims of the inputs
are checked by `plan` before each run of new sizes; the manifest holds their texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from naru.ir.expr import Binary, Const, Expr, free_vars
from naru.ir.graph import Graph, Node, toposort
from naru.ir.simplify import FALSE, bounds, compare, prod
from naru.ir.text import print_expr

MOST = 64  # conditions a plan checks


@dataclass(frozen=True)
class Requirement:
    """A condition over input dims, and how to tell a user that it does not hold."""

    cond: Expr
    text: str


def requirements(g: Graph) -> tuple[Requirement, ...]:
    """The conditions of a graph and its bodies, each once; what ranges decide is left out."""
    given = set(g.symbols)
    found: dict[Expr, Requirement] = {}
    for r in _conditions(g, g):
        if not isinstance(r.cond, Const) and set(free_vars(r.cond)) <= given:
            found.setdefault(r.cond, r)
    return tuple(found.values())[:MOST]


def _conditions(g: Graph, top: Graph) -> Iterator[Requirement]:
    for n in toposort(*g.outputs):
        where = top.notes.get(n) or g.notes.get(n) or n.op
        yield from _of_node(n, where)
        for _, value in n.attrs:
            if isinstance(value, Graph):
                yield from _conditions(value, top)


def _of_node(n: Node, where: str) -> Iterator[Requirement]:
    for t in n.types:
        for d in t.shape:
            if bounds(d)[0] < 0:
                text = f"'{where}' needs {print_expr(d)} >= 0"
                yield Requirement(compare("ge", d, 0), text)
    if n.op == "reshape" and n.inputs[0] is not None:
        before, after = prod(n.inputs[0].type.shape), prod(n.type.shape)
        if before is not after:
            text = f"'{where}' reshapes {print_expr(before)} elements to {print_expr(after)}"
            yield Requirement(_equal(before, after), text)


def _equal(a: Expr, b: Expr) -> Expr:
    found = compare("eq", a, b)
    # Ranges alone never prove two formulas different: the check at run time says which one it was.
    return Binary("eq", a, b) if found is FALSE else found
