"""The trees of a LightGBM model, all at once: a field of all trees is one array.

What decides is LightGBM's own prediction in doubles (src/io/tree.cpp, include/LightGBM/tree.h):
`x <= threshold` goes left; a missing value, which each node defines as none, zero or NaN, goes the
default way; of a categorical split the integer part of x is looked up in a set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from naru.errors import ModelError
from naru.frontend.categories import borders_of_sets
from naru.frontend.records import parse_numbers
from naru.ops.linear_leaves import Leaves
from naru.ops.tree_tables import LEAF, LEQ, MEMBER, Nodes, Votes, before

Array = np.ndarray
Fields = Mapping[str, bytes]
CATEGORICAL, DEFAULT_LEFT = 1, 2  # bits of a node's decision_type
NONE, ZERO, NAN = range(3)  # what is missing: bits 2 and 3
ZERO_THRESHOLD = float(np.float32(1e-35))  # kZeroThreshold: what is nearer to 0 counts as 0
JOINED = 4096  # trees whose text is read at once
DTYPES = {
    "split_feature": np.int64, "threshold": np.float64, "decision_type": np.int64,
    "left_child": np.int64, "right_child": np.int64, "leaf_value": np.float64,
    "leaf_const": np.float64, "num_features": np.int64, "leaf_features": np.int64,
    "leaf_coeff": np.float64,
}  # fmt: skip


def split_fields(text: bytes, where: str) -> dict[str, bytes]:
    """Lines of `name=value`; a name without a value has an empty one."""
    found: dict[str, bytes] = {}
    for line in text.split(b"\n"):
        name, _, value = line.partition(b"=")
        key = name.decode(errors="replace")
        if key in found:
            raise ModelError(f"'{key}' is there twice", where=where)
        if name:
            found[key] = value
    return found


def whole(fields: Fields, name: str, least: int, where: str) -> int:
    value = fields.get(name, b"").strip()
    if not (value.isdigit() and len(value) < 10 and int(value) >= least):
        found = value[:40].decode(errors="replace")
        raise ModelError(
            f"{name}: expected a whole number of at least {least}, found {found!r}", where=where
        )
    return int(value)


# --- numbers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Fields of all trees: the numbers of a field, one tree after the other. `leaves` and `inner`:
    how many nodes a tree has; `sets`: the fields of trees with categorical splits, `linear` of
    linear ones, by the tree's number."""

    leaves: Array
    numbers: Mapping[str, Array]
    sets: Mapping[int, Fields]
    linear: Mapping[int, Fields]

    @property
    def inner(self) -> Array:
        return self.leaves - 1


INNER = ("split_feature", "threshold", "decision_type", "left_child", "right_child")


def read_table(texts: Sequence[bytes]) -> Table:
    """The numbers in the texts of all trees."""
    parts: dict[str, list[Array]] = {name: [] for name in (*INNER, "leaf_value")}
    leaves: list[int] = []
    sets: dict[int, Fields] = {}
    linear: dict[int, Fields] = {}
    for first in range(0, len(texts), JOINED):
        trees = {
            k: split_fields(text, f"tree {k}")
            for k, text in enumerate(texts[first : first + JOINED], first)
        }
        sizes = [whole(t, "num_leaves", 1, f"tree {k}") for k, t in trees.items()]
        for name in INNER:
            parts[name].append(numbers(trees, name, [n - 1 for n in sizes]))
        parts["leaf_value"].append(numbers(trees, "leaf_value", sizes))
        leaves += sizes
        sets |= {k: t for k, t in trees.items() if t.get("num_cat", b"0") != b"0"}
        linear |= {k: t for k, t in trees.items() if t.get("is_linear", b"0") != b"0"}
    joined = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    return Table(np.array(leaves), joined, sets, linear)


def numbers(trees: Mapping[int, Fields], name: str, sizes: Sequence[int]) -> Array:
    """The numbers of a field of some trees, `sizes` many, one tree after the other."""
    values = [t.get(name, b"") for t in trees.values()]
    for tree, value, size in zip(trees, values, sizes, strict=True):
        if (found := len(value.split())) != size:
            raise ModelError(
                f"{name}: expected {size} numbers, found {found}", where=f"tree {tree}"
            )
    made = _parsed(b" ".join(values), DTYPES[name], sum(sizes))
    if made is None:
        for tree, value, size in zip(trees, values, sizes, strict=True):
            if _parsed(value, DTYPES[name], size) is None:
                found = value[:40].decode(errors="replace")
                raise ModelError(f"{name}: expected numbers, found {found}", where=f"tree {tree}")
        raise ModelError(f"{name}: expected numbers")
    return made


def _parsed(text: bytes, dtype: type[np.generic], size: int) -> Array | None:
    """Numbers with spaces in between; None where it has anything else."""
    if not size:
        return np.zeros(0, dtype)
    made = parse_numbers(text, dtype, " ")
    return made if made is not None and made.size == size else None


# --- nodes ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Inner:
    """The inner nodes of all trees, numbered one tree after the other; leaves come behind all of
    them. `tree`: that of each."""

    tree: Array
    feature: Array
    threshold: Array
    left: Array
    right: Array
    nan_left: Array
    categorical: Array


def read_trees(table: Table, count: int, features: int) -> tuple[Nodes, Votes, Leaves | None]:
    """All trees; their targets are 0 to `count` - 1 in turn."""
    given = table.numbers
    tree = np.repeat(np.arange(table.leaves.size), table.inner)
    feature, kind = given["split_feature"], given["decision_type"]
    _check(table, "split_feature", f"features in 0..{features - 1}",
           (feature >= 0) & (feature < features))  # fmt: skip
    missing = kind >> 2
    _check(table, "decision_type", "numbers in 0..11", (kind >= 0) & (missing <= NAN))
    _check(table, "threshold", "numbers", ~np.isnan(given["threshold"]))
    default_left = kind & DEFAULT_LEFT != 0
    categorical = kind & CATEGORICAL != 0
    threshold = given["threshold"]
    # Of a row, what is around 0 is read as 0: no threshold there tells such numbers apart.
    beside = np.where(threshold < 0, before(np.array(-ZERO_THRESHOLD)), ZERO_THRESHOLD)
    around = (np.abs(threshold) <= ZERO_THRESHOLD) & ~categorical
    threshold = np.where(around, beside, threshold)
    # NaN counts as 0 where nothing is missing, and goes right in a categorical split.
    nan_left = np.where(missing == NONE, threshold >= 0, default_left) & ~categorical
    left, right = (_children(table, name, tree) for name in ("left_child", "right_child"))
    inner = _Inner(tree, feature, threshold, left, right, nan_left, categorical)
    _check_parents(table, inner)
    members = tuple(_sets(table, inner))
    zero = np.flatnonzero((missing == ZERO) & ~categorical)
    nodes = replace(_nodes(table, inner), members=members)
    nodes = _split_zeros(nodes, zero, default_left[zero])
    first = tree.size
    leaves = first + np.arange(int(table.leaves.sum()))
    owners = np.repeat(np.arange(table.leaves.size), table.leaves)
    if table.linear:
        numbers_ = np.arange(leaves.size, dtype=np.float64)
        return nodes, Votes(leaves, owners, numbers_), _linear(table, count, features)
    return nodes, Votes(leaves, owners % count, given["leaf_value"]), None


def _check(table: Table, name: str, expected: str, right: Array) -> None:
    """ModelError that names tree and node of the first value that is not right."""
    wrong = np.flatnonzero(~right)
    if wrong.size:
        tree, node = _place(table, int(wrong[0]))
        found = table.numbers[name][wrong[0]]
        raise ModelError(
            f"{name}, node {node}: expected {expected}, found {found}", where=f"tree {tree}"
        )


def _place(table: Table, inner: int) -> tuple[int, int]:
    """Tree and node of an inner node."""
    ends = np.cumsum(table.inner)
    tree = int(np.searchsorted(ends, inner, "right"))
    return tree, inner - int(ends[tree] - table.inner[tree])


def _children(table: Table, name: str, tree: Array) -> Array:
    """Indices of nodes; the file has those of leaves as their complement."""
    given, leaves = table.numbers[name], table.leaves[tree]
    _check(table, name, "a node or leaf of the tree", (given >= -leaves) & (given < leaves - 1))
    first_inner = (np.cumsum(table.inner) - table.inner)[tree]
    first_leaf = tree.size + (np.cumsum(table.leaves) - table.leaves)[tree]
    return np.where(given < 0, first_leaf - given - 1, first_inner + given)


def _roots(table: Table) -> Array:
    first_leaf = int(table.inner.sum()) + np.cumsum(table.leaves) - table.leaves
    return np.where(table.inner > 0, np.cumsum(table.inner) - table.inner, first_leaf)


def _check_parents(table: Table, n: _Inner) -> None:
    """Below a root whose nodes have one parent at most, there are no cycles."""
    total = n.tree.size + int(table.leaves.sum())
    times = np.bincount(np.concatenate([n.left, n.right]), minlength=total)
    times[_roots(table)] += 1
    if (times > 1).any():
        twice = int(np.flatnonzero(times > 1)[0])
        parent = int(np.flatnonzero((n.left == twice) | (n.right == twice))[0])
        tree, node = _place(table, parent)
        raise ModelError(
            f"a child of node {node} is below two nodes, or below itself", where=f"tree {tree}"
        )


def _nodes(table: Table, n: _Inner) -> Nodes:
    none = np.zeros(int(table.leaves.sum()), np.int64)
    return Nodes(
        _roots(table),
        np.concatenate([np.where(n.categorical, MEMBER, LEQ), none + LEAF]),
        np.concatenate([n.feature, none]),
        np.concatenate([n.threshold, none.astype(np.float64)]),
        np.concatenate([n.left, none]),
        np.concatenate([n.right, none]),
        np.concatenate([n.nan_left, none == 1]),
    )


def _sets(table: Table, n: _Inner) -> list[Array]:
    """The borders of the sets of categories (see Nodes.members) of the nodes that have one."""
    chosen = np.flatnonzero(n.categorical)
    owners, counts = np.unique(n.tree[chosen], return_counts=True)
    ends = np.cumsum(counts)
    words = [np.zeros(0, np.int64)]
    sizes = [np.zeros(0, np.int64)]  # in words
    for tree, end, count in zip(owners.tolist(), ends.tolist(), counts.tolist(), strict=True):
        which = n.threshold[chosen[end - count : end]]
        borders, bits = _sets_of(table.sets.get(tree, {}), which, f"tree {tree}")
        k = which.astype(np.int64)
        sizes.append(borders[k + 1] - borders[k])
        words += [bits[borders[i] : borders[i + 1]] for i in k.tolist()]
    each = np.concatenate(sizes)
    bits = np.concatenate(words).astype("<u4").view(np.uint8)
    members = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
    owner = np.repeat(np.arange(each.size), 32 * each)[members]
    categories = members - 32 * (np.cumsum(each) - each)[owner]
    return borders_of_sets(owner, categories, each.size, np.float64, -1.0)


def _sets_of(t: Fields, which: Array, where: str) -> tuple[Array, Array]:
    """Of a tree: where its sets begin among words, and the words."""
    count = whole(t, "num_cat", 1, where)
    borders = _listed(t, "cat_boundaries", count + 1, where)
    words = _listed(t, "cat_threshold", None, where)
    right = borders[0] == 0 and (np.diff(borders) >= 0).all() and borders[-1] == words.size
    if not right or (words < 0).any() or (words >= 1 << 32).any():
        raise ModelError("cat_boundaries: expected places of sets in order", where=where)
    if not ((which >= 0) & (which < count) & (which == np.floor(which))).all():
        raise ModelError(f"threshold: expected sets in 0..{count - 1}", where=where)
    return borders, words


def _listed(t: Fields, name: str, size: int | None, where: str) -> Array:
    """A list of whole numbers."""
    text = t.get(name, b"")
    found = len(text.split())
    made = _parsed(text, np.int64, found)
    if made is None or (size is not None and found != size):
        wanted = "whole numbers" if size is None else f"{size} whole numbers"
        raise ModelError(f"{name}: expected {wanted}, found {text[:40]!r}", where=where)
    return made


# --- what is missing around zero ------------------------------------------------------------------


def _split_zeros(n: Nodes, at: Array, default_left: Array) -> Nodes:
    """Nodes for which what is around 0 is missing, and NaN. Where the threshold is on the far side
    of 0, what goes right is no longer all above it, but a set with three borders."""
    if not at.size:
        return n
    below, most = float(before(np.array(-ZERO_THRESHOLD))), ZERO_THRESHOLD
    t = n.splits[at]
    near = np.where(default_left, t >= below, t <= most)
    beside = np.where(default_left, np.maximum(t, most), np.minimum(t, below))
    n.splits[at] = np.where(near, beside, t)
    n.missing[at] = default_left
    far = at[~near]
    known = dict(zip(np.flatnonzero(n.modes == MEMBER).tolist(), n.members, strict=True))
    for node, threshold in zip(far.tolist(), t[~near].tolist(), strict=True):
        known[node] = np.sort(np.array([below, most, threshold]))
    n.modes[far] = MEMBER
    n.true[far], n.false[far] = n.false[far], n.true[far]
    n.missing[far] = ~n.missing[far]
    return replace(n, members=tuple(known[k] for k in sorted(known)))


# --- linear leaves --------------------------------------------------------------------------------


def _linear(table: Table, count: int, features: int) -> Leaves:
    """The functions of all leaves; those of trees that are not linear are constant."""
    trees = table.linear
    which = np.array(list(trees))
    leaves = table.leaves[which].tolist()
    sizes = numbers(trees, "num_features", leaves)
    if (sizes < 0).any() or sizes.max(initial=0) > features:
        raise ModelError(f"num_features: expected numbers in 0..{features}")
    owners = np.repeat(np.arange(which.size), leaves)
    terms = np.bincount(owners, sizes, which.size).astype(np.int64).tolist()
    asked = numbers(trees, "leaf_features", terms)
    if asked.size and not (asked.min() >= 0 and asked.max() < features):
        raise ModelError(f"leaf_features: expected features in 0..{features - 1}")
    ends = np.cumsum(table.leaves)
    of_linear = np.zeros(int(ends[-1]), np.bool_)
    for k in which.tolist():
        of_linear[int(ends[k] - table.leaves[k]) : int(ends[k])] = True
    constants = table.numbers["leaf_value"].copy()
    constants[of_linear] = numbers(trees, "leaf_const", leaves)
    each = np.zeros(constants.size, np.int64)
    each[of_linear] = sizes
    coefficients = numbers(trees, "leaf_coeff", terms)
    return Leaves(
        constants,
        table.numbers["leaf_value"],
        np.concatenate([[0], np.cumsum(each)]),
        np.append(asked, 0),
        np.append(coefficients, 0.0),
        np.arange(table.leaves.size) % count,
    )
