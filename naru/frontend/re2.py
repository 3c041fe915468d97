"""Patterns of RE2, whose syntax the standard demands of RegexFullMatch, as patterns of Python's re.

Only whether a whole text matches is asked. So groups need not capture, lazy repetitions may be
greedy, and what is left are classes of characters, which are written out, as the two mean other
characters by `\\d` or `(?i)k`. What RE2 refuses is refused here.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from typing import TypeAlias

from naru.errors import ModelError
from naru.frontend.onnx_node import Unsupported

Ranges: TypeAlias = "Sequence[tuple[int, int]]"  # of code points, both ends included

LARGEST = 0x10FFFF
CASED = 0x20000  # behind it there are no letters with a case
MOST_REPEATS = 1000  # by RE2, also of a repetition in a repetition
_DIGIT, _LOWER, _UPPER = (0x30, 0x39), (0x61, 0x7A), (0x41, 0x5A)
_WORD = (_DIGIT, _UPPER, (0x5F, 0x5F), _LOWER)
PERL: Mapping[str, Ranges] = {"d": (_DIGIT,), "s": ((9, 10), (12, 13), (32, 32)), "w": _WORD}
POSIX: Mapping[str, Ranges] = {
    "alnum": (_DIGIT, _UPPER, _LOWER), "alpha": (_UPPER, _LOWER), "ascii": ((0, 127),),
    "blank": ((9, 9), (32, 32)), "cntrl": ((0, 31), (127, 127)), "digit": (_DIGIT,),
    "graph": ((33, 126),), "lower": (_LOWER,), "print": ((32, 126),),
    "punct": ((33, 47), (58, 64), (91, 96), (123, 126)), "space": ((9, 13), (32, 32)),
    "upper": (_UPPER,), "word": _WORD, "xdigit": (_DIGIT, (0x41, 0x46), (0x61, 0x66)),
}  # fmt: skip
ESCAPES = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}

_REPEAT = re.compile(r"[*+?]|\{(?P<least>0|[1-9][0-9]*)(?P<more>,(?P<most>0|[1-9][0-9]*)?)?\}")
_GROUP = re.compile(r"\?P?<(?P<name>\w+)>|\?(?P<on>[imsU]*)(?P<off>-[imsU]+)?(?P<end>[:)])")
_POSIX = re.compile(r"\[:(\^?)(.*?):\]", re.DOTALL)
_CATEGORY = re.compile(r"\\([pP])(?:\{(\^?)([^{}]*)\}|(.))", re.DOTALL)
_KNOWN = re.compile(
    "Any|C[cfos]?|L[lmotu]?|M[cen]?|N[dlo]?|P[cdefios]?|S[ckmo]?|Z[lps]?"
)  # categories
_HEX = re.compile(r"x(?:\{([0-9A-Fa-f]+)\}|([0-9A-Fa-f]{2}))")
_OCTAL = re.compile(r"0[0-7]{0,2}|[1-7][0-7]{1,2}")


def to_python(pattern: str) -> str:
    """A pattern of Python's re that matches the same whole texts. ModelError for what is no pattern
    of RE2, Unsupported for what Python cannot say."""
    found = _Reader(pattern).read()
    try:
        re.compile(found)
    except (re.error, RecursionError, OverflowError) as error:
        raise Unsupported(f"the pattern {pattern!r} is beyond Python's re: {error}") from None
    return found


# ---- classes ----


def merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Sorted, and apart from each other."""
    out: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(high, out[-1][1]))
        else:
            out.append((low, high))
    return out


def negated(ranges: Ranges) -> Ranges:
    edges = [-1, *(k for low, high in merged(ranges) for k in (low - 1, high)), LARGEST]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return [(before + 1, last) for before, last in pairs if before < last]


@cache
def _categories() -> Sequence[tuple[str, int, int]]:
    """All characters: the category of each run of them."""
    found: list[tuple[str, int, int]] = []
    for name, run in groupby(range(LARGEST + 1), key=lambda k: unicodedata.category(chr(k))):
        codes = list(run)
        found.append((name, codes[0], codes[-1]))
    return found


def _category(name: str) -> Ranges:
    if name == "Any":
        return [(0, LARGEST)]
    runs = _categories()
    return merged((a, b) for of, a, b in runs if of.startswith(name) and of != "Cn")


@cache
def _alike() -> Sequence[Sequence[int]]:
    """The characters that differ in their case only (simple folding: one character by one)."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for k in range(CASED):
        c = chr(k)
        found = (f for f in (c.casefold(), c.lower(), c) if len(f) == 1)
        groups[next(found)].append(k)
    return [g for g in groups.values() if len(g) > 1]


def folded(ranges: Ranges) -> Ranges:
    """With all that differ from one of them in their case only."""
    more = [
        (k, k)
        for group in _alike()
        if any(low <= k <= high for k in group for low, high in ranges)
        for k in group
    ]
    return merged([*ranges, *more])


def _written(ranges: Ranges) -> str:
    """A class as Python writes it."""
    found = merged(ranges)
    if not found:
        return "(?!)"
    if len(found) == 1 and found[0][0] == found[0][1]:
        return re.escape(chr(found[0][0]))
    ends = (
        _character(low) if low == high else f"{_character(low)}-{_character(high)}"
        for low, high in found
    )
    return f"[{''.join(ends)}]"


def _character(code: int) -> str:
    plain = chr(code).isalnum() and code < 128
    return chr(code) if plain else f"\\x{code:02x}" if code < 256 else f"\\U{code:08x}"


# ---- patterns ----


@dataclass
class _Level:
    """What is read of a group: the atoms of the branch, the branches before it, the flags that hold
    behind it. An atom is (text, how often a repetition in it repeats)."""

    flags: frozenset[str]
    atoms: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    branches: list[str] = field(default_factory=list[str])
    weight: int = 1

    def end_branch(self) -> None:
        self.branches.append("".join(text for text, _ in self.atoms))
        self.weight = max([self.weight, *(weight for _, weight in self.atoms)])
        self.atoms = []


class _Reader:
    def __init__(self, pattern: str) -> None:
        self.text, self.at = pattern, 0
        self.flags: frozenset[str] = frozenset()
        self.levels = [_Level(self.flags)]
        self.repeated = False  # the last thing read is a repetition

    def wrong(self, why: str) -> ModelError:
        return ModelError(
            f"attribute 'pattern': {self.text!r} is no pattern of RE2, at {self.at}: {why}"
        )

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self.text, self.at)
        self.at = self.at if found is None else found.end()
        return found

    def put(self, text: str, weight: int = 1) -> None:
        self.levels[-1].atoms.append((text, weight))

    def put_class(self, ranges: Ranges) -> None:
        self.put(_written(ranges))

    def literal(self, code: int) -> None:
        self.put_class(self.with_case([(code, code)]))

    def with_case(self, ranges: Ranges) -> Ranges:
        return folded(ranges) if "i" in self.flags else ranges

    def read(self) -> str:
        while self.at < len(self.text):
            start, c = self.at, self.text[self.at]
            repeat = self.take(_REPEAT)
            if repeat is not None:
                self.repeat(repeat, start)
                continue
            self.repeated = False
            if c == "\\":
                self.escape()
                continue
            self.at += 1
            self.plain(c)
        if len(self.levels) > 1:
            raise self.wrong("a ) is missing")
        level = self.levels[0]
        level.end_branch()
        return "|".join(level.branches)

    def plain(self, c: str) -> None:
        """What begins with a character that is read already, and is no escape."""
        if c == "(":
            self.open()
        elif c == ")":
            self.close()
        elif c == "|":
            self.levels[-1].end_branch()
        elif c == "[":
            self.put_class(self.read_class())
        elif c == ".":
            self.put("(?s:.)" if "s" in self.flags else r"[^\n]")
        elif c == "^":
            self.put("(?m:^)" if "m" in self.flags else r"\A")
        elif c == "$":
            self.put("(?m:$)" if "m" in self.flags else r"\Z")
        else:
            self.literal(ord(c))

    def repeat(self, found: re.Match[str], start: int) -> None:
        """Of the last atom. A `?` behind it, which makes it lazy, says nothing of whole texts."""
        atoms, what = self.levels[-1].atoms, found[0]
        if self.repeated:
            self.at = start
            raise self.wrong(f"{what!r} repeats a repetition; RE2 has no possessive ones")
        if not atoms:
            self.at = start
            raise self.wrong(f"{what!r} has nothing to repeat")
        if self.text.startswith("?", self.at):
            self.at += 1
        text, weight = atoms.pop()
        if what[0] == "{":
            least = int(found["least"])
            most = int(found["most"]) if found["most"] else None
            most = least if not found["more"] else most
            weight *= max(least if most is None else most, 1)
            if weight > MOST_REPEATS or (most is not None and most < least):
                raise self.wrong(f"it repeats {what}, RE2 at most {MOST_REPEATS} times")
        self.put(f"(?:{text}){what}", weight)
        self.repeated = True

    def open(self) -> None:
        level = _Level(self.flags)
        if self.text.startswith("?", self.at):
            found = self.take(_GROUP)
            if found is None:
                raise self.wrong("RE2 has no look-around, conditions, comments or atomic groups")
            if not found["name"]:
                self.flags = (self.flags | {*found["on"]}) - {*(found["off"] or "")}
                if found["end"] == ")":
                    return
        self.levels.append(level)

    def close(self) -> None:
        if len(self.levels) == 1:
            raise self.wrong("a ( is missing")
        level = self.levels.pop()
        level.end_branch()
        self.flags = level.flags
        self.put(f"(?:{'|'.join(level.branches)})", level.weight)

    def escape(self) -> None:
        after = self.text[self.at + 1 : self.at + 2]
        places = {"A": r"\A", "z": r"\Z", "b": r"(?a:\b)", "B": r"(?!(?a:\b))"}
        if after in places:
            self.put(places[after])
            self.at += 2
        elif after == "Q":
            end = self.text.find("\\E", self.at + 2)
            end = len(self.text) if end < 0 else end
            for c in self.text[self.at + 2 : end]:
                self.literal(ord(c))
            self.at = min(end + 2, len(self.text))
        elif after == "C":
            raise Unsupported(r"\C in a pattern: a single byte, which may be a part of a character")
        elif (ranges := self.named_class()) is not None:
            self.put_class(ranges)
        else:
            self.literal(self.code())

    def named_class(self) -> Ranges | None:
        r"""\d, \pN or \p{Lu}, with the other case where it is ignored; None where there is none."""
        after = self.text[self.at + 1 : self.at + 2]
        if after.lower() in PERL:
            self.at += 2
            ranges = self.with_case(PERL[after.lower()])
            return negated(ranges) if after.isupper() else ranges
        if after not in ("p", "P"):
            return None
        found = self.take(_CATEGORY)
        if found is None:
            raise self.wrong(rf"expected \{after}N or \{after}{{Lu}}")
        name = found[4] or found[3]
        if not _KNOWN.fullmatch(name):
            raise Unsupported(
                f"the characters {name!r} in a pattern",
                r"a general category, such as \p{Lu}, or a class [\x{370}-\x{3ff}]",
            )
        ranges = self.with_case(_category(name))
        return negated(ranges) if (found[1] == "P") != bool(found[2]) else ranges

    def code(self) -> int:
        """The character that an escape stands for."""
        self.at += 1
        c = self.text[self.at : self.at + 1]
        octal = self.take(_OCTAL)
        if octal is not None:
            return int(octal[0], 8)
        digits = self.take(_HEX)
        code = -1 if digits is None else int(digits[1] or digits[2], 16)
        if 0 <= code <= LARGEST:
            return code
        if c in ESCAPES or (c and c.isascii() and not c.isalnum()):
            self.at += 1
            return ESCAPES.get(c, ord(c))
        why = "; RE2 has no back-references" if c.isdigit() else ""
        raise self.wrong(f"an escape that RE2 does not know{why}")

    def read_class(self) -> Ranges:
        """Behind a [, which is read already."""
        outside = self.text.startswith("^", self.at)
        start = self.at = self.at + outside
        ranges: list[tuple[int, int]] = []
        while self.at == start or not self.text.startswith("]", self.at):
            if self.at >= len(self.text):
                raise self.wrong("a ] is missing")
            posix = self.take(_POSIX)
            if posix is not None:
                if posix[2] not in POSIX:
                    raise self.wrong(f"{posix[0]!r} is no class")
                inside = self.with_case(POSIX[posix[2]])
                ranges += negated(inside) if posix[1] else inside
                continue
            named = self.named_class() if self.text.startswith("\\", self.at) else None
            ranges += self.range() if named is None else named
        self.at += 1
        return negated(ranges) if outside else ranges

    def range(self) -> Ranges:
        """A character of a class, or those from one to another."""
        low = high = self.member()
        if self.text.startswith("-", self.at) and not self.text.startswith("-]", self.at):
            self.at += 1
            high = self.member()
        if high < low:
            raise self.wrong("a range from a character to one before it")
        return self.with_case([(low, high)])

    def member(self) -> int:
        if self.text.startswith("\\", self.at):
            return self.code()
        if self.at >= len(self.text):
            raise self.wrong("a ] is missing")
        self.at += 1
        return ord(self.text[self.at - 1])
