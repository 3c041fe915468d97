"""Tables that tests measure and docs/conformance-serving.md shows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "conformance-serving.md"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in r)} |" for r in lines
    )


def check_part(name: str, text: str, request: pytest.FixtureRequest) -> None:
    """The page says this between `<!-- measured: NAME -->` and `<!-- end -->`; `--update-docs`
    writes it there."""
    part = re.compile(rf"(<!-- measured: {name} -->\n\n)(.*?)(\n\n<!-- end -->)", re.DOTALL)
    page = PAGE.read_text(encoding="utf-8")
    if request.config.getoption("--update-docs"):
        page = part.sub(lambda m: m[1] + text + m[3], page)
        PAGE.write_text(page, encoding="utf-8")
    found = part.search(page)
    assert found is not None, f"{PAGE.name} has no part '{name}'"
    assert found[2] == text, f"{PAGE.name}, {name}: pytest tests/serve -m clients --update-docs"
