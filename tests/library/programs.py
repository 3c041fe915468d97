"""Programs that tests compile and run, and those that stand in the pages of docs/."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
_BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def run(*command: object, cwd: Path | str | None = None, seconds: int = 300) -> str:
    """What a command prints; fails with all that it says."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd, capture_output=True, text=True, errors="replace", timeout=seconds, check=False,
    )  # fmt: skip
    said = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.returncode}\n{said}"
    return done.stdout


def blocks(page: str, language: str) -> list[str]:
    """The code of a page in a language, block by block."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [m[3] for m in _BLOCK.finditer(text) if m[1] == language]


def files(page: str) -> dict[str, str]:
    """The files that a page shows: blocks whose first line names one in a comment."""
    text = (DOCS / page).read_text(encoding="utf-8")
    named = re.compile(r"\A(?://|#|/\*|--) (\S+\.\w+)( \*/)?\n")
    found = {}
    for block in _BLOCK.finditer(text):
        name = named.match(block[3])
        if name:
            found[name[1]] = block[3]
    return found
