"""`naru.compile`: a bundle from the cache, or else from the pipeline.

A hit loads neither the pipeline nor onnx and llvmlite: it costs little more than `naru.load`.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from naru.artifact.bundle import (
    Bundle,
    BundleParts,
    make_bundle,
    read_bundle,
    write_bundle,
)
from naru.artifact.cache import Cache, compiler_version, make_key, open_cache
from naru.errors import BundleError, InputError, NaruError
from naru.frontend.reading import Reading
from naru.options import Options, Progress
from naru.processing import NOTHING, Declared, Labels, Processing, read_processing
from naru.runtime.model import Model
from naru.runtime.session import open_model
from naru.targets import Target, get_target, host_target

if TYPE_CHECKING:
    from naru.frontend.source import Source

# One model at a time: the table of nodes is shared, and Python threads would not be faster.
one_at_a_time = threading.RLock()


def compile(
    source: object,
    example: object = None,
    *,
    dynamic_shapes: object = None,
    module: object = None,
    arguments: Mapping[str, Any] | None = None,
    trust_pickle: bool | Sequence[str] = False,
    target: str | Target | None = None,
    precision: str = "fp32",
    fallback: str | Target | None = None,
    preprocess: Declared | Sequence[Declared] | None = None,
    postprocess: Declared | Sequence[Declared] | None = None,
    labels: Labels | None = None,
    top: int | None = None,
    cache: bool = True,
    name: str | None = None,
    on_progress: Progress | None = None,
) -> Model:
    """Compiles a model for a target (default: this CPU) and loads it.

    source: the path of a file of ONNX, LightGBM, XGBoost (docs/boosting.md) or PyTorch
    (docs/pytorch.md), or of a pickle (docs/scikit-learn.md); or the bytes of a file (then without
    external data), a ModelProto, an nn.Module, an ExportedProgram, a fitted estimator or a whole
    Pipeline of scikit-learn, a Booster.
    example: what a torch module is called with: a tuple, the only tensor, or a mapping by argument.
    dynamic_shapes: sizes of it that may change, as torch.export takes them, or by names alone:
    `{"x": {0: "batch"}}`.
    module, arguments: of a checkpoint: the class that it has the weights of, as itself or as
    "package.module:Class", and what the class is called with.
    trust_pickle: a pickle can run any code, and is opened only if this is True, or the list of the
    imports that it may make.
    precision: `fp32` (any algorithm within the class's error bound), `strict` (bit-equal among CPUs
    with fused multiply-add), `portable` (bit-equal on every target: a product and a sum are two
    roundings everywhere), or `bf16` (as fp32, with weights rounded to half their bytes); all give
    the same for every thread count.
    fallback: a lesser target ("avx512" for "x86-64-amx") whose code the bundle carries too, and
    which is loaded where a CPU lacks what `target` needs (docs/targets.md).
    preprocess, postprocess: what is done before and after, compiled with the model, as texts or
    mappings: `"image(resize=256, crop=224)"`, `{"function": "softmax"}`; several in a list. labels:
    names of the classes, for `Model.labels`: a list, {number: name}, or a file. top: two more
    outputs, the greatest scores and their classes. See docs/processing.md.
    Raises ModelError, UnsupportedError (all nodes at once) or TargetError.
    """
    reading = Reading(example, dynamic_shapes, module, arguments, trust_pickle)
    return open_model(
        compile_bundle(
            source,
            reading=reading,
            target=target,
            precision=precision,
            fallback=fallback,
            processing=read_processing(preprocess, postprocess, labels=labels, top=top),
            cache=cache,
            name=name,
            on_progress=on_progress,
        )
    )


def compile_bundle(
    source: object,
    *,
    reading: Reading | None = None,
    target: str | Target | None = None,
    precision: str = "fp32",
    fallback: str | Target | None = None,
    processing: Processing = NOTHING,
    cache: bool = True,
    name: str | None = None,
    on_progress: Progress | None = None,
) -> Bundle:
    """What `compile` runs, not loaded: it may be for a machine other than this one."""
    source = as_source(source, reading, name)
    if not isinstance(cast(object, name), str | None):
        raise InputError(f"name: expected a text, got {type(name).__name__}")
    lesser = None if fallback is None else choose_target(fallback)
    options = Options(choose_target(target), precision, processing, lesser)
    store = open_cache() if cache else None
    start, before = time.time(), _identity(source)
    digest = _digest(source) if store else None
    if store and digest:
        files = _side_files(store, source, digest)
        path = store.path_of(_bundle_key(source, digest, files, options, name))
        if path is not None:
            # A damaged entry is made again below, and replaced.
            with suppress(NaruError):
                return read_bundle(path)
    from naru.pipeline import build_parts

    try:
        with one_at_a_time:
            parts = build_parts(source, options, name, store, on_progress, digest=digest)
        files = parts[0]["source"].get("files", {})
        if store and digest and not _touched_since(start, before, source, files):
            if files:
                store.put(_files_key(digest), json.dumps(list(files)).encode())
            with suppress(NaruError):  # evicted meanwhile, say: then the bundle stays in memory
                key = _bundle_key(source, digest, files, options, name)
                path = _store_bundle(store, key, parts)
                if path is not None:
                    return read_bundle(path, verify=False)
        return make_bundle(*parts)
    except MemoryError:
        raise NaruError(
            "there is not enough memory to compile this model",
            hint="smaller fixed dims, or a machine with more memory",
        ) from None


def _store_bundle(store: Cache, key: str, parts: BundleParts) -> Path | None:
    """Writes a bundle straight to the cache; None when that is too small or cannot be written."""
    size = sum(len(memoryview(s)) for s in parts[1].values())

    def write(path: Path) -> None:
        try:
            write_bundle(path, *parts)
        except BundleError as error:
            if isinstance(error.__cause__, OSError):  # which the cache warns of
                raise error.__cause__ from None
            raise

    return store.put_made(key, size, write)


def choose_target(target: str | Target | None) -> Target:
    """A target, by name or as it is; for None this CPU. Raises TargetError, InputError."""
    if target is None:
        return host_target()
    if not isinstance(cast(object, target), str | Target):
        raise InputError(f"target: expected a name or a Target, got {type(target).__name__}")
    return get_target(target) if isinstance(target, str) else target


def as_source(source: object, reading: Reading | None = None, name: str | None = None) -> Source:
    """A path, or bytes of anything that holds them, of a model that naru reads itself; what a
    framework must open, as a graph or a plan, called `name`. InputError for anything else."""
    if isinstance(source, bytearray | memoryview):
        source = bytes(cast(bytearray, source))
    serialise: Any = getattr(source, "SerializeToString", None)
    if callable(serialise):
        source = cast(bytes, serialise())
    reading = reading or Reading()
    if isinstance(source, str | os.PathLike | bytes):
        file = cast("str | os.PathLike[str] | bytes", source)
        if not reading.given and _is_onnx(file):
            return file
    from naru.frontend.source import open_source

    with one_at_a_time:
        return open_source(cast(object, source), reading, name)


def _is_onnx(source: str | os.PathLike[str] | bytes) -> bool:
    """Does a file begin as ONNX files do, with the number of the format's version, or can it not be
    read? Others may be ONNX too."""
    if isinstance(source, bytes):
        return source[:1] == b"\x08"
    try:
        with Path(source).open("rb") as file:
            return file.read(1) == b"\x08"
    except OSError:
        return True  # its front end says why


def _digest(source: Source) -> str | None:
    """SHA-256 of the model's file, or of what it says; None where it cannot be read."""
    if not isinstance(source, str | os.PathLike | bytes):
        from naru.frontend.source import digest_of

        return digest_of(source)
    if not isinstance(source, bytes) and not Path(source).is_file():
        return None
    try:
        data = source if isinstance(source, bytes) else _map_file(source)
    except (OSError, ValueError):
        return None  # missing or empty: the front end says so
    return hashlib.sha256(data).hexdigest()


def _side_files(store: Cache, source: Source, digest: str) -> dict[str, str | None]:
    """Digests of the side files that this model was once seen to read; which those are stands in
    the cache, so that nothing need be parsed. A model never seen has none, and is not found."""
    names = json.loads(store.get(_files_key(digest)) or b"[]")
    if not isinstance(source, str | os.PathLike):
        return dict.fromkeys(names)
    folder = Path(source).parent.resolve()
    paths = {n: Path(os.path.realpath(folder / n)) for n in names}
    # What the front end would refuse is not found, so that it does.
    return {n: _digest(p) if p.is_relative_to(folder) else None for n, p in paths.items()}


def _files_key(digest: str) -> str:
    return make_key("side files", digest)


def _identity(source: Source) -> tuple[int, ...]:
    """What tells a model's file from one that is put in its place, however old that is."""
    if not isinstance(source, str | os.PathLike):
        return ()
    try:
        status = os.stat(source)
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _touched_since(
    start: float, before: tuple[int, ...], source: Source, files: Iterable[str]
) -> bool:
    """Whether a file of the model was written after `start`, or is gone, or the model's own is not
    the one that was there `before`: then what its digest says and what was read may differ."""
    if not isinstance(source, str | os.PathLike):
        return False
    if _identity(source) != before:
        return True
    paths = [Path(source), *(Path(source).parent / f for f in files)]
    try:
        return any(start < p.stat().st_mtime <= time.time() for p in paths)
    except OSError:
        return True


def _bundle_key(
    source: Source,
    digest: str,
    files: Mapping[str, str | None],
    options: Options,
    name: str | None,
) -> str:
    """The cache key of a bundle. The name of the file is in the bundle too."""
    label = name or (Path(source).stem if isinstance(source, str | os.PathLike) else "")
    sides = json.dumps(sorted(files.items()))
    # What users registered; where nobody did, the module is not loaded.
    custom = sys.modules.get("naru.custom")
    own = "" if custom is None else str(custom.digest())
    return make_key("bundle", digest, sides, repr(options), label, compiler_version(), own)


def _map_file(path: str | os.PathLike[str]) -> mmap.mmap:
    with Path(path).open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
