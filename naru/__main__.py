"""The command `naru`, and python -m naru."""

from __future__ import annotations

import sys


def run() -> int:
    """The exit code. Ctrl-C is an answer also while modules are imported."""
    try:
        from naru.cli import main

        return main()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(run())
