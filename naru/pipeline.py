"""The table of contents of the compiler: a model file in, a bundle out.

    read_onnx -> PASSES -> build_driver (schedules every kernel) -> LLVM text -> objects -> link -> bundle

Deterministic: the same model, options, target and version give the same bytes. Nothing is timed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from naru.artifact.bundle import Bundle, GoldenCase, make_bundle, pack_golden
from naru.artifact.cache import Cache
from naru.artifact.link import link
from naru.codegen.llvm import emit_kernel
from naru.codegen.llvm_driver import emit_driver, emit_plan
from naru.codegen.objects import compile_modules
from naru.dtypes import DTYPES
from naru.frontend.onnx import read_onnx
from naru.ir.expr import Var
from naru.ir.graph import Graph, TensorType
from naru.ir.simplify import evaluate, known
from naru.ir.text_expr import print_expr
from naru.ops.evaluate import evaluate as evaluate_graph
from naru.options import Options, Progress
from naru.passes.choose_layout import choose_layout
from naru.passes.decompose import decompose
from naru.passes.fold_batch_norm import fold_batch_norm
from naru.passes.fold_constants import fold_constants
from naru.passes.fuse import fuse
from naru.passes.registry import run as run_passes
from naru.passes.simplify_algebra import simplify_algebra
from naru.schedule.driver import Program, build_driver, pack
from naru.schedule.kernels import Kernels
from naru.targets import Target
from naru.version import VERSION

ABI_VERSION = 1

# Order matters; each line is one pass.
PASSES = (
    fold_constants,  # what depends on constants or shapes only becomes a constant
    fold_batch_norm,  # into the weights of the convolution before it, while it is still one node
    decompose,  # ops that are compositions of others
    simplify_algebra,  # x + 0, double transposes, casts to the same dtype
    fold_constants,  # what the three passes above made constant
    choose_layout,  # channels last, packed weights: types only
    fuse,  # nodes become kernels
)


def lower_graph(g: Graph, target: Target, on_pass: Any = None) -> tuple[Graph, Program]:
    """The graph after all passes, and its program in loop IR."""
    fused = run_passes(PASSES, g, on_pass)
    return fused, build_driver(fused, Kernels(target, fma=target.has_fma))


def emit(program: Program, target: Target) -> list[tuple[str, str]]:
    """(name, LLVM text) of every module of a program."""
    kernels = [k.func for k in program.kernels]
    texts = [(k.name, emit_kernel(k, target)) for k in kernels]
    texts.append(("run", emit_driver(program.run, target, program.roles, kernels)))
    texts.append(("profile", emit_driver(program.profile, target, program.roles, kernels)))
    texts.append(("plan", emit_plan(program.plan, target)))
    return texts


def build(
    source: str | os.PathLike[str] | bytes,
    options: Options,
    name: str | None,
    store: Cache | None = None,
    on_progress: Progress | None = None,
) -> Bundle:
    """The bundle of a model. The same source, options and version give the same bytes."""
    tell = on_progress or (lambda *_: None)
    tell("import", 0, 1)
    g = read_onnx(source, name=name)
    fused, program = lower_graph(g, options.target)
    modules = emit(program, options.target)
    objects = compile_modules(
        [text for _, text in modules],
        options.target,
        store=store,
        on_progress=lambda done, total: tell("kernels", done, total),
    )
    names = [n for n, _ in modules]
    linked = link(list(zip(names, objects, strict=True)), ["naru_run", "naru_profile", "naru_plan"])
    tell("golden", 0, 1)
    golden = make_golden(g)
    sections: dict[str, Any] = {
        "code": linked.code,
        "weights": pack_weights(program),
        "golden": pack_golden([golden]),
    }
    sizes = dict(zip(names, map(len, objects), strict=True))
    manifest = make_manifest(g, fused, program, options, linked.offsets, source, sizes)
    return make_bundle(manifest, sections)


def pack_weights(program: Program) -> bytearray:
    """The weights section: every constant in its layout at its offset."""
    out = bytearray(program.weight_bytes)
    view = np.frombuffer(out, np.uint8)
    for w in program.weights:
        data = pack(w.data.array, w.layout)
        view[w.offset : w.offset + data.nbytes] = data.reshape(-1).view(np.uint8)
    return out


# --- golden vector ----------------------------------------------------------------------------------


def make_golden(g: Graph) -> GoldenCase:
    """Inputs from a fixed generator and the outputs that the numpy meaning gives for them, floats
    in double precision and rounded once."""
    sizes: dict[Var, int] = {}
    for k, s in enumerate(g.symbols):
        sizes[s] = min(max(s.lo, 2 + k % 3), s.hi)
    rng = np.random.Generator(np.random.PCG64(20260101))
    inputs = [sample_input(n.type, sizes, rng) for n in g.inputs]
    outputs = evaluate_graph(g, inputs, float64=True)
    return GoldenCase("main", tuple(inputs), tuple(np.asarray(o, order="C") for o in outputs))


def sample_input(t: TensorType, sizes: dict[Var, int], rng: np.random.Generator) -> np.ndarray:
    """Values in [-1, 1) for floats, 0..3 for integers, coin flips for bool."""
    shape = tuple(evaluate(d, sizes) for d in t.shape)
    row = DTYPES[t.dtype]
    raw = rng.random(shape)
    if row.kind == "f":
        return np.asarray(raw * 2 - 1).astype(row.numpy)
    return np.asarray(raw * (2 if row.kind == "b" else 4)).astype(np.int64).astype(row.numpy)


# --- manifest -----------------------------------------------------------------------------------------


def make_manifest(
    g: Graph,
    fused: Graph,
    program: Program,
    options: Options,
    offsets: dict[str, int],
    source: str | os.PathLike[str] | bytes,
    sizes: dict[str, int],
) -> dict[str, Any]:
    """See artifact/bundle.py for the schema."""
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    interface = {
        "plan": offsets["naru_plan"],
        "dynamic": program.pointers > 0,
        "pointers": program.pointers,
        "inputs": [_tensor(n.attr("name"), n.type) for n in g.inputs],
        "outputs": [
            {**_tensor(name, n.type), "late": late}
            for name, n, late in zip(g.output_names, g.outputs, program.late, strict=True)
        ],
        "steps": [name for name, _, _ in program.steps],
    }
    target = options.target
    return {
        "format": 1,
        "abi": ABI_VERSION,
        "naru": VERSION,
        "target": {
            "name": target.name,
            "triple": target.triple,
            "features": list(target.features),
        },
        "source": {"name": g.name, "sha256": hashlib.sha256(data).hexdigest()},
        "options": {"precision": options.precision},
        "symbols": [
            {
                "name": s.name,
                "lo": s.lo,
                "hi": min(s.hi, 2**31 - 1),
                "kind": "input" if k < program.input_symbols else "kernel",
            }
            for k, s in enumerate(program.symbols)
        ],
        "entries": [
            {"name": "main", "run": offsets["naru_run"], **interface},
            {"name": "profile", "run": offsets["naru_profile"], **interface},
        ],
        "states": [],
        "memory": {
            "arena": print_expr(program.arena),
            "where": {v.name: print_expr(e) for v, e in program.lets},
            "weights": str(program.weight_bytes),
        },
        "kernels": _kernel_records(program, sizes),
        "tolerance": {"rtol": 1e-4, "atol": 1e-6},
    }


def _tensor(name: object, t: TensorType) -> dict[str, Any]:
    dtype = DTYPES[t.dtype].numpy.name
    shape = [n if (n := known(d)) is not None else print_expr(d) for d in t.shape]
    return {"name": str(name), "dtype": dtype, "shape": shape}


def _kernel_records(program: Program, sizes: dict[str, int]) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    steps: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for name, nodes, why in program.steps:
        steps.setdefault(name, []).append((nodes, why))
    for k in program.kernels:
        uses = steps.get(k.name, [])
        out = k.func.buffers[-1]
        records.append(
            {
                "name": k.name,
                "ops": list(k.ops),
                "nodes": [nodes for nodes, _ in uses if nodes],
                "calls": len(uses),
                "shape": "×".join(print_expr(d) for d in out.shape),
                "schedule": k.schedule,
                "flops": print_expr(k.flops),
                "bytes": print_expr(k.bytes),
                "why": sorted({w for _, why in uses for w in why}),
                "size": sizes.get(k.name, 0),
            }
        )
    return records


def stages(source: str | os.PathLike[str] | bytes, target: Target) -> Sequence[tuple[str, Any]]:
    """The forms of a model one after the other, for people and tests: imported graph, fused graph,
    program."""
    g = read_onnx(source)
    fused, program = lower_graph(g, target)
    return (("graph", g), ("fused", fused), ("program", program))

