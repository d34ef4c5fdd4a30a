"""What workers count, spelled once; the shop's gauges are in `cartstore.exposition`. Labels are bounded:
names of jobs, kinds of drift.

With PROMETHEUS_MULTIPROC_DIR set (before the first import of prometheus_client) the values are kept in
files there, and the API's /metrics shows them beside its own.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from prometheus_client import Counter, Histogram
from prometheus_client.multiprocess import mark_process_dead

from cartstore.metric_files import allocate_metric_files

allocate_metric_files()

JOBS: Final = Counter(
    "cartstore_jobs", "Jobs carried out, by name and by what came of them.", ("name", "outcome")
)
JOB_SECONDS: Final = Histogram(
    "cartstore_job_seconds",
    "How long jobs took.",
    ("name",),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
EVENTS_DRAINED: Final = Counter("cartstore_events_drained", "Events carried from the outbox into the record.")
HOLDS_RELEASED: Final = Counter("cartstore_holds_released", "Holds that the sweep released.")
PAYMENTS_EXPIRED: Final = Counter(
    "cartstore_payments_expired", "Payments that the sweep released because their window was over."
)
CARTS_SNAPSHOT: Final = Counter("cartstore_carts_snapshot", "Carts carried into the record.")
RECONCILE_CHECKED: Final = Counter(
    "cartstore_reconcile_checked", "SKUs, carts and payments that reconcile compared."
)
DRIFT_REPAIRED: Final = Counter(
    "cartstore_drift_repaired", "Disagreements that reconcile repaired.", ("kind",)
)
RETENTION_REMOVED: Final = Counter(
    "cartstore_retention_removed",
    "What was removed from the record because its retention was over: events, snapshots, orders whose "
    "details were redacted, product revisions.",
    ("what",),
)


def forget_dead_processes() -> None:
    """Drop what processes that were killed said of their present state, so that no alarm outlives them."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not folder:
        return
    for file in Path(folder).glob("gauge_live*_*.db"):
        pid = file.stem.rpartition("_")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            with suppress(OSError):
                mark_process_dead(int(pid), folder)  # type: ignore[no-untyped-call]
