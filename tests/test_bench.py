"""The measuring itself: its statistics, its report, and that the whole runs."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "bench"))

import estimate  # noqa: E402
import readme  # noqa: E402
import report  # noqa: E402

STEADY = {"naru.call": {"share": 1.0}, "onnxruntime.run": {"share": 0.99}}


def test_interval_holds_the_median_of_steady_rounds() -> None:
    found = estimate.median_with_interval([1.0, 1.1, 0.9, 1.05, 0.95] * 4)
    assert 0.9 <= found["low"] <= found["median"] == 1.0 <= found["high"] <= 1.1


def test_a_round_is_discarded_for_drift_and_for_a_shared_core() -> None:
    roofs = {"fma": 200.0, "read": 100.0}
    assert not estimate.disturbed(roofs, {"fma": 195.0, "read": 104.0}, STEADY)
    assert estimate.disturbed(roofs, {"fma": 185.0, "read": 100.0}, STEADY)
    assert estimate.disturbed(roofs, roofs, {**STEADY, "naru.call": {"share": 0.9}})


def test_errors_are_relative_to_the_output() -> None:
    want = np.array([0.0, 100.0, -50.0])
    found = estimate.errors([want + np.array([0.0, 0.0, 1.0])], [want])
    assert found["max"] == pytest.approx(0.01)
    assert found["rms"] == pytest.approx(1 / np.sqrt(100**2 + 50**2))


def test_seconds_have_three_digits() -> None:
    texts = [report.format_seconds(s) for s in (8.31e-8, 6.789e-6, 0.0124, 0.606, 12.4)]
    assert texts == ["0.083 µs", "6.79 µs", "12.4 ms", "606 ms", "12.4 s"]


def test_an_unknown_figure_of_the_readme_is_refused() -> None:
    with pytest.raises(KeyError):
        readme.filled("<!-- figure:speed -->1<!-- /figure -->", None)
    text = readme.filled("<!-- figure:cnn_after -->1<!-- /figure -->", None)
    assert text == f"<!-- figure:cnn_after -->{readme.UNKNOWN}<!-- /figure -->"


@pytest.mark.slow
@pytest.mark.skipif(platform.system() != "Linux", reason="pins processes to a core")
def test_a_quick_run(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    command = [sys.executable, "bench/run.py", "--quick", "--only", "empty", "--output", output]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = output.read_text(encoding="utf-8")
    results: dict[str, Any] = json.loads(text)
    (case,) = results["cases"]
    assert case["errors"]["naru"]["max"] == 0
    assert 0 < case["ratios"]["onnxruntime.run"]["median"] < 1
    assert str(ROOT) not in text
    assert f'"{platform.node()}"' not in text
