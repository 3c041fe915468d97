"""What a well-formed ONNX node is: checks of one node against the standard's schema, and the order
of nodes. Every ModelError says what was expected, what was found, and what to try."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Protocol, cast

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, defs

from naru.errors import ModelError
from naru.frontend.onnx_node import KIND_NAMES
from naru.ir.expr import INT_MAX
from naru.ir.graph import Node

# As the standard writes element types: f32 -> "tensor(float)".
_ONNX_TYPE = {
    "f32": "float", "f64": "double", "f16": "float16", "bf16": "bfloat16", "bool": "bool",
    "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64",
    "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
    "int4": "int4", "uint4": "uint4", "int2": "int2", "uint2": "uint2", "f4e2m1": "float4e2m1",
    "f8e4m3fn": "float8e4m3fn", "f8e4m3fnuz": "float8e4m3fnuz", "f8e5m2": "float8e5m2",
    "f8e5m2fnuz": "float8e5m2fnuz", "f8e8m0": "float8e8m0", "f6e2m3": "float6e2m3",
    "f6e3m2": "float6e3m2",
}  # fmt: skip


def label_of(node: NodeProto, scope: str = "") -> str:
    """How messages name a node: `node 'conv1' (Conv)`, by its first output where it has no name."""
    name = note_of(node) or "unnamed"
    op = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    return f"{scope}node {name!r} ({op})"


def note_of(node: NodeProto) -> str:
    """What the graph and the bundle call a node: its name, else its first output."""
    return node.name or next((o for o in node.output if o), "")


def domain_of(node: NodeProto) -> str:
    """The domain; the standard's own has two spellings."""
    return "" if node.domain == "ai.onnx" else node.domain


@cache
def find_schema(op: str, version: int, domain: str) -> defs.OpSchema | None:
    """The standard's schema of an op at an opset, or None if it has no such op. (Deprecated ones
    are as good as others: they say what the op means at that opset.)"""
    try:
        return defs.get_schema(op, max(1, min(version, INT_MAX)), domain)
    except defs.SchemaError:
        return None


class _Coded(Protocol):
    """What onnx's stubs leave out: its enumerations have numbers."""

    value: int


@cache
def _attributes(op: str, version: int, domain: str) -> Mapping[str, tuple[int, bool]]:
    schema = find_schema(op, version, domain)
    found = {} if schema is None else schema.attributes
    return {k: (cast(_Coded, a.type).value, a.required) for k, a in found.items()}


def check_attributes(node: NodeProto, version: int, domain: str, label: str) -> None:
    """Known names, each once, of the right kind, and none of the required ones left out."""
    known = _attributes(node.op_type, version, domain)
    seen: set[str] = set()
    for a in node.attribute:
        where = f"{label}, attribute {a.name!r}"
        if a.name not in known:
            expected = ", ".join(sorted(known)) or "none"
            raise ModelError(
                f"expected one of the attributes of opset {version} ({expected}), found {a.name!r}",
                where=label,
                hint="check the opset that the model declares",
            )
        if a.name in seen:
            raise ModelError("it is given twice", where=where)
        seen.add(a.name)
        if a.type != known[a.name][0]:
            raise ModelError(
                f"expected {KIND_NAMES[known[a.name][0]]}, found {KIND_NAMES.get(a.type, a.type)}",
                where=where,
            )
    for name, (kind, required) in known.items():
        if required and name not in seen:
            raise ModelError(f"the attribute {name!r} ({KIND_NAMES[kind]}) is missing", where=label)


def check_counts(node: NodeProto, schema: defs.OpSchema, label: str) -> None:
    """As many operands and results as the op takes."""
    for what, found, low, high in (
        ("inputs", len(node.input), schema.min_input, schema.max_input),
        ("outputs", len(node.output), schema.min_output, schema.max_output),
    ):
        if not low <= found <= high:
            expected = (
                f"{low}" if low == high else f"{low} or more" if high > 999 else f"{low}..{high}"
            )
            raise ModelError(
                f"expected {expected} {what}, found {found}",
                where=label,
                hint="check the opset that the model declares",
            )
    for i, formal in enumerate(schema.inputs):
        required = formal.option is defs.OpSchema.FormalParameterOption.Single
        if required and (i >= len(node.input) or not node.input[i]):
            raise ModelError(f"operand {i} ({formal.name}) is missing", where=label)


def check_dtypes(
    node: NodeProto,
    schema: defs.OpSchema,
    inputs: Sequence[Node | None],
    label: str,
    texts: Collection[str] = (),
) -> None:
    """Each operand has an allowed element type, and those that must agree do. `texts`: values whose
    numbers are those of texts."""
    bound: dict[str, tuple[int, str]] = {}
    allowed = _allowed(schema.name, schema.since_version, schema.domain)
    for i, n in enumerate(inputs):
        if n is None or not schema.inputs:
            continue
        formal, types, homogeneous = allowed[min(i, len(allowed) - 1)]
        own = "string" if node.input[i] in texts else n.type.dtype
        found = f"tensor({_ONNX_TYPE.get(own, own)})"
        if found not in types:
            names = ", ".join(sorted(t.removeprefix("tensor(").removesuffix(")") for t in types))
            raise ModelError(
                f"operand {i} ({node.input[i]!r}): expected {names}, found {found[7:-1]}",
                where=label,
                hint="put a Cast before it, or check the opset that the model declares",
            )
        first, dtype = bound.setdefault(formal, (i, own))
        if homogeneous and dtype != own:
            raise ModelError(
                f"operands {first} ({node.input[first]!r}) and {i} ({node.input[i]!r}) must have "
                f"one element type, found {dtype} and {own}",
                where=label,
                hint="put a Cast before one of them",
            )


@cache
def _allowed(op: str, version: int, domain: str) -> tuple[tuple[str, frozenset[str], bool], ...]:
    """For each formal operand: its type variable, allowed types, whether they must agree."""
    schema = find_schema(op, version, domain)
    formals = schema.inputs if schema is not None else ()
    return tuple((f.type_str, frozenset(f.types), f.is_homogeneous) for f in formals)


def in_order(nodes: Sequence[NodeProto], defined: set[str], where: str) -> Sequence[NodeProto]:
    """The nodes, definitions before uses. They usually are in order already; a file that lists them
    otherwise is sorted. `defined` are the values known before. ModelError names a cycle."""
    maker: dict[str, int] = {}
    for k, node in enumerate(nodes):
        for name in node.output:
            if not name:
                continue
            if name in maker or name in defined:
                raise ModelError(
                    f"the value {name!r} is defined twice",
                    where=f"{where}{label_of(node)}",
                    hint="every value of a graph has one definition; rename one of the two",
                )
            maker[name] = k
    reads = [reads_of(node) for node in nodes]
    if all(maker.get(name, -1) < k for k, names in enumerate(reads) for name in names):
        return nodes
    return [nodes[k] for k in _sort(nodes, reads, maker, where)]


def reads_of(node: NodeProto) -> list[str]:
    """The names a node reads, those that its bodies may take from outside included."""
    names = [n for n in node.input if n]
    if node.op_type == "Gradient":
        names += [
            n.decode("utf-8", "replace") for a in node.attribute for n in (a.s, *a.strings) if n
        ]
    stack = [(g, frozenset[str]()) for g in bodies_of(node)]
    while stack:
        g, outer = stack.pop()
        own = outer.union((i.name for i in g.input), (o for n in g.node for o in n.output))
        for n in g.node:
            names += [i for i in n.input if i and i not in own]
            stack += [(h, own) for h in bodies_of(n)]
        names += [o.name for o in g.output if o.name not in own]
    return names


def check_text(model: ModelProto) -> None:
    """Names are UTF-8. (Protobuf hands over those that are not as bytes, without a word.)"""
    graphs: list[GraphProto] = [model.graph]
    lists: list[Sequence[NodeProto]] = []
    for f in model.functions:
        _check_strings(f.name, f.domain, f.overload, *f.input, *f.output, *f.attribute)
        lists.append(f.node)
    while graphs or lists:
        if graphs:
            g = graphs.pop()
            tensors = [t.name for t in g.initializer]
            values = [v.name for v in (*g.input, *g.output)]
            dims = [d.dim_param for v in g.input for d in v.type.tensor_type.shape.dim]
            _check_strings(g.name, *tensors, *values, *dims)
            lists.append(g.node)
        for node in lists.pop():
            _check_strings(node.name, node.op_type, node.domain, node.overload)
            _check_strings(*node.input, *node.output, *(a.name for a in node.attribute))
            _check_strings(*(a.ref_attr_name for a in node.attribute))
            graphs += bodies_of(node)


def _check_strings(*values: object) -> None:
    for v in values:
        if not isinstance(v, str):
            raise ModelError(
                f"expected names in UTF-8, found {v!r:.60}", hint="download or export it again"
            )


def bodies_of(node: NodeProto) -> list[GraphProto]:
    """The graphs among the attributes of a node."""
    one, many = AttributeProto.GRAPH, AttributeProto.GRAPHS
    return [a.g for a in node.attribute if a.type == one] + [
        g for a in node.attribute if a.type == many for g in a.graphs
    ]


def _sort(
    nodes: Sequence[NodeProto],
    reads: Sequence[Sequence[str]],
    maker: Mapping[str, int],
    where: str,
) -> list[int]:
    """Depth first with an explicit stack: 0 unseen, 1 on the path, 2 done."""
    state = [0] * len(nodes)
    order: list[int] = []
    path: list[int] = []
    for start in range(len(nodes)):
        stack = [start]
        while stack:
            k = stack[-1]
            if state[k] == 0:
                state[k] = 1
                path.append(k)
                for name in reversed(reads[k]):
                    before = maker.get(name, -1)
                    if before < 0 or state[before] == 2:
                        continue
                    if state[before] == 1:
                        _refuse_cycle(nodes, path, before, where)
                    stack.append(before)
            else:
                stack.pop()
                if state[k] == 1:
                    state[k] = 2
                    path.pop()
                    order.append(k)
    return order


def _refuse_cycle(nodes: Sequence[NodeProto], path: list[int], back: int, where: str) -> None:
    cycle = [*path[path.index(back) :], back]
    names = [nodes[k].name or nodes[k].output[0] for k in cycle]
    if len(names) > 8:
        names = [*names[:4], "…", *names[-3:]]
    raise ModelError(
        f"{label_of(nodes[back])} needs its own result: " + " <- ".join(names),
        where=where.rstrip(": ") or None,
        hint="an ONNX graph has no cycles; use Loop for iteration",
    )
