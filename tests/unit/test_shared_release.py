"""When a crowd's holds fall due, buyers of that SKU share their releases and keep the engine from nobody."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from cartstore import limits
from cartstore.errors import InsufficientStock, OutcomeUnknown, StoreUnavailable
from cartstore.model import NO_GUARD, CartTerms, Partition
from cartstore.redis.scripts import Script
from cartstore.redis.store import RedisEngine

BUYERS = 16
STEPS = 2 * limits.RELEASE_STEPS
TERMS = CartTerms(
    hold_ttl_ms=900_000,
    hold_cap_ms=7_200_000,
    hold_rest_ms=10_000,
    cart_ttl_ms=86_400_000,
    quantity_max=99,
    lines_max=50,
    items_max=500,
    held_max=100,
    guest_share_ppm=1_000_000,
    reservations=True,
)


class Crowded:
    """Answers as an engine in which `steps` releases find as much as they may, and the next one nothing."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.asked: Counter[str] = Counter()
        self.hurried = 0
        self.beside = self.most_beside = 0
        self.began = asyncio.Event()

    async def identity(self) -> str:
        return "crowded:0"

    async def call(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        self.asked[script.name] += 1
        if script.name == "hold_release":
            self.began.set()
            self.beside += 1
            self.most_beside = max(self.most_beside, self.beside)
            await asyncio.sleep(0)
            self.beside -= 1
            self.steps -= 1
            return ["OK", limits.RELEASES_PER_STEP if self.steps >= 0 else 0]
        await asyncio.sleep(0)
        self.hurried += len(args) > 3 and args[3] == "1"
        return ["DUE", "tee"] if self.steps > 0 else ["INSUFFICIENT_STOCK", 0, 1, 0]


async def buy(engine: RedisEngine, buyer: int) -> None:
    with pytest.raises(InsufficientStock):
        await engine.add_line(f"u.{buyer}", "tee", 1, properties_json=None, terms=TERMS, guard=NO_GUARD)


async def test_buyers_ask_again_only_after_many_steps_when_a_crowd_falls_due() -> None:
    crowded = Crowded(STEPS)
    engine = RedisEngine(crowded, Partition("shop"))

    await asyncio.gather(*(buy(engine, number) for number in range(BUYERS)))

    assert crowded.most_beside == 1
    assert crowded.asked["hold_release"] == STEPS
    assert crowded.asked["cart_add_line"] == 3 * BUYERS
    assert crowded.hurried == BUYERS


async def test_buyers_stop_waiting_when_nothing_is_due_any_more() -> None:
    crowded = Crowded(3)
    engine = RedisEngine(crowded, Partition("shop"))

    await asyncio.gather(*(buy(engine, number) for number in range(BUYERS)))

    assert crowded.asked["hold_release"] == 4
    assert crowded.asked["cart_add_line"] == 2 * BUYERS


async def test_buyers_are_served_when_the_one_who_began_the_release_leaves() -> None:
    crowded = Crowded(3)
    engine = RedisEngine(crowded, Partition("shop"))

    first = asyncio.create_task(buy(engine, 0))
    others = [asyncio.create_task(buy(engine, number)) for number in range(1, BUYERS)]
    await crowded.began.wait()
    first.cancel()
    await asyncio.gather(*others)

    assert first.cancelled()
    assert crowded.asked["hold_release"] == 4


class Lost(Crowded):
    """Loses its connection while it releases."""

    async def call(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        reply = await super().call(script, keys, args)
        if script.name == "hold_release":
            raise OutcomeUnknown
        return reply


async def test_buyers_are_told_that_nothing_was_done_when_a_release_is_not_answered() -> None:
    engine = RedisEngine(Lost(STEPS), Partition("shop"))

    outcomes = await asyncio.gather(
        *(
            engine.add_line(f"u.{n}", "tee", 1, properties_json=None, terms=TERMS, guard=NO_GUARD)
            for n in range(BUYERS)
        ),
        return_exceptions=True,
    )

    assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
    assert len(set(map(id, outcomes))) == BUYERS
