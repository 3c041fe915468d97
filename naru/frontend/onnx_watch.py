"""What becomes of every node of an ONNX model, without compiling it: an import that goes on where
reading a model stops, and notes of each node what went wrong and which sizes only data decide."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onnx import FunctionProto, NodeProto

from naru.errors import ModelError, NaruError, UnsupportedError
from naru.frontend import onnx_check as check
from naru.frontend.onnx import functions_of, load_model, read_into
from naru.frontend.onnx_data import Tensors
from naru.frontend.onnx_import import FunctionKey, Importer
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


@dataclass
class Watched:
    """What was seen of a model. `problems` are those that belong to no node."""

    nodes: list[Seen] = field(default_factory=list[Seen])
    problems: list[Problem] = field(default_factory=list[Problem])


class Watcher(Importer):
    """An importer that notes what becomes of each node, and goes on after errors."""

    def __init__(self, tensors: Tensors, functions: Mapping[FunctionKey, FunctionProto]) -> None:
        super().__init__(tensors, functions)
        self.watched = Watched()
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
        self, node: NodeProto, scope: Scope, inputs: Sequence[Node | None], label: str
    ) -> Sequence[Value]:
        try:
            return super().convert(node, scope, inputs, label)
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
        pass  # each problem stands at its node
    except ModelError as error:
        if not watcher.watched.nodes:
            raise ModelError(error.message, where=error.where or where, hint=error.hint) from None
        watcher.blame(error, where)
    return watcher.watched
