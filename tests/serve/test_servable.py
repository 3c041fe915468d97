"""What runs at once on the loop's thread, and what is put together."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from serve import models
from serve.conftest import serving

from naru.artifact.bundle import Bundle, make_bundle
from naru.artifact.golden import GoldenCase, pack_golden
from naru.compiler import compile_bundle
from naru.runtime.session import open_model
from naru.serve import servable as servable_module
from naru.serve.http import Application
from naru.serve.refusals import Refusal
from naru.serve.servable import Request, rows_are_independent
from naru.serve.signature import Signature


def begun(app: Application, model: str, **arrays: Any) -> Any:
    """What a model answers at once, or a future."""
    servable = app.plane.find(model, None)
    assert servable is not None
    return servable.begin(Request({n: np.asarray(a) for n, a in arrays.items()}))


def test_small_models_answer_at_once(folder: Path) -> None:
    x = np.ones((1, 4), np.float32)

    async def check(app: Application) -> None:
        assert begun(app, "dense", x=x)[0].tolist() == [[6, 10, 14]]
        large = begun(app, "dense", x=np.ones((1_000_000, 4), np.float32))
        assert isinstance(large, asyncio.Future)
        # While something waits, nobody goes ahead of it.
        behind = begun(app, "dense", x=x)
        assert isinstance(behind, asyncio.Future)
        assert (await behind)[0].tolist() == [[6, 10, 14]]
        assert (await large)[0].shape == (1_000_000, 3)
        # Texts have no size that would tell.
        word = begun(app, "texts", word=np.array(["a"], object))
        assert isinstance(word, asyncio.Future)
        await word

    serving(folder, check)


def test_after_a_run_that_took_long_others_run_aside(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.ones((1, 4), np.float32)

    async def check(app: Application) -> None:
        servable = app.plane.find("dense", None)
        assert servable is not None
        took = [20_000_000, 0, 0]  # ns, of the first three runs
        clock = [0]
        usual = servable._run

        def slow(arrays: Any) -> Any:
            clock[0] += took.pop(0) if took else 0
            return usual(arrays)

        monkeypatch.setattr(servable, "_run", slow)
        monkeypatch.setattr(servable_module, "now", lambda: clock[0])
        monkeypatch.setattr(servable.queue, "learn", lambda *_: None)
        assert not isinstance(begun(app, "dense", x=x), asyncio.Future)
        clock[0] += 99 * 20_000_000
        aside = begun(app, "dense", x=x)
        assert isinstance(aside, asyncio.Future)
        await aside
        clock[0] += 20_000_000
        assert not isinstance(begun(app, "dense", x=x), asyncio.Future)  # not for good

    serving(folder, check)


def test_time_that_is_in_a_value(tmp_path: Path) -> None:
    models.rounds(tmp_path / "rounds.onnx")

    async def check(app: Application) -> None:
        found = begun(app, "rounds", x=np.ones(1, np.float32), n=np.array(1))
        assert isinstance(found, asyncio.Future)
        assert (await found)[0].tolist() == pytest.approx([np.sin(1)])

    serving(tmp_path, check)


def test_rows_that_depend_on_each_other_stay_apart(folder: Path) -> None:
    async def check(app: Application) -> None:
        for name, together in (("dense", True), ("pair", True), ("normalised", False)):
            servable = app.plane.find(name, None)
            assert servable is not None
            assert servable.batches is together, name
        rows = [np.array([[k + 1.0, 1]], np.float32) for k in range(20)]
        servable = app.plane.find("normalised", None)
        assert servable is not None
        found = await asyncio.gather(*(servable.infer(Request({"x": r})) for r in rows))
        assert all(np.array_equal(f[0], [[1, 1]]) for f in found)

    serving(folder, check, workers=1)


@pytest.mark.parametrize(
    ("wish", "together"),
    [("true", (True, True)), ('"proven"', (True, False)), ("false", (False, False))],
)
def test_what_is_proven_and_what_is_tried(
    tmp_path: Path, wish: str, together: tuple[bool, bool]
) -> None:
    for name, make in (("dense", models.dense), ("summed", models.summed)):
        make(tmp_path / name / "model.onnx")
        (tmp_path / name / "serve.toml").write_text(f"batching = {wish}\n")

    async def check(app: Application) -> None:
        found = [(await app.plane.get(name)).batches for name in ("dense", "summed")]
        assert tuple(found) == together

    serving(tmp_path, check)


def one_row(bundle: Bundle) -> Bundle:
    """A bundle whose golden vector is one row, as where a model was tried with one."""
    (case,) = [c for c in bundle.golden() if c.entry == "main"]
    ones = GoldenCase("main", (case.inputs[0][:1],), (np.zeros_like(case.outputs[0][:1]),))
    sections = {name: bytes(bundle.section(name)) for name in bundle.sections}
    manifest = {k: v for k, v in bundle.manifest.items() if k != "sections"}
    return make_bundle(manifest, {**sections, "golden": pack_golden([ones])})


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.INT32], ids=["floats", "ints"])
def test_equal_rows_show_nothing(tmp_path: Path, kind: int) -> None:
    """A model that subtracts the mean of all rows gives for equal ones what it gives alone."""
    bundle = compile_bundle(models.centred(tmp_path / "centred.onnx", kind))
    for tried in (bundle, one_row(bundle)):
        model = open_model(tried)
        assert not rows_are_independent(model, Signature(model), tried)


def test_a_refusal_counts_once(folder: Path) -> None:
    async def check(app: Application) -> None:
        with pytest.raises(Refusal, match="expected 2 dims"):
            begun(app, "dense", x=np.ones(4, np.float32))
        servable = app.plane.find("dense", None)
        assert servable is not None
        assert servable.statistics.refused == {"invalid argument": 1}

    serving(folder, check)
