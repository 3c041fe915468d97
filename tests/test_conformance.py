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
    with pytest.raises(NaruError, match="input 'y'"):
        backend.run_model(model, [x])
