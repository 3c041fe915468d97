"""A JSON reader for files that are mostly numbers: a list of numbers becomes one numpy array.

The json module makes a Python object of every number, ten times the size of its text. Beside JSON
itself, NaN and the infinities are read, as XGBoost writes them.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Set
from typing import cast

import numpy as np

from naru.errors import ModelError
from naru.frontend.records import MOST_DEPTH, depth_error, put

_SPACE = re.compile(rb"[ \t\r\n]*+")
_STRING = re.compile(rb'"(?:[^"\\\x00-\x1f]++|\\.)*+"')
_NUMBER = re.compile(rb"-?+[0-9]++(\.[0-9]++)?+([eE][-+]?+[0-9]++)?+")
_NUMBERS = re.compile(rb"\[[-+0-9.eE, \t\r\n]*+\]")
_WORDS = {
    b"true": True, b"false": False, b"null": None,
    b"NaN": float("nan"), b"Infinity": float("inf"), b"-Infinity": float("-inf"),
}  # fmt: skip
_WORD = re.compile(rb"-?+[A-Za-z]++")
MOST_DIGITS = 18  # of an integer; what has more is a float


def read_json(data: bytes, skip: Set[str] = frozenset()) -> object:
    """The value in a file. Lists of numbers under a name in `skip` are left empty. ModelError."""
    with warnings.catch_warnings():  # (numpy 2.0 to 2.2 warn of text that is no number)
        warnings.simplefilter("error", DeprecationWarning)
        return _Reader(data, skip).whole()


class _Reader:
    def __init__(self, data: bytes, skip: Set[str]) -> None:
        self.data, self.skip, self.at = data, skip, 0

    def whole(self) -> object:
        found = self.value(0, keep=True)
        if self.next():
            raise self.fail("the end of the file")
        return found

    def fail(self, expected: str) -> ModelError:
        if self.at >= len(self.data):
            return ModelError(
                f"expected {expected}, found the end of the file",
                hint="it is cut short; copy it again",
            )
        found = self.data[self.at : self.at + 20].decode(errors="replace")
        return ModelError(f"expected {expected}, found {found!r} at byte {self.at}")

    def next(self) -> bytes:
        """The first byte behind white space; none at the end."""
        if found := _SPACE.match(self.data, self.at):
            self.at = found.end()
        return self.data[self.at : self.at + 1]

    def take(self, pattern: re.Pattern[bytes], expected: str) -> bytes:
        found = pattern.match(self.data, self.at)
        if not found:
            raise self.fail(expected)
        self.at = found.end()
        return found[0]

    def value(self, depth: int, *, keep: bool) -> object:
        if depth > MOST_DEPTH:
            raise depth_error(f"at byte {self.at}")
        first = self.next()
        if first == b"{":
            return self.object(depth)
        if first == b"[":
            return self.list(depth, keep=keep)
        if first == b'"':
            return self.string()
        if word := _WORD.match(self.data, self.at):
            if word[0] not in _WORDS:
                raise self.fail("a value")
            self.at = word.end()
            return _WORDS[word[0]]
        return self.number()

    def object(self, depth: int) -> dict[str, object]:
        made: dict[str, object] = {}

        def field() -> None:
            if self.next() != b'"':
                raise self.fail("the name of a field")
            name = self.string()
            if self.next() != b":":
                raise self.fail("':'")
            self.at += 1
            put(made, name, self.value(depth + 1, keep=name not in self.skip))

        self.listed(b"}", field)
        return made

    def list(self, depth: int, *, keep: bool) -> object:
        if found := _NUMBERS.match(self.data, self.at):
            start, self.at = self.at + 1, found.end()
            return _numbers(self.data[start : self.at - 1], start) if keep else np.zeros(0)
        made: list[object] = []
        self.listed(b"]", lambda: made.append(self.value(depth + 1, keep=keep)))
        return made

    def listed(self, end: bytes, item: Callable[[], None]) -> None:
        """Items with commas in between."""
        self.at += 1
        if self.next() == end:
            self.at += 1
            return
        while True:
            item()
            mark = self.next()
            if mark not in (b",", end):
                raise self.fail(f"',' or '{end.decode()}'")
            self.at += 1
            if mark == end:
                return

    def string(self) -> str:
        start = self.at
        text = self.take(_STRING, "a text in quotes")
        try:
            return cast(str, json.loads(text))
        except ValueError as error:
            raise ModelError(f"expected a text, at byte {start}: {error}") from None

    def number(self) -> int | float:
        text = self.take(_NUMBER, "a value")
        return int(text) if text.isdigit() and len(text) <= MOST_DIGITS else float(text)


def _numbers(text: bytes, start: int) -> np.ndarray:
    """Numbers with commas in between, at byte `start` of the file."""
    if not text.strip():
        return np.zeros(0)
    try:
        made = np.fromstring(text, np.float64, sep=",")
    except (ValueError, DeprecationWarning):
        made = np.zeros(0)
    if made.size != text.count(b",") + 1:
        raise ModelError(f"expected numbers with commas in between, at byte {start}")
    return made
