"""Folders of files that appear together, and what of them may be replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from naru.errors import InputError
from naru.library.folder import replacing_files


def write(folder: Path, *names: str, text: str = "new") -> None:
    with replacing_files(folder) as part:
        for name in names:
            (part / name).parent.mkdir(exist_ok=True)
            (part / name).write_text(text)


def test_own_files_are_replaced(tmp_path: Path) -> None:
    write(tmp_path / "a", "x", "inside/y", "inside/z", text="old")
    write(tmp_path / "a", "x", "inside/y")
    assert (tmp_path / "a" / "x").read_text() == "new"
    assert not (tmp_path / "a" / "inside" / "z").exists()  # of the earlier build


def test_files_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "data").write_text("mine")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=r"README\.md, model would be replaced"):
        write(tmp_path, "README.md", "model/m.js", "m.so")
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with replacing_files(tmp_path / "new") as part:
            (part / "x").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not (tmp_path / "new").exists()
