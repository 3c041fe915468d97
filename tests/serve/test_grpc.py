"""The protocol over gRPC, asked by gRPC's own client: what is answered, and what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from serve import models
from serve.calls import Client, array_of, calling, request_of, texts_of

from naru.errors import InputError
from naru.serve import grpc_health, grpc_service
from naru.serve.access import Access, Token
from naru.serve.dataplane import DataPlane
from naru.serve.grpc_messages import METHODS, SERVICE, message
from naru.serve.grpc_service import GrpcServer
from naru.serve.server import Server
from naru.serve.settings import ModelSettings, ServerSettings

X = np.arange(8, dtype=np.float32).reshape(2, 4)
W = (np.arange(4)[:, None] + np.arange(3)).astype(np.float32)
DENSE = ("x", X, "FP32")


def dense(**fields: Any) -> Any:
    return request_of("dense", DENSE, **fields)


def best(classes: int) -> Any:
    return {"name": "y", "parameters": {"classification": {"int64_param": classes}}}


# ---- what is answered ----


def test_health_and_metadata(folder: Path) -> None:
    async def check(client: Client) -> None:
        assert (await client.ask("ServerLive")).live
        assert (await client.ask("ServerReady")).ready
        assert (await client.ask("ServerMetadata")).name == "naru"
        found = await client.ask("ModelMetadata", name="versions")
        assert list(found.versions) == ["9", "10"]
        assert (found.inputs[0].datatype, list(found.inputs[0].shape)) == ("FP32", [-1, 4])
        for model, version, ready in (
            ("dense", "", True), ("dense", "1", True), ("dense", "7", False),
            ("broken", "", False), ("nobody", "", False),
        ):  # fmt: skip
            answer = await client.ask("ModelReady", name=model, version=version)
            assert answer.ready is ready
        client.plane.draining = True
        assert not (await client.ask("ServerReady")).ready
        assert not (await client.ask("ModelReady", name="dense")).ready

    calling(folder, check)


def test_config_and_statistics(folder: Path) -> None:
    async def check(client: Client) -> None:
        config = (await client.ask("ModelConfig", name="dense")).config
        assert (config.name, config.max_batch_size, config.backend) == ("dense", 64, "naru")
        types = message("ModelConfig").DESCRIPTOR.file.enum_types_by_name["DataType"]
        assert config.input[0].data_type == types.values_by_name["TYPE_FP32"].number
        assert list(config.input[0].dims) == [4]
        assert config.HasField("dynamic_batching")
        await client.ask("ModelInfer", dense())
        (stats,) = (await client.ask("ModelStatistics", name="dense")).model_stats
        assert (stats.version, stats.inference_count, stats.execution_count) == ("1", 2, 1)
        assert stats.inference_stats.success.count == stats.inference_stats.queue.count == 1
        everything = (await client.ask("ModelStatistics")).model_stats
        assert {s.name for s in everything} >= {"dense", "versions"}
        refused = await client.refused("ModelStatistics", version="1")
        assert refused == ("INVALID_ARGUMENT", "version: expected a name with it")

    calling(folder, check)


def test_raw_inputs(folder: Path) -> None:
    async def check(client: Client) -> None:
        answer = await client.ask("ModelInfer", dense(id="a-7"))
        assert (answer.model_name, answer.model_version, answer.id) == ("dense", "1", "a-7")
        assert np.array_equal(array_of(answer), X @ W)
        assert not answer.outputs[0].HasField("contents")
        for version, scale in (("9", 1), ("10", 2), ("stable", 1), ("", 2)):
            request = request_of("versions", DENSE, model_version=version)
            answer = await client.ask("ModelInfer", request)
            assert np.array_equal(array_of(answer), scale * X @ W)
            assert answer.model_version == {"": "10", "stable": "9"}.get(version, version)
        nothing = await client.ask("ModelInfer", request_of("dense", ("x", X[:0], "FP32")))
        assert list(nothing.outputs[0].shape) == [0, 3]

    calling(folder, check)


def test_several_inputs_and_wished_outputs(folder: Path) -> None:
    ones = np.ones(3, np.float32)
    three = (("b", ones, "FP32"), ("c", np.arange(3), "INT64"), ("a", 2 * ones, "FP32"))

    async def check(client: Client) -> None:
        answer = await client.ask("ModelInfer", request_of("pair", *three))
        assert [o.name for o in answer.outputs] == ["total", "count"]
        assert array_of(answer).tolist() == [3, 3, 3]
        wished = request_of("pair", *three, outputs=[{"name": "count"}, {"name": "total"}])
        answer = await client.ask("ModelInfer", wished)
        assert [o.name for o in answer.outputs] == ["count", "total"]
        assert array_of(answer).tolist() == [1, 2, 3]

    calling(folder, check, load_at_start=0)


def test_texts(folder: Path) -> None:
    words = np.array(["ab", "", "größe"], object)

    async def check(client: Client) -> None:
        raw = request_of("texts", ("word", words, "BYTES"))
        typed = message("ModelInferRequest")(model_name="texts")
        typed.inputs.add(
            name="word", datatype="BYTES", shape=[3],
            contents={"bytes_contents": [w.encode() for w in words]},
        )  # fmt: skip
        for request in (raw, typed):
            answer = await client.ask("ModelInfer", request)
            assert answer.outputs[0].datatype == "BYTES"
            assert texts_of(answer) == ["AB", "", "GRÖSSE"]
        typed.inputs[0].contents.bytes_contents[1] = b"\xff"
        status, text = await client.refused("ModelInfer", typed)
        assert status == "INVALID_ARGUMENT"
        assert "input 'word': text 1 is not UTF-8" in text

    calling(folder, check, load_at_start=0)


def test_classification(folder: Path) -> None:
    async def check(client: Client) -> None:
        answer = await client.ask("ModelInfer", dense(outputs=[best(2)]))
        assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == ("BYTES", [2, 2])
        assert texts_of(answer)[:2] == ["26.000000:2", "20.000000:1"]

    calling(folder, check, load_at_start=0)


CONTENTS = {
    "BOOL": ("bool_contents", [True, False]),
    "INT8": ("int_contents", [-128, 127]),
    "INT16": ("int_contents", [-(2**15), 2**15 - 1]),
    "INT32": ("int_contents", [-(2**31), 2**31 - 1]),
    "INT64": ("int64_contents", [-(2**53), 2**53]),
    "UINT8": ("uint_contents", [0, 255]),
    "UINT16": ("uint_contents", [0, 2**16 - 1]),
    "UINT32": ("uint_contents", [0, 2**32 - 1]),
    "UINT64": ("uint64_contents", [0, 2**60]),
    "FP32": ("fp32_contents", [0.5, float("inf")]),
    "FP64": ("fp64_contents", [1e300, -0.25]),
}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.kinds(tmp_path_factory.mktemp("kinds") / "kinds.onnx")


def test_every_datatype(kinds: Path) -> None:
    """In the fields of contents where there is one; in raw bytes all of them."""

    async def check(client: Client) -> None:
        servable = await client.plane.get("kinds")
        request = message("ModelInferRequest")(model_name="kinds")
        for datatype, (field, values) in CONTENTS.items():
            request.inputs.add(
                name=datatype, datatype=datatype, shape=[2], contents={field: values}
            )
        status, text = await client.refused("ModelInfer", request)
        assert status == "INVALID_ARGUMENT"
        assert text.startswith("input 'FP16' is missing")
        for half in ("FP16", "BF16"):
            request.inputs.add(name=half, datatype=half, shape=[2])
        status, text = await client.refused("ModelInfer", request)
        assert "input 'FP16': FP16 has no field in contents" in text
        assert "input 'BF16'" in text

        for item in request.inputs:
            _, values = CONTENTS.get(item.name, ("", [0.5, -2]))
            dtype = servable.signature.input[item.name].dtype
            request.raw_input_contents.append(np.array(values).astype(dtype).tobytes())
            item.ClearField("contents")
        answer = await client.ask("ModelInfer", request)
        for k, output in enumerate(answer.outputs):
            _, values = CONTENTS.get(output.name.removeprefix("y_"), ("", [0.5, -2]))
            found = np.frombuffer(answer.raw_output_contents[k], np.float64)
            assert found.tolist() == [float(v) for v in values]

    calling(kinds, check)


def test_typed_contents(folder: Path) -> None:
    async def check(client: Client) -> None:
        request = message("ModelInferRequest")(model_name="pair")
        for name, field in (
            ("a", "fp32_contents"),
            ("b", "fp32_contents"),
            ("c", "int64_contents"),
        ):
            datatype = "INT64" if name == "c" else "FP32"
            request.inputs.add(name=name, datatype=datatype, shape=[2], contents={field: [1, 2]})
        answer = await client.ask("ModelInfer", request)
        assert array_of(answer).tolist() == [2, 4]
        assert array_of(answer, 1).tolist() == [2, 3]

    calling(folder, check, load_at_start=0)


def test_large_requests_are_decoded_aside(folder: Path) -> None:
    rows = np.arange(200_000, dtype=np.float32).reshape(-1, 4)

    async def check(client: Client) -> None:
        typed = message("ModelInferRequest")(model_name="dense")
        contents = {"fp32_contents": rows.ravel()}
        typed.inputs.add(name="x", datatype="FP32", shape=rows.shape, contents=contents)
        words = np.array(["word"] * 50_000, object)
        answer = await client.ask("ModelInfer", typed)
        assert np.allclose(array_of(answer), rows @ W)
        answer = await client.ask("ModelInfer", request_of("texts", ("word", words, "BYTES")))
        assert set(texts_of(answer)) == {"WORD"}
        typed.inputs[0].name = "z"
        assert "there is no input 'z'" in (await client.refused("ModelInfer", typed))[1]
        assert client.plane.room.held == 0

    calling(folder, check, load_at_start=0)


# ---- what is refused ----


def test_contents_that_do_not_fit(kinds: Path) -> None:
    cases: list[tuple[str, str, list[Any], str]] = [
        ("INT8", "int_contents", [1, 128], "int_contents[1]: expected -128..127 for INT8, got 128"),
        ("UINT16", "uint_contents", [65536, 1], "uint_contents[0]: expected 0..65535 for UINT16"),
        ("INT16", "int64_contents", [1, 2], "expected int_contents for INT16, got int64_contents"),
        ("FP32", "fp32_contents", [1], "shape [2] has 2 elements, contents.fp32_contents has 1"),
        ("FP64", "fp32_contents", [1, 2], "expected fp64_contents for FP64, got fp32_contents"),
    ]

    async def check(client: Client) -> None:
        for datatype, field, values, expected in cases:
            request = message("ModelInferRequest")(model_name="kinds")
            contents = {field: values}
            request.inputs.add(name=datatype, datatype=datatype, shape=[2], contents=contents)
            status, text = await client.refused("ModelInfer", request)
            assert status == "INVALID_ARGUMENT"
            assert text.startswith(f"input '{datatype}': ")
            assert expected in text
        assert client.plane.room.held == 0

    calling(kinds, check)


def _changed(request: Any, **fields: Any) -> Any:
    for name, value in fields.items():
        setattr(request.inputs[0], name, value)
    return request


def _shaped(*shape: int) -> Any:
    request = dense()
    request.inputs[0].ClearField("shape")
    request.inputs[0].shape.extend(shape)
    return request


def _with(request: Any, **fields: Any) -> Any:
    request.MergeFrom(type(request)(**fields))
    return request


def _both() -> Any:
    request = dense()
    request.inputs[0].contents.fp32_contents.extend(X.ravel())
    return request


def _in_shared_memory() -> Any:
    request = dense()
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"
    return request


MALFORMED = {
    "unknown input": (lambda: _changed(dense(), name="z"), "there is no input 'z', expected x"),
    "datatype": (lambda: _changed(dense(), datatype="FP64"), "expected datatype FP32, got FP64"),
    "rank": (lambda: _shaped(8), "expected shape [-1, 4], got [8]: expected 2 dims"),
    "size": (lambda: _shaped(4, 2), "expected shape [-1, 4], got [4, 2]"),
    "negative": (lambda: _shaped(-1, 4), "shape: expected a list of whole numbers, got [-1, 4]"),
    "too large": (lambda: _shaped(2**61, 4), "has 36893488147419103232 bytes, got 32"),
    "bytes": (lambda: _shaped(3, 4), "FP32[3, 4] has 48 bytes, got 32"),
    "no input": (lambda: request_of("dense"), "input 'x' is missing"),
    "twice": (lambda: request_of("dense", DENSE, DENSE), "input 'x' is given twice"),
    "both": (_both, "input 'x': has contents, though the request has raw_input_contents"),
    "more raw": (
        lambda: _with(dense(), raw_input_contents=[b""]),
        "raw_input_contents: expected 1, one for each input, got 2",
    ),
    "shared": (_in_shared_memory, "input 'x': shared memory is not supported"),
    "output": (lambda: dense(outputs=[{"name": "z"}]), "there is no output 'z'"),
    "output twice": (lambda: dense(outputs=[{"name": "y"}] * 2), "output 'y' is asked for twice"),
    "classes": (
        lambda: dense(outputs=[best(-1)]),
        "output 'y': parameters.classification: expected a whole number, got -1",
    ),
    "priority": (
        lambda: dense(parameters={"priority": {"double_param": 0.5}}),
        "parameters.priority: expected a whole number, got 0.5",
    ),
    "no value": (lambda: dense(parameters={"timeout": {}}), "parameters.timeout: expected a value"),
    "sequence": (
        lambda: dense(parameters={"sequence_id": {"int64_param": 3}}),
        "parameters.sequence_id: naru's models keep no state",
    ),
}  # fmt: skip


def test_malformed_requests_are_told_the_field(folder: Path) -> None:
    async def check(client: Client) -> None:
        for name, (make, expected) in MALFORMED.items():
            status, text = await client.refused("ModelInfer", make())
            assert (name, status) == (name, "INVALID_ARGUMENT")
            assert expected in text
        stats = (await client.ask("ModelStatistics", name="dense")).model_stats[0]
        assert stats.inference_stats.fail.count == len(MALFORMED)
        assert client.plane.room.held == 0

    calling(folder, check, load_at_start=0)


def test_all_problems_are_told_at_once(folder: Path) -> None:
    async def check(client: Client) -> None:
        request = request_of(
            "pair", ("a", np.ones(2, np.float32), "FP64"), ("z", np.ones(2), "FP32"),
            outputs=[{"name": "sum"}], parameters={"timeout": {"string_param": "soon"}},
        )  # fmt: skip
        request.inputs.add(name="c", datatype="INT64", shape=[2])
        _, text = await client.refused("ModelInfer", request)
        for part in (
            "input 'a': expected datatype FP32, got FP64", "there is no input 'z'",
            "there is no output 'sum'", "parameters.timeout: expected a whole number, got 'soon'",
            "input 'c': raw_input_contents ends before it, after 2",
        ):  # fmt: skip
            assert part in text

    calling(folder, check, load_at_start=0)


def test_statuses(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def check(client: Client) -> None:
        assert await client.refused("ModelInfer", request_of("dens")) == (
            "NOT_FOUND", "there is no model 'dens'; did you mean 'dense'?",
        )  # fmt: skip
        assert (await client.refused("ModelConfig", name="dense", version="3"))[0] == "NOT_FOUND"
        assert (await client.refused("ModelInfer", request_of("broken")))[0] == "UNAVAILABLE"
        status, text = await client.refused("ModelInfer", b"\xff\xff")
        assert (status, text) == (
            "INVALID_ARGUMENT",
            "expected a message inference.ModelInferRequest, the bytes are none",
        )
        long = await client.refused("ModelInfer", request_of("nobody" * 10_000))
        assert long[0] == "NOT_FOUND"
        assert len(long[1]) < 3000
        with pytest.raises(grpc.aio.AioRpcError) as found:
            await client.channel.unary_unary(f"/{SERVICE}/ModelTrain")(b"")
        assert found.value.code() is grpc.StatusCode.UNIMPLEMENTED

        client.plane.model_config = None  # type: ignore[assignment]
        status, text = await client.refused("ModelConfig", name="dense")
        assert (status, text) == ("INTERNAL", "the server failed to answer; its log says why")
        assert "'NoneType' object is not callable" in caplog.text

    calling(folder, check, load_at_start=0)


def test_limits(folder: Path) -> None:
    async def check(client: Client) -> None:
        large = request_of("dense", ("x", np.zeros((1000, 4), np.float32), "FP32"))
        for how in ({}, {"compression": grpc.Compression.Gzip}):
            status, _ = await client.refused("ModelInfer", large, how=how)
            assert status == "RESOURCE_EXHAUSTED"
        many = request_of("dense", *[DENSE] * 5)
        assert "expected at most 4, got 5" in (await client.refused("ModelInfer", many))[1]
        with pytest.raises(grpc.aio.AioRpcError) as found:
            await client.ask("ModelInfer", _with(dense(), id="x" * 700))
        assert found.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "the server holds 0 bytes" in str(found.value.details())
        assert ("grpc-retry-pushback-ms", "1000") in list(found.value.trailing_metadata())

    calling(folder, check, max_body=2000, max_held=500, max_inputs=4, load_at_start=0)


class Gate:
    """Stands before the runs of a model."""

    def __init__(self, client: Client, model: str) -> None:
        servable = client.plane.find(model, None)
        assert servable is not None
        self.servable, self._run = servable, servable.queue.call
        self._opened, self.reached = threading.Event(), threading.Event()
        servable.queue.call = self._wait
        servable.queue.ns_per_element = 1e9  # too slow to be run at once, by the loop's thread

    def _wait(self, arrays: Any) -> Any:
        self.reached.set()
        assert self._opened.wait(60)
        return self._run(arrays)

    async def until_reached(self) -> None:
        while not self.reached.is_set():
            await asyncio.sleep(0.001)

    def open(self) -> None:
        self._opened.set()


def test_queues_that_are_full_and_time_that_is_over(folder: Path) -> None:
    async def check(client: Client) -> None:
        gate = Gate(client, "dense")
        first = asyncio.create_task(client.ask("ModelInfer", dense()))
        await gate.until_reached()
        short = dense(parameters={"timeout": {"int64_param": 1000}})
        status, text = await client.refused("ModelInfer", short)
        assert status == "DEADLINE_EXCEEDED"
        assert "the request's time was over after" in text
        second = asyncio.create_task(client.ask("ModelInfer", dense()))
        while not len(gate.servable.queue):
            await asyncio.sleep(0.001)
        status, text = await client.refused("ModelInfer", dense())
        assert status == "RESOURCE_EXHAUSTED"
        assert text == "1 requests wait for this model already"
        gate.open()
        for task in (first, second):
            assert np.array_equal(array_of(await task), X @ W)
        assert client.plane.room.held == 0

    calling(folder, check, workers=1, model=ModelSettings(max_queue=1))


@pytest.mark.parametrize("ending", ["deadline", "cancelled"])
def test_calls_that_nobody_waits_for_leave_the_queue(folder: Path, ending: str) -> None:
    async def check(client: Client) -> None:
        gate = Gate(client, "dense")
        first = asyncio.create_task(client.ask("ModelInfer", dense()))
        await gate.until_reached()
        how = {"timeout": 0.05} if ending == "deadline" else {}
        second = asyncio.create_task(client.ask("ModelInfer", dense(), how=how))
        queue = gate.servable.queue
        while not len(queue):
            await asyncio.sleep(0.001)
        if ending == "deadline":
            with pytest.raises(grpc.aio.AioRpcError) as found:
                await second
            assert found.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        else:
            second.cancel()
        while len(queue):
            await asyncio.sleep(0.001)
        gate.open()
        await first
        assert set(gate.servable.statistics.refused) <= {"cancelled", "deadline exceeded"}
        assert client.plane.room.held == 0

    calling(folder, check, workers=1)


# ---- streams ----


def test_streams_answer_in_order_and_go_on_after_errors(folder: Path) -> None:
    requests = [
        dense(id="a"),
        request_of("nobody", id="b"),
        request_of("versions", DENSE, id="c"),
        b"\xff",
        _changed(dense(id="e"), datatype="FP64"),
        dense(id="f"),
    ]

    async def check(client: Client) -> None:
        found = [a async for a in client.stream(requests)]
        assert [a.infer_response.id for a in found] == ["a", "b", "c", "", "e", "f"]
        assert [a.error_message for a in found] == [
            "", "there is no model 'nobody'", "",
            "expected a message inference.ModelInferRequest, the bytes are none",
            "input 'x': expected datatype FP32, got FP64", "",
        ]  # fmt: skip
        assert np.array_equal(array_of(found[2].infer_response), 2 * X @ W)
        assert found[5].infer_response.parameters["triton_final_response"].bool_param
        assert client.plane.room.held == 0

    calling(folder, check, load_at_start=0)


def test_requests_of_a_stream_are_run_together(folder: Path) -> None:
    async def check(client: Client) -> None:
        gate = Gate(client, "dense")
        call = client.stream([dense(id=str(k)) for k in range(200)])
        await gate.until_reached()
        while len(gate.servable.queue) < 20:
            await asyncio.sleep(0.001)
        gate.open()
        found = [a async for a in call]
        assert [a.infer_response.id for a in found] == [str(k) for k in range(200)]
        assert not any(a.error_message for a in found)
        assert gate.servable.statistics.runs < 200

    calling(folder, check, workers=1)


async def _endless(asked: asyncio.Event) -> AsyncIterator[Any]:
    yield dense(id="a")
    yield dense(id="b")
    asked.set()
    await asyncio.Event().wait()


def test_streams_end_with_the_server(folder: Path) -> None:
    """What was asked is answered, then the stream is over, though the client would go on."""

    async def check(client: Client) -> None:
        gate = Gate(client, "dense")
        call = client.stream(_endless(asyncio.Event()))
        await gate.until_reached()
        while gate.servable.queue.running + len(gate.servable.queue) < 2:
            await asyncio.sleep(0.001)
        stopping = asyncio.create_task(client.server.stop(60))
        await asyncio.sleep(0)
        gate.open()
        found = [await call.read(), await call.read()]
        assert [a.infer_response.id for a in found] == ["a", "b"]
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call.read()
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        await stopping

    calling(folder, check, workers=1)


def test_streams_that_are_cancelled_leave_nothing(folder: Path) -> None:
    async def check(client: Client) -> None:
        gate = Gate(client, "dense")
        asked = asyncio.Event()
        call = client.stream(_endless(asked))
        await gate.until_reached()
        await asked.wait()
        call.cancel()
        gate.open()
        while client.plane.room.held:
            await asyncio.sleep(0.001)
        assert await client.ask("ModelInfer", dense())

    calling(folder, check, workers=1)


def test_calls_that_come_too_late_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_service, "_QUIET", 60)
    monkeypatch.setattr(grpc_service, "_LINGER", 60)

    async def check(client: Client) -> None:
        client.plane.stopped = True
        stopping = asyncio.create_task(client.server.stop(60))
        refused = await client.refused("ModelInfer", dense())
        assert refused == ("UNAVAILABLE", "the server is stopping")
        stopping.cancel()

    calling(folder, check, load_at_start=0)


# ---- health, reflection ----


def test_health_service(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_health, "_LOOK", 0.01)
    response: Any = health_pb2.HealthCheckResponse

    async def check(client: Client) -> None:
        async def status(name: str) -> Any:
            call = client.channel.unary_unary("/grpc.health.v1.Health/Check")
            request = health_pb2.HealthCheckRequest(service=name)
            return response.FromString(await call(request.SerializeToString())).status

        for name in ("", SERVICE, "dense"):
            assert await status(name) == response.SERVING
        assert await status("broken") == response.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as found:
            await status("nobody")
        assert found.value.code() is grpc.StatusCode.NOT_FOUND
        watch = client.channel.unary_stream("/grpc.health.v1.Health/Watch")
        model = watch(health_pb2.HealthCheckRequest(service="dense").SerializeToString())
        server = watch(b"")
        for call in (model, server):
            assert response.FromString(await call.read()).status == response.SERVING
        await client.plane.repository.unload("dense")
        assert response.FromString(await model.read()).status == response.NOT_SERVING
        client.plane.draining = True
        client.server.drain()
        assert response.FromString(await server.read()).status == response.NOT_SERVING
        stopping = asyncio.create_task(client.server.stop(60))
        for call in (model, server):
            assert not await call.read()  # the end
        await stopping

    calling(folder, check)


def test_reflection(folder: Path) -> None:
    asked: Any = reflection_pb2.ServerReflectionRequest
    told: Any = reflection_pb2.ServerReflectionResponse

    async def check(client: Client) -> None:
        call = client.channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=asked.SerializeToString,
            response_deserializer=told.FromString,
        )
        symbols = (SERVICE, grpc_health.NAME)
        requests = [asked(list_services=""), *(asked(file_containing_symbol=s) for s in symbols)]
        listed, *files = [answer async for answer in call(requests)]
        names = {s.name for s in listed.list_services_response.service}
        assert names >= {SERVICE, grpc_health.NAME}
        pool = descriptor_pool.DescriptorPool()
        for file in files:
            for text in file.file_descriptor_response.file_descriptor_proto:
                pool.Add(descriptor_pb2.FileDescriptorProto.FromString(text))
        assert list(pool.FindServiceByName(SERVICE).methods_by_name) == list(METHODS)

    calling(folder, check, load_at_start=0)


def test_messages_are_private() -> None:
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")


# ---- doors ----


def test_tokens(folder: Path) -> None:
    def entry(secret: str, *models: str, rights: tuple[str, ...] = ("infer",)) -> Any:
        return hashlib.sha256(secret.encode()).digest(), Token(secret, models, rights)

    access = Access(dict([entry("one", "dense"), entry("chief", "*", rights=("infer", "control"))]))

    def bearer(secret: str) -> dict[str, Any]:
        return {"metadata": (("authorization", f"Bearer {secret}"),)}

    async def check(client: Client) -> None:
        assert (await client.ask("ServerReady")).ready
        for how in ({}, bearer("nobody")):
            assert (await client.refused("ModelInfer", dense(), how=how))[0] == "UNAUTHENTICATED"
            with pytest.raises(grpc.aio.AioRpcError) as found:
                await client.stream([dense()], **how).read()
            assert found.value.code() is grpc.StatusCode.UNAUTHENTICATED
        one, chief = bearer("one"), bearer("chief")
        assert await client.ask("ModelInfer", dense(), how=one)
        other = request_of("versions", DENSE)
        status, text = await client.refused("ModelInfer", other, how=one)
        assert status == "PERMISSION_DENIED"
        assert text == "the token 'one' is not for the model 'versions'"
        found = [a async for a in client.stream([other, dense()], **one)]
        assert [bool(a.error_message) for a in found] == [True, False]
        index = await client.ask("RepositoryIndex", how=one)
        assert [m.name for m in index.models] == ["dense"]
        assert (await client.refused("LogSettings", how=one))[0] == "PERMISSION_DENIED"
        assert (await client.ask("LogSettings", how=chief)).settings["log_info"].bool_param
        health = client.channel.unary_unary("/grpc.health.v1.Health/Check")
        assert await health(b"")
        with pytest.raises(grpc.aio.AioRpcError):
            await health(health_pb2.HealthCheckRequest(service="dense").SerializeToString())

    calling(folder, check, access=access)


def test_control(folder: Path) -> None:
    async def closed(client: Client) -> None:
        for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
            status, text = await client.refused(method, model_name="dense")
            assert status == "PERMISSION_DENIED"
            assert "--allow-model-control" in text
        for method in ("TraceSetting", "LogSettings"):
            assert (await client.ask(method)).settings
            changed = await client.refused(method, settings={"log_info": {}})
            assert changed[0] == "PERMISSION_DENIED"

    async def opened(client: Client) -> None:
        await client.ask("RepositoryModelUnload", model_name="dense")
        index = {m.name: m for m in (await client.ask("RepositoryIndex")).models}
        assert (index["dense"].state, index["dense"].reason) == ("UNAVAILABLE", "unloaded")
        ready = (await client.ask("RepositoryIndex", ready=True)).models
        assert "dense" not in {m.name for m in ready}
        assert (await client.refused("ModelInfer", dense()))[0] == "UNAVAILABLE"
        await client.ask("RepositoryModelLoad", model_name="dense")
        assert await client.ask("ModelInfer", dense())
        assert (await client.refused("RepositoryModelLoad", model_name="dens"))[0] == "NOT_FOUND"
        for name, value in (("config", {"string_param": "{}"}), ("file:1/a", {"bytes_param": b""})):
            status, text = await client.refused(
                "RepositoryModelLoad", model_name="dense", parameters={name: value}
            )
            assert status == "UNIMPLEMENTED"
            assert text.startswith(name)
        other = await client.refused("RepositoryIndex", repository_name="other")
        assert other == ("UNIMPLEMENTED", "repository_name: expected none, got 'other'")

    calling(folder, closed)
    calling(folder, opened, model_control=True)


def test_settings_of_traces_and_logs(folder: Path) -> None:
    async def check(client: Client) -> None:
        rate = {"trace_rate": {"value": ["5"]}}
        found = (await client.ask("TraceSetting", settings=rate, model_name="dense")).settings
        assert list(found["trace_rate"].value) == ["5"]
        assert list((await client.ask("TraceSetting")).settings["trace_rate"].value) == ["1000"]
        cleared = {"trace_rate": {}}
        found = (await client.ask("TraceSetting", settings=cleared, model_name="dense")).settings
        assert list(found["trace_rate"].value) == ["1000"]
        assert (await client.refused("TraceSetting", model_name="nobody"))[0] == "NOT_FOUND"
        verbose = {"log_verbose_level": {"uint32_param": 0}, "log_info": {"bool_param": True}}
        found = (await client.ask("LogSettings", settings=verbose)).settings
        assert found["log_verbose_level"].uint32_param == 0
        for settings in ({"log_file": {"string_param": "/etc/passwd"}}, {"log_info": {}}):
            refused = await client.refused("LogSettings", settings=settings)
            assert refused[0] == "INVALID_ARGUMENT"

    calling(folder, check, model_control=True)


def test_shared_memory_is_refused(folder: Path) -> None:
    async def check(client: Client) -> None:
        for kind in ("System", "Cuda"):
            status = await client.ask(f"{kind}SharedMemoryStatus")
            assert not status.regions
            missing = await client.refused(f"{kind}SharedMemoryStatus", name="a")
            assert missing == ("NOT_FOUND", "there is no region 'a' of shared memory")
            for verb in ("Register", "Unregister"):
                refused = await client.refused(f"{kind}SharedMemory{verb}", name="a")
                assert refused[0] == "UNIMPLEMENTED"

    calling(folder, check, load_at_start=0)


def test_the_service_has_every_method(folder: Path) -> None:
    server = GrpcServer(DataPlane(ServerSettings(root=folder)), Access())
    assert set(server._handlers()) == set(METHODS)


class Counted:
    """Passes connections on, and counts the bytes that come back."""

    def __init__(self, port: int) -> None:
        self._port, self.back = port, 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", self._port)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pass(reader, forth, count=False))
            group.create_task(self._pass(back, writer, count=True))

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, count: bool
    ) -> None:
        while data := await reader.read(1 << 16):
            self.back += len(data) if count else 0
            writer.write(data)
        writer.close()


def test_answers_are_compressed_where_the_client_wants_it(folder: Path) -> None:
    zeros = request_of("dense", ("x", np.zeros((5000, 4), np.float32), "FP32"))

    async def check(client: Client) -> None:
        sizes: dict[str, int] = {}
        counted = Counted(client.server.port)
        proxy = await asyncio.start_server(counted, "127.0.0.1", 0)
        async with proxy:
            port = proxy.sockets[0].getsockname()[1]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                other = Client(channel, client.plane, client.server)
                for name in ("identity", "gzip"):
                    before = counted.back
                    how = {
                        "metadata": (("accept-encoding", name),),
                        "compression": grpc.Compression.Gzip,
                    }
                    answer = await other.ask("ModelInfer", zeros, how=how)
                    assert list(answer.outputs[0].shape) == [5000, 3]
                    sizes[name] = counted.back - before
                    streamed = await other.stream([zeros], **how).read()
                    assert streamed.infer_response.outputs == answer.outputs
        assert sizes["identity"] > 60_000 > 2000 > sizes["gzip"]

    calling(folder, check, load_at_start=0)


# ---- ports, and the whole server ----


def test_ports_that_are_taken(folder: Path) -> None:
    async def check(client: Client) -> None:
        settings = ServerSettings(root=folder, grpc_port=client.server.port)
        with pytest.raises(InputError, match="Address already in use"):
            await GrpcServer(DataPlane(settings), Access()).start()

    calling(folder, check, load_at_start=0)


def test_certificates_that_are_none(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text("no certificate")
    pem = tmp_path / "a.pem"
    settings = ServerSettings(root=folder, port=0, grpc_port=0, certificate=pem, key=pem)
    with pytest.raises(InputError, match="cannot be used together"):
        Server(settings).bind()
    with pytest.raises(InputError, match="cannot be used together"):
        asyncio.run(GrpcServer(DataPlane(settings), Access()).start())


def test_server_of_both_protocols(folder: Path) -> None:
    """From the start to the end, with a call in flight."""

    async def run() -> None:
        server = Server(ServerSettings(root=folder, port=0, grpc_port=0, workers=1))
        ready = asyncio.Event()
        running = asyncio.create_task(server.run(ready.set))
        await ready.wait()
        assert server._grpc is not None
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            client = Client(channel, server.plane, server._grpc)
            gate = Gate(client, "dense")
            call = asyncio.create_task(client.ask("ModelInfer", dense()))
            await gate.until_reached()
            server.stop()
            while not server.plane.stopped:
                await asyncio.sleep(0.001)
            gate.open()
            assert np.array_equal(array_of(await call), X @ W)
            await running
            status, _ = await client.refused("ServerLive")
            assert status == "UNAVAILABLE"

    asyncio.run(run())
