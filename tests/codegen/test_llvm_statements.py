"""Every kind of statement, compiled for each instruction set, against the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from codegen.native import X86, Native, runnable

from naru.codegen.llvm import emit_kernel
from naru.errors import IRError
from naru.ir import interp
from naru.ir.expr import Load
from naru.ir.loop import Func, Store
from naru.ir.text import read_func
from naru.ir.verify import verify_func
from naru.targets import TARGETS, Target


@pytest.fixture(params=X86)
def target(request: pytest.FixtureRequest) -> Target:
    return runnable(request.param)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def agree(text: str, target: Target, *args: Any, threads: tuple[int, ...] = (1,)) -> None:
    """Compiled code leaves every array as the interpreter does, for each number of threads."""
    func = read_func(text)
    assert verify_func(func) == []
    want = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    interp.run(func, want)
    native = Native(func, target)
    for n in threads:
        got = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
        for tid in range(n):
            native(*got, tid=tid, n=n)
        for a, b in zip(got, want, strict=True):
            if isinstance(a, np.ndarray):
                np.testing.assert_array_equal(a, b)


def test_loops_and_accumulators(target: Target) -> None:
    text = """
def row_sums(x: f32[n, m], y: f32[n], n: index, m: index):
    for i in range(n):
        total = 0.0
        for j in range(m):
            total = total + x[i, j]
        y[i] = total
"""
    agree(text, target, floats(5, 7), np.zeros(5, np.float32), 5, 7)
    agree(text, target, floats(5, 0), np.ones(5, np.float32), 5, 0)


@pytest.mark.parametrize(
    ("width", "at", "shuffled"),
    [
        (16, "lanes(8) // splat(4, 8) * splat(4, 8) + splat(j * 8 + c, 8)", True),
        (16, "splat(7, 8) - lanes(8) + splat(j * 8, 8)", True),
        (16, "lanes(8) // splat(2, 8) % splat(2, 8) + splat(j * 8 + c, 8)", True),
        (24, "lanes(8) // splat(4, 8) + splat(j * 8 + c * 2 + 1, 8)", False),  # c = 3: two blocks
        (20, "lanes(8) // splat(4, 8) * splat(4, 8) + splat(j * 8 + c, 8)", False),  # rows differ
        (16, "lanes(8) // splat(4, 8) + splat(j * 3 + c, 8)", False),  # no block
    ],
)
def test_lanes_from_one_block(target: Target, width: int, at: str, shuffled: bool) -> None:
    text = f"""
def pick(x: f32[n, {width}], y: f32[n, 4, 16], n: index):
    for i in range(n):
        for c in unroll(4):
            for j in range(2):
                y[i, c, j * 8:j * 8 + 8] = x[i, {at}]
"""
    agree(text, target, floats(3, width), np.zeros((3, 4, 16), np.float32), 3)
    made = emit_kernel(read_func(text), target)
    assert ("insertelement" not in made and "gather" not in made) == shuffled


def test_hints_change_nothing_wherever_they_point(target: Target) -> None:
    text = """
def copy(x: f32[n, 8], y: f32[n, 8], n: index):
    for i in range(n):
        prefetch(x[i * 32 + 64:])
        prefetch(x[i * 100000000 - 500:])
        y[i, 0:8] = x[i, 0:8]
"""
    agree(text, target, floats(5, 8), np.zeros((5, 8), np.float32), 5)


def test_store_then_load_sees_the_new_value(target: Target) -> None:
    text = """
def twice(x: f32[8], y: f32[8]):
    for i in range(8):
        x[i] = x[i] + 1.0
        y[i] = x[i] + x[i]
        x[i] = y[i] * x[i]
        y[i] = x[i]
"""
    agree(text, target, floats(8), floats(8))


def test_let_keeps_the_value_of_memory(target: Target) -> None:
    text = """
def swap(x: f32[8]):
    for i in range(4):
        a: f32 = x[i]
        b: f32 = x[7 - i]
        x[i] = b
        x[7 - i] = a
"""
    agree(text, target, floats(8))


def test_unrolled_lets_and_assignments(target: Target) -> None:
    text = """
def unrolled(x: f32[4, 6], y: f32[4, 6]):
    k = 0
    for i in unroll(4):
        row: index = i * 2 - i
        best = x[row, 0]
        for j in unroll(1, 6):
            v: f32 = x[row, j]
            if v > best:
                best = v
            if j == 3:
                y[i, 0] = best
            k = k + row
        y[i, 1 + i // 2] = best + f32(k)
        for j in range(3):
            y[i, 3 + j] = f32(row * 10 + j)
"""
    agree(text, target, floats(4, 6), np.zeros((4, 6), np.float32))


def test_while_and_branches(target: Target) -> None:
    text = """
def collatz(x: i64[n], steps: i64[n], n: index):
    for i in range(n):
        k = 0
        v = x[i]
        while v != 1:
            if v % 2 == 0:
                v = v // 2
            else:
                v = v * 3 + 1
            k = k + 1
        steps[i] = i64(k)
"""
    agree(text, target, np.arange(1, 20), np.zeros(19, np.int64), 19)


def test_branch_forgets_what_the_other_wrote(target: Target) -> None:
    text = """
def branches(x: f32[8], y: f32[8], c: bool[8]):
    for i in range(8):
        before: f32 = x[i] * 2.0
        if c[i]:
            x[i] = before + x[i]
        else:
            x[i] = x[i] - 1.0
        y[i] = x[i] * 2.0
"""
    agree(text, target, floats(8), floats(8), np.arange(8) % 3 == 0)


def test_data_dependent_stores(target: Target) -> None:
    text = """
def nonzero(x: f32[n], out: i64[n], count: i64[1], n: index):
    k = 0
    for i in range(n):
        if x[i] != 0.0:
            out[k] = i64(i)
            k = k + 1
    count[0] = i64(k)
"""
    x = np.where(np.arange(30) % 4 == 1, 0, floats(30)).astype(np.float32)
    agree(text, target, x, np.zeros(30, np.int64), np.zeros(1, np.int64), 30)


@pytest.mark.parametrize("length", [0, 1, 7, 64])
def test_parallel_work_is_divided(length: int, target: Target) -> None:
    text = """
def scaled(x: f32[n], y: f32[n], n: index):
    for i in parallel(n):
        for j in parallel(1):
            y[i] = x[i] * 3.0
"""
    args = (floats(length), np.zeros(length, np.float32), length)
    agree(text, target, *args, threads=(1, 2, 3, 8))


def test_parallel_parts_do_not_overlap(target: Target) -> None:
    text = """
def counted(y: f32[n], n: index):
    for i in parallel(2, n):
        y[i] = y[i] + 1.0
"""
    agree(text, target, np.zeros(23, np.float32), 23, threads=(1, 2, 5, 40))


@pytest.mark.parametrize("n", [1, 15, 16, 17, 50])
def test_masked_tail(n: int, target: Target) -> None:
    text = """
def relu(x: f32[n], y: f32[n], n: index):
    for i in range((n + 15) // 16):
        live: bool[16] = lanes(16) < splat(n - i * 16, 16)
        v: f32[16] = load(x[i * 16:i * 16 + 16], live)
        store(y[i * 16:i * 16 + 16], max(v, 0.0), live)
"""
    agree(text, target, floats(n), np.zeros(n, np.float32), n)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "u8", "bool", "i64", "f64", "f16"])
def test_masked_access_of_every_width(dtype: str, target: Target) -> None:
    text = f"""
def masked(x: {dtype}[20], y: {dtype}[20], c: bool[16]):
    store(y[2:18], load(x[1:17], c[0:16]), c[0:16])
"""
    func = read_func(text)
    kind = interp.DTYPES[dtype].numpy
    x = (np.arange(20) % 5).astype(kind)
    agree(text, target, x, np.ones(20, kind), np.arange(16) % 3 != 1)
    assert len(func.body) == 1


def test_gathers_and_scatters(target: Target) -> None:
    text = """
def moved(x: f32[16, 9], at: i32[16], y: f32[16, 16], z: f32[64], k: index):
    picked: f32[16] = x[lanes(16), index(at[0:16])]
    y[3, lanes(16)] = picked
    y[lanes(16), 5] = x[lanes(16), 2] + x[lanes(16), k]
    z[lanes(16) * 2 + 1] = picked
    z[lanes(16) * k] = picked
    store(y[7, index(at[0:16])], picked, lanes(16) < splat(1, 16))
    y[9, 0:16] = load(x[lanes(16), index(at[0:16])], picked > 0.0)
"""
    at = ((np.arange(16) * 5) % 9).astype(np.int32)
    zeros = np.zeros
    agree(text, target, floats(16, 9), at, zeros((16, 16), "f4"), zeros(64, "f4"), 3)


@pytest.mark.parametrize("dtype", ["u8", "i8", "i32", "u32", "i64"])
def test_gathers_by_integers_of_every_width(dtype: str, target: Target) -> None:
    text = f"""
def moved(x: f32[200], at: {dtype}[16], y: f32[16]):
    which: {dtype}[16] = at[0:16]
    y[0:16] = x[which]
"""
    at = ((np.arange(16) * 11) % (200 if dtype != "i8" else 100)).astype(interp.DTYPES[dtype].numpy)
    agree(text, target, floats(200), at, np.zeros(16, np.float32))


@pytest.mark.parametrize("lanes", [16, 32, 64])
def test_bytes_looked_up_in_a_table(lanes: int, target: Target) -> None:
    """One instruction where the register is as wide."""
    text = f"""
def chosen(x: i8[40], at: u8[{lanes}], y: i8[{lanes}]):
    table: i8[16] @ stack @ 16
    for i in unroll(16):
        table[i] = x[i * 2 + 1]
    which: u8[{lanes}] = at[0:{lanes}] & splat(u8(15), {lanes})
    y[0:{lanes}] = table[which]
"""
    rng = np.random.default_rng(lanes)
    at = rng.integers(0, 256, lanes).astype(np.uint8)
    agree(text, target, rng.integers(-128, 128, 40).astype("i1"), at, np.zeros(lanes, "i1"))
    wide = {16: "ssse3", 32: "avx2", 64: "avx512bw"}[lanes]
    made = emit_kernel(read_func(text), target)
    assert ("pshuf.b" in made) == target.has(wide)


@pytest.mark.parametrize("lanes", [4, 8, 16, 32])
def test_answers_are_counted(lanes: int, target: Target) -> None:
    text = f"""
def count(x: f32[{lanes}], y: i64[2]):
    above: bool[{lanes}] = x[0:{lanes}] > splat(0.25, {lanes})
    y[0] = i64(reduce_add(index(above)))
    y[1] = reduce_add(i64(above))
"""
    agree(text, target, floats(lanes), np.zeros(2, np.int64))


def test_scalar_mask(target: Target) -> None:
    text = """
def guarded(x: f32[4], y: f32[8]):
    for i in range(8):
        inside: bool = i < 4
        y[i] = load(x[i], inside) + 1.0
        store(x[i], y[i], inside)
"""
    agree(text, target, floats(4), np.zeros(8, np.float32))


def test_stack_arrays(target: Target) -> None:
    text = """
def reverse(x: f32[n, 8], y: f32[n, 8], n: index):
    for i in range(n):
        row: f32[8] @ stack
        flags: bool[8] @ stack
        for j in range(8):
            row[j] = x[i, 7 - j]
            flags[j] = row[j] > 0.0
        for j in range(8):
            if flags[j]:
                y[i, j] = row[j]
"""
    agree(text, target, floats(5, 8), np.zeros((5, 8), np.float32), 5)


def test_tile_variables(target: Target) -> None:
    text = """
def columns(x: f32[n, 16], y: f32[16], n: index):
    total = splat(0.0, 16)
    for i in range(n):
        total = total + x[i, 0:16]
    y[0:16] = total
"""
    agree(text, target, floats(9, 16), np.zeros(16, np.float32), 9)


def test_strides_of_symbolic_shapes(target: Target) -> None:
    text = """
def transpose(x: f32[a, b, c], y: f32[c, a, b], a: index, b: index, c: index):
    for i in range(a):
        for j in range(b):
            for k in range(c):
                y[k, i, j] = x[i, j, k]
"""
    agree(text, target, floats(3, 4, 5), np.zeros((5, 3, 4), np.float32), 3, 4, 5)


def test_chains_side_by_side(target: Target) -> None:
    """The order of operations changes; what is stored where does not, masks and sums included."""
    part, mask = "k * 8:k * 8 + 8", "lanes(8) < splat(12 - k * 8, 8)"
    text = f"""
def gate(x: f32[n, 6, 12], y: f32[n, 6, 12], n: index):
    for i in range(n):
        t: f32[6, 16] @ stack
        for j in unroll(6):
            for k in unroll(2):
                t[j, {part}] = load(x[i, j, {part}], {mask})
        for j in unroll(6):
            for k in unroll(2):
                store(y[i, j, {part}], t[j, {part}] * exp(t[j, {part}]), {mask})
"""
    x = floats(3, 6, 12)
    got, want = np.zeros_like(x), np.zeros_like(x)
    func = read_func(text)
    assert verify_func(func) == []
    interp.run(func, [x, want, 3])
    Native(func, target)(x, got, 3)
    np.testing.assert_allclose(got, want, rtol=3e-7)


def test_chains_that_read_what_another_stored(target: Target) -> None:
    """One after the other: each place is the tanh of the place before."""
    text = """
def deepen(x: f32[7, 8]):
    for j in unroll(6):
        x[j + 1, 0:8] = tanh(x[j, 0:8])
"""
    x = floats(7, 8)
    got, want = x.copy(), x.copy()
    interp.run(read_func(text), [want])
    Native(read_func(text), target)(got)
    np.testing.assert_allclose(got, want, rtol=2e-6)


def test_operations_of_chains_alternate() -> None:
    text = """
def spread(x: f32[4, 8], y: f32[4, 8]):
    for j in unroll(4):
        y[j, 0:8] = exp(x[j, 0:8])
"""

    def stores_between(name: str) -> bool:
        made = emit_kernel(read_func(text), TARGETS[name]).splitlines()
        last_load = max(k for k, line in enumerate(made) if "= load" in line)
        return any("store" in line for line in made[:last_load])

    assert not stores_between("x86-64-avx2")
    assert stores_between("wasm32-simd128")  # engines order operations themselves


def test_deep_expressions_do_not_recurse(target: Target) -> None:
    chain = "x[0]" + " * 0.5 + 1.0" * 3
    lines = [f"    v{k}: f32 = v{k - 1} * 0.5 + x[{k % 8}]" for k in range(1, 1500)]
    text = "def deep(x: f32[8], y: f32[1]):\n    v0: f32 = " + chain + "\n" + "\n".join(lines)
    agree(text + "\n    y[0] = v1499\n", target, floats(8), np.zeros(1, np.float32))


# ---- the text itself ----


def emitted(text: str, target: str = "x86-64-avx512") -> str:
    return emit_kernel(read_func(text), TARGETS[target])


def test_signature_and_attributes() -> None:
    text = emitted("def f(x: f32[n] @ 64, y: f32[n], n: index):\n    y[0] = x[0]\n")
    (define,) = [line for line in text.splitlines() if line.startswith("define")]
    assert "void @f(ptr noalias captures(none) readonly align 64 %b0," in define
    assert "i64 %s0, i64 %tid, i64 %n) nounwind" in define
    assert '"target-features"="+cmov' in define


def test_wasm_indices_have_32_bits() -> None:
    kernel = "def f(x: f32[n], n: index):\n    for i in range(n):\n        x[i] = 0.0\n"
    text = emitted(kernel, "wasm32-simd128")
    assert "i32 %s0, i32 %tid, i32 %n)" in text
    assert "i64" not in text.split("define")[1].replace("i64 0", "")


def test_innermost_loops_of_wasm_move_pointers() -> None:
    """Also where the stride is a size and the loop begins elsewhere; a loop with another inside
    counts only."""
    text = emitted(
        """
def f(x: f32[n, m], y: f32[m, n], n: index, m: index):
    for i in range(n):
        for j in range(2, m):
            y[j, i] = x[i, j]
""",
        "wasm32-simd128",
    )
    inner = text.split("\nj.")[1].split("\nend")[0]
    assert inner.count("phi ptr") == 2  # of x and of y
    assert inner.count("strip.invariant.group") == 2
    assert "mul" not in inner
    outer = text.split("\ni.")[1].split("\nj.")[0]
    assert "phi ptr" not in outer
    assert "mul i32 2, %s0" in outer  # where y begins


@pytest.mark.parametrize("name", ["x86-64-avx2", "aarch64-neon"])
def test_other_targets_leave_pointers_to_llvm(name: str) -> None:
    kernel = "def f(x: f32[n], n: index):\n    for i in range(n):\n        x[i] = 0.0\n"
    assert "phi ptr" not in emitted(kernel, name)


def test_index_arithmetic_leaves_the_loop() -> None:
    """Row and offset of `x` are computed before the inner loop, once."""
    text = emitted(
        """
def f(x: f32[n, m], y: f32[n, m], n: index, m: index):
    for i in range(n):
        for j in range(m):
            y[i, j] = x[i, j] + x[i, j]
"""
    )
    inner = text.split("\nj.")[1].split("\nend")[0]
    assert inner.count("mul") == 0
    assert inner.count("load float") == 1
    assert inner.count("getelementptr") == 2


def test_errors_name_the_problem() -> None:
    good = read_func("def f(x: f32[4]):\n    x[0] = 1.0\n")
    store = good.body[0]
    assert isinstance(store, Store)
    other = read_func("def g(z: f32[4]):\n    z[0] = 1.0\n").buffers[0]
    bad = Func("f", good.params, (Store(store.buffer, store.index, Load(other, store.index)),))
    with pytest.raises(IRError, match="f: buffer z is used before its alloc"):
        emit_kernel(bad, TARGETS["x86-64-avx2"])
