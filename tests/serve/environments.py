"""The environments of others' programs, which `make` makes beside `.venv`."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / ".venv-clients"
TRITON = ROOT / ".venv-triton"
PERF = ROOT / ".venv-perf"
KSERVE = ROOT / ".venv-kserve"
SCHEMATHESIS = ROOT / ".venv-schemathesis"


def python_of(environment: Path) -> Path:
    """The interpreter of an environment that `make` makes."""
    found = environment / "bin" / "python"
    assert found.exists(), f"{environment.name} is missing: make {environment.name}/.installed"
    return found
