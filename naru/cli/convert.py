"""naru convert"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from naru.cli.group import EXISTING, WRITTEN, as_json_option, reading_options
from naru.cli.printing import make_table, print_json, print_table, say
from naru.cli.progress import progress
from naru.errors import InputError
from naru.units import format_bytes

if TYPE_CHECKING:
    from naru.frontend.onnx_plan import HostPlan
    from naru.frontend.reading import Reading
    from naru.ir.graph import Graph


@click.command("convert")
@click.argument("model", type=EXISTING)
@click.option("-o", "--output", type=WRITTEN, help="Write the graph as text here.")
@click.option("--graph", "show_graph", is_flag=True, help="Print the graph as text.")
@reading_options
@as_json_option
def convert_command(
    model: Path, output: Path | None, show_graph: bool, reading: Reading, as_json: bool
) -> None:
    """Shows what naru makes of a MODEL before it compiles: what was recognised, its inputs and
    outputs, its operators; or all that it has not, with what to do.

    \b
      naru convert pipeline.pkl                what a pickle would import, and how to go on
      naru convert pipeline.pkl --trust-pickle
      naru convert weights.pt --module net:Net --input 'x: f32[batch, 3, 32, 32]'
      naru convert model.onnx --graph
    """
    from dataclasses import replace

    from naru.cli.loading import is_bundle
    from naru.frontend.source import kind_of
    from naru.ir.graph import Graph
    from naru.ir.text import print_graph

    if is_bundle(model):
        raise InputError(f"{model} is a bundle already", hint=f"naru explain {model}")
    notes: list[str] = []
    with progress(f"reading {model.name}"):
        made = _read(model, replace(reading, tell=notes.append))
    parts = (made,) if isinstance(made, Graph) else made.parts
    text = "\n".join(map(print_graph, parts))
    if output is not None:
        from naru.files import write_text

        write_text(output, text)
    record = {"kind": kind_of(model), "notes": notes, **_describe(made)}
    if as_json:
        print_json(record)
        return
    _print(model, record)
    if show_graph:
        click.echo(text)


def _read(model: Path, reading: Reading) -> Graph | HostPlan:
    from naru.compiler import as_source
    from naru.errors import UnsupportedError
    from naru.frontend.onnx_plan import HostPlan, read_plan
    from naru.frontend.source import ONNX, kind_of, read_model
    from naru.ir.graph import Graph

    source = as_source(model, reading, model.stem)
    if isinstance(source, Graph | HostPlan):
        return source
    try:
        return read_model(source)
    except UnsupportedError:
        plan = read_plan(source) if kind_of(source) == ONNX else None
        if plan is None:
            raise
        return plan


def _describe(made: Graph | HostPlan) -> dict[str, Any]:
    """What a graph or a plan takes, gives and is made of."""
    from naru.ir.graph import Graph, toposort
    from naru.ir.text import graph_constants
    from naru.ir.text_graph import bodies_of
    from naru.ops.operands import shape_text

    operators: Counter[str] = Counter()

    def count(graph: Graph) -> None:
        for n in toposort(*graph.outputs):
            if n.op not in ("input", "constant"):
                operators[n.op] += 1
            for _, value in n.attrs:
                for body in bodies_of(value):
                    count(body)

    if isinstance(made, Graph):
        parts, steps = (made,), Counter[str]()
        named = zip(made.output_names, made.outputs, strict=True)
        inputs = {
            str(n.attr("name")): f"{n.type.dtype}{shape_text(n.type.shape)}" for n in made.inputs
        }
        outputs = {k: f"{n.type.dtype}{shape_text(n.type.shape)}" for k, n in named}
    else:
        parts = made.parts
        steps = Counter(s.operator for s in made.body.steps if s.operator not in INTERNAL)
        inputs = {k: str(kind) for k, kind in made.inputs}
        outputs = {k: str(kind) for k, kind in made.outputs}
    for part in parts:
        count(part)
    return {
        "name": made.name,
        "inputs": inputs,
        "outputs": outputs,
        "operators": dict(operators.most_common()),
        "host": dict(steps.most_common()),
        "constants": sum(a.nbytes for g in parts for a in graph_constants(g).values()),
    }


INTERNAL = ("native", "constant")  # steps of a plan that are no operators


def _print(model: Path, record: dict[str, Any]) -> None:
    click.echo(f"{model.name}: {record['kind']}")
    for note in record["notes"]:
        click.echo(f"  {note}")
    for head in ("inputs", "outputs"):
        click.echo(head)
        for name, kind in record[head].items():
            click.echo(f"  {name}: {kind}")
    table = make_table("operators", ("operator", "times", "runs"), right=(1,))
    for where in ("operators", "host"):
        for name, times in record[where].items():
            table.add_row(name, str(times), "native" if where == "operators" else "on the host")
    print_table(table)
    say(f"constants: {format_bytes(record['constants'])}")
