"""Models that native code alone cannot be: a plan of native parts and of steps on the host.

    plan = read_plan("pipeline.onnx")

Texts, sequences, optionals and maps exist on the host only (onnx_host.py says which operators run
there). Between such steps, as many nodes as possible become one native part, a Graph like any
other; control flow with such steps inside has bodies that are plans themselves. A plan names values
as the model does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto

from naru.dtypes import DTYPES
from naru.errors import IRError, ModelError, UnsupportedError
from naru.frontend import onnx_check as check
from naru.frontend.onnx import functions_of, in_file, load_model, opsets_of
from naru.frontend.onnx_data import Tensors, Texts
from naru.frontend.onnx_foreign import holds_texts, inlined, mark_texts, needs_host
from naru.frontend.onnx_host import CONTROL, HostNode, Rule, rule_of
from naru.frontend.onnx_import import Importer
from naru.frontend.onnx_kinds import (
    STRING,
    Kind,
    OptionalKind,
    SequenceKind,
    TensorKind,
    kind_of,
    scalar_kind,
    union,
)
from naru.frontend.onnx_node import Unsupported, graph_of
from naru.frontend.onnx_scope import Missing, Scope, identifier
from naru.frontend.onnx_unique import with_unique_names
from naru.ir.expr import Const, Expr, Var
from naru.ir.graph import Graph, Node, TensorType, make_input

NATIVE = "native"
CONSTANT = "constant"
MOST_ROUNDS = 2000  # in which loops find the kinds of what they carry; models need a few


@dataclass(frozen=True)
class Body:
    """Steps in the order in which they run, over named values."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Step:
    """One operator on the host, or `native` (attribute `part`: which), or `constant` (`index`). An
    operand that is left out is read as ""."""

    operator: str
    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    bodies: Mapping[str, Body] = field(default_factory=dict[str, Body])


@dataclass(frozen=True)
class HostPlan:
    """`texts[k]` is the text with number k; `constants` are what steps on the host read. `columns`:
    see Graph."""

    name: str
    inputs: tuple[tuple[str, Kind], ...]
    outputs: tuple[tuple[str, Kind | None], ...]
    body: Body
    parts: tuple[Graph, ...]
    constants: tuple[np.ndarray, ...]
    texts: tuple[str, ...]
    files: tuple[Path, ...]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, "tuple[str, ...]"])


def read_plan(
    source: str | os.PathLike[str] | bytes | ModelProto, *, name: str | None = None
) -> HostPlan | None:
    """The plan of a model; None for one in which nothing needs the host. Raises as read_onnx."""
    model, folder, where = load_model(source)
    if not needs_host(model):
        return None
    planner = None
    try:
        check.check_text(model)
        planner = Planner(with_unique_names(inlined(model)), folder)
        return planner.plan(name)
    except ModelError as error:
        if planner is not None and planner.problems:  # what came of these may not fit
            raise UnsupportedError(planner.problems, where=where) from None
        raise in_file(error, where) from None
    except UnsupportedError as error:
        raise UnsupportedError(error.problems, where=where) from None


# --- planning -------------------------------------------------------------------------------------


@dataclass
class Level:
    """The values of one graph. A kind of None: it could not be made, and that was reported."""

    opsets: Mapping[str, int]
    outer: Level | None = None
    kinds: dict[str, Kind | None] = field(default_factory=dict[str, "Kind | None"])
    constants: dict[str, Node] = field(default_factory=dict[str, Node])
    place: str = ""
    fetched: set[str] = field(default_factory=set[str])  # constants that steps here have read

    def has(self, name: str) -> bool:
        own = name in self.kinds or name in self.constants
        return own or (self.outer is not None and self.outer.has(name))

    def constant(self, name: str) -> Node | None:
        if name in self.constants or self.outer is None or name in self.kinds:
            return self.constants.get(name)
        return self.outer.constant(name)

    def kind(self, name: str) -> Kind | None:
        if name in self.kinds or self.outer is None:
            return self.kinds.get(name)
        return self.outer.kind(name)


class Planner:
    """The state of one plan while it is made; see read_plan."""

    def __init__(self, model: ModelProto, folder: Path | None) -> None:
        self.model = model
        self.texts = Texts()
        self.tensors = Tensors(folder, self.texts)
        self.functions = functions_of(model)
        self.parts: list[Graph] = []
        self.constants: list[np.ndarray] = []
        self.problems: list[str] = []
        self.rounds = 0  # of all loops, beyond the first of each; loops in loops multiply

    def plan(self, name: str | None) -> HostPlan:
        g = self.model.graph
        level = Level(opsets_of(self.model))
        self.add_initializers(g, level)
        inputs: list[tuple[str, Kind]] = []
        for v in g.input:
            if v.name in level.constants:
                continue
            what = f"input {v.name!r}"
            if v.name in level.kinds:
                raise ModelError(
                    "this name is defined twice", where=what, hint="rename one of the two"
                )
            kind = self.declared(v.type, what)
            self.define(v.name, kind, level)
            if kind is not None:
                inputs.append((v.name, kind))
        body = self.body(g, level, [n for n, _ in inputs])
        outputs = [(o.name, self.output_kind(o.type, o.name, level)) for o in g.output]
        if self.problems:
            raise UnsupportedError(self.problems)
        return HostPlan(
            identifier(name if name is not None else g.name, "model"),
            tuple(inputs),
            tuple(outputs),
            body,
            tuple(self.parts),
            tuple(self.constants),
            tuple(self.texts.numbers),
            tuple(sorted(self.tensors.files)),
        )

    def report(self, where: str, reason: str, hint: str | None = None) -> None:
        text = f"{where}: {reason}" + (f"; try: {hint}" if hint else "")
        if text not in self.problems:
            self.problems.append(text)

    def declared(self, t: TypeProto, where: str) -> Kind | None:
        """A declared kind; None, reported, where there is none."""
        try:
            kind = kind_of(t, where)
        except Unsupported as error:
            return self.report(where, error.reason, error.hint)
        if kind is None:
            raise ModelError("expected a type, found none", where=where)
        return kind

    def output_kind(self, t: TypeProto, name: str, level: Level) -> Kind | None:
        """The kind that was found; what is unknown of it is as declared."""
        node, kind = level.constant(name), level.kind(name)
        if node is not None:
            kind = self.found_kind(name, node, {})
        try:
            declared = kind_of(t, f"output {name!r}")
        except Unsupported:
            declared = None
        found, told = (k.dtype if isinstance(k, TensorKind) else None for k in (kind, declared))
        if found and told and found != told:
            where = f"output {name!r}"
            raise ModelError(f"it is declared as {declared}, found {kind}", where=where)
        return refined(kind, declared)

    def add_initializers(self, g: GraphProto, level: Level) -> None:
        strings = (t.name for t in g.initializer if t.data_type == TensorProto.STRING)
        self.texts.values.update(strings)
        importer, scope = self.importer(level)
        importer.add_initializers(g, scope)
        self.problems += importer.problems
        for name, value in scope.values.items():
            if isinstance(value, Node):
                level.constants[name] = value
            else:
                level.kinds[name] = None

    def body(self, g: GraphProto, level: Level, inputs: Sequence[str]) -> Body:
        """A graph whose inputs are known, as steps."""
        known = {*level.kinds, *level.constants}
        nodes = check.in_order(g.node, known, level.place)
        outputs = [o.name for o in g.output]
        steps = self.steps(nodes, level, outputs)
        for o in outputs:
            if not level.has(o):
                raise ModelError(
                    f"expected a node that makes the output {o!r}, found none",
                    where=level.place.rstrip(": ") or None,
                )
        steps += self.read_constants(outputs, level)
        return Body(tuple(inputs), tuple(outputs), tuple(steps))

    def steps(self, nodes: Sequence[NodeProto], level: Level, outputs: Sequence[str]) -> list[Step]:
        """In turns: all native nodes that can be run, as one part; then the host's."""
        steps: list[Step] = []
        left = [n for n in nodes if not self.fold_constant(n, level)]
        self.check_names(left, level)
        while left:
            group = self.native_group(left, level)
            chosen = {id(n) for n in group}
            left = [n for n in left if id(n) not in chosen]
            if group:
                needed = {*outputs, *(r for n in left for r in check.reads_of(n))}
                steps += self.part(group, level, needed)
            rest: list[NodeProto] = []
            for n in left:
                ready = all(level.has(r) for r in check.reads_of(n))
                if ready and self.on_host(n, level):
                    steps += self.host_steps(n, level)
                else:
                    rest.append(n)
            assert group or len(rest) < len(left), "nodes are in order, so the first can run"
            left = rest
        return steps

    def check_names(self, nodes: Sequence[NodeProto], level: Level) -> None:
        """Every value that is read is defined."""
        made = {o for n in nodes for o in n.output}
        for n in nodes:
            for name in check.reads_of(n):
                if name not in made and not level.has(name):
                    raise ModelError(
                        f"expected a value called {name!r}, found no input, initializer or node "
                        "that defines it",
                        where=check.label_of(n, level.place),
                    )

    def fold_constant(self, node: NodeProto, level: Level) -> bool:
        """Defines the value of a Constant."""
        if node.op_type != "Constant" or check.domain_of(node):
            return False
        importer, scope = self.importer(level)
        try:
            importer.add_node(node, scope)
        finally:
            self.problems += importer.problems
        name = node.output[0]
        made = scope.values[name]
        if not isinstance(made, Node):
            level.kinds[name] = None
            return True
        if holds_texts(node):
            self.texts.values.add(name)
        level.constants[name] = made
        return True

    def importer(self, level: Level) -> tuple[Importer, Scope]:
        chain = (level.place.removesuffix(": "),) if level.place else ()
        return Importer(self.tensors, self.functions), Scope(level.opsets, chain=chain)

    # --- native parts -----------------------------------------------------------------------------

    def native_group(self, nodes: Sequence[NodeProto], level: Level) -> list[NodeProto]:
        """The native nodes that can run now, one after the other."""
        group: list[NodeProto] = []
        made: set[str] = set()
        for n in nodes:
            reads = check.reads_of(n)
            if any(r not in made and not level.has(r) for r in reads):
                continue
            if not self.on_host(n, level, made):
                group.append(n)
                made.update(o for o in n.output if o)
                mark_texts(n, level.opsets, self.texts.values)
        return group

    def part(self, nodes: Sequence[NodeProto], level: Level, needed: set[str]) -> list[Step]:
        """One native part, and the kinds of its outputs."""
        made = [o for n in nodes for o in n.output if o]
        outs = [o for o in made if o in needed]
        importer, scope = self.importer(level)
        reads = dict.fromkeys(r for n in nodes for r in check.reads_of(n) if r not in set(made))
        inputs: list[Node] = []
        for name in reads:
            constant = level.constant(name)
            value = constant or self.part_input(name, level, importer)
            scope.values[name] = value if value is not None else Missing()
            if constant is None and value is not None:
                inputs.append(value)
        importer.add_nodes(nodes, scope)
        self.problems += [p for p in importer.problems if p not in self.problems]
        values = {o: scope.find(o) for o in outs}
        names = {v: n for n, v in importer.symbols.by_name.items()}
        for o, v in values.items():
            known = isinstance(v, Node)
            level.kinds[o] = self.found_kind(o, v, names) if known else None
        level.kinds.update((o, None) for o in made if o not in outs)
        nodes_made = [v for v in values.values() if isinstance(v, Node)]
        if not outs or len(nodes_made) != len(outs):
            return []
        # (The seed of random numbers is no operand of the step: each call draws one.)
        seeded = [*inputs, importer.seed] if importer.seed is not None else inputs
        graph = importer.graph(f"part{len(self.parts)}", seeded, nodes_made, outs)
        self.parts.append(replace(graph, operators=importer.operators))
        title = ", ".join(check.note_of(n) for n in nodes)
        reads_of = tuple(str(n.attr("name")) for n in inputs)
        return [Step(NATIVE, title, reads_of, tuple(outs), {"part": len(self.parts) - 1})]

    def part_input(self, name: str, level: Level, importer: Importer) -> Node | None:
        """A formal input of a part; None, reported where it is new, for what it cannot be."""
        kind = level.kind(name)
        if kind is None:
            return None
        if not isinstance(kind, TensorKind) or kind.shape is None:
            rank = isinstance(kind, TensorKind)
            self.report(
                f"{level.place}value {name!r}",
                f"native code reads it, and it is {'' if rank else 'a '}{kind}",
                "declare the dims of what it comes from" if rank else None,
            )
            return None
        dtype = "i64" if kind.dtype == STRING else kind.dtype
        dims: list[Expr] = []
        for axis, d in enumerate(kind.shape):
            if isinstance(d, int):
                dims.append(Const(d))
            elif d is None:
                dims.append(importer.symbols.fresh(f"{name}_{axis}"))
            else:
                dims.append(importer.symbols.named(d))
        return make_input(name, TensorType(dtype, tuple(dims)))

    def found_kind(self, name: str, n: Node, names: Mapping[Var, str]) -> TensorKind:
        """The kind of a value that native code makes."""
        dims = tuple(
            int(d.value) if isinstance(d, Const) else names.get(d) if isinstance(d, Var) else None
            for d in n.type.shape
        )
        return TensorKind(STRING if name in self.texts.values else n.type.dtype, dims)

    # --- steps on the host ------------------------------------------------------------------------

    def on_host(self, node: NodeProto, level: Level, native: set[str] | None = None) -> bool:
        """Does a node whose operands are known run on the host? `native`: values of the part that
        is being put together."""
        domain = check.domain_of(node)
        kinds = [self.operand_kind(n, level, native or set()) for n in node.input]
        if (domain, node.op_type, node.overload) in self.functions:
            return False
        if rule_of(node, domain, kinds) is not None or node.op_type == "SequenceMap":
            return True
        if not check.bodies_of(node):
            return False
        reads = check.reads_of(node)
        foreign = [r for r in reads if not _is_native(self.operand_kind(r, level, native or set()))]
        return bool(foreign) or any(self.graph_on_host(g) for g in check.bodies_of(node))

    def operand_kind(self, name: str, level: Level, native: set[str]) -> Kind | None:
        if not name:
            return None
        if name in self.texts.values:
            return TensorKind(STRING, None)
        if name in native or level.constant(name) is not None:
            return TensorKind("f32", None)  # some tensor: all that is asked
        return level.kind(name)

    def graph_on_host(self, g: GraphProto) -> bool:
        """Is there a step on the host in a body?"""
        for v in g.input:
            if v.type.WhichOneof("value") in ("sequence_type", "optional_type", "map_type"):
                return True
        for n in g.node:
            kinds = [TensorKind(STRING if i in self.texts.values else "f32", None) for i in n.input]
            host = n.op_type == "SequenceMap" or rule_of(n, check.domain_of(n), kinds) is not None
            if host or any(self.graph_on_host(b) for b in check.bodies_of(n)):
                return True
        return False

    def host_steps(self, node: NodeProto, level: Level) -> list[Step]:
        """A node on the host, behind the constants that it reads."""
        label = check.label_of(node, level.place)
        reads = check.reads_of(node)
        outputs = [o for o in node.output if o]
        if any(level.constant(r) is None and level.kind(r) is None for r in reads):
            level.kinds.update((o, None) for o in outputs)
            return []
        try:
            step = self.host_step(node, level, label)
        except (Unsupported, IRError) as error:
            reason = error.reason if isinstance(error, Unsupported) else str(error)
            self.report(label, reason, getattr(error, "hint", None))
            level.kinds.update((o, None) for o in outputs)
            return []
        except ModelError as error:
            if error.where and "node " in error.where:
                raise
            raise ModelError(error.message, where=label, hint=error.hint) from None
        return [*self.read_constants(step.reads, level), step]

    def host_step(self, node: NodeProto, level: Level, label: str) -> Step:
        domain = check.domain_of(node)
        version = level.opsets.get(domain)
        if version is None:
            raise ModelError(f"expected an opset_import for {domain or 'ai.onnx'!r}, found none")
        schema = check.find_schema(node.op_type, version, domain)
        if schema is None:
            raise ModelError(f"opset {version} has no {node.op_type}")
        check.check_counts(node, schema, label)
        check.check_attributes(node, version, domain, label)
        kinds = [self.kind_at(n, level) for n in node.input]
        if node.op_type in CONTROL:
            return self.control(node, level, label, kinds)
        rule = rule_of(node, domain, [self.operand_kind(n, level, set()) for n in node.input])
        if rule is None:
            raise Unsupported(f"{node.op_type} over values that live on the host")
        return self.simple(node, level, rule, kinds)

    def kind_at(self, name: str, level: Level) -> Kind | None:
        constant = level.constant(name) if name else None
        return self.found_kind(name, constant, {}) if constant else level.kind(name)

    def simple(
        self, node: NodeProto, level: Level, rule: Rule, kinds: Sequence[Kind | None]
    ) -> Step:
        made = rule(HostNode(node, kinds))
        for name, kind in zip(node.output, made.kinds, strict=False):
            self.define(name, kind, level)
        note = check.note_of(node)
        return Step(node.op_type, note, tuple(node.input), tuple(node.output), made.attrs)

    def define(self, name: str, kind: Kind | None, level: Level) -> None:
        if not name:
            return
        level.kinds[name] = kind
        if isinstance(kind, TensorKind) and kind.dtype == STRING:
            self.texts.values.add(name)

    def read_constants(self, names: Iterable[str], level: Level) -> list[Step]:
        """Steps that fetch the constants among some values, once a body."""
        steps: list[Step] = []
        for name in names:
            node = level.constant(name) if name and name not in level.fetched else None
            if node is None:
                continue
            level.fetched.add(name)
            array = Importer(self.tensors, {}).constants.find(node)
            assert array is not None
            steps.append(Step(CONSTANT, name, (), (name,), {"index": len(self.constants)}))
            self.constants.append(array)
        return steps

    # --- control flow -----------------------------------------------------------------------------

    def control(
        self, node: NodeProto, level: Level, label: str, kinds: Sequence[Kind | None]
    ) -> Step:
        make = {"If": self.if_, "Loop": self.loop, "SequenceMap": self.sequence_map}
        return make[node.op_type](node, level, label, kinds)

    def plan_body(
        self, g: GraphProto, level: Level, place: str, kinds: Sequence[Kind | None]
    ) -> tuple[Body, list[Kind | None]]:
        """(a body whose formal inputs are of these kinds, the kinds of its outputs)."""
        if len(g.input) != len(kinds):
            raise ModelError(f"{place}: expected {len(kinds)} inputs, found {len(g.input)}")
        inner = Level(level.opsets, level, place=f"{place}: ")
        for v, kind in zip(g.input, kinds, strict=True):
            self.define(v.name, refined(kind, _declared(v.type)), inner)
        self.add_initializers(g, inner)
        body = self.body(g, inner, [v.name for v in g.input])
        return body, [self.kind_at(o.name, inner) for o in g.output]

    def if_(self, node: NodeProto, level: Level, label: str, kinds: Sequence[Kind | None]) -> Step:
        bodies: dict[str, Body] = {}
        results: list[list[Kind | None]] = []
        for branch in ("then_branch", "else_branch"):
            g = graph_of(node.attribute, branch)
            bodies[branch], found = self.plan_body(g, level, f"{label}, {branch}", ())
            if len(found) != len(node.output):
                raise ModelError(
                    f"expected {len(node.output)} outputs of {branch}, found {len(found)}"
                )
            results.append(found)
        for name, a, b in zip(node.output, *results, strict=True):
            self.define(name, union(a, b) if a is not None and b is not None else None, level)
        note = check.note_of(node)
        return Step("If", note, tuple(node.input), tuple(node.output), {}, bodies)

    def loop(self, node: NodeProto, level: Level, label: str, kinds: Sequence[Kind | None]) -> Step:
        g, states = graph_of(node.attribute, "body"), list(kinds[2:])
        heads: list[Kind | None] = [scalar_kind("i64"), scalar_kind("bool")]
        while True:
            parts, constants = len(self.parts), len(self.constants)
            body, found = self.plan_body(g, level, f"{label}, body", [*heads, *states])
            if len(found) != 1 + len(node.output):
                raise ModelError(
                    f"expected {1 + len(node.output)} outputs of the body, found {len(found)}"
                )
            after = found[1 : 1 + len(states)]
            wider = [union(a, b) for a, b in zip(states, after, strict=True)]
            if wider == states or any(k is None for k in found):
                break
            states = wider  # what a round changes is less known than at the start: once more
            self.rounds += 1
            if self.rounds > MOST_ROUNDS:
                raise Unsupported(
                    f"loops whose values change their kinds more than {MOST_ROUNDS} times",
                    "declare the types of what bodies of loops take",
                )
            del self.parts[parts:], self.constants[constants:]
        stacked: list[dict[str, Any]] = []
        for kind in found[1 + len(states) :]:
            if kind is not None and not isinstance(kind, TensorKind):
                raise ModelError(f"expected tensors to stack, found {kind}")
            stacked.append(_empty(kind))
        results = [*states, *(_stacked(k) for k in found[1 + len(states) :])]
        for name, kind in zip(node.output, results, strict=True):
            self.define(name, kind, level)
        note, attrs = check.note_of(node), {"carried": len(states), "stacked": stacked}
        return Step("Loop", note, tuple(node.input), tuple(node.output), attrs, {"body": body})

    def sequence_map(
        self, node: NodeProto, level: Level, label: str, kinds: Sequence[Kind | None]
    ) -> Step:
        g = graph_of(node.attribute, "body")
        if not isinstance(kinds[0], SequenceKind):
            raise ModelError(f"operand 0: expected a sequence, found {kinds[0]}")
        mapped = [isinstance(k, SequenceKind) for k in kinds]
        formal = [k.element if isinstance(k, SequenceKind) else k for k in kinds]
        body, found = self.plan_body(g, level, f"{label}, body", formal)
        if len(found) != len(node.output):
            raise ModelError(f"expected {len(node.output)} outputs of the body, found {len(found)}")
        for name, kind in zip(node.output, found, strict=True):
            if kind is not None and not isinstance(kind, TensorKind):
                raise ModelError(f"expected tensors as results of the body, found {kind}")
            self.define(name, None if kind is None else SequenceKind(kind), level)
        attrs = {"mapped": mapped}
        note, reads = check.note_of(node), tuple(node.input)
        return Step("SequenceMap", note, reads, tuple(node.output), attrs, {"body": body})


def _is_native(kind: Kind | None) -> bool:
    return kind is None or isinstance(kind, TensorKind)


def _declared(t: TypeProto) -> Kind | None:
    try:
        return kind_of(t, "")
    except Unsupported:
        return None


def refined(kind: Kind | None, declared: Kind | None) -> Kind | None:
    """A kind with what only its declaration knows: a rank, the elements of an empty sequence."""
    if kind is None or declared is None:
        return kind or declared
    if isinstance(kind, TensorKind) and isinstance(declared, TensorKind):
        if kind.shape is None and declared.shape is not None:
            return TensorKind(kind.dtype, (None,) * len(declared.shape))
        return kind
    if isinstance(kind, SequenceKind) and isinstance(declared, SequenceKind):
        return SequenceKind(refined(kind.element, declared.element))
    if isinstance(kind, OptionalKind):
        inner = declared.element if isinstance(declared, OptionalKind) else declared
        return OptionalKind(refined(kind.element, inner))
    return kind


def _stacked(kind: Kind | None) -> Kind | None:
    if not isinstance(kind, TensorKind):
        return None
    return TensorKind(kind.dtype, None if kind.shape is None else (None, *kind.shape))


def _empty(kind: Kind | None) -> dict[str, Any]:
    """What a loop without a round stacks: dtype, and sizes (0 where they are unknown)."""
    if not isinstance(kind, TensorKind):
        return {"dtype": "float32", "shape": [0]}
    dtype = "int64" if kind.dtype == STRING else DTYPES[kind.dtype].numpy.name
    shape = [d if isinstance(d, int) else 0 for d in kind.shape or ()]
    return {"dtype": dtype, "shape": [0, *shape]}
