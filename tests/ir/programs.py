"""Random loop-IR functions that run: every access is in bounds by construction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from naru.ir.expr import (
    Binary,
    Call,
    Cast,
    Const,
    Expr,
    Lanes,
    Load,
    Reduce,
    Select,
    Splat,
    Unary,
    Var,
)
from naru.ir.loop import Assign, Buffer, For, Func, If, Let, Stmt, Store

SIZE = 8
FLOATS = (0.0, -0.0, 1.0, -1.5, 0.1, 1e-30, 3e38, float("inf"), float("-inf"), float("nan"))
DTYPES = ("f32", "i32", "index", "bool", "f16", "bf16", "u8")
Draw = Callable[[st.SearchStrategy[Any]], Any]


class Builder:
    """Draws one function."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.x = Buffer("x", "f32", (Const(SIZE),))
        self.y = Buffer("x", "f32", (Const(SIZE),))  # the same name, on purpose
        self.z = Buffer("z", "i32", (Const(SIZE), Const(2)), "arena", 64)
        self.vars: list[Var] = [Var("n", hi=100), Var("min", "f32")]
        self.params = (self.x, self.y, self.z, *self.vars)

    def pick(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def constant(self, dtype: str) -> Expr:
        if dtype == "bool":
            return Const(self.pick(True, False), "bool")
        if dtype in ("f32", "f16", "bf16"):
            return Const(self.pick(*FLOATS), dtype)
        return Const(self.draw(st.integers(0 if dtype == "u8" else -9, 9)), dtype)

    def leaf(self, dtype: str) -> Expr:
        known = [v for v in self.vars if v.dtype == dtype]
        if known and self.draw(st.booleans()):
            return self.pick(*known)
        return self.constant(dtype)

    def expr(self, dtype: str, depth: int) -> Expr:
        if depth == 0:
            return self.leaf(dtype)
        kind = self.draw(st.integers(0, 6))
        if kind == 0:
            return self.leaf(dtype)
        if kind == 1:
            return Cast(self.expr(self.pick(*DTYPES), depth - 1), dtype)
        if kind == 2:
            cond = self.expr("bool", depth - 1)
            return Select(cond, self.expr(dtype, depth - 1), self.expr(dtype, depth - 1))
        if dtype == "bool":
            return self.logic(depth)
        if kind == 3 and dtype in ("f32", "i32"):
            return self.load(dtype, depth)
        if kind == 4 and dtype == "f32":
            return self.lanes(depth)
        return self.arithmetic(dtype, depth)

    def logic(self, depth: int) -> Expr:
        if self.draw(st.booleans()):
            op = self.pick("and", "or", "xor", "eq")
            return Binary(op, self.expr("bool", depth - 1), self.expr("bool", depth - 1))
        if self.draw(st.booleans()):
            return Unary("not", self.expr("bool", depth - 1))
        dtype = self.pick("f32", "i32", "index", "u8")
        op = self.pick("lt", "le", "eq", "ne", "gt", "ge")
        return Binary(op, self.expr(dtype, depth - 1), self.expr(dtype, depth - 1))

    def arithmetic(self, dtype: str, depth: int) -> Expr:
        a = self.expr(dtype, depth - 1)
        is_float = dtype in ("f32", "f16", "bf16")
        if self.draw(st.integers(0, 3)) == 0:
            ops = ("neg", "abs", "exp", "tanh", "floor", "round") if is_float else ("neg", "not")
            return Unary(self.pick(*ops), a)
        ops = ("add", "sub", "mul", "min", "max")
        ops += ("div", "mod", "pow") if is_float else ("and", "or", "xor")
        b = self.expr(dtype, depth - 1)
        if dtype == "f32" and self.draw(st.integers(0, 5)) == 0:
            return Call("fma", (a, b, self.expr(dtype, depth - 1)))
        # Products of unbounded integers would leave 64 bits.
        op = self.pick(*ops)
        return Binary("sub" if dtype == "index" and op == "mul" else op, a, b)

    def index(self, depth: int) -> Expr:
        return Binary("mod", self.expr("index", depth - 1), Const(SIZE))

    def load(self, dtype: str, depth: int) -> Expr:
        if dtype == "f32":
            return Load(self.pick(self.x, self.y), (self.index(depth),))
        return Load(self.z, (self.index(depth), Const(self.pick(0, 1))))

    def tile(self, depth: int) -> Expr:
        """A tile of four lanes."""
        start = Binary("mod", self.expr("index", depth - 1), Const(5))
        kind = self.draw(st.integers(0, 3))
        if kind == 0:
            return Load(self.pick(self.x, self.y), (start,), (4,))
        if kind == 1:
            mask = Binary("lt", Lanes(4), self.expr("index", depth - 1))
            return Load(self.x, (start,), (4,), mask)
        if kind == 2:
            return Load(self.y, (Binary("mod", Binary("add", Lanes(4), start), Const(SIZE)),))
        return Binary("add", Splat(self.expr("f32", depth - 1), (4,)), self.constant("f32"))

    def lanes(self, depth: int) -> Expr:
        return Reduce(self.pick("add", "mul", "min", "max"), self.tile(depth))

    def block(self, depth: int) -> tuple[Stmt, ...]:
        outer = list(self.vars)
        made = [self.statement(depth) for _ in range(self.draw(st.integers(0, 3)))]
        self.vars = outer
        return tuple(made)

    def statement(self, depth: int) -> Stmt:
        kind = self.draw(st.integers(0, 6 if depth else 4))
        if kind == 0:
            value = self.expr(self.pick(*DTYPES), 2)
            self.vars.append(Var(self.pick("t", "n", "in"), value.dtype))
            return Let(self.vars[-1], value)
        if kind == 1:
            mutable = [v for v in self.vars if v.mutable]
            if not mutable or self.draw(st.booleans()):
                value = self.expr(self.pick(*DTYPES), 2)
                self.vars.append(Var("k", value.dtype, mutable=True))
                return Assign(self.vars[-1], value)
            var = self.pick(*mutable)
            return Assign(var, self.expr(var.dtype, 2))
        if kind == 2:
            return Store(self.z, (self.index(2), Const(1)), self.expr("i32", 3))
        if kind == 3:
            start = Binary("mod", self.expr("index", 1), Const(5))
            mask = (
                Binary("ge", Lanes(4), self.expr("index", 1)) if self.draw(st.booleans()) else None
            )
            return Store(self.y, (start,), self.tile(2), mask)
        if kind == 4:
            return Store(self.y, (self.index(2),), self.expr("f32", 3))
        if kind == 5:
            return If(self.expr("bool", 2), self.block(depth - 1), self.block(depth - 1))
        var = Var("i", hi=2)
        self.vars.append(var)
        body = self.block(depth - 1)
        self.vars.remove(var)
        return For(var, Const(0), Const(3), body, self.pick("serial", "unroll"))


@st.composite
def functions(draw: Draw) -> Func:
    """A function of x, x, z, n, min."""
    b = Builder(draw)
    return Func(draw(st.sampled_from(["f", "my kernel"])), b.params, b.block(2))
