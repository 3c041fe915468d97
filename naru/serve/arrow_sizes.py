"""What a stream of Arrow takes in memory, read from the heads of its messages before anything is
decompressed: a buffer of a few bytes may become one of gigabytes.

Heads are flatbuffers (Arrow's format/Message.fbs): the numbers below are fields of its tables.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from naru.serve.refusals import INVALID, Refusal

_VERSION, _HEADER, _METADATA = 0, 2, 4  # of Message
_DATA = 1  # of DictionaryBatch: a RecordBatch
_BUFFERS, _COMPRESSION = 2, 3  # of RecordBatch


def unpacked_size(pa: Any, body: bytes) -> int:
    """Bytes of the buffers that reading a stream will decompress. Raises a Refusal where buffers
    lie upon each other, so that they would take more than they are; other damage is left to the
    reader, which stops where this does."""
    size = 0
    try:
        messages = pa.ipc.MessageReader.open_stream(pa.py_buffer(body))
        while True:
            message = messages.read_next_message()
            if message.type in ("record batch", "dictionary"):
                size += _unpacked(message)
    except StopIteration:
        return size
    except (pa.ArrowException, OSError):
        return size
    except (struct.error, ValueError):
        raise Refusal(INVALID, "the body is no Arrow stream: a head is damaged") from None


def _unpacked(message: Any) -> int:
    head = message.metadata.to_pybytes()
    whole = _table(head, 0)
    batch = _table(head, _field(head, whole, _HEADER))
    if message.type == "dictionary":
        batch = _table(head, _field(head, batch, _DATA))
    if not (at := _field(head, batch, _BUFFERS)):
        return 0
    at += _number(head, at)
    buffers = np.frombuffer(head, "<i8", 2 * _number(head, at), at + 4).reshape(-1, 2)
    body = memoryview(message.body or b"")
    if (buffers < 0).any() or sum(buffers[:, 1].tolist()) > len(body):
        raise Refusal(INVALID, "the stream's buffers are not within their message")
    # Version 4 (3 in the head) said it in the metadata.
    (version,) = struct.unpack_from("<h", head, _field(head, whole, _VERSION))
    if not _field(head, batch, _COMPRESSION) and (
        version > 3 or not _field(head, whole, _METADATA)
    ):
        return 0
    # Each begins with its size; -1: it is not compressed.
    sizes = [struct.unpack_from("<q", body, start)[0] for start, count in buffers.tolist() if count]
    return sum(max(0, s) for s in sizes)


def _number(head: bytes, at: int) -> int:
    return struct.unpack_from("<I", head, at)[0]


def _table(head: bytes, at: int) -> int:
    """Where the table is that is meant here."""
    return at + _number(head, at)


def _field(head: bytes, table: int, field: int) -> int:
    """Where a table's field is; 0: it is not there."""
    fields = table - struct.unpack_from("<i", head, table)[0]
    (length,) = struct.unpack_from("<H", head, fields)
    place = 4 + 2 * field
    (offset,) = struct.unpack_from("<H", head, fields + place) if place < length else (0,)
    return table + offset if offset else 0
