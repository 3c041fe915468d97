"""The rules of loop IR, as tables of checks; each finds every violation and names the line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from naru.ir.expr import Expr, Load, Read, Shape, Var, walk
from naru.ir.loop import (
    Alloc,
    Assign,
    Buffer,
    For,
    Func,
    If,
    Invoke,
    Let,
    Ref,
    Stmt,
    Store,
    While,
    operands,
)
from naru.ir.simplify import Interval, bounds, known, sub
from naru.ir.text_loop import LoopPrinter
from naru.ir.verify_expr import (
    check_expr,
    index_problem,
    out_of_bounds,
    store_shape,
    tile_fits,
    tile_shape,
)


@dataclass(frozen=True)
class Context:
    """What surrounds a statement. `vars`, `buffers`: what is alive now. `ranges`: loop variables
    that take every value of an interval.
    `certain`: it runs whenever its loops do (no condition around it, no loop that is empty).
    `grid`: it is a loop, and all that the parallel loop around it contains."""

    vars: set[Var]
    buffers: set[Buffer]
    ranges: Mapping[Var, Interval] = field(default_factory=dict[Var, Interval])
    certain: bool = True
    parallel: bool = False
    grid: bool = False


Problems: TypeAlias = Iterator[str]


# Expressions, in a statement's context


def _used_vars(e: Expr, at: Context) -> Problems:
    if isinstance(e, Var) and e not in at.vars:
        yield f"{e.name} has no value here"


def _used_buffers(e: Expr, at: Context) -> Problems:
    if isinstance(e, Load) and e.buffer not in at.buffers:
        yield f"{e.buffer.name} is neither a parameter nor allocated here"


def _no_read(e: Expr, at: Context) -> Problems:
    if isinstance(e, Read):
        yield f"{e.tensor.name}: a Read belongs in a TensorFunction; loop IR has Load"


def _load_bounds(e: Expr, at: Context) -> Problems:
    if isinstance(e, Load) and at.certain and e.mask is None:
        yield from out_of_bounds(e.buffer.name, e.buffer.shape, e.index, e.tile, at.ranges)


EXPR_CHECKS: tuple[Callable[[Expr, Context], Problems], ...] = (
    lambda e, at: check_expr(e),
    _used_vars,
    _used_buffers,
    _no_read,
    _load_bounds,
)


# Statements


def _range(s: For, at: Context) -> Problems:
    yield from index_problem("start", s.start)
    yield from index_problem("stop", s.stop)


def _loop_var(s: For, at: Context) -> Problems:
    if s.var.dtype != "index" or s.var.shape or s.var.mutable:
        yield f"{s.var.name}: a loop variable is an immutable index"
    if s.var in at.vars:
        yield f"{s.var.name} has a value already"
    start, stop = known(s.start), known(s.stop)
    if start is None or stop is None or stop <= start:
        return
    if start < s.var.lo or stop - 1 > s.var.hi:
        yield (
            f"{s.var.name} runs over {start}..{stop - 1}, "
            f"but its declared range is {s.var.lo}..{s.var.hi}"
        )


def _unroll(s: For, at: Context) -> Problems:
    if s.kind == "unroll" and (known(s.start) is None or known(s.stop) is None):
        yield "the bounds of an unrolled loop are constants"


def _nested_parallel(s: For, at: Context) -> Problems:
    if s.kind == "parallel" and at.parallel and not at.grid:
        yield "a parallel loop inside a parallel loop, and not all of it"


def _condition(s: While | If, at: Context) -> Problems:
    if s.cond.dtype != "bool" or s.cond.shape:
        yield f"expected a scalar bool, found {_type(s.cond.dtype, s.cond.shape)}"


def _let(s: Let, at: Context) -> Problems:
    if s.var.mutable:
        yield f"{s.var.name} is mutable: assign it, a Let names a value once"
    if s.var in at.vars:
        yield f"{s.var.name} has a value already"


def _assign(s: Assign, at: Context) -> Problems:
    if not s.var.mutable:
        yield f"{s.var.name} is not mutable and cannot be assigned"


def _value_type(s: Let | Assign, at: Context) -> Problems:
    expected, found = (_type(e.dtype, e.shape) for e in (s.var, s.value))
    if expected != found:
        yield f"{s.var.name} is {expected}, the value is {found}"


def _type(dtype: str, shape: Shape) -> str:
    return f"{dtype}[{', '.join(map(str, shape))}]" if shape else dtype


def _store_buffer(s: Store, at: Context) -> Problems:
    if s.buffer not in at.buffers:
        yield f"{s.buffer.name} is neither a parameter nor allocated here"


def _store_tile(s: Store, at: Context) -> Problems:
    shape, tile = store_shape(s.index, s.value.shape)
    if s.value.shape != shape:
        yield f"{s.buffer.name}: the indices are tiles {shape}, the value is {s.value.shape}"
    if len(tile) > len(s.buffer.shape):
        yield f"{s.buffer.name}: a tile of rank {len(tile)} into {len(s.buffer.shape)} dims"
    elif tile:
        yield from tile_shape(tile)
        if s.mask is None:
            yield from tile_fits(s.buffer, tile)
    if s.mask is not None and s.mask.shape != shape:
        yield f"{s.buffer.name}: the mask is {s.mask.shape}, expected {shape}"


def _store_bounds(s: Store, at: Context) -> Problems:
    tile = store_shape(s.index, s.value.shape)[1]
    if at.certain and s.mask is None and len(tile) <= len(s.index):
        yield from out_of_bounds(s.buffer.name, s.buffer.shape, s.index, tile, at.ranges)


def _alloc(s: Alloc, at: Context) -> Problems:
    b = s.buffer
    if b in at.buffers:
        yield f"{b.name} exists already"
    if b.space in ("global", "arena"):
        yield f"{b.name}: memory in space {b.space} is a parameter, not allocated"
    if any(known(d) is None for d in b.shape):
        yield f"{b.name}: the shape of an allocated buffer is constant"
    elif any((known(d) or 0) < 0 for d in b.shape):
        yield f"{b.name}: a dim is negative"


def _callee(s: Invoke, at: Context) -> Problems:
    if isinstance(s.callee, str):
        yield from _service(s.callee, s.args)
        return
    params = s.callee.params
    if len(params) != len(s.args):
        yield f"{s.callee.name}: expected {len(params)} arguments, found {len(s.args)}"
    for p, a in zip(params, s.args, strict=False):
        yield from _argument(p, a)


def _argument(p: Buffer | Var, a: Ref | Expr) -> Problems:
    if isinstance(p, Buffer) != isinstance(a, Ref):
        expected = "an address" if isinstance(p, Buffer) else f"a value ({p.dtype})"
        found = "an address" if isinstance(a, Ref) else a.dtype
        yield f"{p.name}: expected {expected}, found {found}"
    elif isinstance(a, Ref):
        if a.buffer.dtype not in (p.dtype, "u8"):
            yield f"{p.name}: expected the address of {p.dtype} or bytes, found {a.buffer.dtype}"
    elif (p.dtype, ()) != (a.dtype, a.shape):
        yield f"{p.name}: expected {p.dtype}, found {_type(a.dtype, a.shape)}"


# What each service takes: n a number, r an address.
SERVICE_ARGUMENTS = {
    "barrier": "", "set_io": "nr", "alloc": "nnn", "fail": "nnn", "mark": "n",
    "next_round": "nn", "prefetch": "r",
}  # fmt: skip


def _service(name: str, args: Sequence[Ref | Expr]) -> Problems:
    expected = SERVICE_ARGUMENTS.get(name)
    if expected is None:
        yield f"{name} is neither a kernel nor one of {', '.join(SERVICE_ARGUMENTS)}"
        return
    found = "".join("r" if isinstance(a, Ref) else "n" for a in args)
    if found != expected:
        words = {"n": "number", "r": "address"}
        wanted, got = (", ".join(words[k] for k in kinds) for kinds in (expected, found))
        yield f"{name}: expected ({wanted}), found ({got})"


def _refs(s: Invoke, at: Context) -> Problems:
    for a in s.args:
        if isinstance(a, Ref):
            if a.buffer not in at.buffers:
                yield f"{a.buffer.name} is neither a parameter nor allocated here"
            yield from index_problem(f"{a.buffer.name}: offset", a.offset)
    yield from index_problem("threads", s.threads)


def _invoke_place(s: Invoke, at: Context) -> Problems:
    if at.parallel and s.callee == "barrier":
        yield "threads do not meet inside a parallel loop"
    elif at.parallel and s.callee != "prefetch":
        yield "a kernel is not invoked inside a parallel loop"


STMT_CHECKS: Mapping[type, tuple[Callable[[Any, Context], Problems], ...]] = {
    For: (_range, _loop_var, _unroll, _nested_parallel),
    While: (_condition,),
    If: (_condition,),
    Let: (_let, _value_type),
    Assign: (_assign, _value_type),
    Store: (_store_buffer, _store_tile, _store_bounds),
    Alloc: (_alloc,),
    Invoke: (_callee, _refs, _invoke_place),
}


# Functions


def _distinct_params(f: Func) -> Problems:
    seen: set[Buffer | Var] = set()
    for p in f.params:
        if p in seen:
            yield f"{p.name} is a parameter twice"
        seen.add(p)


def _param_order(f: Func) -> Problems:
    kinds = [isinstance(p, Var) for p in f.params]
    if kinds != sorted(kinds):
        yield "buffers come first, then sizes"


def _param_kinds(f: Func) -> Problems:
    for p in f.params:
        if isinstance(p, Buffer) and p.space not in ("global", "arena"):
            yield f"{p.name}: a parameter cannot be in space {p.space}"
        if isinstance(p, Var) and (p.mutable or p.shape):
            yield f"{p.name}: a size is an immutable scalar"


def _param_shapes(f: Func) -> Problems:
    sizes = set(f.sizes)
    for b in f.buffers:
        for d in b.shape:
            yield from index_problem(f"{b.name}: a dim", d)
            for e in walk(d):
                if isinstance(e, Var) and e not in sizes:
                    yield f"{b.name}: {e.name} in its shape is no parameter"
                elif isinstance(e, Load | Read):
                    yield f"{b.name}: a dim reads memory"
                yield from check_expr(e)


FUNC_CHECKS: tuple[Callable[[Func], Problems], ...] = (
    _distinct_params,
    _param_order,
    _param_kinds,
    _param_shapes,
)


class Verifier:
    """Walks a function and collects what is wrong."""

    def __init__(self, func: Func) -> None:
        self.func = func
        printer = LoopPrinter()
        printer.func(func)
        self.lines, self.line_of = printer.lines, printer.line_of
        self.problems: list[str] = []
        self.seen: set[Stmt] = set()

    def run(self) -> list[str]:
        """Every violation, in the order of the program."""
        for check in FUNC_CHECKS:
            self._report(1, check(self.func))
        params = self.func.params
        at = Context(
            {p for p in params if isinstance(p, Var)},
            {p for p in params if isinstance(p, Buffer)},
        )
        self._block(self.func.body, at)
        return self.problems

    def _report(self, line: int, problems: Problems) -> None:
        text = self.lines[line - 1].strip()
        for p in problems:
            message = f"line {line}, `{text}`: {p}"
            if message not in self.problems[-8:]:
                self.problems.append(message)

    def _block(self, body: Sequence[Stmt], at: Context) -> None:
        added: list[Var | Buffer] = []
        for s in body:
            self._statement(s, at)
            made = _made(s)
            if isinstance(made, Var) and made not in at.vars:
                at.vars.add(made)
                added.append(made)
            elif isinstance(made, Buffer) and made not in at.buffers:
                at.buffers.add(made)
                added.append(made)
        at.vars.difference_update(a for a in added if isinstance(a, Var))
        at.buffers.difference_update(a for a in added if isinstance(a, Buffer))

    def _statement(self, s: Stmt, at: Context) -> None:
        line = self.line_of[s]
        if s in self.seen:
            self._report(line, iter(("the statement is in the program twice",)))
        self.seen.add(s)
        for e in walk(*operands(s)):
            for check in EXPR_CHECKS:
                self._report(line, check(e, at))
        for check in STMT_CHECKS[type(s)]:
            self._report(line, check(s, at))
        self._inner(s, at)

    def _inner(self, s: Stmt, at: Context) -> None:
        match s:
            case For():
                new = s.var not in at.vars
                at.vars.add(s.var)
                self._block(s.body, _in_loop(s, at))
                if new:
                    at.vars.discard(s.var)
            case While():
                self._block(s.body, replace(at, certain=False))
            case If():
                self._block(s.then, replace(at, certain=False))
                self._block(s.orelse, replace(at, certain=False))
            case Let() | Assign() | Store() | Alloc() | Invoke():
                pass


def _made(s: Stmt) -> Var | Buffer | None:
    """What the statement brings into the rest of its block."""
    if isinstance(s, Let | Assign):
        return s.var
    return s.buffer if isinstance(s, Alloc) else None


def _in_loop(s: For, at: Context) -> Context:
    start, stop = known(s.start), known(s.stop)
    ranges = dict(at.ranges)
    if start is not None and stop is not None:
        ranges[s.var] = (start, stop - 1)
    both = s.start.dtype == s.stop.dtype == "index"
    empty = both and bounds(sub(s.stop, s.start))[1] <= 0
    return replace(
        at,
        ranges=ranges,
        certain=at.certain and not empty,
        parallel=at.parallel or s.kind == "parallel",
        grid=s.kind == "parallel" and len(s.body) == 1 and isinstance(s.body[0], For),
    )


def verify_func(func: Func) -> list[str]:
    """Every violation of the rules of loop IR, with its line; the functions it invokes excepted."""
    return Verifier(func).run()
