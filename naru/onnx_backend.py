"""naru as a backend of the onnx package: what its official test runner calls.

    import naru.onnx_backend as backend
    (y,) = backend.run_model(model, [x])

`BackendTest(naru.onnx_backend, __name__)` of onnx.backend.test runs the standard's own tests on it.

Older onnx packages have dtypes of their own for what numpy lacks (bf16, tiny floats, 4 bits): the
bits as integers. Arrays are taken and given as the installed package has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, cast

import numpy as np
from onnx import IR_VERSION, ModelProto, NodeProto, TensorProto, defs, helper, numpy_helper
from onnx.backend.base import Backend, BackendRep

from naru.compiler import compile
from naru.dtypes import DTYPES, FROM_ONNX
from naru.errors import InputError, TargetError
from naru.frontend.onnx_check import domain_of
from naru.runtime import arguments
from naru.runtime.model import Model


class CompiledRep(BackendRep):
    """A compiled model; `run` takes the inputs in the graph's order, or a dict of them by name."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs, in the graph's order. Random numbers begin with the seed 0. Raises
        InputError, RunError."""
        if isinstance(inputs, Mapping):
            inputs = arguments.by_position(self.model.inputs, (cast("Any", inputs),), {})
        elif isinstance(inputs, np.ndarray):  # the only one
            inputs = [cast("np.ndarray", inputs)]
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
        """Raises TargetError for another device than the CPU, and as naru.compile."""
        if not cls.supports_device(device):
            raise TargetError(f"expected the device CPU, got {device!r}")
        return CompiledRep(compile(model, cache=False))

    @classmethod
    def run_node(
        cls,
        node: NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Any = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """The outputs of one node for arrays, one for each operand that it names; `opset_version`:
        of the node's domain (default: the newest that the onnx package has, or 1). Raises as
        `prepare` and `run`."""
        names = [name for name in node.input if name]
        if len(names) != len(inputs):
            raise InputError(
                f"expected {len(names)} inputs ({', '.join(names)}), got {len(inputs)}"
            )
        given = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in zip(names, map(np.asarray, inputs), strict=True)
        ]
        made = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
        newest, domain = defs.onnx_opset_version(), domain_of(node)
        imports = {"": newest, domain: kwargs.get("opset_version", 1 if domain else newest)}
        model = helper.make_model(
            helper.make_graph([node], node.op_type, given, made),
            opset_imports=[helper.make_opsetid(d, v) for d, v in imports.items()],
            ir_version=IR_VERSION,
        )
        return cls.prepare(model, device).run(inputs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"


prepare = NaruBackend.prepare
run_model = NaruBackend.run_model
run_node = NaruBackend.run_node
supports_device = NaruBackend.supports_device
