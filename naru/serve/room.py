"""How much of requests the server holds, so that they never fill the memory."""

from __future__ import annotations

from naru.serve.refusals import OVERLOADED, Refusal


class Room:
    """How many bytes of requests may be held at once, by all protocols together."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0

    def take(self, count: int) -> None:
        """Raises a Refusal where there is no room."""
        if self.held + count > self.limit:
            raise Refusal(
                OVERLOADED,
                f"the server holds {self.held} bytes of other requests already",
                retry_after=1,
            )
        self.held += count

    def give(self, count: int) -> None:
        """The bytes are gone."""
        self.held -= count
