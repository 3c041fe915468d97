"""Hyperbolic and inverse functions, by exp, log, sqrt and a rational function for atan.

Errors are a few ULP over the whole range: what loses digits near 0 has a series or a log1p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from naru.ops import formula as f
from naru.ops.elementwise import unary
from naru.ops.formula import Term, log1p

# atan(x) = x + x·z·P(z)/Q(z), z = x², |x| ≤ 0.66 (S. Moshier, Cephes, atan.c); lowest power first.
ATAN_P = (
    -64.85021904942025, -122.88666844901361, -75.00855792314705, -16.157537187333652,
    -0.8750608600031904,
)  # fmt: skip
ATAN_Q = (
    194.5506571482614, 485.3903996359137, 432.88106049129027, 165.02700983169885,
    24.858464901423062, 1.0,
)  # fmt: skip
SINH_SERIES = tuple(1 / math.factorial(2 * k + 1) for k in range(9))
LARGE = 2.0**28  # beyond it x² + 1 is x² in f64 too


def polynomial(x: Term, coefficients: Sequence[float]) -> Term:
    """The sum of coefficients[k] · x^k, by Horner's rule."""
    out = x * coefficients[-1] + coefficients[-2]
    for c in reversed(coefficients[:-2]):
        out = out * x + c
    return out


def with_sign(x: Term, size: Term) -> Term:
    """size, negated where x is negative."""
    return f.where(x < 0, -size, size)


def _atan(x: Term) -> Term:
    a = f.absolute(x)
    far, near = a > math.tan(3 * math.pi / 8), a <= 0.66
    reduced = f.where(far, -1 / a, f.where(near, a, (a - 1) / (a + 1)))
    z = reduced * reduced
    inner = reduced + reduced * z * polynomial(z, ATAN_P) / polynomial(z, ATAN_Q)
    return with_sign(
        x, f.where(far, inner + math.pi / 2, f.where(near, inner, inner + math.pi / 4))
    )


def _asin(x: Term) -> Term:
    return _atan(x / f.sqrt((1 - x) * (1 + x)))


def _acos(x: Term) -> Term:
    return 2 * _atan(f.sqrt((1 - x) / (1 + x)))


def _sinh(x: Term) -> Term:
    a = f.absolute(x)
    half = f.exp(a * 0.5)  # exp(a) would overflow before sinh(a) does
    large = 0.5 * half * half - 0.5 / half / half
    return with_sign(x, f.where(a < 1, a * polynomial(a * a, SINH_SERIES), large))


def _cosh(x: Term) -> Term:
    half = f.exp(f.absolute(x) * 0.5)
    return 0.5 * half * half + 0.5 / half / half


def _asinh(x: Term) -> Term:
    a = f.absolute(x)
    small = f.minimum(a, LARGE)
    near = log1p(small + small * small / (1 + f.sqrt(small * small + 1)))
    return with_sign(x, f.where(a < LARGE, near, f.log(a) + math.log(2)))


def _acosh(x: Term) -> Term:
    t = f.minimum(x, LARGE) - 1
    found = f.where(x < LARGE, log1p(t + f.sqrt(t * (t + 2))), f.log(x) + math.log(2))
    return f.where(x < 1, Term(f.number(math.nan, x.dtype)), found)


def _atanh(x: Term) -> Term:
    a = f.absolute(x)
    return with_sign(x, 0.5 * log1p(2 * a / (1 - a)))


unary("tan", np.tan, lambda x: f.sin(x) / f.cos(x))
unary("atan", np.arctan, _atan)
unary("asin", np.arcsin, _asin)
unary("acos", np.arccos, _acos)
unary("sinh", np.sinh, _sinh)
unary("cosh", np.cosh, _cosh)
unary("asinh", np.arcsinh, _asinh)
unary("acosh", np.arccosh, _acosh)
unary("atanh", np.arctanh, _atanh)
