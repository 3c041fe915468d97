"""The page: what it embeds, that nothing is fetched or executed, and where things are drawn."""

from __future__ import annotations

import itertools
import json
import random
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from naru.compiler import compile_bundle
from naru.demo import FOLDER
from naru.explain.drawing import GAP, HEIGHT, RISE, WIDTH, draw
from naru.explain.page import embed, make_page
from naru.explain.report import explain
from tests.codegen.native import without_tiles

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!--",
    "<img src=x onerror=alert(1)>",
    "{{data}}",
    '"quoted" & \\back',
    "line\u2028break",
)


class Reader(HTMLParser):
    """The tags with their attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.opened: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self.opened.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.opened and self.opened[-1] == "script":
            self.scripts[-1] += data

    @property
    def data(self) -> Any:
        return json.loads(self.scripts[0])


def page_of(source: Any) -> str:
    bundle = compile_bundle(source, target=without_tiles(), cache=False)
    return make_page(bundle, explain(bundle))


def hostile_model() -> bytes:
    """A node and a weight for each hostile name."""
    nodes, weights, last = [], [], "x"
    for k, name in enumerate(HOSTILE):
        weights.append(numpy_helper.from_array(np.full(8, k + 2, np.float32), f"w{k}{name}"))
        nodes.append(helper.make_node("Mul", [last, weights[-1].name], [f"t{k}"], name=name))
        last = f"t{k}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [8])
    y = helper.make_tensor_value_info(last, TensorProto.FLOAT, [8])
    graph = helper.make_graph(nodes, HOSTILE[0], [x], [y], weights)
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def test_page_is_whole_and_alone() -> None:
    page = Reader(text := page_of(FOLDER / "digits_cnn.onnx"))
    assert page.opened == []
    assert not re.search(r"https?://|@import|url\(", text)
    assert not [tag for tag, attrs in page.tags if {"src", "href", "srcset"} & attrs.keys()]
    assert "{{" not in text
    assert len(page.scripts) == 2
    policies = [a["content"] or "" for t, a in page.tags if t == "meta" and "http-equiv" in a]
    assert "default-src 'none'" in policies[0]


def test_page_holds_what_explain_found() -> None:
    data = Reader(page_of(FOLDER / "digits_cnn.onnx")).data
    assert data["timed"]
    assert len(data["steps"]) == len(data["rows"]) == 8
    assert sum(s["ns"] for s in data["steps"]) == pytest.approx(data["total"])
    assert all(data["rows"][s["row"]]["name"] == s["name"] for s in data["steps"])
    drawn = [n["step"] for n in data["drawing"]["nodes"] if "step" in n]
    assert sorted(drawn) == list(range(8))
    names = [
        data["tensors"][n["tensor"]]["name"] for n in data["drawing"]["nodes"] if "tensor" in n
    ]
    assert sorted(names) == ["image", "logits"]


def test_hostile_names_are_only_data() -> None:
    page = Reader(text := page_of(hostile_model()))
    assert len(page.scripts) == 2
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert text.count("</script") == 2
    found = {name for r in page.data["rows"] for n in r["nodes"] for name in [n["name"]]}
    assert found == set(HOSTILE)


def test_embedded_text_cannot_end_its_script() -> None:
    for value in HOSTILE:
        assert not set("<>&\u2028") & set(embed(value))
        assert json.loads(embed(value)) == value


def test_script_makes_no_html_of_texts() -> None:
    script = Reader(page_of(FOLDER / "digits_mlp.onnx")).scripts[1]
    for bad in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("):
        assert bad not in script


def test_page_of_a_foreign_target() -> None:
    bundle = compile_bundle(FOLDER / "digits_mlp.onnx", target="neon", cache=False)
    data = Reader(make_page(bundle, explain(bundle))).data
    assert not data["timed"]
    assert data["roofs"] is None
    assert data["untimed"]
    assert data["total"] == data["predicted"] > 0


# ---- drawing ----


def chain(n: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """n steps in a row, each of which also reads what the one three before wrote."""
    tensors = [{"kind": "input"}, *({"kind": "value"} for _ in range(n - 1)), {"kind": "output"}]
    steps = [{"reads": sorted({k, max(0, k - 3)}), "writes": [k + 1]} for k in range(n)]
    return steps, tensors


def boxes_overlap(nodes: list[dict[str, Any]]) -> bool:
    return any(
        abs(a["x"] - b["x"]) < WIDTH and abs(a["y"] - b["y"]) < HEIGHT
        for a, b in itertools.combinations(nodes, 2)
    )


def test_who_reads_stands_below_who_writes() -> None:
    drawing = draw(*chain(60))
    assert len(drawing["nodes"]) == 62
    assert not boxes_overlap(drawing["nodes"])
    for e in drawing["edges"]:
        ys = [y for _, y in e["points"]]
        assert ys == sorted(ys)
    assert all(0 <= x <= drawing["width"] for e in drawing["edges"] for x, _ in e["points"])
    assert drawing["height"] == 62 * RISE + GAP


@pytest.mark.parametrize("seed", range(5))
def test_random_graphs_are_drawn_without_overlap(seed: int) -> None:
    rng = random.Random(seed)
    n = 120
    tensors = [{"kind": "input"}, *({"kind": rng.choice(["value", "output"])} for _ in range(n))]
    steps = [
        {"reads": rng.sample(range(k + 1), min(k + 1, rng.randint(1, 3))), "writes": [k + 1]}
        for k in range(n)
    ]
    drawing = draw(steps, tensors)
    assert not boxes_overlap(drawing["nodes"])
    assert draw(steps, tensors) == drawing


def test_edges_pass_beside_the_nodes_of_other_layers() -> None:
    """The corner of a long edge keeps its distance from every box of its layer."""
    drawing = draw(*chain(12))
    for e in drawing["edges"]:
        for x, y in e["points"][1:-1]:
            near = [m for m in drawing["nodes"] if m["y"] <= y <= m["y"] + HEIGHT]
            assert all(abs(m["x"] - x) >= WIDTH / 2 for m in near)


def test_nothing_to_draw() -> None:
    assert draw([], [])["nodes"] == []
