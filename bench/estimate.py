"""From rounds of measurements to figures that can be stood by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

RESAMPLES = 4000
DRIFT = 0.05  # the disturbance from which a round says nothing


def median_with_interval(values: Sequence[float]) -> dict[str, float]:
    """The median and its 95% confidence interval by bootstrap (resampling with a fixed seed)."""
    given = np.asarray(values, np.float64)
    rng = np.random.Generator(np.random.PCG64(1))
    drawn = rng.integers(0, len(given), (RESAMPLES, len(given)))
    low, high = np.quantile(np.median(given[drawn], axis=1), [0.025, 0.975])
    return {"median": float(np.median(given)), "low": float(low), "high": float(high)}


def disturbed(
    before: dict[str, float], after: dict[str, float], seconds: dict[str, dict[str, float]]
) -> bool:
    """Whether a probe differs between the ends of a round, or an engine had to share its core."""
    drift = max(abs(after[k] - before[k]) / max(after[k], before[k]) for k in before)
    return drift > DRIFT or min(s["share"] for s in seconds.values()) < 1 - DRIFT


def errors(got: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> dict[str, float]:
    """Of all outputs the worst: largest error relative to the output's largest value, and
    root mean square of the error relative to that of the output."""
    worst = {"max": 0.0, "rms": 0.0}
    for a, b in zip(got, reference, strict=True):
        difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
        size = np.abs(b.astype(np.float64))
        scale = {"max": size.max(initial=0.0), "rms": np.sqrt(np.mean(size**2))}
        error = {"max": difference.max(initial=0.0), "rms": np.sqrt(np.mean(difference**2))}
        for kind in worst:
            worst[kind] = max(worst[kind], float(error[kind] / max(scale[kind], 1e-300)))
    return worst


def summary(rounds: Sequence[dict[str, Any]], baseline: str, flops: float) -> dict[str, Any]:
    """Of rounds {"fma": GFLOP/s, "seconds": {call: {median, p10, calls}}}: medians of each call,
    ratios of `baseline` to the others in the same round, and the share of the roof."""
    calls = rounds[0]["seconds"]
    found: dict[str, Any] = {
        "seconds": {
            c: {
                "median": float(np.median([r["seconds"][c]["median"] for r in rounds])),
                "p10": float(np.median([r["seconds"][c]["p10"] for r in rounds])),
                "calls": sum(r["seconds"][c]["calls"] for r in rounds),
            }
            for c in calls
        },
        "ratios": {
            c: median_with_interval(
                [r["seconds"][baseline]["median"] / r["seconds"][c]["median"] for r in rounds]
            )
            for c in calls
            if c != baseline
        },
    }
    if flops:
        rates = {c: [flops / r["seconds"][c]["median"] / 1e9 for r in rounds] for c in calls}
        found["gflops"] = {c: float(np.median(v)) for c, v in rates.items()}
        found["roof_share"] = {
            c: median_with_interval([g / r["fma"] for g, r in zip(v, rounds, strict=True)])
            for c, v in rates.items()
        }
    return found
