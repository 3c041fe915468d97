"""Requests and answers of the protocol as bytes: JSON, with tensors in it or as bytes behind it.

Open Inference Protocol v2 and its binary tensor data extension, as Triton's clients speak it. A
body is a JSON object; where the header `Inference-Header-Content-Length` gives its length, raw
tensors follow it in the order of the inputs, little-endian and row-major; a text is its length
(u32) and its UTF-8 bytes. A length of 0 says that the whole body is the one input.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from naru.serve.classification import classify
from naru.serve.datatypes import TEXT
from naru.serve.refusals import INVALID, UNSUPPORTED, Refusal, joined
from naru.serve.signature import Signature, Tensor
from naru.serve.tensors import (
    Decoded,
    Wish,
    add_wish,
    declared,
    decode_text,
    from_bytes,
    kind_of,
    read_parameters,
    read_shape,
    short,
    text_array,
    to_bytes,
    whole,
    wished,
)

Array = NDArray[Any]
# datatype -> the format of `struct`, which is twice as fast as numpy from a list, and tells numbers
# that are too large instead of making infinities of them
_FORMATS = {
    "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q",
    "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q",
    "FP16": "e", "BF16": "f", "FP32": "f", "FP64": "d",
}  # fmt: skip
_ELEMENTS: dict[str, tuple[tuple[type, ...], str]] = {
    "b": ((bool,), "true and false"),
    "i": ((int,), "integers"),
    "u": ((int,), "integers"),
    "f": ((float, int), "numbers"),
    "V": ((float, int), "numbers"),  # bfloat16
    "O": ((str,), "texts"),
}
_SHORT_HEAD = 1 << 10  # bytes of a JSON that is worth remembering
_RAW = 16  # raw bytes that take as long to copy as one of JSON to parse
_TO_COME: Array = np.empty(0)  # stands for a tensor that is not read yet


# ---- in ----


def decode(
    body: bytes, json_length: int | None, signature: Signature, most_inputs: int = 1024
) -> Decoded:
    """The request of a body. `json_length`: of the header, where it is there.

    Raises a Refusal that names every field that is wrong."""
    if json_length == 0:
        return _decode_raw(body, signature)
    if json_length is not None and json_length > len(body):
        raise Refusal(
            INVALID,
            f"Inference-Header-Content-Length is {json_length}, the body has {len(body)} bytes",
        )
    if json_length is None:
        head = _read_head(body, signature, most_inputs)
    elif json_length <= _SHORT_HEAD:
        head = _short_head(body[:json_length], signature, most_inputs)
    else:
        head = _read_head(body[:json_length], signature, most_inputs)
    return head.fill(body, len(body) if json_length is None else json_length)


def work_of(size: int, json_length: int | None, signature: Signature) -> int:
    """Bytes of a body that take as long to decode as JSON: raw numbers are copied at most."""
    if json_length is None or signature.has_texts:
        return size
    return json_length + (size - json_length) // _RAW


@dataclass(slots=True)
class _Head:
    """The JSON of a request: what it says, what is wrong with it, and which raw tensors follow."""

    decoded: Decoded  # raw tensors have a place in its arrays
    raws: list[tuple[Tensor, tuple[int, ...], int]]  # and the bytes that each has
    problems: list[str]

    def fill(self, body: bytes, at: int) -> Decoded:
        """The request, with the raw tensors that begin there in the body. Raises a Refusal."""
        decoded, problems = self.decoded, self.problems
        if not self.raws and not problems and at == len(body):
            return decoded
        arrays, problems = decoded.arrays.copy(), problems.copy()
        for tensor, shape, size in self.raws:
            left = len(body) - at
            if size > left:
                problems.append(
                    f"input '{tensor.name}': binary_data_size is {size}, {left} bytes are left"
                )
                break
            try:
                arrays[tensor.name] = from_bytes(body, at, size, tensor, shape)
            except Refusal as refusal:
                problems.append(refusal.message)
            at += size
        if not problems and at != len(body):
            problems.append(f"{len(body) - at} bytes are left behind the last tensor")
        if problems:
            raise Refusal(INVALID, joined(problems))
        options = decoded.id, decoded.priority, decoded.timeout_us, decoded.parameters
        return Decoded(arrays, decoded.wishes, decoded.binary, *options)


def _read_head(text: bytes, signature: Signature, most_inputs: int) -> _Head:
    """Reads the JSON of a request. Raises a Refusal for what is no JSON object."""
    request: Any = parse(text)
    if not isinstance(request, dict):
        raise Refusal(INVALID, f"expected a JSON object, got {kind_of(request)}")
    request = cast("dict[str, Any]", request)
    head = _Head(Decoded({}), [], [])
    problems = head.problems
    _read_options(request, head.decoded, problems)
    inputs: Any = request.get("inputs")
    if not isinstance(inputs, list):
        problems.append(f"inputs: expected a list of tensors, got {kind_of(inputs)}")
    elif len(cast("list[Any]", inputs)) > most_inputs:
        problems.append(f"inputs: expected at most {most_inputs}, got {len(cast(Any, inputs))}")
    else:
        bools = b"true" in text or b"false" in text
        for k, item in enumerate(cast("list[Any]", inputs)):
            try:
                _read_input(item, k, signature, head, bools)
            except Refusal as refusal:
                problems.append(refusal.message)
    wishes = request.get("outputs")
    if wishes not in (None, []):  # as all clients mean it: all of them
        decoded = head.decoded
        decoded.wishes = _read_wishes(wishes, signature, decoded.binary, problems)
    return head


@lru_cache(1024)
def _short_head(text: bytes, signature: Signature, most_inputs: int) -> _Head:
    """The same: whose tensors are raw sends the same JSON before them time and again."""
    head = _read_head(text, signature, most_inputs)
    for array in head.decoded.arrays.values():
        array.flags.writeable = False  # others may get it
    return head


def parse(text: bytes) -> Any:
    """The value of a JSON text; NaN and Infinity are taken, numbers too large for float64 are not.
    Raises a Refusal."""
    try:
        return orjson.loads(text)
    except ValueError as error:
        first = error
    if b"NaN" not in text and b"Infinity" not in text:
        raise Refusal(INVALID, f"the body is not JSON: {first}")
    try:
        value = json.loads(text, parse_float=_parse_float)
        if rb"\u" in text:  # half of a surrogate pair is JSON for this parser, but no text
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise Refusal(INVALID, f"the body is not JSON: {error}") from None


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large a number")
    return value


def _read_options(request: Mapping[str, Any], decoded: Decoded, problems: list[str]) -> None:
    """Fills in id and parameters, and what is wrong with them."""
    identity = request.get("id")
    if identity is not None and not isinstance(identity, str):
        problems.append(f"id: expected a text, got {kind_of(identity)}")
    else:
        decoded.id = identity
    given = request.get("parameters")
    if given is not None:
        decoded.parameters = check_parameters(given, "parameters", problems)
        read_parameters(decoded.parameters, decoded, problems)


def check_parameters(given: object, where: str, problems: list[str]) -> Mapping[str, Any]:
    """The parameters of a request or tensor: texts, numbers and bools by name."""
    if not isinstance(given, dict):
        problems.append(f"{where}: expected an object, got {kind_of(given)}")
        return {}
    for key, value in cast("dict[str, Any]", given).items():
        if not isinstance(value, str | int | float | bool):
            problems.append(f"{where}.{key}: expected a text, number or bool, got {kind_of(value)}")
    return cast("dict[str, Any]", given)


def _read_input(item: Any, k: int, signature: Signature, head: _Head, bools: bool) -> None:
    """Adds an input. Raises a Refusal."""
    if not isinstance(item, dict):
        raise Refusal(INVALID, f"inputs[{k}]: expected an object, got {kind_of(item)}")
    given = cast("dict[str, Any]", item)
    name = given.get("name")
    if not isinstance(name, str):
        raise Refusal(INVALID, f"inputs[{k}].name: expected a text, got {kind_of(name)}")
    size = _binary_size(given, name) if "parameters" in given else None
    arrays = head.decoded.arrays
    tensor = declared(name, given.get("datatype"), signature, arrays)
    shape = read_shape(given.get("shape"), name)
    if size is None:
        if "data" not in given:
            raise Refusal(INVALID, f"input '{name}': data is missing")
        arrays[name] = from_json(given["data"], tensor, shape, bools=bools)
    elif "data" in given:
        raise Refusal(INVALID, f"input '{name}': has both data and binary_data_size")
    else:
        arrays[name] = _TO_COME
        head.raws.append((tensor, shape, size))


def _binary_size(given: Mapping[str, Any], name: str) -> int | None:
    parameters = given.get("parameters")
    if parameters is None:
        return None
    problems: list[str] = []
    where = f"input '{name}': parameters"
    checked = check_parameters(parameters, where, problems)
    if "shared_memory_region" in checked:
        raise Refusal(UNSUPPORTED, f"input '{name}': shared memory is not supported")
    size = whole(checked, "binary_data_size", problems, where)
    if problems:
        raise Refusal(INVALID, joined(problems))
    return size if "binary_data_size" in checked else None


def from_json(data: object, tensor: Tensor, shape: tuple[int, ...], *, bools: bool = True) -> Array:
    """An array of the elements of a JSON list, flat or nested as the shape is. `bools`: there may
    be true and false in it, which must not become numbers. Raises a Refusal."""
    name, count = tensor.name, math.prod(shape)
    values = cast("list[Any]", data) if isinstance(data, list) else [data]
    if values is not data and (shape or data is None):  # what is no list may be a scalar
        raise Refusal(INVALID, f"input '{name}': data: expected a list, got {kind_of(values[0])}")
    if values and type(values[0]) is list:
        values = _flatten(values, shape, name)
    if len(values) != count:
        raise Refusal(
            INVALID,
            f"input '{name}': shape {list(shape)} has {count} elements, data has {len(values)}",
        )
    code = _FORMATS.get(tensor.datatype)
    if bools or code is None:
        _check_types(values, tensor)
    if code is None:
        array = np.empty(count, tensor.dtype)
        array[:] = values
        return array.reshape(shape)
    try:
        raw = struct.pack(f"<{count}{code}", *values)
    except (struct.error, OverflowError):
        raise _misfit(values, tensor, code) from None
    if tensor.datatype == "BF16":
        return np.frombuffer(raw, np.float32).astype(tensor.dtype).reshape(shape)
    return np.frombuffer(raw, tensor.dtype).reshape(shape)


def _check_types(values: list[Any], tensor: Tensor) -> None:
    """Raises a Refusal where an element is of another kind than the datatype's."""
    allowed, words = _ELEMENTS[tensor.dtype.kind]
    if set(map(type, values)) <= set(allowed):
        return
    at = next(k for k, v in enumerate(values) if type(v) not in allowed)
    raise Refusal(
        INVALID,
        f"input '{tensor.name}': data[{at}]: expected {words} for {tensor.datatype}, "
        f"got {short(values[at])}",
    )


def _misfit(values: list[Any], tensor: Tensor, code: str) -> Refusal:
    """What is wrong with elements that could not be packed."""
    try:
        _check_types(values, tensor)
        for k, value in enumerate(values):
            try:
                struct.pack(f"<{code}", value)
            except (struct.error, OverflowError):
                return Refusal(
                    INVALID,
                    f"input '{tensor.name}': data[{k}]: {short(value)} is out of the range of "
                    f"{tensor.datatype}",
                )
    except Refusal as refusal:
        return refusal
    return Refusal(INVALID, f"input '{tensor.name}': data does not fit {tensor.datatype}")


def _flatten(values: list[Any], shape: tuple[int, ...], name: str) -> list[Any]:
    """The elements of lists that are nested as the shape is."""
    for depth, dim in enumerate(shape):
        if depth:
            nested = all(type(v) is list for v in values)
            if not nested:
                raise Refusal(INVALID, f"input '{name}': data: lists and elements are mixed")
            if any(len(v) != dim for v in values):
                raise Refusal(
                    INVALID,
                    f"input '{name}': data: expected lists of {dim} at depth {depth}, as the shape "
                    f"{list(shape)} says",
                )
            values = list(itertools.chain.from_iterable(values))
        elif len(values) != dim:
            raise Refusal(INVALID, f"input '{name}': data: expected {dim} lists, got {len(values)}")
    if any(type(v) is list for v in values):
        raise Refusal(INVALID, f"input '{name}': data: nested deeper than the shape {list(shape)}")
    return values


def _decode_raw(body: bytes, signature: Signature) -> Decoded:
    """The body as the model's one input, as a batch of one."""
    required = [t for t in signature.inputs if not t.optional]
    if len(required) != 1:
        raise Refusal(
            INVALID,
            f"a raw request is for a model of one input, this one has {len(signature.inputs)}",
            hint="a JSON header with the length of each",
        )
    tensor = required[0]
    if tensor.datatype == TEXT:
        text = decode_text(body, tensor.name, 0)
        if any(d not in (1, -1) for d in tensor.shape):
            raise Refusal(INVALID, f"a raw request is one text, the input is {tensor}")
        return Decoded(
            {tensor.name: text_array([text], tensor.name, 1).reshape([1] * len(tensor.shape))},
            binary=True,
        )
    shape = _raw_shape(tensor, signature, len(body) // tensor.dtype.itemsize)
    return Decoded({tensor.name: from_bytes(body, 0, len(body), tensor, shape)}, binary=True)


def _raw_shape(tensor: Tensor, signature: Signature, count: int) -> tuple[int, ...]:
    """The shape of a batch of one with so many elements."""
    shape = list(tensor.shape)
    if signature.rows is not None and tensor.dims[0] == signature.rows:
        shape[0] = 1
    open_dims = [k for k, d in enumerate(shape) if d < 0]
    if len(open_dims) > 1:
        raise Refusal(
            INVALID,
            f"a raw request is for an input with one open dim at most, this one is {tensor}",
            hint="a JSON header with the shape",
        )
    if open_dims:
        shape[open_dims[0]] = count // max(1, math.prod(d for d in shape if d >= 0))
    return tuple(shape)


def _read_wishes(
    given: object, signature: Signature, binary: bool, problems: list[str]
) -> list[Wish]:
    """The outputs that a client asks for."""
    if not isinstance(given, list):
        problems.append(f"outputs: expected a list, got {kind_of(given)}")
        return []
    wishes: list[Wish] = []
    for k, item in enumerate(cast("list[Any]", given)):
        wish = cast("dict[str, Any]", item) if isinstance(item, dict) else {}
        name = wish.get("name")
        if not isinstance(name, str):
            problems.append(f"outputs[{k}].name: expected a text, got {kind_of(name)}")
            continue
        where = f"output '{name}': parameters"
        given_parameters = wish.get("parameters")
        parameters = check_parameters(
            {} if given_parameters is None else given_parameters, where, problems
        )
        add_wish(wishes, name, parameters, signature, binary, problems)
    return wishes


# ---- out ----


@dataclass(slots=True)
class Encoded:
    """An answer; `json_length` is that of the JSON in front where raw tensors follow."""

    body: bytes
    json_length: int | None = None


def encode(
    model: str,
    version: str,
    decoded: Decoded,
    signature: Signature,
    outputs: Sequence[Array],
    labels: Mapping[str, Sequence[str]],
) -> Encoded:
    """The answer to a request. Raises a Refusal where JSON lacks a value (NaN, infinities)."""
    head: dict[str, Any] = {"model_name": model, "model_version": version}
    if decoded.id is not None:
        head["id"] = decoded.id
    items: list[dict[str, Any]] = []
    tails: list[bytes] = []
    for tensor, wish, array in wished(decoded, signature, outputs):
        datatype = tensor.datatype
        if wish is not None and wish.classes:
            array = classify(array, wish.classes, labels.get(tensor.name, ()))
            datatype = TEXT
        item: dict[str, Any] = {"name": tensor.name, "datatype": datatype, "shape": array.shape}
        if decoded.binary if wish is None else wish.binary:
            raw = to_bytes(array)
            item["parameters"] = {"binary_data_size": len(raw)}
            tails.append(raw)
        else:
            item["data"] = to_json(array)
        items.append(item)
    head["outputs"] = items
    text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in text:  # as orjson writes what JSON has no word for
        check_finite(decoded, signature, outputs)
    if not tails:
        return Encoded(text)
    return Encoded(b"".join((text, *tails)), len(text))


def to_json(array: Array) -> Any:
    """What orjson writes as a flat list; NaN and infinities as null."""
    kind = array.dtype.kind
    if kind == "O":
        return array.ravel().tolist()
    if kind == "V":
        array = array.astype(np.float32)
    return np.ascontiguousarray(array).reshape(-1)


def check_finite(decoded: Decoded, signature: Signature, outputs: Sequence[Array]) -> None:
    """Raises a Refusal where an output that is wanted as JSON has NaN or an infinity in it."""
    for tensor, wish, array in wished(decoded, signature, outputs):
        plain = not decoded.binary if wish is None else not (wish.binary or wish.classes)
        if plain and array.dtype.kind in "fV" and not np.isfinite(array).all():
            raise Refusal(
                INVALID,
                f"output '{tensor.name}' has NaN or infinity in it, for which JSON has no word",
                hint='"parameters": {"binary_data": true} for that output',
            )
