"""Elementwise work on what is seen through a view is done on what lies behind it, which is seen
instead: it can then follow the sums of products that made that, in one kernel.

    add(view(rows), x)   becomes   view(add(rows, view'(x)))
"""

from __future__ import annotations

from naru.ir.expr import Expr
from naru.ir.graph import Layout, Node, TensorType
from naru.ir.simplify import ONE
from naru.ops.registry import OPS, apply
from naru.passes.simplify_algebra import operand

FAR = 48  # operations behind a sum of products: more are not in one kernel anyway


def channels_last(rank: int) -> Layout:
    """N, spatial…, C."""
    return Layout((0, *range(2, rank), 1))


def laid(t: TensorType, layout: Layout | None) -> TensorType:
    """The type, in another layout."""
    return TensorType(t.dtype, t.shape, layout, t.value)


def before_view(n: Node, inputs: list[Node | None], alone: set[Node]) -> Node | None:
    """Elementwise work on rows of channels that are seen as an image (a view that n alone reads)
    and on images: done on the rows, so that it can follow what makes them in one kernel."""
    last = channels_last(n.type.rank)
    whole = [x for x in inputs if x is not None and x.type.shape == n.type.shape]
    if len(whole) < len(inputs) or any(x.type.layout is not last for x in (n, *whole)):
        return None
    views = [x for x in whole if x.op == "transpose_view" and x in alone]
    rows = views[0].inputs[0] if len(views) == 1 else None
    if rows is None or rows.type.layout is not None:
        return None
    seen = ("perm", last.order)
    back = TensorType(n.type.dtype, rows.type.shape)
    operands = (
        rows
        if x is views[0]
        else Node("transpose_view", (x,), (seen,), (TensorType(x.type.dtype, rows.type.shape),))
        for x in whole
    )
    made = Node(n.op, tuple(operands), n.attrs, (back,))
    return Node("transpose_view", (made,), views[0].attrs, (laid(n.type, last),))


def before_reshape(n: Node, inputs: list[Node | None]) -> Node | None:
    """Elementwise work on rows of numbers that are seen in another shape (of a batch, as tokens of
    each text): done on the rows."""
    views = [x for x in inputs if x is not None and _shows_sums(x, n.type.shape)]
    if not views or n.type.layout is not None or len(n.types) != 1:
        return None
    rows = operand(views[0]).type.shape
    operands: list[Node | None] = []
    for x in inputs:
        moved = None if x is None else _as_rows(x, n.type.shape, rows)
        if x is not None and moved is None:
            return None
        operands.append(moved)
    made = Node(n.op, tuple(operands), n.attrs, (TensorType(n.type.dtype, rows),))
    return apply("reshape", made, shape=n.type.shape)


def _shows_sums(x: Node, shape: tuple[Expr, ...]) -> bool:
    """Is x rows in that shape, which a sum of products made, and elementwise work on it?"""
    if x.op != "reshape" or x.type.shape != shape:
        return False
    rows = operand(x).type
    if rows.rank != 2 or rows.layout is not None:
        return False
    todo, seen = [operand(x)], set[Node]()
    while todo and len(seen) < FAR:
        made = todo.pop()
        kind = OPS[made.op].kind
        if kind == "contraction":
            return True
        if kind == "elementwise" and made not in seen:
            seen.add(made)
            wide = (y for y in made.inputs if y is not None and y.type.shape == rows.shape)
            todo += wide
    return False


def _as_rows(x: Node, shape: tuple[Expr, ...], rows: tuple[Expr, ...]) -> Node | None:
    """An operand of elementwise work on a shape, as it is where rows stand for it; None where it is
    spread over them otherwise than whole, or each row alike."""
    if x.type.layout is not None:
        return None
    if x.type.shape == shape:
        shown = operand(x) if x.op == "reshape" else None
        plain = shown is not None and shown.type.shape == rows and shown.type.layout is None
        return shown if plain else apply("reshape", x, shape=rows)
    wide = tuple(d for d in x.type.shape if d is not ONE)
    if wide and not (wide == (rows[-1],) == (shape[-1],) == x.type.shape[-1:]):
        return None
    return x if x.type.rank <= len(rows) else apply("reshape", x, shape=wide)
