"""The roofs of this machine, measured: the most that one core computes and reads.

A kernel can be no faster than its operations at the peak rate, nor than its bytes at the rate of
the cache that holds them (Williams, Waterman, Patterson: Roofline, 2009).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from naru.runtime import _native

TILES = "amx-bf16"
MEMORY_PROBE = 256 << 20  # bytes: more than caches hold


@dataclass(frozen=True, slots=True)
class Level:
    """A cache or the memory (`capacity` None): bytes that it holds, GB/s that a core reads."""

    name: str
    capacity: int | None
    rate: float


@dataclass(frozen=True, slots=True)
class Bound:
    """The least time in nanoseconds, and what sets it: "compute" or the name of a level."""

    ns: float
    by: str


@dataclass(frozen=True, slots=True)
class Roofs:
    """fp32 GFLOP/s of a core with the instruction set `isa`, and the levels, smallest first;
    `tiles`: bf16 GFLOP/s in matrix registers, where there are any."""

    isa: str
    gflops: float
    levels: tuple[Level, ...]
    tiles: float | None = None

    def level_of(self, size: int) -> Level:
        """The smallest level that holds so many bytes."""
        return next(x for x in self.levels if x.capacity is None or size <= x.capacity)

    def bound(self, flops: int, size: int, calls: int = 1, products: int = 0) -> Bound | None:
        """What the roofs allow for calls with so many operations and bytes in all; each call finds
        its bytes in the smallest level that holds them. `products`: of bf16 in matrix registers,
        for each multiplication. None for no work."""
        level = self.level_of(size // max(calls, 1))
        in_tiles = products and self.tiles
        compute = flops * products / in_tiles if in_tiles else flops / self.gflops
        traffic, by = size / level.rate, "tiles" if in_tiles else "compute"
        if compute <= 0 and traffic <= 0:
            return None
        return Bound(compute, by) if compute >= traffic else Bound(traffic, level.name)

    def as_json(self) -> dict[str, Any]:
        levels = [{"name": x.name, "capacity": x.capacity, "rate": x.rate} for x in self.levels]
        tiles = {} if self.tiles is None else {"tiles": self.tiles}
        return {"isa": self.isa, "gflops": self.gflops, **tiles, "levels": levels}


def read_rates(caches: Mapping[str, int]) -> dict[str, float]:
    """GB/s of one core by level; `caches` are the sizes that the system reports."""
    l1, l2, l3 = (caches.get(level, 0) for level in ("l1d", "l2", "l3"))
    sizes = {"l1": l1 // 2, "l2": l2 // 2, "l3": min(l3 // 4, 8 * l2), "memory": MEMORY_PROBE}
    return {name: _native.probe_read(n) for name, n in sizes.items() if n > 0}


@cache
def measure(features: frozenset[str]) -> Roofs:
    """The roofs for code that uses these features (LLVM's names); half a second, once."""
    peaks = _native.probe_fma()
    isa = next((x for x in ("avx512f", "avx2") if x in peaks and x in features), "baseline")
    caches = _native.cache_sizes()
    sizes = {"l1": caches.get("l1d"), "l2": caches.get("l2"), "l3": caches.get("l3")}
    rates = read_rates(caches)
    levels = tuple(Level(n, sizes.get(n), r) for n, r in rates.items())
    return Roofs(isa, peaks[isa], levels, peaks.get(TILES) if TILES in features else None)
