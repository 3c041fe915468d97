"""f16 and bf16: conversion between their bits in memory and float, on every target alike.

Where the target converts f16 itself (F16C, NEON) LLVM's `half` is used; elsewhere it would become a
library call, so the bits are moved by integer arithmetic. bf16 is always done so.
"""

from __future__ import annotations

from naru.codegen.llvm_build import Code
from naru.codegen.llvm_types import vector
from naru.ir.expr import Shape
from naru.targets import Target


def has_half(target: Target) -> bool:
    """Whether conversions of f16 are instructions."""
    if target.arch == "x86_64":
        return target.has("f16c") or target.has("avx512f")
    return target.arch == "aarch64" or target.has("zfhmin") or target.has("zfh")


class _Lanes:
    """Writes instructions on rows of i32 and float."""

    def __init__(self, code: Code, shape: Shape) -> None:
        self.code = code
        self.half, self.word, self.float, self.bit, self.short = (
            vector(kind, shape) for kind in ("half", "i32", "float", "i1", "i16")
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

    def widen(self, short: str) -> str:
        return self.code.put(f"zext {self.short} {short} to {self.word}")

    def shorten(self, word: str) -> str:
        return self.code.put(f"trunc {self.word} {word} to {self.short}")


def from_bits(code: Code, raw: str, dtype: str, shape: Shape) -> str:
    """i16 bits of f16 or bf16 to float."""
    w = _Lanes(code, shape)
    if dtype == "bf16":
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
    unit = "0x3E70000000000000"
    factor = f"splat (float {unit})" if shape else unit
    small = w.as_bits(code.put(f"fmul {w.float} {count}, {factor}"))
    tiny = w.op("icmp ult", magnitude, 0x0400)
    return w.as_float(w.op("or", w.choose(tiny, small, normal), sign))


def to_bits(code: Code, x: str, dtype: str, shape: Shape) -> str:
    """float to the i16 bits of f16 or bf16, to nearest even."""
    w = _Lanes(code, shape)
    if dtype == "bf16":
        return w.shorten(w.op("lshr", _bf16_rounded(w, w.as_bits(x)), 16))
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
    half = "splat (float 0.5)" if w.shape else "0.5"
    moved = w.code.put(f"fadd {w.float} {w.as_float(magnitude)}, {half}")
    small = w.op("sub", w.as_bits(moved), 126 << 23)
    tiny = w.op("icmp ult", magnitude, 113 << 23)
    out = w.choose(tiny, small, normal)
    large = w.op("icmp uge", magnitude, 0x477FF000)  # 65520 and more round to infinity
    nan = w.op("icmp ugt", magnitude, 0x7F800000)
    top = w.choose(nan, w.number(0x7E00), 0x7C00)
    return w.op("or", w.choose(large, top, out), sign)


def rounded(code: Code, x: str, dtype: str, shape: Shape) -> str:
    """A float rounded to the values of f16 or bf16."""
    w = _Lanes(code, shape)
    if dtype == "bf16":
        bits = _bf16_rounded(w, w.as_bits(x))
        return w.as_float(w.op("and", bits, 0xFFFF0000))
    return from_bits(code, to_bits(code, x, dtype, shape), dtype, shape)
