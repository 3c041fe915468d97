"""Operators on small integers, compared with ONNX Runtime: those of the standard and those of
com.microsoft, which has a domain of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from naru.errors import ModelError, UnsupportedError
from naru.frontend.onnx import read_onnx
from naru.ops.evaluate import evaluate

Array = np.ndarray
Operands = Sequence[Array | None]
Case = tuple[str, Operands, dict[str, Any]]
MICROSOFT = "com.microsoft"


def values(dtype: str, *shape: int, seed: int = 0) -> Array:
    """Integers over the whole range of a dtype."""
    info = np.iinfo(dtype)
    rng = np.random.default_rng(seed)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def number(value: float, dtype: str = "float32") -> Array:
    return np.array(value, dtype)


def model_of(
    op: str,
    operands: Operands,
    attrs: dict[str, Any],
    *,
    domain: str = MICROSOFT,
    opset: int = 21,
    outputs: int = 1,
) -> onnx.ModelProto:
    """One node; what has no dims is an initializer, the rest are inputs."""
    names = ["" if a is None else f"i{k}" for k, a in enumerate(operands)]
    given = [(n, a) for n, a in zip(names, operands, strict=True) if a is not None]
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in given
        if a.ndim
    ]
    results = [helper.make_empty_tensor_value_info(f"o{k}") for k in range(outputs)]
    node = helper.make_node(op, names, [r.name for r in results], domain=domain, **attrs)
    weights = [numpy_helper.from_array(a, n) for n, a in given if not a.ndim]
    graph = helper.make_graph([node], "g", inputs, results, weights)
    versions = {"": opset, MICROSOFT: 1, "ai.onnx.ml": 3}
    opsets = [helper.make_opsetid(d, v) for d, v in versions.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def run_both(model: onnx.ModelProto, operands: Operands) -> list[tuple[Array, Array]]:
    """(ours, ONNX Runtime's) for each output."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = {i.name for i in model.graph.input}
    feed = {f"i{k}": a for k, a in enumerate(operands) if a is not None and f"i{k}" in names}
    wanted = [np.asarray(w) for w in session.run(None, feed)]
    g = read_onnx(model)
    return list(
        zip(evaluate(g, [feed[str(n.attr("name"))] for n in g.inputs]), wanted, strict=True)
    )


def assert_near(got: Array, want: Array) -> None:
    """Floats to a few units of rounding; small integers but for a unit where a sum of floats lies
    between two, which is rare."""
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    if want.dtype.kind in "iu" and want.dtype.itemsize <= 2:
        far = np.abs(got.astype(np.int64) - want.astype(np.int64))
        assert far.max(initial=0) <= 1
        assert (far > 0).mean() <= 0.02 if far.size else True
    elif want.dtype.kind in "iu":
        np.testing.assert_array_equal(got, want)
    else:
        largest = float(np.abs(want.astype(np.float64)).max(initial=1e-30))
        rough = 1e-3 if want.dtype.itemsize == 2 else 1e-5
        np.testing.assert_allclose(
            got.astype(np.float64), want.astype(np.float64), rtol=rough, atol=rough * largest
        )


def per_tensor(dtype: str, *at: float) -> list[Array]:
    """Scale and zero point, in turn."""
    return [number(v, dtype if k % 2 else "float32") for k, v in enumerate(at)]


def _two_operands(op: str, dtype: str, shape: tuple[int, ...]) -> Case:
    low = np.iinfo(dtype).min
    a = [values(dtype, 2, 3, 5), *per_tensor(dtype, 0.03, low + 120)]
    b = [values(dtype, *shape, seed=1), *per_tensor(dtype, 0.01, low + 7)]
    return op, [*a, *b, *per_tensor(dtype, 0.05, low + 99)], {}


def _one_operand(op: str, dtype: str, shape: tuple[int, ...], **attrs: Any) -> Case:
    low = np.iinfo(dtype).min
    x = [values(dtype, *shape), *per_tensor(dtype, 0.0517, low + 130)]
    to = (1 / 256, low) if op in ("QLinearSigmoid", "QLinearSoftmax") else (0.0413, low + 100)
    return op, [*x, *per_tensor(dtype, *to)], attrs


def _elementwise() -> list[Case]:
    found: list[Case] = []
    for dtype in ("u8", "i8"):
        kind = {"u8": "uint8", "i8": "int8"}[dtype]
        low = np.iinfo(kind).min
        for shape in ((2, 3, 5), (3, 1), (1,)):
            found += [_two_operands(f"QLinear{op}", kind, shape) for op in ("Add", "Mul")]
        found += [
            _one_operand("QLinearSigmoid", kind, (4, 9)),
            _one_operand("QLinearLeakyRelu", kind, (4, 9), alpha=0.1),
            _one_operand("QLinearSoftmax", kind, (2, 3, 5), axis=-1, opset=13),
            _one_operand("QLinearSoftmax", kind, (2, 3, 5), axis=1, opset=11),
            _one_operand("QLinearAveragePool", kind, (1, 3, 6, 7), kernel_shape=[2, 3],
                         strides=[2, 1], pads=[1, 1, 1, 1]),
            _one_operand("QLinearAveragePool", kind, (1, 6, 7, 5), kernel_shape=[3, 3],
                         channels_last=1),
            _one_operand("QLinearGlobalAveragePool", kind, (2, 3, 5, 4)),
            _one_operand("QLinearGlobalAveragePool", kind, (2, 5, 4, 3), channels_last=1),
        ]  # fmt: skip
        parts = [values(kind, 2, 3), *per_tensor(kind, 0.02, low + 3)]
        more = [values(kind, 2, 1, seed=1), *per_tensor(kind, 0.07, low + 100)]
        found.append(
            ("QLinearConcat", [*per_tensor(kind, 0.04, low + 50), *parts, *more], {"axis": -1})
        )
        x = [values(kind, 2, 3, seed=2), *per_tensor(kind, 0.02, low + 3)]
        end = per_tensor(kind, 0.04, low + 50)
        found.append(("QLinearWhere", [values("uint8", 2, 1) > 127, *x, *more, *end], {}))
    return found


def _products() -> list[Case]:
    """Products that are in pairs, and such that are not: few, or of one channel."""
    found: list[Case] = []
    small = per_tensor("uint8", 0.02, 17)
    for m, k, n in ((5, 16, 7), (3, 9, 20), (1, 2, 3)):
        a, b = values("uint8", m, k), values("int8", k, n, seed=1) // 2
        scales, zeros = np.abs(floats(n)) + np.float32(0.01), values("int8", n, seed=2)
        bias = values("int16", n).astype(np.int32)
        one_scale = [b, *per_tensor("int8", 0.03, -5)]
        found += [
            ("QGemm", [a, *small, *one_scale, bias, *per_tensor("uint8", 1.7, 90)], {}),
            ("QGemm", [a.T.copy(), *small, b.T.copy(), scales, zeros], {"transA": 1, "transB": 1}),
            ("MatMulIntegerToFloat", [a, b, number(0.1), scales, small[1], zeros, floats(n)], {}),
            ("DynamicQuantizeMatMul", [floats(m, k), b, scales, zeros, floats(n)], {}),
        ]
    for shape, window, attrs in (
        ((2, 5, 6, 4), (6, 4, 3, 3), {"pads": [1, 0, 1, 2], "strides": [2, 1]}),
        ((1, 7, 6, 3), (2, 3, 2, 3), {"dilations": [2, 1]}),
        ((1, 6, 5, 6), (6, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    ):
        w = [values("int8", *window, seed=3) // 2, *per_tensor("int8", 0.01, 3)]
        end = [*per_tensor("uint8", 0.9, 100), values("int16", window[0]).astype(np.int32)]
        found.append(
            ("QLinearConv", [values("uint8", *shape), *small, *w, *end],
             {"channels_last": 1, **attrs})
        )  # fmt: skip
    return found


def _weights() -> list[Case]:
    """Weights of a few bits."""
    found: list[Case] = []
    for bits, size in ((4, 40), (8, 32), (2, 50)):
        blocks = -(-size // 16)
        attrs = {"K": size, "N": 5, "bits": bits, "block_size": 16}
        b, scales = values("uint8", 5, blocks, 2 * bits), np.abs(floats(5 * blocks))
        zeros = values("uint8", 5 * -(-blocks * bits // 8), seed=4)
        found += [
            ("MatMulNBits", [floats(2, 3, size), b, scales], attrs),
            ("MatMulNBits", [floats(3, size), b, scales, zeros, None, floats(5)], attrs),
        ]
    order = np.arange(40, dtype=np.int32) % 3
    four = {"K": 40, "N": 5, "bits": 4, "block_size": 16}
    b, scales, zeros = values("uint8", 5, 3, 8), np.abs(floats(15)), np.abs(floats(15, seed=1))
    found.append(("MatMulNBits", [floats(3, 40), b, scales, zeros, order], four))
    for kind in (0, 1):
        bnb = {"K": 11, "N": 7, "block_size": 16, "quant_type": kind}
        found.append(("MatMulBnb4", [floats(2, 11), values("uint8", 39), np.abs(floats(5))], bnb))
    return found


def _layers() -> list[Case]:
    found: list[Case] = []
    x, w = values("uint8", 2, 5, 6), values("int8", 6, 24, seed=1) // 2
    ends, whole = np.array([3, 5], np.int32), values("uint8", 2, 7).astype(np.int32) // 128
    past = floats(2, 2, 2, 2, 4)
    for mask, before in ((None, None), (ends, None), (np.array([3, 5, 1, 0], np.int32), None),
                         (whole[:, :5], None), (whole, past), (None, past)):  # fmt: skip
        operands = [x, w, floats(24), number(0.02), number(0.01), mask, number(120, "uint8")]
        for causal in (0, 1):
            attrs = {"num_heads": 2, "unidirectional": causal}
            found.append(("QAttention", [*operands, number(3, "int8"), before], attrs))
    ids = np.array([[1, 3, 0], [2, 2, 1]], np.int32)
    tables = [values("uint8", 4, 8), values("uint8", 5, 8, seed=1), values("uint8", 2, 8, seed=2)]
    ends_of = [values("uint8", 8, seed=3), values("uint8", 8, seed=4)]
    scales, zeros = [number(0.02)] * 5, [number(9, "uint8")] * 5
    mask = np.array([[1, 1, 0], [1, 0, 0]], np.int32)
    found.append(
        ("QEmbedLayerNormalization", [ids, ids % 2, *tables, *ends_of, mask, *scales, *zeros], {})
    )
    return found


def test_rows_of_blocks() -> None:
    """Rows by number, by negative number too; the data must be constants for ONNX Runtime."""
    at = np.array([[0, -1], [2, 1]], np.int64)
    for bits in (4, 8):
        data, scales = values("uint8", 3, 32 * bits // 8), np.abs(floats(3, 2))
        zeros = values("uint8", 3, 2 * bits // 8, seed=1)
        attrs = {"bits": bits, "block_size": 16, "gather_axis": 0, "quantize_axis": 1}
        operands = [data, at, scales, zeros]
        model = model_of("GatherBlockQuantized", operands, attrs)
        constants = {"i0": data, "i2": scales, "i3": zeros}
        kept = [i for i in model.graph.input if i.name not in constants]
        del model.graph.input[:]
        model.graph.input.extend(kept)
        model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in constants.items())
        for got, want in run_both(model, operands):
            assert_near(got, want)


def test_recurrent_layer() -> None:
    """Activations stay f32 here and are bytes there, so results are near, not equal."""
    w, r = values("int8", 1, 3, 16) // 2, values("int8", 1, 4, 16, seed=1) // 2
    scales, zeros = np.full(1, 0.004, np.float32), np.zeros(1, np.int8)
    operands = [floats(6, 2, 3), w, r, floats(1, 32), *[None] * 4, scales, zeros, scales, zeros]
    names = {"w": 1, "r": 2, "w_scale": 8, "w_zero_point": 9, "r_scale": 10, "r_zero_point": 11}
    model = model_of("DynamicQuantizeLSTM", operands, {"hidden_size": 4}, outputs=3)
    kept = [i for i in model.graph.input if int(i.name[1:]) not in names.values()]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    for k in names.values():
        model.graph.initializer.append(numpy_helper.from_array(operands[k], f"i{k}"))
    for got, want in run_both(model, operands):
        np.testing.assert_allclose(got, want, atol=0.03)


OUTPUTS = {"QEmbedLayerNormalization": 2}
CASES = [*_elementwise(), *_products(), *_weights(), *_layers()]


@pytest.mark.parametrize(
    ("op", "operands", "attrs"), CASES, ids=[f"{k}-{c[0]}" for k, c in enumerate(CASES)]
)
def test_microsoft(op: str, operands: Operands, attrs: dict[str, Any]) -> None:
    outputs = 2 if op == "QAttention" and operands[-1] is not None else OUTPUTS.get(op, 1)
    for got, want in run_both(model_of(op, operands, attrs, outputs=outputs), operands):
        assert_near(got, want)


def _standard() -> list[Case]:
    found: list[Case] = []
    a, b = values("uint8", 2, 3, 11), values("int8", 11, 6, seed=1) // 2
    zeros = values("int8", 6, seed=2)
    found += [
        ("MatMulInteger", [a, b], {}),
        ("MatMulInteger", [a, b, number(9, "uint8"), zeros], {}),
        ("MatMulInteger", [a, values("int8", 2, 11, 4) // 2, number(9, "uint8")], {}),
        ("MatMulInteger", [a, values("int8", 11) // 2], {}),
        ("QLinearMatMul", [a, *per_tensor("uint8", 0.02, 17), b, *per_tensor("int8", 0.03, 2),
                           *per_tensor("uint8", 0.4, 120)], {}),
        ("QLinearMatMul", [a[0], *per_tensor("uint8", 0.02, 17), b, np.abs(floats(6)), zeros,
                           *per_tensor("uint8", 9.0, 120)], {}),
    ]  # fmt: skip
    for window, attrs in (
        ((4, 3, 3, 3), {"pads": [1, 1, 1, 1]}),
        ((4, 3, 2, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
        ((6, 2, 3, 3), {"group": 2}),
        ((8, 1, 3, 3), {"group": 4, "pads": [0, 1, 2, 1]}),
    ):
        channels = window[1] * int(attrs.get("group", 1))  # pyright: ignore[reportArgumentType]
        x, w = values("uint8", 2, channels, 7, 6), values("int8", *window, seed=1) // 2
        one_zero = [number(3, "uint8"), number(-4, "int8")]
        found += [
            ("ConvInteger", [x, w], attrs),
            ("ConvInteger", [x, w, *one_zero], attrs),
            ("QLinearConv", [x, number(0.1), one_zero[0], w, np.abs(floats(window[0])),
                             np.zeros(window[0], np.int8), number(9.0), number(70, "uint8")],
             attrs),
        ]  # fmt: skip
    x = floats(3, 10, 4) * np.float32(30)
    for dtype in ("uint8", "int8", "uint16", "int16"):
        zeros = values(dtype, 10)
        blocks = [np.abs(floats(3, 4, 4)) + np.float32(0.1), values(dtype, 3, 4, 4)]
        attrs: dict[str, Any] = {"axis": 1, "block_size": 3}
        for op, source in (("QuantizeLinear", x), ("DequantizeLinear", values(dtype, 3, 10, 4))):
            found += [
                (op, [source, number(0.3), number(7, dtype)], {}),
                (op, [source, np.abs(floats(10)) + np.float32(0.1), zeros], {"axis": -2}),
                (op, [source, *blocks], attrs),
                (
                    op,
                    [source[:, :8], blocks[0][:, :2], blocks[1][:, :2]],
                    attrs | {"block_size": 4},
                ),
            ]
    found.append(("QuantizeLinear", [x.astype(np.float16), number(0.25, "float16")], {}))
    return found


STANDARD = _standard()


@pytest.mark.parametrize(
    ("op", "operands", "attrs"), STANDARD, ids=[f"{k}-{c[0]}" for k, c in enumerate(STANDARD)]
)
def test_standard(op: str, operands: Operands, attrs: dict[str, Any]) -> None:
    for got, want in run_both(model_of(op, operands, attrs, domain=""), operands):
        assert_near(got, want)


@pytest.mark.parametrize("x", [floats(3, 5), -np.abs(floats(7)), np.zeros(4, np.float32)])
def test_dynamic_quantize(x: Array) -> None:
    """Of zeros, the scale is 0 as the standard has it, where ONNX Runtime says 1."""
    (y, want), (scale, wanted_scale), (zero, wanted_zero) = run_both(
        model_of("DynamicQuantizeLinear", [x], {}, domain="", outputs=3), [x]
    )
    assert_near(y, want)
    np.testing.assert_allclose(scale, wanted_scale if x.any() else 0, rtol=1e-6)
    np.testing.assert_array_equal(zero, wanted_zero)


def test_mean_of_quantized_rows() -> None:
    """ONNX Runtime has only the schema of QLinearReduceMean."""
    x = values("int8", 2, 3, 4)
    operands = [x, *per_tensor("int8", 0.5, 3), *per_tensor("int8", 0.25, -2)]
    g = read_onnx(model_of("QLinearReduceMean", operands, {"axes": [1], "keepdims": 0}))
    (got,) = evaluate(g, [x])
    wide = (x.astype(np.float32) - 3) * np.float32(0.5)
    want = np.clip(np.rint(wide.mean(1, dtype=np.float32) / np.float32(0.25)) - 2, -128, 127)
    assert_near(got, want.astype(np.int8))


BAD: list[tuple[str, Callable[[], onnx.ModelProto], str]] = [
    (
        "missing_operand",
        lambda: model_of("QLinearAdd", [values("uint8", 2), number(1)], {}),
        r"operand 3 \(b\) is missing",
    ),
    (
        "too_many_operands",
        lambda: model_of(
            "NhwcMaxPool", [values("uint8", 1, 2, 2, 1)] * 2, {"kernel_shape": [1, 1]}
        ),
        "at most 1 operands",
    ),
    (
        "unknown_attribute",
        lambda: model_of(*_one_operand("QLinearSigmoid", "uint8", (3,), alpha=1.0)),
        "found 'alpha'",
    ),
    (
        "too_many_outputs",
        lambda: model_of(*_one_operand("QLinearSigmoid", "uint8", (3,)), outputs=2),
        "at most 1 outputs",
    ),
    (
        "scale_per_axis",
        lambda: model_of("QLinearSigmoid", [values("uint8", 2), floats(2), None, number(1)], {}),
        "expected one scale",
    ),
    (
        "parts_by_threes",
        lambda: model_of(
            "QLinearConcat",
            [number(1), number(0, "uint8"), values("uint8", 2), number(1)],
            {"axis": 0},
        ),
        "three operands for each part",
    ),
]


@pytest.mark.parametrize(("build", "words"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_errors(build: Callable[[], onnx.ModelProto], words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        read_onnx(build())
    assert "node 'o0' (com.microsoft." in str(caught.value)


def test_unknown_operator_of_a_known_domain() -> None:
    with pytest.raises(UnsupportedError, match="naru has no Snpe of that domain yet"):
        read_onnx(model_of("Snpe", [values("uint8", 2)], {}))
