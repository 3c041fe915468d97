"""A version of a model that is loaded and has shown that it works: what answers requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from naru.artifact.bundle import Bundle
from naru.artifact.golden import GoldenCase
from naru.runtime.model import Model
from naru.runtime.session import open_model
from naru.serve.batching import Call, Outputs, Queue, Workers, count_elements, now
from naru.serve.datatypes import TEXT
from naru.serve.refusals import as_refusal
from naru.serve.settings import ModelSettings
from naru.serve.signature import Signature
from naru.serve.statistics import Statistics

Array = NDArray[Any]

# A run that takes no longer is not worth another thread: handing it over and back costs about that.
INLINE_NS = 150_000.0
_TOO_LONG_NS = 20 * INLINE_NS
_ASIDE = 100  # times as long as such a run took, others run aside


@dataclass(slots=True)
class Request:
    """Named arrays for a model; `timeout_us` is how long it may wait (0: as the model's settings
    say), `priority` its level (1 goes first; 0: the usual, 1)."""

    arrays: Mapping[str, Array]
    priority: int = 0
    timeout_us: int = 0


class Servable:
    """One version of a model, ready to answer.

    Raises a Refusal where the protocol has no form for its inputs or outputs, and naru's own errors
    where the bundle does not run here or fails its self-test.
    """

    def __init__(
        self,
        name: str,
        version: str,
        bundle: Bundle,
        settings: ModelSettings,
        statistics: Statistics,
        workers: Workers,
    ) -> None:
        self.name, self.version, self.settings = name, version, settings
        self.model: Model = open_model(bundle, threads=settings.threads or None)
        self.signature = Signature(self.model)
        self.statistics = statistics
        self.size = len(bundle.data)  # bytes that it takes: those of its file
        self.digest = str(bundle.manifest["source"].get("sha256", ""))
        self.labels = self.model.labels
        took = _try_out(self.model, bundle)
        self.batches = self._batches(bundle)
        most = self.signature.most_rows if self.batches else 0
        # Where requests are to wait for others, no one goes ahead.
        waits = self.batches and settings.max_delay_us
        self._inline_ns = 0.0 if waits or not _goes_by_sizes(bundle, self.signature) else INLINE_NS
        self._aside_until = 0
        self._run = _runner(self.model, self.signature)
        self.queue = Queue(self._run, settings, statistics, workers, most)
        if took is not None:
            self.queue.learn(*took)

    def __repr__(self) -> str:
        return f"<servable {self.name}/{self.version}>"

    def _batches(self, bundle: Bundle) -> bool:
        """May requests be put together? Not where one could see anything of another."""
        rows, wish = self.signature.rows, self.settings.batching
        if rows is None or wish is False:
            return False
        if self.model.manifest.get("rows") == rows:
            return True
        return wish is True and rows_are_independent(self.model, self.signature, bundle)

    # ---- answers ----

    def begin(self, request: Request) -> Outputs | asyncio.Future[Outputs]:
        """The outputs, in the order of the signature, of a model so small that it has run already;
        or what they, or a Refusal, will come from: cancel it where nobody waits any more. Raises a
        Refusal."""
        start = now()
        try:
            self.signature.check(request.arrays)
            return self._begin(request, start)
        except Exception as error:
            refusal = as_refusal(error)
            self.statistics.failed(refusal, now() - start)
            if refusal is error:
                raise
            raise refusal from error

    async def infer(self, request: Request) -> Outputs:
        """The outputs, in the order of the signature. Raises a Refusal."""
        begun = self.begin(request)
        return await begun if isinstance(begun, asyncio.Future) else begun

    def _begin(self, request: Request, start: int) -> Outputs | asyncio.Future[Outputs]:
        arrays, queue = request.arrays, self.queue
        rows, elements = self._rows(arrays), count_elements(arrays)
        quick = 0 < queue.ns_per_element * elements < self._inline_ns
        if quick and queue.is_idle and start >= self._aside_until:
            return self._at_once(arrays, rows, elements, start)
        alike = None
        if self.batches:  # the order of names is the client's
            alike = tuple([arrays[t.name].shape[1:] for t in self.signature.inputs])
        future: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()
        call = Call(arrays, rows, alike, future, start, request.priority)
        queue.add(call, request.timeout_us)
        return future

    def _at_once(
        self, arrays: Mapping[str, Array], rows: int, elements: int, start: int
    ) -> Outputs:
        """The answer of a small model, by this thread."""
        began = now()
        outputs = self._run(arrays)
        ran = now()
        self.statistics.run(rows, 0, ran - began, 0)
        self.queue.learn(elements, ran - began)
        if ran - began > _TOO_LONG_NS:
            # A core was not to be had, or what a run takes does not go by its sizes: either way,
            # those who wait for the loop must not wait for this model more often.
            self._aside_until = ran + _ASIDE * (ran - began)
        self.statistics.answered(start, began, began, ran, ran, ran)
        return outputs

    def _rows(self, arrays: Mapping[str, Array]) -> int:
        """The first dim, where all inputs and outputs have the same."""
        return 1 if self.signature.rows is None else next(iter(arrays.values())).shape[0]


def _runner(model: Model, signature: Signature) -> Callable[[Mapping[str, Array]], Outputs]:
    """The model as a function to outputs in the order of the signature. (It holds no servable, so
    that one which is dropped goes at once, with its memory.)"""

    def several(arrays: Mapping[str, Array]) -> Outputs:
        result = model(arrays)
        return [result[k] for k in signature.positions]

    def whole(arrays: Mapping[str, Array]) -> Outputs:
        return model(arrays)

    def one(arrays: Mapping[str, Array]) -> Outputs:
        return (model(arrays),)

    return one if not signature.several else several if signature.left_out else whole


def _goes_by_sizes(bundle: Bundle, signature: Signature) -> bool:
    """Does the time of a run go by the sizes of its inputs, so that it can be foretold? It does not
    for texts, for what runs on the host, with loops and branches, and where a run finds sizes out
    itself."""
    manifest = bundle.manifest
    own = any(e.dynamic for e in bundle.entries) or any(s.kind != "input" for s in bundle.symbols)
    bodies = any("body" in step for step in manifest.get("steps", ()))
    texts = any(t.datatype == TEXT for t in signature.inputs)
    return not ("host" in manifest or own or bodies or texts)


def _try_out(model: Model, bundle: Bundle) -> tuple[int, int] | None:
    """Runs the self-test, where the bundle has golden vectors; elements of the inputs and
    nanoseconds of a run. Raises RunError, BundleError."""
    cases = _cases(model, bundle)
    if not cases:
        return None
    model.selftest()
    start = now()
    model(*cases[0].inputs)
    return sum(a.size for a in cases[0].inputs) or 1, now() - start


# ---- rows ----


def rows_are_independent(model: Model, signature: Signature, bundle: Bundle) -> bool:
    """Does each row of the outputs depend on the same row of the inputs alone, as far as the golden
    vector's rows show? They are run together, with others between them, and one by one.

    This is a test, not a proof, for models of which the compiler could not prove it: one that mixes
    rows only for rare values passes. The setting `batching` says otherwise for good.
    """
    cases = [c for c in _cases(model, bundle) if c.inputs[0].ndim and c.inputs[0].shape[0]]
    if not cases:
        return False
    low, high = signature.ranges.get(str(signature.rows), (0, 1))
    if low > 1 or high < 3:
        return False
    arrays = {t.name: a for t, a in zip(signature.inputs, cases[0].inputs, strict=True)}
    first = {n: a[:1] for n, a in arrays.items()}
    other = {n: _another(a[:1]) for n, a in arrays.items()}
    last = {n: a[-1:] for n, a in arrays.items()}
    if all(np.array_equal(first[n], r[n]) for r in (other, last) for n in arrays):
        return False  # rows that are all the same show nothing
    rows = [first, other, first, last][: min(4, high)]
    together = _outputs(model({n: np.concatenate([r[n] for r in rows]) for n in arrays}), signature)
    for k, row in enumerate(rows):
        alone = _outputs(model(row), signature)
        for a, b in zip(alone, together, strict=True):
            if b.shape[:1] != (len(rows),) or not _close(a, b[k : k + 1]):
                return False
    return True


def _cases(model: Model, bundle: Bundle) -> list[GoldenCase]:
    """The golden vectors of what a call of the model runs."""
    return [c for c in bundle.golden() if c.entry == model.entries[0]]


def _outputs(result: Any, signature: Signature) -> Sequence[Array]:
    return result if signature.several else (result,)


def _another(row: Array) -> Array:
    """Other values that the model takes: the same ones in another order, and floats smaller."""
    turned = row[:, ::-1] if row.ndim > 1 else row
    return np.ascontiguousarray(turned * row.dtype.type(0.75) if row.dtype.kind == "f" else turned)


def _close(a: Array, b: Array) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype == object or a.dtype.kind in "biuU":
        return bool(np.array_equal(a, b))
    x, y = a.astype(np.float64), b.astype(np.float64)
    scale = float(np.abs(x[np.isfinite(x)]).max(initial=0.0))
    return bool(np.allclose(x, y, rtol=1e-4, atol=1e-5 * scale, equal_nan=True))
