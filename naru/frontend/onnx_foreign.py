"""What of a model native code has no type for: whether there is such a thing, what of it stands in
functions, and which tensors hold texts (whose numbers native code moves: see onnx_data.Texts)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    checker,
    helper,
    inliner,
    shape_inference,
    version_converter,
)

from naru.errors import ModelError, UnsupportedError
from naru.frontend import onnx_check as check
from naru.frontend.onnx import functions_of
from naru.frontend.onnx_host import ALWAYS
from naru.frontend.onnx_import import count_nodes

# What onnx raises where it cannot inline a function, or convert one to another opset.
_INLINING = (checker.ValidationError, RuntimeError)
_CONVERTING = (version_converter.ConvertError, shape_inference.InferenceError)

# --- what needs the host --------------------------------------------------------------------------


def needs_host(model: ModelProto) -> bool:
    """Does anything in the model have a type that native code lacks?"""
    g = model.graph
    types = [v.type for v in (*g.input, *g.output)]
    if any(_foreign(t) for t in types):
        return True
    return _graph_foreign(g) or any(_nodes_foreign(f.node) for f in model.functions)


def _foreign(t: TypeProto) -> bool:
    kind = t.WhichOneof("value")
    if kind == "tensor_type":
        return t.tensor_type.elem_type == TensorProto.STRING
    return kind in ("sequence_type", "optional_type", "map_type")


def _graph_foreign(g: GraphProto) -> bool:
    strings = any(t.data_type == TensorProto.STRING for t in g.initializer)
    formal = any(_foreign(v.type) for v in g.input)
    return strings or formal or _nodes_foreign(g.node)


def _nodes_foreign(nodes: Iterable[NodeProto]) -> bool:
    return any(_node_foreign(n) for n in nodes)


def _node_foreign(n: NodeProto) -> bool:
    key = (check.domain_of(n), n.op_type)
    if key in ALWAYS or n.op_type == "SequenceMap":
        return True
    for a in n.attribute:
        if a.type == AttributeProto.TENSOR and a.t.data_type == TensorProto.STRING:
            return True
        if n.domain == "ai.onnx.ml" and a.name.endswith("_strings") and a.strings:
            return True
        if a.name in ("value_string", "value_strings", "pool_strings"):
            return True
        if n.op_type == "Cast" and a.name == "to" and a.i == TensorProto.STRING:
            return True
    return any(_graph_foreign(g) for g in check.bodies_of(n))


# --- functions ------------------------------------------------------------------------------------


def inlined(model: ModelProto) -> ModelProto:
    """Functions in which something needs the host are put in place of their calls.
    UnsupportedError names those that cannot be."""
    if not _called_foreign(model):
        return model
    try:
        made = inliner.inline_local_functions(model)
    except _INLINING as error:
        raise ModelError(f"its functions cannot be inlined: {error}") from None
    left = _called_foreign(made)
    if left:  # those of another opset than the model's
        try:
            made = inliner.inline_local_functions(made, convert_version=True)
        except (*_INLINING, *_CONVERTING):
            raise UnsupportedError([_other_opset(f, model) for f in left]) from None
    _import_domains(made, model.functions)
    return made


def _called_foreign(model: ModelProto) -> list[FunctionProto]:
    """The functions that are called and in which something needs the host. ModelError where more
    nodes would be put in their places than an import may have."""
    functions = functions_of(model)
    if not any(_nodes_foreign(f.node) for f in functions.values()):
        return []
    sizes = count_nodes(model.graph, functions)
    return [f for key, f in functions.items() if key in sizes and _nodes_foreign(f.node)]


def _other_opset(f: FunctionProto, model: ModelProto) -> str:
    return (
        f"function {f.domain}.{f.name}: it needs the host and is of opset {_opsets(f).get('')}, "
        f"which cannot be converted to the model's opset {_opsets(model).get('')}; try: export "
        "both with one opset"
    )


def _import_domains(model: ModelProto, functions: Iterable[FunctionProto]) -> None:
    """Imports the domains that only functions did: onnx forgets them."""
    wanted = {domain: version for f in functions for domain, version in _opsets(f).items()}
    for domain in wanted.keys() - _opsets(model).keys():
        model.opset_import.append(helper.make_opsetid(domain, wanted[domain]))


def _opsets(m: ModelProto | FunctionProto) -> dict[str, int]:
    return {("" if o.domain == "ai.onnx" else o.domain): o.version for o in m.opset_import}


# --- which values are texts ---------------------------------------------------------------------


def mark_texts(node: NodeProto, opsets: Mapping[str, int], texts: set[str]) -> None:
    """Adds to `texts` the results of a native node that are tensors of texts, those in its bodies
    too."""
    texts.update(o for o in _text_results(node, opsets, texts) if o)


def _text_results(node: NodeProto, opsets: Mapping[str, int], texts: set[str]) -> list[str]:
    given = {a.name: a for a in node.attribute}
    if node.op_type == "Constant":
        return list(node.output) if holds_texts(node) else []
    if node.op_type in ("LabelEncoder", "CategoryMapper"):
        return list(node.output) if _gives_texts(node, given, texts) else []
    if "classlabels_strings" in given and given["classlabels_strings"].strings:
        return [node.output[0]]
    bodies = check.bodies_of(node)
    if bodies:
        return _text_results_of_bodies(node, bodies, opsets, texts)
    schema = check.find_schema(
        node.op_type, opsets.get(check.domain_of(node), 1), check.domain_of(node)
    )
    if schema is None or not schema.inputs or not texts.intersection(node.input):
        return []
    last = len(schema.inputs) - 1
    variables = {
        schema.inputs[min(i, last)].type_str for i, name in enumerate(node.input) if name in texts
    }
    ends = len(schema.outputs) - 1
    return [
        o for i, o in enumerate(node.output) if schema.outputs[min(i, ends)].type_str in variables
    ]


def holds_texts(node: NodeProto) -> bool:
    """Is a Constant one of texts?"""
    return any(
        a.name in ("value_string", "value_strings") or a.t.data_type == TensorProto.STRING
        for a in node.attribute
    )


def _gives_texts(node: NodeProto, given: Mapping[str, AttributeProto], texts: set[str]) -> bool:
    """Of operators that map numbers to texts, or texts to numbers."""
    if "values_strings" in given or "values_tensor" in given:
        tensor = given.get("values_tensor")
        return tensor is None or tensor.t.data_type == TensorProto.STRING
    both = "classes_strings" in given or "cats_strings" in given
    return both and not texts.intersection(node.input)


def _text_results_of_bodies(
    node: NodeProto, bodies: Sequence[GraphProto], opsets: Mapping[str, int], texts: set[str]
) -> list[str]:
    found: list[str] = []
    skip = {"Loop": 1, "If": 0}.get(node.op_type, 0)
    for g in bodies:
        formals = [v.name for v in g.input]
        actual = list(node.input) if node.op_type != "If" else []
        texts.update(f for f, a in zip(formals, actual, strict=False) if a in texts)
        texts.update(t.name for t in g.initializer if t.data_type == TensorProto.STRING)
        for n in g.node:
            mark_texts(n, opsets, texts)
        results = [o.name for o in g.output][skip:]
        found += [o for o, r in zip(node.output, results, strict=False) if r in texts]
    return found
