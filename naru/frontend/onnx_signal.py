"""ONNX operators on signals: Fourier transforms, windows, weights of mel bands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from naru.errors import ModelError
from naru.frontend.onnx_data import dtype_of
from naru.frontend.onnx_fourier import matrix, planes_of, transform
from naru.frontend.onnx_movement import around_axis, from_start, slice_axis
from naru.frontend.onnx_node import OnnxNode, check_axis, emit, scalar
from naru.frontend.onnx_shapes import size_of
from naru.frontend.onnx_signatures import Handler
from naru.ir.expr import Const, Expr
from naru.ir.graph import Node, get_output
from naru.ir.simplify import (
    FALSE,
    ONE,
    ZERO,
    add,
    compare,
    floordiv,
    known,
    maximum,
    mul,
    prod,
    select,
    sub,
)
from naru.ops.operands import dim_text, shape_text
from naru.ops.registry import constant

LARGEST_BASIS = 2**22  # elements of the matrix of a short-time transform


def _one(c: OnnxNode, i: int, what: str, least: int, example: int) -> Expr | None:
    """Operand i, a number; None where it is left out."""
    found = c.sizes(i, what, least=least, example=[example])
    if found is not None and len(found) != 1:
        raise ModelError(f"expected one number as {what}, found {len(found)}")
    number = known(found[0]) if found else None
    if number is not None and number < least:
        raise ModelError(f"expected {what} to be at least {least}, found {number}")
    return None if found is None else found[0]


def dft(c: OnnxNode) -> Node:
    """The axis is an operand since opset 20, an attribute before."""
    x = c[0]
    rank, last = x.type.rank, known(x.type.shape[-1]) if x.type.rank else None
    if rank < 2 or last not in (1, 2):
        raise ModelError(f"expected [..., 1] or [..., 2], found {shape_text(x.type.shape)}")
    inverse, half = c.get_flag("inverse", False), c.get_flag("onesided", False)
    length = _one(c, 1, "the length", 1, 4)
    if c.version >= 20 and not c.is_fixed(2):
        at = c.sizes(
            2, "the axis", lambda raw: _lines(raw[0], x.type.shape), least=0, example=[0], rank=rank
        )
        return _narrowed(c, lambda wide: _along_computed(c, wide, at or (), length, inverse, half))
    given = c.fixed(2, "the axis") if c.version >= 20 else (c.get_int("axis", 1),)
    if given is not None and len(given) != 1:
        raise ModelError(f"expected one number as the axis, found {len(given)}")
    axis = check_axis(-2 if given is None else given[0], rank)
    if axis == rank - 1:
        raise ModelError("expected the axis of a signal, found that of real and imaginary parts")
    shape = x.type.shape
    if length is None:
        length = mul(sub(shape[axis], 1), 2) if inverse and half else shape[axis]
    size, number = known(shape[axis]), known(length)
    if size is not None and number is not None:
        return _narrowed(c, lambda w: transform(w, axis, number, inverse=inverse, half=half))
    lines = [prod(shape[:axis]), shape[axis], prod(shape[axis + 1 : -1])]

    def made(wide: Node) -> Node:
        y = _transform(c, wide, lines, length, inverse, half)
        dims = (*shape[:axis], y.type.shape[1], *shape[axis + 1 : -1], y.type.shape[3])
        return emit("reshape", y, shape=dims)

    return _narrowed(c, made)


def _narrowed(c: OnnxNode, fn: Callable[[Node], Node]) -> Node:
    """fn of operand 0; half floats are computed in f32."""
    x = c[0]
    half = x.type.dtype in ("f16", "bf16")
    return emit("cast", fn(emit("cast", x, to="f32")), to=x.type.dtype) if half else fn(x)


def _lines(axis: Expr, shape: Sequence[Expr]) -> list[Expr]:
    """What lies around an axis that only data tell, which is not the last; and of each axis but
    that, whether it is the one."""
    rank = len(shape)
    here = (compare("eq", from_start(axis, rank), k) for k in range(rank - 1))
    return [*around_axis(axis, shape[:-1], rank), *(select(flag, ONE, ZERO) for flag in here)]


def _along_computed(
    c: OnnxNode, x: Node, at: Sequence[Expr], length: Expr | None, inverse: bool, half: bool
) -> Node:
    """The transform along an axis that only data tell; `at` is what `_lines` says of it."""
    shape = x.type.shape
    whole = length is None and not half
    if length is None:
        length = mul(sub(at[1], 1), 2) if inverse and half else at[1]
    y = _transform(c, x, at[:3], length, inverse, half)
    results, planes = y.type.shape[1], y.type.shape[3]
    pairs = zip(at[3:], shape, strict=False)
    dims = [d if whole else select(compare("eq", flag, 1), results, d) for flag, d in pairs]
    return emit("reshape", y, shape=(*dims, planes))


def _transform(
    c: OnnxNode, x: Node, lines: Sequence[Expr], n: Expr, inverse: bool, half: bool
) -> Node:
    """x as [before, along, behind, planes], transformed along an axis to a length, one of them
    known at run time only. In double precision: sums of a line would not be as good as a matrix
    product's otherwise."""
    kind = x.type.dtype
    x = emit("cast", x, to="f64") if kind != "f64" else x
    signal = emit("reshape", x, shape=(*lines, x.type.shape[-1]))
    limit = c.held(emit("size", c[0]))
    steps = emit("range", constant(0, np.int64), limit, constant(1, np.int64), length=n)
    size = emit("cast", size_of(steps, 0), to="f64")
    angle = emit("cast", steps, to="f64")
    angle = emit("div", emit("mul", angle, scalar(2 * np.pi, angle)), size)
    sine = emit("sin", angle)
    parts = [emit("cos", angle), sine if inverse else emit("neg", sine)]
    rows = [emit("reshape", part, shape=(ONE, n)) for part in parts]
    waves = emit("stored", emit("concat", *rows, axis=0))
    real = inverse and half
    y = emit("dft", signal, waves, scaled=inverse, half=half and not inverse, real=real)
    y = get_output(y, 0)
    return y if kind == "f64" else emit("cast", y, to=kind)


def stft(c: OnnxNode) -> Node:
    """The signal [B, T, 1 or 2] convolved with windowed waves -> [B, frames, bins, 2]."""
    x, window = c[0], c.find(2)
    if x.type.rank != 3 or known(x.type.shape[2]) not in (1, 2):
        raise ModelError(f"expected [B, T, 1] or [B, T, 2], found {shape_text(x.type.shape)}")
    step = _one(c, 1, "the step", 1, 1)
    length = _one(c, 3, "the length of a frame", 1, 1)
    if length is None:
        length = window.type.shape[0] if window is not None else x.type.shape[1]
    if window is not None and (
        window.type.rank != 1 or FALSE is compare("eq", window.type.shape[0], length)
    ):
        found = shape_text(window.type.shape)
        raise ModelError(f"expected a window [{dim_text(length)}], found {found}")
    assert step is not None
    by, size = known(step), known(length)
    onesided, planes = c.get_flag("onesided", True), known(x.type.shape[2]) or 1
    if by is None or size is None or 2 * planes * size * size > LARGEST_BASIS:
        return _narrowed(c, lambda wide: _frames(c, wide, step, length, onesided))
    return _narrowed(c, lambda wide: _convolved(wide, window, by, size, onesided))


def _convolved(x: Node, window: Node | None, step: int, length: int, onesided: bool) -> Node:
    """Frames of known length and distance."""
    planes = known(x.type.shape[2]) or 1
    bins = length // 2 + 1 if onesided else length
    kind = np.float64 if x.type.dtype == "f64" else np.float32
    # Bins first, then planes, as the result has them.
    w = planes_of(matrix(length, bins, False), planes).reshape(2, bins, planes, length)
    basis = constant(w.transpose(1, 0, 2, 3).reshape(2 * bins, planes, length), kind)
    if window is not None:
        basis = emit("mul", basis, emit("cast", window, to=x.type.dtype))
    signal = emit("transpose", x, perm=(0, 2, 1))
    y = emit("conv", signal, basis, strides=(step,), dilations=(1,), group=1)
    y = emit("transpose", y, perm=(0, 2, 1))
    return emit("reshape", y, shape=(*y.type.shape[:2], Const(bins), Const(2)))


def _frames(c: OnnxNode, x: Node, step: Expr, length: Expr, onesided: bool) -> Node:
    """Frames that are long, or of which only running tells length or distance: gathered, then
    transformed."""
    batch, size = x.type.shape[:2]
    count = add(floordiv(sub(size, length), step), 1)
    limit = c.held(emit("size", c[0]))
    zero, one = constant(0, np.int64), constant(1, np.int64)
    by = emit("cast", emit("reshape", c[1], shape=()), to="i64")
    first = emit("range", zero, limit, by, length=count)
    inner = emit("range", zero, limit, one, length=length)
    at = emit("add", emit("reshape", first, shape=(count, 1)), inner)
    frames = emit("gather", x, at, axis=1)  # [B, frames, length, planes]
    window = c.find(2)
    if window is not None:
        factors = emit("cast", window, to=x.type.dtype)
        frames = emit("mul", frames, emit("reshape", factors, shape=(length, ONE)))
    number = known(length)
    if number is not None:
        return transform(frames, 2, number, inverse=False, half=onesided)
    y = _transform(c, frames, (mul(batch, count), length, ONE), length, False, onesided)
    return emit("reshape", y, shape=(batch, count, *y.type.shape[1:2], Const(2)))


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
