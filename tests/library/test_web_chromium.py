"""The WebAssembly package in a browser, under a strict Content-Security-Policy: Chromium without a
window, and a server of this file's own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

import naru
from naru.building import build
from naru.demo import FOLDER as DEMO
from naru.demo import load_images
from tests.library.chromium import chromium, opened

pytestmark = pytest.mark.slow

CSP = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'"
ISOLATED = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}


class Handler(SimpleHTTPRequestHandler):
    """Files, with headers; counts what was asked for."""

    extra: dict[str, str]
    asked: list[str]

    def end_headers(self) -> None:
        for name, value in self.extra.items():
            self.send_header(name, value)
        super().end_headers()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/favicon.ico":
            self.send_response(204)
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(folder: Path, headers: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """(address, paths that were asked for) of a server of a folder."""
    kind = type(
        "H", (Handler,), {"extra": {"Content-Security-Policy": CSP, **headers}, "asked": []}
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(kind, directory=str(folder)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", kind.asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    build(DEMO / "digits_mlp.onnx", folder, platform="wasm", name="m", cache=False)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


RUN = """async ({ image, options, inWorker }) => {
  const { load, loadInWorker } = await import("./m.js");
  const model = await (inWorker ? loadInWorker : load)(options);
  const checks = await model.selftest();
  const outputs = [];
  for (let k = 0; k < 3; k++) outputs.push((await model.run({ image })).logits.numbers());
  const { threads, relaxed } = model;
  const found = { threads, relaxed, isolated: crossOriginIsolated, checks, outputs };
  model.dispose();
  return found;
}"""


@pytest.mark.parametrize("in_worker", [False, True], ids=["page", "worker"])
@pytest.mark.parametrize("isolated", [False, True], ids=["one thread", "threads"])
@pytest.mark.parametrize("relaxed", [False, True], ids=["plain", "relaxed"])
def test_runs(package: Path, browser: Any, relaxed: bool, isolated: bool, in_worker: bool) -> None:
    image = load_images()[0].reshape(200, 64)
    want = naru.compile(DEMO / "digits_mlp.onnx", target="x86-64-baseline", cache=False)(image)
    options = {"threads": 3, "relaxed": relaxed}
    given = {"image": image.ravel().tolist(), "options": options, "inWorker": in_worker}
    with (
        serving(package, ISOLATED if isolated else {}) as (address, _),
        opened(browser, address) as (page, complaints, _),
    ):
        said = page.evaluate(RUN, given)
    assert said["isolated"] is isolated
    assert said["threads"] == (3 if isolated else 1)
    assert said["checks"][0]["error"] <= said["checks"][0]["limit"]
    assert said["relaxed"] is relaxed
    for output in said["outputs"]:
        got = np.float32(output).reshape(200, 10)
        assert np.abs(got - want).max() <= (1e-5 if relaxed else 0) * np.abs(want).max()
    assert complaints == []


def test_the_page(package: Path, browser: Any) -> None:
    with (
        serving(package, ISOLATED) as (address, _),
        opened(browser, address) as (page, complaints, _),
    ):
        page.wait_for_selector("#outputs td")
        assert "ms, the median of" in page.inner_text("#state")
        assert "float32[2, 10]" in page.inner_text("#outputs")
        assert "self-test" in page.inner_text("#facts")
        page.click("#run")
        assert complaints == []


def test_weights_are_kept_and_checked(package: Path, browser: Any, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    shutil.copytree(package, folder)
    load = """async (options) => {
      const { load } = await import("./m.js");
      try {
        const model = await load(options);
        await model.selftest();
        // What is kept is written after the model is there.
        for (let k = 0; k < 100 && !(await (await caches.open("naru")).keys()).length; k++)
          await new Promise((done) => setTimeout(done, 20));
        return (await (await caches.open("naru")).keys()).map((r) => r.url);
      } catch (error) {
        return [error.code, error.message];
      }
    }"""
    spoil = """async () => {
      const store = await caches.open("naru");
      const [request] = await store.keys();
      const bytes = new Uint8Array(await (await store.match(request)).arrayBuffer());
      bytes[3000] ^= 1;
      await store.put(request, new Response(bytes));
    }"""
    fresh = {"Cache-Control": "no-store"}
    with (
        serving(folder, fresh) as (address, asked),
        opened(browser, address) as (page, complaints, _),
    ):
        page.wait_for_selector("#outputs td")
        asked.clear()
        (kept,) = page.evaluate(load, {})
        assert "m.weights?naru=" in kept
        assert not any("weights" in path for path in asked)
        page.evaluate(spoil)
        assert page.evaluate(load, {}) == [kept]
        assert sum("weights" in path for path in asked) == 1
        damaged = bytearray((folder / "m.weights").read_bytes())
        damaged[4000] ^= 1
        (folder / "m.weights").write_bytes(damaged)
        assert page.evaluate(load, {}) == [kept]  # the file is not asked for
        code, message = page.evaluate(load, {"cache": False})
        assert (code, "is damaged" in message) == ("weights", True)
        (folder / "m.weights").unlink()
        code, message = page.evaluate(load, {"cache": False})
        assert (code, "answered 404" in message) == ("download", True)
    assert all("404" in text for text in complaints)


def test_files_of_an_earlier_build_in_caches(package: Path, browser: Any, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    shutil.copytree(package, folder)
    build(
        DEMO / "digits_mlp.onnx", tmp_path / "new",
        platform="wasm", name="m", cache=False, half_weights=True,
    )  # fmt: skip
    stale = {"Cache-Control": "max-age=3600"}
    with (
        serving(folder, stale) as (address, asked),
        opened(browser, address) as (page, complaints, _),
    ):
        page.wait_for_selector("#outputs td")
        for path in (tmp_path / "new").iterdir():
            shutil.copy(path, folder)
        asked.clear()
        load = """async () => {
          const { load } = await import("./m.js?new");
          return (await load({ threads: 1 })).info.classes.weights;
        }"""
        assert page.evaluate(load) == "fp16"
        assert sorted(asked) == ["/m.js?new", "/m.relaxed.wasm", "/m.weights"]
        assert complaints == []


def test_a_policy_that_forbids_it_is_told(package: Path, browser: Any) -> None:
    with (
        serving(package, {"Content-Security-Policy": "script-src 'self'"}) as (address, _),
        opened(browser, address) as (page, _, _),
    ):
        page.wait_for_selector(".error")
        text = page.inner_text("#state")
    assert text.startswith("module: ")
    assert "wasm-unsafe-eval" in text
