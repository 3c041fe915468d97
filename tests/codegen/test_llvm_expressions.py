"""Every kind of expression, compiled for each instruction set, against the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from codegen.native import X86, Native, runnable

from naru.codegen.llvm import emit_kernel
from naru.codegen.objects import compile_module, undefined_symbols
from naru.dtypes import DTYPES, is_float
from naru.ir import interp
from naru.ir.expr import (
    BITWISE,
    COMPARE,
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
from naru.ir.loop import Buffer, For, Func, Store
from naru.ir.simplify import index, mul
from naru.targets import TARGETS, Target

INTEGERS = ("i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64")
FLOATS = ("f32", "f64", "f16", "bf16")
ALL = (*FLOATS, *INTEGERS, "bool", "index")
COUNT = 64


@pytest.fixture(params=X86)
def target(request: pytest.FixtureRequest) -> Target:
    return runnable(request.param)


def values(dtype: str, seed: int, *, nonzero: bool = False) -> np.ndarray:
    """COUNT elements with the edges of the dtype among them."""
    rng = np.random.default_rng(seed)
    kind = DTYPES[dtype].numpy
    if dtype == "bool":
        return rng.random(COUNT) < 0.5
    if is_float(dtype):
        out = rng.standard_normal(COUNT) * 10.0 ** rng.integers(-3, 4, COUNT)
        edges = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-8, 6e-8, -6e-8, 1.0, -1.0, 65504, 70000]
        out[: len(edges)] = edges
        rng.shuffle(out)
        with np.errstate(over="ignore"):
            return out.astype(kind)
    # Scalars of dtype index are Python's ints in the interpreter: they don't wrap.
    info = np.iinfo(np.int32 if dtype == "index" else kind)
    out = rng.integers(info.min, info.max, COUNT, dtype=info.dtype, endpoint=True).astype(kind)
    small = np.array([0, 1, 2, 3, 5, 7, info.max, info.min, info.max - 1], kind)
    out[: len(small)] = small
    if info.min < 0:
        out[len(small) : len(small) + 3] = -1, -2, -7
    rng.shuffle(out)
    if nonzero:
        out[out == 0] = 3
    return out


def elementwise(name: str, results: list[Expr], loads: list[Buffer], lanes: int, at: Var) -> Func:
    """Stores each result into a buffer of its own, `lanes` elements a round (1: scalars)."""
    where = mul(at, lanes)
    outs = [Buffer(f"out{i}", r.dtype, (index(COUNT),)) for i, r in enumerate(results)]
    body = tuple(Store(o, (where,), r) for o, r in zip(outs, results, strict=True))
    loop = For(at, index(0), index(COUNT // lanes), body)
    return Func(name, (*loads, *outs), (loop,))


def check(func: Func, arrays: list[np.ndarray], target: Target, *, ulp: float = 0.0) -> None:
    """Compiled code and interpreter agree on the outputs; the first buffers are inputs."""
    outs = [np.zeros(COUNT, DTYPES[b.dtype].numpy) for b in func.buffers[len(arrays) :]]
    want = [o.copy() for o in outs]
    interp.run(func, [*arrays, *want])
    Native(func, target)(*arrays, *outs)
    for b, got, expected in zip(func.buffers[len(arrays) :], outs, want, strict=True):
        same(b.name, got, expected, ulp)


def same(name: str, got: np.ndarray, expected: np.ndarray, ulp: float) -> None:
    """Equal (a zero's sign does not count), or within some ulp."""
    if got.dtype.kind not in "fV":
        np.testing.assert_array_equal(got, expected, err_msg=name)
        return
    a, b = got.astype(np.float64), expected.astype(np.float64)
    if ulp:
        unit = np.spacing(np.abs(expected)).astype(np.float64)
        close = np.abs(a - b) <= ulp * unit
    else:
        close = a == b
    wrong = ~(close | (a == b) | (np.isnan(a) & np.isnan(b)))
    assert not wrong.any(), f"{name}: got {got[wrong][:4]}, expected {expected[wrong][:4]}"


def operand(buffer: Buffer, at: Var, lanes: int) -> Expr:
    return Load(buffer, (mul(at, lanes),), (lanes,) if lanes > 1 else ())


def operands(dtype: str, count: int, lanes: int) -> tuple[Var, list[Buffer], list[Expr]]:
    at = Var("i", hi=COUNT // lanes - 1)
    buffers = [Buffer(f"x{k}", dtype, (index(COUNT),)) for k in range(count)]
    return at, buffers, [operand(b, at, lanes) for b in buffers]


def arithmetic_ops(dtype: str) -> list[str]:
    if dtype == "bool":
        return ["and", "or", "xor", "min", "max"]
    if is_float(dtype):
        return ["add", "sub", "mul", "div", "min", "max"]
    return ["add", "sub", "mul", "div", "floordiv", "mod", "min", "max", *BITWISE]


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("lanes", [1, 16])
def test_binary(dtype: str, lanes: int, target: Target) -> None:
    at, buffers, (a, b) = operands(dtype, 2, lanes)
    results: list[Expr] = [
        Binary(op, a, b) for op in (*arithmetic_ops(dtype), *COMPARE) if op not in ("shl", "shr")
    ]
    arrays = [values(dtype, 1), values(dtype, 2, nonzero=True)]
    check(elementwise("binary", results, buffers, lanes, at), arrays, target)


@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16])
def test_products_of_pairs(lanes: int, target: Target) -> None:
    """Two i16 in each i32; an instruction where the target has one for so many lanes."""
    at, buffers, (a, b) = operands("i32", 2, lanes)
    least = np.full(COUNT // 4, -2147450880, np.int32)  # twice (-32768)², which wraps
    rest = values("i32", 8)[: COUNT - len(least)]
    edge = np.concatenate([least, rest])
    func = elementwise("pairs", [Binary("dot2", a, b)], buffers, lanes, at)
    check(func, [edge, edge[::-1].copy()], target)
    check(func, [edge, edge], target)


@pytest.mark.parametrize("lanes", [1, 4, 16])
def test_products_of_quads(lanes: int, target: Target) -> None:
    """Four i8 in each i32."""
    at, buffers, (a, b) = operands("i32", 2, lanes)
    least = np.full(COUNT // 4, -2139062144, np.int32)  # four times (-128)²
    edge = np.concatenate([least, values("i32", 8)[: COUNT - len(least)]])
    func = elementwise("quads", [Binary("dot4", a, b)], buffers, lanes, at)
    check(func, [edge, edge[::-1].copy()], target)
    check(func, [edge, edge], target)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_shifts(dtype: str, target: Target) -> None:
    """Shifting by the width or more shifts everything out."""
    at, buffers, (a, b) = operands(dtype, 2, 16)
    results: list[Expr] = [Binary("shl", a, b), Binary("shr", a, b)]
    results += [Binary(op, a, Const(3, dtype)) for op in ("shl", "shr")]
    amounts = (np.arange(COUNT) % (DTYPES[dtype].bits + 3)).astype(DTYPES[dtype].numpy)
    check(elementwise("shift", results, buffers, 16, at), [values(dtype, 3), amounts], target)


@pytest.mark.parametrize("dtype", [*INTEGERS, "index"])
@pytest.mark.parametrize("divisor", [1, 2, 3, 8, 10, -1, -3])
def test_division_by_constants(dtype: str, divisor: int, target: Target) -> None:
    if divisor < 0 and DTYPES[dtype].kind == "u":
        pytest.skip("no negative constants here")
    at, buffers, (a,) = operands(dtype, 1, 16)
    results: list[Expr] = [
        Binary(op, a, Const(divisor, dtype)) for op in ("div", "floordiv", "mod")
    ]
    check(elementwise("divide", results, buffers, 16, at), [values(dtype, 4)], target)


@pytest.mark.parametrize("dtype", [*INTEGERS, "index"])
def test_division_by_zero_does_not_trap(dtype: str, target: Target) -> None:
    at, buffers, (a, b) = operands(dtype, 2, 1)
    results: list[Expr] = [Binary(op, a, b) for op in ("div", "floordiv", "mod")]
    func = elementwise("zero", results, buffers, 1, at)
    outs = [np.zeros(COUNT, DTYPES[dtype].numpy) for _ in results]
    Native(func, target)(values(dtype, 5), np.zeros(COUNT, DTYPES[dtype].numpy), *outs)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("lanes", [1, 16])
def test_float_unary(dtype: str, lanes: int, target: Target) -> None:
    at, buffers, (x,) = operands(dtype, 1, lanes)
    ops = ("neg", "abs", "sqrt", "floor", "ceil", "round", "trunc", "normal", "isnan")
    results: list[Expr] = [Unary(op, x) for op in ops]
    halves = np.concatenate([np.arange(-16, 16) / 4, values("f64", 6)[: COUNT - 32]])
    with np.errstate(over="ignore", invalid="ignore"):
        arrays = [halves.astype(DTYPES[dtype].numpy)]
    check(elementwise("unary", results, buffers, lanes, at), arrays, target)
    check(elementwise("unary", results, buffers, lanes, at), [values(dtype, 7)], target)


@pytest.mark.parametrize("lanes", [1, 8, 16])
def test_rounding_to_bf16(lanes: int, target: Target) -> None:
    """Of all numbers, and of those that an instruction takes as they are."""
    at, buffers, (x,) = operands("f32", 1, lanes)
    results: list[Expr] = [Cast(x, "bf16"), Cast(Unary("normal", x), "bf16")]
    array = values("f32", 12)
    array[::2] *= 2.0**-126
    func = elementwise("bf16", results, buffers, lanes, at)
    want = [np.zeros(COUNT, DTYPES["bf16"].numpy) for _ in results]
    interp.run(func, [array, *want])
    made = [np.zeros_like(w) for w in want]
    Native(func, target)(array, *made)
    for a, b in zip(made, want, strict=True):
        same = (a.view(np.int16) == b.view(np.int16)) | np.isnan(b.astype(np.float32))
        assert same.all()


@pytest.mark.parametrize("dtype", [*INTEGERS, "index"])
def test_integer_unary(dtype: str, target: Target) -> None:
    at, buffers, (x,) = operands(dtype, 1, 16)
    ops = ("not", "neg") if DTYPES[dtype].kind == "u" else ("not", "neg", "abs")
    results: list[Expr] = [Unary(op, x) for op in ops]
    check(elementwise("unary", results, buffers, 16, at), [values(dtype, 8)], target)


@pytest.mark.parametrize("dtype", ["f32", "f64", "i32", "i64"])
def test_bits(dtype: str, target: Target) -> None:
    at, buffers, (x,) = operands(dtype, 1, 16)
    func = elementwise("bits", [Unary("bits", x)], buffers, 16, at)
    array = values(dtype, 9)
    out = np.zeros(COUNT, DTYPES[func.buffers[1].dtype].numpy)
    Native(func, target)(array, out)
    np.testing.assert_array_equal(out.view(np.uint8), array.view(np.uint8))


@pytest.mark.parametrize("source", ALL)
@pytest.mark.parametrize("lanes", [1, 16])
def test_casts(source: str, lanes: int, target: Target) -> None:
    at, buffers, (x,) = operands(source, 1, lanes)
    wide_to_half = source in ("f64", "i32", "u32", "i64", "u64", "index")
    # f64 and wide integers reach 16-bit floats through f32: two roundings.
    results: list[Expr] = [Cast(x, d) for d in ALL if not (wide_to_half and d in ("f16", "bf16"))]
    check(elementwise("casts", results, buffers, lanes, at), [values(source, 10)], target)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_every_half_float_survives(dtype: str, target: Target) -> None:
    """All 65,536 patterns: to f32 and back, and f32 rounded to nearest even."""
    n = 65536
    x, y, z = (
        Buffer(name, d, (index(n),)) for name, d in (("x", dtype), ("y", "f32"), ("z", dtype))
    )
    i = Var("i", hi=n // 16 - 1)
    at = (mul(i, 16),)
    wide = Cast(Load(x, at, (16,)), "f32")
    # Just above, just below and on the middle of two neighbours.
    body = (
        Store(y, at, wide),
        Store(z, at, Cast(Binary("mul", wide, Const(1.00048828125, "f32")), dtype)),
    )
    func = Func("halves", (x, y, z), (For(i, index(0), index(n // 16), body),))
    kind = DTYPES[dtype].numpy
    given = np.arange(n, dtype=np.uint16).view(kind)
    got_wide, got = np.zeros(n, np.float32), np.zeros(n, kind)
    Native(func, target)(given, got_wide, got)
    with np.errstate(all="ignore"):
        same("wide", got_wide, given.astype(np.float32), 0)
        want = (given.astype(np.float32) * np.float32(1.00048828125)).astype(kind)
    same("rounded", got, want, 0)


@pytest.mark.parametrize("dtype", ALL)
def test_select(dtype: str, target: Target) -> None:
    at = Var("i", hi=3)
    buffers = [
        Buffer(n, d, (index(COUNT),)) for n, d in (("c", "bool"), ("a", dtype), ("b", dtype))
    ]
    c, a, b = (operand(x, at, 16) for x in buffers)
    first = Load(buffers[0], (mul(at, 16),))
    results: list[Expr] = [Select(c, a, b), Select(first, a, b), Select(c, a, Const(1, dtype))]
    if is_float(dtype):
        results[2] = Select(c, a, Const(1.5, dtype))
    elif dtype == "bool":
        results[2] = Select(c, a, Const(True, dtype))
    arrays = [values("bool", 11), values(dtype, 12), values(dtype, 13)]
    check(elementwise("select", results, buffers, 16, at), arrays, target)


@pytest.mark.parametrize("dtype", [*FLOATS, "i32", "u8", "i64", "bool"])
@pytest.mark.parametrize("lanes", [2, 8, 16, 32])
def test_reduce(dtype: str, lanes: int, target: Target) -> None:
    at, buffers, (x,) = operands(dtype, 1, lanes)
    ops = ("and", "or") if dtype == "bool" else ("add", "mul", "min", "max", "larger")
    results: list[Expr] = [Splat(Reduce(op, x), (lanes,)) for op in ops]
    check(elementwise("reduce", results, buffers, lanes, at), [values(dtype, 14)], target)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_fma_is_rounded_once(dtype: str, target: Target) -> None:
    at, buffers, (a, b, c) = operands(dtype, 3, 16)
    arrays = [values(dtype, s) for s in (15, 16, 17)]
    results: list[Expr] = [Call("fma", (a, b, c)), Call("fma", (a, Const(0.1, dtype), c))]
    if target.has_fma:
        check(elementwise("fma", results, buffers, 16, at), arrays, target)
    plain: list[Expr] = [Binary("add", Binary("mul", a, b), c)]
    check(elementwise("plain", plain, buffers, 16, at), arrays, target)


def test_lanes_and_splat(target: Target) -> None:
    at = Var("i", hi=3)
    lane = Binary("add", Binary("mul", Lanes(16), Const(3)), at)
    results: list[Expr] = [
        lane,
        Cast(lane, "f32"),
        Binary("lt", Lanes(16), Binary("mul", at, Const(5))),
        Binary("floordiv", lane, Const(4)),
        Binary("mod", lane, Const(7)),
        Splat(Binary("add", at, Const(1)), (16,)),
        Binary("mul", Lanes(16), Binary("sub", at, Const(2))),
    ]
    check(elementwise("lanes", results, [], 16, at), [], target)


@pytest.mark.parametrize("dtype", ["f32", "i32", "u8", "bool", "bf16", "f64", "index"])
def test_rank_two_tiles(dtype: str, target: Target) -> None:
    x, y = (Buffer(n, dtype, (index(8), index(8))) for n in "xy")
    tile = Load(x, (index(2), index(1)), (4, 6))
    op = "or" if dtype == "bool" else "max"
    body = (
        Store(y, (index(1), index(2)), Binary(op, tile, Load(x, (index(0), index(0)), (4, 6)))),
    )
    check(Func("tiles", (x, y), body), [values(dtype, 18)], target)


@pytest.mark.parametrize("dtype", ["f32", "f64", "i8", "bool"])
@pytest.mark.parametrize(
    "shape", [(4, 4), (8, 8), (4, 8), (8, 4), (16, 16), (3, 8), (8, 1), (12, 4)]
)
def test_transposed(shape: tuple[int, int], dtype: str, target: Target) -> None:
    rows, columns = shape
    x = Buffer("x", dtype, (index(rows), index(columns + 3)))
    y = Buffer("y", dtype, (index(columns), index(rows)))
    tile = Load(x, (index(0), index(2)), shape)
    func = Func("turn", (x, y), (Store(y, (index(0), index(0)), Call("transposed", (tile,))),))
    given = np.resize(values(dtype, 21), (rows, columns + 3))
    got, want = (np.zeros((columns, rows), given.dtype) for _ in range(2))
    interp.run(func, [given, want])
    np.testing.assert_array_equal(want, given[:, 2 : 2 + columns].T)
    Native(func, target)(given, got)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("group", [1, 2, 4])
def test_dot(group: int, target: Target) -> None:
    m, k, n = 4, 8, 16
    dtypes = {1: ("f32", "f32"), 2: ("bf16", "f32"), 4: ("i8", "i32")}[group]
    a = Buffer("a", dtypes[0], (index(m), index(k)))
    b = Buffer("b", dtypes[0], (index(k // group), index(n * group)))
    c, out = (Buffer(name, dtypes[1], (index(m), index(n))) for name in ("c", "out"))
    zero = (index(0), index(0))
    args = (Load(a, zero, (m, k)), Load(b, zero, (k // group, n * group)), Load(c, zero, (m, n)))
    func = Func("dot", (a, b, c, out), (Store(out, zero, Call("dot", args)),))
    rng = np.random.default_rng(19)
    arrays = [
        rng.integers(-9, 9, [int(d.value) for d in x.shape if isinstance(d, Const)]).astype(
            DTYPES[x.dtype].numpy
        )
        for x in (a, b, c)
    ]
    got = np.zeros((m, n), DTYPES[dtypes[1]].numpy)
    want = got.copy()
    interp.run(func, [*arrays, want])
    Native(func, target)(*arrays, got)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", list(TARGETS))
@pytest.mark.parametrize("dtype", [*ALL])
def test_no_library_calls(name: str, dtype: str) -> None:
    """Every operation of every dtype is self-contained machine code on every target."""
    results: list[Expr] = []
    for lanes in (1, 16):
        at, buffers, (a, b) = operands(dtype, 2, lanes)
        results = [Binary(op, a, b) for op in (*arithmetic_ops(dtype), *COMPARE)]
        results += [Cast(a, d) for d in ALL]
        if dtype != "bool":
            results += [Unary(op, a) for op in ("neg", "abs")]
            results.append(Binary("pow", a, b))
        if is_float(dtype):
            names = (
                "sqrt",
                "floor",
                "ceil",
                "round",
                "trunc",
                "exp",
                "log",
                "tanh",
                "erf",
                "sin",
                "cos",
            )
            results += [Unary(op, a) for op in names]
            results += [Call("fma", (a, b, a)), Binary("mod", a, b)]
        func = elementwise("every", results, buffers, lanes, at)
        data = compile_module(emit_kernel(func, TARGETS[name]), TARGETS[name], opt=1)
        assert undefined_symbols(data) == ()
