"""Files and objects of LightGBM and XGBoost: how they are told apart, compiled, and refused."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import naru
from naru.cli import main
from naru.errors import NaruError
from naru.frontend.source import kind_of, read_model
from tests.frontend.boosting_tables import FEATURES, table, train_lightgbm, train_xgboost, unseen


def test_files_are_told_by_how_they_begin(tmp_path: Path) -> None:
    """Whatever they are called; the cache and `naru.build` know them as well."""
    light, extreme = (
        train_lightgbm({"objective": "binary"}),
        train_xgboost({"objective": "reg:squarederror"}),
    )
    light.save_model(tmp_path / "model.any")
    extreme.save_model(tmp_path / "model.json")
    assert kind_of(tmp_path / "model.any") == "LightGBM"
    assert kind_of(tmp_path / "model.json") == "XGBoost"
    x = unseen(5, 5)
    first, again = (naru.compile(tmp_path / "model.any") for _ in range(2))
    assert np.array_equal(np.asarray(first(x)), np.asarray(again(x)))
    assert first.outputs[0].shape == ("rows",)
    made = naru.build(tmp_path / "model.json", tmp_path / "dist")
    assert made.provenance["inputs"][0]["shape"] == ["rows", FEATURES]
    top = naru.compile(
        train_lightgbm({"objective": "multiclass", "num_class": 3}).model_to_string().encode(),
        top=1, labels=["a", "b", "c"],
    )  # fmt: skip
    assert [o.name for o in top.outputs] == [
        "prediction",
        "prediction_top_scores",
        "prediction_top_classes",
    ]


@pytest.mark.parametrize("verb", ["check", "verify", "bench"])
def test_verbs_for_onnx_say_so(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_lightgbm({"objective": "binary"}, 1).save_model(tmp_path / "m.txt")
    assert main([verb, str(tmp_path / "m.txt")]) == 1
    assert "m.txt: expected an ONNX model, found one of LightGBM" in capsys.readouterr().err


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_xgboost({"objective": "binary:logistic"}, 1).save_model(tmp_path / "m.json")
    np.save(tmp_path / "x.npy", table(3, 3).astype(np.float32))
    assert main(["run", str(tmp_path / "m.json"), "--input", str(tmp_path / "x.npy")]) == 0
    assert "prediction: float32[3]" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["LightGBM", "XGBoost"])
def test_damaged_files_are_read_or_refused(kind: str) -> None:
    """Digits, bytes and pieces changed at random: a graph, or a NaruError."""
    if kind == "LightGBM":
        params = {"objective": "multiclass", "num_class": 2, "num_leaves": 5}
        data = train_lightgbm(params, 2, category=True).model_to_string().encode()
    else:
        params = {"objective": "multi:softprob", "num_class": 2, "max_depth": 2}
        data = bytes(train_xgboost(params, 2, category=True).save_raw("json"))
    rng = np.random.default_rng(7)
    read = 0
    for case in range(400):
        changed = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(data) - 60))
            if case % 3 == 0:
                changed[at] = rng.integers(256)
            elif case % 3 == 1:
                digits = [k for k in range(at, at + 60) if chr(changed[k]).isdigit()]
                changed[digits[0] if digits else at] = rng.choice(list(b"0123456789-"))
            else:
                changed[at : at + int(rng.integers(1, 30))] = changed[: int(rng.integers(0, 3))]
                changed += bytes(60)
        with suppress(NaruError):
            read_model(bytes(changed))
            read += 1
    assert 0 < read < 400
