"""Calls of gRPC, without what they ask for: who calls, how a refusal is said, the log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc

from naru.serve.access import EVERYBODY, Access, Token
from naru.serve.refusals import INTERNAL, UNAVAILABLE, Refusal

log = logging.getLogger("naru.serve")

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context = Any  # grpc.aio.ServicerContext of bytes
Unary = Callable[[bytes, Context], Awaitable[bytes]]
Stream = Callable[[AsyncIterator[bytes], Context], Awaitable[None]]
_T = TypeVar("_T")
_S = TypeVar("_S")

# Bytes of an error's text. It goes into the trailer, where each may become three, and clients take
# 8 KiB of it.
_MOST_DETAILS = 2500


class Door:
    """Where calls come in. Messages are bytes here: what cannot be parsed is refused as everything
    else is, which gRPC's own parsing does not let us do."""

    def __init__(self, access: Access, log_requests: bool) -> None:
        self._access, self._log_requests = access, log_requests
        self.calls = 0  # that have come in
        self._running: set[asyncio.Task[Any]] = set()
        self._is_cut = False

    async def answer_all(self, seconds: float) -> None:
        """Waits until what is being answered now is, or for so many seconds."""
        if self._running:
            await asyncio.wait(list(self._running), timeout=seconds)

    def token(self, context: Context) -> Token:
        """Who calls. Raises a Refusal."""
        if self._access.is_open:
            return EVERYBODY
        return self._access.bearer(metadata(context, "authorization"))

    def cut_off(self) -> None:
        """Refuses the calls that are not answered yet."""
        self._is_cut = True
        for task in self._running:
            task.cancel()

    def unary(self, path: str, answer: Unary) -> Handler:
        """The handler of a call with one message in and one out; `answer` may raise a Refusal."""
        return grpc.unary_unary_rpc_method_handler(self._watched(path, answer))

    def unary_stream(
        self, path: str, answer: Callable[[bytes, Context], Awaitable[None]]
    ) -> Handler:
        """The same with a stream out: `answer` writes to the context."""
        return grpc.unary_stream_rpc_method_handler(self._watched(path, answer))

    def streams(self, path: str, answer: Stream) -> Handler:
        """The same with a stream in and one out."""
        return grpc.stream_stream_rpc_method_handler(self._watched(path, answer))

    def _watched(
        self, path: str, answer: Callable[[_S, Context], Awaitable[_T]]
    ) -> Callable[[_S, Context], Awaitable[_T]]:
        async def call(asked: _S, context: Context) -> _T:
            self.calls += 1
            start, status = time.perf_counter(), "CANCELLED"
            task = asyncio.current_task()
            assert task is not None
            self._running.add(task)
            try:
                told = await answer(asked, context)
                status = "OK"
                return told
            except Exception as error:
                refusal = known(error, path)
                status = refusal.kind.grpc
                await refuse(context, refusal)
            except asyncio.CancelledError:
                if not self._is_cut:  # but by the client
                    raise
                status = UNAVAILABLE.grpc
                await refuse(context, Refusal(UNAVAILABLE, "the server stops", retry_after=1))
            finally:
                self._running.discard(task)
                if self._log_requests:
                    self._log(path, status, time.perf_counter() - start, context)

        return call

    def _log(self, path: str, status: str, seconds: float, context: Context) -> None:
        try:
            token = self.token(context).name
        except Refusal:
            token = ""
        log.info(
            "request",
            extra={
                "method": "gRPC", "path": path, "status": status, "seconds": round(seconds, 6),
                "id": metadata(context, "x-request-id"), "token": token,
            },
        )  # fmt: skip


def metadata(context: Context, name: str) -> str:
    """A value of the call's metadata, or ''."""
    for key, value in context.invocation_metadata() or ():
        if key == name and isinstance(value, str):
            return value
    return ""


async def compress(context: Context) -> None:
    """Compresses the answers to a call whose metadata say that its client wants it, by
    `accept-encoding: gzip`. (What gRPC itself tells of a client is what it can do, not what it
    wants.)"""
    if "gzip" in metadata(context, "accept-encoding"):
        context.set_compression(grpc.Compression.Gzip)
        await context.send_initial_metadata(())  # gRPC forgets it otherwise


def known(error: Exception, path: str) -> Refusal:
    """What a caller is told of an error; the text of an unexpected one stays in the log."""
    if isinstance(error, Refusal):
        return error
    log.error("a request failed unexpectedly", exc_info=error, extra={"path": path})
    return Refusal(INTERNAL, "the server failed to answer; its log says why")


async def refuse(context: Context, refusal: Refusal) -> NoReturn:
    """Ends a call with the status of a refusal, and when to try again (gRPC's retry design)."""
    text = refusal.text.encode()
    if len(text) > _MOST_DETAILS:
        text = text[:_MOST_DETAILS] + b"..."
    trailer: tuple[tuple[str, str], ...] = ()
    if refusal.retry_after is not None:
        trailer = (("grpc-retry-pushback-ms", str(1000 * refusal.retry_after)),)
    status = grpc.StatusCode[refusal.kind.grpc]
    await context.abort(status, text.decode(errors="ignore"), trailer)
    raise AssertionError("gRPC ends a call by raising")
