"""Names of kernels for perf and gdb."""

from __future__ import annotations

import gc
import itertools
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from targets.machine import need

from naru import knobs
from naru.artifact.bundle import (
    Bundle,
    read_bundle,
)
from naru.compiler import compile_bundle
from naru.demo import FOLDER
from naru.errors import RunError
from naru.runtime import _native, symbols
from naru.runtime.native_model import NativeModel

MAP = Path(f"/tmp/perf-{os.getpid()}.map")
PROGRAM = """
import sys, numpy, naru
model = naru.load(sys.argv[1])
for _ in range(3):
    model(numpy.zeros((2, 64), numpy.float32))
"""


@pytest.fixture(scope="module")
def data() -> bytes:
    return bytes(compile_bundle(FOLDER / "digits_mlp.onnx", cache=False).data)


@pytest.fixture
def bundle(data: bytes) -> Bundle:
    return read_bundle(data)


@pytest.fixture(autouse=True)
def _no_map() -> Iterator[None]:
    MAP.unlink(missing_ok=True)
    yield
    MAP.unlink(missing_ok=True)


def test_nothing_is_told_unless_asked(bundle: Bundle) -> None:
    NativeModel(bundle)
    assert not MAP.exists()


def test_perf_map_has_each_kernel_where_it_lies(bundle: Bundle) -> None:
    with knobs.scope(perf=1):
        model = NativeModel(bundle)
    lines = [line.split(" ", 2) for line in MAP.read_text(encoding="utf-8").splitlines()]
    found = {name: (int(start, 16), int(size, 16)) for start, size, name in lines}
    base = bundle.image.code_address
    for k in bundle.manifest["kernels"]:
        start, size = found[f"digits_mlp.{k['name']}"]
        assert start == base + k["offset"]
        assert 0 < size <= k["size"]
    for e in bundle.entries:
        assert found[f"digits_mlp.{e.name}"][0] == base + e.run
    ranges = sorted(found.values())
    assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(ranges))
    assert model.selftest().checks, "the copy of the code runs"


def test_perf_finds_the_code_in_memory_without_a_file(data: bytes, tmp_path: Path) -> None:
    """perf asks for the map only there: a mapped file it would take for the code's home."""
    (tmp_path / "m.naru").write_bytes(data)
    bundle = read_bundle(tmp_path / "m.naru")
    with knobs.scope(perf=1):
        NativeModel(bundle)
    address = bundle.image.code_address
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        span, mode, _, _, _, *name = line.split()
        low, high = (int(x, 16) for x in span.split("-"))
        if low <= address < high:
            assert mode.startswith("r-x")
            assert not name
            return
    pytest.fail("the code is not mapped")


def test_map_is_not_written_through_a_link(bundle: Bundle, tmp_path: Path) -> None:
    MAP.symlink_to(tmp_path / "elsewhere")
    with knobs.scope(perf=1), pytest.raises(RunError, match="unset NARU_PERF"):
        NativeModel(bundle)
    assert not (tmp_path / "elsewhere").exists()


def test_names_cannot_break_a_line(bundle: Bundle) -> None:
    bundle.manifest["kernels"][0]["name"] = "a b\n0 0 evil"
    NativeModel(bundle)
    names = [s.name for s in symbols.symbols_of(bundle)]
    assert "digits_mlp.a_b_0_0_evil" in names


# ---- gdb ----


def test_elf_has_the_symbols() -> None:
    wanted = [symbols.Symbol("m.k0", 0x7000_0040, 64), symbols.Symbol("m.k1", 0x7000_0080, 32)]
    image = symbols.make_elf(62, 0x7000_0000, 4096, wanted)
    assert image[:4] == b"\x7fELF"
    (start,) = struct.unpack_from("<Q", image, 40)
    rows = [struct.unpack_from("<IIQQQQIIQQ", image, start + 64 * k) for k in range(5)]
    assert rows[1][1] == 8, "the text has no bytes here"
    assert rows[1][3:6] == (0x7000_0000, 0, 4096)
    table, names = rows[2], rows[3]
    found = []
    for at in range(table[4] + 24, table[4] + table[5], 24):
        name, info, _, section, value, size = struct.unpack_from("<IBBHQQ", image, at)
        end = image.index(b"\0", names[4] + name)
        found.append(symbols.Symbol(image[names[4] + name : end].decode(), value, size))
        assert (info, section) == (0x12, 1)
    assert found == wanted


def test_readelf_accepts_the_image(tmp_path: Path) -> None:
    path = tmp_path / "image.elf"
    path.write_bytes(symbols.make_elf(62, 0x1000, 256, [symbols.Symbol("m.k0", 0x1040, 64)]))
    done = subprocess.run(
        [need("readelf", "binutils"), "-WhSs", path], capture_output=True, text=True, check=True
    )
    assert "m.k0" in done.stdout
    assert not done.stderr


def test_announcements_end_with_the_model(bundle: Bundle) -> None:
    """Many come and go, in any order, without a broken list."""
    with knobs.scope(gdb=1):
        held = [NativeModel(read_bundle(bytes(bundle.data))) for _ in range(5)]
    for k in (2, 0, 2, 1, 0):
        del held[k]
        gc.collect()
    capsule = _native.announce_symbols(b"\x7fELF")
    del capsule
    with pytest.raises(TypeError):
        _native.announce_symbols("text")  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_gdb_stops_in_a_kernel_by_its_name(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.naru").write_bytes(data)
    kernel = f"digits_mlp.{read_bundle(data).manifest['kernels'][0]['name']}"
    script = ["set breakpoint pending on", f"break {kernel}", "run", "info symbol $pc", "kill"]
    command = [
        need("gdb", "gdb"),
        "-nx",
        "-batch",
        *(x for s in script for x in ("-ex", s)),
        "--args",
    ]
    done = subprocess.run(
        [*command, sys.executable, "-c", PROGRAM, tmp_path / "m.naru"],
        env={**os.environ, "NARU_GDB": "1", "NARU_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert f"{kernel} in section .text" in done.stdout, done.stdout + done.stderr
