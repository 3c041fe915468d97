"""Inputs of a model, and the files that they travel in between processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Feed = Mapping[str, Array]  # arrays by input name

MOST_FEEDS = 16  # different inputs, taken in turn, so that no branch or line is learnt
FEED_BYTES = 16 << 20  # of all feeds: beyond, they would measure memory


def feed_count(bytes_of_one: int) -> int:
    """How many different feeds a case has: sixteen, fewer where they are large, at least two."""
    return min(MOST_FEEDS, max(2, FEED_BYTES // max(1, bytes_of_one)))


def write_feeds(path: Path, feeds: Sequence[Feed]) -> None:
    """An .npz of arrays `k/name`, k counting the feeds."""
    arrays: dict[str, Any] = {
        f"{k}/{name}": array for k, feed in enumerate(feeds) for name, array in feed.items()
    }
    np.savez(path, **arrays)


def read_feeds(path: str) -> list[dict[str, Array]]:
    """What `write_feeds` wrote, in its order; arrays as numpy allocates them."""
    feeds: list[dict[str, Array]] = []
    with np.load(path) as data:
        for key in data.files:
            number, _, name = key.partition("/")
            while len(feeds) <= int(number):
                feeds.append({})
            feeds[int(number)][name] = data[key]
    return feeds


def write_outputs(path: str, outputs: Sequence[Array]) -> None:
    """An .npz in the model's order; types that the .npy format lacks (bfloat16) as float32."""
    np.savez(path, *(a.astype(np.float32) if a.dtype.kind == "V" else a for a in outputs))


def read_outputs(path: Path | BinaryIO) -> list[Array]:
    """What `write_outputs` wrote."""
    with np.load(path) as data:
        return [data[key] for key in data.files]
