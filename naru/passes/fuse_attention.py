"""Attention as exporters and front ends write it, in one op.

softmax(scale · q · k' + mask) · v, by whatever nodes: a scale on either side of the product, as a
factor or a divisor; a soft cap; masks that are added or that choose; heads that share keys, as rows
of one product or as copies; probabilities made zero where they are not numbers, or where the mask
leaves a query nothing. Transposes, and slices of one tensor into queries, keys and values, go into
the op too: its kernel reads heads where they lie.

Scores and probabilities that anything else reads stay as they are: then they must be in memory.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from naru.dtypes import is_float
from naru.ir.expr import free_vars
from naru.ir.graph import Graph, Node, make_constant
from naru.ir.simplify import ONE, bounds, known, mul
from naru.ops.attention_layer import few_queries
from naru.ops.operands import ints, sizes
from naru.ops.registry import Attrs, apply, constant
from naru.passes.causality import HIDDEN, Causality, causality, number
from naru.passes.fold_batch_norm import count_readers
from naru.passes.registry import graph_pass
from naru.passes.rewrite import rewrite
from naru.passes.simplify_algebra import operand

SWAPPED = (0, 2, 1, 3)  # tokens and heads
LARGEST_HEAD = 256
FEWEST_QUERIES = 16  # of all heads that share one of keys: packing keys must be worth it
MOST_STEPS = 8  # between the product and the softmax


@graph_pass
def fuse_attention(g: Graph) -> Graph:
    """matmul(softmax(…matmul(q, k')…), v) becomes `attention`, transposes around it with it."""
    finder = _Finder(count_readers(g), {})
    return rewrite(g, finder.step, origin=finder.origin)


def attention_reason(n: Node) -> str:
    """What `explain` says of the op; empty for others."""
    if n.op != "attention":
        return ""
    return "softmax(q · k') · v block by block: scores and probabilities are never in memory"


@dataclass(frozen=True)
class Scores:
    """What lies between the product of queries and keys and the softmax. `allowed`: where a score
    stays, elsewhere it is `fill`; `bias`: what is added."""

    product: Node
    scale: float = 1.0
    cap: float = 0.0
    allowed: Node | None = None
    fill: float = -math.inf
    bias: Node | None = None


@dataclass(frozen=True)
class View:
    """An operand whose heads are axis 1 or 2: `count` of them, from `first` on."""

    node: Node
    axis: int
    first: int
    count: int
    scale: float = 1.0


class _Finder:
    """One walk. The pattern may have a node for itself if nothing else reads it."""

    def __init__(self, readers: Counter[Node], origin: dict[Node, Node]) -> None:
        self.readers, self.origin = readers, origin

    def read(self, n: Node) -> int:
        """How many read a node, which may be a new one."""
        return self.readers[self.origin.get(n, n)]

    def step(self, n: Node) -> Node:
        found = RULES[n.op](self, n) if n.op in RULES else None
        return n if found is None else found


# --- the pattern ----------------------------------------------------------------------------------


def _attention(f: _Finder, n: Node) -> Node | None:
    """The op, where n is the product of probabilities and values."""
    p, v = operand(n, 0), operand(n, 1)
    if n.type.rank != 4 or n.type.dtype != "f32" or v.type.rank != 4 or f.read(p) != 1:
        return None
    shared = p.op == "reshape"  # heads that share keys have their rows under each other
    if shared:
        p = operand(p)
    if p.type.rank != 4 or f.read(p) != 1:
        return None
    soft, seen = _unguarded(f, p)
    if soft is None or f.read(operand(soft)) != 1:
        return None
    found = _scores(f, Scores(operand(soft)), shared)
    if found is None:
        return None
    guard = "none" if soft is p else "nan" if seen is None else "empty"
    if guard == "empty" and not _decides(seen, found):
        return None
    return _made(n, p, found, v, guard)


def _unguarded(f: _Finder, p: Node) -> tuple[Node | None, Node | None]:
    """(the softmax, None or what says where a query sees a key): behind where(isnan(y), 0, y) or
    where(seen, y, 0)."""
    seen = None
    soft = p
    if p.op == "where":
        cond, a, b = (operand(p, i) for i in range(3))
        if cond.op == "isnan" and operand(cond) is b and number(a) == 0.0 and f.read(b) == 2:
            soft = b
        elif number(b) == 0.0 and f.read(a) == 1:
            soft, seen = a, cond
        else:
            return None, None
    is_last = soft.op == "softmax" and soft.attr("axis", -1) in (3, -1) and soft.type.rank == 4
    return (soft if is_last else None), seen


def _scores(f: _Finder, s: Scores, shared: bool, steps: int = MOST_STEPS) -> Scores | None:
    """Down from the softmax to the product; all on the way has one reader."""
    x = s.product
    if f.read(x) != 1 or not steps:
        return None
    if x.op == "matmul" and not shared:
        return s
    if x.op == "reshape" and shared:
        m = operand(x)
        return replace(s, product=m) if m.op == "matmul" and f.read(m) == 1 else None
    ways = (_scores(f, below, shared, steps - 1) for below in _below(s))
    return next((found for found in ways if found is not None), None)


def _below(s: Scores) -> Iterator[Scores]:
    """What may lie below a node that is not the product: masks are above factors and the cap."""
    x = s.product
    inner, factor = _factor(x)
    if inner is not x:
        yield replace(s, product=inner, scale=s.scale * factor)
    if x.op == "tanh" and not s.cap and s.scale > 0.0:  # what is above is the cap
        yield replace(s, product=operand(x), cap=s.scale)
    if s.scale != 1.0 or s.cap or s.allowed is not None:
        return
    if x.op == "where":
        for kept, filled in ((1, 2), (2, 1)):  # the other way round is a masked_fill
            fill = number(operand(x, filled))
            if fill == -math.inf or (fill is not None and s.bias is None):
                cond = operand(x, 0) if kept == 1 else _opposite(operand(x, 0))
                yield replace(s, product=operand(x, kept), allowed=cond, fill=fill)
    if x.op == "sub" and operand(x, 0).type.shape == x.type.shape and s.bias is None:
        yield replace(s, product=operand(x, 0), bias=_negative(operand(x, 1)))
    if x.op == "add":
        for i in (0, 1):
            y, m = operand(x, i), operand(x, 1 - i)
            if y.type.shape == x.type.shape:
                bias = m if s.bias is None else apply("add", s.bias, m)
                yield replace(s, product=y, bias=bias)


OPPOSITES = {
    "less": "greater_or_equal",
    "less_or_equal": "greater",
    "greater": "less_or_equal",
    "greater_or_equal": "less",
}


def _opposite(cond: Node) -> Node:
    """Where a condition does not hold, in a form that shows what it is (see causality.py)."""
    if cond.op == "not":
        return operand(cond)
    if cond.data is not None:
        return make_constant(~cond.data)
    if cond.op == "reshape":
        return apply("reshape", _opposite(operand(cond)), shape=cond.type.shape)
    if cond.op in OPPOSITES and not is_float(operand(cond).type.dtype):
        return apply(OPPOSITES[cond.op], *cond.inputs)
    return apply("not", cond)


def _negative(n: Node) -> Node:
    return apply("neg", n) if n.data is None else make_constant(-n.data)


def _factor(n: Node) -> tuple[Node, float]:
    """(x, c) of x · c or x / c of the same shape; (n, 1) where it is neither."""
    if n.op not in ("mul", "div"):
        return n, 1.0
    for i in (0, 1) if n.op == "mul" else (0,):
        x, c = operand(n, i), number(operand(n, 1 - i))
        if c is not None and x.type.shape == n.type.shape and (n.op == "mul" or c):
            return x, c if n.op == "mul" else 1.0 / c
    return n, 1.0


def _decides(seen: Node | None, s: Scores) -> bool:
    """Is it the masks of the scores that say where a query sees any key?"""
    if seen is None or seen.op != "reduce_max" or s.fill != -math.inf:
        return False
    if seen.attr("axes") not in ((operand(seen).type.rank - 1,), (-1,)):
        return False
    if not seen.attr("keepdims", True):
        return False
    wanted = {m for m in (s.allowed,) if m is not None}
    parts, todo = set[Node](), [operand(seen)]
    while todo:
        n = todo.pop()
        if n.op == "and" and n is not s.allowed:
            todo += [operand(n, 0), operand(n, 1)]
        elif n.op == "greater" and operand(n) is s.bias and number(operand(n, 1)) == -math.inf:
            parts.add(operand(n))
        else:
            parts.add(n)
    return parts == wanted | {m for m in (s.bias,) if m is not None}


# --- the op ---------------------------------------------------------------------------------------


def _made(n: Node, p: Node, s: Scores, v: Node, guard: str) -> Node | None:
    """The op in the place of n; `p` are its probabilities, [batch, heads, s, t]."""
    batch, heads, queries, keys = p.type.shape
    q, k = operand(s.product, 0), operand(s.product, 1)
    if q.op == "reshape" and q.type.shape[:3] != p.type.shape[:3]:
        q = operand(q)  # heads that share keys, in rows
    if q.type.rank != 4 or k.type.rank != 4 or q.type.shape[:3] != p.type.shape[:3]:
        return None
    views = _view(q, (0, 1, 2, 3)), _view(k, (0, 1, 3, 2)), _view(v, (0, 1, 2, 3))
    widths = [known(x.node.type.shape[3]) or 0 for x in views]
    count, counts = known(heads), [x.count for x in views]
    if not count or counts[0] != count or counts[1] != counts[2] or count % max(counts[1], 1):
        return None
    rows = known(mul(count // counts[1], queries))
    # (Of so many, kernels of one size do better.)
    if rows is not None and few_queries(*widths[1:]) // 2 < rows < FEWEST_QUERIES:
        return None
    if min(widths) < 1 or max(widths) > LARGEST_HEAD or widths[0] != widths[1]:
        return None
    if any(x.node.type.shape[0] is not batch for x in views):
        return None
    if any(x.node.type.shape[3 - x.axis] is not keys for x in views[1:]):
        return None
    mask = _mask(s, p)
    if mask is None and (s.allowed is not None or s.bias is not None):
        return None
    attrs: Attrs = {
        "heads": (count, counts[1]),
        "first": tuple(x.first for x in views),
        "axes": (*(x.axis for x in views), 1),
        "scale": s.scale * views[0].scale * views[1].scale,
        "cap": s.cap,
        "fill": s.fill,
        "guard": guard,
        "causal": (),
    }
    near = _near(mask, s, p, views)
    if near is not None:
        attrs = {**attrs, "causal": (near.offset,)}
        mask = None if near.alone else mask
    if not _in_one_way(mask, views):
        return None
    y = apply("attention", *(x.node for x in views), mask, **attrs)
    # (A scale of the values is one of the results.)
    if views[2].scale != 1.0:
        y = apply("mul", y, constant(views[2].scale))
    return y if y.type.shape == n.type.shape else apply("reshape", y, shape=n.type.shape)


def _mask(s: Scores, p: Node) -> Node | None:
    """The masks together, of rank 4; None where there is none, or it is not one over all keys."""
    mask = s.allowed if s.bias is None else s.bias
    if s.allowed is not None and s.bias is not None:
        mask = apply("where", s.allowed, s.bias, constant(-math.inf))
    if mask is None or mask.type.rank > 4 or mask.type.rank < 1:
        return None
    shape = (*(ONE,) * (4 - mask.type.rank), *mask.type.shape)
    fits = all(d is ONE or d is e for d, e in zip(shape[:3], p.type.shape[:3], strict=True))
    if not fits or shape[3] is not p.type.shape[3]:
        return None
    return mask if mask.type.rank == 4 else apply("reshape", mask, shape=shape)


def _near(mask: Node | None, s: Scores, p: Node, views: Sequence[View]) -> Causality | None:
    """What the mask says of keys behind a query, where such keys have no part in the result."""
    batch, _, queries, _ = p.type.shape
    # (One row for all queries says nothing of their places.)
    if mask is None or mask.type.shape[2] is not queries:
        return None
    near = causality(mask)
    if near is None:
        return None
    # Not by the batch: its rows may be computed apart from each other.
    sizes_known = free_vars(*(d for x in views for d in x.node.type.shape[1:]))
    if not set(free_vars(near.offset)) <= set(sizes_known) - set(free_vars(batch)):
        return None
    # Of what is finite, all is hidden alike where a query sees nothing.
    sees = near.alone and s.fill <= HIDDEN and bounds(near.offset)[0] >= 0
    return near if s.fill == -math.inf or sees else None


def _in_one_way(mask: Node | None, views: Sequence[View]) -> bool:
    """Does the kernel see every tensor in one way? It gets each once, as one matrix."""
    nodes = {x.node for x in views}
    return len({(x.node, x.axis) for x in views}) == len(nodes) and mask not in nodes


def _view(n: Node, perm: tuple[int, ...]) -> View:
    """The operand whose dims (batch, heads, tokens, size) are n's by `perm`."""
    scale = 1.0
    while True:
        x, factor = _factor(n)
        if x is not n:
            n, scale = x, scale * factor
        elif n.op == "transpose":
            inner = ints(dict(n.attrs), "perm")
            n, perm = operand(n), tuple(inner[k] for k in perm)
        else:
            break
    if perm not in ((0, 1, 2, 3), SWAPPED):
        n, perm = apply("transpose", n, perm=perm), (0, 1, 2, 3)
    if perm == SWAPPED:
        return replace(_joined(n), scale=scale)
    n = _unrepeated(n)
    return View(n, 1, 0, known(n.type.shape[1]) or 0, scale)


def _joined(n: Node) -> View:
    """Heads [batch, tokens, heads, size] in the tensor that they were cut from."""
    plain = View(n, 2, 0, known(n.type.shape[2]) or 0)
    cut = operand(n) if n.op == "reshape" else n
    if cut.op != "slice" or cut.type.rank != 3 or cut.attr("axes") != (2,):
        return plain
    whole, size = operand(cut), known(n.type.shape[3])
    first, width = known(sizes(dict(cut.attrs), "starts")[0]), known(whole.type.shape[2])
    if first is None or not width or not size or cut.attr("steps") != (1,):
        return plain
    first += width if first < 0 else 0
    if first < 0 or first % size or width % size:
        return plain
    if cut.type.shape != (*n.type.shape[:2], mul(n.type.shape[2], size)):  # rows that stay whole
        return plain
    shape = (*n.type.shape[:2], width // size, size)
    return replace(plain, node=apply("reshape", whole, shape=shape), first=first // size)


def _unrepeated(n: Node) -> Node:
    """Heads [batch, heads, tokens, size] before each was copied for several queries'."""
    wide = operand(n) if n.op == "reshape" else n
    if wide.op != "expand" or wide.type.rank != 5 or wide.type.shape[3:] != n.type.shape[2:]:
        return n
    one = operand(wide)
    if one.type.rank != 5:
        return n
    batch, heads, single, *rest = one.type.shape
    copies = wide.type.shape[2]
    if single is not ONE or wide.type.shape != (batch, heads, copies, *rest):
        return n
    if mul(heads, copies) is not n.type.shape[1]:
        return n
    if one.op == "reshape" and operand(one).type.shape == (batch, heads, *rest):
        return operand(one)
    return apply("reshape", one, shape=(batch, heads, *rest))


# --- around it ------------------------------------------------------------------------------------


def _turned(f: _Finder, n: Node) -> Node | None:
    """A transpose of results: they are written tokens first."""
    y = operand(n)
    if y.op != "attention" or n.attr("perm") != SWAPPED or f.read(y) != 1:
        return None
    attrs: Attrs = dict(y.attrs)
    if attrs["axes"][3] != 1:
        return None
    return apply("attention", *y.inputs, **{**attrs, "axes": (*attrs["axes"][:3], 2)})


def _reshaped_back(f: _Finder, n: Node) -> Node | None:
    """A reshape of one that the op got: to the shape that it had before."""
    x = operand(n)
    if x.op != "reshape" or operand(x).op != "attention" or f.read(x) != 1:
        return None
    return operand(x) if operand(x).type.shape == n.type.shape else None


RULES: dict[str, Callable[[_Finder, Node], Node | None]] = {
    "matmul": _attention,
    "transpose": _turned,
    "reshape": _reshaped_back,
}
