"""Adds that leave as one command, on the real engine: what harms one of them is told to that one alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from contract.backends import open_wire
from contract.shop import TERMS, Shop
from msgspec.structs import replace

from cartstore.embedded import Engine
from cartstore.errors import InsufficientStock, PartlyApplied, StoreFull, StoreRecovering
from cartstore.model import LineResult
from cartstore.redis.keys import Keys

BUYERS = [f"u.{number}" for number in range(21)]


@pytest.fixture
async def shop(own: Engine) -> AsyncIterator[Shop]:
    async with open_wire(own.url()) as shop:
        await shop.sell("tee", 1_000)
        for _ in range(2):
            # What carries several is loaded by the first that come after those who missed it.
            await asyncio.gather(*(shop.add(f"u.first.{n}", "tee") for n in range(6)))
        await asyncio.gather(*(shop.remove(f"u.first.{n}", "tee") for n in range(6)))
        yield shop


async def add_all(shop: Shop) -> list[Any]:
    return await asyncio.gather(*(shop.add(buyer, "tee") for buyer in BUYERS), return_exceptions=True)


def calls_of(admin: Any) -> int:
    return int(admin.info("commandstats").get("cmdstat_fcall", {"calls": 0})["calls"])


async def test_adds_share_commands_when_they_are_made_at_once(shop: Shop, admin: Any) -> None:
    before = calls_of(admin)

    results = await add_all(shop)

    assert {result.line.quantity for result in results} == {1}
    # Eight, eight, and the rest of the turn.
    assert calls_of(admin) - before == 3
    assert (await shop.level("tee")).held == len(BUYERS)


@pytest.mark.parametrize("harm", ["another type", "no cart"])
async def test_add_fails_alone_when_its_cart_is_broken(shop: Shop, admin: Any, harm: str) -> None:
    keys = Keys(shop.partition)
    if harm == "another type":
        admin.set(keys.cart(BUYERS[3]), "no hash")
    else:
        admin.hset(keys.cart(BUYERS[3]), "a", b"\xc1 is no MessagePack")

    results = await add_all(shop)

    failed = results.pop(3)
    # The engine refused a command in the middle of a script, whatever that one had written by then.
    assert type(failed) is PartlyApplied
    if harm == "another type":
        # In the engine's own words, as a call that comes alone is told.
        with pytest.raises(PartlyApplied) as alone:
            await shop.add(BUYERS[3], "tee")
        said, alone_said = str(failed.__cause__), str(alone.value.__cause__)
        assert said.split(" script:")[0] == alone_said.split(" script:")[0]
        assert said.startswith("WRONGTYPE ")
    assert {type(result) for result in results} == {LineResult}
    assert {result.line.quantity for result in results} == {1}
    if harm == "another type":
        admin.delete(keys.cart(BUYERS[3]))
        assert (await shop.add(BUYERS[3], "tee")).summary.version > 0


async def test_adds_are_all_fenced_when_the_gate_was_opened_for_another_engine(
    shop: Shop, admin: Any
) -> None:
    keys = Keys(shop.partition)
    admin.hset(keys.gate, "identity", "another:engine")

    results = await add_all(shop)

    assert {type(result) for result in results} == {StoreRecovering}
    assert admin.hget(keys.gate, "status") == "fenced"
    assert not any(admin.exists(keys.cart(buyer)) for buyer in BUYERS)


async def test_adds_are_all_refused_when_the_engine_is_full(shop: Shop, admin: Any) -> None:
    admin.config_set("maxmemory", 1)
    results = await add_all(shop)
    admin.config_set("maxmemory", 0)

    assert {type(result) for result in results} == {StoreFull}
    assert (await shop.level("tee")).held == 0
    assert {type(result) for result in await add_all(shop)} == {LineResult}


async def test_changes_are_numbered_one_by_one_when_adds_share_a_command(shop: Shop, admin: Any) -> None:
    """Some of them are refused, one cart is changed twice: the numbers are those of adds that come alone."""
    keys = Keys(shop.partition)
    await shop.sell("rare", 1)
    before = int(admin.hget(keys.gate, "change"))
    buyers = ["u.a", "u.b", "u.b", "u.c", "u.d", "u.e"]
    skus = ["tee", "tee", "tee", "rare", "rare", "tee"]

    results = await asyncio.gather(*map(shop.add, buyers, skus), return_exceptions=True)

    assert type(results.pop(4)) is InsufficientStock
    assert [result.summary.version - before for result in results] == [1, 2, 3, 4, 5]
    assert int(admin.hget(keys.gate, "change")) == before + 5
    shown = {cart: int(score) - before for cart, score in admin.zrange(keys.activity, 0, -1, withscores=True)}
    assert {buyer: shown.get(buyer) for buyer in dict.fromkeys(buyers)} == {
        "u.a": 1,
        "u.b": 3,
        "u.c": 4,
        "u.d": None,
        "u.e": 5,
    }
    assert (await shop.add("u.f", "tee")).summary.version == before + 6


async def test_nothing_is_written_when_all_adds_of_a_command_are_refused(shop: Shop, admin: Any) -> None:
    await shop.sell("gone", 0)
    keys = Keys(shop.partition)
    before = admin.hgetall(keys.gate)

    results = await asyncio.gather(*(shop.add(buyer, "gone") for buyer in BUYERS), return_exceptions=True)

    assert {type(result) for result in results} == {InsufficientStock}
    assert admin.hgetall(keys.gate) == before
    assert not any(admin.exists(keys.cart(buyer)) for buyer in BUYERS)


async def test_change_is_noted_when_an_add_of_a_command_fails_after_others(shop: Shop, admin: Any) -> None:
    """What had written before it failed is looked at by whoever records carts, as it would be alone."""
    keys = Keys(shop.partition)
    await shop.sell("bad", 10)
    admin.set(keys.holds("bad"), "no sorted set")
    before = int(admin.hget(keys.gate, "change"))

    results = await asyncio.gather(
        shop.add("u.0", "tee"),
        shop.add("u.1", "tee"),
        shop.add("u.2", "bad"),
        shop.add("u.3", "tee"),
        return_exceptions=True,
    )

    assert [type(result) is LineResult for result in results] == [True, True, False, True]
    versions = [result.summary.version for result in results if isinstance(result, LineResult)]
    assert int(admin.hget(keys.gate, "change")) == max(versions) == before + 3
    assert [int(admin.zscore(keys.activity, f"u.{n}") or 0) for n in (0, 1, 3)] == versions


async def test_lifetime_reaches_as_far_as_the_longest_hold_when_adds_share_a_command(
    shop: Shop, admin: Any
) -> None:
    keys = Keys(shop.partition)
    ttls = [int(admin.hget(keys.gate, "lifetime_ms")) + 1_000 * more for more in (3, 9, 1, 5)]
    terms = [replace(TERMS, hold_ttl_ms=ttl, hold_cap_ms=2 * ttl) for ttl in ttls]

    await asyncio.gather(*(shop.add(f"u.long.{n}", "tee", terms=each) for n, each in enumerate(terms)))

    assert int(admin.hget(keys.gate, "lifetime_ms")) == max(ttls)


async def test_lifetime_stays_when_the_add_that_would_raise_it_fails(shop: Shop, admin: Any) -> None:
    keys = Keys(shop.partition)
    await shop.sell("bad", 10)
    admin.set(keys.holds("bad"), "no sorted set")
    before = int(admin.hget(keys.gate, "lifetime_ms"))
    longer = replace(TERMS, hold_ttl_ms=2 * before, hold_cap_ms=4 * before)

    results = await asyncio.gather(
        shop.add("u.0", "tee"),
        shop.add("u.1", "tee"),
        shop.add("u.2", "bad", terms=longer),
        shop.add("u.3", "tee"),
        shop.add("u.4", "tee"),
        return_exceptions=True,
    )

    assert [type(result) is LineResult for result in results] == [True, True, False, True, True]
    assert int(admin.hget(keys.gate, "lifetime_ms")) == before


async def test_adds_see_each_skus_own_fields_when_they_are_more_than_a_function_keeps(shop: Shop) -> None:
    """Twice, and changed in between: what is kept of a SKU is found by its fields, not by its name."""
    skus = [f"sku-{number}" for number in range(600)]
    await asyncio.gather(*(shop.sell(sku, 9, price_minor=place) for place, sku in enumerate(skus, 1)))
    for more in (0, 1_000):
        if more:
            await asyncio.gather(
                *(shop.publish(sku, price_minor=place + more) for place, sku in enumerate(skus, 1))
            )

        results = await asyncio.gather(*(shop.add(f"u.{sku}", sku) for sku in skus))

        assert [result.line.unit_price_minor for result in results] == [
            place + more for place in range(1, len(skus) + 1)
        ]
