"""An explanation as one HTML page that needs nothing else: no network, no other file.

What comes from a model (names of nodes, of tensors) may be hostile: it reaches the page as JSON
without `<`, `>` and `&`, and the script only ever puts it into text nodes.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from naru.artifact.bundle import Bundle
from naru.explain.drawing import HEIGHT, WIDTH, draw
from naru.explain.report import Explanation
from naru.explain.text import heading, summary
from naru.files import write_text

Json = dict[str, Any]


def write_page(path: Path, bundle: Bundle, found: Explanation) -> None:
    """Writes the page to a file. InputError where that is not possible."""
    write_text(path, make_page(bundle, found))


def make_page(bundle: Bundle, found: Explanation) -> str:
    """The text of the page."""
    name = str(bundle.manifest["source"].get("name") or "model")
    parts = {
        "title": html.escape(f"{name}: naru explain"),
        "style": _file("page.css"),
        "script": _file("page.js"),
        "data": embed(page_data(name, bundle, found)),
    }
    head, *rest = _file("page.html").split("{{")
    pieces = [head]
    for part in rest:  # not str.replace: what was put in is not searched again
        key, _, text = part.partition("}}")
        pieces += [parts[key], text]
    return "".join(pieces)


def _file(name: str) -> str:
    return resources.files(__package__ or "naru.explain").joinpath(name).read_text(encoding="utf-8")


def embed(value: object) -> str:
    """JSON that may stand inside a `script` element, whatever texts it has."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def page_data(name: str, bundle: Bundle, found: Explanation) -> Json:
    """What the script draws."""
    steps, tensors = _steps(bundle), bundle.manifest.get("tensors", [])
    index = {r.name: k for k, r in enumerate(found.rows)}
    times = [s.ns for s in found.steps]
    rows = [{**r.as_json(), "ns": r.ns, "above": r.above} for r in found.rows]
    return {
        "name": name,
        "timed": bool(times),
        "heading": heading(bundle, found),
        "summary": summary(found)[:1],
        "total": found.ns or found.predicted,
        "predicted": found.predicted,
        "flops": sum(r.measured.flops or 0 for r in found.rows if r.measured),
        "at_roof": sum(r.bound.ns for r in found.rows if r.bound),
        "target": bundle.manifest["target"]["name"],
        "sizes": dict(found.sizes),
        "untimed": found.untimed,
        "roofs": found.roofs and found.roofs.as_json(),
        "rows": rows,
        "steps": [
            {**s, "row": index.get(s["name"]), "ns": times[k] if k < len(times) else None}
            for k, s in enumerate(steps)
        ],
        "tensors": tensors,
        "drawing": {**draw(steps, tensors), "node": [WIDTH, HEIGHT]},
    }


def _steps(bundle: Bundle) -> Sequence[Json]:
    """The steps of a run; of a bundle that has only their names, without what they read."""
    if "steps" in bundle.manifest:
        return bundle.manifest["steps"]
    profile = next((e for e in bundle.entries if e.name == "profile"), bundle.entries[0])
    return [{"name": n, "nodes": [], "reads": [], "writes": []} for n in profile.steps]
