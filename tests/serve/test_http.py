"""The protocol over HTTP, asked without a network: what is answered, and what is refused."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serve import models
from serve.asgi import Answer, ask, tensor
from serve.conftest import serving

from naru.serve.http import Application

X = np.arange(8, dtype=np.float32).reshape(2, 4)
W = (np.arange(4)[:, None] + np.arange(3)).astype(np.float32)
Json = dict[str, Any]


def request_of(**changes: Any) -> Json:
    return {"inputs": [tensor("x", X, "FP32")], **changes}


async def infer(app: Application, value: Any, model: str = "dense", **headers: str) -> Answer:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return await ask(app, "POST", f"/v2/models/{model}/infer", body, headers)


# ---- what is answered ----


def test_health_and_metadata(folder: Path) -> None:
    async def check(app: Application) -> None:
        assert (await ask(app, "GET", "/v2/health/live")).json == {"live": True}
        assert (await ask(app, "GET", "/v2/health/ready")).json == {"ready": True}
        for path in ("/v2", "/v2/"):
            assert (await ask(app, "GET", path)).json["name"] == "naru"
        found = (await ask(app, "GET", "/v2/models/versions")).json
        assert found["versions"] == ["9", "10"]
        assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
        ready = await ask(app, "GET", "/v2/models/dense/ready")
        assert ready.json == {"name": "dense", "ready": True}
        broken = await ask(app, "GET", "/v2/models/broken/ready")
        assert (broken.status, broken.json["ready"]) == (503, False)
        head = await ask(app, "HEAD", "/v2/health/live")
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "13")

    serving(folder, check)


def test_json_in_and_out(folder: Path) -> None:
    async def check(app: Application) -> None:
        for data in (X.ravel().tolist(), X.tolist()):
            answer = await infer(app, request_of(inputs=[{**tensor("x", X, "FP32"), "data": data}]))
            assert answer.status == 200
            assert answer.json == {
                "model_name": "dense",
                "model_version": "1",
                "outputs": [tensor("y", X @ W, "FP32")],
            }
        answer = await infer(app, request_of(id="a-7"))
        assert answer.json["id"] == "a-7"

    serving(folder, check)


def test_versions_and_aliases(folder: Path) -> None:
    async def check(app: Application) -> None:
        for version, scale in (("9", 1), ("10", 2), ("stable", 1), ("", 2)):
            middle = f"/versions/{version}" if version else ""
            answer = await infer(app, request_of(), f"versions{middle}")
            assert answer.json["outputs"][0]["data"] == (scale * X @ W).ravel().tolist()
            assert answer.json["model_version"] == {"": "10", "stable": "9"}.get(version, version)
        missing = await infer(app, request_of(), "versions/versions/3")
        assert missing.status == 404
        assert "there are: 9, 10, stable" in missing.error

    serving(folder, check)


def binary(array: np.ndarray[Any, Any], datatype: str, **more: Any) -> tuple[bytes, dict[str, str]]:
    raw = array.tobytes()
    item = {
        "name": "x", "shape": list(array.shape), "datatype": datatype,
        "parameters": {"binary_data_size": len(raw)},
    }  # fmt: skip
    head = json.dumps({"inputs": [item], **more}).encode()
    return head + raw, {"inference-header-content-length": str(len(head))}


def read_binary(answer: Answer) -> tuple[Json, bytes]:
    length = int(answer.headers["inference-header-content-length"])
    return json.loads(answer.body[:length]), answer.body[length:]


def test_binary_tensors(folder: Path) -> None:
    async def check(app: Application) -> None:
        body, headers = binary(X, "FP32")
        assert (await infer(app, body, **headers)).json["outputs"][0]["data"] == (
            X @ W
        ).ravel().tolist()
        for more in (
            {"parameters": {"binary_data_output": True}},
            {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]},
        ):
            body, headers = binary(X, "FP32", **more)
            head, raw = read_binary(await infer(app, body, **headers))
            assert head["outputs"][0]["parameters"] == {"binary_data_size": 24}
            assert raw == (X @ W).tobytes()
        # The whole body is the one input, as a batch of one.
        answer = await infer(app, X[0].tobytes(), **{"inference-header-content-length": "0"})
        head, raw = read_binary(answer)
        assert (head["outputs"][0]["shape"], raw) == ([1, 3], (X[:1] @ W).tobytes())

    serving(folder, check)


def test_compressed_bodies(folder: Path) -> None:
    async def check(app: Application) -> None:
        plain, headers = binary(X, "FP32")
        raw = zlib.compressobj(wbits=-15)
        for coding, body in (
            ("gzip", gzip.compress(plain)),
            ("deflate", zlib.compress(plain)),
            ("deflate", raw.compress(plain) + raw.flush()),
        ):
            answer = await infer(app, body, **headers, **{"content-encoding": coding})
            assert answer.status == 200, answer.body
        many = np.ones((400, 4), np.float32)
        asked = {"inputs": [tensor("x", many, "FP32")]}
        answer = await infer(app, asked, **{"accept-encoding": "deflate;q=0.5, gzip"})
        assert answer.headers["content-encoding"] == "gzip"
        assert len(json.loads(gzip.decompress(answer.body))["outputs"][0]["data"]) == 1200

    serving(folder, check)


def test_several_inputs_and_wished_outputs(folder: Path) -> None:
    a, c = np.array([1, 2], np.float32), np.array([3, 4])
    inputs = [tensor("c", c, "INT64"), tensor("a", a, "FP32"), tensor("b", a, "FP32")]

    async def check(app: Application) -> None:
        answer = await infer(app, {"inputs": inputs}, "pair")
        assert [o["data"] for o in answer.json["outputs"]] == [[2, 4], [4, 5]]
        wish = [{"name": "count", "parameters": None}]
        answer = await infer(app, {"inputs": inputs, "outputs": wish}, "pair")
        assert [o["name"] for o in answer.json["outputs"]] == ["count"]
        for nothing in ([], None):
            answer = await infer(app, {"inputs": inputs, "outputs": nothing}, "pair")
            assert [o["name"] for o in answer.json["outputs"]] == ["total", "count"]

    serving(folder, check)


def test_texts(folder: Path) -> None:
    words = ["naru", "나루", ""]
    item = {"name": "word", "shape": [3], "datatype": "BYTES", "data": words}
    raw = b"".join(struct.pack("<I", len(w.encode())) + w.encode() for w in words)
    sized = {"name": "word", "shape": [3], "datatype": "BYTES"}
    head = json.dumps(
        {
            "inputs": [{**sized, "parameters": {"binary_data_size": len(raw)}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()

    async def check(app: Application) -> None:
        answer = await infer(app, {"inputs": [item]}, "texts")
        assert answer.json["outputs"][0]["data"] == ["NARU", "나루", ""]
        headers = {"inference-header-content-length": str(len(head))}
        _, found = read_binary(await infer(app, head + raw, "texts", **headers))
        assert found == raw.replace(b"naru", b"NARU")

    serving(folder, check)


def test_classification(folder: Path) -> None:
    async def check(app: Application) -> None:
        wish = [{"name": "y", "parameters": {"classification": 2}}]
        answer = await infer(app, request_of(outputs=wish))
        output = answer.json["outputs"][0]
        assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
        assert output["data"][0] == "26.000000:2"

    serving(folder, check)


def test_rows_for_people(folder: Path) -> None:
    async def check(app: Application) -> None:
        for body in (b"[[0, 1, 2, 3]]", b" [0, 1, 2, 3]"):
            answer = await infer(app, body)
            assert answer.json["outputs"] == {"y": [[14.0, 20.0, 26.0]]}
        objects = b'[{"a": 1, "b": 2.5, "c": 3}, {"c": 4, "b": 0, "a": 1}]'
        answer = await infer(app, objects, "pair")
        assert answer.json["outputs"] == {"total": [3.5, 1.0], "count": [4, 5]}
        for body in (
            b'[{"a": 1, "b": 2, "c": 3.5}]',
            b'[{"a": 1}]',
            b'[{"a": {}, "b": 1, "c": 2}]',
        ):
            assert (await infer(app, body, "pair")).status == 400
        assert "a row is an object by their names" in (await infer(app, b"[1]", "pair")).error
        assert (await infer(app, b"[]")).json["outputs"] == {"y": []}

    serving(folder, check)


def test_repository_index_takes_no_body(folder: Path) -> None:
    async def check(app: Application) -> None:
        items = {
            (i["name"], i.get("version")): i["state"]
            for i in (await ask(app, "POST", "/v2/repository/index")).json
        }
        assert items["dense", "1"] == "READY"
        assert items["broken", "1"] == "UNAVAILABLE"
        ready = await ask(app, "POST", "/v2/repository/index", b'{"ready": true}')
        assert {i["state"] for i in ready.json} == {"READY"}

    serving(folder, check)


def test_statistics_count_alike(folder: Path) -> None:
    async def check(app: Application) -> None:
        for _ in range(3):
            await infer(app, request_of())
        await infer(app, request_of(inputs=[]))
        await infer(app, b"{")
        found = (await ask(app, "GET", "/v2/models/dense/stats")).json["model_stats"][0]
        counts = {k: v["count"] for k, v in found["inference_stats"].items()}
        assert counts.pop("fail") == 2
        assert counts.pop("cache_hit") == counts.pop("cache_miss") == 0
        assert set(counts.values()) == {3}
        assert found["inference_count"] == 6
        text = (await ask(app, "GET", "/metrics")).body.decode()
        assert 'nv_inference_count{model="dense",version="1"} 6.0' in text

    serving(folder, check)


def test_config_says_what_perf_analyzer_asks(folder: Path) -> None:
    async def check(app: Application) -> None:
        config = (await ask(app, "GET", "/v2/models/dense/config")).json
        assert config["max_batch_size"] == 64
        assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}]
        assert "dynamic_batching" in config
        whole = (await ask(app, "GET", "/v2/models/normalised/config")).json
        assert whole["max_batch_size"] == 0  # its rows depend on each other
        assert whole["input"][0]["dims"] == [-1, 2]
        # What clients send has the shape [n], which a configuration with batches cannot say.
        single = (await ask(app, "GET", "/v2/models/pair/config")).json
        assert single["max_batch_size"] == 0
        assert "dynamic_batching" not in single
        assert [t["dims"] for t in single["input"]] == [[-1], [-1], [-1]]

    serving(folder, check)


# ---- what is refused ----

WRONG: dict[str, tuple[Any, str]] = {
    "no JSON": (b"{", "the body is not JSON"),
    "nothing": (b"", "the body is not JSON"),
    "a number": (b"3", "expected a JSON object, got a number"),
    "no inputs": ({}, "inputs: expected a list of tensors, got nothing"),
    "inputs of another kind": ({"inputs": {}}, "inputs: expected a list of tensors, got an object"),
    "an input that is none": ({"inputs": [3]}, "inputs[0]: expected an object, got a number"),
    "id": (request_of(id=7), "id: expected a text, got a number"),
    "parameters": (request_of(parameters=[]), "parameters: expected an object, got a list"),
    "a parameter": (request_of(parameters={"a": {}}), "parameters.a: expected a text, number or"),
    "priority": (request_of(parameters={"priority": -1}), "parameters.priority: expected a whole"),
    "sequences": (request_of(parameters={"sequence_id": 4}), "keep no state"),
    "another name": (
        request_of(inputs=[tensor("X1", X, "FP32")]),
        "there is no input 'X1', expected x: FP32[-1, 4]",
    ),
    "twice": (
        request_of(inputs=[tensor("x", X, "FP32")] * 2),
        "input 'x' is given twice",
    ),
    "datatype": (
        request_of(inputs=[tensor("x", X, "FP64")]),
        "input 'x': expected datatype FP32, got FP64",
    ),
    "shape": (
        request_of(inputs=[tensor("x", X[:, :3], "FP32")]),
        "input 'x': expected shape [-1, 4], got [2, 3]: expected dim 1 to be 4",
    ),
    "rank": (request_of(inputs=[tensor("x", X[0], "FP32")]), "expected 2 dims"),
    "shape and data": (
        request_of(inputs=[{**tensor("x", X, "FP32"), "shape": [3, 4]}]),
        "input 'x': shape [3, 4] has 12 elements, data has 8",
    ),
    "huge shape": (
        request_of(inputs=[{**tensor("x", X, "FP32"), "shape": [1 << 61, 1 << 61]}]),
        "elements, data has 8",
    ),
    "negative shape": (
        request_of(inputs=[{**tensor("x", X, "FP32"), "shape": [-1, 4]}]),
        "shape: expected a list of whole numbers",
    ),
    "nesting": (
        request_of(inputs=[{**tensor("x", X, "FP32"), "data": [[1, 2, 3, 4], [1, 2, 3]]}]),
        "expected lists of 4 at depth 1",
    ),
    "a null": (
        request_of(inputs=[{**tensor("x", X, "FP32"), "data": [None] + [1.0] * 7}]),
        "data[0]: expected numbers for FP32, got None",
    ),
    "a text": (
        request_of(inputs=[{**tensor("x", X, "FP32"), "data": ["1"] * 8}]),
        "data[0]: expected numbers for FP32, got '1'",
    ),
    "a bool": (
        request_of(inputs=[{**tensor("x", X, "FP32"), "data": [1.0] * 7 + [True]}]),
        "data[7]: expected numbers for FP32, got True",
    ),
    "too large for float32": (
        request_of(inputs=[{**tensor("x", X, "FP32"), "data": [1e39] * 8}]),
        "data[0]: 1e+39 is out of the range of FP32",
    ),
    "too large for any": (
        b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1e400,1,1,1]}]}',
        "",
    ),
    "too large for any, beside NaN": (
        b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[NaN,1%s,1,1]}]}'
        % (b"0" * 400),
        "is out of the range of FP32",
    ),
    "no data": (
        request_of(inputs=[{"name": "x", "shape": [2, 4], "datatype": "FP32"}]),
        "input 'x': data is missing",
    ),
    "another output": (request_of(outputs=[{"name": "z"}]), "there is no output 'z', expected y"),
    "outputs": (request_of(outputs=3), "outputs: expected a list, got a number"),
    "nesting without end": (b"[" * 100_000, ""),
    "not UTF-8": (b'{"id": "\xff"}', "the body is not JSON"),
}


@pytest.mark.parametrize("name", WRONG)
def test_malformed_requests_are_told_the_field(folder: Path, name: str) -> None:
    value, message = WRONG[name]

    async def check(app: Application) -> None:
        answer = await infer(app, value)
        assert answer.status == 400, answer.body
        assert message in answer.error

    serving(folder, check, load_at_start=0)


def test_all_problems_are_told_at_once(folder: Path) -> None:
    async def check(app: Application) -> None:
        value = {"id": 3, "inputs": [tensor("a", X, "FP32"), tensor("x", X, "INT8")]}
        answer = await infer(app, value)
        for part in ("id: expected", "there is no input 'a'", "expected datatype FP32"):
            assert part in answer.error

    serving(folder, check, load_at_start=0)


def test_whole_numbers_are_not_rounded(folder: Path) -> None:
    async def check(app: Application) -> None:
        for data, status in (([1, 2], 200), ([1.0, 2.0], 400), ([2**63, 1], 400), ([True, 1], 400)):
            item = {"name": "ids", "shape": [2], "datatype": "INT64", "data": data}
            answer = await infer(app, {"inputs": [item]}, "gather")
            assert answer.status == status, answer.body
        item["data"] = [1, 2**63]
        answer = await infer(app, {"inputs": [item]}, "gather")
        assert answer.error == f"input 'ids': data[1]: {2**63} is out of the range of INT64"

    serving(folder, check, load_at_start=0)


def test_values_that_fail_in_the_model_are_the_clients(folder: Path) -> None:
    async def check(app: Application) -> None:
        item = {"name": "word", "shape": [2], "datatype": "BYTES", "data": ["1.5", "naru"]}
        answer = await infer(app, {"inputs": [item]}, "parsed")
        assert answer.status == 400
        assert "naru" in answer.error
        stats = (await ask(app, "GET", "/v2/models/parsed/stats")).json["model_stats"][0]
        assert stats["inference_stats"]["fail"]["count"] == 1

    serving(folder, check)


def test_nan_is_taken_and_never_written_as_json(folder: Path) -> None:
    body = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[NaN,1,-Infinity,2]}]'
    raw = b',"parameters":{"binary_data_output":true}}'

    async def check(app: Application) -> None:
        answer = await infer(app, body + b"}")
        assert answer.status == 400
        assert "output 'y' has NaN or infinity" in answer.error
        _, found = read_binary(await infer(app, body + raw))
        assert np.isnan(np.frombuffer(found, np.float32)).all()

    serving(folder, check, load_at_start=0)


def test_binary_framing(folder: Path) -> None:
    def framed(size: Any, tail: bytes, length: str | None = None) -> tuple[bytes, dict[str, str]]:
        item = {"name": "x", "shape": [1, 4], "datatype": "FP32"}
        item["parameters"] = {"binary_data_size": size}
        head = json.dumps({"inputs": [item]}).encode()
        return head + tail, {"inference-header-content-length": length or str(len(head))}

    async def check(app: Application) -> None:
        for (body, headers), message in (
            (framed(16, bytes(15)), "binary_data_size is 16, 15 bytes are left"),
            (framed(16, bytes(17)), "1 bytes are left behind the last tensor"),
            (framed(12, bytes(12)), "FP32[1, 4] has 16 bytes, got 12"),
            (framed("x", bytes(16)), "binary_data_size: expected a whole number"),
            (framed(16, bytes(16), "9999999"), "the body has"),
            (framed(16, bytes(16), "-1"), "expected a number of bytes, got -1"),
            (framed(16, bytes(16), "3"), "the body is not JSON"),
        ):
            answer = await infer(app, body, **headers)
            assert answer.status == 400
            assert message in answer.error

    serving(folder, check, load_at_start=0)


def test_paths_and_methods(folder: Path) -> None:
    async def check(app: Application) -> None:
        wrong = await ask(app, "GET", "/v2/models/dense/infer")
        assert (wrong.status, wrong.headers["allow"]) == (405, "POST")
        wrong = await ask(app, "POST", "/v2/health/live")
        assert (wrong.status, wrong.headers["allow"]) == (405, "GET, HEAD")
        for path in ("/v3", "/v2/models/dense/nothing", "/v2/models//infer", "/page/../x"):
            answer = await ask(app, "GET", path)
            assert answer.status == 404
            assert answer.error
        missing = await infer(app, request_of(), "dens")
        assert missing.status == 404
        assert missing.error == "there is no model 'dens'; did you mean 'dense'?"
        broken = await infer(app, request_of(), "broken")
        assert broken.status == 503
        assert "not a naru bundle" in broken.error

    serving(folder, check)


def test_unserved_parts_say_so(folder: Path) -> None:
    async def check(app: Application) -> None:
        assert (await ask(app, "GET", "/v2/systemsharedmemory/status")).json == []
        region = "/v2/systemsharedmemory/region/a"
        assert (await ask(app, "POST", f"{region}/register", b"{}")).status == 501
        # As clients that clean up ask.
        for path in (f"{region}/unregister", "/v2/cudasharedmemory/unregister"):
            answer = await ask(app, "POST", path, b"{}")
            assert (answer.status, answer.json) == (200, {})
        assert (await ask(app, "POST", "/v2/models/dense/generate", b"{}")).status == 501

    serving(folder, check)


def test_repositories_have_no_names(folder: Path) -> None:
    async def check(app: Application) -> None:
        for path in ("index", "models/dense/load", "models/dense/unload"):
            answer = await ask(app, "POST", f"/v2/repository/other/{path}", b"{}")
            assert answer.status == 501
            assert answer.error == "repository_name: expected none, got 'other'"

    serving(folder, check, load_at_start=0)


def test_control_is_off_unless_allowed(folder: Path) -> None:
    async def check(app: Application) -> None:
        for path in (
            "/v2/repository/models/dense/load", "/v2/repository/models/dense/unload",
            "/v2/logging", "/v2/trace/setting",
        ):  # fmt: skip
            answer = await ask(app, "POST", path, b"{}")
            assert answer.status == 403
            assert "--allow-model-control" in answer.error

    serving(folder, check)


def test_settings_of_traces_and_logs(folder: Path) -> None:
    async def check(app: Application) -> None:
        found = await ask(app, "POST", "/v2/trace/setting", b'{"trace_rate": "5"}')
        assert found.json["trace_rate"] == "5"
        one = await ask(app, "GET", "/v2/models/dense/trace/setting")
        assert one.json["trace_rate"] == "5"
        refused = await ask(app, "POST", "/v2/trace/setting", b'{"trace_file": "/etc/passwd"}')
        assert refused.status == 400
        refused = await ask(app, "POST", "/v2/logging", b'{"log_file": "/etc/passwd"}')
        assert refused.status == 400
        for level, status in (("0", 200), ("1.0", 200), ("0.5", 400), ("-1", 400), ("1e19", 400)):
            body = b'{"log_verbose_level": %s}' % level.encode()
            assert (await ask(app, "POST", "/v2/logging", body)).status == status
        changed = await ask(app, "POST", "/v2/logging", b'{"log_verbose_level": 0}')
        assert (changed.json["log_info"], changed.json["log_verbose_level"]) == (True, 0)
        found = await ask(app, "POST", "/v2/trace/setting", b'{"trace_rate": [7.0]}')
        assert found.json["trace_rate"] == "7"

    serving(folder, check, model_control=True)


def test_traces_are_lines_of_the_log(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def check(app: Application) -> None:
        setting = "/v2/models/dense/trace/setting"
        wish = b'{"trace_level": ["TIMESTAMPS"], "trace_rate": "2", "trace_count": "2"}'
        assert (await ask(app, "POST", setting, wish)).status == 200
        for _ in range(9):
            await infer(app, request_of())
            await infer(app, request_of(), "versions")
        found: list[Any] = [r for r in caplog.records if r.message == "trace"]
        assert [r.model for r in found] == ["dense", "dense"]
        times = list(found[0].timestamps.values())
        assert times == sorted(times)
        assert found[0].timestamps["REQUEST_START"] > 1.7e18  # of Unix time

    with caplog.at_level("INFO", "naru.serve"):
        serving(folder, check, model_control=True)


def test_cross_origin(folder: Path) -> None:
    async def check(app: Application) -> None:
        headers = {"origin": "https://a.example"}
        path = "/v2/models/dense/infer"
        assert (await ask(app, "OPTIONS", path, headers=headers)).status == 204
        answer = await infer(app, request_of(), **headers)
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        other = await ask(app, "OPTIONS", path, headers={"origin": "https://b.example"})
        assert other.status == 403
        foreign = await infer(app, request_of(), origin="https://b.example")
        assert "access-control-allow-origin" not in foreign.headers
        for answer in (foreign, await infer(app, request_of()), other):
            assert answer.headers["vary"] == "origin"

    serving(folder, check, cors=("https://a.example",))

    async def closed(app: Application) -> None:
        answer = await infer(app, request_of(), origin="https://a.example")
        assert "access-control-allow-origin" not in answer.headers

    serving(folder, closed, load_at_start=0)


# ---- what once was a fault of the server ----


@pytest.mark.parametrize(
    "body",
    [
        b'{"id":"\\ud800","inputs":[],"parameters":{"x":NaN}}',
        b'{"inputs":[{"name":"word","shape":[1],"datatype":"BYTES","data":["NaN\\ud800"]}]}',
        b"[" * 900 + b"1" + b"]" * 900,
        b'{"inputs":[{"name":"word","shape":[0,2305843009213693952],"datatype":"BYTES","data":[]}]}',
        b'{"inputs":[{"name":"word","shape":[%s1],"datatype":"BYTES","data":[""]}]}' % (b"1," * 32),
    ],
    ids=["half an id", "half a text", "deep rows", "nothing of a great size", "many dims"],
)  # fmt: skip
def test_odd_bodies_are_refused(folder: Path, body: bytes) -> None:
    async def check(app: Application) -> None:
        answer = await infer(app, body, "texts")
        assert answer.status == 400, answer.body
        assert answer.error

    serving(folder, check, load_at_start=0)


def test_rows_of_a_model_with_scalars(tmp_path: Path) -> None:
    models.total(tmp_path / "total.onnx")
    models.squared(tmp_path / "squared.onnx")
    models.rounds(tmp_path / "rounds.onnx")

    async def check(app: Application) -> None:
        answer = await infer(app, b"[[1, 2, 3, 4]]", "total")
        assert answer.json["outputs"] == {"sum": 10.0}
        for body in (b"[3]", b'[{"x": 3}]'):
            assert (await infer(app, body, "squared")).json["outputs"] == {"y": 9.0}
        for body in (b"[3, 4]", b'[{"x": 3}, {"x": 4}]'):
            error = (await infer(app, body, "squared")).error
            assert error == "input x: FP32[] is a scalar: expected 1 row, got 2"
        for body in (b"[[3]]", b'[{"x": [3]}]'):
            assert "nested" in (await infer(app, body, "squared")).error
        for x in (b"0.5", b"[0.5]"):  # a row, or the whole of x[1]
            answer = await infer(app, b'[{"x": %s, "n": 0}]' % x, "rounds")
            assert answer.json["outputs"] == {"y": [0.5]}

    serving(tmp_path, check)


MATRIX = "the input is x: FP32[-1, 4]"


UNNAMED = "the model does not say what the columns of 'x' are called: a row is a list"


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ('[{"x": [0, 1, 2, 3]}]', [[14.0, 20.0, 26.0]]),
        ('[{"x": [0, 1, 2, 3]}, {"x": [0, 0, 0, 1]}]', [[14.0, 20.0, 26.0], [3.0, 4.0, 5.0]]),
        ('[{"x": [[0, 1, 2, 3], [0, 0, 0, 1]]}]', [[14.0, 20.0, 26.0], [3.0, 4.0, 5.0]]),
        ('[{"p": 0, "q": 1, "r": 2, "s": 3}]', UNNAMED),
        ('[{"x": 0, "q": 1, "r": 2, "s": 3}]', UNNAMED),
        ('[{"x": [[[0, 1, 2, 3]]]}]', f"row 0: 'x' is nested 3 deep, {MATRIX}"),
        ('[{"x": [[0, 1, 2, 3]]}, {"x": [[0, 0, 0, 1]]}]',
         f"row 0: 'x' is nested 2 deep, {MATRIX}"),
        ('[{"x": [0, 1, 2]}]', "input 'x': expected shape [-1, 4], got [1, 3]"),
        ('[{"x": [0, 1, 2, "3"]}]', "input 'x': data[3]: expected numbers for FP32, got '3'"),
        ('[{"x": [0, 1, 2, 3]}, {"x": [0, 1, 2]}]', "input 'x': data: expected lists of 4"),
        ('[{"x": [0, 1, 2, 3]}, {"x": 5}]', "input 'x': data: lists and elements are mixed"),
        ('[{"x": 5}]', "input 'x': expected shape [-1, 4], got [1, 1]"),
        ('[{"x": 5}, {"x": [0, 1, 2, 3]}]', "row 1: 'x': expected a number, got a list"),
    ],
)  # fmt: skip
def test_rows_by_name_of_a_matrix(folder: Path, rows: str, wanted: object) -> None:
    async def check(app: Application) -> None:
        answer = await infer(app, rows.encode())
        if isinstance(wanted, str):
            assert answer.status == 400
            assert answer.error.startswith(wanted)
        else:
            assert answer.json["outputs"] == {"y": wanted}

    serving(folder, check)


def test_rows_by_name_of_several_inputs(tmp_path: Path) -> None:
    models.kinds(tmp_path / "kinds.onnx")
    models.texts(tmp_path / "texts.onnx")
    models.scaled(tmp_path / "scaled.onnx")

    async def check(app: Application) -> None:
        names = [i["name"] for i in (await ask(app, "GET", "/v2/models/kinds")).json["inputs"]]
        row = {name: name == "BOOL" for name in names} | {"FP32": None, "BF16": None, "INT8": 2.0}
        answer = await infer(app, json.dumps([row]).encode(), "kinds")
        assert "has NaN or infinity in it" in answer.error
        for name, value, message in (
            ("INT8", None, "row 0: 'INT8': expected a number, got nothing"),
            ("INT8", 2.5, "column 'INT8': expected int8, got 2.5"),
            ("INT8", 300, "column 'INT8': expected int8, got 300"),
            ("INT8", [300], "input 'INT8': data[0]: 300 is out of the range of INT8"),
        ):
            answer = await infer(app, json.dumps([row | {name: value}]).encode(), "kinds")
            assert answer.status == 400
            assert answer.error.startswith(message)
        row |= {"FP32": 1.5, "BF16": 0}
        found = (await infer(app, json.dumps([row]).encode(), "kinds")).json["outputs"]
        assert {n: v for n, (v,) in found.items() if v} == {"y_BOOL": 1, "y_FP32": 1.5, "y_INT8": 2}
        answer = await infer(app, b'[{"word": "a"}, {"word": "b"}]', "texts")
        assert answer.json["outputs"] == {"shout": ["A", "B"]}
        for word, got in ((b"5", "a number"), (b"null", "nothing"), (b"true", "a bool")):
            answer = await infer(app, b'[{"word": "a"}, {"word": %s}]' % word, "texts")
            assert answer.error == f"row 1: 'word': expected a text, got {got}"
        # A matrix beside a column, with and without a list around its one value.
        answer = await infer(app, b'[{"x": [1, 2], "by": 2}, {"x": [3, 4], "by": 3}]', "scaled")
        assert answer.json["outputs"] == {"y": [[2.0, 4.0], [9.0, 12.0]]}
        answer = await infer(app, b'[{"x": [1, 2], "by": [2]}]', "scaled")
        assert answer.json["outputs"] == {"y": [[2.0, 4.0]]}

    serving(tmp_path, check)


def test_errors_do_not_grow_with_the_request(folder: Path) -> None:
    async def check(app: Application) -> None:
        wishes = [{"name": f"y{k}"} for k in range(50_000)]
        answer = await infer(app, request_of(outputs=wishes))
        assert answer.status == 400
        assert answer.error.endswith("; and 49980 more")

    serving(folder, check, load_at_start=0)


def test_names_that_are_none(folder: Path) -> None:
    async def check(app: Application) -> None:
        for name in ("x" * 300, "\ud800", "a\0b"):
            answer = await ask(app, "POST", f"/v2/repository/models/{name}/load", b"")
            assert answer.status == 404

    serving(folder, check, model_control=True, load_at_start=0)
