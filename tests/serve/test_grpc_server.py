"""The server of gRPC around inference: health, reflection, rights, settings, logs, ports."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from serve.calls import DENSE, Client, Gate, W, X, array_of, calling, dense, request_of
from serve.certificates import certified
from serve.servers import naru_server

from naru.errors import InputError
from naru.serve import grpc_health
from naru.serve.access import Access, Token
from naru.serve.dataplane import DataPlane
from naru.serve.grpc_messages import METHODS, SERVICE, message
from naru.serve.grpc_service import GrpcServer
from naru.serve.server import Server
from naru.serve.settings import ServerSettings

# ---- health, reflection ----


def test_health_service(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_health, "_LOOK", 0.01)
    response: Any = health_pb2.HealthCheckResponse

    async def check(client: Client) -> None:
        async def status(name: str) -> Any:
            call = client.channel.unary_unary("/grpc.health.v1.Health/Check")
            request = health_pb2.HealthCheckRequest(service=name)
            return response.FromString(await call(request.SerializeToString())).status

        for name in ("", SERVICE, "dense"):
            assert await status(name) == response.SERVING
        assert await status("broken") == response.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as found:
            await status("nobody")
        assert found.value.code() is grpc.StatusCode.NOT_FOUND
        watch = client.channel.unary_stream("/grpc.health.v1.Health/Watch")
        model = watch(health_pb2.HealthCheckRequest(service="dense").SerializeToString())
        server = watch(b"")
        for call in (model, server):
            assert response.FromString(await call.read()).status == response.SERVING
        await client.plane.repository.unload("dense")
        assert response.FromString(await model.read()).status == response.NOT_SERVING
        client.plane.draining = True
        client.server.drain()
        assert response.FromString(await server.read()).status == response.NOT_SERVING
        stopping = asyncio.create_task(client.server.stop(60))
        for call in (model, server):
            assert not await call.read()  # the end
        await stopping

    calling(folder, check)


def test_reflection(folder: Path) -> None:
    asked: Any = reflection_pb2.ServerReflectionRequest
    told: Any = reflection_pb2.ServerReflectionResponse

    async def check(client: Client) -> None:
        call = client.channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=asked.SerializeToString,
            response_deserializer=told.FromString,
        )
        symbols = (SERVICE, grpc_health.NAME)
        requests = [asked(list_services=""), *(asked(file_containing_symbol=s) for s in symbols)]
        listed, *files = [answer async for answer in call(requests)]
        names = {s.name for s in listed.list_services_response.service}
        assert names >= {SERVICE, grpc_health.NAME}
        pool = descriptor_pool.DescriptorPool()
        for file in files:
            for text in file.file_descriptor_response.file_descriptor_proto:
                pool.Add(descriptor_pb2.FileDescriptorProto.FromString(text))
        assert list(pool.FindServiceByName(SERVICE).methods_by_name) == list(METHODS)

    calling(folder, check, load_at_start=0)


def test_messages_are_private() -> None:
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")


# ---- doors ----


def test_tokens(folder: Path) -> None:
    def entry(secret: str, *models: str, rights: tuple[str, ...] = ("infer",)) -> Any:
        return hashlib.sha256(secret.encode()).digest(), Token(secret, models, rights)

    access = Access(dict([entry("one", "dense"), entry("chief", "*", rights=("infer", "control"))]))

    def bearer(secret: str) -> dict[str, Any]:
        return {"metadata": (("authorization", f"Bearer {secret}"),)}

    async def check(client: Client) -> None:
        assert (await client.ask("ServerReady")).ready
        for how in ({}, bearer("nobody")):
            assert (await client.refused("ModelInfer", dense(), how=how))[0] == "UNAUTHENTICATED"
            with pytest.raises(grpc.aio.AioRpcError) as found:
                await client.stream([dense()], **how).read()
            assert found.value.code() is grpc.StatusCode.UNAUTHENTICATED
        one, chief = bearer("one"), bearer("chief")
        assert await client.ask("ModelInfer", dense(), how=one)
        other = request_of("versions", DENSE)
        status, text = await client.refused("ModelInfer", other, how=one)
        assert status == "PERMISSION_DENIED"
        assert text == "the token 'one' is not for the model 'versions'"
        found = [a async for a in client.stream([other, dense()], **one)]
        assert [bool(a.error_message) for a in found] == [True, False]
        index = await client.ask("RepositoryIndex", how=one)
        assert [m.name for m in index.models] == ["dense"]
        assert (await client.refused("LogSettings", how=one))[0] == "PERMISSION_DENIED"
        assert (await client.ask("LogSettings", how=chief)).settings["log_info"].bool_param
        health = client.channel.unary_unary("/grpc.health.v1.Health/Check")
        assert await health(b"")
        with pytest.raises(grpc.aio.AioRpcError):
            await health(health_pb2.HealthCheckRequest(service="dense").SerializeToString())

    calling(folder, check, access=access)


def test_control(folder: Path) -> None:
    async def closed(client: Client) -> None:
        for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
            status, text = await client.refused(method, model_name="dense")
            assert status == "PERMISSION_DENIED"
            assert "--allow-model-control" in text
        for method in ("TraceSetting", "LogSettings"):
            assert (await client.ask(method)).settings
            changed = await client.refused(method, settings={"log_info": {}})
            assert changed[0] == "PERMISSION_DENIED"

    async def opened(client: Client) -> None:
        await client.ask("RepositoryModelUnload", model_name="dense")
        index = {m.name: m for m in (await client.ask("RepositoryIndex")).models}
        assert (index["dense"].state, index["dense"].reason) == ("UNAVAILABLE", "unloaded")
        ready = (await client.ask("RepositoryIndex", ready=True)).models
        assert "dense" not in {m.name for m in ready}
        assert (await client.refused("ModelInfer", dense()))[0] == "UNAVAILABLE"
        await client.ask("RepositoryModelLoad", model_name="dense")
        assert await client.ask("ModelInfer", dense())
        assert (await client.refused("RepositoryModelLoad", model_name="dens"))[0] == "NOT_FOUND"
        for name, value in (("config", {"string_param": "{}"}), ("file:1/a", {"bytes_param": b""})):
            status, text = await client.refused(
                "RepositoryModelLoad", model_name="dense", parameters={name: value}
            )
            assert status == "UNIMPLEMENTED"
            assert text.startswith(name)
        other = await client.refused("RepositoryIndex", repository_name="other")
        assert other == ("UNIMPLEMENTED", "repository_name: expected none, got 'other'")

    calling(folder, closed)
    calling(folder, opened, model_control=True)


def test_settings_of_traces_and_logs(folder: Path) -> None:
    async def check(client: Client) -> None:
        rate = {"trace_rate": {"value": ["5"]}}
        found = (await client.ask("TraceSetting", settings=rate, model_name="dense")).settings
        assert list(found["trace_rate"].value) == ["5"]
        assert list((await client.ask("TraceSetting")).settings["trace_rate"].value) == ["1000"]
        cleared = {"trace_rate": {}}
        found = (await client.ask("TraceSetting", settings=cleared, model_name="dense")).settings
        assert list(found["trace_rate"].value) == ["1000"]
        assert (await client.refused("TraceSetting", model_name="nobody"))[0] == "NOT_FOUND"
        verbose = {"log_verbose_level": {"uint32_param": 0}, "log_info": {"bool_param": True}}
        found = (await client.ask("LogSettings", settings=verbose)).settings
        assert found["log_verbose_level"].uint32_param == 0
        for settings in ({"log_file": {"string_param": "/etc/passwd"}}, {"log_info": {}}):
            refused = await client.refused("LogSettings", settings=settings)
            assert refused[0] == "INVALID_ARGUMENT"

    calling(folder, check, model_control=True)


def test_shared_memory_is_refused(folder: Path) -> None:
    async def check(client: Client) -> None:
        for kind in ("System", "Cuda"):
            status = await client.ask(f"{kind}SharedMemoryStatus")
            assert not status.regions
            missing = await client.refused(f"{kind}SharedMemoryStatus", name="a")
            assert missing == ("NOT_FOUND", "there is no region 'a' of shared memory")
            refused = await client.refused(f"{kind}SharedMemoryRegister", name="a")
            assert refused[0] == "UNIMPLEMENTED"
            for name in ("a", ""):  # as clients that clean up ask
                await client.ask(f"{kind}SharedMemoryUnregister", name=name)

    calling(folder, check, load_at_start=0)


def test_the_service_has_every_method(folder: Path) -> None:
    server = GrpcServer(DataPlane(ServerSettings(root=folder)), Access())
    assert set(server._handlers()) == set(METHODS)


class Counted:
    """Passes connections on, and counts the bytes that come back."""

    def __init__(self, port: int) -> None:
        self._port, self.back = port, 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", self._port)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pass(reader, forth, count=False))
            group.create_task(self._pass(back, writer, count=True))

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, count: bool
    ) -> None:
        while data := await reader.read(1 << 16):
            self.back += len(data) if count else 0
            writer.write(data)
        writer.close()


def test_answers_are_compressed_where_the_client_wants_it(folder: Path) -> None:
    zeros = request_of("dense", ("x", np.zeros((5000, 4), np.float32), "FP32"))

    async def check(client: Client) -> None:
        sizes: dict[str, int] = {}
        counted = Counted(client.server.port)
        proxy = await asyncio.start_server(counted, "127.0.0.1", 0)
        async with proxy:
            port = proxy.sockets[0].getsockname()[1]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                other = Client(channel, client.plane, client.server)
                for name in ("identity", "gzip"):
                    before = counted.back
                    how = {
                        "metadata": (("accept-encoding", name),),
                        "compression": grpc.Compression.Gzip,
                    }
                    answer = await other.ask("ModelInfer", zeros, how=how)
                    assert list(answer.outputs[0].shape) == [5000, 3]
                    sizes[name] = counted.back - before
                    streamed = await other.stream([zeros], **how).read()
                    assert streamed.infer_response.outputs == answer.outputs
        assert sizes["identity"] > 60_000 > 2000 > sizes["gzip"]

    calling(folder, check, load_at_start=0)


# ---- logs, ports, and the whole server ----


def test_log_of_requests(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def check(client: Client) -> None:
        how = {"metadata": (("x-request-id", "a-7"),)}
        await client.ask("ModelInfer", dense(), how=how)
        await client.refused("ModelInfer", request_of("dens"))
        lines: list[Any] = [r for r in caplog.records if r.getMessage() == "request"]
        assert [(r.status, r.id, r.token) for r in lines] == [
            ("OK", "a-7", "everybody"), ("NOT_FOUND", "", "everybody"),
        ]  # fmt: skip
        assert {r.path for r in lines} == {f"{SERVICE}/ModelInfer"}

    with caplog.at_level("INFO", "naru.serve"):
        calling(folder, check, log_requests=True, load_at_start=0)


def test_ports_that_are_taken(folder: Path) -> None:
    async def check(client: Client) -> None:
        settings = ServerSettings(root=folder, grpc_port=client.server.port)
        with pytest.raises(InputError, match="Address already in use"):
            await GrpcServer(DataPlane(settings), Access()).start()

    calling(folder, check, load_at_start=0)


def test_certificates_that_are_none(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text("no certificate")
    pem = tmp_path / "a.pem"
    settings = ServerSettings(root=folder, port=0, grpc_port=0, certificate=pem, key=pem)
    with pytest.raises(InputError, match="cannot be used together"):
        Server(settings).bind()
    with pytest.raises(InputError, match="cannot be used together"):
        asyncio.run(GrpcServer(DataPlane(settings), Access()).start())


@pytest.mark.slow
def test_a_certificate_is_for_calls_too(tmp_path: Path) -> None:
    certificate, key = certified(tmp_path)
    options = ("--certificate", str(certificate), "--key", str(key))
    with naru_server(tmp_path / "models", *options) as (_, address):
        trusted = grpc.ssl_channel_credentials(certificate.read_bytes())
        with grpc.secure_channel(address, trusted) as channel:
            live = channel.unary_unary(f"/{SERVICE}/ServerLive")(b"")
            assert message("ServerLiveResponse").FromString(live).live
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary(f"/{SERVICE}/ServerLive")(b"")


def test_server_of_both_protocols(folder: Path) -> None:
    """From the start to the end, with a call in flight."""

    async def run() -> None:
        server = Server(ServerSettings(root=folder, port=0, grpc_port=0, workers=1))
        ready = asyncio.Event()
        running = asyncio.create_task(server.run(ready.set))
        await ready.wait()
        assert server._grpc is not None
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            client = Client(channel, server.plane, server._grpc)
            gate = Gate(client, "dense")
            call = asyncio.create_task(client.ask("ModelInfer", dense()))
            await gate.until_reached()
            server.stop()
            while not server.plane.stopped:
                await asyncio.sleep(0.001)
            gate.open()
            assert np.array_equal(array_of(await call), X @ W)
            await running
            status, _ = await client.refused("ServerLive")
            assert status == "UNAVAILABLE"

    asyncio.run(run())


def test_calls_that_take_too_long_are_refused(folder: Path) -> None:
    async def run() -> None:
        settings = ServerSettings(root=folder, port=0, grpc_port=0, drain_limit=1000)
        server = Server(settings)
        ready = asyncio.Event()
        running = asyncio.create_task(server.run(ready.set))
        await ready.wait()
        assert server._grpc is not None
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            client = Client(channel, server.plane, server._grpc)
            gate = Gate(client, "dense")
            call = asyncio.create_task(client.refused("ModelInfer", dense()))
            await gate.until_reached()
            stream = client.stream([dense()])
            reading = asyncio.create_task(stream.read())
            while server._grpc._door.calls < 2:
                await asyncio.sleep(0.001)
            server.stop()
            server.stop()
            assert await call == ("UNAVAILABLE", "the server stops")
            with pytest.raises(grpc.aio.AioRpcError) as found:
                await reading
            assert found.value.code() is grpc.StatusCode.UNAVAILABLE
            assert not await running
            gate.open()

    asyncio.run(run())
