"""What a served model takes and gives, in the protocol's terms, and the check of a request against
it, before any work is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from naru.errors import nearest
from naru.inputs import symbols_of
from naru.runtime.model import Model, TensorInfo
from naru.serve.datatypes import DATATYPES, TEXT, numpy_dtype
from naru.serve.refusals import INVALID, UNSUPPORTED, Refusal, joined

Array = NDArray[Any]
_LARGEST = 2**31 - 1  # size of a dim that nothing limits


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output: `dims` are sizes, symbols or formulas; in `shape` the latter two are -1,
    as the protocol wants it."""

    name: str
    datatype: str
    dtype: np.dtype[Any]
    dims: tuple[int | str, ...]
    optional: bool = False
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        shape = tuple(d if isinstance(d, int) else -1 for d in self.dims)
        object.__setattr__(self, "shape", shape)

    def __str__(self) -> str:
        return f"{self.name}: {self.datatype}{list(self.shape)}"


class Signature:
    """Inputs and outputs of a model.

    `rows` is the symbol that the first dim of every input and output is, where there is one, and
    which stands nowhere else; requests may then be put together along it, if no row of the result
    depends on another row (which is not said here)."""

    def __init__(self, model: Model) -> None:
        self.inputs = tuple(_input(info) for info in model.inputs)
        self.outputs = tuple(o for info in model.outputs if (o := _output(info)) is not None)
        if not self.outputs:
            listed = ", ".join(map(str, model.outputs))
            raise Refusal(UNSUPPORTED, f"no output is a tensor of the protocol: {listed}")
        # What is no tensor (a sequence of maps, say) has no form in the protocol.
        served = {o.name for o in self.outputs}
        self.left_out = tuple(str(o) for o in model.outputs if o.name not in served)
        self.positions = tuple(k for k, o in enumerate(model.outputs) if o.name in served)
        self.several = len(model.outputs) > 1
        self.input = {t.name: t for t in self.inputs}
        self.output = {t.name: t for t in self.outputs}
        self.has_texts = any(t.datatype == TEXT for t in self.inputs)
        self.required = sum(not t.optional for t in self.inputs)
        self.ranges = {s.name: (s.lo, s.hi) for s in symbols_of(model.manifest)}
        self.rows = _rows_symbol(self.inputs, self.outputs) if not self.left_out else None

    @property
    def most_rows(self) -> int:
        """The most rows that one run takes; 0 where requests cannot be put together."""
        return self.ranges.get(self.rows, (0, _LARGEST))[1] if self.rows is not None else 0

    def check(self, arrays: Mapping[str, Array]) -> None:
        """Raises a Refusal that lists all that does not fit: names, ranks, sizes."""
        sizes: dict[str, int] = {}
        fits = len(arrays) == len(self.inputs)
        for tensor in self.inputs:
            array = arrays.get(tensor.name)
            if array is None:
                fits = fits and tensor.optional
                continue
            shape = array.shape
            if len(shape) != len(tensor.dims):
                fits = False
                continue
            for dim, got in zip(tensor.dims, shape, strict=True):
                if type(dim) is int:
                    fits = fits and got == dim
                    continue
                low, high = self.ranges.get(str(dim), (0, _LARGEST))
                fits = fits and low <= got <= high and sizes.setdefault(str(dim), got) == got
        if not fits and (problems := self._problems(arrays)):
            raise Refusal(INVALID, joined(problems))

    def _problems(self, arrays: Mapping[str, Array]) -> list[str]:
        """Everything that is wrong with a request, in words; seldom asked."""
        problems = [self.unknown_input(n) for n in arrays if n not in self.input]
        given: dict[str, tuple[int, str]] = {}
        for tensor in self.inputs:
            if tensor.name not in arrays:
                if not tensor.optional:
                    problems.append(f"input '{tensor.name}' is missing, expected {tensor}")
                continue
            got = arrays[tensor.name].shape
            wish = self._wish(tensor, got, given)
            if wish:
                problems.append(
                    f"input '{tensor.name}': expected shape {list(tensor.shape)}, got {list(got)}: "
                    f"expected {wish}"
                )
        return problems

    def _wish(
        self, tensor: Tensor, got: Sequence[int], given: dict[str, tuple[int, str]]
    ) -> str | None:
        """What a shape should be, where it is not."""
        if len(got) != len(tensor.dims):
            return f"{len(tensor.dims)} dims"
        for axis, (dim, size) in enumerate(zip(tensor.dims, got, strict=True)):
            if isinstance(dim, int):
                if size != dim:
                    return f"dim {axis} to be {dim}"
                continue
            low, high = self.ranges.get(dim, (0, _LARGEST))
            if not low <= size <= high:
                return f"dim {axis} ('{dim}') in {low}..{high}"
            first, giver = given.setdefault(dim, (size, tensor.name))
            if first != size:
                return f"dim {axis} to be {first}, as '{dim}' is in '{giver}'"
        return None

    def unknown_input(self, name: str) -> str:
        """The message for a name that is no input's."""
        return _unknown("input", name, self.input)

    def unknown_output(self, name: str) -> str:
        """The message for a name that is no output's."""
        return _unknown("output", name, self.output)


def _unknown(what: str, name: str, known: Mapping[str, Tensor]) -> str:
    meant = nearest(name, known)
    listed = ", ".join(map(str, known.values()))
    return f"there is no {what} '{name}', expected {listed}" + (f"; {meant}" if meant else "")


def _input(info: TensorInfo) -> Tensor:
    datatype = DATATYPES.get(info.dtype)
    if not info.tensor or datatype is None:
        raise Refusal(
            UNSUPPORTED,
            f"the protocol has no datatype for the input {info}",
            hint="serve a model with tensors as inputs, of " + ", ".join(DATATYPES),
        )
    return Tensor(info.name, datatype, numpy_dtype(datatype), info.shape, info.optional)


def _output(info: TensorInfo) -> Tensor | None:
    datatype = DATATYPES.get(info.dtype) if info.tensor else None
    if datatype is None:
        return None
    return Tensor(info.name, datatype, numpy_dtype(datatype), info.shape)


def _rows_symbol(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> str | None:
    """The symbol that all first dims are, and no other dim has in it."""
    if not inputs or any(not t.dims or t.optional for t in (*inputs, *outputs)):
        return None
    first = {t.dims[0] for t in (*inputs, *outputs)}
    symbol = first.pop()
    if first or not isinstance(symbol, str) or not symbol.isidentifier():
        return None
    others = (d for t in (*inputs, *outputs) for d in t.dims[1:] if isinstance(d, str))
    return None if any(symbol in d for d in others) else symbol
