"""One function on every target by the same machinery: only schedules, as data, differ.

The loop IR of each is run by the interpreter, and what the compiled code gives is compared with it:
bit by bit, except for AMX and Triton, which add in an order of their own. Golden files hold the
schedule and the loop IR of each target, and Triton's source.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from naru.artifact.wasm import link_wasm
from naru.codegen.llvm import emit_kernel
from naru.codegen.objects import assembly, compile_module, undefined_symbols
from naru.codegen.triton import emit_triton
from naru.ir import interp
from naru.ir.expr import Var
from naru.ir.loop import Func
from naru.ir.text_loop import print_func, read_func
from naru.ir.verify import verify
from naru.runtime import _native
from naru.targets import TARGETS
from tests.codegen.native import Native, runnable
from tests.targets import machine
from tests.targets.arm import Arm
from tests.targets.dense import (
    PANELS,
    PLANS,
    Data,
    K,
    M,
    N,
    dense,
    lowered,
    make_data,
    plan_function,
    replayed,
    schedule_text,
)

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "targets"
# Relative to the largest result; f32 sums of 64 products.
ROUNDING = 2e-6


def interpreted(func: Func, data: Data, threads: int = 1) -> np.ndarray:
    out = np.full(data.expected.shape, np.nan, np.float32)
    interp.run(func, [*data.operands, out], threads=threads, shuffle=3)
    return out


def check_close(found: np.ndarray, data: Data) -> None:
    largest = np.abs(data.expected).max()
    np.testing.assert_allclose(found, data.expected, rtol=0, atol=ROUNDING * largest)


def check_golden(path: Path, text: str, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


# ---- the same machinery for all ----


@pytest.mark.parametrize("name", PLANS)
def test_schedule_and_loops(name: str, request: pytest.FixtureRequest) -> None:
    _, func = lowered(name, plan_function(name))
    assert verify(func) == []
    text = f"{schedule_text(name)}\n\n{print_func(func)}"
    check_golden(GOLDEN / f"{name}.txt", text, request)


@pytest.mark.parametrize("name", PLANS)
def test_schedule_is_data(name: str) -> None:
    """The text of the schedule alone gives the same loops, and their text is read back."""
    text = print_func(lowered(name, plan_function(name))[1])
    assert print_func(replayed(name, plan_function(name), schedule_text(name))) == text
    assert print_func(read_func(text)) == text


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("threads", [1, 3])
def test_meaning(name: str, threads: int) -> None:
    _, func = lowered(name, plan_function(name))
    data = make_data(name)
    check_close(interpreted(func, data, threads), data)


# ---- native code ----


@pytest.mark.parametrize("name", ["x86-64-avx2", "x86-64-avx512"])
def test_x86(name: str) -> None:
    target = runnable(name)
    _, func = lowered(name, plan_function(name))
    data = make_data(name)
    kernel, expected = Native(func, target), interpreted(func, data)
    for n in (1, 2):
        out = np.full((M, N), np.nan, np.float32)
        for tid in range(n):
            kernel(*data.operands, out, tid=tid, n=n)
        np.testing.assert_array_equal(out, expected)


def test_amx() -> None:
    target = runnable("x86-64-amx")
    assert _native.request_amx(), "the CPU has AMX, but the kernel does not permit it"
    _, func = lowered("x86-64-amx", plan_function("x86-64-amx"))
    data = make_data("x86-64-amx")
    kernel = Native(func, target)
    assert kernel.text.count("@llvm.x86.tdpbf16ps") == 2 * 2 + 2 * 2 + 2 + 2
    for n in (1, 2):
        out = np.full((M, N), np.nan, np.float32)
        for tid in range(n):
            kernel(*data.operands, out, tid=tid, n=n)
        check_close(out, data)


def test_amx_schedule_without_matrix_registers() -> None:
    """The same loop IR means the same where there are none: multiplies and adds."""
    target = runnable("x86-64-avx2")
    _, func = lowered("x86-64-amx", plan_function("x86-64-amx"))
    data = make_data("x86-64-amx")
    out = np.full((M, N), np.nan, np.float32)
    Native(func, target)(*data.operands, out)
    np.testing.assert_array_equal(out, interpreted(func, data))


@pytest.mark.parametrize("name", ["aarch64-neon", "wasm32-simd128", "wasm32-relaxed"])
def test_compiles_alone(name: str) -> None:
    """Code for other machines needs nobody: no library, no undefined symbol."""
    target = TARGETS[name]
    _, func = lowered(name, plan_function(name))
    assert undefined_symbols(compile_module(emit_kernel(func, target), target)) == ()


@pytest.mark.slow
def test_neon(tmp_path: Path) -> None:
    target = TARGETS["aarch64-neon"]
    _, func = lowered("aarch64-neon", plan_function("aarch64-neon"))
    data = make_data("aarch64-neon")
    kernel = compile_module(emit_kernel(func, target), target)
    with Arm(tmp_path) as arm:
        out = arm.run_kernel(kernel, func, data.operands, np.empty((M, N), np.float32))
    np.testing.assert_array_equal(out, interpreted(func, data))


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["wasm32-simd128", "wasm32-relaxed"])
def test_wasm(name: str, threads: int, tmp_path: Path) -> None:
    target = TARGETS[name]
    _, func = lowered(name, plan_function(name))
    data = make_data(name)
    kernel = compile_module(emit_kernel(func, target), target)
    module = link_wasm([("dense", kernel)], ["dense"])
    result = np.empty((M, N), np.float32)
    out = machine.run_node(module, "dense", data.operands, result, tmp_path, threads)
    if name == "wasm32-relaxed":  # rounds once or twice, as the engine likes
        check_close(out, data)
    else:
        np.testing.assert_array_equal(out, interpreted(func, data))


@pytest.mark.parametrize("name", ["wasm32-simd128", "wasm32-relaxed"])
def test_wasm_loop_is_bare(name: str) -> None:
    """The loop over k moves two pointers and a counter on; all other addresses are offsets, and
    each multiply-add is one instruction or two."""
    target = TARGETS[name]
    _, func = lowered(name, dense(32, 32, 64, layout=PANELS))
    text = assembly(emit_kernel(func, target), target)
    loop = text[text.rindex("\tloop", 0, text.index("end_loop")) : text.index("end_loop")]
    found = Counter(re.findall(r"\b(?:i32|f32x4|v128)\.\w+", loop))
    sums = {"f32x4.relaxed_madd": 8} if "relaxed" in name else {"f32x4.mul": 8, "f32x4.add": 8}
    operands = {"v128.load32_splat": 4, "v128.load": 2}
    assert found == sums | operands | {"i32.add": 3, "i32.const": 3}


# ---- Triton ----


def any_size() -> Func:
    """The kernel for sizes that come at run time."""
    return lowered("triton", dense(Var("m"), Var("n"), Var("k")))[1]


def test_triton_source(request: pytest.FixtureRequest) -> None:
    fixed = emit_triton(lowered("triton", plan_function("triton"))[1])
    check_golden(GOLDEN / "triton_fixed.py.txt", fixed, request)
    check_golden(GOLDEN / "triton_any_size.py.txt", emit_triton(any_size()), request)


INTERPRET = """
import sys
import numpy as np, torch
sys.path.insert(0, sys.argv[1])
import kernel
data = np.load(sys.argv[2])
sizes = [int(x) for x in sys.argv[4:]]
a, b, bias = (torch.from_numpy(data[x]) for x in ("a", "b", "bias"))
out = torch.full((a.shape[0], b.shape[1]), float("nan"))
kernel.dense[kernel.dense_grid(*sizes)](a, b, bias, out, *sizes)
np.save(sys.argv[3], out.numpy())
"""

COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
sys.path.insert(0, sys.argv[1])
import kernel
element = sys.argv[2]
types = {x: "*" + element for x in ("A", "B")} | {x: "*fp32" for x in ("bias", "out")}
types |= {x: "i32" for x in sys.argv[3:]}
source = ASTSource(fn=kernel.dense, signature=types, constexprs={})
print(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"])
"""


def run_python(program: str, *args: object, interpret: bool) -> str:
    """A Python program in a process of its own, as Triton decides at import what it is."""
    if importlib.util.find_spec("triton") is None or importlib.util.find_spec("torch") is None:
        pytest.fail("Triton or torch is not installed; try: pip install -e '.[test,triton]'")
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    if interpret:
        env["TRITON_INTERPRET"] = "1"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *map(str, args)],
        env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(), (37, 50, 53)], ids=["fixed", "any_size"])
def test_triton_interpreter(sizes: tuple[int, ...], tmp_path: Path) -> None:
    func = any_size() if sizes else lowered("triton", plan_function("triton"))[1]
    m, n, k = sizes or (M, N, K)
    data = make_data("triton", m=m, n=n, k=k)
    (tmp_path / "kernel.py").write_text(emit_triton(func), encoding="utf-8")
    np.savez(tmp_path / "data.npz", a=data.a, b=data.b, bias=data.bias)
    given = {"m": m, "n": n, "k": k}
    order = [given[v.name] for v in func.sizes]
    out = tmp_path / "out.npy"
    run_python(INTERPRET, tmp_path, tmp_path / "data.npz", out, *order, interpret=True)
    check_close(np.load(out), data)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "element", "instruction"), [
    ("f32", "fp32", "fma.rn.f32"),
    ("bf16", "bf16", "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"),
])  # fmt: skip
def test_triton_compiles(dtype: str, element: str, instruction: str, tmp_path: Path) -> None:
    """To code for a GPU that is not here."""
    func = lowered("triton", dense(Var("m"), Var("n"), Var("k"), dtype))[1]
    (tmp_path / "kernel.py").write_text(emit_triton(func), encoding="utf-8")
    sizes = [v.name for v in func.sizes]
    assert instruction in run_python(COMPILE, tmp_path, element, *sizes, interpret=False)
