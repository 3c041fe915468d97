"""Damage to the files of LightGBM and XGBoost: numbers, fields and trees changed, beside bytes."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Sequence
from copy import deepcopy
from random import Random
from typing import Any

from . import byte_mutations

NUMBERS = ("0", "1", "-1", "2", "-2", "7", "31", "255", "2147483647", "-2147483648", "4294967296",
           "0.5", "-0.0", "1e-36", "-1e-36", "1e38", "1e400", "nan", "inf", "-inf", "9" * 30,
           "1" * 10_000, "", "x", "1 2", "0x10", "1_0")  # fmt: skip
VALUES: tuple[Any, ...] = (0, 1, -1, 2, 5, 2**31 - 1, -(2**31), 2**24, 2**63, 0.5, 1e-36, 1e38,
                           float("nan"), float("inf"), None, True, "", "1", "[]", [], [0], {},
                           [[0]], [1, "2"], "9" * 30)  # fmt: skip


# ---- LightGBM ----


def mutate_text(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """One to three changes of a text of lines `name=value`."""
    if rng.random() < 0.25:
        return byte_mutations.damage(data, others, rng)
    lines = data.decode().split("\n")
    end = lines.index("end of trees") + 1
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(_LINES)(lines, rng, min(end, len(lines)))
    return "\n".join(lines).encode()


def _change_number(lines: list[str], rng: Random, end: int) -> None:
    at = rng.randrange(end)
    name, sign, value = lines[at].partition("=")
    words = value.split(" ")
    words[rng.randrange(len(words))] = rng.choice(NUMBERS)
    lines[at] = name + sign + " ".join(words)


def _swap_numbers(lines: list[str], rng: Random, end: int) -> None:
    at = rng.randrange(end)
    name, sign, value = lines[at].partition("=")
    words = value.split(" ")
    rng.shuffle(words)
    lines[at] = name + sign + " ".join(words)


def _drop_line(lines: list[str], rng: Random, end: int) -> None:
    del lines[rng.randrange(end)]


def _repeat_line(lines: list[str], rng: Random, end: int) -> None:
    lines.insert(rng.randrange(end), lines[rng.randrange(end)])


def _swap_values(lines: list[str], rng: Random, end: int) -> None:
    """Two fields exchange what they say, as far as they are of one name."""
    names = [k for k in range(end) if "=" in lines[k]]
    a = rng.choice(names)
    same = [k for k in names if lines[k].split("=")[0] == lines[a].split("=")[0]]
    b = rng.choice(same)
    lines[a], lines[b] = lines[b], lines[a]


_LINES: tuple[Callable[[list[str], Random, int], None], ...] = (
    _change_number, _change_number, _change_number, _swap_numbers, _drop_line, _repeat_line,
    _swap_values,
)  # fmt: skip


# ---- XGBoost ----


def mutate_json(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """Changes of the values in a file, which is written as JSON."""
    if rng.random() < 0.25:
        return byte_mutations.damage(data, others, rng)
    whole = json.loads(data)
    _mutate_values(whole, rng)
    text = json.dumps(whole)
    if rng.random() < 0.05:
        text = text.replace("0", "1" * 10_000, 1)
    if rng.random() < 0.02:
        text = text.replace("[", "[" * 5000, 1)
    return text.encode()


def mutate_ubjson(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """The same of a file in JSON, which is written as UBJSON; or bytes of that."""
    if rng.random() < 0.5:
        whole = json.loads(data)
        _mutate_values(whole, rng)
        return write_ubjson(whole)
    changed = bytearray(write_ubjson(json.loads(data)))
    if rng.random() < 0.5:
        return byte_mutations.damage(bytes(changed), [bytes(changed)], rng)
    marks = [m.start() for m in re.finditer(rb"[LlIiU$#\[\]{}SdD]", changed)]
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.choice(marks)
        changed[at] = rng.choice(b"LlIiU$#[]{}SdDTFZ")
        if rng.random() < 0.3:
            changed[at + 1 : at + 9] = rng.choice(((2**62).to_bytes(8, "big"), b"\xff" * 8))
    return bytes(changed)


def _mutate_values(whole: Any, rng: Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 3))):
        into, key = _place(whole, rng)
        change = rng.random()
        if change < 0.6 or not isinstance(into, list):
            into[key] = deepcopy(rng.choice(VALUES))
        elif change < 0.8:
            del into[key]
        else:
            into.insert(key, deepcopy(into[key]))


def _place(whole: Any, rng: Random) -> tuple[Any, Any]:
    """A list or object, and where in it: any depth, mostly where trees are."""
    at, key = whole, "learner"
    while isinstance(at[key], list | dict) and at[key] and rng.random() < 0.9:
        at = at[key]
        key = rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
    return at, key


def write_ubjson(value: Any) -> bytes:
    """A value as UBJSON, as XGBoost writes it; lists of numbers of one kind are typed."""
    match value:
        case None:
            return b"Z"
        case bool():
            return b"T" if value else b"F"
        case int():
            return b"L" + struct.pack(">q", max(-(2**63), min(value, 2**63 - 1)))
        case float():
            return b"D" + struct.pack(">d", value)
        case str():
            return b"S" + _name(value)
        case dict():
            fields = (_name(k) + write_ubjson(v) for k, v in value.items())
            return b"{" + b"".join(fields) + b"}"
        case list():
            head = b"#L" + struct.pack(">q", len(value))
            if value and all(isinstance(v, float) for v in value):
                return b"[$D" + head + struct.pack(f">{len(value)}d", *value)
            whole = all(isinstance(v, int) and not isinstance(v, bool) for v in value)
            if value and whole and all(-(2**31) <= v < 2**31 for v in value):
                return b"[$l" + head + struct.pack(f">{len(value)}i", *value)
            return b"[" + head + b"".join(map(write_ubjson, value))
        case _:
            raise TypeError(type(value))


def _name(text: str) -> bytes:
    data = text.encode()
    return b"L" + struct.pack(">q", len(data)) + data
