"""If, Loop and Scan. Their bodies become Graphs over explicit inputs: what a body reads from
outside is passed in like everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import GraphProto

from naru.errors import ModelError
from naru.frontend.onnx_node import (
    AlreadyReported,
    OnnxNode,
    Unsupported,
    as_scalar,
    check_axis,
    emit,
    scalar,
    type_text,
)
from naru.frontend.onnx_scope import Items, Scope
from naru.frontend.onnx_shapes import needing, size_of
from naru.frontend.onnx_signatures import Handler
from naru.ir.expr import Const, Expr, Var, free_vars
from naru.ir.graph import (
    Attr,
    Node,
    TensorType,
    defined_symbols,
    get_output,
    make_input,
    toposort,
)
from naru.ir.simplify import FALSE, ONE, compare, known
from naru.ops.control import rounds_known
from naru.ops.operands import dim_text


def made(c: OnnxNode, g: GraphProto, inner: Scope) -> tuple[Node, ...]:
    """The outputs of a converted body. Those of an unsupported node, already reported, end it."""
    found = c.importer.read_outputs(g, inner)
    if any(isinstance(v, Items) for v in found):
        raise Unsupported("a body that gives a sequence")
    nodes = tuple(v for v in found if isinstance(v, Node))
    if len(nodes) != len(found):
        raise AlreadyReported
    return nodes


def if_(c: OnnxNode) -> Sequence[Node]:
    """Both branches take the union of what they capture; their results have the same types."""
    cond = as_scalar(c[0])
    truth = c.importer.constants.find(cond)
    if truth is not None:
        return _taken(c, "then_branch" if truth.item() else "else_branch")
    names = {"then": "then_branch", "orelse": "else_branch"}
    bodies = {k: c.get_graph(name) for k, name in names.items()}
    scopes = {
        k: c.importer.body(g, c.scope, (), f"{c.label}, {names[k]}") for k, g in bodies.items()
    }
    results: dict[str, tuple[Node, ...]] = {}
    for k, g in bodies.items():
        results[k] = made(c, g, scopes[k])
        if len(results[k]) != len(c.outputs):
            raise ModelError(
                f"expected {len(c.outputs)} outputs of {names[k]}, found {len(results[k])}"
            )
    results, loose = _of_one_rank(results)
    places = _check_branches(results["then"], results["orelse"])
    captures = {**scopes["then"].captures, **scopes["orelse"].captures}
    c.importer.check_settled(outer for outer, _ in captures.values())
    inputs = tuple(inner for _, inner in captures.values())
    graphs = {
        k: c.importer.graph(k, inputs, results[k], [o.name for o in g.output])
        for k, g in bodies.items()
    }
    attrs: dict[str, Attr] = {**graphs}
    if places:
        symbols = [c.importer.symbols.fresh(f"{c.outputs[k]}_{axis}") for k, axis in places]
        attrs |= {"places": places, "symbols": tuple(symbols)}
    out = outputs_of(emit("if", cond, *(outer for outer, _ in captures.values()), **attrs))
    c.importer.loose.update(out[k] for k in loose)
    return out


def _of_one_rank(
    results: Mapping[str, tuple[Node, ...]],
) -> tuple[dict[str, tuple[Node, ...]], list[int]]:
    """The branches' results; which of them have one element, but not as many dims in the one as in
    the other: these get as many. (Who reads them sees to it that this makes no difference.)"""
    loose: list[int] = []
    out = {k: list(nodes) for k, nodes in results.items()}
    for k, pair in enumerate(zip(*results.values(), strict=True)):
        rank = max(n.type.rank for n in pair)
        if len({n.type.rank for n in pair}) == 1 or any(d is not ONE for d in _dims(*pair)):
            continue
        loose.append(k)
        for name, n in zip(out, pair, strict=True):
            if n.type.rank < rank:
                out[name][k] = emit("reshape", n, shape=(ONE,) * rank)
    return {k: tuple(nodes) for k, nodes in out.items()}, loose


def _dims(*nodes: Node) -> list[Expr]:
    return [d for n in nodes for d in n.type.shape]


def _taken(c: OnnxNode, name: str) -> Sequence[Node]:
    """The branch of a constant condition, in place."""
    g = c.get_graph(name)
    return made(c, g, c.importer.body(g, c.scope, (), f"{c.label}, {name}", inline=True))


def _check_branches(a: Sequence[Node], b: Sequence[Node]) -> tuple[tuple[int, int], ...]:
    """The (output, axis) pairs at which sizes differ, or are decided inside a branch."""
    places: list[tuple[int, int]] = []
    for k, (x, y) in enumerate(zip(a, b, strict=True)):
        if x.type.dtype != y.type.dtype:
            raise ModelError(
                f"expected one element type of output {k} from both branches, found "
                f"{type_text(x)} and {type_text(y)}"
            )
        if x.type.rank != y.type.rank:
            raise Unsupported(
                f"output {k} is {type_text(x)} in one branch and {type_text(y)} in the other, so "
                "its rank is known only at run time",
                "give both branches one rank, or make the condition a constant",
            )
        for axis, (m, n) in enumerate(zip(x.type.shape, y.type.shape, strict=True)):
            inside = defined_symbols(*toposort(x, y))
            if m is not n or inside.intersection(free_vars(m)):
                places.append((k, axis))
    return tuple(places)


def outputs_of(n: Node) -> list[Node]:
    """All outputs of a node."""
    return [get_output(n, k) for k in range(len(n.types))]


def formal(name: str, t: TensorType) -> Node:
    """A formal input of a body: known dtype and shape, contents that change."""
    return make_input(name, TensorType(t.dtype, t.shape))


def loop(c: OnnxNode) -> Sequence[Node]:
    """(number of rounds, condition, carried…) -> (carried…, what each round gave, stacked…)."""
    g = c.get_graph("body")
    trip, cond = c.find(0), c.find(1)
    carried = [c[k] for k in range(2, len(c.inputs))]
    if len(g.input) != 2 + len(carried):
        raise ModelError(f"expected {2 + len(carried)} inputs of the body, found {len(g.input)}")
    if len(g.output) != 1 + len(c.outputs):
        raise ModelError(
            f"expected {1 + len(c.outputs)} outputs of the body, found {len(g.output)}"
        )
    heads = [formal(g.input[0].name, TensorType("i64", ())),
             formal(g.input[1].name, TensorType("bool", ()))]  # fmt: skip
    places: tuple[tuple[int, int], ...] = ()
    while True:
        states = _states(c, g, carried, places)
        inputs = [*heads, *states]
        inner = c.importer.body(g, c.scope, inputs, f"{c.label}, body", round=heads[0])
        results = _as_declared(g, carried, made(c, g, inner))
        more = _changing(states, results[1:], places)
        if more == places:
            break
        places = more  # sizes that were taken to stay do change: once more, with symbols for them
    first = 1 + len(carried)
    results = (*results[:first], *_slices(g, _sizes_at(states, places), results, first))
    return _loop_node(
        c,
        None if trip is None else as_scalar(trip),
        None if cond is None else as_scalar(cond),
        carried,
        inputs,
        inner,
        (as_scalar(results[0]), *results[1:]),
        tuple(o.name for o in g.output),
        places,
    )


def _as_declared(
    g: GraphProto, carried: Sequence[Node], results: tuple[Node, ...]
) -> tuple[Node, ...]:
    """What a round makes of carried values. A size that data decide in the round, and that the body
    declares to stay what it is before the first one, is held to that."""
    inside = defined_symbols(*toposort(*results))
    out = list(results)
    for k, n in enumerate(carried):
        after = results[1 + k]
        declared = [i.type.tensor_type.shape.dim for i in (g.input[2 + k], g.output[1 + k])]
        if any(len(dims) != after.type.rank for dims in declared) or n.type.rank != after.type.rank:
            continue
        shape = list(after.type.shape)
        for axis, d in enumerate(shape):
            size = known(n.type.shape[axis])
            said = {dims[axis].dim_value for dims in declared if dims[axis].HasField("dim_value")}
            if inside.intersection(free_vars(d)) and said == {size}:
                shape[axis] = n.type.shape[axis]
        if tuple(shape) != after.type.shape:
            out[1 + k] = emit("reshape", after, shape=tuple(shape))
    return tuple(out)


def _states(
    c: OnnxNode, g: GraphProto, carried: Sequence[Node], places: Sequence[tuple[int, int]]
) -> list[Node]:
    """The formal inputs for carried values, with a symbol for each size that changes."""
    out: list[Node] = []
    for k, n in enumerate(carried):
        name = g.input[2 + k].name
        shape = tuple(
            c.importer.symbols.fresh(f"{name}_{axis}") if (k, axis) in places else d
            for axis, d in enumerate(n.type.shape)
        )
        out.append(formal(name, TensorType(n.type.dtype, shape)))
    return out


def _sizes_at(states: Sequence[Node], places: Sequence[tuple[int, int]]) -> list[Var]:
    """The symbols of the sizes of carried values that change."""
    return free_vars(*(states[k].type.shape[axis] for k, axis in places)) if places else []


def _changing(
    states: Sequence[Node], results: Sequence[Node], places: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, int], ...]:
    """The (carried, axis) pairs whose size a round changes, those known so far among them."""
    found = set(places)
    for k, (before, after) in enumerate(zip(states, results, strict=False)):
        if before.type.dtype != after.type.dtype or before.type.rank != after.type.rank:
            raise Unsupported(
                f"its carried value {k} starts as {type_text(before)} and is {type_text(after)} "
                "after a round",
                "keep its element type and its rank",
            )
        pairs = zip(before.type.shape, after.type.shape, strict=True)
        found |= {(k, axis) for axis, (m, n) in enumerate(pairs) if m is not n}
    return tuple(sorted(found))


def _slices(
    g: GraphProto, changing: Sequence[Var], results: Sequence[Node], first: int
) -> list[Node]:
    """What a round gives to be stacked, from output `first` on. Slices have one size: where a round
    decides it (or it is one of `changing`), that is the declared one, which each round is held to.
    """
    inside = {*changing, *defined_symbols(*toposort(*results))}
    out: list[Node] = []
    for n, o in zip(results[first:], g.output[first:], strict=True):
        declared = o.type.tensor_type.shape.dim
        shape = list(n.type.shape)
        for axis, d in enumerate(shape):
            if not inside.intersection(free_vars(d)):
                continue
            if len(declared) != len(shape) or not declared[axis].HasField("dim_value"):
                raise Unsupported(
                    f"it stacks {type_text(n)} ({o.name!r}), a size that each round decides",
                    "declare the size of that output of the body as a number",
                )
            shape[axis] = Const(declared[axis].dim_value)
        out.append(n if tuple(shape) == n.type.shape else emit("reshape", n, shape=tuple(shape)))
    return out


def _loop_node(
    c: OnnxNode,
    trip: Node | None,
    cond: Node | None,
    carried: Sequence[Node],
    inputs: Sequence[Node],
    inner: Scope,
    results: tuple[Node, ...],
    names: tuple[str, ...],
    places: tuple[tuple[int, int], ...] = (),
) -> list[Node]:
    captures = inner.captures.values()
    c.importer.check_settled([*(outer for outer, _ in captures), *carried])
    body = c.importer.graph("body", (*inputs, *(i for _, i in captures)), results, names)
    outer = [o for o, _ in captures]
    attrs: dict[str, Attr] = {"body": body, "carried": len(carried)}
    if places:
        stems = [f"{c.outputs[k] or 'state'}_{axis}" for k, axis in places]
        symbols = tuple(c.importer.symbols.fresh(stem) for stem in stems)
        attrs |= {"places": places, "symbols": symbols}
    if len(results) > 1 + len(carried) and not rounds_known(trip, cond, body):
        attrs["rounds"] = c.importer.symbols.fresh(f"{c.outputs[-1]}_rounds")
    return outputs_of(emit("loop", trip, cond, *carried, *outer, **attrs))


def scan(c: OnnxNode) -> Sequence[Node]:
    """As a loop: round i reads element i of each scanned operand, and the results are stacked."""
    g, count = c.get_graph("body"), c.get_int("num_scan_inputs", 0)
    operands = c.inputs[1:] if c.version < 9 else c.inputs
    if not 0 < count <= len(operands) or len(g.input) != len(operands):
        raise ModelError(
            f"expected {len(operands)} inputs of the body, 1 or more of them scanned, "
            f"found {len(g.input)}, of which {count} scanned"
        )
    first = len(c.inputs) - count
    states = [c[k] for k in range(len(c.inputs) - len(operands), first)]
    scanned = [c[k] for k in range(first, len(c.inputs))]
    if c.version < 9:
        return _batched_scan(c, g, states, scanned)
    axes = [
        check_axis(a, n.type.rank)
        for a, n in zip(_listed(c, "scan_input_axes", count), scanned, strict=True)
    ]
    backwards = _listed(c, "scan_input_directions", count)
    scanned[0] = _equally_long(scanned, axes)
    out = _scan_loop(c, c.scope, g, states, list(zip(scanned, axes, backwards, strict=True)))
    stacked = out[len(states) :]
    to_axes = _listed(c, "scan_output_axes", len(stacked))
    turned = _listed(c, "scan_output_directions", len(stacked))
    rest = [_placed(n, a, d) for n, a, d in zip(stacked, to_axes, turned, strict=True)]
    return [*out[: len(states)], *rest]


def _equally_long(scanned: Sequence[Node], axes: Sequence[int]) -> Node:
    """The first of what is scanned, held back until all are known to be as long."""
    sizes = [n.type.shape[a] for n, a in zip(scanned, axes, strict=True)]
    needs = [compare("eq", sizes[0], s) for s in sizes[1:]]
    if FALSE in needs:
        listed = ", ".join(map(dim_text, sizes))
        raise ModelError(f"expected what is scanned to be equally long, found {listed}")
    return needing(scanned[0], needs, "all that is scanned to be equally long")


def _listed(c: OnnxNode, name: str, count: int) -> tuple[int, ...]:
    """An attribute with a number for each of `count` tensors; zeros where it is left out."""
    found = c.get_ints(name) or (0,) * count
    if len(found) != count:
        raise ModelError(f"attribute {name!r}: expected {count} numbers, found {len(found)}")
    return found


def _placed(n: Node, axis: int, backwards: int) -> Node:
    """Stacked results with the axis of the rounds where it belongs, the last round first where they
    are stacked backwards."""
    if backwards:
        n = emit("slice", n, starts=(-1,), ends=(-(2**31),), axes=(0,), steps=(-1,))
    order = list(range(1, n.type.rank))
    order.insert(check_axis(axis, n.type.rank), 0)
    return n if not order[0] else emit("transpose", n, perm=tuple(order))


def _batched_scan(
    c: OnnxNode, g: GraphProto, states: Sequence[Node], scanned: Sequence[Node]
) -> list[Node]:
    """Scan of opset 8: every operand has an axis of samples in front, each of which may be of a
    length of its own (operand 0). A loop over samples, of a loop over rounds."""
    lengths, whole = c.find(0), [*states, *scanned]
    if any(n.type.rank < 1 for n in whole) or any(n.type.rank < 2 for n in scanned):
        raise ModelError("expected samples in front of every operand, then what is scanned")
    number = make_input("scan_sample", TensorType("i64", ()))
    go = make_input("scan_sample_go", TensorType("bool", ()))
    scope = Scope(c.scope.opsets, outer=c.scope, chain=c.scope.chain)

    def of_sample(name: str, outer: Node) -> Node:
        inside = make_input(f"{name}_samples", outer.type)
        scope.captures[f"{name}_samples"] = (outer, inside)
        return emit("gather", inside, number, axis=0)

    parts = [of_sample(i.name, n) for i, n in zip(g.input, whole, strict=True)]
    length = None if lengths is None else of_sample("scan_length", lengths)
    own, count = parts[: len(states)], len(scanned)
    reads = [
        (n, 0, d) for n, d in zip(parts[-count:], _listed(c, "directions", count), strict=True)
    ]
    results = (emit("identity", go), *_scan_loop(c, scope, g, own, reads, length))
    names = ("scan_more", *(o.name for o in g.output))
    return _loop_node(c, size_of(scanned[0], 0), None, [], [number, go], scope, results, names)


def _scan_loop(
    c: OnnxNode,
    scope: Scope,
    g: GraphProto,
    states: Sequence[Node],
    scanned: Sequence[tuple[Node, int, int]],
    length: Node | None = None,
) -> list[Node]:
    """(last states, stacked results) of a loop in a scope. `scanned`: operands with the axis along
    which each is read, and whether backwards. After `length` rounds nothing changes any more, and
    results are 0."""
    operand, axis, _ = scanned[0]
    trip = size_of(operand, axis)
    names = [i.name for i in g.input]
    round_ = make_input("scan_round", TensorType("i64", ()))
    go = make_input("scan_go", TensorType("bool", ()))
    own = [formal(k, n.type) for k, n in zip(names, states, strict=False)]
    stop = None if length is None else make_input("scan_rounds", length.type)
    whole = [
        make_input(f"{k}_all", n.type)
        for k, (n, _, _) in zip(names[len(states) :], scanned, strict=True)
    ]
    parts: list[Node] = []
    for n, (_, along, backwards) in zip(whole, scanned, strict=True):
        last = emit("sub", size_of(n, along) if stop is None else stop, scalar(1, round_))
        at = emit("sub", last, round_) if backwards else round_
        parts.append(emit("gather", n, at, axis=along))
    inner = c.importer.body(g, scope, [*own, *parts], f"{c.label}, body", round=round_)
    for inside, (outer, _, _) in zip(whole, scanned, strict=True):
        inner.captures[str(inside.attr("name"))] = (outer, inside)
    results = made(c, g, inner)
    results = (*results[: len(own)], *_slices(g, (), results, len(own)))
    if stop is not None and length is not None:
        inner.captures["scan_rounds"] = (length, stop)
        going = emit("less", round_, stop)
        before = [*own, *(scalar(0, n) for n in results[len(own) :])]
        results = tuple(
            emit("where", going, n, old) for n, old in zip(results, before, strict=True)
        )
    out = (emit("identity", go), *results)
    more = ("scan_more", *(o.name for o in g.output))
    return _loop_node(c, trip, None, states, [round_, go, *own], inner, out, more)


TABLE: dict[str, Handler] = {"If": if_, "Loop": loop, "Scan": scan}
