"""ATen operators that move elements, pad them, or make tensors of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from naru.frontend.onnx_node import Unsupported, as_dtype, emit, scalar
from naru.frontend.torch_call import AtenCall, Handler, axis_slice, moved_axes
from naru.ir.expr import INT_MAX, Const, Expr
from naru.ir.graph import Node
from naru.ir.simplify import ONE, ZERO, add, index, known, maximum, minimum, prod
from naru.ops.registry import constant

MOST_POSITIONS = 1 << 22  # of a table of places


def same(c: AtenCall) -> Node:
    """Copies and views of the whole: nothing is shared here."""
    return c["self"]


def reshape(c: AtenCall) -> Node:
    """Every view of other sizes; PyTorch has worked them out."""
    return emit("reshape", c["self"], shape=c.shape)


def expand(c: AtenCall) -> Node:
    return emit("expand", c["self"], shape=c.shape)


def permute(c: AtenCall) -> Node:
    rank = c["self"].type.rank
    return moved_axes(c["self"], [k % rank for k in c.ints("dims")])


def transpose(c: AtenCall) -> Node:
    x = c["self"]
    rank = x.type.rank
    if "dim0" in c.args:
        a, b = c.axis("dim0", rank), c.axis("dim1", rank)
    else:
        a, b = 0, max(rank - 1, 0)  # t() of a matrix or a vector
    perm = list(range(rank))
    if rank:
        perm[a], perm[b] = perm[b], perm[a]
    return moved_axes(x, perm)


def cut(c: AtenCall, size: Expr) -> tuple[Expr, Expr, int]:
    """Start, end and step of PyTorch's slice of an axis."""
    start, end = (c.args.get(n) for n in ("start", "end"))
    first = ZERO if start is None else index(start)
    last = size if end is None else index(end)
    if isinstance(end, int) and end >= INT_MAX:
        last = size
    return first, last, c.int("step", 1)


def slice_(c: AtenCall) -> Node:
    x = c["self"]
    axis = c.axis("dim", x.type.rank)
    start, end, step = cut(c, x.type.shape[axis])
    return emit("slice", x, starts=(start,), ends=(end,), axes=(axis,), steps=(step,))


def select(c: AtenCall) -> Node:
    """One position along an axis, which goes."""
    x = c["self"]
    axis, at = c.axis("dim", x.type.rank), c.size("index")
    n = known(at)
    if n is not None:
        return emit("gather", x, constant(n, np.int64), axis=axis)
    part = axis_slice(x, axis, at, add(at, 1))
    return emit("reshape", part, shape=c.shape)


def cat(c: AtenCall) -> Node:
    """Operands of one dtype, which PyTorch promotes to; empty vectors do not count."""
    parts = [x for x in c.tensors("tensors") if x.type.rank != 1 or x.type.shape[0] is not ZERO]
    if not parts:
        return as_dtype(c.tensors("tensors")[0], c.type.dtype)
    axis = c.axis("dim", parts[0].type.rank)
    return emit("concat", *(as_dtype(x, c.type.dtype) for x in parts), axis=axis)


def stack(c: AtenCall) -> Node:
    parts = c.tensors("tensors")
    axis = c.axis("dim", parts[0].type.rank + 1)
    return emit("concat", *(_with_axis(as_dtype(x, c.type.dtype), axis) for x in parts), axis=axis)


def _with_axis(x: Node, axis: int) -> Node:
    shape = x.type.shape
    return emit("reshape", x, shape=(*shape[:axis], ONE, *shape[axis:]))


def split(c: AtenCall) -> Sequence[Node]:
    """Parts whose sizes PyTorch has worked out, and unbind, whose parts have no such axis."""
    x = c["self"]
    axis = c.axis("dim", x.type.rank)
    parts: list[Node] = []
    start: Expr = ZERO
    for t in c.results:
        assert t is not None
        gone = t.rank < x.type.rank
        end = add(start, ONE if gone else t.shape[axis])
        part = axis_slice(x, axis, start, end)
        parts.append(emit("reshape", part, shape=t.shape) if gone else part)
        start = end
    return parts


def flip(c: AtenCall) -> Node:
    x = c["self"]
    axes = c.axes("dims", x.type.rank) if c.args["dims"] else ()
    if not axes or not x.type.rank:
        return x
    count = len(axes)
    starts, ends = (Const(INT_MAX),) * count, (Const(-INT_MAX),) * count
    return emit("slice", x, starts=starts, ends=ends, axes=axes, steps=(-1,) * count)


def roll(c: AtenCall) -> Node:
    """Each axis in two parts, exchanged."""
    x = c["self"]
    shifts = c.sizes("shifts") if isinstance(c.args["shifts"], list) else (c.size("shifts"),)
    axes = c.ints("dims") if c.args.get("dims") else ()
    if not axes:
        flat = emit("reshape", x, shape=(prod(x.type.shape),))
        return emit("reshape", _rolled(flat, 0, shifts[0]), shape=x.type.shape)
    for shift, axis in zip(shifts, axes, strict=True):
        x = _rolled(x, axis % x.type.rank, shift)
    return x


def _rolled(x: Node, axis: int, shift: Expr) -> Node:
    size, by = x.type.shape[axis], known(shift)
    n = known(size)
    if by is None:
        raise Unsupported("a roll by a number that depends on the size of an input")
    if n is not None:
        by = by % n if n else 0
        middle: Expr = Const(n - by)
    else:
        # Not further than the axis is long, which its size must be known for.
        if by == 0:
            return x
        pads = [ZERO] * (2 * x.type.rank)
        pads[axis] = Const(max(by, 0))
        pads[x.type.rank + axis] = Const(max(-by, 0))
        wrapped = emit("pad", x, pads=tuple(pads), mode="wrap")
        start: Expr = ZERO if by > 0 else Const(-by)
        return axis_slice(wrapped, axis, start, add(start, size))
    if by == 0:
        return x
    return emit("concat", axis_slice(x, axis, middle, size), axis_slice(x, axis, 0, middle),
                axis=axis)  # fmt: skip


def repeat(c: AtenCall) -> Node:
    x, repeats = c["self"], c.sizes("repeats")
    more = len(repeats) - x.type.rank
    x = emit("reshape", x, shape=(*[ONE] * more, *x.type.shape)) if more else x
    return emit("tile", x, repeats=repeats)


def repeat_interleave(c: AtenCall) -> Node:
    """Each element a number of times in a row."""
    if "self" not in c.args or "repeats" not in c.args or isinstance(c.args["repeats"], Node):
        raise Unsupported("repeat_interleave with numbers in a tensor", "one number for all")
    x, times = c["self"], c.int("repeats")
    if not c.has("dim"):
        x = emit("reshape", x, shape=(prod(x.type.shape),))
    axis = c.axis("dim", x.type.rank) if c.has("dim") else 0
    return emit("repeat", x, axis=axis, times=times) if times else axis_slice(x, axis, 0, 0)


def constant_pad(c: AtenCall) -> Node:
    """Pads come from the last axis on, begin and end of each; negative ones crop."""
    x = c["self"]
    value = c.float("value", 0.0)
    if x.type.dtype[0] != "f" and x.type.dtype != "bf16":
        value = bool(value) if x.type.dtype == "bool" else int(value)
    pads = _pads(c.sizes("pad"), x.type.rank)
    return emit("pad", x, pads=pads, mode="constant", value=value)


def _pads(given: Sequence[Expr], rank: int) -> tuple[Expr, ...]:
    begin, end = [ZERO] * rank, [ZERO] * rank
    for k in range(len(given) // 2):
        begin[rank - 1 - k], end[rank - 1 - k] = given[2 * k], given[2 * k + 1]
    return (*begin, *end)


def _pad_like(mode: str) -> Handler:
    return lambda c: padded(c, mode)


def padded(c: AtenCall, mode: str) -> Node:
    """Padded with what the image has."""
    pads = _pads(c.sizes("padding" if "padding" in c.args else "pad"), c["self"].type.rank)
    return emit("pad", c["self"], pads=pads, mode=mode)


PAD_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pad(c: AtenCall) -> Node:
    """torch.nn.functional.pad."""
    mode = c.value("mode", "constant")
    if mode == "constant":
        return constant_pad(c)
    return padded(c, PAD_MODES[mode])


def pixel_shuffle(c: AtenCall) -> Node:
    """[…, C · r · r, H, W] -> […, C, H · r, W · r]."""
    x, r = c["self"], c.int("upscale_factor")
    *outer, _, h, w = x.type.shape
    channels = c.shape[-3]
    split_ = emit("reshape", x, shape=(*outer, channels, r, r, h, w))
    n = len(outer)
    moved = emit("transpose", split_, perm=(*range(n), n, n + 3, n + 1, n + 4, n + 2))
    return emit("reshape", moved, shape=c.shape)


def pixel_unshuffle(c: AtenCall) -> Node:
    """[…, C, H · r, W · r] -> […, C · r · r, H, W]."""
    x, r = c["self"], c.int("downscale_factor")
    *outer, channels, _, _ = x.type.shape
    h, w = c.shape[-2:]
    split_ = emit("reshape", x, shape=(*outer, channels, h, r, w, r))
    n = len(outer)
    moved = emit("transpose", split_, perm=(*range(n), n, n + 2, n + 4, n + 1, n + 3))
    return emit("reshape", moved, shape=c.shape)


def channel_shuffle(c: AtenCall) -> Node:
    """Channels (axis 1) dealt to groups in turn."""
    x, groups = c["self"], c.int("groups")
    n, channels, *rest = x.type.shape
    size = known(channels)
    if size is None:
        raise Unsupported("channels of unknown number")
    parts = emit("reshape", x, shape=(n, groups, size // groups, *rest))
    moved = emit("transpose", parts, perm=(0, 2, 1, *range(3, parts.type.rank)))
    return emit("reshape", moved, shape=x.type.shape)


def unfold(c: AtenCall) -> Node:
    """Windows of `size` elements along an axis, `step` apart; what is in them is the last axis."""
    x = c["self"]
    rank = x.type.rank
    if not rank:
        return emit("reshape", x, shape=c.shape)
    axis = c.axis("dimension", rank)
    size, step = c.int("size"), c.int("step")
    count = c.shape[axis]
    starts = emit("reshape", spaced(c, count, step), shape=(count, ONE))
    inside = constant(np.arange(size)[None], np.int64)
    windows = emit("gather", x, emit("add", starts, inside), axis=axis)
    perm = [k for k in range(rank + 1) if k != axis + 1]
    return moved_axes(windows, [*perm, axis + 1])


def spaced(c: AtenCall, count: Expr, step: int) -> Node:
    """0, step, 2 · step, … as i64."""
    n = known(count)
    if n is not None:
        return constant(np.arange(n) * step, np.int64)
    end = c.sizes_of.number(count)
    steps = emit("range", scalar(0, end), end, scalar(1, end), length=count)
    return emit("mul", steps, scalar(step, end))


def tri(upper: int) -> Handler:
    return lambda c: emit("trilu", c["self"], upper=upper, k=c.int("diagonal", 0))


def diagonal(c: AtenCall) -> Node:
    """The k-th diagonal of two axes, as the last axis."""
    x, offset = c["self"], c.int("offset", 0)
    rank = x.type.rank
    a, b = c.axis("dim1", rank), c.axis("dim2", rank)
    rest = [k for k in range(rank) if k not in (a, b)]
    moved = moved_axes(x, [*rest, a, b])
    *outer, rows, columns = moved.type.shape
    size = c.shape[-1]
    flat = emit("reshape", moved, shape=(*outer, prod((rows, columns))))
    width, n = known(columns), known(size)
    if width is None or n is None:
        raise Unsupported("a diagonal of unknown size", "fix both sizes of the matrix")
    first = offset if offset >= 0 else -offset * width
    places = constant(first + np.arange(n) * (width + 1), np.int64)
    return emit("gather", flat, places, axis=len(outer))


def slice_scatter(c: AtenCall) -> Node:
    """self with a slice of an axis replaced by src."""
    x, source = c["self"], as_dtype(c["src"], c["self"].type.dtype)
    axis = c.axis("dim", x.type.rank)
    size = x.type.shape[axis]
    start, end, step = cut(c, size)
    source = emit("expand", source, shape=_with_size(x, axis, source))
    start, end = _inside(start, size), _inside(end, size)
    if step == 1:
        before, after = axis_slice(x, axis, 0, start), axis_slice(x, axis, end, size)
        parts = [p for p in (before, source, after) if p.type.shape[axis] is not ZERO]
        return emit("concat", *parts, axis=axis) if parts else x
    first, n, many = known(start), known(size), known(source.type.shape[axis])
    if first is None or n is None or many is None:
        raise Unsupported("a slice with a step, of unknown size, written to")
    return _replaced(x, axis, source, first + step * np.arange(many), n)


def _replaced(x: Node, axis: int, source: Node, places: np.ndarray, size: int) -> Node:
    """x with the given places along an axis from source: a choice among both."""
    both = emit("concat", x, source, axis=axis)
    table = np.arange(size)
    table[places] = size + np.arange(len(places))
    return emit("gather", both, constant(table, np.int64), axis=axis)


def _inside(v: Expr, size: Expr) -> Expr:
    """An end of a slice as a position in 0..size."""
    n = known(v)
    if n is not None and n < 0:
        v = add(v, size)
    return minimum(maximum(v, 0), size)


def _with_size(x: Node, axis: int, source: Node) -> tuple[Expr, ...]:
    shape = list(x.type.shape)
    shape[axis] = source.type.shape[axis]
    return tuple(shape)


def select_scatter(c: AtenCall) -> Node:
    """self with one position of an axis replaced by src."""
    x, source = c["self"], as_dtype(c["src"], c["self"].type.dtype)
    axis = c.axis("dim", x.type.rank)
    size, at = x.type.shape[axis], c.size("index")
    at = add(at, size) if (known(at) or 0) < 0 else at
    line = emit("reshape", source, shape=(*x.type.shape[:axis], ONE, *x.type.shape[axis + 1 :]))
    parts = [axis_slice(x, axis, 0, at), line, axis_slice(x, axis, add(at, 1), size)]
    return emit("concat", *(p for p in parts if p.type.shape[axis] is not ZERO), axis=axis)


def diagonal_scatter(c: AtenCall) -> Node:
    """self with a diagonal replaced by src."""
    x, source = c["self"], as_dtype(c["src"], c["self"].type.dtype)
    rank, offset = x.type.rank, c.int("offset", 0)
    a, b = c.axis("dim1", rank), c.axis("dim2", rank)
    perm = [*(k for k in range(rank) if k not in (a, b)), a, b]
    moved = moved_axes(x, perm)
    rows, columns = (known(d) for d in moved.type.shape[-2:])
    if rows is None or columns is None:
        raise Unsupported("a diagonal of unknown size, written to")
    flat = emit("reshape", moved, shape=(*moved.type.shape[:-2], rows * columns))
    n = known(source.type.shape[-1]) or 0
    first = offset if offset >= 0 else -offset * columns
    out = _replaced(flat, rank - 2, source, first + np.arange(n) * (columns + 1), rows * columns)
    out = emit("reshape", out, shape=moved.type.shape)
    return moved_axes(out, [perm.index(k) for k in range(rank)])


def as_strided(c: AtenCall) -> Node:
    """Any view of a tensor that lies in memory row by row, by a table of places."""
    x = c["self"]
    fake = c.fakes["self"]
    if not fake.is_contiguous():
        raise Unsupported("as_strided of a tensor that is itself a view", "reshape, slice, unfold")
    sizes, strides = c.ints("size"), c.ints("stride")
    places = np.array(c.int("storage_offset", 0))
    if int(np.prod(sizes)) > MOST_POSITIONS:
        raise Unsupported(f"as_strided of more than {MOST_POSITIONS} elements")
    for n, s in zip(sizes, strides, strict=True):
        places = places[..., None] + s * np.arange(n)
    flat = emit("reshape", x, shape=(prod(x.type.shape),))
    return emit("gather", flat, constant(places, np.int64), axis=0)


def copy(c: AtenCall) -> Node:
    """src in the dtype and shape of self."""
    return emit("expand", as_dtype(c["src"], c.type.dtype), shape=c.shape)


def along(vector: Node, axis: int, rank: int) -> Node:
    """A vector as a tensor of a rank, along an axis."""
    shape = [ONE] * rank
    shape[axis] = vector.type.shape[0]
    return emit("reshape", vector, shape=tuple(shape))


def moved_dims(c: AtenCall) -> Node:
    """movedim: axes `source` go to the places `destination`."""
    rank = c["self"].type.rank
    source, to = ([k % max(rank, 1) for k in c.ints(n)] for n in ("source", "destination"))
    perm = [-1] * rank
    for s, d in zip(source, to, strict=True):
        perm[d] = s
    rest = iter(k for k in range(rank) if k not in source)
    return moved_axes(c["self"], [p if p >= 0 else next(rest) for p in perm])


_COPIES = (
    "alias", "clone", "contiguous", "detach", "lift", "lift_fresh", "lift_fresh_copy",
    "resolve_conj", "resolve_neg",
)  # fmt: skip
_VIEWS = (
    "_reshape_alias", "_unsafe_view", "flatten", "reshape", "squeeze", "unflatten", "unsqueeze",
    "view",
)  # fmt: skip
TABLE: dict[str, Handler] = {
    **dict.fromkeys(_COPIES, same),
    **dict.fromkeys(_VIEWS, reshape),
    "_pad_circular": _pad_like("wrap"),
    "as_strided": as_strided,
    "cat": cat,
    "channel_shuffle": channel_shuffle,
    "chunk": split,
    "constant_pad_nd": constant_pad,
    "copy": copy,
    "diagonal": diagonal,
    "diagonal_scatter": diagonal_scatter,
    "expand": expand,
    "expand_as": expand,
    "flip": flip,
    "movedim": moved_dims,
    "pad": pad,
    "permute": permute,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "reflection_pad1d": _pad_like("reflect"),
    "reflection_pad2d": _pad_like("reflect"),
    "reflection_pad3d": _pad_like("reflect"),
    "repeat": repeat,
    "repeat_interleave": repeat_interleave,
    "replication_pad1d": _pad_like("edge"),
    "replication_pad2d": _pad_like("edge"),
    "replication_pad3d": _pad_like("edge"),
    "roll": roll,
    "select": select,
    "select_scatter": select_scatter,
    "slice": slice_,
    "slice_scatter": slice_scatter,
    "split": split,
    "split_with_sizes": split,
    "stack": stack,
    "t": transpose,
    "transpose": transpose,
    "tril": tri(0),
    "triu": tri(1),
    "unbind": split,
    "unfold": unfold,
    "unsafe_chunk": split,
    "unsafe_split": split,
    "unsafe_split_with_sizes": split,
}
