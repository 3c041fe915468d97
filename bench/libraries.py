"""Measures native libraries of models: calls from C, opening, many at once, sizes.

    python bench/libraries.py            a record in bench/results, and a table

Everything is interleaved in one process with what it is compared with, one thread, pinned to one
core: the run of a library with the call of the same bundle from Python. Opening is timed in fresh
processes whose files are in the page cache. The thousand models are files of their own (copies of
one, each with its weights), all open at once.
"""

from __future__ import annotations

import ctypes as c
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))

from library import binding  # noqa: E402

from models.catalog import MODELS  # noqa: E402
from naru.bench.machine import commit, traits  # noqa: E402
from naru.building import build  # noqa: E402
from naru.compiler import compile_bundle  # noqa: E402
from naru.runtime.native_model import NativeModel  # noqa: E402

SCHEMA = 1
ROUNDS = 21
NAMES = ("mlp_784_200_10", "mobilenet_v2")
OPENED = 15
MANY = 1000


def main() -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "machine": traits(),
        "cases": [],
    }
    with tempfile.TemporaryDirectory() as work:
        for name in NAMES:
            record["cases"].append(measure(name, Path(work) / name))
            print(json.dumps(record["cases"][-1], indent=1))
        record["many"] = measure_many(Path(work))
        print(json.dumps(record["many"], indent=1))
    isa = "avx512" if "avx512f" in record["machine"].get("features", ()) else "avx2"
    path = ROOT / "bench" / "results" / f"{record['date']}-library-x86-64-{isa}-1.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(path)


def compile_c(folder: Path, name: str) -> tuple[Path, Path]:
    """The harness as a program and as a library, for the header of a model."""
    header = f'-DLIBRARY_HEADER="{name}.h"'
    source = ROOT / "bench" / "libraries.c"
    flags = ["cc", "-O2", f"-I{folder}", header, str(source)]
    program, shared = folder / "harness", folder / "harness.so"
    subprocess.run([*flags, "-o", str(program), "-ldl"], check=True)
    subprocess.run([*flags, "-fPIC", "-shared", "-o", str(shared), "-ldl"], check=True)
    return program, shared


def measure(name: str, folder: Path) -> dict[str, Any]:
    """One model: a call from C and from Python in turn, opening, sizes."""
    path = MODELS[name].path()
    made = build(path, folder, name=name)
    program, shared = compile_c(folder, name)
    bundle = NativeModel(compile_bundle(path), threads=1)
    (feed,) = MODELS[name].feeds(1)
    model = binding.Library(folder / f"{name}.so").open()
    context, inputs, outputs, results = bound(model, feed)
    harness = c.CDLL(str(shared)).time_calls
    harness.restype = c.c_double
    calls = 1
    for count in (1, 10, 100, 1000):
        harness(c.byref(model.library.table), context.pointer, inputs, outputs, count)
        calls = count
        if call_ns(bundle, feed, 1) * count > 2e7:
            break
    ratios: list[float] = []
    c_times: list[float] = []
    for _ in range(ROUNDS):
        own = harness(c.byref(model.library.table), context.pointer, inputs, outputs, calls)
        python = call_ns(bundle, feed, calls)
        c_times.append(own)
        ratios.append(own / python)
    want = bundle(feed)
    assert np.array_equal(results[0], want if not isinstance(want, tuple) else want[0])
    opened = [
        int(subprocess.check_output([program, "open", folder / f"{name}.so"]))
        for _ in range(OPENED)
    ]
    stripped = folder / "stripped.so"
    subprocess.run(["strip", "-s", "-o", stripped, folder / f"{name}.so"], check=True)
    return {
        "model": name,
        "level": model.level,
        "call_us": round(min(c_times) / 1e3, 3),
        "call_median_us": round(statistics.median(c_times) / 1e3, 3),
        "ratio_to_python": round(statistics.median(ratios), 4),
        "open_and_first_run_ms": round(min(opened) / 1e6, 3),
        "open_and_first_run_median_ms": round(statistics.median(opened) / 1e6, 3),
        "library_bytes": made.files[0].stat().st_size,
        "stripped_bytes": stripped.stat().st_size,
        "code_bytes": made.provenance["levels"][0]["code"],
    }


def bound(model: binding.Model, feed: dict[str, np.ndarray]) -> tuple[Any, Any, Any, list[Any]]:
    """A context of the sizes of a feed, and its buffers."""
    library = model.library
    sizes = {
        library.symbols[-1 - t.shape[axis]]: feed[t.name.decode()].shape[axis]
        for t in library.inputs
        for axis in range(t.rank)
        if t.shape[axis] < 0
    }
    context = model.context([sizes[s] for s in library.symbols])
    arrays = [np.ascontiguousarray(feed[t.name.decode()]) for t in library.inputs]
    results = [
        np.zeros(context.shape(k), t.dtype_name.decode()) for k, t in enumerate(library.outputs)
    ]
    inputs = (binding.Buffer * len(arrays))(
        *(binding.Buffer(a.ctypes.data, a.nbytes) for a in arrays)
    )
    outputs = (binding.Buffer * len(results))(
        *(binding.Buffer(a.ctypes.data, a.nbytes) for a in results)
    )
    inputs._keep = arrays  # the buffers point into them
    return context, inputs, outputs, results


def call_ns(model: NativeModel, feed: dict[str, np.ndarray], calls: int) -> float:
    arrays = list(feed.values())
    start = perf_counter_ns()
    for _ in range(calls):
        model(*arrays)
    return (perf_counter_ns() - start) / calls


def measure_many(work: Path) -> dict[str, Any]:
    """A thousand libraries, each a file of its own with its file of weights, open at once."""
    first = work / "first"
    build(MODELS["mlp_64_128_128_10"].path(), first, name="small")
    program, _ = compile_c(first, "small")
    paths: list[str] = []
    for k in range(MANY):
        folder = work / "many" / str(k)
        folder.mkdir(parents=True)
        for file in ("small.so", "small.weights"):
            shutil.copy(first / file, folder)
        paths.append(str(folder / "small.so"))
    listed = work / "list"
    listed.write_text("\n".join(paths) + "\n")
    times = [int(subprocess.check_output([program, "many", listed])) for _ in range(5)]
    return {"libraries": MANY, "open_and_first_run_s": round(min(times) / 1e9, 3)}


if __name__ == "__main__":
    main()
