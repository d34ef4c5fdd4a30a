"""What is left of a cart in the engine: no TTL while a counter depends on it, nothing of a removed line."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import redis.asyncio
from contract.backends import open_real
from contract.shop import ANN, TERMS, Shop, terms

from cartstore.model import Checkout, line_id_of

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

    assert set(await client.hkeys(CART)) == {"a", "h:tee"}
    shop.advance(TERMS.hold_rest_ms)
    await shop.add(ANN, "tee", terms=terms(reservations=False))
    assert set(await client.hkeys(CART)) == {"a", "l:tee"}


async def test_cart_and_line_fit_the_compact_encoding_when_they_are_a_year_old(
    shop: Shop, client: redis.asyncio.Redis
) -> None:
    """A longer value would take a cart out of it, and make it several times as large."""
    await shop.add(ANN, "tee")
    shop.advance(365 * 86_400_000)
    await shop.add(ANN, "tee", 3)

    assert await client.object("encoding", CART) == "listpack"


RESERVE = """
    local cart = { cmsgpack.unpack(redis.call('HGET', KEYS[1], 'a')) }
    cart[14], cart[15] = 60000, 'u.ben'
    redis.call('HSET', KEYS[1], 'a', cmsgpack.pack(unpack(cart)))
"""


async def test_cart_keeps_what_nothing_sets_yet_when_any_script_changes_it(
    shop: Shop, client: redis.asyncio.Redis
) -> None:
    """A later version may share the engine with this one while one replaces the other."""
    await shop.add(ANN, "tee")
    await client.eval(RESERVE, 1, CART)

    async def lapse() -> None:
        shop.advance(TERMS.hold_ttl_ms)
        await shop.level("tee")

    begun: list[Checkout] = []

    async def check_out() -> None:
        begun.append(await shop.checkout(ANN))

    changes: list[Callable[[], Awaitable[object]]] = [
        lambda: shop.add(ANN, "tee"),
        lambda: shop.add(ANN, "tee", properties=ENGRAVED),
        lambda: shop.set(ANN, "tee", 1),
        lambda: shop.put(ANN, ("tee", 2)),
        lambda: shop.accept(ANN),
        lapse,
        lambda: shop.hold(ANN),
        check_out,
        lambda: shop.cancel(begun[0].payment.payment_id),
        lambda: shop.remove(ANN, "tee"),
        lambda: shop.clear(ANN),
    ]
    for change in changes:
        await change()
        kept = await client.eval("return {cmsgpack.unpack(redis.call('HGET', KEYS[1], 'a'))}", 1, CART)
        assert kept[13:15] == [60_000, "u.ben"], change
