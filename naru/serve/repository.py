"""The models of a folder: which there are, which are loaded, which make room.

    models/digits.naru              a model `digits` with one version, 1
    models/digits/digits.naru       the same
    models/digits/3/digits.onnx     version 3; several versions stand side by side
    models/digits/serve.toml        its settings

A model is loaded when the server starts, or when it is first asked for; it must pass its self-test
before it answers. When its files have changed, the new one is loaded beside the old one and takes
its place: no request is lost in between, and where the new one does not work the old one stays.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from naru.artifact.bundle import Bundle, read_bundle
from naru.compiler import compile_bundle
from naru.errors import InputError, ModelError, NaruError, nearest
from naru.serve.batching import Workers
from naru.serve.refusals import INTERNAL, INVALID, NOT_FOUND, UNAVAILABLE, Refusal
from naru.serve.servable import Servable
from naru.serve.settings import SETTINGS_FILE, ModelSettings, ServerSettings, read_model_settings
from naru.serve.statistics import Statistics
from naru.serve.tracing import Tracing

log = logging.getLogger("naru.serve")

BUNDLE = ".naru"
ONNX = ".onnx"
OTHERS = (".txt", ".json", ".ubj")  # of LightGBM and XGBoost; only where there is none of the above
_LOADERS = 4
ONLY = "1"  # the version of what has no folder of its own
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]*")


# ---- what lies in the folder ----


@dataclass(frozen=True, slots=True)
class Found:
    """A model's file, and what tells whether it has changed."""

    path: Path
    stamp: tuple[int, int, int]  # inode, size, time of change in nanoseconds


@dataclass(frozen=True)
class Listed:
    """A model as it lies in the folder: its versions, or why it cannot be served."""

    name: str
    versions: Mapping[str, Found]
    settings: ModelSettings = field(default_factory=ModelSettings)
    problem: str | None = None


def natural(version: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts versions as people do: 9 before 10, v9 before v10, words before numbers."""
    parts = re.findall(r"\d+|\D+", version)
    return tuple((1, int(p), "") if p.isdecimal() else (0, 0, p) for p in parts)


def list_models(root: Path, defaults: ModelSettings) -> dict[str, Listed]:
    """All models under a folder, or the one that is a file. Raises InputError where there is no
    such path."""
    if root.is_file():
        found = _found(root)
        return {root.stem: Listed(root.stem, {ONLY: found} if found else {}, defaults)}
    if not root.is_dir():
        raise InputError("there is no such file or folder", where=str(root))
    models: dict[str, Listed] = {}
    for entry in sorted(os.scandir(root), key=lambda e: e.name):
        model = _list_entry(entry, defaults)
        if model is None:
            continue
        if model.name in models:
            both = f"there are two models '{model.name}': a folder and a file, or two files"
            model = Listed(model.name, {}, defaults, both)
        models[model.name] = model
    return models


def list_model(root: Path, name: str, defaults: ModelSettings) -> Listed | None:
    """One model, as it lies there now; None where there is none of that name."""
    if root.is_file():
        return list_models(root, defaults).get(name)
    if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name:
        return None
    folder = root / name
    if folder.is_dir():
        return _list_folder(folder, defaults)
    for suffix in (BUNDLE, ONNX):
        found = _found(root / f"{name}{suffix}")
        if found:
            return Listed(name, {ONLY: found}, defaults)
    return None


def _list_entry(entry: os.DirEntry[str], defaults: ModelSettings) -> Listed | None:
    if entry.name.startswith("."):
        return None
    path = Path(entry.path)
    if entry.is_dir():
        return _list_folder(path, defaults)
    if path.suffix in (BUNDLE, ONNX) and (found := _found(path)):
        return Listed(path.stem, {ONLY: found}, defaults)
    return None


def _list_folder(folder: Path, defaults: ModelSettings) -> Listed | None:
    """A model's folder; None where there is nothing of a model in it."""
    with os.scandir(folder) as entries:
        shown = sorted((e for e in entries if e.name[0] != "."), key=lambda e: e.name)
    files = [e.name for e in shown if not e.is_dir()]
    settings, versions, problems = defaults, dict[str, Found](), list[str]()
    if SETTINGS_FILE in files:
        try:
            settings = read_model_settings(folder, defaults)
        except InputError as error:
            problems.append(str(error))
    own = _model_file(folder, files, problems)
    if own is not None:
        versions[ONLY] = own
    for entry in (e for e in shown if e.is_dir() and _VERSION.fullmatch(e.name)):
        inner = Path(entry.path)
        found = _model_file(inner, os.listdir(inner), problems)
        if found is not None and own is not None:
            problems.append(f"{folder}: a model's file stands beside folders of versions")
            own = None
        if found is not None:
            versions[entry.name] = found
    if not versions and not problems:
        return None
    return Listed(folder.name, versions, settings, "; ".join(problems) or None)


def _model_file(folder: Path, names: Iterable[str], problems: list[str]) -> Found | None:
    """The one file of a folder that is a model: a bundle, else ONNX, else another."""
    names = sorted(n for n in names if not n.startswith("."))
    for suffixes in ((BUNDLE,), (ONNX,), OTHERS):
        fitting = [n for n in names if Path(n).suffix in suffixes]
        if len(fitting) > 1:
            problems.append(f"{folder}: expected one model, found {', '.join(fitting)}")
            return None
        if fitting:
            return _found(folder / fitting[0])
    return None


def _found(path: Path) -> Found | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return Found(path, (status.st_ino, status.st_size, status.st_mtime_ns))


# ---- what is loaded ----


class Slot:
    """A version of a model: its file, and what was made of it."""

    def __init__(self, found: Found, settings: ModelSettings, statistics: Statistics) -> None:
        self.name, self.version = statistics.name, statistics.version
        self.found, self.settings, self.statistics = found, settings, statistics
        self.servable: Servable | None = None
        self.problem: str | None = None  # why the file, as it is now, does not serve
        self.loading: asyncio.Task[Servable] | None = None
        self.used = 0  # greater is later

    def __repr__(self) -> str:
        return f"<slot {self.name}/{self.version}>"

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
    """A model: its versions in order, the last of which answers where none is named."""

    name: str
    slots: dict[str, Slot]
    settings: ModelSettings
    problem: str | None = None
    unloaded: bool = False  # by request: it answers again when it is loaded by request

    @property
    def latest(self) -> Slot | None:
        """The slot that answers where no version is named."""
        return next(reversed(self.slots.values()), None)


class Repository:
    """The models of a folder. All of it but the loading is done by the event loop's thread."""

    def __init__(
        self, root: Path, settings: ServerSettings, workers: Workers, tracing: Tracing
    ) -> None:
        self.root, self._settings = root, settings
        self._workers, self._tracing = workers, tracing
        self._known: dict[str, Known] = {}
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="naru-load")
        self._closing: set[asyncio.Task[None]] = set()
        self._uses = 0
        self._held = 0  # bytes of loaded models
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
        if known is None or known.unloaded:
            return None
        slot = known.latest if version is None else known.slots.get(version)
        if slot is None or slot.servable is None:
            return None
        self._uses += 1
        slot.used = self._uses
        return slot.servable

    async def get(self, name: str, version: str | None = None) -> Servable:
        """A model that can answer, loaded if need be. Raises a Refusal: NOT_FOUND for what is not
        known, UNAVAILABLE for what does not work."""
        servable = self.find(name, version)
        if servable is None:
            servable = await self.load_slot(self.slot(name, version))
        return servable

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
        if version is None and known.latest is not None:
            return known.latest
        if version is not None:
            slot = known.slots.get(known.settings.aliases.get(version, version))
            if slot is not None:
                return slot
        if known.problem is not None:
            raise Refusal(UNAVAILABLE, f"the model '{name}' cannot be served: {known.problem}")
        listed = ", ".join([*known.slots, *known.settings.aliases]) or "none"
        raise Refusal(
            NOT_FOUND, f"the model '{name}' has no version '{version}'; there are: {listed}"
        )

    # ---- loading ----

    async def load_slot(self, slot: Slot) -> Servable:
        """Loads what a slot has not loaded yet; all who ask meanwhile wait for the same."""
        if slot.servable is not None:
            return slot.servable
        if slot.loading is None and slot.problem is not None:
            found = _found(slot.found.path)
            if found is None or found == slot.found:
                raise _does_not_load(slot)
            slot.found = found  # it may have been mended
        if slot.loading is None:
            slot.loading = asyncio.create_task(self._load(slot))
        try:
            return await asyncio.shield(slot.loading)
        except Refusal:
            raise
        except NaruError:
            raise _does_not_load(slot) from None

    async def _load(self, slot: Slot) -> Servable:
        """Loads the slot's file, and puts it in the place of what was there."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            servable = await loop.run_in_executor(self._loaders, self._make, slot)
        except Exception as error:
            slot.problem = _reason(error)
            log.error(
                "a model does not load",
                extra={"model": slot.name, "version": slot.version, "problem": slot.problem},
            )
            if isinstance(error, NaruError):
                raise
            log.exception("an unexpected error while loading")
            raise Refusal(INTERNAL, slot.problem) from error
        finally:
            slot.loading = None
        before, slot.servable, slot.problem = slot.servable, servable, None
        self._uses += 1
        slot.used = self._uses
        self._held += servable.size
        log.info(
            "loaded",
            extra={
                "model": slot.name, "version": slot.version, "bytes": servable.size,
                "seconds": round(loop.time() - start, 4), "batches": servable.batches,
                "left_out": list(servable.signature.left_out),
            },
        )  # fmt: skip
        if before is not None:
            self._retire(before)
        self._make_room(slot)
        return servable

    def _make(self, slot: Slot) -> Servable:
        """In a thread: the file, compiled if need be, as what answers."""
        path = slot.found.path
        bundle = open_file(path, slot.name, cache=self._settings.cache)
        return Servable(
            slot.name, slot.version, bundle, slot.settings, slot.statistics, self._workers
        )

    def _retire(self, servable: Servable) -> None:
        """Lets a servable that has been replaced or given up answer what it took, then go."""
        self._held -= servable.size
        task = asyncio.create_task(servable.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _make_room(self, kept: Slot) -> None:
        """Drops what was not used for longest until the rest fits the budget."""
        budget = self._settings.memory
        if not budget or self._held <= budget:
            return
        loaded = [s for k in self._known.values() for s in k.slots.values() if s.servable]
        for slot in sorted(loaded, key=lambda s: s.used):
            if self._held <= budget:
                return
            if slot is not kept and slot.servable is not None and slot.servable.queue.is_idle:
                log.info("makes room", extra={"model": slot.name, "version": slot.version})
                self._drop(slot)

    def _drop(self, slot: Slot) -> None:
        servable, slot.servable = slot.servable, None
        if servable is not None:
            self._retire(servable)

    # ---- changes ----

    def _adopt(self, listed: Listed) -> tuple[list[Slot], list[Slot]]:
        """Takes over how a model lies in the folder now; the slots that are new or changed, and
        those that are gone."""
        known = self._known.get(listed.name)
        before = known.slots if known else {}
        slots: dict[str, Slot] = {}
        changed: list[Slot] = []
        for version in sorted(listed.versions, key=natural):
            found, slot = listed.versions[version], before.get(version)
            if slot is None:
                statistics = Statistics(listed.name, version, self._tracing)
                slot = Slot(found, listed.settings, statistics)
                changed.append(slot)
            elif slot.found != found or slot.settings != listed.settings:
                slot.found, slot.settings = found, listed.settings
                changed.append(slot)
            slots[version] = slot
        gone = [s for v, s in before.items() if v not in slots]
        unloaded = known.unloaded if known else False
        self._known[listed.name] = Known(
            listed.name, slots, listed.settings, listed.problem, unloaded
        )
        return changed, gone

    async def load(self, name: str) -> None:
        """Reads a model's folder again and loads what is new or changed there, and its latest
        version. Raises a Refusal that says what does not load; what served before goes on."""
        listed = list_model(self.root, name, self._settings.model)
        if listed is None:
            if name in self._known:
                await self.unload(name)
                del self._known[name]
            raise Refusal(NOT_FOUND, f"there is no model '{name}' in the repository")
        if listed.problem is not None:
            raise Refusal(INVALID, f"the model '{name}' cannot be served: {listed.problem}")
        changed, gone = self._adopt(listed)
        known = self._known[name]
        latest = known.latest
        wanted = [s for s in changed if s.servable is not None or s is latest]
        if latest is not None and latest.servable is None and latest not in wanted:
            latest.problem = None
            wanted.append(latest)
        problems = await self._load_all(wanted)
        for slot in gone:
            self._drop(slot)
        if problems:
            raise Refusal(INVALID, "; ".join(problems))
        known.unloaded = False

    async def _load_all(self, slots: Iterable[Slot]) -> list[str]:
        """Loads slots anew; what is wrong with those that do not."""
        problems: list[str] = []
        for slot in slots:
            if slot.loading is None:
                slot.loading = asyncio.create_task(self._load(slot))
            try:
                await asyncio.shield(slot.loading)
            except NaruError:
                problems.append(f"version {slot.version} of '{slot.name}': {slot.problem}")
        return problems

    async def unload(self, name: str) -> None:
        """Takes a model out of service, once what it took is answered."""
        known = self.known(name)
        known.unloaded = True
        for slot in known.slots.values():
            self._drop(slot)
        if self._closing:
            await asyncio.wait(list(self._closing))

    async def refresh(self) -> None:
        """Looks for what has changed in the folder, and takes it over."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._loaders, list_models, self.root, self._settings.model
        )
        for name in [n for n in self._known if n not in found]:
            for slot in self._known.pop(name).slots.values():
                self._drop(slot)
        for listed in found.values():
            changed, gone = self._adopt(listed)
            for slot in gone:
                self._drop(slot)
            again = [s for s in changed if s.servable is not None]
            for slot in changed:
                slot.problem = None
            await self._load_all(again)

    async def start(self) -> None:
        """Loads all models, where there are few; else they wait until they are asked for. What does
        not load, the log and the index say."""
        slots = [k.latest for k in self._known.values() if k.latest is not None]
        for known in self._known.values():
            if known.problem is not None:
                log.error(
                    "a model cannot be served",
                    extra={"model": known.name, "problem": known.problem},
                )
        if len(slots) <= self._settings.load_at_start:
            await asyncio.gather(*(self._load_all([slot]) for slot in slots))

    async def close(self) -> None:
        """Waits until all that was taken is answered."""
        for known in self._known.values():
            for slot in known.slots.values():
                self._drop(slot)
        if self._closing:
            await asyncio.wait(list(self._closing))
        self._loaders.shutdown(wait=False, cancel_futures=True)


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


def _reason(error: Exception) -> str:
    text = str(error) if isinstance(error, NaruError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())
