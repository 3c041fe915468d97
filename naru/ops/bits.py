"""bit_cast: the same bits as another dtype of the same width."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from naru.dtypes import DTYPES, TINY, is_float
from naru.errors import ModelError
from naru.ir.expr import Read, Unary
from naru.ir.graph import Node, TensorType
from naru.ir.tensor import Tensor
from naru.ops import formula as f
from naru.ops.formula import Term, cast
from naru.ops.operands import given, operand
from naru.ops.registry import Arrays, Attrs, Emit, Op, Sample, Types, register
from naru.ops.samples import edges, random

Array = np.ndarray


def has_no_bits(dtype: str) -> bool:
    """Tiny floats: loop IR knows their values only."""
    return dtype in TINY and is_float(dtype)


def infer_bit_cast(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """attrs source and to: the dtypes before and after, of one width."""
    x, to = operand("bit_cast", types, 0), str(attrs["to"])
    if x.dtype != attrs["source"] or DTYPES[x.dtype].bits != DTYPES[to].bits:
        raise ModelError(f"bit_cast: {x.dtype} and {to} differ in width")
    if has_no_bits(x.dtype) or has_no_bits(to):
        raise ModelError(f"bit_cast: expected no tiny float, got {x.dtype} and {to}")
    return (TensorType(to, x.shape),)


def ref_bit_cast(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x = given(arrays).astype(DTYPES[str(attrs["source"])].numpy, order="C")
    to = DTYPES[str(attrs["to"])].numpy
    if to == np.bool_:
        return (x.view(np.uint8) != 0,)  # other bytes than 0 and 1 are no bools
    return (x.reshape(-1).view(to).reshape(x.shape),)


def _bits(x: Term) -> Term:
    return Term(Unary("bits", x.expr))


def _to_integer(x: Term) -> Term:
    """The bits of a value as a signed or unsigned integer of its width; of 16, as i32."""
    if x.dtype in ("f32", "f64"):
        return _bits(x)
    if x.dtype == "bf16":
        return (_bits(cast(x, "f32")) >> 16) & 0xFFFF
    if x.dtype != "f16":
        return x
    wide = _bits(cast(x, "f32"))
    sign, size = (wide >> 16) & 0x8000, wide & 0x7FFFFFFF
    # The exponent of f16 is less by 112; what is smaller is a multiple of 2^-24.
    normal = (size - (112 << 23)) >> 13
    special = ((size >> 13) & 0x3FF) | 0x7C00
    tiny = cast(f.absolute(cast(x, "f32")) * 2.0**24, "i32")
    return sign | f.where(size >= 0x7F800000, special, f.where(size < 113 << 23, tiny, normal))


def _from_integer(x: Term, to: str) -> Term:
    """The value that has the bits of an integer of its width (of 16: of any)."""
    if to in ("f32", "f64"):
        return _bits(cast(x, "i32" if to == "f32" else "i64"))
    if to not in ("f16", "bf16"):
        return cast(x, to)
    word = cast(x, "i32") & 0xFFFF
    if to == "bf16":
        return cast(_bits(word << 16), to)
    sign, size = (word & 0x8000) << 16, word & 0x7FFF
    normal = (size << 13) + (112 << 23)
    tiny = _bits(cast(size, "f32") * 2.0**-24)
    bits = f.where(size >= 0x7C00, normal + (112 << 23), f.where(size < 0x400, tiny, normal))
    return cast(_bits(bits | sign), to)


def lower_bit_cast(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
    """By way of integers: every operation keeps the bits, but that NaNs become quiet ones."""
    x = given(ins)
    return (
        e.stage(
            f"bit_cast_{len(e.stages)}",
            n.type.shape,
            lambda *at: _from_integer(_to_integer(Term(Read(x, at))), n.type.dtype).expr,
        ),
    )


def _samples() -> Iterable[Sample]:
    by_width = (("f32", "i32", "u32"), ("f64", "i64", "u64"), ("f16", "i16", "u16", "bf16"),
                ("i8", "u8"))  # fmt: skip
    for dtypes in by_width:
        for source in dtypes:
            for to in dtypes:
                yield Sample((edges(source),), {"source": source, "to": to})
    yield Sample((random(3, 5, dtype="bool"),), {"source": "bool", "to": "u8"})
    yield Sample((np.arange(3, dtype=np.uint8),), {"source": "u8", "to": "bool"})
    halves = np.arange(-(1 << 15), 1 << 15, 97).astype(np.int16)
    yield Sample((halves,), {"source": "i16", "to": "f16"})
    yield Sample((halves[halves.view(np.float16) == halves.view(np.float16)].view(np.float16),),
                 {"source": "f16", "to": "u16"})  # fmt: skip
    yield Sample((random(),), {"source": "f32", "to": "i32"})
    yield Sample((random(0, 2),), {"source": "f32", "to": "u32"})


register(Op("bit_cast", "elementwise", infer_bit_cast, ref_bit_cast, lower_bit_cast,
            samples=_samples))  # fmt: skip
