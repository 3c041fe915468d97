"""Which columns a fitted estimator takes: how they are called, which hold texts, which are read.

Nothing in a fitted estimator says so directly. What an encoder has learnt tells that its columns
hold texts; a ColumnTransformer tells which columns its parts read. Everything else reads numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from naru.frontend.sklearn_base import Refused, is_texts

Bools = list[bool]


@dataclass(frozen=True)
class Columns:
    """`apart`: each column is an input of its own, since some hold texts. `named`: the names are
    those of the table that the estimator was fitted with, not made up."""

    names: tuple[str, ...]
    texts: tuple[bool, ...]
    used: tuple[bool, ...]
    named: bool

    @property
    def apart(self) -> bool:
        return any(t and u for t, u in zip(self.texts, self.used, strict=True))


def declared_columns(e: Any, example: Any = None) -> Columns:
    """The columns of a whole model. Refused where nobody knows how many there are."""
    names, named = _names(e, example)
    texts = texts_of(e, len(names))
    if example is not None:
        texts = [t or s for t, s in zip(texts, _texts_in(example, len(names)), strict=True)]
    return Columns(tuple(names), tuple(texts), tuple(used_of(e, len(names))), named)


def _names(e: Any, example: Any) -> tuple[list[str], bool]:
    given = getattr(e, "feature_names_in_", None)
    if given is None and example is not None and hasattr(example, "columns"):
        given = example.columns
    if given is not None:
        return [str(n) for n in given], True
    count = getattr(e, "n_features_in_", None)
    if count is None and example is not None:
        count = np.asarray(example).reshape(len(example), -1).shape[1]
    if count is None and reads_documents(e):
        return ["text"], False
    if count is None:
        raise Refused(
            "nothing in it says how many columns it takes; it may not be fitted",
            "fit it first, or naru.compile(estimator, example=rows)",
        )
    return [f"x{k}" for k in range(int(count))], False


def _texts_in(example: Any, count: int) -> Bools:
    """Which columns of an example hold texts."""
    if hasattr(example, "columns"):
        return [is_texts(example[c]) for c in example.columns]
    rows = np.asarray(example).reshape(len(example), count)
    return [is_texts(rows[:, k]) for k in range(count)]


def reads_documents(e: Any) -> bool:
    """Does it take a list of texts, rather than a table?"""
    while type(e).__name__ == "Pipeline" and getattr(e, "steps", None):
        e = next((s for _, s in e.steps if s is not None and s != "passthrough"), None)
    if type(e).__name__ == "FeatureUnion":
        return any(reads_documents(t) for _, t in e.transformer_list)
    return type(e).__name__ in DOCUMENTS


DOCUMENTS = ("CountVectorizer", "TfidfVectorizer", "HashingVectorizer")


# --- compositions ---------------------------------------------------------------------------------


def column_numbers(e: Any) -> list[tuple[str, Any, list[int]]]:
    """(name, transformer or "passthrough", its columns) of a ColumnTransformer, in the order of
    the results; what is dropped is left out."""
    names = getattr(e, "feature_names_in_", None)
    known = None if names is None else [str(n) for n in names]
    count = int(e.n_features_in_)
    return [
        (name, t, _numbered(columns, known, count))
        for name, t, columns in e.transformers_
        if not (isinstance(t, str) and t == "drop")
    ]


def _numbered(columns: Any, names: Sequence[str] | None, count: int) -> list[int]:
    """A selection (names, numbers, a mask, a slice, one of these alone) as column numbers."""
    if isinstance(columns, slice):
        return _sliced(cast(Any, columns), names, count)
    if isinstance(columns, str | int | np.integer):
        columns = [columns]
    array = np.asarray(columns)
    if array.dtype.kind == "b":
        return np.flatnonzero(array).tolist()
    found = [_place(v, names) for v in array.tolist()]
    return [int(v) % count for v in found if v is not None]


def _sliced(columns: Any, names: Sequence[str] | None, count: int) -> list[int]:
    start, stop = _place(columns.start, names), _place(columns.stop, names)
    if isinstance(columns.stop, str) and stop is not None:
        stop += 1  # slices of names have their last element
    return list(range(count))[start : stop : columns.step]


def _place(value: Any, names: Sequence[str] | None) -> int | None:
    if isinstance(value, str):
        if names is None or value not in names:
            raise Refused(f"it selects the column {value!r}, which it was not fitted with")
        return names.index(value)
    return None if value is None else int(value)


def used_of(e: Any, count: int) -> Bools:
    """Which of `count` columns are read."""
    kind = type(e).__name__
    if kind == "Pipeline":
        steps = [s for _, s in e.steps if s is not None and s != "passthrough"]
        return used_of(steps[0], count) if steps else [True] * count
    if hasattr(e, "best_estimator_"):
        return used_of(e.best_estimator_, count)
    if kind == "ColumnTransformer" and hasattr(e, "transformers_"):
        used = [False] * count
        for _, t, columns in column_numbers(e):
            inner = [True] * len(columns) if isinstance(t, str) else used_of(t, len(columns))
            for c, u in zip(columns, inner, strict=True):
                used[c] = used[c] or u
        return used
    return [True] * count


def texts_of(e: Any, count: int) -> Bools:
    """Which of `count` columns hold texts."""
    find = TEXTS.get(type(e).__name__)
    if find is None and hasattr(e, "best_estimator_"):
        return texts_of(e.best_estimator_, count)
    found = find(e, count) if find else [False] * count
    return found if len(found) == count else [False] * count


def _in_pipeline(e: Any, count: int) -> Bools:
    """Those of the first step; and where that leaves columns in place, those of what follows."""
    for _, step in e.steps:
        if step is None or (isinstance(step, str) and step == "passthrough"):
            continue
        found = texts_of(step, count)
        if any(found) or type(step).__name__ not in IN_PLACE:
            return found
    return [False] * count


IN_PLACE = ("SimpleImputer", "FunctionTransformer")  # give as many columns as they get


def _in_columns(e: Any, count: int) -> Bools:
    texts = [False] * count
    for _, t, columns in column_numbers(e):
        if not isinstance(t, str):
            for c, holds in zip(columns, texts_of(t, len(columns)), strict=True):
                texts[c] = texts[c] or holds
    return texts


def _in_union(e: Any, count: int) -> Bools:
    parts = [t for _, t in e.transformer_list if not isinstance(t, str)]
    found = [texts_of(t, count) for t in parts]
    return [any(f[k] for f in found) for k in range(count)]


def _of_categories(e: Any, count: int) -> Bools:
    return [is_texts(c) for c in getattr(e, "categories_", ())]


def _of_imputer(e: Any, count: int) -> Bools:
    if is_texts(getattr(e, "statistics_", ())):
        return [isinstance(v, str) for v in np.asarray(e.statistics_).tolist()]
    return [False] * count


def _of_boosting(e: Any, count: int) -> Bools:
    inner = getattr(e, "_preprocessor", None)
    return [False] * count if inner is None else texts_of(inner, count)


def _all(e: Any, count: int) -> Bools:
    return [True] * count


def _of_first(name: str) -> Callable[[Any, int], Bools]:
    """Those of what an estimator of estimators holds in an attribute."""

    def find(e: Any, count: int) -> Bools:
        inner = getattr(e, name, None)
        if isinstance(inner, list):
            inner = next(iter(cast("list[Any]", inner)), None)
        return [False] * count if inner is None else texts_of(inner, count)

    return find


TEXTS: dict[str, Callable[[Any, int], Bools]] = {
    "Pipeline": _in_pipeline,
    "ColumnTransformer": _in_columns,
    "FeatureUnion": _in_union,
    "OneHotEncoder": _of_categories,
    "OrdinalEncoder": _of_categories,
    "TargetEncoder": _of_categories,
    "SimpleImputer": _of_imputer,
    "HistGradientBoostingClassifier": _of_boosting,
    "HistGradientBoostingRegressor": _of_boosting,
    **dict.fromkeys(DOCUMENTS, _all),
    **dict.fromkeys(("VotingClassifier", "VotingRegressor"), _of_first("estimators_")),
    **dict.fromkeys(("StackingClassifier", "StackingRegressor"), _of_first("estimators_")),
    **dict.fromkeys(("MultiOutputClassifier", "MultiOutputRegressor"), _of_first("estimators_")),
    "OneVsRestClassifier": _of_first("estimators_"),
    "OneVsOneClassifier": _of_first("estimators_"),
    "TransformedTargetRegressor": _of_first("regressor_"),
    "FrozenEstimator": _of_first("estimator"),
}  # fmt: skip
