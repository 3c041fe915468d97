"""Matrix registers: buffers in space `tile`, and `dot` between them and memory. Here are those of
x86-64 (AMX); llvm_blocks.py has what AArch64 does in vector registers.

Registers are named by immediate numbers, because LLVM has no alloca of them; so subscripts of a
tile buffer must be constant once loops are unrolled. Where the target has no such registers, a tile
buffer is stack memory and `dot` is multiplies and adds: the same meaning, slowly.
"""

from __future__ import annotations

from naru.codegen import llvm_address as address
from naru.codegen import llvm_blocks as blocks
from naru.codegen.llvm_build import Code, Value
from naru.codegen.llvm_expr import access_operands, value
from naru.codegen.llvm_memory import Access
from naru.codegen.llvm_types import memory_bytes
from naru.codegen.tile_registers import Stretch, TileShape, configuration
from naru.errors import IRError
from naru.ir.expr import Call, Const, Expr, Load, Shape, Splat
from naru.ir.loop import Buffer, Store

# (dtypes of a, b and c) -> LLVM intrinsic; b has its rows interleaved to 32 bits.
INSTRUCTIONS: dict[tuple[str, str, str], str] = {
    ("bf16", "bf16", "f32"): "tdpbf16ps",
    ("i8", "i8", "i32"): "tdpbssd",
    ("i8", "u8", "i32"): "tdpbsud",
    ("u8", "i8", "i32"): "tdpbusd",
    ("u8", "u8", "i32"): "tdpbuud",
}
MARK = "; configure the matrix registers, stretch "


def has_registers(code: Code, buffer: Buffer) -> bool:
    """Is the buffer in matrix registers?"""
    return buffer.space == "tile" and (code.target.has_amx or blocks.has_products(code.target))


def allocate(code: Code, buffer: Buffer) -> None:
    """A tile buffer comes to life: with it begins a new configuration."""
    if not code.target.has_amx:
        blocks.allocate(code, buffer)
        return
    code.tiles.stretches.append(Stretch())
    code.do(f"{MARK}{len(code.tiles.stretches) - 1}")


def touches(code: Code, s: Store) -> bool:
    """Does the statement read or write matrix registers?"""
    from_tile = isinstance(s.value, Load) and has_registers(code, s.value.buffer)
    return from_tile or has_registers(code, s.buffer)


def store(code: Code, s: Store) -> None:
    """Clears or loads a register, multiplies into it, or writes it to memory."""
    if not code.target.has_amx:
        blocks.store(code, s)
        return
    v, at = code.resolve(s.value), tuple(code.resolve(i) for i in s.index)
    if s.mask is not None or len(v.shape) != 2:
        raise _not_whole(s.buffer)
    if not has_registers(code, s.buffer):
        assert isinstance(v, Load)
        number = _sum(code, v.buffer, v.index, v.shape)
        pointer, pitch = _place(code, s.buffer, at, v.shape, s)
        code.do(f"call void @llvm.x86.tilestored64(i8 {number}, ptr {pointer}, i64 {pitch})")
        code.forget((s.buffer, "memory"))
        return
    number = _sum(code, s.buffer, at, v.shape)
    if isinstance(v, Splat) and isinstance(v.x, Const) and v.x.value == 0:
        code.do(f"call void @llvm.x86.tilezero(i8 {number})")
    elif isinstance(v, Load):
        _load(code, number, v)
    elif isinstance(v, Call) and v.fn == "dot":
        _multiply(code, s.buffer, number, v)
    else:
        raise IRError(
            [f"{s.buffer.name}: matrix registers take zeros, a tile from memory, or a dot"]
        )


def _multiply(code: Code, buffer: Buffer, number: int, e: Call) -> None:
    a, b, c = e.args
    name = INSTRUCTIONS.get((a.dtype, b.dtype, c.dtype))
    if name is None:
        raise IRError(
            [f"{buffer.name}: no matrix instruction multiplies {a.dtype}, {b.dtype} into {c.dtype}"]
        )
    if (
        not isinstance(c, Load)
        or c.buffer is not buffer
        or _sum(code, buffer, c.index, c.shape) != number
    ):
        raise IRError([f"{buffer.name}: dot must add to the tile that it is stored to"])
    group = 4 // memory_bytes(a.dtype)
    if a.shape[1] != b.shape[0] * group:
        raise IRError(
            [f"{buffer.name}: the rows of b must be interleaved by {group}, its tile is {b.shape}"]
        )
    left, right = _operand(code, "a", a), _operand(code, "b", b)
    code.do(f"call void @llvm.x86.{name}(i8 {number}, i8 {left}, i8 {right})")


def _operand(code: Code, side: str, e: Expr) -> int:
    """The register with a tile from memory; one loaded before in this region is used again."""
    if not isinstance(e, Load) or e.mask is not None or len(e.tile) != 2:
        raise IRError(["dot in matrix registers: expected operands that are whole tiles in memory"])
    stretch, key = code.tiles.now, ("tile", side, e)
    before = code.known(key)
    if before is not None and before.depth == code.depth:
        number = int(before.text)
        if stretch.holds.get(number) == key:
            return number
    number = stretch.operand(side, key, _tile_shape(e.shape, e.dtype))
    _load(code, number, e)
    code.learn(key, Value((str(number),), code.depth), code.facts(e).state)
    return number


def _load(code: Code, number: int, e: Load) -> None:
    pointer, pitch = _place(code, e.buffer, e.index, e.shape, e)
    code.do(f"call void @llvm.x86.tileloadd64(i8 {number}, ptr {pointer}, i64 {pitch})")


def _place(
    code: Code, buffer: Buffer, at: tuple[Expr, ...], shape: Shape, access: Load | Store
) -> tuple[str, str]:
    """The address of a tile, and the bytes from one of its rows to the next."""
    pitch = address.times(code, address.strides(code, buffer)[-2], {(): memory_bytes(buffer.dtype)})
    for e in (*access_operands(code, access), *address.atoms(pitch)):
        value(code, e)
    pointer = Access(code, buffer, at, shape, None).row(0)
    return pointer, address.sum_value(code, pitch).text


def _sum(code: Code, buffer: Buffer, index: tuple[Expr, ...], shape: Shape) -> int:
    """The register of a part of a tile buffer."""
    polys = [address.poly(code, code.resolve(i)) for i in index]
    if any(m for p in polys for m in p):
        problem = "matrix registers have constant subscripts; unroll the loops over tiles"
        raise IRError([f"{buffer.name}: {problem}"])
    at = tuple(p.get((), 0) for p in polys)
    return code.tiles.now.sum((buffer, at), _tile_shape(shape, buffer.dtype))


def _tile_shape(shape: Shape, dtype: str) -> TileShape:
    return shape[0], shape[1] * memory_bytes(dtype)


def _not_whole(buffer: Buffer) -> IRError:
    return IRError([f"{buffer.name}: matrix registers are accessed as whole tiles, without masks"])


def finish(code: Code) -> None:
    """Fills in the configurations at the end of a function, and gives the registers back."""
    stretches = code.tiles.stretches
    if not stretches:
        return
    common = code.tiles.common()
    slot = code.alloca("[64 x i8]", 64)
    for block in code.blocks:
        lines: list[str] = []
        for line in block.lines:
            if not line.startswith(MARK):
                lines.append(line)
            elif common is None:
                stretch = stretches[int(line.removeprefix(MARK))]
                lines += _configure(slot, stretch.shapes)
        block.lines[:] = lines
    if common is not None:
        code.blocks[0].lines[:0] = _configure(slot, common)
    code.do("call void @llvm.x86.tilerelease()")


def _configure(slot: str, shapes: dict[int, TileShape]) -> list[str]:
    data = configuration(shapes)
    words = ", ".join(
        f"i32 {int.from_bytes(data[k : k + 4], 'little')}" for k in range(0, len(data), 4)
    )
    return [
        f"store <16 x i32> <{words}>, ptr {slot}, align 64",
        f"call void @llvm.x86.ldtilecfg(ptr {slot})",
    ]
