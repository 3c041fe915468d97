"""Whom a model is compared with: ONNX Runtime, or the reference in float64."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from google.protobuf.message import EncodeError
from onnx import ModelProto

from naru.errors import InputError, NaruError
from naru.frontend.onnx import read_onnx
from naru.inputs import Array
from naru.ir.graph import SEED, Graph
from naru.ops.evaluate import evaluate

ONNXRUNTIME, REFERENCE = "onnxruntime", "reference"
# Inputs by name in, outputs by name out.
Side: TypeAlias = Callable[[Mapping[str, Array]], dict[str, Array]]
_SIDE_FILES = "session.model_external_initializers_file_folder_path"


def make_side(name: str, model: Path | ModelProto, folder: Path | None = None) -> Side:
    """The side of that name for a model (`folder`: where the side files of a ModelProto lie).

    Raises what reading the model raises; NaruError when ONNX Runtime is missing or refuses it.
    """
    return (_onnxruntime if name == ONNXRUNTIME else _reference)(model, folder)


def _reference(model: Path | ModelProto, folder: Path | None) -> Side:
    """The graph by the numpy meaning of its ops, floats in float64."""
    return graph_side(read_onnx(model, folder=folder))


def graph_side(graph: Graph) -> Side:
    """A graph by the numpy meaning of its ops, floats in float64."""

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        names = [str(n.attr("name")) for n in graph.inputs]
        # The seed of random numbers is no input of the file: a part of a model comes without it.
        given = [inputs[k] if k != SEED else inputs.get(k, np.zeros((), np.int64)) for k in names]
        outputs = evaluate(graph, given, float64=True)
        return dict(zip(graph.output_names, outputs, strict=True))

    return run


def _onnxruntime(model: Path | ModelProto, folder: Path | None) -> Side:
    """ONNX Runtime on the CPU."""
    try:
        onnxruntime: Any = importlib.import_module("onnxruntime")
    except ImportError as e:
        raise NaruError(
            f"ONNX Runtime cannot be imported ({e})",
            hint="pip install onnxruntime, or --against reference",
        ) from None
    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if folder is not None:
        options.add_session_config_entry(_SIDE_FILES, str(folder.resolve()))
    try:
        source = str(model) if isinstance(model, Path) else model.SerializeToString()
        session: Any = onnxruntime.InferenceSession(
            source, options, providers=["CPUExecutionProvider"]
        )
    except (EncodeError, ValueError) as e:
        raise NaruError(
            f"the model is too large to hand to ONNX Runtime: {e}", hint="--against reference"
        ) from None
    except Exception as e:
        raise _refused(e) from None
    names = [o.name for o in session.get_outputs()]

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        for array in inputs.values():
            if array.dtype.kind == "V" or array.dtype.name == "bfloat16":
                raise InputError(
                    "ONNX Runtime takes no bfloat16 arrays", hint="--against reference"
                )
        try:
            return dict(zip(names, session.run(None, dict(inputs)), strict=True))
        except Exception as e:
            raise _refused(e) from None

    return run


def _refused(error: Exception) -> NaruError:
    return NaruError(f"ONNX Runtime refuses the model: {error}", hint="--against reference")
