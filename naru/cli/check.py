"""naru check"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from naru.cli.group import EXISTING, OK, USER_ERROR, as_json_option
from naru.cli.loading import require_onnx
from naru.cli.printing import make_table, print_json, print_table, wrap

if TYPE_CHECKING:
    from naru.check import Checked, Report
    from naru.frontend.onnx_watch import Problem

MOST_NAMES = 3  # of nodes, in a line


@click.command("check")
@click.argument("model", type=EXISTING)
@click.option("--nodes", is_flag=True, help="A line for every node, not for every operator.")
@as_json_option
def check_command(model: Path, nodes: bool, as_json: bool) -> int:
    """Says of every node of an ONNX MODEL whether it compiles and how fast its kernels are.

    Nothing is compiled. All problems at once, with what to try; sizes that only data decide; nodes
    that the runtime does itself. Exit code 0 if the model can be compiled, 1 if not. `naru ops
    NAME` says more of an operator.

    \b
      naru check model.onnx
      naru check model.onnx --nodes
      naru check model.onnx --json
    """
    from naru.check import check

    require_onnx(model)
    report = check(model)
    if as_json:
        print_json(_as_json(report))
    else:
        _print_report(model, report, nodes)
    return OK if report.compiles else USER_ERROR


def _as_json(report: Report) -> dict[str, Any]:
    def problem(p: Problem) -> dict[str, Any]:
        return {"where": p.where, "reason": p.reason, "hint": p.hint}

    rows = [
        {
            "name": n.name,
            "operator": n.op,
            "domain": n.domain,
            "opset": n.opset,
            "place": n.place,
            "dtypes": n.dtypes,
            "classes": n.classes,
            "sizes": n.sizes,
            "problems": [problem(p) for p in n.problems],
        }
        for n in report.nodes
    ]
    others = [problem(p) for p in report.others]
    return {"compiles": report.compiles, "nodes": rows, "problems": others}


def _print_report(model: Path, report: Report, every: bool) -> None:
    good = sum(not n.problems for n in report.nodes)
    click.echo(f"{model.name}: {good} of {len(report.nodes)} nodes compile")
    print_table(_node_table(report) if every else _operator_table(report))
    _print_sizes(report)
    for n in report.nodes:
        if n.classes == ("host",):
            click.echo(f"on the host: {n.place}node {n.name!r} ({n.operator})")
    if not report.compiles:
        count = len(report.problems)
        click.echo("1 problem:" if count == 1 else f"{count} problems:")
    for p in report.problems:
        click.echo(wrap("  ", f"{p.where}: {p.reason}"))
        if p.hint:
            click.echo(wrap("    try: ", p.hint))
    if report.compiles:
        click.echo(f"next: naru compile {model}")


def _operator_table(report: Report) -> Any:
    """A line for every operator, opset and class."""
    groups: dict[tuple[str, int, str], list[Checked]] = {}
    for n in report.nodes:
        groups.setdefault((n.operator, n.opset, _speed(n)), []).append(n)
    columns = ("operator", "opset", "nodes", "element types", "speed")
    table = make_table("", columns, right=(1, 2))
    for (name, opset, speed), some in sorted(groups.items()):
        kinds = dict.fromkeys(d for n in some for d in n.dtypes)
        table.add_row(name, str(opset), str(len(some)), " ".join(kinds), speed)
    return table


def _node_table(report: Report) -> Any:
    columns = ("node", "operator", "opset", "element types", "speed")
    table = make_table("", columns, right=(2,))
    for n in report.nodes:
        kinds = " ".join(dict.fromkeys(n.dtypes))
        table.add_row(f"{n.place}{n.name}", n.operator, str(n.opset), kinds, _speed(n))
    return table


def _speed(n: Checked) -> str:
    if n.problems:
        return "does not compile"
    return " or ".join(n.classes)


def _print_sizes(report: Report) -> None:
    """Which nodes make sizes that only data decide."""
    found = [n for n in report.nodes if n.sizes]
    for n in found[:20]:
        names = ", ".join(n.sizes[:MOST_NAMES]) + (", …" if len(n.sizes) > MOST_NAMES else "")
        click.echo(wrap("data decide: ", f"{names}, by {n.place}node {n.name!r} ({n.operator})"))
    if len(found) > 20:
        click.echo(f"and sizes of {len(found) - 20} more nodes: --json")
