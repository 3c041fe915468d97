"""Plans of models that run partly on the host, as bundles hold them.

The key `host` of a manifest (`needs` says "host") is

    inputs, outputs  [{name, kind: "tensor", dtype, shape: [int | name | null] | null, missing?,
                     widens?} |
                     {name, kind: "sequence" | "optional", element: {kind, ...}} |
                     {name, kind: "map", key: dtype, value: {kind, ...}} |
                     {name, kind: "unknown"}]; dtypes are numpy's names, and "string"; missing:
                     texts may be None or NaN; widens: see the inputs of entries in bundle.py
    steps            [{operator, name, reads: [value], writes: [value], attrs?, bodies?}]: a part of
                     native code (operator "native", attrs {part}: the bundle in the section
                     `part.N`), a constant (attrs {index}: of the section `constants`), or an
                     operator of host_operators.py or If, Loop, SequenceMap, whose bodies are
                     {name: {inputs, outputs, steps}}. A value that is left out is ""
    parts            how many
    texts            the texts that the model holds, by number
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np

from ..artifact.bundle import Bundle
from ..artifact.golden import unpack_golden
from ..artifact.manifest import dtype_of
from ..errors import BundleError
from .host_operators import ATTRIBUTES, OPERATORS

Json: TypeAlias = "dict[str, Any]"
NATIVE, CONSTANT = "native", "constant"
CONTROL = {"If": ("then_branch", "else_branch"), "Loop": ("body",), "SequenceMap": ("body",)}
_ATTRIBUTES: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    **ATTRIBUTES,
    NATIVE: {"part": (int,)},
    CONSTANT: {"index": (int,)},
    "Loop": {"carried": (int,), "stacked": (list,)},
    "SequenceMap": {"mapped": (list,)},
}
_MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class ValueInfo:
    """Name and kind of an input or output that is no tensor of numbers of known rank."""

    name: str
    kind: Json
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {kind_text(self.kind)}"


def kind_text(kind: Json) -> str:
    """`sequence of float32[n]`."""
    what = kind["kind"]
    if what == "tensor":
        shape = kind["shape"]
        if shape is None:
            return f"{kind['dtype']} of any rank"
        dims = ", ".join("?" if d is None else str(d) for d in shape)
        return f"{kind['dtype']}[{dims}]" if shape else kind["dtype"]
    if what == "map":
        return f"map from {kind['key']} to {kind_text(kind['value'])}"
    return "anything" if what == "unknown" else f"{what} of {kind_text(kind['element'])}"


@dataclass(frozen=True, slots=True)
class Body:
    """Steps over named values."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One operator, native part or constant."""

    operator: str
    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    attrs: Json
    bodies: Mapping[str, Body]

    @property
    def label(self) -> str:
        return f"step '{self.name}' ({self.operator})"


@dataclass(frozen=True, slots=True)
class Plan:
    """What read_plan returns; `parts`: how many, `constants`: what steps read."""

    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    body: Body
    parts: int
    constants: tuple[np.ndarray, ...]
    texts: tuple[str, ...]


def read_plan(bundle: Bundle) -> Plan:
    """The plan of a bundle that has one. Raises BundleError for one that makes no sense."""
    host = bundle.manifest["host"]
    if not isinstance(host, dict):
        raise BundleError("manifest: $.host is not an object")
    reader = _PlanReader(bundle, cast(Json, host))
    return reader.plan()


class _PlanReader:
    def __init__(self, bundle: Bundle, host: Json) -> None:
        self.host = host
        cases = unpack_golden(bundle.section("constants")) if "constants" in bundle.sections else ()
        self.constants = cases[0].inputs if cases else ()
        self.sections = bundle.sections

    def plan(self) -> Plan:
        parts = self.host.get("parts")
        if type(parts) is not int or any(f"part.{k}" not in self.sections for k in range(parts)):
            raise _wrong("$.host.parts", "the number of native parts", parts)
        self.parts = parts
        texts = _texts(self.host, "$.host", "texts")
        if texts[:1] != ("",) or len(set(texts)) != len(texts):
            raise _wrong("$.host.texts", "different texts, the empty one first", texts[:3])
        inputs, outputs = (self.values(k) for k in ("inputs", "outputs"))
        names = [v.name for v in inputs]
        steps = self.steps(self.host, "$.host", set(names), 0)
        made = {*names, *(w for s in steps for w in s.writes)}
        for v in outputs:
            if v.name not in made:
                raise _wrong("$.host.outputs", "values that a step makes", v.name)
        body = Body(tuple(names), tuple(v.name for v in outputs), steps)
        return Plan(inputs, outputs, body, parts, self.constants, texts)

    def values(self, key: str) -> tuple[ValueInfo, ...]:
        found: list[ValueInfo] = []
        for k, v in enumerate(_list(self.host, "$.host", key)):
            path = f"$.host.{key}[{k}]"
            kind = _object(v, path)
            name = kind.get("name")
            if not isinstance(name, str) or not name or name in [f.name for f in found]:
                raise _wrong(f"{path}.name", "a name of its own", name)
            _check_kind(kind, path, 0)
            found.append(ValueInfo(name, kind))
        if key == "outputs" and not found:
            raise _wrong("$.host.outputs", "at least one output", [])
        return tuple(found)

    def steps(self, owner: Json, path: str, known: set[str], depth: int) -> tuple[Step, ...]:
        """The steps of a body over values that are known; adds what they make."""
        if depth > _MAX_DEPTH:
            raise BundleError("manifest: bodies are nested too deep")
        steps: list[Step] = []
        for k, v in enumerate(_list(owner, path, "steps")):
            place = f"{path}.steps[{k}]"
            step = self.step(_object(v, place), place, known, depth)
            known.update(step.writes)
            steps.append(step)
        return tuple(steps)

    def step(self, record: Json, path: str, known: set[str], depth: int) -> Step:
        operator, name = record.get("operator"), record.get("name")
        if not isinstance(name, str):
            raise _wrong(f"{path}.name", "a text", name)
        if not isinstance(operator, str) or operator not in {*OPERATORS, *CONTROL, *_ATTRIBUTES}:
            raise _wrong(f"{path}.operator", "an operator of the host", operator)
        reads, writes = (_texts(record, path, key) for key in ("reads", "writes"))
        for r in reads:
            if r and r not in known:
                raise _wrong(f"{path}.reads", "values that are made before", r)
        attrs = _object(record.get("attrs", {}), f"{path}.attrs")
        self.check_attributes(operator, attrs, path)
        bodies: dict[str, Body] = {}
        for key in CONTROL.get(operator, ()):
            where = f"{path}.bodies.{key}"
            given = _object(_object(record.get("bodies"), f"{path}.bodies").get(key), where)
            inputs, outputs = (_texts(given, where, k) for k in ("inputs", "outputs"))
            inside = {*known, *inputs}
            steps = self.steps(given, where, inside, depth + 1)
            if not inside.issuperset(outputs):
                raise _wrong(f"{where}.outputs", "values that a step makes", outputs)
            bodies[key] = Body(inputs, outputs, steps)
        return Step(operator, name, reads, writes, attrs, bodies)

    def check_attributes(self, operator: str, attrs: Json, path: str) -> None:
        for key, types in _ATTRIBUTES.get(operator, {}).items():
            if type(attrs.get(key)) not in types:
                expected = " or ".join(t.__name__ for t in types)
                raise _wrong(f"{path}.attrs.{key}", expected, attrs.get(key))
        if operator == NATIVE and not 0 <= attrs["part"] < self.parts:
            raise _wrong(f"{path}.attrs.part", f"0..{self.parts - 1}", attrs["part"])
        if operator == CONSTANT and not 0 <= attrs["index"] < len(self.constants):
            raise _wrong(f"{path}.attrs.index", "the index of a constant", attrs["index"])
        stacked = cast("list[object]", attrs["stacked"]) if operator == "Loop" else []
        for empty in stacked:
            record = _object(empty, f"{path}.attrs.stacked")
            _check_kind({"kind": "tensor", **record}, f"{path}.attrs.stacked", 0)


def _check_kind(kind: Json, path: str, depth: int) -> None:
    what = kind.get("kind")
    if what in ("sequence", "optional") and depth < _MAX_DEPTH:
        return _check_kind(_object(kind.get("element"), f"{path}.element"), path, depth + 1)
    if what == "map" and depth < _MAX_DEPTH:
        _check_dtype(kind.get("key"), f"{path}.key")
        return _check_kind(_object(kind.get("value"), f"{path}.value"), path, depth + 1)
    if what == "tensor":
        _check_dtype(kind.get("dtype"), f"{path}.dtype")
        shape = kind.get("shape")
        if shape is None:
            return None
        if not isinstance(shape, list):
            raise _wrong(f"{path}.shape", "a list or null", shape)
        for d in cast("list[object]", shape):
            size = type(d) is int and 0 <= d <= 1 << 62
            if not (size or d is None or isinstance(d, str)):
                raise _wrong(f"{path}.shape", "sizes, names or null", d)
        return None
    if what != "unknown":
        raise _wrong(f"{path}.kind", "tensor, sequence, optional, map or unknown", what)
    return None


def _check_dtype(name: object, path: str) -> None:
    if not isinstance(name, str):
        raise _wrong(path, "the name of a dtype", name)
    if name != "string":
        dtype_of(name)


def _wrong(path: str, expected: str, found: object) -> BundleError:
    text = repr(found)
    return BundleError(f"manifest: {path}: expected {expected}, got {text[:77]}")


def _object(value: object, path: str) -> Json:
    if not isinstance(value, dict):
        raise BundleError(f"manifest: {path} is not an object")
    return cast(Json, value)


def _list(owner: Json, path: str, key: str) -> list[object]:
    found = owner.get(key)
    if not isinstance(found, list):
        raise _wrong(f"{path}.{key}", "a list", found)
    return cast("list[object]", found)


def _texts(owner: Json, path: str, key: str) -> tuple[str, ...]:
    found: Sequence[object] = _list(owner, path, key)
    if not all(isinstance(v, str) for v in found):
        raise _wrong(f"{path}.{key}", "a list of texts", found)
    return tuple(cast("Sequence[str]", found))
