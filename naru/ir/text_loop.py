"""Text of the loop IR.

    def name(x: f32[n, 4], y: f32[n] @ arena @ 64, s: f32[()], n: index, k: index(1, 512)):
        for i in range(n):            # range(a, b); parallel(n), unroll(4)
            m: index = n - i          # Let
            k = 0                     # Assign; the first one declares a mutable variable
            acc: f32[2, 16] @ stack   # Alloc; `@ 64` is an alignment in bytes
            t: f32[16] = x[i, 0:16]   # Let of a tile
            y[i] = x[i, 0] * 2.0      # Store
            y[i:i + 16] = t           # of a tile; store(y[i:i + 16], t, mask) under a mask
            while k < 4: …            # if cond: … elif … else: …
            kernel(x, arena[off:], n, threads=4)      # Invoke: a byte offset; a service by its name
        pass                          # an empty block

`k: index(1, 512)` bounds a size (inclusive). Names in the shapes of parameters that are not
parameters themselves become sizes behind the last one, in order of appearance. The bounds of loop
variables and Lets are computed from what they run over; a name holds until the end of its block.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NoReturn, TypeAlias

from naru.errors import IRError
from naru.ir.expr import INT_MAX, Expr, Shape, Var, broadcast
from naru.ir.loop import (
    SPACES,
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
    statements,
)
from naru.ir.simplify import INF, bounds, index
from naru.ir.text_expr import (
    RESERVED,
    ExprPrinter,
    ExprReader,
    Named,
    Names,
    Source,
    identifier,
    unword,
    word,
)

SERVICES = ("barrier", "set_io", "alloc", "fail", "mark", "next_round", "prefetch")
LOOP_NAMES = {"serial": "range", "parallel": "parallel", "unroll": "unroll"}
INDENT = "    "


class LoopPrinter:
    """Prints a function and remembers the line of each statement."""

    def __init__(self, callees: Names | None = None) -> None:
        self.names = Names()
        self.exprs = ExprPrinter(self.names)
        self.callees = callees
        self.lines: list[str] = []
        self.line_of: dict[Stmt, int] = {}

    def func(self, f: Func) -> None:
        """Appends the text of a function; `line_of` counts lines from 1."""
        name = self._callee(f)
        sizes = {p for p in f.params if isinstance(p, Var)}
        for p in f.params:
            if p in sizes or not self.names.has(p):
                self.names.declare(p, p.name)
        params = ", ".join(self._param(p) for p in f.params)
        self.lines.append(f"def {name}({params}):")
        self._block(f.body, 1)

    def _callee(self, f: Func) -> str:
        if self.callees is None:
            return identifier(f.name)
        return self.callees.get(f) if self.callees.has(f) else self.callees.declare(f, f.name)

    def _param(self, p: Buffer | Var) -> str:
        if isinstance(p, Buffer):
            return f"{self.names.get(p)}: {self.buffer_type(p, 'global')}"
        default = p.dtype != "index" or (p.lo, p.hi) == (0, INT_MAX)
        return f"{self.names.get(p)}: {p.dtype}" + ("" if default else f"({p.lo}, {p.hi})")

    def buffer_type(self, b: Buffer, default: str | None) -> str:
        """`f32[n, 4] @ stack @ 64`."""
        text = f"{b.dtype}[{self.exprs.dims(b.shape)}]"
        text += f" @ {word(b.space)}" if b.space != default else ""
        return text + (f" @ {b.align}" if b.align != 1 else "")

    def _block(self, body: Sequence[Stmt], depth: int) -> None:
        with self.names.scope():
            for s in body:
                self._stmt(s, depth)
            if not body:
                self.lines.append(INDENT * depth + "pass")

    def _stmt(self, s: Stmt, depth: int, word: str = "if") -> None:
        with self.exprs.statement(*operands(s)):
            text = self._text(s, word)
        with self.names.scope() if isinstance(s, For) else nullcontext():
            text = self._declared(s) + text
            self.lines.append(INDENT * depth + text)
            self.line_of.setdefault(s, len(self.lines))
            self._inner(s, depth)

    def _text(self, s: Stmt, word: str) -> str:
        """The line of a statement without the name that it declares."""
        text, join = self.exprs.text, self.exprs.join
        match s:
            case For():
                head = f" in {LOOP_NAMES[s.kind]}("
                start = "" if s.start is index(0) else text(s.start, "index") + ", "
                return f"{head}{start}{text(s.stop, 'index')}):"
            case While():
                return f"while {text(s.cond)}:"
            case If():
                return f"{word} {text(s.cond)}:"
            case Let():
                dims = f"[{', '.join(map(str, s.var.shape))}]" if s.var.shape else ""
                return f": {s.var.dtype}{dims} = {text(s.value, s.var.dtype)}"
            case Assign():
                known = self.names.has(s.var)
                return f" = {text(s.value, s.var.dtype if known else None)}"
            case Store():
                tile = () if any(i.shape for i in s.index) else s.value.shape
                access = join(self.exprs.access(s.buffer, s.index, tile))
                if s.mask is None:
                    return f"{access} = {text(s.value, s.buffer.dtype)}"
                return f"store({access}, {text(s.value, s.buffer.dtype)}, {text(s.mask)})"
            case Alloc():
                return f": {self.buffer_type(s.buffer, None)}"
            case Invoke():
                return self._invoke(s)

    def _invoke(self, s: Invoke) -> str:
        name = s.callee if isinstance(s.callee, str) else self._callee(s.callee)
        args = [self._ref(a) if isinstance(a, Ref) else self.exprs.text(a) for a in s.args]
        if s.threads is not index(1):
            args.append(f"threads={self.exprs.text(s.threads, 'index')}")
        return f"{name}({', '.join(args)})"

    def _ref(self, a: Ref) -> str:
        name = self.names.get(a.buffer)
        return name if a.offset is index(0) else f"{name}[{self.exprs.text(a.offset, 'index')}:]"

    def _declared(self, s: Stmt) -> str:
        """The name that the statement brings into its block (a loop: into its body)."""
        match s:
            case For():
                return "for " + self.names.declare(s.var, s.var.name)
            case Let():
                return self.names.declare(s.var, s.var.name)
            case Assign():
                return self.names.get(s.var)
            case Alloc():
                return self.names.declare(s.buffer, s.buffer.name)
            case While() | If() | Store() | Invoke():
                return ""

    def _inner(self, s: Stmt, depth: int) -> None:
        match s:
            case For() | While():
                self._block(s.body, depth + 1)
            case If():
                self._block(s.then, depth + 1)
                if len(s.orelse) == 1 and isinstance(s.orelse[0], If):
                    self._stmt(s.orelse[0], depth, "elif")
                elif s.orelse:
                    self.lines.append(INDENT * depth + "else:")
                    self._block(s.orelse, depth + 1)
            case Let() | Assign() | Store() | Alloc() | Invoke():
                pass


def print_func(func: Func) -> str:
    """The text of one function; the kernels that it invokes appear by name only."""
    printer = LoopPrinter()
    printer.func(func)
    return "\n".join(printer.lines) + "\n"


def print_module(*funcs: Func) -> str:
    """Functions and everything they invoke, callees first."""
    callees = Names(SERVICES)
    texts: list[str] = []
    for f in callee_order(funcs):
        printer = LoopPrinter(callees)
        printer.func(f)
        texts.append("\n".join(printer.lines) + "\n")
    return "\n\n".join(texts)


def callee_order(funcs: Sequence[Func]) -> list[Func]:
    """Every function that these need, callees first."""
    order: list[Func] = []
    seen: set[Func] = set()
    stack = [(f, False) for f in reversed(funcs)]
    while stack:
        f, ready = stack.pop()
        if ready:
            order.append(f)
        elif f not in seen:
            seen.add(f)
            stack.append((f, True))
            called = [s.callee for s in statements(f.body) if isinstance(s, Invoke)]
            stack += [(c, False) for c in reversed(called) if isinstance(c, Func)]
    return order


Env: TypeAlias = dict[str, Named]


class LoopReader:
    """Reads functions of one text."""

    def __init__(self, text: str, funcs: Mapping[str, Func]) -> None:
        self.source = Source(text)
        self.tree = self.source.parse(text)
        self.funcs = dict(funcs)
        self.scope: Env = {}
        self.exprs = ExprReader(self.source, lambda name: self.scope.get(name))

    def fail(self, node: ast.AST, message: str) -> NoReturn:
        self.source.fail(node, message)

    def module(self) -> dict[str, Func]:
        """Every function of the text by name."""
        found: dict[str, Func] = {}
        for node in self.tree.body:
            if not isinstance(node, ast.FunctionDef):
                self.fail(node, "expected a function: def name(…):")
            if node.name in found:
                self.fail(node, f"{node.name} is defined twice")
            found[node.name] = self.funcs[node.name] = self.func(node)
        return found

    def func(self, node: ast.FunctionDef) -> Func:
        """One function."""
        args = node.args
        if args.vararg or args.kwarg or args.kwonlyargs or args.posonlyargs or args.defaults:
            self.fail(node, "parameters are `name: type`, without defaults")
        self.scope = {}
        for arg in args.args:
            if arg.annotation is None:
                self.fail(arg, f"{arg.arg} has no type; x: f32[n, 4] or n: index")
            if not _is_array(arg.annotation):
                self.bind(arg, arg.arg, self._size(arg.arg, arg.annotation))
        extra: list[Var] = []
        for arg in args.args:
            if arg.annotation is not None and _is_array(arg.annotation):
                extra += self._implicit_sizes(arg.annotation)
                self.bind(arg, arg.arg, self.buffer(arg.arg, arg.annotation, "global"))
        params = [p for a in args.args if isinstance(p := self.scope[a.arg], Buffer | Var)]
        return Func(node.name, (*params, *extra), self.block(node.body))

    def bind(self, node: ast.AST, name: str, thing: Named) -> None:
        if name in self.scope:
            self.fail(node, f"{name} is defined twice")
        self.scope[name] = thing

    def _size(self, name: str, node: ast.expr) -> Var:
        """`index`, `f32` or `index(1, 512)`."""
        if isinstance(node, ast.Call) and len(node.args) == 2:
            lo, hi = map(self.exprs.integer, node.args)
            return Var(name, self.exprs.dtype(node.func), lo, hi)
        return Var(name, self.exprs.dtype(node))

    def _implicit_sizes(self, node: ast.expr) -> list[Var]:
        made: list[Var] = []
        while isinstance(node, ast.BinOp):
            node = node.left
        names = node.slice if isinstance(node, ast.Subscript) else node
        for n in sorted(
            (n for n in ast.walk(names) if isinstance(n, ast.Name)),
            key=lambda n: (n.lineno, n.col_offset),
        ):
            if n.id not in self.scope and n.id not in RESERVED:
                made.append(Var(n.id))
                self.scope[n.id] = made[-1]
        return made

    def buffer(self, name: str, node: ast.expr, space: str) -> Buffer:
        """`f32[n, 4] @ stack @ 64`."""
        align = 1
        while isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            if isinstance(node.right, ast.Name) and unword(node.right.id) in SPACES:
                space = unword(node.right.id)
            elif isinstance(node.right, ast.Constant):
                align = self.exprs.integer(node.right)
            else:
                self.fail(node.right, f"expected a space ({' '.join(SPACES)}) or an alignment")
            node = node.left
        dtype, dims = self.exprs.typed(node)
        if dims is None:
            self.fail(node, f"a buffer has a shape: {dtype}[n], {dtype}[()]")
        shape = tuple(self.exprs.scalar(d, "index") for d in dims)
        return Buffer(name, dtype, shape, space, align)

    def block(self, body: Sequence[ast.stmt]) -> tuple[Stmt, ...]:
        """Statements; what they declare is forgotten at the end."""
        outer = dict(self.scope)
        made: list[Stmt] = []
        for node in body:
            if isinstance(node, ast.Pass) or _is_docstring(node):
                continue
            handler = STMT_HANDLERS.get(type(node))
            if handler is None:
                self.fail(node, f"{type(node).__name__} is not part of the language")
            self.exprs.shared.clear()
            made.append(self.exprs.build(node, handler, self, node))
        self.scope = outer
        return tuple(made)


def _is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _is_array(node: ast.expr) -> bool:
    return isinstance(node, ast.Subscript | ast.BinOp)


def _read_for(r: LoopReader, node: ast.For) -> Stmt:
    kinds = {word: kind for kind, word in LOOP_NAMES.items()}
    call = node.iter
    if not (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in kinds
        and len(call.args) in (1, 2)
        and not call.keywords
    ):
        r.fail(call, "expected range(n), range(a, b), parallel(n) or unroll(4)")
    if not isinstance(node.target, ast.Name) or node.orelse:
        r.fail(node, "expected `for name in range(n):`")
    ends = [r.exprs.scalar(a, "index") for a in call.args]
    start, stop = ends if len(ends) == 2 else (index(0), ends[0])
    lo = bounds(start)[0]
    var = Var(node.target.id, lo=lo, hi=max(lo, bounds(stop)[1] - 1))
    outer = dict(r.scope)
    r.bind(node.target, var.name, var)
    body = r.block(node.body)
    r.scope = outer
    return For(var, start, stop, body, kinds[call.func.id])


def _condition(r: LoopReader, node: ast.expr) -> Expr:
    cond = r.exprs.scalar(node, None)
    if cond.dtype != "bool":
        r.fail(node, f"expected a bool, found {cond.dtype}")
    return cond


def _read_while(r: LoopReader, node: ast.While) -> Stmt:
    if node.orelse:
        r.fail(node, "while has no else")
    return While(_condition(r, node.test), r.block(node.body))


def _read_if(r: LoopReader, node: ast.If) -> Stmt:
    cond = _condition(r, node.test)
    return If(cond, r.block(node.body), r.block(node.orelse))


def _read_annotated(r: LoopReader, node: ast.AnnAssign) -> Stmt:
    """Let, or Alloc without a value."""
    if not isinstance(node.target, ast.Name):
        r.fail(node.target, "expected a name")
    name = node.target.id
    if node.value is None:
        buffer = r.buffer(name, node.annotation, "stack")
        r.bind(node.target, name, buffer)
        return Alloc(buffer)
    dtype, dims = r.exprs.typed(node.annotation)
    shape = tuple(r.exprs.integer(d) for d in dims or ())
    value = r.exprs.expr(node.value, dtype)
    if (value.dtype, value.shape) != (dtype, shape):
        found = _tile_type(value.dtype, value.shape)
        r.fail(node.value, f"expected {_tile_type(dtype, shape)}, found {found}")
    lo, hi = bounds(value) if dtype == "index" and not shape else (0, INT_MAX)
    var = Var(name, dtype, lo, hi, shape=shape)
    r.bind(node.target, name, var)
    return Let(var, value)


def _tile_type(dtype: str, shape: Shape) -> str:
    return f"{dtype}[{', '.join(map(str, shape))}]" if shape else dtype


def _read_assign(r: LoopReader, node: ast.Assign) -> Stmt:
    """Store, or Assign."""
    target = node.targets[0]
    if len(node.targets) != 1 or not isinstance(target, ast.Name | ast.Subscript):
        r.fail(target, "expected one name or one x[…] on the left")
    if isinstance(target, ast.Subscript):
        return _store(r, target, node.value, None)
    old = r.scope.get(target.id)
    if old is None:
        value = r.exprs.expr(node.value)
        lo, hi = (-INF, INF) if value.dtype == "index" else (0, INT_MAX)
        var = Var(target.id, value.dtype, lo, hi, True, shape=value.shape)
        r.bind(target, var.name, var)
        return Assign(var, value)
    if not isinstance(old, Var) or not old.mutable:
        r.fail(target, f"{target.id} cannot be assigned: it is named once; use a new name")
    value = r.exprs.expr(node.value, old.dtype)
    if (value.dtype, value.shape) != (old.dtype, old.shape):
        found = _tile_type(value.dtype, value.shape)
        r.fail(node.value, f"expected {_tile_type(old.dtype, old.shape)}, found {found}")
    return Assign(old, value)


def _store(
    r: LoopReader, target: ast.Subscript, node: ast.expr, mask_node: ast.expr | None
) -> Stmt:
    buffer = r.exprs.named(target.value)
    if not isinstance(buffer, Buffer):
        r.fail(target, "expected a buffer before [")
    at, tile = r.exprs.tile_access(target, len(buffer.shape))
    value = r.exprs.expr(node, buffer.dtype)
    mask = None if mask_node is None else r.exprs.expr(mask_node)
    shape: Shape = tile
    for i in at:
        shape = broadcast(shape, i.shape)
    if value.shape != shape:
        hint = f"; write splat(x, {', '.join(map(str, shape))})" if not value.shape else ""
        r.fail(node, f"expected a tile of shape {shape}, found {value.shape}{hint}")
    return Store(buffer, at, value, mask)


def _read_call(r: LoopReader, node: ast.Expr) -> Stmt:
    """store(…) under a mask, or Invoke."""
    call = node.value
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        r.fail(node, "expected a statement; an expression alone does nothing")
    name = call.func.id
    if name == "store" and len(call.args) == 3 and isinstance(call.args[0], ast.Subscript):
        return _store(r, call.args[0], call.args[1], call.args[2])
    callee = r.funcs.get(name) or (name if name in SERVICES else None)
    if callee is None:
        r.fail(call.func, f"no kernel is called {name!r}; the services are {', '.join(SERVICES)}")
    args = tuple(_argument(r, a) for a in call.args)
    threads: Expr = index(1)
    for k in call.keywords:
        if k.arg != "threads":
            r.fail(k, "the only keyword is threads=")
        threads = r.exprs.scalar(k.value, "index")
    return Invoke(callee, args, threads)


def _argument(r: LoopReader, node: ast.expr) -> Ref | Expr:
    if isinstance(node, ast.Name) and isinstance(found := r.scope.get(node.id), Buffer):
        return Ref(found)
    if isinstance(node, ast.Subscript) and isinstance(part := node.slice, ast.Slice):
        buffer = r.exprs.named(node.value)
        if isinstance(buffer, Buffer) and part.lower and not part.upper and not part.step:
            return Ref(buffer, r.exprs.scalar(part.lower, "index"))
    return r.exprs.expr(node)


STMT_HANDLERS: Mapping[type[ast.stmt], Callable[[LoopReader, Any], Stmt]] = {
    ast.For: _read_for,
    ast.While: _read_while,
    ast.If: _read_if,
    ast.AnnAssign: _read_annotated,
    ast.Assign: _read_assign,
    ast.Expr: _read_call,
}


def read_module(text: str, *, funcs: Mapping[str, Func] | None = None) -> dict[str, Func]:
    """The functions of a text by name. `funcs`: others that it may invoke.

    Raises IRError with the line and a caret."""
    return LoopReader(text, funcs or {}).module()


def read_func(text: str, *, funcs: Mapping[str, Func] | None = None) -> Func:
    """The last function of a text; those before it are kernels that it may invoke."""
    found = read_module(text, funcs=funcs)
    if not found:
        raise IRError(["expected a function: def name(…):, found an empty text"])
    return list(found.values())[-1]
