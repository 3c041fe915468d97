"""Triton's own client asks `naru serve` over gRPC all that it can, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2
from serve import models, perf, processes
from serve.servers import CLIENTS, ROOT, python_of

from naru.serve.grpc_messages import POOL, SERVICE, message

ASK = Path(__file__).with_name("ask_grpc.py")


@contextlib.contextmanager
def grpc_server(folder: Path, *options: str) -> Iterator[str]:
    """`naru serve` with models to try; where its gRPC listens."""
    for name, write in (("dense", models.dense), ("pair", models.pair), ("texts", models.texts)):
        write(folder / f"{name}.onnx")
    with processes.serving(folder, "--grpc-port", "0", *options) as server:
        yield f"127.0.0.1:{server.grpc_port}"


def by_client(*arguments: str) -> str:
    """What a program prints in the client's environment, to which naru is shown too."""
    done = subprocess.run(
        [python_of(CLIENTS), *arguments],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.clients
def test_tritonclient_gets_what_it_asks(tmp_path: Path) -> None:
    file = descriptor_pb2.FileDescriptorProto()
    POOL.FindFileByName("inference.proto").CopyToProto(file)
    descriptors = tmp_path / "inference.pb"
    descriptors.write_bytes(file.SerializeToString())
    with grpc_server(tmp_path / "models", "--allow-model-control") as address:
        found = json.loads(by_client(str(ASK), address, str(descriptors)))
    assert {name: problem for name, problem in found.items() if problem} == {}
    assert len(found) > 15


@pytest.mark.clients
@pytest.mark.parametrize("first", ["tritonclient.grpc", "naru.serve.grpc_messages"])
def test_messages_of_both_in_one_process(first: str) -> None:
    program = f"""
import importlib
importlib.import_module("{first}")
from tritonclient.grpc import service_pb2
from naru.serve.grpc_messages import ModelInferRequest
theirs = service_pb2.ModelInferRequest(model_name="dense", raw_input_contents=[b"1"])
print(ModelInferRequest.FromString(theirs.SerializeToString()).model_name)
"""
    assert by_client("-c", program) == "dense\n"


@pytest.mark.slow
def test_certificate(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate,
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    options = ("--certificate", str(certificate), "--key", str(key))
    with grpc_server(tmp_path / "models", *options) as address:
        trusted = grpc.ssl_channel_credentials(certificate.read_bytes())
        with grpc.secure_channel(address, trusted) as channel:
            live = channel.unary_unary(f"/{SERVICE}/ServerLive")(b"")
            assert message("ServerLiveResponse").FromString(live).live
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary(f"/{SERVICE}/ServerLive")(b"")


LOADS: dict[str, list[str]] = {
    "calls": ["-m", "dense", "--concurrency-range", "1:2"],
    "asynchronous": ["-m", "dense", "-a", "-b", "8", "--concurrency-range", "4"],
    "streams": ["-m", "dense", "--streaming", "--concurrency-range", "4"],
    "texts": ["-m", "texts", "--shape", "word:2", "--streaming", "--concurrency-range", "2"],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with grpc_server(tmp_path_factory.mktemp("perf") / "models") as address:
        yield address


@pytest.mark.clients
@pytest.mark.parametrize("load", LOADS)
def test_perf_analyzer_runs_through(server: str, load: str, tmp_path: Path) -> None:
    perf.run_through("grpc", server, LOADS[load], tmp_path)
