"""The protocol over gRPC, asked by gRPC's own client: what is answered, and what is refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from serve import models
from serve.asgi import noted
from serve.calls import DENSE, Client, W, X, array_of, calling, dense, request_of, texts_of

from naru.serve import grpc_infer
from naru.serve.grpc_messages import SERVICE, message


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


def test_large_requests_are_decoded_aside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(200_000, dtype=np.float32).reshape(-1, 4)

    async def check(client: Client) -> None:
        typed = message("ModelInferRequest")(model_name="dense")
        contents = {"fp32_contents": rows.ravel()}
        typed.inputs.add(name="x", datatype="FP32", shape=rows.shape, contents=contents)
        words = np.array(["word"] * 50_000, object)
        by_loop: list[str] = []
        for name in ("parse", "decode", "encode"):
            monkeypatch.setattr(grpc_infer, name, noted(getattr(grpc_infer, name), by_loop))
        answer = await client.ask("ModelInfer", typed)
        assert by_loop == []
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


def test_damaged_messages_are_the_clients(folder: Path) -> None:
    """Whatever the bytes are: the server never says that the fault is its own."""
    rng = random.Random(7)
    whole = dense(id="a", outputs=[best(2)], parameters={"priority": {"int64_param": 1}})
    samples = {
        "ModelInfer": whole.SerializeToString(),
        "TraceSetting": b"\n\x0f\n\ntrace_rate\x12\x01\n\x12\x05dense",
        "RepositoryModelLoad": b"\x12\x05dense\x1a\x05\n\x01a\x12\x00",
    }

    def damaged(data: bytes) -> bytes:
        found = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(found))
            found[at : at + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
        return bytes(found)

    async def status(client: Client, method: str, data: bytes) -> str:
        try:
            await client.ask(method, data)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    async def check(client: Client) -> None:
        found = {
            await status(client, method, damaged(sample))
            for method, sample in samples.items()
            for _ in range(100)
        }
        assert "INVALID_ARGUMENT" in found
        assert found <= {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"}
        assert client.plane.room.held == 0

    calling(folder, check, load_at_start=0, model_control=True)


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
        words = ("word", np.array(["1", "one"], object), "BYTES")
        assert (await client.refused("ModelInfer", request_of("parsed", words)))[0] == status
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
        client.plane.room.limit = 500
        many = request_of("dense", *[DENSE] * 5)
        assert "expected at most 4, got 5" in (await client.refused("ModelInfer", many))[1]
        # There is room before the message is looked at, and so before its model is loaded.
        with pytest.raises(grpc.aio.AioRpcError) as found:
            await client.ask("ModelInfer", b"\xff" * 700)
        assert found.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "the server holds 0 bytes" in str(found.value.details())
        assert ("grpc-retry-pushback-ms", "1000") in list(found.value.trailing_metadata())

    calling(folder, check, max_body=2000, max_inputs=4, load_at_start=0)
