"""Dot products and matrix products of 8-bit integers and bf16: the same loops through the
interpreter and through each target's instructions, and as multiplies and adds where it has none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from naru.codegen.llvm import emit_kernel
from naru.codegen.objects import assembly, compile_module, count_spills
from naru.ir import interp
from naru.ir.expr import Binary, Cast, Read
from naru.ir.graph import Layout
from naru.ir.loop import Func
from naru.ir.tensor import Tensor, TensorFunction
from naru.ops.registry import Emit, dims
from naru.schedule.algorithms import apply_algorithm
from naru.schedule.lower import lower
from naru.schedule.prepare import prepare
from naru.schedule.steps import read_schedule
from naru.schedule.weights import pack
from naru.targets import TARGETS
from tests.codegen.native import Native, runnable
from tests.targets.arm import Arm

M, N, K = 41, 52, 64  # a last tile that has an odd number of rows, and one of few columns
KINDS = {"i8": np.int8, "u8": np.uint8, "bf16": ml_dtypes.bfloat16}
STEPS = """
algorithm('direct', 'join B')
split('out', 'i0', (6, 5))
split('out', 'i1', (16, 4))
split('out', 'i1.i', (4,))
order('out', ('i0.o', 'i1.o', 'i0.i', 'i1.i.o', 'i1.i.i'))
parallel('out', 'i0.o')
unroll('out', 'i0.i')
unroll('out', 'i1.i.o')
vectorize('out', 'i1.i.i')
compute_at('R0', 'out', 'i1.o')
split('R0', 'k0', ({k},))
order('R0', ('k0.o', 'i0', 'i1', 'k0.i'))
tensorize('R0', 'i0', 'i1', 'k0.i', '{instruction}')
"""


@dataclass(frozen=True)
class Product:
    """An instruction of schedules, the dtypes of its operands, and what it becomes on AArch64."""

    instruction: str
    a: str
    b: str
    group: int
    mnemonic: str
    target: str = "aarch64-i8mm"

    def __str__(self) -> str:
        return f"{self.instruction}-{self.a}-{self.b}-{self.mnemonic}"

    @property
    def result(self) -> str:
        return "f32" if self.a == "bf16" else "i32"


PRODUCTS = (
    Product("dot4_int8", "i8", "i8", 4, "sdot", "aarch64-dotprod"),
    Product("dot4_int8", "u8", "u8", 4, "udot", "aarch64-dotprod"),
    Product("dot4_int8", "u8", "i8", 4, "usdot"),
    Product("dot4_int8", "i8", "u8", 4, "usdot"),
    Product("dot2_bf16", "bf16", "bf16", 2, "bfdot"),
    Product("mmla_int8", "i8", "i8", 8, "smmla"),
    Product("mmla_int8", "u8", "u8", 8, "ummla"),
    Product("mmla_int8", "u8", "i8", 8, "usmmla"),
    Product("mmla_bf16", "bf16", "bf16", 4, "bfmmla"),
)


def product(p: Product) -> Func:
    """out[m, n] = sum over k of a[m, k] * b[k, n], by the instruction."""
    e = Emit()
    a = Tensor("A", p.a, dims(M, K))
    b = Tensor("B", p.b, dims(K, N), Layout((0, 1), (0, p.group)))
    e.reduce("C", dims(M, N), dims(K), "add", lambda i, r: Binary(
        "mul", Cast(Read(a, (i[0], r[0])), p.result), Cast(Read(b, (r[0], i[1])), p.result)
    ))  # fmt: skip
    tf = prepare(TensorFunction("product", (a, b), tuple(e.stages), (e.stages[-1].tensor,)))
    schedule = read_schedule(STEPS.format(k=p.group, instruction=p.instruction))
    return lower(apply_algorithm(tf, schedule.algorithm), schedule, "product")


def operands(p: Product) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Over the whole range of the integers; a, b as it lies in memory, and the result."""
    rng = np.random.default_rng(3)
    if p.a == "bf16":
        a, b = (rng.standard_normal(s).astype(KINDS["bf16"]) for s in ((M, K), (K, N)))
        return a, pack(b, Layout((0, 1), (0, p.group))), a.astype(float) @ b.astype(float)
    a, b = (
        rng.integers(np.iinfo(KINDS[t]).min, np.iinfo(KINDS[t]).max, s, KINDS[t], endpoint=True)
        for s, t in (((M, K), p.a), ((K, N), p.b))
    )
    return a, pack(b, Layout((0, 1), (0, p.group))), a.astype(np.int64) @ b.astype(np.int64)


def check(p: Product, found: np.ndarray) -> None:
    """Integers are exact. Sums of bf16 are made in another order, and on AArch64 rounded to odd."""
    expected = operands(p)[2]
    if p.result == "i32":
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=0, atol=4e-6 * np.abs(expected).max())


def empty(p: Product) -> np.ndarray:
    return np.zeros((M, N), np.float32 if p.result == "f32" else np.int32)


@pytest.mark.parametrize("p", PRODUCTS, ids=str)
def test_meaning(p: Product) -> None:
    out = empty(p)
    interp.run(product(p), [*operands(p)[:2], out])
    check(p, out)


@pytest.mark.parametrize("p", PRODUCTS, ids=str)
def test_instructions(p: Product) -> None:
    """All products are made by the instruction, in registers."""
    target = TARGETS[p.target]
    text = assembly(emit_kernel(product(p), target), target)
    assert re.search(rf"\b{p.mnemonic}\s", text)
    assert not re.search(r"\b(mul|mla|fmla|fmadd|madd)\s+v", text)
    assert count_spills(text) == 0


@pytest.mark.parametrize("p", PRODUCTS, ids=str)
@pytest.mark.parametrize("name", ["x86-64-amx", "x86-64-avx2"])
def test_on_x86(p: Product, name: str) -> None:
    """By VNNI where the table has it, else by multiplies and adds."""
    if name == "x86-64-amx" and p.instruction.startswith("mmla"):
        return  # its matrix registers are others
    out, kernel = empty(p), Native(product(p), runnable(name))
    kernel(*operands(p)[:2], out)
    check(p, out)
    if name == "x86-64-amx" and (p.a, p.b) in (("u8", "i8"), ("i8", "u8")):
        assert "vpdpbusd" in kernel.text
    if name == "x86-64-amx" and p.a == "bf16":
        assert "dpbf16ps" in kernel.text


@pytest.mark.slow
@pytest.mark.parametrize("p", PRODUCTS, ids=str)
@pytest.mark.parametrize("name", ["aarch64-neon", ""], ids=["without", "with"])
def test_on_arm(p: Product, name: str, tmp_path: Path) -> None:
    """As instructions, and as multiplies and adds on a CPU that has no such instructions."""
    target, func = TARGETS[name or p.target], product(p)
    with Arm(tmp_path, "max" if name == "" else "cortex-a57") as arm:
        kernel = compile_module(emit_kernel(func, target), target)
        check(p, arm.run_kernel(kernel, func, operands(p)[:2], empty(p)))
