"""What a client is told when it does not get an answer: one kind for each way of going wrong, with
the status that each protocol has for it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

from naru.errors import NaruError

log = logging.getLogger("naru.serve")
_MOST_PROBLEMS = 20  # that a message lists


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of refusal: the HTTP status (RFC 9110) and the name of the gRPC status."""

    name: str
    http: int
    grpc: str


INVALID = Kind("invalid argument", 400, "INVALID_ARGUMENT")
UNAUTHENTICATED = Kind("unauthenticated", 401, "UNAUTHENTICATED")
FORBIDDEN = Kind("forbidden", 403, "PERMISSION_DENIED")
NOT_FOUND = Kind("not found", 404, "NOT_FOUND")
NOT_ALLOWED = Kind("method not allowed", 405, "UNIMPLEMENTED")
TOO_SLOW = Kind("request timeout", 408, "DEADLINE_EXCEEDED")
TOO_LARGE = Kind("too large", 413, "RESOURCE_EXHAUSTED")
UNKNOWN_MEDIA = Kind("unsupported media type", 415, "INVALID_ARGUMENT")
UNSUPPORTED = Kind("unsupported", 501, "UNIMPLEMENTED")
UNAVAILABLE = Kind("unavailable", 503, "UNAVAILABLE")
OVERLOADED = Kind("overloaded", 503, "RESOURCE_EXHAUSTED")
EXPIRED = Kind("deadline exceeded", 504, "DEADLINE_EXCEEDED")
CANCELLED = Kind("cancelled", 499, "CANCELLED")  # nobody is there to read it
INTERNAL = Kind("internal error", 500, "INTERNAL")


class Refusal(NaruError):
    """A request that gets no answer, and why. `retry_after`: seconds after which it may succeed."""

    def __init__(
        self, kind: Kind, message: str, *, hint: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind
        self.counted = False  # stands in a model's statistics
        self.closes = False  # the connection: the rest of the request is not read
        self.retry_after = None if retry_after is None else max(1, math.ceil(retry_after))

    @property
    def text(self) -> str:
        """The message for a client, in one line, with what to try."""
        return f"{self.message} (try: {self.hint})" if self.hint else self.message


def joined(problems: Sequence[str]) -> str:
    """Problems as one message, which does not grow with the request."""
    more = len(problems) - _MOST_PROBLEMS
    listed = "; ".join(problems[:_MOST_PROBLEMS])
    return f"{listed}; and {more} more" if more > 0 else listed


def as_refusal(error: Exception) -> Refusal:
    """What the client is told of whatever a model's run raised: naru's own errors say what does not
    fit the model; what nobody expected is logged, and its text stays here."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, NaruError):
        return Refusal(INVALID, error.message, hint=error.hint)
    if isinstance(error, MemoryError):
        return Refusal(UNAVAILABLE, "there is not enough memory for this request", retry_after=1)
    log.error("a run failed unexpectedly", exc_info=error)
    return Refusal(INTERNAL, "the server failed to answer; its log says why")
