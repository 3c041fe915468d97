"""`tree_ensemble`: what trees vote for, summed up, or the least or largest vote.

    x        [N, F]
    nodes, splits, slots, weights, targets, depths: see tree_tables.py; slots may be left out

Attributes: `shift` and `missing` of the tables; `depth`, steps of the deepest tree, and `steps`, of
all trees; `aggregate` (sum, min, max); `count` of targets. The result is [count, N], targets first,
so that the rows of a tile lie side by side.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from naru.errors import ModelError
from naru.ir.expr import Const, Expr
from naru.ir.graph import Node, TensorType, make_constant
from naru.ir.simplify import add, index, mul
from naru.ops.coded_tables import STEP as CODED_STEP
from naru.ops.coded_tables import make_coded
from naru.ops.coded_trees import PASSIVE, apply_coded
from naru.ops.kernel_text import KernelText, indent
from naru.ops.operands import (
    check_equal,
    check_kind,
    check_same_dtype,
    given,
    operand,
    optional,
)
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, apply, constant, register
from naru.ops.tree_kernel import Walk, kernel_body
from naru.ops.tree_samples import EVERY, random_ensemble, random_votes
from naru.ops.tree_tables import (
    GT,
    LEQ,
    PADDING,
    WORD,
    Nodes,
    Tables,
    Votes,
    make_tables,
)
from naru.targets import Target

Array = np.ndarray
NOTHING = {"sum": 0.0, "min": np.inf, "max": -np.inf}  # what votes are combined with at first
COMBINE: dict[str, Callable[[Array, Array], Array]] = {
    "sum": np.add,
    "min": lambda total, vote: np.where(vote < total, vote, total),
    "max": lambda total, vote: np.where(vote > total, vote, total),
}
STEP = 16  # multiply-adds that take as long as a step of a walk: its loads wait for each other
OPERANDS = ("x", "nodes", "splits", "slots", "weights", "targets", "depths")


def infer_trees(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    name = "tree_ensemble"
    x, nodes = operand(name, types, 0, rank=2), operand(name, types, 1, rank=2)
    splits, weights = operand(name, types, 2, rank=1), operand(name, types, 4, rank=2)
    targets, depths = operand(name, types, 5, rank=2), operand(name, types, 6, rank=1)
    slots = optional(types, 3)
    dtype = check_same_dtype(name, (x, splits, weights))
    check_kind(name, dtype, "f")
    if dtype not in ("f32", "f64"):
        raise ModelError(f"{name}: expected f32 or f64, got {dtype}", hint="put a Cast before it")
    for t in (nodes, targets, depths, *(() if slots is None else (slots,))):
        if t.dtype != "i32":
            raise ModelError(f"{name}: its tables of integers must be i32, got {t.dtype}")
    records, trees = splits.shape[0], targets.shape[0]
    check_equal(name, "the records of nodes and of splits", nodes.shape[1], records)
    if slots is None:
        check_equal(name, "the records of weights and of splits", weights.shape[0], records)
    else:
        check_equal(name, "the records of slots and of splits", slots.shape[0], records)
    check_equal(name, "votes of a tree", weights.shape[1], targets.shape[1])
    check_equal(name, "depths and trees with padding", depths.shape[0], add(trees, PADDING))
    if attrs["aggregate"] not in NOTHING or int(attrs["count"]) < 1:
        raise ModelError(
            f"{name}: expected one of {', '.join(NOTHING)} and at least one target, "
            f"got {attrs['aggregate']} and {attrs['count']}"
        )
    if not 1 <= int(attrs["shift"]) <= WORD:
        raise ModelError(f"{name}: expected a shift of 1..{WORD}, got {attrs['shift']}")
    check_equal(name, "rows of nodes", nodes.shape[0], index(1 + (attrs["shift"] == WORD)))
    return (TensorType(dtype, (Const(int(attrs["count"])), x.shape[0])),)


def ref_trees(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    x, nodes, splits = given(arrays), given(arrays, 1), given(arrays, 2)
    weights, targets = given(arrays, 4), given(arrays, 5)
    shift = int(attrs["shift"])
    rows: Array = np.arange(len(x))[:, None]
    at: Array = np.tile(np.arange(len(targets)), (len(x), 1))
    bits = shift - int(attrs["missing"])
    for _ in range(int(attrs["depth"])):
        word = nodes[0][at]
        value = x[rows, nodes[1][at] if shift == WORD else word >> shift]
        true = value <= splits[at]
        if attrs["missing"]:
            true = np.where(np.isnan(value), (word >> bits) & 1, true)
        at = at + (word & (2**bits - 1)) + true
    leaf: Array = at if arrays[3] is None else given(arrays, 3)[at]
    start = NOTHING[attrs["aggregate"]]
    combine = COMBINE[attrs["aggregate"]]
    out = np.full((int(attrs["count"]), x.shape[0]), start, np.result_type(x, weights))
    for tree in range(targets.shape[0]):
        for k in range(targets.shape[1]):
            t = targets[tree, k]
            out[t] = combine(out[t], weights[leaf[:, tree], k])
    return (out,)


def opaque_trees(n: Node, target: Target) -> str:
    """Parameters: the operands that are there, each once, out, sizes."""
    taken: dict[Node, str] = {}
    called: dict[str, str] = {}
    for role, i in zip(OPERANDS, n.inputs, strict=True):
        if i is not None:
            called[role] = taken.setdefault(i, role)
    x, targets = given(n.inputs).type, given(n.inputs, 5).type
    attrs: dict[str, Any] = dict(n.attrs)
    walk = Walk(
        dtype=x.dtype,
        shift=None if attrs["shift"] == WORD else int(attrs["shift"]),
        missing=bool(attrs["missing"]),
        single=attrs["count"] == 1,
        slots=n.inputs[3] is not None,
        aggregate=str(attrs["aggregate"]),
        depth=int(attrs["depth"]),
    )
    kernel = KernelText(*(i.type for i in taken), n.type)
    buffers = [kernel.buffer(role, i.type) for i, role in taken.items()]
    head = kernel.head("tree_ensemble", *buffers, kernel.buffer("out", n.type))
    body = "\n".join(indent(kernel_body(walk, target)))
    for role, name in called.items():
        body = re.sub(rf"\b{role}\b", name, body)
    sizes = {"N": x.shape[0], "TREES": targets.shape[0], "TARGETS": n.type.shape[0]}
    sizes["VOTES"] = targets.shape[1]
    return f"{head}\n{kernel.fill(body, sizes)}\n"


def _flops(n: Node) -> Expr:
    """As many as take the time of all steps."""
    return mul(given(n.inputs).type.shape[0], 2 * STEP * int(n.attr("steps")))  # pyright: ignore[reportArgumentType]


def apply_trees(x: Node, tables: Tables, aggregate: str, count: int) -> Node:
    """The votes of all trees for the rows of x: [count, N]."""
    slots = None if tables.slots is None else constant(tables.slots, np.int32)
    trees = tables.targets.shape[0]
    return apply(
        "tree_ensemble",
        x,
        constant(tables.nodes, np.int32),
        constant(tables.splits, tables.splits.dtype),
        slots,
        constant(tables.weights, tables.weights.dtype),
        constant(tables.targets, np.int32),
        constant(tables.depths, np.int32),
        shift=tables.shift,
        missing=tables.missing,
        depth=int(tables.depths.max()),
        steps=int(tables.depths[:trees].sum()),
        aggregate=aggregate,
        count=count,
    )


def vote(x: Node, nodes: Nodes, votes: Votes, aggregate: str, count: int) -> Node:
    """The votes of all trees for the rows of x: [count, N]. By codes where that pays: they cost as
    much for a few small trees as for many."""
    coded = make_coded(nodes, votes, PASSIVE[aggregate])
    if coded is not None:
        by_code = 2 * coded.cost_of_codes() + coded.cost_of_one() + coded.cost_of_many()
        if by_code < 2 * coded.steps * CODED_STEP:
            return apply_coded(x, coded, aggregate, count)
    return apply_trees(x, make_tables(nodes, votes, NOTHING[aggregate]), aggregate, count)


def borders_of(n: Node) -> dict[int, Array]:
    """The numbers that the nodes of a `tree_ensemble`, or the codes of `tree_codes`, ask for, by
    feature."""
    tables = [None if i is None or i.data is None else i.data for i in n.inputs[1:]]
    if n.op == "tree_codes":
        features, levels, starts, ranks, borders = (given(tables, k) for k in range(5))
        first = starts[np.arange(features.size), levels - 1]
        counts = (ranks - 1).tolist()
        found = zip(features.tolist(), first.tolist(), counts, strict=True)
        return {f: borders[a : a + count] for f, a, count in found if count}
    nodes, splits = given(tables), given(tables, 1)
    shift = int(n.attr("shift"))  # pyright: ignore[reportArgumentType]
    features = nodes[1] if shift == WORD else nodes[0] >> shift
    asked = ~np.isnan(splits)
    return {int(f): splits[asked & (features == f)] for f in np.unique(features[asked])}


# --- samples --------------------------------------------------------------------------------------


def _sample(
    rows: int,
    trees: int,
    depth: int,
    modes: Sequence[int] = (LEQ,),
    *,
    count: int = 1,
    each: int = 1,
    aggregate: str = "sum",
    dtype: type[np.floating[Any]] = np.float32,
    features: int = 5,
) -> Sample:
    rng = np.random.default_rng(rows + trees)
    nodes = random_ensemble(rng, trees, depth, features, modes)
    votes = random_votes(rng, nodes, count, each)
    nodes = replace(nodes, splits=nodes.splits.astype(dtype))
    votes = replace(votes, weights=votes.weights.astype(dtype))
    tables = make_tables(nodes, votes, NOTHING[aggregate])
    x = (rng.integers(-5, 6, (rows, features)) / 2).astype(dtype)
    x[::3, ::2] = np.nan
    node = apply_trees(make_constant(x), tables, aggregate, count)
    arrays = tuple(None if i is None else i.data for i in node.inputs)
    return Sample(arrays, dict(node.attrs))


def _samples() -> Iterable[Sample]:
    yield _sample(1, 1, 0)
    yield _sample(1, 3, 2)
    yield _sample(0, 2, 2)
    yield _sample(9, 17, 3)
    yield _sample(5, 4, 3, EVERY)
    yield _sample(9, 3, 3, EVERY, count=3, each=2)
    yield _sample(3, 2, 14, count=2)
    yield _sample(9, 3, 3, EVERY, aggregate="min", dtype=np.float64)
    yield _sample(9, 3, 2, (GT,), count=2, each=2, aggregate="max")


register(Op("tree_ensemble", "opaque", infer_trees, ref_trees, opaque=opaque_trees, flops=_flops,
            sparse=True, samples=_samples, rows=((0,), (1,))))  # fmt: skip
