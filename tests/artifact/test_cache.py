"""The content-addressed cache: hits, damage, eviction, concurrent processes, unusable folders."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from naru import knobs
from naru.artifact.cache import (
    Cache,
    CacheWarning,
    compiler_version,
    make_key,
    open_cache,
    source_digest,
)

MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 16 * MIB)


def test_keys_tell_parts_apart() -> None:
    assert make_key("object", "ab", "c") != make_key("object", "a", "bc")
    assert make_key("object", "a") != make_key("bundle", "a")
    assert make_key("object", "a") == make_key("object", b"a")


def test_versions_are_stable() -> None:
    assert source_digest() == source_digest()
    assert "llvmlite" in compiler_version()
    assert source_digest() in compiler_version()


def test_put_and_get(store: Cache) -> None:
    key = make_key("object", "text")
    assert store.get(key) is None
    path = store.put(key, b"code")
    assert path is not None
    assert path.read_bytes() == b"code"
    assert store.get(key) == b"code"
    assert Cache(store.folder.parent, MIB).get(key) == b"code"


def test_empty_contents(store: Cache) -> None:
    key = make_key("object", "nothing")
    store.put(key, b"")
    assert store.get(key) == b""


def test_new_contents_replace_old(store: Cache) -> None:
    key = make_key("object", "x")
    store.put(key, b"one")
    store.put(key, b"two")
    assert store.get(key) == b"two"
    assert store.usage().entries == 1


@pytest.mark.parametrize("damage", [b"", b"co", b"c0de", b"code and more"])
def test_damaged_entry_is_dropped(store: Cache, damage: bytes) -> None:
    key = make_key("object", "x")
    path = store.put(key, b"code")
    assert path is not None
    path.write_bytes(damage)
    assert store.get(key) is None
    assert not path.exists()


def test_files(store: Cache) -> None:
    key = make_key("bundle", "model")
    assert store.path_of(key) is None
    for contents in (b"bundle" * 1000, b"another"):
        made = store.put_made(key, len(contents), lambda path, c=contents: path.write_bytes(c))
        assert made is not None
        assert store.path_of(key) == made
        assert made.read_bytes() == contents
    assert store.usage() == (1, len(b"another"))


def test_least_recently_used_go(tmp_path: Path) -> None:
    store = Cache(tmp_path, 10_000)
    keys = [make_key("object", str(k)) for k in range(9)]
    for age, key in enumerate(keys):
        path = store.put(key, bytes(1000))
        assert path is not None
        os.utime(path, (0.0, time.time() - 1000 + age))
    assert store.get(keys[0]) is not None  # now the most recently used
    store.put(make_key("object", "big"), bytes(3000))
    assert store.usage().bytes <= 10_000
    assert store.get(keys[0]) is not None
    assert store.get(keys[1]) is None
    assert store.get(keys[2]) is None
    assert store.get(keys[8]) is not None


def test_larger_than_the_cache_is_not_stored(tmp_path: Path) -> None:
    store = Cache(tmp_path, 100)
    assert store.put(make_key("object", "x"), bytes(101)) is None
    assert store.usage() == (0, 0)


def test_stale_temporary_files_are_removed(store: Cache) -> None:
    path = store.put(make_key("object", "x"), b"code")
    assert path is not None
    stale = [path.with_name(name) for name in ("tmp-1-a", ".tmp-1-a.1.b.tmp")]
    fresh = [path.with_name(name) for name in ("tmp-1-b", ".tmp-1-b.1.b.tmp")]
    for each in stale + fresh:
        each.write_bytes(b"")
    for each in stale:
        os.utime(each, (0.0, time.time() - 7200))
    assert store.usage().entries == 1
    assert not any(each.exists() for each in stale)
    assert all(each.exists() for each in fresh)


def test_clear(store: Cache) -> None:
    store.put(make_key("object", "x"), b"code")
    store.clear()
    assert store.usage() == (0, 0)


def test_unusable_folder_warns_once(tmp_path: Path) -> None:
    # A file where a folder should be: fails for root too, whom permissions do not stop.
    (tmp_path / "file").write_bytes(b"")
    store = Cache(tmp_path / "file", MIB)
    with pytest.warns(CacheWarning, match="NARU_CACHE_DIR"):
        assert store.put(make_key("object", "x"), b"code") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.put(make_key("object", "y"), b"code") is None
        assert store.get(make_key("object", "x")) is None
        assert store.path_of(make_key("object", "x")) is None
        assert store.usage() == (0, 0)


def test_knobs_choose_the_cache(tmp_path: Path) -> None:
    with knobs.scope(cache_dir=tmp_path, cache_bytes=MIB):
        one = open_cache()
        assert one is not None
        assert one is open_cache()
        assert one.folder.parent == tmp_path
        assert one.limit == MIB
    with knobs.scope(cache_bytes=0):
        assert open_cache() is None


_HAMMER = """
import sys
from pathlib import Path
from naru.artifact.cache import Cache, make_key
store = Cache(Path(sys.argv[1]), 200_000)
for k in range(300):
    key = make_key("object", str(k % 20))
    data = bytes([k % 20]) * 20_000
    found = store.get(key)
    assert found is None or found == data
    assert store.put(key, data) is not None
"""


def test_concurrent_processes(tmp_path: Path) -> None:
    running = [subprocess.Popen([sys.executable, "-c", _HAMMER, str(tmp_path)]) for _ in range(3)]
    assert [p.wait(timeout=60) for p in running] == [0, 0, 0]
    assert not list(tmp_path.rglob("tmp-*"))
    assert Cache(tmp_path, 200_000).usage().bytes <= 3 * 200_000
