"""Triton source from loop IR: text, and refusals. It is run in tests/targets/test_proof.py."""

from __future__ import annotations

import pytest

from naru.codegen.triton import emit_triton
from naru.errors import IRError
from naru.ir.text_loop import read_func


def body(text: str) -> list[str]:
    """The lines of the emitted function."""
    lines = emit_triton(read_func(text)).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("def "))
    return [line.strip() for line in lines[start + 1 : lines.index("", start)]]


SOFTMAX = """
def softmax(x: f32[m, n], y: f32[m, n]):
    for i in parallel(m):
        top: f32[1] @ stack
        row: f32[64] = load(x[i, 0:64], lanes(64) < splat(n, 64))
        top[0] = reduce_max(select(lanes(64) < splat(n, 64), row, -inf))
        e: f32[64] = exp(row - top[0])
        total: f32 = reduce_add(select(lanes(64) < splat(n, 64), e, 0.0))
        store(y[i, 0:64], e / total, lanes(64) < splat(n, 64))
"""


def test_a_row_a_program() -> None:
    assert body(SOFTMAX) == [
        "i = tl.program_id(0).to(tl.int64)",
        "row = tl.load(x + tl.cast(i, tl.int64) * n + tl.arange(0, 64), mask=tl.arange(0, 64) < n, other=0)",  # noqa: E501
        'top = tl.max(tl.where(tl.arange(0, 64) < n, row, float("-inf")), 0)',
        "e = tl.exp(row - top)",
        "total = tl.sum(tl.where(tl.arange(0, 64) < n, e, 0.0), 0)",
        "tl.store(y + tl.cast(i, tl.int64) * n + tl.arange(0, 64), e / total, mask=tl.arange(0, 64) < n)",  # noqa: E501
    ]
    assert emit_triton(read_func(SOFTMAX)).endswith("def softmax_grid(m, n):\n    return (m,)\n")


def test_unrolled_tiles_are_variables() -> None:
    lines = body("""
def f(x: f32[64], y: f32[64]):
    a: f32[2, 16] @ stack
    for i in unroll(2):
        a[i, 0:16] = x[i * 16:i * 16 + 16]
    for i in unroll(2):
        y[i * 16:i * 16 + 16] = a[1 - i, 0:16] * 2.0
""")
    assert lines == [
        "a = tl.load(x + tl.arange(0, 16))",
        "a_1_0 = tl.load(x + 16 + tl.arange(0, 16))",
        "tl.store(y + tl.arange(0, 16), a_1_0 * 2.0)",
        "tl.store(y + 16 + tl.arange(0, 16), a * 2.0)",
    ]


def test_operators_keep_their_order() -> None:
    """Triton divides towards zero; a floor is corrected where a dividend may be negative."""
    lines = body("""
def f(x: i32[8], y: i32[8], i: index(-5, 5), j: index(0, 7)):
    x[j] = (y[j] + 1) * 2 - (3 - y[j])
    x[j // 2] = y[i % 3]
""")
    assert lines == [
        "tl.store(x + j, (tl.load(y + j) + 1) * 2 - (3 - tl.load(y + j)))",
        "tl.store(x + j // 2, tl.load(y + (i % 3 + tl.where((i % 3 != 0) & ((i < 0) != (3 < 0)), 3, 0))))",  # noqa: E501
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(x: f32[9]):\n    for i in parallel(9):\n        x[i] = 0.0\n"
         "    for j in parallel(9):\n        x[j] = 1.0", "more than one parallel loop"),
        ("def f(x: f32[12]):\n    x[0:12] = splat(0.0, 12)", "12 lanes, expected a power of two"),
        ("def f(x: f32[16], i: index):\n    a: f32[16] @ stack\n    a[i] = 0.0", "constant places"),
        ("def f(x: f32[16]):\n    x[0] = tanh(x[1])", "tanh is not available"),
        ("def f(x: f32[16]):\n    barrier()", "cannot call another"),
    ],
)  # fmt: skip
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(IRError, match=message):
        emit_triton(read_func(text))
