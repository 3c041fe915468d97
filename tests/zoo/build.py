"""How a zoo model is written: ONNX's own text form, weights as arrays, inputs from a seed.

A `Case` is a model together with inputs at several sizes. It promises that the model passes
`onnx.checker` and runs in ONNX Runtime (tests/test_zoo.py holds it to that), so every other test
can take `CASES` and compare.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import onnx
import onnx.parser
from numpy.typing import ArrayLike
from onnx import helper, numpy_helper

OPSET = 17
IR_VERSION = 8

Array = np.ndarray
Feed = dict[str, Array]
Maker = Callable[[np.random.Generator, tuple[int, ...]], Array]
"""Makes the values of one input: (random generator, shape) -> array."""


@dataclass(frozen=True)
class Case:
    """A model, sizes for its symbolic dims, and how to make values for its inputs."""

    name: str
    build: Callable[[], onnx.ModelProto]
    sizes: tuple[Mapping[str, int], ...] = ({},)
    values: Mapping[str, Maker] = field(default_factory=dict)
    tolerance: float = 1e-5  # relative to the largest absolute value of the output
    tags: frozenset[str] = frozenset()

    def model(self) -> onnx.ModelProto:
        """The model; built once a process, so treat it as read-only."""
        return _model_of(self.name)

    def feeds(self) -> Iterator[Feed]:
        """One set of inputs for each entry of `sizes`; the same in every run."""
        for number, dims in enumerate(self.sizes):
            seed = zlib.crc32(self.name.encode()) + number
            yield random_inputs(self.model(), dims, seed=seed, values=self.values)


CASES: dict[str, Case] = {}


@cache
def _model_of(name: str) -> onnx.ModelProto:
    return CASES[name].build()


def add(
    name: str,
    build: Callable[[], onnx.ModelProto],
    *,
    sizes: Sequence[Mapping[str, int]] = ({},),
    values: Mapping[str, Maker] | None = None,
    tolerance: float = 1e-5,
    tags: Sequence[str] = (),
) -> None:
    """Registers a case; a name may be taken once."""
    if name in CASES:
        raise ValueError(f"zoo case {name!r} is registered twice")
    CASES[name] = Case(name, build, tuple(sizes), values or {}, tolerance, frozenset(tags))


def text(
    body: str, weights: Mapping[str, ArrayLike] | None = None, *, opset: int = OPSET
) -> onnx.ModelProto:
    """A model from ONNX text: `(float[n] x) => (float[n] y) { y = Neg(x) }`, plus initialisers.

    Local functions may follow the graph; their domain is `zoo`.
    """
    header = f'<ir_version: {IR_VERSION}, opset_import: ["" : {opset}, "zoo" : 1]>\n'
    # The parser wants at least one attribute between the brackets; tables may have none.
    model = onnx.parser.parse_model(f"{header} main {body.replace('<>', '')}")
    if not model.functions:
        del model.opset_import[1:]
    for name, values in (weights or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return model


def add_text(
    name: str,
    body: str,
    weights: Mapping[str, ArrayLike] | None = None,
    *,
    opset: int = OPSET,
    sizes: Sequence[Mapping[str, int]] = ({},),
    values: Mapping[str, Maker] | None = None,
    tolerance: float = 1e-5,
    tags: Sequence[str] = (),
) -> None:
    """Registers a case whose model is `text(body, weights)`."""
    add(
        name,
        lambda: text(body, weights, opset=opset),
        sizes=sizes,
        values=values,
        tolerance=tolerance,
        tags=tags,
    )


def weight(*shape: int) -> Array:
    """He-initialised float32 values that depend on the shape alone: fan-in is all but axis 0."""
    rng = np.random.default_rng([*shape, len(shape)])
    fan_in = max(1, int(np.prod(shape[1:])))
    return (rng.standard_normal(shape) * np.sqrt(2.0 / fan_in)).astype(np.float32)


def ints(*values: int) -> Array:
    """A one-dimensional int64 array, as axes, shapes and pads are."""
    return np.array(values, dtype=np.int64)


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def positive(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Away from zero, for logarithms, roots and divisors."""
    return rng.uniform(0.1, 4.0, shape).astype(np.float32)


def unit(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Strictly inside -1..1, for asin, acos and atanh."""
    return rng.uniform(-0.95, 0.95, shape).astype(np.float32)


def distinct(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """No two equal, so that sorting and arg-max have one answer."""
    count = int(np.prod(shape))
    return (rng.permutation(count).reshape(shape) / 8 - count / 16).astype(np.float32)


def special(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Random, with NaN, infinities, both zeros, a denormal and the largest float at the front."""
    edges = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 3.4e38, -3.4e38, 1.0, -1.0, 0.5]
    values = rng.standard_normal(shape).astype(np.float32)
    flat = values.reshape(-1)
    flat[: len(edges)] = np.array(edges[: flat.size], dtype=np.float32)
    return values


def halves(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Multiples of one half, so that rounding to even is tested."""
    return (rng.integers(-9, 10, shape) / 2).astype(np.float32)


def between(low: int, high: int, dtype: type[np.generic] = np.int64) -> Maker:
    """Integers low..high, both included."""
    return lambda rng, shape: rng.integers(low, high + 1, shape).astype(dtype)


def nonzero(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Integers of both signs without zero, as divisors."""
    return (rng.integers(1, 6, shape) * rng.choice([-1, 1], shape)).astype(np.int64)


def constant(values: object, dtype: type[np.generic] = np.int64) -> Maker:
    """Always these values, whatever the generator says."""
    return lambda rng, shape: np.array(values, dtype=dtype)


def random_values(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Normal floats, integers in -10..10 (0..10 when unsigned), fair booleans."""
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(bool)
    if np.issubdtype(dtype, np.unsignedinteger):
        return rng.integers(0, 11, shape).astype(dtype)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(-10, 11, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def random_inputs(
    model: onnx.ModelProto,
    dims: Mapping[str, int] | None = None,
    *,
    seed: int = 0,
    values: Mapping[str, Maker] | None = None,
) -> Feed:
    """Values for every input of the model that is not an initialiser.

    `dims` gives a size to each symbolic dim; a KeyError names one that is missing.
    """
    rng = np.random.default_rng(seed)
    weights = {tensor.name for tensor in model.graph.initializer}
    feed: Feed = {}
    for value in model.graph.input:
        if value.name in weights:
            continue
        tensor = value.type.tensor_type
        shape = tuple(
            (dims or {})[dim.dim_param] if dim.HasField("dim_param") else dim.dim_value
            for dim in tensor.shape.dim
        )
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        make = (values or {}).get(value.name)
        feed[value.name] = make(rng, shape) if make else random_values(rng, shape, dtype)
    return feed
