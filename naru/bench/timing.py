"""Timing one way of calling, inside the engine's process."""

from __future__ import annotations

import gc
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from naru.bench.engines import Way

BLOCK = 20e-6  # seconds: shorter calls are timed many at once, for the clock takes 50 ns
LEAST_BLOCKS, MOST_BLOCKS = 3, 100_000
QUICK = 1e-3  # seconds: what is shorter is called with every input before it is timed
SWEEP_BYTES = 64 << 20  # more than the caches that a core has to itself


def time_hot(way: Way, seconds: float) -> dict[str, Any]:
    """Calls back to back. Median and tenth percentile in seconds, number of calls, and `share`: how
    much of a core the process had meanwhile. Three blocks of calls at least, so that the time may
    exceed `seconds`; a call longer than `seconds` is made once."""
    once = _warm(way)
    size = max(1, round(BLOCK / once))
    blocks = min(MOST_BLOCKS, round(seconds / (size * once)))
    blocks = max(1 if once > seconds else LEAST_BLOCKS, blocks)
    turn = cycle(way.arguments)
    taken = np.empty(blocks)
    with _Undisturbed() as watch:
        for k in range(blocks):
            chosen = list(islice(turn, size))
            start = time.perf_counter()
            for x in chosen:
                way.call(x)
            taken[k] = time.perf_counter() - start
    return _figures(taken / size, blocks * size, watch.share)


def time_cold(way: Way, seconds: float) -> dict[str, Any]:
    """The same with the caches swept before every call: 64 MiB are read and written. At least three
    calls, or one that is longer than `seconds`."""
    sweep = np.zeros(SWEEP_BYTES // 8)
    start = time.perf_counter()
    sweep += 1.0
    once = _warm(way)
    calls = max(1 if once > seconds else LEAST_BLOCKS, round(seconds / _since(start)))
    turn = cycle(way.arguments)
    taken = np.empty(calls)
    with _Undisturbed() as watch:
        for k in range(calls):
            x = next(turn)
            sweep += 1.0
            start = time.perf_counter()
            way.call(x)
            taken[k] = time.perf_counter() - start
    return _figures(taken, calls, watch.share)


def _warm(way: Way) -> float:
    """Seconds of a call, after one in vain: the caches belonged to another engine before."""
    way.call(way.arguments[0])
    start = time.perf_counter()
    way.call(way.arguments[-1])
    once = _since(start)
    if once < QUICK:
        start = time.perf_counter()
        for x in way.arguments:
            way.call(x)
        once = _since(start) / len(way.arguments)
    return max(once, 1e-8)


def _since(start: float) -> float:
    return time.perf_counter() - start


class _Undisturbed:
    """A block without garbage collection; afterwards `share` is CPU time by wall time."""

    def __enter__(self) -> _Undisturbed:
        gc.collect()
        gc.disable()
        self._wall, self._used = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.share = (time.process_time() - self._used) / _since(self._wall)
        gc.enable()


def _figures(taken: np.ndarray[Any, np.dtype[np.float64]], calls: int, share: float) -> Any:
    return {
        "median": float(np.median(taken)),
        "p10": float(np.quantile(taken, 0.1)),
        "calls": calls,
        "share": share,
    }


def memory() -> dict[str, int]:
    """Resident bytes of this process: now, of these private (not mapped files), and at most. Empty
    where there is no /proc."""
    wanted = {"VmRSS": "now", "RssAnon": "private", "VmHWM": "peak"}
    found: dict[str, int] = {}
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="ascii").splitlines() if status.exists() else ():
        key, _, value = line.partition(":")
        if key in wanted:
            found[wanted[key]] = int(value.split()[0]) * 1024
    return found
