"""TensorFunction + Schedule -> loop IR.

The result's stage gives the loop nest. A reduction is computed inside one of its loops
(`ComputeAt`), on the stack, for just the tile of elements that the rest of the nest needs; constant
indices there let LLVM keep the tile in registers. Nothing is decided here: what a step asks for is
done, or refused with the reason (here where it depends on extents, else in legality.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from naru.dtypes import DTYPES, is_float
from naru.errors import ScheduleError
from naru.ir.expr import (
    Binary,
    Call,
    Const,
    Expr,
    Load,
    Read,
    Reduce,
    Splat,
    Var,
    children,
    free_vars,
    walk,
    with_children,
)
from naru.ir.loop import Alloc, Buffer, For, Func, If, Invoke, Ref, Stmt, Store
from naru.ir.simplify import (
    TRUE,
    add,
    bounds,
    ceildiv,
    compare,
    floordiv,
    free_of,
    known,
    logical_and,
    minimum,
    mod,
    mul,
    prod,
    sub,
    substitute,
    within,
)
from naru.ir.tensor import Tensor, TensorFunction, identity, reads
from naru.ir.text_expr import print_expr
from naru.schedule.legality import Nest, read_steps, root
from naru.schedule.rewrites import map_reads, physical_shape
from naru.schedule.steps import Expect, Prefetch, Rfactor, Schedule, Split, Tensorize
from naru.schedule.tensorize import Loops, get_instruction, match_product
from naru.schedule.vector import Grid, Lane, contiguous_base, join, vectorize


@dataclass(frozen=True)
class Env:
    """Where we stand in a nest. All maps go by loop name: `extent` of every loop that can be opened
    now, `value` of the open ones without split, `base` (where the tile begins) of those whose loop
    over tiles is open, `valid` (how many iterations count) of those under a mask. `origin`: where
    the part of the stage that the nest computes begins."""

    extent: Mapping[str, Expr]
    value: Mapping[str, Expr] = field(default_factory=dict[str, Expr])
    base: Mapping[str, Expr] = field(default_factory=dict[str, Expr])
    valid: Mapping[str, Expr] = field(default_factory=dict[str, Expr])
    origin: Mapping[str, Expr] = field(default_factory=dict[str, Expr])
    lane: Lane | Grid | None = None


@dataclass(frozen=True)
class Local:
    """A stage on the stack or in a result's memory: element i of it is buffer[i - origin]."""

    buffer: Buffer
    origin: tuple[Expr, ...]


Body = Callable[[Env], list[Stmt]]
WHOLE = "*"  # in an axis map: all of the axis is needed
LINE = 64  # bytes that a hint fetches
STACK_LIMIT = 2**20  # bytes of one stage's tile; a thread has a few MiB of stack


@dataclass(frozen=True)
class Segment:
    """`count` tiles of `size` from iteration `start` on; the last may be partial if `masked`."""

    size: int
    count: Expr
    start: Expr
    masked: bool = False


def segments(extent: Expr, split: Split) -> list[Segment]:
    """The nests that a Split makes of an extent. See Split."""
    out: list[Segment] = []
    start: Expr = Const(0)
    for k, size in enumerate(split.sizes):
        rest = sub(extent, start)
        count = Const(split.counts[k]) if split.counts else floordiv(rest, size)
        if known(count) != 0:
            out.append(Segment(size, count, start))
        start = add(start, mul(count, size))
    rest = sub(extent, start)
    last = split.sizes[-1]
    if known(rest) != 0 and (last > 1 or split.counts):
        out.append(Segment(last, ceildiv(rest, last), start, masked=last > 1))
    if split.counts and bounds(rest)[0] < 0:
        covered = f"{known(start)} of {print_expr(extent)}"
        raise ScheduleError(f"{split}: the tiles cover more than the extent, {covered}")
    return out


class Lowering:
    """One kernel in the making."""

    def __init__(
        self,
        tf: TensorFunction,
        schedule: Schedule,
        fused_multiply_add: bool,
        like: Func | None,
        origin: tuple[Expr, ...],
    ) -> None:
        self.tf, self.fma, self.origin = tf, fused_multiply_add, origin
        self.nests = read_steps(tf, schedule)
        tensors = (*tf.inputs, *tf.outputs)
        if like is None:
            self.buffers = {t: Buffer(t.name, t.dtype, t.shape) for t in tensors}
        else:
            self.buffers = dict(zip(tensors, like.buffers, strict=True))
        self.locals: dict[Tensor, Local] = {}
        self.attached: dict[tuple[str, str], list[Nest]] = {}
        for nest in self.nests.values():
            if nest.at is not None:
                self.attached.setdefault(nest.at, []).append(nest)

    def func(self, name: str) -> Func:
        body: list[Stmt] = []
        for t in self.tf.outputs:
            nest = self.nests[t.name]
            env = Env({a.var.name: a.extent for a in nest.stage.axes})
            body += self.compute_attached(nest, "", env)
            body += self.open_loops(
                nest, nest.order, env, lambda e, n=nest: self.store_result(n, e)
            )
        params = [self.buffers[t] for t in (*self.tf.inputs, *self.tf.outputs)]
        return Func(name, (*params, *self.tf.symbols()), tuple(body))

    # --- loops ---------------------------------------------------------------------------------

    def open_loops(
        self, nest: Nest, loops: list[str], env: Env, inner: Body, *, attached: bool = True
    ) -> list[Stmt]:
        """The loops from outermost to innermost, with the stages attached to each, around inner."""
        if not loops:
            return inner(env)
        loop, rest = loops[0], loops[1:]

        def body(e: Env) -> list[Stmt]:
            before: list[Stmt] = []
            if nest.expect is not None and nest.expect.loop == loop:
                before += self.expect(nest, nest.expect, e)
            before += self.compute_attached(nest, loop, e) if attached else []
            if nest.prefetch is not None and nest.prefetch.loop == loop:
                before += self.prefetch(nest, nest.prefetch, e)
            return before + self.open_loops(nest, rest, e, inner, attached=attached)

        axis = loop[:-2]
        if loop.endswith(".o") and axis in nest.splits:
            return self.open_tiles(nest, loop, env, body)
        return self.open_loop(nest, loop, env, body)

    def open_tiles(self, nest: Nest, loop: str, env: Env, body: Body) -> list[Stmt]:
        axis = loop[:-2]
        out: list[Stmt] = []
        for seg in segments(env.extent[axis], nest.splits[axis]):
            inside = f"{axis}.i"
            if seg.masked and not nest.is_vectorized(inside) and not self.is_around_tiles(nest):
                raise ScheduleError(
                    f"{nest.splits[axis]}: the extent is not covered by whole tiles and "
                    f"{inside!r} is not vectorised",
                    hint="end the sizes with 1, or give counts that add up",
                )

            def tile(at: Expr, seg: Segment = seg, inside: str = inside) -> list[Stmt]:
                base = add(seg.start, mul(at, seg.size))
                valid = dict(env.valid)
                if seg.masked:  # of a tile of the consumer that is itself masked: the fewer count
                    whole = env.extent[axis]
                    valid[inside] = sub(minimum(whole, valid.get(axis, whole)), base)
                elif axis in valid:
                    valid[inside] = sub(valid[axis], base)
                extent = {**env.extent, inside: Const(seg.size)}
                return body(replace(env, base={**env.base, axis: base}, extent=extent, valid=valid))

            out += self.loop(loop, seg.count, nest.kinds.get(loop, "serial"), tile)
        return out

    def is_around_tiles(self, nest: Nest) -> bool:
        """Is it made of sums in matrix registers? These are whole, beyond the extent too; the loops
        that read them stop there."""
        within = [
            n for (name, _), found in self.attached.items() if name == nest.name for n in found
        ]
        return any(n.tensorize and get_instruction(n.tensorize).space == "tile" for n in within)

    def open_loop(self, nest: Nest, loop: str, env: Env, body: Body) -> list[Stmt]:
        kind, extent = nest.kinds.get(loop, "serial"), env.extent[loop]
        if kind == "vectorize":
            lane = _lane(loop, env)
            value = {**env.value, loop: lane.var}
            return body(replace(env, value=value, lane=join(env.lane, lane)))

        def iteration(at: Expr) -> list[Stmt]:
            inner = body(replace(env, value={**env.value, loop: at}))
            valid = env.valid.get(loop)
            return inner if valid is None else [If(Binary("lt", at, valid), tuple(inner))]

        return self.loop(loop, extent, kind, iteration)

    def loop(
        self, name: str, extent: Expr, kind: str, body: Callable[[Expr], list[Stmt]]
    ) -> list[Stmt]:
        count = known(extent)
        if kind == "unroll" and count is None:
            raise ScheduleError(f"unroll {name!r}: the extent is not constant; split it first")
        if count == 1:
            return body(Const(0))
        if count == 0:
            return []
        var = Var(name.replace(".", "_"), hi=(count - 1) if count is not None else 2**31 - 2)
        return [For(var, Const(0), extent, tuple(body(var)), kind)]

    # --- places ----------------------------------------------------------------------------------

    def position(self, nest: Nest, loop: str, env: Env) -> Expr:
        """The index of an axis (or inner loop) as far as its loops are open; closed ones are 0."""
        if loop in env.value:
            return env.value[loop]
        if loop in env.base:
            return add(env.base[loop], self.position(nest, f"{loop}.i", env))
        return Const(0)

    def remaining(self, nest: Nest, loop: str, env: Env) -> tuple[Expr, Expr | None]:
        """How many iterations of an axis are still closed, and how many of them count."""
        if loop in env.value:
            return Const(1), None
        if loop in env.base:
            return self.remaining(nest, f"{loop}.i", env)
        return env.extent[loop], env.valid.get(loop)

    def place(self, nest: Nest, axis: str, env: Env) -> Expr:
        """The index of an axis in the stage's tensor."""
        return add(env.origin.get(axis, Const(0)), self.position(nest, axis, env))

    def substitution(self, nest: Nest, env: Env) -> dict[Var, Expr]:
        return {a.var: self.place(nest, name, env) for name, a in nest.axes.items()}

    def value(self, e: Expr, at: dict[Var, Expr], lane: Lane | Grid | None) -> Expr:
        """A stage's expression at a place, its reads turned into loads, for all lanes at once."""
        return vectorize(self.scalar_value(e, at), lane)

    def scalar_value(self, e: Expr, at: dict[Var, Expr]) -> Expr:
        """A stage's expression at a place, its reads turned into loads. Where multiply-adds round
        twice, those of stages do too."""

        def load(r: Read) -> Expr:
            local = self.locals.get(r.tensor)
            if local is None:
                return Load(self.buffers[r.tensor], r.index)
            index = tuple(sub(i, o) for i, o in zip(r.index, local.origin, strict=True))
            return Load(local.buffer, index or (Const(0),))

        made = map_reads(substitute(e, at), load)
        return made if self.fma else _rounded_twice(made)

    def store(
        self,
        buffer: Buffer,
        index: tuple[Expr, ...],
        value: Expr,
        lane: Lane | Grid | None,
        *,
        inside: bool = False,
    ) -> Stmt:
        """The value of all lanes that count. `inside`: elements behind them, although they lie in
        the buffer, belong to others."""
        if lane is None or all(free_of(i, *lane.variables) for i in index):
            return Store(buffer, index, value)
        if not value.shape:
            value = Splat(value, lane.shape)
        base = contiguous_base(buffer, index, lane)
        if base is None:
            scatter = tuple(vectorize(i, lane) for i in index)
            return Store(buffer, scatter, value, lane.mask())
        return Store(buffer, base, value, lane.mask() if inside else lane.mask_for(buffer, index))

    def prefetch(self, nest: Nest, step: Prefetch, env: Env) -> list[Stmt]:
        """A part of what later tiles read of an operand in panels."""
        read = next(r for r in reads(nest.stage.value) if r.tensor.name == step.operand)
        at = self.substitution(nest, env)
        index, shape = [substitute(i, at) for i in read.index], read.tensor.shape
        places, dims = index[step.dims : -1], shape[step.dims : -1]
        panel: Expr = Const(0)
        for i, size in zip(index[: step.dims], shape[: step.dims], strict=True):
            panel = add(mul(panel, size), i)
        row, rows, tile = Const(0), Const(1), Const(1)
        for name in step.rows:
            row = add(mul(row, nest.axes[name].extent), self.place(nest, name, env))
            rows, tile = mul(rows, nest.axes[name].extent), mul(tile, env.extent[name])
        if step.block:
            row, rows = mod(row, step.block), Const(step.block)
        done, rounds = Const(0), prod(dims)
        for i, size in zip(places, dims, strict=True):
            done = add(mul(done, size), i)
        axis = step.loop.removesuffix(".o")
        if axis in nest.splits:
            steps = nest.splits[axis].sizes[0]
            done, rounds = floordiv(done, steps), ceildiv(rounds, steps)
        # Evenly: so many elements by this tile's begin, and so many an iteration: several lines
        # where that is known to be more than one (of rows that are not known, one).
        size = mul(step.panels, prod(shape[step.dims :]))
        begin, pace = floordiv(mul(row, size), rows), ceildiv(mul(size, tile), mul(rows, rounds))
        buffer, width = self.buffers[read.tensor], DTYPES[read.tensor.dtype].bytes
        panel = mul(add(panel, step.ahead), prod(shape[step.dims :]))
        at = mul(add(panel, begin, mul(done, pace)), width)
        count = max(1, -(-(known(pace) or 1) * width // LINE))
        return [Invoke("prefetch", (Ref(buffer, add(at, k * LINE)),)) for k in range(count)]

    def expect(self, nest: Nest, step: Expect, env: Env) -> list[Stmt]:
        """The lines that a tile of the result will read and write."""
        stage, rows = nest.stage, env.extent[step.rows]
        at = Var(step.rows.replace(".", "_"), hi=max((known(rows) or 1) - 1, 0))
        place = self.substitution(nest, replace(env, value={**env.value, step.rows: at}))
        axis = stage.axes[-1].var
        width = self.remaining(nest, axis.name, env)[0]
        index = stage.place or tuple(a.var for a in stage.axes)
        begin = self.origin or (Const(0),) * len(index)
        index = tuple(add(i, o) for i, o in zip(index, begin, strict=True))
        made = [(self.buffers[stage.tensor], index)]
        made += [
            (self.buffers[r.tensor], r.index) for r in reads(stage.value) if self.moves(nest, r)
        ]
        out: list[Stmt] = []
        for buffer, index in made:
            offset: Expr = Const(0)
            for i, size in zip(index, buffer.shape, strict=True):
                offset = add(mul(offset, size), substitute(i, place))
            size = DTYPES[buffer.dtype].bytes
            lines = range(0, (known(width) or 1) * size, LINE)
            refs = (Ref(buffer, add(mul(offset, size), k)) for k in lines)
            out += [Invoke("prefetch", (ref,)) for ref in refs]
        return [For(at, Const(0), rows, tuple(out))]

    def moves(self, nest: Nest, r: Read) -> bool:
        """Is an operand read along the rows and columns of a result, side by side?"""
        *_, row, column = (a.var for a in nest.stage.axes)
        return (
            r.tensor in self.buffers
            and r.index[-1:] == (column,)
            and not all(free_of(i, row) for i in r.index)
        )

    # --- stages ----------------------------------------------------------------------------------

    def store_result(self, nest: Nest, env: Env) -> list[Stmt]:
        at = self.substitution(nest, env)
        value = self.value(nest.stage.value, at, env.lane)
        index = tuple(at[a.var] for a in nest.stage.axes) or (Const(0),)
        buffer = self.buffers[nest.stage.tensor]
        guard: Expr = TRUE
        if nest.stage.place:
            index = tuple(substitute(i, at) for i in nest.stage.place)
            for i, n in zip(index, nest.stage.tensor.shape, strict=True):
                if env.lane is None or free_of(i, *env.lane.variables):
                    guard = logical_and(guard, compare("ge", i, 0))
                    guard = logical_and(guard, TRUE if within(i, n) else compare("lt", i, n))
        if not buffer.shape:
            index = ()
        if self.origin:
            index = tuple(add(i, o) for i, o in zip(index, self.origin, strict=True))
        stored = self.store(buffer, index, value, env.lane, inside=bool(self.origin))
        return [stored] if guard is TRUE else [If(guard, (stored,))]

    def compute_attached(self, nest: Nest, loop: str, env: Env) -> list[Stmt]:
        """The stages that are placed in a loop that has just been opened."""
        out: list[Stmt] = []
        for inner in self.attached.get((nest.name, loop), []):
            out += self.compute_stage(inner, nest, env)
        return out

    def compute_stage(self, nest: Nest, consumer: Nest, env: Env) -> list[Stmt]:
        """A stage for the tile of it that the consumer's closed loops will read."""
        stage = nest.stage
        origin: dict[str, Expr] = {}
        extent: dict[str, Expr] = {a.var.name: a.extent for a in stage.reduction}
        valid: dict[str, Expr] = {}
        step = nest.tensorize
        in_registers = step is not None and get_instruction(step).space == "tile"
        for k, (a, at) in enumerate(zip(stage.axes, self.axis_map(nest, consumer), strict=True)):
            name = a.var.name
            if at == WHOLE and nest.in_result:
                self.check_closed(nest, consumer, consumer.stage.axes[k].var.name, env)
            if at == WHOLE:
                origin[name], extent[name], count = Const(0), a.extent, None
            else:
                origin[name] = self.place(consumer, at, env)
                extent[name], count = self.remaining(consumer, at, env)
            if known(extent[name]) is None and not nest.in_result:
                raise ScheduleError(
                    f"compute_at({nest.name!r}): axis {name!r} has no constant extent there",
                    hint=f"split {at!r} of {consumer.name!r} and go inside its outer loop",
                )
            if count is not None and not in_registers:
                valid[name] = count
        here = Env(extent, valid=valid, origin=origin)
        at_origin = tuple(origin[a.var.name] for a in stage.axes)
        self.locals.pop(stage.tensor, None)
        if nest.in_result:
            return self.fill_result(nest, consumer, here)
        sizes = tuple(extent[a.var.name] for a in stage.axes) or (Const(1),)
        if stage.combine is None:
            sizes = (*sizes[:-1], _skewed(sizes[-1], stage.tensor.dtype))
        taken = known(mul(DTYPES[stage.tensor.dtype].bytes, *sizes)) or 0
        if taken > STACK_LIMIT:
            raise ScheduleError(
                f"compute_at({nest.name!r}): a tile takes {taken} bytes of stack, "
                f"expected at most {STACK_LIMIT}",
                hint=f"place it in an inner loop of {consumer.name!r}",
            )
        buffer = Buffer(stage.tensor.name, stage.tensor.dtype, sizes, "stack", 64)
        if stage.combine is None:
            body = self.fill_tile(nest, buffer, here)
        elif nest.tensorize:
            body = self.reduce_matrix(nest, nest.tensorize, buffer, here)
        elif nest.rfactor:
            body = self.reduce_lanes(nest, nest.rfactor, buffer, here)
        else:
            body = self.reduce_tile(nest, buffer, here)
        self.locals[stage.tensor] = Local(buffer, at_origin)
        return [Alloc(buffer), *body]

    def axis_map(self, nest: Nest, consumer: Nest) -> list[str]:
        """For each axis of the stage, the consumer's axis that indexes it (or WHOLE), through other
        attached stages that read it; all readers must agree."""
        found = self._axis_map(nest.stage.tensor, consumer)
        if found is None:
            raise ScheduleError(
                f"compute_at({nest.name!r}): it is not read at plain axes of {consumer.name!r}, "
                f"the same ones wherever it is read"
            )
        return found

    def _axis_map(self, tensor: Tensor, consumer: Nest) -> list[str] | None:
        found: list[list[str] | None] = []
        for reader in self.nests.values():
            names = {a.var: name for name, a in reader.axes.items()}
            outer = {x: x for x in names.values()}
            if reader is not consumer:
                outer.update(dict.fromkeys(reader.reductions, WHOLE))
            rs = [r for r in reads(reader.stage.value) if r.tensor is tensor]
            if rs and reader is not consumer:
                through = self._axis_map(reader.stage.tensor, consumer)
                if through is None:
                    return None
                spatial = [a.var.name for a in reader.stage.axes]
                outer.update(zip(spatial, through, strict=True))
            for r in rs:
                at = [_one_axis(i, names, outer) for i in r.index]
                if not all(at):
                    return None
                found.append(at)
        if not found or any(m is None for m in found):
            return None
        # What one reader needs whole is computed whole.
        columns = [set(c) for c in zip(*(m for m in found if m is not None), strict=True)]
        whole = [WHOLE if WHOLE in c else c.pop() if len(c) == 1 else "" for c in columns]
        return whole if all(whole) else None

    def fill_tile(self, nest: Nest, buffer: Buffer, env: Env) -> list[Stmt]:
        """A plain stage on the stack: a copy of an operand's tile."""
        stage = nest.stage

        def fill(e: Env) -> list[Stmt]:
            value = self.value(stage.value, self.substitution(nest, e), e.lane)
            index = tuple(self.position(nest, a.var.name, e) for a in stage.axes)
            return [self.store(buffer, index, value, e.lane)]

        before = self.compute_attached(nest, "", env)
        return [*before, *self.open_loops(nest, nest.order, env, fill)]

    def check_closed(self, nest: Nest, consumer: Nest, axis: str, env: Env) -> None:
        """A round of an open loop must not fill again what an earlier one has finished."""
        if self.remaining(consumer, axis, env)[0] is not consumer.axes[axis].extent:
            raise ScheduleError(
                f"compute_at({nest.name!r}): all of {axis!r} is needed there, inside of its loop",
                hint=f"place it outside of the loops of {axis!r}",
            )

    def fill_result(self, nest: Nest, consumer: Nest, env: Env) -> list[Stmt]:
        """A plain stage in the memory of the result that is made of it."""
        buffer = self.buffers[consumer.stage.tensor]
        begin = self.origin or (Const(0),) * len(nest.stage.axes)

        def fill(e: Env) -> list[Stmt]:
            at = self.substitution(nest, e)
            value = self.value(nest.stage.value, at, e.lane)
            index = tuple(add(at[a.var], o) for a, o in zip(nest.stage.axes, begin, strict=True))
            return [self.store(buffer, index, value, e.lane, inside=True)]

        body = self.compute_attached(nest, "", env)
        body += self.open_loops(nest, nest.order, env, fill)
        self.locals[nest.stage.tensor] = Local(buffer, tuple(sub(Const(0), o) for o in begin))
        return body

    def reduce_tile(self, nest: Nest, buffer: Buffer, env: Env) -> list[Stmt]:
        stage = nest.stage

        def place(e: Env) -> tuple[Expr, ...]:
            index = tuple(self.position(nest, a.var.name, e) for a in stage.axes)
            return index or (Const(0),)

        def start(e: Env) -> list[Stmt]:
            return [self.store(buffer, place(e), stage.start, e.lane)]

        def update(e: Env) -> list[Stmt]:
            at = self.substitution(nest, e)
            value = self.value(stage.value, at, e.lane)
            old = vectorize(Load(buffer, place(e)), e.lane)
            new = self.combine(nest.combine, old, value)
            return [self.store(buffer, place(e), new, e.lane)]

        return [
            *self.compute_attached(nest, "", env),
            *self.open_loops(nest, nest.spatial, env, start, attached=False),
            *self.open_loops(nest, nest.order, env, update),
        ]

    def reduce_matrix(
        self,
        nest: Nest,
        step: Tensorize,
        buffer: Buffer,
        env: Env,
    ) -> list[Stmt]:
        """A sum of products by a matrix instruction; in registers of its own if it has those, from
        where the result is copied to the stack."""
        stage = nest.stage
        outer = nest.order[:-3]
        spatial = [x for x in outer if root(x) not in nest.reductions]
        space = get_instruction(step).space
        sums = buffer
        if space != "stack":
            sums = replace(buffer, name=f"{buffer.name}_sum", space=space)

        def open_tile(e: Env) -> tuple[Env, Grid]:
            grid = Grid(_lane(step.m, e), _lane(step.n, e))
            value = {**e.value, step.m: grid.rows.var, step.n: grid.columns.var}
            return replace(e, value=value), grid

        def place(e: Env) -> tuple[Expr, ...]:
            return tuple(self.position(nest, a.var.name, e) for a in stage.axes)

        def start(e: Env) -> list[Stmt]:
            e, grid = open_tile(e)
            return [self.store(sums, place(e), stage.start, grid)]

        def update(e: Env) -> list[Stmt]:
            e, grid = open_tile(e)
            k = _lane(step.k, e)
            e = replace(e, value={**e.value, step.k: k.var})
            value = self.scalar_value(stage.value, self.substitution(nest, e))
            loops = Loops(grid.rows, grid.columns, k)
            a, b = match_product(step, value, sums.dtype, loops)
            old = vectorize(Load(sums, place(e)), grid)
            return [self.store(sums, place(e), Call("dot", (a, b, old)), grid)]

        def finish(e: Env) -> list[Stmt]:
            e, grid = open_tile(e)
            total = vectorize(Load(sums, place(e)), grid)
            return [self.store(buffer, place(e), total, grid)]

        body = [
            *self.open_loops(nest, spatial, env, start),
            *self.open_loops(nest, outer, env, update),
        ]
        if sums is buffer:
            return body
        return [Alloc(sums), *body, *self.open_loops(nest, spatial, env, finish)]

    def reduce_lanes(
        self,
        nest: Nest,
        factor: Rfactor,
        buffer: Buffer,
        env: Env,
    ) -> list[Stmt]:
        """Partial results in lanes along one reduction axis, then the fixed tree."""
        stage, op, lanes = nest.stage, nest.combine, factor.lanes
        part = Buffer(
            f"{buffer.name}_part", buffer.dtype, (*buffer.shape, Const(lanes)), "stack", 64
        )
        neutral = identity(op, buffer.dtype)
        axes = [a.var.name for a in stage.axes]
        others = [x for x in nest.order if x not in (factor.axis, *axes)]
        split = Split(factor.stage, factor.axis, (lanes,))
        inner = replace_order(nest, [*axes, *others, f"{factor.axis}.o", f"{factor.axis}.i"], split)

        def place(n: Nest, e: Env) -> tuple[Expr, ...]:
            return tuple(self.position(n, a, e) for a in axes) or (Const(0),)

        def start(e: Env) -> list[Stmt]:
            return [Store(part, (*place(nest, e), Const(0)), Splat(neutral, (lanes,)))]

        def update(e: Env) -> list[Stmt]:
            at = self.substitution(inner, e)
            index = (*place(inner, e), Const(0))
            value = _full(self.value(stage.value, at, e.lane), e.lane)
            old = Load(part, index, (lanes,))
            new = self.combine(op, old, value)
            return [Store(part, index, new, e.lane.mask() if e.lane else None)]

        def finish(e: Env) -> list[Stmt]:
            total: Expr = Reduce(op, Load(part, (*place(nest, e), Const(0)), (lanes,)))
            if stage.init is not None:
                total = Binary(op, stage.init, total)
            return [Store(buffer, place(nest, e), total)]

        return [
            Alloc(part),
            *self.open_loops(nest, axes, env, start),
            *self.open_loops(inner, inner.order, env, update),
            *self.open_loops(nest, axes, env, finish),
        ]

    def combine(self, op: str, old: Expr, value: Expr) -> Expr:
        """One step of a reduction; a product is added with one rounding where that is allowed."""
        if self.fma and op == "add" and is_float(value.dtype):
            match value:
                case Binary(op="mul"):
                    return Call("fma", (value.a, value.b, old))
                case _:
                    pass
        return Binary(op, old, value)


def _rounded_twice(e: Expr) -> Expr:
    """e with a product and a sum for each multiply-add."""
    if not any(isinstance(x, Call) and x.fn == "fma" for x in walk(e)):
        return e
    done: dict[Expr, Expr] = {}
    for x in walk(e):
        new = with_children(x, tuple(done[c] for c in children(x)))
        if isinstance(new, Call) and new.fn == "fma":
            new = Binary("add", Binary("mul", new.args[0], new.args[1]), new.args[2])
        done[x] = new
    return done[e]


def _one_axis(i: Expr, names: Mapping[Var, str], outer: Mapping[str, str]) -> str:
    """The consumer's axis that an index is; WHOLE of a constant, or of one that is computed of such
    as are needed whole; else ""."""
    if isinstance(i, Var):
        return outer[names[i]] if i in names else ""
    return WHOLE if all(v in names and outer[names[v]] == WHOLE for v in free_vars(i)) else ""


def _skewed(extent: Expr, dtype: str) -> Expr:
    """The last dim of a tile's copy, widened where rows would otherwise fall on the same cache sets
    and where a masked tail writes whole vectors."""
    size = known(extent)
    if size is None:
        return extent
    padded = -(-size // 16) * 16
    return Const(padded + 16 if padded * DTYPES[dtype].bytes % 1024 == 0 else padded)


def replace_order(nest: Nest, order: list[str], split: Split) -> Nest:
    """The nest with a lane split of its reduction axis, vectorised."""
    return replace(
        nest,
        order=order,
        splits={**nest.splits, split.axis: split},
        kinds={**nest.kinds, f"{split.axis}.i": "vectorize"},
    )


def _full(value: Expr, lane: Lane | Grid | None) -> Expr:
    return value if lane is None or value.shape else Splat(value, lane.shape)


def _lane(loop: str, env: Env) -> Lane:
    """A loop as lanes."""
    lanes = known(env.extent[loop])
    if lanes is None:
        raise ScheduleError(f"vectorize {loop!r}: the extent is not constant; split it first")
    return Lane(Var(f"{loop}_lane", hi=lanes - 1), lanes, env.valid.get(loop))


def lower(
    tf: TensorFunction,
    schedule: Schedule,
    name: str,
    *,
    fma: bool = True,
    like: Func | None = None,
    origin: tuple[Expr, ...] = (),
) -> Func:
    """The kernel. `fma`: a·b + c in reductions rounds once (class `portable` says no). `like`: take
    the buffers of this function (for a nest that is one branch of it, or one region, whose result
    begins at `origin` in the buffer).

    Raises ScheduleError when a step does not apply, saying why."""
    return Lowering(tf, schedule, fma, like, origin).func(name)


def signature(tf: TensorFunction, name: str) -> Func:
    """A kernel's parameters, without a body."""
    buffers = [
        Buffer(t.name, t.dtype, physical_shape(t.shape, t.layout))
        for t in (*tf.inputs, *tf.outputs)
    ]
    return Func(name, (*buffers, *tf.symbols()), ())
