"""Preprocessing of numbers: scaling, binning, powers, quantiles, splines, selection of columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np

from naru.frontend.sklearn_base import (
    Call,
    Refused,
    Table,
    add,
    as_node,
    cast_to,
    column,
    converts,
    div,
    expm1,
    f64,
    flat,
    log1p,
    mul,
    numbers,
    op,
    pick,
    side_by_side,
    sub,
    table,
    total,
    where,
    width_of,
)
from naru.frontend.sklearn_normal import normal_quantile
from naru.frontend.sklearn_search import lines, places
from naru.ir.graph import Node
from naru.ops.registry import apply, constant

Array = np.ndarray
PRE = "sklearn.preprocessing."
BOUNDS = 1e-7  # how near to 0 and 1 a normal QuantileTransformer looks


# --- scaling --------------------------------------------------------------------------------------


@converts("transform", PRE + "StandardScaler")
def standard_scaler(c: Call) -> Table:
    e, x = c.e, c.numbers()
    if e.with_mean:
        x = sub(x, numbers(e.mean_)[None])
    if e.with_std:
        x = div(x, numbers(e.scale_)[None])
    return table(x)


@converts("transform", PRE + "MinMaxScaler")
def min_max_scaler(c: Call) -> Table:
    e = c.e
    x = add(mul(c.numbers(), numbers(e.scale_)[None]), numbers(e.min_)[None])
    return table(op("clip", x, *map(float, e.feature_range)) if e.clip else x)


@converts("transform", PRE + "MaxAbsScaler")
def max_abs_scaler(c: Call) -> Table:
    x = div(c.numbers(), numbers(c.e.scale_)[None])
    return table(op("clip", x, -1.0, 1.0) if getattr(c.e, "clip", False) else x)


@converts("transform", PRE + "RobustScaler")
def robust_scaler(c: Call) -> Table:
    e, x = c.e, c.numbers()
    if e.with_centering:
        x = sub(x, numbers(e.center_)[None])
    return table(div(x, numbers(e.scale_)[None]) if e.with_scaling else x)


@converts("transform", PRE + "Normalizer")
def normalizer(c: Call) -> Table:
    x = c.numbers()
    size = op("abs", x)
    if c.e.norm == "l2":
        norm = op("sqrt", total(mul(x, x), keep=True))
    else:
        norm = total(size, "reduce_sum" if c.e.norm == "l1" else "reduce_max", keep=True)
    return table(div(x, where(op("equal", norm, 0.0), 1.0, norm)))


@converts("transform", PRE + "Binarizer")
def binarizer(c: Call) -> Table:
    return table(f64(op("greater", c.numbers(), float(c.e.threshold))))


# --- bins -----------------------------------------------------------------------------------------


@converts("transform", PRE + "KBinsDiscretizer")
def bins(c: Call) -> Table:
    e = c.e
    edges = [numbers(b)[1:-1] for b in e.bin_edges_]
    found = places(c.numbers(), edges, inclusive=True)
    if e.encode == "ordinal":
        return table(found)
    columns = [
        f64(op("equal", pick(found, [k]), np.arange(int(n), dtype=np.float64)[None]))
        for k, n in enumerate(e.n_bins_)
    ]
    return table(side_by_side(columns))


# --- powers ---------------------------------------------------------------------------------------


@converts("transform", PRE + "PolynomialFeatures")
def polynomial(c: Call) -> Table:
    """Products of columns, multiplied from the last to the first."""
    x, powers = c.numbers(), np.asarray(c.e.powers_)
    one = width_of(x)
    factors = [np.repeat(np.arange(one), row)[::-1] for row in powers]
    with_one = side_by_side([x, add(mul(pick(x, [0]), 0.0), 1.0)]) if not one else x
    made: Node | None = None
    for k in range(int(powers.sum(axis=1).max(initial=0))):
        at = [int(f[k]) if k < len(f) else -1 for f in factors]
        chosen = pick(with_one, [max(a, 0) for a in at])
        if min(at) < 0:  # a product that is complete
            chosen = where(constant(np.array(at)[None] < 0, np.bool_), 1.0, chosen)
        made = chosen if made is None else mul(made, chosen)
    if made is None:  # of degree 0
        made = where(constant(np.ones((1, len(powers)), np.bool_)), 1.0, pick(x, [0] * len(powers)))
    return table(made)


@converts("transform", PRE + "PowerTransformer")
def power_transformer(c: Call) -> Table:
    e, x = c.e, c.numbers()
    make = _box_cox if e.method == "box-cox" else _yeo_johnson
    made = [make(pick(x, [k]), float(v)) for k, v in enumerate(e.lambdas_)]
    x = side_by_side(made)
    if e.standardize:
        return c.reader.transform(e._scaler, table(x), c.inside("_scaler"))
    return table(x)


def _box_cox(x: Node, power: float) -> Node:
    log = op("log", x)
    return log if power == 0 else div(expm1(mul(power, log)), power)


def _yeo_johnson(x: Node, power: float) -> Node:
    def half(y: Node, by: float) -> Node:
        log = log1p(y)
        return log if by == 0 else div(expm1(mul(by, log)), by)

    if np.isnan(power):  # a column that is missing as a whole
        return x
    high, low = op("max", x, 0.0), op("neg", op("min", x, 0.0))
    made = where(op("less", x, 0.0), op("neg", half(low, 2.0 - power)), half(high, power))
    return where(op("isnan", x), x, made)


# --- quantiles ------------------------------------------------------------------------------------


@converts("transform", PRE + "QuantileTransformer")
def quantile_transformer(c: Call) -> Table:
    e, x = c.e, c.numbers()
    quantiles, references = numbers(e.quantiles_), numbers(e.references_)
    normal = e.output_distribution == "normal"
    made = [_ranked(pick(x, [k]), quantiles[:, k], references, normal) for k in range(width_of(x))]
    found = side_by_side(made)
    return table(normal_scores(found) if normal else found)


def _ranked(x: Node, quantiles: Array, references: Array, normal: bool) -> Node:
    """The mean of the lines met from above and from below, which differ where quantiles repeat."""
    up = lines(x, quantiles, references)
    down = lines(op("neg", x), -quantiles[::-1], -references[::-1])
    made = mul(0.5, sub(up, down))
    low, high = float(quantiles[0]), float(quantiles[-1])
    if normal:
        at_low = op("less", sub(x, BOUNDS), low)
        at_high = op("greater", add(x, BOUNDS), high)
    else:
        at_low, at_high = op("equal", x, low), op("equal", x, high)
    return where(at_low, 0.0, where(at_high, 1.0, made))


def normal_scores(p: Node) -> Node:
    """Quantiles of the normal distribution, not further out than the bounds have."""
    bound = BOUNDS - float(np.spacing(1))
    low, high = (NormalDist().inv_cdf(v) for v in (bound, 1 - bound))
    inside = op("clip", p, BOUNDS / 2, 1 - BOUNDS / 2)
    return op("clip", normal_quantile(inside), low, high)


# --- splines --------------------------------------------------------------------------------------


@converts("transform", PRE + "SplineTransformer")
def splines(c: Call) -> Table:
    e, x = c.e, c.numbers()
    if e.extrapolation == "error":
        raise Refused("extrapolation='error'", "extrapolation='constant' or 'continue'")
    if e.extrapolation == "linear" and e.degree <= 1 and width_of(x) > 1:
        # scikit-learn counts the degree up from column to column there.
        raise Refused(
            "extrapolation='linear' with a degree below 2 for several columns",
            "extrapolation='continue', or a degree of 2",
        )
    columns = [_spline(e, s, pick(x, [k])) for k, s in enumerate(e.bsplines_)]
    if not e.include_bias:
        columns = [pick(n, range(width_of(n) - 1)) for n in columns]
    if getattr(e, "handle_missing", "error") == "zeros":
        columns = [where(op("isnan", pick(x, [k])), 0.0, n) for k, n in enumerate(columns)]
    return table(side_by_side(columns))


def _spline(e: Any, s: Any, x: Node) -> Node:
    """All basis functions of one column [rows, 1] -> [rows, splines], as polynomials between
    knots."""
    degree, knots = int(s.k), np.asarray(s.t, np.float64)
    low, high = float(knots[degree]), float(knots[-degree - 1])
    at = x
    if e.extrapolation == "periodic":
        span = high - low
        turned = sub(x, low)
        at = add(low, sub(turned, mul(span, op("floor", div(turned, span)))))
    elif e.extrapolation in ("constant", "linear"):
        at = op("clip", x, low, high)
    inner = knots[degree : len(knots) - degree]
    inner = inner[np.concatenate([[True], np.diff(inner) > 0])]
    which = cast_to(flat(places(at, [inner[1:-1]], inclusive=True)), "i64")
    start = column(apply("gather", as_node(inner[:-1]), which, axis=0))
    away = sub(at, start)
    made: Node | None = None
    for m in range(degree, -1, -1):
        pieces = np.asarray(s(inner[:-1], nu=m)) / math.factorial(m)
        here = apply("gather", as_node(np.ascontiguousarray(pieces)), which, axis=0)
        made = here if made is None else add(mul(made, away), here)
    assert made is not None
    if e.extrapolation != "linear":
        return made
    below, above = (np.asarray(s(np.array([v]), nu=1)) for v in (low, high))
    slope = where(op("less", x, low), below, above)
    return add(made, mul(slope, sub(x, at)))


# --- functions ------------------------------------------------------------------------------------

FUNCTIONS: dict[str, Callable[[Node], Node]] = {
    "log1p": log1p,
    "expm1": expm1,
    "log2": lambda x: div(op("log", x), math.log(2.0)),
    "log10": lambda x: div(op("log", x), math.log(10.0)),
    "square": lambda x: mul(x, x),
    "positive": lambda x: x,
    "exp2": lambda x: op("pow", 2.0, x),
    "cbrt": lambda x: mul(op("sign", x), op("pow", op("abs", x), 1 / 3)),
    "deg2rad": lambda x: mul(x, math.pi / 180),
    "radians": lambda x: mul(x, math.pi / 180),
    "rint": lambda x: op("round", x),
    "expit": lambda x: op("sigmoid", x),
    **{
        theirs: partial(op, ours)
        for theirs, ours in {
            "exp": "exp", "log": "log", "sqrt": "sqrt", "absolute": "abs", "fabs": "abs",
            "sin": "sin", "cos": "cos", "tan": "tan", "tanh": "tanh", "sinh": "sinh",
            "cosh": "cosh", "arcsin": "asin", "arccos": "acos", "arctan": "atan",
            "arcsinh": "asinh", "arctanh": "atanh", "sign": "sign", "floor": "floor",
            "ceil": "ceil", "negative": "neg", "reciprocal": "reciprocal",
        }.items()
    },
}  # fmt: skip


def known_function(f: Any, what: str) -> Callable[[Node], Node]:
    """The operator that a function of numpy is; nothing for None. Refused for others."""
    if f is None:
        return lambda x: x
    if getattr(getattr(f, "func", None), "__name__", "") == "check_array":  # a partial
        return lambda x: x
    name = str(getattr(f, "__name__", f))
    if isinstance(f, np.ufunc) and name in FUNCTIONS:
        return FUNCTIONS[name]
    raise Refused(
        f"{what}={name}: a function of Python",
        "a function of numpy such as np.log1p, or a transformer of your own with "
        "naru.frontend.sklearn.register",
    )


@converts("transform", PRE + "FunctionTransformer")
def function_transformer(c: Call) -> Table:
    if c.e.kw_args:
        raise Refused("kw_args", "a function without settings")
    f = known_function(c.e.func, "func")
    if c.e.func is None:
        return c.x
    return table(f(c.numbers()))


# --- selection ------------------------------------------------------------------------------------

SELECTORS = (
    "VarianceThreshold", "SelectKBest", "SelectPercentile", "SelectFpr", "SelectFdr", "SelectFwe",
    "GenericUnivariateSelect", "SelectFromModel", "RFE", "RFECV", "SequentialFeatureSelector",
)  # fmt: skip


@converts("transform", *(f"sklearn.feature_selection.{n}" for n in SELECTORS))
def selector(c: Call) -> Table:
    kept: Sequence[int] = np.flatnonzero(c.e.get_support()).tolist()
    if not kept:
        raise Refused("it keeps no columns")
    return c.x.take(kept)


def _by_estimator(role: str) -> Any:
    def convert(c: Call) -> Any:
        """RFE predicts with what it was left with."""
        x = selector(c)
        if role == "regress":
            return c.reader.regress(c.e.estimator_, x, c.inside("estimator_"))
        return c.reader.classify(c.e.estimator_, x, c.inside("estimator_"))

    return convert


for _role in ("regress", "classify"):
    converts(_role, "sklearn.feature_selection.RFE", "sklearn.feature_selection.RFECV")(
        _by_estimator(_role)
    )


# --- isotonic regression --------------------------------------------------------------------------


def isotonic(e: Any, x: Node) -> Node:
    """[rows, 1]: the steps of an isotonic regression, joined by lines."""
    xs, ys = numbers(e.X_thresholds_), numbers(e.y_thresholds_)
    if e.out_of_bounds == "raise":
        raise Refused("out_of_bounds='raise'", "out_of_bounds='clip'")
    if e.out_of_bounds == "clip" or xs.size == 1:
        return lines(op("clip", x, float(e.X_min_), float(e.X_max_)), xs, ys)
    outside = op("or", op("less", x, float(xs[0])), op("greater", x, float(xs[-1])))
    return where(outside, np.nan, lines(x, xs, ys))


@converts("regress", "sklearn.isotonic.IsotonicRegression")
def isotonic_regressor(c: Call) -> Node:
    return flat(isotonic(c.e, c.numbers()))
