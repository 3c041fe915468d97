"""Operators that read images between elements, and operators on signals."""

from __future__ import annotations

import numpy as np

from .build import Array, add_text, constant, ints, normal, weight


def places(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Most of them in -1..1, some outside."""
    return rng.uniform(-1.3, 1.3, shape).astype(np.float32)


def offsets(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.normal(0, 1.5, shape).astype(np.float32)


for _name, _attrs in {
    "linear": 'mode = "bilinear"',
    "nearest": 'mode = "nearest", padding_mode = "border"',
    "cubic": 'mode = "bicubic", padding_mode = "reflection", align_corners = 1',
}.items():
    add_text(
        f"grid_sample_{_name}",
        "(float[n,c,h,w] x, float[n,oh,ow,2] grid) => (float[n,c,oh,ow] y) "
        f"{{ y = GridSample <{_attrs}> (x, grid) }}",
        opset=16,
        sizes=(
            {"n": 2, "c": 3, "h": 7, "w": 5, "oh": 4, "ow": 6},
            {"n": 1, "c": 1, "h": 1, "w": 1, "oh": 1, "ow": 1},
        ),
        values={"grid": places},
    )
add_text(
    "grid_sample_volume",
    "(float[1,2,4,5,6] x, float[1,3,3,3,3] grid) => (float[1,2,3,3,3] y) "
    '{ y = GridSample <mode = "linear", padding_mode = "zeros"> (x, grid) }',
    opset=20,
    values={"grid": places},
)
add_text(
    "affine_grid",
    "(float[n,2,3] theta) => (float[n,4,5,2] y) "
    "{ y = AffineGrid <align_corners = 0> (theta, size) }",
    {"size": ints(2, 3, 4, 5)},
    opset=20,
    sizes=({"n": 2},),
)

ROIS = [[0, 0, 9, 9], [2.5, 1, 30, 22], [-4, -3, 5, 6], [7, 7, 7, 7], [40, 40, 60, 60]]
for _mode in ("avg", "max"):
    add_text(
        f"roi_align_{_mode}",
        "(float[2,3,12,10] x, float[r,4] rois, int64[r] images) => (float[r,3,2,9] y) "
        f'{{ y = RoiAlign <mode = "{_mode}", output_height = 2, output_width = 9, '
        "spatial_scale = 0.5> (x, rois, images) }",
        opset=16,
        sizes=({"r": 5},),
        values={
            "rois": constant(ROIS, np.float32),
            "images": constant([0, 1, 1, 0, 0], np.int64),
        },
    )
add_text(
    "max_roi_pool",
    "(float[2,3,12,10] x, float[5,5] rois) => (float[5,3,3,2] y) "
    "{ y = MaxRoiPool <pooled_shape = [3, 2], spatial_scale = 0.5> (x, rois) }",
    values={"rois": constant([[k % 2, *r] for k, r in enumerate(ROIS)], np.float32)},
)
add_text(
    "deform_conv",
    "(float[n,4,6,7] x, float[n,36,6,7] o, float[n,18,6,7] m) => (float[n,6,6,7] y) "
    "{ y = DeformConv <group = 2, offset_group = 2, pads = [1, 1, 1, 1]> (x, w, o, b, m) }",
    {"w": weight(6, 2, 3, 3), "b": weight(6)},
    opset=19,
    sizes=({"n": 1}, {"n": 3}),
    values={"o": offsets},
)
for _name, _attrs, _planes, _bins, _out in (
    ("real", "axis = 1, onesided = 1", 1, 13, 2),
    ("complex", "axis = 1", 2, 24, 2),
    ("inverse", "axis = 1, inverse = 1", 2, 24, 2),
):
    add_text(
        f"dft_{_name}",
        f"(float[n,24,{_planes}] x) => (float[n,{_bins},{_out}] y) {{ y = DFT <{_attrs}> (x) }}",
        sizes=({"n": 1}, {"n": 9}),
    )
add_text(
    "dft_long",
    "(float[2,1100,2] x) => (float[2,1100,2] y) { y = DFT <axis = 1> (x) }",
    tolerance=1e-3,  # the error of ONNX Runtime; ours is below 1e-5 (see tests/frontend)
)
add_text(
    "dft_prime",
    "(float[2,1031,2] x) => (float[2,1031,2] y) { y = DFT <axis = 1> (x) }",
    tolerance=1e-3,  # the error of ONNX Runtime; ours is below 1e-5 (see tests/frontend)
)
add_text(
    "stft",
    "(float[n,t,1] x) => (float[n,f,17,2] y) { y = STFT <onesided = 1> (x, step, window, size) }",
    {"step": np.array(8), "window": np.hanning(32).astype(np.float32), "size": np.array(32)},
    sizes=({"n": 2, "t": 100, "f": 9}, {"n": 1, "t": 32, "f": 1}),
)
add_text(
    "windows",
    "(float[16] x) => (float[16] y, float[9,5] z) { a = HannWindow (size) "
    "b = HammingWindow <periodic = 0> (size) c = BlackmanWindow (size) "
    "s = Add(a, b) t = Add(s, c) y = Mul(x, t) z = MelWeightMatrix(bands, size, rate, low, high) }",
    {
        "size": np.array(16), "bands": np.array(5), "rate": np.array(8000),
        "low": np.array(20, np.float32), "high": np.array(3900, np.float32),
    },
)  # fmt: skip
add_text(
    "einsum_ellipsis",
    "(float[b,1,i,j] x, float[1,3,j,k] y) => (float[k,b,3,i] z, float[3,b,1] d) {"
    ' z = Einsum <equation = "...ij,...jk->k...i"> (x, y)'
    ' e = Einsum <equation = "bxij,atjk->tbxij"> (x, y)'
    ' d = Einsum <equation = "tbxij->tbx"> (e) }',
    sizes=({"b": 2, "i": 4, "j": 5, "k": 6},),
)
add_text(
    "einsum_diagonal",
    "(float[n,n,3] x, float[4,4] y) => (float[3,n] z, float[4] d, float s) {"
    ' z = Einsum <equation = "iik->ki"> (x) d = Einsum <equation = "ii->i"> (y)'
    ' s = Einsum <equation = "ii"> (y) }',
    sizes=({"n": 5},),
)
add_text(
    "batch_norm_training",
    "(float[n,3,h] x, float[3] s) => (float[n,3,h] y, float[3] m, float[3] v) "
    "{ y, m, v = BatchNormalization <training_mode = 1, momentum = 0.7> (x, s, s, s, s) }",
    sizes=({"n": 4, "h": 5},),
)
add_text(
    "mean_variance_normalization",
    "(float[n,3,h,w] x) => (float[n,3,h,w] y) "
    "{ y = MeanVarianceNormalization <axes = [0, 2, 3]> (x) }",
    sizes=({"n": 2, "h": 5, "w": 4},),
    values={"x": normal},
)
add_text(
    "lp_pool_ceil",
    "(float[1,2,7,8] x) => (float[1,2,4,4] y) "
    "{ y = LpPool <kernel_shape = [3, 2], strides = [2, 2], ceil_mode = 1, pads = [1, 0, 0, 0], "
    "p = 3> (x) }",
    opset=18,
)
for _mode, _rest in {
    "nearest": 'nearest_mode = "floor", coordinate_transformation_mode = "asymmetric"',
    "linear": 'coordinate_transformation_mode = "half_pixel"',
    "cubic": 'coordinate_transformation_mode = "align_corners", exclude_outside = 0',
}.items():
    add_text(
        f"resize_to_other_{_mode}",
        "(float[1,2,h,w] x, float[1,3,a,b] z) => (float[1,2,a,b] y) { s = Shape (z) "
        "t = Slice (s, from, to) n = Slice (m, none, from) u = Concat <axis = 0> (n, t) "
        f'y = Resize <mode = "{_mode}", {_rest}> (x, , , u) }}',
        {"from": ints(2), "to": ints(4), "none": ints(0), "m": ints(1, 2)},
        sizes=({"h": 5, "w": 4, "a": 7, "b": 9}, {"h": 8, "w": 6, "a": 3, "b": 6}),
        tolerance=1e-4,
    )
