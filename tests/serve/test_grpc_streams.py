"""Calls over gRPC that wait, are given up, or come as streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from serve.calls import DENSE, Client, Gate, W, X, array_of, calling, dense, request_of

from naru.serve import grpc_service
from naru.serve.settings import ModelSettings


def test_queues_that_are_full_and_time_that_is_over(folder: Path) -> None:
    async def check(client: Client) -> None:
        gate = Gate(client, "dense")
        first = asyncio.create_task(client.ask("ModelInfer", dense()))
        await gate.until_reached()
        short = dense(parameters={"timeout": {"int64_param": 1000}})
        status, text = await client.refused("ModelInfer", short)
        assert status == "DEADLINE_EXCEEDED"
        assert "the request's time was over after" in text
        second = asyncio.create_task(client.ask("ModelInfer", dense()))
        while not len(gate.servable.queue):
            await asyncio.sleep(0.001)
        status, text = await client.refused("ModelInfer", dense())
        assert status == "RESOURCE_EXHAUSTED"
        assert text == "1 requests wait for this model already"
        gate.open()
        for task in (first, second):
            assert np.array_equal(array_of(await task), X @ W)
        assert client.plane.room.held == 0

    calling(folder, check, workers=1, model=ModelSettings(max_queue=1))


@pytest.mark.parametrize("ending", ["deadline", "cancelled"])
def test_calls_that_nobody_waits_for_leave_the_queue(folder: Path, ending: str) -> None:
    async def check(client: Client) -> None:
        gate = Gate(client, "dense")
        first = asyncio.create_task(client.ask("ModelInfer", dense()))
        await gate.until_reached()
        how = {"timeout": 0.05} if ending == "deadline" else {}
        second = asyncio.create_task(client.ask("ModelInfer", dense(), how=how))
        queue = gate.servable.queue
        while not len(queue):
            await asyncio.sleep(0.001)
        if ending == "deadline":
            with pytest.raises(grpc.aio.AioRpcError) as found:
                await second
            assert found.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        else:
            second.cancel()
        while len(queue):
            await asyncio.sleep(0.001)
        gate.open()
        await first
        assert set(gate.servable.statistics.refused) <= {"cancelled", "deadline exceeded"}
        assert client.plane.room.held == 0

    calling(folder, check, workers=1)


# ---- streams ----


def test_streams_answer_in_order_and_go_on_after_errors(folder: Path) -> None:
    requests = [
        dense(id="a"),
        request_of("nobody", id="b"),
        request_of("versions", DENSE, id="c"),
        b"\xff",
        request_of("dense", ("x", X, "FP64"), id="e"),
        dense(id="f"),
    ]

    async def check(client: Client) -> None:
        found = [a async for a in client.stream(requests)]
        assert [a.infer_response.id for a in found] == ["a", "b", "c", "", "e", "f"]
        assert [a.error_message for a in found] == [
            "", "there is no model 'nobody'", "",
            "expected a message inference.ModelInferRequest, the bytes are none",
            "input 'x': expected datatype FP32, got FP64", "",
        ]  # fmt: skip
        assert np.array_equal(array_of(found[2].infer_response), 2 * X @ W)
        assert found[5].infer_response.parameters["triton_final_response"].bool_param
        assert client.plane.room.held == 0

    calling(folder, check, load_at_start=0)


def test_requests_of_a_stream_are_run_together(folder: Path) -> None:
    async def check(client: Client) -> None:
        gate = Gate(client, "dense")
        call = client.stream([dense(id=str(k)) for k in range(200)])
        await gate.until_reached()
        while len(gate.servable.queue) < 20:
            await asyncio.sleep(0.001)
        gate.open()
        found = [a async for a in call]
        assert [a.infer_response.id for a in found] == [str(k) for k in range(200)]
        assert not any(a.error_message for a in found)
        assert gate.servable.statistics.runs < 200

    calling(folder, check, workers=1)


async def _endless(asked: asyncio.Event) -> AsyncIterator[Any]:
    yield dense(id="a")
    yield dense(id="b")
    asked.set()
    await asyncio.Event().wait()


def test_streams_end_with_the_server(folder: Path) -> None:
    """What was asked is answered, then the stream is over, though the client would go on."""

    async def check(client: Client) -> None:
        gate = Gate(client, "dense")
        call = client.stream(_endless(asyncio.Event()))
        await gate.until_reached()
        while gate.servable.queue.running + len(gate.servable.queue) < 2:
            await asyncio.sleep(0.001)
        stopping = asyncio.create_task(client.server.stop(60))
        await asyncio.sleep(0)
        gate.open()
        found = [await call.read(), await call.read()]
        assert [a.infer_response.id for a in found] == ["a", "b"]
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call.read()
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        await stopping

    calling(folder, check, workers=1)


def test_streams_that_are_cancelled_leave_nothing(folder: Path) -> None:
    async def check(client: Client) -> None:
        gate = Gate(client, "dense")
        asked = asyncio.Event()
        call = client.stream(_endless(asked))
        await gate.until_reached()
        await asked.wait()
        call.cancel()
        gate.open()
        while client.plane.room.held:
            await asyncio.sleep(0.001)
        assert await client.ask("ModelInfer", dense())

    calling(folder, check, workers=1)


def test_calls_that_come_too_late_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_service, "_QUIET", 60)
    monkeypatch.setattr(grpc_service, "_LINGER", 60)

    async def check(client: Client) -> None:
        client.plane.stopped = True
        stopping = asyncio.create_task(client.server.stop(60))
        refused = await client.refused("ModelInfer", dense())
        assert refused == ("UNAVAILABLE", "the server is stopping")
        stopping.cancel()

    calling(folder, check, load_at_start=0)


def test_calls_that_come_while_the_last_are_answered_are_told(folder: Path) -> None:
    """However long that takes: gRPC does not shut down, and cancel them, before that."""

    async def check(client: Client) -> None:
        gate = Gate(client, "dense")
        first = asyncio.create_task(client.ask("ModelInfer", dense()))
        await gate.until_reached()
        client.plane.stopped = True
        stopping = asyncio.create_task(client.server.stop(60))
        await asyncio.sleep(4 * grpc_service._QUIET)
        refused = await client.refused("ModelInfer", dense())
        assert refused == ("UNAVAILABLE", "the server is stopping")
        gate.open()
        assert np.array_equal(array_of(await first), X @ W)
        await stopping

    calling(folder, check, workers=1)
