"""LLVM text to objects: every target, determinism, worker processes, what the assembly shows."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from naru import knobs
from naru.artifact.cache import Cache
from naru.codegen import objects, workers
from naru.codegen.objects import (
    add_attributes,
    assembly,
    compile_module,
    compile_modules,
    count_spills,
    spills_by_function,
    undefined_symbols,
)
from naru.errors import IRError
from naru.targets import TARGETS

AVX512 = TARGETS["x86-64-avx512"]


def gemm(rows: int, vectors: int, lanes: int = 16, name: str = "gemm") -> str:
    """An outer-product tile of rows x vectors accumulators, kept in phi nodes."""
    v = f"<{lanes} x float>"
    tile = [(m, n) for m in range(rows) for n in range(vectors)]
    lines = [
        f"declare {v} @llvm.fma.v{lanes}f32({v}, {v}, {v})",
        f"define void @{name}(ptr noalias %a, ptr noalias %b, ptr noalias %c, i64 %k) nounwind {{",
        "entry:\n br label %loop\nloop:\n %i = phi i64 [0, %entry], [%next, %loop]",
        *(f" %c{m}_{n} = phi {v} [zeroinitializer, %entry], [%d{m}_{n}, %loop]" for m, n in tile),
        f" %ib = mul i64 %i, {vectors * lanes}\n %ia = mul i64 %i, {rows}",
    ]
    for n in range(vectors):
        lines.append(f" %ob{n} = add i64 %ib, {n * lanes}")
        lines.append(f" %pb{n} = getelementptr float, ptr %b, i64 %ob{n}")
        lines.append(f" %b{n} = load {v}, ptr %pb{n}, align 64")
    for m in range(rows):
        lines.append(f" %oa{m} = add i64 %ia, {m}")
        lines.append(f" %pa{m} = getelementptr float, ptr %a, i64 %oa{m}")
        lines.append(f" %s{m} = load float, ptr %pa{m}")
        lines.append(f" %e{m} = insertelement {v} poison, float %s{m}, i32 0")
        splat = f"shufflevector {v} %e{m}, {v} poison, <{lanes} x i32> zeroinitializer"
        lines.append(f" %a{m} = {splat}")
    for m, n in tile:
        fma = f"call {v} @llvm.fma.v{lanes}f32({v} %a{m}, {v} %b{n}, {v} %c{m}_{n})"
        lines.append(f" %d{m}_{n} = {fma}")
    lines.append(" %next = add i64 %i, 1\n %more = icmp ult i64 %next, %k")
    lines.append(" br i1 %more, label %loop, label %end\nend:")
    for m, n in tile:
        lines.append(f" %p{m}_{n} = getelementptr float, ptr %c, i64 {(m * vectors + n) * lanes}")
        lines.append(f" store {v} %d{m}_{n}, ptr %p{m}_{n}, align 64")
    return "\n".join([*lines, " ret void\n}\n"])


def amx(rows: int, columns: int) -> str:
    """rows x columns accumulator tiles of bf16 products; all operand tiles are loaded first."""
    tile = [(m, n) for m in range(rows) for n in range(columns)]
    intrinsic, t = "@llvm.x86.{}.internal", "x86_amx"
    zero, load = intrinsic.format("tilezero"), intrinsic.format("tileloadd64")
    product, store = intrinsic.format("tdpbf16ps"), intrinsic.format("tilestored64")
    lines = [
        f"declare {t} {zero}(i16, i16)",
        f"declare {t} {load}(i16, i16, ptr, i64)",
        f"declare {t} {product}(i16, i16, i16, {t}, {t}, {t})",
        f"declare void {store}(i16, i16, ptr, i64, {t})",
        "define void @f(ptr %a, ptr %b, ptr %c, i64 %k) {\nentry:",
        *(f" %z{m}_{n} = call {t} {zero}(i16 16, i16 64)" for m, n in tile),
        " br label %loop\nloop:\n %i = phi i64 [0, %entry], [%next, %loop]",
        *(f" %c{m}_{n} = phi {t} [%z{m}_{n}, %entry], [%d{m}_{n}, %loop]" for m, n in tile),
        " %at = mul i64 %i, 1024",
    ]
    for side, count in (("a", rows), ("b", columns)):
        for k in range(count):
            lines.append(f" %o{side}{k} = add i64 %at, {k << 16}")
            lines.append(f" %p{side}{k} = getelementptr i8, ptr %{side}, i64 %o{side}{k}")
            operands = f"i16 16, i16 64, ptr %p{side}{k}, i64 64"
            lines.append(f" %{side}{k} = call {t} {load}({operands})")
    for m, n in tile:
        operands = f"i16 16, i16 64, i16 64, {t} %c{m}_{n}, {t} %a{m}, {t} %b{n}"
        lines.append(f" %d{m}_{n} = call {t} {product}({operands})")
    lines.append(" %next = add i64 %i, 1\n %more = icmp ult i64 %next, %k")
    lines.append(" br i1 %more, label %loop, label %end\nend:")
    for m, n in tile:
        lines.append(f" %p{m}_{n} = getelementptr i8, ptr %c, i64 {(m * columns + n) * 1024}")
        operands = f"i16 16, i16 64, ptr %p{m}_{n}, i64 64, {t} %d{m}_{n}"
        lines.append(f" call void {store}({operands})")
    return "\n".join([*lines, " ret void\n}\n"])


CLEAR = """
define void @clear(ptr %p, i64 %n) {
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%next, %loop]
  %at = getelementptr i8, ptr %p, i64 %i
  store i8 0, ptr %at
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %n
  br i1 %more, label %loop, label %end
end:
  ret void
}
"""

CALLS = """
declare void @kernel(ptr)
define void @driver(ptr %p) {
  call void @kernel(ptr %p)
  ret void
}
"""


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_compiles(name: str) -> None:
    obj = compile_module(gemm(4, 2, TARGETS[name].lanes("f32")), TARGETS[name])
    assert obj[:4] == (b"\0asm" if name.startswith("wasm") else b"\x7fELF")
    # Without a vector FMA, LLVM calls C's fmaf for each lane: such targets must get mul and add.
    assert undefined_symbols(obj) == (() if TARGETS[name].has_fma else ("fmaf",))


@pytest.mark.parametrize("name", TARGETS)
def test_loops_do_not_become_library_calls(name: str) -> None:
    assert undefined_symbols(compile_module(CLEAR, TARGETS[name])) == ()


@pytest.mark.parametrize("name", TARGETS)
def test_undefined_symbols_are_found(name: str) -> None:
    assert undefined_symbols(compile_module(CALLS, TARGETS[name])) == ("kernel",)


def test_undefined_symbols_of_something_else() -> None:
    with pytest.raises(IRError, match="neither 64-bit ELF nor wasm"):
        undefined_symbols(b"MZ" + bytes(100))


def test_objects_are_deterministic() -> None:
    first = compile_module(gemm(6, 4), AVX512)
    compile_module(gemm(7, 3, name="other"), AVX512)
    assert compile_module(gemm(6, 4), AVX512) == first


def test_accumulators_stay_in_registers() -> None:
    assert count_spills(assembly(gemm(12, 2), AVX512)) == 0
    assert spills_by_function(assembly(gemm(14, 2), AVX512)) == {"gemm": 0}


def test_spills_are_counted() -> None:
    asm = assembly(gemm(9, 4), AVX512)  # 36 accumulators for 32 registers
    assert count_spills(asm) >= 4
    narrow = assembly(gemm(9, 4, 8), TARGETS["x86-64-avx2"])
    assert count_spills(narrow) > count_spills(asm)
    assert count_spills(assembly(gemm(12, 4, 4), TARGETS["aarch64-neon"])) > 0


def test_spills_of_each_function() -> None:
    two = gemm(4, 2, name="good") + gemm(9, 4, name="bad").split("\n", 1)[1]
    counts = spills_by_function(assembly(two, AVX512))
    assert counts["good"] == 0
    assert counts["bad"] > 0


def test_spills_of_tiles() -> None:
    assert count_spills(assembly(amx(2, 2), TARGETS["x86-64-amx"])) == 0
    assert count_spills(assembly(amx(1, 4), TARGETS["x86-64-amx"])) > 0  # nine tiles of eight


def test_tile_configuration_is_no_spill() -> None:
    asm = (
        "f:\n\tvmovups\t%zmm0, -64(%rsp)\n\tmovb\t$1, -64(%rsp)\n\tldtilecfg\t-64(%rsp)\n"
        "\ttileloadd\t(%rsi,%rax), %tmm0\n"
    )
    assert spills_by_function(asm) == {"f": 0}
    spilled = asm + "\ttilestored\t%tmm0, 64(%rsp,%rax)\n"
    assert spills_by_function(spilled) == {"f": 1}


def test_rbp_counts_only_as_frame_pointer() -> None:
    access = "\tvmovups\t%zmm0, -64(%rbp)\n"
    assert count_spills("f:\n" + access) == 0
    assert count_spills("f:\n\tmovq\t%rsp, %rbp\n" + access) == 1


def test_attributes_are_added() -> None:
    text = "define internal i64 @f(ptr dereferenceable(8) %p) #0 !dbg !1 {\n  ret i64 0\n}\n"
    head = add_attributes(text, AVX512).splitlines()[0]
    assert head.startswith("define internal i64 @f(ptr dereferenceable(8) %p) ")
    assert head.endswith("#0 align 64 !dbg !1 {")
    assert '"tune-cpu"="sapphirerapids"' in head
    aligned = "define void @f() align 32 {\n  ret void\n}\n"
    assert "align 64" not in add_attributes(aligned, AVX512)
    assert ".p2align\t6" in assembly("define void @f() {\n  ret void\n}\n", AVX512)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("define void @f() {\n  %x = add i32 1, 2.0\n  ret void\n}\n", "constant invalid"),
        ("define void @f(i1 %c) {\n  br i1 %c, label %a, label %b\na:\n  %x = add i32 1, 1\n"
         "  ret void\nb:\n  %y = add i32 %x, 1\n  ret void\n}\n", "dominate"),
        ("nonsense", "expected top-level entity"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("count", [0, 1])
def test_bad_text(text: str, said: str, count: int) -> None:
    with pytest.raises(IRError, match=r"LLVM refuses the module: [\s\S]*" + said):
        compile_modules([text], AVX512, workers=count)


def test_workers_give_the_same_objects() -> None:
    texts = [gemm(1 + k % 4, 1 + k % 2, name=f"g{k}") for k in range(6)]
    texts.append(texts[0])
    progress: list[tuple[int, int]] = []
    made = compile_modules(
        texts, AVX512, workers=2, on_progress=lambda done, total: progress.append((done, total))
    )
    assert made == compile_modules(texts, AVX512, workers=0)
    assert progress == [(k, 6) for k in range(1, 7)]


def test_store_saves_compiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Cache(tmp_path, 1 << 20)
    texts = [gemm(2, 2, name="one"), gemm(3, 2, name="two")]
    made = compile_modules(texts, AVX512, workers=0, store=store)
    assert store.usage().entries == 2

    def refuse(*_: object, **__: object) -> bytes:
        raise AssertionError

    monkeypatch.setattr(objects, "compile_module", refuse)
    assert compile_modules(texts, AVX512, workers=0, store=store) == made
    with pytest.raises(AssertionError):
        compile_modules(texts, TARGETS["x86-64-avx2"], workers=0, store=store)


def test_no_texts() -> None:
    assert compile_modules([], AVX512, workers=2) == []


def test_the_knob_chooses_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(objects, "WorkerPool", refuse)
    with knobs.scope(workers=0):
        assert compile_modules([CLEAR], AVX512)
    with knobs.scope(workers=2), pytest.raises(AssertionError):
        compile_modules([CLEAR], AVX512)
    with knobs.scope(workers=None):
        assert compile_modules([CLEAR], AVX512)  # too little to start a process for


def _children() -> set[int]:
    return {int(p) for p in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")

SLOW = "\n".join(gemm(14, 2, name=f"g{k}").split("\n", k > 0)[-1] for k in range(300))


@needs_proc
def test_a_dying_worker_is_an_error() -> None:
    before = _children()

    def kill() -> None:
        while not (found := _children() - before):
            time.sleep(0.01)
        os.kill(min(found), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(workers.WorkerError, match=r"ended by SIGKILL[\s\S]*NARU_WORKERS=0"):
        compile_modules([SLOW], AVX512, workers=1)
    assert _children() == before


def test_what_a_dying_worker_said_is_quoted() -> None:
    with (
        pytest.raises(workers.WorkerError, match=r"exit code 1; it said:[\s\S]*no_such_module"),
        workers.WorkerPool("naru.no_such_module", b"", 1) as pool,
    ):
        list(pool.run([b"x"]))


@needs_proc
def test_interrupting_ends_the_workers() -> None:
    before = _children()

    def interrupt() -> None:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        compile_modules([SLOW, SLOW + "\n"], AVX512, workers=2)
    assert time.perf_counter() - start < 2
    assert _children() == before
