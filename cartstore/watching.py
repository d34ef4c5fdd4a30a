"""Ends children of `up` that hang: they live, and give no sign of life. Owns when a child counts as hung.

The supervisor writes beats of its own. A child's silence counts only while the engine takes these: while the
engine is away no process can beat, and when it is back every process has time to. Times are those of the
supervisor's monotonic clock, added up from beat to beat, so that neither a jump of the engine's clock nor a
supervisor that stood still itself makes a child look hung.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from cartstore.embedded.process import Process
from cartstore.errors import CartStoreError
from cartstore.heartbeat import BEAT_SECONDS, HUNG_SECONDS, RUN_VARIABLE, Kind, process_name
from cartstore.model import Beats
from cartstore.redis.heart import Heart
from cartstore.settings import Settings
from cartstore.tasks import end

_STEP_SECONDS_MAX: Final = 2 * BEAT_SECONDS
"""What the time from one look to the next counts at most: more means that we stood still."""


class _Child:
    """One process that is kept running, and what was last seen of it."""

    def __init__(self, kind: Kind, process: Process) -> None:
        self.kind = kind
        self.process = process
        self.pid: int | None = None
        self.count: int | None = None
        self.silent_seconds = 0.0


class Watch:
    """Looks after the children of one supervisor. `tell` is given a line for people."""

    def __init__(
        self,
        tell: Callable[[str], object],
        *,
        hung_seconds: float = HUNG_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = tell
        self._hung_seconds = hung_seconds
        self._clock = clock
        self._run = process_name("up").rpartition(":")[2]
        self._children: list[_Child] = []
        self._looked_at: float | None = None

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The environment of a child, by which it is known as ours."""
        return {**environment, RUN_VARIABLE: self._run}

    def add(self, kind: Kind, process: Process) -> None:
        """Look after a process; whoever keeps it running may start it anew."""
        self._children.append(_Child(kind, process))

    @asynccontextmanager
    async def watching(self, settings: Settings) -> AsyncIterator[None]:
        """Look for the life of the context."""
        heart = Heart(settings, "up")
        task = asyncio.create_task(self._keep_looking(heart))
        try:
            yield
        finally:
            await end(task)
            await heart.close()

    async def _keep_looking(self, heart: Heart) -> None:
        while True:
            try:
                self.look(await heart.beat({}))
            except CartStoreError:
                self.forget()
            await asyncio.sleep(BEAT_SECONDS)

    def forget(self) -> None:
        """The engine takes no beats: nobody's silence means anything, and counting begins anew."""
        self._looked_at = None
        for child in self._children:
            child.silent_seconds = 0.0

    def look(self, found: Beats) -> None:
        """Judge by the beats of all processes, and kill children that hang."""
        now = self._clock()
        step = 0.0 if self._looked_at is None else min(now - self._looked_at, _STEP_SECONDS_MAX)
        self._looked_at = now
        counts = {beat.process: beat.count for beat in found.beats}
        for child in self._children:
            pid = child.process.pid
            count = None if pid is None else counts.get(process_name(child.kind, pid, self._run), child.count)
            if pid != child.pid or count is None or count != child.count:
                # Ended, another one, alive, or one that has never beaten: it may wait for a server.
                child.pid, child.count, child.silent_seconds = pid, None if pid != child.pid else count, 0.0
                continue
            child.silent_seconds += step
            if child.silent_seconds > self._hung_seconds:
                self._tell(
                    f"{child.process.name} (process {pid}) has given no sign of life for "
                    f"{self._hung_seconds:.0f} s. It is killed."
                )
                # No other signal reaches a process that stands still.
                child.process.send(signal.SIGKILL)
                child.silent_seconds = 0.0
