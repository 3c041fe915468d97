"""Runs a range of cases in worker processes and collects what went wrong.

A worker that crashes, hangs or is killed for its memory takes only its case with it: the next one
starts at the case after it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

ROOT = Path(__file__).resolve().parents[2]
MOST_FAILURES = 8
# The worker ends itself; this is for one that cannot, and for the start, which makes the seeds.
SILENCE_SECONDS = 90.0


@dataclass
class Found:
    """How often each outcome was seen, and the text of each failure by the case's number."""

    outcomes: Counter[str] = field(default_factory=Counter[str])
    failures: dict[int, str] = field(default_factory=dict[int, str])
    slowest: tuple[float, int] = (0.0, -1)


def fuzz(target: str, start: int, end: int, most: int = MOST_FAILURES) -> Found:
    """Runs the cases start..end-1 of a target, up to that many failures."""
    found = Found()
    while start < end and len(found.failures) < most:
        start = _run_worker(target, start, end, found, most)
    return found


def _run_worker(target: str, start: int, end: int, found: Found, most: int) -> int:
    """Runs one worker until it ends, however that is; returns the case to go on with."""
    command = [sys.executable, "-m", "tests.fuzz.worker", target, str(start), str(end)]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
        ) as worker,
    ):
        last, finished = _read_lines(worker, start, found, most)
        code = worker.wait()
        log.seek(0)
        text = log.read()[-4000:]
    if finished and code == 0:
        return end
    if finished and last >= start:  # between two cases, or at the end
        found.failures[last] = f"after the case the worker ended with {code}:\n{text}"
    else:
        found.failures[max(last, start)] = f"the worker ended with {code} in the case:\n{text}"
    return max(last, start) + 1


def _read_lines(
    worker: subprocess.Popen[str], start: int, found: Found, most: int
) -> tuple[int, bool]:
    """(the last case that was begun, whether it was also finished)."""
    lines = cast(IO[str], worker.stdout)
    last, finished = start - 1, True
    while True:
        watchdog = threading.Timer(SILENCE_SECONDS, worker.kill)
        watchdog.start()
        try:
            line = lines.readline()
        finally:
            watchdog.cancel()
        if not line.endswith("\n"):
            return last, finished
        record = json.loads(line)
        if "case" in record:
            last, finished = record["case"], False
            continue
        finished = True
        found.slowest = max(found.slowest, (record["seconds"], last))
        if "error" in record:
            found.failures[last] = record["error"]
            if len(found.failures) >= most:
                worker.kill()
        else:
            found.outcomes[record["outcome"]] += 1


def report(target: str, found: Found) -> str:
    """All failures with the command that repeats them."""
    parts = [
        f"{target} {n}: .venv/bin/python -m tests.fuzz.worker {target} {n} {n + 1}\n{text}"
        for n, text in sorted(found.failures.items())
    ]
    return "\n".join([*parts, f"other outcomes: {dict(found.outcomes)}"])
