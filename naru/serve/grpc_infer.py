"""Inference over gRPC: call by call, or as streams of requests and answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc.aio

from naru.serve.access import EVERYBODY, INFER, Token, require
from naru.serve.aside import ASIDE_FROM, aside, count_bytes
from naru.serve.batching import Outputs
from naru.serve.dataplane import DataPlane
from naru.serve.datatypes import TEXT
from naru.serve.grpc_calls import Context, Door, compress, known
from naru.serve.grpc_messages import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
    parse,
)
from naru.serve.grpc_tensors import decode, encode
from naru.serve.refusals import EXPIRED, UNAVAILABLE, Refusal
from naru.serve.servable import Request, Servable
from naru.serve.settings import ServerSettings
from naru.serve.tensors import Decoded

log = logging.getLogger("naru.serve")

# Requests of one stream that are read before the first of them is answered.
_AHEAD = 64


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that a model has taken: what it gave, or will give."""

    servable: Servable
    decoded: Decoded
    found: Outputs | asyncio.Future[Outputs]
    size: int  # bytes that it holds


class Inference:
    """ModelInfer and ModelStreamInfer."""

    def __init__(self, plane: DataPlane, door: Door) -> None:
        self._plane, self._door = plane, door
        self._streams: set[_Stream] = set()
        self.stopping = False

    def stop(self) -> None:
        """Reads no more of the streams: each ends once what was read is answered."""
        self.stopping = True
        for stream in self._streams:
            stream.stop()

    async def unary(self, data: bytes, context: Context) -> bytes:
        """ModelInfer. Raises a Refusal."""
        token = self._door.token(context)
        await compress(context)
        request = await self.read(data)
        asked = await self.ask(request, len(data), token, context.time_remaining())
        response = ModelInferResponse()
        return await self.answer(asked, response, response)

    async def stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """ModelStreamInfer. Raises a Refusal once the server is to end."""
        stream = _Stream(self, self._door.token(context), context, self._plane.settings)
        await compress(context)
        self._streams.add(stream)
        try:
            await stream.run(requests)
        finally:
            self._streams.discard(stream)
        if self.stopping:
            raise Refusal(UNAVAILABLE, "the server is stopping", retry_after=1)

    async def read(self, data: bytes) -> Any:
        """The message that bytes are, which take room from now on: it must be asked. Raises a
        Refusal."""
        self._plane.room.take(len(data))
        try:
            return await aside(len(data), parse, ModelInferRequest, data)
        except BaseException:
            self._plane.room.give(len(data))
            raise

    async def ask(self, request: Any, size: int, token: Token, seconds: float | None) -> _Asked:
        """Hands a request that was read to its model. `seconds`: how long its client waits. What is
        asked must be answered, or dropped. Raises a Refusal."""
        name, version = request.model_name, request.model_version or None
        servable = None
        try:
            if token is not EVERYBODY:
                require(token, INFER, name)
            servable = self._plane.find(name, version) or await self._plane.get(name, version)
            servable.queue.check_room()
            most = self._plane.settings.max_inputs
            if _is_long_work(request, size):
                decoded = await asyncio.to_thread(decode, request, servable.signature, most)
            else:
                decoded = decode(request, servable.signature, most)
            patience = _patience(decoded, servable, seconds)
            found = servable.begin(Request(decoded.arrays, decoded.priority, patience))
        except BaseException as error:
            self._plane.room.give(size)
            if servable is not None and isinstance(error, Refusal):
                servable.statistics.failed(error, 0)
            raise
        return _Asked(servable, decoded, found, size)

    async def answer(self, asked: _Asked, response: Any, whole: Any) -> bytes:
        """Fills in a ModelInferResponse; the bytes of the whole message that it is in. Raises a
        Refusal."""
        servable = asked.servable
        try:
            found = asked.found
            outputs = await found if isinstance(found, asyncio.Future) else found

            def write() -> bytes:
                encode(response, servable, asked.decoded, outputs)
                return whole.SerializeToString()

            return await aside(count_bytes(outputs), write)
        except Refusal as refusal:
            servable.statistics.failed(refusal, 0)
            raise
        finally:
            self._plane.room.give(asked.size)

    def drop(self, asked: _Asked) -> None:
        """Nobody waits for the answer any more."""
        self._plane.room.give(asked.size)
        if isinstance(asked.found, asyncio.Future) and not asked.found.cancel():
            asked.found.exception()  # has been looked at


def _is_long_work(request: Any, size: int) -> bool:
    """Is a request better decoded by another thread? Raw numbers are not even copied."""
    if size < ASIDE_FROM:
        return False
    return not request.raw_input_contents or any(i.datatype == TEXT for i in request.inputs)


def _patience(decoded: Decoded, servable: Servable, seconds: float | None) -> int:
    """How long a request may wait, in microseconds: not longer than its client does. Raises a
    Refusal where that is over."""
    patience = decoded.timeout_us or servable.settings.timeout_us
    if seconds is None:
        return patience
    left = int(seconds * 1e6)
    if left <= 0:
        raise Refusal(EXPIRED, "the call's deadline was over before the request was read")
    return min(patience, left) if patience else left


class _Stream:
    """One stream: requests go to their models as they come, answers go out in the same order. What
    goes wrong with a request is its answer, and the stream goes on. It is over where the client
    does not take an answer in the time that a body may take."""

    def __init__(
        self, inference: Inference, token: Token, context: Context, settings: ServerSettings
    ) -> None:
        self._inference, self._token, self._context = inference, token, context
        self._most_bytes, self._seconds = settings.max_body, settings.body_timeout
        self._pending: asyncio.Queue[tuple[str, int, _Asked | Refusal] | None] = asyncio.Queue()
        self._held = self._ahead = 0  # bytes and requests that are read and not answered
        self._answered = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._task: asyncio.Task[Any] | None = None  # which writes
        self._taken, self._is_writing = 0, False

    def stop(self) -> None:
        """Reads no more."""
        if self._reader is not None:
            self._reader.cancel()

    async def run(self, requests: AsyncIterator[bytes]) -> None:
        """Answers until the client has no more requests, or this is to stop."""
        self._reader = asyncio.create_task(self._read(requests))
        self._reader.add_done_callback(self._no_more)
        self._task = asyncio.current_task()
        self._look_later()
        try:
            while (item := await self._pending.get()) is not None:
                identity, size, asked = item
                told = await self._tell(identity, asked)
                self._is_writing = True
                await self._write(told)
                self._is_writing = False
                self._taken += 1
                self._held, self._ahead = self._held - size, self._ahead - 1
                self._answered.set()
        finally:
            self._looking.cancel()
            self._reader.cancel()
            while not self._pending.empty():
                item = self._pending.get_nowait()
                if item is not None and isinstance(item[2], _Asked):
                    self._inference.drop(item[2])

    async def _write(self, told: bytes) -> None:
        try:
            await self._context.write(told)
        except grpc.aio.InternalError:  # the client is gone, and gRPC is about to say so
            raise asyncio.CancelledError from None

    def _look_later(self) -> None:
        loop, writes = asyncio.get_running_loop(), self._taken if self._is_writing else -1
        self._looking = loop.call_later(self._seconds, self._look, writes)

    def _look(self, before: int) -> None:
        """Ends the stream where it still writes the answer that it wrote `before`: one that nobody
        reads would hold the requests after it for good. (A time-out for each would cost more.)"""
        if self._is_writing and self._taken == before and self._task is not None:
            reason = f"an answer was not taken within {self._seconds:g} s"
            log.warning("a stream is broken off", extra={"reason": reason})
            self._task.cancel()  # what is being written stands in the way of a status
        else:
            self._look_later()

    async def _read(self, requests: AsyncIterator[bytes]) -> None:
        async for data in requests:
            self._held, self._ahead = self._held + len(data), self._ahead + 1
            self._pending.put_nowait(await self._ask(data))
            while self._ahead >= _AHEAD or self._held > self._most_bytes:
                self._answered.clear()
                await self._answered.wait()

    def _no_more(self, reader: asyncio.Task[None]) -> None:
        """The reader is done: the client's requests are over, or it was told to stop."""
        if not reader.cancelled() and (error := reader.exception()) is not None:
            log.debug("a stream broke off", exc_info=error)
        self._pending.put_nowait(None)

    async def _ask(self, data: bytes) -> tuple[str, int, _Asked | Refusal]:
        size, identity = len(data), ""
        try:
            request = await self._inference.read(data)
            identity = request.id
            seconds = self._context.time_remaining()
            return identity, size, await self._inference.ask(request, size, self._token, seconds)
        except Exception as error:
            return identity, size, known(error, "ModelStreamInfer")

    async def _tell(self, identity: str, asked: _Asked | Refusal) -> bytes:
        """The bytes of an answer."""
        told = ModelStreamInferResponse()
        if not isinstance(asked, Refusal):
            try:
                # Each request has one answer, which some clients want to be told.
                told.infer_response.parameters["triton_final_response"].bool_param = True
                return await self._inference.answer(asked, told.infer_response, told)
            except Exception as error:
                asked = known(error, "ModelStreamInfer")
        failed = ModelStreamInferResponse(error_message=asked.text)
        failed.infer_response.id = identity
        return failed.SerializeToString()
