"""ONNX operators that order and choose: TopK, Unique, NonMaxSuppression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from naru.dtypes import DTYPES, is_float
from naru.errors import ModelError
from naru.frontend.onnx_node import OnnxNode, check_axis, emit
from naru.frontend.onnx_signatures import Handler
from naru.ir.expr import Const, Expr
from naru.ir.graph import Node, get_output
from naru.ir.simplify import ONE, known, minimum, mul, prod
from naru.ops.registry import constant


def _last(x: Node, axis: int) -> tuple[int, ...]:
    """The axes with one moved to the end."""
    return (*(k for k in range(x.type.rank) if k != axis), axis)


def _transposed(x: Node, perm: Sequence[int]) -> Node:
    same = tuple(perm) == tuple(range(x.type.rank))
    return x if same else emit("transpose", x, perm=tuple(perm))


def top_k(c: OnnxNode) -> Sequence[Node]:
    """(values, positions); k is an operand since opset 10, an attribute before. The order is that
    of `sorted` always: without it, ONNX leaves it open."""
    x = c[0]
    axis = c.axis(-1, x.type.rank) if x.type.rank else 0
    if not x.type.rank:
        raise ModelError("expected an operand of rank 1 or more, found a scalar")
    k = (Const(c.get_int("k", 0)),) if c.version < 10 else c.sizes(1, "k")
    if k is None or len(k) != 1:
        raise ModelError(f"expected one number as k, found {0 if k is None else len(k)}")
    if c.version < 10 and not c.has("k"):
        raise ModelError("expected an attribute 'k', found none")
    perm = _last(x, axis)
    moved = _transposed(x, perm)
    outer = moved.type.shape[:-1]
    rows = emit("reshape", moved, shape=(prod(outer), x.type.shape[axis]))
    largest = c.get_flag("largest", True)
    if k[0] is rows.type.shape[1]:
        pair = sort_rows(rows, largest=largest)
    else:
        found = emit("top_k", rows, k=k[0], largest=largest)
        pair = get_output(found, 0), get_output(found, 1)
    back = tuple(perm.index(j) for j in range(x.type.rank))
    return [_transposed(emit("reshape", one, shape=(*outer, k[0])), back) for one in pair]


def sort_rows(rows: Node, *, largest: bool) -> tuple[Node, Node]:
    """Each row in order, and the positions that its elements had."""
    keys = _keys(rows) if is_float(rows.type.dtype) else rows
    found = emit("sort", keys, largest=largest)
    order = get_output(found, 1)
    values = emit("gather_elements", rows, order, axis=1) if keys is not rows else None
    return get_output(found, 0) if values is None else values, order


def _keys(x: Node) -> Node:
    """Integers in the order of floats: their bits, those of negative ones turned around. Zeros of
    both signs are equal, and NaNs are, and the greatest."""
    wide = x if x.type.dtype == "f64" else emit("cast", x, to="f32")
    to, most = ("i64", 2**63 - 1) if x.type.dtype == "f64" else ("i32", 2**31 - 1)
    kind = DTYPES[to].numpy
    bits = emit("bit_cast", wide, source=wide.type.dtype, to=to)
    turned = emit("bitwise_xor", bits, constant(most, kind))
    key = emit("where", emit("less", bits, constant(0, kind)), turned, bits)
    zero = emit("equal", wide, constant(0, DTYPES[wide.type.dtype].numpy))
    key = emit("where", zero, constant(0, kind), key)
    return emit("where", emit("isnan", wide), constant(most, kind), key)


def _bound(c: OnnxNode, count: Node, what: str, most: Expr) -> Node:
    """A new symbol for a count that data decide."""
    symbol = c.importer.symbols.fresh(f"{next((o for o in c.outputs if o), what)}_count")
    return emit("bind_dim", count, symbols=(symbol,), bounds=(most,))


def unique(c: OnnxNode) -> Sequence[Node]:
    """(values, first positions, number of each element's value, counts), of elements or, with
    `axis`, of slices."""
    x = c[0]
    by_order = c.get_flag("sorted", True)
    axis = check_axis(c.get_int("axis", 0), x.type.rank) if c.has("axis") else None
    if axis is None:
        axis, x = 0, emit("reshape", x, shape=(prod(x.type.shape),))
    size = x.type.shape[axis]
    rest = tuple(k for k in range(x.type.rank) if k != axis)
    slices = _transposed(x, (axis, *rest))
    rows = emit("reshape", slices, shape=(size, prod(x.type.shape[k] for k in rest)))
    groups = emit("unique_groups", rows, _sorted_rows(rows), sorted=by_order)
    bound = _bound(c, get_output(groups, 1), "unique", size)
    filled = emit("unique_fill", get_output(groups, 0), bound)
    first = get_output(filled, 0)
    values = emit("gather", x, first, axis=axis)
    return values, first, get_output(groups, 0), get_output(filled, 1)


def _sorted_rows(rows: Node) -> Node:
    """The positions of rows in their order. Rows of one number are sorted as numbers, faster."""
    size, width = rows.type.shape
    if width is not ONE:
        return emit("sort_order", rows)
    flat = emit("reshape", rows, shape=(ONE, size))
    if flat.type.dtype == "bool":
        flat = emit("cast", flat, to="u8")
    return emit("reshape", sort_rows(flat, largest=False)[1], shape=(size,))


def non_max_suppression(c: OnnxNode) -> Node:
    """[count, 3]: (batch, class, box) of the boxes that are kept, the best of each class first."""
    boxes, scores = c[0], c[1]
    one = [c.find(k) for k in (2, 3, 4)]
    for n in one:
        if n is not None and any(known(d) not in (1, None) for d in n.type.shape):
            raise ModelError("expected one number as maximum and threshold, found more")
    most = one[0] if one[0] is not None else constant(np.zeros(1), np.int64)
    overlap = one[1] if one[1] is not None else constant(np.zeros(1), np.float32)
    least = one[2] if one[2] is not None else constant(np.zeros(1), np.float32)
    numbers = [emit("reshape", n, shape=(ONE,)) for n in (most, overlap, least)]
    kept = emit(
        "non_max_suppression",
        boxes,
        scores,
        *numbers,
        center=c.get_flag("center_point_box", False),
        all_scores=one[2] is None,
    )
    places, counts = get_output(kept, 0), get_output(kept, 1)
    total = emit("reduce_sum", emit("reshape", counts, shape=(prod(counts.type.shape),)), axes=(0,),
                 keepdims=True)  # fmt: skip
    batches, classes, count = scores.type.shape
    limit = c.array(2)
    if limit is not None and limit.size == 1:
        count = minimum(count, max(int(limit.reshape(-1)[0]), 0))
    bound = _bound(c, total, "boxes", mul(batches, classes, count))
    return emit("non_max_suppression_fill", places, counts, bound)


TABLE: dict[str, Handler] = {
    "NonMaxSuppression": non_max_suppression,
    "TopK": top_k,
    "Unique": unique,
}
