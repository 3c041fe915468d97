"""What is said about a model besides the model: how it is called, and whom to trust."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, cast

import numpy as np

from naru.dtypes import DTYPES
from naru.errors import InputError

_SPEC = re.compile(r"\s*([A-Za-z_][\w.]*)\s*:\s*(\w+)\s*\[([^\]]*)\]\s*")
_DIM = re.compile(r"[1-9]\d{0,8}|0|[A-Za-z_]\w*")
EXAMPLE_SIZE = 2  # of a dim that has a name: 0 and 1 would be taken for fixed


def tell_nobody(note: str) -> None:
    """The default of `Reading.tell`."""


@dataclass(frozen=True)
class Reading:
    """What a model's own form does not say; each kind of model takes some of it.

    example: what a torch module is called with: a tuple, one tensor or array, or a mapping by the
    names of its arguments; rows, for an estimator of scikit-learn. Looked at for shapes and dtypes.
    dynamic_shapes: which sizes may change: see `naru.compile`.
    module, arguments: the class that a checkpoint has the weights of, and what it is called with.
    trust_pickle: True, or the names of imports that a pickle may make.
    tell: is told what was recognised and what was left out, a line each.
    """

    example: Any = None
    dynamic_shapes: Any = None
    module: Any = None
    arguments: Mapping[str, Any] | None = None
    trust_pickle: bool | Sequence[str] = False
    tell: Callable[[str], None] = field(default=tell_nobody, compare=False)

    @property
    def given(self) -> tuple[str, ...]:
        """The names of what was said."""
        said = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "tell"}
        said["trust_pickle"] = self.trust_pickle or None
        return tuple(k for k, v in said.items() if v is not None)

    @property
    def arguments_of_example(self) -> tuple[Any, Mapping[str, Any] | None]:
        """What the example says of positional arguments, and of those by name."""
        example: Any = self.example
        if isinstance(example, Mapping):
            return None, cast("Mapping[str, Any]", example)
        return example, None

    def check(self, kind: str, *taken: str) -> None:
        """InputError for what was said and a kind of model does not take."""
        extra = [k for k in self.given if k not in taken]
        if extra:
            takes = f"it takes {', '.join(taken)}" if taken else "it says all itself"
            raise InputError(f"{', '.join(extra)}: not for a model of {kind}: {takes}")


@dataclass(frozen=True)
class InputSpec:
    """An input as a text declares it: `x: f32[batch, 3]`. A dim that has a name may change."""

    name: str
    dtype: str
    dims: tuple[int | str, ...]

    def example(self) -> np.ndarray:
        """Zeros of that shape."""
        shape = [EXAMPLE_SIZE if isinstance(d, str) else d for d in self.dims]
        return np.zeros(shape, DTYPES[self.dtype].numpy)

    def dynamic(self) -> dict[int, str]:
        """The names of the dims that may change, by axis."""
        return {k: d for k, d in enumerate(self.dims) if isinstance(d, str)}


def parse_inputs(texts: Sequence[str]) -> tuple[InputSpec, ...]:
    """Inputs declared as `name: dtype[dims]`. Raises InputError."""
    found = tuple(map(_parse_input, texts))
    names = [s.name for s in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"the input '{name}' is declared twice")
    return found


def _parse_input(text: str) -> InputSpec:
    hint = "x: f32[batch, 3, 224, 224]"
    found = _SPEC.fullmatch(text)
    if not found:
        raise InputError(f"{text!r}: expected name: dtype[dims]", hint=hint)
    name, dtype, inner = found.groups()
    if dtype not in DTYPES:
        raise InputError(f"{text!r}: {dtype!r} is not one of {', '.join(DTYPES)}", hint=hint)
    dims: list[int | str] = []
    for part in (p.strip() for p in inner.split(",") if inner.strip()):
        if not _DIM.fullmatch(part):
            raise InputError(f"{text!r}: {part!r} is neither a size nor a name", hint=hint)
        dims.append(int(part) if part.isdecimal() else part)
    return InputSpec(name, dtype, tuple(dims))
