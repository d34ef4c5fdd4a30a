"""What `/metrics` answers, of an API process and of a worker. Owns the names of the metrics that belong to
the shop, which every process tells alike: aggregate them with max(), never with sum().

They are read from the engine and the record when they are asked for (`cartstore.readiness`). What a process
kept in a gauge of its own would be seen only where processes share a folder, and would stand still when the
process does. A figure that nobody knows has no sample.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import REGISTRY, Collector

from cartstore.readiness import Figures
from cartstore.recovery.drift import DRIFT_KINDS
from cartstore.redis.memory import EngineMemory

_FIGURES: Final = {
    "drain_lag_events": "Events that wait for the record.",
    "drain_lag_seconds": "Age of the oldest event that waits for the record; 0 when none does.",
    "worker_beat_age_seconds": "Age of the youngest sign of life of any worker; +Inf when there is none.",
    "rejected_events": "Events that the record refused and nobody has dealt with. Zero on a healthy system.",
    "frozen_skus": "SKUs that are not sold until an operator decides. Zero on a healthy system.",
    "log_salvages": "How often the log of the embedded engine was found damaged and was salvaged.",
}


def render(found: Mapping[str, Any], memory: EngineMemory | None = None) -> bytes:
    """The exposition of this process, or of all that share a folder, with what readiness has found and the
    engine's memory, if it is known and has a bound."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Shop(found["checks"], found.get("figures") or Figures()))
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


class _Shop(Collector):
    """One reading of the shop as gauges."""

    def __init__(self, checks: Mapping[str, Any], figures: Figures) -> None:
        self._checks = checks
        self._figures = figures

    def collect(self) -> Iterator[GaugeMetricFamily]:
        checks = GaugeMetricFamily("cartstore_check_ok", "1 where readiness is fine.", labels=["check"])
        for name, check in self._checks.items():
            if check["ok"] is not None:
                checks.add_metric([name], 1.0 if check["ok"] else 0.0)
        yield checks
        for name, text in _FIGURES.items():
            value = getattr(self._figures, name)
            if value is not None:
                yield GaugeMetricFamily(f"cartstore_{name}", text, value=value)
        if self._figures.drift is not None:
            drift = GaugeMetricFamily(
                "cartstore_drift",
                "Disagreements that reconcile found and could not repair, by kind. Zero on a healthy system.",
                labels=["kind"],
            )
            for kind in DRIFT_KINDS:
                drift.add_metric([kind], self._figures.drift.get(kind, 0))
            yield drift
