"""What the verbs are given: a model file, compiled with progress shown, or a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from naru.cli.progress import progress
from naru.errors import InputError
from naru.processing import NOTHING, Processing

# What files of models are called, which are compiled first: ONNX, LightGBM, XGBoost.
MODELS = (".onnx", ".txt", ".json")

if TYPE_CHECKING:
    from naru.artifact.bundle import Bundle
    from naru.runtime.model import Model


def compile_source(
    source: Path, isa: str, precision: str, *, cache: bool, processing: Processing = NOTHING
) -> Bundle:
    """A model file's bundle, with progress shown. A name of a target may be wrong: TargetError."""
    from naru import compiler
    from naru.targets import get_target

    target = None if isa == "host" else get_target(isa)
    head = f"compiling {source.name} for {target.name if target else 'this machine'}"
    with progress(head) as tell:
        return compiler.compile_bundle(
            source,
            target=target,
            precision=precision,
            processing=processing,
            cache=cache,
            name=source.stem,
            on_progress=tell,
        )


def load_model(
    path: Path, isa: str = "host", precision: str = "fp32", *, cache: bool = True
) -> Model:
    """A bundle as it is; a model file is compiled first."""
    from naru.runtime import session

    if path.suffix in MODELS:
        return session.open_model(compile_source(path, isa, precision, cache=cache))
    return session.load(path)


def require_onnx(path: Path) -> None:
    """InputError for a model that another front end reads; what is none at all, the verb says."""
    from naru.frontend.source import kind_of

    kind = kind_of(path)
    if kind != "ONNX":
        raise InputError(
            f"{path.name}: expected an ONNX model, found one of {kind}",
            hint="naru compile, build, run, explain and profile take it",
        )


def open_bundle(path: Path) -> Bundle:
    """A bundle's parts, without asking whether this CPU fits; a model file is compiled first."""
    from naru.artifact.bundle import read_bundle

    if path.suffix in MODELS:
        return compile_source(path, "host", "fp32", cache=True)
    return read_bundle(path)


def refuse_host(bundle: Bundle, what: str) -> None:
    """InputError for a model that runs partly on the host."""
    if "host" in bundle.manifest:
        raise InputError(
            f"{what}: this model runs partly on the host, and that is for native models only",
            hint="naru explain lists what runs where; naru run runs it",
        )


def parse_dims(texts: Sequence[str]) -> dict[str, int]:
    dims: dict[str, int] = {}
    for text in texts:
        name, _, size = text.partition("=")
        if not name or not size.isdecimal():
            raise click.BadParameter(
                f"{text!r}: expected NAME=N, as in batch=2", param_hint="--dims"
            )
        dims[name] = int(size)
    return dims
