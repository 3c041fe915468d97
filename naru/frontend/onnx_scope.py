"""Names while a model is read: values by name, graph by graph, and dim symbols by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from keyword import iskeyword
from typing import TypeAlias

from naru.ir.expr import INT_MAX, Var
from naru.ir.graph import Node, make_input


@dataclass(frozen=True)
class Missing:
    """Stands for a value that was not made. `reason` is reported when the value is first used."""

    reason: str | None = None


@dataclass(frozen=True)
class Items:
    """A sequence whose length is known while the model is read."""

    nodes: tuple[Node, ...]


Value: TypeAlias = "Node | Missing | Items"


@dataclass
class Scope:
    """The values of one graph by name. `outer` is the graph around a body of control flow. A value
    found there becomes an input of the body (`captures`: name -> (value outside, input inside)),
    unless the body is `inline`: a branch that is known to be taken.
    `chain` are the functions and bodies that we are in, for messages and against recursion.
    `caller` is the scope that an inlined function is called from, `round` the number of the round
    where this is the body of a loop, `key` what random numbers in it begin with, once asked for."""

    opsets: Mapping[str, int]
    values: dict[str, Value] = field(default_factory=dict[str, Value])
    outer: Scope | None = None
    inline: bool = False
    captures: dict[str, tuple[Node, Node]] = field(default_factory=dict[str, tuple[Node, Node]])
    chain: tuple[str, ...] = ()
    caller: Scope | None = None
    round: Node | None = None
    key: Node | None = None

    def find(self, name: str) -> Value | None:
        """The value of a name, captured from outside where necessary; None if there is none."""
        found = self.values.get(name)
        if found is not None or self.outer is None:
            return found
        found = self.outer.find(name)
        if self.inline or found is None or isinstance(found, Missing):
            return found
        if isinstance(found, Items):
            nodes = (self._from_outside(f"{name}.{k}", n) for k, n in enumerate(found.nodes))
            inner: Value = Items(tuple(nodes))
        else:
            inner = self._from_outside(name, found)
        self.values[name] = inner
        return inner

    def _from_outside(self, name: str, outside: Node) -> Node:
        """What stands for a node from outside: a constant itself, or else an input of the body."""
        return outside if outside.op == "constant" else self.capture(name, outside)

    def capture(self, name: str, outside: Node) -> Node:
        """An input of this body for a value from outside."""
        inner = make_input(name, outside.type)
        self.captures[name] = (outside, inner)
        return inner

    @property
    def place(self) -> str:
        """`function zoo.gelu: ` or nothing: where the names belong."""
        return "".join(f"{c}: " for c in self.chain)


class Symbols:
    """Dim symbols by ONNX name: one Var a name, called by an identifier like it."""

    def __init__(self) -> None:
        self.by_name: dict[str, Var] = {}
        self.taken: set[str] = set()

    def named(self, name: str) -> Var:
        """The symbol of a `dim_param`."""
        if name not in self.by_name:
            self.by_name[name] = self.fresh(name)
        return self.by_name[name]

    def fresh(self, like: str, lo: int = 0, hi: int = INT_MAX) -> Var:
        """A new symbol whose name is made of `like`."""
        stem = identifier(like, "dim")
        name, k = stem, 2
        while name in self.taken:
            name, k = f"{stem}_{k}", k + 1
        self.taken.add(name)
        return Var(name, lo=lo, hi=hi)


def identifier(text: str, default: str) -> str:
    """A Python identifier like the text: the text forms of the IR are Python."""
    name = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_") or default
    return f"_{name}" if name[0].isdigit() or iskeyword(name) else name
