"""The tree ensembles that bench/trees.py measures: trained anew from seeds, in a folder each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cases import ROOT
from onnx import TensorProto, helper, numpy_helper

from naru.frontend.lightgbm import read_lightgbm
from naru.frontend.xgboost import read_xgboost
from naru.ops.tree_tables import LEAF, LEQ, LT

assert ROOT

Array = np.ndarray
ROWS = 20_000  # that are trained on, and predicted
MODES = {LEQ: "BRANCH_LEQ", LT: "BRANCH_LT", LEAF: "LEAF"}


@dataclass(frozen=True)
class TreeCase:
    """`suffix`: of the library's own file, `.txt` LightGBM's, `.json` XGBoost's. `train`: rows,
    what they are to predict, and a function that saves the model."""

    name: str
    about: str
    suffix: str
    train: Callable[[Path], Array]


def skewed(features: int) -> tuple[Array, Array]:
    """Half normal, a third log-normal, so that branches are uneven; a target with interactions."""
    rng = np.random.default_rng(features)
    x = rng.normal(size=(ROWS, features))
    x[:, ::3] = np.exp(x[:, ::3])
    y = x[:, 0] * x[:, 1] + np.sin(3 * x[:, 2]) + x[:, 4] ** 2 * (x[:, 5] > 1)
    return x, y + rng.normal(size=ROWS) * 0.3


def lightgbm_regression(trees: int, leaves: int, features: int) -> TreeCase:
    def train(path: Path) -> Array:
        import lightgbm

        x, y = skewed(features)
        settings: dict[str, Any] = {
            "objective": "regression", "num_leaves": leaves, "learning_rate": 0.05,
            "verbosity": -1, "seed": 0, "deterministic": True,
        }  # fmt: skip
        lightgbm.train(settings, lightgbm.Dataset(x, y), trees).save_model(str(path))
        return x

    name = f"lightgbm_{trees}x{leaves}_{features}"
    about = f"LightGBM, regression, {trees} trees of {leaves} leaves, {features} features"
    return TreeCase(name, about, ".txt", train)


def xgboost_regression(trees: int, leaves: int, features: int) -> TreeCase:
    def train(path: Path) -> Array:
        import xgboost

        x, y = skewed(features)
        settings = {
            "objective": "reg:squarederror", "max_leaves": leaves, "max_depth": 0, "eta": 0.05,
            "grow_policy": "lossguide", "seed": 0,
        }  # fmt: skip
        xgboost.train(settings, xgboost.DMatrix(x, y), trees).save_model(str(path))
        return x.astype(np.float32)

    name = f"xgboost_{trees}x{leaves}_{features}"
    about = f"XGBoost, regression, {trees} trees of {leaves} leaves, {features} features"
    return TreeCase(name, about, ".json", train)


def digits() -> TreeCase:
    def train(path: Path) -> Array:
        import lightgbm
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        settings: dict[str, Any] = {
            "objective": "multiclass", "num_class": 10, "num_leaves": 31, "verbosity": -1,
            "seed": 0, "deterministic": True,
        }  # fmt: skip
        lightgbm.train(settings, lightgbm.Dataset(x, y), 100).save_model(str(path))
        return np.resize(x, (ROWS, x.shape[1]))

    about = "LightGBM, scikit-learn's digits, 10 classes, 1000 trees, 64 features"
    return TreeCase("lightgbm_digits", about, ".txt", train)


CASES = {
    c.name: c
    for c in (
        lightgbm_regression(500, 31, 28),
        lightgbm_regression(1000, 255, 28),
        lightgbm_regression(500, 31, 100),
        digits(),
        xgboost_regression(500, 31, 28),
        xgboost_regression(1000, 255, 28),
    )
}


def write_onnx(model: Path) -> None:
    """`model.onnx`: the trees as a TreeEnsembleRegressor in the library's own precision, which ONNX
    Runtime does not read otherwise; and the softmax of several classes."""
    read = read_lightgbm if model.suffix == ".txt" else read_xgboost
    forest = read(model.read_bytes())
    n, v = forest.nodes, forest.votes
    owner = np.searchsorted(n.roots, np.arange(n.modes.size), "right") - 1
    own = np.arange(n.modes.size) - n.roots[owner]
    dtype = n.splits.dtype
    wide = "_as_tensor" if dtype == np.float64 else ""

    def numbers(values: Array) -> Any:
        return numpy_helper.from_array(values.astype(dtype)) if wide else values.tolist()

    leaf = n.modes == LEAF
    base = np.broadcast_to(np.array(forest.base, dtype), (forest.count,))
    attributes = {
        "n_targets": forest.count,
        "nodes_treeids": owner.tolist(),
        "nodes_nodeids": own.tolist(),
        "nodes_featureids": n.features.tolist(),
        "nodes_modes": [MODES[m] for m in n.modes.tolist()],
        f"nodes_values{wide}": numbers(n.splits),
        "nodes_truenodeids": np.where(leaf, 0, n.true - n.roots[owner]).tolist(),
        "nodes_falsenodeids": np.where(leaf, 0, n.false - n.roots[owner]).tolist(),
        "nodes_missing_value_tracks_true": n.missing.astype(int).tolist(),
        "target_treeids": owner[v.leaves].tolist(),
        "target_nodeids": own[v.leaves].tolist(),
        "target_ids": v.targets.tolist(),
        f"target_weights{wide}": numbers(v.weights),
        f"base_values{wide}": numbers(base),
    }
    nodes = [
        helper.make_node(
            "TreeEnsembleRegressor", ["features"], ["raw"], domain="ai.onnx.ml", **attributes
        )
    ]
    if forest.count > 1:
        nodes.append(helper.make_node("Softmax", ["raw"], ["y"], axis=1))
    kind = TensorProto.DOUBLE if wide else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "trees",
        [helper.make_tensor_value_info("features", kind, ["rows", forest.features])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.save(made, model.with_suffix(".onnx"))
