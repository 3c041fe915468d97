"""The rules of index arithmetic keep the value, and the bounds hold it."""

from __future__ import annotations

from hypothesis import given

from naru.ir import simplify
from naru.ir.expr import Binary, Const, Expr, Lanes, Load, Var
from naru.ir.loop import Buffer
from naru.ir.simplify import (
    INF,
    add,
    bounds,
    ceildiv,
    compare,
    evaluate,
    floordiv,
    maximum,
    minimum,
    mod,
    mul,
    prod,
    round_up,
    select,
    sub,
    substitute,
)
from naru.ir.text import print_expr
from naru.ir.text_expr import canonical
from tests.ir.strategies import (
    COMPARE,
    DETERMINISTIC,
    VARS,
    J,
    K,
    M,
    N,
    Term,
    divisors,
    environments,
    terms,
)


@DETERMINISTIC
@given(terms, environments)
def test_value_is_kept(t: Term, env: dict[Var, int]) -> None:
    assert evaluate(t.expr, env) == t.value(env), print_expr(t.expr)


@DETERMINISTIC
@given(terms, environments)
def test_bounds_hold_the_value(t: Term, env: dict[Var, int]) -> None:
    lo, hi = bounds(t.expr)
    assert lo <= t.value(env) <= hi, print_expr(t.expr)


@DETERMINISTIC
@given(terms)
def test_canonical_form_is_stable(t: Term) -> None:
    assert canonical(t.expr) is t.expr, print_expr(t.expr)


@DETERMINISTIC
@given(terms, divisors, environments)
def test_floordiv_and_mod_belong_together(a: Term, b: Term, env: dict[Var, int]) -> None:
    q, r = floordiv(a.expr, b.expr), mod(a.expr, b.expr)
    assert evaluate(add(mul(q, b.expr), r), env) == a.value(env)
    assert 0 <= evaluate(r, env) < b.value(env)


@DETERMINISTIC
@given(terms, terms, environments)
def test_substitute(t: Term, by: Term, env: dict[Var, int]) -> None:
    lo, hi = bounds(by.expr)
    if not (K.lo <= lo and hi <= K.hi):  # what is put in must keep the promise of the bounds
        return
    changed = substitute(t.expr, {K: by.expr})
    assert evaluate(changed, env) == t.value({**env, K: by.value(env)})


@DETERMINISTIC
@given(terms, terms, environments)
def test_compare(a: Term, b: Term, env: dict[Var, int]) -> None:
    for op, mean in COMPARE.items():
        chosen = select(compare(op, a.expr, b.expr), Const(1), Const(0))
        assert evaluate(chosen, env) == mean(a.value(env), b.value(env))


@DETERMINISTIC
@given(terms, environments)
def test_round_up(t: Term, env: dict[Var, int]) -> None:
    for size in (1, 4, 7):
        value = t.value(env)
        assert evaluate(round_up(t.expr, size), env) == -(-value // size) * size


def test_equal_sizes_are_one_object() -> None:
    assert add(N, M, 1) is add(1, M, N)
    assert mul(add(N, 1), 2) is add(mul(2, N), 2)
    assert sub(add(N, M), M) is N
    assert sub(N, N) is Const(0)
    assert prod([]) is Const(1)
    assert floordiv(add(mul(4, K), J), 4) is K
    assert mod(add(mul(4, K), J), 4) is J
    assert floordiv(mul(N, M), M) is N
    assert mod(mul(N, M), M) is Const(0)


def test_decided_by_ranges() -> None:
    assert minimum(J, 3) is J
    assert maximum(J, 3) is Const(3)
    assert compare("lt", J, 4) is simplify.TRUE
    assert compare("ge", J, 4) is simplify.FALSE
    assert compare("eq", N, M) is Binary("eq", N, M)
    assert ceildiv(J, 4) is not Const(0)  # 0 for j = 0, else 1
    assert evaluate(ceildiv(J, 4), {J: 3}) == 1


def test_nothing_is_known_of_what_changes() -> None:
    k = Var("k", mutable=True)
    x = Buffer("x", "index", (N,))
    assert bounds(k) == (-INF, INF)
    assert bounds(Load(x, (K,))) == (-INF, INF)
    assert bounds(add(Lanes(8), 1)) == (1, 8)


def test_bounds_of_products() -> None:
    assert bounds(mul(K, K)) == (-16, 16)  # each factor on its own: wide, but right
    assert bounds(mul(K, -3)) == (-12, 12)
    assert bounds(sub(0, N)) == (-9, 0)


def test_zero_over_a_symbol() -> None:
    # A divisor is assumed to be positive, so 0 // n is 0 whatever n is.
    n = Var("n")
    expected: tuple[Expr, Expr] = (Const(0), Const(1))
    assert (mod(n, n), floordiv(n, n)) == expected
    assert floordiv(mul(n, M), n) is M
    assert mod(mul(n, M), n) is Const(0)


def test_vars_of_one_name_are_two() -> None:
    a, b = Var("i"), Var("i")
    assert sub(a, b) is not Const(0)
    assert sub(add(a, b), add(b, a)) is Const(0)
    assert sub(mul(a, b), mul(b, a)) is Const(0)
    assert VARS[0] is N


def test_nested_maxima_without_repetition() -> None:
    both = maximum(N, M)
    assert maximum(both, N) is both
    assert maximum(N, both) is both
    assert minimum(minimum(N, K), N) is minimum(N, K)
    assert maximum(maximum(K, N), maximum(N, J)) is not both


def test_a_formula_of_nested_maxima_takes_linear_time() -> None:
    # Every operand appears twice below: a tree of 2**60 nodes.
    n, m = Var("n"), Var("m")
    size: Expr = n
    for k in range(60):
        size = maximum(add(size, mul(n, k + 1)), add(floordiv(size, 2), mul(m, k + 3)))
    assert evaluate(size, {n: 1, m: 0}) == 1 + sum(range(1, 61))
    assert bounds(size)[0] == 0


def test_division_by_zero_is_left_to_the_run() -> None:
    assert floordiv(N, 0) is Binary("floordiv", N, Const(0))
    assert mod(1, 0) is Binary("mod", Const(1), Const(0))
