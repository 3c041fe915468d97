"""Triton's load generator, perf_analyzer, for a moment."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from serve.environments import PERF


def run_through(protocol: str, address: str, load: Sequence[str], folder: Path) -> None:
    """Loads a server by `http` or `grpc`. perf_analyzer reads metadata, configuration and
    statistics, and gives up where they do not agree; so does this."""
    libraries = [str(p) for p in PERF.rglob("libcudart.so.12")]
    assert libraries, f"{PERF.name} is missing: make {PERF.name}/.installed"
    done = subprocess.run(
        [
            PERF / "bin" / "perf_analyzer", "-i", protocol, "-u", address, *load,
            # So many requests a measurement, three of them, whatever their times are.
            "--measurement-mode", "count_windows", "--measurement-request-count", "50",
            "--stability-percentage", "999", "--max-trials", "3",
            "-f", folder / "table.csv",
        ],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "LD_LIBRARY_PATH": str(Path(libraries[0]).parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    head, *lines = (folder / "table.csv").read_text().splitlines()
    assert lines
    for line in lines:
        measured = dict(zip(head.split(","), line.split(","), strict=True))
        assert float(measured["Inferences/Second"]) > 0
