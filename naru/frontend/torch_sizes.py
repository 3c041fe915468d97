"""Sizes of a traced PyTorch program: its symbolic numbers as index expressions, and as tensors.

PyTorch writes them in sympy, with functions of its own for what Python's integers do; they are told
by the names of their classes, so that neither library is loaded for this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np

from naru.frontend.onnx_node import Unsupported, emit
from naru.frontend.onnx_scope import Symbols
from naru.frontend.onnx_shapes import size_of
from naru.ir.expr import INT_MAX, Binary, Const, Expr, Select, Var, free_vars
from naru.ir.graph import Node
from naru.ir.simplify import (
    ONE,
    add,
    ceildiv,
    compare,
    floordiv,
    index,
    known,
    maximum,
    minimum,
    mod,
    mul,
    select,
)
from naru.ops.registry import constant

_BINARY: Mapping[str, Callable[[Expr, Expr], Expr]] = {
    "FloorDiv": floordiv, "CleanDiv": floordiv, "Mod": mod, "PythonMod": mod,
}  # fmt: skip
_MANY: Mapping[str, Callable[[Expr, Expr], Expr]] = {
    "Add": add, "Mul": mul, "Max": maximum, "Min": minimum,
}  # fmt: skip
_COMPARE = {
    "Equality": "eq", "Unequality": "ne", "StrictLessThan": "lt", "LessThan": "le",
    "StrictGreaterThan": "gt", "GreaterThan": "ge",
}  # fmt: skip
# The operators of numbers that are computed when running.
_NUMBERS = {
    "Add": "add", "Mul": "mul", "Max": "max", "Min": "min", "FloatTrueDiv": "div",
    "IntTrueDiv": "div", "FloatPow": "pow", "Pow": "pow",
}  # fmt: skip
_ARITHMETIC = {"add": "add", "sub": "sub", "mul": "mul", "min": "min", "max": "max"}


class Sizes:
    """The symbols of one program: sympy's by ours, and which tensor's dim each of ours is."""

    def __init__(self, names: Mapping[Any, str], ranges: Mapping[Any, Any]) -> None:
        """`names`: what users call sympy's symbols; `ranges`: PyTorch's ValueRanges."""
        self._names, self._ranges = names, ranges
        self._vars: dict[Any, Expr] = {}
        self._multiples: dict[Any, Var] = {}
        self._places: dict[Var, tuple[Node, int]] = {}
        self._bound: dict[Var, Node] = {}
        self._symbols = Symbols()

    def expr(self, size: Any, like: str = "dim") -> Expr:
        """A size, an int or a SymInt, as an index expression; a symbol not yet met is called as the
        user does, or as `like`. Raises Unsupported."""
        if isinstance(size, Expr | int):
            return index(size)
        return self._expr(size.node.expr, like)

    def _expr(self, e: Any, like: str) -> Expr:
        kind = type(e).__name__
        if e in self._multiples:
            return self._multiples[e]
        if e.is_Integer:
            return Const(int(e))
        if e.is_Symbol:
            return self._var(e, like)
        args = e.args
        if kind in _MANY:
            return reduce(_MANY[kind], (self._expr(a, like) for a in args))
        if kind in _BINARY:
            return _BINARY[kind](self._expr(args[0], like), self._expr(args[1], like))
        if kind == "Pow" and args[1].is_Integer and 0 <= int(args[1]) < 16:
            return mul(1, *[self._expr(args[0], like)] * int(args[1]))
        if kind == "ModularIndexing":
            x, divisor, modulus = (self._expr(a, like) for a in args)
            return mod(floordiv(x, divisor), modulus)
        if kind == "CeilToInt" and type(args[0]).__name__ == "IntTrueDiv":
            a, b = (self._expr(x, like) for x in args[0].args)
            return ceildiv(a, b)
        if kind in ("TruncToInt", "FloorToInt") and type(args[0]).__name__ == "IntTrueDiv":
            a, b = (self._expr(x, like) for x in args[0].args)
            return floordiv(a, b)
        if kind == "Where" and type(args[0]).__name__ in _COMPARE:
            a, b = (self._expr(x, like) for x in args[0].args)
            cond = compare(_COMPARE[type(args[0]).__name__], a, b)
            return select(cond, self._expr(args[1], like), self._expr(args[2], like))
        if kind == "Identity":
            return self._expr(args[0], like)
        raise Unsupported(f"the size {e}", "sizes made by + − * // % min and max")

    def _var(self, symbol: Any, like: str) -> Expr:
        if symbol not in self._vars:
            lo, hi = self._limits(symbol)
            name = self._names.get(symbol, like)
            self._vars[symbol] = self._symbols.fresh(name, lo, hi)
        return self._vars[symbol]

    def _limits(self, symbol: Any) -> tuple[int, int]:
        lo, hi = 0, INT_MAX
        limits = self._ranges.get(symbol)
        if limits is not None:
            lo = max(lo, int(limits.lower)) if limits.lower.is_Integer else lo
            hi = min(hi, int(limits.upper)) if limits.upper.is_Integer else hi
        return lo, hi

    def multiple(self, size: Any, like: str) -> Expr | None:
        """Of an input's size that is a multiple of a symbol not met so far (`4*Dim("n")`): the size
        becomes a symbol of ours, and what PyTorch has for n a quotient of it. The condition that it
        divides; None for other sizes."""
        if not hasattr(size, "node") or type(size.node.expr).__name__ != "Mul":
            return None
        e, args = size.node.expr, size.node.expr.args
        if len(args) != 2 or not args[0].is_Integer or not args[1].is_Symbol:
            return None
        times, symbol = int(args[0]), args[1]
        if times < 2 or e in self._multiples or symbol in self._vars:
            return None
        lo, hi = self._limits(symbol)
        whole = self._symbols.fresh(like, lo * times, min(hi * times, INT_MAX))
        self._multiples[e], self._vars[symbol] = whole, floordiv(whole, times)
        return compare("eq", mod(whole, times), 0)

    def equality(self, condition: Any) -> Expr | None:
        """A SymBool that says that two sizes of inputs are equal, as a condition; None for one that
        says anything else. (PyTorch also notes that sizes are not 1, which is nothing to us.)"""
        e = condition.node.expr
        if type(e).__name__ != "Equality":
            return None
        try:
            a, b = (self._expr(x, "dim") for x in e.args)
        except Unsupported:
            return None
        if not set(free_vars(a, b)) <= set(self._places):
            return None
        return compare("eq", a, b)

    def found_in(self, tensor: Node) -> None:
        """Remembers where symbols can be read: dims of this tensor."""
        for axis, dim in enumerate(tensor.type.shape):
            if isinstance(dim, Var):
                self._places.setdefault(dim, (tensor, axis))

    def bind(self, size: Any, count: Node, most: Expr | None, like: str) -> Node:
        """Gives a count that data decide (i64 of one element) to the symbol that PyTorch has for
        it (None: it has none); `most`: what it can be at most."""
        symbol = self._symbols.fresh(like) if size is None else self.expr(size, like)
        if not isinstance(symbol, Var):
            raise Unsupported(f"the size {size}, which data decide")
        bounds = {} if most is None else {"bounds": (most,)}
        bound = emit("bind_dim", emit("reshape", count, shape=(ONE,)), symbols=(symbol,), **bounds)
        self._bound[symbol] = emit("reshape", bound, shape=())
        return bound

    # --- numbers that are computed when running ---------------------------------------------------

    def number(self, value: Any) -> Node:
        """A SymInt, SymFloat or an index expression as a scalar: i64, or f64. Raises
        Unsupported."""
        if isinstance(value, Expr):
            return self._integer(value)
        return self._number(value.node.expr)

    def _number(self, e: Any) -> Node:
        kind, args = type(e).__name__, e.args
        if e.is_number and not e.is_Integer:
            return constant(float(e), np.float64)
        if kind in ("ToFloat", "FloatTrueDiv", "IntTrueDiv", "FloatPow") or (
            kind in _NUMBERS and not e.is_integer
        ):
            parts = [emit("cast", self._number(a), to="f64") for a in args]
            if kind == "ToFloat":
                return parts[0]
            return reduce(lambda a, b: emit(_NUMBERS[kind], a, b), parts)
        if kind == "OpaqueUnaryFn_sqrt":
            return emit("sqrt", emit("cast", self._number(args[0]), to="f64"))
        if kind in ("CeilToInt", "FloorToInt", "RoundToInt", "TruncToInt") and kind != "TruncToInt":
            way = {"CeilToInt": "ceil", "FloorToInt": "floor", "RoundToInt": "round"}[kind]
            return emit("cast", emit(way, self._number(args[0])), to="i64")
        return self._integer(self._expr(e, "dim"))

    def _integer(self, e: Expr) -> Node:
        n = known(e)
        if n is not None:
            return constant(n, np.int64)
        match e:
            case Var():
                if e in self._bound:
                    return self._bound[e]
                if e not in self._places:
                    raise Unsupported(f"the size {e.name} as a number: no tensor has it as a dim")
                return size_of(*self._places[e])
            case Binary() if e.op in _ARITHMETIC:
                return emit(_ARITHMETIC[e.op], self._integer(e.a), self._integer(e.b))
            case Binary(op="mod"):
                return emit("mod", self._integer(e.a), self._integer(e.b))
            case Binary(op="floordiv"):
                a, b = self._integer(e.a), self._integer(e.b)
                return emit("div", emit("sub", a, emit("mod", a, b)), b)
            case Select(cond=Binary() as c) if c.op in COMPARISONS:
                held = emit(COMPARISONS[c.op], self._integer(c.a), self._integer(c.b))
                held = emit("not", held) if c.op == "ne" else held
                return emit("where", held, self._integer(e.a), self._integer(e.b))
            case _:
                raise Unsupported("a size of this form as a number")


def is_unbacked(size: Any) -> bool:
    """Is a SymInt one that only data tell?"""
    return bool(size.node.expr.is_Symbol) and str(size.node.expr).startswith("u")


COMPARISONS = {
    "lt": "less", "le": "less_or_equal", "gt": "greater", "ge": "greater_or_equal",
    "eq": "equal", "ne": "equal",
}  # fmt: skip
