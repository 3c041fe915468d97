"""The rules of the tensor graph, as tables of checks. What an op demands of its operands is the
op's business: pass `infer` (ops.registry) to have the types of all nodes computed anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from naru.dtypes import DTYPES, FROM_NUMPY, is_integer
from naru.errors import NaruError
from naru.ir.expr import Var, free_vars
from naru.ir.graph import (
    WINOGRAD_TILES,
    Data,
    Graph,
    Node,
    TensorType,
    defined_symbols,
    named_sizes,
    toposort,
)
from naru.ir.simplify import known
from naru.ir.text_graph import Infer, bodies_of, graph_symbols, print_graph_lines
from naru.ir.verify_expr import check_expr, index_problem

Problems = Iterator[str]


@dataclass(frozen=True)
class Inside:
    """What a graph's nodes may refer to."""

    inputs: frozenset[Node]
    symbols: frozenset[Var]
    infer: Infer | None


def _types(n: Node, g: Inside) -> Problems:
    for t in n.types:
        if t.dtype not in DTYPES or t.dtype == "index":
            yield f"unknown dtype {t.dtype!r}"
        for d in t.shape:
            yield from index_problem("a dim", d)
            yield from check_expr(d)
            size = known(d)
            if size is not None and size < 0:
                yield f"a dim is {size}"
        yield from _layout(t)
        yield from _value(t)


def _layout(t: TensorType) -> Problems:
    if t.layout is None:
        return
    if sorted(t.layout.order) != list(range(t.rank)):
        yield f"layout {t.layout.order} is no permutation of {t.rank} axes"
    block = t.layout.block
    if block is not None and not (0 <= block[0] < t.rank and block[1] > 0):
        yield f"block {block}: expected an axis of the tensor and a positive size"
    form, order = t.layout.winograd, t.layout.order
    if form and (t.rank != 4 or [known(d) for d in t.shape[2:]] != [3, 3]):
        yield "a Winograd form: expected filters [O, C, 3, 3]"
    if form and (form not in WINOGRAD_TILES or block is None or block[0] != 0 or order[0] != 0):
        yield f"winograd({form}): expected one of {WINOGRAD_TILES}, and blocks of axis 0 outermost"


def _value(t: TensorType) -> Problems:
    if t.value is None:
        return
    if not (is_integer(t.dtype) or t.dtype == "bool"):
        yield f"elements known as expressions in a tensor of {t.dtype}"
    sizes = [known(d) for d in t.shape]
    total = 1
    for n in sizes:
        total = total * n if n is not None else -1
    if total != len(t.value):
        yield f"{len(t.value)} elements are known as expressions, the shape says otherwise"


def _defined_inside(n: Node) -> set[Var]:
    """The symbols that the bodies of a node define, and the sizes of a loop's carried values that
    change."""
    found: set[Var] = set()
    stack = [n]
    while stack:
        m = stack.pop()
        for body in (b for _, value in m.attrs for b in bodies_of(value)):
            order = toposort(*body.inputs, *body.outputs)
            found |= defined_symbols(*order) | _changing(m, body)
            stack += [x for x in order if any(bodies_of(value) for _, value in x.attrs)]
    return found


def _changing(n: Node, body: Graph) -> set[Var]:
    """The sizes in the inputs of a loop's body that change from round to round."""
    if n.op != "loop":
        return set()
    places = named_sizes(n)
    return {v for k, axis in places for v in free_vars(body.inputs[2 + k].type.shape[axis])}


def _symbols(n: Node, g: Inside) -> Problems:
    own = _defined_inside(n)
    for v in graph_symbols([n]):
        if v not in g.symbols and v not in own:
            yield f"symbol {v.name} is no dim of an input and no node defines it"


def _input(n: Node, g: Inside) -> Problems:
    if n.op != "input":
        return
    if n not in g.inputs:
        yield f"input {n.attr('name')!r} is not an input of this graph"
    if n.inputs or len(n.types) != 1:
        yield "an input has no operands and one type"


def _constant(n: Node, g: Inside) -> Problems:
    if n.op != "constant":
        return
    data = n.attr("data")
    if not isinstance(data, Data):
        yield "a constant has its contents in `data`"
    elif FROM_NUMPY.get(data.array.dtype) != n.type.dtype:
        yield f"the contents are {data.array.dtype}, the type says {n.type.dtype}"
    elif n.type.layout is None and data.array.shape != tuple(map(known, n.type.shape)):
        yield f"the contents have shape {data.array.shape}"


def _get(n: Node, g: Inside) -> Problems:
    if n.op != "get":
        return
    k, source = n.attr("index"), n.inputs[0] if len(n.inputs) == 1 else None
    if source is None or not isinstance(k, int) or not 0 <= k < len(source.types):
        yield "get: expected a node and the number of one of its outputs"
    elif source.types[k] is not n.type:
        yield f"get: output {k} has another type"


def _operands(n: Node, g: Inside) -> Problems:
    for k, i in enumerate(n.inputs):
        if i is not None and len(i.types) != 1 and n.op != "get":
            yield f"operand {k} is a node of {len(i.types)} outputs; use get"


def _attrs(n: Node, g: Inside) -> Problems:
    names = [k for k, _ in n.attrs]
    if names != sorted(set(names)):
        yield "attributes are not in order of their names, each once"


def _inferred(n: Node, g: Inside) -> Problems:
    if g.infer is None or n.op in ("input", "constant", "get"):
        return
    try:
        types = g.infer(n.op, [None if i is None else i.type for i in n.inputs], dict(n.attrs))
    except KeyError:
        yield f"unknown op {n.op!r}"
        return
    except NaruError as e:
        yield e.message if hasattr(e, "message") else str(e)
        return
    if [(t.dtype, t.shape) for t in types] != [(t.dtype, t.shape) for t in n.types]:
        yield "the op computes another type"


NODE_CHECKS: tuple[Callable[[Node, Inside], Problems], ...] = (
    _types,
    _symbols,
    _input,
    _constant,
    _get,
    _operands,
    _attrs,
    _inferred,
)


def _interface(g: Graph) -> Problems:
    names = [str(n.attr("name")) for n in g.inputs]
    if len(set(names)) != len(names):
        yield "two inputs have one name"
    if any(n.op != "input" for n in g.inputs):
        yield "an input is a node with op `input`"
    if len(g.outputs) != len(g.output_names):
        yield f"{len(g.outputs)} outputs and {len(g.output_names)} names"
    elif len(set(g.output_names)) != len(g.output_names):
        yield "two outputs have one name"
    for n in g.outputs:
        if len(n.types) != 1:
            yield "an output is a node of several outputs; use get"


def verify_graph(g: Graph, infer: Infer | None = None) -> list[str]:
    """Every violation of the rules of the graph and its bodies, with its line."""
    head = [f"line 1, `{g.name}`: {p}" for p in _interface(g)]
    if len(g.outputs) != len(g.output_names):
        return head  # cannot be printed
    text, line_of = print_graph_lines(g)
    lines = text.splitlines()
    problems = list(head)

    def visit(g: Graph, outer: frozenset[Var]) -> None:
        order = toposort(*g.inputs, *g.outputs)
        given = {v for n in g.inputs for d in n.type.shape for v in free_vars(d)}
        inside = Inside(frozenset(g.inputs), outer | given | defined_symbols(*order), infer)
        for n in order:
            line = line_of.get(n, 1)
            found = dict.fromkeys(p for check in NODE_CHECKS for p in check(n, inside))
            problems.extend(f"line {line}, `{lines[line - 1].strip()}`: {p}" for p in found)
            for _, value in n.attrs:
                for body in bodies_of(value):
                    problems.extend(f"{body.name}: {p}" for p in _interface(body))
                    visit(body, inside.symbols)

    visit(g, frozenset())
    return problems
