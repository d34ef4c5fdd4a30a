"""Goal: what one customer may buy holds over carts, restarts and changes of the limit, because what was
bought is in the record.

Method: a shop on the real engine and the real record. The engine is emptied, entries are planted or taken
away, and limits are set after there were orders.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, cast

import pytest
import redis.asyncio as redis
from chaos.shop import opened, until_open
from sqlalchemy import select, update

from cartstore import Owner, Product, Variant
from cartstore.archive.database import Database
from cartstore.archive.purchases import Purchases
from cartstore.archive.tables import customer_secret, orders
from cartstore.errors import InvalidField, PurchaseLimitReached, StoreUnavailable
from cartstore.model import Checkout, Partition, PurchaseLimit
from cartstore.recovery import gate
from cartstore.recovery.purchases import Mode
from cartstore.recovery.reconcile import Reconciler
from cartstore.redis.keys import Keys
from cartstore.redis.purchases import PurchaseCounts
from cartstore.redis.store import RedisEngine
from cartstore.store import CartStore

ANN = Owner("user", "ann")
GUS, GIL = Owner("guest", "gus"), Owner("guest", "gil")
MAIL = {"email": "Gus.Smith+shop@GoogleMail.com"}
SAME_MAIL = {"email": "gussmith@gmail.com", "phone": "+44 20 7946 0001"}
SAME_PHONE = {"phone": "0044 (0)20-7946-0001"}
HOUR_S = 3_600


async def limit(store: CartStore, units: int | None, window_s: int = HOUR_S) -> None:
    """Sell the tee with this limit."""
    variant = Variant(
        sku="tee",
        price_minor=1_000,
        max_per_customer=PurchaseLimit(quantity=units, window_seconds=window_s) if units else None,
    )
    await store.put_product(Product(id="tee", title="Tee", currency="USD", variants=(variant,)))


async def check_out(
    store: CartStore, owner: Owner, quantity: int, contact: dict[str, str] | None = None, *, key: str = "k"
) -> Checkout:
    await store.add_line(owner, "tee", quantity)
    return await store.begin_checkout(
        owner,
        idempotency_key=key,
        gateway="simulated",
        payment_method="card",
        details={"contact": contact} if contact else None,
    )


_newcomers = itertools.count()


async def left_for(store: CartStore, contact: dict[str, str], *, of: int) -> int:
    """What the customer with this contact may still buy in a new cart, found by asking for all `of` units."""
    newcomer = Owner("guest", f"newcomer-{next(_newcomers)}")
    try:
        begun = await check_out(store, newcomer, of, contact)
    except PurchaseLimitReached as error:
        await store.clear_cart(newcomer)
        return int((error.shortfalls or [])[0]["available_quantity"])
    await store.cancel_order(begun.orders[0].order_id, newcomer)
    return of


async def bought_keys(client: redis.Redis) -> dict[str, dict[str, str]]:
    names = sorted([name async for name in client.scan_iter(match="{main:0}:bought:*")])
    return {name.removeprefix("{main:0}:bought:"): await client.hgetall(name) for name in names}


@pytest.fixture
async def store(redis_url: str, database_url: str) -> AsyncIterator[CartStore]:
    async with opened(redis_url, database_url) as store:
        await limit(store, None)
        await store.adjust_stock("tee", 50, reason="delivery", reference="1")
        yield store


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.Redis]:
    async with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


async def test_secret_is_made_once_when_several_processes_want_it_at_once(database_url: str) -> None:
    async with AsyncExitStack() as stack:
        sides = []
        for _ in range(4):
            database = await Database.open(database_url)
            stack.push_async_callback(database.close)
            sides.append(Purchases(database, Partition("main")))

        made = await asyncio.gather(*(side.secret() for side in sides))

        assert len(set(made)) == 1
        assert len(made[0]) == 32
        async with sides[0]._database.reading() as connection:
            kept = (await connection.execute(select(customer_secret.c.secret))).scalars().all()
        assert kept == [made[0]]
        assert await Purchases(database, Partition("main")).secret() == made[0]


async def test_limit_that_is_set_later_knows_what_was_bought_before(
    store: CartStore, client: redis.Redis
) -> None:
    paid = await check_out(store, GUS, 2, MAIL)
    await store.apply_verdict(paid.payment.payment_id, "succeeded")
    await store.drain_outbox()
    # Still on its way into the record, and pending.
    await check_out(store, GIL, 1, SAME_MAIL)
    released = await check_out(store, ANN, 4, SAME_PHONE)
    await store.cancel_order(released.orders[0].order_id, ANN)
    await store.clear_cart(ANN)

    await limit(store, 5)

    assert await client.zcard(Keys(store.partition).unloaded) == 0
    assert await left_for(store, SAME_MAIL, of=5) == 2
    assert await left_for(store, SAME_PHONE, of=5) == 4
    with pytest.raises(PurchaseLimitReached) as caught:
        await store.add_line(GUS, "tee", 4)
    assert caught.value.available_quantity == 3
    # The engine knows no address.
    assert not [name for name in await bought_keys(client) if "@" in name or "7946" in name]


async def test_limit_whose_window_becomes_longer_knows_what_was_bought_before_it(
    store: CartStore, client: redis.Redis
) -> None:
    await limit(store, 5, HOUR_S)
    # As of a limit that is as old as its SKU: all purchases were counted when they were made.
    await client.hset(Keys(store.partition).sku("tee"), "bought_since", "0")
    paid = await check_out(store, GUS, 2, MAIL)
    await store.apply_verdict(paid.payment.payment_id, "succeeded")
    await store.drain_outbox()
    # Two hours later: the engine has forgotten it.
    async with store.archive.database.transaction() as connection:
        await connection.execute(
            update(orders).values(created_at_ms=orders.c.created_at_ms - 2 * HOUR_S * 1_000)
        )
    for name in await bought_keys(client):
        await client.delete(f"{{main:0}}:bought:{name}")
    assert await left_for(store, MAIL, of=5) == 5

    await limit(store, 5, 3 * HOUR_S)

    assert await left_for(store, MAIL, of=5) == 3


async def test_unloaded_limit_is_loaded_by_reconcile(store: CartStore, client: redis.Redis) -> None:
    await check_out(store, GUS, 2, MAIL)
    product = await store.get_product("tee")
    limited = Variant(
        sku="tee", price_minor=1_000, max_per_customer=PurchaseLimit(quantity=3, window_seconds=HOUR_S)
    )
    # As if the process had died between record, engine and loading.
    stored, _ = await store.catalog.put_product(
        Product(id=product.id, title="Tee", currency="USD", variants=(limited,))
    )
    await store.engine.publish_skus(store.catalog.published([stored]))
    assert await client.zcard(Keys(store.partition).unloaded) == 1

    report = await Reconciler(store, confirm_seconds=0.01).run()

    assert (report.drift, report.repaired) == ([], [])
    assert await client.zcard(Keys(store.partition).unloaded) == 0
    assert await left_for(store, MAIL, of=3) == 1


async def test_purchases_come_back_when_the_engine_is_lost(
    store: CartStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "REBUILD_SILENCE_SECONDS", 0.2)
    await limit(store, 5)
    paid = await check_out(store, GUS, 2, MAIL)
    await store.apply_verdict(paid.payment.payment_id, "succeeded")
    pending = await check_out(store, GIL, 1, SAME_MAIL)
    released = await check_out(store, ANN, 1, SAME_PHONE)
    await store.cancel_order(released.orders[0].order_id, ANN)
    await store.drain_outbox()
    before = {name: entries for name, entries in (await bought_keys(client)).items() if entries}
    await client.flushdb()

    await until_open(store)

    assert await bought_keys(client) == before
    assert await store.load_purchases() == 0
    # A release knows for whom the order counted.
    await store.cancel_order(pending.orders[0].order_id, GIL)
    assert await left_for(store, SAME_MAIL, of=5) == 3
    report = await Reconciler(store, confirm_seconds=0.01).run()
    assert (report.drift, report.repaired) == ([], [])


@pytest.mark.parametrize("mode", ["load", "repair"])
async def test_order_that_is_released_after_the_record_was_read_counts_for_nothing(
    store: CartStore, mode: Mode
) -> None:
    await limit(store, 5)
    begun = await check_out(store, GUS, 2, MAIL)
    await store.drain_outbox()
    since_ms = begun.payment.created_at_ms - 1
    page = await store.archive.purchases.page("tee", (since_ms, "~"), 10)
    assert [(its.units, its.counts) for its in page] == [(2, True)]
    await store.cancel_order(begun.orders[0].order_id, GUS)

    counts = PurchaseCounts(cast(RedisEngine, store.engine))
    changed = await counts.load("tee", page, mode=mode, since_ms=since_ms, recorded_ms=None)

    assert changed == 0
    assert await left_for(store, MAIL, of=5) == 5


@pytest.mark.parametrize("is_kept", [True, False], ids=["kept", "forgotten"])
async def test_reconcile_counts_what_the_record_has(
    store: CartStore, client: redis.Redis, is_kept: bool
) -> None:
    await limit(store, 5)
    paid = await check_out(store, GUS, 2, MAIL)
    await store.apply_verdict(paid.payment.payment_id, "succeeded")
    released = await check_out(store, ANN, 1, SAME_PHONE)
    await store.cancel_order(released.orders[0].order_id, ANN)
    await store.drain_outbox()
    sound = {name: entries for name, entries in (await bought_keys(client)).items() if entries}
    healthy = await Reconciler(store, confirm_seconds=0.01).run()
    assert (healthy.drift, healthy.repaired) == ([], [])
    for name in sound:
        await client.delete(f"{{main:0}}:bought:{name}")
    planted = {released.orders[0].order_id: f"{released.payment.created_at_ms} 1"}
    await client.hset("{main:0}:bought:tee:u.ann", mapping=planted)
    if not is_kept:
        for checkout in (paid, released):
            await client.delete(
                *(f"{{main:0}}:order:{order.order_id}" for order in checkout.orders),
                f"{{main:0}}:payment:{checkout.payment.payment_id}",
            )

    watched = await Reconciler(store, confirm_seconds=0.01).run(repair=False)
    repaired = await Reconciler(store, confirm_seconds=0.01).run()
    after = await Reconciler(store, confirm_seconds=0.01).run()

    assert [(its.kind, its.found) for its in watched.drift] == [("purchases_differ", "3 entries")]
    assert [(its.kind, its.found) for its in repaired.repaired] == [("purchases_differ", "3 entries")]
    assert (repaired.drift, after.drift, after.repaired) == ([], [], [])
    assert {name: entries for name, entries in (await bought_keys(client)).items() if entries} == sound


async def test_forgotten_payment_counts_for_its_customer_when_it_is_paid_late(
    store: CartStore, client: redis.Redis
) -> None:
    await limit(store, 5)
    late = await check_out(store, GUS, 2, MAIL)
    await store.cancel_order(late.orders[0].order_id, GUS)
    await store.drain_outbox()
    await client.delete(
        f"{{main:0}}:order:{late.orders[0].order_id}", f"{{main:0}}:payment:{late.payment.payment_id}"
    )

    result = await store.apply_verdict(late.payment.payment_id, "succeeded")

    assert result.payment.status == "paid"
    assert await left_for(store, MAIL, of=5) == 3


async def test_checkout_goes_on_without_the_record_when_the_secret_was_read(
    store: CartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await limit(store, 5)

    async def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable

    monkeypatch.setattr(store.archive, "find_payments", away)
    begun = await check_out(store, GUS, 2, MAIL)
    assert begun.payment.status == "pending"

    monkeypatch.setattr(store.archive.purchases, "_secret", None)
    monkeypatch.setattr(store.archive.purchases, "secret", away)
    with pytest.raises(StoreUnavailable, match="only it can tell"):
        await check_out(store, GIL, 1, MAIL)
    with pytest.raises(InvalidField, match="e-mail address or a phone number"):
        await check_out(store, GIL, 1, {"phone": "none"})
