"""Servers for the tests, each a process of its own on a free port: naru, and a real Triton."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path

from serve import models, processes

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / ".venv-clients"
TRITON = ROOT / ".venv-triton"
PERF = ROOT / ".venv-perf"
KSERVE = ROOT / ".venv-kserve"
SCHEMATHESIS = ROOT / ".venv-schemathesis"


def python_of(environment: Path) -> Path:
    """The interpreter of an environment that `make` makes."""
    found = environment / "bin" / "python"
    assert found.exists(), f"{environment.name} is missing: make {environment.name}/.installed"
    return found


# ---- naru ----


@contextlib.contextmanager
def naru_server(folder: Path, *options: str) -> Iterator[str]:
    """`naru serve` with models to try; its `host:port`."""
    for name, write in (("dense", models.dense), ("pair", models.pair), ("texts", models.texts)):
        write(folder / f"{name}.onnx")
    with processes.serving(folder, *options) as server:
        yield f"127.0.0.1:{server.port}"


# ---- Triton ----

_MODEL = """
import numpy as np
import triton_python_backend_utils as backend

class TritonPythonModel:
    def initialize(self, arguments):
        self.w = (np.arange(4)[:, None] + np.arange(3)).astype(np.float32)

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        given = {t.name(): t.as_numpy() for t in request.inputs()}
        wanted = set(request.requested_output_names())
        found = self.run(**given)
        tensors = [backend.Tensor(n, a) for n, a in found.items() if n in wanted]
        return backend.InferenceResponse(tensors)

    def run(self, %s
"""
# The models of tests/serve/models.py, as Triton's Python backend runs them.
_MODELS = {
    "dense": (
        64,
        {"x": "FP32 4"},
        {"y": "FP32 3"},
        "x):\n        return {'y': x @ self.w}",
    ),
    "pair": (
        0,
        {"a": "FP32 -1", "b": "FP32 -1", "c": "INT64 -1"},
        {"total": "FP32 -1", "count": "INT64 -1"},
        "a, b, c):\n        return {'total': a + b, 'count': c + 1}",
    ),
    "texts": (
        0,
        {"word": "STRING -1"},
        {"shout": "STRING -1"},
        "word):\n        texts = [w.decode().upper().encode() for w in word.ravel()]\n"
        "        return {'shout': np.array(texts, object).reshape(word.shape)}",
    ),
}


def _tensors(kind: str, tensors: Mapping[str, str]) -> str:
    items: list[str] = []
    for name, about in tensors.items():
        datatype, dims = about.split()
        items.append(f'{{ name: "{name}" data_type: TYPE_{datatype} dims: [{dims}] }}')
    return f"{kind} [{', '.join(items)}]\n"


def _write_models(folder: Path) -> None:
    for name, (most, inputs, outputs, run) in _MODELS.items():
        home = folder / name
        (home / "1").mkdir(parents=True)
        (home / "1" / "model.py").write_text(_MODEL % run)
        (home / "config.pbtxt").write_text(
            f'name: "{name}"\nbackend: "python"\nmax_batch_size: {most}\n'
            + _tensors("input", inputs)
            + _tensors("output", outputs)
            + "instance_group [{ kind: KIND_CPU count: 1 }]\n"
        )


@contextlib.contextmanager
def triton_server(folder: Path) -> Iterator[str]:
    """The real Triton with the same models, by its Python backend; its `host:port`.

    The server comes out of the package nvidia-pytriton, whose own Python has no part in it. It runs
    no model but those written here, and listens on the loopback alone.
    """
    python = python_of(TRITON)
    version = _said(python, "import sys; print('%d.%d' % sys.version_info[:2])")
    packages = Path(_said(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))
    _write_models(folder / "models")
    server = packages / "pytriton" / "tritonserver"
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
    libraries = f"{packages / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    environment = {
        "PATH": f"{python.parent}:/usr/bin:/bin",
        "LD_LIBRARY_PATH": libraries,
        "LANG": "C.UTF-8",
    }
    log = folder / "triton.log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            command, env=environment, stdout=written, stderr=subprocess.STDOUT
        )
    try:
        yield _wait_until_ready(process, f"127.0.0.1:{http}", log)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> str:
    """The address, once the server answers there that it is ready."""
    until = time.monotonic() + processes.PATIENCE
    while time.monotonic() < until and process.poll() is None:
        connection = HTTPConnection(address, timeout=10)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", "/v2/health/ready")
            if connection.getresponse().status == 200:
                return address
        time.sleep(0.05)
    raise AssertionError(f"Triton did not start:\n{log.read_text(errors='replace')[-4000:]}")


def _said(python: Path, program: str) -> str:
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as kept:
        sockets = [kept.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
