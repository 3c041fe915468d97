"""ATen operators that compute element by element, promoted as PyTorch promotes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from naru.dtypes import DTYPES, is_float, is_integer
from naru.frontend.onnx_elementwise import silu
from naru.frontend.onnx_node import Unsupported, as_dtype, emit, scalar
from naru.frontend.torch_call import HALF, AtenCall, Handler, axis_slice
from naru.ir.graph import Node
from naru.ir.simplify import ONE, floordiv
from naru.ops.operands import compute_dtype

SELU_ALPHA, SELU_GAMMA = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
FLOATING = "INT_TO_FLOAT"  # PyTorch's rule for functions of real numbers

# One operand, which becomes a float.
UNARY = {
    "acos": "acos", "acosh": "acosh", "asin": "asin", "asinh": "asinh", "atan": "atan",
    "atanh": "atanh", "cos": "cos", "cosh": "cosh", "erf": "erf", "exp": "exp", "log": "log",
    "reciprocal": "reciprocal", "sigmoid": "sigmoid", "sin": "sin", "sinh": "sinh",
    "special_expit": "sigmoid", "special_erf": "erf", "sqrt": "sqrt", "tanh": "tanh",
}  # fmt: skip
# One operand, which keeps its dtype.
SAME = {"abs": "abs", "mish": "mish", "hardswish": "hard_swish", "neg": "neg", "relu": "relu"}
ROUNDING = {"ceil": "ceil", "floor": "floor"}  # integers are whole already
COMPARE = {
    "eq": "equal", "ge": "greater_or_equal", "gt": "greater", "le": "less_or_equal", "lt": "less",
}  # fmt: skip
# Two operands: ours, and what it is of bools.
ARITHMETIC = {"mul": ("mul", "and"), "maximum": ("max", "or"), "minimum": ("min", "and")}
BITWISE = {
    "bitwise_and": ("bitwise_and", "and"), "bitwise_or": ("bitwise_or", "or"),
    "bitwise_xor": ("bitwise_xor", "xor"),
}  # fmt: skip
LOGICAL = {"logical_and": "and", "logical_or": "or", "logical_xor": "xor"}


# --- formulas that no operator of ours is ---------------------------------------------------------


def wide(x: Node) -> Node:
    """Half floats in f32: for formulas of several operators, which would round several times."""
    return as_dtype(x, compute_dtype(x.type.dtype))


def binary(op: str, bools: str, a: Node, b: Node) -> Node:
    """An operator of two operands of one dtype, or what it is of bools."""
    return emit(bools if a.type.dtype == "bool" else op, a, b)


def expm1(x: Node) -> Node:
    """e^x - 1 without loss near 0, by Kahan's (u - 1) · x / log(u), u = e^x."""
    one, u = scalar(1, x), emit("exp", x)
    gap = emit("sub", u, one)
    exact = emit("div", emit("mul", gap, x), emit("log", u))
    edge = emit("or", emit("equal", gap, scalar(-1, x)), emit("isinf", u))
    out = emit("where", edge, gap, exact)
    return emit("where", emit("equal", u, one), x, out)


def log1p(x: Node) -> Node:
    """log(1 + x) without loss near 0, by Kahan's log(u) · x / (u - 1), u = 1 + x."""
    one = scalar(1, x)
    u = emit("add", x, one)
    found = emit("log", u)
    exact = emit("div", emit("mul", found, x), emit("sub", u, one))
    edge = emit("or", emit("equal", u, scalar(0, x)), emit("isinf", u))
    out = emit("where", edge, found, exact)
    return emit("where", emit("equal", u, one), x, out)


def erfc(x: Node) -> Node:
    """1 - erf(x), in f64: the difference would leave nothing of an f32."""
    x = as_dtype(x, "f64")
    return emit("sub", scalar(1, x), emit("erf", x))


def truncated(x: Node) -> Node:
    """Rounded towards 0."""
    return emit("where", emit("less", x, scalar(0, x)), emit("ceil", x), emit("floor", x))


def is_negative(x: Node) -> Node:
    """The sign bit: of -0.0 too."""
    to = "i64" if x.type.dtype == "f64" else "i32"
    bits = emit("bit_cast", x, source=x.type.dtype, to=to)
    return emit("less", bits, scalar(0, bits))


def with_sign_of(x: Node, y: Node) -> Node:
    """|x| with the sign of y."""
    size = emit("abs", x)
    return emit("where", is_negative(y), emit("neg", size), size)


def atan2(y: Node, x: Node) -> Node:
    """The angle of (x, y), of all four quadrants, zeros and infinities by IEEE 754."""
    zero, pi = scalar(0, x), scalar(math.pi, x)
    far = emit("and", emit("isinf", x), emit("isinf", y))
    one = scalar(1, x)
    slope = emit("div", emit("where", far, one, emit("abs", y)),
                 emit("where", far, one, emit("abs", x)))  # fmt: skip
    still = emit("and", emit("equal", x, zero), emit("equal", y, zero))
    angle = emit("where", still, zero, emit("atan", slope))
    angle = emit("where", is_negative(x), emit("sub", pi, angle), angle)
    out = with_sign_of(angle, y)
    undefined = emit("or", emit("isnan", x), emit("isnan", y))
    return emit("where", undefined, scalar(math.nan, x), out)


def floor_div(a: Node, b: Node) -> Node:
    """a / b rounded down: Python's, of integers and floats."""
    if not is_float(a.type.dtype):
        return _whole_floor_div(a, b)
    zero, rest = scalar(0, a), emit("mod", a, b, fmod=1)
    whole = emit("div", emit("sub", a, rest), b)
    odd = emit("xor", emit("less", b, zero), emit("less", rest, zero))
    odd = emit("and", odd, emit("not", emit("equal", rest, zero)))
    whole = emit("where", odd, emit("sub", whole, scalar(1, a)), whole)
    down = emit("floor", whole)
    late = emit("greater", emit("sub", whole, down), scalar(0.5, a))
    down = emit("where", late, emit("add", down, scalar(1, a)), down)
    quotient = emit("div", a, b)
    down = emit("where", emit("equal", whole, zero), with_sign_of(zero, quotient), down)
    return emit("where", emit("equal", b, zero), quotient, down)


def _whole_floor_div(a: Node, b: Node) -> Node:
    """Of integers: the truncated quotient, and 1 less where that went up. (a - a mod b wraps.)"""
    quotient, zero = emit("div", a, b), scalar(0, a)
    if DTYPES[a.type.dtype].kind == "u":
        return quotient
    up = emit("xor", emit("less", a, zero), emit("less", b, zero))
    up = emit("and", up, emit("not", emit("equal", emit("mod", a, b), zero)))
    return emit("sub", quotient, emit("cast", up, to=a.type.dtype))


def whole_power(x: Node, exponent: int) -> Node:
    """x^exponent of an exponent ≥ 0 by squaring; integers wrap, as in PyTorch."""
    out: Node | None = None
    square = x
    while exponent:
        if exponent & 1:
            out = square if out is None else emit("mul", out, square)
        exponent >>= 1
        square = emit("mul", square, square) if exponent else square
    return scalar(1, x) if out is None else out


def integer_power(a: Node, b: Node) -> Node:
    """a^b of integers; of a negative b it is 0, unless a is 1 or -1."""
    one, zero = scalar(1, a), scalar(0, a)
    bits = DTYPES[a.type.dtype].bits
    out, square, rest = one, a, b
    for _ in range(bits - 1):
        odd = emit("equal", emit("bitwise_and", rest, one), one)
        out = emit("where", odd, emit("mul", out, square), out)
        square = emit("mul", square, square)
        rest = emit("bit_shift", rest, one, direction="RIGHT") if bits > 1 else rest
    if DTYPES[a.type.dtype].kind == "u":
        return out
    even = emit("equal", emit("bitwise_and", b, one), zero)
    minus = emit("where", even, one, a)
    below = emit("where", emit("equal", emit("abs", a), one), minus, zero)
    return emit("where", emit("less", b, zero), below, out)


# --- handlers -------------------------------------------------------------------------------------


def _unary(name: str) -> Handler:
    return lambda c: c.finish(emit(name, c.promoted("self", kind=FLOATING)[0]))


def _formula(fn: Callable[[Node], Node]) -> Handler:
    """A formula of a float; half floats are widened."""
    return lambda c: c.finish(fn(wide(c.promoted("self", kind=FLOATING)[0])))


def _same(name: str) -> Handler:
    def handler(c: AtenCall) -> Node:
        x = c["self"]
        unsigned = DTYPES[x.type.dtype].kind in "ub"
        if name in ("abs", "relu") and unsigned:
            return x
        if name == "neg" and DTYPES[x.type.dtype].kind == "u":
            return emit("sub", scalar(0, x), x)
        return c.finish(emit(name, x))

    return handler


def _rounding(name: str) -> Handler:
    return lambda c: emit(name, c["self"]) if is_float(c["self"].type.dtype) else c["self"]


def _compare(name: str) -> Handler:
    def handler(c: AtenCall) -> Node:
        a, b = c.promoted("self", "other", kind="ALWAYS_BOOL")
        if a.type.dtype == "bool" and name != "equal":
            a, b = as_dtype(a, "u8"), as_dtype(b, "u8")
        return emit(name, a, b)

    return handler


def not_equal(c: AtenCall) -> Node:
    return emit("not", emit("equal", *c.promoted("self", "other", kind="ALWAYS_BOOL")))


def _arithmetic(op: str, bools: str) -> Handler:
    return lambda c: c.finish(binary(op, bools, *c.promoted("self", "other")))


def _logical(op: str) -> Handler:
    return lambda c: emit(op, *(as_dtype(c[n], "bool") for n in ("self", "other")))


def _scaled(c: AtenCall, name: str, factor: str) -> tuple[Node, Node]:
    """Both operands of a sum, `name` times `factor`."""
    other = "self" if name == "other" else "other"
    a, b = c.promoted(other, name)
    alpha = c.value(factor, 1)
    if alpha != 1:
        if a.type.dtype in HALF:
            a, b = wide(a), wide(b)
        b = emit("mul", b, c.operand(factor, b.type.dtype))
    return a, b


def add(c: AtenCall) -> Node:
    """self + alpha · other."""
    return c.finish(binary("add", "or", *_scaled(c, "other", "alpha")))


def sub(c: AtenCall) -> Node:
    """self - alpha · other."""
    return c.finish(emit("sub", *_scaled(c, "other", "alpha")))


def rsub(c: AtenCall) -> Node:
    """other - alpha · self."""
    return c.finish(emit("sub", *_scaled(c, "self", "alpha")))


def div(c: AtenCall) -> Node:
    """True division, or rounded as `rounding_mode` says."""
    mode = c.value("rounding_mode")
    if mode is None:
        return c.finish(emit("div", *c.promoted("self", "other", kind=FLOATING)))
    a, b = map(wide, c.promoted("self", "other"))
    if mode == "floor":
        return c.finish(floor_div(a, b))
    quotient = emit("div", a, b)
    return c.finish(truncated(quotient) if is_float(a.type.dtype) else quotient)


def floor_divide(c: AtenCall) -> Node:
    return c.finish(floor_div(*map(wide, c.promoted("self", "other"))))


def _mod(fmod: int) -> Handler:
    return lambda c: c.finish(emit("mod", *c.promoted("self", "other"), fmod=fmod))


def power(c: AtenCall) -> Node:
    """self ^ exponent, either of which may be a number."""
    exponent = c.args["exponent"]
    a, b = c.promoted("self", "exponent")
    if isinstance(exponent, int | float) and float(exponent).is_integer() and 0 <= exponent <= 64:
        small = not is_float(a.type.dtype) or exponent in (1, 2, 3, 4)
        if small:
            return c.finish(_expanded(whole_power(a, int(exponent)), a))
    if is_integer(a.type.dtype):
        return c.finish(integer_power(a, b))
    if exponent == 0.5:
        return c.finish(emit("sqrt", a))
    return c.finish(emit("pow", a, b))


def _expanded(y: Node, x: Node) -> Node:
    """y in the shape of x: x^0 is one number."""
    return y if y.type.shape == x.type.shape else emit("expand", y, shape=x.type.shape)


def fmax_fmin(op: str) -> Handler:
    """The extreme of the numbers: a NaN counts only where there is no other."""

    def handler(c: AtenCall) -> Node:
        a, b = c.promoted("self", "other")
        if not is_float(a.type.dtype):
            return c.finish(binary(op, "or" if op == "max" else "and", a, b))
        out = emit("where", emit("isnan", b), a, emit(op, a, b))
        return c.finish(emit("where", emit("isnan", a), b, out))

    return handler


def _two(fn: Callable[[Node, Node], Node], kind: str = FLOATING) -> Handler:
    return lambda c: c.finish(fn(*map(wide, c.promoted("self", "other", kind=kind))))


def hypot(a: Node, b: Node) -> Node:
    """sqrt(a² + b²), in f64: squares of an f32 do not overflow there."""
    x, y = as_dtype(a, "f64"), as_dtype(b, "f64")
    return emit("sqrt", emit("add", emit("mul", x, x), emit("mul", y, y)))


def logical_not(c: AtenCall) -> Node:
    return emit("not", as_dtype(c["self"], "bool"))


def bitwise_not(c: AtenCall) -> Node:
    return emit("not" if c["self"].type.dtype == "bool" else "bitwise_not", c["self"])


def _shift(direction: str) -> Handler:
    return lambda c: c.finish(emit("bit_shift", *c.promoted("self", "other"), direction=direction))


def _is(name: str) -> Handler:
    def handler(c: AtenCall) -> Node:
        x = c["self"]
        if is_float(x.type.dtype):
            return emit(name, x)
        return emit("expand", _bool(False), shape=x.type.shape)

    return handler


def _bool(value: bool) -> Node:
    return scalar(value, emit("constant_of_shape", shape=(), value=0, dtype="bool"))


def sign(c: AtenCall) -> Node:
    """-1, 0 or 1; of a NaN 0."""
    x = c["self"]
    if x.type.dtype == "bool" or DTYPES[x.type.dtype].kind == "u":
        return as_dtype(as_dtype(x, "bool"), x.type.dtype)
    zero = scalar(0, x)
    up, down = (emit("cast", emit(op, x, zero), to="i8") for op in ("greater", "less"))
    return c.finish(emit("sub", up, down))


def round_(c: AtenCall) -> Node:
    """Halves to even, at a number of decimals."""
    x, decimals = c["self"], c.int("decimals", 0)
    if not is_float(x.type.dtype):
        return x
    if not decimals:
        return emit("round", x)
    factor, y = 10.0 ** abs(decimals), wide(x)
    one, two = ("mul", "div") if decimals > 0 else ("div", "mul")
    y = emit("round", emit(one, y, scalar(factor, y)))
    return c.finish(emit(two, y, scalar(factor, y)))


def clamp(c: AtenCall) -> Node:
    """Between min and max, either of which may be left out; the maximum wins."""
    names = [n for n in ("min", "max") if c.has(n)]
    x, *bounds = c.promoted("self", *names)
    for name, bound in zip(names, bounds, strict=True):
        op = "max" if name == "min" else "min"
        x = binary(op, "or" if op == "max" else "and", x, bound)
    return c.finish(x)


def hardtanh(c: AtenCall) -> Node:
    x = c["self"]
    low, high = (c.operand(n, x.type.dtype) for n in ("min_val", "max_val"))
    return emit("clip", x, low, high)


def relu6(c: AtenCall) -> Node:
    return emit("clip", c["self"], scalar(0, c["self"]), scalar(6, c["self"]))


def where(c: AtenCall) -> Node:
    a, b = c.promoted("self", "other")
    return c.finish(emit("where", as_dtype(c["condition"], "bool"), a, b))


def masked_fill(c: AtenCall) -> Node:
    x = c["self"]
    return emit("where", c["mask"], c.operand("value", x.type.dtype), x)


def to_copy(c: AtenCall) -> Node:
    """A copy in another dtype."""
    return c.finish(c["self"])


def gelu(c: AtenCall) -> Node:
    return emit("gelu", c["self"], approximate=c.value("approximate", "none"))


def elu(c: AtenCall) -> Node:
    """scale · (x where x > 0, else alpha · (e^(input_scale · x) - 1))."""
    alpha, scale, inner = (c.float(n, 1.0) for n in ("alpha", "scale", "input_scale"))
    if scale == inner == 1.0:
        return emit("elu", c["self"], alpha=alpha)
    x = wide(c["self"])
    below = expm1(emit("mul", x, scalar(inner, x)))
    below = emit("mul", below, scalar(alpha * scale, x))
    above = emit("mul", x, scalar(scale, x))
    return c.finish(emit("where", emit("greater", x, scalar(0, x)), above, below))


def leaky_relu(c: AtenCall) -> Node:
    return emit("leaky_relu", c["self"], alpha=c.float("negative_slope", 0.01))


def rrelu(c: AtenCall) -> Node:
    """In eval mode the slope is the middle of its range."""
    if c.flag("training"):
        raise Unsupported("slopes at random", "model.eval()")
    return emit("leaky_relu", c["self"], alpha=(c.float("lower") + c.float("upper")) / 2)


def hardsigmoid(c: AtenCall) -> Node:
    return emit("hard_sigmoid", c["self"], alpha=1 / 6, beta=0.5)


def softplus(c: AtenCall) -> Node:
    """log(1 + e^(beta · x)) / beta, and x itself where beta · x is above the threshold."""
    beta, threshold = c.float("beta", 1.0), c.float("threshold", 20.0)
    x = wide(c["self"])
    if beta == 1.0 and threshold == 20.0 and x.type.dtype == "f32":
        return c.finish(emit("softplus", x))  # above 20 no f32 tells them apart
    scaled = emit("mul", x, scalar(beta, x))
    y = emit("div", emit("softplus", scaled), scalar(beta, x))
    return c.finish(emit("where", emit("greater", scaled, scalar(threshold, x)), x, y))


def log_sigmoid(c: AtenCall) -> Node:
    return emit("neg", emit("softplus", emit("neg", c["self"])))


def logit(c: AtenCall) -> Node:
    """log(x / (1 - x)), x brought into eps..1-eps first."""
    (x,) = map(wide, c.promoted("self", kind=FLOATING))
    if c.has("eps"):
        eps = c.float("eps")
        x = emit("clip", x, scalar(eps, x), scalar(1 - eps, x))
    return c.finish(emit("log", emit("div", x, emit("sub", scalar(1, x), x))))


def softshrink(c: AtenCall) -> Node:
    """x moved towards 0 by lambd; 0 between. A NaN stays."""
    x = wide(c["self"])
    limit = scalar(c.float("lambd", 0.5), x)
    down = emit("where", emit("less", x, emit("neg", limit)), emit("add", x, limit),
                emit("mul", x, scalar(0, x)))  # fmt: skip
    return c.finish(emit("where", emit("greater", x, limit), emit("sub", x, limit), down))


def hardshrink(c: AtenCall) -> Node:
    """x, but 0 between -lambd and lambd."""
    x = wide(c["self"])
    limit = scalar(c.float("lambd", 0.5), x)
    low = emit("greater_or_equal", x, emit("neg", limit))
    inside = emit("and", low, emit("less_or_equal", x, limit))
    return c.finish(emit("where", inside, scalar(0, x), x))


def threshold(c: AtenCall) -> Node:
    """x where it is above the threshold, else a value."""
    x = c["self"]
    limit, value = (c.operand(n, x.type.dtype) for n in ("threshold", "value"))
    return emit("where", emit("less_or_equal", x, limit), value, x)


def prelu(c: AtenCall) -> Node:
    """A slope for all, or one a channel (axis 1)."""
    x, slope = c["self"], c["weight"]
    if slope.type.rank == 1 and x.type.rank > 1:
        shape = (ONE, slope.type.shape[0], *[ONE] * (x.type.rank - 2))
        slope = emit("reshape", slope, shape=shape)
    if not x.type.rank and slope.type.rank:
        slope = emit("reshape", slope, shape=())
    return emit("prelu", x, slope)


def glu(c: AtenCall) -> Node:
    """The first half times the sigmoid of the second."""
    x = c["self"]
    axis = c.axis("dim", x.type.rank)
    size = x.type.shape[axis]
    half = floordiv(size, 2)
    a, b = axis_slice(x, axis, 0, half), axis_slice(x, axis, half, size)
    y = emit("mul", wide(a), emit("sigmoid", wide(b)))
    return c.finish(y)


def nan_to_num(c: AtenCall) -> Node:
    x = c["self"]
    if not is_float(x.type.dtype):
        return x
    dtype = DTYPES[x.type.dtype].numpy
    largest = float(np.finfo(dtype if dtype.kind == "f" else np.float32).max)
    if x.type.dtype == "bf16":
        largest = 3.3895313892515355e38
    high, low = c.value("posinf", largest), c.value("neginf", -largest)
    y = emit("where", emit("isnan", x), scalar(c.value("nan", 0.0), x), x)
    up, down = (emit("isinf", y, detect_positive=p, detect_negative=1 - p) for p in (1, 0))
    return emit("where", up, scalar(high, x), emit("where", down, scalar(low, x), y))


def lerp(c: AtenCall) -> Node:
    """a + w · (b - a), from the nearer end."""
    a, b = wide(c["self"]), wide(c["end"])
    w = c.operand("weight", a.type.dtype)
    gap = emit("sub", b, a)
    near = emit("add", a, emit("mul", w, gap))
    far = emit("sub", b, emit("mul", gap, emit("sub", scalar(1, w), w)))
    small = emit("less", emit("abs", w), scalar(0.5, w))
    return c.finish(emit("where", small, near, far))


def _add_product(op: str) -> Handler:
    """self + value · (tensor1 · or / tensor2)."""

    def handler(c: AtenCall) -> Node:
        x, a, b = map(wide, c.promoted("self", "tensor1", "tensor2"))
        value = c.value("value", 1)
        if value != 1:
            a = emit("mul", a, c.operand("value", a.type.dtype))
        return c.finish(emit("add", x, emit(op, a, b)))

    return handler


def _silu(c: AtenCall) -> Node:
    return c.finish(silu(wide(c["self"])))


def _quotient_of_log(base: float) -> Callable[[Node], Node]:
    return lambda x: emit("mul", emit("log", x), scalar(1 / math.log(base), x))


FORMULAS: Mapping[str, Callable[[Node], Node]] = {
    "erfc": erfc,
    "special_erfc": erfc,
    "exp2": lambda x: emit("pow", scalar(2, x), x),
    "special_exp2": lambda x: emit("pow", scalar(2, x), x),
    "expm1": expm1,
    "special_expm1": expm1,
    "log10": _quotient_of_log(10),
    "log1p": log1p,
    "special_log1p": log1p,
    "log2": _quotient_of_log(2),
    "rsqrt": lambda x: emit("reciprocal", emit("sqrt", x)),
    "tan": lambda x: emit("div", emit("sin", x), emit("cos", x)),
}
TABLE: dict[str, Handler] = {
    **{aten: _unary(name) for aten, name in UNARY.items()},
    **{aten: _formula(fn) for aten, fn in FORMULAS.items()},
    **{aten: _same(name) for aten, name in SAME.items()},
    **{aten: _rounding(name) for aten, name in ROUNDING.items()},
    **{aten: _compare(name) for aten, name in COMPARE.items()},
    **{aten: _arithmetic(*names) for aten, names in {**ARITHMETIC, **BITWISE}.items()},
    **{aten: _logical(name) for aten, name in LOGICAL.items()},
    "__lshift__": _shift("LEFT"),
    "__rshift__": _shift("RIGHT"),
    "_to_copy": to_copy,
    "add": add,
    "addcdiv": _add_product("div"),
    "addcmul": _add_product("mul"),
    "atan2": _two(atan2),
    "bitwise_left_shift": _shift("LEFT"),
    "bitwise_not": bitwise_not,
    "bitwise_right_shift": _shift("RIGHT"),
    "celu": lambda c: emit("celu", c["self"], alpha=c.float("alpha", 1.0)),
    "clamp": clamp,
    "clamp_max": clamp,
    "clamp_min": clamp,
    "copysign": _two(with_sign_of),
    "div": div,
    "elu": elu,
    "floor_divide": floor_divide,
    "fmax": fmax_fmin("max"),
    "fmin": fmax_fmin("min"),
    "fmod": _mod(1),
    "gelu": gelu,
    "glu": glu,
    "hardshrink": hardshrink,
    "hardsigmoid": hardsigmoid,
    "hardtanh": hardtanh,
    "hypot": _two(hypot),
    "isinf": _is("isinf"),
    "isnan": _is("isnan"),
    "leaky_relu": leaky_relu,
    "lerp": lerp,
    "log_sigmoid": log_sigmoid,
    "logical_not": logical_not,
    "logit": logit,
    "masked_fill": masked_fill,
    "nan_to_num": nan_to_num,
    "ne": not_equal,
    "pow": power,
    "prelu": prelu,
    "relu6": relu6,
    "remainder": _mod(0),
    "round": round_,
    "rrelu": rrelu,
    "rsub": rsub,
    "selu": lambda c: emit("selu", c["self"], alpha=SELU_ALPHA, gamma=SELU_GAMMA),
    "sgn": sign,
    "sign": sign,
    "signbit": lambda c: (
        is_negative(wide(c["self"]))
        if is_float(c["self"].type.dtype)
        else emit("less", as_dtype(c["self"], "i64"), scalar(0, as_dtype(c["self"], "i64")))
    ),
    "silu": _silu,
    "softplus": softplus,
    "softshrink": softshrink,
    "special_logit": logit,
    "sub": sub,
    "threshold": threshold,
    "trunc": lambda c: truncated(c["self"]) if is_float(c["self"].type.dtype) else c["self"],
    "where": where,
}
