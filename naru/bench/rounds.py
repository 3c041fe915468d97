"""Rounds: every way of calling in turn, in random order, between two probes of the roofs."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from naru.bench.estimate import Roofs, Round, Rounds
from naru.roofs import TILES
from naru.runtime import _native

READ_PROBE = 1 << 20  # bytes: in the second-level cache or just beyond, where neighbours are felt
SETTLE = 0.1  # seconds until an engine's threads no longer spin for more work
LEAST_ROUNDS = 3

Turn = Callable[
    [float, bool], Mapping[str, Any]
]  # times one way: seconds, cold -> `timing`'s reply


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a case is measured: `rounds` that count (more are tried while some are discarded)
    within `budget` seconds a regime, of which a way gets at most `longest` in a round."""

    rounds: int = 15
    budget: float = 30.0
    longest: float = 0.15
    repeat: int = 3  # of what happens once, such as compiling

    def slice(self, ways: int) -> float:
        """Seconds of a way in a round: so short that half of the budget suffices."""
        return min(self.longest, self.budget / 2 / self.rounds / max(1, ways))


def usable_cores() -> list[int]:
    """The numbers of the cores that this process may use; none where cores cannot be chosen."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def probe(cores: Sequence[int]) -> Roofs:
    """The roofs of each core now: fp32 GFLOP/s of its widest vectors, GB/s of `READ_PROBE`. Where
    no core can be chosen there is one, number -1."""
    if not cores:
        return {-1: _probe()}
    usual = os.sched_getaffinity(0)
    found: dict[int, Mapping[str, float]] = {}
    try:
        for core in cores:
            os.sched_setaffinity(0, {core})
            found[core] = _probe()
    finally:
        os.sched_setaffinity(0, usual)
    return found


def _probe() -> dict[str, float]:
    fp32 = [rate for isa, rate in _native.probe_fma().items() if isa != TILES]
    return {"fma": max(fp32), "read": _native.probe_read(READ_PROBE)}


def measure_rounds(
    turns: Mapping[str, Turn],
    cores: Sequence[int],
    effort: Effort,
    *,
    cold: bool = False,
    spinning: Collection[str] = (),
    on_round: Callable[[int, int], None] = lambda done, wanted: None,
    probe: Callable[[Sequence[int]], Roofs] = probe,
) -> Rounds:
    """Rounds until enough are steady or the budget is spent, three at least. `turns` times each
    way; after those that are `spinning` it waits, for their threads to stop; `on_round` is told how
    many count so far, of how many."""
    seconds, end = effort.slice(len(turns)), time.perf_counter() + effort.budget
    tried: list[Round] = []
    steady = 0
    before = probe(cores)
    while steady < effort.rounds and (len(tried) < LEAST_ROUNDS or time.perf_counter() < end):
        times: dict[str, Mapping[str, Any]] = {}
        for way in random.sample(list(turns), len(turns)):
            times[way] = turns[way](seconds, cold)
            if way in spinning:
                time.sleep(SETTLE)
        after = probe(cores)
        tried.append(Round(before, times, after))
        steady += not tried[-1].disturbed
        before = after
        on_round(steady, effort.rounds)
    return Rounds.chosen(tried)
