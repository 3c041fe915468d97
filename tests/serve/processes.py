"""`naru serve` as a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds until it must be ready


class Process:
    """A running server; what it writes is kept in `lines`. `program`: Python that is run in place
    of naru's command, and ends with it; `environment`: what it has besides ours."""

    def __init__(
        self,
        *arguments: str | Path,
        program: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        begin = ["-m", "naru"] if program is None else ["-c", program]
        command = [sys.executable, *begin, "serve", *map(str, arguments), "--port", "0"]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._connections: list[http.client.HTTPConnection] = []
        self.port = 0
        self.grpc_port = 0
        self._speaks_grpc = "--grpc-port" in arguments
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def wait_until_ready(self) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self.process.poll() is None:
            for line in self.lines:
                if found := re.search(r"^serving \d+ models? at https?://.*:(\d+)$", line):
                    self.port = int(found[1])
                if found := re.search(r"gRPC: .*:(\d+)$", line):
                    self.grpc_port = int(found[1])
            if self.port and (self.grpc_port or not self._speaks_grpc):
                return
            time.sleep(0.01)
        raise AssertionError("the server did not start:\n" + "\n".join(self.lines))

    def line(self, part: str) -> str:
        """The first line with something in it, once it has been written."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            for line in self.lines:
                if part in line:
                    return line
            time.sleep(0.01)
        raise AssertionError(f"no line with {part!r}:\n" + "\n".join(self.lines))

    def connect(self) -> http.client.HTTPConnection:
        """A connection, which is closed at the end."""
        made = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        self._connections.append(made)
        return made

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of one request on a connection of its own."""
        connection = self.connect()
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        finally:
            connection.close()

    def kill(self) -> None:
        """Ends the server as a crash does: with `kill -9`."""
        self.process.kill()
        self.wait()

    def close(self) -> None:
        """Ends the server, by force if need be."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        for connection in self._connections:
            connection.close()
        if self.process.stdout is not None:
            self._reader.join(5)
            self.process.stdout.close()

    def wait(self, seconds: float = 20.0) -> int:
        """Its exit code."""
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code


@contextmanager
def serving(
    *arguments: str | Path,
    program: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Generator[Process]:
    """A server that is ready; it is ended afterwards."""
    server = Process(*arguments, program=program, environment=environment)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.close()
