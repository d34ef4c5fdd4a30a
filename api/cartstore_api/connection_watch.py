"""How long a connection may take for what it does. Owns the times of one connection.

Nothing is noted while requests are served. The registry looks at all connections about once a second; a look
finds out what each one waits for, and remembers since when. That is cheaper than timers, and exact enough
for limits of seconds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Protocol

from cartstore_api.connection_limits import ConnectionRegistry, Limits
from cartstore_api.problems import ProblemError

BETWEEN, HEAD, BODY = range(3)
"""What of a request the parser reads: nothing of one (the last one is whole), its head, its body."""


def too_late(detail: str) -> ProblemError:
    """What a request is answered that did not come in time."""
    return ProblemError("REQUEST_TIMEOUT", detail)


class Timed(Protocol):
    """A connection, as its watch sees it."""

    transport: asyncio.Transport
    registry: ConnectionRegistry
    limits: Limits
    flow: Any
    cycle: Any
    stage: int
    ended_at: float | None
    timeout_keep_alive: int

    def is_answering(self) -> bool:
        """Whether a whole request is being answered."""

    def body_bytes(self) -> int:
        """Bytes that have come of the body that is being read."""

    def give_up(self, refusal: Exception) -> None:
        """Refuse what is being read."""

    def refuse_body(self, refusal: Exception) -> None:
        """End the request whose body is being read."""


class Watch:
    """Cuts one connection when it takes too long."""

    def __init__(self, connection: Timed, now: float) -> None:
        self._connection: Timed | None = connection
        self.since = now
        """When the connection began to wait for what it waits for: a head, a body, another request."""

        self._phase: tuple[int, Any] = BETWEEN, None
        self._body_samples: deque[tuple[float, int]] = deque()
        self._unsent, self._unsent_since = 0, now

    def forget(self) -> None:
        """The connection is lost."""
        self._connection = None
        self._phase = BETWEEN, None

    def look(self, now: float) -> None:
        """Cut what takes too long. `now`: seconds of the registry's clock."""
        connection = self._connection
        if connection is None:
            return
        unsent = connection.transport.get_write_buffer_size()
        if not unsent or unsent < self._unsent:
            self._unsent_since = now
        self._unsent = unsent
        if unsent and now - self._unsent_since >= connection.limits.answer_seconds:
            connection.registry.note("answer_unread")
            connection.transport.abort()
        elif connection.transport.is_closing():
            pass
        elif connection.ended_at is not None:
            if now - connection.ended_at >= connection.limits.drain_seconds:
                connection.transport.close()
        else:
            self._look_at_request(connection, now)

    def _look_at_request(self, connection: Timed, now: float) -> None:
        stage, cycle, limits = connection.stage, connection.cycle, connection.limits
        # The first head counts from the beginning of the connection, later ones from their own.
        phase = (stage if stage == BODY or cycle is not None else BETWEEN), cycle
        if phase != self._phase:
            self._phase, self.since = phase, now
            self._body_samples.clear()
        if connection.flow.read_paused or connection.is_answering():
            # Whoever waits, it is not for the client.
            self.since = now
            self._body_samples.clear()
        elif stage == BODY:
            self._look_at_body(connection, now)
        elif stage == HEAD:
            if now - self.since >= limits.head_seconds:
                connection.give_up(too_late("The head of the request did not come in time."))
        elif now - self.since >= (limits.head_seconds if cycle is None else connection.timeout_keep_alive):
            if cycle is None:
                connection.registry.note("silent")
            connection.transport.close()

    def _look_at_body(self, connection: Timed, now: float) -> None:
        if getattr(connection.cycle, "waiting_for_100_continue", False):
            return
        samples, window = self._body_samples, connection.limits.body_window_seconds
        received = connection.body_bytes()
        samples.append((now, received))
        while len(samples) > 1 and now - samples[1][0] >= window:
            samples.popleft()
        began, before = samples[0]
        if now - began < window:
            return
        if received - before < window * connection.limits.body_bytes_per_second_min:
            connection.registry.note("request_timeout")
            connection.refuse_body(too_late("The body of the request did not come in time."))
