"""What runs models. One file an engine, with an *adapter*: a class that drives it.

Adapters are made only in the engine's own process (`naru.bench.serve`), by name, so that no process
loads a library that it does not measure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from naru.bench.feeds import Array, Feed


class Way(NamedTuple):
    """A way to call an engine: a function, and the arguments that it is given in turn."""

    call: Callable[[Any], Any]
    arguments: list[Any]


@dataclass(frozen=True, slots=True)
class Files:
    """What a model is for an engine, each taking what it needs: the ONNX file; naru's bundle of it;
    `module:function` that gives (torch module, example inputs)."""

    model: str
    bundle: str = ""
    factory: str = ""


class Adapter(Protocol):
    """Drives an engine with its best settings. Made with the number of threads; that imports the
    library. Anything it raises makes the engine's reason not to run the model.

    `settings` is complete once a model is loaded.
    """

    version: str
    settings: dict[str, Any]

    def __init__(self, threads: int) -> None: ...

    def load(self, files: Files, feed: Feed) -> None:
        """Makes the model ready to be called with inputs such as `feed`; anew at a second time."""
        ...

    def ways(self, feeds: Sequence[Feed]) -> dict[str, Way]:
        """Every way of calling that is timed, with the feeds as its arguments."""
        ...

    def outputs(self, feed: Feed) -> list[Array]:
        """The outputs in the model's order."""
        ...


@dataclass(frozen=True, slots=True)
class Engine:
    """`adapter` is `module:Class`; `install` says what brings the engine."""

    name: str
    title: str
    adapter: str
    install: str = ""


_EXTRA = "pip install 'naru[{}]'"
NARU = Engine("naru", "naru", "naru.bench.engines.naru_runtime:NaruRuntime")
REFERENCE = Engine("reference", "float64", "naru.bench.engines.reference:Reference")
# What naru can be measured against.
ENGINES = {
    e.name: e
    for e in (
        Engine(
            "onnxruntime", "ONNX Runtime", "naru.bench.engines.onnx_runtime:OnnxRuntime",
            _EXTRA.format("bench"),
        ),
        Engine(
            "openvino", "OpenVINO", "naru.bench.engines.open_vino:OpenVino",
            _EXTRA.format("bench"),
        ),
        Engine(
            "openvino-default", "OpenVINO default",
            "naru.bench.engines.open_vino:OpenVinoDefault", _EXTRA.format("bench"),
        ),
        Engine("torch", "torch", "naru.bench.engines.pytorch:Eager", _EXTRA.format("torch")),
        Engine("inductor", "Inductor", "naru.bench.engines.pytorch:Inductor",
               _EXTRA.format("torch")),
    )
}  # fmt: skip
