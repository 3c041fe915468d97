"""The table of contents of the compiler: a model file in, a bundle out.

    read_model -> PASSES -> build_driver (schedules every kernel) -> LLVM text -> objects -> link

Deterministic: the same model, options, target and version give the same bytes. Nothing is timed.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from naru import knobs
from naru.artifact.bundle import (
    Bundle,
    BundleParts,
    make_bundle,
    pack_bundle,
)
from naru.artifact.cache import Cache
from naru.artifact.contents import (
    make_golden,
    make_host_manifest,
    make_manifest,
    pack_constants,
    pack_weights,
)
from naru.artifact.golden import pack_golden
from naru.artifact.link import Linked, link
from naru.artifact.wasm import link_wasm
from naru.codegen import wasm_host
from naru.codegen.llvm import emit_kernel
from naru.codegen.llvm_driver import emit_driver, emit_plan
from naru.codegen.objects import compile_module, compile_modules
from naru.errors import InputError, UnsupportedError
from naru.frontend.onnx_plan import HostPlan, read_plan
from naru.frontend.source import ONNX, Source, digest_of, kind_of, processed, read_model
from naru.ir.expr import Var
from naru.ir.graph import Graph
from naru.ir.intern import sweep
from naru.ir.text import print_func, print_graph
from naru.ir.verify import check
from naru.options import Options, Progress, tell_nobody
from naru.passes import hooks
from naru.passes.choose_layout import choose_layout
from naru.passes.decompose import decompose
from naru.passes.fold_batch_norm import fold_batch_norm
from naru.passes.fold_constants import fold_constants
from naru.passes.fuse import fuse
from naru.passes.fuse_attention import fuse_attention
from naru.passes.independent_rows import independent_rows
from naru.passes.multiply_bytes import multiply_bytes
from naru.passes.narrow_weights import narrow_weights
from naru.passes.registry import PassFunction
from naru.passes.registry import Step as PassStep
from naru.passes.registry import run as run_passes
from naru.passes.simplify_algebra import simplify_algebra
from naru.passes.tile_products import tile_products, uses_tiles
from naru.processing import NOTHING, Processing, describe_outputs
from naru.schedule.driver import Program, build_driver
from naru.schedule.kernels import Kernels
from naru.schedule.requirements import requirements
from naru.targets import TARGETS, WITHOUT_TILES, Target

# Order matters; each line is one pass.
PASSES = (
    fold_constants,  # what depends on constants or shapes only becomes a constant
    fold_batch_norm,  # into the weights of the convolution before it, while it is still one node
    decompose,  # ops that are compositions of others
    simplify_algebra,  # x + 0, double transposes, casts to the same dtype
    fold_constants,  # what the three passes above made constant
    fuse_attention,  # softmax(q · k') · v as one node, which reads heads where they lie
    choose_layout,  # channels last, packed weights: types only
    fuse,  # nodes become kernels
)

ROUNDING = narrow_weights.__name__  # what class bf16 has between them
ENTRIES = ("naru_run", "naru_profile", "naru_plan")


def passes_for(target: Target, precision: str = "fp32") -> tuple[PassFunction | PassStep, ...]:
    """PASSES, before them what only some targets ask for, and with what only some classes allow:
    tiles not on targets whose bundles travel with each page, where bytes count more than time."""
    found: list[PassFunction | PassStep] = [*PASSES]
    tiles = {"tiles": precision in ("fp32", "bf16") and not target.is_recompiled}
    found[PASSES.index(choose_layout)] = PassStep("choose_layout", tiles)
    if precision == "bf16":
        found.insert(PASSES.index(fuse_attention), PassStep(ROUNDING, tiles))
    if target.has_amx and precision in ("fp32", "bf16"):
        parts = {"parts": 1 if precision == "bf16" else 2}
        found.insert(found.index(fuse), PassStep(tile_products.__name__, parts))
    return (multiply_bytes, *found) if target.multiplies_bytes else tuple(found)


def reference_graph(graph: Graph, target: Target, precision: str) -> Graph:
    """The graph whose meaning a golden vector shows: the model's own or, in class bf16, that with
    the weights rounded, so that outputs are those of the code and not of the class."""
    if precision != "bf16":
        return graph
    steps = passes_for(target, precision)
    named = (s.name if isinstance(s, PassStep) else "" for s in steps)
    after = next(k for k, name in enumerate(named, 1) if name == ROUNDING)
    return run_passes(steps[:after], graph)


@dataclass(frozen=True)
class Stages:
    """The forms of one model, one after the other."""

    graph: Graph
    fused: Graph
    target: Target  # what its code needs
    program: Program
    modules: tuple[tuple[str, str], ...]  # (name, LLVM text)


def lower(
    source: Source,
    target: Target,
    name: str | None = None,
    on_progress: Progress = tell_nobody,
    processing: Processing = NOTHING,
    precision: str = "fp32",
) -> Stages:
    """A model (or the graph of one) through all its forms, up to the text that LLVM gets."""
    folder = knobs.current().dump
    if folder is not None:
        _make_folder(folder)
    on_progress("import", 0, 1)
    with stage("import"):
        if isinstance(source, Graph):
            graph = processed(source, processing)
        elif isinstance(source, HostPlan):
            raise UnsupportedError(["texts, which are read on the host"])
        else:
            graph = read_model(source, name=name, processing=processing)
    show(3, lambda: print_graph(graph))
    on_progress("passes", 0, 1)
    with stage("passes"):
        fused = run_passes(passes_for(target, precision), graph, _on_pass())
    show(3, lambda: print_graph(fused))
    on_progress("schedules", 0, 1)
    target = needed_target(fused, target)
    with stage("schedule"):
        kernels = Kernels(target, fma=target.has_multiply_add)
        program = build_driver(fused, kernels, requirements(graph))
    for k in program.kernels:
        show(2, lambda k=k: f"{k.name}\n{k.schedule}")
        show(3, lambda k=k: print_func(k.func))
    if knobs.current().check:
        check(fused, infer=hooks.infer)
        for kernel in program.kernels:
            check(kernel.func)
    with stage("LLVM text"):
        stages = Stages(graph, fused, target, program, tuple(emit(program, target)))
    for _, text in stages.modules:
        show(4, lambda text=text: text)
    if folder is not None:
        _dump(stages, folder)
    return stages


def needed_target(fused: Graph, target: Target) -> Target:
    """The target, or that without matrix registers where a model has nothing for them: its bundle
    should not ask for what it does not use."""
    if not target.has_amx or uses_tiles(fused):
        return target
    return _without_tiles(target)


def _without_tiles(target: Target) -> Target:
    return replace(TARGETS[WITHOUT_TILES], has_fma=target.has_fma)


def emit(program: Program, target: Target) -> Iterator[tuple[str, str]]:
    """(name, LLVM text) of every module of a program."""
    kernels = [k.func for k in program.kernels]
    for k in kernels:
        yield k.name, emit_kernel(k, target)
    yield "run", emit_driver(program.run, target, program.roles, kernels)
    yield "profile", emit_driver(program.profile, target, program.roles, kernels)
    yield "plan", emit_plan(program.plan, target)


def build(
    source: Source,
    options: Options,
    name: str | None = None,
    store: Cache | None = None,
    *,
    tested: bool = True,
) -> Bundle:
    """The bundle of `build_parts`, in memory."""
    return make_bundle(*build_parts(source, options, name, store, tested=tested))


def build_parts(
    source: Source,
    options: Options,
    name: str | None = None,
    store: Cache | None = None,
    on_progress: Progress | None = None,
    *,
    tested: bool = True,
    digest: str | None = None,
) -> BundleParts:
    """Manifest and sections of the bundle of a model (or the graph of one). The same source,
    options and version give the same bytes. `tested`: with a golden vector, whose outputs take the
    reference a while. `digest`: SHA-256 of the source, where that is known already."""
    tell = on_progress or tell_nobody
    manifest, sections = _own_parts(
        source, replace(options, fallback=None), name, store, tell, tested=tested, digest=digest
    )
    lesser = options.fallback
    # Where the model has nothing for the target's own instructions, its code runs there anyway.
    if lesser is None or set(manifest["target"]["features"]) <= set(lesser.features):
        return manifest, sections
    options = replace(options, target=lesser, fallback=None)
    folder = knobs.current().dump
    with nullcontext() if folder is None else knobs.scope(dump=folder / "fallback"):
        made = _own_parts(source, options, name, store, tell, tested=tested, digest=digest)
    packed = pack_bundle(*made)
    about = {"target": made[0]["target"]["name"], "bytes": len(packed)}
    return {**manifest, "fallback": about}, {**sections, "fallback": packed}


def _own_parts(
    source: Source,
    options: Options,
    name: str | None,
    store: Cache | None,
    tell: Progress,
    *,
    tested: bool,
    digest: str | None,
) -> BundleParts:
    """Those of a bundle for one target."""
    if isinstance(source, HostPlan):
        if options.processing:
            raise InputError("what is done before and after is for models without texts")
        return _host_parts(source, source, options, store, tell, tested=tested, digest=digest)
    try:
        stages = lower(
            source, options.arithmetic, name, tell, options.processing, options.precision
        )
    except UnsupportedError:
        plan = _plan_of(source, options, name)
        if plan is None:
            raise
        return _host_parts(plan, source, options, store, tell, tested=tested, digest=digest)
    options = replace(options, target=needed_target(stages.fused, options.target))
    with stage("objects"):
        objects = compile_modules(
            [text for _, text in stages.modules],
            options.target,
            store=store,
            on_progress=lambda done, total: tell("kernels", done, total),
        )
    linked = link_program(stages, objects, options.target)
    tell("golden vector", 0, 1)
    with stage("golden vector"):
        meant = reference_graph(stages.graph, options.arithmetic, options.precision)
        case = make_golden(meant, stages.program.requires) if tested else None
        golden = pack_golden([case] if case else [])
    tell("bundle", 0, 1)
    g, rows = stages.graph, _rows_of(stages, options.precision)
    manifest = make_manifest(
        g,
        stages.program,
        linked,
        options.target,
        options=options.as_json(),
        source=_source_record(source, digest, g.files),
        outputs=describe_outputs(
            options.processing.scores,
            {n: o.type.rank for n, o in zip(g.output_names, g.outputs, strict=True)},
        ),
        golden=case,
        rows=rows.name if rows else None,
        rounded=options.precision == "bf16" and uses_tiles(stages.fused),
    )
    program = stages.program
    del stages, g, meant  # and with it the weights in the layout of the model file
    sweep()
    sections: dict[str, Any] = {
        "code": linked.code,
        "weights": pack_weights(program),
        "golden": golden,
    }
    return manifest, sections


def _plan_of(source: Source, options: Options, name: str | None) -> HostPlan | None:
    """The plan of an ONNX model that native code alone cannot be; None where there is none."""
    if options.processing or isinstance(source, Graph | HostPlan) or kind_of(source) != ONNX:
        return None
    return read_plan(source, name=name)


def _rows_of(stages: Stages, precision: str) -> Var | None:
    """The symbol along which rows stay apart. Tiles hold rows of several: it is read off the graph
    without them, for their sums are those of each row alone."""
    if not uses_tiles(stages.fused):
        return independent_rows(stages.fused)
    plain = passes_for(TARGETS[WITHOUT_TILES], precision)
    return independent_rows(run_passes(plain, stages.graph))


def link_program(stages: Stages, objects: Sequence[bytes], target: Target) -> Linked:
    """The objects of all modules as the bundle's code: one block, or a WebAssembly module that
    imports its memory, has its host inside (`codegen.wasm_host`), and no clock."""
    named = [(n, o) for (n, _), o in zip(stages.modules, objects, strict=True)]
    if target.arch == "wasm32":
        untimed = [(n, o) for n, o in named if n != "profile"]
        host = compile_module(wasm_host.HOST_TEXT, wasm_host.host_target(target))
        parts = [*untimed, ("host", host)]
        return Linked(link_wasm(parts, wasm_host.ENTRIES, import_memory=True).code, {})
    return link(named, [*ENTRIES, *(k.func.name for k in stages.program.kernels)])


def _host_parts(
    plan: HostPlan,
    source: Source,
    options: Options,
    store: Cache | None,
    tell: Progress,
    *,
    tested: bool,
    digest: str | None,
) -> BundleParts:
    """The bundle of a model that runs partly on the host: a bundle in it for each native part."""
    sections: dict[str, Any] = {"constants": pack_constants(plan)}
    tiles = False
    for k, part in enumerate(plan.parts):
        tell("native parts", k, len(plan.parts))
        made = build_parts(part, options, store=store, tested=tested)
        tiles |= "amx-tile" in made[0]["target"]["features"]
        sections[f"part.{k}"] = pack_bundle(*made)
    target = options.target
    manifest = make_host_manifest(
        plan,
        target if tiles or not target.has_amx else _without_tiles(target),
        options=options.as_json(),
        source=_source_record(source, digest, plan.files),
    )
    return manifest, sections


def _source_record(source: Source, digest: str | None, files: Sequence[Path]) -> dict[str, Any]:
    """Digests of a model's file and of its side files."""
    read: dict[str, Any] = {"sha256": digest or _digest(source)}
    if files and isinstance(source, str | os.PathLike):
        folder = Path(source).parent.resolve()
        read["files"] = {f.relative_to(folder).as_posix(): _digest(f) for f in files}
    return read


def _digest(source: Source) -> str:
    """SHA-256 of the model's file, or of what it says."""
    if isinstance(source, Graph | HostPlan):
        return digest_of(source)
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with Path(source).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- debugging (see knobs.py) ---------------------------------------------------------------------


def show(level: int, text: Callable[[], str]) -> None:
    """Prints to stderr when NARU_DEBUG is at least `level`."""
    if knobs.current().debug >= level:
        sys.stderr.write(text().rstrip() + "\n")


@contextmanager
def stage(name: str) -> Generator[None]:
    """Names a stage and, at NARU_DEBUG=1, prints how long it took."""
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    show(1, lambda: f"naru: {name:<14}{seconds:8.3f} s")


def _show_pass(run: hooks.PassRun) -> None:
    show(1, lambda: f"naru:   {run.step!s:<20}{run.seconds:8.3f} s{'' if run.changed else '  -'}")
    if run.changed:
        show(5, lambda: print_graph(run.after))


def _on_pass() -> hooks.OnPass:
    now = knobs.current()
    wanted: list[hooks.OnPass] = [_show_pass]
    if now.check >= 2:
        wanted.append(hooks.verify)
    if now.dump is not None:
        wanted.append(hooks.dump_to(now.dump))
    return hooks.every(*wanted)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"NARU_DUMP={folder}: cannot write there: {e.strerror or e}") from None


def _dump(stages: Stages, folder: Path) -> None:
    """Every form as a file of its own; those of the IR can be edited and read back."""
    (folder / "fused.graph.py").write_text(print_graph(stages.fused), encoding="utf-8")
    for k in stages.program.kernels:
        (folder / f"{k.name}.schedule").write_text(k.schedule + "\n", encoding="utf-8")
        (folder / f"{k.name}.loop.py").write_text(print_func(k.func), encoding="utf-8")
    (folder / "driver.loop.py").write_text(print_func(stages.program.run), encoding="utf-8")
    for name, text in stages.modules:
        (folder / f"{name}.ll").write_text(text, encoding="utf-8")
