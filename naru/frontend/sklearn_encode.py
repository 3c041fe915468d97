"""Categories as numbers: OneHotEncoder, OrdinalEncoder, TargetEncoder; and what fills in missing
values.

Each category has a place; what the encoder makes of it (a column, a number, a mean) is worked out
here, so that a text costs one look into a table. Texts have the number that the plan's table gives
them, or -1 (NaN) and -2 (None) where they are missing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from naru.frontend.sklearn_base import (
    Call,
    Part,
    Reader,
    Refused,
    Table,
    as_node,
    cast_to,
    column,
    converts,
    div,
    f64,
    flat,
    ints,
    is_texts,
    join,
    matrix,
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
from naru.frontend.sklearn_search import places
from naru.ir.graph import Node, get_output
from naru.ir.simplify import index
from naru.ops.registry import apply, constant

Array = np.ndarray
NAN, NONE = -1, -2  # numbers of missing texts
PRE = "sklearn.preprocessing."


# --- looking up -----------------------------------------------------------------------------------


def looked_up(reader: Reader, x: Part, categories: Array, values: Array, default: Any) -> Node:
    """[rows, 1]: the value of each row's category; `default` for one that is unknown."""
    if x.texts:
        return _text_values(reader, x.node, categories, values, default)
    if is_texts(categories):
        raise Refused("a column has texts as categories, and holds numbers")
    return _number_values(x.node, categories, values, default)


def _text_values(reader: Reader, x: Node, categories: Array, values: Array, default: Any) -> Node:
    """By a table over the numbers of texts; behind it all that are unknown."""
    at: list[int] = []
    for v in np.asarray(categories, object).tolist():
        if isinstance(v, str):
            at.append(reader.number_of(v) - NONE)
        elif v is None or _is_nan(v):
            at.append((NONE if v is None else NAN) - NONE)
        else:
            raise Refused(f"a column has texts and {v!r} as categories", "make all of them texts")
    known = np.full(max(at, default=0) + 2, default, values.dtype)
    known[at] = values
    inside = apply("clip", apply("sub", x, ints(NONE)), ints(0), ints(known.size - 1))
    return apply("gather", constant(known, known.dtype), inside, axis=0)


def _number_values(x: Node, categories: Array, values: Array, default: Any) -> Node:
    """By a search among the categories, which are in order; NaN, where it is one, is the last."""
    given = np.asarray([np.nan if v is None else v for v in np.asarray(categories).tolist()],
                       np.float64)  # fmt: skip
    missing = np.isnan(given)
    finite, theirs = given[~missing], values[~missing]
    order = np.argsort(finite, kind="stable")
    finite, theirs = finite[order], theirs[order]
    result = constant(np.full((1, 1), default, values.dtype), values.dtype)
    if finite.size:
        below = cast_to(places(x, [finite[1:]], inclusive=True), "i64")
        found = apply("gather", constant(theirs, theirs.dtype), below, axis=0)
        same = op("equal", apply("gather", as_node(finite), below, axis=0), x)
        result = apply("where", same, found, result)
    last = values[missing][-1] if missing.any() else default
    return apply("where", apply("isnan", x), constant(last, values.dtype), result)


def _is_nan(v: Any) -> bool:
    return v is not None and not isinstance(v, str) and (v != v or type(v).__name__ == "NAType")


def _column_name(c: Call, x: Part, k: int) -> str:
    names = getattr(c.e, "feature_names_in_", None)
    if x.names and x.names[0]:
        return x.names[0]
    return str(names[k]) if names is not None else f"column {k} of {c.where or 'the encoder'}"


def _refuse_unknown(c: Call, x: Part, k: int, categories: Array) -> None:
    """Rows with an unknown category are refused at run time."""
    known = looked_up(c.reader, x, categories, np.ones(len(categories), np.bool_), False)
    c.reader.check(flat(apply("not", known)), _column_name(c, x, k))


def _each(c: Call) -> list[tuple[int, Part, Array]]:
    """(number, column, its categories) for each column."""
    categories = c.e.categories_
    if len(categories) != c.x.width:
        raise Refused(f"it was fitted with {len(categories)} columns, and gets {c.x.width}")
    return [(k, c.x.column(k), np.asarray(v)) for k, v in enumerate(categories)]


def _grouping(e: Any, k: int, count: int) -> Array:
    """Category -> its place once those that are rare share one."""
    mappings = getattr(e, "_default_to_infrequent_mappings", None)
    found = None if mappings is None else mappings[k]
    places = np.arange(count)
    if found is not None:  # (a missing value, the last category, may have no part in it)
        places[: len(found)] = found
    return places


# --- encoders -------------------------------------------------------------------------------------


@converts("transform", PRE + "OneHotEncoder")
def one_hot(c: Call) -> Table:
    return join(
        table(_one_hot_column(c, k, x, categories)) for k, x, categories in _each(c)
        if int(c.e._n_features_outs[k])
    )  # fmt: skip


def _one_hot_column(c: Call, k: int, x: Part, categories: Array) -> Node:
    """Category -> column (-1: none), then 1 where that is the column's number."""
    e = c.e
    place = _grouping(e, k, len(categories))
    unknown = -1
    rare = getattr(e, "_infrequent_indices", None)
    if e.handle_unknown in ("infrequent_if_exist", "warn") and rare is not None:
        unknown = -1 if rare[k] is None else int(place[rare[k][0]])
    if e.handle_unknown == "error":
        _refuse_unknown(c, x, k, categories)
    dropped = e._drop_idx_after_grouping
    if dropped is not None and dropped[k] is not None:
        out = int(dropped[k])
        place = np.where(place == out, -1, place - (place > out))
        unknown = -1 if unknown == out else unknown - (unknown > out)
    found = looked_up(c.reader, x, categories, place, unknown)
    return f64(apply("equal", found, ints(np.arange(int(e._n_features_outs[k]))[None])))


@converts("transform", PRE + "OrdinalEncoder")
def ordinal(c: Call) -> Table:
    e = c.e
    columns: list[Node] = []
    for k, x, categories in _each(c):
        values = _grouping(e, k, len(categories)).astype(np.float64)
        missing = getattr(e, "_missing_indices", {}).get(k)
        if missing is not None:
            values[missing] = float(e.encoded_missing_value)
        if e.handle_unknown == "error":
            _refuse_unknown(c, x, k, categories)
            unknown = 0.0
        else:
            unknown = float(e.unknown_value)
        columns.append(looked_up(c.reader, x, categories, values, unknown))
    return table(side_by_side(columns))


@converts("transform", PRE + "TargetEncoder")
def target(c: Call) -> Table:
    e = c.e
    several = len(e.classes_) if e.target_type_ == "multiclass" else 1
    mean = numbers(e.target_mean_).reshape(-1)
    columns: list[Node] = []
    for k, x, categories in _each(c):
        for j in range(several):
            values = numbers(e.encodings_[k * several + j])
            columns.append(looked_up(c.reader, x, categories, values, float(mean[j])))
    return table(side_by_side(columns))


# --- missing values -------------------------------------------------------------------------------


def missing_in(c: Call, x: Part, value: Any) -> Node:
    """bool[rows, 1]: is it missing, that is `value`?"""
    if x.texts:
        if _is_nan(value):
            return apply("equal", x.node, ints(NAN))
        number = NONE if value is None else c.reader.number_of(str(value))
        return apply("equal", x.node, ints(number))
    if value is None or _is_nan(value):
        return op("isnan", x.node)
    return op("equal", x.node, float(value))


@converts("transform", "sklearn.impute.SimpleImputer")
def simple_imputer(c: Call) -> Table:
    e = c.e
    statistics = np.asarray(e.statistics_)
    if len(statistics) != c.x.width:
        raise Refused(f"it was fitted with {len(statistics)} columns, and gets {c.x.width}")
    if not any(c.x.texts()):
        made = _filled_numbers(c, matrix(c.x), numbers(statistics))
    else:
        made = join(
            _filled(c, c.x.column(k), v) for k, v in enumerate(statistics.tolist())
            if e.keep_empty_features or not _is_nan(v)
        )  # fmt: skip
    if not e.add_indicator:
        return made
    return join([made, _indicator(c, e.indicator_)])


def _filled_numbers(c: Call, x: Node, statistics: Array) -> Table:
    if not c.e.keep_empty_features:
        kept = np.flatnonzero(~np.isnan(statistics)).tolist()
        x, statistics = pick(x, kept), statistics[kept]
    gone = missing_in(c, Part(x), c.e.missing_values)
    return table(where(gone, statistics[None], x))


def _filled(c: Call, x: Part, value: Any) -> Table:
    gone = missing_in(c, x, c.e.missing_values)
    fill = ints(c.reader.number_of(str(value))) if x.texts else as_node(float(value))
    return Table((Part(apply("where", gone, fill, x.node), x.texts, x.names),))


def _indicator(c: Call, indicator: Any) -> Table:
    columns = [c.x.column(int(k)) for k in indicator.features_]
    return join(table(f64(missing_in(c, x, indicator.missing_values))) for x in columns)


@converts("transform", "sklearn.impute.MissingIndicator")
def missing_indicator(c: Call) -> Table:
    return _indicator(c, c.e)


@converts("transform", "sklearn.impute.KNNImputer")
def neighbours_imputer(c: Call) -> Table:
    """A missing number is the mean of its column over the nearest rows that have it; distances
    count what both rows have."""
    e, x = c.e, c.numbers()
    if not isinstance(e.metric, str) or e.metric != "nan_euclidean":
        raise Refused("metric: a function of your own", "metric='nan_euclidean'")
    if callable(e.weights):
        raise Refused("weights: a function of your own", "weights='uniform' or 'distance'")
    if not _is_nan(e.missing_values):
        raise Refused(f"missing_values={e.missing_values}", "missing_values=np.nan")
    fitted, gone = numbers(e._fit_X), np.asarray(e._mask_fit_X)
    fitted = np.where(gone, np.nan, fitted)
    away = _shared_distances(x, fitted)
    columns: list[Node] = []
    for k in np.flatnonzero(e._valid_mask | bool(e.keep_empty_features)).tolist():
        own = pick(x, [k])
        if not e._valid_mask[k]:
            columns.append(where(op("isnan", own), 0.0, own))
            continue
        have = np.flatnonzero(~gone[:, k])
        filled = _neighbours_mean(e, pick(away, have.tolist()), fitted[have, k])
        columns.append(where(op("isnan", own), filled, own))
    made = table(side_by_side(columns))
    return join([made, _indicator(c, e.indicator_)]) if e.add_indicator else made


def _shared_distances(x: Node, fitted: Array) -> Node:
    """[rows, fitted]: over the columns that both have, scaled up to all; NaN without any."""
    there = f64(apply("not", op("isnan", x)))
    plain = where(op("isnan", x), 0.0, x)
    theirs = (~np.isnan(fitted)).astype(np.float64)
    values = np.nan_to_num(fitted, nan=0.0)
    rows, width = x.type.shape[0], width_of(x)

    def wide(n: Node) -> Node:
        return apply("reshape", n, shape=(rows, n.type.shape[1], 1))

    both = mul(wide(there), theirs.T[None].copy())
    apart = mul(sub(wide(plain), values.T[None].copy()), both)
    shared = total(both)
    square = total(mul(apart, apart))
    scaled = op("sqrt", mul(div(float(width), shared), square))
    return where(op("equal", shared, 0.0), np.nan, scaled)


def _neighbours_mean(e: Any, away: Node, values: Array) -> Node:
    """[rows, 1]. Without any distance, the mean of the column."""
    k = min(int(e.n_neighbors), values.size)
    far = where(op("isnan", away), np.inf, away)
    found = apply("top_k", far, k=index(k), largest=False)
    near, at = get_output(found, 0), get_output(found, 1)
    theirs = apply("gather", as_node(values), at, axis=0)
    use = f64(op("less", near, np.inf))
    if e.weights == "distance":
        zero = op("equal", near, 0.0)
        some = op("greater", total(f64(zero), keep=True), 0.0)
        use = mul(use, where(some, f64(zero), div(1.0, near)))
    sums, weights = total(mul(theirs, use), keep=True), total(use, keep=True)
    return where(op("equal", weights, 0.0), float(values.mean()), div(sums, weights))


@converts("transform", "sklearn.impute.IterativeImputer")
def iterative_imputer(c: Call) -> Table:
    """Rounds of regressions, each of one column on others, as they were fitted."""
    e = c.e
    if e.sample_posterior:
        raise Refused("sample_posterior=True draws at random", "sample_posterior=False")
    x = c.numbers()
    gone = missing_in(c, Part(x), e.missing_values)
    first = c.reader.transform(e.initial_imputer_, c.x, c.inside("initial_imputer_"))
    columns = [pick(matrix(first), [k]) for k in range(first.width)]
    kept = np.flatnonzero(~np.isnan(numbers(e.initial_imputer_.statistics_))).tolist()
    masks = [pick(gone, [k]) for k in (kept if len(kept) == first.width else range(first.width))]
    low, high = numbers(e._min_value), numbers(e._max_value)
    for n, step in enumerate(e.imputation_sequence_):
        k = int(step.feat_idx)
        others = side_by_side([columns[int(j)] for j in step.neighbor_feat_idx])
        said = c.reader.regress(step.estimator, table(others), c.inside(f"imputation[{n}]"))
        bounded = op("clip", column(said), float(low[k]), float(high[k]))
        columns[k] = where(masks[k], bounded, columns[k])
    made = table(side_by_side(columns))
    return join([made, _indicator(c, e.indicator_)]) if e.add_indicator else made
