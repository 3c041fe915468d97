"""A folder of small models, and an application that serves it, without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from serve import models

from naru.serve.access import Access
from naru.serve.dataplane import DataPlane
from naru.serve.http import Application
from naru.serve.settings import ServerSettings


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of all kinds; tests do not change it."""
    root = tmp_path_factory.mktemp("models")
    models.dense(root / "dense.onnx")
    models.dense(root / "versions" / "9" / "model.onnx")
    models.dense(root / "versions" / "10" / "model.onnx", scale=2.0)
    (root / "versions" / "serve.toml").write_text("aliases = { stable = '9' }\n")
    models.pair(root / "pair" / "model.onnx")
    models.normalised(root / "normalised.onnx")
    models.gather(root / "gather.onnx")
    models.texts(root / "texts.onnx")
    models.parsed(root / "parsed.onnx")
    (root / "broken").mkdir()
    (root / "broken" / "model.naru").write_bytes(b"no bundle")
    return root


Serving = Callable[..., None]


def serving(
    root: Path, test: Callable[[Application], Coroutine[Any, Any, None]], **settings: Any
) -> None:
    """Runs a coroutine with an application that serves a folder."""
    access = settings.pop("access", None) or Access()

    async def run() -> None:
        plane = DataPlane(ServerSettings(root=root, **{"workers": 2, **settings}))
        application = Application(plane, access)
        await plane.repository.start()
        plane.started = True
        try:
            await test(application)
        finally:
            plane.workers.close()
            await plane.repository.close()

    asyncio.run(run())
