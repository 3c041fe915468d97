"""Forgets nodes that no output needs."""

from __future__ import annotations

from dataclasses import replace

from naru.ir.graph import Graph, toposort
from naru.passes.registry import graph_pass


@graph_pass
def remove_dead(g: Graph) -> Graph:
    """Drops the notes of nodes that no output reaches; the nodes themselves are gone already,
    because a graph is its outputs (see [Note: no dead-code or CSE pass] in registry.py)."""
    alive = set(toposort(*g.outputs))
    notes = {n: text for n, text in g.notes.items() if n in alive}
    return g if len(notes) == len(g.notes) else replace(g, notes=notes)
