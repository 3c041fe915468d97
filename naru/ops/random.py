"""Random numbers: random_uniform, random_normal, and `choose`, which draws from a distribution.

They are those of numpy.random.RandomState: MT19937, doubles of 53 bits, normal numbers by the polar
method. A stream begins with attr `seed` (0..2**32-1), or where operand 0 is given with
its numbers, two words each, and attr `stream`, by which nodes that share a seed differ. Operand 1
is not read: it is what gives values to symbols in the shape, where data decide them.

Numbers are drawn in double precision and rounded to the dtype, half floats by way of f32. Rounding
may reach `high`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from naru.dtypes import DTYPES
from naru.errors import ModelError
from naru.ir.expr import Expr
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import known, prod
from naru.ops.kernel_text import TILE, by_hand, indent, tiled
from naru.ops.operands import (
    check_equal,
    check_kind,
    compute_dtype,
    given,
    ints,
    operand,
    optional,
    shape_text,
    sizes,
)
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, register
from naru.ops.samples import random
from naru.targets import Target

Array = np.ndarray
WORDS = 624  # of the generator's state
BLOCK = WORDS // 2  # doubles that one state gives
LANES = 8  # doubles in a tile
DTYPES_DRAWN = ("f16", "bf16", "f32", "f64")
MOST_DRAWN = 1 << 48  # elements
MOST_NUMBERS = 300  # that a stream begins with: their words fit the state


# --- types and meaning ----------------------------------------------------------------------------


def _infer(op: str, low: str, high: str, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """Optional i64[k], k known -> attr dtype (f16, bf16, f32, f64) of attr shape."""
    key, dtype = optional(types, 0), attrs["dtype"]
    if dtype not in DTYPES_DRAWN:
        raise ModelError(f"{op}: expected one of {', '.join(DTYPES_DRAWN)}, got {dtype}")
    for name in (low, high):
        if not math.isfinite(attrs[name]):
            raise ModelError(f"{op}: expected a finite {name}, got {attrs[name]}")
    shape = sizes(attrs, "shape")
    if (known(prod(shape)) or 0) > MOST_DRAWN:
        raise ModelError(f"{op}: {shape_text(shape)} has more elements than memory could hold")
    if key is None:
        if not 0 <= attrs["seed"] < 2**32:
            raise ModelError(f"{op}: expected a seed in 0..2**32-1, got {attrs['seed']}")
        return (TensorType(dtype, shape),)
    count = known(key.shape[0]) if key.rank == 1 else None
    if key.dtype != "i64" or count is None or not 0 < count <= MOST_NUMBERS:
        found = f"{key.dtype}{shape_text(key.shape)}"
        raise ModelError(f"{op}: expected 1..{MOST_NUMBERS} i64 to begin with, got {found}")
    return (TensorType(dtype, shape),)


def infer_random_uniform(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """attrs low, high: numbers from low to high."""
    if attrs["low"] > attrs["high"]:
        raise ModelError(
            f"random_uniform: expected low <= high, got {attrs['low']} and {attrs['high']}"
        )
    return _infer("random_uniform", "low", "high", types, attrs)


def infer_random_normal(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """attrs mean, scale: numbers of this mean and standard deviation."""
    if attrs["scale"] < 0:
        raise ModelError(f"random_normal: expected a scale of at least 0, got {attrs['scale']}")
    return _infer("random_normal", "mean", "scale", types, attrs)


def _generator(arrays: Arrays, attrs: Attrs) -> np.random.RandomState:
    key = arrays[0] if arrays else None
    if key is None:
        return np.random.RandomState(int(attrs["seed"]))
    words = np.ascontiguousarray(key, "<i8").view("<u4")
    return np.random.RandomState([*words.tolist(), int(attrs.get("stream", 0))])


def _rounded(x: Array, dtype: str) -> Array:
    wide = x.astype(DTYPES[compute_dtype(dtype)].numpy)
    return wide.astype(DTYPES[dtype].numpy)


def ref_random_uniform(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    drawn = _generator(arrays, attrs).uniform(attrs["low"], attrs["high"], ints(attrs, "shape"))
    return (_rounded(np.asarray(drawn), attrs["dtype"]),)


def ref_random_normal(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    drawn = _generator(arrays, attrs).normal(attrs["mean"], attrs["scale"], ints(attrs, "shape"))
    return (_rounded(np.asarray(drawn), attrs["dtype"]),)


# --- kernels --------------------------------------------------------------------------------------


def _seeded(n: Node) -> list[str]:
    """`state` as RandomState begins: from one number, or from words by init_by_array."""
    key = n.inputs[0] if n.inputs else None
    first = 19650218 if key is not None else n.attr("seed")
    lines = [
        f"state: u32[{WORDS + 16}] @ stack @ 64",
        f"s = u32({first})",
        "state[0] = s",
        f"for i in range(1, {WORDS}):",
        "    s = (s ^ (s >> 30)) * 1812433253 + u32(i)",
        "    state[i] = s",
    ]
    return lines if key is None else [*lines, *_mixed(n, known(key.type.shape[0]) or 0)]


def _mixed(n: Node, count: int) -> list[str]:
    """init_by_array of MT19937; the last word is the stream."""
    lines = [f"words: u32[{2 * count + 1}] @ stack"]
    for k in range(count):
        lines += [f"words[{2 * k}] = u32(key[{k}])", f"words[{2 * k + 1}] = u32(key[{k}] >> 32)"]
    return [
        *lines,
        f"words[{2 * count}] = u32({n.attr('stream', 0)})",
        "s = state[0]",
        f"for t in range({WORDS}):",
        f"    i: index = t % {WORDS - 1} + 1",
        f"    j: index = t % {2 * count + 1}",
        "    s = (state[i] ^ ((s ^ (s >> 30)) * 1664525)) + words[j] + u32(j)",
        "    state[i] = s",
        f"for t in range({WORDS - 1}):",
        f"    i: index = (t + 1) % {WORDS - 1} + 1",
        "    s = (state[i] ^ ((s ^ (s >> 30)) * 1566083941)) - u32(i)",
        "    state[i] = s",
        "state[0] = u32(0x80000000)",
    ]


def _twisted() -> list[str]:
    """The next state, 16 words at a time: word i is made of i, i + 1 and i + 397, around the end.
    The first 16 new words lie behind the end again, for the tiles that go around."""

    def tile(first: str, last: str, far: str) -> list[str]:
        return [
            f"for t in range({first}, {last}):",
            "    i: index = t * 16",
            "    y: u32[16] = (state[i:i + 16] & 0x80000000) | (state[i + 1:i + 17] & 0x7fffffff)",
            "    z: u32[16] = (0 - (y & 1)) & 0x9908b0df",
            f"    state[i:i + 16] = state[{far}:{far} + 16] ^ (y >> 1) ^ z",
        ]

    return [
        *tile("0", "14", "i + 397"),
        f"state[{WORDS}:{WORDS + 16}] = state[0:16]",
        *tile("14", "15", "i + 397"),
        *tile("15", "39", "i - 227"),
    ]


def _drawn() -> list[str]:
    """`numbers`: 312 doubles in 0..1 of the next state, each of 27 and 26 bits."""

    def tempered(word: str, at: str) -> list[str]:
        return [
            f"{word}0: u32[{LANES}] = state[{at}]",
            f"{word}1: u32[{LANES}] = {word}0 ^ ({word}0 >> 11)",
            f"{word}2: u32[{LANES}] = {word}1 ^ (({word}1 << 7) & 0x9d2c5680)",
            f"{word}3: u32[{LANES}] = {word}2 ^ (({word}2 << 15) & 0xefc60000)",
            f"{word}: u32[{LANES}] = {word}3 ^ ({word}3 >> 18)",
        ]

    body = [
        f"at: index[{LANES}] = lanes({LANES}) * 2 + t * {2 * LANES}",
        *tempered("a", "at"),
        *tempered("b", "at + 1"),
        f"high: f64[{LANES}] = f64(i32(a >> 5)) * 67108864.0",
        f"whole: f64[{LANES}] = high + f64(i32(b >> 6))",
        f"numbers[t * {LANES}:t * {LANES} + {LANES}] = whole * {2.0**-53!r}",
    ]
    return [*_twisted(), f"for t in range({BLOCK // LANES}):", *indent(body)]


def _number(n: Node, text: str) -> str:
    """A double as an element."""
    dtype = n.type.dtype
    wide = text if dtype == "f64" else f"f32({text})"
    return wide if dtype in ("f32", "f64") else f"{dtype}({wide})"


def _kernel(n: Node, body: Sequence[str]) -> str:
    roles = ("key", "sizes")[: len(n.inputs)]
    return by_hand(n, roles, ("out",), body, {"COUNT": prod(n.type.shape)})


def opaque_random_uniform(n: Node, target: Target) -> str:
    """Parameters: key (if any), out, sizes."""
    low, high = float(str(n.attr("low"))), float(str(n.attr("high")))

    def store(subscript: Callable[[str], str]) -> str:
        drawn = f"numbers[{subscript('0')}] * {high - low!r} + {low!r}"
        return f"out[{subscript('base')}] = {_number(n, drawn)}"

    count = known(prod(n.type.shape))
    body = [
        *_seeded(n),
        f"numbers: f64[{BLOCK}] @ stack @ 64",
        f"for block in range((COUNT + {BLOCK - 1}) // {BLOCK}):",
        *indent(_drawn()),
        f"    base: index = block * {BLOCK}",
        f"    left: index = min({BLOCK}, COUNT - base)",
        *indent(tiled("left", count if count is not None and count < TILE else None, store)),
    ]
    return _kernel(n, body)


def opaque_random_normal(n: Node, target: Target) -> str:
    """Parameters: key (if any), out, sizes. Of each pair of numbers in -1..1 that lies inside the
    circle two normal numbers are made; the others are passed over."""
    mean, scale = float(str(n.attr("mean"))), float(str(n.attr("scale")))
    most = BLOCK // 2  # pairs of a block; tiles may reach beyond

    def store(name: str, at: str) -> str:
        return f"out[{at}] = " + _number(n, f"{name}[q] * {scale!r} + {mean!r}")

    tile = f"q:q + {LANES}"
    body = [
        *_seeded(n),
        f"numbers: f64[{BLOCK}] @ stack @ 64",
        *(f"{name}: f64[{most + LANES}] @ stack @ 64" for name in ("first", "second", "square")),
        "done = 0",
        "while done < COUNT:",
        *indent(_drawn()),
        "    pairs = 0",
        f"    for p in range({most}):",
        "        x: f64 = 2.0 * numbers[2 * p] - 1.0",
        "        y: f64 = 2.0 * numbers[2 * p + 1] - 1.0",
        "        r: f64 = x * x + y * y",
        "        first[pairs] = y",
        "        second[pairs] = x",
        "        square[pairs] = r",
        "        pairs = pairs + select(r < 1.0 and r != 0.0, 1, 0)",
        f"    for t in range((pairs + {LANES - 1}) // {LANES}):",
        f"        q: index = t * {LANES}",
        f"        r: f64[{LANES}] = square[{tile}]",
        f"        factor: f64[{LANES}] = sqrt(-2.0 * log(r) / r)",
        f"        first[{tile}] = first[{tile}] * factor",
        f"        second[{tile}] = second[{tile}] * factor",
        "    whole: index = min(pairs, (COUNT - done) // 2)",
        "    for q in range(whole):",
        f"        {store('first', 'done + 2 * q')}",
        f"        {store('second', 'done + 2 * q + 1')}",
        "    if whole < pairs and done + 2 * whole < COUNT:",
        "        q: index = whole",
        f"        {store('first', 'done + 2 * q')}",
        "    done = done + 2 * pairs",
    ]
    return _kernel(n, body)


# --- choose ---------------------------------------------------------------------------------------


def infer_choose(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """sums [rows, n], at [rows, k], both f64 -> i64[rows, k]: how many sums of the row are not
    above `at` times the last one, at most n - 1. The sums grow along a row; from a NaN on they are
    NaN, which counts as above."""
    sums, at = operand("choose", types, 0, 2), operand("choose", types, 1, 2)
    for t in (sums, at):
        check_kind("choose", t.dtype, "f")
        if t.dtype != "f64":
            raise ModelError(f"choose: expected f64, got {t.dtype}")
    if known(sums.shape[1]) == 0 and known(prod(at.shape)) != 0:
        raise ModelError("choose: there is nothing to choose from")
    rows = check_equal("choose", "rows", sums.shape[0], at.shape[0])
    return (TensorType("i64", (rows, at.shape[1])),)


def ref_choose(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    sums, at = given(arrays), given(arrays, 1)
    with np.errstate(all="ignore"):
        goal = at * sums[:, -1:] if sums.shape[1] else at
    below = (sums[:, None, :] <= goal[:, :, None]).sum(-1)
    return (np.maximum(np.minimum(below, sums.shape[1] - 1), 0).astype(np.int64),)


def opaque_choose(n: Node, target: Target) -> str:
    """Parameters: sums, at, out, sizes. Each is found by halving."""
    sums, at = given(n.inputs).type, given(n.inputs, 1).type
    body = [
        "for i in parallel(ROWS * K):",
        "    row: index = i // K * N",
        "    low = 0",
        "    if N > 1:",
        "        goal: f64 = at[i] * sums[row + N - 1]",
        "        left = N - 1",
        "        while left > 0:",
        "            half: index = left // 2",
        "            beyond: bool = sums[row + low + half] <= goal",
        "            low = select(beyond, low + half + 1, low)",
        "            left = select(beyond, left - half - 1, half)",
        "    out[i] = i64(low)",
    ]
    names: dict[str, Expr] = {"ROWS": sums.shape[0], "N": sums.shape[1], "K": at.shape[1]}
    return by_hand(n, ("sums", "at"), ("out",), body, names)


# --- samples --------------------------------------------------------------------------------------


def _samples(a: str, b: str) -> Iterable[Sample]:
    for dtype in DTYPES_DRAWN:
        yield Sample((), {"shape": (3, 7), "dtype": dtype, "seed": 5, a: 0.0, b: 1.0})
    for shape in ((), (1,), (0, 3), (311,), (312,), (700,), (2, 157, 3)):
        yield Sample((), {"shape": shape, "dtype": "f32", "seed": 2**32 - 1, a: -1.5, b: 2.5})
    for numbers, stream in (([0], 0), ([7], 1), ([-1, 2**40, -(2**63)], 2**32 - 1)):
        attrs = {"shape": (400,), "dtype": "f64", "stream": stream, a: 0.0, b: 1.0}
        yield Sample((np.array(numbers),), attrs)
    attrs = {"shape": (5,), "dtype": "f64", a: 3.0, b: 3.0}
    yield Sample((), {"seed": 0, **attrs})
    yield Sample((None, np.array([5])), {"seed": 0, **attrs})
    yield Sample((np.array([3, 4]), np.array([5])), {"stream": 0, **attrs})
    yield Sample((), {"shape": (5,), "dtype": "f32", "seed": 0, a: 0.0, b: 0.0})


def _choose_samples() -> Iterable[Sample]:
    for rows, size, count in ((1, 1, 3), (3, 5, 4), (2, 33, 7), (0, 3, 2), (2, 4, 0)):
        sums = np.cumsum(np.abs(random(rows, size, dtype="f64")), -1)
        at = np.abs(random(rows, count, dtype="f64", seed=1)) / 4
        yield Sample((sums, at))
    ties = np.array([[0.0, 0.0, 1.0, 1.0, 2.0]])
    yield Sample((ties, np.array([[0.0, 0.25, 0.5, 0.75, 1.0, 9.0, -1.0, np.nan, np.inf]])))
    yield Sample((np.array([[1.0, np.inf, np.nan, np.nan]]), np.array([[0.5, 1.0, np.inf]])))
    yield Sample((np.full((1, 3), np.nan), np.array([[np.nan, 0.5]])))


register(Op("random_uniform", "opaque", infer_random_uniform, ref_random_uniform,
            opaque=opaque_random_uniform, samples=lambda: _samples("low", "high")))  # fmt: skip
register(Op("random_normal", "opaque", infer_random_normal, ref_random_normal,
            opaque=opaque_random_normal, samples=lambda: _samples("mean", "scale")))  # fmt: skip
register(Op("choose", "opaque", infer_choose, ref_choose, opaque=opaque_choose,
            samples=_choose_samples))  # fmt: skip
