"""A line to try a model with."""

from __future__ import annotations

from urllib.parse import quote

import orjson

from naru.serve.datatypes import TEXT
from naru.serve.servable import Servable
from naru.serve.signature import Tensor

_SHORT = 16  # elements that a line has room for


def curl(address: str, servable: Servable) -> str:
    """A curl command that the server answers: zeros of the smallest sizes, or where those are many
    the model's metadata."""
    path = f"{address}/v2/models/{quote(servable.name)}"
    tensors = [t for t in servable.signature.inputs if not t.optional]
    shapes = [_smallest(t, servable) for t in tensors]
    if sum(map(_count, shapes)) > _SHORT:
        return f"curl {path}"
    inputs = [
        {
            "name": t.name,
            "datatype": t.datatype,
            "shape": shape,
            "data": [_zero(t)] * _count(shape),
        }
        for t, shape in zip(tensors, shapes, strict=True)
    ]
    body = orjson.dumps({"inputs": inputs}).decode().replace("'", "'\\''")
    return f"curl -d '{body}' {path}/infer"


def _smallest(tensor: Tensor, servable: Servable) -> list[int]:
    ranges = servable.signature.ranges
    return [d if isinstance(d, int) else max(1, ranges.get(d, (1, 1))[0]) for d in tensor.dims]


def _count(shape: list[int]) -> int:
    count = 1
    for dim in shape:
        count *= dim
    return count


def _zero(tensor: Tensor) -> object:
    if tensor.datatype == TEXT:
        return ""
    return False if tensor.datatype == "BOOL" else 0
