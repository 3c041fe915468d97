"""Borders of all sets at once against those of one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naru.frontend.categories import borders_of_sets
from naru.ops.tree_tables import before

SETS = st.lists(st.sets(st.integers(0, 6) | st.integers(0, 2**24 - 1), max_size=8), max_size=5)


def interval_borders(whole: np.ndarray, dtype: np.dtype[Any], zero: float) -> np.ndarray:
    """The borders of the numbers whose integer part is one of some whole numbers >= 0, which are in
    order; `zero`: what is above that and below 1 counts as 0."""
    low = np.where(whole == 0, np.array(zero, dtype), before(whole.astype(dtype)))
    ends = np.stack([low, before((whole + 1).astype(dtype))], axis=1).reshape(-1)
    values, times = np.unique(ends, return_counts=True)
    return values[times == 1]  # two that meet are one


@pytest.mark.parametrize(("dtype", "zero"), [(np.float32, -1e-45), (np.float64, -1.0)])
@settings(deadline=None)
@given(sets=SETS)
def test_borders_are_those_of_each_set(
    dtype: type[np.floating], zero: float, sets: list[set[int]]
) -> None:
    pairs = [(k, c) for k, one in enumerate(sets) for c in sorted(one)]
    owners, categories = np.array(pairs, np.int64).reshape(-1, 2).T
    got = borders_of_sets(owners, categories, len(sets), dtype, zero)
    assert len(got) == len(sets)
    for borders, one in zip(got, sets, strict=True):
        want = interval_borders(np.array(sorted(one), np.int64), np.dtype(dtype), zero)
        assert borders.dtype == dtype
        assert np.array_equal(borders, want)
