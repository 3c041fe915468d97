"""The models that lie in a folder: their versions, files and settings, and what is wrong with them.

models/digits.naru              a model `digits` with one version, 1
models/digits/digits.naru       the same
models/digits/3/digits.onnx     version 3; several versions stand side by side
models/digits/serve.toml        its settings
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from naru.errors import InputError
from naru.serve.settings import SETTINGS_FILE, ModelSettings, read_model_settings

BUNDLE = ".naru"
ONNX = ".onnx"
OTHERS = (".txt", ".json", ".ubj")  # of LightGBM and XGBoost; only where there is none of the above
ONLY = "1"  # the version of what has no folder of its own
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]*")


@dataclass(frozen=True, slots=True)
class Found:
    """A model's file, and what tells whether it has changed."""

    path: Path
    stamp: tuple[int, int, int]  # inode, size, time of change in nanoseconds


@dataclass(frozen=True)
class Listed:
    """A model as it lies in the folder: its versions, or why it cannot be served."""

    name: str
    versions: Mapping[str, Found]
    settings: ModelSettings = field(default_factory=ModelSettings)
    problem: str | None = None


def natural(version: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts versions as people do: 9 before 10, v9 before v10, words before numbers."""
    parts = re.findall(r"\d+|\D+", version)
    return tuple((1, int(p), "") if p.isdecimal() else (0, 0, p) for p in parts)


def list_models(root: Path, defaults: ModelSettings) -> dict[str, Listed]:
    """All models under a folder, or the one that is a file. Raises InputError where there is no
    such path."""
    if root.is_file():
        found = found_file(root)
        return {root.stem: Listed(root.stem, {ONLY: found} if found else {}, defaults)}
    if not root.is_dir():
        raise InputError("there is no such file or folder", where=str(root))
    try:
        with os.scandir(root) as found:
            entries = sorted(found, key=lambda e: e.name)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(root)) from None
    models: dict[str, Listed] = {}
    for entry in entries:
        model = _list_entry(Path(entry.path), defaults)
        if model is not None:
            models[model.name] = _two(model.name) if model.name in models else model
    return models


def list_model(root: Path, name: str, defaults: ModelSettings) -> Listed | None:
    """One model, as it lies there now; None where there is none of that name."""
    if root.is_file():
        return list_models(root, defaults).get(name)
    if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name:
        return None
    try:
        name.encode()
        models = _models_of(root, name, defaults)
    except (OSError, UnicodeError):  # no name of a file
        return None
    return _two(name) if len(models) > 1 else models[0] if models else None


def _models_of(root: Path, name: str, defaults: ModelSettings) -> list[Listed]:
    places = [root / name, root / f"{name}{BUNDLE}", root / f"{name}{ONNX}"]
    return [m for p in places if (m := _list_entry(p, defaults)) is not None and m.name == name]


def _two(name: str) -> Listed:
    return Listed(
        name, {}, problem=f"there are two models '{name}': a folder and a file, or two files"
    )


def _list_entry(path: Path, defaults: ModelSettings) -> Listed | None:
    """What stands at one place of the folder, where it is a model."""
    if path.name.startswith("."):
        return None
    readable = os.fsencode(path.name).decode("utf-8", "backslashreplace")
    if readable != path.name and (path.is_dir() or path.suffix in (BUNDLE, ONNX)):
        return Listed(readable, {}, defaults, "its name is not UTF-8")
    if path.is_dir():
        try:
            return _list_folder(path, defaults)
        except OSError as error:  # such as lost+found
            problem = f"{path.name}: the folder cannot be read: {error.strerror}"
            return Listed(path.name, {}, defaults, problem)
    if path.suffix in (BUNDLE, ONNX) and (found := found_file(path)):
        return Listed(path.stem, {ONLY: found}, defaults)
    return None


def _list_folder(folder: Path, defaults: ModelSettings) -> Listed | None:
    """A model's folder; None where there is nothing of a model in it."""
    with os.scandir(folder) as entries:
        shown = sorted((e for e in entries if e.name[0] != "."), key=lambda e: e.name)
    files = [e.name for e in shown if not e.is_dir()]
    settings, versions, problems = defaults, dict[str, Found](), list[str]()
    if SETTINGS_FILE in files:
        try:
            settings = read_model_settings(folder, defaults)
        except InputError as error:
            problems.append(f"{SETTINGS_FILE}: {error.message}")
    own = _model_file(folder, files, problems)
    if own is not None:
        versions[ONLY] = own
    for entry in (e for e in shown if e.is_dir() and _VERSION.fullmatch(e.name)):
        inner = Path(entry.path)
        found = _model_file(inner, os.listdir(inner), problems)
        if found is not None and own is not None:
            problems.append(f"{folder.name}: a model's file stands beside folders of versions")
            own = None
        if found is not None:
            versions[entry.name] = found
    for alias, version in settings.aliases.items():
        if alias in versions or version not in versions:
            why = "is a version itself" if alias in versions else f"names no version: '{version}'"
            problems.append(f"{SETTINGS_FILE}: the alias '{alias}' {why}")
    if not versions and not problems:
        return None
    return Listed(folder.name, versions, settings, "; ".join(problems) or None)


def _model_file(folder: Path, names: Iterable[str], problems: list[str]) -> Found | None:
    """The one file of a folder that is a model: a bundle, else ONNX, else another."""
    names = sorted(n for n in names if not n.startswith("."))
    for suffixes in ((BUNDLE,), (ONNX,), OTHERS):
        fitting = [n for n in names if Path(n).suffix in suffixes]
        if len(fitting) > 1:
            problems.append(f"{folder.name}: expected one model, found {', '.join(fitting)}")
            return None
        if fitting:
            return found_file(folder / fitting[0])
    return None


def found_file(path: Path) -> Found | None:
    """A file as it is now; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return Found(path, (status.st_ino, status.st_size, status.st_mtime_ns))
