"""ONNX reductions, softmax and normalisations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnx import TensorProto

from naru.errors import ModelError
from naru.frontend.onnx_movement import around_axis, slice_axis
from naru.frontend.onnx_node import OnnxNode, Unsupported, check_axis, emit, scalar, type_text
from naru.frontend.onnx_shapes import axis_flags, iota, kept_places, pick
from naru.frontend.onnx_signatures import Handler
from naru.ir.expr import Const, Expr
from naru.ir.graph import Node
from naru.ir.simplify import ONE, ZERO, known, prod, select

REDUCTIONS = {
    "ReduceL1": "reduce_l1", "ReduceL2": "reduce_l2", "ReduceLogSum": "reduce_log_sum",
    "ReduceLogSumExp": "reduce_log_sum_exp", "ReduceMax": "reduce_max",
    "ReduceMean": "reduce_mean", "ReduceMin": "reduce_min", "ReduceProd": "reduce_prod",
    "ReduceSum": "reduce_sum", "ReduceSumSquare": "reduce_sum_square",
}  # fmt: skip

OF_FLOATS = ("reduce_l2", "reduce_log_sum", "reduce_log_sum_exp")


def _reduction(name: str) -> Handler:
    return lambda c: reduce_axes(c, name)


def reduce_axes(c: OnnxNode, name: str) -> Node:
    """Axes are an operand since opset 18 (ReduceSum: 13), an attribute before."""
    x, keepdims = c[0], c.get_flag("keepdims", True)
    if not c.has("axes") and not c.is_fixed(1):
        return _reduce_computed(c, name, keepdims)
    axes = c.get_ints("axes") if c.has("axes") else c.fixed(1, "axes")
    if not axes:
        axes = () if c.get_flag("noop_with_empty_axes", False) else range(x.type.rank)
    found = tuple(sorted({check_axis(a, x.type.rank) for a in axes}))
    if len(found) != len(axes):
        raise ModelError(f"expected different axes, found {list(axes)}")
    return reduced(name, x, found, keepdims)


def reduced(name: str, x: Node, axes: tuple[int, ...], keepdims: bool) -> Node:
    """A reduction; of bools by way of small integers."""
    if x.type.dtype == "bool":
        small = emit(name, emit("cast", x, to="u8"), axes=axes, keepdims=keepdims)
        return emit("cast", small, to="bool")
    if name in OF_FLOATS and x.type.dtype[0] in "iu":
        # Of integers too, by the standard: computed in f64, and the fraction dropped.
        y = emit(name, emit("cast", x, to="f64"), axes=axes, keepdims=keepdims)
        return emit("cast", y, to=x.type.dtype)
    return emit(name, x, axes=axes, keepdims=keepdims)


def _reduce_computed(c: OnnxNode, name: str, keepdims: bool) -> Node:
    """Over axes that only data tell. Each axis is seen as two, what stays and what is reduced, one
    of which has size 1: then the axes to reduce over are known."""
    shape = c[0].type.shape
    rank, count = len(shape), known(prod(c[1].type.shape))
    if count == 0:
        axes = () if c.get_flag("noop_with_empty_axes", False) else tuple(range(rank))
        return reduced(name, c[0], axes, keepdims)

    def resolve(raw: Sequence[Expr]) -> list[Expr]:
        flags = axis_flags(raw, rank)
        stay = [select(flag, ONE, d) for flag, d in zip(flags, shape, strict=True)]
        gone = [select(flag, d, ONE) for flag, d in zip(flags, shape, strict=True)]
        kept = [pick(kept_places(flags), k, shape) for k in range(rank - len(raw))]
        return [*stay, *gone, *kept]

    sizes = c.sizes(1, "axes", resolve, least=0, example=range(count or 0), rank=rank) or ()
    stay, gone, kept = sizes[:rank], sizes[rank : 2 * rank], sizes[2 * rank :]
    pairs = tuple(d for pair in zip(stay, gone, strict=True) for d in pair)
    axes = tuple(range(1, 2 * rank, 2))
    out = reduced(name, emit("reshape", c[0], shape=pairs), axes, False)
    return out if keepdims else emit("reshape", out, shape=kept)


def _arg(name: str) -> Handler:
    def handler(c: OnnxNode) -> Node:
        return emit(
            name,
            c[0],
            axis=c.axis(0, c[0].type.rank),
            keepdims=c.get_flag("keepdims", True),
            select_last_index=c.get_flag("select_last_index", False),
        )

    return handler


def _softmax(name: str) -> Handler:
    return lambda c: along_axis(c, lambda x, axis: emit(name, x, axis=axis))


def along_axis(c: OnnxNode, fn: Callable[[Node, int], Node]) -> Node:
    """fn along `axis`; before opset 13 along all axes from `axis` on, seen as one."""
    x = c[0]
    if c.version >= 13:
        return fn(x, c.axis(-1, x.type.rank))
    axis = c.axis(1, x.type.rank) if x.type.rank else 0
    if axis == x.type.rank - 1:
        return fn(x, axis)
    rows, columns = prod(x.type.shape[:axis]), prod(x.type.shape[axis:])
    flat = emit("reshape", x, shape=(rows, columns))
    return emit("reshape", fn(flat, 1), shape=x.type.shape)


def hardmax(c: OnnxNode) -> Node:
    """1 at the first maximum along the axis, 0 elsewhere."""

    def one_at_maximum(x: Node, axis: int) -> Node:
        if x.type.shape[axis] is ZERO:
            return x
        shape = [ONE] * x.type.rank
        shape[axis] = x.type.shape[axis]
        positions = iota(x.type.shape[axis], x, axis)
        at = emit("arg_max", x, axis=axis, keepdims=True, select_last_index=False)
        here = emit("equal", at, emit("reshape", positions, shape=tuple(shape)))
        return emit("cast", here, to=x.type.dtype)

    return along_axis(c, one_at_maximum)


def _cumulative(name: str) -> Handler:
    """Along an axis that is an operand. One that only data tell: x is seen as [before, along,
    behind]."""

    def handler(c: OnnxNode) -> Node:
        x, shape, rank = c[0], c[0].type.shape, c[0].type.rank
        attrs = {k: c.get_flag(k, False) for k in ("exclusive", "reverse")}
        if c[1].op != "bind_dim" and known(prod(c[1].type.shape)) != 1:
            raise ModelError(f"expected one axis, found {type_text(c[1])}")
        if c.is_fixed(1):
            axis = check_axis((c.fixed(1, "the axis") or (0,))[0], rank)
            return emit(name, x, axis=axis, **attrs)

        def resolve(raw: Sequence[Expr]) -> list[Expr]:
            return around_axis(raw[0], shape, rank)

        sizes = c.sizes(1, "the axis", resolve, least=0, example=[0], rank=rank)
        lines = emit("reshape", c[0], shape=sizes or ())
        return emit("reshape", emit(name, lines, axis=1, **attrs), shape=shape)

    return handler


def layer_normalization(c: OnnxNode) -> Sequence[Node]:
    """(Y, and where asked for: the mean, 1 / standard deviation) over the axes from `axis` on."""
    x, rank = c[0], c[0].type.rank
    axis, epsilon = c.axis(-1, rank), c.get_float("epsilon", 1e-5)
    bias = c.find(2)
    operands = (x, c[1]) if bias is None else (x, c[1], bias)
    out = [emit("layer_normalization", *operands, axis=axis, epsilon=epsilon)]
    if c.wants(1) or c.wants(2):
        wide = emit("cast", x, to="f32") if x.type.dtype in ("f16", "bf16") else x
        mean, variance = moments(wide, tuple(range(axis, rank)))
        shifted = emit("add", variance, scalar(epsilon, variance))
        found = mean, emit("reciprocal", emit("sqrt", shifted))
        stash = "bf16" if c.get_int("stash_type", 1) == TensorProto.BFLOAT16 else "f32"
        out += [n if n.type.dtype == stash else emit("cast", n, to=stash) for n in found]
    return out


def rms_normalization(c: OnnxNode) -> Node:
    """x / sqrt(mean of squares + epsilon) · scale over the axes from `axis` on. Half floats are
    computed in f32 whatever `stash_type` says."""
    axis, epsilon = c.axis(-1, c[0].type.rank), c.get_float("epsilon", 1e-5)
    y = emit("rms_normalization", c[0], c[1], axis=axis, epsilon=epsilon)
    # The result has the type of the scale.
    return y if y.type.dtype == c[1].type.dtype else emit("cast", y, to=c[1].type.dtype)


def moments(x: Node, axes: tuple[int, ...]) -> tuple[Node, Node]:
    """Mean and variance over axes, which stay as dims of size 1."""
    mean = emit("reduce_mean", x, axes=axes, keepdims=True)
    apart = emit("sub", x, mean)
    return mean, emit("reduce_mean", emit("mul", apart, apart), axes=axes, keepdims=True)


def instance_normalization(c: OnnxNode) -> Node:
    """(x - mean) / sqrt(variance + epsilon) · scale + bias; statistics over the spatial axes."""
    x, rank = c[0], c[0].type.rank
    if rank < 3:
        raise ModelError(f"expected an operand [N, C, spatial…], found rank {rank}")
    x = emit("cast", x, to="f32") if x.type.dtype in ("f16", "bf16") else x
    mean, variance = moments(x, tuple(range(2, rank)))
    deviation = emit("sqrt", emit("add", variance, scalar(c.get_float("epsilon", 1e-5), x)))
    shape = (c[0].type.shape[1], *[ONE] * (rank - 2))
    scale, bias = (
        emit("reshape", emit("cast", c[k], to=x.type.dtype), shape=shape) for k in (1, 2)
    )
    factor = emit("div", scale, deviation)
    y = emit("add", emit("mul", emit("sub", x, mean), factor), bias)
    return y if c[0].type.dtype == x.type.dtype else emit("cast", y, to=c[0].type.dtype)


def lp_normalization(c: OnnxNode) -> Node:
    """x / its norm along the axis; 0 where the norm is 0."""
    x, p = c[0], c.get_int("p", 2)
    if p not in (1, 2):
        raise ModelError(f"attribute 'p': expected 1 or 2, found {p}")
    axes = (c.axis(-1, x.type.rank),)
    norm = emit("reduce_l1" if p == 1 else "reduce_l2", x, axes=axes, keepdims=True)
    zero = emit("equal", norm, scalar(0, norm))
    return emit("div", x, emit("where", zero, scalar(1, norm), norm))


MOST_CHANNELS = 256  # of a window of LRN; networks use 5


def local_response_normalization(c: OnnxNode) -> Node:
    """x / (bias + alpha / size · sum of squares over `size` neighbouring channels)^beta."""
    x, size = c[0], c.get_int("size", 0)
    if size < 1 or x.type.rank < 2:
        raise ModelError(f"expected size ≥ 1 and rank ≥ 2, found {size} and {x.type.rank}")
    if size > MOST_CHANNELS:  # the sum is written out
        raise Unsupported(f"a window of {size} channels", f"at most {MOST_CHANNELS}")
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    rank = x.type.rank
    pads = [Const(0)] * (2 * rank)
    pads[1], pads[rank + 1] = Const(before), Const(after)
    squares = emit("pad", emit("mul", x, x), pads=tuple(pads), mode="constant", value=0.0)
    total: Node | None = None
    for k in range(size):
        part = slice_axis(squares, 1, Const(k), x.type.shape[1])
        total = part if total is None else emit("add", total, part)
    assert total is not None
    alpha, beta = c.get_float("alpha", 1e-4), c.get_float("beta", 0.75)
    scaled = emit("mul", total, scalar(alpha / size, x))
    base = emit("add", scaled, scalar(c.get_float("bias", 1.0), x))
    return emit("div", x, emit("pow", base, scalar(beta, x)))


TABLE: dict[str, Handler] = {
    **{onnx: _reduction(name) for onnx, name in REDUCTIONS.items()},
    "ArgMax": _arg("arg_max"),
    "ArgMin": _arg("arg_min"),
    "CumProd": _cumulative("cumprod"),
    "CumSum": _cumulative("cumsum"),
    "Hardmax": hardmax,
    "InstanceNormalization": instance_normalization,
    "LRN": local_response_normalization,
    "LayerNormalization": layer_normalization,
    "LogSoftmax": _softmax("log_softmax"),
    "LpNormalization": lp_normalization,
    "RMSNormalization": rms_normalization,
    "Softmax": _softmax("softmax"),
}
