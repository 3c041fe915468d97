"""Files and objects of LightGBM and XGBoost: how they are told apart, compiled, and refused."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import lightgbm
import numpy as np
import pytest
import xgboost

import naru
from naru.cli import main
from naru.errors import InputError, ModelError, NaruError, NaruWarning, UnsupportedError
from naru.frontend.boosting import forest_bytes, is_booster, read_booster
from naru.frontend.source import kind_of, read_model
from tests.frontend.boosting_tables import (
    FEATURES,
    check_close,
    matrix,
    open_graph,
    table,
    train_lightgbm,
    train_xgboost,
    unseen,
)


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


@pytest.mark.parametrize("verb", ["check", "bench"])
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


# ---- in memory ----


def test_a_lightgbm_booster_in_memory() -> None:
    """Up to the best iteration, as its `predict`."""
    x = table(300, 1)
    y = np.nan_to_num(x[:, 0])
    data = lightgbm.Dataset(x[:200], y[:200])
    booster = lightgbm.train(
        {"verbosity": -1, "num_threads": 1, "learning_rate": 0.5}, data, 60,
        valid_sets=[data.create_valid(x[200:], y[200:])],
        callbacks=[lightgbm.early_stopping(2, verbose=False)], keep_training_booster=True,
    )  # fmt: skip
    assert 0 < booster.best_iteration < booster.current_iteration()
    assert is_booster(booster)
    graph = read_booster(booster, name="my model")
    assert graph.name == "my_model"
    rows = unseen(50, 5)
    check_close(open_graph(graph)(rows), np.asarray(booster.predict(rows)), 0)


class Mine(xgboost.Booster):
    """A class below the library's."""


def test_an_xgboost_booster_in_memory() -> None:
    """All iterations, as its `predict`, also where training was stopped early."""
    x = table(300, 1)
    y = np.nan_to_num(x[:, 0])
    trained = xgboost.train(
        {"eta": 0.9, "nthread": 1}, matrix(x[:200], y[:200]), 40,
        evals=[(matrix(x[200:], y[200:]), "valid")], early_stopping_rounds=2, verbose_eval=False,
    )  # fmt: skip
    assert trained.best_iteration + 1 < trained.num_boosted_rounds()
    rows = unseen(50, 5)
    for booster in (trained, Mine(model_file=trained.save_raw("ubj"))):
        assert is_booster(booster)
        with pytest.warns(NaruWarning, match="stopped early"):
            graph = read_booster(booster)
        got = open_graph(graph)(rows.astype(np.float32))
        check_close(got, booster.predict(matrix(rows)), 0)


@pytest.mark.filterwarnings("ignore:The argument 'eval_set' is deprecated")
def test_estimators_up_to_their_best_iteration() -> None:
    x = table(300, 1)
    y = np.nan_to_num(x[:, 0])
    light = lightgbm.LGBMRegressor(n_estimators=60, learning_rate=0.5, verbosity=-1, n_jobs=1)
    stop = lightgbm.early_stopping(2, verbose=False)
    light.fit(x[:200], y[:200], eval_set=[(x[200:], y[200:])], callbacks=[stop])
    extreme = xgboost.XGBRegressor(
        n_estimators=60, learning_rate=0.9, early_stopping_rounds=2, n_jobs=1
    )
    extreme.fit(x[:200], y[:200], eval_set=[(x[200:], y[200:])], verbose=False)
    assert extreme.best_iteration + 1 < extreme.get_booster().num_boosted_rounds()
    rows = unseen(50, 5)
    for model in (light, extreme):
        assert not is_booster(model)
        compiled = naru.compile(forest_bytes(model), cache=False)
        given = rows.astype(compiled.inputs[0].dtype)
        check_close(compiled(given), np.asarray(model.predict(given)), 0)


@pytest.mark.parametrize("form", ["json", "ubj"])
def test_a_file_of_an_estimator_that_was_stopped_early(form: str, tmp_path: Path) -> None:
    """All its trees count, as in Booster.predict, and a warning says how to have fewer."""
    x = table(300, 1)
    y = np.nan_to_num(x[:, 0])
    e = xgboost.XGBRegressor(
        n_estimators=60, learning_rate=0.9, early_stopping_rounds=2, num_parallel_tree=2, n_jobs=1
    )
    e.fit(x[:200], y[:200], eval_set=[(x[200:], y[200:])], verbose=False)
    booster, used = e.get_booster(), e.best_iteration + 1
    file = tmp_path / f"m.{form}"
    e.save_model(file)
    said = rf"all {used + 2} rounds .* uses the first {used}: .*booster\[:{used}\]"
    with pytest.warns(NaruWarning, match=said):
        model = naru.compile(file, cache=False)
    rows = unseen(50, 5).astype(np.float32)
    check_close(model(rows), booster.predict(matrix(rows)), 0)
    booster[:used].save_model(file)  # what it says: no warning
    check_close(naru.compile(file, cache=False)(rows), np.asarray(e.predict(rows)), 0)


def test_objects_that_have_no_file() -> None:
    for value, words in (
        (lightgbm.LGBMRegressor(), "LGBMRegressor has no booster"),
        (xgboost.XGBClassifier(), "XGBClassifier has no booster"),
        (3, "expected a booster of LightGBM or XGBoost, got int"),
    ):
        with pytest.raises(InputError, match=words):
            forest_bytes(value)
        with pytest.raises(InputError, match="expected a Booster"):
            read_booster(value)
    zeros = xgboost.XGBRegressor(n_estimators=1, missing=0.0)
    x = np.abs(table(40, 1))
    zeros.fit(np.nan_to_num(x), np.nan_to_num(x[:, 0]))
    with pytest.raises(UnsupportedError, match=r"missing=0.0 of XGBRegressor"):
        forest_bytes(zeros)


def test_a_booster_that_is_refused_says_where() -> None:
    class Booster:
        """Looks like LightGBM's."""

        def model_to_string(self) -> str:
            return "tree\nversion=v4\nend of trees\n"

    Booster.__module__ = "lightgbm.basic"
    with pytest.raises(ModelError, match=r"lightgbm.Booster: the header: num_tree_per_iteration"):
        read_booster(Booster())


def test_the_libraries_are_not_imported() -> None:
    code = (
        "import sys, naru.frontend.boosting as b; b.is_booster(3); "
        "assert not {'lightgbm', 'xgboost', 'sklearn', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_inputs_that_do_not_fit() -> None:
    """Nothing is cast: the error says what was expected, and what to call."""
    x = table(20, 1)
    for model, given in (
        (
            naru.compile(train_lightgbm({"objective": "regression"}, 1).model_to_string().encode()),
            x,
        ),
        (
            naru.compile(bytes(train_xgboost({"objective": "reg:linear"}, 1).save_raw("ubj"))),
            x.astype(np.float32),
        ),
    ):
        assert np.asarray(model(given)).shape == (20,)
        assert np.asarray(model(given[:0])).shape == (0,)
        other = np.float32 if given.dtype == np.float64 else np.float64
        wanted = f"expected dtype {given.dtype}, got {np.dtype(other)}"
        for wrong, words in (
            (given.astype(other), wanted),
            (given[:, :-1], r"expected shape \(rows, 8\), got \(20, 7\)"),
            (given[0], "expected 2 dims"),
            (given.astype(str), f"expected dtype {given.dtype}, got str"),
        ):
            with pytest.raises(InputError, match=words):
                model(wrong)


# ---- damage ----


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
