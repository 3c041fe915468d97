"""The host of abi.h for WebAssembly, as LLVM text that is linked into the module.

With it a module imports nothing but its memory. What the caller (JavaScript, wasmtime) keeps in
memory for it follows `naru_ctx`, which takes 64 bytes where pointers have 32 bits:

    64  top (u32): where `alloc` goes on, a multiple of 64; the caller sets it before each run
    68  arrived (u32), 72 generation (u32): of the barrier; zero at first
    76  patient (u32): 1 if thread 0 may sleep; a browser's main thread may not, and spins
    80  broken (u32): another thread has failed, nobody waits for it
    88  limit (i64): most rounds of a loop, 0: any

Exports, whose numbers all have 32 bits, since JavaScript sees i64 as BigInt:

    run(ctx, tid, n)   naru_run; with n > 1, returns when all threads have finished
    plan(dims, out)    naru_plan
    host()             address of the naru_host to put into the context

Memory that `alloc` gave is not taken back before the caller sets `top` again. There is no clock,
so there is no profiling entry.
"""

from __future__ import annotations

from dataclasses import replace

from naru.targets import Target

ENTRIES = ("run", "plan", "host")
SPINS = 50_000  # looks at the barrier before a thread sleeps: some 50 microseconds, as waking takes
NAP_NS = 50_000_000  # a sleeper looks this often whether another thread has failed

HOST_TEXT = f"""
@table = internal constant {{ i32, i32, ptr, ptr, ptr, ptr }}
  {{ i32 1, i32 24, ptr @alloc, ptr @barrier, ptr @now, ptr @next_round }}

declare void @naru_run(ptr, i64, i64)
declare void @naru_plan(ptr, ptr)
declare i32 @llvm.wasm.memory.size.i32(i32)
declare i32 @llvm.wasm.memory.grow.i32(i32, i32)
declare i32 @llvm.wasm.memory.atomic.wait32(ptr, i32, i64)
declare i32 @llvm.wasm.memory.atomic.notify(ptr, i32)
declare i32 @llvm.umax.i32(i32, i32)
declare i64 @llvm.umax.i64(i64, i64)

define ptr @host() nounwind {{
  ret ptr @table
}}

define void @plan(ptr %dims, ptr %out) nounwind {{
  call void @naru_plan(ptr %dims, ptr %out)
  ret void
}}

define void @run(ptr %ctx, i32 %tid, i32 %n) nounwind {{
  %tid64 = zext i32 %tid to i64
  %n64 = zext i32 %n to i64
  call void @naru_run(ptr %ctx, i64 %tid64, i64 %n64)
  %several = icmp ugt i32 %n, 1
  br i1 %several, label %join, label %end
join:
  call void @barrier(ptr %ctx, i64 %tid64, i64 %n64)
  br label %end
end:
  ret void
}}

define internal i64 @now() nounwind {{
  ret i64 0
}}

define internal i64 @next_round(ptr %ctx, i64 %round) nounwind {{
  %at = getelementptr i8, ptr %ctx, i32 88
  %limit = load i64, ptr %at
  %limited = icmp sgt i64 %limit, 0
  %reached = icmp sge i64 %round, %limit
  %ends = and i1 %limited, %reached
  %code = select i1 %ends, i64 7, i64 0
  ret i64 %code
}}

; Asks for an eighth more than there is, so that many small requests stay cheap, else for what it
; takes. (A negative size is a large one here.) Memory never ends at 2^32, which `top` cannot hold.
define internal ptr @alloc(ptr %ctx, i64 %bytes) nounwind {{
  %at = getelementptr i8, ptr %ctx, i32 64
  %top = load i32, ptr %at
  %start = zext i32 %top to i64
  %countable = icmp ult i64 %bytes, 4294967296
  br i1 %countable, label %place, label %none
place:
  %least = call i64 @llvm.umax.i64(i64 %bytes, i64 1)
  %padded = add i64 %least, 63
  %size = and i64 %padded, -64
  %end = add i64 %start, %size
  %addressable = icmp ult i64 %end, 4294967296
  br i1 %addressable, label %look, label %none
look:
  %pages = call i32 @llvm.wasm.memory.size.i32(i32 0)
  %pages64 = zext i32 %pages to i64
  %have = shl i64 %pages64, 16
  %enough = icmp ule i64 %end, %have
  br i1 %enough, label %done, label %ask
ask:
  %short = sub i64 %end, %have
  %up = add i64 %short, 65535
  %need64 = lshr i64 %up, 16
  %need = trunc i64 %need64 to i32
  %eighth = lshr i32 %pages, 3
  %plenty = call i32 @llvm.umax.i32(i32 %need, i32 %eighth)
  %first = call i32 @llvm.wasm.memory.grow.i32(i32 0, i32 %plenty)
  %refused = icmp eq i32 %first, -1
  br i1 %refused, label %exactly, label %done
exactly:
  %second = call i32 @llvm.wasm.memory.grow.i32(i32 0, i32 %need)
  %exhausted = icmp eq i32 %second, -1
  br i1 %exhausted, label %none, label %done
done:
  %next = trunc i64 %end to i32
  store i32 %next, ptr %at
  %memory = inttoptr i32 %top to ptr
  ret ptr %memory
none:
  ret ptr null
}}

; The last to arrive opens the next generation.
define internal void @barrier(ptr %ctx, i64 %tid, i64 %n) nounwind {{
  %arrived = getelementptr i8, ptr %ctx, i32 68
  %generation = getelementptr i8, ptr %ctx, i32 72
  %patient_at = getelementptr i8, ptr %ctx, i32 76
  %broken_at = getelementptr i8, ptr %ctx, i32 80
  %now = load atomic i32, ptr %generation seq_cst, align 4
  %before = atomicrmw add ptr %arrived, i32 1 seq_cst
  %count = add i32 %before, 1
  %all = trunc i64 %n to i32
  %last = icmp eq i32 %count, %all
  br i1 %last, label %open, label %wait
open:
  store atomic i32 0, ptr %arrived seq_cst, align 4
  %next = add i32 %now, 1
  store atomic i32 %next, ptr %generation seq_cst, align 4
  %woken = call i32 @llvm.wasm.memory.atomic.notify(ptr %generation, i32 -1)
  ret void
wait:
  %other = icmp ne i64 %tid, 0
  %patient = load i32, ptr %patient_at
  %permitted = icmp ne i32 %patient, 0
  %sleeps = or i1 %other, %permitted
  br label %look
look:
  %spins = phi i32 [ 0, %wait ], [ %more, %again ], [ 0, %nap ]
  %seen = load atomic i32, ptr %generation seq_cst, align 4
  %opened = icmp ne i32 %seen, %now
  br i1 %opened, label %end, label %again
again:
  %more = add i32 %spins, 1
  %long = icmp uge i32 %more, {SPINS}
  br i1 %long, label %check, label %look
check:
  %broken = load atomic i32, ptr %broken_at seq_cst, align 4
  %fails = icmp ne i32 %broken, 0
  br i1 %fails, label %end, label %rest
rest:
  br i1 %sleeps, label %sleep, label %nap
sleep:
  %why = call i32 @llvm.wasm.memory.atomic.wait32(ptr %generation, i32 %now, i64 {NAP_NS})
  br label %nap
nap:
  br label %look
end:
  ret void
}}
"""


def host_target(target: Target) -> Target:
    """The target to compile HOST_TEXT for. Atomic instructions are valid in a module whose memory
    is not shared, too; kernels use none."""
    return replace(target, features=(*target.features, "atomics"))
