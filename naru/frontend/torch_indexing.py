"""ATen operators that read or write at positions which data give, and that put in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from naru.dtypes import DTYPES, is_float
from naru.frontend.onnx_node import Unsupported, as_dtype, emit, scalar
from naru.frontend.onnx_shapes import size_of
from naru.frontend.onnx_sorting import sort_rows
from naru.frontend.torch_call import AtenCall, Handler, as_node, axis_slice, moved_axes
from naru.frontend.torch_movement import along
from naru.frontend.torch_sizes import is_unbacked
from naru.ir.expr import Const, Expr
from naru.ir.graph import Node, get_output
from naru.ir.simplify import ONE, known, prod
from naru.ir.simplify import add as add_dims
from naru.ops.registry import constant


def as_index(n: Node) -> Node:
    """Positions as the operators take them."""
    return n if n.type.dtype in ("i32", "i64") else emit("cast", n, to="i64")


def embedding(c: AtenCall) -> Node:
    return emit("gather", c["weight"], as_index(c["indices"]), axis=0)


def index_select(c: AtenCall) -> Node:
    x, at = c["self"], as_index(c["index"])
    if not x.type.rank:
        return emit("expand", emit("reshape", x, shape=()), shape=c.shape)
    at = emit("reshape", at, shape=(prod(at.type.shape),))
    return emit("gather", x, at, axis=c.axis("dim", x.type.rank))


def gather(c: AtenCall) -> Node:
    x, at = c["self"], as_index(c["index"])
    if not x.type.rank or not at.type.rank:
        return emit("expand", emit("reshape", x, shape=()), shape=c.shape)
    return emit("gather_elements", x, at, axis=c.axis("dim", x.type.rank))


# --- x[i, j, …] -----------------------------------------------------------------------------------


def nonzero_places(c: AtenCall, x: Node, size: object) -> Node:
    """Positions of the elements that are not 0, i64 [rank, count]; `size`: PyTorch's count."""
    held = x if x.type.dtype == "bool" else emit("not", emit("equal", x, scalar(0, x)))
    if not held.type.rank:
        held = emit("reshape", held, shape=(ONE,))
    count = emit("nonzero_count", held)
    bound = c.sizes_of.bind(size, count, prod(held.type.shape), "nonzero")
    return emit("nonzero_fill", held, bound)


def nonzero(c: AtenCall) -> Node:
    x = c["self"]
    if not x.type.rank:
        raise Unsupported("nonzero of a scalar")
    found = nonzero_places(c, x, c.raw_results[0].shape[0])
    return emit("transpose", found, perm=(1, 0))


def masked_select(c: AtenCall) -> Node:
    """Elements of self where the mask, broadcast to it, holds."""
    x, mask = c["self"], c["mask"]
    shape = emit("where", mask, mask, emit("not", as_dtype(x, "bool"))).type.shape
    wide = [emit("expand", n, shape=shape) for n in (x, mask)]
    flat, held = (emit("reshape", n, shape=(prod(shape),)) for n in wide)
    found = nonzero_places(c, held, c.raw_results[0].shape[0])
    return emit("gather", flat, emit("reshape", found, shape=c.shape), axis=0)


def _positions(c: AtenCall, count: object) -> list[Node | None]:
    """The index tensors, one an axis; a mask of bools becomes one for each of its axes. `count`:
    how many elements masks leave."""
    out: list[Node | None] = []
    for n in c.args["indices"]:
        if n is None or n.type.dtype not in ("bool", "u8"):
            out.append(None if n is None else as_index(n))
            continue
        found = nonzero_places(c, n, count)
        for k in range(n.type.rank):
            row = emit("gather", found, constant(k, np.int64), axis=0)
            out.append(row)
    return out


def _has_mask(c: AtenCall) -> bool:
    return any(n is not None and n.type.dtype in ("bool", "u8") for n in c.args["indices"])


def _wrapped(at: Node, x: Node, axis: int) -> Node:
    """Positions as i64 from 0 on: negative ones count from the end."""
    at = as_dtype(at, "i64")
    size = size_of(x, axis)
    return emit("where", emit("less", at, scalar(0, at)), emit("add", at, size), at)


def _front(x: Node, axes: Sequence[int]) -> Node:
    """Axes moved to the front."""
    return moved_axes(x, [*axes, *(k for k in range(x.type.rank) if k not in axes)])


def _broadcast(parts: Sequence[Node]) -> list[Node]:
    """Index tensors in their common shape."""
    total = parts[0]
    for p in parts[1:]:
        total = emit("add", as_dtype(total, "i64"), as_dtype(p, "i64"))
    return [emit("expand", p, shape=total.type.shape) for p in parts]


def index(c: AtenCall) -> Node:
    """x[i, None, j]: axes with an index tensor become those of the tensors' common shape, where
    the first of them stood, or at the front where they were apart."""
    x, given = c["self"], _positions(c, _mask_count(c))
    axes = [k for k, n in enumerate(given) if n is not None]
    parts = [n for n in given if n is not None]
    if not parts:
        return x
    if len(parts) == 1:
        return emit("gather", x, parts[0], axis=axes[0])
    parts = _broadcast([_wrapped(n, x, k) for n, k in zip(parts, axes, strict=True)])
    flat = parts[0]
    for n, axis in zip(parts[1:], axes[1:], strict=True):
        flat = emit("add", emit("mul", flat, size_of(x, axis)), n)
    front = _front(x, axes)
    shape = front.type.shape
    rows = emit("reshape", front, shape=(prod(shape[: len(axes)]), *shape[len(axes) :]))
    y = emit("gather", rows, flat, axis=0)
    apart = axes != list(range(axes[0], axes[0] + len(axes)))
    if apart or axes[0] == 0:
        return y
    inner, before = flat.type.rank, axes[0]
    perm = [*range(inner, inner + before), *range(inner), *range(inner + before, y.type.rank)]
    return moved_axes(y, perm)


def _mask_count(c: AtenCall) -> object:
    """PyTorch's symbol for the elements that a mask leaves: the dim of the result that it has at
    the mask's place, or at the front."""
    if not _has_mask(c):
        return None
    for size in c.raw_results[0].shape:
        if not isinstance(size, int) and is_unbacked(size):
            return size
    raise Unsupported("a mask of bools whose number of elements is not known", "torch.where")


def index_put(c: AtenCall) -> Node:
    """self with x[i, j, …] = values, or += where `accumulate`."""
    x, add = c["self"], c.flag("accumulate")
    values = as_dtype(c["values"], x.type.dtype)
    masked = _masked_put(c, x, values, add)
    if masked is not None:
        return masked
    given = _positions(c, _values_count(c) if _has_mask(c) else None)
    axes = [k for k, n in enumerate(given) if n is not None]
    parts = _broadcast([_wrapped(n, x, k) for k, n in enumerate(given) if n is not None])
    shape = parts[0].type.shape
    front = _front(x, axes)
    rest = front.type.shape[len(axes) :]
    apart = axes != list(range(axes[0], axes[0] + len(axes)))
    before = 0 if apart else axes[0]
    wanted = (*rest[:before], *shape, *rest[before:])
    values = emit("expand", values, shape=wanted)
    inner = len(shape)
    perm = [*range(before, before + inner), *range(before), *range(before + inner, len(wanted))]
    values = moved_axes(values, perm)
    count, width = prod(shape), prod(rest)
    columns = [emit("reshape", p, shape=(count, ONE)) for p in parts]
    at = emit("concat", *columns, axis=1)
    rows = emit("reshape", front, shape=(*front.type.shape[: len(axes)], width))
    flat = emit("reshape", values, shape=(count, width))
    out = _scattered_rows(rows, at, flat, "add" if add else "none")
    out = emit("reshape", out, shape=front.type.shape)
    back = [*axes, *(k for k in range(x.type.rank) if k not in axes)]
    return moved_axes(out, [back.index(k) for k in range(x.type.rank)])


def _values_count(c: AtenCall) -> object:
    """PyTorch's symbol for the elements that a mask leaves, where values have it as a size."""
    sizes = c.fakes["values"].shape
    return next((n for n in sizes if not isinstance(n, int) and is_unbacked(n)), None)


def _scattered_rows(rows: Node, at: Node, values: Node, how: str) -> Node:
    """scatter_nd; bools by way of bytes."""
    if rows.type.dtype != "bool":
        return emit("scatter_nd", rows, at, values, reduction=how)
    how = "max" if how == "add" else how
    small = emit("scatter_nd", as_dtype(rows, "u8"), at, as_dtype(values, "u8"), reduction=how)
    return as_dtype(small, "bool")


def _masked_put(c: AtenCall, x: Node, values: Node, add: bool) -> Node | None:
    """x[mask] = number: a choice; None where it is anything else."""
    given = c.args["indices"]
    mask = given[0] if given else None
    if mask is None or len(given) != 1 or mask.type.dtype != "bool":
        return None
    if any(d is not ONE for d in values.type.shape):
        return None
    number = emit("reshape", values, shape=())
    shape = (*mask.type.shape, *[ONE] * (x.type.rank - mask.type.rank))
    held = emit("reshape", mask, shape=shape)
    return emit("where", held, emit("add", x, number) if add else number, x)


# --- scatter --------------------------------------------------------------------------------------

REDUCTIONS = {"sum": "add", "add": "add", "prod": "mul", "multiply": "mul", "amax": "max",
              "amin": "min", "mean": "add"}  # fmt: skip


def _scattered(x: Node, at: Node, source: Node, axis: int, how: str) -> Node:
    """scatter_elements; bools by way of bytes, half floats by way of f32 where they add up."""
    dtype = x.type.dtype
    work = "u8" if dtype == "bool" else "f32" if dtype in ("f16", "bf16") else dtype
    parts = (as_dtype(x, work), at, as_dtype(source, work))
    return as_dtype(emit("scatter_elements", *parts, axis=axis, reduction=how), dtype)


def scatter(c: AtenCall) -> Node:
    """self with self[at[i, j], j] = src[i, j] (for axis 0), or a number."""
    x, at = c["self"], as_index(c["index"])
    if "value" in c.args:
        source = emit("expand", as_node(c.args["value"], x.type.dtype, c.sizes_of),
                      shape=at.type.shape)  # fmt: skip
    else:
        source = c["src"]
    how = c.value("reduce")
    return _scatter(c, x, at, source, "none" if how is None else REDUCTIONS[how])


def scatter_add(c: AtenCall) -> Node:
    return _scatter(c, c["self"], as_index(c["index"]), c["src"], "add")


def _scatter(c: AtenCall, x: Node, at: Node, source: Node, how: str) -> Node:
    if not x.type.rank:
        x, at, source = (emit("reshape", n, shape=(ONE,)) for n in (x, at, source))
        return emit("reshape", _scattered(x, at, source, 0, how), shape=())
    for axis, (n, m) in enumerate(zip(at.type.shape, source.type.shape, strict=True)):
        if n is not m:  # what lies beyond the positions is not read
            source = axis_slice(source, axis, 0, n)
    return _scattered(x, at, source, c.axis("dim", x.type.rank), how)


def scatter_reduce(c: AtenCall) -> Node:
    """Many values to one place, by sum, product, extreme or mean; with what was there or not."""
    x, at, source = c["self"], as_index(c["index"]), c["src"]
    how, include = c.value("reduce"), c.flag("include_self")
    axis = c.axis("dim", x.type.rank)
    one = emit("expand", scalar(1, as_dtype(x, "i64")), shape=at.type.shape)
    counts = emit("expand", scalar(int(include), one), shape=x.type.shape)
    counts = _scattered(counts, at, one, axis, "add") if how == "mean" or not include else counts
    start = x
    if not include:
        neutral = {"sum": 0, "mean": 0, "prod": 1}.get(how)
        if neutral is None:
            neutral = _extreme_of(x.type.dtype, low=how == "amax")
        start = emit("expand", as_node(neutral, x.type.dtype, c.sizes_of), shape=x.type.shape)
    y = _scatter(c, start, at, source, REDUCTIONS[how])
    if how == "mean":
        most = emit("max", counts, scalar(1, counts))
        y = _quotient(y, as_dtype(most, y.type.dtype))
    if include:
        return y
    return emit("where", emit("greater", counts, scalar(0, counts)), y, x)


def _quotient(a: Node, b: Node) -> Node:
    """a / b, of integers rounded down."""
    if is_float(a.type.dtype):
        return emit("div", a, b)
    return emit("div", emit("sub", a, emit("mod", a, b)), b)


def _extreme_of(dtype: str, *, low: bool) -> float:
    if is_float(dtype):
        return -math.inf if low else math.inf
    if dtype == "bool":
        return int(not low)
    info = np.iinfo(DTYPES[dtype].numpy)
    return int(info.min if low else info.max)


def _rows_changed(how: str) -> Handler:
    """index_add, index_copy: slices along an axis."""

    def handler(c: AtenCall) -> Node:
        x, source = c["self"], as_dtype(c["source"], c["self"].type.dtype)
        if not x.type.rank:
            parts = {n: emit("reshape", c[n], shape=(ONE,)) for n in ("self", "source", "index")}
            return emit("reshape", handler(replace(c, args={**c.args, **parts})), shape=())
        axis = c.axis("dim", x.type.rank)
        alpha = c.value("alpha", 1)
        if alpha != 1:
            source = emit("mul", source, c.operand("alpha", source.type.dtype))
        at = as_index(c["index"])
        at = emit("reshape", at, shape=(prod(at.type.shape),))
        wide = emit("expand", along(at, axis, x.type.rank), shape=source.type.shape)
        return _scattered(x, wide, source, axis, how)

    return handler


def index_fill(c: AtenCall) -> Node:
    """A number at positions of an axis."""
    x = c["self"]
    axis = c.axis("dim", x.type.rank)
    at = as_index(c["index"])
    at = emit("reshape", at, shape=(prod(at.type.shape),))
    shape = list(x.type.shape)
    shape[axis] = at.type.shape[0]
    wide = emit("expand", along(at, axis, x.type.rank), shape=tuple(shape))
    number = as_node(c.args["value"], x.type.dtype, c.sizes_of)
    number = emit("expand", emit("reshape", number, shape=()), shape=tuple(shape))
    return _scattered(x, wide, number, axis, "none")


def masked_scatter(c: AtenCall) -> Node:
    """self with the elements where the mask holds taken from source, in order."""
    x, source = c["self"], c["source"]
    mask = emit("expand", c["mask"], shape=x.type.shape)
    flat = emit("reshape", as_dtype(mask, "i64"), shape=(prod(x.type.shape),))
    before = emit("cumsum", flat, axis=0, exclusive=True, reverse=False)
    line = emit("reshape", source, shape=(prod(source.type.shape),))
    values = emit("reshape", emit("gather", line, before, axis=0), shape=x.type.shape)
    return emit("where", mask, values, x)


# --- order ----------------------------------------------------------------------------------------


def _by_rows(x: Node, axis: int) -> tuple[Node, list[int]]:
    """x as rows [_, size along the axis], and the order of axes that brings them there."""
    perm = [*(k for k in range(x.type.rank) if k != axis), axis]
    moved = moved_axes(x, perm)
    return emit("reshape", moved, shape=(prod(moved.type.shape[:-1]), x.type.shape[axis])), perm


def _from_rows(rows: Node, like: Node, perm: Sequence[int], count: Expr) -> Node:
    shape = (*(like.type.shape[k] for k in perm[:-1]), count)
    back = [perm.index(k) for k in range(like.type.rank)]
    return moved_axes(emit("reshape", rows, shape=shape), back)


def _sortable(x: Node) -> Node:
    return as_dtype(x, "u8") if x.type.dtype == "bool" else x


def topk(c: AtenCall) -> Sequence[Node]:
    x = c["self"]
    if not x.type.rank:
        return x, _zero()
    return _first(x, c.axis("dim", x.type.rank), c.size("k"), largest=c.flag("largest"))


def _first(x: Node, axis: int, k: Expr, *, largest: bool) -> tuple[Node, Node]:
    rows, perm = _by_rows(_sortable(x), axis)
    if k is rows.type.shape[1]:
        values, at = sort_rows(rows, largest=largest)
    else:
        found = emit("top_k", rows, k=k, largest=largest)
        values, at = get_output(found, 0), get_output(found, 1)
    values, at = (_from_rows(n, x, perm, k) for n in (values, at))
    return as_dtype(values, x.type.dtype), at


def _zero() -> Node:
    return constant(0, np.int64)


def sort(c: AtenCall) -> Sequence[Node]:
    x = c["self"]
    if not x.type.rank:
        return x, _zero()
    axis = c.axis("dim", x.type.rank)
    return _first(x, axis, x.type.shape[axis], largest=c.flag("descending"))


def argsort(c: AtenCall) -> Node:
    return sort(c)[1]


def _nth(c: AtenCall, place: int) -> tuple[Node, Node]:
    """The element at a place in the order along an axis, and where it stood."""
    x = c["self"]
    if not x.type.rank:
        return x, _zero()
    axis = c.axis("dim", x.type.rank)
    values, at = _first(x, axis, Const(place + 1), largest=False)
    values, at = (axis_slice(n, axis, place, place + 1) for n in (values, at))
    if c.flag("keepdim"):
        return values, at
    shape = tuple(d for k, d in enumerate(x.type.shape) if k != axis)
    return emit("reshape", values, shape=shape), emit("reshape", at, shape=shape)


def kthvalue(c: AtenCall) -> Sequence[Node]:
    return _nth(c, c.int("k") - 1)


def median(c: AtenCall) -> Node | Sequence[Node]:
    """The lower one of both in the middle; a NaN where there is one."""
    x = c["self"]
    axis = c.axis("dim", x.type.rank) if c.has("dim") else 0
    if c.has("dim"):
        size = known(x.type.shape[axis]) if x.type.rank else 1
    else:
        size = known(prod(x.type.shape))
    if not size:
        raise Unsupported("the median along an axis of unknown size, or without elements")
    middle = (size - 1) // 2
    if c.has("dim"):
        values, at = _nth(c, middle)
        if not is_float(x.type.dtype) or not x.type.rank:
            return values, at
        lost, keep = emit("isnan", x), c.flag("keepdim")
        place = emit("arg_max", as_dtype(lost, "u8"), axis=axis, keepdims=keep,
                     select_last_index=False)  # fmt: skip
        some = _any(lost, (axis,), keep)
        nan = scalar(math.nan, values)
        return emit("where", some, nan, values), emit("where", some, place, at)
    flat = emit("reshape", x, shape=(Const(size),))
    values, _ = _first(flat, 0, Const(middle + 1), largest=False)
    value = emit("reshape", axis_slice(values, 0, middle, middle + 1), shape=())
    if not is_float(x.type.dtype):
        return value
    return emit("where", _any(emit("isnan", flat), (0,), False), scalar(math.nan, value), value)


def _any(held: Node, axes: tuple[int, ...], keepdims: bool) -> Node:
    small = emit("reduce_max", as_dtype(held, "u8"), axes=axes, keepdims=keepdims)
    return as_dtype(small, "bool")


def _searched(values: Node, borders: Node, right: bool) -> Node:
    """How many of the sorted borders [n] lie before each value: a NaN comes after all."""
    wide = emit("reshape", values, shape=(*values.type.shape, ONE))
    before = emit("less_or_equal" if right else "less", borders, wide)
    if is_float(values.type.dtype):
        before = emit("or", before, emit("isnan", wide))
    axis = values.type.rank
    return emit("reduce_sum", as_dtype(before, "i64"), axes=(axis,), keepdims=False)


def bucketize(c: AtenCall) -> Node:
    values, borders = c.promoted("self", "boundaries")
    return c.finish(_searched(values, borders, c.flag("right")))


def searchsorted(c: AtenCall) -> Node:
    """Places in sorted sequences: one for all, or one for each row of values."""
    if c.has("sorter"):
        raise Unsupported("searchsorted with a sorter", "sorted_sequence.gather(-1, sorter)")
    right = c.flag("right") or c.value("side") == "right"
    borders, values = c.promoted("sorted_sequence", "self")
    if borders.type.rank > 1:
        *outer, n = borders.type.shape
        borders = emit("reshape", borders, shape=(*outer, ONE, n))
    return c.finish(_searched(values, borders, right))


def one_hot(c: AtenCall) -> Node:
    """Numbers as vectors of zeros and one 1."""
    if c.int("num_classes", -1) < 0:
        raise Unsupported("one_hot of as many classes as data say", "give num_classes")
    off_on = constant([0, 1], np.int64)
    return emit("one_hot", as_index(c["self"]), off_on, depth=c.shape[-1], axis=-1)


def local_scalar(c: AtenCall) -> Node:
    """item(): an integer that becomes a size."""
    x = c["self"]
    if is_float(x.type.dtype):
        raise Unsupported("item() of a float", "keep it as a tensor")
    count = as_dtype(emit("reshape", x, shape=(ONE,)), "i64")
    c.sizes_of.bind(c.raw_results[0], count, None, "item")
    return emit("reshape", x, shape=())


def embedding_bag(c: AtenCall) -> Sequence[Node | None]:
    """Sums, means or maxima of the rows of bags, which offsets divide the positions into."""
    table, at = c["weight"], as_index(c["indices"])
    mode, given = c.int("mode", 0), c.find("per_sample_weights")
    offsets = as_dtype(c["offsets"], "i64")
    if c.flag("include_last_offset"):
        offsets = axis_slice(offsets, 0, 0, -1)
    total, bags = at.type.shape[0], offsets.type.shape[0]
    places = emit("reshape", _counted(at), shape=(ONE, total))
    starts = emit("reshape", offsets, shape=(bags, ONE))
    after = axis_slice(emit("concat", offsets, _whole(at), axis=0), 0, 1, add_dims(bags, 1))
    ends = emit("reshape", after, shape=(bags, ONE))
    inside = emit("and", emit("greater_or_equal", places, starts), emit("less", places, ends))
    if c.int("padding_idx", -1) >= 0:
        kept = emit("not", emit("equal", at, scalar(c.int("padding_idx"), at)))
        inside = emit("and", inside, emit("reshape", kept, shape=(ONE, total)))
    rows = emit("gather", table, at, axis=0)
    if mode == 2:
        held = emit("reshape", inside, shape=(bags, total, ONE))
        all_rows = emit("where", held, rows, scalar(-math.inf, rows))
        top = emit("reduce_max", all_rows, axes=(1,), keepdims=False)
        some = emit("reduce_max", as_dtype(inside, "u8"), axes=(1,), keepdims=True)
        y = emit("where", as_dtype(some, "bool"), top, scalar(0, top))
        return [c.finish(y), *[None] * (len(c.results) - 1)]
    share = as_dtype(inside, rows.type.dtype)
    if given is not None:
        share = emit("mul", share, emit("reshape", given, shape=(ONE, total)))
    y = emit("matmul", share, rows)
    if mode == 1:
        count = emit("reduce_sum", as_dtype(inside, rows.type.dtype), axes=(1,), keepdims=True)
        y = emit("div", y, emit("max", count, scalar(1, count)))
    return [c.finish(y), *[None] * (len(c.results) - 1)]


def _counted(x: Node) -> Node:
    n = known(x.type.shape[0])
    if n is not None:
        return constant(np.arange(n), np.int64)
    return emit("range", _zero(), size_of(x, 0), constant(1, np.int64), length=x.type.shape[0])


def _whole(x: Node) -> Node:
    return emit("reshape", size_of(x, 0), shape=(ONE,))


TABLE: dict[str, Handler] = {
    "_embedding_bag": embedding_bag,
    "_embedding_bag_forward_only": embedding_bag,
    "_local_scalar_dense": local_scalar,
    "_unsafe_index": index,
    "_unsafe_index_put": index_put,
    "argsort": argsort,
    "bucketize": bucketize,
    "embedding": embedding,
    "embedding_bag": embedding_bag,
    "gather": gather,
    "index": index,
    "index_add": _rows_changed("add"),
    "index_copy": _rows_changed("none"),
    "index_fill": index_fill,
    "index_put": index_put,
    "index_select": index_select,
    "item": local_scalar,
    "kthvalue": kthvalue,
    "masked_scatter": masked_scatter,
    "masked_select": masked_select,
    "median": median,
    "nonzero": nonzero,
    "one_hot": one_hot,
    "scatter": scatter,
    "scatter_add": scatter_add,
    "scatter_reduce": scatter_reduce,
    "searchsorted": searchsorted,
    "sort": sort,
    "take": lambda c: emit(
        "gather",
        emit("reshape", c["self"], shape=(prod(c["self"].type.shape),)),
        as_index(c["index"]),
        axis=0,
    ),
    "topk": topk,
}
