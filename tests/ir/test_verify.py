"""Broken programs that the text form cannot express, built by hand: the exact list of errors."""

from __future__ import annotations

import numpy as np
import pytest

from naru.errors import IRError, ModelError
from naru.ir.expr import Binary, Const, Expr, Lanes, Load, Read, Splat, Var
from naru.ir.graph import Graph, TensorType, make_constant, make_input, make_node
from naru.ir.loop import Alloc, Assign, Buffer, For, Func, If, Invoke, Let, Ref, Stmt, Store
from naru.ir.tensor import Axis, Stage, Tensor, TensorFunction
from naru.ir.verify import check, verify_func, verify_graph, verify_tensor_function

N = Var("n")
X = Buffer("x", "f32", (N,))
ZERO = Const(0)
ONE = Const(1.0, "f32")


def problems(*body: Stmt, params: tuple[Buffer | Var, ...] = (X, N)) -> list[str]:
    """The messages without their lines."""
    return [p.split("`: ", 1)[1] for p in verify_func(Func("f", params, body))]


def test_variables() -> None:
    i, k, t = Var("i"), Var("k", mutable=True), Var("t", "f32")
    use = Store(X, (i,), ONE)
    assert problems(use) == ["i has no value here"]
    assert problems(For(i, ZERO, N, ()), use) == ["i has no value here"]
    assert problems(For(i, ZERO, N, (For(i, ZERO, N, ()),))) == ["i has a value already"]
    assert problems(Assign(i, ZERO)) == ["i is not mutable and cannot be assigned"]
    assert problems(Let(k, ZERO)) == ["k is mutable: assign it, a Let names a value once"]
    assert problems(Assign(k, Binary("add", k, Const(1)))) == ["k has no value here"]
    assert problems(Let(i, ZERO), Let(i, ZERO)) == ["i has a value already"]
    assert problems(Let(t, ZERO)) == ["t is f32, the value is index"]
    assert problems(For(t, ZERO, N, ())) == ["t: a loop variable is an immutable index"]
    branch = If(Const(True, "bool"), (Assign(k, ZERO),), (Assign(k, ZERO),))
    assert problems(branch, Let(i, k)) == ["k has no value here"]


def test_loop_range_against_the_variable() -> None:
    i = Var("i", hi=3)
    expected = "i runs over 0..7, but its declared range is 0..3"
    assert problems(For(i, ZERO, Const(8), ())) == [expected]


def test_buffers() -> None:
    stack = Buffer("s", "f32", (Const(4),), "stack")
    use = Store(stack, (ZERO,), ONE)
    assert problems(use) == ["s is neither a parameter nor allocated here"]
    assert problems(Alloc(stack), use) == []
    assert problems(Alloc(stack), Alloc(stack)) == ["s exists already"]
    inner = If(Const(True, "bool"), (Alloc(stack),))
    assert problems(inner, Store(X, (ZERO,), Load(stack, (ZERO,)))) == [
        "s is neither a parameter nor allocated here"
    ]
    assert problems(Alloc(X)) == [
        "x exists already",
        "x: memory in space global is a parameter, not allocated",
        "x: the shape of an allocated buffer is constant",
    ]


def test_statement_twice() -> None:
    s = Store(X, (ZERO,), ONE)
    assert problems(s, s) == ["the statement is in the program twice"]


def test_read_and_constants() -> None:
    tensor = Tensor("t", "f32", (N,))
    assert problems(Store(X, (ZERO,), Read(tensor, (ZERO,)))) == [
        "t: a Read belongs in a TensorFunction; loop IR has Load"
    ]
    assert problems(Store(X, (ZERO,), Const(1, "f32"))) == [
        "a constant of dtype f32 holds 1 (int), expected float"
    ]
    assert problems(Store(X, (Const(2**63),), ONE))[0] == f"{2**63} does not fit index"


def test_tiles() -> None:
    value = Splat(ONE, (4,))
    scattered = Store(X, (Lanes(8),), value)
    assert problems(scattered) == ["x: the indices are tiles (8,), the value is (4,)"]
    cube = Store(X, (ZERO,), Splat(ONE, (2, 2, 2)))
    assert problems(cube)[0] == "a tile of shape (2, 2, 2); expected at most 2 dims of at least 1"
    mixed = Load(X, (Lanes(4),), (4,))
    assert problems(Store(X, (ZERO,), mixed)) == [
        "x: an index is a tile (4,) and slices ask for a tile (4,)"
    ]


def test_parameters() -> None:
    m = Var("m")
    assert problems(params=(X, X, N)) == ["x is a parameter twice"]
    assert problems(params=(X,)) == ["x: n in its shape is no parameter"]
    assert problems(params=(m, X, N)) == ["buffers come first, then sizes"]
    assert problems(params=(X, N, Var("k", mutable=True))) == ["k: a size is an immutable scalar"]
    stack = Buffer("s", "f32", (Const(4),), "stack")
    assert problems(params=(stack,)) == ["s: a parameter cannot be in space stack"]


def test_invoke() -> None:
    kernel = Func("kernel", (X, N), ())
    other = Buffer("o", "i32", (N,))
    call = Invoke(kernel, (Ref(other), Const(1.0, "f32")), Const(2, "i32"))
    assert problems(call) == [
        "x: expected the address of f32 or bytes, found i32",
        "n: expected index, found f32",
        "o is neither a parameter nor allocated here",
        "threads: expected an index, found i32",
    ]
    assert problems(Invoke("relu", ())) == [
        "relu is neither a kernel nor one of barrier, set_io, alloc, fail, mark, next_round, "
        "prefetch"
    ]


def test_check_raises_all() -> None:
    f = Func("f", (X, N), (Store(X, (Var("i"),), ONE), Store(X, (Const(-1),), ONE)))
    with pytest.raises(IRError) as e:
        check(f, "fuse_elementwise")
    assert e.value.problems == (
        "line 2, `x[i] = 1.0`: i has no value here",
        "line 3, `x[-1] = 1.0`: x: index 0 is -1, out of bounds",
    )
    assert str(e.value).startswith("fuse_elementwise: the program is not valid:\n  line 2")
    driver = Func("driver", (X, N), (Invoke(f, (Ref(X), N)),))
    with pytest.raises(IRError, match=r"f: line 2, `x\[i\]"):
        check(driver)


def test_tensor_function() -> None:
    a, b = Tensor("a", "f32", (N,)), Tensor("b", "f32", (N,))
    i, j = Var("i"), Var("j")
    axis = Axis(i, N)
    stages = (
        Stage(a, (Axis(i, Const(4)),), Load(X, (i,))),
        Stage(b, (axis,), Read(b, (i,))),
        Stage(b, (Axis(j, j),), Read(a, (i,)), init=Const(0)),
    )
    assert verify_tensor_function(TensorFunction("f", (), stages, (a, b))) == [
        "line 2, `a[i: 4]: f32 = x[i]`: axis 0 does not run over dim 0 of a",
        "line 2, `a[i: 4]: f32 = x[i]`: x: a Load belongs in loop IR; stages have Read",
        "line 3, `b[i: n]: f32 = b[i]`: b is neither an input nor an earlier stage",
        "line 4, `b[j_1: j]: f32 = a[i]`: axis 0 does not run over dim 0 of b",
        "line 4, `b[j_1: j]: f32 = a[i]`: the extent of axis j depends on an axis",
        "line 4, `b[j_1: j]: f32 = a[i]`: b is defined twice",
        "line 4, `b[j_1: j]: f32 = a[i]`: i is an axis of another stage",
        "line 4, `b[j_1: j]: f32 = a[i]`: init: expected a constant of dtype f32",
        "line 4, `b[j_1: j]: f32 = a[i]`: init without a reduction",
    ]


def test_graph() -> None:
    t = TensorType("f32", (N,))
    x, y = make_input("x", t), make_input("y", t)
    c = make_constant(np.ones(3, np.float32))
    wrong = make_node("constant", (), dict(c.attrs), TensorType("i32", (Const(4),)))
    n = make_node("add", (y, wrong), None, t)
    g = Graph("g", (x,), (n,), ("out",))
    assert verify_graph(g) == [
        "line 2, `y: f32[n] = input(name=\"y\")`: input 'y' is not an input of this graph",
        f'line 3, `c: i32[4] = constant("{_digest(c)}")`: '
        "the contents are float32, the type says i32",
    ]
    assert verify_graph(Graph("g", (x,), (x,), ())) == ["line 1, `g`: 1 outputs and 0 names"]


def _digest(c: object) -> str:
    return str(c.attr("data").digest[:12])  # type: ignore[attr-defined]


def test_graph_types_against_the_registry() -> None:
    t, other = TensorType("f32", (N,)), TensorType("f32", (Const(4),))
    x = make_input("x", t)

    def infer(op: str, types: object, attrs: object) -> tuple[TensorType, ...]:
        if op == "bad":
            raise ModelError("bad: no")
        return {"relu": (t,)}[op]

    nodes = [make_node(op, (x,), None, other) for op in ("relu", "bad", "odd")]
    g = Graph("g", (x,), tuple(nodes), ("a", "b", "c"))
    assert [p.split("`: ")[1] for p in verify_graph(g, infer)] == [
        "the op computes another type",
        "bad: no",
        "unknown op 'odd'",
    ]


def test_large_programs() -> None:
    """A deep chain and a long graph are checked without recursion."""
    e: Expr = Load(X, (ZERO,))
    for _ in range(5000):
        e = Binary("add", e, ONE)
    assert problems(Store(X, (ZERO,), e)) == []
    n = make_input("x", TensorType("f32", (N,)))
    first = n
    for _ in range(5000):
        n = make_node("neg", (make_node("relu", (n,), None, n.type),), None, n.type)
    assert verify_graph(Graph("g", (first,), (n,), ("out",))) == []
