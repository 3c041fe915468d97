"""Golden tests of graph passes: `golden/passes/<pass>.test` holds a graph, and what becomes of it.

    [case FoldsChain]                          a name; the pass is that of the file
    def g(x: f32[n]):                          input: text of a graph; types may be left out
        ...
    [out]                                      or [error], followed by the message
    def g(x: f32[n]):
        ...
    [case KeepsLarge fold_constants{limit=8}]  or passes with options

Lines before the first case, and those that begin with `--`, are comments. Every case is also run:
the graph gives the same numbers before and after. `--update-golden` writes the files anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import naru.ops
from naru.dtypes import DTYPES
from naru.errors import NaruError
from naru.ir.expr import Var
from naru.ir.graph import Graph, Node
from naru.ir.simplify import evaluate as evaluate_size
from naru.ir.text import print_graph, read_graph
from naru.ops.evaluate import evaluate
from naru.ops.registry import OPS
from naru.passes.hooks import verify
from naru.passes.registry import run

assert naru.ops
FOLDER = Path(__file__).parent / "golden" / "passes"
LOOSE = {"tile_products": 3e-4}  # passes that round more: the absolute error of sums of about 50
HEAD = re.compile(r"\[case (\w+)(?: (.*))?\]")


@dataclass(frozen=True)
class Golden:
    """One case: input lines, [out] or [error], expected lines."""

    file: Path
    name: str
    passes: str
    source: str
    kind: str
    expected: str


def read_cases(path: Path) -> tuple[str, list[Golden]]:
    """(what stands before the first case, the cases)."""
    head, *blocks = re.split(r"^(?=\[case )", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return head, [read_case(path, block) for block in blocks]


def read_case(path: Path, block: str) -> Golden:
    first, _, rest = block.partition("\n")
    match = HEAD.fullmatch(first.strip())
    parts = re.split(r"^\[(out|error)\]\n", rest, flags=re.MULTILINE)
    assert match, f"{path.name}: expected [case Name passes], found {first!r}"
    assert len(parts) in (1, 3), f"{path.name}, {match[1]}: expected one [out] or [error]"
    kind, expected = (parts[1], parts[2]) if len(parts) == 3 else ("out", "")
    return Golden(
        path, match[1], match[2] or path.stem, parts[0].strip("\n"), kind, expected.strip("\n")
    )


def write_cases(path: Path, head: str, cases: list[Golden]) -> None:
    blocks = []
    for c in cases:
        title = c.name if c.passes == path.stem else f"{c.name} {c.passes}"
        blocks.append(f"[case {title}]\n{c.source}\n[{c.kind}]\n{c.expected}\n")
    path.write_text(head + "\n".join(blocks), encoding="utf-8")


def infer(op: str, types: Any, attrs: Mapping[str, Any]) -> Any:
    return OPS[op].infer(types, attrs)


def source_graph(case: Golden) -> Graph:
    lines = [line for line in case.source.splitlines() if not line.startswith("--")]
    return read_graph("\n".join(lines), infer=infer)


def apply_case(case: Golden) -> Golden:
    """The case with what really comes out of it."""
    try:
        out = run(case.passes, source_graph(case), verify)
    except NaruError as error:
        return replace(case, kind="error", expected=str(error).strip("\n"))
    return replace(case, kind="out", expected=print_graph(out).strip("\n"))


FILES = sorted(FOLDER.glob("*.test"))
CASES = [c for path in FILES for c in read_cases(path)[1]]
IDS = [f"{c.file.stem}-{c.name}" for c in CASES]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_output(case: Golden, request: pytest.FixtureRequest) -> None:
    found = apply_case(case)
    if request.config.getoption("--update-golden"):
        head, cases = read_cases(case.file)
        write_cases(case.file, head, [found if c.name == case.name else c for c in cases])
        return
    assert (found.kind, found.expected) == (case.kind, case.expected)


@pytest.mark.parametrize("case", [c for c in CASES if c.kind == "out"], ids=lambda c: c.name)
def test_meaning_is_kept(case: Golden) -> None:
    g = source_graph(case)
    h = run(case.passes, g)
    assert h.output_names == g.output_names
    for size in (1, 3):
        arrays = [random_array(n, size, k) for k, n in enumerate(g.inputs)]
        for a, b in zip(evaluate(g, arrays), evaluate(h, arrays), strict=True):
            atol = LOOSE.get(case.file.stem, 1e-6)
            np.testing.assert_allclose(
                b.astype(np.float64), a.astype(np.float64), rtol=1e-5, atol=atol
            )


def random_array(n: Node, size: int, seed: int) -> np.ndarray:
    """Values for an input whose symbolic dims are all `size`."""
    symbols = {v: size for d in n.type.shape if isinstance(v := d, Var)}
    shape = tuple(evaluate_size(d, symbols) for d in n.type.shape)
    rng = np.random.default_rng(seed)
    dtype = DTYPES[n.type.dtype].numpy
    return (rng.integers(0, 2, shape) if dtype.kind == "b" else rng.normal(0, 3, shape)).astype(
        dtype
    )


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_file_shows_firing_and_not_firing(path: Path) -> None:
    """At least three cases a pass, with different names, one of which leaves its input alone."""
    cases = read_cases(path)[1]
    assert len({c.name for c in cases}) == len(cases) >= 3
    same = [
        c for c in cases if c.kind == "out" and print_graph(source_graph(c)).strip() == c.expected
    ]
    assert same, "no case shows where the pass must not fire"
