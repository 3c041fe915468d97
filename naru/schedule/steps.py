"""A schedule is data: a tuple of these steps, printed, stored, replayed, searched.

Stages and axes are named as in the TensorFunction's text. Splitting axis `m` gives the loops `m.o`
and `m.i`, which may be split again (`m.i.o`, `m.i.i`).
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, fields
from typing import TypeAlias

from naru.errors import ScheduleError


@dataclass(frozen=True)
class Split:
    """axis -> outer, inner.   for a in n  ->  for a.o in n/size: for a.i in size

    Several sizes give several such nests one after the other, each for what the earlier ones left
    (`counts` fixes how many tiles each gets; without it each takes as many as fit). What is then
    left is done by the last size under a mask, which only a vectorised loop can have."""

    stage: str
    axis: str
    sizes: tuple[int, ...]
    counts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Order:
    """The stage's loops from outermost to innermost; all of them."""

    stage: str
    loops: tuple[str, ...]


@dataclass(frozen=True)
class Unroll:
    """for i in unroll(n): the body once an iteration; n is constant."""

    stage: str
    loop: str


@dataclass(frozen=True)
class Vectorize:
    """The loop becomes one tile value of rank 1 with as many lanes as iterations; two loops of a
    stage, the outer one in the rows, become one of rank 2."""

    stage: str
    loop: str


@dataclass(frozen=True)
class Parallel:
    """The iterations are divided among the threads of the run."""

    stage: str
    loop: str


@dataclass(frozen=True)
class ComputeAt:
    """The stage is computed inside `loop` of `consumer` ('': before all loops), as much of it as is
    needed there, on the stack. `memory` "result": in the consumer's own memory, each element where
    the one stands that the consumer makes of it."""

    stage: str
    consumer: str
    loop: str
    memory: str = ""


@dataclass(frozen=True)
class Rfactor:
    """A reduction in `lanes` interleaved partial results, combined at the end by the fixed tree."""

    stage: str
    axis: str
    lanes: int


@dataclass(frozen=True)
class Tensorize:
    """The three innermost loops m, n, k become one instruction on tiles of rank 2, acc += a @ b.
    `instruction` is a row of schedule/tensorize.py, which says what it takes and where acc lies."""

    stage: str
    m: str
    n: str
    k: str
    instruction: str


@dataclass(frozen=True)
class Prefetch:
    """Each iteration of `loop`, one of a reduction, fetches a part of what later tiles will read of
    an operand that lies in panels [panel, k…, column]: when all rows (those of the axes `rows`)
    have met the `panels` of this tile, as many have been fetched, `ahead` panels further on. The
    first `dims` dims of the operand together number the panels. Where rows pass in blocks, it is
    the `block` of them that meets a panel."""

    stage: str
    loop: str
    operand: str
    rows: tuple[str, ...]
    panels: int
    ahead: int
    dims: int = 1
    block: int = 0


@dataclass(frozen=True)
class Expect:
    """Each iteration of `loop` fetches, before all else, the lines of the result and of what it is
    made of: those of its tile, row by row of the loop `rows`. For a stage whose rows lie so far
    apart that a core does not guess which come next."""

    stage: str
    loop: str
    rows: str


Step: TypeAlias = (
    Split
    | Order
    | Unroll
    | Vectorize
    | Parallel
    | ComputeAt
    | Rfactor
    | Tensorize
    | Prefetch
    | Expect
)
STEPS: dict[str, type[Step]] = {
    "split": Split,
    "order": Order,
    "unroll": Unroll,
    "vectorize": Vectorize,
    "parallel": Parallel,
    "compute_at": ComputeAt,
    "rfactor": Rfactor,
    "tensorize": Tensorize,
    "prefetch": Prefetch,
    "expect": Expect,
}
_NAMES = {c: name for name, c in STEPS.items()}


@dataclass(frozen=True)
class Schedule:
    """The algorithm rewrites that were applied (first line), then steps in order."""

    steps: tuple[Step, ...] = ()
    algorithm: tuple[str, ...] = ("direct",)


def print_schedule(s: Schedule) -> str:
    """One step a line: `split("C", "m", (14, 13))`; read back by `read_schedule`."""
    lines = [f"algorithm({', '.join(map(repr, s.algorithm))})"]
    for step in s.steps:
        values = [(getattr(step, f.name), f.default) for f in fields(step)]
        while values[-1][0] == values[-1][1]:  # what is left out stands last
            values.pop()
        lines.append(f"{_NAMES[type(step)]}({', '.join(repr(value) for value, _ in values)})")
    return "\n".join(lines)


def read_schedule(text: str) -> Schedule:
    """The inverse of `print_schedule`. Raises ScheduleError naming the line that is not a step."""
    algorithm: tuple[str, ...] = ("direct",)
    steps: list[Step] = []
    for number, line in enumerate(text.strip().splitlines(), 1):
        try:
            name, args = _read_call(line.strip())
            if name == "algorithm":
                algorithm = tuple(map(_text, args))
            else:
                steps.append(_read_step(STEPS[name], args))
        except (SyntaxError, ValueError, KeyError, TypeError) as error:
            known = ", ".join(STEPS)
            raise ScheduleError(
                f"expected a step such as split('C', 'm', (14,)), got {line.strip()!r}",
                where=f"schedule line {number}",
                hint=f"the steps are {known}",
            ) from error
    return Schedule(tuple(steps), algorithm)


def _read_call(line: str) -> tuple[str, list[object]]:
    match ast.parse(line, mode="eval").body:
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return name, [ast.literal_eval(a) for a in args]
        case _:
            raise ValueError(line)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _read_step(kind: type[Step], args: list[object]) -> Step:
    """A step of values that have the types of its fields."""
    step = kind(*args)  # pyright: ignore[reportArgumentType]
    for f in fields(step):
        value = getattr(step, f.name)
        if f.type == "str":
            _text(value)
        elif f.type == "int":
            _expect(type(value) is int, value)
        else:
            item = str if f.type == "tuple[str, ...]" else int
            _expect(type(value) is tuple and all(type(x) is item for x in value), value)
    return step


def _expect(condition: bool, value: object) -> None:
    if not condition:
        raise TypeError(value)
