"""naru build, naru inspect"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from naru.cli.group import (
    EXISTING,
    as_json_option,
    no_cache_option,
    precision_option,
    processing_options,
    reading_options,
)
from naru.cli.printing import make_table, print_json, print_table, say
from naru.cli.progress import progress
from naru.units import format_bytes

if TYPE_CHECKING:
    from naru.frontend.reading import Reading
    from naru.library.write import Written
    from naru.processing import Processing

FOLDER = click.Path(file_okay=False, path_type=Path)
EMITS = ("library", "static", "obj", "c", "header", "llvm", "asm")


@click.command("build")
@click.argument("model", type=EXISTING)
@click.option(
    "-o",
    "--output",
    type=FOLDER,
    default=Path("dist"),
    show_default=True,
    help="The folder to write into.",
)
@click.option(
    "--target",
    "platform",
    metavar="PLATFORM",
    help="Where it runs: this machine (default), x86_64-linux, aarch64-linux, "
    "x86_64-linux-musl, aarch64-linux-musl or wasm.",
)
@click.option(
    "--isa",
    metavar="LEVELS",
    help="Instruction sets to have code for, such as baseline,avx2,avx512. "
    "Default: this CPU's; for a named platform those that are common there.",
)
@click.option(
    "--emit",
    type=click.Choice(EMITS),
    default="library",
    show_default=True,
    help="A shared library, a static one, an object, a C file for your own compiler, "
    "the header alone, or the text of the code.",
)
@click.option("--embed", is_flag=True, help="Put the weights into the library.")
@click.option(
    "--half-weights",
    is_flag=True,
    help="For WebAssembly: weights in half precision as files, in single precision in memory.",
)
@click.option("--name", help="Name of the library, prefix of its functions. Default: the file's.")
@click.option("--cc", metavar="COMMAND", help="The C compiler; zig: that of the package ziglang.")
@precision_option
@processing_options
@reading_options
@no_cache_option
@as_json_option
def build_command(
    model: Path,
    output: Path,
    platform: str | None,
    isa: str | None,
    emit: str,
    embed: bool,
    half_weights: bool,
    name: str | None,
    cc: str | None,
    precision: str,
    processing: Processing,
    reading: Reading,
    no_cache: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Makes a library of a MODEL (as for compile, or a bundle): nothing else to install.

    \b
      naru build model.onnx -o dist/                    dist/model.so, model.h, model.weights, …
      naru build model.onnx --embed                     the weights inside the library
      naru build model.onnx --isa baseline,avx2,avx512  one library for all of these CPUs
      naru build model.onnx --target aarch64-linux      for another machine
      naru build model.onnx --target wasm               for the browser and Node
      naru build model.onnx --emit static               for a linker of your own
    """
    from naru.building import build
    from naru.compiler import as_source

    start = time.perf_counter()
    with progress(f"building {model.name}") as tell:
        bundle = model.suffix == ".naru"
        made = build(
            model if bundle else as_source(model, reading, name or model.stem),
            output,
            platform=platform,
            isa=isa,
            emit=emit,
            embed=embed,
            half_weights=half_weights,
            precision=precision if _is_given("precision") else None,
            preprocess=processing.images,
            postprocess=processing.scores,
            name=name or model.stem,
            compiler=cc,
            cache=not no_cache,
            on_progress=tell,
        )
    seconds = time.perf_counter() - start
    if as_json:
        files = {str(p): p.stat().st_size for p in made.files}
        print_json({"files": files, "seconds": round(seconds, 3), **made.provenance})
        return
    _say_files(made, output)
    say(f"{seconds:.2f} s")


def _is_given(option: str) -> bool:
    """Whether somebody named an option, be it its default."""
    source = click.get_current_context().get_parameter_source(option)
    return source is not click.core.ParameterSource.DEFAULT


def _say_files(made: Written, folder: Path) -> None:
    rows = [(str(p.relative_to(folder)), format_bytes(p.stat().st_size)) for p in made.files]
    say(f"{folder}/")
    width = max(len(name) for name, _ in rows)
    for name, size in rows:
        say(f"  {name:<{width}}  {size:>9}")
    levels = made.provenance.get("levels", ())
    for level in levels:
        code = format_bytes(level["code"])
        say(f"  code for {level['name']}: {code}, {level['kernels']} kernels")


@click.command("inspect")
@click.argument("file", type=EXISTING)
@click.option("--sbom", is_flag=True, help="Print the bill of materials (CycloneDX 1.6, JSON).")
@as_json_option
def inspect_command(file: Path, sbom: bool, as_json: bool) -> None:
    """Tells where a library, a WebAssembly module or a bundle comes from.

    \b
      naru inspect dist/model.so
      naru inspect dist/model.wasm --json
      naru inspect model.naru --sbom > sbom.json
    """
    from naru.library.inspect import read_provenance

    record = read_provenance(file)
    if sbom or as_json:
        print_json(record["sbom"] if sbom else record)
        return
    _print_record(file, record)


def _print_record(file: Path, record: Mapping[str, Any]) -> None:
    from rich.markup import escape

    from naru.library.readme import arena_text

    source = record["source"]
    options = ", ".join(f"{k} {v}" for k, v in record["options"].items())
    rows = [
        ("model", f"{record['name']}, made by naru {record['naru']} for {record['platform']}"),
        ("source", f"SHA-256 {source.get('sha256') or 'unknown'}"),
        ("options", options or "none"),
        *(("takes", _tensor_text(t)) for t in record["inputs"]),
        *(("gives", _tensor_text(t)) for t in record["outputs"]),
        ("weights", f"{format_bytes(record['weights']['size'])}, "
                    f"SHA-256 {record['weights']['sha256']}"),
        ("memory", arena_text(record)),
        *(("code", f"{v['name']}: {format_bytes(v['code'])}, {v['kernels']} kernels")
          for v in record["levels"]),
        *_fallback_rows(record),
    ]  # fmt: skip
    table = make_table(str(file), ("", ""))
    for row in rows:
        table.add_row(*map(escape, row))
    print_table(table)


def _fallback_rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a bundle carries for lesser CPUs, and what that costs."""
    about = record.get("fallback")
    if about is None:
        return []
    size = format_bytes(about["bytes"])
    return [("fallback", f"a whole bundle for {about['target']}: {size} of the file")]


def _tensor_text(t: Mapping[str, Any]) -> str:
    labels = f", {len(t['labels'])} labels" if t.get("labels") else ""
    return f"{t['name']}: {t['dtype']}[{', '.join(map(str, t['shape']))}]{labels}"
