"""Writing at positions that data give: scatter_elements, scatter_nd, tensor_scatter.

attr `reduction` says what becomes of the element that is there already: none (it is replaced), add,
mul, max or min. Updates are applied in row-major order; half floats are added and multiplied in
f32 and rounded after each update. An update whose position is out of range is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from naru.errors import ModelError
from naru.ir.expr import Cast, Expr, Read, Select
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import (
    TRUE,
    ZERO,
    compare,
    known,
    logical_and,
    maximum,
    minimum,
    mod,
    prod,
    sub,
)
from naru.ir.tensor import Tensor
from naru.ops.kernel_text import by_hand, indent, tiled
from naru.ops.operands import (
    axis_of,
    check_at_most,
    check_equal,
    check_kind,
    check_same_dtype,
    compute_dtype,
    dim_text,
    given,
    operand,
    optional,
    shape_text,
)
from naru.ops.registry import Arrays, Attrs, Emit, Op, Sample, Types, register
from naru.ops.samples import random
from naru.targets import Target

Array = np.ndarray
# What a reduction does, in loop IR and in numpy; on bools `add` is or, `mul` is and.
TEXTS = {
    "none": "{new}", "add": "{old} + {new}", "mul": "{old} * {new}",
    "max": "max({old}, {new})", "min": "min({old}, {new})",
}  # fmt: skip
BOOL_TEXTS = {
    "none": "{new}", "add": "{old} | {new}", "mul": "{old} & {new}",
    "max": "{old} | {new}", "min": "{old} & {new}",
}  # fmt: skip
MEANINGS: dict[str, Any] = {
    "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum,
}  # fmt: skip


def _update(out: Array, places: list[Array], updates: Array, how: str) -> None:
    """Brings updates into their places, one after the other: without a reduction the last counts.
    `places`: for each of the first axes of out, positions of either sign."""
    if not places:
        out, places = out[None], [np.zeros(len(updates), np.int64)]
    if how != "none":
        with np.errstate(invalid="ignore"):  # NaN among what is compared
            MEANINGS[how].at(out, tuple(places), updates)
    elif updates.size:
        found = [np.where(p < 0, p + size, p) for p, size in zip(places, out.shape, strict=False)]
        flat = np.ravel_multi_index(found, out.shape[: len(found)])
        last = len(flat) - 1 - np.unique(flat[::-1], return_index=True)[1]
        out[tuple(p[last] for p in found)] = updates[last]


def _reduction(op: str, attrs: Attrs) -> str:
    how = attrs.get("reduction", "none")
    if how not in TEXTS:
        raise ModelError(f"{op}: expected a reduction of {', '.join(TEXTS)}, found {how!r}")
    return str(how)


def _updated(how: str, dtype: str, out: str, updates: str) -> str:
    """The statement that brings an update into an element (or a tile)."""
    if how == "none":
        return f"{out} = {updates}"
    wide = compute_dtype(dtype)
    old, new = (x if wide == dtype else f"{wide}({x})" for x in (out, updates))
    value = (BOOL_TEXTS if dtype == "bool" else TEXTS)[how].format(old=old, new=new)
    return f"{out} = {value}" if wide == dtype else f"{out} = {dtype}({value})"


# --- scatter_elements -----------------------------------------------------------------------------


def infer_scatter_elements(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """data, at (i32 or i64), updates -> data with data[at[i, j, k], j, k] from updates[i, j, k] for
    axis 0. Ranks are equal; at and updates have one shape, no larger than data beside the axis."""
    op = "scatter_elements"
    data, at, updates = (operand(op, types, k) for k in range(3))
    check_kind(op, at.dtype, "i")
    check_same_dtype(op, [data, updates])
    _reduction(op, attrs)
    axis = axis_of(op, attrs.get("axis", 0), data.rank)
    if not data.rank == at.rank == updates.rank:
        raise ModelError(f"{op}: ranks {data.rank}, {at.rank} and {updates.rank} differ")
    for k in range(data.rank):
        check_equal(op, f"sizes of axis {k} of indices and updates", at.shape[k], updates.shape[k])
        if k != axis:
            check_at_most(op, f"positions along axis {k}", at.shape[k], data.shape[k])
    return (TensorType(data.dtype, data.shape),)


def ref_scatter_elements(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    data, at, updates = given(arrays), given(arrays, 1), given(arrays, 2)
    axis, out = int(attrs.get("axis", 0)) % data.ndim, data.copy()
    size = data.shape[axis]
    inside = (at >= -size) & (at < size)
    grid: list[Any] = list(np.indices(at.shape))
    places = [at[inside] if k == axis else i[inside] for k, i in enumerate(grid)]
    _update(out, places, updates[inside], _reduction("scatter_elements", attrs))
    return (out,)


def opaque_scatter_elements(n: Node, target: Target) -> str:
    """Parameters: data, at, updates, out, sizes. Slices of the first axis are independent unless
    it is the one that is scattered along: each copies its part of data and then updates it."""
    data, at = (given(n.inputs, k).type for k in (0, 1))
    axis = axis_of("scatter_elements", n.attr("axis", 0), data.rank)
    strides = [prod(data.shape[k + 1 :]) for k in range(data.rank)]
    apart = axis > 0
    sizes: dict[str, Expr] = {f"A{k}": d for k, d in enumerate(at.shape)}
    sizes |= {f"S{k}": s for k, s in enumerate(strides)}
    part = prod(data.shape[1:]) if apart else prod(data.shape)
    sizes |= {"PART": part, "UPDATES": prod(at.shape[1:]), "SIZE": data.shape[axis]}
    copy = tiled("PART", known(part), lambda at: f"out[{at('first')}] = data[{at('first')}]")
    loops: list[str] = []
    inner = range(1 if apart else 0, data.rank)
    for depth, k in enumerate(inner):
        loops += indent([f"for i{k} in range(A{k}):"], depth)
    place = " + ".join(f"{'place' if k == axis else f'i{k}'} * S{k}" for k in range(data.rank))
    statement = _updated(
        _reduction("scatter_elements", dict(n.attrs)), data.dtype, "out[to]", "updates[u]"
    )
    loops += indent(
        [
            "found: index = index(at[u])",
            "place: index = select(found < 0, found + SIZE, found)",
            "if place >= 0 and place < SIZE:",
            f"    to: index = {place}",
            f"    {statement}",
            "u = u + 1",
        ],
        len(inner),
    )
    if not apart:
        return by_hand(
            n, ("data", "at", "updates"), ("out",), ["first: index = 0", *copy, "u = 0", *loops],
            sizes,
        )  # fmt: skip
    sizes["D0"] = data.shape[0]
    body = [
        "for i0 in parallel(D0):",
        *indent(["first: index = i0 * PART", *copy, "if i0 < A0:"]),
        *indent(["u = i0 * UPDATES", *loops], 2),
    ]
    return by_hand(n, ("data", "at", "updates"), ("out",), body, sizes)


def _scatter_elements_samples() -> Iterable[Sample]:
    at = np.array([[0, -1, 2, 1], [1, 1, 0, -3], [0, 5, -9, 2]])
    data, updates = random(3, 4), random(3, 4, seed=1)
    for how in TEXTS:
        yield Sample((data, at, updates), {"axis": 0, "reduction": how})
        yield Sample((data, at.astype(np.int32), updates), {"axis": 1, "reduction": how})
    for dtype in ("f16", "bool", "u8", "i64"):
        for how in ("add", "mul", "max"):
            a, b = random(3, 4, dtype=dtype), random(3, 4, dtype=dtype, seed=1)
            yield Sample((a, at, b), {"axis": -1, "reduction": how})
    nan = np.array([np.nan, 1, -np.inf, 0], np.float32)
    yield Sample((nan, np.array([1, 0, 1, 3]), nan[::-1].copy()), {"axis": 0, "reduction": "max"})
    yield Sample((random(5, 33), np.zeros((2, 3), np.int64), random(2, 3)), {"axis": 1})
    yield Sample((random(2, 3, 4), np.array([[[1], [-2]]]), random(1, 2, 1)), {"axis": 2})
    yield Sample((random(3, 4), np.zeros((0, 4), np.int64), random(0, 4)), {"axis": 0})
    yield Sample((random(0, 4), np.zeros((0, 2), np.int64), random(0, 2)), {"axis": 1})


register(Op("scatter_elements", "opaque", infer_scatter_elements, ref_scatter_elements,
            opaque=opaque_scatter_elements, samples=_scatter_elements_samples))  # fmt: skip


# --- scatter_nd -----------------------------------------------------------------------------------


def infer_scatter_nd(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """data [d1, …, dk, width], at [count, k], updates [count, width] -> data with the row at each
    of the positions from updates."""
    op = "scatter_nd"
    data, at, updates = operand(op, types, 0), operand(op, types, 1, 2), operand(op, types, 2, 2)
    check_kind(op, at.dtype, "i")
    check_same_dtype(op, [data, updates])
    _reduction(op, attrs)
    if known(at.shape[1]) != data.rank - 1:
        raise ModelError(
            f"{op}: expected positions of {data.rank - 1} numbers, found {dim_text(at.shape[1])}"
        )
    check_equal(op, "numbers of positions and updates", at.shape[0], updates.shape[0])
    check_equal(op, "sizes of rows", data.shape[-1], updates.shape[1])
    return (TensorType(data.dtype, data.shape),)


def ref_scatter_nd(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    data, at, updates = given(arrays), given(arrays, 1), given(arrays, 2)
    out, sizes = data.copy(), np.array(data.shape[:-1], np.int64)
    inside = ((at >= -sizes) & (at < sizes)).all(axis=1)
    places: list[Array] = list(at[inside].T)
    _update(out, places, updates[inside], _reduction("scatter_nd", attrs))
    return (out,)


def opaque_scatter_nd(n: Node, target: Target) -> str:
    """Parameters: data, at, updates, out, sizes."""
    data, at = (given(n.inputs, k).type for k in (0, 1))
    k, width = data.rank - 1, data.shape[-1]
    sizes: dict[str, Expr] = {f"D{j}": data.shape[j] for j in range(k)}
    sizes |= {"ALL": prod(data.shape), "COUNT": at.shape[0], "WIDTH": width}
    how = _reduction("scatter_nd", dict(n.attrs))
    rows = [f"found{j}: index = index(at[u * {k} + {j}])" for j in range(k)]
    rows += [f"p{j}: index = select(found{j} < 0, found{j} + D{j}, found{j})" for j in range(k)]
    place = "p0" if k else "0"
    for j in range(1, k):
        place = f"({place}) * D{j} + p{j}"
    inside = " and ".join(f"p{j} >= 0 and p{j} < D{j}" for j in range(k)) or "True"
    update = tiled(
        "WIDTH",
        known(width),
        lambda at: _updated(how, data.dtype, f"out[{at('to')}]", f"updates[{at('source')}]"),
    )
    rows += [
        f"if {inside}:",
        *indent([f"to: index = ({place}) * WIDTH", "source: index = u * WIDTH", *update]),
    ]
    copy = tiled("ALL", known(sizes["ALL"]), lambda at: f"out[{at('0')}] = data[{at('0')}]")
    # (Without positions, `updates` has no room for a tile.)
    body = copy if at.shape[0] is ZERO else [*copy, "for u in range(COUNT):", *indent(rows)]
    return by_hand(n, ("data", "at", "updates"), ("out",), body, sizes)


def _scatter_nd_samples() -> Iterable[Sample]:
    at = np.array([[0, 1], [-1, 2], [0, 1], [2, -4], [1, 0]])
    for how in TEXTS:
        yield Sample((random(2, 3, 4), at, random(5, 4, seed=1)), {"reduction": how})
        yield Sample((random(2, 3, 33), at, random(5, 33, seed=1)), {"reduction": how})
    for dtype in ("f16", "bool", "u8", "i64"):
        for how in ("none", "mul"):
            a, b = random(4, 18, dtype=dtype), random(2, 18, dtype=dtype, seed=1)
            yield Sample((a, np.array([[3], [-4]], np.int32), b), {"reduction": how})
    yield Sample((random(4, 1), np.array([[2], [9]]), random(2, 1)))
    yield Sample((random(4, 0), np.array([[2]]), random(1, 0)))
    yield Sample((random(4, 2), np.zeros((0, 1), np.int64), random(0, 2)))
    yield Sample((random(3), np.zeros((2, 0), np.int64), random(2, 3, seed=2)))


register(Op("scatter_nd", "opaque", infer_scatter_nd, ref_scatter_nd,
            opaque=opaque_scatter_nd, samples=_scatter_nd_samples))  # fmt: skip


# --- tensor_scatter -------------------------------------------------------------------------------


def infer_tensor_scatter(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """past [B, …, T, …], update [B, …, S, …], starts [B] (i64; None: zeros) -> past with the update
    written from starts on along attr `axis`; attr `circular`: positions wrap around at T."""
    op = "tensor_scatter"
    past, update, starts = operand(op, types, 0), operand(op, types, 1), optional(types, 2)
    check_same_dtype(op, [past, update])
    axis = axis_of(op, attrs.get("axis", -2), past.rank)
    if past.rank != update.rank or not axis:
        raise ModelError(
            f"{op}: expected operands of one rank and an axis other than the first, found "
            f"{shape_text(past.shape)}, {shape_text(update.shape)} and axis {axis}"
        )
    for k in range(past.rank):
        if k != axis:
            check_equal(op, f"sizes of axis {k}", past.shape[k], update.shape[k])
    most, count = known(past.shape[axis]), known(update.shape[axis])
    if most is not None and count is not None and count > most:
        raise ModelError(f"{op}: an update of {count} does not fit a sequence of {most}")
    if starts is not None:
        check_kind(op, operand(op, types, 2, 1).dtype, "i")
        check_equal(op, "sizes of the batch", past.shape[0], starts.shape[0])
    return (TensorType(past.dtype, past.shape),)


def ref_tensor_scatter(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    past, update = given(arrays), given(arrays, 1)
    axis, out = int(attrs.get("axis", -2)) % past.ndim, past.copy()
    starts = arrays[2] if len(arrays) > 2 else None
    size = past.shape[axis]
    for b in range(past.shape[0]):
        first = 0 if starts is None else int(starts[b])
        for s in range(update.shape[axis]):
            t = (first + s) % size if attrs.get("circular") else first + s
            if 0 <= t < size:
                np.moveaxis(out[b], axis - 1, 0)[t] = np.moveaxis(update[b], axis - 1, 0)[s]
    return (out,)


def lower_tensor_scatter(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
    """Each element is that of the update whose place it is, or what was there."""
    past, update = given(ins), given(ins, 1)
    starts = ins[2] if len(ins) > 2 else None
    axis = axis_of("tensor_scatter", n.attr("axis", -2), len(past.shape))
    size, count = past.shape[axis], update.shape[axis]

    def value(*at: Expr) -> Expr:
        old = Read(past, at)
        if count is ZERO:
            return old
        first = ZERO if starts is None else Cast(Read(starts, (at[0],)), "index")
        s = sub(at[axis], first)
        s = mod(s, size) if n.attr("circular") else s
        inside = logical_and(compare("ge", s, 0), compare("lt", s, count))
        s = maximum(minimum(s, sub(count, 1)), 0)
        new = Read(update, (*at[:axis], s, *at[axis + 1 :]))
        return new if inside is TRUE else Select(inside, new, old)

    return (e.stage(f"tensor_scatter_{len(e.stages)}", n.type.shape, value),)


def _tensor_scatter_samples() -> Iterable[Sample]:
    starts = np.array([1, 3, -2, 9])
    for circular in (0, 1):
        attrs = {"circular": circular, "axis": -2}
        yield Sample((random(4, 2, 5, 3), random(4, 2, 2, 3, seed=1), starts), attrs)
        yield Sample((random(4, 5), random(4, 3, seed=1), starts), {**attrs, "axis": 1})
        yield Sample((random(2, 5, 3), random(2, 4, 3, seed=1), None), attrs)
    yield Sample((random(2, 5, 3), random(2, 0, 3), None), {"axis": 1})
    yield Sample((random(1, 3, 2, dtype="bool"), random(1, 3, 2, dtype="bool"), None), {"axis": 1})


register(Op("tensor_scatter", "index", infer_tensor_scatter, ref_tensor_scatter,
            lower_tensor_scatter, samples=_tensor_scatter_samples))  # fmt: skip
