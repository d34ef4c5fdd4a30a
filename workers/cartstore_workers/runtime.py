"""The one event loop of a worker process, on a thread of its own, with the store opened once on it.

Jobs come from RQ's thread, which blocks on its queue between them. On that thread the loop would stand
still meanwhile: connections would not be kept, a restart of the engine would not be seen, and every job
would begin with what had piled up. On its own thread the loop runs all the time.

Owns how a job is bounded, and what is said and counted when it fails. No job raises: what it did not do,
the next ring does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

from cartstore import progress
from cartstore.errors import CartStoreError, StoreError, StoreRecovering, fact_of
from cartstore.heartbeat import BEAT_SECONDS, SILENT_SECONDS
from cartstore.logs import describe
from cartstore.tasks import end
from cartstore_workers import metrics
from cartstore_workers.duties import Duties
from cartstore_workers.http import answering
from cartstore_workers.pulse import Pulse, ThreadName

if TYPE_CHECKING:
    from cartstore.redis.heart import Heart
    from cartstore.store import CartStore
    from cartstore_workers.queues import JobName

JOB_SECONDS_MAX: Final = 60.0
"""A job that takes longer is cancelled; its transaction is rolled back and the next ring starts over."""

RECOVERY_SECONDS_MAX: Final = 600.0

GRACE_SECONDS: Final = 4.0
"""What a running job gets after the process was asked to stop."""

STUCK_SECONDS: Final = 30.0
"""A loop that has not cancelled a job by then turns no more."""

CLOSE_SECONDS: Final = 3.0

OPEN_WAIT_SECONDS_MAX: Final = 5.0

REPEAT_SECONDS: Final = 30.0
"""A failure that goes on is said again so often, not at every ring."""

PASSING_THE_GATE: Final = ("release_due", "expire_payments", "recover")
"""Jobs that end well only while the gate is open. A drain without events does not ask."""

Outcome = Literal["ok", "recovering", "unavailable", "timeout", "stopped", "error"]

Opening = Callable[[], "AbstractAsyncContextManager[CartStore]"]

_logger = logging.getLogger(__name__)


class Runtime:
    """Carries jobs out, from any thread but the loop's own."""

    def __init__(
        self,
        opening: Opening,
        *,
        heart: Callable[[], Heart] | None = None,
        listener: socket.socket | None = None,
    ) -> None:
        """`opening` gives the store's context manager; called again until it opens. `heart` is made on the
        loop, and beats from before the store is open. `listener`: where health and metrics are asked for."""
        self._opening = opening
        self._open_heart = heart
        self._listener = listener
        self.pulse = Pulse()
        self.told_of = float("-inf")
        """The turn that the last beat told of."""
        self._store: CartStore | None = None
        self._recovery_failure = ""
        self._own_turn: asyncio.Task[Outcome] | None = None
        """A drain that no thread waits for."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._duties: Duties | None = None
        self._running: set[asyncio.Task[Outcome]] = set()
        self._opened = threading.Event()
        self._failure: BaseException | None = None
        self._complaints = Complaints()
        self._thread = threading.Thread(target=self._turn, name="loop", daemon=True)

    def open(self, stopping: threading.Event) -> bool:
        """Start the loop and wait until the store is open; False when `stopping` came first.

        A server that is away is waited for. Raises what else prevents the opening: ConfigurationError.
        """
        self._thread.start()
        # In slices, because a signal handler only sets the event.
        while not self._opened.wait(0.1):
            if stopping.is_set():
                return False
        if self._failure is not None:
            raise self._failure
        return True

    def run(self, name: JobName) -> Outcome:
        """Carry one job out and tell what came of it. Raises nothing."""
        assert self._loop is not None
        assert self._duties is not None
        future = asyncio.run_coroutine_threadsafe(self._bounded(name, self._duties), self._loop)
        try:
            return future.result(JOB_SECONDS_MAX + RECOVERY_SECONDS_MAX + STUCK_SECONDS)
        except CancelledError:
            return "stopped"
        except TimeoutError:
            # Nothing in this process can be cleaned up any more; whatever supervises it starts another.
            _logger.critical("the event loop is stuck; the process ends", extra={"fields": {"job": name}})
            os._exit(1)

    def hurry(self) -> None:
        """Let running jobs end with their present batch, and cancel them after GRACE_SECONDS.

        May be called by a signal handler.
        """
        loop, duties = self._loop, self._duties
        if loop is not None and duties is not None and not loop.is_closed():
            loop.call_soon_threadsafe(duties.stop_early)
            loop.call_soon_threadsafe(loop.call_later, GRACE_SECONDS, self._cancel_running)

    def close(self) -> None:
        """Close the store and end the loop, within CLOSE_SECONDS."""
        loop, main = self._loop, self._main
        if loop is not None and main is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._cancel_running)
            loop.call_soon_threadsafe(main.cancel)
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    def _turn(self) -> None:
        try:
            asyncio.run(self._keep_open())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            if self._opened.is_set():
                _logger.exception("closing the store failed")
            self._failure = error
            self._opened.set()

    async def _keep_open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._main = asyncio.current_task()
        # Opening may take a whole rebuild.
        progress.tell(self.pulse.made)
        async with answering(self, self._listener), self._beating():
            wait_seconds = 0.25
            while True:
                try:
                    async with self._opening() as store:
                        self._store, self._duties = store, Duties(store)
                        self._opened.set()
                        await asyncio.Event().wait()
                except (StoreError, OSError) as error:
                    if self._opened.is_set():
                        raise
                    self._complaints.failed("opening the store", "unavailable", error)
                self.pulse.made()
                await asyncio.sleep(wait_seconds)
                wait_seconds = min(2 * wait_seconds, OPEN_WAIT_SECONDS_MAX)

    # --- signs of life -------------------------------------------------------------------------

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether the duties are done, for who asks this worker over HTTP."""
        rest = self.pulse.rest_seconds
        silent = self._silent_threads()
        is_well = self._duties is not None and rest <= SILENT_SECONDS and not silent
        status = "ok" if is_well else "opening" if self._duties is None else "silent"
        return is_well, {"status": status, "last_turn_seconds": round(rest, 1), "silent_threads": silent}

    async def readiness(self) -> dict[str, Any] | None:
        """What the store finds; None before it is open."""
        return None if self._store is None else await self._store.readiness()

    @asynccontextmanager
    async def _beating(self) -> AsyncIterator[None]:
        if self._open_heart is None:
            yield
            return
        heart = self._open_heart()
        task = asyncio.create_task(self._beat(heart))
        try:
            yield
        finally:
            await end(task)
            await heart.close()

    async def _beat(self, heart: Heart) -> None:
        while True:
            self._take_a_turn()
            turned_at = self.pulse.turned_at
            if turned_at != self.told_of and not self._silent_threads():
                try:
                    await heart.beat(self._state())
                    self.told_of = turned_at
                except StoreError:
                    # Whoever watches sees the silence, and knows whether the engine was away.
                    _logger.debug("no sign of life reached the engine", exc_info=True)
            await asyncio.sleep(BEAT_SECONDS)

    def _silent_threads(self) -> list[ThreadName]:
        """Threads that bring no jobs any more. One that waits for a job which runs is not silent."""
        has_own_turn = self._own_turn is not None and not self._own_turn.done()
        return [] if len(self._running) > has_own_turn else self.pulse.silent_threads()

    def _take_a_turn(self) -> None:
        """Drain, if nothing was done for a while: another worker on the queue may take all jobs."""
        duties = self._duties
        if duties is None or self._running or duties.is_stopping or self.pulse.rest_seconds < BEAT_SECONDS:
            return
        self._own_turn = asyncio.create_task(self._bounded("drain_outbox", duties))

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"drift": {} if self._duties is None else self._duties.drift}
        if self._recovery_failure:
            state["recovery"] = self._recovery_failure
        return state

    def _cancel_running(self) -> None:
        for task in self._running:
            task.cancel()

    async def _bounded(self, name: JobName, duties: Duties) -> Outcome:
        progress.tell(self.pulse.made)
        task = asyncio.create_task(self._carried_out(name, duties))
        self._running.add(task)
        started = time.monotonic()
        outcome: Outcome = "stopped"
        try:
            outcome = await task
        finally:
            self._running.discard(task)
            self.pulse.made()
            metrics.JOBS.labels(name, outcome).inc()
            metrics.JOB_SECONDS.labels(name).observe(time.monotonic() - started)
        return outcome

    async def _carried_out(self, name: JobName, duties: Duties) -> Outcome:
        outcome: Outcome
        failure: BaseException
        try:
            async with asyncio.timeout(RECOVERY_SECONDS_MAX if name == "recover" else JOB_SECONDS_MAX):
                await duties.by_name[name]()
        except StoreRecovering as error:
            outcome, failure = "recovering", error
            await self._recover(duties)
        except StoreError as error:
            outcome, failure = "unavailable", error
        except TimeoutError as error:
            outcome, failure = "timeout", error
        except Exception as error:
            # A job that died of a defect must not take the worker, and with it all other jobs, along.
            outcome, failure = "error", error
        else:
            if name in PASSING_THE_GATE:
                self._recovery_failure = ""
            self._complaints.succeeded(name)
            return "ok"
        self._complaints.failed(name, outcome, failure)
        return outcome

    async def _recover(self, duties: Duties) -> None:
        try:
            async with asyncio.timeout(RECOVERY_SECONDS_MAX):
                await duties.recover()
        except Exception as error:
            self._recovery_failure = fact_of(error) if isinstance(error, CartStoreError) else describe(error)
            self._complaints.failed("recover", "unavailable", error)
        else:
            self._recovery_failure = ""
            self._complaints.succeeded("recover")


class Complaints:
    """Says a failure once when it begins, now and then while it lasts, and when it is over."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[str, float, int]] = {}

    def failed(self, what: str, outcome: str, error: BaseException) -> None:
        text = describe(error)
        before, said_at, count = self._since.get(what, ("", 0.0, 0))
        now = time.monotonic()
        if type(error).__name__ == before and now - said_at < REPEAT_SECONDS:
            self._since[what] = (before, said_at, count + 1)
            return
        self._since[what] = (type(error).__name__, now, count + 1)
        expected = isinstance(error, CartStoreError | OSError | TimeoutError)
        _logger.log(
            logging.WARNING if expected else logging.ERROR,
            "%s failed: %s",
            what,
            text,
            exc_info=None if expected else error,
            extra={"fields": {"outcome": outcome, "failures": count + 1}},
        )

    def succeeded(self, what: str) -> None:
        if what in self._since:
            *_, count = self._since.pop(what)
            _logger.warning("%s works again", what, extra={"fields": {"failures": count}})
