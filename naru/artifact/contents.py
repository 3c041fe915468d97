"""What goes into a bundle besides code: packed weights, golden vector, manifest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from naru.artifact.golden import (
    GoldenCase,
    pack_golden,
)
from naru.artifact.link import Linked
from naru.artifact.records import kernel_records, step_records
from naru.dtypes import DTYPES, is_float_array
from naru.errors import IRError, ModelError
from naru.frontend.onnx_kinds import as_json
from naru.frontend.onnx_plan import Body, HostPlan
from naru.ir.expr import Const, Expr, Var, free_vars
from naru.ir.graph import SEED, Graph, Node, TensorType, toposort
from naru.ir.simplify import TRUE, evaluate, known, substitute
from naru.ir.text_expr import print_expr
from naru.ops.evaluate import EndlessError
from naru.ops.evaluate import evaluate as evaluate_graph
from naru.schedule.driver import Program
from naru.schedule.requirements import Requirement
from naru.schedule.weights import pack_into, packed_bytes
from naru.targets import Target
from naru.version import VERSION

ABI_VERSION = 1
MOST_ROUNDS = 5000  # of loops, in numpy
MOST_DOUBLINGS = 10  # of a symbol's size in the golden vector
NOISE = 1e-10  # outputs whose root mean square is less may be nothing but rounding errors
ROUNDED = (
    0.1  # where products read numbers rounded to bf16: MobileNetV2 of random weights errs 0.06
)
SEARCHED = 4096  # combinations of sizes tried where conditions tie some together


def pack_weights(program: Program) -> bytearray:
    """The weights section: every constant in its layout at its offset."""
    out = bytearray(program.weight_bytes)
    for w in program.weights:
        array = w.data.array
        count = packed_bytes(array, w.layout) // array.itemsize
        pack_into(np.frombuffer(out, array.dtype, count, w.offset), array, w.layout)
    return out


# --- golden vector --------------------------------------------------------------------------------


def make_golden(g: Graph, requires: Sequence[Requirement] = ()) -> GoldenCase | None:
    """Inputs from a fixed generator and the outputs that the numpy meaning gives for them, floats
    in double precision and rounded once. None where the numbers in the inputs must fit together as
    shapes do, and those that were tried do not, where loops take too many rounds, or where windows
    have weights that are not finite."""
    given = [r for r in requires if not r.late]
    sizes = golden_sizes(g, [r for r in requires if set(free_vars(r.cond)) <= set(g.symbols)])
    numbers = {v: Const(n) for v, n in sizes.items()}
    if any(substitute(r.cond, numbers) is not TRUE for r in given):
        return None  # no sizes were found at which the model makes sense
    rng = np.random.Generator(np.random.PCG64(20260101))
    inputs = [sample_input(n.type, sizes, rng) for n in g.inputs]
    order = toposort(*g.outputs)
    dims = {d for n in order for t in n.types for d in t.shape}
    if any(set(free_vars(d)) <= set(sizes) and evaluate(d, sizes) < 0 for d in dims):
        return None  # windows that no small input holds
    if any(n.op in ("conv", "conv_transpose") and _has_specials(n.inputs[1]) for n in order):
        return None  # how many zeros of padding they meet is the kernel's affair
    # Where values decide which code runs, double precision may decide otherwise than the code.
    decided = any(n.op in ("if", "loop", "bind_dim") for n in order)
    if not decided:
        return _golden(g, inputs, float64=True)
    examples = _examples(order, sizes)
    likely = [
        a if (e := examples.get(n)) is None else e for n, a in zip(g.inputs, inputs, strict=True)
    ]
    # (Scales make sizes too, and must be above 0.)
    above_one = [np.abs(a) + a.dtype.type(1) if a.dtype.kind == "f" else a for a in likely]
    for tried in (likely, inputs, above_one):
        try:
            return _golden(g, tried, float64=False)
        except EndlessError:
            return None
        except (ModelError, IRError, ValueError, IndexError, ZeroDivisionError, MemoryError):
            continue
    return None


def _has_specials(weights: Node | None) -> bool:
    array = None if weights is None else weights.data
    return array is not None and not np.isfinite(array).all()


def _golden(g: Graph, inputs: list[np.ndarray], *, float64: bool) -> GoldenCase:
    outputs = evaluate_graph(g, inputs, float64=float64, rounds=MOST_ROUNDS)
    return GoldenCase("main", tuple(inputs), tuple(np.asarray(o, order="C") for o in outputs))


def _examples(order: Sequence[Node], sizes: dict[Var, int]) -> dict[Node, np.ndarray]:
    """Contents for inputs whose numbers become sizes, as the nodes that bind them suggest."""
    found: dict[Node, np.ndarray] = {}
    for n in order:
        example, source = n.attr("example"), n.inputs[0] if n.op == "bind_dim" else None
        while source is not None and source.op in ("cast", "with_sizes", "reshape"):
            source = source.inputs[0]
        if source is None or source.op != "input" or not isinstance(example, tuple) or not example:
            continue
        shape = tuple(evaluate(d, sizes) for d in source.type.shape)
        count = math.prod(shape)
        exprs = [e for e in example[:count] if isinstance(e, Expr)]
        if len(exprs) == count and all(set(free_vars(e)) <= set(sizes) for e in exprs):
            numbers = [evaluate(e, sizes) for e in exprs]
            kind = DTYPES[source.type.dtype].numpy
            found[source] = np.array(numbers, np.int64).astype(kind).reshape(shape)
    return found


def golden_sizes(g: Graph, requires: Sequence[Requirement] = ()) -> dict[Var, int]:
    """Small sizes of the symbols, different ones where possible, at which no dim of the graph is
    below 1, or else below 0: windows without padding ask for more than two elements."""
    smallest = {s: min(max(s.lo, 2 + k % 3), s.hi) for k, s in enumerate(g.symbols)}
    dims = {d for n in toposort(*g.outputs) for t in n.types for d in t.shape}
    inner = [d for d in dims if free_vars(d) and all(v in smallest for v in free_vars(d))]
    for least in (1, 0):
        sizes = dict(smallest)
        for _ in range(MOST_DOUBLINGS):
            short = {v for d in inner if evaluate(d, sizes) < least for v in free_vars(d)}
            if not short:
                return _satisfying(sizes, requires)
            sizes = {v: min(2 * n, v.hi) if v in short else n for v, n in sizes.items()}
    return _satisfying(smallest, requires)


def _satisfying(sizes: dict[Var, int], requires: Sequence[Requirement]) -> dict[Var, int]:
    """The sizes, or the nearest larger ones at which every condition on them holds, or as many as
    can be made to. Symbols that no condition ties together are searched apart."""
    found = dict(sizes)
    for asked, conditions in _tied(requires):
        for more in itertools.islice(_by_sum(len(asked)), SEARCHED):
            grown = {v: min(sizes[v] + k, v.hi) for v, k in zip(asked, more, strict=True)}
            at = {v: Const(n) for v, n in grown.items()}
            if all(substitute(c, at) is TRUE for c in conditions):
                found |= grown
                break
    return found


def _tied(requires: Sequence[Requirement]) -> list[tuple[list[Var], list[Expr]]]:
    """Groups of conditions that share symbols, with these."""
    groups: list[tuple[list[Var], list[Expr]]] = []
    for r in requires:
        names, conditions = list(free_vars(r.cond)), [r.cond]
        for group in [g for g in groups if not set(g[0]).isdisjoint(names)]:
            groups.remove(group)
            names = list(dict.fromkeys([*group[0], *names]))
            conditions = [*group[1], *conditions]
        groups.append((names, conditions))
    return groups


def _by_sum(count: int) -> Iterator[tuple[int, ...]]:
    """All tuples of whole numbers >= 0, those with a small sum first."""
    if not count:
        return iter([()])
    return (t for total in itertools.count() for t in _parts(total, count))


def _parts(total: int, count: int) -> Iterator[tuple[int, ...]]:
    """All tuples of so many whole numbers >= 0 with this sum."""
    if count == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _parts(total - first, count - 1):
            yield (first, *rest)


def sample_input(t: TensorType, sizes: dict[Var, int], rng: np.random.Generator) -> np.ndarray:
    """Values in [-1, 1) for floats, 0..3 for integers, coin flips for bool."""
    shape = tuple(evaluate(d, sizes) for d in t.shape)
    row = DTYPES[t.dtype]
    raw = rng.random(shape)
    if row.kind == "f":
        return np.asarray(raw * 2 - 1).astype(row.numpy)
    return np.asarray(raw * (2 if row.kind == "b" else 4)).astype(np.int64).astype(row.numpy)


# --- manifest -------------------------------------------------------------------------------------


def make_host_manifest(
    plan: HostPlan, target: Target, *, options: Mapping[str, Any], source: Mapping[str, Any]
) -> dict[str, Any]:
    """Of a model that runs partly on the host; runtime/plan.py has the schema."""
    return {
        "format": 1,
        "abi": ABI_VERSION,
        "naru": VERSION,
        "needs": ["host"],
        "target": _target(target),
        "source": {"name": plan.name, **source},
        "options": dict(options),
        "symbols": [],
        "entries": [],
        "states": [],
        "memory": {},
        "kernels": [],
        "host": {
            "inputs": [{"name": n, **as_json(kind)} for n, kind in plan.inputs],
            "outputs": [{"name": n, **as_json(kind)} for n, kind in plan.outputs],
            "steps": _steps(plan.body),
            "parts": len(plan.parts),
            "texts": list(plan.texts),
        },
        **_columns(plan.columns),
    }


def _columns(columns: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What the columns of inputs are called, where the model takes tables."""
    return {"columns": {k: list(v) for k, v in columns.items()}} if columns else {}


def _steps(body: Body) -> list[dict[str, Any]]:
    return [
        {
            "operator": s.operator,
            "name": s.name,
            "reads": list(s.reads),
            "writes": list(s.writes),
            "attrs": dict(s.attrs),
            "bodies": {
                k: {"inputs": list(b.inputs), "outputs": list(b.outputs), "steps": _steps(b)}
                for k, b in s.bodies.items()
            },
        }
        for s in body.steps
    ]


def pack_constants(plan: HostPlan) -> bytes:
    """The section `constants`: what steps on the host read."""
    return pack_golden([GoldenCase("constants", plan.constants, ())])


def _target(target: Target) -> dict[str, Any]:
    return {"name": target.name, "triple": target.triple, "features": list(target.features)}


def make_manifest(
    g: Graph,
    program: Program,
    linked: Linked,
    target: Target,
    *,
    options: Mapping[str, Any],
    source: Mapping[str, Any],
    outputs: Mapping[str, Mapping[str, Any]],
    golden: GoldenCase | None = None,
    rows: str | None = None,
    rounded: bool = False,
) -> dict[str, Any]:
    """See artifact/bundle.py for the schema. `outputs`: what else there is to say of one, by name;
    that of main is enough. `rows`: the symbol along which rows stay apart. `rounded`: is what
    products read rounded to bf16?"""
    offsets = linked.offsets
    steps, tensors = step_records(g, program)
    interface: dict[str, Any] = {
        "plan": offsets.get("naru_plan", 0),
        "dynamic": program.pointers > 0,
        "pointers": program.pointers,
        "requires": [r.text for r in program.requires],
        "inputs": [_input(n, g.widens) for n in g.inputs],
        "outputs": [
            {**_tensor(name, n.type), "late": late}
            for name, n, late in zip(g.output_names, g.outputs, program.late, strict=True)
        ],
        "steps": [s.name for s in program.steps],
    }
    described = [{**o, **outputs.get(o["name"], {})} for o in interface["outputs"]]
    return {
        "format": 1,
        "abi": ABI_VERSION,
        "naru": VERSION,
        "target": _target(target),
        "source": {"name": g.name, **source},
        "options": dict(options),
        "symbols": _symbols(program),
        "entries": [
            {"name": "main", "run": offsets.get("naru_run", 0), **interface, "outputs": described},
            {"name": "profile", "run": offsets.get("naru_profile", 0), **interface},
        ],
        "states": [],
        "memory": {
            "arena": print_expr(program.arena),
            "where": {v.name: print_expr(e) for v, e in program.lets},
            "weights": str(program.weight_bytes),
        },
        "packed": _packed(program),
        "kernels": kernel_records(program, linked),
        "steps": steps,
        "tensors": tensors,
        "tolerance": tolerance_of(golden, rounded=rounded),
        **({"rows": rows} if rows else {}),
        **_columns(g.columns),
    }


def tolerance_of(case: GoldenCase | None, *, rounded: bool = False) -> dict[str, float]:
    """How far outputs may be off: see `tolerance` in bundle.py. `atol` is for what cancels; where
    an output is small as a whole it is a tenth of that, so that zeros do not pass for it. Outputs
    below NOISE do not count."""
    floats = [o.astype(np.float64) for o in case.outputs if is_float_array(o.dtype)] if case else []
    finite = [o[np.isfinite(o)] for o in floats]
    with np.errstate(over="ignore"):  # an infinite size is none of the small ones
        sizes = [float(np.sqrt(np.mean(np.square(o)))) for o in finite if o.size]
    small = min((s for s in sizes if s > NOISE), default=1.0)
    return {"rtol": ROUNDED if rounded else 1e-4, "atol": min(1e-6, 0.1 * small)}


def _packed(program: Program) -> list[list[int | str]]:
    """Offset, size and dtype of each array in the section `weights`."""
    return [
        [w.offset, packed_bytes(w.data.array, w.layout), w.data.array.dtype.name]
        for w in program.weights
    ]


def _symbols(program: Program) -> list[dict[str, Any]]:
    return [
        {
            "name": s.name,
            "lo": s.lo,
            "hi": min(s.hi, 2**31 - 1),
            "kind": "input" if k < program.input_symbols else "kernel",
        }
        for k, s in enumerate(program.symbols)
    ]


def _input(n: Node, widens: bool) -> dict[str, Any]:
    """An input; the seed of random numbers may be left out."""
    name = n.attr("name")
    said = {"optional": name == SEED, "widens": widens and n.type.dtype == "f64"}
    return {**_tensor(name, n.type), **{k: True for k, holds in said.items() if holds}}


def _tensor(name: object, t: TensorType) -> dict[str, Any]:
    dtype = DTYPES[t.dtype].numpy.name
    shape = [n if (n := known(d)) is not None else print_expr(d) for d in t.shape]
    return {"name": str(name), "dtype": dtype, "shape": shape}
