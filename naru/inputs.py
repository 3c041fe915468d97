"""Arrays for the inputs of a model, as the commands need them: read from files, or random."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from .artifact.bundle import Bundle
from .artifact.manifest import (
    Symbol,
    dtype_of,
)
from .errors import InputError, nearest
from .files import replacing
from .runtime.model import TensorInfo

Array = NDArray[Any]

# Sizes for symbols that nobody gave: small, and different, so that two dims are not mixed up.
_FIRST_SIZE = 2


def inputs_of(bundle: Bundle) -> tuple[TensorInfo, ...]:
    """The inputs of a bundle's first entry."""
    main = bundle.entries[0]
    return tuple(TensorInfo(t.name, t.dtype, t.shape, t.optional) for t in main.inputs)


def symbols_of(manifest: Mapping[str, Any]) -> tuple[Symbol, ...]:
    """The symbolic sizes of a manifest."""
    return tuple(Symbol(s["name"], s["lo"], s["hi"], s["kind"]) for s in manifest["symbols"])


def read_inputs(specs: Sequence[TensorInfo], given: Sequence[str]) -> dict[str, Array]:
    """Arrays by input name, from texts such as `x.npy` (in the order of the inputs), `name=x.npy`,
    `photo.jpg` (for an input of pixels), or `all.npz` (its names are those of the inputs). Raises
    InputError."""
    names = [s.name for s in specs]
    found: dict[str, Array] = {}

    def add(name: str, array: Array, text: str) -> None:
        if name in found:
            raise InputError(f"input '{name}' was given twice, the second time by {text}")
        found[name] = array

    for text in given:
        name, equals, path = text.partition("=")
        if equals and name in names:
            add(name, _read_input(Path(path), specs[names.index(name)]), text)
        elif equals and not Path(text).exists():
            raise InputError(
                f"{text}: there is no input '{name}'; the model has {_listed(specs)}",
                hint=nearest(name, names),
            )
        elif text.endswith(".npz"):
            for key, array in read_npz(Path(text)).items():
                add(key, array, f"'{key}' in {text}")
        else:
            free = [n for n in names if n not in found]
            if not free:
                raise InputError(f"{text}: one array too many; the model has {_listed(specs)}")
            add(free[0], _read_input(Path(text), specs[names.index(free[0])]), text)
    return as_declared(specs, found)


def read_npz(path: Path) -> dict[str, Array]:
    """All arrays of an .npz file. Raises InputError."""
    try:
        found: Any = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise ValueError("it holds one array, without a name")
        with found as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as e:
        raise InputError(f"{path}: cannot read it as .npz: {_reason(e)}") from None


_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def _read_input(path: Path, spec: TensorInfo) -> Array:
    if path.suffix.lower() in _IMAGES:
        return decode_image(path, spec, str(path))
    return _read_array(path)


def decode_image(file: Path | IO[bytes], spec: TensorInfo, where: str) -> Array:
    """The pixels of an image file as an input of uint8 [height, width], or with 3 or 4 channels,
    takes them; turned upright where the camera says so. Raises InputError, which names `where`."""
    channels = spec.shape[2] if len(spec.shape) == 3 else len(spec.shape) - 1
    mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels) if isinstance(channels, int) else None
    if spec.dtype != "uint8" or mode is None:
        raise InputError(
            f"{where}: the input {spec} takes no pixels",
            hint="compile the model with --preprocess 'image(…)'",
        )
    try:
        image: Any = importlib.import_module("PIL.Image")
        operations: Any = importlib.import_module("PIL.ImageOps")
    except ImportError:
        raise InputError(
            f"{where}: Pillow reads images", hint="pip install 'naru[images]'"
        ) from None
    try:
        with image.open(file) as found:
            return np.asarray(operations.exif_transpose(found).convert(mode))
    except image.UnidentifiedImageError:  # its text is where the file lies in memory
        raise InputError(f"{where}: cannot read it as an image: the format is not known") from None
    # Pillow says SyntaxError of a chunk that is none.
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as e:
        raise InputError(f"{where}: cannot read it as an image: {e}") from None


def _read_array(path: Path) -> Array:
    try:
        array: Any = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
        raise InputError(f"{path}: cannot read it as .npy: {_reason(e)}") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: an .npz file has names of its own: leave out the one before '='")
    return cast(Array, array)


def _reason(error: Exception) -> str:
    """numpy takes whatever has no head of its own for pickled objects, and advises to load them."""
    if "pickle" in str(error):
        return "it is no array of numbers: another kind of file, or Python objects"
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)


def as_declared(specs: Sequence[TensorInfo], arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays, with bfloat16 restored where the .npy format only kept two raw bytes."""
    wanted = {s.name: dtype_of(s.dtype) for s in specs if s.tensor and s.dtype != "string"}
    return {
        name: array.view(wanted[name])
        if array.dtype.kind == "V" and name in wanted and array.dtype.itemsize == 2
        else array
        for name, array in arrays.items()
    }


def with_seed(specs: Sequence[TensorInfo], arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays, with 0 for a seed of random numbers that is not among them: what is measured or
    compared draws the same each time."""
    left_out = [s.name for s in specs if s.optional and s.name not in arrays]
    return {**arrays, **{name: np.zeros((), np.int64) for name in left_out}}


def write_outputs(path: Path, outputs: Mapping[str, Any]) -> None:
    """Writes one array as .npy, or any number with their names as .npz; texts as numpy's `str`.
    Raises InputError, also for sequences and maps."""
    for name, value in outputs.items():
        if not isinstance(value, np.ndarray):
            raise InputError(
                f"{path}: the output '{name}' is no array, and only arrays go into files",
                hint="--json instead of --output",
            )
    outputs = {n: a.astype(str) if a.dtype == object else a for n, a in outputs.items()}
    if path.suffix not in (".npy", ".npz"):
        raise InputError(f"{path}: the output is written as .npy or .npz, got '{path.suffix}'")
    if path.suffix == ".npy" and len(outputs) != 1:
        raise InputError(f"{path}: the model has {len(outputs)} outputs", hint="an .npz file")
    with replacing(path) as part, part.open("wb") as file:
        if path.suffix == ".npy":
            np.save(file, next(iter(outputs.values())))
        else:
            _write_npz(file, outputs)


def _write_npz(file: Any, outputs: Mapping[str, Array]) -> None:
    """np.savez takes names as keywords, and so refuses a tensor called `file`."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in outputs.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)


def random_inputs(
    specs: Sequence[TensorInfo],
    symbols: Sequence[Symbol],
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
    limits: Mapping[str, int] | None = None,
) -> dict[str, Array]:
    """Random arrays for the inputs: normal floats, the full range of 8- and 16-bit integers (often
    quantised), 0 or 1 for bools and wider integers, beginning with 1 (often masks); and for those
    with a limit, such as token ids, anything from 0 to below it.

    `dims` gives sizes to symbols; the others get small ones in their range. Raises InputError.
    """
    sizes = choose_sizes(symbols, dims or {})
    rng = np.random.default_rng(seed)
    return {s.name: _random_array(rng, s, sizes, (limits or {}).get(s.name)) for s in specs}


def choose_sizes(
    symbols: Sequence[Symbol], dims: Mapping[str, int], usual: Mapping[str, int] | None = None
) -> dict[str, int]:
    """A size for each symbol of the inputs: from `dims`, else `usual`, else a small one. InputError
    for a name that is none, or a size out of range."""
    known = {s.name: s for s in symbols if s.kind == "input"}
    sizes: dict[str, int] = {}
    for name, size in dims.items():
        if name not in known:
            listed = ", ".join(known) if known else "none"
            raise InputError(
                f"there is no dim '{name}' to give a size; the model has: {listed}",
                hint=nearest(name, known),
            )
        if not known[name].lo <= size <= known[name].hi:
            raise InputError(
                f"dim '{name}' is from {known[name].lo} to {known[name].hi}, got {size}"
            )
        sizes[name] = size
    for k, symbol in enumerate(known.values()):
        small = max(symbol.lo, min(symbol.hi, _FIRST_SIZE + k))
        sizes.setdefault(symbol.name, (usual or {}).get(symbol.name, small))
    return sizes


def golden_sizes(bundle: Bundle) -> dict[str, int]:
    """The sizes of the symbols in a bundle's golden vector: small ones that go together."""
    sizes: dict[str, int] = {}
    for case in bundle.golden():
        for spec, array in zip(bundle.entries[0].inputs, case.inputs, strict=True):
            for d, size in zip(spec.shape, array.shape, strict=True):
                if isinstance(d, str):
                    sizes.setdefault(d, size)
    return sizes


def _random_array(
    rng: np.random.Generator, spec: TensorInfo, sizes: Mapping[str, int], limit: int | None
) -> Array:
    shape = tuple(d if isinstance(d, int) else sizes[d] for d in spec.shape)
    dtype = dtype_of(spec.dtype)
    try:
        return _random_values(rng, shape, dtype, limit)
    except (ValueError, MemoryError):  # numpy: the array is too big to count, or to hold
        raise InputError(
            f"input '{spec.name}': there is not enough memory for {spec.dtype}{list(shape)}",
            hint="smaller dims",
        ) from None


def _random_values(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any], limit: int | None
) -> Array:
    if limit is not None:
        most = np.iinfo(dtype).max if dtype.kind in "iu" else limit - 1
        return rng.integers(0, min(limit - 1, most), shape, endpoint=True).astype(dtype)
    if dtype.kind in "iu" and dtype.itemsize <= 2:
        full = np.iinfo(dtype)
        return rng.integers(full.min, full.max, shape, dtype=dtype, endpoint=True)
    if dtype.kind in "biu":
        coins = np.atleast_1d(rng.integers(0, 2, shape))
        coins[..., :1] = 1  # a mask that hides everything would hide faults
        return coins.reshape(shape).astype(dtype)
    return rng.standard_normal(shape).astype(np.float32).astype(dtype)


def _listed(specs: Sequence[TensorInfo]) -> str:
    return ", ".join(map(str, specs)) or "no inputs"
