"""Places the steps of a run in layers, for the page: who reads stands below who writes.

Sugiyama's method in its simplest form: layers by the longest path, corners where an edge passes a
layer, order within layers by the mean of the neighbours, then positions likewise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = Mapping[str, Any]

WIDTH, HEIGHT = 216, 44  # of a node, in pixels
GAP, CORNER, RISE = 28, 18, 76  # between nodes, width of a corner, from layer to layer
SWEEPS = 8


@dataclass(eq=False)
class Place:
    """A node of the drawing: a step, a tensor of the interface, or a corner of an edge."""

    layer: int
    step: int | None = None
    tensor: int | None = None
    above: list[Place] = field(default_factory=list["Place"])
    below: list[Place] = field(default_factory=list["Place"])
    x: float = 0.0

    @property
    def width(self) -> int:
        return CORNER if self.step is None and self.tensor is None else WIDTH


@dataclass(frozen=True)
class Edge:
    """A tensor on its way, through corners."""

    tensor: int
    path: tuple[Place, ...]


def draw(steps: Sequence[Json], tensors: Sequence[Json]) -> dict[str, Any]:
    """{width, height, nodes: [{x, y, step | tensor}], edges: [{tensor, points}]}; x and y are the
    middle of a node's upper edge."""
    places, links = _connect(steps, tensors)
    corners: dict[tuple[Place, int], Place] = {}
    edges = [Edge(t, tuple(_route(a, b, corners))) for a, b, t in links]
    for e in edges:
        for a, b in zip(e.path, e.path[1:], strict=False):
            if b not in a.below:
                a.below.append(b)
                b.above.append(a)
    every = [*places, *corners.values()]
    layers = _layers(every)
    _arrange(layers)
    left = min((p.x - p.width / 2 for p in every), default=0.0) - GAP
    right = max((p.x + p.width / 2 for p in every), default=0.0) + GAP
    return {
        "width": round(right - left),
        "height": len(layers) * RISE + GAP,
        "nodes": [_node(p, left) for p in places],
        "edges": [{"tensor": e.tensor, "points": _points(e, left)} for e in edges],
    }


def _connect(
    steps: Sequence[Json], tensors: Sequence[Json]
) -> tuple[list[Place], list[tuple[Place, Place, int]]]:
    """A place for each step and each input and output, and who reads what from whom."""
    places: list[Place] = []
    links: list[tuple[Place, Place, int]] = []
    writer: dict[int, Place] = {}
    for k, s in enumerate(steps):
        here, reads = Place(0, step=k), list[int](s["reads"])
        for t in dict.fromkeys(reads):
            if tensors[t].get("kind") == "input" and t not in writer:
                writer[t] = Place(0, tensor=t)
                places.append(writer[t])
            if t in writer:
                links.append((writer[t], here, t))
                here.layer = max(here.layer, writer[t].layer + 1)
        places.append(here)
        writer |= dict.fromkeys(s["writes"], here)
    for t, source in writer.items():
        if tensors[t].get("kind") == "output":
            places.append(Place(source.layer + 1, tensor=t))
            links.append((source, places[-1], t))
    _lower_inputs(places, links)
    return places, links


def _lower_inputs(places: Sequence[Place], links: Sequence[tuple[Place, Place, int]]) -> None:
    """An input stands just above who reads it first."""
    first: dict[Place, int] = {}
    for a, b, _ in links:
        first[a] = min(first.get(a, b.layer), b.layer)
    for p in places:
        if p.tensor is not None and p.layer == 0:
            p.layer = first.get(p, 1) - 1


def _route(a: Place, b: Place, corners: dict[tuple[Place, int], Place]) -> Iterator[Place]:
    """The places that an edge passes. Edges from one place share their corners."""
    yield a
    for layer in range(a.layer + 1, b.layer):
        yield corners.setdefault((a, layer), Place(layer))
    yield b


def _layers(places: Sequence[Place]) -> list[list[Place]]:
    layers: list[list[Place]] = [[] for _ in range(max((p.layer for p in places), default=-1) + 1)]
    for p in places:
        layers[p.layer].append(p)
    return layers


def _mean(neighbours: Sequence[Place], default: float) -> float:
    return sum(p.x for p in neighbours) / len(neighbours) if neighbours else default


def _arrange(layers: Sequence[list[Place]]) -> None:
    """Order and x of every place."""
    for layer in layers:
        _spread(layer, [0.0] * len(layer))
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            wanted = {p: _mean(p.above if down else p.below, p.x) for p in layer}
            if sweep < SWEEPS // 2:
                layer.sort(key=lambda p: wanted[p])
            _spread(layer, [wanted[p] for p in layer])


def _spread(layer: Sequence[Place], wanted: Sequence[float]) -> None:
    """The nearest positions to those wanted that keep the order and don't overlap."""
    edge = -1e18
    for p, x in zip(layer, wanted, strict=True):
        p.x = max(x, edge + GAP + p.width / 2)
        edge = p.x + p.width / 2
    shift = sum(x - p.x for p, x in zip(layer, wanted, strict=True)) / max(len(layer), 1)
    for p in layer:
        p.x += shift


def _node(p: Place, left: float) -> dict[str, Any]:
    own = {"step": p.step} if p.step is not None else {"tensor": p.tensor}
    return {"x": round(p.x - left), "y": p.layer * RISE + GAP, **own}


def _points(e: Edge, left: float) -> list[list[int]]:
    """From the lower edge of the first place through the corners to the upper edge of the last."""
    points: list[list[int]] = []
    for k, p in enumerate(e.path):
        x, top = round(p.x - left), p.layer * RISE + GAP
        if k == 0:
            points.append([x, top + HEIGHT])
        elif k == len(e.path) - 1:
            points.append([x, top])
        else:
            points += [[x, top], [x, top + HEIGHT]]
    return points
