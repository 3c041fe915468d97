"""The torch modules of the catalog's models: `bench.modules:NAME` gives (module, example inputs).

A function of the catalog makes a module and exports it at once. Its call of `export` is caught
here, so that torch and Inductor run the very module, weights included, that the ONNX file is of.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from models.catalog import MODELS

Made = tuple[Any, tuple[Any, ...]]


def make(name: str) -> Made:
    """The module that the catalog's model `name` exports, and the inputs that are traced."""
    module = importlib.import_module(f"models.{MODELS[name].group}")
    caught: list[Made] = []

    def catch(network: Any, examples: dict[str, Any], *_: Any, **__: Any) -> None:
        caught.append((network, tuple(examples.values())))

    with mock.patch.object(module, "export", catch):
        getattr(module, name)(Path("never-written.onnx"))
    return caught[0]


def __getattr__(name: str) -> Callable[[], Made]:
    if name not in MODELS:
        raise AttributeError(f"module 'bench.modules' has no attribute {name!r}")
    return partial(make, name)
