"""Sums of products for matrix registers of bf16 (AMX): `pack_tiles` and `tile_product`.

A float x is the sum of parts, each the bf16 nearest to what the earlier ones leave:

    x = x0 + x1 + x2 + …      x0 = bf16(x), x1 = bf16(x - x0), x2 = bf16(x - x0 - x1)

and a product of two floats the sum of products of parts, in the order of `PAIRS`, the small ones
first. Sums are f32. One part is bf16 arithmetic (relative rms error 2e-3), two parts are 4e-6 from
the exact result, three are as good as f32 (1e-7). Henry, Tang and Heinecke, "Leveraging the
bfloat16 artificial intelligence datatype for higher-precision computations" (2019).

All parts but the last are cut off at the largest finite number, so that it is the last part alone
that is infinite or NaN: sums of it are those that f32 would have. Parts below
2^-126 are 0, as the registers take them: those of numbers below 2^-117 may be.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import ml_dtypes
import numpy as np

from naru.errors import ModelError
from naru.ir.expr import Binary, Cast, Const, Expr, Read, Var
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import (
    TRUE,
    ZERO,
    add,
    bounds,
    ceildiv,
    compare,
    floordiv,
    known,
    logical_and,
    maximum,
    minimum,
    mod,
    mul,
    prod,
    select,
    sub,
)
from naru.ir.tensor import Tensor
from naru.ops import formula as f
from naru.ops.operands import Dims, element, given, ints, operand, sizes
from naru.ops.registry import Arrays, Attrs, Emit, Op, Sample, Types, register
from naru.ops.samples import random

Array = np.ndarray

SIDE = 16  # rows of a register, and columns of the result
DEPTH = 32  # numbers of bf16 in a row: as many products are added by one instruction
LARGEST = float.fromhex("0x1.fep127")  # of bf16
SMALLEST = 2.0**-126  # that is normal
# (part of the left operand, part of the right one) of each product, by the number of parts.
PAIRS: dict[int, tuple[tuple[int, int], ...]] = {
    1: ((0, 0),),
    2: ((1, 0), (0, 0), (0, 1)),
    3: ((2, 0), (1, 1), (0, 2), (0, 1), (0, 0), (1, 0)),
}


@dataclass(frozen=True)
class Window:
    """How a convolution passes over an image [N, C, H, W] (or [N, C, W]); all by (line, pixel).
    `pads`: zeros before the first and behind the last. Each of the `phases` holds every
    `strides`-th line and pixel, so that neighbours of the result read neighbours.

    A transposed convolution makes `places` lines and pixels of each window, place a of the window
    that lies (a + `first`) // places further on (see ops/transposed.py).

    `run`: an image of few channels, which are innermost, is one of lines of numbers,
    [N, 1, H, W · C]; all that a window sees of a line is the depth then, a run of so many numbers,
    and `taps` are those down. `pads` may cut off what only lets whole blocks be read."""

    taps: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]  # top, left, bottom, right
    places: tuple[int, int] = (1, 1)
    first: tuple[int, int] = (0, 0)
    run: int = 0

    @staticmethod
    def of(attrs: Attrs) -> Window | None:
        """None for rows of a matrix."""
        if not attrs.get("taps"):
            return None
        pads = ints(attrs, "pads")
        names = ("taps", "strides", "dilations", "places", "first")
        pairs = {name: ints(attrs, name) for name in names if attrs.get(name)}
        return Window(
            pads=(pads[0], pads[1], pads[2], pads[3]),
            run=int(attrs.get("run", 0)),
            **{name: (down, across) for name, (down, across) in pairs.items()},
        )

    @property
    def phases(self) -> tuple[int, int]:
        """So many of them are read."""
        down, across = self.offsets
        return len(down), len(across)

    @property
    def offsets(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The phases in use, down and across, as first lines and pixels."""
        steps = zip(self.taps, self.strides, self.dilations, strict=True)
        found = [tuple(sorted({k * d % s for k in range(t)})) for t, s, d in steps]
        return found[0], found[1]

    def counts(self, size: Sequence[Expr]) -> tuple[Expr, Expr]:
        """Windows, down and across: lines and pixels of the result, for each of its places."""
        made: list[Expr] = []
        for k, (n, s, d) in enumerate(zip(size, self.strides, self.dilations, strict=True)):
            seen = (self.taps[k] - 1) * d + 1 + int(self.first[k] > 0)
            seen = self.run if k and self.run else seen
            made.append(add(floordiv(sub(add(n, self.pads[k], self.pads[k + 2]), seen), s), 1))
        return made[0], made[1]

    def depth(self, channels: Expr) -> Expr:
        """Numbers that a tap reads of each pixel."""
        return Const(self.run) if self.run else channels

    def reach(self) -> tuple[int, int]:
        """Lines and pixels of a phase that a window reads beyond its own."""
        steps = zip(self.taps, self.strides, self.dilations, self.first, strict=True)
        found = [(t - 1) * d // s + int(f > 0) for t, s, d, f in steps]
        return found[0], found[1]

    def pitch(self, size: Sequence[Expr]) -> Expr:
        """Pixels in a line of a phase."""
        return add(self.counts(size)[1], self.reach()[1])

    def length(self, size: Sequence[Expr]) -> Expr:
        """Pixels of a phase, in whole lines, with those that whole tiles read beyond its end."""
        down, across = self.reach()
        pitch = self.pitch(size)
        whole = mul(ceildiv(mul(self.counts(size)[0], pitch), SIDE), SIDE)
        return mul(add(ceildiv(add(whole, across), pitch), down), pitch)


def parts_of(attrs: Attrs) -> int:
    """Into how many parts operands are split."""
    return int(attrs["parts"])


def plane(shape: Dims) -> Dims:
    """Height and width of an image [N, C, W] or [N, C, H, W]."""
    return (Const(1), shape[2]) if len(shape) == 3 else shape[2:]


def split(x: Array, parts: int) -> Array:
    """x as bf16 numbers that add up to it: [parts, *x.shape]."""
    rest = np.asarray(x, np.float32)
    found: list[Array] = []
    with np.errstate(all="ignore"):
        for k in range(parts):
            cut = rest if k == parts - 1 else np.clip(rest, -LARGEST, LARGEST)
            part = np.where(np.abs(cut) < SMALLEST, cut * 0, cut).astype(ml_dtypes.bfloat16)
            found.append(part)
            rest = rest - part.astype(np.float32)
    return np.stack(found)


def pack_weights(w: Array, parts: int) -> Array:
    """Filters [taps, k, n] (or a matrix, [1, k, n]) as bf16 [n / 16, taps, k / 32, parts, 16, 32]:
    in each tile, element (k, n) at [k // 2, n · 2 + k % 2]. Zeros fill the last tiles."""
    taps, depth, columns = w.shape
    whole = np.zeros((taps, -(-depth // DEPTH) * DEPTH, -(-columns // SIDE) * SIDE), np.float32)
    whole[:, :depth, :columns] = w
    made = split(whole, parts)
    tiles = made.reshape(
        parts, taps, whole.shape[1] // DEPTH, DEPTH // 2, 2, whole.shape[2] // SIDE, SIDE
    )
    made = tiles.transpose(5, 1, 2, 0, 3, 6, 4)
    return np.ascontiguousarray(made.reshape(*made.shape[:4], SIDE, DEPTH))


def unpack_weights(w: Array) -> Array:
    """The parts of packed weights: [parts, taps, k, n] f32."""
    panels, taps, blocks, parts = w.shape[:4]
    tiles = w.astype(np.float32).reshape(panels, taps, blocks, parts, DEPTH // 2, SIDE, 2)
    made = tiles.transpose(3, 1, 2, 4, 6, 0, 5)
    return made.reshape(parts, taps, blocks * DEPTH, panels * SIDE)


# --- pack_tiles -----------------------------------------------------------------------------------


def infer_pack(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """[…, m, k] -> bf16 [parts, k / 32, rows, 32], rows: all of them, to whole tiles; of an image
    [N, C, H, W] or [N, C, W] -> [parts, N, phases, C / 32, pixels, 32]. Zeros fill up."""
    x = operand("pack_tiles", types, 0)
    parts, window = attrs["parts"], Window.of(attrs)
    if parts not in PAIRS:
        raise ModelError(f"pack_tiles: expected 1 to 3 parts, got {parts}")
    if window is not None and window.run and known(x.shape[1]) != 1:
        raise ModelError("pack_tiles: runs are those of an image of one channel")
    if window is None:
        rows = mul(ceildiv(prod(x.shape[:-1]), SIDE), SIDE)
        return (
            TensorType("bf16", (Const(parts), ceildiv(x.shape[-1], DEPTH), rows, Const(DEPTH))),
        )
    down, across = window.phases
    shape = (
        Const(parts), x.shape[0], Const(down * across), ceildiv(window.depth(x.shape[1]), DEPTH),
        window.length(plane(x.shape)), Const(DEPTH),
    )  # fmt: skip
    return (TensorType("bf16", shape),)


def ref_pack(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x, parts, window = given(arrays).astype(np.float32), int(attrs["parts"]), Window.of(attrs)
    if window is None:
        rows, depth = math.prod(x.shape[:-1]), x.shape[-1]
        whole = np.zeros((-(-rows // SIDE) * SIDE, -(-depth // DEPTH) * DEPTH), np.float32)
        whole[:rows, :depth] = x.reshape(rows, depth)
        made = split(whole, parts).reshape(parts, whole.shape[0], -1, DEPTH)
        return (np.ascontiguousarray(made.transpose(0, 2, 1, 3)),)
    x = x[:, :, None] if x.ndim == 3 else x
    images, channels, *size = x.shape
    sizes = [Const(n) for n in size]
    pitch, length = known(window.pitch(sizes)) or 0, known(window.length(sizes)) or 0
    run = window.run or 1
    blocks = -(-channels * run // DEPTH)
    down, across = window.offsets
    whole = np.zeros((images, len(down) * len(across), blocks * DEPTH, length), np.float32)
    top, left, _, _ = window.pads
    for k, (first, begin) in enumerate(itertools.product(down, across)):
        for at in range(length):
            line, pixel = divmod(at, pitch)
            y = line * window.strides[0] + first - top
            z = pixel * window.strides[1] + begin - left
            if 0 <= y < size[0] and 0 <= z < size[1]:
                seen = x[:, :, y, z : z + run].reshape(images, -1)
                whole[:, k, : seen.shape[1], at] = seen
    made = split(whole, parts).reshape(parts, images, -1, blocks, DEPTH, length)
    return (np.ascontiguousarray(made.swapaxes(-1, -2)),)


def lower_pack(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
    """Parts of the element that lies there, or of 0."""
    x, parts, window = given(ins), parts_of(dict(n.attrs)), Window.of(dict(n.attrs))

    def rows(part: Var, block: Var, row: Var, k: Var) -> Expr:
        at: list[Expr] = []
        count = prod(x.shape[:-1])
        rest = clamped(row, count)
        for size in reversed(x.shape[1:-1]):
            at.append(mod(rest, size))
            rest = floordiv(rest, size)
        at += [rest] if len(x.shape) > 1 else []
        last = len(x.shape) - 1
        depth, there = _depth(block, k, x.shape[last])
        value = element(x, (*reversed(at), depth)).expr
        return _part(part, parts, _inside(logical_and(_below(row, count), there), value))

    def pixels(part: Var, image: Var, phase: Var, block: Var, q: Var, k: Var) -> Expr:
        assert window is not None
        height, width = plane(x.shape)
        pitch = window.pitch((height, width))
        down, across = window.offsets
        first = _offset(floordiv(phase, len(across)), down)
        begin = _offset(mod(phase, len(across)), across)
        line = sub(add(mul(floordiv(q, pitch), window.strides[0]), first), window.pads[0])
        pixel = sub(add(mul(mod(q, pitch), window.strides[1]), begin), window.pads[1])
        channel, there = _depth(block, k, x.shape[1])
        if window.run:
            number = add(mul(block, DEPTH), k)
            channel, there, pixel = ZERO, _below(number, Const(window.run)), add(pixel, number)
        limits = (_above(line), _below(line, height), _above(pixel), _below(pixel, width), there)
        inside = reduce(logical_and, limits)
        place = (clamped(line, height), clamped(pixel, width))[len(x.shape) == 3 :]
        value = element(x, (image, channel, *place)).expr
        return _part(part, parts, _inside(inside, value))

    return (e.stage("packed", n.type.shape, rows if window is None else pixels),)


def _depth(block: Expr, k: Expr, extent: Expr) -> tuple[Expr, Expr]:
    """Where number k of a block lies along an axis, and whether it does: by the largest unit of
    neighbours, of which all or none are there."""
    unit = math.gcd(known(extent) or 1, DEPTH)
    piece, pieces = add(mul(block, DEPTH // unit), floordiv(k, unit)), floordiv(extent, unit)
    return add(mul(clamped(piece, pieces), unit), mod(k, unit)), _below(piece, pieces)


def clamped(i: Expr, size: Expr) -> Expr:
    """The index nearest to i that there is."""
    return maximum(minimum(i, sub(size, 1)), 0)


def _above(i: Expr) -> Expr:
    return TRUE if bounds(i)[0] >= 0 else compare("ge", i, 0)


def _below(i: Expr, size: Expr) -> Expr:
    return TRUE if bounds(sub(size, i))[0] > 0 else compare("lt", i, size)


def _inside(inside: Expr, x: Expr) -> Expr:
    return select(inside, x, Const(0.0, "f32"))


def _offset(k: Expr, offsets: Sequence[int]) -> Expr:
    """offsets[k], of increasing ones."""
    dense = tuple(offsets) == tuple(range(len(offsets)))
    return k if dense else _chosen(k, [Const(v) for v in offsets])


def _chosen(k: Expr, values: Sequence[Expr]) -> Expr:
    """values[k]."""
    made = values[-1]
    for i in reversed(range(len(values) - 1)):
        made = select(compare("eq", k, i), values[i], made)
    return made


def _part(part: Expr, parts: int, x: Expr) -> Expr:
    """Part number `part` of x, see `split`."""
    rest, found = f.Term(x), list[Expr]()
    for k in range(parts):
        cut = rest
        if k < parts - 1:
            high = Binary("min", rest.expr, Const(LARGEST, "f32"))
            cut = f.Term(Binary("max", high, Const(-LARGEST, "f32")))
        made = f.cast(f.normal(cut), "bf16")
        found.append(made.expr)
        rest = rest - f.cast(made, "f32")
    return _chosen(part, found)


def _pack_samples() -> Iterable[Sample]:
    for parts in PAIRS:
        yield Sample((random(5, 64),), {"parts": parts})
    yield Sample((random(2, 9, 32),), {"parts": 2})
    yield Sample((random(3, 48),), {"parts": 2})
    yield Sample((random(3, 24),), {"parts": 2})
    yield Sample((random(2, 5),), {"parts": 1})
    for pads, strides in (((0, 0, 0, 0), (2, 2)), ((1, 1, 1, 1), (1, 1)), ((1, 1, 1, 1), (2, 2))):
        around = {"taps": (3, 3), "strides": strides, "dilations": (1, 1), "pads": pads}
        yield Sample((random(1, 32, 4, 3),), {"parts": 2, **around})
    line = {"taps": (1, 3), "strides": (1, 2), "dilations": (1, 1), "pads": (0, 1, 0, 1)}
    yield Sample((random(1, 32, 9),), {"parts": 2, **line})
    for run, w in ((21, 16 * 9), (35, 16 * 9)):
        around = {"taps": (3, 1), "strides": (2, 6), "dilations": (1, 1), "run": run}
        yield Sample((random(1, 1, 8, w),), {"parts": 2, **around, "pads": (0, 0, 0, -64)})
    huge = [3.4e38, -3.4e38, np.inf, -np.inf, np.nan, 1.0, 0.0, -0.0]
    tiny = [1e-40, -1e-40, 2.0**-126, -(2.0**-126), 2.0**-126 - 2.0**-149, 3e-38, 2.0**-120, 1e-45]
    for numbers, parts in itertools.product((huge, tiny), (1, 2)):
        yield Sample((np.array([numbers * 4], np.float32),), {"parts": parts})


register(Op("pack_tiles", "index", infer_pack, ref_pack, lower_pack, samples=_pack_samples))


# --- tile_product ---------------------------------------------------------------------------------


def infer_product(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """Packed rows and weights -> f32 of the shape that attribute `shape` gives, […, m, n]; packed
    images and filters -> [N, filters, H, W] or [N, filters, W], the filters packed for each of the
    window's places."""
    a, w = operand("tile_product", types, 0), operand("tile_product", types, 1, 6)
    rank = 4 if Window.of(attrs) is None else 6
    if a.rank != rank or (a.dtype, w.dtype) != ("bf16", "bf16"):
        raise ModelError(f"tile_product: expected packed bf16 of rank {rank}, got {a.rank}")
    return (TensorType("f32", sizes(attrs, "shape")),)


def ref_product(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    """The products of PAIRS, added in f64 and rounded."""
    a, packed = given(arrays).astype(np.float64), given(arrays, 1)
    window, shape = Window.of(attrs), [known(d) or 0 for d in sizes(attrs, "shape")]
    w = unpack_weights(packed).astype(np.float64)
    pairs = PAIRS[parts_of(attrs)]
    with np.errstate(all="ignore"):
        if window is None:
            rows = a.swapaxes(1, 2).reshape(a.shape[0], a.shape[2], -1)
            made = sum(rows[i] @ w[j, 0] for i, j in pairs)
            made = np.asarray(made)[: math.prod(shape[:-1]), : shape[-1]]
            return (made.reshape(shape).astype(np.float32),)
        filters, (down, across) = shape[1], window.places
        height, width = (shape[2] if len(shape) == 4 else 1) // down, shape[-1] // across
        pixels = a.swapaxes(3, 4).reshape(*a.shape[:3], a.shape[4], -1)
        pitch = width + window.reach()[1]
        w = w.reshape(*w.shape[:3], down * across, -1)[..., :filters]
        out = np.zeros((a.shape[1], height, down, width, across, filters))
        taps = enumerate(itertools.product(*map(range, window.taps)))
        places = itertools.product(*map(range, window.places))
        for (tap, (y, x)), (py, px) in itertools.product(taps, places):
            phase, start = _place(window, Const(y), Const(x), Const(pitch))
            moved = [
                (p + f) // n for p, f, n in zip((py, px), window.first, window.places, strict=True)
            ]
            begin, count = (known(start) or 0) + moved[0] * pitch + moved[1], height * pitch
            view = pixels[:, :, known(phase) or 0, begin : begin + count]
            for i, j in pairs:
                part = view[i] @ w[j, tap, :, py * across + px]
                out[:, :, py, :, px] += part.reshape(-1, height, pitch, filters)[:, :, :width]
    made = out.transpose(0, 5, 1, 2, 3, 4).reshape(shape)
    return (made.astype(np.float32),)


def _place(window: Window, y: Expr, x: Expr, pitch: Expr) -> tuple[Expr, Expr]:
    """The phase that a tap reads, and how many pixels further on."""
    at: list[tuple[Expr, Expr]] = []
    for k, (tap, offsets) in enumerate(zip((y, x), window.offsets, strict=True)):
        stride, moved = window.strides[k], mul(tap, window.dilations[k])
        first = mod(moved, stride)
        dense = offsets == tuple(range(len(offsets)))
        phase = first if dense else _index_of(first, offsets)
        at.append((phase, floordiv(moved, stride)))
    (down, line), (across, pixel) = at
    return add(mul(down, len(window.offsets[1])), across), add(mul(line, pitch), pixel)


def _index_of(first: Expr, offsets: Sequence[int]) -> Expr:
    made: Expr = Const(len(offsets) - 1)
    for i in reversed(range(len(offsets) - 1)):
        made = select(compare("eq", first, offsets[i]), Const(i), made)
    return made


def lower_product(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
    """out[…, m, n] = sum over block, pair, k of a[left(pair), block, row, k] ·
    w[n // 16, 0, block, right(pair), k // 2, n % 16 · 2 + k % 2]; of an image also over its taps,
    with row = line · pitch + pixel and what the tap adds to it."""
    a, w = given(ins), given(ins, 1)
    window, shape = Window.of(dict(n.attrs)), n.type.shape
    pairs = PAIRS[parts_of(dict(n.attrs))]

    def sides(pair: Var) -> tuple[Expr, Expr]:
        left, right = ([Const(p[k]) for p in pairs] for k in (0, 1))
        return _chosen(pair, left), _chosen(pair, right)

    def weight(column: Expr, panel: Expr, tap: Expr, block: Var, part: Expr, k: Var) -> Expr:
        across = add(mul(mod(column, SIDE), 2), mod(k, 2))
        panel = add(panel, floordiv(column, SIDE))
        return Cast(Read(w, (panel, tap, block, part, floordiv(k, 2), across)), "f32")

    def rows(at: tuple[Var, ...], over: tuple[Var, ...]) -> Expr:
        block, pair, k = over
        *lead, column = at
        row: Expr = ZERO
        for i, size in zip(lead, shape[:-1], strict=True):
            row = add(mul(row, size), i)
        left, right = sides(pair)
        x = Cast(Read(a, (left, block, row, k)), "f32")
        return Binary("mul", x, weight(column, ZERO, ZERO, block, right, k))

    over: list[Expr] = [w.shape[2], Const(len(pairs)), Const(DEPTH)]
    if window is None:
        return (e.reduce("tiles", shape, over, "add", rows),)
    places = window.places
    size = [floordiv(d, p) for d, p in zip(plane(shape), places, strict=True)]
    pitch = add(size[1], window.reach()[1])

    def pixels(at: tuple[Var, ...], over: tuple[Var, ...]) -> Expr:
        y, x, block, pair, k = over
        image, column, line, down, pixel, across = at
        phase, start = _place(window, y, x, pitch)
        below, beyond = (
            floordiv(add(p, f), n)
            for p, f, n in zip((down, across), window.first, places, strict=True)
        )
        row = add(mul(add(line, below), pitch), pixel, beyond, start)
        left, right = sides(pair)
        source = Cast(Read(a, (left, image, phase, block, row, k)), "f32")
        tap = add(mul(y, window.taps[1]), x)
        panel = mul(add(mul(down, places[1]), across), ceildiv(shape[1], SIDE))
        return Binary("mul", source, weight(column, panel, tap, block, right, k))

    split = [part for d, p in zip(size, places, strict=True) for part in (d, Const(p))]
    taps = [Const(t) for t in window.taps]
    made = e.reduce("tiles", (*shape[:2], *split), [*taps, *over], "add", pixels)

    def result(image: Expr, m: Expr, *o: Expr) -> Expr:
        place = (ZERO, *o)[-2:]
        at = [v for i, p in zip(place, places, strict=True) for v in (floordiv(i, p), mod(i, p))]
        return Read(made, (image, m, *at))

    return (e.stage("placed", shape, result),)


def _product_samples() -> Iterable[Sample]:
    for parts, (m, k, n) in itertools.product(PAIRS, ((16, 32, 16), (5, 32, 20))):
        a = ref_pack([random(m, k)], {"parts": parts})[0]
        w = pack_weights(random(1, k, n, seed=1), parts)
        yield Sample((a, w), {"parts": parts, "shape": (m, n)})
    for strides, dilations in (((1, 1), (1, 1)), ((2, 2), (1, 1)), ((1, 1), (2, 2))):
        around = {"taps": (2, 2), "strides": strides, "dilations": dilations, "pads": (1, 1, 0, 1)}
        window = Window.of(around)
        assert window is not None
        size = [known(d) or 0 for d in window.counts((Const(4), Const(3)))]
        a = ref_pack([random(2, 32, 4, 3)], {"parts": 1, **around})[0]
        w = pack_weights(random(4, 32, 18, seed=1) / 4, 1)
        yield Sample((a, w), {"parts": 1, "shape": (2, 18, *size), **around})
    for taps, places, first in (((1, 1), (2, 2), (0, 0)), ((2, 1), (2, 3), (1, 2))):
        around = {"taps": taps, "places": places, "first": first, "pads": (1, 1, 0, 1)}
        around |= {"strides": (1, 1), "dilations": (1, 1)}
        window = Window.of(around)
        assert window is not None
        size = [known(d) or 0 for d in window.counts((Const(4), Const(3)))]
        a = ref_pack([random(2, 32, 4, 3)], {"parts": 1, **around})[0]
        w = pack_weights(random(math.prod(taps), 32, 32 * math.prod(places), seed=1) / 4, 1)
        shape = (2, 18, size[0] * places[0], size[1] * places[1])
        yield Sample((a, w), {"parts": 1, "shape": shape, **around})


register(
    Op(
        "tile_product", "contraction", infer_product, ref_product, lower_product,
        samples=_product_samples,
    )
)  # fmt: skip
