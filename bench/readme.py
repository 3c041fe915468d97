"""Puts measured figures into README.md, so that it and bench/results cannot disagree.

    python bench/readme.py            fills in the newest results
    python bench/readme.py --check    only says whether it would change something (exit code 1)

A figure stands between `<!-- figure:NAME -->` and `<!-- /figure -->`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import report

ROOT = Path(__file__).resolve().parent.parent
README, RESULTS = ROOT / "README.md", ROOT / "bench" / "results"
FIGURE = re.compile(r"(<!-- figure:(\w+) -->)(.*?)(<!-- /figure -->)", re.DOTALL)
UNKNOWN = "(not measured yet)"


def _seconds(case: str, call: str) -> Callable[[dict[str, Any]], str]:
    return lambda results: report.format_seconds(
        report.find_case(results, case)["seconds"][call]["median"]
    )


def _once(part: str, key: str) -> Callable[[dict[str, Any]], str]:
    return lambda results: report.format_seconds(results["startup"][part][key]["median"])


def machine(results: dict[str, Any]) -> str:
    m, versions = results["machine"], results["machine"]["versions"]
    return (
        f"{m['target']}, one core of {m['cpu']}, {m['system']}, "
        f"ONNX Runtime {versions['onnxruntime']}, {results['date']}"
    )


def comparison(results: dict[str, Any]) -> str:
    """A Markdown table: every case, also those in which naru is slower."""
    lines = [
        "| one thread | naru | ONNX Runtime | naru's time / its |",
        "| --- | ---: | ---: | ---: |",
    ]
    for c in results["cases"]:
        ours, theirs = (
            report.format_seconds(c["seconds"][k]["median"])
            for k in ("naru.call", "onnxruntime.run")
        )
        ratio = c["ratios"]["onnxruntime.run"]["median"]
        lines.append(f"| {c['about']} | {ours} | {theirs} | {ratio:.2f} |")
    return "\n\n" + "\n".join(lines) + "\n\n"


FIGURES: dict[str, Callable[[dict[str, Any]], str]] = {
    "cnn_before": _seconds("digits_cnn", "onnxruntime.run"),
    "cnn_after": _seconds("digits_cnn", "naru.call"),
    "empty_call": _seconds("empty", "naru.call"),
    "empty_call_before": _seconds("empty", "onnxruntime.run"),
    "compile_resnet50": _once("compile", "cold"),
    "compile_cached": _once("compile", "cached"),
    "load_resnet50": _once("load", "naru"),
    "machine": machine,
    "comparison": comparison,
}


def newest() -> dict[str, Any] | None:
    """The results of the latest date; None when nothing has been recorded."""
    files = sorted(RESULTS.glob("*.json"))
    return json.loads(files[-1].read_text(encoding="utf-8")) if files else None


def filled(text: str, results: dict[str, Any] | None) -> str:
    """The text with every figure as the results say. KeyError for a figure that does not exist."""

    def put(m: re.Match[str]) -> str:
        find = FIGURES[m[2]]
        return f"{m[1]}{UNKNOWN if results is None else find(results)}{m[4]}"

    return FIGURE.sub(put, text)


def main() -> int:
    text = README.read_text(encoding="utf-8")
    new = filled(text, newest())
    if "--check" in sys.argv[1:]:
        return int(new != text)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
