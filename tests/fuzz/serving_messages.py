"""Messages of gRPC drawn at random: most are of the protocol, or would be but for a detail or two.

A case is a method and the messages that it is called with, as bytes (`write`, `read`).
"""

from __future__ import annotations

import math
import struct
from random import Random
from typing import Any

import numpy as np

from naru.serve.grpc_messages import METHODS, message

from . import byte_mutations
from .serving_requests import DTYPES, MODELS, NAMES, OUTPUTS, SHAPES, element, one_of, raw_of

_FIELDS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents",
    "INT32": "int_contents", "INT64": "int64_contents", "UINT8": "uint_contents",
    "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
_KEYS = (
    "priority", "timeout", "sequence_id", "binary_data", "binary_data_output", "classification",
    "shared_memory_region", "a", "", "file:1/model.onnx", "config", "log_info", "trace_rate",
)  # fmt: skip


def write(method: str, messages: list[bytes]) -> bytes:
    """A case as bytes."""
    parts = [method.encode(), b"\n", *(struct.pack("<I", len(m)) + m for m in messages)]
    return b"".join(parts)


def read(data: bytes) -> tuple[str, list[bytes]]:
    """The method and the messages of a case."""
    method, _, rest = data.partition(b"\n")
    found: list[bytes] = []
    while rest:
        (size,) = struct.unpack_from("<I", rest)
        found.append(rest[4 : 4 + size])
        rest = rest[4 + size :]
    return method.decode(), found


def good(v: int) -> bytes:
    """A request whose id says which answer is right (`serving_requests.right_answer`)."""
    request = message("ModelInferRequest")(model_name="dense", id=f"good-{v}")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    x = np.arange(4, dtype="<f4") + v
    if v % 2:
        tensor.contents.fp32_contents.extend(x.tolist())
    else:
        request.raw_input_contents.append(x.tobytes())
    return request.SerializeToString()


def draw_call(rng: Random) -> bytes:
    """A call, with good requests between the others where it is a stream."""
    kind = rng.random()
    if kind < 0.65:
        return write("ModelInfer", [_hurt(_draw_infer(rng), rng)])
    if kind < 0.8:
        asked = [_hurt(_draw_infer(rng), rng) for _ in range(rng.randrange(1, 6))]
        asked.insert(rng.randrange(len(asked) + 1), good(rng.randrange(100)))
        return write("ModelStreamInfer", asked)
    method = rng.choice([m for m in METHODS if not m.endswith("Infer")])
    return write(method, [_hurt(_draw_other(method, rng), rng)])


def _hurt(data: bytes, rng: Random) -> bytes:
    return byte_mutations.damage(data, (data,), rng) if rng.random() < 0.4 else data


def _draw_infer(rng: Random) -> bytes:
    model = rng.choice((*MODELS, "dense", "pair", "kinds", "texts"))
    request = message("ModelInferRequest")(model_name=model)
    request.model_version = one_of(rng, "", "1", "2", "-1", "x" * 300, "stable")
    request.id = one_of(rng, "", "a", "나루" * 300, "\u0000")
    raw, rows = rng.random() < 0.5, rng.choice((0, 1, 1, 2, 3, 7))
    for name, datatype, dims in MODELS[model]:
        if name == "naru_seed" and rng.random() < 0.5:
            continue
        _draw_input(request, name, datatype, [d or rows for d in dims], rng, raw)
    if rng.random() < 0.05:
        request.raw_input_contents.append(rng.randbytes(rng.choice((0, 1, 16))))
    if rng.random() < 0.3:
        for _ in range(rng.randrange(1, 3)):
            output = request.outputs.add(
                name=one_of(rng, rng.choice(OUTPUTS.get(model, ("y",))), *NAMES)
            )
            if rng.random() < 0.5:
                _draw_parameter(output.parameters, rng)
    if rng.random() < 0.1:
        _draw_parameter(request.parameters, rng)
    return request.SerializeToString()


def _draw_input(
    request: Any, name: str, datatype: str, shape: list[int], rng: Random, raw: bool
) -> None:
    values = [element(datatype, rng) for _ in range(math.prod(shape))]
    if rng.random() < 0.04:
        return
    told = rng.choice([s for s in SHAPES if _is_shape(s)]) if rng.random() < 0.08 else shape
    tensor = request.inputs.add(
        name=one_of(rng, name, *NAMES), datatype=one_of(rng, datatype, *DTYPES, "", "fp32"),
        shape=told,
    )  # fmt: skip
    if rng.random() < 0.04:
        _draw_parameter(tensor.parameters, rng)
    if raw or datatype not in _FIELDS:
        data = raw_of(values, datatype)
        request.raw_input_contents.append(one_of(rng, data, data[:-1], data + b"\0", b""))
    else:
        values = one_of(rng, values, values[:-1], values * 2)
        field = getattr(tensor.contents, _FIELDS[datatype])
        field.extend(v.encode() if isinstance(v, str) else v for v in values)
        if rng.random() < 0.04:
            tensor.contents.int_contents.append(1 << 30)
        if rng.random() < 0.04:
            request.raw_input_contents.append(b"")


def _is_shape(shape: object) -> bool:
    fits = range(-1 << 63, 1 << 63)
    return isinstance(shape, list) and all(type(d) is int and d in fits for d in shape)


def _draw_parameter(parameters: Any, rng: Random) -> None:
    parameter = parameters[rng.choice(_KEYS)]
    kind = rng.choice([f.name for f in parameter.DESCRIPTOR.fields])
    field = parameter.DESCRIPTOR.fields_by_name[kind]
    if rng.random() < 0.9:
        setattr(parameter, kind, _scalar(field, rng))


def _scalar(field: Any, rng: Random) -> Any:
    """A value of a field that is no message."""
    match field.cpp_type:
        case field.CPPTYPE_STRING:
            text = rng.choice(("", "dense", "spare", "broken", "nobody", "1", *NAMES))
            return text.encode() if field.type == field.TYPE_BYTES else text
        case field.CPPTYPE_BOOL:
            return rng.random() < 0.5
        case field.CPPTYPE_INT32:
            return rng.choice((0, 1, -1, (1 << 31) - 1))
        case field.CPPTYPE_INT64:
            return rng.choice((0, 1, -1, 10_000_000, (1 << 63) - 1, -1 << 63))
        case field.CPPTYPE_UINT32:
            return rng.choice((0, 1, (1 << 32) - 1))
        case field.CPPTYPE_UINT64:
            return rng.choice((0, 1, (1 << 64) - 1))
        case _:
            return rng.choice((0.0, 1.5, -1.0, math.inf, math.nan))


def _draw_other(method: str, rng: Random) -> bytes:
    """A request of a call that is no inference; it loads and unloads no model but one of them."""
    request = message(METHODS[method].input_type.name)()
    for field in request.DESCRIPTOR.fields:
        if rng.random() < 0.3:
            continue
        if field.message_type is None:
            setattr(request, field.name, _scalar(field, rng))
        elif field.name == "parameters" or method == "LogSettings":
            _draw_parameter(getattr(request, field.name), rng)
        else:
            setting = getattr(request, field.name)[rng.choice(("trace_rate", "trace_level", "a"))]
            setting.value.extend(rng.choice(((), ("1",), ("OFF",), ("TIMESTAMPS", "x"), ("-1",))))
    if "load" in method.lower() and request.model_name == "dense":
        request.model_name = "spare"
    return request.SerializeToString()
