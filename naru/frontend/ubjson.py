"""A reader of UBJSON, the binary form of JSON that XGBoost writes (ubjson.org, draft 12).

Everything is big-endian. Lists of numbers become numpy arrays, most of them without a copy; every
length is compared with what is left of the file before anything is made of it.
"""

from __future__ import annotations

import struct
from typing import cast

import numpy as np

from naru.errors import ModelError
from naru.frontend.records import MOST_DEPTH, depth_error, put

_CODES = {"i": "b", "U": "B", "I": "h", "l": "i", "L": "q", "d": "f", "D": "d"}  # of struct
_NUMBERS = {ord(k): struct.Struct(f">{c}") for k, c in _CODES.items()}
_DTYPES = {ord(k): np.dtype(f">{c}") for k, c in _CODES.items()}
_WORDS = {ord("T"): True, ord("F"): False, ord("Z"): None}
_WHOLE = frozenset(map(ord, "iUIlL"))
_END = {"[": ord("]"), "{": ord("}")}
CUT_SHORT = "the file is cut short or damaged; copy it again"


def read_ubjson(data: bytes) -> object:
    """The value in a file. ModelError."""
    reader = _Reader(data)
    try:
        found = reader.value(reader.byte(), 0)
    except (IndexError, struct.error):  # a byte or a number behind the end
        raise ModelError(
            f"expected more behind byte {len(data)}, found the end of the file", hint=CUT_SHORT
        ) from None
    if reader.at != len(data):
        raise ModelError(f"expected the end of the file at byte {reader.at}, found more")
    return found


class _Reader:
    """(A byte behind the end is an IndexError, which `read_ubjson` catches: names of fields are a
    third of a file's values, and this is what takes the time.)"""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def fail(self, expected: str, at: int) -> ModelError:
        return ModelError(f"expected {expected}, found byte {self.data[at]:#04x} at byte {at}")

    def take(self, size: int, what: str) -> int:
        """Where the next `size` bytes begin."""
        start = self.at
        if not 0 <= size <= len(self.data) - start:
            raise ModelError(
                f"expected {size} bytes for {what} at byte {start}, found {len(self.data) - start}",
                hint=CUT_SHORT,
            )
        self.at = start + size
        return start

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def number(self, mark: int) -> int | float:
        form = _NUMBERS[mark]
        (found,) = form.unpack_from(self.data, self.at)
        self.at += form.size
        return found

    def length(self) -> int:
        mark = self.byte()
        if mark not in _WHOLE:
            raise self.fail("the kind of a length", self.at - 1)
        return cast(int, self.number(mark))

    def text(self) -> str:
        size = self.length()
        start = self.take(size, "a text")
        try:
            return self.data[start : start + size].decode()
        except UnicodeDecodeError:
            raise ModelError(f"expected UTF-8 in the text at byte {start}") from None

    def value(self, mark: int, depth: int) -> object:
        """What follows its mark."""
        if depth > MOST_DEPTH:
            raise depth_error(f"at byte {self.at}")
        if mark == ord("{"):
            return self.object(depth)
        if mark == ord("["):
            return self.list(depth)
        if mark == ord("S"):
            return self.text()
        if mark in _NUMBERS:
            return self.number(mark)
        if mark in _WORDS:
            return _WORDS[mark]
        raise self.fail("the kind of a value", self.at - 1)

    def object(self, depth: int) -> dict[str, object]:
        made: dict[str, object] = {}
        while self.data[self.at] != _END["{"]:
            name = self.text()
            put(made, name, self.value(self.byte(), depth + 1))
        self.at += 1
        return made

    def list(self, depth: int) -> object:
        mark = self.data[self.at]
        if mark == ord("$"):
            self.at += 1
            return self.typed(self.byte())
        if mark == ord("#"):
            self.at += 1
            count = self.length()
            if not 0 <= count <= len(self.data) - self.at:  # each takes a byte at least
                self.take(count, "a list")
            return [self.value(self.byte(), depth + 1) for _ in range(count)]
        made: list[object] = []
        while self.data[self.at] != _END["["]:
            made.append(self.value(self.byte(), depth + 1))
        self.at += 1
        return made

    def typed(self, mark: int) -> np.ndarray:
        """A list whose elements are of one kind, said once."""
        if mark not in _DTYPES:
            raise self.fail("the kind of numbers", self.at - 1)
        if (sign := self.byte()) != ord("#"):
            raise ModelError(f"expected '#' at byte {self.at - 1}, found byte {sign:#04x}")
        dtype, count = _DTYPES[mark], self.length()
        start = self.take(count * dtype.itemsize, f"a list of {count} numbers")
        return np.frombuffer(self.data, dtype, count, start)
