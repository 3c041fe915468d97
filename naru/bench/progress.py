"""How far a measurement is, for a person who waits: on stderr, only on a terminal."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from naru.bench.measure import OnProgress


@contextmanager
def shown_progress(case: str) -> Generator[OnProgress]:
    """A bar for one case; the block gets a function to move it."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(case)

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=f"{case}: {what}", completed=done, total=total)

        yield tell
