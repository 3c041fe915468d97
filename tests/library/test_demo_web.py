"""The page of `naru demo --web`: its files, its server, and somebody who draws on it."""

from __future__ import annotations

import base64
import http.client
import io
import itertools
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import naru
from naru.cli import main
from naru.demo import FOLDER, load_images
from naru.demo.web import PAGE, PageServer, write_page
from naru.errors import InputError
from naru.library.folder import LIST
from naru.runtime.model import Model
from tests.library.chromium import Opened, chromium, opened

DRAWN = FOLDER / "digits_drawn.onnx"
Array = np.ndarray
Point = tuple[float, float]
TIME = r"\d+ µs|\d+\.\d\d ms"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "site"
    write_page(folder)
    return folder


@contextmanager
def served(folder: Path) -> Iterator[PageServer]:
    with PageServer(folder, 0) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


# ---- the model ----


@pytest.fixture(scope="module")
def reader() -> Model:
    """The model of the page as native code."""
    return naru.compile(
        DRAWN,
        target="x86-64-baseline",
        preprocess="image(pixels=rgba, background=white, invert, filter=box)",
        postprocess="scores=softmax",
    )


def on_canvas(image: Array, side: int) -> Array:
    """A digit of 8 x 8 as somebody would draw it on a transparent canvas: black, with an edge."""
    large = Image.fromarray((image * 255).astype(np.uint8)).resize(
        (side * 3 // 4, side * 3 // 4), Image.Resampling.BICUBIC
    )
    canvas = np.zeros((side, side, 4), np.uint8)
    at = side // 8
    ink = np.asarray(large).astype(np.float32) / 255
    canvas[at : at + ink.shape[0], at : at + ink.shape[1], 3] = (
        np.clip((ink - 0.45) * 12 + 0.5, 0, 1) * 255
    )
    return canvas


@pytest.mark.parametrize("side", [280, 392])
def test_reads_digits_that_it_never_saw(reader: Model, side: int) -> None:
    images, labels = load_images()
    read = [np.asarray(reader(on_canvas(x, side))[0]).argmax() for x in images]
    assert (np.array(read) == labels).mean() >= 0.97


def test_size_and_place_do_not_matter(reader: Model) -> None:
    images, labels = load_images()
    right = 0
    for k, image in enumerate(images[:50]):
        small = on_canvas(image, 120)
        canvas = np.zeros((392, 392, 4), np.uint8)
        y, x = (k * 37) % 272, (k * 91) % 272
        canvas[y : y + 120, x : x + 120] = small
        right += int(np.asarray(reader(canvas)[0]).argmax() == labels[k])
    assert right >= 48


def test_equals_onnx_runtime() -> None:
    images, _ = load_images()
    drawings = np.stack([on_canvas(x, 64)[:, :, 3] for x in images[:20]])[:, None] / np.float32(255)
    want = onnxruntime.InferenceSession(DRAWN).run(None, {"drawing": drawings})
    got = naru.compile(DRAWN)(drawings)
    for a, b in zip(got, want, strict=True):
        assert np.abs(np.asarray(a) - np.asarray(b)).max() <= 1e-5 * np.abs(np.asarray(b)).max()


def test_an_empty_canvas_and_a_full_one(reader: Model) -> None:
    for alpha in (0, 255):
        canvas = np.zeros((100, 80, 4), np.uint8)
        canvas[..., 3] = alpha
        scores, seen = map(np.asarray, reader(canvas))
        assert np.isfinite(scores).all()
        assert scores.sum() == pytest.approx(1, abs=1e-5)
        assert seen.max() == (0 if alpha == 0 else pytest.approx(1, abs=1e-5))


# ---- the files ----


def test_the_folder_is_whole(site: Path) -> None:
    names = {p.name for p in site.iterdir()}
    assert names == {*(p.name for p in PAGE.iterdir()), "model", "sizes.js", LIST}
    html = (site / "index.html").read_text()
    for reference in re.findall(r'(?:src|href)="([^"]+)"', html):
        assert (site / reference).is_file(), reference
    for script in ("page.js", "examples.js"):
        for imported in re.findall(r'from "([^"]+)"', (site / script).read_text()):
            assert (site / imported).is_file(), imported
    # Nothing that the policy forbids, and nothing from elsewhere.
    assert "script-src 'self' 'wasm-unsafe-eval'" in html
    assert not re.search(r"<style|\sstyle=|<script>|\son\w+=", html)
    for path in site.glob("*.*"):
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|@import", text), path
    sizes = (site / "sizes.js").read_text()
    weights = (site / "model" / "digits.weights").stat().st_size
    assert f'"digits.weights": [{weights}, ' in sizes


def test_what_a_page_downloads_is_small(site: Path) -> None:
    found = dict(re.findall(r'"([^"]+)": \[\d+, (\d+)\]', (site / "sizes.js").read_text()))
    asked = ("digits.js", "digits.relaxed.wasm", "digits.weights")
    assert sum(int(found[name]) for name in asked) <= 60_000
    assert DRAWN.stat().st_size <= 100_000


def test_written_again_and_refused(site: Path, tmp_path: Path) -> None:
    again = tmp_path / "a" / "b"
    files = write_page(again)
    for path in files:
        assert path.read_bytes() == (site / path.relative_to(again)).read_bytes()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder"):
        write_page(tmp_path / "file")


# ---- the server ----


def ask(server: PageServer, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_types_and_headers(site: Path) -> None:
    with served(site) as server:
        for path, kind in {
            "/": "text/html; charset=utf-8",
            "/page.js": "text/javascript; charset=utf-8",
            "/model/digits.wasm": "application/wasm",
            "/icon.svg": "image/svg+xml",
            "/model/digits.weights": "application/octet-stream",
        }.items():
            status, headers, body = ask(server, path)
            assert (status, headers["content-type"]) == (200, kind), path
            assert len(body) == int(headers["content-length"])
            assert headers["cross-origin-opener-policy"] == "same-origin"
            assert headers["cross-origin-embedder-policy"] == "require-corp"
            assert "script-src 'self' 'wasm-unsafe-eval'" in headers["content-security-policy"]
        assert ask(server, "/nothing")[0] == 404
        assert ask(server, "/../../etc/passwd")[0] == 404


def test_a_port_that_is_taken(site: Path) -> None:
    with served(site) as server, pytest.raises(InputError) as caught:
        PageServer(site, server.server_port)
    assert f"cannot serve on port {server.server_port}: Address already in use" in str(caught.value)
    assert "--port" in str(caught.value)
    with pytest.raises(InputError, match="there is no such port"):
        PageServer(site, 70000)


def test_options_that_do_not_fit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["demo", "--port", "80"]) != 0
    assert "naru demo --web" in capsys.readouterr().err
    assert main(["demo", "--web", "--no-open", "-o", str(tmp_path)]) != 0
    assert "serves nothing" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_ends_it() -> None:
    command = [sys.executable, "-m", "naru", "demo", "--web", "--port", "0", "--no-open"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert found, line
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=20)
        connection.request("GET", "/")
        assert b"Draw a digit" in connection.getresponse().read()
        connection.close()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in said


# ---- somebody draws ----

# In a hand of this file's own, not one of models/strokes.py: points in a square of side 100, to the
# right and down, and strokes apart by "/".
WRITTEN = {
    "0": "55,2 30,8 12,40 20,80 50,100 80,75 85,35 60,5",
    "1": "30,20 52,2 50,50 48,100",
    "2": "15,20 40,0 72,8 78,35 50,68 10,98 90,95",
    "3": "15,8 50,0 78,15 70,38 40,47 75,58 85,80 50,100 10,90",
    "4": "35,2 20,35 8,62 50,63 92,60 / 68,30 66,65 62,100",
    "5": "80,2 25,4 20,42 55,38 82,60 70,90 40,100 10,90",
    "6": "65,0 35,25 15,65 30,95 60,98 80,75 60,55 20,68",
    "7": "10,5 50,6 88,3 60,50 42,100",
    "8": "72,15 50,0 25,15 45,43 78,72 55,100 20,82 45,48 74,20",
    "9": "78,15 45,2 20,25 42,48 75,30 80,12 76,60 70,100",
}
HAND = {
    digit: [
        [
            (float(x) / 100, float(y) / 100)
            for x, y in (point.split(",") for point in stroke.split())
        ]
        for stroke in text.split("/")
    ]
    for digit, text in WRITTEN.items()
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[PageServer]:
    with served(site) as made:
        yield made


@contextmanager
def ready(browser: Any, server: PageServer, **context: Any) -> Iterator[Opened]:
    """The page, when its model is there, before it draws an example by itself."""
    context = {"reduced_motion": "reduce", **context}
    with opened(browser, server.address, **context) as found:
        found.page.wait_for_selector("#engine dd")
        found.page.click("#clear")
        yield found


def draw(page: Any, strokes: list[list[Point]], left: float, top: float, size: float) -> None:
    """With the mouse; places are parts of the canvas."""
    box = page.locator("#pad").bounding_box()

    def at(point: Point) -> tuple[float, float]:
        x, y = left + size * point[0], top + size * point[1]
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    for stroke in strokes:
        page.mouse.move(*at(stroke[0]))
        page.mouse.down()
        for point in stroke[1:]:
            page.mouse.move(*at(point), steps=4)
        page.mouse.up()


def pixels(page: Any) -> Array:
    """What is on the canvas, uint8 [height, width, 4]."""
    url = page.evaluate("document.querySelector('#pad').toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGBA"))


def runs(page: Any) -> int:
    return int(page.inner_text("#runs").replace(",", ""))


@pytest.mark.slow
def test_draw_every_digit(browser: Any, server: PageServer, reader: Model) -> None:
    with ready(browser, server) as found:
        page = found.page
        for digit, strokes in HAND.items():
            page.click("#clear")
            before = runs(page)
            draw(page, strokes, 0.15, 0.12, 0.7)
            assert page.inner_text("#digit") == digit
            assert page.inner_text("#bars .first .class") == digit
            assert runs(page) - before >= 8  # it reads at every move
            scores = np.asarray(reader(pixels(page))[0])[0]
            assert scores.argmax() == int(digit)
            shown = page.inner_text("#bars .first .part")
            assert shown in (f"{100 * scores.max():.0f}%", ">99%"), (shown, scores)
            assert digit in page.inner_text("#said")
        assert re.fullmatch(TIME, page.inner_text("#last"))
        assert re.fullmatch(TIME, page.inner_text("#median"))
        draw(page, [[(0.1, 0.1), (0.9, 0.9)]], 0.05, 0.05, 0.9)  # over the last digit: anything
        assert found.complaints == []
        assert all(url.startswith(server.address) for url in found.asked), found.asked


@pytest.mark.slow
def test_clear(browser: Any, server: PageServer) -> None:
    with ready(browser, server) as found:
        page = found.page
        draw(page, HAND["3"], 0.5, 0.5, 0.35)
        assert page.inner_text("#digit") == "3"
        assert pixels(page)[..., 3].any()
        page.click("#clear")
        assert not pixels(page)[..., 3].any()
        assert page.inner_text("#digit") == "·"
        assert page.inner_text("#sure") == "Nothing drawn yet."
        assert page.locator("#bars .first").count() == 0
        draw(page, HAND["7"], 0.05, 0.05, 0.35)
        page.keyboard.press("Escape")
        assert page.inner_text("#digit") == "·"
        assert found.complaints == []


@pytest.mark.slow
def test_touch(browser: Any, server: PageServer) -> None:
    context = {"has_touch": True, "is_mobile": True, "viewport": {"width": 390, "height": 844}}
    with ready(browser, server, **context, device_scale_factor=2) as found:
        page = found.page
        protocol = page.context.new_cdp_session(page)
        box = page.locator("#pad").bounding_box()

        def touch(kind: str, *points: Point) -> None:
            def along(side: str, start: str, t: float) -> float:
                return box[start] + (0.2 + 0.6 * t) * box[side]

            at = [{"x": along("width", "x", x), "y": along("height", "y", y)} for x, y in points]
            protocol.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

        (stroke,) = HAND["2"]
        touch("touchStart", stroke[0])
        for (x, y), (x2, y2) in itertools.pairwise(stroke):
            for t in (0.25, 0.5, 0.75, 1):
                touch("touchMove", (x + t * (x2 - x), y + t * (y2 - y)))
        touch("touchEnd")
        page.wait_for_selector("#bars .first")
        assert page.inner_text("#digit") == "2"
        assert page.evaluate("scrollY") == 0  # the page stays where it is
        assert found.complaints == []


@pytest.mark.slow
def test_keys_draw(browser: Any, server: PageServer) -> None:
    with ready(browser, server) as found:
        page = found.page
        right = 0
        for digit in "0123456789":
            page.keyboard.press(digit)
            right += page.inner_text("#digit") == digit
        assert right >= 9  # each is drawn another way every time
        page.keyboard.press("Delete")
        assert page.inner_text("#digit") == "·"
        page.click("#example")
        assert page.inner_text("#digit") != "·"
        # Who draws on an example begins anew.
        draw(page, HAND["0"], 0.2, 0.2, 0.6)
        assert page.inner_text("#digit") == "0"
        for control in ("#clear", "#example", "input[value=relaxed]"):  # after the canvas
            page.keyboard.press("Tab")
            assert page.locator(f"{control}:focus-visible").count() == 1, control
        page.keyboard.press("ArrowLeft")
        assert page.locator("input[value=plain]").is_checked()
        assert found.complaints == []


@pytest.mark.slow
def test_it_draws_by_itself_until_somebody_does(browser: Any, server: PageServer) -> None:
    with opened(browser, server.address) as found:
        found.page.wait_for_selector("body.drawn")
        found.page.wait_for_selector("#bars .first")
        draw(found.page, HAND["0"], 0.2, 0.2, 0.6)  # while it still draws
        found.page.wait_for_timeout(500)
        assert found.page.inner_text("#digit") == "0"
        assert found.complaints == []


@pytest.mark.slow
def test_the_switch_of_arithmetic(browser: Any, server: PageServer) -> None:
    with ready(browser, server) as found:
        page = found.page
        assert page.locator("input[value=relaxed]").is_checked()
        draw(page, HAND["5"], 0.2, 0.2, 0.6)
        assert re.fullmatch(TIME, page.inner_text("#median-plain"))
        assert re.fullmatch(TIME, page.inner_text("#median-relaxed"))
        page.click("label:has([value=plain])")
        assert page.inner_text("#digit") == "5"
        assert "there, not used" in page.inner_text("#engine")
        assert runs(page) == 16  # fifteen to begin with
        assert re.fullmatch(r"[\d.]+ kB", page.inner_text("#total"))
        assert found.complaints == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 360, 390, 820, 1280])
def test_how_it_looks(browser: Any, server: PageServer, width: int, scheme: str) -> None:
    viewport = {"width": width, "height": 844}
    with ready(browser, server, viewport=viewport, color_scheme=scheme) as found:
        page = found.page
        draw(page, HAND["4"], 0.15, 0.12, 0.7)
        page.wait_for_timeout(200)  # the bars move
        picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        answer = page.locator("#bars").bounding_box()
        assert answer["y"] + answer["height"] <= 844  # what it says is seen while one draws
        assert found.complaints == []
    colors = {c for _, c in picture.getcolors(1 << 24) or []}
    assert len(colors) > 100
    ground = (244, 241, 234) if scheme == "light" else (13, 21, 25)
    best = (226, 96, 58) if scheme == "light" else (255, 138, 95)
    ink = (0, 0, 0) if scheme == "light" else (255, 255, 255)
    assert {ground, best, ink} <= colors


@pytest.mark.slow
def test_what_is_missing_is_told(browser: Any, site: Path, tmp_path: Path) -> None:
    for path in site.rglob("*"):
        if path.is_file() and path.name != "digits.weights":
            (tmp_path / path.relative_to(site)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path.relative_to(site)).write_bytes(path.read_bytes())
    with served(tmp_path) as server, opened(browser, server.address) as found:
        found.page.wait_for_selector("#sure.wrong")
        assert "404" in found.page.inner_text("#sure")
