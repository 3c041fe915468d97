"""What the server can do, without a protocol: named arrays in, named arrays out, and what is to be
known and changed besides. http.py and grpc_service.py are two ways to say the same."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import orjson

from naru.runtime import _native, tables
from naru.serve.batching import Workers
from naru.serve.datatypes import CONFIG_TYPES
from naru.serve.refusals import FORBIDDEN, INVALID, UNAVAILABLE, UNSUPPORTED, Refusal
from naru.serve.repository import Repository
from naru.serve.room import Room
from naru.serve.servable import Servable
from naru.serve.settings import ServerSettings
from naru.serve.signature import Tensor
from naru.serve.tracing import Tracing, whole
from naru.version import VERSION

log = logging.getLogger("naru.serve")

EXTENSIONS = (
    "classification", "model_configuration", "model_repository",
    "model_repository(unload_dependents)", "binary_tensor_data", "statistics", "trace", "logging",
    "parameters", "schedule_policy", "arrow_stream",
)  # fmt: skip
PLATFORM = "naru"


class DataPlane:
    """The server as its protocols see it. `root` is a folder of models or the file of one."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        # One more than cores: one run begins while the answer of another is on its way.
        self.workers = Workers(settings.workers or _native.usable_cores() + 1)
        self.tracing = Tracing()
        self.repository = Repository(settings.root, settings, self.workers, self.tracing)
        self.room = Room(settings.max_held)
        self.started = False  # the models that are loaded at the start have been tried
        self.draining = False  # the server is about to end: not ready, but it still answers
        self.stopped = False  # it no longer answers
        self.logging = Logging()

    # ---- models ----

    def find(self, name: str, version: str | None) -> Servable | None:
        """A model that can answer now."""
        return None if self.stopped else self.repository.find(name, version)

    async def get(self, name: str, version: str | None = None) -> Servable:
        """A model that can answer, loaded if need be. Raises a Refusal."""
        if self.stopped:
            raise Refusal(UNAVAILABLE, "the server is stopping", retry_after=1)
        return await self.repository.get(name, version)

    # ---- the server ----

    @property
    def ready(self) -> bool:
        """May clients send requests?"""
        return self.started and not self.draining and not self.stopped

    def metadata(self) -> dict[str, Any]:
        """Server metadata (protocol: ServerMetadata)."""
        return {"name": "naru", "version": VERSION, "extensions": list(EXTENSIONS)}

    def model_ready(self, name: str, version: str | None) -> bool:
        """Would a request be answered? Raises a Refusal for a model that is not known."""
        known = self.repository.known(name)
        if known.unloaded or self.draining or self.stopped:
            return False
        try:
            slot = self.repository.slot(name, version)
        except Refusal as refusal:
            if refusal.kind is UNAVAILABLE:
                return False
            raise
        return slot.servable is not None or (slot.problem is None and slot.loading is None)

    async def model_metadata(self, name: str, version: str | None) -> dict[str, Any]:
        """Model metadata (protocol: ModelMetadata)."""
        servable = await self.get(name, version)
        known = self.repository.known(name)
        return {
            "name": name,
            "versions": list(known.slots) if version is None else [servable.version],
            "platform": PLATFORM,
            "inputs": [_metadata(t) for t in servable.signature.inputs],
            "outputs": [_metadata(t) for t in servable.signature.outputs],
        }

    async def model_config(self, name: str, version: str | None) -> dict[str, Any]:
        """The model's configuration, in the words of Triton (model configuration extension)."""
        servable = await self.get(name, version)
        settings, signature = servable.settings, servable.signature
        # Batches of single elements have no form there: dims are never none.
        tensors = (*signature.inputs, *signature.outputs)
        batches = servable.batches and all(len(t.dims) > 1 for t in tensors)
        config: dict[str, Any] = {
            "name": name,
            "platform": PLATFORM,
            "backend": PLATFORM,
            "version_policy": {"all": {}},
            "max_batch_size": min(settings.max_batch, signature.most_rows) if batches else 0,
            "input": [_config(t, batches) for t in signature.inputs],
            "output": [_config(t, batches) for t in signature.outputs],
            "instance_group": [
                {"name": name, "kind": "KIND_CPU", "count": self.workers.count, "gpus": []}
            ],
            "model_transaction_policy": {"decoupled": False},
            "parameters": {k: {"string_value": v} for k, v in _facts(servable).items()},
        }
        if batches:
            config["dynamic_batching"] = {
                "preferred_batch_size": [],
                "max_queue_delay_microseconds": settings.max_delay_us,
            }
        return config

    def statistics(self, name: str | None = None, version: str | None = None) -> dict[str, Any]:
        """What was counted (statistics extension), and how many requests wait now (`queue_size`):
        of all models that were loaded, or of one. Raises a Refusal."""
        if name is None:
            slots = [s for k in self.repository.models() for s in k.slots.values()]
        elif version is None:
            slots = list(self.repository.known(name).slots.values())
        else:
            slots = [self.repository.slot(name, version)]
        shown = [s for s in slots if s.servable is not None or s.statistics.last_ms]
        stats = [s.statistics.as_json() for s in shown]
        for item, slot in zip(stats, shown, strict=True):
            item["queue_size"] = 0 if slot.servable is None else len(slot.servable.queue)
        return {"model_stats": stats}

    # ---- the repository ----

    def index(self, ready: bool = False) -> list[dict[str, str]]:
        """All versions of all models and their states (model repository extension)."""
        items: list[dict[str, str]] = []
        for known in self.repository.models():
            if known.problem is not None and not known.slots:
                item = {"name": known.name, "state": "UNAVAILABLE", "reason": known.problem}
                items.append(item)
            for slot in known.slots.values():
                state, reason = slot.state
                if known.unloaded:
                    state, reason = "UNAVAILABLE", "unloaded"
                elif known.problem is not None:
                    reason = f"what lies there now cannot be served: {known.problem}"
                items.append(
                    {"name": slot.name, "version": slot.version, "state": state, "reason": reason}
                )
        return [i for i in items if i["state"] == "READY"] if ready else items

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Loads a model again from its folder. Raises a Refusal; nothing is taken from the request
        but the name."""
        self.require_control()
        files = [k for k in parameters if k.startswith("file:")]
        if files:
            raise Refusal(UNSUPPORTED, f"{files[0]}: models come from the server's folder alone")
        if "config" in parameters:
            raise Refusal(
                UNSUPPORTED,
                "config: a model's settings stand in the file serve.toml of its folder",
            )
        await self.repository.load(name)

    async def unload(self, name: str) -> None:
        """Takes a model out of service. Raises a Refusal."""
        self.require_control()
        await self.repository.unload(name)

    def require_control(self) -> None:
        """Raises a Refusal where the server does not let clients change anything."""
        if not self.settings.model_control:
            raise Refusal(
                FORBIDDEN,
                "models are not loaded, unloaded or changed by request here",
                hint="start the server with --allow-model-control",
            )


def _metadata(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _config(tensor: Tensor, batches: bool) -> dict[str, Any]:
    """A tensor as configurations have it: without the dim of a batch, and never without dims."""
    dims = list(tensor.shape[1:] if batches else tensor.shape)
    config: dict[str, Any] = {
        "name": tensor.name,
        "data_type": CONFIG_TYPES[tensor.datatype],
        "dims": dims or [1],
    }
    if not dims:
        config["reshape"] = {"shape": []}
    if tensor.optional:
        config["optional"] = True
    return config


def _facts(servable: Servable) -> dict[str, str]:
    """What is known of a model that Triton's configuration has no word for, the last four as JSON:
    dims by tensor, with the names of those that are open; least and most size by name; columns of a
    table by input; labels by output."""
    signature, model = servable.signature, servable.model
    facts: dict[str, Any] = {
        "dims": {t.name: t.dims for t in (*signature.inputs, *signature.outputs)},
        "sizes": signature.ranges,
        "columns": tables.columns_of(model.manifest),
        "labels": model.labels,
    }
    return {
        "source_sha256": servable.digest,
        **{k: orjson.dumps(v).decode() for k, v in facts.items()},
    }


class Logging:
    """The log settings (logging extension)."""

    DEFAULT: Mapping[str, Any] = {
        "log_file": "", "log_info": True, "log_warning": True, "log_error": True,
        "log_verbose_level": 0, "log_format": "default",
    }  # fmt: skip

    def __init__(self) -> None:
        self._settings = dict(self.DEFAULT)

    def get(self) -> dict[str, Any]:
        return dict(self._settings)

    def change(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Changes some, and what is logged with them. Raises a Refusal."""
        given = {key: whole(value) for key, value in given.items()}
        for key, value in given.items():
            default = self.DEFAULT.get(key)
            if key not in ("log_info", "log_warning", "log_error", "log_verbose_level"):
                raise Refusal(INVALID, f"log setting '{key}' cannot be changed")
            if type(value) is not type(default) or (
                type(value) is int and not 0 <= value < 1 << 31
            ):
                raise Refusal(INVALID, f"{key}: expected a value like {default!r}, got {value!r}")
        self._settings.update(given)
        s = self._settings
        level = logging.CRITICAL
        for key, its in (
            ("log_error", logging.ERROR),
            ("log_warning", logging.WARNING),
            ("log_info", logging.INFO),
        ):
            level = its if s[key] else level
        log.setLevel(logging.DEBUG if s["log_verbose_level"] else level)
        return self.get()
