"""OpenVINO's CPU plugin."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from naru.bench.engines import Files, Way
from naru.bench.feeds import Array, Feed


class OpenVino:
    """One stream for the least latency, in f32: on CPUs that have bfloat16 the default is that.
    Inputs are read and outputs given where they lie, without a copy."""

    def __init__(self, threads: int) -> None:
        self._library: Any = importlib.import_module("openvino")
        self.version: str = self._library.__version__.partition("-")[0]
        self.settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            "share_inputs": True,
            "share_outputs": True,
        }

    def load(self, files: Files, feed: Feed) -> None:
        properties = {k: v for k, v in self.settings.items() if k.isupper()}
        compiled = self._library.Core().compile_model(files.model, "CPU", properties)
        self._outputs: list[Any] = list(compiled.outputs)
        self._request: Any = compiled.create_infer_request()

    def ways(self, feeds: Sequence[Feed]) -> dict[str, Way]:
        infer = partial(self._request.infer, share_inputs=True, share_outputs=True)
        return {"infer": Way(infer, list(feeds))}

    def outputs(self, feed: Feed) -> list[Array]:
        result = self._request.infer(feed)
        return [np.array(result[output]) for output in self._outputs]


class OpenVinoDefault(OpenVino):
    """As OpenVINO comes: in bfloat16 on CPUs that multiply it."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        del self.settings["INFERENCE_PRECISION_HINT"]
