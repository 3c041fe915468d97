"""Measures tree ensembles against LightGBM, XGBoost, lleaves, tl2cgen (Treelite), ONNX Runtime.

    python bench/trees.py                     all cases, one thread and two; writes a record,
                                              docs/tree-speed.md and its picture
    python bench/trees.py --only NAMES        some cases, with commas; writes nothing

Every engine is a process of its own; in a round each predicts batches of 1, 100 and 10,000 rows in
turn, at least 4,096 different ones, and many rounds are made. A ratio is an engine's time by naru's
in the same round: above 1 naru is faster. Calls take numpy arrays and give numpy arrays. What the
others compile is kept in the cache folder; how long that took, the record says. `make bench-trees`
makes the environment that they need.
"""

from __future__ import annotations

import argparse
import datetime
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cases import ROOT
from tree_cases import CASES, TreeCase, write_onnx
from tree_engines import BATCHES
from tree_page import write_page, write_picture

from naru.bench.feeds import read_outputs, write_feeds
from naru.bench.machine import commit, traits
from naru.bench.record import write_record
from naru.bench.rounds import Effort, measure_rounds, usable_cores
from naru.bench.worker import Refused, Worker
from naru.cli.printing import make_table, print_table
from naru.compiler import compile_bundle

PYTHON = ROOT / ".venv-trees" / "bin" / "python"  # what the others need, `make bench-trees` made
RESULTS = ROOT / "bench" / "results"
SCHEMA = 1
# class of tree_engines.py -> title
ENGINES = {
    "Naru": "naru", "LightGBM": "LightGBM", "XGBoost": "XGBoost", "Lleaves": "lleaves",
    "Tl2cgen": "tl2cgen", "OnnxRuntime": "ONNX Runtime",
}  # fmt: skip
ONLY = {".txt": ("LightGBM", "Lleaves"), ".json": ("XGBoost",)}
BOTH = ("Naru", "Tl2cgen", "OnnxRuntime")
AIMS = {1: 1.5, 100: 3.0, 10_000: 4.0}  # at least so many times as fast as the best of the others
COMPILE = {"lightgbm_1000x255_28": 2.0, "xgboost_1000x255_28": 2.0}  # seconds
THREADS = (1, 2)
PATIENCE = 180.0  # seconds that an engine gets to compile a model, or to answer otherwise

Record = dict[str, Any]


def prepare(case: TreeCase, folder: Path) -> tuple[Path, np.ndarray, float]:
    """The model's files in a folder, its rows, and seconds that naru compiles."""
    folder.mkdir(parents=True, exist_ok=True)
    model, rows = folder / f"model{case.suffix}", folder / "rows.npy"
    if not rows.exists():  # (the last to be written)
        features = case.train(model)
        write_onnx(model)
        np.save(rows, features)
    start = time.perf_counter()
    compile_bundle(model, cache=False).save(model.with_suffix(".naru"))
    return model, np.load(rows), time.perf_counter() - start


def measure(
    case: TreeCase, folder: Path, threads: int, rounds: int, refused: Mapping[str, str]
) -> Record:
    """All engines' times and ratios for a number of threads; those that were `refused` are not
    asked again."""
    model, rows, compiling = prepare(case, folder)
    cores = usable_cores()[:threads]
    feeds = folder / "feeds.npz"
    write_feeds(feeds, [{"features": rows}])
    workers: dict[str, Worker] = {}
    record: Record = {
        "threads": threads,
        "versions": {},
        "refused": {},
        "compile": {"Naru": compiling},
    }
    outputs: dict[str, np.ndarray] = {}
    try:
        for name in (*BOTH[:1], *ONLY[case.suffix], *BOTH[1:]):
            python = sys.executable if name == "Naru" else str(PYTHON)
            if name in refused:
                continue
            try:
                worker = Worker(
                    f"tree_engines:{name}", threads, cores, python=python, patience=PATIENCE
                )
                workers[name] = worker
                worker.ask("load", files={"model": str(model)}, feeds=str(feeds))
                worker.ask("run", output=str(folder / "output.npz"))
            except Refused as e:
                record["refused"][name] = str(e)
                if name in workers:
                    workers.pop(name).close()
                continue
            record["versions"][name] = worker.version
            outputs[name] = read_outputs(folder / "output.npz")[0].reshape(len(rows), -1)
        turns = {
            f"{name}.{b}": partial(_turn, worker, str(b))
            for name, worker in workers.items()
            for b in BATCHES
        }
        found = measure_rounds(turns, cores, Effort(rounds=rounds, budget=40.0))
    finally:
        for worker in workers.values():
            worker.close()
    for suffix, name in ((".lleaves", "Lleaves"), (".so", "Tl2cgen")):
        seconds = model.with_name(f"{model.with_suffix(suffix).name}.seconds")
        if seconds.exists():
            record["compile"][name] = float(seconds.read_text())
    record["rounds"] = found.as_json()
    record["seconds"] = {way: found.seconds(way) for way in turns}
    record["faster"] = {
        f"{name}.{b}": found.ratio(f"{name}.{b}", f"Naru.{b}")
        for name in workers if name != "Naru" for b in BATCHES
    }  # fmt: skip
    library = outputs[ONLY[case.suffix][0]]
    record["errors"] = {name: _ulps(y, library) for name, y in outputs.items()}
    return record


def _turn(worker: Worker, way: str, seconds: float, cold: bool) -> Mapping[str, Any]:
    return worker.ask("time", way=way, seconds=seconds, cold=cold)


def _ulps(got: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference from what the library predicts, in units in the last place of that."""
    if got.shape != wanted.shape:
        return float("nan")
    difference = np.abs(got.astype(wanted.dtype) - wanted) / np.spacing(np.abs(wanted))
    return float(difference.max())


def show(cases: Sequence[Record]) -> None:
    others = [e for e in ENGINES if e != "Naru" and any(e in r["versions"] for r in runs_of(cases))]
    table = make_table(
        "an engine's time by naru's",
        ("case", "threads", "rows", "naru", *(ENGINES[e] for e in others)),
        right=range(1, 4 + len(others)),
    )
    for case in cases:
        for run in case["runs"]:
            for b in BATCHES:
                ratios = (run["faster"].get(f"{e}.{b}") for e in others)
                table.add_row(
                    case["name"], str(run["threads"]), f"{b:,}",
                    f"{run['seconds'][f'Naru.{b}']['median'] * 1e6:,.1f} us",
                    *(f"{r['median']:.2f}" if r else "" for r in ratios),
                )  # fmt: skip
    print_table(table)


def runs_of(cases: Sequence[Record]) -> list[Record]:
    return [run for case in cases for run in case["runs"]]


def judge(cases: Sequence[Record]) -> list[Record]:
    """The aims: what was wanted, and what was found."""
    out: list[Record] = []
    for case in cases:
        for run in case["runs"]:
            for b, limit in AIMS.items():
                others = {
                    way: r["median"] for way, r in run["faster"].items() if way.endswith(f".{b}")
                }
                best = min(others, key=others.__getitem__)
                aim = f"{case['name']}, {run['threads']} threads, {b} rows: times as fast as {best}"
                met = others[best] >= limit
                out.append({"aim": aim, "limit": limit, "found": others[best], "met": met})
        if case["name"] in COMPILE:
            seconds = min(run["compile"]["Naru"] for run in case["runs"])
            limit = COMPILE[case["name"]]
            aim = f"{case['name']}: seconds to compile"
            out.append({"aim": aim, "limit": limit, "found": seconds, "met": seconds <= limit})
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description="naru's tree ensembles against others'")
    parser.add_argument("--only", metavar="NAMES", help=f"with commas: {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, help="keeps models and what others compile here")
    given = parser.parse_args()
    if not PYTHON.exists():
        print("the other engines are missing: `make bench-trees` installs them", file=sys.stderr)
        return 2
    names = given.only.split(",") if given.only else list(CASES)
    unknown = [n for n in names if n not in CASES]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(CASES)}", file=sys.stderr)
        return 2
    folder = given.folder or Path(tempfile.mkdtemp())
    cases: list[Record] = []
    try:
        for name in names:
            case = CASES[name]
            runs: list[Record] = []
            for threads in THREADS:
                refused = runs[-1]["refused"] if runs else {}
                runs.append(measure(case, folder / name, threads, given.rounds, refused))
            cases.append({"name": name, "about": case.about, "runs": runs})
            show(cases[-1:])
    finally:
        if not given.folder:
            shutil.rmtree(folder, ignore_errors=True)
    show(cases)
    aims = judge(cases)
    for a in aims:
        if not a["met"]:
            print(f"missed: {a['aim']}: {a['found']:.2f}, aim {a['limit']}")
    if not given.only:
        machine = traits()
        day = datetime.date.today().isoformat()
        record = {
            "schema": SCHEMA, "date": day, "commit": commit(), "machine": machine,
            "settings": {"rounds": given.rounds, "batches": BATCHES}, "cases": cases, "aims": aims,
        }  # fmt: skip
        output = RESULTS / f"{day}-trees-{machine['target']}-{machine['cores']}.json"
        write_record(output, record)
        write_page(ROOT / "docs" / "tree-speed.md", record, ENGINES)
        write_picture(ROOT / "docs" / "tree-speed.svg", record, ENGINES)
        print(f"written: {output.relative_to(ROOT)}, docs/tree-speed.md and its picture")
    return 0


if __name__ == "__main__":
    sys.exit(main())
