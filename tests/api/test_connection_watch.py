"""Limits of time and number, on connections that are not real and a clock that the test sets."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from cartstore_api.client_address import ClientAddresses
from cartstore_api.connection_limits import (
    DESCRIPTORS_RESERVED,
    LOG_SECONDS,
    ConnectionRegistry,
    Limits,
    limits_of,
)
from cartstore_api.connection_watch import BETWEEN, BODY, HEAD, Watch
from cartstore_api.metrics import CUT
from cartstore_api.observing import Observer

from cartstore.settings import Settings

RATE = Limits().body_bytes_per_second_min


class _Transport:
    def __init__(self) -> None:
        self.unsent = 0
        self.end: str | None = None

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.end is not None

    def close(self) -> None:
        self.end = "closed"

    def abort(self) -> None:
        self.end = "aborted"


class _Timed:
    """A connection whose state the test sets."""

    def __init__(self) -> None:
        self.transport: Any = _Transport()
        self.registry = _registry()
        self.limits = Limits()
        self.flow = SimpleNamespace(read_paused=False)
        self.cycle: Any = None
        self.stage = BETWEEN
        self.ended_at: float | None = None
        self.timeout_keep_alive = 75
        self.is_busy = False
        self.received = 0
        self.refused: str | None = None
        self.watch = Watch(self, 0.0)

    def is_answering(self) -> bool:
        return self.is_busy

    def body_bytes(self) -> int:
        return self.received

    def give_up(self, refusal: Exception) -> None:
        self.refused = f"head: {refusal}"

    def refuse_body(self, refusal: Exception) -> None:
        self.refused = f"body: {refusal}"

    def looks_until(self, end_s: int, *, begin_s: int = 1) -> int | None:
        """The second of the look that ended it; None when none did."""
        for now in range(begin_s, end_s):
            self.watch.look(float(now))
            if self.refused or self.transport.end:
                return now
        return None


def _registry(**limits: Any) -> ConnectionRegistry:
    return ConnectionRegistry(Limits(**limits), ClientAddresses("10.0.0.0/8"), Observer())


def _cut(reason: str) -> float:
    return float(CUT.labels(reason)._value.get())


def test_a_silent_connection_is_closed_without_a_word() -> None:
    timed = _Timed()

    assert timed.looks_until(60) == 20
    assert (timed.refused, timed.transport.end) == (None, "closed")


def test_the_first_head_is_timed_from_the_beginning_when_bytes_come_late() -> None:
    timed = _Timed()
    assert timed.looks_until(15) is None
    timed.stage = HEAD

    assert timed.looks_until(60, begin_s=15) == 20
    assert timed.refused == "head: The head of the request did not come in time."


def test_a_later_head_is_timed_from_its_own_beginning() -> None:
    timed = _Timed()
    timed.cycle = object()
    assert timed.looks_until(60) is None
    timed.stage = HEAD

    assert timed.looks_until(200, begin_s=60) == 80


def test_an_idle_connection_is_kept_for_its_time_after_each_request() -> None:
    timed = _Timed()
    timed.cycle = object()
    assert timed.looks_until(60) is None
    timed.cycle = object()

    assert timed.looks_until(300, begin_s=60) == 60 + 75
    assert timed.refused is None


def test_a_connection_is_left_alone_when_its_request_is_being_answered() -> None:
    timed = _Timed()
    timed.cycle, timed.is_busy = object(), True
    assert timed.looks_until(500) is None
    timed.is_busy = False

    assert timed.looks_until(700, begin_s=500) == 499 + 75


def test_a_head_is_not_timed_when_we_do_not_read() -> None:
    timed = _Timed()
    timed.stage, timed.flow.read_paused = HEAD, True

    assert timed.looks_until(500) is None


@pytest.mark.parametrize(("rate", "expected"), [(0, 11), (RATE - 1, 11), (RATE, None), (10 * RATE, None)])
def test_a_body_is_cut_when_it_grows_too_slowly(rate: int, expected: int | None) -> None:
    timed = _Timed()
    timed.cycle, timed.stage = object(), BODY
    ended = None
    for now in range(1, 600):
        timed.received += rate
        ended = timed.looks_until(now + 1, begin_s=now)
        if ended:
            break

    assert ended == expected
    if expected:
        assert timed.refused == "body: The body of the request did not come in time."


def test_a_body_is_cut_when_it_stops_after_a_fast_beginning() -> None:
    timed = _Timed()
    timed.cycle, timed.stage, timed.received = object(), BODY, 0
    timed.watch.look(1.0)
    timed.received = 1_000_000
    timed.watch.look(2.0)

    assert timed.looks_until(60, begin_s=3) == 12


def test_a_body_is_not_timed_when_the_client_waits_to_be_told_to_go_on() -> None:
    timed = _Timed()
    timed.cycle, timed.stage = SimpleNamespace(waiting_for_100_continue=True), BODY
    assert timed.looks_until(60) is None
    timed.cycle.waiting_for_100_continue = False

    assert timed.looks_until(100, begin_s=60) == 70


def test_a_body_is_not_timed_while_the_application_does_not_read_it() -> None:
    timed = _Timed()
    timed.cycle, timed.stage, timed.flow.read_paused = object(), BODY, True
    assert timed.looks_until(60) is None
    timed.flow.read_paused = False

    assert timed.looks_until(100, begin_s=60) == 70


def test_an_answer_is_cut_when_nobody_reads_it() -> None:
    timed = _Timed()
    timed.transport.unsent, timed.is_busy, timed.cycle = 1_000, True, object()

    assert timed.looks_until(60) == 30
    assert timed.transport.end == "aborted"


def test_an_answer_is_not_cut_while_a_little_of_it_is_read() -> None:
    timed = _Timed()
    timed.transport.unsent, timed.is_busy, timed.cycle = 1_000, True, object()
    for now in range(1, 200):
        timed.transport.unsent -= 1 if now % 25 == 0 else 0
        assert timed.looks_until(now + 1, begin_s=now) is None


def test_an_answer_that_nobody_reads_is_cut_also_after_a_close() -> None:
    timed = _Timed()
    timed.transport.unsent, timed.transport.end = 1_000, "closed"
    for now in range(1, 40):
        timed.watch.look(float(now))

    assert timed.transport.end == "aborted"


def test_a_connection_that_has_ended_is_drained_for_a_second() -> None:
    timed = _Timed()
    timed.ended_at = 5.0

    assert timed.looks_until(60, begin_s=5) == 6


# --- the registry -----------------------------------------------------------------------------------


class _Watched:
    def __init__(self, since: float | None) -> None:
        self.since = since
        self.end = ""
        self.looked_at: list[float] = []

    def watch(self, now: float) -> None:
        self.looked_at.append(now)

    def unfinished_since(self) -> float | None:
        return self.since

    def evict(self) -> None:
        self.end = "evicted"

    def refuse(self, code: str, detail: str) -> None:
        self.end = code


async def test_the_oldest_unfinished_connection_makes_room_when_the_process_is_full() -> None:
    registry, before = _registry(connections_max=4), _cut("evicted")
    old, busy, older, new = _Watched(2.0), _Watched(None), _Watched(1.0), _Watched(3.0)
    for connection in (old, busy, older, new):
        registry.add(connection, "127.0.0.1")
    for number in range(2):
        registry.add(_Watched(4.0 + number), "127.0.0.1")

    assert [connection.end for connection in (old, busy, older, new)] == ["evicted", "", "evicted", ""]
    assert (registry.count, _cut("evicted") - before) == (4, 2)


async def test_a_connection_is_spared_when_its_request_came_since_the_last_scan() -> None:
    registry = _registry(connections_max=2)
    first, second, third = _Watched(1.0), _Watched(2.0), _Watched(3.0)
    for connection in (first, second, third):
        registry.add(connection, None)
    assert first.end == "evicted"
    second.since = None
    registry.add(_Watched(4.0), None)

    assert (second.end, third.end) == ("", "evicted")


async def test_a_connection_is_refused_when_all_are_being_answered() -> None:
    registry, before = _registry(connections_max=2), _cut("process_full")
    busy = [_Watched(None), _Watched(None)]
    for connection in busy:
        registry.add(connection, None)
    late = _Watched(0.0)
    registry.add(late, None)

    assert late.end == "STORE_UNAVAILABLE"
    assert {connection.end for connection in busy} == {""}
    assert (registry.count, _cut("process_full") - before) == (2, 1)


async def test_connections_of_one_address_are_capped_and_others_are_not() -> None:
    registry, before = _registry(connections_per_address_max=2), _cut("evicted_address")
    first, busy, third = _Watched(1.0), _Watched(None), _Watched(None)
    other = _Watched(0.0)
    registry.add(other, "2001:db8:1:3::1")
    for number, connection in enumerate((first, busy, third)):
        registry.add(connection, f"2001:db8:1:2::{number}")
    late = _Watched(2.0)
    registry.add(late, "2001:db8:1:2:9::")

    assert [connection.end for connection in (first, busy, third, late)] == [
        "evicted",
        "",
        "",
        "RATE_LIMITED",
    ]
    assert (other.end, registry.count, _cut("evicted_address") - before) == ("", 3, 1)
    registry.remove(busy)
    registry.add(late, "2001:db8:1:2:9::")
    assert registry.count == 3


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "10.1.2.3", None])
async def test_near_and_trusted_peers_are_exempt_from_the_cap_per_address_only(peer: str | None) -> None:
    registry = _registry(connections_per_address_max=1, connections_max=3)
    for _ in range(3):
        registry.add(_Watched(None), peer)
    late = _Watched(None)
    registry.add(late, peer)

    assert (registry.count, late.end) == (3, "STORE_UNAVAILABLE")


async def test_an_address_has_its_place_again_when_its_only_connection_was_evicted() -> None:
    registry = _registry(connections_per_address_max=1)
    for _ in range(3):
        last = _Watched(1.0)
        registry.add(last, "203.0.113.7")

    registry.remove(last)
    assert registry.count == 0
    assert not registry._of_group


async def test_each_reason_is_logged_once_a_minute_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    registry, before = _registry(), _cut("silent")
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            registry.note("silent")
        registry.note("evicted")
        registry.now += LOG_SECONDS
        registry.note("silent")

    assert [record.__dict__["fields"] for record in caplog.records] == [
        {"reason": "silent", "count": 1},
        {"reason": "evicted", "count": 1},
        {"reason": "silent", "count": 5},
    ]
    assert _cut("silent") - before == 6


async def test_the_clock_stands_still_while_the_process_cannot_listen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry, connection = _registry(watch_seconds=0.01), _Watched(0.0)
    registry.add(connection, None)
    loop = asyncio.get_running_loop()
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + 3_600)
    while not connection.looked_at:  # noqa: ASYNC110 (nothing tells when)
        await asyncio.sleep(0.001)

    assert connection.looked_at[0] <= 0.02
    registry.remove(connection)


def test_the_cap_leaves_descriptors_free(monkeypatch: pytest.MonkeyPatch) -> None:
    caps = {}
    for soft in (100, 256, 1_024, 1_000_000):
        monkeypatch.setattr("resource.getrlimit", lambda kind, soft=soft: (soft, soft))
        caps[soft] = limits_of(Settings(max_connections=5_000)).connections_max

    assert caps == {
        100: 50,
        256: 256 - DESCRIPTORS_RESERVED,
        1_024: 1_024 - DESCRIPTORS_RESERVED,
        1_000_000: 5_000,
    }
