"""Which operators compile, in which versions, for which element types, and how fast: what
tools/measure_operators.py found out by compiling models and running them, kept in support.json.

An operator counts as supported for an element type only where such a model agreed with the
standard's expectation or with the numpy meaning; what was not tried is `untested`, not supported.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from naru.dtypes import DTYPES

FILE = Path(__file__).with_name("support.json")
# From the fastest to the slowest.
CLASSES = {
    "free": "no code of its own: a view, or known when compiling",
    "tuned": "sums of products over a tile of accumulators in registers",
    "vectorised": "loops over vectors",
    "scalar": "loops over single elements",
    "host": "done by the runtime, between runs of compiled code",
}
UNTESTED = "untested"
NONE = "naru has none yet"
# What a list of element types is shortened by.
FAMILIES = {
    "floats": ("f32", "f64", "f16", "bf16"),
    "ints": ("i8", "i16", "i32", "i64"),
    "uints": ("u8", "u16", "u32", "u64"),
    "float8": ("f8e4m3fn", "f8e4m3fnuz", "f8e5m2", "f8e5m2fnuz"),
    "int2/4": ("int4", "uint4", "int2", "uint2"),
}
# How a target is served: of the targets of naru/targets.py and what else code can be made for.
TARGETS = {
    "x86-64-avx2": "compiled and run: what these tables say",
    "x86-64-avx512, x86-64-baseline": "the same kernels over vectors of another width",
    "x86-64-amx": "as x86-64-avx512, with products and convolutions in AMX tiles",
    "aarch64-neon": "compiled; run under QEMU, with the bits of x86-64-avx2 (docs/targets.md)",
    "aarch64-dotprod, aarch64-i8mm": "as aarch64-neon",
    "wasm32-simd128": "every operator's kernels compiled, none run here",
    "Triton": "no operators: kernels with a schedule of their own (docs/targets.md)",
}


@dataclass(frozen=True)
class Operator:
    """One operator of a domain.

    `versions`: version -> element types that were seen to work; `why`: version -> reason -> element
    types that the standard allows and that do not. `speed`: element type -> the classes of the
    kernels of the models that were tried, the fastest first. `lacks`: target -> why its kernels do
    not compile there. `tests`: passed, of how many tests of the standard that have only this node.
    """

    domain: str
    name: str
    versions: Mapping[int, tuple[str, ...]]
    why: Mapping[int, Mapping[str, tuple[str, ...]]] = field(
        default_factory=dict[int, Mapping[str, tuple[str, ...]]]
    )
    speed: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    lacks: Mapping[str, str] = field(default_factory=dict[str, str])
    tests: tuple[int, int] | None = None

    @property
    def works(self) -> bool:
        """Was it seen to work, in any version for any element type?"""
        return any(self.versions.values())

    @property
    def newest(self) -> int:
        """The newest version that works, else the newest there is."""
        return max((v for v, some in self.versions.items() if some), default=max(self.versions))

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes of its kernels, the fastest first."""
        found = {c for some in self.speed.values() for c in some}
        return tuple(c for c in CLASSES if c in found)

    def version_at(self, opset: int) -> int | None:
        """The version that an opset has."""
        return max((v for v in self.versions if v <= opset), default=None)


def read() -> dict[tuple[str, str], Operator]:
    """(domain, name) -> operator, the standard's own domain first."""
    found = _parsed()
    order = sorted(found, key=lambda key: (key[0] != "ai.onnx", key))
    return {key: found[key] for key in order}


def measured() -> dict[str, Any]:
    """What was measured on: the target, others that were compiled for, the version of onnx."""
    return content()["measured"]


def find(domain: str, name: str) -> Operator | None:
    """An operator by its domain ("" is ai.onnx) and name."""
    return _parsed().get((domain or "ai.onnx", name))


@cache
def content() -> dict[str, Any]:
    """The file as it is."""
    return json.loads(FILE.read_text(encoding="utf-8"))


@cache
def _parsed() -> dict[tuple[str, str], Operator]:
    return {
        (domain, name): _operator(domain, name, row)
        for domain, rows in content().items()
        if domain != "measured"
        for name, row in rows.items()
    }


def _operator(domain: str, name: str, row: Mapping[str, Any]) -> Operator:
    versions: dict[int, tuple[str, ...]] = {}
    before: tuple[str, ...] = ()
    for version, text in row["versions"].items():  # "+ bf16": those of the version before, and bf16
        first, *rest = text.split() or [""]
        now = (*before, *rest) if first == "+" else tuple(text.split())
        versions[int(version)] = before = ordered(now)
    speed = {d: tuple(c.split()) for c, some in row.get("speed", {}).items() for d in some.split()}
    why = {
        int(v): {reason: ordered(some.split()) for reason, some in reasons.items()}
        for v, reasons in row.get("why", {}).items()
    }
    tests = tuple(row["tests"]) if "tests" in row else None
    return Operator(domain, name, versions, why, speed, row.get("lacks", {}), tests)


def ordered(dtypes: Iterable[str]) -> tuple[str, ...]:
    """Element types, those that are used most first."""
    names = list(DTYPES)
    return tuple(sorted(dtypes, key=lambda d: names.index(d) if d in names else len(names)))


def dtypes_text(dtypes: Sequence[str]) -> str:
    """`floats i32 i64 bool`: whole families by one word."""
    left, words = list(dtypes), list[str]()
    for word, members in FAMILIES.items():
        if set(members) <= set(left):
            words.append(word)
            left = [d for d in left if d not in members]
    return " ".join([*words, *ordered(left)]) or "-"


def versions_text(op: Operator) -> str:
    """The versions that were seen to work for some element type; the others in brackets."""
    return " ".join(str(v) if some else f"({v})" for v, some in op.versions.items())


def tests_text(op: Operator) -> str:
    return "-" if op.tests is None else f"{op.tests[0]}/{op.tests[1]}"


def reason_of(op: Operator) -> str:
    """Why an operator does not work at all: that of its newest version."""
    reasons = [r for some in op.why.values() for r in some]
    told = [r for r in reasons if r != UNTESTED]
    return (told or reasons or [NONE])[-1]


# --- docs/operators.md ----------------------------------------------------------------------------

_HEAD = """# Operators

<!-- Written by `python tools/measure_operators.py`. -->

What `naru ops` prints: {works} of the {all} operators of {domains} compile.

Each was compiled for {target} and run: an element type is listed only where
a model that has it agreed with what the standard's test (onnx {onnx}) expects, or else with the
operator's meaning in numpy. What was not tried is called untested, not supported.
`naru check model.onnx` asks the same of the nodes of one model.

- **versions** are the opsets that changed the operator; one in brackets does not compile, or was
  not tried. naru reads models from opset 6 on.
- **element types** are those of the newest version, by the first operand that may have several;
  whole families by one word. Complex numbers: none.
{families}
- **speed** is that of the kernels that came out. There are several where it depends on the
  attributes, or on which axis is meant.
{classes}
- **tests** of the standard that have only this node: passed, of how many.

## Targets

| target | these operators |
| --- | --- |
{targets}
"""


def page(operators: Mapping[tuple[str, str], Operator]) -> str:
    """The page of the docs."""
    domains = list(dict.fromkeys(d for d, _ in operators))
    lines = [
        _HEAD.format(
            works=sum(op.works for op in operators.values()),
            all=len(operators),
            domains=", ".join(domains),
            target=measured()["target"],
            onnx=measured()["onnx"],
            families="\n".join(f"  - {w}: {' '.join(m)}" for w, m in FAMILIES.items()),
            classes="\n".join(f"  - *{c}*: {text}" for c, text in CLASSES.items()),
            targets="\n".join(f"| {t} | {text} |" for t, text in TARGETS.items()),
        )
    ]
    lacking = [op for op in operators.values() if op.lacks]
    if lacking:
        lines += ["Not compiled there:", ""]
        lines += [f"- {op.name}, {t}: {_cell(w)}" for op in lacking for t, w in op.lacks.items()]
        lines.append("")
    for domain in domains:
        lines += _domain_lines(domain, [op for op in operators.values() if op.domain == domain])
    return "\n".join(lines).rstrip() + "\n"


def _domain_lines(domain: str, some: Sequence[Operator]) -> list[str]:
    lines = [
        f"## {domain}",
        "",
        "| operator | versions | element types | speed | tests |",
        "| --- | --- | --- | --- | --- |",
    ]
    for op in some:
        if op.works:
            cells = versions_text(op), dtypes_text(op.versions[op.newest]), " ".join(op.classes)
            lines.append(f"| {op.name} | {' | '.join(cells)} | {tests_text(op)} |")
    missing = [op for op in some if not op.works]
    if missing:
        lines += ["", f"Missing ({len(missing)}):", ""]
        lines += [f"- {op.name}: {_cell(reason_of(op))}" for op in missing]
    return [*lines, ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
