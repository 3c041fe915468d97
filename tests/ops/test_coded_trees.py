"""Trees over codes give what a walk from the root gives, for trees of every kind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naru.codegen.llvm import emit_kernel
from naru.codegen.objects import compile_module
from naru.ir.graph import Graph, Node, make_constant, make_input
from naru.ir.text import read_func
from naru.ops import coded_tables
from naru.ops.coded_tables import (
    MOST_BESIDE,
    TOGETHER,
    Beside,
    CodedTables,
    Records,
    make_coded,
    which_byte,
)
from naru.ops.coded_trees import PASSIVE, apply_coded
from naru.ops.evaluate import evaluate
from naru.ops.registry import OPS, apply
from naru.ops.tree_samples import EVERY, random_ensemble, random_votes
from naru.ops.tree_tables import EQ, GT, GTE, LEAF, LEQ, LT, MEMBER, NEQ, Nodes, Votes
from naru.ops.trees import vote
from naru.targets import TARGETS

Array = np.ndarray


def value_of(n: Node) -> Array:
    """What a node without inputs gives, by the numpy meaning of its operators."""
    return evaluate(Graph("g", (), (n,), ("y",)), [])[0]


def says(n: Nodes, node: int, value: float) -> bool:
    """Does a node send a number to its true child?"""
    mode, split = n.modes[node], n.splits[node]
    if np.isnan(value):
        missing = bool(n.missing[node])
        return mode == NEQ or missing
    if mode == MEMBER:
        which = int((n.modes[:node] == MEMBER).sum())
        return int((~(n.members[which] >= value)).sum()) % 2 == 1
    return bool(
        {
            LEQ: value <= split,
            LT: value < split,
            GTE: value >= split,
            GT: value > split,
            EQ: value == split,
            NEQ: value != split,
        }[mode]
    )


def walked(n: Nodes, votes: Votes, x: Array, count: int) -> Array:
    """Sums of votes [rows, count], by walks from the roots."""
    out = np.zeros((len(x), count), votes.weights.dtype)
    for i, row in enumerate(x):
        for root in n.roots.tolist():
            at = root
            while n.modes[at] != LEAF:
                yes = says(n, at, row[n.features[at]])
                at = int((n.true if yes else n.false)[at])
            for k in np.flatnonzero(votes.leaves == at):
                out[i, votes.targets[k]] += votes.weights[k]
    return out


def one_target(n: Nodes, votes: Votes, count: int) -> Votes:
    """Tree k votes for target k % count."""
    owner = np.searchsorted(n.roots, votes.leaves, "right") - 1
    return replace(votes, targets=owner % count)


def coded(n: Nodes, votes: Votes, x: Array, count: int) -> Array:
    tables = make_coded(n, votes, PASSIVE["sum"])
    assert tables is not None
    return value_of(apply_coded(make_constant(x), tables, "sum", count)).T


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    trees=st.integers(1, 20),
    depth=st.integers(1, 5),
    features=st.integers(1, 9),
    count=st.integers(1, 3),
    wide=st.booleans(),
    modes=st.sampled_from([(LEQ,), (LT,), (GT, GTE), EVERY]),
)
def test_random_trees(
    seed: int, trees: int, depth: int, features: int, count: int, wide: bool, modes: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(seed)
    dtype = np.float64 if wide else np.float32
    nodes = random_ensemble(rng, trees, depth, features, modes)
    special = rng.random(nodes.splits.size) < 0.1
    nodes.splits[special] = rng.choice([np.inf, -np.inf, np.nan, 0.0, -0.0], int(special.sum()))
    nodes = replace(nodes, splits=nodes.splits.astype(dtype))
    votes = one_target(nodes, random_votes(rng, nodes, 1, 1), count)
    x = (rng.integers(-5, 6, (9, features)) / 2).astype(dtype)
    x[rng.random(x.shape) < 0.2] = rng.choice([np.nan, np.inf, -np.inf, -0.0])
    if (nodes.modes == LEAF).all():
        return  # (no node asks anything: there is nothing to code)
    assert (coded(nodes, votes, x, count) == walked(nodes, votes, x, count)).all()


def chain(leaves: int, splits: Array, missing: Array | None = None) -> tuple[Nodes, Votes]:
    """One tree in which every false child is a leaf."""
    inner = leaves - 1
    modes = np.array([LEQ] * inner + [LEAF] * leaves)
    true = np.append(np.append(np.arange(1, inner), 2 * inner), np.zeros(leaves, int))
    false = np.append(inner + np.arange(inner), np.zeros(leaves, int))
    none = np.zeros(leaves)
    nodes = Nodes(
        np.array([0]), modes, np.zeros(modes.size, int), np.append(splits, none), true, false,
        np.append(np.zeros(inner) if missing is None else missing, none) == 1,
    )  # fmt: skip
    return nodes, Votes(
        inner + np.arange(leaves), np.zeros(leaves, int), np.arange(leaves).astype(float)
    )


def test_256_leaves_and_not_more() -> None:
    nodes, votes = chain(256, np.arange(255, 0, -1.0))
    x = np.linspace(-1, 257, 600)[:, None]
    assert (coded(nodes, votes, x, 1) == walked(nodes, votes, x, 1)).all()
    nodes, votes = chain(257, np.arange(256, 0, -1.0))
    assert make_coded(nodes, votes, 0) is None
    found = value_of(vote(make_constant(x), nodes, votes, "sum", 1)).T
    assert (found == walked(nodes, votes, x, 1)).all()


def test_more_borders_than_a_byte_tells() -> None:
    """And NaN that goes another way at every other node."""
    rng = np.random.default_rng(0)
    made = [chain(200, rng.permutation(5000)[:199] / 7, rng.integers(0, 2, 199)) for _ in range(5)]
    size = np.cumsum([0, *(n.modes.size for n, _ in made)])
    plain = ("modes", "features", "splits")
    joined = {k: np.concatenate([getattr(n, k) for n, _ in made]) for k in (*plain, "missing")}
    moved = {
        k: np.concatenate([getattr(n, k) + s for (n, _), s in zip(made, size, strict=False)])
        for k in ("true", "false")
    }
    nodes = replace(made[0][0], roots=size[:-1], **joined, **moved)
    votes = Votes(
        np.concatenate([v.leaves + s for (_, v), s in zip(made, size, strict=False)]),
        np.concatenate([v.targets for _, v in made]),
        np.concatenate([v.weights for _, v in made]),
    )
    tables = make_coded(nodes, votes, -0.0)
    assert tables is not None
    assert tables.coding.places.size == 8  # four spans, each with two answers for NaN
    x = np.append(rng.normal(size=400) * 400 + 350, [np.nan, np.inf, -np.inf])[:, None]
    assert (coded(nodes, votes, x, 1) == walked(nodes, votes, x, 1)).all()


def made_of(trees: int, features: int) -> CodedTables:
    rng = np.random.default_rng(1)
    nodes = random_ensemble(rng, trees, 4, features, (LEQ,))
    votes = one_target(nodes, random_votes(rng, nodes, 1, 1), 1)
    tables = make_coded(nodes, votes, -0.0)
    assert tables is not None
    return tables


def test_one_row_walks_where_there_are_many_features() -> None:
    assert isinstance(made_of(40, 20).one, Beside)
    tables = made_of(300, 2000)
    assert tables.coding.places.size > MOST_BESIDE
    assert isinstance(tables.one, Records)


def test_a_byte_names_every_row() -> None:
    named = which_byte(np.arange(MOST_BESIDE)).astype(np.uint8)
    assert np.unique(named).size == MOST_BESIDE
    assert (named & 15 == np.arange(MOST_BESIDE) % 16).all()


def test_groups_vote_for_one_target() -> None:
    tables = made_of(13, 5)
    assert tables.targets.tolist() == [0, 0]
    assert tables.leaves.size == 2 * TOGETHER


@pytest.mark.parametrize("aggregate", ["sum", "min", "max"])
def test_few_small_trees_are_walked(aggregate: str) -> None:
    """Codes would cost more than they save; and the votes are the same."""
    rng = np.random.default_rng(3)
    for trees, op in ((2, "tree_ensemble"), (200, "coded_trees")):
        nodes = random_ensemble(rng, trees, 5, 6, EVERY)
        votes = one_target(nodes, random_votes(rng, nodes, 1, 1), 1)
        x = make_constant(rng.normal(size=(5, 6)).astype(np.float32))
        node = vote(x, nodes, votes, aggregate, 1)
        assert node.op == op
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(coded_tables, "STEP", 0)
            patch.setattr("naru.ops.trees.CODED_STEP", 0)
            other = vote(x, nodes, votes, aggregate, 1)
        assert other.op == "tree_ensemble"
        assert (value_of(node) == value_of(other)).all()


@pytest.mark.parametrize("name", ["tree_ensemble", "tree_codes", "coded_trees"])
def test_kernels_can_be_compiled_for_every_target(name: str) -> None:
    op = OPS[name]
    assert op.samples
    assert op.opaque
    for sample in list(op.samples())[2:4]:
        constants = [None if a is None else make_constant(a) for a in sample.inputs]
        inputs = [c and make_input(f"x{k}", c.type) for k, c in enumerate(constants)]
        made = apply(name, *inputs, **dict(sample.attrs))
        for target in TARGETS.values():
            text = op.opaque(made, target)
            compile_module(emit_kernel(read_func(text), target), target)


def test_borders_without_end_are_walked_over() -> None:
    """A row of codes for each 255 borders of a feature, with a table of all its ranks each, would
    grow with their square."""
    rng = np.random.default_rng(0)
    nodes = random_ensemble(rng, 4000, 5, 1, (LEQ,))
    nodes = replace(nodes, splits=rng.normal(size=nodes.splits.size))
    votes = one_target(nodes, random_votes(rng, nodes, 1, 1), 1)
    assert np.unique(nodes.splits[nodes.modes == LEQ]).size > 40_000
    assert make_coded(nodes, votes, -0.0) is None
