"""What the verbs are given: a model file, compiled with progress shown, or a bundle."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from naru.cli.printing import say
from naru.cli.progress import progress
from naru.errors import InputError
from naru.processing import NOTHING, Processing

if TYPE_CHECKING:
    from naru.artifact.bundle import Bundle
    from naru.frontend.onnx_plan import HostPlan
    from naru.frontend.reading import Reading
    from naru.ir.graph import Graph
    from naru.runtime.model import Model


def make_reading(
    inputs: Sequence[str] = (),
    module: str | None = None,
    arguments: str | None = None,
    trust_pickle: bool = False,
) -> Reading:
    """What the options say of a model; notes of what is recognised are printed."""
    import json

    from naru.frontend.reading import Reading, parse_inputs

    specs = parse_inputs(inputs)
    if module is not None and (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does: the class is the user's own
    given: Any = None
    hint = "--arguments '{\"width\": 64}'"
    try:
        given = None if arguments is None else json.loads(arguments)
    except ValueError as error:
        raise InputError(f"--arguments: {error}", hint=hint) from None
    if arguments is not None and not isinstance(given, dict):
        raise InputError("--arguments: expected an object", hint=hint)
    return Reading(
        example={s.name: s.example() for s in specs} or None,
        dynamic_shapes={s.name: s.dynamic() for s in specs if s.dynamic()} or None,
        module=module,
        arguments=cast("dict[str, Any] | None", given),
        trust_pickle=trust_pickle,
        tell=lambda note: say(f"  {note}"),
    )


def is_bundle(path: Path) -> bool:
    """Does a file begin as bundles do, or is it called as they are?"""
    from naru.artifact.bundle import MAGIC

    if path.suffix == ".naru":
        return True
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def compile_source(
    source: Path | Graph | HostPlan,
    isa: str,
    precision: str,
    *,
    cache: bool,
    fallback: str | None = None,
    processing: Processing = NOTHING,
    reading: Reading | None = None,
    label: str | None = None,
) -> Bundle:
    """The bundle of a model's file, or of what was read from one called `label`, with progress
    shown. A name of a target may be wrong: TargetError."""
    from naru import compiler
    from naru.targets import get_target

    target = None if isa == "host" else get_target(isa)
    label = label or source.name
    head = f"compiling {label} for {target.name if target else 'this machine'}"
    with progress(head) as tell:
        return compiler.compile_bundle(
            source,
            reading=reading,
            target=target,
            precision=precision,
            fallback=fallback,
            processing=processing,
            cache=cache,
            name=Path(label).stem,
            on_progress=tell,
        )


def load_model(
    path: Path, isa: str = "host", precision: str = "fp32", *, cache: bool = True
) -> Model:
    """A bundle as it is; a model file is compiled first."""
    from naru.runtime import session

    if path.is_file() and not is_bundle(path):
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

    if not is_bundle(path):
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
