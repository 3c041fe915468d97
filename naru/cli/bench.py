"""naru bench"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from naru import knobs
from naru.cli.group import EXISTING, WRITTEN, dims_option, hugepages_option, precision_option
from naru.cli.loading import compile_source, parse_dims, refuse_host, require_onnx
from naru.cli.printing import print_table, say
from naru.cli.progress import progress
from naru.cli.verify import check_names
from naru.errors import InputError, nearest

if TYPE_CHECKING:
    from naru.bench.case import Case
    from naru.bench.measure import Settings


def _engine_names(_: click.Context, __: click.Parameter, text: str) -> tuple[str, ...]:
    """The names in a list; a wrong one is a usage error."""
    from naru.bench.engines import ENGINES

    names = tuple(dict.fromkeys(n.strip() for n in text.split(",") if n.strip()))
    for name in names:
        if name not in ENGINES:
            meant = nearest(name, ENGINES) or f"one of: {', '.join(ENGINES)}"
            raise click.BadParameter(f"unknown engine '{name}'; {meant}")
    return names


@click.command("bench")
@click.argument("model", type=EXISTING)
@click.option(
    "--against", metavar="NAMES", default="onnxruntime", show_default=True, callback=_engine_names,
    help="Engines, with commas: onnxruntime, openvino, torch, inductor; '' for naru alone.",
)  # fmt: skip
@click.option(
    "--torch", "factory", metavar="MODULE:FUNCTION", default="",
    help="Gives (torch module, example inputs), for torch and inductor.",
)  # fmt: skip
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of every engine."
)
@click.option(
    "--scaling", type=click.IntRange(min=1), metavar="N", help="Measure naru with N threads, too."
)
@dims_option
@click.option(
    "--samples", type=EXISTING, multiple=True,
    help="An .npz with an array an input; repeatable, used in turn. Default: random inputs.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the random inputs.")
@click.option("--cold", is_flag=True, help="Also with the caches swept before every call.")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=15, show_default=True, help="That count."
)
@click.option(
    "--budget", type=click.FloatRange(min=0), default=30.0, show_default=True, metavar="SECONDS",
    help="For all rounds; as much again for those of --cold.",
)  # fmt: skip
@click.option(
    "--reference", type=click.Choice(["float64", "onnxruntime", "none"]), default="float64",
    show_default=True, help="What errors are against; float64 is slow the first time.",
)  # fmt: skip
@precision_option
@click.option("--isa", default="", metavar="NAME", help="Target of naru's: host (default), amx, …")
@hugepages_option
@click.option("--json", "record_file", type=WRITTEN, help="Write the record here.")
@click.option("--plot", "plot_file", type=WRITTEN, help="Draw the ratios: .png, .svg or .pdf.")
def bench_command(model: Path, **options: Any) -> None:
    """Measures an ONNX MODEL: naru and other engines in turn, each in a process of its own.

    \b
      naru bench model.onnx
      naru bench model.onnx --against onnxruntime,openvino --dims batch=8 --cold
      naru bench model.onnx --threads 2 --scaling 1 --json record.json --plot ratios.png
    """
    import tempfile

    from naru.bench.measure import measure_case
    from naru.bench.plot import check_plot, draw
    from naru.bench.record import new_record, write_record
    from naru.bench.report import remarks, tables

    require_onnx(model)
    settings = _settings(options)
    settings.check()
    if options["plot_file"]:
        check_plot(options["plot_file"])
    case = _case(model, options)
    record = new_record(settings)
    with tempfile.TemporaryDirectory() as folder, progress(f"measuring {case.name}") as tell:
        record["cases"].append(measure_case(case, settings, Path(folder), tell))
    record["complete"] = True
    for table in tables(record):
        print_table(table)
    for line in remarks(record):
        say(line)
    if options["record_file"]:
        write_record(options["record_file"], record)
    if options["plot_file"]:
        draw(record, options["plot_file"])


def _settings(options: dict[str, Any]) -> Settings:
    from naru.bench.measure import Settings
    from naru.bench.rounds import Effort

    return Settings(
        against=options["against"],
        threads=options["threads"],
        scaling=options["scaling"],
        cold=options["cold"],
        precision=options["precision"],
        isa=options["isa"],
        reference=options["reference"],
        hugepages=bool(knobs.current().hugepages),
        effort=Effort(rounds=options["rounds"], budget=options["budget"]),
    )


def _case(model: Path, options: dict[str, Any]) -> Case:
    """The model with its inputs. Compiled for them; an error of that is the user's to see."""
    from naru.bench.case import Case, random_feeds
    from naru.inputs import as_declared, inputs_of, read_npz, with_seed

    if model.suffix == ".naru":
        raise InputError(f"{model} is a bundle: bench wants the ONNX file that it was made from")
    bundle = compile_source(model, "host", options["precision"], cache=True)
    refuse_host(bundle, "bench")
    samples: Sequence[Path] = options["samples"]
    if samples and options["dims"]:
        raise click.UsageError("--samples have their own sizes: leave out --dims")
    if samples:
        specs = inputs_of(bundle)
        feeds = [with_seed(specs, as_declared(specs, read_npz(path))) for path in samples]
        for path, feed in zip(samples, feeds, strict=True):
            check_names(path, feed, [s.name for s in specs])
    else:
        feeds = random_feeds(bundle, model, parse_dims(options["dims"]), options["seed"])
    return Case(model.stem, model.name, model.resolve(), feeds, factory=options["factory"])
