"""Triton's own client asks `naru serve` over gRPC all that it can, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2
from serve import models

from naru.serve.grpc_messages import POOL, SERVICE, message

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / ".venv-clients" / "bin" / "python"
ASK = Path(__file__).with_name("ask_grpc.py")


@contextlib.contextmanager
def grpc_server(folder: Path, *options: str) -> Iterator[str]:
    """`naru serve` with models to try; where its gRPC listens."""
    for name, write in (("dense", models.dense), ("pair", models.pair), ("texts", models.texts)):
        write(folder / f"{name}.onnx")
    command = [
        sys.executable, "-m", "naru", "serve", str(folder), "--port", "0", "--grpc-port", "0",
        *options,
    ]  # fmt: skip
    log = folder.parent / "naru.log"
    with log.open("wb") as written:
        process = subprocess.Popen(command, stdout=written, stderr=subprocess.STDOUT)
        try:
            yield _wait(process, log)
        finally:
            process.terminate()
            process.wait(60)


def _wait(process: subprocess.Popen[bytes], log: Path) -> str:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        found = re.search(r"gRPC: (\S+)", log.read_text(errors="replace"))
        if found:
            return found[1]
        time.sleep(0.05)
    raise AssertionError(f"the server did not start:\n{log.read_text(errors='replace')[-4000:]}")


def by_client(*arguments: str) -> str:
    """What a program prints in the client's environment, to which naru is shown too."""
    assert CLIENT.exists(), "the client is missing: make .venv-clients/.installed"
    done = subprocess.run(
        [CLIENT, *arguments],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_tritonclient_gets_what_it_asks(tmp_path: Path) -> None:
    file = descriptor_pb2.FileDescriptorProto()
    POOL.FindFileByName("inference.proto").CopyToProto(file)
    descriptors = tmp_path / "inference.pb"
    descriptors.write_bytes(file.SerializeToString())
    with grpc_server(tmp_path / "models", "--allow-model-control") as address:
        found = json.loads(by_client(str(ASK), address, str(descriptors)))
    assert {name: problem for name, problem in found.items() if problem} == {}
    assert len(found) > 15


@pytest.mark.slow
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
