"""Libraries for other machines, compiled by Zig: what is in them, and that they run, under QEMU."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library.programs import run
from library.test_faults import wide
from zoo import CASES

import naru
from naru.building import build
from naru.library.inspect import read_provenance

HERE = Path(__file__).parent
DEMO = Path(naru.__file__).parent / "demo"
ZIG = (sys.executable, "-m", "ziglang", "cc", "-std=gnu11", "-O1", "-Wall", "-Werror")
TRIPLES = {
    "x86_64-linux": "x86_64-linux-gnu.2.17",
    "aarch64-linux": "aarch64-linux-gnu.2.17",
    "x86_64-linux-musl": "x86_64-linux-musl",
    "aarch64-linux-musl": "aarch64-linux-musl",
}
# Debian's package libc6-arm64-cross.
RUNNERS = {
    "x86_64": [],
    "aarch64": ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"],
}
MODELS = {
    "cnn": lambda: DEMO / "digits_cnn.onnx",
    "mlp": lambda: DEMO / "digits_mlp.onnx",
    "nonzero": CASES["nonzero_model"].model,
}
ROWS = 3


def inputs(name: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    if name == "nonzero":
        return {"x": rng.integers(-1, 2, (ROWS, 5)).astype(np.float32)}
    return {"image": rng.random((ROWS, 1, 8, 8) if name == "cnn" else (ROWS, 64), np.float32)}


def outputs_of_this_machine(name: str) -> list[np.ndarray]:
    model = naru.compile(MODELS[name](), precision="strict", target="avx2")
    made: Any = model(**inputs(name))
    return list(made) if isinstance(made, tuple) else [made]


def drive(folder: Path, name: str, platform: str, library: str) -> str:
    """Compiles drive.c for a platform, runs it there, and compares bits."""
    static = ["-static"] if platform.endswith("musl") and not library.endswith(".so") else []
    run(
        *ZIG, "-target", TRIPLES[platform], *static, "-I.", f'-DHEADER="{name}.h"',
        f"-DTABLE={name}_library", HERE / "drive.c", f"./{library}", "-Wl,-rpath,.",
        "-o", "drive", "-lm", "-ldl", "-pthread", cwd=folder,
    )  # fmt: skip
    for k, array in enumerate(inputs(name).values()):
        (folder / f"in.{k}").write_bytes(array.tobytes())
    said = run(*RUNNERS[platform.split("-")[0]], "./drive", ROWS, cwd=folder)
    for k, want in enumerate(outputs_of_this_machine(name)):
        assert (folder / f"out.{k}").read_bytes() == want.tobytes(), f"output {k} of {name}"
    return said


@pytest.mark.slow
@pytest.mark.parametrize("platform", TRIPLES)
@pytest.mark.parametrize("name", MODELS)
def test_elsewhere(name: str, platform: str, tmp_path: Path) -> None:
    """The self-test passes there, and strict outputs are equal to those of this machine."""
    static = platform.endswith("musl")  # which needs no libc of the other machine
    emit = "static" if static else "library"
    levels = "x86-64-avx2" if platform.startswith("x86") else None
    build(
        MODELS[name](), tmp_path, name=name, platform=platform, isa=levels, emit=emit,
        precision="strict", compiler="zig",
    )  # fmt: skip
    said = drive(tmp_path, name, platform, f"{name}.a" if static else f"{name}.so")
    error = re.search(r"self-test ([\d.e-]+)", said)
    assert error, said
    assert float(error[1]) <= 1


@pytest.mark.slow
def test_faults_elsewhere(tmp_path: Path) -> None:
    """faults.c on AArch64: memory between forbidden pages, threads, damaged files."""
    platform = "aarch64-linux-musl"
    build(wide(), tmp_path, name="wide", platform=platform, emit="static", compiler="zig")
    run(
        *ZIG, "-target", TRIPLES[platform], "-static", "-fno-sanitize=undefined", "-DNO_FORK",
        "-I.", '-DHEADER="wide.h"', "-DTABLE=wide_library", HERE / "faults.c", "wide.a",
        "-o", "faults", "-lm", "-pthread", cwd=tmp_path,
    )  # fmt: skip
    assert "wide: no faults" in run(*RUNNERS["aarch64"], "./faults", ".", cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("platform", TRIPLES)
def test_what_is_in_it(platform: str, tmp_path: Path) -> None:
    """Small, two mappings, an old C library is enough, and nothing of this machine; equal bytes."""
    one, two = tmp_path / "one", tmp_path / "somewhere" / "else"
    for folder in (one, two):
        build(MODELS["cnn"](), folder, name="cnn", platform=platform, compiler="zig")
    files = sorted(p.name for p in one.iterdir())
    assert files == sorted(p.name for p in two.iterdir())
    for file in files:
        assert (one / file).read_bytes() == (two / file).read_bytes(), file
    library = one / "cnn.so"
    code = sum(v["code"] for v in read_provenance(library)["levels"])
    assert library.stat().st_size < code + 60_000
    segments = run("readelf", "-lW", library)
    assert sum(line.strip().startswith("LOAD") for line in segments.splitlines()) == 2, segments
    needed = set(re.findall(r"NEEDED.*\[(.*?)\]", run("readelf", "-dW", library)))
    allowed = r"lib(c|m|dl|pthread)\.so(\.\d)?|ld-linux-(aarch64|x86-64)\.so\.\d"
    assert all(re.fullmatch(allowed, n) for n in needed), needed
    versions = re.findall(r"@+GLIBC_([\d.]+)", run("nm", "-D", library))
    assert all(tuple(map(int, v.split("."))) <= (2, 17) for v in versions), versions
    assert bool(versions) == (not platform.endswith("musl"))
    text = library.read_bytes()
    for trace in (str(tmp_path), str(Path.home()), sys.prefix, "ziglang", ".work"):
        assert trace.encode() not in text, trace
