"""Schedules as text, and every reason for which a step is refused."""

from __future__ import annotations

import re

import pytest

from naru.errors import ScheduleError
from naru.ir.loop import Func
from naru.ir.text import read_tensor_function
from naru.schedule.algorithms import apply_algorithm
from naru.schedule.lower import lower
from naru.schedule.steps import (
    STEPS,
    ComputeAt,
    Expect,
    Order,
    Parallel,
    Prefetch,
    Rfactor,
    Schedule,
    Split,
    Step,
    Tensorize,
    Unroll,
    Vectorize,
    print_schedule,
    read_schedule,
)

EXAMPLES: tuple[Step, ...] = (
    Split("C", "m", (14, 13), (2, 1)),
    Split("C", "m", (16,)),
    Order("C", ("m.o", "n", "m.i")),
    Order("s", ()),
    Unroll("C", "m.i"),
    Vectorize("C", "n.i"),
    Parallel("C", "m.o"),
    ComputeAt("R", "C", "m.o"),
    ComputeAt("R", "C", ""),
    Rfactor("R", "k", 16),
    Tensorize("R", "m", "n", "k", "dot"),
    Prefetch("R", "k.o", "w", ("i", "j"), 1, 4),
    Prefetch("R", "k.o", "w", ("i",), 1, 1, block=42),
    Expect("C", "m.o", "m.i"),
)


# --- text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", EXAMPLES, ids=str)
def test_step_is_read_back(step: Step) -> None:
    s = Schedule((step,), ("direct", "copy x"))
    text = print_schedule(s)
    assert read_schedule(text) == s
    assert print_schedule(read_schedule(text)) == text


def test_examples_cover_all_steps() -> None:
    assert {type(s) for s in EXAMPLES} == set(STEPS.values())


def test_whole_schedule_is_read_back() -> None:
    s = Schedule(EXAMPLES)
    assert read_schedule(print_schedule(s)) == s
    assert read_schedule("") == Schedule()


@pytest.mark.parametrize(
    "line",
    [
        "splitt('C', 'm', (14,))",
        "split('C', 'm')",
        "split('C', 'm', (14,), (1,), (2,))",
        "split('C', 'm', 14)",
        "split('C', 'm', ('a',))",
        "split('C', 'm', (1.5,))",
        "split('C', m, (14,))",
        "split(axis='m', stage='C', sizes=(14,))",
        "unroll('C', 3)",
        "rfactor('C', 'k', True)",
        "order('C', ['m', 'n'])",
        "order('C', ('m', 1))",
        "algorithm(1)",
        "split('C', 'm', (14,)",
        "split",
        "C.split('m')",
        "",
    ],
)
def test_malformed_line_is_named(line: str) -> None:
    text = f"algorithm('direct')\n{line}\nunroll('C', 'm')"
    with pytest.raises(ScheduleError) as caught:
        read_schedule(text)
    assert str(caught.value).startswith("schedule line 2: expected a step such as ")
    assert repr(line) in str(caught.value)
    assert "the steps are split, order, unroll" in str(caught.value)


@pytest.mark.parametrize(
    "line", ["fourier x", "winograd R", "copy y", "join", "copy", "parts R", "parts x"]
)
def test_unknown_algorithm_is_named(line: str) -> None:
    with pytest.raises(ScheduleError, match="'copy INPUT', 'join INPUT' or, of a long sum, 'parts"):
        apply_algorithm(read_tensor_function(PRODUCT), ("direct", line))


# --- legality ------------------------------------------------------------------------------------

PRODUCT = """
def f(x: f32[8, 24], w: f32[24, 32]):
    R[i: 8, j: 32] = add[k: 24](x[i, k] * w[k, j])
    y[i: 8, j: 32] = max(R[i, j], 0.0)
    return y
"""
PANELS = """
def f(x: f32[8, 24], w: f32[2, 24, 16]):
    R[i: 8, j: 32] = add[k: 24](x[i, k] * w[j // 16, k, j % 16])
    y[i: 8, j: 32] = max(R[i, j], 0.0)
    return y
"""
PLAIN = """
def f(x: f32[20, 16]):
    y[i: 20, j: 16] = x[i, j] * 2.0
    return y
"""
SYMBOLIC = """
def f(x: f32[n, m], *, n: index(1, 512)):
    R[i: n] = add[k: m](x[i, k])
    y[i: n, j: m] = x[i, j] - R[i]
    return y
"""
SOFTMAX = """
def f(x: f32[8, 24]):
    M[i: 8] = max[k: 24](x[i, k])
    S[i: 8] = add[k: 24](exp(x[i, k] - M[i]))
    y[i: 8, j: 24] = exp(x[i, j] - M[i]) / S[i]
    return y
"""
TWO_RESULTS = """
def f(x: f32[8, 24]):
    R[i: 8] = add[k: 24](x[i, k])
    y[i: 8] = R[i] * 2.0
    z[i: 8] = R[i] + 1.0
    return y, z
"""
TWO_PLACES = """
def f(x: f32[8, 8]):
    R[i: 8] = add[k: 8](x[i, k])
    y[i: 8, j: 8] = R[i] + R[j]
    return y
"""
SHIFTED = """
def f(x: f32[8, 8]):
    R[i: 8] = add[k: 8](x[i, k])
    y[i: 4] = R[i + 1]
    return y
"""
KEPT = """
def f(x: f32[8, 8]):
    E[i: 8, j: 8] = exp(x[i, j])
    S[i: 8] = add[k: 8](E[i, k])
    y[i: 8, j: 8] = E[i, j] / S[i]
    return y
"""
MOVED = """
def f(x: f32[8, 8]):
    E[i: 8, j: 8] = exp(x[i, j])
    y[i: 8, j: 8] = E[j, i] + E[i, j]
    return y
"""
COLUMNS = """
def f(x: f32[8, 8]):
    E[i: 8, j: 8] = exp(x[i, j])
    S[j: 8] = add[k: 8](E[k, j])
    y[i: 8, j: 8] = E[i, j] / S[j]
    return y
"""
LARGE = """
def f(x: f32[8, 300000]):
    R[j: 300000] = add[k: 8](x[k, j])
    y[j: 300000] = R[j] * 2.0
    return y
"""
REDUCED_RESULT = """
def f(x: f32[8, 24]):
    y[i: 8] = add[k: 24](x[i, k])
    return y
"""
READ_RESULT = """
def f(x: f32[8]):
    y[i: 8] = x[i] * 2.0
    z[i: 8] = y[i] + 1.0
    return y, z
"""
AT = "compute_at('R', 'y', 'i')"  # a place where R can be

REFUSED = [
    # Names that do not exist.
    ("unroll('z', 'i')", PLAIN, "there is no stage 'z'\n  try: ['y']"),
    ("unroll('y', 'k')", PLAIN, "there is no loop 'k'\n  try: the loops are ['i', 'j']"),
    ("split('y', 'k', (4,))", PLAIN, "there is no loop 'k'"),
    ("split('y', 'i', (4,)); unroll('y', 'i')", PLAIN, "the loops are ['i.o', 'i.i', 'j']"),
    ("rfactor('R', 'z', 4)", PRODUCT, "there is no loop 'z'"),
    ("tensorize('R', 'i', 'j', 'z', 'dot')", PRODUCT, "there is no loop 'z'"),
    # Split.
    ("split('y', 'i', ())", PLAIN, "expected sizes of at least 1"),
    ("split('y', 'i', (4, 0))", PLAIN, "expected sizes of at least 1"),
    ("split('y', 'i', (4, 2), (1,))", PLAIN, "expected one count of at least 0 for each size"),
    ("split('y', 'i', (4,), (-1,))", PLAIN, "expected one count of at least 0 for each size"),
    ("split('y', 'i', (8,), (3,))", PLAIN, "cover more than the extent, 24 of 20"),
    ("split('y', 'j', (8,), (1,))", SYMBOLIC + AT, "cover more than the extent, 8 of m"),
    ("split('y', 'i', (16,))", PLAIN, "not covered by whole tiles and 'i.i' is not vectorised"),
    ("split('y', 'j', (16,))", SYMBOLIC + AT, "try: end the sizes with 1, or give counts"),
    ("vectorize('y', 'j'); split('y', 'j', (4,))", PLAIN, "'j' has a vectorize step"),
    # Order.
    ("order('y', ('i',))", PLAIN, "expected each loop of the stage once"),
    ("order('y', ('i', 'j', 'j'))", PLAIN, "try: its loops are ['i', 'j']"),
    ("split('y', 'i', (5,)); order('y', ('i.i', 'j', 'i.o'))", PLAIN, "outside of 'i.o'"),
    (
        "split('y', 'i', (10,)); split('y', 'i.i', (5,));"
        "order('y', ('i.i.o', 'i.o', 'j', 'i.i.i'))",
        PLAIN,
        "'i.i.o' is one tile of 'i'",
    ),
    # Unroll, vectorize, parallel.
    ("unroll('y', 'j')", SYMBOLIC + AT, "unroll 'j': the extent is not constant"),
    ("vectorize('y', 'j')", SYMBOLIC + AT, "vectorize 'j': the extent is not constant"),
    ("unroll('y', 'j'); vectorize('y', 'j')", PLAIN, "'j' has a unroll step already"),
    ("split('y', 'j', (4,)); vectorize('y', 'j.o')", PLAIN, "which may differ in size"),
    ("vectorize('R', 'k')", PRODUCT + AT, "a reduction loop\n  try: use rfactor on its axis"),
    ("parallel('R', 'k')", PRODUCT + AT, "iterations of a reduction depend on each other"),
    (
        "split('y', 'j', (4,)); parallel('y', 'i'); parallel('y', 'j.i')",
        PLAIN,
        "'i' is parallel already, and other loops stand between them",
    ),
    ("parallel('R', 'j')", PRODUCT + AT, "each thread computes the stage for itself"),
    # Where a stage is computed.
    ("", PRODUCT, "stage 'R' is placed nowhere\n  try: add a compute_at step"),
    ("compute_at('R', 'q', 'i')", PRODUCT, "'q' is no other stage"),
    (
        "compute_at('S', 'y', 'i'); compute_at('M', 'S', 'i')",
        SOFTMAX,
        "'y' reads it too, and is not",
    ),
    (
        "compute_at('S', 'y', 'i'); rfactor('S', 'k', 8); compute_at('M', 'S', 'i')",
        SOFTMAX,
        "its loops are those of an rfactor",
    ),
    ("compute_at('R', 'y', 'z')", PRODUCT, "there is no loop 'z'\n  try: the loops are ['i', 'j']"),
    (f"{AT}; split('y', 'i', (4,))", PRODUCT, "there is no loop 'i'"),
    ("vectorize('y', 'j'); compute_at('R', 'y', 'j')", PRODUCT, "'j' is vectorised, so a tile"),
    ("prefetch('R', 'i', 'w', ('i',), 1, 1)", PRODUCT, "'i' is no loop of a reduction"),
    ("prefetch('R', 'k', 'v', ('i',), 1, 1)", PRODUCT, "to read panels of 'v', once"),
    ("prefetch('R', 'k', 'w', ('i',), 1, 1)", PRODUCT, "to read panels of 'w', once"),
    ("prefetch('R', 'k.o', 'w', ('i',), 1, 1)", PRODUCT, "there is no loop 'k.o'"),
    ("prefetch('R', 'k', 'w', ('q',), 1, 1)", PANELS, "expected axes of the stage for the rows"),
    ("compute_at('y', 'y', 'i')", PLAIN, "it is a result, which has a nest of its own"),
    ("compute_at('M', 'y', 'j'); compute_at('S', 'y', 'i')", SOFTMAX, "'S' reads it too"),
    ("compute_at('R', 'y', 'i')", TWO_RESULTS, "'z' reads it too, and is not computed inside"),
    ("compute_at('R', 'y', '')", SYMBOLIC, "axis 'i' has no constant extent there"),
    (
        "compute_at('R', 'y', 'i')",
        TWO_PLACES,
        "not read at plain axes of 'y', the same ones wherever it is read",
    ),
    ("compute_at('R', 'y', 'i')", SHIFTED, "it is not read at plain axes of 'y'"),
    ("compute_at('E', 'y', 'i', 'there')", KEPT, "expected '' or 'result' for the memory"),
    ("compute_at('R', 'y', 'i', 'result')", PRODUCT, "expected a plain stage and the stage of"),
    ("compute_at('E', 'y', 'i', 'result')", MOVED, "to be read at the result's own place only"),
    (
        "compute_at('E', 'y', 'i', 'result'); compute_at('S', 'y', 'i')",
        COLUMNS,
        "all of 'i' is needed there, inside of its loop",
    ),
    ("compute_at('R', 'y', '')", LARGE, "takes 1200000 bytes of stack, expected at most 1048576"),
    ("", REDUCED_RESULT, "stage 'y' is a result and a reduction\n  try: rewrites.end_plainly"),
    ("", READ_RESULT, "stage 'y' is a result, and 'z' reads it"),
    # Rfactor.
    (f"rfactor('R', 'i', 4); {AT}", PRODUCT, "'i' is not a reduction axis"),
    (f"rfactor('R', 'k', 12); {AT}", PRODUCT, "expected a power of two of lanes"),
    (f"rfactor('R', 'k', 0); {AT}", PRODUCT, "expected a power of two of lanes"),
    (f"split('R', 'j', (4,)); rfactor('R', 'k', 4); {AT}", PRODUCT, "'j' is split"),
    (f"rfactor('R', 'k', 4); split('R', 'k', (4,)); {AT}", PRODUCT, "'k' is split"),
    (f"rfactor('R', 'k', 4); vectorize('R', 'j'); {AT}", PRODUCT, "the lanes are taken"),
    (f"rfactor('R', 'k', 4); unroll('R', 'k'); {AT}", PRODUCT, "'k' has a unroll step"),
    (
        f"rfactor('R', 'k', 4); order('R', ('k', 'i', 'j')); {AT}",
        PRODUCT,
        "expected the reduction inside the other loops and 'k' innermost",
    ),
    # Tensorize; what depends on the instruction is tested in test_tensorize.py.
    ("tensorize('y', 'i', 'j', 'i', 'dot')", PLAIN, "expected a sum with at least two axes"),
    ("tensorize('R', 'j', 'i', 'k', 'dot')", PRODUCT, "to be the innermost loops"),
    ("tensorize('R', 'i', 'j', 'k', 'mma')", PRODUCT, "there is no such instruction"),
    (
        "vectorize('R', 'i'); vectorize('R', 'j'); split('R', 'i', (2,))",
        PRODUCT,
        "give it to a loop of the split",
    ),
]


def lowered(steps: str, text: str) -> Func:
    function, _, more = text.rpartition("return ")
    outputs, _, rest = more.partition("\n")
    lines = [s.strip() for s in f"{rest};{steps}".split(";") if s.strip()]
    tf = read_tensor_function(f"{function}return {outputs}\n")
    return lower(tf, read_schedule("\n".join(lines)), "f")


@pytest.mark.parametrize(("steps", "text", "message"), REFUSED)
def test_refused(steps: str, text: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=re.escape(message)):
        lowered(steps, text)


def test_three_vectorised_loops_are_too_many() -> None:
    text = """
def f(x: f32[2, 4, 8]):
    y[i: 2, j: 4, k: 8] = x[i, j, k] * 2.0
    return y
"""
    with pytest.raises(ScheduleError, match="tiles have at most two dims"):
        lowered("vectorize('y', 'i'); vectorize('y', 'j'); vectorize('y', 'k')", text)


def test_an_error_shows_the_step() -> None:
    with pytest.raises(ScheduleError, match=r"^Split\(stage='y', axis='i', sizes=\(8,\)"):
        lowered("split('y', 'i', (8,), (3,))", PLAIN)
