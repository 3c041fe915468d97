"""The record of a run: plain values for JSON, kept on disk while they grow."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from naru.bench.machine import commit, traits
from naru.bench.measure import Settings
from naru.errors import InputError
from naru.files import write_text

SCHEMA = 2

Json = dict[str, Any]


def new_record(settings: Settings) -> Json:
    """A record without cases: what is measured, how and where. `complete` when all are in."""
    return {
        "schema": SCHEMA,
        "date": datetime.date.today().isoformat(),
        "complete": False,
        "commit": commit(),
        "settings": settings.as_json(),
        "machine": traits(),
        "cases": [],
    }


def write_record(path: Path, record: Json) -> None:
    """Replaces the file at once, so that an interruption leaves the old or the new one. InputError
    when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"{path}: cannot write it: {e.strerror or e}") from None
    write_text(path, json.dumps(record, indent=1) + "\n")


def read_record(path: Path) -> Json:
    """InputError for a file that is none, or of another form."""
    try:
        record: Json = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise InputError(f"{path}: cannot read it as a record: {e}") from None
    if record.get("schema") != SCHEMA:
        raise InputError(
            f"{path}: expected a record of schema {SCHEMA}, found {record.get('schema')}"
        )
    return record


def record_files(folder: Path) -> list[Path]:
    """The records of models in a folder, by name. Those of operators, libraries, the web, trees and
    serving have forms of their own, those of another class or target than is usual are of few
    cases; a word in their names says so."""
    others = ("-operators-", "-library-", "-web-", "-trees-", "-serving-", "-amx-", "-bf16-")
    return sorted(p for p in folder.glob("*.json") if not any(o in p.name for o in others))


def continues(old: Json, new: Json) -> bool:
    """Whether an unfinished record can go on as `new`: the same code, settings and machine."""
    alike = ("commit", "settings", "machine")
    same = json.loads(json.dumps({k: new[k] for k in alike})) == {k: old[k] for k in alike}
    return same and not old["complete"] and not (new["commit"] and new["commit"]["changed"])
