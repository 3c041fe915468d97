"""The command line on a tiny bundle (y = 2x + 0.5), and what the commands are made of."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

from naru import cli, compiler, demo, doctor, inputs, knobs, units
from naru.artifact.bundle import (
    Bundle,
    read_bundle,
    write_bundle,
)
from naru.artifact.formulas import arena_bytes, formula
from naru.artifact.golden import (
    GoldenCase,
    pack_golden,
)
from naru.artifact.manifest import Symbol
from naru.cli import group
from naru.errors import InputError, NaruError, NaruWarning
from naru.explain.assembly import disassemble
from naru.runtime.model import TensorInfo
from naru.runtime.session import load
from naru.verify import compare, verify
from tests.runtime import programs
from tests.runtime.programs import entry, link, manifest, symbol, tensor

VALUES = np.arange(3, dtype=np.float32)
WANTED = VALUES * 2 + np.float32(0.5)
KERNELS = [
    {
        "name": "k0_scale",
        "ops": ["mul", "add"],
        "nodes": ["double", "plus"],
        "calls": 2,
        "shape": "N",
        "schedule": "algorithm direct\nvectorise i 16",
        "flops": "N * 2",
        "bytes": "N * 8",
        "why": ["add reads only what mul makes"],
        "size": 96,
    },
    {"name": "k1_never", "ops": ["relu"], "calls": 0, "flops": "M", "bytes": "M"},
]


def write_model(path: Path, **more: Any) -> Path:
    """A bundle with a profile entry, golden vector and kernel records."""
    text = programs.run_function("run", programs.SCALE_DYNAMIC)
    text += programs.run_function("profile", programs.TRACE)
    text += programs.plan_function("plan", ["%s0"])
    code = link([("tiny", programs.compile_ir(text))], ["run", "plan", "profile"])
    x, y = tensor("x", ["N"]), tensor("y", ["N"])
    main = entry(code, [x], [y])
    profile = {**main, "name": "profile", "run": code.offsets["profile"]}
    profile["steps"] = ["k0_scale", "k0_scale"]
    golden = GoldenCase("main", (VALUES,), (WANTED,))
    sections = {
        "code": code.code,
        "weights": np.full(16, 0.5, np.float32).tobytes(),
        "golden": pack_golden([golden]),
    }
    described = manifest([main, profile], [symbol("N", 1, 1000)], kernels=KERNELS, **more)
    write_bundle(path, described, sections)
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path) -> Iterator[None]:
    with knobs.scope(cache_dir=tmp_path / "cache"):
        yield


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_model(tmp_path / "m.naru")


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """The same function as ONNX."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
        main (float[N] x) => (float[N] y) {
            two = Constant<value_float = 2.0>()
            half = Constant<value_float = 0.5>()
            doubled = Mul(x, two)
            y = Add(doubled, half)
        }"""
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return path


@pytest.fixture
def fake_compiler(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """`compiler.compile_bundle` that notes its options and gives the tiny bundle."""
    calls: list[dict[str, Any]] = []

    def fake(source: Path, **options: Any) -> Bundle:
        calls.append({"source": source, **options})
        return read_bundle(bundle)

    module = types.ModuleType("naru.compiler")
    module.compile_bundle = fake  # pyright: ignore[reportAttributeAccessIssue]
    module.choose_target = compiler.choose_target  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "naru.compiler", module)
    monkeypatch.setattr("naru.compiler", module, raising=False)
    return calls


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)."""
    code = cli.main([str(a) for a in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# ---- the command as a whole ----


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == group.OK
    listed = out.partition("Commands:")[2].split("\n\n")[0]
    verbs = [line.split()[0] for line in listed.splitlines() if line.strip()]
    wanted = "check convert compile build run verify bench explain profile serve inspect doctor"
    assert verbs == [*wanted.split(), "demo", "ops"]
    for verb in verbs:
        code, out, _ = run(capsys, verb, "--help")
        assert code == group.OK
        assert f"naru {verb}" in out, "each help has an example"
    assert run(capsys, "--version")[1].startswith("naru ")


@pytest.mark.parametrize(
    "args",
    [
        ("frobnicate",),
        ("run", "no-such-file.naru"),
        ("compile",),
        ("compile", __file__, "--precision", "half"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], args: tuple[str, ...]) -> None:
    code, out, err = run(capsys, *args)
    assert code == group.USAGE
    assert not out
    assert "Error" in err


def test_python_m() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "naru", "run", "no-such-file.naru"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == group.USAGE
    assert "no-such-file" in done.stderr


def test_running_a_bundle_needs_no_compiler(bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", VALUES)
    program = (
        "import sys\n"
        "for name in ('llvmlite', 'onnx', 'naru.codegen', 'naru.frontend', 'rich'):\n"
        "    sys.modules[name] = None\n"
        "from naru.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    args = ["run", str(bundle), "-i", str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npy")]
    subprocess.run([sys.executable, "-c", program, *args], check=True)
    assert np.array_equal(np.load(tmp_path / "y.npy"), WANTED)


def test_interrupting(
    capsys: pytest.CaptureFixture[str], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("naru.runtime.session.load", interrupt)
    code, _, err = run(capsys, "run", bundle)
    assert code == group.INTERRUPTED
    assert "interrupted" in err


def test_warnings_are_one_line(
    capsys: pytest.CaptureFixture[str], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(*_: object) -> None:
        warnings.simplefilter("always")
        warnings.warn("a weight is NaN", NaruWarning, stacklevel=1)
        raise InputError("no more")

    monkeypatch.setattr("naru.runtime.session.load", warn)
    code, _, err = run(capsys, "run", bundle)
    assert code == group.USER_ERROR
    assert err.splitlines() == ["naru: warning: a weight is NaN", "naru: error: no more"]


# ---- run ----


def test_run_by_position_and_name(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", VALUES)
    np.savez(tmp_path / "all.npz", x=VALUES)
    for given in (tmp_path / "x.npy", f"x={tmp_path / 'x.npy'}", tmp_path / "all.npz"):
        code, out, _ = run(capsys, "run", bundle, "--input", given)
        assert code == group.OK
        assert out == "y: float32[3]\n[0.5 2.5 4.5]\n"


def test_run_writes_files(capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", VALUES)
    for name in ("y.npy", "y.npz"):
        code, out, _ = run(capsys, "run", bundle, "-i", tmp_path / "x.npy", "-o", tmp_path / name)
        assert (code, out) == (group.OK, "")
    assert np.array_equal(np.load(tmp_path / "y.npy"), WANTED)
    assert np.array_equal(np.load(tmp_path / "y.npz")["y"], WANTED)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "input 'x' is missing"),
        (("-i", "z={x}"), "there is no input 'z'; the model has x: float32[N]"),
        (("-i", "x={x}", "-i", "x={x}"), "given twice"),
        (("-i", "{x}", "-i", "{x}"), "one array too many"),
        (("-i", "{text}"), "cannot read it as .npy"),
        (("-i", "{missing}"), "cannot read it as .npy"),
        (("-i", "{broken}"), "cannot read it as .npz"),
        (("-i", "{pickled}"), "cannot read it as .npy"),
        (("-i", "{ints}"), "int64"),
        (("-i", "{x}", "-o", "{text}"), "written as .npy or .npz"),
        (("-i", "{x}", "-o", "{nowhere}"), "cannot write it"),
    ],
)
def test_run_refuses(
    capsys: pytest.CaptureFixture[str],
    bundle: Path,
    tmp_path: Path,
    args: tuple[str, ...],
    message: str,
) -> None:
    np.save(tmp_path / "x.npy", VALUES)
    np.save(tmp_path / "ints.npy", np.arange(3))
    np.save(tmp_path / "pickled.npy", np.array([None]), allow_pickle=True)
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "broken.npz").write_text("text")
    places = {
        "x": tmp_path / "x.npy",
        "ints": tmp_path / "ints.npy",
        "pickled": tmp_path / "pickled.npy",
        "text": tmp_path / "a.txt",
        "missing": tmp_path / "missing.npy",
        "broken": tmp_path / "broken.npz",
        "nowhere": tmp_path / "nowhere" / "y.npy",
    }
    code, out, err = run(capsys, "run", bundle, *(a.format(**places) for a in args))
    assert code == group.USER_ERROR
    assert not out
    assert err.startswith("naru: error: ")
    assert message in err
    assert "Traceback" not in err


def test_run_damaged_bundle(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    bundle.write_bytes(bundle.read_bytes()[:100])
    code, _, err = run(capsys, "run", bundle)
    assert code == group.USER_ERROR
    assert err.startswith("naru: error: ")


# ---- compile ----


def test_compile(
    capsys: pytest.CaptureFixture[str], model_file: Path, fake_compiler: list[dict[str, Any]]
) -> None:
    out = model_file.with_name("out.naru")
    args = ("compile", model_file, "-o", out, "--isa", "avx2", "--precision", "strict")
    code, text, _ = run(capsys, *args, "--no-cache")
    assert code == group.OK
    assert "2 kernels" in text
    assert "x: float32[N]" in text
    (call,) = fake_compiler
    assert call["target"].name == "x86-64-avx2"
    assert (call["precision"], call["cache"], call["source"]) == ("strict", False, model_file)
    assert np.array_equal(load(out)(VALUES), WANTED)


def test_compile_by_default_and_json(
    capsys: pytest.CaptureFixture[str], model_file: Path, fake_compiler: list[dict[str, Any]]
) -> None:
    code, text, _ = run(capsys, "compile", model_file, "--json")
    assert code == group.OK
    report = json.loads(text)
    assert report["output"] == str(model_file.with_suffix(".naru"))
    assert report["bytes"] == model_file.with_suffix(".naru").stat().st_size
    assert report["inputs"] == ["x: float32[N]"]
    assert fake_compiler[0]["cache"]


@pytest.mark.usefixtures("fake_compiler")
def test_compile_refuses(capsys: pytest.CaptureFixture[str], model_file: Path) -> None:
    code, _, err = run(capsys, "compile", model_file, "--isa", "avx9")
    assert code == group.USER_ERROR
    assert "unknown target 'avx9'" in err
    code, _, err = run(capsys, "compile", model_file, "-o", model_file)
    assert code == group.USER_ERROR
    assert "would replace the model" in err
    code, _, err = run(capsys, "compile", model_file, "-o", model_file.parent / "no" / "m.naru")
    assert code == group.USER_ERROR
    assert err.startswith("naru: error: ")


# ---- verify ----


@pytest.mark.usefixtures("fake_compiler")
@pytest.mark.parametrize("against", ["onnxruntime", "reference"])
def test_verify(capsys: pytest.CaptureFixture[str], model_file: Path, against: str) -> None:
    args = ("verify", model_file, "--against", against, "--dims", "N=7")
    code, out, err = run(capsys, *args)
    assert code == group.OK, err
    assert "float32[7]" in out
    assert "equal within the limit" in out
    code, out, _ = run(capsys, *args, "--json")
    report = json.loads(out)
    assert report["passed"]
    assert report["outputs"][0]["shape"] == [7]


@pytest.mark.usefixtures("fake_compiler")
def test_verify_finds_a_difference(capsys: pytest.CaptureFixture[str], model_file: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        main (float[N] x) => (float[N] y) { y = Mul(x, x) }"""
    onnx.save(onnx.parser.parse_model(text), model_file)
    code, out, _ = run(capsys, "verify", model_file)
    assert code == group.MISMATCH
    assert "DIFFERENT" in out
    assert run(capsys, "verify", model_file, "--tolerance", "1e9")[0] == group.OK


@pytest.mark.usefixtures("fake_compiler")
def test_verify_samples(
    capsys: pytest.CaptureFixture[str], model_file: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", x=VALUES)
    np.savez(tmp_path / "b.npz", x=np.array([np.nan, np.inf, 1], np.float32))
    args = ("--samples", tmp_path / "a.npz", "--samples", tmp_path / "b.npz")
    code, out, _ = run(capsys, "verify", model_file, *args)
    assert code == group.OK
    assert "y (sample 1)" in out


@pytest.mark.usefixtures("fake_compiler")
@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--dims", "N"), group.USAGE, "expected NAME=N"),
        (("--dims", "N=-1"), group.USAGE, "expected NAME=N"),
        (("--dims", "M=2"), group.USER_ERROR, "there is no dim 'M'"),
        (("--dims", "N=1001"), group.USER_ERROR, "dim 'N' is from 1 to 1000, got 1001"),
        (("--against", "torch"), group.USAGE, "onnxruntime"),
        (("--tolerance", "nan"), group.USAGE, "nan is not in the range"),
    ],
)
def test_verify_refuses(
    capsys: pytest.CaptureFixture[str],
    model_file: Path,
    args: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    got, _, err = run(capsys, "verify", model_file, *args)
    assert got == code
    assert message in err


def test_verify_without_onnxruntime(
    bundle: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(NaruError, match=r"cannot be imported[\s\S]*--against reference"):
        verify(load(bundle), model_file, [{"x": VALUES}])


def test_verify_says_what_onnxruntime_said(bundle: Path, model_file: Path) -> None:
    model_file.write_bytes(b"nonsense")
    with pytest.raises(NaruError, match="ONNX Runtime refuses the model"):
        verify(load(bundle), model_file, [{"x": VALUES}])


def test_compare() -> None:
    want = np.array([3.0, -4.0], np.float32)
    d = compare(0, "y", want + np.float32(0.5), want, 1e-3)
    assert (d.max_abs, d.rms, d.passed) == (0.5, 0.5, False)
    assert d.max_rel == pytest.approx(0.5 / 3)
    assert d.rms_rel == pytest.approx(0.5 / np.sqrt(12.5))
    assert d.limit == pytest.approx(1e-3 * np.sqrt(12.5))
    assert compare(0, "y", want, want, 0.0).passed


def test_compare_special_values() -> None:
    special = np.array([np.nan, np.inf, -np.inf, 1.0], np.float32)
    assert compare(0, "y", special, special, 0.0).passed
    flipped = np.array([np.nan, -np.inf, -np.inf, 1.0], np.float32)
    d = compare(0, "y", flipped, special, 1.0)
    assert not d.passed
    assert d.problem == "1 elements are NaN or infinite on one side only"
    assert json.dumps(d.as_json(), allow_nan=False)
    assert not compare(0, "y", special, np.ones(4, np.float32), 1.0).passed


def test_compare_integers_and_shapes() -> None:
    want = np.array([1, 2])
    assert compare(0, "y", want, want, 0.0).passed
    assert not compare(0, "y", want + 1, want, 1e9).passed
    d = compare(0, "y", want, np.array([[1, 2]]), 1.0)
    assert d.problem == "the shape is [2], expected [1, 2]"
    empty = np.zeros((0, 3), np.float32)
    assert compare(0, "y", empty, empty, 0.0).passed


def test_random_inputs() -> None:
    specs = [
        TensorInfo("a", "float32", ("N", 3)),
        TensorInfo("b", "bfloat16", ("M",)),
        TensorInfo("c", "int64", (100,)),
        TensorInfo("d", "uint8", (1000,)),
        TensorInfo("e", "bool", ()),
    ]
    symbols = [
        Symbol("N", 0, 10, "input"),
        Symbol("M", 0, 10, "input"),
        Symbol("K", 0, 9, "kernel"),
    ]
    made = inputs.random_inputs(specs, symbols, {"N": 5})
    assert [a.shape for a in made.values()] == [(5, 3), (3,), (100,), (1000,), ()]
    assert made["b"].dtype == ml_dtypes.bfloat16
    assert set(made["c"]) == {0, 1}
    assert made["d"].max() == 255
    again = inputs.random_inputs(specs, symbols, {"N": 5})
    assert all(np.array_equal(made[k], again[k]) for k in made)


def test_bfloat16_survives_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([1.5, 2], ml_dtypes.bfloat16))
    specs = [TensorInfo("x", "bfloat16", (2,))]
    found = inputs.read_inputs(specs, [str(tmp_path / "x.npy")])["x"]
    assert found.dtype == ml_dtypes.bfloat16
    assert found.tolist() == [1.5, 2.0]


def test_outputs_of_any_name(tmp_path: Path) -> None:
    inputs.write_outputs(tmp_path / "y.npz", {"file": VALUES, "a/b:0": WANTED})
    found = inputs.read_npz(tmp_path / "y.npz")
    assert np.array_equal(found["file"], VALUES)
    assert np.array_equal(found["a/b:0"], WANTED)
    with pytest.raises(InputError, match="2 outputs"):
        inputs.write_outputs(tmp_path / "y.npy", {"a": VALUES, "b": VALUES})


# ---- explain ----


def test_explain(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    code, out, _ = run(capsys, "explain", bundle)
    assert code == group.OK
    for part in ("k0_scale", "mul+add", "of the roof", "where the time goes", "N = 3"):
        assert part in out
    assert max(map(len, out.splitlines())) <= 100
    code, out, _ = run(capsys, "explain", bundle, "--details")
    for part in ("add reads only what mul makes", "vectorise i 16", "node      double"):
        assert part in out
    code, out, _ = run(capsys, "explain", bundle, "--kernel", "k1_never")
    assert "k1_never" in out
    assert "k0_scale" not in out
    code, _, err = run(capsys, "explain", bundle, "--kernel", "k2")
    assert code == group.USER_ERROR
    assert "the bundle has: k0_scale, k1_never" in err


def test_explain_json(capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(5, np.float32))
    code, out, _ = run(capsys, "explain", bundle, "--json", "-i", tmp_path / "x.npy")
    assert code == group.OK
    report = json.loads(out)
    assert report["sizes"] == {"N": 5}
    measured = report["kernels"][0]["measured"]
    assert (measured["calls"], measured["flops"], measured["bytes"]) == (2, 20, 80)
    assert measured["ns"] >= 0
    assert report["kernels"][1]["measured"] is None
    assert len(report["steps"]) == 2


def test_explain_at_other_sizes(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    code, out, _ = run(capsys, "explain", bundle, "--dims", "N=9")
    assert code == group.OK
    assert "N = 9" in out
    assert "arena of this run: 0 B, N = 9" in out


def test_arena_bytes() -> None:
    memory = {"arena": "total", "where": {"total": "b + 64", "b": "max(a, 8)", "a": "N * 4"}}
    assert arena_bytes(memory, {"N": 10}) == 104
    assert arena_bytes({"arena": "128"}, {}) == 128
    assert arena_bytes(memory, {}) is None
    assert arena_bytes({}, {}) is None


def test_explain_for_another_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = {"name": "far", "triple": programs.TRIPLE, "features": ["no-such-feature"]}
    path = write_model(tmp_path / "far.naru", target=other)
    code, out, _ = run(capsys, "explain", path)
    assert code == group.OK
    assert "no times: the bundle was compiled for 'far'" in out
    assert run(capsys, "run", path)[0] == group.USER_ERROR


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_explain_asm(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    code, out, _ = run(capsys, "explain", bundle, "--asm")
    assert code == group.OK
    assert "ret" in out
    assert "addss" in out


def test_disassembling_without_objdump(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(NaruError, match="needs objdump"):
        disassemble(read_bundle(bundle))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("N * 2 + 1", 13),
        ("min(N, 4) // 3", 1),
        ("12", 12),
        ("M + 1", None),
        ("", None),
        (")", None),
    ],
)
def test_formulas(text: str, value: int | None) -> None:
    assert formula(text, {"N": 6}) == value


# ---- doctor, ops ----


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "doctor", "--no-probe")
    assert code == group.OK
    for part in ("features", "usable cores", "NARU_CACHE_DIR", "llvmlite"):
        assert part in out
    code, out, _ = run(capsys, "doctor", "--no-probe", "--json")
    report = json.loads(out)
    assert report["cpu"]["target"]
    assert "roofs" not in report


@pytest.mark.slow
def test_doctor_measures() -> None:
    report = doctor.examine()
    assert max(report["roofs"]["gflops"].values()) > 1
    assert report["roofs"]["gigabytes_per_second"]["l1"] > 1
    assert any(head == "roofs" for head, _, _ in doctor.report_lines(report))


def test_sizes_for_people() -> None:
    assert units.format_bytes(12) == "12 B"
    assert units.format_bytes(1536) == "1.5 KiB"
    assert units.format_bytes(3 << 40) == "3 TiB"


def test_ops(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "ops")
    assert code == group.OK
    assert "Conv" in out
    assert "ImageDecoder" in out
    code, out, _ = run(capsys, "ops", "--json")
    found = json.loads(out)["operators"]
    assert "QGemm" in found["com.microsoft"]
    assert "float" not in found["ai.onnx"]["Gemm"]["versions"]["13"]
    assert found["ai.onnx"]["Gemm"]["speed"]["f32"] == ["tuned"]
    code, out, _ = run(capsys, "ops", "--own", "--json")
    assert json.loads(out)["ops"]["matmul"] == "contraction"


def test_some_ops(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "ops", "gemm", "LSTM")
    assert code == group.OK
    assert out.startswith("Gemm (ai.onnx)\n")
    assert "tuned: floats" in out
    code, out, _ = run(capsys, "ops", "--missing", "--domain", "ai.onnx")
    assert "StringSplit" not in out
    code, out, _ = run(capsys, "ops", "--class", "scalar", "--json")
    assert "NonZero" in json.loads(out)["operators"]["ai.onnx"]
    assert "Relu" not in json.loads(out)["operators"]["ai.onnx"]
    code, _, err = run(capsys, "ops", "Convv")
    assert code == group.USER_ERROR
    assert "did you mean 'Conv'?" in err
    code, _, err = run(capsys, "ops", "--domain", "ai.onnx.lm")
    assert code == group.USER_ERROR
    assert "ai.onnx.ml" in err


# ---- the whole way ----

DEMO = Path(demo.__file__).parent


def test_demo_model_the_whole_way(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model, made = DEMO / "digits_mlp.onnx", tmp_path / "digits.naru"
    code, out, err = run(capsys, "compile", model, "-o", made, "--isa", "baseline")
    assert code == group.OK, err
    assert "for x86-64-baseline" in out
    code, out, err = run(capsys, "verify", model, "--isa", "baseline")
    assert code == group.OK, out + err
    code, out, err = run(capsys, "explain", made, "--json")
    assert code == group.OK, err
    report = json.loads(out)
    assert report["kernels"]
    assert report["steps"]
    assert any(k["measured"] for k in report["kernels"])
