"""Operators that a package outside of naru registers: compiled, checked, refused, cached."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import naru
from naru import knobs
from naru.custom.registering import find_custom
from naru.errors import InputError, IRError, ModelError, NaruError, UnsupportedError
from naru.frontend.onnx import read_onnx
from naru.ops.evaluate import evaluate

Array = np.ndarray


def floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def model_of(body: str, version: int = 1) -> bytes:
    head = f'<ir_version: 10, opset_import: ["" : 21, "own.ops" : {version}]>'
    return onnx.parser.parse_model(f"{head} main {body}").SerializeToString()


def compiled(body: str, version: int = 1) -> Any:
    return naru.compile(model_of(body, version), cache=False)


@pytest.fixture(scope="module", autouse=True)
def _own_ops() -> Iterator[None]:
    """The package, as long as these tests run: others look at all ops that there are."""
    global own_ops
    from tests.custom_ops import own_ops

    yield
    for name in ("Snake", "Moments", "Neighbours", "SumOf"):
        naru.unregister_op("own.ops", name)


@pytest.fixture
def temporary() -> Iterator[str]:
    """The name of an operator that is forgotten afterwards."""
    yield "Temporary"
    naru.unregister_op("own.ops", "Temporary")


def register_add(name: str, number: float, **options: Any) -> None:
    """Adds a number, says the composition; the meaning says the same."""

    @naru.register_op("own.ops", name, meaning=lambda x: x + x.dtype.type(number), **options)
    def add(c: Any, x: Any) -> Any:
        return c.op("Add", x, number)


TEMPORARY = "(float[n] x) => (float[n] y) { y = own.ops.Temporary(x) }"
X = floats(5)


def test_they_agree_with_their_meaning() -> None:
    naru.check_op("own.ops", "Snake", (floats(3, 7),), (floats(0, 2),), attrs={"alpha": 2.0})
    naru.check_op("own.ops", "Moments", (floats(3, 7),), (floats(3, 7), floats(7)))
    naru.check_op("own.ops", "Neighbours", (floats(3, 27),), (floats(1, 2),))
    naru.check_op("own.ops", "SumOf", (floats(9), floats(9, seed=1)))


def test_a_model_of_all() -> None:
    model = compiled(
        """(float[n, k] x, float[p] v) => (float[n, k] y, float[n, 1] z, float[n, q] w, float[p] s)
        { y = own.ops.Snake <alpha = 2.0> (x)  z, far = own.ops.Moments (y)
          w = own.ops.Neighbours <weight = 0.25> (y)  s = own.ops.SumOf (v, v) }"""
    )
    for rows, size in ((4, 20), (1, 3)):
        x, v = floats(rows, size), floats(size)
        y, z, w, s = model(x, v)
        np.testing.assert_allclose(y, own_ops.snake(x, alpha=2.0), rtol=1e-5)
        np.testing.assert_allclose(z, own_ops.moments(y)[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(w, own_ops.neighbours(y, weight=0.25), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(s, v + v)


def test_the_meaning_is_what_is_right(temporary: str) -> None:
    """It is what the graph means, whatever the composition says."""

    @naru.register_op("own.ops", temporary, meaning=lambda x: x * 2)
    def wrong(c: Any, x: Any) -> Any:
        return c.op("Add", x, 1.0)

    (y,) = evaluate(read_onnx(model_of(TEMPORARY)), [X])
    np.testing.assert_array_equal(y, X * 2)
    with pytest.raises(NaruError, match=r"own.ops.Temporary, sample 0: 5 of 5 elements"):
        naru.check_op("own.ops", temporary, (X,))


def test_versions_of_a_domain(temporary: str) -> None:
    register_add(temporary, 1.0, until=2)
    register_add(temporary, 2.0, version=3)
    np.testing.assert_allclose(compiled(TEMPORARY, 2)(X), X + 1, rtol=1e-6)
    np.testing.assert_allclose(compiled(TEMPORARY, 7)(X), X + 2, rtol=1e-6)
    with pytest.raises(ModelError, match=r"no operator own\.ops\.Neighbours is registered for"):
        compiled("(float[1, 4] x) => (float[1, 3] y) { y = own.ops.Neighbours(x) }", 3)


def test_each_version_has_its_own_signature(temporary: str) -> None:
    def register(attribute: str, **versions: Any) -> None:
        scope: dict[str, Any] = {}
        exec(f"def meaning(x, *, {attribute}=1.0): return x * x.dtype.type({attribute})", scope)
        exec(f"def build(c, x, *, {attribute}=1.0): return c.op('Mul', x, {attribute})", scope)
        naru.register_op("own.ops", temporary, meaning=scope["meaning"], **versions)(scope["build"])

    register("beta", version=2)
    register("alpha", until=1)
    for attribute, version in (("alpha", 1), ("beta", 2)):
        body = TEMPORARY.replace("(x) }", f"<{attribute} = 3.0>(x) }}")
        np.testing.assert_allclose(compiled(body, version)(X), X * 3, rtol=1e-6)
        with pytest.raises(ModelError, match=attribute):
            compiled(body, 3 - version)
    assert find_custom("own.ops", temporary).since == 2
    naru.check_op("own.ops", temporary, (X,), attrs={"beta": 2.0})


def test_names_that_look_alike() -> None:
    alike = [("a.b", "C"), ("a_b", "C"), ("a", "b_C"), ("a.b", "C_1"), ("a.ü", "C"), ("a.é", "C")]
    for domain, name in alike:
        naru.register_op(domain, name, meaning=lambda x: x)(lambda c, x: x)
    assert len({find_custom(*names).op for names in alike}) == len(alike)
    for domain, name in alike:
        naru.unregister_op(domain, name)


def test_the_cache_knows_what_is_registered(temporary: str, tmp_path: Path) -> None:
    with knobs.scope(cache_dir=tmp_path, cache_bytes=2**30):
        register_add(temporary, 1.0)
        np.testing.assert_allclose(naru.compile(model_of(TEMPORARY))(X), X + 1, rtol=1e-6)
        naru.unregister_op("own.ops", temporary)
        register_add(temporary, 2.0)
        np.testing.assert_allclose(naru.compile(model_of(TEMPORARY))(X), X + 2, rtol=1e-6)


def register_table(name: str, held: Any) -> None:
    """Adds what it encloses to five numbers, says the composition."""

    def table() -> Any:
        return held["table"]

    @naru.register_op("own.ops", name, meaning=lambda x: x + table())
    def add(c: Any, x: Any) -> Any:
        return c.op("Add", x, table()[:5])


def test_the_cache_knows_what_functions_enclose(temporary: str) -> None:
    """All elements of an array, and what an enclosed function encloses in its turn."""
    digests: set[str] = set()
    for changed in (0, 1, 0):
        table = np.zeros(5000, np.float32)
        table[2] = changed
        register_table(temporary, {"table": table})
        digests.add(naru.custom.digest())
        naru.unregister_op("own.ops", temporary)
    assert len(digests) == 2
    register_table(temporary, {"table": (k for k in range(3))})
    with pytest.raises(
        InputError, match=r"own\.ops\.Temporary: a function of it holds what no key"
    ):
        naru.custom.digest()


def test_the_cache_knows_what_methods_do(temporary: str) -> None:
    def plus(self: int, x: Array) -> Array:
        return x + self

    def minus(self: int, x: Array) -> Array:
        return x - self

    digests: set[str] = set()
    for function, number in ((plus, 1), (plus, 2), (minus, 1)):
        method = MethodType(function, number)
        naru.register_op("own.ops", temporary, meaning=method)(lambda c, x: x)
        digests.add(naru.custom.digest())
        naru.unregister_op("own.ops", temporary)
    assert len(digests) == 3


@pytest.mark.parametrize(("domain", "name"), [("com.microsoft", "Gelu"), ("ai.onnx.ml", "Scaler"),
                                              ("", "Conv"), ("own.ops", "Snake")])  # fmt: skip
def test_names_that_are_taken(domain: str, name: str) -> None:
    with pytest.raises(InputError):
        naru.register_op(domain, name, meaning=own_ops.snake)


KERNELS = {
    "def f(x: f32[n], out: f32[n]):\n    for i in range(n):\n        out[i] = y[i]\n": "y",
    "def f(x: f32[n], out: f32[n]):\n    out[0:8] = x[0:8] +\n": "line 2",
    "def f(x: f32[n], out: i32[n]):\n    for i in range(n):\n        out[i] = x[i]\n": "i32",
    "def f(x: f32[8], out: f32[8]):\n    for i in range(9):\n        out[i] = x[i]\n": "8",
}


@pytest.mark.parametrize("text", KERNELS)
def test_kernels_that_are_not_valid(text: str, temporary: str) -> None:
    register = naru.register_op("own.ops", temporary, meaning=lambda x: x, kernel=text)
    with pytest.raises(IRError, match=KERNELS[text]):
        register(lambda x: x)


def test_kernels_that_are_wrong(temporary: str) -> None:
    """One that takes other types, one that gives other numbers, one that leaves its memory."""
    loop = "def f(x: f32[n], out: f32[n]):\n    for i in range(n):\n        out[i] = {}\n"
    for value, words in (
        ("x[i] * 3.0", r"differ from the meaning, the first at \(0,\)"),
        ("x[i + 1]", "x"),
    ):
        text = loop.format(value)
        naru.register_op("own.ops", temporary, meaning=lambda x: x * 2, kernel=text)(lambda x: x)
        with pytest.raises(NaruError, match=words):
            naru.check_op("own.ops", temporary, (X,))
        naru.unregister_op("own.ops", temporary)
    with pytest.raises(ModelError, match=r"takes a: f32\[n\], found f64\[5\]"):
        naru.check_op("own.ops", "SumOf", (X.astype(np.float64), X.astype(np.float64)))


def test_meanings_of_another_type(temporary: str) -> None:
    def double(x: Array) -> Array:
        return x.astype(np.float64)

    @naru.register_op("own.ops", temporary, meaning=double)
    def same(c: Any, x: Any) -> Any:
        return c.op("Identity", x)

    with pytest.raises(NaruError, match=r"gives float64\[5\] as result 0, declared is float32"):
        naru.check_op("own.ops", temporary, (X,))


def test_nodes_that_do_not_fit() -> None:
    for node, words in (
        ("own.ops.Snake <beta = 1.0> (x)", "beta"),
        ("own.ops.Snake <alpha = [1.0]> (x)", "expected float, found tuple"),
        ("own.ops.SumOf (x)", "operand 1"),
        ("own.ops.Snake (x, x)", "at most 1"),
    ):
        with pytest.raises(ModelError, match=words):
            compiled(f"(float[n] x) => (float[n] y) {{ y = {node} }}")


def test_compositions_that_cannot_be(temporary: str) -> None:
    with pytest.raises(InputError, match="means left out"):

        @naru.register_op("own.ops", temporary, meaning=own_ops.snake)
        def with_default(c: Any, x: Any, y: Any = 3) -> Any:
            return x

    @naru.register_op("own.ops", temporary, meaning=own_ops.snake)
    def no_value(c: Any, x: Any) -> Any:
        return 3

    with pytest.raises(InputError, match="expected the composition to return Values"):
        compiled(TEMPORARY)
    naru.unregister_op("own.ops", temporary)

    @naru.register_op("own.ops", temporary, meaning=own_ops.snake)
    def of_data(c: Any, x: Any) -> Any:
        return c.op("Cast", c.op("NonZero", x), to=1)

    with pytest.raises(UnsupportedError, match="only data decide"):
        compiled(TEMPORARY)


def test_functions_that_fail(temporary: str) -> None:
    def broken(x: Array) -> Array:
        raise ValueError("no such thing")

    @naru.register_op("own.ops", temporary, meaning=broken)
    def same(c: Any, x: Any) -> Any:
        return c.op("Identity", x)

    with pytest.raises(InputError, match=r"its meaning fails for float\d+\[.*no such thing"):
        compiled(TEMPORARY)
    naru.unregister_op("own.ops", temporary)

    @naru.register_op("own.ops", temporary, meaning=own_ops.snake)
    def wrong(c: Any, x: Any) -> Any:
        return x + 1

    with pytest.raises(InputError, match="its composition fails: TypeError"):
        compiled(TEMPORARY)
