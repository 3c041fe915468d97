"""The interpreter of loop IR: what it computes and what it refuses."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from naru.errors import IRError, RunError
from naru.ir.expr import Const, Expr, Load, Unary, Var
from naru.ir.interp import Host, run
from naru.ir.interp_tensor import run_tensor_function
from naru.ir.loop import Buffer, For, Func, Stmt, Store
from naru.ir.text import read_func, read_tensor_function


def execute(text: str, *args: Any, **options: Any) -> None:
    run(read_func(text), args, **options)


def failure(text: str, *args: Any) -> str:
    with pytest.raises(IRError) as e:
        execute(text, *args)
    return str(e.value)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


NONZERO = """
def nonzero(x: f32[n], out: i64[n], count: i64[1]):
    k = 0
    for i in range(n):
        if x[i] != 0.0:
            out[k] = i64(i)
            k = k + 1
    count[0] = i64(k)
"""


def test_nonzero() -> None:
    x = np.array([0, 3, np.nan, -0.0, 1], np.float32)
    out, count = np.full(5, -1), np.zeros(1, np.int64)
    execute(NONZERO, x, out, count, 5)
    assert out.tolist() == [1, 2, 4, -1, -1]
    assert count[0] == 3


MATMUL = """
def matmul(a: f32[m, 8], b: f32[8, 16], c: f32[m, 16], m: index):
    for i in parallel(m):
        acc: f32[16] @ stack
        acc[0:16] = splat(0.0, 16)
        for k in unroll(8):
            acc[0:16] = fma(splat(a[i, k], 16), b[k, 0:16], acc[0:16])
        c[i, 0:16] = acc[0:16]
"""


@pytest.mark.parametrize(("threads", "shuffle"), [(1, None), (2, None), (3, 1), (16, 2)])
def test_results_do_not_depend_on_threads(threads: int, shuffle: int | None) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=s).astype(np.float32) for s in ((7, 8), (8, 16)))
    c, alone = zeros(7, 16), zeros(7, 16)
    execute(MATMUL, a, b, alone, 7)
    execute(MATMUL, a, b, c, 7, threads=threads, shuffle=shuffle)
    assert (c == alone).all()
    np.testing.assert_allclose(c, a @ b, rtol=1e-5)


def test_tiles_masks_gathers_and_scatters() -> None:
    x, y = np.arange(10, dtype=np.float32), zeros(10)
    execute(
        """
def f(x: f32[10], y: f32[10], n: index):
    store(y[n:n + 8], load(x[n:n + 8], lanes(8) < 10 - n) * 2, lanes(8) < 10 - n)
    y[lanes(4) * 2] = x[3 - lanes(4)]
""",
        x, y, 6,
    )  # fmt: skip
    assert y.tolist() == [3, 0, 2, 0, 1, 0, 0, 14, 16, 18]


def test_a_mask_hides_what_is_out_of_bounds() -> None:
    x, y = np.ones(3, np.float32), zeros(4)
    text = "def f(x: f32[n], y: f32[4], n: index):\n    y[0:4] = load(x[0:4], lanes(4) < n + 0)\n"
    execute(text, x, y, 3)
    assert y.tolist() == [1, 1, 1, 0]


def test_loads_are_copies() -> None:
    x = np.arange(4, dtype=np.float32)
    execute(
        """
def f(x: f32[4]):
    t: f32[2] = x[0:2]
    x[0:2] = x[2:4]
    x[2:4] = t
""",
        x,
    )
    assert x.tolist() == [2, 3, 0, 1]


def test_stack_memory_is_undefined() -> None:
    x = zeros(1)
    execute("def f(x: f32[1]):\n    s: f32[2]\n    x[0] = s[1]\n", x)
    assert np.isnan(x[0])


def test_errors_name_buffer_index_and_line() -> None:
    text = "def f(x: f32[n]):\n    for i in range(n):\n        x[i] = x[i + 1]\n"
    assert failure(text, zeros(3), 3) == (
        "f, line 3: the program is not valid:\n"
        "  x[3]: out of bounds, the shape is (3,)\n"
        "    x[i] = x[i + 1]"
    )
    text = "def f(x: f32[n], i: index):\n    x[0] = x[1 - i]\n"
    assert "x[-1]: out of bounds" in failure(text, zeros(3), 2, 3)
    text = "def f(x: f32[8], i: index):\n    x[i:i + 4] = x[0:4]\n"
    assert "x[5] and (4,) elements from there: out of bounds" in failure(text, zeros(8), 5)
    text = "def f(x: f32[8]):\n    x[lanes(4) * 3] = x[0:4]\n"
    assert "x: index 9 of dim 0, in one of the lanes, is out of bounds" in failure(text, zeros(8))
    text = "def f(x: f32[8]):\n    x[lanes(4) // 2] = x[0:4]\n"
    assert "two lanes of a store hit the same element" in failure(text, zeros(8))
    text = "def f(x: i32[2], n: index):\n    x[0] = i32(4 // n)\n"
    assert "f, line 2: the program is not valid:\n  division of an integer by zero" in failure(
        text, np.zeros(2, np.int32), 0
    )


def test_arguments_are_checked() -> None:
    text = "def f(x: f32[n], n: index):\n    pass\n"
    assert "expected 2 arguments, got 1" in failure(text, zeros(3))
    assert "x: expected shape (4,), got (3,)" in failure(text, zeros(3), 4)
    assert "x: expected float32, got float64" in failure(text, np.zeros(3), 3)
    assert "n: expected a number, got an array" in failure(text, zeros(3), zeros(2))
    execute(text, zeros(3, 1), 3)  # as many elements in another shape


DRIVER = """
def scale(x: f32[n], y: f32[n], n: index, by: f32):
    for i in parallel(n):
        y[i] = x[i] * by

def driver(arena: u8[size], x: f32[n], out: f32[n], size: index, n: index):
    scale(x, arena[64:], n, f32(2.0), threads=4)
    barrier()
    mark(1)
    if n > 4:
        fail(1, n, 4)
    alloc(2, n * 4, 0)
    scale(arena[64:], out, n, f32(0.5))
    set_io(1, out)
"""


def test_driver() -> None:
    arena, x, host = np.zeros(256, np.uint8), np.arange(4, dtype=np.float32), Host()
    execute(DRIVER, arena, x, None, 256, 4, threads=2, host=host)
    assert (arena.view(np.float32)[16:20] == x * 2).all()
    assert (host.io[1].view(np.float32) == x).all()
    assert (host.barriers, host.marks, host.allocated, host.error) == (1, [1], 16, None)


MEETING = """
def neighbours(x: f32[n], y: f32[n], n: index, rounds: index):
    for i in parallel(n):
        y[i] = x[i]
    barrier()
    for round in range(rounds):
        kept: f32[8] @ stack
        for i in range(n):
            kept[i] = y[i]
        barrier()
        for i in parallel(n):
            y[i] = kept[i] + kept[(i + 1) % n]
        barrier()
"""


@pytest.mark.parametrize("threads", [1, 2, 3, 20])
def test_threads_meet(threads: int) -> None:
    """What a thread wrote before a barrier, all of them read behind it."""
    x, y = np.arange(8, dtype=np.float32), zeros(8)
    execute(MEETING, x, y, 8, 3, threads=threads, shuffle=threads)
    for _ in range(3):
        x = x + np.roll(x, -1)
    assert (y == x).all()


def test_threads_meet_in_loops_that_are_deep() -> None:
    """Deep loops become Python functions of their own."""
    deep = "".join(f"{'    ' * k}for i{k} in range(1):\n" for k in range(1, 20))
    pad = "    " * 20
    lines = ("for i in parallel(4):", "    y[i] = 1.0", "barrier()", "s[0] = s[0] + y[3]")
    body = "".join(f"{pad}{line}\n" for line in lines)
    y, s = zeros(4), zeros(1)
    execute(f"def f(y: f32[4], s: f32[1]):\n{deep}{body}", y, s, threads=3)
    assert (y.tolist(), s.tolist()) == ([1] * 4, [3])


def test_a_kernel_that_meets_runs_on_all_threads_or_one() -> None:
    text = """
def count(y: f32[1]):
    y[0] = y[0] + 1.0
    barrier()

def driver(y: f32[1]):
    count(y, threads=2)
    count(y, threads=9)
"""
    for threads, calls in ((1, 2), (2, 4), (5, 6)):
        y = zeros(1)
        execute(text, y, threads=threads, host=Host())
        assert y[0] == calls


def test_a_thread_that_waits_for_ever() -> None:
    text = """
def f(y: f32[4]):
    k = 0
    for i in parallel(4):
        k = k + 1
    for i in range(k):
        barrier()
"""
    execute(text, zeros(4), threads=4)
    with pytest.raises(IRError, match="some threads meet where others don't come"):
        execute(text, zeros(4), threads=3)


def test_driver_failures() -> None:
    host = Host()
    execute(DRIVER, np.zeros(256, np.uint8), zeros(5), None, 256, 5, host=host)
    assert host.error == (1, 5, 4)
    with pytest.raises(RunError, match=r"fail\(1, 5, 4\)"):
        execute(DRIVER, np.zeros(256, np.uint8), zeros(5), None, 256, 5)
    message = failure(DRIVER, np.zeros(72, np.uint8), zeros(4), None, 72, 4)
    assert "y: needs 16 bytes at offset 64, the memory there has 72 bytes in all" in message


def test_narrow_floats_round_after_every_operation() -> None:
    text = "def f(x: {0}[3]):\n    x[2] = (x[0] + x[1]) - x[0]\n"
    for dtype, kind in (("bf16", ml_dtypes.bfloat16), ("f16", np.float16)):
        x = np.array([256, 1, 0], kind)
        execute(text.format(dtype), x)
        assert float(x[2]) == (0 if dtype == "bf16" else 1)


def test_deep_expressions_and_deep_nests() -> None:
    x = Buffer("x", "f32", (Const(1),))
    e: Expr = Load(x, (Const(0),))
    for _ in range(5000):
        e = Unary("neg", e)
    body: tuple[Stmt, ...] = (Store(x, (Const(0),), e),)
    for k in range(30):
        body = (For(Var(f"i{k}"), Const(0), Const(1), body),)
    array = np.array([3], np.float32)
    run(Func("deep", (x,), body), [array])
    assert array[0] == 3


def test_mutable_variables_in_deep_nests() -> None:
    loops = "".join("    " * (d + 1) + f"for i{d} in range(2):\n" for d in range(20))
    text = "def f(x: i64[1]):\n    k = 0\n" + loops + "    " * 21 + "k = k + i19 * i0\n"
    text = text.replace("range(2)", "range(1)", 18).replace("range(1)", "range(2)", 1)
    x = np.zeros(1, np.int64)
    execute(text + "    x[0] = i64(k)\n", x)
    assert x[0] == 2


def test_tensor_function() -> None:
    tf = read_tensor_function("""
def f(A: f32[m, k] @ (1, 0), B: f32[k, n], bias: f32[n]):
    C[i: m, j: n] = add[r: k](A[i, r] * B[r, j])
    D[i: m, j: n] = max(C[i, j] + bias[j], 0.0)
    E[()] = max[i: m, j: n](D[i, j], init=2)
    F[i: m] = and_[r: k](A[i, r] > -10)
    return D, E, F
""")
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal(size=s).astype(np.float32) for s in ((5, 7), (7, 3), (3,)))
    d, e, f = run_tensor_function(tf, [a, b, c])
    np.testing.assert_allclose(d, np.maximum(a @ b + c, 0), rtol=1e-5, atol=1e-6)
    assert e == max(d.max(), np.float32(2))
    assert f.tolist() == [True] * 5
    empty = run_tensor_function(tf, [zeros(0, 7), zeros(7, 3), zeros(3)])
    assert empty[0].shape == (0, 3)
    assert empty[1] == 2


def test_tensor_function_sums_in_order() -> None:
    tf = read_tensor_function("def f(x: f32[n]):\n    s[()] = add[i: n](x[i])\n    return s\n")
    x = np.array([1e8, 1, -1e8, 1] * 1000, np.float32)
    expected = np.float32(0)
    for v in x:
        expected = expected + v
    assert run_tensor_function(tf, [x])[0] == expected


def test_tensor_function_errors() -> None:
    tf = read_tensor_function("def f(x: f32[n]):\n    s[i: n] = x[i + 1]\n    return s\n")
    with pytest.raises(IRError, match="x: index 3 of dim 0 is out of bounds") as e:
        run_tensor_function(tf, [zeros(3)])
    assert str(e.value).startswith("f, line 2")
    with pytest.raises(IRError, match="expected 1 dims, got 2"):
        run_tensor_function(tf, [zeros(3, 3)])


def test_opaque_tensor_function() -> None:
    tf = read_tensor_function(f"""
def f(x: f32[n]):
    out: i64[n]
    count: i64[1]
{NONZERO.strip().replace("def", "    def").replace(chr(10), chr(10) + "    ")}
    return out, count
""")
    out, count = run_tensor_function(tf, [np.array([0, 1, 2], np.float32)])
    assert out.tolist() == [1, 2, -1]
    assert count.tolist() == [2]
