"""What the command line says, and which code it leaves with, when something goes wrong.

One message on stderr, never a traceback (NARU_DEBUG=1 adds it). With --json stdout holds one
document all the same: {"error": {...}}.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from naru import knobs
from naru.cli.crash import write_crash_report
from naru.cli.group import CRASHED, INTERRUPTED, USAGE, USER_ERROR
from naru.cli.printing import complain, flush, print_json
from naru.errors import NaruError


def report_failure(error: BaseException, args: Sequence[str]) -> int:
    """Tells the user about whatever ended a verb with these arguments; the exit code."""
    if isinstance(error, BrokenPipeError):  # nobody reads on, as in `naru ops | head -1`
        _discard_stdout()
        return USER_ERROR
    if _wants_traceback():
        traceback.print_exception(error)
    described, code = _describe(error, args)
    if "--json" in args:
        with suppress(OSError):
            print_json({"error": {**described, "exit_code": code}})
            flush()
    if isinstance(error, OSError):
        _discard_stdout()
    return code


def _describe(error: BaseException, args: Sequence[str]) -> tuple[dict[str, Any], int]:
    """Prints the message; gives the parts of it and the exit code."""
    kind = type(error).__name__
    if isinstance(error, click.Abort | KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return {"kind": "Interrupted", "message": "interrupted"}, INTERRUPTED
    if isinstance(error, click.ClickException):
        error.show()
        return {"kind": "UsageError", "message": error.format_message()}, USAGE
    if isinstance(error, NaruError):
        complain(str(error))
        parts = {"message": error.message, "where": error.where, "hint": error.hint}
        problems = getattr(error, "problems", None)
        return {"kind": kind, **parts, **({"problems": problems} if problems else {})}, USER_ERROR
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        message = f"{place}{error.strerror or error}"
        complain(message)
        return {"kind": kind, "message": message}, USER_ERROR
    if isinstance(error, MemoryError):
        message = "there is not enough memory"
        complain(f"{message}\n  try: smaller --dims, or a machine with more memory")
        return {"kind": kind, "message": message}, USER_ERROR
    return _describe_crash(error, args)


def _describe_crash(error: BaseException, args: Sequence[str]) -> tuple[dict[str, Any], int]:
    """An exception that should not have got here is a bug of naru."""
    message = f"this is a bug of naru: {type(error).__name__}: {error}"
    path = write_crash_report(error, args)
    kept = (
        f"{path} holds the traceback, versions, options and the model's graph without its weights; "
        "please look through it and attach it to a report"
        if path
        else "no crash report could be written; please report it with the output of NARU_DEBUG=1"
    )
    complain(f"{message}\n  {kept}")
    return {"kind": "Crash", "message": message, "report": path and str(path)}, CRASHED


def _wants_traceback() -> bool:
    try:
        return knobs.current().debug >= 1
    except NaruError:  # a malformed knob may be the failure
        return False


def _discard_stdout() -> None:
    """What is still to be written finds no place; Python would complain of it when it exits."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
