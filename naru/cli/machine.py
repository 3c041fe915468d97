"""naru doctor, naru demo: about this machine and this installation"""

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
