"""From rounds of measurements to figures that can be stood by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

RESAMPLES = 4000
DRIFT = 0.05  # the disturbance from which a round says nothing

Roofs = Mapping[int, Mapping[str, float]]  # of each core: {"fma": GFLOP/s, "read": GB/s}
Times = Mapping[str, Mapping[str, float]]  # of each way: what `timing` gives


@dataclass(frozen=True, slots=True)
class Round:
    """Each way's times, and the roofs just before and just after."""

    before: Roofs
    times: Times
    after: Roofs

    @property
    def disturbed(self) -> bool:
        """Whether a roof differs between the ends, or an engine had to share its core."""
        drift = max(
            abs(after - before) / max(after, before)
            for core, roofs in self.before.items()
            for before, after in ((roofs[k], self.after[core][k]) for k in roofs)
        )
        return drift > DRIFT or min(t["share"] for t in self.times.values()) < 1 - DRIFT

    def fma(self, cores: Sequence[int]) -> float:
        """GFLOP/s of some cores together, the mean of both ends."""
        return sum((self.before[c]["fma"] + self.after[c]["fma"]) / 2 for c in cores)


@dataclass(frozen=True, slots=True)
class Rounds:
    """The rounds that count. `discarded` were disturbed; where that is more than half of those
    that were tried, all count and the figures are `noisy`."""

    counted: tuple[Round, ...]
    discarded: int
    noisy: bool = field(default=False)

    @classmethod
    def chosen(cls, tried: Sequence[Round]) -> Rounds:
        steady = tuple(r for r in tried if not r.disturbed)
        noisy = 2 * len(steady) < len(tried)
        return cls(tuple(tried) if noisy else steady, len(tried) - len(steady), noisy)

    def as_json(self) -> dict[str, Any]:
        return {"counted": len(self.counted), "discarded": self.discarded, "noisy": self.noisy}

    def values(self, way: str, key: str = "median") -> list[float]:
        return [r.times[way][key] for r in self.counted]

    def seconds(self, way: str) -> dict[str, Any]:
        """Medians over rounds of a call's median and tenth percentile, and the number of calls."""
        return {
            "median": float(np.median(self.values(way))),
            "p10": float(np.median(self.values(way, "p10"))),
            "calls": int(sum(self.values(way, "calls"))),
        }

    def ratio(self, way: str, other: str) -> dict[str, float]:
        """`way`'s time by `other`'s, in the same round: median and interval."""
        pairs = zip(self.values(way), self.values(other), strict=True)
        return median_with_interval([a / b for a, b in pairs])

    def roofs(self) -> dict[str, float]:
        """Medians over rounds and cores of what a core could do: {"fma": GFLOP/s, "read": GB/s}."""
        probes = [roofs for r in self.counted for roofs in r.before.values()]
        return {k: float(np.median([p[k] for p in probes])) for k in probes[0]}

    def roof_share(self, way: str, flops: float, cores: Sequence[int]) -> dict[str, float]:
        """Operations by time, by what the cores could do in the same round."""
        return median_with_interval(
            [flops / r.times[way]["median"] / 1e9 / r.fma(cores) for r in self.counted]
        )


def median_with_interval(values: Sequence[float]) -> dict[str, float]:
    """The median and its 95% confidence interval by bootstrap (resampling with a fixed seed)."""
    given = np.asarray(values, np.float64)
    rng = np.random.Generator(np.random.PCG64(1))
    drawn = rng.integers(0, len(given), (RESAMPLES, len(given)))
    low, high = np.quantile(np.median(given[drawn], axis=1), [0.025, 0.975])
    return {"median": float(np.median(given)), "low": float(low), "high": float(high)}
