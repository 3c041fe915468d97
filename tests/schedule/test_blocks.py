"""Matrix products in blocks: what is chosen where caches are small, and that it means the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
from schedule.meaning import check_kernel

from naru.ir.text import read_tensor_function
from naru.schedule import tiles
from naru.schedule.algorithms import apply_algorithm
from naru.schedule.default import default_schedule
from naru.schedule.lower import lower
from naru.schedule.prepare import prepare
from naru.schedule.steps import Order, Schedule, print_schedule, read_schedule
from naru.targets import Target, get_target

TARGETS = ["x86-64-avx512", "x86-64-avx2", "aarch64-neon"]
PANELS = """
def f(x: f32[{m}, 20], w: f32[3, 20, 16], b: f32[48]):
    R[i: {m}, j: 48] = add[k: 20](x[i, k] * w[j // 16, k, j % 16])
    y[i: {m}, j: 48] = max(R[i, j] + b[j], 0.0)
    return y
"""
ROWS = """
def f(x: f32[{m}, 20], w: f32[20, 41]):
    R[i: {m}, j: 41] = add[k: 20](x[i, k] * w[k, j])
    y[i: {m}, j: 41] = R[i, j]
    return y
"""
HEADS = """
def f(x: f32[3, 29, {k}], w: f32[{k}, 3, 11]):
    R[i: 29, h: 3, j: 11] = add[k: {k}](x[h, i, k] * w[k, h, j])
    y[i: 29, h: 3, j: 11] = R[i, h, j]
    return y
"""
ITSELF = """
def f(x: f32[40, 3, 11]):
    R[h: 3, i: 11, j: 11] = add[k: 40](x[k, h, i] * x[k, h, j])
    y[h: 3, i: 11, j: 11] = R[h, i, j]
    return y
"""


NEEDED_WHOLE = """
def f(x: f32[8, 8]):
    R[i: 8] = add[k: 8](x[i, k])
    S[i: 8] = add[k: 8](R[k] * x[i, k])
    y[i: 8] = R[i] + S[i]
    return y
"""


def scheduled(text: str, target: Target) -> Schedule:
    """The default schedule, after the kernel was compared, also as read back from its text."""
    tf = prepare(read_tensor_function(text))
    new, schedule = default_schedule(tf, target)
    check_kernel(tf, lower(new, schedule, "f"), {})
    read = read_schedule(print_schedule(schedule))
    check_kernel(tf, lower(apply_algorithm(tf, read.algorithm), read, "f"), {})
    return schedule


def order_of(schedule: Schedule) -> tuple[str, ...]:
    """The loops of the result."""
    return next(s.loops for s in schedule.steps if isinstance(s, Order) and s.stage == "out")


@pytest.mark.parametrize("m", [150, 147])
@pytest.mark.parametrize("name", TARGETS)
def test_rows_in_blocks(name: str, m: int) -> None:
    target = replace(get_target(name), l2=2**12)
    order = order_of(scheduled(PANELS.format(m=m), target))
    assert order[:3] == ("i0.o", "i1.o", "i0.i.o")


@pytest.mark.parametrize("m", [100, 97])
@pytest.mark.parametrize("name", TARGETS)
def test_columns_in_blocks_where_weights_are_many(
    name: str, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "FEW_WEIGHTS", 0.1)
    target = replace(get_target(name), l2=2**12)
    assert order_of(scheduled(PANELS.format(m=m), target))[:2] == ("i1.o", "i0.o")


@pytest.mark.parametrize(("l2", "order"), [(2**20, ("i0.o", "i1.o")), (2**12, ("i1.o", "i0.o"))])
@pytest.mark.parametrize("name", TARGETS)
def test_rows_meet_all_columns_outside_of_panels(
    name: str, l2: int, order: tuple[str, ...]
) -> None:
    assert order_of(scheduled(ROWS.format(m=50), replace(get_target(name), l2=l2)))[:2] == order


@pytest.mark.parametrize("k", [40, 24])
@pytest.mark.parametrize("name", TARGETS)
def test_scattered_operands_are_copied(name: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "PAGES", 0)
    monkeypatch.setattr(tiles, "COPY_FROM", 8)
    schedule = scheduled(HEADS.format(k=k), get_target(name))
    assert schedule.algorithm == ("copy w",)


def test_an_operand_that_is_read_twice_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "PAGES", 0)
    monkeypatch.setattr(tiles, "COPY_FROM", 8)
    assert scheduled(ITSELF, get_target("x86-64-avx2")).algorithm == ("direct",)


def test_what_one_reader_needs_whole_is_computed_whole() -> None:
    tf = read_tensor_function(NEEDED_WHOLE)
    steps = read_schedule("compute_at('R', 'y', 'i')\ncompute_at('S', 'y', 'i')")
    check_kernel(tf, lower(tf, steps, "f"), {})
