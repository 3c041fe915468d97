"""Options of the test run."""

from __future__ import annotations

import signal

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell without job control starts what it runs behind `&` like that; and children inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what the golden tests produced into their files; then read the diff like code",
    )
    parser.addoption(
        "--update-docs",
        action="store_true",
        help="write what the code prints into the pages of docs/; then read the diff like code",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Two processes that write one file would leave half of it."""
    updates = config.getoption("--update-golden") or config.getoption("--update-docs")
    if updates and getattr(config.option, "numprocesses", None):
        raise pytest.UsageError("--update-golden and --update-docs want one process: leave -n out")
