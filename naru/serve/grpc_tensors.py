"""Requests and answers of the protocol as messages of gRPC, with tensors in them.

The tensors of a request are either all raw, in `raw_input_contents`, or all in the `contents` of
their inputs, in the field for their datatype. Those of an answer are always raw, which is all that
some clients read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from naru.serve.classification import classify
from naru.serve.datatypes import TEXT
from naru.serve.refusals import INVALID, UNSUPPORTED, Refusal, joined
from naru.serve.servable import Servable
from naru.serve.signature import Signature, Tensor
from naru.serve.tensors import (
    Decoded,
    Wish,
    add_wish,
    declared,
    decode_text,
    from_bytes,
    read_parameters,
    read_shape,
    text_array,
    to_bytes,
    wished,
)

Array = NDArray[Any]
_MOST_BYTES = (1 << 31) - (1 << 20)  # of a message of protocol buffers, with room for its head

# datatype -> the field of InferTensorContents, and the dtype of its elements. FP16 and BF16 have
# none.
_CONTENTS: dict[str, tuple[str, str]] = {
    "BOOL": ("bool_contents", "bool"),
    "INT8": ("int_contents", "int32"),
    "INT16": ("int_contents", "int32"),
    "INT32": ("int_contents", "int32"),
    "INT64": ("int64_contents", "int64"),
    "UINT8": ("uint_contents", "uint32"),
    "UINT16": ("uint_contents", "uint32"),
    "UINT32": ("uint_contents", "uint32"),
    "UINT64": ("uint64_contents", "uint64"),
    "FP32": ("fp32_contents", "float32"),
    "FP64": ("fp64_contents", "float64"),
    TEXT: ("bytes_contents", "object"),
}


# ---- in ----


def decode(request: Any, signature: Signature, most_inputs: int = 1024) -> Decoded:
    """The request that a ModelInferRequest is. Raises a Refusal that names every field that is
    wrong."""
    decoded = Decoded({}, id=request.id or None)
    problems: list[str] = []
    if request.parameters:
        decoded.parameters = values_of(request.parameters, "parameters", problems)
        read_parameters(decoded.parameters, decoded, problems)
    inputs, raws = request.inputs, request.raw_input_contents
    if len(inputs) > most_inputs:
        problems.append(f"inputs: expected at most {most_inputs}, got {len(inputs)}")
    else:
        if len(raws) > len(inputs):
            problems.append(
                f"raw_input_contents: expected {len(inputs)}, one for each input, got {len(raws)}"
            )
        for k, item in enumerate(inputs):
            try:
                _read_input(item, k, raws, signature, decoded.arrays)
            except Refusal as refusal:
                problems.append(refusal.message)
    if request.outputs:
        wishes: list[Wish] = []
        decoded.wishes = wishes
        for item in request.outputs:
            where = f"output '{item.name}': parameters"
            parameters = values_of(item.parameters, where, problems)
            add_wish(wishes, item.name, parameters, signature, True, problems)
    if problems:
        raise Refusal(INVALID, joined(problems))
    return decoded


def values_of(parameters: Mapping[str, Any], where: str, problems: list[str]) -> dict[str, Any]:
    """Parameters by name; adds those that have no value to the problems."""
    found: dict[str, Any] = {}
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            problems.append(f"{where}.{name}: expected a value, got nothing")
        else:
            found[name] = getattr(parameter, kind)
    return found


def _read_input(
    item: Any, k: int, raws: Sequence[bytes], signature: Signature, arrays: dict[str, Array]
) -> None:
    """Adds an input to the arrays. Raises a Refusal."""
    name = item.name
    if "shared_memory_region" in item.parameters:
        raise Refusal(UNSUPPORTED, f"input '{name}': shared memory is not supported")
    tensor = declared(name, item.datatype, signature, arrays)
    shape = read_shape(list(item.shape), name)
    if not raws:
        arrays[name] = _from_contents(item.contents, tensor, shape)
        return
    if item.HasField("contents"):
        raise Refusal(
            INVALID, f"input '{name}': has contents, though the request has raw_input_contents"
        )
    if k >= len(raws):
        raise Refusal(
            INVALID, f"input '{name}': raw_input_contents ends before it, after {len(raws)}"
        )
    raw = raws[k]
    arrays[name] = from_bytes(raw, 0, len(raw), tensor, shape)


def _from_contents(contents: Any, tensor: Tensor, shape: tuple[int, ...]) -> Array:
    """An array of the elements in a message. Raises a Refusal."""
    name, datatype = tensor.name, tensor.datatype
    if datatype not in _CONTENTS:
        raise Refusal(
            INVALID, f"input '{name}': {datatype} has no field in contents: send raw_input_contents"
        )
    field, dtype = _CONTENTS[datatype]
    filled = [f.name for f, _ in contents.ListFields() if f.name != field]
    if filled:
        got = ", ".join(filled)
        raise Refusal(
            INVALID, f"input '{name}': contents: expected {field} for {datatype}, got {got}"
        )
    values = getattr(contents, field)
    if len(values) != math.prod(shape):
        raise Refusal(
            INVALID,
            f"input '{name}': shape {list(shape)} has {math.prod(shape)} elements, "
            f"contents.{field} has {len(values)}",
        )
    if datatype == TEXT:
        texts = [decode_text(v, name, k) for k, v in enumerate(values)]
        return text_array(texts, name, len(texts)).reshape(shape)
    array = np.array(values, dtype)
    if array.dtype != tensor.dtype:
        array = _narrow(array, tensor, field)
    return array.reshape(shape)


def _narrow(array: Array, tensor: Tensor, field: str) -> Array:
    """Integers as the narrower ones of the tensor. Raises a Refusal for what does not fit."""
    low, high = np.iinfo(tensor.dtype).min, np.iinfo(tensor.dtype).max
    outside = np.flatnonzero((array < low) | (array > high))
    if outside.size:
        k = outside[0]
        raise Refusal(
            INVALID,
            f"input '{tensor.name}': contents.{field}[{k}]: expected {low}..{high} for "
            f"{tensor.datatype}, got {array[k]}",
        )
    return array.astype(tensor.dtype)


# ---- out ----


def encode(response: Any, servable: Servable, decoded: Decoded, outputs: Sequence[Array]) -> None:
    """Fills in a ModelInferResponse. Raises a Refusal for classes of what is no scores, and for
    more than a message can carry."""
    size = sum(array.nbytes for array in outputs)
    if size > _MOST_BYTES:
        raise Refusal(INVALID, f"the answer has {size} bytes, a message carries {_MOST_BYTES}")
    response.model_name, response.model_version = servable.name, servable.version
    if decoded.id is not None:
        response.id = decoded.id
    for tensor, wish, array in wished(decoded, servable.signature, outputs):
        datatype = tensor.datatype
        if wish is not None and wish.classes:
            array = classify(array, wish.classes, servable.labels.get(tensor.name, ()))
            datatype = TEXT
        response.outputs.add(name=tensor.name, datatype=datatype, shape=array.shape)
        response.raw_output_contents.append(to_bytes(array))
