"""Conditions on input sizes: a call that breaks one is refused, by name."""

from __future__ import annotations

import numpy as np
import pytest
from zoo.build import text, weight

import naru
from naru.errors import InputError, RunError
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


def test_dims_of_different_names_must_be_equal() -> None:
    source = text("(float[n,3] x, float[k,3] y) => (float[m,3] z) { z = Add(x, y) }")
    model = naru.compile(source.SerializeToString(), cache=False)
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(model(x, x), x + x)
    for rows in (1, 3, 5):
        with pytest.raises(InputError, match=r"'z' needs n == k"):
            model(x, np.ones((rows, 3), np.float32))
    model.selftest()


SLICED = (
    "(float[n] x) => (float[k] y) { zero = Constant <value_ints = [0]> () length = Shape (x)"
    " part = Slice(table, zero, length) z = Mul(x, part) y = "
)


@pytest.mark.parametrize("end", ["Relu(z)", "ReduceSum(z)", "Softmax(z)"])
def test_a_table_shorter_than_a_vector(end: str) -> None:
    table = np.arange(1, 6, dtype=np.float32)
    source = text(SLICED + end + " }", {"table": table})
    model = naru.compile(source.SerializeToString(), cache=False)
    for size in (1, 4, 5):
        x = np.linspace(-1, 2, size, dtype=np.float32)
        z = x * table[:size]
        e = np.exp(z - z.max())
        expected = {"R": np.maximum(z, 0), "S": e / e.sum()}[end[0]]
        wanted = z.sum(keepdims=True) if "Sum" in end else expected
        np.testing.assert_allclose(model(x), wanted, rtol=1e-5)
    with pytest.raises(InputError, match=r"needs n == min\(5, n\)"):
        model(np.ones(6, np.float32))


def test_operands_of_a_concat_that_tell_a_size() -> None:
    body = (
        "(float[2,n] x, float[3,8] y) => (float[5,8] z)"
        " { c = Concat <axis = 0> (x, y) m = ReduceMax <axes = [1]> (c) z = Sub(c, m) }"
    )
    model = naru.compile(text(body, opset=13).SerializeToString(), cache=False)
    x, y = np.ones((2, 8), np.float32), np.arange(24, dtype=np.float32).reshape(3, 8)
    c = np.concatenate((x, y))
    np.testing.assert_array_equal(model(x, y), c - c.max(1, keepdims=True))
    with pytest.raises(InputError, match="n == 8"):
        model(x[:, :7], y)


def test_a_table_of_positions_is_long_enough() -> None:
    """As BERT has it: the first s rows of a table, of which there may be fewer."""
    body = (
        "(float[n,s,4] x) => (float[n,s,4] y) { one = Constant <value_ints = [1]> ()"
        " zero = Constant <value_ints = [0]> () length = Shape <start = 1, end = 2> (x)"
        " rows = Slice(table, zero, length, zero) y = Add(x, rows) }"
    )
    table = weight(6, 4)
    model = naru.compile(text(body, {"table": table}).SerializeToString(), cache=False)
    x = np.ones((2, 6, 4), np.float32)
    np.testing.assert_array_equal(model(x), x + table)
    np.testing.assert_array_equal(model(x[:, :1]), x[:, :1] + table[:1])
    with pytest.raises(InputError, match=r"'y' needs s == min\(6, s\)"):
        model(np.ones((1, 7, 4), np.float32))


def test_dims_that_only_data_tell_are_checked_when_they_are_known() -> None:
    body = (
        "(float[n] x, float[k] y) => (float[m] z) "
        "{ p = NonZero(x) a = Constant <value_ints = [0]> () f = Cast <to = 1> (p)"
        " q = Squeeze(f, a) z = Add(q, y) }"
    )
    model = naru.compile(text(body).SerializeToString(), cache=False)
    x, y = np.array([0, 3, 4], np.float32), np.array([10, 20], np.float32)
    np.testing.assert_array_equal(model(x, y), [11, 22])
    with pytest.raises(RunError, match=r"do not fit the model: 'z' needs .* == "):
        model(np.ones(3, np.float32), y)


def test_numbers_that_do_not_fit_are_named() -> None:
    body = "(float[n,4] x, int64[2] s) => (float[a,b] y) { y = Reshape(x, s) }"
    model = naru.compile(text(body).SerializeToString(), cache=False)
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(model(x, np.array([-1, 2])), x.reshape(6, 2))
    np.testing.assert_array_equal(model(x, np.array([0, -1])), x)
    for wrong in ([5, 2], [-1, 5]):
        with pytest.raises(RunError, match="reshapes n \\* 4 elements to"):
            model(x, np.array(wrong))
    with pytest.raises(RunError, match="of 'y': got a size of"):
        model(x, np.array([2**40, 1]))
    with pytest.raises(RunError, match="got a size of -2, the least is 0"):
        model(x, np.array([-2, -6]))


def test_there_is_an_element_to_take() -> None:
    body = "(float[n,4] x, int64[m] at) => (float[m,4] y) { y = Gather(x, at) }"
    model = naru.compile(text(body).SerializeToString(), cache=False)
    x, none = np.ones((2, 4), np.float32), np.zeros(0, np.int64)
    assert model(x[:0], none).shape == (0, 4)
    with pytest.raises(InputError, match=r"'y' needs n >= 1"):
        model(x[:0], np.array([0]))
    np.testing.assert_array_equal(model(x, np.array([1])), x[1:])


def test_as_many_elements_as_are_asked_for() -> None:
    body = "(float[2,n] x, int64[1] k) => (float[2,m] y) { y, at = TopK(x, k) }"
    model = naru.compile(text(body).SerializeToString(), cache=False)
    x = np.array([[1, 3, 2], [6, 4, 5]], np.float32)
    np.testing.assert_array_equal(model(x, np.array([3])), [[3, 2, 1], [6, 5, 4]])
    with pytest.raises(RunError, match=r"'y' needs .* <= n"):
        model(x, np.array([4]))


def test_a_branch_asks_where_it_is_taken() -> None:
    body = (
        "(bool p, float[n,4] x, float[k,4] z, int64[m] at) => (float[m,4] y) { y = If(p) <"
        " then_branch = a () => (float[m,4] u) { u = Gather(x, at) },"
        " else_branch = b () => (float[m,4] v)"
        " { r = Add(x, z) s = ReduceSum <keepdims = 0> (r) g = Gather(z, at) v = Mul(g, s) }> }"
    )
    model = naru.compile(text(body).SerializeToString(), cache=False)
    x, at, yes, no = np.ones((3, 4), np.float32), np.array([1]), np.array(True), np.array(False)
    np.testing.assert_array_equal(model(yes, x, x[:0], at), x[:1])
    np.testing.assert_array_equal(model(no, x, x, at), x[:1] * 24)
    with pytest.raises(RunError, match=r"'r' needs n == k"):
        model(no, x, x[:2], at)
    with pytest.raises(RunError, match=r"'u' needs n >= 1"):
        model(yes, x[:0], x, at)
