"""Derivatives of our ops, for Gradient: from a node n and the gradient g of a number with respect
to it, the gradients with respect to n's operands, in their order (None: none flows there).

Where an op has no derivative, as relu at 0, one of the slopes beside it is taken; of equal operands
of max and min the first, of equal elements of a reduction each its share. Ops that `expand`, and
those in COMPOSITIONS, are differentiated as what they are composed of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from naru.frontend.onnx_node import Unsupported, as_dtype, emit, scalar
from naru.frontend.onnx_shapes import filled
from naru.ir.expr import Expr
from naru.ir.graph import Node
from naru.ir.simplify import ONE, ZERO, add, floordiv, known, mul, prod, sub
from naru.ops.elementwise import SELU_ALPHA, SELU_GAMMA
from naru.ops.movement import slice_bounds
from naru.ops.operands import compute_dtype, ints, sizes

Gradients = Sequence[Node | None]
Rule = Callable[[Node, Node], Gradients]
# Their value does not change in between its steps.
FLAT = frozenset({"ceil", "floor", "round", "sign", "constant", "constant_of_shape", "input"})


def operand(n: Node, k: int = 0) -> Node:
    """Operand k, which is there."""
    x = n.inputs[k]
    assert x is not None
    return x


def like(g: Node, x: Node) -> Node:
    """g summed over the axes along which x was repeated to g's shape."""
    extra = g.type.rank - x.type.rank
    dims = zip(x.type.shape, g.type.shape[extra:], strict=True)
    axes = (
        *range(extra),
        *(extra + k for k, (d, e) in enumerate(dims) if d is ONE and e is not ONE),
    )
    total = emit("reduce_sum", g, axes=axes, keepdims=True) if axes else g
    return emit("reshape", total, shape=x.type.shape) if extra else total


def zeros(x: Node) -> Node:
    """0 in the shape of x."""
    return filled(0.0, x.type.dtype, x.type.shape, x)


def ones(x: Node) -> Node:
    """1 in the shape of x."""
    return filled(1.0, x.type.dtype, x.type.shape, x)


def _number(n: Node, name: str, default: float) -> Node:
    """An attribute of n as a scalar of its dtype."""
    value = n.attr(name, default)
    assert isinstance(value, int | float)
    return scalar(float(value), n)


# --- one operand, element by element --------------------------------------------------------------


def _square(x: Node) -> Node:
    return emit("mul", x, x)


def _from_one(x: Node) -> Node:
    return emit("sub", scalar(1, x), x)


def _step(x: Node, at: float = 0.0) -> Node:
    """1 above a number, else 0."""
    return emit("where", emit("greater", x, scalar(at, x)), scalar(1, x), scalar(0, x))


def _bell(x: Node, scale: float, factor: float) -> Node:
    """factor · exp(-scale · x²)."""
    return emit("mul", scalar(factor, x), emit("exp", emit("mul", scalar(-scale, x), _square(x))))


def _elu(n: Node) -> Node:
    """1 above 0, else alpha · exp(x)."""
    x = operand(n)
    low = emit("mul", _number(n, "alpha", 1.0), emit("exp", emit("min", x, scalar(0, x))))
    return emit("where", emit("less", x, scalar(0, x)), low, scalar(1, x))


def _celu(n: Node) -> Node:
    x = operand(n)
    low = emit("exp", emit("min", emit("div", x, _number(n, "alpha", 1.0)), scalar(0, x)))
    return emit("where", emit("less", x, scalar(0, x)), low, scalar(1, x))


def _selu(n: Node) -> Node:
    x = operand(n)
    low = emit("exp", emit("min", x, scalar(0, x)))
    low = emit("mul", _number(n, "alpha", SELU_ALPHA), low)
    slope = emit("where", emit("greater", x, scalar(0, x)), scalar(1, x), low)
    return emit("mul", _number(n, "gamma", SELU_GAMMA), slope)


def _leaky_relu(n: Node) -> Node:
    x = operand(n)
    below = emit("less", x, scalar(0, x))
    return emit("where", below, _number(n, "alpha", 0.01), scalar(1, x))


def _hard_sigmoid(n: Node) -> Node:
    inside = emit("and", emit("greater", n, scalar(0, n)), emit("less", n, scalar(1, n)))
    return emit("where", inside, _number(n, "alpha", 0.2), scalar(0, n))


def _hard_swish(n: Node) -> Node:
    """x / 3 + 1/2 between -3 and 3."""
    x = operand(n)
    middle = emit("add", emit("div", x, scalar(3, x)), scalar(0.5, x))
    high = emit("where", emit("less", x, scalar(3, x)), middle, scalar(1, x))
    return emit("where", emit("greater", x, scalar(-3, x)), high, scalar(0, x))


def _gelu(n: Node) -> Node:
    """Φ(x) + x · Φ'(x), or the same of the form with tanh."""
    x = operand(n)
    if n.attr("approximate", "none") == "none":
        half = emit("mul", scalar(0.5, x), emit("erf", emit("mul", scalar(0.5**0.5, x), x)))
        density = _bell(x, 0.5, 1 / math.sqrt(2 * math.pi))
        return emit("add", emit("add", half, scalar(0.5, x)), emit("mul", x, density))
    root, cubic = scalar(math.sqrt(2 / math.pi), x), scalar(0.044715, x)
    inner = emit("mul", emit("add", x, emit("mul", cubic, emit("mul", x, _square(x)))), root)
    t = emit("tanh", inner)
    slope = emit("add", scalar(1, x), emit("mul", scalar(3 * 0.044715, x), _square(x)))
    tail = emit("mul", emit("mul", x, _from_one(_square(t))), emit("mul", root, slope))
    return emit("mul", scalar(0.5, x), emit("add", emit("add", scalar(1, x), t), tail))


def _mish(n: Node) -> Node:
    """t + x · sigmoid(x) · (1 - t²), t = tanh(softplus(x))."""
    x = operand(n)
    t = emit("tanh", emit("softplus", x))
    tail = emit("mul", emit("mul", x, emit("sigmoid", x)), _from_one(_square(t)))
    return emit("add", t, tail)


def _softsign(n: Node) -> Node:
    x = operand(n)
    return emit("reciprocal", _square(emit("add", scalar(1, x), emit("abs", x))))


def _inverse_root(x: Node, minus: bool, below: bool) -> Node:
    """1 / sqrt(1 ± x²), or of x² - 1."""
    square = _square(x)
    inner = (
        emit("sub", square, scalar(1, x))
        if below
        else (_from_one(square) if minus else emit("add", scalar(1, x), square))
    )
    return emit("reciprocal", emit("sqrt", inner))


SLOPES: Mapping[str, Callable[[Node], Node]] = {
    "abs": lambda n: emit("sign", operand(n)),
    "acos": lambda n: emit("neg", _inverse_root(operand(n), True, False)),
    "acosh": lambda n: _inverse_root(operand(n), False, True),
    "asin": lambda n: _inverse_root(operand(n), True, False),
    "asinh": lambda n: _inverse_root(operand(n), False, False),
    "atan": lambda n: emit("reciprocal", emit("add", scalar(1, n), _square(operand(n)))),
    "atanh": lambda n: emit("reciprocal", _from_one(_square(operand(n)))),
    "celu": _celu,
    "cos": lambda n: emit("neg", emit("sin", operand(n))),
    "cosh": lambda n: emit("sinh", operand(n)),
    "elu": _elu,
    "erf": lambda n: _bell(operand(n), 1.0, 2 / math.sqrt(math.pi)),
    "exp": lambda n: n,
    "gelu": _gelu,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": _hard_swish,
    "leaky_relu": _leaky_relu,
    "log": lambda n: emit("reciprocal", operand(n)),
    "mish": _mish,
    "neg": lambda n: scalar(-1, n),
    "reciprocal": lambda n: emit("neg", _square(n)),
    "relu": lambda n: _step(operand(n)),
    "selu": _selu,
    "sigmoid": lambda n: emit("mul", n, _from_one(n)),
    "sin": lambda n: emit("cos", operand(n)),
    "sinh": lambda n: emit("cosh", operand(n)),
    "softplus": lambda n: emit("sigmoid", operand(n)),
    "softsign": _softsign,
    "sqrt": lambda n: emit("div", scalar(0.5, n), n),
    "tan": lambda n: emit("add", scalar(1, n), _square(n)),
    "tanh": lambda n: _from_one(_square(n)),
    "thresholded_relu": lambda n: emit(
        "where", emit("greater", operand(n), _number(n, "alpha", 1.0)), scalar(1, n), scalar(0, n)
    ),
}


def _by_slope(n: Node, g: Node) -> Gradients:
    return (emit("mul", g, SLOPES[n.op](n)),)


# --- several operands, element by element ---------------------------------------------------------


def _mul(n: Node, g: Node) -> Gradients:
    a, b = operand(n, 0), operand(n, 1)
    return like(emit("mul", g, b), a), like(emit("mul", g, a), b)


def _div(n: Node, g: Node) -> Gradients:
    a, b = operand(n, 0), operand(n, 1)
    by_b = emit("div", g, b)
    return like(by_b, a), like(emit("neg", emit("mul", by_b, n)), b)


def _pow(n: Node, g: Node) -> Gradients:
    """b · a^(b - 1), and a^b · log(a), which is 0 where a is not above 0."""
    a, b = operand(n, 0), operand(n, 1)
    power = b if b.type.dtype == a.type.dtype else emit("cast", b, to=a.type.dtype)
    below = emit("mul", power, emit("pow", a, emit("sub", power, scalar(1, a))))
    positive = emit("greater", a, scalar(0, a))
    log = emit(
        "where", positive, emit("log", emit("where", positive, a, scalar(1, a))), scalar(0, a)
    )
    up = like(emit("mul", g, emit("mul", n, log)), b) if b.type.dtype == a.type.dtype else None
    return like(emit("mul", g, below), a), up


def _larger(first: str) -> Rule:
    def rule(n: Node, g: Node) -> Gradients:
        a, b = operand(n, 0), operand(n, 1)
        chosen, nothing = emit(first, a, b), scalar(0, g)
        return (
            like(emit("where", chosen, g, nothing), a),
            like(emit("where", chosen, nothing, g), b),
        )

    return rule


def _where(n: Node, g: Node) -> Gradients:
    cond, nothing = operand(n, 0), scalar(0, g)
    return (
        None,
        like(emit("where", cond, g, nothing), operand(n, 1)),
        like(emit("where", cond, nothing, g), operand(n, 2)),
    )


def _clip(n: Node, g: Node) -> Gradients:
    """To x where it lies in between, else to the bound."""
    x, nothing, found = operand(n), scalar(0, g), list[Node | None]()
    for k, beyond in ((2, "greater"), (1, "less")):
        bound = n.inputs[k] if k < len(n.inputs) else None
        if bound is not None:
            out = emit(beyond, x, bound)
            found.insert(0, like(emit("where", out, g, nothing), bound))
            g = emit("where", out, nothing, g)
        else:
            found.insert(0, None)
    return (g, *found)[: len(n.inputs)]


def _prelu(n: Node, g: Node) -> Gradients:
    x, slope = operand(n, 0), operand(n, 1)
    below = emit("less", x, scalar(0, x))
    to_x = emit("mul", g, emit("where", below, slope, scalar(1, x)))
    return to_x, like(emit("where", below, emit("mul", g, x), scalar(0, x)), slope)


# --- along axes -----------------------------------------------------------------------------------


def _axes(n: Node) -> tuple[int, ...]:
    found = n.attr("axes")
    assert isinstance(found, tuple)
    return tuple(int(str(k)) for k in found)


def _kept(n: Node, r: Node) -> Node:
    """r, of the shape of a reduction n, with the axes that n reduced as 1."""
    axes = _axes(n)
    shape = tuple(ONE if k in axes else d for k, d in enumerate(operand(n).type.shape))
    return emit("reshape", r, shape=shape)


def _reduce_sum(n: Node, g: Node) -> Gradients:
    return (emit("expand", _kept(n, g), shape=operand(n).type.shape),)


def _size_as(x: Node, size: Expr) -> Node:
    """A size as a number of x's dtype: the sum of so many ones where only running tells it."""
    value = known(size)
    if value is not None:
        return scalar(float(value), x)
    counted = filled(1.0, "f32", (size,), x)
    return emit("cast", emit("reduce_sum", counted, axes=(0,), keepdims=False), to=x.type.dtype)


def _reduce_mean(n: Node, g: Node) -> Gradients:
    x = operand(n)
    count = _size_as(x, prod(x.type.shape[k] for k in _axes(n)))
    return _reduce_sum(n, emit("div", g, count))


def _reduce_extreme(n: Node, g: Node) -> Gradients:
    x = operand(n)
    hit = emit("cast", emit("equal", x, _kept(n, n)), to=x.type.dtype)
    count = emit("reduce_sum", hit, axes=_axes(n), keepdims=True)
    return (emit("mul", hit, emit("div", _kept(n, g), count)),)


def _softmax(n: Node, g: Node) -> Gradients:
    axis = int(str(n.attr("axis", -1))) % n.type.rank
    total = emit("reduce_sum", emit("mul", g, n), axes=(axis,), keepdims=True)
    return (emit("mul", n, emit("sub", g, total)),)


def _log_softmax(n: Node, g: Node) -> Gradients:
    axis = int(str(n.attr("axis", -1))) % n.type.rank
    total = emit("reduce_sum", g, axes=(axis,), keepdims=True)
    return (emit("sub", g, emit("mul", emit("exp", n), total)),)


def _global_average_pool(n: Node, g: Node) -> Gradients:
    x = operand(n)
    count = _size_as(x, prod(x.type.shape[2:]))
    return (emit("expand", emit("div", g, count), shape=x.type.shape),)


# --- products -------------------------------------------------------------------------------------


def _last_two(x: Node) -> Node:
    rank = x.type.rank
    return emit("transpose", x, perm=(*range(rank - 2), rank - 1, rank - 2))


def _matmul(n: Node, g: Node) -> Gradients:
    """g · b' and a' · g. A matrix b that many matrices a meet takes all their rows at once."""
    a, b = operand(n, 0), operand(n, 1)
    left = emit("reshape", a, shape=(ONE, *a.type.shape)) if a.type.rank == 1 else a
    right = emit("reshape", b, shape=(*b.type.shape, ONE)) if b.type.rank == 1 else b
    batch = g.type.shape[: g.type.rank - (a.type.rank > 1) - (b.type.rank > 1)]
    rows, columns = left.type.shape[-2], right.type.shape[-1]
    whole = emit("reshape", g, shape=(*batch, rows, columns))
    to_a = like(emit("matmul", whole, _last_two(right)), left)
    if right.type.rank == 2 and left.type.rank > 2:
        count = prod((*batch, rows))
        left = emit("reshape", left, shape=(count, left.type.shape[-1]))
        whole = emit("reshape", whole, shape=(count, columns))
    to_b = like(emit("matmul", _last_two(left), whole), right)
    return (
        emit("reshape", to_a, shape=a.type.shape) if a.type.rank == 1 else to_a,
        emit("reshape", to_b, shape=b.type.shape) if b.type.rank == 1 else to_b,
    )


def _conv(n: Node, g: Node) -> Gradients:
    """To x: every output spreads over its window. To w: the sums of products of x, its channels as
    images, with g as filters, whose taps are as far apart as windows are."""
    x, w = operand(n, 0), operand(n, 1)
    rank, group = x.type.rank - 2, int(str(n.attr("group", 1)))
    once, attrs = (1,) * rank, dict(n.attrs)
    strides = ints({"strides": attrs.get("strides") or once}, "strides")
    dilations = ints({"dilations": attrs.get("dilations") or once}, "dilations")
    to_x = emit(
        "conv_transpose",
        g,
        w,
        strides=strides,
        dilations=dilations,
        group=group,
        begin=(0,) * rank,
        size=x.type.shape[2:],
    )
    images, channels, *spatial = x.type.shape
    parts = floordiv(channels, group)
    rest = tuple(range(3, 3 + rank))
    apart = emit("reshape", x, shape=(images, group, parts, *spatial))
    turned = emit("transpose", apart, perm=(2, 1, 0, *rest))
    turned = emit("reshape", turned, shape=(parts, mul(images, group), *spatial))
    filters = emit("transpose", g, perm=(1, 0, *range(2, 2 + rank)))
    sums = emit("conv", turned, filters, strides=dilations, dilations=strides, group=group)
    axes, starts, ends = tuple(range(2, 2 + rank)), (0,) * rank, w.type.shape[2:]
    taps = emit("slice", sums, starts=starts, ends=ends, axes=axes)
    return to_x, emit("transpose", taps, perm=(1, 0, *axes))


# --- normalisations, as compositions --------------------------------------------------------------


def _normalized(n: Node, centred: Node) -> Node:
    """x / sqrt(mean of squares + epsilon) · scale + bias, over the axes from `axis` on."""
    axes = tuple(range(int(str(n.attr("axis", -1))) % n.type.rank, n.type.rank))
    squares = emit("reduce_mean", _square(centred), axes=axes, keepdims=True)
    epsilon = n.attr("epsilon", 1e-5)
    assert isinstance(epsilon, int | float)
    root = emit("sqrt", emit("add", squares, scalar(epsilon, centred)))
    scale, bias = operand(n, 1), n.inputs[2] if len(n.inputs) > 2 else None
    out = emit("mul", emit("div", centred, root), as_dtype(scale, centred.type.dtype))
    out = out if bias is None else emit("add", out, as_dtype(bias, centred.type.dtype))
    return as_dtype(out, n.type.dtype)


def _layer_normalization(n: Node) -> Node:
    x = _wide(operand(n))
    axes = tuple(range(int(str(n.attr("axis", -1))) % n.type.rank, n.type.rank))
    return _normalized(n, emit("sub", x, emit("reduce_mean", x, axes=axes, keepdims=True)))


def _wide(x: Node) -> Node:
    dtype = compute_dtype(x.type.dtype)
    return x if x.type.dtype == dtype else emit("cast", x, to=dtype)


COMPOSITIONS: Mapping[str, Callable[[Node], Node]] = {
    "layer_normalization": _layer_normalization,
    "rms_normalization": lambda n: _normalized(n, _wide(operand(n))),
}


# --- what moves elements --------------------------------------------------------------------------


def _reshape(n: Node, g: Node) -> Gradients:
    return (emit("reshape", g, shape=operand(n).type.shape),)


def _transpose(n: Node, g: Node) -> Gradients:
    perm = n.attr("perm")
    assert isinstance(perm, tuple)
    order = [int(str(p)) for p in perm]
    return (emit("transpose", g, perm=tuple(order.index(k) for k in range(len(order)))),)


def _concat(n: Node, g: Node) -> Gradients:
    axis = int(str(n.attr("axis"))) % n.type.rank
    found: list[Node] = []
    start: Expr = ZERO
    for k in range(len(n.inputs)):
        end = add(start, operand(n, k).type.shape[axis])
        found.append(emit("slice", g, starts=(start,), ends=(end,), axes=(axis,)))
        start = end
    return found


def _slice(n: Node, g: Node) -> Gradients:
    """Zeros around what was cut out."""
    x, attrs = operand(n), dict(n.attrs)
    starts, ends = sizes(attrs, "starts"), sizes(attrs, "ends")
    axes = [int(str(k)) for k in attrs.get("axes") or range(len(starts))]  # pyright: ignore
    steps = sizes(attrs, "steps") if attrs.get("steps") else [ONE] * len(starts)
    begin, end = [ZERO] * x.type.rank, [ZERO] * x.type.rank
    for axis, low, high, step in zip(axes, starts, ends, steps, strict=True):
        if step is not ONE:
            raise Unsupported("the derivative of a slice with steps")
        k = axis % x.type.rank
        first, count = slice_bounds(x.type.shape[k], low, high, step)
        begin[k], end[k] = first, sub(x.type.shape[k], add(first, count))
    return (emit("pad", g, pads=(*begin, *end), mode="constant"),)


def _pad(n: Node, g: Node) -> Gradients:
    x, pads = operand(n), sizes(dict(n.attrs), "pads")
    if n.attr("mode", "constant") != "constant":
        raise Unsupported(f"the derivative of padding by {n.attr('mode')}")
    starts = tuple(pads[: x.type.rank])
    if any((known(p) if known(p) is not None else -1) < 0 for p in pads):  # pyright: ignore
        raise Unsupported("the derivative of padding by sizes that only data tell, or below 0")
    ends = tuple(add(b, d) for b, d in zip(starts, x.type.shape, strict=True))
    return (emit("slice", g, starts=starts, ends=ends, axes=tuple(range(x.type.rank))),)


def _tile(n: Node, g: Node) -> Gradients:
    x, repeats = operand(n), sizes(dict(n.attrs), "repeats")
    pairs = [d for r, size in zip(repeats, x.type.shape, strict=True) for d in (r, size)]
    apart = emit("reshape", g, shape=tuple(pairs))
    axes = tuple(range(0, len(pairs), 2))
    return (emit("reduce_sum", apart, axes=axes, keepdims=False),)


def _gather(n: Node, g: Node) -> Gradients:
    """Rows of g are added up where they came from."""
    x, at = operand(n, 0), operand(n, 1)
    axis, shape = int(str(n.attr("axis", 0))) % x.type.rank, x.type.shape
    before, after = shape[:axis], shape[axis + 1 :]
    count, width = prod(at.type.shape), prod((*before, *after))
    rank, many = g.type.rank, at.type.rank
    front = (*range(axis, axis + many), *range(axis), *range(axis + many, rank))
    rows = emit("reshape", emit("transpose", g, perm=front), shape=(count, width))
    places = emit("reshape", at, shape=(count, 1))
    start = filled(0.0, g.type.dtype, (shape[axis], width), x)
    total = emit("scatter_nd", start, places, rows, reduction="add")
    total = emit("reshape", total, shape=(shape[axis], *before, *after))
    back = (*range(1, axis + 1), 0, *range(axis + 1, x.type.rank))
    return emit("transpose", total, perm=back), None


def _gather_elements(n: Node, g: Node) -> Gradients:
    x, at = operand(n, 0), operand(n, 1)
    axis = int(str(n.attr("axis", 0)))
    return emit("scatter_elements", zeros(x), at, g, axis=axis, reduction="add"), None


def _cumsum(n: Node, g: Node) -> Gradients:
    attrs = {**dict(n.attrs), "reverse": int(not n.attr("reverse", 0))}
    return (emit("cumsum", g, **attrs),)


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(SLOPES, _by_slope),
    "add": lambda n, g: (like(g, operand(n, 0)), like(g, operand(n, 1))),
    "cast": lambda n, g: (emit("cast", g, to=operand(n).type.dtype),),
    "clip": _clip,
    "concat": _concat,
    "conv": _conv,
    "cumsum": _cumsum,
    "div": _div,
    "expand": lambda n, g: (like(g, operand(n)),),
    "gather": _gather,
    "gather_elements": _gather_elements,
    "global_average_pool": _global_average_pool,
    "identity": lambda n, g: (g,),
    "log_softmax": _log_softmax,
    "matmul": _matmul,
    "max": _larger("greater_or_equal"),
    "min": _larger("less_or_equal"),
    "mul": _mul,
    "pad": _pad,
    "pow": _pow,
    "prelu": _prelu,
    "reduce_max": _reduce_extreme,
    "reduce_mean": _reduce_mean,
    "reduce_min": _reduce_extreme,
    "reduce_sum": _reduce_sum,
    "reshape": _reshape,
    "slice": _slice,
    "softmax": _softmax,
    "sub": lambda n, g: (like(g, operand(n, 0)), like(emit("neg", g), operand(n, 1))),
    "tile": _tile,
    "transpose": _transpose,
    "where": _where,
    "with_sizes": lambda n, g: (g, *[None] * (len(n.inputs) - 1)),
}
