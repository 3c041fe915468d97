"""Runs a whole graph with the ops' numpy meaning: what golden vectors and tests compare with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, cast

import numpy as np

from naru.dtypes import DTYPES, is_float, is_float_array
from naru.errors import InputError, IRError, NaruError
from naru.ir import simplify
from naru.ir.expr import INT_MAX, Binary, Cast, Const, Select, Unary, Var, free_vars
from naru.ir.graph import Graph, Node, TensorType, named_sizes, toposort
from naru.ops.operands import shape_text
from naru.ops.registry import OPS, Arrays, Attrs

Array = np.ndarray
Env = dict[Var, int]
_rounds: ContextVar[list[int] | None] = ContextVar("rounds", default=None)  # that are left
# Elements from which on the f32 of a constant stay: what they meet is f64, and so is the result.
LARGE = 1 << 22
_KEPT = ("constant", "transpose", "reshape")  # and what only looks at one another way
_EXPR = (Const, Var, Binary, Select, Cast, Unary)


class EndlessError(NaruError):
    """Loops go on after as many rounds as they were given."""


def evaluate(
    graph: Graph, inputs: Sequence[Array], *, float64: bool = False, rounds: int | None = None
) -> list[Array]:
    """The graph's outputs for arrays in the order of its inputs.

    `float64`: floats are computed in double and cast back at the end. `rounds`: the most that all
    loops together may take. Raises InputError when an array has another dtype or shape than its
    input, IRError when an op gives what was not inferred, EndlessError.
    """
    for node, array in zip(graph.inputs, inputs, strict=True):
        wanted = DTYPES[node.type.dtype].numpy
        if array.dtype != wanted:
            raise InputError(f"input {node.attr('name')}: expected {wanted}, got {array.dtype}")
    before = _rounds.set(None if rounds is None else [rounds])
    try:
        outs = _run(graph, inputs, {}, float64)
    finally:
        _rounds.reset(before)
    with np.errstate(all="ignore"):  # what overflows the narrower type becomes infinite
        return [
            np.asarray(a).astype(DTYPES[n.type.dtype].numpy, copy=False)
            for n, a in zip(graph.outputs, outs, strict=True)
        ]


def bind(graph: Graph, inputs: Sequence[Array | None], env: Mapping[Var, int]) -> Env:
    """Sizes of the symbols in the inputs' shapes, over those of the surroundings."""
    own: Env = {}
    for node, array in zip(graph.inputs, inputs, strict=True):
        name, shape = node.attr("name"), node.type.shape
        if array is None:
            continue
        if array.ndim != len(shape):
            raise InputError(f"input {name}: expected {shape_text(shape)}, got {array.shape}")
        for d, size in zip(shape, array.shape, strict=True):
            if isinstance(d, Var) and own.setdefault(d, size) != size:
                raise InputError(f"input {name}: {d.name} is {own[d]} elsewhere, here {size}")
    full = {**env, **own}
    for node, array in zip(graph.inputs, inputs, strict=True):
        if array is not None and (wanted := _sizes(node.type, full)) not in (None, array.shape):
            raise InputError(f"input {node.attr('name')}: expected {wanted}, got {array.shape}")
    return full


def _sizes(t: TensorType, env: Mapping[Var, int]) -> tuple[int, ...] | None:
    """The shape under env; None while a symbol in it has no value."""
    if all(isinstance(d, Const) for d in t.shape):
        return tuple(simplify.known(d) or 0 for d in t.shape)
    if any(v not in env for v in free_vars(*t.shape)):
        return None
    return tuple(simplify.evaluate(d, env) for d in t.shape)


def _run(
    g: Graph, inputs: Sequence[Array | None], env: Mapping[Var, int], float64: bool
) -> list[Array]:
    scope = bind(g, inputs, env)
    values: dict[Node, tuple[Array, ...]] = {}
    for node, array in zip(g.inputs, inputs, strict=True):
        if array is not None:
            values[node] = (_widened(array) if float64 else array,)
    order = toposort(*g.outputs)
    uses = _use_counts(g, order)
    for n in order:
        if n in values:
            continue
        if n.op == "input":
            raise IRError([f"input {n.attr('name')!r} is not an input of graph {g.name}"])
        values[n] = _outputs(n, values, scope, float64)
        for i in n.inputs:
            if i is not None:
                uses[i] -= 1
                if not uses[i]:
                    del values[i]
    return [values[n][0] for n in g.outputs]


def _use_counts(g: Graph, order: Sequence[Node]) -> dict[Node, int]:
    """How often each node is read; outputs once more, so that they stay."""
    uses = dict.fromkeys(order, 0)
    for n in order:
        for i in n.inputs:
            if i is not None:
                uses[i] += 1
    for n in (*g.outputs, *g.inputs):
        uses[n] = uses.get(n, 0) + 1
    return uses


def _outputs(
    n: Node, values: Mapping[Node, tuple[Array, ...]], env: Env, float64: bool
) -> tuple[Array, ...]:
    arrays = [None if i is None else values[i][0] for i in n.inputs]
    attrs = _concrete(n, env, float64)
    with np.errstate(all="ignore"):
        if n.op == "get":
            assert n.inputs[0] is not None
            outs: Sequence[Array] = OPS["get"].ref(values[n.inputs[0]], attrs)
        elif n.op == "group":
            outs = _run(attrs["body"], arrays, env, float64)
        elif n.op == "if":
            outs = run_if(arrays, attrs, env, float64)
        elif n.op == "loop":
            outs = run_loop(arrays, attrs, env, float64)
        else:
            outs = OPS[n.op].ref(arrays, attrs)
    if n.op == "bind_dim":
        outs = _bound(n, outs[0], env)
    elif n.op in ("if", "loop"):
        env.update({v: outs[k].shape[axis] for (k, axis), v in named_sizes(n).items()})
    if n.op == "loop" and attrs.get("rounds") is not None:
        env[attrs["rounds"]] = len(outs[-1])
    _check(n, outs, env, float64)
    if not float64 or (n.op in _KEPT and outs[0].size >= LARGE and outs[0].dtype.itemsize > 2):
        return tuple(outs)
    return tuple(_widened(a) for a in outs)


def _bound(n: Node, elements: Array, env: Env) -> tuple[Array, ...]:
    """Gives the symbols of a bind_dim their values, as the driver does."""
    attrs: dict[str, Any] = dict(n.attrs)
    symbols: tuple[Var, ...] = attrs["symbols"]
    raw: tuple[Var, ...] = attrs.get("raw", ())
    numbers = [min(max(int(e), -INT_MAX), INT_MAX) for e in elements.reshape(-1)]
    if not raw:
        env.update(zip(symbols, numbers, strict=True))
        return (np.array(numbers, np.int64).reshape(elements.shape),)
    env.update(zip(raw, numbers, strict=True))
    for symbol, e in zip(symbols, attrs["exprs"], strict=True):
        env[symbol] = simplify.evaluate(e, env)
    return (np.array([env[v] for v in symbols], np.int64),)


def _widened(a: Array) -> Array:
    """Floats as f64."""
    return a.astype(np.float64) if is_float_array(a.dtype) else a


def _concrete(n: Node, env: Env, float64: bool) -> dict[str, Any]:
    """Attributes with index expressions replaced by numbers."""
    attrs: dict[str, Any] = dict(n.attrs)
    for name, value in attrs.items():
        if n.op != "bind_dim" and (n.op, name) not in (
            ("loop", "rounds"), ("loop", "symbols"), ("if", "symbols")
        ):  # fmt: skip
            attrs[name] = _number(value, env)
    if float64 and n.op == "cast" and attrs["to"] == "f32":  # narrower ones round, as they say
        attrs["to"] = "f64"
    return attrs


def constant_result(n: Node, arrays: Arrays) -> Array | None:
    """What a node of one output gives for constant operands; None where attributes are sizes that
    are not known, or the result is an error, which then is one of the run (an index out of range in
    a branch that is never taken)."""
    try:
        with np.errstate(all="ignore"):
            result = np.asarray(OPS[n.op].ref(arrays, _concrete(n, {}, False))[0])
    except (IRError, IndexError, ValueError, ZeroDivisionError, FloatingPointError):
        return None
    return result.astype(DTYPES[n.type.dtype].numpy, copy=False)


def known_array(t: TensorType) -> np.ndarray | None:
    """The array of a type whose elements are all known constants."""
    values = [int(e.value) for e in t.value or () if isinstance(e, Const)]
    shape = [int(d.value) for d in t.shape if isinstance(d, Const)]
    if t.value is None or len(values) != len(t.value) or len(shape) != t.rank:
        return None
    return np.array(values, np.int64).astype(DTYPES[t.dtype].numpy).reshape(shape)


def _number(value: Any, env: Env) -> Any:
    if isinstance(value, _EXPR):
        missing = [v.name for v in free_vars(value) if v not in env]
        if missing:
            raise IRError([f"{' and '.join(missing)} has no value yet"])
        return simplify.evaluate(value, env)
    if isinstance(value, tuple):
        return tuple(_number(v, env) for v in cast("tuple[Any, ...]", value))
    return value


def _check(n: Node, outs: Sequence[Array], env: Env, float64: bool) -> None:
    """The type that was inferred is the type that came out."""
    if len(outs) != len(n.types):
        raise IRError([f"{n.op}: {len(n.types)} outputs were inferred, {len(outs)} came out"])
    for t, a in zip(n.types, outs, strict=True):
        sizes = _sizes(t, env)
        wrong_type = a.dtype != DTYPES[t.dtype].numpy and not (float64 and is_float(t.dtype))
        if wrong_type or (sizes is not None and sizes != a.shape):
            raise IRError(
                [f"{n.op}: {t.dtype}{shape_text(t.shape)} was inferred, "
                 f"{a.dtype}{list(a.shape)} came out"]
            )  # fmt: skip


def _true(a: Array | None) -> bool:
    return a is None or bool(a.reshape(-1)[0])


def run_if(
    arrays: Arrays, attrs: Attrs, env: Mapping[Var, int], float64: bool = False
) -> tuple[Array, ...]:
    """cond, *captures -> the outputs of the branch taken."""
    body: Graph = attrs["then"] if _true(arrays[0]) else attrs["orelse"]
    return tuple(_run(body, arrays[1:], env, float64))


def run_loop(
    arrays: Arrays, attrs: Attrs, env: Mapping[Var, int], float64: bool = False
) -> tuple[Array, ...]:
    """trip, cond, *carried, *captures -> final carried values, then stacked scan outputs."""
    body: Graph = attrs["body"]
    count = int(attrs["carried"])
    trip = None if arrays[0] is None else int(arrays[0].reshape(-1)[0])
    running, carried, captures = _true(arrays[1]), list(arrays[2 : 2 + count]), arrays[2 + count :]
    rows: list[list[Array]] = []
    left = _rounds.get()
    while running and (trip is None or len(rows) < trip):
        if left is not None:
            left[0] -= 1
            if left[0] < 0:
                raise EndlessError("loops go on after the rounds that they were given")
        step, cond = np.array(len(rows), np.int64), np.array(running)
        outs = _run(body, [step, cond, *carried, *captures], env, float64)
        running, carried = _true(outs[0]), list(outs[1 : 1 + count])
        rows.append(outs[1 + count :])
    scans: list[Array] = []
    for k, node in enumerate(body.outputs[1 + count :]):
        if rows:
            scans.append(np.stack([row[k] for row in rows]))
            continue
        sizes = _sizes(node.type, env) or (0,) * node.type.rank
        scans.append(np.zeros((0, *sizes), DTYPES[node.type.dtype].numpy))
    return (*(a for a in carried if a is not None), *scans)
