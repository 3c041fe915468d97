"""The cases of tests/golden/ir (see golden.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ir.golden import FOLDER, Case, read_cases, result_of

CASES = [(path, case) for path in sorted(FOLDER.glob("*.test")) for case in read_cases(path)]


@pytest.mark.parametrize(
    ("path", "case"), CASES, ids=[f"{path.stem}-{case.name}" for path, case in CASES]
)
def test_golden(path: Path, case: Case) -> None:
    kind, found = result_of(path.stem, case.text)
    assert (kind, found.rstrip("\n")) == (case.kind, case.expected.rstrip("\n"))


def test_printed_text_is_stable() -> None:
    """What comes out goes in again, unchanged."""
    for path, case in CASES:
        if case.kind == "out" and path.stem.endswith("text"):
            assert result_of(path.stem, case.expected) == ("same", ""), case.name
