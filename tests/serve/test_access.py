"""Tokens and their rights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from serve.asgi import Answer, ask, tensor
from serve.conftest import serving

from naru.errors import InputError
from naru.serve.access import read_tokens
from naru.serve.http import Application

BODY = json.dumps({"inputs": [tensor("x", np.ones((1, 4), np.float32), "FP32")]}).encode()


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def tokens(path: Path) -> Path:
    path.write_text(
        f'[[token]]\nname = "all"\nsha256 = "{digest("a-secret")}"\n'
        'rights = ["infer", "control", "metrics"]\n'
        f'[[token]]\nname = "some"\nsha256 = "{digest("b-secret")}"\nmodels = ["de*"]\n'
    )
    return path


def test_rights(folder: Path, tmp_path: Path) -> None:
    async def check(app: Application) -> None:
        async def get(method: str, path: str, token: str | None, body: bytes = b"") -> Answer:
            headers = {} if token is None else {"authorization": f"Bearer {token}"}
            return await ask(app, method, path, body, headers)

        infer = "/v2/models/dense/infer"
        for token, status in ((None, 401), ("wrong", 401), ("a-secret", 200), ("b-secret", 200)):
            answer = await get("POST", infer, token, BODY)
            assert answer.status == status
            assert status == 200 or answer.headers["www-authenticate"] == "Bearer"
        # Health is for everybody: who restarts servers has no token.
        assert (await get("GET", "/v2/health/ready", None)).status == 200
        for path in ("/v2/models/pair", "/v2/models/pair/stats", "/v2/models/pair/ready"):
            assert (await get("GET", path, "b-secret")).status == 403
            assert (await get("GET", path, "a-secret")).status == 200
        refused = await get("POST", "/v2/models/pair/infer", "b-secret", BODY)
        assert refused.error == "the token 'some' is not for the model 'pair'"
        assert (await get("GET", "/metrics", "b-secret")).status == 403
        assert (await get("GET", "/metrics", "a-secret")).status == 200
        load = "/v2/repository/models/dense/load"
        assert (await get("POST", load, "b-secret")).status == 403
        assert (await get("POST", load, "a-secret")).status == 200
        # One sees what one may ask.
        index = (await get("POST", "/v2/repository/index", "b-secret")).json
        assert {i["name"] for i in index} == {"dense"}
        stats = (await get("GET", "/v2/models/stats", "b-secret")).json["model_stats"]
        assert {i["name"] for i in stats} == {"dense"}

    serving(folder, check, access=read_tokens(tokens(tmp_path / "t.toml")), model_control=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected at least one"),
        ("token = 3", "expected at least one"),
        ("[[tokens]]", "there is no key 'tokens'"),
        ("[[token]]\nsha256 = 'abc'", "sha256: expected 64 hex digits"),
        ("[[token]]\ntoken = 'secret'", "there is no key 'token'"),
        (f"[[token]]\nsha256 = '{digest('x')}'\nrights = ['root']", "rights: expected some of"),
        (f"[[token]]\nsha256 = '{digest('x')}'\nmodels = 'a'", "models: expected a list"),
        ("[[token", "cannot be read"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_tokens(path)


def test_tokens_are_bytes(folder: Path, tmp_path: Path) -> None:
    """sha256sum digests bytes; so does the server, whatever they stand for."""
    secret = "t\u00f6ken".encode()
    path = tmp_path / "t.toml"
    path.write_text(f"[[token]]\nsha256 = '{hashlib.sha256(secret).hexdigest()}'\n")

    async def check(app: Application) -> None:
        headers = {"authorization": f"Bearer {secret.decode('latin-1')}"}
        answer = await ask(app, "POST", "/v2/models/dense/infer", BODY, headers)
        assert answer.status == 200

    serving(folder, check, access=read_tokens(path), load_at_start=0)


def test_metrics_of_ones_own_models(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    rights = "models = ['dense']\nrights = ['metrics']"
    path.write_text(f"[[token]]\nsha256 = '{digest('m')}'\n{rights}\n")

    async def check(app: Application) -> None:
        found = await ask(app, "GET", "/metrics", headers={"authorization": "Bearer m"})
        assert 'model="dense"' in found.body.decode()
        assert 'model="pair"' not in found.body.decode()

    serving(folder, check, access=read_tokens(path))
