"""One output against what it should be: absolute, relative, and in units in the last place."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from naru.inputs import Array

# Relative rms error that passes when neither the user nor the bundle states one.
DEFAULT_TOLERANCE = 1e-4

_BITS = {2: np.int16, 4: np.int32, 8: np.int64}


@dataclass(frozen=True, slots=True)
class Difference:
    """One output of one sample: what `side` gave against what `against` gave.

    `max_abs` is the largest absolute difference; `max_rel` the largest relative to the wanted
    element, over elements that are not tiny beside the rest; `rms` that of the difference,
    `rms_rel` relative to the rms of the wanted output. `ulp_*` count representable values between
    the two, in the output's dtype (0 for integers); `differing` of `count` elements are not equal.
    The output passes when rms <= limit, when NaN and infinities are where they should be, and, for
    integers and bools, when nothing differs.
    """

    sample: int
    output: str
    side: str
    against: str
    dtype: str
    shape: tuple[int, ...]
    max_abs: float
    max_rel: float
    rms: float
    rms_rel: float
    ulp_median: float
    ulp_p99: float
    ulp_max: float
    differing: int
    count: int
    limit: float
    problem: str | None = None

    @property
    def passed(self) -> bool:
        return self.problem is None and self.rms <= self.limit

    def as_json(self) -> dict[str, Any]:
        """Plain values; infinities, which JSON lacks, as text."""
        values = {k: str(v) if _is_infinite(v) else v for k, v in asdict(self).items()}
        return {**values, "shape": list(self.shape), "passed": self.passed}


def _is_infinite(value: object) -> bool:
    return isinstance(value, float) and not np.isfinite(value)


def compare(
    sample: int,
    output: str,
    got: Array,
    want: Array,
    rtol: float,
    atol: float = 0.0,
    *,
    side: str = "naru",
    against: str = "onnxruntime",
) -> Difference:
    """The difference of one output; the limit on its rms is atol + rtol * rms(want)."""
    head = (sample, output, side, against, got.dtype.name, got.shape)
    if got.shape != want.shape:
        return _no_numbers(head, f"the shape is {list(got.shape)}, expected {list(want.shape)}")
    if got.dtype != want.dtype:
        return _no_numbers(head, f"the dtype is {got.dtype.name}, expected {want.dtype.name}")
    exact = got.dtype.kind in "biu"
    if exact:
        rtol = atol = 0.0
    a, b = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(b)
    if (
        not np.array_equal(a[~finite], b[~finite], equal_nan=True)
        or not np.isfinite(a[finite]).all()
    ):
        lonely = f"{_count_nonfinite(a, b)} elements are NaN or infinite on one side only"
        return _no_numbers(head, lonely)
    d, w = np.abs(a[finite] - b[finite]), np.abs(b[finite])
    size = _rms(w)
    large = w > 1e-3 * size
    ulp = np.zeros(1) if exact or not d.size else ulps(got[finite], want[finite])
    median, p99, most = np.percentile(ulp, (50, 99, 100))
    return Difference(
        *head,
        max_abs=float(d.max(initial=0.0)),
        max_rel=float((d[large] / w[large]).max(initial=0.0)),
        rms=_rms(d),
        rms_rel=_rms(d) / size if size else _rms(d),
        ulp_median=float(median),
        ulp_p99=float(p99),
        ulp_max=float(most),
        differing=int((got[finite] != want[finite]).sum()),
        count=got.size,
        limit=atol + rtol * size,
    )


def ulps(a: Array, b: Array) -> NDArray[np.float64]:
    """How many steps from one representable value to the next lie between a and b (finite, of one
    floating dtype); 0.0 and -0.0 are the same place."""
    x, y = _places(a), _places(b)
    up, down = x.view(np.uint64) - y.view(np.uint64), y.view(np.uint64) - x.view(np.uint64)
    return np.where(x >= y, up, down).astype(np.float64)


def _places(a: Array) -> NDArray[np.int64]:
    """The bits of floats as integers in the order of the values: sign and magnitude."""
    kind = _BITS[a.dtype.itemsize]
    bits = np.ascontiguousarray(a).view(kind).astype(np.int64)
    return np.where(bits < 0, int(np.iinfo(kind).min) - bits, bits)


def _no_numbers(head: tuple[int, str, str, str, str, tuple[int, ...]], problem: str) -> Difference:
    inf, count = float("inf"), int(np.prod(head[-1]))
    return Difference(*head, *[inf] * 7, differing=count, count=count, limit=0.0, problem=problem)


def _count_nonfinite(a: NDArray[np.float64], b: NDArray[np.float64]) -> int:
    same = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.isfinite(a) & np.isfinite(b))
    return int((~same).sum())


def _rms(x: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0
