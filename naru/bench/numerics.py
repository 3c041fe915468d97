"""Errors: every engine's outputs against the same ones."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from naru.artifact.cache import make_key, open_cache
from naru.bench.engines import REFERENCE
from naru.bench.feeds import Array, Feed, read_outputs
from naru.bench.worker import Worker
from naru.verify import compare

OPS = Path(__file__).resolve().parent.parent / "ops"


def errors(got: Sequence[Array], wanted: Sequence[Array]) -> dict[str, Any]:
    """The worst over all outputs: {"max": largest error relative to an element that is not tiny
    beside the rest, "rms": root mean square of the error relative to that of the output}, or
    {"problem": text} where outputs cannot be compared."""
    if len(got) != len(wanted):
        return {"problem": f"{len(got)} outputs, expected {len(wanted)}"}
    found = [
        compare(0, str(k), a, b, 0.0) for k, (a, b) in enumerate(zip(got, wanted, strict=True))
    ]
    problems = [d.problem for d in found if d.problem]
    if problems:
        return {"problem": problems[0]}
    return {
        "max": max((d.max_rel for d in found), default=0.0),
        "rms": max((d.rms_rel for d in found), default=0.0),
    }


def reference_outputs(
    model: Path, digest: str, feed: Feed, feeds: Path, cores: Sequence[int]
) -> list[Array]:
    """The outputs in double precision for the first feed of the file `feeds`: from the cache, for
    they take long; or by a process of their own. `digest` is the model's. Raises Refused."""
    store = open_cache()
    key = make_key("reference", digest, _digest_of_feed(feed), _digest_of_ops())
    kept = store.get(key) if store else None
    if kept is not None:
        return read_outputs(io.BytesIO(kept))
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "reference.npz"
        worker = Worker(REFERENCE.adapter, max(1, len(cores)), cores)
        try:
            worker.ask("load", files={"model": str(model)}, feeds=str(feeds))
            worker.ask("run", output=str(output))
        finally:
            worker.close()
        if store:
            store.put(key, output.read_bytes())
        return read_outputs(output)


def _digest_of_feed(feed: Feed) -> bytes:
    digest = hashlib.sha256()
    for name, array in feed.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


@cache
def _digest_of_ops() -> bytes:
    """Of the sources that define the ops: what they mean may be corrected."""
    digest = hashlib.sha256()
    for path in sorted(OPS.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.digest()
