"""Text of a TensorFunction.

    def f(A: f32[m, k] @ (1, 0), B: f32[k, n], bias: f32[n], *, m: index(1, 512)):
        C[i: m, j: n]: f32 = add[r: k](A[i, r] * B[r, j])        # a reduction over r < k
        D[i: m, j: n]: f32 = max(C[i, j] + bias[j], 0.0)
        E[()]: f32 @ (0, 1) = min[r: n](bias[r], init=0.0)       # a layout; where it starts from
        F[t: 4, i: 4][4 * t + i]: f32[14] = D[0, t]     # lies at a place, in a tensor f32[14]
        return C, D

The combinations are add, mul, min, max, and_, or_. The dtype of a stage may be left out where its
value has one. A kernel written by hand declares what it makes and is a function inside:

    def f(x: f32[n]):
        out: i64[1, c]
        def nonzero(x: f32[n], out: i64[1, c], n: index, c: index): …
        return out
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Sequence
from typing import NoReturn

from naru.errors import IRError
from naru.ir.expr import INT_MAX, Expr, Var
from naru.ir.simplify import bounds
from naru.ir.tensor import COMBINE, Axis, Stage, Tensor, TensorFunction
from naru.ir.text_expr import (
    RESERVED,
    ExprPrinter,
    ExprReader,
    Named,
    Names,
    Source,
    canonical,
    identifier,
    subscripts,
    unword,
    word,
)
from naru.ir.text_graph import layout_text, read_layout

INDENT = "    "


class TensorPrinter:
    """Prints a TensorFunction and remembers the line of each stage."""

    def __init__(self) -> None:
        self.names = Names(COMBINE)
        self.exprs = ExprPrinter(self.names)
        self.line_of: dict[Stage, int] = {}

    def function(self, tf: TensorFunction) -> list[str]:
        """The lines."""
        bounded: list[str] = []
        for v in tf.symbols():
            name = self.names.declare(v, v.name)
            if (v.lo, v.hi) != (0, INT_MAX) or v.dtype != "index":
                bounded.append(f"{name}: {v.dtype}({v.lo}, {v.hi})")
        for t in tf.inputs:
            self.names.declare(t, t.name)
        params = [f"{self.names.get(t)}: {self.type(t)}" for t in tf.inputs]
        params += ["*", *bounded] if bounded else []
        lines = [f"def {identifier(tf.name)}({', '.join(params)}):"]
        if tf.opaque is not None:
            lines += [
                f"{INDENT}{self.names.declare(t, t.name)}: {self.type(t)}" for t in tf.outputs
            ]
            inner = textwrap.dedent(tf.opaque).strip("\n")
            lines += textwrap.indent(inner, INDENT).splitlines()
        for s in tf.stages:
            lines.append(INDENT + self.stage(s))
            self.line_of[s] = len(lines)
        results = ", ".join(self.names.get(t) for t in tf.outputs)
        return [*lines, f"{INDENT}return {results}"]

    def type(self, t: Tensor) -> str:
        """`f32[m, k] @ (1, 0)`."""
        return f"{t.dtype}[{self.exprs.dims(t.shape)}]{layout_text(t.layout)}"

    def stage(self, s: Stage) -> str:
        """One line."""
        name = self.names.get(s.tensor)
        with self.exprs.statement(s.value), self.names.scope():
            axes = self._axes(s.axes) or "()"
            reduction = self._axes(s.reduction)
            value = self.exprs.text(s.value, s.tensor.dtype)
            kind = s.tensor.dtype
            if s.place:
                axes = f"{axes}][{', '.join(self.exprs.text(i, 'index') for i in s.place)}"
                kind = f"{kind}[{self.exprs.dims(s.tensor.shape)}]"
            head = f"{name}[{axes}]: {kind}{layout_text(s.tensor.layout)} = "
            if s.combine is None:
                return head + value
            if s.init is not None:
                value += f", init={self.exprs.text(s.init, s.tensor.dtype)}"
            return f"{head}{word(s.combine)}[{reduction}]({value})"

    def _axes(self, axes: Sequence[Axis]) -> str:
        """`i: m, j: n`."""
        extents = [self.exprs.text(a.extent, "index") for a in axes]
        names = [self.names.declare(a.var, a.var.name) for a in axes]
        return ", ".join(f"{n}: {e}" for n, e in zip(names, extents, strict=True))


def print_tensor_function(tf: TensorFunction) -> str:
    """The text of a TensorFunction."""
    return "\n".join(TensorPrinter().function(tf)) + "\n"


class TensorReader:
    """Reads one TensorFunction."""

    def __init__(self, text: str) -> None:
        self.source = Source(text)
        self.tree = self.source.parse(text)
        self.scope: dict[str, Named] = {}
        self.exprs = ExprReader(self.source, lambda name: self.scope.get(name))
        # In dims, a name that nobody defined is a symbol.
        self.dims = ExprReader(self.source, self._symbol)

    def fail(self, node: ast.AST, message: str) -> NoReturn:
        self.source.fail(node, message)

    def _symbol(self, name: str) -> Named | None:
        return None if name in RESERVED else self.scope.setdefault(name, Var(name))

    def read(self) -> TensorFunction:
        """The only function of the text."""
        if len(self.tree.body) != 1 or not isinstance(node := self.tree.body[0], ast.FunctionDef):
            raise IRError(["expected one function: def name(x: f32[n]):"])
        for arg in node.args.kwonlyargs:
            self._bounded(arg)
        inputs = tuple(self._tensor(a, a.arg, a.annotation) for a in node.args.args)
        stages: list[Stage] = []
        declared: list[Tensor] = []
        opaque: str | None = None
        outputs: tuple[Tensor, ...] | None = None
        for s in node.body:
            self.exprs.shared.clear()
            match s:
                case ast.FunctionDef():
                    lines = self.source.lines[s.lineno - 1 : s.end_lineno]
                    opaque = textwrap.dedent("\n".join(lines)) + "\n"
                case ast.AnnAssign(target=ast.Name(id=name), value=None):
                    declared.append(self._tensor(s, name, s.annotation))
                case ast.AnnAssign() | ast.Assign():
                    stages.append(self.exprs.build(s, self._stage, s))
                case ast.Return():
                    outputs = self._results(s)
                case _:
                    self.fail(s, "expected C[i: n] = value, or return")
        if outputs is None:
            self.fail(node.body[-1], "expected `return` and the outputs at the end")
        if declared and opaque is None:
            self.fail(node, f"nothing computes {declared[0].name}")
        return TensorFunction(node.name, inputs, tuple(stages), outputs, opaque)

    def _bounded(self, arg: ast.arg) -> None:
        call = arg.annotation
        if not isinstance(call, ast.Call) or len(call.args) != 2:
            self.fail(arg, "expected the bounds of a symbol: n: index(1, 512)")
        lo, hi = map(self.exprs.integer, call.args)
        self.scope[arg.arg] = Var(arg.arg, self.exprs.dtype(call.func), lo, hi)

    def _bind(self, node: ast.AST, name: str, thing: Named) -> None:
        if name in self.scope:
            self.fail(node, f"{name} is defined twice")
        self.scope[name] = thing

    def _tensor(self, node: ast.AST, name: str, note: ast.expr | None) -> Tensor:
        if note is None:
            self.fail(node, f"{name} has no type: x: f32[n, 4]")
        plain, layout = read_layout(self.exprs, note)
        dtype, dims = self.exprs.typed(plain)
        if dims is None:
            self.fail(note, f"a tensor has a shape: {dtype}[n], {dtype}[()]")
        tensor = Tensor(name, dtype, tuple(self._dim(d) for d in dims), layout)
        self._bind(node, name, tensor)
        return tensor

    def _dim(self, node: ast.expr) -> Expr:
        return canonical(self.dims.scalar(node, "index"))

    def _results(self, node: ast.Return) -> tuple[Tensor, ...]:
        value = node.value
        parts = list(value.elts) if isinstance(value, ast.Tuple) else [value] if value else []
        found: list[Tensor] = []
        for p in parts:
            thing = self.exprs.named(p)
            if not isinstance(thing, Tensor):
                self.fail(p, "expected a tensor")
            found.append(thing)
        return tuple(found)

    def _axes(self, parts: Sequence[ast.expr]) -> tuple[Axis, ...]:
        made: list[Axis] = []
        for p in parts:
            if not isinstance(p, ast.Slice) or not isinstance(p.lower, ast.Name) or not p.upper:
                self.fail(p, "expected an axis: i: extent")
            extent = self._dim(p.upper)
            made.append(Axis(Var(p.lower.id, hi=max(0, bounds(extent)[1] - 1)), extent))
        # All extents are read before any axis has a name: they cannot depend on each other.
        for axis, p in zip(made, parts, strict=True):
            self._bind(p, axis.var.name, axis.var)
        return tuple(made)

    def _stage(self, s: ast.AnnAssign | ast.Assign) -> Stage:
        target = s.targets[0] if isinstance(s, ast.Assign) else s.target
        at: list[ast.expr] = []
        if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Subscript):
            at, target = subscripts(target), target.value
        if not isinstance(target, ast.Subscript) or not isinstance(target.value, ast.Name):
            self.fail(target, "expected C[i: m, j: n]")
        dtype, layout, dims = None, None, None
        if isinstance(s, ast.AnnAssign):
            plain, layout = read_layout(self.exprs, s.annotation)
            dtype, dims = self.exprs.typed(plain) if at else (self.exprs.dtype(plain), None)
        if at and dims is None:
            self.fail(target, "expected the shape of what lies at places: C[i: m][2 * i]: f32[n]")
        if s.value is None:
            self.fail(s, "expected C[i: m, j: n] = value")
        before = set(self.scope)
        axes = self._axes(subscripts(target))
        reduction, combine, value, init = self._value(s.value, dtype)
        place = tuple(canonical(self.exprs.scalar(i, "index")) for i in at)
        # Symbols stay known; axes end with the stage.
        gone = {a.var.name for a in (*axes, *reduction)}
        self.scope = {k: v for k, v in self.scope.items() if k in before or k not in gone}
        name = target.value.id
        shape = tuple(a.extent for a in axes) if dims is None else tuple(map(self._dim, dims))
        tensor = Tensor(name, dtype or value.dtype, shape, layout)
        self._bind(target, name, tensor)
        return Stage(tensor, axes, value, reduction, combine, init, place)

    def _value(
        self, node: ast.expr, dtype: str | None
    ) -> tuple[tuple[Axis, ...], str | None, Expr, Expr | None]:
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Subscript):
            return (), None, self.exprs.expr(node, dtype), None
        name = node.func.value
        if not isinstance(name, ast.Name) or unword(name.id) not in COMBINE:
            self.fail(name, f"expected one of {', '.join(map(word, COMBINE))}")
        if len(node.args) != 1 or any(k.arg != "init" for k in node.keywords):
            self.fail(node, "expected add[r: n](value) or add[r: n](value, init=constant)")
        reduction = self._axes(subscripts(node.func))
        value = self.exprs.expr(node.args[0], dtype)
        init = self.exprs.expr(node.keywords[0].value, value.dtype) if node.keywords else None
        return reduction, unword(name.id), value, init


def read_tensor_function(text: str) -> TensorFunction:
    """The TensorFunction of a text. Raises IRError with the line and a caret."""
    return TensorReader(text).read()
