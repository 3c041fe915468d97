"""A loaded model: from a bundle to something that is called with arrays.

Needs numpy and the C extension, not the compiler. The fast path of a call is C (native/program.c);
this file has what happens around it: checks when loading, conversion of what the fast path does not
take, messages, golden vectors, times per step.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .. import knobs
from ..artifact.bundle import (
    Bundle,
    check_range,
    read_bundle,
)
from ..artifact.manifest import (
    Entry,
    Section,
    TensorSpec,
    dtype_of,
)
from ..errors import BundleError, InputError, NaruError, RunError, TargetError
from . import _native, arguments, symbols, tables
from .model import Model, OutputCheck, SelfTest, StepTime, TensorInfo

Array = NDArray[Any]

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}  # other names for the same


# ---- loading ----


class WeightsCheck:
    """The comparison of a bundle's weights with their digest, in a thread of its own."""

    def __init__(self, bundle: Bundle, weights: Section, where: str | None) -> None:
        self._bundle, self._section, self._where = bundle, weights, where
        self._thread: threading.Thread | None = None
        self._found: BundleError | bool = False  # what is wrong; True: nothing

    def start(self) -> WeightsCheck:
        """Begins, and does not wait."""
        self._thread = threading.Thread(target=self._compare, name="naru-weights", daemon=True)
        self._thread.start()
        return self

    def wait(self) -> None:
        """Raises BundleError where the weights are damaged."""
        if self._thread is not None:
            self._thread.join()
        if self._found is False:  # not begun, or a fork has left the thread behind
            self._compare()
        if isinstance(self._found, BundleError):
            raise BundleError(self._found.message, where=self._where)

    def _compare(self) -> None:
        try:
            self._section.check(self._bundle.data)
            self._found = True
        except BundleError as error:
            self._found = error


def fitting(bundle: Bundle, *, verify: bool = False) -> Bundle:
    """The bundle, or its fallback where this machine does not run the bundle's own code. `verify`:
    compare the digests of the fallback, but for its weights. Raises TargetError where neither runs,
    BundleError for a fallback that makes no sense."""
    try:
        check_target(bundle)
    except TargetError:
        if "fallback" not in bundle.sections:
            raise
    else:
        return bundle
    try:
        data = bundle.section("fallback")
        inner = read_bundle(data, verify=verify, but=("weights", "fallback"), records=False)
        if ("host" in inner.manifest) != ("host" in bundle.manifest):
            raise BundleError("it is a bundle of another kind of model")
        return fitting(inner, verify=verify)
    except (BundleError, TargetError) as error:
        raise type(error)(error.message, where="the fallback", hint=error.hint) from None


def check_target(bundle: Bundle) -> None:
    """Raises TargetError where this machine, or its kernel, does not run the bundle's own code."""
    abi = bundle.manifest["abi"]
    check_range(bundle.manifest, "ABI", abi, _native.OLDEST_ABI, _native.ABI_VERSION)
    target = bundle.manifest["target"]
    machine = platform.machine().lower()
    machine = _MACHINES.get(machine, machine)
    wanted = target["triple"].split("-")[0]
    if _MACHINES.get(wanted, wanted) != machine:
        raise TargetError(
            f"the bundle is for {wanted}, this machine is {machine}",
            hint="compile the model for this machine's target",
        )
    present = _native.features()
    missing = [name for name in target["features"] if name not in present]
    if missing:
        raise TargetError(
            f"the bundle was compiled for '{target['name']}'; this CPU lacks {', '.join(missing)}",
            hint="compile with a target that this CPU has, such as a lower x86-64 level, or add "
            "code for that with --fallback",
        )
    if any(name.startswith("amx") for name in target["features"]) and not _native.request_amx():
        raise TargetError(
            "this kernel does not let this process use AMX",
            hint="a Linux kernel of 5.16 or later, or a target without AMX, which --fallback adds "
            "to the bundle",
        )


# ---- entries ----


class EntryProgram(_native.Program):
    """One entry of a bundle, callable with numpy arrays. Thread-safe."""

    def __init__(self, bundle: Bundle, entry: Entry, *, threads: int | None = None) -> None:
        self._entry, self._records = entry, bundle.manifest.get("steps")
        self._symbols = bundle.symbols
        self._columns = tables.columns_of(bundle.manifest)
        index = {s.name: k for k, s in enumerate(bundle.symbols)}
        weights = bundle.sections.get("weights")
        _native.set_loop_limit(knobs.current().loop_limit)
        super().__init__(
            bundle.image,
            weights.offset if weights else 0,
            entry.run,
            entry.plan,
            _input_codes(entry.inputs, index),
            tuple((dtype_of(t.dtype), (0,) * len(t.shape), t.late) for t in entry.outputs),
            tuple((s.lo, s.hi) for s in bundle.symbols if s.kind == "input"),
            len(bundle.symbols),
            len(entry.steps) + 1 if entry.name == "profile" else 0,
            threads or knobs.current().threads or 0,
            output_type([t.name for t in entry.outputs]) if len(entry.outputs) > 1 else None,
            entry.pointers,
            tuple(sys.intern(t.name) for t in entry.inputs),
        )

    _weights: WeightsCheck | None = None

    def _ready(self) -> None:
        """Asked once, by the first call. Raises BundleError where the weights are damaged."""
        if self._weights is not None:
            self._weights.wait()

    def _convert(self, args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[Array, ...]:
        """What the fast path did not take, as arrays that it takes. Raises InputError."""
        if len(args) == 1 and tables.is_table(args[0]):
            args, kwargs = (), {**kwargs, **tables.take(args[0], self._infos(), self._columns)}
        return arguments.convert(self._entry.inputs, self._symbols, args, kwargs)

    def _infos(self) -> tuple[TensorInfo, ...]:
        """The inputs, as callers see them."""
        return tuple(TensorInfo(t.name, t.dtype, t.shape, t.optional) for t in self._entry.inputs)

    def _failure(self, code: int, a: int, b: int, c: int) -> NaruError:
        """The exception for a failed run; the codes are those of abi.h and native/program.c."""
        make = _FAILURES.get(code)
        if make is None:
            return RunError(f"the code reported failure {code} ({a}, {b}, {c})")
        return make(_Failed(self._entry, self._records), a, b, c)


def _input_codes(
    inputs: Sequence[TensorSpec], index: Mapping[str, int]
) -> tuple[tuple[np.dtype[Any], tuple[int, ...], bool], ...]:
    """Dims as native/program.c wants them: sizes, or ~(2 * symbol + whether it is bound before)."""
    bound: set[str] = set()
    result: list[tuple[np.dtype[Any], tuple[int, ...], bool]] = []
    for tensor in inputs:
        codes: list[int] = []
        for dim in tensor.shape:
            codes.append(dim if isinstance(dim, int) else ~(2 * index[dim] + (dim in bound)))
            if isinstance(dim, str):
                bound.add(dim)
        result.append((dtype_of(tensor.dtype), tuple(codes), False))
    return tuple(result)


def output_type(names: Sequence[str]) -> type[tuple[Any, ...]]:
    """The named tuple of several outputs."""
    return _outputs_type(tuple(re.sub(r"\W", "_", name).lstrip("_") for name in names))


@cache
def _outputs_type(fields: tuple[str, ...]) -> type[tuple[Any, ...]]:
    """A named tuple class that can be pickled although no module holds it."""
    made = namedtuple("Outputs", fields, rename=True)  # pyright: ignore[reportUntypedNamedTuple]

    def reduce(self: tuple[Any, ...]) -> tuple[Any, ...]:
        return _restore_outputs, (fields, tuple(self))

    made.__reduce__ = reduce
    return made


def _restore_outputs(fields: tuple[str, ...], values: tuple[Any, ...]) -> tuple[Any, ...]:
    return _outputs_type(fields)(*values)


# ---- failures of a run ----


@dataclass(frozen=True)
class _Failed:
    """What an entry is, and what the manifest says of its steps."""

    entry: Entry
    records: object

    def step(self, k: int) -> str:
        """A step by the nodes that it comes from, as far as they are known."""
        names = self.entry.steps
        found = f"step '{names[k]}'" if 0 <= k < len(names) else f"step {k}"
        try:  # nobody has checked these
            nodes = ", ".join(f"'{name}'" for name, _ in cast(Any, self.records)[k]["nodes"])
        except (TypeError, ValueError, LookupError):
            return found
        return f"{found} of {nodes}" if nodes else found

    def output(self, k: int) -> str:
        return f"'{self.entry.outputs[k].name}'"

    def requirement(self, k: int) -> str:
        asked = self.entry.requires
        return asked[k] if 0 <= k < len(asked) else f"condition {k} does not hold"


def _size(count: int) -> str:
    if not 0 <= count <= 1 << 62:  # plans stay at the largest number
        return "more than 4 EiB"
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


_FAILURES: dict[int, Callable[[_Failed, int, int, int], NaruError]] = {
    1: lambda e, a, b, c: RunError(f"{e.step(a)}: index {b} is out of range for a size of {c}"),
    2: lambda e, a, b, c: RunError(f"{e.step(a)}: no memory for {_size(b)}"),
    3: lambda e, a, b, c: RunError(f"{e.step(a)}: got a size of {b}, the most is {c}"),
    6: lambda e, a, b, c: RunError(f"{e.step(a)}: a signal ended it in round {b}"),
    7: lambda e, a, b, c: RunError(
        f"{e.step(a)}: it goes on after {b} rounds, the most that are allowed",
        hint="NARU_LOOP_LIMIT sets how many",
    ),
    5: lambda e, a, b, c: RunError(f"{e.step(a)}: got a size of {b}, the least is {c}"),
    4: lambda e, a, b, c: RunError(
        f"the values of these inputs do not fit the model: {e.requirement(a)}",
    ),
    -1: lambda e, a, b, c: RunError(
        f"these input sizes need {_size(a)} of memory, the machine has {_size(b)}",
        hint="smaller inputs",
    ),
    -2: lambda e, a, b, c: RunError(f"the code did not give the output {e.output(a)}"),
    -3: lambda e, a, b, c: RunError(f"the output {e.output(a)} would have {_size(b)}"),
    -6: lambda e, a, b, c: RunError(
        f"these input sizes are too small: dim {b} of the output {e.output(a)} would be {c}",
        hint="larger inputs",
    ),
    -7: lambda e, a, b, c: InputError(
        f"these input sizes do not fit the model: {e.requirement(a)}",
        hint="sizes for which the condition holds",
    ),
    -5: lambda e, a, b, c: RunError(f"no memory for {_size(a)}", hint="smaller inputs"),
    -4: lambda e, a, b, c: RunError("converted inputs were refused, which is a bug in naru"),
}


def _copy_weights(bundle: Bundle, weights: Section) -> None:
    """From the mapped file into large pages. Raises RunError where there is no memory for it."""
    try:
        bundle.image.copy_weights(weights.offset, weights.size)
    except MemoryError:
        raise RunError(
            f"there is no memory for a copy of {weights.size} bytes of weights",
            hint="load the model without hugepages",
        ) from None


# ---- models ----


class NativeModel(EntryProgram, Model):
    """A model that is native code as a whole: the bundle's own or, where this machine does not run
    that, its fallback's. `verify`: as `fitting` has it."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        hugepages: bool | None = None,
        verify: bool = False,
    ) -> None:
        if threads is not None and threads < 1:
            raise InputError(f"threads must be at least 1, got {threads}")
        self._whole = bundle  # what is saved
        bundle = fitting(bundle, verify=verify)
        if "code" not in bundle.sections:
            raise BundleError("the bundle has no code")
        code = bundle.sections["code"]
        try:
            # perf asks for its map only where code lies in memory without a file.
            bundle.image.enable_code(code.offset, code.size, knobs.current().perf > 0)
        except OSError as error:
            raise TargetError(
                f"this system does not let the process make code executable ({error.strerror})"
            ) from error
        self._hugepages = bool(knobs.current().hugepages) if hugepages is None else hugepages
        weights = bundle.sections.get("weights")
        if weights is not None and self._hugepages:
            _copy_weights(bundle, weights)
        self._bundle, self._threads = bundle, threads
        self._symbols_told = symbols.tell(bundle)
        self._made: dict[str, EntryProgram] = {}
        self._making = threading.Lock()
        super().__init__(bundle, bundle.entries[0], threads=threads)

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self._infos()

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return tuple(TensorInfo(t.name, t.dtype, t.shape) for t in self._entry.outputs)

    @property
    def manifest(self) -> dict[str, Any]:
        return self._bundle.manifest

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of the functions of the bundle; a call of the model runs the first."""
        return tuple(e.name for e in self._bundle.entries)

    def entry(self, name: str) -> EntryProgram:
        """Another function of the bundle, such as "prefill". Raises InputError if there is none."""
        if name == self._entry.name:
            return self
        with self._making:
            if name not in self._made:
                entry = next((e for e in self._bundle.entries if e.name == name), None)
                if entry is None:
                    raise InputError(f"the model has no entry '{name}'; it has {self.entries}")
                made = EntryProgram(self._bundle, entry, threads=self._threads)
                made._weights = self._weights
                self._made[name] = made
            return self._made[name]

    @property
    def has_golden(self) -> bool:
        """Is there something for a self-test?"""
        return bool(self._bundle.golden())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the bundle to a file. Raises BundleError when it cannot be written."""
        self._ready()
        self._whole.save(path)

    def selftest(self) -> SelfTest:
        """Runs the golden vectors that the reference made. Raises RunError if one is off."""
        tolerance = self.manifest.get("tolerance", {"rtol": 0.0, "atol": 0.0})
        checks: list[OutputCheck] = []
        for case in self._bundle.golden():
            result = self.entry(case.entry)(*case.inputs)
            specs = next(e for e in self._bundle.entries if e.name == case.entry).outputs
            results = result if len(specs) > 1 else (result,)
            for spec, got, want in zip(specs, results, case.outputs, strict=True):
                error, limit = _distance(got, want, tolerance["rtol"], tolerance["atol"])
                checks.append(OutputCheck(case.entry, spec.name, error, limit))
        if not checks:
            raise BundleError("the bundle has no golden vectors to test with")
        failed = [c for c in checks if not c.passed]
        if failed:
            listed = "; ".join(
                f"'{c.output}' of '{c.entry}' is off by {c.error:.3g}, limit {c.limit:.3g}"
                for c in failed
            )
            raise RunError(f"the self-test failed: {listed}")
        return SelfTest(tuple(checks))

    def profile(self, *args: object, repeat: int = 20, **kwargs: object) -> tuple[StepTime, ...]:
        """Median time of each step over `repeat` runs, after one run to warm up.

        Raises InputError when the bundle was compiled without its profile entry.
        """
        return self.step_times(self.trace(*args, repeat=repeat, **kwargs))

    def trace(self, *args: object, repeat: int = 20, **kwargs: object) -> NDArray[np.int64]:
        """int64[repeat, steps + 1]: nanoseconds before each step and at the end, of one clock,
        after one run to warm up. InputError when the bundle has no profile entry."""
        if "profile" not in self.entries:
            raise InputError("the bundle has no profile entry", hint="compile it with profiling")
        entry = self.entry("profile")
        arrays = entry._convert(args, kwargs)  # pyright: ignore[reportPrivateUsage]
        entry(*arrays)
        return np.array([entry._traced(*arrays)[1] for _ in range(max(1, repeat))])  # pyright: ignore

    def step_times(self, trace: NDArray[np.int64]) -> tuple[StepTime, ...]:
        """The median of each step over the runs of a trace."""
        medians = np.median(np.diff(trace, axis=1), axis=0)
        steps = next(e for e in self._bundle.entries if e.name == "profile").steps
        return tuple(StepTime(n, float(ns)) for n, ns in zip(steps, medians, strict=True))

    def __reduce__(self) -> tuple[Callable[..., NativeModel], tuple[bytes, int | None, bool]]:
        """Pickles as the whole bundle, so that it works where the file does not exist. BundleError
        where its weights are damaged."""
        self._ready()
        return _unpickle, (bytes(self._whole.data), self._threads, self._hugepages)


def _unpickle(data: bytes, threads: int | None, hugepages: bool = False) -> NativeModel:
    return NativeModel(read_bundle(data, verify=False), threads=threads, hugepages=hugepages)


def _distance(got: Array, want: Array, rtol: float, atol: float) -> tuple[float, float]:
    """(error, limit), both as rms over the output; infinite when shapes or non-finite values
    differ. Integers and booleans must be equal."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return float("inf"), 0.0
    if want.dtype.kind in "biu":
        return float(np.count_nonzero(got != want)), 0.0
    a, b = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(b)
    same = np.array_equal(a[~finite], b[~finite], equal_nan=True)
    if not same or not np.isfinite(a[finite]).all():
        return float("inf"), 0.0
    count = max(1, int(finite.sum()))
    largest = max(
        1.0, float(np.abs(b[finite]).max(initial=0.0))
    )  # of large numbers squares overflow
    error = np.sqrt((np.abs(a[finite] / largest - b[finite] / largest) ** 2).sum() / count)
    size = np.sqrt((np.abs(b[finite] / largest) ** 2).sum() / count)
    return float(error * largest), float(atol + rtol * size * largest)
