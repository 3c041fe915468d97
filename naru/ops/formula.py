"""Scalar expressions written as one writes them on paper: `1 / (1 + exp(-x))`.

A `Term` wraps an `Expr` and gives it operators; a Python number takes the dtype of the other
operand. For values of tensors only: index arithmetic is `naru.ir.simplify`'s.
"""

from __future__ import annotations

import math

from naru.dtypes import DTYPES, is_float
from naru.ir.expr import Binary, Cast, Const, Expr, Select, Unary


def number(value: float | bool, dtype: str) -> Const:
    """A constant of a dtype: bool, int or float as the dtype wants it."""
    if dtype == "bool":
        return Const(bool(value), dtype)
    return Const(float(value) if is_float(dtype) else int(value), dtype)


class Term:
    """A scalar expression with operators. Comparisons give bool terms; `&`, `|`, `^` are bitwise
    (logical on bool); `/` of integers truncates."""

    __slots__ = ("expr",)

    def __init__(self, expr: Expr) -> None:
        self.expr = expr

    @property
    def dtype(self) -> str:
        return self.expr.dtype

    def _with(self, op: str, other: Term | float, swap: bool = False) -> Term:
        b = other.expr if isinstance(other, Term) else number(other, self.dtype)
        return Term(Binary(op, b, self.expr) if swap else Binary(op, self.expr, b))

    def __add__(self, other: Term | float) -> Term:
        return self._with("add", other)

    def __radd__(self, other: float) -> Term:
        return self._with("add", other, swap=True)

    def __sub__(self, other: Term | float) -> Term:
        return self._with("sub", other)

    def __rsub__(self, other: float) -> Term:
        return self._with("sub", other, swap=True)

    def __mul__(self, other: Term | float) -> Term:
        return self._with("mul", other)

    def __rmul__(self, other: float) -> Term:
        return self._with("mul", other, swap=True)

    def __truediv__(self, other: Term | float) -> Term:
        return self._with("div", other)

    def __rtruediv__(self, other: float) -> Term:
        return self._with("div", other, swap=True)

    def __mod__(self, other: Term | float) -> Term:
        return self._with("mod", other)

    def __pow__(self, other: Term | float) -> Term:
        return self._with("pow", other)

    def __and__(self, other: Term | float) -> Term:
        return self._with("and", other)

    def __or__(self, other: Term | float) -> Term:
        return self._with("or", other)

    def __xor__(self, other: Term | float) -> Term:
        return self._with("xor", other)

    def __lshift__(self, other: Term | float) -> Term:
        return self._with("shl", other)

    def __rshift__(self, other: Term | float) -> Term:
        return self._with("shr", other)

    def __lt__(self, other: Term | float) -> Term:
        return self._with("lt", other)

    def __le__(self, other: Term | float) -> Term:
        return self._with("le", other)

    def __gt__(self, other: Term | float) -> Term:
        return self._with("gt", other)

    def __ge__(self, other: Term | float) -> Term:
        return self._with("ge", other)

    def equals(self, other: Term | float) -> Term:
        """self == other (Python's `==` stays the identity of objects)."""
        return self._with("eq", other)

    def differs(self, other: Term | float) -> Term:
        """self != other; true where either is NaN."""
        return self._with("ne", other)

    def __neg__(self) -> Term:
        return Term(Unary("neg", self.expr))

    def __invert__(self) -> Term:
        """Not, on bool; every bit turned, on integers."""
        if self.dtype == "bool":
            return Term(Unary("not", self.expr))
        unsigned = DTYPES[self.dtype].kind == "u"
        return self ^ (2 ** DTYPES[self.dtype].bits - 1 if unsigned else -1)


def unary(op: str, x: Term) -> Term:
    """A `Unary` of the IR by name."""
    return Term(Unary(op, x.expr))


def exp(x: Term) -> Term:
    return unary("exp", x)


def log(x: Term) -> Term:
    return unary("log", x)


def log1p(x: Term) -> Term:
    """log(1 + x) to a few ULP also where x is small: what 1 + x lost in rounding is put back as the
    factor x / ((1 + x) - 1). (W. Kahan; needs arithmetic that is not reassociated.)"""
    u = 1 + x
    lost = where((u - 1).equals(0), x, log(u) * (x / (u - 1)))
    return where(u.equals(math.inf), u, lost)


def sqrt(x: Term) -> Term:
    return unary("sqrt", x)


def sin(x: Term) -> Term:
    return unary("sin", x)


def cos(x: Term) -> Term:
    return unary("cos", x)


def tanh(x: Term) -> Term:
    return unary("tanh", x)


def erf(x: Term) -> Term:
    return unary("erf", x)


def floor(x: Term) -> Term:
    return unary("floor", x)


def ceil(x: Term) -> Term:
    return unary("ceil", x)


def rint(x: Term) -> Term:
    """To the nearest integer, halves to even."""
    return unary("round", x)


def trunc(x: Term) -> Term:
    return unary("trunc", x)


def normal(x: Term) -> Term:
    """x, or a zero of its sign where it is smaller than every normal f32."""
    return unary("normal", x)


def absolute(x: Term) -> Term:
    """|x|; of an unsigned integer, x."""
    return x if DTYPES[x.dtype].kind == "u" else unary("abs", x)


def isnan(x: Term) -> Term:
    return unary("isnan", x)


def minimum(a: Term, b: Term | float) -> Term:
    """The smaller; NaN if there is one."""
    return a._with("min", b)  # pyright: ignore[reportPrivateUsage]


def maximum(a: Term, b: Term | float) -> Term:
    """The larger; NaN if there is one."""
    return a._with("max", b)  # pyright: ignore[reportPrivateUsage]


def where(cond: Term, a: Term | float, b: Term | float) -> Term:
    """a where cond, else b; at least one of them is a Term."""
    if isinstance(a, Term):
        other = b.expr if isinstance(b, Term) else number(b, a.dtype)
        return Term(Select(cond.expr, a.expr, other))
    if not isinstance(b, Term):
        raise TypeError("where: a dtype is needed; make one side a Term")
    return Term(Select(cond.expr, number(a, b.dtype), b.expr))


def cast(x: Term, dtype: str) -> Term:
    """Value conversion; nothing where the dtype is right already."""
    return x if x.dtype == dtype else Term(Cast(x.expr, dtype))
