"""Quantised numbers, operators with bodies, ngrams, optimisers, and the domain ai.onnx.ml."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from naru.dtypes import DTYPES

from .draw import Draw, Operation, value_info

Strategy = Callable[[Draw], Operation]


def _i64(values: object) -> Any:
    return np.array(values, np.int64)


# ---- quantised numbers ----


def quantize(d: Draw) -> Operation:
    """QuantizeLinear, DequantizeLinear: a tensor, an axis, or blocks."""
    shape = tuple(max(n, 1) for n in d.shape(1, 4, 9))
    axis = d.axis(len(shape))
    kind = d.pick(("tensor", "axis", "blocks")) if d.version >= 13 else "tensor"
    attrs: dict[str, Any] = {}
    scale_shape: tuple[int, ...] = ()
    if kind != "tensor":
        attrs["axis"] = axis
        scale_shape = (shape[axis],)
    if kind == "blocks" and d.version >= 21:
        block = d.int(1, 4)
        parts = d.int(1, 4)
        at = axis % len(shape)
        shape = (*shape[:at], block * parts, *shape[at + 1 :])
        scale_shape = (*shape[:at], parts, *shape[at + 1 :])
        attrs["block_size"] = block
    integer = d.result(0) if d.name == "QuantizeLinear" else d.dtype(0)
    if d.name == "QuantizeLinear":
        x = d.input(0, shape, low=-4.0, high=9.0, wild=d.chance(0.3))
        zero_dtype = d.dtype(2) if len(d.schema.inputs) > 2 else integer
    else:
        zero_dtype = integer
        x = d.array(integer, shape, *_range_of(integer))
    scale = d.array(d.dtype(1), scale_shape, 0.05, 0.3)
    zero = None
    if d.chance(0.7) or zero_dtype not in ("u8",):
        low, high = _range_of(zero_dtype)
        zero = d.array(zero_dtype, scale_shape, low / 2, high / 2)
        if DTYPES[zero_dtype].kind == "f" or zero_dtype == "i32":
            zero = np.zeros_like(zero)
    return Operation([x, scale, zero], attrs, operands=[2], ulps=2)


def _range_of(dtype: str) -> tuple[float, float]:
    kind, bits = DTYPES[dtype].kind, DTYPES[dtype].bits
    if kind == "f":
        return -2.0, 2.0
    most = 2 ** min(bits - (kind == "i"), 8) - 1
    return (-most if kind == "i" else 0), most


def dynamic_quantize(d: Draw) -> Operation:
    shape = tuple(max(n, 1) for n in d.shape(1, 3))
    return Operation([d.input(0, shape)], outputs=3, ulps=4)


# ---- operators with bodies ----


def if_(d: Draw) -> Operation:
    a, b = d.array("f32", (2, 3)), d.array("f32", (2, 3))
    branches = {
        name: helper.make_graph(
            [helper.make_node("Constant", [], ["t"], value=helper.make_tensor(
                "v", TensorProto.FLOAT, value.shape, value.ravel().tolist())),
             helper.make_node(d.pick(("Neg", "Abs", "Relu")), ["t"], ["r"])],
            name, [], [value_info("r", value)])
        for name, value in (("then_branch", a), ("else_branch", b))
    }  # fmt: skip
    return Operation([np.array(d.chance(0.5))], branches)


def loop(d: Draw) -> Operation:
    x = d.array("f32", tuple(max(n, 1) for n in d.shape(1, 2)))
    limit = np.float32(d.rng.uniform(1, 30))
    nodes = [
        helper.make_node("Add", ["v", "v"], ["next"]),
        helper.make_node("Constant", [], ["most"], value=helper.make_tensor(
            "m", TensorProto.FLOAT, [], [float(limit)])),
        helper.make_node("ReduceMax", ["next"], ["top"], keepdims=0),
        helper.make_node("Less", ["top", "most"], ["goes"]),
        helper.make_node("Identity", ["next"], ["row"]),
    ]  # fmt: skip
    inputs = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        value_info("v", x),
    ]
    goes = helper.make_tensor_value_info("goes", TensorProto.BOOL, [])
    outputs = [goes, value_info("next", x), value_info("row", x)]
    body = helper.make_graph(nodes, "body", inputs, outputs)
    trip = _i64(d.int(0, 6)) if d.chance(0.8) or x.max() <= 0 else None
    cond = np.array(d.chance(0.9)) if d.chance(0.7) else None
    return Operation([trip, cond, x], {"body": body}, outputs=2)


def scan(d: Draw) -> Operation:
    width = d.int(1, 5)
    state, rows = d.array("f32", (width,)), d.array("f32", (d.int(1, 6), width))
    nodes = [
        helper.make_node(d.pick(("Add", "Mul", "Max")), ["s", "r"], ["next"]),
        helper.make_node("Tanh", ["next"], ["out"]),
    ]
    body = helper.make_graph(
        nodes, "body", [value_info("s", state), value_info("r", state)],
        [value_info("next", state), value_info("out", state)],
    )  # fmt: skip
    attrs: dict[str, Any] = {"body": body, "num_scan_inputs": 1}
    if d.version < 9:
        operands: list[Any] = [None, state[None], rows[None]]
        return Operation(operands, attrs, outputs=2, ulps=64, sums=True)
    if d.chance(0.4):
        attrs["scan_input_directions"] = [d.int(0, 1)]
    if d.chance(0.4):
        attrs["scan_output_directions"] = [d.int(0, 1)]
    return Operation([state, rows], attrs, outputs=2, ulps=64, sums=True)


def ngrams(d: Draw) -> Operation:
    most = d.int(1, 3)
    pools: list[int] = []
    counts: list[int] = []
    indices: list[int] = []
    for n in range(1, most + 1):
        counts.append(len(pools))
        many = d.int(1, 4)
        seen: set[tuple[int, ...]] = set()
        for _ in range(many):
            gram = tuple(d.int(0, 4) for _ in range(n))
            if gram not in seen:
                seen.add(gram)
                pools += gram
                indices.append(len(indices))
    attrs = {
        "mode": d.pick(("TF", "IDF", "TFIDF")), "min_gram_length": d.int(1, most),
        "max_gram_length": most, "max_skip_count": d.int(0, 3), "pool_int64s": pools,
        "ngram_counts": counts, "ngram_indexes": indices,
        "weights": [d.real(0.1, 2) for _ in indices],
    }  # fmt: skip
    shape = (d.int(1, 12),) if d.chance(0.5) else (d.int(1, 3), d.int(1, 12))
    return Operation([d.array(d.pick(("i32", "i64")), shape, 0, 5)], attrs)


def optimizer(d: Draw) -> Operation:
    shape = tuple(max(n, 1) for n in d.shape(0, 2))
    dtype = d.dtype(2)
    rate, step = d.array(d.dtype(0), (), 0.01, 0.5), np.array(d.int(0, 9), np.int64)
    x, g = d.array(dtype, shape), d.array(dtype, shape)
    more = [d.array(dtype, shape, 0.0, 2.0) for _ in range(2 if d.name == "Adam" else 1)]
    attrs: dict[str, Any] = {"norm_coefficient": d.real(0, 0.1)}
    if d.name == "Momentum":
        attrs |= {"alpha": d.real(0.5, 0.95), "beta": d.real(0.5, 1.0),
                  "mode": d.pick(("standard", "nesterov"))}  # fmt: skip
    return Operation([rate, step, x, g, *more], attrs, outputs=1 + len(more), ulps=64, sums=True)


# ---- ai.onnx.ml ----


def _rows(d: Draw) -> tuple[int, int]:
    return d.int(1, 9), d.int(1, 7)


def ml_features(d: Draw) -> Operation:
    n, c = _rows(d)
    if d.name == "ArrayFeatureExtractor":
        x = d.input(0, (n, c) if d.chance(0.7) else (c,))
        return Operation([x, _i64([[d.int(0, c - 1) for _ in range(d.int(1, 4))]])])
    if d.name == "Binarizer":
        return Operation([d.input(0, (n, c))], d.only(threshold=d.real(-2, 2)))
    if d.name == "FeatureVectorizer":
        widths = [d.int(1, 4) for _ in range(d.int(1, 3))]
        return Operation([d.input(0, (n, w)) for w in widths], {"inputdimensions": widths})
    x = d.input(0, (n, c))
    if d.name == "Imputer":
        many = c if d.chance(0.5) else 1
        if DTYPES[d.dtype(0)].kind == "f":
            x = np.where(d.rng.random(x.shape) < 0.3, np.nan, x).astype(x.dtype)
            return Operation([x], {"imputed_value_floats": [d.real(-1, 1) for _ in range(many)],
                                   "replaced_value_float": float("nan")})  # fmt: skip
        return Operation([x], {"imputed_value_int64s": [d.int(-9, 9) for _ in range(many)],
                               "replaced_value_int64": 2})  # fmt: skip
    if d.name == "Normalizer":
        return Operation([x], {"norm": d.pick(("MAX", "L1", "L2"))}, ulps=32, sums=True)
    if d.name == "OneHotEncoder":
        return Operation([d.input(0, (n,), low=0, high=4)],
                         {"cats_int64s": [0, 1, 2, 3, 4][: d.int(3, 5)], "zeros": 1})  # fmt: skip
    many = c if d.chance(0.5) else 1
    return Operation([x], {"offset": [d.real(-1, 1) for _ in range(many)],
                           "scale": [d.real(-2, 2) for _ in range(many)]}, sums=True)  # fmt: skip


def label_encoder(d: Draw) -> Operation:
    keys, values = d.pick((("int64s", "floats"), ("floats", "int64s"), ("int64s", "int64s"),
                           ("floats", "floats")))  # fmt: skip
    if d.version < 2:
        keys, values = "int64s", "floats"
    many = d.int(1, 6)
    attrs: dict[str, Any] = {
        f"keys_{keys}": [int(k) if keys == "int64s" else float(k) for k in range(many)],
        f"values_{values}": [d.int(-9, 9) if values == "int64s" else d.real(-2, 2)
                             for _ in range(many)],
    }  # fmt: skip
    if d.chance(0.6):
        attrs[f"default_{values[:-1]}"] = -3 if values == "int64s" else -3.5
    dtype = "i64" if keys == "int64s" else "f32"
    x = np.round(d.array(dtype, d.shape(1, 2), -1, 7)).astype(DTYPES[dtype].numpy)
    return Operation([x], attrs)


def linear(d: Draw) -> Operation:
    n, c = _rows(d)
    x = d.input(0, (n, c))
    if d.name == "LinearRegressor":
        targets = d.int(1, 3)
        attrs: dict[str, Any] = {"targets": targets}
        attrs["coefficients"] = [d.real(-1, 1) for _ in range(targets * c)]
        if d.chance(0.6):
            attrs["intercepts"] = [d.real(-1, 1) for _ in range(targets)]
        return Operation([x], attrs, ulps=128, sums=True)
    classes = d.int(2, 4)
    attrs = {
        "classlabels_ints": [3 * k - 2 for k in range(classes)],
        "coefficients": [d.real(-1, 1) for _ in range(classes * c)],
        "intercepts": [d.real(-1, 1) for _ in range(classes)],
        "post_transform": d.pick(("NONE", "LOGISTIC", "SOFTMAX")), "multi_class": d.int(0, 1),
    }  # fmt: skip
    return Operation([x], attrs, outputs=2, ulps=256, sums=True)


def trees(d: Draw) -> Operation:
    """Full binary trees of a few levels."""
    n, c = _rows(d)
    x = d.input(0, (n, c))
    outputs = d.int(1, 3)
    columns = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    nodes: dict[str, list[Any]] = {k: [] for k in columns}
    leaves: dict[str, list[Any]] = {k: [] for k in ("treeids", "nodeids", "ids", "weights")}
    mode = d.pick(("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT"))
    for tree in range(d.int(1, 4)):
        depth = d.int(0, 3)
        for node in range(2 ** (depth + 1) - 1):
            leaf = node >= 2**depth - 1
            nodes["treeids"].append(tree)
            nodes["nodeids"].append(node)
            nodes["featureids"].append(0 if leaf else d.int(0, c - 1))
            nodes["values"].append(0.0 if leaf else d.real(-3, 3))
            nodes["modes"].append("LEAF" if leaf else mode)
            nodes["truenodeids"].append(0 if leaf else 2 * node + 1)
            nodes["falsenodeids"].append(0 if leaf else 2 * node + 2)
            if leaf:
                leaves["treeids"].append(tree)
                leaves["nodeids"].append(node)
                leaves["ids"].append(d.int(0, outputs - 1))
                leaves["weights"].append(d.real(-2, 2))
    attrs: dict[str, Any] = {f"nodes_{k}": v for k, v in nodes.items()}
    if d.name == "TreeEnsembleRegressor":
        attrs |= {f"target_{k}": v for k, v in leaves.items()} | {"n_targets": outputs}
        attrs |= d.only(aggregate_function=d.pick(("SUM", "AVERAGE", "MIN", "MAX")))
        return Operation([x], attrs, ulps=64, sums=True)
    classes = max(outputs, 2)
    attrs |= {f"class_{k}": v for k, v in leaves.items()}
    attrs |= {"classlabels_int64s": list(range(classes)),
              "post_transform": d.pick(("NONE", "LOGISTIC", "SOFTMAX"))}  # fmt: skip
    return Operation([x], attrs, outputs=2, ulps=128, sums=True)


TABLE: Mapping[tuple[str, str], Strategy] = {
    ("", "QuantizeLinear"): quantize, ("", "DequantizeLinear"): quantize,
    ("", "DynamicQuantizeLinear"): dynamic_quantize, ("", "If"): if_, ("", "Loop"): loop,
    ("", "Scan"): scan, ("", "TfIdfVectorizer"): ngrams,
    **{("ai.onnx.preview.training", n): optimizer for n in ("Adam", "Adagrad", "Momentum")},
    **{("ai.onnx.ml", n): ml_features for n in (
        "ArrayFeatureExtractor", "Binarizer", "FeatureVectorizer", "Imputer", "Normalizer",
        "OneHotEncoder", "Scaler")},
    ("ai.onnx.ml", "LabelEncoder"): label_encoder,
    ("ai.onnx.ml", "LinearClassifier"): linear, ("ai.onnx.ml", "LinearRegressor"): linear,
    ("ai.onnx.ml", "TreeEnsembleClassifier"): trees,
    ("ai.onnx.ml", "TreeEnsembleRegressor"): trees,
}  # fmt: skip
