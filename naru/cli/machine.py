"""naru doctor, naru demo: about this machine and this installation"""

from __future__ import annotations

import tempfile
import webbrowser
from contextlib import suppress
from pathlib import Path

import click

from naru.cli.group import as_json_option
from naru.cli.printing import print_json, say, wrap
from naru.cli.progress import progress
from naru.errors import InputError
from naru.units import format_bytes


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
@click.option("--web", is_flag=True, help="Serve a page on which you draw a digit.")
@click.option("--port", metavar="N", type=int, help="With --web: the port. Default: 8000.")
@click.option("--no-open", is_flag=True, help="With --web: open no browser.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="With --web: write the page into a folder, for any web server.",
)
def demo_command(web: bool, port: int | None, no_open: bool, output: Path | None) -> None:
    """Compiles bundled networks: one reads 200 handwritten digits, one what you draw.

    \b
      naru demo                   classifies 200 digits, shows what was built
      naru demo --web             a page to draw on, at http://127.0.0.1:8000
      naru demo --web -o site/    the same page as files
    """
    if web:
        _show_page(port, output, no_open=no_open)
        return
    if port is not None or no_open or output is not None:
        raise InputError("--port, --no-open and -o belong to the page", hint="naru demo --web")
    from naru.demo import show

    show()


def _show_page(port: int | None, output: Path | None, *, no_open: bool) -> None:
    """Writes the page into `output`, or serves it until Ctrl-C."""
    from naru.demo.web import PORT, PageServer, write_page

    if output is not None:
        if port is not None or no_open:
            raise InputError("-o writes the page and serves nothing", hint="without --port")
        with progress("building the page") as tell:
            files = write_page(output, on_progress=tell)
        say(f"{output}/: {len(files)} files; {format_bytes(sum(p.stat().st_size for p in files))}")
        return
    with (
        tempfile.TemporaryDirectory(prefix="naru-demo-") as folder,
        PageServer(Path(folder), PORT if port is None else port) as server,
    ):
        with progress("building the page") as tell:
            write_page(Path(folder), on_progress=tell)
        click.echo(f"Draw a digit: {server.address}   (Ctrl-C ends it)")
        if not no_open:
            webbrowser.open(server.address)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
