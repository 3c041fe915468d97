"""The matrices of Winograd's minimal filtering F(m, r): m sums of r products by m + r - 1 products.

    y = A'((G g) * (B' d))       g: r taps, d: m + r - 1 inputs, y[i] = sum over j of d[i+j] g[j]

They follow from evaluating polynomials at points, one of which is infinity (Toom and Cook;
Winograd, Arithmetic Complexity of Computations, 1980; Lavin and Gray, Fast Algorithms for
Convolutional Neural Networks, 2015). The points decide how large the entries are, and with them the
rounding errors: for m = 4 the points 0, 1, -1, 1/2, -2 err by 1.6 times less than 0, ±1, ±2.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import numpy as np

TAPS = 3  # of a filter, along each axis
POINTS = {2: ("0", "1", "-1"), 4: ("0", "1", "-1", "1/2", "-2")}  # for tiles of m × m results

Matrix = tuple[tuple[Fraction, ...], ...]


@cache
def matrices(m: int) -> tuple[Matrix, Matrix, Matrix]:
    """(A', G, B') of F(m, 3), exactly: m × (m + 2), (m + 2) × 3 and (m + 2) × (m + 2). ValueError
    for an m without points."""
    if m not in POINTS:
        raise ValueError(f"winograd({m}): expected one of {', '.join(map(str, POINTS))}")
    points = [Fraction(p) for p in POINTS[m]]
    size = m + TAPS - 1
    one, zero = Fraction(1), Fraction(0)
    output = [[p**i for p in points] + [one if i == m - 1 else zero] for i in range(m)]
    filters: list[list[Fraction]] = []
    inputs: list[list[Fraction]] = []
    for k, p in enumerate(points):
        others = points[:k] + points[k + 1 :]
        scale = one
        for q in others:
            scale *= p - q
        filters.append([p**j / scale for j in range(TAPS)])
        inputs.append([*_with_roots(others), zero])
    filters.append([zero] * (TAPS - 1) + [one])
    inputs.append(_with_roots(points))
    assert all(len(row) == size for row in inputs)
    return _frozen(output), _frozen(filters), _frozen(inputs)


def _with_roots(roots: Sequence[Fraction]) -> list[Fraction]:
    """The coefficients, that of x^0 first, of the product of x - root."""
    found = [Fraction(1)]
    for root in roots:
        longer = [Fraction(0), *found]
        for i, c in enumerate(found):
            longer[i] -= root * c
        found = longer
    return found


def _frozen(rows: Sequence[Sequence[Fraction]]) -> Matrix:
    return tuple(map(tuple, rows))


def transform_filters(w: np.ndarray, m: int) -> np.ndarray:
    """G w G' of every filter, [O, C, 3, 3] -> [O, C, m + 2, m + 2], in double precision and rounded
    once."""
    g = np.array([[float(x) for x in row] for row in matrices(m)[1]])
    half = w.astype(np.float64).reshape(-1, TAPS) @ g.T
    half = half.reshape(*w.shape[:2], TAPS, len(g)).swapaxes(2, 3)
    return (half @ g.T).swapaxes(2, 3).astype(w.dtype)
