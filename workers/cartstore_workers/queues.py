"""The doorbell: one RQ queue of jobs that carry nothing. Owns the queue's name, the jobs' names and ringing.

A ring says "look now", and what there is to see stands in the engine and in the record. So a job may be
lost, doubled, reordered or late. What a queue of such jobs may not do is grow, or let one job block another:

* A ring that finds a job of its name waiting adds none: the queue is never longer than the list of names,
  however long no worker runs.
* Every job has an id of its own. With one id for all of a name, a job that a killed worker left behind would
  refuse every later ring (RQ takes the expiry off a job that it starts), and a job that ends would delete the
  one that was rung while it ran.
* A running job does not stop a ring: what was written after that job had looked wants another look.
"""

from __future__ import annotations

from typing import Final, Literal, get_args
from uuid import uuid4

from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from cartstore.embedded.parts import queue_url_beside
from cartstore.errors import ConfigurationError
from cartstore.redis.clients import open_thread_client
from cartstore.settings import Settings

JobName = Literal[
    "drain_outbox",
    "release_due",
    "expire_payments",
    "snapshot_carts",
    "reconcile",
    "recover",
    "apply_retention",
]
"""A contract on the wire: jobs of an older release may be waiting when a newer worker starts."""

JOB_NAMES: Final[tuple[JobName, ...]] = get_args(JobName)

JOB_MODULE: Final = "cartstore_workers.jobs"

WAITING_SECONDS_MAX: Final = 60
"""A job that nobody took for so long is dropped; the timers ring again."""

ABANDONED_SECONDS: Final = 60
"""RQ's own timeout of a job. Only its registries use it, to see that a job was left by a killed worker;
what bounds a running job is the runtime."""

FAILURE_SECONDS: Final = 60
"""How long RQ keeps what it knows of a job that failed or was abandoned."""

ANSWER_SECONDS: Final = 5.0


def queue_name(namespace: str) -> str:
    return f"cartstore-{namespace}"


def connect_queue(settings: Settings) -> Redis:
    """A client of RQ's Redis. ConfigurationError when the settings name neither that nor the engine."""
    url = settings.queue_url or (queue_url_beside(settings.redis_url) if settings.redis_url else "")
    if not url:
        raise ConfigurationError("Set CARTSTORE_QUEUE_URL or CARTSTORE_REDIS_URL: a worker needs its queue.")
    # A cable that was cut must be noticed; a unix socket has none, and takes no such option.
    over_network = {} if url.startswith("unix:") else {"socket_keepalive": True}
    try:
        return open_thread_client(
            url,
            **over_network,
            socket_connect_timeout=ANSWER_SECONDS,
            socket_timeout=ANSWER_SECONDS,
            retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), 2),
        )
    except ValueError as error:
        raise ConfigurationError(f"CARTSTORE_QUEUE_URL: {error}.") from error


def open_queue(connection: Redis, namespace: str) -> Queue:
    return Queue(queue_name(namespace), connection=connection, serializer=JSONSerializer)


def job_name_of(func_name: str) -> JobName | None:
    """The job that a function's dotted name stands for; None for anything that is not ours."""
    module, _, name = func_name.rpartition(".")
    return next((known for known in JOB_NAMES if module == JOB_MODULE and known == name), None)


class Doorbell:
    """Rings for jobs of one partition."""

    def __init__(self, connection: Redis, namespace: str, partition: int = 0) -> None:
        self.queue = open_queue(connection, namespace)
        self._partition = partition

    def ring(self, name: JobName) -> bool:
        """Put a job into the queue unless one waits there; whether it did. Raises redis.RedisError.

        Two that ring at once may both put one; that is a look more than needed.
        """
        prefix = f"{name}-{self._partition}-"
        for waiting in self.queue.job_ids:
            if not waiting.startswith(prefix):
                continue
            if Job.exists(waiting, connection=self.queue.connection):
                return False
            # Its time was over while no worker ran: only the id is left, and a worker would skip it.
            self.queue.remove(waiting)
        self.queue.enqueue_call(
            f"{JOB_MODULE}.{name}",
            args=(self._partition,),
            job_id=prefix + uuid4().hex,
            description=name,
            timeout=ABANDONED_SECONDS,
            ttl=WAITING_SECONDS_MAX,
            result_ttl=0,
            failure_ttl=FAILURE_SECONDS,
        )
        return True
