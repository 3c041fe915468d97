"""Matrix products of AArch64 (i8mm, bf16): buffers in space `tile` as blocks of 2 × 2.

An instruction adds to a block of the sums, one vector: [c00, c01, c10, c11], the products of two
rows of a and two columns of b, each of 8 bytes along k. So a tile buffer is an array of such
vectors on the stack, which LLVM keeps in registers where subscripts are constant once loops are
unrolled; it becomes rows when it is written to memory. An odd last row is multiplied twice and kept
once, and beyond an odd last column there is nothing that is kept.
"""

from __future__ import annotations

import itertools

from naru.codegen import llvm_address as address
from naru.codegen import llvm_memory as memory
from naru.codegen.llvm_build import MEMORY, Code, Value
from naru.codegen.llvm_dots import as_bits, cut, join
from naru.codegen.llvm_expr import access_operands, value
from naru.codegen.llvm_types import memory_bytes, memory_type, scalar_type
from naru.errors import IRError
from naru.ir.expr import Call, Const, Expr, Load, Shape, Splat
from naru.ir.loop import Buffer, Store
from naru.ir.simplify import known
from naru.targets import Target

# (dtypes of a, b and the sum) -> LLVM's intrinsic, what its operands are rows of.
PRODUCTS: dict[tuple[str, str, str], tuple[str, str]] = {
    ("i8", "i8", "i32"): ("smmla.v4i32.v16i8", "<16 x i8>"),
    ("u8", "u8", "i32"): ("ummla.v4i32.v16i8", "<16 x i8>"),
    ("u8", "i8", "i32"): ("usmmla.v4i32.v16i8", "<16 x i8>"),
    ("bf16", "bf16", "f32"): ("bfmmla", "<8 x bfloat>"),
}
REACH = 8  # bytes along k


def has_products(target: Target) -> bool:
    """Does the target have these instructions, for integers and bf16?"""
    return target.arch == "aarch64" and target.has("i8mm") and target.has("bf16")


def allocate(code: Code, buffer: Buffer) -> None:
    """A tile buffer comes to life."""
    if buffer not in code.pointers:
        rows, columns = _blocks(buffer)
        kind = f"[{rows * columns} x {_vector(code, buffer)}]"
        code.pointers[buffer] = Value((code.alloca(kind, 64),), 0)


def store(code: Code, s: Store) -> None:
    """Clears a tile or multiplies into it, or writes it to memory."""
    v, at = code.resolve(s.value), tuple(code.resolve(i) for i in s.index)
    if s.mask is not None or len(v.shape) != 2:
        raise IRError([f"{s.buffer.name}: tiles are accessed as a whole, without masks"])
    if isinstance(v, Load):
        for e in access_operands(code, s):
            value(code, e)
        memory.store(code, s.buffer, at, v.shape, _rows(code, v), None)
        code.forget((s.buffer, MEMORY))
        return
    begin = _begin(code, s)
    if isinstance(v, Splat) and isinstance(v.x, Const) and v.x.value == 0:
        kind = _vector(code, s.buffer)
        for row in _places(code, s.buffer, begin, v.shape):
            for place in row:
                code.do(f"store {kind} zeroinitializer, ptr {place}, align 16")
    elif isinstance(v, Call) and v.fn == "dot":
        _multiply(code, s.buffer, v, begin)
    else:
        raise IRError([f"{s.buffer.name}: matrix registers take zeros or a dot"])


# ---- products ----


def _multiply(code: Code, buffer: Buffer, e: Call, begin: tuple[int, int]) -> None:
    a, b, c = e.args
    if not isinstance(c, Load) or c.buffer is not buffer or _begin(code, c) != begin:
        raise IRError([f"{buffer.name}: dot must add to the tile that it is stored to"])
    if (a.dtype, b.dtype, c.dtype) not in PRODUCTS:
        raise IRError(
            [f"{buffer.name}: no matrix instruction multiplies {a.dtype}, {b.dtype} into {c.dtype}"]
        )
    name, kind = PRODUCTS[a.dtype, b.dtype, c.dtype]
    group = REACH // memory_bytes(a.dtype)
    if a.shape[1] != b.shape[0] * group:
        raise IRError(
            [f"{buffer.name}: the rows of b must be interleaved by {group}, its tile is {b.shape}"]
        )
    left, right = _row_pairs(code, a, group, kind), _column_pairs(code, b, group, kind)
    sums = _vector(code, buffer)
    places = _places(code, buffer, begin, e.shape)
    # One operand of the longer side at a time: those of the shorter stay in registers.
    turns = [(i, j) for j in range(len(right)) for i in range(len(left))]
    for q, (i, j) in itertools.product(
        range(b.shape[0]), turns if len(left) <= len(right) else sorted(turns)
    ):
        total = code.put(f"load {sums}, ptr {places[i][j]}, align 16")
        total = code.put(
            f"call {sums} @llvm.aarch64.neon.{name}("
            f"{sums} {total}, {kind} {left[i][q]}, {kind} {right[j][q]})"
        )
        code.do(f"store {sums} {total}, ptr {places[i][j]}, align 16")


def _row_pairs(code: Code, a: Expr, group: int, kind: str) -> list[list[str]]:
    """[rows / 2][k / group]: two rows of a, `group` elements of each."""
    m, depth = a.shape
    lane = memory_type(a.dtype)
    rows = [
        cut(code, as_bits(code, x, a.dtype, depth), lane, depth, group) for x in value(code, a).rows
    ]
    pairs = [(rows[i], rows[min(i + 1, m - 1)]) for i in range(0, m, 2)]
    return [
        [_as_operand(code, join(code, xy, lane, group), lane, 2 * group, kind)
         for xy in zip(*pair, strict=True)]
        for pair in pairs
    ]  # fmt: skip


def _column_pairs(code: Code, b: Expr, group: int, kind: str) -> list[list[str]]:
    """[columns / 2][k / group]: two columns of b, which are neighbours as b is interleaved."""
    width = b.shape[1]
    lane = memory_type(b.dtype)
    rows = [
        cut(code, as_bits(code, x, b.dtype, width), lane, width, 2 * group)
        for x in value(code, b).rows
    ]
    return [
        [_as_operand(code, x, lane, 2 * group, kind) for x in column]
        for column in zip(*rows, strict=True)
    ]


def _as_operand(code: Code, row: str, lane: str, count: int, kind: str) -> str:
    own = f"<{count} x {lane}>"
    return row if own == kind else code.put(f"bitcast {own} {row} to {kind}")


# ---- blocks ----


def _blocks(buffer: Buffer) -> tuple[int, int]:
    """Blocks along the rows and columns of a tile buffer."""
    sizes = [known(d) for d in buffer.shape]
    if len(sizes) != 2 or None in sizes:
        raise IRError([f"alloc {buffer.name}: expected two constant dims in space tile"])
    rows, columns = (-(-(n or 0) // 2) for n in sizes)
    return rows, columns


def _vector(code: Code, buffer: Buffer) -> str:
    return f"<4 x {scalar_type(buffer.dtype, code.target)}>"


def _begin(code: Code, access: Load | Store) -> tuple[int, int]:
    """The first row and column of a tile."""
    name = access.buffer.name
    polys = [address.poly(code, code.resolve(i)) for i in access.index]
    if any(m for p in polys for m in p):
        problem = "matrix registers have constant subscripts; unroll the loops over tiles"
        raise IRError([f"{name}: {problem}"])
    row, column = (p.get((), 0) for p in polys)
    if row % 2 or column % 2:
        raise IRError([f"{name}: tiles begin at even rows and columns, not {row}, {column}"])
    return row, column


def _places(code: Code, buffer: Buffer, begin: tuple[int, int], shape: Shape) -> list[list[str]]:
    """The addresses of the blocks of a tile."""
    (row, column), kind, (_, pitch) = begin, _vector(code, buffer), _blocks(buffer)
    base = code.base(buffer).text
    return [
        [
            code.put(f"getelementptr {kind}, ptr {base}, i64 {i * pitch + j}", 0)
            for j in range(column // 2, -(-(column + shape[1]) // 2))
        ]
        for i in range(row // 2, -(-(row + shape[0]) // 2))
    ]


def _rows(code: Code, tile: Load) -> tuple[str, ...]:
    """The rows of a tile that is in blocks."""
    m, n = tile.shape
    lane, kind = scalar_type(tile.dtype, code.target), _vector(code, tile.buffer)
    out: list[str] = []
    for row in _places(code, tile.buffer, _begin(code, tile), tile.shape):
        blocks = [code.put(f"load {kind}, ptr {p}, align 16") for p in row]
        for half in range(2):
            parts = [cut(code, x, lane, 4, 2)[half] for x in blocks]
            joined = join(code, parts, lane, 2)
            out += cut(code, joined, lane, 2 * len(parts), n)[:1]
    return tuple(out[:m])
