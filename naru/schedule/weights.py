"""Constant weights as kernels read them: axes in order, panels padded with zeros."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from naru.ir.graph import Data, Layout


@dataclass(frozen=True)
class Packed:
    """A constant in the weights section: its content and the layout in which it is stored."""

    data: Data
    layout: Layout | None
    offset: int
    size: int


def packed_bytes(array: np.ndarray, layout: Layout | None) -> int:
    """Bytes of a constant in its layout."""
    if layout is None or layout.block is None:
        return array.nbytes
    axis, size = layout.block
    blocks = -(-array.shape[axis] // size) * size
    return array.nbytes // max(array.shape[axis], 1) * blocks


def pack(array: np.ndarray, layout: Layout | None) -> np.ndarray:
    """A constant in its physical form: axes in order, the blocked axis padded with zeros."""
    if layout is None:
        return np.ascontiguousarray(array)
    if layout.block is None:
        return np.ascontiguousarray(array.transpose(layout.order))
    axis, size = layout.block
    missing = -array.shape[axis] % size
    if missing:
        widths = [(0, missing if a == axis else 0) for a in range(array.ndim)]
        array = np.pad(array, widths)
    shape = list(array.shape)
    blocked = array.reshape(*shape[:axis], shape[axis] // size, size, *shape[axis + 1 :])
    order = [a if a <= axis else a + 1 for a in layout.order]
    return np.ascontiguousarray(blocked.transpose(*order, axis + 1))
