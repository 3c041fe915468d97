"""Random TensorFunctions as text, and random schedules for them. Small, and most of them legal."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from naru.ir.expr import Expr
from naru.ir.simplify import known
from naru.ir.tensor import Stage, TensorFunction, reads
from naru.schedule.steps import (
    ComputeAt,
    Order,
    Parallel,
    Rfactor,
    Schedule,
    Split,
    Step,
    Unroll,
    Vectorize,
)

POINTS = 2500  # most iterations of a stage at the sizes that the tests use
EXTENTS = (1, 2, 3, 4, 5, 8, 17, 20)


class FunctionMaker:
    """Draws one function: operands that are read straight, permuted, strided, backwards or at 0."""

    def __init__(self, r: Random) -> None:
        self.r = r
        self.dtype = r.choice(("f32", "f32", "f32", "i32"))
        self.inputs: list[str] = []
        self.extents: dict[str, str] = {}

    def axes(self, names: str, symbols: str = "nm") -> list[str]:
        """Axes with extents; few of them symbolic."""
        room = POINTS
        for a in names:
            if symbols and self.r.random() < 0.2:
                self.extents[a], symbols = symbols[0], symbols[1:]
                room //= 20
            else:
                fits = [e for e in EXTENTS if e <= max(room, 1)]
                extent = self.r.choice(fits)
                self.extents[a], room = str(extent), room // extent
        return list(names)

    def read(self, axes: Sequence[str]) -> str:
        """A new input, read at some of the axes in some order."""
        used = [a for a in axes if self.r.random() < 0.8]
        if self.r.random() < 0.4:
            self.r.shuffle(used)
        dims: list[str] = []
        places: list[str] = []
        for a in used:
            extent = self.extents[a]
            dim, place = self.r.choice(
                [(extent, a)] * 6
                + [
                    (f"{extent} * 2 + 1", f"{a} * 2 + 1"),
                    (f"{extent} + 3", f"{a} + 2"),
                    (extent, f"{extent} - 1 - {a}"),
                    (f"{extent} * 3", f"{a} * 3"),
                ]
            )
            dims.append(dim)
            places.append(place)
        if self.r.random() < 0.15:
            at = self.r.randint(0, len(dims))
            dims.insert(at, "1")
            places.insert(at, "0")
        return self.input(dims, places)

    def input(self, dims: Sequence[str], places: Sequence[str]) -> str:
        name = f"x{len(self.inputs)}"
        layout = ""
        if len(dims) > 1 and self.r.random() < 0.3:
            order = list(range(len(dims)))
            self.r.shuffle(order)
            layout = f" @ {tuple(order)}"
            if self.r.random() < 0.3:
                layout += f" @ block({self.r.choice(order)}, {self.r.choice((4, 16))})"
        self.inputs.append(f"{name}: {self.dtype}[{', '.join(dims) or '()'}]{layout}")
        return f"{name}[{', '.join(places) or '()'}]"

    def mixed(self, parts: Sequence[str]) -> str:
        """The parts combined by cheap operators."""
        out = parts[0]
        for p in parts[1:]:
            out = self.r.choice((f"({out} + {p})", f"({out} - {p})", f"max({out}, {p})"))
        return out

    def over(self, axes: Sequence[str]) -> str:
        return ", ".join(f"{a}: {self.extents[a]}" for a in axes) or "()"

    def text(self, stages: Sequence[str], result: str) -> str:
        lines = [f"def f({', '.join(self.inputs)}):", *(f"    {s}" for s in stages)]
        return "\n".join([*lines, f"    return {result}"]) + "\n"


def random_function(r: Random) -> str:
    """A map, a sum of products, a window, or a chain of row reductions."""
    return r.choice((_map, _product, _product, _window, _rows, _total))(FunctionMaker(r))


def _map(f: FunctionMaker) -> str:
    axes = f.axes("abc"[: f.r.randint(0, 3)])
    first = f.mixed([f.read(axes) for _ in range(f.r.randint(1, 2))])
    back = list(axes)
    if f.r.random() < 0.3:
        back.reverse()
    stages = [f"t[{f.over(axes)}] = {first}"]
    at = ", ".join(axes) or "()"
    stages.append(f"y[{f.over(back)}] = {f.mixed([f't[{at}]', f.read(axes)])}")
    return f.text(stages, "y")


def _product(f: FunctionMaker) -> str:
    out, inner = f.axes("abc"[: f.r.randint(1, 3)]), f.axes("kl"[: f.r.randint(1, 2)], "p")
    every = [*out, *inner]
    combine = f.r.choice(("add", "add", "add", "max", "min"))
    stages = [f"R[{f.over(out)}] = {combine}[{f.over(inner)}]({f.read(every)} * {f.read(every)})"]
    return _finish(f, stages, out, combine)


def _finish(f: FunctionMaker, stages: list[str], out: list[str], combine: str) -> str:
    """The reduction is the result, or one more stage reads it, perhaps in another order."""
    if f.r.random() < 0.3:
        return f.text(stages, "R")
    order = list(out)
    if f.r.random() < 0.2:
        f.r.shuffle(order)
    at = ", ".join(out) or "()"
    stages.append(f"y[{f.over(order)}] = {f.mixed([f'R[{at}]', f.read(out)])}")
    return f.text(stages, "y")


def _window(f: FunctionMaker) -> str:
    out, inner = f.axes("abc"[: f.r.randint(1, 3)], ""), f.axes("kl"[: f.r.randint(1, 2)], "")
    dims, places = [], []
    for k, a in enumerate(out):
        if k < len(inner):
            u, stride = inner[k], f.r.choice((1, 2))
            dims.append(f"{f.extents[a]} * {stride} + {f.extents[u]}")
            places.append(f"{a} * {stride} + {u}")
        else:
            dims.append(f.extents[a])
            places.append(a)
    rest = inner[len(out) :]
    value = f.input([*dims, *(f.extents[u] for u in rest)], [*places, *rest])
    if f.r.random() < 0.6:
        value = f"{value} * {f.read([*inner, out[-1]])}"
    combine = f.r.choice(("add", "max"))
    return _finish(f, [f"R[{f.over(out)}] = {combine}[{f.over(inner)}]({value})"], out, combine)


def _rows(f: FunctionMaker) -> str:
    rows, (k,) = f.axes("ab"[: f.r.randint(0, 2)]), f.axes("k", "p")
    at, extent = ", ".join(rows) or "()", f.extents[k]
    x = f.input([*(f.extents[a] for a in rows), extent], [*rows, k])
    stages = [
        f"M[{f.over(rows)}] = max[{f.over([k])}]({x})",
        f"S[{f.over(rows)}] = add[{f.over([k])}]({x} - M[{at}])",
        f"y[{f.over([*rows, k])}] = {x} - S[{at}] + M[{at}]",
    ]
    return f.text(stages, "y")


def _total(f: FunctionMaker) -> str:
    axes = f.axes("kl"[: f.r.randint(1, 2)])
    combine = f.r.choice(("add", "max", "min"))
    init = f", init={f.r.choice((1, 2)) if f.dtype == 'i32' else 1.5}" if f.r.random() < 0.3 else ""
    return f.text([f"s[()] = {combine}[{f.over(axes)}]({f.read(axes)}{init})"], "s")


# --- schedules -----------------------------------------------------------------------------------


def random_schedule(r: Random, tf: TensorFunction) -> Schedule:
    """Steps for a prepared function of one result; not always legal."""
    out = next(s for s in tf.stages if s.tensor in tf.outputs)
    maker = _StageSteps(r, out)
    steps = maker.steps(lanes=True)
    if maker.loops and r.random() < 0.3:
        steps.append(Parallel(out.tensor.name, maker.loops[0]))
    places = maker.places()
    inner = [s for s in tf.stages if s is not out]
    at = sorted(r.randrange(len(places)) for _ in inner)
    if any(s.tensor in [x.tensor for x in reads(t.value)] for s in inner for t in inner):
        at.sort()  # what another one reads is computed outside of it
    for s, place in zip(inner, at, strict=True):
        steps.append(ComputeAt(s.tensor.name, out.tensor.name, places[place]))
        if r.random() < 0.4:
            lanes = r.choice((2, 4, 16))
            steps.append(Rfactor(s.tensor.name, s.reduction[-1].var.name, lanes))
        else:
            steps += _StageSteps(r, s).steps(lanes=r.random() < 0.8)
    return Schedule(tuple(steps))


class _StageSteps:
    """Splits, an order, lanes and unrolled loops of one stage."""

    def __init__(self, r: Random, stage: Stage) -> None:
        self.r, self.name = r, stage.tensor.name
        self.own = [a.var.name for a in stage.axes]
        self.loops = [a.var.name for a in (*stage.axes, *stage.reduction)]
        self.extent: dict[str, Expr | int] = {
            a.var.name: a.extent for a in (*stage.axes, *stage.reduction)
        }
        self.lanes: list[str] = []
        self.partial: list[str] = []  # loops that must be vectorised, for the sake of a mask

    def size(self, loop: str) -> int | None:
        """The iterations of a loop that can be unrolled or vectorised."""
        extent = self.extent[loop]
        return extent if isinstance(extent, int) else known(extent)

    def steps(self, *, lanes: bool) -> list[Step]:
        made: list[Step] = []
        for loop in list(self.loops):
            if self.r.random() < 0.5:
                made += self.split(loop, lanes and loop in self.own)
        if self.r.random() < 0.5:
            made.append(self.order())
        if lanes:
            made += self.vectorize()
        for loop in self.loops:
            size = self.size(loop)
            if loop not in self.lanes and size is not None and size <= 5 and self.r.random() < 0.3:
                made.append(Unroll(self.name, loop))
        return made

    def split(self, loop: str, lanes: bool) -> list[Step]:
        size, counts = self.size(loop), ()
        sizes = self.r.choice(((2,), (4,), (8,), (16,), (3, 2), (5, 2, 1), (4, 1), (8, 3), (1,)))
        covered = size is not None and size % sizes[0] == 0
        if size is not None and self.r.random() < 0.3:
            first = self.r.randint(0, size // sizes[0])
            rest = (size - first * sizes[0]) // sizes[-1]
            sizes, counts = (sizes[0], sizes[-1]), (first, rest)
            covered = first * sizes[0] + rest * sizes[1] == size
        if not covered and sizes[-1] > 1:
            if not lanes or self.partial:
                sizes, counts = (*sizes, 1), ()
            else:
                self.partial.append(f"{loop}.i")
        at = self.loops.index(loop)
        self.loops[at : at + 1] = [f"{loop}.o", f"{loop}.i"]
        self.own += [f"{loop}.o", f"{loop}.i"] if loop in self.own else []
        # Of several sizes the largest counts: it decides whether the loop is short.
        self.extent[f"{loop}.i"] = max(sizes)
        self.extent[f"{loop}.o"] = 99
        made: list[Step] = [Split(self.name, loop, sizes, counts)]
        if self.r.random() < 0.25 and f"{loop}.i" not in self.partial:
            made += self.split(f"{loop}.i", False)
        return made

    def order(self) -> Order:
        """Any order in which tiles run inside the loop over tiles."""
        rest = list(self.loops)
        self.r.shuffle(rest)
        out: list[str] = []
        while rest:
            for loop in rest:
                outer = [x for x in rest if x.endswith(".o") and loop.startswith(x[:-1] + "i")]
                if not outer:
                    out.append(loop)
                    rest.remove(loop)
                    break
        self.loops = out
        return Order(self.name, tuple(out))

    def vectorize(self) -> list[Step]:
        fits = [x for x in self.loops if x in self.own and (self.size(x) or 99) <= 20]
        wanted = list(self.partial)
        if fits and not wanted:
            wanted.append(self.r.choice(fits))
        if fits and self.r.random() < 0.15:
            wanted.append(self.r.choice(fits))
        self.lanes = list(dict.fromkeys(wanted))
        return [Vectorize(self.name, x) for x in self.lanes]

    def places(self) -> list[str]:
        """The loops in which no lanes are open yet."""
        out = [""]
        for loop in self.loops:
            if loop in self.lanes:
                break
            out.append(loop)
        return out
