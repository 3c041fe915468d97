"""A server from its start to its end: ports, signals, draining.

On SIGTERM or SIGINT it is no longer ready at once, goes on answering for `drain_delay` seconds (so
that load balancers notice), then takes no more connections and refuses requests on open ones, and
ends as soon as all that it took is answered. After `drain_limit` seconds, or at a second signal,
what is left is cut off: it is refused, and the process ends although threads still run models.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, NoReturn, cast

import uvicorn

from naru import knobs
from naru.errors import InputError
from naru.serve.access import Access, read_tokens
from naru.serve.dataplane import DataPlane
from naru.serve.grpc_service import GrpcServer
from naru.serve.http import Application
from naru.serve.http_short import ShortWay, Writer
from naru.serve.settings import ServerSettings
from naru.serve.tls import read_pair

log = logging.getLogger("naru.serve")

_MOST_ROUNDS = 10_000_000  # of a loop of a model: clients may choose how long it goes on
_REFUSING = 1.0  # seconds in which clients that are cut off are told so, at most
_CLOSING = 2.0  # seconds that runs may take whose clients are gone


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
        self._stopping, self._hurrying = asyncio.Event(), asyncio.Event()
        self._looking = asyncio.Event()  # for changed models

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

    async def run(self, told: Callable[[], object] = lambda: None) -> bool:
        """Serves until a signal says to end. `told` is called once the server is ready. False: not
        all that it took is answered, or the server of HTTP ended by itself."""
        loop = asyncio.get_running_loop()
        if not self._sockets:
            self.bind()
        self._http = _Uvicorn(self._config())
        serving = asyncio.create_task(self._http.serve(self._sockets))
        ends = {serving, asyncio.create_task(self._stopping.wait())}
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        try:
            try:
                await self._start_grpc()
            except BaseException:
                self._http.should_exit = True
                await asyncio.wait({serving})
                raise
            starting = asyncio.create_task(self.plane.repository.start())
            await asyncio.wait({starting, *ends}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                self.plane.started = True
                told()
                watching = asyncio.create_task(self._watch())
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                watching.cancel()
            starting.cancel()
            by_itself = serving.done()
            if by_itself:
                log.error("the server of HTTP ended by itself", exc_info=serving.exception())
            return await self._drain(serving) and not by_itself
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
            for sock in self._sockets:
                sock.close()
            self.plane.workers.close()

    def stop(self) -> None:
        """Begins to end, as a signal does; the second time, does not wait for anything."""
        if self._stopping.is_set():
            self._hurrying.set()
        self._stopping.set()

    def _config(self) -> uvicorn.Config:
        settings = self.settings
        short = partial(ShortWay, self.application, Writer())
        return uvicorn.Config(
            self.application,
            http=partial(short, settings.head_timeout),  # pyright: ignore[reportArgumentType]
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
        self._looking.set()

    async def _watch(self) -> None:
        """Looks for changed models when told to, and every so often; never twice at once."""
        repository = self.plane.repository
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.poll or None):
                    await self._looking.wait()
            self._looking.clear()
            try:
                await repository.refresh()
            except Exception:
                log.exception("the folder of models cannot be read")

    # ---- the end ----

    async def _drain(self, serving: asyncio.Task[None]) -> bool:
        """Answers what was taken. False where something was cut off."""
        plane, settings = self.plane, self.settings
        plane.draining = True
        log.info("draining", extra={"busy": self.application.busy})
        if self._grpc is not None:
            self._grpc.drain()
        hurrying = asyncio.create_task(self._hurrying.wait())
        # Before the start is over nobody counts on this server.
        if plane.started and not serving.done():
            await asyncio.wait({hurrying}, timeout=settings.drain_delay)
        if self._http is not None:
            for connection in cast("list[object]", list(self._http.server_state.connections)):
                if isinstance(connection, ShortWay):
                    connection.leave()  # what has begun to come is asked of its model now
            await asyncio.sleep(0)
        plane.stopped = True
        if self._http is not None:
            self._http.should_exit = True
        ending: list[asyncio.Future[Any]] = [serving]
        if self._grpc is not None:
            ending.append(asyncio.create_task(self._grpc.stop(settings.drain_limit + _REFUSING)))
        ended = asyncio.gather(*ending, return_exceptions=True)
        await asyncio.wait(
            {ended, hurrying}, timeout=settings.drain_limit, return_when=asyncio.FIRST_COMPLETED
        )
        whole = ended.done()
        if whole:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(plane.repository.close(), _CLOSING)
        else:
            await self._cut_off(ended)
        hurrying.cancel()
        log.info("ended")
        return whole

    async def _cut_off(self, ended: asyncio.Future[Any]) -> None:
        """Refuses what is not answered yet."""
        log.warning("requests are cut off", extra={"busy": self.application.busy})
        if self._http is not None:
            for task in self._http.server_state.tasks:
                task.cancel()
        if self._grpc is not None:
            self._grpc.cut_off()
        await asyncio.wait({ended}, timeout=_REFUSING)
        ended.cancel()


class _Uvicorn(uvicorn.Server):
    """uvicorn, which leaves the signals to `Server`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def serve(settings: ServerSettings, told: Callable[[Server], object] = lambda _: None) -> NoReturn:
    """Serves until a signal says to end, and ends the process: with code 0 where all that was taken
    is answered, else 1. Raises InputError for what cannot be served at all."""
    server = Server(settings)
    server.bind()
    limit = knobs.current().loop_limit or _MOST_ROUNDS
    with knobs.scope(loop_limit=limit), asyncio.Runner(loop_factory=_uvloop()) as runner:
        whole = runner.run(server.run(lambda: told(server)))
        # Python would wait for threads that still compile or run a model.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0 if whole else 1)


def _uvloop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    import importlib

    try:
        return importlib.import_module("uvloop").new_event_loop
    except ImportError:  # there is none for Windows
        return None
