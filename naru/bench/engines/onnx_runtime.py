"""ONNX Runtime's CPU provider."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from naru.bench.engines import Files, Way
from naru.bench.feeds import Array, Feed


class OnnxRuntime:
    """All optimisations, and the pool spins between runs, as is its default. `io_binding` has its
    inputs and outputs bound once, so that it neither looks anything up nor allocates."""

    def __init__(self, threads: int) -> None:
        self._library: Any = importlib.import_module("onnxruntime")
        self.version: str = self._library.__version__
        self.settings: dict[str, Any] = {
            "provider": "CPUExecutionProvider",
            "graph_optimization_level": "ORT_ENABLE_ALL",
            "execution_mode": "ORT_SEQUENTIAL",
            "intra_op_num_threads": threads,
            "inter_op_num_threads": 1,
            "session.intra_op.allow_spinning": "1",
        }

    def load(self, files: Files, feed: Feed) -> None:
        library, wanted = self._library, self.settings
        options = library.SessionOptions()
        options.intra_op_num_threads = wanted["intra_op_num_threads"]
        options.inter_op_num_threads = wanted["inter_op_num_threads"]
        options.execution_mode = library.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = library.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.log_severity_level = 3
        self._session: Any = library.InferenceSession(
            files.model, options, providers=[wanted["provider"]]
        )
        self._names = [o.name for o in self._session.get_outputs()]

    def ways(self, feeds: Sequence[Feed]) -> dict[str, Way]:
        own = [self._own(f) for f in feeds]
        return {
            "run": Way(partial(self._session.run, self._names), own),
            "io_binding": Way(self._session.run_with_iobinding, [self._bind(f) for f in own]),
        }

    def _own(self, feed: Feed) -> Feed:
        """What the file has as inputs: the seed of random numbers is naru's alone."""
        names = {i.name for i in self._session.get_inputs()}
        return {name: array for name, array in feed.items() if name in names}

    def _bind(self, feed: Feed) -> Any:
        to_value = self._library.OrtValue.ortvalue_from_numpy
        binding = self._session.io_binding()
        for name, array in feed.items():
            binding.bind_ortvalue_input(name, to_value(array))
        for name, array in zip(self._names, self.outputs(feed), strict=True):
            binding.bind_ortvalue_output(name, to_value(array))
        return binding

    def outputs(self, feed: Feed) -> list[Array]:
        return [np.asarray(a) for a in self._session.run(self._names, self._own(feed))]
