"""The readers of JSON and UBJSON against the json module, and what they refuse."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naru.errors import ModelError
from naru.frontend.json_numbers import read_json
from naru.frontend.records import NumberList, Record
from naru.frontend.ubjson import read_ubjson
from tests.fuzz.boosting_mutations import write_ubjson

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
)
VALUES: Any = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)


def plain(value: object) -> Any:
    """With lists in place of what stands for numbers."""
    if isinstance(value, NumberList):
        made = value.read()
        assert made is not None
        return made.tolist()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [plain(v) for v in value]
    return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value


@settings(max_examples=150, deadline=None)
@given(value=VALUES, indent=st.sampled_from([None, 0, 3]), ascii=st.booleans())
def test_what_json_writes_is_read(value: Any, indent: int | None, ascii: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii)
    assert plain(read_json(text.encode())) == value
    assert plain(read_ubjson(write_ubjson(value))) == value


def read_or_none(data: bytes, read: Callable[[bytes], object]) -> Any:
    """None for what is refused, as is a value of None."""
    with suppress(ModelError):
        return plain(read(data))
    return None


@settings(max_examples=150, deadline=None)
@given(value=VALUES, data=st.data())
def test_any_cut_and_any_byte(value: Any, data: st.DataObject) -> None:
    """What is read is what the json module reads, but for what it minds about numbers (01, or a 0
    that is -0); and there is no error but a ModelError."""
    text, binary = json.dumps(value).encode(), write_ubjson(value)
    for whole, read in ((text, read_json), (binary, read_ubjson)):
        at = data.draw(st.integers(0, len(whole) - 1))
        changed = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]
        if read is read_ubjson:
            with pytest.raises(ModelError, match="byte"):
                read(whole[:at])
            read_or_none(changed, read)
            continue
        for damaged in (whole[:at], changed):
            found = read_or_none(damaged, read)
            if found is not None and not re.search(rb"[0-9]", damaged):
                assert found == json.loads(damaged)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a value, found the end of the file"),
        ('{"a": 1', "expected ',' or '}', found the end of the file"),
        ('{"a": 1}}', r"expected the end of the file, found '}' at byte 8"),
        ('{"a": 1, "a": 2}', "'a' is there twice in an object"),
        ('{"a" 1}', "expected the name of a field and ':'"),
        ('["x" 1]', "expected ',' or ']'"),
        ('["x"}', "expected ',' or ']'"),
        ("nothing", "expected a value, found 'nothing' at byte 0"),
        ('"\ud800"', "expected a text"),
        ("[" * 100_000, "expected at most 64 objects and lists in each other"),
        ('{"a":' * 100_000, "expected at most 64 objects and lists in each other"),
    ],
)
def test_json_that_is_refused(text: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        read_json(text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    "text", ["[1,]", "[,1]", "[1 2]", "[1,,2]", "[-]", "[1e]", "[.]", "[1-1]", "[1.2.3]"]
)
def test_lists_that_are_no_numbers(text: str) -> None:
    record = Record(read_json(b'{"a": %b}' % text.encode()), "here")
    with pytest.raises(ModelError, match="here: a: expected numbers"):
        record.numbers("a")


def test_numbers_that_python_minds() -> None:
    """Integers of any length; NaN and the infinities."""
    digits = b"1" * 10_000
    assert read_json(digits) == math.inf
    record = Record(read_json(b'{"a": [%b, 1.5], "b": [NaN, -Infinity, true]}' % digits), "")
    assert record.numbers("a").tolist() == [math.inf, 1.5]
    assert np.array_equal(record.numbers("b"), [math.nan, -math.inf, 1], equal_nan=True)


def length(n: int) -> bytes:
    return b"L" + struct.pack(">q", n)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "found the end of the file"),
        (b"S" + length(5) + b"abc", "expected 5 bytes for a text at byte 10, found 3"),
        (b"S" + length(-1), "expected -1 bytes for a text"),
        (b"S" + length(1) + b"\xff", "expected UTF-8 in the text at byte 10"),
        (b"SX", "expected the kind of a length, found byte 0x58 at byte 1"),
        (b"[$d#" + length(2**62), r"expected \d+ bytes for a list of 4611686018427387904 numbers"),
        (b"[$d#" + length(-5), "expected -20 bytes for a list of -5 numbers"),
        (b"[#" + length(10**9) + b"T", "expected 1000000000 bytes for a list"),
        (b"[$S#" + length(1), "expected the kind of numbers"),
        (b"[$dX", "expected '#'"),
        (b"l\x00\x00", "found the end of the file"),
        (b"TT", "expected the end of the file at byte 1, found more"),
        (b"H", "expected the kind of a value, found byte 0x48 at byte 0"),
        (b"[" * 100_000, "expected at most 64 objects and lists in each other"),
        (b"{" + 2 * (length(1) + b"aT") + b"}", "'a' is there twice"),
    ],
)
def test_ubjson_that_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        read_ubjson(data)


def test_ubjson_of_all_kinds() -> None:
    data = b"[" + b"i\xff" + b"U\xff" + b"I\xff\xfe" + b"l" + b"\x00" * 4 + b"d?\x80\x00\x00"
    data += b"[$U#U\x02\x01\x02" + b"[$D#i\x01" + struct.pack(">d", 2.5) + b"TFZ]"
    assert plain(read_ubjson(data)) == [-1, 255, -2, 0, 1.0, [1, 2], [2.5], True, False, None]
