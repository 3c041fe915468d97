"""Operators of ai.onnx.ml on numbers: features, labels, linear models.

Where the standard is silent, they do what ONNX Runtime does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from naru.dtypes import DTYPES
from naru.errors import ModelError
from naru.frontend.onnx_movement import slice_axis
from naru.frontend.onnx_node import OnnxNode, Unsupported, emit, scalar
from naru.frontend.onnx_scores import (
    TRANSFORMS,
    as_f32,
    choose,
    class_labels,
    first_greatest,
    label_at,
    negative,
    opposite,
    rows_of,
    transform,
)
from naru.frontend.onnx_shapes import needing
from naru.frontend.onnx_signatures import Handler
from naru.ir.expr import Const, Expr
from naru.ir.graph import Node
from naru.ir.simplify import ONE, ZERO, compare, known, minimum, prod, sub
from naru.ops.registry import constant

Array = np.ndarray
SPARSEST = 8  # numbers for each key, up to which a table of all of them is made
_UNUSED = "_Unused"  # what the standard gives for a text that is no key


# --- features -------------------------------------------------------------------------------------


def array_feature_extractor(c: OnnxNode) -> Node:
    """x[..., y]; a row for x of rank 1."""
    x, at = c[0], c[1]
    if not x.type.rank:
        raise ModelError("expected an operand of rank 1 or more, found a scalar")
    flat = emit("reshape", at, shape=(count_of(at),)) if at.type.rank != 1 else at
    x = rows_of(x) if x.type.rank == 1 else x
    return emit("gather", x, flat, axis=x.type.rank - 1)


def count_of(x: Node) -> Expr:
    return prod(x.type.shape)


def binarizer(c: OnnxNode) -> Node:
    above = emit("greater", c[0], scalar_of(c.get_float("threshold", 0.0), c[0]))
    return emit("cast", above, to=c[0].type.dtype)


def scalar_of(value: float, x: Node) -> Node:
    """A threshold in the dtype of x. Of integers, those above a fraction are above its floor."""
    return scalar(value if DTYPES[x.type.dtype].kind == "f" else math.floor(value), x)


def feature_vectorizer(c: OnnxNode) -> Node:
    """Columns side by side, in f32. `inputdimensions`: an operand's columns behind that many are
    left out, and zeros take the place of those that are missing."""
    xs = [emit("cast", rows_of(x), to="f32") for x in c.operands()]
    sizes = c.get_ints("inputdimensions")
    if sizes is None:
        return emit("concat", *xs, axis=1) if len(xs) > 1 else xs[0]
    if len(sizes) != len(xs) or min(sizes) < 0:
        raise ModelError(
            f"attribute 'inputdimensions': expected {len(xs)} sizes, found {list(sizes)}"
        )
    parts: list[Node] = []
    for x, size in zip(xs, sizes, strict=True):
        columns = x.type.shape[1]
        fits = minimum(columns, size)
        part = x if fits is columns else slice_axis(x, 1, ZERO, fits)
        rest = sub(Const(size), fits)
        if known(rest) != 0:
            pads = (ZERO, ZERO, ZERO, rest)
            part = emit("pad", part, pads=pads, mode="constant", value=0.0)
        parts.append(part)
    return emit("concat", *parts, axis=1) if len(parts) > 1 else parts[0]


def imputer(c: OnnxNode) -> Node:
    """Values (one, or one a feature) in the place of one that stands for a missing value."""
    x = c[0]
    if DTYPES[x.type.dtype].kind == "f":
        values: list[float] = list(c.get_floats("imputed_value_floats"))
        old: float = c.get_float("replaced_value_float", 0.0)
    else:
        values = list(c.get_ints("imputed_value_int64s") or ())
        old = c.get_int("replaced_value_int64", 0)
    features = known(x.type.shape[-1]) if x.type.rank else None
    if not x.type.rank or not values:
        raise ModelError("expected an operand with features, and values to impute")
    if len(values) not in (1, features) and features is not None:
        values = values[:1]
    new = constant(values if len(values) > 1 else values[0], DTYPES[x.type.dtype].numpy)
    if old != old:
        return emit("where", emit("isnan", x), new, x)
    return emit("where", emit("equal", x, scalar(old, x)), new, x)


def normalizer(c: OnnxNode) -> Node:
    """Rows divided by their maximum, the sum of magnitudes, or the root of the sum of squares; left
    alone where that is 0. L2 keeps the sign of each element."""
    x, norm = c[0], c.get_str("norm", "MAX", ("MAX", "L1", "L2"))
    if x.type.rank not in (1, 2):
        raise ModelError(f"expected an operand [N, C] or [C], found rank {x.type.rank}")
    x = as_f32(x)
    name = {"MAX": "reduce_max", "L1": "reduce_l1", "L2": "reduce_l2"}[norm]
    size = emit(name, x, axes=(x.type.rank - 1,), keepdims=True)
    zero = emit("equal", size, scalar(0, x))
    return emit("div", x, emit("where", zero, scalar(1, x), size))


def one_hot_encoder(c: OnnxNode) -> Node:
    """[..., categories]: 1 where the element, as an integer, is the category. Without `zeros` every
    element must be one of them."""
    cats = c.get_ints("cats_int64s") or c.get_texts("cats_strings") or ()
    if not cats:
        raise ModelError("expected categories in 'cats_int64s' or 'cats_strings', found none")
    x = emit("cast", c[0], to="i64") if c[0].type.dtype != "i64" else c[0]
    last = {cat: k for k, cat in enumerate(cats)}
    kept = np.array([last[cat] == k for k, cat in enumerate(cats)])
    wide = emit("reshape", x, shape=(*x.type.shape, ONE))
    same = emit("equal", wide, constant(list(cats), np.int64))
    if not kept.all():
        same = emit("and", same, constant(kept, np.bool_))
    out = emit("cast", same, to="f32")
    return out if c.get_flag("zeros", True) else _all_known(c, out)


def _all_known(c: OnnxNode, out: Node) -> Node:
    """Rows of one 1 each: one that has none fails the call."""
    axes = tuple(range(out.type.rank))
    found = emit("reduce_sum", emit("cast", out, to="i64"), axes=axes, keepdims=False)
    rows = emit("size", c[0])
    symbol = c.importer.symbols.fresh(f"{c.outputs[0] or 'one_hot'}_unknown")
    bound = emit("bind_dim", emit("sub", rows, found), symbols=(symbol,))
    held = emit("with_sizes", out, bound)
    return needing(held, (compare("eq", symbol, 0),), "elements that are no category")


def scaler(c: OnnxNode) -> Node:
    """(x - offset) · scale, in f32; one of each for all, or one a feature."""
    x = as_f32(c[0])
    offset, scale = c.get_floats("offset"), c.get_floats("scale")
    features = known(x.type.shape[-1]) if x.type.rank else 1
    for name, given in (("offset", offset), ("scale", scale)):
        if not given or (len(given) != 1 and features is not None and len(given) != features):
            raise ModelError(
                f"attribute {name!r}: expected 1 or {features} numbers, found {len(given)}"
            )
    return emit("mul", emit("sub", x, _row(offset)), _row(scale))


def _row(values: Sequence[float]) -> Node:
    return constant(values[0] if len(values) == 1 else list(values))


# --- labels ---------------------------------------------------------------------------------------


def label_encoder(c: OnnxNode) -> Node:
    """Values for keys; the default for what is no key. From version 4 on NaN is a key as others
    are, and the last of equal keys counts; before that, the first."""
    x = c[0]
    if c.version < 2:
        classes = np.array(c.get_texts("classes_strings") or (), np.int64)
        return _mapped(c, x, np.arange(len(classes)), classes)
    keys, values = _pairs(c, "keys"), _pairs(c, "values")
    if keys.size != values.size or not keys.size:
        raise ModelError(f"expected as many keys as values, found {keys.size} and {values.size}")
    if keys.dtype != DTYPES[x.type.dtype].numpy:
        raise ModelError(f"expected keys of {x.type.dtype}, found {keys.dtype}")
    if keys.dtype.kind == "i":
        low, high = int(keys.min()) - 1, int(keys.max()) + 1
        limits = np.iinfo(keys.dtype)
        if limits.min <= low and high <= limits.max and high - low <= SPARSEST * keys.size:
            return _near_keys(c, x, keys, values, low, high)
    wide = emit("reshape", x, shape=(*x.type.shape, ONE))
    same = emit("equal", wide, constant(keys, keys.dtype))
    nans = np.isnan(keys) if keys.dtype.kind == "f" else np.zeros(keys.size, np.bool_)
    if c.version >= 4 and nans.any():
        both = emit("and", emit("isnan", wide), constant(nans, np.bool_))
        same = emit("or", same, both)
    # Where a key is, counted from 1; 0 where it is not.
    order = np.arange(1, keys.size + 1)
    order = order if c.version >= 4 else order[::-1].copy()
    places = emit("where", same, constant(order, np.int64), constant(0, np.int64))
    place = emit("reduce_max", places, axes=(x.type.rank,), keepdims=False)
    listed = values if c.version >= 4 else values[::-1]
    return _found(values.dtype, _default(c, values.dtype), listed, place)


def _found(dtype: np.dtype, default: Any, values: Array, place: Node) -> Node:
    """The value of a place counted from 1; the default at 0."""
    table = np.concatenate([[default], values]).astype(dtype)
    return emit("gather", constant(table, table.dtype), place, axis=0)


def category_mapper(c: OnnxNode) -> Node:
    """Numbers for texts, or texts for numbers, as the pairs of two attributes say."""
    numbers = np.array(c.get_ints("cats_int64s") or (), np.int64)
    texts = np.array(c.get_texts("cats_strings") or (), np.int64)
    if numbers.size != texts.size or not numbers.size:
        raise ModelError(
            f"expected as many cats_int64s as cats_strings, found {numbers.size} and {texts.size}"
        )
    return _mapped(c, c[0], numbers, texts)


def _mapped(c: OnnxNode, x: Node, numbers: Array, texts: Array) -> Node:
    """Numbers to texts where the result is one of texts, else texts to numbers; the first of equal
    keys counts."""
    if c.is_text(c.outputs[0]):
        keys, values, default = numbers, texts, c.text_number(c.get_str("default_string", _UNUSED))
    else:
        keys, values, default = texts, numbers, c.get_int("default_int64", -1)
    wide = emit("reshape", x, shape=(*x.type.shape, ONE))
    same = emit("equal", wide, constant(keys, np.int64))
    order = np.arange(1, keys.size + 1)[::-1].copy()
    places = emit("where", same, constant(order, np.int64), constant(0, np.int64))
    place = emit("reduce_max", places, axes=(x.type.rank,), keepdims=False)
    return _found(np.dtype(np.int64), default, values[::-1], place)


def _near_keys(
    c: OnnxNode, x: Node, keys: np.ndarray, values: np.ndarray, low: int, high: int
) -> Node:
    """Values for integer keys that lie close together, between low and high: from a table of all
    numbers there, whose first and last element stand for what is outside."""
    table = np.full(high - low + 1, _default(c, values.dtype), values.dtype)
    order = 1 if c.version >= 4 else -1  # the last assignment counts
    for key, value in zip(keys[::order].tolist(), values[::order].tolist(), strict=True):
        table[key - low] = value
    least, most = constant(low, keys.dtype), constant(high, keys.dtype)
    inside = emit("min", emit("max", x, least), most)
    return emit("gather", constant(table, table.dtype), emit("sub", inside, least), axis=0)


def _default(c: OnnxNode, dtype: np.dtype) -> Any:
    """What stands for elements that are no key."""
    if c.has("default_tensor"):
        t = c.attrs["default_tensor"].t
        found = c.importer.tensors.read(t, f"{c.label}, attribute 'default_tensor'").reshape(-1)
        if found.size == 1:
            return found[0]
        raise ModelError(f"attribute 'default_tensor': expected 1 element, found {found.size}")
    if c.is_text(c.outputs[0]):
        return c.text_number(c.get_str("default_string", _UNUSED))
    if dtype.kind == "f":
        return c.get_float("default_float", -0.0)
    return c.get_int("default_int64", -1)


def _pairs(c: OnnxNode, what: str) -> Array:
    """Keys, or values, from the attribute that is there."""
    texts = c.get_texts(f"{what}_strings")
    if texts:
        return np.array(texts, np.int64)
    if c.has(f"{what}_tensor"):
        t = c.attrs[f"{what}_tensor"].t
        return c.importer.tensors.read(t, f"{c.label}, attribute '{what}_tensor'").reshape(-1)
    whole = c.get_ints(f"{what}_int64s")
    if whole is not None:
        return np.array(whole, np.int64)
    if c.has(f"{what}_floats"):
        return np.array(c.get_floats(f"{what}_floats"), np.float32)
    raise ModelError(f"expected one of {what}_int64s, {what}_floats or {what}_tensor")


# --- linear models --------------------------------------------------------------------------------


def linear_scores(c: OnnxNode, count: int) -> Node:
    """x · coefficients + intercepts: [N, count] in f32."""
    x = as_f32(rows_of(c[0]))
    weights = np.array(c.get_floats("coefficients"), np.float32)
    if count < 1 or not weights.size or weights.size % count:
        raise ModelError(f"expected coefficients of {count} targets, found {weights.size}")
    weights = weights.reshape(count, -1)
    found = known(x.type.shape[1])
    if found not in (None, weights.shape[1]):
        raise ModelError(f"expected {found} coefficients a target, found {weights.shape[1]}")
    out = emit("matmul", x, constant(weights.T.copy()))
    intercepts = c.get_floats("intercepts")
    if not intercepts:
        return out
    if len(intercepts) != count:
        raise ModelError(f"expected {count} intercepts, found {len(intercepts)}")
    return emit("add", out, constant(list(intercepts)))


def linear_regressor(c: OnnxNode) -> Node:
    post = c.get_str("post_transform", "NONE", TRANSFORMS)
    return transform(linear_scores(c, c.get_int("targets", 1)), post)


def linear_classifier(c: OnnxNode) -> Sequence[Node]:
    labels = class_labels(c, "classlabels_ints", "classlabels_strings")
    return classify_linear(c, labels)


def classify_linear(c: OnnxNode, labels: Sequence[int]) -> Sequence[Node]:
    """(label of each row, scores). There are as many classes as intercepts; a model of one score
    has two labels, and its first score is 1 minus the second."""
    post = c.get_str("post_transform", "NONE", TRANSFORMS)
    count = len(c.get_floats("intercepts")) or len(labels)
    scores = linear_scores(c, count)
    rows = (scores.type.shape[0],)
    if count > 1:
        if len(labels) < count:
            raise ModelError(f"expected {count} labels, found {len(labels)}")
        return label_at(first_greatest(scores), labels), transform(scores, post)
    names = labels if len(labels) == 2 else (0, 1)
    label = choose(emit("reshape", emit("greater", scores, scalar(0, scores)), shape=rows), names)
    if len(labels) != 2:
        return label, transform(scores, post)
    if post == "PROBIT":
        raise Unsupported("PROBIT of a single score of two classes")
    return label, negative(scores, post) if post == "LOGISTIC" else opposite(scores)


TABLE: dict[str, Handler] = {
    "ArrayFeatureExtractor": array_feature_extractor,
    "Binarizer": binarizer,
    "FeatureVectorizer": feature_vectorizer,
    "Imputer": imputer,
    "LabelEncoder": label_encoder,
    "CategoryMapper": category_mapper,
    "LinearClassifier": linear_classifier,
    "LinearRegressor": linear_regressor,
    "Normalizer": normalizer,
    "OneHotEncoder": one_hot_encoder,
    "Scaler": scaler,
}
