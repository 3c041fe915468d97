"""Loop IR: how a kernel runs. Expressions come from expr.py; these are the statements.

Statements are unique objects (a schedule points at *this* loop). A `Func` is a kernel, or the
driver that calls kernels. The kinds of statement and expression together stay within twenty.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from naru.errors import IRError
from naru.ir.expr import Expr, Load, Var, check_access, children
from naru.ir.simplify import index

SPACES = ("global", "arena", "stack", "shared", "tile")
FOR_KINDS = ("serial", "parallel", "unroll")


@dataclass(frozen=True, eq=False, repr=False)
class Buffer:
    """A row-major array. Unique. `space`: global (caller's memory), arena (scratch the driver hands
    out), stack (constant shape; registers after SROA), shared (a GPU block's), tile (numbered
    matrix registers). `align` is the alignment in bytes that its first element is known to have."""

    name: str
    dtype: str
    shape: tuple[Expr, ...]
    space: str = "global"
    align: int = 1

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise IRError([f"{self.name}: unknown space {self.space!r}, expected one of {SPACES}"])


@dataclass(frozen=True, eq=False, repr=False)
class For:
    """`for var in range(start, stop)`. parallel: iterations are independent and are divided among
    the threads of the run; one that is all there is in another makes the grid of a GPU with it,
    and threads divide the outer one. unroll: bounds are constants, one copy an iteration."""

    var: Var
    start: Expr
    stop: Expr
    body: tuple[Stmt, ...]
    kind: str = "serial"

    def __post_init__(self) -> None:
        if self.kind not in FOR_KINDS:
            raise IRError([f"for {self.var.name}: unknown kind {self.kind!r}, one of {FOR_KINDS}"])


@dataclass(frozen=True, eq=False, repr=False)
class While:
    """`while cond`: cond is evaluated anew before each round."""

    cond: Expr
    body: tuple[Stmt, ...]


@dataclass(frozen=True, eq=False, repr=False)
class If:
    """A branch on a scalar bool."""

    cond: Expr
    then: tuple[Stmt, ...]
    orelse: tuple[Stmt, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class Let:
    """`var: dtype = value`: named once, for the rest of the block. The only way to keep a value
    that was read from memory that changes."""

    var: Var
    value: Expr


@dataclass(frozen=True, eq=False, repr=False)
class Assign:
    """`var = value` for a mutable Var; the first one declares it."""

    var: Var
    value: Expr


@dataclass(frozen=True, eq=False, repr=False)
class Store:
    """Writes a scalar, or a tile that extends along the last dims of the buffer from `index`.
    An index that is itself a tile scatters; lanes must then hit distinct elements."""

    buffer: Buffer
    index: tuple[Expr, ...]
    value: Expr
    mask: Expr | None = None

    def __post_init__(self) -> None:
        check_access(self.buffer, self.index, (), self.mask)
        if self.value.dtype != self.buffer.dtype:
            raise IRError(
                [f"store {self.buffer.name}: expected {self.buffer.dtype}, got {self.value.dtype}"]
            )


@dataclass(frozen=True, eq=False, repr=False)
class Alloc:
    """Brings a stack or tile buffer to life for the rest of the block; contents are undefined."""

    buffer: Buffer


@dataclass(frozen=True, eq=False, repr=False)
class Ref:
    """An address: `buffer` from a byte offset on. An argument of Invoke."""

    buffer: Buffer
    offset: Expr = field(default_factory=lambda: index(0))


@dataclass(frozen=True, eq=False, repr=False)
class Invoke:
    """Calls a kernel with addresses for its buffers and values for its Vars, on `threads` threads
    (at most those of the run); or, with a name, one of the driver's services:
      barrier()                       all threads of the run meet (in a kernel: all of the kernel)
      set_io(k, ref)                  hands memory over as late output k
      alloc(k, bytes, step)           growable memory; its address becomes pointer k
      fail(code, a, b)                error slot, then return
      mark(k)                         a timestamp (profiling)
      next_round(k, round)            all meet; return if the host ends step k, a loop, here
    Kernels use `barrier` too, where all their threads come by, outside of parallel loops: what any
    of them wrote before, all may read after. A kernel that does runs on all threads of the run, or
    on one where `threads` is less. And there is
      prefetch(ref)                   a hint that the cache line will be read soon; it means
                                      nothing, and the address may lie anywhere
    """

    callee: Func | str
    args: tuple[Ref | Expr, ...]
    threads: Expr = field(default_factory=lambda: index(1))


@dataclass(frozen=True, eq=False, repr=False)
class Func:
    """Buffers first, then sizes. A kernel's `parallel` loops divide their work by (tid, n), which
    every function has besides its parameters. All else in a kernel is done by each thread, on a
    stack and with Vars of its own."""

    name: str
    params: tuple[Buffer | Var, ...]
    body: tuple[Stmt, ...]

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return tuple(p for p in self.params if isinstance(p, Buffer))

    @property
    def sizes(self) -> tuple[Var, ...]:
        return tuple(p for p in self.params if isinstance(p, Var))


Stmt: TypeAlias = For | While | If | Let | Assign | Store | Alloc | Invoke


def blocks(s: Stmt) -> tuple[tuple[Stmt, ...], ...]:
    """The nested statement lists of s."""
    match s:
        case For() | While():
            return (s.body,)
        case If():
            return (s.then, s.orelse)
        case Let() | Assign() | Store() | Alloc() | Invoke():
            return ()


def meets(func: Func) -> bool:
    """Do the threads of a kernel meet while it runs?"""
    every = statements(func.body)
    return any(isinstance(s, Invoke) and s.callee == "barrier" for s in every)


def operands(s: Stmt) -> tuple[Expr, ...]:
    """The expressions that s itself evaluates."""
    match s:
        case For():
            return (s.start, s.stop)
        case While() | If():
            return (s.cond,)
        case Let() | Assign():
            return (s.value,)
        case Store():
            return (*s.index, s.value) if s.mask is None else (*s.index, s.value, s.mask)
        case Alloc():
            return ()
        case Invoke():
            return (
                *(a.offset if isinstance(a, Ref) else a for a in s.args),
                s.threads,
            )


def statements(body: tuple[Stmt, ...]) -> list[Stmt]:
    """Every statement in program order, outer before inner."""
    out: list[Stmt] = []
    stack = list(reversed(body))
    while stack:
        s = stack.pop()
        out.append(s)
        for block in reversed(blocks(s)):
            stack.extend(reversed(block))
    return out


__all__ = [
    "Alloc", "Assign", "Buffer", "Expr", "For", "Func", "If", "Invoke", "Let", "Load", "Ref",
    "Stmt", "Store", "Var", "While", "blocks", "children", "meets", "operands", "statements",
]  # fmt: skip
