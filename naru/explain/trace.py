"""Runs of a model as a Chrome trace (Trace Event Format), for chrome://tracing and Perfetto.

A step is the driver's view: from when all threads had finished the step before to when all had
finished this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from naru.artifact.bundle import Bundle
from naru.explain.report import Row

Json = dict[str, Any]

_PROCESS, _RUNS, _STEPS = 1, 1, 2  # pid, and the tids of the two lanes


def make_trace(bundle: Bundle, rows: Sequence[Row], times: NDArray[np.int64], threads: int) -> Json:
    """The trace of runs. `times` int64[runs, steps + 1]: nanoseconds before each step and at the
    end, of one clock; `rows` as `explain` gives them, for what the kernels are."""
    names = next(e for e in bundle.entries if e.name == "profile").steps
    steps: Sequence[Json] = bundle.manifest.get("steps", [])
    by_name = {r.name: r for r in rows}
    arguments = [_arguments(by_name.get(n), steps[k] if k < len(steps) else {})
                 for k, n in enumerate(names)]  # fmt: skip
    events = [*_lanes(str(bundle.manifest["source"].get("name") or "model"), threads)]
    origin = int(times[0, 0]) if times.size else 0
    for number, marks in enumerate((times - origin) / 1e3):  # microseconds
        events.append(_event(f"run {number}", "run", _RUNS, marks[0], marks[-1], {"run": number}))
        for k, name in enumerate(names):
            kind = by_name[name].kind if name in by_name else "other"
            start, end = marks[k], marks[k + 1]
            args = {**arguments[k], **_rates(by_name.get(name), (end - start) * 1e3)}
            events.append(_event(name, kind, _STEPS, start, end, args))
    return {"traceEvents": events, "displayTimeUnit": "ns"}


def _lanes(model: str, threads: int) -> Iterator[Json]:
    """Names of the process and its lanes."""
    plural = "" if threads == 1 else "s"
    named = {"process_name": (0, model), "thread_name": (_RUNS, "runs")}
    for what, (tid, name) in named.items():
        yield {"ph": "M", "pid": _PROCESS, "tid": tid, "name": what, "args": {"name": name}}
    lane = {"name": f"steps, {threads} thread{plural}"}
    yield {"ph": "M", "pid": _PROCESS, "tid": _STEPS, "name": "thread_name", "args": lane}


def _event(name: str, kind: str, lane: int, start: float, end: float, args: Json) -> Json:
    span = {"ts": round(float(start), 3), "dur": round(float(end - start), 3)}
    return {
        "ph": "X",
        "pid": _PROCESS,
        "tid": lane,
        "name": name,
        "cat": kind,
        **span,
        "args": args,
    }


def _arguments(row: Row | None, step: Json) -> Json:
    """What is the same in every run."""
    args: Json = {"nodes": [" ".join(filter(None, pair)) for pair in step.get("nodes", ())]}
    if row is None:
        return args
    args |= {"ops": row.record.get("ops", []), "shape": row.record.get("shape", "")}
    if row.measured and row.measured.flops is not None:
        args["flops"] = row.measured.flops // row.measured.calls
    if row.measured and row.measured.bytes is not None:
        args["bytes"] = row.measured.bytes // row.measured.calls
    return args


def _rates(row: Row | None, ns: float) -> Json:
    """GFLOP/s and the share of one core's roof, of one call that took `ns`."""
    if row is None or row.measured is None or ns <= 0:
        return {}
    found: Json = {}
    if row.measured.flops:
        found["GFLOP/s"] = round(row.measured.flops / row.measured.calls / ns, 2)
    if row.bound:
        found["% of the roof of one core"] = round(100 * row.bound.ns / row.measured.calls / ns, 1)
    return found
