"""Conditions on input sizes: a call that breaks one is refused, by name."""

from __future__ import annotations

import numpy as np
import pytest
from zoo.build import text, weight

import naru
from naru.errors import InputError
from naru.frontend.onnx import read_onnx
from naru.schedule.requirements import requirements

FOLD = "(float[n,4] x) => (float[m,8] y) { r = Reshape(x, s) y = Relu(r) }"
WINDOW = "(float[n,2,h,w] x) => (float[n,3,1,1] y) { c = Conv(x, k) y = GlobalAveragePool(c) }"


def test_a_reshape_keeps_the_number_of_elements() -> None:
    source = text(FOLD, {"s": np.array([-1, 8])})
    model = naru.compile(source.SerializeToString(), cache=False)
    x = np.arange(16, dtype=np.float32).reshape(4, 4)
    np.testing.assert_array_equal(model(x), x.reshape(2, 8))
    assert model(x[:0]).shape == (0, 8)
    for rows in (1, 3):
        with pytest.raises(InputError, match=r"reshapes n \* 4 elements"):
            model(x[:rows])
    model.selftest()


def test_a_window_fits_its_input() -> None:
    source = text(WINDOW, {"k": weight(3, 2, 3, 3)})
    model = naru.compile(source.SerializeToString(), cache=False)
    assert model(np.ones((1, 2, 3, 4), np.float32)).shape == (1, 3, 1, 1)
    with pytest.raises(InputError, match=r"needs h - 2 >= 0"):
        model(np.ones((1, 2, 1, 5), np.float32))


def test_what_types_settle_is_not_asked() -> None:
    body = "(float[n,4] x) => (float[n,2,2] y) { y = Reshape(x, s) }"
    source = text(body, {"s": np.array([0, 2, 2])})
    assert requirements(read_onnx(source)) == ()
