"""The operations on values: rounding, wrapping, saturation, NaN."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from naru.dtypes import DTYPES, TINY
from naru.ir.arithmetic import (
    binary,
    cast,
    constant,
    dot,
    fma,
    fma_f32,
    narrow,
    reduce_tree,
    unary,
)
from tests.ir.strategies import DETERMINISTIC

F32_BITS = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def f32(bits: int) -> np.float32:
    return np.uint32(bits).view(np.float32)


def nearest(exact: Fraction, dtype: str) -> float:
    """The double nearest to an exact value among those of a narrow dtype, ties to even: by
    comparing with the two values around a first guess."""
    kind = DTYPES[dtype].numpy
    guess = np.asarray(float(exact)).astype(np.float32).astype(kind)[()]
    around = [np.nextafter(guess, kind.type(s * np.inf)) for s in (-1, 1)]
    best = min((abs(Fraction(float(v)) - exact), _odd(v), float(v)) for v in (guess, *around))
    return best[2]


def _odd(v: Any) -> bool:
    return bool(np.asarray(v).view(np.uint16 if v.dtype.itemsize == 2 else np.uint32) & 1)


@DETERMINISTIC
@given(F32_BITS, F32_BITS, F32_BITS, st.sampled_from(["f32", "f16", "bf16"]))
def test_fma_rounds_once(a: int, b: int, c: int, dtype: str) -> None:
    with np.errstate(all="ignore"):
        x, y, z = (np.asarray(f32(v)).astype(DTYPES[dtype].numpy)[()] for v in (a, b, c))
        got = float(fma(x, y, z, dtype))
        if not np.isfinite([float(v) for v in (x, y, z)]).all() or abs(got) > 1e4:
            return
        assert got == nearest(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)), dtype)
        if dtype == "f32":
            assert float(fma_f32(x, y, z)) == got


def test_fma_where_two_roundings_differ() -> None:
    # a*b = 1 + 2**-23 + 2**-24 (half-way); c tips it. In double the sum rounds back to half-way.
    a, b = np.float32(1 + 2**-23), np.float32(1)
    c = np.float32(2**-24 + 2**-48)
    assert fma(a, b, c, "f32") == np.float32(1 + 2**-22)
    assert fma(a, b, -np.float32(2**-60), "f32") == a
    tiny = np.float64(2.0**-80)
    assert fma(np.float64(1), np.float64(1), tiny, "f64") == 1.0
    assert (
        fma(np.float64(1 + 2**-52), np.float64(1 + 2**-52), np.float64(-1), "f64")
        == 2**-51 + 2**-104
    )
    assert fma(np.int32(2**31 - 1), np.int32(2), np.int32(3), "i32") == 1


@DETERMINISTIC
@given(st.floats(allow_nan=False, allow_infinity=False, width=64))
def test_narrow_to_bf16_rounds_once(x: float) -> None:
    with np.errstate(all="ignore"):
        got = float(narrow(np.float64(x), "bf16"))
    if abs(x) < 3e38:
        assert got == nearest(Fraction(x), "bf16")


def test_integers() -> None:
    i32, u8 = np.int32, np.uint8
    assert binary("add", "i32")(i32(2**31 - 1), i32(1)) == -(2**31)
    assert binary("sub", "u8")(u8(0), u8(1)) == 255
    assert [binary(op, "i32")(i32(-7), i32(2)) for op in ("div", "floordiv", "mod")] == [-3, -4, 1]
    assert [binary(op, "index")(-7, 2) for op in ("div", "floordiv", "mod")] == [-3, -4, 1]
    assert [binary(op, "i32")(i32(7), i32(-2)) for op in ("div", "floordiv", "mod")] == [-3, -4, -1]
    assert [binary("div", "u8")(u8(250), u8(7)), binary("mod", "u8")(u8(250), u8(7))] == [35, 5]
    power = binary("pow", "i32")
    assert [power(i32(a), i32(b)) for a, b in ((2, 3), (2, -1), (-1, -3), (-1, -2), (1, -9))] == [
        8, 0, -1, 1, 1,
    ]  # fmt: skip
    assert binary("shr", "i32")(i32(-8), i32(1)) == -4
    assert binary("shl", "u8")(u8(129), u8(1)) == 2
    assert unary("not", "u8")(u8(1)) == 254
    assert binary("dot2", "i32")(i32((3 << 16) | 5), i32((-2 << 16) | 7)) == 3 * -2 + 5 * 7
    assert binary("dot2", "i32")(i32(-2147450880), i32(-2147450880)) == -(2**31)
    bytes_of = [int.from_bytes(bytes(v), "little") for v in ((1, 2, 253, 4), (128, 10, 20, 0))]
    assert binary("dot4", "i32")(*map(i32, bytes_of)) == 1 * -128 + 2 * 10 - 3 * 20
    assert unary("neg", "i32")(i32(-(2**31))) == -(2**31)
    for op in ("div", "floordiv", "mod"):
        with pytest.raises(ZeroDivisionError):
            binary(op, "i32")(i32(1), i32(0))


def test_dtypes_stay() -> None:
    for dtype, row in DTYPES.items():
        if dtype in ("index", "bool", *TINY):  # nothing computes in the tiny ones
            continue
        one, two = (constant(n, dtype) for n in (1, 2))
        for op in ("add", "sub", "mul", "div", "floordiv", "mod", "min", "max", "pow"):
            assert np.asarray(binary(op, dtype)(two, one)).dtype == row.numpy, (op, dtype)
        tile = np.full(4, one)
        assert np.asarray(binary("add", dtype)(tile, two)).dtype == row.numpy
        for op in ("exp", "floor", "sqrt", "erf", "neg", "abs") if row.kind == "f" else ("neg",):
            assert np.asarray(unary(op, dtype)(one)).dtype == row.numpy


def test_floats() -> None:
    nan = np.float32(np.nan)
    for op in ("min", "max"):
        assert np.isnan(binary(op, "f32")(nan, np.float32(1)))
        assert np.isnan(binary(op, "f32")(np.float32(1), nan))
    assert unary("round", "f32")(np.float32(2.5)) == 2
    assert unary("bits", "f32")(np.float32(1)) == 0x3F800000
    assert unary("bits", "i32")(np.int32(0x3F800000)) == 1
    assert binary("mod", "f32")(np.float32(-1), np.float32(3)) == 2
    assert constant(0.1, "f32") == np.float32(0.1)
    assert np.signbit(constant(-0.0, "f32"))


@pytest.mark.parametrize(
    ("value", "source", "dtype", "expected"),
    [
        (np.nan, "f32", "i32", 0),
        (1e20, "f32", "u8", 255),
        (-1e20, "f32", "u8", 0),
        (-1.9, "f32", "i8", -1),
        (-0.9, "f32", "u8", 0),
        (255.9, "f32", "u8", 255),
        (127.9, "f32", "i8", 127),
        (3e9, "f32", "i32", 2**31 - 1),
        (-3e9, "f32", "i32", -(2**31)),
        (2.0**63, "f64", "i64", 2**63 - 1),
        (2.0**64, "f64", "u64", 2**64 - 1),
        (np.inf, "bf16", "index", 2**63 - 1),
        (300, "i32", "u8", 44),
        (-1, "i32", "u64", 2**64 - 1),
        (np.nan, "f32", "bool", True),
        (-0.0, "f32", "bool", False),
        (True, "bool", "f32", 1.0),
        (2**24 + 1, "i64", "f32", 2.0**24),
        (1 + 2**-8, "f32", "bf16", 1.0),
        (1 + 3 * 2**-8, "f32", "bf16", 1 + 2**-6),
    ],
)
def test_cast(value: float, source: str, dtype: str, expected: float) -> None:
    x = constant(value, source)
    assert cast(x, source, dtype) == expected
    assert cast(np.array([x], DTYPES[source].numpy), source, dtype)[0] == expected


def test_dot() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(-8, 8, (4, 8)).astype(np.int8)
    b = rng.integers(-8, 8, (8, 4)).astype(np.int8)
    c = rng.integers(-8, 8, (4, 4)).astype(np.int32)
    expected = a.astype(np.int32) @ b.astype(np.int32) + c
    assert (dot(a, b, c, "i32") == expected).all()
    for group in (2, 4):
        packed = b.reshape(8 // group, group, 4).transpose(0, 2, 1).reshape(8 // group, 4 * group)
        assert packed[0, 1] == b[1, 0]
        assert (dot(a, packed, c, "i32") == expected).all()


def test_reduce_is_a_tree_of_halves() -> None:
    x = np.array([1e8, 1, -1e8, 1], np.float32)
    assert reduce_tree("add", "f32", x) == 2  # (1e8 - 1e8) + (1 + 1)
    assert reduce_tree("max", "index", np.array([3, 9])) == 9
