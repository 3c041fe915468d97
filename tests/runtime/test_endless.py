"""A loop that never ends: Ctrl-C ends it, and so does a limit."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

import naru
from naru import knobs
from naru.errors import RunError

ROOT = Path(__file__).resolve().parents[2]


def counting(width: int = 1) -> ModelProto:
    """Counts v up while it is below `limit`."""
    shape = [width]
    body = helper.make_graph(
        [
            helper.make_node("Add", ["v", "one"], ["next"]),
            helper.make_node("ReduceMax", ["next"], ["top"], keepdims=0),
            helper.make_node("Less", ["top", "limit"], ["goes"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, shape),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, shape),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["", "", "x"], ["y"], body=body)],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("limit", TensorProto.FLOAT, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


ZERO, ENDLESS = np.zeros(1, np.float32), np.array(np.inf, np.float32)


def test_a_limit_of_rounds() -> None:
    with knobs.scope(loop_limit=1000):
        model = naru.compile(counting(), cache=False)
    try:
        (y,) = np.asarray(model(ZERO, np.array(1000, np.float32)))
        assert y == 1000
        with pytest.raises(RunError, match=r"goes on after 1000 rounds[\s\S]*NARU_LOOP_LIMIT"):
            model(ZERO, ENDLESS)
        (y,) = np.asarray(model(ZERO, np.array(3, np.float32)))
        assert y == 3
    finally:
        naru.compile(counting(), cache=False)  # without a limit again


def test_a_handler_that_raises() -> None:
    """What the handler of a signal raises comes out of the call, and the model works on."""
    model = naru.compile(counting(), cache=False)

    def handler(*_: object) -> None:
        raise TimeoutError("enough")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(TimeoutError, match="enough"):
            model(ZERO, ENDLESS)
    finally:
        signal.signal(signal.SIGALRM, before)
    (y,) = np.asarray(model(ZERO, np.array(5, np.float32)))
    assert y == 5


def test_other_threads_go_on() -> None:
    """A loop that turned out to be long has given the interpreter away."""
    model = naru.compile(counting(), cache=False)
    seen: list[float] = []

    def watch() -> None:
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            seen.append(time.monotonic())
            time.sleep(0.005)
        signal.raise_signal(signal.SIGALRM)

    def handler(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, handler)
    watcher = threading.Thread(target=watch)
    try:
        watcher.start()
        with pytest.raises(TimeoutError):
            model(ZERO, ENDLESS)
    finally:
        watcher.join()
        signal.signal(signal.SIGALRM, before)
    assert len(seen) > 5


@pytest.mark.parametrize("width", [1, 200_000])  # one thread, and several
def test_control_c(width: int) -> None:
    program = f"""
import numpy as np, naru
from tests.runtime.test_endless import counting
model = naru.compile(counting({width}), cache=False)
print("running", flush=True)
try:
    model(np.zeros({width}, np.float32), np.array(np.inf, np.float32))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "running\n"
            time.sleep(0.3)
            child.send_signal(signal.SIGINT)
            out, _ = child.communicate(timeout=30)
        finally:
            child.kill()
    assert out == "interrupted\n"
    assert child.returncode == 0
