"""Which front end reads a model: told by how its file begins, never by its name; or by the classes
of an object. No framework is loaded to tell."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, cast

from naru.errors import InputError, ModelError, UnsupportedError
from naru.frontend import pickles, torch_files
from naru.frontend.boosting import is_booster, read_booster
from naru.frontend.classes import add_scores, check_names
from naru.frontend.forest import Forest, forest_graph
from naru.frontend.lightgbm import is_lightgbm, read_lightgbm
from naru.frontend.onnx import in_file, read_onnx
from naru.frontend.onnx_plan import HostPlan
from naru.frontend.reading import Reading
from naru.frontend.sklearn import is_estimator, read_sklearn
from naru.frontend.torch_checkpoints import load_checkpoint, refuse_objects
from naru.frontend.torch_program import is_torch, read_torch
from naru.frontend.xgboost import is_xgboost, read_xgboost
from naru.ir.graph import Graph
from naru.ir.text import graph_constants, print_graph
from naru.processing import NOTHING, UNFIT, Processing, raise_all

File: TypeAlias = "str | os.PathLike[str] | bytes"
Source: TypeAlias = "File | Graph | HostPlan"

HEAD = 4096  # bytes that tell
ONNX, PICKLE, SKOPS = "ONNX", "pickle", "skops"
_BOOSTING: dict[str, tuple[Callable[[bytes], bool], Callable[[bytes], Forest]]] = {
    "LightGBM": (is_lightgbm, read_lightgbm),
    "XGBoost": (is_xgboost, read_xgboost),
}


def kind_of(source: File) -> str:
    """LightGBM, XGBoost, pt2, TorchScript, checkpoint, safetensors, skops, pickle, or ONNX: what is
    none of them, its front end refuses."""
    if isinstance(source, bytes):
        head = source[:HEAD]
    else:
        try:
            with Path(source).open("rb") as file:
                head = file.read(HEAD)
        except OSError:
            return ONNX
    for kind, (is_one, _) in _BOOSTING.items():
        if is_one(head):
            return kind
    if head.startswith(torch_files.ZIP) and pickles.is_skops(source):
        return SKOPS
    return torch_files.torch_kind(head, source) or (PICKLE if pickles.is_pickle(head) else ONNX)


# --- what frameworks must open --------------------------------------------------------------------


def open_source(source: object, reading: Reading, name: str | None = None) -> Source:
    """A model that naru's own readers read, as it is; an object, or a file that its framework must
    open, as a graph, or as the plan of what runs partly on the host. Raises InputError for what is
    none, and what its front end raises."""
    if isinstance(source, str | os.PathLike | bytes):
        file = cast("File", source)
        if name is None and not isinstance(file, bytes):
            name = Path(file).stem
        kind = kind_of(file)
        if kind in (ONNX, *_BOOSTING):
            reading.check(kind)
            return file
        if kind == torch_files.PT2:
            reading.check("a .pt2 file")
        source = open_file(file, kind, reading)
        reading = replace(reading, module=None, arguments=None, trust_pickle=False)
    if isinstance(source, Graph | HostPlan):
        return source
    return _read_object(source, reading, name)


def _read_object(value: object, reading: Reading, name: str | None) -> Graph | HostPlan:
    if is_torch(value):
        reading.check("PyTorch", "example", "dynamic_shapes")
        example, named = reading.arguments_of_example
        shapes = reading.dynamic_shapes
        return read_torch(value, example, kwargs=named, dynamic_shapes=shapes, name=name)
    if is_booster(value):
        reading.check("LightGBM or XGBoost")
        return read_booster(value, name=name)
    if is_estimator(value):
        reading.check("scikit-learn", "example")
        return read_sklearn(value, name=name, example=reading.example)
    raise InputError(
        f"expected a model, or the path or the bytes of one, got {type(value).__name__}",
        hint="a file of ONNX, LightGBM, XGBoost or PyTorch; an nn.Module, a fitted estimator of "
        "scikit-learn, a Booster",
    )


def open_file(source: File, kind: str, reading: Reading) -> Any:
    """The object that a file holds, made by its framework; `kind` is what `kind_of` says. Raises
    InputError, ModelError, UnsupportedError."""
    where = "model" if isinstance(source, bytes) else Path(source).name
    if kind == torch_files.PT2:
        reading.tell("a program of torch.export, with its inputs and shapes")
        return torch_files.load_program(source, where)
    if kind == torch_files.TORCHSCRIPT:
        reading.check("TorchScript", "example", "dynamic_shapes")
        reading.tell("a TorchScript file")
        return torch_files.load_script(source, where)
    if kind in (torch_files.CHECKPOINT, torch_files.SAFETENSORS):
        return _open_checkpoint(source, kind, reading, where)
    if kind == SKOPS:
        raise UnsupportedError(
            ["a file of skops; try: skops.io.load(file, trusted=[…]), and compile the object"],
            where=where,
        )
    reading.check("a pickle", "example", "dynamic_shapes", "trust_pickle")
    value = pickles.load_pickle(source, trusted=reading.trust_pickle)
    reading.tell(f"a pickle of {type(value).__module__}.{type(value).__qualname__}")
    return value


def _open_checkpoint(source: File, kind: str, reading: Reading, where: str) -> Any:
    """The named module with the weights of a file."""
    reading.check(f"a {kind}", "example", "dynamic_shapes", "module", "arguments", "trust_pickle")
    if kind == torch_files.CHECKPOINT and not isinstance(source, bytes):
        refuse_objects(Path(source), reading.trust_pickle)
    if reading.module is None or isinstance(source, bytes):
        raise InputError(
            f"{where}: a {kind} has weights and no program",
            hint='its path, and module="package.module:Class", whose weights they are',
        )
    trust = reading.trust_pickle
    made = load_checkpoint(source, reading.module, arguments=reading.arguments, trust=trust)
    for step in made.steps:
        reading.tell(step)
    if made.left_out:
        reading.tell(f"left out: {', '.join(made.left_out)}")
    return made.module


def digest_of(made: Graph | HostPlan) -> str:
    """SHA-256 of all that a graph or a plan says, constants included."""
    digest = hashlib.sha256()
    if isinstance(made, Graph):
        digest.update(print_graph(made).encode())
        digest.update(repr((sorted(graph_constants(made)), made.columns, made.widens)).encode())
        return digest.hexdigest()
    said = (made.name, made.inputs, made.outputs, made.body, made.texts, made.columns)
    digest.update(repr(said).encode())
    for part in made.parts:
        digest.update(digest_of(part).encode())
    for constant in made.constants:
        digest.update(f"{constant.dtype}{constant.shape}".encode())
        digest.update(constant.tobytes())
    return digest.hexdigest()


# --- what naru reads itself -----------------------------------------------------------------------


def read_model(source: File, *, name: str | None = None, processing: Processing = NOTHING) -> Graph:
    """The graph of a model in a file, or in its bytes. Raises ModelError, UnsupportedError, or
    InputError where the processing does not fit."""
    kind = kind_of(source)
    if kind not in _BOOSTING:
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
    return processed(graph, processing)


def processed(graph: Graph, processing: Processing) -> Graph:
    """A graph with what is declared to be done after it. Raises InputError."""
    if not processing:
        return graph
    problems = [f"there is no image among the inputs: {i.input}" for i in processing.images]
    check_names(graph.output_names, processing.scores, problems)
    raise_all(UNFIT, problems)
    names, nodes, steps = add_scores(graph.output_names, graph.outputs, processing.scores)
    notes = {**graph.notes, **{n: f"postprocess.{step}" for n, step in steps.items()}}
    operators = {**graph.operators, **{f"postprocess.{s}": s for s in steps.values()}}
    return replace(
        graph, outputs=tuple(nodes), output_names=tuple(names), notes=notes, operators=operators
    )
