"""ATen reductions, softmax and what runs along an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

from naru.dtypes import is_float
from naru.errors import ModelError
from naru.frontend.onnx_node import Unsupported, as_dtype, emit, scalar
from naru.frontend.onnx_reductions import reduced
from naru.frontend.onnx_shapes import iota
from naru.frontend.torch_call import AtenCall, Handler, as_node, axis_slice
from naru.frontend.torch_elementwise import wide
from naru.ir.graph import Node
from naru.ir.simplify import ONE, ZERO, maximum, prod, sub


def _axes(c: AtenCall, rank: int) -> tuple[int, ...]:
    return c.axes("dim", rank)


def _sum(name: str) -> Handler:
    """A sum or product, in the dtype of the result: bools and small integers become i64."""

    def handler(c: AtenCall) -> Node:
        x = as_dtype(c["self"], c.type.dtype)
        return emit(name, x, axes=_axes(c, x.type.rank), keepdims=c.flag("keepdim"))

    return handler


def mean(c: AtenCall) -> Node:
    x = as_dtype(c["self"], c.type.dtype)
    return emit("reduce_mean", x, axes=_axes(c, x.type.rank), keepdims=c.flag("keepdim"))


def _extreme(name: str) -> Handler:
    """The extreme over axes (amax), over all (max), or along one with its position (max.dim)."""

    def handler(c: AtenCall) -> Node | Sequence[Node]:
        x = c["self"]
        axes = _axes(c, x.type.rank)
        if any(x.type.shape[k] is ZERO for k in axes):
            raise ModelError("expected elements to take the extreme of, found none")
        keepdims = c.flag("keepdim")
        values = reduced(f"reduce_{name}", x, axes, keepdims)
        if len(c.results) == 1:
            return values
        return values, _position(f"arg_{name}", x, c.axis("dim", x.type.rank), keepdims)

    return handler


def _position(name: str, x: Node, axis: int, keepdims: bool) -> Node:
    """The place of the first extreme along an axis."""
    if not x.type.rank:
        return emit("constant_of_shape", shape=(), value=0, dtype="i64")
    x = as_dtype(x, "u8") if x.type.dtype == "bool" else x
    return emit(name, x, axis=axis, keepdims=keepdims, select_last_index=False)


def other_extreme(name: str) -> Handler:
    """max and min have a form of two operands too."""
    one = _extreme(name)

    def handler(c: AtenCall) -> Node | Sequence[Node | None]:
        if "other" not in c.args:
            return one(c)
        a, b = c.promoted("self", "other")
        bools = {"max": "or", "min": "and"}[name]
        return c.finish(emit(bools if a.type.dtype == "bool" else name, a, b))

    return handler


def _arg(name: str) -> Handler:
    """The position of the extreme along an axis, or among all elements."""

    def handler(c: AtenCall) -> Node:
        x = c["self"]
        if c.has("dim"):
            return _position(name, x, c.axis("dim", x.type.rank), c.flag("keepdim"))
        flat = emit("reshape", x, shape=(prod(x.type.shape),))
        return emit("reshape", _position(name, flat, 0, False), shape=c.shape)

    return handler


def _logical(name: str) -> Handler:
    """any and all."""

    def handler(c: AtenCall) -> Node:
        x = as_dtype(c["self"], "bool")
        small = as_dtype(x, "u8")
        y = emit(name, small, axes=_axes(c, x.type.rank), keepdims=c.flag("keepdim"))
        return c.finish(as_dtype(y, "bool"))

    return handler


def count(c: AtenCall, x: Node, axes: Sequence[int], less: float) -> Node:
    """How many elements there are along axes, minus some, at least 0, in the dtype of x."""
    size = prod(x.type.shape[k] for k in axes)
    if float(less).is_integer():
        return as_node(maximum(sub(size, int(less)), 0), x.type.dtype, c.sizes_of)
    number = as_node(size, x.type.dtype, c.sizes_of)
    return emit("max", emit("sub", number, scalar(less, x)), scalar(0, x))


def spread(c: AtenCall) -> tuple[Node, Node]:
    """(variance, mean) over axes, with the correction of `correction` or `unbiased`."""
    x = wide(c["self"])
    axes, keepdims = _axes(c, x.type.rank), c.flag("keepdim")
    less = float(c.value("correction", 1))
    if c.args.get("unbiased") is False:
        less = 0.0
    mean_ = emit("reduce_mean", x, axes=axes, keepdims=True)
    apart = emit("sub", x, mean_)
    total = emit("reduce_sum", emit("mul", apart, apart), axes=axes, keepdims=keepdims)
    variance = emit("div", total, count(c, x, axes, less))
    if not keepdims:
        mean_ = emit("reshape", mean_, shape=variance.type.shape)
    return variance, mean_


def var(c: AtenCall) -> Node:
    return c.finish(spread(c)[0])


def std(c: AtenCall) -> Node:
    return c.finish(emit("sqrt", spread(c)[0]))


def var_mean(c: AtenCall) -> Sequence[Node]:
    variance, mean_ = spread(c)
    return c.finish(variance), c.finish(mean_, 1)


def std_mean(c: AtenCall) -> Sequence[Node]:
    variance, mean_ = spread(c)
    return c.finish(emit("sqrt", variance)), c.finish(mean_, 1)


def logsumexp(c: AtenCall) -> Node:
    x = as_dtype(c["self"], c.type.dtype)
    return emit("reduce_log_sum_exp", x, axes=_axes(c, x.type.rank), keepdims=c.flag("keepdim"))


def vector_norm(c: AtenCall) -> Node:
    """(sum of |x|^p)^(1/p); p may be infinite, or 0: then it counts what is not 0."""
    x = wide(as_dtype(c["self"], c.dtype_of("dtype") or c["self"].type.dtype))
    p = c.float("ord" if "ord" in c.args else "p", 2.0)
    axes, keepdims = _axes(c, x.type.rank), c.flag("keepdim")
    size = emit("abs", x)
    if math.isinf(p):
        out = emit("reduce_max" if p > 0 else "reduce_min", size, axes=axes, keepdims=keepdims)
        return c.finish(out)
    if p == 0:
        size = as_dtype(emit("not", emit("equal", x, scalar(0, x))), x.type.dtype)
    elif p == 2:
        size = emit("mul", x, x)
    elif p != 1:
        size = emit("pow", size, scalar(p, x))
    total = emit("reduce_sum", size, axes=axes, keepdims=keepdims)
    if p == 2:
        total = emit("sqrt", total)
    elif p not in (0, 1):
        total = emit("pow", total, scalar(1 / p, x))
    return c.finish(total)


def _softmax(name: str) -> Handler:
    """Along an axis, in the dtype of the result, or that which is asked for."""

    def handler(c: AtenCall) -> Node:
        x = as_dtype(c["self"], c.type.dtype)
        if not x.type.rank:
            line = emit("reshape", x, shape=(ONE,))
            return emit("reshape", emit(name, line, axis=0), shape=())
        return emit(name, x, axis=c.axis("dim", x.type.rank))

    return handler


def safe_softmax(c: AtenCall) -> Node:
    """The softmax, 0 along rows of which all is minus infinity."""
    x = as_dtype(c["self"], c.type.dtype)
    axis = c.axis("dim", x.type.rank)
    top = emit("reduce_max", x, axes=(axis,), keepdims=True)
    none = emit("equal", top, scalar(-math.inf, x))
    return emit("where", none, scalar(0, x), emit("softmax", x, axis=axis))


def _cumulative(name: str) -> Handler:
    def handler(c: AtenCall) -> Node:
        x = as_dtype(c["self"], c.type.dtype)
        if not x.type.rank:
            return x
        return emit(name, x, axis=c.axis("dim", x.type.rank), exclusive=False, reverse=False)

    return handler


MOST_STEPS = 4096  # of a running extreme along an axis


def _running_extreme(name: str) -> Handler:
    """cummax and cummin by doubling: after step k each element knows 2^k before it. The places are
    those of the last element that is no worse."""

    def handler(c: AtenCall) -> Sequence[Node]:
        x = c["self"]
        if not x.type.rank:
            return x, emit("constant_of_shape", shape=(), value=0, dtype="i64")
        axis = c.axis("dim", x.type.rank)
        size = known_size(x, axis, "cummax and cummin")
        values = as_dtype(x, "i32") if x.type.dtype == "bool" else x
        shape = [1] * x.type.rank
        shape[axis] = size
        line = emit("reshape", iota(x.type.shape[axis], x, axis), shape=tuple(shape))
        where = emit("expand", line, shape=x.type.shape)
        reach = 1
        while reach < size:
            before, place = (_shifted(n, axis, size, reach) for n in (values, where))
            better = "greater" if name == "max" else "less"
            worse = emit(better, before, values)  # what stands before wins only if it is better
            if is_float(values.type.dtype):
                lost = emit("isnan", before)
                worse = emit("and", emit("or", worse, lost), emit("not", emit("isnan", values)))
            values = emit("where", worse, before, values)
            where = emit("where", worse, place, where)
            reach *= 2
        return as_dtype(values, x.type.dtype), where

    return handler


def known_size(x: Node, axis: int, what: str) -> int:
    """The size of an axis that is written out. Raises Unsupported."""
    size = getattr(x.type.shape[axis], "value", None)
    if size is None or int(size) > MOST_STEPS:
        raise Unsupported(f"{what} along an axis of unknown size, or of more than {MOST_STEPS}")
    return int(size)


def _shifted(x: Node, axis: int, size: int, by: int) -> Node:
    """Element k is element k - by; the first ones are themselves."""
    first = _cut(x, axis, 0, by)
    return emit("concat", first, _cut(x, axis, 0, size - by), axis=axis)


def _cut(x: Node, axis: int, start: int, end: int) -> Node:
    return axis_slice(x, axis, start, end)


def nan_sum(c: AtenCall) -> Node:
    x = as_dtype(c["self"], c.type.dtype)
    if is_float(x.type.dtype):
        x = emit("where", emit("isnan", x), scalar(0, x), x)
    return emit("reduce_sum", x, axes=_axes(c, x.type.rank), keepdims=c.flag("keepdim"))


TABLE: dict[str, Handler] = {
    "_log_softmax": _softmax("log_softmax"),
    "_safe_softmax": safe_softmax,
    "_softmax": _softmax("softmax"),
    "all": _logical("reduce_min"),
    "amax": _extreme("max"),
    "amin": _extreme("min"),
    "any": _logical("reduce_max"),
    "argmax": _arg("arg_max"),
    "argmin": _arg("arg_min"),
    "cummax": _running_extreme("max"),
    "cummin": _running_extreme("min"),
    "cumprod": _cumulative("cumprod"),
    "cumsum": _cumulative("cumsum"),
    "linalg_vector_norm": vector_norm,
    "log_softmax": _softmax("log_softmax"),
    "logsumexp": logsumexp,
    "max": other_extreme("max"),
    "mean": mean,
    "min": other_extreme("min"),
    "nansum": nan_sum,
    "prod": _sum("reduce_prod"),
    "softmax": _softmax("softmax"),
    "special_log_softmax": _softmax("log_softmax"),
    "special_softmax": _softmax("softmax"),
    "std": std,
    "std_mean": std_mean,
    "sum": _sum("reduce_sum"),
    "var": var,
    "var_mean": var_mean,
}
