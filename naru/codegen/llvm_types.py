"""How dtypes and constants are spelled in LLVM IR.

A value in registers may differ from its form in memory: bool is i1 and int4 is i4 (a byte in
memory), f16, bf16 and tinier floats are held as float and rounded after each operation, index has
the target's pointer width (64 bits in memory, where numpy looks at it).
"""

from __future__ import annotations

import struct

import numpy as np

from naru.dtypes import DTYPES
from naru.ir.expr import Shape
from naru.targets import Target

NARROW = tuple(d.name for d in DTYPES.values() if d.kind == "f" and d.bits <= 16)
_FLOATS = {"f32": "float", "f64": "double", **dict.fromkeys(NARROW, "float")}


def scalar_type(dtype: str, target: Target) -> str:
    """The type of one lane in registers."""
    if dtype == "index":
        return f"i{target.pointer_bits}"
    if dtype == "bool":
        return "i1"
    return _FLOATS.get(dtype) or f"i{DTYPES[dtype].bits}"


def memory_type(dtype: str) -> str:
    """The type of one element in memory; f16 and what is narrower as its bits."""
    if dtype in ("f32", "f64"):
        return _FLOATS[dtype]
    return f"i{8 * DTYPES[dtype].bytes}"


def memory_bytes(dtype: str) -> int:
    """Bytes of one element in memory."""
    return DTYPES[dtype].bytes


def vector(kind: str, shape: Shape) -> str:
    """The type of a scalar (shape ()) or of one row of a tile (its last dim) of `kind`."""
    return f"<{shape[-1]} x {kind}>" if shape else kind


def rows_of(shape: Shape) -> int:
    """How many SSA values hold a value of this shape: one a row of a rank-2 tile."""
    return shape[0] if len(shape) == 2 else 1


HOST = ("alloc", "barrier", "now", "next_round")  # functions of abi.h's naru_host, in order


def host_offset(name: str, target: Target) -> int:
    """Where in naru_host the address of a function stands."""
    return 8 + HOST.index(name) * (target.pointer_bits // 8)


def literal(value: float | bool, dtype: str, target: Target) -> str:
    """A scalar constant; floats by their bits, integers wrapped to their width."""
    if dtype == "bool":
        return "true" if value else "false"
    kind = DTYPES[dtype].kind
    if kind == "f":
        return _float_literal(float(value), dtype)
    bits = target.pointer_bits if dtype == "index" else DTYPES[dtype].bits
    wrapped = int(value) & (2**bits - 1)
    return str(wrapped - 2**bits if wrapped >> (bits - 1) else wrapped)


def _float_literal(value: float, dtype: str) -> str:
    """LLVM writes a float as the hexadecimal bits of the double of the same value."""
    with np.errstate(over="ignore"):
        if dtype == "f32":
            value = float(np.float32(value))
        elif dtype in NARROW:
            value = float(np.float32(value).astype(DTYPES[dtype].numpy))
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


def splat_literal(text: str, kind: str, shape: Shape) -> str:
    """A constant in every lane of one row."""
    return f"splat ({kind} {text})" if shape else text
