"""docs/operator-speed.md, from a record of `operators.py`."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from naru.bench.report import format_seconds

Record = dict[str, Any]

HEAD = """# Speed of single operators

<!-- Written by `python bench/operators.py`. -->

Models of one operator on inputs of about 1 MB, naru against ONNX Runtime {version}, one thread of
{cpu} ({target}, {system}), {date}. `make bench-operators` measures anew;
how, says the head of `bench/operators.py`. A ratio is naru's time by ONNX Runtime's: below 1 naru
is faster. *Error* is the largest difference between the two, by the largest value. *Compile* is
`naru.compile` without a cache. Where there is no ratio, ONNX Runtime does not have the operator, or
not this version of it.

{summary}
"""
COLUMNS = ("operator", "ratio", "naru", "ONNX Runtime", "error", "compile")


def write_page(path: Path, record: Record) -> None:
    """Writes the page."""
    machine = record["machine"]
    head = HEAD.format(
        version=record["onnxruntime"],
        cpu=machine["cpu"],
        target=machine["target"],
        system=machine["system"],
        date=record["date"],
        summary=summary(record["cases"]),
    )
    domains = list(dict.fromkeys(c["domain"] for c in record["cases"]))
    parts = [head]
    for domain in domains:
        rows = [row(c) for c in record["cases"] if c["domain"] == domain]
        parts.append("\n".join((f"\n## {domain}\n", *table(rows))) + "\n")
    path.write_text("".join(parts), encoding="utf-8")


def summary(cases: list[Record]) -> str:
    """How many are faster, and what is slower than twice ONNX Runtime's time."""
    ratios = [c["ratio"] for c in cases if "ratio" in c]
    faster = sum(r < 1 for r in ratios)
    slow = sorted((c for c in cases if c.get("ratio", 0) > 2), key=lambda c: -c["ratio"])
    names = ", ".join(f"{name(c)} ({c['ratio']:.1f})" for c in slow) or "none"
    middle = math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else math.nan
    late = Counter(c["compile"] > 0.15 for c in cases if "compile" in c)
    return (
        f"Of {len(ratios)} cases that both run, naru is faster in {faster}; the geometric mean of "
        f"the\nratios is {middle:.2f}. Slower than twice ONNX Runtime's time: {names}.\n"
        f"{late[False]} of {late.total()} models compile in under 150 ms."
    )


def name(case: Record) -> str:
    return f"{case['op']} ({case['label']})" if case["label"] else case["op"]


def row(case: Record) -> list[str]:
    def seconds(key: str) -> str:
        return format_seconds(case[key]) if key in case else ""

    return [
        name(case),
        f"{case['ratio']:.2f}" if "ratio" in case else "",
        seconds("naru"),
        seconds("onnxruntime"),
        _error(case["error"]) if "error" in case else "",
        f"{case['compile'] * 1e3:.0f} ms" if "compile" in case else "",
    ]


def _error(value: float) -> str:
    """Random numbers, say, have other values or sizes."""
    if math.isnan(value):
        return "other sizes"
    return "0" if value == 0 else f"{value:.0e}"


def table(rows: list[list[str]]) -> list[str]:
    lines = [list(COLUMNS), ["---", *["---:"] * (len(COLUMNS) - 1)], *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
