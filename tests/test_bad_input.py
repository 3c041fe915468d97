"""What users and files do wrong: a message that names it, and never a crash or half a file."""

from __future__ import annotations

import functools
import os
import pickle
import platform
import re
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo

import naru
from naru.artifact.bundle import read_bundle
from naru.cli import main
from naru.errors import (
    BundleError,
    InputError,
    ModelError,
    NaruError,
    NaruWarning,
    RunError,
    TargetError,
    UnsupportedError,
)
from naru.runtime import _native, native_model, session
from naru.runtime.model import Model
from tests.fuzz.bundle_mutations import parts_of, seal

FLOATS = np.arange(6, dtype=np.float32).reshape(2, 3)
WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


@functools.cache
def compiled(body: str, *weights: str) -> Model:
    """A model of ONNX text; weights are `w` (float[3,4]) and such as `ax=2` (one int64)."""
    arrays: dict[str, Any] = {}
    for name, _, value in (w.partition("=") for w in weights):
        arrays[name] = np.array([int(value)], np.int64) if value else WEIGHT
    return naru.compile(zoo.text(body, arrays).SerializeToString(), cache=False)


def product() -> Model:
    return compiled("(float[n,3] x) => (float[n,4] y) { y = MatMul(x, w) }", "w")


# ---- model files ----


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> dict[str, zoo.Bad]:
    return zoo.bad_models(tmp_path_factory.mktemp("bad"))


def files_in(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def has_word(text: str, words: tuple[str, ...]) -> bool:
    return any(w.lower() in text.lower() for w in words)


ALLOWED: dict[str, tuple[type[NaruError], ...]] = {
    "model": (ModelError,),
    "unsupported": (UnsupportedError, ModelError),
}


def test_bad_models_are_refused_by_name(bad: dict[str, zoo.Bad]) -> None:
    wrong: list[str] = []
    for name, b in bad.items():
        if b.verdict == "warning":
            continue
        try:
            naru.compile(b.path, cache=False)
        except ALLOWED[b.verdict] as error:
            if not has_word(str(error), b.words):
                wrong.append(f"{name}: none of {b.words} in {error}")
        except NaruError as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}")
        else:
            wrong.append(f"{name} was compiled")
    assert not wrong, "\n".join(wrong)


def test_bad_weights_are_warned_of(bad: dict[str, zoo.Bad]) -> None:
    for b in (b for b in bad.values() if b.verdict == "warning"):
        with pytest.warns(NaruWarning) as caught:
            naru.compile(b.path, cache=False)
        text = str(caught[0].message)
        assert has_word(text, b.words)
        assert "'w'" in text


def test_bad_models_through_the_command_line(
    bad: dict[str, zoo.Bad], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One message on stderr, exit code 1 (2 for a path that is no file), and nothing written."""
    folder = next(iter(bad.values())).path.parent
    before = files_in(folder)
    out = tmp_path / "out.naru"
    for name, b in bad.items():
        if b.verdict == "warning":
            continue
        code = main(["compile", str(b.path), "-o", str(out), "--no-cache"])
        text = capsys.readouterr()
        assert code == (1 if b.path.is_file() else 2), name
        assert text.out == "", name
        assert "Traceback" not in text.err, name
        if b.path.is_file():
            assert text.err.startswith("naru: error: "), name
            assert has_word(text.err, b.words), f"{name}: {text.err}"
    assert files_in(tmp_path) == set()
    assert files_in(folder) == before


def test_a_model_with_nan_weights_compiles_with_a_warning_on_stderr(
    bad: dict[str, zoo.Bad], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.naru"
    path = str(bad["nan_weights"].path)
    assert main(["compile", path, "-o", str(out), "--no-cache"]) == 0
    assert "warning" in capsys.readouterr().err
    assert np.isnan(naru.load(out)(FLOATS)).all()


# ---- arguments of a call ----


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((FLOATS.astype(np.float64),), {}, ["'x'", "float32", "float64", "x.astype(np.float32)"]),
        ((FLOATS.astype(np.int64),), {}, ["int64", "x.astype(np.float32)"]),
        ((FLOATS > 1,), {}, ["bool", "x.astype(np.float32)"]),
        ((FLOATS + 0j,), {}, ["complex64", "x.astype(np.float32)"]),
        ((FLOATS.astype("U"),), {}, ["float32", "str"]),
        ((FLOATS.astype(object),), {}, ["float32", "object"]),
        ((FLOATS.astype("f4,f4"),), {}, ["float32"]),
        ((FLOATS.astype("M8[s]"),), {}, ["float32", "datetime64"]),
        ((FLOATS.T,), {}, ["'x'", "(n, 3)", "(3, 2)", "x.transpose(1, 0)"]),
        ((FLOATS[0],), {}, ["2 dims", "x[np.newaxis]"]),
        ((FLOATS[None],), {}, ["2 dims", "(1, 2, 3)"]),
        ((np.float32(1),), {}, ["2 dims", "()"]),
        ((FLOATS[:, :2],), {}, ["dim 1 to be 3"]),
        ((), {}, ["'x' is missing", "x: float32[n, 3]"]),
        ((FLOATS, FLOATS), {}, ["1 input", "got 2"]),
        ((), {"X": FLOATS}, ["no input 'X'", "x=..."]),
        ((), {"x": FLOATS, "z": FLOATS}, ["no input 'z'"]),
        (({"x": FLOATS, "z": FLOATS},), {}, ["no input 'z'"]),
        (({1: FLOATS},), {}, ["no input '1'"]),
        ((FLOATS,), {"x": FLOATS}, ["'x'", "twice"]),
        ((None,), {}, ["'x'", "an array", "NoneType"]),
        (("text",), {}, ["'x'", "an array", "str"]),
        ((b"0123",), {}, ["'x'"]),
        (([[1, 2, 3], [4]],), {}, ["'x'", "float32 values"]),
        (([[1, 2, "3"]],), {}, ["'x'", "float32"]),
        (([[1, 2, 3j]],), {}, ["'x'", "complex"]),
        (([[1, 2, 10**400]],), {}, ["'x'", "float32"]),
        ((np.ma.masked_less(FLOATS, 2),), {}, ["masked", "x.filled(0)"]),
    ],
)
def test_wrong_arguments(args: tuple[Any, ...], kwargs: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        product()(*args, **kwargs)
    for word in words:
        assert word in str(caught.value)
    np.testing.assert_array_equal(product()(FLOATS), FLOATS @ WEIGHT)  # and the model lives on


def misaligned(x: np.ndarray) -> np.ndarray:
    raw = np.zeros(x.nbytes + 1, np.uint8)
    out = raw[1:].view(x.dtype).reshape(x.shape)
    out[:] = x
    assert not out.flags.aligned
    return out


def read_only(x: np.ndarray) -> np.ndarray:
    out = x.copy()
    out.flags.writeable = False
    return out


@pytest.mark.parametrize(
    "change",
    [
        np.asfortranarray,
        misaligned,
        read_only,
        lambda x: np.repeat(x, 2, 1)[:, ::2],
        lambda x: x[::-1, ::-1][::-1, ::-1],
        lambda x: x[::-1].copy()[::-1],
        lambda x: x.astype(">f4"),
        lambda x: np.asfortranarray(x.astype(">f4")),
        lambda x: np.broadcast_to(x, (5, *x.shape))[2],
        lambda x: np.matrix(x),
        lambda x: np.ma.masked_array(x),
        lambda x: x.tolist(),
        lambda x: memoryview(x.tobytes()).cast("f", x.shape),
    ],
)
def test_any_layout_of_the_right_values(change: Callable[[np.ndarray], Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # np.matrix
        given = change(FLOATS)
    got = product()(given)
    assert type(got) is np.ndarray
    np.testing.assert_array_equal(got, FLOATS @ WEIGHT)


def test_inputs_without_elements() -> None:
    assert product()(np.zeros((0, 3), np.float32)).shape == (0, 4)
    assert product()(np.zeros((0, 3), np.float32, order="F")[::-1]).shape == (0, 4)


def test_one_size_for_two_inputs() -> None:
    model = compiled("(float[n] a, float[n] b) => (float[n] y) { y = Add(a, b) }")
    with pytest.raises(InputError, match=r"'b'.*dim 0 to be 6, as 'n' is in 'a'"):
        model(FLOATS.reshape(6), FLOATS[0])


# ---- outputs belong to the caller ----


@pytest.mark.parametrize(
    "body",
    [
        "(float[n,3] x) => (float[n,3] y) { y = Identity(x) }",
        "(float[n,3] x) => (float[n,3] y, float[n,3] z) { y = Identity(x) z = Identity(x) }",
        "(float[n,3] x) => (float[3,n] y, float[n,3] z) { y = Transpose(x) z = Transpose(y) }",
        "(float[n,3] x) => (float[n,3] y, float[n,3] z, float[n,3] u) "
        "{ y = Relu(x) z = Identity(y) u = Relu(x) }",
        "(float[n,3] x) => (float[n,3] y, float[k] z) "
        "{ y = Relu(x) m = Constant <value_ints = [-1]> () z = Reshape(y, m) }",
        "(float[n,3] x) => (int64[2,k] y) { y = NonZero(x) }",
        "(float[n,3] x) => (float[2] y) { y = Constant <value_floats = [1.0, 2.0]> () }",
        "(float[n,3] x) => (int64[2] y) { y = Shape(x) }",
    ],
)
def test_outputs_share_no_memory(body: str) -> None:
    model = compiled(body)
    x = FLOATS.copy()

    def run() -> list[np.ndarray]:
        result = model(x)
        return list(result) if isinstance(result, tuple) else [result]

    first = run()
    wanted = [y.copy() for y in first]
    for k, y in enumerate(first):
        assert y.flags.writeable
        assert not np.shares_memory(x, y)
        assert not any(np.shares_memory(y, z) for z in first[k + 1 :])
        y[...] = 77
    for y, want in zip(run(), wanted, strict=True):
        np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(x, FLOATS)


# ---- absurd sizes ----


def test_a_dim_beyond_its_range() -> None:
    """Refused before a copy is made: this view of one number stands for 12 TiB."""
    absurd = np.broadcast_to(np.float32(0), (2**40, 3))
    with pytest.raises(InputError, match=r"dim 0 \('n'\) in 0\.\.2147483647"):
        product()(absurd)


def test_a_copy_that_no_machine_holds() -> None:
    model = compiled("(float[n,m] x) => (float[n,m] y) { y = Neg(x) }")
    absurd = np.broadcast_to(np.float32(0), (2**31 - 1, 2**28))
    with pytest.raises(InputError, match=r"'x'.*not contiguous, and there is no memory for a copy"):
        model(absurd)


def test_an_output_that_no_machine_holds() -> None:
    """The input takes no memory at all; its sizes ask for 2 PiB of zeros."""
    text = zoo.text(
        "(float[n,0] x) => (float[n,m] y) { y = MatMul(x, w) }",
        {"w": np.zeros((0, 2**18), np.float32)},
    )
    model = naru.compile(text.SerializeToString(), cache=False)
    with pytest.raises(RunError, match="of memory, the machine has"):
        model(np.zeros((2**31 - 1, 0), np.float32))
    assert model(np.zeros((2, 0), np.float32)).shape == (2, 2**18)


@pytest.mark.parametrize(
    ("n", "m", "k"),
    [(2**22, 2**22, 2**20), (2**21, 2**21, 2**21), (2**22 + 1, 2**22, 2**20), (1, 2**23, 2**22)],
)
def test_sizes_whose_product_wraps_around(n: int, m: int, k: int) -> None:
    """Small inputs whose outer product has a multiple of 2**64 bytes, or near it: computed modulo
    2**64 the arena would be tiny, and the run would write far beyond it."""
    model = compiled(
        """(float[n,1,1] a, float[1,m,1] b, float[1,1,k] c) => (float[i,1,1] y) {
          p = Add(a, b) q = Add(p, c) s = Softmax <axis = 2> (q)
          t = Transpose <perm = [0, 2, 1]> (s) u = MatMul(s, t)
          v = ReduceMax <axes = [1, 2]> (u) y = ReduceSum(v, ax)
        }""",
        "ax=0",
    )
    shapes = ((n, 1, 1), (1, m, 1), (1, 1, k))
    with pytest.raises(RunError, match="of memory, the machine has"):
        model(*(np.zeros(s, np.float32) for s in shapes))
    model(*(np.zeros(s, np.float32) for s in ((2, 1, 1), (1, 3, 1), (1, 1, 4))))


def test_sizes_that_are_too_small_for_a_window() -> None:
    body = "(float[n,1,h,v] x) => (float[n,1,a,b] y) { y = MaxPool <kernel_shape = [5, 5]> (x) }"
    model = compiled(body)
    with pytest.raises(InputError, match="'y' needs h - 4 >= 0"):
        model(np.zeros((1, 1, 3, 9), np.float32))
    assert model(np.zeros((1, 1, 5, 9), np.float32)).shape == (1, 1, 1, 5)


def test_a_known_index_beyond_a_symbolic_size() -> None:
    """Clamped like those that are only known at run time; unclamped it read what lay there."""
    for at in (2**30, -(2**30)):
        body = "(float[n] x) => (float y) { i = Squeeze(at) y = Gather(x, i) }"
        model = compiled(body, f"at={at}")
        assert model(np.array([5, 5, 5], np.float32)) == 5


def test_a_reshape_that_fits_at_one_size_only() -> None:
    with pytest.raises(UnsupportedError, match="at some sizes only"):
        compiled(
            "(float[n,4] x) => (float[2,8] y) "
            "{ s = Constant <value_ints = [2, 8]> () y = Reshape(x, s) }"
        )


def test_a_loop_that_is_too_long_for_a_golden_vector() -> None:
    """It compiles, without one: rounds, or what ends it, may be other ones in earnest."""
    model = compiled(
        """(float[20000] x) => (float y) {
          n = Constant <value = int64 {20000}> () zero = Constant <value = float {0.0}> ()
          y = Loop (n, , zero) <body = step (int64 i, bool go, float a)
            => (bool more, float b) { more = Identity(go) e = Gather(x, i) b = Add(a, e) }>
        }"""
    )
    with pytest.raises(BundleError, match="no golden vectors"):
        model.selftest()
    assert model(np.ones(20000, np.float32)) == 20000


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("(float a, float d) => (float[n] y) { y = Range(a, a, d) }", None),
        ("(float a, float d) => (float[n] y) { b = Add(a, one) y = Range(a, b, d) }", "the most"),
        ("(float a, int64[1] s) => (float[n] y) { y = Expand(a, s) }", "of 'y': got a size of"),
        ("(float[2,3] a, int64[1] s) => (float[n,m] y) { y = ReduceSum(a, s) }", "axes in -2..1"),
        ("(float[3] a, int64 s) => (float[3] y) { y = CumSum(a, s) }", "axes in -1..0"),
        ("(float[3] a, int64[1] s) => (float[n,m] y) { y = Unsqueeze(a, s) }", "axes in -2..1"),
        ("(float[3] a, int64[2] s) => (float[n] y, float[m] z) { y, z = Split(a, s) }", "add up"),
        ('(float[n] a, int64[2] s) => (float[m] y) { y = Pad<mode = "reflect">(a, s) }', "reflect"),
    ],
)
def test_numbers_that_only_data_tell(body: str, found: str | None) -> None:
    source = zoo.text(body, {"one": np.float32(1)} if "one" in body else {}).SerializeToString()
    model = naru.compile(source, cache=False)
    large = np.int64(2**40) if "Expand" in body else np.int64(5)
    inputs: list[np.ndarray] = []
    for t in model.inputs:
        shape = tuple(3 if isinstance(d, str) else d for d in t.shape)
        inputs.append(np.full(shape, large) if t.dtype == "int64" else np.zeros(shape, np.float32))
    if found is None:
        inputs[1] = np.ones_like(inputs[1])
        assert model(*inputs).shape == (0,)
        return
    with pytest.raises((RunError, InputError), match=re.escape(found)):
        model(*inputs)


def test_a_body_that_never_runs_asks_for_nothing() -> None:
    model = compiled(
        """(float[k,3] x) => (float[m,3] y) {
          sh = Shape(x) at = Constant <value = int64 {0}> () n = Gather(sh, at)
          y = Loop (n, , ) <body = step (int64 i, bool go) => (bool more, float[3] o)
            { more = Identity(go) e = Gather(x, i) o = Mul(e, e) }>
        }"""
    )
    assert model(np.ones((0, 3), np.float32)).shape == (0, 3)
    np.testing.assert_array_equal(model(np.full((2, 3), 2, np.float32)), np.full((2, 3), 4))


def test_fewer_positions_than_elements() -> None:
    model = compiled(
        "(float[a,b] x, int64[c,d] i) => (float[c,d] y) { y = GatherElements<axis = 1>(x, i) }"
    )
    x = np.arange(18, dtype=np.float32).reshape(3, 6)
    np.testing.assert_array_equal(model(x, np.full((2, 4), 5)), [[5] * 4, [11] * 4])
    with pytest.raises(InputError, match="c <= a"):
        model(x, np.zeros((4, 1), np.int64))


def test_a_constant_that_takes_a_size_of_none() -> None:
    model = compiled(
        "(float[0,b] x) => (int64[r,q] y)"
        " { s = Shape(x) c = Constant <value_int = 3> () y = Expand(c, s) }"
    )
    assert model(np.zeros((0, 4), np.float32)).shape == (0, 4)


# ---- saving ----


def unwritable_folder(tmp_path: Path) -> Path:
    """Modes of files do not stop root, which some test machines run as; /proc stops everybody."""
    if os.geteuid() == 0:
        return Path("/proc")
    (tmp_path / "locked").mkdir(mode=0o555)
    return tmp_path / "locked"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    model = product()
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    places = {
        tmp_path / "absent" / "m.naru": "No such file",
        tmp_path / "folder": "directory",
        tmp_path / "file" / "m.naru": "Not a directory",
        unwritable_folder(tmp_path) / "m.naru": "cannot be written",
        tmp_path / ("x" * 300): "too long",
    }
    before = files_in(tmp_path)
    for place, word in places.items():
        with pytest.raises(BundleError, match=word) as caught:
            model.save(place)
        assert str(place) in str(caught.value)
    assert files_in(tmp_path) == before
    assert (tmp_path / "file").read_text() == "kept"


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """The old file stays whole. A limit on the size of files stands for a full disk."""
    path = tmp_path / "m.naru"
    product().save(path)
    before = path.read_bytes()
    script = f"""
import resource, signal, sys
import naru
from naru.errors import NaruError
model = naru.load({str(path)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    model.save({str(path)!r})
except NaruError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("BundleError")
    assert "cannot be written" in done.stdout
    assert path.read_bytes() == before
    assert files_in(tmp_path) == {path}


def test_a_full_disk_through_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "m.onnx"
    source.write_bytes(zoo.CASES["gemm_bias"].model().SerializeToString())

    def no_space(_fd: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", no_space)
    assert main(["compile", str(source), "--no-cache"]) == 1
    text = capsys.readouterr().err
    assert "No space left on device" in text
    assert "Traceback" not in text
    assert files_in(tmp_path) == {source}


# ---- loading ----


@functools.cache
def good_bundle() -> bytes:
    model = product()
    assert isinstance(model, native_model.NativeModel)
    return bytes(model._bundle.data)


def newer_format(data: bytes) -> bytes:
    head = bytearray(data)
    struct.pack_into("<I", head, 8, 2)
    struct.pack_into("<I", head, 36, _native.crc32c(bytes(head[:36])))
    return bytes(head)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: b"", ["empty"]),
        (lambda d: d[:20], ["not a naru bundle"]),
        (lambda d: d[:3000], ["expected", "3000"]),
        (lambda d: d[:-1], ["damaged"]),
        (lambda d: d + b"\0", ["damaged"]),
        (lambda d: b"This is text.\n" * 500, ["not a naru bundle"]),
        (lambda d: b"PK\3\4" + d, ["not a naru bundle"]),
        (lambda d: b"\x7fELF" + bytes(9000), ["not a naru bundle"]),
        (newer_format, ["format 2", "format 1", "compile the model with naru"]),
    ],
)
def test_files_that_are_no_bundles(
    change: Callable[[bytes], bytes],
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "m.naru"
    path.write_bytes(change(good_bundle()))
    with pytest.raises(BundleError) as caught:
        naru.load(path)
    for word in [*words, str(path)]:
        assert word in str(caught.value)
    for verb in ("run", "explain"):
        assert main([verb, str(path)]) == 1
        text = capsys.readouterr()
        assert words[0] in text.err
        assert "Traceback" not in text.err


def test_paths_that_cannot_be_loaded(tmp_path: Path) -> None:
    for path, word in ((tmp_path / "no.naru", "no such file"), (tmp_path, "directory")):
        with pytest.raises(BundleError, match=word) as caught:
            naru.load(path)
        assert str(path) in str(caught.value)
    with Path(os.devnull).open("rb") as file, pytest.raises(BundleError):
        naru.load(file)


def patched(edit: Callable[[dict[str, Any]], object]) -> bytes:
    """The good bundle with another manifest and checksums that match it."""
    manifest, sections = parts_of(good_bundle())
    edit(manifest)
    return seal(manifest, sections)


def test_a_bundle_for_another_machine() -> None:
    other = "aarch64" if platform.machine() == "x86_64" else "x86_64"
    data = patched(lambda m: m["target"].update(triple=f"{other}-unknown-linux-gnu"))
    with pytest.raises(TargetError, match=f"for {other}, this machine is {platform.machine()}"):
        naru.load(data)
    assert read_bundle(data).entries  # which may still be looked at
    wasm = patched(lambda m: m["target"].update(triple="wasm32-unknown-unknown"))
    with pytest.raises(TargetError, match="for wasm32"):
        naru.load(wasm)


def test_features_that_this_cpu_lacks() -> None:
    data = patched(lambda m: m["target"]["features"].append("avx4096"))
    with pytest.raises(TargetError, match="this CPU lacks avx4096"):
        naru.load(data)


def test_an_unknown_abi() -> None:
    with pytest.raises(BundleError, match=r"with ABI 2; naru .* takes ABI 1"):
        naru.load(patched(lambda m: m.update(abi=2)))


@pytest.mark.parametrize("use", ["call", "entry", "save", "pickle", "call without the thread"])
def test_damaged_weights_are_noticed_before_they_are_used(
    use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large ones are checked after loading, by a thread that a fork leaves behind."""
    monkeypatch.setattr(session, "LATER_FROM", 1)
    if use == "call without the thread":
        monkeypatch.setattr(session.WeightsCheck, "start", lambda self: self)
    data = bytearray(good_bundle())
    weights = read_bundle(bytes(data)).sections["weights"]
    data[weights.offset + weights.size // 2] ^= 1
    path, copy = tmp_path / "m.naru", tmp_path / "copy.naru"
    path.write_bytes(data)
    model = naru.load(path)
    x = np.zeros([d if isinstance(d, int) else 2 for d in model.inputs[0].shape], np.float32)
    uses: dict[str, Callable[[], object]] = {
        "entry": lambda: model.profile(x),
        "save": lambda: model.save(copy),
        "pickle": lambda: pickle.dumps(model),
    }
    for _ in range(2):
        with pytest.raises(BundleError, match="'weights' does not match its digest") as caught:
            uses.get(use, lambda: model(x))()
        assert str(path) in str(caught.value)
    assert not copy.exists()
    assert naru.load(path, verify=False)(x) is not None


def test_a_flipped_byte_anywhere_is_noticed() -> None:
    """Every byte of the header, and a sample of the rest: a prime step reaches all sections."""
    data = good_bundle()
    for at in [*range(64), *range(64, len(data), max(1, len(data) // 1009) | 1)]:
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(BundleError):
            naru.load(bytes(damaged))


def test_a_manifest_is_as_trusted_as_the_code() -> None:
    """Checksums find damage, not malice. Whoever can write a manifest with valid checksums can
    write machine code as well, so these edits are refused where the reader can know, and otherwise
    a matter of trust: an entry's offset inside the code is jumped to, as `load` says."""
    for edit in (
        lambda m: m["entries"][0].update(run=1 << 40),
        lambda m: m["entries"][0].update(plan=-1),
        lambda m: m["entries"][0]["inputs"][0].update(shape=["q", 3]),
        lambda m: m["symbols"][0].update(hi=1 << 63),
    ):
        with pytest.raises(BundleError):
            naru.load(patched(edit))
    assert "trust" in (naru.load.__doc__ or "")
