"""Graphs at random: 2 to 30 nodes over values of compatible types, with sizes that are numbers or
symbols. A case is its number and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from .compare import check
from .draw import IR_VERSION, Case, value_info

Array = np.ndarray
T = TypeVar("T")
OPSET = 21
SIZES = (2, 3, 4, 5, 8, 13, 16)
MOST_ELEMENTS = 2000
UNARY = ("Relu", "Tanh", "Sigmoid", "Abs", "Neg", "Softplus", "Erf", "Elu", "LeakyRelu", "Sin",
         "HardSigmoid", "HardSwish", "Softsign", "Identity", "Mish", "Gelu", "Celu")  # fmt: skip


@dataclass(frozen=True)
class Value:
    """A tensor of the graph; its shape holds the sizes of the run."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class GraphDraw:
    """A graph that grows node by node."""

    def __init__(self, number: int) -> None:
        self.rng = np.random.default_rng([20, number])
        self.values: list[Value] = []
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.used: set[str] = set()
        self.inputs: dict[str, Array] = {}

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def int(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.int(0, len(choices) - 1)]

    def floats(self, low: int = 0, high: int = 5) -> Value | None:
        """A float value of that rank, a late one more often than an early one."""
        found = [v for v in self.values if v.dtype == "f32" and low <= len(v.shape) <= high]
        return self.pick(found[-4:] if self.chance(0.7) else found) if found else None

    def constant(self, array: Array) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def reals(self, *shape: int) -> str:
        return self.constant(self.rng.uniform(-1, 1, shape).astype(np.float32))

    def scalar(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def numbers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def node(
        self, op: str, inputs: Sequence[str], shape: Sequence[int], dtype: str = "f32", **attrs: Any
    ) -> None:
        """Adds a node with one result."""
        name = f"v{len(self.values)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attrs))
        self.used.update(inputs)
        self.values.append(Value(name, dtype, tuple(shape)))


def _unary(g: GraphDraw) -> None:
    if x := g.floats():
        g.node(g.pick(UNARY), [x.name], x.shape)


def _binary(g: GraphDraw) -> None:
    x = g.floats()
    if not x:
        return
    same = [v for v in g.values if v.dtype == "f32" and v.shape in (x.shape, x.shape[1:])]
    other = g.pick(same).name if g.chance(0.7) else g.reals(*x.shape[g.int(0, len(x.shape)) :])
    op = g.pick(("Add", "Sub", "Mul", "Max", "Min"))
    names = [x.name, other]
    g.node(op, names if g.chance(0.6) else names[::-1], x.shape)


def _where(g: GraphDraw) -> None:
    x = g.floats()
    if not x:
        return
    g.node(g.pick(("Greater", "Less")), [x.name, g.reals()], x.shape, "bool")
    condition = g.values[-1].name
    if g.chance(0.3):
        g.node("Not", [condition], x.shape, "bool")
        condition = g.values[-1].name
    g.node("Where", [condition, x.name, g.reals()], x.shape)


def _matmul(g: GraphDraw) -> None:
    x = g.floats(2, 4)
    if not x:
        return
    n = g.pick(SIZES)
    if g.chance(0.3) and len(x.shape) == 2:
        g.node("Gemm", [x.name, g.reals(x.shape[1], n), g.reals(n)], (x.shape[0], n))
    else:
        g.node("MatMul", [x.name, g.reals(x.shape[-1], n)], (*x.shape[:-1], n))
    # The numbers stay small.
    g.node("Mul", [g.values[-1].name, g.reals()], g.values[-1].shape)


def _self_product(g: GraphDraw) -> None:
    x = g.floats(2, 4)
    if not x:
        return
    perm = [*range(len(x.shape) - 2), len(x.shape) - 1, len(x.shape) - 2]
    turned = (*x.shape[:-2], x.shape[-1], x.shape[-2])
    g.node("Transpose", [x.name], turned, perm=perm)
    g.node("MatMul", [x.name, g.values[-1].name], (*x.shape[:-1], x.shape[-2]))
    g.node("Tanh", [g.values[-1].name], g.values[-1].shape)


def _reduce(g: GraphDraw) -> None:
    x = g.floats(1, 5)
    if not x:
        return
    axes = [int(a) for a in g.rng.permutation(len(x.shape))[: g.int(1, len(x.shape))]]
    keep = g.chance(0.5)
    shape = [1 if k in axes else n for k, n in enumerate(x.shape) if keep or k not in axes]
    op = g.pick(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2"))
    g.node(op, [x.name, g.numbers(*axes)], shape, keepdims=int(keep))


def _normalise(g: GraphDraw) -> None:
    x = g.floats(1, 4)
    if not x:
        return
    n = x.shape[-1]
    if g.chance(0.5):
        g.node(g.pick(("Softmax", "LogSoftmax")), [x.name], x.shape,
               axis=g.int(0, len(x.shape) - 1))  # fmt: skip
    elif n > 1:
        g.node("LayerNormalization", [x.name, g.reals(n), g.reals(n)], x.shape, axis=-1,
               epsilon=0.1)  # fmt: skip


def _transpose(g: GraphDraw) -> None:
    if x := g.floats(2, 5):
        perm = [int(k) for k in g.rng.permutation(len(x.shape))]
        g.node("Transpose", [x.name], [x.shape[k] for k in perm], perm=perm)


def _reshape(g: GraphDraw) -> None:
    x = g.floats(1, 5)
    if not x:
        return
    rank = len(x.shape)
    if g.chance(0.5):
        k = g.int(0, rank)
        shape = (int(np.prod(x.shape[:k])), int(np.prod(x.shape[k:])))
        g.node("Flatten", [x.name], shape, axis=k)
    elif g.chance(0.5) and rank < 5:
        k = g.int(0, rank)
        g.node("Unsqueeze", [x.name, g.numbers(k)], (*x.shape[:k], 1, *x.shape[k:]))
    else:
        kept = g.int(0, rank - 1)
        rest = int(np.prod(x.shape[kept:]))
        g.node("Reshape", [x.name, g.numbers(*[0] * kept, -1)], (*x.shape[:kept], rest))


def _slice(g: GraphDraw) -> None:
    x = g.floats(1, 5)
    if not x:
        return
    axis = g.int(0, len(x.shape) - 1)
    n = x.shape[axis]
    shape = list(x.shape)
    if g.chance(0.5):
        start, step = g.int(0, 1), g.int(1, 2)
        shape[axis] = len(range(n)[start::step])
        if shape[axis]:
            g.node("Slice", [x.name, g.numbers(start), g.numbers(2**31 - 1), g.numbers(axis),
                             g.numbers(step)], shape)  # fmt: skip
    else:
        at = g.rng.integers(-1, 1, g.int(1, 3))  # valid for every size
        shape[axis] = len(at)
        g.node("Gather", [x.name, g.numbers(*map(int, at))], shape, axis=axis)


def _concat(g: GraphDraw) -> None:
    x = g.floats(1, 4)
    if not x:
        return
    axis = g.int(0, len(x.shape) - 1)
    same = [v for v in g.values if v.dtype == "f32" and v.shape == x.shape]
    parts = [x.name, *(g.pick(same).name for _ in range(g.int(1, 2)))]
    shape = list(x.shape)
    shape[axis] *= len(parts)
    if np.prod(shape) <= MOST_ELEMENTS:
        g.node("Concat", parts, shape, axis=axis)


def _pad(g: GraphDraw) -> None:
    x = g.floats(1, 4)
    if not x:
        return
    pads = [g.int(0, 1) for _ in range(2 * len(x.shape))]
    shape = [n + pads[k] + pads[k + len(x.shape)] for k, n in enumerate(x.shape)]
    mode = g.pick(("constant", "edge"))
    if np.prod(shape) <= MOST_ELEMENTS:
        g.node("Pad", [x.name, g.numbers(*pads)], shape, mode=mode)


def _clip(g: GraphDraw) -> None:
    if x := g.floats():
        g.node("Clip", [x.name, g.scalar(-0.7), g.scalar(0.9)], x.shape)


def _expand(g: GraphDraw) -> None:
    x = g.floats(0, 3)
    if x and np.prod(x.shape) * 3 <= MOST_ELEMENTS:
        g.node("Expand", [x.name, g.numbers(3, *[1] * len(x.shape))], (3, *x.shape))


def _cast(g: GraphDraw) -> None:
    if x := g.floats():
        g.node("Cast", [x.name], x.shape, "f64", to=TensorProto.DOUBLE)
        g.node("Cast", [g.values[-1].name], x.shape, to=TensorProto.FLOAT)


def _image(g: GraphDraw) -> None:
    x = g.floats(4, 4)
    if not x:
        return
    n, c, h, w = x.shape
    if g.chance(0.6):
        outputs = g.pick((1, 4, 8, 17))
        if n * outputs * h * w > 2 * MOST_ELEMENTS:
            return
        k = g.pick((1, 3))
        g.node("Conv", [x.name, g.reals(outputs, c, k, k), g.reals(outputs)], (n, outputs, h, w),
               pads=[k // 2] * 4)  # fmt: skip
        g.node("Mul", [g.values[-1].name, g.reals()], (n, outputs, h, w))
    elif g.chance(0.5):
        g.node(g.pick(("MaxPool", "AveragePool")), [x.name], (n, c, h, w),
               kernel_shape=[3, 3], pads=[1] * 4)  # fmt: skip
    else:
        g.node("GlobalAveragePool", [x.name], (n, c, 1, 1))


def _sizes(g: GraphDraw) -> None:
    """Arithmetic on sizes: reshaped to the shape of another value."""
    x = g.floats(1, 4)
    if not x:
        return
    g.node("Shape", [x.name], (len(x.shape),), "i64")
    shape = g.values[-1].name
    if g.chance(0.5):
        g.node("Neg", [x.name], x.shape)
        g.node("Flatten", [g.values[-1].name], (1, int(np.prod(x.shape))), axis=0)
        g.node("Reshape", [g.values[-1].name, shape], x.shape)
    else:
        g.node("ConstantOfShape", [shape], x.shape)
        g.node("Add", [g.values[-1].name, x.name], x.shape)


STEPS: tuple[Callable[[GraphDraw], None], ...] = (
    _unary, _unary, _binary, _binary, _binary, _where, _matmul, _self_product, _reduce, _normalise,
    _transpose, _reshape, _slice, _concat, _pad, _clip, _expand, _cast, _image, _image, _sizes,
)  # fmt: skip


def make_graph(number: int) -> Case:
    """The graph of that number."""
    g = GraphDraw(number)
    symbols = g.rng.permutation(SIZES)[: g.int(0, 3)].tolist() if g.chance(0.6) else []
    inputs: list[ValueInfoProto] = []
    for k in range(g.int(1, 3)):
        shape = tuple(g.pick(SIZES) for _ in range(g.pick((1, 2, 2, 3, 4, 4))))
        while np.prod(shape) > MOST_ELEMENTS:
            shape = shape[1:]
        array = g.rng.uniform(-2, 2, shape).astype(np.float32)
        g.inputs[f"x{k}"] = array
        # Channels and the columns of a matrix meet constants.
        inputs.append(value_info(f"x{k}", array, symbols, 1 if len(shape) != 3 else 2))
        g.values.append(Value(f"x{k}", "f32", shape))
    count = g.int(2, 30)
    while len(g.nodes) < count:
        g.pick(STEPS)(g)
    made = g.values[len(inputs) :]
    ends = [v for v in made if v.name not in g.used or (v.dtype != "f64" and g.chance(0.1))]
    outputs = [ValueInfoProto(name=v.name) for v in ends]
    graph = helper.make_graph(g.nodes, "g", inputs, outputs, g.constants)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    label = f"graph {number}: " + " ".join(n.op_type for n in g.nodes)
    return Case("graph", label, model, g.inputs, 4096, True)


def check_graph(number: int) -> str:
    """How the graph went (see compare.py)."""
    return check(make_graph(number))
