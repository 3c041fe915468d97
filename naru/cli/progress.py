"""What a person sees while something takes long: one line on the terminal, gone when it is done."""

from __future__ import annotations

import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager

from naru.cli.printing import console, output
from naru.options import Progress, tell_nobody

PATIENCE = 2.0  # seconds; what takes less shows nothing


@contextmanager
def progress(head: str) -> Generator[Progress]:
    """A `Progress` to hand to what may take long.

    Where stderr is a terminal (and without --quiet) it shows `head`, the stage, parts done of all,
    their rate, and the time, from PATIENCE on until the block ends. Elsewhere it shows nothing.
    """
    if output.quiet or not sys.stderr.isatty():
        yield tell_nobody
        return
    from rich.progress import Progress as Display
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    display = Display(*columns, console=console(stderr=True), transient=True)
    task = display.add_task(head)
    stages = _Stages(head)
    start = threading.Timer(PATIENCE, display.start)
    start.daemon = True
    start.start()
    try:
        yield lambda stage, done, total: display.update(
            task, description=stages.line(stage, done, total, display.get_time())
        )
    finally:
        start.cancel()
        start.join()
        display.stop()


class _Stages:
    """The text of the line; remembers when a stage began, for its rate."""

    def __init__(self, head: str) -> None:
        self._head, self._stage, self._begin, self._first = head, "", 0.0, 0

    def line(self, stage: str, done: int, total: int, now: float) -> str:
        """`compiling m.onnx: kernels 12/40, 3.1/s`; counts only where there are several parts."""
        if stage != self._stage:
            self._stage, self._begin, self._first = stage, now, done
        text = f"{self._head}: {stage}"
        if total > 1:
            text += f" {done}/{total}"
        seconds, parts = now - self._begin, done - self._first
        return f"{text}, {parts / seconds:.1f}/s" if parts > 0 and seconds > 0 else text
