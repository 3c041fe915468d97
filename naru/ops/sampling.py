"""Reading images between their elements: grid_sample, and the parts that others are made of.

A kernel by hand: the places and weights of some results are worked out once and serve every
channel. A place may be any number, NaN too: what is read is always clamped into the image, or
masked.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from naru.dtypes import DTYPES
from naru.errors import ModelError
from naru.ir.expr import Expr
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import index, known, mul, prod
from naru.ops.contraction import wide
from naru.ops.kernel_text import KernelText, indent
from naru.ops.operands import (
    check_equal,
    check_kind,
    compute_dtype,
    given,
    operand,
    shape_text,
)
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, register
from naru.ops.samples import random
from naru.targets import Target

Array = np.ndarray
LANES = 8  # results whose places are worked out together
MODES = {"nearest": 1, "linear": 2, "cubic": 4}  # and how many taps an axis has
PADDINGS = ("zeros", "border", "reflection")
CUBIC = -0.75  # the constant of the kernel of Keys (1981) that GridSample takes
MOST_TAPS = 64  # of one result: each is written out


# --- the text of a sample -------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampler:
    """How an image of `rank` spatial axes is read at places (tiles v0, v1, … of dtype `place`, one
    an axis, in elements from the first). `value` is the dtype that weights and sums have."""

    rank: int
    mode: str
    padding: str
    align: bool
    place: str
    value: str
    none: str  # 0 of the image's dtype
    whole: bool = True  # are all sizes known to be above 0?

    @property
    def taps(self) -> int:
        """Along one axis."""
        return MODES[self.mode]

    def lines(self) -> list[str]:
        """What is the same for all channels: for axis k the index tiles `k{k}_{tap}`, weights
        `w{k}_{tap}`, and masks `in{k}_{tap}` where elements may be missing."""
        return [line for k in range(self.rank) for line in self._axis(k)]

    def _axis(self, k: int) -> list[str]:
        place, tile = self.place, f"{self.place}[{LANES}]"
        v = f"v{k}"
        lines = [f"size{k}: {place} = {place}(S{k})"]
        low, high = ("0.0", f"size{k} - 1.0") if self.align else ("-0.5", f"size{k} - 0.5")
        lines += [f"low{k}: {place} = {place}({low})", f"high{k}: {place} = {high}"]
        if self.mode == "nearest":
            lines.append(f"r{k}: {tile} = round({v})")
            v = f"r{k}"
        if self.padding == "border" and self.mode != "cubic":
            # Not of the taps, so that the result is exact however far away the place is.
            above = f"select({v} > size{k} - 1.0, size{k} - 1.0, {v})"
            lines.append(f"p{k}: {tile} = select({v} < 0.0, {place}(0.0), {above})")
            v = f"p{k}"
        elif self.padding == "reflection":
            lines += self._reflected(k, v, f"p{k}")
            v = f"p{k}"
        if self.mode == "nearest":
            return lines + self._tap(k, 0, v)
        lines += [f"b{k}: {tile} = floor({v})", f"f{k}: {tile} = {v} - b{k}"]
        first = -1 if self.mode == "cubic" else 0
        for tap, weight in enumerate(self._weights(f"f{k}")):
            lines.append(f"w{k}_{tap}: {self.value}[{LANES}] = {self._cast(weight)}")
            lines += self._tap(k, tap, f"b{k} + {place}({float(first + tap)})")
        return lines

    def _cast(self, e: str) -> str:
        return e if self.place == self.value else f"{self.value}({e})"

    def _weights(self, f: str) -> list[str]:
        """Of the taps, `f` being the distance from the element at or before the place."""
        if self.mode == "linear":
            return [f"1.0 - {f}", f]
        a = CUBIC

        def near(t: str) -> str:
            return f"(({a + 2} * {t} - {a + 3}) * {t} * {t} + 1.0)"

        def far(t: str) -> str:
            return f"((({a} * {t} - {5 * a}) * {t} + {8 * a}) * {t} - {4 * a})"

        return [far(f"({f} + 1.0)"), near(f), near(f"(1.0 - {f})"), far(f"(2.0 - {f})")]

    def _reflected(self, k: int, v: str, name: str) -> list[str]:
        """`name`: v, turned back at the borders as often as it takes to be inside."""
        tile = f"{self.place}[{LANES}]"
        # Of one element whose border is itself, any width gives that element.
        return [
            f"{name}_width: {self.place} = max(high{k} - low{k}, {self.place}(1.0))",
            f"{name}_under: bool[{LANES}] = {v} < low{k}",
            f"{name}_far: {tile} = select({name}_under, low{k} - {v}, {v} - high{k})",
            f"{name}_turns: {tile} = floor({name}_far / {name}_width)",
            f"{name}_rest: {tile} = {name}_far - {name}_turns * {name}_width",
            f"{name}_odd: {tile} = {name}_turns - floor({name}_turns * 0.5) * 2.0",
            f"{name}_up: bool[{LANES}] = ({name}_odd == 0.0) ^ ({name}_under ^ True)",
            f"{name}: {tile} = select({name}_far > 0.0, "
            f"select({name}_up, low{k} + {name}_rest, high{k} - {name}_rest), {v})",
        ]

    def _tap(self, k: int, tap: int, at: str) -> list[str]:
        """Index and mask of a tap at a whole number."""
        name, place = f"{k}_{tap}", self.place
        lines: list[str] = [f"t{name}: {place}[{LANES}] = {at}"]
        t = f"t{name}"
        if self.padding == "zeros":
            lines.append(f"in{name}: bool[{LANES}] = ({t} >= 0.0) & ({t} < size{k})")
        elif self.padding == "reflection" and self.mode != "nearest":
            lines += self._reflected(k, t, f"q{name}")
            t = f"q{name}"
        # A NaN is no number: it becomes the first element.
        inside = f"i32(larger(select({t} > size{k} - 1.0, size{k} - 1.0, {t}), {place}(0.0)))"
        return [*lines, f"k{name}: index[{LANES}] = index({inside})"]

    def load(self, buffer: str, before: str, combination: Sequence[int]) -> str:
        """One tap of each axis; `before`: the index of what lies before the spatial axes."""
        at = ", ".join(f"k{k}_{tap}" for k, tap in enumerate(combination))
        masks = [f"in{k}_{tap}" for k, tap in enumerate(combination)]
        element = f"{buffer}[{before}, {at}]"
        element = element if self.whole else f"load({element}, some)"
        if self.padding != "zeros":
            return element
        # A gather under a mask takes longer than one of elements that are thrown away.
        return f"select({' & '.join(masks)}, {element}, {self.none})"

    def result(self, buffer: str, before: str, dtype: str) -> str:
        """The sum of the taps, axis after axis, the last one innermost."""

        def part(done: tuple[int, ...]) -> str:
            if len(done) == self.rank:
                here = self.load(buffer, before, done)
                return here if dtype == self.value else f"{self.value}({here})"
            k = len(done)
            if self.mode == "nearest":
                return part((*done, 0))
            terms = [f"w{k}_{tap} * {part((*done, tap))}" for tap in range(self.taps)]
            return f"({' + '.join(terms)})"

        return part(())

    def reads(self) -> list[str]:
        """Where sizes may be 0: the mask that keeps from reading then."""
        if self.whole:
            return []
        every = " * ".join(f"S{k}" for k in range(self.rank))
        return [f"some: bool[{LANES}] = splat({every}, {LANES}) > splat(0, {LANES})"]


def zero_of(dtype: str) -> str:
    """0 of a dtype, as text."""
    return {"f": "0.0", "b": "False"}.get(DTYPES[dtype].kind, "0")


# --- the meaning of a sample ----------------------------------------------------------------------


def _np_reflect(v: Array, low: float, high: float) -> Array:
    first, last, width = (np.asarray(n, v.dtype) for n in (low, high, max(high - low, 1.0)))
    under = v < first
    far: Array = np.where(under, first - v, v - last)
    turns: Array = np.floor(far / width)
    rest: Array = far - turns * width
    up: Array = np.equal(under, turns - np.floor(turns / 2) * 2 == 0)
    turned: Array = np.where(up, first + rest, last - rest)
    return np.where(far > 0, turned, v).astype(v.dtype)


def _np_near(t: Array) -> Array:
    return ((CUBIC + 2) * t - (CUBIC + 3)) * t * t + 1


def _np_far(t: Array) -> Array:
    return ((CUBIC * t - 5 * CUBIC) * t + 8 * CUBIC) * t - 4 * CUBIC


def _np_axis(
    v: Array, size: int, mode: str, padding: str, align: bool
) -> list[tuple[Array, Array, Array]]:
    """(index, weight, inside) of each tap along an axis."""
    low, high = (0.0, size - 1.0) if align else (-0.5, size - 0.5)
    v = np.round(v) if mode == "nearest" else v
    if padding == "border" and mode != "cubic":
        v = np.clip(v, 0, size - 1).astype(v.dtype)
    elif padding == "reflection":
        v = _np_reflect(v, low, high)
    base = v if mode == "nearest" else np.floor(v)
    f = v - base
    weights = {"nearest": [np.ones_like(f)], "linear": [1 - f, f]}.get(mode)
    if weights is None:
        weights = [_np_far(f + 1), _np_near(f), _np_near(1 - f), _np_far(2 - f)]
    taps: list[tuple[Array, Array, Array]] = []
    for k, w in enumerate(weights):
        t = base + (k - 1 if mode == "cubic" else k)
        inside = (t >= 0) & (t < size) if padding == "zeros" else np.ones(t.shape, np.bool_)
        t = _np_reflect(t, low, high) if padding == "reflection" and mode != "nearest" else t
        at = np.nan_to_num(np.clip(t, 0, max(size - 1, 0)), nan=0.0).astype(np.int64)
        taps.append((at, w, inside))
    return taps


def sampled(image: Array, places: Sequence[Array], mode: str, padding: str, align: bool) -> Array:
    """image [C, *S] read at places (one array [P] an axis) -> [C, P]."""
    axes = [
        _np_axis(v, n, mode, padding, align) for v, n in zip(places, image.shape[1:], strict=True)
    ]
    if 0 in image.shape[1:]:
        return np.zeros((image.shape[0], len(places[0])), image.dtype)

    def part(done: tuple[int, ...]) -> Array:
        taps = [axes[k][tap] for k, tap in enumerate(done)]
        if len(done) == len(axes):
            inside = np.logical_and.reduce([i for _, _, i in taps])
            here = image[(slice(None), *(at for at, _, _ in taps))]
            return np.where(inside, here, np.zeros((), image.dtype))
        parts = [part((*done, tap)) for tap in range(len(axes[len(done)]))]
        if mode == "nearest":
            return parts[0]
        weights = [w.astype(image.dtype) for _, w, _ in axes[len(done)]]
        return sum((w * p for w, p in zip(weights[1:], parts[1:], strict=True)),
                   weights[0] * parts[0])  # fmt: skip

    return part(())


# --- grid_sample ----------------------------------------------------------------------------------


def infer_grid_sample(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [N, C, *S] and places [N, P, rank of S] (f32 or f64, in -1..1 over the image, the last axis
    first) -> [N, C, P]. attrs mode, padding, align (do -1 and 1 mean the middles of the outermost
    elements, not their far edges?). GridSample of opsets 16 to 22, the results in one axis."""
    x, grid = operand("grid_sample", types, 0), operand("grid_sample", types, 1, rank=3)
    mode, rank = attrs["mode"], x.rank - 2
    if mode not in MODES or attrs["padding"] not in PADDINGS:
        raise ModelError(f"grid_sample: unknown mode {mode!r} or padding {attrs['padding']!r}")
    if rank < 1:
        raise ModelError(f"grid_sample: expected x [N, C, *S], got {shape_text(x.shape)}")
    check_equal("grid_sample", "coordinates of a place and axes", grid.shape[2], index(rank))
    if grid.dtype not in ("f32", "f64"):
        raise ModelError(f"grid_sample: expected a grid of f32 or f64, got {grid.dtype}")
    if mode != "nearest":
        check_kind("grid_sample", x.dtype, "f")
    if MODES[mode] ** rank > MOST_TAPS:
        raise ModelError(
            f"grid_sample: {mode} over {rank} axes takes {MODES[mode] ** rank} elements, "
            f"expected at most {MOST_TAPS}"
        )
    n = check_equal("grid_sample", "sizes of the batch", x.shape[0], grid.shape[0])
    if any(known(d) == 0 for d in x.shape[2:]):
        raise ModelError(f"grid_sample: {shape_text(x.shape)} has no elements to read")
    return (TensorType(x.dtype, (n, x.shape[1], grid.shape[1])),)


def _np_place(g: Array, size: int, align: bool) -> Array:
    one = g.dtype.type(1)
    return (g + one) / 2 * (size - 1) if align else ((g + one) * size - one) / 2


def ref_grid_sample(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x, grid = given(arrays), given(arrays, 1)
    mode, align = attrs["mode"], bool(attrs["align"])
    out = np.zeros((x.shape[0], x.shape[1], grid.shape[1]), x.dtype)
    v = x if mode == "nearest" else wide(x)
    with np.errstate(all="ignore"):
        for image, g, result in zip(v, grid, out, strict=True):
            places = [
                _np_place(g[:, -1 - k], size, align).astype(g.dtype)
                for k, size in enumerate(image.shape[1:])
            ]
            result[...] = sampled(image, places, mode, attrs["padding"], align).astype(x.dtype)
    return (out,)


def opaque_grid_sample(n: Node, target: Target) -> str:
    """Parameters: x, grid, out, sizes. Threads share blocks of results of an image."""
    x, grid = (i.type for i in n.inputs if i is not None)
    mode, align = str(n.attr("mode")), bool(n.attr("align"))
    exact = mode == "nearest"
    value = x.dtype if exact else compute_dtype(x.dtype)
    rank = x.rank - 2
    whole = all((known(d) or 0) > 0 for d in x.shape[2:])
    s = Sampler(
        rank, mode, str(n.attr("padding")), align, grid.dtype, value, zero_of(x.dtype), whole
    )
    full = (known(grid.shape[1]) or 1) % LANES == 0
    places: list[str] = []
    for k in range(rank):
        at = f"grid[i, first + lanes({LANES}), {rank - 1 - k}]"
        g = f"g{k}: {grid.dtype}[{LANES}] = {at if full else f'load({at}, live)'}"
        size = f"{grid.dtype}(S{k})"
        v = (
            f"(g{k} + 1.0) * 0.5 * ({size} - 1.0)"
            if align
            else f"((g{k} + 1.0) * {size} - 1.0) * 0.5"
        )
        places += [g, f"v{k}: {grid.dtype}[{LANES}] = {v}"]
    result = s.result("x", "i, c", x.dtype)
    result = result if value == x.dtype else f"{x.dtype}({result})"
    where = f"out[i, c, first:first + {LANES}]"
    body = [
        f"blocks: index = (P + {LANES - 1}) // {LANES}",
        "for t in parallel(N * blocks):",
        "    i: index = t // blocks",
        f"    first: index = t % blocks * {LANES}",
        *indent([] if full else [f"live: bool[{LANES}] = {live('P')}"], 1),
        *indent([*s.reads(), *places, *s.lines()], 1),
        "    for c in range(C):",
        f"        {where} = {result}" if full else f"        store({where}, {result}, live)",
    ]
    text = KernelText(x, grid, n.type)
    buffers = (text.buffer("x", x), text.buffer("grid", grid), text.buffer("out", n.type))
    sizes = {"N": n.type.shape[0], "C": x.shape[1], "P": grid.shape[1]}
    sizes |= {f"S{k}": d for k, d in enumerate(x.shape[2:])}
    filled = text.fill("\n".join(indent(body, 1)), sizes)
    return f"{text.head('grid_sample', *buffers)}\n{filled}\n"


def live(size: str) -> str:
    """The lanes of a block that have results."""
    return f"lanes({LANES}) < splat({size} - first, {LANES})"


def _grid_sample_flops(n: Node) -> Expr:
    """A product and a sum for each tap."""
    x = given(n.inputs).type
    return mul(2 * MODES[str(n.attr("mode"))] ** (x.rank - 2), prod(n.type.shape))


def _grid_sample_samples() -> Iterable[Sample]:
    for mode, padding, align in itertools.product(MODES, PADDINGS, (0, 1)):
        attrs = {"mode": mode, "padding": padding, "align": align}
        yield Sample((random(2, 3, 5, 4), random(2, 19, 2, seed=1, scale=1.2)), attrs)
        yield Sample((random(1, 2, 3, 2, 4), random(1, 16, 3, seed=1, scale=1.2)), attrs)
    attrs = {"mode": "linear", "padding": "zeros", "align": 0}
    wild = np.array([[[np.nan, 0], [np.inf, 0], [0, -np.inf], [1e30, -1e30]]], np.float32)
    for mode in MODES:
        for padding in ("zeros", "border"):
            more = {"mode": mode, "padding": padding}
            yield Sample((random(1, 2, 3, 4), wild), {**attrs, **more})
    yield Sample((random(1, 1, 1, 1), random(1, 5, 2, scale=2)), {**attrs, "padding": "border"})
    for align in (0, 1):
        more = {"padding": "reflection", "align": align}
        yield Sample((random(1, 2, 1, 3), random(1, 5, 2, scale=2)), {**attrs, **more})
    yield Sample((random(1, 2, 7), random(1, 9, 1, scale=1)), attrs)
    yield Sample((random(0, 2, 3, 3), random(0, 9, 2)), attrs)
    yield Sample((random(1, 2, 3, 3), random(1, 0, 2)), attrs)
    yield Sample((random(1, 2, 3, 3, dtype="f16"), random(1, 9, 2, scale=1)), attrs)
    double = random(1, 9, 2, dtype="f64", scale=1)
    yield Sample((random(1, 2, 3, 3, dtype="f64"), double), attrs)
    yield Sample((random(1, 2, 3, 3), double), attrs)
    for dtype in ("i64", "u8", "bool"):
        yield Sample((random(1, 2, 3, 3, dtype=dtype), double), {**attrs, "mode": "nearest"})


register(Op("grid_sample", "opaque", infer_grid_sample, ref_grid_sample,
            opaque=opaque_grid_sample, flops=_grid_sample_flops,
            samples=_grid_sample_samples))  # fmt: skip
