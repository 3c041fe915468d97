"""Logs as lines of JSON, or as lines for people where a terminal shows them."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO

_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One object a line: time (ISO 8601, UTC), level, event, and what belongs to it."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **_more(record),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class PlainLines(logging.Formatter):
    """`10:42:07 loaded model=digits version=1`."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        more = "".join(f" {k}={v}" for k, v in _more(record).items() if v not in ("", None, []))
        level = "" if record.levelno <= logging.INFO else f" {record.levelname.lower()}:"
        text = f"{stamp}{level} {record.getMessage()}{more}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


def _more(record: logging.LogRecord) -> dict[str, Any]:
    return {k: v for k, v in record.__dict__.items() if k not in _OWN}


def set_up(stream: TextIO = sys.stderr, *, plain: bool | None = None) -> None:
    """Sends the server's log, and that of its libraries, to a stream; `plain`: for people (default:
    where the stream is a terminal)."""
    if plain is None:
        plain = stream.isatty()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PlainLines() if plain else JsonLines())
    for name, level in (("naru.serve", logging.INFO), ("uvicorn", logging.WARNING)):
        log = logging.getLogger(name)
        log.handlers[:] = [handler]
        log.setLevel(level)
        log.propagate = False
