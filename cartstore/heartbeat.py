"""Signs of life of processes: who a process is, how old its last sign is, and from when it counts as dead.

Processes write their beats into the engine (`process_beat.lua`), whose clock is the only one that all of them
share. It may jump. So whoever looks at beats again and again also knows from its own monotonic clock when one
changed, and an age is never taken to be outside of what this clock allows.
"""

from __future__ import annotations

import math
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

import msgspec

from cartstore import limits
from cartstore.model import Beat, Beats

BEAT_SECONDS: Final = 2.0
"""How often a process writes a beat."""

SILENT_SECONDS: Final = 15.0
"""Without a beat of any worker for longer, operators are told that no worker is alive."""

HUNG_SECONDS: Final = 60.0
"""Without a beat for longer, a process is replaced by the supervisor that started it."""

RUN_VARIABLE: Final = "_CARTSTORE_RUN"
"""Environment variable by which a supervisor tells its children from strangers of the same host name and
number, which containers may have. No setting: operators do not set it."""

Kind = Literal["api", "worker", "up"]


def process_name(kind: Kind, pid: int | None = None, run: str | None = None) -> str:
    """What a process is called in the beats: this one, or a child of this one."""
    run = run or os.environ.get(RUN_VARIABLE) or _own_run
    return f"{kind}:{socket.gethostname()}:{pid or os.getpid()}:{run}"


_own_run: Final = secrets.token_hex(4)


class Age:
    """How old something is that is found in the engine with a time of the engine's clock.

    `mark` tells one thing from the next. It is at least as old as our first look at it, and younger than our
    last look before that, at which it was not there.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, looked_at: float = -math.inf) -> None:
        """`looked_at`: when we looked last, by `clock`, and it was not there."""
        self._clock = clock
        self._mark: object = None
        self._first_seen = 0.0
        self._looked_before = -math.inf
        self._last_look = looked_at
        self._engine_age = 0.0

    def see(self, mark: object, engine_age_seconds: float) -> None:
        """Note a look: what is there, and its age by the engine's clock. `mark` None: nothing is there."""
        now = self._clock()
        if mark != self._mark:
            self._mark = mark
            self._first_seen, self._looked_before = now, self._last_look
        self._last_look, self._engine_age = now, engine_age_seconds

    def seconds(self) -> float:
        """The age now."""
        now = self._clock()
        age = self._engine_age + now - self._last_look
        return max(now - self._first_seen, min(age, now - self._looked_before))


class Sightings:
    """The beats of processes as this process has seen them. One that is not there any more goes on aging:
    a clock that jumped forward makes others forget it until its next beat."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ages: dict[str, Age] = {}
        self._beats: dict[str, Beat] = {}
        self._looked_at = -math.inf

    def see(self, found: Beats) -> None:
        """Note the beats of all processes."""
        for beat in found.beats:
            age = self._ages.get(beat.process)
            if age is None:
                age = self._ages[beat.process] = Age(self._clock, looked_at=self._looked_at)
            age.see(beat.count, (found.now_ms - beat.at_ms) / 1_000)
            self._beats[beat.process] = beat
        self._looked_at = self._clock()
        for process in [
            its for its, age in self._ages.items() if age.seconds() > limits.BEAT_KEPT_MS / 1_000
        ]:
            del self._ages[process], self._beats[process]

    def age_seconds(self, kind: Kind) -> float | None:
        """The age of the youngest beat of a kind of process; None when none is known."""
        return min(
            (self._ages[its].seconds() for its in self._ages if its.startswith(f"{kind}:")), default=None
        )

    def states(self, kind: Kind) -> Iterator[dict[str, Any]]:
        """What the processes of a kind said of themselves last, the youngest beat first."""
        names = [its for its in self._beats if its.startswith(f"{kind}:")]
        for name in sorted(names, key=lambda its: self._ages[its].seconds()):
            try:
                said = msgspec.json.decode(self._beats[name].state)
            except msgspec.DecodeError:
                # Of another version, or a hand's.
                continue
            if isinstance(said, dict):
                yield said


def silence_text(seconds: float) -> str:
    """What is said of workers that are silent, for people; infinite seconds: since ever."""
    text = "no worker has given a sign of life"
    return text if math.isinf(seconds) else f"{text} for {seconds:.0f} s"
