"""Compiling, as a user meets it: in a fresh process, from before `import naru` to a model that can
be called. First with an empty cache, on all cores, then with a full one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from naru import knobs
from naru.artifact.bundle import Bundle
from naru.artifact.formulas import formula
from naru.bench.worker import Refused, without_paths

ROOT = Path(__file__).resolve().parent.parent.parent  # where `naru` is imported from

# Peak sizes are of the process, and of the largest of its workers.
PROGRAM = """
import json, sys, time
start = time.perf_counter()
import naru
try:
    model = naru.compile(sys.argv[1], precision=sys.argv[2], target=sys.argv[4] or None)
except naru.NaruError as e:
    sys.exit(json.dumps({"error": str(e)}))
found = {"seconds": time.perf_counter() - start}
try:
    import resource
except ImportError:
    pass
else:
    unit = 1 if sys.platform == "darwin" else 1024
    for name in "SELF", "CHILDREN":
        usage = resource.getrusage(getattr(resource, "RUSAGE_" + name))
        found["peak_" + name.lower()] = usage.ru_maxrss * unit
if sys.argv[3]:
    model.save(sys.argv[3])
print(json.dumps(found))
"""


def run_python(program: str, *args: object, cache: Path | None = None) -> str:
    """The last line that a program prints, in an environment as an installation has it: compiled
    Python files are kept. Refused with the last line of its messages when it fails."""
    env = knobs.child_environment(PYTHONDONTWRITEBYTECODE="", PYTHONPATH=str(ROOT))
    if cache is not None:
        env[knobs.variable("cache_dir")] = str(cache)
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, args)],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise Refused(without_paths(_reason(last)))
    return done.stdout.strip().rpartition("\n")[2]


def _reason(line: str) -> str:
    """The first line of an error that the program reports, else the line itself."""
    if not line.startswith('{"error"'):
        return line
    return " ".join(json.loads(line)["error"].split())


def measure_compile(
    model: Path,
    bundle: Path,
    cache: Path,
    *,
    precision: str,
    isa: str,
    repeat: int,
) -> dict[str, Any]:
    """Writes the bundle; {"cold", "cached": seconds, "peak", "peak_worker": bytes where known}.
    `isa`: naru's target, this machine's if empty. `repeat` is of the cached kind. Refused when naru
    cannot compile the model."""
    first = json.loads(run_python(PROGRAM, model, precision, bundle, isa, cache=cache))
    cached = [
        json.loads(run_python(PROGRAM, model, precision, "", isa, cache=cache))["seconds"]
        for _ in range(repeat)
    ]
    return {
        "cold": first["seconds"],
        "cached": float(np.median(cached)),
        "peak": first.get("peak_self"),
        "peak_worker": first.get("peak_children"),
    }


def count_flops(bundle: Bundle, sizes: dict[str, int]) -> int | None:
    """Floating-point operations of a run, a multiply-add being two, by the formulas of its kernels.
    None where one of them depends on what only the kernel knows."""
    kernels = {k["name"]: k for k in bundle.manifest.get("kernels", [])}
    counts = [
        formula(kernels[n].get("flops"), sizes) for n in bundle.entries[0].steps if n in kernels
    ]
    return None if None in counts else sum(c for c in counts if c is not None)
