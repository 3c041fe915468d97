"""Do the rows of a model stay apart: is row r of each output made of row r of the inputs alone?

Whoever serves the model may then run requests of different callers together, and none can see
anything of another's. It is a proof, by index arithmetic over the stages of every op: an element of
a tensor belongs to the row `index[axis] // each`; a stage whose element belongs to row r may read
elements of row r, and elements that are the same for all rows, and nothing in it may be made of r
itself or of the number of rows. What cannot be shown this way counts as not so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from naru.ir.expr import (
    Binary,
    Cast,
    Const,
    Expr,
    Read,
    Select,
    Var,
    children,
    free_vars,
    walk,
    with_children,
)
from naru.ir.graph import Graph, Node, defined_symbols, toposort
from naru.ir.simplify import (
    ONE,
    ZERO,
    add,
    bounds,
    floordiv,
    free_of,
    known,
    mod,
    mul,
    normal,
    sub,
    substitute,
    within,
)
from naru.ir.tensor import Stage, Tensor, reads
from naru.ops.registry import OPS, Emit, RowPlaces


@dataclass(frozen=True)
class Rows:
    """An element belongs to row `index[axis] // each`."""

    axis: int
    each: Expr = ONE


@dataclass(frozen=True)
class Same:
    """The elements are the same whatever the inputs are, and along `axes`, as many as there are
    rows, all alike."""

    axes: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Formula:
    """Element `at` of a tensor of integers is an index expression over dims: what `shape` and
    `range` give, and what is made of it. Exporters write masks and flat positions that way."""

    at: tuple[Var, ...]
    value: Expr

    def element(self, index: Sequence[Expr]) -> Expr:
        """The element at an index."""
        return substitute(self.value, dict(zip(self.at, index, strict=True)))


@dataclass(frozen=True)
class Mixed:
    """Nothing is known of which elements belong to which row."""


Known: TypeAlias = Rows | Same | Formula | Mixed
States: TypeAlias = Mapping[Tensor, Known]


def independent_rows(g: Graph) -> Var | None:
    """The symbol that is the first dim of every input and output, and stands nowhere else, where
    the rows along it stay apart; None where there is none, or that cannot be shown."""
    symbol = shared_symbol(g)
    if symbol is None or _has_own_sizes(g, {*g.symbols}):
        return None
    found = _results(g, [Rows(0)] * len(g.inputs), symbol)
    return symbol if all(state == Rows(0) for state in found) else None


def _has_own_sizes(g: Graph, given: set[Var]) -> bool:
    """Are there sizes that the values decide? All rows may have a part in such a one."""
    for n in toposort(*g.outputs):
        sizes = free_vars(*(d for t in n.types for d in t.shape))
        body = n.attr("body")
        if not given.issuperset(sizes) or defined_symbols(n):
            return True
        if isinstance(body, Graph) and _has_own_sizes(body, given):
            return True
    return False


def shared_symbol(g: Graph) -> Var | None:
    """The symbol that all first dims are, and of which no other dim is made."""
    shapes = [n.type.shape for n in (*g.inputs, *g.outputs)]
    if not g.inputs or not all(shapes):
        return None
    symbol = shapes[0][0]
    if not isinstance(symbol, Var) or any(s[0] is not symbol for s in shapes):
        return None
    return symbol if all(free_of(d, symbol) for s in shapes for d in s[1:]) else None


def _results(g: Graph, given: Sequence[Known], symbol: Var) -> list[Known]:
    """What is known of the outputs of a graph."""
    states: dict[Node, Sequence[Known]] = {
        n: [state] for n, state in zip(g.inputs, given, strict=True)
    }
    for n in toposort(*g.outputs):
        if n not in states:
            states[n] = _node(n, [states[i][0] if i else None for i in n.inputs], states, symbol)
    return [states[n][0] for n in g.outputs]


def _node(
    n: Node,
    operands: Sequence[Known | None],
    states: Mapping[Node, Sequence[Known]],
    symbol: Var,
) -> Sequence[Known]:
    """What is known of the results of a node."""
    if n.op == "constant":
        return [_constant(n)]
    if n.op == "get":
        (source,), k = n.inputs, n.attr("index")
        assert source is not None
        assert isinstance(k, int)
        return [states[source][k]]
    body = n.attr("body")
    if n.op == "group" and isinstance(body, Graph):
        return _results(body, [s for s in operands if s is not None], symbol)
    op = OPS[n.op]
    if op.lower is not None:
        return _lowered(n, operands, symbol)
    if op.rows is None:
        return [Mixed()] * len(n.types)
    return _by_hand(n, op.rows, operands)


def _constant(n: Node) -> Known:
    if n.data is None or n.data.size != 1 or n.data.dtype.kind != "i":
        return Same()
    return Formula(tuple(Var("at") for _ in n.type.shape), Const(int(n.data.reshape(-1)[0])))


def _by_hand(n: Node, rows: RowPlaces, given: Sequence[Known | None]) -> Sequence[Known]:
    """What is known of the results of a kernel written by hand, whose op says where rows lie."""
    places, results = rows
    operands = [Same() if isinstance(s, Formula) and not free_vars(s.value) else s for s in given]
    found = {s for s in operands if s is not None and not isinstance(s, Same)}
    eaches = {s.each if isinstance(s, Rows) else None for s in found}
    if not found:
        uniform = not any(isinstance(s, Same) and s.axes for s in operands)
        return [Same() if uniform else Mixed()] * len(n.types)
    (each, *others) = eaches
    for k, state in enumerate(operands):
        if isinstance(state, Rows):
            others += [] if k < len(places) and state.axis == places[k] else [None]
    if each is None or others:
        return [Mixed()] * len(n.types)
    return [Rows(axis, each) for axis in results[: len(n.types)]]


def _lowered(n: Node, operands: Sequence[Known | None], symbol: Var) -> Sequence[Known]:
    """The same, by the stages that the op becomes."""
    lower = OPS[n.op].lower
    assert lower is not None
    emit = Emit()
    tensors = [
        None if i is None else Tensor(f"p{k}", i.type.dtype, i.type.shape)
        for k, i in enumerate(n.inputs)
    ]
    states: dict[Tensor, Known] = {
        t: s for t, s in zip(tensors, operands, strict=True) if t is not None and s is not None
    }
    results = lower(emit, n, tensors)
    for stage in emit.stages:
        states[stage.tensor] = _stage(stage, states, symbol)
    return [states[t] for t in results]


def _stage(stage: Stage, states: States, symbol: Var) -> Known:
    """What is known of the tensor of a stage."""
    below = {a.var for a in stage.axes if a.extent is symbol}
    value = _tidy(stage.value, _inner(stage, symbol), states, symbol, below)
    read = reads(value)
    if not read and stage.combine is None and stage.tensor.dtype in ("i32", "i64"):
        formula = _as_index(value)
        if formula is not None:
            return Formula(tuple(a.var for a in stage.axes), formula)
    kinds = {type(states[r.tensor]) for r in read}
    if Mixed in kinds or not all(free_of(axis.extent, symbol) for axis in stage.reduction):
        return Mixed()
    if Rows not in kinds:
        axes = {k for k, a in enumerate(stage.axes) if not free_of(a.extent, symbol)}
        banned = {symbol, *(stage.axes[k].var for k in axes)}
        same = _stays_apart(value, banned, None, states)
        return Same(frozenset(axes)) if same else Mixed()
    first = next(r for r in read if isinstance(states[r.tensor], Rows))
    state = _guess(stage, first, states, symbol)
    return state if state and _holds(stage, value, state, states, symbol) else Mixed()


def _inner(stage: Stage, symbol: Var) -> dict[Var, Expr]:
    """The Vars of axes with a symbolic extent, so that arithmetic knows that they are below it."""
    axes = (*stage.axes, *stage.reduction)
    return {
        a.var: mod(a.var, a.extent)
        for a in axes
        if known(a.extent) is None and free_of(a.extent, symbol)
    }


def _guess(stage: Stage, read: Read, states: States, symbol: Var) -> Rows | None:
    """Where the rows of a stage's tensor lie, if a read is of the row of what it makes."""
    state = states[read.tensor]
    assert isinstance(state, Rows)
    if state.axis < 0:  # not along one axis
        return None
    row = floordiv(read.index[state.axis], state.each)
    each: Expr = ONE
    own = [axis.var for axis in (*stage.axes, *stage.reduction)]
    if isinstance(row, Binary) and row.op == "floordiv" and free_of(row.b, symbol, *own):
        row, each = row.a, row.b
    places = [k for k, axis in enumerate(stage.axes) if axis.var is row]
    return Rows(places[0], each) if places else None


def _holds(stage: Stage, value: Expr, state: Rows, states: States, symbol: Var) -> bool:
    """Is each element made of its own row alone?"""
    axis = stage.axes[state.axis]
    extents = [a.extent for a in stage.axes if a is not axis]
    whole = sub(axis.extent, mul(symbol, state.each)) is ZERO
    if not whole or not all(free_of(e, symbol) for e in extents):
        return False
    row = Var("row")
    place = add(mul(row, state.each), mod(Var("at"), state.each))
    value = _tidy(value, {axis.var: place}, states, symbol, {row})
    return _stays_apart(value, {symbol, row}, row, states)


def _stays_apart(value: Expr, banned: set[Var], row: Var | None, states: States) -> bool:
    """Is a value made of no banned Var, and of nothing that belongs to another row than `row`?"""
    stack, seen = [value], set[Expr]()
    while stack:
        e = stack.pop()
        if e in seen:
            continue
        seen.add(e)
        if isinstance(e, Var):
            if e in banned:
                return False
        elif isinstance(e, Read):
            inside = _inside(e, states[e.tensor], row)
            if inside is None:
                return False
            stack += inside
        else:
            stack += children(e)
    return True


def _inside(e: Read, state: Known, row: Var | None) -> list[Expr] | None:
    """What says which element of its row is read; None where it is another's row."""
    if isinstance(state, Same):
        return [i for k, i in enumerate(e.index) if k not in state.axes]
    if not isinstance(state, Rows) or state.axis < 0:
        return None
    at = e.index[state.axis]
    if row is None or floordiv(at, state.each) is not row:
        return None
    return [mod(at, state.each), *(i for k, i in enumerate(e.index) if k != state.axis)]


# ---- arithmetic ----

# Numbers of a dtype are below, and not below the negative. (Bounds are not told beyond 2**62.)
_MOST = {"i32": 1 << 31, "i64": 1 << 62, "index": 1 << 62}


def _tidy(
    e: Expr, values: Mapping[Var, Expr], states: States, symbol: Var, below: Collection[Var]
) -> Expr:
    """e with Vars replaced, formulas in the place of reads of them, and without bounds that hold
    anyway because the Vars `below` are below the symbol."""
    done: dict[Expr, Expr] = {}
    for x in walk(e):
        if isinstance(x, Var):
            done[x] = values.get(x, x)
            continue
        old = children(x)
        new = tuple(done[c] for c in old)
        y = x if all(a is b for a, b in zip(old, new, strict=True)) else with_children(x, new)
        done[x] = _simpler(normal(y), states, symbol, below)
    return done[e]


def _simpler(e: Expr, states: States, symbol: Var, below: Collection[Var]) -> Expr:
    """A node whose operands are tidy."""
    match e:
        case Read():
            state = states[e.tensor]
            if isinstance(state, Formula):
                return Cast(state.element(e.index), e.dtype)
        case Cast(dtype="index") if (whole := _as_index(e.x)) is not None:
            return whole
        case Binary(op="min", dtype="index"):
            for a, b in ((e.a, e.b), (e.b, e.a)):
                each = floordiv(add(b, 1), symbol)
                if mul(each, symbol) is add(b, 1) and any(
                    within(sub(a, mul(v, each)), each) or sub(a, mul(v, each)) is ZERO
                    for v in below
                ):
                    return a
        case _:
            pass
    return e


def _as_index(e: Expr) -> Expr | None:
    """Integer arithmetic over dims as an index expression, where it cannot wrap; None for anything
    else."""
    found: Expr | None = None
    match e:
        case Const() if not isinstance(e.value, float):
            found = Const(int(e.value))
        case Cast() if e.x.dtype != "bool":
            found = _as_index(e.x)
        case Var() | Binary() if e.dtype == "index":
            return e
        case Binary(op="add" | "sub" | "mul" | "min" | "max"):
            a, b = _as_index(e.a), _as_index(e.b)
            found = None if a is None or b is None else normal(Binary(e.op, a, b))
        case Select():
            a, b = _as_index(e.a), _as_index(e.b)
            found = None if a is None or b is None else normal(Select(e.cond, a, b))
        case _:
            pass
    most = _MOST.get(e.dtype)
    if found is None or most is None:
        return None
    low, high = bounds(found)
    return found if -most <= low and high < most else None
