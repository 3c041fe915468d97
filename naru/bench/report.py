"""A record for people: a table of what one model does, tables over many, and reasons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.table import Table

Json = dict[str, Any]

WAYS = {
    "naru.call": "naru",
    "onnxruntime.run": "ONNX Runtime",
    "onnxruntime.io_binding": "ONNX Runtime bound",
    "openvino.infer": "OpenVINO",
    "openvino-default.infer": "OpenVINO default",
    "torch.call": "torch",
    "inductor.call": "Inductor",
}
LABELS = {way.partition(".")[0]: title for way, title in reversed(WAYS.items())}


def way_title(way: str) -> str:
    """`naru@2.call` -> naru, 2 threads."""
    label, _, call = way.partition(".")
    name, _, threads = label.partition("@")
    title = WAYS.get(f"{name}.{call}", f"{name} {call}")
    return f"{title}, {threads} thread{'s' * (threads != '1')}" if threads else title


def format_seconds(seconds: float) -> str:
    """Three digits, and a unit that suits them: 0.123 µs, 12.3 ms, 1.23 s."""
    units = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
    unit, size = next((u for u in units if seconds >= u[1]), units[-1])
    value = seconds / size
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f} {unit}"


def format_ratio(r: Json | None) -> str:
    if not r:
        return ""
    digits = 3 if r["median"] < 0.1 else 2
    low, middle, high = (f"{r[k]:.{digits}f}" for k in ("low", "median", "high"))
    return f"{middle} [{low}, {high}]"


def format_rounds(rounds: Json | None) -> str:
    """Rounds that count, those discarded, and whether the figures are to be trusted."""
    if not rounds:
        return ""
    return f"{rounds['counted']} (-{rounds['discarded']})" + " noisy" * rounds["noisy"]


def tables(record: Json) -> list[Table]:
    """One case in detail; of several an overview of times, and one of the rest."""
    cases = [c for c in record["cases"] if c.get("seconds")]
    if len(cases) == 1:
        return [_detail(cases[0])]
    timed = {r: [c for c in cases if r in c["rounds"]] for r in ("hot", "cold")}
    found = [_times(several, regime) for regime, several in timed.items() if several]
    return [*found, _costs(cases)] if cases else []


def remarks(record: Json) -> list[str]:
    """What the tables do not say: settings, what is missing and why."""
    lines = _settings(record["cases"])
    for c in record["cases"]:
        for label, reason in c["missing"].items():
            lines.append(f"{c['name']}: no {LABELS.get(label, label)}: {reason}")
        if "no_reference" in c:
            lines.append(f"{c['name']}: no errors: {c['no_reference']}")
        for label, error in c.get("errors", {}).items():
            if "problem" in error:
                lines.append(f"{c['name']}: {LABELS.get(label, label)}: {error['problem']}")
    return lines


def _settings(cases: Sequence[Json]) -> list[str]:
    """Of each engine the version and settings, once."""
    lines: dict[str, None] = {}
    for c in cases:
        for label, engine in c["engines"].items():
            settings = ", ".join(f"{k}={v}" for k, v in engine["settings"].items())
            lines[f"{LABELS.get(label, label)} {engine['version']}: {settings}"] = None
    return list(lines)


def _detail(case: Json) -> Table:
    """A row for every way of calling."""
    regimes = list(case["rounds"])
    heads = ["median", "p10", "naru's time / its"]
    if "cold" in regimes:
        heads += ["cold", "naru's / its, cold"]
    heads += ["of roof", "max error", "rms error", "load", "private", "peak"]
    rounds = ", ".join(f"{r} rounds {format_rounds(case['rounds'][r])}" for r in regimes)
    table = _table(f"{case['name']} ({_shapes(case)}): {rounds}; {_compile_text(case)}", "", heads)
    for way, seconds in case["seconds"].items():
        label = way.partition(".")[0]
        ratio = case["ratios"].get(way, {})
        row = [format_seconds(seconds["hot"][k]) for k in ("median", "p10")]
        row.append(format_ratio(ratio.get("hot")))
        if "cold" in regimes:
            row += [_cold(seconds), format_ratio(ratio.get("cold"))]
        row += [_share(case, way), _error(case, label, "max"), _error(case, label, "rms")]
        row += [_load(case, label), *(_memory(case, label, k) for k in ("private", "peak"))]
        table.add_row(way_title(way), *row)
    return table


def _times(cases: Sequence[Json], regime: str) -> Table:
    """Times in a regime, ratios (below 1 naru is faster), share of the roof; a row a case."""
    base, *others = _ways(cases)
    heads = ["naru", *(f"/ {way_title(way)}" for way in others), "of roof", "rounds"]
    table = _table(f"naru's time, and by the others', {regime}", "case", heads)
    for c in cases:
        ratios = (format_ratio(c["ratios"].get(way, {}).get(regime)) for way in others)
        seconds = format_seconds(c["seconds"][base][regime]["median"])
        share = _share(c, base) if regime == "hot" else ""
        table.add_row(c["name"], seconds, *ratios, share, format_rounds(c["rounds"][regime]))
    return table


def _costs(cases: Sequence[Json]) -> Table:
    """Errors, memory and what happens once: naru / each of the others."""
    labels: list[str] = list(dict.fromkeys(k for c in cases for k in c["engines"] if "@" not in k))
    names = " / ".join(LABELS.get(k, k) for k in labels)
    heads = ["rms error", "private", "load", "weights", "compile", "cached", "its peak"]
    table = _table(f"errors, memory and loading: {names}", "case", heads)
    for c in cases:
        compiled = c["compile"]
        table.add_row(
            c["name"],
            " / ".join(_error(c, k, "rms") or "-" for k in labels),
            " / ".join(_memory(c, k, "private") or "-" for k in labels),
            " / ".join(_load(c, k) or "-" for k in labels),
            _bytes(c["bundle"]["weights"]),
            *(format_seconds(compiled[k]) for k in ("cold", "cached")),
            _bytes(compiled["peak"]),
        )
    return table


def _ways(cases: Sequence[Json]) -> list[str]:
    """All ways of all cases, in the order of `WAYS`."""
    found = list(dict.fromkeys(w for c in cases for w in c["seconds"]))
    known = list(WAYS)
    return sorted(found, key=lambda w: known.index(w) if w in known else len(known))


def _shapes(case: Json) -> str:
    return ", ".join(f"{k} {'×'.join(map(str, v)) or 'scalar'}" for k, v in case["shapes"].items())


def _compile_text(case: Json) -> str:
    compiled = case["compile"]
    cold, cached = (format_seconds(compiled[k]) for k in ("cold", "cached"))
    text = f"compiled in {cold}, {cached} cached"
    return f"{text}, peak {_bytes(compiled['peak'])}" if compiled["peak"] else text


def _cold(seconds: Json) -> str:
    return format_seconds(seconds["cold"]["median"]) if "cold" in seconds else ""


def _share(case: Json, way: str) -> str:
    share = case["roof_share"].get(way)
    return f"{share['median']:.0%}" if share else ""


def _error(case: Json, label: str, kind: str) -> str:
    error = case["errors"].get(label, {})
    return f"{error[kind]:.1e}" if kind in error else "wrong" * ("problem" in error)


def _load(case: Json, label: str) -> str:
    load = case["load"].get(label)
    return format_seconds(load["again"] or load["first"]) if load else ""


def _memory(case: Json, label: str, kind: str) -> str:
    return _bytes(case["memory"].get(label, {}).get(kind))


def _table(title: str, first: str, others: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _bytes(count: int | None) -> str:
    if count is None:
        return ""
    mib = count / 2**20
    return f"{mib:.0f} MiB" if mib >= 100 else f"{mib:.1f} MiB"
