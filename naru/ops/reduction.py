"""Reductions along axes. attrs: `axes` (non-negative ints), `keepdims`; argmin and argmax: `axis`.

Half floats are accumulated in f32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce as fold
from typing import Any

import numpy as np

from naru.dtypes import is_float
from naru.errors import ModelError
from naru.ir.expr import Cast, Const, Expr, Read, Var
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import ONE, prod
from naru.ir.tensor import Tensor
from naru.ops import formula as f
from naru.ops.contraction import narrow, wide
from naru.ops.formula import Term
from naru.ops.operands import (
    Dims,
    axis_of,
    check_kind,
    element,
    ints,
    operand,
    size_as,
)
from naru.ops.registry import Arrays, Attrs, Emit, Op, Sample, Types, apply, register
from naru.ops.samples import random
from naru.ops.values import REDUCE, as_objects, with_value

Array = np.ndarray


def reduced_dims(shape: Dims, axes: Sequence[int], keepdims: bool) -> Dims:
    """The shape after a reduction."""
    if keepdims:
        return tuple(ONE if k in axes else d for k, d in enumerate(shape))
    return tuple(d for k, d in enumerate(shape) if k not in axes)


def whole_index(
    at: Sequence[Expr], over: Sequence[Expr], axes: Sequence[int], rank: int, keepdims: bool
) -> Dims:
    """The operand's index, from that of the result and of the reduction."""
    outer = [i for k, i in enumerate(at) if k not in axes] if keepdims else list(at)
    inner = list(over)
    return tuple(inner.pop(0) if k in axes else outer.pop(0) for k in range(rank))


def reduce_stage(
    e: Emit,
    name: str,
    x: Tensor,
    axes: Sequence[int],
    keepdims: bool,
    combine: str,
    fn: Callable[[Term], Term] = lambda x: x,
) -> Tensor:
    """combine over `axes` of fn(element of x), in the dtype of the arithmetic."""
    shape = reduced_dims(x.shape, axes, keepdims)
    name = f"{name}_{len(e.stages)}"
    if not axes:
        return e.stage(name, shape, lambda *at: fn(element(x, at)).expr)

    def value(at: tuple[Var, ...], over: tuple[Var, ...]) -> Expr:
        return fn(element(x, whole_index(at, over, axes, len(x.shape), keepdims))).expr

    return e.reduce(name, shape, [x.shape[k] for k in axes], combine, value)


def _axes(name: str, attrs: Attrs, rank: int) -> tuple[int, ...]:
    axes = tuple(axis_of(name, k, rank) for k in ints(attrs, "axes"))
    if len(set(axes)) != len(axes):
        raise ModelError(f"{name}: axes {axes} repeat")
    return tuple(sorted(axes))


def _infer(name: str, kinds: str) -> Callable[[Types, Attrs], tuple[TensorType, ...]]:
    def infer(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x = operand(name, types, 0)
        check_kind(name, x.dtype, kinds)
        axes = _axes(name, attrs, x.rank)
        keepdims = bool(attrs.get("keepdims", True))
        out = TensorType(x.dtype, reduced_dims(x.shape, axes, keepdims))
        rule, objects = REDUCE.get(name), as_objects(x)
        if rule is None or objects is None or not objects.size or not axes:
            return (out,)
        last = np.moveaxis(objects, axes, range(x.rank - len(axes), x.rank))
        rows = last.reshape(-1, int(np.prod([objects.shape[k] for k in axes])))
        return (with_value(out, [fold(rule, row) for row in rows]),)

    return infer


def _ref(fn: Callable[[Array, Any, bool], Any]) -> Callable[[Arrays, Attrs], tuple[Array, ...]]:
    def ref(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        axes, keepdims = ints(attrs, "axes"), bool(attrs.get("keepdims", True))
        with np.errstate(all="ignore"):
            return (np.asarray(fn(wide(x), axes, keepdims)).astype(x.dtype),)

    return ref


def _extreme(dtype: np.dtype, high: bool) -> Any:
    """What the maximum (high False) or minimum over nothing is."""
    if dtype.kind == "f":
        return np.inf if high else -np.inf
    if dtype.kind == "b":
        return high
    info = np.iinfo(dtype)
    return info.max if high else info.min


def _mean(x: Array, axes: Any, keepdims: bool) -> Array:
    total = np.sum(x, axes, dtype=x.dtype, keepdims=keepdims)
    count = np.prod([x.shape[k] for k in axes]).astype(x.dtype)
    if x.dtype.kind == "f":
        return total / count
    return np.where(count == 0, 0, np.trunc(total / np.maximum(count, 1))).astype(x.dtype)


def _log_sum_exp(x: Array, axes: Any, keepdims: bool) -> Array:
    top = np.max(x, axes, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0).astype(x.dtype)
    out = np.log(np.sum(np.exp(x - top), axes, keepdims=True)) + top
    return out if keepdims else np.squeeze(out, axes)


def _reduction(
    name: str,
    combine: str,
    ref: Callable[[Array, Any, bool], Any],
    kinds: str = "fiu",
    mean: bool = False,
) -> Op:
    """Registers `combine` over axes; `mean` divides by the number of elements."""

    def lower(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
        x = ins[0]
        assert x is not None
        axes = _axes(name, dict(n.attrs), len(x.shape))
        how = {"max": "or", "min": "and"}[combine] if x.dtype == "bool" else combine
        out = reduce_stage(e, name, x, axes, bool(n.attr("keepdims", True)), how)
        if mean:
            total, count = out, size_as(out.dtype, prod(x.shape[k] for k in axes))
            out = e.stage(
                f"{name}_{len(e.stages)}",
                total.shape,
                lambda *at: _quotient(Term(Read(total, at)), count).expr,
            )
        return (narrow(e, out, n.type.dtype),)

    infer = _infer(name, kinds)
    return register(
        Op(name, "reduction", infer, _ref(ref), lower, samples=lambda: _samples(kinds, name))
    )


def _quotient(total: Term, count: Term) -> Term:
    return total / count if is_float(total.dtype) else total / f.maximum(count, 1)


def _samples(kinds: str, name: str) -> Iterable[Sample]:
    for axes, keepdims in [((0,), True), ((1,), False), ((0, 2), True), ((0, 1, 2), False)]:
        yield Sample((random(2, 3, 5),), {"axes": axes, "keepdims": keepdims})
    yield Sample((random(17),), {"axes": (0,), "keepdims": False})
    yield Sample((random(1, 1),), {"axes": (1,), "keepdims": True})
    yield Sample((random(2, 3),), {"axes": (), "keepdims": True})
    yield Sample((random(0, 3),), {"axes": (1,), "keepdims": True})
    if name != "reduce_mean":
        yield Sample((random(2, 0),), {"axes": (1,), "keepdims": False})
    nan = np.array([[1, np.nan, 3], [-np.inf, 2, 0]], np.float32)
    yield Sample((nan,), {"axes": (1,), "keepdims": False})
    yield Sample((random(3, 4, dtype="f16"),), {"axes": (1,), "keepdims": True})
    if "i" in kinds:
        yield Sample((random(3, 4, dtype="i64"),), {"axes": (1,), "keepdims": True})
        yield Sample((random(3, 4, dtype="i32"),), {"axes": (0,), "keepdims": False})
    if "b" in kinds:
        yield Sample((random(3, 4, dtype="bool"),), {"axes": (1,), "keepdims": True})


_reduction("reduce_sum", "add", lambda x, k, keep: np.sum(x, k, dtype=x.dtype, keepdims=keep))
_reduction("reduce_prod", "mul", lambda x, k, keep: np.prod(x, k, dtype=x.dtype, keepdims=keep))
_reduction(
    "reduce_max",
    "max",
    lambda x, k, keep: np.max(x, k, keepdims=keep, initial=_extreme(x.dtype, False)),
    "fiub",
)
_reduction(
    "reduce_min",
    "min",
    lambda x, k, keep: np.min(x, k, keepdims=keep, initial=_extreme(x.dtype, True)),
    "fiub",
)
_reduction("reduce_mean", "add", _mean, mean=True)


def _composite(
    name: str, ref: Callable[[Array, Any, bool], Any], expand: Callable[[Node], Node], kinds: str
) -> Op:
    """Registers a reduction that is a composition of others."""
    infer = _infer(name, kinds)
    return register(
        Op(
            name,
            "reduction",
            infer,
            _ref(ref),
            expand=expand,
            samples=lambda: _samples(kinds, name),
        )
    )


def _sum(n: Node, x: Node) -> Node:
    return apply("reduce_sum", x, axes=n.attr("axes"), keepdims=n.attr("keepdims", True))  # pyright: ignore[reportArgumentType]


def _operand(n: Node) -> Node:
    x = n.inputs[0]
    assert x is not None
    return x


def _expand_square(n: Node) -> Node:
    return _sum(n, apply("mul", _operand(n), _operand(n)))


def _expand_l1(n: Node) -> Node:
    return _sum(n, apply("abs", _operand(n)))


def _expand_l2(n: Node) -> Node:
    x = _operand(n)
    wide_x = x if x.type.dtype not in ("f16", "bf16") else apply("cast", x, to="f32")
    root = apply("sqrt", _sum(n, apply("mul", wide_x, wide_x)))
    return root if wide_x is x else apply("cast", root, to=x.type.dtype)


def _expand_log_sum(n: Node) -> Node:
    return apply("log", _sum(n, _operand(n)))


def _expand_log_sum_exp(n: Node) -> Node:
    """log(sum(exp(x - top))) + top, where top is the maximum, or 0 where that is not finite."""
    x = _operand(n)
    axes, keepdims = n.attr("axes"), n.attr("keepdims", True)
    assert isinstance(axes, tuple)
    top = apply("reduce_max", x, axes=axes, keepdims=True)
    zero = apply("sub", top, top)  # 0, or NaN where top is not finite
    top = apply("where", apply("isnan", zero), _zeros_like(x), top)
    total = apply("reduce_sum", apply("exp", apply("sub", x, top)), axes=axes, keepdims=True)
    out = apply("add", apply("log", total), top)
    if keepdims:
        return out
    return apply("reshape", out, shape=n.type.shape)


def _zeros_like(x: Node) -> Node:
    return apply("constant_of_shape", shape=(), value=0.0, dtype=x.type.dtype)


_composite("reduce_sum_square", lambda x, k, keep: np.sum(x * x, k, dtype=x.dtype, keepdims=keep),
           _expand_square, "fiu")  # fmt: skip
_composite("reduce_l1", lambda x, k, keep: np.sum(np.abs(x), k, dtype=x.dtype, keepdims=keep),
           _expand_l1, "fiu")  # fmt: skip
_composite("reduce_l2", lambda x, k, keep: np.sqrt(np.sum(x * x, k, keepdims=keep)),
           _expand_l2, "f")  # fmt: skip
_composite("reduce_log_sum", lambda x, k, keep: np.log(np.sum(x, k, keepdims=keep)),
           _expand_log_sum, "f")  # fmt: skip
_composite("reduce_log_sum_exp", _log_sum_exp, _expand_log_sum_exp, "f")


# --- argmin, argmax -------------------------------------------------------------------------------


def _infer_arg(name: str) -> Callable[[Types, Attrs], tuple[TensorType, ...]]:
    def infer(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x = operand(name, types, 0)
        check_kind(name, x.dtype, "fiu")
        axis = axis_of(name, attrs.get("axis", 0), x.rank)
        if getattr(x.shape[axis], "value", None) == 0:
            raise ModelError(f"{name}: axis {axis} has no elements")
        return (
            TensorType("i64", reduced_dims(x.shape, (axis,), bool(attrs.get("keepdims", True)))),
        )

    return infer


def _ref_arg(fn: Callable[..., Any]) -> Callable[[Arrays, Attrs], tuple[Array, ...]]:
    def ref(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
        x = arrays[0]
        assert x is not None
        axis, keepdims = int(attrs.get("axis", 0)) % x.ndim, bool(attrs.get("keepdims", True))
        if attrs.get("select_last_index"):
            out = x.shape[axis] - 1 - fn(np.flip(x, axis), axis=axis, keepdims=keepdims)
        else:
            out = fn(x, axis=axis, keepdims=keepdims)
        return (np.asarray(out).astype(np.int64),)

    return ref


def _arg(name: str, combine: str, fn: Callable[..., Any]) -> Op:
    """Two reductions: the extreme, then the first (or last) position that holds it. A NaN is both
    the greatest and the smallest."""

    def lower(e: Emit, n: Node, ins: Sequence[Tensor | None]) -> Sequence[Tensor]:
        x = ins[0]
        assert x is not None
        axis, last = axis_of(name, n.attr("axis", 0), len(x.shape)), n.attr("select_last_index")
        keepdims = bool(n.attr("keepdims", True))
        best = reduce_stage(e, name, x, (axis,), keepdims, combine)
        none = Const(-1 if last else 2**63 - 1, "i64")

        def position(at: tuple[Var, ...], over: tuple[Var, ...]) -> Expr:
            here = element(x, whole_index(at, over, (axis,), len(x.shape), keepdims))
            hit = here.equals(Term(Read(best, at)))
            hit = hit | f.isnan(here) if is_float(here.dtype) else hit
            return f.where(hit, Term(Cast(over[0], "i64")), Term(none)).expr

        how = "max" if last else "min"
        name_ = f"{name}_{len(e.stages)}"
        return (e.reduce(name_, n.type.shape, (x.shape[axis],), how, position, none),)

    return register(
        Op(name, "reduction", _infer_arg(name), _ref_arg(fn), lower, samples=_arg_samples)
    )


def _arg_samples() -> Iterable[Sample]:
    ties = np.array([[1, 3, 3, 0], [2, 2, 2, 2], [-0.0, 0.0, -1, 0]], np.float32)
    nan = np.array([[1, np.nan, 3, np.nan], [-np.inf, 2, 0, np.inf]], np.float32)
    for last in (0, 1):
        for x in (ties, random(3, 7), random(1, 1), random(2, 3, dtype="i32")):
            yield Sample((x,), {"axis": 1, "keepdims": True, "select_last_index": last})
    yield Sample((nan,), {"axis": 1, "keepdims": False})
    yield Sample((ties,), {"axis": -2, "keepdims": False})
    yield Sample((random(0, 3),), {"axis": 1, "keepdims": False})
    yield Sample((random(3, 4, dtype="f16"),), {"axis": 0, "keepdims": False})


_arg("arg_max", "max", np.argmax)
_arg("arg_min", "min", np.argmin)
