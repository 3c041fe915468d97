"""A WebAssembly package: modules, weights, and one JavaScript file that loads and runs them.

    m.js  m.worker.js  m.d.ts  package.json                  for programs
    m.wasm  m.threads.wasm  [m.relaxed.wasm  m.relaxed.threads.wasm]  m.weights  m.golden
    index.html  demo.css  demo.js  README.md  m.json         for people

The sources of the JavaScript are in `web/`; m.js is four of them, one after the other. They are
written with the model's table and file names put in, and without comments. Each module carries the
record of provenance.py in its custom section `naru`, with what m.js must know of it as `web`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from naru.artifact.bundle import BundleParts, Bytes
from naru.artifact.wasm import imported_pages, with_custom_section, with_shared_memory
from naru.errors import InputError
from naru.library.folder import replacing_files
from naru.library.inspect import SECTION
from naru.library.native import symbol_values
from naru.library.provenance import as_json, provenance
from naru.library.signature import Signature, Tensor, read_signature
from naru.library.web_types import declarations
from naru.library.weights import Weights, describe_weights
from naru.library.write import Request, Written

Json = dict[str, Any]

SOURCES = Path(__file__).parent / "web"
RUNTIME = ("engine.js", "weights.js", "values.js", "model.js")  # m.js, in this order
HALVES = "halves.js"  # and this after the first, where the model has floats in 16 bits
FIXED = (
    "package.json",
    "index.html",
    "demo.css",
    "demo.js",
    "README.md",
)  # whatever the model's name
MAX_PAGES = 65536  # 4 GiB
_NO_BUILD = "0" * 32  # as long as the digest that names a build
LEAST_HALVED = 256  # elements: what is smaller stays in single precision
_LARGEST_HALF = 65504.0
_MOST_LOST = 5e-4  # of an array: a rounding to 11 bits is at most that
# By how much more the self-test allows where weights are rounded to 11 bits, 3e-4 each.
_HALF_FACTOR = 100


@dataclass(frozen=True)
class _Level:
    """One instruction set: how the names of its files begin ("" or "relaxed."), its code, its
    weights as `file` stores them; `full`: their bytes in memory."""

    prefix: str
    manifest: Mapping[str, Any]
    code: bytes
    weights: Weights
    file: str
    full: int
    halves: tuple[tuple[int, int], ...]


def check_web_request(request: Request) -> None:
    """InputError for what makes no sense of a package."""
    if request.emit != "library" or request.embed:
        what = "--embed" if request.embed else f"--emit {request.emit}"
        raise InputError(f"{what} is for native libraries, not for WebAssembly")
    if request.compiler:
        raise InputError("--cc: a C compiler is for native libraries, not for WebAssembly")
    for file in FIXED:  # some file systems don't tell large letters from small ones
        if Path(file).stem.lower() == request.name.lower():
            raise InputError(
                f"name: {request.name!r} is taken by the package's own {file}", hint="--name NAME"
            )


def write_web(levels: Sequence[BundleParts], folder: Path, request: Request) -> Written:
    """Writes the package of a model.

    `levels`: manifest and sections for wasm32-simd128, and, if wanted, for wasm32-relaxed. Raises
    UnsupportedError for a model that needs Python, InputError for a request that makes no sense
    here, or where the folder cannot be written; then nothing has changed.
    """
    check_web_request(request)
    signature = read_signature(levels[0][0], request.name)
    levels = sorted(levels, key=_is_relaxed)
    if [_is_relaxed(parts) for parts in levels] not in ([False], [False, True]):
        raise InputError("a package has code for wasm32-simd128, and may have wasm32-relaxed too")
    made = _make_levels(levels, half_weights=request.half_weights)
    record = provenance(levels, signature, made[0].weights, platform=request.platform)
    files = _make_files(made, signature, record, levels[0][1].get("golden", b""))
    with replacing_files(folder) as part:
        for name, content in files.items():
            (part / name).write_bytes(content)
    return Written(tuple(folder / name for name in files), record)


def _is_relaxed(parts: BundleParts) -> bool:
    return "relaxed-simd" in parts[0]["target"]["features"]


def _make_levels(levels: Sequence[BundleParts], *, half_weights: bool) -> tuple[_Level, ...]:
    made: list[_Level] = []
    for k, (manifest, sections) in enumerate(levels):
        prefix = "relaxed." if k else ""
        full = memoryview(sections["weights"]).nbytes
        payload, halves = sections["weights"], ()
        if half_weights:
            payload, halves = _halved(sections["weights"], manifest.get("packed", ()))
        weights = describe_weights(payload)
        same = next((m for m in made if m.weights.sha256 == weights.sha256), None)
        file = same.file if same else f"{prefix}weights"
        code = bytes(sections["code"])
        made.append(_Level(prefix, manifest, code, weights, file, full, halves))
    return tuple(made)


def _halved(
    payload: Bytes, packed: Sequence[tuple[int, int, str]]
) -> tuple[bytes, tuple[tuple[int, int], ...]]:
    """The payload with its large float32 arrays in half precision, and where they begin in the
    original and how many numbers they have. Arrays with numbers beyond half precision, or too small
    for it, stay."""
    data = memoryview(payload).cast("B")
    out: list[bytes] = []
    halves: list[tuple[int, int]] = []
    done = 0
    for offset, size, dtype in sorted(packed):
        values = np.frombuffer(data[offset : offset + size], np.float32) if size % 4 == 0 else None
        if dtype != "float32" or values is None or len(values) < LEAST_HALVED or offset < done:
            continue
        if not (np.abs(values) <= _LARGEST_HALF).all():  # NaN, too
            continue
        half = values.astype("<f2")
        lost = np.linalg.norm(half.astype(np.float32) - values)
        if lost > _MOST_LOST * np.linalg.norm(values):  # many are smaller than half precision has
            continue
        out += [bytes(data[done:offset]), half.tobytes()]
        halves.append((offset, len(values)))
        done = offset + size
    return b"".join([*out, bytes(data[done:])]), tuple(halves)


# ---- the model's table ----


def _table(
    levels: Sequence[_Level], signature: Signature, sizes: Mapping[str, int], golden: Bytes
) -> Json:
    """What the JavaScript knows of the model; `build` names all of it, by a digest."""
    manifest = levels[0].manifest
    steps = [[s["name"], [n for n, _ in s["nodes"]]] for s in manifest.get("steps", ())]
    table: Json = {
        "info": {**_info(levels, signature, sizes), "example": symbol_values(signature, golden)},
        "symbols": [{k: s[k] for k in ("name", "lo", "hi")} for s in manifest["symbols"]],
        "pointers": signature.pointers,
        "requires": signature.requires,
        "steps": steps,
        "tolerance": _tolerance(manifest, halves=bool(levels[0].halves)),
        "weights": [_weights(level) for level in levels],
    }
    parts = [_json(table).encode(), *(level.code for level in levels)]
    return {**table, "build": hashlib.sha256(b"".join(parts)).hexdigest()[: len(_NO_BUILD)]}


def _tolerance(manifest: Mapping[str, Any], *, halves: bool) -> Json:
    exact: Json = manifest.get("tolerance", {"rtol": 0.0, "atol": 0.0})
    return {k: v * _HALF_FACTOR for k, v in exact.items()} if halves else exact


def _weights(level: _Level) -> Json:
    w = level.weights
    made: Json = {"file": level.file, "size": w.size, "digest": w.digest, "full": level.full}
    made["sha256"] = w.sha256.hex()
    return {**made, "halves": level.halves} if level.halves else made


def _info(levels: Sequence[_Level], signature: Signature, sizes: Mapping[str, int]) -> Json:
    """The part of the table that programs see as `info`; `sizes`: bytes of files."""
    manifest = levels[0].manifest
    precision = manifest["options"].get("precision", "fp32")
    narrow = any(dtype == "bfloat16" for *_, dtype in manifest.get("packed", ()))
    stored = "bf16" if narrow else "fp16" if levels[0].halves else "fp32"
    return {
        "name": signature.name,
        "inputs": [_tensor(t) for t in signature.inputs],
        "outputs": [
            {**_tensor(t), **{k: o[k] for k in ("labels", "axis", "top_of") if k in o}}
            for t, o in zip(signature.outputs, manifest["entries"][0]["outputs"], strict=True)
        ],
        "sizes": sizes,
        "classes": {"arithmetic": precision, "weights": stored},
        "naru": manifest["naru"],
    }


def _tensor(t: Tensor) -> Json:
    made: Json = {"name": t.name, "dtype": t.dtype, "shape": t.shape}
    return {**made, **{k: True for k in ("optional", "late") if getattr(t, k)}}


# ---- files ----


def _make_files(
    levels: Sequence[_Level], signature: Signature, record: Json, golden: Bytes
) -> dict[str, Bytes]:
    """Contents by name, the most important first."""
    name = signature.name
    weights = {v.file: v.weights.header + bytes(v.weights.payload) for v in levels}
    files = {**_modules(levels, record, _NO_BUILD), **weights}
    sizes = {file: len(content) for file, content in files.items()}
    table = _table(levels, signature, sizes, golden)
    files = {**_modules(levels, record, table["build"]), **weights, "golden": golden}
    binaries = {f"{name}.{file}": content for file, content in files.items()}
    texts = {
        f"{name}.js": _runtime(table, binaries, name),
        f"{name}.worker.js": _script(["model.worker.js"], name),
        f"{name}.d.ts": declarations(_source("model.d.ts"), table["info"]),
        "package.json": _package(table["info"]),
        f"{name}.json": as_json(record).decode(),
        "index.html": _named(_source("index.html"), name, escape(name)),
        "demo.css": _source("demo.css"),
        "demo.js": _script(["demo.js"], name),
        "README.md": _named(_source("README.md"), name, name),
    }
    return {**binaries, **{file: text.encode() for file, text in texts.items()}}


def _modules(levels: Sequence[_Level], record: Json, build: str) -> dict[str, bytes]:
    """The WebAssembly modules, with their records, by what their names end with."""
    made: dict[str, bytes] = {}
    for level in levels:
        for shared in (False, True):
            about = {"build": build, "pages": imported_pages(level.code)}
            about |= {"shared": shared, "relaxed": bool(level.prefix)}
            code = with_shared_memory(level.code, MAX_PAGES) if shared else level.code
            section = _json({**record, "web": about}).encode()
            file = f"{level.prefix}{'threads.' if shared else ''}wasm"
            made[file] = with_custom_section(code, SECTION, section)
    return made


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _source(file: str) -> str:
    return (SOURCES / file).read_text(encoding="utf-8")


def _named(text: str, name: str, title: str) -> str:
    """A source with the names of this model; `title` is what people read."""
    return text.replace("MODEL_NAME", title).replace("./model.", f"./{quote(name)}.")


def _script(files: Sequence[str], name: str) -> str:
    """Scripts as one, with the names of this model, without comments and indentation. Lines are
    joined only where nobody could take the end of one for that of a statement."""
    text = "".join(map(_source, files))
    text = re.sub(r"^ */\*\*.*?\*/\n", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^ *//.*\n| +// .*", "", text, flags=re.MULTILINE)
    text = re.sub(r"\n\s+", "\n", text)
    text = re.sub(r",?\n(?=[)\]}])", "", text)
    return _named(re.sub(r"(?<=[(\[{,])\n", "", text), name, name)


def _runtime(table: Json, binaries: Mapping[str, object], name: str) -> str:
    """The runtime with the model's table. Bundlers find files where their addresses are written
    out as `new URL("…", import.meta.url)`."""
    addresses = [
        f'{_json(file.removeprefix(name + "."))}: new URL("./{quote(file)}", import.meta.url)'
        for file in binaries
    ]
    info = table["info"]
    kinds = {t["dtype"] for t in (*info["inputs"], *info["outputs"])}
    short = kinds & {"float16", "bfloat16"} or any(w.get("halves") for w in table["weights"])
    text = _script((RUNTIME[0], HALVES, *RUNTIME[1:]) if short else RUNTIME, name)
    for constant, value in {
        "MODEL": _json(table),
        "CODES": "makeCodes()" if short else "{}",
        "FILES": "{\n" + ",\n".join(addresses) + "\n}",
        "more": f'() => import("./{quote(name)}.worker.js")',
    }.items():
        line = re.compile(rf"^const {constant} = null;.*$", re.MULTILINE)
        text, count = line.subn(lambda _, c=constant, v=value: f"const {c} = {v};", text)
        assert count == 1, constant
    return f"// Made by naru {table['info']['naru']}; how to use it: README.md.\n{text}"


def _package(info: Json) -> str:
    """package.json: the folder can be imported as a package, and published as one."""
    name = info["name"]
    package = {
        "name": re.sub(r"[^a-z0-9-]", "-", name.lower()),
        "version": "1.0.0",
        "description": f"A model, compiled to WebAssembly by naru {info['naru']}",
        "type": "module",
        "exports": {
            ".": {"types": f"./{name}.d.ts", "default": f"./{name}.js"},
            "./*": "./*",
        },
        "types": f"./{name}.d.ts",
        "engines": {"node": ">=20"},
    }
    return json.dumps(package, indent=2, ensure_ascii=False) + "\n"
