"""Sets of categories as the borders of intervals, all sets of a model at once."""

from __future__ import annotations

import numpy as np

from naru.ops.tree_tables import before

Array = np.ndarray


def borders_of_sets(
    owners: Array, categories: Array, count: int, dtype: type[np.floating], zero: float
) -> list[Array]:
    """For each of `count` sets the borders (see `Nodes.members`) of the numbers whose integer part
    is one of its categories. owners, categories i64[N]: sets and their whole numbers >= 0, in the
    order of both and each pair once. `zero`: what is above that and below 1 counts as 0."""
    first: Array = np.ones(owners.size, np.bool_)
    first[1:] = (owners[1:] != owners[:-1]) | (categories[1:] != categories[:-1] + 1)
    last: Array = np.append(first[1:], np.ones(min(owners.size, 1), np.bool_))
    begins = categories[first]
    low = np.where(begins == 0, dtype(zero), before(begins.astype(dtype)))
    high = before((categories[last] + 1).astype(dtype))
    ends = np.stack([low, high], axis=1).reshape(-1)
    runs = np.bincount(owners[first], minlength=count)
    return np.split(ends, np.cumsum(2 * runs)[:-1]) if count else []
