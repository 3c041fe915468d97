"""Every operator at random: its versions, dtypes, attributes and shapes, and numbers of all sorts.

A case is (operator, number) and nothing else: the same on every machine and in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from onnx import numpy_helper

from . import draw_elementwise, draw_layers, draw_movement, draw_others
from .compare import check
from .draw import Case, Draw, build
from .draw_elementwise import Strategy

ALL: Mapping[tuple[str, str], Strategy] = {
    **{("", name): f for name, f in draw_elementwise.TABLE.items()},
    **{("", name): f for name, f in draw_movement.TABLE.items()},
    **{("", name): f for name, f in draw_layers.TABLE.items()},
    **draw_others.TABLE,
}


def make_case(domain: str, name: str, number: int) -> Case:
    """The case of that number."""
    d = Draw(domain, name, number)
    return build(d, ALL[domain, name](d))


def _integers(case: Case) -> bool:
    return all(a.dtype.kind in "iu" for a in case.feed.values())


def _empty(case: Case) -> bool:
    return any(a.size == 0 for a in case.feed.values())


def _wild(case: Case) -> bool:
    return any(a.dtype.kind in "fV" and not np.isfinite(a.astype(np.float64)).all()
               for a in case.feed.values())  # fmt: skip


def _single(case: Case) -> bool:
    return any(1 in a.shape for a in case.feed.values())


def _resized(case: Case) -> bool:
    blended = "'mode': 'linear'" in case.label or "'mode': 'cubic'" in case.label
    whole = next(iter(case.feed.values())).dtype.kind in "iu" and blended
    held = [numpy_helper.to_array(t) for t in case.model.graph.initializer]
    scales = [a for a in (*held, *case.feed.values()) if a.dtype == np.float32 and a.ndim == 1]
    odd = any(np.any(a * 4 % 1) for a in scales)  # f32 and f64 may fall to two sides of a number
    return whole or odd or "align_corners" in case.label


def _same(case: Case) -> bool:
    return "'SAME_" in case.label


def _double(case: Case) -> bool:
    return any(a.dtype == np.float64 for a in case.feed.values())


def _any(_case: Case) -> bool:
    return True


# Where ONNX Runtime means something else than the standard says, or says nothing: why, and when.
DIFFERENT: Mapping[str, tuple[str, Callable[[Case], bool]]] = {
    "AveragePool": ("lets SAME crop where strides are longer than windows", _same),
    "ConvTranspose": ("lets SAME make less than the strides where windows are shorter", _same),
    "Upsample": ("rounds whole numbers otherwise", _resized),
    "AffineGrid": ("divides by zero where a corner-aligned axis has one element", _any),
    "Attention": ("computes the scale of f64 in f32", _double),
    "DFT": ("computes f64 by tables of f32", _double),
    "Gelu": ("computes f64 with constants of f32", _double),
    "LeakyRelu": ("computes f64 with constants of f32", _double),
    "MatMulInteger": ("leaves memory as it is where nothing is summed", _empty),
    "MeanVarianceNormalization": ("NaN where a mean is of one element", _single),
    "QuantizeLinear": ("the standard does not say what NaN becomes", _wild),
    "Resize": (
        "rounds sizes before it aligns corners, and whole numbers; f32",
        _resized,
    ),
    "Shrink": ("computes f64 with constants of f32", _double),
    "Sign": ("0 for NaN", _wild),
    "QLinearMatMul": ("leaves memory as it is where nothing is summed", _empty),
    "ReduceMean": ("0 of no elements, not NaN", _empty),
    "ReduceMax": ("drops NaNs, depending on their position", _wild),
    "ReduceMin": ("drops NaNs, depending on their position", _wild),
    "ReduceLogSumExp": ("rounds integers in between", _integers),
    "ReduceLogSum": ("rounds integers in between", _integers),
}


def different(case: Case) -> str:
    """Why ONNX Runtime's result of the case need not be ours; empty where it must."""
    why, when = DIFFERENT.get(case.operator, ("", _any))
    return why if when(case) else ""


def check_case(name: str, number: int, *, native: bool = True) -> str:
    """How the case went (see compare.py). `name`: as in `NAMES`."""
    domain, _, op = name.rpartition(".")
    return check(make_case(domain, op, number), different, native=native)


NAMES = tuple(f"{domain}.{name}" if domain else name for domain, name in sorted(ALL))


def check_nth(n: int) -> str:
    """Case n of all operators in turn; its outcome begins with the operator's name."""
    name = NAMES[n % len(NAMES)]
    return f"{name}: {check_case(name, n // len(NAMES))}"
