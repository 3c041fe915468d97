"""What runs where, of a model that runs partly on the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from naru.artifact.bundle import (
    Bundle,
    read_bundle,
)
from naru.explain import text
from naru.explain.report import explain
from naru.runtime.plan import CONSTANT, NATIVE, Body, Plan, Step, read_plan


def is_partly_on_host(bundle: Bundle) -> bool:
    """Has the bundle a plan rather than entries?"""
    return "host" in bundle.manifest


def parts_of(bundle: Bundle, plan: Plan) -> list[Bundle]:
    """The bundles of the native parts."""
    return [read_bundle(bundle.section(f"part.{k}"), verify=False) for k in range(plan.parts)]


def host_lines(bundle: Bundle) -> list[str]:
    """The plan, step by step, and then each native part as a model of its own."""
    plan = read_plan(bundle)
    manifest = bundle.manifest
    lines = [f"target    {manifest['target']['name']}, naru {manifest.get('naru', '?')}"]
    for head, values in (("inputs", plan.inputs), ("outputs", plan.outputs)):
        lines += text.wrap(f"{head:9} ", ", ".join(map(str, values)))
    steps = [s for s, _ in _walk(plan.body, 0) if s.operator not in (NATIVE, CONSTANT)]
    counts = f"{_count(len(steps), 'node')} on the host, {_count(plan.parts, 'native part')}"
    lines += ["", counts, ""]
    lines.append(f"{'runs':10} {'operator':22} node, or nodes")
    for step, depth in _walk(plan.body, 0):
        if step.operator == CONSTANT:
            continue
        where = f"part {step.attrs['part']}" if step.operator == NATIVE else "host"
        operator = "  " * depth + ("native code" if step.operator == NATIVE else step.operator)
        lines.append(text.shorten(f"{where:10} {operator:22} {step.name}", text.WIDTH))
    for k, part in enumerate(parts_of(bundle, plan)):
        found = explain(part)
        lines += ["", f"part {k}", *text.heading(part, found)[1:], *text.summary(found), ""]
        lines += text.table(sorted(found.rows, key=text.ORDERS["time"]), found)
    return lines


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def host_json(bundle: Bundle) -> dict[str, Any]:
    """The plan as the manifest has it, and each part as `explain --json` has a model."""
    plan = read_plan(bundle)
    general = ("naru", "target", "source", "options", "host")
    parts = [explain(part).as_json(part) for part in parts_of(bundle, plan)]
    return {**{k: bundle.manifest[k] for k in general}, "parts": parts}


def host_operators(bundle: Bundle) -> Sequence[str]:
    """Operators that run on the host, each once."""
    if not is_partly_on_host(bundle):
        return ()
    steps = [s for s, _ in _walk(read_plan(bundle).body, 0)]
    return sorted({s.operator for s in steps} - {NATIVE, CONSTANT})


def interface(bundle: Bundle) -> tuple[Sequence[object], Sequence[object]]:
    """(inputs, outputs), whose texts say what they are."""
    if is_partly_on_host(bundle):
        plan = read_plan(bundle)
        return plan.inputs, plan.outputs
    return bundle.entries[0].inputs, bundle.entries[0].outputs


def count_kernels(bundle: Bundle) -> int:
    """How many kernels there are, in all native parts."""
    if is_partly_on_host(bundle):
        return sum(map(count_kernels, parts_of(bundle, read_plan(bundle))))
    return len(bundle.manifest.get("kernels", []))


def _walk(body: Body, depth: int) -> Iterator[tuple[Step, int]]:
    for step in body.steps:
        yield step, depth
        for inner in step.bodies.values():
            yield from _walk(inner, depth + 1)
