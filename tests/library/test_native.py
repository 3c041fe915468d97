"""The library of a model: what it gives, what it needs, what it says when something is wrong."""

from __future__ import annotations

import ctypes as c
import json
import mmap
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from library import binding
from library.binding import Library, LibraryError, Options
from runtime.test_endless import counting
from zoo import CASES
from zoo.build import text, weight

import naru
from naru.artifact.bundle import pack_bundle, read_bundle
from naru.building import ALL_EMITS, build, choose_levels
from naru.cli.build import EMITS
from naru.compiler import compile_bundle
from naru.errors import BundleError, InputError, NaruError, TargetError, UnsupportedError
from naru.library.header import quote
from naru.library.inspect import read_provenance
from naru.library.signature import identifier
from naru.library.toolchain import find_platform, host_platform
from naru.library.write import Request, write_native
from naru.processing import Scores

DEMO = Path(naru.__file__).parent / "demo"
CNN, MLP = DEMO / "digits_cnn.onnx", DEMO / "digits_mlp.onnx"
STRICT_C = ("-O1", "-Wall", "-Wextra", "-Werror", "-pedantic")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of libraries that tests only read, by the name of the model."""

    @cache
    def made(name: str) -> Path:
        path = tmp_path_factory.mktemp(name)
        source = {"cnn": CNN, "mlp": MLP}.get(name)
        build(source or CASES[name].model(), path, name=name)
        return path

    return made


def static_mlp() -> onnx.ModelProto:
    """No symbols, so every size is in the header."""
    return text(
        "(float[1,64] image) => (float[1,10] scores) { h = MatMul(image, w) scores = Relu(h) }",
        {"w": weight(64, 10)},
    )


def run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


# ---- what it gives ----


@pytest.mark.parametrize("batch", [1, 5])
def test_library_equals_the_bundle(folder: Callable[[str], Path], batch: int) -> None:
    image = np.random.default_rng(batch).random((batch, 1, 8, 8), np.float32)
    model = Library(folder("cnn") / "cnn.so").open()
    (got,) = model({"image": image})
    assert np.array_equal(got, naru.compile(CNN)(image))
    assert model.selftest() < 1
    model.close()


NAMED = ("nonzero_model", "two_outputs_of_one_split", "loop_until_small", "cast_chain")


@pytest.mark.parametrize("name", [n for n in NAMED if n in CASES] or ["nonzero_model"])
def test_zoo_in_a_library(folder: Callable[[str], Path], name: str) -> None:
    """Late outputs, loops, several outputs: as the bundle gives them."""
    model = Library(folder(name) / f"{name}.so").open()
    bundle = naru.compile(CASES[name].model())
    for feed in CASES[name].feeds():
        want = bundle(feed)
        want = want if isinstance(want, tuple) else (want,)
        for got, expected in zip(model(feed), want, strict=True):
            assert np.array_equal(got, expected, equal_nan=got.dtype.kind == "f")
    model.close()


def test_levels(tmp_path: Path) -> None:
    """The best that the CPU has, or the one asked for; an unknown one is refused."""
    levels = ["x86-64-avx2", "x86-64-baseline"]
    build(MLP, tmp_path, platform="x86_64-linux", isa=["baseline", "avx2"])
    library = Library(tmp_path / "digits_mlp.so")
    assert [library.table.level[k].name.decode() for k in range(library.table.levels)] == levels
    image = np.random.default_rng(0).random((3, 64), np.float32)
    base = library.open(Options(level=b"x86-64-baseline"))
    (got,) = base({"image": image})
    assert base.level == "x86-64-baseline"
    assert np.array_equal(got, naru.compile(MLP, target="baseline")(image)[0:])
    best = library.open()
    assert best.level == naru.compile(MLP, target="avx2").manifest["target"]["name"]
    with pytest.raises(LibraryError, match="no level 'avx9'; expected one of x86-64-avx2") as e:
        library.open(Options(level=b"avx9"))
    assert e.value.status == binding.BAD_ARGUMENT
    best.close()
    base.close()


def test_wrong_cpu(tmp_path: Path) -> None:
    """Levels that this CPU lacks are passed over; where it lacks all, opening says so."""
    bundle = compile_bundle(MLP)
    sections = {n: bundle.section(n) for n in bundle.sections}
    target = bundle.manifest["target"]
    other = {**target, "name": "x86-64-amx", "features": [*target["features"], "of-another-cpu"]}
    unknown = ({**bundle.manifest, "target": other}, sections)
    write_native([unknown], tmp_path / "one", Request("mlp", host_platform()))
    with pytest.raises(LibraryError, match="none of the levels of this library: x86-64-amx") as e:
        Library(tmp_path / "one" / "mlp.so").open()
    assert e.value.status == binding.BAD_CPU
    both = [(bundle.manifest, sections), unknown]
    write_native(both, tmp_path / "two", Request("mlp", host_platform()))
    library = Library(tmp_path / "two" / "mlp.so")
    model = library.open()
    assert model.level == target["name"]
    model.close()
    with pytest.raises(
        LibraryError, match="lacks of-another-cpu, which the level x86-64-amx needs"
    ):
        library.open(Options(level=b"x86-64-amx"))


def test_contexts_in_the_callers_memory(folder: Callable[[str], Path]) -> None:
    model = Library(folder("cnn") / "cnn.so").open()
    needed = model.memory([2])
    block = c.create_string_buffer(needed + 1)
    start = c.addressof(block) + 1  # anywhere
    context = model.context([2], start, needed)
    image = np.random.default_rng(0).random((2, 1, 8, 8), np.float32)
    assert np.array_equal(context.run({"image": image})[0], naru.compile(CNN)(image))
    context.resize([1])
    with pytest.raises(LibraryError, match="bytes more than the context was given") as e:
        context.resize([9])
    assert e.value.status == binding.NO_MEMORY
    with pytest.raises(LibraryError, match="no sizes yet"):
        context.run({"image": image})
    context.free()
    with pytest.raises(LibraryError, match=r"memory\(\) says"):
        model.context([2], start, 64)
    model.close()


def test_the_header_knows_the_memory(tmp_path: Path) -> None:
    """A program in C99 with a static arena, typed call, no allocation of its own."""
    build(static_mlp(), tmp_path, name="tiny", embed=True)
    (tmp_path / "main.c").write_text(
        """
        #include <stdio.h>
        #include "tiny.h"
        static unsigned char memory[TINY_MEMORY];
        static float image[TINY_INPUT_IMAGE_ELEMENTS], scores[TINY_OUTPUT_SCORES_ELEMENTS];
        int main(void)
        {
            naru_model *model;
            naru_context *context;
            size_t needed;
            for (int k = 0; k < 64; k++)
                image[k] = (float)k / 64;
            if (tiny_open(NULL, &model) || tiny_memory(model, NULL, &needed)
                || needed > TINY_MEMORY
                || tiny_new_context(model, NULL, memory, sizeof memory, &context)
                || tiny_predict(context, image, scores) || tiny_selftest(model, NULL, NULL))
                return fprintf(stderr, "%s\\n", tiny_error()), 1;
            for (int k = 0; k < 10; k++)
                printf("%.9g\\n", scores[k]);
            return tiny_free_context(context) || tiny_close(model);
        }
        """
    )
    run("cc", "-std=c99", *STRICT_C, "main.c", "./tiny.so", "-Wl,-rpath,.", "-o", "main",
        cwd=tmp_path)  # fmt: skip
    printed = run("./main", cwd=tmp_path)
    image = (np.arange(64, dtype=np.float32) / 64).reshape(1, 64)
    want = naru.compile(static_mlp())(image)
    assert np.array_equal(np.array(printed.split(), np.float32), want[0])


def test_examples(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """The programs that come with a library, with all warnings on, in C and C++."""
    for name in ("cnn", "nonzero_model"):
        shutil.copytree(folder(name), tmp_path, dirs_exist_ok=True)
        link = (f"./{name}.so", "-Wl,-rpath,.", "-o")
        run("cc", "-std=c11", "-D_GNU_SOURCE", *STRICT_C, "example.c", *link, "a", cwd=tmp_path)
        assert f"{name} on x86-64" in run("./a", cwd=tmp_path)
        run("c++", "-std=c++11", *STRICT_C, "example.cpp", *link, "b", cwd=tmp_path)
        assert f"{name} on x86-64" in run("./b", cwd=tmp_path)


def test_two_models_in_one_program(tmp_path: Path) -> None:
    """Static libraries share no symbol."""
    build(MLP, tmp_path / "a", name="first", emit="static", embed=True)
    build(static_mlp(), tmp_path / "b", name="second", emit="obj", embed=True)
    (tmp_path / "main.c").write_text(
        """
        #include "a/first.h"
        #include "b/second.h"
        int main(void)
        {
            naru_model *a, *b;
            naru_context *context;
            if (first_open(NULL, &a) || second_open(NULL, &b) || first_selftest(a, NULL, NULL)
                || second_selftest(b, NULL, NULL))
                return 1;
            if (first_new_context(b, NULL, NULL, 0, &context) != NARU_BAD_ARGUMENT)
                return 2; /* the other library's model */
            return first_close(a) || second_close(b);
        }
        """
    )
    run("cc", *STRICT_C, "main.c", "a/first.a", "b/second.o", "-lm", "-ldl", "-pthread", "-o",
        "main", cwd=tmp_path)  # fmt: skip
    run("./main", cwd=tmp_path)


def test_a_c_file_for_a_compiler_of_ones_own(tmp_path: Path) -> None:
    build(MLP, tmp_path, name="own", emit="c", embed=True)
    assert (tmp_path / "own.c").is_file()
    run("cc", "-std=gnu11", "-O1", "-pthread", "-fPIC", "-shared", "-DNARU_SHARED", "own.c", "-o",
        "x.so", "-lm", cwd=tmp_path)  # fmt: skip
    model = Library(tmp_path / "x.so").open()
    assert model.selftest() < 1
    model.close()


def test_another_machines_code(tmp_path: Path) -> None:
    """The C file says what it is for; nothing else would, since its code is only included."""
    build(MLP, tmp_path, name="own", emit="c", platform="aarch64-linux", isa="neon")
    refused = subprocess.run(
        ["cc", "-std=gnu11", "-fsyntax-only", "own.c"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert refused.returncode
    assert "this library has code for aarch64; compile it for that machine" in refused.stderr


def load_and_leave(file: str, folder: Path, then: str = "") -> None:
    """A program loads ./FILE, goes to another folder, and opens and tests the model; `then`: more
    lines of it."""
    program = f"""
import ctypes as c, os, pathlib
library, model = c.CDLL("./{file}"), c.c_void_p()
os.chdir("/")
library.mlp_error.restype = c.c_char_p
assert library.mlp_open(None, c.byref(model)) == 0, library.mlp_error()
assert library.mlp_selftest(model, None, None) == 0, library.mlp_error()
{then}"""
    run(sys.executable, "-c", program, cwd=folder)


def test_weights_beside_it_from_another_folder(folder: Callable[[str], Path]) -> None:
    """What was loaded by a relative path knows its place after the program goes elsewhere."""
    load_and_leave("mlp.so", folder("mlp"))


def test_weights_beside_what_a_link_leads_to(folder: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "libmlp.so.1").symlink_to(folder("mlp") / "mlp.so")
    # Beside the link first: a system may link each file into one folder.
    then = f"""
place = pathlib.Path("{tmp_path}/mlp.weights")
place.write_bytes(b"others")
assert library.mlp_open(None, c.byref(model)) == {binding.BAD_WEIGHTS}
assert bytes(place) in library.mlp_error()
"""
    load_and_leave("libmlp.so.1", tmp_path, then)


def test_labels(tmp_path: Path) -> None:
    """How many there are, and along which axis; numbers of classes have none."""
    proto = text("""(float[2,3,4] x) => (float[2,3,4] y, float[2,4] z)
        { y = Relu(x) z = ReduceMax<axes=[1], keepdims=0>(x) }""")
    scores = [
        Scores("y", function="softmax", axis=1, labels=("a", "b", "c")),
        Scores("z", top=2, labels=("k", "l", "m", "n")),
    ]
    build(proto, tmp_path / "axes", name="axes", postprocess=scores)
    argmax = Scores("y", function="argmax", axis=1, labels=("a", "b", "c"))
    build(proto, tmp_path / "argmax", name="argmax", postprocess=argmax)

    def labels(path: Path) -> dict[str, tuple[list[str], int]]:
        return {
            t.name.decode(): ([t.labels[k].decode() for k in range(t.label_count)], t.label_axis)
            for t in Library(path).outputs
        }

    four = ["k", "l", "m", "n"]
    assert labels(tmp_path / "axes" / "axes.so") == {
        "y": (["a", "b", "c"], 1),
        "z": (four, 1),
        "z_top_scores": ([], -1),
        "z_top_classes": (four, -1),
    }
    found = labels(tmp_path / "argmax" / "argmax.so")
    assert found == {"y": (["a", "b", "c"], -1), "z": ([], -1)}


def test_classes_of_cpp_check_counts(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Vectors of another length and outputs that are not there: exceptions, nothing is read."""
    shutil.copytree(folder("cnn"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "main.cpp").write_text(
        """
        #include "cnn.h"
        template <class F> static int refused(F call)
        {
            try {
                call();
            } catch (const std::invalid_argument &) {
                return 1;
            }
            return 0;
        }
        int main()
        {
            naru::cnn::Model model;
            naru::cnn::Context context(model), other(naru::cnn::Model(), {3});
            other = naru::cnn::Context(naru::cnn::Model(), {2}); // and the first model is closed
            naru::cnn::Context moved(std::move(other));
            context.resize({2});
            return !(refused([&] { naru::cnn::Context(model, {1, 1}); })
                     && refused([&] { context.resize({}); })
                     && refused([&] { context.resize({1, 1}); })
                     && refused([&] { context.shape(99); }) && refused([&] { context.shape(-1); })
                     && context.shape(0)[0] == 2 && moved.shape(0)[0] == 2);
        }
        """
    )
    run("c++", "-std=c++11", *STRICT_C, "main.cpp", "./cnn.so", "-Wl,-rpath,.", "-o", "main",
        cwd=tmp_path)  # fmt: skip
    run("./main", cwd=tmp_path)


# ---- what it needs ----

LIBC = ("libc.so", "libm.so", "libpthread.so", "libdl.so", "ld-linux", "linux-vdso", "linux-gate")


def test_needs_the_c_library_only(folder: Callable[[str], Path]) -> None:
    path = folder("cnn") / "cnn.so"
    for line in run("ldd", path).splitlines():
        assert any(name in line for name in LIBC), line
    defined = run("nm", "-D", "--defined-only", path).split()[2::3]
    assert all(n.startswith("cnn_") or n == "naru_library" for n in defined), defined
    undefined = [line.split()[-1] for line in run("nm", "-D", "-u", path).splitlines()]
    allowed = ("_ITM_", "__gmon_start__", "__cxa_finalize", "__tls_get_addr")
    wrong = [n for n in undefined if "@GLIBC" not in n and not n.startswith(allowed)]
    assert not wrong


def test_mappings_and_descriptors(folder: Callable[[str], Path]) -> None:
    """At most three mappings a model, and no file stays open."""
    path = folder("mlp")

    def look() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text()
        lines = [x for x in maps.splitlines() if str(path) in x]
        return len(lines), len(list(Path("/proc/self/fd").iterdir()))

    descriptors = look()[1]
    model = Library(path / "mlp.so").open()
    mappings, now = look()
    assert mappings <= 3, Path("/proc/self/maps").read_text()
    assert now <= descriptors
    model.close()
    assert look()[0] == mappings - 1  # the weights


def test_threads_of_its_own_and_of_the_caller() -> None:
    """Equal bits on any number of threads, in the library's pool and in the caller's."""
    model_proto = text(
        "(float[512,512] x) => (float[512,512] y) { h = MatMul(x, w) y = Softmax(h) }",
        {"w": weight(512, 512)},
    )
    x = np.random.default_rng(0).random((512, 512), np.float32)

    def parallel(_pool: int, task: Callable[..., None], arg: int, threads: int) -> None:
        others = [threading.Thread(target=task, args=(arg, k, threads)) for k in range(1, threads)]
        for t in others:
            t.start()
        task(arg, 0, threads)
        for t in others:
            t.join()
        seen.append(threads)

    import tempfile

    seen: list[int] = []
    with tempfile.TemporaryDirectory() as made:
        build(model_proto, made, name="wide")
        library = Library(Path(made) / "wide.so")
        alone = library.open()
        (want,) = alone({"x": x})
        callback = binding.Parallel(parallel)
        for options in (Options(threads=2), Options(threads=2, parallel=callback)):
            model = library.open(options)
            assert np.array_equal(model({"x": x})[0], want)
            model.close()
        alone.close()
    assert seen == [2]


def test_threads_meet_inside_a_kernel(tmp_path: Path) -> None:
    """A step of a recurrent layer that is long enough to be shared."""
    proto = text(
        "(float[20,1,8] x) => (float[20,1,1,128] y) { y = LSTM <hidden_size=128> (x, w, r) }",
        {"w": weight(1, 512, 8), "r": weight(1, 512, 128)},
    )
    x = np.random.default_rng(0).standard_normal((20, 1, 8)).astype(np.float32)
    build(proto, tmp_path, name="layer")
    library = Library(tmp_path / "layer.so")
    alone, shared = library.open(), library.open(Options(threads=2))
    (want,) = alone({"x": x})
    for _ in range(20):
        assert np.array_equal(shared({"x": x})[0], want)
    shared.close()
    alone.close()


def test_contexts_on_several_threads(folder: Callable[[str], Path]) -> None:
    """One model, a context a thread; one context on two threads at once is refused, not run."""
    model = Library(folder("cnn") / "cnn.so").open()
    images = np.random.default_rng(0).random((8, 1, 8, 8), np.float32)
    want = naru.compile(CNN)(images)
    wrong: list[int] = []

    def work(k: int) -> None:
        context = model.context([1])
        for _ in range(200):
            (got,) = context.run({"image": images[k : k + 1]})
            if not np.array_equal(got[0], want[k]):
                wrong.append(k)
        context.free()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    context = model.context([1])
    with pytest.raises(LibraryError, match="1 contexts of the model are still open") as e:
        model.close()
    assert e.value.status == binding.BUSY
    context.free()
    model.close()


# ---- what it says ----


def copy_of(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, dirs_exist_ok=True)
    return target


def test_bad_weights(folder: Callable[[str], Path], tmp_path: Path) -> None:
    here = copy_of(folder("mlp"), tmp_path)
    library = Library(here / "mlp.so")
    weights = here / "mlp.weights"
    good = weights.read_bytes()

    def refused(text: str, options: Options | None = None) -> None:
        with pytest.raises(LibraryError, match=text) as e:
            library.open(options)
        assert e.value.status == binding.BAD_WEIGHTS

    weights.unlink()
    refused(r"mlp\.weights: cannot be read: No such file")
    for size in (0, 10, 63):
        weights.write_bytes(good[:size])
        refused("too short, or not a file")
    weights.write_bytes(good[:-1])
    refused(f"has {len(good) - 1} bytes, expected {len(good)}: cut short")
    weights.write_bytes(good[:200] + bytes([good[200] ^ 1]) + good[201:])
    refused("damaged: it does not match its digest")
    library.open(Options(flags=binding.UNCHECKED)).close()
    weights.write_bytes(bytes(64) + good[64:])
    refused("not a file of weights")
    weights.write_bytes((folder("cnn") / "cnn.weights").read_bytes())
    refused("the weights of another model or version")
    refused("cannot be read", Options(weights=b"/nowhere/at/all"))
    refused("not a file", Options(weights=str(here).encode()))
    weights.write_bytes(good)
    library.open().close()


def test_weights_in_memory(folder: Callable[[str], Path]) -> None:
    library = Library(folder("mlp") / "mlp.so")
    good = (folder("mlp") / "mlp.weights").read_bytes()
    block = c.create_string_buffer(len(good) + 64)
    start = (c.addressof(block) + 63) // 64 * 64
    c.memmove(start, good, len(good))
    for flags in (0, binding.LARGE_PAGES):
        model = library.open(Options(flags=flags, weights_data=start, weights_size=len(good)))
        assert model.selftest(str(folder("mlp") / "mlp.golden")) < 1
        model.close()
    with pytest.raises(LibraryError, match="at a multiple of 64"):
        library.open(Options(weights_data=start + 4, weights_size=len(good)))
    with pytest.raises(LibraryError, match="cut short"):
        library.open(Options(weights_data=start, weights_size=len(good) - 8))
    c.memset(start + 100, 255, 1)
    with pytest.raises(LibraryError, match="damaged"):
        library.open(Options(weights_data=start, weights_size=len(good)))


def test_bad_options(folder: Callable[[str], Path]) -> None:
    library = Library(folder("mlp") / "mlp.so")
    wrong_size = Options()
    wrong_size.size = 8
    release = binding.Release(lambda *_: None)
    parallel = binding.Parallel(lambda *_: None)
    for options, words in (
        (wrong_size, r"options\.size: expected \d+, got 8"),
        (Options(flags=64), "unknown bits in 0x40"),
        (Options(threads=-2), r"options\.threads"),
        (Options(threads=-1, parallel=parallel), "how many threads does the pool have"),
        (Options(release=release), r"no options\.allocate"),
        (Options(weights_size=5), "weights_data is NULL"),
        (Options(loop_limit=-1), r"options\.loop_limit: expected 0 \(none\) or more, got -1"),
    ):
        with pytest.raises(LibraryError, match=words) as e:
            library.open(options)
        assert e.value.status == binding.BAD_ARGUMENT


def test_options_of_another_version(folder: Callable[[str], Path]) -> None:
    """No more is read of them than their size, up to the last byte of a page."""
    library = Library(folder("mlp") / "mlp.so")
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * page)
    start = c.addressof(c.c_char.from_buffer(memory))
    libc = c.CDLL(None, use_errno=True)
    assert libc.mprotect(c.c_void_p(start + page), c.c_size_t(page), 0) == 0
    options = c.cast(start + page - 8, c.POINTER(Options))
    c.memmove(start + page - 8, (8).to_bytes(8, "little"), 8)
    assert library.table.open(options, c.byref(c.c_void_p())) == binding.BAD_ARGUMENT
    assert b"options.size: expected" in library.table.error()


def test_bad_calls(folder: Callable[[str], Path]) -> None:
    """NULL, misaligned, overlapping pointers, wrong sizes: a status and a text, never a crash."""
    library = Library(folder("mlp") / "mlp.so")
    table, model = library.table, library.open()
    pointer = c.c_void_p()
    for call in (
        lambda: table.open(None, None),
        lambda: table.memory(None, None, c.byref(c.c_size_t())),
        lambda: table.memory(model.pointer, None, c.byref(c.c_size_t())),
        lambda: table.new_context(None, None, None, 0, c.byref(pointer)),
        lambda: table.new_context(model.pointer, None, None, 0, None),
        lambda: table.resize(None, None),
        lambda: table.run(None, None, None),
        lambda: table.shape(None, 0, None),
        lambda: table.selftest(None, None, None),
    ):
        assert call() == binding.BAD_ARGUMENT
        assert table.error()
    assert table.close(None) == binding.OK
    assert table.free_context(None) == binding.OK
    with pytest.raises(LibraryError, match=r"batch: got a size of -1, expected \d+ to") as e:
        model.context([-1])
    assert e.value.status == binding.BAD_SIZES
    check_buffers(library, model)
    model.close()


def check_buffers(library: Library, model: binding.Model) -> None:
    context = model.context([2])
    image, out = np.zeros((2, 64), np.float32), np.zeros((2, 10), np.float32)

    def attempt(data: int | None, size: int, result: int | None, room: int) -> str:
        inputs = (binding.Buffer * 1)(binding.Buffer(data, size))
        outputs = (binding.Buffer * 1)(binding.Buffer(result, room))
        status = library.table.run(context.pointer, inputs, outputs)
        assert status == binding.BAD_ARGUMENT
        return library.table.error().decode()

    at, to = image.ctypes.data, out.ctypes.data
    assert "'image' has 511 bytes, expected 512" in attempt(at, 511, to, 80)
    assert "data of the input 'image' are NULL" in attempt(None, 512, to, 80)
    assert "not at a multiple of 4 bytes" in attempt(at + 1, 512, to, 80)
    assert "'logits' has 84 bytes, expected 80" in attempt(at, 512, to, 84)
    assert "data of the output 'logits' are NULL" in attempt(at, 512, None, 80)
    assert "overlaps that of 'image'" in attempt(at, 512, at + 16, 80)
    assert library.table.run(context.pointer, None, None) == binding.BAD_ARGUMENT
    assert library.table.shape(context.pointer, 7, (c.c_int64 * 2)()) == binding.BAD_ARGUMENT
    context.free()


def test_bad_values(tmp_path: Path) -> None:
    """What only data tell: the text is that of the bundle, and the context can go on."""
    reshape = text(
        "(float[n] x, int64[2] shape) => (float[a,b] y) { y = Reshape(x, shape) }",
    )
    build(reshape, tmp_path, name="reshape")
    model = Library(tmp_path / "reshape.so").open()
    x = np.arange(6, dtype=np.float32)
    bad = {"x": x, "shape": np.array([4, 2])}
    with pytest.raises(naru.NaruError) as expected:
        naru.compile(reshape)(**bad)
    context = model.context([6])
    with pytest.raises(LibraryError) as e:
        context.run(bad)
    assert e.value.status == binding.BAD_VALUES
    assert str(e.value) in str(expected.value)
    (again,) = context.run({"x": x, "shape": np.array([3, 2])})
    assert np.array_equal(again, x.reshape(3, 2))
    context.free()
    model.close()


def test_a_loop_that_never_ends(tmp_path: Path) -> None:
    build(counting(), tmp_path, name="loop")
    model = Library(tmp_path / "loop.so").open(Options(loop_limit=1000))
    context = model.context()
    feed = {"x": np.zeros(1, np.float32), "limit": np.array(np.inf, np.float32)}
    words = r"step '.*: it goes on after 1000 rounds, the most that are allowed"
    with pytest.raises(LibraryError, match=words) as e:
        context.run(feed)
    assert e.value.status == binding.BAD_VALUES
    (y,) = context.run({**feed, "limit": np.array(1000, np.float32)})
    assert y == 1000
    context.free()
    model.close()


def run_with(
    library: Library,
    feed: Mapping[str, np.ndarray],
    allocate: Callable[[int, int, int], int | None],
    release: Callable[[int, int, int], None],
) -> LibraryError | None:
    """Opens, runs and tests a model on a caller's memory: the refusal of memory, if there was one.
    Any other failure is raised."""
    options = Options(
        allocate=binding.Allocate(allocate),
        release=binding.Release(release),
        flags=binding.LARGE_PAGES,
    )
    try:
        model = library.open(options)
        try:
            model(feed)
            model.selftest()
        finally:
            model.close()
    except LibraryError as e:
        if e.status != binding.NO_MEMORY:
            raise
        return e
    return None


def test_memory_that_is_not_aligned(folder: Callable[[str], Path]) -> None:
    """The n-th block is at no multiple of 64: it is given back, and nothing is written to it."""
    library = Library(folder("nonzero_model") / "nonzero_model.so")
    feed = next(iter(CASES["nonzero_model"].feeds()))
    for wrong_at in range(40):
        count, alive = 0, dict[int, c.Array[c.c_char]]()

        def allocate(_: int, size: int, alignment: int) -> int:
            nonlocal count
            block = c.create_string_buffer(size + 2 * alignment)
            start = -(-c.addressof(block) // alignment) * alignment
            start += 8 * (count == wrong_at)  # noqa: B023 (called within the round)
            count += 1
            alive[start] = block  # noqa: B023
            return start

        def release(_: int, memory: int, size: int) -> None:
            del alive[memory]  # noqa: B023

        failure = run_with(library, feed, allocate, release)
        failed = failure is not None
        assert not failed or "none at a multiple of 64" in str(failure)
        assert not alive
        if not failed:
            assert wrong_at > 3
            return
    pytest.fail("it asks for memory without end")


def test_every_allocation_may_fail(folder: Callable[[str], Path]) -> None:
    """The n-th request for memory gets none, for every n: a status each time, nothing is lost."""
    library = Library(folder("nonzero_model") / "nonzero_model.so")
    libc = c.CDLL(None)
    libc.aligned_alloc.restype, libc.aligned_alloc.argtypes = c.c_void_p, (c.c_size_t, c.c_size_t)
    libc.free.argtypes = (c.c_void_p,)
    feed = next(iter(CASES["nonzero_model"].feeds()))
    for fails_at in range(40):
        count, alive = 0, set[int]()

        def allocate(_: int, size: int, alignment: int) -> int | None:
            nonlocal count
            count += 1
            if count == fails_at + 1:  # noqa: B023 (called within the round)
                return None
            memory = libc.aligned_alloc(alignment, size)
            alive.add(memory)  # noqa: B023
            return memory

        def release(_: int, memory: int, size: int) -> None:
            alive.remove(memory)  # noqa: B023
            libc.free(memory)

        failed = run_with(library, feed, allocate, release) is not None
        assert not alive
        if not failed:
            assert fails_at > 3
            return
    pytest.fail("it asks for memory without end")


# ---- building ----


def test_reproducible(tmp_path: Path) -> None:
    """Equal input gives equal bytes, wherever it is built."""
    a = build(MLP, tmp_path / "one", cache=False)
    b = build(MLP, tmp_path / "another" / "place", cache=False)
    assert [p.name for p in a.files] == [p.name for p in b.files]
    for one, other in zip(a.files, b.files, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_inspect(folder: Callable[[str], Path], tmp_path: Path) -> None:
    record = read_provenance(folder("cnn") / "cnn.so")
    assert record == read_provenance(folder("cnn") / "cnn.json")
    assert record["inputs"][0]["name"] == "image"
    assert record["sbom"]["bomFormat"] == "CycloneDX"
    bundle = tmp_path / "m.naru"
    naru.compile(CNN).save(bundle)
    same = read_provenance(bundle)
    assert same["weights"] == record["weights"]
    assert same["levels"] == record["levels"]
    for content, words in ((b"", "says nothing"), (b"{}", "not a record"), (b"{", "not JSON")):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(InputError, match=words):
            read_provenance(tmp_path / "bad")
    for damaged, words in (
        ({**record, "symbols": 5}, r"\$\.symbols: expected a list"),
        ({**record, "name": "a\ud800b"}, "not JSON"),
    ):
        (tmp_path / "bad").write_text(json.dumps(damaged))
        with pytest.raises(InputError, match=words):
            read_provenance(tmp_path / "bad")
    read = read_bundle(bundle)
    manifest = {k: v for k, v in read.manifest.items() if k != "sections"}
    parts = {n: read.section(n) for n in read.sections}
    for change, words in (({"memory": {}}, "arena"), ({"source": {"files": []}}, "files")):
        (tmp_path / "bad.naru").write_bytes(pack_bundle({**manifest, **change}, parts))
        with pytest.raises(InputError, match=words):
            read_provenance(tmp_path / "bad.naru")
    (tmp_path / "bad.naru").write_bytes(pack_bundle({**manifest, "memory": {}}, parts))
    with pytest.raises(BundleError, match="nothing of its memory"):
        build(tmp_path / "bad.naru", tmp_path / "dist")
    del parts["golden"]
    (tmp_path / "untested.naru").write_bytes(pack_bundle(manifest, parts))
    build(tmp_path / "untested.naru", tmp_path / "dist")
    whole = (folder("cnn") / "cnn.so").read_bytes()
    for size in range(1, 400, 7):
        (tmp_path / "bad").write_bytes(whole[:size])
        with pytest.raises(InputError):
            read_provenance(tmp_path / "bad")


def test_inspect_static(tmp_path: Path) -> None:
    made = build(MLP, tmp_path, emit="static")
    assert read_provenance(made.files[0]) == read_provenance(tmp_path / "digits_mlp.json")
    endless = b"!<arch>\n" + b"x".ljust(48) + b"-60".ljust(12)
    for content in (b"!<arch>\nnothing", endless):
        (tmp_path / "bad.a").write_bytes(content)
        with pytest.raises(InputError, match="damaged library"):
            read_provenance(tmp_path / "bad.a")


def test_compilers_of_other_machines(tmp_path: Path) -> None:
    """What a compiler says of itself is compared; one that writes nothing is told."""
    for platform in ("aarch64-linux", "x86_64-linux-musl"):
        with pytest.raises(TargetError, match=f"is for .*, not for {platform}"):
            build(MLP, tmp_path / "dist", platform=platform, isa=None, compiler="gcc")
    (tmp_path / "mycc").write_text('#!/bin/sh\nexec cc "$@"\n')
    (tmp_path / "mycc").chmod(0o755)
    here = os.path.relpath(tmp_path / "mycc")
    assert build(MLP, tmp_path / "own", compiler=f"./{here}").files
    with pytest.raises(NaruError, match=r"ended well, but wrote no digits_mlp\.so"):
        build(MLP, tmp_path / "dist", compiler="/bin/true")
    assert not (tmp_path / "dist").exists()


def test_texts_that_only_pass_through(tmp_path: Path) -> None:
    through = text("(string[n] s) => (string[n] t) { t = Identity(s) }")
    with pytest.raises(InputError, match="no tensor of numbers"):
        build(through, tmp_path)


def test_from_a_bundle(tmp_path: Path) -> None:
    naru.compile(MLP).save(tmp_path / "m.naru")
    made = build(tmp_path / "m.naru", tmp_path / "dist")
    model = Library(made.files[0]).open()
    assert model.selftest() < 1
    model.close()
    build(tmp_path / "m.naru", tmp_path / "dist", platform="x86_64-linux", precision="fp32")
    with pytest.raises(TargetError, match="has code for x86-64-"):
        build(tmp_path / "m.naru", tmp_path / "dist", platform="aarch64-linux")
    with pytest.raises(InputError, match="compiled with precision fp32, not portable"):
        build(tmp_path / "m.naru", tmp_path / "dist", precision="portable")
    with pytest.raises(TargetError, match=r"has code for .* only"):
        build(tmp_path / "m.naru", tmp_path / "dist", isa="baseline")
    with pytest.raises(InputError, match="takes the ONNX file"):
        build(tmp_path / "m.naru", tmp_path / "dist", labels=["a"], top=1)


OTHERS = (("wasm32-simd128", "wasm"), ("neon", "aarch64-linux"))


@pytest.mark.parametrize(("target", "platform"), OTHERS)
def test_from_a_bundle_of_another_machine(target: str, platform: str, tmp_path: Path) -> None:
    path = tmp_path / "m.naru"
    compile_bundle(MLP, target=target, precision="portable").save(path)
    with pytest.raises(TargetError, match=r"has code for .*, which is not an instruction set of"):
        build(path, tmp_path / "dist")
    assert not (tmp_path / "dist").exists()
    emit = "library" if platform == "wasm" else "c"
    made = build(path, tmp_path / "dist", platform=platform, emit=emit)
    assert made.provenance["options"]["precision"] == "portable"


def test_strict_levels_have_fma(tmp_path: Path) -> None:
    names = [t.name for t in choose_levels("x86_64-linux", None, precision="strict")]
    assert names == ["x86-64-avx512", "x86-64-avx2"]
    assert len(choose_levels("x86_64-linux", None)) == 3
    build(MLP, tmp_path, platform="x86_64-linux", emit="header", precision="strict")
    with pytest.raises(TargetError, match="strict is for targets with fused multiply-add"):
        build(MLP, tmp_path, platform="x86_64-linux", isa="avx2,baseline", precision="strict")
    with pytest.raises(TargetError, match="strict is for targets with fused multiply-add"):
        build(MLP, tmp_path, platform="wasm", precision="strict")


def test_text_of_the_code(tmp_path: Path) -> None:
    made = build(MLP, tmp_path, emit="asm", platform="aarch64-linux")
    assert any("fmla" in p.read_text() for p in made.files)
    made = build(MLP, tmp_path, emit="llvm")
    assert all("define" in p.read_text() for p in made.files)
    assert [p.name for p in build(MLP, tmp_path, emit="header").files] == ["digits_mlp.h"]


def test_the_command_knows_what_build_writes() -> None:
    """It lists them itself, to start without the compiler."""
    assert EMITS == ALL_EMITS


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = text(
        '(string[n] s) => (string[n] t) { t = StringNormalizer<case_change_action="LOWER">(s) }'
    )
    with pytest.raises(UnsupportedError, match="StringNormalizer"):
        build(texts, tmp_path / "dist")
    with pytest.raises(TargetError, match="unknown platform 'aarch64-linus'; did you mean"):
        build(MLP, tmp_path / "dist", platform="aarch64-linus")
    with pytest.raises(TargetError, match="not an instruction set of aarch64-linux"):
        build(MLP, tmp_path / "dist", platform="aarch64-linux", isa="avx2")
    with pytest.raises(InputError, match="is not one of"):
        build(MLP, tmp_path / "dist", emit="exe")
    with pytest.raises(InputError, match="cannot be the name of a file"):
        build(MLP, tmp_path / "dist", name="../up")
    with pytest.raises(TargetError, match="no-such-compiler"):
        build(MLP, tmp_path / "dist", compiler="no-such-compiler")
    for command, words in ((" ", "names no C compiler"), ('gcc "', "No closing quotation")):
        with pytest.raises(TargetError, match=f"compiler: '{command}'.*{words}"):
            build(MLP, tmp_path / "dist", compiler=command)
    with monkeypatch.context() as patch:
        patch.setenv("CC", " ")
        with pytest.raises(TargetError, match="CC: ' ' names no C compiler"):
            build(MLP, tmp_path / "dist")
    senseless: tuple[tuple[dict[str, Any], str], ...] = (
        ({"emit": "asm", "embed": True}, "--embed is for libraries"),
        ({"emit": "header", "compiler": "cc"}, "--emit header takes no C compiler"),
        ({"platform": "wasm", "compiler": "cc"}, "a C compiler is for native libraries"),
    )
    for options, words in senseless:
        with pytest.raises(InputError, match=words):
            build(MLP, tmp_path / "dist", **options)
    with pytest.raises(InputError, match="--half-weights is for WebAssembly"):
        build(MLP, tmp_path / "dist", half_weights=True)
    with pytest.raises(InputError, match=r"example\.c is the file of the example, too") as e:
        build(MLP, tmp_path / "dist", name="example", emit="c")
    assert e.value.hint == "--name NAME"
    with pytest.raises(InputError, match=r"'demo' is taken by the package's own demo\.css"):
        build(MLP, tmp_path / "dist", name="demo", platform="wasm")
    with pytest.raises(NaruError, match=r"false --version|failed"):
        build(MLP, tmp_path / "dist", compiler="false")
    assert not (tmp_path / "dist").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="expected a folder"):
        build(MLP, tmp_path / "file")


def test_names() -> None:
    assert identifier("mobilenet-v2.1") == "mobilenet_v2_1"
    assert identifier("2fast") == "m2fast"
    assert identifier("double") == "mdouble"
    assert identifier("größe") == "grou00dfe"
    assert identifier("한국") == "ud55cuad6d"
    assert identifier("→") == "model"
    assert quote('a"\\?\n') == '"a\\"\\\\\\077\\012"'
    assert find_platform("arm64-linux") == "aarch64-linux"
