"""naru ops: which operators compile"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from naru.cli.group import as_json_option
from naru.cli.printing import make_table, print_json, print_table, wrap
from naru.errors import InputError, nearest

if TYPE_CHECKING:
    from naru.support import Operator

CLASSES = ("free", "tuned", "vectorised", "scalar", "host")


@click.command("ops")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--domain", metavar="NAME", help="Only this domain: ai.onnx, com.microsoft, …")
@click.option(
    "--class", "speed", type=click.Choice(CLASSES), help="Only with kernels of this class."
)
@click.option("--missing", is_flag=True, help="Only what does not compile, with the reasons.")
@click.option("--own", is_flag=True, help="naru's own ops by kind instead, for who reads the code.")
@as_json_option
def ops_command(
    names: tuple[str, ...],
    domain: str | None,
    speed: str | None,
    missing: bool,
    own: bool,
    as_json: bool,
) -> None:
    """Lists the operators of ONNX and of com.microsoft: versions, element types, speed.

    Each was compiled and run: what is listed agreed with the standard's tests or the numpy meaning.

    \b
      naru ops                       all that compile
      naru ops Conv Gemm             all that is known of these
      naru ops --missing             what does not compile, and why
      naru ops --class scalar        what runs over single elements
      naru ops --domain com.microsoft --json
    """
    if own:
        _print_own(as_json)
        return
    found = _chosen(names, domain, speed)
    if as_json:
        print_json(_as_json(found, missing))
    elif missing:
        _print_missing(found)
    elif names:
        for k, op in enumerate(found):
            click.echo(("\n" if k else "") + "\n".join(_details(op)))
    else:
        _print_table([op for op in found if op.works])


def _chosen(names: Sequence[str], domain: str | None, speed: str | None) -> list[Operator]:
    """The operators that the arguments ask for. InputError for names that there are not."""
    from naru.support import read

    known = read()
    domains = list(dict.fromkeys(d for d, _ in known))
    if domain is not None and domain not in domains:
        raise InputError(f"there is no domain {domain!r}; there are {', '.join(domains)}")
    wanted = {name.lower() for name in names}
    all_names = {name for _, name in known}
    for name in names:
        if name.lower() not in {n.lower() for n in all_names}:
            meant = nearest(name, all_names)
            raise InputError(
                f"there is no operator {name!r}" + (f"; {meant}" if meant else ""),
                hint="naru ops, naru ops --missing",
            )
    return [
        op
        for (where, name), op in known.items()
        if (domain is None or where == domain)
        and (not wanted or name.lower() in wanted)
        and (speed is None or speed in op.classes)
    ]


def _as_json(found: Sequence[Operator], missing: bool) -> dict[str, Any]:
    from naru.support import CLASSES, TARGETS, measured, reason_of

    rows: dict[str, dict[str, Any]] = {}
    for op in found:
        if missing and op.works and not op.why:
            continue
        rows.setdefault(op.domain, {})[op.name] = {
            "works": op.works,
            "versions": op.versions,
            "why": op.why if op.works else op.why or {str(op.newest): reason_of(op)},
            "speed": op.speed,
            "lacks": op.lacks,
            "tests": op.tests,
        }
    return {"measured": measured(), "targets": TARGETS, "classes": CLASSES, "operators": rows}


def _print_table(found: Sequence[Operator]) -> None:
    from naru.support import FAMILIES, dtypes_text, tests_text, versions_text

    for domain in dict.fromkeys(op.domain for op in found):
        some = [op for op in found if op.domain == domain]
        columns = ("operator", "versions", "element types", "speed", "tests")
        table = make_table("", columns, right=(4,))
        for op in some:
            kinds = dtypes_text(op.versions[op.newest])
            speed = " ".join(op.classes)
            table.add_row(op.name, versions_text(op), kinds, speed, tests_text(op))
        click.echo(f"{domain}: {len(some)} operators")
        print_table(table)
    words = "; ".join(f"{word}: {' '.join(members)}" for word, members in FAMILIES.items())
    click.echo(wrap("element types  ", f"of the newest version; {words}"))
    click.echo("versions       in brackets: does not compile, or was not tried")
    click.echo("speed          several where it depends on attributes")
    click.echo("more: naru ops NAME, --missing, --json")


def _details(op: Operator) -> list[str]:
    """Everything that is known of one operator."""
    from naru.support import CLASSES, dtypes_text, measured, reason_of, tests_text

    lines = [f"{op.name} ({op.domain})"]
    for version, some in op.versions.items():
        if some:
            lines.append(wrap(f"  version {version:<4} ", dtypes_text(some)))
        for reason, kinds in op.why.get(version, {}).items():
            lines.append(wrap(f"  version {version:<4} ", f"not {dtypes_text(kinds)}: {reason}"))
    if not op.works:
        return [*lines, *([] if op.why else [f"  {reason_of(op)}"])]
    by_class: dict[tuple[str, ...], list[str]] = {}
    for dtype, classes in op.speed.items():
        by_class.setdefault(classes, []).append(dtype)
    for classes, kinds in by_class.items():
        lines.append(wrap(f"  {'speed':12} ", f"{' or '.join(classes)}: {dtypes_text(kinds)}"))
    lines += [f"  {name:12} {CLASSES[name]}" for name in op.classes]
    lines.append(f"  {'tests':12} {tests_text(op)} of the standard, onnx {measured()['onnx']}")
    where = f"measured on {measured()['target']}; docs/operators.md says what differs elsewhere"
    lines.append(f"  {'targets':12} {where}")
    return [*lines, *(wrap(f"  {'':12} ", f"not {t}: {why}") for t, why in op.lacks.items())]


def _print_missing(found: Sequence[Operator]) -> None:
    """Whole operators first, then element types of versions."""
    from naru.support import UNTESTED, dtypes_text, reason_of

    for domain in dict.fromkeys(op.domain for op in found):
        some = [op for op in found if op.domain == domain and not op.works]
        if some:
            table = make_table("", ("operator", "why"))
            for op in some:
                table.add_row(op.name, reason_of(op))
            click.echo(f"{domain}: {len(some)} operators do not compile")
            print_table(table)
    table = make_table("", ("operator", "version", "element types", "why"), right=(1,))
    untested = 0
    for op in found:
        for version, reasons in op.why.items() if op.works else ():
            for reason, kinds in reasons.items():
                if reason == UNTESTED:
                    untested += len(kinds)
                else:
                    table.add_row(op.name, str(version), dtypes_text(kinds), reason)
    if table.row_count:
        click.echo("of operators that compile otherwise")
        print_table(table)
    if untested:
        click.echo(
            f"and {untested} combinations of version and element type were not tried: --json"
        )


def _print_own(as_json: bool) -> None:
    from naru.ops import evaluate
    from naru.ops.registry import OPS

    _ = evaluate  # importing the package fills the registry
    ops = {name: op.kind for name, op in sorted(OPS.items())}
    if as_json:
        print_json({"ops": ops})
        return
    for kind in sorted(set(ops.values())):
        click.echo(wrap(f"{kind:12} ", " ".join(name for name, k in ops.items() if k == kind)))
