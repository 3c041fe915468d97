"""naru verify"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from naru.cli.group import (
    EXISTING,
    MISMATCH,
    OK,
    as_json_option,
    dims_option,
    isa_option,
    no_cache_option,
    precision_option,
)
from naru.cli.loading import load_model, parse_dims
from naru.cli.printing import make_table, print_json, print_table
from naru.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from naru.verify import Difference


@click.command("verify")
@click.argument("model", type=EXISTING)
@click.option(
    "--against", type=click.Choice(["onnxruntime", "reference"]), default="onnxruntime",
    show_default=True, help="reference: every op's definition, in float64.",
)  # fmt: skip
@click.option(
    "--samples", type=EXISTING, multiple=True,
    help="An .npz with an array an input: one sample; repeatable. Default: random inputs.",
)  # fmt: skip
@dims_option
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random inputs."
)
@click.option("--tolerance", type=click.FloatRange(min=0), help="Relative rms error that passes.")
@isa_option
@precision_option
@no_cache_option
@as_json_option
def verify_command(model: Path, **options: Any) -> int:
    """Compares what a compiled ONNX MODEL computes with something else; exit code 3 if it differs.

    \b
      naru verify model.onnx
      naru verify model.onnx --dims batch=2 --dims seq=128
      naru verify model.onnx --against reference --samples real.npz --tolerance 1e-5
    """
    from naru.inputs import as_declared, random_inputs, read_npz, symbols_of
    from naru.verify import verify

    if model.suffix == ".naru":
        raise InputError(f"{model} is a bundle: verify wants the ONNX file that it was made from")
    compiled = load_model(
        model, options["isa"], options["precision"], cache=not options["no_cache"]
    )
    if options["samples"]:
        samples = [as_declared(compiled.inputs, read_npz(p)) for p in options["samples"]]
    else:
        dims = parse_dims(options["dims"])
        symbols = symbols_of(compiled.manifest)
        samples = [random_inputs(compiled.inputs, symbols, dims, options["seed"])]
    found = verify(
        compiled, model, samples, against=options["against"], tolerance=options["tolerance"]
    )
    passed = all(d.passed for d in found)
    if options["as_json"]:
        results = [d.as_json() for d in found]
        print_json({"against": options["against"], "passed": passed, "outputs": results})
    else:
        print_table(_difference_table(found, options["against"]))
        for d in found:
            if d.problem:
                click.echo(f"{d.output}: {d.problem}")
        click.echo("equal within the limit" if passed else "DIFFERENT")
    return OK if passed else MISMATCH


def _difference_table(found: Sequence[Difference], against: str) -> Table:
    table = make_table(
        f"against {against}",
        ("output", "shape", "max abs", "max rel", "rms", "relative rms", "limit (rms)", ""),
        right=range(2, 7),
    )
    several = len({d.sample for d in found}) > 1
    for d in found:
        name = f"{d.output} (sample {d.sample})" if several else d.output
        shape = f"{d.dtype}{list(d.shape)}"
        numbers = (d.max_abs, d.max_rel, d.rms, d.rms_rel, d.limit)
        table.add_row(
            name, shape, *(f"{x:.2e}" for x in numbers), "ok" if d.passed else "DIFFERENT"
        )
    return table
