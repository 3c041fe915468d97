"""Bundles of every released format and ABI still load and compute what they computed."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

import naru
from naru.artifact.bundle import FORMAT
from naru.runtime import _native

FOLDER = Path(__file__).parent / "old"
BUNDLES = sorted(FOLDER.glob("*.naru"))

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="they are for x86-64")


@pytest.mark.parametrize("path", BUNDLES, ids=lambda p: p.stem)
def test_an_old_bundle_runs(path: Path) -> None:
    model = naru.load(path)
    assert model.selftest().checks
    given = dict(np.load(path.with_suffix(".npz")))
    expected = [given.pop(f"out_{k}") for k in range(len(model.outputs))]
    result = model(given)
    for got, want in zip(result if len(expected) > 1 else (result,), expected, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)  # small integers: no rounding on the way
    assert all(step.ns >= 0 for step in model.profile(given, repeat=2))


def test_this_format_and_abi_have_their_bundles() -> None:
    """Who changes a number keeps what was written before it: tests/artifact/old/make.py."""
    prefix = f"format{FORMAT}-abi{_native.ABI_VERSION}-"
    assert [p.name for p in BUNDLES if p.name.startswith(prefix)]
