"""An engine's process: `python -m naru.bench.serve MODULE:CLASS THREADS [CORE,CORE…]`.

It runs on these cores, makes the adapter, says so in a first reply, and answers requests. A request
is a line of JSON on stdin, its reply a line on stdout; files are .npz as in `feeds`:

    (start)                                                ->  {"version"}
    {"do": "load", "files": {...}, "feeds": FILE}          ->  {"seconds", "ways", "settings"}
    {"do": "run", "output": FILE}                          ->  {"memory": {"private", "peak"}}
    {"do": "reload", "seconds": 1.0}                       ->  {"seconds"}
    {"do": "time", "way": NAME, "seconds": 0.3, "cold": false}
                                              ->  {"median", "p10", "calls", "share"}

or {"error": text} in place of any. Times are seconds, sizes bytes. `run` writes the outputs for the
first feed; its memory is what was added since before the engine's library was imported.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any

import numpy as np

from naru.bench.engines import Adapter, Files, Way
from naru.bench.feeds import Array, read_feeds, write_outputs
from naru.bench.timing import memory, time_cold, time_hot

RELOADS = 5  # at most

Reply = dict[str, Any]


class Server:
    """What the requests are about: an adapter with its model, feeds and ways."""

    def __init__(self, adapter: str, threads: int) -> None:
        self._before = memory()
        module, _, name = adapter.partition(":")
        self._adapter: Adapter = getattr(importlib.import_module(module), name)(threads)
        self._feeds: list[dict[str, Array]] = []
        self._ways: dict[str, Way] = {}

    def start(self) -> Reply:
        return {"version": self._adapter.version}

    def load(self, files: dict[str, str], feeds: str) -> Reply:
        self._feeds = read_feeds(feeds)
        self._files = Files(**files)
        seconds = self._load()
        # After the first call, so that what happens once is behind us.
        self._adapter.outputs(self._feeds[0])
        self._memory = memory()
        self._ways = self._adapter.ways(self._feeds)
        return {
            "seconds": seconds,
            "ways": list(self._ways),
            "settings": self._adapter.settings,
        }

    def _load(self) -> float:
        start = time.perf_counter()
        self._adapter.load(self._files, self._feeds[0])
        return time.perf_counter() - start

    def run(self, output: str) -> Reply:
        write_outputs(output, self._adapter.outputs(self._feeds[0]))
        if not self._memory:
            return {"memory": {}}
        private = self._memory["private"] - self._before["private"]
        return {"memory": {"private": private, "peak": self._memory["peak"] - self._before["now"]}}

    def reload(self, seconds: float) -> Reply:
        """The median of a few loads that fit in a time (null: not even one more does)."""
        taken: list[float] = []
        end = time.perf_counter() + seconds
        while len(taken) < RELOADS and time.perf_counter() < end:
            taken.append(self._load())
        self._ways = self._adapter.ways(self._feeds)
        return {"seconds": float(np.median(taken)) if taken else None}

    def time(self, way: str, seconds: float, cold: bool) -> Reply:
        return (time_cold if cold else time_hot)(self._ways[way], seconds)


def serve(adapter: str, threads: int) -> None:
    """Answers until stdin ends. What libraries print on stdout goes to stderr instead."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(value: Reply) -> None:
        replies.write(json.dumps(value) + "\n")
        replies.flush()

    try:
        server = Server(adapter, threads)
        reply(server.start())
    except Exception as e:
        reply({"error": describe(e)})
        return
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply(getattr(server, request.pop("do"))(**request))
        except Exception as e:
            reply({"error": describe(e)})


def describe(error: Exception) -> str:
    """An engine's error as a reason: one line."""
    text = " ".join(str(error).split())
    return (
        text
        if error.__class__.__module__.startswith("naru.")
        else f"{type(error).__name__}: {text}"
    )


def main() -> None:
    adapter, threads, *cores = sys.argv[1:]
    if cores:  # before any library starts threads
        os.sched_setaffinity(0, map(int, cores[0].split(",")))
    serve(adapter, int(threads))


if __name__ == "__main__":
    main()
