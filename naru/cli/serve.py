"""naru serve"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from naru.cli.group import EXISTING, no_cache_option
from naru.cli.printing import say
from naru.errors import NaruError

if TYPE_CHECKING:
    from naru.serve.server import Server

FOLDER = click.Path(exists=True, path_type=Path)


class _Seconds(click.FloatRange):
    """A number of at least 0, which NaN and infinity are not."""

    def __init__(self) -> None:
        super().__init__(0)

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value!r}: expected a number of seconds", param, ctx)
        return found


class _Bytes(click.ParamType[int]):
    name = "size"

    def __init__(self, least: int = 0) -> None:
        self._least = least

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        from naru.knobs import parse_bytes

        if isinstance(value, int):
            return value
        try:
            found = parse_bytes(value)
        except (ValueError, KeyError, OverflowError):
            found = -1
        if found < self._least:
            least = f" of at least {self._least}" if self._least else ""
            self.fail(f"{value!r}: expected a size such as 512M or 2G{least}", param, ctx)
        return found


@click.command("serve")
@click.argument("models", type=FOLDER)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; 0.0.0.0 for all.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Of HTTP; 0 takes a free one.",
)
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="Of gRPC; without, there is none.")
@click.option(
    "--workers",
    type=click.IntRange(0, 1024),
    default=0,
    help="Runs at once. Default: one more than the usable cores.",
)
@click.option(
    "--max-batch",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Rows that requests are put together to.",
)
@click.option(
    "--max-delay",
    type=click.IntRange(0, 10_000_000),
    default=0,
    show_default=True,
    metavar="US",
    help="Microseconds that the first request of a batch waits for others.",
)
@click.option(
    "--max-queue",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Requests that may wait for a model; others are refused with 503.",
)
@click.option("--no-batching", is_flag=True, help="Run each request by itself.")
@click.option("--max-body", type=_Bytes(1024), default=64 << 20, help="Of a request. Default: 64M.")
@click.option(
    "--memory",
    type=_Bytes(),
    default=0,
    help="Of loaded models; those not used for longest make room. Default: no limit.",
)
@click.option(
    "--load-at-start",
    type=click.IntRange(0),
    default=64,
    show_default=True,
    metavar="N",
    help="Load all models at once where there are no more; else when first asked for.",
)
@click.option("--allow-model-control", is_flag=True, help="Let clients load and unload models.")
@click.option(
    "--poll",
    type=_Seconds(),
    default=0.0,
    metavar="SECONDS",
    help="Look for changed files so often. SIGHUP does it once.",
)
@click.option("--tokens", type=EXISTING, help="TOML with the tokens that are let in (see docs).")
@click.option("--certificate", type=EXISTING, help="PEM; with --key, HTTP and gRPC speak TLS.")
@click.option("--key", type=EXISTING, help="PEM of the certificate's key.")
@click.option(
    "--cors-origin",
    "cors",
    multiple=True,
    metavar="ORIGIN",
    help="A page that browsers let read answers: https://example.org. Repeatable.",
)
@click.option(
    "--drain-delay",
    type=_Seconds(),
    default=0.0,
    metavar="SECONDS",
    help="After SIGTERM: not ready, but answering, for so long.",
)
@click.option(
    "--drain-limit",
    type=_Seconds(),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="The most that requests in flight may then take.",
)
@click.option("--log-requests", is_flag=True, help="A line in the log for each request.")
@click.option("--no-page", is_flag=True, help="No page at /.")
@no_cache_option
def serve_command(models: Path, **options: Any) -> None:
    """Serves MODELS, a folder of them or one file, by the Open Inference Protocol.

    \b
      naru serve model.naru
      naru serve models/ --port 8080 --grpc-port 8081
      naru serve models/ --allow-model-control --tokens tokens.toml
    """
    from naru.serve.logs import set_up
    from naru.serve.settings import ModelSettings, ServerSettings

    try:
        from naru.serve.server import serve
    except ImportError as error:
        raise NaruError(
            f"a package that serving needs is missing: {error.name}",
            hint="pip install 'naru[serve]'",
        ) from None
    if (options["certificate"] is None) != (options["key"] is None):
        raise click.UsageError("--certificate and --key go together")
    per_model = ModelSettings(
        batching=not options.pop("no_batching"),
        max_batch=options.pop("max_batch"),
        max_delay_us=options.pop("max_delay"),
        max_queue=options.pop("max_queue"),
    )
    model_control = options.pop("allow_model_control")
    page, cache = not options.pop("no_page"), not options.pop("no_cache")
    settings = ServerSettings(
        root=models, model=per_model, model_control=model_control, page=page, cache=cache, **options
    )
    set_up()
    serve(settings, lambda server: _tell(server))


def _tell(server: Server) -> None:
    """What to try, once the server is ready."""
    settings = server.settings
    host = settings.host if settings.host not in ("0.0.0.0", "::") else "localhost"
    scheme = "https" if settings.certificate else "http"
    address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{server.port}"
    names = server.plane.repository.names
    say(f"serving {len(names)} model{'' if len(names) == 1 else 's'} at {address}")
    if settings.page:
        say(f"  a page to try {'it' if len(names) == 1 else 'them'}: {address}/")
    if server.grpc_port is not None:
        say(f"  gRPC: {host}:{server.grpc_port}")
    for name in names[:3]:
        servable = server.plane.find(name, None)
        if servable is not None:
            from naru.serve.example import curl

            say(f"  {curl(address, servable)}")
