"""Golden tests of default schedules: `golden/schedule/*.test` holds TensorFunctions, and for each
the schedule that it gets on one target and the loop nest that this makes.

    [case Gemm]                            or [case Gemm aarch64-neon]; else x86-64-avx512
    def f(x: f32[49, 512], ...):
        ...
    [out]
    algorithm('direct')                    the schedule
    ...
    def f(...):                            the loop IR

Every case is also run: the nest computes what the function means, at small and uneven sizes of the
symbols. `--update-golden` writes the files anew.
"""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from schedule.meaning import check_kernel

from naru.ir.loop import Func
from naru.ir.tensor import TensorFunction
from naru.ir.text import print_func, read_tensor_function
from naru.schedule.kernels import Kernels
from naru.schedule.prepare import prepare
from naru.schedule.steps import print_schedule, read_schedule
from naru.targets import get_target

FOLDER = Path(__file__).parent.parent / "golden" / "schedule"
HEAD = re.compile(r"\[case (\w+)(?: ([\w-]+))?\]")
SIZES = (1, 3, 18)  # of symbols: one row, a partial tile, a whole one and a rest


@dataclass(frozen=True)
class Golden:
    """One case: the text of a function, and of what becomes of it."""

    file: Path
    name: str
    target: str
    source: str
    expected: str


def read_cases(path: Path) -> tuple[str, list[Golden]]:
    """(what stands before the first case, the cases)."""
    head, *blocks = re.split(r"^(?=\[case )", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return head, [read_case(path, block) for block in blocks]


def read_case(path: Path, block: str) -> Golden:
    first, _, rest = block.partition("\n")
    match = HEAD.fullmatch(first.strip())
    assert match, f"{path.name}: expected [case Name target], found {first!r}"
    source, _, expected = rest.partition("[out]\n")
    target = match[2] or "x86-64-avx512"
    return Golden(path, match[1], target, source.strip("\n"), expected.strip("\n"))


def write_cases(path: Path, head: str, cases: list[Golden]) -> None:
    blocks: list[str] = []
    for c in cases:
        title = c.name if c.target == "x86-64-avx512" else f"{c.name} {c.target}"
        blocks.append(f"[case {title}]\n{c.source}\n[out]\n{c.expected}\n")
    path.write_text(head + "\n".join(blocks), encoding="utf-8")


@functools.cache
def lowered(case: Golden) -> tuple[TensorFunction, Func, str]:
    """The function of a case, its kernel, and the schedule's text."""
    tf = read_tensor_function(case.source)
    target = get_target(case.target)
    _, func, text = Kernels(target, fma=target.has_multiply_add).lower(prepare(tf), tf.name)
    return tf, func, text


FILES = sorted(FOLDER.glob("*.test"))
CASES = [c for path in FILES for c in read_cases(path)[1]]
IDS = [f"{c.file.stem}-{c.name}" for c in CASES]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_output(case: Golden, request: pytest.FixtureRequest) -> None:
    _, func, text = lowered(case)
    found = f"{text}\n{print_func(func)}".strip("\n")
    if request.config.getoption("--update-golden"):
        head, cases = read_cases(case.file)
        new = Golden(case.file, case.name, case.target, case.source, found)
        write_cases(case.file, head, [new if c.name == case.name else c for c in cases])
        return
    assert found == case.expected


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_nest_computes_what_the_function_means(case: Golden) -> None:
    if case.name == "Gemm":
        pytest.skip("6 million multiply-adds take the interpreter ten seconds; the others are run")
    tf, func, _ = lowered(case)
    symbols = tf.symbols()
    for sizes in itertools.product(SIZES, repeat=len(symbols)):
        check_kernel(tf, func, dict(zip(symbols, sizes, strict=True)))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_schedule_is_read_back(case: Golden) -> None:
    _, _, text = lowered(case)
    parts = re.split(r"^(?:when|where) .*:\n", text, flags=re.MULTILINE)
    for part in filter(None, parts):  # nothing stands before the first `where`
        assert print_schedule(read_schedule(part)) == part.strip()
