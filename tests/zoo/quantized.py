"""Products of 8-bit integers: in pairs, with an odd number of them, and where none are."""

from __future__ import annotations

import numpy as np

from .build import Array, add_text, between

BYTES = {"x": between(0, 256, np.uint8)}


def bytes_of(*shape: int) -> Array:
    """Weights of 7 bits: ONNX Runtime's sums of two products saturate at 16 bits with more."""
    return np.random.default_rng(len(shape)).integers(-64, 64, shape).astype(np.int8)


ZEROS = {"zx": np.uint8(117), "zw": np.int8(-3)}
SCALES = {"sx": np.float32(0.021), "sw": np.float32(0.013), "sy": np.float32(0.17)}

for columns, depth in ((7, 12), (20, 33), (16, 3)):
    add_text(
        f"matmul_integer_{depth}",
        f"(uint8[n,{depth}] x) => (int32[n,{columns}] y) {{ y = MatMulInteger(x, w, zx, zw) }}",
        {"w": bytes_of(depth, columns), "zx": ZEROS["zx"], "zw": bytes_of(columns)},
        sizes=({"n": 1}, {"n": 13}),
        values=BYTES,
    )
add_text(
    "qlinear_matmul",
    "(uint8[n,2,30] x) => (uint8[n,2,9] y) { y = QLinearMatMul(x, sx, zx, w, sw, zw, sy, zx) }",
    {"w": bytes_of(30, 9), **ZEROS, **SCALES},
    sizes=({"n": 1}, {"n": 5}),
    values=BYTES,
)
add_text(
    "dynamic_quantize_matmul",
    "(float[n,24] x) => (float[n,5] y) { q, s, z = DynamicQuantizeLinear(x) "
    "i = MatMulInteger(q, w, z) f = Cast <to = 1> (i) t = Mul(f, s) y = Mul(t, sw) }",
    {"w": bytes_of(24, 5), "sw": SCALES["sw"]},
    sizes=({"n": 1}, {"n": 6}),
)

# name, attributes, channels, weights
CONVS: tuple[tuple[str, str, int, tuple[int, ...]], ...] = (
    ("pairs", "pads = [1, 1, 1, 1]", 6, (20, 6, 3, 3)),
    ("odd", "pads = [0, 1, 2, 1], strides = [2, 2]", 3, (8, 3, 3, 3)),
    ("1x1", "", 16, (9, 16, 1, 1)),
    ("grouped", "group = 2, dilations = [2, 1]", 8, (6, 4, 3, 3)),
    ("grouped_odd", "group = 2", 6, (4, 3, 2, 2)),
    ("depthwise", "group = 10, pads = [1, 1, 1, 1]", 10, (10, 1, 3, 3)),
)
for name, attributes, channels, shape in CONVS:
    source = f"(uint8[n,{channels},h,k] x) =>"
    add_text(
        f"conv_integer_{name}",
        f"{source} (int32[n,{shape[0]},p,q] y) {{ y = ConvInteger <{attributes}> (x, w, zx, zw) }}",
        {"w": bytes_of(*shape), **ZEROS},
        sizes=({"n": 1, "h": 7, "k": 9}, {"n": 2, "h": 12, "k": 6}),
        values=BYTES,
    )
    # As quantisers make them: weights have no zero point.
    add_text(
        f"conv_integer_{name}_symmetric",
        f"{source} (int32[n,{shape[0]},p,q] y) {{ y = ConvInteger <{attributes}> (x, w, zx) }}",
        {"w": bytes_of(*shape), "zx": ZEROS["zx"]},
        sizes=({"n": 1, "h": 7, "k": 9}, {"n": 2, "h": 12, "k": 6}),
        values=BYTES,
    )
    add_text(
        f"qlinear_conv_{name}",
        f"{source} (uint8[n,{shape[0]},p,q] y) "
        f"{{ y = QLinearConv <{attributes}> (x, sx, zx, w, sw, zw, sy, zx, b) }}",
        {
            "w": bytes_of(*shape),
            "b": bytes_of(shape[0]).astype(np.int32) * 20,
            **ZEROS,
            **SCALES,
        },
        sizes=({"n": 1, "h": 7, "k": 9}, {"n": 2, "h": 12, "k": 6}),
        values=BYTES,
    )
