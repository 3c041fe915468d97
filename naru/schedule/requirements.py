"""What input sizes must satisfy for a graph to make sense, where types could not settle it.

A reshape keeps the number of elements; no size is negative; dims that an operator needs to be
equal are; there is something to read from. Conditions over the dims of the inputs are checked by
`plan` before each run of new sizes, those over sizes that data decide by the driver as soon as
these are known, those of a branch where it is taken; the manifest holds their texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from naru.errors import UnsupportedError
from naru.ir.expr import Binary, Const, Expr, free_vars
from naru.ir.graph import Graph, Node, toposort
from naru.ir.simplify import FALSE, bounds, compare, prod
from naru.ir.text import print_expr
from naru.ops.operands import assumed_equalities, conditions_needed
from naru.ops.registry import OPS

MOST = 64  # conditions a plan checks
Branch: TypeAlias = tuple[str, tuple[Node, ...]]


@dataclass(frozen=True)
class Requirement:
    """A condition over dims, and how to tell a user that it does not hold."""

    cond: Expr
    text: str
    needed: bool = False  # code would read beyond an operand where it does not hold
    late: bool = False  # it depends on data
    branch: Branch | None = None  # of an `if` or a loop: it is asked for where that is taken


def branches(n: Node) -> dict[str, Branch]:
    """What the bodies of an `if` or a loop, which need not run at all, are called here. (Passes
    replace bodies, not their inputs.)"""
    bodies = {k: v for k, v in n.attrs if n.op in ("if", "loop") and isinstance(v, Graph)}
    return {k: (k, v.inputs) for k, v in bodies.items()}


def requirements(g: Graph) -> tuple[Requirement, ...]:
    """The conditions of a graph and its bodies, each once; what ranges decide is left out. First
    those over input dims, in the order in which the plan checks them.

    Code relies on equal dims, so each such condition must be one that the plan can check: raises
    UnsupportedError where there are more than MOST."""
    given = set(g.symbols)
    found: dict[Expr, Requirement] = {}
    late: dict[tuple[Expr, Branch | None], Requirement] = {}
    for r in _conditions(g, g, None):
        if isinstance(r.cond, Const):
            continue
        if set(free_vars(r.cond)) <= given and r.branch is None:
            found.setdefault(r.cond, r)
        else:
            late.setdefault((r.cond, r.branch), replace(r, late=True))
    late = {k: r for k, r in late.items() if r.cond not in found}
    ordered = sorted(found.values(), key=lambda r: not r.needed)
    if len(ordered) > MOST and ordered[MOST].needed:
        raise UnsupportedError(
            [f"dims must be equal in more than {MOST} ways, as {ordered[0].text}"]
        )
    return (*ordered[:MOST], *late.values())


def _conditions(g: Graph, top: Graph, branch: Branch | None) -> Iterator[Requirement]:
    for n in toposort(*g.outputs):
        where = top.notes.get(n) or g.notes.get(n) or n.op
        for r in _of_node(n, where):
            yield replace(r, branch=branch)
        taken = branches(n)
        for name, value in n.attrs:
            if isinstance(value, Graph):
                yield from _conditions(value, top, taken.get(name, branch))


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

    yield from _equal_dims(n, where)


def _equal_dims(n: Node, where: str) -> Iterator[Requirement]:
    """The dims that inference took to be equal."""
    op = OPS.get(n.op)
    if op is None or (op.kind == "control" and n.op != "with_sizes") or not n.inputs:
        return
    with assumed_equalities() as assumed, conditions_needed() as needed:
        op.infer([None if x is None else x.type for x in n.inputs], dict(n.attrs))
    for e in assumed:
        text = f"'{where}' needs {print_expr(e.a)} == {print_expr(e.b)}: {e.what}"
        yield Requirement(_equal(e.a, e.b), text, needed=True)
    for c in needed:
        yield Requirement(c.cond, f"'{where}' needs {c.what}", needed=True)


def _equal(a: Expr, b: Expr) -> Expr:
    found = compare("eq", a, b)
    # Ranges alone never prove two formulas different: the check at run time says which one it was.
    return Binary("eq", a, b) if found is FALSE else found
