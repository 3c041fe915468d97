"""Files are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from naru.errors import InputError
from naru.files import replacing, write_text
from naru.inputs import read_npz


def test_text_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    for text in ("one", "a longer one"):
        write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_a_failure_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_text(path, "old")

    def fill() -> None:
        with replacing(path) as part:
            part.write_text("half", encoding="utf-8")
            raise OSError(28, "the disk is full")

    with pytest.raises(InputError, match=r"page\.html: cannot write it: the disk is full"):
        fill()
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_the_name_in_a_message_is_the_users(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"file/x\.html: cannot write it: Not a directory"):
        write_text(tmp_path / "file" / "x.html", "text")


def test_one_array_is_no_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"cannot read it as \.npz: it holds one array"):
        read_npz(tmp_path / "x.npy")
