"""Element types: one row each. Names are short (`f32`); numpy and ONNX names are columns."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np


@dataclass(frozen=True)
class DType:
    """`kind`: f (float), i (signed), u (unsigned) or b (bool); `onnx`: TensorProto's code."""

    name: str
    kind: str
    bits: int
    numpy: np.dtype
    onnx: int

    @property
    def bytes(self) -> int:
        """Size of one element in memory."""
        return max(1, self.bits // 8)


def _row(name: str, kind: str, bits: int, scalar: type, onnx: int) -> tuple[str, DType]:
    return name, DType(name, kind, bits, np.dtype(scalar), onnx)


DTYPES: dict[str, DType] = dict(
    [
        _row("f32", "f", 32, np.float32, 1),
        _row("u8", "u", 8, np.uint8, 2),
        _row("i8", "i", 8, np.int8, 3),
        _row("u16", "u", 16, np.uint16, 4),
        _row("i16", "i", 16, np.int16, 5),
        _row("i32", "i", 32, np.int32, 6),
        _row("i64", "i", 64, np.int64, 7),
        _row("bool", "b", 8, np.bool_, 9),
        _row("f16", "f", 16, np.float16, 10),
        _row("f64", "f", 64, np.float64, 11),
        _row("u32", "u", 32, np.uint32, 12),
        _row("u64", "u", 64, np.uint64, 13),
        _row("bf16", "f", 16, ml_dtypes.bfloat16, 16),
        # Tiny ones lie in memory a byte each, as ml_dtypes has it, in its low bits.
        _row("f8e4m3fn", "f", 8, ml_dtypes.float8_e4m3fn, 17),
        _row("f8e4m3fnuz", "f", 8, ml_dtypes.float8_e4m3fnuz, 18),
        _row("f8e5m2", "f", 8, ml_dtypes.float8_e5m2, 19),
        _row("f8e5m2fnuz", "f", 8, ml_dtypes.float8_e5m2fnuz, 20),
        _row("uint4", "u", 4, ml_dtypes.uint4, 21),
        _row("int4", "i", 4, ml_dtypes.int4, 22),
        _row("f4e2m1", "f", 4, ml_dtypes.float4_e2m1fn, 23),
        _row("f8e8m0", "f", 8, ml_dtypes.float8_e8m0fnu, 24),
        _row("uint2", "u", 2, ml_dtypes.uint2, 25),
        _row("int2", "i", 2, ml_dtypes.int2, 26),
        _row("f6e2m3", "f", 6, ml_dtypes.float6_e2m3fn, 27),
        _row("f6e3m2", "f", 6, ml_dtypes.float6_e3m2fn, 28),
        # Sizes and subscripts: the target's pointer width; 64 bits wherever numpy looks at it.
        _row("index", "i", 64, np.int64, 0),
    ]
)

FROM_NUMPY = {d.numpy: d.name for d in DTYPES.values() if d.name != "index"}
FROM_ONNX = {d.onnx: d.name for d in DTYPES.values() if d.onnx}


TINY = tuple(d.name for d in DTYPES.values() if d.bits < 8 or (d.bits == 8 and d.kind == "f"))


def is_float(name: str) -> bool:
    """True for f16, bf16, f32, f64 and the tiny floats."""
    return DTYPES[name].kind == "f"


def is_float_array(dtype: np.dtype) -> bool:
    """The same of a numpy dtype. (numpy gives those of ml_dtypes no kind of their own.)"""
    return dtype in FROM_NUMPY and is_float(FROM_NUMPY[dtype])


def is_integer(name: str) -> bool:
    """True for signed and unsigned integers and `index`; not for bool."""
    return DTYPES[name].kind in "iu"
