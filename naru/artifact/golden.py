"""Golden vectors: inputs of an entry, and the outputs that the reference gives for them."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError
from .manifest import MAX_DIM, MAX_RANK, Json, Reader, dtype_of, parse_json

GOLDEN_ALIGN = 64


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """Inputs of an entry and the outputs that the reference gives for them."""

    entry: str
    inputs: tuple[NDArray[Any], ...]
    outputs: tuple[NDArray[Any], ...]


def pack_golden(cases: Sequence[GoldenCase]) -> bytes:
    """The `golden` section: u32 length of a JSON index, the index, then raw little-endian arrays,
    each at a multiple of 64."""
    index: list[Json] = []
    body = bytearray()
    for case in cases:
        record: Json = {"entry": case.entry, "inputs": [], "outputs": []}
        for key, arrays in (("inputs", case.inputs), ("outputs", case.outputs)):
            for array in arrays:
                body.extend(bytes(-len(body) % GOLDEN_ALIGN))
                record[key].append(
                    {"dtype": array.dtype.name, "shape": list(array.shape), "offset": len(body)}
                )
                body.extend(array.astype(array.dtype.newbyteorder("<"), order="C").tobytes())
        index.append(record)
    text = json.dumps(index, sort_keys=True, separators=(",", ":")).encode()
    head = struct.pack("<I", len(text)) + text
    return head + bytes(-len(head) % GOLDEN_ALIGN) + bytes(body)


def unpack_golden(section: memoryview) -> tuple[GoldenCase, ...]:
    """The golden vectors of a section; the arrays are read-only views of it. Raises BundleError."""
    if len(section) < 4:
        raise BundleError("golden: too short for its index")
    (length,) = struct.unpack("<I", section[:4])
    if length > len(section) - 4:
        raise BundleError("golden: the index does not fit in the section")
    index = parse_json(bytes(section[4 : 4 + length]), "golden: the index")
    body = section[min(len(section), -(-(4 + length) // GOLDEN_ALIGN) * GOLDEN_ALIGN) :]
    readers = Reader({"cases": index}, "golden").objects("cases")
    return tuple(
        GoldenCase(
            reader.text("entry"),
            tuple(_read_array(r, body) for r in reader.objects("inputs")),
            tuple(_read_array(r, body) for r in reader.objects("outputs")),
        )
        for reader in readers
    )


def _read_array(reader: Reader, body: memoryview) -> NDArray[Any]:
    dtype = dtype_of(reader.text("dtype"))
    shape: list[int] = []
    count = 1
    for dim in reader.items("shape"):
        if not isinstance(dim, int) or isinstance(dim, bool) or not 0 <= dim <= MAX_DIM:
            raise reader.fail("shape", "sizes")
        shape.append(dim)
        count *= dim
    if len(shape) > MAX_RANK:
        raise reader.fail("shape", f"at most {MAX_RANK} dims")
    offset = reader.number("offset", 0, len(body))
    if count * dtype.itemsize > len(body) - offset:
        raise reader.fail("shape", "an array inside the section")
    try:
        return np.ndarray(shape, dtype, buffer=body, offset=offset)
    except (ValueError, TypeError) as error:  # an empty array with absurd other dims
        raise reader.fail("shape", f"a shape that numpy can hold ({error})") from error
