"""The same bytes for naru and for a real Triton: where the answers differ, and why.

Each case is one request. Two answers are alike where the class of the status, the keys of the JSON,
and the tensors are the same (`wire.Answer`); a case that differs stands in DIFFERENCES.
"""

from __future__ import annotations

import gzip
import zlib

from serve.wire import (
    LENGTH,
    RAW,
    X,
    chunked,
    framed,
    http,
    infer,
    one,
    raw_x,
    texts,
    x,
)

_PAIR = [
    {"name": "a", "shape": [2], "datatype": "FP32", "data": [1, 2]},
    {"name": "b", "shape": [2], "datatype": "FP32", "data": [1, 2]},
    {"name": "c", "shape": [2], "datatype": "INT64", "data": [3, 4]},
]
_WORD = {"name": "word", "shape": [2], "datatype": "BYTES"}
_PLAIN = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[%s]}]%s}'


def _c(data: object, **changes: object) -> bytes:
    """A request of `pair` whose integers are these."""
    return infer({"inputs": [*_PAIR[:2], {**_PAIR[2], "data": data, **changes}]}, "pair")


def _gzipped(data: bytes, coding: str = "gzip") -> bytes:
    return infer(data, Content_Encoding=coding)


_JSON = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[0,1,2,3]}]}'

VALID: dict[str, bytes] = {
    "flat JSON": infer(one()),
    "nested JSON": infer(one(data=X.tolist())),
    "JSON with spaces around it": infer(b" \r\n\t" + _JSON + b"\n "),
    "id": infer({**one(), "id": "a-7"}),
    "empty id": infer({**one(), "id": ""}),
    "version named": infer(one(), "dense/versions/1"),
    "output named": infer({**one(), "outputs": [{"name": "y"}]}),
    "no outputs wished": infer({**one(), "outputs": []}),
    "binary in": framed({"inputs": [raw_x()]}, RAW),
    "binary in and out": framed(
        {"inputs": [raw_x()], "parameters": {"binary_data_output": True}}, RAW
    ),
    "JSON in, binary out": infer(
        {**one(), "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
    ),
    "binary for all, JSON for one": infer(
        {
            **one(),
            "parameters": {"binary_data_output": True},
            "outputs": [{"name": "y", "parameters": {"binary_data": False}}],
        }
    ),
    "JSON with a header of its length": framed(one(), b""),
    "raw body": infer(RAW[:16], **{LENGTH: "0"}),
    "raw body, a text": infer("나루".encode(), "texts", **{LENGTH: "0"}),
    "gzip": _gzipped(gzip.compress(_JSON)),
    "deflate": _gzipped(zlib.compress(_JSON), "deflate"),
    "identity": _gzipped(_JSON, "identity"),
    "gzip around binary": infer(
        gzip.compress(_JSON), **{LENGTH: str(len(_JSON)), "Content-Encoding": "gzip"}
    ),
    "gzip and deflate wanted": infer(one(), Accept_Encoding="gzip, deflate"),
    "another Content-Type": infer(one(), Content_Type="text/plain"),
    "a form's Content-Type": infer(one(), Content_Type="application/x-www-form-urlencoded"),
    "chunked": chunked("/v2/models/dense/infer", _JSON[:20], _JSON[20:]),
    "classification": infer(
        {**one(), "outputs": [{"name": "y", "parameters": {"classification": 2}}]}
    ),
    "more classes than there are": infer(
        {**one(), "outputs": [{"name": "y", "parameters": {"classification": 9}}]}
    ),
    "classification of nothing": infer(
        {**one(), "outputs": [{"name": "y", "parameters": {"classification": 0}}]}
    ),
    "priority and timeout": infer({**one(), "parameters": {"priority": 2, "timeout": 10_000_000}}),
    "parameters of one's own": infer({**one(), "parameters": {"a": "b", "c": 3, "d": True}}),
    "unknown keys": infer({**one(unknown=3), "unknown": 4}),
    "a query": infer(one()).replace(b"/infer ", b"/infer?a=b ", 1),
    "several inputs": infer({"inputs": _PAIR}, "pair"),
    "several inputs in another order": infer({"inputs": _PAIR[::-1]}, "pair"),
    "one output of two": infer({"inputs": _PAIR, "outputs": [{"name": "count"}]}, "pair"),
    "outputs in another order": infer(
        {"inputs": _PAIR, "outputs": [{"name": "count"}, {"name": "total"}]}, "pair"
    ),
    "texts": infer({"inputs": [{**_WORD, "data": ["naru", "나루"]}]}, "texts"),
    "texts, binary": framed(
        {
            "inputs": [{**_WORD, "parameters": {"binary_data_size": 12}}],
            "parameters": {"binary_data_output": True},
        },
        texts(b"naru", b""),
        None,
        "texts",
    ),
    "largest integer": _c([2**63 - 2, -(2**63)]),
    "NaN in, binary out": infer(
        _PLAIN % (b"1,1,1,1", b',"parameters":{"binary_data_output":true}')
    ),
}  # fmt: skip

PATHS: dict[str, bytes] = {
    "GET /v2": http("GET", "/v2"),
    "GET /v2/": http("GET", "/v2/"),
    "GET /v2/health/live": http("GET", "/v2/health/live"),
    "GET /v2/health/ready": http("GET", "/v2/health/ready"),
    "GET a model": http("GET", "/v2/models/dense"),
    "GET a version": http("GET", "/v2/models/dense/versions/1"),
    "GET ready of a model": http("GET", "/v2/models/dense/ready"),
    "GET ready of no model": http("GET", "/v2/models/nobody/ready"),
    "GET ready of no version": http("GET", "/v2/models/dense/versions/7/ready"),
    "GET config": http("GET", "/v2/models/dense/config"),
    "GET config of a version": http("GET", "/v2/models/dense/versions/1/config"),
    "GET config of no model": http("GET", "/v2/models/nobody/config"),
    "GET stats": http("GET", "/v2/models/stats"),
    "GET stats of a model": http("GET", "/v2/models/dense/stats"),
    "GET stats of a version": http("GET", "/v2/models/dense/versions/1/stats"),
    "GET stats of no model": http("GET", "/v2/models/nobody/stats"),
    "POST index, no body": http("POST", "/v2/repository/index", b""),
    "POST index, ready": http("POST", "/v2/repository/index", b'{"ready":true}'),
    "POST index, broken": http("POST", "/v2/repository/index", b"{"),
    "GET index": http("GET", "/v2/repository/index"),
    "GET trace settings": http("GET", "/v2/trace/setting"),
    "GET trace settings of a model": http("GET", "/v2/models/dense/trace/setting"),
    "GET log settings": http("GET", "/v2/logging"),
    "POST an unknown log setting": http("POST", "/v2/logging", b'{"no_such_setting":1}'),
    "POST a log setting of another type": http("POST", "/v2/logging", b'{"log_info":"yes"}'),
    "POST an unknown trace setting": http("POST", "/v2/trace/setting", b'{"no_such":"1"}'),
    "POST a wrong trace rate": http("POST", "/v2/trace/setting", b'{"trace_rate":"often"}'),
    "GET status of system shared memory": http("GET", "/v2/systemsharedmemory/status"),
    "GET status of CUDA shared memory": http("GET", "/v2/cudasharedmemory/status"),
    "POST register shared memory": http(
        "POST", "/v2/systemsharedmemory/region/a/register", b'{"key":"/a","offset":0,"byte_size":9}'
    ),
    "no such path": http("GET", "/v3"),
    "no such path of a model": http("GET", "/v2/models/dense/nothing"),
    "no such model": http("GET", "/v2/models/nobody"),
    "infer of no model": infer(one(), "nobody"),
    "infer of no version": infer(one(), "dense/versions/7"),
    "version that is no number": infer(one(), "dense/versions/stable"),
    "version beyond 64 bits": infer(one(), "dense/versions/99999999999999999999"),
    "GET infer": http("GET", "/v2/models/dense/infer"),
    "PUT infer": http("PUT", "/v2/models/dense/infer", _JSON),
    "DELETE a model": http("DELETE", "/v2/models/dense"),
    "POST live": http("POST", "/v2/health/live", b""),
    "HEAD live": http("HEAD", "/v2/health/live"),
    "a method of nobody": http("BREW", "/v2"),
    "generate with tensors": http("POST", "/v2/models/dense/generate", b'{"x":[1,2,3,4]}'),
    "generate, broken": http("POST", "/v2/models/dense/generate", b"{"),
    "load of no model": http("POST", "/v2/repository/models/nobody/load", b""),
    "load, broken": http("POST", "/v2/repository/models/dense/load", b"{"),
    "load with a file": http(
        "POST", "/v2/repository/models/dense/load", b'{"parameters":{"file:1/model.x":"YQ=="}}'
    ),
    "unload of no model": http("POST", "/v2/repository/models/nobody/unload", b""),
    "load": http("POST", "/v2/repository/models/dense/load", b""),
    "unload": http("POST", "/v2/repository/models/dense/unload", b""),
    "infer of what is unloaded": infer(one()),
    "ready of what is unloaded": http("GET", "/v2/models/dense/ready"),
    "metadata of what is unloaded": http("GET", "/v2/models/dense"),
    "load again": http("POST", "/v2/repository/models/dense/load", b"{}"),
}

BROKEN: dict[str, bytes] = {
    "malformed JSON": infer(b'{"inputs":[}'),
    "no body": infer(b""),
    "a list of lists": infer(b"[[0,1,2,3]]"),
    "a number": infer(b"3"),
    "two JSON values": infer(_JSON + _JSON),
    "JSON that is not UTF-8": infer(b'{"id":"\xff",' + _JSON[1:]),
    "half a surrogate pair": infer(rb'{"id":"\ud800",' + _JSON[1:]),
    "nesting without end": infer(b"[" * 100_000),
    "a key twice": infer(_JSON[:-1] + b"," + _JSON[1:]),
    "no inputs": infer({}),
    "inputs: nothing": infer({"inputs": None}),
    "inputs: an object": infer({"inputs": {}}),
    "inputs: none": infer({"inputs": []}),
    "an input that is a number": infer({"inputs": [3]}),
    "id: a number": infer({**one(), "id": 7}),
    "id: nothing": infer({**one(), "id": None}),
    "parameters: a list": infer({**one(), "parameters": []}),
    "a parameter that is an object": infer({**one(), "parameters": {"a": {}}}),
    "priority: negative": infer({**one(), "parameters": {"priority": -1}}),
    "timeout: a text": infer({**one(), "parameters": {"timeout": "soon"}}),
    "sequence": infer({**one(), "parameters": {"sequence_id": 4, "sequence_start": True}}),
    "binary_data_output: a text": infer({**one(), "parameters": {"binary_data_output": "yes"}}),
    "no name": infer(one(name=None)),
    "unknown input": infer(one(name="X1")),
    "input twice": infer({"inputs": [x(), x()]}),
    "an input too many": infer({"inputs": [x(), x(name="z")]}),
    "an input too few": infer({"inputs": _PAIR[:2]}, "pair"),
    "no datatype": infer(one(datatype=None)),
    "another datatype": infer(one(datatype="FP64")),
    "no such datatype": infer(one(datatype="FLOAT")),
    "no shape": infer(one(shape=None)),
    "shape: a number": infer(one(shape=8)),
    "shape: fractions": infer(one(shape=[2.5, 4])),
    "shape: negative": infer(one(shape=[-1, 4])),
    "shape: beyond 64 bits": infer(one(shape=[1 << 40, 1 << 40])),
    "another rank": infer(one(shape=[8])),
    "another size": infer(one(shape=[4, 2])),
    "sizes that do not fit each other": infer(
        {"inputs": [*_PAIR[:2], {**_PAIR[2], "shape": [3], "data": [1, 2, 3]}]}, "pair"
    ),
    "no rows": infer(one(shape=[0, 4], data=[])),
    "65 rows where 64 are the most of a batch": infer(one(shape=[65, 4], data=[1.0] * 260)),
    "no data": infer(one(data=None)),
    "data: too few": infer(one(data=[1.0] * 7)),
    "data: too many": infer(one(data=[1.0] * 9)),
    "data: a number": infer(one(data=3)),
    "data: nested unevenly": infer(one(data=[[1, 2, 3, 4], [5, 6, 7]])),
    "data: nested deeper than the shape": infer(one(data=[[[v] for v in r] for r in X.tolist()])),
    "data: texts for numbers": infer(one(data=["1"] * 8)),
    "data: a bool for a number": infer(one(data=[True, *[1.0] * 7])),
    "data: null": infer(one(data=[None, *[1.0] * 7])),
    "data: 1e39 as FP32": infer(_PLAIN % (b"1e39,1,1,1", b"")),
    "data: 1e400": infer(_PLAIN % (b"1e400,1,1,1", b"")),
    "data: NaN": infer(_PLAIN % (b"NaN,1,1,1", b"")),
    "data: Infinity": infer(_PLAIN % (b"Infinity,1,1,1", b"")),
    "data: fractions as INT64": _c([1.5, 2]),
    "data: 1.0 as INT64": _c([1.0, 2.0]),
    "data: 2**63 as INT64": _c([2**63, 1]),
    "data: numbers for texts": infer({"inputs": [{**_WORD, "data": [1, 2]}]}, "texts"),
    "outputs: nothing": infer({**one(), "outputs": None}),
    "outputs: a number": infer({**one(), "outputs": 3}),
    "unknown output": infer({**one(), "outputs": [{"name": "z"}]}),
    "output twice": infer({**one(), "outputs": [{"name": "y"}, {"name": "y"}]}),
    "an output without a name": infer({**one(), "outputs": [{}]}),
    "classification: negative": infer(
        {**one(), "outputs": [{"name": "y", "parameters": {"classification": -1}}]}
    ),
    "classification: a text": infer(
        {**one(), "outputs": [{"name": "y", "parameters": {"classification": "two"}}]}
    ),
    "an input in shared memory": infer(
        one(
            data=None, parameters={"shared_memory_region": "a", "shared_memory_byte_size": 32}
        )
    ),
}  # fmt: skip

FRAMES: dict[str, bytes] = {
    "a tensor that is cut off": framed({"inputs": [raw_x()]}, RAW[:-1]),
    "bytes left behind": framed({"inputs": [raw_x()]}, RAW + b"\0"),
    "a size that is not the shape's": framed({"inputs": [raw_x(28)]}, RAW[:28]),
    "a size of nothing": framed({"inputs": [raw_x(0)]}, b""),
    "a size that is negative": framed({"inputs": [raw_x(-1)]}, RAW),
    "a size that is a text": framed({"inputs": [raw_x("32 bytes")]}, RAW),
    "a size beyond 64 bits": framed({"inputs": [raw_x(1 << 70)]}, RAW),
    "size and data": framed({"inputs": [{**x(), **raw_x()}]}, RAW),
    "a header beyond the body": framed({"inputs": [raw_x()]}, RAW, 99_999),
    "a header that ends in the JSON": framed({"inputs": [raw_x()]}, RAW, 20),
    "a header that is negative": framed({"inputs": [raw_x()]}, RAW, -1),
    "a header that is a text": framed({"inputs": [raw_x()]}, RAW, "long"),
    "a header that is empty": framed({"inputs": [raw_x()]}, RAW, ""),
    "raw tensors without a header": infer({"inputs": [raw_x()]}),
    "a raw body of another size": infer(RAW[:15], **{LENGTH: "0"}),
    "a raw body for several inputs": infer(RAW, "pair", **{LENGTH: "0"}),
    "a raw body of nothing": infer(b"", **{LENGTH: "0"}),
    "a text's length that is cut off": framed(
        {"inputs": [{**_WORD, "parameters": {"binary_data_size": 6}}]},
        texts(b"a")[:3] + b"\0\0\0",
        None,
        "texts",
    ),
    "a text that is cut off": framed(
        {"inputs": [{**_WORD, "parameters": {"binary_data_size": 8}}]},
        b"\x09\0\0\0naru",
        None,
        "texts",
    ),
    "a text too few": framed(
        {"inputs": [{**_WORD, "parameters": {"binary_data_size": 8}}]},
        texts(b"naru"),
        None,
        "texts",
    ),
    "a text that is not UTF-8": framed(
        {"inputs": [{**_WORD, "parameters": {"binary_data_size": 10}}]},
        texts(b"\xff", b"a"),
        None,
        "texts",
    ),
    "gzip that is none": _gzipped(_JSON),
    "gzip that is cut off": _gzipped(gzip.compress(_JSON)[:-6]),
    "a coding of nobody": _gzipped(_JSON, "br"),
    "chunks that are broken": chunked("/v2/models/dense/infer", _JSON).replace(b"\n4a", b"\nzz"),
    "a length that is no number": infer(_JSON).replace(b"Length: 74", b"Length: 7x"),
    "a length that is negative": infer(_JSON).replace(b"Length: 74", b"Length: -4"),
    "HTTP/1.0": infer(_JSON).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "no host": infer(_JSON).replace(b"Host: localhost\r\n", b""),
    "the whole address": infer(_JSON).replace(b"POST ", b"POST http://localhost", 1),
    "a path with escapes": infer(_JSON, "d%65nse"),
    "a path that goes up": infer(_JSON, "pair/../dense"),
    "an upgrade that nobody wants": infer(_JSON, Connection="Upgrade", Upgrade="h2c"),
    "100-continue": infer(_JSON, Expect="100-continue"),
    "CONNECT": http("CONNECT", "localhost:80"),
    "two lengths": infer(_JSON, Content_Length="5"),
    "no HTTP": b"hello\r\n\r\n",
    "a header of 100 kB": infer(_JSON, X_Long="a" * 100_000),
}  # fmt: skip

CASES = {**VALID, **PATHS, **BROKEN, **FRAMES}


# ---- where the answers differ ----

# reason -> the cases. A case that is not here must be answered alike by both.
DIFFERENCES: dict[str, tuple[str, ...]] = {
    "a client's mistake is a 400 with the field's name, never a 500": (
        "POST index, broken", "POST a log setting of another type", "load, broken",
        "malformed JSON", "a number", "two JSON values", "nesting without end",
        "no inputs", "inputs: nothing", "inputs: an object", "id: a number",
        "parameters: a list", "priority: negative", "timeout: a text",
        "binary_data_output: a text", "no name", "no datatype", "no shape", "shape: a number",
        "shape: fractions", "shape: negative", "data: too few", "data: too many", "data: a number",
        "data: nested unevenly", "data: texts for numbers", "data: a bool for a number",
        "data: null", "data: 1e400", "data: fractions as INT64", "data: 1.0 as INT64",
        "data: 2**63 as INT64", "data: numbers for texts", "outputs: a number",
        "an output without a name", "classification: negative", "classification: a text",
        "a size that is negative", "a size that is a text", "a size beyond 64 bits",
        "a header that ends in the JSON", "a text that is not UTF-8",
    ),
    "what is wrong is refused, not passed over": (
        "POST an unknown log setting", "POST an unknown trace setting",
        "sizes that do not fit each other", "data: nested deeper than the shape", "output twice",
        "gzip that is cut off",
    ),
    "JSON has no NaN and no infinity: raw tensors have, else it is a 400 that says so": (
        "data: NaN", "data: Infinity",
    ),
    "a number that the datatype cannot hold is refused": ("data: 1e39 as FP32",),
    "JSON is UTF-8 (RFC 8259, 8.1)": ("JSON that is not UTF-8", "half a surrogate pair"),
    "null is the same as not given, as clients that write all their fields mean it": (
        "id: nothing", "outputs: nothing",
    ),
    "health has a body, as the specification says": (
        "GET /v2/health/live", "GET /v2/health/ready", "GET ready of a model",
    ),
    "every answer but that to HEAD is JSON": ("load", "unload", "load again"),
    "the specification's own description has this path": ("GET /v2/",),
    "HEAD is there wherever GET is (RFC 9110, 9.3.2)": ("HEAD live",),
    "a configuration has only the keys that naru has a meaning for": (
        "GET config", "GET config of a version",
    ),
    "there is no such model: 404": ("load of no model", "unload of no model"),
    "the model is known and can come back: 503, not 404 or 400": (
        "infer of what is unloaded", "ready of what is unloaded", "metadata of what is unloaded",
    ),
    "an id that is given comes back, also an empty one": ("empty id",),
    "outputs come in the order that they are asked for": ("outputs in another order",),
    "a raw text is taken for any input of texts": ("raw body, a text",),
    "rows without names or shapes, naru's own short form": ("a list of lists",),
    "no limit where the model has none: the configuration's is what requests are put together to": (
        "no rows", "65 rows where 64 are the most of a batch",
    ),
    "naru's models keep no state: who counts on it is told": ("sequence",),
    "naru has no such extension: 501": ("generate with tensors",),
    "an unknown Content-Encoding is 415 (RFC 9110, 15.5.16)": ("a coding of nobody",),
    "escapes in a path are read (RFC 3986, 2.1)": ("a path with escapes",),
    "what is not HTTP is told so, before the connection closes": (
        "chunks that are broken", "a length that is no number", "a length that is negative",
        "no HTTP", "a header of 100 kB",
    ),
}  # fmt: skip
