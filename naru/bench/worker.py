"""The other end of `serve`: an engine's process, as the one that measures sees it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from naru import knobs
from naru.errors import NaruError

# Paths in a reason would tell where somebody's files are: the last name is left.
_PATH = re.compile(r"(?:/[\w.+@~-]+)+/([\w.+@~-]+)")
_LONGEST = 300  # characters of a reason
START_SECONDS, ANSWER_SECONDS = 120.0, 900.0  # until a process counts as hanging


class Refused(NaruError):
    """An engine cannot be had, does not run the model, or ended while doing so; says why."""


class Worker:
    """A process with an engine. It is on `cores` (none: wherever the system puts it). `python`: an
    interpreter of an environment of its own, for libraries that do not go together with naru's.
    `patience`: seconds until one that does not answer counts as hanging."""

    def __init__(
        self,
        adapter: str,
        threads: int,
        cores: Sequence[int],
        *,
        hugepages: bool = False,
        python: str = sys.executable,
        patience: float = ANSWER_SECONDS,
    ) -> None:
        self.patience = patience
        count = str(threads)
        env = knobs.child_environment(
            OMP_NUM_THREADS=count,
            OPENBLAS_NUM_THREADS=count,
            MKL_NUM_THREADS=count,
            PYTHONPATH=os.pathsep.join(_paths(python)),
            **{knobs.variable("hugepages"): str(int(hugepages))},
        )
        command = [python, "-m", "naru.bench.serve", adapter, count]
        if cores:
            command.append(",".join(map(str, cores)))
        self._messages = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            command, env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._messages,
            start_new_session=True,
        )  # fmt: skip
        try:
            self.version: str = self._answer("starting", START_SECONDS)["version"]
        except Refused:
            self.close()
            raise

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Sends a request and waits for the reply. Refused when there is none, or an error."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Refused(self._obituary(do)) from None
        return self._answer(do, self.patience)

    def _answer(self, doing: str, seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        limit = threading.Timer(seconds, self._process.kill)
        limit.start()
        line = self._process.stdout.readline()
        hung = not limit.is_alive()
        limit.cancel()
        if not line:
            raise Refused(
                f"no answer to '{doing}' for {seconds:.0f} s" if hung else self._obituary(doing)
            )
        reply = json.loads(line)
        if "error" in reply:
            raise Refused(without_paths(reply["error"]))
        return reply

    def _obituary(self, doing: str) -> str:
        code = self._process.wait()
        self._messages.seek(0)
        last = (self._messages.read().strip().splitlines() or [""])[-1]
        return without_paths(f"the process ended (exit code {code}) at '{doing}': {last}")

    def close(self) -> None:
        """Ends the process, and compilers that it may have started: they have nothing to lose."""
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.communicate()
        self._messages.close()


def _paths(python: str) -> list[str]:
    """Where modules are looked for: as here, but for what is installed in another environment."""
    paths = [os.path.abspath(p) for p in sys.path]
    if python == sys.executable:
        return paths
    return [p for p in paths if not p.startswith((sys.prefix, sys.base_prefix))]


def without_paths(text: str) -> str:
    """A reason as it may be published: no folders, and not endless."""
    text = _PATH.sub(r"\1", text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
