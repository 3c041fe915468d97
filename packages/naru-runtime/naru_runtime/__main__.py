"""The `naru-runtime` command: run, selftest, info.

Exit codes are those of `naru`: 0 done, 1 an error in what was given (one message, no traceback),
2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .artifact.bundle import read_bundle
from .errors import NaruError
from .inputs import read_inputs, write_outputs
from .runtime.session import load
from .version import VERSION


def run(bundle: Path, given: Sequence[str], output: Path | None) -> None:
    """Runs a bundle on arrays from files; writes the outputs, or prints them shortened."""
    model = load(bundle)
    result = model(read_inputs(model.inputs, given))
    names = [o.name for o in model.outputs]
    results = dict(zip(names, result if len(names) > 1 else (result,), strict=True))
    if output is not None:
        write_outputs(output, results)
        return
    with np.printoptions(threshold=20, edgeitems=4, linewidth=100):
        for name, array in results.items():
            print(f"{name}: {array.dtype.name}[{', '.join(map(str, array.shape))}]\n{array}")


def selftest(bundle: Path) -> None:
    """Runs the golden vectors of a bundle and prints how far each output is off."""
    for check in load(bundle).selftest().checks:
        print(f"{check.entry} {check.output}: off by {check.error:.3g}, limit {check.limit:.3g}")
    print("passed")


def info(bundle: Path) -> None:
    """Prints what a bundle says of itself; it need not fit this CPU."""
    found = read_bundle(bundle)
    manifest, main = found.manifest, found.entries[0]
    rows = {
        "made by": f"naru {manifest['naru']}, format {manifest['format']}, ABI {manifest['abi']}",
        "target": manifest["target"]["name"],
        "inputs": ", ".join(map(str, main.inputs)),
        "outputs": ", ".join(map(str, main.outputs)),
        "entries": ", ".join(e.name for e in found.entries),
        "sections": ", ".join(f"{s.name} {s.size} bytes" for s in found.sections.values()),
    }
    for name, value in rows.items():
        print(f"{name:9} {value}")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("naru-runtime", description="Runs bundles made by naru.")
    parser.add_argument("--version", action="version", version=f"naru-runtime {VERSION}")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, about in (
        ("run", "run a bundle on arrays from files"),
        ("selftest", "run the golden vectors of a bundle"),
        ("info", "print what a bundle says of itself"),
    ):
        verbs.add_parser(verb, help=about).add_argument("bundle", type=Path)
    runner = verbs.choices["run"]
    runner.add_argument(
        "-i", "--input", action="append", default=[], metavar="[NAME=]FILE",
        help="an .npy (in the order of the inputs, or by name) or an .npz with names; repeatable",
    )  # fmt: skip
    runner.add_argument("-o", "--output", type=Path, help="an .npz, or an .npy for one output")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line (default: sys.argv) and returns the exit code."""
    given = make_parser().parse_args(args)
    try:
        if given.verb == "run":
            run(given.bundle, given.input, given.output)
        else:
            {"selftest": selftest, "info": info}[given.verb](given.bundle)
    except (NaruError, OSError) as error:
        print(f"naru-runtime: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
