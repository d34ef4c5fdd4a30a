"""The timers: RQ's cron scheduler, on a thread of the worker. Owns when each job is rung at the latest.

Every worker runs them, so that no single process is needed for time to pass; a ring that another worker's
timer gave already adds nothing. What differs from RQ's own `rq cron` process, and why:

* It counts on the monotonic clock: with the wall clock set back by an hour, RQ's would rest for an hour.
* It rings the doorbell, instead of one more job each time, and with the queue's JSON instead of pickle.
* It outlives its Redis. While the queue cannot be reached the worker carries the jobs out by itself:
  a doorbell that is out of order must not keep events from the record.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Final

import redis
from redis import Redis
from rq import Queue
from rq.cron import CronJob, CronScheduler

from cartstore.redis.queue_outage import QueueOutage
from cartstore.settings import Settings
from cartstore_workers import jobs
from cartstore_workers.queues import JOB_MODULE, Doorbell, JobName

DRAIN_SECONDS: Final = 1
RETENTION_SECONDS: Final = 60

SIGN_OF_LIFE_SECONDS: Final = 30.0
"""RQ forgets a scheduler that was silent for two minutes."""

_logger = logging.getLogger(__name__)


def intervals(settings: Settings) -> dict[JobName, int]:
    """Seconds between two rings of each job."""
    return {
        "drain_outbox": DRAIN_SECONDS,
        "release_due": settings.sweep_seconds,
        "expire_payments": settings.sweep_seconds,
        "snapshot_carts": settings.snapshot_seconds,
        "reconcile": settings.reconcile_seconds,
        "apply_retention": RETENTION_SECONDS,
    }


class Timer(CronJob):
    """Rings for one job at an interval."""

    def __init__(self, job: JobName, seconds: int, ring: Callable[[JobName], None], queue: str) -> None:
        super().__init__(
            queue_name=queue, func=getattr(jobs, job), interval=seconds, name=f"{queue}.{JOB_MODULE}.{job}"
        )
        self._job: JobName = job
        self._seconds = seconds
        self._ring = ring
        self._next = time.monotonic()

    @property
    def rest_seconds(self) -> float:
        return self._next - time.monotonic()

    def should_run(self) -> bool:
        return self.rest_seconds <= 0

    def enqueue(self, connection: Redis) -> None:  # type: ignore[override]
        self._ring(self._job)

    def set_enqueue_time(self, time: datetime) -> None:
        super().set_enqueue_time(time)
        # From the time it was due, so that it does not drift; from now, after a pause: missed rings are one.
        self._next += self._seconds * (1 + max(0, int(-self.rest_seconds // self._seconds)))


class Timers(CronScheduler):
    """The timers of one worker, on their own thread and connection."""

    def __init__(
        self,
        settings: Settings,
        connection: Redis,
        carry_out: Callable[[JobName], object],
        outage: QueueOutage,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_turn` is called at every look at what is due."""
        super().__init__(connection, logging_level="WARNING")
        # RQ says at level INFO what it registers; with timers of a second that is of no interest.
        self.log.setLevel(logging.WARNING)
        self._carry_out = carry_out
        self._on_turn = on_turn
        self._doorbell = Doorbell(connection, settings.namespace)
        queue: Queue = self._doorbell.queue
        self._timers = [
            Timer(job, seconds, self._ring, queue.name) for job, seconds in intervals(settings).items()
        ]
        self._cron_jobs = list(self._timers)
        self._stopping = threading.Event()
        self._outage = outage
        self._said_alive_at = float("-inf")
        self._thread = threading.Thread(target=self._turn, name="timers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """End the timers, also when they were never started."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def calculate_sleep_interval(self) -> float:
        return max(0.0, min(timer.rest_seconds for timer in self._timers))

    def _turn(self) -> None:
        while not self._stopping.is_set():
            self._on_turn()
            try:
                self.enqueue_jobs()
                self._say_alive()
            except redis.RedisError as error:
                self._outage.failed(error)
            except Exception:
                # Time must go on passing, whatever went wrong with one ring.
                _logger.exception("a timer failed")
            # At least a little, so that a clock that jumps cannot make it spin.
            self._stopping.wait(max(0.01, self.calculate_sleep_interval()))
        with suppress(redis.RedisError):
            self.register_death()

    def _ring(self, job: JobName) -> None:
        try:
            self._doorbell.ring(job)
        except redis.RedisError as error:
            self._outage.failed(error)
            if not self._stopping.is_set():
                self._carry_out(job)
            return
        self._outage.succeeded()

    def _say_alive(self) -> None:
        now = time.monotonic()
        if now - self._said_alive_at >= SIGN_OF_LIFE_SECONDS and not self._outage.is_away:
            self.register_birth()
            self._said_alive_at = now
