"""What the user may choose when compiling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from naru.errors import NaruError, TargetError
from naru.processing import NOTHING, Processing
from naru.targets import Target

PRECISIONS = ("fp32", "strict", "portable", "bf16")

# Told what is being done: (stage, parts done, parts in all).
Progress = Callable[[str, int, int], None]


def tell_nobody(stage: str, done: int, total: int) -> None:
    """A `Progress` where nobody watches."""


@dataclass(frozen=True)
class Options:
    """All of it decides the bundle's bytes. Raises NaruError for an unknown precision, TargetError
    for one that the target cannot keep, or a fallback that is no lesser CPU of the same kind.

    `fallback`: a target that the bundle has code for too, run where the CPU lacks `target`."""

    target: Target
    precision: str = "fp32"
    processing: Processing = NOTHING
    fallback: Target | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            expected = ", ".join(PRECISIONS)
            raise NaruError(f"precision {self.precision!r}: expected one of {expected}")
        if self.precision == "strict" and not self.target.has_fma:
            raise TargetError(
                "precision strict is for targets with fused multiply-add, which "
                f"{self.target.name} has not",
                hint="precision portable: the same bits on every target",
            )
        if self.fallback is not None:
            _check_fallback(self.target, self.fallback)
            replace(self, target=self.fallback, fallback=None)  # which keeps the precision too

    @property
    def arithmetic(self) -> Target:
        """The target as code is written for it: `portable` multiplies and adds, each rounded, also
        where both could be one instruction (and never where engines may choose, as with relaxed
        SIMD)."""
        if self.precision != "portable":
            return self.target
        features = tuple(f for f in self.target.features if f != "relaxed-simd")
        return replace(self.target, has_fma=False, features=features)

    def as_json(self) -> dict[str, Any]:
        """What a manifest says of the options; of the target it says more elsewhere."""
        return {"precision": self.precision, **self.processing.as_json()}


def _check_fallback(target: Target, fallback: Target) -> None:
    """Raises TargetError unless code for `fallback` runs wherever that for `target` does."""
    hint = "a lower level of the same architecture, such as avx512 or avx2 for amx"
    if fallback.triple != target.triple:
        raise TargetError(
            f"fallback {fallback.name} is not for the machines of {target.name}: "
            f"expected {target.triple}, got {fallback.triple}",
            hint=hint,
        )
    more = [f for f in fallback.features if f not in target.features]
    if more:
        raise TargetError(
            f"fallback {fallback.name} needs {', '.join(more)}, which {target.name} has not",
            hint=hint,
        )
