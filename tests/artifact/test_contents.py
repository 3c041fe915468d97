"""What goes into a bundle besides code: the sizes of the golden vector."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from zoo.build import text

from naru.artifact.contents import golden_sizes, tolerance_of
from naru.artifact.golden import GoldenCase
from naru.frontend.onnx import read_onnx
from naru.schedule.requirements import requirements


def sizes(model: str) -> Mapping[str, int]:
    graph = read_onnx(text(model))
    return {v.name: n for v, n in golden_sizes(graph, requirements(graph)).items()}


@pytest.mark.parametrize("pairs", [1, 24])
def test_symbols_that_conditions_tie_together(pairs: int) -> None:
    """Many pairs that must be equal are found one by one, not all combinations at once."""
    inputs = ", ".join(f"float[a{k}] x{k}, float[b{k}] y{k}" for k in range(pairs))
    outputs = ", ".join(f"float[n{k}] z{k}" for k in range(pairs))
    body = " ".join(f"z{k} = Add(x{k}, y{k})" for k in range(pairs))
    found = sizes(f"({inputs}) => ({outputs}) {{ {body} }}")
    assert len(found) == 2 * pairs
    assert all(found[f"a{k}"] == found[f"b{k}"] for k in range(pairs))


def test_the_nearest_sizes_that_fit() -> None:
    found = sizes(
        "(float[a] x, float[b] y, float[c] z) => (float[n] s) { t = Add(x, y) s = Add(t, z) }"
    )
    assert set(found.values()) == {4}


def test_tolerances_follow_small_outputs() -> None:
    def atol(*sizes: float) -> float:
        outputs = tuple(np.full(3, s) for s in sizes)
        return tolerance_of(GoldenCase("main", (), outputs))["atol"]

    assert atol(1.0) == atol(1.0, 1e-16) == atol(1e200) == tolerance_of(None)["atol"] == 1e-6
    assert atol(1e-6) == atol(1.0, 1e-6) == pytest.approx(1e-7)
    assert tolerance_of(None)["rtol"] < tolerance_of(None, rounded=True)["rtol"]
