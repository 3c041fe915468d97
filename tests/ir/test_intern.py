"""Same fields, same object; and what must not become one object."""

from __future__ import annotations

import copy
import math
import pickle
import struct
import subprocess
import sys
import time
import weakref

import numpy as np

from naru.ir import intern
from naru.ir.expr import Binary, Const, Expr, Unary, Var, walk
from naru.ir.graph import TensorType, make_constant, make_data, make_input, make_node, toposort
from naru.ir.text import print_expr

DEEP = 10_000


def test_same_fields_are_one_object() -> None:
    x = Var("x", "f32")
    assert Binary("add", x, Const(1.0, "f32")) is Binary("add", x, Const(1.0, "f32"))
    assert Const(1, dtype="index") is Const(1)
    assert Const(value=1) is Const(1)


def test_types_and_signs_are_kept_apart() -> None:
    assert len({Const(1), Const(1.0), Const(True)}) == 3
    assert Const(1, "i32") is not Const(1, "i64")
    assert Const(0.0, "f32") is not Const(-0.0, "f32")
    nan, other = math.nan, struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000001))[0]
    assert Const(nan, "f32") is Const(math.nan, "f32")
    assert Const(nan, "f32") is not Const(other, "f32")
    assert Const(nan, "f32") is not Const(-nan, "f32")


def test_vars_are_unique() -> None:
    a, b = Var("i"), Var("i")
    assert a != b
    assert Unary("neg", a) is not Unary("neg", b)


def test_pickle_and_deepcopy_keep_identity() -> None:
    e = Binary("mul", Binary("add", Const(2.5, "f32"), Const(-0.0, "f32")), Const(math.nan, "f32"))
    assert pickle.loads(pickle.dumps(e)) is e
    assert copy.deepcopy(e) is e
    assert copy.copy(e) is e
    n = make_constant(np.arange(5, dtype=np.float32))
    assert pickle.loads(pickle.dumps(n)) is n


def test_dead_nodes_leave_the_table() -> None:
    own = Var("x", "i64")  # marks the entries: the table is everybody's, and others come and go

    def entries() -> int:
        return sum(own in key for key in list(intern._table))

    made = [Binary("add", own, Const(k, "i64")) for k in range(1000)]
    assert entries() == 1000
    del made
    Const(-2)  # sweeps
    assert entries() == 0


def test_a_sweep_frees_a_whole_chain() -> None:
    data = make_data(np.arange(1000.0))
    n = make_constant(data.array)
    alive = weakref.ref(data)
    for _ in range(5):
        n = make_node("relu", [n], None, n.type)
    del data, n
    intern.sweep()
    assert alive() is None


def chain(depth: int) -> Expr:
    e: Expr = Var("x", "f32")
    for k in range(depth):
        e = Binary("add", e, Const(float(k % 7), "f32"))
    return e


def test_a_deep_chain_neither_recurses_nor_crawls() -> None:
    limit = sys.getrecursionlimit()
    start = time.perf_counter()
    e = chain(DEEP)
    assert len(walk(e)) == DEEP + 8
    assert print_expr(e).count("+") == DEEP
    assert "<" in repr(e)
    assert hash(e) == hash(e)
    del e
    Const(-3)
    assert time.perf_counter() - start < 5  # 0.15 s on an idle machine
    assert sys.getrecursionlimit() == limit


def test_a_deep_graph() -> None:
    t = TensorType("f32", (Const(4),))
    n = make_input("x", t)
    for _ in range(DEEP):
        n = make_node("relu", (n,), None, t)
        n = make_node("neg", (n,), None, t)
    assert len(toposort(n)) == 2 * DEEP + 1
    del n


def test_shared_operands_cost_nothing() -> None:
    e: Expr = Var("x", "f32")
    for _ in range(200):  # a tree of 2**200 nodes
        e = Binary("add", e, e)
    assert len(walk(e)) == 201
    assert len(print_expr(e)) < 10_000


def test_dropping_a_chain_at_exit_is_silent() -> None:
    program = (
        "from naru.ir.expr import *\n"
        "e = Var('x', 'f32')\n"
        "for k in range(50000): e = Unary('neg', e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
