"""Figures: what is measured, against what, and what it must reach. Owns the arithmetic; measures nothing."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

Set = Literal["core", "full"]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table."""

    key: str
    title: str
    baseline: str
    """What stands beside it in the same run."""
    unit: str
    """Of value and baseline; the figure itself is value / baseline unless `absolute`."""
    at_least: float | None = None
    at_most: float | None = None
    absolute: bool = False
    """The target is on the value; the baseline is told beside it all the same."""
    belongs_to: Set = "core"

    @property
    def has_target(self) -> bool:
        return self.at_least is not None or self.at_most is not None

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        if self.at_most is not None:
            return f"≤ {self.at_most:g}"
        return "reported"


class Pair(msgspec.Struct, frozen=True):
    """One repetition: both sides, measured one right after the other."""

    value: float
    baseline: float
    details: dict[str, Any] = {}

    @property
    def ratio(self) -> float:
        return self.value / self.baseline if self.baseline else 0.0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A figure with all its repetitions."""

    figure: Figure
    pairs: list[Pair]
    note: str = ""

    def each(self) -> list[float]:
        """What is judged, per repetition."""
        return [pair.value if self.figure.absolute else pair.ratio for pair in self.pairs]

    @property
    def median(self) -> float:
        return statistics.median(self.each())

    @property
    def lowest(self) -> float:
        return min(self.each())

    @property
    def highest(self) -> float:
        return max(self.each())

    @property
    def best(self) -> float | None:
        """The ratio of the best repetition of either side: what other work on the machine took from either is
        left out. None where the value itself is judged."""
        if self.figure.absolute:
            return None
        best = max if self.figure.unit.endswith("/s") else min
        return Pair(best(pair.value for pair in self.pairs), best(pair.baseline for pair in self.pairs)).ratio

    @property
    def verdict(self) -> bool | None:
        """Whether the median reaches the target; None where there is none."""
        if self.figure.at_least is not None:
            return self.median >= self.figure.at_least
        if self.figure.at_most is not None:
            return self.median <= self.figure.at_most
        return None

    def value(self) -> float:
        return statistics.median(pair.value for pair in self.pairs)

    def baseline(self) -> float:
        return statistics.median(pair.baseline for pair in self.pairs)


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement of one side. Times in milliseconds."""

    rate: float = 0.0
    """Per second."""
    p50: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    slowest: float = 0.0
    count: int = 0
    failed: int = 0
    details: dict[str, Any] = {}


Side = Callable[[], Sample]


def interleaved(sides: Mapping[str, Side], repetitions: int) -> dict[str, list[Sample]]:
    """Measure all sides in turn, again and again, so that a machine that changes its pace changes it for
    all. Every second round goes backwards: what one side leaves behind is not always met by the same one."""
    samples: dict[str, list[Sample]] = {name: [] for name in sides}
    for number in range(repetitions):
        names = list(sides) if number % 2 == 0 else list(reversed(sides))
        for name in names:
            samples[name].append(sides[name]())
    return samples


def pairs_of(
    samples: Sequence[Sample], baselines: Sequence[Sample], measure: Callable[[Sample], float]
) -> list[Pair]:
    """The repetitions of two sides, put together by number, as far as both were measured."""
    return [
        Pair(
            measure(sample),
            measure(baseline),
            {"value": msgspec.to_builtins(sample), "baseline": msgspec.to_builtins(baseline)},
        )
        for sample, baseline in zip(samples, baselines, strict=False)
    ]


def rate(sample: Sample) -> float:
    return sample.rate


def p99(sample: Sample) -> float:
    return sample.p99


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of values in ascending order: the smallest that at least this share of them does not exceed."""
    if not ordered:
        return 0.0
    place = max(0, min(len(ordered) - 1, -(-len(ordered) * share // 1) - 1))
    return ordered[int(place)]


def sample_of(latencies_seconds: Sequence[float], seconds: float, **details: Any) -> Sample:
    """The sample of these calls."""
    ordered = sorted(latencies_seconds)
    return Sample(
        rate=len(ordered) / seconds,
        p50=percentile(ordered, 0.5) * 1_000,
        p99=percentile(ordered, 0.99) * 1_000,
        p999=percentile(ordered, 0.999) * 1_000,
        slowest=ordered[-1] * 1_000 if ordered else 0.0,
        count=len(ordered),
        details=details,
    )
