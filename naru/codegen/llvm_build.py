"""The text of one LLVM function under construction: blocks, regions, and what is known already.

A region is a stretch of code whose blocks each dominate what follows in it: the function, a loop's
body, a branch. Regions nest, and a value carries the depth of the region it was made in, so that
index arithmetic, which has no effects, is written to the outermost region where its operands exist
and found again by every later use there. Expressions are interned, so "the same" is `is`; what
reads memory or a mutable Var is forgotten when that is written.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

from naru.codegen.llvm_types import scalar_type, vector
from naru.codegen.tile_registers import TileRegisters
from naru.errors import IRError
from naru.ir.expr import Const, Expr, Load, Shape, Var, children, with_children
from naru.ir.loop import Alloc, Assign, Buffer, For, Func, Invoke, Let, Stmt, Store, statements
from naru.ir.simplify import normal
from naru.targets import Target

State = frozenset[Hashable]
Monomial = tuple[Expr, ...]  # a product of atoms
Poly = dict[Monomial, int]  # a sum of integer multiples of them
NOTHING: State = frozenset()
MEMORY = "memory"  # the state that every load of a driver depends on


class Value(NamedTuple):
    """SSA names or literals, one a row of the tile (one for a scalar or rank-1 tile); and the depth
    of the region they live in."""

    rows: tuple[str, ...]
    depth: int

    @property
    def text(self) -> str:
        """The only row."""
        return self.rows[0]


class Facts(NamedTuple):
    """What an expression depends on: state that changes (written buffers, variables that are bound
    more than once), and variables of unrolled loops."""

    state: State
    unrolled: frozenset[Var]


@dataclass(slots=True)
class Block:
    """A basic block: `end` is its terminator."""

    label: str
    lines: list[str] = field(default_factory=list[str])
    end: str = "unreachable"


@dataclass(slots=True)
class Region:
    """The block now written to, and the memo entries that end with the region."""

    block: Block
    keys: list[Hashable] = field(default_factory=list[Hashable])


class MovingPointer(NamedTuple):
    """A pointer to elements of type `kind` that is `first` in the first iteration of a loop, `here`
    in each, and `step` elements further on in the next."""

    here: str
    first: str
    kind: str
    step: str


@dataclass(slots=True)
class Loop:
    """An innermost counted loop being written: the depth of its body, where it starts counting, and
    the pointers that move along with the count."""

    depth: int
    start: str
    pointers: list[MovingPointer] = field(default_factory=list[MovingPointer])


class Code:
    """A function being written for a target. `tid` and `n` are of the index type."""

    def __init__(self, func: Func, target: Target, *, shared_memory: bool = False) -> None:
        self.func, self.target = func, target
        self.index = scalar_type("index", target)
        self.tid, self.n = "%tid", "%n"
        self.shared_memory = shared_memory
        self.allocas: list[str] = []
        self.blocks: list[Block] = []
        self.regions = [Region(self.new_block("start"))]
        self.pointers: dict[Buffer, Value] = {}
        self.slots: dict[Var, str] = {}  # mutable Vars: address of their alloca
        self.unrolled: dict[Var, Const] = {}
        self.loops: dict[Var, Loop] = {}
        self.tiles = TileRegisters()
        self.in_parallel = False
        self.metadata: list[str] = []
        # What llvm_address has worked out: index expressions, strides, offsets (scalar and lanes).
        self.polys: dict[Expr, Poly] = {}
        self.strides: dict[Buffer, list[Poly]] = {}
        self.offsets: dict[Hashable, tuple[Poly, Poly]] = {}
        self.expansions: dict[Expr, Expr | None] = {}
        self._memo: dict[Hashable, Value] = {}
        self._users: dict[Hashable, list[Hashable]] = {}
        self._facts: dict[Expr, Facts] = {}
        self._resolved: dict[Hashable, Expr] = {}
        self._serials: dict[Expr, int] = {}
        self._names = 0
        every = statements(func.body)
        self._changing = _changing(every)
        # What other threads may have changed behind a barrier
        self.exchanged = {b for b in func.buffers if b in self._changing}
        self._unroll_vars = {s.var for s in every if isinstance(s, For) and s.kind == "unroll"}

    # ---- blocks and instructions ----

    @property
    def depth(self) -> int:
        """Of the innermost region."""
        return len(self.regions) - 1

    @property
    def block(self) -> Block:
        """Where the program goes on."""
        return self.regions[-1].block

    @block.setter
    def block(self, block: Block) -> None:
        self.regions[-1].block = block

    def new_block(self, hint: str) -> Block:
        made = Block(f"{hint}{len(self.blocks)}")
        self.blocks.append(made)
        return made

    def enter(self, block: Block) -> None:
        """Opens a region."""
        self.regions.append(Region(block))

    def leave(self) -> Block:
        """Closes the innermost region; what was known only there is forgotten."""
        region = self.regions.pop()
        for key in region.keys:
            self._memo.pop(key, None)
        return region.block

    def name(self) -> str:
        self._names += 1
        return f"%v{self._names}"

    def put(self, text: str, depth: int | None = None) -> str:
        """Appends an instruction with a result (in the region of a depth); returns its name."""
        name = self.name()
        block = self.regions[self.depth if depth is None else depth].block
        block.lines.append(f"{name} = {text}")
        return name

    def do(self, text: str) -> None:
        """Appends an instruction without a result."""
        self.block.lines.append(text)

    def alloca(self, kind: str, align: int | None = None) -> str:
        """An address of stack memory, made once at entry."""
        name = self.name()
        suffix = f", align {align}" if align else ""
        self.allocas.append(f"{name} = alloca {kind}{suffix}")
        return name

    # ---- what is known ----

    def known(self, key: Hashable) -> Value | None:
        return self._memo.get(key)

    def learn(
        self, key: Hashable, value: Value, state: State = NOTHING, depth: int | None = None
    ) -> Value:
        """Remembers a value until its region (or that of `depth`) ends or its state changes."""
        self._memo[key] = value
        self.regions[value.depth if depth is None else depth].keys.append(key)
        for s in state:
            self._users.setdefault(s, []).append(key)
        return value

    def forget(self, state: Iterable[Hashable]) -> None:
        """Drops what depends on a state that has changed."""
        for s in state:
            for key in self._users.pop(s, ()):
                self._memo.pop(key, None)

    def changes(self, body: tuple[Stmt, ...]) -> set[Hashable]:
        """The state that a stretch of code may change."""
        every = statements(body)
        out = _changing(every)
        if self.shared_memory:
            out.add(MEMORY)
        if any(isinstance(s, Invoke) and s.callee == "barrier" for s in every):
            out.update(self.exchanged)
        return out

    def facts(self, root: Expr) -> Facts:
        """What an expression depends on."""
        found = self._facts.get(root)
        if found is not None:
            return found
        stack = [root]
        while stack:
            e = stack[-1]
            missing = [c for c in children(e) if c not in self._facts]
            if missing and e not in self._facts:
                stack.extend(missing)
                continue
            stack.pop()
            if e not in self._facts:
                self._facts[e] = self._combine(e)
        return self._facts[root]

    def _combine(self, e: Expr) -> Facts:
        if isinstance(e, Var):
            return Facts(
                frozenset((e,)) if e in self._changing else NOTHING,
                frozenset((e,)) if e in self._unroll_vars else frozenset(),
            )
        state, unrolled = NOTHING, frozenset[Var]()
        for c in children(e):
            f = self._facts[c]
            state = state | f.state if state else f.state
            unrolled = unrolled | f.unrolled if unrolled else f.unrolled
        if isinstance(e, Load):
            if self.shared_memory:
                state = state | {MEMORY}
            elif e.buffer in self._changing:
                state = state | {e.buffer}
        return Facts(state, unrolled)

    def resolve(self, e: Expr) -> Expr:
        """e with the variables of unrolled loops replaced by their present values."""
        if not self.unrolled or not self.facts(e).unrolled:
            return e
        key = (e, *(self.unrolled.get(v) for v in sorted_vars(self.facts(e).unrolled)))
        found = self._resolved.get(key)
        if found is None:
            found = self._substitute(e)
            self._resolved[key] = found
        return found

    def _substitute(self, root: Expr) -> Expr:
        # Sums and products are left as they come: addresses make polynomials of them anyway.
        done: dict[Expr, Expr] = {}
        stack = [root]
        while stack:
            e = stack.pop()
            if e in done:
                continue
            if not self.facts(e).unrolled:
                done[e] = e
            elif isinstance(e, Var):
                done[e] = self.unrolled.get(e, e)
            else:
                old = children(e)
                missing = [c for c in old if c not in done]
                if missing:
                    stack.append(e)
                    stack.extend(missing)
                    continue
                new = with_children(e, tuple(done[c] for c in old))
                is_sum = getattr(new, "op", "") in ("add", "sub", "mul")
                done[e] = new if is_sum else normal(new)
        return done[root]

    def serial(self, e: Expr) -> int:
        """A number that orders atoms in the same way in every process: order of first use."""
        return self._serials.setdefault(e, len(self._serials))

    # ---- small instructions ----

    def base(self, buffer: Buffer) -> Value:
        """The address of a buffer's first element."""
        found = self.pointers.get(buffer)
        if found is None:
            raise IRError([f"{self.func.name}: buffer {buffer.name} is used before its alloc"])
        return found

    def storing(self, buffer: Buffer) -> AbstractContextManager[None]:
        """What surrounds a store to a buffer: nothing in a kernel."""
        return nullcontext()

    def invoke(self, s: Invoke) -> None:
        """Calls happen in drivers only."""
        raise IRError([f"{self.func.name}: a kernel cannot invoke anything"])

    def splat(self, value: str, depth: int, kind: str, shape: Shape) -> str:
        """A scalar of LLVM type `kind` in every lane of one row of `shape`."""
        if not shape:
            return value
        if not value.startswith("%"):
            return f"splat ({kind} {value})"
        key = ("splat", value, shape[-1])
        found = self.known(key)
        if found is None or found.depth > depth:  # made further in, it is not there yet
            row = vector(kind, shape)
            one = self.put(f"insertelement {row} poison, {kind} {value}, i64 0", depth)
            zeros = f"<{shape[-1]} x i32> zeroinitializer"
            all_lanes = self.put(f"shufflevector {row} {one}, {row} poison, {zeros}", depth)
            found = self.learn(key, Value((all_lanes,), depth))
        return found.text

    def text(self, head: str) -> str:
        """The whole function: `head` is its `define` line without the brace."""
        entry = [*(f"  {a}" for a in self.allocas), f"  br label %{self.blocks[0].label}"]
        out = [f"{head} {{", "entry:", *entry]
        for block in self.blocks:
            out.append(f"{block.label}:")
            out.extend(f"  {line}" for line in block.lines)
            out.append(f"  {block.end}")
        out.append("}")
        return "\n".join(out)


def sorted_vars(vs: Iterable[Var]) -> list[Var]:
    """In order of creation."""
    return sorted(vs, key=lambda v: v.serial)


def _changing(every: list[Stmt]) -> set[Hashable]:
    """Buffers and Vars that these statements write. A Let is among them because unrolling binds it
    anew in every iteration."""
    out: set[Hashable] = set()
    for s in every:
        if isinstance(s, Let | Assign):
            out.add(s.var)
        elif isinstance(s, Store | Alloc):
            out.add(s.buffer)
    return out
