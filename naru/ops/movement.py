"""Ops that move elements and compute nothing: transpose, slice, gather, concat, pad, …

Sizes in attributes (`starts`, `pads`, …) are tuples of ints or index expressions; when `ref` runs
they are numbers. Small integer tensors carry their contents through (values.py). A read is always
in bounds, also where a select discards it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from naru.errors import ModelError
from naru.ir.expr import Cast, Expr, Read, Select
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import (
    FALSE,
    ONE,
    TRUE,
    ZERO,
    add,
    bounds,
    ceildiv,
    compare,
    floordiv,
    index,
    known,
    logical_and,
    logical_or,
    maximum,
    minimum,
    mod,
    mul,
    prod,
    select,
    sub,
)
from naru.ir.tensor import Tensor
from naru.ops import formula as f
from naru.ops.operands import (
    Dims,
    all_known,
    axis_of,
    check_at_most,
    check_equal,
    check_holds,
    check_kind,
    check_same_dtype,
    dim_text,
    given,
    ints,
    operand,
    sizes,
)
from naru.ops.registry import Arrays, Attrs, Emit, Op, Sample, Types, register
from naru.ops.samples import random
from naru.ops.values import as_ints, moved, with_value

Array = np.ndarray
Lowered = Sequence[Tensor]
Operands = Sequence[Tensor | None]


# --- transpose ------------------------------------------------------------------------------------


def infer_transpose(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """Axis k of the result is axis perm[k] of x."""
    x = operand("transpose", types, 0)
    perm = ints(attrs, "perm")
    if sorted(perm) != list(range(x.rank)):
        raise ModelError(f"transpose: perm {perm} is no permutation of {x.rank} axes")
    out = TensorType(x.dtype, tuple(x.shape[k] for k in perm))
    return (with_value(out, moved(ref_transpose, [x], attrs)),)


def ref_transpose(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    return (np.transpose(given(arrays), ints(attrs, "perm")),)


def lower_transpose(e: Emit, n: Node, ins: Operands) -> Lowered:
    x, perm = given(ins), ints(dict(n.attrs), "perm")

    def value(*at: Expr) -> Expr:
        return Read(x, tuple(at[perm.index(k)] for k in range(len(perm))))

    return (e.stage(f"transpose_{len(e.stages)}", n.type.shape, value),)


def _transpose_samples() -> Iterable[Sample]:
    yield Sample((random(2, 3, 4),), {"perm": (2, 0, 1)})
    yield Sample((random(3, 1),), {"perm": (1, 0)})
    yield Sample((random(0, 3),), {"perm": (1, 0)})
    yield Sample((random(dtype="i64"),), {"perm": ()})
    yield Sample((random(2, 3, 4, 5, dtype="bool"),), {"perm": (0, 3, 1, 2)})


register(Op("transpose", "index", infer_transpose, ref_transpose, lower_transpose,
            samples=_transpose_samples))  # fmt: skip
# The same, where the result's layout is such that its bytes are those of x (see choose_layout).
register(Op("transpose_view", "view", infer_transpose, ref_transpose, lower_transpose,
            samples=_transpose_samples))  # fmt: skip


# --- slice ----------------------------------------------------------------------------------------


def slice_bounds(size: Expr, start: Expr, end: Expr, step: Expr) -> tuple[Expr, Expr]:
    """(first index, number of elements) of Python's slice, for numbers known or not."""

    def wrap(v: Expr) -> Expr:
        return select(compare("lt", v, 0), add(v, size), v)

    def upwards() -> tuple[Expr, Expr]:
        first = minimum(maximum(wrap(start), 0), size)
        last = minimum(maximum(wrap(end), 0), size)
        return first, maximum(ceildiv(sub(last, first), maximum(step, 1)), 0)

    def downwards() -> tuple[Expr, Expr]:
        first = minimum(maximum(wrap(start), -1), sub(size, 1))
        last = minimum(maximum(wrap(end), -1), sub(size, 1))
        return first, maximum(ceildiv(sub(first, last), maximum(mul(step, -1), 1)), 0)

    up = compare("gt", step, 0)
    if up is TRUE or up is FALSE:
        return upwards() if up is TRUE else downwards()
    return tuple(select(up, a, b) for a, b in zip(upwards(), downwards(), strict=True))  # pyright: ignore[reportReturnType]


def _slices(attrs: Attrs, shape: Dims) -> dict[int, tuple[Expr, Expr, Expr]]:
    """For each sliced axis: (first index, number of elements, step)."""
    starts, ends = sizes(attrs, "starts"), sizes(attrs, "ends")
    axes = attrs.get("axes")
    axes = range(len(starts)) if axes is None else ints(attrs, "axes")
    steps = (ONE,) * len(starts) if attrs.get("steps") is None else sizes(attrs, "steps")
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise ModelError("slice: starts, ends, axes and steps have different lengths")
    if ZERO in steps:
        raise ModelError("slice: a step is 0")
    out: dict[int, tuple[Expr, Expr, Expr]] = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        k = axis_of("slice", axis, len(shape))
        if k in out:
            raise ModelError(f"slice: axis {k} is given twice")
        out[k] = (*slice_bounds(shape[k], start, end, step), step)
    return out


def infer_slice(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """attrs starts, ends, steps (index expressions), axes (ints)."""
    x = operand("slice", types, 0)
    cuts = _slices(attrs, x.shape)
    out = TensorType(x.dtype, tuple(cuts[k][1] if k in cuts else d for k, d in enumerate(x.shape)))
    numbers = [sizes(attrs, name) for name in ("starts", "ends", "steps") if attrs.get(name)]
    if x.value is None or not all_known(e for some in numbers for e in some):
        return (out,)
    return (with_value(out, moved(ref_slice, [x], attrs)),)


def ref_slice(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x = given(arrays)
    where = [slice(None)] * x.ndim
    starts, ends = ints(attrs, "starts"), ints(attrs, "ends")
    axes = range(len(starts)) if attrs.get("axes") is None else ints(attrs, "axes")
    steps = (1,) * len(starts) if attrs.get("steps") is None else ints(attrs, "steps")
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # Python's slice with a negative step stops before index 0 only where the end is left out.
        stop = None if step < 0 and end < -x.shape[axis] else end
        where[axis] = slice(start, stop, step)
    return (x[tuple(where)],)


def lower_slice(e: Emit, n: Node, ins: Operands) -> Lowered:
    x = given(ins)
    cuts = _slices(dict(n.attrs), x.shape)

    def value(*at: Expr) -> Expr:
        return Read(
            x,
            tuple(
                add(cuts[k][0], mul(i, cuts[k][2])) if k in cuts else i for k, i in enumerate(at)
            ),
        )

    return (e.stage(f"slice_{len(e.stages)}", n.type.shape, value),)


def _slice_samples() -> Iterable[Sample]:
    last, first = 2**63 - 1, -(2**63)
    for starts, ends, axes, steps in [
        ((1,), (3,), (0,), (1,)), ((0, 1), (last, -1), (0, 2), (1, 2)),
        ((-3,), (last,), (1,), (1,)),
        ((last,), (first,), (1,), (-1,)), ((-2, 4), (0, first), (1, 2), (-1, -3)),
        ((3,), (1,), (0,), (1,)), ((-100,), (100,), (2,), (1,)), ((7,), (9,), (2,), (1,)),
        ((2,), (-1,), (-1,), (2,)), ((100,), (-100,), (2,), (-2,)),
    ]:  # fmt: skip
        attrs = {"starts": starts, "ends": ends, "axes": axes, "steps": steps}
        yield Sample((random(4, 5, 6),), attrs)
    yield Sample((random(5, dtype="i64"),), {"starts": (1,), "ends": (-1,)})
    yield Sample((random(0, 2),), {"starts": (0,), "ends": (1,), "axes": (0,), "steps": (1,)})


register(Op("slice", "index", infer_slice, ref_slice, lower_slice, samples=_slice_samples))


# --- gather ---------------------------------------------------------------------------------------


def infer_gather(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x, indices (signed, or bytes as into a table) -> x.shape[:axis] + indices.shape +
    x.shape[axis + 1:]."""
    x, at = operand("gather", types, 0), operand("gather", types, 1)
    check_kind("gather", at.dtype, "iu" if at.dtype == "u8" else "i")
    axis = axis_of("gather", attrs.get("axis", 0), x.rank)
    out = TensorType(x.dtype, (*x.shape[:axis], *at.shape, *x.shape[axis + 1 :]))
    _check_any("gather", x.shape[axis], out.shape)
    positions, size = as_ints(at), known(x.shape[axis])
    if positions is None or size is None:
        return (out,)
    if positions.size and not (-size <= positions.min() and positions.max() < size):
        raise ModelError(f"gather: index {positions.tolist()} is out of range for size {size}")
    return (with_value(out, moved(ref_gather, [x], attrs, [positions])),)


def _check_any(op: str, size: Expr, wanted: Sequence[Expr]) -> None:
    """There is an element to read, if any is to be: positions are clamped, and without elements
    none is inside."""
    if bounds(size)[0] < 1 and known(size) is None:
        check_holds(
            lambda: logical_or(compare("ge", size, 1), compare("eq", prod(wanted), 0)),
            f"{dim_text(size)} >= 1: it takes elements of that axis",
        )


def ref_gather(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x, at = given(arrays), given(arrays, 1)
    axis = int(attrs.get("axis", 0)) % x.ndim
    if not x.shape[axis]:
        return (np.zeros((*x.shape[:axis], *at.shape, *x.shape[axis + 1 :]), x.dtype),)
    return (np.take(x, _in_range(at.astype(np.int64), x.shape[axis]), axis),)


def _in_range(at: Array, size: int) -> Array:
    """Negative positions count from the end; the rest is clamped."""
    return np.clip(np.where(at < 0, at + size, at), 0, max(size - 1, 0))


def position(at: Tensor, i: Sequence[Expr], size: Expr, source: Node | None) -> Expr:
    """The element of an index tensor as a subscript into 0..size-1: the number itself where it is
    known, else wrapped and clamped."""
    value = source.type.value if source is not None else None
    if value is not None and len(value) == 1:
        e = value[0]
        number = known(e)
        if number is not None:
            return _known_position(number, size)
    else:
        e = Cast(Read(at, tuple(i)), "index")
    if at.dtype != "u8":
        e = maximum(select(compare("lt", e, 0), add(e, size), e), 0)
    elif bounds(size)[0] >= 256:
        return e
    return minimum(e, sub(size, 1))


def _known_position(number: int, size: Expr) -> Expr:
    """A position that does not depend on data. The first and the last one exist wherever anything
    does; others are clamped unless the size is known to be large enough."""
    at = index(number) if number >= 0 else add(index(number), size)
    if number in (0, -1) or bounds(size)[0] > (number if number >= 0 else -number - 1):
        return at
    return maximum(minimum(at, sub(size, 1)), 0)


def lower_gather(e: Emit, n: Node, ins: Operands) -> Lowered:
    x, at = given(ins), given(ins, 1)
    axis = axis_of("gather", n.attr("axis", 0), len(x.shape))
    inner = len(at.shape)

    def value(*i: Expr) -> Expr:
        if x.shape[axis] is ZERO:
            return f.number(0, x.dtype)  # there is nothing to read
        where = position(at, i[axis : axis + inner], x.shape[axis], n.inputs[1])
        return Read(x, (*i[:axis], where, *i[axis + inner :]))

    return (e.stage(f"gather_{len(e.stages)}", n.type.shape, value),)


def _gather_samples() -> Iterable[Sample]:
    at = np.array([[0, -1], [2, 1]])
    yield Sample((random(4, 5), at), {"axis": 0})
    yield Sample((random(4, 5), at.astype(np.int32)), {"axis": 1})
    yield Sample((random(4, 5, 3), np.array(-2)), {"axis": 1})
    yield Sample((random(4, 5), np.zeros((0,), np.int64)), {"axis": -1})
    yield Sample((random(3, dtype="i64"), np.array([2])), {"axis": 0})
    yield Sample((random(2, 0), np.array([1, 2])), {"axis": 1})
    every = np.arange(255, -1, -1, dtype=np.uint8)
    yield Sample((random(256), every), {"axis": 0})
    yield Sample((random(20, 2), every), {"axis": 0})


register(Op("gather", "index", infer_gather, ref_gather, lower_gather, samples=_gather_samples))


def infer_gather_elements(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """out[i, j, k] = x[at[i, j, k], j, k] for axis 0; ranks are equal, other dims at most x's."""
    x, at = operand("gather_elements", types, 0), operand("gather_elements", types, 1)
    check_kind("gather_elements", at.dtype, "i")
    axis = axis_of("gather_elements", attrs.get("axis", 0), x.rank)
    if at.rank != x.rank:
        raise ModelError(f"gather_elements: ranks {x.rank} and {at.rank} differ")
    for k, (d, size) in enumerate(zip(at.shape, x.shape, strict=True)):
        if k != axis:
            check_at_most("gather_elements", f"positions along axis {k}", d, size)
    _check_any("gather_elements", x.shape[axis], at.shape)
    return (TensorType(x.dtype, at.shape),)


def ref_gather_elements(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x, at = given(arrays), given(arrays, 1)
    axis = int(attrs.get("axis", 0)) % x.ndim
    grids = np.indices(at.shape)
    where = _in_range(at, x.shape[axis])
    places = [where if k == axis else grids[k] for k in range(x.ndim)]
    return (x[tuple(places)] if at.size else np.zeros(at.shape, x.dtype),)


def lower_gather_elements(e: Emit, n: Node, ins: Operands) -> Lowered:
    x, at = given(ins), given(ins, 1)
    axis = axis_of("gather_elements", n.attr("axis", 0), len(x.shape))

    def value(*i: Expr) -> Expr:
        if x.shape[axis] is ZERO:
            return f.number(0, x.dtype)
        where = position(at, i, x.shape[axis], n.inputs[1])
        return Read(x, (*i[:axis], where, *i[axis + 1 :]))

    return (e.stage(f"gather_elements_{len(e.stages)}", n.type.shape, value),)


def _gather_elements_samples() -> Iterable[Sample]:
    yield Sample((random(3, 4), np.array([[0, -1, 2, 1], [1, 1, 0, -3]])), {"axis": 0})
    yield Sample((random(3, 4), np.array([[3], [-1], [0]], np.int32)), {"axis": 1})
    yield Sample((random(3, 4), np.zeros((0, 4), np.int64)), {"axis": 0})


register(Op("gather_elements", "index", infer_gather_elements, ref_gather_elements,
            lower_gather_elements, samples=_gather_elements_samples))  # fmt: skip


# --- reverse_sequence -----------------------------------------------------------------------------


def infer_reverse_sequence(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x, lengths (i32 or i64) [size of attr batch_axis] -> x whose first `length` elements along
    attr time_axis are turned around, of each sample. A length is clamped to the size."""
    op = "reverse_sequence"
    x, lengths = operand(op, types, 0), operand(op, types, 1, 1)
    check_kind(op, lengths.dtype, "i")
    time, batch = (axis_of(op, attrs[f"{k}_axis"], x.rank) for k in ("time", "batch"))
    if time == batch:
        raise ModelError(f"{op}: axis {time} is both time and batch")
    check_equal(op, "sizes of the batch", x.shape[batch], lengths.shape[0])
    return (TensorType(x.dtype, x.shape),)


def ref_reverse_sequence(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x, lengths, out = given(arrays), given(arrays, 1), given(arrays).copy()
    axes = (int(attrs["batch_axis"]), int(attrs["time_axis"]))
    source, to = (np.moveaxis(a, axes, (0, 1)) for a in (x, out))
    for b, length in enumerate(np.clip(lengths, 0, x.shape[axes[1]])):
        to[b, :length] = source[b, :length][::-1]
    return (out,)


def lower_reverse_sequence(e: Emit, n: Node, ins: Operands) -> Lowered:
    x, lengths = given(ins), given(ins, 1)
    time, batch = (axis_of(n.op, n.attr(f"{k}_axis"), len(x.shape)) for k in ("time", "batch"))

    def value(*at: Expr) -> Expr:
        length = minimum(Cast(Read(lengths, (at[batch],)), "index"), x.shape[time])
        turned = compare("lt", at[time], length)
        source = select(turned, sub(sub(length, 1), at[time]), at[time])
        return Read(x, (*at[:time], source, *at[time + 1 :]))

    return (e.stage(f"reverse_sequence_{len(e.stages)}", n.type.shape, value),)


def _reverse_sequence_samples() -> Iterable[Sample]:
    lengths = np.array([4, 0, 9, -3, 2])
    yield Sample((random(5, 4), lengths), {"batch_axis": 0, "time_axis": 1})
    yield Sample((random(4, 5, 3), lengths), {"batch_axis": 1, "time_axis": 0})
    yield Sample((random(2, 5, 3, 6), lengths.astype(np.int32)), {"batch_axis": 1, "time_axis": 3})
    yield Sample((random(0, 5), lengths), {"batch_axis": 1, "time_axis": 0})
    yield Sample((random(1, 1, dtype="bool"), lengths[:1]), {"batch_axis": 0, "time_axis": 1})


register(Op("reverse_sequence", "index", infer_reverse_sequence, ref_reverse_sequence,
            lower_reverse_sequence, samples=_reverse_sequence_samples))  # fmt: skip


# --- repeat ---------------------------------------------------------------------------------------


def infer_repeat(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """Each element `times` times in a row along an axis, as numpy.repeat has it."""
    x = operand("repeat", types, 0)
    axis, times = axis_of("repeat", attrs.get("axis", 0), x.rank), attrs.get("times")
    if not isinstance(times, int) or times < 1:
        raise ModelError(f"repeat: expected times of at least 1, found {times!r}")
    size = mul(x.shape[axis], times)
    return (TensorType(x.dtype, (*x.shape[:axis], size, *x.shape[axis + 1 :])),)


def ref_repeat(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    return (np.repeat(given(arrays), attrs["times"], attrs.get("axis", 0)),)


def lower_repeat(e: Emit, n: Node, ins: Operands) -> Lowered:
    x = given(ins)
    axis, times = axis_of("repeat", n.attr("axis", 0), len(x.shape)), n.attr("times")
    assert isinstance(times, int)

    def value(*at: Expr) -> Expr:
        return Read(x, (*at[:axis], floordiv(at[axis], times), *at[axis + 1 :]))

    return (e.stage(f"repeat_{len(e.stages)}", n.type.shape, value),)


def _repeat_samples() -> Iterable[Sample]:
    yield Sample((random(2, 3, 4),), {"axis": 1, "times": 2})
    yield Sample((random(2, 3, 5),), {"axis": -1, "times": 3})
    yield Sample((random(0, 3, dtype="i64"),), {"axis": 0, "times": 2})
    yield Sample((random(3, dtype="bool"),), {"axis": 0, "times": 1})


register(Op("repeat", "index", infer_repeat, ref_repeat, lower_repeat, samples=_repeat_samples))


# --- concat ---------------------------------------------------------------------------------------


def infer_concat(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """Operands one after the other along `axis`; their other dims are equal."""
    parts = [operand("concat", types, k) for k in range(max(len(types), 1))]
    dtype, first = check_same_dtype("concat", parts), parts[0]
    axis = axis_of("concat", attrs["axis"], first.rank)
    shape = list(first.shape)
    for p in parts[1:]:
        if p.rank != first.rank:
            raise ModelError(f"concat: ranks {first.rank} and {p.rank} differ")
        for k in range(first.rank):
            if k != axis:
                shape[k] = check_equal("concat", f"sizes of axis {k}", shape[k], p.shape[k])
    shape[axis] = add(*(p.shape[axis] for p in parts))
    out = TensorType(dtype, tuple(shape))
    return (with_value(out, moved(ref_concat, parts, attrs)),)


def ref_concat(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    return (np.concatenate([a for a in arrays if a is not None], int(attrs["axis"])),)


def lower_concat(e: Emit, n: Node, ins: Operands) -> Lowered:
    axis = axis_of("concat", n.attr("axis"), n.type.rank)
    parts = [t for t in ins if t is not None and t.shape[axis] is not ZERO] or [given(ins)]
    starts: list[Expr] = [ZERO]
    for t in parts:
        starts.append(add(starts[-1], t.shape[axis]))

    def value(*at: Expr) -> Expr:
        out: Expr | None = None
        for k in reversed(range(len(parts))):
            i = sub(at[axis], starts[k])
            if len(parts) > 1:
                # Only the part that is chosen is sure to have the element: clamp the others.
                i = minimum(i, sub(parts[k].shape[axis], 1)) if k < len(parts) - 1 else i
                i = maximum(i, 0)
            here = Read(parts[k], (*at[:axis], i, *at[axis + 1 :]))
            out = here if out is None else Select(compare("lt", at[axis], starts[k + 1]), here, out)
        assert out is not None
        return out

    return (e.stage(f"concat_{len(e.stages)}", n.type.shape, value),)


def _concat_samples() -> Iterable[Sample]:
    yield Sample((random(2, 3), random(2, 1, seed=1), random(2, 4, seed=2)), {"axis": 1})
    yield Sample((random(2, 3), random(1, 3, seed=1)), {"axis": 0})
    yield Sample((random(2, 0), random(2, 3, seed=1)), {"axis": -1})
    yield Sample((random(3),), {"axis": 0})
    yield Sample((random(0), random(0)), {"axis": 0})
    yield Sample((random(1, dtype="i64"), random(2, dtype="i64")), {"axis": 0})


register(Op("concat", "index", infer_concat, ref_concat, lower_concat, samples=_concat_samples))


# --- pad ------------------------------------------------------------------------------------------


def _pads(attrs: Attrs, rank: int) -> tuple[Dims, Dims]:
    """(begin, end) of every axis. A negative pad crops."""
    pads = sizes(attrs, "pads")
    if len(pads) != 2 * rank:
        raise ModelError(f"pad: expected {2 * rank} pads for rank {rank}, got {len(pads)}")
    return pads[:rank], pads[rank:]


def infer_pad(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """attrs pads (begins, then ends, of all axes), mode, value (a number; for mode constant)."""
    x = operand("pad", types, 0)
    mode = attrs.get("mode", "constant")
    if mode not in ("constant", "edge", "reflect", "wrap"):
        raise ModelError(f"pad: unknown mode {mode!r}")
    begin, end = _pads(attrs, x.rank)
    shape = tuple(add(b, d, p) for b, d, p in zip(begin, x.shape, end, strict=True))
    for k, d in enumerate(shape):
        if (known(d) or 0) < 0:
            raise ModelError(f"pad: axis {k} would have {dim_text(d)} elements")
        if mode != "constant" and x.shape[k] is ZERO and d is not ZERO:
            raise ModelError(f"pad: mode {mode} of axis {k}, which has no elements")
        for p in (begin[k], end[k]) if mode == "reflect" and not all_known((d, x.shape[k])) else ():
            most = maximum(sub(x.shape[k], 1), 0)
            check_at_most("pad", "elements before the edge to reflect", p, most)
    return (TensorType(x.dtype, shape),)


def ref_pad(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x = given(arrays)
    pads, mode = ints(attrs, "pads"), attrs.get("mode", "constant")
    both = list(zip(pads[: x.ndim], pads[x.ndim :], strict=True))
    if mode == "constant":
        crop = tuple(
            slice(max(-b, 0), d - max(-p, 0)) for (b, p), d in zip(both, x.shape, strict=True)
        )
        grow = [(max(b, 0), max(p, 0)) for b, p in both]
        return (np.pad(x[crop], grow, constant_values=attrs.get("value", 0)),)
    for k, (b, p) in enumerate(both):
        size = int(x.shape[k])
        at = np.arange(-b, size + p)
        x = np.take(x, _np_pad_index(at, size, mode) if at.size else at, k)
    return (x,)


def _np_pad_index(at: Array, size: int, mode: str) -> Array:
    if mode == "edge":
        return np.clip(at, 0, size - 1)
    if mode == "wrap":
        return at % size
    period = max(2 * (size - 1), 1)
    at = np.abs(at) % period
    return np.where(at < size, at, period - at) if size > 1 else at * 0


def lower_pad(e: Emit, n: Node, ins: Operands) -> Lowered:
    x = given(ins)
    mode, value = n.attr("mode", "constant"), n.attr("value", 0)
    begin, end = _pads(dict(n.attrs), len(x.shape))
    fill = f.number(value, x.dtype)  # pyright: ignore[reportArgumentType]

    def element(*at: Expr) -> Expr:
        if ZERO in x.shape:
            return fill
        inside: Expr = TRUE
        where: list[Expr] = []
        for i, d, b, p in zip(at, x.shape, begin, end, strict=True):
            source = sub(i, b)
            low, high = known(b) != 0, known(p) != 0
            if mode == "constant":
                inside = logical_and(inside, compare("ge", source, 0) if low else TRUE)
                inside = logical_and(inside, compare("lt", source, d) if high else TRUE)
            wide = any((known(q) or 0) > (known(d) or 0) - 1 for q in (b, p))
            where.append(_pad_index(source, d, str(mode), low, high, wide))
        return select(inside, Read(x, tuple(where)), fill)

    return (e.stage(f"pad_{len(e.stages)}", n.type.shape, element),)


def _pad_index(i: Expr, size: Expr, mode: str, low: bool, high: bool, wide: bool) -> Expr:
    """The element that position i (possibly outside 0..size-1, on the sides named) shows. `wide`:
    it may lie so far outside that it is reflected more than once."""
    if not low and not high:
        return i
    last = sub(size, 1)
    if mode == "wrap":
        return mod(i, size)
    if mode == "reflect":
        count = known(size)
        if count is not None and count > 1 and wide:
            i = mod(i, 2 * (count - 1))
            return minimum(i, sub(2 * (count - 1), i))
        i = maximum(i, mul(i, -1)) if low else i
        i = minimum(i, sub(mul(last, 2), i)) if high else i
        # Once is enough for pads below the size; where that is not known, the plan checks it.
    if low or mode == "reflect":
        i = maximum(i, 0)
    return minimum(i, last) if high or mode == "reflect" else i


def _pad_samples() -> Iterable[Sample]:
    x = random(2, 3, 4)
    yield Sample((x,), {"pads": (0, 1, 2, 0, 0, 3), "mode": "constant", "value": 0.0})
    yield Sample((x,), {"pads": (1, 0, 0, 1, 0, 0), "mode": "constant", "value": -1.5})
    yield Sample((x,), {"pads": (0, -1, 1, 0, 1, -2), "mode": "constant"})
    yield Sample((x,), {"pads": (0, 2, 1, 0, 1, 3), "mode": "reflect"})
    yield Sample((x,), {"pads": (1, 2, 1, 0, 4, 9), "mode": "edge"})
    yield Sample((x,), {"pads": (1, 2, 1, 0, 4, 9), "mode": "wrap"})
    yield Sample((x,), {"pads": (0, -1, 0, 0, 1, -2), "mode": "edge"})
    yield Sample((random(0, 2),), {"pads": (1, 0, 1, 1), "mode": "constant", "value": 7.0})
    yield Sample((random(2, dtype="i64"),), {"pads": (1, 2), "mode": "constant", "value": 3})
    yield Sample((random(2, dtype="bool"),), {"pads": (0, 0), "mode": "constant"})


register(Op("pad", "index", infer_pad, ref_pad, lower_pad, samples=_pad_samples))


# --- trilu, one_hot -------------------------------------------------------------------------------


def infer_trilu(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """attrs upper (default 1), k (int): keeps one side of the k-th diagonal, 0 elsewhere."""
    x = operand("trilu", types, 0)
    if x.rank < 2:
        raise ModelError(f"trilu: expected rank 2 or more, got {x.rank}")
    return (TensorType(x.dtype, x.shape),)


def ref_trilu(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    side = np.triu if attrs.get("upper", 1) else np.tril
    return (side(given(arrays), int(attrs.get("k", 0))),)


def lower_trilu(e: Emit, n: Node, ins: Operands) -> Lowered:
    x, (k,) = given(ins), sizes({"k": (n.attr("k", 0),)}, "k")
    op = "ge" if n.attr("upper", 1) else "le"

    def value(*at: Expr) -> Expr:
        keep = compare(op, sub(at[-1], at[-2]), k)
        return select(keep, Read(x, tuple(at)), f.number(0, x.dtype))

    return (e.stage(f"trilu_{len(e.stages)}", n.type.shape, value),)


def _trilu_samples() -> Iterable[Sample]:
    for k in (0, 1, -2, 10):
        for upper in (0, 1):
            yield Sample((random(2, 3, 5),), {"k": k, "upper": upper})
    yield Sample((random(2, 2, dtype="bool"),), {"upper": 0})
    yield Sample((random(0, 2),), {})


register(Op("trilu", "index", infer_trilu, ref_trilu, lower_trilu, samples=_trilu_samples))


def infer_one_hot(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """indices, values [2] = (off, on); attrs depth (index expression), axis (of the result)."""
    at, values = operand("one_hot", types, 0), operand("one_hot", types, 1, rank=1)
    check_kind("one_hot", at.dtype, "fiu")
    axis = axis_of("one_hot", attrs.get("axis", -1), at.rank + 1)
    depth = index(attrs["depth"])
    return (TensorType(values.dtype, (*at.shape[:axis], depth, *at.shape[axis:])),)


def ref_one_hot(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    at, values = given(arrays), given(arrays, 1)
    (depth,) = ints({"depth": (attrs["depth"],)}, "depth")
    axis = int(attrs.get("axis", -1)) % (at.ndim + 1)
    hot = np.where(at < 0, at + depth, at)
    lines = np.arange(depth).reshape([depth if k == axis else 1 for k in range(at.ndim + 1)])
    return (np.take(values, np.equal(np.expand_dims(hot, axis), lines).astype(np.int64)),)


def lower_one_hot(e: Emit, n: Node, ins: Operands) -> Lowered:
    at, values = given(ins), given(ins, 1)
    axis = axis_of("one_hot", n.attr("axis", -1), n.type.rank)
    depth = n.type.shape[axis]

    def value(*i: Expr) -> Expr:
        here = Cast(Read(at, (*i[:axis], *i[axis + 1 :])), "index")
        hot = compare("eq", select(compare("lt", here, 0), add(here, depth), here), i[axis])
        return Select(hot, Read(values, (ONE,)), Read(values, (ZERO,)))

    return (e.stage(f"one_hot_{len(e.stages)}", n.type.shape, value),)


def _one_hot_samples() -> Iterable[Sample]:
    values = np.array([0.5, 2], np.float32)
    at = np.array([[0, 3, -1], [7, -9, 1]])
    yield Sample((at, values), {"depth": 4, "axis": -1})
    yield Sample((at, values), {"depth": 4, "axis": 0})
    yield Sample((np.array(2), np.array([0, 1])), {"depth": 3})


register(
    Op("one_hot", "index", infer_one_hot, ref_one_hot, lower_one_hot, samples=_one_hot_samples)
)
