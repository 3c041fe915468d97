"""`naru verify`: how far a model is from ONNX Runtime, or from the reference in float64."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from naru.errors import InputError, NaruError
from naru.frontend.onnx import read_onnx
from naru.inputs import Array
from naru.ops.evaluate import evaluate
from naru.runtime.session import Model

# Relative rms error that passes when neither the user nor the bundle states one.
DEFAULT_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Difference:
    """One output of one sample against what it should be.

    `max_abs` is the largest absolute difference; `max_rel` the largest relative to the wanted
    element, over elements that are not tiny beside the rest; `rms` that of the difference,
    `rms_rel` relative to the rms of the wanted output. The output passes when rms <= limit, when
    NaN and infinities are where they should be, and, for integers and bools, when nothing differs.
    """

    sample: int
    output: str
    dtype: str
    shape: tuple[int, ...]
    max_abs: float
    max_rel: float
    rms: float
    rms_rel: float
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


def verify(
    model: Model,
    source: Path,
    samples: Sequence[Mapping[str, Array]],
    *,
    against: str = "onnxruntime",
    tolerance: float | None = None,
) -> list[Difference]:
    """Runs each sample (arrays by input name) on the model and on what it is compared with.

    `against`: "onnxruntime" or "reference" (every op's numpy meaning, floats in float64).
    `tolerance`: relative rms error that passes (default: the bundle's, else 1e-4). Raises what
    either side raises, and NaruError when ONNX Runtime is missing or refuses the model.
    """
    rtol, atol = _limits(model, tolerance)
    names = [o.name for o in model.outputs]
    other = _Runtime(source) if against == "onnxruntime" else _Reference(source)
    found: list[Difference] = []
    for k, sample in enumerate(samples):
        got = model(dict(sample))
        outputs = got if len(names) > 1 else (got,)
        wanted = other([sample[i.name] for i in model.inputs])
        found += [
            compare(k, name, np.asarray(a), np.asarray(b), rtol, atol)
            for name, a, b in zip(names, outputs, wanted, strict=True)
        ]
    return found


def _limits(model: Model, tolerance: float | None) -> tuple[float, float]:
    if tolerance is not None:
        return tolerance, 0.0
    stated = model.manifest.get("tolerance")
    if not stated:
        return DEFAULT_TOLERANCE, 0.0
    return stated["rtol"], stated["atol"]


def compare(
    sample: int, output: str, got: Array, want: Array, rtol: float, atol: float = 0.0
) -> Difference:
    """The difference of one output; the limit on its rms is atol + rtol * rms(want)."""
    dtype, shape = got.dtype.name, got.shape
    if shape != want.shape:
        problem = f"the shape is {list(shape)}, expected {list(want.shape)}"
        return _no_numbers(sample, output, dtype, shape, problem)
    if got.dtype.kind in "biu":
        rtol = atol = 0.0
    a, b = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(b)
    if (
        not np.array_equal(a[~finite], b[~finite], equal_nan=True)
        or not np.isfinite(a[finite]).all()
    ):
        problem = f"{_count_nonfinite(a, b)} elements are NaN or infinite on one side only"
        return _no_numbers(sample, output, dtype, shape, problem)
    d, w = np.abs(a[finite] - b[finite]), np.abs(b[finite])
    size = _rms(w)
    large = w > 1e-3 * size
    return Difference(
        sample,
        output,
        dtype,
        shape,
        max_abs=float(d.max(initial=0.0)),
        max_rel=float((d[large] / w[large]).max(initial=0.0)),
        rms=_rms(d),
        rms_rel=_rms(d) / size if size else _rms(d),
        limit=atol + rtol * size,
    )


def _no_numbers(
    sample: int, output: str, dtype: str, shape: tuple[int, ...], problem: str
) -> Difference:
    inf = float("inf")
    return Difference(sample, output, dtype, shape, inf, inf, inf, inf, 0.0, problem)


def _count_nonfinite(a: NDArray[np.float64], b: NDArray[np.float64]) -> int:
    same = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.isfinite(a) & np.isfinite(b))
    return int((~same).sum())


def _rms(x: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0


class _Reference:
    """The graph by the numpy meaning of its ops, floats in float64."""

    def __init__(self, source: Path) -> None:
        self._graph = read_onnx(source)

    def __call__(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """The outputs for inputs in the model's order."""
        return evaluate(self._graph, inputs, float64=True)


class _Runtime:
    """ONNX Runtime on the CPU."""

    def __init__(self, source: Path) -> None:
        try:
            onnxruntime: Any = importlib.import_module("onnxruntime")
        except ImportError as e:
            raise NaruError(
                f"ONNX Runtime cannot be imported ({e})",
                hint="pip install onnxruntime, or --against reference",
            ) from None
        options: Any = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(source), options, providers=["CPUExecutionProvider"]
            )
        except Exception as e:
            raise _refused(e) from None

    def __call__(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """The outputs for inputs in the model's order."""
        for array in inputs:
            if array.dtype.kind == "V" or array.dtype.name == "bfloat16":
                raise InputError(
                    "ONNX Runtime takes no bfloat16 arrays", hint="--against reference"
                )
        names = [i.name for i in self._session.get_inputs()]
        try:
            return self._session.run(None, dict(zip(names, inputs, strict=True)))
        except Exception as e:
            raise _refused(e) from None


def _refused(error: Exception) -> NaruError:
    return NaruError(f"ONNX Runtime refuses the model: {error}", hint="--against reference")
