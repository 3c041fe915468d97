"""verify finds what a wrong compiler does wrong, names it, and writes a script that shows it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import zoo
from onnx import numpy_helper

import naru
from naru import cli, knobs
from naru.cli import group
from naru.compiler import compile_bundle
from naru.frontend.onnx import read_onnx
from naru.index_limits import index_limits
from naru.ops.registry import OPS
from naru.options import Options
from naru.verify import compare, compared, verify
from naru.verify.differences import ulps
from naru.verify.parts import Whole
from naru.verify.samples import random_sample
from naru.verify.script import write_script
from naru.verify.search import Culprit, Search
from tests import wrong_compiler

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((4, 4)).astype(np.float32) / 2
BODY = """(float[n,4] x) => (float[n,4] y) {
    a = MatMul(x, w)  b = Add(a, x)  t = Tanh(b)  s = Sigmoid(b)  u = Mul(t, s)
    v = Softmax <axis = 1> (u)  y = Mul(v, x)
}"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path) -> Iterator[None]:
    with knobs.scope(cache_dir=tmp_path / "cache", workers=0):
        yield


def save(path: Path, body: str, weights: dict[str, Any] | None = None) -> Path:
    onnx.save(zoo.text(body, weights), path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(tmp_path / "m.onnx", BODY, {"w": WEIGHT})


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)."""
    code = cli.main([str(a) for a in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_script(path: Path, fault: str | None = None) -> subprocess.CompletedProcess[str]:
    """A script as its reader runs it, or with a wrong compiler."""
    args = [wrong_compiler.__file__, fault, str(path)] if fault else [str(path)]
    root = str(Path(__file__).parent.parent)
    return subprocess.run(
        [sys.executable, *args],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin", "HOME": str(path.parent)},
    )


# ---- the search ----


@pytest.mark.parametrize(
    ("fault", "part", "against"),
    [
        ("always", ["node 't' (Tanh)"], "onnxruntime"),
        ("fused", ["node 'b' (Add)", "node 't' (Tanh)"], "reference"),
        ("symbolic", ["node 't' (Tanh)"], "onnxruntime"),
    ],
)
def test_a_wrong_op_is_found(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    model: Path,
    tmp_path: Path,
    fault: str,
    part: list[str],
    against: str,
) -> None:
    """The node is named; the script fails with the fault, and passes without."""
    monkeypatch.setitem(OPS, "tanh", wrong_compiler.wrong_op(fault))
    folder = tmp_path / "failing"
    code, out, err = run(
        capsys, "verify", model, "--json", "--save-failing", folder, "--against", against
    )
    assert code == group.MISMATCH, err
    report = json.loads(out)
    assert report["verdict"].startswith("naru is wrong")
    assert report["culprit"]["node"] == "node 't' (Tanh)"
    assert report["culprit"]["part"] == part
    assert report["culprit"]["difference"]["rms_rel"] == pytest.approx(0.01, rel=0.01)
    (script,) = map(Path, report["files"])
    assert script == folder / "verify_m_t.py"
    wrong = run_script(script, fault)
    assert wrong.returncode == group.MISMATCH, wrong.stderr
    assert "DIFFERENT" in wrong.stdout
    right = run_script(script)
    assert right.returncode == 0, right.stderr
    assert "equal within it" in right.stdout


def test_what_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(OPS, "tanh", wrong_compiler.wrong_op("fused"))
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "verify", model, "--against", "both")
    assert code == group.MISMATCH
    for line in (
        "DIFFERENT",
        "y: naru is wrong (naru is off by ",
        "first to differ: node 't' (Tanh), 3 of 7 nodes",
        "these nodes differ together",
        "to reproduce: python verify_m_t.py",
    ):
        assert line in out
    before = (tmp_path / "verify_m_t.py").read_text()
    out = run(capsys, "verify", model)[1]
    assert "python verify_m_t_2.py" in out, "nothing is replaced"
    assert (tmp_path / "verify_m_t.py").read_text() == before
    files = set(tmp_path.iterdir())
    assert "first to differ" not in run(capsys, "verify", model, "--no-search")[1]
    assert set(tmp_path.iterdir()) == files


def find(
    model: Path, monkeypatch: pytest.MonkeyPatch, fault: str, dims: dict[str, int] | None = None
) -> Culprit:
    """The culprit of a fault in a model."""
    monkeypatch.setitem(OPS, "tanh", wrong_compiler.wrong_op(fault))
    bundle = compile_bundle(model, cache=False)
    sample = random_sample(bundle, model, dims or {}, 0)
    found = verify(naru.runtime.session.NativeModel(bundle), model, [sample])
    wrong = [c.naru[0].output for c in found if not c.passed]
    assert wrong
    options = Options(naru.compiler.choose_target(None))
    culprit = Search(options, None, "onnxruntime", (1e-4, 1e-6)).find(model, sample, wrong)
    assert culprit is not None
    return culprit


def test_one_shape_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two of the same op, and the second is wrong, at its shape; a branch that is right is not
    blamed although it comes later."""
    body = """(float[n,3] x) => (float[n,4] y, float[n,4] z) {
        a = Tanh(x)  b = MatMul(a, w)  c = Tanh(b)  d = Exp(x)  e = MatMul(d, w)  y = Add(c, e)
        z = Neg(e)
    }"""
    path = save(tmp_path / "m.onnx", body, {"w": WEIGHT[:3]})
    culprit = find(path, monkeypatch, "four columns")
    assert (culprit.node, culprit.alone) == ("node 'c' (Tanh)", True)


def test_few_rows_are_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    body = "(float[n,64] x) => (float[n,64] y) { t = Tanh(x) y = Neg(t) }"
    path = save(tmp_path / "m.onnx", body)
    culprit = find(path, monkeypatch, "always", {"n": 500})
    assert culprit.part.inputs["x"].shape == (1, 64)


def test_shapes_that_are_computed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The part after a reshape by computed sizes holds these as constants."""
    body = """(float[n,4] x) => (float[k,2] y) {
        s = Shape(x)  one = Constant <value_ints = [-1]> ()  two = Constant <value_ints = [2]> ()
        m = Concat <axis = 0> (one, two)  f = Flatten(x)  r = Reshape(f, m)  e = Exp(r)  y = Tanh(e)
    }"""
    culprit = find(save(tmp_path / "m.onnx", body), monkeypatch, "fused")
    assert culprit.labels == ("node 'e' (Exp)", "node 'y' (Tanh)")


def test_control_flow_is_one_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The fault is in the body of a Loop, which captures a weight."""
    body = """(float[2,4] x, int64 rounds) => (float[2,4] y) {
        go = Constant <value = bool {1}> ()
        a = Neg(x)
        c = Loop (rounds, go, a) <body = step (int64 i, bool g, float[2,4] v)
            => (bool more, float[2,4] out) { more = Identity(g) m = MatMul(v, w) out = Tanh(m) }>
        y = Abs(c)
    }"""
    path = save(tmp_path / "m.onnx", body, {"w": WEIGHT})
    culprit = find(path, monkeypatch, "always")
    assert (culprit.node, culprit.alone) == ("node 'c' (Loop)", True)
    (script,) = write_script(culprit, path, tmp_path, (1e-4, 1e-6))
    assert run_script(script, "always").returncode == group.MISMATCH
    assert run_script(script).returncode == 0


def test_local_functions_and_side_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A function of the model is one node; weights in a side file get into what is saved."""
    text = """<ir_version: 10, opset_import: ["" : 21, "zoo" : 1]>
        main (float[n,4] x) => (float[n,4] y) { a = MatMul(x, w) y = zoo.squash(a) }
        <domain: "zoo", opset_import: ["" : 21]>
        squash (v) => (out) { t = Tanh(v) out = Neg(t) }
        <domain: "zoo", opset_import: ["" : 21]>
        unused (v) => (out) { out = Neg(v) }"""
    made = onnx.parser.parse_model(text)
    made.graph.initializer.append(numpy_helper.from_array(WEIGHT, "w"))
    path = tmp_path / "m.onnx"
    onnx.save(made, path, save_as_external_data=True, location="m.data", size_threshold=0)
    culprit = find(path, monkeypatch, "fused")
    assert culprit.labels == ("node 'y' (zoo.squash)",) or len(culprit.labels) == 2
    assert [f.name for f in culprit.model.functions] == ["squash"]
    script, *_ = write_script(culprit, path, tmp_path / "away", (1e-4, 1e-6))
    assert run_script(script, "fused").returncode == group.MISMATCH


def test_large_arrays_lie_beside_the_script(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    body = "(float[1,80,80] x) => (float[1,80,80] y) { y = Tanh(x) }"
    culprit = find(save(tmp_path / "m.onnx", body), monkeypatch, "always")
    files = write_script(culprit, tmp_path / "m.onnx", tmp_path, (1e-4, 1e-6))
    assert [f.suffix for f in files] == [".py", ".npz"]
    assert run_script(files[0], "always").returncode == group.MISMATCH


def test_a_model_without_faithful_text_lies_beside_the_script(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("naru.verify.script._text_of", lambda _: None)
    body = "(float[2,4] x) => (float[2,4] y) { a = MatMul(x, w) y = Tanh(a) }"
    path = save(tmp_path / "m.onnx", body, {"w": WEIGHT})
    culprit = find(path, monkeypatch, "fused")
    files = write_script(culprit, path, tmp_path / "away", (1e-4, 1e-6))
    assert [f.suffix for f in files] == [".py", ".onnx"]
    assert run_script(files[0], "fused").returncode == group.MISMATCH


def test_nodes_in_any_order(tmp_path: Path) -> None:
    made = zoo.text("(float[4] x) => (float[4] y) { a = Neg(x) b = Exp(a) y = Abs(b) }")
    nodes = list(made.graph.node)
    del made.graph.node[:]
    made.graph.node.extend(reversed(nodes))
    whole = Whole(made, None)
    assert [n.op_type for n in whole.nodes] == ["Neg", "Exp", "Abs"]
    assert whole.steps_to(["b"]) == [0, 1]
    assert whole.parents(2) == {1}


# ---- differences ----


def test_ulps() -> None:
    tiny = np.float32(1.5)
    up = np.nextafter(tiny, np.float32(2))
    a = np.array([tiny, up, 0.0, -0.0, -tiny], np.float32)
    b = np.array([up, tiny, -0.0, 1e-45, -up], np.float32)
    assert ulps(a, b).tolist() == [1, 1, 0, 1, 1]
    far = np.array([np.finfo(np.float64).max]), np.array([np.finfo(np.float64).min])
    assert ulps(*far)[0] > 2.0**63
    half = np.array([1.0, 2.0], ml_dtypes.bfloat16)
    assert ulps(half, half[::-1]).tolist() == [128, 128]
    assert ulps(*(np.array([v], np.float16) for v in (1.0, 1.0009765625))).tolist() == [1]


def test_ulps_of_a_difference() -> None:
    want = np.ones(100, np.float32)
    got = want.copy()
    got[0] = np.nextafter(np.float32(1), np.float32(2))
    d = compare(0, "y", got, want, 1e-4)
    assert (d.ulp_median, d.ulp_max, d.differing, d.count) == (0, 1, 1, 100)
    assert 0 < d.ulp_p99 <= 1
    d = compare(0, "y", np.array([1, 2]), np.array([1, 3]), 1e9)
    assert (d.passed, d.differing, d.ulp_max) == (False, 1, 0)
    d = compare(0, "y", want, want.astype(np.float64), 1e-4)
    assert d.problem == "the dtype is float32, expected float64"


def test_who_is_wrong(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    """Both right; then ONNX Runtime wrong, which is simulated."""
    bundle = compile_bundle(model, cache=False)
    made = naru.runtime.session.NativeModel(bundle)
    sample = random_sample(bundle, model, {}, 0)
    (found,) = verify(made, model, [sample], against="both")
    assert found.passed
    assert str(found.verdict).startswith("both are right (naru is off by")
    usual = compared.make_side

    def off(name: str, *args: Any) -> Any:
        side = usual(name, *args)
        return (lambda i: {k: a * 2 for k, a in side(i).items()}) if name != "reference" else side

    monkeypatch.setattr(compared, "make_side", off)
    (found,) = verify(made, model, [sample], against="both")
    assert found.passed, "naru is right"
    assert str(found.verdict).startswith("ONNX Runtime is wrong")
    (found,) = verify(made, model, [sample])
    assert not found.passed


# ---- inputs that a model can take ----


def limits_of(body: str, weights: dict[str, Any] | None = None, **sizes: int) -> dict[str, int]:
    return index_limits(read_onnx(zoo.text(body, weights)), sizes)


TABLE = RNG.standard_normal((50, 8)).astype(np.float32)


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("(int64[n] i) => (float[n,8] y) { y = Gather(table, i) }", {"i": 50}),
        ("(int64[n] i, float[n,8] x) => (float[n,8] y) { g = Gather(x, i) y = Neg(g) }", {"i": 7}),
        (
            """(int32[n] i) => (float[n,8] y) {
                c = Cast <to = 7> (i)  p = Add(c, two)  y = Gather(table, p) }""",
            {"i": 48},
        ),
        (
            """(int64[n] i, int64[n] k) => (float[n,8] y) {
                p = Add(i, k)  y = Gather(table, p) }""",
            {"i": 25, "k": 25},
        ),
        (
            """(int64[n] i, int64[n] mask) => (float[n,8] y) {
                m = Cast <to = 9> (mask)  p = Where(m, i, two)  y = Gather(table, p) }""",
            {"i": 50},
        ),
        (
            """(int64[n] i, bool c) => (float[n,8] y) {
                y = If (c) <then_branch = a () => (float[n,8] u) { u = Gather(table, i) },
                            else_branch = b () => (float[n,8] v)
                              { g = Gather(table, i) v = Neg(g) }> }""",
            {"i": 50},
        ),
        ("(int64[n] mask) => (float[n] y) { y = Cast <to = 1> (mask) }", {}),
    ],
)
def test_index_limits(body: str, wanted: dict[str, int]) -> None:
    assert limits_of(body, {"table": TABLE, "two": np.array(2)}, n=7) == wanted


def transformer_like(vocabulary: int = 90) -> onnx.ModelProto:
    """Token ids, their kinds, and a mask, as exporters write BERT's: embeddings summed, masked
    attention over them."""
    d = 8
    weights = {
        "words": RNG.standard_normal((vocabulary, d)).astype(np.float32),
        "kinds": RNG.standard_normal((2, d)).astype(np.float32),
        "places": RNG.standard_normal((64, d)).astype(np.float32),
        "low": np.float32(np.finfo(np.float32).min),
        "one": np.float32(1),
        "axes": np.array([1, 2]),
        "first": np.array([0]),
        "step": np.array([1]),
    }
    body = """(int64[batch,sequence] input_ids, int64[batch,sequence] token_type_ids,
               int64[batch,sequence] attention_mask) => (float[batch,sequence,8] y) {
        a = Gather(words, input_ids)  b = Gather(kinds, token_type_ids)  e = Add(a, b)
        m = Unsqueeze(attention_mask, axes)  f = Cast <to = 1> (m)  g = Sub(one, f)  h = Mul(g, low)
        t = Transpose <perm = [0, 2, 1]> (e)  s = MatMul(e, t)  hs = Squeeze(h, step)
        z = Add(s, hs)  p = Softmax <axis = -1> (z)  y = MatMul(p, e)
    }"""
    return zoo.text(body, weights)


def test_token_models_without_samples(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "bert.onnx"
    onnx.save(transformer_like(), path)
    code, out, err = run(capsys, "verify", path, "--dims", "sequence=40")
    assert code == group.OK, out + err
    sample = random_sample(compile_bundle(path), path, {"sequence": 40}, 0)
    assert 2 < sample["input_ids"].max() < 90
    assert sample["token_type_ids"].max() == 1
    assert set(sample["attention_mask"].reshape(-1)) == {0, 1}
    assert (sample["attention_mask"][:, 0] == 1).all()


def test_sizes_that_go_together(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A window without padding needs more than the smallest sizes."""
    body = "(float[n,1,h,v] x) => (float[n,1,a,b] y) { y = MaxPool <kernel_shape = [9, 9]> (x) }"
    code, out, err = run(capsys, "verify", save(tmp_path / "m.onnx", body))
    assert code == group.OK, out + err


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": WEIGHT, "z": WEIGHT}, "there is no input 'z'; the model has x"),
        ({"X": WEIGHT}, "did you mean 'x'?"),
        ({}, "it has no array for the input 'x'"),
        ({"x": WEIGHT[:, :3]}, "expected dim 1 to be 4"),
        ({"x": WEIGHT.astype(np.float64)}, "expected dtype float32"),
    ],
)
def test_samples_that_do_not_fit(
    capsys: pytest.CaptureFixture[str],
    model: Path,
    tmp_path: Path,
    arrays: dict[str, np.ndarray],
    message: str,
) -> None:
    np.savez(tmp_path / "s.npz", allow_pickle=False, **arrays)
    code, _, err = run(capsys, "verify", model, "--samples", tmp_path / "s.npz")
    assert code == group.USER_ERROR
    assert message in err
