"""Layers: convolutions, pools, products of matrices, recurrent layers, attention, resampling, and
the operators on images and signals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from naru.dtypes import DTYPES

from .draw import Draw, Operation

Strategy = Callable[[Draw], Operation]


def _i64(values: object) -> Any:
    return np.array(values, np.int64)


# ---- windows ----


def _window(d: Draw, spatial: int, *, dilations: bool = True) -> dict[str, Any]:
    """kernel_shape, strides, dilations, and pads that are smaller than the kernel."""
    kernel = [d.int(1, 3) for _ in range(spatial)]
    attrs: dict[str, Any] = {"kernel_shape": kernel}
    if d.chance(0.5):
        attrs["strides"] = [d.int(1, 3) for _ in range(spatial)]
    if dilations and "dilations" in d.schema.attributes and d.chance(0.4):
        attrs["dilations"] = [d.int(1, 2) for _ in range(spatial)]
    if d.chance(0.5):
        attrs["pads"] = [d.int(0, k - 1) for k in kernel * 2]
    elif d.chance(0.4):
        attrs["auto_pad"] = d.pick(("SAME_UPPER", "SAME_LOWER", "VALID"))
        if attrs["auto_pad"].startswith("SAME"):
            attrs.pop("dilations", None)
    return attrs


def _image(d: Draw, spatial: int, attrs: Mapping[str, Any]) -> list[int]:
    """Sizes that the window fits into."""
    least = [
        (k - 1) * e + 1
        for k, e in zip(attrs["kernel_shape"], attrs.get("dilations", [1] * spatial), strict=True)
    ]
    return [n + d.int(0, 9 if spatial < 3 else 3) for n in least]


def convolution(d: Draw) -> Operation:
    spatial = d.pick((1, 2, 2, 2, 3))
    attrs = _window(d, spatial)
    size = _image(d, spatial, attrs)
    group = d.pick((1, 1, 2, 3))
    per, each = d.int(1, 5), d.int(1, 9)
    batch = d.int(1, 2) if d.chance(0.95) else 0
    if group > 1:
        attrs["group"] = group
    if d.name == "ConvTranspose":
        weights = (per * group, each, *attrs["kernel_shape"])
        strides = attrs.get("strides", [1] * spatial)
        if d.chance(0.3) and "auto_pad" not in attrs:
            attrs["output_padding"] = [d.int(0, s - 1) for s in strides]
    else:
        weights = (each * group, per, *attrs["kernel_shape"])
    x = d.input(0, (batch, per * group, *size))
    w = d.input(1, weights)
    if d.name == "ConvInteger":
        zeros = [d.input(2, (), low=0, high=4) if d.chance(0.5) else None,
                 d.input(3, (), low=0, high=4) if d.chance(0.3) else None]  # fmt: skip
        return Operation([x, w, *zeros], attrs)
    if d.chance(0.3):
        attrs.pop("kernel_shape")
    bias = d.input(2, (each * group,)) if d.chance(0.5) else None
    return Operation([x, w, bias], attrs, ulps=128, sums=True)


def qlinear_convolution(d: Draw) -> Operation:
    spatial = d.pick((1, 2, 2))
    attrs = _window(d, spatial)
    size = _image(d, spatial, attrs)
    channels, outputs = d.int(1, 5), d.int(1, 9)
    low = [0 if d.dtype(k)[0] == "u" else -9 for k in (0, 3, 7)]
    many = (outputs,) if d.chance(0.5) else ()
    scales = [np.float32(d.rng.uniform(0.01, 0.1)) for _ in range(2)]
    w = d.input(3, (outputs, channels, *attrs["kernel_shape"]), low=low[1], high=19)
    operands: list[Any] = [
        d.input(0, (1, channels, *size), low=low[0], high=40), np.array(scales[0]),
        d.input(2, (), low=0, high=9), w, d.array("f32", many, 0.01, 0.1),
        np.zeros(many, w.dtype), np.array(np.float32(d.rng.uniform(0.02, 0.1))),
        d.input(7, (), low=0, high=60),
        d.array("i32", (outputs,), -90, 90) if d.chance(0.5) else None,
    ]  # fmt: skip
    return Operation(operands, attrs)


def deform_convolution(d: Draw) -> Operation:
    attrs = _window(d, 2)
    attrs.pop("auto_pad", None)
    size = _image(d, 2, attrs)
    kernel = attrs["kernel_shape"]
    strides, dilations = attrs.get("strides", [1, 1]), attrs.get("dilations", [1, 1])
    pads = attrs.get("pads", [0] * 4)
    out = [
        (n + pads[k] + pads[k + 2] - (kernel[k] - 1) * dilations[k] - 1) // strides[k] + 1
        for k, n in enumerate(size)
    ]
    group = d.pick((1, 2))
    channels = 2 * d.int(1, 2)
    count = group * math.prod(kernel)
    x = d.input(0, (1, channels, *size))
    w = d.input(1, (d.int(1, 4), channels, *kernel))
    offset = d.input(2, (1, 2 * count, *out), low=-1.7, high=1.7)
    bias = d.input(3, (w.shape[0],)) if d.chance(0.5) else None
    mask = d.input(4, (1, count, *out), low=0, high=1) if d.chance(0.5) else None
    return Operation([x, w, offset, bias, mask], {**attrs, "offset_group": group},
                     ulps=512, sums=True)  # fmt: skip


def pool(d: Draw) -> Operation:
    spatial = d.pick((1, 2, 2, 2, 3))
    attrs = _window(d, spatial)
    if d.name != "MaxPool" and d.version < 19:
        attrs.pop("dilations", None)
    if d.chance(0.3) and "ceil_mode" in d.schema.attributes and "auto_pad" not in attrs:
        attrs["ceil_mode"] = 1
    if d.name == "AveragePool":
        attrs |= d.only(count_include_pad=d.int(0, 1))
    if d.name == "LpPool":
        attrs |= d.only(p=d.int(1, 3))
    batch = d.int(1, 2)
    x = d.input(0, (batch, d.int(1, 9), *_image(d, spatial, attrs)))
    outputs = 1
    if d.name == "MaxPool" and d.version >= 8 and d.chance(0.3):
        outputs = 2
        attrs |= d.only(storage_order=d.int(0, 1))
    return Operation([x], attrs, outputs=outputs, ulps=64, sums=True)


def global_pool(d: Draw) -> Operation:
    shape = tuple(max(n, 1) for n in d.shape(3, 5, 9))
    return Operation([d.input(0, shape)], d.only(p=d.int(1, 3)), ulps=64, sums=True)


def max_unpool(d: Draw) -> Operation:
    n, c = d.int(1, 2), d.int(1, 3)
    kernel, size = [d.int(1, 3) for _ in range(2)], [d.int(1, 4) for _ in range(2)]
    strides = kernel
    full = [(s - 1) * t + k for s, t, k in zip(size, strides, kernel, strict=True)]
    count = math.prod(full)
    cells = math.prod(size)
    at = np.stack(
        [d.rng.permutation(count)[:cells] + k * count for k in range(n * c)]
    ).reshape(n, c, *size)  # fmt: skip
    x = d.input(0, (n, c, *size))
    return Operation([x, at.astype(np.int64)], {"kernel_shape": kernel, "strides": strides})


def _regions(d: Draw, count: int, size: float) -> Any:
    corner = d.rng.uniform(0, size, (count, 2))
    return np.concatenate([corner, corner + d.rng.uniform(0.5, size, (count, 2))], 1)


def roi_align(d: Draw) -> Operation:
    batch, count = d.int(1, 2), d.int(1, 4)
    x = d.input(0, (batch, d.int(1, 3), d.int(2, 9), d.int(2, 9)))
    rois = _regions(d, count, 6).astype(x.dtype)
    images = _i64([d.int(0, batch - 1) for _ in range(count)])
    attrs = d.only(
        mode=d.pick(("avg", "max")), output_height=d.int(1, 3), output_width=d.int(1, 3),
        sampling_ratio=d.int(0, 3), spatial_scale=d.real(0.5, 1.2),
        coordinate_transformation_mode=d.pick(("half_pixel", "output_half_pixel")),
    )  # fmt: skip
    return Operation([x, rois, images], attrs, ulps=512, sums=True)


def max_roi_pool(d: Draw) -> Operation:
    batch, count = d.int(1, 2), d.int(1, 4)
    x = d.input(0, (batch, d.int(1, 3), d.int(2, 9), d.int(2, 9)))
    images = d.rng.integers(0, batch, (count, 1))
    rois = np.concatenate([images, np.floor(_regions(d, count, 6))], 1).astype(x.dtype)
    return Operation([x, rois], {"pooled_shape": [d.int(1, 3), d.int(1, 3)]})


def col2im(d: Draw) -> Operation:
    block = [d.int(1, 3) for _ in range(2)]
    attrs: dict[str, Any] = {}
    if d.chance(0.5):
        attrs["strides"] = [d.int(1, 2) for _ in range(2)]
    image = [n + d.int(0, 5) for n in block]
    s = attrs.get("strides", [1, 1])
    columns = math.prod((n - b) // t + 1 for n, b, t in zip(image, block, s, strict=True))
    x = d.input(0, (d.int(1, 2), d.int(1, 3) * math.prod(block), columns))
    return Operation([x, _i64(image), _i64(block)], attrs, operands=[1, 2], ulps=64, sums=True)


# ---- products ----


def matmul(d: Draw) -> Operation:
    m, k, n = (d.size() for _ in range(3))
    lead = d.shape(0, 2, 3)
    a: Sequence[int] = (*lead, m, k)
    b: Sequence[int] = (*d.broadcast(lead), k, n)
    if d.chance(0.1):
        a = (k,)
    if d.chance(0.1):
        b = (k,)
    if d.name == "MatMulInteger":
        zeros = [d.input(2, (), low=0, high=4) if d.chance(0.5) else None,
                 d.input(3, (), low=0, high=4) if d.chance(0.3) else None]  # fmt: skip
        return Operation([d.input(0, a), d.input(1, b), *zeros])
    if d.name == "QLinearMatMul":
        scale = [np.array(d.real(0.01, 0.1), DTYPES[d.dtype(k)].numpy) for k in (1, 4, 6)]
        low = [0 if d.dtype(k)[0] == "u" else -9 for k in (0, 3)]
        return Operation([
            d.input(0, a, low=low[0], high=40), scale[0], d.input(2, (), low=0, high=9),
            d.input(3, b, low=low[1], high=40), scale[1], d.input(5, (), low=0, high=9),
            scale[2], d.input(7, (), low=0, high=60),
        ])  # fmt: skip
    return Operation([d.input(0, a), d.input(1, b)], ulps=128, sums=True)


def gemm(d: Draw) -> Operation:
    m, k, n = (max(d.size(), 1) for _ in range(3))
    attrs = d.only(alpha=d.real(-2, 2), beta=d.real(-2, 2), transA=d.int(0, 1), transB=d.int(0, 1))
    if DTYPES[d.dtype(0)].kind in "iu":
        attrs |= {n: 1.0 for n in ("alpha", "beta") if n in attrs}
    a = (k, m) if attrs.get("transA") else (m, k)
    b = (n, k) if attrs.get("transB") else (k, n)
    c = d.pick(((m, n), (n,), (1, n), (m, 1), (1, 1), ()))
    if d.opset < 7:
        c = (m, n)
    bias = d.input(2, c) if d.version < 11 or d.chance(0.7) else None
    return Operation([d.input(0, a), d.input(1, b), bias], attrs, ulps=128, sums=True)


EQUATIONS = {
    "ij,jk->ik": ("ij", "jk"), "ij,jk": ("ij", "jk"), "ii->i": ("ii",), "ij->ji": ("ij",),
    "bij,bjk->bik": ("bij", "bjk"), "ij->": ("ij",), "i,j->ij": ("i", "j"), "ij->i": ("ij",),
    "bij,bkj->bik": ("bij", "bkj"), "i,i->": ("i", "i"), "abc,cd->abd": ("abc", "cd"),
    "ab,bc,cd->ad": ("ab", "bc", "cd"), "ij,ij->ij": ("ij", "ij"), "ii": ("ii",),
    "...i,...i->...": ("bi", "bi"), "...ij->...ji": ("bij",), "bhid,bhjd->bhij": ("bhid", "bhjd"),
}  # fmt: skip


def einsum(d: Draw) -> Operation:
    equation = d.pick(sorted(EQUATIONS))
    sizes = {letter: max(d.size(9), 1) for letter in "abcdhijk"}
    operands = [d.input(0, [sizes[x] for x in term]) for term in EQUATIONS[equation]]
    return Operation(operands, {"equation": equation}, ulps=256, sums=True)


def determinant(d: Draw) -> Operation:
    n = d.int(1, 6)
    return Operation([d.input(0, (*d.shape(0, 2, 4), n, n))], ulps=4096, sums=True)


# ---- recurrent layers ----

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def recurrent(d: Draw) -> Operation:
    gates = GATES[d.name]
    seq, batch, size, hidden = d.int(1, 5), d.int(1, 3), d.int(1, 6), d.pick((1, 3, 5, 16, 17))
    direction = d.pick(("forward", "reverse", "bidirectional"))
    dirs = 2 if direction == "bidirectional" else 1
    attrs: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
    if d.name == "GRU":
        attrs |= d.only(linear_before_reset=d.int(0, 1))
    if d.name == "RNN" and d.chance(0.4):
        attrs["activations"] = [d.pick(("Tanh", "Relu", "Sigmoid")) for _ in range(dirs)]
    if d.chance(0.2):
        attrs["clip"] = d.real(0.5, 2.0)

    def state() -> Any:
        return d.input(0, (dirs, batch, hidden), low=-1, high=1) if d.chance(0.4) else None

    operands: list[Any] = [
        d.input(0, (seq, batch, size), low=-1, high=1),
        d.input(0, (dirs, gates * hidden, size), low=-1, high=1),
        d.input(0, (dirs, gates * hidden, hidden), low=-1, high=1),
        d.input(0, (dirs, 2 * gates * hidden), low=-1, high=1) if d.chance(0.6) else None,
        np.array([d.int(1, seq) for _ in range(batch)], np.int32) if d.chance(0.3) else None,
        state(),
    ]
    count = 2
    if d.name == "LSTM":
        peep = d.input(0, (dirs, 3 * hidden), low=-1, high=1) if d.chance(0.3) else None
        operands += [state(), peep]
        count = 3
    wanted = [True] * count if d.chance(0.6) else [True] + [d.chance(0.5) for _ in range(count - 1)]
    return Operation(operands, attrs, outputs=wanted, ulps=256, sums=True)


# ---- resampling ----


def resize(d: Draw) -> Operation:
    rank = d.pick((2, 3, 4, 4, 5)) if d.opset >= 7 else 4
    shape = [d.int(1, 3), d.int(1, 3), *(d.int(1, 7) for _ in range(rank - 2))][:rank]
    mode = d.pick(("nearest", "nearest", "linear", "cubic")) if d.version >= 11 else d.pick(
        ("nearest", "linear"))  # fmt: skip
    if mode == "cubic":
        rank, shape = 4, [1, 2, d.int(3, 7), d.int(3, 7)]
    if mode == "linear" and d.version < 13:
        rank, shape = 4, [1, 2, d.int(1, 7), d.int(1, 7)]
    scales = [1.0 if k < 2 and rank > 2 else d.pick((0.5, 0.6, 1.0, 1.5, 2.0, 3.0))
              for k in range(rank)]  # fmt: skip
    if d.name == "Upsample":
        scales = [max(s, 1.0) for s in scales]
    sizes = [max(int(n * s), 1) for n, s in zip(shape, scales, strict=True)]
    scales = [s if int(n * s) >= 1 else 1.0 for n, s in zip(shape, scales, strict=True)]
    x = d.input(0, shape)
    attrs: dict[str, Any] = {"mode": mode}
    if d.name == "Upsample" and d.opset < 7:
        attrs |= {"height_scale": scales[-2], "width_scale": scales[-1]}
        return Operation([d.input(0, shape)], attrs, ulps=512, sums=True)
    if d.name == "Upsample" and d.version < 9:
        return Operation([x], {**attrs, "scales": scales}, ulps=512, sums=True)
    if d.version < 11:
        return Operation(
            [x, np.array(scales, np.float32)], attrs, operands=[1], ulps=512, sums=True
        )
    attrs |= d.only(
        coordinate_transformation_mode=d.pick(
            ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
        ),
        nearest_mode=d.pick(("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")),
        cubic_coeff_a=d.real(-0.9, -0.3),
        exclude_outside=d.int(0, 1) if mode == "cubic" else 0,
        antialias=int(mode != "nearest" and d.chance(0.2)),
    )
    empty = np.zeros(0, np.float32)
    roi = empty if d.version < 13 or d.chance(0.3) else None
    if d.chance(0.5):
        operands = [x, roi, np.array(scales, np.float32)]
    else:
        operands = [x, roi, empty if d.version < 13 else None, _i64(sizes)]
    return Operation(operands, attrs, operands=[1, 2, 3], ulps=2048, sums=True)


def grid_sample(d: Draw) -> Operation:
    spatial = 2 if d.version < 20 or d.chance(0.8) else 3
    n, c = d.int(1, 2), d.int(1, 3)
    x = d.input(0, (n, c, *(d.int(1, 6) for _ in range(spatial))))
    grid = d.input(1, (n, *(d.int(1, 5) for _ in range(spatial)), spatial), low=-1.3, high=1.3)
    names = ("bilinear", "nearest", "bicubic") if d.version < 20 else ("linear", "nearest", "cubic")
    mode = d.pick(names if spatial == 2 else names[:2])
    attrs = {"mode": mode} | d.only(
        padding_mode=d.pick(("zeros", "border", "reflection")), align_corners=d.int(0, 1)
    )
    return Operation([x, grid], attrs, ulps=4096, sums=True)


def affine_grid(d: Draw) -> Operation:
    spatial = d.int(2, 3)
    n = d.int(1, 2)
    theta = d.input(0, (n, spatial, spatial + 1))
    size = _i64([n, 2, *(d.int(1, 5) for _ in range(spatial))])
    return Operation([theta, size], d.only(align_corners=d.int(0, 1)), operands=[1],
                     ulps=64, sums=True)  # fmt: skip


# ---- signals ----


def window(d: Draw) -> Operation:
    size = np.array(d.int(1, 30), DTYPES[d.dtype(0, "i")].numpy)
    return Operation([size], d.only(periodic=d.int(0, 1)), operands=[0], ulps=512, sums=True)


def dft(d: Draw) -> Operation:
    n = d.pick((1, 2, 3, 4, 5, 7, 8, 12, 16))
    inverse, onesided = d.int(0, 1), d.int(0, 1)
    if inverse:
        onesided = 0
    parts = 1 if onesided else d.int(1, 2)
    x = d.input(0, (d.int(1, 3), n, d.int(1, 3), parts), low=-1, high=1)
    length = _i64(d.int(1, 16)) if d.chance(0.3) else None
    attrs = {"inverse": inverse, "onesided": onesided}
    if d.version < 20:
        return Operation([x, length], {**attrs, "axis": 1}, operands=[1], ulps=1024, sums=True)
    return Operation([x, length, _i64(d.pick((1, -3)))], attrs, operands=[1, 2],
                     ulps=1024, sums=True)  # fmt: skip


def stft(d: Draw) -> Operation:
    frame, step = d.pick((4, 8, 5, 16)), d.int(1, 5)
    x = d.input(0, (d.int(1, 2), frame + d.int(0, 20), 1), low=-1, high=1)
    own = d.array(d.dtype(0), (frame,), 0, 1) if d.chance(0.6) else None
    place = DTYPES[d.dtype(1)].numpy
    operands = [x, np.array(step, place), own, np.array(frame, place)]
    return Operation(operands, d.only(onesided=d.int(0, 1)), operands=[1, 3], ulps=1024, sums=True)


def mel_weights(d: Draw) -> Operation:
    place, real = DTYPES[d.dtype(0, "i")].numpy, DTYPES[d.dtype(3, "f")].numpy
    values = [np.array(d.int(2, 8), place), np.array(d.pick((16, 32, 64)), place),
              np.array(d.pick((8000, 16000)), place), np.array(d.real(0, 100), real),
              np.array(d.real(2000, 3900), real)]  # fmt: skip
    return Operation(values, operands=[0, 1, 2, 3, 4], ulps=1024, sums=True)


# ---- attention ----


def attention(d: Draw) -> Operation:
    batch, heads, queries, keys, depth = d.int(1, 2), d.pick((1, 2, 4)), d.int(1, 6), d.int(1, 9), 8
    kv = d.pick([h for h in (1, 2, 4) if heads % h == 0])
    q = d.input(0, (batch, heads, queries, depth), low=-1, high=1)
    k = d.input(1, (batch, kv, keys, depth), low=-1, high=1)
    v = d.input(2, (batch, kv, keys, d.pick((4, 8))), low=-1, high=1)
    mask = None
    if d.chance(0.5):
        shape = d.broadcast((batch, heads, queries, keys))
        mask = d.array(d.dtype(3, "f"), (*shape[:-2], queries, keys) if len(shape) >= 2
                       else (queries, keys), -3, 3)  # fmt: skip
    attrs = d.only(is_causal=d.int(0, 1), scale=d.real(0.1, 0.7), softcap=d.pick((0.0, 2.0)))
    return Operation([q, k, v, mask], attrs, ulps=512, sums=True)


def rotary(d: Draw) -> Operation:
    batch, heads, seq, size = d.int(1, 2), d.int(1, 3), d.int(1, 5), 2 * d.int(1, 5)
    rows = d.int(seq, 9)
    x = d.input(0, (batch, heads, seq, size))
    positions = d.chance(0.6)
    lead = (rows,) if positions else (batch, seq)
    angles = [d.input(k, (*lead, size // 2), low=-1, high=1) for k in (1, 2)]
    at = d.rng.integers(0, rows, (batch, seq)).astype(np.int64) if positions else None
    return Operation([x, *angles, at], d.only(interleaved=d.int(0, 1)), ulps=64, sums=True)


def _batched(*operands: int) -> Callable[[Strategy], Strategy]:
    """Only the first axis of these operands may be a symbol."""

    def wrap(strategy: Strategy) -> Strategy:
        def drawn(d: Draw) -> Operation:
            return replace(strategy(d), symbolic=operands)

        return drawn

    return wrap


_MADE: Mapping[str, Strategy] = {
    "Conv": convolution, "ConvTranspose": convolution, "ConvInteger": convolution,
    "QLinearConv": qlinear_convolution, "DeformConv": deform_convolution,
    "AveragePool": pool, "MaxPool": pool, "LpPool": pool, "GlobalAveragePool": global_pool,
    "GlobalMaxPool": global_pool, "GlobalLpPool": global_pool, "MaxUnpool": max_unpool,
    "RoiAlign": roi_align, "MaxRoiPool": max_roi_pool, "Col2Im": col2im,
    "MatMul": matmul, "MatMulInteger": matmul, "QLinearMatMul": matmul, "Gemm": gemm,
    "Einsum": einsum, "Det": determinant, "RNN": recurrent, "GRU": recurrent, "LSTM": recurrent,
    "Resize": resize, "Upsample": resize, "GridSample": grid_sample, "AffineGrid": affine_grid,
    "BlackmanWindow": window, "HammingWindow": window, "HannWindow": window, "DFT": dft,
    "STFT": stft, "MelWeightMatrix": mel_weights, "Attention": attention,
    "RotaryEmbedding": rotary,
}  # fmt: skip
_SYMBOLIC = {
    "Conv": (0,), "ConvTranspose": (0,), "ConvInteger": (0,), "RNN": (0,), "GRU": (0,),
    "LSTM": (0,), "MaxUnpool": (0, 1), "Col2Im": (0,), "RoiAlign": (1, 2), "MaxRoiPool": (1,),
    "Resize": (0,),
    "GridSample": (0, 1), "AffineGrid": (), "DFT": (0,), "STFT": (0,), "Attention": (0, 1, 2),
    "DeformConv": (), "QLinearConv": (), "RotaryEmbedding": (), "Det": (0,), "Upsample": (0,),
}  # fmt: skip
TABLE: Mapping[str, Strategy] = {
    name: _batched(*_SYMBOLIC[name])(f) if name in _SYMBOLIC else f for name, f in _MADE.items()
}
