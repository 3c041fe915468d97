"""What the user may choose when compiling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from naru.errors import NaruError
from naru.processing import NOTHING, Processing
from naru.targets import Target

PRECISIONS = ("fp32", "strict")

# Told what is being done: (stage, parts done, parts in all).
Progress = Callable[[str, int, int], None]


def tell_nobody(stage: str, done: int, total: int) -> None:
    """A `Progress` where nobody watches."""


@dataclass(frozen=True)
class Options:
    """All of it decides the bundle's bytes. Raises NaruError for an unknown precision."""

    target: Target
    precision: str = "fp32"
    processing: Processing = NOTHING

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            expected = ", ".join(PRECISIONS)
            raise NaruError(f"precision {self.precision!r}: expected one of {expected}")

    def as_json(self) -> dict[str, Any]:
        """What a manifest says of the options; of the target it says more elsewhere."""
        return {"precision": self.precision, **self.processing.as_json()}
