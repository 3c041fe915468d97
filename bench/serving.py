"""Measures `naru serve` against MLServer, Triton's Python backend, and the least that a server can
do.

    python bench/serving.py                  writes a record and docs/serving-speed.md
    python bench/serving.py --rounds 1       a look; writes nothing

Then `naru serve` alone, under load (bench/serving_load.py).

All serve the digit MLP (64-200-10) in one process each; wrk asks with JSON, and naru with raw
tensors too, over 1 and over 16 connections. In a round each is asked in turn, so that a disturbance
of the machine meets all; a ratio is naru's requests a second by the other's in the same round,
above 1 naru is faster. `make bench-serving` makes the environments that the others need.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import serving_load
import serving_rivals as rivals
from cases import ROOT

from naru.bench.machine import commit, traits
from naru.bench.record import write_record
from naru.cli.printing import make_table, print_table

RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "serving-speed.md"
SCHEMA = 2  # 2: with `load`
SERVERS: Mapping[str, Callable[[Path], Any]] = {
    "naru": rivals.naru, "bare": rivals.bare, "Triton": rivals.triton, "MLServer": rivals.mlserver,
}  # fmt: skip
CONNECTIONS = (1, 16)
SECONDS = 2
ROUNDS = 7
AIMS = {"bare": 0.7, "Triton": 1.2, "MLServer": 10.0}  # naru's by the other's, 16 connections

_LUA = """
wrk.method = "POST"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
wrk.headers["Content-Type"] = "{media}"
{more}
"""

Record = dict[str, Any]


def write_bodies(folder: Path) -> dict[str, Path]:
    """wrk's scripts: a request in JSON, and the same with a raw tensor, in and out."""
    asked: Any = rivals.one_image()
    text = json.dumps(asked).encode()
    array = np.array(asked["inputs"][0]["data"], np.float32)
    head: Any = {"inputs": [{**asked["inputs"][0], "parameters": {"binary_data_size": 256}}]}
    del head["inputs"][0]["data"]
    head["parameters"] = {"binary_data_output": True}
    raw = json.dumps(head).encode()
    bodies = {
        "JSON": (text, "application/json", ""),
        "binary": (
            raw + array.tobytes(),
            "application/octet-stream",
            f'wrk.headers["Inference-Header-Content-Length"] = "{len(raw)}"',
        ),
    }
    scripts: dict[str, Path] = {}
    for name, (body, media, more) in bodies.items():
        (folder / f"{name}.body").write_bytes(body)
        scripts[name] = folder / f"{name}.lua"
        lua = _LUA.format(body=folder / f"{name}.body", media=media, more=more)
        scripts[name].write_text(lua)
    return scripts


def load(url: str, script: Path, connections: int) -> dict[str, float]:
    """Requests a second, and the median and 99th percentile of latency in microseconds."""
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", "-s", str(script),
         f"{url}/v2/models/{rivals.MODEL}/infer"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise RuntimeError(f"not all requests were answered:\n{done.stdout}")
    found = {p: _microseconds(done.stdout, p) for p in ("50%", "99%")}
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    assert rate, done.stdout
    return {"rate": float(rate[1]), "p50": found["50%"], "p99": found["99%"]}


def _microseconds(text: str, percentile: str) -> float:
    found = re.search(rf"{percentile}\s+([\d.]+)(us|ms|s)\b", text)
    assert found, text
    return float(found[1]) * {"us": 1.0, "ms": 1e3, "s": 1e6}[found[2]]


def measure(rounds: int) -> Record:
    """Everything, in rounds."""
    found: dict[str, list[dict[str, float]]] = {}
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        scripts = write_bodies(work)
        urls: dict[str, str] = {}
        for name, start in SERVERS.items():
            (work / name).mkdir()
            urls[name] = stack.enter_context(start(work / name))
        ways = [(name, "JSON") for name in urls] + [("naru", "binary")]
        for connections in CONNECTIONS:
            for k in range(rounds + 1):
                for name, form in ways:
                    one = load(urls[name], scripts[form], connections)
                    if k:  # the first warms up
                        found.setdefault(f"{name}.{form}.{connections}", []).append(one)
                print(f"{connections} connections, round {k} of {rounds}", file=sys.stderr)
    return {
        "schema": SCHEMA,
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "machine": traits(),
        "rounds": rounds,
        "seconds": SECONDS,
        "found": found,
    }


def rows_of(record: Record) -> list[list[str]]:
    """The table: a way a line."""
    rows: list[list[str]] = []
    for key, runs in record["found"].items():
        name, form, connections = key.split(".")
        own = record["found"][f"naru.JSON.{connections}"]
        ratios = sorted(a["rate"] / b["rate"] for a, b in zip(own, runs, strict=True))
        middle = {k: statistics.median(r[k] for r in runs) for k in ("rate", "p50", "p99")}
        rows.append(
            [
                connections, name, form, f"{middle['rate']:,.0f}", f"{middle['p50']:,.0f}",
                f"{middle['p99']:,.0f}", f"{statistics.median(ratios):.2f}",
                f"{ratios[0]:.2f} to {ratios[-1]:.2f}",
            ]
        )  # fmt: skip
    return rows


HEADS = (
    "connections", "server", "request", "requests/s", "p50 us", "p99 us", "naru's/its", "range",
)  # fmt: skip


HEAD = """The digit MLP (64-200-10) behind `naru serve`; behind the least that a Python server can
do (`bench/serving_bare.py`: it parses the same JSON, multiplies, and checks nothing); in Triton
2.51 with its Python backend; and in MLServer 1.7.1. One process each, asked by wrk on one machine:
{cpu} ({target}, {cores} cores, {system}), {date}. `make bench-serving` measures anew.

*naru's/its*: requests a second of naru with JSON by the other's in the same round, the median of
{rounds} rounds of {seconds} s; above 1 naru is faster."""


LOAD = """## Whole networks

Images of 224 x 224 as raw tensors over {connections} connections, against calls of the same model
in a Python process by as many threads as do best there; rounds in turn. Clients run on the same
{cores} cores and take what the last column says, mostly to send the tensors.

{networks}

## Latency at half load

Requests at random times, half as many as the server answers at most; latencies from the time at
which a request was to be sent. Where an answer takes less than a millisecond the server's thread
and the clients are kept on a core each; the bare server shows what this machine's tail is then.

{latencies}

## Overload

JPEG images for MobileNetV2, {times} times more than it can look at, at random times over 1,024
connections, from a process on the same {cores} cores:

{overload}
"""


def write_page(record: Record) -> None:
    """docs/serving-speed.md."""
    machine, load = record["machine"], record["load"]
    head = HEAD.format(
        **{k: machine[k] for k in ("cpu", "target", "cores", "system")},
        **{k: record[k] for k in ("date", "rounds", "seconds")},
    )
    table = as_table(HEADS, rows_of(record), "r" + "ll" + "r" * 5)
    rest = LOAD.format(
        connections=serving_load.CONNECTIONS,
        cores=machine["cores"],
        times=serving_load.OVERLOAD,
        networks=as_table(serving_load.NETWORK_HEADS, serving_load.network_rows(load), "lrrrrr"),
        latencies=as_table(serving_load.HALF_HEADS, serving_load.half_rows(load), "lrrrr"),
        overload="\n".join(f"- {line}" for line in serving_load.overload_lines(load)),
    )
    note = "<!-- Written by `python bench/serving.py`. -->"
    text = f"# Speed of serving\n\n{note}\n\n{head}\n\n{table}\n\n{rest}"
    PAGE.write_text(text, encoding="utf-8")


def as_table(heads: Sequence[str], rows: Sequence[Sequence[str]], sides: str) -> str:
    """A table of Markdown; a side is `l` or `r`."""
    rule = ["---" if side == "l" else "---:" for side in sides]
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, rule, *rows))


def show(
    title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]
) -> None:
    """A table for people."""
    table = make_table(title, heads, right=tuple(right))
    for row in rows:
        table.add_row(*row)
    print_table(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    if shutil.which("wrk") is None:
        print("wrk is missing: make bench-serving installs it", file=sys.stderr)
        return 1
    seconds = serving_load.OVERLOAD_SECONDS if rounds == ROUNDS else 10
    load = serving_load.measure(seconds)
    record = {**measure(rounds), "load": load}
    show("requests a second", HEADS, rows_of(record), (0, 3, 4, 5, 6, 7))
    numbers = (1, 2, 3, 4)
    show(
        "whole networks", serving_load.NETWORK_HEADS, serving_load.network_rows(load), (*numbers, 5)
    )
    show("latency at half load", serving_load.HALF_HEADS, serving_load.half_rows(load), numbers)
    print("\n".join(["overload", *serving_load.overload_lines(load)]))
    for name, aim in AIMS.items():
        own, its = record["found"]["naru.JSON.16"], record["found"][f"{name}.JSON.16"]
        ratio = statistics.median(a["rate"] / b["rate"] for a, b in zip(own, its, strict=True))
        if ratio < aim:
            print(f"missed: {ratio:.2f} times {name}, aim {aim}")
    for line in serving_load.missed(load):
        print(f"missed: {line}")
    if rounds == ROUNDS:
        machine = record["machine"]
        name = f"{record['date']}-serving-{machine['target']}-{machine['cores']}.json"
        write_record(RESULTS / name, record)
        write_page(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
