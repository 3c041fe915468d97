"""Many models in one process, and one process for a long time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from serve import models
from serve.asgi import tensor
from serve.many import scaled_copies
from serve.processes import Process, serving

BODY = json.dumps({"inputs": [tensor("x", np.ones((1, 4), np.float32), "FP32")]})
WARM, CYCLES = 50, 500


def resident(server: Process) -> int:
    """Bytes of memory that a server has."""
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return 1024 * int(text.split("VmRSS:")[1].split()[0])


def files(server: Process) -> int:
    """How many files and mappings it has open."""
    own = Path(f"/proc/{server.process.pid}")
    return len(list((own / "fd").iterdir())) + len((own / "maps").read_text().splitlines())


@pytest.mark.slow
def test_each_of_many_models_has_its_own_weights(tmp_path: Path) -> None:
    scaled_copies(tmp_path, 2000)
    with serving(tmp_path) as server:
        connection = server.connect()
        for k in np.random.default_rng(0).permutation(2000).tolist():
            connection.request("POST", f"/v2/models/m{k}/infer", BODY)
            found = json.loads(connection.getresponse().read())
            assert found["outputs"][0]["data"] == [6 * (k + 1), 10 * (k + 1), 14 * (k + 1)]
        assert resident(server) < 500 << 20


@pytest.mark.slow
def test_memory_comes_back(tmp_path: Path) -> None:
    """Loading and unloading leaves nothing behind: neither memory nor files nor mappings."""
    models.dense(tmp_path / "dense.onnx")
    with serving(tmp_path, "--allow-model-control") as server:
        connection = server.connect()

        def post(path: str, body: str = "{}") -> None:
            connection.request("POST", path, body)
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == 200, text

        before = (0, 0)
        for k in range(CYCLES):
            post("/v2/models/dense/infer", BODY)
            post("/v2/repository/models/dense/unload")
            post("/v2/repository/models/dense/load")
            if k == WARM:
                before = resident(server), files(server)
        assert resident(server) < 1.02 * before[0]
        assert files(server) <= before[1] + 8
