"""Tables with named columns, as pandas and others have them, as inputs of a model.

A model takes them in one of two ways: each column as an input of its own, by its name; or one
matrix, whose columns the bundle names (the key `columns` of its manifest). Columns are looked up by
name, so that their order does not matter and more of them do no harm. Whole numbers and truths
become the floats that an input asks for. No library of tables is imported: what has `columns`, and
gives one by its name, is one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..artifact.manifest import dtype_of
from ..errors import InputError, nearest
from .model import TensorInfo

Array = NDArray[Any]
Columns = Mapping[str, "tuple[str, ...]"]


def is_table(value: object) -> bool:
    """Has a value named columns? Arrays and dicts have none."""
    if isinstance(value, np.ndarray | Mapping):
        return False
    return hasattr(value, "columns") and hasattr(value, "__getitem__")


def columns_of(manifest: Mapping[str, Any]) -> Columns:
    """What a bundle calls the columns of its inputs; nothing where it does not say so."""
    given: object = manifest.get("columns")
    if not isinstance(given, dict):
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for name, columns in cast("dict[str, object]", given).items():
        if isinstance(columns, list):
            found[name] = tuple(map(str, cast("list[object]", columns)))
    return found


def take(table: Any, inputs: Sequence[TensorInfo], columns: Columns) -> dict[str, Array]:
    """The inputs of a model, by name, from a table. InputError where a column is missing, or holds
    what no input takes."""
    names = list(table.columns)
    there = {str(c): c for c in names}
    matrix = inputs[0].name if len(inputs) == 1 and len(inputs[0].shape) == 2 else None
    if matrix is not None and matrix not in columns:
        _refuse_twice(there, names)
        return {matrix: _matrix(table, list(there.values()), inputs[0])}
    wanted = columns[matrix] if matrix is not None else tuple(i.name for i in inputs)
    for c in names:  # LightGBM writes names with spaces so
        spaceless = re.sub(r"\s", "_", str(c))
        if spaceless in wanted:
            there.setdefault(spaceless, c)
    missing = [name for name in wanted if name not in there]
    if missing:
        listed = ", ".join(f"'{name}'" for name in missing)
        verb = "is" if len(missing) == 1 else "are"
        raise InputError(
            f"column {listed} {verb} missing; the table has {', '.join(there)}",
            hint=nearest(missing[0], there),
        )
    _refuse_twice(wanted, names)
    if matrix is not None:
        return {matrix: _matrix(table, [there[name] for name in wanted], inputs[0])}
    return {i.name: _column(table[there[i.name]], i) for i in inputs}


def _refuse_twice(wanted: Iterable[str], names: Sequence[Any]) -> None:
    """InputError where a column that is wanted could be one of two."""
    count = Counter(map(str, names))
    for name in wanted:
        if count[name] > 1:
            found = " and ".join(repr(c) for c in names if str(c) == name)
            raise InputError(
                f"column '{name}': expected one of this name, the table has {count[name]} "
                f"({found})",
                hint="rename or drop the others before the call",
            )


def _matrix(table: Any, names: Sequence[Any], info: TensorInfo) -> Array:
    """Columns side by side, in the dtype of the input."""
    out = np.empty((len(table), len(names)), dtype_of(info.dtype))
    for k, name in enumerate(names):
        out[:, k] = _numbers(np.asarray(table[name]), str(name), info)
    return out


def _column(values: Any, info: TensorInfo) -> Array:
    if info.dtype == "string":
        return np.asarray(values, object)
    return _numbers(np.asarray(values), info.name, info)


def _numbers(values: Array, name: str, info: TensorInfo) -> Array:
    """A column as numbers of the input's dtype: floats of any width, whole numbers as they are.
    What is an object for each row may be numbers all the same."""
    want = dtype_of(info.dtype)
    if values.dtype == want:
        return np.ascontiguousarray(values)
    if values.dtype.kind == "O":
        listed = [np.nan if v is None else v for v in values.tolist()]
        with suppress(TypeError, ValueError):  # no numbers, as the error below says
            values = np.array(listed, want if want.kind == "f" else None)
    if values.dtype.kind not in "biuf":
        raise InputError(f"column '{name}': expected numbers, got {values.dtype}")
    with np.errstate(invalid="ignore"):  # of NaN as a whole number, which is refused below
        made = np.ascontiguousarray(values, want)
    if want.kind in "biu" and not np.array_equal(made, values):
        other = values[values != made].flat[0]
        raise InputError(f"column '{name}': expected {info.dtype}, got {other} of {values.dtype}")
    return made
