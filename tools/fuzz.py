"""Fuzzes operators and graphs, and prints a table: numpy's meaning, compiled code and ONNX Runtime
on cases drawn at random. Then fuzzes a server, and prints how its answers were.

    python tools/fuzz.py                      200 cases an operator, 2,000 graphs, 20,000
                                              connections to a server of each kind (hours)
    python tools/fuzz.py -k 'Conv|Pool' --cases 50 --graphs 0 --serving 0
    python tools/fuzz.py -k ' ' --graphs 0 --first 100000         only a server, other cases
    python tools/fuzz.py --every 5            compiles every fifth case only

Cases are numbered and drawn from their numbers, so that each can be run again by itself. Exit
status 1 where a result is wrong.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.fuzz.driver import Found, fuzz, report
from tests.fuzz.operators import NAMES

SERVING = ("serve_http", "serve_bytes", "serve_grpc")
COLUMNS = ("right", "alone", "different", "refused", "invalid")
HEADS = ("right", "no ORT", "different", "refused", "invalid", "wrong")


def row(name: str, found: Found) -> str:
    """A line of the table: the outcomes by kind."""
    kinds: Counter[str] = Counter()
    for outcome, count in found.outcomes.items():
        kinds[outcome.partition(":")[0]] += count
    numbers = [*(kinds[k] for k in COLUMNS), len(found.failures)]
    return f"{name:36}" + "".join(f"{n:10,}" for n in numbers)


def kinds(name: str, found: Found) -> str:
    """The outcomes of a server's cases, the most frequent first."""
    listed = ", ".join(f"{n:,} {kind}" for kind, n in found.outcomes.most_common())
    return f"{name:12} {listed or 'none'}; {len(found.failures)} wrong"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-k", default="", help="only operators whose names match this expression")
    parser.add_argument("--cases", type=int, default=200, help="of an operator (default: 200)")
    parser.add_argument("--graphs", type=int, default=2000, help="graphs (default: 2,000)")
    parser.add_argument(
        "--serving", type=int, default=20_000, help="cases of a server, by kind (default: 20,000)"
    )
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--every", type=int, default=1, help="compile every so many cases")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    args = parser.parse_args()
    os.environ["NARU_FUZZ_COMPILE_OPERATORS_EVERY"] = str(args.every)
    wanted = [(f"op:{n}", args.cases) for n in NAMES if re.search(args.k, n)]
    part = -(-args.graphs // args.jobs)
    spans = [(t, args.first, args.first + n) for t, n in wanted]
    spans += [("graphs", args.first + k, args.first + min(k + part, args.graphs))
              for k in range(0, args.graphs, part or 1)]  # fmt: skip
    if args.serving:
        spans += [(t, args.first, args.first + args.serving) for t in SERVING]
    print(f"{'':36}" + "".join(f"{h:>10}" for h in HEADS), flush=True)
    wrong = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        for (target, _, _), found in zip(
            spans, pool.map(lambda s: fuzz(*s, most=50), spans), strict=True
        ):
            shown = kinds if target in SERVING else row
            print(shown(target.removeprefix("op:"), found), flush=True)
            if found.failures:
                wrong += len(found.failures)
                print(report(target, found), flush=True)
    print(f"{wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
