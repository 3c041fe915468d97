"""Everything about one case: compiling, errors, memory, loading, and times."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from naru.artifact.bundle import read_bundle
from naru.bench.case import Case, digest_of, model_files, sizes_of
from naru.bench.compiling import count_flops, measure_compile
from naru.bench.engines import ENGINES, NARU, Engine, Files
from naru.bench.feeds import Array, read_outputs, write_feeds
from naru.bench.numerics import errors, reference_outputs
from naru.bench.rounds import Effort, Rounds, Turn, measure_rounds, usable_cores
from naru.bench.worker import Refused, Worker
from naru.errors import InputError
from naru.options import Progress, tell_nobody

REFERENCES = ("float64", "onnxruntime", "none")
RELOAD_SECONDS = 1.0
BASE = "naru.call"  # what the others are compared with

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured, of every case.

    `against`: names of engines. `threads`: of every engine; `scaling`: naru also with this many.
    `cold`: also with the caches swept before each call. `reference`: what errors are against.
    `isa`: the target that naru compiles for, this machine's if empty. `hugepages`: naru's weights
    are copied into large pages.
    """

    against: Sequence[str] = ("onnxruntime", "openvino")
    threads: int = 1
    scaling: int | None = None
    cold: bool = False
    precision: str = "fp32"
    isa: str = ""
    reference: str = "float64"
    hugepages: bool = False
    effort: Effort = field(default=Effort())

    def check(self) -> None:
        """InputError when this machine cannot do it."""
        usable, wanted = len(usable_cores()), max(self.threads, self.scaling or 0)
        if usable and wanted > usable:
            raise InputError(f"{wanted} threads were asked for, but only {usable} cores are usable")
        if self.reference == "onnxruntime" and "onnxruntime" not in self.against:
            raise InputError("errors against onnxruntime need it among the engines of --against")

    def cores(self, threads: int) -> list[int]:
        """Where engines with this many threads run: the last cores; the first serve interrupts."""
        return usable_cores()[-threads:]

    def as_json(self) -> Json:
        return {**asdict(self), "against": list(self.against)}


@dataclass(frozen=True, slots=True)
class Entrant:
    """An engine with a number of threads. `label` names it in the record: `naru@2` is naru with
    two threads beside a `naru` with another number."""

    label: str
    engine: Engine
    threads: int


def entrants(settings: Settings) -> Iterator[Entrant]:
    yield Entrant(NARU.name, NARU, settings.threads)
    if settings.scaling:
        yield Entrant(f"{NARU.name}@{settings.scaling}", NARU, settings.scaling)
    for name in settings.against:
        yield Entrant(name, ENGINES[name], settings.threads)


class _Lost(Refused):
    """An engine that ended while it was timed."""

    def __init__(self, label: str, message: str) -> None:
        self.label = label
        super().__init__(message)


class CaseMeasurement:
    """The workers of a case while they live, and what was found so far (`found`)."""

    def __init__(self, case: Case, settings: Settings, folder: Path, on_progress: Progress) -> None:
        self.case, self.settings, self._folder, self._tell = case, settings, folder, on_progress
        self._bundle, self._feeds = folder / f"{case.name}.naru", folder / f"{case.name}.npz"
        self._workers: dict[str, Worker] = {}
        self._entrants = {e.label: e for e in entrants(settings)}
        self._outputs: dict[str, list[Array]] = {}
        self._ways: dict[str, Turn] = {}
        self.found: Json = {
            "name": case.name,
            "about": case.about,
            "shapes": case.shapes,
            "missing": {},
            "engines": {},
            "load": {},
            "memory": {},
        }

    def run(self) -> Json:
        """All parts in turn; where naru refuses the model, only its reason, under `missing`."""
        start = time.perf_counter()
        try:
            self._compile()
        except Refused as e:
            self.found["missing"][NARU.name] = e.message
            return self.found
        write_feeds(self._feeds, self.case.feeds)
        with ExitStack() as stack:
            self._start(stack)
            if NARU.name in self.found["missing"]:
                return self.found
            self._compare()
            self._time()
        self.found["took"] = time.perf_counter() - start
        return self.found

    def _compile(self) -> None:
        self._tell("compile", 0, 1)
        files = model_files(self.case.model)
        self._digest = digest_of(files)
        self.found["model"] = {
            "sha256": self._digest,
            "bytes": sum(path.stat().st_size for path in files),
        }
        self.found["compile"] = measure_compile(
            self.case.model,
            self._bundle,
            self._folder / f"{self.case.name}-cache",
            precision=self.settings.precision,
            isa=self.settings.isa,
            repeat=self.settings.effort.repeat,
        )
        bundle = read_bundle(self._bundle)
        sections = bundle.sections
        self.found["bundle"] = {
            "bytes": self._bundle.stat().st_size,
            "weights": sections["weights"].size if "weights" in sections else 0,
        }
        self.found["flops"] = self.case.flops
        if self.case.flops is None:
            self.found["flops"] = count_flops(bundle, sizes_of(bundle, self.case.feeds[0]))

    def _start(self, stack: ExitStack) -> None:
        """Starts the engines one by one, and has each load the model and run once."""
        for k, entrant in enumerate(self._entrants.values()):
            self._tell(f"load {entrant.label}", k, len(self._entrants))
            try:
                self._load(entrant, stack)
            except Refused as e:
                self.found["missing"][entrant.label] = _reason(entrant.engine, e.message)

    def _load(self, entrant: Entrant, stack: ExitStack) -> None:
        label, settings = entrant.label, self.settings
        worker = Worker(
            entrant.engine.adapter,
            entrant.threads,
            settings.cores(entrant.threads),
            hugepages=settings.hugepages,
        )
        stack.callback(worker.close)
        files = Files(str(self.case.model), str(self._bundle), self.case.factory)
        loaded = worker.ask("load", files=asdict(files), feeds=str(self._feeds))
        output = self._folder / f"{self.case.name}-{label}.npz"
        ran = worker.ask("run", output=str(output))
        again = worker.ask("reload", seconds=RELOAD_SECONDS)["seconds"]
        self._outputs[label] = read_outputs(output)
        self.found["engines"][label] = {
            "version": worker.version,
            "settings": loaded["settings"],
        }
        self.found["load"][label] = {"first": loaded["seconds"], "again": again}
        self.found["memory"][label] = ran["memory"]
        self._workers[label] = worker
        for way in loaded["ways"]:
            self._ways[f"{label}.{way}"] = partial(self._turn, label, way)

    def _compare(self) -> None:
        """Errors of all engines, or under `no_reference` why there are none."""
        wanted = self._outputs.get("onnxruntime")
        if self.settings.reference == "float64":
            self._tell("reference", 0, 1)
            cores = self.settings.cores(max(1, len(usable_cores())))
            try:
                wanted = reference_outputs(
                    self.case.model, self._digest, self.case.feeds[0], self._feeds, cores
                )
            except Refused as e:
                wanted = None
                self.found["no_reference"] = e.message
        elif self.settings.reference == "none":
            wanted = None
        self.found["errors"] = (
            {} if wanted is None else {k: errors(got, wanted) for k, got in self._outputs.items()}
        )

    def _time(self) -> None:
        found = self.found
        found |= {"rounds": {}, "seconds": {}, "ratios": {}, "roof_share": {}, "roofs": {}}
        for regime in ("hot", "cold") if self.settings.cold else ("hot",):
            rounds = self._rounds(regime)
            if rounds is None:
                return
            found["rounds"][regime] = rounds.as_json()
            for way in self._ways:
                found["seconds"].setdefault(way, {})[regime] = rounds.seconds(way)
                if way != BASE:
                    found["ratios"].setdefault(way, {})[regime] = rounds.ratio(BASE, way)
            if regime == "hot":
                found["roofs"] = rounds.roofs()
                self._share_of_roof(rounds)

    def _share_of_roof(self, rounds: Rounds) -> None:
        flops = self.found["flops"]
        for way in self._ways if flops else ():
            cores = self._cores_of(way)
            self.found["roof_share"][way] = rounds.roof_share(way, flops, cores)

    def _rounds(self, regime: str) -> Rounds | None:
        """The rounds of a regime. When an engine ends during them they begin again without it; None
        when that engine is naru."""
        most = max(e.threads for e in self._entrants.values())
        while BASE in self._ways:
            try:
                return measure_rounds(
                    self._ways,
                    self.settings.cores(most),
                    self.settings.effort,
                    cold=regime == "cold",
                    spinning=[w for w in self._ways if len(self._cores_of(w)) > 1],
                    on_round=lambda done, wanted: self._tell(f"{regime} rounds", done, wanted),
                )
            except _Lost as e:
                self._drop(e.label, e.message)
        return None

    def _turn(self, label: str, way: str, seconds: float, cold: bool) -> Mapping[str, Any]:
        try:
            return self._workers[label].ask("time", way=way, seconds=seconds, cold=cold)
        except Refused as e:
            raise _Lost(label, e.message) from None

    def _drop(self, label: str, reason: str) -> None:
        self.found["missing"][label] = reason
        self._ways = {k: turn for k, turn in self._ways.items() if k.partition(".")[0] != label}

    def _cores_of(self, way: str) -> Sequence[int]:
        threads = self._entrants[way.partition(".")[0]].threads
        return self.settings.cores(threads) or [-1]


def measure_case(
    case: Case,
    settings: Settings,
    folder: Path,
    on_progress: Progress = tell_nobody,
) -> Json:
    """What the record has of a case. Files are written into `folder`. An engine that cannot be had
    or refuses the model stands under `missing`, with its reason."""
    return CaseMeasurement(case, settings, folder, on_progress).run()


def _reason(engine: Engine, message: str) -> str:
    """A missing library with what brings it."""
    if "ModuleNotFoundError" in message and engine.install:
        return f"not installed: {engine.install}"
    return message
