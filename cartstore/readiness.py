"""Whether carts can be changed, and what else is not as it should be. Owns the checks of `/health/ready` and
`cartstore doctor`, and the figures that belong to the shop and not to one process.

Only drift is taken from what a worker says of itself, because only reconcile knows it. How far the record is
behind is read from the outbox and the record's cursor, and a worker is alive if its beats are young. What
cannot be read is unknown (`ok` None): neither well nor ill.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, TypeVar

import msgspec

from cartstore.archive.drain import Outbox
from cartstore.archive.repository import Archive
from cartstore.archive.schema import newest_revision
from cartstore.engine import CartEngine
from cartstore.errors import CartStoreError, StoreError, fact_of
from cartstore.heartbeat import SILENT_SECONDS, Age, Sightings, silence_text
from cartstore.model import Beats, Position
from cartstore.recovery.gate import Recovery
from cartstore.redis.facts import POLICY, EngineFacts
from cartstore.redis.gate import Gate

LATE_SECONDS: Final = 10.0
"""With an event that waits for the record for longer, the drain is late."""

DRAIN_LAG_EVENTS_MAX: Final = 10_000
"""With more events waiting for the record than this, the drain is late as well."""

AGAIN_WITHIN_SECONDS: Final = 1.0
"""An engine that failed faster than this may only have closed an idle connection, and is asked once more."""

BLOCKING: Final = frozenset({"engine", "gate"})
"""Checks without which no cart can be changed. All others leave the shop open, in a degraded state."""

PROBE: Final = "probe"
"""Nobody's name: what is asked under it changes no beat, and proves that the engine takes writes."""

_DISK_TEXTS = {
    "open": "open",
    "low": "open; the disk is nearly full, so adds and checkouts are refused",
    "out": "open; the disk is full, so nothing is written",
}
"""What is said of an open gate, by its mark of the disk."""

T = TypeVar("T")


class FactsEngine(Protocol):
    """What readiness asks of the real engine beyond `CartEngine`."""

    async def facts(self) -> EngineFacts: ...


class Check(msgspec.Struct, frozen=True):
    """One part. `ok` None: nobody knows."""

    ok: bool | None
    detail: str


class Figures(msgspec.Struct, kw_only=True):
    """Figures of the shop; None is unknown."""

    drain_lag_events: int | None = None
    drain_lag_seconds: float | None = None
    """Age of the oldest event that the record does not have; 0 when it has all."""
    worker_beat_age_seconds: float | None = None
    """Age of the youngest beat of any worker; infinite when none is known."""
    drift: dict[str, int] | None = None
    rejected_events: int | None = None
    frozen_skus: int | None = None
    log_salvages: int | None = None


class _Engine(msgspec.Struct, kw_only=True):
    """What the engine answered."""

    gate: Gate
    is_open: bool
    facts: EngineFacts | None
    beats: Beats | None
    refusal: str = ""
    """Why it takes no writes."""


class _Record(msgspec.Struct, kw_only=True):
    """What the database answered."""

    cursor: Position
    rejected_events: int
    frozen_skus: int
    revision: str


class Readiness:
    """Looks at engine, record and beats. One per store: it remembers what it saw, for ages."""

    def __init__(
        self,
        *,
        engine: CartEngine,
        outbox: Outbox,
        archive: Archive,
        recovery: Recovery,
        archives_itself: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`archives_itself`: this store carries its own events into the record, so it needs no worker for
        that. `clock` overrides the monotonic one, for tests."""
        self._engine = engine
        self._outbox = outbox
        self._archive = archive
        self._recovery = recovery
        self._archives_itself = archives_itself
        self._clock = clock
        self._sightings = Sightings(clock)
        self._oldest = Age(clock)
        self._cursor: Position | None = None

    async def look(self) -> dict[str, Any]:
        """{"ready": bool, "status": "ok" | "degraded" | "unready", "checks": {name: {"ok", "detail"}},
        "figures": Figures}. Raises nothing."""
        engine, record = await asyncio.gather(self._ask(self._ask_engine), self._ask(self._ask_record))
        checks: dict[str, Check] = {}
        figures = Figures()
        self._check_engine(engine, checks)
        self._check_record(record, checks, figures)
        await self._check_drain(engine, record, checks, figures)
        self._check_worker(engine, checks, figures)
        is_ready = all(checks[name].ok for name in BLOCKING)
        is_well = all(check.ok is not False for check in checks.values())
        return {
            "ready": is_ready,
            "status": ("ok" if is_well else "degraded") if is_ready else "unready",
            "checks": {name: {"ok": check.ok, "detail": check.detail} for name, check in checks.items()},
            "figures": figures,
        }

    async def worker_silence_seconds(self) -> float | None:
        """For how long no worker has given a sign of life; infinite when none ever did, None when one is
        alive, none is needed, or nobody knows. Raises nothing."""
        if self._archives_itself:
            return None
        try:
            self._sightings.see(await self._engine.beat(PROBE, ""))
        except CartStoreError:
            return None
        age = self._worker_age()
        return age if age > SILENT_SECONDS else None

    # --- asking --------------------------------------------------------------------------------

    async def _ask(self, ask: Callable[[], Awaitable[T]]) -> T | CartStoreError:
        try:
            return await ask()
        except CartStoreError as error:
            return error

    async def _ask_engine(self) -> _Engine:
        began = self._clock()
        try:
            return await self._ask_engine_once()
        except StoreError:
            if self._clock() - began > AGAIN_WITHIN_SECONDS:
                raise
        return await self._ask_engine_once()

    async def _ask_engine_once(self) -> _Engine:
        gate, is_open = await self._recovery.gate()
        facts_of = getattr(self._engine, "facts", None)
        found = _Engine(gate=gate, is_open=is_open, facts=await facts_of() if facts_of else None, beats=None)
        try:
            found.beats = await self._engine.beat(PROBE, "")
        except CartStoreError as error:
            found.refusal = fact_of(error)
        else:
            self._sightings.see(found.beats)
        return found

    async def _ask_record(self) -> _Record:
        self._cursor, _ = await self._archive.cursor()
        aside = await self._archive.quarantine.counts()
        return _Record(
            cursor=self._cursor,
            rejected_events=aside.rejected_events,
            frozen_skus=aside.frozen_skus,
            revision=await self._archive.revision(),
        )

    # --- judging -------------------------------------------------------------------------------

    def _check_engine(self, engine: _Engine | CartStoreError, checks: dict[str, Check]) -> None:
        if isinstance(engine, CartStoreError):
            checks["engine"] = Check(False, fact_of(engine))
            checks["gate"] = Check(None, "unknown while the engine is away")
            return
        facts = engine.facts
        if facts is not None and not facts.is_primary:
            checks["engine"] = Check(False, "The engine is a replica: it takes no writes.")
        elif facts is not None and facts.policy != POLICY:
            checks["engine"] = Check(
                False, f"maxmemory-policy is {facts.policy}: stock may be thrown away. Set it to {POLICY}."
            )
        elif engine.refusal:
            checks["engine"] = Check(False, engine.refusal)
        else:
            checks["engine"] = Check(True, "answers and takes writes")
        checks["gate"] = Check(
            engine.is_open, _DISK_TEXTS[engine.gate.state] if engine.is_open else self._why_shut(engine.gate)
        )
        if engine.is_open and engine.gate.state != "open":
            checks["disk"] = Check(False, _DISK_TEXTS[engine.gate.state].removeprefix("open; "))
        if facts is not None and facts.memory_bytes_max:
            used = f"{facts.memory_bytes:,} of {facts.memory_bytes_max:,} bytes are used"
            checks["memory"] = Check(
                not facts.is_full, f"full, new work is refused: {used}" if facts.is_full else used
            )

    def _why_shut(self, gate: Gate) -> str:
        """A shut gate's state, how far a rebuild is, and what keeps workers from recovering."""
        if gate.state == "rebuilding" and gate.progress:
            return f"rebuilding, {gate.progress}"
        state = gate.state or "never opened"
        if gate.state == "fenced" and gate.fenced_because:
            state = f"fenced: {gate.fenced_because}"
        reason = next(
            (said["recovery"] for said in self._sightings.states("worker") if said.get("recovery")), ""
        )
        return f"{state}; {reason}" if reason else state

    def _check_record(
        self, record: _Record | CartStoreError, checks: dict[str, Check], figures: Figures
    ) -> None:
        if isinstance(record, CartStoreError):
            checks["database"] = Check(False, fact_of(record))
            return
        checks["database"] = Check(True, "answers")
        figures.rejected_events, figures.frozen_skus = record.rejected_events, record.frozen_skus
        # Says what waits for a person, and stops nothing: all other SKUs are sold.
        checks["quarantine"] = Check(
            True, f"{record.rejected_events} events rejected, {record.frozen_skus} SKUs frozen"
        )
        ours = newest_revision()
        checks["migrations"] = Check(
            record.revision == ours,
            "current" if record.revision == ours else f"the tables are {record.revision}, ours {ours}",
        )

    async def _check_drain(
        self,
        engine: _Engine | CartStoreError,
        record: _Record | CartStoreError,
        checks: dict[str, Check],
        figures: Figures,
    ) -> None:
        if isinstance(engine, CartStoreError):
            checks["drain"] = Check(None, "unknown while the engine is away")
            return
        if engine.beats is None:
            # Its clock, by which an event's age is known, comes with the beats.
            checks["drain"] = Check(None, "unknown while the engine takes no writes")
            return
        # While the database is away its last known cursor serves: nothing moves it then.
        cursor = self._cursor
        if cursor is None:
            checks["drain"] = Check(None, "unknown while the database is away")
            return
        try:
            waiting = await self._outbox.read(cursor, 1)
        except CartStoreError as error:
            checks["drain"] = Check(None, f"unknown: {fact_of(error)}")
            return
        if waiting:
            self._oldest.see(waiting[0].position, (engine.beats.now_ms - waiting[0].at_ms) / 1_000)
        else:
            self._oldest.see(None, 0.0)
        lag = max(1, engine.gate.seq - cursor.seq) if waiting else 0
        seconds = self._oldest.seconds() if waiting else 0.0
        figures.log_salvages = engine.gate.salvages
        figures.drain_lag_events, figures.drain_lag_seconds = lag, seconds
        detail = f"{lag} events to archive" + (f", the oldest for {_told(seconds)}" if waiting else "")
        checks["drain"] = Check(lag <= DRAIN_LAG_EVENTS_MAX and seconds <= LATE_SECONDS, detail)

    def _check_worker(
        self, engine: _Engine | CartStoreError, checks: dict[str, Check], figures: Figures
    ) -> None:
        if isinstance(engine, CartStoreError):
            checks["worker"] = Check(None, "unknown while the engine is away")
            return
        if engine.beats is None:
            # Its beats go through the engine: their absence says nothing of it.
            checks["worker"] = Check(None, "unknown while the engine takes no writes")
            return
        age = self._worker_age()
        figures.worker_beat_age_seconds = age
        figures.drift = self._drift()
        if age <= SILENT_SECONDS:
            checks["worker"] = Check(True, f"gave a sign of life {_told(age)} ago")
        elif self._archives_itself:
            checks["worker"] = Check(True, "none, and this store archives its own events")
        else:
            checks["worker"] = Check(False, silence_text(age))

    def _worker_age(self) -> float:
        age = self._sightings.age_seconds("worker")
        return math.inf if age is None else age

    def _drift(self) -> dict[str, int]:
        """The most of each kind that any worker has found: each goes over the whole shop by itself."""
        most: dict[str, int] = {}
        for said in self._sightings.states("worker"):
            found = said.get("drift")
            if isinstance(found, Mapping):
                for kind, count in found.items():
                    if isinstance(count, int):
                        most[kind] = max(most.get(kind, 0), count)
        return most


def _told(seconds: float) -> str:
    return f"{seconds:.0f} s"
