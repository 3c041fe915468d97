"""Models of a folder: which are found, when they are loaded, and what replaces what."""

from __future__ import annotations

import asyncio
import json
import os
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
import naru.serve.repository as repository_module
from naru.errors import InputError
from naru.serve.http import Application
from naru.serve.listing import list_model, list_models, natural
from naru.serve.refusals import Refusal
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
        assert str(tmp_path) not in refused.error
        assert await first(app) == 12
        found = await ask(app, "POST", "/v2/models/m/versions/2/infer", _body())
        assert found.status == 503
        assert str(tmp_path) not in found.error
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


# ---- several things at once ----


def test_a_new_version_is_loaded_beside_the_old_one(tmp_path: Path) -> None:
    bundle(tmp_path / "m" / "1" / "m.naru")

    async def check(app: Application) -> None:
        repository = app.plane.repository
        assert await first(app) == 6
        bundle(tmp_path / "m" / "2" / "m.naru", 2.0)
        looking = asyncio.ensure_future(repository.refresh())
        while not looking.done():
            assert await first(app) in (6, 12)
            await asyncio.sleep(0)
        assert repository.find("m", "2") is not None
        assert await first(app) == 12
        shutil.rmtree(tmp_path / "m" / "1")
        await repository.refresh()
        assert repository.known("m").slots.keys() == {"2"}
        # The only version gives way to one that does not work: it goes on without its file.
        shutil.rmtree(tmp_path / "m" / "2")
        (tmp_path / "m" / "3").mkdir()
        (tmp_path / "m" / "3" / "m.naru").write_bytes(b"no bundle")
        await repository.refresh()
        assert await first(app) == 12

    serving(tmp_path, check)


def test_at_the_start_the_greatest_that_loads_answers(tmp_path: Path) -> None:
    bundle(tmp_path / "m" / "1" / "m.naru")
    (tmp_path / "m" / "2").mkdir()
    (tmp_path / "m" / "2" / "m.naru").write_bytes(b"no bundle")

    async def check(app: Application) -> None:
        assert await first(app) == 6
        states = {i["version"]: i["state"] for i in app.plane.index()}
        assert states == {"1": "READY", "2": "UNAVAILABLE"}

    for load_at_start in (64, 0):
        serving(tmp_path, check, load_at_start=load_at_start)


def test_requests_that_come_slowly_outlive_a_reload(tmp_path: Path) -> None:
    path = bundle(tmp_path / "m.naru")

    async def check(app: Application) -> None:
        repository = app.plane.repository
        body, half = _body(), len(_body()) // 2
        arrived = asyncio.Event()

        async def receive() -> Any:
            if not arrived.is_set():
                arrived.set()
                return {"type": "http.request", "body": body[:half], "more_body": True}
            bundle(path, 2.0)
            await repository.load("m")
            return {"type": "http.request", "body": body[half:]}

        found: list[Any] = []

        async def send(message: Any) -> None:
            found.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/v2/models/m/infer", "query_string": b"",
            "headers": [],
        }  # fmt: skip
        await app(scope, receive, send)
        assert found[0]["status"] == 200
        assert json.loads(found[1]["body"])["outputs"][0]["data"][0] == 6
        assert await first(app) == 12

    serving(tmp_path, check)


def test_room_for_one_model(tmp_path: Path) -> None:
    for k in range(6):
        bundle(tmp_path / f"m{k}.naru")

    async def check(app: Application) -> None:
        for _ in range(5):
            found = await asyncio.gather(*(first(app, f"m{k}") for k in range(6)))
            assert found == [6] * 6
        repository = app.plane.repository
        servables = [s.servable for k in repository.models() for s in k.loaded]
        assert repository.held == sum(s.size for s in servables if s is not None)

    serving(tmp_path, check, load_at_start=0, memory=1)


def test_a_change_while_loading(tmp_path: Path) -> None:
    """Whoever asks for a reload gets what lies there then, also where an older file is on its way;
    and what is taken away while it is loading is not put back."""
    path = bundle(tmp_path / "m.naru")

    async def check(app: Application) -> None:
        repository = app.plane.repository
        asked = asyncio.ensure_future(repository.get("m"))
        await asyncio.sleep(0)
        assert repository.slot("m").loading is not None
        bundle(path, 2.0)
        await repository.load("m")
        await asked
        assert await first(app) == 12
        bundle(path, 3.0)
        loading = asyncio.ensure_future(repository.load("m"))
        while repository.slot("m").loading is None:
            await asyncio.sleep(0)
        path.unlink()
        await repository.refresh()
        await asyncio.gather(loading, return_exceptions=True)
        assert repository.names == []
        assert repository.held == 0

    serving(tmp_path, check, load_at_start=0)


def test_changes_at_once(tmp_path: Path) -> None:
    bundle(tmp_path / "m.naru")

    async def check(app: Application) -> None:
        repository = app.plane.repository
        await asyncio.gather(
            *(repository.load("m") for _ in range(4)), repository.refresh(), repository.refresh()
        )
        assert await first(app) == 6
        (tmp_path / "m.naru").unlink()
        again = [repository.load("m") for _ in range(4)]
        found = await asyncio.gather(*again, repository.refresh(), return_exceptions=True)
        assert [type(f) for f in found] == [Refusal] * 4 + [type(None)]
        assert repository.held == 0

    serving(tmp_path, check)


def test_wrong_settings_leave_what_runs(tmp_path: Path) -> None:
    bundle(tmp_path / "m" / "m.naru")
    settings = tmp_path / "m" / "serve.toml"
    settings.write_text("max_queue = 7\n")

    async def check(app: Application) -> None:
        repository = app.plane.repository
        for wrong in ("max_queu = 7\n", "aliases = { stable = '9' }\n", "aliases = { 1 = '1' }\n"):
            settings.write_text(wrong)
            await repository.refresh()
            servable = repository.find("m")
            assert servable is not None
            assert servable.settings.max_queue == 7
            assert "serve.toml" in app.plane.index()[0]["reason"]
            assert str(tmp_path) not in app.plane.index()[0]["reason"]
        settings.write_text("max_queue = 8\naliases = { stable = '1' }\n")
        await repository.refresh()
        servable = repository.find("m", "stable")
        assert servable is not None
        assert servable.settings.max_queue == 8
        settings.write_text("max_queue = 8\naliases = { canary = '1' }\n")
        await repository.refresh()
        assert repository.find("m", "canary") is servable  # another name is no reason to load

    serving(tmp_path, check)
    settings.write_text("max_queu = 7\n")

    async def refused(app: Application) -> None:
        answer = await first(app)
        assert answer.status == 503
        assert "did you mean 'max_queue'" in answer.error

    serving(tmp_path, refused)


def test_use_by_an_alias_is_use(tmp_path: Path) -> None:
    size = bundle(tmp_path / "a" / "m.naru").stat().st_size
    (tmp_path / "a" / "serve.toml").write_text("aliases = { x = '1' }\n")
    for name in "bc":
        bundle(tmp_path / f"{name}.naru")

    async def check(app: Application) -> None:
        for name in ("a/versions/x", "b", "a/versions/x", "c"):
            assert await first(app, name) == 6
        find = app.plane.repository.find
        assert [n for n in "abc" if find(n) is not None] == ["a", "c"]

    serving(tmp_path, check, load_at_start=0, memory=2 * size + 100)


def test_failures_that_may_pass_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle(tmp_path / "m.naru")
    real = repository_module.read_bundle

    def failing(path: Path) -> Any:
        raise MemoryError("secret")

    async def check(app: Application) -> None:
        monkeypatch.setattr(repository_module, "read_bundle", failing)
        answer = await first(app)
        assert answer.status == 500
        assert "secret" not in answer.error
        monkeypatch.setattr(repository_module, "read_bundle", real)
        assert await first(app) == 6

    serving(tmp_path, check, load_at_start=0)


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle(tmp_path / "m.naru")
    (tmp_path / "lost+found").mkdir()
    real = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == "lost+found":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = list_models(tmp_path, DEFAULTS)
    assert found["m"].problem is None
    assert found["lost+found"].problem == "lost+found: the folder cannot be read: Permission denied"


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    bundle(tmp_path / "m.naru")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.naru")).write_bytes(b"")

    async def check(app: Application) -> None:
        assert await first(app) == 6
        index = (await ask(app, "POST", "/v2/repository/index")).json
        assert {i["name"]: i["state"] for i in index}["m"] == "READY"
        assert [i["reason"] for i in index if i["state"] != "READY"] == ["its name is not UTF-8"]
        assert (await ask(app, "GET", "/openapi.json")).status == 200

    serving(tmp_path, check)
