"""The servers that bench/serving.py measures, each a process of its own with the digit MLP."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from cases import ROOT
from onnx import numpy_helper

sys.path.insert(0, str(ROOT / "tests"))  # Triton is started as the tests start it

from serve.triton import PythonModel, tritonserver

PATIENCE = 60.0  # seconds for a server to be ready
MODEL = "digits_mlp"
DEMO = ROOT / "naru" / "demo" / f"{MODEL}.onnx"

_MLSERVER = """
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class Digits(MLModel):
    async def load(self):
        self.w = dict(np.load("weights.npz"))
        return True

    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)
        w = self.w
        y = np.maximum(x @ w["w1"] + w["b1"], 0) @ w["w2"] + w["b2"]
        outputs = [NumpyCodec.encode_output("logits", y)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
"""
_TRITON = """
import numpy as np
import triton_python_backend_utils as backend

class TritonPythonModel:
    def initialize(self, arguments):
        self.w = dict(np.load("{weights}"))

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        x, w = request.inputs()[0].as_numpy(), self.w
        y = np.maximum(x @ w["w1"] + w["b1"], 0) @ w["w2"] + w["b2"]
        return backend.InferenceResponse([backend.Tensor("logits", y)])
"""


def write_weights(folder: Path) -> None:
    """weights.npz of the digit MLP: w1[64, 200], b1, w2[200, 10], b2."""
    found = {t.name: numpy_helper.to_array(t) for t in onnx.load(DEMO).graph.initializer}
    np.savez(
        folder / "weights.npz",
        w1=found["hidden.weight"].T, b1=found["hidden.bias"],
        w2=found["output.weight"].T, b2=found["output.bias"],
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def pin(self, cores: set[int]) -> None:
        """Keeps the thread that speaks with clients on some cores."""
        os.sched_setaffinity(self.process.pid, cores)

    @property
    def resident(self) -> int:
        """Bytes of memory that it has."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(text.split("VmRSS:")[1].split()[0])

    @property
    def busy(self) -> float:
        """Seconds of processors that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(command: Sequence[str | Path], port: int, folder: Path) -> Iterator[Server]:
    """A server, once it answers for the digit MLP on its port. It is ended afterwards."""
    log = folder / "log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            list(map(str, command)), cwd=folder, stdout=written, stderr=subprocess.STDOUT
        )
    try:
        _wait(process, port, log)
        yield Server(port, process)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + PATIENCE
    url = f"http://127.0.0.1:{port}/v2/models/{MODEL}/infer"
    body = json.dumps(one_image()).encode()
    while time.monotonic() < until and process.poll() is None:
        asked = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(asked, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"a server did not start:\n{log.read_text(errors='replace')[-3000:]}")


def one_image() -> dict[str, object]:
    """A request of the protocol in JSON."""
    data = np.random.default_rng(0).random(64, np.float32).round(3).tolist()
    item = {"name": "image", "shape": [1, 64], "datatype": "FP32", "data": data}
    return {"inputs": [item]}


@contextlib.contextmanager
def naru(folder: Path) -> Iterator[str]:
    """naru serve."""
    (folder / "models").mkdir()
    shutil.copy(DEMO, folder / "models")
    port = free_port()
    command = [sys.executable, "-m", "naru", "serve", "models", "--port", port]
    with running(command, port, folder) as server:
        yield server.url


def bare_command(port: int) -> list[str | Path]:
    return [
        sys.executable, "-m", "uvicorn", "serving_bare:app", "--app-dir", ROOT / "bench",
        "--port", str(port), "--loop", "uvloop", "--http", "httptools", "--no-access-log",
    ]  # fmt: skip


@contextlib.contextmanager
def bare(folder: Path) -> Iterator[str]:
    """serving_bare.py under the same HTTP server as naru's."""
    write_weights(folder)
    port = free_port()
    with running(bare_command(port), port, folder) as server:
        yield server.url


@contextlib.contextmanager
def mlserver(folder: Path) -> Iterator[str]:
    """MLServer with a model of its own class, without workers beside it (which would be slower)."""
    write_weights(folder)
    (folder / "digits.py").write_text(_MLSERVER)
    port = free_port()
    settings = {
        "http_port": port, "grpc_port": free_port(), "metrics_port": free_port(),
        "host": "127.0.0.1", "parallel_workers": 0, "debug": False,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    about = {"name": MODEL, "implementation": "digits.Digits"}
    (folder / "model-settings.json").write_text(json.dumps(about))
    command = [ROOT / ".venv-mlserver" / "bin" / "mlserver", "start", "."]
    with running(command, port, folder) as server:
        yield server.url


@contextlib.contextmanager
def triton(folder: Path) -> Iterator[str]:
    """Triton's own server with its Python backend, out of the package nvidia-pytriton."""
    write_weights(folder)
    model = PythonModel(
        _TRITON.format(weights=folder / "weights.npz"),
        {"image": "FP32 64"},
        {"logits": "FP32 10"},
        most_rows=64,
    )
    with tritonserver(folder, {MODEL: model}) as (address, _):
        yield f"http://{address}"
