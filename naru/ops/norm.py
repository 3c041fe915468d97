"""Normalisations: softmax, log_softmax, layer_, rms_ and batch_normalization.

Row-wise ones lower to separate stages (max, exp, sum, …), which the schedule then runs row by row.
Half floats are computed in f32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from naru.errors import ModelError
from naru.ir.expr import Expr, Read
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import ONE, ZERO, prod
from naru.ir.tensor import Tensor
from naru.ops import formula as f
from naru.ops.contraction import wide
from naru.ops.formula import Term
from naru.ops.operands import (
    axis_of,
    broadcast_into,
    broadcast_read,
    check_equal,
    check_kind,
    check_same_dtype,
    compute_dtype,
    element,
    given,
    operand,
    optional,
    size_as,
)
from naru.ops.reduction import reduce_stage
from naru.ops.registry import Arrays, Attrs, Emit, Op, Sample, Types, apply, constant, register
from naru.ops.samples import random

Array = np.ndarray


# --- softmax --------------------------------------------------------------------------------------


def _infer_softmax(name: str) -> Callable[[Types, Attrs], tuple[TensorType, ...]]:
    def infer(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x = operand(name, types, 0)
        check_kind(name, x.dtype, "f")
        axis_of(name, attrs.get("axis", -1), x.rank)
        return (TensorType(x.dtype, x.shape),)

    return infer


def _centred(x: Array, axis: int) -> Array:
    """x minus its maximum along the axis."""
    return x - np.max(x, axis, keepdims=True, initial=-np.inf)


def ref_softmax(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x = arrays[0]
    assert x is not None
    axis = int(attrs.get("axis", -1))
    with np.errstate(all="ignore"):
        e = np.exp(_centred(wide(x), axis))
        return ((e / np.sum(e, axis, keepdims=True)).astype(x.dtype),)


def ref_log_softmax(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x = arrays[0]
    assert x is not None
    axis = int(attrs.get("axis", -1))
    with np.errstate(all="ignore"):
        c = _centred(wide(x), axis)
        return ((c - np.log(np.sum(np.exp(c), axis, keepdims=True))).astype(x.dtype),)


def _row(at: Sequence[Expr], axis: int) -> tuple[Expr, ...]:
    """The position in a tensor whose `axis` has size 1."""
    return tuple(ZERO if k == axis else i for k, i in enumerate(at))


def lower_softmax(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
    """Stages: maximum of the row, exp(x - maximum), their sum, the quotient. A NaN that the maximum
    loses is in the sum."""
    x = ins[0]
    assert x is not None
    axis = axis_of("softmax", n.attr("axis", -1), len(x.shape))
    top = reduce_stage(e, "softmax_max", x, (axis,), True, "larger")
    power = e.stage(
        f"softmax_exp_{len(e.stages)}",
        x.shape,
        lambda *at: f.exp(element(x, at) - Term(Read(top, _row(at, axis)))).expr,
    )
    total = reduce_stage(e, "softmax_sum", power, (axis,), True, "add")
    out = e.stage(
        f"softmax_{len(e.stages)}",
        x.shape,
        lambda *at: (
            f.cast(
                Term(Read(power, tuple(at))) * (1.0 / Term(Read(total, _row(at, axis)))),
                n.type.dtype,
            ).expr
        ),
    )
    return (out,)


def lower_log_softmax(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
    """Stages: maximum of the row, x - maximum, the sum of exp, the difference to its logarithm."""
    x = ins[0]
    assert x is not None
    axis = axis_of("log_softmax", n.attr("axis", -1), len(x.shape))
    top = reduce_stage(e, "log_softmax_max", x, (axis,), True, "larger")
    centred = e.stage(
        f"log_softmax_centred_{len(e.stages)}",
        x.shape,
        lambda *at: (element(x, at) - Term(Read(top, _row(at, axis)))).expr,
    )
    total = reduce_stage(e, "log_softmax_sum", centred, (axis,), True, "add", f.exp)
    out = e.stage(
        f"log_softmax_{len(e.stages)}",
        x.shape,
        lambda *at: (
            f.cast(
                Term(Read(centred, tuple(at))) - f.log(Term(Read(total, _row(at, axis)))),
                n.type.dtype,
            ).expr
        ),
    )
    return (out,)


def _softmax_samples() -> Iterable[Sample]:
    for shape, axis in [
        ((2, 5), -1),
        ((2, 5), 0),
        ((2, 3, 4), 1),
        ((1,), 0),
        ((3, 1), 1),
        ((0, 3), 1),
    ]:
        yield Sample((random(*shape),), {"axis": axis})
    yield Sample((np.array([[1e4, -1e4, 0], [-np.inf, 0, 1]], np.float32),), {"axis": -1})
    yield Sample(
        (np.array([[np.nan, 1, 0], [-np.inf, -np.inf, -np.inf]], np.float32),), {"axis": -1}
    )
    yield Sample((random(2, 3, dtype="f16"),), {"axis": -1})


register(Op("softmax", "reduction", _infer_softmax("softmax"), ref_softmax, lower_softmax,
            samples=_softmax_samples))  # fmt: skip
register(Op("log_softmax", "reduction", _infer_softmax("log_softmax"), ref_log_softmax,
            lower_log_softmax, samples=_softmax_samples))  # fmt: skip


# --- layer normalization --------------------------------------------------------------------------


def infer_layer_normalization(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x, scale, bias (optional) -> x's shape; normalised over the axes from `axis` on."""
    x, scale = operand("layer_normalization", types, 0), operand("layer_normalization", types, 1)
    bias = optional(types, 2)
    check_kind("layer_normalization", x.dtype, "f")
    check_same_dtype("layer_normalization", [t for t in (x, scale, bias) if t is not None])
    axis_of("layer_normalization", attrs.get("axis", -1), x.rank)
    shape = x.shape
    for t in (scale, bias):
        if t is not None:
            shape = broadcast_into("layer_normalization", t.shape, shape)
    return (TensorType(x.dtype, shape),)


def ref_layer_normalization(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x, scale = given(arrays), given(arrays, 1)
    bias = arrays[2] if len(arrays) > 2 else None
    v = wide(x)
    axes = tuple(range(int(attrs.get("axis", -1)) % x.ndim, x.ndim))
    with np.errstate(all="ignore"):
        centred = v - np.mean(v, axes, keepdims=True)
        variance = np.mean(centred * centred, axes, keepdims=True)
        out = centred / np.sqrt(variance + v.dtype.type(attrs.get("epsilon", 1e-5))) * wide(scale)
        out = out if bias is None else out + wide(bias)
    return (out.astype(x.dtype),)


def lower_layer_normalization(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
    """Stages: sum, mean, sum of squared distances, 1 / standard deviation, the result."""
    x, scale = given(ins), given(ins, 1)
    bias = ins[2] if len(ins) > 2 else None
    first = axis_of("layer_normalization", n.attr("axis", -1), len(x.shape))
    axes = tuple(range(first, len(x.shape)))
    dtype = compute_dtype(x.dtype)
    count = size_as(dtype, prod(x.shape[first:]))
    epsilon = n.attr("epsilon", 1e-5)
    assert isinstance(epsilon, int | float)

    def row(at: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(ZERO if k >= first else i for k, i in enumerate(at))

    total = reduce_stage(e, "layer_norm_sum", x, axes, True, "add")
    mean = e.stage(
        f"layer_norm_mean_{len(e.stages)}",
        total.shape,
        lambda *at: (Term(Read(total, tuple(at))) / count).expr,
    )
    centred = e.stage(
        f"layer_norm_centred_{len(e.stages)}",
        x.shape,
        lambda *at: (element(x, at) - Term(Read(mean, row(at)))).expr,
    )
    squares = reduce_stage(e, "layer_norm_squares", centred, axes, True, "add", lambda c: c * c)
    inverse = e.stage(
        f"layer_norm_inverse_{len(e.stages)}",
        total.shape,
        lambda *at: (1 / f.sqrt(Term(Read(squares, tuple(at))) / count + epsilon)).expr,
    )

    def result(*at: Expr) -> Expr:
        out = Term(Read(centred, tuple(at))) * Term(Read(inverse, row(at)))
        out = out * f.cast(Term(broadcast_read(scale, at)), dtype)
        if bias is not None:
            out = out + f.cast(Term(broadcast_read(bias, at)), dtype)
        return f.cast(out, n.type.dtype).expr

    return (e.stage(f"layer_norm_{len(e.stages)}", n.type.shape, result),)


def _layer_normalization_samples() -> Iterable[Sample]:
    scale, bias = random(5, seed=1), random(5, seed=2)
    yield Sample((random(2, 3, 5), scale, bias), {"axis": -1, "epsilon": 1e-5})
    yield Sample((random(2, 3, 5), scale), {"axis": -1, "epsilon": 1e-3})
    yield Sample((random(2, 3, 5), random(3, 5), random(3, 5)), {"axis": 1})
    yield Sample((random(2, 1), random(1), random(1)), {"axis": -1})
    yield Sample((random(0, 5), scale, bias), {"axis": -1})
    half = [random(4, dtype="f16", seed=k) for k in range(2)]
    yield Sample((random(2, 4, dtype="f16"), *half), {"axis": -1})


register(Op("layer_normalization", "reduction", infer_layer_normalization, ref_layer_normalization,
            lower_layer_normalization, samples=_layer_normalization_samples))  # fmt: skip


# --- RMS normalization ----------------------------------------------------------------------------


def infer_rms_normalization(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x, scale -> x's shape: x / sqrt(mean of squares + epsilon) · scale, over the axes from `axis`
    on. The scale may be of another float type; the result is x's."""
    x, scale = operand("rms_normalization", types, 0), operand("rms_normalization", types, 1)
    check_kind("rms_normalization", x.dtype, "f")
    check_kind("rms_normalization", scale.dtype, "f")
    axis_of("rms_normalization", attrs.get("axis", -1), x.rank)
    return (TensorType(x.dtype, broadcast_into("rms_normalization", scale.shape, x.shape)),)


def ref_rms_normalization(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x, scale = given(arrays), given(arrays, 1)
    v = wide(x)
    axes = tuple(range(int(attrs.get("axis", -1)) % x.ndim, x.ndim))
    with np.errstate(all="ignore"):
        squares = np.mean(v * v, axes, keepdims=True)
        out = v / np.sqrt(squares + v.dtype.type(attrs.get("epsilon", 1e-5)))
        return ((out * wide(scale).astype(v.dtype)).astype(x.dtype),)


def lower_rms_normalization(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
    """Stages: sum of squares, 1 / root of their mean, the result."""
    x, scale = given(ins), given(ins, 1)
    first = axis_of("rms_normalization", n.attr("axis", -1), len(x.shape))
    axes = tuple(range(first, len(x.shape)))
    dtype = compute_dtype(x.dtype)
    count = size_as(dtype, prod(x.shape[first:]))
    epsilon = n.attr("epsilon", 1e-5)
    assert isinstance(epsilon, int | float)
    squares = reduce_stage(e, "rms_norm_squares", x, axes, True, "add", lambda c: c * c)
    inverse = e.stage(
        f"rms_norm_inverse_{len(e.stages)}",
        squares.shape,
        lambda *at: (1 / f.sqrt(Term(Read(squares, tuple(at))) / count + epsilon)).expr,
    )

    def result(*at: Expr) -> Expr:
        row = tuple(ZERO if k >= first else i for k, i in enumerate(at))
        out = element(x, at) * Term(Read(inverse, row))
        return f.cast(out * f.cast(Term(broadcast_read(scale, at)), dtype), n.type.dtype).expr

    return (e.stage(f"rms_norm_{len(e.stages)}", n.type.shape, result),)


def _rms_normalization_samples() -> Iterable[Sample]:
    yield Sample((random(2, 3, 5), random(5, seed=1)), {"axis": -1, "epsilon": 1e-5})
    yield Sample((random(2, 3, 5), random(3, 5)), {"axis": 1, "epsilon": 1e-3})
    yield Sample((random(2, 3, 5), random()), {"axis": 0})
    yield Sample((random(2, 1), random(1)), {"axis": -1})
    yield Sample((random(0, 5), random(5)), {"axis": -1})
    yield Sample((random(2, 17, dtype="f64"), random(17, dtype="f64")), {"axis": -1})
    yield Sample((random(2, 4, dtype="f16"), random(4, dtype="f16", seed=1)), {"axis": -1})
    yield Sample((random(2, 4, dtype="bf16"), random(4, seed=1)), {"axis": -1})
    yield Sample((np.array([[np.nan, 1], [np.inf, 0], [0, -0.0]], np.float32), random(2)), {})


register(Op("rms_normalization", "reduction", infer_rms_normalization, ref_rms_normalization,
            lower_rms_normalization, samples=_rms_normalization_samples))  # fmt: skip


# --- batch normalization --------------------------------------------------------------------------


def infer_batch_normalization(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [N, C, *S]; scale, bias, mean, variance [C]. Inference only."""
    x = operand("batch_normalization", types, 0)
    check_kind("batch_normalization", x.dtype, "f")
    if x.rank < 2:
        raise ModelError(f"batch_normalization: expected rank 2 or more, got {x.rank}")
    for k in range(1, 5):
        t = operand("batch_normalization", types, k, rank=1)
        check_kind("batch_normalization", t.dtype, "f")
        check_equal(
            "batch_normalization", f"channels of x and of operand {k}", x.shape[1], t.shape[0]
        )
    return (TensorType(x.dtype, x.shape),)


def ref_batch_normalization(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x = arrays[0]
    assert x is not None
    v = wide(x)
    shape = (1, -1, *[1] * (x.ndim - 2))
    scale, bias, mean, variance = (
        wide(a).astype(v.dtype).reshape(shape) for a in arrays[1:] if a is not None
    )
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + v.dtype.type(attrs.get("epsilon", 1e-5)))
        return (((v - mean) * factor + bias).astype(x.dtype),)


def expand_batch_normalization(n: Node) -> Node:
    """x * factor + (bias - mean * factor), with factor = scale / sqrt(variance + epsilon): two
    elementwise ops once the rest is folded."""
    x, *vectors = (i for i in n.inputs if i is not None)
    dtype = compute_dtype(x.type.dtype)
    scale, bias, mean, variance = (_in(v, dtype) for v in vectors)
    epsilon = n.attr("epsilon", 1e-5)
    small = _in(constant(epsilon), dtype)
    factor = apply("div", scale, apply("sqrt", apply("add", variance, small)))
    offset = apply("sub", bias, apply("mul", mean, factor))
    shape = (x.type.shape[1], *[ONE] * (x.type.rank - 2))
    factor, offset = apply("reshape", factor, shape=shape), apply("reshape", offset, shape=shape)
    return _in(apply("add", apply("mul", _in(x, dtype), factor), offset), n.type.dtype)


def _in(n: Node, dtype: str) -> Node:
    return n if n.type.dtype == dtype else apply("cast", n, to=dtype)


def _batch_normalization_samples() -> Iterable[Sample]:
    for shape in ((2, 3, 4, 5), (1, 3), (2, 3, 7), (0, 3, 2)):
        c = [random(3, seed=k) for k in range(3)]
        yield Sample((random(*shape), *c, np.abs(random(3, seed=9))), {"epsilon": 1e-5})
    half = [random(2, dtype="f16", seed=k) for k in range(3)]
    yield Sample((random(2, 2, 3, dtype="f16"), *half, np.abs(random(2, dtype="f16"))), {})


register(
    Op(
        "batch_normalization",
        "elementwise",
        infer_batch_normalization,
        ref_batch_normalization,
        expand=expand_batch_normalization,
        samples=_batch_normalization_samples,
    )
)
