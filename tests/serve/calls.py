"""Asks a server over gRPC, with gRPC's own client and naru's messages."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from naru.serve.access import Access
from naru.serve.dataplane import DataPlane
from naru.serve.grpc_messages import METHODS, SERVICE, message
from naru.serve.grpc_service import GrpcServer
from naru.serve.settings import ServerSettings

X = np.arange(8, dtype=np.float32).reshape(2, 4)
W = (np.arange(4)[:, None] + np.arange(3)).astype(np.float32)
DENSE = ("x", X, "FP32")


class Client:
    """A client of a server in the same process."""

    def __init__(self, channel: Any, plane: DataPlane, server: GrpcServer) -> None:
        self.channel, self.plane, self.server = channel, plane, server

    async def ask(
        self, method: str, request: Any = None, *, how: dict[str, Any] | None = None, **fields: Any
    ) -> Any:
        """The answer to a message, or to one of these fields; `how`: gRPC's options of a call."""
        asked, told = (message(t.name) for t in _types(method))
        call = self.channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
            response_deserializer=told.FromString,
        )
        return await call(asked(**fields) if request is None else request, **(how or {}))

    async def refused(self, method: str, *args: Any, **more: Any) -> tuple[str, str]:
        """The name of the status and the text of a refusal."""
        with pytest.raises(grpc.aio.AioRpcError) as found:
            await self.ask(method, *args, **more)
        return found.value.code().name, str(found.value.details())

    def stream(self, requests: Iterable[Any] | AsyncIterator[Any], **how: Any) -> Any:
        """A stream of answers to requests."""
        call = self.channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
            response_deserializer=message("ModelStreamInferResponse").FromString,
        )
        return call(requests, **how)


def _types(method: str) -> Sequence[Any]:
    return METHODS[method].input_type, METHODS[method].output_type


def calling(
    root: Path, test: Callable[[Client], Coroutine[Any, Any, None]], **settings: Any
) -> None:
    """Runs a coroutine with a client of a server of a folder."""
    access = settings.pop("access", None) or Access()

    async def run() -> None:
        plane = DataPlane(ServerSettings(root=root, **{"workers": 2, "grpc_port": 0, **settings}))
        server = GrpcServer(plane, access)
        await server.start()
        await plane.repository.start()
        plane.started = True
        try:
            address = f"127.0.0.1:{server.port}"
            async with asyncio.timeout(60), grpc.aio.insecure_channel(address) as channel:
                await test(Client(channel, plane, server))
        finally:
            await server.stop(0)
            plane.workers.close()
            await plane.repository.close()

    asyncio.run(run())


def request_of(model: str, *inputs: tuple[str, Any, str], **fields: Any) -> Any:
    """A ModelInferRequest with raw inputs (name, array, datatype)."""
    request = message("ModelInferRequest")(model_name=model, **fields)
    for name, array, datatype in inputs:
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(raw(array))
    return request


def dense(**fields: Any) -> Any:
    """A request to the model `dense`, whose answer is X @ W."""
    return request_of("dense", DENSE, **fields)


def raw(array: np.ndarray[Any, Any]) -> bytes:
    """Elements as raw bytes."""
    if array.dtype != object:
        return array.tobytes()
    texts = [str(t).encode() for t in array.ravel()]
    return b"".join(len(t).to_bytes(4, "little") + t for t in texts)


def array_of(response: Any, k: int = 0) -> np.ndarray[Any, Any]:
    """An output that is no text."""
    dtypes = {"FP32": np.float32, "INT64": np.int64}
    output = response.outputs[k]
    return np.frombuffer(response.raw_output_contents[k], dtypes[output.datatype]).reshape(
        tuple(output.shape)
    )


def texts_of(response: Any, k: int = 0) -> list[str]:
    """An output of texts, flat."""
    data, texts, at = response.raw_output_contents[k], [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        texts.append(data[at + 4 : at + 4 + length].decode())
        at += 4 + length
    return texts


class Gate:
    """Stands before the runs of a model, until it is opened."""

    def __init__(self, client: Client, model: str) -> None:
        servable = client.plane.find(model, None)
        assert servable is not None
        self.servable, self._run = servable, servable.queue.call
        self._opened, self.reached = threading.Event(), threading.Event()
        servable.queue.call = self._wait
        servable.queue.ns_per_element = 1e9  # too slow to be run at once, by the loop's thread

    def _wait(self, arrays: Any) -> Any:
        self.reached.set()
        assert self._opened.wait(60)
        return self._run(arrays)

    async def until_reached(self) -> None:
        while not self.reached.is_set():
            await asyncio.sleep(0.001)

    def open(self) -> None:
        self._opened.set()
