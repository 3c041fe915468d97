"""What a manifest says for `explain`: kernels, steps and the tensors between them. Formulas only,
never measured times. artifact/bundle.py has the schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from naru.artifact.link import Linked
from naru.dtypes import DTYPES
from naru.ir.expr import Const
from naru.ir.graph import Graph, TensorType
from naru.ir.text_expr import print_expr
from naru.schedule.driver import Program
from naru.schedule.outline import Placed, StepRecord
from naru.schedule.storage import Storage

Json = dict[str, Any]


def shape_text(t: TensorType) -> str:
    """`batch×8×8`; empty for a scalar."""
    return "×".join(print_expr(d) for d in t.shape)


def kernel_records(program: Program, linked: Linked) -> list[Json]:
    """One record a kernel, with what all its calls come from."""
    steps: dict[str, list[StepRecord]] = {}
    for record in _all_steps(program.steps):
        steps.setdefault(record.name, []).append(record)
    starts = sorted({*linked.offsets.values(), len(linked.code)})
    records: list[Json] = []
    for k in program.kernels:
        offset = linked.offsets.get(k.func.name)
        place = {}
        if offset is not None:  # in WebAssembly there are none
            place = {"offset": offset, "size": starts[starts.index(offset) + 1] - offset}
        uses = steps.get(k.name, [])
        out = k.func.buffers[-1]
        records.append(
            {
                "name": k.name,
                "ops": list(k.ops),
                "nodes": [u.nodes for u in uses if u.nodes],
                "calls": len(uses),
                "shape": "×".join(print_expr(d) for d in out.shape),
                "algorithm": k.algorithm,
                "schedule": k.schedule,
                "flops": print_expr(k.flops),
                **({"products": k.products} if k.products else {}),
                "bytes": print_expr(k.bytes),
                "estimate": print_expr(k.work),
                "why": sorted({w for u in uses for w in u.why}),
                **place,
            }
        )
    return records


def _all_steps(steps: Sequence[StepRecord]) -> Iterator[StepRecord]:
    for s in steps:
        yield s
        yield from _all_steps(s.body)


def step_records(g: Graph, program: Program) -> tuple[list[Json], list[Json]]:
    """(steps, tensors): what a run does, and what its steps read and write."""
    table = _Tensors(g, program)
    return [_step(s, g, table) for s in program.steps], table.rows


def _step(s: StepRecord, g: Graph, table: _Tensors) -> Json:
    made: Json = {
        "name": s.name,
        "nodes": named_nodes(s.nodes, g.operators),
        "reads": [table.find(p) for p in s.reads],
        "writes": [table.find(p) for p in s.writes],
    }
    if s.why:
        made["why"] = list(s.why)
    if s.body:  # what it reads and writes inside is its own affair
        made["body"] = [
            {"name": b.name, "nodes": named_nodes(b.nodes, g.operators)} for b in _all_steps(s.body)
        ]
    return made


def named_nodes(notes: str, operators: Mapping[str, str]) -> list[list[str]]:
    """[name, operator] of each node of a note, once, in the order of the file."""
    order = {name: k for k, name in enumerate(operators)}
    names = sorted(set(filter(None, notes.split(", "))), key=lambda n: order.get(n, len(order)))
    return [[name, operators.get(name, "")] for name in names]


@dataclass
class _Tensors:
    """The tensors of a run, numbered in the order in which steps touch them."""

    g: Graph
    program: Program
    rows: list[Json] = field(default_factory=list[Json])
    numbers: dict[object, int] = field(default_factory=dict[object, int])

    def find(self, placed: Placed) -> int:
        """The number of a tensor; equal weights are one."""
        storage, t = placed
        key: object = storage
        if storage.role == "weights" and isinstance(storage.offset, Const):
            key = ("weights", storage.offset.value)
        if isinstance(storage.role, tuple):
            key = storage.role
        if key not in self.numbers:
            self.numbers[key] = len(self.rows)
            row = {"dtype": DTYPES[t.dtype].numpy.name, "shape": shape_text(t)}
            self.rows.append({**row, **self.kind(storage)})
        return self.numbers[key]

    def kind(self, storage: Storage) -> Json:
        """`kind`, and a name where the model gives one."""
        if storage.role == "weights":
            return {"kind": "weight"}
        if isinstance(storage.role, tuple):
            at = storage.role[1]
            if at < len(self.g.inputs):
                return {"kind": "input", "name": str(self.g.inputs[at].attr("name"))}
            if at - len(self.g.inputs) < len(self.g.outputs):
                return {"kind": "output", "name": self.g.output_names[at - len(self.g.inputs)]}
        return {"kind": "value"}
