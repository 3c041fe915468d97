"""Elementwise ops: one line each, the meaning in numpy and the formula that is compiled.

Operands broadcast by numpy's rule. Half floats are computed in f32 and rounded once at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from naru.dtypes import DTYPES, is_float, is_float_array
from naru.errors import ModelError
from naru.ir.expr import Const, Expr
from naru.ir.graph import Node, TensorType
from naru.ir.tensor import Tensor
from naru.ops import formula as f
from naru.ops.formula import Term
from naru.ops.operands import (
    broadcast_dims,
    broadcast_read,
    check_kind,
    check_same_dtype,
    compute_dtype,
    given,
    operand,
)
from naru.ops.registry import Arrays, Attrs, Emit, Op, Sample, Types, register
from naru.ops.samples import edges, one_operand, random, two_operands
from naru.ops.values import RULES, ValueRule, combine, with_value

Array = np.ndarray
ResultDType = Callable[[Sequence[TensorType], Attrs], str]
ArrayFn = Callable[[Sequence[Any], Attrs], Array]
TermFn = Callable[[Sequence[Any], Attrs], Term]
DTypesOf = Callable[[str, Sequence[TensorType]], None]

INV_SQRT2, SQRT_2_OVER_PI = math.sqrt(0.5), math.sqrt(2 / math.pi)
SELU_ALPHA, SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875
_erf = np.frompyfunc(math.erf, 1, 1)


def first_dtype(types: Sequence[TensorType], attrs: Attrs) -> str:
    """The result has the dtype of the first operand."""
    return types[0].dtype


def boolean(types: Sequence[TensorType], attrs: Attrs) -> str:
    """The result is bool."""
    return "bool"


def infer_elementwise(
    name: str, arity: int, optional: int, check: DTypesOf, result: ResultDType, defaults: Attrs
) -> Callable[[Types, Attrs], tuple[TensorType, ...]]:
    """infer of an op whose operands broadcast; the last `optional` of them may be left out."""

    def infer(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        for i in range(arity - optional):
            operand(name, types, i)
        if len(types) > arity:
            raise ModelError(f"{name}: expected {arity} operands, got {len(types)}")
        given = [t for t in types if t is not None]
        check(name, given)
        shape = broadcast_dims(name, *(t.shape for t in given))
        out = TensorType(result(given, {**defaults, **attrs}), shape)
        rule = _value_rule(name, attrs)
        if rule is None or len(given) != len(types):
            return (out,)
        return (with_value(out, combine(rule, given)),)

    return infer


def _value_rule(name: str, attrs: Attrs) -> ValueRule | None:
    if name == "cast":
        return RULES["identity"] if attrs["to"] in ("i64", "i32") else None
    if name == "mod":
        return None if attrs.get("fmod") else RULES["floor_mod"]
    return RULES.get(name)


def _ref(fn: ArrayFn, defaults: Attrs, result: str | None) -> Callable[[Arrays, Attrs], Any]:
    def ref(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
        first = next(a for a in arrays if a is not None)
        wide = [a if a is None else _widen(a) for a in arrays]
        with np.errstate(all="ignore"):
            out = fn(wide, {**defaults, **attrs})
            return (np.asarray(out).astype(result or out.dtype if result else first.dtype),)

    return ref


def _widen(a: Array) -> Array:
    return a.astype(np.float32) if is_float_array(a.dtype) and a.dtype.itemsize <= 2 else a


def lower_elementwise(
    name: str, fn: TermFn, defaults: Attrs
) -> Callable[[Emit, Node, Sequence[Tensor | None]], Sequence[Tensor]]:
    """lower of an op that computes element by element."""

    def lower(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
        def value(*at: Expr) -> Expr:
            terms = [None if t is None else _term(t, n.inputs[k], at) for k, t in enumerate(ins)]
            return f.cast(fn(terms, {**defaults, **dict(n.attrs)}), n.type.dtype).expr

        return (e.stage(f"{name}_{len(e.stages)}", n.type.shape, value, n.type.dtype),)

    return lower


def _term(t: Tensor, source: Node | None, at: Sequence[Expr]) -> Term:
    """The operand's element, widened; a constant of one element as the number itself."""
    dtype = compute_dtype(t.dtype)
    data = None if source is None else source.data
    if data is not None and data.size == 1:
        return Term(f.number(data.reshape(-1)[0].item(), dtype))
    return f.cast(Term(broadcast_read(t, at)), dtype)


def elementwise(
    name: str,
    arity: int,
    ref: ArrayFn,
    formula: TermFn,
    check: DTypesOf,
    result: ResultDType = first_dtype,
    defaults: Attrs | None = None,
    samples: Callable[[], Iterable[Sample]] | None = None,
    optional: int = 0,
) -> Op:
    """Registers an op of `arity` operands, the last `optional` of which may be left out. `ref` and
    `formula` get the operands and the attributes (over `defaults`)."""
    defaults = defaults or {}
    kept = "bool" if result is boolean else None
    return register(
        Op(
            name,
            "elementwise",
            infer_elementwise(name, arity, optional, check, result, defaults),
            _ref(ref, defaults, kept),
            lower_elementwise(name, formula, defaults),
            samples=samples,
        )
    )


def all_of(kinds: str) -> DTypesOf:
    """The check: operands have one dtype, of one of the kinds."""

    def check(op: str, types: Sequence[TensorType]) -> None:
        check_kind(op, check_same_dtype(op, types), kinds)

    return check


def unary(
    name: str,
    ref: Callable[[Array], Array],
    formula: Callable[[Term], Term],
    kinds: str = "f",
    result: ResultDType = first_dtype,
) -> Op:
    """An op of one operand without attributes."""
    return elementwise(
        name,
        1,
        lambda xs, a: ref(xs[0]),
        lambda xs, a: formula(xs[0]),
        all_of(kinds),
        result,
        samples=lambda: one_operand(kinds),
    )


def unary_with(
    name: str,
    ref: Callable[[Array, Attrs], Array],
    formula: Callable[[Term, Attrs], Term],
    defaults: Attrs,
    *others: Attrs,
    kinds: str = "f",
    result: ResultDType = first_dtype,
) -> Op:
    """An op of one operand and attributes with defaults; `others` are further settings to test."""
    return elementwise(
        name,
        1,
        lambda xs, a: ref(xs[0], a),
        lambda xs, a: formula(xs[0], a),
        all_of(kinds),
        result,
        defaults,
        lambda: [s for attrs in (defaults, *others) for s in one_operand(kinds, attrs)],
    )


def binary(
    name: str,
    ref: Callable[[Array, Array], Array],
    formula: Callable[[Term, Term], Term],
    kinds: str,
    result: ResultDType = first_dtype,
) -> Op:
    """An op of two broadcast operands of one dtype, without attributes."""
    return elementwise(
        name,
        2,
        lambda xs, a: ref(xs[0], xs[1]),
        lambda xs, a: formula(xs[0], xs[1]),
        all_of(kinds),
        result,
        samples=lambda: two_operands(kinds),
    )


def binary_with(
    name: str,
    ref: Callable[[Array, Array, Attrs], Array],
    formula: Callable[[Term, Term, Attrs], Term],
    defaults: Attrs,
    *others: Attrs,
    kinds: str,
) -> Op:
    """An op of two operands and attributes with defaults; `others` are further settings to test."""
    return elementwise(
        name,
        2,
        lambda xs, a: ref(xs[0], xs[1], a),
        lambda xs, a: formula(xs[0], xs[1], a),
        all_of(kinds),
        defaults=defaults,
        samples=lambda: [s for attrs in (defaults, *others) for s in two_operands(kinds, attrs)],
    )


# --- meanings in numpy that numpy has no word for -------------------------------------------------


def _np_erf(x: Array) -> Array:
    return np.asarray(_erf(x)).astype(x.dtype)


def _np_sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _np_softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _np_gelu(x: Array, a: Attrs) -> Array:
    if a["approximate"] == "tanh":
        return 0.5 * x * (1 + np.tanh(SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1 + _np_erf(x * x.dtype.type(INV_SQRT2)))


def _np_div(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return a / b
    # Truncating, in the operands' own width; numpy's // rounds down. Division by 0 gives 0.
    quotient = np.floor_divide(a, b)
    inexact = (quotient * b != a) & (b != 0)
    return np.where(inexact & ((a < 0) != (b < 0)), quotient + a.dtype.type(1), quotient)


def _np_mod(a: Array, b: Array, attrs: Attrs) -> Array:
    return np.fmod(a, b) if attrs["fmod"] else np.mod(a, b)


def _np_pow(a: Array, b: Array) -> Array:
    # (Of one exponent 0.5 numpy makes a square root, which for -inf is another thing.)
    shape, kind = np.broadcast_shapes(a.shape, b.shape), a.dtype if a.dtype.kind == "f" else "f8"
    exponents = np.broadcast_to(b, shape).astype(kind)
    return _np_cast(np.power(a.astype(kind), exponents), a.dtype)


def _np_cast(x: Array, dtype: np.dtype) -> Array:
    """Float to integer truncates and saturates, NaN gives 0; the rest is numpy's."""
    if x.dtype.kind != "f" or dtype.kind not in "iu":
        return x.astype(dtype)
    info = np.iinfo(dtype)
    inside = np.where(
        np.isnan(x) | (x >= 2.0 ** (info.bits - (info.min < 0))) | (x < info.min), 0, x
    )
    low = np.where(x < info.min, dtype.type(info.min), inside.astype(dtype))
    return np.where(x >= 2.0 ** (info.bits - (info.min < 0)), dtype.type(info.max), low)


def _np_isinf(x: Array, a: Attrs) -> Array:
    up, down = bool(a["detect_positive"]), bool(a["detect_negative"])
    return np.isposinf(x) & up | np.isneginf(x) & down


def _np_shift(a: Array, b: Array, attrs: Attrs) -> Array:
    bits = a.dtype.itemsize * 8
    inside = (b >= 0) & (b < bits)
    by = np.where(inside, b, a.dtype.type(0))
    if attrs["direction"] == "LEFT":
        return np.where(inside, a << by, a.dtype.type(0))
    signs = np.where(a < 0, ~np.zeros_like(a), np.zeros_like(a))
    return np.where(inside, a >> by, signs)


# --- formulas longer than a line ------------------------------------------------------------------


def _softplus(x: Term) -> Term:
    return f.maximum(x, 0) + f.log1p(f.exp(-f.absolute(x)))


def _gelu(x: Term, a: Attrs) -> Term:
    if a["approximate"] == "tanh":
        return 0.5 * x * (1 + f.tanh(SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1 + f.erf(x * INV_SQRT2))


def _div(a: Term, b: Term) -> Term:
    """Integer division traps on 0 and on lowest / -1, so neither reaches the machine."""
    if is_float(a.dtype):
        return a / b
    if isinstance(b.expr, Const) and b.expr.value not in (0, -1):
        return a / b
    zero = b.equals(0)
    if DTYPES[a.dtype].kind == "u":
        return f.where(zero, 0, a / f.where(zero, 1, b))
    minus = b.equals(-1)
    return f.where(zero, 0, f.where(minus, -a, a / f.where(zero | minus, 1, b)))


def _mod(a: Term, b: Term, attrs: Attrs) -> Term:
    if is_float(a.dtype):
        return _float_mod(a, b, bool(attrs["fmod"]))
    safe = b
    if not isinstance(b.expr, Const) or b.expr.value in (0, -1):
        # x mod -1 is 0 as x mod 1 is; numpy's x mod 0 is 0.
        odd = b.equals(0) if DTYPES[a.dtype].kind == "u" else b.equals(0) | b.equals(-1)
        safe = f.where(odd, 1, b)
    if not attrs["fmod"]:
        return a % safe
    return a - (a / safe) * safe


def _float_mod(a: Term, b: Term, fmod: bool) -> Term:
    """a - b·trunc(a/b) in f64, then put right where the quotient was rounded over an integer."""
    x, y = f.cast(a, "f64"), f.cast(b, "f64")
    size = f.absolute(y)
    rest = f.absolute(x) - size * f.floor(f.absolute(x) / size)
    rest = f.where(rest < 0, rest + size, f.where(rest >= size, rest - size, rest))
    rest = f.where(size.equals(math.inf) & f.absolute(x).differs(math.inf), f.absolute(x), rest)
    signed = f.where(x < 0, -rest, rest)
    if not fmod:
        signed = f.where((y < 0).differs(signed < 0) & signed.differs(0), signed + y, signed)
    return f.cast(signed, a.dtype)


def _pow(a: Term, b: Term) -> Term:
    """Small constant exponents by multiplication; integers by way of f64, as ONNX Runtime does."""
    power = b.expr.value if isinstance(b.expr, Const) else None
    if power in (1, 2, 3):
        return a if power == 1 else a * a if power == 2 else a * a * a
    if is_float(a.dtype):
        return a ** f.cast(b, a.dtype)
    return f.cast(f.cast(a, "f64") ** f.cast(b, "f64"), a.dtype)


def _isinf(x: Term, a: Attrs) -> Term:
    up, down = bool(a["detect_positive"]), bool(a["detect_negative"])
    return x.equals(math.inf) & up | x.equals(-math.inf) & down


def _sign(x: Term) -> Term:
    if DTYPES[x.dtype].kind == "u":
        return f.minimum(x, 1)
    return f.where(x > 0, 1, f.where(x < 0, -1, x))


def _hard_swish(x: Term) -> Term:
    return x * f.minimum(f.maximum(x * (1 / 6) + 0.5, 0), 1)


def _shift(a: Term, b: Term, attrs: Attrs) -> Term:
    """A shift by the width or more, or by less than 0, leaves copies of the sign only."""
    last = DTYPES[a.dtype].bits - 1
    inside = b <= last if DTYPES[a.dtype].kind == "u" else (b >= 0) & (b <= last)
    if attrs["direction"] == "LEFT":
        return f.where(inside, a << f.where(inside, b, 0), 0)
    return (
        a >> f.where(inside, b, last)
        if DTYPES[a.dtype].kind == "i"
        else f.where(inside, a >> f.where(inside, b, 0), 0)
    )


def _clip(xs: Sequence[Term | None], attrs: Attrs) -> Term:
    x, low, high = (*xs, None, None)[:3]
    assert x is not None
    x = x if low is None else f.maximum(x, low)
    return x if high is None else f.minimum(x, high)


def _np_clip(xs: Sequence[Array | None], attrs: Attrs) -> Array:
    x, low, high = (*xs, None, None)[:3]
    assert x is not None
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


def _clip_samples() -> Iterable[Sample]:
    low, high = np.array(-0.5, np.float32), np.array(0.75, np.float32)
    for x in (random(3, 5), edges("f32"), random(0, 2)):
        yield Sample((x, low, high))
    yield Sample((edges("f32"), None, high))
    yield Sample((edges("f32"), low))
    yield Sample((edges("f32"),))
    yield Sample((edges("f32"), high, low))  # crossed bounds: the upper one wins
    yield Sample((edges("i64"), np.array(-3), np.array(5)))
    yield Sample((random(4, dtype="f16"), np.array(-1, np.float16)))


def _where_samples() -> Iterable[Sample]:
    c = random(3, 1, dtype="bool")
    yield Sample((c, random(3, 5), random(5, seed=1)))
    yield Sample((c, edges("f32"), np.array(-0.0, np.float32)))
    yield Sample((c, random(1, dtype="i64"), random(3, 4, dtype="i64")))
    yield Sample((np.array(True), random(2, 0), random(2, 1)))
    yield Sample((c, random(3, 1, dtype="bool"), random(2, dtype="bool")))


def _pow_samples() -> Iterable[Sample]:
    x = np.abs(random(3, 5)) + np.float32(0.1)
    for exponent in (0.0, 1.0, 2.0, 3.0, 0.5, -1.0, -2.5):
        yield Sample((x, np.array(exponent, np.float32)))
    yield Sample((random(3, 5), np.array(2, np.int64)))
    yield Sample((random(4, dtype="i64"), np.array([0, 1, 2, 3])))
    yield Sample((random(4, dtype="i32"), np.array([2.0, 0.5, 3.0, 0.0], np.float32)))
    yield Sample((edges("f32")[:, None], np.array([2, 3, 0, 0.5, -1], np.float32)))
    yield Sample((random(0, 2), np.array(2.0, np.float32)))


def _shift_samples() -> Iterable[Sample]:
    for direction in ("LEFT", "RIGHT"):
        for dtype in (np.uint8, np.uint32, np.int8, np.int64):
            a = np.array([[0, 1, 5, 255]]).astype(dtype)
            outside = [-1, -8] if np.issubdtype(dtype, np.signedinteger) else [70]
            by = np.array([0, 1, 7, 8, 40, *outside])[:, None].astype(dtype)
            yield Sample((a, by), {"direction": direction})


def _check_where(op: str, types: Sequence[TensorType]) -> None:
    check_kind(op, types[0].dtype, "b")
    check_same_dtype(op, types[1:])


def _check_pow(op: str, types: Sequence[TensorType]) -> None:
    for t in types:
        check_kind(op, t.dtype, "fiu")


def _ref_where(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    cond, a, b = (given(arrays, k) for k in range(3))
    return (np.where(cond, a, b).astype(a.dtype),)


# --- one operand ----------------------------------------------------------------------------------
unary("identity", lambda x: x, lambda x: x, "fiub")
unary("neg", np.negative, lambda x: -x, "fi")
unary("abs", np.abs, f.absolute, "fiu")
unary("exp", np.exp, f.exp)
unary("log", np.log, f.log)
unary("sqrt", np.sqrt, f.sqrt)
unary("reciprocal", lambda x: 1 / x, lambda x: 1 / x)
unary("sin", np.sin, f.sin)
unary("cos", np.cos, f.cos)
unary("tanh", np.tanh, f.tanh)
unary("erf", _np_erf, f.erf)
unary("sigmoid", _np_sigmoid, lambda x: 1 / (1 + f.exp(-x)))
unary("relu", lambda x: np.maximum(x, 0), lambda x: f.maximum(x, 0), "fi")
unary("floor", np.floor, f.floor)
unary("ceil", np.ceil, f.ceil)
unary("round", np.rint, f.rint)
unary("sign", np.sign, _sign, "fiu")
unary("not", np.logical_not, lambda x: ~x, "b")
unary("bitwise_not", np.invert, lambda x: ~x, "iu")
unary("isnan", np.isnan, f.isnan, "f", boolean)
unary("softplus", _np_softplus, _softplus)
unary("softsign", lambda x: x / (1 + np.abs(x)), lambda x: x / (1 + f.absolute(x)))
unary("hard_swish", lambda x: x * np.clip(x / 6 + 0.5, 0, 1), _hard_swish)
unary("mish", lambda x: x * np.tanh(_np_softplus(x)), lambda x: x * f.tanh(_softplus(x)))
unary_with(
    "isinf",
    _np_isinf,
    _isinf,
    {"detect_positive": 1, "detect_negative": 1},
    {"detect_negative": 0},
    {"detect_positive": 0},
    result=boolean,
)
unary_with(
    "elu",
    lambda x, a: np.where(x < 0, a["alpha"] * np.expm1(x), x),
    lambda x, a: f.where(x < 0, a["alpha"] * (f.exp(x) - 1), x),
    {"alpha": 1.0},
    {"alpha": 0.5},
)
unary_with(
    "celu",
    lambda x, a: np.maximum(x, 0) + np.minimum(0, a["alpha"] * np.expm1(x / a["alpha"])),
    lambda x, a: f.maximum(x, 0) + f.minimum(a["alpha"] * (f.exp(x * (1 / a["alpha"])) - 1), 0),
    {"alpha": 1.0},
    {"alpha": 2.0},
)
unary_with(
    "selu",
    lambda x, a: np.where(x > 0, x, a["alpha"] * np.expm1(x)) * a["gamma"],
    lambda x, a: f.where(x > 0, x, a["alpha"] * (f.exp(x) - 1)) * a["gamma"],
    {"alpha": SELU_ALPHA, "gamma": SELU_GAMMA},
)
unary_with(
    "leaky_relu",
    lambda x, a: np.where(x < 0, a["alpha"] * x, x),
    lambda x, a: f.where(x < 0, a["alpha"] * x, x),
    {"alpha": 0.01},
    {"alpha": 0.2},
)
unary_with(
    "hard_sigmoid",
    lambda x, a: np.clip(a["alpha"] * x + a["beta"], 0, 1),
    lambda x, a: f.minimum(f.maximum(a["alpha"] * x + a["beta"], 0), 1),
    {"alpha": 0.2, "beta": 0.5},
    {"alpha": 1 / 6},
)
unary_with(
    "thresholded_relu",
    lambda x, a: np.where(x > a["alpha"], x, 0),
    lambda x, a: f.where(x > a["alpha"], x, 0),
    {"alpha": 1.0},
    {"alpha": 0.0},
)
unary_with("gelu", _np_gelu, _gelu, {"approximate": "none"}, {"approximate": "tanh"})
# --- two operands ---------------------------------------------------------------------------------
binary("add", np.add, lambda a, b: a + b, "fiu")
binary("sub", np.subtract, lambda a, b: a - b, "fiu")
binary("mul", np.multiply, lambda a, b: a * b, "fiu")
binary("div", _np_div, _div, "fiu")
binary("min", np.minimum, f.minimum, "fiu")
binary("max", np.maximum, f.maximum, "fiu")
binary("and", np.logical_and, lambda a, b: a & b, "b")
binary("or", np.logical_or, lambda a, b: a | b, "b")
binary("xor", np.logical_xor, lambda a, b: a ^ b, "b")
binary("bitwise_and", np.bitwise_and, lambda a, b: a & b, "iu")
binary("bitwise_or", np.bitwise_or, lambda a, b: a | b, "iu")
binary("bitwise_xor", np.bitwise_xor, lambda a, b: a ^ b, "iu")
binary("equal", np.equal, lambda a, b: a.equals(b), "fiub", boolean)
binary("less", np.less, lambda a, b: a < b, "fiu", boolean)
binary("less_or_equal", np.less_equal, lambda a, b: a <= b, "fiu", boolean)
binary("greater", np.greater, lambda a, b: a > b, "fiu", boolean)
binary("greater_or_equal", np.greater_equal, lambda a, b: a >= b, "fiu", boolean)
binary(
    "prelu",
    lambda x, s: np.where(x < 0, s * x, x),
    lambda x, s: f.where(x < 0, s * x, x),
    "fiu",
)
binary_with("mod", _np_mod, _mod, {"fmod": 0}, {"fmod": 1}, kinds="fiu")
elementwise(
    "pow",
    2,
    lambda xs, a: _np_pow(xs[0], xs[1]),
    lambda xs, a: _pow(xs[0], xs[1]),
    _check_pow,
    samples=_pow_samples,
)
elementwise(
    "bit_shift",
    2,
    lambda xs, a: _np_shift(xs[0], xs[1], a),
    lambda xs, a: _shift(xs[0], xs[1], a),
    all_of("iu"),
    samples=_shift_samples,
)
# --- more -----------------------------------------------------------------------------------------
elementwise("clip", 3, _np_clip, _clip, all_of("fiu"), samples=_clip_samples, optional=2)
register(
    Op(
        "where",
        "elementwise",
        infer_elementwise("where", 3, 0, _check_where, lambda ts, a: ts[1].dtype, {}),
        _ref_where,
        lower_elementwise("where", lambda xs, a: f.where(xs[0], xs[1], xs[2]), {}),
        samples=_where_samples,
    )
)
