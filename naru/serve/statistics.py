"""What is counted of a served model: the statistics extension of the protocol and the metrics both
read it. Everything is changed by the thread of the event loop alone, so plain numbers do."""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import Any

from naru.serve.refusals import Refusal
from naru.serve.tracing import Tracing

# Upper borders of the classes of the latency histogram, in seconds.
BORDERS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0,
)  # fmt: skip
_BORDERS_NS = tuple(int(b * 1e9) for b in BORDERS)
_EPOCH_NS = time.time_ns() - time.perf_counter_ns()  # Unix time where `perf_counter_ns` is 0
_MOST_BATCHES = 1000  # different numbers of rows that are counted apart: clients choose them
PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


class Statistics:
    """The counters of one version of a model since it was first loaded. Durations are sums in
    nanoseconds.

    Each answered request counts once in all of success and `PARTS`: perf_analyzer insists that
    those counts are the same.
    """

    def __init__(self, name: str, version: str, tracing: Tracing) -> None:
        self.name, self.version = name, version
        self._tracing = tracing
        self.answers = 0
        self.success_ns = self.queue_ns = 0
        self.compute_input_ns = self.compute_infer_ns = self.compute_output_ns = 0
        self.failures = self.fail_ns = 0
        self.refused: dict[str, int] = {}  # kind of refusal -> requests
        self.rows = 0  # that were inferred
        self.runs = 0
        self.batches: dict[int, list[int]] = {}  # rows -> runs, and ns of their three parts
        self.histogram = [0] * (len(BORDERS) + 1)
        self._last = 0  # when the last request was answered or refused

    @property
    def last_ms(self) -> int:
        """Unix time of the last answer or refusal, in milliseconds; 0: there was none."""
        return (self._last + _EPOCH_NS) // 1_000_000 if self._last else 0

    def answered(self, start: int, began: int, taken: int, ran: int, done: int, now: int) -> None:
        """A request that got its answer, by what `perf_counter_ns` showed: when it came, when its
        inputs were put together, when the run began and ended, when its outputs were cut out, and
        when that became known."""
        self.answers += 1
        self.success_ns += now - start
        self.queue_ns += began - start
        self.compute_input_ns += taken - began
        self.compute_infer_ns += ran - taken
        self.compute_output_ns += done - ran
        self.histogram[bisect_left(_BORDERS_NS, now - start)] += 1
        self._last = now
        if self._tracing.on:
            times = [t + _EPOCH_NS for t in (start, began, taken, ran, done, now)]
            self._tracing.see(self.name, self.version, times)

    def run(self, rows: int, taking: int, running: int, giving: int) -> None:
        """One run of the model over so many rows, and how long its parts took."""
        self.rows += rows
        self.runs += 1
        sums = self.batches.get(rows)
        if sums is None:
            if len(self.batches) < _MOST_BATCHES:
                self.batches[rows] = [1, taking, running, giving]
            return
        sums[0] += 1
        sums[1] += taking
        sums[2] += running
        sums[3] += giving

    def failed(self, refusal: Refusal, ns: int) -> None:
        """A request that was refused; who learns of it later may tell again."""
        if refusal.counted:
            return
        refusal.counted = True
        self.failures += 1
        self.fail_ns += ns
        kind = refusal.kind.name
        self.refused[kind] = self.refused.get(kind, 0) + 1
        self._last = time.perf_counter_ns()

    def as_json(self) -> dict[str, Any]:
        """One item of `model_stats` (statistics extension)."""
        zero = {"count": 0, "ns": 0}
        parts = {p: {"count": self.answers, "ns": getattr(self, f"{p}_ns")} for p in PARTS}
        return {
            "name": self.name,
            "version": self.version,
            "last_inference": self.last_ms,
            "inference_count": self.rows,
            "execution_count": self.runs,
            "inference_stats": {
                "success": {"count": self.answers, "ns": self.success_ns},
                "fail": {"count": self.failures, "ns": self.fail_ns},
                **parts,
                "cache_hit": zero,
                "cache_miss": zero,
            },
            "batch_stats": [
                {
                    "batch_size": rows,
                    **{
                        part: {"count": sums[0], "ns": ns}
                        for part, ns in zip(PARTS[1:], sums[1:], strict=True)
                    },
                }
                for rows, sums in sorted(self.batches.items())
            ],
            "memory_usage": [],
        }
