"""The measurements of single operators: their table is complete, and a case gives what the page
shows. Nothing here judges a time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from naru.frontend.onnx_tables import operators

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "bench"))

import operator_page  # noqa: E402
import operator_table  # noqa: E402
import operators as bench  # noqa: E402
from operator_cases import CASES  # noqa: E402


def test_every_operator_has_a_case() -> None:
    known = {(c.domain or "ai.onnx", c.op) for c in CASES}
    missing = [
        op
        for domain, ops in operators().items()
        for op in ops
        if (domain, op) not in known and op not in operator_table.NOT_MEASURED
    ]
    assert missing == []


def test_names_are_given_once() -> None:
    names = [(c.domain, c.name) for c in CASES]
    assert len(names) == len(set(names))


def test_a_case_gives_a_row() -> None:
    (case,) = bench.chosen("Add (row)")
    found = bench.measure(case, 0.01)
    assert found["error"] < 1e-6
    assert found["ratio"] == pytest.approx(found["naru"] / found["onnxruntime"])
    assert operator_page.row(found)[0] == "Add (row)"
    assert "naru is faster in" in operator_page.summary([found])
