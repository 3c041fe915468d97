"""A custom operator as a kernel in loop-IR text: written once for any sizes, filled in for the
types of a node."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from naru.dtypes import DTYPES, FROM_NUMPY
from naru.errors import InputError, IRError, ModelError
from naru.ir.expr import Expr
from naru.ir.graph import Node, TensorType
from naru.ir.loop import For, Func, If, Stmt
from naru.ir.simplify import add, floordiv, index, known, mod, mul, normal, sub
from naru.ir.text import print_func
from naru.ir.text_loop import read_func
from naru.ir.verify import verify
from naru.ops.kernel_text import KernelText
from naru.ops.operands import check_equal, shape_text


@dataclass(frozen=True)
class Dim:
    """A size that may be known only at run time, with + - * // %."""

    expr: Expr

    def __add__(self, other: Dim | int) -> Dim:
        return Dim(add(self.expr, _expr(other)))

    def __sub__(self, other: Dim | int) -> Dim:
        return Dim(sub(self.expr, _expr(other)))

    def __mul__(self, other: Dim | int) -> Dim:
        return Dim(mul(self.expr, _expr(other)))

    def __floordiv__(self, other: Dim | int) -> Dim:
        return Dim(floordiv(self.expr, _expr(other)))

    def __mod__(self, other: Dim | int) -> Dim:
        return Dim(mod(self.expr, _expr(other)))

    __radd__, __rmul__ = __add__, __mul__

    @property
    def value(self) -> int | None:
        """The number, where it is known when compiling."""
        return known(self.expr)


def _expr(value: Dim | int) -> Expr:
    return value.expr if isinstance(value, Dim) else index(value)


@dataclass(frozen=True)
class Type:
    """The type of an operand or result: numpy's name of the element type, sizes."""

    dtype: str
    shape: tuple[Dim | int, ...]


def type_of(t: TensorType) -> Type:
    return Type(DTYPES[t.dtype].numpy.name, tuple(Dim(d) for d in t.shape))


def tensor_types(label: str, found: Any) -> tuple[TensorType, ...]:
    """What the function of the types returned, checked."""
    listed: list[Any] = list(found) if isinstance(found, tuple | list) else [found]  # pyright: ignore[reportUnknownArgumentType]
    for t in listed:
        if not isinstance(t, Type):
            raise InputError(
                f"{label}: expected a naru.custom.Type or a tuple of them, found {t!r}",
                hint="return x where the result has the type of x",
            )
    return tuple(
        TensorType(FROM_NUMPY[np.dtype(t.dtype)], tuple(map(_expr, t.shape))) for t in listed
    )


@dataclass(frozen=True)
class Template:
    """A kernel's text in parts. `params`: name, dtype, dims as they are written."""

    name: str
    params: tuple[tuple[str, str, tuple[str, ...]], ...]
    body: str


def read_template(label: str, text: str) -> Template:
    """The parts of `def name(x: f32[n, 4], out: f32[n]): …`. Sizes may stand there too."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise IRError([f"line {error.lineno}: {error.msg}"], where=f"{label}: its kernel") from None
    functions = [s for s in tree.body if isinstance(s, ast.FunctionDef)]
    if len(functions) != 1 or len(tree.body) != 1:
        raise IRError(["expected one function"], where=f"{label}: its kernel")
    (function,) = functions
    params: list[tuple[str, str, tuple[str, ...]]] = []
    for a in function.args.args:
        found = a.annotation
        while isinstance(found, ast.BinOp):  # `@ 64`, an alignment, which arguments need not have
            found = found.left
        if not isinstance(found, ast.Subscript):
            continue  # a size
        dims = found.slice.elts if isinstance(found.slice, ast.Tuple) else [found.slice]
        params.append((a.arg, ast.unparse(found.value), tuple(map(ast.unparse, dims))))
    lines = text.splitlines()[function.body[0].lineno - 1 :]
    return Template(function.name, tuple(params), "\n".join(lines))


def fill(
    label: str,
    template: Template,
    operands: Sequence[TensorType | None],
    results: Sequence[TensorType],
    attrs: Mapping[str, Any],
    same: Sequence[int],
) -> str:
    """The kernel's text for these types. `same[k]`: the first operand that is the same value as
    operand k; they are one parameter."""
    given = [t for t in operands if t is not None]
    if len(given) != len(operands) or len(given) + len(results) != len(template.params):
        raise ModelError(
            f"{label}: its kernel has {len(template.params)} buffers, expected one for each of "
            f"{len(given)} operands and {len(results)} results"
        )
    sizes: dict[str, Expr] = {}
    for (name, dtype, dims), t in zip(template.params, [*given, *results], strict=True):
        _match(label, name, dtype, dims, t, sizes)
    used = {k: t for k, t in enumerate(given) if same[k] == k}
    names = KernelText(*used.values(), *results)
    roles = [p[0] for p in template.params]
    body = template.body
    for k, first in enumerate(same):
        if first != k:
            body = re.sub(rf"\b{roles[k]}\b", roles[first], body)
    for name, value in attrs.items():
        if isinstance(value, int | float):
            body = re.sub(rf"\b{name}\b", repr(value), body)
    buffers = [names.buffer(roles[k], t) for k, t in used.items()]
    buffers += [names.buffer(r, t) for r, t in zip(roles[len(given) :], results, strict=True)]
    text = f"{names.head(template.name, *buffers)}\n{names.fill(body, sizes)}\n"
    f = read_func(text)
    return print_func(Func(f.name, f.params, _alive(f.body)))


def _alive(body: Sequence[Stmt]) -> tuple[Stmt, ...]:
    """Statements without loops that never run at these sizes: a loop over tiles where a dim is too
    small for one would not be valid."""
    kept: list[Stmt] = []
    for s in body:
        if isinstance(s, For):
            start, stop = known(normal(s.start)), known(normal(s.stop))
            if start is not None and stop is not None and start >= stop:
                continue
            s = replace(s, body=_alive(s.body))
        elif isinstance(s, If):
            s = replace(s, then=_alive(s.then), orelse=_alive(s.orelse))
        kept.append(s)
    return tuple(kept)


def _match(
    label: str, name: str, dtype: str, dims: tuple[str, ...], t: TensorType, sizes: dict[str, Expr]
) -> None:
    """Binds the names of a parameter's dims to sizes."""
    if dtype != t.dtype or len(dims) != t.rank:
        raise ModelError(
            f"{label}: its kernel takes {name}: {dtype}[{', '.join(dims)}], "
            f"found {t.dtype}{shape_text(t.shape)}"
        )
    for written, d in zip(dims, t.shape, strict=True):
        what = f"sizes of {name} of its kernel"
        if written.isidentifier():
            sizes[written] = check_equal(label, what, sizes.get(written, d), d)
        elif written.isdecimal():
            check_equal(label, what, index(int(written)), d)


def check_template(label: str, text: str, attrs: Mapping[str, Any]) -> None:
    """Raises IRError with everything that the verifier finds in a kernel, for sizes of any kind."""
    for name, value in attrs.items():
        if isinstance(value, int | float):
            head, colon, body = text.partition(":\n")
            text = head + colon + re.sub(rf"\b{name}\b", repr(value), body)
    problems = verify(read_func(text))
    if problems:
        raise IRError(problems, where=f"{label}: its kernel")


def same_operands(n: Node) -> list[int]:
    """For each operand, the first that is the same node."""
    return [n.inputs.index(i) for i in n.inputs]
