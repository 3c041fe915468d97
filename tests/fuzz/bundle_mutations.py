"""Damage to bundles: edits of the manifest and of the golden index, with all checksums made right.

The code of these bundles is nothing but return instructions. A manifest can be no more trusted than
the machine code beside it: one that promises fewer dims than the code writes is as bad as bad code,
and checksums find damage, not malice. So what is tested is that no manifest can make the *reader*
or the *runtime* fail, and with this code every offset that the reader lets pass is a function.
"""

from __future__ import annotations

import copy
import json
import platform
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from naru.artifact.bundle import MAGIC
from naru.runtime import _native

Edit = Callable[[list[dict[str, Any]]], None]
_RETURN = {"x86_64": b"\xc3", "aarch64": b"\xc0\x03\x5f\xd6"}
_HEAD = struct.Struct("<8sIIQQI")
NUMBERS = (
    *(-(2**63) - 1, -(2**63), -(2**31), -1, 0, 1, 2, 3, 4, 63, 64, 65, 4095, 4096, 4097, 8192),
    *(2**31 - 1, 2**31, 2**32, 2**40, 2**62 - 1, 2**62, 2**62 + 1, 2**63 - 1, 2**64, 10**30),
)
TEXTS = (
    *("", "main", "profile", "x", "y", "N", "M", "N*2", "2*", "N//0", "N%0", "a b", "\ud800", "\0"),
    *("float32", "float64", "bool", "int4", "bfloat16", "float8_e4m3fn", "complex64", "object"),
    *("kernel", "input", "code", "weights", "golden", "x" * 3000, "x86_64-unknown-linux-gnu"),
    *("aarch64-unknown-linux-gnu", "amx-tile", "avx512f", "-", "9" * 5000, "N**N**N", "__import__"),
    *("-" * 3000 + "N", "N" + "+N" * 3000, "(" * 300 + "N" + ")" * 300, "N[0]", "f(N)", "1e400"),
)
VALUES = (None, True, False, 0.5, -0.5, 1e308, [], {}, [[]], [{}], "", "N", 0, 1)


def with_returns(parts: tuple[dict[str, Any], dict[str, bytes]]) -> bytes:
    """A bundle of a manifest and sections, where all code returns at once."""
    manifest, sections = parts
    word = _RETURN[platform.machine()]
    code = word * (len(sections["code"]) // len(word))
    return seal(manifest, {**sections, "code": code})


def seal(
    manifest: dict[str, Any], sections: dict[str, bytes], table_edit: Edit | None = None
) -> bytes:
    """A file of any manifest, however wrong, with checksums that match. `table_edit` changes the
    table of sections when it is complete."""
    start = 4096
    while True:
        table: list[dict[str, Any]] = []
        end = start
        for name, data in sorted(sections.items()):
            at = -(-end // 4096) * 4096
            digest = _native.digest(data)
            table.append({"name": name, "offset": at, "size": len(data), "digest": digest})
            end = at + len(data)
        if table_edit:
            table_edit(table)
        text = json.dumps({"sections": table, **manifest}).encode()
        if _HEAD.size + 4 + len(text) <= start:
            break
        start += 4096
        if table_edit:
            return seal(manifest, sections)
    out = bytearray(end)
    for _, data in sorted(sections.items()):
        at = -(-start // 4096) * 4096
        out[at : at + len(data)] = data
        start = at + len(data)
    head = _HEAD.pack(MAGIC, 1, 0, len(out), len(text), _native.crc32c(text))
    head += struct.pack("<I", _native.crc32c(head)) + text
    out[: len(head)] = head
    return bytes(out)


def parts_of(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest (without `sections`) and sections of a good bundle."""
    length = _HEAD.unpack(data[: _HEAD.size])[4]
    manifest = json.loads(data[_HEAD.size + 4 : _HEAD.size + 4 + length])
    table = manifest.pop("sections")
    return manifest, {r["name"]: data[r["offset"] : r["offset"] + r["size"]] for r in table}


def mutate(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """One to four edits of the manifest, the section table or the golden index."""
    manifest, sections = parts_of(data)
    if rng.random() < 0.25 and "golden" in sections:
        sections["golden"] = _edit_golden(sections["golden"], rng)
        return seal(manifest, sections)
    if rng.random() < 0.15:
        return seal(manifest, sections, lambda table: edit_json(table, rng))
    for _ in range(rng.choice((1, 1, 2, 4))):
        edit_json(manifest, rng)
    if rng.random() < 0.1:
        other = parts_of(rng.choice(others))[0]
        key = rng.choice(sorted(manifest)) if manifest else "format"
        manifest[key] = other.get(key)
    if rng.random() < 0.05 and sections:
        del sections[rng.choice(sorted(sections))]
    return seal(manifest, sections)


def _edit_golden(section: bytes, rng: Random) -> bytes:
    (length,) = struct.unpack_from("<I", section)
    index = json.loads(section[4 : 4 + length])
    for _ in range(rng.choice((1, 1, 3))):
        edit_json(index, rng)
    text = json.dumps(index).encode()
    head = struct.pack("<I", rng.choice((len(text),) * 9 + (2**32 - 1,))) + text
    return head + bytes(-len(head) % 64) + section[-(-(4 + length) // 64) * 64 :]


# ---- JSON ----


def edit_json(root: Any, rng: Random) -> None:
    """Changes one place in a tree of lists and dicts: those that matter lie deep, so go down."""
    place = root
    while True:
        keys: list[Any] = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = rng.choice(keys)
        child = place[key]
        if not isinstance(child, dict | list) or not child or rng.random() < 0.1:
            break
        place = child
    _change(place, key, rng)


def _change(place: Any, key: Any, rng: Random) -> None:
    old = place[key]
    kind = rng.randrange(10)
    if kind == 0:
        del place[key]
    elif kind == 1:
        place[key] = copy.deepcopy(rng.choice(VALUES))
    elif kind == 2 and isinstance(place, list):
        place.insert(rng.randrange(len(place) + 1), copy.deepcopy(old))
    elif kind == 3 and isinstance(place, list):
        place.extend(copy.deepcopy(old) for _ in range(rng.choice((1, 40, 400))))
    elif isinstance(old, bool):
        place[key] = not old
    elif isinstance(old, int):
        place[key] = rng.choice((*NUMBERS, old + 1, old - 1, old * 2, str(old)))
    elif isinstance(old, str):
        place[key] = rng.choice((*TEXTS, old + "x", old.upper(), 7))
    else:
        place[key] = copy.deepcopy(rng.choice(VALUES))
