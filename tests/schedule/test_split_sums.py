"""Long sums in parts: where they are cut, that they mean the same, and in any order of loops."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from schedule.meaning import check_kernel
from schedule.test_meaning import BOUNDED, same

from naru.errors import ScheduleError
from naru.ir.interp_tensor import run_tensor_function
from naru.ir.simplify import known
from naru.ir.tensor import Stage, TensorFunction
from naru.ir.text import read_tensor_function
from naru.schedule import split_sums
from naru.schedule.algorithms import apply_algorithm
from naru.schedule.default import default_schedule
from naru.schedule.lower import lower
from naru.schedule.prepare import prepare
from naru.schedule.split_sums import split_sum
from naru.schedule.steps import (
    ComputeAt,
    Order,
    Schedule,
    Split,
    Unroll,
    Vectorize,
    print_schedule,
    read_schedule,
)
from naru.targets import get_target


def product(*k: int) -> tuple[TensorFunction, Stage]:
    """y = relu(x . w) with a sum over as many axes as there are numbers."""
    dims = ", ".join(map(str, k))
    over = ", ".join(f"k{n}: {size}" for n, size in enumerate(k))
    at = ", ".join(f"k{n}" for n in range(len(k)))
    tf = read_tensor_function(
        f"def f(x: f32[7, {dims}], w: f32[{dims}, 21]):\n"
        f"    R[i: 7, j: 21] = add[{over}](x[i, {at}] * w[{at}, j])\n"
        "    y[i: 7, j: 21] = max(R[i, j], 0.0)\n"
        "    return y\n"
    )
    return tf, tf.stages[0]


def extents(s: Stage) -> tuple[int | None, ...]:
    return tuple(known(a.extent) for a in s.reduction)


@pytest.mark.parametrize(
    ("k", "outer", "inner"),
    [
        ((768,), None, None),  # short
        ((1152,), (3,), (384,)),
        ((1000,), None, None),
        ((1500,), (4,), (375,)),
        ((4096,), (8,), (512,)),
        ((25088,), (64,), (392,)),
        ((1021,), None, None),  # a prime
        ((3, 3, 64), None, None),
        ((3, 3, 128), (3,), (3, 128)),
        ((3, 3, 256), (3, 3), (256,)),
        ((3, 3, 512), (3, 3), (512,)),
        ((3, 3, 1024), (3, 3, 2), (512,)),
        ((11, 11, 3), None, None),
        ((1021, 4), None, None),  # parts of four would be nothing but overhead
    ],
)
def test_where_sums_are_cut(
    k: tuple[int, ...], outer: tuple[int, ...] | None, inner: tuple[int, ...] | None
) -> None:
    found = split_sum(*product(*k))
    assert (None if found is None else extents(found[1])) == outer
    assert (None if found is None else extents(found[2])) == inner


def test_what_is_no_sum_of_known_length_stays() -> None:
    tf = read_tensor_function(
        "def f(x: f32[N, 4096]):\n"
        "    R[i: N] = max[k: 4096](x[i, k])\n"
        "    S[i: 4096] = add[k: N](x[k, i])\n"
        "    y[i: N, j: 4096] = R[i] + S[j]\n"
        "    return y\n"
    )
    assert [split_sum(tf, s) for s in tf.stages[:2]] == [None, None]


@pytest.mark.parametrize("k", [(12,), (3, 4), (2, 3, 8)])
def test_the_meaning_stays(k: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_sums, "LONG", 8)
    monkeypatch.setattr(split_sums, "PART", 6)
    monkeypatch.setattr(split_sums, "MOST", 8)
    tf, stage = product(*k)
    found = split_sum(tf, stage)
    assert found is not None
    same(tf, found[0], {})


@pytest.mark.parametrize("target", ["x86-64-avx512", "x86-64-avx2", "aarch64-neon"])
@pytest.mark.parametrize("k", [(12,), (3, 4), (2, 3, 8)])
def test_default_schedules(
    k: tuple[int, ...], target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_sums, "LONG", 8)
    monkeypatch.setattr(split_sums, "PART", 6)
    monkeypatch.setattr(split_sums, "MOST", 8)
    tf = prepare(product(*k)[0])
    new, schedule = default_schedule(tf, get_target(target))
    assert len(new.stages) == 3
    check_kernel(tf, lower(new, schedule, "f"), {})
    # And again from the text.
    read = read_schedule(print_schedule(schedule))
    check_kernel(tf, lower(apply_algorithm(tf, read.algorithm), read, "f"), {})


@settings(BOUNDED, max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_a_stage_in_any_loop_of_a_sum(seed: int) -> None:
    r = Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split_sums, "LONG", 8)
        patch.setattr(split_sums, "PART", 6)
        patch.setattr(split_sums, "MOST", 8)
        found = split_sum(*product(r.choice((10, 12, 35))))
    assert found is not None
    new, whole, parts = found
    sums, part = whole.tensor.name, parts.tensor.name
    steps = [
        ComputeAt(sums, "y", r.choice(("", "i", "j.o"))),
        Split("y", "j", (8,)),
        Vectorize("y", "j.i"),
        Split(sums, "j", (4,)),
        Vectorize(sums, "j.i"),
    ]
    steps = [*steps[1:], steps[0]]
    loops = ["i", "j.o", "k0q"]
    r.shuffle(loops)
    steps.append(Order(sums, (*loops, "j.i")))
    steps.append(ComputeAt(part, sums, r.choice(("", *loops))))
    steps += [Split(part, "j", (r.choice((4, 8)),)), Vectorize(part, "j.i")]
    if r.random() < 0.5:
        steps += [Split(part, "k0r", (2, 1)), Unroll(part, "k0r.i")]
    try:
        func = lower(new, Schedule(tuple(steps)), "f")
    except ScheduleError:
        assume(condition=False)
        return
    check_kernel(new, func, {}, seed)


def test_parts_make_long_sums_more_accurate() -> None:
    tf, stage = product(25088)
    found = split_sum(tf, stage)
    assert found is not None
    rng = np.random.default_rng(0)
    x, w = rng.random((7, 25088), np.float32), rng.random((25088, 21), np.float32)
    # In order, one at a time, as a kernel adds.
    exact = x.astype(np.float64) @ w.astype(np.float64)
    whole = np.zeros((7, 21), np.float32)
    for k in range(25088):
        whole += x[:, k, None] * w[None, k]
    sums = np.zeros((7, 21), np.float32)
    for q in range(64):
        part = np.zeros((7, 21), np.float32)
        for k in range(392 * q, 392 * (q + 1)):
            part += x[:, k, None] * w[None, k]
        sums += part
    assert np.abs(sums - exact).max() * 4 < np.abs(whole - exact).max()
    got = run_tensor_function(found[0], [x, w])[0]
    np.testing.assert_allclose(got, exact, rtol=1e-5)
