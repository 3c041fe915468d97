"""A model's library through its C interface, by ctypes: what any other language would do."""

from __future__ import annotations

import ctypes as c
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (registers bfloat16 with numpy)
import numpy as np

OK, BAD_ARGUMENT, BAD_WEIGHTS, BAD_CPU, NO_MEMORY, BAD_SIZES, BAD_VALUES, BUSY, FAILED = range(9)
UNCHECKED, LARGE_PAGES = 1, 2

Task = c.CFUNCTYPE(None, c.c_void_p, c.c_int32, c.c_int32)
Parallel = c.CFUNCTYPE(None, c.c_void_p, Task, c.c_void_p, c.c_int32)
Allocate = c.CFUNCTYPE(c.c_void_p, c.c_void_p, c.c_size_t, c.c_size_t)
Release = c.CFUNCTYPE(None, c.c_void_p, c.c_void_p, c.c_size_t)


class Options(c.Structure):
    _fields_ = (
        ("size", c.c_uint32),
        ("flags", c.c_uint32),
        ("weights", c.c_char_p),
        ("weights_data", c.c_void_p),
        ("weights_size", c.c_size_t),
        ("level", c.c_char_p),
        ("threads", c.c_int32),
        ("parallel", Parallel),
        ("pool", c.c_void_p),
        ("allocate", Allocate),
        ("release", Release),
        ("heap", c.c_void_p),
        ("loop_limit", c.c_int64),
    )

    def __init__(self, **values: Any) -> None:
        super().__init__(size=c.sizeof(Options), **values)


class Tensor(c.Structure):
    _fields_ = (
        ("name", c.c_char_p),
        ("dtype_name", c.c_char_p),
        ("dtype", c.c_int),
        ("item_size", c.c_int32),
        ("rank", c.c_int32),
        ("shape", c.POINTER(c.c_int64)),
        ("optional", c.c_int32),
        ("late", c.c_int32),
        ("labels", c.POINTER(c.c_char_p)),
        ("label_count", c.c_int32),
        ("label_axis", c.c_int32),
    )


class Symbol(c.Structure):
    _fields_ = (("name", c.c_char_p), ("low", c.c_int64), ("high", c.c_int64))


class Level(c.Structure):
    _fields_ = (
        ("name", c.c_char_p),
        ("features", c.POINTER(c.c_char_p)),
        ("code_size", c.c_size_t),
    )


class Buffer(c.Structure):
    _fields_ = (("data", c.c_void_p), ("size", c.c_size_t))


_SIZES = c.POINTER(c.c_int64)


class Table(c.Structure):
    _fields_ = (
        ("size", c.c_uint32),
        ("version", c.c_uint32),
        ("name", c.c_char_p),
        ("compiler", c.c_char_p),
        ("source", c.c_char_p),
        ("inputs", c.c_int32),
        ("outputs", c.c_int32),
        ("symbols", c.c_int32),
        ("levels", c.c_int32),
        ("input", c.POINTER(Tensor)),
        ("output", c.POINTER(Tensor)),
        ("symbol", c.POINTER(Symbol)),
        ("level", c.POINTER(Level)),
        ("weights_size", c.c_size_t),
        ("embedded", c.c_int32),
        ("open", c.CFUNCTYPE(c.c_int, c.POINTER(Options), c.POINTER(c.c_void_p))),
        ("close", c.CFUNCTYPE(c.c_int, c.c_void_p)),
        ("level_of", c.CFUNCTYPE(c.c_char_p, c.c_void_p)),
        ("memory", c.CFUNCTYPE(c.c_int, c.c_void_p, _SIZES, c.POINTER(c.c_size_t))),
        ("new_context", c.CFUNCTYPE(c.c_int, c.c_void_p, _SIZES, c.c_void_p, c.c_size_t,
                                    c.POINTER(c.c_void_p))),
        ("free_context", c.CFUNCTYPE(c.c_int, c.c_void_p)),
        ("resize", c.CFUNCTYPE(c.c_int, c.c_void_p, _SIZES)),
        ("shape", c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_int32, _SIZES)),
        ("run", c.CFUNCTYPE(c.c_int, c.c_void_p, c.POINTER(Buffer), c.POINTER(Buffer))),
        ("selftest", c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_char_p, c.POINTER(c.c_double))),
        ("error", c.CFUNCTYPE(c.c_char_p)),
    )  # fmt: skip


class LibraryError(Exception):
    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(text)


class Library:
    """A loaded library."""

    def __init__(self, path: Path) -> None:
        self.handle = c.CDLL(str(path))
        of = self.handle.naru_library
        of.restype = c.POINTER(Table)
        self.table: Table = of().contents
        self.inputs = [self.table.input[k] for k in range(self.table.inputs)]
        self.outputs = [self.table.output[k] for k in range(self.table.outputs)]
        self.symbols = [self.table.symbol[k].name.decode() for k in range(self.table.symbols)]

    def check(self, status: int) -> None:
        if status != OK:
            raise LibraryError(status, self.table.error().decode())

    def open(self, options: Options | None = None) -> Model:
        return Model(self, options)


def sizes_of(values: Sequence[int]) -> Any:
    return (c.c_int64 * len(values))(*values) if values else None


class Model:
    """An open model."""

    def __init__(self, library: Library, options: Options | None) -> None:
        self.library, self.options = library, options
        self.pointer = c.c_void_p()
        given = c.byref(options) if options is not None else None
        library.check(library.table.open(given, c.byref(self.pointer)))

    def close(self) -> None:
        self.library.check(self.library.table.close(self.pointer))

    @property
    def level(self) -> str:
        return self.library.table.level_of(self.pointer).decode()

    def memory(self, sizes: Sequence[int] = ()) -> int:
        bytes_ = c.c_size_t()
        self.library.check(
            self.library.table.memory(self.pointer, sizes_of(sizes), c.byref(bytes_))
        )
        return bytes_.value

    def selftest(self, golden: str | None = None) -> float:
        error = c.c_double()
        path = golden.encode() if golden else None
        self.library.check(self.library.table.selftest(self.pointer, path, c.byref(error)))
        return error.value

    def context(self, sizes: Sequence[int] = (), memory: Any = None, size: int = 0) -> Context:
        return Context(self, sizes, memory, size)

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Runs once, in a context of its own."""
        found: dict[str, int] = {}
        for t in self.library.inputs:
            array = feeds.get(t.name.decode())
            for axis in range(t.rank):
                if t.shape[axis] < 0 and array is not None:
                    found[self.library.symbols[-1 - t.shape[axis]]] = array.shape[axis]
        context = self.context([found[s] for s in self.library.symbols])
        try:
            return context.run(feeds)
        finally:
            context.free()


class Context:
    def __init__(self, model: Model, sizes: Sequence[int], memory: Any, size: int) -> None:
        self.model, self.table = model, model.library.table
        self.pointer = c.c_void_p()
        model.library.check(
            self.table.new_context(
                model.pointer, sizes_of(sizes), memory, size, c.byref(self.pointer)
            )
        )

    def free(self) -> None:
        self.model.library.check(self.table.free_context(self.pointer))

    def resize(self, sizes: Sequence[int]) -> None:
        self.model.library.check(self.table.resize(self.pointer, sizes_of(sizes)))

    def shape(self, k: int) -> tuple[int, ...]:
        rank = self.model.library.outputs[k].rank
        dims = (c.c_int64 * (rank + 1))()
        self.model.library.check(self.table.shape(self.pointer, k, dims))
        return tuple(dims[:rank])

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        library = self.model.library
        arrays = [
            np.ascontiguousarray(feeds[t.name.decode()]) if t.name.decode() in feeds else None
            for t in library.inputs
        ]
        inputs = (Buffer * (len(arrays) + 1))(
            *(Buffer(a.ctypes.data, a.nbytes) if a is not None else Buffer() for a in arrays)
        )
        results: list[np.ndarray | None] = []
        outputs = (Buffer * len(library.outputs))()
        for k, t in enumerate(library.outputs):
            made = None if t.late else np.zeros(self.shape(k), t.dtype_name.decode())
            results.append(made)
            if made is not None:
                outputs[k] = Buffer(made.ctypes.data, made.nbytes)
        library.check(self.table.run(self.pointer, inputs, outputs))
        return [
            self._late(k, outputs[k]) if made is None else made for k, made in enumerate(results)
        ]

    def _late(self, k: int, buffer: Buffer) -> np.ndarray:
        t, shape = self.model.library.outputs[k], self.shape(k)
        assert buffer.size == math.prod(shape) * t.item_size
        data = c.string_at(buffer.data, buffer.size) if buffer.size else b""
        return np.frombuffer(data, t.dtype_name.decode()).reshape(shape)
