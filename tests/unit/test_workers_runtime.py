"""The worker's parts without a worker: how a job is bounded, what is said of failures, when timers ring."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import cartstore_workers.runtime
import pytest
import redis
from cartstore_workers import jobs, metrics, timers
from cartstore_workers.duties import ROUNDS_MAX, Duties
from cartstore_workers.logs import OUTAGES, configure_logging
from cartstore_workers.queues import JOB_NAMES, connect_queue, job_name_of
from cartstore_workers.runtime import Complaints, Opening, Runtime
from cartstore_workers.timers import Timer, intervals
from cartstore_workers.worker import serve

from cartstore.archive.retention import RETENTION_KINDS, RetentionBatch, RetentionKind
from cartstore.errors import ConfigurationError, ContractError, StoreRecovering, StoreUnavailable
from cartstore.logs import JsonFormatter, describe
from cartstore.recovery.drift import Drift
from cartstore.recovery.report import ReconcileReport
from cartstore.settings import Settings


class Store:
    """A store whose duties a test decides."""

    def __init__(self) -> None:
        self.engine = self
        self.recoveries = 0
        self.drained: list[int] = []
        self.drain: Callable[[], Awaitable[int]] | None = None

    async def drain_outbox(self) -> int:
        if self.drain is not None:
            return await self.drain()
        return self.drained.pop(0) if self.drained else 0

    async def release_due(self, limit: int) -> int:
        return limit

    async def expire_payments(self, limit: int) -> int:
        return 3

    async def snapshot_carts(self) -> int:
        return 2

    async def recover(self) -> bool:
        self.recoveries += 1
        return True

    async def apply_retention(self, kind: RetentionKind) -> RetentionBatch:
        if kind == "events":
            raise StoreUnavailable("too slow")
        return RetentionBatch(removed=3, is_more=kind == "snapshots")


def opening_of(store: Any) -> Opening:
    @asynccontextmanager
    async def opening() -> AsyncIterator[Any]:
        yield store

    return opening


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def runtime(store: Store) -> Iterator[Runtime]:
    runtime = Runtime(opening_of(store))
    assert runtime.open(threading.Event())
    yield runtime
    runtime.close()


def value_of(metric: Any, sample: str, **labels: str) -> float:
    return next(
        its.value
        for family in metric.collect()
        for its in family.samples
        if its.name == sample and its.labels == labels
    )


# --- runtime ----------------------------------------------------------------------------------------


def test_run_gives_ok_and_counts_when_the_job_ends(runtime: Runtime, store: Store) -> None:
    before = value_of(metrics.EVENTS_DRAINED, "cartstore_events_drained_total")
    store.drained = [7]

    assert runtime.run("drain_outbox") == "ok"

    assert value_of(metrics.EVENTS_DRAINED, "cartstore_events_drained_total") == before + 7
    assert value_of(metrics.JOBS, "cartstore_jobs_total", name="drain_outbox", outcome="ok") >= 1


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (StoreUnavailable(), "unavailable"),
        (ContractError(), "error"),
        (ZeroDivisionError(), "error"),
        (TimeoutError(), "timeout"),
    ],
)
def test_run_raises_nothing_when_the_job_does(
    runtime: Runtime, store: Store, error: Exception, outcome: str
) -> None:
    async def fail() -> int:
        raise error

    store.drain = fail

    assert runtime.run("drain_outbox") == outcome


def test_run_recovers_when_the_gate_is_shut(runtime: Runtime, store: Store) -> None:
    async def fail() -> int:
        raise StoreRecovering()

    store.drain = fail

    assert runtime.run("drain_outbox") == "recovering"

    assert store.recoveries == 1


def test_run_cancels_the_job_when_it_takes_too_long(
    runtime: Runtime, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cartstore_workers.runtime, "JOB_SECONDS_MAX", 0.05)
    store.drain = asyncio.Event().wait  # type: ignore[assignment]

    assert runtime.run("drain_outbox") == "timeout"


def test_run_gives_stopped_when_the_store_is_closed_meanwhile(runtime: Runtime, store: Store) -> None:
    running = threading.Event()

    async def drain() -> int:
        running.set()
        await asyncio.Event().wait()
        return 0

    store.drain = drain
    outcomes: list[str] = []
    thread = threading.Thread(target=lambda: outcomes.append(runtime.run("drain_outbox")))
    thread.start()
    running.wait()

    runtime.close()
    thread.join()

    assert outcomes == ["stopped"]


def test_run_ends_the_process_when_the_loop_is_stuck(
    runtime: Runtime, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JOB_SECONDS_MAX", "RECOVERY_SECONDS_MAX", "STUCK_SECONDS"):
        monkeypatch.setattr(cartstore_workers.runtime, name, 0.05)
    stuck = threading.Event()

    async def drain() -> int:
        stuck.wait()
        return 0

    def end(code: int) -> None:
        stuck.set()
        raise SystemExit(code)

    store.drain = drain
    monkeypatch.setattr("os._exit", end)

    with pytest.raises(SystemExit) as ended:
        runtime.run("drain_outbox")
    assert ended.value.code == 1


def test_open_tries_again_when_a_server_is_away(store: Store) -> None:
    attempts = 0

    @asynccontextmanager
    async def opening() -> AsyncIterator[Any]:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise StoreUnavailable()
        yield store

    runtime = Runtime(opening)
    assert runtime.open(threading.Event())
    runtime.close()

    assert attempts == 3


def test_open_gives_up_when_asked_to_stop() -> None:
    @asynccontextmanager
    async def opening() -> AsyncIterator[Any]:
        raise StoreUnavailable()
        yield

    stopping = threading.Event()
    stopping.set()
    runtime = Runtime(opening)

    assert not runtime.open(stopping)

    runtime.hurry()
    runtime.close()


def test_open_raises_when_the_settings_are_wrong() -> None:
    @asynccontextmanager
    async def opening() -> AsyncIterator[Any]:
        raise ConfigurationError("not so")
        yield

    with pytest.raises(ConfigurationError, match="not so"):
        Runtime(opening).open(threading.Event())


def test_closing_that_fails_is_logged(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    @asynccontextmanager
    async def opening() -> AsyncIterator[Any]:
        try:
            yield store
        finally:
            raise ZeroDivisionError

    runtime = Runtime(opening)
    runtime.open(threading.Event())

    runtime.close()

    assert "closing the store failed" in caplog.text


def test_serve_refuses_when_a_url_is_missing() -> None:
    with pytest.raises(ConfigurationError, match="CARTSTORE_DATABASE_URL"):
        serve(Settings(redis_url="redis://localhost"))


def test_connect_refuses_a_url_of_another_kind() -> None:
    with pytest.raises(ConfigurationError, match="CARTSTORE_QUEUE_URL"):
        connect_queue(Settings(queue_url="http://localhost"))
    with pytest.raises(ConfigurationError, match="needs its queue"):
        connect_queue(Settings())


def test_queue_is_database_1_of_the_engine_when_not_named() -> None:
    client = connect_queue(Settings(redis_url="redis://:secret@localhost:7000/0"))

    assert client.connection_pool.connection_kwargs["db"] == 1
    assert client.connection_pool.connection_kwargs["port"] == 7000


# --- jobs and duties --------------------------------------------------------------------------------


def test_job_refuses_when_no_runtime_is_installed() -> None:
    with pytest.raises(ContractError, match="cartstore_workers"):
        jobs.drain_outbox()


def test_every_job_name_is_a_function() -> None:
    for name in JOB_NAMES:
        assert callable(getattr(jobs, name))
        assert job_name_of(f"cartstore_workers.jobs.{name}") == name
    assert job_name_of("os.system") is None
    assert job_name_of("cartstore_workers.jobs.install") is None


async def test_release_due_ends_when_there_is_more_than_a_job_may_do(store: Store) -> None:
    before = value_of(metrics.HOLDS_RELEASED, "cartstore_holds_released_total")

    await Duties(store).release_due()  # type: ignore[arg-type]

    released = value_of(metrics.HOLDS_RELEASED, "cartstore_holds_released_total") - before
    assert released == ROUNDS_MAX * 500


async def test_release_due_ends_early_when_the_worker_stops(store: Store) -> None:
    before = value_of(metrics.HOLDS_RELEASED, "cartstore_holds_released_total")
    duties = Duties(store)  # type: ignore[arg-type]

    duties.stop_early()
    await duties.release_due()

    assert value_of(metrics.HOLDS_RELEASED, "cartstore_holds_released_total") - before == 500


async def test_expire_payments_counts(store: Store) -> None:
    before = value_of(metrics.PAYMENTS_EXPIRED, "cartstore_payments_expired_total")

    await Duties(store).expire_payments()  # type: ignore[arg-type]

    assert value_of(metrics.PAYMENTS_EXPIRED, "cartstore_payments_expired_total") == before + 3


async def test_snapshot_carts_counts(store: Store) -> None:
    before = value_of(metrics.CARTS_SNAPSHOT, "cartstore_carts_snapshot_total")

    await Duties(store).snapshot_carts()  # type: ignore[arg-type]

    assert value_of(metrics.CARTS_SNAPSHOT, "cartstore_carts_snapshot_total") == before + 2


async def test_apply_retention_removes_the_others_when_one_kind_fails(store: Store) -> None:
    def removed() -> dict[str, float]:
        name = "cartstore_retention_removed_total"
        return {kind: value_of(metrics.RETENTION_REMOVED, name, what=kind) for kind in RETENTION_KINDS}

    duties = Duties(store)  # type: ignore[arg-type]
    before = removed()

    with pytest.raises(StoreUnavailable, match="too slow"):
        await duties.apply_retention()

    counted = {kind: count - before[kind] for kind, count in removed().items()}
    assert counted == {
        "events": 0,
        "snapshots": 3 * ROUNDS_MAX,
        "order_details": 3,
        "product_revisions": 3,
    }


async def test_reconcile_keeps_what_is_left_for_the_beat(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drift = Drift(kind="engine_ahead", subject="A", detail="differently", expected="1", found="2")
    repaired = Drift(kind="sku_missing", subject="B", detail="missing", expected="1", found="2")

    class Found:
        def __init__(self, store: object) -> None:
            pass

        async def run(self, limit: int) -> ReconcileReport:
            return ReconcileReport(checked=9, repaired=[repaired], drift=[drift])

        def open_by_kind(self) -> dict[str, int]:
            return {"engine_ahead": 1, "ledger_ahead": 0}

    monkeypatch.setattr("cartstore_workers.duties.Reconciler", Found)
    duties = Duties(store)  # type: ignore[arg-type]
    assert duties.drift == {}

    await duties.reconcile()

    assert duties.drift == {"engine_ahead": 1}
    assert value_of(metrics.DRIFT_REPAIRED, "cartstore_drift_repaired_total", kind="sku_missing") == 1
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]


@pytest.mark.parametrize("job", ["snapshot_carts", "reconcile"])
async def test_events_are_drained_when_another_job_takes_its_time(
    store: Store, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    """Such a job once kept a checkout that waits for its archiving waiting for ten seconds."""
    duties = Duties(store)  # type: ignore[arg-type]
    drained = asyncio.Event()

    async def drain() -> int:
        drained.set()
        return 0

    async def long_work(*_: object) -> Any:
        await drained.wait()
        return 0 if job == "snapshot_carts" else ReconcileReport(checked=0, repaired=[], drift=[])

    store.drain = drain
    monkeypatch.setattr(store, "snapshot_carts", long_work)
    monkeypatch.setattr(duties._reconciler, "run", long_work)

    async with asyncio.timeout(30):
        await getattr(duties, job)()

    assert drained.is_set()


@pytest.mark.parametrize("how", ["cancelled", "drain fails"])
async def test_long_job_has_ended_when_its_worker_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    duties = Duties(store)  # type: ignore[arg-type]
    began, ended = asyncio.Event(), asyncio.Event()

    async def long_work() -> int:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return 0

    async def drain() -> int:
        raise StoreUnavailable()

    if how == "drain fails":
        store.drain = drain
    monkeypatch.setattr(store, "snapshot_carts", long_work)
    task = asyncio.create_task(duties.snapshot_carts())
    await began.wait()
    if how == "cancelled":
        task.cancel()

    with pytest.raises(asyncio.CancelledError if how == "cancelled" else StoreUnavailable):
        await task

    assert ended.is_set()


def test_forget_dead_processes_keeps_what_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = tmp_path / "gauge_livemax_999999999.db"
    alive = tmp_path / "gauge_livemax_1.db"
    dead.touch()
    alive.touch()

    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    metrics.forget_dead_processes()
    assert dead.exists()

    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    metrics.forget_dead_processes()
    assert not dead.exists()
    assert alive.exists()


# --- timers -----------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_timer_keeps_its_beat_and_rings_once_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(timers, "time", clock)
    timer = Timer("drain_outbox", 10, lambda job: None, "queue")

    def ring() -> float:
        assert timer.should_run()
        timer.set_enqueue_time(timers.datetime.now())
        return timer.rest_seconds

    assert ring() == 10
    assert not timer.should_run()
    clock.now += 10.5
    assert ring() == 9.5
    clock.now += 47
    assert 0 < ring() <= 10
    assert not timer.should_run()


def test_intervals_are_those_of_the_settings() -> None:
    seconds = intervals(Settings(sweep_seconds=4, snapshot_seconds=7, reconcile_seconds=60))

    assert seconds == {
        "drain_outbox": 1,
        "release_due": 4,
        "expire_payments": 4,
        "snapshot_carts": 7,
        "reconcile": 60,
        "apply_retention": 60,
    }


# --- logs -------------------------------------------------------------------------------------------


def line_of(error: BaseException | None = None, **fields: object) -> dict[str, Any]:
    exc_info = (type(error), error, None) if error is not None else None
    record = logging.LogRecord("name", logging.INFO, "file", 1, "to %s", ("whom",), exc_info)
    vars(record)["fields"] = fields
    return dict(json.loads(JsonFormatter(outages=OUTAGES).format(record)))


def test_log_line_is_json_with_what_was_given_beside() -> None:
    line = line_of(kind="orphan", subject=Path("x"))

    assert line["message"] == "to whom"
    assert (line["level"], line["kind"], line["subject"]) == ("info", "orphan", "x")


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), redis.ConnectionError("gone"), OSError("gone")])
def test_outage_is_logged_without_traceback(error: Exception) -> None:
    line = line_of(error)

    assert line["error"] == f"{type(error).__name__}: gone"
    assert "traceback" not in line


def test_defect_is_logged_with_traceback() -> None:
    assert "ZeroDivisionError" in line_of(ZeroDivisionError())["traceback"]


def test_describe_is_one_line() -> None:
    assert describe(ValueError("a\n  b")) == "ValueError: a b"
    assert describe(ValueError()) == "ValueError"


def test_configure_logging_replaces_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logging(logging.WARNING)
        (handler,) = root.handlers
        assert isinstance(handler, logging.StreamHandler)
        assert handler.stream is sys.stderr
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def test_complaints_say_a_failure_once_until_it_is_another(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints()

    complaints.failed("drain", "unavailable", StoreUnavailable())
    complaints.failed("drain", "unavailable", StoreUnavailable())
    complaints.failed("drain", "error", ZeroDivisionError())
    complaints.succeeded("drain")
    complaints.succeeded("drain")

    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR", "WARNING"]
    assert [record.exc_info is None for record in caplog.records] == [True, False, True]
