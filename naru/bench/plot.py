"""A picture of a record: naru's time by each engine's, a bar a case."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from naru.bench.report import way_title
from naru.errors import InputError, NaruError

Json = dict[str, Any]

# One way an engine, or the bars would not be readable; colours that all eyes tell apart.
SHOWN = {
    "onnxruntime.run": "#0072b2",
    "openvino.infer": "#e69f00",
    "openvino-default.infer": "#e69f00",
    "torch.call": "#009e73",
    "inductor.call": "#cc79a7",
}
BAR = 0.19  # inches
SUFFIXES = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Before anything is measured: InputError for a suffix that is no picture's, NaruError where
    matplotlib is missing."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: expected a file of {', '.join(SUFFIXES)}, got '{path.suffix}'")
    _library()


def draw(record: Json, path: Path) -> None:
    """Writes the picture. Bars go left of 1 where naru is faster; the longest first."""
    figure_class = _library()
    cases = [c for c in record["cases"] if c.get("ratios")]
    ways = [w for w in SHOWN if any(w in c["ratios"] for c in cases)]
    if not ways:
        raise InputError(f"{path}: nothing to draw: naru was measured against no other engine")
    cases.sort(key=lambda c: -_first_ratio(c, ways))
    height = 1.3 + len(cases) * (len(ways) * BAR + 0.12)
    figure: Any = figure_class(figsize=(8, height), layout="constrained")
    axes: Any = figure.subplots()
    for k, way in enumerate(ways):
        _draw_way(axes, cases, way, (len(ways) - 1) / 2 - k, 0.8 / len(ways))
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(cases)), [c["name"] for c in cases])
    axes.set_ylim(-0.6, len(cases) - 0.4)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.5), max(high, 2.0))
    ticks = [t for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if low <= t <= max(high, 2)]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks], minor=False)
    axes.minorticks_off()
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel("naru's time / the other's (left of 1: naru is faster), with 95% intervals")
    axes.set_title(_title(record), fontsize=9, loc="left")
    figure.legend(loc="outside lower right", ncols=len(ways), frameon=False, fontsize=9)
    # No date inside: the same record gives the same picture.
    metadata = {"Date": None} if path.suffix == ".svg" else None
    try:
        figure.savefig(path, dpi=150, metadata=metadata)
    except OSError as e:
        raise InputError(f"{path}: cannot write it: {e.strerror or e}") from None


def _draw_way(axes: Any, cases: list[Json], way: str, shift: float, height: float) -> None:
    """The bars of one way, from 1 to the ratio; hatched where the figures are noisy."""
    shown = [(k, c) for k, c in enumerate(cases) if way in c["ratios"]]
    ratios = [c["ratios"][way]["hot"] for _, c in shown]
    middle = [r["median"] for r in ratios]
    bars = axes.barh(
        [k + shift * height for k, _ in shown],
        [m - 1 for m in middle],
        height=height, left=1.0, color=SHOWN[way], label=way_title(way),
        xerr=[[r["median"] - r["low"] for r in ratios], [r["high"] - r["median"] for r in ratios]],
        error_kw={"linewidth": 0.8, "ecolor": "#333333"},
    )  # fmt: skip
    for bar, (_, c) in zip(bars, shown, strict=True):
        if c["rounds"]["hot"]["noisy"]:
            bar.set(hatch="////", alpha=0.5)


def _first_ratio(case: Json, ways: list[str]) -> float:
    """By which cases are sorted: the ratio to the first engine that has one."""
    return next((case["ratios"][w]["hot"]["median"] for w in ways if w in case["ratios"]), 1.0)


def _title(record: Json) -> str:
    machine, threads = record["machine"], record["settings"]["threads"]
    noisy = any(c["rounds"]["hot"]["noisy"] for c in record["cases"] if c.get("rounds"))
    text = f"{machine['target']}, {threads} thread{'s' * (threads != 1)}, {record['date']}"
    return text + ("; hatched: noisy" if noisy else "")


def _library() -> Any:
    """matplotlib's Figure, drawn without a screen."""
    try:
        return importlib.import_module("matplotlib.figure").Figure
    except ImportError as e:
        raise NaruError(
            f"matplotlib cannot be imported ({e})", hint="pip install 'naru[bench]'"
        ) from None
