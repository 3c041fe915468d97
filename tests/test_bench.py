"""Measuring: its statistics, its processes, its command, and the project's own step to README.md.

Nothing here judges a time.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from naru import cli, knobs
from naru.bench import engines, numerics, plot, record, report, rounds
from naru.bench.case import digest_of, model_files
from naru.bench.engines import Engine, Way
from naru.bench.engines.pytorch import flatten, make_module
from naru.bench.estimate import Round, Rounds, median_with_interval
from naru.bench.feeds import feed_count, read_feeds, read_outputs, write_feeds, write_outputs
from naru.bench.measure import Settings
from naru.bench.rounds import Effort
from naru.bench.timing import SWEEP_BYTES, time_cold, time_hot
from naru.bench.worker import Refused, Worker, without_paths
from naru.cli import group
from naru.errors import InputError, NaruError
from tests import fake_engines

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "bench"))

import aims  # noqa: E402
import cases  # noqa: E402
import readme  # noqa: E402
import run  # noqa: E402

ROOFS = {0: {"fma": 200.0, "read": 100.0}}


def f32(values: object) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)


# ---- statistics ----


def round_of(
    times: Mapping[str, float], *, fma: float = 200.0, read: float = 100.0, share: float = 1.0
) -> Round:
    """A round that began with `ROOFS` and ended with these."""
    figures = {w: {"median": t, "p10": t, "calls": 3, "share": share} for w, t in times.items()}
    return Round(ROOFS, figures, {0: {"fma": fma, "read": read}})


def test_interval_holds_the_median_of_steady_rounds() -> None:
    found = median_with_interval([1.0, 1.1, 0.9, 1.05, 0.95] * 4)
    assert 0.9 <= found["low"] <= found["median"] == 1.0 <= found["high"] <= 1.1
    wide = median_with_interval([1.0, 3.0, 0.2, 5.0, 0.4] * 4)
    assert wide["high"] - wide["low"] > found["high"] - found["low"]


def test_ratios_are_paired() -> None:
    """A machine that becomes four times slower changes times, and no ratio."""
    tried = [round_of({"a": 1.0 * k, "b": 2.0 * k}) for k in (1, 1, 4, 4, 2)]
    found = Rounds.chosen(tried)
    assert found.ratio("a", "b") == {"median": 0.5, "low": 0.5, "high": 0.5}
    assert found.seconds("b") == {"median": 4.0, "p10": 4.0, "calls": 15}


def test_a_round_is_discarded_for_drift_and_for_a_shared_core() -> None:
    assert not round_of({"a": 1.0}, fma=195.0, read=104.0).disturbed
    assert round_of({"a": 1.0}, fma=185.0).disturbed
    assert round_of({"a": 1.0}, read=110.0).disturbed
    assert round_of({"a": 1.0}, share=0.9).disturbed


def test_disturbed_rounds_count_only_when_most_are() -> None:
    steady, disturbed = round_of({"a": 1.0}), round_of({"a": 9.0}, fma=100.0)
    few = Rounds.chosen([steady, disturbed, steady])
    assert (few.as_json(), few.seconds("a")["median"]) == (
        {"counted": 2, "discarded": 1, "noisy": False},
        1.0,
    )
    most = Rounds.chosen([steady, disturbed, disturbed])
    assert (most.as_json(), most.seconds("a")["median"]) == (
        {"counted": 3, "discarded": 2, "noisy": True},
        9.0,
    )


def test_share_of_the_roof_is_of_all_cores() -> None:
    times = {"a": {"median": 0.1, "p10": 0.1, "calls": 1, "share": 1.0}}
    roofs = {0: {"fma": 100.0, "read": 1.0}, 1: {"fma": 300.0, "read": 1.0}}
    found = Rounds.chosen([Round(roofs, times, roofs)] * 3)
    assert found.roof_share("a", 20e9, [0, 1])["median"] == pytest.approx(0.5)
    assert found.roof_share("a", 20e9, [1])["median"] == pytest.approx(2 / 3)
    assert found.roofs() == {"fma": 200.0, "read": 1.0}


def steady_turn(seconds: float, cold: bool) -> Mapping[str, Any]:
    return {"median": seconds, "p10": seconds, "calls": 1, "share": 1.0}


def test_rounds_go_on_until_enough_are_steady() -> None:
    probes = iter([ROOFS, ROOFS, {0: {"fma": 1.0, "read": 1.0}}, *[ROOFS] * 9])
    told: list[tuple[int, int]] = []
    found = rounds.measure_rounds(
        {"a": steady_turn, "b": steady_turn},
        [0],
        Effort(rounds=4, budget=60.0),
        on_round=lambda done, wanted: told.append((done, wanted)),
        probe=lambda cores: next(probes),
    )
    # The third probe spoils the round before it and the one after.
    assert found.as_json() == {"counted": 4, "discarded": 2, "noisy": False}
    assert told == [(1, 4), (1, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_rounds_end_with_the_budget_but_not_before_three() -> None:
    found = rounds.measure_rounds(
        {"a": steady_turn}, [0], Effort(rounds=50, budget=0.0), probe=lambda cores: ROOFS
    )
    assert len(found.counted) == rounds.LEAST_ROUNDS


def test_half_of_the_budget_suffices_for_all_slices() -> None:
    effort = Effort(rounds=10, budget=8.0, longest=1.0)
    assert effort.slice(4) * 4 * effort.rounds == pytest.approx(4.0)
    assert Effort(longest=0.1, budget=1000.0).slice(4) == 0.1


def test_every_input_takes_its_turn() -> None:
    seen: list[int] = []
    found = time_hot(Way(seen.append, [1, 2, 3]), 1e-4)
    assert set(seen) == {1, 2, 3}
    assert 0 < found["p10"] <= found["median"]
    assert 3 <= found["calls"] <= len(seen)


def test_cold_calls_are_apart() -> None:
    seen: list[int] = []
    found = time_cold(Way(seen.append, [1, 2]), 0.0)
    assert 1 <= found["calls"] <= 3
    assert SWEEP_BYTES >= 64 << 20


# ---- inputs, outputs, errors ----


def test_feeds_and_outputs_survive_the_file(tmp_path: Path) -> None:
    feeds = [{"b/x": np.arange(3), "a": f32([[k]])} for k in range(12)]
    write_feeds(tmp_path / "feeds.npz", feeds)
    back = read_feeds(str(tmp_path / "feeds.npz"))
    assert [list(f) for f in back] == [["b/x", "a"]] * 12
    assert [f["a"][0, 0] for f in back] == list(range(12))
    half = np.ones(2, np.dtype("float32")).astype(np.dtype(onnx_bfloat16()))
    write_outputs(str(tmp_path / "outputs.npz"), [half, np.arange(2)])
    first, second = read_outputs(tmp_path / "outputs.npz")
    assert (first.dtype, second.dtype) == (np.float32, np.int64)


def onnx_bfloat16() -> Any:
    return helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)


def test_large_inputs_are_few() -> None:
    assert [feed_count(n) for n in (0, 1 << 20, 4 << 20, 1 << 30)] == [16, 16, 4, 2]


def test_errors_are_of_the_worst_output() -> None:
    wanted = [np.array([4.0, 100.0, -50.0]), np.array([1.0])]
    found = numerics.errors([wanted[0] + np.array([0.0, 0.0, 1.0]), wanted[1]], wanted)
    assert found["max"] == pytest.approx(1 / 50)
    assert found["rms"] == pytest.approx(1 / np.sqrt(4**2 + 100**2 + 50**2))
    assert "shape" in numerics.errors([wanted[0][:2], wanted[1]], wanted)["problem"]
    assert "NaN" in numerics.errors([wanted[0] * np.nan, wanted[1]], wanted)["problem"]
    assert numerics.errors(wanted[:1], wanted)["problem"] == "1 outputs, expected 2"


def test_weights_in_files_of_their_own_belong_to_the_model(tmp_path: Path) -> None:
    path = double_model(tmp_path / "m.onnx")
    model = onnx.load(path)
    onnx.save(
        model, path, save_as_external_data=True, location="w.bin", size_threshold=0
    )  # fmt: skip
    assert model_files(path) == [path, tmp_path / "w.bin"]
    before = digest_of(model_files(path))
    (tmp_path / "w.bin").write_bytes(f32([3.0]).tobytes())
    assert digest_of(model_files(path)) != before


def test_the_reference_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, feed = double_model(tmp_path / "m.onnx"), {"x": f32([1.5, 2.5])}
    write_feeds(tmp_path / "feeds.npz", [feed])
    with knobs.scope(cache_dir=tmp_path / "cache"):
        arguments = (path, "digest", feed, tmp_path / "feeds.npz", [])
        (first,) = numerics.reference_outputs(*arguments)
        np.testing.assert_array_equal(first, [3.0, 5.0])
        monkeypatch.setattr(numerics, "Worker", None)
        (again,) = numerics.reference_outputs(*arguments)
        np.testing.assert_array_equal(again, first)
        with pytest.raises(TypeError):  # another model has no outputs yet
            numerics.reference_outputs(path, "other digest", *arguments[2:])


# ---- processes ----


def double_model(path: Path) -> Path:
    """y = x * [2], of `n` numbers."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], f32([2]).tobytes(), raw=True)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in "xy")
    node = helper.make_node("Mul", ["x", "w"], ["y"])
    made = helper.make_graph([node], "double", [x], [y], [weight])
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(made, opset_imports=[opset], ir_version=9), path)
    return path


@pytest.fixture
def feeds(tmp_path: Path) -> str:
    write_feeds(tmp_path / "feeds.npz", [{"x": f32([1, 2])}, {"x": f32([3, 4])}])
    return str(tmp_path / "feeds.npz")


def fake(kind: type[fake_engines.Doubles]) -> str:
    return f"tests.fake_engines:{kind.__name__}"


def test_an_engine_loads_runs_and_is_timed(tmp_path: Path, feeds: str) -> None:
    cores = rounds.usable_cores()[-1:]
    worker = Worker(fake(fake_engines.Doubles), 3, cores)
    try:
        assert worker.version == "1.0"
        loaded = worker.ask("load", files={"model": "m.onnx"}, feeds=feeds)
        assert (loaded["ways"], loaded["settings"]) == (["call"], {"threads": 3})
        worker.ask("run", output=str(tmp_path / "out.npz"))
        np.testing.assert_array_equal(read_outputs(tmp_path / "out.npz")[0], [2, 4])
        assert worker.ask("reload", seconds=0.0) == {"seconds": None}
        timed = worker.ask("time", way="call", seconds=1e-3, cold=False)
        assert set(timed) == {"median", "p10", "calls", "share"}
    finally:
        worker.close()


def test_a_reason_has_one_line_and_no_paths(feeds: str) -> None:
    worker = Worker(fake(fake_engines.Refuses), 1, [])
    with pytest.raises(Refused) as caught:
        worker.ask("load", files={"model": "m.onnx"}, feeds=feeds)
    worker.close()
    assert caught.value.message == "ValueError: no kernel for secret.onnx in this build"
    assert without_paths("x" * 1000).endswith("x…")


def test_a_process_that_ends_gives_its_last_words(feeds: str) -> None:
    worker = Worker(fake(fake_engines.DiesLoading), 1, [])
    with pytest.raises(Refused, match=r"exit code 9\) at 'load': fatal: no such instruction"):
        worker.ask("load", files={"model": "m.onnx"}, feeds=feeds)
    with pytest.raises(Refused, match="exit code 9"):
        worker.ask("reload", seconds=0.0)
    worker.close()


def test_a_process_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("naru.bench.worker.START_SECONDS", 0.0)
    with pytest.raises(Refused, match="no answer to 'starting' for 0 s"):
        Worker(fake(fake_engines.Doubles), 1, [])


# ---- torch modules ----


def test_a_torch_module_comes_from_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("mymodel")
    network = types.SimpleNamespace(eval=lambda: "evaluated")
    module.make = lambda: (network, ["example"])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mymodel", module)
    assert make_module("mymodel:make") == ("evaluated", ("example",))
    for wrong, found in (("", "none"), ("mymodel", "'mymodel'")):
        with pytest.raises(InputError, match=f"expected module:function .* found {found}"):
            make_module(wrong)


def test_results_of_a_module_are_flattened() -> None:
    assert flatten({"a": 1, "b": (2, [3])}) == [1, 2, 3]


@pytest.mark.slow
def test_torch_runs_what_the_catalog_exports(tmp_path: Path) -> None:
    case = cases.make_case("mlp_64_128_128_10", tmp_path)
    write_feeds(tmp_path / "feeds.npz", case.feeds)
    found: list[np.ndarray[Any, Any]] = []
    for name in ("onnxruntime", "torch"):
        worker = Worker(engines.ENGINES[name].adapter, 1, [])
        files = {"model": str(case.model), "factory": case.factory}
        worker.ask("load", files=files, feeds=str(tmp_path / "feeds.npz"))
        worker.ask("run", output=str(tmp_path / f"{name}.npz"))
        worker.close()
        found += read_outputs(tmp_path / f"{name}.npz")
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-5)


# ---- the command ----

FAKES = ("Doubles", "Refuses", "DiesTimed", "Missing", "WrongShape")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of one `naru bench` against fake engines, and what it printed."""
    folder = tmp_path_factory.mktemp("bench")
    names = [name.lower() for name in FAKES]
    made = (
        Engine(n, t, f"tests.fake_engines:{t}", "pip install it")
        for n, t in zip(names, FAKES, strict=True)
    )
    with pytest.MonkeyPatch.context() as patch, knobs.scope(cache_dir=folder / "cache"):
        patch.setattr(engines, "ENGINES", {e.name: e for e in made})
        patch.setattr("naru.bench.measure.ENGINES", engines.ENGINES)
        args = ["bench", str(double_model(folder / "double.onnx")), "--against", ",".join(names)]
        args += ["--dims", "n=5", "--rounds", "1", "--budget", "0.1", "--cold"]
        assert cli.main([*args, "--json", str(folder / "record.json")]) == group.OK
    text = (folder / "record.json").read_text(encoding="utf-8")
    assert str(folder) not in text
    assert f'"{platform.node()}"' not in text
    assert str(ROOT) not in text
    return json.loads(text)


def test_the_record_has_its_form(measured: dict[str, Any]) -> None:
    assert measured["schema"] == record.SCHEMA
    assert measured["complete"]
    assert measured["settings"]["effort"]["budget"] == 0.1
    assert measured["machine"]["target"].startswith("x86-64") or platform.machine() != "x86_64"
    (case,) = measured["cases"]
    assert (case["name"], case["shapes"]) == ("double", {"x": [5]})
    assert case["flops"] == 5
    assert case["bundle"]["bytes"] > case["bundle"]["weights"] >= 0
    assert case["compile"]["cold"] > 0
    assert case["compile"]["cached"] > 0
    for regime in ("hot", "cold"):
        assert case["seconds"]["naru.call"][regime]["median"] > 0
        ratio = case["ratios"]["doubles.call"][regime]
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
    assert case["memory"]["naru"]["peak"] > 0 or platform.system() != "Linux"
    assert case["load"]["naru"]["first"] > 0
    assert case["engines"]["doubles"] == {"version": "1.0", "settings": {"threads": 1}}


def test_what_fails_is_named_and_the_others_go_on(measured: dict[str, Any]) -> None:
    (case,) = measured["cases"]
    missing = case["missing"]
    assert missing["refuses"] == "ValueError: no kernel for secret.onnx in this build"
    assert missing["missing"] == "not installed: pip install it"
    assert "exit code 9" in missing["diestimed"]
    assert case["errors"]["naru"] == {"max": 0.0, "rms": 0.0}
    assert "shape" in case["errors"]["wrongshape"]["problem"]
    assert set(case["ratios"]) == {"doubles.call", "wrongshape.call"}
    text = "\n".join(report.remarks(measured))
    assert "double: no missing: not installed: pip install it" in text


def test_a_wrong_command_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(double_model(tmp_path / "m.onnx"))

    def refused(*args: str) -> str:
        assert cli.main(["bench", *args]) in (group.USER_ERROR, group.USAGE)
        return capsys.readouterr().err

    assert "unknown engine 'tensorrt'; one of: onnxruntime" in refused(
        model, "--against", "tensorrt"
    )
    assert "does not exist" in refused(str(tmp_path / "none.onnx"))
    assert "cores are usable" in refused(model, "--threads", "999")
    assert "expected a file of .png, .svg, .pdf" in refused(model, "--plot", "x.gif")
    assert "no dim 'k'" in refused(model, "--dims", "k=3")
    assert "is a bundle" in refused(str(write_empty(tmp_path / "m.naru")))
    needs = refused(model, "--against", "openvino", "--reference", "onnxruntime")
    assert "need it among the engines" in needs
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install 'naru[bench]'" in refused(model, "--plot", "x.png")


def write_empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


# ---- tables and the picture ----


def test_seconds_have_three_digits() -> None:
    texts = [report.format_seconds(s) for s in (8.31e-8, 6.789e-6, 0.0124, 0.606, 12.4)]
    assert texts == ["0.083 µs", "6.79 µs", "12.4 ms", "606 ms", "12.4 s"]


def test_small_ratios_keep_their_digits() -> None:
    assert report.format_ratio({"median": 0.021, "low": 0.02, "high": 0.0221}) == (
        "0.021 [0.020, 0.022]"
    )
    assert report.format_ratio(None) == ""


def printed(tables: Sequence[Any]) -> str:
    from rich.console import Console

    console = Console(width=250)
    with console.capture() as capture:
        for table in tables:
            console.print(table)
    return capture.get()


def test_tables_of_one_and_of_several_cases(measured: dict[str, Any]) -> None:
    one = printed(report.tables(measured))
    assert "double (x 5)" in one
    assert "doubles call" in one
    assert "wrong" in one
    refused = {**measured["cases"][0], "name": "refused"}
    del refused["seconds"]
    more = {**measured, "cases": [*measured["cases"] * 2, refused]}
    several = printed(report.tables(more))
    assert "by the others', hot" in several
    assert "by the others', cold" in several
    assert "refused" not in several
    assert printed(report.tables({**measured, "cases": [refused]})) == ""


def test_more_threads_of_naru_have_a_title() -> None:
    assert report.way_title("naru@2.call") == "naru, 2 threads"
    assert report.way_title("naru@1.call") == "naru, 1 thread"


def test_the_picture_has_every_case(tmp_path: Path) -> None:
    newest = readme.newest()
    assert newest is not None
    plot.draw(newest, tmp_path / "ratios.svg")
    text = (tmp_path / "ratios.svg").read_text(encoding="utf-8")
    assert all(f"<!-- {c['name']} -->" in text for c in newest["cases"])
    with pytest.raises(InputError, match="against no other engine"):
        plot.draw({**newest, "cases": []}, tmp_path / "none.svg")


# ---- the project's run ----


def test_cases_are_chosen_by_name_or_beginning() -> None:
    assert cases.chosen(["resnet50", "mlp"]) == [
        "resnet50",
        "mlp_784_200_10",
        "mlp_64_128_128_10",
    ]
    with pytest.raises(ValueError, match="no case is named 'lenet'"):
        cases.chosen(["lenet"])


@pytest.mark.parametrize("name", cases.SMALL)
def test_small_cases_run(name: str, tmp_path: Path) -> None:
    """Their inputs fit their models, and differ."""
    case = cases.make_case(name, tmp_path)
    (wanted,) = onnx.load(case.model).graph.input
    assert list(case.feeds[0]) == [wanted.name]
    first, second = (f[wanted.name] for f in case.feeds[:2])
    assert not np.array_equal(first, second)


def small_record(**more: Any) -> dict[str, Any]:
    base = {"commit": {"id": "c", "changed": False}, "settings": {"a": (1,)}, "machine": {}}
    return {"schema": record.SCHEMA, "date": "2026-01-01", "complete": False, **base, **more}


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    monkeypatch.setattr(run, "measure_one", lambda name, settings: {"name": name})
    new = {**small_record(), "cases": []}
    assert run.unfinished(new) is None
    path = tmp_path / "record.json"
    run.measure(["a", "b"], Settings(), new, path)
    old = run.unfinished({**small_record(), "cases": []})
    assert old is not None
    assert [c["name"] for c in old["cases"]] == ["a", "b"]
    run.measure(["a", "b", "c"], Settings(), old, path)
    assert [c["name"] for c in record.read_record(path)["cases"]] == ["a", "b", "c"]
    assert os.listdir(tmp_path) == ["record.json"]


def test_only_the_same_code_settings_and_machine_go_on() -> None:
    old = json.loads(json.dumps(small_record()))
    assert record.continues(old, small_record())
    assert not record.continues({**old, "complete": True}, small_record())
    assert not record.continues(old, small_record(commit={"id": "d", "changed": False}))
    changed = {"id": "c", "changed": True}
    assert not record.continues({**old, "commit": changed}, small_record(commit=changed))
    assert not record.continues(old, small_record(settings={"a": (2,)}))


def test_a_file_that_is_no_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"schema": 1}', encoding="utf-8")
    with pytest.raises(InputError, match="expected a record of schema 2, found 1"):
        record.read_record(tmp_path / "old.json")
    with pytest.raises(NaruError, match="cannot read it"):
        record.read_record(tmp_path / "none.json")


def test_aims_are_judged_where_figures_are() -> None:
    newest = readme.newest()
    assert newest is not None
    judged = {a["aim"]: a for a in aims.judge(newest)}
    assert set(judged) == {a.text for a in aims.AIMS}
    assert judged["empty call"]["found"] == report.format_seconds(
        aims.seconds(newest, "empty", "naru.call")
    )
    assert aims.judge({"cases": []}) == []


def test_an_unknown_figure_of_the_readme_is_refused() -> None:
    with pytest.raises(KeyError):
        readme.filled("<!-- figure:speed -->1<!-- /figure -->", None)
    text = readme.filled("<!-- figure:cnn_after -->1<!-- /figure -->", None)
    assert text == f"<!-- figure:cnn_after -->{readme.UNKNOWN}<!-- /figure -->"


def test_the_readme_shows_every_case_and_engine() -> None:
    def case(about: str, noisy: bool, **seconds: float) -> dict[str, Any]:
        times = {k.replace("_", "."): {"hot": {"median": v}} for k, v in seconds.items()}
        ratios = {k: {"hot": {"median": 0.5}} for k in times if k != "naru.call"}
        rounds_of = {"hot": {"noisy": noisy}}
        return {"about": about, "seconds": times, "ratios": ratios, "rounds": rounds_of}

    both = case("both", False, naru_call=1.0, onnxruntime_run=2.0, openvino_infer=2.0)
    one = case("one", True, naru_call=1e-3, onnxruntime_run=2e-3)
    refused = {"about": "refused", "missing": {"naru": "too hard"}}
    text = readme.comparison({"cases": [both, one, refused]})
    assert text.strip().splitlines() == [
        "| one thread | naru | ONNX Runtime | naru's / ONNX Runtime "
        "| OpenVINO | naru's / OpenVINO |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| both | 1.00 s | 2.00 s | 0.50 | 2.00 s | 0.50 |",
        "| one | ~1.00 ms | 2.00 ms | 0.50 |  |  |",
    ]


def test_an_unfinished_record_is_not_shown(tmp_path: Path) -> None:
    record.write_record(tmp_path / "a.json", small_record(date="2026-01-01", complete=True))
    record.write_record(tmp_path / "b.json", small_record(date="2026-02-02"))
    newest = readme.newest(tmp_path)
    assert newest is not None
    assert newest["date"] == "2026-01-01"
