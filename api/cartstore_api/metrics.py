"""What the service counts about itself, for Prometheus. Owns the names and the labels.

No label grows with SKUs, users or ids: requests are labelled by route template, method and class of
status, problems by code. With PROMETHEUS_MULTIPROC_DIR set, every process writes its own files there and
any of them answers for all; only counters and histograms are used, so that a process that died leaves
what it counted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import REGISTRY, Collector

from cartstore.metric_files import allocate_metric_files
from cartstore.redis.memory import EngineMemory

allocate_metric_files()

CONTENT_TYPE = CONTENT_TYPE_LATEST

SECONDS_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Upper bounds of the histogram's buckets, themselves included; one more bucket is without bound."""

REQUESTS = Counter(
    "cartstore_http_requests", "Requests answered.", ["method", "route", "status"], registry=REGISTRY
)
SECONDS = Histogram(
    "cartstore_http_request_seconds",
    "Time from the first byte of a request to the last of its answer.",
    ["method", "route"],
    buckets=SECONDS_BOUNDS,
    registry=REGISTRY,
)
PROBLEMS = Counter("cartstore_problems", "Requests that ended in a problem.", ["code"], registry=REGISTRY)
RINGS = Counter(
    "cartstore_doorbell_rings",
    "Drain jobs asked for: put into the queue, waiting there already, or failed.",
    ["outcome"],
    registry=REGISTRY,
)
CUT = Counter(
    "cartstore_connections_cut",
    "Connections that were refused or ended for a limit, or for bytes that are no request.",
    ["reason"],
    registry=REGISTRY,
)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def add(
    method: str,
    route: str,
    status: int,
    code: str | None,
    *,
    count: int,
    seconds: float,
    buckets: Sequence[int],
) -> None:
    """Count answered requests of one kind: `seconds` in all, `buckets` how many fell into each."""
    if method not in METHODS:
        method = "other"
    REQUESTS.labels(method, route, f"{status // 100}xx").inc(count)
    if code is not None:
        PROBLEMS.labels(code).inc(count)
    # The library takes one observation at a time; its own values take what was added up.
    histogram: Any = SECONDS.labels(method, route)
    histogram._sum.inc(seconds)
    for number, bucket in enumerate(histogram._buckets):
        if buckets[number]:
            bucket.inc(buckets[number])


def render(checks: Mapping[str, Any], memory: EngineMemory | None = None) -> bytes:
    """The exposition of all processes, what readiness finds right now, and the engine's memory, if it is
    known and has a bound."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Readiness(checks))
    if memory is not None:
        registry.register(_Memory(memory))
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        Processes(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
    return generate_latest(REGISTRY) + generate_latest(registry)


class Processes(MultiProcessCollector):
    """What all processes counted, but for files that were made in this instant: they are empty yet, which the
    library takes for broken."""

    def collect(self) -> Any:
        return self.merge([str(file) for file in Path(self._path).glob("*.db") if _size_of(file)])  # type: ignore[no-untyped-call]


def _size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        # Of a process that has ended meanwhile.
        return 0


class _Memory(Collector):
    """What is left of the engine's bound: the alarm before STORE_FULL."""

    def __init__(self, memory: EngineMemory) -> None:
        self._memory = memory

    def collect(self) -> list[GaugeMetricFamily]:
        left, bound = self._memory.available_bytes, self._memory.bound_bytes
        return [
            GaugeMetricFamily(
                "cartstore_engine_memory_available_bytes", "What is left of the engine's maxmemory.", left
            ),
            GaugeMetricFamily("cartstore_engine_memory_limit_bytes", "The engine's maxmemory.", bound),
        ]


class _Readiness(Collector):
    """Readiness as gauges, read when it is asked for: every process would say the same."""

    def __init__(self, checks: Mapping[str, Any]) -> None:
        self._checks = checks

    def collect(self) -> list[GaugeMetricFamily]:
        checks = GaugeMetricFamily("cartstore_check_ok", "1 where readiness is fine.", labels=["check"])
        for name, check in self._checks.items():
            checks.add_metric([name], 1.0 if check["ok"] else 0.0)
        return [checks]
