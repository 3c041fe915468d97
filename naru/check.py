"""Can a model be compiled, node by node? `naru check` without its printing: what the front end
makes of every node (nothing is compiled), and how fast its kernels are by the table of support.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from naru import support
from naru.frontend.onnx_watch import Problem, Seen, Watched, watch

UNKNOWN = ("?",)  # of operators that nobody measured


@dataclass(frozen=True)
class Checked:
    """One node. `classes`: of its kernels, the fastest first, () where it does not compile.
    `sizes`: symbols of its results that only data decide."""

    name: str
    op: str
    domain: str
    opset: int
    place: str
    dtypes: tuple[str, ...]
    classes: tuple[str, ...]
    sizes: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def operator(self) -> str:
        """`Conv`, `com.microsoft.Gelu`."""
        return self.op if self.domain == "ai.onnx" else f"{self.domain}.{self.op}"


@dataclass(frozen=True)
class Report:
    """All nodes of a model, those of bodies included, and problems of the rest of it."""

    nodes: tuple[Checked, ...]
    others: tuple[Problem, ...]

    @property
    def problems(self) -> tuple[Problem, ...]:
        return (*self.others, *(p for n in self.nodes for p in n.problems))

    @property
    def compiles(self) -> bool:
        return not self.problems


def check(source: str | os.PathLike[str] | bytes) -> Report:
    """Reads a model and looks its nodes up. ModelError where the file cannot be read."""
    watched: Watched = watch(source)
    nodes = tuple(row for seen in watched.nodes for row in _rows(seen))
    return Report(nodes, tuple(watched.problems))


def _rows(seen: Seen) -> Iterator[Checked]:
    """A node and those of its bodies; not those of a function, whose problems are the caller's."""
    problems = list(_all_problems(seen) if seen.is_call else seen.problems)
    classes = () if problems else classes_of(seen)
    yield Checked(
        seen.name,
        seen.op,
        seen.domain or "ai.onnx",
        seen.opset,
        "".join(f"{p}: " for p in seen.place),
        seen.dtypes,
        classes,
        seen.sizes,
        tuple(problems),
    )
    if not seen.is_call:
        for inner in seen.inside:
            yield from _rows(inner)


def _all_problems(seen: Seen) -> Iterator[Problem]:
    yield from seen.problems
    for inner in seen.inside:
        yield from _all_problems(inner)


def classes_of(seen: Seen) -> tuple[str, ...]:
    """By the table, for the first of the node's element types that stands there; of control flow,
    and of a function that does not stand there, by the slowest node inside."""
    if seen.on_host:
        return ("host",)
    op = support.find(seen.domain, seen.op)
    if seen.inside and not seen.is_call:
        op = None
    if op is not None:
        for dtype in seen.dtypes:
            if dtype in op.speed:
                return op.speed[dtype]
        if op.classes:
            return op.classes
    if not seen.inside:
        return UNKNOWN
    return max((classes_of(n) for n in seen.inside), key=_slowness)


def _slowness(classes: Sequence[str]) -> int:
    order = [*support.CLASSES, *UNKNOWN]
    return max(order.index(c) for c in classes)
