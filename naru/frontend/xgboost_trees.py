"""The trees of an XGBoost model, all at once: a field of all trees is one array.

What decides is XGBoost's own prediction in f32 (src/predictor, include/xgboost/tree_model.h):
`x < split` goes left, NaN the default way; of a categorical split what is in its set goes right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from naru.errors import ModelError
from naru.frontend.records import Record
from naru.ops.tree_tables import LEAF, LT, MEMBER, Nodes, Votes, interval_borders

Array = np.ndarray
NEGATIVE = -float(np.finfo(np.float32).smallest_subnormal)  # the next below 0
MOST_CATEGORIES = 1 << 24  # from there on, codes belong to no set


@dataclass(frozen=True)
class _Trees:
    """`starts`: where the nodes of each tree begin in all joined fields, and their end."""

    records: Sequence[Record]
    starts: Array

    @property
    def count(self) -> int:
        return int(self.starts[-1])

    def joined(self, name: str) -> Array:
        sizes = np.diff(self.starts).tolist()
        return np.concatenate(
            [t.numbers(name, n) for t, n in zip(self.records, sizes, strict=True)]
        )

    def whole(self, name: str) -> Array:
        """A field of whole numbers, as i64."""
        values = self.joined(name)
        if values.dtype.kind == "f":
            self.check(name, "whole numbers", np.abs(values) < 2**53, values)
            self.check(name, "whole numbers", values == np.floor(values), values)
        return values.astype(np.int64)

    def singles(self, name: str) -> Array:
        return self.joined(name).astype(np.float32)

    def check(self, name: str, expected: str, right: Array, values: Array) -> None:
        """ModelError that names tree and node of the first value that is not right."""
        wrong = np.flatnonzero(~right)
        if wrong.size:
            tree, node = self.place(int(wrong[0]))
            found = values[wrong[0]]
            raise ModelError(f"{name}, node {node}: expected {expected}, found {found}", where=tree)

    def place(self, k: int) -> tuple[str, int]:
        """Tree and node of an element of a joined field."""
        tree = int(np.searchsorted(self.starts, k, "right")) - 1
        return self.records[tree].where, k - int(self.starts[tree])


def read_trees(
    records: Sequence[Record], targets: Array, scales: Array, count: int, features: int
) -> tuple[Nodes, Votes]:
    """All trees. `targets` and `scales`: what each votes for, and by what its leaves are
    multiplied; a tree whose leaves are vectors votes for all `count` targets."""
    sizes = [_size(t) for t in records]
    trees = _Trees(records, np.cumsum([0, *sizes]))
    first = np.repeat(trees.starts[:-1], sizes)
    left, right = trees.whole("left_children"), trees.whole("right_children")
    leaf = left < 0
    inner = np.flatnonzero(~leaf)
    size = np.repeat(sizes, sizes)
    for name, child in (("left_children", left), ("right_children", right)):
        inside = leaf | ((child >= 0) & (child < size))
        trees.check(name, "the number of a node of the tree", inside, child)
    _check_parents(trees, (first + left)[inner], (first + right)[inner])
    feature = trees.whole("split_indices")
    known = leaf | ((feature >= 0) & (feature < features))
    trees.check("split_indices", f"features in 0..{features - 1}", known, feature)
    split = trees.singles("split_conditions")
    default_left = trees.whole("default_left") != 0
    sets = _sets(trees)
    chosen = np.zeros(trees.count, np.bool_)
    chosen[list(sets)] = True
    chosen &= ~leaf
    true, false = np.where(chosen, right, left), np.where(chosen, left, right)  # a set goes right
    nodes = Nodes(
        trees.starts[:-1],
        np.where(leaf, LEAF, np.where(chosen, MEMBER, LT)),
        np.where(leaf, 0, feature),
        np.where(leaf, np.float32(0), split),
        np.where(leaf, 0, first + true),
        np.where(leaf, 0, first + false),
        np.logical_and(np.logical_xor(default_left, chosen), ~leaf),
        tuple(sets[k] for k in np.flatnonzero(chosen).tolist()),
    )
    leaves = np.flatnonzero(leaf)
    owner = np.repeat(np.arange(len(records)), sizes)[leaves]
    widths = {vector_size(t) for t in records}
    if widths != {1}:
        if widths != {count}:
            raise ModelError(f"size_leaf_vector: expected {count} in all trees, found {widths}")
        return nodes, _vector_votes(trees, leaves, right[leaves], scales[owner], count)
    return nodes, Votes(leaves, targets[owner], split[leaves] * scales[owner])


def vector_size(tree: Record) -> int:
    """How many numbers a leaf has."""
    param = tree.part("tree_param") if "tree_param" in tree.value else tree
    return max(param.number("size_leaf_vector", 1), 1)


def _size(tree: Record) -> int:
    if found := tree.length("left_children"):
        return found
    raise tree.fail("left_children", "at least one node")


def _check_parents(trees: _Trees, *children: Array) -> None:
    """Below a root whose nodes have one parent at most, there are no cycles."""
    times = np.bincount(np.concatenate(children), minlength=trees.count)
    times[trees.starts[:-1]] += 1
    if (twice := np.flatnonzero(times > 1)).size:
        tree, node = trees.place(int(twice[0]))
        raise ModelError(f"node {node} is below two nodes, or below itself", where=tree)


def _vector_votes(trees: _Trees, leaves: Array, numbers: Array, scales: Array, count: int) -> Votes:
    """Of leaves that are vectors. From 3.2 on a leaf has a number among those of its tree, in the
    place of its right child; before, the vector is found by the node."""
    names = {"leaf_weights" if "leaf_weights" in t.value else "base_weights" for t in trees.records}
    if len(names) > 1:
        raise ModelError("leaf_weights: expected in all trees or in none")
    name = names.pop()
    rows = [t.numbers(name) for t in trees.records]
    lengths = np.array([r.size for r in rows])
    if (wrong := np.flatnonzero(lengths % count)).size:
        raise trees.records[int(wrong[0])].fail(name, f"{count} numbers a leaf")
    tree = np.searchsorted(trees.starts, leaves, "right") - 1
    if name == "base_weights":
        numbers = leaves - trees.starts[tree]
    if not ((numbers >= 0) & (numbers < lengths[tree] // count)).all():
        raise ModelError(f"{name}: expected {count} numbers for each leaf")
    starts = np.cumsum(lengths) - lengths
    at = (starts[tree] + numbers * count)[:, None] + np.arange(count)
    values = np.concatenate(rows).astype(np.float32)[at] * scales[:, None]
    targets = np.tile(np.arange(count), leaves.size)
    return Votes(np.repeat(leaves, count), targets, values.reshape(-1))


def _sets(trees: _Trees) -> dict[int, Array]:
    """The borders of the sets of categories, by node."""
    found: dict[int, Array] = {}
    for t, start, end in zip(trees.records, trees.starts, trees.starts[1:], strict=False):
        if t.length("categories_nodes") == 0 or "categories_nodes" not in t.value:
            continue
        nodes, at, sizes, categories = _segments(t, int(end - start))
        kinds = t.numbers("split_type", int(end - start)) if "split_type" in t.value else None
        for node, a, size in zip(nodes.tolist(), at.tolist(), sizes.tolist(), strict=True):
            if kinds is None or kinds[node] == 1:
                some = np.unique(categories[a : a + size])
                few = some[some < MOST_CATEGORIES]
                found[int(start) + node] = interval_borders(few, np.dtype(np.float32), NEGATIVE)
    return found


def _segments(t: Record, count: int) -> tuple[Array, Array, Array, Array]:
    """Nodes with sets, and where their sets begin in the categories, their sizes, and these."""
    nodes = _whole(t, "categories_nodes", None, count)
    categories = _whole(t, "categories", None, 1 << 31)
    starts = _whole(t, "categories_segments", nodes.size, categories.size + 1)
    sizes = _whole(t, "categories_sizes", nodes.size, categories.size + 1)
    if not (starts + sizes <= categories.size).all():
        raise t.fail("categories_sizes", f"sets within {categories.size} categories")
    return nodes, starts, sizes, categories


def _whole(t: Record, name: str, size: int | None, most: int) -> Array:
    """Whole numbers below `most`."""
    found = t.numbers(name, size)
    if not ((found >= 0) & (found < most) & (found == np.floor(found))).all():
        raise t.fail(name, f"whole numbers in 0..{most - 1}")
    return found.astype(np.int64)
