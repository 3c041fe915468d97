"""resize_image and filter_taps: an image of any size becomes one of the size that a model wants.

Separable resampling: each result is a weighted sum of a few elements along one axis, then along the
other. A kernel that gets smaller is widened by as much (antialiasing), its taps end at the border,
and weights add up to 1: what Pillow's `resize` and PyTorch's `interpolate(antialias=True)` compute.
Pillow rounds to whole numbers after each axis; here nothing is rounded.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

from naru.errors import ModelError
from naru.ir.expr import Expr
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import add, ceildiv, index, known, maximum, mul, prod
from naru.ops.contraction import wide
from naru.ops.kernel_text import by_hand, indent, multiply_add
from naru.ops.operands import check_equal, given, operand
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, register
from naru.ops.samples import random
from naru.targets import Target

Array = np.ndarray

# Elements within reach on both sides. box is the mean over the pixel (OpenCV's INTER_AREA).
FILTERS = {"nearest": 0, "box": 1, "bilinear": 2, "bicubic": 4}
BICUBIC = -0.5  # the parameter of Keys' kernel (1981), as Pillow and PyTorch's antialiasing have it
BLOCKS = 16  # rows of results share a line of sums in so many blocks


# --- filter_taps ----------------------------------------------------------------------------------


def infer_filter_taps(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x (read for its sizes only) -> of each of `count` results the first element that it is made
    of, i32 [count], and the weights of that element and of those behind it, f32 [count, taps].

    attrs size: of the axis; scaled: what the whole axis is scaled to; offset: the first result, in
    that; count; filter; antialias (all sizes: index expressions)."""
    operand("filter_taps", types, 0)
    if attrs["filter"] not in FILTERS:
        raise ModelError(f"filter_taps: expected one of {', '.join(FILTERS)}")
    count = index(attrs["count"])
    return TensorType("i32", (count,)), TensorType("f32", (count, _taps(attrs)))


def _taps(attrs: Attrs) -> Expr:
    """The most elements that a result is made of."""
    reach = FILTERS[attrs["filter"]]
    if not reach:
        return index(1)
    if not attrs["antialias"]:
        return index(reach)
    return maximum(ceildiv(mul(reach, index(attrs["size"])), index(attrs["scaled"])), reach)


def _kernel(d: Array, name: str) -> Array:
    """The kernel at distances d >= 0."""
    if name == "box":
        return np.where(d <= 0.5, 1.0, 0.0)
    if name == "bilinear":
        return np.maximum(1.0 - d, 0.0)
    a = BICUBIC
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    return np.where(d < 1, near, np.where(d < 2, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a, 0.0))


def ref_filter_taps(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    size, scaled, offset, count = (
        known(index(attrs[k])) or 0 for k in ("size", "scaled", "offset", "count")
    )
    taps, reach = known(_taps(attrs)) or 1, FILTERS[attrs["filter"]]
    scale = size / scaled
    center = (np.arange(count) + offset + 0.5) * scale
    if not reach:
        first = np.clip(np.floor(center), 0, size - 1)
        return first.astype(np.int32), np.ones((count, 1), np.float32)
    larger = max(scale, 1.0) if attrs["antialias"] else 1.0
    first = np.clip(np.floor(center - reach / 2 * larger + 0.5), 0, size - 1)
    at = first[:, None] + np.arange(taps)
    weight = _kernel(np.abs(at + 0.5 - center[:, None]) / larger, attrs["filter"])
    weight = np.where(at < size, weight, 0.0)
    weight = weight / weight.sum(1, keepdims=True)
    return first.astype(np.int32), weight.astype(np.float32)


def _kernel_text(name: str) -> str:
    if name == "box":
        return "select(d <= 0.5, 1.0, 0.0)"
    if name == "bilinear":
        return "max(1.0 - d, 0.0)"
    a = BICUBIC
    near = f"(({a + 2} * d - {a + 3}) * d * d + 1.0)"
    far = f"((({a} * d - {5 * a}) * d + {8 * a}) * d - {4 * a})"
    return f"select(d < 1.0, {near}, select(d < 2.0, {far}, 0.0))"


def opaque_filter_taps(n: Node, target: Target) -> str:
    """Parameters: x, first, weight, sizes. In double precision, as Pillow does."""
    name = str(n.attr("filter"))
    reach = FILTERS[name]
    place = [
        "for i in range(COUNT):",
        "    center: f64 = (f64(i + OFFSET) + 0.5) * scale",
        f"    start: f64 = floor({'center - reach + 0.5' if reach else 'center'})",
        "    low: index = min(max(index(i32(start)), 0), SIZE - 1)",
        "    first[i] = i32(low)",
    ]
    weigh = [
        "total = f64(0.0)",
        "for k in range(TAPS):",
        "    d: f64 = abs(f64(low + k) + 0.5 - center) / larger",
        f"    w: f64 = select(low + k < SIZE, {_kernel_text(name)}, 0.0)",
        "    total = total + w",
        "    weight[i * TAPS + k] = f32(w)",
        "for k in range(TAPS):",
        "    weight[i * TAPS + k] = f32(f64(weight[i * TAPS + k]) / total)",
    ]
    larger = "max(scale, 1.0)" if n.attr("antialias") else "f64(1.0)"
    body = [
        "scale: f64 = f64(SIZE) / f64(SCALED)",
        f"larger: f64 = {larger}",
        f"reach: f64 = {reach / 2} * larger",
        *place,
        *indent(weigh if reach else ["weight[i] = f32(1.0)"]),
    ]
    attrs: Attrs = dict(n.attrs)
    sizes = {k.upper(): index(attrs[k]) for k in ("size", "scaled", "offset", "count")}
    return by_hand(n, ("x",), ("first", "weight"), body, {**sizes, "TAPS": _taps(attrs)})


def _filter_taps_samples() -> Iterable[Sample]:
    places = [
        (12, 5, 0, 5),
        (5, 12, 0, 12),
        (7, 7, 0, 7),
        (9, 6, 2, 3),
        (1, 4, 0, 4),
        (30, 1, 0, 1),
    ]
    for (size, scaled, offset, count), name, antialias in itertools.product(
        places, FILTERS, (True, False)
    ):
        sizes = {"size": size, "scaled": scaled, "offset": offset, "count": count}
        yield Sample((random(size, 3),), {**sizes, "filter": name, "antialias": antialias})


register(Op("filter_taps", "opaque", infer_filter_taps, ref_filter_taps,
            opaque=opaque_filter_taps, samples=_filter_taps_samples))  # fmt: skip


# --- resize_image ---------------------------------------------------------------------------------


def infer_resize_image(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [H, W · C] (u8 or f32), and what filter_taps gives for its rows and for its columns ->
    f32 [rows, columns · C], and lines of sums to work in. attr channels: C."""
    op, channels = "resize_image", int(attrs["channels"])
    x = operand(op, types, 0, 2)
    if x.dtype not in ("u8", "f32"):
        raise ModelError(f"{op}: expected u8 or f32, got {x.dtype}")
    first_y, weight_y = operand(op, types, 1, 1), operand(op, types, 2, 2)
    first_x, weight_x = operand(op, types, 3, 1), operand(op, types, 4, 2)
    rows = check_equal(op, "numbers of rows", first_y.shape[0], weight_y.shape[0])
    columns = check_equal(op, "numbers of columns", first_x.shape[0], weight_x.shape[0])
    out = TensorType("f32", (rows, mul(columns, channels)))
    # A pixel is read as four elements.
    return out, TensorType("f32", (index(BLOCKS), add(x.shape[1], 4)))


def ref_resize_image(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x = given(arrays)
    first_y, weight_y, first_x, weight_x = (given(arrays, k) for k in range(1, 5))
    channels = int(attrs["channels"])
    image = wide(x).astype(np.result_type(wide(x).dtype, np.float32)).reshape(len(x), -1, channels)

    def sums(values: Array, first: Array, weight: Array) -> Array:
        """Along the first axis."""
        out = np.zeros((len(first), *values.shape[1:]), values.dtype)
        for k in range(weight.shape[1]):
            at = np.minimum(first + k, len(values) - 1)  # what lies beyond has the weight 0
            out += values[at] * weight[:, k, None, None].astype(values.dtype)
        return out

    lines = sums(image, first_y, weight_y)
    out = sums(lines.transpose(1, 0, 2), first_x, weight_x).transpose(1, 0, 2)
    return out.reshape(len(first_y), -1), np.zeros((BLOCKS, x.shape[1] + 4), out.dtype)


def _line(target: Target) -> list[str]:
    """A line of sums down the columns: tiles of neighbours, each a few vectors long."""
    lanes = 4 * target.lanes("f32")
    add_tile = multiply_add(
        target,
        f"splat(weight_y[y * TAPS_Y + k], {lanes})",
        f"f32(x[(top + k) * WIDTH + i:(top + k) * WIDTH + i + {lanes}])",
        f"tile[0:{lanes}]",
    )
    add_one = multiply_add(
        target, "weight_y[y * TAPS_Y + k]", "f32(x[(top + k) * WIDTH + i])", "one"
    )
    return [
        "top: index = index(first_y[y])",
        "high: index = min(TAPS_Y, HEIGHT - top)",
        f"for t in range((right - left) // {lanes}):",
        f"    i: index = left + t * {lanes}",
        f"    tile: f32[{lanes}] @ stack",
        f"    tile[0:{lanes}] = splat(f32(0.0), {lanes})",
        "    for k in range(high):",
        f"        tile[0:{lanes}] = {add_tile}",
        f"    line[base + i:base + i + {lanes}] = tile[0:{lanes}]",
        f"for i in range(right - (right - left) % {lanes}, right):",
        "    one = f32(0.0)",
        "    for k in range(high):",
        f"        one = {add_one}",
        "    line[base + i] = one",
    ]


def _row(target: Target, channels: int) -> list[str]:
    """A row of results from a line of sums. The channels of a pixel are lanes of one vector; its
    fourth lane, where that is the next pixel's, is overwritten by that."""
    head = [
        "for j in range(COLUMNS):",
        "    source: index = index(first_x[j])",
        "    at: index = base + source * CHANNELS",
        "    to: index = (y * COLUMNS + j) * CHANNELS",
        "    wide: index = min(TAPS_X, IMAGE - source)",
    ]
    weight = "weight_x[j * TAPS_X + k]"
    if channels < 3:
        add_one = multiply_add(target, weight, "line[at + k * CHANNELS + c]", "one")
        return [
            *head,
            f"    for c in unroll({channels}):",
            "        one = f32(0.0)",
            "        for k in range(wide):",
            f"            one = {add_one}",
            "        out[to + c] = one",
        ]
    taken = "line[at + k * CHANNELS:at + k * CHANNELS + 4]"
    last = [
        "    if j < COLUMNS - 1:",
        "        out[to:to + 4] = pixel[0:4]",
        "    else:",
        "        for c in range(3):",
        "            out[to + c] = pixel[c]",
    ]
    return [
        *head,
        "    pixel: f32[4] @ stack",
        "    pixel[0:4] = splat(f32(0.0), 4)",
        "    for k in range(wide):",
        f"        pixel[0:4] = {multiply_add(target, f'splat({weight}, 4)', taken, 'pixel[0:4]')}",
        *(["    out[to:to + 4] = pixel[0:4]"] if channels == 4 else last),
    ]


def opaque_resize_image(n: Node, target: Target) -> str:
    """Parameters: x, first_y, weight_y, first_x, weight_x, out, line, sizes. Blocks of rows are
    independent; of each line only the columns that results need are made."""
    x, first_y, weight_y, first_x, weight_x = (given(n.inputs, k).type for k in range(5))
    channels = int(str(n.attr("channels")))
    body = [
        "for block in parallel(BLOCKS):",
        "    base: index = block * (WIDTH + 4)",
        "    left: index = index(first_x[0]) * CHANNELS",
        "    right: index = min((index(first_x[COLUMNS - 1]) + TAPS_X) * CHANNELS, WIDTH)",
        "    for y in range(block * ROWS // BLOCKS, (block + 1) * ROWS // BLOCKS):",
        *indent(_line(target), 2),
        *indent(_row(target, channels), 2),
    ]
    sizes: dict[str, Expr] = {
        "BLOCKS": index(BLOCKS), "CHANNELS": index(channels),
        "HEIGHT": x.shape[0], "WIDTH": x.shape[1], "ROWS": first_y.shape[0],
        "COLUMNS": first_x.shape[0], "TAPS_Y": weight_y.shape[1], "TAPS_X": weight_x.shape[1],
    }  # fmt: skip
    text = [s.replace("IMAGE", f"WIDTH // {channels}") for s in body]
    roles = ("x", "first_y", "weight_y", "first_x", "weight_x")
    return by_hand(n, roles, ("out", "line"), text, sizes)


def _resize_image_flops(n: Node) -> Expr:
    """Of the lines, and of the results."""
    x, weight_y, weight_x = (given(n.inputs, k).type for k in (0, 2, 4))
    lines = mul(prod(weight_y.shape), x.shape[1])
    return mul(2, add(lines, mul(weight_x.shape[1], prod(n.types[0].shape))))


def _resize_image_samples() -> Iterable[Sample]:
    shapes = [(9, 14, 4, 5), (5, 50, 12, 21), (1, 1, 3, 2), (3, 2, 17, 1)]
    for channels, (height, width, rows, columns) in itertools.product((1, 3, 4), shapes):
        x = np.random.default_rng(channels).integers(0, 256, (height, width * channels))
        taps: list[Array] = []
        for size, scaled in ((height, rows), (width, columns)):
            sizes = {"size": size, "scaled": scaled, "offset": 0, "count": scaled}
            more = {"filter": "bilinear", "antialias": True}
            taps += ref_filter_taps((x,), {**sizes, **more})
        for dtype in (np.uint8, np.float32) if channels == 3 else (np.uint8,):
            yield Sample((x.astype(dtype), *taps), {"channels": channels})


register(Op("resize_image", "opaque", infer_resize_image, ref_resize_image,
            opaque=opaque_resize_image, flops=_resize_image_flops,
            samples=_resize_image_samples, work=1))  # fmt: skip
