"""Branches, loops, data-dependent shapes, functions, external weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import external_data_helper

from .build import add, add_text, between, constant, distinct, halves, text, weight

N = ({"n": 1}, {"n": 4}, {"n": 33})


def if_model() -> onnx.ModelProto:
    """If whose branches read outer values and weights, and have bodies of different length."""
    return text(
        """(float[n,3] x, bool flip) => (float[n,3] y) {
          doubled = Add(x, x)
          chosen = If (flip) <
            then_branch = yes () => (float[n,3] a) { t = Neg(doubled) a = Mul(t, w) },
            else_branch = no () => (float[n,3] b) { b = Sub(doubled, x) }
          >
          y = Relu(chosen)
        }""",
        {"w": np.array([1.0, 2.0, -3.0], np.float32)},
    )


for taken in (True, False):
    add(
        f"if_model_{str(taken).lower()}",
        if_model,
        sizes=N,
        values={"flip": constant(taken, np.bool_)},
    )
add_text(
    "if_on_data",
    # The condition is computed; the branches give different shapes.
    """(float[n] x) => (float[m] y) {
      total = ReduceSum <keepdims = 0> (x)
      zero = Constant <value_float = 0.0> ()
      positive = Greater(total, zero)
      y = If (positive) <
        then_branch = yes () => (float[p] a) { a = Concat <axis = 0> (x, x) },
        else_branch = no () => (float[q] b) { b = Neg(x) }
      >
    }""",
    sizes=N,
)
add_text(
    "if_nested",
    """(float[n] x, bool p, bool q) => (float[n] y) {
      y = If (p) <
        then_branch = outer_yes () => (float[n] a) {
          a = If (q) <
            then_branch = inner_yes () => (float[n] c) { c = Exp(x) },
            else_branch = inner_no () => (float[n] d) { d = Neg(x) }
          >
        },
        else_branch = outer_no () => (float[n] b) { b = Identity(x) }
      >
    }""",
    sizes=({"n": 4}, {"n": 5}, {"n": 6}),
)
add_text(
    "if_constant_condition",
    """(float[n] x) => (float[n] y) {
      yes = Constant <value = bool {1}> ()
      y = If (yes) <
        then_branch = a () => (float[n] u) { u = Neg(x) },
        else_branch = b () => (float[n] v) { v = Exp(x) }
      >
    }""",
    sizes=N,
)


def loop_model() -> onnx.ModelProto:
    """A for loop: carried state, a scan output, and an outer value read inside."""
    return text(
        """(float[n] x, int64 trips) => (float[n] final, float[k,n] history) {
          yes = Constant <value = bool {1}> ()
          final, history = Loop (trips, yes, x) <
            body = step (int64 i, bool go, float[n] state)
                   => (bool more, float[n] next, float[n] seen) {
              more = Identity(go)
              half = Constant <value_float = 0.5> ()
              scaled = Mul(state, half)
              count = Cast <to = 1> (i)
              moved = Add(scaled, count)
              next = Add(moved, x)
              seen = Neg(next)
            }
          >
        }"""
    )


def while_model() -> onnx.ModelProto:
    """A while loop: halve until all is below a limit; how many rounds depends on the data."""
    return text(
        """(float[n] x, float limit) => (float[n] final, float[k] sizes, int64 rounds) {
          forever = Constant <value = int64 {1000}> ()
          zero = Constant <value = int64 {0}> ()
          first = ReduceMax <keepdims = 0> (x)
          start = Greater(first, limit)
          final, rounds, sizes = Loop (forever, start, x, zero) <
            body = step (int64 i, bool go, float[n] state, int64 count)
                   => (bool more, float[n] next, int64 counted, float size) {
              half = Constant <value_float = 0.5> ()
              next = Mul(state, half)
              size = ReduceMax <keepdims = 0> (next)
              more = Greater(size, limit)
              one = Constant <value = int64 {1}> ()
              counted = Add(count, one)
            }
          >
        }"""
    )


for trips in (0, 1, 5):
    add(f"loop_model_{trips}", loop_model, sizes=N, values={"trips": constant(trips)})
add(
    "while_model",
    while_model,
    sizes=N,
    values={
        "x": lambda rng, shape: rng.uniform(3, 90, shape).astype(np.float32),
        "limit": constant(1.0, np.float32),
    },
)
add(
    "while_model_never_entered",
    while_model,
    sizes=({"n": 3},),
    values={
        "x": lambda rng, shape: -np.ones(shape, np.float32),
        "limit": constant(1.0, np.float32),
    },
)
add_text(
    "loop_growing_state",
    # The carried value is longer after each round.
    """(float[n] x) => (float[m] y) {
      three = Constant <value = int64 {3}> ()
      yes = Constant <value = bool {1}> ()
      y = Loop (three, yes, x) <
        body = step (int64 i, bool go, float[p] state) => (bool more, float[q] next) {
          more = Identity(go)
          next = Concat <axis = 0> (state, x)
        }
      >
    }""",
    sizes=N,
)
add_text(
    "loop_nested",
    """(float[n] x, int64 trips) => (float[n] y) {
      yes = Constant <value = bool {1}> ()
      y = Loop (trips, yes, x) <
        body = outer (int64 i, bool go, float[n] a) => (bool more, float[n] b) {
          more = Identity(go)
          b = Loop (i, go, a) <
            body = inner (int64 j, bool go2, float[n] c) => (bool more2, float[n] d) {
              more2 = Identity(go2)
              t = Tanh(c)
              d = Add(t, x)
            }
          >
        }
      >
    }""",
    sizes=N,
    values={"trips": constant(4)},
)
add_text(
    "loop_swaps_state",
    # Fibonacci: the new first is the old second, so in-place update must not overwrite too early.
    """(int64 trips, int64[n] a, int64[n] b) => (int64[n] p, int64[n] q) {
      yes = Constant <value = bool {1}> ()
      p, q = Loop (trips, yes, a, b) <
        body = step (int64 i, bool go, int64[n] u, int64[n] v)
               => (bool more, int64[n] s, int64[n] t) {
          more = Identity(go)
          s = Identity(v)
          t = Add(u, v)
        }
      >
    }""",
    sizes=N,
    values={"trips": constant(7), "a": between(0, 3), "b": between(0, 3)},
)
add_text(
    "scan_cumulative",
    """(float[n,3] x, float[3] start) => (float[3] final, float[n,3] sums) {
      final, sums = Scan <
        num_scan_inputs = 1,
        body = step (float[3] state, float[3] row) => (float[3] next, float[3] seen) {
          next = Add(state, row)
          seen = Identity(next)
        }
      > (start, x)
    }""",
    sizes=N,
)
add_text(
    "loop_of_slices",  # whose sizes only the declared ones of the body tell
    """(float[1] y, int64 trips) => (float[1] last, float[k,1] all) {
      yes = Constant <value = bool {1}> ()
      last, all = Loop (trips, yes, y) <
        body = step (int64 i, bool go, float[1] state)
          => (bool more, float[1] next, float[1] seen) {
          more = Identity(go)
          one = Constant <value_ints = [1]> ()
          table = Constant <value_floats = [1.0, 2.0, 3.0, 4.0, 5.0]> ()
          from = Reshape(i, one)
          to = Add(from, one)
          row = Slice(table, from, to)
          next = Add(state, row)
          seen = Identity(next)
        }
      >
    }""",
    values={"trips": constant(5)},
)
add_text(
    "scan_backwards",
    """(float[2,n] x, float[n,2] z, float[2] start) => (float[2] final, float[2,n] sums) {
      final, sums = Scan <
        num_scan_inputs = 2, scan_input_axes = [1, 0], scan_input_directions = [1, 0],
        scan_output_axes = [-1], scan_output_directions = [1],
        body = step (float[2] state, float[2] a, float[2] b) => (float[2] next, float[2] seen) {
          c = Mul(a, b)
          next = Add(state, c)
          seen = Identity(next)
        }
      > (start, x, z)
    }""",
    sizes=N,
)
add_text(
    "scan_of_samples",
    """(float[b,2] start, float[b,n,2] x) => (float[b,2] final, float[b,n,2] sums) {
      final, sums = Scan <
        num_scan_inputs = 1, directions = [1],
        body = step (float[2] state, float[2] row) => (float[2] next, float[2] seen) {
          next = Add(state, row)
          seen = Identity(next)
        }
      > (, start, x)
    }""",
    sizes=({"b": 3, "n": 4}, {"b": 1, "n": 1}),
    opset=8,
)


def nonzero_model() -> onnx.ModelProto:
    """Where x is positive: coordinates and values; how many is known only afterwards."""
    return text(
        """(float[n,5] x) => (int64[k,2] coordinates, float[k] values, float total) {
          zero = Constant <value_float = 0.0> ()
          mask = Greater(x, zero)
          found = NonZero(mask)
          coordinates = Transpose <perm = [1, 0]> (found)
          values = GatherND(x, coordinates)
          total = ReduceSum <keepdims = 0> (values)
        }"""
    )


add("nonzero_model", nonzero_model, sizes=N, values={"x": halves})
add(
    "nonzero_model_nothing_found",
    nonzero_model,
    sizes=({"n": 3},),
    values={"x": lambda rng, shape: -np.ones(shape, np.float32)},
)
add_text(
    "nonzero_then_gather",
    """(float[n] x, float[n,4] table) => (float[k,4] y) {
      found = NonZero(x)
      first = Constant <value_ints = [0]> ()
      rows = Squeeze(found, first)
      y = Gather(table, rows)
    }""",
    sizes=N,
    values={"x": lambda rng, shape: rng.integers(0, 2, shape).astype(np.float32)},
)
add_text(
    "compress",
    "(float[n,3] x, bool[n] keep) => (float[k,3] y) { y = Compress <axis = 0> (x, keep) }",
    sizes=N,
)
add_text(
    "unique_sorted",
    "(int64[n] x) => (int64[k] y, int64[k] first, int64[n] inverse, int64[k] counts) "
    "{ y, first, inverse, counts = Unique <sorted = 1> (x) }",
    sizes=N,
    values={"x": between(-3, 3)},
)
add_text(
    "non_max_suppression",
    "(float[1,n,4] boxes, float[1,2,n] scores) => (int64[k,3] y) "
    "{ y = NonMaxSuppression(boxes, scores, most, overlap, least) }",
    {
        "most": np.array([3], np.int64),
        "overlap": np.array([0.4], np.float32),
        "least": np.array([0.1], np.float32),
    },
    sizes=({"n": 1}, {"n": 12}),
    values={
        "boxes": lambda rng, shape: rng.uniform(0, 1, shape).astype(np.float32),
        "scores": lambda rng, shape: np.abs(distinct(rng, shape)) + np.float32(0.01),
    },
)


def function_model() -> onnx.ModelProto:
    """A local function with an attribute, called twice, that calls another; to be inlined.

    The same inner name `t` occurs in each body and in the graph.
    """
    return text(
        """(float[n] x) => (float[n] y, float[n] z) {
          t = Abs(x)
          y = zoo.scaled_gelu <scale = 2.0> (t)
          u = zoo.scaled_gelu <scale = -0.5> (x)
          z = Add(u, t)
        }
        <domain: "zoo", opset_import: ["" : 17, "zoo" : 1]>
        scaled_gelu <scale> (a) => (b) {
          t = zoo.gelu(a)
          s = Constant <value_float: float = @scale> ()
          b = Mul(t, s)
        }
        <domain: "zoo", opset_import: ["" : 17]>
        gelu (a) => (b) {
          root2 = Constant <value_float = 1.41421356> ()
          t = Div(a, root2)
          e = Erf(t)
          one = Constant <value_float = 1.0> ()
          f = Add(e, one)
          g = Mul(a, f)
          half = Constant <value_float = 0.5> ()
          b = Mul(g, half)
        }"""
    )


add("function_model", function_model, sizes=N)


def external_data_model(folder: Path) -> Path:
    """Writes `external.onnx` and its weights `external.bin`; returns the path of the model.

    Two tensors share one file, the second at an offset.
    """
    model = text(
        "(float[n,16] x) => (float[n,4] y) "
        "{ h = MatMul(x, first) r = Relu(h) y = MatMul(r, second) }",
        {"first": weight(16, 32), "second": weight(32, 4)},
    )
    external_data_helper.convert_model_to_external_data(
        model, location="external.bin", size_threshold=0
    )
    path = folder / "external.onnx"
    onnx.save_model(model, path)
    return path


add_text(
    "if_sizes_by_data",
    # Each branch finds its size only while it runs; what follows uses it.
    """(float[n] x, bool p) => (int64[k,m] y, float[a,b] z) {
      i, w = If (p) <
        then_branch = yes () => (int64[1,q] c, float[n,e] d) {
          c = NonZero(x) two = Constant <value_ints = [-1, 1]> () d = Reshape(x, two)
        },
        else_branch = no () => (int64[1,r] c2, float[g,h] d2) {
          s = Sign(x) t = Relu(s) c2 = NonZero(t)
          one = Constant <value_ints = [1, -1]> () u = Gather(x, c2) d2 = Reshape(u, one)
        }
      >
      y = Mul(i, i)
      z = Transpose(w)
    }""",
    sizes=({"n": 5}, {"n": 3}, {"n": 6}, {"n": 1}),
    values={"p": lambda rng, shape: np.array(bool(rng.integers(2)))},
)
add_text(
    "optional_values",
    # Whether there is a value is known while the model is read.
    """(float[n] x) => (float[n] y) {
      v = OptionalGetElement(x)
      yes = OptionalHasElement(x)
      no = OptionalHasElement()
      a, b = If (yes) <
        then_branch = t () => (float[n] c, float[n] d) { c = Exp(v) d = Neg(v) },
        else_branch = e () => (float[n] c2, float[n] d2) { c2 = Neg(v) d2 = Exp(v) }
      >
      w = Where(no, a, b)
      y = Add(w, x)
    }""",
    opset=18,
    sizes=N,
)
add_text(
    "loop_sizes_of_all_kinds",
    # Two carried values change places while one grows and one shrinks; a branch inside.
    """(float[n] x, float[m] w, int64 k) => (float[a] p, float[b] q, float[k2,c] r) {
      yes = Constant <value = bool {1}> ()
      p, q, r = Loop (k, yes, x, w) <
        body = step (int64 i, bool go, float[s] u, float[t] v)
          => (bool more, float[s2] u2, float[t2] v2, float[1] total) {
          more = Identity(go)
          longer = Concat <axis = 0> (v, u)
          one = Constant <value_ints = [1]> ()
          end = Constant <value_ints = [1000]> ()
          u2 = Neg(longer)
          v2 = Slice(u, one, end)
          zero = Constant <value_ints = [0]> ()
          total = ReduceSum(longer, zero)
        }
      >
    }""",
    sizes=({"n": 3, "m": 2}, {"n": 1, "m": 4}, {"n": 6, "m": 1}, {"n": 2, "m": 0}),
    values={"k": lambda rng, shape: np.array(rng.integers(1, 6))},
)
