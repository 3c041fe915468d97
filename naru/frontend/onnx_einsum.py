"""Einsum of opset 12, by diagonals, sums, products and matrix products."""

from __future__ import annotations

import string
from collections.abc import Sequence

from naru.errors import ModelError
from naru.frontend.onnx_node import OnnxNode, emit, scalar
from naru.frontend.onnx_shapes import iota
from naru.ir.expr import Const, Expr
from naru.ir.graph import Node
from naru.ir.simplify import ONE, known, mul
from naru.ops.operands import check_equal

# Labels of the dims that an ellipsis stands for, the last one first: no letters.
DOTS = "0123456789!\"#$%&'()*+/:;<=>?@[]^_`{|}~"


def einsum(c: OnnxNode) -> Node:
    """Operands are combined from the left; a label that nothing behind needs is summed at once."""
    equation = "".join(c.get_str("equation", "").split())
    terms, result = read_equation(equation, [x.type.rank for x in c.operands()])
    xs = c.operands()
    for k in range(len(xs)):
        while len(set(terms[k])) != len(terms[k]):
            xs[k], terms[k] = _diagonal(xs[k], terms[k])
    _broadcast(xs, terms)
    x, labels = xs[0], terms[0]
    for k, term in enumerate(terms[1:], 1):
        wanted = set(result).union(*terms[k + 1 :])
        x, labels = _pair(x, labels, xs[k], term, wanted)
    x, labels = _sum_labels(x, labels, set(result))
    return _permute(x, labels, result)


def read_equation(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Labels of the operands and of the result, each dim one. Raises ModelError."""
    sources, arrow, result = equation.partition("->")
    terms = sources.split(",")
    if len(terms) != len(ranks):
        raise ModelError(f"expected {len(ranks)} terms, found {len(terms)} in {equation!r}")
    covered: list[int] = []
    for term, rank in zip(terms, ranks, strict=True):
        letters = term.replace("...", "", 1)
        dots = rank - len(letters)
        if any(s not in string.ascii_letters for s in letters):
            raise ModelError(f"expected letters and one ellipsis a term, found {equation!r}")
        if dots < 0 or (dots and len(letters) == len(term)):
            raise ModelError(f"{term!r} of {equation!r} does not fit rank {rank}")
        covered.append(dots)
    most = max(covered, default=0)
    if most > len(DOTS):
        raise ModelError(f"an ellipsis of {most} dims")
    spread = [t.replace("...", DOTS[:n][::-1]) for t, n in zip(terms, covered, strict=True)]
    if not arrow:
        letters = sources.replace("...", "").replace(",", "")
        once = sorted(s for s in set(letters) if letters.count(s) == 1)
        return spread, DOTS[:most][::-1] + "".join(once)
    found = result.replace("...", DOTS[:most][::-1], 1)
    if len(set(found)) != len(found) or not set(found) <= set("".join(spread)):
        raise ModelError(f"the result of {equation!r} has a label twice, or that no operand has")
    if not set(DOTS[:most]) <= set(found):
        raise ModelError(f"the result of {equation!r} has no ellipsis")
    return spread, found


def _diagonal(x: Node, labels: str) -> tuple[Node, str]:
    """The elements at which two dims of one label agree, in the place of the first."""
    label = next(s for s in labels if labels.count(s) > 1)
    i, j = labels.index(label), labels.rindex(label)
    size = x.type.shape[i]
    check_equal("Einsum", f"sizes of label {label!r}", size, x.type.shape[j])
    rest = [k for k in range(len(labels)) if k not in (i, j)]
    kept = labels[:j] + labels[j + 1 :]
    moved = "".join(labels[k] for k in rest) + label
    n, shape = known(size), tuple(x.type.shape[k] for k in rest)
    if n:
        flat = emit("transpose", x, perm=(*rest, i, j))
        flat = emit("reshape", flat, shape=(*shape, Const(n * n)))
        axis = (len(rest),)
        y = emit("slice", flat, starts=(0,), ends=(n * n,), axes=axis, steps=(n + 1,))
    else:
        at = emit("equal", _positions(x, i, i), _positions(x, i, j))
        y = emit("reduce_sum", emit("where", at, x, scalar(0, x)), axes=(j,), keepdims=False)
        return y, kept
    return _permute(y, moved, kept), kept


def _positions(x: Node, of: int, axis: int) -> Node:
    """0, 1, … along an axis, as many as dim `of` has."""
    shape: list[Expr] = [ONE] * x.type.rank
    shape[axis] = x.type.shape[of]
    return emit("reshape", iota(x.type.shape[of], x, of), shape=tuple(shape))


def _broadcast(xs: list[Node], terms: list[str]) -> None:
    """Drops dims of size 1 that are larger in another operand, and checks that others agree."""
    sizes: dict[str, Expr] = {}
    for x, term in zip(xs, terms, strict=True):
        for d, s in zip(x.type.shape, term, strict=True):
            if d is not ONE:
                what = f"sizes of label {s!r}" if s.isalpha() else "sizes under an ellipsis"
                sizes[s] = check_equal("Einsum", what, sizes.get(s, d), d)
    for k, (x, term) in enumerate(zip(xs, terms, strict=True)):
        pairs = list(zip(x.type.shape, term, strict=True))
        keep = [(d, s) for d, s in pairs if d is not ONE or s not in sizes]
        if len(keep) < len(pairs):
            xs[k] = emit("reshape", x, shape=tuple(d for d, _ in keep))
            terms[k] = "".join(s for _, s in keep)


def _sum_labels(x: Node, labels: str, wanted: set[str]) -> tuple[Node, str]:
    axes = tuple(k for k, s in enumerate(labels) if s not in wanted)
    if not axes:
        return x, labels
    kept = "".join(s for s in labels if s in wanted)
    return emit("reduce_sum", x, axes=axes, keepdims=False), kept


def _permute(x: Node, labels: str, wanted: str) -> Node:
    if labels == wanted:
        return x
    return emit("transpose", x, perm=tuple(labels.index(s) for s in wanted))


def _pair(a: Node, la: str, b: Node, lb: str, wanted: set[str]) -> tuple[Node, str]:
    """Two operands as one batched matrix product [batch, rows, sum] · [batch, sum, columns]; as an
    elementwise product where no label is summed, or no other is left."""
    a, la = _sum_labels(a, la, wanted | set(lb))
    b, lb = _sum_labels(b, lb, wanted | set(la))
    batch = "".join(s for s in la if s in lb and s in wanted)
    summed = "".join(s for s in la if s in lb and s not in wanted)
    rows = "".join(s for s in la if s not in lb)
    columns = "".join(s for s in lb if s not in la)
    size = dict(zip(lb, b.type.shape, strict=True)) | dict(zip(la, a.type.shape, strict=True))
    if not summed or not rows + columns:
        labels = batch + rows + columns + summed

        def aligned(x: Node, own: str) -> Node:
            order = "".join(s for s in labels if s in own)
            shape = tuple(size[s] if s in own else ONE for s in labels)
            return emit("reshape", _permute(x, own, order), shape=shape)

        return _sum_labels(emit("mul", aligned(a, la), aligned(b, lb)), labels, wanted)

    def flat(x: Node, labels: str, groups: Sequence[str]) -> Node:
        moved = _permute(x, labels, batch + "".join(groups))
        sizes = [mul(1, *(size[s] for s in g)) for g in groups]
        return emit("reshape", moved, shape=(*(size[s] for s in batch), *sizes))

    product = emit("matmul", flat(a, la, (rows, summed)), flat(b, lb, (summed, columns)))
    labels = batch + rows + columns
    return emit("reshape", product, shape=tuple(size[s] for s in labels)), labels


TABLE = {"Einsum": einsum}
