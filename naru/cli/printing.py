"""How the verbs print: JSON, tables, wrapped lines, in colour or not."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO, cast

import click

from naru import knobs

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@dataclass
class Output:
    """What --quiet and --color say, which hold for one run of the command line.

    `color`: None where it depends on whether the stream is a terminal."""

    quiet: bool = False
    color: bool | None = None

    def reset(self) -> None:
        """As it is without options."""
        self.quiet, self.color = False, knobs.wants_color()


output = Output()


def say(text: str, *, err: bool = False) -> None:
    """Prints what --quiet leaves out. (What a verb is asked for goes through `click.echo`.)"""
    if not output.quiet:
        click.echo(text, err=err, color=output.color)


def flush() -> None:
    """Writes out what was printed, so that a full disk or a closed pipe is noticed here."""
    if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison] (None: closed)
        sys.stdout.flush()


def visible(text: str) -> str:
    """Without what a terminal would obey: texts may come from anybody's file."""
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


def warn(text: str) -> None:
    """A warning, one line on stderr."""
    text = visible(text)
    click.echo(f"{click.style('naru: warning:', fg='yellow')} {text}", err=True, color=output.color)


def complain(text: str) -> None:
    """An error, on stderr."""
    text = visible(text)
    click.echo(f"{click.style('naru: error:', fg='red')} {text}", err=True, color=output.color)


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


def make_table(title: str, columns: Sequence[str], right: Sequence[int] = ()) -> Table:
    from rich import box
    from rich.table import Table

    class Plain(Table):
        def add_row(self, *cells: Any, **style: Any) -> None:
            super().add_row(*(visible(c) if isinstance(c, str) else c for c in cells), **style)

    table = Plain(title=visible(title), title_justify="left", box=box.SIMPLE_HEAD)
    for k, name in enumerate(columns):
        table.add_column(name, justify="right" if k in right else "left", overflow="fold")
    return table


def print_table(table: Table) -> None:
    """On a terminal in its width; elsewhere wide enough that lines stay whole, and not padded."""
    stdout = cast("TextIO | None", sys.stdout)
    if stdout is None:  # closed
        return
    if stdout.isatty():
        console().print(table)
        return
    wide = console(width=160)
    with wide.capture() as captured:
        wide.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip(), color=output.color)


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A rich console that does as --color says."""
    from rich.console import Console

    if output.color:
        return Console(stderr=stderr, width=width, color_system="standard", force_terminal=True)
    return Console(stderr=stderr, width=width, no_color=output.color is False)


def wrap(head: str, text: str) -> str:
    import textwrap

    return textwrap.fill(text, 100, initial_indent=head, subsequent_indent=" " * len(head))


def join(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
