"""Knobs: every setting that comes from the environment. The only file that reads os.environ.

Read once, at first use; `scope` overrides some for the length of a `with` block.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .errors import NaruError


def _level(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return parse


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_bytes(text: str) -> int:
    """`2G`, `512MiB`, `1000`: binary units. ValueError or KeyError for what is no size."""
    body = text.strip().upper().removesuffix("B").removesuffix("I")
    number = body.rstrip("KMGT")
    value = float(number) * _UNITS[body[len(number) :]]
    if value < 0:
        raise ValueError
    return int(value)


def _folder(text: str) -> Path:
    return Path(text).expanduser()


def _platform_cache(env: Mapping[str, str]) -> Path:
    if sys.platform == "win32":
        return Path(env.get("LOCALAPPDATA") or "~/AppData/Local").expanduser() / "naru" / "cache"
    if sys.platform == "darwin":
        return Path("~/Library/Caches/naru").expanduser()
    return Path(env.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "naru"


def _about(parse: Callable[[str], Any], expected: str, help: str) -> dict[str, Any]:
    return {"parse": parse, "expected": expected, "help": help}


@dataclass(frozen=True)
class Knobs:
    """One field a knob; its variable is NARU_ and the name in capitals. `describe` prints them."""

    debug: int = field(
        default=0,
        metadata=_about(
            _level(0, 5),
            "a level from 0 to 5",
            "print 1 stages and times, 2 schedules, 3 IR at stage ends, 4 generated code, "
            "5 IR after each pass that changed something",
        ),
    )
    dump: Path | None = field(
        default=None,
        metadata=_about(_folder, "a folder", "write every intermediate form into this folder"),
    )
    check: int = field(
        default=1,
        metadata=_about(
            _level(0, 2), "0, 1 or 2", "verify the IR: 0 never, 1 at stage ends, 2 after each pass"
        ),
    )
    cache_dir: Path = field(
        default=Path("~/.cache/naru"),
        metadata=_about(_folder, "a folder", "where compiled code is kept"),
    )
    cache_bytes: int = field(
        default=2 << 30,
        metadata=_about(
            parse_bytes, "a size such as 512M or 2G", "size limit of the cache; 0 turns it off"
        ),
    )
    workers: int | None = field(
        default=None,
        metadata=_about(
            _level(0, 1024),
            "a number from 0 to 1024",
            "compile processes; 0 compiles in this process (default: by the amount of work)",
        ),
    )
    threads: int | None = field(
        default=None,
        metadata=_about(
            _level(1, 1024),
            "a number from 1 to 1024",
            "most threads of a run (default: the usable cores)",
        ),
    )
    loop_limit: int = field(
        default=0,
        metadata=_about(
            _level(0, 2**62),
            "a number of rounds",
            "most rounds of a loop of a model, which then fails; 0 lets it go on (default)",
        ),
    )
    hugepages: int = field(
        default=0,
        metadata=_about(
            _level(0, 1), "0 or 1", "1 copies the weights of loaded models into large pages"
        ),
    )
    perf: int = field(
        default=0,
        metadata=_about(
            _level(0, 1), "0 or 1", "1 names the kernels of loaded models for Linux perf"
        ),
    )
    gdb: int = field(
        default=0,
        metadata=_about(_level(0, 1), "0 or 1", "1 names the kernels of loaded models for gdb"),
    )


def variable(name: str) -> str:
    """The environment variable of a knob."""
    return "NARU_" + name.upper()


def read(env: Mapping[str, str]) -> Knobs:
    """The knobs that an environment sets (an empty variable is unset). NaruError when malformed."""
    values: dict[str, Any] = {"cache_dir": _platform_cache(env)}
    for knob in fields(Knobs):
        text = env.get(variable(knob.name), "").strip()
        if not text:
            continue
        try:
            values[knob.name] = knob.metadata["parse"](text)
        except (ValueError, KeyError, OverflowError, RuntimeError):
            raise NaruError(
                f"{variable(knob.name)}={text!r}: expected {knob.metadata['expected']}",
                hint=f"{variable(knob.name)}: {knob.metadata['help']}",
            ) from None
    return Knobs(**values)


def child_environment(**variables: str) -> dict[str, str]:
    """The environment of this process with some variables set, for a process that it starts."""
    return {**os.environ, **variables}


@contextmanager
def foreign(variable: str, value: str) -> Generator[None]:
    """Sets a variable of another library for a block. It holds for all threads."""
    before = os.environ.get(variable)
    os.environ[variable] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = before


_current: Knobs | None = None


def current() -> Knobs:
    """The knobs in force."""
    global _current
    if _current is None:
        _current = read(os.environ)
    return _current


@contextmanager
def scope(**overrides: Any) -> Generator[Knobs]:
    """Replaces some knobs (by field name) for the block, in all threads of the process."""
    global _current
    known = {f.name for f in fields(Knobs)}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise NaruError(
            f"unknown knob {', '.join(unknown)}", hint=f"one of: {', '.join(sorted(known))}"
        )
    before = _current
    _current = replace(current(), **overrides)
    try:
        yield _current
    finally:
        _current = before


def wants_color(env: Mapping[str, str] | None = None) -> bool | None:
    """What NO_COLOR and FORCE_COLOR, which many programs know, say; None without them."""
    found = os.environ if env is None else env
    if found.get("NO_COLOR"):
        return False
    return True if found.get("FORCE_COLOR") else None


def c_compiler(env: Mapping[str, str] | None = None) -> str | None:
    """What CC, which many programs know, names as the C compiler of this machine."""
    return (os.environ if env is None else env).get("CC") or None


def describe() -> list[tuple[str, str, str]]:
    """(variable, value in force, help) of every knob."""
    now = current()
    return [
        (variable(f.name), str(getattr(now, f.name)), f.metadata["help"]) for f in fields(Knobs)
    ]
