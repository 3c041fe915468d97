"""Transcendental functions of f64, and the parts of f32's that need more than f32."""

from __future__ import annotations

import math
from collections.abc import Callable

from naru.codegen.math_parts import Arithmetic, as_float, bits, copy_sign, polynomial, scale
from naru.ops import formula as f
from naru.ops.formula import Term

_LOG2E = 1.4426950408889634
_LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")  # 32 bits: k times it is exact
_LN2_LOW = 1.9082149292705877e-10
_EXP = (0.5, 0.16666666666666682, 0.041666666666666095, 0.008333333333317035, 0.0013888888889115663,
        0.00019841269896383218, 2.480158692657674e-05, 2.7557234862225876e-06,
        2.755758188666548e-07, 2.5112036804476875e-08, 2.082661756658051e-09)  # fmt: skip
_EXPM1 = (0.5, 0.16666666666666666, 0.04166666666666669, 0.008333333333333312,
          0.0013888888888872314, 0.00019841269841342887, 2.4801587349385276e-05,
          2.755731911738771e-06, 2.7557252462088465e-07, 2.505216786093393e-08,
          2.0921420911527885e-09, 1.6059685890892136e-10)  # fmt: skip


def _reduced(m: Arithmetic, x: Term) -> tuple[Term, Term]:
    """x = k·ln2 + r with |r| <= ln2/2: (k as i64, r). |x| < 2^19."""
    magic = 1.5 * 2**52
    t = m.mad(x, _LOG2E, magic)
    k = t - magic
    r = m.mad(k, -_LN2_LOW, m.mad(k, -_LN2_HIGH, x))
    return bits(t) - bits(Term(f.number(magic, "f64"))), r


def _exp(m: Arithmetic, x: Term) -> Term:
    k, r = _reduced(m, f.minimum(f.maximum(x, -746.0), 710.0))
    return _scaled(m.mad(r * r, polynomial(m, r, _EXP), r) + 1.0, k)


def _scaled(p: Term, k: Term) -> Term:
    """p·2^k in two steps: 2^k itself may be no float."""
    half = k >> 1
    return p * scale(half) * scale(k - half)


# atanh series: log(1+d) = 2s + s·z·P(z), s = d/(2+d), z = s²
_LOG = (0.6666666666666735, 0.3999999999940748, 0.28571428744142335, 0.22222198378387092,
        0.1818357517017413, 0.15313755635700407, 0.14799067401758775)  # fmt: skip
_LOG_SHORT = (0.6666666667589288, 0.39999995586774784, 0.28572113239414837, 0.22176004104028793,
              0.1958699735838103)  # fmt: skip
_SQRT_HALF = 0x3FE6A09E667F3BCD


def _split(x: Term) -> tuple[Term, Term]:
    """x > 0 as mantissa·2^k: k as f64, and the mantissa in sqrt(1/2)..sqrt(2)."""
    tiny = x < 2.0**-1022
    word = bits(f.where(tiny, x * 2.0**54, x)) - _SQRT_HALF
    k = f.cast(word >> 52, "f64") + f.where(tiny, Term(f.number(-54.0, "f64")), 0.0)
    return k, as_float((word & (2**52 - 1)) + _SQRT_HALF)


def _log(m: Arithmetic, x: Term) -> Term:
    k, mantissa = _split(x)
    d = mantissa - 1.0
    s = d / (d + 2.0)
    z = s * s
    half = (d * d) * 0.5
    # log(1+d) = d - (d²/2 - s·(d²/2 + z·P)): d is exact, so the result has its accuracy.
    tail = m.mad(s, half + z * polynomial(m, z, _LOG), k * _LN2_LOW)
    result = m.mad(k, _LN2_HIGH, d - (half - tail))
    result = f.where(x.equals(math.inf), x, result)
    at_most_zero = f.where(x.equals(0.0), Term(f.number(-math.inf, "f64")), math.nan)
    return f.where(x > 0.0, result, at_most_zero)


def _tanh(m: Arithmetic, x: Term) -> Term:
    y = f.minimum(f.absolute(x), 20.0) * 2.0
    k, r = _reduced(m, y)
    small = m.mad(r * r, polynomial(m, r, _EXPM1), r)
    unit = scale(k)
    d = m.mad(unit, small, unit - 1.0)
    return copy_sign(d / (d + 2.0), x)


_ERF_SMALL = (0.1283791670955126, -0.3761263890318375, 0.11283791670954862, -0.026866170645073604,
              0.005223977624786481, -0.0008548326979016906, 0.0001205533104568901,
              -1.4925593696072764e-05, 1.6460975576938703e-06, -1.6350052140550489e-07,
              1.4658047917062814e-08, -1.1366273425859841e-09, 5.946228261722039e-11)  # fmt: skip
# log(erfc(1.625 + u)) for 1 <= 1.625 + u <= 2.25
_ERF_MIDDLE = (-3.837088703777943, -3.733125959072621, -0.9017850296578718, -0.023008967325315193,
               0.005270029324061867, -0.0011028409336126521, 0.00019549045385788542,
               -2.396384379184834e-05, -4.966514965534766e-07, 1.500131904894539e-06,
               -5.830598561692414e-07, 1.527775704576632e-07, -2.594316055087509e-08,
               -2.834322793757495e-10)  # fmt: skip
# log(erfc(3.5 + u)) for 2.25 <= 3.5 + u <= 6
_ERF_LARGE = (-14.112437402139456, -7.266099588262487, -0.9667530544557573, -0.00522565825415829,
              0.0008736863341487931, -0.00014729843586678808, 2.4387493730808372e-05,
              -3.888553103586612e-06, 5.849436074108687e-07, -8.128779278678215e-08,
              9.806490954953964e-09, -6.190900299152634e-10, -1.0131394448955744e-10,
              2.1202588534700963e-11)  # fmt: skip


def _erf(m: Arithmetic, x: Term) -> Term:
    t = f.minimum(f.absolute(x), 6.0)
    near = m.mad(x, polynomial(m, x * x, _ERF_SMALL), x)
    middle, large = (
        polynomial(m, t - centre, table)
        for centre, table in ((1.625, _ERF_MIDDLE), (3.5, _ERF_LARGE))
    )
    far = 1.0 - f.exp(f.where(t < 2.25, middle, large))
    return f.where(t > 1.0, copy_sign(far, x), near)


# ---- sine and cosine ----

# pi/2 in parts of 33 bits: an integer below 2^20 times a part is exact.
_HALF_PI = (
    float.fromhex("0x1.921fb54400000p+0"),
    float.fromhex("0x1.0b4611a600000p-34"),
    float.fromhex("0x1.3198a2e037073p-69"),
)
_HALF_PI_FUSED = (math.pi / 2, 6.123233995736766e-17, -1.4973849048591833e-33)
_SIN = (-0.1666666666666663, 0.008333333333322108, -0.00019841269829580347,
        2.7557313618067145e-06, -2.5050747224366404e-08, 1.5896197917885736e-10)  # fmt: skip
_COS = (0.041666666666666595, -0.001388888888887304, 2.4801587288841692e-05,
        -2.755731417631997e-07, 2.087570042635416e-09, -1.1358514453144678e-11)  # fmt: skip


def _turns(m: Arithmetic, x: Term) -> tuple[Term, Term, tuple[float, float, float]]:
    """The nearest multiple k·pi/2: k as i64 (its low bits) and as f64, and the parts of pi/2."""
    magic = 1.5 * 2**52
    t = m.mad(x, 2 / math.pi, magic)
    return bits(t), t - magic, _HALF_PI_FUSED if m.fused else _HALF_PI


def quarter_turns(m: Arithmetic, x: Term) -> tuple[Term, Term]:
    """x = k·pi/2 + r for an f64 that was an f32: the low bits of k as i64, and r."""
    low, k, (first, second, third) = _turns(m, x)
    r = m.mad(k, -second, m.mad(k, -first, x))
    r = r if m.fused else m.mad(k, -third, r)
    return low, f.minimum(f.maximum(r, -0.8), 0.8)


def _circular(quarter: int) -> Callable[[Arithmetic, Term], Term]:
    """sin (quarter 0) or cos (1)."""

    def function(m: Arithmetic, x: Term) -> Term:
        low, k, (first, second, third) = _turns(m, x)
        q = low + quarter
        # r + rest, the second subtraction's rounding error being kept in rest
        a = m.mad(k, -first, x)
        p, missing = m.product(k, second)
        r = a - p
        rest = m.mad(k, -third, ((a - r) - p) - missing)
        if not m.fused:  # the parts of pi/2 are shorter, so the rest may be several units
            r, whole = r + rest, r
            rest = rest - (r - whole)
        r = f.minimum(f.maximum(r, -0.8), 0.8)  # beyond the range of the reduction, sane at least
        rest = f.minimum(f.maximum(rest, -1e-9), 1e-9)
        square = r * r
        sine = r + m.mad(r * square, polynomial(m, square, _SIN), rest)
        half = square * 0.5
        high = 1.0 - half
        low_part = ((1.0 - high) - half) - r * rest
        cosine = high + m.mad(square * square, polynomial(m, square, _COS), low_part)
        value = f.where((q & 1).differs(0), cosine, sine)
        flipped = as_float(bits(value) ^ ((q & 2) << 62))
        return flipped if quarter else f.where(x.equals(0.0), x, flipped)

    return function


FUNCTIONS: dict[str, Callable[[Arithmetic, Term], Term]] = {
    "exp": _exp,
    "log": _log,
    "tanh": _tanh,
    "erf": _erf,
    "sin": _circular(0),
    "cos": _circular(1),
}


# ---- powers, remainder ----

_EXP_SHORT = (0.500000006768183, 0.1666666586916481, 0.041666294947088345, 0.008333497021047914,
              0.0013944659684623584, 0.00019790370619869973)  # fmt: skip


def power_for_single(m: Arithmetic, x: Term, y: Term) -> Term:
    """x^y for x >= 0, accurate enough to round to f32."""
    k, mantissa = _split(x)
    d = mantissa - 1.0
    s = d / (d + 2.0)
    z = s * s
    log = m.mad(k, math.log(2.0), m.mad(s * z, polynomial(m, z, _LOG_SHORT), s * 2.0))
    t = _log_ends(x, log) * y
    k2, r = _reduced(m, f.minimum(f.maximum(t, -160.0), 160.0))
    return (m.mad(r * r, polynomial(m, r, _EXP_SHORT), r) + 1.0) * scale(k2)


def _log_ends(x: Term, log: Term) -> Term:
    log = f.where(x.equals(0.0), Term(f.number(-math.inf, "f64")), log)
    return f.where(x < math.inf, log, x)  # of infinity infinity, of NaN NaN


def power(m: Arithmetic, x: Term, y: Term) -> Term:
    """x^y for x >= 0: the logarithm is a sum of two f64."""
    y = f.minimum(f.maximum(y, -(2.0**64)), 2.0**64)  # enough for every x but 1
    high, low = _long_log(m, x)
    t, missing = m.product(high, y)
    rest = m.mad(low, y, missing)
    ends = _log_ends(x, high) * y
    usable = f.absolute(ends) < 800.0
    t = f.where(usable, t, ends)
    rest = f.where(usable, rest, 0.0)
    k, r = _reduced(m, f.minimum(f.maximum(t, -746.0), 710.0))
    r = r + rest
    return _scaled(m.mad(r * r, polynomial(m, r, _EXP), r) + 1.0, k)


# P to 2^-73, without its first coefficient, which is 2/3
_LOG_LONG = (0.39999999999999974, 0.28571428571445334, 0.22222222217481652, 0.1818181887704442,
             0.1538455641151637, 0.1333633511191405, 0.11674459020081947,
             0.11992009953213077)  # fmt: skip
_TWO_THIRDS, _TWO_THIRDS_LOW = 2 / 3, 3.700743415417188e-17


def _long_log(m: Arithmetic, x: Term) -> tuple[Term, Term]:
    """log x to about 2^-64 of itself, as a sum of two f64: k·ln2 + 2s + 2/3·s³ + …, the first three
    with what rounding cut off."""
    k, mantissa = _split(x)
    d, whole = mantissa - 1.0, mantissa + 1.0
    whole_rest = mantissa - (whole - 1.0)
    s = d / whole
    p, missing = m.product(s, whole)
    s_rest = (((d - p) - missing) - s * whole_rest) / whole
    z, z_rest = m.product(s, s)
    cube, cube_rest = m.product(s, z)
    third, third_rest = m.product(cube, _TWO_THIRDS)
    third_rest = third_rest + (cube_rest + s * z_rest) * _TWO_THIRDS + cube * _TWO_THIRDS_LOW
    small = m.mad(s * (z * z), polynomial(m, z, _LOG_LONG), k * _LN2_LOW)
    small = small + (s_rest * 2.0) * (z + 1.0) + third_rest
    base, twice = k * _LN2_HIGH, s * 2.0  # exact both
    total = base + twice
    error = f.where(k.equals(0.0), Term(f.number(0.0, "f64")), twice - (total - base))
    upper = total + third
    low = error + (third - (upper - total)) + small
    high = upper + low
    return high, (upper - high) + low


def modulo(m: Arithmetic, x: Term, y: Term) -> Term:
    """x - floor(x/y)·y, with the sign of y. Exact while |x/y| < 2^53 if multiply-add is fused, else
    while the product has no more than 53 bits (of f32 operands, |x/y| < 2^29)."""
    quotient = f.floor(x / y)
    rest = m.mad(quotient, -y, x)
    # The quotient may be one off when x/y was rounded to an integer.
    low = f.where(y > 0.0, rest, -rest) < 0.0
    rest = f.where(low, rest + y, rest)
    high = f.where(y > 0.0, rest - y, y - rest)
    rest = f.where(high < 0.0, rest, rest - y)
    at_infinity = f.absolute(y).equals(math.inf) & (f.absolute(x) < math.inf)
    across = x.differs(0.0) & ((x < 0.0) ^ (y < 0.0))
    return f.where(at_infinity, f.where(across, y, x), rest)
