"""Random numbers: RandomNormal, RandomUniform, their Like forms, Multinomial, Bernoulli, Dropout.

With an attribute `seed` a node gives the same numbers at every call, those of
numpy.random.RandomState(seed): a fraction of the seed is cut off, as the standard's reference does;
one outside of 0..2**32-1 begins a stream with its bits. Without one, they begin with an input of
the model that callers may leave out (`ir.graph.SEED`), with the number of the node, and in bodies
of loops with that of the round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from naru.errors import ModelError
from naru.frontend.onnx_data import dtype_of
from naru.frontend.onnx_node import OnnxNode, as_dtype, as_scalar, emit, scalar
from naru.frontend.onnx_scope import Scope
from naru.frontend.onnx_shapes import filled, givers
from naru.frontend.onnx_signatures import Extension, Handler
from naru.ir.expr import Expr
from naru.ir.graph import (
    SEED,
    Attr,
    Node,
    TensorType,
    make_input,
)
from naru.ir.simplify import add, floordiv, index, mul, prod, sub
from naru.ops.random import DTYPES_DRAWN
from naru.ops.registry import constant

LARGEST_SEED = 2**32 - 1  # that RandomState takes as one number


# --- seeds ----------------------------------------------------------------------------------------


def find_key(c: OnnxNode, scope: Scope) -> Node:
    """i64[k]: what numbers in this scope begin with. A body gets that of its surroundings, and the
    number of the round behind it."""
    if scope.caller is not None:
        return find_key(c, scope.caller)
    if scope.outer is None:
        if c.importer.seed is None:
            c.importer.seed = make_input(SEED, TensorType("i64", ()))
        return emit("reshape", c.importer.seed, shape=(1,))
    outside = find_key(c, scope.outer)
    if scope.inline:
        return outside
    if scope.key is None:
        scope.key = scope.capture(SEED, outside)
        if scope.round is not None:
            scope.key = emit("concat", scope.key, emit("reshape", scope.round, shape=(1,)), axis=0)
    return scope.key


def draw(
    c: OnnxNode, op: str, shape: Sequence[Expr], dtype: str, seed: float | None, **attrs: Attr
) -> Node:
    """Numbers for this node; `attrs` are those of the op."""
    attrs |= {"shape": tuple(shape), "dtype": dtype}
    sizes = givers(shape, *(n for n in c.inputs if n is not None))
    if seed is None:
        c.importer.streams += 1
        return emit(op, find_key(c, c.scope), *sizes, stream=c.importer.streams, **attrs)
    if math.isfinite(seed) and 0 <= int(seed) <= LARGEST_SEED:
        return emit(op, *((None, *sizes) if sizes else ()), seed=int(seed), **attrs)
    bits = np.array([seed], np.int64 if isinstance(seed, int) else np.float64).view(np.int64)
    return emit(op, constant(bits, np.int64), *sizes, **attrs)


def _seed(c: OnnxNode) -> float | None:
    return c.get_float("seed", 0.0) if c.has("seed") else None


# --- RandomUniform, RandomNormal ------------------------------------------------------------------


def _attributes(c: OnnxNode, op: str) -> dict[str, Attr]:
    a, b = ("low", "high") if op == "random_uniform" else ("mean", "scale")
    return {a: c.get_float(a, 0.0), b: c.get_float(b, 1.0)}


def _dtype(c: OnnxNode, default: str) -> str:
    """The attribute `dtype`, which must be a float's."""
    number = c.get_int("dtype", 0) if c.has("dtype") else None
    dtype = default if number is None else dtype_of(number, "attribute 'dtype'")
    if dtype not in DTYPES_DRAWN:
        raise ModelError(f"expected one of {', '.join(DTYPES_DRAWN)} as dtype, found {dtype}")
    return dtype


def _with_shape(op: str) -> Handler:
    def handler(c: OnnxNode) -> Node:
        shape = c.get_ints("shape")
        if shape is None or any(n < 0 for n in shape):
            raise ModelError(f"attribute 'shape': expected sizes of at least 0, found {shape}")
        dims = [index(n) for n in shape]
        return draw(c, op, dims, _dtype(c, "f32"), _seed(c), **_attributes(c, op))

    return handler


def _like(op: str) -> Handler:
    def handler(c: OnnxNode) -> Node:
        """With the shape of x, and its dtype unless there is an attribute."""
        x = c[0]
        return draw(c, op, x.type.shape, _dtype(c, x.type.dtype), _seed(c), **_attributes(c, op))

    return handler


# --- what is made of uniform numbers --------------------------------------------------------------


def bernoulli(c: OnnxNode) -> Node:
    """1 with the probability x, else 0: in x's dtype or that of an attribute."""
    x = c[0]
    to = dtype_of(c.get_int("dtype", 0), "attribute 'dtype'") if c.has("dtype") else x.type.dtype
    u = draw(c, "random_uniform", x.type.shape, "f64", _seed(c), low=0.0, high=1.0)
    return emit("cast", emit("less", u, as_dtype(x, "f64")), to=to)


def multinomial(c: OnnxNode) -> Node:
    """x [rows, classes], logarithms of weights -> [rows, sample_size] classes, i32 or i64. A row
    without a sum (a NaN, infinite weights, none above 0) gives class 0."""
    x, count = c[0], c.get_int("sample_size", 1)
    if x.type.rank != 2:
        raise ModelError(f"expected an operand [rows, classes], found rank {x.type.rank}")
    if count < 0:
        raise ModelError(f"attribute 'sample_size': expected at least 0, found {count}")
    to = dtype_of(c.get_int("dtype", 6), "attribute 'dtype'")
    if to not in ("i32", "i64"):
        raise ModelError(f"attribute 'dtype': expected i32 or i64, found {to}")
    most = emit("reduce_max", x, axes=(1,), keepdims=True)
    weights = emit("exp", emit("sub", as_dtype(x, "f64"), as_dtype(most, "f64")))
    shape = (x.type.shape[0], index(count))
    u = draw(c, "random_uniform", shape, "f64", _seed(c), low=0.0, high=1.0)
    return emit("cast", emit("choose", emit("cumsum", weights, axis=1), u), to=to)


# --- Dropout --------------------------------------------------------------------------------------


def dropout(c: OnnxNode) -> Sequence[Node]:
    """In training, which operand 2 says (opset 12) or before opset 7 an attribute, each element is
    dropped with probability `ratio`, and the others are scaled by 1 / (1 - ratio). Else x itself,
    and a mask of true. The mask is of bools from opset 10 on, before of x's dtype."""
    x, training = c[0], c.find(2)
    if c.version < 7:
        # The default is training, but files that leave it out are meant for inference, and the
        # standard's reference takes them so.
        training = constant(c.has("is_test") and not c.get_flag("is_test", True), np.bool_)
    on = None if training is None else c.importer.constants.find(training)
    if training is None or (on is not None and not on.any()):
        masks = [filled(True, "bool", x.type.shape, x)] if c.wants(1) else []
        return [emit("identity", x), *(_as_mask(c, m) for m in masks)]
    y, mask = dropped(c, x, None if on is not None else training)
    return [y, _as_mask(c, mask)]


def _as_mask(c: OnnxNode, mask: Node) -> Node:
    return mask if c.version >= 10 else emit("cast", mask, to=c[0].type.dtype)


def dropped(c: OnnxNode, x: Node, training: Node | None) -> tuple[Node, Node]:
    """(x with elements dropped, the mask), where `training`, if given, is true."""
    ratio = c.find(1)
    if ratio is None:
        ratio = constant(c.get_float("ratio", 0.5), np.float64)
    ratio = as_dtype(as_scalar(ratio), "f64")
    seed = c.get_int("seed", 0) if c.has("seed") else None
    u = draw(c, "random_uniform", x.type.shape, "f64", seed, low=0.0, high=1.0)
    keep = emit("greater_or_equal", u, ratio)
    scale = emit("div", constant(1.0, np.float64), emit("sub", constant(1.0, np.float64), ratio))
    if training is not None:
        on = as_scalar(training)
        keep = emit("or", keep, emit("not", on))
        scale = emit("where", on, scale, constant(1.0, np.float64))
    wide = x.type.dtype if x.type.dtype in ("f32", "f64") else "f32"
    scaled = emit("mul", as_dtype(x, wide), as_dtype(scale, wide))
    y = emit("where", keep, scaled, scalar(0.0, scaled))
    return as_dtype(y, x.type.dtype), keep


def bias_dropout(c: OnnxNode) -> list[Node]:
    """Dropout of data + bias, and to that the residual."""
    data = emit("add", c[0], c[1])
    y, *mask = dropout(replace(c, version=22, inputs=(data, c.find(3), c.find(4))))
    return [y if c.find(2) is None else emit("add", y, c[2]), *mask]


def _bits(mask: Node) -> Node:
    """A mask as u32: element i is bit i % 32 of number i // 32; what is left over is 0."""
    count = prod(mask.type.shape)
    numbers = floordiv(add(count, 31), 32)
    flat = emit("reshape", emit("cast", mask, to="u32"), shape=(count,))
    full = emit("pad", flat, pads=(0, sub(mul(numbers, 32), count)), mode="constant")
    rows = emit("reshape", full, shape=(numbers, 32))
    places = constant(np.arange(32), np.uint32)
    return emit(
        "reduce_sum", emit("bit_shift", rows, places, direction="LEFT"), axes=(1,), keepdims=False
    )


def with_bits(handler: Handler) -> Handler:
    """The same with the mask in bits."""

    def packed(c: OnnxNode) -> list[Node]:
        made = handler(replace(c, version=22))
        y, *mask = made if isinstance(made, Sequence) else [made]
        return [y, *map(_bits, mask)] if c.wants(1) else [y]

    return packed


_DROPOUT = "ratio? training_mode? -> y mask?; seed"
MICROSOFT: Extension = {
    "BiasDropout": (f"data bias residual? {_DROPOUT}", bias_dropout),
    "BitmaskBiasDropout": (f"data bias residual? {_DROPOUT}", with_bits(bias_dropout)),
    "BitmaskDropout": (f"data {_DROPOUT}", with_bits(dropout)),
}
TABLE: dict[str, Handler] = {
    "Bernoulli": bernoulli,
    "Dropout": dropout,
    "Multinomial": multinomial,
    "RandomNormal": _with_shape("random_normal"),
    "RandomNormalLike": _like("random_normal"),
    "RandomUniform": _with_shape("random_uniform"),
    "RandomUniformLike": _like("random_uniform"),
}
