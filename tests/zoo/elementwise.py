"""Elementwise operators: arithmetic, logic, casts, broadcasting, and chains of them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from .build import (
    IR_VERSION,
    OPSET,
    Maker,
    add,
    add_text,
    between,
    halves,
    nonzero,
    normal,
    positive,
    special,
    text,
    unit,
    weight,
)

VECTOR = ({"n": 1}, {"n": 7}, {"n": 64}, {"n": 1001})

# (ONNX op with attributes, opset, values of x). Values are chosen inside the domain; `special`
# where ONNX Runtime and the standard agree on NaN, infinities and signed zeros.
UNARY: tuple[tuple[str, int, Maker], ...] = (
    ("Abs", 17, special),
    ("Neg", 17, special),
    ("Exp", 17, normal),
    ("Log", 17, positive),
    ("Sqrt", 17, positive),
    ("Reciprocal", 17, positive),
    ("Sigmoid", 17, normal),
    ("Tanh", 17, normal),
    ("Erf", 17, normal),
    ("Relu", 17, normal),
    ("LeakyRelu <alpha = 0.2>", 17, normal),
    ("ThresholdedRelu <alpha = 0.5>", 17, normal),
    ("Elu <alpha = 1.5>", 17, normal),
    ("Selu", 17, normal),
    ("Celu <alpha = 2.0>", 17, normal),
    ("HardSigmoid <alpha = 0.3, beta = 0.4>", 17, normal),
    ("HardSwish", 17, normal),
    ("Softplus", 17, normal),
    ("Softsign", 17, normal),
    ("Mish", 18, normal),
    ("Gelu", 20, normal),
    ('Gelu <approximate = "tanh">', 20, normal),
    ("Floor", 17, special),
    ("Ceil", 17, special),
    ("Round", 17, halves),
    ("Sign", 17, normal),
    ("Sin", 17, normal),
    ("Cos", 17, normal),
    ("Tan", 17, unit),
    ("Asin", 17, unit),
    ("Acos", 17, unit),
    ("Atan", 17, normal),
    ("Sinh", 17, normal),
    ("Cosh", 17, normal),
    ("Asinh", 17, normal),
    ("Acosh", 17, lambda rng, shape: positive(rng, shape) + np.float32(1)),
    ("Atanh", 17, unit),
    ("Identity", 17, special),
)
for op, opset, maker in UNARY:
    name = op.split()[0].lower() + ("_tanh" if "approximate" in op else "")
    add_text(
        f"unary_{name}",
        f"(float[n] x) => (float[n] y) {{ y = {op}(x) }}",
        opset=opset,
        sizes=VECTOR,
        values={"x": maker},
    )

for op in ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max"):
    add_text(
        f"binary_{op.lower()}",
        f"(float[n] a, float[n] b) => (float[n] y) {{ y = {op}(a, b) }}",
        sizes=VECTOR,
        values={"a": positive, "b": positive},
    )

for op in ("Add", "Mul"):
    add_text(
        f"binary_{op.lower()}_special",
        f"(float[n] a, float[n] b) => (float[n] y) {{ y = {op}(a, b) }}",
        sizes=({"n": 40},),
        values={"a": special},
    )

for op in ("Sum", "Mean", "Min", "Max"):
    add_text(
        f"variadic_{op.lower()}",
        f"(float[n,3] a, float[3] b, float[1,1] c) => (float[n,3] y) {{ y = {op}(a, b, c) }}",
        sizes=({"n": 1}, {"n": 9}),
    )
add_text("variadic_one_operand", "(float[n] a) => (float[n] y) { y = Sum(a) }", sizes=({"n": 5},))

for op in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
    add_text(
        f"compare_{op.lower()}",
        f"(float[n] a, float[n] b) => (bool[n] y) {{ y = {op}(a, b) }}",
        sizes=({"n": 1}, {"n": 50}),
        values={"a": halves, "b": halves},
    )
add_text(
    "compare_nan",
    "(float[n] a, float[n] b) => (bool[n] y, bool[n] z, bool[n] w, bool[n] v) "
    "{ y = Equal(a, b) z = Less(a, b) w = GreaterOrEqual(a, b) v = IsNaN(a) }",
    sizes=({"n": 20},),
    values={"a": special, "b": special},
)
add_text(
    "is_inf",
    "(float[n] x) => (bool[n] y, bool[n] z) { y = IsInf(x) z = IsInf <detect_negative = 0>(x) }",
    sizes=({"n": 20},),
    values={"x": special},
)
add_text(
    "prelu_per_channel",
    "(float[n,3,2] x) => (float[n,3,2] y) { y = PRelu(x, slope) }",
    {"slope": np.array([0.1, -0.5, 2.0], np.float32).reshape(3, 1)},
    sizes=({"n": 1}, {"n": 4}),
)


def integer_model() -> onnx.ModelProto:
    """int64 and int32 arithmetic; Div truncates, Mod floors, fmod truncates, all of both signs."""
    return text(
        """(int64[n] a, int64[n] b, int32[n] c) =>
           (int64[n] quotient, int64[n] floor_mod, int64[n] trunc_mod, int64[n] mixed, int32[n] t) {
          quotient = Div(a, b)
          floor_mod = Mod(a, b)
          trunc_mod = Mod <fmod = 1> (a, b)
          product = Mul(quotient, b)
          difference = Sub(a, product)
          negated = Neg(difference)
          magnitude = Abs(negated)
          mixed = Max(magnitude, floor_mod)
          five = Constant <value = int32 {5}> ()
          minus_two = Constant <value = int32 {-2}> ()
          u = Mul(c, five)
          v = Div(u, minus_two)
          t = Mod(v, five)
        }"""
    )


add(
    "integer_model",
    integer_model,
    sizes=({"n": 1}, {"n": 100}),
    values={"a": between(-20, 20), "b": nonzero},
)
add_text(
    "integer_large",
    "(int64[n] a, int64[n] b) => (int64[n] y) { p = Mul(a, b) y = Add(p, a) }",
    sizes=({"n": 33},),
    values={"a": between(-(2**40), 2**40), "b": between(-1000, 1000)},
)
add_text(
    "integer_power_sign",
    "(int64[n] a, int64[n] e) => (int64[n] y, int64[n] s) { y = Pow(a, e) s = Sign(a) }",
    sizes=({"n": 20},),
    values={"a": between(-5, 5), "e": between(0, 6)},
)
add_text(
    "float_mod",
    "(float[n] a, float[n] b) => (float[n] y) { y = Mod <fmod = 1> (a, b) }",
    sizes=({"n": 30},),
    values={"a": lambda rng, shape: normal(rng, shape) * np.float32(5), "b": positive},
)
add_text(
    "bits",
    "(uint32[n] a, uint32[n] s, int32[n] b) => "
    "(uint32[n] left, uint32[n] right, int32[n] both, int32[n] some, int32[n] other, int32[n] no) {"
    ' left = BitShift <direction = "LEFT"> (a, s) right = BitShift <direction = "RIGHT"> (a, s)'
    " seven = Constant <value = int32 {7}> () both = BitwiseAnd(b, seven)"
    " some = BitwiseOr(b, seven) other = BitwiseXor(b, seven) no = BitwiseNot(b) }",
    opset=18,
    sizes=({"n": 17},),
    values={"a": between(0, 2**31, np.uint32), "s": between(0, 8, np.uint32)},
)


def boolean_model() -> onnx.ModelProto:
    """Comparisons, And, Or, Xor, Not, and Where on what they say."""
    return text(
        """(float[n] x, float[n] y, bool[n] mask) => (float[n] chosen, bool[n] odd) {
          greater = Greater(x, y)
          not_greater = Not(greater)
          both = And(greater, mask)
          either = Or(both, not_greater)
          odd = Xor(either, mask)
          chosen = Where(odd, x, y)
        }"""
    )


add("boolean_model", boolean_model, sizes=({"n": 1}, {"n": 65}))
add_text(
    "where_broadcast",
    "(bool[n,1] c, float[1,m] x, float s) => (float[n,m] y) { y = Where(c, x, s) }",
    sizes=({"n": 1, "m": 1}, {"n": 3, "m": 5}),
)


def broadcast_model() -> onnx.ModelProto:
    """Each way of broadcasting: rows, columns, a scalar, more leading dims, size 1 inside."""
    return text(
        """(float[a,1,c] x, float[b,1] y, float[c] z, float s) => (float[a,b,c] out) {
          t = Add(x, y)
          u = Mul(t, z)
          v = Sub(u, s)
          w = Div(v, two)
          out = Max(w, x)
        }""",
        {"two": np.full((1, 1, 1), 2.0, np.float32)},
    )


add(
    "broadcast_model",
    broadcast_model,
    sizes=({"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 3, "c": 5}, {"a": 1, "b": 8, "c": 17}),
)
add_text(
    "broadcast_of_two_symbols",
    # That k is n is known only when the model runs. (Sizes of which one is 1 are refused then.)
    "(float[n] x, float[k] y) => (float[m] z) { z = Add(x, y) }",
    sizes=({"n": 4, "k": 4}, {"n": 1, "k": 1}),
)


def scalar_model() -> onnx.ModelProto:
    """Rank 0 in, rank 0 out, and rank 0 met by rank 2 on the way."""
    return text(
        """(float x, float[n,2] table) => (float y, float total) {
          square = Mul(x, x)
          y = Sqrt(square)
          scaled = Mul(table, y)
          total = ReduceSum <keepdims = 0> (scaled)
        }"""
    )


add("scalar_model", scalar_model, sizes=({"n": 1}, {"n": 6}))


def empty_tensor_model() -> onnx.ModelProto:
    """Dims of size 0: elementwise work, concatenation, and a sum over nothing."""
    return text(
        """(float[n,3] x) => (float[n,3] y, float[m,3] longer, float[3] sums) {
          y = Relu(x)
          longer = Concat <axis = 0> (y, row, nothing)
          axis = Constant <value_ints = [0]> ()
          sums = ReduceSum <keepdims = 0> (y, axis)
        }""",
        {"row": weight(1, 3), "nothing": np.zeros((0, 3), np.float32)},
    )


add("empty_tensor_model", empty_tensor_model, sizes=({"n": 0}, {"n": 2}))

for source, target, maker in (
    ("float", "INT32", halves),
    ("float", "INT64", halves),
    ("float", "UINT8", lambda rng, shape: rng.integers(0, 200, shape).astype(np.float32)),
    ("float", "BOOL", halves),
    ("float", "DOUBLE", normal),
    ("float", "FLOAT16", normal),
    ("float", "BFLOAT16", normal),
    ("int64", "FLOAT", between(-(2**30), 2**30)),
    ("int64", "INT32", between(-(2**40), 2**40)),
    ("int64", "UINT8", between(-1000, 1000)),
    ("int32", "INT8", between(-1000, 1000, np.int32)),
    ("int64", "BOOL", between(-1, 1)),
    ("bool", "FLOAT", lambda rng, shape: rng.integers(0, 2, shape).astype(bool)),
    ("bool", "INT64", lambda rng, shape: rng.integers(0, 2, shape).astype(bool)),
    ("uint8", "FLOAT", between(0, 255, np.uint8)),
    ("int8", "FLOAT", between(-128, 127, np.int8)),
    ("double", "FLOAT", lambda rng, shape: rng.standard_normal(shape)),
    ("float16", "FLOAT", lambda rng, shape: normal(rng, shape).astype(np.float16)),
):
    # bfloat16 has no numpy type of its own, so that case comes back to float.
    out = "float" if target == "BFLOAT16" else target.lower()
    code = TensorProto.DataType.Value(target)
    back = "y = Cast <to = 1> (t)" if target == "BFLOAT16" else "y = Identity(t)"
    add_text(
        f"cast_{source}_to_{target.lower()}",
        f"({source}[n] x) => ({out}[n] y) {{ t = Cast <to = {code}> (x) {back} }}",
        sizes=({"n": 1}, {"n": 77}),
        values={"x": maker},
    )
add_text(
    "double_arithmetic",
    "(double[n] x) => (double[n] y) { a = Mul(x, x) b = Add(a, x) c = Neg(b) y = Exp(c) }",
    sizes=({"n": 31},),
)
add_text(
    "clip",
    "(float[n] x) => (float[n] y, float[n] low_only, float[n] high_only) "
    '{ y = Clip(x, low, high) low_only = Clip(x, low) high_only = Clip(x, "", high) }',
    {"low": np.float32(-0.5), "high": np.float32(0.75)},
    sizes=({"n": 1}, {"n": 90}),
)
add_text(
    "clip_bounds_from_inputs",
    "(float[n] x, float low, float high) => (float[n] y) { y = Clip(x, low, high) }",
    sizes=({"n": 40},),
    values={"low": unit, "high": positive},
)
add_text(
    "clip_attributes_opset_6",
    "(float[n] x) => (float[n] y) { y = Clip <min = -0.25, max = 0.5> (x) }",
    opset=6,
    sizes=({"n": 40},),
)
add_text(
    "clip_integers",
    "(int64[n] x) => (int64[n] y) { y = Clip(x, low, high) }",
    {"low": np.int64(-3), "high": np.int64(4)},
    sizes=({"n": 40},),
)


def several_outputs() -> onnx.ModelProto:
    """An input that is an output, a value used inside and outside, one output with two names."""
    return text(
        """(float[n] x) => (float[n] copy, float[n] middle, float[n] twin, float[n] last) {
          copy = Identity(x)
          middle = Relu(x)
          twin = Identity(middle)
          last = Add(middle, x)
        }"""
    )


add("several_outputs", several_outputs, sizes=({"n": 1}, {"n": 33}))
add_text(
    "constant_output",
    "(float[n] x) => (float[n] y, float[2] c) "
    "{ y = Neg(x) c = Constant <value_floats = [1.5, -2.5]> () }",
    sizes=({"n": 3},),
)
add_text(
    "unused_input",
    "(float[n] x, float[n] ignored) => (float[n] y) { y = Neg(x) }",
    sizes=({"n": 3},),
)


def chain(n: int = 10_000) -> onnx.ModelProto:
    """n elementwise nodes in a row; a recursive walk over them overflows the stack."""
    ops = ("Neg", "Abs", "Relu", "Sigmoid", "Tanh")
    nodes = []
    for index in range(n):
        source = f"v{index - 1}" if index else "x"
        target = f"v{index}" if index < n - 1 else "y"
        nodes.append(helper.make_node(ops[index % len(ops)], [source], [target]))
    return _vector_model(nodes, f"chain_{n}")


def diamond(n: int = 100) -> onnx.ModelProto:
    """x = x + x, n times: 2**n paths, so a walk that forgets where it was never ends.

    The input is first scaled by 2**-n, so the answer is exactly the input.
    """
    scale = helper.make_node("Constant", [], ["scale"], value_float=2.0**-n)
    nodes = [scale, helper.make_node("Mul", ["x", "scale"], ["v0"])]
    for index in range(n):
        target = f"v{index + 1}" if index < n - 1 else "y"
        nodes.append(helper.make_node("Add", [f"v{index}", f"v{index}"], [target]))
    return _vector_model(nodes, f"diamond_{n}")


def _vector_model(nodes: list[onnx.NodeProto], name: str) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph(nodes, name, [x], [y])
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


add("chain_100", lambda: chain(100), sizes=({"n": 5},))
add("chain_10000", chain, sizes=({"n": 5},), tags=("large",))
add("diamond_100", diamond, sizes=({"n": 5},))
