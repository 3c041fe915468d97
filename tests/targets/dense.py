"""The function that is taken to every target, max(a @ b + bias, 0), and how each target does it."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from naru.ir.expr import Binary, Cast, Const, Expr, Read
from naru.ir.graph import Layout
from naru.ir.loop import Func
from naru.ir.tensor import Tensor, TensorFunction
from naru.ops.registry import Emit, dims
from naru.schedule.algorithms import apply_algorithm
from naru.schedule.default import default_schedule
from naru.schedule.lower import lower
from naru.schedule.prepare import prepare
from naru.schedule.steps import Schedule, print_schedule, read_schedule
from naru.schedule.weights import pack
from naru.targets import TARGETS

M, N, K = 37, 50, 64  # no tile fits m or n

PANELS = Layout((1, 0), (1, 16))  # [n / 16, k, 16]
PAIRS = Layout((0, 1), (0, 2))  # [k / 2, n, 2]

# Matrix registers of 16 x 16 floats, 2 x 2 of them at a time; what is left by smaller ones.
AMX = """
algorithm('direct', 'join B')
split('out', 'i0', (32, 5))
split('out', 'i1', (32, 18))
split('out', 'i1.i', (16, 2))
order('out', ('i0.o', 'i1.o', 'i0.i', 'i1.i.o', 'i1.i.i'))
parallel('out', 'i0.o')
vectorize('out', 'i1.i.i')
compute_at('R0', 'out', 'i1.o')
split('R0', 'i0', (16, 5))
split('R0', 'i1', (16, 2))
split('R0', 'k0', (32,))
order('R0', ('k0.o', 'i0.o', 'i1.o', 'i0.i', 'i1.i', 'k0.i'))
unroll('R0', 'i0.o')
unroll('R0', 'i1.o')
tensorize('R0', 'i0.i', 'i1.i', 'k0.i', 'amx_bf16')
"""

# One block of 32 x 32 a program; masks at the edges.
TRITON = """
algorithm('direct')
split('out', 'i0', (32,), (0,))
split('out', 'i1', (32,), (0,))
order('out', ('i0.o', 'i1.o', 'i0.i', 'i1.i'))
parallel('out', 'i0.o')
parallel('out', 'i1.o')
vectorize('out', 'i0.i')
vectorize('out', 'i1.i')
compute_at('R0', 'out', 'i1.o')
split('R0', 'k0', (16,))
order('R0', ('k0.o', 'i0', 'i1', 'k0.i'))
tensorize('R0', 'i0', 'i1', 'k0.i', 'dot')
"""


@dataclass(frozen=True)
class Plan:
    """dtype of the operands, layout of b, schedule (None: the default of the target)."""

    dtype: str = "f32"
    layout: Layout | None = PANELS
    schedule: str | None = None


PLANS = {
    "x86-64-avx2": Plan(),
    "x86-64-avx512": Plan(),
    "x86-64-amx": Plan("bf16", PAIRS, AMX),
    "aarch64-neon": Plan(),
    "wasm32-simd128": Plan(),
    "wasm32-relaxed": Plan(),
    "triton": Plan("f32", None, TRITON),
}


def dense(
    m: int | Expr, n: int | Expr, k: int | Expr, dtype: str = "f32", layout: Layout | None = None
) -> TensorFunction:
    """out[m, n] = max(sum over k of A[m, k] * B[k, n] + bias[n], 0), summed in f32."""
    e = Emit()
    a = Tensor("A", dtype, dims(m, k))
    b = Tensor("B", dtype, dims(k, n), layout)
    bias = Tensor("bias", "f32", dims(n))

    def wide(x: Expr) -> Expr:
        return x if x.dtype == "f32" else Cast(x, "f32")

    c = e.reduce(
        "C",
        dims(m, n),
        dims(k),
        "add",
        lambda i, r: Binary("mul", wide(Read(a, (i[0], r[0]))), wide(Read(b, (r[0], i[1])))),
    )
    out = e.stage(
        "out",
        dims(m, n),
        lambda i, j: Binary(
            "max", Binary("add", Read(c, (i, j)), Read(bias, (j,))), Const(0.0, "f32")
        ),
    )
    return TensorFunction("dense", (a, b, bias), tuple(e.stages), (out,))


def lowered(name: str, tf: TensorFunction) -> tuple[Schedule, Func]:
    """The function for a target: the schedule, and the loop IR that it gives."""
    plan, prepared = PLANS[name], prepare(tf)
    fma = name not in TARGETS or TARGETS[name].has_multiply_add
    if plan.schedule is None:
        made, schedule = default_schedule(prepared, TARGETS[name])
    else:
        schedule = read_schedule(plan.schedule)
        made = apply_algorithm(prepared, schedule.algorithm)
    return schedule, lower(made, schedule, "dense", fma=fma)


def replayed(name: str, tf: TensorFunction, text: str) -> Func:
    """The same from the text of the schedule alone."""
    schedule = read_schedule(text)
    fma = name not in TARGETS or TARGETS[name].has_multiply_add
    return lower(apply_algorithm(prepare(tf), schedule.algorithm), schedule, "dense", fma=fma)


def plan_function(name: str) -> TensorFunction:
    """`dense` at the sizes of the proof, in the dtype and layout of a target."""
    return dense(M, N, K, PLANS[name].dtype, PLANS[name].layout)


def schedule_text(name: str) -> str:
    """The schedule as it is printed."""
    return print_schedule(lowered(name, plan_function(name))[0])


@dataclass(frozen=True)
class Data:
    """Operands (b as it lies in memory), and the result in double precision."""

    a: np.ndarray
    b: np.ndarray
    bias: np.ndarray
    expected: np.ndarray

    @property
    def operands(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.a, self.b, self.bias


def make_data(name: str, *, m: int = M, n: int = N, k: int = K) -> Data:
    """Random operands for a target, 64-byte aligned."""
    plan = PLANS[name]
    rng = np.random.default_rng(7)
    dtype = np.dtype(ml_dtypes.bfloat16 if plan.dtype == "bf16" else np.float32)
    a, b = (rng.standard_normal(s).astype(dtype) for s in ((m, k), (k, n)))
    bias = rng.standard_normal(n).astype(np.float32)
    expected = np.maximum(a.astype(np.float64) @ b.astype(np.float64) + bias, 0)
    packed = b if plan.layout is None else pack(b, plan.layout)
    return Data(aligned(a), aligned(packed), aligned(bias), expected)


def aligned(x: np.ndarray) -> np.ndarray:
    """A copy at a multiple of 64 bytes."""
    memory = np.zeros(x.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    out = memory[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    out[...] = x
    return out
