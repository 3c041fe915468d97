"""Libraries of unusual models: names that mean something to C, a shell or a screen; no inputs, no
dims, no elements, many inputs, small dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from library.binding import BAD_ARGUMENT, Buffer, Library
from library.programs import run
from onnx import TensorProto, helper, numpy_helper

import naru
from naru.building import build, check_name
from naru.errors import InputError
from naru.library import write
from naru.library.header import unique_names
from naru.library.signature import Signature, identifier

STRICT = ("-O1", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wshadow")
Shape = Sequence[int | str]


def copies(
    inputs: Sequence[str],
    outputs: Sequence[str],
    shape: Shape = (2, 3),
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """Every output is one input, negated if it is a float."""
    operator = "Neg" if dtype == TensorProto.FLOAT else "Identity"
    nodes = [helper.make_node(operator, [i], [o]) for i, o in zip(inputs, outputs, strict=True)]
    return model(
        nodes,
        [helper.make_tensor_value_info(n, dtype, shape) for n in inputs],
        [helper.make_tensor_value_info(n, dtype, shape) for n in outputs],
    )


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def check_examples(folder: Path, name: str) -> None:
    """The programs in C and C++ compile without a word, and run."""
    link = (f"./{name}.so", "-Wl,-rpath,$ORIGIN", "-o")
    run("cc", "-std=c11", "-D_GNU_SOURCE", *STRICT, "example.c", *link, "a", cwd=folder)
    run("c++", "-std=c++11", *STRICT, "example.cpp", *link, "b", cwd=folder)
    for program in ("a", "b"):
        assert f"{name} on " in run(folder / program, cwd="/")
    old = ("-std=c++98", "-fno-exceptions", "-Wno-long-long", "-fsyntax-only", "-x", "c++")
    run("c++", *STRICT, *old, f"{name}.h", cwd=folder)


NAMES = (
    *("inputs", "outputs", "context", "bool", "and", "operator", "int64_t", "naru_input", "linux"),
    *("x", "X", "x_bytes", "x!", "a", "a_2", "a?", "_x_", "and_run"),
    *("@PREDICT@", "@CONSTANTS@", "@LIBRARY@", "NARU_UNCHECKED", "SIZE_MAX"),
    *("a/*b", "c*/d", "e*\\f", "e\nf", 'g"h\\', "한", "국", "i??/", "%s%n", "\u202ertl", "|"),
)


def test_names_of_tensors(tmp_path: Path) -> None:
    """Keywords of C and C++, types and names of the header, macros that would be equal, ends of
    comments, and letters that C does not take. The model is called by an operator of C++."""
    outputs = [f"{n} {k}" for k, n in enumerate(NAMES)]
    build(copies(NAMES, outputs), tmp_path, name="and")
    check_examples(tmp_path, "and")
    library = Library(tmp_path / "and.so")
    assert [t.name.decode() for t in library.inputs] == list(NAMES)
    opened = library.open()
    feed = {n: np.full((2, 3), k, np.float32) for k, n in enumerate(NAMES)}
    for k, got in enumerate(opened(feed)):
        assert (got == -k).all()
    opened.close()


def test_examples_take_sizes_that_fit(tmp_path: Path) -> None:
    """A window of 7 x 7 has no place in an image of 4 x 4; integers are printed as they are."""
    made = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,h,w] x) => (int32[1,2,a,b] y)
        { k = Constant<value = float[1] {-1000.0}>()
          s = Constant<value = int64[4] {2, 3, 7, 7}>() kernel = Expand(k, s)
          c = Conv(x, kernel) small = Constant<value = float[1] {0.0}>() d = Mul(c, small)
          e = Sub(d, k) f = Neg(e) y = Cast<to=6>(f) }"""
    )
    build(made, tmp_path, name="conv")
    check_examples(tmp_path, "conv")
    assert ": -1000 -1000" in run(tmp_path / "a", cwd="/")


@pytest.mark.slow
def test_names_of_symbols(tmp_path: Path) -> None:
    build(copies(["x"], ["y"], ("a-b", "a_b", "N", "n")), tmp_path, name="naru_library")
    check_examples(tmp_path, "naru_library")
    header = (tmp_path / "naru_library.h").read_text()
    assert "MNARU_LIBRARY_SYMBOL_N 2 /* N: 0 to" in header
    assert "MNARU_LIBRARY_SYMBOL_N_3 3 /* n: 0 to" in header


@pytest.mark.slow
@pytest.mark.parametrize("name", ["div", "main", "memory", "std", "linux", "한국", "my-net.v2"])
def test_names_of_models(name: str, tmp_path: Path) -> None:
    """Functions of the C library, macros, other letters, points."""
    build(copies(["x"], ["y"]), tmp_path, name=name)
    check_examples(tmp_path, name)


def test_names() -> None:
    names = unique_names(["x", "X", "x_bytes", "a", "a_2", "a?", "x_1"])
    made = [n.upper() + s for n in names for s in ("", "_ELEMENTS", "_BYTES", "_CLASSES")]
    assert len(set(made)) == len(made)
    assert names[0] == "x"
    own = (("naru", "mnaru"), ("NARU_x", "mNARU_x"), ("narun", "narun"), ("sem", "msem"))
    for name, prefix in own:
        assert Signature(name, (), (), (), 0, 0, (), ()).prefix == prefix
    assert [identifier(n) for n in ("and", "std", "_x_", "…")] == ["mand", "mstd", "x", "model"]
    for name, file in (("-o", "o"), ("@f", "f"), ("a;b (1)%d", "a_b__1__d"), ("m-2.1", "m-2.1")):
        assert check_name(name) == file
    for name in ("", "a/b", ".hidden", "two\nlines"):
        with pytest.raises(InputError):
            check_name(name)


def test_no_inputs_no_dims(tmp_path: Path) -> None:
    """Nothing goes in; what comes out is a scalar, and something without elements."""
    value = numpy_helper.from_array(np.array(2, np.float32))
    empty = numpy_helper.from_array(np.zeros((0, 3), np.float32))
    nodes = [
        helper.make_node("Constant", [], ["c"], value=value),
        helper.make_node("Constant", [], ["e"], value=empty),
        helper.make_node("Neg", ["c"], ["y"]),
        helper.make_node("Neg", ["e"], ["z"]),
    ]
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ()),
        helper.make_tensor_value_info("z", TensorProto.FLOAT, (0, 3)),
    ]
    build(model(nodes, [], outputs), tmp_path, name="nothing", embed=True)
    check_examples(tmp_path, "nothing")
    opened = Library(tmp_path / "nothing.so").open()
    y, z = opened({})
    assert y == -2
    assert (y.shape, z.shape) == ((), (0, 3))
    assert opened.selftest() <= 1
    opened.close()


def test_many_inputs(tmp_path: Path) -> None:
    names = [f"x{k}" for k in range(200)]
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ("n",)) for n in names]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n",))
    build(model([helper.make_node("Sum", names, ["y"])], inputs, [output]), tmp_path, name="many")
    opened = Library(tmp_path / "many.so").open()
    (got,) = opened({n: np.full(3, k, np.float32) for k, n in enumerate(names)})
    assert (got == sum(range(200))).all()
    opened.close()


DTYPES = ("BOOL", "INT4", "UINT4", "FLOAT8E4M3FN", "FLOAT8E5M2", "BFLOAT16", "FLOAT16", "UINT64")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype: str, tmp_path: Path) -> None:
    """What goes in comes out; small numbers take a byte each."""
    proto = copies(["x"], ["y"], (4,), getattr(TensorProto, dtype))
    build(proto, tmp_path, name="same")
    check_examples(tmp_path, "same")
    x = np.array([0, 1, 1, 0]).astype(naru.compile(proto).inputs[0].dtype)
    opened = Library(tmp_path / "same.so").open()
    (got,) = opened({"x": x})
    assert got.tobytes() == x.tobytes()
    assert opened.selftest() <= 1
    opened.close()


def test_a_long_error_ends_with_a_whole_letter(tmp_path: Path) -> None:
    names = ["x" * more + "한" * 200 for more in range(3)]
    build(copies(names, ["a", "b", "c"]), tmp_path, name="long")
    library = Library(tmp_path / "long.so")
    opened = library.open()
    context = opened.context()
    data = np.zeros((2, 3), np.float32)
    good = Buffer(data.ctypes.data, data.nbytes)
    for k in range(3):
        inputs = (Buffer * 3)(*[good] * k, Buffer(data.ctypes.data, 1), *[good] * (2 - k))
        assert library.table.run(context.pointer, inputs, (Buffer * 3)()) == BAD_ARGUMENT
        text = library.table.error()
        assert len(text) >= 508
        assert "한" in text.decode()
    context.free()
    opened.close()


def test_weights_too_large_for_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "_MOST_EMBEDDED", 100)
    with pytest.raises(InputError, match=r"--embed: the weights have \d+ bytes; expected 100 or"):
        build(Path(naru.__file__).parent / "demo" / "digits_mlp.onnx", tmp_path, embed=True)
    assert not list(tmp_path.iterdir())
