"""Files that are made once and kept: large models, outside the repository.

They lie in `$NARU_TEST_CACHE` (default `~/.cache/naru-tests`), each in a folder named after the
model and a key: a digest of the text of the code that makes it and of the versions of the libraries
that take part.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

FORGOTTEN = 24 * 3600  # seconds after which an outdated model is removed


def cache_folder() -> Path:
    """Where models are kept."""
    default = Path.home() / ".cache" / "naru-tests"
    return Path(os.environ.get("NARU_TEST_CACHE") or default)


def kept(
    name: str, make: Callable[[Path], None], sources: Sequence[Path], libraries: Sequence[str]
) -> Path:
    """The path of `model.onnx`, which `make(path)` writes unless it has done so before.

    `make` may write more files beside it. `sources` are the files of code, and `libraries` the
    packages, whose change makes the model again.
    """
    folder = cache_folder() / f"{name}-{_key(sources, libraries)}"
    if not folder.exists():
        _make(folder, make)
        _remove_outdated(name, folder)
    folder.touch()  # in use, also for another checkout's _remove_outdated
    return folder / "model.onnx"


def _key(sources: Sequence[Path], libraries: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    for library in libraries:
        digest.update(f"{library} {metadata.version(library)}\n".encode())
    return digest.hexdigest()[:12]


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    """Two processes may both be here. A rename is all-or-nothing, so neither reads half a model,
    and it fails if the other was first, whose model is as good."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        make(unfinished / "model.onnx")
        with contextlib.suppress(FileExistsError):
            unfinished.rename(folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _remove_outdated(name: str, folder: Path) -> None:
    """Removes what other code made under this name, unless another checkout may be using it."""
    for other in set(folder.parent.glob(f"{name}-{'?' * 12}")) - {folder}:
        with contextlib.suppress(FileNotFoundError):
            if time.time() - other.stat().st_mtime > FORGOTTEN:
                shutil.rmtree(other, ignore_errors=True)
