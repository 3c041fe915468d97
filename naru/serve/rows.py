"""Plain rows, for people and small programs: a JSON list in, and arrays by name out.

curl -d '[[5.1, 3.5, 1.4, 0.2]]' …/infer                 one input: its elements, nested
curl -d '[{"age": 40, "city": "Seoul"}]' …/infer  columns of the one input, or inputs; those
                                                  that hold lists are inputs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from naru.errors import InputError
from naru.runtime import tables
from naru.runtime.model import Model
from naru.serve import json_tensors
from naru.serve.batching import Outputs
from naru.serve.datatypes import TEXT
from naru.serve.refusals import INVALID, Refusal
from naru.serve.servable import Servable
from naru.serve.signature import Signature, Tensor
from naru.serve.tensors import Decoded, kind_of

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
    shape = _shape_of(rows)
    rank = len(tensor.shape)
    if rank == 0 and len(shape) == 1:  # nothing to stack rows along: the one row is the scalar
        _expect_one(rows, tensor)
        return Decoded({tensor.name: json_tensors.from_json(rows[0], tensor, ())})
    if len(shape) > rank:
        raise Refusal(INVALID, f"the rows are nested {len(shape)} deep, the input is {tensor}")
    if len(shape) == rank - 1:  # one row, without the list around it
        rows = [rows]
        shape.insert(0, 1)
    return Decoded({tensor.name: json_tensors.from_json(rows, tensor, tuple(shape))})


def _expect_one(rows: Sized, tensor: Tensor) -> None:
    """Raises a Refusal where a scalar has several rows."""
    if len(rows) != 1:
        raise Refusal(INVALID, f"input {tensor} is a scalar: expected 1 row, got {len(rows)}")


def _shape_of(value: Any) -> list[int]:
    """The sizes of nested lists, as their first elements have them."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(cast("list[Any]", value)))
        value = cast("list[Any]", value)[0] if value else None
    return shape


class _Table:
    """Rows as columns by name, as `naru.runtime.tables` takes them: a number or text for each row,
    or for an input a list for each."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], signature: Signature) -> None:
        self._rows = rows
        self._signature = signature
        self.columns = list(rows[0])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, name: str) -> Array:
        values = [row[name] for row in self._rows]
        own = self._signature.input.get(name)
        if own is not None and isinstance(values[0], list):
            return _stacked(values, own)
        tensor = self._signature.inputs[0] if own is None else own  # or a column of the one matrix
        text, null = tensor.datatype == TEXT, tensor.dtype.kind in "fV"  # null is NaN
        for k, value in enumerate(values):
            if (
                isinstance(value, str) is not text
                or isinstance(value, list | dict)
                or (value is None and not null)
            ):
                wanted, got = "a text" if text else "a number", kind_of(cast(object, value))
                raise Refusal(INVALID, f"row {k}: '{name}': expected {wanted}, got {got}")
        if not text:
            return np.array(values)
        column = np.empty(len(values), object)
        column[:] = values
        return column


def _stacked(values: list[Any], tensor: Tensor) -> Array:
    """An input from its elements in each row, or from all of them in one row. Raises a Refusal."""
    rank, shape = len(tensor.shape), _shape_of(values[0])
    if len(shape) == rank and len(values) == 1:
        return json_tensors.from_json(values[0], tensor, tuple(shape))
    if len(shape) == rank - 1 or (len(shape) == rank - 2 and tensor.dims[-1] == 1):
        return json_tensors.from_json(values, tensor, (len(values), *shape))
    raise Refusal(
        INVALID, f"row 0: '{tensor.name}' is nested {len(shape)} deep, the input is {tensor}"
    )


def _from_objects(rows: Sequence[Any], model: Model, signature: Signature) -> dict[str, Array]:
    names = set(rows[0])
    for k, row in enumerate(rows):
        if not isinstance(row, dict):
            raise Refusal(INVALID, f"row {k}: expected an object, as the rows before it are")
        if set(cast("dict[str, Any]", row)) != names:
            differ = ", ".join(sorted(names ^ set(cast("dict[str, Any]", row))))
            raise Refusal(INVALID, f"row {k}: has other names than row 0: {differ}")
    table = _Table(rows, signature)
    only = signature.inputs[0] if len(signature.inputs) == 1 else None
    if only is not None and isinstance(rows[0].get(only.name), list):
        # Its elements by its own name, where a number or text would be one of its columns.
        return {only.name: _fitted(table[only.name], only)}
    columns = tables.columns_of(model.manifest)
    matrix = only is not None and len(only.dims) == 2 and only.name not in columns
    if only is not None and matrix and set(rows[0]) != {only.name}:
        raise Refusal(
            INVALID,
            f"the model does not say what the columns of '{only.name}' are called: a row is a list",
        )
    try:
        with np.errstate(over="raise"):  # no infinities of numbers
            found = tables.take(table, model.inputs, columns)
    except InputError as error:
        raise Refusal(INVALID, error.message, hint=error.hint) from None
    except (TypeError, ValueError, ArithmeticError) as error:
        raise Refusal(INVALID, f"the rows hold what no input takes: {error}") from None
    return {t.name: _fitted(found[t.name], t) for t in signature.inputs}


def _fitted(array: Array, tensor: Tensor) -> Array:
    """A column for an input [n, 1] needs no list around each value; for a scalar, it is one value.
    Raises a Refusal."""
    if not tensor.dims:
        _expect_one(array, tensor)
        return array.reshape(())
    if array.ndim == len(tensor.dims) - 1 and tensor.dims[-1] == 1:
        return array[..., None]
    return array


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
