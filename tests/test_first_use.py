"""What somebody who tries naru for the first time runs into."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from zoo.build import text

import naru
from naru import cli
from naru.cli import group
from naru.demo import FOLDER
from naru.errors import BundleError, InputError


def compiled(body: str) -> naru.Model:
    return naru.compile(text(body), cache=False)


def test_concat_of_a_tensor_with_itself() -> None:
    model = compiled("(float[n,1] x) => (float[n,2] y) { y = Concat <axis = 1> (x, x) }")
    x = np.arange(3, dtype=np.float32).reshape(3, 1)
    np.testing.assert_array_equal(model(x), np.concatenate([x, x], 1))


def test_acosh_below_one_is_nan() -> None:
    model = compiled("(float[n] x) => (float[n] y) { y = Acosh(x) }")
    x = np.array([-3e38, -1e8, -2.0, 0.5, 1.0, 2.0], np.float32)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(model(x), np.arccosh(x), rtol=1e-6)


def test_several_outputs_travel_between_processes() -> None:
    model = compiled("(float[n] x) => (float[n] y, float[n] z) { y = Neg(x) z = Abs(x) }")
    got = model(np.ones(2, np.float32))
    back = pickle.loads(pickle.dumps(got))
    assert type(back) is type(got)
    np.testing.assert_array_equal(back.z, got.z)


def test_only_files_are_replaced(tmp_path: Path) -> None:
    model = naru.compile(FOLDER / "digits_mlp.onnx")
    os.mkfifo(tmp_path / "pipe")
    for target in (tmp_path / "pipe", tmp_path, ""):
        with pytest.raises(BundleError, match="expected the name of a file, found"):
            model.save(target)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    model.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert naru.load(tmp_path / "real").inputs == model.inputs


@pytest.mark.parametrize("source", [None, 5, ["m.onnx"]])
def test_what_is_no_model_is_refused(source: object) -> None:
    with pytest.raises(InputError, match="expected a model, or the path"):
        naru.compile(source)  # pyright: ignore[reportArgumentType]
    with pytest.raises(BundleError, match="expected a path"):
        naru.load(source)  # pyright: ignore[reportArgumentType]


def test_wrong_options_are_refused() -> None:
    source = FOLDER / "digits_mlp.onnx"
    with pytest.raises(InputError, match="target: expected"):
        naru.compile(source, target=5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="name: expected"):
        naru.compile(source, name=5)  # pyright: ignore[reportArgumentType]
    bundle = naru.compile(source)
    assert (
        cli.main(["verify", str(source), "--against", "reference", "--seed", "-1"]) == group.USAGE
    )
    assert bundle.selftest()
