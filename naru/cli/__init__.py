"""The `naru` command: one function a verb, one module a group of verbs.

Exit codes: 0 success, 1 an error in what the user gave (one message on stderr, no traceback) or a
model that `check` finds not to compile, 2 wrong usage, 3 `verify` found a difference, 4 a bug of
naru (see crash.py), 130 interrupted, 143 terminated.
Imports stand inside the commands, so that each loads only what it needs: `naru run model.naru`
works without the compiler.
"""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from naru.cli.bench import bench_command
from naru.cli.build import build_command, inspect_command
from naru.cli.check import check_command
from naru.cli.compile import compile_command
from naru.cli.convert import convert_command
from naru.cli.explain import explain_command
from naru.cli.failures import report_failure
from naru.cli.group import OK, TERMINATED, naru
from naru.cli.machine import demo_command, doctor_command
from naru.cli.ops import ops_command
from naru.cli.printing import flush, output, warn
from naru.cli.profile import profile_command
from naru.cli.run import run_command
from naru.cli.serve import serve_command
from naru.cli.verify import verify_command
from naru.errors import NaruWarning

# The order of the help, which is that of a model's life.
VERBS = (
    check_command,
    convert_command,
    compile_command,
    build_command,
    run_command,
    verify_command,
    bench_command,
    explain_command,
    profile_command,
    serve_command,
    inspect_command,
    doctor_command,
    demo_command,
    ops_command,
)
for verb in VERBS:
    naru.add_command(verb)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line (default: sys.argv) and returns the exit code."""
    given = sys.argv[1:] if args is None else list(args)
    output.reset()
    try:
        with _ends_when_told(), _warnings_as_messages():
            code = naru.main(args=given, prog_name="naru", standalone_mode=False)
            flush()
    except (Exception, KeyboardInterrupt) as error:
        return report_failure(error, given)
    return code if isinstance(code, int) else OK


@contextmanager
def _ends_when_told() -> Generator[None]:
    """SIGTERM ends the program as an exception does, so that nothing half-written stays."""

    def stop(*_: object) -> None:
        raise SystemExit(TERMINATED)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, usual)


@contextmanager
def _warnings_as_messages() -> Generator[None]:
    """Prints warnings for users as one line, without the line of source that Python adds, and
    each once: a verb may read a model several times."""
    usual, told = warnings.showwarning, set[str]()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, NaruWarning) or category.__module__.startswith("naru."):
            if str(message) not in told:
                told.add(str(message))
                warn(str(message))
        else:
            usual(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        warnings.showwarning = show
        warnings.simplefilter("always", NaruWarning)
        yield
