"""Transcendental functions as loop-IR expressions: polynomials that vectorise on every target.

`expansion` rewrites one node. The expression is the same for AVX2, AVX-512 and NEON, so results are
equal bit by bit; targets without fused multiply-add get another one, the same for all of them.
Largest errors in ulp (f32 / f64), measured by tests/codegen/test_math.py:

    exp 1 / 1    log 1 / 1    tanh 2 / 2    erf 1.5 / 1.5    pow 1 / 2
    sin, cos 2 / 1 for |x| <= 1e6; far beyond, where pi/2 has too few digits here, the result is
    wrong but within [-1, 1] (from about 1e15 with fused multiply-add, 1e7 without)

f16 and bf16 are computed in f32. Coefficients are minimax fits (Remez) made for this project.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from naru.codegen import math_double as double
from naru.codegen.math_parts import SCALE, Arithmetic, as_float, bits, copy_sign, polynomial
from naru.dtypes import DTYPES, is_float
from naru.ir.expr import Binary, Const, Expr, Splat, Unary
from naru.ops import formula as f
from naru.ops.formula import Term
from naru.targets import Target

LN2 = math.log(2.0)


def expansion(e: Expr, target: Target) -> Expr | None:
    """What stands for e on a target; None where e is an instruction or a sequence of them."""
    if isinstance(e, Unary) and is_float(e.x.dtype):
        return _unary(e, target)
    if isinstance(e, Binary) and e.op == "pow":
        return _power(e, target)
    if isinstance(e, Binary) and e.op == "mod" and is_float(e.dtype):
        return _modulo(_arithmetic(target), Term(e.a), Term(e.b))
    return None


def _arithmetic(target: Target) -> Arithmetic:
    return Arithmetic(target.has_fma)


def _unary(e: Unary, target: Target) -> Expr | None:
    if e.op in ROUNDING:
        return None if has_rounding(target) else _rounding(e)
    if e.op not in SINGLE:
        return None
    x = Term(e.x)
    if e.x.dtype in ("f16", "bf16"):
        return f.cast(f.unary(e.op, f.cast(x, "f32")), e.dtype).expr
    table = SINGLE if e.x.dtype == "f32" else double.FUNCTIONS
    return table[e.op](_arithmetic(target), x).expr


# ---- f32 ----

_LOG2E = 1.4426950408889634
_LN2_HIGH = 355 / 512  # 9 bits: a multiple of it by an integer below 2^15 is exact
_LN2_LOW = LN2 - _LN2_HIGH
_EXP = (0.4999999403953552, 0.16666515171527863, 0.041668083518743515, 0.00836935080587864,
        0.0013840463943779469)  # fmt: skip
_EXPM1 = (0.5, 0.1666666567325592, 0.04166646674275398, 0.008333642035722733,
          0.001393499318510294, 0.0001966573909157887)  # fmt: skip


def _reduced(m: Arithmetic, x: Term) -> tuple[Term, Term, Term]:
    """x = k·ln2 + r with |r| <= ln2/2: (k as float, k as i32, r). |x| <= 2^14."""
    magic = 1.5 * 2**23
    t = m.mad(x, _LOG2E, magic)
    k = t - magic
    r = m.mad(k, -_LN2_LOW, m.mad(k, -_LN2_HIGH, x))
    return k, bits(t) - bits(Term(f.number(magic, "f32"))), r


def exp_parts(m: Arithmetic, x: Term) -> tuple[Term, Term, Term]:
    """exp(x) = p·2^k: p in f32, k as float and as i32, within -150..129."""
    inside = f.minimum(f.maximum(x, -105.0), 90.0)
    k, whole, r = _reduced(m, inside)
    p = m.mad(m.mul(r, r), polynomial(m, r, _EXP), r) + 1.0
    return p, k, whole


def exp_as_product(e: Expr, target: Target) -> tuple[Expr, Expr]:
    """exp of an f32 as p·2^k: p and k, both f32; the product overflows and underflows as exp."""
    if not isinstance(e, Unary):
        raise TypeError(f"expected exp, got {type(e).__name__}")
    p, k, _ = exp_parts(_arithmetic(target), Term(e.x))
    return p.expr, k.expr


def _exp(m: Arithmetic, x: Term) -> Term:
    p, _, k = exp_parts(m, x)
    # In two steps: 2^k itself may be no float. p·2^(k/2) is exact, so there is one rounding.
    half = k >> 1
    return p * SCALE["f32"](half) * SCALE["f32"](k - half)


_LOG = (0.3333331346511841, -0.2500017583370209, 0.20002229511737823, -0.16658906638622284,
        0.1420908123254776, -0.12557977437973022, 0.1211506798863411, -0.10871008038520813,
        0.052949342876672745)  # fmt: skip
_SQRT_HALF = 0x3F3504F3


def _log(m: Arithmetic, x: Term) -> Term:
    tiny = x < 2.0**-126
    word = bits(f.where(tiny, x * 2.0**23, x)) - _SQRT_HALF
    k = f.cast(word >> 23, "f32") + f.where(tiny, Term(f.number(-23.0, "f32")), 0.0)
    d = as_float((word & 0x7FFFFF) + _SQRT_HALF) - 1.0  # mantissa in sqrt(1/2)..sqrt(2), less 1
    square = d * d
    tail = m.mad(square * d, polynomial(m, d, _LOG), m.mul(square, -0.5))
    result = m.mad(k, _LN2_HIGH, d + m.mad(k, _LN2_LOW, tail))
    return _log_edges(x, result)


def _log_edges(x: Term, result: Term) -> Term:
    result = f.where(x.equals(math.inf), x, result)
    at_most_zero = f.where(x.equals(0.0), Term(f.number(-math.inf, x.dtype)), math.nan)
    return f.where(x > 0.0, result, at_most_zero)


_TANH = (-0.33333316445350647, 0.13332544267177582, -0.0538475476205349, 0.02105071395635605,
         -0.0062428489327430725)  # fmt: skip


def _tanh(m: Arithmetic, x: Term) -> Term:
    """A polynomial near 0; else tanh |x| = d / (d + 2) with d = exp(2|x|) - 1."""
    y = f.minimum(f.absolute(x), 9.5) * 2.0
    _, k, r = _reduced(m, y)
    small = m.mad(m.mul(r, r), polynomial(m, r, _EXPM1), r)
    scale = SCALE["f32"](k)
    d = m.mad(scale, small, scale - 1.0)
    size = f.absolute(x)
    square = size * size
    near = m.mad(size * square, polynomial(m, square, _TANH), size)
    return copy_sign(f.where(y > 1.1, d / (d + 2.0), near), x)


_ERF_SMALL = (0.12837916612625122, -0.3761262893676758, 0.1128363236784935, -0.026856476441025734,
              0.005195040721446276, -0.0008086567395366728, 8.173375681508332e-05)  # fmt: skip
# log(erfc t) + t
_ERF_LARGE = (0.0001764916378306225, -0.1295236051082611, -0.6333293914794922, -0.1082993671298027,
              0.025131916627287865, -0.004175825044512749, 0.000435451976954937,
              -2.118144402629696e-05)  # fmt: skip


def _erf(m: Arithmetic, x: Term) -> Term:
    t = f.minimum(f.absolute(x), 4.0)
    near = m.mad(x, polynomial(m, x * x, _ERF_SMALL), x)
    far = 1.0 - f.exp(polynomial(m, t, _ERF_LARGE) - t)
    return f.where(t > 0.92, copy_sign(far, x), near)


_SIN = (-0.1666666716337204, 0.008333379402756691, -0.00019853064441122115, 2.832509835570818e-06)
_COS = (0.04166664555668831, -0.0013887309469282627, 2.4432327336398885e-05)


def _circular(quarter: int) -> Callable[[Arithmetic, Term], Term]:
    """sin (quarter 0) or cos (1). The subtraction of multiples of pi/2 is done in f64."""

    def function(m: Arithmetic, x: Term) -> Term:
        turns, reduced = double.quarter_turns(m, f.cast(x, "f64"))
        q = f.cast(turns, "i32") + quarter
        r = f.cast(reduced, "f32")
        square = r * r
        sine = m.mad(r * square, polynomial(m, square, _SIN), r)
        cosine = m.mad(square * square, polynomial(m, square, _COS), m.mad(square, -0.5, 1.0))
        value = f.where((q & 1).differs(0), cosine, sine)
        flipped = as_float(bits(value) ^ ((q & 2) << 30))
        return flipped if quarter else f.where(x.equals(0.0), x, flipped)

    return function


SINGLE: dict[str, Callable[[Arithmetic, Term], Term]] = {
    "exp": _exp,
    "log": _log,
    "tanh": _tanh,
    "erf": _erf,
    "sin": _circular(0),
    "cos": _circular(1),
}


# ---- powers ----


def _constant(e: Expr) -> float | None:
    e = e.x if isinstance(e, Splat) else e
    return e.value if isinstance(e, Const) else None


def _power(e: Binary, target: Target) -> Expr:
    x, y, fixed = Term(e.a), Term(e.b), _constant(e.b)
    if fixed in (1, 2, 3):  # 3: two roundings, within 1 ulp
        product = x
        for _ in range(int(fixed) - 1):
            product = product * x
        return product.expr
    if not is_float(e.dtype):
        return _integer_power(x, y).expr
    if fixed == -1.0:
        return (1.0 / x).expr
    if fixed == 0.5:  # of -inf +inf, of -0 +0
        root = f.sqrt(x + 0.0)
        return f.where(x.equals(-math.inf), Term(f.number(math.inf, e.dtype)), root).expr
    m = _arithmetic(target)
    if e.dtype == "f64":
        return power_edges(x, y, double.power(m, f.absolute(x), y)).expr
    if e.dtype != "f32":
        wide = Term(Binary("pow", f.cast(x, "f32").expr, f.cast(y, "f32").expr))
        return f.cast(wide, e.dtype).expr
    magnitude = double.power_for_single(m, f.cast(f.absolute(x), "f64"), f.cast(y, "f64"))
    return power_edges(x, y, f.cast(magnitude, "f32")).expr


def power_edges(x: Term, y: Term, magnitude: Term) -> Term:
    """x^y from |x|^y: signs, and where one operand decides alone (as IEEE 754 has it)."""
    one = Term(f.number(1.0, x.dtype))
    whole = f.floor(y).equals(y)
    odd = whole & f.floor(y * 0.5).differs(y * 0.5)
    # -1 to an infinite power is 1.
    unit = f.absolute(x).equals(1.0) & ~f.isnan(y)
    magnitude = f.where(unit, one, magnitude)
    signed = f.where(odd, copy_sign(magnitude, x), magnitude)
    finite = (x < 0.0) & (x > -math.inf) & ~whole & ~f.isnan(y)
    result = f.where(finite, Term(f.number(math.nan, x.dtype)), signed)
    return f.where(x.equals(1.0) | y.equals(0.0), one, result)


def _integer_power(x: Term, y: Term) -> Term:
    """By squaring; wraps. A negative exponent gives 0 unless |x| is 1."""
    if x.dtype == "index":  # subscripts are kept as polynomials, and a square of squares has no end
        return f.cast(_integer_power(f.cast(x, "i64"), f.cast(y, "i64")), "index")
    one = Term(f.number(1, x.dtype))
    result, square = one, x
    width = DTYPES[x.dtype].bits
    for bit in range(width):
        result = f.where(((y >> bit) & 1).differs(0), result * square, result)
        square = square * square
    if DTYPES[x.dtype].kind == "u":
        return result
    # Parity is all that counts for -1, and 1 is 1: the loop above has them right.
    return f.where((y < 0) & f.absolute(x).differs(1), Term(f.number(0, x.dtype)), result)


# ---- rounding, remainder ----

ROUNDING = ("floor", "ceil", "round", "trunc")


def has_rounding(target: Target) -> bool:
    """Whether floor and its like are instructions (SSE2 has none: they would be library calls)."""
    return target.arch != "x86_64" or target.has("sse4.1")


def _rounding(e: Unary) -> Expr:
    x = Term(e.x)
    if e.dtype in ("f16", "bf16"):
        return f.cast(f.unary(e.op, f.cast(x, "f32")), e.dtype).expr
    size = f.absolute(x)
    large = 2.0 ** (52 if e.dtype == "f64" else 23)  # whole from here on
    nearest = f.where(size < large, (size + large) - large, size)
    if e.op == "trunc":
        return copy_sign(f.where(nearest > size, nearest - 1.0, nearest), x).expr
    nearest = copy_sign(nearest, x)
    if e.op == "floor":
        return f.where(nearest > x, nearest - 1.0, nearest).expr
    if e.op == "ceil":
        return copy_sign(f.where(nearest < x, nearest + 1.0, nearest), x).expr
    return nearest.expr


def _modulo(m: Arithmetic, a: Term, b: Term) -> Expr:
    """Floats of any width by way of f64."""
    return f.cast(double.modulo(m, f.cast(a, "f64"), f.cast(b, "f64")), a.dtype).expr


__all__ = ["exp_as_product", "expansion", "has_rounding"]
