"""Results for people: tables, and how far the aims are met."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

NAMES = {
    "naru.call": "naru",
    "onnxruntime.run": "ORT run",
    "onnxruntime.io_binding": "ORT io_binding",
}


def format_seconds(seconds: float) -> str:
    """Three digits, and a unit that suits them: 0.123 µs, 12.3 ms, 1.23 s."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size or unit == "µs":
            break
    value = seconds / size
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    if unit == "µs" and value < 1:
        digits = 3
    return f"{value:.{digits}f} {unit}"


def format_ratio(r: dict[str, float]) -> str:
    return f"{r['median']:.2f} [{r['low']:.2f}, {r['high']:.2f}]"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first to the left, others to the right. The first row is the head."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def case_rows(cases: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Times, ratios (naru's time by ONNX Runtime's: below 1 naru is faster), share of the roof."""
    rows = [["case", *NAMES.values(), "naru / run", "naru / io_binding", "of roof", "rounds"]]
    for c in cases:
        share = c.get("roof_share", {}).get("naru.call")
        rounds = f"{c['rounds']} (-{c['discarded']})" + (" noisy" if c["noisy"] else "")
        rows.append(
            [
                c["name"],
                *(format_seconds(c["seconds"][k]["median"]) for k in NAMES),
                format_ratio(c["ratios"]["onnxruntime.run"]),
                format_ratio(c["ratios"]["onnxruntime.io_binding"]),
                f"{share['median']:.0%}" if share else "",
                rounds,
            ]
        )
    return rows


def error_rows(cases: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Errors against double precision, and memory after one run."""
    rows = [
        ["case", "naru max", "ORT max", "naru rms", "ORT rms", "naru private", "ORT private",
         "naru peak", "ORT peak"]
    ]  # fmt: skip
    for c in cases:
        row = [c["name"]]
        for kind in ("max", "rms"):
            row += [f"{c['errors'][e][kind]:.1e}" for e in ("naru", "onnxruntime")]
        for kind in ("private", "peak"):
            row += [f"{c['memory'][e][kind] / 2**20:.0f} MiB" for e in ("naru", "onnxruntime")]
        rows.append(row)
    return rows


def startup_rows(startup: dict[str, Any]) -> list[list[str]]:
    rows = [["once", "median", "least", "most", "times"]]
    labels = {
        "compile": {"cold": "compile ResNet-50", "cached": "the same, from the cache"},
        "load": {"naru": "load ResNet-50", "onnxruntime": "the same, InferenceSession"},
        "import": {
            "naru": "import naru",
            "naru.load": "import naru; naru.load",
            "numpy": "import numpy",
            "onnxruntime": "import onnxruntime",
        },
    }
    for part, names in labels.items():
        for key, label in names.items():
            if part in startup:
                s = startup[part][key]
                times = [format_seconds(s[k]) for k in ("median", "least", "most")]
                rows.append([label, *times, str(s["count"])])
    return rows


# ---- aims ----


@dataclass(frozen=True)
class Aim:
    """A figure that should be at most (or, `least`, at least) a limit."""

    text: str
    find: Callable[[dict[str, Any]], float]
    limit: float
    least: bool = False
    unit: str = ""

    def met(self, value: float) -> bool:
        return value >= self.limit if self.least else value <= self.limit

    def format(self, value: float) -> str:
        if self.unit == "s":
            return format_seconds(value)
        return f"{value:.0%}" if self.unit == "%" else f"{value:.2f}"


def find_case(results: dict[str, Any], name: str) -> dict[str, Any]:
    """The case of a name. StopIteration when it was not measured."""
    return next(c for c in results["cases"] if c["name"] == name)


def _ratio(name: str) -> Callable[[dict[str, Any]], float]:
    return lambda results: find_case(results, name)["ratios"]["onnxruntime.run"]["median"]


def _once(part: str, key: str) -> Callable[[dict[str, Any]], float]:
    return lambda results: results["startup"][part][key]["median"]


AIMS = (
    Aim(
        "GEMM 1024, share of the roof",
        lambda r: find_case(r, "gemm_1024")["roof_share"]["naru.call"]["median"],
        0.80, least=True, unit="%",
    ),
    Aim("ResNet-50, time / ONNX Runtime's", _ratio("resnet50"), 1.6),
    Aim("digits CNN, time / session.run's", _ratio("digits_cnn"), 1.0),
    Aim("digits MLP, time / session.run's", _ratio("digits_mlp"), 1.0),
    Aim("MLP 784-200-10, time / session.run's", _ratio("mlp"), 1.0),
    Aim(
        "empty call",
        lambda r: find_case(r, "empty")["seconds"]["naru.call"]["median"], 0.4e-6, unit="s",
    ),
    Aim("compile ResNet-50", _once("compile", "cold"), 20, unit="s"),
    Aim("the same, from the cache", _once("compile", "cached"), 0.5, unit="s"),
    Aim("load ResNet-50", _once("load", "naru"), 0.015, unit="s"),
    Aim("import naru; naru.load", _once("import", "naru.load"), 0.150, unit="s"),
)  # fmt: skip


def aims(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Every aim whose figure was measured: {aim, limit, found, met}."""
    found: list[dict[str, Any]] = []
    for aim in AIMS:
        try:
            value = aim.find(results)
        except (StopIteration, KeyError):
            continue
        sign = "≥" if aim.least else "≤"
        found.append(
            {
                "aim": aim.text,
                "limit": f"{sign} {aim.format(aim.limit)}",
                "found": aim.format(value),
                "met": aim.met(value),
            }
        )
    return found


def show(results: dict[str, Any]) -> str:
    """All tables, as text."""
    parts: list[str] = []
    if results["cases"]:
        parts += [table(case_rows(results["cases"])), table(error_rows(results["cases"]))]
    if results["startup"]:
        parts.append(table(startup_rows(results["startup"])))
    judged = results["aims"]
    if judged:
        rows = [["aim", "limit", "found", ""]]
        rows += [
            [a["aim"], a["limit"], a["found"], "met" if a["met"] else "MISSED"] for a in judged
        ]
        parts.append(table(rows))
    return "\n\n".join(parts)
