"""Constant weights as kernels read them: axes in order, panels padded with zeros, filters in the
form of an algorithm."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from naru.ir.graph import Data, Layout
from naru.schedule.cook_toom import TAPS, transform_filters

_STRIP_BYTES = 1 << 18


@dataclass(frozen=True)
class Packed:
    """A constant in the weights section: its content and the layout in which it is stored."""

    data: Data
    layout: Layout | None
    offset: int
    size: int


def packed_bytes(array: np.ndarray, layout: Layout | None) -> int:
    """Bytes of a constant in its layout."""
    return math.prod(_packed_shape(array.shape, layout)) * array.itemsize


def _packed_shape(shape: tuple[int, ...], layout: Layout | None) -> tuple[int, ...]:
    if layout is None:
        return shape
    if layout.winograd:
        shape = (*shape[:-2], *(layout.winograd + TAPS - 1,) * 2)
    if layout.block is None:
        return tuple(shape[a] for a in layout.order)
    axis, size = layout.block
    blocks = (*shape[:axis], -(-shape[axis] // size), *shape[axis + 1 :])
    return (*(blocks[a] for a in layout.order), size)


def pack(array: np.ndarray, layout: Layout | None) -> np.ndarray:
    """A constant in its physical form: axes in order, the blocked axis padded with zeros."""
    out = np.empty(_packed_shape(array.shape, layout), array.dtype)
    pack_into(out.reshape(-1), array, layout)
    return out


def pack_into(out: np.ndarray, array: np.ndarray, layout: Layout | None) -> None:
    """Puts the physical form of a constant into `out`, its elements in a row: weights may fill half
    of the memory, and there is no room for a copy between."""
    out = out.reshape(_packed_shape(array.shape, layout))
    if layout is None:
        out[...] = array
        return
    if layout.winograd:
        assert layout.block is not None
        assert layout.block[0] == layout.order[0] == 0
        strip = layout.block[1]
        plain = replace(layout, winograd=0)
        for k in range(0, len(array), strip):
            form = transform_filters(array[k : k + strip], layout.winograd)
            pack_into(out[k // strip : -(-(k + len(form)) // strip)], form, plain)
        return
    order = layout.order
    if layout.block is not None:
        axis, size = layout.block
        missing = -array.shape[axis] % size
        if missing:
            widths = [(0, missing if a == axis else 0) for a in range(array.ndim)]
            array = np.pad(array, widths)
        shape = array.shape
        array = array.reshape(*shape[:axis], shape[axis] // size, size, *shape[axis + 1 :])
        order = (*(a if a <= axis else a + 1 for a in order), axis + 1)
    out = out.transpose(np.argsort(order))
    # Strips that fit a cache: one side is read, or written, far from in a row.
    rows = max(1, _STRIP_BYTES * len(array) // max(array.nbytes, 1))
    for k in range(0, len(array), rows):
        out[k : k + rows] = array[k : k + rows]
