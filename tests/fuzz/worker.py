"""The process that runs cases, and may crash: python -m tests.fuzz.worker TARGET START END

Prints a line before and after each case; exceptions go with their traceback into that line. Where
a case takes too long, faulthandler prints where it stands and ends the process.

    python -m tests.fuzz.worker onnx 17 18 --save case.onnx     writes case 17 and runs it
    python -m tests.fuzz.worker onnx --file case.onnx           runs a file instead
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path

from .targets import TARGETS, Target

HANG_SECONDS = 15.0  # other jobs run beside the tests
MEMORY = 3 << 30  # bytes of address space beyond what is in use at the start


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def run_case(target: Target, data: bytes, n: int) -> dict[str, object]:
    """{"outcome"} or {"error": traceback}, with the seconds that it took."""
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    start = time.perf_counter()
    try:
        found: dict[str, object] = {"outcome": target.check(data, n)}
    except BaseException as error:
        found = {"error": "".join(traceback.format_exception(error, limit=-12))}
    finally:
        faulthandler.cancel_dump_traceback_later()
    return {**found, "seconds": round(time.perf_counter() - start, 3)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("start", type=int, nargs="?", default=0)
    parser.add_argument("end", type=int, nargs="?", default=1)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--file", type=Path)
    args = parser.parse_args()
    target = TARGETS[args.target]
    if args.file is None:
        target.make(0)  # makes the seeds, so that they count neither as time nor as memory
    faulthandler.enable()
    limit_memory()
    # Results go to a copy of stdout, and stdout to stderr: a case may print.
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for n in range(args.start, args.end):
        data = args.file.read_bytes() if args.file else target.make(n)
        if args.save:
            args.save.write_bytes(data)
        lines.write(json.dumps({"case": n}) + "\n")
        lines.write(json.dumps(run_case(target, data, n)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
