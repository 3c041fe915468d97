"""Damage that knows nothing of a format: flipped bits, changed bytes, cuts, splices."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

INTERESTING_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)


def damage(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """One to four mutations of `data`; splices take from `others`."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(_MUTATIONS)(out, others, rng)
    return bytes(out)


def _place(out: bytearray, rng: Random) -> int:
    """Lengths and tags of the outermost messages lie at the front: half of the places are there."""
    end = len(out) if rng.random() < 0.5 else min(len(out), 200)
    return rng.randrange(end) if end else 0


def _flip(out: bytearray, _others: Sequence[bytes], rng: Random) -> None:
    if out:
        out[_place(out, rng)] ^= 1 << rng.randrange(8)


def _set(out: bytearray, _others: Sequence[bytes], rng: Random) -> None:
    if out:
        out[_place(out, rng)] = rng.choice((*INTERESTING_BYTES, rng.randrange(256)))


def _cut_end(out: bytearray, _others: Sequence[bytes], rng: Random) -> None:
    del out[_place(out, rng) :]


def _cut_out(out: bytearray, _others: Sequence[bytes], rng: Random) -> None:
    at = _place(out, rng)
    del out[at : at + rng.randrange(1, 33)]


def _insert(out: bytearray, _others: Sequence[bytes], rng: Random) -> None:
    at = _place(out, rng)
    out[at:at] = rng.randbytes(rng.randrange(1, 17))


def _repeat(out: bytearray, _others: Sequence[bytes], rng: Random) -> None:
    at = _place(out, rng)
    out[at:at] = out[at : at + rng.randrange(1, 65)] * rng.randrange(1, 5)


def _splice(out: bytearray, others: Sequence[bytes], rng: Random) -> None:
    other = rng.choice(others)
    start = rng.randrange(max(1, len(other)))
    at = _place(out, rng)
    out[at : at + rng.randrange(65)] = other[start : start + rng.randrange(1, 129)]


def _append(out: bytearray, others: Sequence[bytes], _rng: Random) -> None:
    """Protobuf merges what is concatenated."""
    out += _rng.choice(others)


_MUTATIONS = (_flip, _flip, _set, _cut_end, _cut_out, _insert, _repeat, _splice, _append)
