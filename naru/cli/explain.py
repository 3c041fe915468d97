"""naru explain"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from naru.cli.group import EXISTING, WRITTEN, as_json_option, dims_option
from naru.cli.loading import open_bundle, parse_dims, refuse_host
from naru.cli.printing import print_json
from naru.errors import InputError

if TYPE_CHECKING:
    from naru.artifact.bundle import Bundle
    from naru.explain.report import Explanation, Row

ORDERS = ("time", "order", "above", "share", "predicted", "size")

inputs_option = click.option(
    "-i", "--input", "inputs", metavar="[NAME=]FILE", multiple=True,
    help="Inputs to measure with, as for run. Default: those of the golden vector.",
)  # fmt: skip


@click.command("explain")
@click.argument("model", type=EXISTING)
@click.option("--kernel", metavar="NAME", help="Only this kernel, with all that is known of it.")
@click.option(
    "--details", is_flag=True, help="Nodes, reasons and schedule of every kernel as well."
)
@click.option(
    "--sort", type=click.Choice(ORDERS), default="time", show_default=True,
    help="order: of the run; above: time above the roof; share: of the roof, the smallest first.",
)  # fmt: skip
@click.option("--html", type=WRITTEN, metavar="FILE", help="Write a page for a browser.")
@click.option("--asm", is_flag=True, help="Print the machine code instead (needs objdump).")
@inputs_option
@dims_option
@as_json_option
def explain_command(
    model: Path,
    kernel: str | None,
    details: bool,
    sort: str,
    html: Path | None,
    asm: bool,
    inputs: tuple[str, ...],
    dims: tuple[str, ...],
    as_json: bool,
) -> None:
    """Shows where the time of a MODEL goes: kernels, what was fused and why, predicted and measured
    times, and how near they are to the roofs of this machine.

    \b
      naru explain model.naru
      naru explain model.naru --dims batch=32            measures at this size
      naru explain model.naru --kernel k0_matmul         its nodes, reasons, schedule
      naru explain model.naru --html model.html          graph, timeline and roofs as a page
    """
    from naru.explain.assembly import disassemble
    from naru.explain.host import host_json, host_lines, is_partly_on_host
    from naru.explain.page import write_page
    from naru.explain.report import explain

    bundle = open_bundle(model)
    if is_partly_on_host(bundle):
        if asm or html or kernel or inputs or dims:
            refuse_host(bundle, "explain with --asm, --html, --kernel, --input or --dims")
        if as_json:
            print_json(host_json(bundle))
        else:
            click.echo("\n".join(host_lines(bundle)))
        return
    if asm:
        click.echo(disassemble(bundle, kernel))
        return
    found = explain(bundle, given_inputs(bundle, inputs, dims))
    if html is not None:
        write_page(html, bundle, found)
        click.echo(f"{html}: open it in a browser; it needs nothing else", err=as_json)
    if as_json:
        print_json(found.as_json(bundle))
    elif html is None or kernel:
        _print_explanation(bundle, found, kernel, details, sort)


def given_inputs(
    bundle: Bundle, inputs: Sequence[str], dims: Sequence[str]
) -> dict[str, Any] | None:
    """Arrays from files, or random ones of these sizes; None where neither is given."""
    from naru.inputs import inputs_of, random_inputs, read_inputs

    if inputs:
        return read_inputs(inputs_of(bundle), inputs)
    if dims:
        return random_inputs(inputs_of(bundle), bundle.symbols, parse_dims(dims))
    return None


def _print_explanation(
    bundle: Bundle, found: Explanation, only: str | None, everything: bool, sort: str
) -> None:
    from naru.explain import text

    if only:
        rows = _named(found, only)
        lines = [*text.table(rows, found), *(x for r in rows for x in text.details(r))]
    else:
        rows = sorted(found.rows, key=text.ORDERS[sort])
        lines = [*text.heading(bundle, found), *text.summary(found), "", *text.table(rows, found)]
        if everything:
            lines += ["", *text.memory_formulas(bundle.manifest.get("memory", {}))]
            lines += [x for r in rows for x in text.details(r)]
        else:
            lines += ["", "more: --kernel NAME or --details; --html FILE, --json, --asm"]
    click.echo("\n".join(lines))


def _named(found: Explanation, name: str) -> list[Row]:
    rows = [r for r in found.rows if r.name == name]
    if not rows:
        names = ", ".join(r.name for r in found.rows)
        raise InputError(f"there is no kernel {name!r}; the bundle has: {names}")
    return rows
