"""Reads an ONNX model as a Graph.

    g = read_onnx("model.onnx")

Opsets 6 to the newest that the installed onnx package knows, and of older ones the operators that
opset 6 has unchanged. Versions differ inside the function
of each operator (onnx_*.py). The file may come from anywhere: whatever is wrong with it is a
ModelError that says where and what to do; whatever naru lacks is in one UnsupportedError that lists
all of it.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import FunctionProto, GraphProto, ModelProto, TypeProto, ValueInfoProto, defs, helper

import naru.ops  # fills the registry
from naru.dtypes import FROM_ONNX
from naru.errors import ModelError, UnsupportedError
from naru.frontend.classes import add_scores, check_names
from naru.frontend.images import ImageInput, Plan, plan_images
from naru.frontend.onnx_check import check_text
from naru.frontend.onnx_data import MAX_RANK, Tensors, dtype_label, dtype_of
from naru.frontend.onnx_import import FunctionKey, Importer, count_nodes
from naru.frontend.onnx_node import Unsupported, type_text
from naru.frontend.onnx_scope import Items, Missing, Scope, Value, identifier
from naru.ir.expr import INT_MAX, Const, Expr
from naru.ir.graph import SEED, Graph, Node, TensorType, make_input
from naru.ir.simplify import known
from naru.processing import NOTHING, UNFIT, Processing, raise_all

_TENSORFLOW = "naru does not read it; the package tf2onnx converts this to ONNX"
_AGAIN = (
    "it does not begin as {} does: it is empty, cut short, or of another kind; save it again by {}"
)
_TORCH = _AGAIN.format("a file of PyTorch", "torch.export.save(program, path), or torch.save")
_PICKLE = _AGAIN.format("a pickle", "joblib.dump or pickle.dump")
_BOOSTER = _AGAIN.format("a file of LightGBM or XGBoost", "booster.save_model(path)")
# What people have instead of an .onnx file, by its name, once it has turned out to be none that
# naru reads.
_KINDS = {
    **dict.fromkeys((".pt", ".pth", ".pt2", ".bin", ".safetensors"), _TORCH),
    **dict.fromkeys((".h5", ".keras", ".pb", ".tflite"), _TENSORFLOW),
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), _PICKLE),
    **dict.fromkeys((".txt", ".json", ".ubj"), _BOOSTER),
}
_ = naru.ops


def read_onnx(
    source: str | os.PathLike[str] | bytes | ModelProto,
    *,
    name: str | None = None,
    folder: Path | None = None,
    processing: Processing = NOTHING,
) -> Graph:
    """The graph of an ONNX model given as a path, its bytes, or a ModelProto (`folder`: where the
    side files of the last two lie), with the steps of `processing` before and after it.

    Inputs and outputs keep their names; `notes` maps nodes to the ONNX nodes (and weights) that
    they come from. Dims called alike share one symbol; a dim without a name gets its own symbol.
    Weights in side files are memory-mapped.
    Raises ModelError, UnsupportedError, or InputError where the processing does not fit. Warns
    (NaruWarning) of NaN and infinities among weights.
    """
    model, own_folder, where = load_model(source)
    try:
        importer = Importer(Tensors(own_folder or folder), functions_of(model))
        return read_into(importer, model, name, processing)
    except ModelError as error:
        raise in_file(error, where) from None
    except UnsupportedError as error:
        raise UnsupportedError(error.problems, where=where) from None


def in_file(error: ModelError, where: str) -> ModelError:
    place = f"{where}: {error.where}" if error.where else where
    return ModelError(error.message, where=place, hint=error.hint)


def load_model(
    source: str | os.PathLike[str] | bytes | ModelProto,
) -> tuple[ModelProto, Path | None, str]:
    """(model, its folder, how to call it in messages)."""
    if isinstance(source, ModelProto):
        return source, None, "model"
    if isinstance(source, bytes | bytearray | memoryview):
        return _parse(bytes(source), "model"), None, "model"
    path = Path(source)
    if path.is_dir() or path.is_char_device() or path.is_block_device():
        raise ModelError("expected a file, found a directory or a device", where=str(path))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
    return _parse(data, str(path)), path.parent, path.name


def _parse(data: bytes, where: str) -> ModelProto:
    hint = _KINDS.get(Path(where).suffix, "give the .onnx file itself; download or export it again")
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise ModelError(
            f"expected an ONNX model, found {len(data)} bytes that are none, or are cut short",
            where=where,
            hint=hint,
        ) from None
    if not model.HasField("graph"):
        found = f"{len(data)} bytes without a graph" if data else "an empty file"
        raise ModelError(f"expected an ONNX model, found {found}", where=where, hint=hint)
    return model


def read_into(
    importer: Importer, model: ModelProto, name: str | None, processing: Processing = NOTHING
) -> Graph:
    """The graph that an importer makes of a model."""
    check_text(model)
    g = model.graph
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"expected ir_version {onnx.IR_VERSION} or earlier, which the installed onnx "
            f"{onnx.__version__} knows, found {model.ir_version}",
            hint="install a newer onnx package",
        )
    scope = Scope(opsets_of(model))
    count_nodes(g, importer.functions)
    importer.add_initializers(g, scope)
    plans, importer.fixed = _fit(g, processing)
    inputs = [
        n
        for i in g.input
        if isinstance(n := _add_input(i, scope, importer, plans.get(i.name)), Node)
    ]
    importer.add_nodes(g.node, scope)
    outputs = importer.read_outputs(g, scope)
    names = [o.name for o in g.output]
    if not names:
        raise ModelError("expected at least one output, found none")
    if len(set(names)) != len(names):
        raise ModelError(f"expected different names of the outputs, found {names}")
    for output, value in zip(names, outputs, strict=True):
        if isinstance(value, Items):
            importer.report(f"output {output!r}", "is a sequence", None)
    if importer.problems:
        raise UnsupportedError(importer.problems)
    nodes = [n for n in outputs if isinstance(n, Node)]
    for o, n in zip(g.output, nodes, strict=True):
        _check_output(o, n)
    for info in g.value_info:
        _check_value(info, scope.values.get(info.name))
    names, nodes, steps = add_scores(names, nodes, processing.scores)
    importer.note_steps("postprocess", steps)
    graph_name = identifier(name if name is not None else g.name, "model")
    if importer.seed is not None:
        inputs.append(importer.seed)
    made = importer.graph(graph_name, inputs, nodes, names)
    files = tuple(sorted(importer.tensors.files))
    return replace(made, operators=importer.operators, files=files)


def _fit(g: GraphProto, processing: Processing) -> tuple[dict[str, Plan], dict[str, int]]:
    """Plans for images by input, and the sizes that they give to symbols."""
    problems: list[str] = []
    plans, fixed = plan_images(g, processing.images, problems)
    check_names([o.name for o in g.output], processing.scores, problems)
    raise_all(UNFIT, problems)
    return plans, fixed


def opsets_of(model: ModelProto) -> dict[str, int]:
    opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}
    version = opsets.get("")
    newest = defs.onnx_opset_version()
    if version is not None and version > newest:
        raise ModelError(
            f"expected opset {newest} or earlier, which the installed onnx {onnx.__version__} "
            f"knows, found opset {version}",
            hint="install a newer onnx package",
        )
    if version is not None and version < 1:
        raise ModelError(f"expected an opset of at least 1, found {version}")
    newest_ml = max(int(row[3]) for row in helper.VERSION_TABLE)
    if not 1 <= opsets.get("ai.onnx.ml", 1) <= newest_ml:
        raise ModelError(
            f"expected opset 1..{newest_ml} of ai.onnx.ml, which the installed onnx "
            f"{onnx.__version__} knows, found opset {opsets['ai.onnx.ml']}",
            hint="install a newer onnx package",
        )
    return opsets


def functions_of(model: ModelProto) -> dict[FunctionKey, FunctionProto]:
    """The functions that a model brings along."""
    found: dict[FunctionKey, FunctionProto] = {}
    for f in model.functions:
        key = ("" if f.domain == "ai.onnx" else f.domain, f.name, f.overload)
        if key in found:
            raise ModelError(
                "this function is defined twice", where=f"function {f.domain}.{f.name}"
            )
        found[key] = f
    return found


def _add_input(info: ValueInfoProto, scope: Scope, importer: Importer, plan: Plan | None) -> Value:
    """Defines a graph input, of pixels where there is a plan for them. Before IR version 4
    initializers were listed as inputs: they stay constants."""
    what = f"input {info.name!r}"
    if info.name == SEED:
        raise ModelError(
            f"the name {SEED} is that of the seed of random numbers", where=what, hint="rename it"
        )
    if info.name in scope.values:
        found = scope.values[info.name]
        if isinstance(found, Node) and found.op == "input":
            raise ModelError("this name is defined twice", where=what, hint="rename one of the two")
        return Missing()
    try:
        wanted = _input_type(info, importer, what)
    except Unsupported as error:
        scope.values[info.name] = importer.report(what, error.reason, error.hint)
        return scope.values[info.name]
    if plan is None:
        given = scope.values[info.name] = make_input(info.name, wanted)
        return given
    image = ImageInput(info.name, plan, wanted, importer.symbols.fresh)
    importer.note_steps("preprocess", image.steps)
    scope.values[info.name] = image.value
    return image.given


def _input_type(info: ValueInfoProto, importer: Importer, what: str) -> TensorType:
    """The declared type; symbols for the dims that are not numbers."""
    kind = info.type.WhichOneof("value")
    if kind is None:
        raise ModelError("expected a type, found none", where=what)
    if kind != "tensor_type":
        raise Unsupported(f"is a {kind.removesuffix('_type')}", "pass tensors only")
    tensor = info.type.tensor_type
    dtype = dtype_of(tensor.elem_type, what)
    if not tensor.HasField("shape"):
        raise Unsupported("has no declared rank", "declare its dims; sizes may stay symbolic")
    if len(tensor.shape.dim) > MAX_RANK:
        raise Unsupported(f"has {len(tensor.shape.dim)} dims", f"use at most {MAX_RANK}")
    return TensorType(
        dtype, tuple(_dim(tensor, k, info.name, importer) for k in range(len(tensor.shape.dim)))
    )


def _dim(tensor: TypeProto.Tensor, k: int, name: str, importer: Importer) -> Expr:
    dim = tensor.shape.dim[k]
    if dim.HasField("dim_value"):
        if not 0 <= dim.dim_value <= INT_MAX:
            kind = "negative" if dim.dim_value < 0 else "too large"
            raise ModelError(
                f"dim {k} is {kind}: expected 0..{INT_MAX} or a name, found {dim.dim_value}",
                where=f"input {name!r}",
                hint="give a dim of unknown size a name (dim_param)",
            )
        return Const(dim.dim_value)
    if dim.HasField("dim_param") and dim.dim_param in importer.fixed:
        return Const(importer.fixed[dim.dim_param])
    if dim.HasField("dim_param") and dim.dim_param:
        return importer.symbols.named(dim.dim_param)
    return importer.symbols.fresh(f"{name}_{k}")


def _check_value(info: ValueInfoProto, n: Value | None) -> None:
    """The declared element type of a value on the way, where there is one, is the one that was
    found. (Sizes that editors of models left behind are wrong in many files, and are not read.)"""
    declared = info.type.tensor_type.elem_type if info.type.HasField("tensor_type") else 0
    if declared and isinstance(n, Node) and FROM_ONNX.get(declared) != n.type.dtype:
        raise ModelError(
            f"it is declared as {dtype_label(declared)}, found {type_text(n)}",
            where=f"value {info.name!r}",
        )


def _check_output(info: ValueInfoProto, n: Node) -> None:
    """The declared type of an output, where there is one, is the one that was found."""
    where = f"output {info.name!r}"
    if info.type.WhichOneof("value") != "tensor_type":
        return
    tensor = info.type.tensor_type
    if tensor.elem_type and FROM_ONNX.get(tensor.elem_type) != n.type.dtype:
        raise ModelError(
            f"it is declared as {dtype_label(tensor.elem_type)}, found {type_text(n)}", where=where
        )
    if not tensor.HasField("shape"):
        return
    dims = tensor.shape.dim
    if len(dims) != n.type.rank:
        raise ModelError(f"it is declared with {len(dims)} dims, found {type_text(n)}", where=where)
    for k, (declared, found) in enumerate(zip(dims, n.type.shape, strict=True)):
        size = known(found)
        if declared.HasField("dim_value") and size is not None and size != declared.dim_value:
            raise ModelError(
                f"its shape differs: axis {k} is declared as {declared.dim_value}, "
                f"found {type_text(n)}",
                where=where,
                hint="the batch size may have been fixed in one place only; export it again",
            )
