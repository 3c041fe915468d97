"""How the verbs print: JSON, tables, wrapped lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


def make_table(title: str, columns: Sequence[str], right: Sequence[int] = ()) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for k, name in enumerate(columns):
        table.add_column(name, justify="right" if k in right else "left", overflow="fold")
    return table


def print_table(table: Table) -> None:
    """On a terminal in its width; elsewhere wide enough that lines stay whole."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(table)


def wrap(head: str, text: str) -> str:
    import textwrap

    return textwrap.fill(text, 100, initial_indent=head, subsequent_indent=" " * len(head))


def bytes_text(count: int) -> str:
    from naru.doctor import format_bytes

    return format_bytes(count)


def join(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
