"""Clients of others against `naru serve`: Triton's own, in all that it can ask, its load generator,
and KServe's."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from serve import ask, descriptors, kserve_client, pages, perf
from serve.conformance import Row
from serve.environments import CLIENTS, KSERVE, ROOT, python_of
from serve.servers import Server, naru_server, triton_server
from serve.wire import http, send

from naru.serve.grpc_messages import POOL

Found = Mapping[str, str | None]


def by_client(*arguments: str) -> str:
    """What Python prints in the environment of Triton's client, to which naru is shown too."""
    done = subprocess.run(
        [python_of(CLIENTS), *arguments],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask_everything(**addresses: str) -> dict[str, Found]:
    """What went wrong with each row, by the table's name."""
    arguments = [f"{table}={address}" for table, address in addresses.items()]
    return json.loads(by_client("-m", ask.__name__, *arguments))


def version_of(server: Server) -> str:
    return send(server.http, http("GET", "/v2")).json["version"]


@pytest.mark.clients
def test_tritonclient_gets_what_it_asks(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with naru_server(tmp_path / "models", "--allow-model-control") as server:
        naru, naru_version = ask_everything(**server._asdict(), own=server.grpc), version_of(server)
    with triton_server(tmp_path / "triton") as server:
        triton, triton_version = ask_everything(**server._asdict()), version_of(server)
    for server, tables in (("naru", naru), ("Triton", triton)):
        for table, found in tables.items():
            assert list(found) == [row.name for row in ask.TABLES[table].rows]
            problems = {name: problem for name, problem in found.items() if problem}
            assert problems == {}, f"{server}, {table}"
    for name, title in (("http", "HTTP"), ("grpc", "gRPC")):
        table = ask.TABLES[name]
        others = [f"{server} {version}" for server, version in table.others.items()]
        head = [f"over {title}", f"naru {naru_version}", f"Triton {triton_version}", *others]
        lines = [_line(r, naru[name], triton[name], list(table.others)) for r in table.rows]
        pages.check_part(title, pages.table(head, lines), request)


def _line(row: Row, naru: Found, triton: Found, others: Sequence[str]) -> list[str]:
    measured = [row.others.get(name, "") for name in others]
    return [row.name, naru[row.name] or "yes", triton[row.name] or "yes", *measured]


@pytest.mark.clients
def test_messages_are_those_of_tritonclient(tmp_path: Path) -> None:
    file = descriptor_pb2.FileDescriptorProto()
    POOL.FindFileByName("inference.proto").CopyToProto(file)
    written = tmp_path / "inference.pb"
    written.write_bytes(file.SerializeToString())
    assert by_client(descriptors.__file__, str(written)) == "\n"
    file.message_type[1].field[0].number = 77
    file.service[0].method[0].server_streaming = True
    written.write_bytes(file.SerializeToString())
    first, *_ = lines = by_client(descriptors.__file__, str(written)).splitlines()
    assert (len(lines), first.startswith("the methods are")) == (2, True)


@pytest.mark.clients
@pytest.mark.parametrize("first", ["tritonclient.grpc", "naru.serve.grpc_messages"])
def test_messages_of_both_in_one_process(first: str) -> None:
    program = f"""
import importlib
importlib.import_module("{first}")
from tritonclient.grpc import service_pb2
from naru.serve.grpc_messages import ModelInferRequest
theirs = service_pb2.ModelInferRequest(model_name="dense", raw_input_contents=[b"1"])
print(ModelInferRequest.FromString(theirs.SerializeToString()).model_name)
"""
    assert by_client("-c", program) == "dense\n"


@pytest.mark.clients
def test_kserves_client_gets_what_it_asks(tmp_path: Path) -> None:
    with naru_server(tmp_path / "models") as server:
        done = subprocess.run(
            [python_of(KSERVE), kserve_client.__file__, server.http],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr


# ---- perf_analyzer ----

LOADS: dict[str, tuple[str, list[str]]] = {
    "one and two at once": ("http", ["-m", "dense", "--concurrency-range", "1:2"]),
    "batches": ("http", ["-m", "dense", "-b", "8", "--concurrency-range", "4"]),
    "asynchronous, in JSON": ("http", [
        "-m", "dense", "-a", "--concurrency-range", "4",
        "--input-tensor-format", "json", "--output-tensor-format", "json",
    ]),
    "a rate": ("http", ["-m", "dense", "--request-rate-range", "100"]),
    "several inputs": ("http", [
        "-m", "pair", "--shape", "a:3", "--shape", "b:3", "--shape", "c:3",
        "--concurrency-range", "2",
    ]),
    "texts": ("http", ["-m", "texts", "--shape", "word:2", "--concurrency-range", "2"]),
    "calls": ("grpc", ["-m", "dense", "--concurrency-range", "1:2"]),
    "asynchronous calls": ("grpc", ["-m", "dense", "-a", "-b", "8", "--concurrency-range", "4"]),
    "streams": ("grpc", ["-m", "dense", "--streaming", "--concurrency-range", "4"]),
    "texts in streams": ("grpc", [
        "-m", "texts", "--shape", "word:2", "--streaming", "--concurrency-range", "2",
    ]),
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with naru_server(tmp_path_factory.mktemp("perf") / "models") as found:
        yield found


@pytest.mark.clients
@pytest.mark.parametrize("load", LOADS)
def test_perf_analyzer_runs_through(server: Server, load: str, tmp_path: Path) -> None:
    protocol, options = LOADS[load]
    perf.run_through(protocol, server._asdict()[protocol], options, tmp_path)
