"""The page at `/`: the models, a form to try each, and how fast the server answers. Its files come
with naru; it asks the server alone, so it works without a network."""

from __future__ import annotations

import hashlib
from importlib import resources

from naru.serve.dataplane import DataPlane
from naru.serve.http_messages import Response, not_allowed

_FILES = {
    "/": ("index.html", b"text/html; charset=utf-8"),
    "/page/page.js": ("page.js", b"text/javascript; charset=utf-8"),
    "/page/page.css": ("page.css", b"text/css; charset=utf-8"),
}
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
    """The files of the page, read once."""

    def __init__(self, plane: DataPlane) -> None:
        folder = resources.files(__package__ or "")
        self._files: dict[str, tuple[bytes, bytes]] = {
            path: ((folder / name).read_bytes(), media) for path, (name, media) in _FILES.items()
        }

    def find(self, path: str, method: str) -> Response | None:
        """The answer for one of the page's paths; None for another path."""
        found = self._files.get(path)
        if found is None:
            return None
        if method not in ("GET", "HEAD"):
            return not_allowed(("GET", "HEAD"), method)
        body, media = found
        tag = hashlib.sha256(body).hexdigest()[:16].encode()
        return Response(
            200, [(b"content-type", media), (b"etag", b'"' + tag + b'"'), *_HEADERS], body
        )
