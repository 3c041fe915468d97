"""Operators that are computed element by element, reductions, and what normalises along axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from naru.dtypes import DTYPES

from .draw import Draw, Operation

Strategy = Callable[[Draw], Operation]
# Where the operator is defined, or where results of different libraries can be compared.
RANGES = {
    "Acos": (-1.0, 1.0), "Asin": (-1.0, 1.0), "Atanh": (-0.99, 0.99), "Acosh": (1.0, 50.0),
    "Log": (0.001, 100.0), "Sqrt": (0.0, 100.0), "Tan": (-1.4, 1.4), "Round": (-5.0, 5.0),
    "Exp": (-20.0, 10.0), "Softplus": (-30.0, 30.0), "Erf": (-4.0, 4.0),
}  # fmt: skip
ATTRIBUTES: dict[str, dict[str, tuple[float, float]]] = {
    "Elu": {"alpha": (0.1, 2.0)}, "Celu": {"alpha": (0.2, 2.0)},
    "LeakyRelu": {"alpha": (-0.5, 1.5)}, "ThresholdedRelu": {"alpha": (-1.0, 2.0)},
    "Selu": {"alpha": (0.5, 2.0), "gamma": (0.5, 2.0)},
    "HardSigmoid": {"alpha": (0.05, 0.5), "beta": (0.1, 0.9)},
    "Shrink": {"lambd": (0.0, 2.0), "bias": (-1.0, 1.0)}, "Swish": {"alpha": (0.2, 2.0)},
    "SwiGLU": {"alpha": (0.2, 2.0)},
}  # fmt: skip


def unary(d: Draw) -> Operation:
    low, high = RANGES.get(d.name, (-6.0, 6.0))
    # Of huge numbers sines are not computed (docs/errors.md), and of integers Shrink overflows.
    tame = d.name in ("Sin", "Cos", "Tan") or (
        d.name == "Shrink" and DTYPES[d.dtype()].kind in "iu"
    )
    x = d.input(0, d.shape(), low=low, high=high, wild=not tame)
    attrs = d.only(**{n: d.real(*r) for n, r in ATTRIBUTES.get(d.name, {}).items()})
    if d.name == "IsInf":
        attrs = d.only(detect_negative=d.int(0, 1), detect_positive=d.int(0, 1))
    if d.name == "Gelu":
        attrs = d.only(approximate=d.pick(("none", "tanh")))
    return Operation([x], attrs, ulps=16, sums=d.name in ("Gelu", "Swish"))


def binary(d: Draw) -> Operation:
    shape = d.shape()
    dtype = d.dtype(0)
    attrs: dict[str, object] = {}
    low, high, wild = -5.0, 5.0, True
    if d.name == "Mod":
        attrs = {"fmod": 1} if DTYPES[dtype].kind == "f" or d.chance(0.4) else {}
    if d.name == "BitShift":
        attrs = {"direction": d.pick(("LEFT", "RIGHT"))}
    if d.name == "Mod":  # exact for quotients up to 2^53 (docs/errors.md)
        wild = DTYPES[dtype].kind != "f"
    if d.name == "Pow":
        low, high = 0.1, 3.0
        wild = DTYPES[dtype].kind == "f"
    a = d.array(dtype, shape, low, high, wild)
    other = d.broadcast(shape)
    if d.name == "PRelu":
        other = other if d.version > 6 or other == shape else shape[1:2]
    elif d.version < 7 and d.opset < 7 and "broadcast" in d.schema.attributes:
        start = d.int(0, len(shape))
        other = shape[start : d.int(start, len(shape))]
        attrs = {"broadcast": 1, "axis": start}
        if other == shape:
            attrs = {}
    elif d.opset < 7:
        other = shape
    second = d.dtype(1)
    if d.name in ("Div", "Mod") and DTYPES[second].kind in "iu":
        low, high, wild = 1.0, 9.0, False
    if d.name == "BitShift":
        low, high, wild = 0.0, float(DTYPES[second].bits - 1), False
    if d.name == "Pow" and DTYPES[dtype].kind in "iu":  # out of range is not defined
        low, high = 0.0, 4.0
    b = d.array(second, other, low, high, wild)
    turned = d.opset >= 7 and d.name not in ("PRelu", "Div", "Mod", "BitShift") and d.chance(0.3)
    if turned and a.dtype == b.dtype:
        a, b = b, a
    return Operation([a, b], attrs, ulps=16)


def variadic(d: Draw) -> Operation:
    shape = d.shape()
    count = d.pick((1, 2, 2, 3, 4))
    shapes = [shape if d.opset < 8 or k == 0 else d.broadcast(shape) for k in range(count)]
    return Operation([d.input(0, s, wild=True) for s in shapes], ulps=8, sums=d.name == "Mean")


def clip(d: Draw) -> Operation:
    x = d.input(0, d.shape(), wild=True)
    if d.version < 11:
        low = d.real(-3, 1)
        return Operation([x], d.only(min=low, max=low + d.real(0, 3)))
    dtype = d.dtype(0)
    least, most = sorted((d.array(dtype, ()), d.array(dtype, ())), key=float)
    return Operation([x, least if d.chance(0.7) else None, most if d.chance(0.7) else None])


def where(d: Draw) -> Operation:
    shape = d.shape()
    parts = [shape, d.broadcast(shape), d.broadcast(shape)]
    c, x, y = (parts[k] for k in d.rng.permutation(3))
    return Operation([d.array("bool", c), d.input(1, x, wild=True), d.input(1, y, wild=True)])


def cast(d: Draw) -> Operation:
    source, to = d.dtype(0), d.result(0)
    low, high = (0.0, 100.0) if DTYPES[to].kind in "ub" else (-100.0, 100.0)
    if DTYPES[to].bits < 8 or DTYPES[source].bits < 8:
        low, high = (0.0, 1.0) if "u" in to + source or "2" in to + source else (-2.0, 2.0)
    # Out of range of an integer is not defined.
    wild = DTYPES[to].kind in "fb" and DTYPES[to].bits > 8
    x = d.array(source, d.shape(), low, high, wild)
    if d.name == "CastLike":
        return Operation([x, d.array(to, d.shape(0, 2))])
    return Operation([x], {"to": DTYPES[to].onnx}, ulps=1)


def bit_cast(d: Draw) -> Operation:
    source = d.dtype(0)
    same = [n for n, t in DTYPES.items() if t.bits == DTYPES[source].bits and t.onnx
            and n != "bool" and t.bits >= 8]  # fmt: skip
    to = d.pick(same) if source != "bool" and same else source
    return Operation([d.array(source, d.shape(), wild=True)], {"to": DTYPES[to].onnx})


def reduction(d: Draw) -> Operation:
    shape = d.shape(0, 4)
    axes = d.axes(len(shape))
    attrs = d.only(keepdims=d.int(0, 1))
    low, high = (0.5, 3.0) if "Log" in d.name or "Prod" in d.name else (-4.0, 4.0)
    wild = d.name in ("ReduceMax", "ReduceMin") and d.chance(0.3)
    x = d.input(0, shape, low=low, high=high, wild=wild)
    given = d.chance(0.8)
    if "axes" in d.schema.attributes:
        # Empty axes are all of them, or an error, where they are an attribute.
        return Operation(
            [x], attrs | ({"axes": axes} if axes and given else {}), ulps=64, sums=True
        )
    attrs |= d.only(noop_with_empty_axes=d.int(0, 1))
    operand = np.array(axes, np.int64) if given else None
    return Operation([x, operand], attrs, operands=[1], ulps=64, sums=True)


def arg(d: Draw) -> Operation:
    shape = tuple(max(n, 1) for n in d.shape(1, 4))
    attrs = d.only(axis=d.axis(len(shape)), keepdims=d.int(0, 1), select_last_index=d.int(0, 1))
    return Operation([d.input(0, shape)], _from_front(d, attrs, len(shape)))


def _from_front(d: Draw, attrs: dict[str, Any], rank: int) -> dict[str, Any]:
    """Axes counted from the front, where the version knows no others."""
    if d.opset < 11 and isinstance(axis := attrs.get("axis"), int):
        attrs["axis"] = axis % max(rank, 1)
    return attrs


def softmax(d: Draw) -> Operation:
    shape = d.shape(1, 4)
    if d.version < 13 and len(shape) < 2 and d.chance(0.5):
        shape = (*shape, 3)
    attrs = d.only(axis=d.axis(len(shape)))
    if d.version < 13 and "axis" not in attrs and len(shape) < 2:
        attrs = {"axis": 0}
    x = d.input(0, shape, low=-9.0, high=9.0)
    return Operation([x], _from_front(d, attrs, len(shape)), ulps=32, sums=True)


def cumulative(d: Draw) -> Operation:
    shape = d.shape(1, 3)
    axis = np.array(d.axis(len(shape)), DTYPES[d.dtype(1)].numpy)
    attrs = d.only(exclusive=d.int(0, 1), reverse=d.int(0, 1))
    return Operation([d.input(0, shape), axis], attrs, operands=[1], ulps=64, sums=True)


def dropout(d: Draw) -> Operation:
    x = d.input(0, d.shape())
    if d.version < 12:
        return Operation([x], d.only(ratio=d.real(0, 0.9)))
    return Operation([x, d.array(d.dtype(1), (), 0.0, 0.9) if d.chance(0.5) else None],
                     outputs=d.int(1, 2))  # fmt: skip


def normalization(d: Draw) -> Operation:
    """LayerNormalization and its kin: a scale of the last axes, perhaps broadcast."""
    shape = tuple(max(n, 1) for n in d.shape(1, 4))
    axis = d.axis(len(shape))
    attrs = {"axis": axis} | d.only(epsilon=d.real(1e-5, 1e-2))
    own = shape[axis:]
    operands = [d.input(0, shape), d.array(d.dtype(1), own)]
    if d.name == "LayerNormalization" and d.chance(0.6):
        operands.append(d.array(d.dtype(1), own))
    return Operation(operands, attrs, ulps=1024, sums=True)


def per_channel(d: Draw) -> Operation:
    """InstanceNormalization, BatchNormalization."""
    shape = tuple(max(n, 1) for n in d.shape(3, 5, 9))
    c = shape[1:2]
    x = d.input(0, shape)
    if d.name == "InstanceNormalization":
        parts = [d.input(k, c) for k in (1, 2)]
        return Operation([x, *parts], d.only(epsilon=d.real(1e-5, 1e-2)), ulps=4096, sums=True)
    scale, bias = d.input(1, c), d.input(2, c)
    mean, var = d.input(3, c), d.input(4, c, low=0.1, high=3.0)
    attrs = d.only(epsilon=d.real(1e-5, 1e-2), momentum=d.real(0.5, 0.95))
    if d.opset < 7:
        attrs["is_test"] = 1
    return Operation([x, scale, bias, mean, var], attrs, ulps=64, sums=True)


def local_response(d: Draw) -> Operation:
    shape = d.shape(3, 4, 9)
    attrs = {"size": d.pick((1, 3, 5, 7))} | d.only(
        alpha=d.real(1e-4, 1e-1), beta=d.real(0.3, 1.0), bias=d.real(0.5, 2.0)
    )
    return Operation([d.input(0, shape)], attrs, ulps=32)


def norm_of_axis(d: Draw) -> Operation:
    shape = tuple(max(n, 1) for n in d.shape(1, 4))
    attrs = d.only(axis=d.axis(len(shape)), p=d.int(1, 2))
    return Operation([d.input(0, shape)], attrs, ulps=32, sums=True)


def mean_variance(d: Draw) -> Operation:
    shape = tuple(max(n, 1) for n in d.shape(4, 4, 9))
    attrs = d.only(axes=d.axes(4, least=1)) if d.version >= 9 else {}
    return Operation([d.input(0, shape)], attrs, ulps=1024, sums=True)


UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil", "Celu", "Cos",
    "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf",
    "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu",
    "Shape", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Softplus", "Softsign", "Sqrt",
    "Swish", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip
BINARY = (
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Xor",
)  # fmt: skip
REDUCTIONS = (
    "L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare",
)  # fmt: skip
TABLE: Mapping[str, Strategy] = {
    **dict.fromkeys(UNARY, unary),
    **dict.fromkeys(BINARY, binary),
    **dict.fromkeys(("Max", "Min", "Mean", "Sum"), variadic),
    **{f"Reduce{n}": reduction for n in REDUCTIONS},
    "ArgMax": arg, "ArgMin": arg, "Clip": clip, "Where": where, "Cast": cast, "CastLike": cast,
    "BitCast": bit_cast, "Softmax": softmax, "LogSoftmax": softmax, "Hardmax": softmax,
    "CumSum": cumulative, "CumProd": cumulative, "Dropout": dropout,
    "LayerNormalization": normalization, "RMSNormalization": normalization,
    "InstanceNormalization": per_channel, "BatchNormalization": per_channel,
    "LRN": local_response, "LpNormalization": norm_of_axis,
    "MeanVarianceNormalization": mean_variance,
}  # fmt: skip
