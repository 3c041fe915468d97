"""Samples through a compiled model and through what it is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from naru.errors import NaruError
from naru.inputs import Array
from naru.options import Progress, tell_nobody
from naru.runtime.model import Model
from naru.verify.differences import DEFAULT_TOLERANCE, Difference, compare
from naru.verify.sides import ONNXRUNTIME, REFERENCE, Side, make_side

BOTH = "both"
# What passes in class bf16: weights that are off by 1.6e-3 each, by and large, through many layers.
ROUNDED_WEIGHTS = 2e-2


@dataclass(frozen=True)
class Compared:
    """What one output of one sample showed: naru against one or both sides, and, with both, ONNX
    Runtime's own error against the reference."""

    naru: tuple[Difference, ...]
    onnxruntime: Difference | None = None

    @property
    def passed(self) -> bool:
        """naru agrees with a side: with the reference it is right, with ONNX Runtime no worse."""
        return any(d.passed for d in self.naru)

    @property
    def rows(self) -> tuple[Difference, ...]:
        """Every difference, naru's first."""
        return (*self.naru, self.onnxruntime) if self.onnxruntime else self.naru

    @property
    def verdict(self) -> str | None:
        """Who is wrong; None unless both sides were asked."""
        if self.onnxruntime is None:
            return None
        ours, theirs = self.naru[-1], self.onnxruntime
        if ours.problem or theirs.problem:
            wrong = [d.side for d in (ours, theirs) if d.problem]
            return f"{' and '.join(wrong)} differ{'s' * (len(wrong) == 1)} from the reference"
        errors = f"naru is off by {ours.rms_rel:.1e} and ONNX Runtime by {theirs.rms_rel:.1e}"
        if ours.passed and theirs.passed:
            who = "both are right"
        elif ours.passed or theirs.passed:
            who = f"{'ONNX Runtime' if ours.passed else 'naru'} is wrong"
        elif ours.rms <= 4 * theirs.rms and theirs.rms <= 4 * ours.rms:
            who = "both lose precision alike: the model magnifies rounding"
        else:
            who = f"neither is right, {'naru' if ours.rms < theirs.rms else 'ONNX Runtime'} closer"
        return f"{who} ({errors}, relative to the reference in float64)"


def verify(
    model: Model,
    source: Path,
    samples: Sequence[Mapping[str, Array]],
    *,
    against: str = ONNXRUNTIME,
    sides: Mapping[str, Side] | None = None,
    tolerance: float | None = None,
    on_progress: Progress = tell_nobody,
) -> list[Compared]:
    """Runs each sample (arrays by input name) on the model and on what it is compared with.

    `against`: "onnxruntime", "reference" (every op's numpy meaning, floats in float64) or "both";
    or one of `sides`, for what is no ONNX file.
    `tolerance`: relative rms error that passes (default: the bundle's, else 1e-4). Raises what
    either side raises, and NaruError when ONNX Runtime is missing or refuses the model.
    """
    rtol, atol = limits(model, tolerance)
    names = (ONNXRUNTIME, REFERENCE) if against == BOTH else (against,)
    if ONNXRUNTIME in names and any(i.optional for i in model.inputs):
        raise NaruError(
            "the model draws random numbers, and those of ONNX Runtime are others",
            hint="--against reference",
        )
    sides = sides or {name: make_side(name, source) for name in names}
    found: list[Compared] = []
    for k, sample in enumerate(samples):
        results = {"naru": run(model, sample)}
        for name, side in sides.items():
            if name not in names:
                continue
            on_progress(name, k, len(samples))
            results[name] = side({i.name: sample[i.name] for i in model.inputs})

        def difference(output: str, a: str, b: str, k: int = k, r: Results = results) -> Difference:
            got, want = np.asarray(r[a][output]), np.asarray(r[b][output])
            return compare(k, output, got, want, rtol, atol, side=a, against=b)

        found += [
            Compared(
                tuple(difference(o.name, "naru", name) for name in names),
                difference(o.name, ONNXRUNTIME, REFERENCE) if against == BOTH else None,
            )
            for o in model.outputs
        ]
    return found


Results = dict[str, dict[str, Array]]


def run(model: Model, sample: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of a model by name."""
    names = [o.name for o in model.outputs]
    result = model({i.name: sample[i.name] for i in model.inputs if i.name in sample})
    return dict(zip(names, result if len(names) > 1 else (result,), strict=True))


def limits(model: Model, tolerance: float | None) -> tuple[float, float]:
    """(relative, absolute) rms error that passes."""
    if tolerance is not None:
        return tolerance, 0.0
    manifest = model.manifest
    stated = manifest.get("tolerance") or {"rtol": DEFAULT_TOLERANCE, "atol": 0.0}
    if manifest["options"].get("precision") == "bf16" and has_rounded_weights(manifest):
        return max(ROUNDED_WEIGHTS, stated["rtol"]), stated["atol"]
    return stated["rtol"], stated["atol"]


def has_rounded_weights(manifest: Mapping[str, Any]) -> bool:
    """Are there any in a bundle of class bf16? Of parts beside the host that is not known."""
    packed = manifest.get("packed")
    return packed is None or any(dtype == "bfloat16" for *_, dtype in packed)


def all_passed(found: Iterable[Compared]) -> bool:
    """Does every output agree with a side?"""
    return all(c.passed for c in found)
