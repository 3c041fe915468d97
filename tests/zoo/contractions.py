"""Convolutions, pools, matrix products and normalisations, in all their attributes."""

from __future__ import annotations

import numpy as np

from .build import Array, add_text, positive, weight

N = ({"n": 1}, {"n": 3})
IMAGE = ({"n": 1, "h": 8, "w": 8}, {"n": 2, "h": 13, "w": 11})

# name, attributes of Conv, input channels, weight shape, has a bias
CONVS: tuple[tuple[str, str, int, tuple[int, ...], bool], ...] = (
    ("basic", "pads = [1, 1, 1, 1]", 3, (8, 3, 3, 3), True),
    ("no_pads", "", 3, (5, 3, 3, 3), False),
    ("1x1", "", 16, (24, 16, 1, 1), True),
    ("1x1_stride_2", "strides = [2, 2]", 6, (10, 6, 1, 1), False),
    ("stride_2", "strides = [2, 2], pads = [1, 1, 1, 1]", 4, (8, 4, 3, 3), True),
    ("stride_mixed", "strides = [3, 1], pads = [0, 1, 0, 1]", 4, (8, 4, 3, 3), False),
    ("7x7_stride_2", "strides = [2, 2], pads = [3, 3, 3, 3]", 3, (16, 3, 7, 7), False),
    ("dilated", "dilations = [2, 3], pads = [2, 3, 2, 3]", 4, (6, 4, 3, 3), True),
    (
        "dilated_strided",
        "dilations = [2, 2], strides = [2, 2], pads = [2, 2, 2, 2]",
        4,
        (6, 4, 3, 3),
        False,
    ),
    ("asymmetric_pads", "pads = [0, 1, 2, 3]", 3, (4, 3, 3, 3), True),
    ("rectangular", "pads = [0, 2, 0, 2]", 3, (4, 3, 1, 5), False),
    ("even_kernel", "pads = [0, 0, 1, 1]", 3, (4, 3, 2, 4), False),
    ("same_upper", 'auto_pad = "SAME_UPPER"', 3, (4, 3, 3, 3), False),
    ("same_upper_stride_2", 'auto_pad = "SAME_UPPER", strides = [2, 2]', 3, (4, 3, 3, 3), True),
    ("same_lower_even", 'auto_pad = "SAME_LOWER", strides = [2, 2]', 3, (4, 3, 4, 4), False),
    ("valid", 'auto_pad = "VALID"', 3, (4, 3, 3, 3), False),
    ("depthwise", "group = 12, pads = [1, 1, 1, 1]", 12, (12, 1, 3, 3), True),
    (
        "depthwise_stride_2",
        "group = 16, strides = [2, 2], pads = [1, 1, 1, 1]",
        16,
        (16, 1, 3, 3),
        False,
    ),
    ("depthwise_multiplier", "group = 4, pads = [1, 1, 1, 1]", 4, (12, 1, 3, 3), True),
    ("grouped", "group = 2, pads = [1, 1, 1, 1]", 6, (8, 3, 3, 3), True),
    ("grouped_1x1", "group = 4", 16, (8, 4, 1, 1), False),
    ("winograd_sized", "pads = [1, 1, 1, 1]", 32, (32, 32, 3, 3), True),
    ("one_output_channel", "pads = [1, 1, 1, 1]", 7, (1, 7, 3, 3), True),
)
for name, attributes, channels, shape, has_bias in CONVS:
    weights: dict[str, Array] = {"k": weight(*shape)}
    if has_bias:
        weights["bias"] = weight(shape[0], 1)[:, 0]
    operands = "x, k, bias" if has_bias else "x, k"
    add_text(
        f"conv_{name}",
        f"(float[n,{channels},h,w] x) => (float[n,{shape[0]},p,q] y) "
        f"{{ y = Conv <{attributes}> ({operands}) }}",
        weights,
        sizes=IMAGE,
    )
add_text(
    "conv_static",
    "(float[1,3,10,12] x) => (float[1,4,10,12] y) { y = Conv <pads = [1, 1, 1, 1]> (x, k) }",
    {"k": weight(4, 3, 3, 3)},
)
add_text(
    "conv_1d",
    "(float[n,3,t] x) => (float[n,5,u] y) { y = Conv <strides = [2], pads = [2, 1]> (x, k, b) }",
    {"k": weight(5, 3, 4), "b": weight(5, 1)[:, 0]},
    sizes=({"n": 1, "t": 9}, {"n": 2, "t": 20}),
)
add_text(
    "conv_3d",
    "(float[n,2,5,6,7] x) => (float[n,3,5,3,7] y) "
    "{ y = Conv <strides = [1, 2, 1], pads = [1, 1, 1, 1, 1, 1]> (x, k) }",
    {"k": weight(3, 2, 3, 3, 3)},
    sizes=N,
)
add_text(
    "conv_weights_from_input",
    "(float[n,3,6,6] x, float[4,3,3,3] k) => (float[n,4,4,4] y) { y = Conv(x, k) }",
    sizes=N,
)
add_text(
    "conv_bn_relu_residual",
    "(float[n,8,6,6] x) => (float[n,8,6,6] y) {"
    " a = Conv <pads = [1, 1, 1, 1]> (x, k)"
    " b = BatchNormalization <epsilon = 0.001> (a, scale, bias, mean, var)"
    " c = Add(b, x) y = Relu(c) }",
    {
        "k": weight(8, 8, 3, 3),
        "scale": np.linspace(0.5, 1.5, 8, dtype=np.float32),
        "bias": np.linspace(-1, 1, 8, dtype=np.float32),
        "mean": np.linspace(-0.2, 0.3, 8, dtype=np.float32),
        "var": np.linspace(0.1, 2.0, 8, dtype=np.float32),
    },
    sizes=N,
)
add_text(
    "inverted_residual",
    # MobileNetV2's block: 1x1 up, depthwise, 1x1 down, add.
    "(float[n,8,h,w] x) => (float[n,8,h,w] y) {"
    " a = Conv(x, up) b = Clip(a, zero, six)"
    " c = Conv <group = 24, pads = [1, 1, 1, 1]> (b, depthwise) d = Clip(c, zero, six)"
    " e = Conv(d, down) y = Add(e, x) }",
    {
        "up": weight(24, 8, 1, 1),
        "depthwise": weight(24, 1, 3, 3),
        "down": weight(8, 24, 1, 1),
        "zero": np.float32(0),
        "six": np.float32(6),
    },
    sizes=IMAGE,
)
add_text(
    "conv_shared_input_used_twice",
    "(float[n,4,h,w] x) => (float[n,12,h,w] y) {"
    " a = Conv <pads = [1, 1, 1, 1]> (x, k3) b = Relu(a) c = Conv(x, k1) d = Sigmoid(c)"
    " y = Concat <axis = 1> (b, d, x) }",
    {"k3": weight(4, 4, 3, 3), "k1": weight(4, 4, 1, 1)},
    sizes=IMAGE,
)
add_text(
    "conv_transpose",
    "(float[n,4,h,w] x) => (float[n,3,p,q] y, float[n,3,r,s] z) {"
    " y = ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]> (x, k)"
    " z = ConvTranspose <pads = [0, 1, 1, 0], dilations = [2, 1]> (x, k, b) }",
    {"k": weight(4, 3, 3, 3), "b": weight(3, 1)[:, 0]},
    sizes=IMAGE,
)
add_text(
    "conv_transpose_grouped",
    "(float[n,4,5,5] x) => (float[n,6,10,10] y) "
    "{ y = ConvTranspose <group = 2, strides = [2, 2]> (x, k) }",
    {"k": weight(4, 3, 2, 2)},
    sizes=N,
)
add_text(
    "conv_transpose_sizes",
    # Sizes that are asked for, and pads that make them; taps that don't fill all phases.
    "(float[n,4,5,6] x) => (float[n,3,10,12] a, float[n,3,10,12] b, float[n,3,13,14] c, "
    "float[n,3,11,8] d) {"
    ' a = ConvTranspose <strides = [2, 2], auto_pad = "SAME_UPPER"> (x, k)'
    ' b = ConvTranspose <strides = [2, 2], auto_pad = "SAME_LOWER"> (x, k)'
    " c = ConvTranspose <strides = [3, 3], output_shape = [13, 14]> (x, k)"
    ' d = ConvTranspose <strides = [2, 1], auto_pad = "VALID"> (x, k) }',
    {"k": weight(4, 3, 3, 3)},
    sizes=N,
)
add_text(
    "conv_transpose_1d_3d",
    "(float[n,4,s] x, float[n,2,3,2,s] v) => (float[n,3,p] y, float[n,20,5,4,q] z) {"
    " y = ConvTranspose <strides = [4], pads = [2, 2]> (x, k)"
    " z = ConvTranspose <strides = [2, 2, 2], pads = [0, 0, 1, 1, 0, 1]> (v, w) }",
    {"k": weight(4, 3, 8), "w": weight(2, 20, 2, 2, 4)},
    sizes=({"n": 1, "s": 1}, {"n": 2, "s": 9}),
)
add_text(
    "conv_transpose_between_convs",
    "(float[n,3,h,w] x) => (float[n,4,p,q] y) {"
    " a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, down) b = Relu(a)"
    " c = ConvTranspose <strides = [2, 2]> (b, up, bias) d = Concat <axis = 1> (c, c)"
    " y = Conv(d, last) }",
    {
        "down": weight(24, 3, 3, 3),
        "up": weight(24, 16, 2, 2),
        "bias": weight(16, 1)[:, 0],
        "last": weight(4, 32, 1, 1),
    },
    sizes=IMAGE,
)
add_text(
    "conv_transpose_then_padded",
    # A border around interleaved phases, and around a concatenation of them, as in a U-Net.
    "(float[1,8,6,5] x) => (float[1,16,12,10] y) {"
    " a = ConvTranspose <strides = [2, 2]> (x, up) r = Relu(a)"
    " b = Conv <pads = [1, 1, 1, 1]> (r, k) c = ConvTranspose <strides = [2, 2]> (x, other)"
    " d = Concat <axis = 1> (b, c) y = Conv <pads = [1, 1, 1, 1]> (d, last) }",
    {
        "up": weight(8, 16, 2, 2),
        "k": weight(16, 16, 3, 3),
        "other": weight(8, 8, 2, 2),
        "last": weight(16, 24, 3, 3),
    },
)

POOLS = (
    ("max_2", "MaxPool <kernel_shape = [2, 2], strides = [2, 2]>"),
    ("max_3_stride_2", "MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>"),
    ("max_default_stride", "MaxPool <kernel_shape = [3, 2]>"),
    ("max_asymmetric", "MaxPool <kernel_shape = [3, 3], pads = [0, 1, 2, 0]>"),
    ("max_dilated", "MaxPool <kernel_shape = [2, 3], dilations = [3, 2]>"),
    ("max_ceil", "MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>"),
    (
        "max_same_upper",
        'MaxPool <kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER">',
    ),
    (
        "max_same_lower",
        'MaxPool <kernel_shape = [2, 2], strides = [1, 1], auto_pad = "SAME_LOWER">',
    ),
    ("average_2", "AveragePool <kernel_shape = [2, 2], strides = [2, 2]>"),
    ("average_pads", "AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]>"),
    (
        "average_include_pad",
        "AveragePool <kernel_shape = [3, 3], pads = [1, 0, 1, 2], count_include_pad = 1>",
    ),
    ("average_ceil", "AveragePool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>"),
    (
        "average_same_upper",
        'AveragePool <kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER">',
    ),
    ("global_average", "GlobalAveragePool"),
    ("global_max", "GlobalMaxPool"),
    ("lp", "LpPool <kernel_shape = [2, 2], p = 2>"),
)
for name, op in POOLS:
    add_text(
        f"pool_{name}",
        f"(float[n,5,h,w] x) => (float[n,5,p,q] y) {{ y = {op}(x) }}",
        sizes=IMAGE,
    )
add_text(
    "pool_average_ceil_include_pad",
    "(float[n,3,7,7] x) => (float[n,3,4,4] y) { y = AveragePool <kernel_shape = [3, 3],"
    " strides = [2, 2], pads = [1, 1, 1, 1], ceil_mode = 1, count_include_pad = 1> (x) }",
    opset=19,
    sizes=N,
)
add_text(
    "pool_1d",
    "(float[n,3,t] x) => (float[n,3,u] y, float[n,3,v] z) "
    "{ y = MaxPool <kernel_shape = [3], strides = [2]> (x)"
    " z = AveragePool <kernel_shape = [4]> (x) }",
    sizes=({"n": 1, "t": 8}, {"n": 2, "t": 15}),
)
add_text(
    "pool_of_negative_values",
    # A pad must not win over the values: the maximum starts at minus infinity, not at zero.
    "(float[n,3,4,4] x) => (float[n,3,4,4] y) "
    "{ a = Abs(x) b = Neg(a) y = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (b) }",
    sizes=N,
)

# name, input a, attributes, b's shape, c's shape or None
GEMMS: tuple[tuple[str, str, str, tuple[int, ...], tuple[int, ...] | None], ...] = (
    ("plain", "n,5", "", (5, 7), None),
    ("bias", "n,5", "", (5, 7), (7,)),
    ("trans_b", "n,64", "transB = 1", (10, 64), (10,)),
    ("trans_a", "5,n", "transA = 1", (5, 7), (1, 7)),
    ("trans_both", "6,n", "transA = 1, transB = 1", (4, 6), (4,)),
    ("alpha_beta", "n,5", "alpha = 0.5, beta = -2.0", (5, 7), (7,)),
    ("beta_zero", "n,5", "beta = 0.0", (5, 7), (7,)),
    ("scalar_bias", "n,5", "alpha = 2.0", (5, 3), ()),
    ("one_column", "n,33", "transB = 1", (1, 33), (1,)),
    ("wide", "n,128", "", (128, 200), (200,)),
)
for name, shape_a, attributes, shape_b, shape_c in GEMMS:
    weights = {"b": weight(*shape_b)}
    if shape_c is not None:
        weights["c"] = weight(*shape_c)
    columns = shape_b[0] if "transB" in attributes else shape_b[1]
    add_text(
        f"gemm_{name}",
        f"(float[{shape_a}] a) => (float[n,{columns}] y) "
        f"{{ y = Gemm <{attributes}> ({', '.join(['a', *weights])}) }}",
        weights,
        sizes=({"n": 1}, {"n": 4}, {"n": 37}),
    )
add_text(
    "gemm_column_bias",
    "(float[4,5] a, float[5,n] b) => (float[4,n] y) { y = Gemm(a, b, c) }",
    {"c": weight(4, 1)},
    sizes=N,
)
add_text(
    "gemm_all_from_inputs",
    "(float[n,k] a, float[k,m] b, float[m] c) => (float[n,m] y) { y = Gemm(a, b, c) }",
    sizes=({"n": 1, "k": 1, "m": 1}, {"n": 17, "k": 40, "m": 33}, {"n": 64, "k": 256, "m": 96}),
)

MATMULS = (
    ("2d", "n,6", "6,m", "n,m"),
    ("1d_1d", "m", "m", ""),
    ("1d_2d", "6", "6,m", "m"),
    ("2d_1d", "n,6", "6", "n"),
    ("1d_3d", "6", "n,6,m", "n,m"),
    ("3d_1d", "n,m,6", "6", "n,m"),
    ("batched", "n,3,6", "n,6,m", "n,3,m"),
    ("broadcast_batch", "n,1,4,6", "5,6,m", "n,5,4,m"),
    ("broadcast_right", "n,3,6", "6,m", "n,3,m"),
    ("broadcast_left", "3,6", "n,6,m", "n,3,m"),
    ("outer", "n,1", "1,m", "n,m"),
)
for name, shape_a, shape_b, result in MATMULS:
    # An empty pair of brackets means "any rank" to ONNX, no brackets mean rank 0.
    result_type = f"float[{result}]" if result else "float"
    add_text(
        f"matmul_{name}",
        f"(float[{shape_a}] a, float[{shape_b}] b) => ({result_type} y) {{ y = MatMul(a, b) }}",
        sizes=({"n": 1, "m": 1}, {"n": 4, "m": 9}, {"n": 19, "m": 50}),
    )
add_text(
    "matmul_integer",
    "(uint8[n,12] a, int8[12,m] b) => (int32[n,m] y) { y = MatMulInteger(a, b, za) }",
    {"za": np.uint8(3)},
    sizes=({"n": 1, "m": 1}, {"n": 5, "m": 17}),
)
add_text(
    "matmul_bias_gelu",
    "(float[n,s,16] x) => (float[n,s,24] y) {"
    " a = MatMul(x, w) b = Add(a, bias) c = Div(b, root2) d = Erf(c) e = Add(d, one)"
    " f = Mul(b, e) y = Mul(f, half) }",
    {
        "w": weight(16, 24),
        "bias": weight(24, 1)[:, 0],
        "root2": np.float32(np.sqrt(2.0)),
        "one": np.float32(1),
        "half": np.float32(0.5),
    },
    sizes=({"n": 1, "s": 1}, {"n": 2, "s": 9}),
)
add_text(
    "attention",
    "(float[n,2,s,8] q, float[n,2,t,8] k, float[n,2,t,8] v, float[n,1,1,t] mask) "
    "=> (float[n,2,s,8] y) {"
    " kt = Transpose <perm = [0, 1, 3, 2]> (k) scores = MatMul(q, kt) scaled = Mul(scores, scale)"
    " masked = Add(scaled, mask) p = Softmax <axis = -1> (masked) y = MatMul(p, v) }",
    {"scale": np.float32(8**-0.5)},
    sizes=({"n": 1, "s": 1, "t": 1}, {"n": 2, "s": 5, "t": 11}),
)
add_text(
    "einsum",
    "(float[n,s,h] a, float[n,t,h] b) => (float[n,s,t] y, float[n,h,s] z) "
    '{ y = Einsum <equation = "nsh,nth->nst"> (a, b) z = Einsum <equation = "nsh->nhs"> (a) }',
    sizes=({"n": 1, "s": 2, "t": 3, "h": 4}, {"n": 2, "s": 7, "t": 5, "h": 6}),
)

NORMS = (
    ("layer", "LayerNormalization <axis = -1, epsilon = 1e-05>(x, scale, bias)"),
    ("layer_two_axes", "LayerNormalization <axis = 2>(x, table)"),
    ("instance", "InstanceNormalization <epsilon = 0.001>(x, per_channel, per_channel)"),
    ("lp", "LpNormalization <axis = 2, p = 2>(x)"),
    ("l1", "LpNormalization <axis = -1, p = 1>(x)"),
    ("local_response", "LRN <size = 3, alpha = 0.01, beta = 0.75, bias = 2.0>(x)"),
    ("batch", "BatchNormalization(x, per_channel, per_channel, per_channel, variance)"),
    ("dropout_does_nothing", "Dropout(x)"),
)
NORM_WEIGHTS = {
    "scale": np.linspace(0.5, 2.0, 6, dtype=np.float32),
    "bias": np.linspace(-1.0, 1.0, 6, dtype=np.float32),
    "table": weight(5, 6),
    "per_channel": np.linspace(-1.0, 1.5, 4, dtype=np.float32),
    "variance": np.linspace(0.2, 1.5, 4, dtype=np.float32),
}
for name, op in NORMS:
    # Only what the node reads: an initialiser without a user is legal, and tested elsewhere.
    used = {key: values for key, values in NORM_WEIGHTS.items() if key in op.partition("(")[2]}
    add_text(
        f"norm_{name}",
        f"(float[n,4,5,6] x) => (float[n,4,5,6] y) {{ y = {op} }}",
        used,
        sizes=N,
    )
add_text(
    "norm_group",
    "(float[n,4,3,3] x) => (float[n,4,3,3] y) "
    "{ y = GroupNormalization <num_groups = 2> (x, scale, bias) }",
    {"scale": weight(4, 1)[:, 0], "bias": weight(4, 1)[:, 0]},
    opset=21,
    sizes=N,
)
add_text(
    "norm_rms_spelled_out",
    "(float[n,s,16] x) => (float[n,s,16] y) {"
    " two = Constant <value_float = 2.0> () a = Pow(x, two)"
    " m = ReduceMean <axes = [-1], keepdims = 1> (a) e = Constant <value_float = 1e-6> ()"
    " v = Add(m, e) r = Sqrt(v) d = Div(x, r) y = Mul(d, g) }",
    {"g": np.linspace(0.5, 1.5, 16, dtype=np.float32)},
    sizes=({"n": 1, "s": 1}, {"n": 2, "s": 6}),
)
add_text(
    "resize_nearest_scales",
    "(float[n,3,h,w] x) => (float[n,3,p,q] y) { y = Resize <"
    'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> '
    '(x, "", scales) }',
    {"scales": np.array([1, 1, 2, 2], np.float32)},
    sizes=IMAGE,
)
add_text(
    "resize_linear_sizes",
    "(float[1,3,6,7] x) => (float[1,3,9,11] y, float[1,3,9,11] z) { "
    'y = Resize <mode = "linear"> (x, "", "", sizes) z = Resize <mode = "linear", '
    'coordinate_transformation_mode = "align_corners"> (x, "", "", sizes) }',
    {"sizes": np.array([1, 3, 9, 11], np.int64)},
)
add_text(
    "quantize_dequantize",
    "(float[n,6] x) => (uint8[n,6] q, float[n,6] y) "
    "{ q = QuantizeLinear(x, scale, zero) y = DequantizeLinear(q, scale, zero) }",
    {"scale": np.float32(0.02), "zero": np.uint8(120)},
    sizes=N,
)
add_text(
    "dequantize_weights_per_channel",
    "(float[n,6] x) => (float[n,4] y) { w = DequantizeLinear <axis = 1> (q, s) y = MatMul(x, w) }",
    {
        "q": np.random.default_rng(3).integers(-128, 128, (6, 4)).astype(np.int8),
        "s": np.array([0.01, 0.02, 0.005, 0.03], np.float32),
    },
    sizes=N,
)
add_text(
    "log_then_softmax_of_positive",
    "(float[n,9] x) => (float[n,9] y) { a = Log(x) y = Softmax(a) }",
    sizes=N,
    values={"x": positive},
)
