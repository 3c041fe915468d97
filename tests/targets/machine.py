"""Runs a kernel where this machine cannot: AArch64 under QEMU, WebAssembly in Node.

Neither needs a C compiler. For AArch64 a small program is made: the kernel, a `_start` of a few
lines that reads the operands from stdin and writes the result to stdout by system calls, linked by
naru's own linker into an ELF file that has one segment.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from naru.artifact.link import link
from naru.artifact.wasm import WasmModule
from naru.codegen.objects import compile_module
from naru.ir.loop import Func
from naru.targets import TARGETS

BASE, PAGE = 0x400000, 4096
SECONDS = 60

START = """
target triple = "aarch64-unknown-linux-gnu"
declare void @{name}({types}, i64, i64)

; A system call, as machine code (llvmlite has no assembler for other machines): number, a, b, c.
;   mov x8, x0; mov x0, x1; mov x1, x2; mov x2, x3; svc #0; ret
@call = constant [6 x i32] [
  i32 u0xAA0003E8, i32 u0xAA0103E0, i32 u0xAA0203E1, i32 u0xAA0303E2,
  i32 u0xD4000001, i32 u0xD65F03C0
], align 4

; Reads or writes all of some memory; leaves with status 1 when that fails.
define internal void @transfer(i64 %number, i64 %file, ptr %memory, i64 %size) {{
entry:
  br label %more
more:
  %done = phi i64 [ 0, %entry ], [ %next, %moved ]
  %at = getelementptr i8, ptr %memory, i64 %done
  %address = ptrtoint ptr %at to i64
  %rest = sub i64 %size, %done
  %count = call i64 @call(i64 %number, i64 %file, i64 %address, i64 %rest)
  %failed = icmp slt i64 %count, 1
  br i1 %failed, label %give_up, label %moved
give_up:
  call i64 @call(i64 94, i64 1, i64 0, i64 0)
  unreachable
moved:
  %next = add i64 %done, %count
  %finished = icmp eq i64 %next, %size
  br i1 %finished, label %end, label %more
end:
  ret void
}}

define void @_start() {{
  %memory = alloca [{total} x i8], align 64
  call void @transfer(i64 63, i64 0, ptr %memory, i64 {inputs})
{pointers}
  call void @{name}({arguments}, i64 0, i64 1)
  call void @transfer(i64 64, i64 1, ptr %p{last}, i64 {output})
  call i64 @call(i64 94, i64 0, i64 0, i64 0)
  unreachable
}}
"""


def need(tool: str, package: str) -> str:
    """The path of a program. Without it the test fails: `make test-slow` makes sure of it."""
    found = shutil.which(tool)
    if found is None:
        pytest.fail(f"{tool} is missing: expected it on PATH (Debian: apt-get install {package})")
    return found


def padded(data: bytes) -> bytes:
    """To a multiple of 64 bytes, so that what follows is aligned."""
    return data + bytes(-len(data) % 64)


def executable(code: bytes, entry: int) -> bytes:
    """A static ELF64 program for AArch64: position-independent code in one segment."""
    size = PAGE + len(code)
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    kind, machine, readable, runnable = 2, 183, 4, 1
    header = struct.pack(
        "<HHIQQQIHHHHHH", kind, machine, 1, BASE + PAGE + entry, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, readable | runnable, 0, BASE, BASE, size, size, PAGE)
    return (identity + header + segment).ljust(PAGE, b"\0") + code


def run_qemu(
    kernel: bytes, func: Func, operands: Sequence[np.ndarray], result: np.ndarray, folder: Path
) -> np.ndarray:
    """Runs an AArch64 object on operands; returns what it wrote to its last buffer."""
    qemu = need("qemu-aarch64", "qemu-user")
    inputs = [padded(x.tobytes()) for x in operands]
    places = [sum(map(len, inputs[:k])) for k in range(len(inputs) + 1)]
    pointers = [f"  %p{k} = getelementptr i8, ptr %memory, i64 {at}" for k, at in enumerate(places)]
    text = START.format(
        name=func.name,
        types=", ".join(["ptr"] * len(places)),
        total=places[-1] + len(padded(result.tobytes())),
        inputs=places[-1],
        pointers="\n".join(pointers),
        arguments=", ".join(f"ptr %p{k}" for k in range(len(places))),
        last=len(places) - 1,
        output=result.nbytes,
    )
    start = compile_module(text, TARGETS["aarch64-neon"])
    linked = link([("start", start), (func.name, kernel)], ["_start"])
    program = folder / "program"
    program.write_bytes(executable(linked.code, linked.offsets["_start"]))
    program.chmod(0o755)
    done = subprocess.run(
        [qemu, str(program)],
        input=b"".join(inputs), capture_output=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return np.frombuffer(done.stdout, result.dtype).reshape(result.shape)


NODE = """
const fs = require("fs");
// Node 20 has relaxed SIMD, but not without being asked; it is on in later ones.
if (process.version.startsWith("v20.")) {
  require("v8").setFlagsFromString("--experimental-wasm-relaxed-simd");
}
const [path, input, output, name, free, bytes, threads, ...places] = process.argv.slice(1);
const instance = new WebAssembly.Instance(new WebAssembly.Module(fs.readFileSync(path)));
const { memory, __heap_base } = instance.exports;
if (__heap_base.value !== Number(free)) throw new Error("heap base " + __heap_base.value);
const data = fs.readFileSync(input);
const end = __heap_base.value + data.length + Number(bytes);
const missing = Math.ceil((end - memory.buffer.byteLength) / 65536);
if (missing > 0) memory.grow(missing);
const all = new Uint8Array(memory.buffer);
all.set(data, __heap_base.value);
const pointers = places.map((p) => __heap_base.value + Number(p));
const n = Number(threads);
for (let tid = 0; tid < n; tid++) instance.exports[name](...pointers, tid, n);
const last = pointers[pointers.length - 1];
fs.writeFileSync(output, all.slice(last, last + Number(bytes)));
"""


def run_node(
    module: WasmModule,
    name: str,
    operands: Sequence[np.ndarray],
    result: np.ndarray,
    folder: Path,
    threads: int = 1,
) -> np.ndarray:
    """Runs an exported kernel on operands; returns what it wrote to its last buffer."""
    node = need("node", "nodejs")
    inputs = [padded(x.tobytes()) for x in operands]
    places = [sum(map(len, inputs[:k])) for k in range(len(inputs) + 1)]
    code, data, output = (folder / f for f in ("module.wasm", "input", "output"))
    code.write_bytes(module.code)
    data.write_bytes(b"".join(inputs))
    numbers = [module.heap_base, result.nbytes, threads, *places]
    done = subprocess.run(
        [node, "-e", NODE, code, data, output, name, *map(str, numbers)],
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return np.frombuffer(output.read_bytes(), result.dtype).reshape(result.shape)
