"""Matrix instructions in schedules, tiles of rank 2, and the refusals."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from naru.errors import IRError, ScheduleError
from naru.ir import interp
from naru.ir.expr import Binary, Cast, Const, Expr, Lanes, Load, Read, Splat, Var
from naru.ir.graph import Layout
from naru.ir.loop import Buffer, Func
from naru.ir.simplify import add, mul
from naru.ir.tensor import Tensor, TensorFunction
from naru.ir.text_loop import print_func, read_func
from naru.ops.registry import Emit, dims
from naru.schedule.algorithms import apply_algorithm
from naru.schedule.lower import lower
from naru.schedule.prepare import prepare
from naru.schedule.steps import read_schedule
from naru.schedule.vector import Grid, Lane, join, vectorize
from naru.schedule.weights import pack

ROWS, COLUMNS = Lane(Var("r", hi=3), 4), Lane(Var("c", hi=7), 8)
GRID = Grid(ROWS, COLUMNS)
X = Buffer("x", "f32", dims(32, 32))
V = Buffer("v", "f32", dims(32))


# ---- tiles of rank 2 ----


def test_splat_checks_shapes() -> None:
    row = Lanes(8)
    assert Splat(row, (4, 8)).shape == Splat(Lanes(4), (4, 8), 0).shape == (4, 8)
    with pytest.raises(IRError, match="does not fill"):
        Splat(row, (4, 8), 0)
    with pytest.raises(IRError, match="a scalar has no axis"):
        Splat(Const(1), (4, 8), 0)


def test_contiguous_tile_is_one_load() -> None:
    e = Load(X, (add(mul(Var("i", hi=3), 4), ROWS.var), COLUMNS.var))
    tile = vectorize(e, GRID)
    assert isinstance(tile, Load)
    assert (tile.tile, tile.mask) == ((4, 8), None)


def test_what_moves_in_one_direction_is_computed_once() -> None:
    product = Binary("mul", Load(V, (ROWS.var,)), Load(V, (COLUMNS.var,)))
    tile = vectorize(product, GRID)
    assert isinstance(tile, Binary)
    assert tile.a is Splat(Load(V, (Const(0),), (4,)), (4, 8), 0)
    assert tile.b is Splat(Load(V, (Const(0),), (8,)), (4, 8), 1)
    assert vectorize(Load(V, (Const(3),)), GRID).shape == ()


def test_masks_stand_only_where_lanes_may_be_outside() -> None:
    rows = Lane(ROWS.var, 4, Var("m"))
    inside = vectorize(Load(X, (ROWS.var, COLUMNS.var)), Grid(rows, COLUMNS))
    outside = vectorize(Load(X, (add(ROWS.var, 30), COLUMNS.var)), Grid(rows, COLUMNS))
    assert isinstance(inside, Load)
    assert isinstance(outside, Load)
    assert inside.mask is None
    assert outside.mask is Splat(rows.mask() or Const(0), (4, 8), 0)


def test_three_vectorised_loops_are_too_many() -> None:
    with pytest.raises(ScheduleError, match="at most two dims"):
        join(GRID, Lane(Var("q"), 4))


OUTER = """
def outer(x: f32[4], y: f32[8], out: f32[4, 8]):
    t: f32[4, 8] = column(x[0:4], 4, 8) * splat(y[0:8], 4, 8)
    out[0:4, 0:8] = t + select(column(lanes(4), 4, 8) < splat(2, 4, 8), t, 0.0)
"""


def test_rows_and_columns_in_text_and_interpreter() -> None:
    func = read_func(OUTER)
    assert print_func(read_func(print_func(func))) == print_func(func)
    x, y = np.arange(4, dtype=np.float32), np.arange(8, dtype=np.float32)
    out = np.zeros((4, 8), np.float32)
    interp.run(func, [x, y, out])
    np.testing.assert_array_equal(out, np.outer(x * [2, 2, 1, 1], y))


# ---- tensorize ----


def product(dtype: str, result: str, layout: Layout | None, k: int = 128) -> TensorFunction:
    """out[m, n] = sum over k of a[m, k] * b[k, n]; 16 rows and columns."""
    e = Emit()
    a, b = Tensor("A", dtype, dims(16, k)), Tensor("B", dtype, dims(k, 16), layout)

    def wide(x: Expr) -> Expr:
        return x if dtype == result else Cast(x, result)

    e.reduce(
        "C",
        dims(16, 16),
        dims(k),
        "add",
        lambda i, r: Binary("mul", wide(Read(a, (i[0], r[0]))), wide(Read(b, (r[0], i[1])))),
    )
    return TensorFunction("product", (a, b), tuple(e.stages), (e.stages[-1].tensor,))


STEPS = """
algorithm({algorithm})
split('out', 'i1', (16,))
vectorize('out', 'i1.i')
compute_at('R0', 'out', '')
split('R0', 'k0', ({k},))
order('R0', ('k0.o', 'i0', 'i1', 'k0.i'))
tensorize('R0', 'i0', 'i1', 'k0.i', '{instruction}')
"""


def tensorized(tf: TensorFunction, instruction: str, k: int, algorithm: str = "'direct'") -> Func:
    text = STEPS.format(algorithm=algorithm, k=k, instruction=instruction)
    schedule = read_schedule(text)
    return lower(apply_algorithm(prepare(tf), schedule.algorithm), schedule, "product")


@pytest.mark.parametrize(
    ("dtype", "result", "instruction", "group", "k"),
    [
        ("f32", "f32", "dot", 1, 16),
        ("bf16", "f32", "amx_bf16", 2, 32),
        ("i8", "i32", "amx_int8", 4, 64),
        ("u8", "i32", "amx_int8", 4, 64),
    ],
)
def test_meaning(dtype: str, result: str, instruction: str, group: int, k: int) -> None:
    layout = Layout((0, 1), (0, group)) if group > 1 else None
    algorithm = "'direct', 'join B'" if layout else "'direct'"
    func = tensorized(product(dtype, result, layout), instruction, k, algorithm)
    assert "dot(" in print_func(func)
    rng = np.random.default_rng(1)
    kind = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "i8": np.int8, "u8": np.uint8}[dtype]
    a, b = (rng.integers(0, 100, s).astype(kind) for s in ((16, 128), (128, 16)))
    out = np.zeros((16, 16), np.float32 if result == "f32" else np.int32)
    interp.run(func, [a, pack(b, layout), out])
    np.testing.assert_array_equal(out, a.astype(np.int64) @ b.astype(np.int64))


def test_refusals() -> None:
    pairs, join_b = Layout((0, 1), (0, 2)), "'direct', 'join B'"
    cases = [
        (product("f32", "f32", pairs), "amx_bf16", 32, join_b, "A is f32, expected bf16"),
        (product("bf16", "f32", None), "amx_bf16", 32, "'direct'", "does not lie in memory"),
        (product("bf16", "f32", pairs), "amx_bf16", 64, join_b, r"at most \(16, 16, 32\)"),
        (product("bf16", "f32", pairs, 120), "amx_bf16", 32, join_b, "knows no masks"),
        (product("bf16", "f32", pairs), "vnni", 32, join_b, "no such instruction"),
        (product("bf16", "f32", pairs), "amx_bf16", 32, "'direct', 'join Q'", "no such rewrite"),
    ]
    for tf, instruction, k, algorithm, message in cases:
        with pytest.raises(ScheduleError, match=message):
            tensorized(tf, instruction, k, algorithm)


def test_tensorized_loops_are_innermost() -> None:
    text = "tensorize('R0', 'i0', 'k0', 'i1', 'dot')"
    with pytest.raises(ScheduleError, match="to be the innermost loops"):
        lower(prepare(product("f32", "f32", None)), read_schedule(text), "product")
