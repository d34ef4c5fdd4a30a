"""Events that the record cannot take, on the real engine and the real record.

Goal: an event that PostgreSQL refuses holds nothing else up, and the SKUs that it is about are not sold until
a person decides, whatever dies in between and whatever is published, recovered or rebuilt. Method: let the
engine issue an adjustment whose reference the record has already, and drain.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from reconcile_shop import BUYER, Shop, expect_left, found, open_shop, product_of

from cartstore import Owner
from cartstore.cli import EXIT_FAILED, _unfreeze_skus
from cartstore.embedded import Database
from cartstore.errors import ProductInactive, ProductNotFound, StoreRecovering, StoreUnavailable
from cartstore.model import Event, Position

OTHER = Owner("user", "other")


@pytest.fixture
async def shop(redis_url: str, database: Database, database_url: str) -> AsyncIterator[Shop]:
    async with open_shop(redis_url, database, database_url) as shop:
        yield shop


async def adjust_twice(shop: Shop, sku: str = "A") -> None:
    """The engine forgot a reference and takes it again, for five units; the record does not."""
    await shop.redis.delete(shop.keys.reference(sku, "first"))
    await shop.store.engine.adjust_stock(
        sku, delta=5, reason="count", reference="first", fingerprint="another"
    )


async def assert_frozen(shop: Shop, sku: str = "A") -> None:
    assert await shop.store.archive.quarantine.frozen() == [sku]
    with pytest.raises(ProductInactive):
        await shop.store.add_line(OTHER, sku, 1)


async def test_sku_is_not_sold_when_an_event_about_it_was_rejected(shop: Shop) -> None:
    await adjust_twice(shop)

    await shop.store.drain_outbox()

    await assert_frozen(shop)
    # Neither by a checkout of what is in a cart already; but what is being paid is paid.
    with pytest.raises(ProductInactive):
        await shop.check_out(BUYER, "second")
    assert (await shop.store.apply_verdict(shop.payment_id, "succeeded")).payment.status == "paid"
    # Everything else goes on.
    await shop.store.add_line(OTHER, "B", 1)
    await shop.check_out(OTHER, "third")
    assert await shop.store.drain_outbox() == 2
    await expect_left(shop, ("engine_ahead", "A"))


async def test_readiness_says_what_was_put_aside_and_stays_ready(shop: Shop) -> None:
    await adjust_twice(shop)
    await shop.store.drain_outbox()

    found = await shop.store.readiness()

    assert found["ready"]
    assert found["checks"]["quarantine"]["detail"] == "1 events rejected, 1 SKUs frozen"


@pytest.mark.parametrize("is_active", [True, False])
async def test_sku_is_as_the_catalog_has_it_when_it_is_unfrozen(shop: Shop, is_active: bool) -> None:
    await adjust_twice(shop)
    await shop.store.drain_outbox()
    await shop.put("A", price_minor=1_700, is_active=is_active)
    await assert_frozen(shop)

    was_frozen = await shop.store.unfreeze_sku("A")

    assert was_frozen
    assert await shop.store.archive.quarantine.frozen() == []
    if is_active:
        added = await shop.store.add_line(OTHER, "A", 1)
        assert added.line is not None
        assert added.line.current_price_minor == 1_700
    else:
        with pytest.raises(ProductInactive):
            await shop.store.add_line(OTHER, "A", 1)
    assert not await shop.store.unfreeze_sku("A")


async def test_command_unfreezes_and_says_why_it_was_frozen(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await adjust_twice(shop)
    await shop.store.drain_outbox()

    status = await _unfreeze_skus(["A", "not a sku", "B", "unknown"], tmp_path, shop.store.settings)

    told = capsys.readouterr()
    first, second, last = told.out.splitlines()
    assert status == EXIT_FAILED
    assert first.startswith("A: sold again; it was frozen: ")
    assert second == "B: not frozen"
    assert last == "1 events rejected, 0 SKUs frozen"
    assert "not a sku" in told.err
    assert "unknown: " in told.err


async def test_command_fails_when_a_sku_is_unknown(shop: Shop, tmp_path: Path) -> None:
    assert await _unfreeze_skus(["A"], tmp_path, shop.store.settings) == 0
    assert await _unfreeze_skus(["unknown"], tmp_path, shop.store.settings) == EXIT_FAILED


async def test_sku_that_no_store_can_have_is_refused(shop: Shop) -> None:
    with pytest.raises(ProductNotFound):
        await shop.store.unfreeze_sku("not a sku")


async def test_sku_is_frozen_by_reconcile_when_the_drain_died_before_it_told_the_engine(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await adjust_twice(shop)

    async def dies(*_: object, **__: object) -> None:
        raise StoreUnavailable()

    with monkeypatch.context() as patch:
        patch.setattr(shop.store.engine, "freeze_skus", dies)
        with pytest.raises(StoreUnavailable):
            await shop.store.drain_outbox()
    await shop.store.add_line(OTHER, "A", 1)

    watched = await shop.reconcile(repair=False)
    report = await shop.reconcile()

    assert found(watched.drift) == [("engine_ahead", "A"), ("not_frozen", "A")]
    assert found(report.repaired) == [("not_frozen", "A")]
    await assert_frozen(shop)


async def test_sku_that_only_the_engine_froze_is_left_until_it_is_unfrozen(shop: Shop) -> None:
    """An unfreezing died between record and engine, or a hand did it."""
    await shop.audited.freeze_skus(["A"], frozen=True)

    await expect_left(shop, ("frozen_alone", "A"))

    await shop.store.unfreeze_sku("A")
    assert (await shop.reconcile()).drift == []


async def test_sku_stays_frozen_when_the_engine_is_rebuilt(shop: Shop) -> None:
    await adjust_twice(shop)
    await shop.store.drain_outbox()
    await shop.redis.flushdb()

    await shop.store.recover()

    await assert_frozen(shop)
    # The rebuild took the record's word for the stock, so nothing differs any more.
    assert (await shop.reconcile()).drift == []


async def test_sku_is_frozen_when_its_event_was_rejected_behind_a_fence(shop: Shop) -> None:
    await adjust_twice(shop)
    await shop.redis.hset(shop.keys.gate, "identity", "an engine that is gone")
    with pytest.raises(StoreRecovering):
        await shop.store.add_line(OTHER, "A", 1)

    await shop.store.recover()

    await assert_frozen(shop)


async def test_sku_that_is_not_published_is_frozen_from_its_publication_on(shop: Shop) -> None:
    await shop.audited.freeze_skus(["C"], frozen=True)

    await shop.store.put_product(product_of("C", 100))

    with pytest.raises(ProductInactive):
        await shop.store.add_line(OTHER, "C", 1)
    await shop.audited.freeze_skus(["C"], frozen=False)
    await shop.store.adjust_stock("C", 1, reason="count", reference="first")
    await shop.store.add_line(OTHER, "C", 1)


@pytest.mark.parametrize(
    "body",
    [
        {"payment_id": "", "reason": "expired"},
        {"order_id": "", "payment_status": "refunded"},
        {"orders": [{"lines": [{"sku": "A"}, {"sku": "not a sku"}, {"sku": 7}]}]},
        {"sku": "A\x00", "sales": [{"sku": "A"}]},
    ],
)
async def test_event_freezes_the_skus_that_it_names_or_that_its_payment_has(
    shop: Shop, body: dict[str, object]
) -> None:
    payment = await shop.store.read_payment(shop.payment_id, BUYER)
    for name, value in (("payment_id", shop.payment_id), ("order_id", payment.orders[0].order_id)):
        if name in body:
            body[name] = value
    cursor, _ = await shop.store.archive.cursor()
    event = Event(
        position=Position(cursor.epoch, cursor.seq + 1),
        nonce="n",
        type="strange",
        at_ms=1,
        body_json=msgspec.json.encode(body).decode(),
    )

    await shop.store.archive.reject_event(event, "a test's")

    assert await shop.store.archive.quarantine.frozen() == ["A"]
    assert await shop.store.archive.quarantine.reason("A") == "a test's"
    counts = await shop.store.archive.quarantine.counts()
    assert (counts.rejected_events, counts.frozen_skus) == (1, 1)
