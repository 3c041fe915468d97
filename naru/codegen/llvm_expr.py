"""Expressions to LLVM values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from naru.codegen import llvm_address as address
from naru.codegen import llvm_arith as arith
from naru.codegen import llvm_dots as dots
from naru.codegen import llvm_memory as memory
from naru.codegen import math
from naru.codegen.llvm_arith import Division, Row
from naru.codegen.llvm_build import Code, Value
from naru.codegen.llvm_narrow import normal_to_bf16, rounds_normal
from naru.codegen.llvm_transpose import transpose
from naru.codegen.llvm_types import literal, rows_of, scalar_type, splat_literal, vector
from naru.dtypes import is_float
from naru.errors import IRError
from naru.ir.expr import (
    COMPARE,
    Binary,
    Call,
    Cast,
    Const,
    Expr,
    Lanes,
    Load,
    Read,
    Reduce,
    Select,
    Shape,
    Splat,
    Unary,
    Var,
    children,
)
from naru.ir.simplify import bounds


def value(code: Code, expr: Expr) -> Value:
    """The value of an expression at this point of the program."""
    root = code.resolve(expr)
    for _ in _steps(code, root):
        pass
    return _known(code, root)


def side_by_side(code: Code, roots: Sequence[Expr]) -> None:
    """Makes the values of expressions known, one operation of each in turn: a core takes up so many
    operations at a time that a few chains of them fit, and each waits for its own last one."""
    waiting = [_steps(code, root) for root in roots]
    while waiting:
        waiting = [steps for steps in waiting if next(steps, None) is not None]


def _steps(code: Code, root: Expr) -> Iterator[Expr]:
    """Evaluates what root needs and then root; yields what it has evaluated."""
    stack = [root]
    while stack:
        e = stack[-1]
        if code.known(e) is not None:
            stack.pop()
            continue
        missing = [c for c in needed(code, e) if code.known(c) is None]
        if missing:
            stack.extend(reversed(missing))
            continue
        stack.pop()
        code.learn(e, _EMIT[type(e)](code, e), code.facts(e).state)
        yield e


def needed(code: Code, e: Expr) -> tuple[Expr, ...]:
    """What must be evaluated before e: for sums and addresses their atoms, for a function its
    expansion, else the operands."""
    if address.is_sum(e) and len(e.shape) < 2:
        return tuple(address.atoms(address.poly(code, e)))
    if isinstance(e, Load):
        return access_operands(code, e)
    expansion = _expansion(code, e)
    return children(e) if expansion is None else (expansion,)


def access_operands(code: Code, e: Any) -> tuple[Expr, ...]:
    """The atoms of the address of a Load or Store, and its mask."""
    at = address.offset(code, e.buffer, tuple(code.resolve(i) for i in e.index))
    found = [*address.atoms(at.scalar), *address.atoms(at.lanes)]
    return tuple(found) if e.mask is None else (*found, code.resolve(e.mask))


def _expansion(code: Code, e: Expr) -> Expr | None:
    """The expression that stands for a function without an instruction."""
    if e not in code.expansions:
        code.expansions[e] = math.expansion(e, code.target)
    return code.expansions[e]


def broadcast(code: Code, e: Expr, shape: Shape) -> tuple[str, ...]:
    """The rows of a known expression, a scalar being splat to `shape`."""
    known = _known(code, e)
    if e.shape == shape:
        return known.rows
    lane = scalar_type(e.dtype, code.target)
    row = code.splat(known.text, known.depth, lane, shape)
    return (row,) * rows_of(shape)


def _known(code: Code, e: Expr) -> Value:
    found = code.known(e)
    if found is None:
        raise IRError([f"{code.func.name}: {_name(e)} is used where it is not defined"])
    return found


def _name(e: Expr) -> str:
    return e.name if isinstance(e, Var) else type(e).__name__


def _depth(code: Code, e: Expr) -> int:
    """Index arithmetic and conditions may be computed early; numbers stay where they are used."""
    if e.dtype in ("index", "bool") or isinstance(e, Splat):
        return max((_known(code, c).depth for c in children(e)), default=0)
    return code.depth


def _row(code: Code, e: Expr, dtype: str, shape: Shape | None = None) -> Row:
    shape = e.shape if shape is None else shape
    return Row(code, _depth(code, e), dtype, shape[-1:])


# ---- one function a kind ----


def _const(code: Code, e: Const) -> Value:
    return Value((literal(e.value, e.dtype, code.target),), 0)


def _var(code: Code, e: Var) -> Value:
    slot = code.slots.get(e)
    if slot is None:
        raise IRError([f"{code.func.name}: variable {e.name} is used where it is not defined"])
    kind = vector(scalar_type(e.dtype, code.target), e.shape)
    if len(e.shape) < 2:
        return Value((code.put(f"load {kind}, ptr {slot}"),), code.depth)
    rows: list[str] = []
    for r in range(e.shape[0]):
        at = code.put(f"getelementptr {kind}, ptr {slot}, {code.index} {r}")
        rows.append(code.put(f"load {kind}, ptr {at}"))
    return Value(tuple(rows), code.depth)


def _lanes(code: Code, e: Lanes) -> Value:
    return Value((f"<{', '.join(f'{code.index} {i}' for i in range(e.n))}>",), 0)


def _unary(code: Code, e: Unary) -> Value:
    expansion = _expansion(code, e)
    if expansion is not None:
        return _known(code, expansion)
    r = _row(code, e, e.x.dtype)
    emit = arith.UNARY[e.op]
    return Value(tuple(emit(r, x) for x in _known(code, e.x).rows), r.depth)


def _binary(code: Code, e: Binary) -> Value:
    if address.is_sum(e) and len(e.shape) < 2:
        return address.sum_value(code, address.poly(code, e), e.shape)
    expansion = _expansion(code, e)
    if expansion is not None:
        return _known(code, expansion)
    r = _row(code, e, e.a.dtype)
    tail = _tail_mask(code, e, r)
    if tail is not None:
        return tail
    emit = _binary_emitter(e)
    pairs = zip(broadcast(code, e.a, e.shape), broadcast(code, e.b, e.shape), strict=True)
    return Value(tuple(emit(r, a, b) for a, b in pairs), r.depth)


def _binary_emitter(e: Binary) -> Callable[[Row, str, str], str]:
    op = e.op
    if op in COMPARE:
        return lambda r, a, b: arith.compare(r, op, a, b)
    if is_float(e.dtype) and op in ("min", "max"):
        number = "b" if _is_number(e.b) else "a" if _is_number(e.a) else ""
        return lambda r, a, b: arith.float_extreme(r, op, a, b, number)
    if op in ("div", "floordiv", "mod") and not is_float(e.dtype) and e.dtype != "bool":
        known = _division(e)
        return lambda r, a, b: arith.divide(r, op, a, b, known)
    return lambda r, a, b: arith.binary(r, op, a, b)


def _is_number(e: Expr) -> bool:
    """Is e a constant other than NaN?"""
    e = e.x if isinstance(e, Splat) else e
    return isinstance(e, Const) and e.value == e.value


def _division(e: Binary) -> Division:
    b = e.b.x if isinstance(e.b, Splat) else e.b
    divisor = int(b.value) if isinstance(b, Const) else None
    if e.dtype != "index":
        return Division(divisor=divisor)
    return Division(bounds(e.a)[0] >= 0 and bounds(b)[0] > 0, divisor)


def _tail_mask(code: Code, e: Binary, r: Row) -> Value | None:
    """`lanes(n) < k` in 32-bit lanes: as many bytes as the floats it masks, not twice as many."""
    limit = e.b.x if isinstance(e.b, Splat) else e.b
    if e.op != "lt" or not isinstance(e.a, Lanes) or limit.shape or limit.dtype != "index":
        return None
    known = code.known(limit)
    if known is None or isinstance(limit, Const):
        return None
    n, index = e.a.n, code.index
    low = code.put(f"call {index} @llvm.smax({index} {known.text}, {index} 0)", known.depth)
    high = code.put(f"call {index} @llvm.smin({index} {low}, {index} {n})", known.depth)
    if index != "i32":
        high = code.put(f"trunc {index} {high} to i32", known.depth)
    every = code.splat(high, known.depth, "i32", (n,))
    lanes = ", ".join(f"i32 {i}" for i in range(n))
    return Value((code.put(f"icmp ult <{n} x i32> <{lanes}>, {every}", known.depth),), known.depth)


def _select(code: Code, e: Select) -> Value:
    r = _row(code, e, e.dtype)
    if not e.cond.shape:  # one condition for all lanes
        cond = _known(code, e.cond).text
        pairs = zip(broadcast(code, e.a, e.shape), broadcast(code, e.b, e.shape), strict=True)
        return Value(
            tuple(r.put(f"select i1 {cond}, {r.kind} {a}, {r.kind} {b}") for a, b in pairs),
            r.depth,
        )
    triples = zip(*(broadcast(code, x, e.shape) for x in (e.cond, e.a, e.b)), strict=True)
    return Value(tuple(r.select(c, a, b) for c, a, b in triples), r.depth)


def _cast(code: Code, e: Cast) -> Value:
    known = _known(code, e.x)
    if e.dtype == "bf16" and isinstance(e.x, Unary) and e.x.op == "normal":
        x, shape = code.known(e.x.x), e.shape[-1:]
        if x is not None and e.x.dtype == "f32" and rounds_normal(code.target, shape):
            return Value(tuple(normal_to_bf16(code, row, shape) for row in x.rows), code.depth)
    r = Row(code, known.depth if e.dtype == "index" else code.depth, e.x.dtype, e.shape[-1:])
    return Value(tuple(arith.cast(r, e.dtype, x) for x in known.rows), r.depth)


def _load(code: Code, e: Load) -> Value:
    mask = None
    if e.mask is not None:
        shape = e.shape
        rows = broadcast(code, e.mask, shape)
        mask = Value(rows, code.depth)
    return Value(memory.load(code, e, mask), code.depth)


def _splat(code: Code, e: Splat) -> Value:
    known = _known(code, e.x)
    lane = scalar_type(e.dtype, code.target)
    if isinstance(e.x, Const):
        return Value((splat_literal(known.text, lane, e.shape),) * rows_of(e.shape), 0)
    if e.x.shape:
        return _spread(code, e, known)
    row = code.splat(known.text, known.depth, lane, e.shape)
    return Value((row,) * rows_of(e.shape), known.depth)


def _spread(code: Code, e: Splat, x: Value) -> Value:
    """A rank-1 tile as every row of a rank-2 tile, or as every column."""
    rows, lane = e.shape[0], scalar_type(e.dtype, code.target)
    if e.axis:
        return Value(x.rows * rows, x.depth)
    ones = [
        code.put(f"extractelement <{rows} x {lane}> {x.text}, i64 {i}", x.depth)
        for i in range(rows)
    ]
    return Value(tuple(code.splat(one, x.depth, lane, e.shape) for one in ones), x.depth)


def _reduce(code: Code, e: Reduce) -> Value:
    r = Row(code, code.depth, e.x.dtype, e.x.shape)
    if e.op == "add" and isinstance(e.x, Cast) and e.x.x.dtype == "bool":
        answers = code.known(e.x.x)
        counted = None if answers is None else arith.count_true(r, answers.text)
        if counted is not None:
            return Value((counted,), code.depth)
    return Value((arith.reduce(r, e.op, _known(code, e.x).text),), code.depth)


def _call(code: Code, e: Call) -> Value:
    if e.fn == "fma":
        r = Row(code, code.depth, e.dtype, e.shape[-1:])
        triples = zip(*(broadcast(code, a, e.shape) for a in e.args), strict=True)
        return Value(tuple(fma(r, *t) for t in triples), r.depth)
    if e.fn == "transposed":
        r = Row(code, code.depth, e.dtype, e.args[0].shape[-1:])
        return Value(tuple(transpose(r, _known(code, e.args[0]).rows)), r.depth)
    return _dot(code, e)


def fma(r: Row, a: str, b: str, c: str) -> str:
    """a·b + c, rounded once where the target has the instruction, or as the engine likes with
    relaxed SIMD. Elsewhere it would become a library call a lane, so mul and add stand in for it
    (schedules for such targets use those)."""
    if not is_float(r.dtype):
        return r.op("add", r.op("mul", a, b), c)
    if r.code.target.has_fma:
        return r.rounded(r.call("fma", a, b, c))
    made = None
    if r.code.target.has("relaxed-simd"):
        made = arith.wasm_call(r, "relaxed.madd", a, b, c)
    return r.rounded(made or r.op("fadd", r.op("fmul", a, b), c))


def _dot(code: Code, e: Call) -> Value:
    """dot by an instruction, or by multiply and add: row i of the result gathers a[i, k] · b[k]."""
    a, b, c = e.args
    instruction = dots.find_dot(code.target, e)
    if instruction is not None:
        rows = (_known(code, x).rows for x in e.args)
        return Value(dots.multiply(code, instruction, e, *rows), code.depth)
    (m, depth_k), n = a.shape, c.shape[1]
    pairs = depth_k // b.shape[0]  # rows of b that are interleaved
    wide = Row(code, code.depth, c.dtype, (n,))
    b_rows = [
        arith.cast(Row(code, code.depth, b.dtype, (n,)), c.dtype, _column_group(code, b, k, pairs))
        for k in range(depth_k)
    ]
    out: list[str] = []
    for i in range(m):
        total = _known(code, c).rows[i]
        from_row = Row(code, code.depth, a.dtype, (depth_k,))
        a_row = arith.cast(from_row, c.dtype, _known(code, a).rows[i])
        for k in range(depth_k):
            one = code.put(f"extractelement <{depth_k} x {wide.lane}> {a_row}, i64 {k}")
            total = fma(wide, code.splat(one, code.depth, wide.lane, (n,)), b_rows[k], total)
        out.append(total)
    return Value(tuple(out), code.depth)


def _column_group(code: Code, b: Expr, k: int, pairs: int) -> str:
    """Row k of the matrix b, which may be stored with `pairs` rows interleaved."""
    row = _known(code, b).rows[k // pairs]
    if pairs == 1:
        return row
    r = Row(code, code.depth, b.dtype, b.shape[-1:])
    return arith.some_lanes(r, row, range(k % pairs, b.shape[1], pairs))


def _read(code: Code, e: Read) -> Value:
    raise IRError([f"{code.func.name}: a Read of {e.tensor.name} belongs to a TensorFunction"])


_EMIT: dict[type, Callable[[Code, Any], Value]] = {
    Const: _const,
    Var: _var,
    Lanes: _lanes,
    Unary: _unary,
    Binary: _binary,
    Select: _select,
    Cast: _cast,
    Load: _load,
    Splat: _splat,
    Reduce: _reduce,
    Call: _call,
    Read: _read,
}
