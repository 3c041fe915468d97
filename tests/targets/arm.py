"""An AArch64 machine in a process of its own (QEMU's user mode), told what to do through pipes.

Nothing is needed on the other side: a program of a few lines of LLVM IR, linked by naru's own
linker into an ELF file of one segment, takes three orders: put bytes into memory, get them, call a
function at an address. All else is done from here: `ArmModel` lays out a bundle's code, weights and
the structures of abi.h in that memory, as native/program.c does in this process. One machine runs
any number of models and cases; starting it takes some 30 ms.
"""

from __future__ import annotations

import math
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from naru.artifact.bundle import Bundle
from naru.artifact.link import link
from naru.artifact.manifest import Entry, dtype_of
from naru.codegen.objects import compile_module
from naru.ir.loop import Func
from naru.runtime import arguments
from naru.targets import TARGETS
from tests.targets.machine import need

BASE, PAGE = 0x400000, 4096  # where the program lies
MEMORY, SIZE = (
    0x10_0000_0000,
    1 << 33,
)  # what it may use: nothing of it is there until it is touched
PUT, GET, CALL = 0, 1, 2
ARGUMENTS = 8  # that registers hold
MOST_ROUNDS = 5000  # of a loop

SERVER = f"""
target triple = "aarch64-unknown-linux-gnu"

; A system call, as machine code (llvmlite has no assembler for other machines): number, operands.
;   mov x8, x0; mov x0, x1; ...; mov x5, x6; svc #0; ret
@call = constant [9 x i32] [
  i32 u0xAA0003E8, i32 u0xAA0103E0, i32 u0xAA0203E1, i32 u0xAA0303E2, i32 u0xAA0403E3,
  i32 u0xAA0503E4, i32 u0xAA0603E5, i32 u0xD4000001, i32 u0xD65F03C0
], align 4

; Reads (63) or writes (64) all of some memory; ends the program where that fails.
define internal void @transfer(i64 %number, i64 %file, i64 %memory, i64 %size) {{
entry:
  br label %more
more:
  %done = phi i64 [ 0, %entry ], [ %next, %moved ]
  %rest = sub i64 %size, %done
  %nothing = icmp eq i64 %rest, 0
  br i1 %nothing, label %end, label %move
move:
  %at = add i64 %memory, %done
  %count = call i64 @call(i64 %number, i64 %file, i64 %at, i64 %rest, i64 0, i64 0, i64 0)
  %failed = icmp slt i64 %count, 1
  br i1 %failed, label %give_up, label %moved
give_up:
  call i64 @call(i64 94, i64 1, i64 0, i64 0, i64 0, i64 0, i64 0)
  unreachable
moved:
  %next = add i64 %done, %count
  br label %more
end:
  ret void
}}

; naru_host.alloc: behind the context lie the next free address and the end of what there is.
define ptr @alloc(ptr %ctx, i64 %bytes) {{
  %place = getelementptr i8, ptr %ctx, i64 88
  %limit = getelementptr i8, ptr %ctx, i64 96
  %free = load i64, ptr %place
  %end = load i64, ptr %limit
  %room = sub i64 %end, %free
  %fits = icmp ule i64 %bytes, %room
  br i1 %fits, label %take, label %none
take:
  %more = add i64 %bytes, 63
  %whole = and i64 %more, -64
  %next = add i64 %free, %whole
  store i64 %next, ptr %place
  %memory = inttoptr i64 %free to ptr
  ret ptr %memory
none:
  ret ptr null
}}

; naru_host.next_round: 7 (NARU_TOO_LONG) after too many.
define i64 @next_round(ptr %ctx, i64 %round) {{
  %long = icmp sge i64 %round, {MOST_ROUNDS}
  %why = select i1 %long, i64 7, i64 0
  ret i64 %why
}}

; mmap: read, write, execute (7); private, fixed, anonymous, no reserve (0x4032).
define void @_start() {{
entry:
  %order = alloca [10 x i64], align 64
  %result = alloca i64
  %at_order = ptrtoint ptr %order to i64
  %at_result = ptrtoint ptr %result to i64
  call i64 @call(i64 222, i64 {MEMORY}, i64 {SIZE}, i64 7, i64 16434, i64 -1, i64 0)
  br label %next
next:
  call void @transfer(i64 63, i64 0, i64 %at_order, i64 80)
  %kind = load i64, ptr %order
{
    "".join(
        f'''
  %p{k} = getelementptr i64, ptr %order, i64 {k + 1}
  %a{k} = load i64, ptr %p{k}'''
        for k in range(9)
    )
}
  switch i64 %kind, label %give_up [ i64 0, label %put i64 1, label %get i64 2, label %run ]
put:
  call void @transfer(i64 63, i64 0, i64 %a0, i64 %a1)
  br label %next
get:
  call void @transfer(i64 64, i64 1, i64 %a0, i64 %a1)
  br label %next
run:
  %function = inttoptr i64 %a0 to ptr
  %value = call i64 %function({", ".join(f"i64 %a{k}" for k in range(1, 9))})
  store i64 %value, ptr %result
  call void @transfer(i64 64, i64 1, i64 %at_result, i64 8)
  br label %next
give_up:
  call i64 @call(i64 94, i64 2, i64 0, i64 0, i64 0, i64 0, i64 0)
  unreachable
}}
"""


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


class Arm:
    """The machine. `cpu`: one of QEMU's, "max" for all features that it knows, "cortex-a53" for
    none beside NEON."""

    def __init__(self, folder: Path, cpu: str = "max") -> None:
        qemu = need("qemu-aarch64", "qemu-user")
        functions = ["_start", "alloc", "next_round"]
        linked = link([("server", compile_module(SERVER, TARGETS["aarch64-neon"]))], functions)
        program = folder / "server"
        program.write_bytes(executable(linked.code, linked.offsets["_start"]))
        program.chmod(0o755)
        self.functions = {n: BASE + PAGE + linked.offsets[n] for n in functions}
        self.process = subprocess.Popen(
            [qemu, "-cpu", cpu, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.free = MEMORY

    def __enter__(self) -> Arm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, t: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def run_kernel(
        self, kernel: bytes, func: Func, operands: Sequence[np.ndarray], result: np.ndarray
    ) -> np.ndarray:
        """What an object's function writes to its last buffer, called by one thread."""
        mark, linked = self.free, link([(func.name, kernel)], [func.name])
        code = self.place(linked.code, PAGE)
        buffers = [self.place(x.tobytes()) for x in (*operands, result)]
        self.call(code + linked.offsets[func.name], *buffers, 0, 1)
        data = self.get(buffers[-1], result.nbytes)
        self.free = mark
        return np.frombuffer(data, result.dtype).reshape(result.shape)

    # ---- memory and calls ----

    def take(self, size: int, align: int = 64) -> int:
        """The address of so many bytes that nobody uses."""
        start = -(-self.free // align) * align
        self.free = start + size
        assert self.free <= MEMORY + SIZE, "the machine has no memory left"
        return start

    def place(self, data: Any, align: int = 64) -> int:
        """The address of a copy of some bytes."""
        at = self.take(memoryview(data).nbytes, align)
        self.put(at, data)
        return at

    def put(self, address: int, data: Any) -> None:
        """Bytes into memory."""
        data = bytes(data)
        if data:
            self._order(PUT, address, len(data))
            self._send(data)

    def get(self, address: int, size: int) -> bytes:
        """Bytes of memory."""
        if not size:
            return b""
        self._order(GET, address, size)
        return self._receive(size)

    def call(self, address: int, *arguments: int) -> int:
        """What the function at an address has in x0 when it is done."""
        assert len(arguments) <= ARGUMENTS, "the server hands over registers only"
        self._order(CALL, address, *arguments)
        return int.from_bytes(self._receive(8), "little", signed=True)

    def _order(self, kind: int, *values: int) -> None:
        self._send(struct.pack("<10q", kind, *values, *(0,) * (9 - len(values))))

    def _send(self, data: bytes) -> None:
        stdin = self.process.stdin
        assert stdin is not None
        try:
            stdin.write(data)
            stdin.flush()
        except BrokenPipeError:
            self._died()

    def _receive(self, size: int) -> bytes:
        stdout = self.process.stdout
        assert stdout is not None
        data = stdout.read(size)
        if len(data) < size:
            self._died()
        return data

    def _died(self) -> None:
        raise AssertionError(f"the AArch64 process ended with status {self.process.wait()}")


class ArmModel:
    """A bundle for AArch64 on a machine; called like a loaded model, with one thread."""

    def __init__(self, arm: Arm, bundle: Bundle) -> None:
        self.arm, self.bundle = arm, bundle
        self.entry: Entry = bundle.entries[0]
        self.mark = arm.free
        self.code = arm.place(bundle.section("code"), PAGE)
        weights = bundle.sections.get("weights")
        self.weights = arm.place(bundle.section("weights")) if weights else 0
        functions = arm.functions
        # version, size, alloc, barrier (not called by one thread), now (of profiles), next_round
        host = struct.pack("<2I4q", 1, 40, functions["alloc"], 0, 0, functions["next_round"])
        self.host = arm.place(host)
        self.ready = arm.free

    def close(self) -> None:
        """Gives its memory back."""
        self.arm.free = self.mark

    def __call__(self, *args: object, **kwargs: object) -> tuple[np.ndarray, ...]:
        """All outputs in order. AssertionError where the run fails."""
        arm, entry, symbols = self.arm, self.entry, self.bundle.symbols
        arm.free = self.ready
        given = arguments.convert(entry.inputs, symbols, args, kwargs)
        sizes = self._sizes(given)
        dims = arm.place(np.array(sizes, np.int64))
        sizes_at = arm.take(8 * (3 + sum(len(t.shape) for t in entry.outputs)))
        plan = self._plan(dims, sizes_at)
        assert plan[0] >= 0, f"condition {-1 - plan[0]} of the sizes does not hold"
        inputs = [arm.place(np.ascontiguousarray(x).tobytes()) for x in given]
        outputs = [
            0 if t.late else arm.take(dtype_of(t.dtype).itemsize * math.prod(shape))
            for t, shape in zip(entry.outputs, self._shapes(plan), strict=True)
        ]
        table = [*inputs, *outputs, *(0,) * entry.pointers]
        io = arm.place(np.array(table, np.int64))
        arena = arm.take(int(plan[0]))
        context = arm.take(104)
        heap = arm.take(0)  # from here on the memory is alloc's
        fields = [self.host, self.weights, arena, io, dims, 0, 0, *(0,) * 4, heap, MEMORY + SIZE]
        arm.put(context, np.array(fields, np.int64))
        arm.call(self.code + entry.run, context, 0, 1)
        error = np.frombuffer(arm.get(context + 56, 32), np.int64)
        assert not error[0], f"the code reported failure {error.tolist()}"
        found = np.frombuffer(arm.get(io, 8 * len(table)), np.int64)[len(inputs) :]
        shapes = self._shapes(self._plan(dims, sizes_at))
        return tuple(
            np.frombuffer(
                arm.get(int(at), dtype_of(t.dtype).itemsize * math.prod(shape)), dtype_of(t.dtype)
            ).reshape(shape)
            for t, at, shape in zip(entry.outputs, found, shapes, strict=False)
        )

    def _sizes(self, given: Sequence[np.ndarray]) -> list[int]:
        """The value of each symbol; 0 for those that kernels define."""
        bound = {
            d: n
            for t, x in zip(self.entry.inputs, given, strict=True)
            for d, n in zip(t.shape, x.shape, strict=True)
        }
        return [int(bound.get(s.name, 0)) for s in self.bundle.symbols]

    def _plan(self, dims: int, out: int) -> np.ndarray:
        """Bytes of the arena, nanoseconds, threads, then the dims of the outputs."""
        self.arm.call(self.code + self.entry.plan, dims, out)
        count = 3 + sum(len(t.shape) for t in self.entry.outputs)
        return np.frombuffer(self.arm.get(out, 8 * count), np.int64)

    def _shapes(self, plan: np.ndarray) -> list[tuple[int, ...]]:
        shapes: list[tuple[int, ...]] = []
        at = 3
        for t in self.entry.outputs:
            shapes.append(tuple(int(n) for n in plan[at : at + len(t.shape)]))
            at += len(t.shape)
        return shapes
