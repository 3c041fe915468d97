"""Drawing one operator at random: its version, dtypes, operands, attributes, and the model of it.

Everything comes from one generator, so that (operator, number) is a case and nothing else is.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from onnx import ModelProto, ValueInfoProto, defs, helper, numpy_helper

from naru.dtypes import DTYPES, FROM_NUMPY, TINY

Array = np.ndarray
T = TypeVar("T")
OLDEST = 6  # the opset from which on naru reads models
IR_VERSION = 10
SIZES = (1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 33)
MOST_ELEMENTS = 3000
TYPES = {
    "tensor(float)": "f32", "tensor(double)": "f64", "tensor(float16)": "f16",
    "tensor(bfloat16)": "bf16", "tensor(bool)": "bool",
    **{f"tensor({u}int{b})": f"{u or 'i'}{b}" for u in ("", "u") for b in (8, 16, 32, 64)},
    "tensor(float8e4m3fn)": "f8e4m3fn", "tensor(float8e4m3fnuz)": "f8e4m3fnuz",
    "tensor(float8e5m2)": "f8e5m2", "tensor(float8e5m2fnuz)": "f8e5m2fnuz",
    "tensor(uint4)": "uint4", "tensor(int4)": "int4", "tensor(uint2)": "uint2",
    "tensor(int2)": "int2", "tensor(float4e2m1)": "f4e2m1",
}  # fmt: skip


@dataclass
class Operation:
    """A node: operands (None: left out), attributes, and what a comparison must know.

    operands: places of what ONNX takes as an operand and most models as a constant (axes, shapes).
    symbolic: operands whose first axis may be a symbol; None: all sizes of all operands may be.
    ulps: how many units in the last place of the dtype may be between two results.
    sums: compared with the largest number of the result, as products are summed in some order.
    """

    inputs: Sequence[Array | None]
    attrs: dict[str, Any] = field(default_factory=dict[str, Any])
    outputs: int | Sequence[bool] = 1
    operands: Sequence[int] = ()
    symbolic: Sequence[int] | None = None
    ulps: float = 8.0
    sums: bool = False


@dataclass(frozen=True)
class Case:
    """A model with what it is called with."""

    operator: str
    label: str
    model: ModelProto
    feed: dict[str, Array]
    ulps: float
    sums: bool


class Draw:
    """Random choices for one operator; see the head of the file."""

    def __init__(self, domain: str, name: str, number: int) -> None:
        seed = zlib.crc32(f"{domain}.{name}/{number}".encode())
        self.rng = np.random.default_rng(seed)
        self.domain, self.name, self.number = domain, name, number
        versions = versions_of(domain, name)
        self.opset = versions[-1] if self.chance(0.5) else self.pick(versions)
        self.schema = defs.get_schema(name, self.opset, domain)
        self.version = self.schema.since_version
        self._dtypes: dict[str, str] = {}

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def int(self, low: int, high: int) -> int:
        """low..high, both included."""
        return int(self.rng.integers(low, high + 1))

    def real(self, low: float, high: float) -> float:
        """A float32 as a Python number."""
        return float(np.float32(self.rng.uniform(low, high)))

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.int(0, len(choices) - 1)]

    def size(self, most: int = 33) -> int:
        return min(0 if self.chance(0.03) else self.pick(SIZES), most)

    def shape(self, low: int = 0, high: int = 4, most: int = 33) -> tuple[int, ...]:
        """A shape of low..high axes, and not too many elements."""
        rank = self.int(low, high)
        while True:
            shape = tuple(self.size(most) for _ in range(rank))
            if np.prod(shape) <= MOST_ELEMENTS:
                return shape
            most = max(most // 2, 2)

    def broadcast(self, shape: Sequence[int]) -> tuple[int, ...]:
        """A shape that can be broadcast to another one."""
        if self.chance(0.4):
            return tuple(shape)
        kept = [1 if self.chance(0.4) else n for n in shape]
        return tuple(kept[self.int(0, len(kept)) :])

    def axis(self, rank: int) -> int:
        """Counted from either end."""
        return self.int(-rank, rank - 1)

    def axes(self, rank: int, least: int = 0) -> list[int]:
        """Distinct ones in any order."""
        chosen = self.rng.permutation(rank)[: self.int(min(least, rank), rank)]
        return [int(a) - (rank if self.chance(0.3) else 0) for a in chosen]

    # ---- dtypes ----

    def dtype(self, k: int = 0, among: str = "") -> str:
        """The dtype of input k, equal for equal type variables; `among`: kinds to choose from."""
        variable = self.schema.inputs[min(k, len(self.schema.inputs) - 1)]
        return self._choose(variable.type_str, variable.types, among)

    def result(self, k: int = 0, among: str = "") -> str:
        """The dtype of output k."""
        return self._choose(self.schema.outputs[k].type_str, self.schema.outputs[k].types, among)

    def _choose(self, variable: str, types: Any, among: str) -> str:
        if variable not in self._dtypes:
            known = sorted({TYPES[t] for t in types if t in TYPES})
            known = [n for n in known if not among or DTYPES[n].kind in among] or known
            common = [n for n in known if n not in TINY]
            if "f32" in known and self.chance(0.4):
                self._dtypes[variable] = "f32"
            else:
                self._dtypes[variable] = self.pick(known if self.chance(0.1) else common or known)
        return self._dtypes[variable]

    # ---- values ----

    def array(
        self,
        dtype: str,
        shape: Sequence[int],
        low: float = -4.0,
        high: float = 4.0,
        wild: bool = False,
    ) -> Array:
        """Numbers of a range; `wild`: perhaps with NaN, infinities, -0.0, extremes among them."""
        kind, to = DTYPES[dtype].kind, DTYPES[dtype].numpy
        if kind == "b":
            return np.asarray(self.rng.random(shape) < 0.5)
        if kind in "iu":
            least = max(low, 0.0) if kind == "u" else low
            values = np.asarray(self.rng.integers(int(least), int(high) + 1, shape)).astype(to)
            if wild and DTYPES[dtype].bits >= 8 and self.chance(0.4):
                info = np.iinfo(to)
                extremes = np.array([info.min, info.max, info.max - 1, info.min + 1, 0, 1], to)
                values = self._sprinkled(values, extremes)
            return values
        values = np.asarray(self.rng.uniform(low, high, shape))
        if self.chance(0.2):
            values = np.round(values)
        values = values.astype(to)
        if wild and dtype not in TINY and self.chance(0.5):
            values = self._sprinkled(values, _specials(dtype))
        return values

    def _sprinkled(self, values: Array, specials: Array) -> Array:
        where = self.rng.random(values.shape) < 0.3
        chosen = specials[self.rng.integers(0, len(specials), values.shape)]
        return np.asarray(np.where(where, chosen, values)).astype(values.dtype)

    def input(self, k: int, shape: Sequence[int], **how: Any) -> Array:
        """An array for input k."""
        return self.array(self.dtype(k), shape, **how)

    def only(self, **attrs: Any) -> dict[str, Any]:
        """Of these attributes those that the version has, and not always."""
        return {n: v for n, v in attrs.items() if n in self.schema.attributes and self.chance(0.7)}


def _specials(dtype: str) -> Array:
    import ml_dtypes

    to = DTYPES[dtype].numpy
    info = ml_dtypes.finfo(to)
    found = [np.nan, np.inf, -np.inf, -0.0, 0.0, info.max, info.min, info.smallest_normal, 1.0,
             -1.0, 0.5, -0.5, 1.5, 2.5]  # fmt: skip
    return np.array(found).astype(to)


def versions_of(domain: str, name: str) -> list[int]:
    """Opsets that changed an operator, from the oldest on that naru reads."""
    oldest = OLDEST if domain == "" else 1
    since = {
        max(s.since_version, oldest)
        for s in _history()
        if s.domain == domain and s.name == name and not s.deprecated
    }
    gone = {s.since_version for s in _history()
            if s.domain == domain and s.name == name and s.deprecated}  # fmt: skip
    return sorted(v for v in since if not any(g <= v for g in gone))


_HISTORY: list[defs.OpSchema] = []


def _history() -> list[defs.OpSchema]:
    if not _HISTORY:
        _HISTORY.extend(defs.get_all_schemas_with_history())
    return _HISTORY


def value_info(
    name: str, array: Array, symbols: Collection[int] = (), axes: int = 64
) -> ValueInfoProto:
    """The type of an input. Sizes in `symbols` are symbols along the first `axes` axes, equal ones
    the same."""
    dims = [f"n{n}" if n in symbols and k < axes else n for k, n in enumerate(array.shape)]
    return helper.make_tensor_value_info(name, DTYPES[FROM_NUMPY[array.dtype]].onnx, dims)


def build(d: Draw, op: Operation) -> Case:
    """The model of one node: operands are inputs, some of them constants."""
    names = ["" if a is None else f"x{k}" for k, a in enumerate(op.inputs)]
    while names and not names[-1]:
        names.pop()
    given = {k: a for k, a in enumerate(op.inputs) if a is not None}
    fixed = {k for k in given if (d.chance(0.8) if k in op.operands else k > 0 and d.chance(0.15))}
    feed = {f"x{k}": a for k, a in given.items() if k not in fixed}
    moving = {k for k in given if k not in fixed and k not in op.operands
              and (op.symbolic is None or k in op.symbolic)}  # fmt: skip
    sizes = {n for k in moving for n in given[k].shape if n > 1}
    sizes -= {n for k, a in given.items() if k not in moving for n in a.shape}
    sizes = sizes if d.chance(0.2) else set[int]()
    most = 64 if op.symbolic is None else 1
    inputs = [
        value_info(f"x{k}", a, sizes if k in moving else (), most)
        for k, a in given.items() if k not in fixed
    ]  # fmt: skip
    constants = [numpy_helper.from_array(given[k], f"x{k}") for k in sorted(fixed)]
    wanted = [True] * op.outputs if isinstance(op.outputs, int) else list(op.outputs)
    outputs = [f"y{k}" if w else "" for k, w in enumerate(wanted)]
    node = helper.make_node(d.name, names, outputs, domain=d.domain, **op.attrs)
    graph = helper.make_graph(
        [node], "g", inputs, [ValueInfoProto(name=n) for n in outputs if n], constants
    )
    opsets = [helper.make_opsetid(d.domain, d.opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    return Case(d.name, _label(d, op, feed, bool(sizes)), model, feed, op.ulps, op.sums)


def _label(d: Draw, op: Operation, feed: dict[str, Array], symbols: bool) -> str:
    operands = [
        "-" if a is None else f"{a.dtype}{list(a.shape)}{'' if f'x{k}' in feed else '!'}"
        for k, a in enumerate(op.inputs)
    ]
    return f"{d.name}-{d.opset} ({', '.join(operands)}) {op.attrs}{' symbols' if symbols else ''}"
