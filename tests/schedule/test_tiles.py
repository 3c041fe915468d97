"""Tiles that cross the lines of an image, and panels that are fetched ahead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from schedule.meaning import check_kernel

from naru.ir.expr import Var
from naru.ir.loop import For, Func, Invoke, Ref, Stmt
from naru.ir.simplify import evaluate
from naru.ir.text import read_tensor_function
from naru.schedule import split_sums
from naru.schedule.algorithms import apply_algorithm
from naru.schedule.default import default_schedule
from naru.schedule.kernels import Kernels
from naru.schedule.lower import lower
from naru.schedule.prepare import prepare
from naru.schedule.steps import (
    Prefetch,
    Schedule,
    Split,
    Unroll,
    Vectorize,
    print_schedule,
    read_schedule,
)
from naru.schedule.tiles import choose_tile, equal_parts
from naru.targets import Target, get_target

TARGETS = ["x86-64-avx512", "x86-64-avx2", "aarch64-neon"]
IMAGE = """
def f(x: f32[{h}, {w}, {c}], w: f32[3, 2, 2, {c}, 16], r: f32[{y}, {x}, 48]):
    R[i: {y}, j: {x}, n: 48] = add[u: 2, v: 2, k: {c}](x[i + u, j + v, k] * w[n // 16, u, v, k, n % 16])
    y[i: {y}, j: {x}, n: 48] = max(R[i, j, n] + r[i, j, n], 0.0)
    return y
"""  # noqa: E501
FRAMED = """
def f(x: f32[8, 8, 8], w: f32[3, 2, 2, 8, 16]):
    R[i: 7, j: 7, n: 48] = add[u: 2, v: 2, k: 8](x[i + u, j + v, k] * w[n // 16, u, v, k, n % 16])
    y[i: 8, j: 8, n: 48] = select(i > 0 and j > 0, R[max(i - 1, 0), max(j - 1, 0), n], 0.0)
    return y
"""
PRODUCT = """
def f(x: f32[{m}, {k}], w: f32[5, {k}, 16]{sizes}):
    R[i: {m}, j: 80] = add[k: {k}](x[i, k] * w[j // 16, k, j % 16])
    y[i: {m}, j: 80] = max(R[i, j], 0.0)
    return y
"""


def image(h: int, w: int, c: int) -> str:
    """A convolution of 2 x 2 taps with a residual."""
    return IMAGE.format(h=h, w=w, c=c, y=h - 1, x=w - 1)


def scheduled(text: str, target: Target, **sizes: int) -> tuple[Schedule, Func]:
    """The default schedule and kernel, after this was compared, also as read back from its text."""
    tf = prepare(read_tensor_function(text))
    new, schedule = default_schedule(tf, target)
    func = lower(new, schedule, "f")
    values = {v: sizes[v.name] for v in tf.symbols()}
    check_kernel(tf, func, values)
    read = read_schedule(print_schedule(schedule))
    check_kernel(tf, lower(apply_algorithm(tf, read.algorithm), read, "f"), values)
    return schedule, func


# --- tiles across lines ---------------------------------------------------------------------------


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of more than 30 products are divided."""
    for name, value in (("LONG", 30), ("PART", 20), ("MOST", 24)):
        monkeypatch.setattr(split_sums, name, value)


@pytest.mark.parametrize(("h", "w"), [(8, 8), (6, 8)])
def test_tiles_cross_short_lines(h: int, w: int) -> None:
    schedule, _ = scheduled(image(h, w, 5), get_target("x86-64-avx2"))
    assert schedule.algorithm == ("lines R0",)


@pytest.mark.usefixtures("short_parts")
def test_tiles_of_parts_cross_lines() -> None:
    schedule, _ = scheduled(image(8, 8, 20), get_target("x86-64-avx2"))
    assert schedule.algorithm == ("lines R0", "parts R0")


@pytest.mark.parametrize(("h", "w"), [(8, 8), (6, 5), (4, 6)])
@pytest.mark.parametrize("name", TARGETS)
def test_small_images_on_every_target(name: str, h: int, w: int) -> None:
    scheduled(image(h, w, 5), get_target(name))


@pytest.mark.parametrize(("h", "w"), [(8, 13), (8, 25), (8, 9), (15, 15)])
def test_lines_that_make_whole_tiles_stay(h: int, w: int) -> None:
    schedule, _ = scheduled(image(h, w, 5), get_target("x86-64-avx2"))
    assert schedule.algorithm[0] == "direct"


def test_a_region_of_a_framed_image_keeps_its_lines() -> None:
    tf = read_tensor_function(FRAMED)
    _, func, text = Kernels(get_target("x86-64-avx2")).lower(prepare(tf), "f")
    check_kernel(tf, func, {})
    assert "lines" not in text
    assert "where out[1:8, 1:8, 0:48]" in text


@pytest.mark.parametrize("lanes", [8, 16])
@pytest.mark.parametrize("m", [*range(1, 15), 28, 49, None])
def test_tile_fits_the_registers(m: int | None, lanes: int) -> None:
    target = get_target("x86-64-avx2" if lanes == 8 else "x86-64-avx512")
    for n in (8, 16, 48, 512, None):
        for p in (None, 1, 7):
            t = choose_tile(m, n, target, lanes, p=p)
            taken = t.rows * t.lines * t.vectors + min(t.vectors, t.rows * t.lines) + 1
            assert taken <= target.registers


WINDOW = """
def f(x: f32[{h}, {w}, 32], w: f32[3, {taps}, 32]):
    R[i: 5, j: 12, n: 32] = add[u: 3, v: {taps}](x[i + u, j * {stride} + v, n] * w[u, v, n])
    y[i: 5, j: 12, n: 32] = max(R[i, j, n], 0.0)
    return y
"""


@pytest.mark.parametrize(("taps", "stride", "rows"), [(3, 1, 4), (3, 2, 3), (5, 1, 2), (5, 2, 2)])
def test_windows_of_wasm_fit_its_registers(taps: int, stride: int, rows: int) -> None:
    """Neighbours share what they read: 4 of stride 1 read 6 vectors and 3 weights."""
    text = WINDOW.format(taps=taps, stride=stride, h=7, w=11 * stride + taps)
    schedule, _ = scheduled(text, get_target("wasm32-simd128"))
    assert Split("out", "i1", *equal_parts(12, rows)) in schedule.steps
    assert Unroll("R0", "k1") in schedule.steps


def test_wide_windows_of_wasm_are_not_unrolled() -> None:
    text = WINDOW.format(taps=7, stride=1, h=7, w=18)
    schedule, _ = scheduled(text, get_target("wasm32-simd128"))
    assert Unroll("R0", "k1") not in schedule.steps


# --- small groups ---------------------------------------------------------------------------------

GROUPED = """
def f(x: f32[5, 6, {c}], w: f32[{n}, 2, {c_group}, 16]):
    R[i: 5, j: 5, n: {c}] = add[v: 2, k: {c_group}](x[i, j + v, n // {c_group} * {c_group} + k] * w[n // 16, v, k, n % 16])
    y[i: 5, j: 5, n: {c}] = max(R[i, j, n], 0.0)
    return y
"""  # noqa: E501


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("name", [*TARGETS, "wasm32-simd128", "x86-64-baseline"])
def test_small_groups_share_the_lanes(name: str, size: int) -> None:
    text = GROUPED.format(c=48, n=3, c_group=size)
    schedule, func = scheduled(text, get_target(name))
    assert any(isinstance(s, Vectorize) and s.stage == "R0" for s in schedule.steps)
    crossed = schedule.algorithm == ("lines R0",)  # the axes of lines and of pixels are one
    rows = "i0" if crossed else "i1"
    assert any(isinstance(s, Split) and s.axis == rows for s in schedule.steps)  # rows of a tile
    assert [len(b.shape) for b in func.buffers] == [3, 4, 2 if crossed else 3]  # none for groups


@pytest.mark.parametrize("size", [3, 6, 12])
def test_other_groups_are_an_axis(size: int) -> None:
    text = GROUPED.replace("w[n // 16, v, k, n % 16]", "w[v, k, n]")
    text = text.replace("w: f32[{n}, 2, {c_group}, 16]", "w: f32[2, {c_group}, {c}]")
    scheduled(text.format(c=48, c_group=size), get_target("x86-64-avx2"))


# --- fetching ahead -------------------------------------------------------------------------------


def fetched(func: Func, sizes: dict[Var, int]) -> set[int]:
    """The elements that a kernel's hints name, by number in the buffer."""
    return set(_fetched(func.body, dict(sizes)))


def _fetched(body: tuple[Stmt, ...], values: dict[Var, int]) -> Iterator[int]:
    for s in body:
        if isinstance(s, Invoke) and s.callee == "prefetch":
            yield from (evaluate(a.offset, values) // 4 for a in s.args if isinstance(a, Ref))
        elif isinstance(s, For):
            for i in range(evaluate(s.start, values), evaluate(s.stop, values)):
                yield from _fetched(s.body, {**values, s.var: i})


@pytest.mark.parametrize(
    ("m", "k"),
    [
        ("23", 40),
        ("23", 41),
        pytest.param("50", 40, marks=pytest.mark.slow),
        pytest.param("m", 40, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", TARGETS)
def test_the_next_panel_is_fetched_whole(name: str, m: str, k: int) -> None:
    target = replace(get_target(name), l2=5 * k * 16 * 4 - 1)
    text = PRODUCT.format(m=m, k=k, sizes="")
    schedule, func = scheduled(text, target, m=90)
    steps = [s for s in schedule.steps if isinstance(s, Prefetch)]
    assert len(steps) == 1
    lines = {at // 16 for at in fetched(func, dict.fromkeys(func.sizes, 90))}
    assert set(range(steps[0].ahead * k, 5 * k)) <= lines
    assert min(lines) >= steps[0].ahead * k


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("m", ["23", pytest.param("m", marks=pytest.mark.slow)])
def test_panels_of_sums_in_parts(m: str) -> None:
    test_the_next_panel_is_fetched_whole("x86-64-avx2", m, 40)


def test_panels_are_fetched_by_each_block_of_rows() -> None:
    """120 rows of 40, of which L2 holds a few beside the weights' next panels."""
    test_the_next_panel_is_fetched_whole("x86-64-avx2", "120", 40)
    target = replace(get_target("x86-64-avx2"), l2=5 * 40 * 16 * 4 - 1)
    schedule, _ = scheduled(PRODUCT.format(m="120", k=40, sizes=""), target)
    (step,) = (s for s in schedule.steps if isinstance(s, Prefetch))
    assert 0 < step.block < 120


@pytest.mark.parametrize(
    ("text", "l2"),
    [
        (PRODUCT.format(m="23", k=40, sizes=""), 2**20),
        pytest.param(image(18, 18, 5), 2**12, marks=pytest.mark.slow),
    ],
)
def test_what_is_at_hand_or_met_by_many_rows_is_not_fetched(text: str, l2: int) -> None:
    target = replace(get_target("x86-64-avx2"), l2=l2)
    schedule, _ = scheduled(text, target)
    assert not any(isinstance(s, Prefetch) for s in schedule.steps)
