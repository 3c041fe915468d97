"""Queues: what is run together, what waits, what is refused, and who comes first."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from naru.errors import RunError
from naru.serve import batching
from naru.serve.batching import Call, Queue, Workers, now
from naru.serve.refusals import Refusal
from naru.serve.settings import ModelSettings
from naru.serve.statistics import Statistics
from naru.serve.tracing import Tracing

Array = NDArray[Any]


class Model:
    """Doubles x; keeps what it was given; waits at a gate where there is one."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []
        self.gate: threading.Event | None = None

    def __call__(self, arrays: Mapping[str, Array]) -> Sequence[Array]:
        if self.gate is not None:
            assert self.gate.wait(10)
        x = arrays["x"]
        self.seen.append(x[:, 0].tolist())
        if (x == 13).any():
            raise RunError("13 is not liked")
        return [x * 2]


class Bench:
    """A queue for a model, and calls into it."""

    def __init__(self, workers: int = 1, most_rows: int = 1 << 20, **settings: Any) -> None:
        self.model, self.workers = Model(), Workers(workers)
        self.statistics = Statistics("m", "1", Tracing())
        made = ModelSettings(**settings)
        self.queue = Queue(self.model, made, self.statistics, self.workers, most_rows)

    def call(
        self, *values: float, priority: int = 0, timeout_us: int = 0, alike: object = ((1,),)
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        x = np.array(values, np.float32)[:, None]
        call = Call({"x": x}, len(values), alike, future, now(), priority)
        self.queue.add(call, timeout_us)
        return future


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def result(found: Sequence[Array]) -> list[float]:
    return found[0][:, 0].tolist()


def test_what_comes_together_is_run_together() -> None:
    async def check() -> None:
        bench = Bench()
        found = await asyncio.gather(bench.call(1), bench.call(2, 3), bench.call(4))
        assert [result(f) for f in found] == [[2], [4, 6], [8]]
        assert bench.model.seen == [[1, 2, 3, 4]]
        stats = bench.statistics.as_json()
        assert (stats["inference_count"], stats["execution_count"]) == (4, 1)
        assert stats["batch_stats"][0]["batch_size"] == 4
        assert stats["inference_stats"]["success"]["count"] == 3

    run(check)


def test_runs_share_the_cores_where_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    monkeypatch.setattr(batching._native, "limit_caller", limits.append)
    monkeypatch.setattr(batching._native, "usable_cores", lambda: 4)

    async def check() -> None:
        bench = Bench(workers=2, max_batch=1)
        await bench.call(1)
        assert limits == [0]  # alone: all cores
        bench.model.gate = threading.Event()
        three = [bench.call(k) for k in range(3)]
        await asyncio.sleep(0.01)
        bench.model.gate.set()
        await asyncio.gather(*three)
        assert sorted(limits[1:3]) == [2, 2]

    run(check)


def test_a_place_is_kept_while_a_request_is_decoded() -> None:
    async def check() -> None:
        bench = Bench(max_queue=2)
        bench.model.gate = threading.Event()
        running = bench.call(1)
        await asyncio.sleep(0.01)
        with bench.queue.coming():
            waiting = bench.call(2)
            with pytest.raises(Refusal, match="1 requests wait"):
                bench.call(3)
            with pytest.raises(Refusal), bench.queue.coming():
                pass
        last = bench.call(4)
        bench.model.gate.set()
        assert [result(f) for f in await asyncio.gather(running, waiting, last)] == [[2], [4], [8]]

    run(check)


def test_requests_without_rows_get_none() -> None:
    async def check() -> None:
        bench = Bench(max_batch=5)
        found = await asyncio.gather(bench.call(), bench.call(1), bench.call(), bench.call(2))
        assert [result(f) for f in found] == [[], [2], [], [4]]
        many = await asyncio.gather(*(bench.call() for _ in range(12)))
        assert [result(f) for f in many] == [[]] * 12
        assert max(map(len, bench.model.seen)) == 2

    run(check)


def test_other_numbers_of_rows_are_not_shared_out() -> None:
    """Where a model gives other rows than it got, nobody may get another's."""

    async def check() -> None:
        bench = Bench()
        bench.queue.call = lambda arrays: [np.repeat(arrays["x"], 2, 0)]
        found = await asyncio.gather(bench.call(1), bench.call(2))
        assert [result(f) for f in found] == [[1, 1], [2, 2]]  # each was run alone

    run(check)


def test_batches_are_no_larger_than_they_may_be() -> None:
    async def check() -> None:
        bench = Bench(max_batch=3)
        await asyncio.gather(*(bench.call(k) for k in range(7)), bench.call(1, 2, 3, 4))
        assert sorted(map(len, bench.model.seen)) == [1, 3, 3, 4]  # a large one goes by itself

    run(check)


def test_what_differs_is_not_put_together() -> None:
    async def check() -> None:
        bench = Bench()
        a, b = ((4,),), ((5,),)
        calls = [bench.call(k, alike=a if k % 2 else b) for k in range(4)]
        await asyncio.gather(*calls, bench.call(9, alike=None))
        assert sorted(bench.model.seen) == [[0, 2], [1, 3], [9]]

    run(check)


def test_one_bad_request_does_not_spoil_the_others() -> None:
    async def check() -> None:
        bench = Bench()
        calls = [bench.call(1), bench.call(13), bench.call(2)]
        found: Any = await asyncio.gather(*calls, return_exceptions=True)
        assert [result(f) for f in (found[0], found[2])] == [[2], [4]]
        assert isinstance(found[1], Refusal)
        assert (found[1].kind.http, found[1].message) == (400, "13 is not liked")
        assert bench.statistics.failures == 1

    run(check)


def test_a_first_request_waits_for_others() -> None:
    async def check() -> None:
        bench = Bench(max_delay_us=5_000_000, max_batch=2)
        first = bench.call(1)
        await asyncio.sleep(0.02)
        assert not bench.model.seen
        found = await asyncio.gather(first, bench.call(2))  # two fill the batch: off they go
        assert [result(f) for f in found] == [[2], [4]]
        short = Bench(max_delay_us=1000)
        assert result(await short.call(7)) == [14]  # alone, once its time is over

    run(check)


async def _held(bench: Bench) -> tuple[threading.Event, asyncio.Future[Any]]:
    """A bench whose worker is busy until the gate opens."""
    gate = bench.model.gate = threading.Event()
    first = bench.call(0)
    while not bench.queue.running:
        await asyncio.sleep(0.001)
    return gate, first


def test_full_queues_refuse() -> None:
    async def check() -> None:
        bench = Bench(max_queue=2, batching=True)
        gate, first = await _held(bench)
        waiting = [bench.call(1), bench.call(2)]
        with pytest.raises(Refusal, match="2 requests wait") as refused:
            bench.call(3)
        assert (refused.value.kind.http, refused.value.retry_after) == (503, 1)
        gate.set()
        await asyncio.gather(first, *waiting)
        assert result(await bench.call(3)) == [6]

    run(check)


def test_priorities_and_then_the_order_of_coming() -> None:
    async def check() -> None:
        bench = Bench(max_batch=1)
        gate, first = await _held(bench)
        calls = [bench.call(1, priority=2), bench.call(2), bench.call(3, priority=1)]
        calls.append(bench.call(4, priority=2))
        gate.set()
        await asyncio.gather(first, *calls)
        assert bench.model.seen == [[0], [2], [3], [1], [4]]

    run(check)


def test_deadlines_pass_in_the_queue() -> None:
    async def check() -> None:
        bench = Bench()
        gate, first = await _held(bench)
        with pytest.raises(Refusal, match="time was over") as refused:
            await bench.call(1, timeout_us=1000)
        assert refused.value.kind.http == 504
        gate.set()
        await first
        assert bench.model.seen == [[0]]
        assert len(bench.queue) == 0

    run(check)


def test_what_nobody_waits_for_is_not_run_and_not_kept() -> None:
    async def check() -> None:
        bench = Bench(max_queue=10)
        gate, first = await _held(bench)
        for _ in range(500):  # far more than the queue holds
            call = bench.call(1)
            call.cancel()
            await asyncio.sleep(0)
        last = bench.call(2)
        assert len(bench.queue) == 1
        assert len(bench.queue._calls) < 100
        gate.set()
        await asyncio.gather(first, last)
        assert bench.model.seen == [[0], [2]]
        assert bench.statistics.refused["cancelled"] == 500

    run(check)


def test_what_nobody_waits_for_has_no_clock() -> None:
    async def check() -> None:
        bench = Bench()
        gate, first = await _held(bench)
        call = bench.call(1, timeout_us=3_600_000_000)
        expiry = bench.queue._calls[0].expiry
        assert expiry is not None
        call.cancel()
        await asyncio.sleep(0)
        assert expiry.cancelled()
        gate.set()
        await first

    run(check)


def test_failures_teach_nothing() -> None:
    """What fails quickly does not make a slow model look quick."""

    async def check() -> None:
        bench = Bench()
        bench.queue.learn(1, 1_000_000)
        for _ in range(5):
            with pytest.raises(Refusal):
                await bench.call(13)
        assert bench.queue.ns_per_element == 1_000_000
        assert (bench.statistics.runs, bench.statistics.rows) == (0, 0)

    run(check)


def test_models_take_turns() -> None:
    async def check() -> None:
        busy = Bench(max_batch=1)
        gate, first = await _held(busy)
        calls = [busy.call(k) for k in range(1, 6)]
        other, order = Model(), list[str]()
        queue = Queue(other, ModelSettings(), busy.statistics, busy.workers, 1 << 20)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        queue.add(Call({"x": np.ones((1, 1))}, 1, None, future, 0), 0)
        future.add_done_callback(lambda _: order.append("other"))
        for k, call in enumerate(calls):
            call.add_done_callback(lambda _, k=k: order.append(str(k)))
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(first, future, *calls)
        assert order.index("other") <= 2

    run(check)


def test_concurrency_of_a_model() -> None:
    async def check() -> None:
        bench = Bench(workers=4, concurrency=1, max_batch=1)
        gate, first = await _held(bench)
        second = bench.call(1)
        await asyncio.sleep(0.01)
        assert bench.queue.running == 1
        gate.set()
        await asyncio.gather(first, second)

    run(check)


def test_draining_waits_for_all() -> None:
    async def check() -> None:
        bench = Bench(max_batch=1)
        gate, first = await _held(bench)
        calls = [first, bench.call(1), bench.call(2)]
        drained = asyncio.ensure_future(bench.queue.drain())
        await asyncio.sleep(0.01)
        assert not drained.done()
        gate.set()
        await drained
        assert all(c.done() for c in calls)

    run(check)


def test_draining_ends_when_clients_go() -> None:
    async def check() -> None:
        bench = Bench(max_delay_us=60_000_000, max_batch=100)
        calls = [bench.call(1), bench.call(2, timeout_us=20_000)]
        drained = asyncio.ensure_future(bench.queue.drain())
        await asyncio.sleep(0)
        calls[0].cancel()
        with pytest.raises(Refusal, match="time was over"):
            await calls[1]
        await asyncio.wait_for(drained, 5)
        gate, first = await _held(another := Bench())
        drained = asyncio.ensure_future(another.queue.drain())
        await asyncio.sleep(0)
        first.cancel()  # while it runs
        gate.set()
        await asyncio.wait_for(drained, 5)

    run(check)
