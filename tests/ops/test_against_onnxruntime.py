"""The meaning of every op that has an ONNX counterpart, against ONNX Runtime on its samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from naru.dtypes import DTYPES, FROM_NUMPY, TINY, is_float
from naru.ops.evaluate import evaluate
from naru.ops.registry import Sample
from tests.ops.test_ops import IDS, SAMPLES, build
from tests.tensor_interp import tolerance

Array = np.ndarray
Call = tuple[str, list[Array | None], dict[str, Any]]
Mapping = Callable[[Sample], Call]
OPSET, IR_VERSION = 21, 10


def plain(onnx_op: str) -> Mapping:
    """The same operands and attributes."""
    return lambda s: (onnx_op, list(s.inputs), dict(s.attrs))


def product(onnx_op: str) -> Mapping:
    """Sums of products. Those of several numbers in each i32 are no operator of ONNX."""

    def call(s: Sample) -> Call:
        if s.attrs.get("paired") or s.attrs.get("quads"):
            pytest.skip("no ONNX op")
        return plain(onnx_op)(s)

    return call


def moved(onnx_op: str, *names: str) -> Mapping:
    """Attributes that ONNX takes as operands, in order."""

    def call(s: Sample) -> Call:
        attrs = dict(s.attrs)
        extra = [np.array(attrs.pop(n), np.int64) if n in attrs else None for n in names]
        return onnx_op, [*s.inputs, *extra], attrs

    return call


def nonzero_divisor(onnx_op: str) -> Mapping:
    """ONNX Runtime traps where an integer is divided by 0, or the lowest one by -1."""

    def call(s: Sample) -> Call:
        a, b = s.inputs
        assert b is not None
        if b.dtype.kind in "iu" and np.isin(b, [0, -1]).any():
            pytest.skip("not defined by ONNX")
        attrs = dict(s.attrs)
        if onnx_op == "Mod" and b.dtype.kind in "fV":
            attrs["fmod"] = 1
            if not s.attrs["fmod"]:
                pytest.skip("floats have fmod only")
        return onnx_op, [a, b], attrs

    return call


def cast(s: Sample) -> Call:
    (x,) = s.inputs
    assert x is not None
    to = DTYPES[s.attrs["to"]]
    if to.name == "bf16" or to.name in TINY:
        pytest.skip(f"ONNX Runtime gives numpy no {to.name}")
    if x.dtype.kind == "f" and to.kind in "iu":
        # Out of range is not defined by ONNX.
        info = np.iinfo(to.numpy)
        inside = np.isfinite(x) & (x > max(info.min, -1e6)) & (x < min(info.max, 1e6))
        x = np.where(inside, x, np.ones_like(x))
    return "Cast", [x], {"to": to.onnx}


def reduction(onnx_op: str) -> Mapping:
    def call(s: Sample) -> Call:
        axes = np.array(s.attrs["axes"], np.int64)
        attrs = {"keepdims": int(s.attrs["keepdims"]), "noop_with_empty_axes": 1}
        if not axes.size and onnx_op != "ReduceSum":
            pytest.skip("without axes ONNX leaves out the elementwise part")
        return onnx_op, [*s.inputs, axes], attrs

    return call


def arg(onnx_op: str) -> Mapping:
    def call(s: Sample) -> Call:
        x = s.inputs[0]
        if x is not None and x.dtype.kind == "f" and np.isnan(x).any():
            pytest.skip("ONNX does not say where a NaN is")
        return onnx_op, list(s.inputs), {k: int(v) for k, v in s.attrs.items()}

    return call


def pad(s: Sample) -> Call:
    pads = np.array(s.attrs["pads"], np.int64)
    x = s.inputs[0]
    assert x is not None
    if x.dtype.kind == "b" or (pads.min() < 0 and s.attrs["mode"] != "constant"):
        pytest.skip("not in ONNX Runtime")
    value = np.array(s.attrs.get("value", 0), x.dtype)
    return "Pad", [x, pads, value], {"mode": s.attrs["mode"]}


def constant_of_shape(s: Sample) -> Call:
    value = np.array([s.attrs["value"]], DTYPES[s.attrs["dtype"]].numpy)
    tensor = helper.make_tensor("v", DTYPES[s.attrs["dtype"]].onnx, [1], value.tolist())
    return "ConstantOfShape", [np.array(s.attrs["shape"], np.int64)], {"value": tensor}


def slice_(s: Sample) -> Call:
    parts = [
        np.array(s.attrs[n], np.int64) for n in ("starts", "ends", "axes", "steps") if n in s.attrs
    ]
    return "Slice", [*s.inputs, *parts], {}


def range_of_values(s: Sample) -> Call:
    return "Range", list(s.inputs), {}


def one_hot(s: Sample) -> Call:
    at, values = s.inputs
    axis = s.attrs.get("axis", -1)
    return "OneHot", [at, np.array(s.attrs["depth"]), values], {"axis": axis}


def selu(s: Sample) -> Call:
    return "Selu", list(s.inputs), {}


def trilu(s: Sample) -> Call:
    k = np.array(s.attrs.get("k", 0), np.int64)
    return "Trilu", [*s.inputs, k], {"upper": s.attrs.get("upper", 1)}


def reshape(s: Sample) -> Call:
    return "Reshape", [*s.inputs, np.array(s.attrs["shape"], np.int64)], {"allowzero": 1}


def cumulative(onnx_op: str) -> Mapping:
    def call(s: Sample) -> Call:
        attrs = {k: v for k, v in s.attrs.items() if k != "axis"}
        return onnx_op, [*s.inputs, np.array(s.attrs["axis"], np.int64)], attrs

    return call


def scatter(onnx_op: str) -> Mapping:
    """ONNX Runtime refuses positions that are out of range."""

    def call(s: Sample) -> Call:
        data, at, updates = s.inputs
        assert data is not None
        assert at is not None
        how = s.attrs.get("reduction", "none")
        if how != "none" and (data.dtype.itemsize == 1 or data.dtype == np.float16):
            pytest.skip("no kernel for these dtypes")
        if how != "none" and data.dtype.kind == "f" and np.isnan(data).any():
            pytest.skip("drops NaNs, depending on their position")
        if onnx_op == "ScatterND":
            sizes = np.array(data.shape[: at.shape[-1]], at.dtype)
        else:
            sizes = np.array(data.shape[s.attrs.get("axis", 0)], at.dtype)
        inside = np.clip(at, -sizes, sizes - 1)
        return onnx_op, [data, inside, updates], dict(s.attrs)

    return call


def top_k(s: Sample) -> Call:
    x = s.inputs[0]
    if x is not None and x.dtype.kind == "f" and np.isnan(x).any():
        pytest.skip("ONNX does not say where a NaN is")
    attrs = {"largest": int(s.attrs["largest"])}
    return "TopK", [*s.inputs, np.array([s.attrs["k"]], np.int64)], attrs


def reverse_sequence(s: Sample) -> Call:
    x, lengths = s.inputs
    assert x is not None
    assert lengths is not None
    batch, time = (s.attrs[f"{k}_axis"] for k in ("batch", "time"))
    if {batch, time} != {0, 1}:
        pytest.skip("the first two axes are batch and time")
    inside = np.clip(lengths, 0, x.shape[time]).astype(np.int64)
    return "ReverseSequence", [x, inside], dict(s.attrs)


def bit_shift(s: Sample) -> Call:
    x = s.inputs[0]
    if x is not None and x.dtype.kind == "i":
        pytest.skip("unsigned numbers only")
    return "BitShift", list(s.inputs), dict(s.attrs)


def rms_normalization(s: Sample) -> Call:
    x, scale = s.inputs
    if x is None or scale is None or scale.shape != x.shape[s.attrs.get("axis", -1) % x.ndim :]:
        pytest.skip("the scale has the shape of what is normalised there")
    return "SimplifiedLayerNormalization", [x, scale], dict(s.attrs)


SAME_NAME = [
    "tan", "atan", "asin", "acos", "sinh", "cosh", "asinh", "acosh", "atanh",
    "neg", "abs", "exp", "log", "sqrt", "reciprocal", "sin", "cos", "tanh", "sigmoid", "erf",
    "relu", "floor", "ceil", "round", "sign", "not", "softplus", "softsign", "elu", "celu",
    "hard_sigmoid", "hard_swish", "mish", "add", "sub", "mul", "pow", "min", "max", "and", "or",
    "xor", "equal", "less", "greater", "clip", "where", "identity", "transpose", "gather",
    "gather_elements", "concat", "shape", "size", "softmax", "log_softmax", "leaky_relu",
    "thresholded_relu", "bitwise_not", "bitwise_and", "bitwise_or", "bitwise_xor",
    "less_or_equal", "greater_or_equal", "layer_normalization", "batch_normalization",
    "global_average_pool", "global_max_pool", "max_pool",
]  # fmt: skip
SPECIAL = {
    "hard_swish": "HardSwish", "isnan": "IsNaN", "prelu": "PRelu",
    "less_or_equal": "LessOrEqual", "bit_shift": "BitShift",
}  # fmt: skip


def onnx_name(name: str) -> str:
    return SPECIAL.get(name, "".join(part.capitalize() for part in name.split("_")))


def in_batch(rois: Array, images: Array, count: int) -> tuple[Array, Array]:
    """Regions that ONNX Runtime reads without leaving its operands."""
    if not np.isfinite(images).all() or not (np.abs(rois.astype(np.float64)) < 1e6).all():
        pytest.skip("not defined by ONNX")
    return rois, np.clip(images, 0, max(count - 1, 0))


def roi_align(s: Sample) -> Call:
    x, rois, images = s.inputs
    assert x is not None
    assert rois is not None
    assert images is not None
    rois, images = in_batch(rois, images.astype(np.int64), len(x))
    a = s.attrs
    if not a["ratio"]:  # it counts the samples of a region that is turned round, and overflows
        rois = np.concatenate([np.minimum(rois[:, :2], rois[:, 2:]), rois[:, 2:]], 1)
    attrs = {
        "mode": a["mode"],
        "output_height": a["height"],
        "output_width": a["width"],
        "sampling_ratio": a["ratio"],
        "spatial_scale": a["scale"],
        "coordinate_transformation_mode": "half_pixel" if a["half"] else "output_half_pixel",
    }
    return "RoiAlign", [x, rois, images], attrs


def max_roi_pool(s: Sample) -> Call:
    x, rois = s.inputs
    assert x is not None
    assert rois is not None
    places, images = in_batch(rois[:, 1:], rois[:, :1], len(x))
    shape = [s.attrs["height"], s.attrs["width"]]
    attrs = {"pooled_shape": shape, "spatial_scale": s.attrs["scale"]}
    return "MaxRoiPool", [x, np.concatenate([images, places], 1)], attrs


# Where ONNX Runtime does something else than numpy and the reference implementation of ONNX.
DIFFERENT = {
    "max_pool-10": "drops NaNs, depending on their position",
    "reduce_max-9": "drops NaNs, depending on their position",
    "reduce_min-9": "drops NaNs, depending on their position",
    "clip-3": "replaces infinities without being asked to",
    "clip-4": "replaces infinities without being asked to",
    "clip-5": "replaces infinities without being asked to",
    "conv-11": "refuses an empty result",
    "gather-5": "refuses positions in an empty axis",
    "one_hot-2": "refuses scalars",
    "transpose-3": "refuses scalars",
}
TABLE: dict[str, Mapping] = {
    **{name: plain(onnx_name(name)) for name in (*SAME_NAME, "isnan", "prelu")},
    "matmul": product("MatMul"), "conv": product("Conv"),
    "isinf": plain("IsInf"), "gelu": plain("Gelu"), "selu": selu, "cast": cast, "pad": pad,
    "div": nonzero_divisor("Div"), "mod": nonzero_divisor("Mod"),
    "expand": moved("Expand", "shape"), "tile": moved("Tile", "repeats"), "reshape": reshape,
    "roi_align": roi_align, "max_roi_pool": max_roi_pool,
    "slice": slice_, "range": range_of_values, "constant_of_shape": constant_of_shape,
    "rms_normalization": rms_normalization,
    "one_hot": one_hot, "cumsum": cumulative("CumSum"), "bit_shift": bit_shift,
    "scatter_elements": scatter("ScatterElements"), "scatter_nd": scatter("ScatterND"),
    "top_k": top_k, "reverse_sequence": reverse_sequence, "average_pool": plain("AveragePool"),
    "trilu": trilu,
    "arg_max": arg("ArgMax"), "arg_min": arg("ArgMin"),
    **{f"reduce_{n}": reduction("Reduce" + onnx_name(n)) for n in (
        "sum", "mean", "max", "min", "prod", "sum_square", "l1", "l2", "log_sum", "log_sum_exp")},
}  # fmt: skip


def run_onnx(call: Call) -> Array:
    """The op's first output by ONNX Runtime; skips where it has no kernel for the dtypes."""
    op, arrays, attrs = call
    names = ["" if a is None else f"x{k}" for k, a in enumerate(arrays)]
    inputs = [
        helper.make_tensor_value_info(n, DTYPES[FROM_NUMPY[a.dtype]].onnx, a.shape)
        for n, a in zip(names, arrays, strict=True)
        if a is not None
    ]
    node = helper.make_node(op, names, ["y", "z"] if op == "TopK" else ["y"], **attrs)
    output = helper.make_value_info("y", helper.make_tensor_type_proto(TensorProto.UNDEFINED, None))
    output.ClearField("type")
    graph = helper.make_graph([node], "g", inputs, [output])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    except Exception as error:
        if "NOT_IMPLEMENTED" in str(error) or "is invalid" in str(error):
            pytest.skip("no kernel for these dtypes")
        raise
    feed = {n: a for n, a in zip(names, arrays, strict=True) if a is not None}
    return np.asarray(session.run(None, feed)[0])


@pytest.mark.parametrize(("name", "k", "sample"), SAMPLES, ids=IDS)
def test_against_onnxruntime(name: str, k: int, sample: Sample) -> None:
    if f"{name}-{k}" in DIFFERENT:
        pytest.skip(DIFFERENT[f"{name}-{k}"])
    if name not in TABLE:
        pytest.skip("no ONNX op")
    if any(a is not None and FROM_NUMPY[a.dtype] in ("bf16", *TINY) for a in sample.inputs):
        pytest.skip("ONNX Runtime takes no such arrays")
    call = TABLE[name](sample)
    want = run_onnx(call)
    # A mapping may have replaced an operand where ONNX does not define the result.
    operands = sample.inputs if name == "one_hot" else tuple(call[1][: len(sample.inputs)])
    got, *_ = evaluate(
        build(name, Sample(operands, sample.attrs)), [a for a in operands if a is not None]
    )
    assert got.shape == want.shape
    dtype = FROM_NUMPY[got.dtype]
    if not is_float(dtype):
        np.testing.assert_array_equal(got, want)
        return
    bound = max(tolerance(dtype), 1e-5)
    np.testing.assert_allclose(
        got.astype(np.float64), want.astype(np.float64), rtol=bound, atol=bound
    )
