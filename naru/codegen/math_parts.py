"""What the functions of math.py and math_double.py are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from naru.ir.expr import Call, Expr
from naru.ops import formula as f
from naru.ops.formula import Term


@dataclass(frozen=True)
class Arithmetic:
    """Multiply-add with one rounding (`fused`) or two; of f32 (`relaxed`) one or two, as the
    machine likes."""

    fused: bool
    relaxed: bool = False

    def mad(self, a: Term, b: Term | float, c: Term | float) -> Term:
        """a·b + c."""
        if not (self.fused or (self.relaxed and a.dtype == "f32")):
            return a * b + c
        return Term(Call("fma", (a.expr, _expr(b, a.dtype), _expr(c, a.dtype))))

    def mul(self, a: Term, b: Term | float) -> Term:
        """a·b."""
        return a * b

    def product(self, a: Term, b: Term | float) -> tuple[Term, Term]:
        """a·b exactly, as a rounded product and what is missing (f64; |a|, |b| < 2^900)."""
        p = a * b
        if self.fused:
            return p, Term(Call("fma", (a.expr, _expr(b, a.dtype), (-p).expr)))
        other = b if isinstance(b, Term) else Term(f.number(b, a.dtype))
        (ah, al), (bh, bl) = _halves(a), _halves(other)
        return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def _expr(x: Term | float, dtype: str) -> Expr:
    return x.expr if isinstance(x, Term) else f.number(x, dtype)


def _halves(x: Term) -> tuple[Term, Term]:
    """x as a sum of two f64 of 26 bits (Veltkamp)."""
    big = x * 134217729.0
    high = big - (big - x)
    return high, x - high


def polynomial(m: Arithmetic, x: Term, coefficients: Sequence[float]) -> Term:
    """c0 + c1·x + c2·x² + …, by Horner's rule."""
    total = m.mad(x, coefficients[-1], coefficients[-2])
    for c in coefficients[-3::-1]:
        total = m.mad(total, x, c)
    return total


def bits(x: Term) -> Term:
    """A float's bits as an integer of its width."""
    return f.unary("bits", x)


def as_float(x: Term) -> Term:
    """The float that has these bits."""
    return f.unary("bits", x)


def copy_sign(size: Term, x: Term) -> Term:
    """size >= 0 with the sign of x."""
    top = -(2**31) if x.dtype == "f32" else -(2**63)
    return as_float(bits(size) | (bits(x) & top))


def scale(k: Term) -> Term:
    """2^k as an f64, k being within the range of normal exponents."""
    return as_float((k + 1023) << 52)
