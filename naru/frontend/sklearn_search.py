"""Searches in sorted numbers, as trees: places of values among borders, and straight lines between
points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from naru.frontend.sklearn_base import add, as_node, cast_to, div, mul, sub
from naru.frontend.sklearn_trees import Grown, walk
from naru.ir.graph import Node
from naru.ops.registry import apply, constant
from naru.ops.tree_tables import before

Array = np.ndarray


def places(x: Node, borders: Sequence[Array], *, inclusive: bool = False) -> Node:
    """f64[rows, features]: how many of a feature's borders, which are in order, are below x
    (`inclusive`: or equal to it). NaN is above all."""
    count = len(borders)
    grown = [_tree(np.asarray(b, np.float64), k, inclusive) for k, b in enumerate(borders)]
    return walk(x, grown, [np.array([k]) for k in range(count)], np.zeros(count))


def _tree(borders: Array, feature: int, inclusive: bool) -> Grown:
    """A balanced tree over the borders; leaf k is reached by what has k borders below."""
    asked = before(borders) if inclusive else borders
    left: list[int] = []
    right: list[int] = []
    split: list[float] = []
    place: list[int] = []

    def grow(low: int, high: int) -> int:
        """The node for what has at least `low`, and at most `high` borders below."""
        at, middle = len(left), (low + high) // 2
        left.append(-1)
        right.append(-1)
        split.append(float(asked[middle]) if low < high else 0.0)
        place.append(low)
        if low < high:
            left[at], right[at] = grow(low, middle), grow(middle + 1, high)
        return at

    grow(0, borders.size)
    nodes = np.array(left)
    return Grown(
        nodes,
        np.array(right),
        nodes < 0,
        np.full(nodes.size, feature),
        np.array(split),
        np.zeros(nodes.size, np.bool_),
        np.array(place, np.float64)[:, None],
    )


def lines(x: Node, xs: Array, ys: Array) -> Node:
    """f64 like x [rows, 1]: the straight lines between points; the ends where x is outside. NaN
    stays NaN. `xs` are in order; where some are equal, the last of them is met from above."""
    if xs.size == 1:
        return add(mul(sub(x, x), 0.0), float(ys[0]))
    low = places(x, [xs[1:-1]], inclusive=True)  # the interval that x is in
    at = cast_to(low, "i64")
    x0, x1, y0, y1 = (_at(v, at) for v in (xs[:-1], xs[1:], ys[:-1], ys[1:]))
    slope = div(sub(y1, y0), sub(x1, x0))
    inside = add(mul(slope, sub(x, x0)), y0)
    here = apply("where", apply("equal", x, x1), y1, inside)
    here = apply("where", apply("equal", x, x0), y0, here)
    low_end = apply("less", x, as_node(float(xs[0])))
    high_end = apply("greater", x, as_node(float(xs[-1])))
    here = apply("where", low_end, as_node(float(ys[0])), here)
    return apply("where", high_end, as_node(float(ys[-1])), here)


def _at(values: Array, places: Node) -> Node:
    return apply("gather", constant(values, np.float64), places, axis=0)
