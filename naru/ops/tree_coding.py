"""How numbers become the codes that trees decide by (see tree_codes.py)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from naru.ops.tree_codes import BRANCHES, LEVELS
from naru.ops.tree_questions import Questions

Array = np.ndarray
SPAN = 255  # borders that one row of codes tells apart
LOW, HIGH = -128, 127  # codes: below every border, above every border
MOST_LOOKUP = 1 << 22  # bytes of the tables from ranks to codes


@dataclass(frozen=True)
class Coding:
    """The tables of `tree_codes`."""

    features: Array
    levels: Array
    starts: Array
    ranks: Array
    borders: Array
    rows: Array
    places: Array
    lookup: Array


@dataclass(frozen=True)
class _Borders:
    """The borders of all features that are asked for: of a border its feature (as an index of
    `features`) and its number among those of the feature, ascending."""

    features: Array
    group: Array
    value: Array
    number: Array
    counts: Array


def make_coding(q: Questions, order: Array) -> tuple[Coding, Array, Array] | None:
    """How x is coded, and for each inner node the row of codes that it asks for, and its cut."""
    features, group = np.unique(q.features[order], return_inverse=True)
    place = np.full(q.leaf.size, -1)
    place[order] = np.arange(order.size)
    asked = {int(place[k]): b[~np.isnan(b)] for k, b in q.sets.items() if place[k] >= 0}
    below = {int(place[k]): bool(np.isnan(b).sum() % 2) for k, b in q.sets.items()}
    plain = np.ones(order.size, np.bool_)
    plain[list(asked)] = False
    values = [q.splits[order[plain]], *asked.values()]
    owners = [group[plain], *(np.full(b.size, group[k]) for k, b in asked.items())]
    borders, which = _borders(features, np.concatenate(owners), np.concatenate(values))
    counts = borders.counts.astype(np.int64)
    if int(((counts // SPAN + 1) * (counts + 2)).sum()) > MOST_LOOKUP:
        return None  # (a table for each row of codes, of all ranks)
    made = _Rows(borders.counts + 1)
    rows, cuts = np.zeros(order.size, np.int64), np.zeros(order.size, np.int64)
    number = borders.number[which]
    n = int(plain.sum())
    rows[plain] = made.add_spans(group[plain], number[:n], q.missing[order[plain]])
    cuts[plain] = number[:n] % SPAN + LOW
    for k, b in asked.items():
        rows[k] = made.add_set(
            int(group[k]), number[n : n + b.size], below[k], bool(q.missing[order[k]])
        )
        n += b.size
    if sum(map(len, made.tables)) > MOST_LOOKUP:
        return None
    levels, starts, searched = _search_trees(borders)
    by_group = np.argsort(made.groups, kind="stable")
    moved = np.empty_like(by_group)
    moved[by_group] = np.arange(by_group.size)
    ends = np.searchsorted(np.array(made.groups)[by_group], np.arange(features.size + 1))
    lookup, places = _joined([made.tables[k] for k in by_group.tolist()])
    coding = Coding(features, levels, starts, borders.counts + 1, searched, ends, places, lookup)
    return coding, moved[rows].astype(np.int32), cuts


def _borders(features: Array, group: Array, value: Array) -> tuple[_Borders, Array]:
    """All borders, each once, and where among them each one given is."""
    order = np.lexsort((value, group))
    g, v = group[order], value[order]
    new = np.ones(order.size, np.bool_)
    new[1:] = (g[1:] != g[:-1]) | (v[1:] != v[:-1])
    which = np.empty(order.size, np.int64)
    which[order] = np.cumsum(new) - 1
    g, v = g[new], v[new]
    counts = np.bincount(g, minlength=features.size)
    number = np.arange(g.size) - (np.cumsum(counts) - counts)[g]
    return _Borders(features, g, v, number, counts), which


def _search_trees(b: _Borders) -> tuple[Array, Array, Array]:
    """What `tree_codes` searches for ranks: levels, where they begin, and their borders."""
    count = b.features.size
    levels, starts = np.zeros(count, np.int32), np.zeros((count, LEVELS), np.int32)
    parts: list[Array] = []
    size = 0
    ends = np.cumsum(b.counts)
    for g in range(count):
        level = b.value[ends[g] - b.counts[g] : ends[g]]
        tree: list[Array] = []
        while level.size >= BRANCHES:
            more = BRANCHES - level.size % BRANCHES
            tree.append(np.append(level, np.full(more, np.inf, level.dtype)))
            level = tree[-1][BRANCHES - 1 :: BRANCHES]
        tree.append(np.append(level, np.full(BRANCHES - 1 - level.size, np.inf, level.dtype)))
        levels[g] = len(tree)
        for k, part in enumerate(reversed(tree)):
            starts[g, k] = size
            size += part.size
            parts.append(part)
    return levels, starts, np.concatenate(parts)


class _Rows:
    """Rows of codes while they are made: of each its feature and its table by rank, of which the
    last entry is for NaN. `ranks`: how many other ranks each feature has."""

    def __init__(self, ranks: Array) -> None:
        self.ranks = ranks
        self.groups: list[int] = []
        self.tables: list[Array] = []
        self._sets: dict[tuple[int, bytes, bool, bool], int] = {}

    def _add(self, group: int, codes: Array, missing: int) -> int:
        self.groups.append(group)
        self.tables.append(np.append(codes, missing).astype(np.int8))
        return len(self.groups) - 1

    def add_spans(self, group: Array, number: Array, missing: Array) -> Array:
        """The rows of nodes that ask for one border. Those of a span of borders share one row, if
        there is a rank that NaN can have there; else those have one that answer yes to NaN."""
        spans = int(number.max(initial=0)) // SPAN + 1
        keys, key = np.unique(group * spans + number // SPAN, return_inverse=True)
        yes, no = np.full(keys.size, 1 << 62), np.full(keys.size, -1)
        np.minimum.at(yes, key[missing], number[missing])
        np.maximum.at(no, key[~missing], number[~missing])
        split = no >= yes
        first = np.zeros((keys.size, 2), np.int64)
        for k, (owner, span) in enumerate(zip(*divmod(keys, spans), strict=True)):
            rank = np.arange(int(self.ranks[owner])) - SPAN * span
            codes = np.clip(rank, 0, SPAN) + LOW
            lowest = int(yes[k]) - SPAN * int(span) + LOW
            nan = HIGH if split[k] or lowest > HIGH else lowest
            first[k] = self._add(int(owner), codes, nan)
            if split[k]:
                first[k, 1] = self._add(int(owner), codes, LOW)
        return first[key, missing.astype(np.int64)]

    def add_set(self, group: int, borders: Array, first: bool, missing: bool) -> int:
        """The row of nodes that ask whether x is in a set; their cut is 0. `first`: is what is
        below all borders in it?"""
        key = (group, borders.tobytes(), first, missing)
        if key not in self._sets:
            below = np.searchsorted(borders, np.arange(int(self.ranks[group])), "left")
            codes = np.where(below % 2 != first, LOW, HIGH)
            self._sets[key] = self._add(group, codes, LOW if missing else HIGH)
        return self._sets[key]


def _joined(tables: list[Array]) -> tuple[Array, Array]:
    """All tables, equal ones once, and where each begins."""
    found: dict[bytes, int] = {}
    parts: list[Array] = []
    places: list[int] = []
    size = 0
    for t in tables:
        key = t.tobytes()
        if key not in found:
            found[key] = size
            parts.append(t)
            size += t.size
        places.append(found[key])
    return np.concatenate(parts), np.array(places)
