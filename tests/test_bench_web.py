"""The measurements of WebAssembly: what is made of the times. Nothing here judges a time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "bench"))

import web  # noqa: E402
from cases import make_case  # noqa: E402


def found(naru: list[float], rival: list[float]) -> dict[str, Any]:
    output = [{"dims": [1, 2], "data": [1.0, 2.0]}]
    times = {"naru": naru, web.RIVAL: rival}
    return {"times": times, "outputs": dict.fromkeys(times, output), "versions": {}}


def test_ratios_are_of_one_round() -> None:
    made = web.summary(found([1.0, 2.0, 4.0], [2.0, 6.0, 4.0]), [np.array([[1.0, 2.0]])])
    assert made["faster"]["naru"]["median"] == 2.0
    assert made["faster"]["naru"]["p10"] == pytest.approx(1.2)
    assert made["errors"]["naru"]["rms"] == 0.0
    assert made["ms"] == {"naru": 2.0, web.RIVAL: 4.0}


def test_threads_are_compared_with_one() -> None:
    times = {"naru": [1.0], "naru.relaxed": [0.9], web.THREADS: [0.45], web.RIVAL: [4.0]}
    output = [{"dims": [1, 2], "data": [1.0, 2.0]}]
    results = {"times": times, "outputs": dict.fromkeys(times, output), "versions": {}}
    place = web.summary(results, [np.array([[1.0, 2.0]])])
    assert place["faster"][web.THREADS]["median"] == 2.0
    sizes = {way: {"gzip": 20_000} for way in web.WAYS}
    (*_, scaling, _) = web.judge([{"name": "resnet50", "in": {"node": place}, "sizes": sizes}])
    assert scaling == {
        "aim": "resnet50 in node: times as fast on two threads as on one",
        "limit": web.SCALING, "found": 2.0, "met": True,
    }  # fmt: skip


def test_aims_are_judged() -> None:
    place = web.summary(found([1.0], [1.6]), [np.array([[1.0, 2.0]])])
    sizes = {way: {"gzip": 200_000} for way in web.WAYS}
    case = {"name": "resnet50", "in": {"node": place}, "sizes": sizes}
    assert [a["met"] for a in web.judge([case])] == [True, False]


@pytest.mark.slow
@pytest.mark.parametrize("where", web.WHERE)
def test_a_case_is_measured(where: str, tmp_path: Path) -> None:
    case, folder = make_case("digits_cnn", tmp_path), tmp_path / "package"
    web.prepare(case, folder, rounds=2, turn=5)
    made = web.summary(web.RUN[where](folder), web.reference(case, tmp_path))
    assert {"naru", "naru.relaxed"} <= set(made["faster"]) <= {*web.WAYS, web.THREADS}
    assert all(e["rms"] < 1e-5 for e in made["errors"].values())
