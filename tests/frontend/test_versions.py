"""Every version of elementwise, reducing and moving operators with every dtype that it allows: what
ONNX's own schemas list is taken, and means what ONNX's reference implementation computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import defs, helper
from onnx.reference import ReferenceEvaluator

import naru
from naru.dtypes import DTYPES
from naru.frontend.onnx import read_onnx
from naru.ops.evaluate import evaluate

Array = np.ndarray
OLDEST = 6  # the opset from which on naru reads models
NAMES = {
    "tensor(float)": "f32", "tensor(double)": "f64", "tensor(float16)": "f16",
    "tensor(bfloat16)": "bf16", "tensor(bool)": "bool",
    **{f"tensor({u}int{b})": f"{u or 'i'}{b}" for u in ("", "u") for b in (8, 16, 32, 64)},
}  # fmt: skip
ONE = (
    "Abs", "Acos", "Acosh", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh",
    "BitwiseNot", "Ceil", "Celu", "Cos", "Cosh", "Dropout", "Elu", "Erf", "Exp", "Flatten",
    "Floor", "Gelu", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "HardSigmoid",
    "HardSwish", "Hardmax", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "LogSoftmax",
    "LpNormalization", "MeanVarianceNormalization", "Mish", "Neg", "Not", "Reciprocal",
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Round", "Selu",
    "Shape", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Softmax", "Softplus",
    "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Transpose",
)  # fmt: skip
TWO = (
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Concat", "Div",
    "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "MatMul", "Max", "Mean",
    "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "SwiGLU", "Xor",
)  # fmt: skip
IMAGES = ("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "MeanVarianceNormalization")
RANGES = {"Acos": (-0.9, 0.9), "Asin": (-0.9, 0.9), "Atanh": (-0.9, 0.9), "Acosh": (1.1, 3.0),
          "Log": (0.2, 3.0), "Sqrt": (0.2, 3.0), "Reciprocal": (0.5, 3.0), "Div": (1.0, 4.0),
          "Mod": (1.0, 4.0), "Pow": (1.0, 2.5), "BitShift": (0.0, 4.0),
          "ReduceLogSum": (1.0, 3.0)}  # fmt: skip
TOLERANCE = {"f16": 4e-3, "bf16": 3e-2}
# Of integers, the reference rounds before it drops the fraction: 1 where the value is below.
INEXACT = ("Erf",)

# Of these the reference implementation runs no dtype.
NEVER = (("Dropout", 6), ("GlobalLpPool", 22))


def cases(newest: bool) -> list[tuple[str, int]]:
    """Operators with the opsets that changed them."""
    versions: dict[str, set[int]] = {}
    for s in defs.get_all_schemas_with_history():
        if s.domain == "" and s.name in (*ONE, *TWO) and s.since_version >= OLDEST:
            versions.setdefault(s.name, set()).add(s.since_version)
    return [
        (name, v)
        for name in sorted(versions)
        for v in sorted(versions[name])[-1 if newest else None :]
    ]


def values(name: str, dtype: str, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    shape = (2, 3, 5, 4) if name in IMAGES else (4, 4) if name == "MatMul" else (3, 5)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    low, high = RANGES.get(name, (0.0 if dtype[0] == "u" else -5.0, 5.0))
    return rng.uniform(low, high, shape).astype(DTYPES[dtype].numpy)


def model_of(name: str, version: int, dtype: str) -> tuple[onnx.ModelProto, list[Array]]:
    """One node, and its operands."""
    arrays = [values(name, dtype, seed) for seed in range(2 if name in TWO else 1)]
    attrs: dict[str, object] = {"Concat": {"axis": 0}, "BitShift": {"direction": "RIGHT"}}.get(
        name, {}
    )
    if name == "Mod" and DTYPES[dtype].kind == "f":
        attrs = {"fmod": 1}
    code = DTYPES[dtype].onnx
    inputs = [helper.make_tensor_value_info(f"x{k}", code, a.shape) for k, a in enumerate(arrays)]
    node = helper.make_node(name, [i.name for i in inputs], ["y"], **attrs)  # pyright: ignore[reportArgumentType]
    graph = helper.make_graph([node], "g", inputs, [helper.make_empty_tensor_value_info("y")])
    opsets = [helper.make_opsetid("", version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), arrays


def dtypes_of(name: str, version: int) -> list[str]:
    """Those that all operands may have."""
    schema = defs.get_schema(name, version)
    allowed = [frozenset(i.types) for i in schema.inputs[: 2 if name in TWO else 1]]
    return [n for t, n in NAMES.items() if all(t in types for types in allowed)]


def check(name: str, dtype: str, got: Array, model: onnx.ModelProto, arrays: list[Array]) -> bool:
    """False where the reference implementation does not do this dtype, or this version; then the
    numpy meaning of the same numbers in f64 is what is compared with."""
    feed = {f"x{k}": a for k, a in enumerate(arrays)}
    done = True
    try:
        with np.errstate(all="ignore"):
            want = np.asarray(ReferenceEvaluator(model).run(None, feed)[0])  # pyright: ignore[reportArgumentType, reportIndexIssue, reportCallIssue]
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError):
        done = False
        (want,) = evaluate(read_onnx(model), arrays, float64=True)
    assert got.shape == want.shape
    if name in INEXACT and DTYPES[dtype].kind in "iu":
        return done
    a, b = got.astype(np.float64), want.astype(np.float64)
    bound = TOLERANCE.get(dtype, 2e-5 if got.dtype.kind in "fV" else 0.0)
    np.testing.assert_allclose(a, b, rtol=bound, atol=bound * max(1.0, float(np.abs(b).max())))
    return done


def report(name: str, version: int, alone: list[str]) -> None:
    """Says which cases the reference implementation could not run."""
    if alone:
        print(f"{name}-{version}: not in onnx.reference: {', '.join(alone)}")
    # All of an operator's dtypes at once would mean that nothing is compared any more.
    assert len(alone) < len(dtypes_of(name, version)) or (name, version) in NEVER


@pytest.mark.filterwarnings("ignore")  # of the reference implementation
@pytest.mark.parametrize(("name", "version"), cases(newest=True))
def test_newest_version_of_each_dtype(name: str, version: int) -> None:
    alone: list[str] = []
    for dtype in dtypes_of(name, version):
        model, arrays = model_of(name, version, dtype)
        (got,) = evaluate(read_onnx(model), arrays)
        if not check(name, dtype, got, model, arrays):
            alone.append(dtype)
    report(name, version, alone)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "version"), cases(newest=False))
def test_every_version_of_each_dtype(name: str, version: int) -> None:
    alone: list[str] = []
    for dtype in dtypes_of(name, version):
        model, arrays = model_of(name, version, dtype)
        got = np.asarray(naru.compile(model, cache=False)(*arrays))
        if not check(name, dtype, got, model, arrays):
            alone.append(dtype)
    report(name, version, alone)
