"""Ends children of `up` that hang: they live, and give no sign of life. Owns when a child counts as hung.

The supervisor writes beats of its own. A child's silence counts only while the engine takes these: while the
engine is away no process can beat, and when it is back every process has time to. Times are those of the
supervisor's monotonic clock, added up from beat to beat, so that neither a jump of the engine's clock nor a
supervisor that stood still itself makes a child look hung.

A child that has never beaten counts from its start. Its first beat comes before anything that may take long
(opening the store, recovery, a rebuild); what comes before the first beat is the loading of the program,
which shows in the processor time that it takes, and is given STARTING_FACTOR times as long.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
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


STARTING_FACTOR: Final = 5
"""How many times as long a child may take to its first beat while it uses the processor."""

_BUSY_SHARE: Final = 0.1
"""Of one processor: a child that uses less is waiting."""


class _Child:
    """One process that is kept running, and what was last seen of it."""

    def __init__(self, kind: Kind, process: Process) -> None:
        self.kind = kind
        self.process = process
        self.pid: int | None = None
        self.count: int | None = None
        self.silent_seconds = 0.0
        self.starting_seconds = 0.0
        """Since its start, as long as it has not beaten."""
        self.cpu_seconds = 0.0
        """Processor time up to the last look."""


class Watch:
    """Looks after the children of one supervisor. `tell` is given a line for people."""

    def __init__(
        self,
        tell: Callable[[str], object],
        *,
        hung_seconds: float = HUNG_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        cpu_seconds_of: Callable[[int], float] | None = None,
    ) -> None:
        self._tell = tell
        self._hung_seconds = hung_seconds
        self._clock = clock
        self._cpu_seconds_of = cpu_seconds_of or _cpu_seconds_of
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
            if pid is None or pid != child.pid:
                # Ended, or another one, whose beat under this number may be of a process before it.
                child.pid, child.count = pid, None
                child.silent_seconds = child.starting_seconds = child.cpu_seconds = 0.0
                continue
            if count != child.count:
                child.count, child.silent_seconds = count, 0.0
                continue
            child.silent_seconds += step
            if count is None and self._is_loading(child, step):
                child.silent_seconds = 0.0
            if child.silent_seconds > self._hung_seconds:
                self._tell(
                    f"{child.process.name} (process {pid}) has given no sign of life for "
                    f"{self._hung_seconds:.0f} s. It is killed."
                )
                # No other signal reaches a process that stands still.
                child.process.send(signal.SIGKILL)
                child.silent_seconds = 0.0

    def _is_loading(self, child: _Child, step: float) -> bool:
        """Whether a child that has never beaten has used the processor since the last look, and may still."""
        assert child.pid is not None
        used, child.cpu_seconds = child.cpu_seconds, self._cpu_seconds_of(child.pid)
        child.starting_seconds += step
        if child.starting_seconds > STARTING_FACTOR * self._hung_seconds:
            return False
        return child.cpu_seconds - used > _BUSY_SHARE * step


def _cpu_seconds_of(pid: int) -> float:
    """Processor time that a process has used; 0 where the kernel does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
