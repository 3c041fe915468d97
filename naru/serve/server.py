"""A server from its start to its end: ports, signals, draining.

On SIGTERM or SIGINT it is no longer ready at once, goes on answering for `drain_delay` seconds (so
that load balancers notice), then takes no more connections and refuses requests on open ones, and
ends as soon as all that it took is answered, or after `drain_limit` seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import uvicorn

from naru.errors import InputError
from naru.serve.access import Access, read_tokens
from naru.serve.dataplane import DataPlane
from naru.serve.grpc_service import GrpcServer
from naru.serve.http import Application
from naru.serve.http_protocol import Protocol
from naru.serve.settings import ServerSettings
from naru.serve.tls import read_pair

log = logging.getLogger("naru.serve")


class Server:
    """The protocols' servers on one event loop."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.access = read_tokens(settings.tokens) if settings.tokens else Access()
        self.plane = DataPlane(settings)
        self.application = Application(self.plane, self.access)
        self._sockets: list[socket.socket] = []
        self._http: _Uvicorn | None = None
        self._grpc: GrpcServer | None = None
        self._stopping: asyncio.Event | None = None

    @property
    def port(self) -> int:
        """The port of HTTP, also where the system chose it."""
        return self._sockets[0].getsockname()[1]

    @property
    def grpc_port(self) -> int | None:
        """The port of gRPC, where there is one."""
        return None if self._grpc is None else self._grpc.port

    def bind(self) -> None:
        """Takes the port, before anything is loaded. Raises InputError where it is taken, or the
        certificate or its key cannot be used."""
        settings = self.settings
        read_pair(settings)
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((settings.host, settings.port))
            sock.listen(2048)
        except OSError as error:
            sock.close()
            raise InputError(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}",
                hint="--port 0 takes a free one",
            ) from None
        self._sockets.append(sock)

    async def run(self, told: Callable[[], object] = lambda: None) -> None:
        """Serves until a signal says to end. `told` is called once the server is ready."""
        loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        if not self._sockets:
            self.bind()
        http = self._http = _Uvicorn(self._config())
        serving = asyncio.create_task(http.serve(self._sockets))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        try:
            await self._start_grpc()
            await self.plane.repository.start()
            self.plane.started = True
            told()
            polling = asyncio.create_task(self._poll())
            stopping = asyncio.create_task(self._stopping.wait())
            await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            polling.cancel()
            await self._drain(serving)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
            self.plane.workers.close()

    def stop(self) -> None:
        """Begins to end, as a signal does."""
        if self._stopping is not None:
            self._stopping.set()

    def _config(self) -> uvicorn.Config:
        settings = self.settings
        return uvicorn.Config(
            self.application,
            http=partial(Protocol, settings.head_timeout),  # pyright: ignore[reportArgumentType]
            loop="none",
            lifespan="off",
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=True,
            proxy_headers=False,
            timeout_keep_alive=int(settings.head_timeout),
            backlog=2048,
            ssl_certfile=str(settings.certificate) if settings.certificate else None,
            ssl_keyfile=str(settings.key) if settings.key else None,
        )

    async def _start_grpc(self) -> None:
        if self.settings.grpc_port is None:
            return
        self._grpc = GrpcServer(self.plane, self.access)
        await self._grpc.start()

    # ---- changes ----

    def _reload(self) -> None:
        log.info("looks for changed models")
        self._refreshing = asyncio.ensure_future(self._refresh())

    async def _refresh(self) -> None:
        try:
            await self.plane.repository.refresh()
        except Exception:
            log.exception("the folder of models cannot be read")

    async def _poll(self) -> None:
        while self.settings.poll:
            await asyncio.sleep(self.settings.poll)
            await self._refresh()

    # ---- the end ----

    async def _drain(self, serving: asyncio.Task[None]) -> None:
        plane, settings = self.plane, self.settings
        plane.draining = True
        log.info("draining", extra={"busy": self.application.busy})
        if self._grpc is not None:
            self._grpc.drain()
        if settings.drain_delay and not serving.done():
            await asyncio.sleep(settings.drain_delay)
        plane.stopped = True
        until = time.monotonic() + settings.drain_limit
        if self._http is not None:
            self._http.should_exit = True
        ending: list[asyncio.Task[Any]] = [serving]
        if self._grpc is not None:
            ending.append(asyncio.create_task(self._grpc.stop(settings.drain_limit)))
        _, late = await asyncio.wait(ending, timeout=max(0.0, until - time.monotonic()))
        if late and self._http is not None:
            log.warning("requests are cut off", extra={"busy": self.application.busy})
            self._http.force_exit = True
            await asyncio.wait(late, timeout=2.0)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(plane.repository.close(), 2.0)
        log.info("ended")


class _Uvicorn(uvicorn.Server):
    """uvicorn, which leaves the signals to `Server`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def serve(settings: ServerSettings, told: Callable[[Server], object] = lambda _: None) -> None:
    """Serves until a signal says to end. Raises InputError for what cannot be served at all."""
    server = Server(settings)
    server.bind()
    uvloop = _uvloop()
    with asyncio.Runner(loop_factory=uvloop) as runner:
        runner.run(server.run(lambda: told(server)))


def _uvloop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    import importlib

    try:
        return importlib.import_module("uvloop").new_event_loop
    except ImportError:  # there is none for Windows
        return None
