"""Floats of 16 bits and fewer: conversion between their bits in memory and float, on every target
alike.

Where the target converts f16 itself (F16C, NEON) LLVM's `half` is used; elsewhere it would become a
library call, so the bits are moved by integer arithmetic. All others are always done so. Formats of
8 bits and fewer are those of the OCP specifications (8-bit floating point, 2023; microscaling,
2023) and of ONNX's "Float stored in 8 bits".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from naru.codegen.llvm_build import Code
from naru.codegen.llvm_types import memory_type, vector
from naru.ir.expr import Shape
from naru.targets import Target


def has_half(target: Target) -> bool:
    """Whether conversions of f16 are instructions."""
    if target.arch == "x86_64":
        return target.has("f16c") or target.has("avx512f")
    return target.arch == "aarch64" or target.has("zfhmin") or target.has("zfh")


@dataclass(frozen=True)
class _Tiny:
    """A format of at most 8 bits: sign, exponent, mantissa. `largest`: the code of the largest
    finite number; `over`: what is beyond it becomes; `nan`: the code of NaN; `signed_nan`: such
    codes keep their sign (where they don't, there is no -0 either)."""

    exponent: int
    mantissa: int
    bias: int
    largest: int
    over: int
    nan: int
    signed_nan: bool = True

    @property
    def magnitude(self) -> int:
        return self.exponent + self.mantissa  # bits


_TINY = {
    "f8e4m3fn": _Tiny(4, 3, 7, 0x7E, 0x7F, 0x7F),
    "f8e4m3fnuz": _Tiny(4, 3, 8, 0x7F, 0x80, 0x80, signed_nan=False),
    "f8e5m2": _Tiny(5, 2, 15, 0x7B, 0x7C, 0x7E),
    "f8e5m2fnuz": _Tiny(5, 2, 16, 0x7F, 0x80, 0x80, signed_nan=False),
    # These have no NaN: it becomes 0, as it does when cast to an integer.
    "f6e2m3": _Tiny(2, 3, 1, 0x1F, 0x1F, 0),
    "f6e3m2": _Tiny(3, 2, 3, 0x1F, 0x1F, 0),
    "f4e2m1": _Tiny(2, 1, 1, 0x7, 0x7, 0),
}


class _Lanes:
    """Writes instructions on rows of i32 and float."""

    def __init__(self, code: Code, shape: Shape, dtype: str) -> None:
        self.code = code
        self.half, self.word, self.float, self.bit, self.short = (
            vector(kind, shape) for kind in ("half", "i32", "float", "i1", memory_type(dtype))
        )
        self.shape = shape

    def number(self, value: int) -> str:
        wrapped = value - 2**32 if value >> 31 else value
        return f"splat (i32 {wrapped})" if self.shape else str(wrapped)

    def op(self, name: str, a: str, b: str | int) -> str:
        other = self.number(b) if isinstance(b, int) else b
        return self.code.put(f"{name} {self.word} {a}, {other}")

    def choose(self, cond: str, a: str, b: str | int) -> str:
        other = self.number(b) if isinstance(b, int) else b
        return self.code.put(f"select {self.bit} {cond}, {self.word} {a}, {self.word} {other}")

    def as_float(self, bits: str) -> str:
        return self.code.put(f"bitcast {self.word} {bits} to {self.float}")

    def as_bits(self, x: str) -> str:
        return self.code.put(f"bitcast {self.float} {x} to {self.word}")

    def real(self, value: float) -> str:
        """A float constant, written as the bits of the double of the same value."""
        text = f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
        return f"splat (float {text})" if self.shape else text

    def widen(self, short: str) -> str:
        return self.code.put(f"zext {self.short} {short} to {self.word}")

    def shorten(self, word: str) -> str:
        return self.code.put(f"trunc {self.word} {word} to {self.short}")


def from_bits(code: Code, raw: str, dtype: str, shape: Shape) -> str:
    """Bits of a float of 16 bits or fewer to float."""
    w = _Lanes(code, shape, dtype)
    if dtype == "f8e8m0":
        return _power_of_two(w, w.widen(raw))
    if dtype in _TINY:
        return _tiny_value(w, w.widen(raw), _TINY[dtype])
    if dtype == "bf16":
        avx2 = code.target.has("avx2") and code.target.vector_bits == 256
        if avx2 and shape and shape[-1] in (8, 16, 32):
            return _upper_halves(code, raw, shape[-1])
        return w.as_float(w.op("shl", w.widen(raw), 16))
    if has_half(code.target):
        half = code.put(f"bitcast {w.short} {raw} to {w.half}")
        return code.put(f"fpext {w.half} {half} to {w.float}")
    word = w.widen(raw)
    magnitude = w.op("and", word, 0x7FFF)
    sign = w.op("shl", w.op("and", word, 0x8000), 16)
    normal = w.op("add", w.op("shl", magnitude, 13), 112 << 23)
    special = w.op("icmp uge", magnitude, 0x7C00)
    normal = w.choose(special, w.op("add", normal, 112 << 23), normal)
    # A subnormal is a multiple of 2^-24.
    count = code.put(f"uitofp {w.word} {magnitude} to {w.float}")
    small = w.as_bits(code.put(f"fmul {w.float} {count}, {w.real(2.0**-24)}"))
    tiny = w.op("icmp ult", magnitude, 0x0400)
    return w.as_float(w.op("or", w.choose(tiny, small, normal), sign))


# Where the bytes of 8 upper halves come from, twice 8 of them being there; 255: a zero.
_UPPER = ", ".join(f"i8 {byte}" for k in range(8) for byte in (255, 255, 2 * k, 2 * k + 1))


def _upper_halves(code: Code, raw: str, count: int) -> str:
    """bf16 to float, 8 at a time: loaded into both halves of a register, where one instruction then
    puts bytes into place (widening and shifting are two)."""
    rows: list[str] = []
    for start in range(0, count, 8):
        twice = ", ".join(f"i32 {start + k % 8}" for k in range(16))
        kind = f"<{count} x i16>"
        both = code.put(f"shufflevector {kind} {raw}, {kind} poison, <16 x i32> <{twice}>")
        table = code.put(f"bitcast <16 x i16> {both} to <32 x i8>")
        placed = code.put(
            f"call <32 x i8> @llvm.x86.avx2.pshuf.b(<32 x i8> {table}, <32 x i8> <{_UPPER}>)"
        )
        rows.append(code.put(f"bitcast <32 x i8> {placed} to <8 x float>"))
    while len(rows) > 1:
        size = count // len(rows)
        order = ", ".join(f"i32 {k}" for k in range(2 * size))
        kind = f"<{size} x float>"
        rows = [
            code.put(f"shufflevector {kind} {a}, {kind} {b}, <{2 * size} x i32> <{order}>")
            for a, b in zip(rows[::2], rows[1::2], strict=True)
        ]
    return rows[0]


def to_bits(code: Code, x: str, dtype: str, shape: Shape) -> str:
    """float to the bits of a float of 16 bits or fewer, to nearest even; a value of bf16, which is
    held as float, to its upper half."""
    w = _Lanes(code, shape, dtype)
    if dtype == "f8e8m0":
        return w.shorten(_exponent(w, w.as_bits(x)))
    if dtype in _TINY:
        return w.shorten(_tiny_bits(w, w.as_bits(x), _TINY[dtype]))
    if dtype == "bf16":
        return w.shorten(w.op("lshr", w.as_bits(x), 16))
    if has_half(code.target):
        half = code.put(f"fptrunc {w.float} {x} to {w.half}")
        return code.put(f"bitcast {w.half} {half} to {w.short}")
    return w.shorten(_f16_bits(w, w.as_bits(x)))


def _bf16_rounded(w: _Lanes, bits: str) -> str:
    """Bits of a float rounded to its upper half; the lower half is garbage."""
    odd = w.op("and", w.op("lshr", bits, 16), 1)
    rounded = w.op("add", w.op("add", bits, 0x7FFF), odd)
    nan = w.op("icmp ugt", w.op("and", bits, 0x7FFFFFFF), 0x7F800000)
    return w.choose(nan, w.op("or", bits, 0x00400000), rounded)


def _f16_bits(w: _Lanes, bits: str) -> str:
    sign = w.op("lshr", w.op("and", bits, 0x80000000), 16)
    magnitude = w.op("and", bits, 0x7FFFFFFF)
    odd = w.op("and", w.op("lshr", magnitude, 13), 1)
    # Exponents move by 112; adding half a unit less one, and one if odd, rounds to even.
    rebased = w.op("add", magnitude, (1 << 32) - (112 << 23) + 0xFFF)
    normal = w.op("lshr", w.op("add", rebased, odd), 13)
    # 0.5 has the unit 2^-24 of f16's subnormals: the addition rounds, its low bits are the result.
    moved = w.code.put(f"fadd {w.float} {w.as_float(magnitude)}, {w.real(0.5)}")
    small = w.op("sub", w.as_bits(moved), 126 << 23)
    tiny = w.op("icmp ult", magnitude, 113 << 23)
    out = w.choose(tiny, small, normal)
    large = w.op("icmp uge", magnitude, 0x477FF000)  # 65520 and more round to infinity
    nan = w.op("icmp ugt", magnitude, 0x7F800000)
    top = w.choose(nan, w.number(0x7E00), 0x7C00)
    return w.op("or", w.choose(large, top, out), sign)


def _tiny_value(w: _Lanes, word: str, t: _Tiny) -> str:
    """The float of a code: its exponent and mantissa as those of a float, then scaled."""
    magnitude = w.op("and", word, (1 << t.magnitude) - 1)
    sign = w.op("shl", w.op("and", word, 1 << t.magnitude), 31 - t.magnitude)
    moved = w.op("shl", magnitude, 23 - t.mantissa)
    scale = w.real(2.0 ** (127 - t.bias))
    bits = w.as_bits(w.code.put(f"fmul {w.float} {w.as_float(moved)}, {scale}"))
    if t.over != t.largest and t.signed_nan:  # infinity and NaN, or NaN alone
        special = w.op("icmp ugt", magnitude, t.largest)
        nan = 0x7FC00000 if t.over == t.nan else 0x7F800000
        bits = w.choose(special, w.op("or", moved, nan), bits)
    bits = w.op("or", bits, sign)
    if not t.signed_nan:
        bits = w.choose(w.op("icmp eq", word, t.nan), w.number(0x7FC00000), bits)
    return w.as_float(bits)


def _tiny_bits(w: _Lanes, bits: str, t: _Tiny) -> str:
    """The code nearest to a float given by its bits."""
    shift = 23 - t.mantissa
    magnitude = w.op("and", bits, 0x7FFFFFFF)
    odd = w.op("and", w.op("lshr", magnitude, shift), 1)
    rebased = w.op("add", magnitude, 2**32 - ((127 - t.bias) << 23) + (1 << (shift - 1)) - 1)
    normal = w.op("lshr", w.op("add", rebased, odd), shift)
    # A float whose unit is that of the subnormals: adding rounds, the low bits are the result.
    unit = 127 + 1 - t.bias - t.mantissa + 23
    large = w.real(2.0 ** (unit - 127))
    moved = w.code.put(f"fadd {w.float} {w.as_float(magnitude)}, {large}")
    small = w.op("sub", w.as_bits(moved), unit << 23)
    out = w.choose(w.op("icmp ult", magnitude, (128 - t.bias) << 23), small, normal)
    over = w.op("icmp ugt", out, t.largest)
    nan = w.op("icmp ugt", magnitude, 0x7F800000)
    sign = w.op("lshr", w.op("and", bits, 0x80000000), 31 - t.magnitude)
    if t.signed_nan:
        out = w.choose(nan, w.number(t.nan), w.choose(over, w.number(t.over), out))
        out = w.op("or", out, sign)
        return w.choose(nan, w.number(0), out) if t.nan == 0 else out
    zero = w.op("icmp eq", out, 0)
    out = w.choose(zero, w.number(0), w.op("or", out, sign))
    return w.choose(nan, w.number(t.nan), w.choose(over, w.number(t.over), out))


def _power_of_two(w: _Lanes, word: str) -> str:
    """The float 2^(code - 127); code 255 is NaN."""
    bits = w.choose(w.op("icmp eq", word, 0), w.number(0x00400000), w.op("shl", word, 23))
    return w.as_float(w.choose(w.op("icmp eq", word, 255), w.number(0x7FC00000), bits))


def _exponent(w: _Lanes, bits: str) -> str:
    """The code of the nearest power of two, the larger of two that are as near; NaN for numbers
    that are not above 0."""
    normal = w.op("lshr", w.op("add", bits, 0x00400000), 23)
    half = w.choose(w.op("icmp uge", bits, 0x00600000), w.number(1), 0)
    out = w.choose(w.op("icmp ult", bits, 0x00800000), half, normal)
    # As unsigned numbers: 0 wraps around, negative ones and NaN are large already.
    positive = w.op("icmp ult", w.op("sub", bits, 1), 0x7F400000 - 1)
    return w.choose(positive, out, 255)


def rounded(code: Code, x: str, dtype: str, shape: Shape) -> str:
    """A float rounded to the values of a narrower one."""
    w = _Lanes(code, shape, dtype)
    if dtype == "bf16":
        bits = _bf16_rounded(w, w.as_bits(x))
        return w.as_float(w.op("and", bits, 0xFFFF0000))
    return from_bits(code, to_bits(code, x, dtype, shape), dtype, shape)


def rounds_normal(target: Target, shape: Shape) -> bool:
    """Is there an instruction that rounds a row of normal floats to bf16? (Others count as 0.)"""
    return target.has("avx512bf16") and shape in ((8,), (16,))


def normal_to_bf16(code: Code, x: str, shape: Shape) -> str:
    """By that instruction: a float, or a zero of its sign where it is not normal, rounded."""
    w, lanes = _Lanes(code, shape, "bf16"), shape[0]
    short = f"<{lanes} x bfloat>"
    made = code.put(f"call {short} @llvm.x86.avx512bf16.cvtneps2bf16.{32 * lanes}({w.float} {x})")
    return from_bits(code, code.put(f"bitcast {short} {made} to {w.short}"), "bf16", shape)
