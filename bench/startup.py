"""What happens once: compiling, loading, importing. Each in fresh processes, as a user meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from cases import ROOT

# Prints seconds from before `import naru` to a model that can be called.
COMPILE = """
import sys, time
start = time.perf_counter()
import naru
model = naru.compile(sys.argv[1])
print(time.perf_counter() - start)
if len(sys.argv) > 2:
    model.save(sys.argv[2])
"""

# Prints a list of seconds: loading the same file many times in one process, after once in vain.
LOAD = """
import json, sys, time
import naru
naru.load(sys.argv[1])
found = []
for _ in range(int(sys.argv[2])):
    start = time.perf_counter()
    naru.load(sys.argv[1])
    found.append(time.perf_counter() - start)
print(json.dumps(found))
"""

LOAD_ONNXRUNTIME = """
import json, sys, time
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
found = []
for _ in range(1 + int(sys.argv[2])):
    start = time.perf_counter()
    ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    found.append(time.perf_counter() - start)
print(json.dumps(found[1:]))
"""

IMPORTS = {
    "python": "pass",
    "numpy": "import numpy",
    "naru": "import naru",
    "naru.load": "import naru; naru.load",
    "onnxruntime": "import onnxruntime",
}


def environment(cache: Path | None = None) -> dict[str, str]:
    """For child processes: compiled Python files are kept, as in an installation."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPATH"] = str(ROOT)
    if cache is not None:
        env["NARU_CACHE_DIR"] = str(cache)
    return env


def run_python(program: str, *args: object, cache: Path | None = None) -> str:
    """The last line that a program prints. RuntimeError with its messages when it fails."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, args)],
        env=environment(cache), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.strip().rpartition("\n")[2]


def compile_bundle(model: Path, bundle: Path, cache: Path) -> float:
    """Compiles a model in a process of its own and saves the bundle; seconds."""
    return float(run_python(COMPILE, model, bundle, cache=cache))


def measure_compile(model: Path, folder: Path, *, repeat: int) -> dict[str, Any]:
    """ResNet-50, on all cores: with an empty cache, and with a full one. Both with the imports."""
    cold = [
        compile_bundle(model, folder / "resnet50.naru", folder / f"cache{k}")
        for k in range(1 if repeat < 5 else 3)
    ]
    cached = [float(run_python(COMPILE, model, cache=folder / "cache0")) for _ in range(repeat)]
    return {"cold": _spread(cold), "cached": _spread(cached), "cores": os.cpu_count()}


def measure_load(model: Path, bundle: Path, *, repeat: int) -> dict[str, Any]:
    """Loading ResNet-50 from a file that the operating system has in memory."""
    return {
        "naru": _spread(json.loads(run_python(LOAD, bundle, repeat * 10))),
        "onnxruntime": _spread(json.loads(run_python(LOAD_ONNXRUNTIME, model, repeat))),
    }


def measure_import(*, repeat: int) -> dict[str, Any]:
    """Wall time of a Python that imports something, less that of one that does not, in turn."""
    for program in IMPORTS.values():
        run_python(program)
    rounds: list[dict[str, float]] = []
    for _ in range(repeat * 2):
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
