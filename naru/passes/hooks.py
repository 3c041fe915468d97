"""What can hang on a run of passes: verifying, timing, dumping.

times = Times()
run(CPU, g, on_pass=every(verify, times, dump_to(folder)))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from naru.errors import IRError
from naru.ir.graph import Graph, TensorType
from naru.ir.text import print_graph
from naru.ir.verify import check
from naru.ops.registry import OPS
from naru.passes.registry import OnPass, PassRun


def every(*hooks: OnPass) -> OnPass:
    """All hooks, in order."""

    def call(run: PassRun) -> None:
        for hook in hooks:
            hook(run)

    return call


def verify(run: PassRun) -> None:
    """The new graph is well-formed and has the interface of the old one."""
    if not run.changed:
        return
    check(run.after, infer=infer)
    if interface(run.before) != interface(run.after):
        raise IRError([f"the interface of graph {run.before.name} changed"])


def infer(
    op: str, types: Sequence[TensorType | None], attrs: Mapping[str, Any]
) -> tuple[TensorType, ...]:
    """The types that an op gives; those of a group are its body's. KeyError for an unknown op."""
    if op == "group":
        return tuple(n.type for n in attrs["body"].outputs)
    return OPS[op].infer(types, attrs)


def interface(g: Graph) -> tuple[object, ...]:
    """What a pass may not change: inputs, names and types of the outputs."""
    types = tuple((n.type.dtype, n.type.shape) for n in g.outputs)
    return g.inputs, g.output_names, types


@dataclass
class Times:
    """Collects (pass, seconds, changed)."""

    rows: list[tuple[str, float, bool]] = field(default_factory=list[tuple[str, float, bool]])

    def __call__(self, run: PassRun) -> None:
        self.rows.append((str(run.step), run.seconds, run.changed))


def dump_to(folder: Path) -> OnPass:
    """Writes `03_fuse_elementwise.graph.py` after each pass that changed something."""

    def write(run: PassRun) -> None:
        if run.changed:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{run.index:02d}_{run.step.name}.graph.py"
            path.write_text(print_graph(run.after), encoding="utf-8")

    return write
