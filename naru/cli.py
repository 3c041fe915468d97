"""The `naru` command: one function a verb.

Exit codes: 0 success, 1 an error in what the user gave (one message on stderr, no traceback),
2 wrong usage, 3 `verify` found a difference, 130 interrupted. Imports stand inside the commands, so
that each loads only what it needs: `naru run model.naru` works without the compiler.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from naru.errors import InputError, NaruError, NaruWarning
from naru.version import VERSION

if TYPE_CHECKING:
    from rich.table import Table

    from naru.artifact.bundle import Bundle
    from naru.explain import Explanation, Measured
    from naru.runtime.session import Model
    from naru.verify import Difference

OK, USER_ERROR, USAGE, MISMATCH, INTERRUPTED = 0, 1, 2, 3, 130

_EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
_WRITTEN = click.Path(dir_okay=False, path_type=Path)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line (default: sys.argv) and returns the exit code."""
    try:
        with _warnings_as_messages():
            code = naru.main(args=args, prog_name="naru", standalone_mode=False)
    except click.ClickException as e:
        e.show()
        return e.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except NaruError as e:
        click.echo(f"naru: error: {e}", err=True)
        return USER_ERROR
    except OSError as e:  # what is printed finds no room, or nobody reads it
        click.echo(f"naru: error: {e.strerror or e}", err=True)
        return USER_ERROR
    return code if isinstance(code, int) else OK


@contextmanager
def _warnings_as_messages() -> Generator[None]:
    """Prints warnings for users as one line, without the line of source that Python adds."""
    usual = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, NaruWarning) or category.__module__.startswith("naru."):
            click.echo(f"naru: warning: {message}", err=True)
        else:
            usual(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        warnings.showwarning = show
        warnings.simplefilter("always", NaruWarning)
        yield


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


# ---- compile ----

_isa = click.option(
    "--isa", metavar="NAME", default="host",
    help="Target: host (default), avx512, avx2, baseline, amx, neon or a full name.",
)  # fmt: skip
_precision = click.option(
    "--precision", type=click.Choice(["strict", "fp32"]), default="fp32", show_default=True,
    help="strict: plain fp32 FMA, bit-equal among CPUs and thread counts. "
    "fp32: any algorithm with a relative error of about 1e-5.",
)  # fmt: skip
_no_cache = click.option("--no-cache", is_flag=True, help="Compile anew, and store nothing.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_dims = click.option(
    "--dims", metavar="NAME=N", multiple=True, help="Size of a symbolic dim; repeatable."
)


@naru.command("compile")
@click.argument("model", type=_EXISTING)
@click.option("-o", "--output", type=_WRITTEN, help="Where to write. Default: beside the model.")
@_isa
@_precision
@_no_cache
@_json
def compile_command(
    model: Path, output: Path | None, isa: str, precision: str, no_cache: bool, as_json: bool
) -> None:
    """Compiles an ONNX MODEL into a bundle.

    \b
      naru compile model.onnx                        writes model.naru, for this CPU
      naru compile model.onnx -o m.naru --isa avx2   for any CPU with AVX2
      naru compile model.onnx --precision strict     bit-equal on all FMA targets
    """
    output = output or model.with_suffix(".naru")
    if output == model:
        raise InputError(f"{model}: the output would replace the model", hint="another -o")
    start = time.perf_counter()
    made = _compile(model, isa, precision, cache=not no_cache)
    made.save(output)
    main_entry = made.entries[0]
    seconds = time.perf_counter() - start
    size = output.stat().st_size
    kernels: Sequence[Any] = made.manifest.get("kernels", [])
    target: str = made.manifest["target"]["name"]
    if as_json:
        _print_json(
            {
                "output": str(output),
                "bytes": size,
                "target": target,
                "precision": precision,
                "kernels": len(kernels),
                "seconds": round(seconds, 3),
                "inputs": list(map(str, main_entry.inputs)),
                "outputs": list(map(str, main_entry.outputs)),
            }
        )
        return
    click.echo(
        f"{output}: {_bytes(size)}, {len(kernels)} kernels for {target}, {seconds:.2f} s\n"
        f"  inputs   {_join(main_entry.inputs)}\n  outputs  {_join(main_entry.outputs)}"
    )


def _compile(source: Path, isa: str, precision: str, *, cache: bool) -> Bundle:
    from rich.console import Console

    from naru import compiler
    from naru.targets import get_target

    target = None if isa == "host" else get_target(isa)
    head = f"compiling {source.name} for {target.name if target else 'this machine'}"
    # Shown only where a person looks at it.
    with Console(stderr=True).status(head) as status:
        return compiler.compile_bundle(
            source,
            target=target,
            precision=precision,
            cache=cache,
            name=source.stem,
            on_progress=lambda stage, done, total: status.update(f"{head}: {stage} {done}/{total}"),
        )


def _load(path: Path, isa: str = "host", precision: str = "fp32", *, cache: bool = True) -> Model:
    """A bundle as it is; a model file is compiled first."""
    from naru.runtime import session

    if path.suffix == ".onnx":
        return session.Model(_compile(path, isa, precision, cache=cache))
    return session.load(path)


# ---- run ----


@naru.command("run")
@click.argument("model", type=_EXISTING)
@click.option(
    "-i", "--input", "inputs", metavar="[NAME=]FILE", multiple=True,
    help="An .npy (in the order of the inputs, or by name) or an .npz with names; repeatable.",
)  # fmt: skip
@click.option("-o", "--output", type=_WRITTEN, help="An .npz, or an .npy for a single output.")
@_no_cache
def run_command(model: Path, inputs: tuple[str, ...], output: Path | None, no_cache: bool) -> None:
    """Runs a MODEL, a bundle or an ONNX file, on arrays. Without --output, prints what comes out.

    \b
      naru run model.naru --input x.npy --output y.npy
      naru run model.naru --input ids=ids.npy --input mask=mask.npy --output out.npz
      naru run model.onnx --input all.npz
    """
    from naru.inputs import read_inputs, write_outputs

    loaded = _load(model, cache=not no_cache)
    results = _by_name(loaded, loaded(read_inputs(loaded.inputs, inputs)))
    if output is not None:
        write_outputs(output, results)
        return
    import numpy as np

    with np.printoptions(threshold=20, edgeitems=4, linewidth=100):
        for name, array in results.items():
            shape = ", ".join(map(str, array.shape))
            click.echo(f"{name}: {array.dtype.name}[{shape}]\n{array}")


def _by_name(model: Model, result: Any) -> dict[str, Any]:
    names = [o.name for o in model.outputs]
    return dict(zip(names, result if len(names) > 1 else (result,), strict=True))


# ---- verify ----


@naru.command("verify")
@click.argument("model", type=_EXISTING)
@click.option(
    "--against", type=click.Choice(["onnxruntime", "reference"]), default="onnxruntime",
    show_default=True, help="reference: every op's definition, in float64.",
)  # fmt: skip
@click.option(
    "--samples", type=_EXISTING, multiple=True,
    help="An .npz with an array an input: one sample; repeatable. Default: random inputs.",
)  # fmt: skip
@_dims
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random inputs."
)
@click.option("--tolerance", type=click.FloatRange(min=0), help="Relative rms error that passes.")
@_isa
@_precision
@_no_cache
@_json
def verify_command(model: Path, **options: Any) -> int:
    """Compares what a compiled ONNX MODEL computes with something else; exit code 3 if it differs.

    \b
      naru verify model.onnx
      naru verify model.onnx --dims batch=2 --dims seq=128
      naru verify model.onnx --against reference --samples real.npz --tolerance 1e-5
    """
    from naru.inputs import as_declared, random_inputs, read_npz, symbols_of
    from naru.verify import verify

    if model.suffix == ".naru":
        raise InputError(f"{model} is a bundle: verify wants the ONNX file that it was made from")
    compiled = _load(model, options["isa"], options["precision"], cache=not options["no_cache"])
    if options["samples"]:
        samples = [as_declared(compiled.inputs, read_npz(p)) for p in options["samples"]]
    else:
        dims = _parse_dims(options["dims"])
        symbols = symbols_of(compiled.manifest)
        samples = [random_inputs(compiled.inputs, symbols, dims, options["seed"])]
    found = verify(
        compiled, model, samples, against=options["against"], tolerance=options["tolerance"]
    )
    passed = all(d.passed for d in found)
    if options["as_json"]:
        results = [d.as_json() for d in found]
        _print_json({"against": options["against"], "passed": passed, "outputs": results})
    else:
        _print(_difference_table(found, options["against"]))
        for d in found:
            if d.problem:
                click.echo(f"{d.output}: {d.problem}")
        click.echo("equal within the limit" if passed else "DIFFERENT")
    return OK if passed else MISMATCH


def _parse_dims(texts: Sequence[str]) -> dict[str, int]:
    dims: dict[str, int] = {}
    for text in texts:
        name, _, size = text.partition("=")
        if not name or not size.isdecimal():
            raise click.BadParameter(
                f"{text!r}: expected NAME=N, as in batch=2", param_hint="--dims"
            )
        dims[name] = int(size)
    return dims


def _difference_table(found: Sequence[Difference], against: str) -> Table:
    table = _table(
        f"against {against}",
        ("output", "shape", "max abs", "max rel", "rms", "relative rms", "limit (rms)", ""),
        right=range(2, 7),
    )
    several = len({d.sample for d in found}) > 1
    for d in found:
        name = f"{d.output} (sample {d.sample})" if several else d.output
        shape = f"{d.dtype}{list(d.shape)}"
        numbers = (d.max_abs, d.max_rel, d.rms, d.rms_rel, d.limit)
        table.add_row(
            name, shape, *(f"{x:.2e}" for x in numbers), "ok" if d.passed else "DIFFERENT"
        )
    return table


# ---- explain ----


@naru.command("explain")
@click.argument("model", type=_EXISTING)
@click.option("--asm", is_flag=True, help="Print the machine code instead (needs objdump).")
@click.option("--kernel", metavar="NAME", help="Only this kernel.")
@click.option(
    "-i", "--input", "inputs", metavar="[NAME=]FILE", multiple=True,
    help="Inputs to measure with, as for run. Default: those of the golden vector.",
)  # fmt: skip
@_dims
@_json
def explain_command(
    model: Path,
    asm: bool,
    kernel: str | None,
    inputs: tuple[str, ...],
    dims: tuple[str, ...],
    as_json: bool,
) -> None:
    """Shows the kernels of a MODEL: what was fused and why, schedules, times, sizes.

    \b
      naru explain model.naru
      naru explain model.naru --dims batch=32            measures at this size
      naru explain model.naru --kernel k0_matmul --asm
    """
    from naru.explain import disassemble, explain
    from naru.inputs import inputs_of, random_inputs, read_inputs

    bundle = _read_bundle(model)
    if asm:
        click.echo(disassemble(bundle, kernel))
        return
    arrays = None
    if inputs:
        arrays = read_inputs(inputs_of(bundle), inputs)
    elif dims:
        arrays = random_inputs(inputs_of(bundle), bundle.symbols, _parse_dims(dims))
    found = explain(bundle, arrays)
    if as_json:
        _print_json(found.as_json(bundle))
        return
    _print_explanation(bundle, found, kernel)


def _read_bundle(path: Path) -> Bundle:
    """A bundle's parts, without asking whether this CPU fits; a model file is compiled first."""
    from naru.artifact.bundle import read_bundle

    if path.suffix == ".onnx":
        return _compile(path, "host", "fp32", cache=True)
    return read_bundle(path)


def _print_explanation(bundle: Bundle, found: Explanation, only: str | None) -> None:
    manifest, entry = bundle.manifest, bundle.entries[0]
    kernels = [(k, m) for k, m in found.kernels if only in (None, k.get("name"))]
    if only and not kernels:
        names = ", ".join(str(k.get("name")) for k, _ in found.kernels)
        raise InputError(f"there is no kernel {only!r}; the bundle has: {names}")
    click.echo(f"target    {manifest['target']['name']}, naru {manifest.get('naru', '?')}")
    for head, tensors in (("inputs", entry.inputs), ("outputs", entry.outputs)):
        listed = (f"{t.name}: {t.dtype}[{', '.join(map(str, t.shape))}]" for t in tensors)
        click.echo(f"{head:9} {', '.join(listed)}")
    sizes = (f"{s.name} {_bytes(s.size)}" for s in bundle.sections.values())
    click.echo(f"sections  {', '.join(sizes)}")
    _print_memory(manifest.get("memory", {}), found.sizes)
    _print(_kernel_table(kernels, found))
    if found.untimed:
        click.echo(f"no times: {found.untimed}")
    for k, _ in kernels:
        _print_kernel(k)


def _print_memory(memory: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    from naru.explain import arena_bytes

    for name, text in memory.items():
        if isinstance(text, str):
            click.echo(_wrap("memory    ", f"{name} = {text} bytes"))
        else:
            for part, formula in text.items():
                click.echo(_wrap("            ", f"{part} = {formula}"))
    total = arena_bytes(dict(memory), sizes)
    if total is not None:
        at = "".join(f", {name} = {size}" for name, size in sizes.items())
        click.echo(f"memory    arena of this run: {_bytes(total)}{at}")


def _kernel_table(kernels: Sequence[tuple[Any, Measured | None]], found: Explanation) -> Table:
    title = f"{len(kernels)} kernel{'s' * (len(kernels) != 1)}"
    if found.ns:
        title += f", {found.ns / 1e3:.1f} us on one thread"
        title += "".join(f", {name} = {size}" for name, size in found.sizes.items())
    heads = ("kernel", "ops", "shape", "calls", "us", "%", "GFLOP/s", "GB/s", "code")
    table = _table(title, heads, right=range(3, 9))
    for k, m in kernels:
        table.add_row(
            str(k.get("name", "?")),
            " ".join(k.get("ops", ())),
            str(k.get("shape", "")),
            *_measured_cells(k, m, found.ns),
            _bytes(k["size"]) if "size" in k else "",
        )
    return table


def _measured_cells(k: Mapping[str, Any], m: Measured | None, total: float) -> tuple[str, ...]:
    """calls, us, %, GFLOP/s, GB/s; empty where unknown."""
    if m is None:
        return str(k.get("calls", "")), "", "", "", ""
    rates = (f"{r:.1f}" if r else "" for r in (m.gflops, m.gigabytes_per_second))
    share = f"{100 * m.ns / total:.0f}" if total else ""
    return str(m.calls), f"{m.ns / 1e3:.1f}", share, *rates


def _print_kernel(k: Mapping[str, Any]) -> None:
    click.echo(f"\n{k.get('name', '?')}")
    for head in ("nodes", "why"):
        for line in k.get(head, ()):
            click.echo(_wrap(f"  {head:9} ", str(line)))
    for line in str(k.get("schedule") or "").splitlines():
        click.echo(f"  schedule  {line}")


# ---- doctor, ops ----


@naru.command("doctor")
@click.option("--no-probe", is_flag=True, help="Measure nothing.")
@_json
def doctor_command(no_probe: bool, as_json: bool) -> None:
    """Shows what naru sees of this machine: features, caches, limits, measured roofs, versions.

    \b
      naru doctor
      naru doctor --json > machine.json
    """
    from naru.doctor import examine, report_lines

    report = examine(probe=not no_probe)
    if as_json:
        _print_json(report)
        return
    section = ""
    for head, name, value in report_lines(report):
        if head != section:
            click.echo(f"{head}")
            section = head
        click.echo(_wrap(f"  {name:18}", value))
    for problem in report["problems"]:
        click.echo(_wrap("problem: ", problem))


@naru.command("demo")
def demo_command() -> None:
    """Compiles two bundled networks, classifies 200 handwritten digits, shows what was built.

    \b
      naru demo
    """
    from naru.demo import show

    show()


@naru.command("ops")
@_json
def ops_command(as_json: bool) -> None:
    """Lists the ONNX operators that compile, and naru's own ops by kind.

    \b
      naru ops
      naru ops --json
    """
    from naru.frontend.onnx_tables import TABLE
    from naru.ops.registry import OPS

    names = sorted(TABLE)
    ops = {name: op.kind for name, op in sorted(OPS.items())}
    if as_json:
        _print_json({"onnx": names, "ops": ops})
        return
    click.echo(_wrap(f"{len(names)} ONNX operators: ", " ".join(names)))
    click.echo("and every operator that the standard defines as a function of these\n")
    for kind in sorted(set(ops.values())):
        of_kind = [name for name, k in ops.items() if k == kind]
        click.echo(_wrap(f"{kind:12} ", " ".join(of_kind)))


# ---- printing ----


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


def _table(title: str, columns: Sequence[str], right: Sequence[int] = ()) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for k, name in enumerate(columns):
        table.add_column(name, justify="right" if k in right else "left", overflow="fold")
    return table


def _print(table: Table) -> None:
    """On a terminal in its width; elsewhere wide enough that lines stay whole."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _wrap(head: str, text: str) -> str:
    import textwrap

    return textwrap.fill(text, 100, initial_indent=head, subsequent_indent=" " * len(head))


def _bytes(count: int) -> str:
    from naru.doctor import format_bytes

    return format_bytes(count)


def _join(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
