"""Opening bundles: what a file, bytes or parts become when they are loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

from ..artifact.bundle import (
    Bundle,
    Bytes,
    Source,
    make_bundle,
    read_bundle,
)
from ..errors import InputError
from .host import HostModel
from .model import Model
from .native_model import NativeModel, WeightsCheck

LATER_FROM = 4 << 20  # bytes of weights that are checked while the program goes on


def load(
    source: Source,
    *,
    verify: bool = True,
    threads: int | None = None,
    hugepages: bool | None = None,
) -> Model:
    """Loads a bundle from a path, bytes or an open file.

    `verify=False` skips the digests of the sections, not the checks of the manifest. Weights of
    more than 4 MiB are compared with their digest while the program goes on; the first call waits
    for that, and raises BundleError where they are damaged. `threads` limits this model below the
    process's setting. The file is mapped: replace it, but do not overwrite it in place while a
    model uses it. `hugepages` copies the weights into memory in large pages, of this process alone
    (default: NARU_HUGEPAGES). A fallback in the bundle is loaded, into memory of this process,
    where the CPU or the kernel does not run the bundle's own code; the model's manifest tells.

    Raises BundleError, RunError without memory for a copy, or TargetError when this CPU lacks a
    feature that the code needs, and one that its fallback needs. A bundle is machine code: load
    only what you trust.
    """
    if threads is not None and not isinstance(cast(object, threads), int):
        raise InputError(f"threads: expected a number, got {threads!r}")
    if hugepages is not None and not isinstance(cast(object, hugepages), bool):
        raise InputError(f"hugepages: expected True, False or None, got {hugepages!r}")
    bundle = read_bundle(source, verify=verify, but=("weights", "fallback"), records=False)
    if "host" in bundle.manifest:
        return HostModel(bundle, threads=threads, hugepages=hugepages, verify=verify)
    model = NativeModel(bundle, threads=threads, hugepages=hugepages, verify=verify)
    bundle = model._bundle  # pyright: ignore[reportPrivateUsage] (its fallback, maybe)
    weights = bundle.sections.get("weights")
    if verify and weights is not None:
        where = str(source) if isinstance(source, (str, os.PathLike)) else None
        check = WeightsCheck(bundle, weights, where)
        if weights.size < LATER_FROM:
            check.wait()
        else:
            model._weights = check.start()  # pyright: ignore[reportPrivateUsage]
    return model


def open_model(
    bundle: Bundle, *, threads: int | None = None, hugepages: bool | None = None
) -> Model:
    """A bundle that was read as what can be called."""
    if "host" in bundle.manifest:
        return HostModel(bundle, threads=threads, hugepages=hugepages)
    return NativeModel(bundle, threads=threads, hugepages=hugepages)


def assemble(
    manifest: Mapping[str, Any], sections: Mapping[str, Bytes], *, threads: int | None = None
) -> Model:
    """A model from the parts of a bundle, through the same bytes and checks as a file."""
    return open_model(make_bundle(manifest, sections), threads=threads)
