"""Sparse tensors of a file, as the dense ones that they stand for."""

from __future__ import annotations

import numpy as np
from onnx import SparseTensorProto

from naru.errors import ModelError
from naru.frontend.onnx_data import Tensors

MOST_DENSE = 2**28  # elements; a small file may not ask for more memory than there is


def read_sparse(tensors: Tensors, t: SparseTensorProto, what: str) -> np.ndarray:
    """Values [k], and where they are: positions [k] in row-major order, or [k, rank]; zeros
    elsewhere."""
    shape, values = tuple(t.dims), tensors.read(t.values, what)
    at = tensors.read(t.indices, f"{what}, its indices")
    if any(n < 0 for n in shape) or int(np.prod([float(n) for n in shape])) > MOST_DENSE:
        raise ModelError(f"expected dims of at most {MOST_DENSE} elements, found {list(shape)}")
    count, size = values.size, int(np.prod(shape, dtype=np.int64))
    if values.ndim != 1 or at.dtype != np.int64 or at.shape not in ((count,), (count, len(shape))):
        raise ModelError(
            f"{what}: expected values [k] and i64 indices [k] or [k, {len(shape)}], "
            f"found {list(values.shape)} and {at.dtype}{list(at.shape)}"
        )
    steps = [int(np.prod(shape[k + 1 :], dtype=np.int64)) for k in range(len(shape))]
    inside = at.ndim == 1 or bool(((at >= 0) & (at < np.array(shape, np.int64))).all())
    flat = at if at.ndim == 1 else at @ np.array(steps, np.int64).reshape(-1)
    if not inside or (flat.size and not (flat.min() >= 0 and flat.max() < size)):
        raise ModelError(f"{what}: expected indices inside {list(shape)}, found others")
    out = np.zeros(size, values.dtype)
    out[flat] = values
    return out.reshape(shape)
