"""Objects read from JSON or UBJSON, whose fields are checked when they are asked for.

A list of nothing but numbers is a numpy array (of UBJSON), or the place of its text (of JSON): most
lists of a file are never asked for.
"""

from __future__ import annotations

import re
import reprlib
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeGuard, cast

import numpy as np

from naru.errors import ModelError

Array = np.ndarray
_SIGN = re.compile(rb"[-+](?![0-9.in])", re.IGNORECASE)  # before no number
MOST_DEPTH = 64  # of objects and lists in each other; what the libraries write has at most ten


def parse_numbers(text: bytes, dtype: type[np.generic], separator: str) -> Array | None:
    """Numbers of a text with something in it; None where it has anything else. (Inside of
    `reading_numbers`, or numpy 2.0 to 2.2 only warn.)"""
    if _SIGN.search(text):  # which numpy takes for 0
        return None
    try:
        return np.fromstring(text, dtype, sep=separator)
    except (ValueError, DeprecationWarning):
        return None


@contextmanager
def reading_numbers() -> Generator[None]:
    """Text that is no number is an error of `parse_numbers`, also with numpy 2.0 to 2.2; what is
    too large for a dtype is infinite, as it is for the libraries, and nothing to warn of."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("error", DeprecationWarning)
        yield


@dataclass(frozen=True, slots=True)
class NumberList:
    """The text of numbers with commas in between: data[start:end]."""

    data: bytes
    start: int
    end: int

    def __len__(self) -> int:
        commas = self.data.count(b",", self.start, self.end)
        return commas + 1 if commas or self.data[self.start : self.end].strip() else 0

    def read(self) -> Array | None:
        """As i64 where all are whole, else as f64; None where it has anything but numbers."""
        size = len(self)
        if not size:
            return np.zeros(0)
        text = self.data[self.start : self.end]
        whole = not any(c in text for c in b".eE")
        made = parse_numbers(text, np.int64 if whole else np.float64, ",")
        return made if made is not None and made.size == size else None


def depth_error(where: str) -> ModelError:
    return ModelError(
        f"expected at most {MOST_DEPTH} objects and lists in each other, found more {where}"
    )


def put(into: dict[str, object], name: str, value: object) -> None:
    """A field of an object, which has it once."""
    if name in into:
        raise ModelError(f"{shown(name)} is there twice in an object")
    into[name] = value


def shown(value: object) -> str:
    """A value for a message, shortened."""
    if isinstance(value, np.ndarray):
        return f"{value.size} numbers" if value.size > 3 else str(value.tolist())
    if isinstance(value, NumberList):
        text = value.data[value.start : value.end].decode()
        return f"[{text}]" if len(text) < 40 else f"{len(value)} numbers"
    if isinstance(value, dict):
        return "an object"
    return "nothing" if value is None else reprlib.repr(value)


def is_object(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, dict)


class Record:
    """An object; `where` is what errors say of its place."""

    def __init__(self, value: object, where: str) -> None:
        if not is_object(value):
            raise ModelError(f"expected an object, found {shown(value)}", where=where)
        self.value = value
        self.where = where

    def fail(self, name: str, expected: str) -> ModelError:
        found = shown(self.value.get(name))
        return ModelError(f"{name}: expected {expected}, found {found}", where=self.where)

    def part(self, name: str) -> Record:
        if not isinstance(self.value.get(name), dict):
            raise self.fail(name, "an object")
        return Record(self.value[name], name)

    def records(self, name: str, each: str) -> list[Record]:
        """A list of objects, which errors call `each` 0, 1, …"""
        found = self.value.get(name)
        if not isinstance(found, list):
            if self.length(name) == 0:
                return []
            raise self.fail(name, "a list of objects")
        return [Record(v, f"{each} {k}") for k, v in enumerate(cast("list[object]", found))]

    def text(self, name: str) -> str:
        found = self.value.get(name)
        if not isinstance(found, str):
            raise self.fail(name, "a text")
        return found

    def number(self, name: str, default: int) -> int:
        """A whole number, written as text."""
        found = self.value.get(name, str(default))
        if not isinstance(found, str) or not re.fullmatch(r"[0-9]{1,9}", found):
            raise self.fail(name, "a whole number in a text")
        return int(found)

    def length(self, name: str) -> int | None:
        """How long a list is; None for what is none."""
        found = self.value.get(name)
        if isinstance(found, list | np.ndarray | NumberList):
            return len(cast("list[object]", found))
        return None

    def numbers(self, name: str, size: int | None = None) -> Array:
        """A list of numbers, of a size if one is given: i64 or f64, or as UBJSON has them."""
        found = self.value.get(name)
        if isinstance(found, NumberList):
            made = found.read()
        else:
            made = cast(Array, found) if isinstance(found, np.ndarray) else _numbers(found)
        if made is None or (size is not None and made.size != size):
            raise self.fail(name, "numbers" if size is None else f"{size} numbers")
        return made


def _numbers(found: object) -> Array | None:
    """What the readers left as a list: it has NaN, or true and false."""
    if not isinstance(found, list):
        return None
    values = cast("list[object]", found)
    if not all(isinstance(v, bool | int | float) for v in values):
        return None
    try:
        return np.array(values, np.float64)
    except OverflowError:
        return None
