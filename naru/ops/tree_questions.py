"""What the nodes of trees ask, and where they are among each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from naru.ops.tree_tables import (
    EQ,
    GT,
    GTE,
    LEAF,
    MEMBER,
    NEQ,
    Nodes,
    equal_borders,
    leq_splits,
)

Array = np.ndarray


@dataclass(frozen=True)
class Questions:
    """Of each node: is it a leaf; its feature; `x <= split`, or where `sets` has it, is x in the
    set of these borders (see `Nodes`); the children; is the answer for NaN yes."""

    leaf: Array
    features: Array
    splits: Array
    true: Array
    false: Array
    missing: Array
    sets: dict[int, Array]


def has_shared(n: Nodes) -> bool:
    """Is there a node with several parents?"""
    inner = n.modes != LEAF
    named = np.concatenate([n.roots, n.true[inner], n.false[inner]])
    return bool(np.bincount(named, minlength=1).max() > 1)


def ask(n: Nodes) -> Questions:
    m = n.modes
    turned = np.isin(m, (GT, GTE, NEQ))
    splits = leq_splits(n)
    missing = np.where(turned, ~n.missing, n.missing)
    missing = np.where(m == NEQ, False, missing)  # NaN differs from every number
    members = iter(n.members)
    empty = np.zeros(0, splits.dtype)
    sets: dict[int, Array] = {}
    special = np.isin(m, (EQ, NEQ, MEMBER)) | (np.isnan(splits) & (m != LEAF))
    for k in np.flatnonzero(special).tolist():
        if m[k] == MEMBER:
            sets[k] = next(members).astype(splits.dtype)
        else:  # (no number is at most NaN)
            equal = m[k] in (EQ, NEQ) and not np.isnan(splits[k])
            sets[k] = equal_borders(splits[k : k + 1], splits.dtype) if equal else empty
    true, false = np.where(turned, n.false, n.true), np.where(turned, n.true, n.false)
    return Questions(m == LEAF, n.features, splits, true, false, missing, sets)


@dataclass(frozen=True)
class Shape:
    """Where nodes are: of every node the first leaf below it, how many inner nodes a walk that
    takes the true side first meets before, and its tree; of trees their leaves and depths; inner
    nodes in order."""

    start: Array
    before: Array
    tree: Array
    leaves: Array
    depths: Array
    order: Array


def shape_of(q: Questions, roots: Array) -> Shape:
    count = q.leaf.size
    size, start, earlier = np.ones(count, np.int32), *np.zeros((2, count), np.int32)
    tree = np.full(count, -1, np.int32)
    depths = np.zeros(roots.size, np.int32)
    levels: list[Array] = []
    nodes = roots
    tree[roots] = np.arange(roots.size)
    while nodes.size:
        inner = nodes[~q.leaf[nodes]]
        for children in (q.true[inner], q.false[inner]):
            tree[children] = tree[inner]
        levels.append(inner)
        depths[tree[inner]] = len(levels)
        nodes = np.concatenate([q.true[inner], q.false[inner]])
    for inner in reversed(levels):
        size[inner] = size[q.true[inner]] + size[q.false[inner]]
    for inner in levels:
        true, false = q.true[inner], q.false[inner]
        start[true], start[false] = start[inner], start[inner] + size[true]
        earlier[true], earlier[false] = earlier[inner] + 1, earlier[inner] + size[true]
    leaves = size[roots]
    inner = np.concatenate(levels)
    first = np.cumsum(leaves - 1) - (leaves - 1)
    order = np.empty(inner.size, np.int64)
    order[first[tree[inner]] + start[q.false[inner]] - 1] = inner
    return Shape(start, earlier, tree, leaves, depths, order)
