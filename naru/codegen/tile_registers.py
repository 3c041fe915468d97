"""Which numbered matrix register holds what: the accumulators of a tile buffer, and its operands.

The registers have shapes, set by one instruction that also clears them all. So the shapes of a
stretch of code from one `Alloc` of a tile buffer to the next are collected while it is written, and
the configuration is filled in afterwards: once for the function where all stretches agree.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from naru.errors import IRError

REGISTERS = 8
ROWS, ROW_BYTES = 16, 64

TileShape = tuple[int, int]  # rows, bytes a row


@dataclass
class Stretch:
    """The registers between two configurations."""

    shapes: dict[int, TileShape] = field(default_factory=dict[int, TileShape])
    sums: dict[Hashable, int] = field(default_factory=dict[Hashable, int])
    # Registers of operands by side (a, b), the least recently written first; and what they hold.
    operands: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    holds: dict[int, Hashable] = field(default_factory=dict[int, Hashable])

    def sum(self, key: Hashable, shape: TileShape) -> int:
        """The register of an accumulator."""
        number = self.sums.get(key)
        if number is None:
            number = self.sums[key] = self._take(shape)
        if self.shapes[number] != shape:
            raise IRError([f"a matrix register of {self.shapes[number]} is used as {shape}"])
        return number

    def operand(self, side: str, key: Hashable, shape: TileShape) -> int:
        """A register to load an operand into: a new one while the side has less than its share,
        else that which was written longest ago."""
        mine = self.operands.setdefault(side, [])
        share = (REGISTERS - len(self.sums) + (side == "a")) // 2
        same = [n for n in mine if self.shapes[n] == shape]
        if len(mine) < share or not same:
            number = self._take(shape)
        else:
            number = same[0]
            mine.remove(number)
        mine.append(number)
        self.holds[number] = key
        return number

    def _take(self, shape: TileShape) -> int:
        rows, row_bytes = shape
        if rows > ROWS or row_bytes > ROW_BYTES:
            wanted = f"{rows} of {row_bytes}"
            raise IRError([f"a matrix register has {ROWS} rows of {ROW_BYTES} bytes, not {wanted}"])
        number = len(self.shapes)
        if number == REGISTERS:
            parts = f"{len(self.sums)} for sums, {len(self.holds)} for operands"
            raise IRError(
                [f"more than {REGISTERS} matrix registers are needed, {parts}; unroll fewer tiles"]
            )
        self.shapes[number] = shape
        return number


@dataclass
class TileRegisters:
    """Of one function."""

    stretches: list[Stretch] = field(default_factory=list[Stretch])

    @property
    def now(self) -> Stretch:
        """The stretch that is being written."""
        if not self.stretches:
            raise IRError(["a tile buffer is used before it is allocated"])
        return self.stretches[-1]

    def common(self) -> dict[int, TileShape] | None:
        """One configuration for all stretches, None where they need different ones."""
        shapes: dict[int, TileShape] = {}
        for s in self.stretches:
            for number, shape in s.shapes.items():
                if shapes.setdefault(number, shape) != shape:
                    return None
        return shapes


def configuration(shapes: dict[int, TileShape]) -> bytes:
    """The 64 bytes that `ldtilecfg` reads: palette 1, bytes a row and rows of each register."""
    out = bytearray(64)
    out[0] = 1
    for number, (rows, row_bytes) in shapes.items():
        out[16 + 2 * number : 18 + 2 * number] = row_bytes.to_bytes(2, "little")
        out[48 + number] = rows
    return bytes(out)
