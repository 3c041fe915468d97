"""The page at `/`: its files and what it is told, and somebody who tries models on it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from onnx import TensorProto, helper
from PIL import Image, ImageDraw
from serve import models
from serve.asgi import ask
from serve.conftest import serving
from sklearn.tree import DecisionTreeClassifier

import naru
from naru.demo import FOLDER
from naru.serve.http import Application
from tests.library.chromium import Opened, chromium, opened
from tests.targets.machine import need

PAGE = resources.files("naru.serve.page")
FILES = sorted(f.name for f in PAGE.iterdir() if f.name.endswith((".js", ".css", ".svg")))
MEDIA = {
    "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}  # fmt: skip
Point = tuple[float, float]


def text_of(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


# ---- the files ----


def test_files_are_served(folder: Path) -> None:
    async def check(app: Application) -> None:
        for path, media in (
            ("/", "text/html; charset=utf-8"),
            *((f"/page/{n}", MEDIA[n.rpartition(".")[2]]) for n in FILES),
        ):
            answer = await ask(app, "GET", path)
            assert (answer.status, answer.headers["content-type"]) == (200, media)
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["etag"]
            head = await ask(app, "HEAD", path)
            assert (head.status, head.body) == (200, b"")
            assert head.headers["content-length"] == str(len(answer.body))
        refused = await ask(app, "POST", "/")
        assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
        for path in ("/page/__init__.py", "/page/", "/page/../page.js", "/index.html"):
            assert (await ask(app, "GET", path)).status == 404, path

    serving(folder, check)


def test_without_the_page(folder: Path) -> None:
    async def check(app: Application) -> None:
        for path in ("/", "/page/page.js"):
            assert (await ask(app, "GET", path)).status == 404

    serving(folder, check, page=False)


def test_the_files_are_whole_and_keep_to_themselves() -> None:
    html = text_of("index.html")
    named = re.findall(r'(?:src|href)="page/([^"]+)"', html)
    assert named
    for name in FILES:
        named += re.findall(r'from "\./([^"]+)"', text_of(name))
    assert set(named) == set(FILES)
    for name in ("index.html", *FILES):
        text = text_of(name).replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"\w+://|[\"'(]//", text), name
    # Nothing that the policy forbids, and no markup from texts.
    assert not re.search(r"<style|\sstyle=|<script>|\son\w+=", html)
    for name in FILES:
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(", text_of(name)), (
            name
        )


# ---- what it is told ----


def test_the_configuration_says_what_metadata_cannot(folder: Path) -> None:
    async def check(app: Application) -> None:
        config = (await ask(app, "GET", "/v2/models/dense/config")).json
        facts = {k: v["string_value"] for k, v in config["parameters"].items()}
        assert json.loads(facts["dims"]) == {"x": ["batch", 4], "y": ["batch", 3]}
        assert json.loads(facts["sizes"]) == {"batch": [0, 2**31 - 1]}
        assert (json.loads(facts["columns"]), json.loads(facts["labels"])) == ({}, {})
        await ask(app, "POST", "/v2/models/dense/infer", b"[[1, 2, 3, 4]]")
        for path in ("/v2/models/stats", "/v2/models/dense/stats"):
            stats = (await ask(app, "GET", path)).json["model_stats"]
            assert [s["queue_size"] for s in stats if s["name"] == "dense"] == [0]

    serving(folder, check)


def columns(path: Path) -> None:
    """sum[n, 1] = a[n, 1] + b[n, 1]: inputs as converters of tables write them."""
    a, b, total = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 1]) for n in ("a", "b", "sum")
    )
    node = helper.make_node("Add", ["a", "b"], ["sum"])
    graph = helper.make_graph([node], "columns", [a, b], [total])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path.write_bytes(model.SerializeToString())


def test_rows_are_objects_for_columns_of_one(tmp_path: Path) -> None:
    columns(tmp_path / "columns.onnx")

    async def check(app: Application) -> None:
        for body in (b'[{"a": 1, "b": 2}, {"b": 4, "a": 3}]', b'[{"a": [1], "b": [2]}]'):
            answer = await ask(app, "POST", "/v2/models/columns/infer", body)
            assert answer.json["outputs"]["sum"][0] == [3]

    serving(tmp_path, check)


# ---- its modules alone ----


def node(script: str, *arguments: str) -> Any:
    """What a module in Node prints as JSON; its imports are of the page's files."""
    script = re.sub(r'from "\./', f'from "{Path(str(PAGE)).as_uri()}/', script)
    # What is no package is a module only where its text says so.
    command = [need("node", "nodejs"), "--experimental-default-type=module", "--input-type=module"]
    done = subprocess.run(
        [*command, "-e", script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_csv_to_rows() -> None:
    found = node(
        """
        import { parseCsv, rowsJson, toCsv, toRows } from "./rows.js";
        const float = [{ name: "a", datatype: "FP32" }, { name: "b", datatype: "INT64" }];
        const mixed = [{ name: "age", datatype: "FP64" }, { name: "city", datatype: "BYTES" }];
        const read = (text, columns, matrix) => {
          const { rows, header } = toRows(parseCsv(text), columns, !matrix);
          return [header, rowsJson(rows, columns, matrix)];
        };
        const failed = (action) => {
          try { return action(); } catch (error) { return error.message; }
        };
        console.log(JSON.stringify([
          read("1,9007199254740993\\r\\n\\r\\n.5,+2\\n", float, true),
          read("\\ufeffx;y\\n1e3;2\\n;3\\n-inf;x", float, true),
          read('city,more,age\\n"a, ""b""\\nc",1,40\\n,2,NaN\\n', mixed, false),
          failed(() => read("town,age\\nx,1", mixed, false)),
          read("", float, true),
          toCsv(["p", "q"], [[1, 'a"b'], [null, "c,d"]]),
        ]));
        """
    )
    assert found == [
        [False, "[[1,9007199254740993],[0.5,2]]"],
        [True, '[[1e3,2],[NaN,3],[-Infinity,"x"]]'],
        [True, '[{"age":40,"city":"a, \\"b\\"\\nc"},{"age":NaN,"city":""}]'],
        "Column city is missing; the table has town, age.",
        [False, "[]"],
        'p,q\n1,"a""b"\n,"c,d"\n',
    ]


def test_rows_of_arrow_streams(tmp_path: Path) -> None:
    pa: Any = import_module("pyarrow")
    import_module("pyarrow.ipc")
    table = pa.table({"a": np.arange(70.0), "t": [str(k) for k in range(70)]})
    for name, write in (("s.arrows", pa.ipc.new_stream), ("f.arrow", pa.ipc.new_file)):
        with write(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table, max_chunksize=30)
    (tmp_path / "cut.arrows").write_bytes((tmp_path / "s.arrows").read_bytes()[:-9])
    found = node(
        """
        import { readFileSync } from "node:fs";
        import { asStream, countRows } from "./arrow.js";
        const rows = (path) => {
          try { return countRows(asStream(readFileSync(path))); } catch { return "cut"; }
        };
        console.log(JSON.stringify(process.argv.slice(1).map(rows)));
        """,
        *(str(tmp_path / n) for n in ("s.arrows", "f.arrow", "cut.arrows")),
    )
    assert found == [70, 70, "cut"]


# ---- a server and a browser ----

# Points in a square of side 1, to the right and down.
HAND: dict[str, list[Point]] = {
    "0": [(0.55, 0.02), (0.3, 0.08), (0.12, 0.4), (0.2, 0.8), (0.5, 1), (0.8, 0.75), (0.85, 0.35),
          (0.6, 0.05)],
    "2": [(0.15, 0.2), (0.4, 0), (0.72, 0.08), (0.78, 0.35), (0.5, 0.68), (0.1, 0.98), (0.9, 0.95)],
    "3": [(0.15, 0.08), (0.5, 0), (0.78, 0.15), (0.7, 0.38), (0.4, 0.47), (0.75, 0.58),
          (0.85, 0.8), (0.5, 1), (0.1, 0.9)],
}  # fmt: skip
MANY = 10_000
ODD = "50% <i>&é'"  # a name of a model


@contextmanager
def server(root: Path, *options: str) -> Iterator[str]:
    """The address of a `naru serve` of its own, which must end well."""
    command = [sys.executable, "-m", "naru", "serve", str(root), "--port", "0", *options]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            found = re.search(r"at (http://127\.0\.0\.1:\d+)", line)
            assert found, line
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
            log.seek(0)
            print(log.read())
        assert process.returncode == 0


def flowers() -> naru.Model:
    """label[rows] = by petal length: short is 0, long is 1; the columns have names."""
    table = pd.DataFrame({"width": [1.0, 2, 3, 4, 1, 2], "petal length": [1.0, 1, 2, 7, 8, 9]})
    tree = DecisionTreeClassifier(random_state=0).fit(table, np.array([0, 0, 0, 1, 1, 1]))
    return naru.compile(tree)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of models for each form."""
    root = tmp_path_factory.mktemp("served")
    for name in ("digits_mlp", "digits_cnn", "digits_drawn"):
        os.link(FOLDER / f"{name}.onnx", root / f"{name}.onnx")
    models.dense(root / "dense.onnx")
    models.pair(root / "pair.onnx")
    models.parsed(root / "parsed.onnx")
    models.dense(root / "versions" / "9" / "model.onnx")
    models.dense(root / "versions" / "10" / "model.onnx", scale=2.0)
    models.pair(root / f"{ODD}.onnx")
    flowers().save(root / "flowers.naru")
    (root / "broken.naru").write_bytes(b"no bundle")
    naru.compile(
        FOLDER / "digits_drawn.onnx",
        preprocess="image(pixels=rgb, invert, filter=box)",
        postprocess="scores=softmax",
        labels=[f"digit {k}" for k in range(10)],
    ).save(root / "photo.naru")
    with server(root) as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


@contextmanager
def looked(browser: Any, address: str, model: str, **context: Any) -> Iterator[Opened]:
    """The page with a model chosen."""
    with opened(browser, f"{address}/#/{model}", **context) as found:
        found.page.wait_for_selector("#model .head")
        yield found


def stroke(page: Any, points: Sequence[Point]) -> None:
    """Draws with the mouse."""
    box = page.locator(".pad").bounding_box()

    def at(point: Point) -> Point:
        x, y = 0.2 + 0.6 * point[0], 0.15 + 0.7 * point[1]
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    page.mouse.move(*at(points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*at(point), steps=4)
    page.mouse.up()


def take(page: Any, name: str, media: str, data: bytes) -> None:
    """Chooses a file."""
    page.set_input_files(
        "#form input[type=file]", files=[{"name": name, "mimeType": media, "buffer": data}]
    )


def cells(page: Any) -> list[list[str]]:
    """The answer's table, row by row, without the rows' numbers."""
    rows = page.locator(".outputs tbody tr")
    return [rows.nth(k).locator("td").all_inner_texts() for k in range(rows.count())]


def until(page: Any, expression: str) -> None:
    """Waits until an expression is true. (Playwright's own way evaluates texts inside the page,
    which its policy forbids.)"""
    deadline = time.monotonic() + 30
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(50)


def error_of(page: Any) -> str:
    page.wait_for_selector(".answer .error:not([hidden])")
    return page.inner_text(".answer .error")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["digits_mlp", "digits_cnn", "digits_drawn"])
def test_draw(browser: Any, address: str, model: str) -> None:
    with looked(browser, address, model) as found:
        page = found.page
        for digit, points in HAND.items():
            page.click("text=Clear")
            assert page.locator(".bars").count() == 0
            stroke(page, points)
            page.wait_for_selector(f".bars .first .class:text-is('{digit}')")
            assert page.locator(".bars li").count() == 10
        page.wait_for_selector(".status:has-text('there and back')")
        assert re.match(r"[\d.]+ (µs|ms|s) ", page.inner_text(".status"))
        line = page.inner_text(".curl code")
        assert line.startswith("curl ")
        assert line.endswith(f"{address}/v2/models/{model}/infer")
        assert found.complaints == []
        assert all(url.startswith(address) for url in found.asked), found.asked


@pytest.mark.slow
def test_draw_with_keys_and_finger(browser: Any, address: str) -> None:
    phone = {"has_touch": True, "is_mobile": True, "viewport": {"width": 390, "height": 844}}
    with looked(browser, address, "digits_cnn", **phone) as found:
        page = found.page
        page.focus(".pad")
        page.keyboard.press("Space")
        for _ in range(30):
            page.keyboard.press("ArrowDown")
        page.keyboard.press("Space")
        page.wait_for_selector(".bars .first")
        until(page, "document.querySelector('.answer .unseen').textContent")
        page.keyboard.press("Escape")
        page.wait_for_selector(".bars", state="detached")
        protocol = page.context.new_cdp_session(page)
        page.locator(".pad").scroll_into_view_if_needed()
        before = page.evaluate("scrollY")
        box = page.locator(".pad").bounding_box()
        for kind, y in (("touchStart", 0.2), ("touchMove", 0.5), ("touchMove", 0.8)):
            at = {"x": box["x"] + 0.5 * box["width"], "y": box["y"] + y * box["height"]}
            protocol.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [at]})
        protocol.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait_for_selector(".bars .first")
        assert page.evaluate("scrollY") == before
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert found.complaints == []


@pytest.mark.slow
def test_tables(browser: Any, address: str) -> None:
    with looked(browser, address, "pair") as found:
        page = found.page
        take(page, "pairs.csv", "text/csv", b"c,a,b\n5,1,2.5\n7,-1,1\n")
        page.wait_for_selector(".outputs table")
        assert cells(page) == [["3.5", "6"], ["0", "8"]]
        assert "2 rows from pairs.csv" in page.inner_text("#form")
        page.fill("[aria-label='row 0, a']", "10")
        page.click("text=Add a row")
        page.click("#form button.main")
        page.wait_for_selector(".outputs tbody tr:nth-child(3)")
        assert cells(page) == [["12.5", "6"], ["0", "8"], ["0", "8"]]
        assert '"a":10' in page.inner_text(".curl code")
        page.fill("[aria-label=CSV]", "a,b\n1,2")
        page.press("[aria-label=CSV]", "Tab")
        assert error_of(page) == "Column c is missing; the table has a, b."
        assert found.complaints == []
    with looked(browser, address, "dense") as found:
        page = found.page
        text = "\n".join("1,0,0,1" for _ in range(300))
        page.fill("[aria-label=CSV]", text)
        page.press("[aria-label=CSV]", "Tab")
        page.wait_for_selector(".outputs table")
        assert cells(page) == [["3", "5", "7"]] * 100
        assert "200 more rows not shown" in page.inner_text(".outputs")
        with page.expect_download() as saved:
            page.click("text=Save as CSV")
        lines = Path(saved.value.path()).read_text().splitlines()
        assert lines == ["y[0],y[1],y[2]", *["3,5,7"] * 300]
        assert found.complaints == []


@pytest.mark.slow
def test_names_of_columns(browser: Any, address: str) -> None:
    with looked(browser, address, "flowers") as found:
        page = found.page
        assert page.locator(".edit thead th").all_inner_texts()[1:3] == ["width", "petal length"]
        take(page, "f.csv", "text/csv", b"petal length;x;width\n9;0;0\n1;0;9\n")
        page.wait_for_selector(".outputs table")
        assert [row[0] for row in cells(page)] == ["1", "0"]
        take(page, "g.csv", "text/csv", b"petal length;x\n9;0\n")
        assert error_of(page) == "Column width is missing; the table has petal length, x."
        assert found.complaints == []


@pytest.mark.slow
def test_drop_and_paste(browser: Any, address: str) -> None:
    with looked(browser, address, "pair") as found:
        page = found.page
        page.evaluate(
            """() => {
                const dataTransfer = new DataTransfer();
                dataTransfer.items.add(new File(["a,b,c\\n1,2,9007199254740993\\n"], "one.csv"));
                const drop = new DragEvent("drop", { dataTransfer, cancelable: true });
                document.querySelector(".drop").dispatchEvent(drop);
            }"""
        )
        page.wait_for_selector(".outputs table")
        assert cells(page) == [["3", "9007199254740994"]]  # no digit is lost on the way
        page.evaluate(
            """() => {
                const clipboardData = new DataTransfer();
                clipboardData.setData("text", "5\\t6\\t7\\n1\\t1\\t1");
                const paste = new ClipboardEvent("paste", { clipboardData, bubbles: true });
                document.querySelector(".edit input").dispatchEvent(paste);
            }"""
        )
        page.wait_for_selector(".outputs tbody tr:nth-child(2)")
        assert cells(page) == [["11", "8"], ["2", "2"]]
        assert found.complaints == []


@pytest.mark.slow
def test_a_name_is_only_text(browser: Any, address: str) -> None:
    with opened(browser, f"{address}/") as found:
        page = found.page
        page.fill("#filter", "50%")
        page.click(f'.row:has-text("{ODD}")')
        page.wait_for_selector("#form")
        assert page.inner_text(".head h2") == ODD
        page.click("#form button.main")
        page.wait_for_selector(".outputs table")
        assert "%3Ci%3E" in page.inner_text(".curl code")
        assert found.complaints == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["new_stream", "new_file"])
def test_arrow(browser: Any, address: str, kind: str) -> None:
    pa: Any = import_module("pyarrow")
    ipc: Any = import_module("pyarrow.ipc")
    x = np.arange(40, dtype=np.float32).reshape(10, 4)
    table = pa.table({f"c{k}": x[:, k] for k in range(4)})
    sink = io.BytesIO()
    with getattr(ipc, kind)(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    with looked(browser, address, "dense") as found:
        page = found.page
        take(page, "rows.arrow", "", sink.getvalue())
        page.wait_for_selector("text=Save answer.arrows")
        with page.expect_download() as saved:
            page.click("text=Save answer.arrows")
        answer = Path(saved.value.path()).read_bytes()
        assert f"10 rows · {len(answer):,} bytes" in page.inner_text(".status")
        got = ipc.open_stream(answer).read_all().column("y").combine_chunks()
        w = (np.arange(4)[:, None] + np.arange(3)).astype(np.float32)
        assert np.array_equal(np.asarray(got.flatten()).reshape(10, 3), x @ w)
        assert "-o answer.arrows" in page.inner_text(".curl code")
        assert found.complaints == []


@pytest.mark.slow
def test_image(browser: Any, address: str) -> None:
    image = Image.new("RGB", (120, 90), "white")
    line = [(30 + 50 * x, 10 + 70 * y) for x, y in HAND["2"]]
    ImageDraw.Draw(image).line(line, "black", 9)
    with looked(browser, address, "photo") as found:
        page = found.page
        for kind in ("png", "jpeg"):
            file = io.BytesIO()
            image.save(file, kind)
            take(page, f"two.{kind}", f"image/{kind}", file.getvalue())
            page.wait_for_selector(f".curl code:has-text('two.{kind}')")
            assert page.inner_text(".bars .first .class") == "digit 2"
            assert page.locator(".outputs canvas").count() == 1  # what the model saw
        assert page.evaluate("document.querySelector('.preview').naturalWidth") == 120
        take(page, "two.txt", "text/plain", b"2")
        assert error_of(page).startswith("Expected a PNG, JPEG")
        assert found.complaints == []
        take(page, "two.png", "image/png", b"2")
        page.wait_for_selector(".error:has-text('cannot read it as an image')")


@pytest.mark.slow
def test_texts_and_errors(browser: Any, address: str) -> None:
    with looked(browser, address, "parsed") as found:
        page = found.page
        page.fill("#form textarea", "1.5\n-2\n")
        page.click("#form button.main")
        page.wait_for_selector(".outputs table")
        assert cells(page) == [["1.5"], ["-2"]]
        assert found.complaints == []
        page.fill("#form textarea", "one")
        page.click("#form button.main")
        assert re.match(r"400: .*'one'", error_of(page))
        assert page.locator(".outputs table").count() == 0
        page.fill("#form textarea", "7")
        page.click("#form button.main")
        page.wait_for_selector(".outputs table")
        assert page.locator(".answer .error").is_hidden()
    with looked(browser, address, "broken") as found:
        assert "503" in found.page.inner_text("#model [role=alert]")
        assert "not a naru bundle" in found.page.inner_text("#model [role=alert]")
    with looked(browser, address, "no/such") as found:
        assert "404" in found.page.inner_text("#model [role=alert]")


@pytest.mark.slow
def test_json(browser: Any, address: str) -> None:
    with looked(browser, address, "digits_drawn") as found:
        page = found.page
        page.focus("[role=tab][aria-selected=true]")
        page.keyboard.press("End")
        area = page.locator("#form textarea")
        assert json.loads(area.input_value())["inputs"][0]["shape"] == [1, 1, 64, 64]
        page.fill("#form input[type=number]", "3")
        (tensor,) = json.loads(area.input_value())["inputs"]
        assert (tensor["shape"], tensor["data"]) == ([3, 1, 64, 64], "zeros")
        page.click("#form button.main")
        page.wait_for_selector(".outputs tbody tr:nth-child(3)")
        assert "@request.json" in page.inner_text(".curl code")
        assert found.complaints == []
        area.fill("{")
        page.click("#form button.main")
        assert "the body is not JSON" in error_of(page)


@pytest.mark.slow
def test_versions(browser: Any, address: str) -> None:
    with looked(browser, address, "versions") as found:
        page = found.page
        for version, want in (("9", ["0", "1", "2"]), ("10", ["0", "2", "4"])):
            page.select_option(".head select", version)
            until(page, f"location.hash.endsWith('/{version}')")
            page.wait_for_selector(f".head select:has(option[value='{version}']:checked)")
            page.wait_for_selector("#model[aria-busy=false] #form")
            page.click("text=Add a row")
            page.fill("[aria-label='row 0, x[1]']", "0")
            page.fill("[aria-label='row 0, x[0]']", "1")
            page.click("#form button.main")
            page.wait_for_selector(".outputs table")
            assert cells(page)[0] == want
        assert found.complaints == []


@pytest.mark.slow
def test_plots_move_and_pause(browser: Any, address: str) -> None:
    with looked(browser, address, "dense") as found:
        page = found.page

        def shown() -> list[str]:
            return page.locator(".plot .line").evaluate_all("e => e.map(x => x.getAttribute('d'))")

        def show(hidden: bool) -> None:
            page.evaluate(
                f"Object.defineProperty(document, 'hidden', {{value: {str(hidden).lower()}, "
                "configurable: true}); document.dispatchEvent(new Event('visibilitychange'))"
            )

        until(page, "document.querySelector('.plot .line').getAttribute('d')")
        before = shown()
        for _ in range(20):
            body = json.dumps([[1, 2, 3, 4]]).encode()
            urllib.request.urlopen(f"{address}/v2/models/dense/infer", body).close()
        page.wait_for_selector(".plot .most:not([hidden])")
        until(page, "document.querySelectorAll('.plot .line')[2].getAttribute('d')")
        assert shown() != before
        show(True)
        page.wait_for_timeout(1200)  # for what was on its way
        asked = len(found.asked)
        page.wait_for_timeout(2500)
        assert len(found.asked) == asked
        show(False)
        until(page, "document.querySelector('.plot .line').getAttribute('d').split('M').length > 2")
        assert len(found.asked) > asked
        assert found.complaints == []


@pytest.mark.slow
def test_list_by_keys(browser: Any, address: str) -> None:
    with opened(browser, f"{address}/") as found:
        page = found.page
        page.wait_for_selector(".row")
        assert "unavailable" in page.inner_text(".row:has-text('broken')")
        page.fill("#filter", "digits ready")
        assert page.inner_text("#count") == "3 of 11 models"
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        active = page.get_attribute("#list", "aria-activedescendant")
        page.keyboard.press("Enter")
        page.wait_for_selector("#model .head")
        assert page.inner_text(f"#{active} .model-name") == page.inner_text(".head h2")
        page.click(".row:has-text('digits_mlp')")
        page.wait_for_selector(".head h2:text-is('digits_mlp')")
        page.go_back()
        page.wait_for_selector(".head h2:text-is('digits_drawn')")
        assert found.complaints == []


@pytest.mark.slow
def test_ten_thousand_models(browser: Any, tmp_path: Path) -> None:
    root = tmp_path / "many"
    root.mkdir()
    first = models.dense(root / "model-00000.onnx")
    for k in range(1, MANY):
        os.link(first, root / f"model-{k:05d}.onnx")
    with server(root) as address, opened(browser, f"{address}/") as found:
        page = found.page
        page.wait_for_selector(".row")
        assert page.inner_text("#count") == "10,000 models"
        page.focus("#list")
        page.keyboard.press("End")
        page.wait_for_selector(".row:has-text('model-09999')")
        assert page.locator(".row").count() < 60
        page.fill("#filter", "777")
        until(page, "document.querySelector('#count').textContent == '19 of 10,000 models'")
        page.click(".row:has-text('model-07770')")
        page.wait_for_selector("#form")
        page.click("#form button.main")
        page.wait_for_selector(".outputs .bars")
        page.wait_for_selector(
            ".row[aria-selected=true]:has-text('rows a run'), .row:has-text('1 row a run')"
        )
        assert found.complaints == []


@pytest.mark.slow
def test_door(browser: Any, tmp_path: Path) -> None:
    models.dense(tmp_path / "models" / "dense.onnx")
    tokens = tmp_path / "tokens.toml"
    digest = hashlib.sha256(b"open sesame").hexdigest()
    tokens.write_text(f'[[token]]\nname = "a"\nsha256 = "{digest}"\n')
    with (
        server(tmp_path / "models", "--tokens", str(tokens)) as address,
        opened(browser, f"{address}/") as found,
    ):
        page = found.page
        page.wait_for_selector("#door")
        assert "Authorization: Bearer" in page.inner_text("#door-note")
        page.fill("#token", "open barley")
        page.keyboard.press("Enter")
        page.wait_for_selector("#door-note:has-text('not known')")
        page.fill("#token", "open sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector("#form")  # the one model is chosen
        assert page.locator("#door").is_hidden()
        page.click("#form button.main")
        page.wait_for_selector(".outputs .bars")
        line = page.inner_text(".curl code")
        assert '-H "Authorization: Bearer $TOKEN"' in line
        assert "sesame" not in line
        page.reload()
        page.wait_for_selector("#form")
        page.wait_for_selector(".plot b:text-is('0')")  # the statistics come, too
