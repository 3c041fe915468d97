"""Carried values of a loop whose sizes change from round to round.

Each has two pieces of memory of its own. A round reads one; what it makes is copied to the other,
which grows by doubling; then the two change places. The sizes lie in `dims`, where each round reads
them anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from naru.dtypes import DTYPES
from naru.ir.expr import Binary, Cast, Const, Expr, Load, Var
from naru.ir.graph import Graph, TensorType
from naru.ir.loop import Assign, If, Invoke, Let, Stmt, Store
from naru.ir.simplify import mul
from naru.schedule.storage import Storage

if TYPE_CHECKING:
    from naru.schedule.driver import Builder


@dataclass(frozen=True, eq=False)
class Changing:
    """Carried value k: its memory, what it changes places with, and a third slot for doing so; the
    Vars of its sizes in a round by axis, and what they are called after the last one."""

    k: int
    now: Storage
    then: Storage
    spare: Storage
    sizes: dict[int, Var]
    final: dict[int, Var]
    room: Var  # bytes at `now`
    room_then: Var


def make(b: Builder, body: Graph, named: dict[tuple[int, int], Var]) -> dict[int, Changing]:
    """One for each carried value with sizes that change; their symbols are defined here."""
    found: dict[int, Changing] = {}
    for k in sorted({k for k, _ in named}):
        axes = {axis: v for (j, axis), v in named.items() if j == k}
        shape = body.inputs[2 + k].type.shape
        sizes = {axis: d for axis in axes if isinstance(d := shape[axis], Var)}
        b.define(*sizes.values(), *axes.values())
        now, then, spare = (b.new_pointer(Const(0)) for _ in range(3))
        room, more = Var(f"room{k}", mutable=True), Var(f"room{k}_then", mutable=True)
        found[k] = Changing(k, now, then, spare, sizes, axes, room, more)
    return found


def enter(b: Builder, c: Changing, given: Storage, t: TensorType) -> list[Stmt]:
    """Before the first round: the value as it comes in."""
    size = _bytes(t)
    return [
        Assign(c.room, size),
        Assign(c.room_then, Const(-1)),  # nothing, not even for a value without elements
        b.allocate(c.now, size),
        _copy(b, given, c.now, size),
        *_store_sizes(b, c, t),
    ]


def begin(b: Builder, c: Changing) -> list[Stmt]:
    """At the beginning of a round: the sizes of the value."""
    return [Let(v, _load(b, v)) for v in c.sizes.values()]


def keep(b: Builder, c: Changing, made: Storage, t: TensorType) -> list[Stmt]:
    """At the end of a round: what it made goes to the other piece of memory, larger where need
    be. (Others may still be read: nothing changes places before all are copied.)"""
    size = Var(f"bytes{c.k}")
    more = (b.allocate(c.then, mul(2, size)), Assign(c.room_then, mul(2, size)))
    return [
        Let(size, _bytes(t)),
        If(Binary("gt", size, c.room_then), more),
        _copy(b, made, c.then, size),
    ]


def change_places(b: Builder, c: Changing, t: TensorType) -> list[Stmt]:
    """After all are copied."""
    room = Var(f"room{c.k}_before")
    return [
        *_store_sizes(b, c, t),
        Let(room, c.room),
        Assign(c.room, c.room_then),
        Assign(c.room_then, room),
        b.point(c.spare, c.now),
        Invoke("barrier", ()),
        b.point(c.now, c.then),
        Invoke("barrier", ()),
        b.point(c.then, c.spare),
        Invoke("barrier", ()),
    ]


def leave(b: Builder, c: Changing) -> list[Stmt]:
    """After the last round: its sizes have names of their own."""
    out: list[Stmt] = []
    for axis, v in c.final.items():
        out += [Let(v, _load(b, c.sizes[axis])), b.remember(v)]
    return out


def _bytes(t: TensorType) -> Expr:
    return mul(DTYPES[t.dtype].bytes, *t.shape)


def _copy(b: Builder, source: Storage, to: Storage, size: Expr) -> Stmt:
    return Invoke(b.kernels.copy_bytes().func, (b.ref(source), b.ref(to), size))


def _load(b: Builder, v: Var) -> Expr:
    return Cast(Load(b.buffer("dims", "i64"), (Const(b.symbols.index(v)),)), "index")


def _store_sizes(b: Builder, c: Changing, t: TensorType) -> list[Stmt]:
    dims = b.buffer("dims", "i64")
    return [
        Store(dims, (Const(b.symbols.index(v)),), Cast(t.shape[axis], "i64"))
        for axis, v in c.sizes.items()
    ]
