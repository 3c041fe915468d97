"""Measures naru's WebAssembly packages against ONNX Runtime Web, in Node and headless Chromium.

    python bench/web.py                      all cases; bench/results/<date>-web-<cores>.json
    python bench/web.py --only resnet50,mlp  some cases; records nothing
    python bench/web.py --in node            one engine of the two; records nothing

A process has naru's package with plain and with relaxed SIMD on one thread, with relaxed SIMD on
two, and ONNX Runtime Web on one. It calls them in turn, each for a moment, for many rounds; a ratio
is ONNX Runtime's time by naru's in the same round: above 1 naru is faster. For two threads it is
naru's own time on one by that on two. Calls take arrays and give arrays. Errors are against double
precision. `make bench-web` installs what it needs.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from cases import ROOT, chosen, make_case

from naru.bench.case import Case, digest_of, model_files
from naru.bench.estimate import median_with_interval
from naru.bench.feeds import write_feeds
from naru.bench.machine import commit, traits
from naru.bench.numerics import errors, reference_outputs
from naru.bench.record import write_record
from naru.bench.rounds import usable_cores
from naru.building import build
from naru.cli.printing import make_table, print_table
from naru.errors import NaruError

WEB = ROOT / "bench" / "web"
ENGINE = WEB / "node_modules" / "onnxruntime-web"
RESULTS = ROOT / "bench" / "results"
CASES = ("mlp_784_200_10", "digits_cnn", "mobilenet_v2", "minilm_l6", "resnet50")
WAYS = {"naru": "m.wasm", "naru.relaxed": "m.relaxed.wasm"}
THREADS = "naru.threads"  # two, compared with one
RIVAL = "onnxruntime"
WHERE = ("node", "chromium")
ROUNDS, TURN = 15, 100  # ms
SECONDS = 900  # that a case may take
SCHEMA = 1

CODE = {"naru": "simd128", "naru.relaxed": "relaxed", THREADS: "relaxed, 2 threads"}
SCALING = 1.7  # of two threads, where a run takes long enough for both
SCALED = ("mobilenet_v2", "minilm_l6", "resnet50")
# At least so many times as fast as ONNX Runtime Web, with plain and with relaxed SIMD, and at most
# so many bytes of code (gzip).
AIMS = {
    "mlp_784_200_10": (2.0, 2.0, 12_000),
    "digits_cnn": (1.0, 1.0, 30_000),
    "mobilenet_v2": (2.0, 2.0, 80_000),
    "minilm_l6": (1.5, 1.65, 100_000),
    "resnet50": (1.5, 1.65, 100_000),
}

Record = dict[str, Any]


# ---- one case ----


def prepare(case: Case, folder: Path, rounds: int, turn: int) -> None:
    """The package, the ONNX file and the inputs, side by side, as rounds.mjs wants them."""
    build(case.model, folder, platform="wasm", isa=("wasm32-simd128", "wasm32-relaxed"), name="m")
    (folder / "model.onnx").write_bytes(case.model.read_bytes())
    sets: list[list[Record]] = []
    for k, feed in enumerate(case.feeds):
        sets.append([])
        for name, array in feed.items():
            file = f"input.{k}.{len(sets[-1])}"
            (folder / file).write_bytes(np.ascontiguousarray(array).tobytes())
            about = {"name": name, "dtype": array.dtype.name, "dims": list(array.shape)}
            sets[-1].append({**about, "file": file})
    work = {"inputs": sets, "rounds": rounds, "turn": turn}
    (folder / "work.json").write_text(json.dumps(work))


def run_node(folder: Path) -> Record:
    """The result of a process of Node."""
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    flags = ["--experimental-wasm-relaxed-simd"] if version.stdout.startswith("v20.") else []
    command = ["node", *flags, str(WEB / "node.mjs"), str(folder)]
    subprocess.run(command, check=True, timeout=SECONDS)
    return json.loads((folder / "result.json").read_text())


class _Handler(SimpleHTTPRequestHandler):
    """Serves the page, ONNX Runtime Web and a package; takes the result."""

    result: dict[str, Any] | None = None
    done = threading.Event()

    def __init__(self, *args: Any, package: Path) -> None:
        self.roots = {"model": package, "ort": ENGINE / "dist"}
        super().__init__(*args)

    def translate_path(self, path: str) -> str:
        root, _, rest = path.split("?")[0].lstrip("/").partition("/")
        return str(self.roots[root] / rest if root in self.roots else WEB / root)

    def end_headers(self) -> None:  # clocks of isolated pages are less coarse
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        _Handler.result = json.loads(self.rfile.read(size))
        self.send_response(204)
        self.end_headers()
        _Handler.done.set()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


_Handler.extensions_map |= {".mjs": "text/javascript", ".wasm": "application/wasm"}


def run_chromium(folder: Path) -> Record:
    """The result of a page in headless Chromium, which needs no driver: the page sends it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, package=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _Handler.done.clear()
    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless=new", "--no-sandbox", "--no-first-run", f"--user-data-dir={profile}"]
        address = f"http://127.0.0.1:{server.server_address[1]}/page.html"
        browser = subprocess.Popen(
            [os.environ.get("CHROMIUM", "chromium"), *flags, address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            if not _Handler.done.wait(SECONDS):
                raise NaruError(f"Chromium gave no result within {SECONDS} s")
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()
            server.server_close()
    found = _Handler.result or {}
    if "problem" in found:
        raise NaruError(f"the page failed: {found['problem']}")
    return found


RUN = {"node": run_node, "chromium": run_chromium}


def reference(case: Case, folder: Path) -> list[np.ndarray]:
    """The outputs in double precision for the first inputs."""
    feeds = folder / "feeds.npz"
    write_feeds(feeds, case.feeds[:1])
    digest = digest_of(model_files(case.model))
    return reference_outputs(case.model, digest, case.feeds[0], feeds, usable_cores())


def summary(found: Record, wanted: Sequence[np.ndarray]) -> Record:
    """Times, ratios and errors of one run of a case."""
    times = found["times"]
    out: Record = {"versions": found["versions"], "ms": {}, "faster": {}, "errors": {}}
    for way, values in times.items():
        out["ms"][way] = float(np.median(values))
        got = [np.array(t["data"], np.float32).reshape(t["dims"]) for t in found["outputs"][way]]
        out["errors"][way] = errors(got, [w.astype(np.float32) for w in wanted])
        against = {RIVAL: None, THREADS: times.get("naru.relaxed")}.get(way, times[RIVAL])
        if against:
            ratios = [a / b for a, b in zip(against, values, strict=True)]
            p10 = float(np.quantile(ratios, 0.1))
            out["faster"][way] = median_with_interval(ratios) | {"p10": p10}
    return out


def sizes(folder: Path) -> Record:
    """Bytes of the code and of the weights, and of ONNX Runtime's code."""
    files = {way: folder / file for way, file in WAYS.items()}
    files |= {"javascript": folder / "m.js", RIVAL: ENGINE / "dist/ort-wasm-simd-threaded.wasm"}
    out: Record = {}
    for name, path in files.items():
        content = path.read_bytes()
        out[name] = {"bytes": len(content), "gzip": len(gzip.compress(content, 9))}
    return out | {"weights": (folder / "m.weights").stat().st_size}


def measure(name: str, where: Sequence[str], rounds: int, turn: int) -> Record:
    with tempfile.TemporaryDirectory() as text:
        scratch = Path(text)
        case, folder = make_case(name, scratch), scratch / "package"
        prepare(case, folder, rounds, turn)
        wanted = reference(case, scratch)
        record: Record = {"name": name, "about": case.about, "sizes": sizes(folder), "in": {}}
        for place in where:
            record["in"][place] = summary(RUN[place](folder), wanted)
        return record


# ---- all cases ----


def show(cases: Sequence[Record]) -> None:
    """The table of times, and that of sizes."""
    table = make_table(
        "times as fast as ONNX Runtime Web on one thread; two threads: as naru on one",
        ("model", "in", "code", "ms", "against", "median", "p10", "rms error", "its error"),
        right=range(3, 9),
    )
    for case in cases:
        for place, found in case["in"].items():
            for way, ratio in found["faster"].items():
                other = "naru.relaxed" if way == THREADS else RIVAL
                error, its = (found["errors"][w].get("rms", float("nan")) for w in (way, other))
                table.add_row(
                    case["name"], place, CODE[way],
                    f"{found['ms'][way]:.3g}", f"{found['ms'][other]:.3g}",
                    f"{ratio['median']:.2f}", f"{ratio['p10']:.2f}", f"{error:.1e}", f"{its:.1e}",
                )  # fmt: skip
    print_table(table)
    names = (*WAYS, "javascript", RIVAL)
    table = make_table("kB of code, gzip", ("model", *names), right=range(1, 5))
    for case in cases:
        table.add_row(case["name"], *(f"{case['sizes'][n]['gzip'] / 1000:.1f}" for n in names))
    print_table(table)


def judge(cases: Sequence[Record]) -> list[Record]:
    """The aims: what was wanted, and what was found."""
    out: list[Record] = []
    for case in cases:
        *least, most = AIMS[case["name"]]
        for place, found in case["in"].items():
            for way, limit in zip(WAYS, least, strict=True):
                if way in found["faster"]:
                    value = found["faster"][way]["median"]
                    aim = f"{case['name']}, {way} in {place}: times as fast"
                    out.append(_aim(aim, limit, value, met=value >= limit))
            if case["name"] in SCALED and THREADS in found["faster"]:
                value = found["faster"][THREADS]["median"]
                aim = f"{case['name']} in {place}: times as fast on two threads as on one"
                out.append(_aim(aim, SCALING, value, met=value >= SCALING))
        value = max(case["sizes"][way]["gzip"] for way in WAYS)
        out.append(_aim(f"{case['name']}: bytes of code", most, value, met=value <= most))
    return out


def _aim(aim: str, limit: float, found: float, *, met: bool) -> Record:
    return {"aim": aim, "limit": limit, "found": round(found, 3), "met": met}


def settings(rounds: int, turn: int) -> Record:
    locked: Mapping[str, Any] = json.loads((ENGINE / "package.json").read_text())
    return {
        "against": f"onnxruntime-web {locked['version']}",
        "threads": [1, 2], "rounds": rounds, "turn_ms": turn,
    }  # fmt: skip


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="naru's WebAssembly against ONNX Runtime Web")
    parser.add_argument("--only", metavar="NAMES", help=f"cases, with commas: {', '.join(CASES)}")
    parser.add_argument("--in", dest="where", choices=WHERE, help="in one of them only")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--turn", type=int, default=TURN, help="ms of a turn")
    return parser.parse_args()


def main() -> int:
    given = parse_arguments()
    if not ENGINE.is_dir():
        print("onnxruntime-web is missing: `make bench-web` installs it", file=sys.stderr)
        return 2
    names = [n for n in chosen(given.only.split(",")) if n in CASES] if given.only else CASES
    where = (given.where,) if given.where else WHERE
    try:
        cases = [measure(name, where, given.rounds, given.turn) for name in names]
    except NaruError as e:
        print(e, file=sys.stderr)
        return 1
    show(cases)
    missed = [a for a in judge(cases) if not a["met"]]
    for a in missed:
        print(f"missed: {a['aim']}: {a['found']}, aim {a['limit']}")
    if not given.only and not given.where:
        machine = traits()
        record = {"schema": SCHEMA, "commit": commit(), "machine": machine} | {
            "settings": settings(given.rounds, given.turn), "cases": cases, "aims": judge(cases),
        }  # fmt: skip
        day = datetime.date.today().isoformat()
        output = RESULTS / f"{day}-web-{machine['cores']}.json"
        write_record(output, {"date": day, **record})
        print(f"written: {output.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
