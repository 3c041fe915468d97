"""The rules of a well-formed Graph. Every violation is listed, tied to its node."""

from __future__ import annotations

from collections.abc import Iterator

from naru.errors import IRError, NaruError
from naru.ir.graph import Graph, Node, TensorType, toposort
from naru.ops.operands import shape_text
from naru.ops.registry import OPS

LEAVES = ("input", "constant", "get", "group")  # their types are given, not inferred
MAX_DEPTH = 64


def verify_graph(g: Graph) -> None:
    """Raises IRError with all violations: inputs that are not declared, unknown ops, types that are
    not what the op gives, outputs without names. Bodies of control flow included."""
    problems = list(find_problems(g))
    if problems:
        raise IRError(problems, where=f"graph {g.name}")


def find_problems(g: Graph, depth: int = 0) -> Iterator[str]:
    """One line for each violation."""
    if depth > MAX_DEPTH:
        yield f"control flow is nested more than {MAX_DEPTH} deep"
        return
    if len(g.outputs) != len(g.output_names):
        yield f"{len(g.outputs)} outputs have {len(g.output_names)} names"
    if len(set(g.output_names)) != len(g.output_names):
        yield f"output names repeat: {list(g.output_names)}"
    declared = set(g.inputs)
    if len(declared) != len(g.inputs):
        yield "an input is declared twice"
    for n in toposort(*g.outputs):
        where = g.notes.get(n)
        name = f"{n.op} ({where})" if where else n.op
        if n.op == "input" and n not in declared:
            yield f"input {n.attr('name')!r} is used but not declared"
        yield from (f"{name}: {p}" for p in _node_problems(n))
        for key, value in n.attrs:
            if isinstance(value, Graph):
                yield from (f"{name}, {key}: {p}" for p in find_problems(value, depth + 1))


def _node_problems(n: Node) -> Iterator[str]:
    if n.op == "get":
        source, at = n.inputs[0], n.attr("index")
        if source is None or not isinstance(at, int) or at >= len(source.types):
            yield f"its operand has no output {at}"
        elif source.types[at] is not n.type:
            yield f"its type is not that of output {at}"
    if n.op in LEAVES:
        return
    if n.op not in OPS:
        yield "no such op"
        return
    try:
        types = OPS[n.op].infer([None if c is None else c.type for c in n.inputs], dict(n.attrs))
    except NaruError as error:
        yield f"its operands do not fit: {error.message}"
        return
    if len(types) != len(n.types):
        yield f"it has {len(n.types)} types, the op gives {len(types)}"
    for k, (found, expected) in enumerate(zip(n.types, types, strict=False)):
        if found.dtype != expected.dtype or found.shape != expected.shape:
            yield f"type {k} is {_text(found)}, the op gives {_text(expected)}"


def _text(t: TensorType) -> str:
    return f"{t.dtype}{shape_text(t.shape)}"
