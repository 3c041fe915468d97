"""Runs the onnx package's own tests on naru, with their official runner, and prints the counts.

    python tools/onnx_conformance.py               compare with docs/conformance.md
    python tools/onnx_conformance.py --update      write docs/conformance.md
    python tools/onnx_conformance.py -k resize     only tests whose names match; nothing is compared

Every test for the CPU counts: one that is skipped has failed. Exit status 1 where the list of
failures is not the one in the docs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
import warnings
from pathlib import Path

import onnx

PAGE = Path(__file__).parent.parent / "docs" / "conformance.md"
KINDS = {
    "OnnxBackendNodeModelTest": "node",
    "OnnxBackendSimpleModelTest": "simple",
    "OnnxBackendPyTorchConvertedModelTest": "pytorch-converted",
    "OnnxBackendPyTorchOperatorModelTest": "pytorch-operator",
    "OnnxBackendRealModelTest": "real",
}
HEAD = """# Conformance

<!-- Written by `python tools/onnx_conformance.py --update`. -->

The tests of the ONNX standard come with the onnx package. `make onnx-conformance` runs all of them
through `naru.onnx_backend` with the package's own runner. A test that is skipped counts as failed.

"""


def all_tests() -> dict[str, unittest.TestCase]:
    """`node/test_abs` -> the test, for all tests of the CPU."""
    warnings.simplefilter("ignore")  # of the suite's own making
    from onnx.backend.test import BackendTest

    from naru.onnx_backend import NaruBackend

    found: dict[str, unittest.TestCase] = {}
    for group, case in BackendTest(NaruBackend, __name__).test_cases.items():
        for method in unittest.defaultTestLoader.getTestCaseNames(case):
            if method.endswith("_cpu"):
                found[f"{KINDS[group]}/{method.removesuffix('_cpu')}"] = case(method)
    return found


def run_one(test: unittest.TestCase) -> str:
    """Empty if it passed, else why not."""
    result = unittest.TestResult()
    test.run(result)
    if result.skipped:
        return f"skipped: {result.skipped[0][1]}"
    if result.wasSuccessful():
        return ""
    text = (result.errors or result.failures)[0][1].strip()
    return reason(text)


def reason(trace: str) -> str:
    """The message of a trace in one line."""
    lines = trace.splitlines()
    start = max((k for k, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception)", line)),
                default=len(lines) - 1)  # fmt: skip
    message = " ".join(line.strip() for line in lines[start:] if line.strip())
    message = re.sub(r"^[\w.]*\b(UnsupportedError|ModelError|AssertionError): ?", "", message)
    message = message.removeprefix("model: ").replace("1 node cannot be compiled: ", "")
    return (message[:157] + "...") if len(message) > 160 else message


def work(part: int, parts: int, pattern: str) -> None:
    """Prints one line of JSON a test."""
    tests = all_tests()
    names = sorted(n for n in tests if re.search(pattern, n))
    for name in names[part::parts]:
        print(json.dumps([name, run_one(tests[name])]), flush=True)


def run_all(jobs: int, pattern: str) -> dict[str, str]:
    """Test -> why it failed (empty: it passed), by that many processes."""
    with tempfile.TemporaryDirectory() as home:  # the suite keeps outputs of its models there
        env = {**os.environ, "ONNX_HOME": home}
        command = [sys.executable, __file__, "-k", pattern, "--part"]
        workers = [
            subprocess.Popen([*command, f"{k}/{jobs}"], stdout=subprocess.PIPE, text=True, env=env)
            for k in range(jobs)
        ]
        found: dict[str, str] = {}
        for worker in workers:
            out, _ = worker.communicate()
            if worker.returncode:
                sys.exit(f"a process of the suite ended with status {worker.returncode}")
            found.update(json.loads(line) for line in out.splitlines() if line.startswith("["))
    return dict(sorted(found.items()))


def page(found: dict[str, str]) -> str:
    """The page of the docs: counts and failures."""
    lines = [
        f"Suite of onnx {onnx.__version__}:",
        "",
        "| kind | passed | of |",
        "| --- | --- | --- |",
    ]
    for kind in (*KINDS.values(), "all"):
        some = [why for name, why in found.items() if kind in ("all", name.partition("/")[0])]
        lines.append(f"| {kind} | {sum(not why for why in some):,} | {len(some):,} |")
    failed = {n: why for n, why in found.items() if why}
    lines += ["", "## What fails, and why", "", "| test | reason |", "| --- | --- |"]
    lines += [f"| {n.replace('/test_', '/')} | {_cell(why)} |" for n, why in failed.items()]
    return HEAD + "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def failures(text: str) -> list[str]:
    """The tests that a page lists as failed."""
    return re.findall(r"^\| ([\w-]+/\S+) \|", text, flags=re.M)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-k", default="", help="only tests whose names match this expression")
    parser.add_argument("--update", action="store_true", help="write docs/conformance.md")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        work(*map(int, args.part.split("/")), args.k)
        return 0
    found = run_all(args.jobs, args.k)
    text = page(found)
    if args.k:
        print(text.removeprefix(HEAD))
        return 0
    print(text.removeprefix(HEAD).partition("\n## ")[0])
    if args.update:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    now, listed = set(failures(text)), set(failures(PAGE.read_text(encoding="utf-8")))
    for name in sorted(now - listed):
        print(f"fails, and is not listed: {name}: {found[name.replace('/', '/test_', 1)]}")
    for name in sorted(listed - now):
        print(f"listed, and does not fail: {name}")
    if now != listed:
        print(f"{PAGE.name} is out of date: python tools/onnx_conformance.py --update")
    return int(now != listed)


if __name__ == "__main__":
    sys.exit(main())
