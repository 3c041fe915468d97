"""The command group, exit codes, and the options that several verbs share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from naru import knobs
from naru.cli.printing import output
from naru.errors import nearest
from naru.version import VERSION

OK, USER_ERROR, USAGE, MISMATCH, CRASHED, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 130, 143

EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
WRITTEN = click.Path(dir_okay=False, path_type=Path)


def _set_quiet(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    output.quiet = output.quiet or value


def _set_color(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        output.color = ctx.color = {"auto": None, "always": True, "never": False}[value]


def _add_output_options(command: click.Command) -> None:
    """--quiet and --color, which every verb takes, and the group before the verb."""
    command.params += [
        click.Option(
            ["-q", "--quiet"], is_flag=True, expose_value=False, callback=_set_quiet,
            help="No progress, no summaries.",
        ),
        click.Option(
            ["--color"], type=click.Choice(["auto", "always", "never"]), expose_value=False,
            callback=_set_color,
            help="Default: auto, and what NO_COLOR or FORCE_COLOR say.",
        ),
    ]  # fmt: skip


class _Verbs(click.Group):
    """A group whose help lists the verbs in the order of a model's life."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        _add_output_options(cmd)
        super().add_command(cmd, name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            meant = nearest(args[0], self.commands) or f"the verbs are {', '.join(self.commands)}"
            ctx.fail(f"there is no verb {args[0]!r}; {meant}")
        return super().resolve_command(ctx, args)


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


_add_output_options(naru)

isa_option = click.option(
    "--isa", metavar="NAME", default="host",
    help="Target: host (default), avx512, avx2, baseline, amx, neon, dotprod, i8mm or a full name.",
)  # fmt: skip
precision_option = click.option(
    "--precision", type=click.Choice(["portable", "strict", "fp32", "bf16"]), default="fp32",
    show_default=True,
    help="fp32: any algorithm with a relative error of about 1e-5. strict: fp32 FMA, bit-equal "
    "among CPUs and thread counts. portable: no FMA, bit-equal on every target. bf16: weights "
    "rounded to half their bytes, an error of about 2e-3 a layer; all else as fp32.",
)  # fmt: skip


def processing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that declare what is done before and after a model; the command gets them as one
    `processing`."""

    @functools.wraps(command)
    def wrapped(*args: Any, **options: Any) -> Any:
        from naru.processing import read_processing

        pre, post = options.pop("preprocess"), options.pop("postprocess")
        labels, top, file = options.pop("labels"), options.pop("top"), options.pop("processing")
        made = read_processing(pre, post, labels=labels, top=top, file=file)
        return command(*args, processing=made, **options)

    for option in reversed(_PROCESSING):
        wrapped = option(wrapped)
    return wrapped


_PROCESSING = (
    click.option(
        "--preprocess", metavar="[INPUT=]image(…)", multiple=True,
        help="Take uint8 pixels: 'image(resize=256, crop=224, mean=imagenet, std=imagenet)'.",
    ),
    click.option(
        "--postprocess", metavar="[OUTPUT=]FUNCTION", multiple=True,
        help="softmax, sigmoid or argmax of an output; repeatable.",
    ),
    click.option("--labels", metavar="FILE", type=EXISTING, help="Names of classes, one a line."),
    click.option("--top", metavar="K", type=int, help="Two more outputs: the K best, and which."),
    click.option("--processing", metavar="JSON", type=EXISTING, help="All of that, in a file."),
)  # fmt: skip


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what a model's file does not; the command gets them as one `reading`."""

    @functools.wraps(command)
    def wrapped(*args: Any, **options: Any) -> Any:
        from naru.cli.loading import make_reading

        named = {k: options.pop(k) for k in ("module", "arguments", "inputs", "trust_pickle")}
        return command(*args, reading=make_reading(**named), **options)

    for option in reversed(_READING):
        wrapped = option(wrapped)
    return wrapped


_READING = (
    click.option(
        "--input", "inputs", metavar="SPEC", multiple=True,
        help="An argument of a torch module: 'x: f32[batch, 3, 224, 224]'; sizes that have a name "
        "may change. Repeatable, in order.",
    ),
    click.option(
        "--module", metavar="PKG.MOD:CLASS",
        help="The class that a checkpoint has the weights of. It is imported, and so runs.",
    ),
    click.option("--arguments", metavar="JSON", help="What that class is called with."),
    click.option(
        "--trust-pickle", is_flag=True,
        help="Open a pickle: it can run any code. Without, what it would import is listed.",
    ),
)  # fmt: skip

no_cache_option = click.option("--no-cache", is_flag=True, help="Compile anew, and store nothing.")
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _use_hugepages(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.with_resource(knobs.scope(hugepages=1))


hugepages_option = click.option(
    "--hugepages", is_flag=True, expose_value=False, callback=_use_hugepages,
    help="Copy the weights into memory in large pages.",
)  # fmt: skip
dims_option = click.option(
    "--dims", metavar="NAME=N", multiple=True, help="Size of a symbolic dim; repeatable."
)
