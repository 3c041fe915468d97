"""A content-addressed store of compiled objects and bundles, shared by concurrent processes.

An entry is one file, named by its key and by a digest of its contents, so that a damaged one is
noticed and dropped; a bundle, which has checksums of its own, is mapped as it is. Files appear by
rename, whole or not at all. The least recently used go when the size limit is passed. A cache that
cannot be read or written is no error: things are compiled again, and one warning says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from naru import knobs

# Bump when the meaning of the files changes.
_FORMAT = "v1"
_TEMPORARY = "tmp-"
_STALE_SECONDS = 3600
# Eviction frees some room at once instead of a little at every store.
_KEEP = 0.9
_OWN = "own"  # stands in place of a digest


class CacheWarning(UserWarning):
    """The cache cannot be used; compiling works without it."""


class Usage(NamedTuple):
    """What a cache holds: number of entries and their bytes."""

    entries: int
    bytes: int


class _Entry(NamedTuple):
    used: float
    size: int
    path: str


def make_key(kind: str, *parts: str | bytes) -> str:
    """A key of 40 hex digits. `parts` are all that decides the contents; their borders count."""
    digest = hashlib.blake2b(digest_size=20)
    for part in (kind, *parts):
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


@cache
def source_digest() -> str:
    """A digest of naru's own sources: a part of the key of whatever the whole compiler made."""
    root = Path(__file__).parents[1]
    digest = hashlib.blake2b(digest_size=20)
    for path in sorted(p for p in root.rglob("*") if p.suffix in (".py", ".c", ".h")):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


@cache
def compiler_version() -> str:
    """naru's sources, llvmlite and numpy, as one text; does not import llvmlite."""
    versions = [f"naru {source_digest()}"]
    for package in ("llvmlite", "numpy"):
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{package} ?")
    return ", ".join(versions)


class Cache:
    """A store in `folder` of at most `limit` bytes. Safe to use from many threads and processes."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder / _FORMAT, limit
        self._bytes: int | None = None  # what the folder holds, as far as this process knows
        self._warned = False

    # ---- reading ----

    def get(self, key: str) -> bytes | None:
        """The bytes stored under a key, or None."""
        found = self._find(key)
        if found is None:
            return None
        try:
            data = found.read_bytes()
        except OSError:
            return None  # evicted by another process meanwhile
        if _digest(data) != found.suffix[1:]:
            self._drop(found)
            return None
        self._touch(found)
        return data

    def path_of(self, key: str) -> Path | None:
        """The file of an entry of `put_made`, or None. Its contents must not be changed, and it may
        be evicted: open it at once."""
        found = self._find(key)
        if found is not None:
            self._touch(found)
        return found

    # ---- writing ----

    def put(self, key: str, data: bytes) -> Path | None:
        """Stores bytes under a key; the entry's file, or None when the cache cannot be written."""
        if len(data) > self.limit:
            return None
        return self._store(key, _digest(data), len(data), lambda path: path.write_bytes(data))

    def put_made(self, key: str, size: int, write: Callable[[Path], object]) -> Path | None:
        """Stores what `write` puts into the file it is given, about `size` bytes that carry
        checksums of their own; the entry's file, or None when the cache cannot be written. A large
        entry is so written once, and not first made in memory. Errors of `write` other than OSError
        are the caller's."""
        return self._store(key, _OWN, size, write) if size <= self.limit else None

    def _store(
        self, key: str, digest: str, size: int, write: Callable[[Path], object]
    ) -> Path | None:
        temporary = self._shard(key) / f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(6)}"
        final = self._shard(key) / f"{key}.{digest}"
        try:
            self._shard(key).mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                write(temporary)
                temporary.replace(final)
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink()
        except OSError as e:
            self._warn(e)
            return None
        self._forget_others(key, final)
        self._account(size)
        return final

    # ---- housekeeping ----

    def usage(self) -> Usage:
        """How much the cache holds now."""
        entries = list(self._entries())
        return Usage(len(entries), sum(e.size for e in entries))

    def clear(self) -> None:
        """Removes every entry."""
        for entry in self._entries():
            self._drop(Path(entry.path))
        self._bytes = None

    def _account(self, size: int) -> None:
        """Counts what was stored and evicts when that passes the limit. Other processes' entries
        are counted at the first store and at each eviction: the limit may be passed in between.
        """
        if self._bytes is None:
            self._bytes = self.usage().bytes
        else:
            self._bytes += size
        if self._bytes > self.limit:
            self._evict()

    def _evict(self) -> None:
        entries = sorted(self._entries())
        held = sum(e.size for e in entries)
        if held > self.limit:
            for entry in entries:
                if held <= self.limit * _KEEP:
                    break
                self._drop(Path(entry.path))
                held -= entry.size
        self._bytes = held

    def _entries(self) -> Iterator[_Entry]:
        """All entries; removes temporary files that their process left behind long ago."""
        for shard in _scan(self.folder):
            for file in _scan(Path(shard.path)):
                try:
                    status = file.stat()
                except OSError:
                    continue
                # A bundle is written to a hidden file beside the temporary one.
                if not file.name.lstrip(".").startswith(_TEMPORARY):
                    yield _Entry(status.st_mtime, status.st_size, file.path)
                elif time.time() - status.st_mtime > _STALE_SECONDS:
                    self._drop(Path(file.path))

    def _shard(self, key: str) -> Path:
        return self.folder / key[:2]

    def _find(self, key: str) -> Path | None:
        for file in _scan(self._shard(key)):
            if file.name.startswith(key + "."):
                return Path(file.path)
        return None

    def _forget_others(self, key: str, kept: Path) -> None:
        """Removes older contents of the key, so that a key has one answer."""
        for file in _scan(self._shard(key)):
            if file.name.startswith(key + ".") and file.name != kept.name:
                self._drop(Path(file.path))

    def _touch(self, path: Path) -> None:
        # The time of last use is what eviction sorts by; a read-only cache keeps its old times.
        with contextlib.suppress(OSError):
            os.utime(path)

    def _drop(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink()

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"the cache in {self.folder.parent} cannot be written ({error.strerror or error}); "
                "compiling goes on without it. NARU_CACHE_DIR names another folder, "
                "NARU_CACHE_BYTES=0 turns the cache off",
                CacheWarning,
                stacklevel=4,
            )


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


@cache
def _cache_in(folder: Path, limit: int) -> Cache:
    return Cache(folder, limit)


def open_cache() -> Cache | None:
    """The cache the knobs describe; None when they turn it off. One object a folder and process."""
    now = knobs.current()
    return _cache_in(now.cache_dir, now.cache_bytes) if now.cache_bytes > 0 else None
