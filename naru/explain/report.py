"""What `naru explain` knows of a bundle: for each kernel its nodes, work, predicted and measured
time, and how near that is to the roofs of this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from naru.artifact.bundle import Bundle
from naru.artifact.formulas import formula
from naru.artifact.manifest import check_records
from naru.errors import TargetError
from naru.inputs import Array
from naru.ops.registry import OPS
from naru.roofs import Bound, Roofs, measure
from naru.runtime.model import StepTime
from naru.runtime.native_model import NativeModel, check_target

Json = dict[str, Any]

_CONTROL = "control"
_PRODUCTS = {"conv": "convolution", "matmul": "matrix product", "tile_product": "products in tiles"}
# From the most to the least that an op of the kind asks for: a kernel is what its heaviest op is.
_KINDS = {
    "opaque": "by hand",
    "reduction": "reduction",
    "elementwise": "elementwise",
    "index": "movement",
    "view": "movement",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """All calls of one kernel in a run on one thread: nanoseconds, and the work that its formulas
    give at the sizes of that run (None where they use a size that only a kernel knows)."""

    calls: int
    ns: float
    flops: int | None
    bytes: int | None

    @property
    def gflops(self) -> float | None:
        """GFLOP/s."""
        return self.flops / self.ns if self.flops and self.ns else None

    @property
    def gigabytes_per_second(self) -> float | None:
        """GB/s, each tensor counted once."""
        return self.bytes / self.ns if self.bytes and self.ns else None

    def as_json(self) -> Json:
        return {
            "calls": self.calls,
            "ns": self.ns,
            "flops": self.flops,
            "bytes": self.bytes,
            "gflops": self.gflops,
            "gigabytes_per_second": self.gigabytes_per_second,
        }


@dataclass(frozen=True, slots=True)
class Row:
    """A kernel, or the control steps of one op (`record` then has a name and the body's kernels).

    `nodes` are (name, operator) of the model; `predicted` the compiler's estimate in nanoseconds
    and `bound` what the roofs allow, both for all calls; None where unknown.
    """

    record: Json
    kind: str
    nodes: tuple[tuple[str, str], ...]
    why: tuple[str, ...]
    predicted: int | None
    measured: Measured | None
    bound: Bound | None

    @property
    def name(self) -> str:
        return str(self.record.get("name", "?"))

    @property
    def ns(self) -> float:
        """Measured, else predicted, else 0: what rows are ordered by."""
        return self.measured.ns if self.measured else float(self.predicted or 0)

    @property
    def share(self) -> float | None:
        """Of the roof: 1 is as fast as this machine can be."""
        if self.bound is None or self.measured is None or self.measured.ns <= 0:
            return None
        return self.bound.ns / self.measured.ns

    @property
    def above(self) -> float:
        """Nanoseconds that a kernel at its roof would save."""
        return max(0.0, self.ns - self.bound.ns) if self.bound and self.measured else 0.0

    def as_json(self) -> Json:
        """The manifest's record, and what was found."""
        bound = self.bound and {"ns": self.bound.ns, "by": self.bound.by, "share": self.share}
        return {
            **self.record,
            "kind": self.kind,
            "nodes": [{"name": name, "operator": operator} for name, operator in self.nodes],
            "why": list(self.why),
            "predicted_ns": self.predicted,
            "measured": self.measured and self.measured.as_json(),
            "roof": bound,
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """What `explain` found. `rows` are in the order of the manifest, then control steps; `steps`
    are times in the order of the run, `sizes` the symbols' values in it, `threads` the most that it
    used; `untimed` says why nothing was measured."""

    rows: tuple[Row, ...]
    steps: tuple[StepTime, ...]
    sizes: Mapping[str, int]
    roofs: Roofs | None
    untimed: str | None
    threads: int = 1

    @property
    def ns(self) -> float:
        """The sum of all steps."""
        return sum(s.ns for s in self.steps)

    @property
    def predicted(self) -> int:
        """The sum of what is predicted."""
        return sum(r.predicted or 0 for r in self.rows)

    def as_json(self, bundle: Bundle) -> Json:
        """Plain values, with the manifest's general part. docs/explain.md has the schema."""
        general = ("naru", "target", "source", "options", "symbols", "entries", "memory")
        return {
            **{key: bundle.manifest[key] for key in general if key in bundle.manifest},
            "sections": {s.name: s.size for s in bundle.sections.values()},
            "kernels": [r.as_json() for r in self.rows if r.kind != _CONTROL],
            "control": [r.as_json() for r in self.rows if r.kind == _CONTROL],
            "steps": [{"name": s.name, "ns": s.ns} for s in self.steps],
            "sizes": dict(self.sizes),
            "roofs": self.roofs and self.roofs.as_json(),
            "threads": self.threads,
            "untimed": self.untimed,
        }


def explain(bundle: Bundle, inputs: Mapping[str, Array] | None = None) -> Explanation:
    """Collects what the manifest says, and measures each step where this CPU can run the code.

    `inputs` are what the measured runs get (default: those of the golden vector). Raises
    BundleError for a damaged bundle; an unfit CPU is no error.
    """
    inputs = golden_inputs(bundle) if inputs is None else inputs
    times, untimed = _measure(bundle, inputs)
    return describe(bundle, inputs or {}, times, untimed=untimed)


def describe(
    bundle: Bundle,
    inputs: Mapping[str, Array],
    times: tuple[StepTime, ...],
    *,
    threads: int = 1,
    untimed: str | None = None,
) -> Explanation:
    """What the manifest says at the sizes of these inputs, with these times of a run on `threads`
    threads (none: only what is predicted)."""
    check_records(bundle.manifest)
    sizes = sizes_of(bundle, inputs)
    roofs = measure(frozenset(bundle.manifest["target"]["features"])) if times else None
    steps: Sequence[Json] = bundle.manifest.get("steps", [])
    rows = [
        _kernel_row(k, _steps_of(k, steps), times, sizes, roofs)
        for k in bundle.manifest.get("kernels", [])
    ]
    every = (*rows, *_control_rows(steps, times))
    return Explanation(every, times, sizes, roofs, untimed, threads)


def golden_inputs(bundle: Bundle) -> dict[str, Array] | None:
    """Those of the golden vector, by name; None for a bundle that has none."""
    golden = bundle.golden()
    names = [t.name for t in bundle.entries[0].inputs]
    return dict(zip(names, golden[0].inputs, strict=True)) if golden else None


def _measure(
    bundle: Bundle, inputs: Mapping[str, Array] | None
) -> tuple[tuple[StepTime, ...], str | None]:
    if "profile" not in [e.name for e in bundle.entries]:
        return (), "the bundle has no profile entry"
    if inputs is None:
        return (), "the bundle has no golden vector to run; give --input"
    try:
        check_target(bundle)  # not its fallback
        return NativeModel(bundle, threads=1).profile(dict(inputs)), None
    except TargetError as e:
        return (), e.message


def sizes_of(bundle: Bundle, inputs: Mapping[str, Array]) -> dict[str, int]:
    """The values that inputs give to symbols."""
    return {
        dim: size
        for spec in bundle.entries[0].inputs
        if spec.name in inputs
        for dim, size in zip(spec.shape, inputs[spec.name].shape, strict=False)
        if isinstance(dim, str)
    }


# ---- kernels ----


def _steps_of(kernel: Json, steps: Sequence[Json]) -> list[Json]:
    """The steps that call a kernel, those inside control flow included."""
    every = [s for top in steps for s in (top, *top.get("body", ()))]
    return [s for s in every if s["name"] == kernel.get("name")]


def _kernel_row(
    record: Json,
    steps: Sequence[Json],
    times: Sequence[StepTime],
    sizes: Mapping[str, int],
    roofs: Roofs | None,
) -> Row:
    calls = int(record.get("calls", len(steps)))
    found = _measured(record, times, sizes)
    predicted = formula(record.get("estimate"), sizes)
    bound = None
    if roofs and found and found.flops is not None and found.bytes is not None:
        bound = roofs.bound(found.flops, found.bytes, found.calls, int(record.get("products", 0)))
    return Row(
        record,
        kind_of(record.get("ops", ())),
        _nodes(record, steps),
        tuple(record.get("why", ())),
        None if predicted is None else predicted * (found.calls if found else calls),
        found,
        bound,
    )


def _measured(kernel: Json, times: Sequence[StepTime], sizes: Mapping[str, int]) -> Measured | None:
    """The sum over the steps that bear the kernel's name."""
    own = [s.ns for s in times if s.name == kernel.get("name")]
    if not own:
        return None
    flops, traffic = (formula(kernel.get(key), sizes) for key in ("flops", "bytes"))
    n = len(own)
    return Measured(n, sum(own), flops and flops * n, traffic and traffic * n)


def _nodes(record: Json, steps: Sequence[Json]) -> tuple[tuple[str, str], ...]:
    """(name, operator), each once; a bundle without steps has names only."""
    pairs = [(name, operator) for s in steps for name, operator in s["nodes"]]
    return tuple(dict.fromkeys(pairs or [(name, "") for name in record.get("nodes", ())]))


def kind_of(ops: Sequence[str]) -> str:
    """What a kernel of these ops mostly does: the kind of its heaviest op."""
    for op in ops:
        if op in _PRODUCTS:
            return _PRODUCTS[op]
    kinds = [OPS[op].kind for op in ops if op in OPS]
    return next((name for kind, name in _KINDS.items() if kind in kinds), "other")


# ---- control flow ----


def _control_rows(steps: Sequence[Json], times: Sequence[StepTime]) -> list[Row]:
    """One row for all `if`, one for all `loop`; what is inside has no times of its own."""
    rows: dict[str, list[Json]] = {}
    for s in steps:
        if "body" in s:
            rows.setdefault(s["name"], []).append(s)
    return [_control_row(name, own, times) for name, own in rows.items()]


def _control_row(name: str, steps: Sequence[Json], times: Sequence[StepTime]) -> Row:
    own = [t.ns for t in times if t.name == name]
    inside = dict.fromkeys(b["name"] for s in steps for b in s["body"])
    record = {"name": name, "ops": list(inside), "calls": len(steps)}
    nodes = _nodes({}, steps)
    measured = Measured(len(own), sum(own), None, None) if own else None
    return Row(record, _CONTROL, nodes, (), None, measured, None)
