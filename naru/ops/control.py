"""Control flow, data-dependent sizes, and the leaves of a graph.

Sizes that only data tell: bind_dim gives numbers that lie in memory to symbols, and with_sizes
holds a tensor back until that has happened. Where results are counted first, nonzero_count(x)
counts, bind_dim(count) gives the count a symbol, nonzero_fill(x, bound) writes a tensor of that
size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import numpy as np

from naru.errors import IRError, ModelError, UnsupportedError
from naru.ir.expr import Expr, Var
from naru.ir.graph import Data, Graph, Node, TensorType, make_constant, make_data
from naru.ir.simplify import ONE, index, known, maximum, prod
from naru.ir.tensor import Tensor
from naru.ir.text import print_expr
from naru.ops import formula as f
from naru.ops.evaluate import run_if, run_loop
from naru.ops.kernel_text import KernelText
from naru.ops.operands import (
    check_holds,
    check_kind,
    operand,
    optional,
    shape_text,
)
from naru.ops.registry import Arrays, Attrs, Emit, Op, Sample, Types, register
from naru.ops.samples import edges, random
from naru.ops.shape import value_stage
from naru.targets import Target

Array = np.ndarray


# --- leaves ---------------------------------------------------------------------------------------


def infer_constant(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """The type of attr `data` (use `graph.make_constant`, which adds the values)."""
    data = attrs["data"]
    assert isinstance(data, Data)
    return make_constant(data.array).types


def ref_constant(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    return (attrs["data"].array,)


def lower_constant(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
    """One element as the number itself, a few known integers by selection; the rest are inputs."""
    data = n.data
    assert data is not None
    name = f"constant_{len(e.stages)}"
    if data.size == 1:
        number = f.number(data.reshape(-1)[0].item(), n.type.dtype)
        return (e.stage(name, n.type.shape, lambda *at: number),)
    if n.type.value is not None and n.type.rank == 1:
        return (value_stage(e, n.type, name),)
    raise IRError(
        [f"constant of shape {shape_text(n.type.shape)}: pass it as an input of the kernel"]
    )


def _constant_samples() -> Iterable[Sample]:
    for array in (np.array(1.5, np.float32), np.array([[2]], np.int32), np.array([3, -1, 2**40])):
        yield Sample((), {"data": make_data(array)})


def infer_input(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    raise IRError([f"input {attrs.get('name')!r}: its type is given, not inferred"])


def ref_input(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    raise IRError([f"input {attrs.get('name')!r}: its value is given, not computed"])


def infer_get(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    raise IRError(["get: made by graph.get_output, which knows all types of its operand"])


def ref_get(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    """All outputs of the operand -> the one at attr index."""
    out = arrays[int(attrs["index"])]
    assert out is not None
    return (out,)


register(Op("constant", "index", infer_constant, ref_constant, lower_constant,
            samples=_constant_samples))  # fmt: skip
register(Op("input", "control", infer_input, ref_input))
register(Op("get", "control", infer_get, ref_get))


# --- if, loop -------------------------------------------------------------------------------------


def _scalar_bool(op: str, types: Types, i: int) -> None:
    t = operand(op, types, i)
    if t.dtype != "bool" or any(d is not ONE for d in t.shape):
        raise ModelError(
            f"{op}: the condition must be one bool, got {t.dtype}{shape_text(t.shape)}"
        )


def _check_body(op: str, body: Graph, types: Sequence[TensorType]) -> None:
    """A body's inputs have the dtypes and ranks of what is passed to them."""
    if len(body.inputs) != len(types):
        raise ModelError(
            f"{op}: body {body.name} takes {len(body.inputs)} operands, got {len(types)}"
        )
    for wanted, t in zip(body.inputs, types, strict=True):
        if wanted.type.dtype != t.dtype or wanted.type.rank != t.rank:
            raise ModelError(
                f"{op}: body {body.name} takes {wanted.type.dtype}{shape_text(wanted.type.shape)}, "
                f"got {t.dtype}{shape_text(t.shape)}"
            )


def _merge(op: str, a: TensorType, b: TensorType, what: str) -> TensorType:
    """The type that holds for both; sizes that differ would be known by running only."""
    if a.dtype != b.dtype or a.rank != b.rank:
        raise ModelError(
            f"{op}: {what} differ: {a.dtype}{shape_text(a.shape)}, {b.dtype}{shape_text(b.shape)}"
        )
    if a.shape != b.shape:
        raise UnsupportedError(
            [f"{op}: {what} have different shapes: {shape_text(a.shape)} and {shape_text(b.shape)}"]
        )
    return TensorType(a.dtype, a.shape, None, a.value if a.value == b.value else None)


def infer_if(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """cond, *captures; attrs then, orelse: Graphs over the captures with equal output types.

    Where sizes differ, or data decide them in a branch, attr `places` ((output, axis) pairs) says
    so, and attr `symbols` what each of these sizes is called afterwards."""
    _scalar_bool("if", types, 0)
    captures = [operand("if", types, k) for k in range(1, len(types))]
    then, orelse = attrs["then"], attrs["orelse"]
    for body in (then, orelse):
        _check_body("if", body, captures)
    if len(then.outputs) != len(orelse.outputs):
        raise ModelError(f"if: branches give {len(then.outputs)} and {len(orelse.outputs)} outputs")
    named = dict(zip(attrs.get("places", ()), attrs.get("symbols", ()), strict=True))
    pairs = zip(then.outputs, orelse.outputs, strict=True)
    what = "outputs of the branches,"
    return tuple(_merge_named(what, k, a.type, b.type, named) for k, (a, b) in enumerate(pairs))


def _merge_named(
    what: str, k: int, a: TensorType, b: TensorType, named: Mapping[tuple[int, int], Var]
) -> TensorType:
    """The type that holds for both at place k, where some sizes have names of their own."""
    op = "loop" if what.startswith("carried") else "if"
    if not any(place[0] == k for place in named) or a.rank != b.rank:
        return _merge(op, a, b, f"{what} {k}")
    shapes = [tuple(named.get((k, axis), d) for axis, d in enumerate(t.shape)) for t in (a, b)]
    plain = [TensorType(t.dtype, s) for t, s in zip((a, b), shapes, strict=True)]
    return _merge(op, plain[0], plain[1], f"{what} {k}")


def infer_loop(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """trip (or None), cond (or None), *carried, *captures; attrs body, carried (how many) and,
    where data decide how many rounds there are, rounds: the symbol that this number becomes. Sizes
    of carried values that change from round to round are Vars in the body's inputs; attr `places`
    ((carried, axis) pairs) lists them, attr `symbols` what each is called after the last round.

    -> carried types, then scan outputs with a leading dim for the iterations."""
    trip, cond = optional(types, 0), optional(types, 1)
    if cond is not None:
        _scalar_bool("loop", types, 1)
    body, count = attrs["body"], int(attrs["carried"])
    rest = [operand("loop", types, k) for k in range(2, len(types))]
    _check_body("loop", body, [TensorType("i64", ()), TensorType("bool", ()), *rest])
    if len(body.outputs) < 1 + count:
        raise ModelError(f"loop: body {body.name} must give a condition and {count} carried values")
    named = dict(zip(attrs.get("places", ()), attrs.get("symbols", ()), strict=True))
    carried = tuple(
        TensorType(t.dtype, t.shape)
        for k in range(count)
        for t in [_merge_named("carried values", k, rest[k], body.outputs[1 + k].type, named)]
    )
    scans = [o.type for o in body.outputs[1 + count :]]
    if not scans:
        return carried
    rounds = attrs.get("rounds")
    trips = rounds if isinstance(rounds, Var) else _trips(trip, cond, body)
    return (*carried, *(TensorType(t.dtype, (trips, *t.shape)) for t in scans))


def rounds_known(trip: Node | None, cond: Node | None, body: Graph) -> bool:
    """Does the number of rounds follow from dims alone?"""
    value = trip.type.value if trip is not None else None
    return bool(value) and _always(None if cond is None else cond.type, body)


def _trips(trip: TensorType | None, cond: TensorType | None, body: Graph) -> Expr:
    """How many iterations a loop with scan outputs makes; it must be known before it starts."""
    value = trip.value[0] if trip is not None and trip.value else None
    if value is None or not _always(cond, body):
        raise UnsupportedError(["loop: the number of its scan outputs depends on data"])
    return maximum(value, 0)


def _always(cond: TensorType | None, body: Graph) -> bool:
    """Is the condition true in every iteration? (true, or handed through by the body)"""
    first = cond is None or (cond.value is not None and known(cond.value[0]) == 1)
    again = body.outputs[0]
    while again.op == "identity" and again.inputs[0] is not None:
        again = again.inputs[0]
    kept = again is body.inputs[1]
    true = again.type.value is not None and known(again.type.value[0]) == 1
    return first and (kept or true)


def ref_if(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    return run_if(arrays, attrs, {})


def ref_loop(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    return run_loop(arrays, attrs, {})


register(Op("if", "control", infer_if, ref_if))
register(Op("loop", "control", infer_loop, ref_loop))


# --- sizes that data decide -----------------------------------------------------------------------


def infer_nonzero_count(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x of any dtype and rank ≥ 1 -> i64[1]."""
    x = operand("nonzero_count", types, 0)
    if not x.rank:
        raise ModelError("nonzero_count: the operand is a scalar", hint="reshape it to [1]")
    return (TensorType("i64", (ONE,)),)


def ref_nonzero_count(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    return (np.array([np.count_nonzero(_given(arrays[0]))], np.int64),)


def infer_bind_dim(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x (i64 or i32, a known number of elements) -> i64 of attr `symbols` (a tuple of Vars).

    One symbol an element, in the shape of x; or, with attr `raw`, those Vars are the elements and
    the symbols are what attr `exprs` (index expressions over them) say, a vector. attr `bounds`:
    the maximum of each symbol, or nothing. attr `example`: elements that make sense (index
    expressions over the sizes of inputs), for test vectors."""
    x = operand("bind_dim", types, 0)
    check_kind("bind_dim", x.dtype, "i")
    symbols, raw, exprs = attrs["symbols"], attrs.get("raw", ()), attrs.get("exprs", ())
    if not all(isinstance(v, Var) for v in (*symbols, *raw)):
        raise ModelError(f"bind_dim: expected Vars, got {(*symbols, *raw)}")
    count, elements = known(prod(x.shape)), len(raw if raw else symbols)
    if count != elements or (raw and len(symbols) != len(exprs)):
        raise ModelError(f"bind_dim: {x.dtype}{shape_text(x.shape)} does not fit {elements} names")
    shape = (index(len(symbols)),) if raw else x.shape
    return (TensorType("i64", shape, None, tuple(symbols)),)


def ref_bind_dim(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    """The numbers themselves. (`evaluate` gives them to the symbols.)"""
    return (_given(arrays[0]).astype(np.int64),)


def infer_with_sizes(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x, and results of bind_dim -> x: what reads it comes after the symbols are bound. attr needs:
    conditions over dims that must hold, attr what: in words."""
    for cond in attrs.get("needs", ()):
        check_holds(partial(_same, cond), f"{print_expr(cond)}: {attrs['what']}")
    return (operand("with_sizes", types, 0),)


def _same(cond: Expr) -> Expr:
    return cond


def ref_with_sizes(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    return (_given(arrays[0]),)


def infer_nonzero_fill(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x, bound_dim -> i64[rank of x, symbol]: where x is not 0, in row-major order."""
    x, size = operand("nonzero_fill", types, 0), operand("nonzero_fill", types, 1)
    if not x.rank:
        raise ModelError("nonzero_fill: the operand is a scalar", hint="reshape it to [1]")
    if size.value is None:
        raise ModelError("nonzero_fill: operand 1 must come from bind_dim")
    return (TensorType("i64", (index(x.rank), size.value[0])),)


def ref_nonzero_fill(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    return (np.stack(np.nonzero(_given(arrays[0]))).astype(np.int64),)


def _given(array: Array | None) -> Array:
    assert array is not None
    return array


def _operand_types(n: Node) -> list[TensorType]:
    return [i.type for i in n.inputs if i is not None]


def _over_nonzero(n: Node, names: KernelText, inner: Sequence[str]) -> list[str]:
    """Loops over x, and `inner` where the element is not 0."""
    x = _operand_types(n)[0]
    lines: list[str] = []
    for k, d in enumerate(x.shape):
        lines.append("    " * (k + 1) + f"for {names(f'i{k}')} in range({names.size(d)}):")
    at = ", ".join(names(f"i{k}") for k in range(x.rank))
    zero = {"bool": "", "f": " != 0.0"}.get(x.dtype if x.dtype == "bool" else x.dtype[0], " != 0")
    zero = " != 0.0" if x.dtype == "bf16" else zero
    lines.append("    " * (x.rank + 1) + f"if {names('x')}[{at}]{zero}:")
    return lines + ["    " * (x.rank + 2) + line for line in inner]


def opaque_nonzero_count(n: Node, target: Target) -> str:
    """Parameters: x, out [1], sizes."""
    x = _operand_types(n)[0]
    names = KernelText(x)
    k, out = names("k"), names("out")
    return "\n".join(
        [
            names.head("nonzero_count", names.buffer("x", x), names.buffer("out", n.type)),
            f"    {k} = 0",
            *_over_nonzero(n, names, [f"{k} = {k} + 1"]),
            f"    {out}[0] = i64({k})",
            "",
        ]
    )


def opaque_nonzero_fill(n: Node, target: Target) -> str:
    """Parameters: x, bound (not read), out [rank, symbol], sizes."""
    x, bound = _operand_types(n)
    names = KernelText(x, n.type)
    k, out = names("k"), names("out")
    stores = [f"{out}[{axis}, {k}] = i64({names(f'i{axis}')})" for axis in range(x.rank)]
    buffers = (names.buffer("x", x), names.buffer("bound", bound), names.buffer("out", n.type))
    return "\n".join(
        [
            names.head("nonzero_fill", *buffers),
            f"    {k} = 0",
            *_over_nonzero(n, names, [*stores, f"{k} = {k} + 1"]),
            "",
        ]
    )


def _nonzero_samples() -> Iterable[Sample]:
    for x in (random(3, 4, dtype="bool"), random(5, dtype="i64"), random(2, 0), random(2, 3, 2)):
        yield Sample((x,))
    yield Sample((edges("f32"),))
    yield Sample((edges("u8"),))


register(Op("nonzero_count", "opaque", infer_nonzero_count, ref_nonzero_count,
            opaque=opaque_nonzero_count, samples=_nonzero_samples))  # fmt: skip
register(Op("bind_dim", "control", infer_bind_dim, ref_bind_dim))
register(Op("with_sizes", "control", infer_with_sizes, ref_with_sizes))
register(Op("nonzero_fill", "opaque", infer_nonzero_fill, ref_nonzero_fill,
            opaque=opaque_nonzero_fill))  # fmt: skip
