"""Tensors of an ONNX file: inside the file (raw or typed fields) or in a side file, memory-mapped.

A model file comes from anywhere, so nothing it says about sizes or places is believed: the bytes
that a shape asks for are compared with the bytes that are there before anything is allocated, and a
side file lies in the model's own folder or is refused.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import TensorProto

from naru.dtypes import DTYPES, FROM_ONNX, TINY
from naru.errors import ModelError, NaruWarning
from naru.frontend.onnx_node import Unsupported

MAX_RANK = 32
MOST_ELEMENTS = 2**59  # numpy counts the bytes of an array, those of one with a dim 0 too
# Which typed field holds a dtype, and in what numpy type; half floats lie there as their bits.
_FIELDS = {
    "f32": ("float_data", np.float32),
    "f64": ("double_data", np.float64),
    "i64": ("int64_data", np.int64),
    "u32": ("uint64_data", np.uint64),
    "u64": ("uint64_data", np.uint64),
}


def dtype_label(code: int) -> str:
    """`FLOAT8E4M3FN` for 17: the name of an ONNX element type in messages."""
    return TensorProto.DataType.Name(code) if code in TensorProto.DataType.values() else f"#{code}"


def dtype_of(code: int, what: str) -> str:
    """Our name of an ONNX element type. Unsupported for strings, complex numbers, tiny floats, …"""
    if code == TensorProto.UNDEFINED or code not in TensorProto.DataType.values():
        known = ", ".join(n for n in DTYPES if n != "index")
        raise ModelError(
            f"expected an element type, found {dtype_label(code)}",
            where=what,
            hint=f"one of {known}",
        )
    if code not in FROM_ONNX:
        raise Unsupported(
            f"element type {dtype_label(code)}",
            "convert it to one of " + ", ".join(n for n in DTYPES if n != "index"),
        )
    return FROM_ONNX[code]


@dataclass
class Texts:
    """Texts as numbers. Native code has no strings: a tensor of them holds the number of each text
    in this table. The empty one's is 0; those that the model file holds have theirs for good, and
    those of inputs get higher ones at each call. So whatever moves texts or compares them for
    equality is as native as anything else; what looks into one runs on the host (onnx_host.py).
    `values`: names of values that are tensors of texts."""

    numbers: dict[str, int] = field(default_factory=lambda: {"": 0})
    values: set[str] = field(default_factory=set[str])

    def number(self, text: bytes | str) -> int:
        name = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        return self.numbers.setdefault(name, len(self.numbers))

    def array(self, strings: Iterable[bytes | str]) -> np.ndarray:
        """i64[n]"""
        return np.array([self.number(s) for s in strings], np.int64)


class Tensors:
    """Reads TensorProtos as arrays. `folder` is the model's (None: no side files); `texts` None:
    tensors of strings are Unsupported."""

    def __init__(self, folder: Path | None, texts: Texts | None = None) -> None:
        self.folder, self.texts = folder, texts
        self.files: dict[Path, np.ndarray] = {}

    def read(self, t: TensorProto, what: str) -> np.ndarray:
        """The contents; an array over the file's own bytes where possible. ModelError if they don't
        fit the declared shape, Unsupported for element types that naru has no name for."""
        strings = t.data_type == TensorProto.STRING and self.texts is not None
        dtype = "i64" if strings else dtype_of(t.data_type, what)
        shape = tuple(t.dims)
        if any(n < 0 for n in shape) or len(shape) > MAX_RANK:
            raise ModelError(
                f"expected at most {MAX_RANK} dims, none negative, found {list(shape)[:40]}",
                where=what,
            )
        if math.prod(n for n in shape if n) > MOST_ELEMENTS:
            raise ModelError(f"its dims are too large: {list(shape)}", where=what)
        if t.HasField("segment"):
            raise Unsupported("stored in segments", "save the model again")
        array = self.contents(t, dtype, shape, what)
        warn_unless_finite(array, dtype, what)
        return array

    def contents(self, t: TensorProto, dtype: str, shape: Sequence[int], what: str) -> np.ndarray:
        if t.data_type == TensorProto.STRING and self.texts is not None:
            return self.strings(t, shape, what)
        count, row = math.prod(shape), DTYPES[dtype]
        bits = 8 if dtype == "bool" else row.bits
        size = -(-count * bits // 8)
        if t.data_location == TensorProto.EXTERNAL:
            data = self.external(t, size, what)
        elif t.HasField("raw_data"):
            data = np.frombuffer(t.raw_data, np.uint8)
            if data.size != size:
                raise ModelError(
                    f"{dtype}{list(shape)} takes {size} bytes, found {data.size}",
                    where=what,
                    hint="the file may be cut short; save or download it again",
                )
        else:
            return typed_field(t, dtype, shape, what)
        # ONNX files are little-endian, as is every machine we run on.
        data = unpacked(data, count, bits) if bits < 8 else data
        return data.view(row.numpy).reshape(shape)

    def strings(self, t: TensorProto, shape: Sequence[int], what: str) -> np.ndarray:
        """The numbers of the texts of a tensor."""
        assert self.texts is not None
        if len(t.string_data) != math.prod(shape):
            raise ModelError(
                f"{list(shape)} has {math.prod(shape)} elements, found {len(t.string_data)} texts",
                where=what,
            )
        return self.texts.array(t.string_data).reshape(shape)

    def external(self, t: TensorProto, size: int, what: str) -> np.ndarray:
        """`size` bytes of a side file, memory-mapped read-only."""
        fields = {e.key: e.value for e in t.external_data}
        path = self.side_file(fields.get("location", ""), what)
        offset = _number(fields.get("offset", "0"), "offset", what)
        length = _number(fields.get("length", str(size)), "length", what)
        if length != size:
            raise ModelError(
                f"its shape {list(t.dims)} takes {size} bytes, the side file's entry says {length}",
                where=what,
                hint="save the model again",
            )
        present = path.stat().st_size
        if offset + size > present:
            raise ModelError(
                f"expected {size} bytes at offset {offset} of {path.name}, "
                f"which has {present} bytes",
                where=what,
                hint=f"{path.name} may be cut short; copy or download it again",
            )
        if size == 0:
            return np.empty(0, np.uint8)
        if path not in self.files:
            self.files[path] = np.asarray(np.memmap(path, np.uint8, "r"))
        return self.files[path][offset : offset + size]

    def side_file(self, location: str, what: str) -> Path:
        """The real path of a side file: a regular file in the model's folder, or below it."""
        if self.folder is None:
            raise ModelError(
                f"its data is in the side file {location!r}, whose folder is not known",
                where=what,
                hint="give the path of the model rather than its bytes",
            )
        hint = "keep the model and its side files in one folder"
        parts = location.replace("\\", "/").split("/")
        drive = len(location) > 1 and location[1] == ":"
        if not location or "\0" in location or not parts[0] or drive or ".." in parts:
            raise ModelError(
                f"expected a side file in the model's folder, found the location {location!r}",
                where=what,
                hint=hint,
            )
        folder = self.folder.resolve()
        path = Path(os.path.realpath(folder / location))
        if not path.is_relative_to(folder):
            raise ModelError(
                f"the side file {location!r} leads out of the model's folder", where=what, hint=hint
            )
        if not path.is_file():
            raise ModelError(
                f"the side file {location!r} is not in the model's folder", where=what, hint=hint
            )
        return path


def _number(text: str, key: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ModelError(
            f"expected a number of bytes as the side file's {key}, found {text[:40]!r}", where=what
        )
    return int(text)


def unpacked(data: np.ndarray, count: int, bits: int) -> np.ndarray:
    """Elements of fewer than 8 bits, one behind the other from the lowest bit on, as bytes."""
    stream = np.unpackbits(data, count=count * bits, bitorder="little").reshape(count, bits)
    return np.packbits(stream, axis=1, bitorder="little").reshape(-1)


def typed_field(t: TensorProto, dtype: str, shape: Sequence[int], what: str) -> np.ndarray:
    """Contents given as numbers, one repeated field for each kind of element type."""
    name, kind = _FIELDS.get(dtype, ("int32_data", np.int32))
    values = getattr(t, name)
    count, target, bits = math.prod(shape), DTYPES[dtype].numpy, DTYPES[dtype].bits
    packed = dtype != "bool" and bits in (2, 4)  # then each number is a byte of the packed form
    if len(values) != (-(-count * bits // 8) if packed else count):
        hint = "the file may be cut short, or its weights may not have been saved with it"
        raise ModelError(
            f"{dtype}{list(shape)} has {count} elements, found {len(values)} in {name}",
            where=what,
            hint=hint,
        )
    data = np.fromiter(values, kind, len(values))
    if packed:
        return unpacked(data.astype(np.uint8), count, bits).view(target).reshape(shape)
    if dtype in ("f16", "bf16"):
        return data.astype(np.uint16).view(target).reshape(shape)
    if dtype in TINY:
        return (data.astype(np.uint8) & (2**bits - 1)).view(target).reshape(shape)
    return data.astype(target).reshape(shape)


def warn_unless_finite(array: np.ndarray, dtype: str, what: str) -> None:
    """Warns of a NaN or an infinity among weights, in blocks so that nothing large is allocated. An
    infinity alone is meant: it masks, or bounds."""
    if DTYPES[dtype].kind != "f":
        return
    flat = array.reshape(-1)
    if flat.size == 1 and not np.isnan(flat[0]):
        return
    for at in range(0, flat.size, 1 << 20):
        block = flat[at : at + (1 << 20)]
        bad = ~np.isfinite(block)
        if bad.any():
            k = at + int(np.argmax(bad))
            warnings.warn(f"{what}: element {k} is {float(flat[k])}", NaruWarning, stacklevel=2)
            return
