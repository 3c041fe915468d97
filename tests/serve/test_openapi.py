"""What `GET /openapi.json` promises holds for requests drawn from it, right and wrong."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from serve.asgi import ask
from serve.conftest import serving
from serve.environments import SCHEMATHESIS, python_of
from serve.servers import naru_server

from naru.serve.access import METRICS, Access, Token
from naru.serve.http import Application
from naru.serve.openapi import describe

# Of any request: no 5xx (unloading is left out: what is unloaded answers 503), only statuses, media
# types, headers and forms that the description has, 405 with Allow, and 4xx for what it rules out.
EVERYTHING = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_headers_conformance", "response_schema_conformance", "unsupported_method",
    "allow_header_conformance", "negative_data_rejection",
)  # fmt: skip
RUNS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "everything": (["--exclude-path-regex", "/unload$"], EVERYTHING),
    # What is right by the description is taken; but what a model takes, its metadata says.
    "right requests": (
        ["--exclude-path-regex", "/(infer|load|unload)$", "--mode", "positive"],
        ("positive_data_acceptance",),
    ),
}


DIGEST = hashlib.sha256(b"secret").digest()
REFUSING: dict[str, dict[str, Any]] = {
    "no token": {"access": Access({})},
    "a token without the right": {"access": Access({DIGEST: Token("watcher", ("*",), (METRICS,))})},
    "too many requests": {"max_requests": 0},
}


@pytest.mark.parametrize("how", REFUSING)
def test_refusals_stand_in_the_description(how: str, folder: Path) -> None:
    async def check(app: Application) -> None:
        for path, operations in describe(["dense"])["paths"].items():
            asked = path.replace("{model}", "dense").replace("{version}", "1")
            for method, operation in operations.items():
                if method != "parameters":
                    headers = {"authorization": "Bearer secret"}
                    answer = await ask(app, method.upper(), asked, b"", headers)
                    assert str(answer.status) in operation["responses"], (method, path)

    serving(folder, check, load_at_start=0, **REFUSING[how])


@pytest.mark.parametrize(("access", "named"), [(Access(), True), (Access({}), False)])
def test_names_of_models_are_for_those_let_in(access: Access, named: bool, folder: Path) -> None:
    async def check(app: Application) -> None:
        assert (b"normalised" in (await ask(app, "GET", "/openapi.json")).body) is named

    serving(folder, check, load_at_start=0, access=access)


@pytest.mark.clients
@pytest.mark.parametrize("run", RUNS)
def test_the_description_is_true(run: str, tmp_path: Path) -> None:
    options, checks = RUNS[run]
    python = python_of(SCHEMATHESIS)
    with naru_server(tmp_path / "models", "--allow-model-control") as (address, _):
        done = subprocess.run(
            [
                python.parent / "schemathesis", "run", f"http://{address}/openapi.json", *options,
                "--checks", ",".join(checks), "--phases", "examples,coverage,fuzzing",
                "--max-examples", "50", "--seed", "1", "--continue-on-failure",
                # A busy machine is no mistake of the server.
                "--suppress-health-check", "all", "--request-timeout", "60",
            ],
            capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    selected = re.search(r"Selected: (\d+)/", done.stdout)
    assert selected is not None
    assert int(selected[1]) > 20, done.stdout
