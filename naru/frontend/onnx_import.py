"""Turns the nodes of an ONNX graph into ours: scopes of names, functions inlined, bodies of control
flow with their captures as explicit inputs, and every unsupported node collected into one report.

A value that could not be made is a `Missing`; nodes that read one are passed over (and only checked
for support themselves), so that one run tells the user everything there is to change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeAlias, cast

from google.protobuf.message import DecodeError
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TypeProto, defs, helper

from naru.dtypes import DTYPES
from naru.errors import IRError, ModelError, NaruError, UnsupportedError
from naru.frontend import onnx_check as check
from naru.frontend import onnx_sequences
from naru.frontend.onnx_constants import Constants
from naru.frontend.onnx_data import MAX_RANK, Tensors
from naru.frontend.onnx_node import (
    AlreadyReported,
    DependsOnData,
    OnnxNode,
    Unsupported,
    type_text,
)
from naru.frontend.onnx_scope import Items, Missing, Scope, Symbols, Value, identifier
from naru.frontend.onnx_signatures import check_signature
from naru.frontend.onnx_sparse import dense as read_sparse
from naru.frontend.onnx_tables import CUSTOM, EXTENSIONS, Handler, find_handler, find_signature
from naru.ir.expr import INT_MAX, Const
from naru.ir.graph import Attr, Graph, Node, TensorType, make_constant, toposort
from naru.ir.simplify import compare, known, prod
from naru.ops.registry import apply

MAX_DEPTH = 40  # of functions in functions and of bodies in bodies
OLDEST = 6  # broadcasting by attributes ended with opset 7; what little 6 differs in is handled
BROADCAST = frozenset(  # results have the rank of the operand of most dims
    {
        "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max",
        "Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum", "Where", "Xor",
    }
)  # fmt: skip
MAX_NODES = 500_000  # after inlining; functions that call functions multiply


FunctionKey: TypeAlias = tuple[str, str, str]


def count_nodes(
    g: GraphProto, functions: Mapping[FunctionKey, FunctionProto]
) -> dict[FunctionKey, int]:
    """How many nodes each function that is called comes to, with functions in place of calls: each
    is looked at once, for functions that call others twice double. ModelError where the graph comes
    to more than MAX_NODES. (What calls itself is refused elsewhere.)"""
    sizes: dict[FunctionKey, int] = {}

    def size(nodes: Iterable[NodeProto], depth: int) -> int:
        total = 0
        for n in nodes if depth <= MAX_DEPTH else ():
            key = (check.domain_of(n), n.op_type, n.overload)
            if key in functions and key not in sizes:
                sizes[key] = 0
                sizes[key] = size(functions[key].node, depth + 1)
            total += sizes.get(key, 1) + sum(size(b.node, depth + 1) for b in check.bodies_of(n))
        return total

    if size(g.node, 0) > MAX_NODES:
        raise ModelError(f"inlining its functions gives more than {MAX_NODES} nodes")
    return sizes


@dataclass
class Importer:
    """The state of one import. `notes` maps our nodes to the names of ONNX nodes and weights,
    `operators` the names of nodes to their operators. `loose` are values of one element, seen as of
    the most dims that they may have: only running tells how many they are. `fixed`: sizes that
    preprocessing gives to symbols."""

    tensors: Tensors
    functions: Mapping[FunctionKey, FunctionProto]
    symbols: Symbols = field(default_factory=Symbols)
    constants: Constants = field(default_factory=Constants)
    notes: dict[Node, str] = field(default_factory=dict[Node, str])
    operators: dict[str, str] = field(default_factory=dict[str, str])
    problems: list[str] = field(default_factory=list[str])
    loose: set[Node] = field(default_factory=set[Node])
    fixed: Mapping[str, int] = field(default_factory=dict[str, int])
    count: int = 0
    seed: Node | None = None  # the input that random numbers begin with, once there are any
    streams: int = 0  # of random numbers so far

    # --- graphs -------------------------------------------------------------------------------

    def add_initializers(self, g: GraphProto, scope: Scope) -> None:
        """Defines the weights of a graph. Those that a Gradient names are kept apart from constants
        of the same contents."""
        apart = {
            x.decode("utf-8", "replace")
            for n in g.node
            if n.op_type == "Gradient"
            for a in n.attribute
            for x in a.strings
        }
        dense = [(t.name, partial(self.tensors.read, t)) for t in g.initializer]
        sparse = [
            (s.values.name, partial(read_sparse, self.tensors, s)) for s in g.sparse_initializer
        ]
        for name, read in (*dense, *sparse):
            what = f"{scope.place}initializer {name!r}"
            if not name:
                raise ModelError("an initializer has no name", where=scope.place or None)
            if name in scope.values:
                raise ModelError(
                    "this name is defined twice", where=what, hint="rename one of the two"
                )
            try:
                n = make_constant(read(what))
            except Unsupported as error:
                scope.values[name] = self.report(what, error.reason, error.hint)
                continue
            scope.values[name] = n
            self.notes.setdefault(n, name)
            if name in apart:
                scope.values[name] = apply("identity", n, of=name)

    def add_nodes(self, nodes: Sequence[NodeProto], scope: Scope) -> None:
        """Converts nodes in an order that defines values before they are read."""
        self.count += len(nodes)
        if self.count > MAX_NODES:
            raise ModelError(f"inlining its functions gives more than {MAX_NODES} nodes")
        for node in check.in_order(nodes, set(scope.values), scope.place):
            self.add_node(node, scope)

    def read_outputs(self, g: GraphProto, scope: Scope) -> list[Value]:
        """The values of a graph's outputs."""
        found: list[Value] = []
        for o in g.output:
            value = scope.find(o.name)
            if value is None:
                raise ModelError(
                    f"expected a node that makes the output {o.name!r}, found none",
                    where=scope.place.rstrip(": ") or None,
                    hint="the file may be cut short",
                )
            found.append(self.use(value, f"{scope.place}output {o.name!r}"))
        return found

    def graph(
        self, name: str, inputs: Sequence[Node], outputs: Sequence[Node], names: Sequence[str]
    ) -> Graph:
        """A Graph with the notes of its nodes."""
        self.check_settled(outputs)
        notes = {n: self.notes[n] for n in toposort(*outputs) if n in self.notes}
        return Graph(name, tuple(inputs), tuple(outputs), tuple(names), notes)

    def check_settled(self, nodes: Iterable[Node | None]) -> None:
        """Unsupported where the rank of one of the nodes is known only at run time."""
        for n in nodes:
            if n in self.loose:
                raise UnsupportedError(
                    [f"a value of rank {n.type.rank} or less: branches give it different ones"]
                )

    def check_readers(self, node: NodeProto, inputs: Sequence[Node | None]) -> None:
        """A value of loose rank may be read where its rank makes no difference to the result."""
        loose = [n for n in inputs if n is not None and n in self.loose]
        if not loose or (node.op_type == "CastLike" and inputs[0] not in self.loose):
            return
        most = max((n.type.rank for n in inputs if n is not None and n not in loose), default=-1)
        if node.op_type not in BROADCAST or most < max(n.type.rank for n in loose):
            self.check_settled(loose)

    def body(
        self,
        g: GraphProto,
        scope: Scope,
        inputs: Sequence[Node],
        what: str,
        inline: bool = False,
        round: Node | None = None,
    ) -> Scope:
        """Converts a body of control flow, given the nodes of its formal inputs (and of the number
        of the round). Its captures are in the scope that comes back."""
        # Each link is what its place adds: with whole places the text would double at each level.
        chain = self.deeper(scope.chain, what.removeprefix(scope.place))
        inner = Scope(scope.opsets, outer=scope, inline=inline, chain=chain, round=round)
        if len(g.input) != len(inputs):
            raise ModelError(
                f"expected {len(inputs)} inputs of the body, found {len(g.input)}", where=what
            )
        for formal, n in zip(g.input, inputs, strict=True):
            inner.values[formal.name] = n
        self.add_initializers(g, inner)
        self.add_nodes(g.node, inner)
        return inner

    def deeper(self, chain: tuple[str, ...], what: str) -> tuple[str, ...]:
        """The chain with one more link; refuses what is nested absurdly deep."""
        if len(chain) >= MAX_DEPTH:
            raise ModelError(
                f"functions or bodies are nested more than {MAX_DEPTH} deep",
                where="".join(f"{c}: " for c in chain[:2]).rstrip(": ") or None,
            )
        return (*chain, what)

    # --- nodes --------------------------------------------------------------------------------

    def add_node(self, node: NodeProto, scope: Scope) -> None:
        """Converts one node and defines its outputs."""
        label = check.label_of(node, scope.place)
        inputs: list[Value | None] = []
        for name in node.input:
            value = scope.find(name) if name else None
            if name and value is None:
                raise ModelError(
                    f"expected a value called {name!r}, found no input, initializer or node "
                    "that defines it",
                    where=label,
                    hint="the file may be cut short, or its weights may not have been saved",
                )
            inputs.append(None if value is None else self.use(value, label))
        made: Sequence[Value]
        if any(isinstance(v, Missing) for v in inputs):
            made = self.only_check(node, scope, label)
        else:
            made = self.convert(node, scope, inputs, label)
        for k, name in enumerate(node.output):
            if name:
                absent = Missing(f"{label}: its output {k} ({name!r}) is not supported")
                scope.values[name] = made[k] if k < len(made) else absent

    def convert(
        self, node: NodeProto, scope: Scope, values: Sequence[Value | None], label: str
    ) -> Sequence[Value]:
        """The results of a node: by the table, or by inlining its function."""
        absent = [Missing()] * len(node.output)
        inputs = [v for v in values if v is None or isinstance(v, Node)]
        try:
            if len(inputs) < len(values) or self.makes_sequence(node):
                return self.with_sequences(node, scope, values, label)
            results = self.dispatch(node, scope, inputs, label)
            check_ranks(results)
        except AlreadyReported:
            return absent
        except Unsupported as error:
            found = f"{error.reason}; operands {', '.join(map(type_text, inputs)) or 'none'}"
            return [
                self.report(f"{label}, opset {self.opset(node, scope)}", found, error.hint)
            ] * max(len(node.output), 1)
        except UnsupportedError as error:
            for problem in error.problems:
                self.report(label, problem, None)
            return absent
        except (ModelError, IRError) as error:
            raise located(error, label, inputs) from None
        name = check.note_of(node)
        self.operators.setdefault(name, node.op_type)
        self.note(results, inputs, name)
        return results

    def makes_sequence(self, node: NodeProto) -> bool:
        """Is it an operator of sequences?"""
        return node.op_type in onnx_sequences.TABLE and check.domain_of(node) == ""

    def with_sequences(
        self, node: NodeProto, scope: Scope, values: Sequence[Value | None], label: str
    ) -> Sequence[Value]:
        """The results of a node that takes or gives sequences."""
        domain, version = check.domain_of(node), self.opset(node, scope)
        schema = check.find_schema(node.op_type, version, domain)
        tables = {**onnx_sequences.TABLE, **onnx_sequences.OF_SEQUENCES}
        handler = tables.get(node.op_type) if domain == "" else None
        if schema is None or handler is None:
            raise Unsupported("a sequence as an operand")
        check.check_counts(node, schema, label)
        check.check_attributes(node, version, domain, label)

        def body(g: GraphProto, inputs: Sequence[Value]) -> list[Value]:
            nodes = [v for v in inputs if isinstance(v, Node)]
            inner = self.body(g, scope, nodes, f"{label}, body", inline=True)
            return self.read_outputs(g, inner)

        given = onnx_sequences.SequenceNode(node, values, self.constants.find, body)
        made = handler(given)
        results = made if isinstance(made, Sequence) else (made,)
        name = check.note_of(node)
        self.operators.setdefault(name, node.op_type)
        nodes = [n for v in results for n in (v.nodes if isinstance(v, Items) else (v,))]
        known = {n for v in values for n in (v.nodes if isinstance(v, Items) else (v,))}
        self.note(nodes, [n for n in known if isinstance(n, Node)], name)
        return results

    def dispatch(
        self, node: NodeProto, scope: Scope, inputs: Sequence[Node | None], label: str
    ) -> Sequence[Value]:
        self.check_readers(node, inputs)
        domain = check.domain_of(node)
        function = self.functions.get((domain, node.op_type, node.overload))
        if function is not None:
            return self.call(function, node, scope, inputs)
        version = self.opset(node, scope)
        schema = check.find_schema(node.op_type, version, domain)
        signature = find_signature(node.op_type, domain, version)
        if schema is not None and domain == "" and version < OLDEST:
            later = check.find_schema(node.op_type, OLDEST, domain)
            if later is None or later.since_version != schema.since_version:
                raise Unsupported(
                    f"naru reads it from opset {OLDEST} on",
                    "onnx.version_converter.convert_version(model, 17)",
                )
        texts = self.tensors.texts.values if self.tensors.texts is not None else set[str]()
        if schema is not None:
            check.check_counts(node, schema, label)
            check.check_attributes(node, version, domain, label)
            check.check_dtypes(node, schema, inputs, label, texts)
        elif signature is not None:
            check_signature(node, signature, label)
            if not texts.isdisjoint(node.input):
                raise Unsupported(f"{node.op_type} of texts")
        else:
            raise Unsupported(*self.unknown(node, domain, version))
        handler = find_handler(node.op_type, domain, version)
        if handler is not None:
            attrs = {a.name: a for a in node.attribute}
            if any(a.ref_attr_name for a in node.attribute):
                raise ModelError("it refers to an attribute of a function, but is in none")
            return self.handle(handler, node, label, version, inputs, attrs, scope)
        return self.call(self.schema_function(node, schema, version, inputs), node, scope, inputs)

    def handle(
        self,
        handler: Handler,
        node: NodeProto,
        label: str,
        version: int,
        inputs: Sequence[Node | None],
        attrs: Mapping[str, AttributeProto],
        scope: Scope,
    ) -> Sequence[Value]:
        """What a handler makes of a node; called again with symbols for numbers that it needs and
        only data tell."""
        while True:
            seen = OnnxNode(node.op_type, label, version, inputs, node.output, attrs, self, scope)
            try:
                made = handler(seen)
                return made if isinstance(made, Sequence) else (made,)
            except DependsOnData as needed:
                inputs = self.bind(node.output, inputs, needed)

    def bind(
        self, outputs: Sequence[str], inputs: Sequence[Node | None], needed: DependsOnData
    ) -> list[Node | None]:
        """The operands of a node with the numbers that it needs bound to symbols. The others are
        held back until then."""
        numbers = inputs[needed.at]
        assert numbers is not None
        if numbers.type.dtype not in ("i64", "i32"):
            numbers = apply("cast", numbers, to="i64")
        stem = identifier(next((o for o in outputs if o), needed.what), "size")
        count = known(prod(numbers.type.shape)) or 0
        low = needed.least if needed.resolve is None else -INT_MAX
        raw = tuple(self.symbols.fresh(f"{stem}_{k}", low) for k in range(count))
        attrs: dict[str, Attr] = {"symbols": raw, "example": needed.example}
        if needed.resolve is not None:
            exprs = tuple(needed.resolve(raw))
            symbols = [self.symbols.fresh(f"{stem}_size", needed.least) for _ in exprs]
            attrs |= {"symbols": tuple(symbols), "raw": raw, "exprs": exprs}
        bound = apply("bind_dim", numbers, **attrs)
        needs: dict[str, Attr] = {}
        if needed.rank is not None:
            inside = [(compare("ge", r, -needed.rank), compare("lt", r, needed.rank)) for r in raw]
            what = f"axes in {-needed.rank}..{needed.rank - 1}"
            needs = {"needs": tuple(c for pair in inside for c in pair), "what": what}
        held: list[Node | None] = [
            n if n is None or n.op == "bind_dim" else apply("with_sizes", n, bound, **needs)
            for n in inputs
        ]
        held[needed.at] = bound
        return held

    def only_check(self, node: NodeProto, scope: Scope, label: str) -> Sequence[Value]:
        """For a node whose operands could not be made: is it itself supported?"""
        domain = check.domain_of(node)
        if (domain, node.op_type, node.overload) not in self.functions:
            version = self.opset(node, scope)
            schema = check.find_schema(node.op_type, version, domain)
            if find_signature(node.op_type, domain, version) is not None:
                return [Missing()] * max(len(node.output), 1)
            if schema is None:
                self.report(f"{label}, opset {version}", *self.unknown(node, domain, version))
            elif self.makes_sequence(node) or has_function(schema):
                pass
            elif find_handler(node.op_type, domain, version) is None:
                self.report(f"{label}, opset {version}", f"naru has no {node.op_type} yet", None)
        return [Missing()] * max(len(node.output), 1)

    def opset(self, node: NodeProto, scope: Scope) -> int:
        """The version of the node's domain that the graph (or function) around it imports."""
        domain = check.domain_of(node)
        if domain not in scope.opsets:
            raise ModelError(
                f"expected an opset_import for the domain {domain or 'ai.onnx'!r}, found none",
                where=check.label_of(node, scope.place),
            )
        return scope.opsets[domain]

    def unknown(self, node: NodeProto, domain: str, version: int) -> tuple[str, str]:
        """Why a node of no known op cannot be compiled, and what to try."""
        if domain in ("", "ai.onnx.ml"):
            return (
                f"opset {version} of the domain {domain or 'ai.onnx'!r} has no {node.op_type}",
                "check the name and the opset that the model declares",
            )
        hint = "naru.register_op, or a function body for it in the model"
        if domain in EXTENSIONS or domain in CUSTOM:
            return f"naru has no {node.op_type} of that domain yet", hint
        return f"the domain {domain!r} is not known", hint

    def use(self, value: Value, where: str) -> Value:
        """A value on its way into a node; reports the first use of an output that we don't make."""
        if isinstance(value, Missing) and value.reason is not None:
            self.report(where, value.reason, None)
            return Missing()
        return value

    def report(self, where: str, reason: str, hint: str | None) -> Missing:
        """Remembers an unsupported thing and goes on."""
        text = f"{where}: {reason}" + (f"; try: {hint}" if hint else "")
        if text not in self.problems:
            self.problems.append(text)
        return Missing()

    def note_steps(self, kind: str, steps: Mapping[Node, str]) -> None:
        """Notes what was declared beside its nodes: `preprocess.resize`."""
        for n, step in steps.items():
            self.notes.setdefault(n, f"{kind}.{step}")
            self.operators.setdefault(f"{kind}.{step}", step)

    def note(self, results: Sequence[Value], inputs: Sequence[Node | None], name: str) -> None:
        """Notes the ONNX name beside every new node of one conversion."""
        stack = [n for n in results if isinstance(n, Node)]
        known = {n for n in inputs if n is not None}
        while stack:
            n = stack.pop()
            if n in known or n in self.notes or n.op in ("input", "constant"):
                continue
            self.notes[n] = name
            stack.extend(c for c in n.inputs if c is not None)

    # --- functions ----------------------------------------------------------------------------

    def call(
        self,
        f: FunctionProto,
        node: NodeProto,
        scope: Scope,
        inputs: Sequence[Node | None],
    ) -> Sequence[Value]:
        """Inlines a function: its body over the node's operands and attributes."""
        name = f"{f.domain}.{f.name}" if f.domain else f.name
        what = f"function {name}" + (f" ({f.overload})" if f.overload else "")
        if what in scope.chain:
            raise ModelError(
                f"{what} calls itself: {' -> '.join([*scope.chain, what])}",
                where=check.label_of(node, scope.place),
                hint="ONNX functions are not recursive; use Loop",
            )
        if len(inputs) > len(f.input) or len(node.output) > len(f.output):
            raise ModelError(
                f"expected at most {len(f.input)} operands and {len(f.output)} outputs of {what}, "
                f"found {len(inputs)} and {len(node.output)}"
            )
        opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in f.opset_import}
        chain = self.deeper(scope.chain, what)
        inner = Scope({**scope.opsets, **opsets}, chain=chain, caller=scope)
        absent = set(f.input[len(inputs) :])
        for formal, n in zip(f.input, inputs, strict=False):
            if n is None:
                absent.add(formal)
            else:
                inner.values[formal] = n
        self.add_nodes(bind(f, node, absent), inner)
        return [self.function_output(inner, o, what) for o in f.output[: len(node.output)]]

    def function_output(self, inner: Scope, name: str, what: str) -> Value:
        found = inner.find(name)
        if found is None:
            raise ModelError(f"expected a node that makes {name!r}, found none", where=what)
        return found

    def schema_function(
        self,
        node: NodeProto,
        schema: defs.OpSchema | None,
        version: int,
        inputs: Sequence[Node | None],
    ) -> FunctionProto:
        """The body that the standard gives for an op; Unsupported where it gives none."""
        types = [b"" if n is None else type_proto(n.type).SerializeToString() for n in inputs]
        body = None if schema is None else find_function(node, schema, version, types)
        if schema is None or body is None:
            raise Unsupported(f"naru has no {node.op_type} yet")
        f = FunctionProto()
        try:
            f.ParseFromString(body)
        except DecodeError as error:
            raise Unsupported(f"the standard's body of {node.op_type} cannot be read") from error
        f.name, f.domain = f.name or node.op_type, ""
        # What a body refers to and neither the node nor the function gives has a default.
        own = {*f.attribute, *(a.name for a in f.attribute_proto)}
        for name, a in schema.attributes.items():
            if name not in own or name in f.attribute:
                f.attribute_proto.extend([a.default_value] if a.default_value.name else [])
        return f


class WithFunctions(Protocol):
    """The part of a schema that onnx's stubs leave out: bodies of ops, as serialized functions."""

    function_opset_versions: Sequence[int]
    context_dependent_function_opset_versions: Sequence[int]

    def get_function_with_opset_version(self, version: int, /) -> bytes: ...

    def get_context_dependent_function_with_opset_version(
        self, version: int, node: bytes, types: Sequence[bytes], /
    ) -> bytes: ...


def has_function(schema: defs.OpSchema) -> bool:
    """Does the standard give a body for this op?"""
    s = cast(WithFunctions, schema)
    return bool(s.function_opset_versions or s.context_dependent_function_opset_versions)


def find_function(
    node: NodeProto, schema: defs.OpSchema, version: int, types: Sequence[bytes]
) -> bytes | None:
    """The serialized body of an op for these operand types, None where the standard has none."""
    s = cast(WithFunctions, schema)
    if s.function_opset_versions:
        return s.get_function_with_opset_version(_nearest(s.function_opset_versions, version))
    if not s.context_dependent_function_opset_versions:
        return None
    nearest = _nearest(s.context_dependent_function_opset_versions, version)
    content = node.SerializeToString()
    return s.get_context_dependent_function_with_opset_version(nearest, content, types) or None


def _nearest(versions: Sequence[int], wanted: int) -> int:
    """The newest up to `wanted`, else the oldest: bodies say which opsets they are written in."""
    return max((v for v in versions if v <= wanted), default=min(versions))


def type_proto(t: TensorType) -> TypeProto:
    """A type as ONNX writes it; symbolic dims by a text."""
    shape = [int(d.value) if isinstance(d, Const) else "?" for d in t.shape]
    return helper.make_tensor_type_proto(DTYPES[t.dtype].onnx, shape)


def bind(f: FunctionProto, node: NodeProto, absent: set[str]) -> list[NodeProto]:
    """The nodes of a function's body with the caller's attributes put in, defaults where it gives
    none. Operands that the caller left out become "". Iterative: bodies hold bodies."""
    given = {a.name: a for a in f.attribute_proto}
    given.update({a.name: a for a in node.attribute})
    nodes = [NodeProto.FromString(n.SerializeToString()) for n in f.node]
    stack = list(nodes)
    while stack:
        n = stack.pop()
        for k, name in enumerate(n.input):
            if name in absent:
                n.input[k] = ""
        kept: list[AttributeProto] = []
        for a in n.attribute:
            stack.extend(m for g in (a.g, *a.graphs) for m in g.node)
            if not a.ref_attr_name:
                kept.append(a)
            elif a.ref_attr_name in given:
                kept.append(_renamed(given[a.ref_attr_name], a.name))
        if any(a.ref_attr_name for a in n.attribute):
            del n.attribute[:]
            n.attribute.extend(kept)
    return nodes


def check_ranks(results: Sequence[Value]) -> None:
    """Unsupported for more dims than arrays have; ModelError for a size below 0."""
    for n in results:
        if isinstance(n, Node) and any(isinstance(d, Const) and d.value < 0 for d in n.type.shape):
            raise ModelError(f"expected sizes of at least 0, found {type_text(n)}")
        if isinstance(n, Node) and n.type.rank > MAX_RANK:
            raise Unsupported(
                f"a result of {n.type.rank} dims", f"use at most {MAX_RANK}; most may be merged"
            )


def _renamed(a: AttributeProto, name: str) -> AttributeProto:
    out = AttributeProto()
    out.CopyFrom(a)
    out.name = name
    return out


def located(error: NaruError, label: str, inputs: Iterable[Node | None]) -> ModelError:
    """An error of type inference as one that names the ONNX node and its operands."""
    if error.where is not None and "node " in error.where:
        return (
            error if isinstance(error, ModelError) else ModelError(error.message, where=error.where)
        )
    message = error.message if isinstance(error, ModelError) else str(error)
    found = ", ".join(map(type_text, inputs))
    where = f"{label}: {error.where}" if error.where else label
    return ModelError(f"{message} (operands {found or 'none'})", where=where, hint=error.hint)
