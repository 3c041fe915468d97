"""The models of a folder: which there are, which are loaded, which make room.

A model is loaded when the server starts, or when it is first asked for; it must pass its self-test
before it answers. When its files have changed, the new one is loaded beside the old one and takes
its place: no request is lost in between, and where the new one does not work the old one stays. Who
has got a servable may ask it for as long as they hold it, whatever takes its place.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakValueDictionary

from naru.artifact.bundle import Bundle, read_bundle
from naru.compiler import compile_bundle
from naru.errors import ModelError, NaruError, nearest
from naru.serve.batching import Workers
from naru.serve.listing import BUNDLE, Found, Listed, found_file, list_model, list_models, natural
from naru.serve.refusals import INTERNAL, INVALID, NOT_FOUND, UNAVAILABLE, Refusal
from naru.serve.servable import Servable
from naru.serve.settings import ModelSettings, ServerSettings
from naru.serve.statistics import Statistics
from naru.serve.tracing import Tracing

log = logging.getLogger("naru.serve")

_LOADERS = 4
_SETTLE_AFTER = 1.0  # seconds
_MOST_DROPPED = 64  # models, or as many as are loaded, until their rings are looked for


class Slot:
    """A version of a model: its file, and what was made of it."""

    def __init__(self, found: Found, settings: ModelSettings, statistics: Statistics) -> None:
        self.name, self.version = statistics.name, statistics.version
        self.statistics = statistics
        self.found, self.settings = found, settings  # as they lie there now
        self.servable: Servable | None = None
        self.problem: str | None = None  # why the file, as it is now, does not serve
        self.loading: asyncio.Task[Servable] | None = None
        self.used = 0  # greater is later
        self.gone = False  # the file is no longer there
        self._made_of: object = None
        self._failed: object = None

    def __repr__(self) -> str:
        return f"<slot {self.name}/{self.version}>"

    @property
    def sources(self) -> tuple[Found, ModelSettings]:
        """What a servable is made of."""
        return self.found, self.settings

    @property
    def is_up_to_date(self) -> bool:
        """Is what is loaded made of what lies there?"""
        return self.servable is not None and self._made_of == self.sources

    @property
    def has_failed(self) -> bool:
        """Is it known that what lies there does not load?"""
        return self._failed == self.sources

    def install(self, servable: Servable, sources: object) -> None:
        """What was made of some sources answers from now on."""
        self.servable, self._made_of = servable, sources
        self.problem = self._failed = None

    def fail(self, problem: str, sources: object) -> None:
        """Nothing could be made; of `sources` it need not be tried again."""
        self.problem, self._failed = problem, sources

    @property
    def state(self) -> tuple[str, str]:
        """The state and its reason, as the index of the repository has them."""
        if self.servable is not None:
            kept = f"the changed file does not serve, the one before does: {self.problem}"
            return "READY", kept if self.problem else ""
        if self.loading is not None:
            return "LOADING", ""
        if self.problem is not None:
            return "UNAVAILABLE", self.problem
        return "READY", "not loaded: the first request does that"


@dataclass
class Known:
    """A model: its versions in order, and which of them answers where none is named: the greatest
    that is known to load, or else the greatest."""

    name: str
    slots: dict[str, Slot]
    settings: ModelSettings
    current: str | None = None
    problem: str | None = None  # of what lies in the folder now; what is loaded goes on
    unloaded: bool = False  # by request: it answers again when it is loaded by request
    listed: Listed | None = None

    def resolve(self, version: str | None) -> Slot | None:
        """The slot of a version or an alias, or the one that answers where none is named."""
        if version is None:
            return self.slots.get(self.current or "")
        return self.slots.get(version) or self.slots.get(self.settings.aliases.get(version, ""))

    @property
    def greatest(self) -> Slot | None:
        """The greatest version that lies there."""
        there = [s for s in self.slots.values() if not s.gone]
        return there[-1] if there else None

    @property
    def loaded(self) -> list[Slot]:
        """The slots that can answer now."""
        return [s for s in self.slots.values() if s.servable is not None]


class Repository:
    """The models of a folder. All of it but the loading is done by the event loop's thread."""

    def __init__(
        self, root: Path, settings: ServerSettings, workers: Workers, tracing: Tracing
    ) -> None:
        self.root, self._settings = root, settings
        self._workers, self._tracing = workers, tracing
        self._known: dict[str, Known] = {}
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="naru-load")
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._closed = False
        self._uses = 0
        self.held = 0  # bytes of loaded models
        self._settling: asyncio.TimerHandle | None = None
        self._dropped = 0  # models, since rings of what they left were looked for
        for listed in list_models(root, settings.model).values():
            self._adopt(listed)

    # ---- asking ----

    @property
    def names(self) -> list[str]:
        return list(self._known)

    def models(self) -> Iterator[Known]:
        """All that is known."""
        return iter(self._known.values())

    def find(self, name: str, version: str | None = None) -> Servable | None:
        """A loaded model that can answer now."""
        known = self._known.get(name)
        slot = None if known is None or known.unloaded else known.resolve(version)
        if slot is None or slot.servable is None:
            return None
        self._uses += 1
        slot.used = self._uses
        return slot.servable

    async def get(self, name: str, version: str | None = None) -> Servable:
        """A model that can answer, loaded if need be. Raises a Refusal: NOT_FOUND for what is not
        known, UNAVAILABLE for what does not work."""
        servable = self.find(name, version)
        if servable is not None:
            return servable
        slot = self.slot(name, version)
        if version is None:
            return await self._first_that_loads(self.known(name))
        return await self._load_asked(slot)

    def known(self, name: str) -> Known:
        """A model. Raises a Refusal where there is none of that name."""
        known = self._known.get(name)
        if known is None:
            meant = nearest(name, self._known)
            raise Refusal(
                NOT_FOUND, f"there is no model '{name}'" + (f"; {meant}" if meant else "")
            )
        return known

    def slot(self, name: str, version: str | None = None) -> Slot:
        """A version of a model, by its name or an alias. Raises a Refusal."""
        known = self.known(name)
        if known.unloaded:
            raise Refusal(UNAVAILABLE, f"the model '{name}' was unloaded")
        slot = known.resolve(version)
        if slot is not None:
            return slot
        if known.problem is not None:
            raise Refusal(UNAVAILABLE, f"the model '{name}' cannot be served: {known.problem}")
        listed = ", ".join([*known.slots, *known.settings.aliases]) or "none"
        raise Refusal(
            NOT_FOUND, f"the model '{name}' has no version '{version}'; there are: {listed}"
        )

    # ---- loading ----

    async def _first_that_loads(self, known: Known) -> Servable:
        """The greatest version that loads, which then is the current one."""
        refusals: list[Refusal] = []
        for slot in reversed([s for s in known.slots.values() if not s.gone]):
            try:
                servable = await self._load_asked(slot)
            except Refusal as refusal:
                refusals.append(refusal)
                continue
            known.current = slot.version
            return servable
        raise refusals[0] if refusals else Refusal(NOT_FOUND, f"'{known.name}' has no version")

    async def _load_asked(self, slot: Slot) -> Servable:
        """What a request gets of a slot: what is loaded, or what lies there, loaded. Raises a
        Refusal."""
        if slot.servable is not None:
            return slot.servable
        if slot.has_failed:
            found = found_file(slot.found.path)
            if found is None or found == slot.found:
                raise _does_not_load(slot)
            slot.found = found  # it may have been mended
        try:
            return await self._bring(slot)
        except Refusal:
            raise
        except NaruError:
            raise _does_not_load(slot) from None

    async def _bring(self, slot: Slot) -> Servable:
        """Brings a slot up to date with what lies there; all who ask meanwhile wait for the same.
        Raises naru's errors."""
        while not slot.is_up_to_date or slot.servable is None:
            if slot.loading is None:
                slot.loading = asyncio.create_task(self._load(slot))
            await asyncio.shield(slot.loading)
        return slot.servable

    async def _load(self, slot: Slot) -> Servable:
        """Makes a servable of what lies there, and puts it in the place of what was there."""
        loop, sources = asyncio.get_running_loop(), slot.sources
        start = loop.time()
        try:
            servable = await loop.run_in_executor(self._loaders, self._make, slot, *sources)
        except Exception as error:
            _log_failure(slot, error)
            if isinstance(error, NaruError):
                slot.fail(" ".join(error.message.split()), sources)
                raise
            slot.fail("an unexpected error: the server's log has more", None)
            raise Refusal(INTERNAL, f"'{slot.name}': {slot.problem}") from error
        finally:
            slot.loading = None
        if not self._is_wanted(slot):
            raise Refusal(UNAVAILABLE, f"the model '{slot.name}' was unloaded meanwhile")
        self._drop(slot)
        slot.install(servable, sources)
        self._uses += 1
        slot.used = self._uses
        self.held += servable.size
        self._settle_soon()
        log.info(
            "loaded",
            extra={
                "model": slot.name, "version": slot.version, "bytes": servable.size,
                "seconds": round(loop.time() - start, 4), "batches": servable.batches,
                "left_out": list(servable.signature.left_out),
            },
        )  # fmt: skip
        self._make_room(slot)
        return servable

    def _make(self, slot: Slot, found: Found, settings: ModelSettings) -> Servable:
        """In a thread: the file, compiled if need be, as what answers."""
        bundle = open_file(found.path, slot.name, cache=self._settings.cache)
        statistics = slot.statistics
        return Servable(slot.name, slot.version, bundle, settings, statistics, self._workers)

    def _is_wanted(self, slot: Slot) -> bool:
        """Is a slot still one of its model's, and the model in service?"""
        known = self._known.get(slot.name)
        there = known is not None and known.slots.get(slot.version) is slot
        return there and known is not None and not known.unloaded and not self._closed

    def _make_room(self, kept: Slot) -> None:
        """Drops what was not used for longest until the rest fits the budget."""
        budget = self._settings.memory
        if not budget or self.held <= budget:
            return
        loaded = [s for k in self._known.values() for s in k.loaded]
        for slot in sorted(loaded, key=lambda s: s.used):
            if self.held <= budget:
                return
            if slot is not kept and slot.servable is not None and slot.servable.queue.is_idle:
                log.info("makes room", extra={"model": slot.name, "version": slot.version})
                self._drop(slot)

    def _drop(self, slot: Slot) -> Servable | None:
        """Takes a servable out of its slot; who holds it may still ask it."""
        servable, slot.servable = slot.servable, None
        if servable is not None:
            self.held -= servable.size
            self._dropped += 1
        return servable

    def _settle_soon(self) -> None:
        if self._settling is None:
            self._settling = asyncio.get_running_loop().call_later(_SETTLE_AFTER, self._settle)

    def _settle(self) -> None:
        """Takes what is loaded out of the sight of the garbage collector: looking through one model
        takes it 30 ms now and then, and 10,000 of them half a second, in which nobody is answered.
        """
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        # What was dropped is gone, but for rings of references, if it left any.
        if self._dropped > max(_MOST_DROPPED, sum(len(k.loaded) for k in self._known.values())):
            self._dropped = 0
            gc.unfreeze()
        gc.collect()
        gc.freeze()

    # ---- changes ----

    def _lock(self, name: str) -> asyncio.Lock:
        """What only one change of a model at a time may hold."""
        return self._changing.setdefault(name, asyncio.Lock())

    def _adopt(self, listed: Listed) -> Known:
        """Takes over how a model lies in the folder now. What is loaded stays so until `_renew`."""
        known = self._known.setdefault(listed.name, Known(listed.name, {}, listed.settings))
        known.listed, known.problem = listed, listed.problem
        if listed.problem is not None:
            return known
        known.settings, before = listed.settings, known.slots
        own = replace(listed.settings, aliases={})
        for version, found in listed.versions.items():
            if version not in before:
                statistics = Statistics(listed.name, version, self._tracing)
                before[version] = Slot(found, own, statistics)
            before[version].found, before[version].settings = found, own
        for version, slot in before.items():
            slot.gone = version not in listed.versions
        known.slots = {v: before[v] for v in sorted(before, key=natural)}
        if not known.loaded:
            self._forget_gone(known)
            known.current = None if known.greatest is None else known.greatest.version
        return known

    def _forget_gone(self, known: Known) -> None:
        for slot in [s for s in known.slots.values() if s.gone]:
            self._drop(slot)
            del known.slots[slot.version]

    async def _renew(self, known: Known) -> list[str]:
        """Loads what is loaded and has changed, and the greatest version; what is wrong with those
        that do not load."""
        problems: list[str] = []
        greatest = known.greatest
        for slot in list(known.slots.values()):
            if slot.gone or (slot.servable is None and slot is not greatest):
                continue
            try:
                await self._bring(slot)
            except NaruError:
                problems.append(f"version {slot.version} of '{slot.name}': {slot.problem}")
        if greatest is not None and greatest.servable is not None:
            known.current = greatest.version
        current = known.resolve(None)
        if current is None or not current.gone:  # else it is all that works
            self._forget_gone(known)
        return problems

    async def load(self, name: str) -> None:
        """Reads a model's folder again and loads what is new or changed there, and its greatest
        version. Raises a Refusal that says what does not load; what served before goes on."""
        async with self._lock(name):
            listed = list_model(self.root, name, self._settings.model)
            if listed is None:
                self._remove(name)
                raise Refusal(NOT_FOUND, f"there is no model '{name}' in the repository")
            known = self._adopt(listed)
            if listed.problem is not None:
                raise Refusal(INVALID, f"the model '{name}' cannot be served: {listed.problem}")
            unloaded, known.unloaded = known.unloaded, False
            problems = await self._renew(known)
            if problems:
                known.unloaded = unloaded and not known.loaded
                raise Refusal(INVALID, "; ".join(problems))

    async def unload(self, name: str) -> None:
        """Takes a model out of service, once what it took is answered. Raises a Refusal."""
        async with self._lock(name):
            known = self.known(name)
            known.unloaded = True
            dropped = [self._drop(slot) for slot in known.slots.values()]
            await asyncio.gather(*(s.queue.drain() for s in dropped if s is not None))

    def _remove(self, name: str) -> None:
        """Forgets a model that is no longer there."""
        known = self._known.pop(name, None)
        for slot in known.slots.values() if known is not None else ():
            self._drop(slot)

    async def refresh(self) -> None:
        """Looks for what has changed in the folder, and takes it over. Raises InputError where the
        folder cannot be read."""
        loop = asyncio.get_running_loop()
        defaults = self._settings.model
        found = await loop.run_in_executor(self._loaders, list_models, self.root, defaults)
        for name in sorted({*found, *self._known}):
            known = self._known.get(name)
            if known is not None and known.listed == found.get(name):
                continue
            async with self._lock(name):  # and look again: others may have been here
                listed = list_model(self.root, name, defaults)
                if listed is None:
                    self._remove(name)
                    continue
                known = self._adopt(listed)
                if known.problem is not None:
                    log.error(
                        "a model cannot be served", extra={"model": name, "problem": known.problem}
                    )
                elif known.loaded:
                    await self._renew(known)

    async def start(self) -> None:
        """Loads all models, where there are few; else they wait until they are asked for. What does
        not load, the log and the index say."""
        for known in self._known.values():
            if known.problem is not None:
                extra = {"model": known.name, "problem": known.problem}
                log.error("a model cannot be served", extra=extra)
        models = [k for k in self._known.values() if k.slots]
        if len(models) <= self._settings.load_at_start:
            tasks = (self._first_that_loads(k) for k in models)
            for found in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(found, BaseException) and not isinstance(found, Refusal):
                    raise found
        self._settle()

    async def close(self) -> None:
        """Takes all out of service; returns when all that was taken is answered."""
        self._closed = True
        if self._settling is not None:
            self._settling.cancel()
        self._loaders.shutdown(wait=False, cancel_futures=True)
        slots = [s for k in self._known.values() for s in k.slots.values()]
        dropped = [self._drop(slot) for slot in slots]
        await asyncio.gather(*(s.queue.drain() for s in dropped if s is not None))


def _log_failure(slot: Slot, error: Exception) -> None:
    """All that is known of why a model does not load; clients are told less."""
    extra = {"model": slot.name, "version": slot.version, "problem": " ".join(str(error).split())}
    unexpected = None if isinstance(error, NaruError) else error
    log.error("a model does not load", extra=extra, exc_info=unexpected)


def _does_not_load(slot: Slot) -> Refusal:
    return Refusal(
        UNAVAILABLE,
        f"version {slot.version} of the model '{slot.name}' does not load: {slot.problem}",
    )


def open_file(path: Path, name: str, *, cache: bool = True) -> Bundle:
    """The bundle of a model's file: as it is, or compiled. Raises naru's errors."""
    if path.suffix == BUNDLE:
        return read_bundle(path)
    if not path.is_file():
        raise ModelError("there is no such file", where=str(path))
    return compile_bundle(path, cache=cache, name=name)
