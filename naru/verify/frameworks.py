"""The framework that a model comes from, as what the compiled model is compared with."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from naru.errors import NaruError
from naru.frontend.boosting import is_booster
from naru.frontend.reading import Reading, tell_nobody
from naru.frontend.source import kind_of, open_file
from naru.frontend.torch_library import library, to_numpy, to_tensor
from naru.frontend.torch_program import is_torch, leaves_of
from naru.frontend.torch_script import as_traceable
from naru.inputs import Array
from naru.verify.sides import Side

# Outputs of scikit-learn's estimators, and what gives them.
METHODS = {
    "label": "predict",
    "prediction": "predict",
    "probabilities": "predict_proba",
    "scores": "decision_function",
    "features": "transform",
}


def framework_side(path: Path, reading: Reading, outputs: tuple[str, ...]) -> Side:
    """What the framework itself computes for a model's file. Raises NaruError where it is not
    installed, and what opening the file raises."""
    kind = kind_of(path)
    if kind == "LightGBM":
        value = _library("lightgbm", "boosting").Booster(model_file=str(path))
    elif kind == "XGBoost":
        value = _library("xgboost", "boosting").Booster(model_file=str(path))
    else:
        value = open_file(path, kind, replace(reading, tell=tell_nobody))
    if is_booster(value):
        return lambda inputs: {outputs[0]: _boosted(value, inputs["features"])}
    if is_torch(value):
        return lambda inputs: _run_torch(value, inputs, outputs)
    return lambda inputs: _run_estimator(value, inputs, outputs)


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise NaruError(
            f"{name} cannot be imported ({e})",
            hint=f"pip install 'naru[{extra}]', or --against reference",
        ) from None


def _boosted(booster: Any, features: Array) -> Array:
    inplace = getattr(booster, "inplace_predict", None)
    return np.asarray(booster.predict(features) if inplace is None else inplace(features))


def _run_torch(
    model: Any, inputs: Mapping[str, Array], outputs: tuple[str, ...]
) -> dict[str, Array]:
    torch, tree = library(), library("torch.utils._pytree")
    tensors = {k: to_tensor(np.asarray(a)) for k, a in inputs.items()}
    with torch.no_grad():
        if hasattr(model, "graph_module"):
            leaves = [v if path is None else tensors[path] for path, v in leaves_of(model)]
            args, named = tree.tree_unflatten(leaves, model.call_spec.in_spec)
            made = model.module()(*args, **named)
        else:
            made = _call_module(model, tensors)
        found = [x for x in tree.tree_leaves(made) if isinstance(x, torch.Tensor)]
    return {k: to_numpy(x) for k, x in zip(outputs, found, strict=True)}


def _call_module(module: Any, tensors: Mapping[str, Any]) -> Any:
    """What a module makes of tensors, by the names of forward()'s arguments or else in order
    (of `*args`)."""
    if isinstance(module, library().jit.ScriptModule):
        module = as_traceable(module)
    parameters = inspect.signature(module.forward).parameters
    if all(name in parameters for name in tensors):
        return module(**tensors)
    return module(*tensors.values())


def _run_estimator(
    estimator: Any, inputs: Mapping[str, Array], outputs: tuple[str, ...]
) -> dict[str, Array]:
    if list(inputs) == ["features"]:
        rows: Any = inputs["features"]
    else:
        rows = _library("pandas", "scikit-learn").DataFrame(dict(inputs))
    found: dict[str, Array] = {}
    for name in outputs:
        method = METHODS[name]
        if name == "scores" and not hasattr(estimator, method):
            method = "score_samples"
        found[name] = np.asarray(getattr(estimator, method)(rows))
    return found
