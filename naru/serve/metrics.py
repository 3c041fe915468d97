"""Metrics for Prometheus, read from the statistics when they are asked for: a request pays nothing
for them. The names that Triton's dashboards use (`nv_inference_*`) are there too."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from naru.serve.access import EVERYBODY, Token
from naru.serve.dataplane import DataPlane
from naru.serve.repository import Slot
from naru.serve.statistics import BORDERS, Statistics

_LABELS = ("model", "version")
_AS_TRITON = "unknown"  # counters of this library get another name, with `_total` behind it
# name, help, value
_COUNTERS: tuple[tuple[str, str, Callable[[Statistics], float]], ...] = (
    ("nv_inference_request_success", "Requests that were answered.", lambda s: s.answers),
    ("nv_inference_count", "Rows that were inferred.", lambda s: s.rows),
    ("nv_inference_exec_count", "Runs of the model.", lambda s: s.runs),
)
_DURATIONS = {
    "request": ("success", "Time of answered requests, in sum."),
    "queue": ("queue", "Time in the queue."),
    "compute_input": ("compute_input", "Time to put batches together."),
    "compute_infer": ("compute_infer", "Time in the model."),
    "compute_output": ("compute_output", "Time to take batches apart."),
}


class _Collector:
    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self.token = EVERYBODY  # who asks

    def collect(self) -> Iterator[Metric]:
        slots = [
            s
            for k in self._plane.repository.models()
            for s in k.slots.values()
            if (s.servable is not None or s.statistics.last_ms) and self.token.may_see(s.name)
        ]
        for name, text, value in _COUNTERS:
            family = Metric(name, text, _AS_TRITON)
            for slot in slots:
                family.add_sample(name, _labels(slot), value(slot.statistics))
            yield family
        for name, (part, text) in _DURATIONS.items():
            name = f"nv_inference_{name}_duration_us"
            family = Metric(name, text, _AS_TRITON)
            for slot in slots:
                ns: int = getattr(slot.statistics, f"{part}_ns")
                family.add_sample(name, _labels(slot), ns / 1000)
            yield family
        yield _failures(slots)
        yield _latencies(slots)
        waiting = GaugeMetricFamily(
            "nv_inference_pending_request_count", "Requests in the queue.", labels=_LABELS
        )
        for slot in slots:
            if slot.servable is not None:
                waiting.add_metric([slot.name, slot.version], len(slot.servable.queue))
        yield waiting
        loaded = GaugeMetricFamily("naru_model_bytes", "Size of a loaded model.", labels=_LABELS)
        for slot in slots:
            if slot.servable is not None:
                loaded.add_metric([slot.name, slot.version], slot.servable.size)
        yield loaded
        ready = GaugeMetricFamily("naru_ready", "1 while the server is ready.")
        ready.add_metric([], float(self._plane.ready))
        yield ready


def _labels(slot: Slot) -> dict[str, str]:
    return {"model": slot.name, "version": slot.version}


def _failures(slots: list[Slot]) -> Metric:
    name = "nv_inference_request_failure"
    family = Metric(name, "Requests that were refused.", _AS_TRITON)
    for slot in slots:
        for reason, count in slot.statistics.refused.items():
            family.add_sample(name, {**_labels(slot), "reason": reason}, count)
    return family


def _latencies(slots: list[Slot]) -> Metric:
    family = HistogramMetricFamily(
        "naru_request_seconds", "Time from a request's arrival to its outputs.", labels=_LABELS
    )
    for slot in slots:
        family.add_metric([slot.name, slot.version], *_buckets(slot.statistics))
    return family


def _buckets(statistics: Statistics) -> tuple[list[tuple[str, float]], float]:
    total, buckets = 0, list[tuple[str, float]]()
    for border, count in zip((*BORDERS, float("inf")), statistics.histogram, strict=True):
        total += count
        buckets.append(("+Inf" if border == float("inf") else str(border), total))
    return buckets, statistics.success_ns / 1e9


class Metrics:
    """The page for Prometheus."""

    def __init__(self, plane: DataPlane) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._collector = _Collector(plane)
        self._registry.register(self._collector)  # pyright: ignore[reportArgumentType]
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def text(self, accept: str, token: Token) -> tuple[bytes, str]:
        """The metrics of the models that a token is for, and the media type that suits an Accept
        header."""
        encoder, media = choose_encoder(accept)
        self._collector.token = token
        return encoder(self._registry), media
