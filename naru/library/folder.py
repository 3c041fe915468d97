"""A folder of files that appear together: written beside their places, and renamed when all are."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from naru.errors import InputError


@contextmanager
def replacing_files(folder: Path) -> Generator[Path]:
    """A temporary folder inside `folder` (which is made where it does not exist). When the block
    ends well, its files (and folders) take their places; other files stay. Nothing changes on
    failure. InputError where it cannot be written."""
    made = not folder.exists()
    part: Path | None = None
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: expected a folder, found a file", hint="another -o")
        folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".naru-", dir=folder))
        yield part
        for path in sorted(part.iterdir()):
            target = folder / path.name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            os.replace(path, target)
    except OSError as error:
        raise InputError(
            f"cannot write it: {error.strerror or error}", where=str(error.filename or folder)
        ) from None
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
