"""Runs the onnx package's own tests on naru, with their official runner, and prints the counts.

    python tools/onnx_conformance.py               compare with docs/conformance.md
    python tools/onnx_conformance.py --update      write docs/conformance.md
    python tools/onnx_conformance.py -k resize     only tests whose names match; nothing is compared
    python tools/onnx_conformance.py --onnx 1.17.0 --onnx 1.21.0    the suites of these versions

A suite of another version than the installed one runs in a virtual environment of its own, below
.venv-conformance, which is made when first needed: this checkout's naru with that onnx.

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
import tomllib
import unittest
import warnings
from pathlib import Path

import onnx

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "conformance.md"
KINDS = {
    "OnnxBackendNodeModelTest": "node",
    "OnnxBackendSimpleModelTest": "simple",
    "OnnxBackendPyTorchConvertedModelTest": "pytorch-converted",
    "OnnxBackendPyTorchOperatorModelTest": "pytorch-operator",
    "OnnxBackendRealModelTest": "real",
}
# Of older suites: what a later one, for the same inputs, expects otherwise, and naru with it.
OVERTAKEN = {
    r"/test_cast_FLOAT(16)?_to_U?INT4": "clamps what is beyond; undefined, and later wraps",
    r"/test_averagepool_3d_dilations_large_count_include_pad_is_1_ceil": "corrected later",
    r"/test_qlinearmatmul_\wD_int8": "wraps where the standard, and later the test, saturates",
    r"/test_adam_multiple": "its model lacks attributes that its results are made with",
    r"/test_attention_.*_qk_matmul_(bias|softcap)": "modes 1 and 2 were exchanged later",
}
# Of any suite: why no right result passes.
BEYOND = {
    r"/test_bernoulli": "numbers of another generator are expected",
    r"/test_dft_inverse": "zeros are expected as the suite's own f32 arithmetic had them, 2e-7",
    r"/test_attention_4d_causal_fp16_expanded": "naru's is nearer to the exact result (2.0e-4 off; "
    "what is expected, 2.9e-4)",
    r"/test_loop16_seq_none": "the runner takes the length of a scalar that is in a sequence",
}
HEAD = """# Conformance

<!-- Written by `python tools/onnx_conformance.py --update`. -->

The tests of the ONNX standard come with the onnx package. `make onnx-conformance` runs all of them
through `naru.onnx_backend` with the package's own runner: those of the newest onnx package, and of
two older ones. A test that is skipped counts as failed.

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
    message = message.replace(f"{ROOT}/", "")
    message = message.removeprefix("model: ").replace("1 node cannot be compiled: ", "")
    return (message[:157] + "...") if len(message) > 160 else message


def work(part: int, parts: int, pattern: str) -> None:
    """Prints one line of JSON a test."""
    tests = all_tests()
    names = sorted(n for n in tests if re.search(pattern, n))
    for name in names[part::parts]:
        print(json.dumps([name, run_one(tests[name])]), flush=True)


def python_with(version: str) -> str:
    """The Python of an environment that has this version of onnx; made if need be."""
    if version == onnx.__version__:
        return sys.executable
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    needs = project["dependencies"] + project["optional-dependencies"]["images"]
    needs = [f"onnx=={version}" if re.match(r"onnx\b", n) else n for n in needs]
    folder = ROOT / ".venv-conformance" / version
    python, made = folder / "bin" / "python", folder / "made"
    if not made.is_file() or made.read_text() != "\n".join(needs):
        # Of this Python, as naru's native part in this checkout is.
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *needs], check=True)
        made.write_text("\n".join(needs))
    return str(python)


def run_all(version: str, jobs: int, pattern: str) -> dict[str, str]:
    """Test -> why it failed (empty: it passed), by that many processes."""
    python = python_with(version)
    with tempfile.TemporaryDirectory() as home:  # the suite keeps outputs of its models there
        env = {**os.environ, "ONNX_HOME": home, "PYTHONPATH": str(ROOT)}
        command = [python, __file__, "-k", pattern, "--part"]
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
    return {name: explained(version, name, why) for name, why in sorted(found.items())}


def section(version: str, found: dict[str, str]) -> str:
    """What the page says of a suite: counts and failures."""
    lines = [f"## onnx {version}", "", "| kind | passed | of |", "| --- | --- | --- |"]
    for kind in (*KINDS.values(), "all"):
        some = [why for name, why in found.items() if kind in ("all", name.partition("/")[0])]
        lines.append(f"| {kind} | {sum(not why for why in some):,} | {len(some):,} |")
    failed = {n: why for n, why in found.items() if why}
    lines += ["", f"What fails of onnx {version}, and why:", ""]
    lines += ["| test | reason |", "| --- | --- |"]
    lines += [f"| {n.replace('/test_', '/')} | {_cell(why)} |" for n, why in failed.items()]
    return "\n".join(lines) + "\n"


def sections(text: str) -> dict[str, str]:
    """Version -> its section in a page."""
    parts = re.split(r"^(?=## onnx )", text, flags=re.M)[1:]
    return {part.split()[2]: part.rstrip() + "\n" for part in parts}


def explained(version: str, name: str, why: str) -> str:
    """Why a test failed, by what is known of it; what it said is left out only where a later suite
    contradicts it."""
    if why.startswith("Not equal") and version != onnx.__version__:
        later = next((v for k, v in OVERTAKEN.items() if re.search(k, name)), None)
        if later:
            return f"the suite is overtaken: {later}"
    beyond = next((v for k, v in BEYOND.items() if re.search(k, name)), None)
    return f"{beyond}: {why}" if beyond and why.startswith(("Not equal", "TypeError")) else why


def write_page(new: dict[str, str]) -> None:
    """The page with these sections in place of those it had, the newest suite first."""
    known = sections(PAGE.read_text(encoding="utf-8")) | new
    order = sorted(known, key=lambda v: [int(n) for n in v.split(".")], reverse=True)
    PAGE.write_text(HEAD + "\n".join(known[v] for v in order), encoding="utf-8")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def failures(text: str) -> list[str]:
    """The tests that a page lists as failed."""
    return re.findall(r"^\| ([\w-]+/\S+) \|", text, flags=re.M)


def out_of_date(version: str, text: str, found: dict[str, str]) -> bool:
    """Prints what differs between the failures in a section and those that the page lists."""
    listed = set(failures(sections(PAGE.read_text(encoding="utf-8")).get(version, "")))
    now = set(failures(text))
    for name in sorted(now - listed):
        print(f"fails, and is not listed: {name}: {found[name.replace('/', '/test_', 1)]}")
    for name in sorted(listed - now):
        print(f"listed, and does not fail: {name}")
    if now != listed:
        print(f"{PAGE.name} is out of date: python tools/onnx_conformance.py --update")
    return now != listed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-k", default="", help="only tests whose names match this expression")
    parser.add_argument("--update", action="store_true", help="write docs/conformance.md")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument(
        "--onnx",
        action="append",
        metavar="VERSION",
        help="of this version of onnx (default: the installed one); may be repeated",
    )
    parser.add_argument("--part", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        work(*map(int, args.part.split("/")), args.k)
        return 0
    status = 0
    for version in args.onnx or [onnx.__version__]:
        found = run_all(version, args.jobs, args.k)
        text = section(version, found)
        print(text if args.k else text.partition("\nWhat fails")[0])
        if args.update and not args.k:
            write_page({version: text})
        elif not args.k:
            status |= out_of_date(version, text, found)
    return status


if __name__ == "__main__":
    sys.exit(main())
