"""The report that naru writes when it meets a bug of its own: what a person needs who looks for it.

It holds no weights and no input values: the traceback, versions, the machine's features, options,
and the graph of each model among the arguments, with large constants emptied.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from naru import knobs
from naru.version import VERSION

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

PACKAGES = ("click", "llvmlite", "ml_dtypes", "numpy", "onnx", "onnxruntime", "protobuf", "rich")
MOST_KEPT = 16  # elements of a constant: axes and shapes stay, weights don't


def write_crash_report(error: BaseException, args: Sequence[str]) -> Path | None:
    """Writes naru-crash-*.zip into the current folder, or else that for temporary files; None if
    neither takes it. Whatever cannot be found out is left out."""
    parts = {
        "traceback.txt": "".join(traceback.format_exception(error)),
        "about.json": json.dumps(_about(args), indent=2),
    }
    for text in args:
        with suppress(Exception):  # a model that cannot be read must not hide the bug
            path = Path(text.partition("=")[2] or text)
            if path.is_file() and path.suffix in (".onnx", ".naru"):
                parts[f"{path.name}.txt"] = _without_weights(path)
    name = time.strftime(f"naru-crash-%Y%m%d-%H%M%S-{time.time_ns() % 10**6:06}.zip")
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        with suppress(OSError), zipfile.ZipFile(folder / name, "x", zipfile.ZIP_DEFLATED) as made:
            for entry, content in parts.items():
                made.writestr(entry, content)
            return folder / name
    return None


def _about(args: Sequence[str]) -> dict[str, object]:
    found: dict[str, object] = {
        "naru": VERSION,
        "arguments": list(args),
        "python": sys.version,
        "platform": platform.platform(),
        "machine": platform.machine(),
    }
    versions: dict[str, str] = {}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    with suppress(Exception):
        found["knobs"] = {name: value for name, value, _ in knobs.describe()}
    return {**found, "packages": versions}


def _without_weights(path: Path) -> str:
    """The graph of a model file in protobuf's text form, or the manifest of a bundle."""
    if path.suffix == ".naru":
        from naru.artifact.bundle import read_bundle

        return json.dumps(read_bundle(path).manifest, indent=2)
    from onnx import ModelProto

    model = ModelProto.FromString(path.read_bytes())
    strip_weights(model)
    return str(model)


def strip_weights(model: ModelProto) -> None:
    """Empties every constant of more than MOST_KEPT elements, and what people wrote about the
    model, in place."""
    del model.metadata_props[:]
    model.doc_string = ""
    graphs = [model.graph]
    nodes = [n for f in model.functions for n in f.node]
    while graphs or nodes:
        while graphs:
            g = graphs.pop()
            _empty(g.initializer)
            _empty(s.values for s in g.sparse_initializer)
            nodes.extend(g.node)
        if nodes:
            graphs.extend(_strip_attributes(nodes.pop()))


def _strip_attributes(node: NodeProto) -> Iterable[GraphProto]:
    """Empties a node's tensors; gives its bodies."""
    node.doc_string = ""
    for a in node.attribute:
        _strip_attribute(a)
        if a.HasField("g"):
            yield a.g
        yield from a.graphs


def _strip_attribute(a: AttributeProto) -> None:
    _empty([a.t] if a.HasField("t") else a.tensors)
    for values in (a.floats, a.ints, a.strings):
        if len(values) > MOST_KEPT:
            del values[MOST_KEPT:]


def _empty(tensors: Iterable[TensorProto]) -> None:
    for t in tensors:
        count = 1
        for d in t.dims:
            count *= d
        if count <= MOST_KEPT and len(t.raw_data) <= 16 * MOST_KEPT:
            continue
        for field in (
            "raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data",
            "string_data",
        ):  # fmt: skip
            t.ClearField(field)
