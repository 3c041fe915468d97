"""torch, as it is (eager) and compiled by Inductor. Both take a module, not an ONNX file."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from naru.bench.engines import Files, Way
from naru.bench.feeds import Array, Feed
from naru.errors import InputError


class Eager:
    """The module in inference mode. Tensors share the memory of numpy's arrays, made once; they are
    passed in the order of the ONNX file's inputs."""

    def __init__(self, threads: int) -> None:
        self._torch: Any = importlib.import_module("torch")
        self._torch.set_num_threads(threads)
        self._torch.set_num_interop_threads(1)
        self._mode: Any = None
        self.version: str = self._torch.__version__
        self.settings: dict[str, Any] = {
            "num_threads": threads,
            "num_interop_threads": 1,
            "inference_mode": True,
        }

    def load(self, files: Files, feed: Feed) -> None:
        self._module, example = make_module(files.factory)
        if self._mode is None:  # for the rest of the process, and as long as this object lives
            self._mode = self._torch.inference_mode()
            self._mode.__enter__()
        if len(feed) != len(example):
            raise InputError(
                f"the torch module takes {len(example)} inputs, the ONNX file has {len(feed)}"
            )

    def ways(self, feeds: Sequence[Feed]) -> dict[str, Way]:
        module = self._module

        def call(tensors: tuple[Any, ...]) -> Any:
            return module(*tensors)

        return {"call": Way(call, [self._tensors(f) for f in feeds])}

    def outputs(self, feed: Feed) -> list[Array]:
        return [t.numpy() for t in flatten(self._module(*self._tensors(feed)))]

    def _tensors(self, feed: Feed) -> tuple[Any, ...]:
        return tuple(map(self._torch.from_numpy, feed.values()))


class Inductor(Eager):
    """`torch.compile` with weights frozen and kernels chosen by measuring. A call through C++ is
    tried first; where that fails, Python's way is taken, and `settings` says so."""

    def load(self, files: Files, feed: Feed) -> None:
        super().load(files, feed)
        module, tensors = self._module, self._tensors(feed)
        for cpp_wrapper in (True, False):
            options = {"freezing": True, "max_autotune": True, "cpp_wrapper": cpp_wrapper}
            self.settings |= options
            self._module = self._torch.compile(module, dynamic=False, options=options)
            try:
                self._module(*tensors)
                return
            except Exception:
                if not cpp_wrapper:
                    raise
                self._torch.compiler.reset()


def make_module(factory: str) -> tuple[Any, tuple[Any, ...]]:
    """What `module:function` returns: a torch module (in evaluation mode) and example inputs.
    InputError when it is not of that form."""
    name, _, function = factory.partition(":")
    if not function:
        found = repr(factory) if factory else "none"
        raise InputError(f"expected module:function for the torch module, found {found}")
    make: Callable[[], tuple[Any, Any]] = getattr(importlib.import_module(name), function)
    module, example = make()
    return module.eval(), tuple(example)


def flatten(result: Any) -> list[Any]:
    """The tensors of a module's result: one, or in tuples, lists and dicts."""
    if isinstance(result, Mapping):
        return flatten(list(cast(Mapping[Any, Any], result).values()))
    if isinstance(result, list | tuple):
        return [tensor for item in cast(Iterable[Any], result) for tensor in flatten(item)]
    return [result]
