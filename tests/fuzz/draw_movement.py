"""Operators that move, choose, place and sort elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import helper

from naru.dtypes import DTYPES

from .draw import Draw, Operation

Strategy = Callable[[Draw], Operation]


def _i64(values: object) -> Any:
    return np.array(values, np.int64)


def _positive(d: Draw, low: int, high: int, most: int = 33) -> tuple[int, ...]:
    return tuple(max(n, 1) for n in d.shape(low, high, most))


def transpose(d: Draw) -> Operation:
    shape = d.shape(0, 5)
    perm = [int(k) for k in d.rng.permutation(len(shape))]
    return Operation([d.input(0, shape)], d.only(perm=perm) if perm else {})


def reshape(d: Draw) -> Operation:
    shape = d.shape(0, 4)
    count = math.prod(shape)
    wanted: list[int] = []
    rest = count
    for _ in range(d.int(0, 4)):
        n = d.pick([k for k in range(1, 40) if rest and rest % k == 0] or [1])
        wanted.append(n)
        rest //= n
    wanted.append(rest)
    wanted = [int(n) for n in d.rng.permutation(wanted)]
    attrs: dict[str, Any] = {}
    if 0 in wanted:
        # 0 would mean "as it was".
        if "allowzero" in d.schema.attributes:
            attrs = {"allowzero": 1}
        else:
            shape, wanted = (2, 3), [3, -1]
    elif count and d.chance(0.4):
        wanted[d.int(0, len(wanted) - 1)] = -1
    if shape and not attrs and wanted[0] == shape[0] and d.chance(0.5):
        wanted[0] = 0
    return Operation([d.input(0, shape), _i64(wanted)], attrs, operands=[1])


def flatten(d: Draw) -> Operation:
    shape = d.shape(0 if d.version >= 9 else 1, 4)
    axis = d.int(0, len(shape)) - (len(shape) if d.version >= 11 and d.chance(0.3) else 0)
    return Operation([d.input(0, shape)], d.only(axis=axis) if shape else {"axis": 0})


def squeeze(d: Draw) -> Operation:
    shape = list(d.shape(0, 3))
    for _ in range(d.int(0, 2)):
        shape.insert(d.int(0, len(shape)), 1)
    ones = [k for k, n in enumerate(shape) if n == 1]
    axes = [k - (len(shape) if d.opset >= 11 and d.chance(0.3) else 0)
            for k in ones if d.chance(0.7)]  # fmt: skip
    return _with_axes(d, shape, axes)


def unsqueeze(d: Draw) -> Operation:
    shape = d.shape(0, 3)
    more = d.int(1, 2)
    rank = len(shape) + more
    axes = [int(k) for k in d.rng.permutation(rank)[:more]]
    if d.opset >= 11:
        axes = [k - (rank if d.chance(0.3) else 0) for k in axes]
    return _with_axes(d, shape, axes)


def _with_axes(d: Draw, shape: Any, axes: list[int]) -> Operation:
    x = d.input(0, shape)
    if "axes" in d.schema.attributes:
        return Operation([x], {"axes": axes} if axes else {})
    return Operation([x, _i64(axes) if axes else None], operands=[1])


def concat(d: Draw) -> Operation:
    shape = d.shape(1, 4)
    axis = d.axis(len(shape)) if d.version >= 11 else d.int(0, len(shape) - 1)
    parts: list[Any] = []
    for _ in range(d.pick((1, 2, 2, 3, 5))):
        own = list(shape)
        own[axis] = d.size(9)
        parts.append(d.input(0, own))
    return Operation(parts, {"axis": axis})


def split(d: Draw) -> Operation:
    shape = list(d.shape(1, 4))
    axis = d.axis(len(shape)) if d.version >= 11 else d.int(0, len(shape) - 1)
    sizes = [d.size(6) for _ in range(d.int(1, 4))]
    attrs: dict[str, Any] = {"axis": axis}
    if d.chance(0.6):
        shape[axis] = sum(sizes)
        x = d.input(0, shape)
        if "split" in d.schema.attributes:
            return Operation([x], {**attrs, "split": sizes}, outputs=len(sizes))
        return Operation([x, _i64(sizes)], attrs, outputs=len(sizes), operands=[1])
    count, part = d.int(1, 4), d.int(1, 4)
    shape[axis] = count * part
    if d.version >= 18:
        attrs["num_outputs"] = count
        shape[axis] -= d.int(0, part - 1) if count > 1 and part * count - part + 1 > 0 else 0
        if -(-shape[axis] // count) * (count - 1) >= shape[axis]:
            shape[axis] = count * part
    return Operation([d.input(0, shape)], attrs, outputs=count)


def slice_(d: Draw) -> Operation:
    shape = d.shape(1, 4)
    axes = sorted(a % len(shape) for a in d.axes(len(shape), least=1))
    starts: list[int] = []
    ends: list[int] = []
    steps: list[int] = []
    for a in axes:
        n = shape[a]
        starts.append(d.pick((0, d.int(-n - 2, n + 2), d.int(-n, max(n, 0)))))
        steps.append(d.pick((1, 1, 2, 3, -1, -2, 2**31)) if d.version >= 10 else 1)
        # (Backwards, ONNX Runtime takes the highest number for the lowest one.)
        far = (2**31 - 1, 2**63 - 1) if steps[-1] > 0 else (-(2**31), -(2**63))
        ends.append(d.pick((n, d.int(-n - 2, n + 2), *far)))
    x = d.input(0, shape)
    if d.version < 10:
        return Operation([x], {"starts": starts, "ends": ends, "axes": axes})
    signed = [a - (len(shape) if d.chance(0.3) else 0) for a in axes]
    order = [int(k) for k in d.rng.permutation(len(axes))]
    columns = [_i64([column[k] for k in order]) for column in (starts, ends, signed, steps)]
    if d.chance(0.3):
        columns.pop()
        if axes == list(range(len(axes))) and d.chance(0.5):
            columns = [_i64(starts), _i64(ends)]
    return Operation([x, *columns], operands=[1, 2, 3, 4])


def pad(d: Draw) -> Operation:
    shape = d.shape(1, 4, 9)
    mode = d.pick(("constant", "constant", "reflect", "edge", "wrap"))
    if mode == "wrap" and d.version < 19:
        mode = "edge"
    if mode != "constant":
        shape = tuple(max(n, 2) for n in shape)
    rank = len(shape)
    most = [n - 1 if mode == "reflect" else n for n in shape]
    low = -1 if mode == "constant" else 0
    before = [d.int(low if n > 2 else 0, min(4, max(m, 0) if mode != "constant" else 4))
              for n, m in zip(shape, most, strict=True)]  # fmt: skip
    after = [d.int(low if n > 2 else 0, min(4, max(m, 0) if mode != "constant" else 4))
             for n, m in zip(shape, most, strict=True)]  # fmt: skip
    x = d.input(0, shape)
    attrs = {"mode": mode}
    if d.version < 11:
        return Operation([x], {**attrs, "pads": before + after} | d.only(value=d.real(-1, 1)))
    value = d.array(d.dtype(0), ()) if d.chance(0.5) else None
    if d.version >= 18 and d.chance(0.4):
        axes = [int(k) for k in d.rng.permutation(rank)[: d.int(1, rank)]]
        pads = [before[k] for k in axes] + [after[k] for k in axes]
        return Operation([x, _i64(pads), value, _i64(axes)], attrs, operands=[1, 3])
    return Operation([x, _i64(before + after), value], attrs, operands=[1])


def tile(d: Draw) -> Operation:
    shape = d.shape(1, 4, 7)
    return Operation([d.input(0, shape), _i64([d.pick((1, 1, 2, 3, 0)) for _ in shape])],
                     operands=[1])  # fmt: skip


def expand(d: Draw) -> Operation:
    shape = d.shape(0, 4)
    wanted = [1 if d.chance(0.2) else n for n in shape]
    return Operation([d.input(0, d.broadcast(shape)), _i64(wanted)], operands=[1])


def depth_space(d: Draw) -> Operation:
    n, c, h, w = _positive(d, 4, 4, 6)
    b = d.int(1, 3)
    if d.name == "DepthToSpace":
        x = d.input(0, (n, c * b * b, h, w))
        return Operation([x], {"blocksize": b} | d.only(mode=d.pick(("DCR", "CRD"))))
    return Operation([d.input(0, (n, c, h * b, w * b))], {"blocksize": b})


def center_crop_pad(d: Draw) -> Operation:
    shape = d.shape(1, 4, 9)
    axes = d.axes(len(shape), least=1)
    attrs = {"axes": axes} if d.chance(0.6) else {}
    count = len(axes) if attrs else len(shape)
    return Operation([d.input(0, shape), _i64([d.size(9) for _ in range(count)])], attrs,
                     operands=[1])  # fmt: skip


def trilu(d: Draw) -> Operation:
    k = _i64(d.int(-6, 6)) if d.chance(0.7) else None
    return Operation([d.input(0, d.shape(2, 4)), k], d.only(upper=d.int(0, 1)), operands=[1])


def eye_like(d: Draw) -> Operation:
    attrs = d.only(k=d.int(-4, 4))
    if d.chance(0.5):
        attrs["dtype"] = DTYPES[d.pick(("f32", "f64", "i32", "i64", "f16", "bool"))].onnx
    return Operation([d.input(0, d.shape(2, 2))], attrs)


def reverse_sequence(d: Draw) -> Operation:
    shape = _positive(d, 2, 4)
    time = d.int(0, 1)
    lengths = _i64([d.int(1, shape[time]) for _ in range(shape[1 - time])])
    attrs = {"time_axis": time, "batch_axis": 1 - time}
    return Operation([d.input(0, shape), lengths], attrs)


def constant_of_shape(d: Draw) -> Operation:
    shape = _i64(d.shape(0, 3))
    dtype = d.pick(("f32", "f64", "i32", "i64", "u8", "bool", "f16"))
    value = helper.make_tensor("v", DTYPES[dtype].onnx, [1], d.array(dtype, (1,)).tolist())
    return Operation([shape], {"value": value} if d.chance(0.7) else {}, operands=[0])


def constant(d: Draw) -> Operation:
    dtype = d.pick(("f32", "i64", "bool", "f16", "u8"))
    a = d.array(dtype, d.shape(0, 3))
    return Operation([], {"value": helper.make_tensor("v", DTYPES[dtype].onnx, a.shape,
                                                      a.ravel().tolist())})  # fmt: skip


def range_(d: Draw) -> Operation:
    dtype = d.dtype(0)
    step = d.pick((1, 2, 3, -1, -2, 5))
    start = d.int(-9, 9)
    end = start + step * d.int(-1, 12) + d.int(-1, 1)
    return Operation([np.array(v, DTYPES[dtype].numpy) for v in (start, end, step)],
                     operands=[0, 1, 2])  # fmt: skip


def one_hot(d: Draw) -> Operation:
    depth = d.int(1, 9)
    shape = d.shape(1, 3)
    at = d.array(d.dtype(0), shape, -depth, depth - 1)
    many = np.array(depth if d.chance(0.5) else [depth], DTYPES[d.dtype(1)].numpy)
    attrs = d.only(axis=d.int(-len(shape) - 1, len(shape)))
    return Operation([at, many, d.input(2, (2,))], attrs, operands=[1])


# ---- indices ----


def _places(d: Draw, k: int, shape: Any, n: int) -> Any:
    """Positions in an axis of n, some counted from its end where the version knows that."""
    return d.array(d.dtype(k), shape, -n if d.opset >= 11 else 0, max(n - 1, 0))


def gather(d: Draw) -> Operation:
    shape = _positive(d, 1, 4)
    axis = d.axis(len(shape)) if d.opset >= 11 else d.int(0, len(shape) - 1)
    at = _places(d, 1, d.shape(0, 2, 9), shape[axis])
    return Operation([d.input(0, shape), at], {"axis": axis})


def gather_elements(d: Draw) -> Operation:
    shape = _positive(d, 1, 4)
    axis = d.axis(len(shape))
    own = [d.int(0 if d.chance(0.1) else 1, n) for n in shape]
    own[axis] = d.size(9)
    return Operation([d.input(0, shape), _places(d, 1, own, shape[axis])], {"axis": axis})


def _tuples(d: Draw, sizes: Any, lead: Any, signed: bool) -> Any:
    columns = [d.rng.integers(-n if signed else 0, n, lead) for n in sizes]
    return np.stack(columns, -1).astype(np.int64)


def gather_nd(d: Draw) -> Operation:
    shape = _positive(d, 1, 4, 7)
    batch = d.int(0, len(shape) - 1) if d.version >= 12 and d.chance(0.4) else 0
    depth = d.int(1, len(shape) - batch)
    lead = (*shape[:batch], *d.shape(0, 2, 5))
    at = _tuples(d, shape[batch : batch + depth], lead, True)
    return Operation([d.input(0, shape), at], {"batch_dims": batch} if batch else {})


def scatter_elements(d: Draw) -> Operation:
    shape = _positive(d, 1, 3, 9)
    axis = d.axis(len(shape))
    own = [d.int(1, n) for n in shape]
    attrs: dict[str, Any] = {"axis": axis}
    reductions = ["none"] + ["add", "mul"] * (d.version >= 16) + ["max", "min"] * (d.version >= 18)
    how = d.pick(reductions) if d.name == "ScatterElements" else "none"
    if how != "none":
        attrs["reduction"] = how
    n = shape[axis]
    if how == "none":  # two updates of one place are not defined
        order = np.argsort(d.rng.random((*own[:axis % len(own)], n, *own[axis % len(own) + 1:])),
                           axis % len(own))  # fmt: skip
        at = np.take(order, range(own[axis]), axis % len(own))
    else:
        at = d.rng.integers(0, n, own)
    if d.opset >= 11:
        at = np.where(d.rng.random(at.shape) < 0.3, at - n, at)
    at = at.astype(DTYPES[d.dtype(1)].numpy)
    return Operation([d.input(0, shape), at, d.input(0, own)], attrs, ulps=32, sums=True)


def scatter_nd(d: Draw) -> Operation:
    shape = _positive(d, 1, 3, 7)
    depth = d.int(1, len(shape))
    reductions = ["none"] + ["add", "mul"] * (d.version >= 16) + ["max", "min"] * (d.version >= 18)
    how = d.pick(reductions)
    cells = math.prod(shape[:depth])
    count = d.int(0 if d.chance(0.1) else 1, min(cells, 6))
    flat = d.rng.permutation(cells)[:count] if how == "none" else d.rng.integers(0, cells, count)
    at = np.stack(np.unravel_index(flat, shape[:depth]), -1).astype(np.int64)
    at = np.where(d.rng.random(at.shape) < 0.2, at - np.array(shape[:depth]), at)
    attrs = {"reduction": how} if how != "none" else {}
    updates = d.input(0, (count, *shape[depth:]))
    return Operation([d.input(0, shape), at, updates], attrs, ulps=32, sums=True)


def compress(d: Draw) -> Operation:
    shape = _positive(d, 1, 3)
    if d.chance(0.7):
        axis = d.axis(len(shape)) if d.version >= 11 else d.int(0, len(shape) - 1)
        n, attrs = shape[axis], {"axis": axis}
    else:
        n, attrs = math.prod(shape), {}
    return Operation([d.input(0, shape), d.array("bool", (d.int(0, n),))], attrs)


def nonzero(d: Draw) -> Operation:
    return Operation([d.input(0, d.shape(1, 4), low=-1.0, high=1.0, wild=True)])


def unique(d: Draw) -> Operation:
    shape = _positive(d, 1, 3, 7)
    attrs = d.only(sorted=1)
    if d.chance(0.5):
        attrs["axis"] = d.axis(len(shape))
    x = np.round(d.input(0, shape, low=-2.0, high=2.0)).astype(DTYPES[d.dtype(0)].numpy)
    wanted = d.pick((1, 4, (True, False, True), (True, True, False, True)))
    return Operation([x], attrs, outputs=wanted)


def top_k(d: Draw) -> Operation:
    shape = _positive(d, 1, 3)
    axis = d.axis(len(shape)) if d.version >= 11 else d.int(0, len(shape) - 1)
    k = d.int(0 if d.chance(0.05) else 1, shape[axis])
    x = d.input(0, shape, low=-9.0, high=9.0)
    if d.version < 10:
        return Operation([x], {"axis": axis, "k": max(k, 1)}, outputs=2)
    attrs = {"axis": axis} | d.only(largest=d.int(0, 1))
    return Operation([x, _i64([k])], attrs, outputs=2, operands=[1])


def non_max_suppression(d: Draw) -> Operation:
    batch, boxes, classes = d.int(1, 2), d.int(1, 12), d.int(1, 3)
    corner = d.rng.uniform(0, 5, (batch, boxes, 2))
    size = d.rng.uniform(0.5, 4, (batch, boxes, 2))
    center = d.int(0, 1)
    parts = [corner, size] if center else [corner, corner + size]
    operands: list[Any] = [
        np.concatenate(parts, -1).astype(np.float32),
        d.array("f32", (batch, classes, boxes), 0.0, 1.0),
        _i64([d.int(0, 4)]) if d.chance(0.9) else None,
        np.array([d.real(0.1, 0.9)], np.float32) if d.chance(0.7) else None,
        np.array([d.real(0.1, 0.6)], np.float32) if d.chance(0.6) else None,
    ]
    return Operation(operands, {"center_point_box": center} if center else {}, operands=[2, 3, 4])


def tensor_scatter(d: Draw) -> Operation:
    batch, heads, length, depth = (max(d.size(6), 1) for _ in range(4))
    new = d.int(1, length)
    mode = d.pick(("linear", "circular"))
    last = length - new if mode == "linear" else length - 1
    start = _i64([d.int(0, last) for _ in range(batch)]) if d.chance(0.7) else None
    if d.chance(0.5):
        past, update, axis = (batch, length, depth), (batch, new, depth), -2
    else:
        past, update, axis = (batch, heads, length, depth), (batch, heads, new, depth), 2
    return Operation([d.input(0, past), d.input(0, update), start], {"mode": mode, "axis": axis})


TABLE: Mapping[str, Strategy] = {
    "Transpose": transpose, "Reshape": reshape, "Flatten": flatten, "Squeeze": squeeze,
    "Unsqueeze": unsqueeze, "Concat": concat, "Split": split, "Slice": slice_, "Pad": pad,
    "Tile": tile, "Expand": expand, "DepthToSpace": depth_space, "SpaceToDepth": depth_space,
    "CenterCropPad": center_crop_pad, "Trilu": trilu, "EyeLike": eye_like,
    "ReverseSequence": reverse_sequence, "ConstantOfShape": constant_of_shape,
    "Constant": constant, "Range": range_, "OneHot": one_hot, "Gather": gather,
    "GatherElements": gather_elements, "GatherND": gather_nd, "Scatter": scatter_elements,
    "ScatterElements": scatter_elements, "ScatterND": scatter_nd, "Compress": compress,
    "NonZero": nonzero, "Unique": unique, "TopK": top_k, "TensorScatter": tensor_scatter,
    "NonMaxSuppression": non_max_suppression,
}  # fmt: skip
