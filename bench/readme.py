"""Puts measured figures into README.md, so that it and bench/results cannot disagree.

    python bench/readme.py            fills in the newest complete record
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

from aims import find_case, load_seconds, seconds

from naru.bench.record import read_record, record_files
from naru.bench.report import LABELS, format_seconds

ROOT = Path(__file__).resolve().parent.parent
README, RESULTS = ROOT / "README.md", ROOT / "bench" / "results"
FIGURE = re.compile(r"(<!-- figure:(\w+) -->)(.*?)(<!-- /figure -->)", re.DOTALL)
UNKNOWN = "(not measured yet)"
BASE = "naru.call"
SHOWN = ("onnxruntime.run", "openvino.infer", "torch.call", "inductor.call")

Record = dict[str, Any]


def machine(record: Record) -> str:
    m = record["machine"]
    first = record["cases"][0]["engines"]
    versions = (f"{LABELS[k]} {e['version']}" for k, e in first.items() if not k.startswith("naru"))
    return (
        f"{m['target']}, one core of {m['cpu']}, {m['system']}, {', '.join(versions)}, "
        f"{record['date']}"
    )


def comparison(record: Record) -> str:
    """A Markdown table: every case that was measured, also those in which naru is slower. `~`
    stands before noisy figures."""
    cases = [c for c in record["cases"] if c.get("seconds")]
    ways = [w for w in SHOWN if any(w in c["seconds"] for c in cases)]
    titles = [LABELS[w.partition(".")[0]] for w in ways]
    ratios = ["naru's time / its"] if len(ways) == 1 else [f"naru's / {t}" for t in titles]
    head = ["one thread", "naru", *(x for pair in zip(titles, ratios, strict=True) for x in pair)]
    lines = [_row(head), _row(["---"] + ["---:"] * (len(head) - 1))]
    for case in cases:
        mark = "~" * case["rounds"]["hot"]["noisy"]
        cells = [case["about"], mark + _hot(case, BASE)]
        for way in ways:
            known = way in case["seconds"]
            cells.append(_hot(case, way) if known else "")
            cells.append(f"{case['ratios'][way]['hot']['median']:.2f}" if known else "")
        lines.append(_row(cells))
    return "\n\n" + "\n".join(lines) + "\n\n"


def web(_: Record) -> str:
    """A Markdown table of the newest record of WebAssembly, in Chromium."""
    paths = sorted(RESULTS.glob("*-web-*.json"))
    if not paths:
        return UNKNOWN
    record: Record = json.loads(paths[-1].read_text(encoding="utf-8"))
    head = ["in Chromium", "naru", record["settings"]["against"], "times as fast"]
    its_code = record["cases"][0]["sizes"]["onnxruntime"]["gzip"]
    head += ["two threads", f"code, gzip (its: {its_code / 1e3:,.0f} KB)"]
    lines = [_row(head), _row(["---"] + ["---:"] * (len(head) - 1))]
    for case in record["cases"]:
        found, code = case["in"]["chromium"], case["sizes"]["naru.relaxed"]["gzip"]
        ms = [format_seconds(found["ms"][w] / 1e3) for w in ("naru.relaxed", "onnxruntime")]
        way, threads = found["faster"]["naru.relaxed"], found["faster"].get("naru.threads")
        ratios = [f"{r['median']:.2f}" if r else "" for r in (way, threads)]
        lines.append(_row([case["about"], *ms, *ratios, f"{code / 1e3:.1f} KB"]))
    return "\n\n" + "\n".join(lines) + "\n\n"


def trees(_: Record) -> str:
    """A Markdown table of the newest record of tree ensembles, one thread."""
    paths = sorted(RESULTS.glob("*-trees-*.json"))
    if not paths:
        return UNKNOWN
    record: Record = json.loads(paths[-1].read_text(encoding="utf-8"))
    batches = record["settings"]["batches"]
    heads = [f"{b:,} row{'s' * (b > 1)}" for b in batches]
    lines = [
        _row(["one thread; in brackets how many times as fast as the best of the others", *heads])
    ]
    lines.append(_row(["---"] + ["---:"] * len(batches)))
    for case in record["cases"]:
        run, cells = case["runs"][0], [case["about"]]
        for b in batches:
            others = {w: r["median"] for w, r in run["faster"].items() if w.endswith(f".{b}")}
            best = min(others, key=others.__getitem__)
            time = format_seconds(run["seconds"][f"Naru.{b}"]["median"])
            cells.append(f"{time} ({others[best]:.1f}, {TREES[best.partition('.')[0]]})")
        lines.append(_row(cells))
    return "\n\n" + "\n".join(lines) + "\n\n"


TREES = {
    "LightGBM": "LightGBM", "XGBoost": "XGBoost", "Lleaves": "lleaves", "Tl2cgen": "tl2cgen",
    "OnnxRuntime": "ONNX Runtime",
}  # fmt: skip


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _hot(case: Record, way: str) -> str:
    return format_seconds(case["seconds"][way]["hot"]["median"])


def _time(case: str, way: str) -> Callable[[Record], str]:
    return lambda record: format_seconds(seconds(record, case, way))


def _compile(key: str) -> Callable[[Record], str]:
    return lambda record: format_seconds(find_case(record, "resnet50")["compile"][key])


FIGURES: dict[str, Callable[[Record], str]] = {
    "cnn_before": _time("digits_cnn", "onnxruntime.run"),
    "cnn_after": _time("digits_cnn", BASE),
    "empty_call": _time("empty", BASE),
    "empty_call_before": _time("empty", "onnxruntime.run"),
    "compile_resnet50": _compile("cold"),
    "compile_cached": _compile("cached"),
    "load_resnet50": lambda record: format_seconds(load_seconds(record, "resnet50")),
    "machine": machine,
    "comparison": comparison,
    "web": web,
    "trees": trees,
}


def newest(folder: Path = RESULTS) -> Record | None:
    """The complete record of the latest date; None when there is none."""
    records = [read_record(path) for path in record_files(folder)]
    complete = [r for r in records if r["complete"]]
    return max(complete, key=lambda r: r["date"], default=None)


def filled(text: str, record: Record | None) -> str:
    """The text with every figure as the record says. KeyError for a figure that does not exist."""

    def put(m: re.Match[str]) -> str:
        find = FIGURES[m[2]]
        return f"{m[1]}{UNKNOWN if record is None else find(record)}{m[4]}"

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
