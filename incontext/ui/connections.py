"""Connections to the page's server that nobody can hold open for nothing: time limits, and room for the next visitor.

Uvicorn waits for ever for the rest of a request's head, and has no end of connections. Refuses to know the page.
"""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

MOST_CONNECTIONS: Final = 512  # open at once; a page needs about six
HEAD_SECONDS: Final = 10.0  # for all of a request before its body
TAKING_SECONDS: Final = 60.0  # for the other side to take some of what is waiting for it


class Connection(H11Protocol):
    """One connection. While there are too many, the one that has waited longest for a request is closed."""

    _late: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._watch()
        if len(self.connections) > MOST_CONNECTIONS:
            waiting = [each for each in self.connections if isinstance(each, Connection) and each.is_waiting]
            min(waiting, key=lambda each: each._since, default=self).close()  # noqa: SLF001  of the same class

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        for timer in (self._late, self._stuck):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what was sent, and give the request that is coming its time."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Note that the other side does not take what is sent."""
        super().pause_writing()
        self._stuck = self.loop.call_later(TAKING_SECONDS, self.close)

    def resume_writing(self) -> None:
        """Note that the other side takes it again."""
        if self._stuck is not None:
            self._stuck.cancel()
        super().resume_writing()

    @property
    def is_waiting(self) -> bool:
        """Whether nothing is being answered: the next request has not come, or not all of its head."""
        cycle: RequestResponseCycle | None = vars(self).get("cycle")
        return cycle is None or cycle.response_complete

    def close(self) -> None:
        """End it at once, whatever is still to be sent."""
        self.connections.discard(self)
        self.transport.abort()

    def _watch(self) -> None:
        """Give the request that is coming its time, which further bytes of it do not prolong."""
        if not self.is_waiting and self._late is not None:
            self._late.cancel()
            self._late = None
        elif self.is_waiting and self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self._end_if_waiting)

    def _end_if_waiting(self) -> None:
        self._late = None
        if self.is_waiting:
            self.close()
