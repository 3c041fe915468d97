"""Matrix registers: which holds what, the configuration, and int8 by AMX."""

from __future__ import annotations

import numpy as np
import pytest

from naru.codegen.llvm import emit_kernel
from naru.codegen.tile_registers import Stretch, TileRegisters, configuration
from naru.errors import IRError
from naru.ir import interp
from naru.ir.text_loop import read_func
from naru.runtime import _native
from naru.targets import TARGETS
from tests.codegen.native import Native, runnable

WHOLE = (16, 64)
AMX = TARGETS["x86-64-amx"]


def test_operands_share_what_the_sums_leave() -> None:
    s = Stretch()
    assert [s.sum(k, WHOLE) for k in "wxyz"] == [0, 1, 2, 3]
    assert [s.operand("a", k, WHOLE) for k in "abc"] == [4, 5, 4]
    assert [s.operand("b", k, WHOLE) for k in "abc"] == [6, 7, 6]
    assert s.sum("y", WHOLE) == 2
    assert s.holds == {4: "c", 5: "b", 6: "c", 7: "b"}
    with pytest.raises(IRError, match="more than 8 matrix registers"):
        s.sum("another", WHOLE)


def test_a_configuration_is_shared_where_shapes_agree() -> None:
    registers = TileRegisters([Stretch({0: WHOLE}), Stretch({0: WHOLE, 1: (5, 64)})])
    assert registers.common() == {0: WHOLE, 1: (5, 64)}
    registers.stretches.append(Stretch({1: (6, 64)}))
    assert registers.common() is None


def test_configuration_bytes() -> None:
    data = configuration({0: (16, 64), 3: (5, 8)})
    assert len(data) == 64
    assert data[0] == 1
    assert (data[16], data[22]) == (64, 8)
    assert (data[48], data[51]) == (16, 5)
    assert sum(data) == 1 + 64 + 8 + 16 + 5


INT8 = """
def product(a: {a}[16, 128], b: {b}[32, 64], out: i32[16, 16]):
    c: i32[16, 16] @ tile
    c[0:16, 0:16] = splat(0, 16, 16)
    for k in range(2):
        c[0:16, 0:16] = dot(a[0:16, k * 64:k * 64 + 64], b[k * 16:k * 16 + 16, 0:64], c[0:16, 0:16])
    out[0:16, 0:16] = c[0:16, 0:16]
"""
KINDS = {"i8": np.int8, "u8": np.uint8}


@pytest.mark.parametrize("a", KINDS)
@pytest.mark.parametrize("b", KINDS)
def test_int8(a: str, b: str) -> None:
    """All four sign combinations are exact."""
    target = runnable(AMX.name)
    assert _native.request_amx()
    func = read_func(INT8.format(a=a, b=b))
    rng = np.random.default_rng(2)
    x, y = (rng.integers(-128, 128, s).astype(KINDS[t]) for s, t in (((16, 128), a), ((32, 64), b)))
    expected, out = np.zeros((2, 16, 16), np.int32)
    interp.run(func, [x, y, expected])
    Native(func, target)(x, y, out)
    np.testing.assert_array_equal(out, expected)


def test_two_kinds_of_tiles_after_each_other() -> None:
    """Each stretch has its configuration; values come back from memory into registers."""
    target = runnable(AMX.name)
    assert _native.request_amx()
    func = read_func("""
def turn(x: i32[16, 16], y: i32[4, 3], x2: i32[16, 16], y2: i32[4, 3]):
    for i in range(2):
        a: i32[16, 16] @ tile
        a[0:16, 0:16] = x[0:16, 0:16]
        x2[0:16, 0:16] = a[0:16, 0:16]
        b: i32[4, 3] @ tile
        b[0:4, 0:3] = y[0:4, 0:3]
        y2[0:4, 0:3] = b[0:4, 0:3]
""")
    x, y = np.arange(256, dtype=np.int32).reshape(16, 16), np.arange(12, dtype=np.int32)
    x2, y2 = np.zeros((16, 16), np.int32), np.zeros(12, np.int32)
    kernel = Native(func, target)
    kernel(x, y, x2, y2)
    np.testing.assert_array_equal(x2, x)
    np.testing.assert_array_equal(y2, y)
    assert kernel.text.count("call void @llvm.x86.ldtilecfg") == 2


HEAD = "def f(x: f32[16, 16], i: index):\n    c: f32[16, 16] @ tile\n    "


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c[i:i + 4, 0:16] = splat(0.0, 4, 16)", "constant subscripts"),
        ("c[0:16, 0:16] = splat(1.0, 16, 16)", "take zeros, a tile from memory, or a dot"),
        ("c[0:16, 0:16] = dot(x[0:16, 0:16], x[0:16, 0:16], c[0:16, 0:16])", "no matrix instr"),
        ("c[0, 0:16] = splat(0.0, 16)", "as whole tiles"),
    ],
)
def test_refusals(line: str, message: str) -> None:
    with pytest.raises(IRError, match=message):
        emit_kernel(read_func(HEAD + line), AMX)
