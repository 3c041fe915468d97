"""Packages of WebAssembly that several tests load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from naru.building import build
from naru.demo import FOLDER as DEMO
from tests.library.packages import Package


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    def make(source: bytes | Path, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("package")
        given = {"isa": "wasm32-simd128", **options}  # one level compiles in half the time
        build(source, folder, platform="wasm", name="m", cache=False, **given)
        return folder

    return make


@pytest.fixture(scope="session")
def digits(package: Package) -> Path:
    """With code for both levels."""
    return package(DEMO / "digits_mlp.onnx", isa=None)


@pytest.fixture(scope="session")
def digits_cnn(package: Package) -> Path:
    return package(DEMO / "digits_cnn.onnx")
