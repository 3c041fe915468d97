"""A native library of a model: one C file with the machine code of every level.

The code of a bundle is position-independent and needs nothing, so it goes into the library as it is
(`.incbin`). Around it stands C that opens the weights, chooses the level, owns the memory of a
call, runs threads: the files that Python's runtime is made of too (naru/runtime/native), and the
files in `c/`. All of it is one file in which everything but the model's own functions is static, so
that libraries of several models can be linked into one program.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from naru.artifact.bundle import BundleParts
from naru.artifact.golden import GoldenCase, unpack_golden
from naru.library.header import dtype_member, quote
from naru.library.signature import Signature, Tensor
from naru.library.toolchain import LINK_FLAGS
from naru.library.weights import HEADER_SIZE, Weights
from naru.runtime import _native
from naru.targets import TARGETS
from naru.version import VERSION

_C = Path(__file__).parent / "c"
_NATIVE = Path(__file__).parent.parent / "runtime" / "native"
_HOST_FILES = ("memory.c", "cpu.c", "crc.c", "pool.c")
_LIBRARY_FILES = ("library.c", "selftest.c", "exports.c")  # in this order: one file is made of them
_INCLUDE = re.compile(r'^#include "[^"]*"\n', re.MULTILINE)
_GOLDEN = struct.Struct("<8sQIIdd24x")
_NOT_SYMBOL = re.compile(r"[^A-Za-z0-9_.]")

FLAGS = (
    *("-std=gnu11", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"),
    *("-fno-math-errno", "-fno-asynchronous-unwind-tables", "-fno-ident", "-pthread"),
)
LIBRARIES = ("-lm", "-ldl", "-lpthread")


@dataclass(frozen=True, slots=True)
class Source:
    """The C file of a library, and what it includes: name -> content, beside it."""

    text: str
    blobs: Mapping[str, Any]


def sort_levels(levels: Sequence[BundleParts]) -> list[BundleParts]:
    """From the most capable to the least, as a library tries them."""
    order = list(TARGETS)
    return sorted(levels, key=lambda parts: order.index(parts[0]["target"]["name"]))


def library_source(
    levels: Sequence[BundleParts],
    signature: Signature,
    weights: Weights,
    golden: bytes,
    provenance: bytes,
    *,
    embed: bool,
) -> Source:
    """The C file of a library. `levels`: from the best to the least, with equal weights; `golden`:
    of pack_golden_file; `provenance`: JSON, which goes into a section that is not loaded."""
    name = signature.name
    blobs: dict[str, Any] = {f"{name}.json": provenance}
    for manifest, sections in levels:
        blobs[_code_file(name, manifest)] = sections["code"]
    if embed:
        blobs[f"{name}.weights.bin"] = weights.payload
        blobs[f"{name}.golden"] = golden
    parts = [
        f"/* The library of {name}: made by naru {VERSION}, not meant to be edited.\n"
        f" * Compile: cc {' '.join(FLAGS[:4])} -pthread {' '.join(LINK_FLAGS)} \\\n"
        f" *   -DNARU_SHARED {name}.c -o {name}.so {' '.join(LIBRARIES)} */\n"
        "#ifndef _GNU_SOURCE\n#define _GNU_SOURCE\n#endif\n"
        "#define NARU_HOST static __attribute__((unused))\n"
        '#define NARU_ZERO __attribute__((section(".data")))\n'
        "#define NARU_MAX_THREADS 256\n",
        _read(_NATIVE / "abi.h"),
        _read(_NATIVE / "host.h"),
        _read(_C / "library.h"),
        _tables(signature, levels, weights, golden, embed=embed),
        *(_read(_NATIVE / f) for f in _HOST_FILES),
        *(_read(_C / f) for f in _LIBRARY_FILES),
    ]
    return Source("\n".join(parts), blobs)


def _read(path: Path) -> str:
    """A C file without its includes of others of these."""
    return _INCLUDE.sub("", path.read_text(encoding="utf-8"))


def _code_file(name: str, manifest: Mapping[str, Any]) -> str:
    return f"{name}.{manifest['target']['name']}.code"


# ---- tables ----


def _tables(
    s: Signature,
    levels: Sequence[BundleParts],
    weights: Weights,
    golden: bytes,
    *,
    embed: bool,
) -> str:
    manifests = [manifest for manifest, _ in levels]
    names = ", ".join(m["target"]["name"] for m in manifests)
    counts = {
        "INPUT_COUNT": len(s.inputs),
        "OUTPUT_COUNT": len(s.outputs),
        "SYMBOL_COUNT": len(s.symbols),
        "DIM_COUNT": s.dims,
        "POINTER_COUNT": s.pointers,
        "PLAN_COUNT": s.rank_of_plan,
        "STEP_COUNT": len(s.steps),
        "REQUIREMENT_COUNT": len(s.requires),
        "LEVEL_COUNT": len(levels),
        "LATE": int(any(t.late for t in s.outputs)),
        "EMBEDDED": int(embed),
    }
    return "\n".join(
        (
            "/* ---- tables of this model ---- */",
            _architecture(manifests[0]),
            f"#define OF_MODEL(function) {s.prefix}_##function",
            f"#define NAME {quote(s.name)}",
            f"#define COMPILER {quote(VERSION)}",
            f"#define SOURCE {quote(manifests[0]['source'].get('sha256') or '')}",
            f"#define LEVEL_NAMES {quote(names)}",
            f"#define WEIGHTS_FILE {quote(s.name + '.weights')}",
            f"#define WEIGHTS_SIZE UINT64_C({weights.size})",
            f"#define WEIGHTS_DIGEST {weights.digest:#x}u",
            f"#define WEIGHTS_SHA256 {_bytes(weights.sha256)}",
            f"#define GOLDEN_FILE {quote(s.name + '.golden')}",
            f"#define GOLDEN_SIZE UINT64_C({len(golden)})",
            f"#define GOLDEN_DIGEST {golden_digest(golden):#x}u",
            f"enum {{ {', '.join(f'{k} = {v}' for k, v in counts.items())} }};",
            _tensors("INPUTS", s.inputs, s),
            _tensors("OUTPUTS", s.outputs, s),
            _array(
                "naru_symbol SYMBOLS",
                [f"{{{quote(v.name)}, {v.low}, {v.high}}}" for v in s.symbols] or ["{NULL, 0, 0}"],
            ),
            _texts("STEPS", s.steps),
            _texts("REQUIREMENTS", s.requires),
            *(_level_code(s, k, m) for k, m in enumerate(manifests)),
            *_level_tables(manifests, levels),
            _embedded(s.name) if embed else "#define EMBEDDED_WEIGHTS NULL",
            "" if embed else "#define EMBEDDED_GOLDEN NULL",
            _note(s.name),
        )
    )


def _architecture(manifest: Mapping[str, Any]) -> str:
    """Code of one architecture would assemble for any other, and fail when it runs."""
    arch = manifest["target"]["triple"].partition("-")[0]
    return (
        f"#if !defined(__{arch}__)\n"
        f'#error "this library has code for {arch}; compile it for that machine (--target, --cc)"\n'
        "#endif"
    )


def _bytes(data: bytes) -> str:
    return '"' + "".join(f"\\{b:03o}" for b in data) + '"'


def _array(what: str, items: Sequence[str]) -> str:
    body = "".join(f"    {item},\n" for item in items)
    return f"static const {what}[] = {{\n{body}}};"


def _texts(name: str, texts: Sequence[str]) -> str:
    """Texts one after the other: pointers to each would have to be relocated at load."""
    lines = "".join(f'    {quote(t)} "\\0"\n' for t in texts)
    return f'static const char {name}[] =\n{lines}    "";'


def _tensors(name: str, tensors: Sequence[Tensor], s: Signature) -> str:
    """A table of tensors, with their shapes and labels before it."""
    index = {v.name: k for k, v in enumerate(s.symbols)}
    inputs = name == "INPUTS"
    label_tables: dict[tuple[str, ...], str] = {(): "NULL"}
    lines: list[str] = []
    rows: list[str] = []
    for k, t in enumerate(tensors):
        known = [d if isinstance(d, int) else -1 - index[d] if inputs else -1 for d in t.shape]
        lines.append(_array(f"int64_t {name}_SHAPE_{k}", [str(d) for d in known] or ["0"]))
        if t.labels not in label_tables:
            label_tables[t.labels] = f"{name}_LABELS_{k}"
            texts = [quote(text) for text in t.labels]
            lines.append(_array(f"char *const {label_tables[t.labels]}", texts))
        axis = -1 if t.label_axis is None else t.label_axis
        rows.append(
            f"{{{quote(t.name)}, {quote(t.dtype)}, {dtype_member(t.dtype)}, {t.item_size}, "
            f"{len(t.shape)}, {name}_SHAPE_{k}, {int(t.optional)}, {int(t.late)}, "
            f"{label_tables[t.labels]}, {len(t.labels)}, {axis}}}"
        )
    empty = '{"", "", NARU_DTYPE_OTHER, 1, 0, NULL, 0, 0, NULL, 0, -1}'
    return "\n".join([*lines, _array(f"naru_tensor {name}", rows or [empty])])


# ---- blobs ----


def _blob(section: str, flags: str, label: str, file: str, align: int, more: str = "") -> str:
    """A file's content under a label that is local to the object."""
    return (
        f'__asm__(".pushsection {section},\\"{flags}\\",%progbits\\n"\n'
        f'        ".balign {align}\\n"\n'
        f'        "{label}:\\n"\n'
        f'        ".incbin \\"{file}\\"\\n"\n'
        f'{more}        ".popsection\\n");'
    )


def _level_code(s: Signature, k: int, manifest: Mapping[str, Any]) -> str:
    """The code of a level, and local names of its kernels, for debuggers and profilers. AArch64
    finds constants by pages of 4096 bytes."""
    align = 64 if manifest["target"]["triple"].startswith("x86") else 4096
    label = f"naru_code_{k}"
    lines: list[str] = []
    for kernel in manifest["kernels"]:
        if "offset" not in kernel:
            continue
        symbol = f"{s.prefix}.{_NOT_SYMBOL.sub('_', kernel['name'])}.{k}"
        lines.append(f'        ".set {symbol}, {label} + {kernel["offset"]}\\n"\n')
        lines.append(f'        ".type {symbol}, %function\\n"\n')
        lines.append(f'        ".size {symbol}, {kernel["size"]}\\n"\n')
    blob = _blob(".text", "ax", label, _code_file(s.name, manifest), align, "".join(lines))
    return f"{blob}\n{_extern(label)}"


def _extern(label: str) -> str:
    return f'extern const uint8_t {label}[] __attribute__((visibility("hidden")));'


def _level_tables(
    manifests: Sequence[Mapping[str, Any]], levels: Sequence[BundleParts]
) -> list[str]:
    out: list[str] = []
    rows: list[str] = []
    abouts: list[str] = []
    for k, (m, (_, sections)) in enumerate(zip(manifests, levels, strict=True)):
        features = [quote(f) for f in m["target"]["features"]]
        out.append(_array(f"char *const FEATURES_{k}", [*features, "NULL"]))
        size = len(memoryview(sections["code"]))
        about = f"{{{quote(m['target']['name'])}, FEATURES_{k}, {size}}}"
        entry = m["entries"][0]
        rows.append(f"{{{about}, naru_code_{k}, {entry['run']}, {entry['plan']}}}")
        abouts.append(about)
    out.append(
        "typedef struct {\n    naru_level about;\n    const uint8_t *code;\n"
        "    size_t run, plan; /* offsets in the code */\n} level_table;"
    )
    out.append(_array("level_table LEVELS", rows))
    out.append(_array("naru_level LEVEL_TABLE", abouts))
    return out


def _embedded(name: str) -> str:
    return "\n".join(
        (
            _blob(".rodata", "a", "naru_weights", f"{name}.weights.bin", 64),
            _blob(".rodata", "a", "naru_golden", f"{name}.golden", 64),
            _extern("naru_weights"),
            _extern("naru_golden"),
            "#define EMBEDDED_WEIGHTS naru_weights",
            "#define EMBEDDED_GOLDEN naru_golden",
        )
    )


def _note(name: str) -> str:
    """Where the model comes from, in a section that takes room in the file only."""
    return _blob(".naru", "", "naru_provenance", f"{name}.json", 1)


# ---- the golden vector ----


def pack_golden_file(section: Any, manifest: Mapping[str, Any], s: Signature) -> bytes:
    """The golden vector as `c/selftest.c` reads it; empty where the bundle has none."""
    case = _main_case(section)
    if case is None:
        return b""
    body = bytearray()
    sizes = symbol_values(s, section)
    _append(body, np.array([sizes[v.name] for v in s.symbols], np.int64).tobytes())
    for array in (*case.inputs, *case.outputs):
        data = array.astype(array.dtype.newbyteorder("<"), order="C").tobytes()
        _append(body, struct.pack("<Q", len(data)))
        _append(body, data)
    tolerance = manifest.get("tolerance", {"rtol": 0.0, "atol": 0.0})
    size = HEADER_SIZE + len(body)
    atol = max(tolerance["atol"], math.ulp(0.0))  # what is off is divided by it
    head = _GOLDEN.pack(b"NARUGOLD", size, _native.digest(body), 0, tolerance["rtol"], atol)
    return head + bytes(body)


def _main_case(section: Any) -> GoldenCase | None:
    cases = unpack_golden(memoryview(section)) if len(section) else ()
    return next((c for c in cases if c.entry == "main"), None)


def golden_digest(golden: bytes) -> int:
    """The digest in the head of a packed golden vector; 0 where there is none."""
    return int(_GOLDEN.unpack_from(golden)[2]) if golden else 0


def _append(body: bytearray, data: bytes) -> None:
    body += data
    body += bytes(-len(body) % HEADER_SIZE)


def symbol_values(s: Signature, section: Any) -> dict[str, int]:
    """Values of the symbols at which the model makes sense: those of the golden vector; without
    one 4, or the nearest that is allowed."""
    found = {v.name: min(max(v.low, 4), v.high) for v in s.symbols}
    case = _main_case(section)
    for t, array in zip(s.inputs, case.inputs if case else (), strict=False):
        found |= {d: n for d, n in zip(t.shape, array.shape, strict=True) if isinstance(d, str)}
    return found
