"""The `naru` command: one function a verb, one module a group of verbs.

Exit codes: 0 success, 1 an error in what the user gave (one message on stderr, no traceback),
2 wrong usage, 3 `verify` found a difference, 130 interrupted. Imports stand inside the commands, so
that each loads only what it needs: `naru run model.naru` works without the compiler.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from naru.cli.compile import compile_command
from naru.cli.explain import explain_command
from naru.cli.group import INTERRUPTED, OK, USER_ERROR, naru
from naru.cli.machine import demo_command, doctor_command, ops_command
from naru.cli.profile import profile_command
from naru.cli.run import run_command
from naru.cli.verify import verify_command
from naru.errors import NaruError, NaruWarning

# The order of the help, which is that of a model's life.
VERBS = (
    compile_command,
    run_command,
    verify_command,
    explain_command,
    profile_command,
    doctor_command,
    demo_command,
    ops_command,
)
for verb in VERBS:
    naru.add_command(verb)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line (default: sys.argv) and returns the exit code."""
    try:
        with _warnings_as_messages():
            code = naru.main(args=args, prog_name="naru", standalone_mode=False)
    except click.ClickException as e:
        e.show()
        return e.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except NaruError as e:
        click.echo(f"naru: error: {e}", err=True)
        return USER_ERROR
    except OSError as e:  # what is printed finds no room, or nobody reads it
        click.echo(f"naru: error: {e.strerror or e}", err=True)
        return USER_ERROR
    return code if isinstance(code, int) else OK


@contextmanager
def _warnings_as_messages() -> Generator[None]:
    """Prints warnings for users as one line, without the line of source that Python adds."""
    usual = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, NaruWarning) or category.__module__.startswith("naru."):
            click.echo(f"naru: warning: {message}", err=True)
        else:
            usual(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        warnings.showwarning = show
        warnings.simplefilter("always", NaruWarning)
        yield
