"""Clients of others against `naru serve`: Triton's own, in all that it can ask, its load generator,
and KServe's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from serve import conformance, kserve_client, pages, perf
from serve.servers import CLIENTS, KSERVE, naru_server, python_of, triton_server
from serve.wire import http, send

Found = Mapping[str, str | None]


def ask_everything(**addresses: str) -> dict[str, Found]:
    """What went wrong with each row of tests/serve/conformance.py, by protocol."""
    arguments = [f"{protocol}={address}" for protocol, address in addresses.items()]
    done = subprocess.run(
        [python_of(CLIENTS), conformance.__file__, *arguments],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def version_of(address: str) -> str:
    return send(address, http("GET", "/v2")).json["version"]


@pytest.mark.clients
def test_tritonclient_gets_what_it_asks(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with naru_server(tmp_path / "models", "--allow-model-control") as address:
        naru, naru_version = ask_everything(http=address)["http"], version_of(address)
    with triton_server(tmp_path / "triton") as address:
        triton, triton_version = ask_everything(http=address)["http"], version_of(address)
    for found in (naru, triton):
        assert {name: problem for name, problem in found.items() if problem} == {}
    head = [
        "over HTTP", f"naru {naru_version}", f"Triton {triton_version}",
        *(f"{name} {version}" for name, version in conformance.OTHERS.items()),
    ]  # fmt: skip
    pages.check_part(
        "HTTP", pages.table(head, [_row(r, naru, triton) for r in conformance.HTTP]), request
    )


def _row(row: conformance.Row, naru: Found, triton: Found) -> list[str]:
    others = [row.others.get(name, "") for name in conformance.OTHERS]
    return [row.name, naru[row.name] or "yes", triton[row.name] or "yes", *others]


@pytest.mark.clients
def test_kserves_client_gets_what_it_asks(tmp_path: Path) -> None:
    with naru_server(tmp_path / "models") as address:
        done = subprocess.run(
            [python_of(KSERVE), kserve_client.__file__, address],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr


# ---- perf_analyzer ----

LOADS: dict[str, list[str]] = {
    "one and two at once": ["-m", "dense", "--concurrency-range", "1:2"],
    "batches": ["-m", "dense", "-b", "8", "--concurrency-range", "4"],
    "asynchronous, in JSON": [
        "-m", "dense", "-a", "--concurrency-range", "4",
        "--input-tensor-format", "json", "--output-tensor-format", "json",
    ],
    "a rate": ["-m", "dense", "--request-rate-range", "100"],
    "several inputs": [
        "-m", "pair", "--shape", "a:3", "--shape", "b:3", "--shape", "c:3",
        "--concurrency-range", "2",
    ],
    "texts": ["-m", "texts", "--shape", "word:2", "--concurrency-range", "2"],
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with naru_server(tmp_path_factory.mktemp("perf") / "models") as address:
        yield address


@pytest.mark.clients
@pytest.mark.parametrize("load", LOADS)
def test_perf_analyzer_runs_through(server: str, load: str, tmp_path: Path) -> None:
    perf.run_through("http", server, LOADS[load], tmp_path)
