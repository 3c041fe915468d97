"""Arrow in, Arrow out: a stream of record batches (`application/vnd.apache.arrow.stream`) becomes a
stream of record batches, batch by batch.

Columns are inputs by name, or the columns of the one matrix that a model takes. A column of fixed
size lists is a tensor of higher rank. Columns of numbers without nulls are not copied on the way to
the model. Arrow columnar format 1.x, "IPC Streaming Format".
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from naru.runtime import tables
from naru.serve.arrow_sizes import unpacked_size
from naru.serve.aside import aside, count_bytes
from naru.serve.batching import Outputs
from naru.serve.http_messages import Request, Response, unless_gone
from naru.serve.refusals import INVALID, UNSUPPORTED, Refusal
from naru.serve.servable import Request as Ask
from naru.serve.servable import Servable
from naru.serve.signature import Tensor

Array = NDArray[Any]
MEDIA = "application/vnd.apache.arrow.stream"
_MOST_LEVELS = 8


async def answer(
    request: Request, servable: Servable, body: bytes, hold: Callable[[int], None]
) -> Response:
    """The answer to a stream: 200 once the first batch is answered. Where a later one fails, the
    connection is closed before the stream's end, which readers notice. `hold` takes room for what
    the stream is without compression. Raises a Refusal."""
    pa = _pyarrow()
    hold(await aside(len(body), unpacked_size, pa, body))
    pieces = _pieces(pa, request, servable, body)
    first = await anext(pieces)

    async def chunks() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return Response(200, [(b"content-type", MEDIA.encode())], chunks=chunks())


async def _pieces(
    pa: Any, request: Request, servable: Servable, body: bytes
) -> AsyncIterator[bytes]:
    """The stream of outputs, batch by batch, while the client is there. Raises a Refusal."""
    batches, out = _read(pa, body, servable), _Out(pa, servable)
    try:
        while True:
            step = asyncio.ensure_future(_next(batches, servable))
            if (found := await unless_gone(request, step)) is None:
                break
            count, outputs = found
            yield await aside(count_bytes(outputs), out.write, outputs, count)
        yield out.end()
    except Refusal as refusal:
        servable.statistics.failed(refusal, 0)
        raise


def _pyarrow() -> Any:
    try:
        importlib.import_module("pyarrow.ipc")
        return importlib.import_module("pyarrow")
    except ImportError:
        raise Refusal(
            UNSUPPORTED, "this server has no Arrow", hint="pip install 'naru[arrow]' there"
        ) from None


class _Sink:
    """A file that keeps what is written until it is taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(self._parts[-1])

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def writable(self) -> bool:
        return True

    def take(self) -> bytes:
        """What was written since the last time."""
        found = b"".join(self._parts)
        self._parts.clear()
        return found


class _Out:
    """The stream of outputs."""

    def __init__(self, pa: Any, servable: Servable) -> None:
        self._pa, self._servable = pa, servable
        self._sink = _Sink()
        self._writer: Any = None

    def write(self, outputs: Outputs, rows: int) -> bytes:
        """The bytes of a batch, the schema's before the first. Raises a Refusal."""
        record = _record(self._pa, self._servable, outputs, rows)
        if self._writer is None:
            self._writer = self._pa.ipc.new_stream(self._sink, record.schema)
        self._writer.write_batch(record)
        return self._sink.take()

    def end(self) -> bytes:
        """What stands behind the last one. Raises a Refusal where there was none."""
        if self._writer is None:
            raise Refusal(INVALID, "the stream has no record batch")
        self._writer.close()
        return self._sink.take()


def _open(pa: Any, body: bytes) -> Any:
    try:
        return pa.ipc.open_stream(pa.py_buffer(body))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise Refusal(INVALID, f"the body is no Arrow stream: {error}") from None


def _read(pa: Any, body: bytes, servable: Servable) -> Any:
    """The batches' rows and inputs. Raises a Refusal."""
    reader, number = _open(pa, body), 0
    while True:
        try:
            batch = reader.read_next_batch()
            batch.validate(full=True)  # offsets, and UTF-8: others would be read past their end
            _ = batch.schema.names  # which nobody looked at yet
        except StopIteration:
            return
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise Refusal(INVALID, f"record batch {number}: {error}") from None
        try:
            yield batch.num_rows, _inputs(pa, batch, servable)
        except Refusal as refusal:
            raise Refusal(INVALID, f"record batch {number}: {refusal.message}") from None
        number += 1


async def _next(batches: Any, servable: Servable) -> tuple[int, Outputs] | None:
    found = await asyncio.to_thread(next, batches, None)
    if found is None:
        return None
    count, arrays = found
    return count, await servable.infer(Ask(arrays))


# ---- in ----


def _inputs(pa: Any, batch: Any, servable: Servable) -> dict[str, Array]:
    """The inputs of a model in the columns of a record batch."""
    signature, names = servable.signature, list(batch.schema.names)
    twice = [n for k, n in enumerate(names) if n in names[:k]]
    if twice:
        raise Refusal(INVALID, f"there are two columns '{twice[0]}'")
    required = [t for t in signature.inputs if not t.optional]
    if all(t.name in names for t in required):
        return {
            t.name: _column(pa, batch.column(names.index(t.name)), t)
            for t in signature.inputs
            if t.name in names
        }
    if len(required) == 1 and len(required[0].dims) == 2:
        tensor = required[0]
        known = tables.columns_of(servable.model.manifest).get(tensor.name)
        if known is not None and (missing := [n for n in known if n not in names]):
            raise Refusal(INVALID, f"column '{missing[0]}' is missing, found {', '.join(names)}")
        if not names:
            raise Refusal(INVALID, "expected at least one column, found none")
        columns = [batch.column(names.index(n)) for n in known or names]
        flat = Tensor("", tensor.datatype, tensor.dtype, (-1,))
        arrays = [_column(pa, c, flat, n) for c, n in zip(columns, known or names, strict=True)]
        if lists := [n for a, n in zip(arrays, known or names, strict=True) if a.ndim > 1]:
            raise Refusal(INVALID, f"column '{lists[0]}': expected {tensor.datatype}, got lists")
        return {tensor.name: np.stack(arrays, axis=1)}
    missing = [t.name for t in required if t.name not in names]
    raise Refusal(INVALID, f"column '{missing[0]}' is missing, found {', '.join(names)}")


def _column(pa: Any, column: Any, tensor: Tensor, name: str | None = None) -> Array:
    """A column as an array of the tensor's dtype: the same memory where the type is the same."""
    name, shape = name or tensor.name, [len(column)]
    for _ in range(_MOST_LEVELS):
        if not pa.types.is_fixed_size_list(column.type):
            break
        if column.null_count:
            raise Refusal(INVALID, f"column '{name}' has nulls")
        shape.append(column.type.list_size)
        column = column.flatten()
    if column.null_count:
        raise Refusal(INVALID, f"column '{name}' has nulls, for which tensors have no value")
    want = tensor.dtype
    if want.kind == "O":
        return _texts(pa, column, name).reshape(shape)
    if not (pa.types.is_primitive(column.type) and not pa.types.is_temporal(column.type)):
        raise Refusal(INVALID, f"column '{name}': expected {tensor.datatype}, got {column.type}")
    found = np.asarray(column.to_numpy(zero_copy_only=False))
    if found.dtype != want:
        if not np.can_cast(found.dtype, want, "safe") and not (
            found.dtype.kind in "iuf" and want.kind == "f"
        ):
            raise Refusal(
                INVALID, f"column '{name}': expected {tensor.datatype}, got {column.type}"
            )
        try:
            with np.errstate(over="raise"):  # no infinities of numbers
                found = found.astype(want)
        except FloatingPointError:
            raise Refusal(
                INVALID, f"column '{name}': a number is out of the range of {tensor.datatype}"
            ) from None
    # A column for an input [n, 1] needs no list around each element.
    if len(shape) == len(tensor.dims) - 1 and tensor.dims[-1] == 1:
        shape.append(1)
    return found.reshape(shape)


def _texts(pa: Any, column: Any, name: str) -> Array:
    """A column of texts, or of categories, whose texts are shared by the rows that have them."""
    kind = column.type
    if not pa.types.is_dictionary(kind):
        return _objects(pa, column, kind, name)
    words = column.dictionary
    if words.null_count:
        raise Refusal(INVALID, f"column '{name}' has nulls, for which tensors have no value")
    return _objects(pa, words, words.type, name)[column.indices.to_numpy(zero_copy_only=False)]


def _objects(pa: Any, column: Any, kind: Any, name: str) -> Array:
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise Refusal(
            INVALID,
            f"column '{name}': expected texts (string, large_string, or a dictionary of them), "
            f"got {kind}",
        )
    texts = np.empty(len(column), object)
    texts[:] = column.to_pylist()
    return texts


# ---- out ----


def _record(pa: Any, servable: Servable, outputs: Sequence[Array], rows: int) -> Any:
    """Outputs as a record batch. Raises a Refusal where they have not a row for each of the
    inputs'."""
    columns: list[Any] = []
    for tensor, array in zip(servable.signature.outputs, outputs, strict=True):
        if array.ndim == 0 or array.shape[0] != rows:
            raise Refusal(
                INVALID,
                f"output '{tensor.name}' of shape {list(array.shape)} has not a row for each of "
                f"the {rows} that came",
                hint="JSON or binary tensors",
            )
        columns.append(_as_column(pa, array))
    names = [t.name for t in servable.signature.outputs]
    return pa.RecordBatch.from_arrays(columns, names)


def _as_column(pa: Any, array: Array) -> Any:
    if array.dtype.kind == "V":
        array = array.astype(np.float32)
    flat = np.ascontiguousarray(array).reshape(-1)
    column = pa.array(flat.tolist(), pa.string()) if flat.dtype == object else pa.array(flat)
    for size in reversed(array.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column
