"""`naru demo --web`: a page on which one draws a digit, read by a model compiled to WebAssembly.

The page is in `web/`. Its model takes the pixels of the canvas as they are: blending, shrinking,
centring and the softmax are compiled with the network.
"""

from __future__ import annotations

import errno
import gzip
import json
import os
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from naru.building import build
from naru.demo import FOLDER
from naru.errors import InputError
from naru.library.folder import replacing_files
from naru.options import Progress

PAGE = FOLDER / "web"
PORT = 8000
HOST = "127.0.0.1"
POLICY = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; frame-ancestors 'none'"
# With the second and third, a page is isolated: its clock counts in steps of 5 microseconds, and it
# may have threads.
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}


def write_page(
    folder: Path, *, cache: bool = True, on_progress: Progress | None = None
) -> tuple[Path, ...]:
    """Writes the page, and its model into `model/`: files for any web server. InputError where the
    folder cannot be written."""
    with replacing_files(folder) as part:
        build(
            FOLDER / "digits_drawn.onnx",
            part / "model",
            platform="wasm",
            name="digits",
            half_weights=True,
            preprocess="image(pixels=rgba, background=white, invert, filter=box)",
            postprocess="scores=softmax",
            labels=[str(k) for k in range(10)],
            cache=cache,
            on_progress=on_progress,
        )
        (part / "sizes.js").write_text(_sizes(part / "model"), encoding="utf-8")
        for path in PAGE.iterdir():
            (part / path.name).write_bytes(path.read_bytes())
        names = sorted(p.relative_to(part) for p in part.rglob("*") if p.is_file())
    return tuple(folder / name for name in names)


def _sizes(model: Path) -> str:
    """What the page says of its download: bytes of the model's files, raw and compressed."""
    sizes = {
        path.name: [path.stat().st_size, len(gzip.compress(path.read_bytes(), 9))]
        for path in sorted(model.iterdir())
    }
    return f"export const SIZES = {json.dumps(sizes)};\n"


class PageServer(ThreadingHTTPServer):
    """Serves a folder on this machine only, with HEADERS. Port 0 is any that is free; InputError
    where the port is taken."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int = PORT) -> None:
        try:
            super().__init__((HOST, port), partial(_Handler, directory=os.fspath(folder)))
        except (OSError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            reason = error.strerror if isinstance(error, OSError) else "there is no such port"
            raise InputError(
                f"cannot serve on port {port}: {reason}",
                hint="--port with another number, or --port 0 for any that is free",
            ) from None

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/"


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = TYPES  # not those of the system, which may not know .wasm

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """A page that is asked for is no news."""
