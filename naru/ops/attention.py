"""Attention as one op: softmax(scale · q · k' + mask) · v for each head.

Operands have four dims, tokens and heads in either order: [batch, tokens, heads, size] as matrix
products leave them, or [batch, heads, tokens, size] as caches of keys have them. Several heads of
queries may share one of keys and values, and there may be other numbers of keys than of queries.
One tensor may hold heads of several operands side by side.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from naru.errors import ModelError
from naru.ir.expr import Expr
from naru.ir.graph import Node, TensorType
from naru.ir.simplify import ONE, ZERO, index, known, mul, prod
from naru.ops.attention_kernel import kernel_body
from naru.ops.attention_layer import Heads, Layer
from naru.ops.attention_tiles import tiles_body
from naru.ops.kernel_text import KernelText, indent
from naru.ops.operands import (
    check_equal,
    check_same_dtype,
    given,
    ints,
    operand,
    optional,
    shape_text,
)
from naru.ops.registry import Arrays, Attrs, Op, Sample, Types, register
from naru.ops.samples import random
from naru.ops.tile_product import PAIRS, split
from naru.targets import Target

Array = np.ndarray
NAME = "attention"
GUARDS = ("none", "empty", "nan")


@dataclass(frozen=True)
class How:
    """The attributes.

    heads   of queries, and of keys and values: as many, or a divisor
    first   the first head of q, k and v in their tensors
    axes    where q, k, v and the result have their heads: 1 or 2
    scale   a factor of the scores; `cap`, if it is not 0, bounds them: cap · tanh(score / cap)
    fill    the score where a bool mask hides a key
    causal  empty, or one offset: query i sees keys up to i + offset
    parts   of bf16, 1 or 2, that numbers are split into for matrix registers (ops/tile_product.py);
            0: products are those of f32
    guard   what a query gets whose probabilities are not numbers, as where it sees no key: those
            ("none"), zero where it sees none ("empty"), or zero ("nan")
    """

    heads: tuple[int, int]
    first: tuple[int, int, int]
    axes: tuple[int, int, int, int]
    scale: float
    cap: float
    fill: float
    causal: tuple[int | Expr, ...]
    guard: str
    parts: int = 0

    @staticmethod
    def of(attrs: Attrs) -> How:
        """By the attributes of a node."""
        return How(**attrs)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Heads of q, k and v."""
        return (self.heads[0], self.heads[1], self.heads[1])

    def tokens(self, t: TensorType, which: int) -> Expr:
        """How many tokens q, k, v or the result has."""
        return t.shape[3 - self.axes[which]]


def infer_attention(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """q, k, v f32 of rank 4; mask, which may be left out: f32, which is added, or bool, where a key
    is seen; it broadcasts to [batch, heads, queries, keys], but has all keys -> the results."""
    how = How.of(attrs)
    q, k, v = operands = [operand(NAME, types, i, rank=4) for i in range(3)]
    if check_same_dtype(NAME, operands) != "f32":
        raise ModelError(f"{NAME}: expected f32, got {q.dtype}", hint="put a Cast before it")
    if min(how.heads) < 1 or how.heads[0] % how.heads[1] or how.guard not in GUARDS:
        raise ModelError(f"{NAME}: {how.heads[1]} heads of keys don't divide {how.heads[0]}")
    for i, t in enumerate(operands):
        count, first = known(t.shape[how.axes[i]]), how.first[i]
        if count is None or not 0 <= first <= count - how.counts[i] or not known(t.shape[3]):
            raise ModelError(
                f"{NAME}: expected {how.counts[i]} heads from {first} on, of a known size, "
                f"in {shape_text(t.shape)}"
            )
        check_equal(NAME, "batches", q.shape[0], t.shape[0])
    check_equal(NAME, "sizes of the heads of queries and keys", q.shape[3], k.shape[3])
    keys = check_equal(NAME, "numbers of keys and values", how.tokens(k, 1), how.tokens(v, 2))
    queries, heads = how.tokens(q, 0), index(how.heads[0])
    _check_mask(optional(types, 3), (q.shape[0], heads, queries), keys)
    middle = (queries, heads) if how.axes[3] == 2 else (heads, queries)
    return (TensorType(q.dtype, (q.shape[0], *middle, v.shape[3])),)


def _check_mask(mask: TensorType | None, scores: Sequence[Expr], keys: Expr) -> None:
    if mask is None:
        return
    if mask.dtype not in ("f32", "bool") or mask.rank != 4:
        raise ModelError(f"{NAME}: expected a mask of f32 or bool and rank 4, got {mask.dtype}")
    check_equal(NAME, "keys and those of the mask", keys, mask.shape[3])
    for d, n in zip(mask.shape[:3], scores, strict=True):
        if d is not ONE:
            check_equal(NAME, "sizes of the mask and the scores", n, d)


# --- meaning --------------------------------------------------------------------------------------


def ref_attention(arrays: Arrays, attrs: Attrs) -> tuple[Array, ...]:
    how, mask = How.of(attrs), arrays[3]
    q, k, v = (_heads_of(given(arrays, i), how, i) for i in range(3))
    with np.errstate(all="ignore"):
        x = _product(q * q.dtype.type(how.scale), np.swapaxes(k, 2, 3), how.parts)
        if how.cap:
            x = np.tanh(x / how.cap) * x.dtype.type(how.cap)
        if mask is not None:
            x = np.where(mask, x, how.fill) if mask.dtype == np.bool_ else x + mask
        for offset in ints(attrs, "causal"):
            x = np.where(np.tri(q.shape[2], k.shape[2], offset, np.bool_), x, -np.inf)
        y = _product(_softmax(x.astype(q.dtype), how.guard), v, how.parts)
    return (np.ascontiguousarray(np.moveaxis(y, 1, how.axes[3])),)


def _heads_of(x: Array, how: How, which: int) -> Array:
    """The heads of an operand, [batch, heads, tokens, size], one for each of queries."""
    first, count = how.first[which], how.counts[which]
    mine = np.moveaxis(x, how.axes[which], 1)[:, first : first + count]
    return np.repeat(mine, how.heads[0] // count, axis=1)


def _product(a: Array, b: Array, parts: int) -> Array:
    """a @ b, or the products of parts, whose sums are rounded to f32."""
    if not parts:
        return a @ b
    left, right = (split(x, parts).astype(np.float64) for x in (a, b))
    return np.asarray(sum(left[i] @ right[j] for i, j in PAIRS[parts]), np.float32)


def _softmax(x: Array, guard: str) -> Array:
    if not x.shape[3]:
        return x
    top = x.max(axis=3, keepdims=True)
    p = np.exp(x - top)
    p = p / p.sum(axis=3, keepdims=True)
    zero = {"none": False, "empty": top == -np.inf, "nan": np.isnan(p)}[guard]
    return np.where(zero, 0, p).astype(x.dtype)


# --- the kernel -----------------------------------------------------------------------------------


def opaque_attention(n: Node, target: Target) -> str:
    """Parameters: the operands that are there, each once, as matrices (the mask flat), the result,
    sizes."""
    how, mask = How.of(dict(n.attrs)), n.inputs[3]
    names: dict[Node, str] = {}
    own = {x: names.setdefault(given(n.inputs, i), x) for i, x in enumerate("qkv")}
    axes = {(given(n.inputs, i), how.axes[i]) for i in range(3)}
    if len(axes) != len(names) or mask in names:
        raise ModelError(f"{NAME}: one tensor has heads on two axes, or is the mask too")
    if mask is not None:
        names[mask] = "mask"
    types = {name: i.type for i, name in names.items()} | {"out": n.type}
    text = KernelText(*types.values())
    buffers = [text.buffer(name, _plain(name, t, how)) for name, t in types.items()]
    layer, sizes = _layer(n, how)
    if ZERO in n.type.shape:
        lines = ["pass"]
    elif how.parts:
        lines = tiles_body(layer, target, how.parts)
    else:
        lines = kernel_body(layer, target)
    body = "\n".join(indent(lines))
    body = re.sub(r"\b[qkv]\b", lambda m: own[m[0]], body)
    return f"{text.head(NAME, *buffers)}\n{text.fill(body, sizes)}\n"


def _plain(name: str, t: TensorType, how: How) -> TensorType:
    """As the kernel sees it: a mask flat, of the others tokens as rows, of all heads or of one."""
    if name == "mask":
        return TensorType(t.dtype, (prod(t.shape),))
    heads = how.axes[("q", "k", "v", "out").index(name)]
    n = 2 if heads == 2 else 3
    return TensorType(t.dtype, (prod(t.shape[:n]), prod(t.shape[n:])))


def _layer(n: Node, how: How) -> tuple[Layer, dict[str, Expr]]:
    """What the kernel is made from, and what stands for what in its text."""
    q, k, v = (given(n.inputs, i).type for i in range(3))
    views = [
        Heads(axis == 1, known(t.shape[axis]) or 1, first, tokens, known(t.shape[3]) or 1)
        for t, axis, first, tokens in zip(
            (q, k, v, n.type), how.axes, (*how.first, 0), "STTS", strict=True
        )
    ]
    shared = how.heads[0] // how.heads[1]
    queries, mask = how.tokens(q, 0), n.inputs[3]
    sizes = {"B": q.shape[0], "S": queries, "T": how.tokens(k, 1), "ROWS": mul(shared, queries)}
    if mask is not None:
        shape = mask.type.shape
        for i, word in enumerate(("MB", "MH", "MS")):
            sizes[word] = ZERO if shape[i] is ONE else prod(shape[i + 1 :])
    for offset in how.causal:
        sizes["OFFSET"] = index(offset)
    layer = Layer(
        *views,
        kv_heads=how.heads[1],
        shared=shared,
        rows=known(sizes["ROWS"]),
        keys=known(sizes["T"]),
        scale=float(how.scale),
        cap=float(how.cap),
        mask=mask.type.dtype if mask else None,
        fill=float(how.fill),
        causal=bool(how.causal),
        guard=how.guard,
    )
    return layer, sizes


def _flops(n: Node) -> Expr:
    """Two products: multiply-adds count twice."""
    how = How.of(dict(n.attrs))
    q, k, v = (given(n.inputs, i).type for i in range(3))
    size = (known(q.shape[3]) or 0) + (known(v.shape[3]) or 0)
    return mul(2 * how.heads[0] * size, q.shape[0], how.tokens(q, 0), how.tokens(k, 1))


# --- samples --------------------------------------------------------------------------------------


def _sample(
    queries: int,
    keys: int,
    size: int,
    *,
    batch: int = 1,
    heads: tuple[int, int] = (1, 1),
    axes: Sequence[int] = (2, 2, 2, 2),
    columns: int | None = None,
    mask: Array | None = None,
    **more: Any,
) -> Sample:
    """Random operands; `columns`: the size of a head of values, where it is another."""

    def heads_of(seed: int, width: int) -> Array:
        tokens, count = (queries, heads[0]) if seed == 0 else (keys, heads[1])
        middle = (tokens, count) if axes[seed] == 2 else (count, tokens)
        return random(batch, *middle, width, seed=seed, scale=1)

    operands = (heads_of(0, size), heads_of(1, size), heads_of(2, columns or size), mask)
    usual = {"first": (0, 0, 0), "scale": 0.5, "cap": 0.0, "fill": -math.inf}
    how = {"heads": heads, "axes": tuple(axes), "causal": (), "guard": "none"}
    return Sample(operands, {**usual, **how, **more})


def _samples() -> Iterable[Sample]:
    """Sizes around those of tiles, panels and blocks; orders; keys that are hidden."""
    for queries, keys, size in (
        (1, 1, 1), (7, 18, 16), (3, 32, 5), (0, 3, 4), (2, 0, 4), (2, 290, 8), (200, 3, 4),
        (14, 5, 33),
    ):  # fmt: skip
        yield _sample(queries, keys, size)
    yield _sample(5, 17, 4, batch=2, heads=(2, 2), axes=(1, 2, 1, 2), columns=20)
    yield _sample(5, 9, 4, batch=2, heads=(4, 2), axes=(2, 1, 2, 1))
    yield _sample(3, 33, 2, heads=(6, 1), causal=(30,))
    yield _sample(19, 19, 4, heads=(2, 2), causal=(0,))
    yield _sample(32, 32, 16, causal=(0,))
    yield _sample(20, 32, 4, heads=(2, 1), causal=(12,))
    yield _sample(9, 4, 4, causal=(-3,), guard="empty")
    yield _sample(4, 300, 2, causal=(290,), cap=1.5)
    yield _sample(1, 270, 16, batch=2, heads=(4, 2), axes=(2, 1, 1, 2), columns=80)
    yield _sample(2, 21, 32, heads=(2, 1), causal=(17,), mask=random(1, 2, 2, 21))
    yield _sample(40, 70, 33, heads=(2, 1), columns=20, parts=2)
    yield _sample(33, 40, 16, batch=2, causal=(7,), cap=1.5, columns=48, parts=2)
    yield _sample(32, 13, 32, parts=2)  # fewer keys than a panel has
    hidden = np.where(random(1, 1, 5, 34, seed=4) > 0.5, np.float32(-np.inf), 0)
    yield _sample(5, 34, 32, heads=(2, 2), axes=(1, 2, 1, 2), mask=hidden, guard="empty", parts=2)
    yield from _masked_samples()


def _masked_samples() -> Iterable[Sample]:
    """Masks, and what is not a number."""
    inf, least = np.float32(-np.inf), np.finfo(np.float32).min
    for k, shape in enumerate(((2, 1, 1, 18), (1, 2, 5, 18), (2, 2, 5, 18), (1, 1, 5, 18))):
        for hide in (inf, least):
            mask = np.where(random(*shape, seed=4) > 0.5, hide, random(*shape, seed=5))
            mask[0, 0, 0] = hide  # a query that sees nothing, or all of them
            yield _sample(5, 18, 4, batch=2, heads=(2, 2), mask=mask, guard=GUARDS[k % 3])
        chosen = random(*shape, seed=4) > 0
        chosen[0, 0, 0] = False
        yield _sample(5, 18, 4, batch=2, heads=(2, 2), mask=chosen, guard="empty")
        yield _sample(5, 18, 4, batch=2, heads=(2, 1), mask=chosen, fill=-1e4)
    late = np.full((1, 1, 3, 280), inf)  # what the first blocks of keys hide
    late[..., 270:] = 0
    yield _sample(3, 280, 4, mask=late)
    edgy = _sample(6, 5, 4, heads=(2, 2))
    q, k = given(edgy.inputs).copy(), given(edgy.inputs, 1).copy()
    q[0, 0], q[0, 1, 0], q[0, 2, 1, 2], k[0, 3, 1] = np.nan, np.inf, -np.inf, 1e30
    for guard in GUARDS:
        yield Sample((q, k, *edgy.inputs[2:]), {**edgy.attrs, "guard": guard})


register(
    Op(
        NAME,
        "opaque",
        infer_attention,
        ref_attention,
        opaque=opaque_attention,
        flops=_flops,
        samples=_samples,
        rows=((0, 0, 0, 0), (0,)),
    )
)
