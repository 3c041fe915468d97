"""What only data tell, or a file says in another way: unknown categories, sizes that must not be 1,
sparse tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from zoo.build import text

import naru
from naru.errors import InputError, ModelError, RunError, UnsupportedError
from naru.frontend.onnx import read_onnx
from naru.ops.evaluate import evaluate


def test_a_size_that_is_squeezed_or_not() -> None:
    body = "(float[n,1,3] x) => (float[m,3] y) { y = Squeeze(x) }"
    model = naru.compile(text(body).SerializeToString(), cache=False)
    x = np.ones((2, 1, 3), np.float32)
    np.testing.assert_array_equal(model(x), x[:, 0])
    with pytest.raises(InputError, match=r"'y' needs n != 1"):
        model(x[:1])


def test_unknown_categories() -> None:
    attrs = {"cats_int64s": [1, 5, 7], "zeros": 0}
    node = helper.make_node("OneHotEncoder", ["x"], ["y"], domain="ai.onnx.ml", **attrs)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, 3])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    source = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    model = naru.compile(source.SerializeToString(), cache=False)
    np.testing.assert_array_equal(model(np.array([[5, 1]])), [[[0, 1, 0], [1, 0, 0]]])
    with pytest.raises(RunError, match="elements that are no category"):
        model(np.array([[5, 1], [2, 7]]))


@pytest.mark.parametrize("value", ["float", "double", "int16", "int32", "int64", "string"])
@pytest.mark.parametrize("key", ["float", "double", "int16", "int32", "int64", "string"])
def test_label_encoders_of_all_types(key: str, value: str) -> None:
    def listed(kind: str, *numbers: int) -> str:
        shown = ", ".join(f'"{n}"' if kind == "string" else str(n) for n in numbers)
        return f"{kind}[{len(numbers)}] {{{shown}}}"

    def array(kind: str, *numbers: int) -> np.ndarray:
        if kind == "string":
            return np.array([str(n) for n in numbers], object)
        return np.array(numbers, {"float": "float32", "double": "float64"}.get(kind, kind))

    tables = (
        f"keys_tensor = {listed(key, 3, 4)}, values_tensor = {listed(value, 7, 8)},"
        f" default_tensor = {listed(value, 9)}"
    )
    source = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17, "ai.onnx.ml" : 4]>'
        f"g ({key}[n] x) => ({value}[n] y) {{ y = ai.onnx.ml.LabelEncoder<{tables}>(x) }}"
    )
    got = naru.compile(source.SerializeToString(), cache=False)(array(key, 4, 5, 3))
    wanted = array(value, 8, 9, 7)
    assert got.dtype == wanted.dtype
    np.testing.assert_array_equal(got, wanted)


def sparse(values: list[float], at: list[int] | list[list[int]]) -> onnx.SparseTensorProto:
    held = numpy_helper.from_array(np.array(values, np.float32), "w")
    return helper.make_sparse_tensor(held, numpy_helper.from_array(np.array(at), "at"), [2, 3])


@pytest.mark.parametrize("at", [[1, 5], [[0, 1], [1, 2]]])
@pytest.mark.parametrize("as_initializer", [False, True])
def test_sparse_tensors(at: list[int] | list[list[int]], as_initializer: bool) -> None:
    node = helper.make_node("Constant", [], ["w"], sparse_value=sparse([2, 3], at))
    graph = helper.make_graph(
        [*([] if as_initializer else [node]), helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
        sparse_initializer=[sparse([2, 3], at)] if as_initializer else [],
    )
    opset = helper.make_opsetid("", 17)
    source = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    (got,) = evaluate(read_onnx(source), [np.ones((2, 3), np.float32)])
    np.testing.assert_array_equal(got, [[1, 3, 1], [1, 1, 4]])


@pytest.mark.parametrize("at", [[1, 6], [-1, 2], [[0, 3], [1, 2]], [1]])
def test_sparse_tensors_that_make_no_sense(at: list[int] | list[list[int]]) -> None:
    node = helper.make_node("Constant", [], ["y"], sparse_value=sparse([2, 3], at))
    graph = helper.make_graph(
        [node], "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])]
    )
    opset = helper.make_opsetid("", 17)
    with pytest.raises(ModelError, match="expected"):
        read_onnx(helper.make_model(graph, opset_imports=[opset], ir_version=8))


EITHER = (
    "(bool p, float[n] x) => ({out} y) {{ s = If(p) <"
    " then_branch = a () => (float u) {{ u = Constant <value_float = 2.0> () }},"
    " else_branch = b () => (float[1] v) {{ v = Constant <value_floats = [3.0]> () }}> {last} }}"
)


def test_one_element_of_either_rank() -> None:
    """Whether a scalar or a vector is added to a vector makes no difference."""
    source = text(EITHER.format(out="float[n]", last="y = Add(x, s)"))
    x = np.arange(3, dtype=np.float32)
    for p, more in ((True, 2), (False, 3)):
        (got,) = evaluate(read_onnx(source), [np.array(p), x])
        np.testing.assert_array_equal(got, x + more)


READERS = ["y = Identity(s)", "y = Add(s, s)", "q = Shape(s) y = Cast <to = 1> (q)"]


@pytest.mark.parametrize("last", READERS)
def test_one_element_whose_rank_makes_a_difference(last: str) -> None:
    with pytest.raises(UnsupportedError, match="a value of rank 1 or less"):
        read_onnx(text(EITHER.format(out="float[m]", last=last)))


def f32(values: Any) -> np.ndarray:
    return np.array(values, np.float32)


CORNERS = {
    "a range of floats is counted in f64": (
        "(float a, float b, float d) => (float[n] y) { y = Range(a, b, d) }",
        [np.float32(0), np.float32(0.6), np.float32(0.2)],
        f32([0, 0.2, 0.4, 0.6]),
    ),
    "integers times a fraction": (
        "(int32[2,2] a) => (int32[2,2] y) { y = Gemm <alpha = 0.5> (a, a) }",
        [np.array([[1, 2], [3, 4]], np.int32)],
        np.array([[3, 5], [7, 11]], np.int32),
    ),
    "more conditions than elements": (
        "(float[n] x, bool[k] b) => (float[m] y) { y = Compress <axis = 0> (x, b) }",
        [f32([1, 2]), np.array([False, True, True, True])],
        f32([2]),
    ),
    "positions outside are those of the edge, axis by axis": (
        "(float[2,3] x, int64[n,2] at) => (float[n] y) { y = GatherND(x, at) }",
        [np.arange(6, dtype=np.float32).reshape(2, 3), np.array([[0, 5], [-9, 1], [7, -1]])],
        f32([2, 1, 5]),
    ),
    "reflections of reflections": (
        "(float[3] x) => (float[n] y) { p = Constant <value_ints = [5, 3]> ()"
        ' y = Pad <mode = "reflect"> (x, p) }',
        [np.arange(3, dtype=np.float32)],
        np.pad(np.arange(3, dtype=np.float32), (5, 3), "reflect"),
    ),
    "deviations of doubles are floats": (
        "(double[1,2] x, double[2] w) => (float[1,1] m) { y, m = LayerNormalization(x, w) }",
        [np.array([[1.0, 3.0]]), np.ones(2)],
        f32([[2]]),
    ),
}


@pytest.mark.parametrize("what", CORNERS)
def test_corners(what: str) -> None:
    body, inputs, wanted = CORNERS[what]
    model = naru.compile(text(body).SerializeToString(), cache=False)
    got = model(*(np.asarray(a) for a in inputs))
    assert got.dtype == wanted.dtype
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_bounds_that_a_clip_of_old_leaves_out() -> None:
    source = text("(float[n] x) => (float[n] y) { y = Clip(x) }", opset=6)
    most = np.finfo(np.float32).max
    (got,) = evaluate(read_onnx(source), [f32([np.inf, -np.inf, 1])])
    np.testing.assert_array_equal(got, [most, -most, 1])


@pytest.mark.parametrize("scales", ["constant", "computed"])
def test_half_pixels_as_tensorflow_had_them(scales: str) -> None:
    body = (
        "(float[1,1,1,4] x{more}) => (float[1,1,1,n] y) {{ none = Constant <value = "
        'float[0] {{}}> () y = Resize <mode = "nearest", coordinate_transformation_mode = '
        '"tf_half_pixel_for_nn"> (x, none, scales) }}'
    )
    factors = f32([1, 1, 1, 2])
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4)
    if scales == "constant":
        source, inputs = text(body.format(more=""), {"scales": factors}, opset=11), [x]
    else:
        source, inputs = text(body.format(more=", float[4] scales"), opset=11), [x, factors]
    model = naru.compile(source.SerializeToString(), cache=False)
    np.testing.assert_array_equal(model(*inputs).reshape(-1), [0, 1, 1, 2, 2, 3, 3, 3])


SCANNED = (
    "({kind}[{n}] a, {kind}[{m}] b) => (float[k] y) {{ y = Scan <num_scan_inputs = 2,"
    " body = g (float p, float q) => (float r) {{ r = Add(p, q) }}> (a, b) }}"
)


def test_what_is_scanned_is_equally_long() -> None:
    source = text(SCANNED.format(kind="float", n="n", m="m"))
    model = naru.compile(source.SerializeToString(), cache=False)
    x = np.arange(4, dtype=np.float32)
    np.testing.assert_array_equal(model(x, x), x + x)
    with pytest.raises(InputError, match="all that is scanned to be equally long"):
        model(x, x[:2])
    with pytest.raises(ModelError, match="to be equally long, found 4, 2"):
        read_onnx(text(SCANNED.format(kind="float", n=4, m=2)))


@pytest.mark.filterwarnings("ignore::naru.errors.NaruWarning")
@pytest.mark.parametrize(("limit", "step"), [("inf", 1), ("nan", 1), ("1e30", 1), ("3e38", 1e-30)])
def test_ranges_that_are_too_long(limit: str, step: float) -> None:
    numbers = [np.array(v, np.float32) for v in (0, limit, step)]
    graph = helper.make_graph(
        [helper.make_node("Range", ["a", "b", "c"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(v, name) for v, name in zip(numbers, "abc", strict=True)],
    )
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ModelError, match="expected a length of at most"):
        read_onnx(source)


def test_too_many_pieces() -> None:
    body = "(float[1000000000] x) => (int64 n) { s = SplitToSequence(x) n = SequenceLength(s) }"
    with pytest.raises(UnsupportedError, match="1000000000 pieces"):
        read_onnx(text(body))


def trees_of(feature: int) -> onnx.ModelProto:
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[feature, 0, 0],
        nodes_values=[0.5, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        target_treeids=[0, 0],
        target_nodeids=[1, 2],
        target_ids=[0, 0],
        target_weights=[3.0, 4.0],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "f"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
    )
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_trees_that_ask_for_more_features() -> None:
    model = naru.compile(trees_of(2), cache=False)
    np.testing.assert_array_equal(model(np.eye(3, dtype=np.float32)), [[3], [3], [4]])
    message = r"'y' needs f >= 3: its trees ask for feature 2"
    with pytest.raises(InputError, match=message):
        model(np.ones((1, 2), np.float32))
    read_onnx(trees_of(100_000_000))  # takes no table of them all


def test_many_axes_that_only_data_tell() -> None:
    """Formulas for their sizes grow with the number of axes, not with its power of two."""
    ones = ",".join(["1"] * 20)
    bodies = (
        f"(float[{ones},3] x, int64[10] a) => (float[1,1,1,1,1,1,1,1,1,1,3] y) {{ y = $(x, a) }}",
        "(float[3] x, int64[14] a) => (float[b,c,d,e,f,g,h,i,j,k,l,m,n,o,p] y) {"
        " y = Unsqueeze(x, a) }",
    )
    x, axes = np.arange(3, dtype=np.float32), np.arange(14)
    for op in ("Squeeze", "ReduceSum <keepdims = 0>"):
        g = read_onnx(text(bodies[0].replace("$", op)))
        (got,) = evaluate(g, [x.reshape([*[1] * 20, 3]), axes[:10] - 12])
        np.testing.assert_array_equal(got, x.reshape([*[1] * 10, 3]))
    got = naru.compile(text(bodies[1]), cache=False)(x, axes)
    np.testing.assert_array_equal(got, x.reshape([*[1] * 14, 3]))
