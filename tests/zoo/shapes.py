"""Data movement: views, slices, gathers, and shapes computed from shapes."""

from __future__ import annotations

import re

import numpy as np
import onnx

from .build import add, add_text, between, distinct, ints, text, weight

NM = ({"n": 1, "m": 1}, {"n": 2, "m": 3}, {"n": 5, "m": 8})


def split_model() -> onnx.ModelProto:
    """Split into equal and into stated parts, used in another order."""
    return text(
        """(float[n,12] x) => (float[n,4] second, float[n,12] swapped, float[n,2] tail) {
          first, second, third = Split <axis = 1> (x)
          swapped = Concat <axis = 1> (third, first, second)
          head, tail = Split <axis = -1> (x, sizes)
        }""",
        {"sizes": ints(10, 2)},
    )


add("split_model", split_model, sizes=({"n": 1}, {"n": 5}))
add_text(
    "split_uneven",
    "(float[n,7] x) => (float[n,3] a, float[n,3] b, float[n,1] c) "
    "{ a, b, c = Split <axis = 1, num_outputs = 3> (x) }",
    opset=18,
    sizes=({"n": 2},),
)


def five_d_model() -> onnx.ModelProto:
    """Rank 5 through transpose, softmax, reduction and arithmetic."""
    return text(
        """(float[n,2,3,4,m] x) => (float[m,3,n,2,4] y, float[n,2,4] z) {
          t = Transpose <perm = [4, 2, 0, 1, 3]> (x)
          s = Softmax <axis = 1> (t)
          y = Mul(s, t)
          z = ReduceMean <axes = [2, -1], keepdims = 0> (x)
        }"""
    )


add("five_d_model", five_d_model, sizes=NM)

# name, output type, nodes; the input is float[n,m,4] x.
VIEWS = (
    ("transpose_default", "float[4,m,n]", "y = Transpose(x)"),
    ("transpose_perm", "float[m,4,n]", "y = Transpose <perm = [1, 2, 0]> (x)"),
    ("flatten_default", "float[n,k]", "y = Flatten(x)"),
    ("flatten_axis_0", "float[1,k]", "y = Flatten <axis = 0> (x)"),
    ("flatten_axis_last", "float[k,4]", "y = Flatten <axis = -1> (x)"),
    ("reshape_minus_one", "float[k]", "s = Constant <value_ints = [-1]> () y = Reshape(x, s)"),
    (
        "reshape_zero_copies",
        "float[n,k]",
        "s = Constant <value_ints = [0, -1]> () y = Reshape(x, s)",
    ),
    (
        "reshape_split_last",
        "float[n,m,2,2]",
        "s = Constant <value_ints = [0, 0, 2, 2]> () y = Reshape(x, s)",
    ),
    (
        "unsqueeze_squeeze",
        "float[n,m,4]",
        "a = Constant <value_ints = [0, -1]> () t = Unsqueeze(x, a) y = Squeeze(t, a)",
    ),
    ("unsqueeze", "float[1,n,1,m,4]", "a = Constant <value_ints = [0, 2]> () y = Unsqueeze(x, a)"),
    ("tile", "float[a,b,c]", "r = Constant <value_ints = [2, 1, 3]> () y = Tile(x, r)"),
    ("concat_axis_0", "float[k,m,4]", "y = Concat <axis = 0> (x, x, x)"),
    ("concat_axis_last", "float[n,m,12]", "t = Neg(x) y = Concat <axis = -1> (x, t, x)"),
    (
        "expand_more_dims",
        "float[3,n,m,4]",
        "s = Constant <value_ints = [3, 1, 1, 1]> () y = Expand(x, s)",
    ),
    (
        "slice_basic",
        "float[n,m,2]",
        "s = Constant <value_ints = [1]> () e = Constant <value_ints = [3]> () "
        "a = Constant <value_ints = [2]> () y = Slice(x, s, e, a)",
    ),
    (
        "slice_negative_step",
        "float[n,k,4]",
        "s = Constant <value_ints = [-1]> () "
        "e = Constant <value_ints = [-9223372036854775807]> () "
        "a = Constant <value_ints = [1]> () t = Constant <value_ints = [-1]> () "
        "y = Slice(x, s, e, a, t)",
    ),
    (
        "slice_clamps",
        "float[k,m,2]",
        "s = Constant <value_ints = [-1000, 1]> () "
        "e = Constant <value_ints = [1000, 9223372036854775807]> () "
        "a = Constant <value_ints = [0, -1]> () t = Constant <value_ints = [2, 2]> () "
        "y = Slice(x, s, e, a, t)",
    ),
    (
        "slice_from_symbolic_middle",
        "float[n,k,4]",
        "s = Constant <value_ints = [-2]> () e = Constant <value_ints = [-1]> () "
        "a = Constant <value_ints = [1]> () y = Slice(x, s, e, a)",
    ),
    ("gather_rows", "float[n,m,3]", "y = Gather <axis = -1> (x, index)"),
    ("gather_rank_2", "float[n,m,2,2]", "y = Gather <axis = 2> (x, index_2d)"),
    ("gather_scalar", "float[n,m]", "y = Gather <axis = 2> (x, index_0d)"),
    ("pad_constant", "float[a,m,b]", "y = Pad(x, pads, fill)"),
    ("pad_reflect", "float[n,m,b]", 'y = Pad <mode = "reflect"> (x, last_pads)'),
    ("pad_edge", "float[a,m,b]", 'y = Pad <mode = "edge"> (x, pads)'),
    ("pad_negative", "float[n,m,3]", "y = Pad(x, crop)"),
    ("identity_of_view", "float[n,m,4]", "t = Transpose(x) y = Transpose(t)"),
    ("reverse_of_concat", "float[k,m,4]", "t = Neg(x) u = Concat <axis = 0> (t, x) y = Abs(u)"),
)
CONSTANTS = {
    "index": ints(2, -1, 0),
    "index_2d": np.array([[3, 0], [-4, 1]], np.int64),
    "index_0d": np.array(1, np.int64),
    "pads": ints(1, 0, 2, 0, 0, 1),
    "last_pads": ints(0, 0, 2, 0, 0, 3),
    "crop": ints(0, 0, 1, 0, 0, -2),
    "fill": np.float32(0.5),
}
for name, result, nodes in VIEWS:
    words = re.split(r"\W+", nodes)
    used = {key: values for key, values in CONSTANTS.items() if key in words}
    add_text(name, f"(float[n,m,4] x) => ({result} y) {{ {nodes} }}", used, sizes=NM)

add_text(
    "gather_symbolic_axis",
    "(float[n,3] x, int64[k] i) => (float[k,3] y, float[3] last) "
    "{ y = Gather(x, i) minus_one = Constant <value_int = -1> () last = Gather(x, minus_one) }",
    sizes=({"n": 4, "k": 1}, {"n": 4, "k": 9}),
    values={"i": between(-4, 3)},
)
add_text(
    "gather_int32_indices",
    "(float[5,3] table, int32[n,2] i) => (float[n,2,3] y) { y = Gather(table, i) }",
    sizes=({"n": 1}, {"n": 7}),
    values={"i": between(0, 4, np.int32)},
)
add_text(
    "gather_elements",
    "(float[4,n] x, int64[4,n] i) => (float[4,n] y) { y = GatherElements <axis = 0> (x, i) }",
    sizes=({"n": 1}, {"n": 6}),
    values={"i": between(-4, 3)},
)
add_text(
    "gather_nd",
    "(float[3,4,n] x, int64[k,2] i) => (float[k,n] y) { y = GatherND(x, i) }",
    sizes=({"n": 2, "k": 1}, {"n": 3, "k": 5}),
    values={"i": between(-3, 2)},
)
add_text(
    "concat_symbolic",
    "(float[n,3] a, float[m,3] b) => (float[k,3] y) { y = Concat <axis = 0> (a, b) }",
    sizes=({"n": 1, "m": 4}, {"n": 6, "m": 2}),
)
add_text(
    "slice_bounds_from_inputs",
    "(float[n,3] x, int64[1] start, int64[1] end) => (float[k,3] y) { y = Slice(x, start, end) }",
    sizes=({"n": 6},),
    values={"start": between(1, 2), "end": between(-2, 1000)},
)


def shape_chain_model() -> onnx.ModelProto:
    """Shape, Gather, Concat, Reshape: split heads and join them, as exporters write it."""
    return text(
        """(float[batch,seq,8] x) => (float[batch,seq,8] y) {
          dims = Shape(x)
          zero = Constant <value_int = 0> ()
          one = Constant <value_int = 1> ()
          first = Constant <value_ints = [0]> ()
          b = Gather(dims, zero)
          s = Gather(dims, one)
          b1 = Unsqueeze(b, first)
          s1 = Unsqueeze(s, first)
          two = Constant <value_ints = [2]> ()
          four = Constant <value_ints = [4]> ()
          split = Concat <axis = 0> (b1, s1, two, four)
          heads = Reshape(x, split)
          t = Transpose <perm = [0, 2, 1, 3]> (heads)
          u = Relu(t)
          v = Transpose <perm = [0, 2, 1, 3]> (u)
          minus_one = Constant <value_ints = [-1]> ()
          joined = Concat <axis = 0> (b1, s1, minus_one)
          y = Reshape(v, joined)
        }"""
    )


add(
    "shape_chain_model",
    shape_chain_model,
    sizes=({"batch": 1, "seq": 1}, {"batch": 2, "seq": 7}),
)
add_text(
    "shape_chain_arithmetic",
    # Half of the columns, found by arithmetic on the shape; and a table of positions.
    """(float[n,m] x) => (float[n,k] half, float[m] positions, int64 count) {
      m1 = Shape <start = 1> (x)
      two = Constant <value_ints = [2]> ()
      sum = Add(m1, one)
      middle = Div(sum, two)
      zero = Constant <value_ints = [0]> ()
      half = Slice(x, zero, middle, one)
      scalar = Squeeze(m1)
      from = Constant <value_int = 0> ()
      step = Constant <value_int = 1> ()
      range = Range(from, scalar, step)
      positions = Cast <to = 1> (range)
      count = Size(x)
    }""",
    {"one": ints(1)},
    sizes=NM,
)
add_text(
    "shape_chain_masks",
    # Zeros of the input's shape, an all-equal mask against it, and Expand to a computed shape.
    """(float[n,m] x) => (float[n,m] y, bool[n,m] same) {
      s = Shape(x)
      zeros = ConstantOfShape(s)
      same = Equal(zeros, x)
      one = Constant <value_float = 1.0> ()
      ones = Expand(one, s)
      y = Where(same, ones, x)
    }""",
    sizes=NM,
)
add_text(
    "shape_chain_min_max",
    """(float[n,m] x) => (float[a,b] y) {
      s = Shape(x)
      four = Constant <value_ints = [4, 4]> ()
      end = Min(s, four)
      zero = Constant <value_ints = [0, 0]> ()
      y = Slice(x, zero, end)
    }""",
    sizes=NM,
)
add_text(
    "reshape_from_input",
    "(float[n] x, int64[2] s) => (float[a,b] y) { y = Reshape(x, s) }",
    sizes=({"n": 12},),
    values={"s": lambda rng, shape: ints(3, -1)},
)
add_text(
    "expand_from_input",
    "(float[n,1] x, int64[2] s) => (float[a,b] y) { y = Expand(x, s) }",
    sizes=({"n": 3},),
    values={"s": lambda rng, shape: ints(1, 5)},
)
add_text(
    "range_from_input",
    "(int64 limit) => (int64[k] y) "
    "{ a = Constant <value_int = 2> () d = Constant <value_int = 3> () y = Range(a, limit, d) }",
    values={"limit": lambda rng, shape: np.array(12)},
)
add_text(
    "tile_repeats_from_input",
    "(float[n,2] x, int64[2] r) => (float[a,b] y) { y = Tile(x, r) }",
    sizes=({"n": 3},),
    values={"r": lambda rng, shape: ints(2, 3)},
)
add_text(
    "depth_to_space",
    "(float[n,8,3,h] x) => (float[n,2,6,w] y, float[n,2,6,w] z) "
    '{ y = DepthToSpace <blocksize = 2> (x) z = DepthToSpace <blocksize = 2, mode = "CRD"> (x) }',
    sizes=({"n": 1, "h": 1}, {"n": 2, "h": 3}),
)
add_text(
    "space_to_depth",
    "(float[n,2,4,6] x) => (float[n,8,2,3] y) { y = SpaceToDepth <blocksize = 2> (x) }",
    sizes=({"n": 1}, {"n": 2}),
)
add_text(
    "trilu",
    "(float[n,m] x) => (float[n,m] lower, float[n,m] upper) "
    "{ lower = Trilu <upper = 0> (x) one = Constant <value_int = 1> () upper = Trilu(x, one) }",
    sizes=NM,
)
add_text(
    "pad_amounts_from_input",
    "(float[n,3] x, int64[4] p) => (float[a,b] y) { y = Pad(x, p) }",
    sizes=({"n": 2},),
    values={"p": lambda rng, shape: ints(1, 0, 0, 2)},
)
add_text(
    "scatter_nd",
    "(float[6,n] x, int64[2,1] i, float[2,n] u) => (float[6,n] y) { y = ScatterND(x, i, u) }",
    sizes=({"n": 1}, {"n": 4}),
    values={"i": lambda rng, shape: np.array([[4], [1]], np.int64)},
)
add_text(
    "scatter_elements",
    "(float[4,n] x, int64[2,n] i, float[2,n] u) => (float[4,n] y) "
    "{ y = ScatterElements <axis = 0> (x, i, u) }",
    sizes=({"n": 3},),
    values={"i": lambda rng, shape: np.array([[0, 3, 1], [2, -2, 0]], np.int64)},
)
add_text(
    "one_hot",
    "(int64[n] i) => (float[n,5] y) { y = OneHot <axis = -1> (i, depth, values) }",
    {"depth": np.array(5, np.int64), "values": np.array([0.0, 2.0], np.float32)},
    sizes=({"n": 1}, {"n": 6}),
    values={"i": between(-5, 6)},
)
add_text(
    "constant_table_lookup",
    "(int64[n] i) => (float[n,4] y) { y = Gather(table, i) }",
    {"table": weight(9, 4)},
    sizes=({"n": 1}, {"n": 12}),
    values={"i": between(0, 8)},
)
add_text(
    "top_k",
    "(float[n,9] x) => (float[n,4] v, int64[n,4] i, float[n,2] low, int64[n,2] low_i) "
    "{ four = Constant <value_ints = [4]> () two = Constant <value_ints = [2]> ()"
    " v, i = TopK <axis = -1> (x, four) low, low_i = TopK <axis = -1, largest = 0> (x, two) }",
    sizes=({"n": 1}, {"n": 3}),
    values={"x": distinct},
)


def computed(name: str, inputs: str, node: str, values: dict[str, object], rank: int = 3) -> None:
    """A case whose sizes or axes are inputs: only data tell them."""
    arrays = {k: np.array(v) for k, v in values.items()}
    makers = {k: lambda rng, shape, a=a: a for k, a in arrays.items()}
    y = f"float[{','.join('abcdef'[:rank])}] y"
    body = f"(float[n,3,4] x, {inputs}) => ({y}) {{ {node} }}"
    add_text(f"computed_{name}", body, opset=18, sizes=({"n": 2}, {"n": 1}), values=makers)


for axes in ([1], [0, 2], [-1, -3]):
    kind = f"int64[{len(axes)}] a"
    label = "_".join(str(a) for a in axes).replace("-", "m")
    more = len(axes)
    computed(f"sum_{label}", kind, "y = ReduceSum(x, a)", {"a": axes})
    computed(f"max_{label}", kind, "y = ReduceMax <keepdims = 0> (x, a)", {"a": axes}, 3 - more)
    computed(f"unsqueeze_{label}", kind, "y = Unsqueeze(x, a)", {"a": axes}, 3 + more)
computed("reduce_nothing", "int64[0] a", "y = ReduceSum(x, a)", {"a": np.zeros(0, np.int64)})
computed("mean", "int64[2] a", "y = ReduceMean(x, a)", {"a": [2, 1]})
computed("norm", "int64[1] a", "y = ReduceL2 <keepdims = 0> (x, a)", {"a": [2]}, 2)
computed("cumsum", "int64 a", "y = CumSum <reverse = 1> (x, a)", {"a": -2})
computed("cumsum_last", "int64 a", "y = CumSum <exclusive = 1> (x, a)", {"a": 2})
computed(
    "slice_axes",
    "int64[2] s, int64[2] e, int64[2] a, int64[2] t",
    "y = Slice(x, s, e, a, t)",
    {"s": [-1, 0], "e": [-100, 3], "a": [2, -2], "t": [-2, 2]},
)
computed(
    "slice_whole",
    "int64[1] s, int64[1] e",
    "a = Constant <value_ints = [1]> () y = Slice(x, s, e, a)",
    {"s": [-(2**63)], "e": [2**63 - 1]},
)
computed(
    "pad_axes",
    "int64[4] p, float v, int64[2] a",
    "y = Pad(x, p, v, a)",
    {"p": [1, 0, 2, -1], "v": np.float32(7.5), "a": [-1, 1]},
)
computed("pad_edge", "int64[6] p", 'y = Pad <mode = "edge"> (x, p)', {"p": [0, 1, 2, 1, 0, 3]})
computed("split", "int64[2] s", "y, z = Split <axis = 2> (x, s)", {"s": [1, 3]})
computed("trilu", "int64 k", "y = Trilu <upper = 0> (x, k)", {"k": -1})
computed("expand", "int64[4] s", "y = Expand(x, s)", {"s": [2, 1, 1, 4]}, 4)
computed("tile", "int64[3] r", "y = Tile(x, r)", {"r": [2, 1, 3]})
computed("flat", "int64[1] s", "t = Reshape(x, s) y = Relu(t)", {"s": [-1]}, 1)
computed(
    "chain",
    "int64[2] s",
    "t = Reshape(x, s) w = Transpose(t) y = MatMul(t, w)",
    {"s": [-1, 4]},
    2,
)
computed(
    "one_hot",
    "int64 d",
    "i = Cast <to = 7> (x) v = Constant <value = float[2] {0.5, 2.0}> () y = OneHot(i, d, v)",
    {"d": 3},
    4,
)
computed("fill", "int64[2] s", "y = ConstantOfShape <value = float[1] {2.5}> (s)", {"s": [2, 0]}, 2)
computed(
    "range",
    "float b, float d",
    "a = Constant <value = float {1.0}> () r = Range(a, b, d) y = Mul(r, r)",
    {"b": np.float32(-2.0), "d": np.float32(-0.5)},
    1,
)
computed(
    "narrow_numbers",
    "int32[2] r",
    "t = Cast <to = 7> (r) one = Constant <value_ints = [1]> () "
    "q = Concat <axis = 0> (one, t) y = Tile(x, q)",
    {"r": np.array([2, 1], np.int32)},
)
add_text(
    "computed_i32_length",
    "(int32 n) => (float[m] y) { y = HannWindow <periodic = 0> (n) }",
    sizes=({}, {}),
    values={"n": lambda rng, shape: np.array(rng.integers(2, 40), np.int32)},
)
add_text(
    "computed_scales",
    "(float[1,2,5,6] x, float[2] s) => (float[1,2,a,b] y, float[1,2,c,d] z) { "
    'y = Resize <mode = "linear", axes = [2, 3]> (x, , s) '
    'z = Resize <mode = "nearest", axes = [-2, -1]> (x, , s) }',
    opset=18,
    sizes=({}, {}, {}),
    values={"s": lambda rng, shape: rng.choice([0.5, 1.0, 2.0, 1.7], 2).astype(np.float32)},
)
