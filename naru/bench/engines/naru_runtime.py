"""naru: a bundle, loaded by the runtime alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from naru.bench.engines import Files, Way
from naru.bench.feeds import Array, Feed
from naru.runtime.model import Model
from naru.runtime.session import load
from naru.version import VERSION


class NaruRuntime:
    """`naru.load` of a bundle. Every call makes fresh outputs."""

    version = VERSION

    def __init__(self, threads: int) -> None:
        self.settings: dict[str, Any] = {"threads": threads}

    def load(self, files: Files, feed: Feed) -> None:
        self._model: Model = load(files.bundle, threads=self.settings["threads"])

    def ways(self, feeds: Sequence[Feed]) -> dict[str, Way]:
        names = [i.name for i in self._model.inputs]
        if len(names) == 1:
            return {"call": Way(self._model, [feed[names[0]] for feed in feeds])}
        model = self._model
        arguments = [tuple(feed[name] for name in names) for feed in feeds]

        def call(arrays: tuple[Array, ...]) -> Any:
            return model(*arrays)

        return {"call": Way(call, arguments)}

    def outputs(self, feed: Feed) -> list[Array]:
        result: Any = self._model(feed)
        return list(result) if len(self._model.outputs) > 1 else [result]
