"""Writes the bundles that every later runtime must read: once for each released format and ABI.

    PYTHONPATH=tests python tests/artifact/old/make.py

What is there already stays: an old bundle that today's compiler wrote would prove nothing. Each has
an .npz beside it with inputs (by name) and what numpy says the outputs are (`out_0`, ...).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from zoo.build import text

import naru
from naru.artifact.bundle import FORMAT
from naru.runtime import _native

FOLDER = Path(__file__).resolve().parent
PREFIX = f"format{FORMAT}-abi{_native.ABI_VERSION}"

# Weights, a fused kernel, a symbolic size.
DENSE = """(float[n, 3] x) => (float[n, 2] y)
<float[3, 2] w = {1, 2, 3, 4, 5, 6}, float[2] b = {-20, 1}>
{ t = MatMul(x, w) s = Add(t, b) y = Relu(s) }"""
# Several outputs, one whose size only the data tell.
NONZERO = """(float[n] x) => (int64[1, k] where, float[n] y)
{ where = NonZero(x) y = Neg(x) }"""


def dense() -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    x = np.arange(12, dtype=np.float32).reshape(4, 3) - 5
    w = np.arange(1, 7, dtype=np.float32).reshape(3, 2)
    return {"x": x}, [np.maximum(x @ w + np.array([-20, 1], np.float32), 0)]


def nonzero() -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    x = np.array([0, 1, -2, 0, 0.5], np.float32)
    return {"x": x}, [np.array(np.nonzero(x)), -x]


def main() -> None:
    for name, model, case in (("dense", DENSE, dense), ("nonzero", NONZERO, nonzero)):
        path = FOLDER / f"{PREFIX}-{name}.naru"
        if path.exists():
            print(f"kept     {path.name}")
            continue
        inputs, outputs = case()
        naru.compile(text(model), target="baseline", cache=False, name=name).save(path)
        arrays: dict[str, Any] = {**inputs, **{f"out_{k}": a for k, a in enumerate(outputs)}}
        np.savez_compressed(path.with_suffix(".npz"), **arrays)
        print(f"written  {path.name}")


if __name__ == "__main__":
    main()
