"""Placement in the arena: nothing that is alive together overlaps, at any size of the symbols."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naru.ir.expr import Expr, Var
from naru.ir.graph import Layout, TensorType
from naru.ir.simplify import add, evaluate, floordiv, index, known, mul, round_up
from naru.schedule.memory import ALIGN, HINT, Interval, Placement, bytes_of, place

N, M = Var("n"), Var("m", lo=1, hi=512)
# Far below and above the hint too: the order of buffers by size is then another one.
SIZES = [{N: n, M: m} for n, m in ((0, 1), (1, 512), (3, 7), (HINT, 64), (4097, 1), (10**6, 7))]


def evaluated(p: Placement, sizes: Mapping[Var, int]) -> tuple[list[int], int]:
    """Offsets and total at given sizes."""
    values = dict(sizes)
    for v, e in p.lets:
        values[v] = evaluate(e, values)
    return [evaluate(o, values) for o in p.offsets], evaluate(p.total, values)


def check(buffers: Sequence[Interval], sizes: Mapping[Var, int]) -> int:
    """The total, after making sure that the placement is right at these sizes."""
    offsets, total = evaluated(place(buffers), sizes)
    taken = [evaluate(b.size, sizes) for b in buffers]
    assert all(at >= 0 and at % ALIGN == 0 for at in offsets)
    ends = [at + size for at, size in zip(offsets, taken, strict=True)]
    assert total == max(ends, default=0)
    for j, k in itertools.combinations(range(len(buffers)), 2):
        a, b = buffers[j], buffers[k]
        together = a.start <= b.end and b.start <= a.end
        if together and taken[j] and taken[k]:
            assert ends[j] <= offsets[k] or ends[k] <= offsets[j], (j, k)
    return total


def in_blocks(e: int | Expr) -> Expr:
    return round_up(index(e), ALIGN)


sizes_of_buffers = st.one_of(
    st.integers(0, 40).map(lambda k: index(k * ALIGN)),
    st.integers(1, 5).map(lambda k: in_blocks(mul(N, 4 * k))),
    st.integers(1, 5).map(lambda k: in_blocks(mul(M, N, k))),
    st.integers(1, 2000).map(lambda k: in_blocks(add(mul(floordiv(N, 2), 4), k))),
)
intervals = st.builds(
    lambda size, start, length: Interval(size, start, start + length),
    sizes_of_buffers,
    st.integers(0, 12),
    st.integers(0, 6),
)


@settings(derandomize=True, deadline=None, max_examples=40, database=None)
@given(st.lists(intervals, max_size=12))
def test_buffers_alive_together_do_not_overlap(buffers: list[Interval]) -> None:
    for sizes in SIZES:
        check(buffers, sizes)


@settings(derandomize=True, deadline=None, max_examples=40, database=None)
@given(st.lists(intervals, max_size=8))
def test_total_is_no_more_than_all_side_by_side(buffers: list[Interval]) -> None:
    for sizes in SIZES[::2]:
        assert check(buffers, sizes) <= sum(evaluate(b.size, sizes) for b in buffers)


def static(*rows: tuple[int, int, int]) -> list[Interval]:
    return [Interval(index(size), start, end) for size, start, end in rows]


def test_holes_are_used_when_sizes_are_known() -> None:
    """While d (64) lives with a and c, the place between them, where b was, is free."""
    buffers = static((640, 0, 3), (256, 0, 1), (192, 0, 3), (64, 2, 3))
    p = place(buffers)
    assert [known(o) for o in p.offsets] == [0, 640, 896, 640]
    assert known(p.total) == 1088
    assert not p.lets


def test_memory_is_used_again() -> None:
    chain = static(*((4096, k, k + 1) for k in range(20)))
    assert known(place(chain).total) == 2 * 4096


def test_symbolic_chain_needs_two_places() -> None:
    size = in_blocks(mul(N, 4))
    chain = [Interval(size, k, k + 1) for k in range(20)]
    for n in (1, 1000):
        assert check(chain, {N: n}) == 2 * evaluate(size, {N: n})


def test_order_is_fixed_at_the_hint_and_right_elsewhere() -> None:
    """At the hint a is the larger one, at n = 10000 b is; both orders must be free of overlap."""
    a, b = Interval(index(4096), 0, 1), Interval(in_blocks(mul(N, 4)), 0, 1)
    p = place([a, b])
    assert evaluated(p, {N: 10000}) == evaluated(p, {N: 10000})
    assert [evaluated(p, {N: n})[0] for n in (1, 10000)] == [[0, 4096], [0, 4096]]
    assert check([a, b], {N: 10000}) == 4096 + 40000


def test_long_symbolic_chains_stay_small() -> None:
    """The formula of a deep model is shared by `lets`, not written out again and again."""
    buffers = [Interval(in_blocks(mul(N, 4 * (k % 7 + 1))), k, k + 2) for k in range(200)]
    p = place(buffers)
    assert len(p.lets) <= 201
    check(buffers, {N: 5})


@pytest.mark.parametrize(
    ("dtype", "shape", "expected"),
    [
        ("f32", (3, 5), 64),
        ("f32", (16,), 64),
        ("f32", (17,), 128),
        ("i64", (), 64),
        ("u8", (0,), 0),
    ],
)
def test_bytes_of_a_tensor(dtype: str, shape: tuple[int, ...], expected: int) -> None:
    dims = tuple(map(index, shape))
    order = Layout(tuple(reversed(range(len(shape)))))
    for layout in (None, order):
        assert known(bytes_of(TensorType(dtype, dims, layout))) == expected
