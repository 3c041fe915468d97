"""Sparse tensors of an ONNX file, made dense as they are read: nothing behind knows of them."""

from __future__ import annotations

import math

import numpy as np
from onnx import SparseTensorProto

from naru.errors import ModelError
from naru.frontend.onnx_data import MAX_RANK, MOST_ELEMENTS, Tensors
from naru.frontend.onnx_node import Unsupported

# Bytes that may be made of a few: as many always, and of a large file that many for each of its.
ALWAYS = 1 << 26
EACH = 1024


def dense(tensors: Tensors, s: SparseTensorProto, what: str) -> np.ndarray:
    """The contents. Values [n] lie at the places [n] (counted through the whole tensor) or
    [n, rank], in ascending order; elsewhere are zeros (SparseTensorProto)."""
    shape = tuple(s.dims)
    if any(n <= 0 for n in shape) or not 1 <= len(shape) <= MAX_RANK:
        raise ModelError(
            f"expected 1..{MAX_RANK} dims of at least 1, found {list(shape)[:40]}", where=what
        )
    values = tensors.read(s.values, f"{what}, values")
    places = tensors.read(s.indices, f"{what}, indices")
    count = math.prod(shape)
    if values.ndim != 1:
        raise ModelError(f"expected values of 1 dim, found {list(values.shape)}", where=what)
    size = count * values.itemsize
    if count > MOST_ELEMENTS or size > max(ALWAYS, EACH * (values.nbytes + places.nbytes)):
        raise Unsupported(
            f"a sparse tensor of {values.size} values that takes {size} bytes when dense"
        )
    flat = _flat(places, values.size, shape, what)
    made = np.zeros(count, values.dtype)
    made[flat] = values
    return made.reshape(shape)


def _flat(places: np.ndarray, n: int, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Places as numbers below the count of elements. ModelError unless they ascend."""
    if places.dtype != np.int64 or places.shape not in ((n,), (n, len(shape))):
        raise ModelError(
            f"expected indices int64[{n}] or int64[{n}, {len(shape)}], "
            f"found {places.dtype}{list(places.shape)}",
            where=what,
        )
    bounds = np.array(shape if places.ndim == 2 else math.prod(shape), np.int64)
    outside = (places < 0) | (places >= bounds)
    if outside.any():
        found = places[outside.reshape(n, -1).any(axis=1)][0].tolist()
        raise ModelError(f"expected indices in 0..{list(shape)}, found {found}", where=what)
    flat = places if places.ndim == 1 else np.ravel_multi_index(tuple(places.T), shape)
    flat = np.asarray(flat, np.int64)
    if (np.diff(flat) <= 0).any():
        raise ModelError("expected indices in ascending order, each once", where=what)
    return flat
