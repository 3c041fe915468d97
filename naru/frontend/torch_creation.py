"""ATen operators that make tensors of numbers: filled ones, ranges, places in a triangle.

What draws numbers at random is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from naru.dtypes import DTYPES
from naru.frontend.onnx_node import Unsupported, as_dtype, emit
from naru.frontend.torch_call import AtenCall, Handler, as_node
from naru.frontend.torch_movement import spaced
from naru.ir.expr import Expr
from naru.ir.graph import Node
from naru.ir.simplify import ONE, known, prod
from naru.ops.registry import constant


def filled(c: AtenCall, value: object) -> Node:
    """A number, or what a node or a size says, in the shape of the result."""
    dtype = c.type.dtype
    if isinstance(value, Node | Expr):
        number = as_node(value, dtype, c.sizes_of)
        return emit("expand", emit("reshape", number, shape=()), shape=c.shape)
    if known(prod(c.shape)) is not None and all(n is not None for n in map(known, c.shape)):
        assert isinstance(value, int | float)
        return emit("constant_of_shape", shape=c.shape, value=_plain(value, dtype), dtype=dtype)
    return emit("expand", as_node(value, dtype, c.sizes_of), shape=c.shape)


def _plain(value: float, dtype: str) -> float:
    kind = DTYPES[dtype].kind
    return bool(value) if kind == "b" else int(value) if kind in "iu" else float(value)


def full(c: AtenCall) -> Node:
    return filled(c, c.args["fill_value"])


def fill(c: AtenCall) -> Node:
    return filled(c, c.args["value"])


def _filled_with(value: int) -> Handler:
    """`empty` holds anything: here zeros."""
    return lambda c: filled(c, value)


def scalar_tensor(c: AtenCall) -> Node:
    return as_node(c.args["s"], c.type.dtype, c.sizes_of)


def arange(c: AtenCall) -> Node:
    """start, start + step, … below end; the length is PyTorch's."""
    start, step = c.value("start", 0), c.value("step", 1)
    dtype, (length,) = c.type.dtype, c.shape
    n = known(length)
    if n is not None and isinstance(start, int | float) and isinstance(step, int | float):
        # PyTorch computes in f64, or in i64, and rounds once.
        wide = np.float64 if dtype[0] in "fb" else np.int64
        values = np.asarray(start, wide) + np.arange(n).astype(wide) * np.asarray(step, wide)
        return constant(values, DTYPES[dtype].numpy)
    work = "f64" if dtype[0] in "fb" else "i64"
    first, by = (as_node(v, work, c.sizes_of) for v in (start, step))
    last = as_node(c.args["end"], work, c.sizes_of)
    return as_dtype(emit("range", first, last, by, length=length), dtype)


def eye(c: AtenCall) -> Node:
    rows, columns = c.shape
    lines = [emit("reshape", spaced(c, n, 1), shape=s)
             for n, s in ((rows, (rows, ONE)), (columns, (ONE, columns)))]  # fmt: skip
    return as_dtype(emit("equal", *lines), c.type.dtype)


def triangle_indices(upper: int) -> Handler:
    def handler(c: AtenCall) -> Node:
        rows, columns, offset = c.int("row"), c.int("col"), c.int("offset", 0)
        fn: Callable[..., tuple[np.ndarray, ...]] = np.triu_indices if upper else np.tril_indices
        places = np.stack(fn(rows, offset, columns))
        return as_dtype(constant(places, np.int64), c.type.dtype)

    return handler


def linspace(c: AtenCall) -> Node:
    """`steps` numbers from start to end, from both ends as PyTorch does."""
    start, end, steps = c.float("start"), c.float("end"), c.int("steps")
    if steps == 1:
        return constant([start], DTYPES[c.type.dtype].numpy)
    by = (end - start) / max(steps - 1, 1)
    k = np.arange(steps)
    values = np.where(k < steps // 2, start + by * k, end - by * (steps - 1 - k))
    if c.type.dtype[0] not in "fb":
        values = np.trunc(values)
    return constant(values, DTYPES[c.type.dtype].numpy)


def refuse_random(c: AtenCall) -> Node:
    raise Unsupported(
        "random numbers", "model.eval(), or draw them outside and pass them as an input"
    )


def _meshed(c: AtenCall) -> Sequence[Node]:
    """meshgrid: each vector along its axis, in the shape of all."""
    vectors = c.tensors("tensors")
    swap = c.value("indexing", "ij") == "xy" and len(vectors) > 1
    out: list[Node] = []
    for k, (x, t) in enumerate(zip(vectors, c.results, strict=True)):
        assert t is not None
        axis = {0: 1, 1: 0}.get(k, k) if swap else k
        shape = [ONE] * len(vectors)
        shape[axis] = prod(x.type.shape)
        out.append(emit("expand", emit("reshape", x, shape=tuple(shape)), shape=t.shape))
    return out


_RANDOM = (
    "bernoulli", "multinomial", "native_dropout", "normal", "normal_functional", "poisson", "rand",
    "rand_like", "randint", "randint_like", "randn", "randn_like", "randperm", "uniform",
    "exponential", "geometric", "cauchy", "log_normal", "rrelu_with_noise",
)  # fmt: skip
TABLE: dict[str, Handler] = {
    **dict.fromkeys(_RANDOM, refuse_random),
    "arange": arange,
    "empty": _filled_with(0),
    "empty_like": _filled_with(0),
    "empty_permuted": _filled_with(0),
    "empty_strided": _filled_with(0),
    "eye": eye,
    "fill": fill,
    "full": full,
    "full_like": full,
    "linspace": linspace,
    "meshgrid": _meshed,
    "new_empty": _filled_with(0),
    "new_empty_strided": _filled_with(0),
    "new_full": full,
    "new_ones": _filled_with(1),
    "new_zeros": _filled_with(0),
    "ones": _filled_with(1),
    "ones_like": _filled_with(1),
    "scalar_tensor": scalar_tensor,
    "tril_indices": triangle_indices(0),
    "triu_indices": triangle_indices(1),
    "zeros": _filled_with(0),
    "zeros_like": _filled_with(0),
}
