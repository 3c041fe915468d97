"""A JSON reader for files that are mostly numbers: a list of numbers is left as text, see records.

The json module makes a Python object of every number, ten times the size of its text. Beside JSON
itself, NaN and the infinities are read, as XGBoost writes them.
"""

from __future__ import annotations

import json
import re
from typing import cast

from naru.errors import ModelError
from naru.frontend.records import MOST_DEPTH, NumberList, depth_error, put

_SPACE = rb"[ \t\r\n]*+"
_TEXT = rb'"((?:[^"\\\x00-\x1f]++|\\.)*+)"'
_STRING = re.compile(_TEXT)
_FIELD = re.compile(_SPACE + _TEXT + _SPACE + b":")
_MARK = re.compile(_SPACE + rb"([,\]}])")  # what may follow a value
_START = re.compile(_SPACE + rb"(?=(.?))", re.DOTALL)  # up to a value, and its first byte
_CLOSED = re.compile(rb"[\[{]" + _SPACE + rb"[\]}]")
_NUMBER = re.compile(rb"-?+[0-9]++(\.[0-9]++)?+([eE][-+]?+[0-9]++)?+")
_NUMBERS = re.compile(rb"\[([-+0-9.eE, \t\r\n]*+)\]")
_WORDS = {
    b"true": True, b"false": False, b"null": None,
    b"NaN": float("nan"), b"Infinity": float("inf"), b"-Infinity": float("-inf"),
}  # fmt: skip
_WORD = re.compile(rb"-?+[A-Za-z]++")
MOST_DIGITS = 18  # of an integer; what has more is a float


def read_json(data: bytes) -> object:
    """The value in a file. ModelError."""
    reader = _Reader(data)
    found = reader.value(0)
    if data[reader.at :].strip():
        raise reader.fail("the end of the file")
    return found


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def fail(self, expected: str) -> ModelError:
        rest = self.data[self.at : self.at + 1000].lstrip()
        if not rest:
            return ModelError(
                f"expected {expected}, found the end of the file",
                hint="it is cut short; copy it again",
            )
        found = rest[:20].decode(errors="replace")
        return ModelError(f"expected {expected}, found {found!r} at byte {self.at}")

    def take(self, pattern: re.Pattern[bytes], expected: str) -> re.Match[bytes]:
        found = pattern.match(self.data, self.at)
        if not found:
            raise self.fail(expected)
        self.at = found.end()
        return found

    def value(self, depth: int) -> object:
        if depth > MOST_DEPTH:
            raise depth_error(f"at byte {self.at}")
        first = self.take(_START, "a value")[1]
        if first == b"[" and (found := _NUMBERS.match(self.data, self.at)):
            self.at = found.end()
            return NumberList(self.data, *found.span(1))
        if first == b"{":
            return self.object(depth)
        if first == b"[":
            return self.list(depth)
        if first == b'"':
            return self.text(self.take(_STRING, "a text in quotes")[1])
        if (word := _WORD.match(self.data, self.at)) and word[0] in _WORDS:
            self.at = word.end()
            return _WORDS[word[0]]
        text = self.take(_NUMBER, "a value")[0]
        return int(text) if text.isdigit() and len(text) <= MOST_DIGITS else float(text)

    def object(self, depth: int) -> dict[str, object]:
        made: dict[str, object] = {}
        more = not self.closed()
        while more:
            name = self.text(self.take(_FIELD, "the name of a field and ':'")[1])
            put(made, name, self.value(depth + 1))
            more = self.goes_on(b"}")
        return made

    def list(self, depth: int) -> list[object]:
        made: list[object] = []
        more = not self.closed()
        while more:
            made.append(self.value(depth + 1))
            more = self.goes_on(b"]")
        return made

    def closed(self) -> bool:
        """Goes behind the bracket or brace that begins an object or list; and behind its end, where
        nothing is in it."""
        found = _CLOSED.match(self.data, self.at)
        self.at = found.end() if found else self.at + 1
        return bool(found)

    def goes_on(self, end: bytes) -> bool:
        """Does a comma follow, and not the end of the object or list?"""
        expected = f"',' or '{end.decode()}'"
        before = self.at
        mark = self.take(_MARK, expected)[1]
        if mark not in (b",", end):
            self.at = before
            raise self.fail(expected)
        return mark == b","

    def text(self, inside: bytes) -> str:
        """What stands between quotes, as a text."""
        try:
            text = inside.decode()
            return cast(str, json.loads(f'"{text}"')) if "\\" in text else text
        except ValueError as error:
            raise ModelError(f"expected a text before byte {self.at}: {error}") from None
