"""Traces: for some requests, a line in the log with when each part of the answer began and ended.

The trace extension of the protocol sets what is traced. Lines go to the log alone: clients do not
choose what a server writes where, so `trace_file` cannot be set.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

from naru.serve.refusals import INVALID, Refusal

log = logging.getLogger("naru.serve")

LEVELS = _OFF, _TIMESTAMPS = "OFF", "TIMESTAMPS"
_NUMBERS = ("trace_rate", "trace_count")
# What the times of a request are called in Triton's traces.
_NAMES = (
    "REQUEST_START", "COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END",
    "REQUEST_END",
)  # fmt: skip


class Tracing:
    """The settings, of the server and of models, and the traces that they ask for."""

    DEFAULT: Mapping[str, Any] = {
        "trace_level": [_OFF], "trace_rate": "1000", "trace_count": "-1", "log_frequency": "0",
        "trace_file": "", "trace_mode": "triton",
    }  # fmt: skip

    def __init__(self) -> None:
        self.on = False  # is any model traced?
        self._own: dict[str, dict[str, Any]] = {}  # by model; "" are those of the server
        self._seen: dict[str, int] = {}  # requests since the settings were changed, by model
        self._written: dict[str, int] = {}

    def get(self, model: str = "") -> dict[str, Any]:
        """The settings of the server, or of a model."""
        return {**self.DEFAULT, **self._own.get("", {}), **self._own.get(model, {})}

    def change(self, given: Mapping[str, Any], model: str = "") -> dict[str, Any]:
        """Changes some; None means the server's value, or the default. Raises a Refusal."""
        changed = dict(self._own.get(model, {}))
        for key, value in given.items():
            if key != "trace_level" and key not in _NUMBERS:
                raise Refusal(INVALID, f"trace setting '{key}' cannot be changed")
            if value is None:
                changed.pop(key, None)
            else:
                changed[key] = _levels(value) if key == "trace_level" else _number(key, value)
        self._own[model] = changed
        self._seen.clear()
        self._written.clear()
        levels = [own.get("trace_level", [_OFF]) for own in self._own.values()]
        self.on = any(_TIMESTAMPS in found for found in levels)
        return self.get(model)

    def see(self, model: str, version: str, times: Sequence[int]) -> None:
        """An answered request and its times, in nanoseconds of Unix time, in order: it came, its
        inputs were put together, the run began and ended, the outputs were cut out and known."""
        settings = self.get(model)
        if _TIMESTAMPS not in settings["trace_level"]:
            return
        seen = self._seen[model] = self._seen.get(model, 0) + 1
        most, written = int(settings["trace_count"]), self._written.get(model, 0)
        if seen % max(1, int(settings["trace_rate"])) or 0 <= most <= written:
            return
        self._written[model] = written + 1
        stamps = dict(zip(_NAMES, times, strict=True))
        log.info("trace", extra={"model": model, "version": version, "timestamps": stamps})


def _levels(value: Any) -> list[Any]:
    levels = _listed(value)
    if not levels or any(v not in LEVELS for v in levels):
        raise Refusal(
            INVALID, f"trace_level: expected a list of {', '.join(LEVELS)}, got {value!r}"
        )
    return levels


def _number(key: str, value: Any) -> str:
    given = _listed(value)
    text = str(whole(given[0])) if len(given) == 1 else ""
    if not text.removeprefix("-").isdecimal() or len(text) > 18:
        raise Refusal(INVALID, f"{key}: expected a whole number, got {value!r}")
    return text


def _listed(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else [value]


def whole(value: Any) -> Any:
    """A whole number as an integer, anything else as it is: to JSON 3.0 is the same as 3."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
