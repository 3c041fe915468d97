"""Chromium without a window, driven by Playwright (the extra `browser`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

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


@dataclass
class Opened:
    """A page, what it complained of (breaches of its policy, too), and what it asked for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@contextmanager
def opened(browser: Any, address: str, **context: Any) -> Iterator[Opened]:
    """A page in a context of its own; `context`: Playwright's options for that."""
    made = browser.new_context(**context)
    found = Opened(made.new_page())
    page = found.page
    page.on(
        "console",
        lambda m: found.complaints.append(m.text) if m.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda e: found.complaints.append(str(e)))
    page.on("request", lambda r: found.asked.append(r.url))
    page.goto(address)
    try:
        yield found
    finally:
        made.close()
