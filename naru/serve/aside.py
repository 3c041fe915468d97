"""Work that would hold the event loop, and everybody who waits for it, is done by other threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from numpy.typing import NDArray

ASIDE_FROM = 256 << 10  # bytes; less is done sooner than it is handed to another thread and back

_P = ParamSpec("_P")
_T = TypeVar("_T")


async def aside(size: int, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """What a function gives that works on so many bytes. Raises what it raises."""
    if size < ASIDE_FROM:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def count_bytes(arrays: Sequence[NDArray[Any]]) -> int:
    """The bytes of arrays; those of texts are not looked at, but each counts as eight."""
    return sum([a.nbytes for a in arrays])
