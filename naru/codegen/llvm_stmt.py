"""Statements to LLVM blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from naru.codegen import llvm_memory as memory
from naru.codegen import llvm_tiles as tiles
from naru.codegen import math
from naru.codegen.llvm_build import MEMORY, Block, Code, Loop, MovingPointer, Value
from naru.codegen.llvm_expr import access_operands, broadcast, side_by_side, value
from naru.codegen.llvm_types import (
    host_offset,
    memory_bytes,
    memory_type,
    rows_of,
    scalar_type,
    vector,
)
from naru.errors import IRError
from naru.ir.expr import Const, Expr, Load, Shape, Var, walk
from naru.ir.loop import (
    Alloc,
    Assign,
    For,
    If,
    Invoke,
    Let,
    Ref,
    Stmt,
    Store,
    While,
    operands,
    statements,
)
from naru.ir.simplify import bounds, known, prod, sub

STACK_ALIGN = 64
REGISTERS_A_CHAIN = 4  # a function's operand, its parts, and a constant


def body(code: Code, stmts: tuple[Stmt, ...]) -> None:
    """Writes statements in order."""
    for s in stmts:
        _EMIT[type(s)](code, s)


# ---- loops ----


def _for(code: Code, s: For) -> None:
    if s.kind == "unroll":
        _unrolled(code, s)
        return
    changed = code.changes(s.body)
    start, stop = value(code, s.start).text, value(code, s.stop).text
    parallel = s.kind == "parallel" and not code.in_parallel
    if parallel:
        start, stop = _share(code, start, stop)
        code.in_parallel = True
    certain = not parallel and _runs(code, s)
    code.forget(changed)
    _counted(code, s, start, stop, certain)
    code.forget(changed)
    if parallel:
        code.in_parallel = False


def _is_innermost(s: For) -> bool:
    """Is there no loop inside that is one in the code, too?"""
    inside = statements(s.body)
    unrolled = (t.kind == "unroll" for t in inside if isinstance(t, For))
    return all(unrolled) and not any(isinstance(t, While) for t in inside)


def _runs(code: Code, s: For) -> bool:
    """Is there certainly an iteration?"""
    return bounds(sub(code.resolve(s.stop), code.resolve(s.start)))[0] > 0


def _counted(code: Code, s: For, start: str, stop: str, certain: bool) -> None:
    """The test stands at the end of the body, and before it unless an iteration is certain."""
    kind = scalar_type(s.var.dtype, code.target)
    before, inside = code.block, code.new_block(f"{_label(s.var.name)}.")
    after = code.new_block("end")
    if certain:
        before.end = f"br label %{inside.label}"
    else:
        runs = code.put(f"icmp slt {kind} {start}, {stop}")
        before.end = f"br i1 {runs}, label %{inside.label}, label %{after.label}"
    here, following = code.name(), code.name()
    code.enter(inside)
    code.learn(s.var, Value((here,), code.depth))
    loop = Loop(code.depth, start)
    if code.target.is_recompiled and _is_innermost(s):
        code.loops[s.var] = loop
    body(code, s.body)
    code.loops.pop(s.var, None)
    last = code.leave()
    phis = [f"{here} = phi {kind} [ {start}, %{before.label} ], [ {following}, %{last.label} ]"]
    for p in loop.pointers:
        moved = code.name()
        edges = f"[ {p.first}, %{before.label} ], [ {moved}, %{last.label} ]"
        phis.append(f"{p.here} = phi ptr {edges}")
        last.lines += _moved(code, p, moved)
    inside.lines[:0] = phis
    last.lines.append(f"{following} = add nsw {kind} {here}, 1")
    again = code.name()
    last.lines.append(f"{again} = icmp slt {kind} {following}, {stop}")
    loop = _loop_note(code, s)
    last.end = f"br i1 {again}, label %{inside.label}, label %{after.label}{loop}"
    code.block = after


def _moved(code: Code, p: MovingPointer, moved: str) -> list[str]:
    """The pointer of the next iteration. Stripping it of invariant groups does nothing, but LLVM's
    strength reduction does not see through it: it would make sums of its own that it no longer
    knows not to wrap around, and those do not fold into the offset of an access."""
    by = code.name()
    return [
        f"{by} = getelementptr {p.kind}, ptr {p.here}, {code.index} {p.step}",
        f"{moved} = call ptr @llvm.strip.invariant.group.p0(ptr {by})",
    ]


def _loop_note(code: Code, s: For) -> str:
    """Loops over tiles are unrolled by the schedule; LLVM's unrolling would make them spill."""
    if not any(e.shape for t in statements(s.body) for root in operands(t) for e in walk(root)):
        return ""
    number = len(code.metadata)
    code.metadata.append(f"!{number} = distinct !{{!{number}, !{number + 1}}}")
    code.metadata.append(f'!{number + 1} = !{{!"llvm.loop.unroll.disable"}}')
    return f", !llvm.loop !{number}"


def _label(name: str) -> str:
    return "".join(c if c.isalnum() or c == "_" else "_" for c in name)


def _share(code: Code, start: str, stop: str) -> tuple[str, str]:
    """This thread's part of a parallel loop: from start + len·tid/n to start + len·(tid+1)/n."""
    kind = code.index
    alone = code.put(f"icmp eq {kind} {code.n}, 1")
    before, divide, after = code.block, code.new_block("share"), code.new_block("part")
    before.end = f"br i1 {alone}, label %{after.label}, label %{divide.label}"
    code.block = divide
    span = code.put(f"sub {kind} {stop}, {start}")
    length = code.put(f"call {kind} @llvm.smax({kind} {span}, {kind} 0)")
    cuts: list[str] = []
    following = code.put(f"add {kind} {code.tid}, 1")
    for at in (code.tid, following):
        scaled = code.put(f"mul {kind} {length}, {at}")
        part = code.put(f"udiv {kind} {scaled}, {code.n}")
        cuts.append(code.put(f"add {kind} {start}, {part}"))
    divide.end = f"br label %{after.label}"
    code.block = after
    phis = [
        code.put(f"phi {kind} [ {whole}, %{before.label} ], [ {cut}, %{divide.label} ]")
        for whole, cut in zip((start, stop), cuts, strict=True)
    ]
    return phis[0], phis[1]


def _unrolled(code: Code, s: For) -> None:
    start, stop = known(code.resolve(s.start)), known(code.resolve(s.stop))
    if start is None or stop is None:
        raise IRError([f"for {s.var.name}: unroll needs constant bounds"])
    stored = _long_chains(code, s)
    if stored is not None:
        _store_side_by_side(code, *stored)
        return
    for i in range(start, stop):
        code.unrolled[s.var] = Const(i, s.var.dtype)
        body(code, s.body)
    code.unrolled.pop(s.var, None)


def _long_chains(code: Code, s: For) -> tuple[list[For], Store] | None:
    """Unrolled loops around nothing but a store of what takes a chain of operations a place, none
    of which reads what another stores. An engine that compiles again has an order of its own."""
    loops, inside = [s], s.body
    while len(inside) == 1 and isinstance(inside[0], For) and inside[0].kind == "unroll":
        loops.append(inside[0])
        inside = inside[0].body
    if len(inside) != 1 or not isinstance(inside[0], Store) or code.target.is_recompiled:
        return None
    store = inside[0]
    used = [e for root in operands(store) for e in walk(root)]
    if tiles.touches(code, store) or code.shared_memory:
        return None
    if any(isinstance(e, Load) and e.buffer is store.buffer for e in used):
        return None
    long = any(e.shape and math.is_chain(e) for e in walk(store.value))
    return (loops, store) if long else None


def _store_side_by_side(code: Code, loops: list[For], store: Store) -> None:
    """As many places at a time as the registers have room for what a chain needs."""
    together = max(1, code.target.registers // REGISTERS_A_CHAIN)
    every = list(_places(code, loops))
    for k in range(0, len(every), together):
        places = every[k : k + together]
        roots: list[Expr] = []
        for place in places:
            code.unrolled |= place
            roots.append(code.resolve(store.value))
        side_by_side(code, roots)
        for place in places:
            code.unrolled |= place
            _store(code, store)
    for s in loops:
        code.unrolled.pop(s.var, None)


def _places(code: Code, loops: list[For]) -> Iterator[dict[Var, Const]]:
    """The values of the loops' variables, in order."""
    if not loops:
        yield {}
        return
    s = loops[0]
    start, stop = known(code.resolve(s.start)), known(code.resolve(s.stop))
    if start is None or stop is None:
        raise IRError([f"for {s.var.name}: unroll needs constant bounds"])
    for i in range(start, stop):
        code.unrolled[s.var] = Const(i, s.var.dtype)
        here = {s.var: code.unrolled[s.var]}
        yield from ({**here, **further} for further in _places(code, loops[1:]))


def _while(code: Code, s: While) -> None:
    changed = code.changes(s.body)
    code.forget(changed)
    test, inside, after = (code.new_block(hint) for hint in ("while", "do", "end"))
    code.block.end = f"br label %{test.label}"
    code.enter(test)
    cond = value(code, s.cond).text
    code.block.end = f"br i1 {cond}, label %{inside.label}, label %{after.label}"
    code.block = inside
    body(code, s.body)
    code.leave().end = f"br label %{test.label}"
    code.forget(changed)
    code.block = after


def _if(code: Code, s: If) -> None:
    cond = code.resolve(s.cond)
    if isinstance(cond, Const):
        body(code, s.then if cond.value else s.orelse)
        return
    test = value(code, cond).text
    changed = code.changes((*s.then, *s.orelse))
    then, after = code.new_block("then"), code.new_block("fi")
    orelse = code.new_block("else") if s.orelse else after
    code.block.end = f"br i1 {test}, label %{then.label}, label %{orelse.label}"
    _branch(code, s.then, then, after)
    if s.orelse:
        _branch(code, s.orelse, orelse, after)
    code.forget(changed)
    code.block = after


def _branch(code: Code, stmts: tuple[Stmt, ...], start: Block, after: Block) -> None:
    # What a branch writes is forgotten after it; the other branch sees the state from before, and
    # so little is known of it that forgetting early costs nothing.
    code.enter(start)
    body(code, stmts)
    code.leave().end = f"br label %{after.label}"


# ---- variables and memory ----


def _let(code: Code, s: Let) -> None:
    bound = value(code, s.value)
    bound = Value(broadcast(code, code.resolve(s.value), s.var.shape or s.value.shape), bound.depth)
    code.forget((s.var,))
    code.learn(s.var, bound, code.facts(s.var).state, code.depth)


def _assign(code: Code, s: Assign) -> None:
    rows = value(code, s.value).rows
    shape = s.value.shape
    kind = vector(scalar_type(s.var.dtype, code.target), shape)
    if s.var not in code.slots:
        count = rows_of(shape)
        code.slots[s.var] = code.alloca(kind if count == 1 else f"[{count} x {kind}]")
    code.forget((s.var,))
    slot = code.slots[s.var]
    for r, x in enumerate(rows):
        at = slot
        if r:
            at = code.put(f"getelementptr {kind}, ptr {slot}, {code.index} {r}")
        code.do(f"store {kind} {x}, ptr {at}")


def _store(code: Code, s: Store) -> None:
    if tiles.touches(code, s):
        tiles.store(code, s)
        return
    stored = tuple(code.resolve(i) for i in s.index)
    shape = _store_shape(code, s)
    for e in (s.value, *access_operands(code, s)):
        value(code, e)
    rows = broadcast(code, code.resolve(s.value), shape)
    mask = None
    if s.mask is not None:
        mask = Value(broadcast(code, code.resolve(s.mask), shape), code.depth)
    with code.storing(s.buffer):
        memory.store(code, s.buffer, stored, shape, rows, mask)
    code.forget((s.buffer, MEMORY))


def _store_shape(code: Code, s: Store) -> Shape:
    """The widest of value, subscripts and mask."""
    shapes = [s.value.shape, *(i.shape for i in s.index)]
    if s.mask is not None:
        shapes.append(s.mask.shape)
    return max(shapes, key=len)


def _alloc(code: Code, s: Alloc) -> None:
    buffer = s.buffer
    if tiles.has_registers(code, buffer):
        tiles.allocate(code, buffer)
        return
    if buffer in code.pointers:
        return  # a loop comes by again; the contents are undefined either way
    size = known(prod(buffer.shape))
    if size is None:
        raise IRError([f"alloc {buffer.name}: expected a constant shape on the stack"])
    kind = f"[{size} x {memory_type(buffer.dtype)}]"
    align = max(STACK_ALIGN, buffer.align, memory_bytes(buffer.dtype))
    code.pointers[buffer] = Value((code.alloca(kind, align),), 0)


def _invoke(code: Code, s: Invoke) -> None:
    if s.callee == "prefetch":
        _prefetch(code, s)
    elif s.callee == "barrier" and not code.shared_memory:
        _barrier(code)
    else:
        code.invoke(s)


def _barrier(code: Code) -> None:
    """The threads of a kernel meet, if there are several."""
    several = code.put(f"icmp sgt {code.index} {code.n}, 1")
    meet, after = code.new_block("meet"), code.new_block("met")
    code.block.end = f"br i1 {several}, label %{meet.label}, label %{after.label}"
    code.enter(meet)
    host = code.put("load ptr, ptr %ctx")
    at = code.put(f"getelementptr i8, ptr {host}, i64 {host_offset('barrier', code.target)}")
    function = code.put(f"load ptr, ptr {at}")
    tid, n = code.tid, code.n
    if code.index != "i64":
        tid, n = (code.put(f"sext {code.index} {x} to i64") for x in (tid, n))
    code.do(f"call void {function}(ptr %ctx, i64 {tid}, i64 {n})")
    code.leave().end = f"br label %{after.label}"
    code.block = after
    code.forget(code.exchanged)


def _prefetch(code: Code, s: Invoke) -> None:
    """Into the second level, from where a loop that passes through it is fed."""
    for a in s.args:
        if isinstance(a, Ref):
            base, offset = code.base(a.buffer).text, value(code, a.offset).text
            at = code.put(f"getelementptr i8, ptr {base}, {code.index} {offset}")
            code.do(f"call void @llvm.prefetch.p0(ptr {at}, i32 0, i32 2, i32 1)")


_EMIT: dict[type, Callable[[Code, Any], None]] = {
    For: _for,
    While: _while,
    If: _if,
    Let: _let,
    Assign: _assign,
    Store: _store,
    Alloc: _alloc,
    Invoke: _invoke,
}


def parameter(code: Code, var: Var, name: str) -> None:
    """Makes a parameter known as the value of a size."""
    code.learn(var, Value((name,), 0))
