"""What a run does, for `explain`: its steps with the nodes they come from, what they read and
write, and the steps of the bodies of control flow."""

from __future__ import annotations

from dataclasses import dataclass

from naru.ir.graph import TensorType
from naru.schedule.storage import Scope, Step, Storage

Placed = tuple[Storage, TensorType]


@dataclass(frozen=True)
class StepRecord:
    """A step: the name of its kernel or control op, the notes of its nodes, why fusion ended there,
    the tensors that it reads and writes, and the steps of its bodies one after the other."""

    name: str
    nodes: str
    why: tuple[str, ...]
    reads: tuple[Placed, ...] = ()
    writes: tuple[Placed, ...] = ()
    body: tuple[StepRecord, ...] = ()


def outline(scope: Scope) -> tuple[StepRecord, ...]:
    """The records of a scope's steps, in the order of the run."""
    return tuple(_record(scope, s) for s in scope.steps)


def _record(scope: Scope, s: Step) -> StepRecord:
    name = s.kernel.name if s.kernel else s.node.op if s.node else "copy"
    why = s.node.attr("why") if s.node else None
    return StepRecord(
        name,
        scope.graph.notes.get(s.node, "") if s.node else "",
        tuple(map(str, why)) if isinstance(why, tuple) else (),
        _reads(s),
        _writes(s),
        tuple(r for inner in s.scopes for r in outline(inner)),
    )


def _reads(s: Step) -> tuple[Placed, ...]:
    if s.node is None:  # a copy: what is read has the type of what is written
        return tuple((x, _type_of_copy(s)) for x in s.operands)
    given = zip(s.operands, s.node.inputs, strict=True)
    return tuple((x, n.type) for x, n in given if n is not None)


def _writes(s: Step) -> tuple[Placed, ...]:
    if s.node is None:
        return tuple((x, _type_of_copy(s)) for x in s.results)
    return tuple(zip(s.results, s.node.types, strict=False))


def _type_of_copy(s: Step) -> TensorType:
    if s.kernel is None:
        return TensorType("u8", ())
    out = s.kernel.func.buffers[-1]
    return TensorType(out.dtype, out.shape)
