"""HTTP requests drawn at random: most are of the protocol, or would be but for a detail or two."""

from __future__ import annotations

import gzip
import io
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from . import byte_mutations

ARROW = "application/vnd.apache.arrow.stream"
LENGTH = "Inference-Header-Content-Length"
# model -> its inputs: name, datatype, dims (0: any size, the same for all)
MODELS: dict[str, Sequence[tuple[str, str, tuple[int, ...]]]] = {
    "dense": (("x", "FP32", (0, 4)),),
    "pair": (("a", "FP32", (0,)), ("b", "FP32", (0,)), ("c", "INT64", (0,))),
    "texts": (("word", "BYTES", (0,)),),
    "parsed": (("word", "BYTES", (0,)),),
    "gather": (("ids", "INT64", (0,)),),
    "normalised": (("x", "FP32", (0, 2)),),
    "total": (("x", "FP32", (0, 4)),),
    "noisy": (("x", "FP32", (0, 4)), ("naru_seed", "INT64", ())),
    "mean": (("x", "UINT8", (8, 8, 3)),),
    "kinds": tuple(
        (kind, kind, (0,))
        for kind in (
            "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64",
            "FP16", "BF16", "FP32", "FP64",
        )
    ),
    "broken": (("x", "FP32", (0, 4)),),
    "spare": (("x", "FP32", (0, 4)),),  # the only one that requests load and unload
}  # fmt: skip
OUTPUTS = {"dense": ("y",), "pair": ("total", "count"), "texts": ("shout",), "total": ("sum",)}
DTYPES = {
    "BOOL": "?", "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT8": "u1",
    "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "FP16": "<f2", "BF16": "<u2",
    "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
W = np.arange(4)[:, None] + np.arange(3)  # of the model `dense`


@dataclass(frozen=True)
class Text:
    """What stands in JSON as it is."""

    text: str


ODD = (
    *map(Text, (
        "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e39", "65520", "1e-400", "-0", "-0.0",
        "9" * 5000, "0." + "1" * 2000, r'"\ud800"', r'"\udc00\ud800"', r'"\u0000"', '"\x00"', "01",
        "1.", "+1", "'a'", "nul", "tru", "[" * 50, "[" * 3000 + "]" * 3000, "", ",", "\ufeff1",
    )),
    None, True, False, "", "1", "나루", -1, 0, 1, 1.5, 255, 256, -129, 1 << 31, 1 << 53, 1 << 62,
    (1 << 63) - 1, 1 << 63, -(1 << 63), (1 << 64) - 1, 1 << 64, [], [1], [[]], [[1], [2, 3]],
    {}, {"a": 1}, {"name": None},
)  # fmt: skip
SHAPES = (
    [], [0], [1], [4], [1, 4], [4, 1], [0, 0], [0, 4], [1, 0], [1] * 33, [1] * 70, [1 << 40] * 2,
    [0, 1 << 61], [1 << 31, 1 << 31, 1 << 31], [(1 << 62) - 1], [1 << 62], [1 << 70], [-1, 4],
    [2.0, 4], [True, 4], ["1", 4], [None], [[1, 4]], 4, "1,4", None, {}, [0, 1 << 40, 1 << 40],
)  # fmt: skip
NAMES = ("x", "X", "", "a", "word", "y", "나루", "\u0000", "x" * 3000, "../x")
PATHS = (
    "/", "//", "*", "/v2", "/v2/", "/v2//", "/v2/health/live", "/v2/health/ready", "/v2/models",
    "/v2/models/stats", "/v2/models/{}", "/v2/models/{}/ready", "/v2/models/{}/config",
    "/v2/models/{}/stats", "/v2/models/{}/versions/{}", "/v2/models/{}/versions/{}/ready",
    "/v2/models/{}/versions/{}/infer", "/v2/models/{}/generate", "/v2/models/{}/generate_stream",
    "/v2/models/{}/trace/setting", "/v2/trace/setting", "/v2/logging", "/v2/repository/index",
    "/v2/repository/{}/index", "/v2/repository/models/{}/load", "/v2/repository/models/{}/unload",
    "/v2/repository/a/models/{}/load", "/v2/systemsharedmemory/status", "/metrics",
    "/v2/cudasharedmemory/region/{}/status", "/v2/systemsharedmemory/region/{}/register",
    "/v2/cudasharedmemory/unregister", "/openapi.json", "/models/{}", "/static/{}", "/{}",
    "/v2/models/{}/infer/", "/v2/models/{}/infer?a=%zz", "/v2/models/{}/infer#a", "/favicon.ico",
    "http://other/v2/models/{}", "/v2/%2e%2e/{}", "/v2/../{}", "?", "/v2/models/{};a=b",
)  # fmt: skip
PARTS = (
    "spare", "broken", "nobody", "", ".", "..", "%00", "%ff", "%2f", "..%2f..%2fetc%2fpasswd", "%",
    "%zz", "%25", "%F0%9F%98%80", "%ed%a0%80", "a" * 300, "a" * 5000, "1", "0", "-1", "9" * 30,
    "~", "*", "[a]", "{}", "%0d%0aX:%20y", "stats", "models", "infer", "stable", "\u00ff",
)  # fmt: skip


def one_of(rng: Random, often: Any, *seldom: Any) -> Any:
    """The first, and seldom one of the others."""
    return rng.choice(seldom) if rng.random() < 0.08 else often


# ---- JSON ----


def text_of(value: Any, rng: Random) -> str:
    """A value as JSON; now and then with a key twice, or spaces."""
    match value:
        case Text():
            return value.text
        case dict():
            items = list(value.items())
            if items and rng.random() < 0.02:
                items.insert(rng.randrange(len(items)), (rng.choice(items)[0], rng.choice(ODD)))
            parts = [f"{json.dumps(k, ensure_ascii=False)}:{text_of(v, rng)}" for k, v in items]
            return "{" + one_of(rng, ",", ", ", ",\n", ",,").join(parts) + "}"
        case list():
            return "[" + ",".join(text_of(v, rng) for v in value) + "]"
        case _:
            return json.dumps(value, ensure_ascii=rng.random() < 0.5)


def element(datatype: str, rng: Random) -> Any:
    """A number, bool or text of a datatype, often one at its limits."""
    if datatype == "BOOL":
        return rng.random() < 0.5
    if datatype == "BYTES":
        return rng.choice(("", "a", "3.5", "1e400", "nan", "나루", "ß" * 40, "\u0000", "😀", "-"))
    if "INT" in datatype:
        info = np.iinfo(DTYPES[datatype])
        return rng.choice((0, 1, 2, 9, int(info.min), int(info.max)))
    return rng.choice((0, 1, -1, 0.5, 3.0, 1e-8, 255, 6e4, 1e38))


def nested(values: list[Any], shape: Sequence[int]) -> Any:
    """A flat list as lists of lists."""
    for size in reversed(shape[1:]):
        if size <= 0:
            return values
        values = [values[k : k + size] for k in range(0, len(values), size)]
    return values


def odd_parameters(rng: Random) -> Any:
    """Parameters of a request, an input or an output."""
    keys = (
        "binary_data", "binary_data_output", "binary_data_size", "classification", "priority",
        "timeout", "sequence_id", "shared_memory_region", "shared_memory_offset", "a", "",
    )  # fmt: skip
    values = (*ODD[-30:], True, 1, 2, "2", "x" * 5000, 10_000_000)
    found = {rng.choice(keys): rng.choice(values) for _ in range(rng.randrange(1, 3))}
    return one_of(rng, found, None, [], "a", 3)


@dataclass
class Ask:
    """A request's JSON, and the raw tensors behind it."""

    value: Any
    tail: bytes


def draw_ask(model: str, rng: Random, binary: bool) -> Ask:
    """A request of a model, which may lack something."""
    rows = rng.choice((0, 1, 1, 2, 3, 7))
    inputs: list[Any] = []
    tails: list[bytes] = []
    for name, datatype, dims in MODELS[model]:
        if name == "naru_seed" and rng.random() < 0.5:
            continue
        shape = [d or rows for d in dims]
        item, tail = _draw_input(name, datatype, shape, rng, binary and rng.random() < 0.9)
        if rng.random() < 0.04:
            continue
        inputs += [item] * one_of(rng, 1, 1, 1, 2)
        tails.append(tail)
    if rng.random() < 0.05:
        rng.shuffle(inputs)
    given = one_of(rng, inputs, [], None, {}, "x", inputs * 400, list(ODD))
    value: dict[str, Any] = {"inputs": given}
    if rng.random() < 0.3:
        value["id"] = one_of(rng, "a-7", "", None, 7, Text(r'"\ud83d"'), "나루" * 300, "\u0000")
    if rng.random() < 0.25:
        value["outputs"] = _draw_outputs(model, rng)
    if binary and rng.random() < 0.5:
        value["parameters"] = {"binary_data_output": True}
    if rng.random() < 0.08:
        value["parameters"] = odd_parameters(rng)
    if rng.random() < 0.05:
        value[rng.choice(("unknown", "inputs", "outputs", "id", "parameters"))] = rng.choice(ODD)
    return Ask(one_of(rng, value, value, value, [value], rng.choice(ODD)), b"".join(tails))


def _draw_input(
    name: str, datatype: str, shape: list[int], rng: Random, binary: bool
) -> tuple[Any, bytes]:
    values = [element(datatype, rng) for _ in range(math.prod(shape))]
    item: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
    tail = b""
    if binary:
        tail = raw_of(values, datatype)
        size = len(tail) + one_of(rng, 0, 1, -1, 4, -len(tail))
        item["parameters"] = {"binary_data_size": one_of(rng, size, *ODD[-30:])}
    else:
        while values and rng.random() < 0.15:
            values[rng.randrange(len(values))] = rng.choice(ODD)
        flat = rng.random() < 0.5
        data = one_of(rng, values, values[:-1], [*values, 1], values[0] if values else None)
        item["data"] = data if flat or not isinstance(data, list) else nested(data, shape)
    if rng.random() < 0.15:
        key = rng.choice(("name", "datatype", "shape", "data", "parameters", "unknown"))
        choices = {
            "name": NAMES, "datatype": (*DTYPES, "BYTES", "fp32", "", "FLOAT"), "shape": SHAPES,
            "parameters": (odd_parameters(rng),),
        }  # fmt: skip
        item[key] = rng.choice(choices.get(key, ODD))
    if rng.random() < 0.04:
        item.pop(rng.choice(list(item)))
    return one_of(rng, item, item, item, item, rng.choice(ODD)), tail


def _draw_outputs(model: str, rng: Random) -> Any:
    names = (*OUTPUTS.get(model, ("y",)), one_of(rng, "y", *NAMES))
    found: list[Any] = []
    for _ in range(rng.randrange(3)):
        item: dict[str, Any] = {"name": rng.choice(names)}
        if rng.random() < 0.7:
            item["parameters"] = rng.choice(
                ({"classification": 2}, {"classification": 1 << 40}, {"binary_data": True},
                 {"binary_data": False}, odd_parameters(rng))
            )  # fmt: skip
        found.append(one_of(rng, item, None, "y", {}))
    return one_of(rng, found, None, {}, "y", found * 300)


def raw_of(values: Sequence[Any], datatype: str) -> bytes:
    """Elements as raw bytes, those of floats with a NaN now and then."""
    if datatype == "BYTES":
        data = [str(v).encode() for v in values]
        return b"".join(len(d).to_bytes(4, "little") + d for d in data)
    if datatype == "BF16":
        return (np.array(values, "<f4").view("<u4") >> 16).astype("<u2").tobytes()
    with np.errstate(over="ignore"):
        return np.array(values, DTYPES[datatype]).tobytes()


# ---- bodies ----


@dataclass
class Body:
    """A body, and what the head says of it."""

    data: bytes
    headers: list[tuple[str, str]]


def draw_body(rng: Random) -> tuple[str, Body]:
    """A model, and a body of any of the forms that the server takes."""
    form = rng.choices(
        ("JSON", "binary", "raw", "rows", "Arrow", "image", "odd"), (36, 20, 6, 10, 14, 8, 4)
    )[0]
    model = rng.choice((*MODELS, "dense", "pair", "kinds", "texts"))
    if form == "Arrow":
        model = one_of(rng, rng.choice(list(arrow_streams())), model)
    elif form == "image":
        model = one_of(rng, "mean", model)
    if form in ("JSON", "binary"):
        ask = draw_ask(model, rng, form == "binary")
        text = text_of(ask.value, rng).encode("utf-8", "surrogatepass")
        length = one_of(rng, len(text), len(text) + 1, len(text) - 1, 0, -1, 1 << 70, "a", "")
        body = Body(text + ask.tail, [(LENGTH, str(length))] if form == "binary" else [])
        if rng.random() < 0.1:
            body.headers.append(("Content-Type", rng.choice((ARROW, "text/plain", "image/png"))))
    elif form == "raw":
        body = Body(rng.randbytes(rng.choice((0, 1, 4, 8, 16, 32, 192, 4096))), [(LENGTH, "0")])
    elif form == "rows":
        body = Body(text_of(_draw_rows(model, rng), rng).encode("utf-8", "surrogatepass"), [])
    elif form == "Arrow":
        seeds = arrow_streams()
        data = rng.choice(seeds[model if model in seeds else "dense"])
        body = Body(_hurt(data, rng, 0.8), [("Content-Type", ARROW)])
    elif form == "image":
        kind, data = rng.choice(pictures())
        body = Body(_hurt(data, rng, 0.8), [("Content-Type", f"image/{kind}")])
    else:
        data = rng.choice((b"", b"{", b"[" * 100_000, b"\xff\xfe", b" " * 9, rng.randbytes(40)))
        body = Body(data, [])
    if form not in ("Arrow", "image"):
        body.data = _hurt(body.data, rng, 0.25)
    return model, _packed(body, rng)


def _draw_rows(model: str, rng: Random) -> Any:
    inputs = MODELS[model]
    rows: list[Any] = []
    by_name = len(inputs) > 1 or rng.random() < 0.3
    for _ in range(rng.choice((0, 1, 2, 3))):
        row: Any = {}
        if by_name:
            row = {n: element(d, rng) for n, d, _ in inputs}
            if model in ("dense", "normalised", "total"):
                row = {f"c{k}": element("FP32", rng) for k in range(W.shape[0])}
            if row and rng.random() < 0.2:
                row[rng.choice((*row, "other", ""))] = rng.choice(ODD)
        else:
            _, datatype, dims = inputs[0]
            count = math.prod(d or 1 for d in dims)
            row = nested([element(datatype, rng) for _ in range(count)], [1, *dims[1:]])
            row = row[0] if len(row) == 1 else row
        rows.append(one_of(rng, row, *ODD))
    return rows


def _hurt(data: bytes, rng: Random, often: float) -> bytes:
    """The data, damaged as often as that."""
    if rng.random() >= often:
        return data
    return byte_mutations.damage(data, (data, b'{"inputs":[]}'), rng)


def _packed(body: Body, rng: Random) -> Body:
    """Compressed now and then; that too may be damaged, or grow without end."""
    if rng.random() > 0.12:
        return body
    if rng.random() < 0.15:
        body.data = rng.choice(bombs())
        body.headers.append(("Content-Encoding", "gzip"))
        return body
    bare = zlib.compressobj(wbits=-15)
    coding, data = rng.choice(
        (("gzip", gzip.compress(body.data, mtime=0)), ("deflate", zlib.compress(body.data)),
         ("deflate", bare.compress(body.data) + bare.flush()))
    )  # fmt: skip
    coding = one_of(rng, coding, "GZIP", "x-gzip", "br", "gzip, gzip", "", "\u00ff", "identity")
    return Body(_hurt(data, rng, 0.5), [*body.headers, ("Content-Encoding", coding)])


@cache
def bombs() -> tuple[bytes, ...]:
    """Little that becomes much."""
    zeros = gzip.compress(bytes(8 << 20), mtime=0)
    return zeros, gzip.compress(b"[" * (1 << 20), mtime=0), gzip.compress(zeros, mtime=0)


@cache
def arrow_streams() -> dict[str, tuple[bytes, ...]]:
    """Streams that fit their models, in several forms."""
    x = np.arange(12, dtype=np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x), 4)
    small = pa.array([1, 2, 3], pa.float32())
    columns = {f"c{k}": pa.array(x[k::4].astype(float)) for k in range(4)}
    words = pa.array(["naru", None, "나루"])
    return {
        "dense": (*_streams({"x": lists}), *_streams(columns), *_streams({"x": small})),
        "pair": _streams({"a": small, "b": small, "c": pa.array([7, 8, 9])}),
        "texts": (
            *_streams({"word": pa.array(["naru", "", "나루"])}),
            *_streams({"word": words.dictionary_encode()}),
            *_streams({"word": words}),
            *_streams({"word": pa.array(["a", "b", "c"], pa.large_string())}),
        ),
        "gather": _streams({"ids": pa.array([0, 9, 10])}),
    }


def _streams(columns: dict[str, pa.Array]) -> tuple[bytes, ...]:
    batch = pa.record_batch(columns)
    found: list[bytes] = []
    for compression, count in ((None, 1), (None, 3), ("lz4", 1), ("zstd", 2)):
        sink = io.BytesIO()
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
            for k in range(count):
                writer.write_batch(batch.slice(k))
        found.append(sink.getvalue())
    return tuple(found)


@cache
def pictures() -> tuple[tuple[str, bytes], ...]:
    """Small images, and one that says it is huge."""
    found: list[tuple[str, bytes]] = []
    for kind in ("png", "jpeg", "webp", "bmp", "gif"):
        file = io.BytesIO()
        Image.new("RGB", (20, 10), (255, 0, 51)).save(file, kind)
        found.append((kind, file.getvalue()))
    png = bytearray(found[0][1])
    png[16:24] = (60_000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    return (*found, ("png", bytes(png)))


# ---- requests ----


def good(v: int, *, last: bool = False) -> bytes:
    """A request that says by its X-Request-Id which answer is right (see `right_answer`)."""
    x = [k + v for k in range(4)]
    item = {"name": "x", "datatype": "FP32", "shape": [1, 4]}
    headers: list[tuple[str, str]] = [("X-Request-Id", f"good-{v}")]
    if last:
        headers.append(("Connection", "close"))
    match v % 5:
        case 0:
            data = json.dumps({"inputs": [{**item, "data": x}]}).encode()
        case 1:
            raw = np.array(x, "<f4").tobytes()
            head = json.dumps({"inputs": [{**item, "parameters": {"binary_data_size": 16}}]})
            headers.append((LENGTH, str(len(head))))
            data = head.encode() + raw
        case 2:
            data = json.dumps([x]).encode()
        case 3:
            data = gzip.compress(json.dumps({"inputs": [{**item, "data": [x]}]}).encode(), mtime=0)
            headers.append(("Content-Encoding", "gzip"))
        case _:
            data = json.dumps({"inputs": [{**item, "data": x}]}).encode()
            half = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (
                20, data[:20], len(data) - 20, data[20:],
            )  # fmt: skip
            headers.append(("Transfer-Encoding", "chunked"))
            return _head("POST", "/v2/models/dense/infer", headers) + half
    headers.append(("Content-Length", str(len(data))))
    return _head("POST", "/v2/models/dense/infer", headers) + data


def right_answer(v: int) -> list[float]:
    """What `good(v)` is answered."""
    return ((np.arange(4) + v) @ W).astype(float).tolist()


def _head(method: str, path: str, headers: Sequence[tuple[str, str]]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: a", *(f"{k}: {v}" for k, v in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace")


def draw_request(rng: Random, number: int) -> bytes:
    """A request whose length is as its head says; its X-Request-Id says which, and its method."""
    model, body = draw_body(rng)
    if rng.random() < 0.85:
        method, path = "POST", f"/v2/models/{model}/infer"
    else:
        method = rng.choice(("GET", "POST", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"))
        path = rng.choice(PATHS)
        while "{}" in path:
            kind = rng.choice(PARTS)
            if "load" not in path and rng.random() < 0.6:
                kind = model
            path = path.replace("{}", kind.replace("{}", "%7B%7D"), 1)
        body = _draw_options(rng) if method == "POST" else Body(b"", [])
    headers = [("X-Request-Id", f"{number}-{method}"), *body.headers, *_more_headers(rng)]
    if rng.random() < 0.15 and body.data:
        headers.append(("Transfer-Encoding", "chunked"))
        return _head(method, path, headers) + _chunks(body.data, rng)
    if body.data or method == "POST":
        headers.append(("Content-Length", str(len(body.data))))
    rng.shuffle(headers)
    return _head(method, path, headers) + body.data


def _draw_options(rng: Random) -> Body:
    keys = (
        "ready", "parameters", "log_info", "log_verbose_level", "log_file", "trace_rate",
        "trace_level", "trace_count", "trace_file", "unload_dependents", "config", "",
    )  # fmt: skip
    value: Any = {rng.choice(keys): rng.choice(ODD) for _ in range(rng.randrange(3))}
    if rng.random() < 0.2:
        value = {"parameters": {rng.choice((*keys, "file:1/model.onnx")): rng.choice(ODD)}}
    text = text_of(one_of(rng, value, *ODD), rng).encode("utf-8", "surrogatepass")
    return Body(_hurt(rng.choice((b"", text, text)), rng, 0.2), [])


def _more_headers(rng: Random) -> list[tuple[str, str]]:
    if rng.random() < 0.6:
        return []
    choices = (
        ("Accept-Encoding", "gzip"), ("Accept-Encoding", "deflate;q=1, gzip;q=0.5"),
        ("Accept-Encoding", "gzip;q=nan, deflate;q=inf"), ("Accept-Encoding", ",;,q=;gzip;;"),
        ("Authorization", "Bearer a"), ("Authorization", "Basic \u00ff"), ("Accept", "text/*;q=x"),
        ("Accept", "application/openmetrics-text; version=1.0.0"), ("Content-Type", ""),
        ("Content-Type", "application/json; charset=latin-1"), ("Content-Type", ARROW.upper()),
        ("Expect", "100-continue"), ("Expect", "200-ok"), ("Connection", "keep-alive"),
        ("Connection", "Upgrade"), ("Upgrade", "h2c"), ("Upgrade", "websocket"), ("Origin", "null"),
        ("Cookie", "a" * 3000), ("X-Long", "b" * 20_000), ("X-\u00ff", "1"), ("X-Empty", ""),
        ("X-Bytes", "\u00ff\u0080\t"), (LENGTH, "\u00b2"), (LENGTH, "0"), (LENGTH, "9" * 25),
        ("Transfer-Encoding", "identity"), ("Content-Length", "1"), ("Connection", "close"),
        ("Range", "bytes=0-1"), ("If-None-Match", "*"), ("X-Forwarded-For", "::1"), ("Host", ""),
        ("traceparent", "00-a-b-01"), ("Trailer", "X"), ("Proxy-Connection", "close"),
    )  # fmt: skip
    return [rng.choice(choices) for _ in range(rng.choice((1, 1, 2, 4)))]


def _chunks(data: bytes, rng: Random) -> bytes:
    parts: list[bytes] = []
    while data:
        size = rng.choice((1, 7, 100, len(data)))
        part, data = data[:size], data[size:]
        extension = one_of(rng, b"", b";a=b", b";" + b"c" * 300)
        parts.append(b"%x%s\r\n%s\r\n" % (len(part), extension, part))
        if len(parts) > 200:
            parts.append(b"%x\r\n%s\r\n" % (len(data), data) if data else b"")
            break
    return b"".join(parts) + b"0\r\n" + one_of(rng, b"", b"X-Trailer: a\r\n") + b"\r\n"
