"""An explanation as lines of at most 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from naru.artifact.bundle import Bundle
from naru.artifact.formulas import arena_bytes
from naru.explain.report import Explanation, Row
from naru.roofs import Roofs
from naru.units import format_bytes

WIDTH = 100
BAR = 20  # characters for all of the time
FURTHEST = 5  # kernels listed as furthest from their roofs
WORTH_NAMING = 0.01  # of the total: a smaller gain is not listed

# How rows may be ordered; the biggest first, except for the order of the run.
ORDERS: Mapping[str, Callable[[Row], float]] = {
    "time": lambda r: -r.ns,
    "order": lambda r: 0.0,
    "above": lambda r: -r.above,
    "share": lambda r: 2.0 if r.share is None else r.share,
    "predicted": lambda r: -float(r.predicted or 0),
    "size": lambda r: -float(r.record.get("size", 0)),
}

_SHORT = {"compute": "fma", "tiles": "amx", "memory": "mem"}


def time_text(ns: float) -> str:
    """`38.7 us`, `112.5 ms`."""
    for unit, size in (("s", 1e9), ("ms", 1e6)):
        if ns >= size:
            return f"{ns / size:.1f} {unit}"
    return f"{ns / 1e3:.1f} us"


def shorten(text: str, width: int) -> str:
    """The text, or its beginning with an ellipsis."""
    return text if len(text) <= width else text[: width - 1] + "…"


def wrap(head: str, text: str) -> list[str]:
    """Lines that start with `head`, or with as many blanks."""
    blank = " " * len(head)
    return textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=blank) or [head]


# ---- what it is ----


def heading(bundle: Bundle, found: Explanation) -> list[str]:
    """Target, interface, sections, memory."""
    manifest, entry = bundle.manifest, bundle.entries[0]
    lines = [f"target    {manifest['target']['name']}, naru {manifest.get('naru', '?')}"]
    for head, tensors in (("inputs", entry.inputs), ("outputs", entry.outputs)):
        lines += wrap(f"{head:9} ", ", ".join(map(str, tensors)))
    sizes = (f"{s.name} {format_bytes(s.size)}" for s in bundle.sections.values())
    lines += wrap("sections  ", ", ".join(sizes))
    total = arena_bytes(manifest.get("memory", {}), found.sizes)
    if total is not None:
        lines.append(f"memory    arena of this run: {format_bytes(total)}{_at(found.sizes)}")
    return lines


def memory_formulas(memory: Mapping[str, Any]) -> list[str]:
    """Sizes over the symbols, as the manifest has them."""
    lines: list[str] = []
    for name, text in memory.items():
        if isinstance(text, str):
            lines += wrap("memory    ", f"{name} = {text} bytes")
        else:
            for part, formula in text.items():
                lines += wrap("            ", f"{part} = {formula}")
    return lines


def _at(sizes: Mapping[str, int]) -> str:
    return "".join(f", {name} = {size}" for name, size in sizes.items())


# ---- where the time goes ----


def summary(found: Explanation) -> list[str]:
    """The total, and what it is made of."""
    if found.roofs is None or not found.ns:
        lines = [f"predicted {time_text(found.predicted)} on one core{_at(found.sizes)}"]
        return lines + ([f"no times: {found.untimed}"] if found.untimed else [])
    return [
        *_totals(found),
        *_roof_lines(found.roofs),
        "",
        "where the time goes",
        *_by_kind(found),
        *_furthest(found),
    ]


def _totals(found: Explanation) -> list[str]:
    flops = sum(r.measured.flops or 0 for r in found.rows if r.measured)
    at_roof = sum(r.bound.ns for r in found.rows if r.bound)
    on = "one thread" if found.threads == 1 else f"up to {found.threads} threads"
    text = f"{time_text(found.ns)} on {on}{_at(found.sizes)}"
    text += f"; predicted {time_text(found.predicted)}"
    text += f"; {flops / found.ns:.1f} GFLOP/s, {at_roof / found.ns:.0%} of the roof"
    text += "" if found.threads == 1 else " of one core"
    return wrap("measured  ", text)


def _roof_lines(roofs: Roofs) -> list[str]:
    rates = ", ".join(f"{x.name} {x.rate:.0f}" for x in roofs.levels)
    text = f"{roofs.gflops:.0f} GFLOP/s (fp32, {roofs.isa}); reads {rates} GB/s"
    return wrap("roofs     ", text)


def _by_kind(found: Explanation) -> list[str]:
    kinds: dict[str, list[Row]] = {}
    for r in found.rows:
        if r.measured:
            kinds.setdefault(r.kind, []).append(r)
    totals = sorted(((sum(r.ns for r in rows), k, rows) for k, rows in kinds.items()), reverse=True)
    return [
        f"  {kind:15} {_steps_text(sum(r.measured.calls for r in rows if r.measured))} "
        f"{time_text(ns):>10} {ns / found.ns:5.0%}  {'█' * round(BAR * ns / found.ns)}".rstrip()
        for ns, kind, rows in totals
    ]


def _steps_text(n: int) -> str:
    return f"{n:4} {'step' if n == 1 else 'steps':5}"


def _furthest(found: Explanation) -> list[str]:
    rows = sorted(found.rows, key=lambda r: -r.above)[:FURTHEST]
    rows = [r for r in rows if r.above > WORTH_NAMING * found.ns]
    if not rows:
        return []
    lines = ["furthest from the roof"]
    for r in rows:
        share = f"{r.share or 0:.0%} of {r.bound.by if r.bound else ''}"
        text = f"  {shorten(r.name, 24):24} {time_text(r.above):>10} could go, {share:15} "
        lines.append(shorten(text + _nodes_text(r), WIDTH).rstrip())
    return lines


def _nodes_text(r: Row) -> str:
    return ", ".join(f"{name} ({operator})" if operator else name for name, operator in r.nodes)


# ---- the table ----

_HEADS = (
    ("kernel", -18), ("n", 2), ("with", -10), ("shape", -15), ("us", 8), ("%", 3),
    ("predicted", 9), ("GFLOP/s", 7), ("GB/s", 5), ("roof", 4), ("by", 3), ("code", 5),
)  # fmt: skip


def table(rows: Sequence[Row], found: Explanation) -> list[str]:
    """A line a row. `with` is what is fused to the op that names the kernel; `roof` the share of
    the bound `by` which the machine sets."""
    title = f"{len(rows)} kernel{'s' * (len(rows) != 1)}"
    return [title, _line([head for head, _ in _HEADS]), *(_line(_cells(r, found)) for r in rows)]


def _line(cells: Sequence[str]) -> str:
    padded = (
        f"{shorten(text, -width):{-width}}" if width < 0 else f"{text:>{width}}"
        for text, (_, width) in zip(cells, _HEADS, strict=True)
    )
    return " ".join(padded).rstrip()


def _cells(r: Row, found: Explanation) -> list[str]:
    m = r.measured
    rates = (m.gflops, m.gigabytes_per_second) if m else (None, None)
    return [
        r.name,
        str(m.calls if m else r.record.get("calls", "")),
        "+".join(_companions(r)),
        str(r.record.get("shape", "")),
        f"{m.ns / 1e3:.1f}" if m else "",
        f"{100 * m.ns / found.ns:.0f}" if m and found.ns else "",
        "" if r.predicted is None else f"{r.predicted / 1e3:.1f}",
        *(f"{rate:.1f}" if rate else "" for rate in rates),
        "" if r.share is None else f"{r.share:.0%}",
        _SHORT.get(r.bound.by, r.bound.by) if r.bound and m else "",
        f"{r.record['size'] / 1024:.1f}K" if "size" in r.record else "",
    ]


def _companions(r: Row) -> list[str]:
    """The ops besides the one that the kernel's name has."""
    ops = [str(op) for op in r.record.get("ops", ())]
    named = next((op for op in ops if r.name.endswith(f"_{op}")), None)
    if named:
        ops.remove(named)
    return ops


# ---- one kernel ----


def details(r: Row) -> list[str]:
    """All that is known of a row."""
    lines = ["", r.name]
    for name, operator in r.nodes:
        lines += wrap("  node      ", f"{name} ({operator})" if operator else name)
    lines += wrap("  ops       ", " ".join(map(str, r.record.get("ops", ()))))
    for reason in r.why:
        lines += wrap("  why       ", reason)
    for key in ("shape", "algorithm", "flops", "bytes", "estimate"):
        if r.record.get(key):
            lines += wrap(f"  {key:9} ", str(r.record[key]))
    if "size" in r.record:
        lines.append(f"  code      {format_bytes(r.record['size'])}")
    lines += _times(r)
    schedule = str(r.record.get("schedule") or "").splitlines()
    return lines + [f"  {'schedule' if k == 0 else '':9} {s}" for k, s in enumerate(schedule)]


def _times(r: Row) -> list[str]:
    lines: list[str] = []
    if r.predicted is not None:
        lines.append(f"  predicted {time_text(r.predicted)} for all calls")
    m = r.measured
    if m is None:
        return lines
    text = f"{time_text(m.ns)} for {m.calls} call{'s' * (m.calls != 1)}"
    if m.gflops:
        text += f", {m.gflops:.1f} GFLOP/s"
    if m.gigabytes_per_second:
        text += f", {m.gigabytes_per_second:.1f} GB/s"
    if r.bound and r.share is not None:
        text += f"; {r.share:.0%} of the roof, {time_text(r.bound.ns)}, set by {r.bound.by}"
    return [*lines, *wrap("  measured  ", text)]
