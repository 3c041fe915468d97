"""docs/tree-speed.md and its picture, from a record of `trees.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

Record = dict[str, Any]

HEAD = """# Speed of tree ensembles

<!-- Written by `python bench/trees.py`. -->

naru against what else predicts with trees, on {cpu} ({target}, {cores} cores, {system}), {date}.
`make bench-trees` measures anew; how, says the head of `bench/trees.py`. Figures are an engine's
time by naru's in the same round: above 1 naru is faster. In every round each engine predicts
batches of 1, 100 and 10,000 rows, at least 4,096 different ones. *Error*: the largest difference
from what the library predicts itself, in units in the last place.

![Times by naru's](tree-speed.svg)
"""
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")


def write_page(path: Path, record: Record, titles: Mapping[str, str]) -> None:
    """Writes the page."""
    machine = record["machine"]
    parts = [HEAD.format(**{k: machine[k] for k in ("cpu", "target", "cores", "system")},
                         date=record["date"])]  # fmt: skip
    parts += [
        "\n".join(["", f"## {case['about']}", "", *_table(case, titles), ""])
        for case in record["cases"]
    ]
    path.write_text("\n".join(parts), encoding="utf-8")


def _table(case: Record, titles: Mapping[str, str]) -> list[str]:
    engines = [e for e in titles if any(e in run["versions"] for run in case["runs"])]
    others = [e for e in engines if e != "Naru"]
    heads = ["threads", "rows", "naru", *(titles[e] for e in others)]
    lines = [_row(heads), _row(["---:"] * len(heads))]
    for run in case["runs"]:
        for key, seconds in run["seconds"].items():
            name, _, rows = key.partition(".")
            if name == "Naru":
                ratios = (run["faster"].get(f"{e}.{rows}") for e in others)
                lines.append(
                    _row(
                        [
                            run["threads"],
                            f"{int(rows):,}",
                            _time(seconds["median"]),
                            *(f"{r['median']:.1f}" if r else "" for r in ratios),
                        ]
                    )
                )
    run = case["runs"][0]
    errors = [run["errors"].get(e) for e in others]
    own = run["errors"]["Naru"]
    lines.append(_row(["", "error", f"{own:.0f}", *(_error(e) for e in errors)]))
    compiled = [run["compile"].get(e) for e in others]
    seconds = [f"{c:.1f} s" if c else "" for c in compiled]
    lines.append(_row(["", "compile", f"{run['compile']['Naru']:.1f} s", *seconds]))
    reasons = [f"{titles[e]}: {why}." for e, why in run["refused"].items()]
    return [*lines, "", *reasons] if reasons else lines


def _row(cells: list[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def _error(ulps: float | None) -> str:
    return "" if ulps is None else f"{ulps:.0f}" if ulps < 1e4 else f"{ulps:.1e}"


def write_picture(path: Path, record: Record, titles: Mapping[str, str]) -> None:
    """A bar a case and engine, for each batch, one thread."""
    from matplotlib.figure import Figure

    batches = record["settings"]["batches"]
    figure = Figure(figsize=(11, 0.75 * len(record["cases"]) + 1.6), layout="constrained")
    plots = figure.subplots(1, len(batches), sharey=True)
    others = [e for e in titles if e != "Naru"]
    for axes, batch in zip(plots, batches, strict=True):
        for k, engine in enumerate(others):
            shown = [
                (place, run["faster"][f"{engine}.{batch}"]["median"])
                for place, case in enumerate(record["cases"])
                if f"{engine}.{batch}" in (run := case["runs"][0])["faster"]
            ]
            height = 0.8 / len(others)
            places = [p + (k - len(others) / 2 + 0.5) * height for p, _ in shown]
            ratios = [r for _, r in shown]
            axes.barh(places, ratios, height=height, color=COLOURS[k], label=titles[engine])
        axes.axvline(1, color="#333333", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_title(f"{batch:,} row{'s' * (batch > 1)}", fontsize=9, loc="left")
        axes.set_xlabel("time by naru's", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    plots[0].set_yticks(range(len(record["cases"])), [c["name"] for c in record["cases"]])
    plots[0].invert_yaxis()
    handles, labels = plots[0].get_legend_handles_labels()
    seen = dict(zip(labels, handles, strict=True))
    for axes in plots[1:]:
        seen |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(seen.values(), seen, loc="outside lower center", ncols=len(seen), frameon=False)
    figure.savefig(path, metadata={"Date": None})
