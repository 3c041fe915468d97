"""What a model is tried with when the user gives nothing: random inputs that it can take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from naru.artifact.bundle import Bundle
from naru.frontend.onnx import read_onnx
from naru.index_limits import index_limits
from naru.inputs import Array, choose_sizes, golden_sizes, inputs_of, random_inputs, symbols_of
from naru.ir.graph import Graph, toposort
from naru.ops.trees import borders_of


def random_samples(
    bundle: Bundle, source: Path | Graph, dims: Mapping[str, int], seeds: Iterable[int]
) -> Iterator[dict[str, Array]]:
    """Random inputs of a bundle made from an ONNX file or a graph, for each seed: sizes from
    `dims`, else those of its golden vector; what is used as indices stays below what it indexes;
    what trees ask for is on both sides of their splits. Raises InputError."""
    symbols, specs = symbols_of(bundle.manifest), inputs_of(bundle)
    forests = tuple(split_values(source)) if isinstance(source, Graph) else ()
    sizes = choose_sizes(symbols, dims, golden_sizes(bundle))
    if forests:
        sizes |= {s.name: MANY_ROWS for s in symbols if s.name == "rows" and s.name not in dims}
    integers = any(s.dtype.startswith(("int", "uint")) for s in specs)
    limits: Mapping[str, int] = {}
    if integers:
        limits = index_limits(source if isinstance(source, Graph) else read_onnx(source), sizes)
    for seed in seeds:
        sample = random_inputs(specs, symbols, sizes, seed, limits)
        rng = np.random.default_rng(seed)
        for name, splits in forests:
            _near_splits(rng, sample[name], splits)
        yield sample


def random_sample(
    bundle: Bundle, source: Path | Graph, dims: Mapping[str, int], seed: int
) -> dict[str, Array]:
    """One of `random_samples`."""
    return next(random_samples(bundle, source, dims, (seed,)))


MANY_ROWS = 256  # so that most branches of trees are taken


def split_values(graph: Graph) -> Iterator[tuple[str, Mapping[int, Array]]]:
    """Of each input that trees take as it is: its name, and the splits by feature."""
    for n in toposort(*graph.outputs):
        if n.op in ("tree_codes", "tree_ensemble"):
            x = n.inputs[0]
            if x is not None and x.op == "input":
                yield str(x.attr("name")), borders_of(n)


def _near_splits(rng: np.random.Generator, x: Array, splits: Mapping[int, Array]) -> None:
    """Half of the numbers become splits or the next greater ones, a few 0 or NaN."""
    for feature, values in splits.items():
        column = x[:, feature]
        chosen = rng.choice(values, column.size).astype(x.dtype)
        above = np.nextafter(chosen, np.array(np.inf, x.dtype))
        kind = rng.integers(0, 20, column.size)
        column[kind < 6] = chosen[kind < 6]
        column[(kind >= 6) & (kind < 10)] = above[(kind >= 6) & (kind < 10)]
        column[kind == 10] = 0
        column[kind == 11] = np.nan
