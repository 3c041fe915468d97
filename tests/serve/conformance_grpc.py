"""What Triton's own client can ask over gRPC, a row for each; and what naru answers in its own
way."""

from __future__ import annotations

import asyncio
import importlib
import queue
import time
from typing import Any

from serve.conformance import (
    SHOUT,
    WORDS,
    Session,
    Table,
    X,
    expect,
    expect_y,
    refusal,
    wrong,
)

GRPC = Table("tritonclient.grpc")
row = GRPC.row


# ---- the server and its models ----


@row("live and ready")
def _live(s: Session) -> None:
    expect((s.client.is_server_live(), s.client.is_server_ready()), (True, True))


@row("health, as gRPC has it")
def _health(s: Session) -> None:
    expect(_check_health(s, b""), b"\x08\x01")


def _check_health(s: Session, name: bytes) -> bytes:
    """The answer for a service; field 1 is 1: SERVING."""
    check = s.client._channel.unary_unary("/grpc.health.v1.Health/Check")
    return check(b"\x0a" + bytes([len(name)]) + name if name else b"")


@row("server metadata")
def _metadata(s: Session) -> None:
    found = s.client.get_server_metadata(as_json=True)
    expect({"name", "version", "extensions"} - set(found), set())


@row("model ready")
def _model_ready(s: Session) -> None:
    expect(s.client.is_model_ready("dense"), True)
    expect(s.client.is_model_ready("dense", "7"), False)
    expect(s.client.is_model_ready("no-such-model"), False)


@row("model metadata")
def _model_metadata(s: Session) -> None:
    found = s.client.get_model_metadata("dense", as_json=True)
    expect((found["name"], found["versions"]), ("dense", ["1"]))
    expect(found["inputs"], [{"name": "x", "datatype": "FP32", "shape": ["-1", "4"]}])
    expect(found["outputs"], [{"name": "y", "datatype": "FP32", "shape": ["-1", "3"]}])


# ---- inference ----


@row("infer")
def _infer(s: Session) -> None:
    expect_y(s.client.infer("dense", s.x(), outputs=s.y()))


@row("no outputs named")
def _all_outputs(s: Session) -> None:
    expect_y(s.client.infer("dense", s.x()))


@row("texts")
def _texts(s: Session) -> None:
    got = s.client.infer("texts", [s.input("word", WORDS, "BYTES")]).as_numpy("shout")
    expect([t.decode() for t in got.tolist()], SHOUT)


@row("several inputs, one output of two")
def _several(s: Session) -> None:
    result = s.client.infer("pair", s.pair(), outputs=[s.output("count")])
    expect(result.as_numpy("count").tolist(), [4, 5])
    expect(result.as_numpy("total"), None)


@row("request id comes back")
def _identity(s: Session) -> None:
    response = s.client.infer("dense", s.x(), request_id="a-7").get_response()
    expect((response.id, response.model_name), ("a-7", "dense"))


def _compressed(s: Session, coding: str) -> None:
    headers = {"accept-encoding": coding}
    expect_y(s.client.infer("dense", s.x(), compression_algorithm=coding, headers=headers))


@row("gzip")
def _gzip(s: Session) -> None:
    _compressed(s, "gzip")


@row("deflate")
def _deflate(s: Session) -> None:
    _compressed(s, "deflate")


@row("version named")
def _version(s: Session) -> None:
    result = s.client.infer("dense", s.x(), model_version="1")
    expect_y(result)
    expect(result.get_response().model_version, "1")


@row("priority and timeout")
def _priority(s: Session) -> None:
    expect_y(s.client.infer("dense", s.x(), priority=2, timeout=5_000_000))


@row("deadline of a call")
def _deadline(s: Session) -> None:
    expect_y(s.client.infer("dense", s.x(), client_timeout=60))


@row("parameters of one's own")
def _parameters(s: Session) -> None:
    own = {"a": "text", "b": 3, "c": True}
    expect_y(s.client.infer("dense", s.x(), parameters=own))


@row("headers of one's own")
def _headers(s: Session) -> None:
    expect_y(s.client.infer("dense", s.x(), headers={"x-own": "1"}))


@row("classification")
def _classification(s: Session) -> None:
    got = s.client.infer("dense", s.x(), outputs=s.y(class_count=2)).as_numpy("y").tolist()
    expect(got, [[b"26.000000:2", b"20.000000:1"], [b"82.000000:2", b"60.000000:1"]])


@row("many requests at once")
def _many(s: Session) -> None:
    found: queue.Queue[Any] = queue.Queue()
    for _ in range(32):
        s.client.async_infer("dense", s.x(), lambda result, error: found.put(error or result))
    for _ in range(32):
        expect_y(found.get(timeout=60))


@row("the client for asyncio")
def _asyncio(s: Session) -> None:
    module: Any = importlib.import_module(f"{s.module.__name__}.aio")

    async def ask() -> Any:
        async with module.InferenceServerClient(s.address) as client:
            return await client.infer("dense", s.x())

    expect_y(asyncio.run(ask()))


@row("stream: a hundred requests, one of them wrong")
def _stream(s: Session) -> None:
    for k, (result, error) in enumerate(_streamed(s, 100, wrong=50)):
        if k == 50:
            expect((result, type(error).__name__), (None, "InferenceServerException"))
            continue
        expect(error, None)
        expect_y(result)
        response = result.get_response()
        expect(response.id, str(k))
        expect(response.parameters["triton_final_response"].bool_param, True)


def _streamed(s: Session, count: int, wrong: int) -> list[tuple[Any, Any]]:
    """The answers to a stream of requests, one of which is for a model that is not there."""
    found: queue.Queue[Any] = queue.Queue()
    s.client.start_stream(lambda result, error: found.put((result, error)))
    try:
        for k in range(count):
            model = "dens" if k == wrong else "dense"
            s.client.async_stream_infer(
                model, s.x(), request_id=str(k), enable_empty_final_response=True
            )
        return [found.get(timeout=60) for _ in range(count)]
    finally:
        s.client.stop_stream()


@row("errors of a client are told as such")
def _errors(s: Session) -> None:
    for ask in wrong(s):
        expect(refusal(ask)[0] in ("NOT_FOUND", "INVALID_ARGUMENT"), True)


# ---- extensions ----


@row("model configuration")
def _config(s: Session) -> None:
    types: Any = importlib.import_module("tritonclient.grpc.model_config_pb2")
    found = s.client.get_model_config("dense").config
    expect((found.name, found.max_batch_size), ("dense", 64))
    tensor = found.input[0]
    expect((tensor.name, tensor.data_type, list(tensor.dims)), ("x", types.TYPE_FP32, [4]))
    expect(found.instance_group[0].kind, types.ModelInstanceGroup.KIND_CPU)


@row("statistics")
def _statistics(s: Session) -> None:
    def count() -> int:
        (found,) = s.client.get_inference_statistics("dense").model_stats
        parts = found.inference_stats
        counted = {parts.success.count, parts.queue.count, parts.compute_infer.count}
        expect(len(counted), 1)
        return counted.pop()

    before = count()
    s.client.infer("dense", s.x())
    until = time.monotonic() + 10
    while count() == before and time.monotonic() < until:
        time.sleep(0.02)  # Triton may count after it has answered
    expect(count(), before + 1)
    every = s.client.get_inference_statistics().model_stats
    expect({"dense", "pair"} - {m.name for m in every}, set())


@row("trace settings")
def _trace(s: Session) -> None:
    def rate(settings: Any) -> list[str]:
        return list(settings.settings["trace_rate"].value)

    expect(rate(s.client.update_trace_settings("dense", {"trace_rate": "7"})), ["7"])
    expect(rate(s.client.get_trace_settings()), ["1000"])
    s.client.update_trace_settings("dense", {"trace_rate": None})
    expect(rate(s.client.get_trace_settings("dense")), ["1000"])


@row("log settings")
def _logging(s: Session) -> None:
    found = s.client.update_log_settings({"log_verbose_level": 1})
    expect(found.settings["log_verbose_level"].uint32_param, 1)
    s.client.update_log_settings({"log_verbose_level": 0})
    expect(s.client.get_log_settings().settings["log_info"].bool_param, True)


@row("status of shared memory")
def _shared_memory(s: Session) -> None:
    expect(len(s.client.get_system_shared_memory_status().regions), 0)
    expect(len(s.client.get_cuda_shared_memory_status().regions), 0)
    s.client.unregister_system_shared_memory()
    s.client.unregister_cuda_shared_memory("region")


def _states(s: Session) -> dict[str, str]:
    return {m.name: m.state for m in s.client.get_model_repository_index().models}


@row("repository: index")
def _index(s: Session) -> None:
    expect(_states(s)["dense"], "READY")


@row("repository: load")
def _load(s: Session) -> None:
    s.client.load_model("dense")
    expect(s.client.is_model_ready("dense"), True)


@row("repository: unload, load again")
def _unload(s: Session) -> None:
    s.client.unload_model("pair", unload_dependents=True)
    expect(s.client.is_model_ready("pair"), False)
    expect(_states(s)["pair"] in ("UNAVAILABLE", "UNLOADING"), True)
    s.client.load_model("pair")
    expect((_states(s)["pair"], s.client.is_model_ready("pair")), ("READY", True))


# ---- what naru answers in its own way ----

OWN = Table("tritonclient.grpc")
own = OWN.row


@own("metadata")
def _own_metadata(s: Session) -> None:
    expect(s.client.get_server_metadata().name, "naru")


@own("health of the service and of a model")
def _own_health(s: Session) -> None:
    for name in (b"inference.GRPCInferenceService", b"dense"):
        expect(_check_health(s, name), b"\x08\x01")


@own("configuration")
def _own_config(s: Session) -> None:
    found = s.client.get_model_config("dense").config
    expect((found.backend, list(found.output[0].dims)), ("naru", [3]))
    expect(found.WhichOneof("scheduling_choice"), "dynamic_batching")
    expect(found.version_policy.WhichOneof("policy_choice"), "all")
    expect(len(found.parameters["source_sha256"].string_value), 64)


@own("refusals")
def _own_refusals(s: Session) -> None:
    unknown = "there is no model 'dens'; did you mean 'dense'?"
    expect(refusal(lambda: s.client.infer("dens", s.x())), ("NOT_FOUND", unknown))
    status, text = refusal(lambda: s.client.infer("dense", [s.input("z", X, "FP32")]))
    expect((status, text.startswith("there is no input 'z'")), ("INVALID_ARGUMENT", True))
    (_, error), _ = _streamed(s, 2, wrong=0)
    expect(error.message(), unknown)


@own("shared memory")
def _own_shared_memory(s: Session) -> None:
    shared = s.module.InferInput("x", [2, 4], "FP32")
    shared.set_shared_memory("region", 32)
    expect(
        refusal(lambda: s.client.infer("dense", [shared])),
        ("INVALID_ARGUMENT", "input 'x': shared memory is not supported"),
    )
    register = s.client.register_system_shared_memory
    expect(refusal(lambda: register("region", "/key", 64))[0], "UNIMPLEMENTED")


@own("models with a configuration or files of their own")
def _own_load(s: Session) -> None:
    for more in ({"config": "{}"}, {"config": "{}", "files": {"file:1/a": b""}}):
        expect(refusal(lambda m=more: s.client.load_model("pair", **m))[0], "UNIMPLEMENTED")


@own("what is unloaded is so with the answer")
def _own_unload(s: Session) -> None:
    s.client.unload_model("pair")
    expect(_states(s)["pair"], "UNAVAILABLE")
    s.client.load_model("pair")


@own("a trace may have a level and no file")
def _own_trace(s: Session) -> None:
    found = s.client.update_trace_settings("dense", {"trace_level": ["TIMESTAMPS"]})
    expect(list(found.settings["trace_level"].value), ["TIMESTAMPS"])
    s.client.update_trace_settings("dense", {"trace_level": None})


@own("counts are there with the answer")
def _own_statistics(s: Session) -> None:
    def count() -> int:
        (found,) = s.client.get_inference_statistics("dense").model_stats
        return found.inference_stats.success.count

    before = count()
    s.client.infer("dense", s.x())
    expect(count(), before + 1)
