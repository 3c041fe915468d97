"""One engine in one process: `python bench/run.py --engine NAME` reads requests, writes replies.

A request is one line of JSON on stdin, its reply one line on stdout:

    {"do": "load", "model": FILE, "feeds": FILE, "core": 1}  ->  {"seconds"}
    {"do": "run", "output": FILE}                            ->  {"memory": {now, private, peak}}
    {"do": "time", "call": NAME, "seconds": 0.3}             ->  {"median", "p10", "calls", "share"}

`model` is a bundle for naru and an ONNX file for the others; `feeds` an .npz of arrays `k/name`;
`run` writes the outputs for the first feed as an .npz. Times are seconds, sizes bytes.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

Feeds = list[dict[str, np.ndarray]]
# A named way to call: a function, and the arguments that it is given in turn.
Calls = dict[str, tuple[Callable[[Any], Any], list[Any]]]

BLOCK = 20e-6  # seconds: shorter calls are timed many at once, for the clock takes 50 ns


class Naru:
    """`naru.load` of a bundle, one thread. Every call makes a fresh output."""

    def load(self, model: str) -> None:
        import naru

        self.model = naru.load(model, threads=1)

    def calls(self, feeds: Feeds) -> Calls:
        (name,) = (i.name for i in self.model.inputs)
        return {"call": (self.model, [f[name] for f in feeds])}

    def outputs(self, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        result = self.model(feed)
        return list(result) if len(self.model.outputs) > 1 else [result]


class OnnxRuntime:
    """The CPU provider with all optimisations, one thread; `io_binding` has its input and output
    bound once, so that it neither looks anything up nor allocates."""

    def load(self, model: str) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.names = [o.name for o in self.session.get_outputs()]

    def calls(self, feeds: Feeds) -> Calls:
        run, names = self.session.run, self.names
        bound = self.session.run_with_iobinding
        return {
            "run": (partial(run, names), list(feeds)),
            "io_binding": (bound, [self.bind(f) for f in feeds]),
        }

    def bind(self, feed: dict[str, np.ndarray]) -> Any:
        import onnxruntime as ort

        binding = self.session.io_binding()
        for name, array in feed.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in zip(self.names, self.outputs(feed), strict=True):
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
        return binding

    def outputs(self, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [np.asarray(a) for a in self.session.run(self.names, feed)]


class Reference:
    """Every op's meaning in numpy, in double precision: what both are compared with. Not timed."""

    def load(self, model: str) -> None:
        from naru.frontend.onnx import read_onnx

        self.graph = read_onnx(model)

    def calls(self, _: Feeds) -> Calls:
        return {}

    def outputs(self, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        from naru.ops.evaluate import evaluate

        inputs = [feed[str(n.attr("name"))] for n in self.graph.inputs]
        return evaluate(self.graph, inputs, float64=True)


ENGINES: dict[str, type[Naru | OnnxRuntime | Reference]] = {
    "naru": Naru,
    "onnxruntime": OnnxRuntime,
    "reference": Reference,
}


def time_calls(call: Callable[[Any], Any], arguments: list[Any], seconds: float) -> dict[str, Any]:
    """Median and tenth percentile of a call, from at least five blocks of calls; `share` is how
    much of the core the process had meanwhile."""
    call(arguments[0])
    start = time.perf_counter()
    call(arguments[0])
    once = max(time.perf_counter() - start, 1e-7)
    size = max(1, round(BLOCK / once))
    blocks = max(5, min(100_000, round(seconds / (size * once))))
    turn = cycle(arguments)
    taken = np.empty(blocks)
    gc.collect()
    gc.disable()
    wall, used = time.perf_counter(), time.process_time()
    try:
        for k in range(blocks):
            chosen = list(islice(turn, size))
            start = time.perf_counter()
            for x in chosen:
                call(x)
            taken[k] = time.perf_counter() - start
    finally:
        gc.enable()
    share = (time.process_time() - used) / (time.perf_counter() - wall)
    taken /= size
    return {
        "median": float(np.median(taken)),
        "p10": float(np.quantile(taken, 0.1)),
        "calls": blocks * size,
        "share": share,
    }


def memory() -> dict[str, int]:
    """Resident bytes of this process: now, of these private (not the mapped file), and at most."""
    wanted = {"VmRSS": "now", "RssAnon": "private", "VmHWM": "peak"}
    found: dict[str, int] = {}
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(":")
        if key in wanted:
            found[wanted[key]] = int(value.split()[0]) * 1024
    return found


def read_feeds(path: str) -> Feeds:
    with np.load(path) as data:
        count = 1 + max(int(key.partition("/")[0]) for key in data)
        feeds: Feeds = [{} for _ in range(count)]
        for key in data:
            number, _, name = key.partition("/")
            feeds[int(number)][name] = data[key]
    return feeds


def write_feeds(path: Path, feeds: Feeds) -> None:
    np.savez(path, **{f"{k}/{n}": a for k, feed in enumerate(feeds) for n, a in feed.items()})


def serve(name: str) -> None:
    """Answers requests until stdin ends. What libraries print on stdout goes to stderr instead."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    engine = ENGINES[name]()
    feeds: Feeds = []
    calls: Calls = {}
    for line in sys.stdin:
        request = json.loads(line)
        reply: dict[str, Any] = {}
        if request["do"] == "load":
            if "core" in request:
                os.sched_setaffinity(0, {request["core"]})
            start = time.perf_counter()
            engine.load(request["model"])
            reply["seconds"] = time.perf_counter() - start
            feeds = read_feeds(request["feeds"])
        elif request["do"] == "time":
            calls = calls or engine.calls(feeds)
            call, arguments = calls[request["call"]]
            reply = time_calls(call, arguments, request["seconds"])
        elif request["do"] == "run":
            outputs = engine.outputs(feeds[0])
            np.savez(request["output"], *outputs)
            reply["memory"] = memory()
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
