"""README.md is true: its Python and its commands run, its figures are the measured ones."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from naru import cli
from naru.cli import group
from naru.demo import FOLDER, load_images
from naru.frontend.onnx_tables import TABLE

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```\n", TEXT, re.DOTALL)


def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks("python"):
        exec(block, names)
    np.testing.assert_allclose(names["logits"], names["expected"], rtol=1e-4, atol=1e-4)
    assert (tmp_path / "digits.naru").exists()


def test_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(FOLDER / "digits_cnn.onnx", "digits.onnx")
    np.save("image.npy", load_images()[0][:1, None])
    (commands,) = blocks("sh")
    for line in commands.splitlines():
        program, *args = shlex.split(line)
        assert program == "naru"
        assert cli.main(args) == group.OK, f"{line}: {capsys.readouterr().err}"
    assert np.load("logits.npy").shape == (1, 10)


def test_targets_of_make_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name in re.findall(r"`make ([\w-]+)`", TEXT + contributing):
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), f"make {name}"


def test_operators_said_to_be_missing_are_missing() -> None:
    (line,) = re.findall(r"- Operators: (.*?)\. All", TEXT, re.DOTALL)
    missing = re.findall(r"`(\w+)`", line)
    assert missing
    assert not [name for name in missing if name in TABLE]


def test_figures_are_the_newest_results() -> None:
    done = subprocess.run([sys.executable, "bench/readme.py", "--check"], cwd=ROOT, check=False)
    assert done.returncode == 0, "run python bench/readme.py"
