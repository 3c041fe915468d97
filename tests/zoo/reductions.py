"""Reductions, arg-max, softmax and cumulative sums."""

from __future__ import annotations

import numpy as np

from .build import add_text, between, distinct, ints, positive

SIZES = ({"n": 1, "m": 1}, {"n": 3, "m": 5}, {"n": 4, "m": 130})
REDUCTIONS = (
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceSumSquare",
)

for op in REDUCTIONS:
    add_text(
        f"{op.lower()}_last_axis",
        f"(float[n,m] x) => (float[n,1] kept, float[n] gone) "
        f"{{ kept = {op}(x, axes) gone = {op} <keepdims = 0> (x, axes) }}",
        {"axes": ints(-1)},
        opset=18,
        sizes=SIZES,
        values={"x": positive},
    )

# name, output, nodes; the input is float[n,m,3] x
VARIANTS = (
    ("all_axes_kept", "float[1,1,1]", "y = ReduceSum(x)"),
    ("all_axes_gone", "float", "y = ReduceSum <keepdims = 0> (x)"),
    ("noop_with_empty_axes", "float[n,m,3]", "y = ReduceSum <noop_with_empty_axes = 1> (x)"),
    (
        "empty_axes_reduce_all",
        "float",
        "a = Constant <value = int64[0] {}> () y = ReduceSum <keepdims = 0> (x, a)",
    ),
    (
        "first_axis",
        "float[m,3]",
        "a = Constant <value_ints = [0]> () y = ReduceSum <keepdims = 0> (x, a)",
    ),
    (
        "outer_axes",
        "float[m]",
        "a = Constant <value_ints = [0, 2]> () y = ReduceMax <keepdims = 0> (x, a)",
    ),
    (
        "negative_unsorted_axes",
        "float[n]",
        "a = Constant <value_ints = [-1, 1]> () y = ReduceMean <keepdims = 0> (x, a)",
    ),
    (
        "reduce_then_broadcast",
        "float[n,m,3]",
        "a = Constant <value_ints = [-1]> () t = ReduceMax(x, a) u = Sub(x, t) y = Exp(u)",
    ),
    (
        "variance_spelled_out",
        "float[n,m,1]",
        "a = Constant <value_ints = [-1]> () m = ReduceMean(x, a) d = Sub(x, m) e = Mul(d, d) "
        "y = ReduceMean(e, a)",
    ),
)
for name, result, nodes in VARIANTS:
    add_text(
        f"reduce_{name}",
        f"(float[n,m,3] x) => ({result} y) {{ {nodes} }}",
        opset=18,
        sizes=({"n": 1, "m": 1}, {"n": 2, "m": 7}),
    )
add_text(
    "reduce_axes_attribute",
    "(float[n,m,3] x) => (float[n,3] y) { y = ReduceMax <axes = [1], keepdims = 0> (x) }",
    opset=13,
    sizes=({"n": 2, "m": 7},),
)
add_text(
    "reduce_integers",
    "(int64[n,m] x) => (int64[n] y, int64[n] z, int32[m] w) {"
    " y = ReduceSum <keepdims = 0> (x, last)"
    " z = ReduceMax <axes = [1], keepdims = 0> (x) c = Cast <to = 6> (x)"
    " w = ReduceMin <axes = [0], keepdims = 0> (c) }",
    {"last": ints(1)},
    sizes=SIZES,
)
add_text(
    "arg_max_min",
    "(float[n,m] x) => (int64[n,1] kept, int64[n] gone, int64[m] first, int64[m] last) {"
    " h = Floor(x) kept = ArgMax <axis = 1> (x) gone = ArgMin <axis = -1, keepdims = 0> (x)"
    " first = ArgMax <axis = 0, keepdims = 0> (h)"
    " last = ArgMax <axis = 0, keepdims = 0, select_last_index = 1> (h) }",
    sizes=SIZES,
    values={"x": distinct},
)
for op in ("Softmax", "LogSoftmax", "Hardmax"):
    add_text(
        f"{op.lower()}_axes",
        f"(float[n,m,3] x) => (float[n,m,3] y, float[n,m,3] z) "
        f"{{ y = {op}(x) z = {op} <axis = 1> (x) }}",
        sizes=({"n": 1, "m": 1}, {"n": 2, "m": 9}),
        values={"x": distinct},
    )
add_text(
    "softmax_opset_11_flattens",
    "(float[n,m,3] x) => (float[n,m,3] y) { y = Softmax <axis = 1> (x) }",
    opset=11,
    sizes=({"n": 2, "m": 5},),
)
add_text(
    "softmax_large_values",
    "(float[n,m] x) => (float[n,m] y) { s = Constant <value_float = 1000.0> () t = Mul(x, s)"
    " y = Softmax(t) }",
    sizes=SIZES,
)
add_text(
    "softmax_masked_row",
    # Minus infinity is how exporters write a mask.
    "(float[n,6] x) => (float[n,6] y) { t = Add(x, mask) y = Softmax(t) }",
    {"mask": np.array([0, -np.inf, 0, -np.inf, -np.inf, 0], np.float32)},
    sizes=({"n": 1}, {"n": 4}),
)
add_text(
    "cumsum",
    "(float[n,m] x) => (float[n,m] y, float[n,m] z) {"
    " one = Constant <value_int = 1> () y = CumSum(x, one) zero = Constant <value_int = 0> ()"
    " z = CumSum <exclusive = 1, reverse = 1> (x, zero) }",
    sizes=SIZES,
)
add_text(
    "cumsum_integers",
    "(int64[n] x) => (int64[n] y) { zero = Constant <value_int = 0> () y = CumSum(x, zero) }",
    sizes=({"n": 1}, {"n": 40}),
    values={"x": between(-1000, 1000)},
)
