"""What the API counts about itself, for Prometheus. Owns the names and the labels; what belongs to the shop
is in `cartstore.exposition`.

No label grows with SKUs, users or ids: requests are labelled by route template, method and class of
status, problems by code. With PROMETHEUS_MULTIPROC_DIR set, every process writes its own files there and
any of them answers for all; only counters and histograms are used, so that a process that died leaves
what it counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram
from prometheus_client.registry import REGISTRY

from cartstore.metric_files import allocate_metric_files

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
