"""`naru.compile` and its cache: a hit gives the same bundle, and loads no compiler."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import naru
from naru import knobs
from naru.demo import FOLDER
from naru.errors import NaruError

ROOT = Path(__file__).resolve().parent.parent
MODEL = FOLDER / "digits_mlp.onnx"
# What a hit must not load: each takes a tenth of a second or more.
HEAVY = ("onnx", "llvmlite", "naru.pipeline", "naru.ops", "naru.passes", "naru.codegen")


def test_a_hit_loads_no_compiler(tmp_path: Path) -> None:
    """Each in its own process: the key holds a digest of the sources, read once a process."""
    program = (
        f"import sys, naru; naru.compile({str(MODEL)!r}).save(sys.argv[1])\n"
        f"print(*(n for n in {HEAVY!r} if n in sys.modules))"
    )
    env = {**os.environ, "NARU_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    loaded: list[list[str]] = []
    for name in ("miss", "hit"):
        done = subprocess.run(
            [sys.executable, "-c", program, name],
            cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        loaded.append(done.stdout.split())
    assert loaded == [list(HEAVY), []]
    assert (tmp_path / "hit").read_bytes() == (tmp_path / "miss").read_bytes()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="loads code for x86-64")
def test_options_are_part_of_the_key(tmp_path: Path) -> None:
    with knobs.scope(cache_dir=tmp_path):
        made = [naru.compile(MODEL, target=t) for t in ("baseline", "host", "baseline")]
    names = [m.manifest["target"]["name"] for m in made]
    assert names[0] == names[2] == "x86-64-baseline"


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(NaruError, match="expected one of fp32, strict"):
        naru.compile(MODEL, precision="fp8")
