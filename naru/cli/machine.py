"""naru doctor, naru demo, naru ops: about this machine and this installation"""

from __future__ import annotations

import click

from naru.cli.group import as_json_option
from naru.cli.printing import print_json, wrap


@click.command("doctor")
@click.option("--no-probe", is_flag=True, help="Measure nothing.")
@as_json_option
def doctor_command(no_probe: bool, as_json: bool) -> None:
    """Shows what naru sees of this machine: features, caches, limits, measured roofs, versions.

    \b
      naru doctor
      naru doctor --json > machine.json
    """
    from naru.doctor import examine, report_lines

    report = examine(probe=not no_probe)
    if as_json:
        print_json(report)
        return
    section = ""
    for head, name, value in report_lines(report):
        if head != section:
            click.echo(f"{head}")
            section = head
        click.echo(wrap(f"  {name:18}", value))
    for problem in report["problems"]:
        click.echo(wrap("problem: ", problem))


@click.command("demo")
def demo_command() -> None:
    """Compiles two bundled networks, classifies 200 handwritten digits, shows what was built.

    \b
      naru demo
    """
    from naru.demo import show

    show()


@click.command("ops")
@as_json_option
def ops_command(as_json: bool) -> None:
    """Lists the ONNX operators that compile, and naru's own ops by kind.

    \b
      naru ops
      naru ops --json
    """
    from naru.frontend.onnx_tables import operators
    from naru.ops.registry import OPS

    found = operators()
    ops = {name: op.kind for name, op in sorted(OPS.items())}
    if as_json:
        print_json({"onnx": found.pop("ai.onnx"), "others": found, "ops": ops})
        return
    for domain, names in found.items():
        click.echo(wrap(f"{len(names)} operators of {domain}: ", " ".join(names)))
    click.echo("and every operator that the standard defines as a function of these\n")
    for kind in sorted(set(ops.values())):
        of_kind = [name for name, k in ops.items() if k == kind]
        click.echo(wrap(f"{kind:12} ", " ".join(of_kind)))
