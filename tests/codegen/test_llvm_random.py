"""Random programs: compiled code and interpreter leave the same memory."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from codegen.native import X86, Native, runnable

from naru.ir import interp
from naru.ir.expr import Binary, Cast, Const, Expr, Load, Reduce, Select, Splat, Unary, Var
from naru.ir.loop import Alloc, Assign, Buffer, For, Func, If, Let, Stmt, Store
from naru.ir.simplify import add, floordiv, index, maximum, minimum, mod, mul, sub
from naru.ir.text import print_func
from naru.ir.verify import verify_func

ROWS, COLUMNS, LANES = 6, 24, 8


class Writer:
    """Writes one program. All subscripts are in bounds by construction."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        shape = (index(ROWS), index(COLUMNS))
        self.size = Var("n", lo=1, hi=ROWS)
        self.params = [Buffer(f"x{k}", "f32", shape) for k in range(3)]
        self.numbers = Buffer("k", "i32", shape)
        self.buffers: list[Buffer] = list(self.params)
        self.indices: list[Var] = [self.size]
        self.values: list[Var] = []
        self.tiles: list[Var] = []
        self.slots: list[Var] = []
        self.count = 0

    def func(self) -> Func:
        body = self.block(3, 6)
        return Func("random", (*self.params, self.numbers, self.size), body)

    def pick(self, *choices: str) -> str:
        return self.rng.choice(choices)

    def fresh(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    # ---- subscripts ----

    def index(self, depth: int = 2) -> Expr:
        if depth == 0 or self.rng.random() < 0.3:
            if self.rng.random() < 0.4:
                return index(self.rng.randrange(5))
            return self.rng.choice(self.indices)
        a, b = self.index(depth - 1), self.index(depth - 1)
        match self.pick("add", "sub", "mul", "floordiv", "mod", "min", "max", "load"):
            case "add":
                return add(a, b)
            case "sub":
                return sub(a, b)
            case "mul":
                return mul(a, self.rng.randrange(-2, 4))
            case "floordiv":
                return floordiv(a, self.rng.randrange(1, 5))
            case "mod":
                return mod(a, self.rng.randrange(1, 7))
            case "min":
                return minimum(a, b)
            case "max":
                return maximum(a, b)
            case _:
                return Cast(Load(self.numbers, self.at(a, b, 1)), "index")

    def at(self, row: Expr, column: Expr, lanes: int) -> tuple[Expr, Expr]:
        return mod(row, ROWS), mod(column, COLUMNS - lanes + 1)

    # ---- values ----

    def load(self, lanes: int, depth: int) -> Expr:
        buffer = self.rng.choice(self.buffers)
        where = self.at(self.index(depth), self.index(depth), lanes)
        tile = (lanes,) if lanes > 1 else ()
        mask = None
        if self.rng.random() < 0.2 and lanes > 1:
            mask = self.condition(lanes, 0)
        return Load(buffer, where, tile, mask)

    def value(self, lanes: int, depth: int = 3) -> Expr:
        names = self.tiles if lanes > 1 else [*self.values, *self.slots]
        if depth == 0 or self.rng.random() < 0.2:
            choice = self.rng.random()
            if choice < 0.4 and names:
                return self.rng.choice(names)
            if choice < 0.8:
                return self.load(lanes, 1)
            number = Const(self.rng.choice([0.0, 1.0, -2.5, 0.125]), "f32")
            return Splat(number, (lanes,)) if lanes > 1 else number
        match self.pick("binary", "binary", "binary", "unary", "select", "cast", "reduce"):
            case "binary":
                op = self.pick("add", "sub", "mul", "min", "max", "div")
                return Binary(op, self.value(lanes, depth - 1), self.value(lanes, depth - 1))
            case "unary":
                op = self.pick("neg", "abs", "floor", "round", "trunc", "ceil")
                return Unary(op, self.value(lanes, depth - 1))
            case "select":
                a, b = self.value(lanes, depth - 1), self.value(lanes, depth - 1)
                return Select(self.condition(lanes, depth - 1), a, b)
            case "reduce" if lanes == 1:
                return Reduce(self.pick("add", "max"), self.value(LANES, depth - 1))
            case "cast" if lanes == 1:
                return Cast(self.index(1), "f32")
            case _:
                scalar = self.value(1, depth - 1)
                return Splat(scalar, (lanes,)) if lanes > 1 else scalar

    def condition(self, lanes: int, depth: int) -> Expr:
        if lanes == 1 and self.rng.random() < 0.5:
            return Binary(self.pick("lt", "le", "eq", "ne"), self.index(1), self.index(1))
        op = self.pick("lt", "ge", "gt", "ne")
        test = Binary(op, self.value(lanes, depth), self.value(lanes, depth))
        return test if self.rng.random() < 0.7 else Unary("not", test)

    # ---- statements ----

    def block(self, depth: int, length: int) -> tuple[Stmt, ...]:
        scopes: list[list[Any]] = [self.buffers, self.indices, self.values, self.tiles, self.slots]
        kept = [list(x) for x in scopes]
        out: list[Stmt] = []
        for _ in range(self.rng.randrange(1, length + 1)):
            out += self.statement(depth)
        for scope, before in zip(scopes, kept, strict=True):
            scope[:] = before
        return tuple(out)

    def statement(self, depth: int) -> list[Stmt]:
        kinds = ["store", "store", "tile", "let", "let_tile", "let_index", "assign", "alloc"]
        if depth:
            kinds += ["for", "for", "unroll", "if"]
        out: list[Stmt] = []
        match self.pick(*kinds):
            case "store":
                where = self.at(self.index(), self.index(), 1)
                out.append(Store(self.rng.choice(self.buffers), where, self.value(1)))
                return out
            case "tile":
                where = self.at(self.index(), self.index(), LANES)
                mask = self.condition(LANES, 1) if self.rng.random() < 0.3 else None
                out.append(Store(self.rng.choice(self.buffers), where, self.value(LANES), mask))
                return out
            case "let":
                value, var = self.value(1), Var(self.fresh("v"), "f32")
                self.values.append(var)
                return [Let(var, value)]
            case "let_tile":
                value, var = self.value(LANES), Var(self.fresh("t"), "f32", shape=(LANES,))
                self.tiles.append(var)
                return [Let(var, value)]
            case "let_index":
                value, var = mod(self.index(), 9), Var(self.fresh("i"), lo=0, hi=8)
                self.indices.append(var)
                return [Let(var, value)]
            case "assign":
                value = self.value(1)
                if not self.slots or self.rng.random() < 0.5:
                    self.slots.append(Var(self.fresh("m"), "f32", mutable=True))
                return [
                    Assign(self.rng.choice(self.slots) if value.shape else self.slots[-1], value)
                ]
            case "alloc":
                buffer = Buffer(self.fresh("s"), "f32", (index(ROWS), index(COLUMNS)), "stack")
                fill = self.filled(buffer)
                self.buffers.append(buffer)
                return [Alloc(buffer), fill]
            case "for" | "unroll" as kind:
                return [self.loop(depth, kind)]
            case _:
                cond = self.condition(1, 1)
                then = self.block(depth - 1, 3)
                return [If(cond, then, self.block(depth - 1, 2) if self.rng.random() < 0.5 else ())]

    def filled(self, buffer: Buffer) -> Stmt:
        """Memory that is read must have been written."""
        i, j = Var(self.fresh("i"), hi=ROWS - 1), Var(self.fresh("j"), hi=COLUMNS // LANES - 1)
        tile = Load(self.params[0], (i, mul(j, LANES)), (LANES,))
        inner = For(
            j, index(0), index(COLUMNS // LANES), (Store(buffer, (i, mul(j, LANES)), tile),)
        )
        return For(i, index(0), index(ROWS), (inner,))

    def loop(self, depth: int, kind: str) -> Stmt:
        var = Var(self.fresh("i"), lo=0, hi=3)
        stop: Expr = index(self.rng.randrange(1, 4))
        if kind == "for" and self.rng.random() < 0.3:
            stop = minimum(self.size, 4)
        self.indices.append(var)
        body = self.block(depth - 1, 4)
        self.indices.remove(var)
        return For(var, index(0), stop, body, "serial" if kind == "for" else "unroll")


def memory(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = [
        np.round(rng.standard_normal((ROWS, COLUMNS)) * 8).astype(np.float32) for _ in range(3)
    ]
    return [*arrays, rng.integers(-9, 9, (ROWS, COLUMNS)).astype(np.int32)]


@pytest.mark.parametrize("seed", range(60))
def test_random_program(seed: int) -> None:
    target = runnable(X86[seed % len(X86)])
    func = Writer(seed).func()
    problems = verify_func(func)
    assert problems == [], print_func(func)
    given = memory(seed)
    want, got = ([a.copy() for a in given] for _ in range(2))
    interp.run(func, [*want, 4])
    Native(func, target)(*got, 4)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=print_func(func))
