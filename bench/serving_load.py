"""`naru serve` under load: whole networks against the same model in a process, latency at half of
what it can do, and ten times more requests than it can answer.

Part of `python bench/serving.py`; alone it prints what it finds:

    python bench/serving_load.py [--seconds 10]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import serving_rivals as rivals
from cases import ROOT
from PIL import Image
from serving_rivals import Server

import naru
from models.catalog import MODELS

PIXELS = "mobilenet_v2_pixels"  # MobileNetV2 with its preprocessing: it takes images
JPEG = "jpeg"  # one for that
BARE = "bare"
NETWORKS = {
    "mobilenet_v2": "MobileNetV2, float32", PIXELS: "MobileNetV2, pixels",
    "resnet50": "ResNet-50, float32",
}  # fmt: skip
ROUNDS = 5
ROUND_SECONDS = 3.0
CALLERS = (1, 2, 4)
CONNECTIONS = 4  # of closed loops: enough that no core waits for a client
OVERLOAD = 10
OVERLOAD_SECONDS = 60
HALF_SECONDS = 5

Record = dict[str, Any]


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """`naru serve` of a folder's models, once it is ready."""
    port = rivals.free_port()
    command = [sys.executable, "-m", "naru", "serve", str(folder), "--port", str(port)]
    with rivals.running(command, port, folder.parent) as server:
        yield server


@contextlib.contextmanager
def bare(folder: Path) -> Iterator[Server]:
    """The least that a server can do, in a folder of its own."""
    rivals.write_weights(folder)
    port = rivals.free_port()
    with rivals.running(rivals.bare_command(port), port, folder) as server:
        yield server


def make_models(folder: Path) -> None:
    """The digit MLP, the networks, and MobileNetV2 for images."""
    shutil.copy(rivals.DEMO, folder)
    for name in ("mobilenet_v2", "resnet50"):
        naru.compile(MODELS[name].path()).save(folder / f"{name}.naru")
    pixels = naru.compile(
        MODELS["mobilenet_v2"].path(), preprocess="image(mean=imagenet, std=imagenet)"
    )
    pixels.save(folder / f"{PIXELS}.naru")


# ---- requests ----


DATATYPES = {"float32": "FP32", "uint8": "UINT8"}


def raw_request(array: np.ndarray[Any, Any], name: str) -> tuple[bytes, int]:
    """A body with one raw tensor, in and out, and the length of its JSON."""
    item = {
        "name": name, "shape": list(array.shape), "datatype": DATATYPES[array.dtype.name],
        "parameters": {"binary_data_size": array.nbytes},
    }  # fmt: skip
    head = json.dumps({"inputs": [item], "parameters": {"binary_data_output": True}}).encode()
    return head + array.tobytes(), len(head)


def photograph() -> bytes:
    """A JPEG of 224 x 224 pixels with as much in it as in a photograph."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (28, 28, 3), np.uint8))
    noise = rng.integers(-12, 13, (224, 224, 3))
    large = np.asarray(small.resize((224, 224), Image.Resampling.BICUBIC)) + noise
    target = io.BytesIO()
    Image.fromarray(large.clip(0, 255).astype(np.uint8)).save(target, "JPEG", quality=85)
    return target.getvalue()


@dataclass(frozen=True)
class Ask:
    """A request for a model."""

    model: str
    media: str
    body: bytes
    json_length: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        found = {"Content-Type": self.media}
        if self.json_length is not None:
            found["Inference-Header-Content-Length"] = str(self.json_length)
        return found

    def whole(self) -> bytes:
        """Head and body."""
        lines = [f"POST /v2/models/{self.model}/infer HTTP/1.1", "Host: localhost"]
        lines += [f"{k}: {v}" for k, v in self.headers.items()]
        lines += [f"Content-Length: {len(self.body)}", "", ""]
        return "\r\n".join(lines).encode() + self.body


def image_for(name: str) -> np.ndarray[Any, Any]:
    """What a network takes."""
    if name == PIXELS:
        return np.asarray(Image.open(io.BytesIO(photograph())))
    return np.random.default_rng(0).random((1, 3, 224, 224), np.float32)


def write_asks(folder: Path) -> dict[str, Ask]:
    """The requests by the name of their model; each whole in `NAME.http`."""
    asks = {
        rivals.MODEL: Ask(
            rivals.MODEL, "application/json", json.dumps(rivals.one_image()).encode()
        ),
        JPEG: Ask(PIXELS, "image/jpeg", photograph()),
    }
    for name in NETWORKS:
        body, length = raw_request(image_for(name), "image")
        asks[name] = Ask(name, "application/octet-stream", body, length)
    for name, ask in asks.items():
        (folder / f"{name}.http").write_bytes(ask.whole())
    return asks


# ---- closed loops ----


def by_server(server: Server, ask: Ask, work: Path, connections: int, seconds: float) -> float:
    """Requests a second over some connections, by wrk."""
    (work / "wrk.body").write_bytes(ask.body)
    headers = "\n".join(f'wrk.headers["{k}"] = "{v}"' for k, v in ask.headers.items())
    (work / "wrk.lua").write_text(
        f'wrk.method = "POST"\nlocal f = io.open("{work / "wrk.body"}", "rb")\n'
        f'wrk.body = f:read("*a")\nf:close()\n{headers}\n'
    )
    url = f"http://127.0.0.1:{server.port}/v2/models/{ask.model}/infer"
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s",
         "-s", str(work / "wrk.lua"), url],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise RuntimeError(f"not all requests were answered:\n{done.stdout}")
    return float(done.stdout.split("Requests/sec:")[1].split()[0])


def in_process(model: Callable[..., Any], image: Any, callers: int, seconds: float) -> float:
    """Calls a second by some threads."""
    counts = [0] * callers
    end = time.perf_counter() + seconds

    def call(k: int) -> None:
        while time.perf_counter() < end:
            model(image)
            counts[k] += 1

    start = time.perf_counter()
    threads = [threading.Thread(target=call, args=(k,)) for k in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def measure_networks(server: Server, models: Path, asks: Mapping[str, Ask], work: Path) -> Record:
    """Requests a second of the networks, served and in this process, in turn."""
    found: Record = {}
    for name in NETWORKS:
        image = image_for(name)
        model = naru.load(models / f"{name}.naru")
        # As many callers as do best here: whoever calls a model would find that out too.
        trials = {c: in_process(model, image, c, ROUND_SECONDS) for c in CALLERS}
        callers = max(trials, key=lambda c: trials[c])
        rounds: list[Record] = []
        for k in range(ROUNDS):
            own = in_process(model, image, callers, ROUND_SECONDS)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            served = by_server(server, asks[name], work, CONNECTIONS, ROUND_SECONDS)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            clients = used / ROUND_SECONDS
            rounds.append({"in_process": own, "served": served, "clients": clients})
            print(f"{name}, round {k + 1} of {ROUNDS}", file=sys.stderr)
        found[name] = {"callers": callers, "rounds": rounds}
    return found


# ---- open loops ----


def open_loop(server: Server, work: Path, name: str, **more: Any) -> Record:
    """What bench/open_loop.py finds."""
    given = {"port": server.port, "request": str(work / f"{name}.http"), **more}
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "open_loop.py")],
        input=json.dumps(given), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def measure_half(servers: Mapping[str, Server], asks: Mapping[str, Ask], work: Path) -> Record:
    """Latency at half of what a server can do, each in turn. The small model's servers and clients
    have a core each, as far as there are two: their answers take less than it takes a system to
    find out that two threads are on one core."""
    cores = sorted(os.sched_getaffinity(0))
    found: Record = {}
    for k in range(ROUNDS):
        for name, server in servers.items():
            small = name != JPEG
            ask = asks[rivals.MODEL if small else JPEG]
            most = by_server(server, ask, work, 16, ROUND_SECONDS)
            if small:
                server.pin({cores[0]})
            one = open_loop(
                server, work, rivals.MODEL if small else JPEG, rate=most / 2,
                seconds=HALF_SECONDS, connections=64, seed=k,
                **({"spin": True, "core": cores[-1]} if small else {}),
            )  # fmt: skip
            server.pin(set(cores))
            found.setdefault(name, []).append({"most": most, **one})
            print(f"{name} at half of {most:.0f}/s", file=sys.stderr)
    return found


def measure_overload(server: Server, asks: Mapping[str, Ask], work: Path, seconds: float) -> Record:
    """Ten times more images than MobileNetV2 can look at."""
    most = by_server(server, asks[JPEG], work, CONNECTIONS, 3 * ROUND_SECONDS)
    residents: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            residents.append(server.resident)

    before, used = server.resident, server.busy
    watcher = threading.Thread(target=watch)
    watcher.start()
    found = open_loop(server, work, JPEG, rate=OVERLOAD * most, seconds=seconds, connections=1024)
    used = server.busy - used
    ended.set()
    watcher.join()
    again = by_server(server, asks[JPEG], work, CONNECTIONS, 3 * ROUND_SECONDS)
    return {
        "most": most, "again": again, "before": before, "largest": max(residents),
        "after": server.resident, "server_busy": used / found["took"], **found,
    }  # fmt: skip


def measure(seconds: float = OVERLOAD_SECONDS) -> Record:
    """All of it."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        models = work / "models"
        models.mkdir()
        make_models(models)
        asks = write_asks(work)
        (work / BARE).mkdir()
        with serving(models) as server:
            networks = measure_networks(server, models, asks, work)
            with bare(work / BARE) as least:
                servers = {rivals.MODEL: server, BARE: least, JPEG: server}
                half = measure_half(servers, asks, work)
            overload = measure_overload(server, asks, work, seconds)
        return {"networks": networks, "half": half, "overload": overload}


# ---- what it means ----


NETWORK_HEADS = (
    "network", "calls/s in a process", "requests/s", "ratio", "range", "clients' cores",
)  # fmt: skip
HALF_NAMES = {
    rivals.MODEL: "digit MLP, JSON", BARE: "the same, bare server", JPEG: "MobileNetV2, JPEG",
}  # fmt: skip
HALF_HEADS = ("model", "most requests/s", "p50 us", "p99 us", "p99 / p50")
SHARE, GOODPUT, SPREAD = 0.93, 0.9, 3.0  # aims: of a process, of what it can do alone, p99 by p50


def network_rows(record: Record) -> list[list[str]]:
    """A network a line: calls a second in a process, requests a second served, their ratio."""
    rows: list[list[str]] = []
    for name, found in record["networks"].items():
        rounds = found["rounds"]
        ratios = sorted(r["served"] / r["in_process"] for r in rounds)
        keys = ("in_process", "served", "clients")
        middle = {k: statistics.median(r[k] for r in rounds) for k in keys}
        rows.append(
            [
                NETWORKS[name], f"{middle['in_process']:,.1f}",
                f"{middle['served']:,.1f}", f"{100 * statistics.median(ratios):.0f}%",
                f"{100 * ratios[0]:.0f}% to {100 * ratios[-1]:.0f}%", f"{middle['clients']:.2f}",
            ]
        )  # fmt: skip
    return rows


def half_rows(record: Record) -> list[list[str]]:
    """A model a line: what it can do, and the latency at half of that."""
    rows: list[list[str]] = []
    for name, rounds in record["half"].items():
        p50, p99 = (
            statistics.median(r["status"]["200"][p] for r in rounds) for p in ("p50", "p99")
        )
        most = statistics.median(r["most"] for r in rounds)
        rows.append(
            [HALF_NAMES[name], f"{most:,.0f}", f"{p50:,.0f}", f"{p99:,.0f}", f"{p99 / p50:.1f}"]
        )
    return rows


def overload_lines(record: Record) -> list[str]:
    """What became of ten times too many requests."""
    found = record["overload"]
    good = found["status"].get("200", {"count": 0, "p50": 0.0, "p99": 0.0})
    refused = found["status"].get("503", {"count": 0, "p50": 0.0, "p99": 0.0})
    rate = found["in_time"] / found["seconds"]
    unclean = found["broken"] + found["unanswered"] + sum(found["unclean"].values())
    return [
        f"sent {found['sent'] / found['seconds']:,.0f}/s for {found['seconds']:.0f} s; alone it "
        f"answers {found['most']:,.0f}/s before and {found['again']:,.0f}/s after",
        f"answered {rate:,.0f}/s, {100 * rate / found['most']:.0f}% of that (p50 "
        f"{good['p50'] / 1e3:,.0f} ms, p99 {good['p99'] / 1e3:,.0f} ms: what waits in the queue)",
        f"refused {refused['count']:,} with 503 and Retry-After (p50 "
        f"{refused['p50'] / 1e3:,.1f} ms, p99 {refused['p99'] / 1e3:,.1f} ms); otherwise ended: "
        f"{unclean}",
        f"memory {found['before'] >> 20} MiB before, {found['largest'] >> 20} MiB at most, "
        f"{found['after'] >> 20} MiB after",
        f"processors: the server {found['server_busy']:.2f}, the clients {found['busy']:.2f}",
    ]


def missed(record: Record) -> list[str]:
    """What fell short of its aim."""
    lines: list[str] = []
    for name, found in record["networks"].items():
        share = statistics.median(r["served"] / r["in_process"] for r in found["rounds"])
        if share < SHARE:
            lines.append(f"{name}: {100 * share:.0f}% of a process, aim {100 * SHARE:.0f}%")
    lines += [
        f"{row[0]}: p99 is {row[-1]} times p50 at half load, aim {SPREAD:g}"
        for row in half_rows(record)
        if float(row[-1]) > SPREAD and row[0] != HALF_NAMES[BARE]
    ]
    found = record["overload"]
    good = found["in_time"] / found["seconds"] / found["most"]
    if good < GOODPUT:
        lines.append(f"overload: {100 * good:.0f}% of what it can do, aim {100 * GOODPUT:.0f}%")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=OVERLOAD_SECONDS, help="of the overload")
    record = measure(parser.parse_args().seconds)
    for row in (*network_rows(record), *half_rows(record)):
        print("  ".join(row))
    print("\n".join([*overload_lines(record), *missed(record)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
