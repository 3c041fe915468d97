"""Value conversion between all dtypes.

Floats become integers by truncation, and saturate; integers become narrower integers by their low
bits, and floats become integers of fewer than 8 bits by way of i32; floats round to nearest even.

To floats of 8 bits and fewer, attr `saturate` (ONNX Cast of opset 19 on) clamps to the largest
number first, infinities too; without it what is beyond becomes infinity, or NaN where there is
none. To f8e8m0, attr `round_mode` (opset 24): up, down or nearest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from naru.dtypes import DTYPES, FROM_NUMPY, TINY, is_float
from naru.errors import ModelError
from naru.ir import arithmetic
from naru.ir.graph import TensorType
from naru.ops import formula as f
from naru.ops.elementwise import infer_elementwise, lower_elementwise
from naru.ops.formula import Term
from naru.ops.operands import check_kind, given
from naru.ops.registry import Arrays, Attrs, Op, Sample, register
from naru.ops.samples import edges, random

# The largest finite number of each float of 8 bits and fewer.
LARGEST = {
    "f8e4m3fn": 448.0, "f8e4m3fnuz": 240.0, "f8e5m2": 57344.0, "f8e5m2fnuz": 57344.0,
    "f6e2m3": 7.5, "f6e3m2": 28.0, "f4e2m1": 6.0, "f8e8m0": 2.0**127,
}  # fmt: skip
MODES = ("up", "down", "nearest")
LEAST = 2.0**-127  # of f8e8m0, which is below the least normal f32


def _check(op: str, types: Sequence[TensorType]) -> None:
    check_kind(op, types[0].dtype, "fiub")


def _result(types: Sequence[TensorType], attrs: Attrs) -> str:
    to, mode = attrs.get("to"), attrs["round_mode"]
    if to not in DTYPES or to == "index":
        known = ", ".join(d for d in DTYPES if d != "index")
        raise ModelError(f"cast: unknown dtype {to!r}", hint=f"one of {known}")
    if mode not in MODES:
        raise ModelError(f"cast: expected round_mode {', '.join(MODES)}, found {mode!r}")
    return to


def ref_cast(arrays: Arrays, attrs: Attrs) -> tuple[np.ndarray, ...]:
    x, to = given(arrays), attrs["to"]
    source = FROM_NUMPY[x.dtype]
    with np.errstate(all="ignore"):
        if to in TINY and not is_float(to) and is_float(source):
            x, source = np.asarray(arithmetic.cast(x, source, "i32")), "i32"
        elif to in TINY and is_float(to) and source not in ("bool", to):
            x, source = np.asarray(arithmetic.cast(x, source, "f32")), "f32"
            if to == "f8e8m0":
                x = _to_power(x, attrs.get("round_mode", "up"), bool(attrs.get("saturate", True)))
            elif attrs.get("saturate", True):
                x = np.clip(x, -LARGEST[to], LARGEST[to])
        return (np.asarray(arithmetic.cast(x, source, to)),)


def _to_power(x: np.ndarray, mode: str, saturate: bool) -> np.ndarray:
    """f32 as powers of two, by their bits."""
    x = np.clip(x, np.float32(LEAST), np.float32(2.0**127)) if saturate else x
    if mode == "nearest":
        return x
    bits = np.ascontiguousarray(x).view(np.int32)
    up = ((bits + 0x7FFFFF) & 0x7F800000).view(np.float32)
    down = (bits & 0x7F800000).view(np.float32)
    power = np.where(x < 2.0**-126, np.float32(LEAST), down)
    if mode == "up":
        power = np.where(x <= LEAST, np.float32(LEAST), up)
    return np.where((x > 0) & np.isfinite(x), power, x)


def _formula(x: Term, attrs: Attrs) -> Term:
    to = attrs["to"]
    if to in TINY and not is_float(to) and is_float(x.dtype):
        return f.cast(f.cast(x, "i32"), to)
    if to not in TINY or not is_float(to) or x.dtype in ("bool", to):
        return f.cast(x, to)
    x = f.cast(x, "f32")
    if to == "f8e8m0":
        return f.cast(_power(x, attrs["round_mode"], bool(attrs["saturate"])), to)
    if attrs["saturate"]:
        x = f.minimum(f.maximum(x, -LARGEST[to]), LARGEST[to])
    return f.cast(x, to)


def _power(x: Term, mode: str, saturate: bool) -> Term:
    x = f.minimum(f.maximum(x, LEAST), 2.0**127) if saturate else x
    if mode == "nearest":
        return x
    bits = f.unary("bits", x)
    if mode == "up":
        rounded = f.unary("bits", (bits + 0x7FFFFF) & 0x7F800000)
        power = f.where(x <= LEAST, LEAST, rounded)
    else:
        power = f.where(x < 2.0**-126, LEAST, f.unary("bits", bits & 0x7F800000))
    return f.where((x > 0) & (x < float("inf")), power, x)


def _samples() -> Iterable[Sample]:
    plain = ("f32", "f64", "f16", "bf16", "i64", "i32", "i8", "u8", "u32", "bool")
    for source in ("f32", "f64", "i64", "i32", "i8", "u8", "bool"):
        for to in plain:
            yield Sample((edges(source),), {"to": to})
    yield Sample((random(2, 3, dtype="f16"),), {"to": "f32"})
    yield Sample((np.array(3.7, np.float32),), {"to": "i32"})
    yield Sample((random(0, 3),), {"to": "i64"})
    yield from _tiny_samples()


def _tiny_samples() -> Iterable[Sample]:
    beyond = np.array([240.1, 447.0, 464.0, 465.0, -6e4, 7.4, 2.0**-9, 2.0**-10, 1.5 * 2.0**-10])
    values = np.concatenate([edges("f32"), beyond.astype(np.float32)])
    for to in TINY:
        codes = np.arange(256 if is_float(to) and to[1] == "8" else 2 ** DTYPES[to].bits)
        every = codes.astype(np.uint8).view(DTYPES[to].numpy)
        for back in ("f32", "f16", "i8", "bool", "u8"):
            yield Sample((every,), {"to": back})
        yield Sample((values,), {"to": to})
        yield Sample((edges("i32"),), {"to": to})
        yield Sample((edges("bool"),), {"to": to})
        if to[:2] == "f8":
            yield Sample((values,), {"to": to, "saturate": False})
            yield Sample((values.astype(np.float16),), {"to": to, "saturate": True})
    powers = np.array([1, 1.4, 1.5, 3, 2.0**-127, 1.2 * 2.0**-126, 1e-45, 3e38, np.inf, 0])
    for mode in MODES:
        for saturate in (True, False):
            attrs = {"to": "f8e8m0", "round_mode": mode, "saturate": saturate}
            yield Sample((powers.astype(np.float32),), attrs)


_DEFAULTS = {"saturate": True, "round_mode": "up"}
register(
    Op(
        "cast",
        "elementwise",
        infer_elementwise("cast", 1, 0, _check, _result, _DEFAULTS),
        ref_cast,
        lower_elementwise("cast", lambda xs, a: _formula(xs[0], a), _DEFAULTS),
        samples=_samples,
    )
)
