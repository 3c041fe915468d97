"""`naru.build`: a model as a library, or as a WebAssembly package, in a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from naru.artifact.bundle import Bundle, BundleParts, read_bundle
from naru.compiler import as_source, choose_target, compile_bundle
from naru.errors import BundleError, InputError, TargetError, nearest
from naru.frontend.reading import Reading
from naru.library.folder import replacing_files
from naru.library.signature import identifier
from naru.library.toolchain import PLATFORMS, WASM, find_platform, host_platform
from naru.library.web import check_web_request, write_web
from naru.library.write import EMITS, Request, Written, check_request, write_native
from naru.options import Options, Progress
from naru.processing import NOTHING, Declared, Labels, Processing, read_processing
from naru.targets import TARGETS, WITHOUT_TILES, Target, get_target

if TYPE_CHECKING:
    from naru.frontend.source import Source

_PLAIN = re.compile(r"\w[\w.+-]*")  # neither a shell nor a C compiler sees more in it than a name
TEXTS = {"llvm": ".ll", "asm": ".s"}  # of the code, as text, and what their files end with
ALL_EMITS = (*EMITS, *TEXTS)
# What a library for another machine has, where nothing else is said.
_DEFAULT_LEVELS = {
    "x86_64": ("x86-64-avx512", "x86-64-avx2", "x86-64-baseline"),
    "aarch64": ("aarch64-i8mm", "aarch64-dotprod", "aarch64-neon"),
}


_NATIVE, _WEB = (check_request, write_native), (check_web_request, write_web)


def build(
    source: object,
    output: str | os.PathLike[str],
    example: object = None,
    *,
    dynamic_shapes: object = None,
    module: object = None,
    arguments: Mapping[str, Any] | None = None,
    trust_pickle: bool | Sequence[str] = False,
    platform: str | None = None,
    isa: str | Sequence[str] | None = None,
    emit: str = "library",
    embed: bool = False,
    half_weights: bool = False,
    precision: str | None = None,
    preprocess: Declared | Sequence[Declared] | None = None,
    postprocess: Declared | Sequence[Declared] | None = None,
    labels: Labels | None = None,
    top: int | None = None,
    name: str | None = None,
    compiler: str | None = None,
    cache: bool = True,
    on_progress: Progress | None = None,
) -> Written:
    """Writes a model as a library into the folder `output`.

    source, example, dynamic_shapes, module, arguments, trust_pickle: as for `naru.compile`; or
    source is the path of a bundle. platform: where it runs (default: this machine), such as
    "aarch64-linux" or "wasm". isa: instruction sets to have code for; the library takes the best
    that the CPU has (default: this CPU's, or for a platform that was named the common ones there:
    avx512, avx2 and baseline; i8mm, dotprod and neon; with precision "strict" without baseline,
    which has no FMA). emit: "library" (shared), "static", "obj", "c" (for a compiler of your own),
    "header", "llvm" or "asm" (the code of each module, as text). embed: the weights go into the
    library. half_weights: of a WebAssembly package: float32 weights are stored in half precision,
    and widened when loaded. precision, preprocess, postprocess, labels, top: as for `naru.compile`
    (precision of a bundle: its own). compiler: the command of a C compiler, or "zig".

    Raises ModelError, UnsupportedError (also for what only Python can run), TargetError (no C
    compiler, an unknown platform or level), InputError, NaruError.
    """
    _check_emit(emit, embed=embed)
    where = host_platform() if platform is None else find_platform(platform)
    path = Path(cast("str", source)) if isinstance(source, str | os.PathLike) else None
    name = check_name((path.stem if path else "model") if name is None else name)
    label = path.name if path else name
    as_library = "library" if emit in TEXTS else emit  # the text of code is of any platform
    request = Request(name, where, as_library, embed, compiler, label, half_weights)
    web = where == WASM
    check, write = (
        (check_web_request if web else check_request),
        (write_web if web else write_native),
    )
    check(request)
    processing = read_processing(preprocess, postprocess, labels=labels, top=top)
    if path and path.suffix == ".naru" and emit not in TEXTS:
        level = read_level(path, where, isa, precision, processing)
        return write([level], Path(output), request)
    what: Any = {"precision": precision or "fp32", "processing": processing, "name": name}
    targets = choose_levels(where, isa, named=bool(platform), precision=what["precision"])
    reading = Reading(example, dynamic_shapes, module, arguments, trust_pickle)
    model = as_source(cast(object, source), reading, name)
    if emit in TEXTS:
        return write_texts(model, Path(output), targets, emit, **what)
    levels = compile_levels(model, targets, cache=cache, on_progress=on_progress, **what)
    return write(levels, Path(output), request)


def _check_emit(emit: str, *, embed: bool) -> None:
    if emit not in ALL_EMITS:
        meant = nearest(emit, ALL_EMITS)
        raise InputError(
            f"emit: {emit!r} is not one of {', '.join(ALL_EMITS)}" + (f"; {meant}" if meant else "")
        )
    if emit in TEXTS and embed:
        raise InputError(f"--embed is for libraries, not for --emit {emit}")


def check_name(name: str) -> str:
    """The name of a library, which becomes those of its files. InputError for what cannot be."""
    if not name or name != Path(name).name or name.startswith(".") or not name.isprintable():
        raise InputError(f"name: {name!r} cannot be the name of a file", hint="--name NAME")
    return name if _PLAIN.fullmatch(name) else identifier(name)


def choose_levels(
    platform: str,
    isa: str | Sequence[str] | None,
    *,
    named: bool = True,
    precision: str = "fp32",
) -> list[Target]:
    """The targets of a library, from the best to the least. TargetError for those of another
    architecture. `named`: somebody named the platform, so the default is not this CPU's. With
    `precision` strict, levels without FMA are none of the default ones; with portable, code for
    relaxed SIMD would be the same once more, and is left out."""
    arch = _architecture(platform)
    if isa is None and not named:
        return [choose_target(None)]
    if isa is None:
        asked = _DEFAULT_LEVELS.get(arch) or tuple(n for n, t in TARGETS.items() if t.arch == arch)
        if precision == "strict":  # of a platform that has none all stay, and are refused
            asked = tuple(n for n in asked if TARGETS[n].has_fma) or asked
    else:
        asked = tuple(isa.split(",")) if isinstance(isa, str) else tuple(isa)
    if not all(n.strip() for n in asked):
        raise TargetError(f"isa: {isa!r} has an empty name", hint="--isa avx2,baseline")
    found = [get_target(n.strip()) for n in asked]
    wrong = [t.name for t in found if t.arch != arch]
    if wrong or not found:
        known = ", ".join(n for n, t in TARGETS.items() if t.arch == arch)
        what = f"{', '.join(wrong)}: not an instruction set" if wrong else "no instruction set"
        raise TargetError(f"{what} of {platform}", hint=f"--isa with one or more of: {known}")
    if len(set(found)) > 1 and any(t.has_amx for t in found):
        raise TargetError(
            "x86-64-amx packs weights in its own way, and the levels of a library share them",
            hint="--isa amx alone, or without it; a bundle holds both: naru compile --fallback",
        )
    if precision == "portable":
        found = [t for t in found if "relaxed-simd" not in t.features] or found
    return sorted(set(found), key=list(TARGETS.values()).index)


def compile_levels(
    source: Source,
    targets: Sequence[Target],
    *,
    precision: str,
    name: str,
    processing: Processing = NOTHING,
    cache: bool = True,
    on_progress: Progress | None = None,
) -> list[BundleParts]:
    """Manifest and sections of a model for each target."""
    made: list[BundleParts] = []
    for target in targets:
        bundle = compile_bundle(
            source,
            target=target,
            precision=precision,
            processing=processing,
            cache=cache,
            name=name,
            on_progress=on_progress,
        )
        made.append(_parts(bundle))
    return made


def read_level(
    path: Path,
    platform: str,
    isa: str | Sequence[str] | None,
    precision: str | None,
    processing: Processing = NOTHING,
) -> BundleParts:
    """Manifest and sections of a bundle. TargetError where its code is not the platform's, or not
    that of `isa`; InputError where its precision is another, or processing is to be added. None:
    whatever it has."""
    if processing:
        raise InputError(f"{path}: processing is compiled in: it takes the ONNX file")
    bundle = read_bundle(path)
    name, triple = (bundle.manifest["target"][key] for key in ("name", "triple"))
    arch = triple.partition("-")[0]
    if arch != _architecture(platform):
        fits = [p for p in (*PLATFORMS, WASM) if _architecture(p) == arch]
        raise TargetError(
            f"{path}: has code for {name}, which is not an instruction set of {platform}",
            hint=f"--target {' or '.join(fits)}, or the ONNX file",
        )
    asked = [] if isa is None else choose_levels(platform, isa)
    # A model that has nothing for matrix registers is one for the next lesser target.
    plain = [WITHOUT_TILES if t.has_amx else t.name for t in asked]
    if (asked and name not in (asked[0].name, plain[0])) or len(asked) > 1:
        raise TargetError(
            f"{path}: has code for {name} only", hint=f"--isa {name}, or the ONNX file"
        )
    if "arena" not in bundle.manifest["memory"]:
        raise BundleError(f"{path}: says nothing of its memory", hint="the ONNX file")
    bundle.golden()  # what is wrong with it is told here
    made = bundle.manifest["options"].get("precision", "fp32")
    if precision not in (None, made):
        raise InputError(
            f"{path}: was compiled with precision {made}, not {precision}", hint="the ONNX file"
        )
    return _parts(bundle)


def _architecture(platform: str) -> str:
    return "wasm32" if platform == WASM else PLATFORMS[platform][0]


def _parts(bundle: Bundle) -> BundleParts:
    """Manifest and sections; those that a bundle may lack are empty."""
    sections: dict[str, Any] = {n: bundle.section(n) for n in bundle.sections if n != "fallback"}
    return bundle.manifest, {"golden": b"", "weights": b"", **sections}


def write_texts(
    model: Source,
    folder: Path,
    targets: Sequence[Target],
    emit: str,
    *,
    precision: str,
    name: str,
    processing: Processing = NOTHING,
) -> Written:
    """The optimised LLVM text, or the assembly, of every module of a model: a folder for each
    target, NAME.TARGET. Raises what compiling does, and InputError for a bundle."""
    from naru.codegen.objects import assembly, optimised_text
    from naru.pipeline import lower

    if isinstance(model, str | os.PathLike) and Path(model).suffix == ".naru":
        raise InputError(f"{model}: a bundle holds no {emit} any more", hint="the ONNX file")
    text_of = optimised_text if emit == "llvm" else assembly
    files: list[str] = []
    with replacing_files(folder) as part:
        for target in targets:
            inside = part / f"{name}.{target.name}"
            inside.mkdir()
            options = Options(target, precision, processing)
            stages = lower(
                model,
                options.arithmetic,
                name,
                processing=processing,
                precision=options.precision,
            )
            for module, text in stages.modules:
                file = inside / f"{module}{TEXTS[emit]}"
                file.write_text(text_of(text, stages.target), encoding="utf-8")
                files.append(f"{inside.name}/{file.name}")
    return Written(tuple(folder / f for f in files), {})
