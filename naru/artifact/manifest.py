"""The manifest of a bundle: its schema, read into types. bundle.py describes it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ..errors import BundleError
from ..runtime import _native

ALIGN = 4096  # of sections
MAX_DIM = 1 << 62
MAX_RANK = 32
_MAX_POINTERS = 65536  # slots for memory that the code allocates
_NUMPY_DTYPES = frozenset(
    ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
) | frozenset(("float16", "float32", "float64"))
_ML_DTYPE = re.compile(r"bfloat16|float[864]_e\w+|u?int[24]")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Symbol:
    """A size that is known only at run time: `kind` says whether an input or a kernel gives it."""

    name: str
    lo: int
    hi: int
    kind: str


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input (`shape`: ints and symbol names) or an output (ints and formulas)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    late: bool = False
    optional: bool = False  # callers may leave it out: the int64 seed of random numbers
    widens: bool = False  # of float64: callers may pass other numbers that float64 takes

    def __str__(self) -> str:
        more = "], optional" if self.optional else "]"
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}{more}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A function of the bundle: offsets of run and plan in the code, what goes in and out."""

    name: str
    run: int
    plan: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dynamic: bool
    steps: tuple[str, ...]
    pointers: int = 0
    requires: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """Where a section lies in the file, in bytes, and its digest."""

    name: str
    offset: int
    size: int
    digest: int

    def check(self, data: memoryview) -> None:
        """Compares the digest with that of the section in the file's `data`. Raises BundleError."""
        if _native.digest(data[self.offset : self.offset + self.size]) != self.digest:
            raise BundleError(f"damaged: section '{self.name}' does not match its digest")


# ---- dtypes ----


def dtype_of(name: str) -> np.dtype[Any]:
    """The numpy dtype for a manifest's name. Raises BundleError for what is not a number's."""
    if name in _NUMPY_DTYPES:
        return np.dtype(name)
    if not _ML_DTYPE.fullmatch(name):
        raise BundleError(f"'{name}' is not the name of a numeric dtype")
    try:
        import ml_dtypes  # the slim runtime goes without: few bundles need it
    except ImportError:
        raise BundleError(
            f"the dtype '{name}' needs the package ml_dtypes", hint="pip install ml_dtypes"
        ) from None
    if not hasattr(ml_dtypes, name):
        raise BundleError(f"'{name}' is not the name of a numeric dtype")
    return np.dtype(getattr(ml_dtypes, name))


# ---- JSON ----


def parse_json(data: bytes, what: str) -> object:
    """The value of a JSON text in UTF-8 whose own texts can all be written as UTF-8 again."""
    try:
        value: object = json.loads(data.decode(), parse_constant=_refuse_constant)
        if rb"\ud" in data.lower():  # half of a surrogate pair is JSON, but no text
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{what} is not JSON: {error}") from error
    return value


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


class Reader:
    """Takes typed values out of a JSON object; every complaint names the path to the value."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise BundleError(f"manifest: {path} is not an object")
        self.value, self.path = cast(Json, value), path

    def fail(self, key: str, expected: str) -> BundleError:
        got = repr(self.value.get(key, "nothing"))
        got = got if len(got) < 80 else got[:77] + "..."
        return BundleError(f"manifest: {self.path}.{key}: expected {expected}, got {got}")

    def text(self, key: str) -> str:
        value = self.value.get(key)
        if not isinstance(value, str) or not value:
            raise self.fail(key, "a text")
        return value

    def number(self, key: str, low: int, high: int) -> int:
        value = self.value.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.fail(key, f"an integer in {low}..{high}")
        return value

    def flag(self, key: str) -> bool:
        value = self.value.get(key, False)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def real(self, key: str) -> float:
        value = self.value.get(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise self.fail(key, "a number >= 0")
        if not 0 <= value <= sys.float_info.max:  # an int may be too large for a float
            raise self.fail(key, "a number >= 0")
        return float(value)

    def items(self, key: str, *, required: bool = True) -> list[object]:
        value = self.value.get(key, None if required else [])
        if not isinstance(value, list):
            raise self.fail(key, "a list")
        return cast(list[object], value)

    def objects(self, key: str) -> list[Reader]:
        return [Reader(v, f"{self.path}.{key}[{k}]") for k, v in enumerate(self.items(key))]

    def object(self, key: str) -> Reader:
        return Reader(self.value.get(key), f"{self.path}.{key}")

    def texts(self, key: str, *, required: bool = True) -> tuple[str, ...]:
        values = self.items(key, required=required)
        if not all(isinstance(v, str) for v in values):
            raise self.fail(key, "a list of texts")
        return tuple(cast(list[str], values))


def check_manifest(
    manifest: Json, version: int, file_size: int
) -> tuple[tuple[Symbol, ...], tuple[Entry, ...], tuple[Section, ...]]:
    """Reads the manifest into types. Raises BundleError for the first thing that is wrong."""
    root = Reader(manifest, "$")
    root.number("format", version, version)
    root.number("abi", 1, 1 << 16)
    root.text("naru")
    root.texts("needs", required=False)
    target = root.object("target")
    target.text("name")
    target.text("triple")
    target.texts("features")
    for key in ("source", "options"):
        root.object(key)
    _check_memory(root.object("memory"))
    if root.items("states"):
        raise root.fail("states", "[] (this naru keeps no states)")
    if "tolerance" in manifest:
        tolerance = root.object("tolerance")
        tolerance.real("rtol")
        tolerance.real("atol")
    if "fallback" in manifest:
        fallback = root.object("fallback")
        fallback.text("target")
        fallback.number("bytes", 0, MAX_DIM)
    sections = tuple(_read_section(r, file_size) for r in root.objects("sections"))
    _check_unique("section", [s.name for s in sections])
    code = next((s.size for s in sections if s.name == "code"), 0)
    symbols = _read_symbols(root)
    entries = tuple(_read_entry(r, symbols, code) for r in root.objects("entries"))
    _check_unique("entry", [e.name for e in entries])
    if not entries and "host" not in manifest:
        raise root.fail("entries", "at least one entry")
    return symbols, entries, sections


def check_records(manifest: Json) -> None:
    """Checks what the manifest tells people about kernels and steps, and no run needs. Raises
    BundleError."""
    root = Reader(manifest, "$")
    for kernel in root.objects("kernels"):
        _check_kernel(kernel)
    _check_steps(root)


def _check_unique(what: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BundleError(f"manifest: two {what}s are named '{name}'")
        seen.add(name)


def _check_memory(reader: Reader) -> None:
    """Formulas, or groups of them."""
    for key, value in reader.value.items():
        group = list(cast(Json, value).values()) if isinstance(value, dict) else [value]
        if not all(isinstance(v, str) for v in group):
            raise reader.fail(key, "a text, or an object of texts")


def _check_kernel(reader: Reader) -> None:
    """What a record of a kernel says, where it says anything, has the right type."""
    for key in ("ops", "nodes", "why"):
        reader.texts(key, required=False)
    for key in ("calls", "size", "offset", "products"):
        if key in reader.value:
            reader.number(key, 0, MAX_DIM)
    for key in ("name", "shape", "algorithm", "schedule", "flops", "bytes", "estimate"):
        if not isinstance(reader.value.get(key, ""), str):
            raise reader.fail(key, "a text")


def _check_steps(root: Reader) -> None:
    """The steps name tensors that exist; both may be absent."""
    tensors = root.objects("tensors") if "tensors" in root.value else []
    for t in tensors:
        for key in ("dtype", "kind", "shape", "name"):
            if not isinstance(t.value.get(key, ""), str):
                raise t.fail(key, "a text")
    for step in root.objects("steps") if "steps" in root.value else []:
        _check_step(step)
        step.texts("why", required=False)
        for key in ("reads", "writes"):
            if not all(type(k) is int and 0 <= k < len(tensors) for k in step.items(key)):
                raise step.fail(key, "positions in tensors")
        for inner in step.objects("body") if "body" in step.value else []:
            _check_step(inner)


def _check_step(step: Reader) -> None:
    """A name, and the name and operator of each node."""
    step.text("name")
    for pair in step.items("nodes"):
        if not (isinstance(pair, list) and list(map(type, cast(Any, pair))) == [str, str]):
            raise step.fail("nodes", "pairs of texts")


def _read_section(reader: Reader, file_size: int) -> Section:
    name = reader.text("name")
    offset = reader.number("offset", 0, file_size)
    size = reader.number("size", 0, file_size - offset)
    if offset % ALIGN:
        raise reader.fail("offset", f"a multiple of {ALIGN}")
    return Section(name, offset, size, reader.number("digest", 0, 0xFFFFFFFF))


def _read_symbols(root: Reader) -> tuple[Symbol, ...]:
    symbols: list[Symbol] = []
    for reader in root.objects("symbols"):
        kind = reader.text("kind")
        if kind not in ("input", "kernel"):
            raise reader.fail("kind", "'input' or 'kernel'")
        if kind == "input" and symbols and symbols[-1].kind == "kernel":
            raise reader.fail("kind", "symbols of inputs before those of kernels")
        lo = reader.number("lo", 0 if kind == "input" else -MAX_DIM, MAX_DIM)
        symbols.append(Symbol(reader.text("name"), lo, reader.number("hi", lo, MAX_DIM), kind))
    _check_unique("symbol", [s.name for s in symbols])
    return tuple(symbols)


def _read_entry(reader: Reader, symbols: Sequence[Symbol], code_size: int) -> Entry:
    given = {s.name for s in symbols if s.kind == "input"}
    inputs = tuple(_read_tensor(r, given) for r in reader.objects("inputs"))
    outputs = tuple(_read_tensor(r, None) for r in reader.objects("outputs"))
    _check_unique("input", [t.name for t in inputs])
    _check_unique("output", [t.name for t in outputs])
    if not outputs:
        raise reader.fail("outputs", "at least one output")
    return Entry(
        reader.text("name"),
        reader.number("run", 0, code_size - 1),
        reader.number("plan", 0, code_size - 1),
        inputs,
        outputs,
        reader.flag("dynamic"),
        reader.texts("steps", required=False),
        reader.number("pointers", 0, _MAX_POINTERS) if "pointers" in reader.value else 0,
        reader.texts("requires", required=False),
    )


def _read_tensor(reader: Reader, symbols: set[str] | None) -> TensorSpec:
    """`symbols`: the names that a dim may be; None for an output, whose dims may be formulas."""
    shape = reader.items("shape")
    if len(shape) > MAX_RANK:
        raise reader.fail("shape", f"at most {MAX_RANK} dims")
    for dim in shape:
        is_size = isinstance(dim, int) and not isinstance(dim, bool) and 0 <= dim <= MAX_DIM
        is_text = isinstance(dim, str) and (symbols is None or dim in symbols)
        if not is_size and not is_text:
            raise reader.fail("shape", "sizes and known symbols")
    dtype = reader.text("dtype")
    dtype_of(dtype)
    dims = tuple(cast(list[int | str], shape))
    late, optional = reader.flag("late"), reader.flag("optional") and (dtype, dims) == ("int64", ())
    reader.texts("labels", required=False)
    widens = reader.flag("widens") and dtype == "float64"
    return TensorSpec(reader.text("name"), dtype, dims, late, optional, widens)
