"""Small programs in LLVM IR that keep the contract of abi.h, as bundles to run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llvmlite.binding as llvm

from naru.artifact.link import link
from naru.runtime import session
from naru.runtime.model import Model

TRIPLE = "x86_64-unknown-linux-gnu"

# Pointers of naru_ctx that every program may want.
PRELUDE = """
  %host_p = getelementptr i8, ptr %ctx, i64 0
  %host = load ptr, ptr %host_p
  %weights_p = getelementptr i8, ptr %ctx, i64 8
  %weights = load ptr, ptr %weights_p
  %arena_p = getelementptr i8, ptr %ctx, i64 16
  %arena = load ptr, ptr %arena_p
  %io_p = getelementptr i8, ptr %ctx, i64 24
  %io = load ptr, ptr %io_p
  %dims_p = getelementptr i8, ptr %ctx, i64 32
  %dims = load ptr, ptr %dims_p
  %trace_p = getelementptr i8, ptr %ctx, i64 48
  %trace = load ptr, ptr %trace_p
  %error = getelementptr i8, ptr %ctx, i64 56
  %in = load ptr, ptr %io
  %out_p = getelementptr ptr, ptr %io, i64 1
  %out = load ptr, ptr %out_p
  %alloc_p = getelementptr i8, ptr %host, i64 8
  %alloc = load ptr, ptr %alloc_p
  %barrier_p = getelementptr i8, ptr %host, i64 16
  %barrier = load ptr, ptr %barrier_p
  %now_p = getelementptr i8, ptr %host, i64 24
  %now = load ptr, ptr %now_p
"""

# out[i] = in[i] * 2 + weights[0] for i < dims[0] (or a constant), by thread 0.
SCALE = """
  %bias = load float, ptr %weights
  br label %head
head:
  %i = phi i64 [0, %entry], [%next, %body]
  %go = icmp slt i64 %i, %count
  br i1 %go, label %body, label %end
body:
  %src = getelementptr float, ptr %in, i64 %i
  %dst = getelementptr float, ptr %out, i64 %i
  %x = load float, ptr %src, align 1
  %y = fmul float %x, 2.0
  %z = fadd float %y, %bias
  store float %z, ptr %dst, align 1
  %next = add i64 %i, 1
  br label %head
end:
  ret void
"""
SCALE_DYNAMIC = "  %count = load i64, ptr %dims\n" + SCALE
SCALE_4 = "  %count = add i64 0, 4\n" + SCALE

# Waits for in[0] nanoseconds, then out[0] = n.
BUSY = """
  %span = load i64, ptr %in
  %start = call i64 %now()
  %stop = add i64 %start, %span
  br label %wait
wait:
  %t = call i64 %now()
  %more = icmp slt i64 %t, %stop
  br i1 %more, label %wait, label %done
done:
  %first = icmp eq i64 %tid, 0
  br i1 %first, label %put, label %end
put:
  store i64 %n, ptr %out
  br label %end
end:
  ret void
"""

# Each thread t adds t to arena[t] after a barrier, 100 times; then thread 0 sums arena[0..n) into
# out[0] and puts n into out[1].
SPMD = """
  %mine = getelementptr i64, ptr %arena, i64 %tid
  store i64 0, ptr %mine
  %several = icmp sgt i64 %n, 1
  br label %round
round:
  %k = phi i64 [0, %entry], [%k1, %met]
  %old = load i64, ptr %mine
  %new = add i64 %old, %tid
  store i64 %new, ptr %mine
  br i1 %several, label %meet, label %met
meet:
  call void %barrier(ptr %ctx, i64 %tid, i64 %n)
  br label %met
met:
  %k1 = add i64 %k, 1
  %again = icmp slt i64 %k1, 100
  br i1 %again, label %round, label %finish
finish:
  %first = icmp eq i64 %tid, 0
  br i1 %first, label %sum, label %end
sum:
  %j = phi i64 [0, %finish], [%j1, %sum]
  %total = phi i64 [0, %finish], [%total1, %sum]
  %part_p = getelementptr i64, ptr %arena, i64 %j
  %part = load i64, ptr %part_p
  %total1 = add i64 %total, %part
  %j1 = add i64 %j, 1
  %left = icmp slt i64 %j1, %n
  br i1 %left, label %sum, label %write
write:
  store i64 %total1, ptr %out
  %out1 = getelementptr i64, ptr %out, i64 1
  store i64 %n, ptr %out1
  br label %end
end:
  ret void
"""

# The indices of the non-zero values of in[0..dims[0]), a late output of dims[1] values.
NONZERO = """
  %count = load i64, ptr %dims
  %bytes = mul i64 %count, 8
  %buffer = call ptr %alloc(ptr %ctx, i64 %bytes)
  store ptr %buffer, ptr %out_p
  br label %head
head:
  %i = phi i64 [0, %entry], [%next, %skip]
  %found = phi i64 [0, %entry], [%found1, %skip]
  %go = icmp slt i64 %i, %count
  br i1 %go, label %body, label %end
body:
  %src = getelementptr float, ptr %in, i64 %i
  %x = load float, ptr %src
  %hit = fcmp une float %x, 0.0
  br i1 %hit, label %put, label %skip
put:
  %dst = getelementptr i64, ptr %buffer, i64 %found
  store i64 %i, ptr %dst
  br label %skip
skip:
  %step = zext i1 %hit to i64
  %found1 = add i64 %found, %step
  %next = add i64 %i, 1
  br label %head
end:
  %dims1 = getelementptr i64, ptr %dims, i64 1
  store i64 %found, ptr %dims1
  ret void
"""

# Reports index 17 of a size of 10 at step 1.
ERROR = """
  %e1 = getelementptr i64, ptr %error, i64 1
  %e2 = getelementptr i64, ptr %error, i64 2
  %e3 = getelementptr i64, ptr %error, i64 3
  store i64 1, ptr %error
  store i64 1, ptr %e1
  store i64 17, ptr %e2
  store i64 10, ptr %e3
  ret void
"""

# Asks alloc for more than any machine has and reports what abi.h says.
NO_MEMORY = """
  %buffer = call ptr %alloc(ptr %ctx, i64 4611686018427387904)
  %none = icmp eq ptr %buffer, null
  br i1 %none, label %report, label %end
report:
  %e2 = getelementptr i64, ptr %error, i64 2
  store i64 2, ptr %error
  store i64 4611686018427387904, ptr %e2
  br label %end
end:
  ret void
"""

TRACE = """
  %t0 = call i64 %now()
  store i64 %t0, ptr %trace
  %trace1 = getelementptr i64, ptr %trace, i64 1
  %t1 = call i64 %now()
  store i64 %t1, ptr %trace1
  %trace2 = getelementptr i64, ptr %trace, i64 2
  %t2 = call i64 %now()
  store i64 %t2, ptr %trace2
  ret void
"""

_MOVE = """
  %from{0}_p = getelementptr ptr, ptr %io, i64 {0}
  %from{0} = load ptr, ptr %from{0}_p
  %x{0}_p = getelementptr float, ptr %from{0}, i64 {0}
  %x{0} = load float, ptr %x{0}_p
  %to{0} = getelementptr float, ptr %to, i64 {0}
  store float %x{0}, ptr %to{0}
"""
# out[k] = input k, element k, of three inputs.
DIAGONAL = "\n".join(
    [
        "  %to_p = getelementptr ptr, ptr %io, i64 3",
        "  %to = load ptr, ptr %to_p",
        *(_MOVE.format(k) for k in range(3)),
        "  ret void",
    ]
)

NOTHING = "  ret void\n"


def run_function(name: str, body: str) -> str:
    head = f"define void @{name}(ptr %ctx, i64 %tid, i64 %n) align 64 {{\nentry:"
    return f"{head}{PRELUDE}{body}}}\n"


def plan_function(
    name: str, dims: Sequence[int | str], *, arena: str = "0", ns: int = 100, n: int = 1
) -> str:
    """`dims`: constants or names %s0, %s1 of the first two symbols; `arena`: an operand."""
    lines = [
        f"define void @{name}(ptr %dims, ptr %out) align 64 {{",
        "  %s0 = load i64, ptr %dims",
        "  %p1 = getelementptr i64, ptr %dims, i64 1",
        "  %big = mul i64 %s0, 1073741824",
        "  %s1 = load i64, ptr %p1" if "%s1" in dims else "",
    ]
    for k, value in enumerate((arena, ns, n, *dims)):
        lines.append(f"  %o{k} = getelementptr i64, ptr %out, i64 {k}")
        lines.append(f"  store i64 {value}, ptr %o{k}")
    return "\n".join([*lines, "  ret void", "}", ""])


def compile_ir(
    text: str, *, triple: str = TRIPLE, reloc: str = "pic", codemodel: str = "small"
) -> bytes:
    """An object file."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly(f'target triple = "{triple}"\n{text}')
    module.verify()
    target = llvm.Target.from_triple(triple)
    machine = target.create_target_machine(opt=2, reloc=reloc, codemodel=codemodel)
    return machine.emit_object(module)


def tensor(name: str, shape: Sequence[int | str], dtype: str = "float32", **more: Any) -> Any:
    return {"name": name, "dtype": dtype, "shape": list(shape), **more}


def entry(code: Any, inputs: Any, outputs: Any, name: str = "main", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "run": code.offsets["run"],
        "plan": code.offsets["plan"],
        "inputs": inputs,
        "outputs": outputs,
        "dynamic": False,
        **more,
    }


def symbol(name: str, lo: int = 0, hi: int = 2**31 - 1, kind: str = "input") -> dict[str, Any]:
    return {"name": name, "lo": lo, "hi": hi, "kind": kind}


def manifest(entries: Sequence[Any], symbols: Sequence[Any] = (), **more: Any) -> dict[str, Any]:
    return {
        "format": 1,
        "abi": 1,
        "naru": "0.1.0",
        "target": {"name": "baseline", "triple": TRIPLE, "features": []},
        "source": {"name": "tiny"},
        "options": {},
        "symbols": list(symbols),
        "entries": list(entries),
        "states": [],
        "memory": {"arena": "0"},
        "kernels": [],
        "tolerance": {"rtol": 1e-5, "atol": 0.0},
        **more,
    }


def assemble_code(run: str, dims: Sequence[int | str], **plan: Any) -> Any:
    text = run_function("run", run) + plan_function("plan", dims, **plan)
    return link([("tiny", compile_ir(text))], ["run", "plan"])


def make_parts(
    run: str,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    dims: Sequence[int | str],
    *,
    symbols: Sequence[Any] = (),
    weights: bytes = b"\0" * 64,
    fields: dict[str, Any] | None = None,
    **plan: Any,
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Manifest and sections of a bundle with one entry."""
    code = assemble_code(run, dims, **plan)
    main = entry(code, list(inputs), list(outputs), **(fields or {}))
    return manifest([main], symbols), {"code": code.code, "weights": weights}


def make_model(*args: Any, threads: int | None = None, **kwargs: Any) -> Model:
    return session.assemble(*make_parts(*args, **kwargs), threads=threads)
