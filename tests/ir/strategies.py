"""Random index expressions and loop IR for the property tests. Small, and the same in every run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st

from naru.ir import simplify
from naru.ir.expr import Const, Expr, Var

# Deterministic and bounded: the same examples on every machine.
DETERMINISTIC = settings(derandomize=True, deadline=None, max_examples=300, database=None)

N = Var("n", lo=0, hi=9)
M = Var("m", lo=1, hi=5)
K = Var("k", lo=-4, hi=4)
J = Var("j", lo=0, hi=3)
VARS = (N, M, K, J)


@dataclass(frozen=True)
class Term:
    """An index expression as `simplify` builds it, and its meaning in plain Python."""

    expr: Expr
    value: Callable[[Mapping[Var, int]], int]
    text: str

    def __repr__(self) -> str:
        return self.text


def _leaf_const(c: int) -> Term:
    return Term(Const(c), lambda env: c, str(c))


def _leaf_var(v: Var) -> Term:
    return Term(v, lambda env: env[v], v.name)


BINARY: Mapping[str, tuple[Callable[..., Expr], Callable[[int, int], int]]] = {
    "+": (simplify.add, lambda a, b: a + b),
    "-": (simplify.sub, lambda a, b: a - b),
    "*": (simplify.mul, lambda a, b: a * b),
    "min": (simplify.minimum, min),
    "max": (simplify.maximum, max),
}
DIVISION: Mapping[str, tuple[Callable[..., Expr], Callable[[int, int], int]]] = {
    "//": (simplify.floordiv, lambda a, b: a // b),
    "%": (simplify.mod, lambda a, b: a % b),
    "ceildiv": (simplify.ceildiv, lambda a, b: -(-a // b)),
}
COMPARE: Mapping[str, Callable[[int, int], bool]] = {
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}


def _binary(op: str, a: Term, b: Term) -> Term:
    make, mean = {**BINARY, **DIVISION}[op]
    return Term(
        make(a.expr, b.expr),
        lambda env: mean(a.value(env), b.value(env)),
        f"({a.text} {op} {b.text})",
    )


def _select(op: str, a: Term, b: Term, c: Term, d: Term) -> Term:
    mean = COMPARE[op]
    return Term(
        simplify.select(simplify.compare(op, a.expr, b.expr), c.expr, d.expr),
        lambda env: (c if mean(a.value(env), b.value(env)) else d).value(env),
        f"({c.text} if {a.text} {op} {b.text} else {d.text})",
    )


leaves = st.one_of(
    st.integers(-9, 9).map(_leaf_const),
    st.sampled_from(VARS).map(_leaf_var),
)
# Divisors are positive, as the rules assume: constants, or a symbol that is at least 1.
divisors = st.one_of(st.integers(1, 7).map(_leaf_const), st.just(_leaf_var(M)))


def _extend(inner: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
    return st.one_of(
        st.builds(_binary, st.sampled_from(sorted(BINARY)), inner, inner),
        st.builds(_binary, st.sampled_from(sorted(DIVISION)), inner, divisors),
        st.builds(_select, st.sampled_from(sorted(COMPARE)), inner, inner, inner, inner),
    )


terms = st.recursive(leaves, _extend, max_leaves=9)
environments = st.fixed_dictionaries({v: st.integers(v.lo, v.hi) for v in VARS})
