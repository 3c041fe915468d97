"""naru verify"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    reading_options,
)
from naru.cli.loading import compile_source, parse_dims, refuse_host
from naru.cli.printing import make_table, output, print_json, print_table, say, warn
from naru.cli.progress import progress
from naru.errors import InputError, NaruError

if TYPE_CHECKING:
    from rich.table import Table

    from naru.artifact.bundle import Bundle
    from naru.frontend.reading import Reading
    from naru.inputs import Array
    from naru.options import Progress
    from naru.runtime.model import Model
    from naru.verify import Compared
    from naru.verify.search import Culprit

    Sample = Mapping[str, Array]


def _check_number(
    _ctx: click.Context, _option: click.Parameter, value: float | None
) -> float | None:
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is not in the range x>=0.")
    return value


@click.command("verify")
@click.argument("model", type=EXISTING)
@click.option(
    "--against", type=click.Choice(["framework", "onnxruntime", "reference", "both"]),
    default="framework", show_default=True,
    help="framework: what the model comes from, of ONNX files ONNX Runtime. reference: every op's "
    "definition, in float64. both: who of the two is wrong (of ONNX files).",
)  # fmt: skip
@click.option(
    "--samples", type=EXISTING, multiple=True,
    help="An .npz with an array an input: one sample; repeatable. Default: random inputs.",
)  # fmt: skip
@dims_option
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random inputs."
)
@click.option(
    "--tolerance", type=click.FloatRange(min=0), callback=_check_number,
    help="Relative rms error that passes.",
)  # fmt: skip
@click.option("--no-search", is_flag=True, help="Don't look for the node that differs.")
@click.option(
    "--save-failing", metavar="DIR", type=click.Path(file_okay=False, path_type=Path),
    default=Path(), help="Where the script of the part that differs goes. Default: here.",
)  # fmt: skip
@isa_option
@precision_option
@reading_options
@no_cache_option
@as_json_option
def verify_command(model: Path, reading: Reading, **options: Any) -> int:
    """Compares what a compiled MODEL computes with its framework; exit code 3 if it differs.

    Of an ONNX file it then looks for the first node that differs, and writes the smallest part of
    the model that still does as a script, verify_MODEL_NODE.py, to run and to attach to a bug
    report.

    \b
      naru verify model.onnx
      naru verify model.onnx --dims batch=2 --dims seq=128
      naru verify model.onnx --against both --tolerance 1e-5
      naru verify model.onnx --samples real.npz --save-failing failing
      naru verify credit.txt                            LightGBM; random rows around the splits
      naru verify pipeline.pkl --trust-pickle --samples rows.npz
    """
    from naru.frontend.source import ONNX, kind_of
    from naru.runtime.native_model import NativeModel
    from naru.verify import verify
    from naru.verify.compared import all_passed

    if model.suffix == ".naru":
        raise InputError(f"{model} is a bundle: verify wants the model that it was made from")
    if kind_of(model) != ONNX:
        return _verify_framework(model, reading, options)
    reading.check(ONNX)
    dims = parse_dims(options["dims"])
    cache = not options["no_cache"]
    bundle = compile_source(model, options["isa"], options["precision"], cache=cache)
    refuse_host(bundle, "verify")
    against, limit = options["against"], options["tolerance"]
    against = "onnxruntime" if against == "framework" else against
    options["against"] = against
    loaded = NativeModel(bundle)
    with progress(f"verifying {model.name}") as tell:
        samples = _samples(bundle, model, options["samples"], dims, options["seed"])
        found = verify(loaded, model, samples, against=against, tolerance=limit, on_progress=tell)
    passed = all_passed(found)
    if not options["as_json"]:
        _print_found(found, against, passed)
    report: dict[str, Any] = {
        "against": against,
        "passed": passed,
        "outputs": [{**d.as_json(), "verdict": c.verdict} for c in found for d in c.rows],
    }
    if not passed and not options["no_search"]:
        report |= _explain_failure(loaded, model, samples, found, options)
    if options["as_json"]:
        print_json(report)
    return OK if passed else MISMATCH


def _verify_framework(model: Path, reading: Reading, options: Mapping[str, Any]) -> int:
    """A model that is no ONNX file, against its framework or the reference."""
    from naru.compiler import as_source
    from naru.frontend.onnx_plan import HostPlan
    from naru.frontend.source import read_model
    from naru.ir.graph import Graph
    from naru.runtime.session import open_model
    from naru.verify import verify
    from naru.verify.compared import all_passed
    from naru.verify.frameworks import framework_side
    from naru.verify.sides import graph_side

    against = options["against"]
    if against not in ("framework", "reference"):
        raise click.UsageError(f"--against {against} is for ONNX files; this is none")
    with progress(f"reading {model.name}"):
        source = as_source(model, reading, model.stem)
        made = isinstance(source, Graph | HostPlan)
        graph = source if made else read_model(source, name=model.stem)
    bundle = compile_source(
        graph, options["isa"], options["precision"], cache=not options["no_cache"], label=model.name
    )
    if "host" in bundle.manifest and not options["samples"]:
        raise InputError(
            f"{model.name}: a model that takes texts or sequences has no random inputs",
            hint="--samples rows.npz, an array an input",
        )
    loaded = open_model(bundle)
    dims = parse_dims(options["dims"])
    if against == "reference" and not isinstance(graph, Graph):
        raise InputError("--against reference is for models that are native as a whole")
    with progress(f"verifying {model.name}") as tell:
        samples = _samples(bundle, graph, options["samples"], dims, options["seed"])
        names = tuple(o.name for o in loaded.outputs)
        if isinstance(graph, Graph) and against == "reference":
            side = graph_side(graph)
        else:
            side = framework_side(model, reading, names)
        found = verify(
            loaded, model, samples, against=against, sides={against: side},
            tolerance=options["tolerance"], on_progress=tell,
        )  # fmt: skip
    passed = all_passed(found)
    if options["as_json"]:
        outputs = [d.as_json() for c in found for d in c.rows]
        print_json({"against": against, "passed": passed, "outputs": outputs})
    else:
        _print_found(found, against, passed)
    return OK if passed else MISMATCH


def _samples(
    bundle: Bundle, model: Any, files: Sequence[Path], dims: Mapping[str, int], seed: int
) -> list[dict[str, Array]]:
    from naru.inputs import as_declared, inputs_of, read_npz, with_seed
    from naru.verify.samples import random_sample

    if not files:
        return [random_sample(bundle, model, dims, seed)]
    if dims:
        raise click.UsageError("--dims is for random inputs; --samples have sizes of their own")
    specs = inputs_of(bundle)
    samples = [with_seed(specs, as_declared(specs, read_npz(p))) for p in files]
    for path, sample in zip(files, samples, strict=True):
        check_names(path, sample, [s.name for s in specs])
    return samples


def check_names(path: Path, sample: Sample, wanted: Sequence[str]) -> None:
    """InputError for a sample that lacks an input, or has an array that is none."""
    from naru.errors import nearest

    for name in sample:
        if name not in wanted:
            listed = ", ".join(wanted)
            raise InputError(
                f"{path}: there is no input '{name}'; the model has {listed}",
                hint=nearest(name, wanted),
            )
    missing = [name for name in wanted if name not in sample]
    if missing:
        raise InputError(f"{path}: it has no array for the input '{missing[0]}'")


# --- where it differs -----------------------------------------------------------------------------


def _explain_failure(
    loaded: Model,
    model: Path,
    samples: Sequence[Sample],
    found: Sequence[Compared],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Prints who is wrong and where; gives the same for JSON."""
    from naru.verify import verify

    tolerance, silent = options["tolerance"], options["as_json"]
    first = next(c for c in found if not c.passed).naru[0]
    sample = samples[first.sample]
    report: dict[str, Any] = {}
    try:
        with progress("asking the reference who is wrong") as tell:
            judged = verify(
                loaded, model, [sample], against="both", tolerance=tolerance, on_progress=tell
            )
        report["verdict"] = next(c.verdict for c in judged if c.naru[0].output == first.output)
        if not silent:
            click.echo(f"{first.output}: {report['verdict']}")
    except NaruError as e:  # the comparison stands without a judge
        warn(f"who is wrong is not known: {e}")
    try:
        with progress("looking for the node that differs") as tell:
            culprit = _search(loaded, model, sample, found, options, tell)
    except NaruError as e:
        warn(f"the node that differs was not found: {e}")
        return report
    if culprit is None:
        warn("each part of the model is right by itself; only the whole model differs")
        return report
    files = _save(culprit, loaded, model, options)
    if not silent:
        _print_culprit(culprit, files)
    return {**report, "culprit": culprit.as_json(), "files": [str(p) for p in files]}


def _search(
    loaded: Model,
    model: Path,
    sample: Sample,
    found: Sequence[Compared],
    options: Mapping[str, Any],
    tell: Progress,
) -> Culprit | None:
    from naru.artifact.cache import open_cache
    from naru.compiler import choose_target
    from naru.options import Options
    from naru.verify.compared import BOTH, limits
    from naru.verify.search import Search

    isa, against = options["isa"], options["against"]
    target = choose_target(None if isa == "host" else isa)
    search = Search(
        Options(target, options["precision"]),
        None if options["no_cache"] else open_cache(),
        "reference" if against == BOTH else against,
        limits(loaded, options["tolerance"]),
        tell,
    )
    outputs = [c.naru[0].output for c in found if not c.passed]
    return search.find(model, sample, outputs)


def _save(culprit: Culprit, loaded: Model, model: Path, options: Mapping[str, Any]) -> list[Path]:
    from naru.verify.compared import limits
    from naru.verify.script import write_script

    folder: Path = options["save_failing"]
    return write_script(culprit, model, folder, limits(loaded, options["tolerance"]))


# --- printing -------------------------------------------------------------------------------------


def _print_found(found: Sequence[Compared], against: str, passed: bool) -> None:
    shown = [c for c in found if not c.passed] if output.quiet else found
    if shown:
        print_table(_difference_table(shown, against))
    for c in shown:
        for d in c.rows:
            if d.problem:
                click.echo(f"{d.output}: {d.side} against {d.against}: {d.problem}")
        if c.verdict:
            click.echo(f"{c.naru[0].output}: {c.verdict}")
    if passed:
        say(click.style("equal within the limit", fg="green"))
    else:
        click.echo(click.style("DIFFERENT", fg="red"), color=output.color)


def _difference_table(found: Sequence[Compared], against: str) -> Table:
    both = len(found[0].rows) > 1
    several = len({c.naru[0].sample for c in found}) > 1
    who = ("compared",) if both else ()
    heads = (
        "output", *who, "shape", "max abs", "relative rms", "ulp median", "99%", "max",
        "differing", "rms", "limit (rms)", "",
    )  # fmt: skip
    table = make_table(f"against {against}", heads, right=range(2 + both, 10 + both))
    for c in found:
        for d in c.rows:
            table.add_row(
                f"{d.output} (sample {d.sample})" if several else d.output,
                *((f"{d.side} : {d.against}",) if both else ()),
                f"{d.dtype}{list(d.shape)}",
                *(f"{x:.2e}" for x in (d.max_abs, d.rms_rel)),
                *(f"{x:.4g}" for x in (d.ulp_median, d.ulp_p99, d.ulp_max)),
                f"{d.differing}/{d.count}",
                *(f"{x:.2e}" for x in (d.rms, d.limit)),
                "ok" if d.passed else "DIFFERENT",
            )
    return table


def _print_culprit(culprit: Culprit, files: Sequence[Path]) -> None:
    d = culprit.difference
    click.echo(f"first to differ: {culprit.node}, {culprit.position} of {culprit.count} nodes")
    if culprit.alone:
        click.echo("  it differs by itself, given the right inputs")
    else:
        click.echo("  it is right by itself; these nodes differ together:")
        for label in culprit.labels[:12]:
            click.echo(f"    {label}")
        if len(culprit.labels) > 12:
            click.echo(f"    … and {len(culprit.labels) - 12} more")
    error = d.problem or f"relative rms {d.rms_rel:.2e}, max abs {d.max_abs:.2e}"
    click.echo(f"  output {d.output!r}, {d.dtype}{list(d.shape)}: {error}")
    click.echo(f"  to reproduce: python {files[0]}")
    for path in files[1:]:
        click.echo(f"                with {path}")
