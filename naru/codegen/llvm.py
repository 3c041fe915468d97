"""Loop IR to LLVM IR text: one module a kernel, and one for the driver that calls them.

A kernel `f(x, y, n)` becomes `void @f(ptr %x, ptr %y, i64 %n, i64 %tid, i64 %threads)`: buffers and
sizes in the order of its parameters' kinds, then which of how many threads this is. Where threads
meet, the run's context follows, `ptr %ctx`. Nothing here is undefined when linked, writable, or
dependent on an address.
"""

from __future__ import annotations

from naru.codegen import llvm_tiles
from naru.codegen.llvm_build import Code, Value
from naru.codegen.llvm_stmt import body
from naru.codegen.llvm_types import scalar_type
from naru.ir.loop import Buffer, Func, Store, meets, statements
from naru.targets import Target


def emit_kernel(func: Func, target: Target) -> str:
    """The module of one kernel: pointers of its buffers, its sizes, then tid and n, of index type.

    Buffers do not overlap; where threads meet, other threads write to those that this one does.
    IRError names what cannot be written for this target.
    """
    code = Code(func, target)
    written = {s.buffer for s in statements(func.body) if isinstance(s, Store)}
    shared = written if meets(func) else set[Buffer]()
    params: list[str] = []
    for i, buffer in enumerate(func.buffers):
        code.pointers[buffer] = Value((f"%b{i}",), 0)
        facts = ["captures(none)"] if buffer in shared else ["noalias", "captures(none)"]
        if buffer not in written:
            facts.append("readonly")
        if buffer.align > 1:
            facts.append(f"align {buffer.align}")
        params.append(f"ptr {' '.join(facts)} %b{i}")
    for i, size in enumerate(func.sizes):
        code.learn(size, Value((f"%s{i}",), 0))
        params.append(f"{scalar_type(size.dtype, target)} %s{i}")
    params += [f"{code.index} %tid", f"{code.index} %n", *(["ptr %ctx"] if meets(func) else [])]
    body(code, func.body)
    llvm_tiles.finish(code)
    code.block.end = "ret void"
    return module(code, f"define void @{func.name}({', '.join(params)}) nounwind")


def module(code: Code, head: str, declarations: tuple[str, ...] = ()) -> str:
    """The text of a module with one function."""
    target = code.target
    parts = [
        f'target datalayout = "{target.data_layout}"',
        f'target triple = "{target.triple}"',
        *declarations,
        code.text(f"{head} {attributes(target)}"),
        *code.metadata,
    ]
    return "\n".join(parts) + "\n"


def attributes(target: Target) -> str:
    """What LLVM may use in a function; `codegen.objects` adds the target's other attributes."""
    return f'"target-cpu"="{target.cpu}" "target-features"="{target.feature_string}"'
