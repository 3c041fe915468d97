"""The tables that the kernel of a tree ensemble walks over, made of its nodes.

Whatever a node asks, the tables know one question only, `x <= split`: `x < t` is asked with the
number before t; `>` and `>=` exchange the children; `==` takes two questions, and a set of members
as many as a binary search. A child may be reached from several nodes: the record of a node is
copied then, its children are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from naru.errors import ModelError

Array = np.ndarray
MODES = ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ", "MEMBER", "LEAF")
LEQ, LT, GTE, GT, EQ, NEQ, MEMBER, LEAF = range(len(MODES))
PADDING = 64  # trees: at least as many as any kernel walks side by side
WORD = 31  # bits of a node's word


@dataclass(frozen=True)
class Nodes:
    """Nodes and leaves of all trees; `true` and `false` are indices of nodes. `missing`: does NaN
    go to the true child; `members`: the sets of MEMBER nodes, in their order, each by its borders
    in order: x is in the set if an odd number of them is below it, as NaN is below every number
    (see `equal_borders`)."""

    roots: Array
    modes: Array
    features: Array
    splits: Array
    true: Array
    false: Array
    missing: Array
    members: tuple[Array, ...] = ()


@dataclass(frozen=True)
class Votes:
    """What leaves (indices of nodes) add to which target."""

    leaves: Array
    targets: Array
    weights: Array


@dataclass(frozen=True)
class Tables:
    """Records lie so: the roots of all trees, `PADDING` leaves, then pairs of children.

    nodes    i32[1 or 2, M]: how far ahead the children are, one bit `missing`, the feature from
             bit `shift` on; shift 31: the feature is in a row of its own
    splits   [M]; NaN at leaves
    slots    i32[M], leaf -> row of `weights`; None where that is the record itself
    weights  [M or leaves, votes]; `present`: is there such a vote
    targets  i32[trees, votes]; `coverage`: how many leaves of a tree have the vote: 0 none, 1
             some, 2 all
    depths   i32[trees + PADDING]: steps that a tree takes at most
    """

    nodes: Array
    splits: Array
    slots: Array | None
    weights: Array
    present: Array
    targets: Array
    coverage: Array
    depths: Array
    shift: int
    missing: bool

    def seen(self, count: int) -> tuple[bool | None, ...]:
        """For each of `count` targets: has a row always a vote for it (True), never, or it depends
        on the row (None)."""
        found = np.zeros(count, np.int8)
        np.maximum.at(found, self.targets, self.coverage)
        return tuple({0: False, 1: None, 2: True}[k] for k in found.tolist())

    @property
    def features(self) -> int:
        """How many a row must have."""
        found = self.nodes[1] if self.shift == WORD else self.nodes[0] >> self.shift
        return int(found.max(initial=0)) + 1


def make_tables(nodes: Nodes, votes: Votes, nothing: float = 0.0) -> Tables:
    """The tables of an ensemble; a leaf without a vote for a target of its tree votes `nothing`.
    ModelError where a node is below itself."""
    n = _one_question(nodes)
    level, tree = _levels(n)
    inner = np.flatnonzero((level >= 0) & (n.modes != LEAF))
    shared = _is_shared(n, inner, tree)
    # (Of trees that share nodes, children must still come behind all of their parents.)
    order = inner[np.lexsort((level[inner],) if shared else (level[inner], tree[inner]))]
    placed = _place(n, order, tree)
    depths = np.zeros(n.roots.size + PADDING, np.int32)
    np.maximum.at(depths, tree[inner], level[inner].astype(np.int32) + 1)
    owners = placed.tree
    if shared:
        depths[: n.roots.size] = depths.max()
        owners = np.minimum(owners, 0)
    words, shift, missing = _pack(n, placed)
    t = _tally(placed, owners, n.roots.size, votes, nothing)
    if shared:
        t.targets[:] = t.targets[0]
    splits = np.where(placed.leaf, np.nan, n.splits[placed.node]).astype(nodes.splits.dtype)
    return Tables(
        words, splits, t.slots, t.weights, t.present, t.targets, t.coverage, depths, shift, missing
    )


def equal_borders(values: Array, dtype: np.dtype) -> Array:
    """The borders of a set of numbers."""
    values = np.unique(values.astype(dtype))
    return np.stack([before(values), values], axis=1).reshape(-1)


# --- one question ---------------------------------------------------------------------------------


def before(splits: Array) -> Array:
    """The next smaller number; NaN before -inf, since nothing is below it."""
    with np.errstate(all="ignore"):
        below = np.nextafter(splits, np.array(-np.inf, splits.dtype))
    return np.where(splits == -np.inf, np.array(np.nan, splits.dtype), below)


def leq_splits(n: Nodes) -> Array:
    """Splits s such that `x <= s` answers what a node asks, or, for GT and GTE, the opposite."""
    splits = np.where(np.isin(n.modes, (LT, GTE)), before(n.splits), n.splits)
    never = np.isin(n.modes, (GT, GTE)) & np.isnan(n.splits)  # no number is above NaN
    return np.where(never, np.array(np.inf, splits.dtype), splits)


def _one_question(n: Nodes) -> Nodes:
    """The same trees with nodes of mode LEQ only."""
    m = n.modes
    turned = np.isin(m, (GT, GTE))
    splits = leq_splits(n)
    true, false = np.where(turned, n.false, n.true), np.where(turned, n.true, n.false)
    missing = np.where(turned, ~n.missing, n.missing) & (m != LEAF)
    out = Nodes(n.roots, np.where(m == LEAF, LEAF, LEQ), n.features, splits, true, false, missing)
    equal = np.flatnonzero(np.isin(m, (EQ, NEQ)))
    return _split_members(n, _split_equal(n, out, equal))


def _more(n: Nodes, *columns: Array) -> Nodes:
    """n with more nodes: features, splits, true, false, missing."""
    features, splits, true, false, missing = columns
    return Nodes(
        n.roots,
        np.concatenate([n.modes, np.full(features.size, LEQ)]),
        np.concatenate([n.features, features]),
        np.concatenate([n.splits, splits.astype(n.splits.dtype)]),
        np.concatenate([n.true, true]),
        np.concatenate([n.false, false]),
        np.concatenate([n.missing, missing]),
    )


def _split_equal(given: Nodes, n: Nodes, at: Array) -> Nodes:
    """x == t: x <= t, and then not x <= the number before t."""
    if not at.size:
        return n
    unequal = given.modes[at] == NEQ
    hit = np.where(unequal, given.false[at], given.true[at])
    other = np.where(unequal, given.true[at], given.false[at])
    n.true[at], n.false[at] = n.modes.size + np.arange(at.size), other
    n.missing[at] = given.missing[at] & ~unequal  # NaN differs from every number
    lower = before(given.splits[at])
    return _more(n, n.features[at], lower, other, hit, np.zeros(at.size, np.bool_))


def _split_members(given: Nodes, n: Nodes) -> Nodes:
    """x in a set: a binary search among the borders of its members."""
    at = np.flatnonzero(given.modes == MEMBER)
    if len(given.members) != at.size:
        raise ModelError(
            f"expected a set of members for each of {at.size} nodes, found {len(given.members)}"
        )
    found: list[tuple[float, int, int]] = []
    features: list[int] = []
    lowest: list[bool] = []  # does NaN go on below the borders: above an odd number, it is inside
    for node, members in zip(at.tolist(), given.members, strict=True):
        true, false = int(given.true[node]), int(given.false[node])
        borders = members.astype(given.splits.dtype)
        start = _search(borders, (false, true), n.modes.size, found, 0, borders.size)
        features += [int(given.features[node])] * (len(found) - len(features))
        lowest += [borders.size % 2 == 1] * (len(found) - len(lowest))
        # The node itself asks for NaN only, and hands everything else on.
        n.splits[node], n.true[node], n.false[node] = np.nan, true, start
    if not found:
        return n
    splits, low, high = (np.array(c) for c in zip(*found, strict=True))
    return _more(n, np.array(features), splits, low, high, np.array(lowest))


def _search(
    borders: Array,
    ends: tuple[int, int],
    first: int,
    found: list[tuple[float, int, int]],
    lo: int,
    hi: int,
) -> int:
    """The node that finds the interval among lo..hi, every other one of which is of members; its
    (split, true, false) are added to `found`, the nodes from `first` on."""
    if lo == hi:
        return ends[lo % 2]
    middle = (lo + hi) // 2
    place = len(found)
    found.append((float(borders[middle]), 0, 0))
    low = _search(borders, ends, first, found, lo, middle)
    high = _search(borders, ends, first, found, middle + 1, hi)
    found[place] = (float(borders[middle]), low, high)
    return first + place


# --- order ----------------------------------------------------------------------------------------


def _levels(n: Nodes) -> tuple[Array, Array]:
    """For each node the longest way to it from a root (-1: none leads there), and a tree that has
    it."""
    level, tree = np.full(n.modes.size, -1), np.full(n.modes.size, -1)
    nodes, owners = n.roots, np.arange(n.roots.size)
    for depth in range(n.modes.size + 1):
        level[nodes] = depth
        fresh = tree[nodes] < 0
        tree[nodes[fresh]] = owners[fresh]
        inner = n.modes[nodes] != LEAF
        nodes, owners = nodes[inner], owners[inner]
        if not nodes.size:
            return level, tree
        children = np.concatenate([n.false[nodes], n.true[nodes]])
        nodes, first = np.unique(children, return_index=True)
        owners = np.concatenate([owners, owners])[first]
    raise ModelError("expected trees, found a node that is below itself")


def _is_shared(n: Nodes, inner: Array, tree: Array) -> bool:
    """Does a node, other than a leaf, belong to several trees?"""
    children = np.stack([n.true[inner], n.false[inner]])
    strange = (tree[children] != tree[inner]) & (n.modes[children] != LEAF)
    return bool(strange.any()) or np.unique(n.roots).size < n.roots.size


@dataclass(frozen=True)
class _Placed:
    """For each record: its node, its tree, is it a leaf, how far ahead are the children."""

    node: Array
    tree: Array
    leaf: Array
    delta: Array


def _place(n: Nodes, order: Array, tree: Array) -> _Placed:
    """Records of all roots, leaves for padding, and the children of the nodes in `order`."""
    start = n.roots.size + PADDING
    pair = np.zeros(n.modes.size, np.int64)
    pair[order] = start + 2 * np.arange(order.size)
    children = np.stack([n.false[order], n.true[order]], axis=1).reshape(-1)
    node = np.concatenate([n.roots, np.zeros(PADDING, np.int64), children])
    leaf = n.modes[node] == LEAF
    leaf[n.roots.size : start] = True
    owner = np.concatenate(
        [np.arange(n.roots.size), np.full(PADDING, -1), np.repeat(tree[order], 2)]
    )
    return _Placed(node, owner, leaf, np.where(leaf, 0, pair[node] - np.arange(node.size)))


# --- records --------------------------------------------------------------------------------------


def _pack(n: Nodes, placed: _Placed) -> tuple[Array, int, bool]:
    """(words, shift, missing): see Tables."""
    missing = np.where(placed.leaf, False, n.missing[placed.node])
    features = np.where(placed.leaf, 0, n.features[placed.node])
    special = bool(missing.any())
    bits = max(1, int(placed.delta.max()).bit_length())
    if int(features.max()).bit_length() + bits + special <= WORD:
        shift = bits + special
        words = placed.delta | (missing.astype(np.int64) << bits) | (features << shift)
        return words[None].astype(np.int32), shift, special
    words = placed.delta | (missing.astype(np.int64) << (WORD - 1))
    return np.stack([words, features]).astype(np.int32), WORD, special


@dataclass(frozen=True)
class _Tally:
    """See Tables."""

    slots: Array | None
    weights: Array
    present: Array
    targets: Array
    coverage: Array


def _tally(placed: _Placed, trees: Array, count: int, votes: Votes, nothing: float) -> _Tally:
    """The votes of all trees. `trees`: a record's tree, of `count`."""
    record = np.flatnonzero(placed.leaf & (placed.tree >= 0))
    keys = np.stack([trees[record], placed.node[record]], axis=1)
    leaves, row_of = np.unique(keys, axis=0, return_inverse=True)
    row_of = row_of.reshape(-1)
    order = np.argsort(votes.leaves, kind="stable")
    given = votes.leaves[order]
    first = np.searchsorted(given, leaves[:, 1], "left")
    many = np.searchsorted(given, leaves[:, 1], "right") - first
    row = np.repeat(np.arange(many.size), many)
    which = np.arange(row.size) - np.repeat(np.cumsum(many) - many, many) + np.repeat(first, many)
    target, weight = votes.targets[order][which], votes.weights[order][which]
    again = _occurrence(row, target)
    columns, column = np.unique(
        np.stack([leaves[row, 0], target, again], axis=1), axis=0, return_inverse=True
    )
    begin = np.searchsorted(columns[:, 0], np.arange(count))
    width = max(1, int(np.diff(np.append(begin, len(columns))).max(initial=0)))
    targets = np.zeros((count, width), np.int32)
    targets[columns[:, 0], np.arange(len(columns)) - begin[columns[:, 0]]] = columns[:, 1]
    weights = np.full((many.size, width), nothing, votes.weights.dtype)
    present = np.zeros(weights.shape, np.bool_)
    at = (row, column.reshape(-1) - begin[leaves[row, 0]])
    weights[at], present[at] = weight, True
    some, every = np.zeros(targets.shape, np.bool_), np.ones(targets.shape, np.bool_)
    np.logical_or.at(some, leaves[:, 0], present)
    np.logical_and.at(every, leaves[:, 0], present)
    coverage = some.astype(np.int8) + (some & every)
    if width > 1:
        slots = np.zeros(placed.node.size, np.int32)
        slots[record] = row_of
        return _Tally(slots, weights, present, targets, coverage)
    own = np.full((placed.node.size, 1), nothing, weights.dtype)
    there = np.zeros(own.shape, np.bool_)
    own[record], there[record] = weights[row_of], present[row_of]
    return _Tally(None, own, there, targets, coverage)


def _occurrence(row: Array, target: Array) -> Array:
    """How many votes of the same row for the same target come before each."""
    order = np.lexsort((target, row))
    r, t = row[order], target[order]
    new = np.ones(row.size, np.bool_)
    new[1:] = (r[1:] != r[:-1]) | (t[1:] != t[:-1])
    start = np.maximum.accumulate(np.where(new, np.arange(row.size), 0))
    out = np.empty(row.size, np.int64)
    out[order] = np.arange(row.size) - start
    return out
