"""Numbers with their units, as people read them."""

from __future__ import annotations

import math


def format_bytes(count: float) -> str:
    """1536 -> "1.5 KiB"."""
    if not math.isfinite(count):
        return "?"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"
