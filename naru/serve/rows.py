"""Plain rows, for people and small programs: a JSON list in, and arrays by name out.

curl -d '[[5.1, 3.5, 1.4, 0.2]]' …/infer                 one input: its elements, nested
curl -d '[{"age": 40, "city": "Seoul"}]' …/infer  columns of the one input, or inputs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from naru.errors import InputError
from naru.runtime import tables
from naru.runtime.model import Model
from naru.serve import json_tensors
from naru.serve.batching import Outputs
from naru.serve.refusals import INVALID, Refusal
from naru.serve.servable import Servable
from naru.serve.signature import Signature
from naru.serve.tensors import Decoded

Array = NDArray[Any]


def are_rows(body: bytes) -> bool:
    """Is it a JSON list?"""
    return body[:1] == b"[" or (
        body[:1] in (b" ", b"\t", b"\r", b"\n") and body.strip()[:1] == b"["
    )


def decode(body: bytes, signature: Signature, model: Model) -> Decoded:
    """The request that rows are. Raises a Refusal."""
    value: Any = json_tensors.parse(body)
    rows = cast("list[Any]", value)
    if rows and isinstance(rows[0], dict):
        return Decoded(_from_objects(rows, model, signature))
    required = [t for t in signature.inputs if not t.optional]
    if len(required) != 1:
        listed = ", ".join(map(str, signature.inputs))
        raise Refusal(
            INVALID,
            f"the model has {len(required)} inputs ({listed}): a row is an object by their names",
            hint="[{" + ", ".join(f'"{t.name}": …' for t in required) + "}]",
        )
    tensor = required[0]
    if not rows:
        none = tuple(max(0, d) for d in (0, *tensor.shape[1:]))
        return Decoded({tensor.name: np.empty(none, tensor.dtype)})
    shape: list[int] = []
    level: Any = rows
    while isinstance(level, list):
        shape.append(len(cast("list[Any]", level)))
        level = cast("list[Any]", level)[0] if level else None
    if len(shape) > len(tensor.shape):
        raise Refusal(INVALID, f"the rows are nested {len(shape)} deep, the input is {tensor}")
    if len(shape) == len(tensor.shape) - 1:  # one row, without the list around it
        rows = [rows]
        shape.insert(0, 1)
    return Decoded({tensor.name: json_tensors.from_json(rows, tensor, tuple(shape))})


class _Table:
    """Rows as columns by name, as `naru.runtime.tables` takes them."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows = rows
        self.columns = list(rows[0])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, name: str) -> Array:
        values = [row[name] for row in self._rows]
        if all(isinstance(v, str) for v in values):
            column = np.empty(len(values), object)
            column[:] = values
            return column
        return np.array(values)


def _from_objects(rows: Sequence[Any], model: Model, signature: Signature) -> dict[str, Array]:
    names = set(rows[0])
    for k, row in enumerate(rows):
        if not isinstance(row, dict):
            raise Refusal(INVALID, f"row {k}: expected an object, as the rows before it are")
        if set(cast("dict[str, Any]", row)) != names:
            differ = ", ".join(sorted(names ^ set(cast("dict[str, Any]", row))))
            raise Refusal(INVALID, f"row {k}: has other names than row 0: {differ}")
    try:
        with np.errstate(over="raise"):  # no infinities of numbers
            found = tables.take(_Table(rows), model.inputs, tables.columns_of(model.manifest))
    except InputError as error:
        raise Refusal(INVALID, error.message, hint=error.hint) from None
    except (TypeError, ValueError, ArithmeticError) as error:
        raise Refusal(INVALID, f"the rows hold what no input takes: {error}") from None
    for tensor in signature.inputs:  # a column for an input [n, 1] needs no list around each value
        array = found[tensor.name]
        if array.ndim == len(tensor.dims) - 1 and tensor.dims[-1] == 1:
            found[tensor.name] = array[..., None]
    return found


def encode(servable: Servable, outputs: Outputs) -> bytes:
    """The answer: outputs by name, nested as they are. Raises a Refusal for NaN and infinities."""
    found: dict[str, Any] = {}
    json_tensors.check_finite(Decoded({}), servable.signature, outputs)
    for tensor, array in zip(servable.signature.outputs, outputs, strict=True):
        flat = json_tensors.to_json(array)
        if isinstance(flat, list) or array.ndim == 0:  # orjson writes no scalars of numpy
            found[tensor.name] = array.tolist()
        else:
            found[tensor.name] = flat.reshape(array.shape)
    answer = {
        "model_name": servable.name,
        "model_version": servable.version,
        "outputs": found,
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
