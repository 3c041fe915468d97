"""Weights without a program: a state dict that torch.save or safetensors wrote, with the class of
the module that they are weights of.

Pickles run code: PyTorch's restricted loader reads tensors and plain data only, and classes that
the caller trusts by name. What people wrap state dicts in is recognised, and told.
"""

from __future__ import annotations

import importlib
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from naru.errors import InputError, ModelError
from naru.frontend.pickles import UNKNOWN_AUTHOR, check_trusted, is_dangerous
from naru.frontend.torch_files import CHECKPOINT, SAFETENSORS, first_line, torch_kind
from naru.frontend.torch_library import entries, library

# Keys that a state dict stands under, beside epochs and optimizers; the first one that is there.
WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "params",
    "weights",
)  # fmt: skip
# What wrappers of modules put before each key: DataParallel, torch.compile, Lightning.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
COUNTER = (
    "num_batches_tracked"  # of batch norm, which older checkpoints have not, and eval not asks
)
EXTRA = "_extra_state"  # what modules save beside weights, in any form
MOST_KEYS = 40  # that a message lists

ModuleSource = Any  # "package.module:Class", a class or function that makes a module, or a module


@dataclass(frozen=True)
class Checkpoint:
    """A module with its weights. `steps`: what was recognised on the way, in words; `left_out`: the
    keys of the file that are no weights of it (the optimizer, the epoch)."""

    module: Any
    steps: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def load_checkpoint(
    path: str | os.PathLike[str],
    module: ModuleSource,
    *,
    arguments: Mapping[str, Any] | None = None,
    trust: bool | Sequence[str] = (),
) -> Checkpoint:
    """The module, in eval mode, with the weights of a file.

    module: a module, a class or function that makes one, or its name: "package.module:Class";
    arguments: what it is called with.
    trust: classes that a pickle may make, by name ("package.module.Class"), or True, where you know
    who wrote the file: it may do anything that you may. None by default.
    Raises ModelError with all keys that are missing, not expected, or of another shape; InputError
    where there is no such class.
    """
    where = Path(path).name
    check_trusted(trust)
    found = _read(Path(path), where, trust)
    made = make_module(module, arguments or {})
    own = {k: v for k, v in made.state_dict().items() if _is_weight(k, v)}
    state, steps, left_out = _unwrapped(found, own, where)
    state, more = _without_prefixes(state, own)
    _check(state, own, made, where)
    cast_ = sorted({f"{v.dtype} -> {own[k].dtype}".replace("torch.", "") for k, v in state.items()
                    if k in own and v.dtype != own[k].dtype})  # fmt: skip
    made.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)
    told = (*steps, *more, *(f"weights cast: {c}" for c in cast_))
    return Checkpoint(made.eval(), told, tuple(left_out))


def make_module(module: ModuleSource, arguments: Mapping[str, Any]) -> Any:
    """A module from its class, its name, or itself. Raises InputError."""
    torch = library()
    if isinstance(module, torch.nn.Module):
        if arguments:
            raise InputError("arguments: the module is made already")
        return module
    factory = _named(module) if isinstance(module, str) else module
    if not callable(factory):
        kind = type(cast(object, module)).__name__
        raise InputError(f"module: expected a class, its name or a module, got {kind}")
    try:
        made = factory(**arguments)
    except TypeError as error:
        raise InputError(
            f"module: {getattr(factory, '__name__', factory)} cannot be made: {error}",
            hint="arguments={...}, what it is to be called with",
        ) from error
    if not isinstance(made, torch.nn.Module):
        raise InputError(f"module: expected an nn.Module, {module!r} gives {type(made).__name__}")
    return made


def _named(text: str) -> Callable[..., Any]:
    """What `package.module:Class` names."""
    place, colon, name = text.partition(":")
    if not colon or not place or not name:
        raise InputError(f"module: expected 'package.module:Class', found {text!r}")
    try:
        found: Any = importlib.import_module(place)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"module: {text!r} cannot be found: {error}",
            hint="run it where `import` finds the package (PYTHONPATH)",
        ) from error
    return found


# --- the file -------------------------------------------------------------------------------------


def _read(path: Path, where: str, trust: bool | Sequence[str]) -> Any:
    """What a file holds. Raises ModelError."""
    try:
        with path.open("rb") as file:
            kind = torch_kind(file.read(16), path)
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror or error}", where=where) from None
    if kind == SAFETENSORS:
        return _read_safetensors(path, where)
    if kind != CHECKPOINT:
        raise ModelError(
            f"expected a checkpoint, found {kind or 'something else'}",
            where=where,
            hint="torch.save(model.state_dict(), path)" if kind is None else "compile it as it is",
        )
    torch = library()
    with ExitStack() as stack:
        if not isinstance(trust, bool):
            allowed = [_named(":".join(name.rsplit(".", 1))) for name in trust]
            stack.enter_context(torch.serialization.safe_globals(allowed))
        try:
            return torch.load(path, map_location="cpu", weights_only=trust is not True)
        except pickle.UnpicklingError as error:
            raise _unsafe(unknown_objects(path, trust) or [], where) from error
        except Exception as error:
            line = first_line(error)
            raise ModelError(f"PyTorch cannot read it: {line}", where=where) from error


def _read_safetensors(path: Path, where: str) -> Any:
    try:
        return importlib.import_module("safetensors.torch").load_file(path)
    except ModuleNotFoundError:
        raise ModelError(
            "safetensors is not installed", where=where, hint="pip install safetensors"
        ) from None
    except Exception as error:
        raise ModelError(f"safetensors cannot read it: {error}", where=where) from error


def unknown_objects(path: Path, trust: bool | Sequence[str]) -> list[str] | None:
    """What a checkpoint would make that is no tensor and not trusted; None where that cannot be
    told, as in the old format."""
    try:
        found = library().serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:
        return None
    if isinstance(trust, bool):
        return [] if trust else sorted(found)
    return sorted(n for n in found if n not in trust)


def refuse_objects(path: Path, trust: bool | Sequence[str]) -> None:
    """ModelError for a checkpoint that would make objects."""
    check_trusted(trust)
    names = unknown_objects(path, trust)
    if names:
        raise _unsafe(names, path.name)


def _unsafe(names: list[str], where: str) -> ModelError:
    """Of a pickle that holds more than tensors."""
    what = f" ({', '.join(names)})" if names else ""
    if any(is_dangerous(n) for n in names):
        hint = UNKNOWN_AUTHOR
    else:
        listed = names or ["package.module.Class"]
        hint = (
            "save model.state_dict() instead; or, if you know who wrote it, name what it may make: "
            f"trust_pickle={listed}; or trust_pickle=True (--trust-pickle), which trusts all"
        )
    return ModelError(
        f"it is a pickle that makes objects other than tensors{what}, which can run any code",
        where=where,
        hint=hint,
    )


# --- wrappers -------------------------------------------------------------------------------------


def _unwrapped(
    found: Any, own: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], list[str], list[str]]:
    """(the state dict, what was recognised, keys beside it)."""
    torch, steps = library(), list[str]()
    if isinstance(found, torch.nn.Module):
        return dict(found.state_dict()), ["a whole module"], []
    left_out: list[str] = []
    top = entries(found)
    while top is not None and not _is_state(top):
        key = next((k for k in WRAPPERS if isinstance(top.get(k), Mapping | torch.nn.Module)), None)
        if key is None:
            break
        steps.append(f"the state dict under {key!r}")
        left_out += [str(k) for k in top if k != key]
        inner = top[key]
        top = entries(inner.state_dict() if isinstance(inner, torch.nn.Module) else inner)
    if top is None or not _is_state(top):
        kind = type(found).__name__ if top is None else f"the keys {', '.join(map(str, top))[:200]}"
        raise ModelError(
            f"expected a state dict (names and tensors), found {kind}",
            where=where,
            hint="torch.save(model.state_dict(), path)",
        )
    extra = [k for k, v in top.items() if not _is_weight(k, v)]
    return {k: v for k, v in top.items() if k not in extra}, steps, left_out + extra


def _is_weight(key: Any, value: Any) -> bool:
    """Is it a tensor, and not what modules save beside their weights?"""
    return isinstance(value, library().Tensor) and not str(key).endswith(EXTRA)


def _is_state(top: Mapping[Any, Any]) -> bool:
    """Names and tensors, `_extra_state` aside."""
    tensor = library().Tensor
    kept = {k: v for k, v in top.items() if not str(k).endswith(EXTRA)}
    return bool(kept) and all(isinstance(k, str) and isinstance(v, tensor) for k, v in kept.items())


def _without_prefixes(
    state: dict[str, Any], own: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Keys without what wrappers of modules put before them, where the module has not that too."""
    steps: list[str] = []
    while True:
        for prefix in PREFIXES:
            if all(k.startswith(prefix) for k in state) and not any(
                k.startswith(prefix) for k in own
            ):
                state = {k.removeprefix(prefix): v for k, v in state.items()}
                steps.append(f"the prefix {prefix!r} of all keys")
                break
        else:
            return state, steps


def _check(state: Mapping[str, Any], own: Mapping[str, Any], module: Any, where: str) -> None:
    """ModelError with all keys that don't fit, at once. A weight that another name shares may be
    left out, and so may batch norm's counters."""
    named = [*module.named_parameters(remove_duplicate=False)]
    places = {name: tensor.data_ptr() for name, tensor in named}
    there = {places[k] for k in state if k in places}
    missing = [
        k for k in own if k not in state and not k.endswith(COUNTER) and places.get(k) not in there
    ]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{k}: {list(own[k].shape)} expected, {list(v.shape)} found"
        for k, v in state.items()
        if k in own and own[k].shape != v.shape
    ]
    parts = (("missing", missing), ("not expected", unexpected), ("of another shape", shapes))
    lines = [f"{len(keys)} {what}: {_listed(keys)}" for what, keys in parts if keys]
    if lines:
        raise ModelError(
            "the weights do not fit the module:\n  " + "\n  ".join(lines),
            where=where,
            hint="the module that was saved, called with the same arguments",
        )


def _listed(keys: Sequence[str]) -> str:
    more = len(keys) - MOST_KEYS
    return ", ".join(keys[:MOST_KEYS]) + (f", and {more} more" if more > 0 else "")
