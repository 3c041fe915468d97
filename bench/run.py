"""Measures naru against ONNX Runtime, in one run.

    python bench/run.py                   everything; writes results/<date>-<target>-<cores>.json
    python bench/run.py --quick           a few short rounds, to see that it works; records nothing
    python bench/run.py --only resnet50   one case (repeatable; also compile, load, import)

Every engine has a process of its own. They take turns on one core, in random order, A B B A …; the
machine's roofs are probed between the rounds; a round in which they drift, or in which an engine
had to share its core, is discarded.
bench/results/README.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import report
import startup
from cases import CASES, ROOT, Case
from engines import ENGINES, serve, write_feeds
from estimate import disturbed, errors, summary
from machine import commit, traits

from naru.runtime import _native

RESULTS = ROOT / "bench" / "results"
TIMED = (("naru", "call"), ("onnxruntime", "run"), ("onnxruntime", "io_binding"))
STARTUP = ("compile", "load", "import")
READ_PROBE = 1 << 20  # bytes: in the second-level cache, which a neighbour's work disturbs


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds that count, rounds tried at most, seconds a call and round."""

    rounds: int
    tried: int
    seconds: float
    repeat: int  # of what happens once


FULL = Effort(rounds=21, tried=63, seconds=0.4, repeat=9)
QUICK = Effort(rounds=3, tried=6, seconds=0.05, repeat=2)


class Worker:
    """An engine's process. `ask` sends a request and waits for the reply."""

    def __init__(self, engine: str) -> None:
        env = startup.environment() | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.engine = engine
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--engine", engine],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.engine} ended while doing {request['do']}")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def probe(core: int) -> dict[str, float]:
    """The roofs of a core now: fp32 GFLOP/s of its widest vectors, GB/s from the second level."""
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        return {"fma": max(_native.probe_fma().values()), "read": _native.probe_read(READ_PROBE)}
    finally:
        os.sched_setaffinity(0, usual)


def measure_rounds(
    workers: dict[str, Worker], core: int, effort: Effort
) -> tuple[list[dict[str, Any]], int, bool]:
    """(rounds that count, how many were discarded, whether too few were steady and all count)."""
    steady: list[dict[str, Any]] = []
    every: list[dict[str, Any]] = []
    before = probe(core)
    while len(steady) < effort.rounds and len(every) < effort.tried:
        seconds: dict[str, Any] = {}
        for engine, call in random.sample(TIMED, len(TIMED)):
            seconds[f"{engine}.{call}"] = workers[engine].ask(
                do="time", call=call, seconds=effort.seconds
            )
        after = probe(core)
        fma = (before["fma"] + after["fma"]) / 2
        every.append({"fma": fma, "read": after["read"], "seconds": seconds})
        if not disturbed(before, after, seconds):
            steady.append(every[-1])
        before = after
    noisy = len(steady) < effort.rounds // 2
    return (every if noisy else steady), len(every) - len(steady), noisy


def measure_case(case: Case, folder: Path, core: int, effort: Effort) -> dict[str, Any]:
    """Everything about one case: errors first, then memory, then time."""
    model = case.model()
    onnx_file, feeds, bundle = (folder / f"{case.name}.{x}" for x in ("onnx", "npz", "naru"))
    onnx_file.write_bytes(model)
    write_feeds(feeds, case.inputs(model))
    startup.compile_bundle(onnx_file, bundle, folder / "cache")
    workers = {name: Worker(name) for name in ENGINES}
    try:
        outputs: dict[str, list[np.ndarray]] = {}
        found: dict[str, Any] = {"name": case.name, "about": case.about, "memory": {}}
        for name, worker in workers.items():
            file = folder / f"{case.name}-{name}.npz"
            source = bundle if name == "naru" else onnx_file
            worker.ask(do="load", model=str(source), feeds=str(feeds), core=core)
            found["memory"][name] = worker.ask(do="run", output=str(file))["memory"]
            with np.load(file) as data:
                outputs[name] = list(data.values())
        reference = outputs.pop("reference")
        found["memory"].pop("reference")
        workers.pop("reference").close()
        found["errors"] = {name: errors(got, reference) for name, got in outputs.items()}
        rounds, discarded, noisy = measure_rounds(workers, core, effort)
    finally:
        for worker in workers.values():
            worker.close()
    roofs = {k: float(np.median([r[k] for r in rounds])) for k in ("fma", "read")}
    found |= {"rounds": len(rounds), "discarded": discarded, "noisy": noisy, "roofs": roofs}
    return found | summary(rounds, "naru.call", case.flops)


def measure_startup(parts: Sequence[str], folder: Path, effort: Effort) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "import" in parts:
        tell("import")
        found["import"] = startup.measure_import(repeat=effort.repeat)
    if "compile" in parts or "load" in parts:
        model, bundle = folder / "resnet50.onnx", folder / "resnet50.naru"
        model.write_bytes(CASES["resnet50"].model())
        if "compile" in parts:
            tell("compile")
            found["compile"] = startup.measure_compile(model, folder, repeat=effort.repeat)
        else:
            startup.compile_bundle(model, bundle, folder / "cache0")
        if "load" in parts:
            tell("load")
            found["load"] = startup.measure_load(model, bundle, repeat=effort.repeat)
    return found


def tell(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {what}", file=sys.stderr, flush=True)


def measure(names: Sequence[str], effort: Effort, core: int) -> dict[str, Any]:
    """The whole of a run, as values for JSON."""
    found: dict[str, Any] = {
        "schema": 1,
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "threads": 1,
        "machine": traits(),
        "cases": [],
        "startup": {},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case in CASES.values():
            if case.name in names:
                tell(case.name)
                found["cases"].append(measure_case(case, folder, core, effort))
        found["startup"] = measure_startup([n for n in names if n in STARTUP], folder, effort)
    found["aims"] = report.aims(found)
    return found


def result_file(results: dict[str, Any]) -> Path:
    machine = results["machine"]
    return RESULTS / f"{results['date']}-{machine['target']}-{machine['cores']}.json"


def parse_arguments() -> argparse.Namespace:
    names = [*CASES, *STARTUP]
    parser = argparse.ArgumentParser(description="naru against ONNX Runtime")
    parser.add_argument("--quick", action="store_true", help="short rounds; nothing is recorded")
    parser.add_argument(
        "--only",
        action="append",
        choices=names,
        metavar="NAME",
        help=f"one of: {', '.join(names)}; repeatable; nothing is recorded",
    )
    parser.add_argument("--threads", type=int, choices=[1], default=1, help="of every engine")
    parser.add_argument(
        "--core",
        type=int,
        default=max(os.sched_getaffinity(0)),
        help="where all engines run (default: the last)",
    )
    parser.add_argument("--output", type=Path, help="write the results here, whatever was measured")
    parser.add_argument("--engine", choices=list(ENGINES), help=argparse.SUPPRESS)
    return parser.parse_args()  # fmt: skip


def main() -> int:
    args = parse_arguments()
    if args.engine:
        serve(args.engine)
        return 0
    names = args.only or [*CASES, *STARTUP]
    results = measure(names, QUICK if args.quick else FULL, args.core)
    print(report.show(results))
    file = args.output or (None if args.quick or args.only else result_file(results))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"\nwritten: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
