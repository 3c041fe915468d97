"""The page at `/`: the models, a form to try each, and how fast the server answers. Its files come
with naru; it asks the server alone, so it works without a network."""

from __future__ import annotations

import hashlib
from importlib import resources

from naru.serve.dataplane import DataPlane
from naru.serve.http_messages import Response, not_allowed

_MEDIA = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
}
_INDEX = "index.html"
# Nothing from elsewhere, no frames, no guessing of types (Content Security Policy Level 3).
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)


class Page:
    """The files of the page, read once: `index.html` at `/`, the others under `/page/`."""

    def __init__(self, plane: DataPlane) -> None:
        self._files: dict[str, tuple[bytes, list[tuple[bytes, bytes]]]] = {}
        for file in resources.files(__package__ or "").iterdir():
            media = _MEDIA.get("." + file.name.rpartition(".")[2])
            if media is None:
                continue
            body = file.read_bytes()
            tag = b'"' + hashlib.sha256(body).hexdigest()[:16].encode() + b'"'
            headers = [(b"content-type", media), (b"etag", tag), *_HEADERS]
            self._files["/" if file.name == _INDEX else f"/page/{file.name}"] = body, headers

    def find(self, path: str, method: str) -> Response | None:
        """The answer for one of the page's paths; None for another path."""
        found = self._files.get(path)
        if found is None:
            return None
        if method not in ("GET", "HEAD"):
            return not_allowed(("GET", "HEAD"), method)
        body, headers = found
        return Response(200, list(headers), body)
