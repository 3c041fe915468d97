"""The file format: round trips, byte identity, and every way a file can be wrong."""

from __future__ import annotations

import copy
import json
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from naru.artifact import bundle
from naru.artifact.bundle import (
    pack_bundle,
    read_bundle,
)
from naru.artifact.golden import (
    GoldenCase,
    pack_golden,
    unpack_golden,
)
from naru.errors import BundleError
from naru.runtime import _native
from tests.runtime.programs import manifest, symbol, tensor

ENTRY = {
    "name": "main",
    "run": 0,
    "plan": 64,
    "inputs": [tensor("x", ["N", 4])],
    "outputs": [tensor("y", ["N", "2*N", 4])],
    "dynamic": False,
    "steps": ["one"],
}
MANIFEST = manifest([ENTRY], [symbol("N", 1, 64), symbol("M", 0, 99, "kernel")])
SECTIONS = {"weights": bytes(range(256)) * 30, "code": b"\xc3" * 200, "golden": pack_golden([])}


def replaced(path: str, value: Any) -> dict[str, Any]:
    """A copy of MANIFEST with the value at a dotted path changed; None deletes it."""
    result = copy.deepcopy(MANIFEST)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place: Any = result
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return result


def forged(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A bundle whose manifest was changed and whose checksums were made to match again."""
    data = bytearray(pack_bundle(MANIFEST, SECTIONS))
    (length,) = struct.unpack_from("<Q", data, 24)
    old = json.loads(data[40 : 40 + length])
    change(old)
    text = json.dumps(old).encode()
    assert 40 + len(text) <= 4096
    data[40:4096] = text + bytes(4096 - 40 - len(text))
    struct.pack_into("<QI", data, 24, len(text), _native.crc32c(text))
    struct.pack_into("<I", data, 36, _native.crc32c(bytes(data[:36])))
    return bytes(data)


# ---- round trips ----


@pytest.mark.parametrize("form", ["path", "bytes", "file"])
def test_what_is_written_is_read(form: str, tmp_path: Path) -> None:
    path = tmp_path / "m.naru"
    bundle.write_bundle(path, MANIFEST, SECTIONS)
    if form == "file":
        with path.open("rb") as file:
            found = read_bundle(file)
    else:
        found = read_bundle(path if form == "path" else path.read_bytes())
    assert {k: v for k, v in found.manifest.items() if k != "sections"} == MANIFEST
    assert {name: bytes(found.section(name)) for name in found.sections} == SECTIONS
    assert [s.offset % 4096 for s in found.sections.values()] == [0, 0, 0]
    assert found.symbols[0] == bundle.Symbol("N", 1, 64, "input")
    assert found.entries[0].outputs[0].shape == ("N", "2*N", 4)
    assert path.read_bytes() == pack_bundle(MANIFEST, SECTIONS)
    assert list(tmp_path.iterdir()) == [path]


def test_equal_input_gives_equal_bytes_whatever_the_order() -> None:
    backwards = dict(reversed(list(MANIFEST.items())))
    sections = dict(reversed(list(SECTIONS.items())))
    assert pack_bundle(backwards, sections) == pack_bundle(MANIFEST, SECTIONS)


def test_a_manifest_longer_than_a_page_and_empty_sections() -> None:
    long = manifest([ENTRY], [symbol("N", 1, 64)], notes="x" * 9000)
    sections = {**SECTIONS, "a": b"", "zz": b""}
    found = read_bundle(pack_bundle(long, sections))
    assert {name: bytes(found.section(name)) for name in found.sections} == sections


def test_bundle_in_memory_and_its_saved_file(tmp_path: Path) -> None:
    found = bundle.make_bundle(MANIFEST, SECTIONS)
    found.save(tmp_path / "m.naru")
    assert (tmp_path / "m.naru").read_bytes() == pack_bundle(MANIFEST, SECTIONS)


def test_golden_vectors_round_trip() -> None:
    case = GoldenCase(
        "main",
        (np.arange(6, dtype=np.float32).reshape(2, 3).T, np.array(True), np.zeros((0, 4), np.int8)),
        (np.array([1.5, -2], ml_dtypes.bfloat16), np.array([1], ">i4")),
    )
    (found,) = unpack_golden(memoryview(pack_golden([case])))
    assert found.entry == "main"
    for got, want in zip(found.inputs + found.outputs, case.inputs + case.outputs, strict=True):
        assert got.dtype == want.dtype.newbyteorder("=")
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("damage", [b"", b"\xff\xff\xff\xff", b"\x02\0\0\0{}", b"\x04\0\0\0[[]]"])
def test_damaged_golden_sections_are_refused(damage: bytes) -> None:
    with pytest.raises(BundleError):
        unpack_golden(memoryview(damage))


@pytest.mark.parametrize(
    "array",
    [
        {"dtype": "float32", "shape": [1 << 40], "offset": 0},
        {"dtype": "float32", "shape": [-1], "offset": 0},
        {"dtype": "float32", "shape": [1], "offset": 1 << 40},
        {"dtype": "object", "shape": [1], "offset": 0},
        {"dtype": "float32", "shape": [0] + [1 << 62] * 8, "offset": 0},
        {"dtype": "float32", "shape": "4", "offset": 0},
    ],
)
def test_golden_arrays_outside_the_section_are_refused(array: dict[str, Any]) -> None:
    text = json.dumps([{"entry": "main", "inputs": [array], "outputs": []}]).encode()
    data = struct.pack("<I", len(text)) + text + bytes(256)
    with pytest.raises(BundleError):
        unpack_golden(memoryview(data))


# ---- damage ----


def test_every_flipped_byte_is_noticed() -> None:
    """All bytes of the header, manifest and gaps, and a sample of the sections'."""
    data = pack_bundle(MANIFEST, SECTIONS)
    dense = {*range(4096 + 300), *range(8192, 8192 + 64), *range(len(data) - 64, len(data))}
    for at in sorted(dense | set(range(0, len(data), 37))):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(BundleError):
            read_bundle(bytes(damaged))


def test_every_truncation_and_extension_is_noticed() -> None:
    data = pack_bundle(MANIFEST, SECTIONS)
    for size in [*range(64), *range(64, len(data), 131), len(data) - 1]:
        with pytest.raises(BundleError):
            read_bundle(data[:size])
    with pytest.raises(BundleError, match="expected"):
        read_bundle(data + b"\0")


def test_unverified_reading_skips_sections_only() -> None:
    data = bytearray(pack_bundle(MANIFEST, SECTIONS))
    data[-1] ^= 1
    assert read_bundle(bytes(data), verify=False).entries
    data[100] ^= 1
    with pytest.raises(BundleError, match="manifest does not match"):
        read_bundle(bytes(data), verify=False)


def test_files_that_are_no_bundles(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such file") as caught:
        read_bundle(tmp_path / "absent.naru")
    assert "absent.naru" in str(caught.value)
    (tmp_path / "empty").touch()
    for source in (tmp_path / "empty", tmp_path, b"PK\x03\x04" + bytes(100)):
        with pytest.raises(BundleError):
            read_bundle(source)


def with_format(number: int, maker: object) -> bytes:
    """A bundle as another naru might have written it."""
    data = bytearray(forged(lambda m: m.update(format=number, naru=maker)))
    struct.pack_into("<I", data, 8, number)
    struct.pack_into("<I", data, 36, _native.crc32c(bytes(data[:36])))
    return bytes(data)


def test_a_newer_format_is_refused_by_number_and_maker() -> None:
    with pytest.raises(
        BundleError, match=r"made by naru 9\.3 with format 7; naru .* format 1\n"
    ) as e:
        read_bundle(with_format(7, "9.3"))
    assert "upgrade naru or naru-runtime" in str(e.value)
    with pytest.raises(BundleError, match="made by another naru with format 7"):
        read_bundle(with_format(7, None))


def test_older_formats_are_read_down_to_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {number: with_format(number, "0.2") for number in range(1, 6)}
    monkeypatch.setattr(bundle, "FORMAT", 4)
    monkeypatch.setattr(bundle, "OLDEST_FORMAT", 2)
    for number in (2, 3, 4):
        assert read_bundle(files[number]).manifest["format"] == number
    for number, hint in ((1, "compile the model again"), (5, "upgrade")):
        with pytest.raises(BundleError, match=f"format {number}; naru .* format 2 to 4") as e:
            read_bundle(files[number])
        assert hint in str(e.value)


def test_the_two_places_of_the_format_must_agree() -> None:
    with pytest.raises(BundleError, match=r"\$\.format"):
        read_bundle(forged(lambda m: m.update(format=0)))


def test_what_a_bundle_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown names are refused; unknown keys and sections are not."""
    needy = pack_bundle({**MANIFEST, "needs": ["streams", "states"], "more": {"a": 1}}, SECTIONS)
    with pytest.raises(BundleError, match=r"needs 'streams', 'states', which naru .* not have"):
        read_bundle(needy)
    monkeypatch.setattr(bundle, "FEATURES", frozenset({"streams", "states"}))
    assert read_bundle(needy).manifest["needs"] == ["streams", "states"]
    with pytest.raises(BundleError, match=r"\$\.needs: expected a list of texts"):
        read_bundle(forged(lambda m: m.update(needs=[1])))
    assert read_bundle(pack_bundle({**MANIFEST, "more": {}}, {**SECTIONS, "extra": b"x"}))


# ---- the schema ----


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", 2, r"\$\.format"),
        ("abi", "1", r"\$\.abi"),
        ("naru", None, r"\$\.naru: expected a text, got 'nothing'"),
        ("target", [], r"\$\.target is not an object"),
        ("target.features", [1], "a list of texts"),
        ("options", None, r"\$\.options is not an object"),
        ("states", [{}], "no states"),
        ("tolerance.rtol", -1, "a number >= 0"),
        ("tolerance.atol", True, "a number >= 0"),
        ("symbols.0.kind", "weird", "'input' or 'kernel'"),
        ("symbols.0.kind", "kernel", "known symbols"),
        ("symbols.0.lo", 65, r"symbols\[0\]\.hi"),
        ("symbols.1.kind", "input", None),
        ("symbols.1.name", "N", "two symbols are named 'N'"),
        ("entries", [], "at least one entry"),
        ("entries", [ENTRY, ENTRY], "two entrys are named 'main'"),
        ("entries.0.run", 200, r"entries\[0\]\.run: expected an integer in 0\.\.199"),
        ("entries.0.run", -1, r"entries\[0\]\.run"),
        ("entries.0.plan", 1.5, r"entries\[0\]\.plan"),
        ("entries.0.dynamic", 1, "true or false"),
        ("entries.0.outputs", [], "at least one output"),
        ("entries.0.steps", [2], "a list of texts"),
        ("entries.0.inputs.0.dtype", "object", "not the name of a numeric dtype"),
        ("entries.0.inputs.0.dtype", "bfloat17", "not the name of a numeric dtype"),
        ("entries.0.inputs.0.shape", ["Q"], "known symbols"),
        ("entries.0.inputs.0.shape", [-1], "known symbols"),
        ("entries.0.inputs.0.shape", [True], "known symbols"),
        ("entries.0.inputs.0.shape", [1] * 33, "at most 32 dims"),
        ("entries.0.inputs.0.shape", 4, "a list"),
    ],
)
def test_manifests_that_break_the_schema(path: str, value: Any, message: str | None) -> None:
    changed = replaced(path, value)
    if message is None:
        pack_bundle(changed, SECTIONS)
        return
    with pytest.raises(BundleError, match=message):
        pack_bundle(changed, SECTIONS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["sections"][1].update(offset=4096), "overlaps|stray|digest"),
        (lambda m: m["sections"][0].update(offset=4097), "a multiple of 4096"),
        (lambda m: m["sections"][0].update(offset=1 << 50), "offset"),
        (lambda m: m["sections"][0].update(size=1 << 50), "size"),
        (lambda m: m["sections"][0].update(size=-1), "size"),
        (lambda m: m["sections"][0].update(digest=0), "digest"),
        (lambda m: m["sections"].pop(), "stray bytes at the end"),
        (lambda m: m["sections"].append(m["sections"][0]), "two sections"),
        (lambda m: m.update(sections={}), "a list"),
        (lambda m: m["entries"][0].update(run=10**30), "an integer"),
        (lambda m: m["symbols"][0].update(hi=float("nan")), "not JSON"),
    ],
)
def test_forged_manifests_are_refused(change: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        read_bundle(forged(change))


def test_what_cannot_be_a_manifest() -> None:
    for bad in ({**MANIFEST, "x": {1, 2}}, {**MANIFEST, "x": float("nan")}):
        with pytest.raises(BundleError, match="not plain JSON"):
            pack_bundle(bad, SECTIONS)
    with pytest.raises(BundleError, match="must not bring its own"):
        pack_bundle({**MANIFEST, "sections": []}, SECTIONS)
    with pytest.raises(BundleError, match="not a section name"):
        pack_bundle(MANIFEST, {**SECTIONS, "../x": b""})


# ---- disks that fail ----


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: write() fails half-way."""
    path = tmp_path / "m.naru"
    bundle.write_bundle(path, MANIFEST, SECTIONS)
    before = path.read_bytes()
    script = f"""
import resource, signal, sys
from naru.artifact.bundle import read_bundle
from naru.errors import BundleError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
found = read_bundle({str(path)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
try:
    found.save({str(path)!r})
except BundleError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "cannot be written: File too large" in done.stdout
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_failures_of_the_disk_are_bundle_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(_fd: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(BundleError, match="No space left on device"):
        bundle.write_bundle(tmp_path / "m.naru", MANIFEST, SECTIONS)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BundleError, match="No such file or directory"):
        bundle.write_bundle(tmp_path / "absent" / "m.naru", MANIFEST, SECTIONS)


def test_no_file_descriptor_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "m.naru"
    bundle.write_bundle(path, MANIFEST, SECTIONS)
    before = len(os.listdir("/proc/self/fd"))
    kept = [read_bundle(path) for _ in range(5)] + [bundle.make_bundle(MANIFEST, SECTIONS)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0
    del kept
