"""naru explain"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from naru.cli.group import EXISTING, as_json_option, dims_option
from naru.cli.loading import open_bundle, parse_dims
from naru.cli.printing import bytes_text, make_table, print_json, print_table, wrap
from naru.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from naru.artifact.bundle import Bundle
    from naru.explain import Explanation, Measured


@click.command("explain")
@click.argument("model", type=EXISTING)
@click.option("--asm", is_flag=True, help="Print the machine code instead (needs objdump).")
@click.option("--kernel", metavar="NAME", help="Only this kernel.")
@click.option(
    "-i", "--input", "inputs", metavar="[NAME=]FILE", multiple=True,
    help="Inputs to measure with, as for run. Default: those of the golden vector.",
)  # fmt: skip
@dims_option
@as_json_option
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

    bundle = open_bundle(model)
    if asm:
        click.echo(disassemble(bundle, kernel))
        return
    arrays = None
    if inputs:
        arrays = read_inputs(inputs_of(bundle), inputs)
    elif dims:
        arrays = random_inputs(inputs_of(bundle), bundle.symbols, parse_dims(dims))
    found = explain(bundle, arrays)
    if as_json:
        print_json(found.as_json(bundle))
        return
    _print_explanation(bundle, found, kernel)


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
    sizes = (f"{s.name} {bytes_text(s.size)}" for s in bundle.sections.values())
    click.echo(f"sections  {', '.join(sizes)}")
    _print_memory(manifest.get("memory", {}), found.sizes)
    print_table(_kernel_table(kernels, found))
    if found.untimed:
        click.echo(f"no times: {found.untimed}")
    for k, _ in kernels:
        _print_kernel(k)


def _print_memory(memory: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    from naru.explain import arena_bytes

    for name, text in memory.items():
        if isinstance(text, str):
            click.echo(wrap("memory    ", f"{name} = {text} bytes"))
        else:
            for part, formula in text.items():
                click.echo(wrap("            ", f"{part} = {formula}"))
    total = arena_bytes(dict(memory), sizes)
    if total is not None:
        at = "".join(f", {name} = {size}" for name, size in sizes.items())
        click.echo(f"memory    arena of this run: {bytes_text(total)}{at}")


def _kernel_table(kernels: Sequence[tuple[Any, Measured | None]], found: Explanation) -> Table:
    title = f"{len(kernels)} kernel{'s' * (len(kernels) != 1)}"
    if found.ns:
        title += f", {found.ns / 1e3:.1f} us on one thread"
        title += "".join(f", {name} = {size}" for name, size in found.sizes.items())
    heads = ("kernel", "ops", "shape", "calls", "us", "%", "GFLOP/s", "GB/s", "code")
    table = make_table(title, heads, right=range(3, 9))
    for k, m in kernels:
        table.add_row(
            str(k.get("name", "?")),
            " ".join(k.get("ops", ())),
            str(k.get("shape", "")),
            *_measured_cells(k, m, found.ns),
            bytes_text(k["size"]) if "size" in k else "",
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
            click.echo(wrap(f"  {head:9} ", str(line)))
    for line in str(k.get("schedule") or "").splitlines():
        click.echo(f"  schedule  {line}")
