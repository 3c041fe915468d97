"""Measures single operators, naru against ONNX Runtime, one thread, inputs of about 1 MB.

    python bench/operators.py                   all: a record in bench/results, and the page
    python bench/operators.py --only Pad,TopK   operators, or beginnings of names; only prints
    python bench/operators.py --page            the page docs/operator-speed.md, from that record

Both engines are in this process, pinned to one core, and take turns: each is called for a few
milliseconds, and so on, for many rounds. A time is the least that a round gave, for what disturbs
only adds; so is the compile time, of a few. Ratios are naru's time by ONNX Runtime's.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from operator_cases import CASES, OperatorCase
from operator_page import write_page

import operator_table  # noqa: F401  # isort: skip  (fills the table)
from naru.bench.machine import commit, traits
from naru.bench.rounds import usable_cores
from naru.compiler import compile_bundle
from naru.errors import NaruError
from naru.runtime.native_model import NativeModel

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "bench" / "results", ROOT / "docs" / "operator-speed.md"
SCHEMA = 1
BLOCK = 4e-3  # seconds of a turn
COMPILES = 3

Record = dict[str, Any]
Call = Callable[[], Sequence[Any]]


def measure(case: OperatorCase, seconds: float) -> Record:
    """What the record has of a case: times in seconds, or why there are none."""
    found: Record = {"op": case.op, "domain": case.domain or "ai.onnx", "label": case.label}
    found["shapes"] = [list(o.shape) for o in case.operands if o is not None]
    model, feed = case.build()
    source = model.SerializeToString()
    calls: dict[str, Call] = {}
    try:
        found["compile"] = min(_compile_seconds(source) for _ in range(COMPILES))
        compiled = NativeModel(compile_bundle(source, cache=False), threads=1)
        calls["naru"] = lambda: compiled(feed)
        got = calls["naru"]()
        got = got if isinstance(got, tuple) else (got,)
    except NaruError as e:
        return found | {"missing": f"naru: {' '.join(str(e).split())[:200]}"}
    try:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(source, options, ["CPUExecutionProvider"])
        calls["onnxruntime"] = lambda: session.run(None, feed)
        found["error"] = _error(got, calls["onnxruntime"]())
    except Exception as e:  # its errors have no common class
        found["missing"] = f"ONNX Runtime: {_first_line(e)}"
        calls.pop("onnxruntime", None)
    return found | _times(calls, seconds)


def _compile_seconds(source: bytes) -> float:
    start = time.perf_counter()
    compile_bundle(source, cache=False)
    return time.perf_counter() - start


def _first_line(e: Exception) -> str:
    return str(e).split("\n")[0].split(" : ")[-1][:120]


def _error(got: Sequence[Any], wanted: Sequence[Any]) -> float:
    """The largest difference, by the largest value of that output. Outputs of other sizes: NaN."""
    most = 0.0
    for a, b in zip(got, wanted, strict=False):
        x, y = (np.asarray(v) for v in (a, b))
        if x.shape != y.shape:
            return float("nan")
        if not x.size or x.dtype.kind not in "fiub":
            continue
        x, y = x.astype(np.float64), y.astype(np.float64)
        finite = np.isfinite(y)
        scale = max(float(np.abs(y[finite]).max(initial=0)), 1e-30)
        most = max(most, float(np.abs(x - y)[finite].max(initial=0)) / scale)
    return most


def _times(calls: dict[str, Call], seconds: float) -> Record:
    """The least time of each, the ratio, and the quartiles of the ratios of single rounds."""
    inner = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        inner[name] = max(1, round(BLOCK / max(time.perf_counter() - start, 1e-7)))
    taken: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken["naru"]) < 5:
        for name, call in calls.items():
            call()
            start = time.perf_counter()
            for _ in range(inner[name]):
                call()
            taken[name].append((time.perf_counter() - start) / inner[name])
    found: Record = {name: min(times) for name, times in taken.items()}
    if "onnxruntime" in found:
        found["ratio"] = found["naru"] / found["onnxruntime"]
        rounds = np.divide(taken["naru"], taken["onnxruntime"])
        found["quartiles"] = [float(q) for q in np.quantile(rounds, (0.25, 0.75))]
    return found


def new_record(cases: list[Record]) -> Record:
    return {
        "schema": SCHEMA,
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "machine": traits(),
        "onnxruntime": onnxruntime.__version__,
        "cases": cases,
    }


def newest() -> Record:
    """The latest record; NaruError where there is none."""
    paths = sorted(RESULTS.glob("*-operators-*.json"))
    if not paths:
        raise NaruError("bench/results has no record of operators", hint="make bench-operators")
    return json.loads(paths[-1].read_text(encoding="utf-8"))


def chosen(names: str | None) -> list[OperatorCase]:
    """All cases, or those whose names begin so (`Pad`; `Pad$` is the operator alone)."""
    if not names:
        return CASES
    wanted = names.split(",")
    return [
        c for c in CASES
        if any(c.op == w[:-1] if w.endswith("$") else c.name.startswith(w) for w in wanted)
    ]  # fmt: skip


def tell(k: int, count: int, case: Record) -> None:
    """A line of what was found."""
    name = f"{case['op']} {case['label']}"
    if "naru" not in case:
        print(f"{k:4}/{count} {name:40} {case['missing']}", flush=True)
        return
    other = case.get("onnxruntime")
    ratio = f"{case['ratio']:6.2f} {other * 1e6:10.1f}" if other else f"{'':17}"
    error = f"{case['error']:8.1e}" if "error" in case else ""
    print(
        f"{k:4}/{count} {name:40} {ratio} {case['naru'] * 1e6:10.1f} us  "
        f"compile {case['compile'] * 1e3:6.0f} ms  {error} {case.get('missing', '')}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="single operators against ONNX Runtime")
    parser.add_argument("--only", metavar="NAMES", help="with commas; nothing is recorded")
    parser.add_argument("--seconds", type=float, default=0.5, help="of rounds, for each case")
    parser.add_argument("--page", action="store_true", help="only write the page again")
    parser.add_argument("--output", type=Path, help="write the record here")
    args = parser.parse_args()
    try:
        if args.page:
            write_page(PAGE, newest())
            return 0
        if cores := usable_cores():
            os.sched_setaffinity(0, {cores[-1]})
        cases: list[Record] = []
        todo = chosen(args.only)
        for k, case in enumerate(todo, 1):
            cases.append(measure(case, args.seconds))
            tell(k, len(todo), cases[-1])
        record = new_record(cases) if not args.only or args.output else {}
        output: Path | None = args.output
        if record and not output:
            machine = record["machine"]
            name = f"{record['date']}-operators-{machine['target']}-{machine['cores']}.json"
            output = RESULTS / name
        if output:
            output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        if not args.only and not args.output:
            write_page(PAGE, record)
    except NaruError as e:
        print(f"bench: error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
