"""The README of a native library: what the files are, and how to build a program with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from naru.artifact.formulas import arena_bytes
from naru.library.signature import Signature
from naru.units import format_bytes
from naru.version import VERSION

_BUILD = {
    "library": "cc -O2 example.c -o example ./{name}.so -Wl,-rpath,'$ORIGIN'\n./example",
    "static": "cc -O2 example.c -o example {name}.a -lm -ldl -lpthread\n./example",
    "obj": "cc -O2 example.c -o example {name}.o -lm -ldl -lpthread\n./example",
    "c": "cc -O2 -pthread example.c {name}.c -o example -lm -ldl\n./example",
}
_READABLE = 60  # letters of a formula
_FILES = {
    "library": ("{name}.so", "the library: needs the C library only"),
    "static": ("{name}.a", "the library, to be linked into a program"),
    "obj": ("{name}.o", "the library, as one object to be linked into a program"),
    "c": ("{name}.c", "the library, for a C compiler of your own; it includes the files `*.code`"),
}


def _cell(text: str) -> str:
    """A text that stays within its column, and its line."""
    return "".join(c if c.isprintable() else " " for c in text).replace("|", "\\|")


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown with aligned columns; the first row is the head."""
    rows = [[_cell(c) for c in r] for r in rows]
    widths = [max(len(r[k]) for r in rows) for k in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in rows
    ]
    lines.insert(1, "| " + " | ".join("-" * w for w in widths) + " |")
    return "\n".join(lines)


def readme(s: Signature, record: Mapping[str, Any], emit: str, *, embed: bool) -> str:
    """The README of what `emit` writes."""
    name, prefix = s.name, s.prefix
    file, what = _FILES[emit]
    files = [
        ("file", "what"),
        (file.format(name=name), what),
        (f"{name}.h", "its header, C and C++"),
    ]
    if embed:
        inside = f"the weights ({format_bytes(record['weights']['size'])}) are in it"
        files[1] = (files[1][0], f"{what}; {inside}")
    else:
        files.append((f"{name}.weights", "the weights, mapped when the model is opened"))
        files.append((f"{name}.golden", "inputs and the outputs they must give, for selftest()"))
    files.append((f"{name}.json", "where all this comes from, with a bill of materials"))
    files.append(("example.c, example.cpp", "a program in C, and one in C++"))
    levels = [("level", "code", "the CPU must have")]
    levels += [
        (v["name"], format_bytes(v["code"]), ", ".join(v["features"][-4:]) or "nothing more")
        for v in record["levels"]
    ]
    tensors = [("", "name", "dtype", "shape")]
    for kind, group in (("takes", s.inputs), ("gives", s.outputs)):
        tensors += [(kind, t.name, t.dtype, "×".join(map(str, t.shape)) or "scalar") for t in group]
    return (
        "\n\n".join(
            (
                f"# {name}",
                f"A model as a library for {record['platform']}, made by naru {VERSION}.",
                table(tensors),
                table(files),
                "```sh\n" + _BUILD[emit].format(name=name) + "\n```",
                "The library takes the first of these levels that the CPU has:",
                table(levels),
                _usage(prefix, record),
            )
        )
        + "\n"
    )


def arena_text(record: Mapping[str, Any]) -> str:
    """How large the arena of a call is: in bytes, or by a formula, or where that is long, at a few
    sizes."""
    memory = record["memory"]
    where: Mapping[str, Any] = memory.get("where", {})
    formula = str(where.get(memory["arena"], memory["arena"]))
    if len(formula) <= _READABLE and not any(name in formula for name in where):
        return f"{formula} bytes a call"
    found: dict[str, str] = {}
    for n in (1, 16, 128):
        sizes = {s["name"]: min(max(n, s["lo"]), s["hi"]) for s in record["symbols"]}
        count = arena_bytes(memory, sizes)
        if count is not None and count >= 0:
            at = ", ".join(f"{name} = {size}" for name, size in sizes.items())
            found[at] = format_bytes(count)
    return "; ".join(f"{size} a call at {at}" for at, size in found.items()) or "by the sizes"


def _usage(prefix: str, record: Mapping[str, Any]) -> str:
    return (
        f"`{prefix}_open` maps the weights and checks them; `{prefix}_new_context` takes the "
        f"memory ({arena_text(record)}); `{prefix}_run` runs without asking for any. "
        "One model serves all threads, each with a context of its own. Every function answers a "
        f"status, and `{prefix}_error()` says why. The header describes all of it."
    )
