"""The zoo keeps its promises: every model passes onnx.checker and runs in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnxruntime
import pytest
from zoo import CASES, Case, bad_models, external_data_model, random_inputs

DEMO = Path(__file__).resolve().parent.parent / "naru" / "demo"


def session_of(model: onnx.ModelProto | Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """All outputs in order; the zoo has only dense tensors."""
    return cast("list[np.ndarray]", session.run(None, feed))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_runs(case: Case) -> None:
    model = case.model()
    onnx.checker.check_model(model, full_check="large" not in case.tags)
    session = session_of(model)
    declared = {value.name: value.type.tensor_type for value in model.graph.output}
    for feed in case.feeds():
        results = run(session, feed)
        for output, array in zip(session.get_outputs(), results, strict=True):
            tensor = declared[output.name]
            assert array.dtype == onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            assert len(tensor.shape.dim) == array.ndim, f"{output.name} has shape {array.shape}"


def test_inputs_are_the_same_in_every_run() -> None:
    for case in (CASES["integer_model"], CASES["nonzero_model"]):
        for once, again in zip(case.feeds(), case.feeds(), strict=True):
            for name, values in once.items():
                np.testing.assert_array_equal(values, again[name])


def test_external_data(tmp_path: Path) -> None:
    path = external_data_model(tmp_path)
    assert (tmp_path / "external.bin").stat().st_size >= 4 * (16 * 32 + 32 * 4)
    (y,) = run(session_of(path), random_inputs(onnx.load(path), {"n": 3}))
    assert y.shape == (3, 4)


def test_bad_models_are_bad(tmp_path: Path) -> None:
    """Those that are called wrong are refused elsewhere too; the others are legal ONNX."""
    # What onnx.checker and ONNX Runtime both let pass, and we do not.
    lenient = {"absurd_input_dims", "conv_channels_differ", "no_outputs", "reshape_size_differs",
               "empty_sequence"}  # fmt: skip
    for name, bad in bad_models(tmp_path).items():
        problem = find_problem(bad.path)
        if bad.verdict == "model" and name not in lenient:
            assert problem is not None, f"{name} is accepted"
        if bad.verdict == "warning":
            assert problem is None, f"{name}: {problem}"


def find_problem(path: Path) -> str | None:
    try:
        onnx.checker.check_model(str(path), full_check=True)
        session_of(path)
    except Exception as error:  # each tool has exceptions of its own
        return str(error) or type(error).__name__
    return None


@pytest.mark.parametrize(("name", "shape"), [("digits_mlp", (64,)), ("digits_cnn", (1, 8, 8))])
def test_demo_models_read_digits(name: str, shape: tuple[int, ...]) -> None:
    path = DEMO / f"{name}.onnx"
    assert path.stat().st_size < 200_000
    onnx.checker.check_model(str(path), full_check=True)
    test = np.load(DEMO / "digits_test.npz")
    images = (test["images"] / np.float32(16)).astype(np.float32).reshape(-1, *shape)
    (logits,) = run(session_of(path), {"image": images})
    assert len(images) == 200
    assert (logits.argmax(axis=1) == test["labels"]).mean() >= 0.97
