"""Sparse weights and constants are read as dense ones."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from naru.frontend.onnx import read_onnx
from naru.ops.evaluate import evaluate

SHAPE = (3, 4, 2)


def sparse(dtype: str, by_axis: bool, count: int = 5) -> tuple[onnx.SparseTensorProto, np.ndarray]:
    """A sparse tensor called w, and what it is."""
    rng = np.random.default_rng(count)
    places = np.sort(rng.permutation(np.prod(SHAPE))[:count]).astype(np.int64)
    dense = np.zeros(np.prod(SHAPE), dtype)
    dense[places] = rng.integers(1, 9, count).astype(dtype)
    values = numpy_helper.from_array(dense[places], "w")
    if by_axis:
        places = np.stack(np.unravel_index(places, SHAPE), axis=1).astype(np.int64)
    indices = numpy_helper.from_array(places, "i")
    return helper.make_sparse_tensor(values, indices, list(SHAPE)), dense.reshape(SHAPE)


def model(weight: onnx.SparseTensorProto, dtype: str, as_constant: bool) -> onnx.ModelProto:
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    x = helper.make_tensor_value_info("x", code, list(SHAPE))
    y = helper.make_tensor_value_info("y", code, list(SHAPE))
    nodes = [helper.make_node("Where", ["c", "x", "w"], ["y"])]
    if as_constant:
        nodes.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=weight))
    c = helper.make_tensor_value_info("c", TensorProto.BOOL, list(SHAPE))
    graph = helper.make_graph(nodes, "g", [c, x], [y])
    if not as_constant:
        graph.sparse_initializer.append(weight)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int64", "int8", "bool"])
@pytest.mark.parametrize("by_axis", [False, True])
@pytest.mark.parametrize("as_constant", [False, True])
def test_read_as_dense(dtype: str, by_axis: bool, as_constant: bool) -> None:
    for count in (0, 1, 5, 24):
        weight, dense = sparse(dtype, by_axis, count)
        g = read_onnx(model(weight, dtype, as_constant))
        (y,) = evaluate(g, [np.zeros(SHAPE, bool), np.zeros(SHAPE, dtype)])
        assert y.dtype == dense.dtype
        np.testing.assert_array_equal(y, dense)


def test_in_a_body() -> None:
    weight, dense = sparse("float32", True)
    out = helper.make_tensor_value_info("w", TensorProto.FLOAT, list(SHAPE))
    body = helper.make_graph([], "then", [], [out])
    body.sparse_initializer.append(weight)
    zeros = helper.make_node("ConstantOfShape", ["shape"], ["z"])
    other = helper.make_graph(
        [zeros], "else", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, list(SHAPE))]
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=other)
    c = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, list(SHAPE))
    shape = numpy_helper.from_array(np.array(SHAPE, np.int64), "shape")
    graph = helper.make_graph([node], "g", [c], [y], [shape])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (found,) = evaluate(read_onnx(made), [np.array(True)])
    np.testing.assert_array_equal(found, dense)
