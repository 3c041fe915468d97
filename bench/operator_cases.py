"""How the table of `operators.py` is written: models of one operator, on inputs of about 1 MB.

A line names the operator, its operands in order, and attributes. `fed` operands come with every
call; `held` ones are initialisers, as weights and sizes are in most models. `None` is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
Maker = Callable[[np.random.Generator, Sequence[int]], Array]

# ONNX Runtime lacks some newest versions: a case may ask for another set of the standard.
OPSET = 25
OTHER_OPSETS = {
    "ai.onnx.ml": 5,
    "com.microsoft": 1,
    "ai.onnx.preview": 1,
    "ai.onnx.preview.training": 1,
}
IR_VERSION = 11


@dataclass(frozen=True)
class Operand:
    """A tensor by its shape and how its values are made."""

    shape: tuple[int, ...]
    make: Maker
    held: bool = False


@dataclass(frozen=True)
class OperatorCase:
    """One operator with operands and attributes."""

    op: str
    domain: str
    label: str  # what distinguishes it from the operator's other cases
    operands: tuple[Operand | None, ...]
    outputs: int = 1
    attrs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    version: int | None = None

    @property
    def name(self) -> str:
        return f"{self.op} ({self.label})" if self.label else self.op

    def values(self) -> list[Array | None]:
        """The values of all operands; the same in every run."""
        rng = np.random.default_rng([ord(c) for c in self.name])
        return [None if o is None else np.asarray(o.make(rng, o.shape)) for o in self.operands]

    def build(self) -> tuple[ModelProto, dict[str, Array]]:
        """The model, and values for its inputs."""
        values = self.values()
        names = ["" if v is None else f"x{k}" for k, v in enumerate(values)]
        inputs, weights, feed = [], [], {}
        for name, o, v in zip(names, self.operands, values, strict=True):
            if o is None or v is None:
                continue
            if o.held:
                weights.append(numpy_helper.from_array(v, name))
                continue
            dtype = helper.np_dtype_to_tensor_dtype(v.dtype)
            inputs.append(helper.make_tensor_value_info(name, dtype, v.shape))
            feed[name] = v
        outputs = [f"y{k}" for k in range(self.outputs)]
        node = helper.make_node(self.op, names, outputs, domain=self.domain, **self.attrs)
        graph = helper.make_graph([node], "one", inputs, [_untyped(y) for y in outputs], weights)
        sets = [helper.make_opsetid("", self.version or OPSET)]
        if self.domain:
            sets.append(helper.make_opsetid(self.domain, OTHER_OPSETS[self.domain]))
        return helper.make_model(graph, opset_imports=sets, ir_version=IR_VERSION), feed


def _untyped(name: str) -> Any:
    """An output whose type the readers find out."""
    found = helper.make_value_info(name, helper.make_tensor_type_proto(TensorProto.UNDEFINED, None))
    found.ClearField("type")
    return found


# --- operands -------------------------------------------------------------------------------------


def f(*shape: int, dtype: Any = np.float32) -> Operand:
    """Normal floats."""
    return Operand(shape, lambda rng, s: rng.standard_normal(s).astype(dtype))


def u(*shape: int, low: float = 0.01, high: float = 0.99) -> Operand:
    """Floats between bounds."""
    return Operand(shape, lambda rng, s: rng.uniform(low, high, s).astype(np.float32))


def i(*shape: int, low: int = -100, high: int = 100, dtype: Any = np.int64) -> Operand:
    """Integers low..high - 1."""
    return Operand(shape, lambda rng, s: rng.integers(low, high, s).astype(dtype))


def u8(*shape: int) -> Operand:
    return i(*shape, low=0, high=256, dtype=np.uint8)


def s8(*shape: int) -> Operand:
    """Signed bytes of 7 bits: where there is no VNNI, ONNX Runtime's sums of two products of bytes
    saturate, and with larger weights its results would differ by much."""
    return i(*shape, low=-63, high=64, dtype=np.int8)


def b(*shape: int) -> Operand:
    return Operand(shape, lambda rng, s: rng.integers(0, 2, s).astype(bool))


def w(*shape: int) -> Operand:
    """Held floats, scaled as weights are."""
    fan = max(1, int(np.prod(shape[1:])))
    return Operand(
        shape, lambda rng, s: (rng.standard_normal(s) / np.sqrt(fan)).astype(np.float32), held=True
    )


def h(values: Any, dtype: Any = np.int64) -> Operand:
    """Held numbers: sizes, axes, scales."""
    array = np.asarray(values, dtype)
    return Operand(array.shape, lambda rng, s: array, held=True)


def held(o: Operand) -> Operand:
    return Operand(o.shape, o.make, held=True)


def s(value: float) -> Operand:
    return h(value, np.float32)


def fixed(values: Any, dtype: Any = np.int64) -> Operand:
    """Numbers that are fed."""
    array = np.asarray(values, dtype)
    return Operand(array.shape, lambda rng, s: array)


CASES: list[OperatorCase] = []


def case(
    op: str,
    *operands: Operand | None,
    label: str = "",
    domain: str = "",
    outputs: int = 1,
    version: int | None = None,
    **attrs: Any,
) -> None:
    CASES.append(OperatorCase(op, domain, label, operands, outputs, attrs, version))


def each(names: str, *operands: Operand | None, **more: Any) -> None:
    for name in names.split():
        case(name, *operands, **more)
