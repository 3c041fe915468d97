"""Single operations on rows: each function writes what one node of an expression means.

Integer division never traps: a divisor of zero counts as one, and MIN / -1 wraps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from naru.codegen.llvm_build import Code
from naru.codegen.llvm_narrow import rounded
from naru.codegen.llvm_types import NARROW, literal, scalar_type, splat_literal, vector
from naru.dtypes import DTYPES, is_float
from naru.ir.expr import Shape


@dataclass(frozen=True, slots=True)
class Row:
    """Where an operation is written: its depth, and the dtype and shape of its operands."""

    code: Code
    depth: int
    dtype: str
    shape: Shape

    @property
    def lane(self) -> str:
        """LLVM type of one lane."""
        return scalar_type(self.dtype, self.code.target)

    @property
    def kind(self) -> str:
        """LLVM type of the row."""
        return vector(self.lane, self.shape)

    @property
    def bit(self) -> str:
        """LLVM type of a row of bools."""
        return vector("i1", self.shape)

    @property
    def bits(self) -> int:
        """Width of an integer lane."""
        return self.code.target.pointer_bits if self.dtype == "index" else DTYPES[self.dtype].bits

    @property
    def signed(self) -> bool:
        return DTYPES[self.dtype].kind == "i"

    def put(self, text: str) -> str:
        return self.code.put(text, self.depth)

    def op(self, name: str, a: str, b: str) -> str:
        return self.put(f"{name} {self.kind} {a}, {b}")

    def call(self, name: str, *args: str) -> str:
        typed = ", ".join(a if " " in a and a[0] == "i" else f"{self.kind} {a}" for a in args)
        return self.put(f"call {self.kind} @llvm.{name}({typed})")

    def select(self, cond: str, a: str, b: str) -> str:
        return self.put(f"select {self.bit} {cond}, {self.kind} {a}, {self.kind} {b}")

    def integer(self, value: int) -> str:
        return f"splat ({self.lane} {value})" if self.shape else str(value)

    def rounded(self, x: str) -> str:
        """x as a value of the dtype: f16 and bf16 are computed in float."""
        if self.dtype not in NARROW:
            return x
        return rounded(self.code, x, self.dtype, self.shape)


# ---- two operands ----

_INTEGER = {"add": "add", "sub": "sub", "mul": "mul", "and": "and", "or": "or", "xor": "xor"}
_FLOAT = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_BOOL = {"add": "or", "sub": "xor", "mul": "and", "min": "and", "max": "or", "larger": "or"}
_FLOAT_COMPARE = {"lt": "olt", "le": "ole", "eq": "oeq", "ne": "une", "gt": "ogt", "ge": "oge"}


def binary(r: Row, op: str, a: str, b: str) -> str:
    """An arithmetic or bitwise operation."""
    if r.dtype == "bool":
        return r.op(_BOOL.get(op, op), a, b)
    if is_float(r.dtype):
        if op in ("min", "max"):
            return float_extreme(r, op, a, b)
        if op == "larger":
            return larger(r, a, b)
        if op == "floordiv":
            return r.rounded(r.call("floor", r.op("fdiv", a, b)))
        return r.rounded(r.op(_FLOAT[op], a, b))
    if op in _INTEGER:
        return r.op(_INTEGER[op], a, b)
    if op in ("min", "max", "larger"):
        return r.call(f"{'s' if r.signed else 'u'}{'min' if op == 'min' else 'max'}", a, b)
    if op == "dot2":
        return _dot2(r, a, b)
    if op == "dot4":
        return _dot4(r, a, b)
    return _shift(r, op, a, b) if op in ("shl", "shr") else divide(r, op, a, b)


def compare(r: Row, op: str, a: str, b: str) -> str:
    """A row of i1."""
    if is_float(r.dtype):
        return r.put(f"fcmp {_FLOAT_COMPARE[op]} {r.kind} {a}, {b}")
    sign = "" if op in ("eq", "ne") else "s" if r.signed else "u"
    return r.put(f"icmp {sign}{op} {r.kind} {a}, {b}")


def float_extreme(r: Row, op: str, a: str, b: str, number: str = "") -> str:
    """min or max that gives the NaN if there is one. `number`: which operand ("a", "b") is known
    not to be NaN; one compare and select then do, which x86 has as one instruction."""
    order = "ogt" if op == "max" else "olt"
    if number:
        x, y = (a, b) if number == "b" else (b, a)
        made = wasm_call(r, f"p{op}", x, y)
        if made is not None:
            return made
    if number == "b":
        return r.select(r.put(f"fcmp {order} {r.kind} {b}, {a}"), b, a)
    best = r.select(r.put(f"fcmp {order} {r.kind} {a}, {b}"), a, b)  # b where unordered
    if number == "a":
        return best
    return r.select(r.put(f"fcmp uno {r.kind} {a}, {a}"), a, best)


def larger(r: Row, a: str, b: str) -> str:
    """a if a > b else b: max, but that a NaN may get lost. x86 has it as one instruction."""
    made = wasm_call(r, "pmax", b, a)
    if made is not None:
        return made
    return r.select(r.put(f"fcmp ogt {r.kind} {a}, {b}"), a, b)


# The instruction of an architecture for so many lanes, and what it is a part of.
_PAIRS = {
    ("x86_64", 4): ("x86.sse2.pmadd.wd", "sse2"),
    ("x86_64", 8): ("x86.avx2.pmadd.wd", "avx2"),
    ("x86_64", 16): ("x86.avx512.pmaddw.d.512", "avx512bw"),
    ("wasm32", 4): ("wasm.dot", "simd128"),
}


def _dot2(r: Row, a: str, b: str) -> str:
    """low · low + high · high of the two i16 in each lane."""
    lanes = r.shape[0] if r.shape else 0
    target = r.code.target
    name, feature = _PAIRS.get((target.arch, lanes), ("", ""))
    if feature == "sse2" or target.has(feature):
        halves = f"<{2 * lanes} x i16>"
        x, y = (r.put(f"bitcast {r.kind} {v} to {halves}") for v in (a, b))
        return r.put(f"call {r.kind} @llvm.{name}({halves} {x}, {halves} {y})")
    by = r.integer(16)
    low = [r.op("ashr", r.op("shl", v, by), by) for v in (a, b)]
    high = [r.op("ashr", v, by) for v in (a, b)]
    return r.op("add", r.op("mul", *low), r.op("mul", *high))


def _dot4(r: Row, a: str, b: str) -> str:
    """The sum of the products of the four i8 in each lane."""
    arm = r.code.target.arch == "aarch64"
    if arm and r.shape and r.shape[0] % 4 == 0:
        return _arm_dot4(r, a, b)
    products: list[str] = []
    for place in (24, 16, 8, 0):
        x, y = (r.op("ashr", r.op("shl", v, r.integer(place)), r.integer(24)) for v in (a, b))
        products.append(r.op("mul", x, y))
    low, high = (r.op("add", *products[k : k + 2]) for k in (0, 2))
    return r.op("add", low, high)


def _arm_dot4(r: Row, a: str, b: str) -> str:
    """By an instruction that adds to a sum (LLVM gives it the one that this is added to); without
    it, products of i16 whose neighbours are added, twice."""
    if r.shape[0] > 4:
        return in_halves(r, _arm_dot4, a, b)
    x, y = (r.put(f"bitcast <4 x i32> {v} to <16 x i8>") for v in (a, b))
    if r.code.target.has("dotprod"):
        return r.put(
            "call <4 x i32> @llvm.aarch64.neon.sdot.v4i32.v16i8("
            f"<4 x i32> zeroinitializer, <16 x i8> {x}, <16 x i8> {y})"
        )
    wide = [r.put(f"sext <16 x i8> {v} to <16 x i16>") for v in (x, y)]
    products = Row(r.code, r.depth, "i16", (16,)).op("mul", *wide)
    halves = [
        some_lanes(Row(r.code, r.depth, "i16", (16,)), products, h)
        for h in (range(8), range(8, 16))
    ]
    pairs = [
        r.put(f"call <4 x i32> @llvm.aarch64.neon.saddlp.v4i32.v8i16(<8 x i16> {h})")
        for h in halves
    ]
    return r.put(
        f"call <4 x i32> @llvm.aarch64.neon.addp.v4i32(<4 x i32> {pairs[0]}, <4 x i32> {pairs[1]})"
    )


def _shift(r: Row, op: str, a: str, b: str) -> str:
    """Shifting by the width or more shifts everything out (LLVM leaves it undefined)."""
    last = r.integer(r.bits - 1)
    if op == "shr" and r.signed:
        return r.op("ashr", a, r.call("umin", b, last))
    name = "shl" if op == "shl" else "lshr"
    if b.lstrip("splat (i0123456789").rstrip(")") == "" and _literal(b) < r.bits:
        return r.op(name, a, b)
    moved = r.op(name, a, r.call("umin", b, last))
    return r.select(r.put(f"icmp ugt {r.kind} {b}, {last}"), r.integer(0), moved)


def _literal(text: str) -> int:
    return int(text.removeprefix("splat (").rstrip(")").split()[-1])


@dataclass(frozen=True, slots=True)
class Division:
    """What is known of the operands of a division: signs, and a constant divisor."""

    natural: bool = False  # dividend >= 0 and divisor > 0
    divisor: int | None = None


def divide(r: Row, op: str, a: str, b: str, known: Division = Division()) -> str:
    """div (towards zero), floordiv and mod (towards minus infinity) of integers."""
    if not r.signed or known.natural:
        safe = b if known.natural or known.divisor else _nonzero(r, b)
        return r.op("urem" if op == "mod" else "udiv", a, safe)
    if known.divisor is not None and known.divisor > 0:
        return _divide_by_positive(r, op, a, b, known.divisor)
    minus = r.put(f"icmp eq {r.kind} {b}, {r.integer(-1)}")
    zero = r.put(f"icmp eq {r.kind} {b}, {r.integer(0)}")
    either = r.put(f"or {r.bit} {minus}, {zero}")
    safe = r.select(either, r.integer(1), b)
    quotient = r.op("sdiv", a, safe)
    if op == "div":
        return r.select(minus, r.op("sub", r.integer(0), a), quotient)
    rest = r.op("sub", a, r.op("mul", quotient, safe))
    opposite = r.put(f"icmp slt {r.kind} {r.op('xor', rest, safe)}, {r.integer(0)}")
    inexact = r.put(f"icmp ne {r.kind} {rest}, {r.integer(0)}")
    lower = r.put(f"and {r.bit} {opposite}, {inexact}")
    if op == "mod":
        return r.select(lower, r.op("add", rest, safe), rest)
    floor = r.select(lower, r.op("sub", quotient, r.integer(1)), quotient)
    return r.select(minus, r.op("sub", r.integer(0), a), floor)


def _nonzero(r: Row, b: str) -> str:
    zero = r.put(f"icmp eq {r.kind} {b}, {r.integer(0)}")
    return r.select(zero, r.integer(1), b)


def _divide_by_positive(r: Row, op: str, a: str, b: str, divisor: int) -> str:
    if op == "div":
        return r.op("sdiv", a, b)
    if divisor & (divisor - 1) == 0:
        if op == "mod":
            return r.op("and", a, r.integer(divisor - 1))
        return r.op("ashr", a, r.integer(divisor.bit_length() - 1))
    rest = r.op("srem", a, b)
    negative = r.put(f"icmp slt {r.kind} {rest}, {r.integer(0)}")
    if op == "mod":
        return r.select(negative, r.op("add", rest, b), rest)
    quotient = r.op("sdiv", a, b)
    return r.select(negative, r.op("sub", quotient, r.integer(1)), quotient)


# ---- one operand ----


def _negate(r: Row, x: str) -> str:
    if is_float(r.dtype):
        return r.put(f"fneg {r.kind} {x}")
    return r.op("sub", r.integer(0), x)


def _absolute(r: Row, x: str) -> str:
    if is_float(r.dtype):
        return r.call("fabs", x)
    return r.call("abs", x, "i1 false") if r.signed else x


def _invert(r: Row, x: str) -> str:
    if r.dtype == "bool":
        return r.op("xor", x, "splat (i1 true)" if r.shape else "true")
    return r.op("xor", x, r.integer(-1))


def _normal(r: Row, x: str) -> str:
    least = splat_literal(literal(2.0**-126, "f32", r.code.target), r.lane, r.shape)
    small = compare(r, "lt", _absolute(r, x), least)
    return r.select(small, r.call("copysign", _zero(r), x), x)


_REINTERPRET = {"f32": "i32", "i32": "float", "f64": "i64", "i64": "double"}

UNARY: dict[str, Callable[[Row, str], str]] = {
    "neg": _negate,
    "abs": _absolute,
    "not": _invert,
    "isnan": lambda r, x: r.put(f"fcmp uno {r.kind} {x}, {x}"),
    "bits": lambda r, x: r.put(f"bitcast {r.kind} {x} to {vector(_REINTERPRET[r.dtype], r.shape)}"),
    "sqrt": lambda r, x: r.rounded(r.call("sqrt", x)),
    "floor": lambda r, x: r.call("floor", x),
    "ceil": lambda r, x: r.call("ceil", x),
    "trunc": lambda r, x: r.call("trunc", x),
    "round": lambda r, x: r.call("rint", x),
    "normal": _normal,
}


# ---- conversions ----


def cast(r: Row, dtype: str, x: str) -> str:
    """x of r.dtype as `dtype`."""
    to = Row(r.code, r.depth, dtype, r.shape)
    if dtype == "bool":
        return compare(r, "ne", x, _zero(r))
    if r.dtype == "bool":
        name = "uitofp" if is_float(dtype) else "zext"
        return r.put(f"{name} {r.kind} {x} to {to.kind}")
    if is_float(r.dtype):
        return _from_float(r, to, x)
    if is_float(dtype):
        name = "sitofp" if r.signed else "uitofp"
        return to.rounded(r.put(f"{name} {r.kind} {x} to {to.kind}"))
    if dtype == "index" and to.bits < r.bits:
        x = _held(r, to.bits, x)
    if to.bits == r.bits:
        return x
    name = "trunc" if to.bits < r.bits else "sext" if r.signed else "zext"
    return r.put(f"{name} {r.kind} {x} to {to.kind}")


def _held(r: Row, bits: int, x: str) -> str:
    """x within the range of a subscript: what is far out of a tensor stays out of it."""
    most, least = r.integer(2 ** (bits - 1) - 1), r.integer(-(2 ** (bits - 1)))
    if not r.signed:
        return r.call("umin", x, most)
    return r.call("smax", r.call("smin", x, most), least)


def _zero(r: Row) -> str:
    if r.dtype == "bool":
        return "splat (i1 false)" if r.shape else "false"
    if is_float(r.dtype):
        return f"splat ({r.lane} 0.0)" if r.shape else "0.0"
    return r.integer(0)


def _from_float(r: Row, to: Row, x: str) -> str:
    if to.bits <= 16 and not is_float(to.dtype):
        return _to_small(r, to, x)
    if not is_float(to.dtype):
        if to.dtype == "i32" and r.shape and r.code.target.arch == "x86_64":
            return _to_i32(r, to, x)
        name = "fptosi" if to.signed else "fptoui"
        return r.put(f"call {to.kind} @llvm.{name}.sat({r.kind} {x})")
    wide, was_wide = to.dtype == "f64", r.dtype == "f64"
    if wide == was_wide:
        return x if _holds(to.dtype, r.dtype) else to.rounded(x)
    name = "fpext" if wide else "fptrunc"
    return to.rounded(r.put(f"{name} {r.kind} {x} to {to.kind}"))


def _to_small(r: Row, to: Row, x: str) -> str:
    """Held in the range of 8 or 16 bits first, then by way of i32: `fptoui.sat` of such would be a
    lane at a time. NaN becomes 0."""
    low, high = (
        (-(2 ** (to.bits - 1)), 2 ** (to.bits - 1) - 1) if to.signed else (0, 2**to.bits - 1)
    )
    least, most, zero = (f"splat ({r.lane} {v}.0)" if r.shape else f"{v}.0" for v in (low, high, 0))
    if to.signed:
        x = r.select(r.put(f"fcmp uno {r.kind} {x}, {x}"), zero, x)
    x = r.select(r.put(f"fcmp ogt {r.kind} {x}, {least}"), x, least)
    x = r.select(r.put(f"fcmp olt {r.kind} {x}, {most}"), x, most)
    whole = vector("i32", r.shape)
    return r.put(f"trunc {whole} {r.put(f'fptosi {r.kind} {x} to {whole}')} to {to.kind}")


def _to_i32(r: Row, to: Row, x: str) -> str:
    """What `fptosi.sat` gives, which x86 would compute a lane at a time."""
    whole = r.put(f"fptosi {r.kind} {x} to {to.kind}")
    least, most = (f"splat ({r.lane} {v}.0)" for v in (-(2**31), 2**31))
    for test, limit, value in (("oge", most, 2**31 - 1), ("olt", least, -(2**31)), ("uno", x, 0)):
        mask = r.put(f"fcmp {test} {r.kind} {x}, {limit}")
        whole = to.select(mask, to.integer(value), whole)
    return whole


def _holds(outer: str, inner: str) -> bool:
    """Is every value of `inner` one of `outer`?"""
    return outer in ("f32", "f64") or outer == inner


# ---- all lanes to one ----


def reduce(r: Row, op: str, x: str) -> str:
    """One scalar, halves being combined; r.shape is (2^k,)."""
    lanes = r.shape[0]
    while lanes > 1:
        half = lanes // 2
        wide, part = Row(r.code, r.depth, r.dtype, (lanes,)), Row(r.code, r.depth, r.dtype, (half,))
        lower = some_lanes(wide, x, range(half))
        upper = some_lanes(wide, x, range(half, lanes))
        x, lanes = binary(part, op, lower, upper), half
    return r.put(f"extractelement <1 x {r.lane}> {x}, i64 0")


def count_true(r: Row, x: str) -> str | None:
    """How many of a tile's answers are true, as an integer of r's dtype: the bits of a mask, where
    a CPU takes one from a register; None elsewhere."""
    lanes, bits = r.shape[0], int(r.lane[1:]) if r.lane[1:].isdecimal() else 0
    if r.code.target.arch not in ("x86_64", "wasm32") or bits < 32 or lanes > 32:
        return None
    mask = r.put(f"bitcast <{lanes} x i1> {x} to i{lanes}")
    wide = mask if lanes == bits else r.put(f"zext i{lanes} {mask} to i{bits}")
    return r.put(f"call i{bits} @llvm.ctpop.i{bits}(i{bits} {wide})")


def some_lanes(r: Row, x: str, chosen: range) -> str:
    mask = ", ".join(f"i32 {i}" for i in chosen)
    return r.put(f"shufflevector {r.kind} {x}, {r.kind} poison, <{len(chosen)} x i32> <{mask}>")


# ---- rows of many vectors ----

_WASM_VECTORS = {"float": (4, "v4f32"), "double": (2, "v2f64")}


def wasm_call(r: Row, name: str, *rows: str) -> str | None:
    """An operation of WebAssembly's own on rows that are one vector of 128 bits, or 2, 4, … of
    them; None for others, and other targets."""
    if r.code.target.arch != "wasm32" or not r.shape or r.lane not in _WASM_VECTORS:
        return None
    lanes, kind = _WASM_VECTORS[r.lane]
    vectors, rest = divmod(r.shape[0], lanes)
    if rest or vectors & (vectors - 1):
        return None

    def call(part: Row, *xs: str) -> str:
        if part.shape[0] == lanes:
            return part.call(f"wasm.{name}.{kind}", *xs)
        return in_halves(part, call, *xs)

    return call(r, *rows)


def in_halves(r: Row, fn: Callable[..., str], *rows: str) -> str:
    """A function of shorter rows applied to both halves of rows."""
    lanes = r.shape[0]
    part = Row(r.code, r.depth, r.dtype, (lanes // 2,))
    ranges = (range(lanes // 2), range(lanes // 2, lanes))
    low, high = (fn(part, *(some_lanes(r, x, chosen) for x in rows)) for chosen in ranges)
    order = ", ".join(f"i32 {i}" for i in range(lanes))
    return r.put(f"shufflevector {part.kind} {low}, {part.kind} {high}, <{lanes} x i32> <{order}>")
