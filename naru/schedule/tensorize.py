"""Matrix instructions as data, and the match between a reduction and one of them.

An instruction computes c[m, n] += sum over k of a[m, k] * b[k, n] on tiles of rank 2: the loop IR's
`dot`. A row of the table says what it takes; how it is spelled on a target is codegen's business.
"""

from __future__ import annotations

from dataclasses import dataclass

from naru.errors import ScheduleError
from naru.ir.expr import Binary, Cast, Const, Expr, Load
from naru.ir.simplify import add, free_of, mul, substitute, to_poly
from naru.schedule.steps import Tensorize
from naru.schedule.vector import Grid, Lane, moves_by_one, vectorize


@dataclass(frozen=True)
class Instruction:
    """`operands`: the dtypes that a and b may have, empty for any; `result`: that of c. `most`: the
    largest m, n, k; (0, 0, 0) for no limit. `group`: so many rows of b are interleaved, b[k, n] is
    at [k // group, n * group + k % group]. `space`: where c is while k runs (see loop.SPACES)."""

    operands: tuple[str, ...] = ()
    result: str | None = None
    most: tuple[int, int, int] = (0, 0, 0)
    group: int = 1
    space: str = "stack"


INSTRUCTIONS: dict[str, Instruction] = {
    # Any tiles: a multiply-add a row and k where a target has nothing better; tl.dot in Triton.
    "dot": Instruction(),
    # 16 rows of 64 bytes in each of 8 registers.
    "amx_bf16": Instruction(("bf16",), "f32", (16, 16, 32), 2, "tile"),
    "amx_int8": Instruction(("i8", "u8"), "i32", (16, 16, 64), 4, "tile"),
    # Lanes of 32 bits that are sums of products (AArch64's dotprod and bf16, x86's VNNI): any tiles
    # whose columns fill the lanes.
    "dot4_int8": Instruction(("i8", "u8"), "i32", group=4),
    "dot2_bf16": Instruction(("bf16",), "f32", group=2),
    # Blocks of 2 rows x 2 columns, 8 bytes along k (AArch64's i8mm and bf16).
    "mmla_int8": Instruction(("i8", "u8"), "i32", group=8, space="tile"),
    "mmla_bf16": Instruction(("bf16",), "f32", group=4, space="tile"),
}


def get_instruction(step: Tensorize) -> Instruction:
    """The row that a step names. ScheduleError lists the rows."""
    found = INSTRUCTIONS.get(step.instruction)
    if found is None:
        known = ", ".join(INSTRUCTIONS)
        raise ScheduleError(f"{step}: there is no such instruction", hint=f"one of: {known}")
    return found


@dataclass(frozen=True)
class Loops:
    """The three loops that become one instruction."""

    m: Lane
    n: Lane
    k: Lane


def match_product(step: Tensorize, value: Expr, dtype: str, loops: Loops) -> tuple[Expr, Expr]:
    """The tiles a and b of a scalar product of two loads, which may be cast to the result's dtype.

    Raises ScheduleError where the loops, dtypes or places in memory are not what the instruction
    takes."""
    instruction = get_instruction(step)
    _check_sizes(step, instruction, loops)
    if not (isinstance(value, Binary) and value.op == "mul"):
        raise ScheduleError(f"{step}: expected a sum of products of two operands")
    a, b = _operand(step, value.a, dtype), _operand(step, value.b, dtype)
    if not _moves(a, loops.m):
        a, b = b, a
    for x, along, still in ((a, loops.m, loops.n), (b, loops.n, loops.m)):
        moving = _moves(x, along) and _moves(x, loops.k) and not _moves(x, still)
        if not moving:
            raise ScheduleError(
                f"{step}: expected one operand at [m, k] and one at [k, n], "
                f"found {x.buffer.name} to move otherwise"
            )
    if instruction.result not in (None, dtype):
        raise ScheduleError(f"{step}: the result is {dtype}, expected {instruction.result}")
    for x in (a, b):
        if instruction.operands and x.dtype not in instruction.operands:
            expected = " or ".join(instruction.operands)
            raise ScheduleError(f"{step}: {x.buffer.name} is {x.dtype}, expected {expected}")
    return _plain_tile(step, a, loops.m, loops.k), _tile_b(step, b, loops, instruction.group)


def _check_sizes(step: Tensorize, instruction: Instruction, loops: Loops) -> None:
    sizes = (loops.m.count, loops.n.count, loops.k.count)
    if any(most and size > most for size, most in zip(sizes, instruction.most, strict=True)):
        raise ScheduleError(
            f"{step}: m, n, k are {sizes}, at most {instruction.most} are possible",
            hint="split the loops",
        )
    if loops.k.count % instruction.group:
        raise ScheduleError(f"{step}: k is {loops.k.count}, not a multiple of {instruction.group}")
    masked = any(lane.valid is not None for lane in (loops.m, loops.n, loops.k))
    if masked and (instruction.space == "tile" or instruction.group > 1):
        raise ScheduleError(
            f"{step}: the tiles do not cover the extent, and this instruction knows no masks",
            hint="end the split's sizes with ones that do (k: a divisor, or pad it)",
        )


def _operand(step: Tensorize, e: Expr, dtype: str) -> Load:
    """The load below a conversion to the result's dtype, which the instruction does itself."""
    if isinstance(e, Cast) and e.dtype == dtype:
        e = e.x
    if not isinstance(e, Load):
        raise ScheduleError(f"{step}: expected an operand that is read from memory as it is")
    return e


def _moves(x: Load, lane: Lane) -> bool:
    return any(not free_of(i, lane.var) for i in x.index)


def _plain_tile(step: Tensorize, x: Load, rows: Lane, columns: Lane) -> Expr:
    tile = vectorize(x, Grid(rows, columns))
    if not isinstance(tile, Load) or not tile.tile:
        raise _not_a_tile(step, x, f"its last two dims to be {rows.var.name}, {columns.var.name}")
    return tile


def _tile_b(step: Tensorize, x: Load, loops: Loops, group: int) -> Expr:
    """b as [k, n], or interleaved as [k / group, n · group]."""
    if group == 1:
        return _plain_tile(step, x, loops.k, loops.n)
    k, n = loops.k, loops.n
    row = Lane(k.var, k.count // group)
    # k = group · row + part: rows then follow k, and columns n · group + part, from some start.
    start_of = mul(k.var, group) if row.count > 1 else Const(0)
    first = {k.var: start_of}
    last = {k.var: add(start_of, group - 1)}
    place, end = ([substitute(i, at) for i in x.index] for at in (first, last))
    down, across = place[-2] if len(place) > 1 else Const(0), place[-1]
    terms = to_poly(across)
    fits = (
        len(place) > 1
        and (row.count == 1 or moves_by_one(down, k.var))
        and free_of(down, n.var)
        and terms.pop((n.var,), 0) == group
        and all(free_of(part, n.var, k.var) for m in terms for part in m)
        and end == [*place[:-1], add(across, group - 1)]
        and all(free_of(i, n.var, k.var) for i in place[:-2])
    )
    if not fits:
        raise _not_a_tile(step, x, f"[k // {group}, n * {group} + k % {group}]")
    zero = {k.var: Const(0), n.var: Const(0)}
    start = tuple(substitute(i, zero) for i in place)
    return Load(x.buffer, start, (row.count, n.count * group))


def _not_a_tile(step: Tensorize, x: Load, expected: str) -> ScheduleError:
    return ScheduleError(
        f"{step}: {x.buffer.name} does not lie in memory as the instruction takes it: "
        f"expected {expected}",
        hint="give the tensor another layout, or copy it",
    )
