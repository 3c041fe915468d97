"""The driver and the plan as LLVM: the functions of abi.h, which call kernels and the host.

A driver's pointers come out of naru_ctx. Those of `io` are read again at each use, because set_io and
alloc change them while it runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from naru.codegen.llvm import module
from naru.codegen.llvm_build import MEMORY, Code, Value
from naru.codegen.llvm_expr import value
from naru.codegen.llvm_stmt import body
from naru.codegen.llvm_types import memory_bytes, scalar_type
from naru.errors import IRError
from naru.ir.expr import Const
from naru.ir.loop import Buffer, Func, Invoke, Ref
from naru.targets import Target

# naru_ctx and naru_host of abi.h: byte offsets on a 64-bit target.
CTX = {"host": 0, "weights": 8, "arena": 16, "io": 24, "dims": 32, "trace": 48, "error": 56}
HOST = {"alloc": 8, "barrier": 16, "now": 24}
NO_MEMORY = 2


class Driver(Code):
    """A driver being written. `roles` says which pointer of the context each buffer stands for."""

    def __init__(
        self, func: Func, target: Target, roles: Mapping[Buffer, str | tuple[str, int]]
    ) -> None:
        super().__init__(func, target, shared_memory=True)
        self.roles = roles
        self.fields: dict[str, str] = {}

    def field(self, name: str) -> str:
        """A pointer of the context that does not change during a run; read once, at entry."""
        if name not in self.fields:
            at, got = self.name(), self.name()
            self.allocas.append(f"{at} = getelementptr i8, ptr %ctx, i64 {CTX[name]}")
            self.allocas.append(f"{got} = load ptr, ptr {at}")
            self.fields[name] = got
        return self.fields[name]

    def base(self, buffer: Buffer) -> Value:
        """See Code.base."""
        role = self.roles[buffer]
        if isinstance(role, str):
            return Value((self.field(role),), 0)
        slot = self.put(f"getelementptr ptr, ptr {self.field('io')}, i64 {role[1]}")
        return Value((self.put(f"load ptr, ptr {slot}"),), self.depth)

    def address(self, ref: Ref) -> str:
        """The address of a Ref."""
        base = self.base(ref.buffer).text
        if isinstance(ref.offset, Const) and not ref.offset.value:
            return base
        offset = value(self, ref.offset).text
        return self.put(f"getelementptr i8, ptr {base}, i64 {offset}")

    def invoke(self, s: Invoke) -> None:
        """A kernel call or a service."""
        if isinstance(s.callee, Func):
            self.call(s.callee, s)
        else:
            services = {
                "barrier": self.barrier,
                "set_io": self.set_io,
                "alloc": self.alloc,
                "fail": self.fail,
                "mark": self.mark,
            }
            if s.callee not in services:
                raise IRError([f"{s.callee}: there is no such service"])
            services[s.callee](s)
        self.forget((MEMORY,))

    def call(self, kernel: Func, s: Invoke) -> None:
        """Only the threads that take part enter; the kernel sees how many they are."""
        args: list[str] = []
        for a in s.args:
            if isinstance(a, Ref):
                args.append(f"ptr {self.address(a)}")
            else:
                args.append(f"{scalar_type(a.dtype, self.target)} {value(self, a).text}")
        alone = isinstance(s.threads, Const) and s.threads.value == 1
        if alone:
            count = "1"
        else:
            wanted = value(self, s.threads).text
            fewer = self.put(f"icmp slt i64 {wanted}, %n")
            count = self.put(f"select i1 {fewer}, i64 {wanted}, i64 %n")
        mine = self.put(f"icmp slt i64 %tid, {count}")
        self.guarded(mine, f"call void @{kernel.name}({', '.join(args)}, i64 %tid, i64 {count})")

    def guarded(self, condition: str, *lines: str) -> None:
        """Instructions under a condition."""
        then, after = self.new_block("call"), self.new_block("after")
        self.block.end = f"br i1 {condition}, label %{then.label}, label %{after.label}"
        then.lines += lines
        then.end = f"br label %{after.label}"
        self.block = after

    def first(self) -> str:
        """Is this thread 0?"""
        return self.put("icmp eq i64 %tid, 0")

    def host(self, name: str) -> str:
        """A function pointer of the host's table."""
        slot = self.put(f"getelementptr i8, ptr {self.field('host')}, i64 {HOST[name]}")
        return self.put(f"load ptr, ptr {slot}")

    def barrier(self, s: Invoke) -> None:
        several = self.put("icmp sgt i64 %n, 1")
        function = self.host("barrier")
        self.guarded(several, f"call void {function}(ptr %ctx, i64 %tid, i64 %n)")

    def set_io(self, s: Invoke) -> None:
        k, ref = s.args
        assert isinstance(k, Const)
        assert isinstance(ref, Ref)
        address = self.address(ref)
        slot = self.put(f"getelementptr ptr, ptr {self.field('io')}, i64 {k.value}")
        self.guarded(self.first(), f"store ptr {address}, ptr {slot}")

    def alloc(self, s: Invoke) -> None:
        """io[k] = host memory; without memory the run ends with an error."""
        k, size = s.args
        assert isinstance(k, Const)
        assert not isinstance(size, Ref)
        count = value(self, size).text
        function = self.host("alloc")
        slot = self.put(f"getelementptr ptr, ptr {self.field('io')}, i64 {k.value}")
        got = self.name()
        self.guarded(
            self.first(),
            f"{got} = call ptr {function}(ptr %ctx, i64 {count})",
            f"store ptr {got}, ptr {slot}",
        )
        self.barrier(s)
        now = self.put(f"load ptr, ptr {slot}")
        missing = self.put(f"icmp eq ptr {now}, null")
        self.leave_if(missing, NO_MEMORY, str(k.value), count)

    def leave_if(self, condition: str, code: int, a: str, b: str) -> None:
        """error = (code, a, b), if there is none yet, and return."""
        out, after = self.new_block("fail"), self.new_block("after")
        self.block.end = f"br i1 {condition}, label %{out.label}, label %{after.label}"
        self.block = out
        error = self.put(f"getelementptr i8, ptr %ctx, i64 {CTX['error']}")
        old = self.put(f"load i64, ptr {error}")
        unset = self.put(f"icmp eq i64 {old}, 0")
        first = self.put(f"and i1 {unset}, {self.first()}")
        a_at, b_at = (self.put(f"getelementptr i64, ptr {error}, i64 {k}") for k in (1, 2))
        self.guarded(
            first, f"store i64 {a}, ptr {a_at}", f"store i64 {b}, ptr {b_at}",
            f"store i64 {code}, ptr {error}",
        )  # fmt: skip
        self.block.end = "ret void"
        self.block = after

    def fail(self, s: Invoke) -> None:
        code, a, b = s.args
        assert isinstance(code, Const)
        assert not isinstance(a, Ref)
        assert not isinstance(b, Ref)
        self.leave_if("true", int(code.value), value(self, a).text, value(self, b).text)

    def mark(self, s: Invoke) -> None:
        """trace[k] = now, by thread 0."""
        (k,) = s.args
        assert isinstance(k, Const)
        slot = self.put(f"getelementptr i64, ptr {self.field('trace')}, i64 {k.value}")
        function, got = self.host("now"), self.name()
        self.guarded(
            self.first(), f"{got} = call i64 {function}()", f"store i64 {got}, ptr {slot}"
        )


def emit_driver(
    func: Func,
    target: Target,
    roles: Mapping[Buffer, str | tuple[str, int]],
    kernels: Sequence[Func],
) -> str:
    """The module of a driver: naru_run_fn of abi.h. `kernels` are declared; the linker finds them."""
    code = Driver(func, target, roles)
    body(code, func.body)
    code.block.end = "ret void"
    declarations = tuple(f"declare hidden void @{k.name}({_signature(k, target)})" for k in kernels)
    return module(code, f"define void @{func.name}(ptr %ctx, i64 %tid, i64 %n) nounwind", declarations)


def _signature(k: Func, target: Target) -> str:
    sizes = [scalar_type(s.dtype, target) for s in k.sizes]
    return ", ".join(["ptr"] * len(k.buffers) + sizes + [scalar_type("index", target)] * 2)


def emit_plan(func: Func, target: Target) -> str:
    """The module of a plan: naru_plan_fn of abi.h. Its buffers are (dims, out)."""
    code = Code(func, target)
    for buffer, name in zip(func.buffers, ("%dims", "%out"), strict=True):
        assert memory_bytes(buffer.dtype) == 8
        code.pointers[buffer] = Value((name,), 0)
    body(code, func.body)
    code.block.end = "ret void"
    return module(code, f"define void @{func.name}(ptr %dims, ptr %out) nounwind")
