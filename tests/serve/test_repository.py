"""Models of a folder: which are found, when they are loaded, and what replaces what."""

from __future__ import annotations

import asyncio
import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from serve import models
from serve.asgi import ask, tensor
from serve.conftest import serving

import naru
from naru.errors import InputError
from naru.serve.http import Application
from naru.serve.repository import list_model, list_models, natural
from naru.serve.settings import ModelSettings

DEFAULTS = ModelSettings()
X = np.ones((1, 4), np.float32)
Y = np.array([[6, 10, 14]], np.float32)


def bundle(path: Path, scale: float = 1.0) -> Path:
    """`models.dense` as a bundle, put there at once as a careful user does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".part").write_bytes(_compiled(scale))
    path.with_suffix(".part").replace(path)
    return path


@cache
def _compiled(scale: float) -> bytes:
    with TemporaryDirectory() as folder:
        source = models.dense(Path(folder) / "m.onnx", scale)
        naru.compile(source).save(made := Path(folder) / "m.naru")
        return made.read_bytes()


async def first(app: Application, model: str = "m") -> Any:
    """The first element of the answer for X, or the error."""
    body = json.dumps({"inputs": [tensor("x", X, "FP32")]}).encode()
    answer = await ask(app, "POST", f"/v2/models/{model}/infer", body)
    return answer.json["outputs"][0]["data"][0] if answer.status == 200 else answer


# ---- what is found ----


def test_versions_are_sorted_as_people_do() -> None:
    versions = ["10", "9", "v10", "v9", "2.1", "2.10", "alpha"]
    found = sorted(versions, key=natural)
    assert found[-1] == "10"
    for less, more in (("9", "10"), ("v9", "v10"), ("2.1", "2.10"), ("alpha", "9")):
        assert found.index(less) < found.index(more)


def test_what_lies_in_a_folder(tmp_path: Path) -> None:
    for name in (
        "a.naru", "b.onnx", "c/m.naru", "d/1/m.onnx", "d/v2/m.naru", "e/model.txt", "notes.md",
        ".hidden.naru", "f/readme.md", "g/.x/m.naru", "c/m.onnx",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    found = list_models(tmp_path, DEFAULTS)
    assert {n: list(m.versions) for n, m in found.items()} == {
        "a": ["1"], "b": ["1"], "c": ["1"], "d": ["1", "v2"], "e": ["1"],
    }  # fmt: skip
    assert found["c"].versions["1"].path.name == "m.naru"  # a bundle goes before its source
    for name, model in found.items():
        assert list_model(tmp_path, name, DEFAULTS) == model
    for name in ("none", "", ".hidden", "../x", "a/b", "notes"):
        assert list_model(tmp_path, name, DEFAULTS) is None


def test_what_cannot_be_told_apart(tmp_path: Path) -> None:
    for name in ("a/x.naru", "a/y.naru", "b/x.naru", "b/2/y.naru", "c.naru", "c.onnx"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    found = list_models(tmp_path, DEFAULTS)
    assert "expected one model, found x.naru, y.naru" in str(found["a"].problem)
    assert "beside folders of versions" in str(found["b"].problem)
    assert "two models 'c'" in str(found["c"].problem)


def test_one_file(tmp_path: Path) -> None:
    path = bundle(tmp_path / "m.naru")
    assert list(list_models(path, DEFAULTS)) == ["m"]
    with pytest.raises(InputError, match="no such file or folder"):
        list_models(tmp_path / "none", DEFAULTS)


def test_settings_of_a_model(tmp_path: Path) -> None:
    bundle(tmp_path / "m" / "m.naru")
    settings = tmp_path / "m" / "serve.toml"
    settings.write_text("max_batch = 8\nmax_delay_us = 100\n[aliases]\nstable = '1'\n")
    found = list_models(tmp_path, DEFAULTS)["m"].settings
    assert (found.max_batch, found.max_delay_us, found.aliases) == (8, 100, {"stable": "1"})
    settings.write_text("max_bach = 8\nmax_queue = 0\nbatching = 1\n")
    problem = str(list_models(tmp_path, DEFAULTS)["m"].problem)
    for part in ("did you mean 'max_batch'", "max_queue: expected", "batching: expected true"):
        assert part in problem
    settings.write_text("max_batch =")
    assert "cannot be read" in str(list_models(tmp_path, DEFAULTS)["m"].problem)


# ---- what is loaded, and replaced ----


def test_models_are_loaded_when_asked_for(tmp_path: Path) -> None:
    for name in "abc":
        bundle(tmp_path / f"{name}.naru")

    async def check(app: Application) -> None:
        find = app.plane.repository.find
        assert find("a") is None
        assert (await ask(app, "GET", "/v2/models/a/ready")).status == 200  # a request is answered
        assert await first(app, "a") == 6
        assert find("a") is not None
        assert find("b") is None

    serving(tmp_path, check, load_at_start=2)


def test_a_budget_of_memory(tmp_path: Path) -> None:
    size = bundle(tmp_path / "m0.naru").stat().st_size
    for k in range(1, 6):
        shutil.copy(tmp_path / "m0.naru", tmp_path / f"m{k}.naru")

    async def check(app: Application) -> None:
        for k in range(6):
            assert await first(app, f"m{k}") == 6
            assert await first(app, "m0") == 6
        loaded = [n for n in app.plane.repository.names if app.plane.repository.find(n)]
        assert loaded == ["m0", "m4", "m5"]  # m0 was used all the time
        stats = (await ask(app, "GET", "/v2/models/m2/stats")).json["model_stats"][0]
        assert stats["inference_count"] == 1  # what was counted stays

    serving(tmp_path, check, load_at_start=0, memory=3 * size + 100)


def test_reload(tmp_path: Path) -> None:
    path = bundle(tmp_path / "m" / "1" / "m.naru")

    async def check(app: Application) -> None:
        async def load() -> Any:
            return await ask(app, "POST", "/v2/repository/models/m/load", b"{}")

        before = app.plane.repository.find("m")
        assert await first(app) == 6
        assert (await load()).status == 200
        assert app.plane.repository.find("m") is before  # nothing has changed
        bundle(path, 2.0)
        assert await first(app) == 6  # not before it is told
        assert (await load()).status == 200
        assert await first(app) == 12
        # A newer version that does not work: the one before goes on.
        (tmp_path / "m" / "2").mkdir()
        (tmp_path / "m" / "2" / "m.naru").write_bytes(b"no bundle")
        refused = await load()
        assert refused.status == 400
        assert "version 2 of 'm'" in refused.error
        assert "not a naru bundle" in refused.error
        found = await ask(app, "POST", "/v2/models/m/versions/1/infer", _body())
        assert found.status == 200
        bundle(tmp_path / "m" / "2" / "m.naru", 3.0)
        assert (await load()).status == 200
        assert await first(app) == 18

    serving(tmp_path, check, model_control=True)


def _body() -> bytes:
    return json.dumps({"inputs": [tensor("x", X, "FP32")]}).encode()


def test_a_broken_replacement_leaves_the_old_one(tmp_path: Path) -> None:
    path = bundle(tmp_path / "m.naru")

    async def check(app: Application) -> None:
        assert await first(app) == 6
        (tmp_path / "new").write_bytes(path.read_bytes()[:-1])
        (tmp_path / "new").replace(path)
        await app.plane.repository.refresh()
        assert await first(app) == 6
        (item,) = app.plane.index()
        assert item["state"] == "READY"
        assert "the changed file does not serve, the one before does" in item["reason"]
        bundle(path, 2.0)
        await app.plane.repository.refresh()
        assert await first(app) == 12
        assert app.plane.index()[0]["reason"] == ""
        path.unlink()
        await app.plane.repository.refresh()
        assert (await first(app)).status == 404

    serving(tmp_path, check)


def test_unload_and_load(tmp_path: Path) -> None:
    bundle(tmp_path / "m.naru")

    async def check(app: Application) -> None:
        path = "/v2/repository/models/m/"
        assert (await ask(app, "POST", path + "unload", b"")).status == 200
        answer = await first(app)
        assert (answer.status, answer.error) == (503, "the model 'm' was unloaded")
        assert app.plane.index()[0] == {
            "name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded",
        }  # fmt: skip
        assert (await ask(app, "POST", path + "load", b"")).status == 200
        assert await first(app) == 6
        for body, message in (
            (b'{"parameters": {"file:1/m.naru": "AAAA"}}', "models come from the server's folder"),
            (b'{"parameters": {"config": "{}"}}', "serve.toml"),
        ):
            answer = await ask(app, "POST", path + "load", body)
            assert answer.status == 501
            assert message in answer.error
        for name in ("none", "..", "%2e%2e"):
            answer = await ask(app, "POST", f"/v2/repository/models/{name}/load", b"")
            assert answer.status == 404

    serving(tmp_path, check, model_control=True)


def test_no_request_is_lost_while_models_change(tmp_path: Path) -> None:
    path = bundle(tmp_path / "m.naru")
    other = bundle(tmp_path / "other" / "m.naru", 2.0).read_bytes()
    shutil.rmtree(tmp_path / "other")
    same = path.read_bytes()

    async def check(app: Application) -> None:
        answers: list[Any] = []
        done = False

        async def client() -> None:
            while not done:
                answers.append(await first(app))
                await asyncio.sleep(0)

        clients = [asyncio.ensure_future(client()) for _ in range(4)]
        for k in range(20):
            (tmp_path / "part").write_bytes(same if k % 2 else other)
            (tmp_path / "part").replace(path)
            await app.plane.repository.load("m")
        done = True
        await asyncio.gather(*clients)
        assert set(answers) == {6, 12}

    serving(tmp_path, check)


def test_models_that_the_protocol_has_no_form_for(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    x = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node("ConcatFromSequence", ["x"], ["y"], axis=0)
    graph = helper.make_graph([node], "g", [x], [y])
    opset = helper.make_opsetid("", 21)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / "s.onnx")

    async def check(app: Application) -> None:
        answer = await ask(app, "GET", "/v2/models/s")
        assert answer.status == 503
        assert "no datatype for the input x" in answer.error

    serving(tmp_path, check)
