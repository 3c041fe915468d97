"""ONNX operators about shapes: views, sizes as tensors, constants, and tensors made from sizes.

What ONNX passes as small integer tensors (target shapes, axes, repeats) becomes index expressions
in attributes. Values that depend on data are bound to symbols first (OnnxNode.sizes).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import AttributeProto

from naru.dtypes import DTYPES
from naru.errors import ModelError
from naru.frontend.onnx_data import MAX_RANK, dtype_of
from naru.frontend.onnx_node import (
    OnnxNode,
    Unsupported,
    as_scalar,
    check_axis,
    emit,
    scalar,
    type_text,
)
from naru.frontend.onnx_signatures import Handler
from naru.frontend.onnx_sparse import dense
from naru.ir.expr import INT_MAX, Const, Expr, free_vars
from naru.ir.graph import Node, defined_symbols, get_output, toposort
from naru.ir.simplify import (
    FALSE,
    ONE,
    TRUE,
    ZERO,
    add,
    ceildiv,
    compare,
    evaluate,
    index,
    known,
    logical_or,
    maximum,
    mul,
    prod,
    select,
    sub,
)
from naru.ops.operands import dim_text, shape_text
from naru.ops.registry import constant
from naru.ops.shape import resolve_shape

LARGEST_IOTA = 1 << 16  # elements that are stored rather than computed
DIVISIBLE = 2**4 * 3**2 * 5 * 7 * 11 * 13 * 17  # a size by which that of a dim is often divided


def reshape(c: OnnxNode) -> Node:
    before, zero = c[0].type.shape, c.get_flag("allowzero", False)

    def resolve(target: Sequence[Expr]) -> tuple[Expr, ...]:
        return resolve_shape(before, target, zero)

    shape = c.sizes(1, "the target shape", resolve, least=0, example=_flat(before, c.find(1)))
    assert shape is not None
    if c[1].op == "bind_dim":  # what it must satisfy is checked when it is known
        return emit("reshape", c[0], shape=shape)
    if not any(known(t) is None for t in shape) or prod(before) is not prod(shape):
        _check_elements(before, shape)
    return emit("reshape", c[0], shape=shape)


def _flat(shape: Sequence[Expr], target: Node | None) -> tuple[Expr, ...]:
    """A target that fits any shape: all elements, then ones."""
    count = 0 if target is None else known(prod(target.type.shape)) or 0
    return (prod(shape), *[ONE] * (count - 1)) if count else ()


def _check_elements(before: Sequence[Expr], after: Sequence[Expr]) -> None:
    """Refuses a target that has as many elements for a few sizes only: code for the others would
    read beyond its operand. (Sizes that many numbers divide decide, for `h // 2 * 2` is `h` there.)
    """
    a, b = prod(before), prod(after)
    symbols = sorted(free_vars(a, b), key=lambda v: v.name)
    for step in (DIVISIBLE, 2 * DIVISIBLE) if symbols else ():
        sizes = {v: min(max(v.lo, step * (k + 1)), v.hi) for k, v in enumerate(symbols)}
        if evaluate(a, sizes) != evaluate(b, sizes):
            raise Unsupported(
                f"the elements of {shape_text(before)} fill {shape_text(after)} at some sizes only",
                "give the dims that must have one size that size in the model's inputs",
            )


def _axes(c: OnnxNode, rank: int) -> tuple[int, ...] | None:
    """Axes are an operand since opset 13, an attribute before. Non-negative and sorted."""
    axes = c.get_ints("axes") if c.has("axes") else c.fixed(1, "axes")
    if axes is None:
        return None
    found = sorted({check_axis(a, rank) for a in axes})
    if len(found) != len(axes):
        raise ModelError(f"expected different axes, found {list(axes)}")
    return tuple(found)


def squeeze(c: OnnxNode) -> Node:
    shape = c[0].type.shape
    if not c.has("axes") and not c.is_fixed(1):
        return _squeeze_computed(c, shape)
    axes = _axes(c, len(shape))
    if axes is None:
        # A size that is not a number is not taken to be 1, as where operands are broadcast.
        axes = tuple(k for k, d in enumerate(shape) if d is ONE)
        apart = tuple(compare("ne", d, 1) for d in shape if d is not ONE)
        x = needing(c[0], apart, "as its result has an axis for it")
        return emit("reshape", x, shape=tuple(d for d in shape if d is not ONE))
    for k in axes:
        if known(shape[k]) not in (1, None):
            raise ModelError(f"expected size 1 of axis {k}, found {dim_text(shape[k])}")
    # Where a size need not be 1, the check of the elements at run time says so.
    return emit("reshape", c[0], shape=tuple(d for k, d in enumerate(shape) if k not in axes))


def needing(x: Node, needs: Sequence[Expr], what: str) -> Node:
    """x, where conditions over dims hold; otherwise the call fails."""
    asked = tuple(e for e in needs if e is not TRUE)
    return emit("with_sizes", x, needs=asked, what=what) if asked else x


def _squeeze_computed(c: OnnxNode, shape: Sequence[Expr]) -> Node:
    """Axes that only data tell: the dims that stay move up."""

    def resolve(raw: Sequence[Expr]) -> list[Expr]:
        gone = axis_flags(raw, len(shape))
        return [pick(kept_places(gone), k, shape) for k in range(len(shape) - len(raw))]

    dims = c.sizes(1, "axes", resolve, least=0, rank=len(shape))
    return emit("reshape", c[0], shape=tuple(dims or ()))


def kept_places(gone: Sequence[Expr]) -> list[Expr]:
    """For each axis, how many axes before it stay; -1 for one that is gone."""
    places: list[Expr] = []
    before: Expr = Const(0)
    for flag in gone:
        places.append(select(flag, Const(-1), before))
        before = add(before, select(flag, ZERO, ONE))
    return places


def pick(places: Sequence[Expr], place: int, values: Sequence[Expr]) -> Expr:
    """The value whose place is `place`; 1 if there is none."""
    found: Expr = ONE
    for at, value in zip(places, values, strict=True):
        found = select(compare("eq", at, place), value, found)
    return found


def axis_flags(raw: Sequence[Expr], rank: int) -> list[Expr]:
    """For each axis, whether it is one of the (possibly negative) axes."""

    def flag(axis: int) -> Expr:
        found: Expr = FALSE
        for r in raw:
            for value in (axis, axis - rank):
                found = logical_or(found, compare("eq", r, value))
        return found

    return [flag(axis) for axis in range(rank)]


def unsqueeze(c: OnnxNode) -> Node:
    shape = c[0].type.shape
    if not c.has("axes") and not c.is_fixed(1):

        def resolve(raw: Sequence[Expr]) -> list[Expr]:
            new = axis_flags(raw, len(shape) + len(raw))
            return _spread(new, shape)

        more = known(prod(c[1].type.shape)) or 0
        example, rank = tuple(range(min(more, MAX_RANK))), len(shape) + more
        dims = c.sizes(1, "axes", resolve, least=0, example=example, rank=rank)
        return emit("reshape", c[0], shape=tuple(dims or ()))
    given = c.get_ints("axes") if c.has("axes") else c.fixed(1, "axes")
    rank = len(shape) + len(given or ())
    axes = _axes(c, rank) or ()
    rest = iter(shape)
    return emit("reshape", c[0], shape=tuple(ONE if k in axes else next(rest) for k in range(rank)))


def _spread(new: Sequence[Expr], shape: Sequence[Expr]) -> list[Expr]:
    """The dims of a shape with a 1 at each new axis."""
    dims: list[Expr] = []
    before: Expr = Const(0)  # axes of the old shape so far
    for flag in new:
        old: Expr = ONE
        for k, d in enumerate(shape):
            old = select(compare("eq", before, k), d, old)
        dims.append(select(flag, ONE, old))
        before = add(before, select(flag, ZERO, ONE))
    return dims


def flatten(c: OnnxNode) -> Node:
    """[product of the axes before `axis`, product of the rest]."""
    shape, axis = c[0].type.shape, c.get_int("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise ModelError(f"expected an axis in {-len(shape)}..{len(shape)}, found {axis}")
    axis = axis + len(shape) if axis < 0 else axis
    return emit("reshape", c[0], shape=(prod(shape[:axis]), prod(shape[axis:])))


def shape(c: OnnxNode) -> Node:
    attrs = {k: c.get_int(k, 0) for k in ("start", "end") if c.has(k)}
    return emit("shape", c[0], **attrs)


def expand(c: OnnxNode) -> Node:
    """The target's dims, or those of x where they are larger. A target that only data tell: what
    the result's dims are."""
    shape = c[0].type.shape

    def resolve(target: Sequence[Expr]) -> list[Expr]:
        rank = max(len(shape), len(target))
        a = [*[ONE] * (rank - len(shape)), *shape]
        b = [*[ONE] * (rank - len(target)), *target]
        return [select(compare("eq", n, 1), m, n) for m, n in zip(a, b, strict=True)]

    if c.find(1) is None or c[1].type.value is not None or c.is_fixed(1):
        return emit("expand", c[0], shape=c.sizes(1, "the target shape") or ())
    count = known(prod(c[1].type.shape)) or 0
    example = (*[ONE] * max(count - len(shape), 0), *shape[max(len(shape) - count, 0) :])
    dims = c.sizes(1, "the target shape", resolve, least=0, example=example)
    return emit("expand", c[0], shape=tuple(dims or ()))


def tile(c: OnnxNode) -> Node:
    repeats = c.sizes(1, "the repeats", least=0, example=[2] * c[0].type.rank)
    return emit("tile", c[0], repeats=repeats or ())


def constant_of_shape(c: OnnxNode) -> Node:
    count = known(prod(c[0].type.shape)) or 0
    target = c.sizes(0, "the shape", least=0, example=[2] * count) or ()
    value = np.zeros(1, np.float32)
    if c.has("value"):
        value = c.importer.tensors.read(c.attrs["value"].t, f"{c.label}, attribute 'value'")
    if value.size != 1:
        raise ModelError(f"attribute 'value': expected one element, found {value.size}")
    fill = c.held(constant(value.reshape(()), value.dtype))
    return emit("expand", fill, shape=tuple(target))


def constant_node(c: OnnxNode) -> Node:
    """Contents in exactly one attribute, of which there are eight forms."""
    forms = [a for a in c.attrs.values() if a.name.startswith(("value", "sparse_value"))]
    if len(forms) != 1:
        raise ModelError(f"expected one attribute with the value, found {len(forms)}")
    a = forms[0]
    match a.type:
        case AttributeProto.TENSOR:
            array = c.importer.tensors.read(a.t, f"{c.label}, attribute {a.name!r}")
        case AttributeProto.FLOAT:
            array = np.array(a.f, np.float32)
        case AttributeProto.FLOATS:
            array = np.array(a.floats, np.float32)
        case AttributeProto.INT:
            array = np.array(a.i, np.int64)
        case AttributeProto.INTS:
            array = np.array(a.ints, np.int64)
        case AttributeProto.STRING:
            array = np.array(c.text_number(a.s.decode("utf-8", "replace")), np.int64)
        case AttributeProto.STRINGS:
            array = np.array(c.get_texts(a.name) or (), np.int64)
        case AttributeProto.SPARSE_TENSOR:
            array = dense(c.importer.tensors, a.sparse_tensor, f"{c.label}, attribute {a.name!r}")
        case _:
            raise ModelError(f"attribute {a.name!r}: expected a tensor or numbers")
    return constant(array, array.dtype)


def range_(c: OnnxNode) -> Node:
    """From start by delta up to limit; the length must follow from constants and sizes."""
    start, limit, delta = (as_scalar(c[k]) for k in range(3))
    arrays = [c.importer.constants.find(n) for n in (start, limit, delta)]
    if all(a is not None for a in arrays):
        first, last, step = (a.item() for a in arrays if a is not None)
        if step == 0:
            raise ModelError("expected a delta other than 0")
        count = np.ceil((last - first) / step)
        if not count <= INT_MAX:  # nor is NaN
            raise ModelError(
                f"expected a length of at most {INT_MAX}, found {first} to {last} by {step}"
            )
        return emit("range", start, limit, delta, length=index(int(max(count, 0))))
    values = [_known_size(n, a) for n, a in zip((start, limit, delta), arrays, strict=True)]
    if start.type.dtype[0] in "bf" or any(v is None for v in values):
        return _computed_range(c, start, limit, delta)
    first, last, by = (v for v in values if v is not None)
    length = _range_length(first, last, by)
    return emit("range", start, limit, delta, length=length)


def _range_length(start: Expr, limit: Expr, delta: Expr) -> Expr:
    """max(ceil((limit - start) / delta), 0)."""
    step = known(delta)
    if step == 0:
        raise ModelError("expected a delta other than 0")
    up = ceildiv(sub(limit, start), maximum(delta, 1))
    down = ceildiv(sub(start, limit), maximum(mul(delta, -1), 1))
    return maximum(select(compare("gt", delta, 0), up, down), 0)


def _computed_range(c: OnnxNode, start: Node, limit: Node, delta: Node) -> Node:
    """A range whose length only data tell: it is computed first, as the standard has it."""
    if start.type.dtype[0] in "bf":
        first, last, step = (emit("cast", n, to="f64") for n in (start, limit, delta))
        steps = emit("ceil", emit("div", emit("sub", last, first), step))
    else:
        # Integers: towards plus infinity, whatever the signs are.
        away = emit("neg", emit("sub", limit, start))
        low = emit("mod", away, delta)
        steps = emit("neg", emit("div", emit("sub", away, low), delta))
    count = emit("max", emit("cast", steps, to="i64"), constant(0, np.int64))
    # No number of steps of 0 is enough: too many for a size.
    still = emit("equal", delta, scalar(0, delta))
    count = emit("where", still, constant(np.iinfo(np.int64).max, np.int64), count)
    symbol = c.importer.symbols.fresh(f"{next((o for o in c.outputs if o), 'range')}_length")
    bound = emit("bind_dim", count, symbols=(symbol,))
    return emit("range", emit("with_sizes", start, bound), limit, delta, length=symbol)


def _known_size(n: Node, array: np.ndarray | None) -> Expr | None:
    if n.type.value is not None and len(n.type.value) == 1:
        return n.type.value[0]
    return None if array is None or array.dtype.kind not in "iu" else Const(int(array.item()))


def iota(size: Expr, like: Node, axis: int = 0) -> Node:
    """(0, 1, …, size-1) as i64, `size` being dim `axis` of `like`."""
    n = known(size)
    if n is not None and n <= LARGEST_IOTA:
        return constant(np.arange(n), np.int64)
    zero, one = constant(0, np.int64), constant(1, np.int64)
    return emit("range", zero, size_of(like, axis), one, length=size)


def givers(shape: Sequence[Expr], *before: Node) -> list[Node]:
    """A node, if one is needed, behind which the sizes of a shape are known: of those in or before
    some nodes that give values to symbols, the last, made to wait for the others."""
    asked = set(free_vars(*shape))
    order = toposort(*before) if asked else []
    found = [get_output(n, 0) for n in reversed(order) if asked & defined_symbols(n)]
    if len(found) < 2:
        return found
    return [emit("with_sizes", *found)]


def filled(value: float, dtype: str, shape: Sequence[Expr], *before: Node) -> Node:
    """A number in a shape whose sizes some nodes have."""
    given = givers(shape, *before)
    if not given:
        return emit("constant_of_shape", shape=tuple(shape), value=value, dtype=dtype)
    number = emit("with_sizes", constant(value, DTYPES[dtype].numpy), *given)
    return emit("expand", number, shape=tuple(shape))


def size_of(x: Node, axis: int) -> Node:
    """Dim `axis` of x as an i64 scalar."""
    n = known(x.type.shape[axis])
    if n is not None:
        return constant(n, np.int64)
    return emit("gather", emit("shape", x), constant(axis, np.int64), axis=0)


def one_hot(c: OnnxNode) -> Node:
    """Indices of any dtype; one that is out of range gives the off value everywhere."""
    depth = c.sizes(1, "the depth", least=0, example=[3])
    if depth is None or len(depth) != 1:
        raise ModelError(f"expected one number as the depth, found {len(depth or ())}")
    axis = check_axis(c.get_int("axis", -1), c[0].type.rank + 1)
    at = c[0] if c[0].type.dtype in ("i32", "i64") else emit("cast", c[0], to="i64")
    return emit("one_hot", at, c[2], depth=depth[0], axis=axis)


def eye_like(c: OnnxNode) -> Node:
    if c[0].type.rank != 2:
        raise ModelError(f"expected a matrix, found rank {c[0].type.rank}")
    code, k = c.get_int("dtype", 0), c.get_int("k", 0)
    rows, columns = (iota(c[0].type.shape[j], c[0], j) for j in range(2))
    moved = emit("add", _along(rows, 0, 2), constant(k, np.int64))
    hit = emit("equal", moved, _along(columns, 1, 2))
    return emit("cast", hit, to=dtype_of(code, "the result") if code else c[0].type.dtype)


def trilu(c: OnnxNode) -> Node:
    k = c.sizes(1, "the diagonal", example=[0]) or (Const(0),)
    if len(k) != 1:
        raise ModelError(f"expected one number as the diagonal, found {len(k)}")
    return emit("trilu", c[0], upper=c.get_int("upper", 1), k=k[0])


def nonzero_positions(c: OnnxNode, x: Node) -> Node:
    """Positions of the elements that are not 0, as i64 [rank, count]; the count is a new symbol,
    at most the number of elements."""
    count = emit("nonzero_count", x)
    symbol = c.importer.symbols.fresh(f"{next((o for o in c.outputs if o), 'nonzero')}_count")
    bound = emit("bind_dim", count, symbols=(symbol,), bounds=(prod(x.type.shape),))
    return emit("nonzero_fill", x, bound)


def nonzero(c: OnnxNode) -> Node:
    """Of a scalar: no coordinates, but as many columns as it has elements that are not 0."""
    if c[0].type.rank:
        return nonzero_positions(c, c[0])
    found = nonzero_positions(c, emit("reshape", c[0], shape=(ONE,)))
    return emit("slice", found, starts=(ZERO,), ends=(ZERO,), axes=(0,), steps=(1,))


def compress(c: OnnxNode) -> Node:
    """The slices along the axis (without one: of the flat operand) where the condition holds."""
    x = c[0]
    if c.has("axis"):
        axis = c.axis(0, x.type.rank)
    else:
        axis, x = 0, emit("reshape", x, shape=(prod(x.type.shape),))
    held, size = c[1], x.type.shape[axis]
    if held.type.rank != 1:
        raise ModelError(f"expected a vector of conditions, found {type_text(held)}")
    if compare("le", held.type.shape[0], size) is not TRUE:  # what lies beyond the axis is nothing
        held = emit("slice", held, starts=(ZERO,), ends=(size,), axes=(0,), steps=(1,))
    found = nonzero_positions(c, held)
    return emit("gather", x, emit("reshape", found, shape=(found.type.shape[1],)), axis=axis)


def flat_positions(x: Node, at: Node, batch: int) -> tuple[Node, int]:
    """GatherND's index vectors at [..., k] as positions into the first batch + k axes of x taken as
    one, and how many axes that is."""
    width = known(at.type.shape[-1])
    if width is None:
        raise Unsupported("index vectors of unknown length")
    inner = at.type.rank - 1
    parts = [_along(iota(x.type.shape[k], x, k), k, inner) for k in range(batch)]
    for j in range(width):
        part = emit("gather", at, constant(j, np.int64), axis=inner)
        part = part if part.type.dtype == "i64" else emit("cast", part, to="i64")
        negative = emit("less", part, scalar(0, part))
        size = size_of(x, batch + j)
        part = emit("where", negative, emit("add", part, size), part)
        if batch + width > 1:  # outside of an axis is not the next row
            part = emit("clip", part, scalar(0, part), emit("sub", size, scalar(1, part)))
        parts.append(part)
    if not parts:
        raise ModelError("expected index vectors of at least one number")
    flat = parts[0]
    for k, part in enumerate(parts[1:], 1):
        flat = emit("add", emit("mul", flat, size_of(x, k)), part)
    return flat, batch + width


def _along(vector: Node, axis: int, rank: int) -> Node:
    shape = [ONE] * rank
    shape[axis] = vector.type.shape[0]
    return emit("reshape", vector, shape=tuple(shape))


def gather_nd(c: OnnxNode) -> Node:
    """x[at[…, 0], at[…, 1], …], by positions in the flattened leading axes."""
    x, at, batch = c[0], c[1], c.get_int("batch_dims", 0)
    if not 0 <= batch < min(x.type.rank, at.type.rank):
        raise ModelError(f"attribute 'batch_dims': found {batch} for rank {x.type.rank}")
    width = known(at.type.shape[-1]) or 0
    if batch + width > x.type.rank:
        raise ModelError(f"index vectors of {width} numbers don't fit rank {x.type.rank}")
    flat, axes = flat_positions(x, at, batch)
    rows = mul(1, *x.type.shape[:axes])
    table = emit("reshape", x, shape=(rows, *x.type.shape[axes:]))
    return emit("gather", table, flat, axis=0)


TABLE: dict[str, Handler] = {
    "Compress": compress,
    "Constant": constant_node,
    "ConstantOfShape": constant_of_shape,
    "Expand": expand,
    "EyeLike": eye_like,
    "Flatten": flatten,
    "GatherND": gather_nd,
    "NonZero": nonzero,
    "OneHot": one_hot,
    "Range": range_,
    "Reshape": reshape,
    "Shape": shape,
    "Size": lambda c: emit("size", c[0]),
    "Squeeze": squeeze,
    "Tile": tile,
    "Trilu": trilu,
    "Unsqueeze": unsqueeze,
}
