"""The driver: the loop-IR function that runs a fused Graph by calling kernels on arena offsets.

Three passes over each scope (a graph, or the body of an `if` or `loop`): collect the steps and the
memory they need; place the memory; emit the statements. A nested scope's arena is one buffer of the
outer scope, alive while its step runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from naru.dtypes import DTYPES
from naru.errors import IRError, UnsupportedError
from naru.ir.expr import INT_MAX, Binary, Cast, Const, Expr, Load, Select, Unary, Var, free_vars
from naru.ir.graph import (
    Data,
    Graph,
    Layout,
    Node,
    TensorType,
    get_output,
    make_input,
    named_sizes,
    toposort,
)
from naru.ir.loop import Assign, Buffer, Func, If, Invoke, Let, Ref, Stmt, Store, While
from naru.ir.simplify import add, floordiv, index, maximum, mul, substitute
from naru.ops.registry import OPS
from naru.schedule import changing
from naru.schedule.changing import Changing
from naru.schedule.kernels import Kernel, Kernels
from naru.schedule.memory import Interval, bytes_of, place
from naru.schedule.outline import StepRecord, outline
from naru.schedule.requirements import Branch, Requirement, branches
from naru.schedule.storage import Role, Scope, Step, Storage
from naru.schedule.weights import Packed, packed_bytes

BAD_DIM, BROKEN, TOO_SMALL = 3, 4, 5  # as in abi.h
FIRST_ROUNDS = 16  # rounds of a loop that the memory of its scan outputs holds at first
T = TypeVar("T")


@dataclass(frozen=True)
class Program:
    """All that code generation and the bundle need. `roles` tells where each driver buffer points;
    `late` are the outputs whose shape is found while running."""

    run: Func
    profile: Func
    plan: Func
    roles: Mapping[Buffer, Role]
    kernels: tuple[Kernel, ...]
    weights: tuple[Packed, ...]
    weight_bytes: int
    symbols: tuple[Var, ...]
    input_symbols: int
    steps: tuple[StepRecord, ...]
    late: tuple[bool, ...]
    arena: Expr
    pointers: int
    lets: tuple[tuple[Var, Expr], ...]
    requires: tuple[Requirement, ...]


def build_driver(g: Graph, kernels: Kernels, requires: tuple[Requirement, ...] = ()) -> Program:
    """Driver, profiling driver and plan of a fused graph; the plan checks what is required."""
    return Builder(g, kernels, requires).program()


def control_nodes(g: Graph) -> Iterator[Node]:
    """The nodes with bodies, also those in bodies."""
    for n in toposort(*g.outputs):
        bodies = [v for _, v in n.attrs if n.op in ("if", "loop") and isinstance(v, Graph)]
        if bodies:
            yield n
        for body in bodies:
            yield from control_nodes(body)


class Builder:
    """Driver and plan in the making."""

    def __init__(self, g: Graph, kernels: Kernels, requires: tuple[Requirement, ...]) -> None:
        self.g, self.kernels, self.requires = g, kernels, requires
        self.branches: list[Branch | None] = [None]  # that we are in, where we emit
        # A branch that no pass left in place stands for the graph around it.
        here = {b for n in control_nodes(g) for b in branches(n).values()}
        self.asked = [r.branch if r.branch in here else None for r in requires]
        self.symbols = g.symbols
        self.results: dict[Node, tuple[Storage, ...]] = {}  # of control nodes and kernels
        self.copies: dict[TensorType, Graph] = {}
        self.larger: dict[Storage, Storage] = {}  # where scan outputs grow to
        self.states: dict[Node, dict[int, Changing]] = {}  # of loops
        self.rooms: list[dict[int, Var]] = []  # of the loops we emit: bytes at each pointer
        self.buffers: dict[tuple[Role, str], Buffer] = {}
        self.weights: dict[tuple[Data, Layout | None], Packed] = {}
        self.weight_bytes = 0
        self.lets: list[tuple[Var, Expr]] = []
        self.bounds: dict[Var, Expr] = {}
        self.unbounded: set[Var] = set()
        self.pointers = 0
        self.step = 0  # of the run, where we emit
        self.live: set[Var] = set()  # symbols that are defined where we emit
        self.defined: list[Var] = []
        self.profiling = False

    # --- memory ----------------------------------------------------------------------------------

    def buffer(self, role: Role, dtype: str) -> Buffer:
        """The driver's view of a pointer as elements of a dtype."""
        key = (role, dtype)
        if key not in self.buffers:
            name = role if isinstance(role, str) else f"{role[0]}{role[1]}"
            shape: tuple[Expr, ...] = (Const(2**31 - 1),)
            if role == "dims":
                shape = (Const(max(1, len(self.g.symbols) + len(self.defined))),)
            self.buffers[key] = Buffer(f"{name}_{dtype}", dtype, shape, align=64)
        return self.buffers[key]

    def ref(self, s: Storage) -> Ref:
        return Ref(self.buffer(s.role, "u8"), s.at())

    def element(self, s: Storage, dtype: str, k: int = 0) -> Load:
        """Element k of a tensor, as the driver reads it."""
        return Load(self.buffer(s.role, dtype), (add(floordiv(s.at(), DTYPES[dtype].bytes), k),))

    def bounded(self, e: Expr) -> Expr:
        """A size with symbols that kernels define replaced by their upper bounds."""
        for _ in range(8):
            if not any(v in self.bounds for v in free_vars(e)):
                return e
            e = substitute(e, self.bounds)
        return e

    def new_storage(self, scope: Scope, t: TensorType, step: int) -> Storage:
        """A tensor's place: in the arena, or, when nothing bounds its size, at a pointer of its own
        to memory that the host allocates while the model runs."""
        size = self.bounded(bytes_of(t))
        if any(v in self.unbounded for v in free_vars(size)):
            return self.new_pointer(size)
        made = Storage("arena", size, step, step, scope=scope)
        scope.storages.append(made)
        return made

    def new_pointer(self, size: Expr) -> Storage:
        slot = len(self.g.inputs) + len(self.g.outputs) + self.pointers
        self.pointers += 1
        return Storage(("io", slot), size)

    def define(self, *symbols: Var) -> None:
        """Sizes that are found while running, and that nothing bounds."""
        self.unbounded.update(symbols)
        self.defined += symbols

    def point(self, s: Storage, at: Storage) -> Stmt:
        """Lets a pointer point to where another one does."""
        return Invoke("set_io", (Const(slot_of(s)), self.ref(at)))

    def allocations(self, *made: Storage) -> list[tuple[int, Expr]]:
        """What the step that writes these storages must allocate first."""
        own = len(self.g.inputs) + len(self.g.outputs)
        slots = [(s.role[1], s.size) for s in made if not isinstance(s.role, str)]
        return [(slot, size) for slot, size in slots if slot >= own]

    def constant(self, n: Node) -> Storage:
        """A constant's place among the weights; equal content in one layout is stored once."""
        data = attribute(n, "data", Data)
        key = (data, n.type.layout)
        if key not in self.weights:
            size = packed_bytes(data.array, n.type.layout)
            self.weights[key] = Packed(data, n.type.layout, self.weight_bytes, size)
            self.weight_bytes += -(-size // 64) * 64
        offset = self.weights[key].offset
        return Storage("weights", Const(self.weights[key].size), offset=Const(offset))

    # --- collecting ------------------------------------------------------------------------------

    def collect(self, g: Graph, inputs: list[Storage], outputs: list[Storage | None]) -> Scope:
        """The steps of a graph. `outputs`: the places that its results must go to (None: any)."""
        scope = Scope(g)
        scope.where.update(zip(g.inputs, inputs, strict=True))
        wanted = self.output_places(g, outputs)
        for n in toposort(*g.outputs):
            if n not in scope.where:
                self.collect_node(scope, n, wanted)
        for n, out in zip(g.outputs, outputs, strict=True):
            have = scope.where[n]
            if out is not None and have is not out:
                self.copy_step(scope, have, out, n.type)
            scope.outputs.append(out or have)
        for s in scope.outputs:
            s.end = max(s.end, len(scope.steps))
        intervals = [Interval(s.size, s.start, s.end) for s in scope.storages]
        placement = place(intervals, f"at{len(self.lets)}_")
        self.lets += placement.lets
        for s, offset in zip(scope.storages, placement.offsets, strict=True):
            s.offset = offset
        scope.total = placement.total
        return scope

    def output_places(self, g: Graph, outputs: list[Storage | None]) -> dict[Node, Storage]:
        """Kernels that can write a result straight to where it must go."""
        wanted: dict[Node, Storage] = {}
        for n, out in zip(g.outputs, outputs, strict=True):
            source = n
            while is_view(source) and source.inputs[0] is not None:
                source = source.inputs[0]
            if out is not None and kernel_node(source).op == "group" and source not in wanted:
                wanted[source] = out
        return wanted

    def use(self, scope: Scope, n: Node | None) -> Storage:
        """Where an operand of the next step is; it stays alive until then."""
        if n is None:
            raise IRError(["a step of the driver lacks an operand"])
        s = scope.where[n]
        s.end = max(s.end, len(scope.steps))
        return s

    def collect_node(self, scope: Scope, n: Node, wanted: dict[Node, Storage]) -> None:
        """The node's step, if it has one, and where its value is."""
        if n.op == "constant":
            scope.where[n] = self.constant(n)
        elif n.op == "get":
            source = n.inputs[0]
            if source is None or source not in self.results:
                raise IRError(["get: its operand has one output only"])
            scope.where[n] = self.results[source][attribute(n, "index", int)]
        elif n.op == "group":
            self.collect_kernel(scope, n, wanted)
        elif n.op == "if":
            self.collect_if(scope, n)
        elif n.op == "loop":
            self.collect_loop(scope, n)
        elif n.op == "bind_dim":
            self.collect_symbols(scope, n)
        elif is_view(n) or n.op == "with_sizes":
            scope.where[n] = self.use(scope, n.inputs[0])
        else:
            raise UnsupportedError([f"{n.op}: the driver has no step for it"])

    def collect_kernel(self, scope: Scope, n: Node, wanted: Mapping[Node, Storage]) -> None:
        """The call of a group's kernel, which writes to where a result is wanted, else to memory of
        the scope."""
        step = len(scope.steps)
        operands = tuple(self.use(scope, x) for x in n.inputs)
        places = [wanted.get(get_output(n, k)) for k in range(len(n.types))]
        made = tuple(
            self.new_storage(scope, t, step) if out is None else out
            for t, out in zip(n.types, places, strict=True)
        )
        allocs = self.allocations(*(s for s in made if s not in places))
        scope.where[n], self.results[n] = made[0], made
        kernel = self.kernels.get(attribute(n, "body", Graph))
        scope.steps.append(Step(n, kernel, operands, made, allocs=allocs))

    def copy_step(self, scope: Scope, source: Storage, out: Storage, t: TensorType) -> None:
        """A result that is made elsewhere is copied to where it must go."""
        scope.steps.append(self.copy(source, out, t))
        source.end = max(source.end, len(scope.steps))

    def copy(self, source: Storage, out: Storage, t: TensorType) -> Step:
        """A kernel call that copies a row-major tensor."""
        plain = TensorType(t.dtype, t.shape)
        if plain not in self.copies:
            given = make_input("p0", plain)
            same = Node("identity", (given,), (), (plain,))
            self.copies[plain] = Graph("copy", (given,), (same,), ("out",))
        return Step(None, self.kernels.get(self.copies[plain]), (source,), (out,))

    def collect_symbols(self, scope: Scope, n: Node) -> None:
        """Numbers in memory that become dims: read them and keep them."""
        symbols, raw = variables(n, "symbols"), variables(n, "raw")
        bounds = n.attr("bounds", ())
        for k, v in enumerate((*symbols, *raw)):
            bound = bounds[k] if isinstance(bounds, tuple) and k < len(bounds) else None
            if isinstance(bound, Expr):
                self.bounds[v] = self.bounded(bound)
            else:
                self.unbounded.add(v)
        self.defined += [*symbols, *raw]
        numbers = self.use(scope, n.inputs[0])
        scope.where[n] = numbers
        step = Step(n, None, (numbers,), ())
        source = n.inputs[0]
        narrow = source is not None and source.type.dtype != "i64"
        if raw or narrow:  # readers of the node see what was made of the numbers
            made = self.new_storage(scope, n.type, len(scope.steps))
            scope.where[n], step.results = made, (made,)
        scope.steps.append(step)
        numbers.end = max(numbers.end, len(scope.steps))

    def collect_if(self, scope: Scope, n: Node) -> None:
        """Both branches write to the same results, and share their memory. A result whose size the
        branch decides is copied at its end to memory of that size."""
        step = len(scope.steps)
        operands = tuple(self.use(scope, x) for x in n.inputs)
        symbols = variables(n, "symbols")
        self.unbounded.update(symbols)
        self.defined += symbols
        late = {k for k, _ in named_sizes(n)}
        results = tuple(
            self.new_pointer(bytes_of(t)) if k in late else self.new_storage(scope, t, step)
            for k, t in enumerate(n.types)
        )
        allocs = self.allocations(*(r for k, r in enumerate(results) if k not in late))
        wanted = [None if k in late else r for k, r in enumerate(results)]
        bodies = [
            self.collect(attribute(n, name, Graph), list(operands[1:]), list(wanted))
            for name in ("then", "orelse")
        ]
        self.finish_control(scope, n, operands, results, bodies).allocs = allocs

    def collect_loop(self, scope: Scope, n: Node) -> None:
        """Carried state lives in `results` while the loop runs; each round writes to a second set
        of buffers, which is then copied. Scan outputs are written a slice a round."""
        step = len(scope.steps)
        body, carried = attribute(n, "body", Graph), attribute(n, "carried", int)
        operands = tuple(
            Storage("arena", Const(0)) if x is None else self.use(scope, x) for x in n.inputs
        )
        rounds = n.attr("rounds")
        if isinstance(rounds, Var):
            self.unbounded.add(rounds)
            self.defined.append(rounds)
        growing = isinstance(rounds, Var)  # emit_loop then allocates the scan outputs
        states = self.states[n] = changing.make(self, body, named_sizes(n))
        results = tuple(
            states[k].now
            if k in states
            else self.new_pointer(self.bounded(bytes_of(t)))
            if growing and k >= carried
            else self.new_storage(scope, t, step)
            for k, t in enumerate(n.types)
        )
        number = self.new_storage(scope, TensorType("i64", ()), step)
        going = self.new_storage(scope, TensorType("bool", ()), step)
        following = [
            None if k in states else self.new_storage(scope, t, step)
            for k, t in enumerate(n.types[:carried])
        ]
        going_next = self.new_storage(scope, TensorType("bool", ()), step)
        # Where one round's slice of a scan output goes: its offset is known while the loop runs.
        slices = [
            Storage(whole.role, bytes_of(x.type))
            for whole, x in zip(results[carried:], body.outputs[1 + carried :], strict=True)
        ]
        inputs = [number, going, *results[:carried], *operands[2 + carried :]]
        inner = self.collect(body, inputs, [going_next, *following, *slices])
        copies = [
            self.copy(place, results[k], n.types[k])
            for source in (operands[2:], following)
            for k, place in enumerate(source[:carried])
            if place is not None and k not in states
        ]
        extra = (number, going, going_next, *slices)
        stay = [r for k, r in enumerate(results[:carried]) if k not in states]
        stay += [] if growing else results[carried:]
        own = self.allocations(*stay, *(x for x in following if x is not None))
        self.finish_control(scope, n, operands, results, [inner], extra, tuple(copies)).allocs = own

    def finish_control(
        self,
        scope: Scope,
        n: Node,
        operands: tuple[Storage, ...],
        results: tuple[Storage, ...],
        bodies: list[Scope],
        extra: tuple[Storage, ...] = (),
        copies: tuple[Step, ...] = (),
    ) -> Step:
        """Adds the step of a control node; memory for its bodies lives while it runs."""
        step = len(scope.steps)
        size: Expr = Const(0)
        for b in bodies:
            size = maximum(size, b.total)
        arena = Storage("arena", size, step, step, scope=scope)
        scope.storages.append(arena)
        scope.where[n] = results[0]
        self.results[n] = results
        scope.steps.append(Step(n, None, operands, results, tuple(bodies), arena, extra, copies))
        return scope.steps[-1]

    # --- emitting --------------------------------------------------------------------------------

    def program(self) -> Program:
        """All three passes."""
        g = self.g
        inputs = [Storage(("io", k), bytes_of(n.type)) for k, n in enumerate(g.inputs)]
        late = self.late_outputs()
        outputs: list[Storage | None] = [
            None if late[k] else Storage(("io", len(inputs) + k), bytes_of(n.type))
            for k, n in enumerate(g.outputs)
        ]
        top = self.collect(g, inputs, outputs)
        self.symbols = (*g.symbols, *self.defined)
        run = self.driver(top, late, "naru_run")
        self.profiling = True
        profile = self.driver(top, late, "naru_profile")
        roles = {b: role for (role, _), b in self.buffers.items()}
        return Program(
            run,
            profile,
            self.plan(top),
            roles,
            tuple(self.kernels.made.values()),
            tuple(self.weights.values()),
            self.weight_bytes,
            self.symbols,
            len(g.symbols),
            outline(top),
            tuple(late),
            top.total,
            self.pointers,
            tuple(self.lets),
            self.requires,
        )

    def late_outputs(self) -> list[bool]:
        """Outputs whose shape mentions a symbol that a kernel defines."""
        given = set(self.g.symbols)
        symbols = [free_vars(*n.type.shape) for n in self.g.outputs]
        return [any(v not in given for v in vs) for vs in symbols]

    def sizes(self, dims: Buffer, symbols: tuple[Var, ...]) -> list[Stmt]:
        """Reads symbols from where the host wrote them. One that only running defines counts as
        its least value until then: formulas may divide by it."""
        out: list[Stmt] = []
        for k, s in enumerate(self.symbols):
            if s in symbols:
                value: Expr = Cast(Load(dims, (Const(k),)), "index")
                late = k >= len(self.g.symbols) and s.lo > 0
                out.append(Let(s, Binary("max", value, Const(s.lo)) if late else value))
        return out

    def driver(self, top: Scope, late: list[bool], name: str) -> Func:
        """The function that runs the model; with marks between the steps when profiling."""
        dims = self.buffer("dims", "i64")
        body = self.sizes(dims, self.g.symbols)
        body += [Let(v, e) for v, e in self.lets]
        self.live = set(self.g.symbols)
        body += self.emit_scope(top, top=True)
        for k, is_late in enumerate(late):
            if is_late:
                at = len(self.g.inputs) + k
                body.append(Invoke("set_io", (Const(at), self.ref(top.outputs[k]))))
        if self.profiling:
            body += [Invoke("barrier", ()), Invoke("mark", (Const(len(top.steps)),))]
        return Func(name, tuple(self.buffers.values()), tuple(body))

    def plan(self, top: Scope) -> Func:
        """See abi.h: arena bytes, estimated time, useful threads, dims of the outputs."""
        out_dims = [d for n in self.g.outputs for d in n.type.shape]
        dims = Buffer("dims", "i64", (Const(max(1, len(self.symbols))),))
        out = Buffer("out", "i64", (Const(3 + len(out_dims)),))
        work, threads = self.total_work(top)
        arena = top.total
        for k, r in reversed(list(enumerate(self.requires))):
            if not r.late:
                arena = Select(r.cond, arena, Const(-1 - k))
        values = [arena, self.bounded(work), self.bounded(threads), *out_dims]
        body: list[Stmt] = self.sizes(dims, self.symbols)
        body += [Let(v, e) for v, e in self.lets]
        for k, v in enumerate(values):
            body.append(Store(out, (Const(k),), Cast(v, "i64")))
        return Func("naru_plan", (dims, out), tuple(body))

    def total_work(self, scope: Scope) -> tuple[Expr, Expr]:
        """(nanoseconds on one core, threads that find work); a body is assumed to run 8 times."""
        work, threads = index(0), index(1)
        for s in scope.steps:
            if s.kernel is not None:
                work = add(work, self.bounded(s.kernel.work))
                threads = maximum(threads, self.bounded(s.kernel.threads))
            for inner in s.scopes:
                more, some = self.total_work(inner)
                work, threads = add(work, mul(more, 8)), maximum(threads, some)
        return work, threads

    def emit_scope(self, scope: Scope, *, top: bool = False) -> list[Stmt]:
        """The steps in order; all threads meet between them."""
        out: list[Stmt] = []
        outside = set(self.live)
        for k, s in enumerate(scope.steps):
            if k:
                out.append(Invoke("barrier", ()))
            self.step = k if top else self.step
            if top and self.profiling:
                out.append(Invoke("mark", (Const(k),)))
            out += [x for slot, size in s.allocs for x in self.take(slot, size)]
            out += self.emit_step(s)
        self.live = set(self.live) if top else outside
        return out

    def emit_step(self, s: Step) -> list[Stmt]:
        if s.kernel is not None:
            refs = [self.ref(x) for x in (*s.operands, *s.results)]
            return [Invoke(s.kernel.func, (*refs, *s.kernel.sizes), s.kernel.threads)]
        if s.control.op == "bind_dim":
            return self.emit_symbols(s)
        for inner in s.scopes:
            inner.base = s.arena.at() if s.arena else Const(0)
        return self.emit_if(s) if s.control.op == "if" else self.emit_loop(s)

    def emit_symbols(self, s: Step) -> list[Stmt]:
        """Symbols get their values; what must hold of them, and could not be said before, is
        checked. A slice may end at the largest i64, a size may not be what no dim can be."""
        n = s.control
        symbols, raw = variables(n, "symbols"), variables(n, "raw")
        source = n.inputs[0]
        dtype = "i64" if source is None else source.type.dtype
        out: list[Stmt] = []
        for k, v in enumerate(raw or symbols):
            number = self.element(s.operands[0], dtype, k)
            if v not in self.bounds and dtype == "i64":
                out += self.at_most(v, number)
                low = Binary("max", number, Const(-INT_MAX, "i64"))
                number = Binary("min", low, Const(INT_MAX, "i64"))
            out += [Let(v, Cast(number, "index")), *self.at_least(v), self.remember(v)]
            if s.results and not raw:
                out.append(self.keep(s.results[0], "i64", Cast(v, "i64"), k))
        exprs = n.attr("exprs", ())
        if raw and isinstance(exprs, tuple):
            for k, (v, e) in enumerate(zip(symbols, exprs, strict=True)):
                if isinstance(e, Expr):
                    sized = [*self.at_least(v), *self.at_most(v, Cast(v, "i64"))]
                    out += [Let(v, e), *sized, self.remember(v)]
                    out.append(self.keep(s.results[0], "i64", Cast(v, "i64"), k))
        return [*out, *self.check_known(*symbols, *raw)]

    def at_least(self, v: Var) -> list[Stmt]:
        """The check that a number is not below what its symbol may be."""
        if v in self.bounds or v.lo <= -INT_MAX:
            return []
        stop = Invoke("fail", (Const(TOO_SMALL), Const(self.step), v, Const(v.lo)))
        return [If(Binary("lt", v, Const(v.lo)), (stop,))]

    def at_most(self, v: Var, number: Expr) -> list[Stmt]:
        """The check that a number that becomes a size is one that a dim can have."""
        if v in self.bounds or v.lo <= -INT_MAX:
            return []
        stop = Invoke("fail", (Const(BAD_DIM), Const(self.step), number, Const(INT_MAX - 1, "i64")))
        return [If(Binary("ge", number, Const(INT_MAX, "i64")), (stop,))]

    def check_known(self, *defined: Var) -> list[Stmt]:
        """The conditions that can be checked now that these symbols are defined too."""
        self.live.update(defined)
        out: list[Stmt] = []
        for k, r in enumerate(self.requires):
            needed = free_vars(r.cond)
            if self.asked[k] not in self.branches or not self.live.issuperset(needed):
                continue
            if any(v in defined for v in needed):
                out.append(self.require(k))
        return out

    def require(self, k: int) -> Stmt:
        """The check of a condition."""
        broken = Invoke("fail", (Const(BROKEN), Const(k)))
        return If(Unary("not", self.requires[k].cond), (broken,))

    def enter_branch(self, branch: Branch) -> list[Stmt]:
        """The conditions of a branch that can be checked where it begins."""
        asked = [
            k
            for k, r in enumerate(self.requires)
            if self.asked[k] == branch and self.live.issuperset(free_vars(r.cond))
        ]
        return [self.require(k) for k in asked]

    def emit_branch(self, s: Step, branch: Branch, body: Scope) -> tuple[Stmt, ...]:
        self.branches.append(branch)
        out = (*self.enter_branch(branch), *self.emit_scope(body), *self.hand_over(s, body))
        self.branches.pop()
        return out

    def emit_if(self, s: Step) -> list[Stmt]:
        symbols = variables(s.control, "symbols")
        named = branches(s.control)
        parts = zip(("then", "orelse"), s.scopes, strict=True)
        then, orelse = (self.emit_branch(s, named[name], body) for name, body in parts)
        branch = If(self.element(s.operands[0], "bool"), then, orelse)
        if not symbols:
            return [branch]
        dims = self.buffer("dims", "i64")
        known = [
            Let(v, Cast(Load(dims, (Const(self.symbols.index(v)),)), "index")) for v in symbols
        ]
        return [branch, Invoke("barrier", ()), *known, *self.check_known(*symbols)]

    def hand_over(self, s: Step, branch: Scope) -> list[Stmt]:
        """The end of a branch: sizes that it has decided, and the results that have them."""
        dims = self.buffer("dims", "i64")
        out: list[Stmt] = []
        done: set[int] = set()
        for (k, axis), symbol in named_sizes(s.control).items():
            t, made, result = branch.graph.outputs[k].type, branch.outputs[k], s.results[k]
            at = (Const(self.symbols.index(symbol)),)
            out.append(Store(dims, at, Cast(t.shape[axis], "i64")))
            if k not in done:
                done.add(k)
                size = mul(DTYPES[t.dtype].bytes, *t.shape)
                copy = Invoke(
                    self.kernels.copy_bytes().func, (self.ref(made), self.ref(result), size)
                )
                out += [Invoke("barrier", ()), *self.take(slot_of(result), size), copy]
        return out

    def emit_loop(self, s: Step) -> list[Stmt]:
        """`while going and round < trip`; a barrier after each part, as all threads run it."""
        carried = attribute(s.control, "carried", int)
        number, going, going_next, *slices = s.extra
        count, now = Var("round", mutable=True), Var("round_now")
        capacity = Var("capacity", mutable=True)
        growing = isinstance(s.control.attr("rounds"), Var)
        for k, piece in enumerate(slices):
            piece.offset = add(s.results[carried + k].at(), mul(now, self.slice_bytes(s, k)))
        states = self.states[s.control].values()
        fixed = carried - len(states)
        outside = set(self.live)
        self.live.update(v for c in states for v in c.sizes.values())
        self.rooms.append({})
        branch = branches(s.control)["body"]
        self.branches.append(branch)
        body: list[Stmt] = [
            Let(now, count),
            *(x for c in states for x in changing.begin(self, c)),
            *self.enter_branch(branch),
            *(self.grow(s, capacity, now) if growing else []),
            self.keep(number, "i64", Cast(now, "i64")),
            Invoke("next_round", (Const(self.step), now)),
            *self.emit_scope(s.scopes[0]),
            Invoke("barrier", ()),
            *self.change(s),
            *(x for c in s.copies[fixed:] for x in self.emit_step(c)),
            self.keep(going, "bool", self.element(going_next, "bool")),
            Assign(count, add(now, 1)),
            Invoke("barrier", ()),
        ]
        self.branches.pop()
        self.live, rooms = outside, self.rooms.pop()
        return [
            *(Assign(room, Const(-1)) for room in rooms.values()),
            *self.enter_loop(s, count),
            *(self.first_memory(s, capacity) if growing else []),
            While(self.again(s, count), tuple(body)),
            *(x for c in states for x in changing.leave(self, c)),
            *(self.found(s, count) if growing else []),
            *self.check_known(*(v for c in states for v in c.final.values())),
        ]

    def change(self, s: Step) -> list[Stmt]:
        """The end of a round for carried values whose sizes change."""
        states, body = self.states[s.control], s.scopes[0]
        outputs = [(c, body.outputs[1 + k], body.graph.outputs[1 + k]) for k, c in states.items()]
        out: list[Stmt] = []
        for c, made, n in outputs:
            out += changing.keep(self, c, made, n.type)
        out += [Invoke("barrier", ())] if outputs else []
        for c, _, n in outputs:
            out += changing.change_places(self, c, n.type)
        return out

    def enter_loop(self, s: Step, count: Var) -> list[Stmt]:
        """The carried state as it comes in, round 0, and whether there is a round at all."""
        carried, going = attribute(s.control, "carried", int), s.extra[1]
        more: Expr = Const(True, "bool")
        if s.control.inputs[1] is not None:
            more = self.element(s.operands[1], "bool")
        states = self.states[s.control]
        fixed = carried - len(states)
        types = [None if x is None else x.type for x in s.control.inputs]
        first: list[Stmt] = []
        for k, c in states.items():
            t = types[2 + k]
            first += [] if t is None else changing.enter(self, c, s.operands[2 + k], t)
        return [
            *first,
            *(x for c in s.copies[:fixed] for x in self.emit_step(c)),
            Assign(count, Const(0)),
            self.keep(going, "bool", more),
            Invoke("barrier", ()),
        ]

    def again(self, s: Step, count: Var) -> Expr:
        """Whether a loop goes on."""
        going = self.element(s.extra[1], "bool")
        if s.control.inputs[0] is None:
            return going
        limit = Cast(self.element(s.operands[0], "i64"), "index")
        return Binary("and", going, Binary("lt", count, limit))

    def first_memory(self, s: Step, capacity: Var) -> list[Stmt]:
        """Scan outputs of unknown length begin with room for a few rounds."""
        out: list[Stmt] = [Assign(capacity, Const(FIRST_ROUNDS))]
        for k, whole in enumerate(s.results[attribute(s.control, "carried", int) :]):
            out.append(self.allocate(whole, mul(FIRST_ROUNDS, self.slice_bytes(s, k))))
        return out

    def found(self, s: Step, count: Var) -> list[Stmt]:
        """The number of rounds becomes a dim."""
        rounds = attribute(s.control, "rounds", Var)
        return [Let(rounds, count), self.remember(rounds), *self.check_known(rounds)]

    def take(self, slot: int, size: Expr) -> list[Stmt]:
        """Memory for a pointer. In a loop what an earlier round took serves again if it is large
        enough: the host keeps all there is until the run ends."""
        if not self.rooms:
            return [Invoke("alloc", (Const(slot), size, Const(self.step)))]
        room = self.rooms[-1].setdefault(slot, Var(f"room_at{slot}", mutable=True))
        need = Var("need")
        twice = mul(need, 2)
        more = (Invoke("alloc", (Const(slot), twice, Const(self.step))), Assign(room, twice))
        return [Let(need, size), If(Binary("gt", need, room), more)]

    def allocate(self, s: Storage, size: Expr) -> Stmt:
        """Memory from the host for a storage that has a pointer of its own."""
        return Invoke("alloc", (Const(slot_of(s)), size, Const(self.step)))

    def grow(self, s: Step, capacity: Var, now: Var) -> list[Stmt]:
        """Full scan outputs move to twice the memory."""
        carried = attribute(s.control, "carried", int)
        room = Var("room")
        out: list[Stmt] = [Let(room, capacity), Assign(capacity, mul(room, 2))]
        for k, whole in enumerate(s.results[carried:]):
            used = Var(f"used{k}")
            larger = self.larger.get(whole) or self.new_pointer(Const(0))
            self.larger[whole] = larger
            out += [
                Let(used, mul(room, self.slice_bytes(s, k))),
                self.allocate(larger, mul(2, used)),
                Invoke(self.kernels.copy_bytes().func, (self.ref(whole), self.ref(larger), used)),
                Invoke("barrier", ()),
                Invoke("set_io", (Const(slot_of(whole)), self.ref(larger))),
                Invoke("barrier", ()),
            ]
        return [If(Binary("eq", now, capacity), tuple(out))]

    def remember(self, symbol: Var) -> Stmt:
        """Writes a symbol's value where the host finds it."""
        dims = self.buffer("dims", "i64")
        return Store(dims, (Const(self.symbols.index(symbol)),), Cast(symbol, "i64"))

    def slice_bytes(self, s: Step, k: int) -> Expr:
        """Bytes of one round's slice of a scan output (slices lie next to each other)."""
        first = 1 + attribute(s.control, "carried", int)
        t = s.scopes[0].graph.outputs[first + k].type
        return mul(DTYPES[t.dtype].bytes, *t.shape)

    def keep(self, s: Storage, dtype: str, value: Expr, k: int = 0) -> Stmt:
        """Writes element k of a tensor."""
        buffer = self.buffer(s.role, dtype)
        return Store(buffer, (add(floordiv(s.at(), DTYPES[dtype].bytes), k),), value)


def attribute(n: Node, name: str, kind: type[T]) -> T:
    """An attribute that a node of its op has; IRError if it is missing or of another kind."""
    value = n.attr(name)
    if not isinstance(value, kind):
        raise IRError([f"{n.op}: expected an attribute {name} of {kind.__name__}, found {value!r}"])
    return value


def variables(n: Node, name: str) -> tuple[Var, ...]:
    """An attribute that is a tuple of Vars, or left out."""
    found = n.attr(name, ())
    return tuple(v for v in found if isinstance(v, Var)) if isinstance(found, tuple) else ()


def slot_of(s: Storage) -> int:
    """The number of the pointer that a storage has for itself."""
    if isinstance(s.role, str):
        raise IRError([f"expected memory with a pointer of its own, found {s.role}"])
    return s.role[1]


def kernel_node(n: Node) -> Node:
    """The node whose result n is: another one where n names one of several."""
    return n.inputs[0] if n.op == "get" and n.inputs[0] is not None else n


def is_view(n: Node) -> bool:
    """Does the node only give the same bytes another shape?"""
    return n.op in OPS and OPS[n.op].kind == "view"
