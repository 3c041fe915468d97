"""What kernels of attention are made from, and the lines that all of them share."""

from __future__ import annotations

from dataclasses import dataclass

PANEL = 16  # keys, or columns of values, that lie together
FEW = 4  # queries for which keys are not packed


@dataclass(frozen=True)
class Heads:
    """A kernel's operand as a matrix: where the row of a batch and head starts, and its column, as
    text over `b` and a head."""

    by_row: bool  # does each head have rows of its own? Otherwise columns
    count: int
    first: int
    length: str
    size: int

    def row(self, head: str) -> str:
        """The row of its first token."""
        if not self.by_row:
            return f"b * {self.length}"
        return f"(b * {self.count} + {self.first} + {head}) * {self.length}"

    def column(self, head: str) -> str:
        """The column of its first number."""
        return "0" if self.by_row else f"({self.first} + {head}) * {self.size}"


@dataclass(frozen=True)
class Layer:
    """What the kernel is made from. `shared`: heads of queries to one of keys; `rows`, `keys`: how
    many queries (of all these) and keys there are, where that is known; `mask`: its dtype; `fill`:
    the score where a bool one hides a key; `causal`: are keys behind a query's own place, by an
    offset, not seen?"""

    q: Heads
    k: Heads
    v: Heads
    out: Heads
    kv_heads: int
    shared: int
    rows: int | None
    keys: int | None
    scale: float
    cap: float
    mask: str | None
    fill: float
    causal: bool
    guard: str

    @property
    def has_panels(self) -> bool:
        """May there be as many keys as a panel has?"""
        return self.keys is None or self.keys >= PANEL

    @property
    def few(self) -> int:
        """So many queries meet keys and values where they lie, one by one."""
        return few_queries(self.k.size, self.v.size)

    @property
    def columns(self) -> int:
        """Columns of values in whole panels."""
        return -(-self.v.size // PANEL) * PANEL


@dataclass(frozen=True)
class Tile:
    """How much of everything is handled at a time on a target. `panels` of `rows` sums each stay in
    registers; `lanes` are turned at a time."""

    rows: int
    panels: int
    lanes: int
    keys: int
    queries: int


def few_queries(size: int, columns: int) -> int:
    """For how many queries keys and values of these sizes are not packed."""
    return 0 if size % PANEL or columns % PANEL else FEW


def last_key(layer: Layer) -> list[str]:
    """`last`: how many keys any of the unit's queries sees."""
    if not layer.causal:
        return ["last: index = T"]
    query = "first + count - 1" if layer.shared == 1 else "S - 1"
    return [f"last: index = max(min(T, {query} + 1 + OFFSET), 0)"]


def places(layer: Layer) -> list[str]:
    """Where the block's keys and values are."""
    return [
        f"krow: index = {layer.k.row('h')} + start",
        f"kcolumn: index = {layer.k.column('h')}",
        f"vrow: index = {layer.v.row('h')} + start",
        f"vcolumn: index = {layer.v.column('h')}",
    ]


def query(layer: Layer, row: str) -> list[str]:
    """`head` and `s`, the query, of a row of the unit; rows behind the last are like it."""
    lines = [f"r: index = min(first + {row}, ROWS - 1)"]
    if layer.shared == 1:
        return [*lines, "head: index = h", "s: index = r"]
    return [*lines, f"head: index = h * {layer.shared} + r // S", "s: index = r % S"]


def live(layer: Layer, rows: int) -> list[str]:
    """`live`: how many of the block's keys any query of the tile sees."""
    if not layer.causal:
        return ["live: index = n"]
    last = f"min(first + at + {rows - 1}, ROWS - 1)"
    if layer.shared > 1:
        last = f"select((first + at) // S == {last} // S, {last} % S, S - 1)"
    return [f"live: index = max(min(n, {last} + 1 + OFFSET - start), 0)"]
