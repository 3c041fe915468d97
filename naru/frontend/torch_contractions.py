"""ATen matrix products and convolutions, as the bare products that ONNX's become too: transposed
weights, padding and bias are nodes of their own, so that the same fusions meet both."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from naru.errors import ModelError
from naru.frontend.onnx_contractions import MOST_TAPS, transpose_last, with_bias
from naru.frontend.onnx_node import Unsupported, emit, scalar
from naru.frontend.torch_call import HALF, AtenCall, Handler, as_node
from naru.frontend.torch_elementwise import wide
from naru.frontend.torch_movement import along
from naru.ir.expr import Const, Expr
from naru.ir.graph import Node, get_output
from naru.ir.simplify import ONE, add, floordiv, known, mul, prod, sub
from naru.ops.registry import constant

# --- matrix products ------------------------------------------------------------------------------


def product(a: Node, b: Node) -> Node:
    """a · b; of bools by way of bytes."""
    if a.type.dtype == "bool":
        y = emit("matmul", emit("cast", a, to="i32"), emit("cast", b, to="i32"))
        return emit("cast", y, to="bool")
    return emit("matmul", a, b)


def linear(c: AtenCall) -> Node:
    """input · weight' + bias."""
    w, bias = c["weight"], c.find("bias")
    if w.type.rank == 1:
        y = emit("matmul", c["input"], w)
    else:
        y = emit("matmul", c["input"], transpose_last(w))
    return y if bias is None else emit("add", y, bias)


def _matmul(first: str, second: str) -> Handler:
    return lambda c: product(c[first], c[second])


def _plus_product(first: str, second: str, skips: bool = False) -> Handler:
    """beta · self + alpha · (first · second); what beta = 0 leaves out does not count, and of
    operators that `skips` (but for half floats) what alpha = 0 does."""

    def handler(c: AtenCall) -> Node:
        y, x = emit("matmul", c[first], c[second]), c["self"]
        beta, alpha = c.value("beta", 1), c.value("alpha", 1)
        if beta == 1 and alpha == 1:
            return emit("add", y, x)
        skipped = skips and alpha == 0 and y.type.dtype not in HALF
        work = wide(y).type.dtype
        y, x = wide(y), wide(x)
        if skipped:
            y = emit("expand", as_node(0, work, c.sizes_of), shape=y.type.shape)
        y = y if skipped or alpha == 1 else emit("mul", y, as_node(alpha, work, c.sizes_of))
        if beta == 0:
            return c.finish(emit("expand", y, shape=c.shape))
        x = x if beta == 1 else emit("mul", x, as_node(beta, work, c.sizes_of))
        return c.finish(emit("add", y, x))

    return handler


def outer(c: AtenCall) -> Node:
    a, b = c.promoted("self", "vec2" if "vec2" in c.args else "other")
    return c.finish(emit("mul", along(a, 0, 2), along(b, 1, 2)))


def bilinear(c: AtenCall) -> Node:
    """x1' · weight[k] · x2 + bias for each k."""
    a, b, w, bias = c["input1"], c["input2"], c["weight"], c.find("bias")
    outer_, (k, m, n) = a.type.shape[:-1], w.type.shape
    rows = emit("reshape", a, shape=(ONE, prod(outer_), m))
    part = emit("matmul", rows, w)  # [k, rows, n]
    other = emit("reshape", b, shape=(ONE, prod(outer_), n))
    y = emit("reduce_sum", emit("mul", part, other), axes=(2,), keepdims=False)
    y = emit("reshape", emit("transpose", y, perm=(1, 0)), shape=(*outer_, k))
    return y if bias is None else emit("add", y, bias)


# --- convolutions ---------------------------------------------------------------------------------


def spread(values: Sequence[int], rank: int) -> tuple[int, ...]:
    """One number for every spatial axis."""
    return tuple(values) * rank if len(values) == 1 else tuple(values)


def batched(x: Node, rank: int) -> tuple[Node, bool]:
    """[C, spatial…] as a batch of one, and whether it was."""
    if x.type.rank == rank + 2:
        return x, False
    if x.type.rank != rank + 1:
        raise ModelError(f"expected {rank + 2} or {rank + 1} dims, found {x.type.rank}")
    return emit("reshape", x, shape=(ONE, *x.type.shape)), True


def unbatched(y: Node, single: bool) -> Node:
    return emit("reshape", y, shape=y.type.shape[1:]) if single else y


def _kernel(w: Node) -> tuple[int, ...]:
    sizes = [known(d) for d in w.type.shape[2:]]
    kernel = tuple(n for n in sizes if n is not None)
    if len(kernel) != len(sizes) or math.prod(kernel) > MOST_TAPS:
        raise Unsupported("weights with a window of unknown size, or of too many elements")
    return kernel


def _same_padding(kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """The odd one at the end, as PyTorch has it."""
    totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    return [(t // 2, t - t // 2) for t in totals]


def conv(c: AtenCall) -> Node:
    """conv1d, conv2d, conv3d; `padding` may be numbers, or "same" or "valid"."""
    w = c["weight"]
    rank = w.type.rank - 2
    x, single = batched(c["input"], rank)
    kernel = _kernel(w)
    dilation = spread(c.ints("dilation"), rank)
    padding = c.args["padding"]
    if padding == "same":
        pads = _same_padding(kernel, dilation)
    else:
        numbers = (0,) * rank if padding == "valid" else spread(c.ints("padding"), rank)
        pads = [(p, p) for p in numbers]
    y = convolve(x, w, spread(c.ints("stride"), rank), dilation, pads, c.int("groups", 1))
    bias = c.find("bias")
    return unbatched(y if bias is None else with_bias(y, bias), single)


def convolve(
    x: Node,
    w: Node,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    pads: Sequence[tuple[int, int]],
    groups: int,
) -> Node:
    """The bare convolution behind a border of zeros."""
    if any(p for pair in pads for p in pair):
        begin, end = zip(*pads, strict=True)
        numbers = (0, 0, *begin, 0, 0, *end)
        x = emit("pad", x, pads=tuple(Const(p) for p in numbers), mode="constant", value=0.0)
    return emit("conv", x, w, strides=stride, dilations=dilation, group=groups)


def transposed(
    x: Node, w: Node, c: AtenCall, rank: int, stride: tuple[int, ...], dilation: tuple[int, ...]
) -> Node:
    """The transposed convolution."""
    kernel = _kernel(w)
    padding, more = spread(c.ints("padding"), rank), spread(c.ints("output_padding"), rank)
    size: list[Expr] = []
    for k in range(rank):
        reach = add(mul(sub(x.type.shape[2 + k], 1), stride[k]), (kernel[k] - 1) * dilation[k] + 1)
        size.append(sub(add(reach, more[k]), 2 * padding[k]))
    return emit(
        "conv_transpose", x, w, strides=stride, dilations=dilation,
        begin=tuple(Const(p) for p in padding), size=tuple(size), group=c.int("groups", 1),
    )  # fmt: skip


def conv_transpose(c: AtenCall) -> Node:
    w = c["weight"]
    rank = w.type.rank - 2
    x, single = batched(c["input"], rank)
    y = transposed(x, w, c, rank, spread(c.ints("stride"), rank), spread(c.ints("dilation"), rank))
    bias = c.find("bias")
    return unbatched(y if bias is None else with_bias(y, bias), single)


def convolution(c: AtenCall) -> Node:
    """The one form of core ATen for all of them."""
    return conv_transpose(c) if c.flag("transposed") else conv(c)


def im2col(c: AtenCall) -> Node:
    """torch.nn.functional.unfold: windows of an image as columns, [N, C · taps, windows]."""
    x, single = batched(c["self"], 2)
    kernel, stride = spread(c.ints("kernel_size"), 2), spread(c.ints("stride"), 2)
    dilation, padding = spread(c.ints("dilation"), 2), spread(c.ints("padding"), 2)
    pads = tuple(Const(p) for p in (0, 0, *padding, 0, 0, *padding))
    x = emit("pad", x, pads=pads, mode="constant", value=0.0)
    batch, channels, height, width = x.type.shape
    counts = [
        add(floordiv(sub(n, d * (k - 1) + 1), s), 1)
        for n, k, d, s in zip((height, width), kernel, dilation, stride, strict=True)
    ]
    taps: list[Node] = []
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            part = x
            for axis, at, n, s in zip((2, 3), (i, j), counts, stride, strict=True):
                first = at * dilation[axis - 2]
                end = add(first, mul(sub(n, 1), s), 1)
                part = emit("slice", part, starts=(Const(first),), ends=(end,), axes=(axis,),
                            steps=(s,))  # fmt: skip
            taps.append(emit("reshape", part, shape=(batch, channels, ONE, *counts)))
    every = emit("concat", *taps, axis=2)
    shape = (batch, mul(channels, len(taps)), prod(counts))
    return unbatched(emit("reshape", every, shape=shape), single)


def col2im(c: AtenCall) -> Node:
    """torch.nn.functional.fold: columns added up into an image."""
    x = c["self"]
    single = x.type.rank == 2
    x = emit("reshape", x, shape=(ONE, *x.type.shape)) if single else x
    padding = spread(c.ints("padding"), 2)
    y = emit(
        "col2im", wide(x), image=c.sizes("output_size"),
        kernel_shape=tuple(map(Const, spread(c.ints("kernel_size"), 2))),
        strides=spread(c.ints("stride"), 2), dilations=spread(c.ints("dilation"), 2),
        pads=(*padding, *padding),
    )  # fmt: skip
    return c.finish(unbatched(y, single))


def det(c: AtenCall) -> Node:
    """Of each matrix in the last two axes."""
    x = c["self"] if "self" in c.args else c["A"]
    batch = x.type.shape[:-2]
    flat = emit("reshape", x, shape=(prod(batch), *x.type.shape[-2:]))
    return emit("reshape", get_output(emit("det", flat), 0), shape=batch)


def cosine_similarity(c: AtenCall) -> Node:
    """x1 · x2 / (max(|x1|, eps) · max(|x2|, eps)) along an axis."""
    a, b = c.promoted("x1", "x2")
    a, b = wide(a), wide(b)
    axis, eps = c.axis("dim", a.type.rank), c.float("eps", 1e-8)
    inner = emit("reduce_sum", emit("mul", a, b), axes=(axis,), keepdims=False)
    norms: list[Node] = []
    for x in (a, b):
        square = emit("reduce_sum", emit("mul", x, x), axes=(axis,), keepdims=False)
        norms.append(emit("max", emit("sqrt", square), scalar(eps, square)))
    return c.finish(emit("div", inner, emit("mul", *norms)))


def cdist(c: AtenCall) -> Node:
    """Distances of all pairs of rows, […, P, M] and […, R, M] -> […, P, R], by the p-norm."""
    a, b = wide(c["x1"]), wide(c["x2"])
    *outer, rows, size = a.type.shape
    *batch, columns, _ = b.type.shape
    a = emit("reshape", a, shape=(*outer, rows, ONE, size))
    b = emit("reshape", b, shape=(*batch, ONE, columns, size))
    return c.finish(_distance(a, b, c.float("p", 2.0)))


def pdist(c: AtenCall) -> Node:
    """Distances of each two rows of a matrix."""
    x = wide(c["self"])
    rows = known(x.type.shape[0])
    if rows is None:
        raise Unsupported("pdist of a number of rows that is not known", "torch.cdist")
    first, second = (constant(k, np.int64) for k in np.triu_indices(rows, 1))
    a, b = (emit("gather", x, k, axis=0) for k in (first, second))
    return c.finish(_distance(a, b, c.float("p", 2.0)))


def _distance(a: Node, b: Node, p: float) -> Node:
    """The p-norm of a - b along the last axis."""
    gap = emit("abs", emit("sub", a, b))
    axes = (gap.type.rank - 1,)
    if math.isinf(p):
        return emit("reduce_max", gap, axes=axes, keepdims=False)
    if p == 0:
        gap = emit("cast", emit("not", emit("equal", gap, scalar(0, gap))), to=gap.type.dtype)
    elif p == 2:
        gap = emit("mul", gap, gap)
    elif p != 1:
        gap = emit("pow", gap, scalar(p, gap))
    y = emit("reduce_sum", gap, axes=axes, keepdims=False)
    if p == 2:
        y = emit("sqrt", y)
    elif p not in (0, 1):
        y = emit("pow", y, scalar(1 / p, y))
    return y


TABLE: dict[str, Handler] = {
    "_cdist_forward": cdist,
    "_convolution": convolution,
    "_pdist_forward": pdist,
    "addmm": _plus_product("mat1", "mat2", skips=True),
    "addmv": _plus_product("mat", "vec", skips=True),
    "baddbmm": _plus_product("batch1", "batch2"),
    "bilinear": bilinear,
    "bmm": _matmul("self", "mat2"),
    "cdist": cdist,
    "col2im": col2im,
    "cosine_similarity": cosine_similarity,
    "conv1d": conv,
    "conv2d": conv,
    "conv3d": conv,
    "conv_transpose1d": conv_transpose,
    "conv_transpose2d": conv_transpose,
    "conv_transpose3d": conv_transpose,
    "convolution": convolution,
    "det": det,
    "dot": _matmul("self", "tensor"),
    "im2col": im2col,
    "linalg_det": det,
    "linear": linear,
    "matmul": _matmul("self", "other"),
    "mm": _matmul("self", "mat2"),
    "mv": _matmul("self", "vec"),
    "outer": outer,
}
