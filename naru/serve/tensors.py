"""Tensors of requests and answers, as far as JSON and gRPC have them alike: raw bytes, names,
datatypes and shapes, what a client wants back, and what the parameters of the protocol mean."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from naru.serve.datatypes import TEXT
from naru.serve.refusals import INVALID, Refusal
from naru.serve.signature import Signature, Tensor

Array = NDArray[Any]
_MOST_DIMS = 32
_MOST_BYTES = 1 << 62


@dataclass(frozen=True, slots=True)
class Wish:
    """An output as the client wants it: raw, or the best `classes` as texts."""

    name: str
    binary: bool = False
    classes: int = 0


@dataclass(slots=True)
class Decoded:
    """A request: its arrays, what the client wants back, and what it says besides."""

    arrays: dict[str, Array]
    wishes: Sequence[Wish] | None = None  # None: all outputs
    binary: bool = False  # where no wish says so
    id: str | None = None
    priority: int = 0
    timeout_us: int = 0
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "nothing"
    names = {"dict": "an object", "list": "a list", "str": "a text", "bool": "a bool"}
    return names.get(type(value).__name__, "a number")


def read_parameters(parameters: Mapping[str, Any], decoded: Decoded, problems: list[str]) -> None:
    """Fills in what the parameters of a request say that the protocol has a meaning for."""
    decoded.priority = whole(parameters, "priority", problems)
    decoded.timeout_us = whole(parameters, "timeout", problems)
    binary = parameters.get("binary_data_output", False)
    if not isinstance(binary, bool):
        problems.append(f"parameters.binary_data_output: expected a bool, got {kind_of(binary)}")
    decoded.binary = binary is True
    if parameters.get("sequence_id"):
        problems.append("parameters.sequence_id: naru's models keep no state between requests")


def whole(
    given: Mapping[str, Any], key: str, problems: list[str], where: str = "parameters"
) -> int:
    """A parameter that is a number of at least 0; 0 where it is not there."""
    value = given.get(key, 0)
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)  # as some clients write 64-bit numbers
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        problems.append(f"{where}.{key}: expected a whole number, got {value!r}")
        return 0
    return value


def declared(
    name: str, datatype: object, signature: Signature, arrays: Mapping[str, Array]
) -> Tensor:
    """The input that a request's tensor is, by its name and datatype; `arrays`: those before it.
    Raises a Refusal."""
    tensor = signature.input.get(name)
    if tensor is None:
        raise Refusal(INVALID, signature.unknown_input(name))
    if name in arrays:
        raise Refusal(INVALID, f"input '{name}' is given twice")
    if datatype != tensor.datatype:
        got = datatype if isinstance(datatype, str) else kind_of(datatype)
        raise Refusal(INVALID, f"input '{name}': expected datatype {tensor.datatype}, got {got}")
    return tensor


def read_shape(given: object, name: str) -> tuple[int, ...]:
    """The shape of an input. Raises a Refusal."""
    if isinstance(given, list):
        shape: tuple[Any, ...] = tuple(cast("list[Any]", given))
        whole = True
        for d in shape:  # a loop, which is five times as fast as `all`
            whole = whole and type(d) is int and 0 <= d < 1 << 62
        # An array without elements may have any dims but those that numpy cannot count.
        if whole and 0 in shape and math.prod(max(1, d) for d in shape) >= _MOST_BYTES >> 4:
            raise Refusal(INVALID, f"input '{name}': shape: {list(shape)} is too large")
        if whole and len(shape) > _MOST_DIMS:
            got = len(shape)
            raise Refusal(
                INVALID, f"input '{name}': shape: expected {_MOST_DIMS} dims at most, got {got}"
            )
        if whole:
            return shape
    got = short(cast(object, given))
    raise Refusal(INVALID, f"input '{name}': shape: expected a list of whole numbers, got {got}")


def short(value: object) -> str:
    """A value as messages show it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def from_bytes(
    body: bytes | memoryview, at: int, size: int, tensor: Tensor, shape: tuple[int, ...]
) -> Array:
    """An array of the raw bytes from a place on; a view of them where they are aligned. Raises a
    Refusal."""
    count = math.prod(shape)
    if tensor.datatype == TEXT:
        return _texts(memoryview(body)[at : at + size], tensor.name, count).reshape(shape)
    dtype = tensor.dtype
    if count > _MOST_BYTES or count * dtype.itemsize != size:
        raise Refusal(
            INVALID,
            f"input '{tensor.name}': {tensor.datatype}{list(shape)} has "
            f"{count * dtype.itemsize} bytes, got {size}",
        )
    if dtype.kind == "b":
        return np.frombuffer(body, np.uint8, count, at).reshape(shape) != 0
    array = np.frombuffer(body, dtype, count, at).reshape(shape)
    return array if array.flags.aligned else array.copy()


def _texts(data: memoryview, name: str, count: int) -> Array:
    """Texts, each as its length and its bytes."""
    texts: list[str] = []
    at, end = 0, len(data)
    while at < end:
        if at + 4 > end:
            raise Refusal(INVALID, f"input '{name}': the length of text {len(texts)} is cut off")
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if at + length > end:
            raise Refusal(
                INVALID,
                f"input '{name}': text {len(texts)} has {length} bytes, {end - at} are left",
            )
        texts.append(decode_text(bytes(data[at : at + length]), name, len(texts)))
        at += length
    return text_array(texts, name, count)


def decode_text(data: bytes, name: str, position: int) -> str:
    """Raises a Refusal for what is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Refusal(
            INVALID, f"input '{name}': text {position} is not UTF-8: {error.reason}"
        ) from None


def text_array(texts: Sequence[str], name: str, count: int) -> Array:
    """Texts as an array of objects. Raises a Refusal where their number is not the shape's."""
    if len(texts) != count:
        raise Refusal(
            INVALID, f"input '{name}': the shape has {count} elements, data has {len(texts)}"
        )
    array = np.empty(count, object)
    array[:] = texts
    return array


def add_wish(
    wishes: list[Wish],
    name: str,
    parameters: Mapping[str, Any],
    signature: Signature,
    binary: bool,
    problems: list[str],
) -> None:
    """Adds the wish for an output, or says what is wrong with it."""
    where = f"output '{name}': parameters"
    raw = parameters.get("binary_data", binary)
    if not isinstance(raw, bool):
        problems.append(f"{where}.binary_data: expected a bool, got {kind_of(raw)}")
    classes = whole(parameters, "classification", problems, where)
    if "shared_memory_region" in parameters:
        problems.append(f"output '{name}': shared memory is not supported")
    if name not in signature.output:
        problems.append(signature.unknown_output(name))
    elif any(w.name == name for w in wishes):
        problems.append(f"output '{name}' is asked for twice")
    else:
        wishes.append(Wish(name, raw is True, classes))


def wished(
    decoded: Decoded, signature: Signature, outputs: Sequence[Array]
) -> list[tuple[Tensor, Wish | None, Array]]:
    """The outputs that a client wants, in its order, each with what it is and how it is wanted;
    None: as the whole request says."""
    if decoded.wishes is None:
        return [(t, None, a) for t, a in zip(signature.outputs, outputs, strict=True)]
    by_name = dict(zip(signature.output, outputs, strict=True))
    return [(signature.output[w.name], w, by_name[w.name]) for w in decoded.wishes]


def to_bytes(array: Array) -> bytes:
    """Elements as raw bytes, row-major and little-endian; texts with their lengths."""
    if array.dtype != object:
        return array.tobytes()
    parts: list[bytes] = []
    for text in array.ravel().tolist():
        data = text if isinstance(text, bytes) else str(text).encode()
        parts += (struct.pack("<I", len(data)), data)
    return b"".join(parts)
