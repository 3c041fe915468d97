"""A model that runs partly on the host: its plan, interpreted. Each native part is a model of its
own, called with arrays; between them, Python moves sequences, maps and texts.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from .. import knobs
from ..artifact.bundle import (
    Bundle,
    read_bundle,
)
from ..artifact.manifest import (
    Symbol,
    TensorSpec,
    dtype_of,
)
from ..errors import BundleError, InputError, NaruError, RunError
from . import arguments, tables
from .host_operators import OPERATORS, Call, Texts
from .model import Model, OutputCheck, SelfTest, StepTime, TensorInfo
from .native_model import NativeModel, fitting, output_type
from .plan import CONSTANT, NATIVE, Body, Json, Step, ValueInfo, kind_text, read_plan

Values: TypeAlias = "MutableMapping[str, Any]"
_LARGEST = 2**31 - 1  # size of a dim


class HostModel(Model):
    """A model whose plan has steps on the host. RunErrors name the step."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        hugepages: bool | None = None,
        verify: bool = False,
    ) -> None:
        self._whole = bundle  # what is saved
        bundle = fitting(bundle, verify=verify)
        self._bundle, self._plan = bundle, read_plan(bundle)
        self._settings = (threads, hugepages)
        self._parts = tuple(
            _load_part(bundle, k, threads, hugepages) for k in range(self._plan.parts)
        )
        _check_parts(self._plan.body, self._parts)
        self._specs = [_spec(v.name, v.kind) for v in self._plan.inputs if _is_ranked(v.kind)]
        self._symbols = _symbols(self._specs)
        self._columns = tables.columns_of(bundle.manifest)
        self._numbers = {text: k for k, text in enumerate(self._plan.texts)}
        self._result = (
            output_type([v.name for v in self._plan.outputs])
            if len(self._plan.outputs) > 1
            else None
        )

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return tuple(map(_info, self._plan.inputs))

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return tuple(map(_info, self._plan.outputs))

    @property
    def manifest(self) -> dict[str, Any]:
        return self._bundle.manifest

    @property
    def entries(self) -> tuple[str, ...]:
        return ("main",)

    def entry(self, name: str) -> Callable[..., Any]:
        if name not in self.entries:
            raise InputError(f"the model has no entry '{name}'; it has {self.entries}")
        return self

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self._run(args, kwargs, None)

    def _run(
        self,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        times: list[tuple[str, int]] | None,
    ) -> Any:
        texts = Texts(self._plan.texts, self._numbers)
        values: Values = self._take(args, kwargs, texts)
        self._steps(self._plan.body, values, texts, times)
        results = [_give(v.kind, values[v.name], texts) for v in self._plan.outputs]
        return results[0] if self._result is None else self._result(*results)

    def _take(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], texts: Texts
    ) -> dict[str, Any]:
        """The inputs as values of the plan. Raises InputError."""
        infos = self._plan.inputs
        if len(args) == 1 and tables.is_table(args[0]):
            args, kwargs = (), {**kwargs, **tables.take(args[0], self.inputs, self._columns)}
        if len(infos) == 1 and len(args) == 1 and not _names(args[0], infos[0]):
            args, kwargs = (), {**kwargs, infos[0].name: args[0]}  # a dict may be the map itself
        given = arguments.by_position(infos, args, kwargs)
        pairs = zip(infos, given, strict=True)
        values = {v.name: _take(v.name, v.kind, x, texts) for v, x in pairs}
        arrays = [values[s.name] for s in self._specs]
        arguments.check_shapes(self._specs, self._symbols, arrays)
        return values

    # ---- steps ----

    def _steps(
        self,
        body: Body,
        values: Values,
        texts: Texts,
        times: list[tuple[str, int]] | None = None,
    ) -> None:
        for step in body.steps:
            start = time.perf_counter_ns() if times is not None else 0
            try:
                results = self._step(step, values, texts)
            except InputError:
                raise
            except NaruError as error:
                raise RunError(f"{step.label}: {error.message}", hint=error.hint) from None
            except MemoryError:
                raise RunError(f"{step.label}: there is not enough memory for its result") from None
            except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
                # Maps may hold anything, and a plan that naru did not make hand over anything.
                raise RunError(f"{step.label}: its operands do not fit it: {error}") from error
            values.update(zip(step.writes, results, strict=False))
            if times is not None:
                times.append((step.name, time.perf_counter_ns() - start))

    def _step(self, step: Step, values: Values, texts: Texts) -> Sequence[Any]:
        reads = [values[r] if r else None for r in step.reads]
        if step.operator == NATIVE:
            result: Any = self._parts[int(step.attrs["part"])](*reads)
            return cast("tuple[Any, ...]", result) if len(step.writes) > 1 else (result,)
        if step.operator == CONSTANT:
            return (self._plan.constants[int(step.attrs["index"])],)
        if step.operator == "If":
            return self._if(step, reads, values, texts)
        if step.operator == "Loop":
            return self._loop(step, reads, values, texts)
        if step.operator == "SequenceMap":
            return self._map(step, reads, values, texts)
        return OPERATORS[step.operator](Call(reads, step.attrs, texts))

    def _body(self, body: Body, given: Iterable[Any], values: Values, texts: Texts) -> list[Any]:
        inner: Values = {**values, **dict(zip(body.inputs, given, strict=True))}
        self._steps(body, inner, texts)
        return [inner[o] for o in body.outputs]

    def _if(self, step: Step, reads: list[Any], values: Values, texts: Texts) -> Sequence[Any]:
        taken = "then_branch" if _flag(reads[0]) else "else_branch"
        return self._body(step.bodies[taken], (), values, texts)

    def _loop(self, step: Step, reads: list[Any], values: Values, texts: Texts) -> Sequence[Any]:
        """Loop: rounds while the condition holds, at most as many as there are to be."""
        count = None if reads[0] is None else int(np.asarray(reads[0]).reshape(-1)[0])
        go = True if len(reads) < 2 or reads[1] is None else _flag(reads[1])
        carried, held = list(reads[2:]), step.attrs["carried"]
        stacks: list[list[Any]] = [[] for _ in step.attrs["stacked"]]
        k, limit = 0, knobs.current().loop_limit
        while go and (count is None or k < count):
            if limit and k >= limit:
                raise RunError(
                    f"it goes on after {k} rounds, the most that are allowed",
                    hint="NARU_LOOP_LIMIT sets how many",
                )
            given = [np.array(k, np.int64), np.array(True), *carried]
            more, *results = self._body(step.bodies["body"], given, values, texts)
            go, carried = _flag(more), results[:held]
            for stack, item in zip(stacks, results[held:], strict=True):
                stack.append(item)
            k += 1
        stacked = [_stack(s, e) for s, e in zip(stacks, step.attrs["stacked"], strict=True)]
        return [*carried, *stacked]

    def _map(self, step: Step, reads: list[Any], values: Values, texts: Texts) -> Sequence[Any]:
        """SequenceMap: a body for each element; sequences are walked together."""
        mapped = step.attrs["mapped"]
        lengths = {len(r) for r, m in zip(reads, mapped, strict=True) if m}
        if len(lengths) != 1:
            raise RunError(f"expected sequences of one length, got {sorted(lengths)}")
        body = step.bodies["body"]
        rows: list[list[Any]] = []
        for k in range(lengths.pop()):
            given = [r[k] if m else r for r, m in zip(reads, mapped, strict=True)]
            rows.append(self._body(body, given, values, texts))
        return [[row[k] for row in rows] for k in range(len(body.outputs))]

    # ---- what else a model can do ----

    def save(self, path: str | os.PathLike[str]) -> None:
        self._whole.save(path)

    def selftest(self) -> SelfTest:
        """Runs the golden vectors of all native parts. Raises RunError if one is off, and
        BundleError where there are none."""
        checks: list[OutputCheck] = []
        for part in self._parts:
            if part.has_golden:
                checks.extend(part.selftest().checks)
        if not checks:
            raise BundleError("the bundle has no golden vectors to test with")
        return SelfTest(tuple(checks))

    def profile(self, *args: object, repeat: int = 20, **kwargs: object) -> tuple[StepTime, ...]:
        """Median time of each step of the plan over `repeat` runs, after one run to warm up."""
        self._run(args, kwargs, None)
        runs: list[list[tuple[str, int]]] = []
        for _ in range(max(1, repeat)):
            times: list[tuple[str, int]] = []
            self._run(args, kwargs, times)
            runs.append(times)
        medians = np.median([[ns for _, ns in times] for times in runs], axis=0)
        names = [name for name, _ in runs[0]]
        return tuple(StepTime(n, float(ns)) for n, ns in zip(names, medians, strict=True))

    def __reduce__(self) -> tuple[Callable[..., HostModel], tuple[Any, ...]]:
        return _unpickle, (bytes(self._whole.data), *self._settings)


def _unpickle(data: bytes, threads: int | None, hugepages: bool | None) -> HostModel:
    return HostModel(read_bundle(data, verify=False), threads=threads, hugepages=hugepages)


def _load_part(bundle: Bundle, k: int, threads: int | None, hugepages: bool | None) -> NativeModel:
    """Part k: a bundle within the bundle."""
    try:
        part = read_bundle(bundle.section(f"part.{k}"), verify=False)
        return NativeModel(part, threads=threads, hugepages=hugepages)
    except BundleError as error:
        raise BundleError(error.message, where=f"part {k}", hint=error.hint) from None


def _check_parts(body: Body, parts: Sequence[NativeModel]) -> None:
    """Each step passes as many values to its part as that takes, and names as many results."""
    for step in body.steps:
        if step.operator == NATIVE:
            part = parts[int(step.attrs["part"])]
            wanted = (sum(not i.optional for i in part.inputs), len(part.outputs))
            if (len(step.reads), len(step.writes)) != wanted:
                raise BundleError(f"{step.label}: its part has {wanted} inputs and outputs")
        for inner in step.bodies.values():
            _check_parts(inner, parts)


def _flag(value: Any) -> bool:
    return bool(np.asarray(value).reshape(-1)[0])


def _stack(items: Sequence[Any], empty: Json) -> Any:
    """What rounds gave, one behind the other; without a round as the model says."""
    if not items:
        return np.zeros(empty["shape"], dtype_of(empty["dtype"]))
    try:
        return np.stack(items)
    except ValueError:
        shapes = sorted({np.shape(x) for x in items})
        raise RunError(f"rounds gave results of different shapes: {shapes[:8]}") from None


# ---- values from outside, and to outside ----


def _is_ranked(kind: Json) -> bool:
    return kind["kind"] == "tensor" and kind["shape"] is not None


def _names(value: object, info: ValueInfo) -> bool:
    """Is a value that is passed alone the dict of all inputs, rather than the one input?"""
    is_map = info.kind["kind"] == "map"
    return isinstance(value, Mapping) and (not is_map or info.name in value)


def _info(v: ValueInfo) -> TensorInfo:
    if not _is_ranked(v.kind):
        return TensorInfo(v.name, kind_text(v.kind), (), tensor=False)
    return TensorInfo(v.name, v.kind["dtype"], _dims(v.name, v.kind["shape"]))


def _dims(name: str, shape: Sequence[Any]) -> tuple[int | str, ...]:
    return tuple(f"{name}_{k}" if d is None else d for k, d in enumerate(shape))


def _spec(name: str, kind: Json) -> TensorSpec:
    dtype = "int64" if kind["dtype"] == "string" else kind["dtype"]
    return TensorSpec(
        sys.intern(name), dtype, _dims(name, kind["shape"] or ()), widens=kind.get("widens") is True
    )


def _symbols(specs: Sequence[TensorSpec]) -> list[Symbol]:
    names = {d for spec in specs for d in spec.shape if isinstance(d, str)}
    return [Symbol(n, 0, _LARGEST, "input") for n in names]


def _take(name: str, kind: Json, value: object, texts: Texts) -> Any:
    """A value from outside as the plan has it. Raises InputError."""
    what = kind["kind"]
    if what == "optional":
        return None if value is None else _take(name, kind["element"], value, texts)
    if what == "sequence":
        if isinstance(value, np.ndarray) or not isinstance(value, Sequence):
            raise _refused(name, "a list", cast(object, value))
        items = cast("Sequence[object]", value)
        return [_take(f"{name}[{k}]", kind["element"], v, texts) for k, v in enumerate(items)]
    if what == "map":
        if not isinstance(value, Mapping):
            raise _refused(name, "a dict", value)
        return dict(cast("Mapping[Any, Any]", value))
    if what == "unknown":
        return value
    if kind["dtype"] == "string":
        return _take_texts(name, kind, value, texts)
    array = _take_array(name, kind, value)
    if kind["shape"] is not None and array.ndim != len(kind["shape"]):
        raise InputError(f"input '{name}': expected {len(kind['shape'])} dims, got {array.shape}")
    return array


def _take_array(name: str, kind: Json, value: object) -> NDArray[Any]:
    """Most often, what is passed is as it must be."""
    if isinstance(value, np.ndarray):
        array = cast("NDArray[Any]", value)
        if array.dtype == _dtype(kind["dtype"]) and array.flags.c_contiguous:
            return array
    spec = _spec(name, kind)
    return arguments.plain(spec, arguments.to_array(spec, cast(object, value)))


_dtype = functools.cache(dtype_of)


def _refused(name: str, expected: str, value: object) -> InputError:
    return InputError(f"input '{name}': expected {expected}, got {type(value).__qualname__}")


def _take_texts(name: str, kind: Json, value: object, texts: Texts) -> NDArray[np.int64]:
    """Numbers of texts: an array of `str` or `object`, a list of them, or one alone."""
    try:
        array = np.asarray(value, None if isinstance(value, np.ndarray) else object)
    except ValueError as error:
        raise InputError(f"input '{name}': expected texts: {error}") from None
    if array.dtype.kind not in "OUST" and array.size:
        raise _refused(name, f"texts, as in np.array({name}, dtype=object)", cast(object, value))
    if kind["shape"] is not None and array.ndim != len(kind["shape"]):
        raise InputError(f"input '{name}': expected {len(kind['shape'])} dims, got {array.shape}")
    look_up = texts.numbers_or_missing if kind.get("missing") else texts.numbers
    try:
        return look_up(array.reshape(-1).tolist(), array.shape)
    except TypeError as error:
        raise InputError(f"input '{name}': {error}") from None


def _give(kind: Json, value: Any, texts: Texts) -> Any:
    """A value of the plan as the caller gets it: arrays of his own."""
    what = kind["kind"]
    if value is None:
        return None
    if isinstance(value, list):
        element = kind.get("element", {"kind": "unknown"})
        if what == "optional":  # of a sequence
            element = element.get("element", {"kind": "unknown"})
        items = cast("list[Any]", value)
        if element["kind"] == "map":
            return list(items)  # maps have nothing to give but themselves
        return [_give(element, v, texts) for v in items]
    if what == "optional":
        return _give(kind["element"], value, texts)
    if what == "tensor" and kind["dtype"] == "string":
        return texts.array(value)
    if isinstance(value, np.ndarray):
        array = cast("NDArray[Any]", value)
        return array if array.flags.writeable and array.base is None else array.copy()
    return value
