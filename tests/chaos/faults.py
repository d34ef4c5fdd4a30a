"""What machines, operators and networks do to the parts of a shop. Each fault is a small object that strikes
once: it breaks something and, where a supervisor would, has it started again.

Owns how each is done. What became of the shop is measured and checked elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

import redis
from cartstore_workers.queues import ABANDONED_SECONDS, JOB_MODULE, JOB_NAMES, open_queue

from cartstore.embedded.parts import start_parts

from .stage import Stage, until

JOB_WORK_SECONDS = 0.3
"""How long a fault of RQ's goes on: jobs come a few times a second and are gone at once."""


EVENTS_AFTER_BACKUP = 10


class Fault:
    """One thing that goes wrong. `part`: what it breaks; two faults of one part are never struck together."""

    name: ClassVar[str]
    part: ClassVar[str]
    is_absence: ClassVar[bool] = False
    """Whether the engine comes back as one that its gate was not opened for, with all that it knew."""
    is_upset: ClassVar[bool] = False
    """Whether the engine loses writes that it had acknowledged."""
    forgets: ClassVar[bool] = False
    """Whether the record does, too."""

    def __init__(self, stage: Stage, chance: random.Random) -> None:
        self.stage = stage
        self.chance = chance
        self.struck_at = 0.0
        """When it broke; preparations come before."""
        self.on_broken: Callable[[], None] = lambda: None

    async def strike(self) -> None:
        """Break it, and put back into its place what a supervisor would."""
        raise NotImplementedError

    def broke(self) -> None:
        self.struck_at = time.time()
        self.on_broken()


# --- engine ------------------------------------------------------------------------------------------------


class EngineKilled(Fault):
    name = "engine: SIGKILL, restart from its log"
    part = "engine"
    is_absence = True

    async def strike(self) -> None:
        self.broke()
        self.stage.engine.kill()
        await self.stage.restart_engine()


class EngineTailLost(Fault):
    """What an fsync that never reached the disk leaves: the log without its end, often in the middle of a
    command."""

    name = "engine: log loses its tail (lost fsync)"
    part = "engine"
    is_upset = True

    async def strike(self) -> None:
        log = next((Path(self.stage.engine.log).parent / "appendonlydir").glob("*.incr.aof"))
        self.broke()
        self.stage.engine.kill()
        size = log.stat().st_size
        os.truncate(log, max(size - self.chance.randrange(1, 60_000), min(size, 2_000)))
        await self.stage.restart_engine()


class EngineEmptied(Fault):
    name = "engine: emptied"
    part = "engine"
    is_upset = True

    async def strike(self) -> None:
        async with self.stage.client() as client:
            self.broke()
            await client.flushall()
            if self.chance.random() < 0.5:
                await client.script_flush()


class EngineStopped(Fault):
    name = "engine: SIGSTOP for half a second"
    part = "engine"
    seconds = 0.5

    async def strike(self) -> None:
        engine = self.stage.engine
        self.broke()
        engine.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            engine.send(signal.SIGCONT)


class EngineStoppedLong(EngineStopped):
    name = "engine: SIGSTOP for 10 s"
    seconds = 10.0


class EngineFull(Fault):
    name = "engine: maxmemory reached"
    part = "engine"

    async def strike(self) -> None:
        async with self.stage.client() as client:
            self.broke()
            await client.config_set("maxmemory", 1)
            await asyncio.sleep(0.4)
            await client.config_set("maxmemory", 0)


class ScriptsFlushed(Fault):
    name = "engine: scripts flushed"
    part = "engine"

    async def strike(self) -> None:
        async with self.stage.client() as client:
            self.broke()
            for _ in range(3):
                await client.script_flush()
                await asyncio.sleep(self.chance.uniform(0, 0.02))


class ReplicaPromoted(Fault):
    """The replica stops following, the primary takes writes that it never sends, and then it is gone."""

    name = "engine: replica promoted that missed the last writes"
    part = "engine"
    is_upset = True

    async def strike(self) -> None:
        stage, primary = self.stage, self.stage.engine
        replica = stage.next_engine()
        await start_parts([replica])
        async with redis.asyncio.Redis.from_url(replica.url(), decode_responses=True) as client:
            await client.config_set("masterauth", stage.password)
            # So long may a primary that is cut off go on, and its successor waits for it.
            await client.config_set("min-replicas-max-lag", 1)
            await client.execute_command("REPLICAOF", "127.0.0.1", primary.port)

            async def follows() -> bool:
                return (await client.info("replication"))["master_link_status"] == "up"

            async def has_written() -> bool:
                # Its log holds what it copied only once it has been rewritten.
                persistence = await client.info("persistence")
                return not persistence["aof_rewrite_in_progress"] and not persistence["aof_rewrite_scheduled"]

            await until(follows)
            await until(has_written)
            await client.execute_command("REPLICAOF", "NO", "ONE")
        self.broke()
        await asyncio.sleep(self.chance.uniform(0.1, 0.4))
        primary.kill()
        stage.point_at(replica)
        await asyncio.to_thread(shutil.rmtree, Path(primary.log).parent)


# --- processes -----------------------------------------------------------------------------------------


class ApiKilled(Fault):
    name = "API process: SIGKILL"
    part = "api"

    async def strike(self) -> None:
        process = self.chance.choice(self.stage.api)
        self.broke()
        process.kill()
        await start_parts([process])


class WorkerKilled(Fault):
    name = "worker: SIGKILL"
    part = "worker"

    async def strike(self) -> None:
        process = self.chance.choice(self.stage.workers)
        self.broke()
        process.kill()
        await start_parts([process])


# --- RQ --------------------------------------------------------------------------------------------------


class QueueFault(Fault):
    part = "queue"

    def open(self) -> tuple[redis.Redis, str]:
        """RQ's Redis, and the key of the list of waiting jobs. One that restarts is waited for."""
        client = redis.Redis.from_url(self.stage.queue.url())
        return client, open_queue(client, "main").key


class QueueEmptied(QueueFault):
    name = "RQ: its Redis emptied"

    async def strike(self) -> None:
        client, _ = self.open()
        with client:
            self.broke()
            client.flushall()


class QueueKilled(QueueFault):
    name = "RQ: its Redis SIGKILLed, back empty"

    async def strike(self) -> None:
        self.broke()
        self.stage.queue.kill()
        await start_parts([self.stage.queue])


class JobsLost(QueueFault):
    name = "RQ: jobs lost"

    async def strike(self) -> None:
        client, key = self.open()
        with client:
            self.broke()
            end = time.monotonic() + JOB_WORK_SECONDS
            while time.monotonic() < end:
                client.delete(key)
                await asyncio.sleep(0.002)


class JobsDoubled(QueueFault):
    """Each job that waits is there twice under its id, and some jobs once more under another, so that both
    workers carry the same out at once."""

    name = "RQ: jobs doubled"

    async def strike(self) -> None:
        client, key = self.open()
        with client:
            queue = open_queue(client, "main")
            self.broke()
            end = time.monotonic() + JOB_WORK_SECONDS
            doubled: set[bytes] = set()
            while time.monotonic() < end:
                for waiting in set(client.lrange(key, 0, -1)) - doubled:
                    doubled.add(waiting)
                    client.rpush(key, waiting)
                name = self.chance.choice(
                    ["drain_outbox", "release_due", "expire_payments", "snapshot_carts"]
                )
                queue.enqueue_call(f"{JOB_MODULE}.{name}", args=(0,), timeout=ABANDONED_SECONDS, ttl=60)
                await asyncio.sleep(0.03)


class JobsReordered(QueueFault):
    name = "RQ: jobs reordered"

    async def strike(self) -> None:
        client, key = self.open()
        with client:
            queue = open_queue(client, "main")
            self.broke()
            async with self.stage.quiet_workers():
                for name in self.chance.choices(JOB_NAMES, k=12):
                    queue.enqueue_call(f"{JOB_MODULE}.{name}", args=(0,), timeout=ABANDONED_SECONDS, ttl=60)
                waiting = client.lrange(key, 0, -1)
                self.chance.shuffle(waiting)
                client.delete(key)
                client.rpush(key, *waiting)


# --- database --------------------------------------------------------------------------------------------


class DatabaseDown(Fault):
    name = "database: down for 2 s"
    part = "database"
    seconds = 2.0

    async def strike(self) -> None:
        self.broke()
        self.stage.database.kill()
        await asyncio.sleep(self.seconds)
        await start_parts([self.stage.database])


class DatabaseDownLong(DatabaseDown):
    name = "database: down for 30 s"
    seconds = 30.0


class DatabaseConnectionsKilled(Fault):
    """Those that are in a transaction first, as soon as some are; then all."""

    name = "database: connections killed mid-transaction"
    part = "database"

    async def strike(self) -> None:
        kill = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name = 'cartstore' AND pid <> pg_backend_pid()"
        )
        async with self.stage.connection() as connection:
            self.broke()
            end = time.monotonic() + 0.5
            killed = 0
            while not killed and time.monotonic() < end:
                killed = await connection.fetchval(f"{kill} AND xact_start IS NOT NULL AND state <> 'idle'")
            await connection.execute(kill)


class DatabaseFull(Fault):
    """A trigger refuses new events with the state of a full disk (53100), at once or at the commit.

    A disk that is really full needs a file system of its own, which an unprivileged user cannot mount
    everywhere. What the drain sees is the same: its statement or its commit is refused.
    """

    name = "database: disk full (SQLSTATE 53100)"
    part = "database"

    async def strike(self) -> None:
        way = self.chance.choice(
            [
                "CREATE TRIGGER full_disk BEFORE INSERT ON events FOR EACH ROW",
                "CREATE CONSTRAINT TRIGGER full_disk AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED"
                " FOR EACH ROW",
            ]
        )
        async with self.stage.connection() as connection:
            await connection.execute(
                "CREATE OR REPLACE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device'"
                " USING ERRCODE = '53100'; END $$"
            )
            self.broke()
            await connection.execute(f"{way} EXECUTE FUNCTION full_disk()")
            await asyncio.sleep(0.7)
            await connection.execute("DROP TRIGGER full_disk ON events")


class DatabaseRestored(Fault):
    """The disk is gone, and a backup that is behind the engine takes its place: made before, and then some
    more events were archived. The fault ends when it was noticed and recovered from."""

    name = "database: restored from a backup behind the engine"
    part = "database"
    is_upset = True
    forgets = True

    async def strike(self) -> None:
        stage = self.stage
        await stage.back_up()
        await until(self._has_moved_on)
        before = await stage.epoch()
        self.broke()
        stage.database.kill()
        await stage.restore()

        async def is_recovered() -> bool:
            return await stage.epoch() > before

        await until(is_recovered)

    async def _has_moved_on(self) -> bool:
        """Whether the record has events that the backup has not."""
        async with self.stage.connection() as connection:
            sql = "SELECT count(*) FROM events WHERE at_ms > $1"
            return await connection.fetchval(sql, int(self.stage.backup_at * 1_000)) >= EVENTS_AFTER_BACKUP


# --- network -----------------------------------------------------------------------------------------------


class NetworkDelayed(Fault):
    name = "network: delayed"
    part = "network"

    async def strike(self) -> None:
        self.broke()
        self.stage.proxy.delay(self.chance.uniform(0.02, 0.2))
        await asyncio.sleep(0.5)
        self.stage.proxy.delay(0)


class NetworkCut(Fault):
    name = "network: cut in the middle of a request"
    part = "network"
    way: ClassVar = "request"

    async def strike(self) -> None:
        proxy = self.stage.proxy
        self.broke()
        proxy.cut_midway(self.way, 3)
        await until(lambda: not proxy.cuts_waiting(), 20)


class NetworkCutBack(NetworkCut):
    name = "network: cut in the middle of a reply"
    way = "reply"


class NetworkStalled(Fault):
    """The line stands still, then goes on."""

    name = "network: stalled"
    part = "network"
    drops = False

    async def strike(self) -> None:
        self.broke()
        self.stage.proxy.stall()
        await asyncio.sleep(self.chance.uniform(0.2, 0.8))
        self.stage.proxy.resume(drop=self.drops)


class NetworkStalledAndCut(NetworkStalled):
    name = "network: stalled, then cut"
    drops = True


LOSSLESS: tuple[type[Fault], ...] = (
    EngineKilled,
    EngineStopped,
    EngineStoppedLong,
    EngineFull,
    ScriptsFlushed,
    ApiKilled,
    WorkerKilled,
    QueueEmptied,
    QueueKilled,
    JobsLost,
    JobsDoubled,
    JobsReordered,
    DatabaseDown,
    DatabaseDownLong,
    DatabaseConnectionsKilled,
    DatabaseFull,
    NetworkDelayed,
    NetworkCut,
    NetworkCutBack,
    NetworkStalled,
    NetworkStalledAndCut,
)
"""After which nothing that was acknowledged may be missing, in any mode of acknowledgement."""

LOSING: tuple[type[Fault], ...] = (EngineTailLost, EngineEmptied, ReplicaPromoted, DatabaseRestored)
"""Which take acknowledged writes from the engine, or from the record. Checkouts that were acknowledged as
archived survive the first three."""

LONG: tuple[type[Fault], ...] = (EngineStoppedLong, DatabaseDownLong)
"""Of those without a loss, the ones that take too long for the default run."""

Strike = tuple[type[Fault], ...]
"""Faults that strike together."""


def shuffled(faults: Iterable[type[Fault]], chance: random.Random, *, paired: float) -> list[Strike]:
    """All of these in some order, about a share `paired` of them two at a time, never of the same part. One
    that takes the record back comes last, because what is known of the time before ends with it."""
    waiting = list(faults)
    chance.shuffle(waiting)
    waiting.sort(key=lambda fault: fault.forgets)
    plan: list[Strike] = []
    while waiting:
        first = waiting.pop(0)
        partner = waiting[0] if waiting else first
        fits = partner.part != first.part and not (partner.forgets or first.forgets)
        if fits and chance.random() < paired / 2:
            plan.append((first, waiting.pop(0)))
        else:
            plan.append((first,))
    return plan
