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
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
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


CASES = _elementwise()


@pytest.mark.parametrize(
    ("op", "operands", "attrs"), CASES, ids=[f"{k}-{c[0]}" for k, c in enumerate(CASES)]
)
def test_microsoft(op: str, operands: Operands, attrs: dict[str, Any]) -> None:
    for got, want in run_both(model_of(op, operands, attrs), operands):
        assert_near(got, want)


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
