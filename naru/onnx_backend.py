"""naru as a backend of the onnx package: what its official test runner calls.

    import naru.onnx_backend as backend
    (y,) = backend.run_model(model, [x])

`BackendTest(naru.onnx_backend, __name__)` of onnx.backend.test runs the standard's own tests on it.
"""

from __future__ import annotations

from typing import Any, cast

from onnx import ModelProto
from onnx.backend.base import Backend, BackendRep

from naru.compiler import compile
from naru.runtime.model import Model


class CompiledRep(BackendRep):
    """A compiled model; `run` takes the inputs in the graph's order."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs, in the graph's order."""
        result: Any = self.model(*inputs)
        return tuple(cast("tuple[Any, ...]", result)) if isinstance(result, tuple) else (result,)


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
