"""What a call does not pass as the entry declares it: converted, or refused with the fix to write.

The fast path in C takes numpy arrays of the right dtype, shape and order. All else comes here. What
can be had without changing a value is converted: keywords, DLPack, the buffer protocol, strides,
byte order, Python numbers. A dtype or a shape is never changed silently; but inputs of float64 that
say so (`widens`: those of scikit-learn's models) take the other real numbers, as there.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ..artifact.manifest import (
    Symbol,
    TensorSpec,
    dtype_of,
)
from ..errors import InputError
from . import _native

Array = NDArray[Any]

_PYTHON_TYPES: tuple[type, ...] = (bool, int, float, complex, list, tuple)
# Kinds of Python values that an input of a kind takes: no value changes its meaning.
_PYTHON_KINDS = {"b": "b", "i": "iu", "u": "iu", "f": "iuf", "V": "iuf", "c": "iufc"}


def convert(
    specs: Sequence[TensorSpec],
    symbols: Sequence[Symbol],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
) -> tuple[Array, ...]:
    """Arrays in the order of the inputs, as the fast path takes them. Raises InputError."""
    values = by_position(specs, args, kwargs)
    arrays = tuple(to_array(s, value) for s, value in zip(specs, values, strict=True))
    # Before anything is copied: a view by np.broadcast_to may stand for more than the machine has.
    check_shapes(specs, symbols, arrays)
    return tuple(plain(s, array) for s, array in zip(specs, arrays, strict=True))


# ---- names ----


class Named(Protocol):
    """An input; its text says what it takes, as in `x: float32[n]`."""

    @property
    def name(self) -> str: ...

    @property
    def optional(self) -> bool: ...


def by_position(
    specs: Sequence[Named], args: tuple[object, ...], kwargs: Mapping[str, object]
) -> list[object]:
    """Values in the order of the inputs, from positions, keywords or one mapping."""
    if len(args) == 1 and not kwargs and isinstance(args[0], Mapping):
        args, kwargs = (), cast(Mapping[str, object], args[0])
    names = [s.name for s in specs]
    if len(args) > len(specs):
        raise InputError(f"expected {_expected(specs)}, got {len(args)} inputs")
    values: dict[str, object] = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        if name not in names:
            by_letters = {n.lower(): n for n in names}
            close = difflib.get_close_matches(str(name).lower(), by_letters, 1)
            raise InputError(
                f"there is no input '{name}', expected {_expected(specs)}",
                hint=f"{by_letters[close[0]]}=..." if close else None,
            )
        if name in values:
            raise InputError(f"input '{name}' was given twice, by position and by name")
        values[name] = value
    for spec in specs:
        if spec.optional and spec.name not in values:
            values[spec.name] = int.from_bytes(os.urandom(8), "little", signed=True)
    missing = [s for s in specs if s.name not in values]
    if missing:
        listed = ", ".join(f"'{s.name}'" for s in missing)
        verb = "is" if len(missing) == 1 else "are"
        raise InputError(f"input {listed} {verb} missing; expected {_expected(specs)}")
    return [values[name] for name in names]


def _expected(specs: Sequence[Named]) -> str:
    listed = ", ".join(map(str, specs))
    return f"{len(specs)} input{'' if len(specs) == 1 else 's'} ({listed})"


# ---- values ----


def to_array(spec: TensorSpec, value: object) -> Array:
    """An array of the spec's dtype, but for the order of bytes; or of one that it widens."""
    want = dtype_of(spec.dtype)
    if isinstance(value, _PYTHON_TYPES):
        array = _from_python(spec, want, value)
    else:
        array = _from_object(spec, value)
    if array.dtype.newbyteorder("=") != want and not (spec.widens and _is_real(array.dtype)):
        raise InputError(
            f"input '{spec.name}': expected dtype {want.name}, got {array.dtype.name}",
            hint=_cast_hint(spec, want, value),
        )
    return array


def _is_real(dtype: np.dtype[Any]) -> bool:
    """Is it one that becomes float64 as numpy does it: bool, integers, float16, float32?"""
    return dtype.kind in "biuf" and dtype.itemsize <= 8


def plain(spec: TensorSpec, array: Array) -> Array:
    """The same in C order, native byte order and the spec's dtype, copied where necessary.
    InputError when that takes more memory than there is."""
    want = dtype_of(spec.dtype)
    size = array.size * want.itemsize
    try:
        if size > _native.memory_limit():
            raise MemoryError
        return np.asarray(array, dtype=want, order="C")
    except MemoryError:
        why = "not contiguous" if array.dtype == want else f"of dtype {array.dtype.name}"
        raise InputError(
            f"input '{spec.name}' of shape {array.shape} is {why}, and there is no memory "
            f"for a copy of its {size} bytes"
        ) from None


def _cast_hint(spec: TensorSpec, want: np.dtype[Any], value: object) -> str:
    module = "ml_dtypes" if want.type.__module__ == "ml_dtypes" else "np"
    name = _variable(spec)
    array = name if isinstance(value, np.ndarray) else f"np.asarray({name})"
    return f"{array}.astype({module}.{want.name})"


def _variable(spec: TensorSpec) -> str:
    return spec.name if spec.name.isidentifier() else "x"


def _from_python(spec: TensorSpec, want: np.dtype[Any], value: object) -> Array:
    """Python numbers have no dtype, so they take the input's, where that keeps their meaning."""
    try:
        natural = np.asarray(value)
        if hasattr(_first_leaf(value), "dtype") or not natural.size:
            return natural if natural.size else natural.astype(want)
        if natural.dtype.kind in _PYTHON_KINDS[want.kind]:
            return np.asarray(value, dtype=want)
    except (ValueError, OverflowError, TypeError) as error:  # ragged, or too large for the dtype
        raise InputError(f"input '{spec.name}': expected {want.name} values: {error}") from None
    raise InputError(
        f"input '{spec.name}': expected {want.name}, got Python values of dtype {natural.dtype}",
        hint=_cast_hint(spec, want, value),
    )


def _first_leaf(value: object) -> object:
    leaf: Any = value
    while isinstance(leaf, (list, tuple)) and leaf:
        leaf = cast(Sequence[Any], leaf)[0]
    return cast(object, leaf)


def _from_object(spec: TensorSpec, value: object) -> Array:
    """A view, where possible, of anything that holds an array."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(cast(Any, value)):
        raise InputError(
            f"input '{spec.name}': some of its elements are masked",
            hint=f"{_variable(spec)}.filled(0)",
        )
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(cast(Any, value))
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    try:
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(cast(Any, value))
        if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
            return np.asarray(value)
        return np.asarray(memoryview(cast(Any, value)))
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise InputError(
            f"input '{spec.name}': expected an array, got {kind} ({error})",
            hint=f"{_variable(spec)}.detach().cpu().numpy() for a torch tensor, "
            f"np.asarray({_variable(spec)}) for others",
        ) from error


# ---- shapes ----


def check_shapes(
    specs: Sequence[TensorSpec], symbols: Sequence[Symbol], arrays: Sequence[Array]
) -> None:
    bound: dict[str, tuple[int, str]] = {}
    ranges = {s.name: (s.lo, s.hi) for s in symbols}
    for spec, array in zip(specs, arrays, strict=True):
        if array.ndim != len(spec.shape):
            raise _shape_error(spec, array, f"{len(spec.shape)} dims")
        for axis, (dim, got) in enumerate(zip(spec.shape, array.shape, strict=True)):
            if isinstance(dim, int):
                if got != dim:
                    raise _shape_error(spec, array, f"dim {axis} to be {dim}")
                continue
            lo, hi = ranges[dim]
            if not lo <= got <= hi:
                raise _shape_error(spec, array, f"dim {axis} ('{dim}') in {lo}..{hi}")
            size, giver = bound.setdefault(dim, (got, spec.name))
            if got != size:
                wish = f"dim {axis} to be {size}, as '{dim}' is in '{giver}'"
                raise _shape_error(spec, array, wish)


def _shape_error(spec: TensorSpec, array: Array, wish: str) -> InputError:
    shape = f"({', '.join(map(str, spec.shape))}{',' if len(spec.shape) == 1 else ''})"
    return InputError(
        f"input '{spec.name}': expected shape {shape}, got {array.shape}: expected {wish}",
        hint=_shape_hint(spec, array),
    )


def _shape_hint(spec: TensorSpec, array: Array) -> str | None:
    """The two usual slips: no batch dim, and the wrong order of axes."""
    name = _variable(spec)
    if _fits(spec.shape[1:], array.shape) and array.ndim == len(spec.shape) - 1:
        return f"{name}[np.newaxis]"
    orders = {4: ((0, 3, 1, 2), (0, 2, 3, 1)), 2: ((1, 0),)}.get(array.ndim, ())
    for order in orders:
        if _fits(spec.shape, tuple(array.shape[k] for k in order)):
            return f"{name}.transpose({', '.join(map(str, order))})"
    return None


def _fits(want: Sequence[int | str], got: Sequence[int]) -> bool:
    """Whether constant dims agree, and there is at least one."""
    if len(want) != len(got) or not any(isinstance(w, int) for w in want):
        return False
    return all(w == g for w, g in zip(want, got, strict=True) if isinstance(w, int))
