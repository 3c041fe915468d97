"""Every error a user can see: what was expected, what was found, where, and what to try."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

_LONGEST = 200  # of a name that may be mistyped: comparing takes time, and callers send megabytes


def nearest(name: str, known: Iterable[str]) -> str | None:
    """`did you mean 'batch'?` for a name that is nearly one of those known; else None."""
    if len(name) > _LONGEST:
        return None
    names = {k.lower(): k for k in known}
    found = difflib.get_close_matches(name.lower(), names, 1, 0.6)
    return f"did you mean '{names[found[0]]}'?" if found else None


class NaruError(Exception):
    """Base of all errors that naru raises on purpose.

    `where` names the place (file, node, line), `hint` what to try; both are printed too.
    """

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.message, self.where, self.hint = message, where, hint
        text = message
        if where:
            text = f"{where}: {text}"
        if hint:
            text = f"{text}\n  try: {hint}"
        super().__init__(text)


class ModelError(NaruError):
    """The model file is truncated, malformed, inconsistent, or refers to something it may not."""


class UnsupportedError(NaruError):
    """The model is well-formed but uses what naru does not compile yet. Lists every such node."""

    def __init__(self, problems: Sequence[str], *, where: str | None = None) -> None:
        self.problems = tuple(problems)
        count = f"{len(problems)} node" + ("s" if len(problems) != 1 else "")
        super().__init__(f"{count} cannot be compiled:\n  " + "\n  ".join(problems), where=where)


class InputError(NaruError):
    """An array passed to a compiled model has the wrong name, shape or dtype."""


class BundleError(NaruError):
    """A bundle file is damaged, from another version, or cannot be written."""


class TargetError(NaruError):
    """This CPU (or the named target) lacks a feature that the code needs."""


class ScheduleError(NaruError):
    """A schedule step that cannot be applied to this loop nest, with the reason."""


class IRError(NaruError):
    """A form of the program breaks rules of its IR. Lists all violations, each with its node."""

    def __init__(self, problems: Sequence[str], *, where: str | None = None) -> None:
        self.problems = tuple(problems)
        super().__init__("\n  ".join(["the program is not valid:", *problems]), where=where)


class RunError(NaruError):
    """Compiled code reported a failure while running (an index out of range, no memory)."""


class NaruWarning(UserWarning):
    """Something in the user's model that is legal but seldom meant (a NaN among the weights)."""
