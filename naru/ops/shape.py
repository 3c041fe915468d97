"""Ops about shapes: reshape, shape, size, expand, tile, and tensors made from sizes alone.

Sizes in attributes (`shape`, `repeats`) are tuples of ints or index expressions; when `ref` runs
they are numbers. Small integer tensors carry their contents through (values.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from naru.dtypes import DTYPES
from naru.errors import ModelError, UnsupportedError
from naru.ir.expr import Cast, Const, Expr, Read, Select
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import (
    FALSE,
    ONE,
    ZERO,
    add,
    bounds,
    ceildiv,
    compare,
    floordiv,
    index,
    known,
    maximum,
    mod,
    mul,
    prod,
    select,
    sub,
    to_poly,
)
from naru.ir.tensor import Tensor
from naru.ops import formula as f
from naru.ops.operands import (
    Dims,
    all_known,
    broadcast_dims,
    broadcast_read,
    check_kind,
    check_same_dtype,
    dim_text,
    given,
    ints,
    operand,
    shape_text,
    sizes,
)
from naru.ops.registry import Arrays, Attrs, Emit, Op, Sample, Types, register
from naru.ops.samples import random
from naru.ops.values import LIMIT, is_small, moved, with_value

Array = np.ndarray
Lowered = Sequence[Tensor]
Operands = Sequence[Tensor | None]


# --- reshape --------------------------------------------------------------------------------------


def divide_exactly(total: Expr, divisor: Expr) -> Expr | None:
    """total / divisor, where that is one product of sizes and divides every term; else None."""
    parts = to_poly(divisor)
    if len(parts) != 1:
        return ONE if total is divisor else None
    ((atoms, factor),) = parts.items()
    terms: list[Expr] = []
    for m, c in to_poly(total).items():
        left = list(m)
        for atom in atoms:
            if atom not in left:
                return None
            left.remove(atom)
        if c % factor:
            return None
        terms.append(mul(c // factor, *left))
    return add(*terms)


def resolve_shape(shape: Dims, target: Sequence[int | Expr], allow_zero: bool = False) -> Dims:
    """ONNX Reshape's target with its 0 (the dim of x) and -1 (what is left) filled in.

    Raises ModelError where the sizes cannot fit."""
    wanted = [index(t) for t in target]
    if any(bounds(t)[0] < 0 and known(t) is None for t in wanted):
        return _resolve_at_run(shape, wanted, allow_zero)
    for k, t in enumerate(wanted):
        if known(t) == 0 and not allow_zero:
            if k >= len(shape):
                raise ModelError(f"reshape: target {shape_text(wanted)} keeps axis {k}, x has none")
            wanted[k] = shape[k]
    holes = [k for k, t in enumerate(wanted) if known(t) == -1]
    if len(holes) > 1:
        raise ModelError(f"reshape: target {shape_text(wanted)} has more than one -1")
    if not holes:
        return tuple(wanted)
    total, rest = prod(shape), prod(t for k, t in enumerate(wanted) if k not in holes)
    size = divide_exactly(total, rest) if rest is not ZERO else None
    if size is None:
        if all_known((total, rest)):
            raise ModelError(
                f"reshape: {dim_text(total)} elements do not fill {shape_text(wanted)}"
            )
        size = floordiv(total, rest)
    wanted[holes[0]] = size
    return tuple(wanted)


def _resolve_at_run(shape: Dims, wanted: Sequence[Expr], allow_zero: bool) -> Dims:
    """The same for a target of which any number may turn out to be 0 or -1."""
    kept = list(wanted)
    if not allow_zero:
        kept = [
            select(compare("eq", t, 0), shape[k] if k < len(shape) else ZERO, t)
            for k, t in enumerate(wanted)
        ]
    holes = [compare("eq", t, -1) for t in kept]
    rest = prod(select(hole, ONE, t) for hole, t in zip(holes, kept, strict=True))
    size = floordiv(prod(shape), maximum(rest, 1))
    return tuple(select(hole, size, t) for hole, t in zip(holes, kept, strict=True))


def infer_reshape(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """attr shape: resolved sizes, without 0 for "keep" and -1 (see `resolve_shape`)."""
    x, shape = operand("reshape", types, 0), sizes(attrs, "shape")
    before, after = known(prod(x.shape)), known(prod(shape))
    if before is not None and after is not None and before != after:
        raise ModelError(
            f"reshape: {shape_text(x.shape)} has {before} elements, {shape_text(shape)} {after}"
        )
    out = TensorType(x.dtype, shape)
    return (out if x.value is None else with_value(out, x.value),)


def ref_reshape(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    return (np.reshape(given(arrays), ints(attrs, "shape")),)


def aligned_groups(a: Dims, b: Dims) -> list[tuple[int, int, int, int]]:
    """Divides two shapes of one size into runs (a from, a to, b from, b to) of equal products, as
    short as possible: [b, s, 768] and [b, s, 12, 64] give three."""
    products = [ONE]
    for d in b:
        products.append(mul(products[-1], d))
    out: list[tuple[int, int, int, int]] = []
    i0 = j0 = 0
    left: Expr = ONE
    for i, d in enumerate(a, 1):
        left = mul(left, d)
        j = next((j for j in range(j0, len(products)) if products[j] is left), None)
        if j is not None and (j > j0 or d is ONE):
            out.append((i0, i, j0, j))
            i0, j0 = i, j
    if i0 < len(a) or j0 < len(b):
        if out and i0 == len(a):  # what is left of b has size 1
            last = out.pop()
            out.append((last[0], last[1], last[2], len(b)))
        else:
            out.append((i0, len(a), j0, len(b)))
    return out


def reshape_index(old: Dims, new: Dims, at: Sequence[Expr]) -> Dims:
    """The position in shape `old` of position `at` in shape `new`."""
    where: list[Expr] = []
    for i0, i1, j0, j1 in aligned_groups(old, new):
        dims, sources = old[i0:i1], at[j0:j1]
        linear: Expr = ZERO
        for i, d in zip(sources, new[j0:j1], strict=True):
            linear = add(mul(linear, d), ZERO if d is ONE else i)
        where += _unravel(linear, dims)
    return tuple(where)


def _unravel(linear: Expr, dims: Dims) -> list[Expr]:
    """Subscripts of a row-major position. The leading dim that is not 1 needs no remainder."""
    where: list[Expr] = []
    lead = next((k for k, d in enumerate(dims) if d is not ONE), len(dims))
    for k in reversed(range(len(dims))):
        if dims[k] is ONE or dims[k] is ZERO:
            where.append(ZERO)
        elif k == lead:
            where.append(linear)
        else:
            where.append(mod(linear, dims[k]))
            linear = floordiv(linear, dims[k])
    return where[::-1]


def lower_reshape(e: Emit, n: Node, ins: Operands) -> Lowered:
    x, shape = given(ins), n.type.shape

    def value(*at: Expr) -> Expr:
        return Read(x, reshape_index(x.shape, shape, at))

    return (e.stage(f"reshape_{len(e.stages)}", shape, value),)


def _reshape_samples() -> Iterable[Sample]:
    for old, new in [
        ((2, 3, 8), (2, 3, 2, 4)), ((2, 3, 2, 4), (2, 3, 8)), ((2, 3, 8), (6, 8)),
        ((6, 8), (2, 3, 8)), ((4, 6), (6, 4)), ((2, 1, 3), (2, 3)), ((2, 3), (1, 2, 1, 3, 1)),
        ((), (1, 1)), ((1,), ()),
        ((24,), (2, 3, 4)), ((2, 3, 4), (24,)), ((0, 3), (3, 0)), ((2, 3, 4), (4, 3, 2)),
        ((1, 1), (1,)), ((2, 0, 3), (5, 0)),
    ]:  # fmt: skip
        yield Sample((random(*old),), {"shape": new})


register(Op("reshape", "view", infer_reshape, ref_reshape, lower_reshape, samples=_reshape_samples))


# --- shape, size ----------------------------------------------------------------------------------


def infer_shape(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """The dims of x as i64, their values known; attrs start, end cut as Python's slice does."""
    x = operand("shape", types, 0)
    dims = x.shape[attrs.get("start") : attrs.get("end")]
    return (with_value(TensorType("i64", (index(len(dims)),)), dims),)


def ref_shape(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    dims = given(arrays).shape[attrs.get("start") : attrs.get("end")]
    return (np.array(dims, np.int64),)


def infer_size(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """The number of elements of x as an i64 scalar."""
    x = operand("size", types, 0)
    return (with_value(TensorType("i64", ()), [prod(x.shape)]),)


def ref_size(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    return (np.array(given(arrays).size, np.int64),)


def lower_values(e: Emit, n: Node, ins: Operands) -> Lowered:
    """Stores the values that the type says; x is not read."""
    return (value_stage(e, n.type, f"{n.op}_{len(e.stages)}"),)


def value_stage(e: Emit, t: TensorType, name: str) -> Tensor:
    """A tensor of rank 0 or 1 (or of one element) with the elements `t.value`."""
    assert t.value is not None

    def element(*at: Expr) -> Expr:
        assert t.value is not None
        values = [Cast(v, t.dtype) if known(v) is None else Const(int(v.value), t.dtype)  # type: ignore[union-attr]
                  for v in t.value]  # fmt: skip
        if not values:
            return Const(0, t.dtype)
        out = values[-1]
        for k in reversed(range(len(values) - 1)):
            cond = compare("eq", at[-1], k)
            out = out if cond is FALSE else Select(cond, values[k], out)
        return out

    return e.stage(name, t.shape, element, t.dtype)


def _shape_samples() -> Iterable[Sample]:
    yield Sample((random(2, 3, 4),), {})
    yield Sample((random(2, 3, 4),), {"start": 1, "end": -1})
    yield Sample((random(),), {})
    yield Sample((random(0, 1),), {"start": -5})


def _size_samples() -> Iterable[Sample]:
    for shape in ((2, 3), (), (0, 3)):
        yield Sample((random(*shape),))


register(Op("shape", "index", infer_shape, ref_shape, lower_values, samples=_shape_samples))
register(Op("size", "index", infer_size, ref_size, lower_values, samples=_size_samples))
# --- expand, tile ---------------------------------------------------------------------------------


def infer_expand(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x broadcast against attr `shape` (both ways, as ONNX has it)."""
    x, shape = operand("expand", types, 0), sizes(attrs, "shape")
    if any((known(d) or 0) < 0 for d in shape):
        raise ModelError(f"expand: expected sizes of 0 or more, found {shape_text(shape)}")
    out = TensorType(x.dtype, broadcast_dims("expand", x.shape, shape))
    if not is_small(out):
        return (out,)
    # The result's sizes are numbers here, those of the attribute need not be.
    return (with_value(out, moved(ref_expand, [x], {"shape": out.shape})),)


def ref_expand(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x = given(arrays)
    return (np.broadcast_to(x, np.broadcast_shapes(x.shape, ints(attrs, "shape"))),)


def lower_expand(e: Emit, n: Node, ins: Operands) -> Lowered:
    x = given(ins)
    return (
        e.stage(f"expand_{len(e.stages)}", n.type.shape, lambda *at: broadcast_read(x, at)),
    )  # fmt: skip


def _expand_samples() -> Iterable[Sample]:
    yield Sample((random(3, 1),), {"shape": (2, 3, 4)})
    yield Sample((random(3, 4),), {"shape": (1,)})
    yield Sample((random(),), {"shape": (2, 2)})
    yield Sample((random(1, dtype="i64"),), {"shape": (0,)})
    yield Sample((random(1, dtype="i64"),), {"shape": (3,)})


register(Op("expand", "index", infer_expand, ref_expand, lower_expand, samples=_expand_samples))


def infer_tile(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """attr `repeats`: how often each axis is repeated, whole."""
    x, repeats = operand("tile", types, 0), sizes(attrs, "repeats")
    if len(repeats) != x.rank:
        raise ModelError(f"tile: expected {x.rank} repeats, got {len(repeats)}")
    out = TensorType(x.dtype, tuple(map(mul, x.shape, repeats)))
    return (with_value(out, moved(ref_tile, [x], attrs)) if is_small(out) else out,)


def ref_tile(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    return (np.tile(given(arrays), ints(attrs, "repeats")),)


def lower_tile(e: Emit, n: Node, ins: Operands) -> Lowered:
    x, repeats = given(ins), sizes(dict(n.attrs), "repeats")

    def value(*at: Expr) -> Expr:
        where = [
            ZERO if d is ONE or d is ZERO else i if r is ONE else mod(i, d)
            for i, d, r in zip(at, x.shape, repeats, strict=True)
        ]
        return Read(x, tuple(where))

    return (e.stage(f"tile_{len(e.stages)}", n.type.shape, value),)


def _tile_samples() -> Iterable[Sample]:
    yield Sample((random(2, 3),), {"repeats": (2, 3)})
    yield Sample((random(2, 1),), {"repeats": (1, 4)})
    yield Sample((random(2, 3),), {"repeats": (0, 1)})
    yield Sample((random(2, dtype="i64"),), {"repeats": (2,)})


register(Op("tile", "index", infer_tile, ref_tile, lower_tile, samples=_tile_samples))


# --- tensors from numbers -------------------------------------------------------------------------


def infer_constant_of_shape(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """No operands: attrs shape, value (a number), dtype."""
    shape = sizes(attrs, "shape")
    if any((known(d) or 0) < 0 for d in shape):
        raise ModelError(f"constant_of_shape: a size is negative: {shape_text(shape)}")
    out = TensorType(attrs.get("dtype", "f32"), shape)
    count = known(prod(shape))
    if count is None or count > LIMIT or DTYPES[out.dtype].kind == "f":
        return (out,)
    return (with_value(out, [Const(int(attrs.get("value", 0)))] * count),)


def ref_constant_of_shape(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    dtype = DTYPES[attrs.get("dtype", "f32")].numpy
    return (np.full(ints(attrs, "shape"), attrs.get("value", 0), dtype),)


def lower_constant_of_shape(e: Emit, n: Node, ins: Operands) -> Lowered:
    value = f.number(n.attr("value", 0), n.type.dtype)  # pyright: ignore[reportArgumentType]
    return (e.stage(f"fill_{len(e.stages)}", n.type.shape, lambda *at: value),)


def _constant_of_shape_samples() -> Iterable[Sample]:
    yield Sample((), {"shape": (2, 3), "value": 1.5, "dtype": "f32"})
    yield Sample((), {"shape": (), "value": -4, "dtype": "i64"})
    yield Sample((), {"shape": (0, 3), "value": 1, "dtype": "bool"})
    yield Sample((), {"shape": (3,), "value": 2.5, "dtype": "f16"})


register(Op("constant_of_shape", "index", infer_constant_of_shape, ref_constant_of_shape,
            lower_constant_of_shape, samples=_constant_of_shape_samples))  # fmt: skip


def infer_range(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """start, limit, delta (scalars). The length must follow from known values, or be given by attr
    `length` (an index expression), as it must for floats."""
    parts = [operand("range", types, k) for k in range(3)]
    dtype = check_same_dtype("range", parts)
    check_kind("range", dtype, "fi")
    if any(t.rank for t in parts):
        raise ModelError("range: start, limit and delta must be scalars")
    if attrs.get("length") is not None:
        return (TensorType(dtype, (index(attrs["length"]),)),)
    values = [t.value[0] if t.value else None for t in parts]
    start, limit, delta = values
    step = None if delta is None else known(delta)
    if start is None or limit is None or step is None:
        raise UnsupportedError(["range: its length depends on data that is not known"])
    if step == 0:
        raise ModelError("range: delta is 0")
    far, near = (limit, start) if step > 0 else (start, limit)
    length = maximum(ceildiv(sub(far, near), index(abs(step))), 0)
    out = TensorType(dtype, (length,))
    count = known(length)
    if count is None or count > LIMIT:
        return (out,)
    return (with_value(out, [add(start, k * step) for k in range(count)]),)


def ref_range(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    start, limit, delta = (np.asarray(given(arrays, k)) for k in range(3))
    length = attrs.get("length")
    if length is None:
        length = max(int(np.ceil((limit - start) / delta)), 0)
    count = np.arange(int(getattr(length, "value", length)), dtype=np.int64)
    return ((start + count.astype(start.dtype) * delta).astype(start.dtype),)


def lower_range(e: Emit, n: Node, ins: Operands) -> Lowered:
    start, delta = given(ins), given(ins, 2)

    def value(i: Expr) -> Expr:
        first, step = f.Term(Read(start, ())), f.Term(Read(delta, ()))
        return (first + f.Term(Cast(i, start.dtype)) * step).expr

    return (e.stage(f"range_{len(e.stages)}", n.type.shape, value),)


def _range_samples() -> Iterable[Sample]:
    for start, limit, delta in [(0, 5, 1), (3, 20, 4), (5, -2, -3), (4, 4, 1), (4, 2, 1)]:
        yield Sample((np.array(start), np.array(limit), np.array(delta)))
    floats = [np.array(v, np.float32) for v in (0.5, 3.0, 0.75)]
    yield Sample(tuple(floats), {"length": 4})


register(Op("range", "index", infer_range, ref_range, lower_range, samples=_range_samples))
