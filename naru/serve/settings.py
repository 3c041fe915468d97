"""What a server, and each of its models, is told to do: limits, delays, doors.

A model's own settings stand in a file `serve.toml` in its folder; a key it does not name has the
server's value.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

from naru.errors import InputError, nearest

SETTINGS_FILE = "serve.toml"
_MOST = 1 << 31


def _whole(low: int, high: int) -> Callable[[object], bool]:
    def fits(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return fits


def _about(fits: Callable[[object], bool], expected: str, help: str) -> dict[str, Any]:
    return {"fits": fits, "expected": expected, "help": help}


def _is_flag_or_proven(value: object) -> bool:
    return isinstance(value, bool) or value == "proven"


def _are_aliases(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    given = cast("Mapping[object, object]", value)
    return all(isinstance(k, str) and isinstance(v, str) and k and v for k, v in given.items())


@dataclass(frozen=True)
class ModelSettings:
    """How one model is served. One field a key of `serve.toml`."""

    batching: bool | str = field(
        default=True,
        metadata=_about(
            _is_flag_or_proven,
            'true, false or "proven"',
            "put requests together, where no row depends on another; proven: by the compiler",
        ),
    )
    max_batch: int = field(
        default=64,
        metadata=_about(
            _whole(1, _MOST), "a number of rows", "the most rows that requests are put together to"
        ),
    )
    max_delay_us: int = field(
        default=0,
        metadata=_about(
            _whole(0, 10_000_000),
            "microseconds, 0 to 10000000",
            "how long the first request of a batch waits for others while a core is free",
        ),
    )
    max_queue: int = field(
        default=256,
        metadata=_about(
            _whole(1, _MOST), "a number of requests", "the most that wait; others are refused"
        ),
    )
    timeout_us: int = field(
        default=0,
        metadata=_about(
            _whole(0, 1 << 53),
            "microseconds, or 0",
            "how long a request may wait that does not say so itself; 0: as long as it takes",
        ),
    )
    concurrency: int = field(
        default=0,
        metadata=_about(
            _whole(0, 1024),
            "a number of runs, or 0",
            "the most runs of the model at once; 0: as many as the server has workers",
        ),
    )
    threads: int = field(
        default=0,
        metadata=_about(
            _whole(0, 1024), "a number of threads, or 0", "the most threads of a run; 0: all cores"
        ),
    )
    aliases: Mapping[str, str] = field(
        default_factory=dict[str, str],
        metadata=_about(
            _are_aliases, "a table of names and versions", "other names of versions: stable = '2'"
        ),
    )


def read_model_settings(folder: Path, defaults: ModelSettings) -> ModelSettings:
    """What a model's folder says, on top of the server's. Raises InputError, all problems at
    once."""
    path = folder / SETTINGS_FILE
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return defaults
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from None
    return change_settings(defaults, given, str(path))


def change_settings(
    settings: ModelSettings, given: Mapping[str, object], where: str
) -> ModelSettings:
    """Settings with some keys changed. Raises InputError that names every wrong one."""
    known = {f.name: f for f in fields(ModelSettings)}
    problems: list[str] = []
    for key, value in given.items():
        if key not in known:
            meant = nearest(key, known) or f"the keys are {', '.join(known)}"
            problems.append(f"there is no key '{key}'; {meant}")
        elif not known[key].metadata["fits"](value):
            expected = known[key].metadata["expected"]
            problems.append(f"{key}: expected {expected}, got {value!r}")
    if problems:
        raise InputError("; ".join(problems), where=where)
    return replace(settings, **cast("dict[str, Any]", given))


@dataclass(frozen=True)
class ServerSettings:
    """How the whole server works. `cli/serve.py` says what each option means."""

    root: Path = Path("models")
    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int | None = None
    model: ModelSettings = field(default_factory=ModelSettings)
    workers: int = 0  # threads that run models; 0: one more than there are usable cores
    max_body: int = 64 << 20  # bytes of a request, after decompression
    max_inputs: int = 1024  # tensors of a request
    max_requests: int = 4096  # that are being answered
    head_timeout: float = 60.0  # seconds for the head of a request, and for the next one to begin
    body_timeout: float = 60.0  # seconds for a body to arrive
    memory: int = 0  # bytes that models may take before those not used for longest go; 0: no limit
    load_at_start: int = 64  # models; where there are more, each is loaded when first asked for
    model_control: bool = False  # load and unload by request
    poll: float = 0.0  # seconds between looks for changed files; 0: never
    drain_delay: float = 0.0  # seconds from not ready to no new connections
    drain_limit: float = 30.0  # seconds that requests in flight may take
    cors: tuple[str, ...] = ()  # origins of pages that may read answers
    tokens: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    page: bool = True
    log_requests: bool = False
    cache: bool = True  # keep what is compiled on load

    @property
    def max_held(self) -> int:
        """Bytes of all requests that are being answered: more than the largest of them, which
        takes twice its size while it is decompressed."""
        return max(512 << 20, 2 * self.max_body)
