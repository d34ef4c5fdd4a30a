"""The disk's mark in the gate: what it stops when nothing may be written, and that it opens no shut gate."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from contract.backends import open_real
from contract.shop import ANN, BEN, PARTITION, TERMS, Shop
from redis.asyncio import Redis

from cartstore.errors import StoreFull, StoreRecovering, StoreUnavailable
from cartstore.redis.caller import ClientCaller
from cartstore.redis.gate import DiskMark, mark_disk, read_gate
from cartstore.redis.keys import Keys
from cartstore.redis.outbox import RedisOutbox

WRITING: dict[str, Callable[[Shop], Awaitable[object]]] = {
    "add": lambda shop: shop.add(BEN, "a", 1),
    "lower": lambda shop: shop.set(ANN, "a", 1),
    "remove": lambda shop: shop.remove(ANN, "a"),
    "clear": lambda shop: shop.clear(ANN),
    "check out": lambda shop: shop.checkout(ANN, key="new"),
    "sweep holds": lambda shop: shop.engine.release_due_holds(10),
    "sweep payments": lambda shop: shop.engine.release_due_payments(10),
}


@pytest.fixture
async def shop(redis_url: str) -> AsyncIterator[Shop]:
    async with open_real(redis_url) as shop:
        yield shop


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


async def offset(client: Redis) -> int:
    """Bytes that the engine has put into its log."""
    return int((await client.info("persistence"))["aof_current_size"])


async def test_nothing_is_written_when_the_disk_is_out(shop: Shop, client: Redis) -> None:
    await shop.sell("a", 9)
    await shop.add(ANN, "a", 1)
    begun = (await shop.checkout(ANN, key="old")).payment.payment_id
    await shop.add(ANN, "a", 1)
    # Loads its function, which the engine would log.
    await shop.set(ANN, "a", 2)
    outbox = RedisOutbox(shop.engine, client)  # type: ignore[arg-type]
    last = (await shop.events())[-1].position
    await shop.mark_disk("out")
    before = await offset(client)

    for call in WRITING.values():
        with pytest.raises(StoreFull):
            await call(shop)
    for end in (shop.settle, shop.cancel):
        with pytest.raises(StoreFull):
            await end(begun)
    with pytest.raises(StoreFull):
        await outbox.trim(last)

    assert await shop.counters("a") == (9, 3, 0, 0)
    assert [line.quantity for line in (await shop.cart(ANN)).lines] == [2]
    assert (await shop.checkout(ANN, key="old")).replayed
    assert await offset(client) == before
    await shop.mark_disk("open")
    assert (await shop.settle(begun)).payment.status == "paid"


async def test_due_holds_are_not_guessed_at_when_the_disk_is_out(shop: Shop, client: Redis) -> None:
    await shop.sell("a", 2)
    await shop.sell("b", 2)
    await shop.add(ANN, "a", 2)
    await shop.mark_disk("out")
    shop.advance(TERMS.hold_ttl_ms)
    before = await offset(client)

    with pytest.raises(StoreUnavailable):
        await shop.level("a")

    assert (await shop.level("b")).available == 2
    assert await offset(client) == before
    await shop.mark_disk("open")
    assert (await shop.level("a")).available == 2


@pytest.mark.parametrize("mark", ["low", "out"])
async def test_mark_leaves_a_shut_gate_shut_and_a_marked_one_can_be_fenced(
    shop: Shop, client: Redis, mark: DiskMark
) -> None:
    keys = Keys(shop.partition)
    caller = ClientCaller(client)
    await shop.sell("a", 1)

    await client.hset(keys.gate, "status", "fenced")
    is_set = await mark_disk(caller, keys, mark)
    with pytest.raises(StoreRecovering):
        await shop.add(ANN, "a", 1)
    assert not is_set
    assert (await read_gate(client, keys)).state == "fenced"

    await client.hset(keys.gate, "status", "open")
    assert await mark_disk(caller, keys, mark)
    assert (await read_gate(client, keys)).admits((await read_gate(client, keys)).identity)
    # Another engine than the one that the gate was opened for.
    await client.hset(keys.gate, "identity", "another:1")
    with pytest.raises(StoreRecovering):
        await shop.add(ANN, "a", 1)
    assert (await read_gate(client, keys)).state == "fenced"


async def test_mark_of_an_absent_gate_makes_none(client: Redis, redis_url: str) -> None:
    keys = Keys(PARTITION)

    assert not await mark_disk(ClientCaller(client), keys, "low")
    assert not await client.exists(keys.gate)


async def test_mark_is_set_and_removed_when_the_engine_is_at_maxmemory(own: object, admin: object) -> None:
    async with open_real(own.url()) as shop:  # type: ignore[attr-defined]
        await shop.sell("a", 2)
        admin.config_set("maxmemory", 1)  # type: ignore[attr-defined]

        await shop.mark_disk("low")
        await shop.mark_disk("open")
