"""ai.onnx.ml and ai.onnx.preview.training: tree ensembles, linear models, features, optimizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from .build import IR_VERSION, OPSET, add, special

F32, F64, I64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64
SIZES = ({"n": 1}, {"n": 21})
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")


def halves_or_nan(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Multiples of a half, so that they equal thresholds; some are NaN."""
    x = (rng.integers(-4, 5, shape) / 2).astype(np.float32)
    x[rng.random(shape) < 0.1] = np.nan
    return x


def model(
    op: str, attrs: Mapping[str, Any], outputs: Sequence[int], dtype: int = F32, features: int = 4
) -> onnx.ModelProto:
    """One operator of ai.onnx.ml (3) over x [n, features]; `outputs` are their dtypes."""
    names = [f"y{k}" for k in range(len(outputs))]
    node = helper.make_node(op, ["x"], names, domain="ai.onnx.ml", **attrs)
    x = helper.make_tensor_value_info("x", dtype, ["n", features])
    ranks = [1, 2] if len(outputs) == 2 else [3 if op == "OneHotEncoder" else 2]
    ys = [
        helper.make_tensor_value_info(name, t, [None] * rank)
        for name, t, rank in zip(names, outputs, ranks, strict=True)
    ]
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", 3)]
    graph = helper.make_graph([node], "g", [x], ys)
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def ensemble(
    kind: str,
    count: int,
    modes: Sequence[str],
    *,
    trees: int = 9,
    depth: int = 4,
    ids: Sequence[int] | None = None,
    missing: bool = False,
    positive: bool = False,
) -> dict[str, Any]:
    """Attributes of random trees. `kind`: target or class; `ids`: what every leaf votes for, all
    targets if left out."""
    rng = np.random.default_rng(len(modes) + count)
    nodes: list[tuple[int, int, str, int, float, int, int, int]] = []
    votes: list[tuple[int, int, int, float]] = []

    def grow(tree: int, place: int, left: int) -> int:
        """Adds the node `place` and those below it; the next free place."""
        leaf = left == 0 or rng.random() < 0.15
        at, value = int(rng.integers(4)), float(rng.integers(-4, 5)) / 2
        if leaf:
            nodes.append((tree, place, "LEAF", 0, 0.0, 0, 0, 0))
            for k in range(count) if ids is None else ids:
                weight = float(np.float32(rng.normal()))
                votes.append((tree, place, k, abs(weight) / trees if positive else weight))
            return place + 1
        row = len(nodes)
        mode = str(rng.choice(modes))
        nodes.append((tree, place, mode, at, value, 0, 0, 0))
        middle = grow(tree, place + 1, left - 1)
        end = grow(tree, middle, left - 1)
        nodes[row] = (tree, place, mode, at, value, place + 1, middle, int(rng.integers(2)))
        return end

    for tree in range(trees):
        grow(tree, 0, depth)
    names = ("treeids", "nodeids", "modes", "featureids", "values", "truenodeids", "falsenodeids")
    columns = list(zip(*nodes, strict=True))
    attrs: dict[str, Any] = {f"nodes_{n}": c for n, c in zip(names, columns, strict=False)}
    if missing:
        attrs["nodes_missing_value_tracks_true"] = columns[7]
    fields = ("treeids", "nodeids", "ids", "weights")
    for name, column in zip(fields, zip(*votes, strict=True), strict=True):
        attrs[f"{kind}_{name}"] = column
    return attrs


def regressor(name: str, count: int, modes: Sequence[str] = MODES[:1], **more: Any) -> None:
    """A case of TreeEnsembleRegressor."""
    extra = {k: more.pop(k) for k in list(more) if k in ("aggregate_function", "base_values",
             "post_transform")}  # fmt: skip
    attrs = {**ensemble("target", count, modes, **more), "n_targets": count, **extra}
    add(
        name,
        lambda: model("TreeEnsembleRegressor", attrs, [F32]),
        sizes=(*SIZES, {"n": 100}),
        values={"x": halves_or_nan},
        tolerance=1e-4 if extra.get("post_transform") == "PROBIT" else 1e-6,
    )


def classifier(name: str, count: int, post: str, base: Sequence[float] = (), **more: Any) -> None:
    """A case of TreeEnsembleClassifier."""
    attrs = {
        **ensemble("class", count, MODES[:1], **more),
        "classlabels_int64s": list(range(count)),
        "post_transform": post,
        **({"base_values": list(base)} if base else {}),
    }
    add(
        name,
        lambda: model("TreeEnsembleClassifier", attrs, [I64, F32]),
        sizes=SIZES,
        values={"x": halves_or_nan},
    )


regressor("trees_one_target", 1)
regressor("trees_every_mode", 2, MODES, missing=True)
regressor("trees_deep", 1, MODES, depth=14, trees=2, missing=True)
for number, how in enumerate(("SUM", "AVERAGE", "MIN", "MAX")):
    regressor(
        f"trees_{how.lower()}",
        3,
        (MODES[number],),
        aggregate_function=how,
        base_values=[0.5, -1.0, 2.0],
    )
classifier("trees_classes_softmax", 4, "SOFTMAX", (0.1, 0.2, -0.3, 0.4))
classifier("trees_classes_softmax_zero", 3, "SOFTMAX_ZERO")
classifier("trees_binary", 2, "NONE", ids=(0,), positive=True)
classifier("trees_binary_logistic", 2, "LOGISTIC", ids=(0,))
classifier("trees_binary_second", 2, "LOGISTIC", (0.25, 0.5), ids=(1,))
classifier("trees_two_classes", 2, "NONE")

WEIGHTS = [float(np.float32(v)) for v in np.random.default_rng(1).normal(size=12)]
LABELS = {"classlabels_ints": [4, 7, 9], "coefficients": WEIGHTS, "intercepts": [0.1, 0.2, -0.1]}


def plain(name: str, op: str, outputs: Sequence[int], dtype: int = F32, **attrs: Any) -> None:
    """A case of another operator."""
    values = {"x": special} if op in ("Imputer", "Scaler") and dtype == F32 else None
    add(name, lambda: model(op, attrs, outputs, dtype), sizes=SIZES, values=values)


plain("ml_binarizer", "Binarizer", [F32], threshold=0.25)
plain("ml_scaler", "Scaler", [F32], offset=[0.5, -1.0, 0.0, 2.0], scale=[2.0, 0.5, 1.0, -1.0])
plain("ml_scaler_one", "Scaler", [F32], I64, offset=[0.5], scale=[0.25])
plain("ml_imputer", "Imputer", [F32], imputed_value_floats=[1.0, 2.0, 3.0, 4.0],
      replaced_value_float=float("nan"))  # fmt: skip
plain("ml_imputer_int", "Imputer", [I64], I64, imputed_value_int64s=[7], replaced_value_int64=3)
for norm in ("MAX", "L1", "L2"):
    plain(f"ml_normalizer_{norm.lower()}", "Normalizer", [F32], norm=norm)
plain("ml_one_hot", "OneHotEncoder", [F32], I64, cats_int64s=[1, 5, -3], zeros=1)
plain("ml_label_encoder", "LabelEncoder", [F32], I64, keys_int64s=[1, 5, -3],
      values_floats=[0.5, 1.5, 2.5], default_float=-2.0)  # fmt: skip
plain("ml_linear_regressor", "LinearRegressor", [F32], coefficients=WEIGHTS, targets=3,
      intercepts=[1.0, 2.0, 3.0])  # fmt: skip
for transform in ("NONE", "SOFTMAX", "LOGISTIC"):
    plain(f"ml_linear_classifier_{transform.lower()}", "LinearClassifier", [I64, F32],
          post_transform=transform, **LABELS)  # fmt: skip
plain("ml_linear_classifier_binary", "LinearClassifier", [I64, F32], coefficients=WEIGHTS[:4],
      intercepts=[0.1], classlabels_ints=[3, 8])  # fmt: skip
plain("ml_linear_classifier_binary_logistic", "LinearClassifier", [I64, F32], intercepts=[0.1],
      coefficients=WEIGHTS[:4], classlabels_ints=[3, 8], post_transform="LOGISTIC")  # fmt: skip
