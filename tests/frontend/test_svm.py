"""SVMClassifier and SVMRegressor against ONNX Runtime, and scikit-learn's own machines."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper

import naru
from naru.errors import ModelError, NaruError
from naru.frontend.onnx import read_onnx
from naru.ops.evaluate import evaluate

Array = np.ndarray
KERNELS = ("LINEAR", "POLY", "RBF", "SIGMOID")


def model_of(op: str, x: Array, attrs: dict[str, Any]) -> ModelProto:
    outputs = [("y", TensorProto.INT64), ("z", TensorProto.FLOAT)]
    outputs = outputs if op == "SVMClassifier" else outputs[1:]
    code = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], [n for n, _ in outputs], domain="ai.onnx.ml", **attrs)],
        "g",
        [helper.make_tensor_value_info("x", code, ["n", *x.shape[1:]])],
        [helper.make_tensor_value_info(n, t, None) for n, t in outputs],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def compare(op: str, x: Array, attrs: dict[str, Any], atol: float = 1e-5) -> None:
    # ONNX Runtime has no defaults for these.
    defaults = {"kernel_type": "LINEAR", "post_transform": "NONE", "kernel_params": [0.0, 0.0, 0.0]}
    model = model_of(op, x, {**defaults, **attrs})
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    for got, want in zip(evaluate(read_onnx(model), [x]), session.run(None, {"x": x}), strict=True):
        wanted = np.asarray(want)
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=atol)


def machine(classes: int, kernel: str, sure: bool, positive: bool, seed: int) -> dict[str, Any]:
    """Attributes of a classifier of three features."""
    rng = np.random.default_rng(seed)
    per_class, pairs = rng.integers(1, 4, classes), classes * (classes - 1) // 2
    total = int(per_class.sum())
    coefficients = rng.normal(size=total * (classes - 1))
    attrs: dict[str, Any] = {
        "classlabels_ints": [int(v) for v in rng.permutation(classes) * 3],
        "kernel_type": kernel,
        "kernel_params": [0.3, 0.5, 2.0],
        "support_vectors": rng.normal(size=total * 3).tolist(),
        "coefficients": (np.abs(coefficients) if positive else coefficients).tolist(),
        "rho": rng.normal(size=pairs).tolist(),
        "vectors_per_class": per_class.tolist(),
    }
    if sure:
        attrs["prob_a"] = (-np.abs(rng.normal(size=pairs))).tolist()
        attrs["prob_b"] = rng.normal(size=pairs).tolist()
    return attrs


def rows(count: int = 9, dtype: str = "f4") -> Array:
    return (np.random.default_rng(5).normal(size=(count, 3)) * 2).astype(dtype)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("sure", [False, True])
def test_classifier(kernel: str, sure: bool) -> None:
    for classes in (2, 3, 5):
        for post in ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"):
            attrs = machine(classes, kernel, sure, classes == 3, classes)
            compare("SVMClassifier", rows(), {**attrs, "post_transform": post})


@pytest.mark.parametrize("dtype", ["f8", "i8", "i4"])
def test_dtypes(dtype: str) -> None:
    compare("SVMClassifier", rows(dtype=dtype), machine(3, "RBF", True, False, 1))


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("positive", [False, True])
def test_linear_classifier(classes: int, positive: bool) -> None:
    rng = np.random.default_rng(classes)
    weights = rng.normal(size=classes * 3)
    for post in ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"):
        attrs = {
            "classlabels_ints": [5, 3, 9][:classes],
            "coefficients": (np.abs(weights) if positive else weights).tolist(),
            "rho": [0.25],
            "post_transform": post,
        }
        compare("SVMClassifier", rows(40), attrs)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("one_class", [0, 1])
def test_regressor(kernel: str, one_class: int) -> None:
    rng = np.random.default_rng(2)
    attrs = {
        "kernel_type": kernel,
        "kernel_params": [0.3, 0.5, 3.0],
        "n_supports": 4,
        "coefficients": rng.normal(size=4).tolist(),
        "support_vectors": rng.normal(size=12).tolist(),
        "rho": [0.4],
        "one_class": one_class,
    }
    compare("SVMRegressor", rows(20), attrs, atol=1e-4)
    linear = {"coefficients": [1.0, -2.0, 0.5], "rho": [0.1], "one_class": one_class}
    compare("SVMRegressor", rows(20), linear)


def test_machines_of_scikit_learn() -> None:
    """What a converter writes of them, compiled."""
    svm = pytest.importorskip("sklearn.svm")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 4)).astype(np.float32)
    y = np.digitize(x[:, 0] + x[:, 1] * x[:, 2], [-0.5, 0.5])
    made = svm.SVC(kernel="rbf", gamma=0.4, decision_function_shape="ovo").fit(x, y)
    attrs = {
        "classlabels_ints": made.classes_.tolist(),
        "kernel_type": "RBF",
        "kernel_params": [0.4, 0.0, 3.0],
        "support_vectors": made.support_vectors_.reshape(-1).tolist(),
        "coefficients": made.dual_coef_.reshape(-1).tolist(),
        "rho": made.intercept_.tolist(),
        "vectors_per_class": made.n_support_.tolist(),
    }
    model = naru.compile(model_of("SVMClassifier", x, attrs), cache=False)
    label, scores = model(x)
    np.testing.assert_allclose(scores, made.decision_function(x), atol=1e-5)
    votes = scores > 0
    clear = votes.sum(1) != 0  # three votes for three classes are settled otherwise
    assert (label == made.predict(x))[clear].mean() > 0.98
    assert model.selftest().checks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rho": [1.0]}, "expected 3 of rho"),
        ({"coefficients": [1.0]}, "coefficients"),
        ({"support_vectors": [1.0, 2.0]}, "support_vectors"),
        ({"vectors_per_class": [1, 2]}, "vectors of 3 classes"),
        ({"kernel_params": [1.0]}, "expected 3 numbers"),
        ({"kernel_type": "CUBIC"}, "one of LINEAR"),
        ({"prob_a": [1.0, 1.0, 1.0]}, "prob_a and prob_b"),
        ({"classlabels_ints": []}, "labels"),
    ],
)
def test_errors(change: dict[str, Any], message: str) -> None:
    attrs = {**machine(3, "RBF", False, False, 0), **change}
    kept = {k: v for k, v in attrs.items() if v}  # an empty list has no type
    with pytest.raises(NaruError, match=message):
        read_onnx(model_of("SVMClassifier", rows(), kept))


def test_regressors_that_are_wrong() -> None:
    for attrs in ({"coefficients": [1.0, 2.0], "rho": [0.0]}, {"coefficients": [1.0, 2.0, 3.0]}):
        with pytest.raises(ModelError, match=r"coefficients|rho"):
            read_onnx(model_of("SVMRegressor", rows(), attrs))
