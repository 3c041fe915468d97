"""The driver: loop IR that calls kernels, as `void @run(ptr ctx, i64 tid, i64 n)` of abi.h.

Every thread of the run walks through the driver, so its conditions must not depend on the thread.
A kernel is called by as many threads as its step asks for, stores and services by thread 0. Offsets
of the context's fields are those of abi.h, whose structures depend on the width of a pointer alone.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from naru.codegen import llvm_address as address
from naru.codegen.llvm import module
from naru.codegen.llvm_build import MEMORY, Code, Value
from naru.codegen.llvm_expr import value
from naru.codegen.llvm_stmt import body
from naru.codegen.llvm_types import host_offset, scalar_type
from naru.errors import IRError
from naru.ir.expr import Const, Expr
from naru.ir.loop import Buffer, Func, Invoke, Ref, meets
from naru.ir.simplify import bounds
from naru.targets import Target

# "weights", "arena", "dims", "trace", or ("io", k), ("state", k): where a buffer of a driver lies
Role: TypeAlias = str | tuple[str, int]
NO_MEMORY = 2  # NARU_NO_MEMORY
FIELDS = ("host", "weights", "arena", "io", "dims", "state", "trace")
SERVICES = ("barrier", "set_io", "alloc", "fail", "mark", "next_round")


# smul.fix.sat at scale 0 is the saturating product, which has no intrinsic of its own.
_SATURATING = {
    "add": ("sadd.sat", ""),
    "sub": ("ssub.sat", ""),
    "mul": ("smul.fix.sat", ", i32 0"),
}


class Sizes(Code):
    """A function that computes sizes. What the index type cannot count stays at its largest number,
    which no host gives: wrapped around, it would get a small block for a run that needs a huge one.
    """

    def put(self, text: str, depth: int | None = None) -> str:
        op, _, operands = text.partition(f" {self.index} ")
        if op not in _SATURATING:
            return super().put(text, depth)
        name, scale = _SATURATING[op]
        a, _, b = operands.partition(", ")
        kind = self.index
        return super().put(f"call {kind} @llvm.{name}.{kind}({kind} {a}, {kind} {b}{scale})", depth)


class Driver(Sizes):
    """A driver under construction: `%ctx`, `%tid64`, `%n64` are its parameters."""

    def __init__(
        self,
        func: Func,
        target: Target,
        roles: Mapping[Buffer, Role],
    ) -> None:
        super().__init__(func, target, shared_memory=True)
        self.roles = roles
        self.bytes = target.pointer_bits // 8
        if self.index != "i64":
            self.tid, self.n = (
                self.put(f"trunc i64 {x} to {self.index}") for x in ("%tid64", "%n64")
            )
        else:
            self.tid, self.n = "%tid64", "%n64"
        self.first = self.put("icmp eq i64 %tid64, 0")
        self.fields = {
            name: self.put(f"load ptr, ptr {self.at('%ctx', i * self.bytes)}")
            for i, name in enumerate(FIELDS)
        }
        for buffer, role in roles.items():
            if isinstance(role, str):
                if role not in FIELDS[1:]:
                    raise IRError([f"{buffer.name}: unknown role {role!r}, one of {FIELDS[1:]}"])
                self.pointers[buffer] = Value((self.fields[role],), 0)

    # ---- addresses ----

    def at(self, base: str, offset: int) -> str:
        """base + offset bytes."""
        return self.put(f"getelementptr i8, ptr {base}, {self.index} {offset}") if offset else base

    def slot(self, table: str, k: int) -> str:
        """Address of pointer k of a table of the context ("io", "state")."""
        return self.at(self.fields[table], k * self.bytes)

    @property
    def error(self) -> str:
        """Address of the error slot: four i64 after the pointers."""
        return self.at("%ctx", -(-len(FIELDS) * self.bytes // 8) * 8)

    def service(self, name: str) -> str:
        """A function of the host."""
        at = self.at(self.fields["host"], host_offset(name, self.target))
        return self.put(f"load ptr, ptr {at}")

    def base(self, buffer: Buffer) -> Value:
        """Pointers of io and state are read at each use: set_io and alloc change them."""
        role = self.roles.get(buffer)
        if not isinstance(role, tuple):
            return super().base(buffer)
        return Value((self.put(f"load ptr, ptr {self.slot(*role)}"),), self.depth)

    # ---- branches ----

    @contextmanager
    def only_if(self, cond: str, hint: str) -> Generator[None]:
        """What is written inside runs where the i1 `cond` holds."""
        inside, after = self.new_block(hint), self.new_block("fi")
        self.block.end = f"br i1 {cond}, label %{inside.label}, label %{after.label}"
        self.enter(inside)
        yield
        self.leave().end = f"br label %{after.label}"
        self.block = after

    @contextmanager
    def storing(self, buffer: Buffer) -> Generator[None]:
        """Memory that threads share is written by the first of them."""
        if buffer not in self.roles:
            yield
            return
        with self.only_if(self.first, "store"):
            yield

    # ---- calls ----

    def invoke(self, s: Invoke) -> None:
        """Calls a kernel or a service."""
        if isinstance(s.callee, Func):
            self._kernel(s, s.callee)
        elif s.callee in SERVICES:
            getattr(self, f"_{s.callee}")(s)
        else:
            raise IRError([f"unknown service {s.callee!r}, expected one of {SERVICES}"])
        self.forget((MEMORY,))

    def _kernel(self, s: Invoke, callee: Func) -> None:
        pointers = [self._address(a) for a in s.args if isinstance(a, Ref)]
        sizes = [a for a in s.args if not isinstance(a, Ref)]
        if len(pointers) != len(callee.buffers) or len(sizes) != len(callee.sizes):
            raise IRError(
                [
                    f"invoke {callee.name}: expected {len(callee.buffers)} addresses and "
                    f"{len(callee.sizes)} sizes, got {len(pointers)} and {len(sizes)}"
                ]
            )
        args = [f"ptr {p}" for p in pointers]
        for size, a in zip(callee.sizes, sizes, strict=True):
            if a.dtype != size.dtype:
                raise IRError([f"invoke {callee.name}: size {size.name} is {a.dtype}"])
            args.append(f"{scalar_type(a.dtype, self.target)} {value(self, a).text}")
        symbol, kind = callee.name, self.index
        context = ["ptr %ctx"] if meets(callee) else []
        if isinstance(s.threads, Const) and s.threads.value == 1:
            with self.only_if(self.first, "call"):
                every = [*args, f"{kind} 0", f"{kind} 1", *context]
                self.do(f"call void @{symbol}({', '.join(every)})")
            return
        wanted = value(self, s.threads).text
        used = self.put(f"call {kind} @llvm.smin({kind} {wanted}, {kind} {self.n})")
        if context:  # where they meet, a part of the run's threads would wait for the others
            every_one = self.put(f"icmp eq {kind} {used}, {self.n}")
            used = self.put(f"select i1 {every_one}, {kind} {used}, {kind} 1")
        takes_part = self.put(f"icmp slt {kind} {self.tid}, {used}")
        with self.only_if(takes_part, "call"):
            every = [*args, f"{kind} {self.tid}", f"{kind} {used}", *context]
            self.do(f"call void @{symbol}({', '.join(every)})")

    def _address(self, ref: Ref) -> str:
        p = address.poly(self, self.resolve(ref.offset))
        for atom in address.atoms(p):
            value(self, atom)
        total = address.sum_value(self, p)
        base = self.base(ref.buffer)
        if total.text == "0":
            return base.text
        exact = "inbounds nuw " if bounds(self.resolve(ref.offset))[0] >= 0 else ""
        return self.put(f"getelementptr {exact}i8, ptr {base.text}, {self.index} {total.text}")

    def _number(self, e: Expr | Ref) -> str:
        """An argument of a service as i64."""
        if isinstance(e, Ref):
            raise IRError(["a service expected a number, got an address"])
        kind, text = scalar_type(e.dtype, self.target), value(self, e).text
        if kind == "i64" or isinstance(self.resolve(e), Const):
            return text
        return self.put(f"sext {kind} {text} to i64")

    def _place(self, e: Expr | Ref) -> int:
        """The constant number of an output or a mark."""
        found = self.resolve(e) if not isinstance(e, Ref) else e
        if not isinstance(found, Const):
            raise IRError(["a service expected a constant number as its first argument"])
        return int(found.value)

    # ---- services ----

    def _barrier(self, s: Invoke) -> None:
        several = self.put("icmp sgt i64 %n64, 1")
        with self.only_if(several, "barrier"):
            self.do(f"call void {self.service('barrier')}(ptr %ctx, i64 %tid64, i64 %n64)")

    def _set_io(self, s: Invoke) -> None:
        place, ref = s.args
        if not isinstance(ref, Ref):
            raise IRError(["set_io: expected an address as second argument"])
        pointer = self._address(ref)
        with self.only_if(self.first, "set"):
            self.do(f"store ptr {pointer}, ptr {self.slot('io', self._place(place))}")

    def _alloc(self, s: Invoke) -> None:
        k, size, step = self._place(s.args[0]), *(self._number(a) for a in s.args[1:])
        with self.only_if(self.first, "alloc"):
            made = self.put(f"call ptr {self.service('alloc')}(ptr %ctx, i64 {size})")
            self.do(f"store ptr {made}, ptr {self.slot('io', k)}")
            nothing = self.put(f"icmp eq ptr {made}, null")
            with self.only_if(nothing, "exhausted"):
                self._set_error((str(NO_MEMORY), step, size, "0"))
        self._barrier(s)
        got = self.put(f"load ptr, ptr {self.slot('io', k)}")
        nothing = self.put(f"icmp eq ptr {got}, null")
        with self.only_if(nothing, "stop"):
            self._return()

    def _next_round(self, s: Invoke) -> None:
        """Hosts before this function went on without it."""
        step, count = (self._number(a) for a in s.args)
        with self.only_if(self.first, "round"):
            size = self.put(f"load i32, ptr {self.at(self.fields['host'], 4)}")
            most = host_offset("next_round", self.target) + self.bytes
            known = self.put(f"icmp uge i32 {size}, {most}")
            with self.only_if(known, "ask"):
                why = self.put(f"call i64 {self.service('next_round')}(ptr %ctx, i64 {count})")
                ends = self.put(f"icmp ne i64 {why}, 0")
                with self.only_if(ends, "end"):
                    self._set_error((why, step, count, "0"))
        self._barrier(s)
        code = self.put(f"load i64, ptr {self.error}")
        failed = self.put(f"icmp ne i64 {code}, 0")
        with self.only_if(failed, "stop"):
            self._return()

    def _fail(self, s: Invoke) -> None:
        values = [self._number(a) for a in s.args]
        self._set_error((*values, *("0",) * (4 - len(values))))
        self._return()

    def _set_error(self, values: tuple[str, ...]) -> None:
        """The first failure stays."""
        error = self.error
        code = self.put(f"load i64, ptr {error}")
        fresh = self.put(f"icmp eq i64 {code}, 0")
        with self.only_if(fresh, "fail"):
            for i, x in enumerate(values):
                self.do(f"store i64 {x}, ptr {self.at(error, 8 * i)}")

    def _return(self) -> None:
        self.block.end = "ret void"
        self.block = self.new_block("unreachable")

    def _mark(self, s: Invoke) -> None:
        with self.only_if(self.first, "mark"):
            now = self.put(f"call i64 {self.service('now')}()")
            at = self.at(self.fields["trace"], 8 * self._place(s.args[0]))
            self.do(f"store i64 {now}, ptr {at}")


def emit_driver(
    func: Func, target: Target, roles: Mapping[Buffer, Role], kernels: Sequence[Func]
) -> str:
    """The module of a driver, `void @name(ptr ctx, i64 tid, i64 n)`.

    `roles` says where each of its buffers lies; `kernels` are declared, the linker finds them.
    """
    code = Driver(func, target, roles)
    for size in func.sizes:
        raise IRError([f"{func.name}: a driver has no sizes besides its dims, found {size.name}"])
    body(code, func.body)
    code.block.end = "ret void"
    head = f"define void @{func.name}(ptr %ctx, i64 %tid64, i64 %n64) nounwind"
    return module(code, head, declarations(target, kernels))


def emit_plan(func: Func, target: Target) -> str:
    """The module of a plan, `void @name(ptr dims, ptr out)`: its buffers are i64 arrays."""
    code = Sizes(func, target)
    code.in_parallel = True  # it has no threads
    for i, buffer in enumerate(func.buffers):
        code.pointers[buffer] = Value((f"%b{i}",), 0)
    body(code, func.body)
    code.block.end = "ret void"
    params = ", ".join(f"ptr noalias captures(none) %b{i}" for i in range(len(func.buffers)))
    return module(code, f"define void @{func.name}({params}) nounwind")


def declarations(target: Target, kernels: Sequence[Func]) -> tuple[str, ...]:
    """`declare` lines of kernels."""
    index = scalar_type("index", target)
    out: list[str] = []
    for kernel in kernels:
        kinds = ["ptr"] * len(kernel.buffers)
        kinds += [scalar_type(v.dtype, target) for v in kernel.sizes]
        kinds += [index, index, *(["ptr"] if meets(kernel) else [])]
        out.append(f"declare hidden void @{kernel.name}({', '.join(kinds)}) nounwind")
    return tuple(out)
