"""The file of weights that lies beside a library or a WebAssembly module.

    0   magic "NARUWTS1"
    8   size of the payload in bytes (u64, little-endian)
    16  its digest (u32): CRC32C over the CRC32Cs of its 1 MiB chunks, as in a bundle
    20  zero (u32)
    24  SHA-256 of the payload (32 bytes): whose weights these are
    56  zero (8 bytes)
    64  payload: the section `weights` of the bundle

The code knows size, digest and SHA-256, so weights that are missing, cut short, damaged or those of
another model are told apart before anything runs.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from naru.artifact.bundle import Bytes
from naru.runtime import _native

MAGIC = b"NARUWTS1"
HEADER_SIZE = 64
_HEADER = struct.Struct("<8sQII32s8x")


@dataclass(frozen=True, slots=True)
class Weights:
    """A payload and what identifies it."""

    payload: Bytes
    size: int
    digest: int
    sha256: bytes

    @property
    def header(self) -> bytes:
        """The first 64 bytes of the file."""
        return _HEADER.pack(MAGIC, self.size, self.digest, 0, self.sha256)


def describe_weights(payload: Bytes) -> Weights:
    """The weights of a bundle's section."""
    data = memoryview(payload).cast("B")
    return Weights(data, data.nbytes, _native.digest(data), hashlib.sha256(data).digest())
