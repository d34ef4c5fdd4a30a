"""Turns: how many hot requests begin in one turn of the event loop.

What the requests of a turn call leaves for the engine in one write at the end of it. A crowd whose requests
all began at once would therefore let the engine stand still until the last of them has made its call, and
then this process until the first one is answered. A share of the crowd in each turn keeps both busy: while
the engine works for one share, the next one is made. Owns the order in which requests begin.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

PARTS: Final = 5
"""Of all whole requests under way, one in so many begins in a turn. Fewer parts leave the engine or this
process waiting; with more of them a turn costs more than it does (docs/decisions/0007-wire.md)."""

AT_ONCE_MIN: Final = 8
"""Requests that begin in a turn however few are under way."""


class Waiting(Protocol):
    """A request that may have to wait for its turn."""

    def begin(self) -> bool:
        """Its turn has come. Whether it has begun; if so, `Turns.end` is to be called once it has ended."""


class Turns:
    """Lets whole requests begin, in the order in which they came. Belongs to one server and its loop."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()
        self._begun = 0
        """Requests that have begun and not ended."""

        self._left = 0
        """Requests that may still begin in this turn; 0 while any wait."""

        self._is_due = False

    def take(self, request: Waiting) -> None:
        """Let a request begin, now or in one of the next turns."""
        is_due = self._is_due
        if not is_due:
            self._left = self._share()
        if self._left:
            self._left -= 1
            self._begun += request.begin()
        else:
            self._waiting.append(request)
        if not is_due:
            self._await_turn()

    def end(self) -> None:
        """A request that had begun has ended."""
        self._begun -= 1

    def _share(self) -> int:
        return max(AT_ONCE_MIN, (self._begun + len(self._waiting)) // PARTS)

    def _await_turn(self) -> None:
        # Behind the tasks of those that have just begun: the write of what these call is asked for before the
        # next ones begin, and comes before they make their calls.
        self._is_due = True
        asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        waiting = self._waiting
        if not waiting:
            self._is_due = False
            return
        left = self._share()
        try:
            while waiting and left:
                left -= 1
                self._begun += waiting.popleft().begin()
        finally:
            # Whatever became of one of them, the others have their turns.
            self._left = 0 if waiting else left
            self._await_turn()
