"""`naru.compile` and its cache: a hit gives the same bundle, and loads no compiler."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import naru
from naru import compiler, knobs, pipeline
from naru.artifact.cache import CacheWarning
from naru.demo import FOLDER
from naru.errors import InputError, ModelError, NaruError

ROOT = Path(__file__).resolve().parent.parent
MODEL = FOLDER / "digits_mlp.onnx"
# What a hit must not load: each takes a tenth of a second or more.
HEAVY = ("onnx", "llvmlite", "naru.pipeline", "naru.ops", "naru.passes", "naru.codegen")


def test_a_hit_loads_no_compiler(tmp_path: Path) -> None:
    """Each in its own process: the key holds a digest of the sources, read once a process."""
    program = (
        f"import sys, naru; naru.compile({str(MODEL)!r}).save(sys.argv[1])\n"
        f"print(*(n for n in {HEAVY!r} if n in sys.modules))"
    )
    env = {**os.environ, "NARU_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    loaded: list[list[str]] = []
    for name in ("miss", "hit"):
        done = subprocess.run(
            [sys.executable, "-c", program, name],
            cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        loaded.append(done.stdout.split())
    assert loaded == [list(HEAVY), []]
    assert (tmp_path / "hit").read_bytes() == (tmp_path / "miss").read_bytes()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="loads code for x86-64")
def test_options_are_part_of_the_key(tmp_path: Path) -> None:
    with knobs.scope(cache_dir=tmp_path):
        made = [naru.compile(MODEL, target=t) for t in ("baseline", "host", "baseline")]
    names = [m.manifest["target"]["name"] for m in made]
    assert names[0] == names[2] == "x86-64-baseline"


def save_with_side_file(folder: Path, weights: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "sided",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16])],
            [numpy_helper.from_array(weights, "w")],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
    )
    path = folder / "m.onnx"
    (folder / "w.bin").unlink(missing_ok=True)  # onnx would append to it
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    return path


@pytest.mark.skipif(platform.machine() != "x86_64", reason="loads code for x86-64")
def test_side_files_are_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    builds: list[object] = []
    real = pipeline.build_parts
    monkeypatch.setattr(
        pipeline, "build_parts", lambda *a, **k: (builds.append(a), real(*a, **k))[1]
    )
    x = rng.standard_normal((1, 16), np.float32)
    with knobs.scope(cache_dir=tmp_path / "cache"):
        for _ in range(2):
            w = rng.standard_normal((16, 16), np.float32)
            path = save_with_side_file(tmp_path / "a", w)
            for _ in range(2):
                made = naru.compile(path)
                np.testing.assert_allclose(made({"x": x}), x @ w, rtol=1e-4, atol=1e-5)
        assert len(builds) == 2
        assert list(made.manifest["source"]["files"]) == ["w.bin"]
        # The same model file beside other weights, and beside none.
        w = rng.standard_normal((16, 16), np.float32)
        other = save_with_side_file(tmp_path / "b", w)
        assert other.read_bytes() == path.read_bytes()
        np.testing.assert_allclose(naru.compile(other)({"x": x}), x @ w, rtol=1e-4, atol=1e-5)
        (tmp_path / "b" / "w.bin").unlink()
        with pytest.raises(ModelError, match="side file"):
            naru.compile(other)


def test_the_cache_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    inside = save_with_side_file(tmp_path / "a", np.ones((16, 16), np.float32))
    with knobs.scope(cache_dir=tmp_path / "cache"):
        compiler.compile_bundle(inside)
        linked = tmp_path / "b" / "m.onnx"
        linked.parent.mkdir()
        linked.write_bytes(inside.read_bytes())
        (linked.parent / "w.bin").symlink_to(tmp_path / "a" / "w.bin")
        with pytest.raises(ModelError, match="leads out of the model's folder"):
            compiler.compile_bundle(linked)


def test_a_device_is_no_model() -> None:
    with pytest.raises(ModelError, match="found a directory or a device"):
        compiler.compile_bundle("/dev/zero")


def test_a_folder_for_dumps_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with knobs.scope(dump=tmp_path / "file" / "x"), pytest.raises(InputError, match="NARU_DUMP"):
        compiler.compile_bundle(MODEL, cache=False)


def test_a_model_written_to_meanwhile_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_with_side_file(tmp_path / "a", np.ones((16, 16), np.float32))
    real = pipeline.build_parts

    def build(*args: Any, **options: Any) -> Any:
        parts = real(*args, **options)
        (path.parent / "w.bin").write_bytes(bytes(16 * 16 * 4))
        return parts

    with knobs.scope(cache_dir=tmp_path / "cache"):
        monkeypatch.setattr(pipeline, "build_parts", build)
        compiler.compile_bundle(path)
        monkeypatch.undo()
        assert not any((tmp_path / "cache").rglob("*.own"))


def test_threads_may_compile_at_once(tmp_path: Path) -> None:
    """And get what one alone gets: equal nodes must stay one node."""
    models = [
        save_with_side_file(tmp_path / str(k), np.full((16, 16), k, np.float32)) for k in range(4)
    ]
    alone = [compiler.compile_bundle(m, cache=False).data for m in models]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda m: compiler.compile_bundle(m, cache=False).data, models)
        assert [bytes(f) for f in found] == [bytes(a) for a in alone]


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(NaruError, match="expected one of fp32, strict"):
        naru.compile(MODEL, precision="fp8")


def test_a_model_put_in_its_place_meanwhile_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By renaming another that is older: no clock says so."""
    path = save_with_side_file(tmp_path / "a", np.ones((16, 16), np.float32))
    other = path.with_name("other")
    model = onnx.load(path, load_external_data=False)
    model.producer_name = "other"
    onnx.save(model, other)
    os.utime(other, (0, 0))
    real = pipeline.build_parts

    def build(*args: Any, **options: Any) -> Any:
        other.replace(path)
        return real(*args, **options)

    with knobs.scope(cache_dir=tmp_path / "cache"):
        monkeypatch.setattr(pipeline, "build_parts", build)
        compiler.compile_bundle(path)
        monkeypatch.undo()
        assert not any((tmp_path / "cache").rglob("*.own"))
        compiler.compile_bundle(path)
        assert any((tmp_path / "cache").rglob("*.own"))


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = compiler.write_bundle

    def write(path: Path, *parts: Any) -> None:
        path.symlink_to("/dev/full")  # where the file is opened before it is written
        with path.open("wb") as file:
            real(file, *parts)

    monkeypatch.setattr(compiler, "write_bundle", write)
    with knobs.scope(cache_dir=tmp_path), pytest.warns(CacheWarning, match="No space left"):
        made = compiler.compile_bundle(MODEL)
    assert made.data == compiler.compile_bundle(MODEL, cache=False).data
