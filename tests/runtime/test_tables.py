"""Tables with named columns as inputs, of whatever library: only `columns` is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from naru.errors import InputError
from naru.runtime.model import TensorInfo
from naru.runtime.tables import columns_of, is_table, take

MATRIX = (TensorInfo("features", "float64", ("rows", 2)),)
APART = (TensorInfo("age", "float64", ("rows",)), TensorInfo("city", "string", ("rows",)))


class Frame:
    """The least that is a table."""

    def __init__(self, **columns: Any) -> None:
        self.columns = list(columns)
        self.values = columns

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))


def test_what_is_a_table() -> None:
    assert is_table(Frame(a=[1]))
    for other in (np.zeros(3), np.zeros(3, [("a", "f8")]), {"columns": 1}, [1], "text", None):
        assert not is_table(other)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint64, np.float32, np.float64, object])
def test_numbers_become_floats(dtype: Any) -> None:
    frame = Frame(b=np.array([1, 0], dtype), x=["?", "?"], a=np.array([1, 1], dtype))
    found = take(frame, MATRIX, {"features": ("a", "b")})["features"]
    assert found.dtype == np.float64
    assert found.tolist() == [[1, 1], [1, 0]]


def test_without_names_by_position() -> None:
    found = take(Frame(b=[1.0, 2], a=[3.0, 4]), MATRIX, {})
    assert found["features"].tolist() == [[1, 3], [2, 4]]


def test_columns_apart() -> None:
    found = take(Frame(city=["Oslo", None], age=[None, 3], more=[1, 2]), APART, {})
    assert found["city"].tolist() == ["Oslo", None]
    assert np.array_equal(found["age"], [np.nan, 3], equal_nan=True)


def test_errors() -> None:
    with pytest.raises(
        InputError, match=r"column 'city' is missing; .*\n  try: did you mean 'City'"
    ):
        take(Frame(age=[1.0], City=["x"]), APART, {})
    with pytest.raises(InputError, match="column 'age': expected numbers, got <U1"):
        take(Frame(age=["x"], city=["x"]), APART, {})
    with pytest.raises(InputError, match="column 'age': expected numbers, got object"):
        take(Frame(age=np.array(["x"], object), city=["x"]), APART, {})


@pytest.mark.parametrize(
    ("inputs", "columns"), [(MATRIX, {"features": ("age", "more")}), (MATRIX, {}), (APART, {})]
)
@pytest.mark.parametrize("names", [("age", "age"), (1, "1")])
def test_a_name_twice(inputs: Any, columns: Any, names: tuple[Any, ...]) -> None:
    """Refused where the column is asked for; pandas gives both for it, with two dims."""
    frame = Frame(age=np.zeros((3, 2)), more=[1.0, 2, 3], city=["x"] * 3)
    frame.columns = [*names, "more", "city"]
    if names == (1, "1"):
        inputs = tuple(replace(i, name=i.name.replace("age", "1")) for i in inputs)
        columns = dict.fromkeys(columns, ("1", "more"))
    name, both = str(names[0]), f"{names[0]!r} and {names[1]!r}"
    with pytest.raises(InputError, match=f"column '{name}': expected one .* has 2 \\({both}\\)"):
        take(frame, inputs, columns)


def test_a_name_twice_that_nobody_asks_for() -> None:
    frame = Frame(a=[1.0], b=[2.0])
    frame.columns = ["a", "b", "more", "more"]
    assert take(frame, MATRIX, {"features": ("b", "a")})["features"].tolist() == [[2, 1]]


@pytest.mark.parametrize("given", [None, 3, [], {"features": 3}, {}])
def test_manifests_that_say_nothing(given: Any) -> None:
    assert columns_of({"columns": given}) == {}


@pytest.mark.parametrize("given", [[1.5, 2.0], [np.nan, 1.0], [2**40, 1], [1.5, None]])
def test_whole_numbers_are_not_rounded(given: list[Any]) -> None:
    table = Frame(n=np.array(given, object if None in given else None))
    infos = [TensorInfo("n", "int32", (2,))]
    with pytest.raises(
        InputError, match=r"column 'n': expected int32, got (1\.5|nan|1099511627776)"
    ):
        take(table, infos, {})


def test_whole_numbers_of_another_width() -> None:
    table = Frame(n=np.array([3, 4]), flag=np.array([True, False]))
    infos = [TensorInfo("n", "int32", (2,)), TensorInfo("flag", "int64", (2,))]
    found = take(table, infos, {})
    assert found["n"].dtype == np.int32
    assert found["flag"].tolist() == [1, 0]
