"""Variants kept by SKU for a moment: how old they may be, who asks the database, and how many are kept."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from cartstore.catalog import cache as cache_module
from cartstore.catalog.cache import SKU_SECONDS, SkuCache
from cartstore.errors import StoreUnavailable
from cartstore.model import Product, Variant


class Catalog:
    """A catalog that counts who asks, and answers when `may_answer` is set."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.minimum = 1
        self.is_away = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def find_sku(self, sku: str) -> Product | None:
        self.asked.append(sku)
        minimum = self.minimum
        await self.may_answer.wait()
        if self.is_away:
            raise StoreUnavailable
        if sku == "NONE":
            return None
        variants = (
            Variant(sku="OTHER", price_minor=1),
            Variant(sku=sku, price_minor=1, min_quantity=minimum),
        )
        return Product(id="p", title="P", currency="USD", variants=variants)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: Any) -> Clock:
    found = Clock()
    monkeypatch.setattr(cache_module, "time", found)
    return found


async def _minimum(cache: SkuCache, sku: str = "S") -> int:
    variant = await cache.get(sku)
    assert variant is not None
    assert variant.sku == sku
    return variant.min_quantity


async def test_variant_is_asked_for_again_when_its_time_is_over(clock: Clock) -> None:
    catalog = Catalog()
    cache = SkuCache(cast(Any, catalog))
    assert [await _minimum(cache), await _minimum(cache)] == [1, 1]

    catalog.minimum = 2
    clock.now += SKU_SECONDS - 0.01
    kept = await _minimum(cache)
    clock.now += 0.02

    assert (kept, await _minimum(cache)) == (1, 2)
    assert catalog.asked == ["S", "S"]


async def test_unknown_sku_is_kept_too_when_it_is_asked_for(clock: Clock) -> None:
    catalog = Catalog()
    cache = SkuCache(cast(Any, catalog))

    assert [await cache.get("NONE"), await cache.get("NONE")] == [None, None]
    assert catalog.asked == ["NONE"]


async def test_one_caller_asks_when_the_time_of_many_is_over(clock: Clock) -> None:
    catalog = Catalog()
    cache = SkuCache(cast(Any, catalog))
    await cache.get("S")
    clock.now += SKU_SECONDS
    catalog.minimum = 2
    catalog.may_answer.clear()

    asking = asyncio.create_task(_minimum(cache))
    await asyncio.sleep(0)
    others = [await asyncio.wait_for(_minimum(cache), 5) for _ in range(10)]
    catalog.may_answer.set()

    assert others == [1] * 10
    assert await asking == 2
    assert catalog.asked == ["S", "S"]


async def test_nothing_old_is_kept_when_products_change_while_one_is_read(clock: Clock) -> None:
    catalog = Catalog()
    cache = SkuCache(cast(Any, catalog))
    catalog.may_answer.clear()
    asking = asyncio.create_task(_minimum(cache))
    await asyncio.sleep(0)

    catalog.minimum = 2
    cache.clear()
    catalog.may_answer.set()

    assert await asking == 1
    assert await _minimum(cache) == 2
    cache.clear()
    catalog.minimum = 3
    assert await _minimum(cache) == 3


async def test_failure_is_not_kept_when_the_database_is_away(clock: Clock) -> None:
    catalog = Catalog()
    cache = SkuCache(cast(Any, catalog))
    catalog.is_away = True
    with pytest.raises(StoreUnavailable):
        await cache.get("S")

    catalog.is_away = False
    assert await _minimum(cache) == 1


async def test_skus_are_forgotten_when_there_are_many(clock: Clock, monkeypatch: Any) -> None:
    monkeypatch.setattr(cache_module, "ENTRIES_MAX", 3)
    catalog = Catalog()
    cache = SkuCache(cast(Any, catalog))

    for number in range(10):
        await cache.get(f"S{number}")

    assert len(cache._entries) == 3
