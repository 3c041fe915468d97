"""naru as a backend of the onnx package: what its official test runner calls.

    import naru.onnx_backend as backend
    (y,) = backend.run_model(model, [x])

`BackendTest(naru.onnx_backend, __name__)` of onnx.backend.test runs the standard's own tests on it.

Older onnx packages have dtypes of their own for what numpy lacks (bf16, tiny floats, 4 bits): the
bits as integers. Arrays are taken and given as the installed package has them.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.backend.base import Backend, BackendRep

from naru.compiler import compile
from naru.dtypes import DTYPES, FROM_ONNX
from naru.runtime.model import Model


class CompiledRep(BackendRep):
    """A compiled model; `run` takes the inputs in the graph's order."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs, in the graph's order. Random numbers begin with the seed 0."""
        given = [
            _as_ours(x, info.dtype) for x, info in zip(inputs, self.model.inputs, strict=False)
        ]
        seed = {i.name: 0 for i in self.model.inputs if i.optional}
        result: Any = self.model(*given, *inputs[len(given) :], **seed)
        made = cast("tuple[Any, ...]", result) if isinstance(result, tuple) else (result,)
        return tuple(_as_theirs(y) for y in made)


def _as_ours(x: Any, dtype: str) -> Any:
    """An array of bits under the name that naru has for them."""
    code = _FOREIGN.get(dtype)
    if code is None or not isinstance(x, np.ndarray):
        return x
    array, bits = cast("np.ndarray", x), _of_package(code)
    foreign = array.dtype.kind in "iu" and array.dtype in (bits, bits.base)
    return array.view(DTYPES[FROM_ONNX[code]].numpy) if foreign else array


def _as_theirs(y: Any) -> Any:
    """An output under the dtype that the package has for it."""
    if not isinstance(y, np.ndarray):
        return y
    array = cast("np.ndarray", y)
    code = _FOREIGN.get(str(array.dtype))
    if code is None:
        return array
    theirs = _of_package(code)
    if code == TensorProto.FLOAT8E5M2 and theirs.kind == "u":
        # Of the six NaNs, older packages have the one of all ones, and bits are compared as bits.
        bits = np.where(np.isnan(array), np.uint8(0x7F), array.view(np.uint8))
        return bits.view(theirs)
    if code == TensorProto.INT4 and theirs.kind == "i":  # of naru's bytes only 4 bits count
        return array.astype(np.int8).view(theirs)
    return array.view(theirs)


# Dtypes that ml_dtypes brings: numpy's name -> TensorProto's code.
_FOREIGN = {str(d.numpy): d.onnx for d in DTYPES.values() if d.numpy.isbuiltin == 2}


@cache
def _of_package(code: int) -> np.dtype:
    """How the installed onnx package holds elements of a type."""
    try:
        return numpy_helper.to_array(TensorProto(data_type=code, dims=[0], raw_data=b"")).dtype
    except KeyError:  # it does not know the type; no model has it
        return DTYPES[FROM_ONNX[code]].numpy


class NaruBackend(Backend):
    """Compiles for this CPU."""

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> CompiledRep:
        return CompiledRep(compile(model, cache=False))

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"


prepare = NaruBackend.prepare
run_model = NaruBackend.run_model
supports_device = NaruBackend.supports_device
