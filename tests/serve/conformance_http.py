"""What Triton's own client can ask over HTTP, a row for each."""

from __future__ import annotations

import asyncio
import importlib
import time
from typing import Any

import numpy as np
from serve.conformance import (
    SHOUT,
    WORDS,
    Session,
    Table,
    X,
    Y,
    expect,
    expect_y,
    refusal,
    wrong,
)

HTTP = Table("tritonclient.http", {"KServe": "0.21.0", "MLServer": "1.7.1"})
row = HTTP.row
PASSED = "yes"
NO_TYPE = "400: there is no Content-Type"
SENT_BINARY = "422: it was sent binary"


# ---- the server and its models ----


@row("live and ready", PASSED, PASSED)
def _live(s: Session) -> None:
    expect((s.client.is_server_live(), s.client.is_server_ready()), (True, True))


@row("server metadata", PASSED, PASSED)
def _metadata(s: Session) -> None:
    found = s.client.get_server_metadata()
    expect({"name", "version", "extensions"} - set(found), set())


@row("model ready", PASSED, PASSED)
def _model_ready(s: Session) -> None:
    expect(s.client.is_model_ready("dense"), True)
    expect(s.client.is_model_ready("no-such-model"), False)


@row("model metadata", PASSED, PASSED)
def _model_metadata(s: Session) -> None:
    found = s.client.get_model_metadata("dense")
    expect(found["name"], "dense")
    expect(found["inputs"], [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}])
    expect(found["outputs"], [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}])


@row("model metadata: versions", "no: none", "no: none")
def _versions(s: Session) -> None:
    expect(s.client.get_model_metadata("dense")["versions"], ["1"])


# ---- inference ----


@row("JSON in, JSON out", NO_TYPE, PASSED)
def _json(s: Session) -> None:
    expect_y(s.client.infer("dense", s.x(binary_data=False), outputs=s.y(binary_data=False)))


@row("binary in, binary out", PASSED, SENT_BINARY)
def _binary(s: Session) -> None:
    expect_y(s.client.infer("dense", s.x(), outputs=s.y(binary_data=True)))


@row("binary in, JSON out", PASSED, SENT_BINARY)
def _binary_in(s: Session) -> None:
    expect_y(s.client.infer("dense", s.x(), outputs=s.y(binary_data=False)))


@row("JSON in, binary out", NO_TYPE, PASSED)
def _binary_out(s: Session) -> None:
    expect_y(s.client.infer("dense", s.x(binary_data=False), outputs=s.y(binary_data=True)))


@row("no outputs named", PASSED, SENT_BINARY)
def _all_outputs(s: Session) -> None:
    expect_y(s.client.infer("dense", s.x()))


def _shout(s: Session, binary: bool) -> None:
    given = [s.input("word", WORDS, "BYTES", binary_data=binary)]
    wish = [s.output("shout", binary_data=binary)]
    got = s.client.infer("texts", given, outputs=wish).as_numpy("shout")
    expect([t.decode() if isinstance(t, bytes) else t for t in got.tolist()], SHOUT)


@row("texts, binary", PASSED, SENT_BINARY)
def _texts(s: Session) -> None:
    _shout(s, True)


@row("texts, JSON", NO_TYPE, "yes, of shape [3, 1]")
def _texts_in_json(s: Session) -> None:
    _shout(s, False)


@row("several inputs, one output of two", PASSED, SENT_BINARY)
def _several(s: Session) -> None:
    result = s.client.infer("pair", s.pair(binary_data=False), outputs=[s.output("count")])
    expect(result.as_numpy("count").tolist(), [4, 5])
    expect(result.as_numpy("total"), None)


@row("request id comes back", PASSED, SENT_BINARY)
def _identity(s: Session) -> None:
    response = s.client.infer("dense", s.x(), request_id="a-7").get_response()
    expect(response["id"], "a-7")
    expect(response["model_name"], "dense")


def _compressed(s: Session, coding: str) -> None:
    # Enough rows that an answer is worth compressing.
    many = np.tile(X, (16, 1))
    result = s.client.infer(
        "dense",
        [s.input("x", many, "FP32")],
        outputs=s.y(binary_data=False),
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    if not np.array_equal(result.as_numpy("y"), np.tile(Y, (16, 1))):
        raise AssertionError("the numbers are others")


@row("gzip", "400", SENT_BINARY)
def _gzip(s: Session) -> None:
    _compressed(s, "gzip")


@row("deflate", "400", SENT_BINARY)
def _deflate(s: Session) -> None:
    _compressed(s, "deflate")


@row("version named", "501", SENT_BINARY)
def _version(s: Session) -> None:
    expect_y(s.client.infer("dense", s.x(), model_version="1"))


@row("priority and timeout", "yes, ignored", SENT_BINARY)
def _priority(s: Session) -> None:
    expect_y(s.client.infer("dense", s.x(), priority=2, timeout=5_000_000))


@row("parameters of one's own", PASSED, SENT_BINARY)
def _parameters(s: Session) -> None:
    own = {"a": "text", "b": 3, "c": True, "d": 0.5}
    expect_y(s.client.infer("dense", s.x(), parameters=own))


@row("headers and a query of one's own", PASSED, SENT_BINARY)
def _headers(s: Session) -> None:
    expect_y(s.client.infer("dense", s.x(), headers={"X-Own": "1"}, query_params={"a": "b"}))


@row("classification", "no: it answers the scores", SENT_BINARY)
def _classification(s: Session) -> None:
    result = s.client.infer("dense", s.x(), outputs=s.y(class_count=2))
    got = result.as_numpy("y").tolist()
    expect(got, [[b"26.000000:2", b"20.000000:1"], [b"82.000000:2", b"60.000000:1"]])


@row("many requests at once", PASSED, SENT_BINARY)
def _many(s: Session) -> None:
    with s.module.InferenceServerClient(s.address, concurrency=4) as client:
        asked = [client.async_infer("dense", s.x()) for _ in range(32)]
        for each in asked:
            expect_y(each.get_result())


@row("the client for asyncio", PASSED, "500")
def _asyncio(s: Session) -> None:
    module: Any = importlib.import_module(f"{s.module.__name__}.aio")

    async def ask() -> Any:
        async with module.InferenceServerClient(s.address) as client:
            return await client.infer("dense", s.x())

    expect_y(asyncio.run(ask()))


@row("errors of a client are 4xx, and read", "no: 501 for a version", "no: another form")
def _errors(s: Session) -> None:
    for ask in wrong(s):
        status, text = refusal(ask)
        expect((status[:1], "decoding the response" in text), ("4", False))


# ---- extensions ----


@row("model configuration", "404", "404")
def _config(s: Session) -> None:
    found = s.client.get_model_config("dense")
    expect((found["name"], found["max_batch_size"]), ("dense", 64))
    tensor = found["input"][0]
    expect((tensor["name"], tensor["data_type"]), ("x", "TYPE_FP32"))
    expect([int(d) for d in tensor["dims"]], [4])


@row("statistics", "404", "404")
def _statistics(s: Session) -> None:
    def count() -> int:
        found = s.client.get_inference_statistics("dense")["model_stats"][0]
        parts = found["inference_stats"]
        counted = {parts[k]["count"] for k in ("success", "queue", "compute_infer")}
        expect(len(counted), 1)
        return counted.pop()

    before = count()
    s.client.infer("dense", s.x())
    until = time.monotonic() + 10
    while count() == before and time.monotonic() < until:
        time.sleep(0.02)  # Triton may count after it has answered
    expect(count(), before + 1)
    every = s.client.get_inference_statistics()["model_stats"]
    expect("dense" in {m["name"] for m in every}, True)


@row("trace settings", "404", "404")
def _trace(s: Session) -> None:
    s.client.update_trace_settings(settings={"trace_rate": "5"})
    expect(s.client.get_trace_settings()["trace_rate"], "5")
    expect(s.client.get_trace_settings("dense")["trace_rate"], "5")
    s.client.update_trace_settings(settings={"trace_rate": None})
    expect(s.client.get_trace_settings()["trace_rate"], "1000")


@row("log settings", "404", "404")
def _logging(s: Session) -> None:
    expect(s.client.update_log_settings({"log_verbose_level": 1})["log_verbose_level"], 1)
    s.client.update_log_settings({"log_verbose_level": 0})
    expect(s.client.get_log_settings()["log_verbose_level"], 0)


@row("status of shared memory", "404", "404")
def _shared_memory(s: Session) -> None:
    expect(s.client.get_system_shared_memory_status(), [])
    expect(s.client.get_cuda_shared_memory_status(), [])
    s.client.unregister_system_shared_memory()
    s.client.unregister_cuda_shared_memory("region")


@row("repository: index", "404", "422")
def _index(s: Session) -> None:
    found = {m["name"]: m.get("state") for m in s.client.get_model_repository_index()}
    expect(found["dense"], "READY")


@row("repository: load", PASSED, PASSED)
def _load(s: Session) -> None:
    s.client.load_model("dense")
    expect(s.client.is_model_ready("dense"), True)


@row("repository: unload, load again", "no: 503 when it is loaded again", PASSED)
def _unload(s: Session) -> None:
    s.client.unload_model("pair", unload_dependents=True)
    expect(s.client.is_model_ready("pair"), False)
    s.client.load_model("pair")
    expect(s.client.is_model_ready("pair"), True)
