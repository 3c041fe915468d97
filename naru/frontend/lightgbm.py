"""Reads a LightGBM model: the text that `Booster.save_model` writes, of versions 3 and 4.

What decides is LightGBM's own prediction in doubles (src/io/tree.cpp, include/LightGBM/tree.h):
`x <= threshold` goes left; a missing value, which each node defines as none, zero or NaN, goes the
default way; of a categorical split the integer part of x is looked up in a set. Leaf values are
added up in the order of the trees.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from naru.errors import ModelError, UnsupportedError
from naru.frontend.forest import Forest, Output
from naru.ir.graph import Node
from naru.ops.registry import apply, constant
from naru.ops.tree_tables import LEAF, LEQ, MEMBER, Nodes, Votes, before, interval_borders

Array = np.ndarray
VERSIONS = ("v3", "v4")
CATEGORICAL, DEFAULT_LEFT = 1, 2  # bits of a node's decision_type
NONE, ZERO, NAN = range(3)  # what is missing: bits 2 and 3
ZERO_THRESHOLD = float(np.float32(1e-35))  # kZeroThreshold: what is nearer to 0 counts as 0


def is_lightgbm(data: bytes) -> bool:
    """Does a file begin as `save_model` writes it?"""
    return data.startswith((b"tree\n", b"tree\r\n"))


def read_lightgbm(data: bytes) -> Forest:
    """The forest of a model. Raises ModelError, UnsupportedError."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ModelError(f"expected UTF-8, found byte {data[error.start]:#x}") from None
    head, *parts = re.split(r"^Tree=\d+\r?$", text, flags=re.MULTILINE)
    header = _fields(head, "the header")
    if header.get("version") not in VERSIONS:
        found = header.get("version", "none")
        raise ModelError(f"expected a model of version {' or '.join(VERSIONS)}, found {found}")
    if "end of trees" not in text:
        raise ModelError(
            "the file ends before 'end of trees'", hint="it is cut short; copy it again"
        )
    count = _whole(header, "num_tree_per_iteration", 1)
    features = _whole(header, "max_feature_idx", 0) + 1
    if not parts:
        raise ModelError("expected at least one tree, found none")
    made = _Builder()
    for k, part in enumerate(parts):
        made.add(_fields(part.split("\n\n")[0], f"tree {k}"), f"tree {k}", k % count)
    sizes = header.get("tree_sizes", "").split()
    if "tree_sizes" in header and len(sizes) != len(parts):
        raise ModelError(f"expected {len(sizes)} trees, found {len(parts)}")
    if len(parts) % count:
        raise ModelError(f"expected trees for {count} scores each round, found {len(parts)}")
    rounds = len(parts) // count if "average_output" in header else 1
    output = _output(header.get("objective", ""))
    return Forest(*made.arrays(), count, features, output, average=rounds)


# --- the text -------------------------------------------------------------------------------------


def _fields(text: str, where: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in filter(None, text.splitlines()):
        name, _, value = line.partition("=")
        if name in found:
            raise ModelError(f"'{name}' is there twice", where=where)
        found[name] = value.strip()
    return found


def _whole(fields: Mapping[str, str], name: str, least: int) -> int:
    value = fields.get(name, "")
    if not re.fullmatch(r"\d{1,9}", value) or int(value) < least:
        raise ModelError(f"{name}: expected a whole number of at least {least}, found {value!r}")
    return int(value)


def _array(
    fields: Mapping[str, str], name: str, size: int, dtype: type[np.generic], where: str
) -> Array:
    """A list of numbers."""
    texts = fields.get(name, "").split()
    if len(texts) != size:
        raise ModelError(f"{name}: expected {size} numbers, found {len(texts)}", where=where)
    try:
        return np.array(texts, dtype)
    except (ValueError, OverflowError) as error:
        raise ModelError(f"{name}: expected numbers: {error}", where=where) from None


# --- trees ----------------------------------------------------------------------------------------


@dataclass
class _Builder:
    """Nodes of all trees, those of a tree one after the other: inner nodes, then leaves."""

    size: int = 0
    roots: list[int] = field(default_factory=list[int])
    columns: list[tuple[Array, ...]] = field(default_factory=list[tuple[Array, ...]])
    leaves: list[tuple[Array, Array, Array]] = field(
        default_factory=list[tuple[Array, Array, Array]]
    )
    members: list[Array] = field(default_factory=list[Array])

    def add(self, t: Mapping[str, str], where: str, target: int) -> None:
        """One tree, which votes for a target."""
        if t.get("is_linear", "0") != "0":
            raise UnsupportedError(
                ["linear trees (linear_tree=true): train with linear_tree=false"]
            )
        leaves = _whole(t, "num_leaves", 1)
        inner = leaves - 1
        feature = _array(t, "split_feature", inner, np.int64, where)
        threshold = _array(t, "threshold", inner, np.float64, where)
        kind = _array(t, "decision_type", inner, np.int64, where)
        left = self._children(t, "left_child", leaves, where)
        right = self._children(t, "right_child", leaves, where)
        values = _array(t, "leaf_value", leaves, np.float64, where)
        if inner and feature.min() < 0:
            raise ModelError(
                f"split_feature: expected numbers from 0, found {feature.min()}", where=where
            )
        missing = kind >> 2 & 3
        default_left = kind & DEFAULT_LEFT != 0
        categorical = kind & CATEGORICAL != 0
        # NaN counts as 0 where nothing is missing, and goes right in a categorical split.
        nan_left = np.where(missing == NONE, threshold >= 0, default_left) & ~categorical
        first = self.size
        self.roots.append(first)
        modes = np.where(categorical, MEMBER, LEQ)
        zero = np.flatnonzero((missing == ZERO) & ~categorical)
        columns = [modes, feature, threshold, left, right, nan_left]
        none = np.zeros(leaves, np.int64)
        tails = [none + LEAF, none, none.astype(np.float64), none, none, none == 1]
        columns = [np.concatenate(pair) for pair in zip(columns, tails, strict=True)]
        self.members += self._sets(t, threshold[categorical], where)
        self.leaves.append((first + inner + np.arange(leaves), none + target, values))
        self.size += inner + leaves
        self.columns.append(tuple(columns))
        self._split_zeros(columns, zero, default_left)

    def _children(self, t: Mapping[str, str], name: str, leaves: int, where: str) -> Array:
        """Indices of nodes; the file has those of leaves as their complement."""
        given = _array(t, name, leaves - 1, np.int64, where)
        if given.size and not (given.min() >= -leaves and given.max() < leaves - 1):
            raise ModelError(
                f"{name}: expected -{leaves}..{leaves - 2}, found {given.min()}..{given.max()}",
                where=where,
            )
        return self.size + np.where(given < 0, leaves - 2 - given, given)

    def _sets(self, t: Mapping[str, str], which: Array, where: str) -> Iterator[Array]:
        """The borders of the sets of categories (see Nodes.members) of the nodes that have one."""
        if not which.size:
            return
        count = _whole(t, "num_cat", 1)
        borders = _array(t, "cat_boundaries", count + 1, np.int64, where)
        words = _array(t, "cat_threshold", int(borders[-1]), np.uint32, where)
        if borders[0] or (np.diff(borders) < 0).any() or not set(which) <= set(range(count)):
            raise ModelError("cat_boundaries: expected places of sets in order", where=where)
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")
        for k in which.astype(np.int64):
            categories = np.flatnonzero(bits[32 * borders[k] : 32 * borders[k + 1]])
            yield interval_borders(categories, np.dtype(np.float64), -1.0)

    def _split_zeros(self, columns: list[Array], at: Array, default_left: Array) -> None:
        """Nodes for which values around 0 are missing: their questions, the first in place, the
        others behind the tree."""
        _, feature, threshold, left, right, nan_left = columns
        for k in at.tolist():
            asked = _around_zero(
                float(threshold[k]), int(left[k]), int(right[k]), bool(default_left[k])
            )
            ends = [*range(self.size, self.size + len(asked) - 1), 0]
            rows = [
                tuple(end if child == NEXT else child for child in row)
                for row, end in zip(asked, ends, strict=True)
            ]
            threshold[k], left[k], right[k], nan_left[k] = rows[0]
            if more := rows[1:]:
                thresholds, low, high, missing = (np.array(c) for c in zip(*more, strict=True))
                kinds, features = np.full(len(more), LEQ), np.full(len(more), feature[k])
                self.columns.append((kinds, features, thresholds, low, high, missing))
                self.size += len(more)

    def arrays(self) -> tuple[Nodes, Votes]:
        modes, features, splits, true, false, missing = (
            np.concatenate(c) for c in zip(*self.columns, strict=True)
        )
        leaves, targets, weights = (np.concatenate(c) for c in zip(*self.leaves, strict=True))
        nodes = Nodes(
            np.array(self.roots), modes, features, splits, true, false, missing, tuple(self.members)
        )
        return nodes, Votes(leaves, targets, weights)


NEXT = -1  # the node of the next question


def _around_zero(
    t: float, left: int, right: int, default_left: bool
) -> list[tuple[float, int, int, bool]]:
    """The questions `x <= threshold` of a node that sends what is around 0 the default way, and NaN
    too: (threshold, its true child, its false one, where NaN goes)."""
    below, most = float(before(np.array(-ZERO_THRESHOLD))), ZERO_THRESHOLD
    if default_left:
        if t >= below:
            return [(max(t, most), left, right, True)]
        return [(t, left, NEXT, True), (below, right, NEXT, False), (most, left, right, False)]
    if t <= most:
        return [(min(t, below), left, right, False)]
    return [(below, left, NEXT, False), (most, right, NEXT, True), (t, left, right, False)]


# --- objectives -----------------------------------------------------------------------------------


def _output(objective: str) -> Output:
    """What an objective makes of scores [N, C]. (src/objective/*.hpp, ConvertOutput)"""
    name, *settings = objective.split() or ["none"]
    values = {key: value for key, _, value in (s.partition(":") for s in settings)}
    if name not in OBJECTIVES:
        raise UnsupportedError([f"the objective '{name}'; there are {', '.join(OBJECTIVES)}"])
    kind = OBJECTIVES[name]
    if kind == "plain" and "sqrt" in settings:
        kind = "square"
    try:
        scale = float(values.get("sigmoid", 1))
    except ValueError:
        raise ModelError(f"objective: expected a number, found {objective!r}") from None
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
