"""Element types of 8 bits and fewer: every code, and floats from all over their range, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import naru
from naru.dtypes import DTYPES, TINY, is_float
from naru.ir import arithmetic


def cast_model(source: str, to: str, **attrs: Any) -> onnx.ModelProto:
    """One Cast over a vector of any length."""
    node = helper.make_node("Cast", ["x"], ["y"], to=DTYPES[to].onnx, **attrs)
    x = helper.make_tensor_value_info("x", DTYPES[source].onnx, ["n"])
    y = helper.make_tensor_value_info("y", DTYPES[to].onnx, ["n"])
    graph = helper.make_graph([node], "cast", [x], [y])
    opset = helper.make_opsetid("", onnx.defs.onnx_opset_version())
    return helper.make_model(graph, opset_imports=[opset])


def every_code(dtype: str) -> np.ndarray:
    return np.arange(2 ** DTYPES[dtype].bits).astype(np.uint8).view(DTYPES[dtype].numpy)


def floats() -> np.ndarray:
    """Every exponent and sign with many mantissas: ties, neighbours of ties, random ones."""
    rng = np.random.default_rng(7)
    tops = np.arange(1 << 13, dtype=np.uint32) << 19
    low = [0, 1, (1 << 19) - 1, 1 << 18, (1 << 18) - 1, (1 << 18) + 1]
    random = rng.integers(0, 1 << 32, 1 << 14, dtype=np.uint32)
    return np.concatenate([*[tops | k for k in low], random]).astype(np.uint32).view(np.float32)


def same(got: np.ndarray, want: np.ndarray) -> None:
    """Equal bits, where NaN is one value."""
    assert got.dtype == want.dtype
    g, w = got.astype(np.float32), want.astype(np.float32)
    nan = np.isnan(w)
    np.testing.assert_array_equal(np.isnan(g), nan)
    unsigned = got.view(np.uint8 if got.itemsize == 1 else np.uint32)
    np.testing.assert_array_equal(unsigned[~nan], want.view(unsigned.dtype)[~nan])


@pytest.mark.parametrize("dtype", TINY)
def test_codes_become_floats_and_back(dtype: str) -> None:
    codes = every_code(dtype)
    wide = naru.compile(cast_model(dtype, "f32"), cache=False)(codes)
    same(wide, codes.astype(np.float32))
    attrs = {"saturate": 0} if dtype[:2] == "f8" else {}
    back = naru.compile(cast_model("f32", dtype, **attrs), cache=False)(wide)
    same(back, codes)


@pytest.mark.parametrize("dtype", [d for d in TINY if is_float(d)])
def test_floats_are_rounded(dtype: str) -> None:
    x = floats()
    attrs = {"round_mode": "nearest"} if dtype == "f8e8m0" else {}
    got = naru.compile(cast_model("f32", dtype, saturate=0, **attrs), cache=False)(x)
    with np.errstate(all="ignore"):
        same(got, arithmetic.narrow(x, dtype))
        x = x[np.isfinite(x)]
        codes = every_code(dtype).astype(np.float32)
        largest = float(codes[np.isfinite(codes)].max())
        clipped = np.clip(x, 2.0**-127 if dtype == "f8e8m0" else -largest, largest)
        got = naru.compile(cast_model("f32", dtype, saturate=1, **attrs), cache=False)(x)
        same(got, arithmetic.narrow(clipped, dtype))


@pytest.mark.parametrize("dtype", TINY)
def test_weights_are_unpacked(dtype: str) -> None:
    """As onnx stores them: several in a byte, or one a number."""
    finite = np.isfinite(every_code(dtype).astype(np.float32))
    codes = np.concatenate([every_code(dtype)[finite], every_code(dtype)[:3]])
    tensors = [numpy_helper.from_array(codes, "w")]
    if dtype != "f8e8m0":  # onnx rounds the least of these floats up
        numbers = codes.astype(np.float32)
        tensors.append(helper.make_tensor("w", DTYPES[dtype].onnx, [codes.size], numbers))
    for tensor in tensors:
        node = helper.make_node("Cast", ["w"], ["y"], to=onnx.TensorProto.FLOAT)
        y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [codes.size])
        graph = helper.make_graph([node], "weights", [], [y], [tensor])
        got = naru.compile(helper.make_model(graph), cache=False)()
        np.testing.assert_array_equal(got, codes.astype(np.float32))
