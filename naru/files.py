"""Writing a file whole or not at all: what stood there stays until the new one is complete."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A file beside `path` to write to, which takes its place when the block ends well. InputError
    when it cannot be written."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield part
        part.replace(path)
    except OSError as e:
        raise InputError(f"{path}: cannot write it: {e.strerror or e}") from None
    finally:
        if part.is_file():
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """The text as the whole content of a file. InputError when it cannot be written."""
    if path.exists() and not path.is_file():  # a terminal, or /dev/stdout
        path.write_text(text, encoding="utf-8")
        return
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
