"""What Triton's own client can ask over gRPC, a row for each, and a program that asks it.

    python tests/serve/ask_grpc.py HOST:PORT [DESCRIPTORS]

prints for each row nothing (null) or what went wrong, as JSON. It runs in an environment that has
the client (tests/serve/clients-requirements.txt) and needs nothing of naru. The server has the
models `dense`, `pair` and `texts` of tests/serve/models.py, and lets clients load and unload them.
DESCRIPTORS is a file with the server's FileDescriptorProto, to be compared with the client's.
"""

from __future__ import annotations

import importlib
import json
import queue
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
X = np.arange(8, dtype=np.float32).reshape(2, 4)
Y = X @ (np.arange(4)[:, None] + np.arange(3)).astype(np.float32)
WORDS = np.array(["naru", "나루", ""], object)
ROWS: dict[str, Callable[[Any], None]] = {}

module: Any = importlib.import_module("tritonclient.grpc")
Failure: Any = importlib.import_module("tritonclient.utils").InferenceServerException


def row(name: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Puts a function into the table."""

    def add(run: Callable[[Any], None]) -> Callable[[Any], None]:
        ROWS[name] = run
        return run

    return add


def expect(got: object, wanted: object) -> None:
    """Raises AssertionError that says what was got."""
    if got != wanted:
        raise AssertionError(f"expected {wanted!r}, got {got!r}")


def expect_y(result: Any) -> None:
    """The result of `dense` for X."""
    got = result.as_numpy("y")
    if got is None or got.dtype != np.float32 or not np.array_equal(got, Y):
        raise AssertionError(f"expected {Y.tolist()}, got {got!r}")


def tensor(name: str, array: Array, datatype: str) -> Any:
    given = module.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array)
    return given


def x() -> list[Any]:
    return [tensor("x", X, "FP32")]


def y(**options: Any) -> list[Any]:
    return [module.InferRequestedOutput("y", **options)]


def refused(ask: Callable[[], object]) -> tuple[str, str]:
    """The status and the text of what is refused."""
    try:
        ask()
    except Failure as failure:
        return str(failure.status()).removeprefix("StatusCode."), str(failure.message())
    raise AssertionError("expected a refusal, got an answer")


# ---- the server and its models ----


@row("live, ready")
def _live(client: Any) -> None:
    expect((client.is_server_live(), client.is_server_ready()), (True, True))
    expect(client.is_model_ready("dense"), True)
    expect(client.is_model_ready("dense", "7"), False)
    expect(client.is_model_ready("no-such-model"), False)


@row("metadata")
def _metadata(client: Any) -> None:
    expect(client.get_server_metadata().name, "naru")
    found = client.get_model_metadata("dense", as_json=True)
    expect(found["versions"], ["1"])
    expect(found["inputs"], [{"name": "x", "datatype": "FP32", "shape": ["-1", "4"]}])


@row("config")
def _config(client: Any) -> None:
    found = client.get_model_config("dense").config
    expect((found.name, found.max_batch_size, found.backend), ("dense", 64, "naru"))
    types = importlib.import_module("tritonclient.grpc.model_config_pb2")
    expect(found.input[0].data_type, types.TYPE_FP32)
    expect(list(found.output[0].dims), [3])
    expect(found.WhichOneof("scheduling_choice"), "dynamic_batching")
    expect(found.version_policy.WhichOneof("policy_choice"), "all")
    expect(found.instance_group[0].kind, types.ModelInstanceGroup.KIND_CPU)
    expect(len(found.parameters["source_sha256"].string_value), 64)


# ---- inference ----


@row("infer")
def _infer(client: Any) -> None:
    expect_y(client.infer("dense", x()))
    result = client.infer("dense", x(), outputs=y(), request_id="a-7", model_version="1")
    expect_y(result)
    response = result.get_response()
    expect((response.id, response.model_name, response.model_version), ("a-7", "dense", "1"))
    words = client.infer("texts", [tensor("word", WORDS, "BYTES")]).as_numpy("shout").tolist()
    expect([w.decode() for w in words], ["NARU", "나루", ""])


@row("infer: several inputs, one output")
def _several(client: Any) -> None:
    a, c = np.array([1, 2], np.float32), np.array([3, 4])
    given = [tensor("c", c, "INT64"), tensor("a", a, "FP32"), tensor("b", a, "FP32")]
    result = client.infer("pair", given, outputs=[module.InferRequestedOutput("count")])
    expect(result.as_numpy("count").tolist(), [4, 5])
    expect(result.as_numpy("total"), None)


@row("infer: gzip, deflate")
def _compressed(client: Any) -> None:
    for coding in ("gzip", "deflate"):
        headers = {"accept-encoding": coding}
        expect_y(client.infer("dense", x(), compression_algorithm=coding, headers=headers))


@row("infer: deadline")
def _deadline(client: Any) -> None:
    expect_y(client.infer("dense", x(), client_timeout=30))


@row("infer: priority, timeout, parameters")
def _parameters(client: Any) -> None:
    expect_y(client.infer("dense", x(), priority=2, timeout=5_000_000))
    expect_y(client.infer("dense", x(), parameters={"a": "b", "n": 3, "yes": True}))


@row("infer: classification")
def _classification(client: Any) -> None:
    got = client.infer("dense", x(), outputs=y(class_count=2)).as_numpy("y").tolist()
    expect(got, [[b"26.000000:2", b"20.000000:1"], [b"82.000000:2", b"60.000000:1"]])


@row("infer: asynchronous")
def _asynchronous(client: Any) -> None:
    found: queue.Queue[Any] = queue.Queue()
    for _ in range(20):
        client.async_infer("dense", x(), lambda result, error: found.put(error or result))
    for _ in range(20):
        expect_y(found.get(timeout=30))


@row("infer: refusals")
def _refusals(client: Any) -> None:
    expect(
        refused(lambda: client.infer("dens", x())),
        ("NOT_FOUND", "there is no model 'dens'; did you mean 'dense'?"),
    )
    status, text = refused(lambda: client.infer("dense", [tensor("z", X, "FP32")]))
    expect((status, text.startswith("there is no input 'z'")), ("INVALID_ARGUMENT", True))
    shared = module.InferInput("x", [2, 4], "FP32")
    shared.set_shared_memory("region", 32)
    status, text = refused(lambda: client.infer("dense", [shared]))
    expect((status, text), ("INVALID_ARGUMENT", "input 'x': shared memory is not supported"))


@row("stream")
def _stream(client: Any) -> None:
    found: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: found.put((result, error)))
    try:
        for k in range(100):
            model = "dens" if k == 50 else "dense"
            client.async_stream_infer(
                model, x(), request_id=str(k), enable_empty_final_response=True
            )
        for k in range(100):
            result, error = found.get(timeout=30)
            if k == 50:
                expect(error.message(), "there is no model 'dens'; did you mean 'dense'?")
                continue
            expect(error, None)
            expect_y(result)
            response = result.get_response()
            expect(response.id, str(k))
            expect(response.parameters["triton_final_response"].bool_param, True)
    finally:
        client.stop_stream()


# ---- the rest ----


@row("health")
def _health(client: Any) -> None:
    check = client._channel.unary_unary("/grpc.health.v1.Health/Check")
    for name in (b"", b"inference.GRPCInferenceService", b"dense"):
        request = b"\x0a" + bytes([len(name)]) + name if name else b""
        expect(check(request), b"\x08\x01")  # field 1: SERVING


@row("statistics")
def _statistics(client: Any) -> None:
    def counts() -> Any:
        (found,) = client.get_inference_statistics("dense").model_stats
        parts = found.inference_stats
        return {parts.success.count, parts.queue.count, parts.compute_infer.count}

    before = counts()
    expect(len(before), 1)
    client.infer("dense", x())
    expect(counts(), {before.pop() + 1})
    everything = client.get_inference_statistics().model_stats
    expect({"dense", "pair"} - {s.name for s in everything}, set())


@row("index, load, unload")
def _repository(client: Any) -> None:
    def states() -> dict[str, str]:
        return {m.name: m.state for m in client.get_model_repository_index().models}

    expect(states()["pair"], "READY")
    client.unload_model("pair")
    expect((states()["pair"], client.is_model_ready("pair")), ("UNAVAILABLE", False))
    client.load_model("pair")
    expect((states()["pair"], client.is_model_ready("pair")), ("READY", True))
    for more in ({"config": "{}"}, {"config": "{}", "files": {"file:1/a": b""}}):
        expect(refused(lambda m=more: client.load_model("pair", **m))[0], "UNIMPLEMENTED")


@row("trace settings")
def _trace(client: Any) -> None:
    wanted = {"trace_rate": "7", "trace_level": ["TIMESTAMPS"]}
    found = client.update_trace_settings("dense", wanted)
    expect(list(found.settings["trace_rate"].value), ["7"])
    expect(list(client.get_trace_settings().settings["trace_rate"].value), ["1000"])
    client.update_trace_settings("dense", {"trace_rate": None, "trace_level": None})
    expect(list(client.get_trace_settings("dense").settings["trace_rate"].value), ["1000"])


@row("log settings")
def _log(client: Any) -> None:
    found = client.update_log_settings({"log_verbose_level": 1})
    expect(found.settings["log_verbose_level"].uint32_param, 1)
    client.update_log_settings({"log_verbose_level": 0})
    expect(client.get_log_settings().settings["log_info"].bool_param, True)


@row("shared memory")
def _shared_memory(client: Any) -> None:
    expect(len(client.get_system_shared_memory_status().regions), 0)
    expect(len(client.get_cuda_shared_memory_status().regions), 0)
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory("region")
    ask = client.register_system_shared_memory
    expect(refused(lambda: ask("region", "/key", 64))[0], "UNIMPLEMENTED")


# ---- descriptors ----


def differences(ours: Any) -> Iterator[str]:
    """What the server's file has otherwise than the client's, of whose configuration of a model it
    has only a part."""
    calls, config = _file("service_pb2"), _file("model_config_pb2")
    if methods_of(ours) != methods_of(calls):
        yield f"the methods are {methods_of(ours)}, not {methods_of(calls)}"
    all_of, some_of, found = (fields_of(f, "") for f in (calls, config, ours))
    for path in sorted({*all_of, *found}):
        expected = all_of.get(path) or some_of.get(path)
        if found.get(path) != expected:
            yield f"{path}: expected {expected}, got {found.get(path)}"


def _file(name: str) -> Any:
    """A file of the client's messages."""
    file = importlib.import_module("google.protobuf.descriptor_pb2").FileDescriptorProto()
    importlib.import_module(f"tritonclient.grpc.{name}").DESCRIPTOR.CopyToProto(file)
    return file


def fields_of(holder: Any, path: str) -> dict[str, str]:
    """Fields and values of enums by their paths, as text."""
    found: dict[str, str] = {}
    messages = holder.message_type if hasattr(holder, "message_type") else holder.nested_type
    for enum in holder.enum_type:
        found.update({f"{path}.{enum.name}.{v.name}": str(v.number) for v in enum.value})
    for message in messages:
        inner = f"{path}.{message.name}"
        for f in message.field:
            oneof = message.oneof_decl[f.oneof_index].name if f.HasField("oneof_index") else ""
            found[f"{inner}.{f.name}"] = f"{f.number} {f.label} {f.type} {f.type_name} {oneof}"
        found.update(fields_of(message, inner))
    return found


def methods_of(file: Any) -> dict[str, str]:
    """The methods of a file's services, as text."""
    return {
        m.name: f"{m.input_type} {m.client_streaming} {m.output_type} {m.server_streaming}"
        for service in file.service
        for m in service.method
    }


# ---- running them ----


def main(address: str, descriptors: str | None = None) -> None:
    """Asks the server at an address."""
    found: dict[str, str | None] = {}
    with module.InferenceServerClient(address) as client:
        for name, run in ROWS.items():
            try:
                run(client)
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}"
            else:
                found[name] = None
    if descriptors is not None:
        types = importlib.import_module("google.protobuf.descriptor_pb2")
        file = types.FileDescriptorProto.FromString(Path(descriptors).read_bytes())
        found["descriptors"] = "; ".join(differences(file)) or None
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
