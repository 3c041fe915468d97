"""A library under the sanitizers, and how it ends: faults.c, unload.c."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
from library.programs import run
from zoo import CASES
from zoo.build import text, weight

import naru
from naru.building import build

HERE = Path(__file__).parent
DEMO = Path(naru.__file__).parent / "demo"
C = ("-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-I.")


def wide() -> onnx.ModelProto:
    """Work for several threads, with meetings between two products."""
    return text(
        """(float[n,512] x) => (float[n,512] y)
        { h = MatMul(x, w) g = Relu(h) i = MatMul(g, w) y = Softmax(i) }""",
        {"w": weight(512, 512)},
    )


MODELS = {
    "cnn": lambda: DEMO / "digits_cnn.onnx",
    "mlp": lambda: DEMO / "digits_mlp.onnx",  # embedded
    "nonzero": CASES["nonzero_model"].model,  # outputs are late; no weights
    "loop": CASES["loop_model_5"].model,
    "wide": wide,
}


@pytest.mark.slow
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
@pytest.mark.parametrize("name", MODELS)
def test_faults(name: str, sanitizers: str, tmp_path: Path) -> None:
    model, embed = MODELS[name](), name == "mlp"
    build(model, tmp_path, name=name, emit="c", embed=embed)
    if embed:
        build(model, tmp_path / "beside", name=name, emit="c")
        for end in ("weights", "golden"):
            shutil.copy(tmp_path / "beside" / f"{name}.{end}", tmp_path)
    run(
        "cc", *C, f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all",
        "-fno-omit-frame-pointer",
        f'-DHEADER="{name}.h"', f"-DTABLE={name}_library", HERE / "faults.c", f"{name}.c",
        "-o", "faults", "-lm", "-ldl", cwd=tmp_path,
    )  # fmt: skip
    said = run("./faults", ".", *(["embedded"] if embed else []), cwd=tmp_path)
    assert f"{name}: no faults" in said


@pytest.mark.slow
@pytest.mark.parametrize("compiler", [None, "zig"])
def test_unloading(compiler: str | None, tmp_path: Path) -> None:
    """dlclose ends the threads, also of models that were left open; fork works before and after."""
    build(wide(), tmp_path, name="wide", compiler=compiler)
    run("cc", *C, HERE / "unload.c", "-o", "unload", "-ldl", cwd=tmp_path)
    for models in ("closed", "open"):
        assert "unloaded" in run("./unload", "./wide.so", models, cwd=tmp_path)
