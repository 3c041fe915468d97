"""What every loaded model can do, wherever it runs."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Name, dtype and shape of an input or output; a dim is a size, a symbol or a formula. The
    dtype of texts is "string". What is no tensor has its kind (`sequence of float32[n]`) as dtype,
    and no shape. The `optional` input is the seed of random numbers: a call that gives none draws
    one."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    optional: bool = False
    tensor: bool = True

    def __str__(self) -> str:
        if not self.tensor:
            return f"{self.name}: {self.dtype}"
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """How far one golden output was off, as rms over the output, and how far it may be."""

    entry: str
    output: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What a self-test compared. It only exists when all checks passed."""

    checks: tuple[OutputCheck, ...]


@dataclass(frozen=True, slots=True)
class StepTime:
    """Median time of a step, in nanoseconds."""

    name: str
    ns: float


class Model(ABC):
    """A loaded model. `model(x)` takes arrays in the order of `inputs`, keywords or one dict, and
    returns an array, or a named tuple when there are several outputs.

    Inputs are numpy arrays of exactly the right dtype (nothing is cast; but models of estimators of
    scikit-learn take other real numbers for float64), or anything with DLPack or the buffer
    protocol. Outputs are fresh arrays. Many threads may call one model at once. Raises InputError
    for what does not fit and RunError for what goes wrong inside.

    Where the model has them: texts are arrays of `object` (or of `str`, or lists), sequences are
    lists, maps dicts, and an optional without a value is None.
    """

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    @property
    @abstractmethod
    def inputs(self) -> tuple[TensorInfo, ...]: ...

    @property
    @abstractmethod
    def outputs(self) -> tuple[TensorInfo, ...]: ...

    @property
    @abstractmethod
    def manifest(self) -> dict[str, Any]: ...

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """What the classes are called, by output, where the model was compiled with labels: those
        of scores are in the order of their classes, and a number of a class is a position."""
        entries: list[dict[str, Any]] = self.manifest["entries"]
        outputs: list[dict[str, Any]] = entries[0]["outputs"] if entries else []
        own = {o["name"]: tuple(o.get("labels", ())) for o in outputs}
        found = {o["name"]: own.get(o.get("top_of", o["name"]), ()) for o in outputs}
        return {name: labels for name, labels in found.items() if labels}

    @property
    @abstractmethod
    def entries(self) -> tuple[str, ...]:
        """Names of the functions of the bundle; a call of the model runs the first."""

    @abstractmethod
    def entry(self, name: str) -> Callable[..., Any]:
        """Another function of the bundle, such as "prefill". Raises InputError if there is none."""

    @abstractmethod
    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the bundle to a file. Raises BundleError when it cannot be written."""

    @abstractmethod
    def selftest(self) -> SelfTest:
        """Runs the golden vectors that the reference made. Raises RunError if one is off, and
        BundleError where there are none."""

    @abstractmethod
    def profile(self, *args: object, repeat: int = 20, **kwargs: object) -> tuple[StepTime, ...]:
        """Median time of each step over `repeat` runs, after one run to warm up. Raises InputError
        when the bundle was compiled without its profile entry."""

    def __repr__(self) -> str:
        inputs = ", ".join(map(str, self.inputs))
        return f"<naru model ({inputs}) -> {', '.join(map(str, self.outputs))}>"
