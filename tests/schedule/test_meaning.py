"""Any legal schedule of any TensorFunction gives the same result; so does each rewrite.

A schedule that is refused must be refused with a ScheduleError: nothing else may come out.
"""

from __future__ import annotations

from contextlib import suppress
from random import Random

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from schedule.meaning import assert_close, check_kernel, random_inputs, shape_of
from schedule.programs import random_function, random_schedule

from naru.errors import ScheduleError
from naru.ir.expr import Var
from naru.ir.interp_tensor import run_tensor_function
from naru.ir.loop import Func
from naru.ir.tensor import TensorFunction, reads
from naru.ir.text import read_tensor_function
from naru.ir.verify import check
from naru.schedule.algorithms import copy_operand
from naru.schedule.lower import lower
from naru.schedule.prepare import PREPARE, prepare
from naru.schedule.rewrites import at_size
from naru.schedule.steps import print_schedule, read_schedule
from naru.schedule.weights import pack

ATTEMPTS = 8  # schedules that are drawn until one is legal
BOUNDED = settings(
    derandomize=True,
    deadline=None,
    max_examples=150,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
seeds = st.integers(0, 2**32 - 1)


def random_sizes(r: Random, tf: TensorFunction) -> dict[Var, int]:
    return {v: r.choice((1, 2, 7, 18)) for v in tf.symbols()}


def find_legal(r: Random, tf: TensorFunction) -> Func | None:
    """A kernel under a random schedule, which went through its text."""
    for _ in range(ATTEMPTS):
        schedule = read_schedule(print_schedule(random_schedule(r, tf)))
        try:
            return lower(tf, schedule, "f", fma=r.random() < 0.5)
        except ScheduleError:
            continue
    return None


@BOUNDED
@given(seeds)
def test_schedules_keep_the_meaning(seed: int) -> None:
    r = Random(seed)
    tf = read_tensor_function(random_function(r))
    func = find_legal(r, prepare(tf))
    assume(func is not None)
    assert func is not None
    for _ in range(2 if tf.symbols() else 1):
        check_kernel(tf, func, random_sizes(r, tf), seed)


def test_most_schedules_of_the_generator_are_legal() -> None:
    """Else the test above would test little."""
    found = 0
    for seed in range(100):
        r = Random(seed)
        found += find_legal(r, prepare(read_tensor_function(random_function(r)))) is not None
    assert found >= 90


def same(before: TensorFunction, after: TensorFunction, sizes: dict[Var, int]) -> None:
    """Both functions mean the same, apart from how their tensors lie in memory."""
    check(after)
    arrays = random_inputs(before, sizes)
    named = {v.name: n for v, n in sizes.items()}
    given = [
        pack(a, old.layout if new.layout is None else None).reshape(shape_of(new.shape, sizes))
        for a, old, new in zip(arrays, before.inputs, after.inputs, strict=True)
    ]
    want = run_tensor_function(before, arrays, sizes=named)
    got = run_tensor_function(after, given, sizes=named)
    for t, u, a, b in zip(before.outputs, after.outputs, want, got, strict=True):
        assert_close(b, pack(a, t.layout if u.layout is None else None).reshape(b.shape))


@settings(BOUNDED, max_examples=60)
@given(seeds)
def test_rewrites_keep_the_meaning_one_by_one(seed: int) -> None:
    r = Random(seed)
    tf = read_tensor_function(random_function(r))
    sizes = random_sizes(r, tf)
    for rewrite in PREPARE:
        after = rewrite(tf)
        same(tf, after, sizes)
        tf = after


@settings(BOUNDED, max_examples=30)
@given(seeds)
def test_algorithms_keep_the_meaning(seed: int) -> None:
    r = Random(seed)
    tf = prepare(read_tensor_function(random_function(r)))
    sizes = random_sizes(r, tf)
    for v in tf.symbols():
        same(tf, at_size(tf, v, sizes[v]), sizes)
    for s in tf.stages:
        for t in {r.tensor: None for r in reads(s.value) if r.tensor in tf.inputs}:
            with suppress(ScheduleError):  # not read at plain axes
                same(tf, copy_operand(tf, s, t, "A"), sizes)
