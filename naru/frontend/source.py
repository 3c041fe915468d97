"""Which front end reads a model: told by how its file begins, never by its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from naru.errors import ModelError, UnsupportedError
from naru.frontend.classes import add_scores, check_names
from naru.frontend.forest import Forest, forest_graph
from naru.frontend.lightgbm import is_lightgbm, read_lightgbm
from naru.frontend.onnx import in_file, read_onnx
from naru.frontend.xgboost import is_xgboost, read_xgboost
from naru.ir.graph import Graph
from naru.processing import NOTHING, UNFIT, Processing, raise_all

HEAD = 4096  # bytes that tell
_BOOSTING: dict[str, tuple[Callable[[bytes], bool], Callable[[bytes], Forest]]] = {
    "LightGBM": (is_lightgbm, read_lightgbm),
    "XGBoost": (is_xgboost, read_xgboost),
}


def kind_of(source: str | os.PathLike[str] | bytes) -> str:
    """LightGBM, XGBoost, or ONNX: what is none of them, its front end refuses."""
    if isinstance(source, bytes):
        head = source[:HEAD]
    else:
        try:
            with Path(source).open("rb") as file:
                head = file.read(HEAD)
        except OSError:
            return "ONNX"
    return next((k for k, (is_one, _) in _BOOSTING.items() if is_one(head)), "ONNX")


def read_model(
    source: str | os.PathLike[str] | bytes,
    *,
    name: str | None = None,
    processing: Processing = NOTHING,
) -> Graph:
    """The graph of a model in a file, or in its bytes. Raises ModelError, UnsupportedError, or
    InputError where the processing does not fit."""
    kind = kind_of(source)
    if kind == "ONNX":
        return read_onnx(source, name=name, processing=processing)
    where = "model" if isinstance(source, bytes) else Path(source).name
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        graph = forest_graph(_BOOSTING[kind][1](data), name or Path(where).stem, kind)
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror or error}", where=where) from None
    except ModelError as error:
        raise in_file(error, where) from None
    except UnsupportedError as error:
        raise UnsupportedError(error.problems, where=where) from None
    return _processed(graph, processing)


def _processed(graph: Graph, processing: Processing) -> Graph:
    problems = [f"there is no image among the inputs: {i.input}" for i in processing.images]
    check_names(graph.output_names, processing.scores, problems)
    raise_all(UNFIT, problems)
    names, nodes, steps = add_scores(graph.output_names, graph.outputs, processing.scores)
    notes = {**graph.notes, **{n: f"postprocess.{step}" for n, step in steps.items()}}
    operators = {**graph.operators, **{f"postprocess.{s}": s for s in steps.values()}}
    return replace(
        graph, outputs=tuple(nodes), output_names=tuple(names), notes=notes, operators=operators
    )
