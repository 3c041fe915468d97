"""Chromium without a window, driven by Playwright (the extra `browser`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

from tests.targets.machine import need


@contextmanager
def chromium() -> Iterator[Any]:
    """The Chromium of the system, as a Playwright browser."""
    playwright_api = import_module("playwright.sync_api")
    with playwright_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(
            executable_path=need("chromium", "chromium"),
            args=["--no-sandbox"],  # containers run as root
        )
        try:
            yield made
        finally:
            made.close()


class Opened(NamedTuple):
    """A page, what it complained of (breaches of its policy, too), and what it asked for."""

    page: Any
    complaints: list[str]
    asked: list[str]


@contextmanager
def opened(browser: Any, address: str, **context: Any) -> Iterator[Opened]:
    """A page in a context of its own; `context`: Playwright's options for that."""
    made = browser.new_context(**context)
    found = Opened(made.new_page(), [], [])

    def hear(message: Any) -> None:
        if message.type in ("error", "warning"):
            found.complaints.append(message.text)

    found.page.on("console", hear)
    found.page.on("pageerror", lambda e: found.complaints.append(str(e)))
    found.page.on("request", lambda r: found.asked.append(r.url))
    found.page.goto(address)
    try:
        yield found
    finally:
        made.close()
