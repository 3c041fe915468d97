"""One case by three ways: the numpy meaning, compiled code, and ONNX Runtime where it takes it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import ml_dtypes
import numpy as np
import onnxruntime

import naru
from naru.dtypes import FROM_NUMPY, TINY, is_float_array
from naru.errors import InputError, ModelError, RunError, UnsupportedError
from naru.frontend.onnx import read_onnx
from naru.ops.evaluate import evaluate

from .draw import Case

Array = np.ndarray
ROUNDED = 3  # what results of f16 and bf16 may differ in units more: libraries round in between


def evaluated(case: Case, float64: bool = False) -> list[Array]:
    """The numpy meaning of the imported graph."""
    graph = read_onnx(case.model)
    arrays = [case.feed[str(i.attr("name"))] for i in graph.inputs]
    return evaluate(graph, arrays, float64=float64)


def compiled(case: Case) -> list[Array]:
    """By native code."""
    model = naru.compile(case.model, cache=False)
    found: object = model(*(case.feed[i.name] for i in model.inputs))
    return [np.asarray(a) for a in (found if isinstance(found, tuple) else (found,))]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def by_onnxruntime(case: Case) -> list[Array] | None:
    """By ONNX Runtime; None where it does not take the case."""
    if any(FROM_NUMPY[a.dtype] in ("bf16", *TINY) for a in case.feed.values()):
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            case.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        found = session.run(None, case.feed)
    except Exception:
        return None
    if any(o.type == "tensor(bfloat16)" or "float8" in o.type for o in session.get_outputs()):
        return None
    return [np.asarray(a) for a in found]


def difference(case: Case, got: Sequence[Array], want: Sequence[Array]) -> str:
    """Empty where two results agree within the case's units; else what does not."""
    if len(got) != len(want):
        return f"{len(got)} outputs, not {len(want)}"
    for k, (a, b) in enumerate(zip(got, want, strict=True)):
        if a.dtype != b.dtype or a.shape != b.shape:
            return f"output {k}: {a.dtype}{list(a.shape)}, not {b.dtype}{list(b.shape)}"
        wrong = _apart(case, a, b)
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            return f"output {k} at {list(at)} ({wrong.sum()} of {a.size}): {a[at]!r}, not {b[at]!r}"
    return ""


def _apart(case: Case, a: Array, b: Array) -> Array:
    """Where two arrays differ by more than rounding."""
    if not is_float_array(a.dtype):
        return np.asarray(a != b)
    info = ml_dtypes.finfo(a.dtype)
    eps = float(info.eps)
    if case.sums:  # may be done in the narrowest type of the operands
        floats = [x.dtype for x in case.feed.values() if is_float_array(x.dtype)]
        eps = max([eps, *(float(ml_dtypes.finfo(t).eps) for t in floats)])
    units = case.ulps if info.bits > 16 else ROUNDED + case.ulps / 16
    with np.errstate(all="ignore"):
        x, y = a.astype(np.float64), b.astype(np.float64)
        size = np.abs(y)
        if case.sums:
            finite = size[np.isfinite(size)]
            size = np.maximum(size, max(finite.max(initial=0.0), 1.0))
        bound = units * (eps * size + float(info.smallest_normal))
        if info.bits > 16 and case.ulps > 1:
            bound += 1e-7 if info.bits == 32 else 1e-13
        near = np.abs(x - y) <= bound
        both = (x == y) | (np.isnan(x) & np.isnan(y))
        # At the edge of the range one may round to infinity.
        edge = np.isinf(x) != np.isinf(y)
        edge &= np.minimum(np.abs(x), np.abs(y)) >= float(info.max) * (1 - units * eps)
        return ~(near | both | edge)


def check(
    case: Case, different: Callable[[Case], str] | None = None, *, native: bool = True
) -> str:
    """`right`, `alone` (ONNX Runtime does not take it), `different` (it is known to mean something
    else) or `refused` (naru does not take it); AssertionError where results differ."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = by_onnxruntime(case)
        try:
            meaning = evaluated(case)
        except UnsupportedError as error:
            return f"refused: {_first(error)}"
        except ModelError as error:
            if theirs is None:
                return f"invalid: {_first(error)}"
            raise AssertionError(f"{case.label}: naru refuses it: {error}") from None
        outcome = _against(case, meaning, theirs, different)
        if native:
            try:
                _check_native(case, meaning)
            except InputError as error:  # sizes that were taken to be equal
                return f"refused: {_first(error)}"
    return outcome


def _first(error: Exception) -> str:
    return str(error).replace("\n", " ")[:160]


def _against(
    case: Case, meaning: list[Array], theirs: list[Array] | None,
    different: Callable[[Case], str] | None,
) -> str:  # fmt: skip
    if theirs is None:
        return "alone"
    wrong = difference(case, meaning, theirs)
    if wrong and difference(case, evaluated(case, float64=True), theirs):
        if different is not None and different(case):
            return "different"
        raise AssertionError(f"{case.label}: the meaning differs from ONNX Runtime: {wrong}")
    return "right"


def _check_native(case: Case, meaning: list[Array]) -> None:
    try:
        got = compiled(case)
    except RunError as error:
        raise AssertionError(f"{case.label}: compiled code fails: {error}") from None
    wrong = difference(case, got, meaning)
    if wrong and difference(case, got, evaluated(case, float64=True)):
        raise AssertionError(f"{case.label}: compiled code differs from the meaning: {wrong}")
