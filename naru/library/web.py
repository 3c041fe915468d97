"""A WebAssembly package: modules, weights, and one JavaScript file that loads and runs them.

    m.js  m.worker.js  m.d.ts  package.json                  for programs
    m.wasm  m.threads.wasm  [m.relaxed.wasm  m.relaxed.threads.wasm]  m.weights  m.golden
    index.html  demo.js  README.md                           for people

The sources of the JavaScript are in `web/`; they are written with the model's table and file names
put in, and without comments. A module carries a custom section `naru`: a JSON object with what
`record` says, by which m.js knows its own, and which `naru inspect` reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from naru.artifact.bundle import BundleParts, Bytes
from naru.artifact.wasm import imported_pages, with_custom_section, with_shared_memory
from naru.errors import NaruError
from naru.library.web_types import declarations
from naru.library.weights import Weights, describe_weights

Json = dict[str, Any]

SOURCES = Path(__file__).parent / "web"
MAX_PAGES = 65536  # 4 GiB
PARALLEL = "threads."  # in the name of a module with shared memory
LEAST_HALVED = 256  # elements: what is smaller stays in single precision
_LARGEST_HALF = 65504.0


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


def write_web(
    levels: Sequence[BundleParts], folder: Path, name: str, *, half_weights: bool = False
) -> tuple[Path, ...]:
    """Writes the package of a model, and gives the paths of its files.

    `levels`: what `build_parts` gives for wasm32-simd128 and, if wanted, for wasm32-relaxed.
    `name`: of the files. `half_weights`: float32 weights are stored in half precision, and widened
    by the loader. Raises NaruError for a model that runs partly on the host, or if a file cannot be
    written; then the files that were there are as they were.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise NaruError(f"{name!r} is not the name of a file", hint="letters, digits, '.', '-', '_'")
    if any("host" in manifest for manifest, _ in levels):
        raise NaruError("the model has operators that only run in Python, on strings or images")
    made = _make_levels(levels, half_weights=half_weights)
    files = _make_files(made, levels[0][1].get("golden", b""), name)
    return _write(files, folder)


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
    payload: Bytes, packed: Sequence[Sequence[Any]]
) -> tuple[bytes, tuple[tuple[int, int], ...]]:
    """The payload with its large float32 arrays in half precision, and where they begin in the
    original and how many numbers they have. Arrays with numbers beyond half precision stay."""
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
        out += [bytes(data[done:offset]), values.astype("<f2").tobytes()]
        halves.append((offset, len(values)))
        done = offset + size
    return b"".join([*out, bytes(data[done:])]), tuple(halves)


# ---- the model's table ----


def _interface(manifest: Mapping[str, Any]) -> Json:
    """What the entry takes and gives, without where its code lies."""
    return next(e for e in manifest["entries"] if e["name"] == "main")


def make_table(levels: Sequence[_Level]) -> Json:
    """What the JavaScript knows of the model."""
    manifest = levels[0].manifest
    entry = _interface(manifest)
    steps = [[s["name"], [n for n, _ in s["nodes"]]] for s in manifest.get("steps", ())]
    table: Json = {
        "info": _info(levels),
        "symbols": [{k: s[k] for k in ("name", "lo", "hi")} for s in manifest["symbols"]],
        "pointers": entry["pointers"],
        "requires": entry["requires"],
        "steps": steps,
        "tolerance": manifest["tolerance"],
        "weights": [_weights(level) for level in levels],
    }
    known = [json.dumps(table, sort_keys=True).encode(), *(level.code for level in levels)]
    table["build"] = hashlib.sha256(b"".join(known)).hexdigest()[:32]
    return table


def _weights(level: _Level) -> Json:
    w = level.weights
    made: Json = {"file": level.file, "size": w.size, "digest": w.digest, "full": level.full}
    made["sha256"] = w.sha256.hex()
    return {**made, "halves": level.halves} if level.halves else made


def _info(levels: Sequence[_Level]) -> Json:
    """The part of the table that programs see as `info`."""
    manifest = levels[0].manifest
    entry = _interface(manifest)
    sizes = {"weights": levels[0].weights.size}
    sizes.update({f"{level.prefix}wasm": len(level.code) for level in levels})
    stored = "fp16" if levels[0].halves else "fp32"
    info: Json = {
        "name": manifest["source"]["name"],
        "inputs": [_tensor(t, "optional") for t in entry["inputs"]],
        "outputs": [_tensor(t, "late") for t in entry["outputs"]],
        "sizes": sizes,
        "classes": {"arithmetic": manifest["options"]["precision"], "weights": stored},
        "naru": manifest["naru"],
    }
    if "labels" in manifest:
        info["labels"] = manifest["labels"]
    return info


def _tensor(t: Mapping[str, Any], flag: str) -> Json:
    made = {k: t[k] for k in ("name", "dtype", "shape")}
    return {**made, flag: True} if t.get(flag) else made


def record(level: _Level, build: str, *, shared: bool) -> Json:
    """The custom section of a module: where it comes from, and what its loader must know."""
    manifest = level.manifest
    return {
        "build": build,
        "name": manifest["source"]["name"],
        "naru": manifest["naru"],
        "abi": manifest["abi"],
        "target": manifest["target"],
        "source": manifest["source"],
        "options": manifest["options"],
        "entry": {k: _interface(manifest)[k] for k in ("inputs", "outputs", "requires")},
        "weights": level.weights.sha256.hex(),
        "pages": imported_pages(level.code),
        "shared": shared,
        "relaxed": bool(level.prefix),
    }


# ---- files ----


def _make_files(levels: Sequence[_Level], golden: Bytes, name: str) -> dict[str, Bytes]:
    """Contents by name; what others refer to comes first."""
    table = make_table(levels)
    files: dict[str, Bytes] = {}
    for level in levels:
        for shared in (False, True):
            code = with_shared_memory(level.code, MAX_PAGES) if shared else level.code
            about = _json(record(level, table["build"], shared=shared))
            module = with_custom_section(code, "naru", about.encode())
            files[f"{name}.{level.prefix}{PARALLEL if shared else ''}wasm"] = module
        files[f"{name}.{level.file}"] = b"".join([level.weights.header, level.weights.payload])
    files[f"{name}.golden"] = golden
    files[f"{name}.worker.js"] = _script("model.worker.js", name).encode()
    files[f"{name}.js"] = _runtime(table, files, name).encode()
    files[f"{name}.d.ts"] = declarations(_source("model.d.ts"), table["info"]).encode()
    files["package.json"] = _package(name, table["info"], files).encode()
    for page in ("index.html", "demo.js", "README.md"):
        files[page] = _named(_source(page), name, table["info"]["name"]).encode()
    return files


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _source(file: str) -> str:
    return (SOURCES / file).read_text(encoding="utf-8")


def _named(text: str, name: str, title: str) -> str:
    """A source with the names of this model."""
    return text.replace("MODEL_NAME", title).replace("./model.", f"./{quote(name)}.")


def _script(file: str, name: str) -> str:
    """A script with the names of this model, without comments and indentation."""
    text = re.sub(r"^ */\*\*.*?\*/\n", "", _source(file), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^ *//.*\n", "", text, flags=re.MULTILINE)
    return _named(re.sub(r"\n\s+", "\n", text), name, "")


def _runtime(table: Json, files: Mapping[str, object], name: str) -> str:
    """The runtime with the model's table. Bundlers find files where their addresses are written
    out as `new URL("…", import.meta.url)`."""
    addresses = [
        f'{_json(file.removeprefix(name + "."))}: new URL("./{quote(file)}", import.meta.url)'
        for file in files
        if not file.endswith(".js")
    ]
    text = _script("model.js", name)
    for constant, value in {
        "MODEL": _json(table),
        "FILES": "{\n" + ",\n".join(addresses) + "\n}",
        "more": f'() => import("./{quote(name)}.worker.js")',
    }.items():
        line = re.compile(rf"^const {constant} = null;.*$", re.MULTILINE)
        text, count = line.subn(lambda _, c=constant, v=value: f"const {c} = {v};", text)
        assert count == 1, constant
    kept = f"// {table['info']['name']!r}, compiled by naru {table['info']['naru']}. See README.md.\n"
    return kept.replace("\n", " ").rstrip() + "\n" + text


def _package(name: str, info: Json, files: Mapping[str, object]) -> str:
    package = {
        "name": re.sub(r"[^a-z0-9._-]", "-", name.lower()).lstrip("._"),
        "version": "1.0.0",
        "description": f"{info['name']}, compiled by naru {info['naru']}",
        "type": "module",
        "exports": {
            ".": {"types": f"./{name}.d.ts", "default": f"./{name}.js"},
            "./*": "./*",
        },
        "types": f"./{name}.d.ts",
        "files": [*files, "README.md"],
        "engines": {"node": ">=20"},
    }
    return json.dumps(package, indent=2, ensure_ascii=False) + "\n"


def _write(files: Mapping[str, Bytes], folder: Path) -> tuple[Path, ...]:
    """Writes all files beside their places, then moves them there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".naru-", dir=folder) as place:
            for name, content in files.items():
                (Path(place) / name).write_bytes(content)
            for name in files:
                os.replace(Path(place) / name, folder / name)
    except OSError as error:
        raise NaruError(f"{folder}: cannot write there: {error.strerror or error}") from error
    return tuple(folder / name for name in files)
