"""Whether this worker does its duties. Owns when a worker may say that it is alive.

A beat must not say more than is so: a timer that only ticks would go on while nothing is done. So a worker
beats only after a turn of its duties or a piece of a long one since the last beat, and while the threads that
bring jobs give signs of life themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Literal

THREAD_SILENT_SECONDS: Final = 30.0
"""A thread that brings jobs looks up every few seconds, also while the queue is away."""

ThreadName = Literal["jobs", "timers"]


class Pulse:
    """May be told of progress by any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.turned_at = clock()
        """When the last turn of a duty, or a piece of one, was done."""
        self._signs: dict[ThreadName, float] = {}

    def made(self) -> None:
        """A turn of a duty, or a piece of a long one, is done."""
        self.turned_at = self._clock()

    def sign(self, thread: ThreadName) -> None:
        """A thread that brings jobs looks for the next one."""
        self._signs[thread] = self._clock()

    @property
    def rest_seconds(self) -> float:
        """Since the last turn."""
        return self._clock() - self.turned_at

    def silent_threads(self) -> list[ThreadName]:
        """Threads that have begun and give no sign of life any more. Ask only while no job runs: a thread
        that waits for one gives no sign either."""
        now = self._clock()
        return [name for name, at in self._signs.items() if now - at > THREAD_SILENT_SECONDS]
