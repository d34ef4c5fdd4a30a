"""The worker process: RQ's non-forking worker, kept alive. Owns signals and the way back after an outage."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import redis
from rq import Queue, SimpleWorker
from rq.exceptions import StopRequested
from rq.serializers import JSONSerializer
from rq.timeouts import BaseDeathPenalty
from rq.worker import WorkerStatus

import cartstore
from cartstore.errors import ConfigurationError
from cartstore.listening import listen
from cartstore.redis.heart import Heart
from cartstore.redis.queue_outage import OutageFilter, QueueOutage
from cartstore.settings import Settings
from cartstore_workers import jobs, metrics
from cartstore_workers.queues import connect_queue, job_name_of, open_queue
from cartstore_workers.runtime import CLOSE_SECONDS, GRACE_SECONDS, Opening, Runtime
from cartstore_workers.timers import Timers

if TYPE_CHECKING:
    from rq.job import Job

RETURN_SECONDS_MIN: Final = 0.2
RETURN_SECONDS_MAX: Final = 5.0
HEALTHY_SECONDS: Final = 30.0

WORKER_TTL_SECONDS: Final = 17
"""RQ waits 15 seconds less than this for a job before it looks up again."""

MAINTENANCE_SECONDS: Final = 60
"""How often RQ clears up after workers that were killed."""

_logger = logging.getLogger(__name__)


class Unbounded(BaseDeathPenalty):
    """No alarm: the runtime bounds every job, by cancelling it on its loop. RQ's own would raise in the
    middle of whatever this thread does, and SIGALRM belongs to the whole process."""

    def setup_death_penalty(self) -> None:
        return

    def cancel_death_penalty(self) -> None:
        return


class DoorbellWorker(SimpleWorker):
    """Takes rings off one queue until it is asked to stop."""

    death_penalty_class = Unbounded
    max_connection_wait_time = RETURN_SECONDS_MAX

    def __init__(
        self,
        queue: Queue,
        *,
        stopping: threading.Event,
        hurry: Callable[[], None],
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_wait` is called before every wait for a job."""
        super().__init__(
            [queue],
            connection=queue.connection,
            serializer=JSONSerializer,
            maintenance_interval=MAINTENANCE_SECONDS,
            log_job_description=False,
            worker_ttl=WORKER_TTL_SECONDS,
        )
        self._stopping = stopping
        self._hurry = hurry
        self._on_wait = on_wait

    def _set_ip_address(self, connection: redis.Redis) -> None:
        # RQ 3 asks by CLIENT INFO, whose answer redis-py takes apart at every space: an engine on a unix
        # socket whose path has one would keep the worker from starting. The address is only shown to people.
        try:
            super()._set_ip_address(connection)
        except ValueError:
            self.ip_address = "unknown"

    def execute_job(self, job: Job, queue: Queue) -> None:
        # RQ would import and call whatever name stands in the job, `os.system` for one.
        if job_name_of(str(job.func_name)) is None:
            _logger.error(
                "a job that is not ours was dropped", extra={"fields": {"job": str(job.func_name)[:128]}}
            )
            job.delete()
            queue.intermediate_queue.remove(job.id)
            return
        super().execute_job(job, queue)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """End after the running job. RQ's own would talk to Redis inside the signal handler."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self.get_state() == WorkerStatus.BUSY:
            self._stop_requested = True
            self._hurry()
        else:
            raise StopRequested

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        # Called before each wait for a job. An exception that a signal handler raises can be lost, in a
        # destructor for instance; without this look the wait would then go on for ever.
        if self._stopping.is_set() and pipeline is None and self.get_state() != WorkerStatus.BUSY:
            raise StopRequested
        self._on_wait()
        super().heartbeat(timeout, pipeline)

    def subscribe(self) -> None:
        """No command channel: its commands are for forking workers, and its thread would outlive outages."""

    def unsubscribe(self) -> None:
        """See subscribe."""

    def _install_signal_handlers(self) -> None:
        super()._install_signal_handlers()  # type: ignore[no-untyped-call]
        # A signal that came before this line has only set the event.
        self._stop_requested = self._stopping.is_set()


def serve(settings: Settings, opening: Opening | None = None) -> int:
    """Work until SIGTERM or SIGINT; the process's exit code. Only in the main thread.

    Raises ConfigurationError when the settings do not allow a start.
    """
    if opening is None:
        if not (settings.redis_url and settings.database_url):
            raise ConfigurationError(
                "A worker needs CARTSTORE_REDIS_URL and CARTSTORE_DATABASE_URL; "
                "`cartstore worker --data-dir D` sets them to what runs there."
            )
        # What this store writes itself is drained by its own timers.
        opening = partial(cartstore.open_store, settings, doorbell=lambda: None)
    stopping = threading.Event()
    listener = listen(settings.worker_host, settings.worker_port) if settings.worker_port else None
    heart = partial(Heart, settings, "worker") if settings.redis_url else None
    runtime = Runtime(opening, heart=heart, listener=listener)
    queue = open_queue(connect_queue(settings), settings.namespace)
    outage = QueueOutage(settings, _logger, consequence="The timers carry the jobs out themselves")
    logging.getLogger("rq.worker").addFilter(OutageFilter(outage))
    timers = Timers(
        settings, connect_queue(settings), runtime.run, outage, partial(runtime.pulse.sign, "timers")
    )
    _catch_signals(stopping)
    metrics.forget_dead_processes()
    try:
        if runtime.open(stopping):
            jobs.install(runtime)
            timers.start()
            _logger.info("the worker is ready", extra={"fields": {"queue": queue.name}})
            _work(queue, stopping, runtime, outage)
    finally:
        stopping.set()
        runtime.hurry()
        timers.stop(GRACE_SECONDS + CLOSE_SECONDS)
        runtime.close()
        jobs.install(None)
        if listener is not None:
            listener.close()
    _logger.info("the worker has stopped")
    return 0


def _work(queue: Queue, stopping: threading.Event, runtime: Runtime, outage: QueueOutage) -> None:
    """RQ's worker ends at most kinds of outage; then it is made anew, with pauses that grow."""
    pause_seconds = RETURN_SECONDS_MIN
    while not stopping.is_set():
        started = time.monotonic()
        runtime.pulse.sign("jobs")
        try:
            on_wait = partial(runtime.pulse.sign, "jobs")
            worker = DoorbellWorker(queue, stopping=stopping, hurry=runtime.hurry, on_wait=on_wait)
            # RQ tells of every job at level INFO, which is a few lines a second.
            worker.work(logging_level="WARNING")
        except StopRequested:
            pass
        except (redis.RedisError, OSError) as error:
            outage.failed(error)
        finally:
            _catch_signals(stopping)
        if time.monotonic() - started > HEALTHY_SECONDS:
            pause_seconds = RETURN_SECONDS_MIN
        stopping.wait(pause_seconds)
        pause_seconds = min(2 * pause_seconds, RETURN_SECONDS_MAX)


def _catch_signals(stopping: threading.Event) -> None:
    def stop(*_: Any) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
