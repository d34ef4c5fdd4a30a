"""beat: signs of life of processes, their ages, and what is forgotten."""

from __future__ import annotations

import pytest

from cartstore import limits

from .shop import MINUTE_MS, SECOND_MS, Shop

WORKER, API = "worker:host:1:a", "api:host:2:b"


async def test_beat_gives_the_last_one_of_every_process(shop: Shop) -> None:
    first_ms = shop.now_ms
    alone = await shop.engine.beat(WORKER, '{"drift": {}}')
    shop.advance(SECOND_MS)

    both = await shop.engine.beat(API, "{}")

    assert [(its.process, its.at_ms, its.count, its.state) for its in alone.beats] == [
        (WORKER, first_ms, 1, '{"drift": {}}')
    ]
    assert both.now_ms == shop.now_ms
    assert [(its.process, its.at_ms, its.count) for its in both.beats] == [
        (API, shop.now_ms, 1),
        (WORKER, first_ms, 1),
    ]


async def test_beat_counts_and_says_what_is_new_when_it_is_repeated(shop: Shop) -> None:
    await shop.engine.beat(WORKER, "old")
    shop.advance(SECOND_MS)

    (beat,) = (await shop.engine.beat(WORKER, "new words")).beats

    assert (beat.at_ms, beat.count, beat.state) == (shop.now_ms, 2, "new words")


async def test_beat_removes_the_process_and_no_other_when_it_has_no_state(shop: Shop) -> None:
    await shop.engine.beat(WORKER, "{}")
    await shop.engine.beat(API, "{}")

    left = await shop.engine.beat(WORKER, "")
    again = await shop.engine.beat("probe", "")

    assert [its.process for its in left.beats] == [its.process for its in again.beats] == [API]


async def test_beat_forgets_a_process_when_it_was_silent_for_long(shop: Shop) -> None:
    await shop.engine.beat(WORKER, "{}")
    shop.advance(limits.BEAT_KEPT_MS)
    assert len((await shop.engine.beat(API, "{}")).beats) == 2
    shop.advance(1)

    assert [its.process for its in (await shop.engine.beat(API, "{}")).beats] == [API]


async def test_beat_of_the_future_ages_from_now_on_when_the_clock_was_set_back(shop: Shop) -> None:
    await shop.engine.beat(WORKER, "{}")
    shop.advance(-60 * MINUTE_MS)
    back_at_ms = shop.now_ms

    found = await shop.engine.beat(API, "{}")
    shop.advance(MINUTE_MS)
    later = await shop.engine.beat(API, "{}")

    assert {its.process: its.at_ms for its in found.beats} == {API: back_at_ms, WORKER: back_at_ms}
    assert {its.process: its.at_ms for its in later.beats} == {API: shop.now_ms, WORKER: back_at_ms}


async def test_beat_keeps_the_latest_when_there_are_more_processes_than_are_kept(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BEAT_PROCESSES_MAX", 4)
    processes = [f"api:host:{number}:x" for number in range(7)]
    for process in processes:
        shop.advance(1)
        await shop.engine.beat(process, "{}")

    found = await shop.engine.beat("probe", "")

    assert [its.process for its in found.beats] == processes[:2:-1]
