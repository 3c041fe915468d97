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
import zipfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from naru.errors import InputError, ModelError
from naru.frontend.torch_export import DynamicShapes
from naru.frontend.torch_library import library
from naru.frontend.torch_program import read_torch
from naru.ir.graph import Graph

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


def read_torch_file(
    source: Source,
    example: Any = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: DynamicShapes = None,
    name: str | None = None,
) -> Graph:
    """The graph of a program in a file (or its bytes). A TorchScript file asks for an example of
    what forward() takes; a .pt2 file has its own. Raises ModelError, UnsupportedError, InputError.
    """
    where = "model" if isinstance(source, bytes) else Path(source).name
    called = name or Path(where).stem
    try:
        head = source[:16] if isinstance(source, bytes) else _head(Path(source))
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror or error}", where=where) from None
    kind = torch_kind(head, source)
    if kind == PT2:
        if example is not None or kwargs or dynamic_shapes:
            raise InputError(f"{where}: a .pt2 file has its example inputs and shapes already")
        return read_torch(load_program(source, where), name=called)
    if kind == TORCHSCRIPT:
        model = load_script(source, where)
        return read_torch(model, example, kwargs=kwargs, dynamic_shapes=dynamic_shapes, name=called)
    if kind is None:
        raise ModelError("expected a file of PyTorch", where=where)
    raise ModelError(
        f"a {'safetensors file' if kind == SAFETENSORS else kind} has weights and no program",
        where=where,
        hint='module="package.module:Class", the class that they are weights of',
    )


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


# Members of a .pt2 file that run code when it is loaded: pickled objects, and compiled libraries.
RUNS = ("custom_obj_", "opaque_obj_", "aotinductor/")
WEIGHTS_ONLY = (
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # documented: no pickle may make anything but tensors
)


def load_program(source: Source, where: str) -> Any:
    """The ExportedProgram of a .pt2 file. Raises ModelError, also for a file that holds pickled
    objects or compiled libraries: PyTorch would run them."""
    try:
        found = [n for n in _records(source) if any(r in n for r in RUNS)]
    except Exception as error:
        raise ModelError(f"PyTorch cannot read it: {_first_line(error)}", where=where) from error
    if found:
        raise ModelError(
            f"{found[0]} would be run when the file is loaded",
            where=where,
            hint="torch.export.load it, if you know who wrote it, and compile the program",
        )
    try:
        with _weights_only():
            return library("torch.export").load(_opened(source))
    except Exception as error:
        raise ModelError(
            f"PyTorch cannot read it: {_first_line(error)}",
            where=where,
            hint="save it by torch.export.save, with the version of PyTorch that is installed here",
        ) from error


def _records(source: Source) -> list[str]:
    """The members of an archive, as PyTorch itself finds them."""
    return library()._C.PyTorchFileReader(_opened(source)).get_all_records()


@contextmanager
def _weights_only() -> Generator[None]:
    """torch.load restores tensors and nothing else, whatever its callers ask for."""
    before = os.environ.get(WEIGHTS_ONLY)
    os.environ[WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[WEIGHTS_ONLY]
        else:
            os.environ[WEIGHTS_ONLY] = before


def load_script(source: Source, where: str) -> Any:
    """The module of a TorchScript file, in eval mode. Raises ModelError."""
    try:
        return library("torch.jit").load(_opened(source), map_location="cpu").eval()
    except Exception as error:
        raise ModelError(f"PyTorch cannot read it: {_first_line(error)}", where=where) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
