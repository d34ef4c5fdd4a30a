"""Rings for the drain job after an event: from a thread of its own, never in a request's way.

Owns the API's half of a wire contract with the workers: the queue's name, the job's name, its one argument
and how its ids begin. A ring carries nothing. When it cannot be delivered it is counted and forgotten: the
event stands in the outbox, and the workers' timers ring too.
"""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Final
from uuid import uuid4

from redis.exceptions import RedisError
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from cartstore.affinity import ProcessAffinity
from cartstore.embedded.parts import queue_url_beside
from cartstore.redis.clients import open_thread_client
from cartstore.redis.queue_outage import QueueOutage
from cartstore.settings import Settings
from cartstore_api import metrics

logger = logging.getLogger("cartstore.api")

JOB: Final = "cartstore_workers.jobs.drain_outbox"
ID_PREFIX: Final = "drain_outbox-0-"
"""Name and partition: a job waiting under such an id, put there by whomever, is ring enough."""

WAITING_SECONDS_MAX: Final = 60
FAILURE_SECONDS: Final = 60
ANSWER_SECONDS: Final = 2.0
PAUSE_AFTER_FAILURE_SECONDS: Final = 1.0
STOP_SECONDS: Final = 3.0


class Doorbell:
    """Call it to ring. Rings that come while one is being delivered become one."""

    def __init__(self, settings: Settings) -> None:
        url = settings.queue_url or queue_url_beside(settings.redis_url)
        self._connection = open_thread_client(
            url, socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS
        )
        self._queue = Queue(
            f"cartstore-{settings.namespace}", connection=self._connection, serializer=JSONSerializer
        )
        self._outage = QueueOutage(settings, logger, consequence="The workers' timers bring the jobs")
        self._process = ProcessAffinity()
        self._rung = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)

    def __call__(self) -> None:
        """Raises OtherProcess in a child of the process that opened it, which has no thread that rings."""
        self._process.check()
        self._rung.set()

    def __enter__(self) -> Doorbell:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.is_lost:
            # Thread and connection are the parent's.
            return
        self._stopping.set()
        self._rung.set()
        self._thread.join(STOP_SECONDS)
        self._connection.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._rung.wait()
            self._rung.clear()
            if self._stopping.is_set():
                return
            try:
                outcome = "queued" if self._deliver() else "waiting"
                self._outage.succeeded()
            except (RedisError, OSError) as error:
                outcome = "failed"
                self._outage.failed(error)
                self._stopping.wait(PAUSE_AFTER_FAILURE_SECONDS)
            metrics.RINGS.labels(outcome).inc()

    def _deliver(self) -> bool:
        """Put a job into the queue unless one waits there; whether it did.

        Every job has an id of its own: a fixed one would be refused while a job of that id runs, and that
        job may have looked already.
        """
        for waiting in self._queue.job_ids:
            if waiting.startswith(ID_PREFIX) and Job.exists(waiting, connection=self._connection):
                return False
        self._queue.enqueue_call(
            JOB,
            args=(0,),
            job_id=ID_PREFIX + uuid4().hex,
            description="drain_outbox",
            timeout=WAITING_SECONDS_MAX,
            ttl=WAITING_SECONDS_MAX,
            result_ttl=0,
            failure_ttl=FAILURE_SECONDS,
        )
        return True
