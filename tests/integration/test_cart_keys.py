"""What is left of a cart in the engine: no TTL while a counter depends on it, nothing of a removed line."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis.asyncio
from contract.backends import open_real
from contract.shop import ANN, TERMS, Shop

from cartstore.model import line_id_of

CART = "{main:0}:cart:" + ANN
FOR_EVER = -1
ENGRAVED = '{"text":"Ann"}'


@pytest.fixture
async def shop(redis_url: str) -> AsyncIterator[Shop]:
    async with open_real(redis_url) as shop:
        await shop.sell("tee", 5)
        yield shop


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


async def test_cart_has_a_ttl_when_it_holds_nothing(shop: Shop, client: redis.asyncio.Redis) -> None:
    assert shop.engine.keys.cart(ANN) == CART  # type: ignore[attr-defined]
    await shop.add(ANN, "tee", 2)
    assert await client.pttl(CART) == FOR_EVER

    await shop.set(ANN, "tee", 1)
    assert await client.pttl(CART) == FOR_EVER
    await shop.remove(ANN, "tee")
    assert 0 < await client.pttl(CART) <= TERMS.cart_ttl_ms

    await shop.add(ANN, "tee")
    assert await client.pttl(CART) == FOR_EVER


async def test_cart_keeps_nothing_of_a_line_when_it_was_removed(
    shop: Shop, client: redis.asyncio.Redis
) -> None:
    await shop.add(ANN, "tee", properties=ENGRAVED)
    line_id = line_id_of("tee", ENGRAVED)
    assert set(await client.hkeys(CART)) == {"a", f"l:{line_id}", f"p:{line_id}"}

    await shop.remove(ANN, line_id)

    assert await client.hkeys(CART) == ["a"]


async def test_cart_and_line_fit_the_compact_encoding_when_they_are_a_year_old(
    shop: Shop, client: redis.asyncio.Redis
) -> None:
    """A longer value would take a cart out of it, and make it several times as large."""
    await shop.add(ANN, "tee")
    shop.advance(365 * 86_400_000)
    await shop.add(ANN, "tee", 3)

    assert await client.object("encoding", CART) == "listpack"
