"""Writes a native library and what goes with it into a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from naru.artifact.bundle import BundleParts
from naru.errors import InputError, NaruError
from naru.library.folder import replacing_files
from naru.library.header import example, header
from naru.library.native import (
    FLAGS,
    LIBRARIES,
    Source,
    library_source,
    pack_golden_file,
    sort_levels,
    symbol_values,
)
from naru.library.provenance import as_json, provenance
from naru.library.readme import readme
from naru.library.signature import Signature, check_levels, read_signature
from naru.library.toolchain import Toolchain, find_toolchain
from naru.library.weights import Weights, describe_weights

# What `--emit` knows besides the text of the code itself: the files that each writes.
EMITS = ("library", "static", "obj", "c", "header")
COMPILED = ("library", "static", "obj")  # by a C compiler
EXAMPLES = ("example.c", "example.cpp")

_MOST_EMBEDDED = (1 << 31) - (1 << 27)  # leaves 128 MiB for everything else


@dataclass(frozen=True, slots=True)
class Request:
    """What to write. `emit`: one of EMITS; `embed`: the weights go into the library; `compiler`: a
    command, or None for the usual; `source`: the name of the model's file, for comments;
    `half_weights`: of a WebAssembly package, in half precision as files."""

    name: str
    platform: str
    emit: str = "library"
    embed: bool = False
    compiler: str | None = None
    source: str = ""
    half_weights: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """The files, in order of importance, and what is in the library."""

    files: tuple[Path, ...]
    provenance: dict[str, Any]


def check_request(request: Request) -> None:
    """InputError for what makes no sense of a native library."""
    if request.emit not in EMITS:
        raise InputError(f"emit: {request.emit!r} is not one of {', '.join(EMITS)}")
    if request.half_weights:
        raise InputError("--half-weights is for WebAssembly, not for native libraries")
    if request.compiler and request.emit not in COMPILED:
        raise InputError(f"--cc: --emit {request.emit} takes no C compiler")
    if request.emit == "c" and f"{request.name}.c" in EXAMPLES:
        raise InputError(
            f"name: {request.name}.c is the file of the example, too", hint="--name NAME"
        )


def write_native(levels: Sequence[BundleParts], folder: Path, request: Request) -> Written:
    """Writes the library of a model for one platform.

    `levels`: manifest and sections for each instruction set. Raises UnsupportedError for a model
    that needs Python, TargetError without a C compiler, NaruError where it fails, InputError where
    the folder cannot be written; then nothing has changed.
    """
    check_request(request)
    signature = read_signature(levels[0][0], request.name)
    levels = sort_levels(levels)
    check_levels(levels)
    needs_compiler = request.emit in COMPILED
    toolchain = find_toolchain(request.platform, request.compiler) if needs_compiler else None
    manifest, sections = levels[0]
    weights = describe_weights(sections["weights"])
    if request.embed and weights.size > _MOST_EMBEDDED:
        raise InputError(
            f"--embed: the weights have {weights.size} bytes; expected {_MOST_EMBEDDED} or fewer, "
            "since code reaches no further than 2 GiB",
            hint="without --embed, they lie beside the library",
        )
    golden = pack_golden_file(sections["golden"], manifest, signature)
    values = symbol_values(signature, sections["golden"])
    record = provenance(
        levels,
        signature,
        weights,
        platform=request.platform,
        compiler=toolchain.version if toolchain else None,
    )
    made = library_source(levels, signature, weights, golden, as_json(record), embed=request.embed)
    with replacing_files(folder) as part:
        examples = {file: example(signature, file.partition(".")[2], values) for file in EXAMPLES}
        names = _write_files(
            part, request, signature, made, weights, golden, record, toolchain, examples
        )
    return Written(tuple(folder / n for n in names), record)


def _write_files(
    part: Path,
    request: Request,
    signature: Signature,
    made: Source,
    weights: Weights,
    golden: bytes,
    record: dict[str, Any],
    toolchain: Toolchain | None,
    examples: Mapping[str, str],
) -> list[str]:
    """The names of what was written, the most important first."""
    name = request.name
    memory = context_bytes(signature, record)
    texts = {
        f"{name}.h": header(
            signature, file=f"{name}.weights", source=request.source or name, memory=memory
        )
    }
    if request.emit == "header":
        return _write_texts(part, texts)
    texts |= examples
    texts["README.md"] = readme(signature, record, request.emit, embed=request.embed)
    main = _write_code(part, request, made, toolchain)
    names = _write_texts(part, texts)
    (part / f"{name}.json").write_bytes(as_json(record))
    if not request.embed:
        with (part / f"{name}.weights").open("wb") as file:
            file.write(weights.header)
            file.write(weights.payload)
        (part / f"{name}.golden").write_bytes(golden)
        main += [f"{name}.weights", f"{name}.golden"]
    return list(dict.fromkeys([*main, f"{name}.json", *names]))


def _write_texts(part: Path, texts: dict[str, str]) -> list[str]:
    for file, text in texts.items():
        (part / file).write_text(text, encoding="utf-8")
    return list(texts)


def _write_code(
    part: Path, request: Request, made: Source, toolchain: Toolchain | None
) -> list[str]:
    """The code in the form that was asked for."""
    name = request.name
    work = part if request.emit == "c" else part / ".work"
    work.mkdir(exist_ok=True)
    (work / f"{name}.c").write_text(made.text, encoding="utf-8")
    for file, content in made.blobs.items():
        (work / file).write_bytes(content)
    if toolchain is None:
        return [f"{name}.c", *made.blobs]
    if request.emit == "library":
        out = f"{name}.so"
        link = (*toolchain.link_flags, f"-Wl,-soname,{out}", *LIBRARIES)
        toolchain.compile([*FLAGS, "-DNARU_SHARED", f"{name}.c", "-o", out, *link], work)
    else:
        out = f"{name}.o"
        toolchain.compile([*FLAGS, "-c", f"{name}.c", "-o", out], work)
    if not (work / out).is_file():
        raise NaruError(
            f"{toolchain.compiler[0]} ended well, but wrote no {out}; expected a C compiler",
            hint="--cc COMMAND",
        )
    if request.emit == "static":
        toolchain.archive(["rcsD", f"{name}.a", out], work)
        out = f"{name}.a"
    (work / out).replace(part / out)
    for path in work.iterdir():
        path.unlink()
    work.rmdir()
    return [out]


# Of a context without its arena: more than c/library.c's struct takes.
_CONTEXT_BYTES = 512


def context_bytes(s: Signature, record: dict[str, Any]) -> int | None:
    """The most that memory() says where every size is known; None where it depends."""
    arena = record["memory"]["arena"]
    if s.symbols or not arena.isdecimal():
        return None
    tensors = len(s.inputs) + len(s.outputs)
    tables = 8 * (s.dims + s.rank_of_plan + 2 * tensors + s.pointers)
    return -(-(_CONTEXT_BYTES + tables + int(arena) + 128) // 64) * 64
