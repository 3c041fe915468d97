"""Worker processes that answer frames of bytes over pipes: how modules are compiled in parallel.

A frame is a little-endian u32 length and that many bytes. A worker reads its settings, then one
request after the other, and answers each with a frame: a byte that is 1 for success, then the
result or the error's text. It ends when its input does, so it never outlives its parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeAlias, cast

from naru.errors import NaruError

Reply: TypeAlias = tuple[bool, bytes]
Compile: TypeAlias = Callable[[bytes], bytes]

_LENGTH = struct.Struct("<I")


class WorkerError(NaruError):
    """A worker process died or could not be started."""


def write_frame(sink: BinaryIO, frame: bytes) -> None:
    """Sends one frame."""
    sink.write(_LENGTH.pack(len(frame)))
    sink.write(frame)
    sink.flush()


def read_frame(source: BinaryIO) -> bytes | None:
    """Receives one frame; None when the other side has gone, in the middle of a frame too."""
    head = source.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    frame = source.read(length)
    return frame if len(frame) == length else None


def serve(make: Callable[[bytes], Compile]) -> None:
    """The worker's side, on its standard streams: `make(settings)` gives what answers each request.

    NaruErrors are answers; any other exception ends the process, with its traceback on stderr.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anybody prints must not get into the answers
    settings = read_frame(source)
    if settings is None:
        return
    answer = make(settings)
    while (request := read_frame(source)) is not None:
        try:
            reply = b"\1" + answer(request)
        except NaruError as e:
            reply = b"\0" + str(e).encode()
        with contextlib.suppress(BrokenPipeError):
            write_frame(sink, reply)


class _Worker:
    """One process and the file that collects what it says on stderr."""

    def __init__(self, module: str, settings: bytes) -> None:
        # The parent's import path, so that the worker finds the same packages; -I keeps the current
        # folder and the user's environment from adding others.
        root = str(Path(__file__).parents[2])
        code = (
            "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
            f"from {module} import main; main()"
        )
        path = json.dumps([*filter(None, sys.path), root])
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 (`close` closes it)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", code, path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.stderr,
            )
        except OSError as e:
            self.stderr.close()
            raise WorkerError(
                f"cannot start a compile process: {e}",
                hint="NARU_WORKERS=0 compiles in this process",
            ) from None
        self.sink = cast(BinaryIO, self.process.stdin)
        self.source = cast(BinaryIO, self.process.stdout)
        self.settings: bytes | None = settings

    def ask(self, request: bytes) -> Reply:
        """Sends a request and waits for its answer. WorkerError when the process is gone."""
        try:
            if self.settings is not None:
                write_frame(self.sink, self.settings)
                self.settings = None
            write_frame(self.sink, request)
            reply = read_frame(self.source)
        except (OSError, ValueError):
            reply = None
        if not reply:
            raise WorkerError(self._obituary(), hint="NARU_WORKERS=0 compiles in this process")
        return reply[0] == 1, reply[1:]

    def _obituary(self) -> str:
        code = self.process.wait()
        how = f"with exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                how = f"by {signal.Signals(-code).name}"
        size = self.stderr.seek(0, os.SEEK_END)
        self.stderr.seek(max(0, size - 2000))
        said = self.stderr.read().decode(errors="replace").strip()
        return f"a compile process ended {how}" + (f"; it said:\n{said}" if said else "")

    def stop(self) -> None:
        """Ends the process at once."""
        if self.process.poll() is None:
            self.process.kill()

    def close(self) -> None:
        """Waits for the end of a process that was stopped, and frees its pipes."""
        for stream in (self.sink, self.source, self.stderr):
            with contextlib.suppress(OSError):
                stream.close()
        self.process.wait()


class WorkerPool:
    """`count` processes that run `module`'s main(); use as a context manager.

    Leaving the block, by an exception or Ctrl-C as well, ends all of them and waits for that.
    """

    def __init__(self, module: str, settings: bytes, count: int) -> None:
        self._workers: list[_Worker] = []
        self._threads: list[threading.Thread] = []
        self._todo: deque[tuple[int, bytes]] = deque()
        try:
            for _ in range(count):
                self._workers.append(_Worker(module, settings))
        except BaseException:
            self.close()
            raise

    def run(self, requests: Sequence[bytes]) -> Iterator[tuple[int, Reply]]:
        """(number of the request, (success, result or error text)), in order of completion."""
        self._todo.extend(enumerate(requests))
        results: queue.SimpleQueue[tuple[int, Reply | WorkerError]] = queue.SimpleQueue()
        for worker in self._workers:
            thread = threading.Thread(target=self._feed, args=(worker, results), daemon=True)
            self._threads.append(thread)
            thread.start()
        for _ in requests:
            k, reply = results.get()
            if isinstance(reply, WorkerError):
                raise reply
            yield k, reply

    def _feed(
        self, worker: _Worker, results: queue.SimpleQueue[tuple[int, Reply | WorkerError]]
    ) -> None:
        while True:
            try:
                k, request = self._todo.popleft()
            except IndexError:
                return
            try:
                results.put((k, worker.ask(request)))
            except WorkerError as e:
                results.put((k, e))
                return

    def close(self) -> None:
        """Ends the processes; what they were doing is lost."""
        self._todo.clear()
        for worker in self._workers:
            worker.stop()
        for thread in self._threads:
            # Not one that Ctrl-C met while it started: it finds nothing to do, and ends.
            if thread.is_alive():
                thread.join()
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
