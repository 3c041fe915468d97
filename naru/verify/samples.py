"""What a model is tried with when the user gives nothing: random inputs that it can take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from naru.artifact.bundle import Bundle
from naru.frontend.onnx import read_onnx
from naru.index_limits import index_limits
from naru.inputs import Array, choose_sizes, golden_sizes, inputs_of, random_inputs, symbols_of


def random_samples(
    bundle: Bundle, source: Path, dims: Mapping[str, int], seeds: Iterable[int]
) -> Iterator[dict[str, Array]]:
    """Random inputs of a bundle made from an ONNX file, for each seed: sizes from `dims`, else
    those of its golden vector; what is used as indices stays below what it indexes. Raises
    InputError."""
    symbols, specs = symbols_of(bundle.manifest), inputs_of(bundle)
    sizes = choose_sizes(symbols, dims, golden_sizes(bundle))
    integers = any(s.dtype.startswith(("int", "uint")) for s in specs)
    limits = index_limits(read_onnx(source), sizes) if integers else {}
    for seed in seeds:
        yield random_inputs(specs, symbols, sizes, seed, limits)


def random_sample(
    bundle: Bundle, source: Path, dims: Mapping[str, int], seed: int
) -> dict[str, Array]:
    """One of `random_samples`."""
    return next(random_samples(bundle, source, dims, (seed,)))
