"""The driver of passes, the one walk they share, and that all of them keep a model's meaning."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from zoo import CASES, Case

from naru.errors import IRError, NaruError, NaruWarning
from naru.frontend.onnx import read_onnx
from naru.ir.expr import Const
from naru.ir.graph import Graph, Node, TensorType, make_input, toposort
from naru.ir.text import print_graph, read_graph
from naru.ops.evaluate import evaluate
from naru.ops.registry import apply, constant
from naru.passes.hooks import Times, dump_to, every, verify
from naru.passes.registry import PASSES, graph_pass, parse, run
from naru.passes.rewrite import inline, rewrite

ALL = (
    "fold_constants,fold_batch_norm,decompose,simplify_algebra,fold_constants,fuse_attention,"
    "remove_dead"
)


def graph_of(*outputs: Node) -> Graph:
    inputs = tuple(n for n in toposort(*outputs) if n.op == "input")
    return Graph("g", inputs, outputs, tuple(f"y{k}" for k in range(len(outputs))))


def vector(name: str = "x") -> Node:
    return make_input(name, TensorType("f32", (Const(3),)))


def readable() -> list[Case]:
    """The small cases of the zoo."""
    return [c for c in CASES.values() if "network" not in c.tags]


@pytest.mark.parametrize("case", readable(), ids=lambda c: c.name)
def test_meaning_is_kept(case: Case) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NaruWarning)
        try:
            g = read_onnx(case.model())
        except NaruError:
            pytest.skip("not read yet")
    h = run(ALL, g, verify)
    again = run(ALL, h)
    assert [n.op for n in toposort(*again.outputs)] == [n.op for n in toposort(*h.outputs)]
    feed = list(case.feeds())[-1]
    arrays = [feed[str(n.attr("name"))] for n in g.inputs]
    for a, b in zip(evaluate(g, arrays), evaluate(h, arrays), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        x, y = a.astype(np.float64), b.astype(np.float64)
        largest = np.abs(x[np.isfinite(x)]).max(initial=1e-30)
        np.testing.assert_allclose(y, x, rtol=case.tolerance, atol=case.tolerance * largest)


def test_unchanged_graph_is_the_same_object() -> None:
    g = graph_of(apply("relu", vector()))
    for name in ALL.split(","):
        assert run(name, g) is g


def test_large_graphs_are_quick_and_do_not_recurse() -> None:
    g = read_onnx(CASES["chain_10000"].model())
    started = time.process_time()
    run(ALL, g)
    assert time.process_time() - started < 10  # about 1 s on a quiet machine


def test_notes_follow_nodes() -> None:
    x = vector()
    twice = apply("neg", apply("neg", x))
    y = apply("relu", apply("identity", twice))
    g = Graph("g", (x,), (y,), ("y",), {y: "the_relu", twice: "gone"})
    h = run("simplify_algebra", g)
    assert h.notes == {h.outputs[0]: "the_relu", x: "gone"}
    assert run("remove_dead", g) is g


def test_hooks(tmp_path: Path) -> None:
    g = graph_of(apply("relu", apply("identity", vector())))
    times = Times()
    h = run("fold_constants,simplify_algebra", g, every(verify, times, dump_to(tmp_path)))
    assert [(name, changed) for name, _, changed in times.rows] == [
        ("fold_constants", False),
        ("simplify_algebra", True),
    ]
    (dump,) = tmp_path.iterdir()
    assert dump.name == "01_simplify_algebra.graph.py"
    assert print_graph(read_graph(dump.read_text())) == print_graph(h)


@pytest.fixture
def registered() -> object:
    """Passes made by a test are forgotten after it."""
    before = dict(PASSES)
    yield
    PASSES.clear()
    PASSES.update(before)


@pytest.mark.usefixtures("registered")
def test_failures_say_which_pass_after_which() -> None:
    @graph_pass
    def break_types(g: Graph) -> Graph:
        old = g.outputs[0]
        wrong = Node(old.op, old.inputs, old.attrs, (TensorType("i64", ()),))
        return g.with_outputs([wrong])

    @graph_pass
    def divide_by_zero(g: Graph, *, number: int = 1) -> Graph:
        limit = number // 0
        return g if limit else run("remove_dead", g)

    g = graph_of(apply("relu", vector()))
    with pytest.raises(IRError, match=r"pass break_types \(after fold_constants\)"):
        run(["fold_constants", break_types], g, verify)
    with pytest.raises(IRError, match=r"pass divide_by_zero\{number=3\}: (.|\n)*ZeroDivisionError"):
        run("divide_by_zero{number=3}", g)


def test_options_are_read() -> None:
    steps = parse("fold_constants{limit=8},decompose{keep=('softmax', 'gelu')},remove_dead")
    assert [str(s) for s in steps] == [
        "fold_constants{limit=8}",
        "decompose{keep=('softmax', 'gelu')}",
        "remove_dead",
    ]
    for text in ("fold_constants{", "1 + 2", "fold_constants{8}", "f{limit=x}"):
        with pytest.raises(IRError, match="cannot read"):
            parse(text)


def test_rewriting_that_never_stops_is_stopped() -> None:
    g = graph_of(apply("relu", vector()))

    def swing(n: Node) -> Node:
        other = {"relu": "abs", "abs": "relu"}.get(n.op)
        return n if other is None else apply(other, *n.inputs)

    def grow(n: Node) -> Node:
        return apply("relu", n) if n.op == "relu" else n

    for rule in (swing, grow):
        with pytest.raises(IRError, match="does not stop"):
            rewrite(g, rule, repeat=True)


def test_inline_replaces_inputs_and_nothing_inside_bodies() -> None:
    x = vector()
    negative = graph_of(apply("neg", x))
    flag = constant(True, np.bool_)
    branch = apply("if", flag, x, then=negative, orelse=graph_of(apply("exp", x)))
    outer = vector("other")
    (result,) = inline(graph_of(branch), [outer])
    assert result.inputs[1] is outer
    assert result.attr("then") is negative


def test_fold_keeps_large_results() -> None:
    big = apply("expand", constant(1.0), shape=(Const(2**30),))
    g = graph_of(apply("reduce_sum", big, axes=(0,), keepdims=False))
    assert [n.op for n in toposort(*run("fold_constants", g).outputs)] == [
        "constant",
        "expand",
        "reduce_sum",
    ]
