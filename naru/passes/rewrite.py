"""How a pass changes a graph: one walk, operands first, builds each node again over new operands.

rewrite(g, lambda n: n.inputs[0] if n.op == "identity" else n)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from naru.errors import IRError, NaruError
from naru.ir.graph import Graph, Node, get_output, toposort
from naru.ops.registry import with_inputs

Rule: TypeAlias = Callable[[Node], Node]

MAX_DEPTH = 64  # of control flow inside control flow; the bodies are walked by recursion
MAX_REWRITES = 100  # per node of the graph, before we say that the rules never stop


def rewrite(
    g: Graph,
    fn: Rule,
    *,
    repeat: bool = False,
    bodies: bool = True,
    origin: dict[Node, Node] | None = None,
    depth: int = 0,
) -> Graph:
    """The graph with every node n replaced by fn(n), n having its new operands already.

    repeat: what fn returns is rewritten too, until fn gives it back unchanged.
    bodies: bodies of control flow are rewritten the same way.
    origin: if given, is filled with new node -> the node of g that it stands for.
    Notes move to the new nodes. A graph in which nothing changes is returned itself. Iterative, and
    linear in the number of nodes.
    """
    if depth > MAX_DEPTH:
        raise IRError([f"graph {g.name}: control flow is nested more than {MAX_DEPTH} deep"])
    walk = _Walk(fn, repeat, bodies, {} if origin is None else origin, depth)
    outputs = walk.run(g.outputs)
    if all(a is b for a, b in zip(g.outputs, outputs, strict=True)):
        return g
    return g.with_outputs(outputs, move_notes(g.notes, walk.done, outputs))


class _Walk:
    """The state of one `rewrite`: `done` maps nodes, old and in between, to what they became."""

    def __init__(
        self, fn: Rule, repeat: bool, bodies: bool, origin: dict[Node, Node], depth: int
    ) -> None:
        self.fn, self.repeat, self.bodies = fn, repeat, bodies
        self.origin, self.depth = origin, depth
        self.done: dict[Node, Node] = {}
        self.rewrites = 0

    def run(self, roots: Sequence[Node]) -> list[Node]:
        # An entry (n, m) says: n became m, and m is being rewritten itself.
        stack: list[tuple[Node, Node | None]] = [(n, None) for n in reversed(roots)]
        while stack:
            n, became = stack.pop()
            if became is not None:
                self.done[n] = self.done[became]
                continue
            if n in self.done:
                continue
            waiting = [c for c in n.inputs if c is not None and c not in self.done]
            if waiting:
                stack.append((n, None))
                stack.extend((c, None) for c in reversed(waiting))
                continue
            result = self.step(n)
            if result is None:
                continue
            stack.append((n, result))
            if result not in self.done:
                stack.append((result, None))
        return [self.done[n] for n in roots]

    def step(self, n: Node) -> Node | None:
        """Rewrites one node whose operands are done; a node means: go on with this one."""
        new = self.rebuild(n)
        result = self.fn(new)
        if result is new or not self.repeat:
            self.done[n] = result
            if self.repeat:
                self.done[result] = result
            self.origin.setdefault(result, n)
            return None
        self.rewrites += 1
        if self.rewrites > MAX_REWRITES * (len(self.done) + 10):
            raise IRError([f"rewriting does not stop: {new.op} became {result.op} and so on"])
        return result

    def rebuild(self, n: Node) -> Node:
        inputs = [None if c is None else self.done[c] for c in n.inputs]
        if n.op == "get":
            return rebuild_get(n, inputs[0])
        if self.bodies:
            n = self.with_bodies(n)
        try:
            return with_inputs(n, inputs)
        except NaruError as error:
            raise IRError([f"{n.op}: its new operands do not fit: {error}"]) from error

    def with_bodies(self, n: Node) -> Node:
        """The node with its bodies rewritten."""
        attrs = tuple(
            (name, self.body(value) if isinstance(value, Graph) else value)
            for name, value in n.attrs
        )
        same = all(a[1] is b[1] for a, b in zip(attrs, n.attrs, strict=True))
        return n if same else Node(n.op, n.inputs, attrs, n.types)

    def body(self, g: Graph) -> Graph:
        return rewrite(g, self.fn, repeat=self.repeat, origin=self.origin, depth=self.depth + 1)


def rebuild_get(n: Node, source: Node | None) -> Node:
    """`get` over another node of as many outputs."""
    at = n.attr("index")
    if source is None or not isinstance(at, int) or at >= len(source.types):
        raise IRError([f"get {at}: its operand has no such output"])
    return n if n.inputs[0] is source else get_output(source, at)


def move_notes(
    notes: Mapping[Node, str], done: Mapping[Node, Node], outputs: Sequence[Node]
) -> dict[Node, str]:
    """The notes of the nodes that `outputs` still need; the first note of a node wins."""
    alive = set(toposort(*outputs))
    moved = {n: text for n, text in notes.items() if n in alive and done.get(n, n) is n}
    for old, text in notes.items():
        new = done.get(old, old)
        if new in alive:
            moved.setdefault(new, text)
    return moved


def inline(body: Graph, arguments: Sequence[Node | None]) -> list[Node]:
    """The outputs of `body` with its inputs replaced. An unused input may have None as argument."""
    values = dict(zip(body.inputs, arguments, strict=True))

    def place(n: Node) -> Node:
        found = values.get(n)
        return n if found is None else found

    # Not into bodies: an input there is known by its name, and may be called like one of ours.
    return list(rewrite(replace(body, notes={}), place, bodies=False).outputs)
