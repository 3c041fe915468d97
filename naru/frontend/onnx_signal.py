"""ONNX operators on signals: Fourier transforms, windows, weights of mel bands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from naru.errors import ModelError
from naru.frontend.onnx_data import dtype_of
from naru.frontend.onnx_fourier import matrix, planes_of, transform
from naru.frontend.onnx_movement import slice_axis
from naru.frontend.onnx_node import OnnxNode, Unsupported, check_axis, emit, scalar
from naru.ir.expr import Const, Expr
from naru.ir.graph import Node
from naru.ir.simplify import ONE, add, floordiv, known, maximum
from naru.ops.operands import dim_text, shape_text
from naru.ops.registry import constant

Handler = Callable[[OnnxNode], "Node | Sequence[Node]"]
LARGEST_BASIS = 2**22  # elements of the matrix of a short-time transform


def _one(c: OnnxNode, i: int, what: str) -> int | None:
    """Operand i, a number; None where it is left out."""
    found = c.fixed(i, what)
    if found is not None and len(found) != 1:
        raise ModelError(f"expected one number as {what}, found {len(found)}")
    return None if found is None else found[0]


def dft(c: OnnxNode) -> Node:
    """The axis is an operand since opset 20, an attribute before."""
    x = c[0]
    rank, last = x.type.rank, known(x.type.shape[-1]) if x.type.rank else None
    if rank < 2 or last not in (1, 2):
        raise ModelError(f"expected [..., 1] or [..., 2], found {shape_text(x.type.shape)}")
    given = _one(c, 2, "the axis") if c.version >= 20 else c.get_int("axis", 1)
    axis = check_axis(-2 if given is None else given, rank)
    if axis == rank - 1:
        raise ModelError("expected the axis of a signal, found that of real and imaginary parts")
    inverse, half = c.get_flag("inverse", False), c.get_flag("onesided", False)
    size, length = known(x.type.shape[axis]), _one(c, 1, "the length")
    if size is None:
        raise Unsupported(
            f"a transform along {dim_text(x.type.shape[axis])}, a size that is not known",
            "fix the input's size",
        )
    if length is None:
        length = 2 * (size - 1) if inverse and half else size
    wide = emit("cast", x, to="f32") if x.type.dtype in ("f16", "bf16") else x
    y = transform(wide, axis, length, inverse=inverse, half=half)
    return emit("cast", y, to=x.type.dtype) if wide is not x else y


def stft(c: OnnxNode) -> Node:
    """The signal [B, T, 1 or 2] convolved with windowed waves -> [B, frames, bins, 2]."""
    x, window = c[0], c.find(2)
    if x.type.rank != 3 or known(x.type.shape[2]) not in (1, 2):
        raise ModelError(f"expected [B, T, 1] or [B, T, 2], found {shape_text(x.type.shape)}")
    step, length = _one(c, 1, "the step"), _one(c, 3, "the length of a frame")
    if length is None:
        length = known(window.type.shape[0] if window is not None else x.type.shape[1])
    if length is None or step is None:
        raise Unsupported("frames of a length that is not known", "give frame_length as a constant")
    if window is not None and (window.type.rank, known(window.type.shape[0])) != (1, length):
        raise ModelError(f"expected a window [{length}], found {shape_text(window.type.shape)}")
    if step < 1 or length < 1:
        raise ModelError(f"expected a step and a length of at least 1, found {step} and {length}")
    bins = length // 2 + 1 if c.get_flag("onesided", True) else length
    planes = known(x.type.shape[2]) or 1
    if 2 * bins * planes * length > LARGEST_BASIS:
        raise Unsupported(f"frames of {length}", "use frames of at most 1024")
    wide = emit("cast", x, to="f32") if x.type.dtype in ("f16", "bf16") else x
    kind = np.float64 if wide.type.dtype == "f64" else np.float32
    # Bins first, then planes, as the result has them.
    w = planes_of(matrix(length, bins, False), planes).reshape(2, bins, planes, length)
    basis = constant(w.transpose(1, 0, 2, 3).reshape(2 * bins, planes, length), kind)
    if window is not None:
        basis = emit("mul", basis, emit("cast", window, to=wide.type.dtype))
    signal = emit("transpose", wide, perm=(0, 2, 1))
    y = emit("conv", signal, basis, strides=(step,), dilations=(1,), group=1)
    y = emit("transpose", y, perm=(0, 2, 1))
    y = emit("reshape", y, shape=(*y.type.shape[:2], Const(bins), Const(2)))
    return emit("cast", y, to=x.type.dtype) if wide is not x else y


def _steps(operand: Node, count: Expr) -> Node:
    """0, 1, … up to a number of them that an operand says, as f64."""
    zero, one = constant(0, np.int64), constant(1, np.int64)
    limit = emit("reshape", emit("cast", operand, to="i64"), shape=())
    return emit("cast", emit("range", zero, limit, one, length=maximum(count, 0)), to="f64")


def _window(*weights: float) -> Handler:
    """The sum of weights[k] · cos(2πk · n / N), N being the size (periodic) or one less."""

    def handler(c: OnnxNode) -> Node:
        found = c.sizes(0, "the size") or ()
        if len(found) != 1:
            raise ModelError(f"expected one number as the size, found {len(found)}")
        to = dtype_of(c.get_int("output_datatype", 1), "the result")
        at = _steps(c[0], found[0])
        size = emit("reshape", emit("cast", c[0], to="f64"), shape=())
        if not c.get_flag("periodic", True):
            size = emit("sub", size, scalar(1, size))
        turns = emit("div", at, size)
        total: Node | None = None
        for k, weight in enumerate(weights):
            wave = emit("cos", emit("mul", turns, scalar(2 * np.pi * k, turns)))
            part = emit("mul", wave, scalar(weight, wave))
            total = part if total is None else emit("add", total, part)
        assert total is not None
        return emit("cast", total, to=to)

    return handler


def mel_weight_matrix(c: OnnxNode) -> Node:
    """Triangles over the bins of a spectrum [dft_length // 2 + 1, bands], by MelWeightMatrix-17."""
    bands, length = (c.sizes(k, what) or () for k, what in ((0, "bands"), (1, "the length")))
    if len(bands) != 1 or len(length) != 1:
        raise ModelError("expected one number each as the bands and the length")
    to = dtype_of(c.get_int("output_datatype", 1), "the result")
    count, size, rate, low, high = (
        emit("reshape", emit("cast", c[k], to="f64"), shape=()) for k in range(5)
    )

    def number(value: float) -> Node:
        return scalar(value, rate)

    def mel(hertz: Node) -> Node:
        inner = emit("add", emit("div", hertz, number(700)), number(1))
        return emit("mul", emit("log", inner), number(2595 / np.log(10)))

    points = add(bands[0], 2)
    at = _steps(emit("add", emit("cast", c[0], to="i64"), constant(2, np.int64)), points)
    low, high = mel(low), mel(high)
    width = emit("div", emit("sub", high, low), emit("add", count, number(2)))
    mels = emit("add", emit("mul", at, width), low)
    power = emit("exp", emit("mul", mels, number(np.log(10) / 2595)))
    hertz = emit("mul", emit("sub", power, number(1)), number(700))
    scaled = emit("mul", hertz, emit("add", size, number(1)))
    edges = emit("floor", emit("div", scaled, rate))
    left, middle, right = (slice_axis(edges, 0, Const(k), bands[0]) for k in range(3))
    half = emit("div", emit("cast", c[1], to="i64"), constant(2, np.int64))
    bins = _steps(emit("add", half, constant(1, np.int64)), add(floordiv(length[0], 2), 1))
    j = emit("reshape", bins, shape=(bins.type.shape[0], ONE))
    rise, fall = emit("sub", middle, left), emit("sub", right, middle)

    def share(part: Node, whole: Node) -> Node:
        none = emit("less_or_equal", whole, number(0))
        return emit(
            "where", none, number(1), emit("div", part, emit("where", none, number(1), whole))
        )

    up = emit("and", emit("greater_or_equal", j, left), emit("less_or_equal", j, middle))
    down = emit("and", emit("greater", j, middle), emit("less", j, right))
    falling = emit("where", down, share(emit("sub", right, j), fall), number(0))
    rising = emit("where", up, share(emit("sub", j, left), rise), falling)
    return emit("cast", rising, to=to)


TABLE: dict[str, Handler] = {
    "BlackmanWindow": _window(0.42, -0.5, 0.08),
    "DFT": dft,
    "HammingWindow": _window(25 / 46, -21 / 46),
    "HannWindow": _window(0.5, -0.5),
    "MelWeightMatrix": mel_weight_matrix,
    "STFT": stft,
}
