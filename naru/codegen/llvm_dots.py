"""`dot` by instructions whose lanes are sums of products: each 32-bit lane of b holds the group of
neighbours along k of one column (4 of 8 bits, 2 of bf16), a lane of a is the same group of one row
in all lanes, and the products are added to the lane of the sum.

Also what `dot` in matrix registers shares with them: rows as bits, cut and joined.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from naru.codegen.llvm_build import Code
from naru.codegen.llvm_types import memory_type, scalar_type
from naru.ir.expr import Call
from naru.targets import Target


@dataclass(frozen=True)
class Dot:
    """`name` of LLVM's intrinsic name(sum, a, b), which `feature` brings, for so many lanes of the
    sum; its operands are rows of `lane`. `turned`: it takes b before a."""

    name: str
    feature: str
    lanes: int
    lane: str = "i8"
    turned: bool = False


# (architecture, dtypes of a, b and the sum, group) -> instructions, the widest first.
DOTS: dict[tuple[str, str, str, str, int], tuple[Dot, ...]] = {
    ("aarch64", "i8", "i8", "i32", 4): (Dot("aarch64.neon.sdot.v4i32.v16i8", "dotprod", 4),),
    ("aarch64", "u8", "u8", "i32", 4): (Dot("aarch64.neon.udot.v4i32.v16i8", "dotprod", 4),),
    ("aarch64", "u8", "i8", "i32", 4): (Dot("aarch64.neon.usdot.v4i32.v16i8", "i8mm", 4),),
    ("aarch64", "i8", "u8", "i32", 4): (
        Dot("aarch64.neon.usdot.v4i32.v16i8", "i8mm", 4, turned=True),
    ),
    ("aarch64", "bf16", "bf16", "f32", 2): (
        Dot("aarch64.neon.bfdot.v4f32.v8bf16", "bf16", 4, "bfloat"),
    ),
    ("x86_64", "u8", "i8", "i32", 4): tuple(
        Dot(f"x86.avx512.vpdpbusd.{32 * n}", "avx512vnni", n) for n in (16, 8, 4)
    ),
    ("x86_64", "i8", "u8", "i32", 4): tuple(
        Dot(f"x86.avx512.vpdpbusd.{32 * n}", "avx512vnni", n, turned=True) for n in (16, 8, 4)
    ),
    ("x86_64", "bf16", "bf16", "f32", 2): tuple(
        Dot(f"x86.avx512bf16.dpbf16ps.{32 * n}", "avx512bf16", n, "bfloat") for n in (16, 8, 4)
    ),
}


def find_dot(target: Target, e: Call) -> Dot | None:
    """The instruction for a `dot` whose columns fill its lanes."""
    a, b, c = e.args
    group = a.shape[1] // b.shape[0]
    rows = DOTS.get((target.arch, a.dtype, b.dtype, c.dtype, group), ())
    fitting = (d for d in rows if target.has(d.feature) and c.shape[1] % d.lanes == 0)
    return next(fitting, None)


def multiply(
    code: Code, dot: Dot, e: Call, a: Sequence[str], b: Sequence[str], c: Sequence[str]
) -> tuple[str, ...]:
    """The rows of a @ b + c, from those of its operands."""
    (m, depth), (groups, width), n = e.args[0].shape, e.args[1].shape, e.args[2].shape[1]
    lane, group = scalar_type(e.dtype, code.target), depth // groups
    sums, words = f"<{dot.lanes} x {lane}>", f"<{groups} x i32>"
    taken = f"<{dot.lanes * group} x {dot.lane}>"
    panels = [
        pieces(code, as_bits(code, x, e.args[1].dtype, width), e.args[1].dtype, width, dot, group)
        for x in b
    ]
    kind = f"<{depth} x {memory_type(e.args[0].dtype)}>"
    rows = [
        code.put(f"bitcast {kind} {as_bits(code, x, e.args[0].dtype, depth)} to {words}") for x in a
    ]
    totals = [cut(code, x, lane, n, dot.lanes) for x in c]
    # A row of b at a time: its parts stay in registers while all rows of a pass.
    for q, i in itertools.product(range(groups), range(m)):
        one = code.put(f"extractelement {words} {rows[i]}, i64 {q}")
        every = code.splat(one, code.depth, "i32", (dot.lanes,))
        every = code.put(f"bitcast <{dot.lanes} x i32> {every} to {taken}")
        for j, panel in enumerate(panels[q]):
            x, y = (panel, every) if dot.turned else (every, panel)
            totals[i][j] = code.put(
                f"call {sums} @llvm.{dot.name}({sums} {totals[i][j]}, {taken} {x}, {taken} {y})"
            )
    return tuple(join(code, row, lane, dot.lanes) for row in totals)


def pieces(code: Code, row: str, dtype: str, width: int, dot: Dot, group: int) -> list[str]:
    """A row of b in parts as the instruction takes them."""
    size, kind = dot.lanes * group, memory_type(dtype)
    parts = cut(code, row, kind, width, size)
    if kind == dot.lane:
        return parts
    return [code.put(f"bitcast <{size} x {kind}> {x} to <{size} x {dot.lane}>") for x in parts]


# ---- rows ----


def as_bits(code: Code, row: str, dtype: str, count: int) -> str:
    """A row in registers as its bits in memory; bf16 is held as float, whose upper half it is."""
    if dtype != "bf16":
        return row
    bits = code.put(f"bitcast <{count} x float> {row} to <{count} x i32>")
    high = code.put(f"lshr <{count} x i32> {bits}, splat (i32 16)")
    return code.put(f"trunc <{count} x i32> {high} to <{count} x i16>")


def cut(code: Code, row: str, lane: str, count: int, size: int) -> list[str]:
    """A row in parts of `size` lanes; what the last has beyond the row is undefined."""
    if count == size:
        return [row]
    parts: list[str] = []
    for start in range(0, count, size):
        chosen = (str(k) if k < count else "poison" for k in range(start, start + size))
        order = ", ".join(f"i32 {k}" for k in chosen)
        kind = f"<{count} x {lane}>"
        mask = f"<{size} x i32> <{order}>"
        parts.append(code.put(f"shufflevector {kind} {row}, {kind} poison, {mask}"))
    return parts


def join(code: Code, parts: Sequence[str], lane: str, size: int) -> str:
    """Parts of a row, as many as any, side by side."""
    row, count = parts[0], size
    for part in parts[1:]:
        wide = ", ".join(f"i32 {k}" if k < size else "i32 poison" for k in range(count))
        order = ", ".join(f"i32 {k}" for k in range(count + size))
        kind = f"<{count} x {lane}>"
        if count > size:
            part = code.put(
                f"shufflevector <{size} x {lane}> {part}, <{size} x {lane}> poison, "
                f"<{count} x i32> <{wide}>"
            )
        row = code.put(
            f"shufflevector {kind} {row}, {kind} {part}, <{count + size} x i32> <{order}>"
        )
        count += size
    return row
