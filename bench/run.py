"""Measures naru against other engines, on the project's cases.

    python bench/run.py                       everything; bench/results/<date>-<target>-<cores>.json
    python bench/run.py --only resnet50,mlp   some cases (also: imports); records nothing
    python bench/run.py --quick               a few short rounds, to see that it works; nothing kept

Each finished case is written at once. A run that was interrupted goes on where it stopped, if code,
settings and machine are the same. docs/benchmarking.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aims import judge
from cases import NAMES, ROOT, chosen, make_case
from imports import measure_imports

from naru.bench.engines import ENGINES
from naru.bench.measure import Settings, measure_case
from naru.bench.plot import check_plot, draw
from naru.bench.record import continues, new_record, read_record, record_files, write_record
from naru.bench.report import format_seconds, remarks, tables
from naru.bench.rounds import Effort, usable_cores
from naru.cli.printing import make_table, print_table
from naru.cli.progress import progress
from naru.errors import NaruError
from naru.options import PRECISIONS

RESULTS = ROOT / "bench" / "results"
# Of 31 cases each at most 2 x 10 s of rounds and about as much for all the rest: a third of an
# hour.
FULL = Effort(rounds=15, budget=10.0, longest=0.1)
QUICK = Effort(rounds=3, budget=2.0, longest=0.05, repeat=1)
IMPORTS = "imports"

Record = dict[str, Any]


def result_file(record: Record) -> Path:
    machine = record["machine"]
    isa, precision = (record["settings"][name] for name in ("isa", "precision"))
    kind = (f"-{isa}" if isa else "") + ("" if precision == "fp32" else f"-{precision}")
    return RESULTS / f"{record['date']}-{machine['target']}{kind}-{machine['cores']}.json"


def unfinished(record: Record) -> Record | None:
    """A record of an interrupted run that this one can go on with."""
    for path in reversed(record_files(RESULTS)):
        old = read_record(path)
        if continues(old, record):
            return old
    return None


def measure(names: Sequence[str], settings: Settings, record: Record, output: Path | None) -> None:
    """Adds the cases that the record lacks, and writes it after each."""
    done = {case["name"] for case in record["cases"]}
    for k, name in enumerate(names, 1):
        if name in done:
            continue
        print(f"{time.strftime('%H:%M:%S')}  {k}/{len(names)} {name}", file=sys.stderr, flush=True)
        record["cases"].append(measure_one(name, settings))
        if output:
            write_record(output, record)


def measure_one(name: str, settings: Settings) -> Record:
    """A case; what it leaves on disk is removed, for a bundle may be large."""
    with tempfile.TemporaryDirectory() as text, progress(f"measuring {name}") as tell:
        folder = Path(text)
        return measure_case(make_case(name, folder), settings, folder, tell)


def finish(record: Record, output: Path | None) -> None:
    """Prints all tables, and writes the finished record with its picture."""
    record |= {"complete": True, "aims": judge(record)}
    for table in tables(record):
        print_table(table)
    if IMPORTS in record:
        table = make_table("once", ("", "median", "least", "most"), right=range(1, 4))
        for name, spread in record[IMPORTS].items():
            figures = (format_seconds(spread[k]) for k in ("median", "least", "most"))
            table.add_row(f"import {name}", *figures)
        print_table(table)
    if record["aims"]:
        table = make_table("aims", ("", "limit", "found", ""), right=(1, 2))
        for aim in record["aims"]:
            met = "met" if aim["met"] else "MISSED"
            table.add_row(aim["aim"], aim["limit"], aim["found"], met)
        print_table(table)
    print("\n".join(remarks(record)))
    if output:
        write_record(output, record)
        draw(record, output.with_suffix(".svg"))
        print(f"written: {output}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="naru against other engines")
    parser.add_argument("--quick", action="store_true", help="short rounds; nothing is recorded")
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAMES",
        help=f"cases, or beginnings of their names, with commas: {IMPORTS}, {', '.join(NAMES)}",
    )
    parser.add_argument(
        "--against", default="onnxruntime,openvino", help=f"of {', '.join(ENGINES)}"
    )
    parser.add_argument(
        "--precision", default="fp32", choices=PRECISIONS, help="naru's class of precision"
    )
    parser.add_argument("--isa", default="", help="target of naru's: this machine's, amx, …")
    parser.add_argument("--threads", type=int, default=1, help="of every engine")
    parser.add_argument(
        "--scaling", type=int, help="naru also with so many threads (default: 2, if there are)"
    )
    parser.add_argument("--budget", type=float, help="seconds of rounds, a case and regime")
    parser.add_argument("--reference", default="float64", help="float64, onnxruntime or none")
    parser.add_argument("--output", type=Path, help="write the record here, whatever was measured")
    return parser.parse_args()


def settings_of(args: argparse.Namespace) -> Settings:
    """NaruError for what does not exist or this machine lacks."""
    against = tuple(name for name in args.against.split(",") if name)
    unknown = set(against) - set(ENGINES)
    if unknown:
        raise NaruError(f"unknown engines: {sorted(unknown)}; there are: {', '.join(ENGINES)}")
    effort = QUICK if args.quick else FULL
    if args.budget is not None:
        effort = replace(effort, budget=args.budget)
    scaling = args.scaling
    if scaling is None and args.threads == 1 and len(usable_cores()) > 1:
        scaling = 2
    settings = Settings(
        against,
        args.threads,
        scaling,
        cold=True,
        precision=args.precision,
        isa=args.isa,
        reference=args.reference,
        effort=effort,
    )
    settings.check()
    return settings


def run(args: argparse.Namespace) -> None:
    settings = settings_of(args)
    texts = ",".join(args.only or [*NAMES, IMPORTS]).split(",")
    names = chosen([text for text in texts if text != IMPORTS])
    record = new_record(settings)
    output: Path | None = args.output
    if not (args.quick or args.only or output):
        record = unfinished(record) or record
        output = result_file(record)
    if output:
        check_plot(output.with_suffix(".svg"))
    measure(names, settings, record, output)
    if IMPORTS in texts:
        record[IMPORTS] = measure_imports(6 * settings.effort.repeat)
    finish(record, output)


def main() -> int:
    try:
        run(parse_arguments())
    except (NaruError, ValueError) as e:
        print(f"bench: error: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
