"""What becomes of every node of an ONNX model, without compiling it: an import that goes on where
reading a model stops, and notes of each node what went wrong and which sizes only data decide."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from onnx import FunctionProto, ModelProto, NodeProto

from naru.errors import ModelError, NaruError, UnsupportedError
from naru.frontend import onnx_check as check
from naru.frontend.onnx import functions_of, load_model, read_into
from naru.frontend.onnx_data import Tensors
from naru.frontend.onnx_foreign import inlined, needs_host
from naru.frontend.onnx_import import FunctionKey, Importer
from naru.frontend.onnx_plan import Level, Planner, Step
from naru.frontend.onnx_scope import Missing, Scope, Value
from naru.ir.expr import Expr, Var, free_vars
from naru.ir.graph import Node


@dataclass(frozen=True)
class Problem:
    """Where it is, why it cannot be compiled, what to try."""

    where: str
    reason: str
    hint: str | None


@dataclass
class Seen:
    """One node of the model. `place`: the bodies that it is in; `dtypes`: of its operands, then of
    its results, as far as they are known; `sizes`: symbols of its results that only running it
    tells; `inside`: the nodes of its bodies, or of the function that it calls."""

    name: str
    op: str
    domain: str
    opset: int
    place: tuple[str, ...]
    dtypes: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    problems: list[Problem] = field(default_factory=list[Problem])
    inside: list[Seen] = field(default_factory=list["Seen"])
    is_call: bool = False  # of a function that the model or the standard brings along
    on_host: bool = False


@dataclass
class Watched:
    """What was seen of a model. `problems` are those that belong to no node."""

    nodes: list[Seen] = field(default_factory=list[Seen])
    problems: list[Problem] = field(default_factory=list[Problem])


class Watcher(Importer):
    """An importer that notes what becomes of each node, and goes on after errors."""

    def __init__(
        self,
        tensors: Tensors,
        functions: Mapping[FunctionKey, FunctionProto],
        watched: Watched | None = None,
    ) -> None:
        super().__init__(tensors, functions)
        self.watched = watched or Watched()
        self.open: list[Seen] = []
        self.known: set[Expr] = set()

    def add_nodes(self, nodes: Sequence[NodeProto], scope: Scope) -> None:
        if not self.open:
            for value in scope.values.values():
                self.known.update(_symbols(value))
        super().add_nodes(nodes, scope)

    def add_node(self, node: NodeProto, scope: Scope) -> None:
        domain = check.domain_of(node)
        opset = scope.opsets.get(domain, 0)
        seen = Seen(check.note_of(node), node.op_type, domain, opset, scope.chain)
        (self.open[-1].inside if self.open else self.watched.nodes).append(seen)
        values = [scope.find(n) if n else None for n in node.input]
        self.open.append(seen)
        try:
            super().add_node(node, scope)
        except ModelError as error:  # of its operands
            self.blame(error, check.label_of(node, scope.place))
            scope.values.update({n: Missing() for n in node.output if n and n not in scope.values})
        finally:
            self.open.pop()
        results = [scope.values.get(n) for n in node.output]
        found = [v.type.dtype for v in (*values, *results) if isinstance(v, Node)]
        seen.dtypes = tuple(found)
        new = [s for v in results for s in _symbols(v) if s not in self.known]
        seen.sizes = tuple(dict.fromkeys(s.name for s in new))
        self.known.update(new)

    def convert(
        self, node: NodeProto, scope: Scope, values: Sequence[Value | None], label: str
    ) -> Sequence[Value]:
        try:
            return super().convert(node, scope, values, label)
        except ModelError as error:
            self.blame(error, label)
            return [Missing()] * max(len(node.output), 1)

    def call(
        self,
        f: FunctionProto,
        node: NodeProto,
        scope: Scope,
        inputs: Sequence[Node | None],
    ) -> Sequence[Value]:
        self.open[-1].is_call = True
        return super().call(f, node, scope, inputs)

    def report(self, where: str, reason: str, hint: str | None) -> Missing:
        before = len(self.problems)
        made = super().report(where, reason, hint)
        if len(self.problems) > before:
            self.problems_here().append(Problem(where, reason, hint))
        return made

    def blame(self, error: NaruError, label: str) -> None:
        """Remembers that the model is wrong here."""
        super().report(error.where or label, error.message, error.hint)
        self.problems_here().append(Problem(error.where or label, error.message, error.hint))

    def problems_here(self) -> list[Problem]:
        return self.open[-1].problems if self.open else self.watched.problems


class WatchingPlanner(Planner):
    """A planner that notes what becomes of each node: those of native parts, and of the host."""

    def __init__(self, model: ModelProto, folder: Path | None) -> None:
        super().__init__(model, folder)
        self.watched = Watched()

    def importer(self, level: Level) -> tuple[Importer, Scope]:
        made, scope = super().importer(level)
        return Watcher(made.tensors, made.functions, self.watched), scope

    def host_steps(self, node: NodeProto, level: Level) -> list[Step]:
        domain = check.domain_of(node)
        opset, place = level.opsets.get(domain, 0), level.place.removesuffix(": ")
        seen = Seen(check.note_of(node), node.op_type, domain, opset, (place,) if place else ())
        seen.on_host = True
        self.watched.nodes.append(seen)
        known = len(self.problems)
        try:
            return super().host_steps(node, level)
        except ModelError as error:
            self.report(error.where or check.label_of(node), error.message, error.hint)
            level.kinds.update((o, None) for o in node.output if o)
            return []
        finally:
            label = check.label_of(node, level.place)
            told = [p.removeprefix(f"{label}: ") for p in self.problems[known:]]
            seen.problems += [Problem(label, text, None) for text in told]

    def result(self) -> Watched:
        """What was seen, each node once: bodies are planned until their values have one kind."""
        nodes = {(n.place, n.name, n.op): n for n in self.watched.nodes}
        told = [f"{p.where}: {p.reason}" for n in nodes.values() for p in n.problems]
        others = [p for p in self.problems if not any(p.startswith(t) for t in told)]
        return Watched(list(nodes.values()), [Problem("model", p, None) for p in others])


def _symbols(value: Value | None) -> list[Var]:
    return free_vars(*value.type.shape) if isinstance(value, Node) else []


def watch(source: str | os.PathLike[str] | bytes) -> Watched:
    """Imports a model and says what became of its nodes. ModelError only where the file itself
    cannot be read, or its nodes have no order."""
    model, folder, where = load_model(source)
    watcher = Watcher(Tensors(folder), functions_of(model))
    try:
        read_into(watcher, model, None)
    except UnsupportedError:
        if needs_host(model):
            return _watch_plan(model, folder)
    except ModelError as error:
        if not watcher.watched.nodes:
            raise ModelError(error.message, where=error.where or where, hint=error.hint) from None
        watcher.blame(error, where)
    return watcher.watched


def _watch_plan(model: ModelProto, folder: Path | None) -> Watched:
    try:
        planner = WatchingPlanner(inlined(model), folder)
    except UnsupportedError as error:
        return Watched([], [Problem("model", p, None) for p in error.problems])
    with suppress(UnsupportedError):  # each problem stands at its node
        planner.plan(None)
    return planner.result()
