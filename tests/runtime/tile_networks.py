"""Small networks drawn at random, whose layers suit matrix registers: images that go through
convolutions of all kinds, sequences that go through products and attention. Layers read what others
read too, so that results are packed by those that make them, by kernels of their own, or not at
all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray
CHANNELS = (3, 8, 16, 20, 32, 33, 64, 96)
ACTIVATIONS = ("Relu", "Sigmoid", "Tanh", "LeakyRelu")


class Network:
    """A graph in the making. `shapes`: of what layers may read, without the batch, newest last;
    the depth (channels, features) comes first."""

    def __init__(self, number: int) -> None:
        self.random, self.rng = Random(number), np.random.default_rng(number)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {}

    def pick(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def constant(self, array: Array) -> str:
        name = f"c{len(self.weights)}"
        kept = array if array.dtype == np.int64 else array.astype(np.float32)
        self.weights.append(numpy_helper.from_array(kept, name))
        return name

    def normal(self, *shape: int, size: float = 1.0) -> str:
        return self.constant(self.rng.standard_normal(shape) * size)

    def node(
        self, op: str, inputs: Sequence[str], shape: tuple[int, ...] | None = None, **attrs: Any
    ) -> str:
        """`shape`: where other layers may read it."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attrs))
        if shape is not None:
            self.shapes[name] = shape
        return name

    def source(self) -> tuple[str, tuple[int, ...]]:
        """One of the newest."""
        name = self.random.choice(list(self.shapes)[-3:])
        return name, self.shapes[name]

    def like(self, shape: tuple[int, ...]) -> str:
        """Of the same shape, but for the depth."""
        return self.random.choice([n for n, s in self.shapes.items() if s[1:] == shape[1:]])

    def model(self, dims: Callable[[tuple[int, ...]], Sequence[int | str]]) -> onnx.ModelProto:
        """`dims`: a shape with its batch. The newest value is a result, and perhaps another."""
        *others, last = list(self.shapes)
        outputs = [last]
        if len(others) > 1 and self.random.random() < 0.4:
            outputs.append(self.random.choice(others[1:]))
        infos = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, list(dims(self.shapes[n])))
            for n in ("x", *outputs)
        ]
        graph = helper.make_graph(self.nodes, "network", infos[:1], infos[1:], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def images(number: int) -> tuple[onnx.ModelProto, list[Array]]:
    """A network over images, and batches of them."""
    net = Network(number)
    shape = (net.pick(*CHANNELS), net.random.randint(3, 14), net.random.randint(3, 14))
    net.shapes["x"] = shape
    layers = (_convolution, _convolution, _point, _point, _activation, _sum, _concat, _transposed,
              _border, _depthwise, _pool)  # fmt: skip
    while len(net.nodes) < 6:
        net.random.choice(layers)(net)
    batch = net.pick(1, 2, "n")
    feeds = [(1, *shape), (3, *shape)] if batch == "n" else [(batch, *shape)]
    model = net.model(lambda s: (batch, *s))
    return model, [net.rng.standard_normal(s).astype(np.float32) for s in feeds]


def sequences(number: int) -> tuple[onnx.ModelProto, list[Array]]:
    """A network over sequences, and some of them."""
    net = Network(number)
    depth, length = net.pick(8, 32, 40, 64, 96), net.pick(1, 5, 17, 33)
    net.shapes["x"] = (depth,)
    layers = (_product, _product, _tokens, _activation, _sum, _concat, _norm, _attention)
    while len(net.nodes) < 6:
        net.random.choice(layers)(net)
    batch, tokens = net.pick((1, length), (2, length), (1, "s"), ("n", "s"))
    sizes = [(1 if batch == "n" else batch, length)]
    sizes += [(sizes[0][0], 19)] if tokens == "s" else []
    sizes += [(3, 32)] if batch == "n" else []
    model = net.model(lambda s: (batch, tokens, *s))
    return model, [net.rng.standard_normal((*s, depth)).astype(np.float32) for s in sizes]


# --- layers of images -----------------------------------------------------------------------------


def _convolution(net: Network) -> None:
    x, (c, h, w) = net.source()
    taps, strides, dilations = (
        (net.pick(*some), net.pick(*some)) for some in ((1, 2, 3, 5), (1, 1, 1, 2), (1, 1, 1, 2))
    )
    pads = [net.random.randint(0, t // 2 + 1) for t in (*taps, *taps)]
    size = [
        (n + pads[k] + pads[k + 2] - (taps[k] - 1) * dilations[k] - 1) // strides[k] + 1
        for k, n in enumerate((h, w))
    ]
    if min(size) < 1:
        return
    m = net.pick(*CHANNELS)
    filters = net.normal(m, c, *taps, size=1 / math.sqrt(c * taps[0] * taps[1]))
    attrs = {"strides": strides, "dilations": dilations, "pads": pads}
    net.node("Conv", (x, filters, net.normal(m)), (m, *size), **attrs)


def _point(net: Network) -> None:
    x, (c, h, w) = net.source()
    m = net.pick(32, 64)
    net.node("Conv", (x, net.normal(m, c, 1, 1, size=1 / math.sqrt(c))), (m, h, w))


def _transposed(net: Network) -> None:
    x, (c, h, w) = net.source()
    stride, m = net.pick(1, 2, 3), net.pick(*CHANNELS)
    taps, pad = stride * net.pick(1, 2), net.pick(0, 1)
    size = [(n - 1) * stride + taps - 2 * pad for n in (h, w)]
    if min(size) < 1 or max(size) > 40:
        return
    filters = net.normal(c, m, taps, taps, size=1 / math.sqrt(c * taps))
    attrs = {"strides": [stride] * 2, "pads": [pad] * 4}
    net.node("ConvTranspose", (x, filters), (m, *size), **attrs)


def _depthwise(net: Network) -> None:
    x, (c, h, w) = net.source()
    net.node("Conv", (x, net.normal(c, 1, 3, 3, size=0.3)), (c, h, w), group=c, pads=[1] * 4)


def _border(net: Network) -> None:
    x, (c, h, w) = net.source()
    top, left, bottom, right = (net.random.randint(0, 2) for _ in range(4))
    pads = net.constant(np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
    net.node("Pad", (x, pads), (c, h + top + bottom, w + left + right))


def _pool(net: Network) -> None:
    x, (c, h, w) = net.source()
    if min(h, w) > 1:
        attrs = {"kernel_shape": [2, 2], "strides": [2, 2]}
        net.node("AveragePool", (x,), (c, h // 2, w // 2), **attrs)


# --- layers of both -------------------------------------------------------------------------------


def _activation(net: Network) -> None:
    x, shape = net.source()
    net.node(net.pick(*ACTIVATIONS), (x,), shape)


def _sum(net: Network) -> None:
    x, shape = net.source()
    y = net.like(shape)
    if net.shapes[y] == shape and y != x:
        net.node(net.pick("Add", "Mul"), (x, y), shape)


def _concat(net: Network) -> None:
    x, shape = net.source()
    y = net.like(shape)
    depth = shape[0] + net.shapes[y][0]
    if depth <= 200:
        axis = 1 if len(shape) > 1 else 2
        net.node("Concat", (x, y), (depth, *shape[1:]), axis=axis)


# --- layers of sequences --------------------------------------------------------------------------


def _product(net: Network) -> None:
    x, (d,) = net.source()
    m = net.pick(20, 32, 64, 96)
    made = net.node("MatMul", (x, net.normal(d, m, size=1 / math.sqrt(d))), (m,))
    if net.random.random() < 0.6:
        net.node("Add", (made, net.normal(m)), (m,))


def _tokens(net: Network) -> None:
    """A product over all tokens of all sequences as rows."""
    x, (d,) = net.source()
    m = net.pick(20, 32, 64)
    rows = net.node("Reshape", (x, net.constant(np.array([-1, d]))))
    made = net.node("Gemm", (rows, net.normal(d, m, size=1 / math.sqrt(d)), net.normal(m)))
    lead = net.node("Shape", (x,), end=2)
    shape = net.node("Concat", (lead, net.constant(np.array([m]))), axis=0)
    net.node("Reshape", (made, shape), (m,))


def _norm(net: Network) -> None:
    x, (d,) = net.source()
    net.node("LayerNormalization", (x, net.normal(d), net.normal(d)), (d,), axis=-1)


def _attention(net: Network) -> None:
    x, (d,) = net.source()
    heads = net.pick(1, 2, 4)
    if d % heads:
        return
    split = net.constant(np.array([0, 0, heads, d // heads]))
    parts: list[str] = []
    for perm in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)):
        made = net.node("MatMul", (x, net.normal(d, d, size=1 / math.sqrt(d))))
        parts.append(net.node("Transpose", (net.node("Reshape", (made, split)),), perm=perm))
    q, k, v = parts
    scale = net.constant(np.array(math.sqrt(heads / d)))
    scores = net.node("Mul", (net.node("MatMul", (q, k)), scale))
    made = net.node("MatMul", (net.node("Softmax", (scores,), axis=-1), v))
    made = net.node("Transpose", (made,), perm=(0, 2, 1, 3))
    net.node("Reshape", (made, net.constant(np.array([0, 0, d]))), (d,))
