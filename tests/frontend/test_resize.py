"""Resize: the standard's own cases, random settings against its reference, sizes that are not
known, and what is refused."""

from __future__ import annotations

import copy
import functools
import warnings
from typing import Any, cast

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from naru.errors import ModelError, UnsupportedError
from naru.frontend.onnx import read_onnx
from naru.frontend.onnx_resize import NEAREST, PLACES, POLICIES
from naru.ir.graph import toposort
from naru.ops.evaluate import evaluate


def model_of(
    shape: tuple[int | str, ...],
    constants: dict[str, np.ndarray],
    *,
    op: str = "Resize",
    opset: int = 19,
    dtype: int = TensorProto.FLOAT,
    computed: bool = False,
    **attrs: Any,
) -> onnx.ModelProto:
    """y = Resize(x, roi, scales, sizes), of which `constants` names those that are given; with
    `computed` they are inputs of the model."""
    order = ("scales",) if op == "Upsample" or opset < 11 else ("roi", "scales", "sizes")
    order = () if op == "Upsample" and opset < 9 else order
    given = ["x", *(n if n in constants else "" for n in order)]
    while not given[-1]:
        given.pop()
    extra = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for k, v in constants.items()
    ]
    graph = helper.make_graph(
        [helper.make_node(op, given, ["y"], name="resize", **attrs)],
        "g",
        [helper.make_tensor_value_info("x", dtype, shape), *(extra if computed else ())],
        [helper.make_tensor_value_info("y", dtype, None)],
        [] if computed else [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model: onnx.ModelProto, *arrays: np.ndarray) -> np.ndarray:
    return evaluate(read_onnx(model), arrays)[0]


@functools.cache
def standard_cases() -> dict[str, tuple[onnx.ModelProto, np.ndarray, np.ndarray]]:
    """(model, x, y) of the package onnx, whose scales, sizes and roi become constants."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {c.name: c for op in ("Resize", "Upsample") for c in collect_testcases(op)}
    cases: dict[str, tuple[onnx.ModelProto, np.ndarray, np.ndarray]] = {}
    for case in found.values():
        model, sets = case.model, case.data_sets
        assert model is not None
        assert sets is not None
        inputs, outputs = sets[0]
        model = copy.deepcopy(model)  # the package's own is everybody's
        for i, value in zip(model.graph.input[1:], inputs[1:], strict=True):
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), i.name))
        del model.graph.input[1:]
        cases[case.name] = (model, np.asarray(inputs[0]), np.asarray(outputs[0]))
    return cases


def test_the_standards_own_cases() -> None:
    wrong: list[str] = []
    for name, (model, x, want) in standard_cases().items():
        got = run(model, x)
        if got.shape != want.shape or not np.allclose(got, want, rtol=1e-5, atol=1e-6):
            wrong.append(name)
    assert not wrong
    assert len(standard_cases()) >= 38


@settings(
    derandomize=True,
    deadline=None,
    max_examples=150,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.data())
def test_random_settings_agree_with_the_reference(data: st.DataObject) -> None:
    def pick(*choices: Any) -> Any:
        return data.draw(st.sampled_from(choices))

    rank = pick(1, 2, 3)
    shape = tuple(data.draw(st.integers(1, 7)) for _ in range(rank))
    mode = pick("nearest", "linear", "cubic")
    attrs: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": pick(*PLACES)}
    if mode == "nearest":
        attrs["nearest_mode"] = pick(*NEAREST)
    else:
        attrs["antialias"] = pick(0, 1)
        attrs["exclude_outside"] = pick(0, 1)
    if mode == "cubic":
        attrs["cubic_coeff_a"] = pick(-0.75, -0.5)
    constants: dict[str, np.ndarray] = {}
    if attrs["coordinate_transformation_mode"] == "tf_crop_and_resize":
        roi = [pick(-0.25, 0.0, 0.25) for _ in shape] + [pick(0.75, 1.0, 1.5) for _ in shape]
        constants["roi"] = np.array(roi, np.float32)
        attrs["extrapolation_value"] = 7.5
    if pick(True, False):
        # Powers of two, and their like: there f32 and f64 agree on where results lie.
        scales = [pick(0.5, 0.75, 1.0, 1.5, 2.0, 3.0) for _ in shape]
        constants["scales"] = np.array(scales, np.float32)
        if any(int(n * s) == 0 for n, s in zip(shape, scales, strict=True)):
            return
    else:
        constants["sizes"] = np.array([data.draw(st.integers(1, 12)) for _ in shape], np.int64)
        attrs["keep_aspect_ratio_policy"] = pick(*POLICIES)
    model = model_of(shape, constants, **attrs)
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        want = np.asarray(cast("list[Any]", ReferenceEvaluator(model).run(None, {"x": x}))[0])
    # A single result of pytorch_half_pixel lies at 0; the reference has it at -0.5, or as others.
    alone = attrs["coordinate_transformation_mode"] == "pytorch_half_pixel" and 1 in want.shape
    if want.size and np.isfinite(want).all() and not alone:
        np.testing.assert_allclose(run(model, x), want, rtol=1e-4, atol=1e-5)
        model = model_of(tuple("abc")[:rank], constants, computed=True, **attrs)
        got = run(model, x, *constants.values())
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [7, 8, 9, 10])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_old_versions(opset: int, mode: str) -> None:
    """Coordinates are x / scale, rounded down."""
    op, scales = ("Resize" if opset == 10 else "Upsample"), np.array([1, 1, 2, 3], np.float32)
    x = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
    attrs: dict[str, Any] = {"mode": mode, **({"scales": scales.tolist()} if opset < 9 else {})}
    got = run(model_of(x.shape, {"scales": scales}, op=op, opset=opset, **attrs), x)
    new: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    np.testing.assert_array_equal(got, run(model_of(x.shape, {"scales": scales}, **new), x))
    if mode == "nearest":
        np.testing.assert_array_equal(got, x.repeat(2, 2).repeat(3, 3))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool", "float16", "float64"])
def test_dtypes_of_the_nearest_mode(dtype: str) -> None:
    x = np.arange(12).reshape(3, 4).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    scales = np.array([2, 1.5], np.float32)
    got = run(model_of((3, 4), {"scales": scales}, dtype=kind), x)
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got, x[[0, 0, 1, 1, 2, 2]][:, [0, 0, 1, 2, 2, 3]])


def test_halves_are_computed_in_f32() -> None:
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float16)
    scales = np.array([2.5, 0.5], np.float32)
    model = model_of((3, 5), {"scales": scales}, dtype=TensorProto.FLOAT16, mode="linear")
    single = model_of((3, 5), {"scales": scales}, mode="linear")
    want = run(single, x.astype(np.float32)).astype(np.float16)
    np.testing.assert_array_equal(run(model, x), want)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_many_taps_are_a_reduction(mode: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 90, 3), np.float32)
    scales = np.array([1, 0.1, 1], np.float32)
    model = model_of(x.shape, {"scales": scales}, mode=mode, antialias=1)
    want = np.asarray(cast("list[Any]", ReferenceEvaluator(model).run(None, {"x": x}))[0])
    np.testing.assert_allclose(run(model, x), want, rtol=1e-4, atol=1e-5)
    assert sum(n.op == "gather" for n in toposort(*read_onnx(model).outputs)) == 1


@pytest.mark.parametrize("place", ["asymmetric", "half_pixel"])
def test_whole_factors_need_no_known_size(place: str) -> None:
    rounding = "floor" if place == "asymmetric" else "round_prefer_floor"
    model = model_of(
        ("n", 2, "h", "w"),
        {"scales": np.array([1, 1, 2, 3], np.float32)},
        coordinate_transformation_mode=place,
        nearest_mode=rounding,
    )
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 5), np.float32)
    np.testing.assert_array_equal(run(model, x), x.repeat(2, 2).repeat(3, 3))


@pytest.mark.parametrize(
    ("shape", "constants", "attrs", "kind", "message"),
    [
        (("n", 4), {"scales": [1, 2]}, {"mode": "linear"}, None, ""),
        ((2, 4), {"scales": [1]}, {}, ModelError, "expected 2 scales or sizes, one an axis"),
        ((2, 4), {"scales": [1, -2]}, {}, ModelError, "expected scales above 0"),
        ((2, 4), {}, {}, ModelError, "expected 2 scales or sizes"),
        ((2, 4), {"scales": [1, 2]}, {"mode": "best"}, ModelError, "expected one of nearest, lin"),
        ((2, 0), {"sizes": [2, 4]}, {}, UnsupportedError, "from 0 to 4"),
        ((2, 4), {"sizes": [2, -4]}, {}, ModelError, "expected sizes of at least 0"),
        (
            (2, 4),
            {"sizes": [2, 2**40]},
            {"mode": "cubic"},
            UnsupportedError,
            "tables are too large",
        ),
        (
            (2, 4),
            {"scales": [1, 1e-30]},
            {"mode": "linear", "antialias": 1},
            UnsupportedError,
            "its tables are too large",
        ),
        (
            (2, 4),
            {"scales": [1, 2]},
            {"coordinate_transformation_mode": "tf_crop_and_resize"},
            ModelError,
            "expected a roi .* of 4 numbers, found -",
        ),
    ],
)
def test_bad_input(
    shape: tuple[int | str, ...],
    constants: dict[str, list[float]],
    attrs: dict[str, Any],
    kind: type[Exception] | None,
    message: str,
) -> None:
    arrays = {
        k: np.array(v, np.int64 if k == "sizes" else np.float32) for k, v in constants.items()
    }
    model = model_of(shape, arrays, **attrs)
    if kind is None:
        read_onnx(model)
        return
    with pytest.raises(kind, match=message):
        read_onnx(model)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scale", [0.7, 1.5, 2.3])
def test_scales_of_sizes_that_are_not_known(mode: str, scale: float) -> None:
    """Sizes are rounded as f32 does: 10 · 0.7 is 7."""
    scales = np.array([1, scale], np.float32)
    for n in (3, 10):
        x = np.random.default_rng(0).standard_normal((2, n), np.float32)
        want = run(model_of((2, n), {"scales": scales}, mode=mode), x)
        got = run(model_of((2, "n"), {"scales": scales}, mode=mode), x)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32"])
def test_averages_of_integers_are_rounded(mode: str, dtype: str) -> None:
    x = np.array([[0, 10, 127, 3, 77], [9, 120, 31, 125, 1]]).astype(dtype)
    kind, scales = helper.np_dtype_to_tensor_dtype(x.dtype), np.array([1.5, 1.7], np.float32)
    model = model_of((2, 5), {"scales": scales}, dtype=kind, mode=mode)
    got = run(model, x)
    want = np.asarray(cast("list[Any]", ReferenceEvaluator(model).run(None, {"x": x}))[0])
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got, want)
