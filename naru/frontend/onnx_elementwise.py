"""ONNX operators that compute element by element: one row each where only the name differs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import numpy as np

from naru.dtypes import DTYPES, TINY
from naru.errors import ModelError
from naru.frontend.onnx_data import dtype_of
from naru.frontend.onnx_node import OnnxNode, Unsupported, emit, scalar
from naru.frontend.onnx_signatures import Handler
from naru.ir.expr import Const
from naru.ir.graph import Node
from naru.ir.simplify import ONE
from naru.ops.bits import has_no_bits
from naru.ops.cast import MODES

UNARY = {
    "Abs": "abs", "Acos": "acos", "Acosh": "acosh", "Asin": "asin", "Asinh": "asinh",
    "Atan": "atan", "Atanh": "atanh", "BitwiseNot": "bitwise_not", "Ceil": "ceil", "Cos": "cos",
    "Cosh": "cosh", "Exp": "exp", "Floor": "floor", "HardSwish": "hard_swish",
    "Identity": "identity", "IsNaN": "isnan", "Log": "log", "Mish": "mish", "Neg": "neg",
    "Not": "not",
    "Reciprocal": "reciprocal", "Relu": "relu", "Round": "round", "Sigmoid": "sigmoid",
    "Sign": "sign", "Sin": "sin", "Sinh": "sinh", "Softplus": "softplus", "Softsign": "softsign",
    "Sqrt": "sqrt", "Tanh": "tanh",
}  # fmt: skip
BINARY = {
    "Add": "add", "And": "and", "BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or",
    "BitwiseXor": "bitwise_xor", "Div": "div", "Equal": "equal", "Greater": "greater",
    "GreaterOrEqual": "greater_or_equal", "Less": "less", "LessOrEqual": "less_or_equal",
    "Mul": "mul", "Or": "or", "Pow": "pow", "PRelu": "prelu", "Sub": "sub", "Xor": "xor",
}  # fmt: skip
# One operand and float attributes, with the standard's defaults.
WITH_FLOATS: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "Celu": ("celu", {"alpha": 1.0}),
    "Elu": ("elu", {"alpha": 1.0}),
    "HardSigmoid": ("hard_sigmoid", {"alpha": 0.2, "beta": 0.5}),
    "LeakyRelu": ("leaky_relu", {"alpha": 0.01}),
    "Selu": ("selu", {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}),
    "ThresholdedRelu": ("thresholded_relu", {"alpha": 1.0}),
}
VARIADIC = {"Max": "max", "Min": "min", "Sum": "add"}


def _unary(name: str) -> Handler:
    return lambda c: emit(name, c[0])


def _binary(name: str) -> Handler:
    return lambda c: emit(name, c[0], second_operand(c))


def _with_floats(name: str, defaults: Mapping[str, float]) -> Handler:
    return lambda c: emit(name, c[0], **{k: c.get_float(k, v) for k, v in defaults.items()})


def _variadic(name: str) -> Handler:
    return lambda c: reduce(lambda a, b: emit(name, a, b), c.operands())


def second_operand(c: OnnxNode) -> Node:
    """Operand 1, brought to numpy's broadcasting: before opset 7 `axis` said where its dims go."""
    b = c[1]
    if c.version >= 7 or not c.get_flag("broadcast", False):
        return b
    rank = c[0].type.rank
    axis = c.get_int("axis", rank - b.type.rank)
    behind = rank - axis - b.type.rank
    if behind < 0:
        raise ModelError(f"expected axis in 0..{rank - b.type.rank}, found {axis}")
    return emit("reshape", b, shape=(*b.type.shape, *[ONE] * behind)) if behind else b


def mean(c: OnnxNode) -> Node:
    xs = c.operands()
    return emit("div", reduce(lambda a, b: emit("add", a, b), xs), scalar(len(xs), xs[0]))


def clip(c: OnnxNode) -> Node:
    """Bounds are operands since opset 11, attributes before."""
    if c.version >= 11:
        low, high = c.find(1), c.find(2)
    else:
        most = float(np.finfo(DTYPES[c[0].type.dtype].numpy).max)
        most = min(most, float(np.finfo(np.float32).max))
        low = scalar(c.get_float("min", -most), c[0])
        high = scalar(c.get_float("max", most), c[0])
    bounds = [low, high] if high is not None else [low] if low is not None else []
    return emit("clip", c[0], *bounds)


def cast(c: OnnxNode) -> Node:
    return cast_to(c, dtype_of(c.get_int("to", 0), "the result"))


def cast_like(c: OnnxNode) -> Node:
    return cast_to(c, c[1].type.dtype)


def cast_to(c: OnnxNode, to: str) -> Node:
    """Only narrow floats ask how to round."""
    if to not in TINY or to[0] != "f":
        return emit("cast", c[0], to=to)
    mode = c.get_str("round_mode", "up", MODES)
    return emit("cast", c[0], to=to, saturate=c.get_flag("saturate", True), round_mode=mode)


def is_inf(c: OnnxNode) -> Node:
    return emit(
        "isinf",
        c[0],
        detect_positive=c.get_int("detect_positive", 1),
        detect_negative=c.get_int("detect_negative", 1),
    )


def gelu(c: OnnxNode) -> Node:
    approximate = c.get_str("approximate", "none", ("none", "tanh"))
    return emit("gelu", c[0], approximate=approximate)


def erf(c: OnnxNode) -> Node:
    """Opset 9 had it of integers too."""
    if c[0].type.dtype[0] not in "iu":
        return emit("erf", c[0])
    return emit("cast", emit("erf", emit("cast", c[0], to="f64")), to=c[0].type.dtype)


def swiglu(c: OnnxNode) -> Node:
    """swish(A) · B (opset 28)."""
    return emit("mul", swish(c), c[1])


def shrink(c: OnnxNode) -> Node:
    """x + bias below -lambd, x - bias above lambd, else 0. Both are floats: integers go by f64."""
    x, dtype = c[0], c[0].type.dtype
    x = emit("cast", x, to="f64") if dtype[0] in "iu" else x
    limit, bias = scalar(c.get_float("lambd", 0.5), x), scalar(c.get_float("bias", 0.0), x)
    low = emit("less", x, emit("neg", limit))
    above = emit("where", emit("greater", x, limit), emit("sub", x, bias), scalar(0, x))
    y = emit("where", low, emit("add", x, bias), above)
    return y if y.type.dtype == dtype else emit("cast", y, to=dtype)


def mod(c: OnnxNode) -> Node:
    return emit("mod", c[0], c[1], fmod=c.get_int("fmod", 0))


def bit_shift(c: OnnxNode) -> Node:
    direction = c.get_str("direction", "", ("LEFT", "RIGHT"))
    return emit("bit_shift", c[0], c[1], direction=direction)


def tan(c: OnnxNode) -> Node:
    return emit("div", emit("sin", c[0]), emit("cos", c[0]))


def prelu(c: OnnxNode) -> Node:
    """Before opset 7 the slope is one number a channel."""
    x, slope = c[0], c[1]
    per_channel = c.version < 7 and slope.type.rank == 1 and x.type.rank > 2
    if per_channel and slope.type.shape[0] is not Const(1):
        slope = emit("reshape", slope, shape=(*slope.type.shape, *[ONE] * (x.type.rank - 2)))
    return emit("prelu", x, slope)


def silu(x: Node, alpha: float = 1.0) -> Node:
    """x · sigmoid(alpha · x)."""
    scaled = x if alpha == 1.0 else emit("mul", x, scalar(alpha, x))
    return emit("mul", x, emit("sigmoid", scaled))


def swish(c: OnnxNode) -> Node:
    return silu(c[0], c.get_float("alpha", 1.0))


def bit_cast(c: OnnxNode) -> Node:
    """The same bits as another dtype."""
    source, to = c[0].type.dtype, dtype_of(c.get_int("to", 0), "attribute 'to'")
    if source == to:
        return c[0]
    if has_no_bits(source) or has_no_bits(to):
        raise Unsupported(f"the bits of {source} as {to}", "cast its values instead")
    return emit("bit_cast", c[0], source=source, to=to)


TABLE: dict[str, Handler] = {
    **{onnx: _unary(name) for onnx, name in UNARY.items()},
    **{onnx: _binary(name) for onnx, name in BINARY.items()},
    **{onnx: _with_floats(*row) for onnx, row in WITH_FLOATS.items()},
    **{onnx: _variadic(name) for onnx, name in VARIADIC.items()},
    "BitCast": bit_cast,
    "BitShift": bit_shift,
    "Cast": cast,
    "CastLike": cast_like,
    "Clip": clip,
    "Erf": erf,
    "Gelu": gelu,
    "IsInf": is_inf,
    "Mean": mean,
    "Mod": mod,
    "PRelu": prelu,
    "Shrink": shrink,
    "SwiGLU": swiglu,
    "Swish": swish,
    "Tan": tan,
    "Where": lambda c: emit("where", c[0], c[1], c[2]),
}
