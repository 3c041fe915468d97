"""Float operators of com.microsoft, as ONNX Runtime's optimiser and its exporters write them.

Source: ContribOperators.md of ONNX Runtime. (Attention: onnx_microsoft_attention.py;
normalisations: onnx_microsoft_norm.py; small integers: onnx_quantized.py.)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import helper

from naru.errors import ModelError
from naru.frontend.onnx_contractions import conv, conv_transpose, gemm, transpose_last
from naru.frontend.onnx_elementwise import silu
from naru.frontend.onnx_movement import pad, slice_axis
from naru.frontend.onnx_node import OnnxNode, Unsupported, check_axis, emit, scalar
from naru.frontend.onnx_shapes import gather_nd, range_, trilu
from naru.frontend.onnx_signatures import Extension
from naru.ir.expr import Const
from naru.ir.graph import Node
from naru.ir.simplify import ONE, floordiv, known, mul, prod
from naru.ops.registry import constant

LARGEST_RFFT = 1 << 12  # points; a transform is a product with a matrix that is stored


# --- activations ----------------------------------------------------------------------------------


def gelu(c: OnnxNode) -> Node:
    return emit("gelu", c[0], approximate="none")


def bias_gelu(c: OnnxNode) -> Node:
    return emit("gelu", emit("add", c[0], c[1]), approximate="none")


def fast_gelu(c: OnnxNode) -> Node:
    x = c[0] if c.find(1) is None else emit("add", c[0], c[1])
    return emit("gelu", x, approximate="tanh")


def gemm_fast_gelu(c: OnnxNode) -> Node:
    x = emit("matmul", c[0], c[1])
    x = x if c.find(2) is None else emit("add", x, c[2])
    return emit("gelu", x, approximate="tanh")


def quick_gelu(c: OnnxNode) -> Node:
    return silu(c[0], c.get_float("alpha", 1.702))


def bias_split_gelu(c: OnnxNode) -> Node:
    """The left half of x + bias times the gelu of the right one."""
    x = emit("add", c[0], c[1])
    axis, half = x.type.rank - 1, floordiv(x.type.shape[-1], 2)
    left, right = slice_axis(x, axis, Const(0), half), slice_axis(x, axis, half, half)
    return emit("mul", left, emit("gelu", right, approximate="none"))


def bias_add(c: OnnxNode) -> Node:
    return emit("add", emit("add", c[0], c[1]), c[2])


def bias_softmax(c: OnnxNode) -> Node:
    """softmax(data + bias) over the axes from `axis` on. The bias lacks (or has as 1) either the
    axes just before `axis` (inner), or leading ones."""
    x, bias = c[0], c[1]
    rank, shape = x.type.rank, x.type.shape
    axis = check_axis(c.get_int("axis", 1), rank)
    if c.get_flag("is_inner_broadcast", False) and bias.type.rank < rank:
        lead = bias.type.rank - (rank - axis)
        if lead < 0:
            raise ModelError(f"expected a bias of rank {rank - axis} or more")
        middle = [ONE] * (rank - bias.type.rank)
        dims = (*bias.type.shape[:lead], *middle, *bias.type.shape[lead:])
        bias = emit("reshape", bias, shape=dims)
    y = emit("add", x, bias)
    if axis == rank - 1:
        return emit("softmax", y, axis=-1)
    flat = emit("reshape", y, shape=(prod(shape[:axis]), prod(shape[axis:])))
    return emit("reshape", emit("softmax", flat, axis=1), shape=shape)


ACTIVATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    # the op, and the attributes that alpha, beta and gamma are
    "": ("identity", ()),
    "Elu": ("elu", ("alpha",)),
    "HardSigmoid": ("hard_sigmoid", ("alpha", "beta")),
    "LeakyRelu": ("leaky_relu", ("alpha",)),
    "Relu": ("relu", ()),
    "Selu": ("selu", ("alpha", "gamma")),
    "Sigmoid": ("sigmoid", ()),
    "Softplus": ("softplus", ()),
    "Softsign": ("softsign", ()),
    "Tanh": ("tanh", ()),
    "ThresholdedRelu": ("thresholded_relu", ("alpha",)),
}


def activated(c: OnnxNode, x: Node) -> Node:
    """The attribute `activation` of x. Its numbers are in activation_alpha, _beta and _gamma."""
    name = c.get_str("activation", "")
    if name not in ACTIVATIONS:
        raise Unsupported(f"the activation {name!r}", f"one of {', '.join(ACTIVATIONS)[2:]}")
    op, numbers = ACTIVATIONS[name]
    attrs = {n: c.get_float(f"activation_{n}", 0.0) for n in numbers if c.has(f"activation_{n}")}
    return x if op == "identity" else emit(op, x, **attrs)


# --- products -------------------------------------------------------------------------------------


def fused_matmul(c: OnnxNode) -> Node:
    """alpha · A' · B'. With transBatch the first axis is the matrix's row, before the batch."""
    a = _oriented(c, c[0], "A")
    b = _oriented(c, c[1], "B")
    y, alpha = emit("matmul", a, b), c.get_float("alpha", 1.0)
    return y if alpha == 1.0 else emit("mul", y, scalar(alpha, y))


def _oriented(c: OnnxNode, x: Node, which: str) -> Node:
    rank = x.type.rank
    if rank < 2:
        return x
    if c.get_flag(f"transBatch{which}", False) and rank > 2:
        x = emit("transpose", x, perm=(*range(1, rank - 1), 0, rank - 1))
    return transpose_last(x) if c.get_flag(f"trans{which}", False) else x


def fused_matmul_activation(c: OnnxNode) -> Node:
    if c.get_str("activation", "") == "Softmax":
        y = fused_matmul(c)
        return emit("softmax", y, axis=check_axis(c.get_int("activation_axis", -1), y.type.rank))
    return activated(c, fused_matmul(c))


def fused_gemm(c: OnnxNode) -> Node:
    return activated(c, gemm(c))


def fused_conv(c: OnnxNode, product: Node | None = None) -> Node:
    """activation(conv(X, W, B) + Z). The activation's numbers are a list."""
    y = conv(c) if product is None else product
    y = y if c.find(3) is None else emit("add", y, c[3])
    numbers = c.get_floats("activation_params")
    name = c.get_str("activation", "")
    if name == "Clip":
        if len(numbers) != 2:
            raise ModelError(f"attribute 'activation_params': expected two, found {len(numbers)}")
        return emit("clip", y, scalar(numbers[0], y), scalar(numbers[1], y))
    if name not in ACTIVATIONS:
        raise Unsupported(f"the activation {name!r}")
    op, names = ACTIVATIONS[name]
    attrs = dict(zip(names, numbers, strict=False))
    return y if op == "identity" else emit(op, y, **attrs)


def nhwc_conv(c: OnnxNode) -> Node:
    """X [N, spatial…, C], W [M, window…, C / group]: a conv between transpositions."""
    return _channels_last(c, weights_too=True)


def nhwc_fused_conv(c: OnnxNode) -> Node:
    """The same with weights as ONNX has them, Z and an activation."""
    return fused_conv(c, _channels_last(c, weights_too=False))


def _channels_last(c: OnnxNode, *, weights_too: bool) -> Node:
    x, w = c[0], c[1]
    if x.type.rank < 3 or w.type.rank != x.type.rank:
        raise ModelError(f"expected X and W of one rank ≥ 3, found {x.type.rank}, {w.type.rank}")
    first = (0, x.type.rank - 1, *range(1, x.type.rank - 1))
    last = (0, *range(2, x.type.rank), 1)
    x = emit("transpose", x, perm=first)
    w = emit("transpose", w, perm=first) if weights_too else w
    return emit("transpose", conv(replace(c, inputs=(x, w, c.find(2)))), perm=last)


def conv_transpose_dynamic_pads(c: OnnxNode) -> Node:
    pads = c.fixed(2, "the pads")
    attrs = dict(c.attrs)
    if pads is not None:
        attrs["pads"] = helper.make_attribute("pads", list(pads))
    return conv_transpose(replace(c, inputs=(c[0], c[1], c.find(3)), attrs=attrs))


def cdist(c: OnnxNode) -> Node:
    """Distances between the rows of A [m, n] and those of B [k, n]: |a|² + |b|² - 2 a·b, which is
    a product of matrices, but loses distances far below the rows' lengths."""
    metric = c.get_str("metric", "sqeuclidean", ("euclidean", "sqeuclidean"))
    a, b = c[0], c[1]
    if a.type.rank != 2 or b.type.rank != 2:
        raise ModelError(f"expected two matrices, found ranks {a.type.rank} and {b.type.rank}")
    rows = emit("reduce_sum", emit("mul", a, a), axes=(1,), keepdims=True)
    columns = emit("reduce_sum", emit("mul", b, b), axes=(1,), keepdims=False)
    both = emit("matmul", a, transpose_last(b))
    y = emit("sub", emit("add", rows, columns), emit("mul", both, scalar(2, both)))
    y = emit("max", y, scalar(0, y))
    return emit("sqrt", y) if metric == "euclidean" else y


# --- movement -------------------------------------------------------------------------------------


def torch_embedding(c: OnnxNode) -> Node:
    return emit("gather", c[0], c[1], axis=0)


def unfold_tensor(c: OnnxNode) -> Node:
    """Windows of `size` elements along `dim`, `step` apart; the window is a new last axis."""
    x = c[0]
    axis = check_axis(c.get_int("dim", -1), x.type.rank)
    size, step, n = c.get_int("size", 0), c.get_int("step", 1), known(x.type.shape[axis])
    if n is None:
        raise Unsupported("windows along an axis of unknown size", "fix that dim of the input")
    if not 1 <= size <= n or step < 1:
        raise ModelError(f"expected size in 1..{n} and step ≥ 1, found {size} and {step}")
    starts = np.arange(0, n - size + 1, step)[:, None]
    # (A sum, which becomes a table only where that is small.)
    at = emit("add", constant(starts, np.int64), constant(np.arange(size), np.int64))
    y = emit("gather", x, at, axis=axis)
    order = [k for k in range(y.type.rank) if k != axis + 1]
    return emit("transpose", y, perm=(*order, axis + 1))


def expand_dims(c: OnnxNode) -> Node:
    axes = c.fixed(1, "the axis")
    if axes is None or len(axes) != 1:
        raise ModelError(f"expected one axis, found {axes}")
    axis, shape = check_axis(axes[0], c[0].type.rank + 1), c[0].type.shape
    return emit("reshape", c[0], shape=(*shape[:axis], ONE, *shape[axis:]))


def pad_(c: OnnxNode) -> Node:
    return pad(replace(c, version=11))


def range__(c: OnnxNode) -> Node:
    delta = c.find(2)
    return range_(replace(c, inputs=(c[0], c[1], scalar(1, c[0]) if delta is None else delta)))


def murmur_hash_3(c: OnnxNode) -> Node:
    """MurmurHash3_x86_32 of each integer: one block of 32 bits, or two, the lower one first."""
    x, bits = c[0], {"i32": 32, "u32": 32, "i64": 64, "u64": 64}.get(c[0].type.dtype)
    if bits is None:
        raise Unsupported(f"a hash of {x.type.dtype}", "hash integers of 32 or 64 bits")
    seed = c.get_int("seed", 0) % 2**32
    blocks = [emit("cast", x, to="u32")]
    if bits == 64:
        wide = emit("cast", x, to="u64")
        blocks = [
            emit("cast", emit("bitwise_and", wide, scalar(2**32 - 1, wide)), to="u32"),
            emit("cast", _shift(wide, 32, "RIGHT"), to="u32"),
        ]
    h: Node = scalar(seed, blocks[0])
    for k in blocks:
        k = _times(_rotate(_times(k, 0xCC9E2D51), 15), 0x1B873593)
        h = emit("add", _times(_rotate(emit("bitwise_xor", h, k), 13), 5), scalar(0xE6546B64, k))
    h = emit("bitwise_xor", h, scalar(bits // 8, h))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        h = emit("bitwise_xor", h, _shift(h, shift, "RIGHT"))
        h = h if factor == 1 else _times(h, factor)
    return h if c.get_flag("positive", True) else emit("cast", h, to="i32")


def _shift(x: Node, by: int, direction: str) -> Node:
    return emit("bit_shift", x, scalar(by, x), direction=direction)


def _rotate(x: Node, by: int) -> Node:
    return emit("bitwise_or", _shift(x, by, "LEFT"), _shift(x, 32 - by, "RIGHT"))


def _times(x: Node, factor: int) -> Node:
    return emit("mul", x, scalar(factor, x))


# --- Fourier --------------------------------------------------------------------------------------


def rfft(c: OnnxNode) -> Node:
    """[…, n] -> […, n // 2 + 1, 2]: a product with the matrix of cosines and sines."""
    n = _points(c, c[0], 0)
    at = 2 * np.pi / n * (np.outer(np.arange(n), np.arange(n // 2 + 1)) % n)
    table = np.stack([np.cos(at), -np.sin(at)], -1).reshape(n, -1)
    y = emit("matmul", c[0], _like(table, c[0]), exact=True)
    return emit("reshape", y, shape=(*c[0].type.shape[:-1], Const(n // 2 + 1), Const(2)))


def irfft(c: OnnxNode) -> Node:
    """[…, n // 2 + 1, 2] -> […, n]; n is even. Scaled by 1 / n."""
    x = c[0]
    n = 2 * (_points(c, x, 1) - 1)
    if n < 2 or known(x.type.shape[-1]) != 2:
        raise ModelError("expected at least two complex numbers, as pairs")
    at = 2 * np.pi / n * (np.outer(np.arange(n // 2 + 1), np.arange(n)) % n)
    weight = np.full((n // 2 + 1, 1), 2 / n)
    weight[[0, -1]] = 1 / n
    table = np.stack([weight * np.cos(at), -weight * np.sin(at)], 1).reshape(-1, n)
    flat = emit("reshape", x, shape=(*x.type.shape[:-2], mul(*x.type.shape[-2:])))
    return emit("matmul", flat, _like(table, x), exact=True)


def _points(c: OnnxNode, x: Node, behind: int) -> int:
    """The size of the signal's axis, with `behind` axes after it; the attributes are checked."""
    found = [c.get_int(k, d) for k, d in (("signal_ndim", 1), ("onesided", 1), ("normalized", 0))]
    if found != [1, 1, 0] or x.type.rank <= behind:
        raise Unsupported(f"signal_ndim, onesided and normalized {found}", "one-sided, of one axis")
    n = known(x.type.shape[-1 - behind])
    if n is None or not 1 <= n <= LARGEST_RFFT:
        raise Unsupported(f"a transform of {n} points", f"a known number of at most {LARGEST_RFFT}")
    return n


def _like(table: np.ndarray, x: Node) -> Node:
    y = constant(table, np.float64 if x.type.dtype == "f64" else np.float32)
    return y if y.type.dtype == x.type.dtype else emit("cast", y, to=x.type.dtype)


_FUSED = "activation activation_alpha activation_beta activation_gamma"
_WINDOW = "auto_pad dilations group kernel_shape strides"
_MATMUL = "A B -> Y; alpha transA transB"
MICROSOFT: Extension = {
    "BiasAdd": ("X bias skip -> Y", bias_add),
    "BiasGelu": ("A B -> C", bias_gelu),
    "BiasSoftmax": ("data bias -> output; axis is_inner_broadcast", bias_softmax),
    "BiasSplitGelu": ("X bias -> Y", bias_split_gelu),
    "CDist": ("A B -> C; metric", cdist),
    "ConvTransposeWithDynamicPads": (
        f"X W Pads? B? -> Y; output_padding {_WINDOW}",
        conv_transpose_dynamic_pads,
    ),
    "ExpandDims": ("X axis -> Y", expand_dims),
    "FastGelu": ("X bias? -> Y", fast_gelu),
    "FusedConv": (f"X W B? Z? -> Y; activation activation_params pads {_WINDOW}", fused_conv),
    "FusedGemm": (f"A B C? -> Y; alpha beta transA transB {_FUSED}", fused_gemm),
    "FusedMatMul": (f"{_MATMUL} transBatchA transBatchB", fused_matmul),
    "FusedMatMulActivation": (
        f"{_MATMUL} transBatchA transBatchB activation_axis {_FUSED}",
        fused_matmul_activation,
    ),
    "GatherND": ("data indices -> output", gather_nd),
    "Gelu": ("X -> Y", gelu),
    "GemmFastGelu": ("X W bias? -> Y", gemm_fast_gelu),
    "Irfft": ("X -> Y; normalized onesided signal_ndim", irfft),
    "MurmurHash3": ("X -> Y; positive seed", murmur_hash_3),
    "NhwcConv": (f"X W B? -> Y; pads {_WINDOW}", nhwc_conv),
    "NhwcFusedConv": (
        f"X W B? Z? -> Y; activation activation_params pads {_WINDOW}",
        nhwc_fused_conv,
    ),
    "Pad": ("data pads value? -> output; mode", pad_),
    "QuickGelu": ("X -> Y; alpha", quick_gelu),
    "Range": ("start limit delta? -> Y", range__),
    "Rfft": ("X -> Y; normalized onesided signal_ndim", rfft),
    "TorchEmbedding": ("weight indices padding_idx? scale_grad_by_freq? -> Y", torch_embedding),
    "TransposeMatMul": (_MATMUL, fused_matmul),
    "Trilu": ("X k? -> Y; upper", trilu),
    "UnfoldTensor": ("input -> output; dim size step", unfold_tensor),
}
