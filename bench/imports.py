"""What importing takes: wall time of a Python that does it, less that of one that does nothing."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from naru.bench.compiling import run_python

IMPORTS = {
    "python": "pass",
    "numpy": "import numpy",
    "naru": "import naru",
    "naru.load": "import naru; naru.load",
    "onnxruntime": "import onnxruntime",
}


def measure_imports(repeat: int) -> dict[str, Any]:
    """{name: {"median", "least", "most": seconds, "count"}}, in `repeat` turns."""
    for program in IMPORTS.values():
        run_python(program)  # so that every file has been read once
    rounds: list[dict[str, float]] = []
    for _ in range(repeat):
        taken: dict[str, float] = {}
        for name, program in IMPORTS.items():
            start = time.perf_counter()
            run_python(program)
            taken[name] = time.perf_counter() - start
        rounds.append(taken)
    return {
        name: _spread([r[name] - r["python"] for r in rounds])
        for name in IMPORTS
        if name != "python"
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": float(np.median(values)),
        "least": min(values),
        "most": max(values),
        "count": len(values),
    }
