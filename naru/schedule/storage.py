"""What the driver is built from: places for tensors, steps, and the scopes that hold them."""

from __future__ import annotations

from dataclasses import dataclass, field

from naru.errors import IRError
from naru.ir.expr import Const, Expr
from naru.ir.graph import Graph, Node
from naru.ir.simplify import add
from naru.schedule.kernels import Kernel

Role = str | tuple[str, int]  # "weights", "arena", "dims" or ("io", k)


@dataclass(eq=False)
class Storage:
    """Bytes of a tensor: in the arena of a scope, or somewhere fixed. `offset` is known once it is
    placed; the tensor is alive from step `start` to step `end` of the scope."""

    role: Role
    size: Expr
    start: int = 0
    end: int = 0
    offset: Expr = field(default_factory=lambda: Const(0))
    scope: Scope | None = None

    def at(self) -> Expr:
        """The byte offset from the role's pointer."""
        return self.offset if self.scope is None else add(self.scope.base, self.offset)


@dataclass(eq=False)
class Step:
    """One step of a scope: a kernel call, or a control node with scopes of its own.

    `arena`: where the scopes' memory lies; `extra`: storages that a loop itself needs; `copies`: of
    a loop's carried state, before the first round and then after each."""

    node: Node | None
    kernel: Kernel | None
    operands: tuple[Storage, ...]
    results: tuple[Storage, ...]
    scopes: tuple[Scope, ...] = ()
    arena: Storage | None = None
    extra: tuple[Storage, ...] = ()
    copies: tuple[Step, ...] = ()
    allocs: list[tuple[int, Expr]] = field(default_factory=list[tuple[int, Expr]])
    """(pointer, bytes) that must be allocated before the step."""

    @property
    def control(self) -> Node:
        """The node of a step that is no kernel call."""
        if self.node is None:
            raise IRError(["a step of the driver has neither a kernel nor a node"])
        return self.node


@dataclass(eq=False)
class Scope:
    """A graph's steps and memory."""

    graph: Graph
    steps: list[Step] = field(default_factory=list[Step])
    storages: list[Storage] = field(default_factory=list[Storage])
    where: dict[Node, Storage] = field(default_factory=dict[Node, Storage])
    base: Expr = field(default_factory=lambda: Const(0))
    total: Expr = field(default_factory=lambda: Const(0))
    outputs: list[Storage] = field(default_factory=list[Storage])
