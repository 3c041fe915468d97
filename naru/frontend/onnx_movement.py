"""ONNX operators that move elements: transpose, slice, gather, concat, split, pad, …"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from naru.errors import ModelError
from naru.frontend.onnx_node import OnnxNode, check_axis, emit, scalar
from naru.frontend.onnx_shapes import needing
from naru.frontend.onnx_signatures import Handler
from naru.ir.expr import INT_MAX, Const, Expr
from naru.ir.graph import Node
from naru.ir.simplify import (
    ONE,
    ZERO,
    add,
    ceildiv,
    compare,
    floordiv,
    known,
    logical_or,
    minimum,
    mul,
    prod,
    select,
    sub,
)
from naru.ops.registry import constant


def transpose(c: OnnxNode) -> Node:
    rank = c[0].type.rank
    perm = c.get_ints("perm")
    perm = tuple(reversed(range(rank))) if perm is None else perm
    if sorted(perm) != list(range(rank)):
        raise ModelError(
            f"attribute 'perm': expected each of the axes 0..{rank - 1} once, found {list(perm)}"
        )
    return emit("transpose", c[0], perm=perm)


def slice_axis(x: Node, axis: int, start: Expr, size: Expr) -> Node:
    """`size` elements of one axis, from `start` on."""
    return emit("slice", x, starts=(start,), ends=(add(start, size),), axes=(axis,), steps=(1,))


def slice_(c: OnnxNode) -> Node:
    """Bounds are operands since opset 10, attributes before."""
    x = c[0]
    if c.version < 10:
        starts = tuple(map(Const, c.get_ints("starts") or ()))
        ends = tuple(map(Const, c.get_ints("ends") or ()))
        return _sliced(x, starts, ends, c.get_ints("axes"), None)
    starts = c.sizes(1, "the starts", example=[0] * x.type.rank) or ()
    ends = c.sizes(2, "the ends", example=[INT_MAX] * x.type.rank) or ()
    steps = c.sizes(4, "the steps", example=[1] * x.type.rank)
    if c.is_fixed(3):
        return _sliced(x, starts, ends, c.fixed(3, "the axes"), steps)
    axes = c.sizes(3, "the axes", example=range(x.type.rank)) or ()
    steps = (ONE,) * len(starts) if steps is None else steps
    _check_slice(starts, ends, axes, steps)

    def spread(values: Sequence[Expr], default: Expr) -> tuple[Expr, ...]:
        return tuple(at_axis(axes, values, k, x.type.rank, default) for k in range(x.type.rank))

    whole = spread(starts, ZERO), spread(ends, Const(INT_MAX)), spread(steps, ONE)
    return _sliced(x, whole[0], whole[1], None, whole[2])


def at_axis(
    axes: Sequence[Expr], values: Sequence[Expr], axis: int, rank: int, default: Expr
) -> Expr:
    """The value that belongs to an axis, where data tell which axis each value belongs to."""
    found = default
    for a, value in zip(axes, values, strict=True):
        here = logical_or(compare("eq", a, axis), compare("eq", a, axis - rank))
        found = select(here, value, found)
    return found


def from_start(axis: Expr, rank: int) -> Expr:
    """An axis that only data tell, which may count from the end."""
    return select(compare("lt", axis, 0), add(axis, rank), axis)


def around_axis(axis: Expr, shape: Sequence[Expr], rank: int) -> list[Expr]:
    """How many elements lie before an axis that only data tell, along it, and behind it, among the
    first of `rank` dims. An axis that there is not has no elements."""
    at = from_start(axis, rank)
    before = prod(select(compare("gt", at, k), d, ONE) for k, d in enumerate(shape))
    behind = prod(select(compare("lt", at, k), d, ONE) for k, d in enumerate(shape))
    along: Expr = ZERO
    for k, d in enumerate(shape):
        along = select(compare("eq", at, k), d, along)
    return [before, along, behind]


def _check_slice(*parts: Sequence[object]) -> None:
    if len({len(p) for p in parts}) != 1:
        raise ModelError(
            "expected starts, ends, axes and steps of one length, found "
            f"{', '.join(str(len(p)) for p in parts[:-1])} and {len(parts[-1])}"
        )


def _sliced(
    x: Node,
    starts: Sequence[Expr],
    ends: Sequence[Expr],
    axes: Sequence[int] | None,
    steps: Sequence[Expr] | None,
) -> Node:
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (ONE,) * len(starts) if steps is None else steps
    _check_slice(starts, ends, axes, steps)
    found = tuple(check_axis(a, x.type.rank) for a in axes)
    plain = tuple(s if (n := known(s)) is None else n for s in steps)
    return emit("slice", x, starts=tuple(starts), ends=tuple(ends), axes=found, steps=plain)


def split(c: OnnxNode) -> Sequence[Node]:
    """Sizes are an operand since opset 13, an attribute before; without them the parts are equal,
    the last one smaller where `num_outputs` does not divide the size."""
    x = c[0]
    axis = c.axis(0, x.type.rank)
    size, count = x.type.shape[axis], len(c.outputs)
    given = c.get_ints("split")
    parts = None if given is None else tuple(map(Const, given))
    if given is None:
        parts = c.sizes(1, "the sizes of the parts", least=0, example=[size, *[0] * (count - 1)])
    if parts is not None and len(parts) != count:
        raise ModelError(f"expected {count} sizes, one an output, found {len(parts)}")
    if parts is None:
        return _equal_parts(c, x, axis, size, count)
    total = add(*parts)
    if known(size) is not None and known(total) is not None and known(total) != known(size):
        raise ModelError(f"expected sizes that add up to {known(size)}, found {known(total)}")
    x = needing(x, (compare("eq", total, size),), "sizes that add up to that of the axis")
    out: list[Node] = []
    start: Expr = ZERO
    for part in parts:
        out.append(slice_axis(x, axis, start, part))
        start = add(start, part)
    return out


def _equal_parts(c: OnnxNode, x: Node, axis: int, size: Expr, count: int) -> list[Node]:
    if c.get_int("num_outputs", count) != count:
        raise ModelError(
            f"attribute 'num_outputs': expected the number of outputs, {count}, "
            f"found {c.get_int('num_outputs', count)}"
        )
    n = known(size)
    if c.version < 18 and n is not None and n % count:
        raise ModelError(f"expected a size that {count} divides, found {n}")
    # Before opset 18 the size is a multiple of the count: then both roundings agree.
    chunk = floordiv(size, count) if c.version < 18 else ceildiv(size, count)
    out: list[Node] = []
    for k in range(count):
        start, end = mul(chunk, k), mul(chunk, k + 1)
        if c.version >= 18:
            start, end = minimum(start, size), minimum(end, size)
        out.append(emit("slice", x, starts=(start,), ends=(end,), axes=(axis,), steps=(1,)))
    return out


def concat(c: OnnxNode) -> Node:
    xs = c.operands()
    return emit("concat", *xs, axis=c.axis(0, xs[0].type.rank))


def gather(c: OnnxNode) -> Node:
    return emit("gather", c[0], c[1], axis=c.axis(0, c[0].type.rank))


def gather_elements(c: OnnxNode) -> Node:
    return emit("gather_elements", c[0], c[1], axis=c.axis(0, c[0].type.rank))


def pad(c: OnnxNode) -> Node:
    """Pads and value are operands since opset 11, attributes before."""
    x, rank = c[0], c[0].type.rank
    mode = c.get_str("mode", "constant", ("constant", "reflect", "edge", "wrap"))
    fill: Node | None = None
    if c.version >= 11:
        pads = c.sizes(1, "the pads", least=1 - INT_MAX, example=[1] * (2 * rank)) or ()
        fill = c.find(2) if mode == "constant" else None
        if fill is not None and fill.type.rank:
            fill = emit("reshape", fill, shape=()) if known(prod(fill.type.shape)) else None
    else:
        pads = tuple(map(Const, c.get_ints("pads") or ()))
        fill = scalar(c.get_float("value", 0.0), x) if mode == "constant" else None
    count = rank if c.version < 18 or c.find(3) is None else known(prod(c[3].type.shape)) or 0
    if len(pads) != 2 * count:
        raise ModelError(f"expected {2 * count} pads, found {len(pads)}")
    spread = _spread_pads(c, pads, rank, count)
    number = None if fill is None else c.importer.constants.find(fill)
    if fill is None or number is not None:
        value = 0 if number is None else number.reshape(-1)[0].item()
        return emit("pad", x, pads=spread, mode=mode, value=_number(value, x))
    # A number that only data tell goes where the border of an image of ones has its zeros.
    zero = _number(0, x)
    padded = emit("pad", x, pads=spread, mode=mode, value=zero)
    ones = emit("expand", c.held(constant(True, np.bool_)), shape=x.type.shape)
    inside = emit("pad", ones, pads=spread, mode=mode, value=False)
    return emit("where", inside, padded, fill)


def _spread_pads(c: OnnxNode, pads: Sequence[Expr], rank: int, count: int) -> tuple[Expr, ...]:
    """Pads of all axes, from those of the axes that operand 3 names."""
    before, after = pads[:count], pads[count:]
    if c.version < 18 or c.find(3) is None:
        return tuple(pads)
    if c.is_fixed(3):
        axes = [Const(check_axis(a, rank)) for a in c.fixed(3, "the axes") or ()]
    else:
        axes = c.sizes(3, "the axes", example=range(count)) or ()
    return tuple(
        at_axis(axes, side, k, rank, ZERO) for side in (before, after) for k in range(rank)
    )


def _number(value: object, x: Node) -> int | float | bool:
    """A fill value in the kind of x's dtype."""
    kind = x.type.dtype
    if kind == "bool":
        return bool(value)
    return float(value) if kind[0] in "fb" else int(value)  # type: ignore[call-overload]


def depth_to_space(c: OnnxNode) -> Node:
    """Channels become blocks of pixels: [n, c·b², h, w] -> [n, c, h·b, w·b]."""
    n, channels, h, w = _image(c)
    b, mode = c.get_int("blocksize", 1), c.get_str("mode", "DCR", ("DCR", "CRD"))
    depth = floordiv(channels, b * b)
    if (known(channels) or 0) % (b * b):
        raise ModelError(f"expected a multiple of {b * b} channels, found {known(channels)}")
    size = Const(b)
    if mode == "DCR":
        shape, perm = (n, size, size, depth, h, w), (0, 3, 4, 1, 5, 2)
    else:
        shape, perm = (n, depth, size, size, h, w), (0, 1, 4, 2, 5, 3)
    moved = emit("transpose", emit("reshape", c[0], shape=shape), perm=perm)
    return emit("reshape", moved, shape=(n, depth, mul(h, b), mul(w, b)))


def space_to_depth(c: OnnxNode) -> Node:
    """Blocks of pixels become channels: [n, c, h·b, w·b] -> [n, c·b², h, w]. With mode CRD a
    channel of x stays together."""
    n, channels, h, w = _image(c)
    b = c.get_int("blocksize", 1)
    size, rows, columns = Const(b), floordiv(h, b), floordiv(w, b)
    if (known(h) or 0) % b or (known(w) or 0) % b:
        raise ModelError(f"expected sizes that {b} divides, found {known(h)} and {known(w)}")
    parts = emit("reshape", c[0], shape=(n, channels, rows, size, columns, size))
    mode = c.get_str("mode", "DCR", ("DCR", "CRD"))
    perm = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    moved = emit("transpose", parts, perm=perm)
    return emit("reshape", moved, shape=(n, mul(channels, b * b), rows, columns))


def reverse_sequence(c: OnnxNode) -> Node:
    """The first elements of each sample in reverse."""
    rank = c[0].type.rank
    axes = {f"{k}_axis": check_axis(c.get_int(f"{k}_axis", d), rank)
            for k, d in (("batch", 1), ("time", 0))}  # fmt: skip
    return emit("reverse_sequence", c[0], c[1], **axes)


def center_crop_pad(c: OnnxNode) -> Node:
    """Crops or pads with zeros on both sides, by one more behind where the difference is odd."""
    x, rank = c[0], c[0].type.rank
    wanted = c.sizes(1, "the shape") or ()
    given = c.get_ints("axes")
    axes = range(rank) if given is None else [check_axis(a, rank) for a in given]
    if len(wanted) != len(axes) or len(set(axes)) != len(axes):
        raise ModelError(f"expected a size for each of {len(axes)} axes, found {len(wanted)}")
    pads: list[Expr] = [ZERO] * (2 * rank)
    for axis, size in zip(axes, wanted, strict=True):
        more = sub(size, x.type.shape[axis])
        less = mul(floordiv(mul(more, -1), 2), -1)
        pads[axis] = select(compare("ge", more, 0), floordiv(more, 2), less)
        pads[rank + axis] = sub(more, pads[axis])
    return emit("pad", x, pads=tuple(pads), mode="constant", value=_number(0, x))


def _image(c: OnnxNode) -> tuple[Expr, Expr, Expr, Expr]:
    shape = c[0].type.shape
    if len(shape) != 4 or c.get_int("blocksize", 1) < 1:
        raise ModelError(f"expected [n, c, h, w] and a blocksize ≥ 1, found rank {len(shape)}")
    return shape[0], shape[1], shape[2], shape[3]


TABLE: dict[str, Handler] = {
    "CenterCropPad": center_crop_pad,
    "Concat": concat,
    "DepthToSpace": depth_to_space,
    "Gather": gather,
    "GatherElements": gather_elements,
    "Pad": pad,
    "ReverseSequence": reverse_sequence,
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Transpose": transpose,
}
