"""ONNX matrix products, convolutions and pools.

Our `matmul` and `conv` are bare: transposition, padding, scaling and bias become nodes of their
own, which fusion puts back together for every producer of such patterns alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from naru.dtypes import DTYPES
from naru.errors import ModelError
from naru.frontend.onnx_node import OnnxNode, Unsupported, emit, scalar
from naru.frontend.onnx_signatures import Handler
from naru.ir.expr import INT_MAX, Const, Expr
from naru.ir.graph import Node, get_output
from naru.ir.simplify import ONE, ZERO, add, ceildiv, floordiv, known, maximum, mul, prod, sub

AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
MOST_TAPS = 1 << 20  # elements of a window; what is compiled from more would run for hours


def transpose_last(x: Node) -> Node:
    """The last two axes swapped."""
    order = list(range(x.type.rank))
    order[-1], order[-2] = order[-2], order[-1]
    return emit("transpose", x, perm=tuple(order))


def gemm(c: OnnxNode) -> Node:
    """alpha · A' · B' + beta · C."""
    a, b, bias = c[0], c[1], c.find(2)
    if a.type.rank != 2 or b.type.rank != 2:
        raise ModelError(f"expected two matrices, found ranks {a.type.rank} and {b.type.rank}")
    a = transpose_last(a) if c.get_flag("transA", False) else a
    b = transpose_last(b) if c.get_flag("transB", False) else b
    alpha, beta = c.get_float("alpha", 1.0), c.get_float("beta", 1.0)
    y = _times(emit("matmul", a, b), alpha)
    return y if bias is None or beta == 0.0 else emit("add", y, _times(bias, beta))


def _times(x: Node, factor: float) -> Node:
    """x · factor; integers as the standard's reference has it: in f64, towards zero."""
    if factor == 1.0:
        return x
    if x.type.dtype[0] in "bf" or factor.is_integer():
        return emit("mul", x, scalar(factor, x))
    wide = emit("cast", x, to="f64")
    return emit("cast", emit("mul", wide, scalar(factor, wide)), to=x.type.dtype)


@dataclass(frozen=True)
class Window:
    """How a window slides over the spatial axes; one entry each. Pads are index expressions."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[Expr, ...]
    end: tuple[Expr, ...]

    @property
    def pads(self) -> tuple[Expr, ...]:
        return (*self.begin, *self.end)

    @property
    def is_padded(self) -> bool:
        return any(p is not ZERO for p in self.pads)


def read_window(c: OnnxNode, kernel: tuple[int, ...], spatial: Sequence[Expr]) -> Window:
    """The window of a convolution or pool over dims of sizes `spatial`."""
    rank = len(spatial)
    ones = (1,) * rank
    strides = c.get_ints("strides") or ones
    dilations = c.get_ints("dilations") or ones
    pads = c.get_ints("pads") or (0,) * (2 * rank)
    found = {"kernel_shape": (kernel, rank), "strides": (strides, rank),
             "dilations": (dilations, rank), "pads": (pads, 2 * rank)}  # fmt: skip
    for name, (values, count) in found.items():
        lowest = 0 if name == "pads" else 1
        if len(values) != count or any(not lowest <= v <= INT_MAX for v in values):
            raise ModelError(
                f"attribute {name!r}: expected {count} numbers in {lowest}..{INT_MAX}, "
                f"found {list(values)[:40]}"
            )
    if math.prod(kernel) > MOST_TAPS:
        raise Unsupported(f"a window of {list(kernel)}, more than {MOST_TAPS} elements")
    mode = c.get_str("auto_pad", "NOTSET", AUTO_PADS)
    if mode.startswith("SAME"):
        begin, end = same_pads(mode, spatial, kernel, strides, dilations)
        return Window(kernel, strides, dilations, begin, end)
    numbers = [Const(p if mode == "NOTSET" else 0) for p in pads]
    return Window(kernel, strides, dilations, tuple(numbers[:rank]), tuple(numbers[rank:]))


def same_pads(
    mode: str,
    spatial: Sequence[Expr],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[tuple[Expr, ...], tuple[Expr, ...]]:
    """Pads for ceil(size / stride) windows; the odd one at the end (UPPER) or the beginning."""
    begin: list[Expr] = []
    end: list[Expr] = []
    for size, k, stride, dilation in zip(spatial, kernel, strides, dilations, strict=True):
        extent = (k - 1) * dilation + 1
        if stride == 1:
            total: Expr = Const(extent - 1)
        else:
            needed = add(mul(sub(ceildiv(size, stride), 1), stride), extent)
            total = maximum(sub(needed, size), 0)
        half = floordiv(total, 2)
        rest = sub(total, half)
        begin.append(half if mode == "SAME_UPPER" else rest)
        end.append(rest if mode == "SAME_UPPER" else half)
    return tuple(begin), tuple(end)


def window_of(c: OnnxNode, x: Node, w: Node, form: str) -> tuple[int, ...]:
    """The sizes of the window of weights, which have the given form; they must be known."""
    if x.type.rank < 3 or w.type.rank != x.type.rank:
        raise ModelError(
            f"expected x [N, C, spatial…] and weights {form} of one rank, "
            f"found ranks {x.type.rank} and {w.type.rank}"
        )
    sizes = [known(d) for d in w.type.shape[2:]]
    kernel = tuple(n for n in sizes if n is not None)
    if len(kernel) != len(sizes):
        raise Unsupported("weights of unknown window size", "give the weights a fixed shape")
    declared = c.get_ints("kernel_shape")
    if declared is not None and declared != kernel:
        raise ModelError(
            f"attribute 'kernel_shape': expected that of the weights, {list(kernel)}, "
            f"found {list(declared)}"
        )
    return kernel


def conv(c: OnnxNode) -> Node:
    x, w, bias = c[0], c[1], c.find(2)
    kernel = window_of(c, x, w, "[M, C / group, window…]")
    window = read_window(c, kernel, x.type.shape[2:])
    if window.is_padded:
        none = (ZERO, ZERO)
        pads = (*none, *window.begin, *none, *window.end)
        x = emit("pad", x, pads=pads, mode="constant", value=0.0)
    y = emit(
        "conv",
        x,
        w,
        strides=window.strides,
        dilations=window.dilations,
        group=c.get_int("group", 1),
    )
    return y if bias is None else with_bias(y, bias)


def with_bias(y: Node, bias: Node) -> Node:
    """One number a channel added to [N, M, …]."""
    if bias.type.rank != 1:
        raise ModelError(f"expected a bias of rank 1, found rank {bias.type.rank}")
    shape = (ONE, bias.type.shape[0], *[ONE] * (y.type.rank - 2))
    return emit("add", y, emit("reshape", bias, shape=shape))


def conv_transpose(c: OnnxNode) -> Node:
    """`output_shape` decides the pads where it is given, else the pads decide the size."""
    x, w, bias = c[0], c[1], c.find(2)
    kernel, rank = window_of(c, x, w, "[C, M / group, window…]"), x.type.rank - 2
    window = read_window(c, kernel, [Const(1)] * rank)
    more = c.get_ints("output_padding") or (0,) * rank
    wanted = c.get_ints("output_shape")
    wanted = wanted[-rank:] if wanted is not None else None
    if len(more) != rank or min(more) < 0 or (wanted is not None and len(wanted) != rank):
        raise ModelError(
            f"expected output_padding ≥ 0 and output_shape of {rank} numbers, "
            f"found {list(more)} and {None if wanted is None else list(wanted)}"
        )
    mode = c.get_str("auto_pad", "NOTSET", AUTO_PADS)
    begin: list[Expr] = []
    size: list[Expr] = []
    for k in range(rank):
        stride, inputs = window.strides[k], x.type.shape[2 + k]
        reach = add(mul(sub(inputs, 1), stride), (kernel[k] - 1) * window.dilations[k] + 1, more[k])
        if wanted is None and not mode.startswith("SAME"):
            begin.append(window.begin[k])
            size.append(sub(sub(reach, window.begin[k]), window.end[k]))
            continue
        size.append(mul(inputs, stride) if wanted is None else Const(wanted[k]))
        total = maximum(sub(reach, size[k]), 0)
        half = floordiv(total, 2)
        begin.append(half if mode == "SAME_UPPER" else sub(total, half))
    if any(known(b) is None for b in begin):
        raise Unsupported("output_shape for inputs of unknown size", "fix the spatial dims of x")
    y = emit(
        "conv_transpose",
        x,
        w,
        strides=window.strides,
        dilations=window.dilations,
        begin=tuple(begin),
        size=tuple(size),
        group=c.get_int("group", 1),
    )
    return y if bias is None else with_bias(y, bias)


def _pool_window(c: OnnxNode, x: Node) -> Window:
    if x.type.rank < 3:
        raise ModelError(f"expected an operand [N, C, spatial…], found rank {x.type.rank}")
    return read_window(c, c.get_ints("kernel_shape") or (), x.type.shape[2:])


def _fixed_pads(w: Window) -> tuple[int, ...] | None:
    """Pads as numbers; None where they depend on the size of an input (SAME, strided)."""
    numbers = tuple(n for p in w.pads if (n := known(p)) is not None)
    return numbers if len(numbers) == len(w.pads) else None


def _pool(
    name: str,
    c: OnnxNode,
    x: Node,
    w: Window,
    pads: tuple[int, ...],
    *others: Node,
    **more: bool,
) -> Node:
    return emit(
        name,
        x,
        *others,
        kernel_shape=w.kernel,
        strides=w.strides,
        dilations=w.dilations,
        pads=pads,
        ceil_mode=c.get_flag("ceil_mode", False),
        **more,
    )


def _padded(x: Node, w: Window, value: float) -> Node:
    pads = (ZERO, ZERO, *w.begin, ZERO, ZERO, *w.end)
    return emit("pad", x, pads=pads, mode="constant", value=value)


def max_pool(c: OnnxNode) -> Sequence[Node]:
    """The maxima, and where asked for their places in x; not yet where the padding depends on an
    input's size."""
    y = maxima(c, c[0])
    if not c.wants(1):
        return [y]
    w = _pool_window(c, c[0])
    pads = _fixed_pads(w)
    if pads is None:
        return [y]
    column_major = c.get_flag("storage_order", False)
    return [y, _pool("max_pool_places", c, c[0], w, pads, y, column_major=column_major)]


def maxima(c: OnnxNode, x: Node) -> Node:
    """The largest element of each window of x [N, C, spatial…]."""
    w = _pool_window(c, x)
    pads = _fixed_pads(w)
    if pads is None:
        info = DTYPES[x.type.dtype]
        low = -np.inf if info.kind == "f" else int(np.iinfo(info.numpy).min)
        return _pool("max_pool", c, _padded(x, w, low), w, (0,) * len(w.pads))
    return _pool("max_pool", c, x, w, pads)


def average_pool(c: OnnxNode) -> Node:
    return averages(c, c[0], c.get_flag("count_include_pad", False))


def averages(c: OnnxNode, x: Node, include_pad: bool) -> Node:
    """The mean of each window, of all its elements or of those that are not padding."""
    w = _pool_window(c, x)
    pads = _fixed_pads(w)
    if pads is not None:
        return _pool("average_pool", c, x, w, pads, count_include_pad=include_pad)
    none = (0,) * len(w.pads)
    mean = _pool("average_pool", c, _padded(x, w, 0.0), w, none, count_include_pad=True)
    if include_pad:
        return mean
    # The share of each window that is no padding: the mean of padded ones.
    ones = emit("expand", scalar(1, x), shape=(ONE, ONE, *x.type.shape[2:]))
    share = _pool("average_pool", c, _padded(ones, w, 0.0), w, none, count_include_pad=True)
    return emit("div", mean, share)


def lp_pool(c: OnnxNode) -> Node:
    """(sum over the window of |x|^p)^(1/p)."""
    w = _pool_window(c, c[0])
    pads = _fixed_pads(w)

    def total(powers: Node) -> Node:
        if pads is not None:
            return _pool("sum_pool", c, powers, w, pads)
        return _pool("sum_pool", c, _padded(powers, w, 0.0), w, (0,) * len(w.pads))

    return _norm(c, total)


def _norm(c: OnnxNode, total: Callable[[Node], Node]) -> Node:
    """The p-norm of what `total` adds up; half floats are widened on the way."""
    x, p = c[0], c.get_int("p", 2)
    if p < 1:
        raise ModelError(f"attribute 'p': expected more than 0, found {p}")
    wide = emit("cast", x, to="f32") if x.type.dtype in ("f16", "bf16") else x
    if p == 1:
        out = total(emit("abs", wide))
    elif p == 2:
        out = emit("sqrt", total(emit("mul", wide, wide)))
    else:
        powers = emit("pow", emit("abs", wide), scalar(p, wide))
        out = emit("pow", total(powers), scalar(1 / p, wide))
    return out if wide is x else emit("cast", out, to=x.type.dtype)


def _global(name: str) -> Callable[[OnnxNode], Node]:
    def handler(c: OnnxNode) -> Node:
        axes = tuple(range(2, c[0].type.rank))
        return emit(name, c[0], axes=axes, keepdims=True)

    return handler


def det(c: OnnxNode) -> Node:
    """Of each matrix in the last two axes."""
    x = c[0]
    if x.type.rank < 2:
        raise ModelError(f"expected matrices in the last two axes, found rank {x.type.rank}")
    batch = x.type.shape[:-2]
    flat = emit("reshape", x, shape=(prod(batch), *x.type.shape[-2:]))
    return emit("reshape", get_output(emit("det", flat), 0), shape=batch)


def matmul(c: OnnxNode) -> Node:
    return emit("matmul", c[0], c[1])


def global_lp_pool(c: OnnxNode) -> Node:
    """The p-norm over all spatial axes."""
    axes = tuple(range(2, c[0].type.rank))
    return _norm(c, lambda powers: emit("reduce_sum", powers, axes=axes, keepdims=True))


def col2im(c: OnnxNode) -> Node:
    """Image and window are operands; the windows are added up into the image."""
    count = known(prod(c[1].type.shape)) or 0
    image = c.sizes(1, "the image's shape", least=0, example=(4,) * count)
    kernel = c.sizes(2, "the window's shape", least=1, example=(1,) * count)
    if image is None or kernel is None or len(image) != len(kernel):
        raise ModelError("expected an image and a window of as many axes, found others")
    rank = len(image)
    half = c[0].type.dtype in ("f16", "bf16")
    out = emit(
        "col2im",
        emit("cast", c[0], to="f32") if half else c[0],
        image=image,
        kernel_shape=kernel,
        strides=c.get_ints("strides") or (1,) * rank,
        dilations=c.get_ints("dilations") or (1,) * rank,
        pads=c.get_ints("pads") or (0,) * (2 * rank),
    )
    return emit("cast", out, to=c[0].type.dtype) if half else out


TABLE: dict[str, Handler] = {
    "AveragePool": average_pool,
    "Col2Im": col2im,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Det": det,
    "Gemm": gemm,
    "GlobalAveragePool": _global("reduce_mean"),
    "GlobalLpPool": global_lp_pool,
    "GlobalMaxPool": _global("reduce_max"),
    "LpPool": lp_pool,
    "MatMul": matmul,
    "MaxPool": max_pool,
}
