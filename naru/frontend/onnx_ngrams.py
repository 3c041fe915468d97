"""ONNX's TfIdfVectorizer over numbers: counts of n-grams, one kernel for each length of them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from naru.errors import ModelError
from naru.frontend.onnx_node import OnnxNode, emit, scalar
from naru.frontend.onnx_signatures import Handler
from naru.ir.graph import Node
from naru.ir.simplify import ONE
from naru.ops.registry import constant

LARGEST = 1 << 24  # places of the result


def _pools(c: OnnxNode) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """The n-grams of each length, one a row, and the places of all of them."""
    flat = np.array(c.get_ints("pool_int64s") or c.get_texts("pool_strings") or (), np.int64)
    starts = [*(c.get_ints("ngram_counts") or ()), len(flat)]
    places = np.array(c.get_ints("ngram_indexes") or (), np.int64)
    pools: dict[int, np.ndarray] = {}
    for n, (first, last) in enumerate(pairwise(starts), 1):
        if not 0 <= first <= last <= len(flat) or (last - first) % n:
            raise ModelError(
                f"attribute 'ngram_counts': {n}-grams from {first} to {last} don't fit a pool of "
                f"{len(flat)} numbers"
            )
        pools[n] = flat[first:last].reshape(-1, n)
    total = sum(len(pool) for pool in pools.values())
    if len(places) != total or not total or places.min() < 0 or places.max() >= LARGEST:
        raise ModelError(
            f"attribute 'ngram_indexes': expected a place in 0..{LARGEST - 1} for each of {total} "
            f"n-grams, found {len(places)}"
        )
    return pools, places


def tf_idf_vectorizer(c: OnnxNode) -> Node:
    """Counts (TF), 1 for what is there times its weight (IDF), or counts times weights (TFIDF)."""
    x = c[0]
    if x.type.rank not in (1, 2):
        raise ModelError(f"expected a sequence or a batch of them, found rank {x.type.rank}")
    mode = c.get_str("mode", "", ("TF", "IDF", "TFIDF"))
    pools, places = _pools(c)
    width = int(places.max()) + 1
    rows = emit("reshape", x, shape=(ONE, *x.type.shape)) if x.type.rank == 1 else x
    shortest, longest = c.get_int("min_gram_length", 1), c.get_int("max_gram_length", 1)
    total: Node | None = None
    first = 0
    for n, pool in pools.items():
        own = places[first : first + len(pool)]
        first += len(pool)
        if not shortest <= n <= longest or not len(pool):
            continue
        order = np.lexsort([pool[:, j] for j in reversed(range(n))])
        grams, at = constant(pool[order], np.int64), constant(own[order], np.int64)
        skips = c.get_int("max_skip_count", 0)
        part = emit("ngram_counts", rows, grams, at, skips=skips, width=width)
        total = part if total is None else emit("add", total, part)
    shape = (*x.type.shape[:-1], width)
    if total is None:
        return emit("expand", constant(0, np.float32), shape=shape)
    return emit("reshape", _weighted(c, total, mode, places, width), shape=shape)


def _weighted(c: OnnxNode, total: Node, mode: str, places: np.ndarray, width: int) -> Node:
    """Counts as the mode wants them; weights are given in the order of the pool."""
    if mode == "IDF":
        total = emit("cast", emit("greater", total, scalar(0, total)), to="f32")
    if mode == "TF" or not c.has("weights"):
        return total
    given = np.array(c.get_floats("weights"), np.float32)
    if len(given) != len(places):
        raise ModelError(
            f"attribute 'weights': expected one for each of {len(places)} n-grams, "
            f"found {len(given)}"
        )
    weights = np.zeros(width, np.float32)
    weights[places] = given
    return emit("mul", total, constant(weights, np.float32))


TABLE: dict[str, Handler] = {"TfIdfVectorizer": tf_idf_vectorizer}
