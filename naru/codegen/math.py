"""Transcendental functions as loop-IR expressions: polynomials that vectorise on every target.

`expansion` rewrites one node. The expression is the same for AVX2, AVX-512 and NEON, so results are
equal bit by bit; targets without fused multiply-add get another one, the same for all of them.
Largest errors in ulp (f32 / f64), measured by tests/codegen/test_math.py:

    exp 1 / 1    log 1 / 1    tanh 7 / 2    erf 7 / 1.5    pow 1 / 2
    1 / (1 + exp x), the sigmoid of -x, and its multiples, of f32: 7, and 5 for |x| < 30; 0 where
    it is no normal number
    a·(1 + erf x), and half of it, of f32: 7e-7 |a|, half of that; 0 for x < -3.95
    sin, cos 2 / 1 for |x| <= 1e6; far beyond, where pi/2 has too few digits here, the result is
    wrong but within [-1, 1] (from about 1e15 with fused multiply-add, 1e7 without)

exp of an f32 is 0 where it is below 1.7e-38. f16 and bf16 are computed in f32. Coefficients are
minimax fits made for this project.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from naru.codegen import math_double as double
from naru.codegen.math_parts import Arithmetic, as_float, bits, copy_sign, polynomial
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
    if isinstance(e, Binary) and e.op in ("div", "mul") and e.dtype == "f32":
        m = _arithmetic(target)
        return _quotient(e, m) or _beside_erf(e, m)
    if isinstance(e, Binary) and e.op == "pow":
        return _power(e, target)
    if isinstance(e, Binary) and e.op == "mod" and is_float(e.dtype):
        return _modulo(_arithmetic(target), Term(e.a), Term(e.b))
    return None


def is_chain(e: Expr) -> bool:
    """Is it a function whose operations wait for each other, a dozen and more?"""
    return isinstance(e, Unary) and e.op in SINGLE and is_float(e.dtype)


def _arithmetic(target: Target) -> Arithmetic:
    return Arithmetic(target.has_fma, target.has_multiply_add)


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


def _exp(m: Arithmetic, x: Term) -> Term:
    """2·p·2^(k-1) with x = k·ln2 + r: 2^k is no float for k = 128. Results below 1.7e-38 are 0, for
    which k is such that the bits of 2^(k-1) are 0."""
    r, power = _reduced(m, f.minimum(f.maximum(x, -87.6), 89.0), 126)
    p = m.mad(m.mul(r, r), polynomial(m, r, _EXP), r)
    return m.mad(p, 2.0, 2.0) * power


def _reduced(m: Arithmetic, x: Term, bias: int, *, roughly: bool = False) -> tuple[Term, Term]:
    """x less k times ln2, and the float whose exponent's bits are k + bias: 0 has none of them,
    infinity has all. `roughly`: with ln2 as one float, which is off by 1.9e-9 (times k)."""
    magic = 1.5 * 2**23 + bias  # a float this large is whole, so that adding it rounds
    t = m.mad(x, _LOG2E, magic)
    k = t - magic
    power = as_float(bits(t) << 23)
    if roughly:
        return m.mad(k, -LN2, x), power
    return m.mad(k, -_LN2_LOW, m.mad(k, -_LN2_HIGH, x)), power


# What is added to 1 needs not be as exact, and 2^128 may be infinite.
_EXP_BESIDE_ONE = (1.0, 0.9999997019767761, 0.4999915063381195, 0.16667647659778595,
                   0.04189785569906235, 0.008289726451039314)  # fmt: skip


def _quotient(e: Binary, m: Arithmetic) -> Expr | None:
    """1 / (1 + exp(x)), the sigmoid of -x; what is multiplied with it becomes the numerator, which
    saves a rounding and a multiplication."""
    for above, below in ((e.a, e.b), (e.b, e.a)) if e.op == "mul" else ((e.a, e),):
        x = _of_sigmoid(below)
        if x is not None:
            r, power = _reduced(m, f.minimum(f.maximum(x, -88.3), 88.9), 127, roughly=m.fused)
            return (Term(above) / m.mad(polynomial(m, r, _EXP_BESIDE_ONE), power, 1.0)).expr
    return None


def _of_sigmoid(e: Expr) -> Term | None:
    """The x of 1 / (1 + exp(x))."""
    if not (isinstance(e, Binary) and e.op == "div" and _constant(e.a) == 1.0):
        return None
    if not (isinstance(e.b, Binary) and e.b.op == "add"):
        return None
    for one, power in ((e.b.a, e.b.b), (e.b.b, e.b.a)):
        if _constant(one) == 1.0 and isinstance(power, Unary) and power.op == "exp":
            return Term(power.x)
    return None


def _beside_erf(e: Binary, m: Arithmetic) -> Expr | None:
    """a·(1 + erf(x)), or half of it (a GELU), as one quotient: erf's own two sides are added, and 1
    to nothing that was rounded."""
    found, half = _times_erf(e), False
    for a, b in ((e.a, e.b), (e.b, e.a)) if found is None and e.op == "mul" else ():
        if _constant(a) == 0.5 and isinstance(b, Binary):
            found, half = found or _times_erf(b), True
    if found is None:
        return None
    t, above, below = _odd_parts(m, found[1], ERF_TOP, _ERF)
    total = f.maximum(m.mad(t, above, below), 0.0)
    # (A product of a and the sum would overflow for large a.)
    return (found[0] * (total / (below + below if half else below))).expr


def _times_erf(e: Binary) -> tuple[Term, Term] | None:
    """(a, x) of a·(1 + erf(x))."""
    for a, b in ((e.a, e.b), (e.b, e.a)) if e.op == "mul" else ():
        x = _of_one_and_erf(b)
        if x is not None:
            return Term(a), x
    return None


def _of_one_and_erf(e: Expr) -> Term | None:
    """The x of 1 + erf(x)."""
    if not (isinstance(e, Binary) and e.op == "add"):
        return None
    for one, function in ((e.a, e.b), (e.b, e.a)):
        if _constant(one) == 1.0 and isinstance(function, Unary) and function.op == "erf":
            return Term(function.x)
    return None


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


# tanh x / x and erf x / x as quotients of polynomials in x², up to where the result is 1
_TANH = ((1.7567566633224487, 0.2100788652896881, 0.002938648918643594, -3.414275488466956e-05,
          -1.873023336429469e-07, 2.675743793201235e-10, -3.4727169057058305e-13),
         (1.7567567825317383, 0.7956638336181641, 0.03392661362886429, -5.311781023920048e-06,
          -3.99210466639488e-06))  # fmt: skip
_ERF = ((1.5553333759307861, 0.2530537545681, 0.07154876738786697, 0.004812123719602823,
         0.0003886376798618585, 2.956289335998008e-06),
        (1.3783783912658691, 0.6837224960327148, 0.15347814559936523, 0.019869515672326088,
         0.0015191311249509454, 5.3645515436073765e-05))  # fmt: skip
ERF_TOP = 3.95


Quotient = tuple[tuple[float, ...], tuple[float, ...]]


def _odd(m: Arithmetic, x: Term, top: float, quotient: Quotient) -> Term:
    """x·P(x²)/Q(x²) within [-1, 1]; from |x| = `top` on it is ±1, with fused multiply-add and
    without: what is multiplied with 1 - erf x must vanish."""
    t, above, below = _odd_parts(m, x, top, quotient)
    return f.minimum(f.maximum(t * above / below, -1.0), 1.0)


def _odd_parts(m: Arithmetic, x: Term, top: float, quotient: Quotient) -> tuple[Term, Term, Term]:
    """x within ±`top`, P and Q."""
    t = f.minimum(f.maximum(x, -top), top)
    square = t * t
    above, below = (polynomial(m, square, c) for c in quotient)
    return t, above, below


def _tanh(m: Arithmetic, x: Term) -> Term:
    return _odd(m, x, 8.895, _TANH)


def _erf(m: Arithmetic, x: Term) -> Term:
    return _odd(m, x, ERF_TOP, _ERF)


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


__all__ = ["expansion", "has_rounding", "is_chain"]
