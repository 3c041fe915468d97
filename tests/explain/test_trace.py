"""naru profile: the trace it writes and what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from naru import cli
from naru.compiler import compile_bundle
from naru.demo import FOLDER
from naru.explain.report import describe, golden_inputs
from naru.explain.trace import make_trace
from naru.runtime.model import StepTime

MODEL = FOLDER / "digits_mlp.onnx"


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = cli.main([str(a) for a in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_trace_of_known_times() -> None:
    """Two runs; step k of run r takes (k + 1) * (r + 1) microseconds."""
    bundle = compile_bundle(MODEL, target="baseline", cache=False)
    names = bundle.entries[0].steps
    spans = np.arange(1, len(names) + 1) * 1000
    times = np.zeros((2, len(names) + 1), np.int64)
    times[0, 1:], times[1] = np.cumsum(spans), 10**6
    times[1, 1:] += np.cumsum(2 * spans)
    found = describe(
        bundle,
        golden_inputs(bundle) or {},
        tuple(StepTime(n, float(t)) for n, t in zip(names, spans, strict=True)),
    )
    trace = json.loads(json.dumps(make_trace(bundle, found.rows, times + 12345, 1)))
    events = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    runs = [e for e in events if e["cat"] == "run"]
    assert [(e["ts"], e["dur"]) for e in runs] == [
        (0.0, spans.sum() / 1e3),
        (1000.0, 2 * spans.sum() / 1e3),
    ]
    steps = [e for e in events if e["cat"] != "run"]
    assert [e["name"] for e in steps] == [*names, *names]
    assert [e["dur"] for e in steps] == [*(spans / 1e3), *(2 * spans / 1e3)]
    first, again = steps[0]["args"], steps[len(names)]["args"]
    assert first["GFLOP/s"] == pytest.approx(first["flops"] / spans[0], rel=0.05)
    share = "% of the roof of one core"
    assert first[share] == pytest.approx(2 * again[share], rel=0.05, abs=0.2)
    assert any("Gemm" in node for s in steps for node in s["args"]["nodes"])


def test_events_have_what_the_format_asks_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "trace.json"
    np.savez(tmp_path / "x.npz", image=np.zeros((7, 64), np.float32))
    code, printed, err = run(
        capsys, "profile", MODEL, "-i", tmp_path / "x.npz", "--runs", 3, "--threads", 1, "-o", out
    )
    assert code == 0, err
    assert "runs      3; median" in printed
    assert "batch = 7" in printed
    assert max(map(len, printed.splitlines()[:-1])) <= 100
    trace = json.loads(out.read_text(encoding="utf-8"))
    assert set(trace) == {"traceEvents", "displayTimeUnit"}
    for e in trace["traceEvents"]:
        assert {"name", "ph", "pid", "tid", "args"} <= e.keys()
        if e["ph"] == "X":
            assert e["ts"] >= 0
            assert e["dur"] >= 0
        else:
            assert e["ph"] == "M"
    lanes = {e["args"]["name"] for e in trace["traceEvents"] if e["ph"] == "M"}
    assert {"runs", "steps, 1 thread"} <= lanes
    assert sum(e.get("cat") == "run" for e in trace["traceEvents"]) == 3


def test_profile_of_a_foreign_bundle_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "far.naru"
    compile_bundle(MODEL, target="neon", cache=False).save(path)
    code, _, err = run(capsys, "profile", path)
    assert code == 1
    assert "this machine is" in err


def test_unwritable_outputs_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = tmp_path / "missing" / "out"
    for verb, option in (("profile", "-o"), ("explain", "--html")):
        code, _, err = run(capsys, verb, MODEL, option, nowhere)
        assert code == 1
        assert "cannot write it" in err


def test_a_page_and_json_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "m.html"
    code, out, err = run(capsys, "explain", MODEL, "--html", page, "--json")
    assert code == 0
    assert json.loads(out)["kernels"]
    assert "open it in a browser" in err
    assert page.stat().st_size
