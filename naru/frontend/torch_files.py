"""Files of PyTorch: which kind one is, and programs among them as graphs.

A `.pt2` (torch.export.save) is a program. A TorchScript file holds code and no shapes: its own
interpreter runs it while torch.export traces what that computes, so that the same tables read it.
Hence it needs an example, and a loop or choice that data decide cannot be traced. Checkpoints,
which are weights without a program, are read by `torch_checkpoints`.
"""

from __future__ import annotations

import io
import os
import struct
import threading
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypeAlias

from naru import knobs
from naru.errors import ModelError
from naru.frontend import torch_safety as safety
from naru.frontend.torch_library import library

Source: TypeAlias = "str | os.PathLike[str] | bytes"

PT2, TORCHSCRIPT, CHECKPOINT, SAFETENSORS = "pt2", "TorchScript", "checkpoint", "safetensors"
ZIP = b"PK\x03\x04"
# What torch.save wrote before it wrote zip files: a pickle of a magic number.
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
LONGEST_HEADER = 100_000_000  # bytes, the limit of safetensors itself


def torch_kind(head: bytes, source: Source) -> str | None:
    """pt2, TorchScript, checkpoint or safetensors; None for what PyTorch has not written. `head`:
    how the file begins. PyTorch is not loaded to tell."""
    if head.startswith(LEGACY):
        return CHECKPOINT
    if head.startswith(ZIP):
        return _kind_of_zip(source)
    if len(head) > 9 and head[8:9] == b"{":
        (length,) = struct.unpack("<Q", head[:8])
        return SAFETENSORS if 2 <= length <= LONGEST_HEADER else None
    return None


def _kind_of_zip(source: Source) -> str | None:
    try:
        with zipfile.ZipFile(_opened(source)) as file:
            names = {n.partition("/")[2] or n for n in file.namelist()}
    except (zipfile.BadZipFile, OSError):
        return None
    if "archive_format" in names or any(n.startswith("models/") for n in names):
        return PT2
    if "serialized_exported_program.json" in names:  # before PyTorch 2.8
        return PT2
    if "constants.pkl" in names and any(n.startswith("code/") for n in names):
        return TORCHSCRIPT
    return CHECKPOINT if "data.pkl" in names else None


def _opened(source: Source) -> Any:
    return io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source)


WEIGHTS_ONLY = (
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # documented: no pickle may make anything but tensors
)

_SETTING = threading.RLock()


def load_program(source: Source, where: str) -> Any:
    """The ExportedProgram of a .pt2 file. Raises ModelError, also for a file that holds pickled
    objects, compiled libraries, or texts that are more than sizes and names: PyTorch would run
    them."""
    try:
        with zipfile.ZipFile(_opened(source)) as file:
            old = safety.OLD in file.namelist()
        problem = None if old else _program_problem(source)
    except Exception as error:
        raise ModelError(f"PyTorch cannot read it: {first_line(error)}", where=where) from error
    if old:
        raise ModelError(
            "it is in the format of before PyTorch 2.8, which is not read",
            where=where,
            hint="torch.export.load it, if you know who wrote it, and torch.export.save it again",
        )
    if problem:
        how = "torch.export.load it and compile the program"
        raise safety.refused(f"{problem} would be run when the file is loaded", how, where)
    try:
        with _weights_only():
            return library("torch.export").load(_opened(source))
    except Exception as error:
        raise ModelError(
            f"PyTorch cannot read it: {first_line(error)}",
            where=where,
            hint="save it by torch.export.save, with the version of PyTorch that is installed here",
        ) from error


def _program_problem(source: Source) -> str | None:
    reader = _reader(source)
    names = reader.get_all_records()
    found = next((n for n in names if any(r in n.lower() for r in safety.RUNS)), None)
    if found is not None:
        return found
    for name in names:
        lower = name.lower()
        if lower.startswith("models/") or (
            lower.endswith(".json") and not lower.startswith("extra/")
        ):
            problem = safety.program_problem(reader.get_record(name))
            if problem:
                return f"{name}: {problem}"
    return None


def _reader(source: Source) -> Any:
    """The reader of archives that PyTorch itself uses, which finds what it will find."""
    return library()._C.PyTorchFileReader(_opened(source))


@contextmanager
def _weights_only() -> Generator[None]:
    """torch.load restores tensors and nothing else, whatever its callers ask for; one thread at a
    time, as another would take the setting away."""
    with _SETTING, knobs.foreign(WEIGHTS_ONLY, "1"):
        yield


def load_script(source: Source, where: str) -> Any:
    """The module of a TorchScript file, in eval mode. Raises ModelError, also for one whose code
    does more than compute: some of it runs while the file is loaded."""
    try:
        problem = _script_problem(source)
    except Exception as error:
        raise ModelError(f"PyTorch cannot read it: {first_line(error)}", where=where) from error
    if problem:
        how = "torch.jit.load it and pass the module"
        raise safety.refused(f"its code does more than compute: {problem}", how, where)
    try:
        return library("torch.jit").load(_opened(source), map_location="cpu").eval()
    except Exception as error:
        raise ModelError(f"PyTorch cannot read it: {first_line(error)}", where=where) from error


def _script_problem(source: Source) -> str | None:
    reader = _reader(source)
    for name in reader.get_all_records():
        lower = name.lower()
        if lower == "model.json":  # of before PyTorch 1.4: it names the members that are code
            return name
        if lower.endswith(".py"):
            problem = safety.script_problem(reader.get_record(name).decode("utf-8", "replace"))
            if problem:
                return f"{problem!r} in {name}"
    return None


def first_line(error: Exception) -> str:
    """What PyTorch says, without its advice on how to run what it has refused."""
    text = str(error).strip()
    if "weights_only" in text or text.startswith("Weights only"):
        return "a pickle in it makes objects other than tensors, which can run any code"
    return f"{type(error).__name__}: {(text.splitlines() or [''])[0]}"
