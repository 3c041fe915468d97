"""Reads a LightGBM model: the text that `Booster.save_model` writes, from LightGBM 2.2 on.

Leaf values are added up in doubles in the order of the trees. The trees themselves are read in
lightgbm_trees.py.
"""

from __future__ import annotations

import math
import re

import numpy as np

from naru.errors import ModelError, UnsupportedError
from naru.frontend.forest import Output, Trees, check_names, check_sizes, known_names
from naru.frontend.lightgbm_trees import read_table, read_trees, split_fields, whole
from naru.frontend.records import reading_numbers
from naru.ir.graph import Node
from naru.ops.registry import apply, constant

VERSIONS = ("v2", "v3", "v4")
_HEADER = "the header"
_TREE = re.compile(rb"\nTree=[0-9]++\n")
_DUMP = re.compile(rb'\s*\{\s*"name"\s*:\s*"tree"')  # what dump_model gives, which nothing loads


def is_lightgbm(data: bytes) -> bool:
    """Does a file begin as `save_model` or `dump_model` writes it?"""
    return data.startswith((b"tree\n", b"tree\r\n")) or bool(_DUMP.match(data))


def read_lightgbm(data: bytes) -> Trees:
    """The forest of a model. Raises ModelError, UnsupportedError."""
    if _DUMP.match(data):
        raise ModelError(
            "expected the text of save_model, found the JSON of dump_model",
            hint='booster.save_model("model.txt")',
        )
    if b"\r\n" in data:
        data = data.replace(b"\r\n", b"\n")
    head, texts, tail = _split(data)
    for text in (head, tail):
        try:
            text.decode()
        except UnicodeDecodeError as error:
            raise ModelError(f"expected UTF-8, found byte {text[error.start]:#x}") from None
    header = split_fields(head, _HEADER)
    version = header.get("version", b"none").decode()
    if version not in VERSIONS:
        raise ModelError(f"expected a model of version {', '.join(VERSIONS)}, found {version}")
    count = whole(header, "num_tree_per_iteration", 1, _HEADER)
    last = whole(header, "max_feature_idx", 0, _HEADER)
    check_sizes(("num_tree_per_iteration", count), ("max_feature_idx", last))
    features = last + 1
    names = header.get("feature_names", b"").decode().split()
    check_names(len(names), features)
    if not texts:
        raise ModelError("expected at least one tree, found none")
    output = _output(header.get("objective", b"").decode(), count)
    sizes = header.get("tree_sizes", b"").split()
    if "tree_sizes" in header and len(sizes) != len(texts):
        raise ModelError(f"expected {len(sizes)} trees, found {len(texts)}")
    if len(texts) % count:
        raise ModelError(f"expected trees for {count} scores each round, found {len(texts)}")
    rounds = len(texts) // count if "average_output" in header else 1
    with reading_numbers():
        nodes, votes, leaves = read_trees(read_table(texts), count, features)
    known = known_names(names)
    return Trees(nodes, votes, count, features, output, average=rounds, leaves=leaves, names=known)


def _split(data: bytes) -> tuple[bytes, list[bytes], bytes]:
    """The header, the text of each tree, and what follows the trees."""
    end = data.find(b"\nend of trees")
    if end < 0:
        raise ModelError(
            "the file ends before 'end of trees'", hint="it is cut short; copy it again"
        )
    heads: list[tuple[int, int]] = []
    at = data.find(b"\nTree=", 0, end)
    while at >= 0:
        if found := _TREE.match(data, at):
            heads.append(found.span())
        at = data.find(b"\nTree=", at + 1, end)
    starts = [*(start for start, _ in heads), end]
    texts: list[bytes] = []
    for (_, first), last in zip(heads, starts[1:], strict=True):
        blank = data.find(b"\n\n", first, last)
        texts.append(data[first : last if blank < 0 else blank])
    return data[: starts[0]], texts, data[end:]


# --- objectives -----------------------------------------------------------------------------------


def _output(objective: str, count: int) -> Output:
    """What an objective makes of scores [N, count]. (src/objective/*.hpp, ConvertOutput)"""
    name, *settings = objective.split() or ["none"]
    values = {key: value for key, _, value in (s.partition(":") for s in settings)}
    if name not in OBJECTIVES:
        raise UnsupportedError([f"the objective '{name}'; there are {', '.join(OBJECTIVES)}"])
    kind = OBJECTIVES[name]
    if kind == "plain" and "sqrt" in settings:
        kind = "square"
    if values.get("num_class", str(count)) != str(count):
        raise ModelError(f"objective: expected num_class:{count}, found {objective!r}")
    try:
        scale = float(values.get("sigmoid", 1))
    except ValueError:
        scale = math.nan
    if not 0 < scale < math.inf:
        raise ModelError(f"objective: expected a sigmoid above 0, found {objective!r}")
    return lambda scores: _converted(scores, kind, scale)


OBJECTIVES = {
    "none": "plain", "custom": "plain",
    "regression": "plain", "regression_l1": "plain", "huber": "plain", "fair": "plain",
    "quantile": "plain", "mape": "plain", "lambdarank": "plain", "rank_xendcg": "plain",
    "poisson": "exp", "gamma": "exp", "tweedie": "exp",
    "binary": "sigmoid", "multiclassova": "sigmoid", "cross_entropy": "sigmoid",
    "cross_entropy_lambda": "log1p_exp", "multiclass": "softmax",
}  # fmt: skip


def _converted(scores: Node, kind: str, scale: float) -> Node:
    dtype = np.float64
    if kind == "square":  # of the objectives with reg_sqrt
        return apply("mul", scores, apply("abs", scores))
    if kind == "exp":
        return apply("exp", scores)
    if kind == "sigmoid":
        return apply("sigmoid", apply("mul", scores, constant(scale, dtype)))
    if kind == "log1p_exp":
        return apply("softplus", scores)
    return apply("softmax", scores, axis=1) if kind == "softmax" else scores
