"""Small models that once went wrong: what drawing operators at random found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from onnx import TensorProto, helper, numpy_helper

import naru
from naru.errors import InputError, UnsupportedError
from naru.frontend.onnx import read_onnx
from naru.ops.evaluate import evaluate

Array = np.ndarray


def model(
    op: str, opset: int, inputs: Mapping[str, tuple[int, list[Any]]], constants: dict[str, Array],
    names: list[str], **attrs: Any,
) -> onnx.ModelProto:  # fmt: skip
    """One node over typed inputs and constants."""
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], **attrs)], "g",
        [helper.make_tensor_value_info(n, *t) for n, t in inputs.items()],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def test_squeeze_of_all_axes_that_only_data_tell() -> None:
    made = model("Squeeze", 21, {"x": (TensorProto.FLOAT, [1]), "a": (TensorProto.INT64, [1])},
                 {}, ["x", "a"])  # fmt: skip
    y = np.asarray(naru.compile(made, cache=False)(np.ones(1, np.float32), np.array([0])))
    assert y.shape == ()


@pytest.mark.parametrize("op", ["LayerNormalization", "RMSNormalization"])
def test_normalization_of_a_size_that_only_the_scale_tells(op: str) -> None:
    scale = np.arange(1, 4, dtype=np.float32)
    made = model(op, 23, {"x": (TensorProto.FLOAT, ["n", "c"])}, {"s": scale}, ["x", "s"])
    compiled = naru.compile(made, cache=False)
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    centred = x - x.mean(-1, keepdims=True) if op == "LayerNormalization" else x
    want = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale
    np.testing.assert_allclose(np.asarray(compiled(x)), want, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError):
        compiled(np.ones((5, 4), np.float32))


def test_hardmax_of_no_elements() -> None:
    made = model("Hardmax", 13, {"x": (TensorProto.FLOAT, [2, 0])}, {}, ["x"], axis=-1)
    assert np.asarray(naru.compile(made, cache=False)(np.ones((2, 0), np.float32))).shape == (2, 0)


def test_bits_of_tiny_floats_are_refused() -> None:
    made = model("BitCast", 26, {"x": (TensorProto.INT8, [4])}, {}, ["x"],
                 to=TensorProto.FLOAT8E4M3FN)  # fmt: skip
    with pytest.raises(UnsupportedError, match="bits of i8 as f8e4m3fn"):
        naru.compile(made, cache=False)


def test_heads_of_unknown_size_are_refused() -> None:
    inputs = {"x": (TensorProto.FLOAT, [1, 2, 3, "d"]), "c": (TensorProto.FLOAT, [1, 3, "h"]),
              "s": (TensorProto.FLOAT, [1, 3, "h"])}  # fmt: skip
    with pytest.raises(UnsupportedError, match="heads of unknown size"):
        naru.compile(model("RotaryEmbedding", 23, inputs, {}, ["x", "c", "s"]), cache=False)


@pytest.mark.parametrize("k", range(4))
def test_values_without_elements_in_fresh_memory(k: int) -> None:
    """A carried value that shrinks to nothing: memory of no bytes is memory all the same."""
    case = zoo.CASES["loop_sizes_of_all_kinds"]
    source, feed = case.model().SerializeToString(), list(case.feeds())[k]
    got = naru.compile(source)(**feed)
    want = evaluate(read_onnx(source), list(feed.values()))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
