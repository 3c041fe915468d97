"""Choosing among overlapping boxes: non_max_suppression, and the list of what it keeps."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from naru.errors import ModelError
from naru.ir.expr import Expr
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import ZERO, floordiv, index
from naru.ops.kernel_text import by_hand, indent
from naru.ops.operands import check_equal, given, operand, shape_text
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, register
from naru.ops.samples import random
from naru.targets import Target

Array = np.ndarray


def infer_non_max_suppression(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """boxes f32 [B, N, 4], scores f32 [B, C, N], the most boxes of a class i64 [1], the greatest
    overlap f32 [1], the least score f32 [1] (exclusive; not used with attr `all_scores`)
    -> the boxes kept of each class, i64 [B, C, N], -1 behind the last; how many, i64 [B, C].

    Overlap is the area of the intersection by that of the union. Boxes are (y1, x1, y2, x2), any
    two opposite corners, or with attr `center` (x, y, width, height).
    """
    op = "non_max_suppression"
    boxes, scores = operand(op, types, 0, 3), operand(op, types, 1, 3)
    for k, wanted in enumerate(("f32", "f32", "i64", "f32", "f32")):
        if operand(op, types, k).dtype != wanted:
            raise ModelError(f"{op}: expected {wanted} as operand {k}, found {types[k]!r}")
    check_equal(op, f"sizes of a box in {shape_text(boxes.shape)} and", boxes.shape[2], index(4))
    check_equal(op, "numbers of batches", boxes.shape[0], scores.shape[0])
    check_equal(op, "numbers of boxes", boxes.shape[1], scores.shape[2])
    return TensorType("i64", scores.shape), TensorType("i64", scores.shape[:2])


def _corners(boxes: Array, center: bool) -> Array:
    """(top, left, bottom, right) of boxes[..., 4]"""
    if center:
        x, y, width, height = np.moveaxis(boxes, -1, 0)
        half = np.float32(2)
        sides = (y - height / half, x - width / half, y + height / half, x + width / half)
        return np.stack(sides, -1)
    one, other = boxes[..., :2], boxes[..., 2:]
    return np.concatenate((np.minimum(one, other), np.maximum(one, other)), -1)


def _overlaps(box: Array, others: Array) -> Array:
    """Of a box with each of others[n, 4]: the area they share by the area of both together."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    inside = np.prod(np.maximum(sides, 0), 1)
    area, areas = np.prod(box[2:] - box[:2]), np.prod(others[:, 2:] - others[:, :2], 1)
    shared = (inside > 0) & (area > 0) & (areas > 0)
    return np.divide(inside, area + areas - inside, out=np.zeros_like(inside), where=shared)


def ref_non_max_suppression(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    boxes, scores = _corners(given(arrays), bool(attrs.get("center"))), given(arrays, 1)
    most, overlap, least = (given(arrays, k).reshape(-1)[0] for k in (2, 3, 4))
    kept = np.full(scores.shape, -1, np.int64)
    counts = np.zeros(scores.shape[:2], np.int64)
    for b, k in np.ndindex(scores.shape[:2]):
        row, chosen = scores[b, k], kept[b, k]  # chosen[:n] are
        n = 0
        for i in np.argsort(-row, kind="stable"):
            if n >= most or not (attrs.get("all_scores") or row[i] > least):
                break
            if (_overlaps(boxes[b, i], boxes[b, chosen[:n]]) <= overlap).all():
                chosen[n] = i
                n += 1
        counts[b, k] = n
    return kept, counts


def _box(name: str, at: str, center: bool) -> list[str]:
    """Names the corners of a box: top, left, bottom, right, and its area."""
    if center:
        parts = [
            f"{name}t: f32 = boxes[{at} + 1] - boxes[{at} + 3] / 2.0",
            f"{name}l: f32 = boxes[{at}] - boxes[{at} + 2] / 2.0",
            f"{name}b: f32 = boxes[{at} + 1] + boxes[{at} + 3] / 2.0",
            f"{name}r: f32 = boxes[{at}] + boxes[{at} + 2] / 2.0",
        ]
    else:
        parts = [
            f"{name}t: f32 = min(boxes[{at}], boxes[{at} + 2])",
            f"{name}l: f32 = min(boxes[{at} + 1], boxes[{at} + 3])",
            f"{name}b: f32 = max(boxes[{at}], boxes[{at} + 2])",
            f"{name}r: f32 = max(boxes[{at} + 1], boxes[{at} + 3])",
        ]
    area = f"({name}b - {name}t) * ({name}r - {name}l)"
    return [*parts, f"{name}area: f32 = {area}"]


def _behind(ia: str, ib: str) -> str:
    """Text of: candidate ia comes behind ib: it scores less, or the same and stands behind it."""
    a, b = f"scores[row + index({ia})]", f"scores[row + index({ib})]"
    return f"({a} < {b} or ({a} == {b} and {ia} > {ib}))"


def _sink(end: str) -> list[str]:
    """Lets the candidate vi sink from `hole` in a heap whose root is the best one."""
    return [
        "child = 2 * hole + 1",
        f"while child < {end}:",
        f"    right: index = min(child + 1, {end} - 1)",
        "    ia: i64 = kept[row + child]",
        "    ib: i64 = kept[row + right]",
        f"    other: bool = {_behind('ia', 'ib')}",
        "    ci: i64 = select(other, ib, ia)",
        "    at: index = select(other, right, child)",
        f"    if {_behind('vi', 'ci')}:",
        "        kept[row + hole] = ci",
        "        hole = at",
        "        child = 2 * at + 1",
        "    else:",
        f"        child = {end}",
        "kept[row + hole] = vi",
    ]


def _choose(center: bool) -> list[str]:
    """Takes the best candidate off the heap, and keeps it unless it overlaps one that is kept. What
    is kept grows from the end of the row, where the heap has left."""
    return [
        "best: i64 = kept[row]",
        "m = m - 1",
        "vi: i64 = kept[row + m]",
        "hole = 0",
        *_sink("m"),
        "here: index = box + index(best) * 4",
        *_box("a", "here", center),
        "free = True",
        "j = 0",
        "while free and j < s:",
        "    there: index = box + index(kept[row + N - 1 - j]) * 4",
        *indent(_box("b", "there", center)),
        "    high: f32 = max(min(ab, bb) - max(at, bt), 0.0)",
        "    wide: f32 = max(min(ar, br) - max(al, bl), 0.0)",
        "    inside: f32 = high * wide",
        "    union: f32 = aarea + barea - inside",
        "    if inside > 0.0 and aarea > 0.0 and barea > 0.0 and inside / union > overlap[0]:",
        "        free = False",
        "    j = j + 1",
        "if free:",
        "    kept[row + N - 1 - s] = best",
        "    s = s + 1",
    ]


def opaque_non_max_suppression(n: Node, target: Target) -> str:
    """Parameters: boxes, scores, most, overlap, least, kept, counts, sizes."""
    scores = given(n.inputs, 1).type
    batches, classes, count = scores.shape
    enough = "True" if n.attr("all_scores") else "scores[row + i] > least[0]"
    body = [
        "for b in parallel(B):",
        "    for k in range(C):",
        "        row: index = (b * C + k) * N",
        "        box: index = b * N * 4",
        "        m = 0",
        "        for i in range(N):",
        f"            if {enough}:",
        "                kept[row + m] = i64(i)",
        "                m = m + 1",
        "        for i in range(m // 2):",
        "            start: index = m // 2 - 1 - i",
        "            vi: i64 = kept[row + start]",
        "            hole = start",
        *indent(_sink("m"), 3),
        "        s = 0",
        "        while m > 0 and i64(s) < most[0]:",
        *indent(_choose(bool(n.attr("center"))), 3),
        "        for i in range(HALF):",
        "            low: i64 = kept[row + i]",
        "            kept[row + i] = kept[row + N - 1 - i]",
        "            kept[row + N - 1 - i] = low",
        "        for i in range(s, N):",
        "            kept[row + i] = -1",
        "        counts[b * C + k] = i64(s)",
    ]
    if count is ZERO:  # there is no place in `kept` to name
        body = ["for b in range(B * C):", "    counts[b] = 0"]
    sizes: dict[str, Expr] = {"B": batches, "C": classes, "N": count, "HALF": floordiv(count, 2)}
    roles = ("boxes", "scores", "most", "overlap", "least")
    return by_hand(n, roles, ("kept", "counts"), body, sizes)


def infer_non_max_suppression_fill(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """kept [B, C, N], counts [B, C], bound_dim -> i64 [symbol, 3]: (batch, class, box)."""
    op = "non_max_suppression_fill"
    for k, rank in ((0, 3), (1, 2)):
        operand(op, types, k, rank)
    size = operand(op, types, 2)
    if size.value is None:
        raise ModelError(f"{op}: operand 2 must come from bind_dim")
    return (TensorType("i64", (size.value[0], index(3))),)


def ref_non_max_suppression_fill(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    kept, counts = given(arrays), given(arrays, 1)
    rows = [
        (b, k, i) for b, k in np.ndindex(counts.shape) for i in kept[b, k, : counts[b, k]].tolist()
    ]
    return (np.array(rows, np.int64).reshape(-1, 3),)


def opaque_non_max_suppression_fill(n: Node, target: Target) -> str:
    """Parameters: kept, counts, bound (not read), out, sizes."""
    batches, classes, count = given(n.inputs).type.shape
    body = [
        "u = 0",
        "for b in range(B):",
        "    for k in range(C):",
        "        for i in range(min(index(counts[b * C + k]), N)):",
        "            if u < U:",
        "                out[u * 3] = i64(b)",
        "                out[u * 3 + 1] = i64(k)",
        "                out[u * 3 + 2] = kept[(b * C + k) * N + i]",
        "                u = u + 1",
    ]
    sizes: dict[str, Expr] = {"B": batches, "C": classes, "N": count, "U": n.type.shape[0]}
    return by_hand(n, ("kept", "counts", "bound"), ("out",), body, sizes)


def _samples() -> Iterable[Sample]:
    def numbers(most: int, overlap: float, least: float) -> tuple[Array, ...]:
        return np.array([most]), np.array([overlap], np.float32), np.array([least], np.float32)

    corners = np.abs(random(2, 9, 4, scale=1.0))
    corners[:, 3], corners[:, 5] = corners[:, 1], 0  # one twice, one without an area
    scores = random(2, 3, 9, seed=1)
    scores[:, :, 4] = scores[:, :, 2]
    for most, overlap, least in ((3, 0.5, 0.0), (9, 0.0, -9.0), (0, 0.5, 0.0), (99, 1.0, 0.4)):
        for center in (False, True):
            yield Sample((corners, scores, *numbers(most, overlap, least)), {"center": center})
    all_scores = {"all_scores": True}
    yield Sample((corners, scores, *numbers(5, 0.3, 9.0)), all_scores)
    yield Sample((random(1, 1, 4), random(1, 1, 1), *numbers(5, 0.3, 9.0)), all_scores)
    yield Sample((random(2, 0, 4), random(2, 2, 0), *numbers(5, 0.3, 9.0)), all_scores)


register(Op("non_max_suppression", "opaque", infer_non_max_suppression, ref_non_max_suppression,
            opaque=opaque_non_max_suppression, samples=_samples))  # fmt: skip
register(Op("non_max_suppression_fill", "opaque", infer_non_max_suppression_fill,
            ref_non_max_suppression_fill, opaque=opaque_non_max_suppression_fill))  # fmt: skip
