"""Small models for the tests of serving, and folders of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper


def _save(graph: GraphProto, path: Path) -> Path:
    model: ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def dense(path: Path, scale: float = 1.0) -> Path:
    """y[batch, 3] = x[batch, 4] @ w * scale, with w[i, j] = i + j."""
    w = numpy_helper.from_array(
        ((np.arange(4)[:, None] + np.arange(3)) * scale).astype(np.float32), "w"
    )
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])
    return _save(
        helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "dense", [x], [y], [w]),
        path,
    )


def summed(path: Path) -> Path:
    """y[batch, 4] = the sums so far of each row of x[batch, 4]: no row depends on another, but of
    this kernel the compiler does not know that."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
    axis = numpy_helper.from_array(np.array(1, np.int64), "axis")
    nodes = [helper.make_node("CumSum", ["x", "axis"], ["y"])]
    return _save(helper.make_graph(nodes, "summed", [x], [y], [axis]), path)


def pair(path: Path) -> Path:
    """total[n] = a[n] + b[n] (float32), and count[n] = c[n] + 1 (int64)."""
    one = numpy_helper.from_array(np.array(1, np.int64), "one")
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in "ab"]
    values.append(helper.make_tensor_value_info("c", TensorProto.INT64, ["n"]))
    outputs = [
        helper.make_tensor_value_info("total", TensorProto.FLOAT, ["n"]),
        helper.make_tensor_value_info("count", TensorProto.INT64, ["n"]),
    ]
    nodes = [
        helper.make_node("Add", ["a", "b"], ["total"]),
        helper.make_node("Add", ["c", "one"], ["count"]),
    ]
    return _save(helper.make_graph(nodes, "pair", values, outputs, [one]), path)


def normalised(path: Path) -> Path:
    """y[batch, 2] = x / sum of x over the batch: a row depends on the others."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])
    axes = numpy_helper.from_array(np.array([0], np.int64), "axes")
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["s"], keepdims=1),
        helper.make_node("Div", ["x", "s"], ["y"]),
    ]
    return _save(helper.make_graph(nodes, "normalised", [x], [y], [axes]), path)


def gather(path: Path) -> Path:
    """y[n] = table[ids[n]] of ten numbers."""
    table = numpy_helper.from_array(np.arange(10, dtype=np.float32) * 10, "table")
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    node = helper.make_node("Gather", ["table", "ids"], ["y"])
    return _save(helper.make_graph([node], "gather", [ids], [y], [table]), path)


def texts(path: Path) -> Path:
    """shout[n] = word[n] in capitals."""
    word = helper.make_tensor_value_info("word", TensorProto.STRING, ["n"])
    shout = helper.make_tensor_value_info("shout", TensorProto.STRING, ["n"])
    node = helper.make_node("StringNormalizer", ["word"], ["shout"], case_change_action="UPPER")
    return _save(helper.make_graph([node], "texts", [word], [shout]), path)


def parsed(path: Path) -> Path:
    """y[n] = the number that word[n] says; another text fails while it runs."""
    word = helper.make_tensor_value_info("word", TensorProto.STRING, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    node = helper.make_node("Cast", ["word"], ["y"], to=TensorProto.FLOAT)
    return _save(helper.make_graph([node], "parsed", [word], [y]), path)


def kinds(path: Path) -> Path:
    """One input [n] and one output [n] of each datatype: `y_INT8` are the elements of `INT8` as
    float64."""
    dtypes = {
        "BOOL": TensorProto.BOOL, "INT8": TensorProto.INT8, "INT16": TensorProto.INT16,
        "INT32": TensorProto.INT32, "INT64": TensorProto.INT64, "UINT8": TensorProto.UINT8,
        "UINT16": TensorProto.UINT16, "UINT32": TensorProto.UINT32, "UINT64": TensorProto.UINT64,
        "FP16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16, "FP32": TensorProto.FLOAT,
        "FP64": TensorProto.DOUBLE,
    }  # fmt: skip
    inputs = [helper.make_tensor_value_info(n, d, ["n"]) for n, d in dtypes.items()]
    outputs = [helper.make_tensor_value_info(f"y_{n}", TensorProto.DOUBLE, ["n"]) for n in dtypes]
    nodes = [helper.make_node("Cast", [n], [f"y_{n}"], to=TensorProto.DOUBLE) for n in dtypes]
    return _save(helper.make_graph(nodes, "kinds", inputs, outputs), path)


def rounds(path: Path) -> Path:
    """y = x after n rounds of sin: what a run takes is in a value, not in a size."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    n = helper.make_tensor_value_info("n", TensorProto.INT64, [])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    inside = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        helper.make_tensor_value_info("a", TensorProto.FLOAT, [1]),
    ]
    outside = [
        helper.make_tensor_value_info("on", TensorProto.BOOL, []),
        helper.make_tensor_value_info("b", TensorProto.FLOAT, [1]),
    ]
    nodes = [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Sin", ["a"], ["b"])]
    body = helper.make_graph(nodes, "body", inside, outside)
    loop = helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)
    return _save(helper.make_graph([loop], "rounds", [x, n], [y]), path)


def total(path: Path) -> Path:
    """sum = of all elements of x[n, 4], a scalar."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("sum", TensorProto.FLOAT, [])
    node = helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0)
    return _save(helper.make_graph([node], "total", [x], [y]), path)


def squared(path: Path) -> Path:
    """y = x * x, both scalars."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    node = helper.make_node("Mul", ["x", "x"], ["y"])
    return _save(helper.make_graph([node], "squared", [x], [y]), path)


def scaled(path: Path) -> Path:
    """y[n, 2] = x[n, 2] * by[n, 1]."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
    by = helper.make_tensor_value_info("by", TensorProto.FLOAT, ["n", 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])
    node = helper.make_node("Mul", ["x", "by"], ["y"])
    return _save(helper.make_graph([node], "scaled", [x, by], [y]), path)


def centred(path: Path, kind: int = TensorProto.FLOAT) -> Path:
    """y[n] = x less the mean of x: equal rows give what each gives alone."""
    x = helper.make_tensor_value_info("x", kind, ["n"])
    y = helper.make_tensor_value_info("y", kind, ["n"])
    axes = numpy_helper.from_array(np.array([0], np.int64), "axes")
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    return _save(helper.make_graph(nodes, "centred", [x], [y], [axes]), path)


def noisy(path: Path) -> Path:
    """y[n, 4] = numbers at random, of an optional seed."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    node = helper.make_node("RandomUniformLike", ["x"], ["y"])
    return _save(helper.make_graph([node], "noisy", [x], [y]), path)
