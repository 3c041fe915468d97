"""One door for all models: objects, and files of all kinds, by `naru.compile` and the verbs."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import lightgbm as LightGBM
import numpy as np
import pytest
import torch
import xgboost as XGBoost
from click.testing import CliRunner
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import nn

import naru
from naru import cli
from naru.building import build
from naru.errors import InputError, ModelError, NaruError
from naru.frontend.reading import Reading, parse_inputs
from naru.frontend.source import digest_of, kind_of, open_source

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")


class Net(nn.Sequential):
    def __init__(self, width: int = 16) -> None:
        super().__init__(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))


def network() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def iris() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_iris(return_X_y=True)
    return np.asarray(x), np.asarray(y)


def classifier() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(*iris())


def booster() -> Any:
    x, y = iris()
    return LightGBM.train({"verbosity": -1}, LightGBM.Dataset(x, y), 5)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A file of every kind."""
    net = network()
    example = torch.zeros(2, 4)
    made = {
        kind: tmp_path / name
        for kind, name in (
            ("pt2", "net.pt2"), ("TorchScript", "net.script.pt"), ("checkpoint", "net.pt"),
            ("pickle", "pipeline.pkl"), ("LightGBM", "trees.txt"), ("XGBoost", "trees.ubj"),
        )
    }  # fmt: skip
    torch.export.save(torch.export.export(net, (example,)), made["pt2"])
    torch.jit.save(torch.jit.trace(net, example), made["TorchScript"])
    torch.save({"state_dict": net.state_dict(), "epoch": 3}, made["checkpoint"])
    made["pickle"].write_bytes(pickle.dumps(classifier()))
    booster().save_model(str(made["LightGBM"]))
    x, y = iris()
    XGBoost.train({}, XGBoost.DMatrix(x, y), 5).save_model(made["XGBoost"])
    return made


def run(*args: Any) -> Any:
    return CliRunner().invoke(cli.naru, [str(a) for a in args], standalone_mode=True)


def test_files_are_told_by_what_they_begin_with(files: dict[str, Path]) -> None:
    for kind, path in files.items():
        assert kind_of(path) == kind
        other = path.with_name("model")
        other.write_bytes(path.read_bytes())
        assert kind_of(other) == kind
        if kind != "TorchScript":
            assert kind_of(path.read_bytes()) == kind


def test_objects_are_compiled_and_cached() -> None:
    net, x = network(), iris()[0].astype(np.float32)
    model = naru.compile(net, x, dynamic_shapes={"input": {0: "batch"}})
    with torch.no_grad():
        expected = net(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-6)
    again = naru.compile(net, {"input": x}, dynamic_shapes={"input": {0: "batch"}})
    assert bytes(again.manifest["source"]["sha256"], "ascii") == bytes(
        model.manifest["source"]["sha256"], "ascii"
    )
    estimator = classifier()
    label, probabilities = naru.compile(estimator)(iris()[0])
    assert (label == estimator.predict(iris()[0])).all()
    np.testing.assert_allclose(probabilities, estimator.predict_proba(iris()[0]), rtol=1e-12)
    trees = booster()
    assert (naru.compile(trees)(iris()[0]) == trees.predict(iris()[0])).all()


def test_what_is_in_a_graph_is_in_its_digest() -> None:
    net, x = network(), torch.zeros(2, 4)
    first = open_source(net, Reading(example=x))
    with torch.no_grad():
        next(net.parameters()).add_(1)
    second = open_source(net, Reading(example=x))
    assert not isinstance(first, str | os.PathLike | bytes)
    assert not isinstance(second, str | os.PathLike | bytes)
    assert digest_of(first) != digest_of(second)
    texts = OneHotEncoder().fit(np.array([["a"], ["b"]], object))
    others = OneHotEncoder().fit(np.array([["a"], ["c"]], object))
    made = [open_source(e, Reading()) for e in (texts, others, texts)]
    found = [digest_of(m) for m in made if not isinstance(m, str | os.PathLike | bytes)]
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("kind", ["pt2", "TorchScript", "checkpoint", "pickle"])
def test_files_of_frameworks(files: dict[str, Path], kind: str) -> None:
    x = iris()[0][:2]
    with torch.no_grad():
        expected = network()(torch.from_numpy(x.astype(np.float32))).numpy()
    if kind == "pickle":
        model = naru.compile(files[kind], trust_pickle=True)
        np.testing.assert_allclose(model(x)[1], classifier().predict_proba(x), rtol=1e-12)
        return
    said: dict[str, Any] = {
        "pt2": {},
        "TorchScript": {"example": torch.zeros(2, 4)},
        "checkpoint": {"example": torch.zeros(2, 4), "module": Net, "arguments": {"width": 16}},
    }[kind]
    model = naru.compile(files[kind], **said)
    np.testing.assert_allclose(model(x.astype(np.float32)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "said", "expected"),
    [
        ("pt2", {"example": np.zeros(4)}, "example: not for a model of a .pt2 file: it says all"),
        ("LightGBM", {"module": "a:B"}, "module: not for a model of LightGBM"),
        ("checkpoint", {}, "has weights and no program"),
        ("checkpoint", {"module": "nowhere:Net"}, "'nowhere:Net' cannot be found"),
        ("TorchScript", {}, "example"),
        ("pickle", {}, "can run any code"),
        ("pickle", {"module": "a:B"}, "module: not for a model of a pickle"),
    ],
)
def test_what_does_not_fit_is_said(
    files: dict[str, Path], kind: str, said: dict[str, Any], expected: str
) -> None:
    with pytest.raises(NaruError, match=r".") as caught:
        naru.compile(files[kind], **said)
    assert expected in str(caught.value)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(InputError, match="expected a model, or the path or the bytes of one"):
        naru.compile(3)
    with pytest.raises(ModelError):
        naru.compile(b"nothing at all")


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("verb", ["compile", "build", "convert", "verify", "run", "explain"])
def test_no_verb_runs_a_pickle(tmp_path: Path, verb: str) -> None:
    path, made = tmp_path / "evil.pkl", tmp_path / "made"
    path.write_bytes(pickle.dumps(Evil(made)))
    result = run(verb, path)
    assert result.exit_code == 1
    assert isinstance(result.exception, InputError)
    assert "mkdir" in str(result.exception)
    assert not made.exists()


@pytest.mark.parametrize("place", ["sample inputs", "weights", "object", "library"])
def test_no_program_runs_a_pickle(files: dict[str, Path], tmp_path: Path, place: str) -> None:
    """torch.export.load alone would."""
    made, path = tmp_path / "made", tmp_path / "evil.pt2"
    buffer = io.BytesIO()
    torch.save(Evil(made), buffer)
    with zipfile.ZipFile(files["pt2"]) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if place == "sample inputs" and "sample_inputs" in name:
                data = buffer.getvalue()
            if place == "weights" and name.endswith("weights_config.json"):
                data = data.replace(b'"use_pickle": false', b'"use_pickle": true')
                data = data.replace(b'"use_pickle":false', b'"use_pickle":true')
            if place == "weights" and "/weight_" in name:
                data = buffer.getvalue()
            new.writestr(name, data)
        top = old.namelist()[0].partition("/")[0]
        if place == "object":
            new.writestr(f"{top}/data/constants/opaque_obj_0", pickle.dumps(Evil(made)))
        if place == "library":
            new.writestr(f"{top}/data/aotinductor/model/m.so", b"")
    with pytest.raises(ModelError):
        naru.compile(path)
    assert not made.exists()


def test_convert_shows_what_was_read(files: dict[str, Path]) -> None:
    result = run("convert", files["pickle"], "--trust-pickle", "--json")
    record = json.loads(result.output)
    assert record["kind"] == "pickle"
    assert record["inputs"] == {"features": "f64[rows, 4]"}
    assert set(record["outputs"]) == {"label", "probabilities"}
    assert record["operators"]["matmul"] == 1
    text = run("convert", files["LightGBM"], "--graph").output
    assert "tree_ensemble" in text or "coded_trees" in text
    assert "def trees(features: f64[rows, 4])" in text


def test_convert_of_a_plan_lists_what_runs_on_the_host(tmp_path: Path) -> None:
    path = tmp_path / "texts.pkl"
    path.write_bytes(pickle.dumps(OneHotEncoder().fit(np.array([["a"], ["b"]], object))))
    record = json.loads(run("convert", path, "--trust-pickle", "--json").output)
    assert record["host"]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("pt2", []),
        ("LightGBM", []),
        ("XGBoost", []),
        ("pickle", ["--trust-pickle"]),
        ("LightGBM", ["--against", "reference"]),
        ("TorchScript", ["--input", "input: f32[2, 4]"]),
    ],
)
def test_verify_against_the_framework(
    files: dict[str, Path], kind: str, options: list[str]
) -> None:
    result = run("verify", files[kind], *options, "--json")
    assert "{" in result.output, result.exception
    report = json.loads(result.output[result.output.index("{") :])
    assert report["passed"], report
    assert result.exit_code == 0
    if kind in ("LightGBM", "XGBoost") and not options:
        assert report["outputs"][0]["max_abs"] == 0


def test_verify_with_nested_and_named_inputs(tmp_path: Path) -> None:
    class Mixed(nn.Module):
        def forward(self, pair: Any, scale: float, *, more: dict[str, torch.Tensor]) -> Any:
            return {"sum": pair[0] + pair[1] * scale, "more": more["b"] - more["a"]}

    half, more = torch.zeros(3, dtype=torch.bfloat16), {"b": torch.zeros(2), "a": torch.zeros(2)}
    program = torch.export.export(Mixed(), ((half, half), 2.0), {"more": more})
    torch.export.save(program, path := tmp_path / "mixed.pt2")
    result = run("verify", path, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    assert json.loads(result.output[result.output.index("{") :])["passed"]


def test_a_class_beside_the_checkpoint(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, width):\n"
        "        super().__init__(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    result = run(
        "compile", files["checkpoint"], "--module", "own_net:Net", "--arguments",
        '{"width": 16}', "--input", "input: f32[batch, 4]",
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    assert "left out: epoch" in result.output
    model = naru.load(files["checkpoint"].with_suffix(".naru"))
    assert model.inputs[0].shape == ("batch", 4)


def test_a_library_of_an_object(tmp_path: Path) -> None:
    written = build(classifier(), tmp_path / "dist", emit="header", name="iris")
    assert any(p.name == "iris.h" for p in written.files)


def test_inputs_are_declared_by_texts() -> None:
    (spec,) = parse_inputs(["x : f32[batch, 3]"])
    assert (spec.name, spec.dtype, spec.dims) == ("x", "f32", ("batch", 3))
    assert spec.example().shape == (2, 3)
    assert spec.dynamic() == {0: "batch"}
    for wrong in ("x", "x: f99[3]", "x: f32[-1]", "x: f32[a b]"):
        with pytest.raises(InputError):
            parse_inputs([wrong])
    with pytest.raises(InputError, match="twice"):
        parse_inputs(["x: f32[1]", "x: f32[2]"])
