"""Drivers: calls, services and threads, against a host written in Python with ctypes."""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np
import pytest
from codegen.native import Blob, runnable

from naru.codegen.llvm import emit_kernel
from naru.codegen.llvm_driver import emit_driver, emit_plan
from naru.codegen.objects import compile_module, undefined_symbols
from naru.errors import IRError
from naru.ir.loop import Func
from naru.ir.text import read_func, read_module
from naru.targets import TARGETS

ALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
BARRIER = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
NOW = ctypes.CFUNCTYPE(ctypes.c_int64)


class HostTable(ctypes.Structure):
    _fields_ = [
        ("abi_version", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("alloc", ALLOC),
        ("barrier", BARRIER),
        ("now", NOW),
    ]


class Context(ctypes.Structure):
    _fields_ = [
        ("host", ctypes.POINTER(HostTable)),
        ("weights", ctypes.c_void_p),
        ("arena", ctypes.c_void_p),
        ("io", ctypes.POINTER(ctypes.c_void_p)),
        ("dims", ctypes.c_void_p),
        ("state", ctypes.c_void_p),
        ("trace", ctypes.c_void_p),
        ("error", ctypes.c_int64 * 4),
    ]


class Run:
    """A driver with memory and a host; `io` are arrays, or None for late outputs."""

    def __init__(
        self,
        text: str,
        io: list[np.ndarray | None],
        *,
        dims: list[int] | None = None,
        memory: int = 1 << 16,
    ) -> None:
        target = runnable("x86-64-avx2")
        funcs = read_module(text)
        *kernels, driver = funcs.values()
        roles = {b: role(b.name) for b in driver.buffers}
        texts = [emit_kernel(k, target) for k in kernels]
        texts.append(emit_driver(driver, target, roles, kernels))
        self.blob = Blob(texts, [driver.name], target)
        kinds = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        self.entry = self.blob.function(driver.name, *kinds)
        self.io, self.memory, self.barriers, self.clock = io, memory, 0, 0
        self.weights, self.arena = (np.zeros(4096, np.uint8) for _ in range(2))
        self.dims = np.array(dims or [0], np.int64)
        self.trace = np.zeros(16, np.int64)
        self.blocks: list[np.ndarray] = []
        self.meeting = threading.Barrier(1)
        self.context = self.make_context()

    def make_context(self) -> Context:
        table = HostTable(1, 32, ALLOC(self.alloc), BARRIER(self.barrier), NOW(self.now))
        addresses = [None if a is None else a.ctypes.data for a in self.io]
        self.table = table
        self.addresses = (ctypes.c_void_p * len(addresses))(*addresses)
        return Context(
            ctypes.pointer(table),
            self.weights.ctypes.data,
            self.arena.ctypes.data,
            self.addresses,
            self.dims.ctypes.data,
            None,
            self.trace.ctypes.data,
        )

    def alloc(self, ctx: int, size: int) -> int | None:
        if size > self.memory:
            return None
        self.blocks.append(np.zeros(size, np.uint8))
        return self.blocks[-1].ctypes.data

    def barrier(self, ctx: int, tid: int, n: int) -> None:
        self.barriers += 1
        self.meeting.wait(timeout=20)

    def now(self) -> int:
        self.clock += 10
        return self.clock

    def __call__(self, n: int = 1) -> tuple[int, ...]:
        """Runs on n threads; returns the error slot."""
        self.meeting = threading.Barrier(n)
        at = ctypes.addressof(self.context)
        threads = [threading.Thread(target=self.entry, args=(at, t, n)) for t in range(1, n)]
        for t in threads:
            t.start()
        self.entry(at, 0, n)
        for t in threads:
            t.join()
        return tuple(self.context.error)


def role(name: str) -> Any:
    return ("io", int(name[2:])) if name.startswith("io") else name


KERNELS = """
def double(x: f32[n], y: f32[n], n: index):
    for i in parallel(n):
        y[i] = x[i] * 2.0

def shift(x: f32[n], y: f32[n], n: index):
    for i in range(n):
        y[i] = x[i] + 1.0
"""


@pytest.mark.parametrize("n", [1, 2, 5])
def test_kernels_in_sequence(n: int) -> None:
    text = (
        KERNELS
        + """
def run(arena: u8[4096], dims: i64[1], io0: f32[8], io1: f32[8]):
    n: index = index(dims[0])
    double(io0, arena[n * 4 + 64:], n, threads=n)
    barrier()
    shift(arena[n * 4 + 64:], io1, n)
"""
    )
    x, y = np.arange(8, dtype=np.float32), np.zeros(8, np.float32)
    run = Run(text, [x, y], dims=[7])
    assert run(n) == (0, 0, 0, 0)
    np.testing.assert_array_equal(y, [*(x[:7] * 2 + 1), 0])
    assert run.barriers == (0 if n == 1 else n)


def test_fewer_threads_than_the_run_has() -> None:
    """Each of 2 threads of 5 does its half; the kernel sees n = 2."""
    text = """
def count(y: f32[n], n: index):
    for i in parallel(n):
        y[i] = y[i] + 1.0

def run(io0: f32[10]):
    count(io0, 10, threads=2)
    barrier()
    count(io0, 10, threads=100)
"""
    y = np.zeros(10, np.float32)
    Run(text, [y])(5)
    np.testing.assert_array_equal(y, 2)


MEETING = """
def neighbours(x: f32[n], y: f32[n], last: f32[1], n: index, rounds: index):
    for i in parallel(n):
        y[i] = x[i]
    barrier()
    for round in range(rounds):
        kept: f32[8] @ stack
        before: f32 = y[n - 1]
        for i in range(n):
            kept[i] = y[i]
        barrier()
        for i in parallel(n):
            y[i] = kept[i] + kept[(i + 1) % n]
        barrier()
        for i in parallel(1):
            last[0] = y[n - 1] - before

"""


@pytest.mark.parametrize(("n", "used"), [(1, 1), (2, 2), (5, 5), (6, 1)])
def test_a_kernel_whose_threads_meet(n: int, used: int) -> None:
    """On all threads of the run or on one. What others write is read anew behind a barrier."""
    text = MEETING + "def run(io0: f32[8], io1: f32[8], io2: f32[1]):\n"
    text += "    neighbours(io0, io1, io2, 8, 6, threads=5)\n"
    x, y, last = np.arange(8, dtype=np.float32), np.zeros(8, np.float32), np.zeros(1, np.float32)
    run = Run(text, [x, y, last])
    for _ in range(5):
        assert run(n) == (0, 0, 0, 0)
        want = x
        for _ in range(6):
            before, want = want, want + np.roll(want, -1)
        np.testing.assert_array_equal(y, want)
        assert last[0] == (want - before)[7]
    assert run.barriers == (0 if used == 1 else 5 * used * 13)


@pytest.mark.parametrize("name", list(TARGETS))
def test_a_kernel_whose_threads_meet_compiles_for_every_target(name: str) -> None:
    target = TARGETS[name]
    driver, kernels = driver_of(MEETING + "def run(io0: f32[8]):\n    pass\n")
    text = emit_kernel(kernels[0], target)
    assert "ptr %ctx" in text
    missing = set(undefined_symbols(compile_module(text, target)))
    assert missing <= {"__linear_memory", "__stack_pointer", "__indirect_function_table"}
    assert f"i64 {8 + target.pointer_bits // 8}" in text
    assert driver.name == "run"


@pytest.mark.parametrize("n", [1, 3])
def test_control_flow_reads_memory_again(n: int) -> None:
    text = """
def half(x: f32[1]):
    x[0] = x[0] * 0.5

def run(arena: u8[64], io0: f32[1], io1: i64[1]):
    k = 0
    barrier()
    while io0[0] > 1.0:
        barrier()
        half(io0)
        k = k + 1
        barrier()
    if k > 3:
        io1[0] = i64(k)
"""
    x, y = np.array([1000], np.float32), np.zeros(1, np.int64)
    Run(text, [x, y])(n)
    assert x[0] == 1000 / 1024
    assert y[0] == 10


def test_late_output_in_the_arena() -> None:
    text = (
        KERNELS
        + """
def run(arena: u8[4096], io0: f32[4], io1: f32[4]):
    double(io0, arena[128:], 4)
    set_io(1, arena[128:])
    barrier()
    shift(io1, io1, 4)
"""
    )
    run = Run(text, [np.ones(4, np.float32), None])
    run()
    assert run.addresses[1] == run.arena.ctypes.data + 128
    np.testing.assert_array_equal(run.arena[128:144].view(np.float32), 3)


GROWING = (
    KERNELS
    + """
def run(dims: i64[1], io0: f32[4], io1: f32[4]):
    n: index = index(dims[0])
    alloc(1, n * 4, 3)
    double(io0, io1, n)
"""
)


@pytest.mark.parametrize("n", [1, 4])
def test_alloc(n: int) -> None:
    run = Run(GROWING, [np.ones(4, np.float32), None], dims=[4])
    assert run(n) == (0, 0, 0, 0)
    np.testing.assert_array_equal(run.blocks[0].view(np.float32), 2)


@pytest.mark.parametrize("n", [1, 4])
def test_alloc_without_memory_ends_the_run(n: int) -> None:
    run = Run(GROWING, [np.ones(4, np.float32), None], dims=[4], memory=8)
    assert run(n) == (2, 3, 16, 0)


@pytest.mark.parametrize("n", [1, 3])
def test_fail_ends_the_run_and_the_first_failure_stays(n: int) -> None:
    text = (
        KERNELS
        + """
def run(dims: i64[2], io0: f32[4]):
    if dims[0] > 3:
        fail(3, dims[0], 3)
    shift(io0, io0, 4)
    if dims[1] == 0:
        fail(1, 7, 8)
    shift(io0, io0, 4)
"""
    )
    x = np.zeros(4, np.float32)
    assert Run(text, [x], dims=[9, 0])(n) == (3, 9, 3, 0)
    assert x[0] == 0
    run = Run(text, [x], dims=[1, 0])
    assert run(n) == (1, 7, 8, 0)
    assert run(n) == (1, 7, 8, 0)
    assert x[0] == 2


def test_marks() -> None:
    text = (
        KERNELS
        + """
def run(io0: f32[4]):
    mark(0)
    shift(io0, io0, 4)
    mark(3)
"""
    )
    run = Run(text, [np.zeros(4, np.float32)])
    run(2)
    np.testing.assert_array_equal(run.trace[:4], [10, 0, 0, 20])


def test_plan() -> None:
    target = runnable("x86-64-avx2")
    plan = read_func(
        """
def plan(dims: i64[2], out: i64[3]):
    a: index = index(dims[0])
    out[0] = i64((a * 4 + 63) // 64 * 64)
    out[1] = dims[1] * 3
    out[2] = i64(min(a, 8))
"""
    )
    blob = Blob([emit_plan(plan, target)], ["plan"], target)
    call = blob.function("plan", ctypes.c_void_p, ctypes.c_void_p)
    dims, out = np.array([17, 5], np.int64), np.zeros(3, np.int64)
    call(dims.ctypes.data, out.ctypes.data)
    np.testing.assert_array_equal(out, [128, 15, 8])


def driver_of(text: str) -> tuple[Func, list[Func]]:
    *kernels, driver = read_module(text).values()
    return driver, kernels


@pytest.mark.parametrize("name", list(TARGETS))
def test_every_target_compiles(name: str) -> None:
    """Kernels are all that a driver leaves undefined; wasm's structures have short pointers."""
    text = GROWING.replace("double(io0, io1, n)", "double(io0, io1, n, threads=3)\n    mark(2)")
    driver, kernels = driver_of(text)
    target = TARGETS[name]
    llvm = emit_driver(driver, target, {b: role(b.name) for b in driver.buffers}, kernels)
    missing = set(undefined_symbols(compile_module(llvm, target)))
    assert missing - {"__linear_memory", "__stack_pointer", "__indirect_function_table"} == {
        "double"
    }
    error = "i64 56" if target.pointer_bits == 64 else "i32 32"
    assert f"getelementptr i8, ptr %ctx, {error}" in llvm


def test_errors() -> None:
    target = TARGETS["x86-64-avx2"]
    driver, kernels = driver_of(KERNELS + "\ndef run(io0: f32[4]):\n    shift(io0, io0, 4)\n")
    with pytest.raises(IRError, match="unknown role 'nowhere'"):
        emit_driver(driver, target, {driver.buffers[0]: "nowhere"}, kernels)
    with pytest.raises(IRError, match="a kernel cannot invoke"):
        emit_kernel(driver, target)
