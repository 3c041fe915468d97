"""Transcendentals: errors in ulp on dense grids, edges, and equal bits on targets with FMA.

The grids take every exponent (uniform in the bits) and the interval where the function varies
(uniform in value). Bounds are those that naru/codegen/math.py states.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import scipy.special
from codegen.native import X86, Native, runnable

from naru.codegen.math import expansion
from naru.ir.expr import Binary, Const, Expr, Load, Unary, Var
from naru.ir.loop import Buffer, For, Func, Store
from naru.ir.simplify import floordiv, index, mul
from naru.targets import TARGETS, Target

LANES = 16
Function = Callable[..., np.ndarray]


@functools.lru_cache(maxsize=256)
def compiled(op: str, dtype: str, target: Target, constant: float | None = None) -> Native:
    """A loop that applies a function of one or two operands, 16 lanes a round."""
    n, i = Var("n"), Var("i")
    count = 2 if op in ("pow", "mod") and constant is None else 1
    inputs = [Buffer(f"x{k}", dtype, (n,)) for k in range(count)]
    out = Buffer("out", dtype, (n,))
    at = (mul(i, LANES),)
    xs: list[Expr] = [Load(x, at, (LANES,)) for x in inputs]
    if constant is not None:
        xs.append(Const(constant, dtype))
    value = Binary(op, *xs) if len(xs) == 2 else Unary(op, xs[0])
    loop = For(i, index(0), floordiv(n, LANES), (Store(out, at, value),))
    return Native(Func("apply", (*inputs, out, n), (loop,)), target)


def apply(op: str, target: Target, *xs: np.ndarray, constant: float | None = None) -> np.ndarray:
    """The compiled function of arrays whose length is a multiple of 16."""
    dtype = {"float32": "f32", "float64": "f64", "int32": "i32", "int64": "i64"}[str(xs[0].dtype)]
    out = np.zeros_like(xs[0])
    compiled(op, dtype, target, constant)(*xs, out, out.size)
    return out


def errors(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Distances in units of the exact value's last place; infinite where only one is finite."""
    kind = got.dtype
    with np.errstate(all="ignore"):
        rounded = exact.astype(kind)
        unit = np.spacing(np.maximum(np.abs(rounded), np.finfo(kind).tiny)).astype(exact.dtype)
        off = np.abs(got.astype(exact.dtype) - exact) / unit
    equal = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    # A result next to the largest float may round either way to infinity.
    return np.where(
        equal, np.minimum(np.nan_to_num(off), 0.5), np.where(np.isnan(off), np.inf, off)
    )


def grid(dtype: type, low: float, high: float, count: int) -> np.ndarray:
    """Half of the points uniform in value, half in the bits; a multiple of 16 of them."""
    word = {np.float32: np.int32, np.float64: np.int64}[dtype]
    top = int(np.array(max(abs(low), abs(high)), dtype).view(word))
    steps = np.arange(count // 4, dtype=np.int64) * (top // (count // 4))
    patterns = steps.astype(word).view(dtype)
    every = np.concatenate([np.linspace(low, high, count // 2).astype(dtype), patterns, -patterns])
    every = every[(every >= low) & (every <= high)]
    return np.ascontiguousarray(every[: every.size // LANES * LANES])


SINGLE: list[tuple[str, Function, float, float, float]] = [
    ("exp", np.exp, -86.9, 90.0, 1.0),
    ("log", np.log, 0.0, 3.4e38, 1.0),
    ("log", np.log, 0.4, 2.5, 1.0),
    ("tanh", np.tanh, -12.0, 12.0, 7.0),
    ("tanh", np.tanh, -0.7, 0.7, 4.0),
    ("erf", scipy.special.erf, -5.0, 5.0, 7.0),
    ("sin", np.sin, -1e4, 1e4, 2.0),
    ("cos", np.cos, -1e4, 1e4, 2.0),
    ("sin", np.sin, -1e6, 1e6, 2.0),
    ("cos", np.cos, -1e6, 1e6, 2.0),
]


@pytest.mark.parametrize(("op", "reference", "low", "high", "bound"), SINGLE)
@pytest.mark.parametrize("name", X86)
def test_single(
    name: str, op: str, reference: Function, low: float, high: float, bound: float
) -> None:
    target = runnable(name)
    x = grid(np.float32, low, high, 1_000_000)
    with np.errstate(all="ignore"):
        exact = reference(x.astype(np.float64))
    off = errors(apply(op, target, x), exact)
    worst = int(np.argmax(off))
    assert off[worst] <= bound, f"{op}({x[worst]!r}): {off[worst]:.2f} ulp"


@np.vectorize
def exact_erf(x: float) -> np.longdouble:
    """erf to 25 digits."""
    with mpmath.workdps(25):
        return np.longdouble(mpmath.nstr(mpmath.erf(float(x)), 22))


DOUBLE: list[tuple[str, Function, float, float, float, int]] = [
    ("exp", np.exp, -746.0, 710.0, 1.0, 200_000),
    ("log", np.log, 0.0, 1.7e308, 1.0, 200_000),
    ("log", np.log, 0.4, 2.5, 1.0, 200_000),
    ("tanh", np.tanh, -21.0, 21.0, 2.0, 200_000),
    ("erf", exact_erf, -6.0, 6.0, 1.5, 8_000),
    ("sin", np.sin, -1e4, 1e4, 1.0, 200_000),
    ("cos", np.cos, -1e4, 1e4, 1.0, 200_000),
    ("sin", np.sin, -1e6, 1e6, 1.0, 200_000),
    ("cos", np.cos, -1e6, 1e6, 1.0, 200_000),
]


@pytest.mark.parametrize(("op", "reference", "low", "high", "bound", "count"), DOUBLE)
@pytest.mark.parametrize("name", X86)
def test_double(
    name: str, op: str, reference: Function, low: float, high: float, bound: float, count: int
) -> None:
    if np.finfo(np.longdouble).nmant < 63:
        pytest.skip("no wider float to compare with")
    target = runnable(name)
    x = grid(np.float64, low, high, count)
    with np.errstate(all="ignore"):
        exact = reference(x.astype(np.longdouble)).astype(np.longdouble)
    off = errors(apply(op, target, x), exact)
    worst = int(np.argmax(off))
    assert off[worst] <= bound, f"{op}({x[worst]!r}): {off[worst]:.2f} ulp"


def power_operands(dtype: type, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    reach = 38.0 if dtype is np.float32 else 308.0
    x = 10.0 ** rng.uniform(-reach, reach, count)
    x[: count // 2] = rng.uniform(0.1, 10.0, count // 2)
    with np.errstate(all="ignore"):
        y = rng.uniform(-1.1, 1.1, count) * reach / np.abs(np.log10(x))
    y[::7] = rng.integers(-8, 9, y[::7].size)
    x[::14] *= -1.0
    return x.astype(dtype), y.astype(dtype)


@pytest.mark.parametrize("name", X86)
@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 1.0), (np.float64, 2.0)])
def test_power(name: str, dtype: type, bound: float) -> None:
    target = runnable(name)
    x, y = power_operands(dtype, 160_000)
    wide = np.float64 if dtype is np.float32 else np.longdouble
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(wide), y.astype(wide))
    off = errors(apply("pow", target, x, y), exact)
    worst = int(np.argmax(off))
    assert off[worst] <= bound, f"pow({x[worst]!r}, {y[worst]!r}): {off[worst]:.2f} ulp"


@pytest.mark.parametrize("name", X86)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_power_edges(name: str, dtype: type) -> None:
    """Every pair of special values, as C's pow has them."""
    target = runnable(name)
    special = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 0.5, -0.5, 1.5, np.inf, -np.inf, np.nan]
    special += [1e30, -1e30]
    x, y = (np.ascontiguousarray(a.reshape(-1)) for a in np.meshgrid(special, special))
    x, y = x.astype(dtype), y.astype(dtype)
    with np.errstate(all="ignore"):
        want = np.power(x, y)
    got = apply("pow", target, x, y)
    np.testing.assert_allclose(got, want, rtol=1e-6 if dtype is np.float32 else 1e-14)
    zeros = want == 0
    np.testing.assert_array_equal(np.signbit(got[zeros]), np.signbit(want[zeros]))


@pytest.mark.parametrize("name", X86)
@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0, -1.0, 0.5])
def test_power_with_constant(name: str, exponent: float) -> None:
    target = runnable(name)
    x = np.array([0.0, -0.0, 1.0, -2.0, np.inf, -np.inf, np.nan, 0.3] * 2, np.float32)
    with np.errstate(all="ignore"):
        want = np.power(x, np.full_like(x, exponent))  # a scalar 0.5 would be sqrt
    np.testing.assert_allclose(apply("pow", target, x, constant=exponent), want, rtol=3e-7)


@pytest.mark.parametrize("name", X86)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_integer_power(name: str, dtype: type) -> None:
    target = runnable(name)
    x = np.array([0, 1, -1, 2, 3, -3, 7, -2, 10, 5, -1, -1, 1, 2, 6, 3], dtype)
    y = np.array([5, 9, 3, 31, 7, 5, 40, 3, 2, 0, -3, -4, -9, -1, 1, 20], dtype)
    want = np.where(y < 0, 0, np.power(x, np.maximum(y, 0)))
    want = np.where((y < 0) & (np.abs(x) == 1), np.where(y % 2 == 0, 1, x), want)
    np.testing.assert_array_equal(apply("pow", target, x, y), want)


@pytest.mark.parametrize("name", X86)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_modulo(name: str, dtype: type) -> None:
    target = runnable(name)
    rng = np.random.default_rng(1)
    x = (rng.standard_normal(4096) * 10.0 ** rng.integers(-2, 5, 4096)).astype(dtype)
    y = (rng.standard_normal(4096) * 10.0 ** rng.integers(-1, 2, 4096)).astype(dtype)
    edges = [(0.0, 3.0), (5.0, np.inf), (-5.0, np.inf), (6.0, 3.0), (-6.0, 3.0), (1.0, 0.0)]
    for k, (a, b) in enumerate([*edges, (np.inf, 2.0), (np.nan, 2.0), (2.0, np.nan)]):
        x[k], y[k] = a, b
    with np.errstate(all="ignore"):
        want = np.mod(x, y)
    got = apply("mod", target, x, y)
    if dtype is np.float32 or target.has_fma:
        np.testing.assert_array_equal(got, want)
    else:
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


FLUSHED = 1.7e-38  # exp of an f32 is 0 below
EDGES = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 1e-40, 1.0, -1.0, 3e38, -3e38]
EDGES += [88.7, 88.73, -103.9, -104.1]


@pytest.mark.parametrize("name", X86)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("op", ["exp", "log", "tanh", "erf"])
def test_edges(name: str, dtype: type, op: str) -> None:
    target = runnable(name)
    x = np.array(EDGES, dtype)
    with np.errstate(all="ignore"):
        want = {"erf": scipy.special.erf}.get(op, getattr(np, op, None))(x)  # type: ignore[misc]
    got = apply(op, target, x)
    flushed = op == "exp" and dtype is np.float32
    tiny = FLUSHED if flushed else 2e-45
    np.testing.assert_allclose(got, want, rtol=4e-7 if dtype is np.float32 else 1e-15, atol=tiny)
    zeros = want == 0
    np.testing.assert_array_equal(np.signbit(got[zeros]), np.signbit(want[zeros]))


@pytest.mark.parametrize("name", X86)
def test_exp_of_f32_has_no_subnormal_results(name: str) -> None:
    x = grid(np.float32, -110.0, -86.0, 200_000)
    got = apply("exp", runnable(name), x)
    assert ((got == 0) | (got >= np.finfo(np.float32).tiny)).all()
    np.testing.assert_allclose(got, np.exp(x.astype(np.float64)), rtol=2e-7, atol=FLUSHED)


@pytest.mark.parametrize("name", X86)
@pytest.mark.parametrize("op", ["tanh", "erf"])
def test_sigmoids_end_at_one(name: str, op: str) -> None:
    x = grid(np.float32, -100.0, 100.0, 200_000)
    target = runnable(name)
    got = apply(op, target, x)
    assert (np.abs(got) <= 1).all()
    far = np.abs(x) >= 9
    np.testing.assert_array_equal(got[far], np.sign(x[far]))  # or 1 + erf(-1e9) is large


@pytest.mark.parametrize("name", X86)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_circular_edges(name: str, dtype: type) -> None:
    """Infinities give NaN, a zero keeps its sign, huge arguments stay within [-1, 1]."""
    target = runnable(name)
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 1e30, -3e38] * 2, dtype)
    sine, cosine = apply("sin", target, x)[:8], apply("cos", target, x)[:8]
    assert np.isnan(sine[:3]).all()
    assert np.isnan(cosine[:3]).all()
    np.testing.assert_array_equal(np.signbit(sine[3:5]), [False, True])
    np.testing.assert_array_equal(sine[3:6], x[3:6])
    np.testing.assert_array_equal(cosine[3:6], 1.0)
    assert (np.abs(sine[6:]) <= 1).all()
    assert (np.abs(cosine[6:]) <= 1).all()


@functools.lru_cache(maxsize=16)
def compiled_sigmoid(target: Target, *, times: bool) -> Native:
    """1 / (1 + exp(-x)), or x times that, 16 lanes a round."""
    n, i = Var("n"), Var("i")
    x, out = Buffer("x", "f32", (n,)), Buffer("out", "f32", (n,))
    at, one = (mul(i, LANES),), Const(1.0, "f32")
    value = Load(x, at, (LANES,))
    made: Expr = Binary("div", one, Binary("add", one, Unary("exp", Unary("neg", value))))
    store = Store(out, at, Binary("mul", value, made) if times else made)
    return Native(
        Func("apply", (x, out, n), (For(i, index(0), floordiv(n, LANES), (store,)),)), target
    )


@pytest.mark.parametrize("name", X86)
@pytest.mark.parametrize("times", [False, True])
@pytest.mark.parametrize(("low", "high", "bound"), [(-87.0, 90.0, 7.0), (-30.0, 30.0, 5.0)])
def test_sigmoid(name: str, low: float, high: float, bound: float, *, times: bool) -> None:
    x = grid(np.float32, low, high, 500_000)
    exact = 1 / (1 + np.exp(-x.astype(np.float64)))
    exact = x * exact if times else exact
    got = np.zeros_like(x)
    compiled_sigmoid(runnable(name), times=times)(x, got, x.size)
    off = errors(got, exact)
    worst = int(np.argmax(off))
    assert off[worst] <= bound, f"sigmoid({x[worst]!r}): {off[worst]:.2f} ulp"


@pytest.mark.parametrize("name", X86)
@pytest.mark.parametrize("times", [False, True])
def test_sigmoid_edges(name: str, *, times: bool) -> None:
    """Also that minus infinity times 0 is no number."""
    x = np.array([*EDGES[:12], 88.3, -88.3, -1000.0, -1e30], np.float32)
    got = np.zeros_like(x)
    compiled_sigmoid(runnable(name), times=times)(x, got, x.size)
    with np.errstate(all="ignore"):
        want = 1 / (1 + np.exp(-x.astype(np.float64)))
        want = (x * want if times else want).astype(np.float32)
    np.testing.assert_allclose(got, want, rtol=7e-7, atol=1e-36)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(want))


GELUS = ("half last", "half first", "whole")


@functools.lru_cache(maxsize=16)
def compiled_gelu(target: Target, form: str) -> Native:
    """x (1 + erf x), or half of it, as exporters write them."""
    n, i = Var("n"), Var("i")
    x, out = Buffer("x", "f32", (n,)), Buffer("out", "f32", (n,))
    at, half, one = (mul(i, LANES),), Const(0.5, "f32"), Const(1.0, "f32")
    value = Load(x, at, (LANES,))
    sides = (Unary("erf", value), one)
    sum_ = Binary("add", *(sides if form == "half last" else sides[::-1]))
    first: Expr = Binary("mul", half, value) if form == "half first" else value
    made = Binary("mul", first, sum_)
    store = Store(out, at, Binary("mul", made, half) if form == "half last" else made)
    return Native(
        Func("apply", (x, out, n), (For(i, index(0), floordiv(n, LANES), (store,)),)), target
    )


@pytest.mark.parametrize("name", X86)
@pytest.mark.parametrize("form", GELUS)
def test_gelu(name: str, form: str) -> None:
    """Errors are those of a rounding of 1 + erf x, which is up to 2."""
    x = grid(np.float32, -9.0, 9.0, 500_000)
    exact = x.astype(np.float64) * (1 + scipy.special.erf(x.astype(np.float64)))
    exact = exact if form == "whole" else exact / 2
    got = np.zeros_like(x)
    compiled_gelu(runnable(name), form)(x, got, x.size)
    limit = 3.5e-7 * np.abs(x) * (2 if form == "whole" else 1)
    assert (np.abs(got - exact) <= limit + 1e-45).all()


@pytest.mark.parametrize("name", X86)
@pytest.mark.parametrize("form", GELUS)
def test_gelu_edges(name: str, form: str) -> None:
    """Far below zero nothing is left, however large x is; minus infinity times 0 is no number."""
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5e38, -1e30, -3.95, -6.0] * 16, np.float32)
    got = np.zeros_like(x)
    compiled_gelu(runnable(name), form)(x, got, x.size)
    with np.errstate(all="ignore"):
        want = x * (1 + scipy.special.erf(x.astype(np.float64))) / (1 if form == "whole" else 2)
    np.testing.assert_allclose(got[:7], want[:7], rtol=3e-7)
    np.testing.assert_array_equal(got[6:9], 0.0)


@pytest.mark.parametrize("op", ["exp", "log", "tanh", "erf", "sin", "cos"])
def test_targets_with_fma_agree_bit_by_bit(op: str) -> None:
    x = grid(np.float32, -90.0, 90.0, 200_000)
    first, second = (apply(op, runnable(t), x) for t in ("x86-64-avx512", "x86-64-avx2"))
    np.testing.assert_array_equal(first.view(np.int32), second.view(np.int32))


def test_instructions_are_left_alone() -> None:
    x = Var("x", dtype="f32")
    avx2, sse2 = TARGETS["x86-64-avx2"], TARGETS["x86-64-baseline"]
    assert expansion(Unary("sqrt", x), sse2) is None
    assert expansion(Unary("floor", x), avx2) is None
    assert expansion(Unary("floor", x), sse2) is not None
    assert expansion(Binary("mul", x, x), sse2) is None
