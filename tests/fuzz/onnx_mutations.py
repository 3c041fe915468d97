"""Damage that knows what an ONNX model is: edits of nodes, attributes, weights, types and graphs.

Most results are still valid protobuf, so they reach the checks behind the parser.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from random import Random
from typing import Any

from google.protobuf.message import DecodeError
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    defs,
    helper,
)

INTS = (
    *range(-3, 10),
    *(-(2**63), -(2**62), -(2**32), -(2**31) - 1, -(2**31), -100, 16, 17, 63, 64, 100, 255, 256),
    *(4095, 65536, 2**31 - 1, 2**31, 2**31 + 1, 2**32, 2**40, 2**62, 2**63 - 1),
)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-38, 1e38, -1e38, float("nan"), float("inf"), float("-inf"))
TEXTS = (
    *("", " ", "x", "y", "0", "import", "__class__", "a.b", "a/b:0", "é", "\u1160", "\U0001f6f6"),
    *("\0", "x\ny", '"', "'", "{}", "%s", "../x", "/dev/zero", "x" * 5000, "N", "n", "n*2", "-1"),
    *("SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET", "reflect", "wrap", "none", "tanh", "linear"),
    *("bilinear", "nearest", "ij,jk->ik", "...ij->...", "forward", "bidirectional", "ai.onnx"),
)
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "zoo", "nowhere")
OPS = tuple(
    sorted({s.name for s in defs.get_all_schemas_with_history() if s.domain in ("", "ai.onnx.ml")})
)
DTYPES = tuple(TensorProto.DataType.values())


def mutate(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """One to five edits of the model in `data`; splices take nodes from `others`."""
    model = ModelProto.FromString(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        with suppress(DecodeError):  # protobuf does not copy what is nested too deep
            rng.choice(_EDITS)(model, others, rng)
    return model.SerializeToString()


# ---- what there is to edit ----


def _graphs(model: ModelProto) -> list[GraphProto]:
    found = [model.graph]
    for g in found:
        found += [b for n in g.node for a in n.attribute for b in (a.g, *a.graphs) if b.node]
    return found


def _node_lists(model: ModelProto) -> list[Any]:
    lists: list[Any] = [g.node for g in _graphs(model)]
    return [nodes for nodes in (*lists, *(f.node for f in model.functions)) if len(nodes)]


def _node(model: ModelProto, rng: Random) -> NodeProto:
    """Some node; of a model that lost all of them, a new one."""
    lists = _node_lists(model)
    return rng.choice(rng.choice(lists)) if lists else model.graph.node.add(op_type="Relu")


def _names(model: ModelProto, rng: Random) -> str:
    """The name of a value somewhere in the model, or a text that may be none."""
    names = [name for nodes in _node_lists(model) for n in nodes for name in (*n.input, *n.output)]
    names += [t.name for g in _graphs(model) for t in g.initializer]
    return rng.choice(names) if names and rng.random() < 0.85 else rng.choice(TEXTS)


def _tensors(model: ModelProto) -> list[TensorProto]:
    found = [t for g in _graphs(model) for t in g.initializer]
    attributes = (a for nodes in _node_lists(model) for n in nodes for a in n.attribute)
    return found + [a.t for a in attributes if a.type == AttributeProto.TENSOR]


def _infos(model: ModelProto) -> Iterator[ValueInfoProto]:
    for g in _graphs(model):
        yield from (*g.input, *g.output, *g.value_info)


# ---- nodes ----


def _op_type(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    _node(model, rng).op_type = rng.choice(OPS) if rng.random() < 0.9 else rng.choice(TEXTS)


def _related_op_type(model: ModelProto, others: Sequence[bytes], rng: Random) -> None:
    """An op that some other model uses: those are the supported ones."""
    other = ModelProto.FromString(rng.choice(others))
    _node(model, rng).op_type = _node(other, rng).op_type


def _domain(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    n = _node(model, rng)
    n.domain = rng.choice(DOMAINS)
    if rng.random() < 0.5:
        n.overload = rng.choice(TEXTS)


def _swap_inputs(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    inputs = _node(model, rng).input
    if len(inputs) > 1:
        i, j = rng.sample(range(len(inputs)), 2)
        inputs[i], inputs[j] = inputs[j], inputs[i]


def _change_input(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    """Any value of the model, also a later one (a cycle), its own output, one of another graph."""
    n = _node(model, rng)
    if n.input:
        n.input[rng.randrange(len(n.input))] = _names(model, rng)


def _add_input(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    n = _node(model, rng)
    for _ in range(rng.choice((1, 1, 2, 200))):
        n.input.append(_names(model, rng))


def _drop_input(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    inputs = _node(model, rng).input
    if inputs and rng.random() < 0.5:
        inputs[rng.randrange(len(inputs))] = ""
    elif inputs:
        del inputs[rng.randrange(len(inputs))]


def _change_output(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    n = _node(model, rng)
    if n.output and rng.random() < 0.7:
        n.output[rng.randrange(len(n.output))] = _names(model, rng)
    elif n.output and rng.random() < 0.5:
        del n.output[rng.randrange(len(n.output))]
    else:
        n.output.append(_names(model, rng))


def _copy_node(model: ModelProto, others: Sequence[bytes], rng: Random) -> None:
    """A node once more, or one of another model, under new output names."""
    source = model if rng.random() < 0.5 else ModelProto.FromString(rng.choice(others))
    n = NodeProto()
    n.CopyFrom(_node(source, rng))
    for k in range(len(n.output)):
        n.output[k] += "_copy"
    for k in range(len(n.input)):
        n.input[k] = _names(model, rng)
    lists = _node_lists(model)
    if lists:
        nodes = rng.choice(lists)
        nodes.insert(rng.randrange(len(nodes) + 1), n)
        if n.output and nodes[-1].output and rng.random() < 0.5:
            n.output[0], nodes[-1].output[0] = nodes[-1].output[0], n.output[0]


def _drop_node(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    lists = _node_lists(model)
    if lists:
        nodes = rng.choice(lists)
        del nodes[rng.randrange(len(nodes))]


def _shuffle(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    for nodes in _node_lists(model):
        order = sorted((NodeProto.FromString(n.SerializeToString()) for n in nodes), key=str)
        rng.shuffle(order)
        del nodes[:]
        nodes.extend(order)


def _name(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    _node(model, rng).name = rng.choice(TEXTS)


# ---- attributes ----


def _attribute(model: ModelProto, rng: Random) -> tuple[NodeProto, AttributeProto]:
    nodes = [n for nodes in _node_lists(model) for n in nodes]
    with_some = [n for n in nodes if n.attribute]
    n = rng.choice(with_some) if with_some else _node(model, rng)
    return n, rng.choice(n.attribute) if n.attribute else n.attribute.add(name="axis", type=2)


def _attribute_value(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    _, a = _attribute(model, rng)
    if a.type == AttributeProto.INT:
        a.i = rng.choice(INTS)
    elif a.type == AttributeProto.FLOAT:
        a.f = rng.choice(FLOATS)
    elif a.type == AttributeProto.STRING:
        a.s = rng.choice(TEXTS).encode()
    elif a.type == AttributeProto.INTS:
        _edit_list(a.ints, INTS, rng)
    elif a.type == AttributeProto.FLOATS:
        _edit_list(a.floats, FLOATS, rng)
    elif a.type == AttributeProto.TENSOR:
        _edit_tensor(a.t, rng)


def _edit_list(values: Any, choices: Sequence[Any], rng: Random) -> None:
    kind = rng.randrange(5)
    if kind < 2 and len(values):
        values[rng.randrange(len(values))] = rng.choice(choices)
    elif kind == 2 and len(values):
        del values[rng.randrange(len(values))]
    elif kind == 3:
        del values[:]
    else:
        values.extend(rng.choice(choices) for _ in range(rng.choice((1, 2, 40))))


def _attribute_type(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    kinds: Any = tuple(AttributeProto.AttributeType.values())
    _attribute(model, rng)[1].type = rng.choice(kinds)


def _attribute_name(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    n, a = _attribute(model, rng)
    schemas = [s for s in defs.get_all_schemas() if s.name == n.op_type]
    names = sorted({name for s in schemas for name in s.attributes})
    a.name = rng.choice(names) if names and rng.random() < 0.8 else rng.choice(TEXTS)


def _add_attribute(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    """One that the op has, with a value of the right kind that is seldom right."""
    n = _node(model, rng)
    found = {
        k: a for s in defs.get_all_schemas() if s.name == n.op_type for k, a in s.attributes.items()
    }
    if not found:
        return
    name = rng.choice(sorted(found))
    values: dict[str, Any] = {
        "INT": rng.choice(INTS),
        "FLOAT": rng.choice(FLOATS),
        "STRING": rng.choice(TEXTS),
        "INTS": [rng.choice(INTS) for _ in range(rng.randrange(1, 5))],
        "FLOATS": [rng.choice(FLOATS) for _ in range(rng.randrange(1, 5))],
        "STRINGS": [rng.choice(TEXTS) for _ in range(rng.randrange(1, 5))],
    }
    kind = str(found[name].type).rpartition(".")[2]
    if kind in values:
        n.attribute.append(helper.make_attribute(name, values[kind]))


def _drop_attribute(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    n, a = _attribute(model, rng)
    if rng.random() < 0.7:
        n.attribute.remove(a)
    else:
        a.ref_attr_name = rng.choice(TEXTS)


# ---- weights ----


def _tensor(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    tensors = _tensors(model)
    if tensors:
        _edit_tensor(rng.choice(tensors), rng)


def _edit_tensor(t: TensorProto, rng: Random) -> None:
    rng.choice((_dims, _dtype, _raw, _values, _values, _values, _location))(t, rng)


def _dims(t: TensorProto, rng: Random) -> None:
    if rng.random() < 0.4:  # the same number of elements, so that it stays readable
        t.dims.insert(rng.randrange(len(t.dims) + 1), 1)
    else:
        _edit_list(t.dims, INTS, rng)


def _dtype(t: TensorProto, rng: Random) -> None:
    t.data_type = rng.choice(DTYPES) if rng.random() < 0.9 else rng.choice((-1, 99, 2**31 - 1))


def _raw(t: TensorProto, rng: Random) -> None:
    raw = bytearray(t.raw_data)
    if raw and rng.random() < 0.5:
        del raw[rng.randrange(len(raw)) :]
    else:
        raw += rng.randbytes(rng.choice((1, 4, 8, 100)))
    t.raw_data = bytes(raw)


def _values(t: TensorProto, rng: Random) -> None:
    """Other contents of the same size: axes, shapes and pads of int64 are the interesting ones."""
    size = len(t.raw_data)
    if t.data_type == TensorProto.INT64 and size and size % 8 == 0:
        at = 8 * rng.randrange(size // 8)
        value = rng.choice(INTS).to_bytes(8, "little", signed=True)
        t.raw_data = t.raw_data[:at] + value + t.raw_data[at + 8 :]
    elif t.int64_data:
        _edit_list(t.int64_data, INTS, rng)
    elif size:
        t.raw_data = rng.randbytes(size)


def _location(t: TensorProto, rng: Random) -> None:
    t.data_location = TensorProto.EXTERNAL
    for key in ("location", "offset", "length"):
        t.external_data.add(key=key, value=rng.choice((*TEXTS, *map(str, INTS))))


# ---- types, inputs, outputs ----


def _type(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    infos = list(_infos(model))
    if not infos:
        return
    info = rng.choice(infos)
    tensor = info.type.tensor_type
    dims = tensor.shape.dim
    kind = rng.randrange(8)
    if kind < 3 and dims:
        dims[rng.randrange(len(dims))].dim_value = rng.choice(INTS)
    elif kind < 5 and dims:
        dims[rng.randrange(len(dims))].dim_param = rng.choice(("n", "N", "m", *TEXTS))
    elif kind == 5:
        tensor.elem_type = rng.choice(DTYPES)
    elif kind == 6:
        dims.add(dim_value=rng.choice((1, 2, *INTS)))
    else:
        tensor.ClearField(rng.choice(("shape", "elem_type")))


def _rename_value(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    infos = list(_infos(model))
    if infos:
        rng.choice(infos).name = _names(model, rng)


def _copy_info(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    g = rng.choice(_graphs(model))
    lists = [values for values in (g.input, g.output) if values]
    if lists:
        values = rng.choice(lists)
        rng.choice((g.input, g.output)).append(rng.choice(values))
        if rng.random() < 0.3:
            del values[rng.randrange(len(values))]


def _weight_to_input(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    """What was constant is only known at run time."""
    weights = model.graph.initializer
    if weights:
        t = weights.pop(rng.randrange(len(weights)))
        model.graph.input.append(helper.make_tensor_value_info(t.name, t.data_type, t.dims))


def _input_to_weight(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    """What was an input is constant, so that much more is folded."""
    if not model.graph.input:
        return
    info = model.graph.input.pop(rng.randrange(len(model.graph.input)))
    tensor = info.type.tensor_type
    shape = [d.dim_value if 0 <= d.dim_value < 65 else 2 for d in tensor.shape.dim]
    shape = [n or rng.randrange(3) for n in shape]
    t = TensorProto(name=info.name, dims=shape, data_type=tensor.elem_type)
    count = 1
    for n in shape:
        count *= n
    sizes = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
    width = sizes.get(tensor.elem_type, 4)
    if count * width < 1 << 20:
        t.raw_data = bytes(rng.randrange(2) if width == 1 else 0 for _ in range(count * width))
        model.graph.initializer.append(t)


# ---- graphs, functions, versions ----


def _versions(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    if rng.random() < 0.3:
        model.ir_version = rng.choice((0, 1, 3, 4, 7, 8, 10, 11, 12, 13, 14, *INTS))
    elif model.opset_import and rng.random() < 0.8:
        rng.choice(model.opset_import).version = rng.choice((*range(1, 30), *INTS))
    else:
        model.opset_import.add(domain=rng.choice(DOMAINS), version=rng.choice((1, 17, 2**40)))


def _nest(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    """Graphs in graphs: a body is put into a body, its own copy, or the whole model."""
    graphs = _graphs(model)
    source = GraphProto()
    source.CopyFrom(rng.choice(graphs))
    attributes = [a for nodes in _node_lists(model) for n in nodes for a in n.attribute]
    bodies = [a for a in attributes if a.type == AttributeProto.GRAPH]
    if bodies:
        for _ in range(rng.choice((1, 1, 3))):
            rng.choice(bodies).g.CopyFrom(source)
    else:
        value = rng.choice(("cond", "x"))
        branches: dict[str, Any] = {"then_branch": source, "else_branch": source}
        n = helper.make_node("If", [_names(model, rng)], [value], **branches)
        model.graph.node.insert(0, n)


def _deep(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    """Bodies nested many times. (Protobuf itself refuses more than a hundred levels.)"""
    names = [o.name for o in model.graph.output]
    inner = GraphProto(name="inner", output=model.graph.output, node=model.graph.node)
    other = GraphProto(name="other", output=model.graph.output, node=model.graph.node[-1:])
    for k in range(rng.choice((2, 12, 30))):
        bodies: dict[str, Any] = {"then_branch": inner, "else_branch": other}
        node = helper.make_node("If", ["cond"], names, name=f"if{k}", **bodies)
        inner = GraphProto(name=f"g{k}", output=model.graph.output, node=[node])
    model.graph.input.append(helper.make_tensor_value_info("cond", TensorProto.BOOL, []))
    del model.graph.node[:]
    model.graph.node.extend(inner.node)


def _function(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    """A local function takes the place of a node's op; it may call itself."""
    n = _node(model, rng)
    body = NodeProto()
    body.CopyFrom(n)
    inputs = [f"i{k}" for k in range(len(n.input))]
    outputs = [f"o{k}" for k in range(len(n.output))]
    body.input[:], body.output[:] = inputs, outputs
    opsets = list(model.opset_import)
    f = helper.make_function(n.domain, n.op_type, inputs, outputs, [body], opsets)
    if rng.random() < 0.6:
        f.name = f.name + "_made"
        n.op_type = f.name
    if rng.random() < 0.3 and inputs:
        del f.input[-1]
    if rng.random() < 0.3:
        model.functions.append(f)
    model.functions.append(f)


def _many_dims(model: ModelProto, _others: Sequence[bytes], rng: Random) -> None:
    """Inputs of many dims, or of rank 0."""
    if model.graph.input:
        shape = rng.choice(model.graph.input).type.tensor_type.shape
        count = rng.choice((0, 1, 7, 33, 65, 1000))
        del shape.dim[:]
        for _ in range(count):
            shape.dim.add(dim_value=rng.choice((1, 1, 2, 0)))


_EDITS = (
    *(_op_type, _related_op_type, _related_op_type, _domain, _swap_inputs, _change_input),
    *(_change_input, _add_input, _drop_input, _change_output, _copy_node, _copy_node, _drop_node),
    *(_shuffle, _name, _attribute_value, _attribute_value, _attribute_value, _attribute_type),
    *(_attribute_name, _add_attribute, _add_attribute, _drop_attribute, _tensor, _tensor, _tensor),
    *(_type, _type, _type, _rename_value, _copy_info, _weight_to_input, _input_to_weight),
    *(_input_to_weight, _versions, _nest, _deep, _function, _many_dims),
)
