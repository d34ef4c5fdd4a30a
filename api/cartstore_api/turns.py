"""Turns: how many hot requests begin in one turn of the event loop.

What the requests of a turn call leaves for the engine in one write at the end of it. A crowd whose requests
all began at once would therefore let the engine stand still until the last of them has made its call, and
then this process until the first one is answered. A share of the crowd in each turn keeps both busy: while
the engine works for one share, the next one is made. Owns the order in which requests begin.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sized
from typing import Final, Protocol

PARTS: Final = 5
"""Of all requests under way, one in so many begins in a turn. Fewer parts leave the engine or this process
waiting; with more of them each turn costs more than it does (docs/decisions/0007-wire.md has the figures)."""

AT_ONCE_MIN: Final = 6
"""Requests that begin in a turn however few are under way."""


class Waiting(Protocol):
    """A request that may have to wait for its turn."""

    def begin(self) -> None:
        """Its turn has come. Raises nothing."""


class Turns:
    """Lets requests begin, in the order in which they came. Belongs to one event loop.

    `under_way`: the requests that came and are not answered, of all connections.
    """

    def __init__(self, under_way: Sized) -> None:
        self._under_way = under_way
        self._waiting: deque[Waiting] = deque()
        self._left = AT_ONCE_MIN
        """Requests that may still begin in this turn; 0 while any wait."""

        self._is_due = False

    def take(self, request: Waiting) -> None:
        """Let a request begin, now or in one of the next turns."""
        if self._left:
            self._left -= 1
            request.begin()
        else:
            self._waiting.append(request)
        if not self._is_due:
            self._await_turn()

    def _await_turn(self) -> None:
        # Behind the tasks of those that have just begun: the write of what these call is asked for before the
        # next ones begin, and comes before they make their calls.
        self._is_due = True
        asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        waiting = self._waiting
        left = max(AT_ONCE_MIN, len(self._under_way) // PARTS)
        self._is_due = False
        if waiting:
            while waiting and left:
                left -= 1
                waiting.popleft().begin()
            self._await_turn()
        self._left = left
