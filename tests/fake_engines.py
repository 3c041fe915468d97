"""Engines for the tests of `naru.bench`: each doubles its input, or fails in its own way."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

from naru.bench.engines import Files, Way
from naru.bench.feeds import Array, Feed


class Doubles:
    version = "1.0"

    def __init__(self, threads: int) -> None:
        self.settings: dict[str, Any] = {"threads": threads}
        print("libraries print on stdout, too")

    def load(self, files: Files, feed: Feed) -> None:
        assert len(feed) == 1

    def ways(self, feeds: Sequence[Feed]) -> dict[str, Way]:
        return {"call": Way(self.outputs, list(feeds))}

    def outputs(self, feed: Feed) -> list[Array]:
        return [array * 2 for array in feed.values()]


class Refuses(Doubles):
    def load(self, files: Files, feed: Feed) -> None:
        raise ValueError("no kernel for /home/somebody/models/secret.onnx\n  in this build")


class DiesLoading(Doubles):
    def load(self, files: Files, feed: Feed) -> None:
        os.write(2, b"warning\nfatal: no such instruction\n")
        os._exit(9)


class DiesTimed(Doubles):
    def ways(self, feeds: Sequence[Feed]) -> dict[str, Way]:
        return {"call": Way(lambda feed: os._exit(9), list(feeds))}


class Missing(Doubles):
    def __init__(self, threads: int) -> None:
        importlib.import_module("an_engine_that_is_not_installed")


class WrongShape(Doubles):
    def outputs(self, feed: Feed) -> list[Array]:
        return [array[:1] for array in feed.values()]
