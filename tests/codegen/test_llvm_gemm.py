"""The most important property of the emitter: an outer-product tile stays in registers."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
from codegen.native import Native, runnable

from naru.codegen.llvm import emit_kernel
from naru.codegen.objects import assembly, count_spills
from naru.ir.loop import Func
from naru.ir.text import read_func
from naru.targets import TARGETS


def microkernel(rows: int, vectors: int, lanes: int, *, depth: str, packed: bool) -> Func:
    """C[blocks·rows, vectors·lanes] = relu(A @ B), a block of rows at a time; A packed by block
    ([blocks, K, rows]) or row-major."""
    width = vectors * lanes
    a_type, a = (f"f32[b, {depth}, {rows}]", "a[block, k, i]")
    if not packed:
        a_type, a = (f"f32[b * {rows}, {depth}]", f"a[block * {rows} + i, k]")
    size = f", {depth}: index" if depth.isalpha() else ""
    b_type, c_type = f"f32[{depth}, {width}]", f"f32[b * {rows}, {width}]"
    acc = f"acc[i, j * {lanes}:j * {lanes} + {lanes}]"
    return read_func(
        f"""
def gemm(a: {a_type} @ 64, w: {b_type} @ 64, c: {c_type} @ 64, b: index{size}):
    for block in range(b):
        acc: f32[{rows}, {width}] @ stack
        for i in unroll({rows}):
            for j in unroll({vectors}):
                {acc} = splat(0.0, {lanes})
        for k in range({depth}):
            for i in unroll({rows}):
                for j in unroll({vectors}):
                    {acc} = fma(splat({a}, {lanes}), w[k, j * {lanes}:j * {lanes} + {lanes}], {acc})
        for i in unroll({rows}):
            for j in unroll({vectors}):
                c[block * {rows} + i, j * {lanes}:j * {lanes} + {lanes}] = max({acc}, 0.0)
"""
    )


def inner_loop(asm: str, instruction: str) -> str:
    """The loop that holds most of these instructions."""
    labels = re.split(r"^\.LBB\w+:", asm, flags=re.MULTILINE)
    return max(labels, key=lambda part: part.count(instruction))


CASES = [
    ("x86-64-avx512", 12, 2, 16),
    ("x86-64-avx512", 14, 2, 16),
    ("x86-64-avx512", 6, 4, 16),
    ("x86-64-avx512", 9, 3, 16),
    ("x86-64-avx512", 8, 3, 16),
    ("x86-64-avx2", 6, 2, 8),
    ("x86-64-avx2", 4, 3, 8),
]


@pytest.mark.parametrize(("name", "rows", "vectors", "lanes"), CASES)
@pytest.mark.parametrize("depth", ["256", "d"])
@pytest.mark.parametrize("packed", [False, True])
def test_accumulators_are_registers(
    name: str, rows: int, vectors: int, lanes: int, depth: str, packed: bool
) -> None:
    """The loop over k has one FMA an accumulator, one load a vector of B, no store."""
    target = TARGETS[name]
    func = microkernel(rows, vectors, lanes, depth=depth, packed=packed)
    asm = assembly(emit_kernel(func, target), target)
    assert count_spills(asm) == 0
    loop = inner_loop(asm, "vfmadd")
    assert loop.count("vfmadd") == rows * vectors
    assert len(re.findall(r"vmov[au]ps\s+-?\d*\(", loop.split("j")[0])) <= vectors
    assert not re.search(r"vmov[au]ps\s+%[yz]mm\d+, -?\d*\(", loop.partition("\tj")[0])
    # relu costs one instruction an accumulator
    assert asm.count("vmaxps") == rows * vectors


@pytest.mark.parametrize(("name", "rows", "vectors", "lanes"), CASES)
def test_results(name: str, rows: int, vectors: int, lanes: int) -> None:
    target = runnable(name)
    blocks, depth = 3, 40
    func = microkernel(rows, vectors, lanes, depth="d", packed=False)
    rng = np.random.default_rng(0)
    a = rng.standard_normal((blocks * rows, depth)).astype(np.float32)
    b = rng.standard_normal((depth, vectors * lanes)).astype(np.float32)
    aligned = np.zeros(b.size + blocks * rows * b.shape[1] + a.size + 64, np.float32)
    start = -aligned.ctypes.data % 64 // 4
    views = []
    for source in (a, b, np.zeros((blocks * rows, b.shape[1]), np.float32)):
        size = -(-source.size // 16) * 16
        view = aligned[start : start + source.size].reshape(source.shape)
        view[...] = source
        views.append(view)
        start += size
    Native(func, target)(*views, blocks, depth)
    exact = np.maximum(a.astype(np.float64) @ b, 0)
    np.testing.assert_allclose(views[2], exact, rtol=1e-5, atol=1e-5)


def peak_kernel() -> Func:
    """20 independent chains of FMA in registers."""
    chains = 20
    return read_func(
        f"""
def peak(x: f32[16], n: index):
    acc: f32[{chains}, 16] @ stack
    v: f32[16] = x[0:16]
    for c in unroll({chains}):
        acc[c, 0:16] = splat(0.0, 16)
    for i in range(n):
        for c in unroll({chains}):
            acc[c, 0:16] = fma(v, v, acc[c, 0:16])
    for c in unroll({chains}):
        x[0:16] = x[0:16] + acc[c, 0:16]
"""
    )


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "vectors"), [(12, 2), (14, 2)])
def test_speed_is_near_the_peak(rows: int, vectors: int) -> None:
    """Against a register-only loop measured alternately. The bound leaves room for a busy machine:
    on a quiet one the ratio is 0.9 and more."""
    target = runnable("x86-64-avx512")
    blocks, depth = 100, 256
    gemm = Native(microkernel(rows, vectors, 16, depth=str(depth), packed=True), target)
    peak = Native(peak_kernel(), target)
    buffer = np.zeros(1 << 20, np.float32)
    start = -buffer.ctypes.data % 64 // 4
    sizes = (blocks * depth * rows, depth * vectors * 16, blocks * rows * vectors * 16)
    views = []
    for size in sizes:
        views.append(buffer[start : start + size])
        start += size
    best = [np.inf, np.inf]
    for _ in range(60):
        t0 = time.perf_counter()
        gemm(*views, blocks)
        t1 = time.perf_counter()
        peak(buffer[:16], 20_000)
        t2 = time.perf_counter()
        best = [min(best[0], t1 - t0), min(best[1], t2 - t1)]
    speed = blocks * depth * rows * vectors * 32 / best[0]
    limit = 20 * 20_000 * 32 / best[1]
    assert speed > 0.75 * limit, f"{speed / 1e9:.0f} of {limit / 1e9:.0f} GFLOP/s"
