"""The named models against ONNX Runtime, and their weights against the promise of the recipe.

Each model is compiled once, in one test, and runs there at all its sizes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import naru
from models.catalog import MODELS, Feed, NamedModel
from models.kept import kept
from naru.errors import NaruWarning
from naru.frontend.onnx import read_onnx
from naru.ops.evaluate import evaluate
from naru.runtime.model import Model

Array = np.ndarray
LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
DOCS = Path(__file__).resolve().parent.parent / "docs"

# Relative rms error against ONNX Runtime, whose own error in float32 is around 1e-6 (below).
TOLERANCE = 2e-5
# Sixteen 3x3 convolutions of up to 512 channels without a norm: each magnifies the error.
TOLERANCES = {"light_vgg19": 5e-5}
# Where products are made in matrix registers, from two parts of bf16 each: the error of a layer is
# some ten times as large, and Inception v2 magnifies it most.
IN_TILES, MOST_IN_TILES = 1e-4, {"light_inception_v2": 4e-4}

# Compiled and compared in a second or two.
QUICK = {"mlp_784_200_10", "mlp_64_128_128_10", "tiny_resnet", "gru"}
# Sizes beside the default ones.
SIZES: Mapping[str, tuple[Mapping[str, int], ...]] = {
    "mlp_784_200_10": ({"batch": 7}, {"batch": 64}),
    "mlp_64_128_128_10": ({"batch": 7}, {"batch": 64}),
    "resnet18": ({"batch": 3},),
    "tiny_resnet": ({"batch": 3},),
    "gru": ({"steps": 1}, {"batch": 3, "steps": 17}),
    "bilstm": ({"steps": 1}, {"batch": 3, "steps": 17}),
    "vit_base": ({"batch": 2},),
    "gpt2": ({"sequence": 1}, {"sequence": 37}, {"batch": 3, "sequence": 12}),
    "minilm_l6": (
        *({"sequence": length} for length in range(1, 513)),
        {"batch": 4},
        {"batch": 3, "sequence": 37},
    ),
    "bert_base": (
        *({"sequence": length} for length in (*range(1, 9), 15, 16, 17, 31, 33, 63)),
        *({"sequence": length} for length in (64, 65, 100, 255, 384, 512)),
        {"batch": 2},
        {"batch": 5, "sequence": 13},
    ),
}
# Evaluating these in float64 takes minutes.
TOO_LARGE_FOR_FLOAT64 = {"bert_base", "gpt2", "light_vgg19", "vit_base", "whisper_tiny_encoder"}


def session_of(model: Path | bytes, *, plain: bool = False) -> ort.InferenceSession:
    """ONNX Runtime on one thread; `plain`: every node as the file has it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if plain:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def compiled(path: Path) -> Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NaruWarning)  # of -inf in masks
        return naru.compile(path, cache=False)


def relative_error(got: Array, want: Array) -> float:
    """The rms of the difference relative to the rms of what is wanted."""
    assert got.shape == want.shape
    assert np.isfinite(want).all()
    difference = got.astype(np.float64) - want
    return float(np.sqrt((difference**2).mean() / (want.astype(np.float64) ** 2).mean()))


def feeds_of(model: NamedModel) -> Iterator[tuple[str, Feed]]:
    """Inputs at the default sizes and those of SIZES, and with padding where there is a mask."""
    for dims in ({}, *SIZES.get(model.name, ())):
        (feed,) = model.feeds(1, **dims)
        yield str({**model.dims, **dims}), feed
    if any(i.name == "attention_mask" for i in model.inputs):
        (feed,) = model.feeds(1, batch=2, sequence=24)
        feed["attention_mask"][1, 15:] = 0
        yield "the second text ends after 15 of 24 tokens", feed


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in MODELS]
)
def test_agrees_with_onnxruntime(name: str) -> None:
    named = MODELS[name]
    model, session = compiled(named.path()), session_of(named.path())
    errors: dict[str, float] = {}
    for sizes, feed in feeds_of(named):
        (want,) = cast("list[Array]", session.run(None, feed))
        errors[sizes] = relative_error(cast("Array", model(feed)), want)
    worst = max(errors, key=errors.__getitem__)
    print(f"{name}: relative rms error {errors[worst]:.2e} at {worst or 'its size'}")
    limit = TOLERANCES.get(name, TOLERANCE)
    if any("tile_product" in step["name"] for step in model.manifest["steps"]):
        limit = MOST_IN_TILES.get(name, IN_TILES)
    wrong = {sizes: error for sizes, error in errors.items() if not error <= limit}
    assert not wrong, f"of {len(errors)} sizes, over {limit}: {wrong}"


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in MODELS]
)
def test_results_do_not_depend_on_threads(name: str, tmp_path: Path) -> None:
    named = MODELS[name]
    file = tmp_path / "model.naru"
    compiled(named.path()).save(file)
    (feed,) = named.feeds(1)
    first, *others = (np.array(naru.load(file, threads=n)(feed)) for n in (1, 2, 3))
    for other in others:
        np.testing.assert_array_equal(first.view(np.uint32), other.view(np.uint32))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_weights_behave_like_trained_ones(name: str) -> None:
    """Nothing dies, explodes or is denormal on the way, so an error or a time means something."""
    named = MODELS[name]
    model = onnx.load(named.path())
    results = [value.name for value in model.graph.output]
    names = [o for n in model.graph.node for o in n.output if o and n.op_type != "Constant"]
    model.graph.ClearField("output")
    model.graph.output.extend(map(helper.make_empty_tensor_value_info, names))
    session = session_of(model.SerializeToString(), plain=True)
    values = cast("list[Array]", session.run(None, named.feeds(1)[0]))
    rms = {}
    for value_name, value in zip(names, values, strict=True):
        if value.dtype != np.float32 or value.size < 64:
            continue
        size = np.abs(value)
        assert not ((size > 0) & (size < np.finfo(np.float32).tiny)).any(), (
            f"{value_name}: denormal"
        )
        masked = np.isneginf(value)  # what attention must not see
        if not masked.all():
            rms[value_name] = float(np.sqrt((value[~masked].astype(np.float64) ** 2).mean()))
    assert np.isfinite(list(rms.values())).all()
    assert 0.03 < np.median(list(rms.values())) < 10
    assert max(rms.values()) < 20
    for result in results:
        array = values[names.index(result)]
        assert array.std() > 0.01 * np.abs(array).max(), f"{result} is nearly constant"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS.keys() - TOO_LARGE_FOR_FLOAT64))
def test_onnxruntime_is_close_to_float64(name: str) -> None:
    """What the comparison above can show: ONNX Runtime's own error."""
    named = MODELS[name]
    (feed,) = named.feeds(1)
    (got,) = cast("list[Array]", session_of(named.path()).run(None, feed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NaruWarning)
        graph = read_onnx(str(named.path()))
    arrays = [feed[str(node.attr("name"))] for node in graph.inputs]
    (want,) = evaluate(graph, arrays, float64=True)
    error = relative_error(got, want)
    print(f"{name}: relative rms error of ONNX Runtime {error:.2e}")
    assert error < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_light_file_as_shipped(name: str) -> None:
    """A smoke test: all weights are 0.02, so the outputs say little. But the weights are made by
    ConstantOfShape nodes, from initialisers that are inputs too."""
    source = LIGHT / f"light_{name}.onnx"
    want = numpy_helper.to_array(onnx.load_tensor(str(LIGHT / f"light_{name}_output_0.pb")))
    image = (np.arange(3 * 224 * 224) / (3 * 224 * 224)).astype(np.float32)
    got = compiled(source)(image.reshape(1, 3, 224, 224))
    np.testing.assert_allclose(cast("Array", got), want, rtol=1e-3)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in MODELS],
)
def test_file_is_what_the_catalog_says(name: str) -> None:
    named = MODELS[name]
    model = onnx.load(named.path(), load_external_data=False)
    declared = {
        value.name: tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in model.graph.input
    }
    assert declared == {i.name: i.shape for i in named.inputs}
    assert [(o.domain, o.version) for o in model.opset_import] == [("", named.opset)]
    assert {size for i in named.inputs for size in i.shape if isinstance(size, str)} == {
        *named.dims
    }
    onnx.checker.check_model(str(named.path()))


def test_feeds_are_seeded_different_and_of_the_sizes_asked_for() -> None:
    named = MODELS["minilm_l6"]
    once, again = named.feeds(2, sequence=9), named.feeds(2, sequence=9)
    assert once[0]["input_ids"].shape == (1, 9)
    for a, b in zip(once, again, strict=True):
        np.testing.assert_array_equal(a["input_ids"], b["input_ids"])
    assert (once[0]["input_ids"] != once[1]["input_ids"]).any()
    with pytest.raises(ValueError, match=r"minilm_l6: expected sizes of .*'sequence'.*'lenght'"):
        named.feeds(1, lenght=9)


def test_every_model_is_described() -> None:
    page = (DOCS / "models.md").read_text(encoding="utf-8")
    assert not [name for name in MODELS if f"| `{name}` |" not in page]


class TestKept:
    """Files that are made once."""

    @pytest.fixture(autouse=True)
    def _own_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NARU_TEST_CACHE", str(tmp_path / "cache"))

    def test_made_once_and_again_when_the_code_changes(self, tmp_path: Path) -> None:
        code, made = tmp_path / "code.py", []

        def make(path: Path) -> None:
            made.append(path)
            path.write_text(f"number {len(made)}")

        code.write_text("one")
        first = kept("m", make, [code], ["numpy"])
        assert kept("m", make, [code], ["numpy"]) == first
        code.write_text("two")
        second = kept("m", make, [code], ["numpy"])
        assert [p.read_text() for p in (first, second)] == ["number 1", "number 2"]
        assert first.exists(), "another checkout may be using it"

    def test_outdated_are_removed_after_a_day(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        code = tmp_path / "code.py"
        code.write_text("one")
        first = kept("m", Path.touch, [code], [])
        other = kept("m2", Path.touch, [code], [])
        code.write_text("two")
        monkeypatch.setattr("models.kept.FORGOTTEN", -1)
        second = kept("m", Path.touch, [code], [])
        assert [p.exists() for p in (first, other, second)] == [False, True, True]

    def test_nothing_is_left_of_a_failure(self, tmp_path: Path) -> None:
        def fail(path: Path) -> None:
            path.write_text("half")
            raise RuntimeError("out of luck")

        with pytest.raises(RuntimeError, match="out of luck"):
            kept("m", fail, [], [])
        assert not list((tmp_path / "cache").iterdir())

    def test_of_two_processes_the_first_wins(self) -> None:
        def make(path: Path) -> None:
            path.write_text("slow")
            kept("m", quick, [], [])

        def quick(path: Path) -> None:
            path.write_text("quick")

        assert kept("m", make, [], []).read_text() == "quick"
