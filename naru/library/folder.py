"""A folder of files that appear together: written beside their places, and renamed when all are."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

from naru.errors import InputError

LIST = ".naru-files"  # the names of what naru wrote into a folder, which it may replace


@contextmanager
def replacing_files(folder: Path) -> Generator[Path]:
    """A temporary folder inside `folder` (which is made where it does not exist). When the block
    ends well, its files and folders take their places; others stay. InputError where it cannot be
    written, or where a file that naru did not write would be replaced: then nothing has changed
    (unless the system fails between two of the renames)."""
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    part: Path | None = None
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: expected a folder, found a file", hint="another -o")
        folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".naru-", dir=folder))
        yield part
        names = sorted(path.name for path in part.iterdir())
        _take_places(part, folder, names)
    except OSError as error:
        raise InputError(
            f"cannot write it: {error.strerror or error}", where=str(error.filename or folder)
        ) from None
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
        for empty in made:  # those that nothing came into, from the inside out
            with suppress(OSError):
                empty.rmdir()


def _take_places(part: Path, folder: Path, names: Sequence[str]) -> None:
    own = _own(folder)
    foreign = [n for n in names if n not in own and (folder / n).exists()]
    if foreign:
        raise InputError(
            f"{folder}: {', '.join(foreign)} would be replaced, which naru did not write",
            hint="a folder of its own (-o), or remove what may go",
        )
    (part / LIST).write_text(json.dumps(sorted(own | set(names))) + "\n", encoding="utf-8")
    os.replace(part / LIST, folder / LIST)
    for name in names:
        target = folder / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)  # of an earlier build
        os.replace(part / name, target)


def _own(folder: Path) -> set[str]:
    """Names that naru wrote into a folder before."""
    try:
        found: object = json.loads((folder / LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    listed = cast("list[object]", found) if isinstance(found, list) else []
    return {n for n in listed if isinstance(n, str) and n == Path(n).name}
