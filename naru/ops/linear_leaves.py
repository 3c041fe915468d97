"""linear_leaves: the sums of trees whose leaves are linear functions of the features (LightGBM's
`linear_tree`); which leaf a row reaches in each tree, `tree_ensemble` says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from naru.errors import ModelError
from naru.ir.expr import Const, Expr
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import add, index, mul
from naru.ops.kernel_text import by_hand
from naru.ops.operands import check_equal, check_kind, check_same_dtype, given, operand
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, apply, constant, register
from naru.targets import Target

Array = np.ndarray
ROLES = ("x", "leaves", "constants", "values", "starts", "features", "coefficients", "targets")


@dataclass(frozen=True)
class Leaves:
    """The functions of all leaves: constants[l] + the sum of coefficients[k] · x[features[k]] over
    k in starts[l]..starts[l + 1], in this order; values[l] where one of these features is NaN.
    There is one term at least, be it of no leaf. `targets`: which score each tree adds to."""

    constants: Array
    values: Array
    starts: Array
    features: Array
    coefficients: Array
    targets: Array


def infer_linear_leaves(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [rows, width]; leaves [trees, rows], numbers of leaves; of all leaves constants and values
    [count], starts i32 [count + 1]; of all terms features i32 and coefficients [terms]; targets
    i32 [trees] -> [attr `count`, rows]: for each target the sum over its trees, in order."""
    op = "linear_leaves"
    x, leaves = operand(op, types, 0, 2), operand(op, types, 1, 2)
    constants, values, starts, features, coefficients, targets = (
        operand(op, types, k, 1) for k in range(2, 8)
    )
    check_kind(op, check_same_dtype(op, [x, leaves, constants, values, coefficients]), "f")
    for t in (starts, features, targets):
        if t.dtype != "i32":
            raise ModelError(f"{op}: expected tables of i32, found {t.dtype}")
    check_equal(op, "rows of x and of leaves", leaves.shape[1], x.shape[0])
    check_equal(op, "constants and values", values.shape[0], constants.shape[0])
    check_equal(op, "starts, and leaves with an end", starts.shape[0], add(values.shape[0], 1))
    check_equal(op, "features and coefficients", features.shape[0], coefficients.shape[0])
    check_equal(op, "trees of leaves and of targets", targets.shape[0], leaves.shape[0])
    return (TensorType(x.dtype, (Const(int(attrs["count"])), x.shape[0])),)


def ref_linear_leaves(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x, leaves, constants, values, starts, features, coefficients, targets = (
        given(arrays, k) for k in range(len(ROLES))
    )
    out = np.zeros((int(attrs["count"]), x.shape[0]), x.dtype)
    begins, ends = starts[:-1], starts[1:]
    rows: Array = np.arange(len(x))
    for tree, target in zip(leaves.astype(np.int64), targets, strict=True):
        total, lost = constants[tree], np.zeros(rows.size, np.bool_)
        for k in range(int((ends - begins)[tree].max(initial=0))):
            there = k < (ends - begins)[tree]
            term = np.where(there, begins[tree] + k, 0)
            value = x[rows, features[term]]
            lost |= there & np.isnan(value)
            with np.errstate(all="ignore"):
                total = np.where(there, total + coefficients[term] * value, total)
        out[target] += np.where(lost, values[tree], total)
    return (out,)


def opaque_linear_leaves(n: Node, _target: Target) -> str:
    """Parameters: the operands, out, sizes. (Products and sums are rounded apart, as there.)"""
    x, trees = given(n.inputs).type, given(n.inputs, 7).type.shape[0]
    dtype, count = x.dtype, n.attr("count")
    body = [
        "for row in parallel(ROWS):",
        f"    for c in range({count}):",
        "        out[c * ROWS + row] = 0.0",
        "    for tree in range(TREES):",
        "        leaf: index = index(leaves[tree * ROWS + row])",
        f"        total = {dtype}(constants[leaf])",
        "        lost = 0",
        "        for k in range(index(starts[leaf]), index(starts[leaf + 1])):",
        f"            value: {dtype} = x[row * WIDTH + index(features[k])]",
        "            lost = select(isnan(value), 1, lost)",
        "            total = total + coefficients[k] * value",
        "        c: index = index(targets[tree])",
        "        total = select(lost == 1, values[leaf], total)",
        "        out[c * ROWS + row] = out[c * ROWS + row] + total",
    ]
    sizes: dict[str, Expr] = {"ROWS": x.shape[0], "WIDTH": x.shape[1], "TREES": trees}
    return by_hand(n, ROLES, ("out",), body, sizes)


def _flops(n: Node) -> Expr:
    """As many as the leaves of all trees have terms on average, and twice that for the look-ups."""
    terms, starts = given(n.inputs, 6), given(n.inputs, 4)
    trees = given(n.inputs, 7).type.shape[0]
    known = [t.data.size if t.data is not None else 1 for t in (terms, starts)]
    each = 4 + 4 * -(-known[0] // known[1])
    return mul(mul(given(n.inputs).type.shape[0], trees), index(each))


def apply_leaves(x: Node, leaves: Node, table: Leaves, count: int) -> Node:
    """x [N, F], leaves [trees, N] -> [count, N]."""
    dtype = table.constants.dtype
    return apply(
        "linear_leaves",
        x,
        leaves,
        constant(table.constants, dtype),
        constant(table.values, dtype),
        constant(table.starts, np.int32),
        constant(table.features, np.int32),
        constant(table.coefficients, dtype),
        constant(table.targets, np.int32),
        count=count,
    )


def _sample(
    rows: int, trees: int, count: int, terms: int, dtype: type[np.floating] = np.float64
) -> Sample:
    rng = np.random.default_rng(rows + trees)
    x = rng.normal(size=(rows, 4)).astype(dtype)
    x[rng.random(x.shape) < 0.1] = np.nan
    sizes = rng.integers(0, terms + 1, 5)
    total = max(1, int(sizes.sum()))
    arrays = (
        x,
        rng.integers(0, 5, (trees, rows)).astype(dtype),
        rng.normal(size=5).astype(dtype),
        rng.normal(size=5).astype(dtype),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
        rng.integers(0, 4, total).astype(np.int32),
        rng.normal(size=total).astype(dtype),
        rng.integers(0, count, trees).astype(np.int32),
    )
    return Sample(arrays, {"count": count})


def _samples() -> Iterable[Sample]:
    yield _sample(7, 3, 1, 3)
    yield _sample(33, 5, 3, 4)
    yield _sample(0, 2, 1, 2)
    yield _sample(1, 4, 2, 0)
    yield _sample(9, 2, 2, 3, np.float32)


register(Op("linear_leaves", "opaque", infer_linear_leaves, ref_linear_leaves,
            opaque=opaque_linear_leaves, flops=_flops, samples=_samples,
            rows=((0, 1), (1,))))  # fmt: skip
