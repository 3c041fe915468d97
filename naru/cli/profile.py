"""naru profile"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from naru.cli.explain import given_inputs, inputs_option
from naru.cli.group import EXISTING, WRITTEN, dims_option, hugepages_option
from naru.cli.loading import open_bundle, refuse_host
from naru.errors import InputError
from naru.files import write_text

if TYPE_CHECKING:
    from naru.explain.report import Explanation


@click.command("profile")
@click.argument("model", type=EXISTING)
@click.option("-o", "--output", type=WRITTEN, help="The trace, as JSON.")
@click.option("--runs", type=click.IntRange(1, 10_000), default=20, show_default=True)
@click.option(
    "--threads", type=click.IntRange(1, 1024),
    help="The most that a run uses. Default: as for a call of the model.",
)  # fmt: skip
@inputs_option
@dims_option
@hugepages_option
def profile_command(
    model: Path,
    output: Path | None,
    runs: int,
    threads: int | None,
    inputs: tuple[str, ...],
    dims: tuple[str, ...],
) -> None:
    """Times every step of runs of a MODEL. The trace opens in chrome://tracing and in Perfetto.

    \b
      naru profile model.naru -o trace.json
      naru profile model.naru --input x.npz --runs 100 --threads 1
    """
    from naru.explain.report import describe, golden_inputs
    from naru.explain.trace import make_trace
    from naru.runtime import _native
    from naru.runtime.native_model import NativeModel, fitting

    bundle = open_bundle(model)
    refuse_host(bundle, "profile")
    bundle = fitting(bundle)
    loaded = NativeModel(bundle, threads=threads)
    arrays = given_inputs(bundle, inputs, dims) or golden_inputs(bundle)
    if arrays is None:
        raise InputError("the bundle has no golden vector to run", hint="--input or --dims")
    times = loaded.trace(arrays, repeat=runs)
    most = threads or _native.get_threads()
    found = describe(bundle, arrays, loaded.step_times(times), threads=most)
    _print_profile(found, times)
    if output is not None:
        write_text(output, json.dumps(make_trace(bundle, found.rows, times, most)))
        click.echo(f"\n{output}: {runs} runs; open it in chrome://tracing or ui.perfetto.dev")


def _print_profile(found: Explanation, times: Any) -> None:
    import numpy as np

    from naru.explain import text

    whole = times[:, -1] - times[:, 0]
    shown = [text.time_text(float(f(whole))) for f in (np.median, np.min, np.max)]
    rows = sorted(found.rows, key=text.ORDERS["time"])
    lines = ["runs      {}; median {}, fastest {}, slowest {}".format(len(times), *shown)]
    lines += [*text.summary(found), "", *text.table(rows, found)]
    click.echo("\n".join(lines))
