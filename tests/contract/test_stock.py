"""publish_skus, adjust_stock, set_stock and read_stock."""

from __future__ import annotations

import pytest

from cartstore import limits
from cartstore.errors import LimitExceeded, ProductNotFound, StockConflict

from .shop import ANN, BEN, TERMS, Shop


async def test_read_stock_gives_levels_in_order_when_some_are_unknown(shop: Shop) -> None:
    await shop.sell("a", 5)
    await shop.sell("b", 0, policy="backorder")
    await shop.add(ANN, "a", 2)

    a, unknown, b = await shop.engine.read_stock(["a", "unknown", "b"])

    assert a is not None
    assert b is not None
    assert unknown is None
    assert (a.sku, a.policy, a.on_hand, a.held, a.sold, a.backordered) == ("a", "deny", 5, 2, 0, 0)
    assert a.available == 3
    assert (b.sku, b.policy, b.on_hand, b.available) == ("b", "backorder", 0, None)


async def test_read_stock_gives_nothing_when_nothing_is_asked(shop: Shop) -> None:
    assert await shop.engine.read_stock([]) == []


async def test_publish_keeps_the_counters_when_the_sku_is_known(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 2)

    await shop.publish("tee", price_minor=5, policy="backorder")

    level = await shop.level("tee")
    assert (level.policy, level.on_hand, level.held) == ("backorder", 5, 2)


async def test_publish_shows_in_carts_when_price_or_activity_changed(shop: Shop) -> None:
    await shop.sell("tee", 5, price_minor=1_000)
    added = await shop.add(ANN, "tee")

    fields = await shop.publish("tee", price_minor=900, is_active=False)

    line = await shop.line(ANN, "tee")
    assert (line.unit_price_minor, line.current_price_minor) == (1_000, 900)
    assert line.current_revision == fields.revision
    assert not line.is_active
    assert (await shop.summary(ANN)) == added.summary


async def test_adjust_stock_adds_and_takes_when_nothing_is_held(shop: Shop) -> None:
    await shop.publish("tee")

    added = await shop.adjust("tee", 7)
    taken = await shop.adjust("tee", -3)

    assert (added.delta, added.level.on_hand, added.replayed) == (7, 7, False)
    assert (taken.delta, taken.level.on_hand, taken.level.sold) == (-3, 4, 0)
    assert taken.position > added.position


async def test_adjust_stock_refuses_when_the_product_is_unknown(shop: Shop) -> None:
    with pytest.raises(ProductNotFound):
        await shop.adjust("unknown", 1)
    with pytest.raises(ProductNotFound):
        await shop.set_stock("unknown", 1)


async def test_adjust_stock_refuses_when_held_units_would_be_taken(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 3)

    with pytest.raises(StockConflict):
        await shop.adjust("tee", -3)
    await shop.adjust("tee", -2)

    assert await shop.counters("tee") == (3, 3, 0, 0)


@pytest.mark.parametrize("policy", ["deny", "backorder", "untracked"])
async def test_adjust_stock_refuses_when_it_would_fall_below_0(shop: Shop, policy: str) -> None:
    await shop.sell("tee", 5, policy=policy)

    with pytest.raises(StockConflict):
        await shop.adjust("tee", -6)

    assert (await shop.level("tee")).on_hand == 5


async def test_adjust_stock_takes_units_when_their_hold_lapsed(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 5)
    shop.advance(TERMS.hold_ttl_ms)

    result = await shop.adjust("tee", -5)

    assert (result.level.on_hand, result.level.held) == (0, 0)
    assert (await shop.line(ANN, "tee")).held == 0


async def test_adjust_stock_hides_no_due_hold_when_units_are_held(shop: Shop) -> None:
    await shop.sell("a", 2)
    await shop.add(ANN, "a", 1)
    await shop.adjust("a", -1)
    shop.advance(TERMS.hold_ttl_ms)

    added = await shop.add(BEN, "a", 1)

    assert added.line is not None
    assert added.line.held == 1


async def test_adjust_stock_takes_units_when_their_order_is_over_its_window(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 5)
    payment = (await shop.checkout(ANN)).payment
    shop.advance(payment.expires_at_ms - shop.now_ms)

    result = await shop.adjust("tee", -5)

    assert (result.level.on_hand, result.level.held) == (0, 0)
    assert (await shop.payment(payment.payment_id)).payment.status == "expired"


async def test_adjust_stock_refuses_when_there_would_be_too_many_units(shop: Shop) -> None:
    await shop.publish("tee")
    await shop.adjust("tee", limits.STOCK_MAX)

    with pytest.raises(LimitExceeded):
        await shop.adjust("tee", 1)

    assert (await shop.level("tee")).on_hand == limits.STOCK_MAX


async def test_adjust_stock_gives_the_first_result_when_it_is_repeated(shop: Shop) -> None:
    await shop.publish("tee")
    first = await shop.adjust("tee", 5, reference="delivery-1")
    await shop.adjust("tee", 2)

    again = await shop.adjust("tee", 5, reference="delivery-1")

    assert again.replayed
    assert (again.delta, again.position) == (first.delta, first.position)
    assert (await shop.level("tee")).on_hand == 7
    assert await shop.event_types() == ["stock_adjusted"] * 2


async def test_adjust_stock_refuses_when_the_reference_has_other_content(shop: Shop) -> None:
    await shop.publish("tee")
    await shop.adjust("tee", 5, reference="delivery-1", fingerprint="one")

    with pytest.raises(StockConflict):
        await shop.adjust("tee", 5, reference="delivery-1", fingerprint="two")
    with pytest.raises(StockConflict):
        await shop.set_stock("tee", 9, reference="delivery-1", fingerprint="two")

    assert (await shop.level("tee")).on_hand == 5


async def test_adjust_stock_adjusts_both_when_two_skus_share_a_reference(shop: Shop) -> None:
    await shop.publish("a")
    await shop.publish("b")

    await shop.adjust("a", 5, reference="delivery-1")
    result = await shop.adjust("b", 6, reference="delivery-1", fingerprint="other")

    assert not result.replayed
    assert (await shop.level("b")).on_hand == 6


async def test_adjust_stock_can_be_tried_again_when_it_was_refused(shop: Shop) -> None:
    await shop.publish("tee")
    with pytest.raises(StockConflict):
        await shop.adjust("tee", -1, reference="loss-1")
    await shop.adjust("tee", 3)

    result = await shop.adjust("tee", -1, reference="loss-1")

    assert not result.replayed
    assert (await shop.level("tee")).on_hand == 2


async def test_set_stock_moves_by_the_difference_when_there_is_one(shop: Shop) -> None:
    await shop.sell("tee", 5)

    raised = await shop.set_stock("tee", 8)
    lowered = await shop.set_stock("tee", 2)

    assert (raised.delta, raised.level.on_hand) == (3, 8)
    assert (lowered.delta, lowered.level.on_hand) == (-6, 2)


async def test_set_stock_records_it_when_there_is_no_difference(shop: Shop) -> None:
    await shop.sell("tee", 5)

    first = await shop.set_stock("tee", 5, reference="count-1")
    again = await shop.set_stock("tee", 5, reference="count-1")

    assert (first.delta, first.replayed) == (0, False)
    assert (again.delta, again.replayed, again.position) == (0, True, first.position)
    assert await shop.event_types() == ["stock_adjusted"] * 2


async def test_set_stock_refuses_when_the_expected_count_differs(shop: Shop) -> None:
    await shop.sell("tee", 5)

    with pytest.raises(StockConflict):
        await shop.set_stock("tee", 8, expected=4)
    result = await shop.set_stock("tee", 8, expected=5)

    assert result.level.on_hand == 8


async def test_set_stock_refuses_when_fewer_would_remain_than_are_held(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 3)

    with pytest.raises(StockConflict):
        await shop.set_stock("tee", 2)
    result = await shop.set_stock("tee", 3)

    assert (result.level.on_hand, result.level.available) == (3, 0)


async def test_set_stock_refuses_when_there_would_be_too_many_units(shop: Shop) -> None:
    await shop.publish("tee")

    with pytest.raises(LimitExceeded):
        await shop.set_stock("tee", limits.STOCK_MAX + 1)


async def test_set_stock_gives_the_first_result_when_it_is_repeated(shop: Shop) -> None:
    await shop.sell("tee", 5)
    first = await shop.set_stock("tee", 8, expected=5, reference="count-1")
    await shop.adjust("tee", 1)

    again = await shop.set_stock("tee", 8, expected=5, reference="count-1")

    assert again.replayed
    assert (again.delta, again.position) == (3, first.position)
    assert (await shop.level("tee")).on_hand == 9


async def test_stock_event_tells_the_adjustment_when_it_was_done(shop: Shop) -> None:
    await shop.publish("tee")
    await shop.adjust("tee", 7, reference="delivery-1", fingerprint="abc")
    result = await shop.set_stock("tee", 4, reference="count-1", fingerprint="def")

    events = await shop.events()

    assert [event.type for event in events] == ["stock_adjusted", "stock_adjusted"]
    assert [event.body for event in events] == [
        {
            "sku": "tee",
            "delta": "7",
            "filled": "0",
            "on_hand": "7",
            "reason": "count",
            "reference": "delivery-1",
            "fingerprint": "abc",
        },
        {
            "sku": "tee",
            "delta": "-3",
            "filled": "0",
            "on_hand": "4",
            "reason": "count",
            "reference": "count-1",
            "fingerprint": "def",
        },
    ]
    assert events[1].position == result.position
    assert events[1].at_ms == shop.now_ms
    assert (events[0].position.epoch, events[0].position.seq) == (1, 1)
    assert (events[1].position.epoch, events[1].position.seq) == (1, 2)
