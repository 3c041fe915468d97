"""The tables of trees over codes (see tree_codes.py): what each node asks, and where it leads.

The leaves of a tree are numbered from the true side to the false one. Then every number but the
first is the first leaf on the false side of just one node, and the nodes are taken in the order of
these numbers. Of a node two more things count: its question, and the first leaf below it. A row
stands at a leaf, at first 0. Where a node answers no and the row stands below it, the row moves to
the first leaf on the false side. At the end it stands where a walk from the root leads: at the
first leaf that no answer excludes. (So does QuickScorer, Lucchese et al. 2015, with sets of leaves;
nodes that the walk does not meet may answer too: what they exclude, those that it meets do as well,
or it lies behind.)

So 256 leaves need a byte, and whole registers, of rows in one tree or of trees for one row, go
through the nodes without a branch that depends on data and without a gather.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from naru.ops.tree_coding import HIGH, Coding, make_coding
from naru.ops.tree_questions import Questions, Shape, ask, has_shared, shape_of
from naru.ops.tree_tables import Nodes, Votes

Array = np.ndarray
LEAVES = 256  # of a tree: what a byte can number
TOGETHER = 8  # trees whose votes are added up in one go
WORD = 32  # bits of a record
CUT = 8  # of them the cut
STEP = 12  # instructions of a step of a walk
ACROSS = 64  # trees side by side, for one row
MOST_BESIDE = 256  # rows of codes that these can tell apart


@dataclass(frozen=True)
class Beside:
    """The nodes of `ACROSS` trees side by side, as many each as the largest has; what is not there
    answers yes.

    begins  i32[ceil(T / ACROSS) + 1]: the first node of each group
    which   u8[n, ACROSS]: the row of codes, in the bits that `which_byte` says
    asks    i8[n, 2, ACROSS]: cuts, and the first leaves below
    """

    begins: Array
    which: Array
    asks: Array

    def cost(self, rows: int) -> int:
        """About how many instructions a row of x takes, with registers of 32 bytes."""
        tables = -(-rows // 16)
        look_up = tables if tables == 1 else 2 * tables + tables.bit_length()
        return len(self.which) * (ACROSS // 32) * (8 + look_up)


@dataclass(frozen=True)
class Records:
    """Where there are so many rows of codes that `Beside` is slower than a walk: for each tree its
    root, then pairs of children, the true one first. A step is `at += delta + (code > cut)`; at a
    leaf delta is 0, and cut the greatest code.

    roots   i32[T]
    words   u32[M]: the cut in the lowest 8 bits, the row of codes above, delta from bit `shift`
    slots   i32[M]: where in `weights` the vote of a leaf is
    depths  i32[T]: steps that a tree takes at most
    """

    roots: Array
    words: Array
    slots: Array
    depths: Array
    shift: int

    def cost(self, rows: int) -> int:
        """About how many instructions a row of x takes."""
        return int(self.depths.sum()) * STEP


@dataclass(frozen=True)
class CodedTables:
    """`coding`: how x is coded. T trees, a multiple of `TOGETHER`; all of a group of so many vote
    for the same target. Leaf k is written as k - 128.

    asks     i8[n, 2]: cut, and the first leaf below
    rows     i32[n]: the row of codes that is asked for
    first    i32[T + 1]: the first node of each tree
    leaves   i32[T]: where in `weights` leaf 128 of each tree would be
    weights  [all leaves]
    targets  i32[T / TOGETHER]
    steps    of all trees, if each takes as many as it is deep
    """

    coding: Coding
    asks: Array
    rows: Array
    first: Array
    leaves: Array
    weights: Array
    targets: Array
    one: Beside | Records
    steps: int

    def cost_of_codes(self) -> int:
        """About how many instructions the codes of a row take."""
        c = self.coding
        registers = 4 if c.borders.dtype == np.float64 else 2
        return int(c.levels.sum()) * (4 * registers + 4) + 8 * c.levels.size + 4 * c.places.size

    def cost_of_many(self) -> int:
        """About how many instructions a row takes among many."""
        return len(self.rows) * 21 // 128 + 9 * self.leaves.size // 4

    def cost_of_one(self) -> int:
        """About how many instructions a row takes that comes alone, with registers of 32 bytes."""
        return self.one.cost(self.coding.places.size) + 3 * self.leaves.size


def make_coded(nodes: Nodes, votes: Votes, nothing: float) -> CodedTables | None:
    """The tables of an ensemble; None for one that they cannot be made of: nodes with several
    parents, trees of over 256 leaves, leaves or trees that vote for several targets.
    `nothing`: what changes no sum, and no least or greatest vote."""
    if has_shared(nodes):
        return None
    q = ask(nodes)
    shape = shape_of(q, nodes.roots)
    if shape.leaves.max(initial=0) > LEAVES or not shape.order.size:
        return None
    voted = _votes_of_trees(q, shape, votes, nothing)
    if voted is None:
        return None
    weights, target_of = voted
    trees, targets = _groups(target_of)
    q, weights, roots = _padded(q, weights, nodes.roots, trees, nothing)
    shape = shape_of(q, roots)
    coded = make_coding(q, shape.order)
    if coded is None:
        return None
    coding, rows, cuts = coded
    asks = np.stack([cuts, shape.start[shape.order] - LEAVES // 2], axis=1).astype(np.int8)
    leaves = np.flatnonzero(q.leaf & (shape.tree >= 0))
    first_leaf = np.cumsum(shape.leaves) - shape.leaves
    slot = np.zeros(q.leaf.size, np.int32)
    slot[leaves] = first_leaf[shape.tree[leaves]] + shape.start[leaves]
    ordered = np.zeros(leaves.size, weights.dtype)
    ordered[slot[leaves]] = weights[leaves]
    first = np.append(0, np.cumsum(shape.leaves - 1)).astype(np.int32)
    both = _beside(first, rows, asks), _records(q, shape, roots, rows, cuts, slot)
    found = [one for one in both if one is not None]
    if not found:
        return None
    one = min(found, key=lambda one: one.cost(coding.places.size))
    zero = (first_leaf + LEAVES // 2).astype(np.int32)
    steps = int(shape.depths.sum())
    return CodedTables(coding, asks, rows, first, zero, ordered, targets, one, steps)


# --- votes ----------------------------------------------------------------------------------------


def _votes_of_trees(
    q: Questions, shape: Shape, votes: Votes, nothing: float
) -> tuple[Array, Array] | None:
    """What each node votes, where it is a leaf, and the target that a tree votes for; None where a
    leaf votes several times, or a tree for several targets."""
    there = shape.tree[votes.leaves] >= 0
    leaves, targets = votes.leaves[there], votes.targets[there]
    if np.bincount(leaves, minlength=1).max() > 1:
        return None
    weights = np.full(q.leaf.size, nothing, votes.weights.dtype)
    weights[leaves] = votes.weights[there]
    owner = shape.tree[leaves]
    least = np.full(shape.leaves.size, np.iinfo(np.int64).max)
    most = np.zeros(shape.leaves.size, np.int64)
    np.minimum.at(least, owner, targets)
    np.maximum.at(most, owner, targets)
    if (most > least).any():
        return None
    return weights, most


def _groups(target_of: Array) -> tuple[Array, Array]:
    """Trees in the order of their targets, each target's filled up with -1 to whole groups, and
    the target of each group."""
    order = np.argsort(target_of, kind="stable")
    targets, counts = np.unique(target_of, return_counts=True)
    groups = -(-counts // TOGETHER)
    out = np.full(int(groups.sum()) * TOGETHER, -1)
    begin = (np.cumsum(groups) - groups) * TOGETHER
    within = np.arange(order.size) - np.repeat(np.cumsum(counts) - counts, counts)
    out[np.repeat(begin, counts) + within] = order
    return out, np.repeat(targets, groups).astype(np.int32)


def _padded(
    q: Questions, weights: Array, roots: Array, trees: Array, nothing: float
) -> tuple[Questions, Array, Array]:
    """Questions, votes and roots of `trees`, of which those of -1 are a leaf each that votes
    `nothing`."""
    more = int((trees < 0).sum())
    new = np.where(trees < 0, 0, roots[trees])
    new[trees < 0] = q.leaf.size + np.arange(more)

    def longer(values: Array, fill: object) -> Array:
        return np.concatenate([values, np.full(more, fill, values.dtype)])

    padded = Questions(
        longer(q.leaf, True), longer(q.features, 0), longer(q.splits, 0), longer(q.true, 0),
        longer(q.false, 0), longer(q.missing, False), q.sets,
    )  # fmt: skip
    return padded, longer(weights, nothing), new


# --- for one row ----------------------------------------------------------------------------------


def which_byte(rows: Array) -> Array:
    """The number of a row of codes with its four lowest bits in place, by which a table of 16 is
    asked, and the others from the highest bit downwards, each of which chooses between tables."""
    return rows & 15 | (rows & 16) << 3 | (rows & 32) << 1 | (rows & 64) >> 1 | (rows & 128) >> 3


def _beside(first: Array, rows: Array, asks: Array) -> Beside | None:
    """None where there are too many rows of codes."""
    if rows.max() >= MOST_BESIDE:
        return None
    sizes = np.diff(first)
    groups = -(-sizes.size // ACROSS)
    owner = np.arange(sizes.size) // ACROSS
    longest = np.zeros(groups, np.int64)
    np.maximum.at(longest, owner, sizes)
    begins = np.append(0, np.cumsum(longest))
    tree = np.repeat(np.arange(sizes.size), sizes)
    place = begins[owner[tree]] + np.arange(rows.size) - first[tree]
    which = np.zeros((begins[-1], ACROSS), np.uint8)
    which[place, tree % ACROSS] = which_byte(rows)
    table = np.full((begins[-1], 2, ACROSS), HIGH, np.int8)
    table[place, :, tree % ACROSS] = asks
    return Beside(begins.astype(np.int32), which, table)


def _records(
    q: Questions, shape: Shape, roots: Array, rows: Array, cuts: Array, slot: Array
) -> Records | None:
    """None where a node does not fit into a word."""
    inner = shape.order
    ends = np.cumsum(2 * shape.leaves - 1)
    base = ends - (2 * shape.leaves - 1)
    at = np.zeros(q.leaf.size, np.int64)
    at[roots] = base
    pair = base[shape.tree[inner]] + 1 + 2 * shape.before[inner]
    at[q.true[inner]], at[q.false[inner]] = pair, pair + 1
    delta = pair - at[inner]
    bits = int(rows.max()).bit_length()
    if int(delta.max()).bit_length() + bits + CUT > WORD:
        return None
    words = np.full(int(ends[-1]), HIGH, np.uint32)
    words[at[inner]] = cuts & 255 | rows.astype(np.int64) << CUT | delta << (CUT + bits)
    slots = np.zeros(words.size, np.int32)
    leaves = np.flatnonzero(q.leaf & (shape.tree >= 0))
    slots[at[leaves]] = slot[leaves]
    return Records(base.astype(np.int32), words, slots, shape.depths, CUT + bits)
