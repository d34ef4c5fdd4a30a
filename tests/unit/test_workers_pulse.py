"""When a worker says that it is alive: after a turn of its duties or a piece of one, and not before."""

from __future__ import annotations

import asyncio
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import cartstore_workers.pulse
import cartstore_workers.runtime
import pytest
from cartstore_workers.pulse import THREAD_SILENT_SECONDS, Pulse
from cartstore_workers.runtime import Runtime

from cartstore import progress
from cartstore.errors import ConfigurationError, StoreRecovering, StoreUnavailable
from cartstore.listening import listen

PATIENCE_SECONDS = 30.0


class Heart:
    """Counts beats, and can be waited for."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []
        self.refusals = 0
        self.is_closed = False
        self._beaten = threading.Condition()

    async def beat(self, state: dict[str, Any]) -> None:
        if self.refusals:
            self.refusals -= 1
            raise StoreUnavailable
        with self._beaten:
            self.states.append(state)
            self._beaten.notify_all()

    async def close(self) -> None:
        self.is_closed = True

    def wait_for(self, condition: Callable[[list[dict[str, Any]]], object]) -> None:
        with self._beaten:
            assert self._beaten.wait_for(lambda: condition(self.states), PATIENCE_SECONDS)


class Store:
    """A store whose drain a test decides."""

    def __init__(self) -> None:
        self.engine = self
        self.drain: Callable[[], Any] | None = None
        self.drains = 0

    async def drain_outbox(self) -> int:
        self.drains += 1
        return await self.drain() if self.drain is not None else 0

    async def release_due(self, limit: int) -> int:
        return 0

    async def recover(self) -> bool:
        raise StoreRecovering("A replica took over; its old primary may go on for up to 9 seconds.")

    async def readiness(self) -> dict[str, Any]:
        checks = {"engine": {"ok": True, "detail": "answers"}}
        return {"ready": True, "status": "degraded", "checks": checks, "figures": None}


@pytest.fixture
def heart() -> Heart:
    return Heart()


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def start(heart: Heart, store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Runtime]]:
    """Starts a runtime that beats fast."""
    monkeypatch.setattr(cartstore_workers.runtime, "BEAT_SECONDS", 0.02)
    runtimes: list[Runtime] = []

    def start(opening: Any = None, **options: Any) -> Runtime:
        @asynccontextmanager
        async def opened() -> AsyncIterator[Any]:
            yield store

        runtime = Runtime(opening or opened, heart=lambda: heart, **options)  # type: ignore[arg-type]
        runtimes.append(runtime)
        assert runtime.open(threading.Event())
        return runtime

    yield start
    for runtime in runtimes:
        runtime.close()


def test_worker_beats_and_drains_by_itself_when_no_job_comes(
    start: Callable[..., Runtime], heart: Heart, store: Store
) -> None:
    start()

    heart.wait_for(lambda states: len(states) >= 3)

    assert store.drains >= 2
    assert heart.states[-1] == {"drift": {}}


def test_worker_is_silent_while_a_duty_hangs_and_beats_with_each_piece_of_a_long_one(
    start: Callable[..., Runtime], heart: Heart, store: Store
) -> None:
    began, over, piece = threading.Event(), threading.Event(), threading.Event()

    async def drain() -> int:
        began.set()
        while not over.is_set():
            if piece.is_set():
                piece.clear()
                progress.made()
            await asyncio.sleep(0.001)
        return 0

    runtime = start()
    store.drain = drain
    assert began.wait(PATIENCE_SECONDS)
    # The turn before may be told of yet.
    heart.wait_for(lambda _: runtime.pulse.turned_at == _told_of(runtime))
    told = len(heart.states)
    # The loop turns: it answers, and goes on looking at the pulse.
    for _ in range(10):
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.02), runtime._loop).result()  # type: ignore[arg-type]
    assert len(heart.states) == told

    piece.set()

    heart.wait_for(lambda states: len(states) == told + 1)
    over.set()
    heart.wait_for(lambda states: len(states) > told + 1)


def _told_of(runtime: Runtime) -> float:
    return runtime.told_of


def test_worker_beats_again_when_a_beat_did_not_reach_the_engine(
    start: Callable[..., Runtime], heart: Heart
) -> None:
    heart.refusals = 3
    start()

    heart.wait_for(lambda states: len(states) >= 1)

    assert heart.refusals == 0


def test_worker_is_silent_when_a_thread_that_brings_jobs_is(
    start: Callable[..., Runtime], heart: Heart
) -> None:
    runtime = start()
    now = runtime.pulse._clock()
    runtime.pulse._signs["jobs"] = now - THREAD_SILENT_SECONDS - 1
    heart.wait_for(lambda _: not runtime._running)
    told = len(heart.states)
    for _ in range(10):
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.02), runtime._loop).result()  # type: ignore[arg-type]

    # One may have been on its way.
    assert len(heart.states) <= told + 1
    is_well, health = runtime.health()
    assert (is_well, health["status"], health["silent_threads"]) == (False, "silent", ["jobs"])

    runtime.pulse.sign("jobs")
    heart.wait_for(lambda states: len(states) > told + 1)


def test_worker_says_why_it_cannot_recover_until_a_job_passes_the_gate(
    start: Callable[..., Runtime], heart: Heart, store: Store
) -> None:
    async def fenced() -> int:
        raise StoreRecovering

    runtime = start()
    store.drain = fenced
    runtime.run("drain_outbox")
    heart.wait_for(lambda states: states and "old primary" in states[-1].get("recovery", ""))

    store.drain = None
    runtime.run("release_due")

    heart.wait_for(lambda states: "recovery" not in states[-1])


def test_worker_beats_while_its_store_is_being_opened(
    start: Callable[..., Runtime], heart: Heart, store: Store
) -> None:
    """Opening may take a whole rebuild, or wait for a server."""

    @asynccontextmanager
    async def opening() -> AsyncIterator[Any]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(heart.states) < 3:
                progress.made()
                await asyncio.sleep(0.001)
        yield store

    start(opening)

    assert len(heart.states) >= 3


def test_worker_takes_its_beats_away_when_it_ends(start: Callable[..., Runtime], heart: Heart) -> None:
    start().close()

    assert heart.is_closed


def test_pulse_names_threads_only_when_they_began_and_fell_silent() -> None:
    now = [0.0]
    pulse = Pulse(lambda: now[0])
    now[0] = 100.0
    assert pulse.silent_threads() == []

    pulse.sign("timers")
    now[0] += THREAD_SILENT_SECONDS
    assert pulse.silent_threads() == []
    now[0] += 1

    assert pulse.silent_threads() == ["timers"]


# --- HTTP -------------------------------------------------------------------------------------------


def ask(listener: socket.socket, path: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{listener.getsockname()[1]}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.read().decode()


def test_worker_answers_health_and_metrics_from_its_loop(start: Callable[..., Runtime]) -> None:
    listener = listen("127.0.0.1", 0)
    # uvicorn closes its own.
    address = listener.dup()
    start(listener=listener)

    with address:
        assert ask(address, "/health")[0] == 200
        assert ask(address, "/health/live")[0] == 200
        assert ask(address, "/health/ready") == (
            200,
            '{"ready":true,"status":"degraded","checks":{"engine":{"ok":true,"detail":"answers"}}}',
        )
        status, metrics = ask(address, "/metrics")
        assert status == 200
        assert 'cartstore_check_ok{check="engine"} 1.0' in metrics
        assert "cartstore_jobs_total" in metrics
        assert ask(address, "/health", "HEAD") == (200, "")
        assert ask(address, "/health", "POST")[0] == 405
        assert ask(address, "/none")[0] == 404


def test_worker_s_health_is_503_when_its_duties_rest(start: Callable[..., Runtime], store: Store) -> None:
    listener = listen("127.0.0.1", 0)
    address = listener.dup()
    runtime = start(listener=listener)
    over = threading.Event()

    async def hangs() -> int:
        while not over.is_set():  # noqa: ASYNC110 (another thread ends it)
            await asyncio.sleep(0.001)
        return 0

    store.drain = hangs
    thread = threading.Thread(target=lambda: runtime.run("drain_outbox"))
    thread.start()
    try:
        # As the clock will show after a while.
        clock = runtime.pulse._clock
        runtime.pulse._clock = lambda: clock() + 60
        with address:
            status, text = ask(address, "/health")
        assert status == 503
        assert '"status":"silent"' in text
    finally:
        over.set()
        thread.join()


def test_worker_port_that_is_taken_is_refused_in_one_line(redis_url: str) -> None:
    from cartstore_workers.worker import serve

    from cartstore.settings import Settings

    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port}"):
            serve(Settings(redis_url=redis_url, database_url="postgresql://x", worker_port=port))
