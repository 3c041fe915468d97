"""A real Triton server, a process of its own on free ports, for the tests and for
bench/serving_rivals.py."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from serve.environments import TRITON, python_of

PATIENCE = 60.0  # seconds until it must be ready


@dataclass(frozen=True)
class PythonModel:
    """A model of Triton's Python backend: `program` is its model.py, inputs and outputs are like
    `FP32 4`, datatype and dims without the batch, and `most_rows` are the most of a batch (0: there
    is none)."""

    program: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    most_rows: int = 0

    def write(self, home: Path) -> None:
        """Writes the folder that Triton reads, named like the model."""
        (home / "1").mkdir(parents=True)
        (home / "1" / "model.py").write_text(self.program)
        (home / "config.pbtxt").write_text(
            f'name: "{home.name}"\nbackend: "python"\nmax_batch_size: {self.most_rows}\n'
            + _tensors("input", self.inputs)
            + _tensors("output", self.outputs)
            + "instance_group [{ kind: KIND_CPU count: 1 }]\n"
        )


def _tensors(kind: str, tensors: Mapping[str, str]) -> str:
    items: list[str] = []
    for name, about in tensors.items():
        datatype, dims = about.split()
        items.append(f'{{ name: "{name}" data_type: TYPE_{datatype} dims: [{dims}] }}')
    return f"{kind} [{', '.join(items)}]\n"


@contextlib.contextmanager
def tritonserver(folder: Path, models: Mapping[str, PythonModel]) -> Iterator[tuple[str, str]]:
    """Triton with models of its Python backend, which clients may load and unload; where it
    listens, `host:port` for HTTP and for gRPC.

    The server comes out of the package nvidia-pytriton, whose own Python has no part in it. It runs
    no model but these, and listens on the loopback alone.
    """
    python = python_of(TRITON)
    ask = "import sys, sysconfig; print('%d.%d' % sys.version_info[:2])"
    ask += "; print(sysconfig.get_path('purelib'))"
    done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    version, packages = done.stdout.splitlines()
    for name, model in models.items():
        model.write(folder / "models" / name)
    server = Path(packages) / "pytriton" / "tritonserver"
    backend = folder / "backends" / "python"
    shutil.copytree(server / "backends" / "python", backend)
    shutil.copy(server / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
    http, grpc = _free_ports(2)
    command = [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={folder / 'models'}", f"--backend-directory={backend.parent}",
        "--model-control-mode=explicit", "--load-model=*", "--exit-timeout-secs=2",
        "--allow-gpu-metrics=false", "--allow-metrics=false",
        "--http-address=127.0.0.1", f"--http-port={http}",
        "--grpc-address=127.0.0.1", f"--grpc-port={grpc}",
    ]  # fmt: skip
    libraries = f"{Path(packages) / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    environment = {
        "PATH": f"{python.parent}:/usr/bin:/bin",
        "LD_LIBRARY_PATH": libraries,
        "LANG": "C.UTF-8",
    }
    log = folder / "triton.log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=written, stderr=subprocess.STDOUT
        )
    try:
        _wait_until_ready(process, http, log)
        yield f"127.0.0.1:{http}", f"127.0.0.1:{grpc}"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Returns once the server answers that it is ready, with all its models."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", "/v2/health/ready")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"Triton did not start:\n{log.read_text(errors='replace')[-4000:]}")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as kept:
        sockets = [kept.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
