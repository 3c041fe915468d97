"""The tests of the ONNX standard: what fails is what docs/conformance.md lists."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

import naru.onnx_backend as backend
from naru.errors import NaruError

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_what_fails_is_listed() -> None:
    tool = ROOT / "tools" / "onnx_conformance.py"
    done = subprocess.run([sys.executable, tool], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_backend() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> '
        "g (float[2] x, float[2] y) => (float[2] s, float[2] d) { s = Add(x, y) d = Sub(x, y) }"
    )
    assert backend.supports_device("CPU")
    assert not backend.supports_device("CUDA")
    x, y = np.array([[1, 2], [3, 4]], "float32")
    s, d = backend.prepare(model).run([x, y])
    assert (s.tolist(), d.tolist()) == ([4, 6], [-2, -2])
    assert backend.run_model(model, [x, y])[0].tolist() == [4, 6]
    assert backend.prepare(model).run({"y": y, "x": x})[1].tolist() == [-2, -2]
    (z,) = backend.run_node(onnx.helper.make_node("Clip", ["a", "", "b"], ["z"]), [x, x[0]])
    assert z.tolist() == [1, 1]
    with pytest.raises(NaruError, match="input 'y'"):
        backend.run_model(model, [x])
    with pytest.raises(NaruError, match="expected 2 inputs"):
        backend.run_node(onnx.helper.make_node("Add", ["a", "b"], ["z"]), [x])
    with pytest.raises(NaruError, match="expected the device CPU"):
        backend.prepare(model, "CUDA")


def test_dtypes_of_older_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the onnx package holds bf16 and tiny floats as bits, so does the backend."""
    bits = {"BFLOAT16": np.uint16, "FLOAT8E5M2": np.uint8, "INT4": np.int8}
    named = {onnx.TensorProto.DataType.Value(k): np.dtype(v) for k, v in bits.items()}
    monkeypatch.setattr(backend, "_of_package", named.__getitem__)
    for name, dtype, given in (
        ("BFLOAT16", "bfloat16", [0x3F80, 0x7FC0]),
        ("FLOAT8E5M2", "float8e5m2", [0x3C, 0x7F]),
        ("INT4", "int4", [7, -8]),
    ):
        model = onnx.parser.parse_model(
            '<ir_version: 10, opset_import: ["": 21]> '
            f"g ({dtype}[2] x) => ({dtype}[2] y) {{ y = Identity(x) }}"
        )
        (y,) = backend.run_model(model, [np.array(given, bits[name])])
        assert (y.dtype, y.tolist()) == (bits[name], given)
