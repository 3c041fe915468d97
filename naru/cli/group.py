"""The command group, exit codes, and the options that several verbs share."""

from __future__ import annotations

from pathlib import Path

import click

from naru.version import VERSION

OK, USER_ERROR, USAGE, MISMATCH, INTERRUPTED = 0, 1, 2, 3, 130

EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
WRITTEN = click.Path(dir_okay=False, path_type=Path)


class _Verbs(click.Group):
    """A group whose help lists the verbs in the order of a model's life."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    click.echo(f"naru {VERSION}")
    ctx.exit()


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Each verb has its own help: naru compile --help",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
    help="Print the version and exit.",
)  # fmt: skip
def naru() -> None:
    """Compiles trained models into small bundles of native code that run without a framework.

    \b
      naru compile model.onnx -o model.naru
      naru run model.naru --input x.npy --output y.npy
      naru verify model.onnx --against onnxruntime
      naru explain model.naru
    """


isa_option = click.option(
    "--isa", metavar="NAME", default="host",
    help="Target: host (default), avx512, avx2, baseline, amx, neon or a full name.",
)  # fmt: skip
precision_option = click.option(
    "--precision", type=click.Choice(["strict", "fp32"]), default="fp32", show_default=True,
    help="strict: plain fp32 FMA, bit-equal among CPUs and thread counts. "
    "fp32: any algorithm with a relative error of about 1e-5.",
)  # fmt: skip
no_cache_option = click.option("--no-cache", is_flag=True, help="Compile anew, and store nothing.")
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
dims_option = click.option(
    "--dims", metavar="NAME=N", multiple=True, help="Size of a symbolic dim; repeatable."
)
