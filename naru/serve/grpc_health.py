"""The health service of gRPC (grpc.health.v1), by which load balancers see where to send calls."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from grpc_health.v1 import health_pb2

from naru.serve.access import INFER, Token, require
from naru.serve.dataplane import DataPlane
from naru.serve.grpc_calls import Context, Door, Handler
from naru.serve.grpc_messages import SERVICE, parse
from naru.serve.refusals import NOT_FOUND, Refusal

NAME = "grpc.health.v1.Health"
_OF_SERVER = ("", SERVICE)  # a service of any other name is a model
_LOOK = 1.0  # seconds between looks at what is watched

_Status: Any = health_pb2.HealthCheckResponse


class Health:
    """Ready as the server is, or as one of its models."""

    def __init__(self, plane: DataPlane, door: Door) -> None:
        self._plane, self._door = plane, door
        self._draining, self._stopping = asyncio.Event(), asyncio.Event()

    def handlers(self) -> dict[str, Handler]:
        """The service's methods."""
        return {
            "Check": self._door.unary(f"{NAME}/Check", self._check),
            "Watch": self._door.unary_stream(f"{NAME}/Watch", self._watch),
        }

    def drain(self) -> None:
        """Tells those who watch at once that the server is not ready."""
        self._draining.set()

    def stop(self) -> None:
        """Ends the streams of those who watch."""
        self._draining.set()
        self._stopping.set()

    async def _check(self, data: bytes, context: Context) -> bytes:
        name = parse(health_pb2.HealthCheckRequest, data).service
        status = self._status(name, context)
        if status == _Status.SERVICE_UNKNOWN:
            raise Refusal(NOT_FOUND, f"there is no service or model '{name}'")
        return _Status(status=status).SerializeToString()

    async def _watch(self, data: bytes, context: Context) -> None:
        name = parse(health_pb2.HealthCheckRequest, data).service
        told = None
        while True:
            status = self._status(name, context)
            if status != told:
                await context.write(_Status(status=status).SerializeToString())
                told = status
            if self._stopping.is_set():
                return
            news = self._stopping if self._draining.is_set() else self._draining
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), _LOOK)

    def _status(self, name: str, context: Context) -> int:
        """Raises a Refusal where the caller may not know."""
        if name in _OF_SERVER:
            return _Status.SERVING if self._plane.ready else _Status.NOT_SERVING
        token: Token = self._door.token(context)
        require(token, INFER, name)
        try:
            ready = self._plane.model_ready(name, None)
        except Refusal:
            return _Status.SERVICE_UNKNOWN
        return _Status.SERVING if ready else _Status.NOT_SERVING
