"""Kernels whose result is cut into regions: the nests together are the whole."""

from __future__ import annotations

import pytest
from schedule.meaning import check_kernel

from naru.ir.expr import Call, Select, walk
from naru.ir.loop import Func, Store, statements
from naru.ir.text import read_tensor_function
from naru.schedule.kernels import Kernels
from naru.schedule.prepare import prepare
from naru.schedule.regions import MOST, find_regions
from naru.targets import get_target

CONCAT = """
def concat(a: f32[3, 5], b: f32[3, 20], c: f32[3, 2]):
    out[i: 3, j: 27] = select(j < 5, a[i, min(j, 4)], select(j < 25, b[i, max(min(j - 5, 19), 0)], c[i, max(j - 25, 0)]))
    return out
"""  # noqa: E501
BORDER = """
def border(x: f32[4, 6, 9]):
    out[i: 7, j: 7, c: 9] = select(((i >= 1 and i < 5) and j < 6), max(x[min(max(i - 1, 0), 3), min(j, 5), c], 0.0), -1.0)
    return out
"""  # noqa: E501
PRODUCT = """
def product(x: f32[5, 6, 4], w: f32[2, 4, 16], b: f32[21]):
    C[i: 5, j: 6, m: 21] = add[k: 4](x[i, j, k] * w[m // 16, k, m % 16])
    out[i: 7, j: 8, m: 21] = select((((i >= 1 and i <= 5) and j >= 1) and j <= 6), max(C[min(max(i - 1, 0), 4), min(max(j - 1, 0), 5), m] + b[m], 0.0), 0.0)
    return out
"""  # noqa: E501
TURNED = """
def turned(x: f32[2, 24, 9, 17]):
    out[b: 2, c: 24, i: 10, j: 19]: f32 @ (0, 2, 3, 1) = select(((i < 9 and j > 0) and j < 18), x[b, c, min(i, 8), min(max(j - 1, 0), 16)], 0.0)
    return out
"""  # noqa: E501
CASES = {
    "concat": (CONCAT, 3),
    "border": (BORDER, 4),
    "product": (PRODUCT, 5),
    "turned": (TURNED, 4),
}


def kernel(text: str, target: str) -> Func:
    tf = prepare(read_tensor_function(text))
    return Kernels(get_target(target)).lower(tf, "k")[1]


@pytest.mark.parametrize("target", ["avx512", "avx2", "neon", "wasm"])
@pytest.mark.parametrize("name", CASES)
def test_regions_make_the_whole(name: str, target: str) -> None:
    text, _ = CASES[name]
    check_kernel(read_tensor_function(text), kernel(text, target), {})


@pytest.mark.parametrize("name", CASES)
def test_each_region_is_made_in_one_way(name: str) -> None:
    text, count = CASES[name]
    assert len(find_regions(prepare(read_tensor_function(text)))) == count
    stored = [s.value for s in statements(kernel(text, "avx2").body) if isinstance(s, Store)]
    assert not any(isinstance(e, Select) for value in stored for e in walk(value))


def test_an_image_is_turned_inside_its_border() -> None:
    found = [s.value for s in statements(kernel(TURNED, "avx2").body) if isinstance(s, Store)]
    assert any(isinstance(e, Call) and e.fn == "transposed" for value in found for e in walk(value))


def test_a_result_made_in_one_way_is_not_cut() -> None:
    text = "def f(x: f32[8, 9]):\n    out[i: 8, j: 9] = max(x[i, j], 0.0)\n    return out\n"
    assert find_regions(prepare(read_tensor_function(text))) == ()


def test_too_many_regions_are_none() -> None:
    value = "x[i]"
    for k in range(MOST + 1):
        value = f"select(i < {2 * k + 1}, y[i], {value})"
    text = f"def f(x: f32[999], y: f32[999]):\n    out[i: 999] = {value}\n    return out\n"
    assert find_regions(prepare(read_tensor_function(text))) == ()
