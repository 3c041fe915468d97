"""A case: a model with the inputs that it is measured with."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from naru.artifact.bundle import Bundle
from naru.bench.feeds import Array, Feed, feed_count
from naru.frontend.onnx import load_model
from naru.verify.samples import random_samples


@dataclass(frozen=True, slots=True)
class Case:
    """`feeds` are used in turn. `flops` counts a multiply-add as two (None: what the kernels'
    formulas give). `factory` is `module:function` for the engines that want a torch module."""

    name: str
    about: str
    model: Path
    feeds: Sequence[Feed]
    flops: float | None = None
    factory: str = ""

    @property
    def shapes(self) -> dict[str, list[int]]:
        """The shape of each input."""
        return {name: list(array.shape) for name, array in self.feeds[0].items()}


def sizes_of(bundle: Bundle, feed: Feed) -> dict[str, int]:
    """What the symbols of a bundle's inputs are for a feed."""
    return {
        dim: size
        for spec in bundle.entries[0].inputs
        for dim, size in zip(spec.shape, feed[spec.name].shape, strict=True)
        if isinstance(dim, str) and spec.name in feed
    }


def random_feeds(
    bundle: Bundle, model: Path, dims: Mapping[str, int], seed: int
) -> list[dict[str, Array]]:
    """Random feeds for a bundle of a model, as many as their size allows. InputError for unknown
    dims."""
    samples = random_samples(bundle, model, dims, itertools.count(seed))
    first = next(samples)
    count = feed_count(sum(a.nbytes for a in first.values()))
    return [first, *itertools.islice(samples, count - 1)]


def model_files(model: Path) -> list[Path]:
    """The ONNX file, and the files beside it that hold its external data."""
    proto, _, _ = load_model(model)
    names = {
        entry.value
        for tensor in proto.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [model, *(model.parent / name for name in sorted(names))]


def digest_of(files: Sequence[Path]) -> str:
    """SHA-256 of the contents of files, one after another."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
