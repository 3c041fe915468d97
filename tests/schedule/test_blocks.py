"""Products whose rows do not fit L2 run in blocks of columns; the tails of both are right."""

from __future__ import annotations

import numpy as np
import pytest
from zoo.build import text

import naru


@pytest.mark.parametrize(
    ("m", "n", "k"), [(600, 1000, 1024), (512, 770, 1024), (700, 97, 2048), (1024, 1024, 1024)]
)
def test_blocked_product(m: int, n: int, k: int) -> None:
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((k, n), np.float32), rng.standard_normal(n, np.float32)
    body = f"(float[{m},{k}] x) => (float[{m},{n}] y)"
    body += "{ p = MatMul(x, w) s = Add(p, b) y = Relu(s) }"
    model = naru.compile(text(body, {"w": w, "b": b}), cache=False)
    x = rng.standard_normal((m, k), np.float32)
    want = np.maximum(x.astype(np.float64) @ w + b, 0)
    np.testing.assert_allclose(model(x), want, atol=1e-5 * want.max(), rtol=0)
