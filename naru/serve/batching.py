"""Queues of requests and the workers that answer them: requests are put together to batches.

A queue belongs to one version of a model. While all workers are busy requests wait, and are then
run together; a queue may also let its first request wait a little for others. Workers take the
queues in turn, so that a busy model does not keep the others from their share. Everything here but
`Run` lives on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from naru.errors import RunError
from naru.runtime import _native
from naru.serve.refusals import (
    CANCELLED,
    EXPIRED,
    OVERLOADED,
    Refusal,
    as_refusal,
)
from naru.serve.settings import ModelSettings
from naru.serve.statistics import Statistics

Array = NDArray[Any]
Outputs = Sequence[Array]
now = time.perf_counter_ns


class Call:
    """One request on its way: inputs that fit the signature, and where its outputs go.

    `alike`: requests with the same can be put together; None: with none. A greater `priority`
    number is served later (0 counts as 1, the protocol's default)."""

    __slots__ = (
        "alike", "arrays", "elements", "expiry", "future", "order", "priority", "rows", "start",
        "waits",
    )  # fmt: skip

    def __init__(
        self,
        arrays: Mapping[str, Array],
        rows: int,
        alike: object,
        future: asyncio.Future[Outputs],
        start: int,
        priority: int = 0,
    ) -> None:
        self.arrays, self.rows, self.alike, self.future = arrays, rows, alike, future
        self.start, self.priority, self.order = start, priority or 1, 0
        self.elements = count_elements(arrays)
        self.waits = False  # in a queue, and somebody wants the answer
        self.expiry: asyncio.TimerHandle | None = None

    def __lt__(self, other: Call) -> bool:
        return (self.priority, self.order) < (other.priority, other.order)


def count_elements(arrays: Mapping[str, Array]) -> int:
    """Elements of all inputs; what a run takes goes by them, more or less."""
    return sum([a.size for a in arrays.values()]) or 1


@dataclass(slots=True)
class Ran:
    """What a worker made of a batch: outputs or an error for each call, and what the clock showed
    of the run that gave them together (where each was run alone: of none)."""

    results: list[Outputs | Exception]
    began: int
    taken: int = 0
    ran: int = 0
    done: int = 0
    together: bool = False


class Run:
    """A batch, as a worker thread does it."""

    def __init__(
        self, call: Callable[[Mapping[str, Array]], Outputs], batch: Sequence[Call], threads: int
    ) -> None:
        self._call, self._batch, self._threads = call, batch, threads

    def __call__(self) -> Ran:
        """Never raises: what goes wrong is a result. Where a batch of several fails, each is run
        alone, so that one request's values cannot spoil another's answer."""
        ran = Ran([], now())
        batch = self._batch
        _native.limit_caller(self._threads)
        try:
            arrays = batch[0].arrays if len(batch) == 1 else _put_together(batch)
            ran.taken = now()
            outputs = self._call(arrays)
            ran.ran = now()
            ran.results.extend([outputs] if len(batch) == 1 else _cut(outputs, batch))
            ran.together = True
        except Exception as error:
            ran.taken = ran.taken or now()
            ran.results = [error] if len(batch) == 1 else [self._alone(call) for call in batch]
            ran.ran = now()
        ran.done = now()
        return ran

    def _alone(self, call: Call) -> Outputs | Exception:
        try:
            return self._call(call.arrays)
        except Exception as error:
            return error


def _put_together(batch: Sequence[Call]) -> dict[str, Array]:
    return {n: np.concatenate([call.arrays[n] for call in batch]) for n in batch[0].arrays}


def _cut(outputs: Outputs, batch: Sequence[Call]) -> list[Outputs]:
    """The rows of each call. RunError where the outputs have not as many rows as the inputs."""
    results: list[Outputs] = []
    at, rows = 0, sum(call.rows for call in batch)
    if any(array.shape[0] != rows for array in outputs):
        raise RunError(f"the model gave another number of rows than the {rows} of its inputs")
    for call in batch:
        results.append([array[at : at + call.rows] for array in outputs])
        at += call.rows
    return results


class Workers:
    """Threads that run batches, and the queues that have some for them, in turn.

    A run that is alone may use all cores; where others run or wait each has its share of them, with
    which they get more done together: no thread waits for another that has no core."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = count
        self._share = max(1, _native.usable_cores() // count)
        self._turn: deque[Queue] = deque()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="naru-serve")

    def offer(self, queue: Queue) -> None:
        """A queue has something to run."""
        if not queue.waits_for_worker:
            queue.waits_for_worker = True
            self._turn.append(queue)
        self.start()

    def start(self) -> None:
        """Gives free workers batches."""
        for _ in range(len(self._turn)):
            if not self._free:
                return
            queue = self._turn.popleft()
            queue.waits_for_worker = False
            batch = queue.take()
            if not batch:
                continue
            self._free -= 1
            queue.running += 1
            crowded = self._free < self.count - 1 or queue.ready or self._turn
            run = Run(queue.call, batch, self._share if crowded else 0)
            ran = asyncio.get_running_loop().run_in_executor(self._pool, run)
            ran.add_done_callback(lambda done, q=queue, b=batch: self._finish(q, b, done))
            if queue.ready:
                self.offer(queue)

    def _finish(self, queue: Queue, batch: Sequence[Call], done: asyncio.Future[Ran]) -> None:
        self._free += 1
        queue.running -= 1
        queue.finish(batch, done.result())
        if queue.ready:
            self.offer(queue)
        self.start()

    def close(self) -> None:
        """Lets the threads end once they have nothing to do."""
        self._pool.shutdown(wait=False)


class Queue:
    """The requests that wait for one version of a model."""

    def __init__(
        self,
        call: Callable[[Mapping[str, Array]], Outputs],
        settings: ModelSettings,
        statistics: Statistics,
        workers: Workers,
        most_rows: int,
    ) -> None:
        self.call = call
        self.running = 0
        self.waits_for_worker = False
        self.ns_per_element = 0.0  # of the inputs: moving mean of what runs took
        self._settings, self._statistics, self._workers = settings, statistics, workers
        self._most_rows = min(most_rows, settings.max_batch)
        self._calls: list[Call] = []  # a heap
        self._waiting = self._elements = 0  # calls whose client still waits; of their inputs
        self._coming = 0  # requests whose long bodies are being decoded
        self._orders = 0
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Event | None = None

    def __len__(self) -> int:
        return self._waiting

    @property
    def ready(self) -> bool:
        """Is there something to run, and may it run now?"""
        limit = self._settings.concurrency
        return self._waiting > 0 and (not limit or self.running < limit)

    # ---- in ----

    def check_room(self) -> None:
        """Raises a Refusal where the queue is full."""
        if self._waiting + self._coming >= self._settings.max_queue:
            raise Refusal(
                OVERLOADED,
                f"{self._waiting} requests wait for this model already",
                retry_after=self.expected_wait(),
            )

    @contextmanager
    def coming(self) -> Generator[None]:
        """Keeps a place for a request while it is decoded: work that is refused afterwards would be
        lost. Raises a Refusal where the queue is full."""
        self.check_room()
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    def add(self, call: Call, timeout_us: int) -> None:
        """Takes a call; its future is answered later. Raises a Refusal where the queue is full."""
        self.check_room()
        self._orders += 1
        call.order = self._orders
        heapq.heappush(self._calls, call)
        call.waits = True
        self._waiting += 1
        self._elements += call.elements
        call.future.add_done_callback(lambda _, c=call: self._given_up(c))
        timeout_us = timeout_us or self._settings.timeout_us
        loop = asyncio.get_running_loop()
        if timeout_us:
            call.expiry = loop.call_later(timeout_us / 1e6, self._expire, call)
        # What else has come in this round of the loop may still join it.
        loop.call_soon(self._offer)

    def expected_wait(self) -> float:
        """Seconds until what waits has been run, as far as one can tell."""
        return self.ns_per_element * self._elements / 1e9 / max(1, self._workers.count)

    def _offer(self) -> None:
        if self.ready:
            self._workers.offer(self)

    def _expire(self, call: Call) -> None:
        waited = (now() - call.start) // 1000
        self._fail(
            call, Refusal(EXPIRED, f"the request's time was over after {waited} us of waiting")
        )

    def _fail(self, call: Call, error: Exception) -> None:
        """Answers a call that nobody has answered yet with what went wrong."""
        if not call.future.done():
            refusal = as_refusal(error)
            self._statistics.failed(refusal, now() - call.start)
            call.future.set_exception(refusal)

    def _given_up(self, call: Call) -> None:
        """The client is gone, or was refused, while the call was waiting."""
        if call.future.cancelled():
            gone = Refusal(CANCELLED, "the client is gone")
            self._statistics.failed(gone, now() - call.start)
        if not call.waits:
            return
        if call.expiry is not None:  # the client chose how long it lives
            call.expiry.cancel()
        call.arrays = {}
        self._no_longer_waits(call)
        self._tell_if_idle()
        # What nobody waits for must not pile up behind what goes first.
        if len(self._calls) > 2 * self._waiting + 64:
            self._calls = [c for c in self._calls if c.waits]
            heapq.heapify(self._calls)

    # ---- out ----

    def take(self) -> list[Call]:
        """The next batch; empty when there is none, or when it had better wait for more."""
        if not self.ready:
            return []
        self._drop_done()
        if not self._calls:
            return []
        first = self._calls[0]
        delay = self._settings.max_delay_us * 1000
        if delay and self._most_rows > 1 and first.alike is not None:
            left = first.start + delay - now()
            if left > 0 and sum(c.rows for c in self._calls if c.waits) < self._most_rows:
                self._wake_in(left / 1e9)
                return []
        batch = self._gather(heapq.heappop(self._calls))
        for call in batch:
            self._no_longer_waits(call)
            if call.expiry is not None:
                call.expiry.cancel()
        return batch

    def _no_longer_waits(self, call: Call) -> None:
        call.waits = False
        self._waiting -= 1
        self._elements -= call.elements

    def _drop_done(self) -> None:
        while self._calls and self._calls[0].future.done():
            heapq.heappop(self._calls)

    def _gather(self, first: Call) -> list[Call]:
        """The first call and those after it that can be put together with it, in order."""
        batch, rows = [first], first.rows
        if first.alike is None or self._most_rows < 2:
            return batch
        passed: list[Call] = []
        most = self._most_rows  # of calls, too: there may be some without rows
        while self._calls and max(rows, len(batch)) < most and len(passed) < len(batch) + 16:
            call = heapq.heappop(self._calls)
            if call.future.done():
                continue
            if call.alike == first.alike and rows + call.rows <= self._most_rows:
                batch.append(call)
                rows += call.rows
            else:
                passed.append(call)
        for call in passed:
            heapq.heappush(self._calls, call)
        return batch

    def _wake_in(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._woken)

    def _woken(self) -> None:
        self._timer = None
        self._offer()

    def finish(self, batch: Sequence[Call], ran: Ran) -> None:
        """Hands out what a worker made of a batch."""
        statistics = self._statistics
        if ran.together:
            rows = sum(c.rows for c in batch)
            statistics.run(rows, ran.taken - ran.began, ran.ran - ran.taken, ran.done - ran.ran)
            self.learn(sum(c.elements for c in batch), ran.ran - ran.taken)
        at = now()
        for call, result in zip(batch, ran.results, strict=True):
            if call.future.done():
                continue  # cancelled meanwhile
            if isinstance(result, Exception):
                self._fail(call, result)
                continue
            if not ran.together:
                statistics.run(call.rows, 0, (ran.ran - ran.taken) // len(batch), 0)
            statistics.answered(call.start, ran.began, ran.taken, ran.ran, ran.done, at)
            call.future.set_result(result)
        self._tell_if_idle()

    def learn(self, elements: int, ns: int) -> None:
        """What a run took, for estimates."""
        mean = ns / elements
        self.ns_per_element += (mean - self.ns_per_element) * (0.1 if self.ns_per_element else 1.0)

    # ---- the end ----

    @property
    def is_idle(self) -> bool:
        """Does nobody wait, and nothing run?"""
        return not self._waiting and not self.running

    def _tell_if_idle(self) -> None:
        if self._idle is not None and self.is_idle:
            self._idle.set()

    async def drain(self) -> None:
        """Waits until all that was taken is answered."""
        while not self.is_idle:
            self._idle = asyncio.Event()
            await self._idle.wait()
