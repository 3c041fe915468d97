"""What is counted of a served model: the statistics extension of the protocol and the metrics both
read it. Everything is changed by the thread of the event loop alone, so plain numbers do."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

from naru.serve.refusals import Refusal

# Upper borders of the classes of the latency histogram, in seconds.
BORDERS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0,
)  # fmt: skip
_BORDERS_NS = tuple(int(b * 1e9) for b in BORDERS)


class Duration:
    """How often something took place, and how long in sum, in nanoseconds."""

    __slots__ = ("count", "ns")

    def __init__(self) -> None:
        self.count = 0
        self.ns = 0

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns

    def as_json(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


class Statistics:
    """The counters of one version of a model since it was first loaded.

    The counts of success, queue, compute_input, compute_infer and compute_output are the same at
    any time: each answered request adds one to each (perf_analyzer insists).
    """

    def __init__(self) -> None:
        self.success, self.fail, self.queue = Duration(), Duration(), Duration()
        self.compute_input, self.compute_infer = Duration(), Duration()
        self.compute_output = Duration()
        self.rows = 0  # that were inferred
        self.runs = 0
        self.last_ms = 0  # when the last request came, in milliseconds of Unix time
        self.refused: dict[str, int] = {}  # kind of refusal -> requests
        self.batches: dict[int, tuple[Duration, Duration, Duration]] = {}  # by rows
        self.histogram = [0] * (len(BORDERS) + 1)

    def answered(self, start: int, queued: int, taken: int, ran: int, done: int, now: int) -> None:
        """A request that got its answer, by what the clock showed, in nanoseconds: when it came,
        when its inputs were put together, when the run began and ended, and when its outputs were
        cut out; `now`: when that became known."""
        total = now - start
        self.success.add(total)
        self.queue.add(queued - start)
        self.compute_input.add(taken - queued)
        self.compute_infer.add(ran - taken)
        self.compute_output.add(done - ran)
        self.histogram[bisect_left(_BORDERS_NS, total)] += 1
        self.last_ms = time.time_ns() // 1_000_000

    def run(self, rows: int, taking: int, running: int, giving: int) -> None:
        """One run of the model over so many rows, and how long its parts took."""
        self.rows += rows
        self.runs += 1
        parts = self.batches.get(rows)
        if parts is None:
            if len(self.batches) >= 1000:  # callers choose the number of rows
                return
            parts = self.batches[rows] = (Duration(), Duration(), Duration())
        parts[0].add(taking)
        parts[1].add(running)
        parts[2].add(giving)

    def failed(self, refusal: Refusal, ns: int) -> None:
        """A request that was refused; who learns of it later may tell again."""
        if refusal.counted:
            return
        refusal.counted = True
        self.fail.add(ns)
        kind = refusal.kind.name
        self.refused[kind] = self.refused.get(kind, 0) + 1
        self.last_ms = time.time_ns() // 1_000_000

    def as_json(self, name: str, version: str) -> dict[str, Any]:
        """One item of `model_stats` (statistics extension)."""
        zero = Duration().as_json()
        parts: Mapping[str, Duration] = {
            "success": self.success,
            "fail": self.fail,
            "queue": self.queue,
            "compute_input": self.compute_input,
            "compute_infer": self.compute_infer,
            "compute_output": self.compute_output,
        }
        return {
            "name": name,
            "version": version,
            "last_inference": self.last_ms,
            "inference_count": self.rows,
            "execution_count": self.runs,
            "inference_stats": {
                **{k: d.as_json() for k, d in parts.items()},
                "cache_hit": zero,
                "cache_miss": zero,
            },
            "batch_stats": [
                {
                    "batch_size": rows,
                    "compute_input": taking.as_json(),
                    "compute_infer": running.as_json(),
                    "compute_output": giving.as_json(),
                }
                for rows, (taking, running, giving) in sorted(self.batches.items())
            ],
            "memory_usage": [],
        }
