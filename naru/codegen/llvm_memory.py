"""Loads and stores: scalars, contiguous tiles, masks, gathers and scatters.

Lanes at a common distance become scalar accesses, which every CPU does at two a cycle; gathers with
arbitrary subscripts use the instruction where there is one.
"""

from __future__ import annotations

from naru.codegen import llvm_address as address
from naru.codegen.llvm_address import Offset, Poly
from naru.codegen.llvm_build import Code, Value
from naru.codegen.llvm_narrow import from_bits, to_bits
from naru.codegen.llvm_types import NARROW, memory_bytes, memory_type, rows_of, vector
from naru.dtypes import DTYPES
from naru.errors import IRError
from naru.ir.expr import Expr, Load, Shape
from naru.ir.loop import Buffer
from naru.ir.simplify import known


class Access:
    """One load or store: which buffer, where, how wide, under which mask."""

    def __init__(
        self, code: Code, buffer: Buffer, index: tuple[Expr, ...], shape: Shape, mask: Value | None
    ) -> None:
        self.code, self.buffer, self.shape, self.mask = code, buffer, shape, mask
        self.at: Offset = address.offset(code, buffer, index)
        self.base = code.base(buffer)
        self.lane = memory_type(buffer.dtype)
        self.row_shape = shape[-1:]
        self.kind = vector(self.lane, shape)
        self.align = f"align {memory_bytes(buffer.dtype)}"
        self.step = address.lane_step(self.at.lanes) if self.at.lanes else None
        if self.at.lanes and len(shape) != 1:
            raise IRError([f"{buffer.name}: a gather or scatter needs a tile of rank 1"])

    def row(self, r: int) -> str:
        """The address of the first element of row r of a contiguous tile."""
        p = self.at.scalar
        if r:
            pitch = address.strides(self.code, self.buffer)[-2]
            p = address.plus(p, address.times(self.code, pitch, {(): r}))
        return self.element(p)

    def element(self, p: Poly) -> str:
        sure = self.mask is None
        return address.pointer(self.code, self.buffer, self.base, p, sure=sure).text

    def lane_pointers(self) -> list[str]:
        """An address a lane."""
        lanes = self.shape[0]
        if self.step is not None:
            steps = [address.times(self.code, self.step, {(): i}) for i in range(lanes)]
            return [self.element(address.plus(self.at.scalar, s)) for s in steps]
        start = self.element(self.at.scalar)
        far = address.sum_value(self.code, self.at.lanes, self.shape).text
        index = self.code.index
        out: list[str] = []
        for i in range(lanes):
            one = self.code.put(f"extractelement <{lanes} x {index}> {far}, i64 {i}")
            out.append(self.code.put(f"getelementptr {self.lane}, ptr {start}, {index} {one}"))
        return out

    def pointer_vector(self) -> str:
        """The addresses of all lanes as <n x ptr>."""
        start, lanes = self.element(self.at.scalar), self.shape[0]
        far = address.sum_value(self.code, self.at.lanes, self.shape).text
        kind = f"<{lanes} x {self.code.index}>"
        return self.code.put(f"getelementptr {self.lane}, ptr {start}, {kind} {far}")

    def is_contiguous(self) -> bool:
        return not self.at.lanes or self.step == {(): 1}

    def masks(self) -> list[str]:
        """A mask a row; of a scalar access, as <1 x i1>."""
        if self.mask is None:
            return []
        if self.shape:
            return list(self.mask.rows)
        bit = self.code.put(f"insertelement <1 x i1> poison, i1 {self.mask.text}, i64 0")
        return [bit]


def load(code: Code, e: Load, mask: Value | None) -> tuple[str, ...]:
    """The rows that a Load reads, in register form."""
    access = Access(code, e.buffer, e.index, e.shape, mask)
    if not access.is_contiguous():
        raw = [_lookup(access) or _block(access) or _gather(access)]
    elif mask is not None:
        raw = [_masked_load(access, r) for r in range(rows_of(e.shape))]
    else:
        raw = [
            code.put(f"load {access.kind}, ptr {access.row(r)}, {access.align}")
            for r in range(rows_of(e.shape))
        ]
    return tuple(from_memory(code, x, e.buffer.dtype, access.row_shape) for x in raw)


def _masked_load(a: Access, r: int) -> str:
    kind = a.kind if a.shape else f"<1 x {a.lane}>"
    count = a.shape[-1] if a.shape else 1
    out = a.code.put(
        f"call {kind} @llvm.masked.load(ptr {a.align} {a.row(r)}, "
        f"<{count} x i1> {a.masks()[r]}, {kind} zeroinitializer)"
    )
    return out if a.shape else a.code.put(f"extractelement {kind} {out}, i64 0")


def _block(a: Access) -> str | None:
    """All lanes from one block of as many neighbours, in any order: a load and a shuffle, as for
    channels of small groups (`x[lane // 4 * 4 + c]`). None where it cannot be known that the block
    lies in the buffer: its size divides all strides, and the last dim."""
    count, last = a.shape[0], known(a.buffer.shape[-1])
    places = address.lane_values(a.at.lanes, count)
    scalar = dict(a.at.scalar)
    constant = scalar.pop((), 0)
    fits = last is not None and last % count == 0 and all(c % count == 0 for c in scalar.values())
    if a.mask is not None or places is None or not fits:
        return None
    first = constant % count
    chosen = [first + p for p in places]
    if min(chosen) < 0 or max(chosen) >= count:
        return None
    base = a.element(address.plus(a.at.scalar, {(): -first}))
    block = a.code.put(f"load {a.kind}, ptr {base}, {a.align}")
    order = ", ".join(f"i32 {k}" for k in chosen)
    return a.code.put(f"shufflevector {a.kind} {block}, {a.kind} poison, <{count} x i32> <{order}>")


# Instructions that look up bytes in a table of 16, by lanes at a time.
LOOKUPS = {
    ("x86_64", 64): ("avx512bw", "llvm.x86.avx512.pshuf.b.512"),
    ("x86_64", 32): ("avx2", "llvm.x86.avx2.pshuf.b"),
    ("x86_64", 16): ("ssse3", "llvm.x86.ssse3.pshuf.b.128"),
    ("aarch64", 16): ("neon", "llvm.aarch64.neon.tbl1.v16i8"),
    ("wasm32", 16): ("simd128", "llvm.wasm.swizzle"),
}
TABLE = 16


def _lookup(a: Access) -> str | None:
    """Bytes of a buffer of 16, by a tile of bytes: one instruction where there is one."""
    code, (count,) = a.code, a.shape
    feature, name = LOOKUPS.get((code.target.arch, count), ("", ""))
    if a.mask is not None or a.at.scalar or not code.target.has(feature):
        return None
    (which, *more), times = zip(*a.at.lanes.items(), strict=True)
    small = a.lane == "i8" and [known(d) for d in a.buffer.shape] == [TABLE]
    if not small or more or times != (1,) or len(which) != 1 or which[0].dtype != "u8":
        return None
    table = code.put(f"load <{TABLE} x i8>, ptr {a.base.text}, {a.align}")
    if count > TABLE:  # each part of a register has its own
        order = ", ".join(f"i32 {k % TABLE}" for k in range(count))
        kind = f"<{TABLE} x i8>"
        table = code.put(f"shufflevector {kind} {table}, {kind} poison, <{count} x i32> <{order}>")
    chosen = code.known(which[0])
    assert chosen is not None  # whoever loads evaluates what the address is made of
    return code.put(f"call {a.kind} @{name}({a.kind} {table}, {a.kind} {chosen.text})")


def _gather(a: Access) -> str:
    code = a.code
    wide = code.target.arch == "x86_64" and code.target.has("avx512f")
    if a.mask is not None or (a.step is None and wide and a.lane in ("float", "i32")):
        mask = a.masks()[0] if a.mask is not None else "splat (i1 true)"
        count = a.shape[0]
        return code.put(
            f"call {a.kind} @llvm.masked.gather(<{count} x ptr> {a.align} {a.pointer_vector()}, "
            f"<{count} x i1> {mask}, {a.kind} zeroinitializer)"
        )
    out = "poison"
    for i, p in enumerate(a.lane_pointers()):
        one = code.put(f"load {a.lane}, ptr {p}, {a.align}")
        out = code.put(f"insertelement {a.kind} {out}, {a.lane} {one}, i64 {i}")
    return out


def store(
    code: Code,
    buffer: Buffer,
    index: tuple[Expr, ...],
    shape: Shape,
    rows: tuple[str, ...],
    mask: Value | None,
) -> None:
    """Writes rows (register form) of a scalar or tile of `shape`."""
    access = Access(code, buffer, index, shape, mask)
    raw = [to_memory(code, x, buffer.dtype, access.row_shape) for x in rows]
    if not access.is_contiguous():
        _scatter(access, raw[0])
        return
    for r, x in enumerate(raw):
        if mask is None:
            code.do(f"store {access.kind} {x}, ptr {access.row(r)}, {access.align}")
        else:
            _masked_store(access, r, x)


def _masked_store(a: Access, r: int, x: str) -> None:
    kind, count = a.kind, a.shape[-1] if a.shape else 1
    if not a.shape:
        kind = f"<1 x {a.lane}>"
        x = a.code.put(f"insertelement {kind} poison, {a.lane} {x}, i64 0")
    a.code.do(
        f"call void @llvm.masked.store({kind} {x}, ptr {a.align} {a.row(r)}, "
        f"<{count} x i1> {a.masks()[r]})"
    )


def _scatter(a: Access, x: str) -> None:
    if a.mask is not None:
        count = a.shape[0]
        a.code.do(
            f"call void @llvm.masked.scatter({a.kind} {x}, "
            f"<{count} x ptr> {a.align} {a.pointer_vector()}, <{count} x i1> {a.masks()[0]})"
        )
        return
    for i, p in enumerate(a.lane_pointers()):
        one = a.code.put(f"extractelement {a.kind} {x}, i64 {i}")
        a.code.do(f"store {a.lane} {one}, ptr {p}, {a.align}")


def from_memory(code: Code, raw: str, dtype: str, shape: Shape) -> str:
    """One row as it lies in memory to its form in registers."""
    if dtype == "bool":
        zero = "zeroinitializer" if shape else "0"
        return code.put(f"icmp ne {vector('i8', shape)} {raw}, {zero}")
    if dtype in NARROW:
        return from_bits(code, raw, dtype, shape)
    if (bits := DTYPES[dtype].bits) < 8:
        return code.put(f"trunc {vector('i8', shape)} {raw} to {vector(f'i{bits}', shape)}")
    if dtype == "index" and code.index != "i64":
        return code.put(f"trunc {vector('i64', shape)} {raw} to {vector(code.index, shape)}")
    return raw


def to_memory(code: Code, x: str, dtype: str, shape: Shape) -> str:
    """One row in registers to its form in memory."""
    if dtype == "bool":
        return code.put(f"zext {vector('i1', shape)} {x} to {vector('i8', shape)}")
    if dtype in NARROW:
        return to_bits(code, x, dtype, shape)
    if (bits := DTYPES[dtype].bits) < 8:
        return code.put(f"zext {vector(f'i{bits}', shape)} {x} to {vector('i8', shape)}")
    if dtype == "index" and code.index != "i64":
        return code.put(f"sext {vector(code.index, shape)} {x} to {vector('i64', shape)}")
    return x
