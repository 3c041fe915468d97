"""What a schedule says about each stage, and whether it may: each refusal gives its reason.

The steps are taken in order, so a step can name the loops that the steps before it made. What only
the whole schedule shows (who reads a stage where) is checked at the end. What depends on extents is
refused in lower.py, where they are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from naru.errors import IRError, ScheduleError
from naru.ir.tensor import Axis, Stage, TensorFunction, reads
from naru.schedule.steps import (
    ComputeAt,
    Expect,
    Order,
    Parallel,
    Prefetch,
    Rfactor,
    Schedule,
    Split,
    Step,
    Tensorize,
    Unroll,
    Vectorize,
)
from naru.schedule.tensorize import get_instruction


@dataclass
class Nest:
    """What the schedule says about one stage. `order`: its loops, outermost first; `kinds`: those
    that are unrolled, vectorised or parallel; `at`: (consumer, loop), None for a result;
    `in_result`: it is kept in the consumer's memory."""

    stage: Stage
    splits: dict[str, Split] = field(default_factory=dict[str, Split])
    order: list[str] = field(default_factory=list[str])
    kinds: dict[str, str] = field(default_factory=dict[str, str])
    at: tuple[str, str] | None = None
    in_result: bool = False
    rfactor: Rfactor | None = None
    tensorize: Tensorize | None = None
    prefetch: Prefetch | None = None
    expect: Expect | None = None

    @property
    def name(self) -> str:
        """Of the stage."""
        return self.stage.tensor.name

    @property
    def combine(self) -> str:
        """How the stage reduces; IRError for one that does not."""
        if self.stage.combine is None:
            raise IRError([f"stage {self.name}: expected a reduction"])
        return self.stage.combine

    @property
    def axes(self) -> dict[str, Axis]:
        """All axes by name, those of the reduction last."""
        return {a.var.name: a for a in (*self.stage.axes, *self.stage.reduction)}

    @property
    def reductions(self) -> set[str]:
        """Names of the reduction's axes."""
        return {a.var.name for a in self.stage.reduction}

    @property
    def spatial(self) -> list[str]:
        """The loops that are not the reduction's."""
        return [x for x in self.order if root(x) not in self.reductions]

    def is_vectorized(self, loop: str) -> bool:
        """Does the loop, or the innermost one it is split into, run in lanes?"""
        if loop in self.splits:
            return self.is_vectorized(f"{loop}.i")
        t = self.tensorize
        return self.kinds.get(loop) == "vectorize" or (t is not None and loop in (t.m, t.n, t.k))


def root(loop: str) -> str:
    """The axis that a loop comes from: `m` of `m.i.o`."""
    return loop.split(".")[0]


def read_steps(tf: TensorFunction, schedule: Schedule) -> dict[str, Nest]:
    """The steps, gathered by stage. Raises ScheduleError for a step that cannot be done."""
    nests = {s.tensor.name: Nest(s) for s in tf.stages}
    for nest in nests.values():
        nest.order = list(nest.axes)
    for step in schedule.steps:
        nest = nests.get(step.stage)
        if nest is None:
            raise ScheduleError(f"{step}: there is no stage {step.stage!r}", hint=f"{list(nests)}")
        _take_step(nest, step)
    results = {t.name for t in tf.outputs}
    for nest in nests.values():
        if nest.name in results:
            _check_result(nest, nests)
        else:
            _check_place(nest, nests, results)
        _check_parallel(nest)
        if nest.rfactor is not None:
            _check_rfactor(nest, nest.rfactor)
    return nests


# --- one step ------------------------------------------------------------------------------------


def _take_step(nest: Nest, step: Step) -> None:
    match step:
        case Split():
            _take_split(nest, step)
        case Order(loops=loops):
            if sorted(loops) != sorted(nest.order):
                raise ScheduleError(
                    f"{step}: expected each loop of the stage once",
                    hint=f"its loops are {nest.order}",
                )
            nest.order = list(loops)
            _check_order(nest, step)
        case Unroll(loop=loop) | Vectorize(loop=loop) | Parallel(loop=loop):
            _take_kind(nest, step, loop)
        case ComputeAt():
            if step.memory not in ("", "result"):
                raise ScheduleError(f"{step}: expected '' or 'result' for the memory")
            nest.at, nest.in_result = (step.consumer, step.loop), step.memory == "result"
        case Rfactor(axis=axis):
            _expect_loop(nest, axis, step)
            if axis not in nest.reductions:
                raise ScheduleError(f"{step}: {axis!r} is not a reduction axis")
            if step.lanes < 1 or step.lanes & (step.lanes - 1):
                raise ScheduleError(f"{step}: expected a power of two of lanes")
            nest.rfactor = step
        case Tensorize():
            _take_tensorize(nest, step)
        case Prefetch():
            _take_prefetch(nest, step)
        case Expect():
            _expect_loop(nest, step.loop, step)
            _expect_loop(nest, step.rows, step)
            nest.expect = step


def _expect_loop(nest: Nest, loop: str, step: Step) -> None:
    if loop not in nest.order:
        raise ScheduleError(
            f"{step}: there is no loop {loop!r}", hint=f"the loops are {nest.order}"
        )


def _take_split(nest: Nest, step: Split) -> None:
    axis = step.axis
    _expect_loop(nest, axis, step)
    if not step.sizes or min(step.sizes) < 1:
        raise ScheduleError(f"{step}: expected sizes of at least 1")
    if step.counts and (len(step.counts) != len(step.sizes) or min(step.counts) < 0):
        raise ScheduleError(f"{step}: expected one count of at least 0 for each size")
    if axis in nest.kinds:
        raise ScheduleError(
            f"{step}: {axis!r} has a {nest.kinds[axis]} step", hint="give it to a loop of the split"
        )
    nest.splits[axis] = step
    at = nest.order.index(axis)
    nest.order[at : at + 1] = [f"{axis}.o", f"{axis}.i"]


def _check_order(nest: Nest, step: Order) -> None:
    """The tile's loops run inside the loop over tiles."""
    for axis in nest.splits:
        outer = nest.order.index(f"{axis}.o")
        before = [x for x in nest.order[:outer] if f"{x}.".startswith(f"{axis}.i.")]
        if before:
            raise ScheduleError(
                f"{step}: {before[0]!r} is one tile of {axis!r} and stands outside of "
                f"'{axis}.o', the loop over the tiles"
            )


def _take_kind(nest: Nest, step: Unroll | Vectorize | Parallel, loop: str) -> None:
    _expect_loop(nest, loop, step)
    if loop in nest.kinds:
        raise ScheduleError(f"{step}: {loop!r} has a {nest.kinds[loop]} step already")
    if isinstance(step, Parallel) and root(loop) in nest.reductions:
        raise ScheduleError(f"{step}: iterations of a reduction depend on each other")
    if isinstance(step, Vectorize) and root(loop) in nest.reductions:
        raise ScheduleError(f"{step}: it is a reduction loop", hint="use rfactor on its axis")
    axis = loop.removesuffix(".o")
    if isinstance(step, Vectorize) and loop != axis and axis in nest.splits:
        raise ScheduleError(
            f"{step}: it is a loop over tiles, which may differ in size",
            hint=f"split {loop!r}, or vectorise '{axis}.i'",
        )
    nest.kinds[loop] = type(step).__name__.lower()


def _take_tensorize(nest: Nest, step: Tensorize) -> None:
    if nest.stage.combine != "add" or len(nest.stage.axes) < 2:
        raise ScheduleError(f"{step}: expected a sum with at least two axes")
    inner = [step.m, step.n, step.k]
    for loop in inner:
        _expect_loop(nest, loop, step)
    if nest.order[-3:] != inner:
        raise ScheduleError(
            f"{step}: expected {inner} to be the innermost loops",
            hint=f"give an order before; it is {nest.order}",
        )
    get_instruction(step)
    nest.tensorize = step


def _take_prefetch(nest: Nest, step: Prefetch) -> None:
    _expect_loop(nest, step.loop, step)
    if root(step.loop) not in nest.reductions:
        raise ScheduleError(f"{step}: {step.loop!r} is no loop of a reduction")
    found = [r for r in reads(nest.stage.value) if r.tensor.name == step.operand]
    if len(found) != 1 or not 0 < step.dims < len(found[0].index) - 1:
        raise ScheduleError(f"{step}: expected the stage to read panels of {step.operand!r}, once")
    if not set(step.rows) <= {a.var.name for a in nest.stage.axes}:
        raise ScheduleError(f"{step}: expected axes of the stage for the rows, found {step.rows}")
    nest.prefetch = step


# --- the whole schedule --------------------------------------------------------------------------


def _readers(nest: Nest, nests: Mapping[str, Nest]) -> list[Nest]:
    tensor = nest.stage.tensor
    return [n for n in nests.values() if any(r.tensor is tensor for r in reads(n.stage.value))]


def _check_result(nest: Nest, nests: Mapping[str, Nest]) -> None:
    hint = "rewrites.end_plainly gives it a stage that copies it"
    if nest.at is not None:
        raise ScheduleError(
            f"compute_at({nest.name!r}): it is a result, which has a nest of its own"
        )
    if nest.stage.combine is not None:
        raise ScheduleError(f"stage {nest.name!r} is a result and a reduction", hint=hint)
    for reader in _readers(nest, nests):
        raise ScheduleError(
            f"stage {nest.name!r} is a result, and {reader.name!r} reads it", hint=hint
        )


def _check_place(nest: Nest, nests: Mapping[str, Nest], results: set[str]) -> None:
    """A stage on the stack lives where all that read it are, and where no lanes are open."""
    if nest.at is None:
        raise ScheduleError(f"stage {nest.name!r} is placed nowhere", hint="add a compute_at step")
    name, loop = nest.at
    place = f"compute_at({nest.name!r}, {name!r}, {loop!r})"
    others = {n.name for n in nests.values() if n is not nest}
    if name not in others:
        raise ScheduleError(f"{place}: {name!r} is no other stage", hint=f"one of {sorted(others)}")
    consumer = nests[name]
    if consumer.rfactor is not None or consumer.tensorize is not None:
        raise ScheduleError(f"{place}: its loops are those of an rfactor or a tensorize step")
    if loop and loop not in consumer.order:
        raise ScheduleError(
            f"{place}: there is no loop {loop!r}",
            hint=f"the loops are {consumer.order}, and '' stands for all of them",
        )
    depth = _depth(consumer, loop)
    if nest.in_result:
        _check_in_result(nest, consumer, results)
    lanes = [x for x in consumer.order[:depth] if consumer.kinds.get(x) == "vectorize"]
    if lanes:
        raise ScheduleError(f"{place}: {lanes[0]!r} is vectorised, so a tile is needed at once")
    for reader in _readers(nest, nests):
        inside, at = reader is consumer, reader.at
        while at is not None and at[0] != name:  # inside of a stage that is inside
            at = nests[at[0]].at if at[0] in nests else None
        if not inside and at is not None:
            inside = _depth(consumer, at[1]) >= depth
        if not inside:
            raise ScheduleError(
                f"{place}: {reader.name!r} reads it too, and is not computed inside"
            )


def _check_in_result(nest: Nest, consumer: Nest, results: set[str]) -> None:
    """The result makes each of its elements of the one that stands in its place."""
    place = f"compute_at({nest.name!r}, {consumer.name!r}, memory 'result')"
    stage, out = nest.stage, consumer.stage
    if consumer.name not in results or stage.combine is not None:
        raise ScheduleError(f"{place}: expected a plain stage and the stage of a result")
    if stage.tensor.dtype != out.tensor.dtype:
        raise ScheduleError(f"{place}: {stage.tensor.dtype} in memory of {out.tensor.dtype}")
    at = tuple(a.var for a in out.axes)
    same = [a.extent for a in stage.axes] == [a.extent for a in out.axes]
    if not same or any(r.index != at for r in reads(out.value) if r.tensor is stage.tensor):
        raise ScheduleError(f"{place}: expected it to be read at the result's own place only")


def _depth(nest: Nest, loop: str) -> int:
    """How many loops are open inside a loop; 0 for '', outside of all."""
    return nest.order.index(loop) + 1 if loop in nest.order else 0


def _check_parallel(nest: Nest) -> None:
    """Several parallel loops are the grid of a GPU, so they stand directly inside each other;
    threads divide the outermost."""
    loops = [x for x in nest.order if nest.kinds.get(x) == "parallel"]
    first = nest.order.index(loops[0]) if loops else 0
    if nest.order[first : first + len(loops)] != loops:
        raise ScheduleError(
            f"parallel({nest.name!r}, {loops[-1]!r}): {loops[0]!r} is parallel already, "
            "and other loops stand between them"
        )
    if loops and nest.at is not None:
        raise ScheduleError(
            f"parallel({nest.name!r}, {loops[0]!r}): each thread computes the stage for itself",
            hint=f"let a loop of {nest.at[0]!r} be parallel",
        )


def _check_rfactor(nest: Nest, step: Rfactor) -> None:
    """Its partial results take the lanes, and its own loops are the innermost ones."""
    if nest.splits:
        raise ScheduleError(
            f"{step}: {next(iter(nest.splits))!r} is split, and rfactor splits itself"
        )
    for loop, kind in nest.kinds.items():
        if kind == "vectorize" or loop == step.axis:
            raise ScheduleError(f"{step}: {loop!r} has a {kind} step, and the lanes are taken")
    if nest.order[: len(nest.spatial)] != nest.spatial or nest.order[-1] != step.axis:
        raise ScheduleError(
            f"{step}: expected the reduction inside the other loops and {step.axis!r} innermost",
            hint=f"the order is {nest.order}",
        )
