"""Random trees, for the samples of operators on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from naru.ops.tree_tables import (
    EQ,
    GT,
    GTE,
    LEAF,
    LEQ,
    LT,
    MEMBER,
    NEQ,
    Nodes,
    Votes,
    equal_borders,
)

EVERY = (LEQ, LT, GTE, GT, EQ, NEQ, MEMBER)


def random_ensemble(
    rng: np.random.Generator, trees: int, depth: int, features: int, modes: Sequence[int]
) -> Nodes:
    """Trees that end early here and there; splits are multiples of a half, so that values hit
    them."""
    true: list[int] = []
    false: list[int] = []
    kinds: list[int] = []

    def grow(left: int) -> int:
        place = len(kinds)
        leaf = left == 0 or rng.random() < 0.1
        kinds.append(LEAF if leaf else int(rng.choice(modes)))
        true.append(0)
        false.append(0)
        if not leaf:
            true[place], false[place] = grow(left - 1), grow(left - 1)
        return place

    roots = [grow(depth) for _ in range(trees)]
    count = len(kinds)
    modes_ = np.array(kinds)
    return Nodes(
        np.array(roots),
        modes_,
        rng.integers(0, features, count),
        (rng.integers(-4, 5, count) / 2).astype(np.float32),
        np.array(true),
        np.array(false),
        rng.integers(0, 2, count).astype(np.bool_),
        tuple(
            equal_borders(rng.integers(-4, 5, 3) / 2, np.dtype(np.float32))
            for _ in range(int((modes_ == MEMBER).sum()))
        ),
    )


def random_votes(rng: np.random.Generator, nodes: Nodes, count: int, each: int) -> Votes:
    """`each` votes of every leaf for targets of its own choice; of trees with `each` 1, for 0."""
    leaves = np.repeat(np.flatnonzero(nodes.modes == LEAF), each)
    targets = rng.integers(0, count, leaves.size)
    return Votes(leaves, targets, rng.normal(size=leaves.size).astype(np.float32))
