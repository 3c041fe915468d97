"""The transpose of a tile in registers."""

from __future__ import annotations

from collections.abc import Sequence

from naru.codegen.llvm_arith import Row, some_lanes


def shuffle(r: Row, a: str, b: str, chosen: Sequence[int]) -> str:
    """Lanes of a row a, then of a row b behind it, by number."""
    mask = ", ".join(f"i32 {i}" for i in chosen)
    return r.put(f"shufflevector {r.kind} {a}, {r.kind} {b}, <{len(chosen)} x i32> <{mask}>")


def transpose(r: Row, rows: Sequence[str]) -> list[str]:
    """The columns of a tile whose rows have the shape of r.

    Where rows and lanes come in fours: 4×4 blocks inside of each four lanes of four rows, then
    fours of lanes change places; on x86 each step is one instruction. Squares of small integers
    are turned by interleaving."""
    lanes, count = r.shape[0], len(rows)
    if count == lanes and count & (count - 1) == 0 and r.lane in ("i8", "i16"):
        return _interleaved(r, rows)
    if count % 4 or lanes % 4 or count & (count - 1):
        return [_column(r, rows, k) for k in range(lanes)]
    blocks = [_transpose_fours(r, rows[k : k + 4]) for k in range(0, count, 4)]
    out: list[str] = []
    for k in range(lanes):
        first = k // 4 * 4
        out.append(_gather_fours(r, [b[k % 4] for b in blocks], range(first, first + 4)))
    return out


def _transpose_fours(r: Row, rows: Sequence[str]) -> list[str]:
    """Each four lanes of four rows as a 4×4 block, transposed."""
    a, b, c, d = rows
    lanes = r.shape[0]

    def pattern(first: Sequence[int]) -> list[int]:
        """The lanes of one four, for all fours; from 4 on they are the other row's."""
        return [q + (i if i < 4 else lanes + i - 4) for q in range(0, lanes, 4) for i in first]

    low, high = pattern((0, 4, 1, 5)), pattern((2, 6, 3, 7))
    ab, cd = shuffle(r, a, b, low), shuffle(r, c, d, low)
    ab_high, cd_high = shuffle(r, a, b, high), shuffle(r, c, d, high)
    left, right = pattern((0, 1, 4, 5)), pattern((2, 3, 6, 7))
    return [
        *(shuffle(r, ab, cd, p) for p in (left, right)),
        *(shuffle(r, ab_high, cd_high, p) for p in (left, right)),
    ]


def _interleaved(r: Row, rows: Sequence[str]) -> list[str]:
    """The columns of a square: each of log2(n) rounds interleaves a row with that n / 2 below it,
    their lower and their upper halves; each is an instruction on x86 and ARM."""
    n = len(rows)
    parts = range(n // 2), range(n // 2, n)
    low, high = ([i for k in part for i in (k, n + k)] for part in parts)
    for _ in range(n.bit_length() - 1):
        pairs = list(zip(rows[: n // 2], rows[n // 2 :], strict=True))
        rows = [shuffle(r, a, b, half) for a, b in pairs for half in (low, high)]
    return list(rows)


def _gather_fours(r: Row, parts: Sequence[str], chosen: range) -> str:
    """The same four lanes of several rows, one after the other."""
    if len(parts) == 1:
        return some_lanes(r, parts[0], chosen)
    lanes = r.shape[0]
    pairs = [
        shuffle(r, a, b, [*chosen, *(lanes + i for i in chosen)])
        for a, b in zip(parts[::2], parts[1::2], strict=True)
    ]
    width = 8
    while len(pairs) > 1:
        wide = Row(r.code, r.depth, r.dtype, (width,))
        pairs = [
            shuffle(wide, a, b, range(2 * width))
            for a, b in zip(pairs[::2], pairs[1::2], strict=True)
        ]
        width *= 2
    return pairs[0]


def _column(r: Row, rows: Sequence[str], k: int) -> str:
    """One lane of each row, as a row."""
    column = Row(r.code, r.depth, r.dtype, (len(rows),))
    out = "poison"
    for i, row in enumerate(rows):
        one = r.put(f"extractelement {r.kind} {row}, i64 {k}")
        out = r.put(f"insertelement {column.kind} {out}, {column.lane} {one}, i64 {i}")
    return out
