"""What the models of LightGBM and XGBoost mean, read and walked in the plainest way.

One row and one node after the other. What the readers make of any file is compared with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray
ZERO = float(np.float32(1e-35))


# ---- LightGBM ----


def lightgbm_scores(data: bytes, x: Array) -> Array:
    """Raw scores [N, C], before an average is taken."""
    text = data.decode(errors="replace").replace("\r\n", "\n").split("\nend of trees")[0]
    head, *texts = re.split(r"(?<=\n)Tree=[0-9]+\n", text)
    count = int(re.findall(r"^num_tree_per_iteration=(\d+)", head, re.MULTILINE)[0])
    out = np.zeros((len(x), count))
    x = np.where(np.abs(x) <= ZERO, 0.0, x)  # as rows are read
    for k, text in enumerate(texts):
        lines = text.split("\n\n")[0].split("\n")
        tree = {name: value.split() for name, _, value in (t.partition("=") for t in lines)}
        for n, row in enumerate(x.tolist()):
            out[n, k % count] += _lightgbm_tree(tree, row)
    return out


def _lightgbm_tree(t: Mapping[str, list[str]], row: list[float]) -> float:
    node = 0 if int(t["num_leaves"][0]) > 1 else -1
    while node >= 0:
        value, kind = row[int(t["split_feature"][node])], int(t["decision_type"][node])
        left = _goes_left(t, value, float(t["threshold"][node]), kind)
        node = int(t["left_child" if left else "right_child"][node])
    leaf = ~node
    if t.get("is_linear", ["0"]) == ["0"]:
        return float(t["leaf_value"][leaf])
    sizes = [int(n) for n in t["num_features"]]
    first = sum(sizes[:leaf])
    total = float(t["leaf_const"][leaf])
    for k in range(first, first + sizes[leaf]):
        value = row[int(t["leaf_features"][k])]
        if math.isnan(value):
            return float(t["leaf_value"][leaf])
        total += float(t["leaf_coeff"][k]) * value
    return total


def _goes_left(t: Mapping[str, list[str]], value: float, threshold: float, kind: int) -> bool:
    missing = kind >> 2
    if kind & 1:
        if math.isnan(value) or int(value) < 0:
            return False
        borders = [int(v) for v in t["cat_boundaries"]]
        k, code = int(threshold), int(value)
        words = t["cat_threshold"][borders[k] : borders[k + 1]]
        return code // 32 < len(words) and bool(int(words[code // 32]) >> code % 32 & 1)
    if math.isnan(value) and missing != 2:
        value = 0.0
    if (missing == 1 and abs(value) <= ZERO) or (missing == 2 and math.isnan(value)):
        return bool(kind & 2)
    return value <= threshold


# ---- XGBoost ----


def xgboost_scores(whole: Any, x: Array) -> Array:
    """What all trees add up to, without base_score: [N, C]; in f32."""
    learner = whole["learner"]
    booster = learner["gradient_booster"]
    params = learner["learner_model_param"]
    count = max(int(params.get("num_class", "0")), int(params.get("num_target", "1")), 1)
    model = booster["gbtree"]["model"] if "gbtree" in booster else booster["model"]
    drops = booster.get("weight_drop", model.get("weight_drop", [1.0] * len(model["trees"])))
    out = np.zeros((len(x), count), np.float32)
    for tree, target, drop in zip(model["trees"], model["tree_info"], drops, strict=True):
        for n, row in enumerate(x):
            leaf = _xgboost_leaf(tree, row)
            if tree["tree_param"].get("size_leaf_vector", "1") in ("0", "1"):
                out[n, int(target)] += _f32(tree["split_conditions"][leaf]) * _f32(drop)
            else:
                values = _vector(tree, leaf, count)
                out[n] += values * _f32(drop)
    return out


def _vector(tree: Any, leaf: int, count: int) -> Array:
    if "leaf_weights" in tree:
        first = int(tree["right_children"][leaf]) * count
        return np.array(tree["leaf_weights"][first : first + count], np.float32)
    return np.array(tree["base_weights"][leaf * count : (leaf + 1) * count], np.float32)


def _xgboost_leaf(tree: Any, row: Array) -> int:
    node = 0
    while tree["left_children"][node] >= 0:
        value = float(row[int(tree["split_indices"][node])])
        kind = tree["split_type"][node] if "split_type" in tree else 1
        if math.isnan(value):
            left = bool(tree["default_left"][node])
        elif node in tree.get("categories_nodes", []) and kind == 1:
            k = len(tree["categories_nodes"]) - 1 - tree["categories_nodes"][::-1].index(node)
            first, size = tree["categories_segments"][k], tree["categories_sizes"][k]
            chosen = tree["categories"][int(first) : int(first + size)]
            left = not 0 <= value < 2**24 or int(value) not in chosen
        else:
            left = value < _f32(tree["split_conditions"][node])
        node = int(tree["left_children" if left else "right_children"][node])
    return node


def _f32(value: float) -> np.float32:
    with np.errstate(all="ignore"):
        return np.float32(value)
