"""The server as a service of gRPC: the calls of the Open Inference Protocol and its extensions."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf import json_format
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from naru.errors import InputError
from naru.serve import grpc_health
from naru.serve.access import CONTROL, EVERYBODY, INFER, Access, Token, require
from naru.serve.dataplane import DataPlane
from naru.serve.grpc_calls import Context, Door, Handler, Unary
from naru.serve.grpc_infer import Inference
from naru.serve.grpc_messages import METHODS, POOL, SERVICE, message, parse
from naru.serve.grpc_tensors import values_of
from naru.serve.refusals import INVALID, NOT_FOUND, UNSUPPORTED, Refusal, joined
from naru.serve.tls import read_pair

_QUIET = 0.05  # seconds without a call, after which gRPC may shut down
_LINGER = 1.0  # seconds that it waits for them at most

Answer = dict[str, Any]  # what is told, as JSON has it


class GrpcServer:
    """Listens for calls, on the event loop of whoever starts it."""

    def __init__(self, plane: DataPlane, access: Access) -> None:
        self._plane = plane
        self._door = Door(access, plane.settings.log_requests)
        self._inference = Inference(plane, self._door)
        self._health = grpc_health.Health(plane, self._door)
        self._server: grpc.aio.Server | None = None
        self._port = 0

    @property
    def port(self) -> int:
        """The port, also where the system chose it; 0 before the start."""
        return self._port

    async def start(self) -> None:
        """Begins to listen. Raises InputError where the port is taken, or the certificate or its
        key cannot be used."""
        settings = self._plane.settings
        pair = read_pair(settings)
        _check_free(settings.host, settings.grpc_port or 0)
        server = self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", settings.max_body),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # two servers on one port would share its calls
            ),
            maximum_concurrent_rpcs=settings.max_requests,
        )
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(SERVICE, self._handlers()),
                grpc.method_handlers_generic_handler(grpc_health.NAME, self._health.handlers()),
            )
        )
        _reflect(server)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"{host}:{settings.grpc_port or 0}"
        try:
            if pair is None:
                self._port = server.add_insecure_port(address)
            else:
                credentials = grpc.ssl_server_credentials([pair])
                self._port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise InputError(f"cannot listen on {address}: {error}") from None
        await server.start()

    def drain(self) -> None:
        """Tells those who watch the health service that calls had better go elsewhere."""
        self._health.drain()

    async def stop(self, seconds: float) -> None:
        """Takes no more calls; returns when those in flight are answered, or after so many
        seconds."""
        self._health.stop()
        self._inference.stop()
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        await self._door.answer_all(seconds)  # and then their clients may ask again
        await self._linger(min(max(0.0, until - loop.time()), _LINGER))
        if self._server is not None:
            await self._server.stop(max(0.0, until - loop.time()))

    def cut_off(self) -> None:
        """Refuses the calls that are not answered yet."""
        self._door.cut_off()

    async def _linger(self, seconds: float) -> None:
        """Waits until no more calls come. gRPC cancels those that come while it shuts down, and
        clients do not try again what was cancelled; until then they are told to go elsewhere."""
        loop = asyncio.get_running_loop()
        until, calls = loop.time() + seconds, -1
        while calls != self._door.calls and loop.time() < until:
            calls = self._door.calls
            await asyncio.sleep(min(seconds, _QUIET))

    def _handlers(self) -> dict[str, Handler]:
        door, inference = self._door, self._inference
        handlers = {
            name: door.unary(f"{SERVICE}/{name}", _answer(name, call, door))
            for name, call in _Calls(self._plane).table().items()
        }
        handlers["ModelInfer"] = door.unary(f"{SERVICE}/ModelInfer", inference.unary)
        handlers["ModelStreamInfer"] = door.streams(f"{SERVICE}/ModelStreamInfer", inference.stream)
        return handlers


def _check_free(host: str, port: int) -> None:
    """Raises InputError where a port is taken (gRPC would not say why it cannot listen)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            raise InputError(
                f"cannot listen on {host}:{port}: {error.strerror or error}",
                hint="--grpc-port 0 takes a free one",
            ) from None


def _reflect(server: grpc.aio.Server) -> None:
    """Lets clients ask for the messages (grpc.reflection.v1alpha)."""
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        POOL.AddSerializedFile(file.serialized_pb)
    names = (SERVICE, grpc_health.NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server, POOL)


# ---- calls with an answer in JSON's form ----


@dataclass(frozen=True, slots=True)
class _Call:
    """A method of the service: what answers it, who may call it, and which field of its request
    names a model."""

    answer: Callable[[Any, Token], Awaitable[Answer]]
    right: str | None = None  # None: everybody
    model: str | None = None


def _answer(name: str, call: _Call, door: Door) -> Unary:
    """A call as a function from bytes to bytes."""
    asked = message(METHODS[name].input_type.name)
    told = message(METHODS[name].output_type.name)

    async def answer(data: bytes, context: Context) -> bytes:
        request = parse(asked, data)
        token = EVERYBODY
        if call.right is not None:
            token = door.token(context)
            model = getattr(request, call.model) if call.model else ""
            require(token, call.right, model or None)
        found = await call.answer(request, token)
        return json_format.ParseDict(found, told(), ignore_unknown_fields=True).SerializeToString()

    return answer


class _Calls:
    """What the service answers besides inference."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def table(self) -> Mapping[str, _Call]:
        """The methods by name."""
        return {
            "ServerLive": _Call(self._live),
            "ServerReady": _Call(self._ready),
            "ServerMetadata": _Call(self._metadata),
            "ModelReady": _Call(self._model_ready, INFER, "name"),
            "ModelMetadata": _Call(self._model_metadata, INFER, "name"),
            "ModelConfig": _Call(self._model_config, INFER, "name"),
            "ModelStatistics": _Call(self._statistics, INFER, "name"),
            "RepositoryIndex": _Call(self._index, INFER),
            "RepositoryModelLoad": _Call(self._load, CONTROL, "model_name"),
            "RepositoryModelUnload": _Call(self._unload, CONTROL, "model_name"),
            "TraceSetting": _Call(self._trace, CONTROL, "model_name"),
            "LogSettings": _Call(self._log, CONTROL),
            "SystemSharedMemoryStatus": _Call(self._shared_memory, INFER),
            "SystemSharedMemoryRegister": _Call(self._no_shared_memory, CONTROL),
            "SystemSharedMemoryUnregister": _Call(self._unregister, INFER),
            "CudaSharedMemoryStatus": _Call(self._shared_memory, INFER),
            "CudaSharedMemoryRegister": _Call(self._no_shared_memory, CONTROL),
            "CudaSharedMemoryUnregister": _Call(self._unregister, INFER),
        }

    # ---- the server ----

    async def _live(self, request: Any, token: Token) -> Answer:
        return {"live": True}

    async def _ready(self, request: Any, token: Token) -> Answer:
        return {"ready": self._plane.ready}

    async def _metadata(self, request: Any, token: Token) -> Answer:
        return self._plane.metadata()

    # ---- a model ----

    async def _model_ready(self, request: Any, token: Token) -> Answer:
        try:
            return {"ready": self._plane.model_ready(request.name, request.version or None)}
        except Refusal as refusal:
            # Clients ask by name whether there is a model: over HTTP too they read 404 as a no.
            if refusal.kind is NOT_FOUND:
                return {"ready": False}
            raise

    async def _model_metadata(self, request: Any, token: Token) -> Answer:
        return await self._plane.model_metadata(request.name, request.version or None)

    async def _model_config(self, request: Any, token: Token) -> Answer:
        return {"config": await self._plane.model_config(request.name, request.version or None)}

    async def _statistics(self, request: Any, token: Token) -> Answer:
        if request.version and not request.name:
            raise Refusal(INVALID, "version: expected a name with it")
        found = self._plane.statistics(request.name or None, request.version or None)
        return {"model_stats": [s for s in found["model_stats"] if token.may_see(s["name"])]}

    # ---- the repository ----

    async def _index(self, request: Any, token: Token) -> Answer:
        _check_repository(request)
        items = self._plane.index(request.ready)
        return {"models": [i for i in items if token.may_see(i["name"])]}

    async def _load(self, request: Any, token: Token) -> Answer:
        _check_repository(request)
        await self._plane.load(request.model_name, _values(request.parameters, "parameters"))
        return {}

    async def _unload(self, request: Any, token: Token) -> Answer:
        _check_repository(request)
        _values(request.parameters, "parameters")
        await self._plane.unload(request.model_name)
        return {}

    # ---- settings ----

    async def _trace(self, request: Any, token: Token) -> Answer:
        model = request.model_name
        if model:
            self._plane.repository.known(model)
        if request.settings:
            self._plane.require_control()
            given = {k: list(s.value) or None for k, s in request.settings.items()}
            found = self._plane.tracing.change(given, model)
        else:
            found = self._plane.tracing.get(model)
        return {
            "settings": {k: {"value": v if isinstance(v, list) else [v]} for k, v in found.items()}
        }

    async def _log(self, request: Any, token: Token) -> Answer:
        if request.settings:
            self._plane.require_control()
            found = self._plane.logging.change(_values(request.settings, "settings"))
        else:
            found = self._plane.logging.get()
        kinds = {bool: "bool_param", int: "uint32_param", str: "string_param"}
        return {"settings": {k: {kinds[type(v)]: v} for k, v in found.items()}}

    # ---- shared memory ----

    async def _shared_memory(self, request: Any, token: Token) -> Answer:
        if request.name:
            raise Refusal(NOT_FOUND, f"there is no region '{request.name}' of shared memory")
        return {}

    async def _no_shared_memory(self, request: Any, token: Token) -> Answer:
        raise Refusal(UNSUPPORTED, "shared memory is not supported: tensors come in the message")

    async def _unregister(self, request: Any, token: Token) -> Answer:
        return {}  # nothing is registered, and clients that end ask all the same


def _check_repository(request: Any) -> None:
    if request.repository_name:
        raise Refusal(
            UNSUPPORTED, f"repository_name: expected none, got '{request.repository_name}'"
        )


def _values(parameters: Any, where: str) -> dict[str, Any]:
    problems: list[str] = []
    found = values_of(parameters, where, problems)
    if problems:
        raise Refusal(INVALID, joined(problems))
    return found
