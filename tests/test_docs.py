"""The pages of docs/ say what is true today.

A block after `<!-- printed: NAME -->` is what the code prints; `--update-docs` writes it anew. The
Python of a page runs, and its links lead somewhere.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from serve.curl import answers_to_curl
from zoo.build import text as zoo_text

import naru
from naru import knobs, pipeline
from naru.artifact import bundle
from naru.codegen.llvm import emit_kernel
from naru.compiler import compile_bundle
from naru.demo import FOLDER
from naru.errors import NaruError
from naru.explain import text as lines
from naru.explain.report import explain
from naru.frontend import sklearn
from naru.ir.graph import Graph
from naru.ir.text import (
    print_func,
    print_graph,
    print_tensor_function,
    read_func,
    read_graph,
)
from naru.ir.verify import verify
from naru.options import Options
from naru.passes import hooks
from naru.schedule.group import group_function
from naru.schedule.prepare import prepare
from naru.schedule.steps import read_schedule
from naru.serve.settings import ModelSettings
from naru.targets import get_target

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), *(ROOT / f"{n}.md" for n in ("README", "CONTRIBUTING"))]
PRINTED = re.compile(r"(<!-- printed: ([\w ]+) -->\n```\w+\n)(.*?)(```\n)", re.DOTALL)
PYTHON = re.compile(r"(?<!-->\n)```python\n(.*?)```\n", re.DOTALL)

Blocks = dict[str, str]


# ---- docs/layout.md ----


def dense_forms(folder: Path) -> Blocks:
    """The forms of the model that the page's own code writes."""
    exec(PYTHON.findall((DOCS / "layout.md").read_text(encoding="utf-8"))[0], {})
    target = get_target("avx512")
    stages = pipeline.lower(folder / "dense.onnx", target)
    body = stages.fused.outputs[0].attr("body")
    assert isinstance(body, Graph)
    (kernel,) = stages.program.kernels
    function = group_function(body, target, kernel.name)
    made = pipeline.build(folder / "dense.onnx", Options(target))
    return {
        "graph": print_graph(stages.graph),
        "fused": print_graph(stages.fused),
        "tensor function": print_tensor_function(function),
        "prepared": print_tensor_function(prepare(function)),
        "schedule": kernel.schedule,
        "loop": print_func(kernel.func),
        "driver": f"{print_func(stages.program.run)}\n{print_func(stages.program.plan)}",
        "llvm": inner_loop(dict(stages.modules)[kernel.name]),
        "manifest": excerpt(made.manifest),
    }


def inner_loop(text: str) -> str:
    """The block with the multiply-adds, up to the store of the second."""
    lines = text.splitlines()
    found = [k for k, line in enumerate(lines) if "@llvm.fma" in line and "call" in line]
    start = max(k for k in range(found[0]) if lines[k].endswith(":"))
    return "\n".join([*lines[start : found[1] + 2], "  ..."])


def excerpt(manifest: dict[str, Any]) -> str:
    """What does not depend on the version of LLVM."""
    entry, kernel = manifest["entries"][0], manifest["kernels"][0]
    parts = {
        "target": manifest["target"]["name"],
        "entry": {k: entry[k] for k in ("name", "inputs", "outputs", "steps")},
        "memory": manifest["memory"],
        "kernel": {k: kernel[k] for k in ("name", "ops", "nodes", "shape", "flops", "bytes")},
        "sections": [s["name"] for s in manifest["sections"]],
    }
    lines = (f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in parts.items())
    return "{\n" + ",\n".join(lines) + "\n}"


# ---- docs/errors.md ----


def error_texts(folder: Path) -> Blocks:
    model = naru.compile(FOLDER / "digits_mlp.onnx", cache=False)
    x = np.zeros((2, 64), np.float32)
    (folder / "model.onnx").write_bytes(b"not a model")
    return {
        "input": errors_of(
            lambda: model(x[:, :60]), lambda: model(x.astype(np.float64)), lambda: model(imge=x)
        ),
        "files": errors_of(
            lambda: naru.compile("model.onnx", target="z80"),
            lambda: naru.compile("model.onnx"),
            lambda: naru.load("model.onnx"),
        ),
        "unsupported": errors_of(lambda: naru.compile(unsupported_model())),
        "text": errors_of(
            lambda: read_schedule("algorithm('direct')\nsplt('out', 'i0', (14,))"),
            lambda: read_func("def f(x: f32[n], n: index):\n    x[0] = y[0] * 2.0\n"),
        ),
    }


def unsupported_model() -> bytes:
    """An operator that does not compile yet, and one of somebody's own."""
    nodes = [
        helper.make_node("SparseAttention", ["x"], ["u"], name="attend", domain="com.microsoft"),
        helper.make_node("MyOp", ["u"], ["y"], domain="com.example"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph(nodes, "unusual", [x], [y])
    domains = {"": 21, "com.microsoft": 1, "com.example": 1}
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def errors_of(*calls: Callable[[], object]) -> str:
    """The class and text of the error that each call raises."""
    lines: list[str] = []
    for call in calls:
        with pytest.raises(NaruError) as caught:
            call()
        kind = next(c for c in type(caught.value).__mro__ if c.__module__ == "naru.errors")
        lines.append(f"{kind.__name__}: {caught.value}")
    return "\n".join(lines)


# ---- docs/stages ----

SOFTMAX = "(float[rows, 10] x) => (float[rows, 10] y) { s = Add(x, x) y = Softmax <axis = 1> (s) }"
RELU = "def g(x: f32[n, 8]):\n    y = relu(x)\n    return {'y': y}\n"
WRONG_GRAPH = "def g(x: f32[n, 8]):\n    y: f32[8, n] = relu(x)\n    return {'y': y}\n"
SCALE = """def scale(x: f32[n], y: f32[n], n: index):
    for i in range(n // 4):
        y[i * 4:i * 4 + 4] = x[i * 4:i * 4 + 4] * splat(2.0, 4)
"""
WRONG_LOOP = """def scale(x: f32[8], y: f32[8]):
    for i in range(9):
        y[i] = x[i]
"""


@cache
def softmax_stages() -> pipeline.Stages:
    return pipeline.lower(zoo_text(SOFTMAX).SerializeToString(), get_target("avx512"), "model")


def frontend_page(_: Path) -> Blocks:
    return {"imported": print_graph(softmax_stages().graph)}


def ops_page(_: Path) -> Blocks:
    function = group_function(read_graph(RELU, infer=hooks.infer), get_target("avx512"), "relu")
    wrong = read_graph(WRONG_GRAPH, infer=hooks.infer)
    return {
        "lowered": print_tensor_function(function),
        "wrong graph": "\n".join(verify(wrong, infer=hooks.infer)),
    }


def passes_page(_: Path) -> Blocks:
    names = "\n".join(run.__name__ for run in pipeline.PASSES)
    return {"passes": names, "fused": print_graph(softmax_stages().fused)}


def schedules_page(_: Path) -> Blocks:
    stages = softmax_stages()
    body = stages.fused.outputs[0].attr("body")
    assert isinstance(body, Graph)
    (kernel,) = stages.program.kernels
    return {
        "function": print_tensor_function(
            prepare(group_function(body, get_target("avx512"), kernel.name))
        ),
        "schedule": kernel.schedule,
    }


def loop_page(_: Path) -> Blocks:
    return {
        "loop": print_func(read_func(SCALE)),
        "wrong loop": "\n".join(verify(read_func(WRONG_LOOP))),
    }


def codegen_page(_: Path) -> Blocks:
    text = emit_kernel(read_func(SCALE), get_target("avx2"))
    start = text.index("define")
    function = text[start : text.index("\n}", start) + 2]
    return {"llvm": re.sub(r'"\+[^"]*"', '"..."', function)}  # the list of features is long


# ---- the others ----


def bundle_format(_: Path) -> Blocks:
    assert bundle.__doc__
    return {"format": bundle.__doc__.strip()}


def settings(_: Path) -> Blocks:
    """The knobs that something reads: a setting without effect is not to be promised."""
    sources = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "naru").rglob("*.py"))
    lines = (
        textwrap.fill(f"{name:18} {about}", 96, subsequent_indent=" " * 19)
        for name, _, about in knobs.describe()
        if re.search(rf"\b(current\(\)|now)\.{name.removeprefix('NARU_').lower()}\b", sources)
    )
    return {"knobs": "\n".join(lines)}


def foreign_explanation(_: Path) -> Blocks:
    """Without what depends on the version of LLVM."""
    made = compile_bundle(FOLDER / "digits_mlp.onnx", target="neon", cache=False)
    found = explain(made)
    rows = [
        replace(r, record={k: v for k, v in r.record.items() if k != "size"}) for r in found.rows
    ]
    return {"foreign": "\n".join([*lines.summary(found), "", *lines.table(rows, found)])}


UNUSUAL = """(float[n, 4] x, bool c) => (float[n, 4] y, int64[2, k] z)
{ a = Relu(x) z = NonZero(a) b = Softmax <axis = 7> (a) d = NotThere(b)
  y = If (c) <then_branch = one () => (float[n, 4] t) { t = Sigmoid(a) },
              else_branch = two () => (float[n, 4] u) { u = Neg(a) }> }"""


def check_page(folder: Path) -> Blocks:
    path = folder / "model.onnx"
    path.write_bytes(zoo_text(UNUSUAL).SerializeToString())
    done = subprocess.run(
        [sys.executable, "-m", "naru", "check", path.name],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    return {"check": re.sub(r" +$", "", done.stdout, flags=re.MULTILINE)}


def estimators_page(_: Path) -> Blocks:
    """Public names of classes, without the package, by what they are asked for."""
    found: list[str] = []
    for role, names in sklearn.supported().items():
        plain = [n.removeprefix("sklearn.") for n in names if "._" not in n]
        inside = [n for n in plain if not n.startswith(("pipeline.P", "model_sel", "frozen."))]
        found.append(textwrap.fill(f"{role}: {', '.join(inside)}", 96, subsequent_indent="    "))
    return {"estimators": "\n\n".join(found)}


def serving_page(_: Path) -> Blocks:
    """The answer to the page's wrong request, and the keys of a model's settings."""
    answers = answers_to_curl(DOCS / "serving.md", FOLDER)
    (refusal,) = [a for a in answers if a.status != 200]
    keys = fields(ModelSettings)
    width = max(len(f.name) for f in keys)
    return {
        "refusal": f"{refusal.status} {refusal.body.decode()}",
        "settings": "\n".join(f"{f.name:{width}}  {f.metadata['help']}" for f in keys),
    }


PRINTERS: dict[str, Callable[[Path], Blocks]] = {
    "layout.md": dense_forms,
    "errors.md": error_texts,
    "bundles.md": bundle_format,
    "check.md": check_page,
    "explain.md": foreign_explanation,
    "runtime.md": settings,
    "scikit-learn.md": estimators_page,
    "serving.md": serving_page,
    "stages/1-frontend.md": frontend_page,
    "stages/2-graph-and-ops.md": ops_page,
    "stages/3-passes.md": passes_page,
    "stages/4-tensor-functions-and-schedules.md": schedules_page,
    "stages/5-loop-ir.md": loop_page,
    "stages/6-codegen.md": codegen_page,
}


@pytest.mark.parametrize("page", PRINTERS)
def test_printed_blocks_are_true(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    path = DOCS / page
    text = path.read_text(encoding="utf-8")
    printed = {name: block.rstrip() + "\n" for name, block in PRINTERS[page](tmp_path).items()}
    assert [m[2] for m in PRINTED.finditer(text)] == list(printed)
    if request.config.getoption("--update-docs"):
        text = PRINTED.sub(lambda m: m[1] + printed[m[2]] + m[4], text)
        path.write_text(text, encoding="utf-8")
    for m in PRINTED.finditer(text):
        assert m[3] == printed[m[2]], f"{page}, {m[2]}: pytest tests/test_docs.py --update-docs"


@pytest.mark.parametrize(
    "page",
    [
        "layout.md",
        "runtime.md",
        "host.md",
        "custom-operators.md",
        "processing.md",
        "pytorch.md",
        "scikit-learn.md",
    ],
)
def test_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = PYTHON.findall((DOCS / page).read_text(encoding="utf-8"))
    assert blocks
    for block in blocks:
        exec(block, names)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_files_exist(page: Path) -> None:
    """Relative links, and whatever looks like a path of this repository, name something real."""
    text = re.sub(r"(?s)```.*?```", "", page.read_text(encoding="utf-8"))
    links = [page.parent / link for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text)]
    places = re.findall(r"`((?:naru|tests|bench|docs|models|tools)/[\w./-]*\w/?)`", text)
    missing = [str(p) for p in (*links, *(ROOT / p for p in places)) if not p.exists()]
    assert not missing, f"{page.name} names what does not exist: {missing}"
