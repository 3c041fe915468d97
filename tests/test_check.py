"""`naru check`: every node of a model, all problems at once, without compiling."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from zoo.build import text as zoo_text

from naru import cli, demo
from naru.cli import group

DEMO = Path(demo.__file__).parent


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = cli.main([str(a) for a in args])
    out, err = capsys.readouterr()
    return code, out, err


def test_check_of_what_compiles(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "check", DEMO / "digits_cnn.onnx")
    assert code == group.OK
    assert "of" in out.splitlines()[0]
    assert "does not compile" not in out
    code, out, _ = run(capsys, "check", DEMO / "digits_cnn.onnx", "--json")
    report = json.loads(out)
    assert report["compiles"]
    conv = next(n for n in report["nodes"] if n["operator"] == "Conv")
    assert conv["classes"] == ["tuned"]
    assert conv["dtypes"][0] == "f32"


CHECKED = """(float[n, 4] x, bool c) => (float[n, 4] y, int64[2, k] z)
{ a = Relu(x) z = NonZero(a) b = Softmax <axis = 7> (a) d = NotThere(b) e = Neither(x)
  f = ImageDecoder(x) y = If (c) <then_branch = one () => (float[n, 4] t) { t = Sigmoid(a) },
              else_branch = two () => (float[n, 4] u) { u = NorHere(a) }> }"""


def test_check_lists_all_problems(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(zoo_text(CHECKED).SerializeToString())
    code, out, _ = run(capsys, "check", path, "--json")
    assert code == group.USER_ERROR
    report = json.loads(out)
    wrong = {n["operator"] for n in report["nodes"] if n["problems"]}
    assert wrong == {"Softmax", "NotThere", "Neither", "ImageDecoder", "NorHere"}
    by_operator = {n["operator"]: n for n in report["nodes"]}
    assert by_operator["Sigmoid"]["place"]
    assert by_operator["NonZero"]["sizes"] == ["z_count"]
    assert by_operator["Relu"]["sizes"] == []
    code, out, _ = run(capsys, "check", path, "--nodes")
    assert code == group.USER_ERROR
    assert "data decide: z_count, by node 'z' (NonZero)" in out
    assert out.count("try: check the name") == 4


def test_check_of_no_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    code, _, err = run(capsys, "check", path)
    assert code == group.USER_ERROR
    assert "expected an ONNX model" in err


def test_check_of_functions(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What is wrong inside of a function is its caller's problem; else it is as fast as its slowest
    node."""
    body = """(float[n] x) => (float[n] y, float[n] z) { y = zoo.twice (x) z = zoo.wrong (x) }
    <domain: "zoo", opset_import: ["" : 17]> twice (a) => (b) { b = Add(a, a) }
    <domain: "zoo", opset_import: ["" : 17]> wrong (a) => (b) { b = NotThere(a) }"""
    path = tmp_path / "model.onnx"
    path.write_bytes(zoo_text(body).SerializeToString())
    _, out, _ = run(capsys, "check", path, "--json")
    twice, wrong = json.loads(out)["nodes"]
    assert twice["classes"] == ["vectorised"]
    assert not wrong["classes"]
    assert "NotThere" in wrong["problems"][0]["where"]
