"""Worker processes on a real queue, with a stand-in for the store.

Goal: whatever happens to jobs, to the queue's Redis or to the worker itself, the duties go on being done.
Method: every duty of the stand-in is written to a list in Redis (database 3), can be held up and can be
made to fail, so that a test knows what a worker is doing when it strikes. Run as a program, this file is
such a worker.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import cartstore_workers.duties
import pytest
import redis
from cartstore_workers.queues import Doorbell, connect_queue, open_queue
from cartstore_workers.worker import DoorbellWorker, serve
from rq import Queue, SimpleWorker
from rq.job import Job

from cartstore import errors
from cartstore.archive.retention import RetentionBatch, RetentionKind
from cartstore.embedded import Engine
from cartstore.recovery.report import ReconcileReport
from cartstore.settings import Settings
from cartstore.urls import engine_place

PATIENCE_SECONDS = 30.0
QUEUE_DATABASE = 1
NOTES_DATABASE = 3


class StandIn:
    """Does nothing, and notes that it did."""

    def __init__(self, notes: redis.Redis) -> None:
        self._notes = notes
        self.engine = self

    async def drain_outbox(self) -> int:
        return await self._duty("drain_outbox")

    async def release_due(self, limit: int) -> int:
        return await self._duty("release_due")

    async def expire_payments(self, limit: int) -> int:
        return await self._duty("expire_payments")

    async def snapshot_carts(self) -> int:
        return await self._duty("snapshot_carts")

    async def recover(self) -> bool:
        return bool(await self._duty("recover"))

    async def run(self, limit: int) -> ReconcileReport:
        await self._duty("reconcile")
        return ReconcileReport(checked=0, repaired=[], drift=[])

    def open_by_kind(self) -> dict[str, int]:
        return {}

    async def apply_retention(self, kind: RetentionKind) -> RetentionBatch:
        return RetentionBatch(removed=await self._duty("apply_retention"), is_more=False)

    async def _duty(self, name: str) -> int:
        self._notes.rpush("began", name)
        while self._notes.exists(f"hold {name}"):  # noqa: ASYNC110 (another process lets go)
            await asyncio.sleep(0.01)
        if (error := self._notes.get(f"fail {name}")) is not None:
            raise getattr(errors, error.decode())()
        self._notes.rpush("done", name)
        return 0


def main() -> int:
    from cartstore_workers.logs import configure_logging

    queue_url, notes_url = sys.argv[1:]
    notes = redis.Redis.from_url(notes_url)
    store: Any = StandIn(notes)
    cartstore_workers.duties.Reconciler = lambda store: store  # type: ignore[assignment, misc]

    @asynccontextmanager
    async def opening() -> AsyncIterator[Any]:
        try:
            yield store
        finally:
            notes.rpush("done", "closed")

    configure_logging()
    return serve(Settings(queue_url=queue_url, snapshot_seconds=1, reconcile_seconds=1), opening)


class Worker:
    """A worker process of this test, and what it wrote."""

    def __init__(self, queue_url: str, notes_url: str, log: Path) -> None:
        self._log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, __file__, queue_url, notes_url], stderr=file, stdout=file
            )

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def end(self, number: signal.Signals) -> int:
        """Send a signal and give the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)


class Stage:
    """Where workers of a test run: a queue, the notes of what they did, and a doorbell."""

    def __init__(self, queue_url: str, notes_url: str, folder: Path) -> None:
        self.queue_url = queue_url
        self.notes_url = notes_url
        self.notes = redis.Redis.from_url(notes_url)
        self.connection = connect_queue(Settings(queue_url=queue_url))
        self.doorbell = Doorbell(self.connection, "main")
        self._folder = folder
        self._workers: list[Worker] = []

    def start(self) -> Worker:
        """A worker that is ready."""
        worker = self.launch()
        wait_until(lambda: any(line["message"] == "the worker is ready" for line in worker.lines()))
        return worker

    def launch(self) -> Worker:
        worker = Worker(self.queue_url, self.notes_url, self._folder / f"worker-{len(self._workers)}.log")
        self._workers.append(worker)
        return worker

    def count(self, list_name: str, duty: str) -> int:
        return self.notes.lrange(list_name, 0, -1).count(duty.encode())

    def wait_for(self, list_name: str, duty: str, more: int = 1) -> None:
        """Until a duty began, or was done, so many more times than by now."""
        before = self.count(list_name, duty)
        wait_until(lambda: self.count(list_name, duty) >= before + more)

    def hold(self, duty: str) -> None:
        self.notes.set(f"hold {duty}", 1)

    def let_go(self, duty: str) -> None:
        self.notes.delete(f"hold {duty}")

    def close(self) -> None:
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()
        self.connection.close()
        self.notes.close()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


@pytest.fixture
def stage(engine: Engine, redis_url: str, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(engine.url(QUEUE_DATABASE), engine.url(NOTES_DATABASE), tmp_path)
    yield stage
    stage.close()


@pytest.fixture
def queue_server(server_folder: Path, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A server of the test's own for the queue, to be stopped and started."""
    server = Engine(server_folder / f"queue-{abs(hash(request.node.name)) % 10**6}", password="of the queue")
    server.start()
    yield server
    server.kill()


# --- time and stopping ------------------------------------------------------------------------------


def test_timers_ring_when_nobody_else_does(stage: Stage) -> None:
    stage.start()

    for duty in ("drain_outbox", "release_due", "expire_payments", "snapshot_carts", "reconcile"):
        stage.wait_for("done", duty, more=2)


def test_worker_exits_with_0_when_terminated_idle(stage: Stage) -> None:
    worker = stage.start()
    stage.wait_for("done", "reconcile")
    (key,) = stage.connection.smembers("rq:workers")
    wait_until(lambda: stage.connection.hget(key, "state") == b"idle")

    assert worker.end(signal.SIGTERM) == 0

    assert stage.count("done", "closed") == 1
    assert stage.connection.hexists(key, "death")


def test_worker_exits_with_0_when_interrupted(stage: Stage) -> None:
    assert stage.start().end(signal.SIGINT) == 0


def test_worker_finishes_its_job_when_terminated_busy(stage: Stage) -> None:
    worker = stage.start()
    stage.hold("recover")
    stage.doorbell.ring("recover")
    wait_until(lambda: stage.count("began", "recover"))

    worker.process.send_signal(signal.SIGTERM)
    worker.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    stage.let_go("recover")

    assert worker.process.wait(PATIENCE_SECONDS) == 0
    assert stage.count("done", "recover") == 1
    assert stage.count("done", "closed") == 1


def test_worker_cancels_its_job_when_that_does_not_end(stage: Stage) -> None:
    worker = stage.start()
    stage.hold("recover")
    stage.doorbell.ring("recover")
    wait_until(lambda: stage.count("began", "recover"))

    assert worker.end(signal.SIGTERM) == 0

    assert stage.count("done", "recover") == 0
    assert stage.count("done", "closed") == 1


# --- jobs lost, doubled, left behind ----------------------------------------------------------------


def test_next_ring_works_when_worker_was_killed_within_the_job(stage: Stage) -> None:
    worker = stage.start()
    stage.hold("recover")
    stage.doorbell.ring("recover")
    wait_until(lambda: stage.count("began", "recover"))

    worker.end(signal.SIGKILL)
    stage.let_go("recover")
    stage.start()
    stage.doorbell.ring("recover")

    wait_until(lambda: stage.count("done", "recover") == 1)


def test_ring_during_a_job_is_followed_by_another_job(stage: Stage) -> None:
    stage.start()
    stage.hold("recover")
    stage.doorbell.ring("recover")
    wait_until(lambda: stage.count("began", "recover"))

    assert stage.doorbell.ring("recover")
    assert not stage.doorbell.ring("recover")
    stage.let_go("recover")

    wait_until(lambda: stage.count("done", "recover") == 2)


def test_queue_does_not_grow_when_no_worker_runs(stage: Stage) -> None:
    for _ in range(20):
        stage.doorbell.ring("drain_outbox")
        stage.doorbell.ring("release_due")

    assert len(stage.doorbell.queue) == 2


def test_ring_puts_a_new_job_when_the_waiting_one_is_only_an_id(stage: Stage) -> None:
    stage.doorbell.ring("drain_outbox")
    (lost,) = stage.doorbell.queue.job_ids
    stage.connection.delete(Job.key_for(lost))

    assert stage.doorbell.ring("drain_outbox")

    (waiting,) = stage.doorbell.queue.job_ids
    assert waiting != lost


def test_worker_leaves_nothing_behind_when_jobs_are_done(stage: Stage) -> None:
    worker = stage.start()
    stage.wait_for("done", "reconcile", more=2)

    worker.end(signal.SIGTERM)

    started = {key for key in stage.connection.keys("rq:job:*") if stage.connection.ttl(key) < 0}
    assert started == set()
    assert stage.connection.zcard("rq:wip:cartstore-main") == 0
    assert stage.connection.llen(stage.doorbell.queue.intermediate_queue_key) == 0


def test_worker_drops_a_job_that_is_not_ours(stage: Stage, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    stage.doorbell.queue.enqueue_call("os.mkdir", args=(str(mark),))
    stage.doorbell.ring("recover")

    worker = stage.start()
    wait_until(lambda: stage.count("done", "recover"))

    assert not mark.exists()
    assert [line["job"] for line in worker.lines() if "not ours" in line["message"]] == ["os.mkdir"]


def test_worker_goes_on_when_a_job_cannot_be_read(stage: Stage) -> None:
    pickled = Queue("cartstore-main", connection=stage.connection)
    pickled.enqueue_call("cartstore_workers.jobs.drain_outbox", args=(0,))
    stage.start()

    stage.doorbell.ring("recover")

    wait_until(lambda: stage.count("done", "recover"))


def test_job_of_another_partition_is_left_alone(stage: Stage) -> None:
    stage.start()
    stage.hold("recover")

    Doorbell(stage.connection, "main", partition=7).ring("recover")

    wait_until(lambda: not stage.connection.keys("rq:job:recover-7-*"))
    assert stage.count("began", "recover") == 0


def test_two_workers_share_one_queue(stage: Stage) -> None:
    first, second = stage.start(), stage.start()
    stage.hold("recover")
    stage.doorbell.ring("recover")
    wait_until(lambda: stage.count("began", "recover") == 1)
    stage.doorbell.ring("recover")

    wait_until(lambda: stage.count("began", "recover") == 2)
    stage.let_go("recover")

    wait_until(lambda: stage.count("done", "recover") == 2)
    assert first.end(signal.SIGTERM) == second.end(signal.SIGTERM) == 0


# --- the queue's Redis ------------------------------------------------------------------------------


def test_worker_goes_on_when_the_queue_is_emptied(stage: Stage) -> None:
    worker = stage.start()
    stage.hold("recover")
    stage.doorbell.ring("recover")
    wait_until(lambda: stage.count("began", "recover"))

    stage.connection.flushdb()
    stage.let_go("recover")
    wait_until(lambda: stage.count("done", "recover") == 1)
    stage.connection.flushdb()
    stage.doorbell.ring("recover")

    wait_until(lambda: stage.count("done", "recover") == 2)
    stage.wait_for("done", "drain_outbox", more=2)
    assert worker.end(signal.SIGTERM) == 0
    assert [key for key in stage.connection.keys("rq:job:*") if stage.connection.ttl(key) < 0] == []


def test_duties_are_done_while_the_queue_is_away(
    engine: Engine, redis_url: str, queue_server: Engine, tmp_path: Path
) -> None:
    stage = Stage(queue_server.url(), engine.url(NOTES_DATABASE), tmp_path)
    try:
        worker = stage.start()
        stage.wait_for("done", "drain_outbox")

        queue_server.kill()
        stage.wait_for("done", "drain_outbox", more=3)
        assert worker.process.poll() is None
        queue_server.spawn()
        wait_until(queue_server.ready)
        # Nothing but the queue brings this one.
        stage.doorbell.ring("recover")
        wait_until(lambda: stage.count("done", "recover"))

        assert worker.end(signal.SIGTERM) == 0
        assert [line for line in worker.lines() if "traceback" in line] == []
        told = [line["message"] for line in worker.lines() if "queue (" in line["message"]]
        assert told == [
            f"the queue (CARTSTORE_QUEUE_URL, {engine_place(queue_server.url())}) cannot be used: "
            f"{told[0].partition('used: ')[2]}"
        ], "one outage is one line"
        assert told[0].endswith(". The timers carry the jobs out themselves.")
        assert "Error 111" not in str(worker.lines())
        assert "the queue is back" in [line["message"] for line in worker.lines()]
    finally:
        stage.close()


def test_worker_starts_and_stops_when_the_queue_is_away(
    engine: Engine, redis_url: str, queue_server: Engine, tmp_path: Path
) -> None:
    stage = Stage(queue_server.url(), engine.url(NOTES_DATABASE), tmp_path)
    try:
        queue_server.kill()
        worker = stage.start()
        stage.wait_for("done", "drain_outbox", more=2)

        assert worker.end(signal.SIGTERM) == 0
    finally:
        stage.close()


# --- engine and database ----------------------------------------------------------------------------


def test_failure_is_said_once_when_it_goes_on(stage: Stage) -> None:
    stage.notes.set("fail drain_outbox", "StoreUnavailable")
    worker = stage.start()

    stage.wait_for("began", "drain_outbox", more=3)
    stage.notes.delete("fail drain_outbox")
    stage.wait_for("done", "drain_outbox")

    wait_until(lambda: any("works again" in line["message"] for line in worker.lines()))
    said = [line for line in worker.lines() if line["message"].startswith("drain_outbox failed")]
    assert len(said) == 1
    assert "StoreUnavailable" in said[0]["message"]
    assert [line for line in worker.lines() if "traceback" in line] == []


def test_worker_goes_on_when_a_job_has_a_defect(stage: Stage) -> None:
    stage.notes.set("fail drain_outbox", "ContractError")
    worker = stage.start()

    stage.wait_for("began", "drain_outbox", more=2)
    stage.wait_for("done", "release_due", more=2)

    assert worker.process.poll() is None


def test_worker_recovers_when_the_store_is_fenced(stage: Stage) -> None:
    stage.notes.set("fail drain_outbox", "StoreRecovering")
    stage.start()

    stage.wait_for("done", "recover")


if __name__ == "__main__":
    sys.exit(main())


def test_worker_starts_when_the_path_of_the_queue_s_socket_has_a_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_like_rq_3(worker: SimpleWorker, connection: redis.Redis) -> None:
        worker.ip_address = str(connection.client_info()["addr"])

    monkeypatch.setattr(SimpleWorker, "_set_ip_address", ask_like_rq_3)
    with tempfile.TemporaryDirectory(prefix="a b-") as folder:
        engine = Engine(Path(folder), password="own")
        engine.start()
        try:
            queue = open_queue(connect_queue(Settings(queue_url=engine.url(QUEUE_DATABASE))), "main")
            with pytest.raises(ValueError, match="unpack"):
                queue.connection.client_info()

            worker = DoorbellWorker(queue, stopping=threading.Event(), hurry=lambda: None)

            assert worker.ip_address == "unknown"
            queue.connection.close()
        finally:
            engine.kill()
