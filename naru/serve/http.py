"""The server as an ASGI application: paths of the Open Inference Protocol and its extensions."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, cast

from naru.serve import arrow, images, json_tensors, rows
from naru.serve.access import CONTROL, EVERYBODY, INFER, METRICS, Access, require
from naru.serve.aside import ASIDE_FROM, aside, count_bytes
from naru.serve.batching import Outputs
from naru.serve.dataplane import DataPlane
from naru.serve.http_messages import (
    CLOSE,
    JSON,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    compress,
    error_response,
    hold,
    is_plain,
    json_response,
    not_allowed,
    read_body,
    send_response,
    unless_gone,
)
from naru.serve.metrics import Metrics
from naru.serve.openapi import describe
from naru.serve.page import Page
from naru.serve.refusals import (
    INTERNAL,
    INVALID,
    NOT_FOUND,
    OVERLOADED,
    UNAVAILABLE,
    UNSUPPORTED,
    Refusal,
    joined,
)
from naru.serve.servable import Request as Ask
from naru.serve.servable import Servable
from naru.serve.tensors import Decoded

log = logging.getLogger("naru.serve")

Handler = Callable[[Request, Sequence[str]], Awaitable[Response]]
_HEALTH = "/v2/health/"
_LENGTH = b"inference-header-content-length"
_USUAL = (None, b"application/json")  # media types of what may be a request in JSON
_SHORT = 256  # characters of a path that is worth remembering
_MOST_OPTIONS = 64 << 10  # bytes of a body that has no tensors


@dataclass(frozen=True, slots=True)
class Route:
    """A path; its `{parts}` are what the handler is given, in order."""

    methods: Mapping[str, Handler]
    parts: tuple[str, ...]
    right: str | None  # None: everybody

    def match(self, path: Sequence[str]) -> list[str] | None:
        """The values of the path's parts, where it is this one."""
        if len(path) != len(self.parts):
            return None
        found: list[str] = []
        for want, got in zip(self.parts, path, strict=True):
            if want == "{}":
                if not got:
                    return None
                found.append(got)
            elif want != got:
                return None
        return found


class Application:
    """Callable as ASGI 3; see docs/serving.md for the paths."""

    def __init__(self, plane: DataPlane, access: Access) -> None:
        self.plane, self._access = plane, access
        self._settings = plane.settings
        self.room = plane.room
        self._metrics = Metrics(plane)
        self._page = Page(plane) if self._settings.page else None
        self._origins = {o.encode("latin-1") for o in self._settings.cors}
        self.busy = 0  # requests being answered
        self._routes = self._make_routes()

    def _make_routes(self) -> list[Route]:
        def route(path: str, right: str | None, **methods: Handler) -> Route:
            allowed = {m.upper(): h for m, h in methods.items()}
            if "GET" in allowed:
                allowed.setdefault("HEAD", allowed["GET"])
            return Route(allowed, tuple(path.strip("/").split("/")), right)

        routes = [
            route("/v2", None, get=self._metadata),
            route("/v2/health/live", None, get=self._live),
            route("/v2/health/ready", None, get=self._ready),
            route("/v2/models/stats", INFER, get=self._all_stats),
            route("/v2/repository/index", INFER, post=self._index),
            route("/v2/repository/models/{}/load", CONTROL, post=self._load),
            route("/v2/repository/models/{}/unload", CONTROL, post=self._unload),
            route("/v2/repository/{}/index", INFER, post=self._no_repository),
            route("/v2/repository/{}/models/{}/load", CONTROL, post=self._no_repository),
            route("/v2/repository/{}/models/{}/unload", CONTROL, post=self._no_repository),
            route("/v2/trace/setting", CONTROL, get=self._trace, post=self._set_trace),
            route("/v2/logging", CONTROL, get=self._logging, post=self._set_logging),
            route("/v2/models/{}/trace/setting", CONTROL, get=self._trace, post=self._set_trace),
            route("/v2/models", INFER, get=self._models),
            route("/metrics", METRICS, get=self._metrics_page),
            route("/openapi.json", None, get=self._openapi),
        ]
        for model in ("/v2/models/{}", "/v2/models/{}/versions/{}"):
            routes += [
                route(model, INFER, get=self._model_metadata),
                route(model + "/ready", INFER, get=self._model_ready),
                route(model + "/infer", INFER, post=self._infer),
                route(model + "/config", INFER, get=self._config),
                route(model + "/stats", INFER, get=self._stats),
                route(model + "/generate", INFER, post=self._generate),
                route(model + "/generate_stream", INFER, post=self._generate),
            ]
        for kind in ("systemsharedmemory", "cudasharedmemory"):
            routes += [
                route(f"/v2/{kind}/status", INFER, get=self._shared_memory),
                route(f"/v2/{kind}/region/{{}}/status", INFER, get=self._shared_memory),
                route(f"/v2/{kind}/region/{{}}/register", CONTROL, post=self._no_shared_memory),
                route(f"/v2/{kind}/region/{{}}/unregister", INFER, post=self._unregister),
                route(f"/v2/{kind}/unregister", INFER, post=self._unregister),
            ]
        return routes

    # ---- a request ----

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await _lifespan(receive, send)
            return
        headers = dict(scope["headers"])
        request = Request(scope["method"], scope["path"], headers, receive, EVERYBODY)
        await self.finish(request, self.answer(request), send)

    async def answer(self, request: Request) -> Response:
        """The answer to a request, which is to be `end`ed once that is sent."""
        self.busy += 1
        response = await self._respond(request)
        accepted = request.headers.get(b"accept-encoding")
        if accepted is not None:
            await compress(response, accepted)
        self._finish_headers(request, response)
        return response

    async def finish(self, request: Request, answer: Awaitable[Response], send: Send) -> None:
        """Sends an answer, and ends the request."""
        try:
            await send_response(send, await answer)
        except Refusal as refusal:  # too late to say so: the connection ends before its time
            log.warning("a stream is broken off", extra={"reason": refusal.message})
        finally:
            self.end(request)

    def end(self, request: Request) -> None:
        """The request is answered, or nobody waits for that any more."""
        self.busy -= 1
        self.room.give(request.held)

    async def _respond(self, request: Request) -> Response:
        logged = self._settings.log_requests
        start = time.perf_counter() if logged else 0.0
        try:
            # Who asks whether the server lives must not be told that it is busy.
            if self.busy > self._settings.max_requests and not request.path.startswith(_HEALTH):
                raise Refusal(
                    OVERLOADED, f"{self.busy - 1} requests are being answered", retry_after=1
                )
            if self._origins and request.method == "OPTIONS" and b"origin" in request.headers:
                return self._preflight(request)
            response = await self._dispatch(request)
        except Refusal as refusal:
            response = error_response(refusal)
        except asyncio.CancelledError:  # nobody else does that to the task of a request
            response = error_response(Refusal(UNAVAILABLE, "the server stops", retry_after=1))
        except Exception:
            log.exception("a request failed unexpectedly", extra={"path": request.path})
            response = error_response(
                Refusal(INTERNAL, "the server failed to answer; its log says why")
            )
        if logged:
            log.info(
                "request",
                extra={
                    "method": request.method, "path": request.path, "status": response.status,
                    "seconds": round(time.perf_counter() - start, 6),
                    "id": request.text(b"x-request-id"), "token": request.token.name,
                },
            )  # fmt: skip
        return response

    async def _dispatch(self, request: Request) -> Response:
        # The path that matters, without a search.
        if request.method == "POST" and len(request.path) <= _SHORT:
            asked = _asked_model(request.path)
            if asked is not None:
                if not self._access.is_open:
                    request.token = self._access.bearer(request.text(b"authorization"))
                    require(request.token, INFER, asked[0])
                return await self._infer(request, asked)
        path = request.path.strip("/").split("/")
        for route in self._routes:
            found = route.match(path)
            if found is None:
                continue
            handler = route.methods.get(request.method)
            if handler is None:
                return not_allowed(list(route.methods), request.method)
            if route.right is not None:
                request.token = self._access.bearer(request.text(b"authorization"))
                model = path[path.index("models") + 1] if found and "models" in path else None
                require(request.token, route.right, model)
            return await handler(request, found)
        if self._page is not None:
            response = self._page.find(request.path, request.method)
            if response is not None:
                return response
        raise Refusal(NOT_FOUND, f"there is no path {request.path}", hint="GET /openapi.json")

    def _finish_headers(self, request: Request, response: Response) -> None:
        headers = response.headers
        if response.chunks is None:
            headers.append((b"content-length", str(len(response.body)).encode()))
        if request.method == "HEAD":
            response.body = b""
        identity = request.headers.get(b"x-request-id")
        if identity is not None and len(identity) <= 256 and is_plain(identity):
            headers.append((b"x-request-id", identity))
        if self._origins and request.headers.get(b"origin") in self._origins:
            headers += [
                (b"access-control-allow-origin", request.headers[b"origin"]),
                (
                    b"access-control-expose-headers",
                    b"Inference-Header-Content-Length, X-Request-Id",
                ),
            ]
        if self._origins:  # the answer to another origin, or to none, has other headers
            headers.append((b"vary", b"origin"))
        if self.plane.draining and CLOSE not in headers:
            headers.append(CLOSE)

    def _preflight(self, request: Request) -> Response:
        """What a page of another origin asks before it sends (Fetch standard, CORS protocol)."""
        origin = request.headers[b"origin"]
        if origin not in self._origins:
            return Response(403, [JSON], b'{"error":"the origin is not allowed here"}')
        return Response(
            204,
            [
                (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
                (
                    b"access-control-allow-headers",
                    b"authorization, content-type, content-encoding, x-request-id, "
                    b"inference-header-content-length",
                ),
                (b"access-control-max-age", b"600"),
            ],
        )

    # ---- the server ----

    async def _metadata(self, request: Request, _: Sequence[str]) -> Response:
        return json_response(self.plane.metadata())

    async def _live(self, request: Request, _: Sequence[str]) -> Response:
        return json_response({"live": True})

    async def _ready(self, request: Request, _: Sequence[str]) -> Response:
        ready = self.plane.ready
        return json_response({"ready": ready}, 200 if ready else 503)

    async def _metrics_page(self, request: Request, _: Sequence[str]) -> Response:
        text, media = self._metrics.text(request.text(b"accept"), request.token)
        return Response(200, [(b"content-type", media.encode())], text)

    async def _openapi(self, request: Request, _: Sequence[str]) -> Response:
        # Everybody may read it: it names models only where everybody may ask them.
        return json_response(describe(self.plane.repository.names if self._access.is_open else ()))

    async def _all_stats(self, request: Request, _: Sequence[str]) -> Response:
        stats = self.plane.statistics()
        seen = [s for s in stats["model_stats"] if request.token.may_see(s["name"])]
        return json_response({"model_stats": seen})

    async def _models(self, request: Request, _: Sequence[str]) -> Response:
        names = [n for n in self.plane.repository.names if request.token.may_see(n)]
        return json_response({"models": names})

    # ---- a model ----

    async def _model_metadata(self, request: Request, found: Sequence[str]) -> Response:
        return json_response(await self.plane.model_metadata(*_model(found)))

    async def _model_ready(self, request: Request, found: Sequence[str]) -> Response:
        ready = self.plane.model_ready(*_model(found))
        return json_response({"name": found[0], "ready": ready}, 200 if ready else 503)

    async def _config(self, request: Request, found: Sequence[str]) -> Response:
        return json_response(await self.plane.model_config(*_model(found)))

    async def _stats(self, request: Request, found: Sequence[str]) -> Response:
        return json_response(self.plane.statistics(*_model(found)))

    async def _generate(self, request: Request, found: Sequence[str]) -> Response:
        await self.plane.get(*_model(found))
        raise Refusal(
            UNSUPPORTED, "this model gives tensors, not text piece by piece", hint="infer"
        )

    # ---- inference ----

    async def _infer(self, request: Request, found: Sequence[str]) -> Response:
        name, version = _model(found)
        servable = self.plane.find(name, version)
        if servable is None:
            servable = await self.plane.get(name, version)
        try:
            servable.queue.check_room()  # before the body is read: where many come that costs most
            body = await self._body(request, self._settings.max_body)
            headers = request.headers
            if _LENGTH not in headers and headers.get(b"content-type") not in _USUAL:
                media = request.media()
                if media == arrow.MEDIA:
                    return await arrow.answer(request, servable, body, partial(self._hold, request))
                if media in images.MEDIA:
                    return await self._infer_image(request, servable, body)
            return await self._infer_tensors(request, servable, body)
        except Refusal as refusal:
            servable.statistics.failed(refusal, 0)
            raise

    async def _body(self, request: Request, limit: int) -> bytes:
        return await read_body(request, limit, self._settings.body_timeout, self.room)

    def _hold(self, request: Request, count: int) -> None:
        hold(request, self.room, count, 0, self._settings.max_body)

    async def _infer_tensors(self, request: Request, servable: Servable, body: bytes) -> Response:
        length = request.headers.get(_LENGTH)
        json_length: int | None = None
        if length is not None:
            if not length.isdigit() or len(length) > 18:
                raise Refusal(
                    INVALID,
                    "Inference-Header-Content-Length: expected a number of bytes, got "
                    f"{length.decode('latin-1')}",
                )
            json_length = int(length)
        elif rows.are_rows(body):
            return await self._infer_rows(request, servable, body)
        asked = body, json_length, servable.signature, self._settings.max_inputs
        if json_tensors.work_of(len(body), json_length, servable.signature) < ASIDE_FROM:
            decoded = json_tensors.decode(*asked)
        else:
            with servable.queue.coming():
                decoded = await asyncio.to_thread(json_tensors.decode, *asked)
        outputs = await self._ask(request, servable, decoded)
        name, version, labels = servable.name, servable.version, servable.labels
        found = name, version, decoded, servable.signature, outputs, labels
        if count_bytes(outputs) < ASIDE_FROM:
            encoded = json_tensors.encode(*found)
        else:
            encoded = await asyncio.to_thread(json_tensors.encode, *found)
        if encoded.json_length is None:
            return Response(200, [JSON], encoded.body)
        return Response(
            200,
            [
                (b"content-type", b"application/octet-stream"),
                (_LENGTH, str(encoded.json_length).encode()),
            ],
            encoded.body,
        )

    async def _infer_rows(self, request: Request, servable: Servable, body: bytes) -> Response:
        decoded = await aside(len(body), rows.decode, body, servable.signature, servable.model)
        return await self._answer_rows(request, servable, decoded)

    async def _infer_image(self, request: Request, servable: Servable, body: bytes) -> Response:
        with servable.queue.coming():
            size = await asyncio.to_thread(images.unpacked_size, body)
            hold(request, self.room, size, 0, self.room.limit)
            pixels = await asyncio.to_thread(images.decode, body, servable.signature)
        return await self._answer_rows(request, servable, Decoded(pixels))

    async def _answer_rows(
        self, request: Request, servable: Servable, decoded: Decoded
    ) -> Response:
        outputs = await self._ask(request, servable, decoded)
        text = await aside(count_bytes(outputs), rows.encode, servable, outputs)
        return Response(200, [JSON], text)

    async def _ask(self, request: Request, servable: Servable, decoded: Decoded) -> Outputs:
        ask = Ask(decoded.arrays, decoded.priority, decoded.timeout_us)
        future = servable.begin(ask)
        if isinstance(future, asyncio.Future):
            return await unless_gone(request, future)
        return future

    # ---- the repository, and settings ----

    async def _body_options(self, request: Request) -> dict[str, Any]:
        """The JSON object of a request that may have none."""
        body = await self._body(request, _MOST_OPTIONS)
        if not body.strip():
            return {}
        value = json_tensors.parse(body)
        if not isinstance(value, dict):
            raise Refusal(INVALID, f"expected a JSON object, got {json_tensors.kind_of(value)}")
        return cast("dict[str, Any]", value)

    async def _index(self, request: Request, _: Sequence[str]) -> Response:
        options = await self._body_options(request)
        ready = options.get("ready", False)
        if not isinstance(ready, bool):
            raise Refusal(INVALID, f"ready: expected a bool, got {ready!r}")
        items = self.plane.index(ready)
        return json_response([i for i in items if request.token.may_see(i["name"])])

    async def _load(self, request: Request, found: Sequence[str]) -> Response:
        options = await self._body_options(request)
        await self.plane.load(found[0], _parameters(options))
        return json_response({})

    async def _unload(self, request: Request, found: Sequence[str]) -> Response:
        _parameters(await self._body_options(request))
        await self.plane.unload(found[0])
        return json_response({})

    async def _no_repository(self, request: Request, found: Sequence[str]) -> Response:
        raise Refusal(UNSUPPORTED, f"repository_name: expected none, got '{found[0]}'")

    async def _trace(self, request: Request, found: Sequence[str]) -> Response:
        if found:
            self.plane.repository.known(found[0])
        return json_response(self.plane.tracing.get(*found))

    async def _set_trace(self, request: Request, found: Sequence[str]) -> Response:
        self.plane.require_control()
        if found:
            self.plane.repository.known(found[0])
        options = await self._body_options(request)
        return json_response(self.plane.tracing.change(options, *found))

    async def _logging(self, request: Request, _: Sequence[str]) -> Response:
        return json_response(self.plane.logging.get())

    async def _set_logging(self, request: Request, _: Sequence[str]) -> Response:
        self.plane.require_control()
        return json_response(self.plane.logging.change(await self._body_options(request)))

    async def _shared_memory(self, request: Request, found: Sequence[str]) -> Response:
        if found:
            raise Refusal(NOT_FOUND, f"there is no region '{found[0]}' of shared memory")
        return json_response([])

    async def _no_shared_memory(self, request: Request, _: Sequence[str]) -> Response:
        raise Refusal(UNSUPPORTED, "shared memory is not supported: tensors come in the body")

    async def _unregister(self, request: Request, _: Sequence[str]) -> Response:
        return json_response({})  # nothing is registered, and clients that end ask all the same


@lru_cache(1024)
def _asked_model(path: str) -> tuple[str, ...] | None:
    """The model, and its version where there is one, that a path asks."""
    match path.strip("/").split("/"):
        case ["v2", "models", str(name), "infer"] if name:
            return (name,)
        case ["v2", "models", str(name), "versions", str(version), "infer"] if name and version:
            return name, version
        case _:
            return None


def _model(found: Sequence[str]) -> tuple[str, str | None]:
    return found[0], found[1] if len(found) > 1 else None


def _parameters(options: Mapping[str, Any]) -> Mapping[str, Any]:
    problems: list[str] = []
    given: object = options.get("parameters") or {}
    checked = json_tensors.check_parameters(given, "parameters", problems)
    if problems:
        raise Refusal(INVALID, joined(problems))
    return checked


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        kind = message["type"].removeprefix("lifespan.")
        await send({"type": f"lifespan.{kind}.complete"})
        if kind == "shutdown":
            return
