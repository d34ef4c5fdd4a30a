"""Releasing payments: cancelled, expired by name, lazily and by the sweep; and lines that come back."""

from __future__ import annotations

import pytest

from cartstore.errors import InsufficientStock, OrderState, PaymentExpired, VersionConflict

from .shop import ANN, BEN, GUS, LIFETIME_MS, MINUTE_MS, TERMS, WINDOW_MS, Shop, terms


async def test_cancel_gives_everything_back_when_the_payment_is_pending(shop: Shop) -> None:
    a = await shop.publish("a", seller="zeta", price_minor=1_000)
    await shop.adjust("a", 5)
    await shop.sell("b", 5, seller="alpha", price_minor=200)
    await shop.publish("c", seller="alpha", policy="untracked", price_minor=50)
    await shop.add(ANN, "a", 2)
    await shop.add(ANN, "b", 3, properties='{"text":"Ann"}')
    await shop.add(ANN, "c", 4)
    before = await shop.cart(ANN)
    begun = await shop.checkout(ANN)
    emptied = await shop.summary(ANN)
    shop.advance(MINUTE_MS)

    result = await shop.cancel(begun.payment.payment_id)

    assert (result.changed, result.payment.status) == (True, "cancelled")
    assert [(order.status, order.release_reason) for order in result.orders] == [
        ("released", "cancelled")
    ] * 2
    cart = await shop.cart(ANN)
    assert cart.summary.version > emptied.version
    assert cart.updated_at_ms == shop.now_ms
    assert [(line.line_id, line.quantity, line.held) for line in cart.lines] == [
        (line.line_id, line.quantity, 0) for line in before.lines
    ]
    assert [line.properties_json for line in cart.lines] == [None, '{"text":"Ann"}', None]
    assert (cart.lines[0].unit_price_minor, cart.lines[0].revision) == (1_000, a.revision)
    assert cart.summary.subtotal_minor == before.summary.subtotal_minor
    assert await shop.counters("a") == (5, 0, 0, 0)
    assert await shop.counters("b") == (5, 0, 0, 0)


async def test_cancel_changes_nothing_when_it_was_released_before(shop: Shop) -> None:
    await shop.sell("tee", 5)
    payment_id = await shop.buy(ANN, "tee", 2)
    await shop.cancel(payment_id)
    before = await shop.cart(ANN)

    again = await shop.cancel(payment_id)
    expired = await shop.expire(payment_id)

    assert (again.changed, again.payment.status) == (False, "cancelled")
    assert (expired.changed, expired.payment.status) == (False, "cancelled")
    assert await shop.cart(ANN) == before
    assert (await shop.event_types()).count("payment_released") == 1


async def test_cancel_refuses_when_the_money_arrived(shop: Shop) -> None:
    await shop.sell("tee", 5)
    paid = await shop.buy(ANN, "tee", 2)
    await shop.settle(paid)

    with pytest.raises(OrderState):
        await shop.cancel(paid)
    with pytest.raises(OrderState):
        await shop.expire(paid)

    assert await shop.counters("tee") == (3, 0, 2, 0)


async def test_cancel_refuses_when_a_refund_is_due_or_done(shop: Shop) -> None:
    await shop.sell("tee", 1)
    payment_id = await shop.buy(ANN, "tee")
    await shop.cancel(payment_id)
    await shop.add(BEN, "tee")
    owed = await shop.settle(payment_id)

    with pytest.raises(OrderState):
        await shop.cancel(payment_id)
    await shop.close_refund(owed.orders[0].order_id)
    with pytest.raises(OrderState):
        await shop.cancel(payment_id)


async def test_cancel_lets_the_unit_be_bought_when_it_was_the_last(shop: Shop) -> None:
    await shop.sell("tee", 1)
    payment_id = await shop.buy(ANN, "tee")

    with pytest.raises(InsufficientStock):
        await shop.add(BEN, "tee")
    await shop.cancel(payment_id)
    result = await shop.add(BEN, "tee")

    assert result.line is not None
    assert result.line.held == 1


async def test_cancel_releases_as_expired_when_the_window_is_over(shop: Shop) -> None:
    await shop.sell("tee", 5)
    payment_id = await shop.buy(ANN, "tee", 2)
    shop.advance(WINDOW_MS)

    result = await shop.cancel(payment_id)

    assert (result.changed, result.payment.status) == (True, "expired")
    assert result.orders[0].release_reason == "expired"


async def test_expire_does_nothing_when_the_window_is_open(shop: Shop) -> None:
    await shop.sell("tee", 5)
    payment_id = await shop.buy(ANN, "tee", 2)
    shop.advance(WINDOW_MS - 1)

    result = await shop.expire(payment_id)

    assert (result.changed, result.payment.status) == (False, "pending")
    assert await shop.counters("tee") == (5, 2, 0, 0)


async def test_expire_releases_when_the_window_is_over(shop: Shop) -> None:
    await shop.sell("tee", 5)
    payment_id = await shop.buy(ANN, "tee", 2)
    shop.advance(WINDOW_MS)

    result = await shop.expire(payment_id)

    assert (result.changed, result.payment.status) == (True, "expired")
    assert [(order.status, order.release_reason) for order in result.orders] == [("released", "expired")]
    assert await shop.quantities(ANN) == {"tee": 2}
    event = (await shop.events())[-1]
    assert event.type == "payment_released"
    assert event.position == result.position
    assert event.body == {"payment_id": payment_id, "reason": "expired"}


@pytest.mark.parametrize("verb", ["add", "level", "adjust", "put", "checkout", "settle", "hold", "cart"])
async def test_order_is_released_whole_when_another_needs_one_of_its_skus(shop: Shop, verb: str) -> None:
    await shop.sell("a", 2, seller="zeta")
    await shop.sell("b", 2, seller="alpha")
    await shop.sell("late", 2, policy="backorder")
    await shop.add(BEN, "a", 2, terms=terms(reservations=False))
    await shop.add(ANN, "a", 2)
    await shop.add(ANN, "b", 2)
    payment_id = (await shop.checkout(ANN)).payment.payment_id
    shop.advance(WINDOW_MS)

    if verb == "add":
        assert (await shop.add(GUS, "a", 2)).summary.total_items == 2
    elif verb == "level":
        assert (await shop.level("a")).available == 2
    elif verb == "adjust":
        assert (await shop.adjust("a", -2)).level.on_hand == 0
    elif verb == "put":
        assert (await shop.put(GUS, ("a", 2))).summary.total_items == 2
    elif verb == "checkout":
        assert (await shop.checkout(BEN)).payment.status == "pending"
    elif verb == "settle":
        other = await shop.buy(GUS, "late", 2)
        await shop.publish("a", policy="backorder")
        await shop.add(GUS, "a", 1)
        second = await shop.checkout(GUS, key="second")
        await shop.settle(other)
        assert (await shop.settle(second.payment.payment_id)).payment.status == "paid"
    elif verb == "hold":
        assert (await shop.hold(BEN)).lines[0].held == 2
    else:
        assert (await shop.line(BEN, "a")).available_quantity == 2

    # The event shows that it was this call, and none of the readings below, that released it.
    released = [event.body for event in await shop.events() if event.type == "payment_released"]
    assert released == [{"payment_id": payment_id, "reason": "expired"}]
    assert (await shop.summary(ANN)).total_items == 4
    assert (await shop.level("b")).available == 2
    checkout = await shop.payment(payment_id)
    assert checkout.payment.status == "expired"
    assert [order.status for order in checkout.orders] == ["released", "released"]


async def test_order_is_kept_when_its_window_is_open(shop: Shop) -> None:
    await shop.sell("tee", 2)
    await shop.buy(ANN, "tee", 2)
    shop.advance(WINDOW_MS - 1)

    with pytest.raises(InsufficientStock):
        await shop.add(BEN, "tee")


async def test_order_is_due_when_the_clock_stepped_far_back(shop: Shop) -> None:
    await shop.sell("tee", 2)
    payment_id = await shop.buy(ANN, "tee", 2)
    shop.advance(-(LIFETIME_MS + MINUTE_MS))

    await shop.add(BEN, "tee", 2)

    assert (await shop.payment(payment_id)).payment.status == "expired"


async def _pending_when_the_clock_stepped_back(shop: Shop, policy: str, distance_ms: int) -> str:
    """A payment whose window ends so far from now."""
    await shop.sell("tee", 1 if policy == "deny" else 0, policy=policy)
    payment_id = await shop.buy(ANN, "tee")
    shop.advance(WINDOW_MS - distance_ms)
    return payment_id


@pytest.mark.parametrize("policy", ["deny", "untracked"])
@pytest.mark.parametrize("meet", ["read", "list", "fail", "cancel", "expire", "repeat", "sweep"])
async def test_payment_is_over_when_the_clock_stepped_far_back(shop: Shop, policy: str, meet: str) -> None:
    """By the rule of a hold, whoever meets it first and whether or not it holds anything."""
    payment_id = await _pending_when_the_clock_stepped_back(shop, policy, LIFETIME_MS + 1)

    match meet:
        case "read":
            await shop.payment(payment_id)
        case "list":
            await shop.engine.list_payments(ANN)
        case "fail":
            with pytest.raises(PaymentExpired):
                await shop.engine.fail_payment(payment_id)
        case "cancel":
            await shop.engine.release_payment(payment_id, "cancelled")
        case "expire":
            await shop.engine.release_payment(payment_id, "expired")
        case "repeat":
            await shop.checkout(ANN)
        case "sweep":
            assert await shop.engine.release_due_payments(10) == 1

    assert (await shop.event_types())[-1] == "payment_released"
    assert (await shop.payment(payment_id)).payment.status == "expired"


@pytest.mark.parametrize("policy", ["deny", "untracked"])
async def test_payment_is_open_when_its_end_is_no_further_than_the_longest_lifetime(
    shop: Shop, policy: str
) -> None:
    payment_id = await _pending_when_the_clock_stepped_back(shop, policy, LIFETIME_MS)

    assert await shop.engine.release_due_payments(10) == 0
    assert (await shop.payment(payment_id)).payment.status == "pending"


@pytest.mark.parametrize("policy", ["deny", "untracked"])
async def test_order_is_kept_when_its_window_is_longer_than_any_the_gate_was_opened_with(
    shop: Shop, policy: str
) -> None:
    """The shop gave buyers more time to pay and started its processes anew; the engine ran on."""
    await shop.sell("tee", 1, policy=policy)
    await shop.add(ANN, "tee")
    begun = await shop.checkout(ANN, window_ms=2 * LIFETIME_MS)
    payment_id = begun.payment.payment_id

    assert await shop.engine.release_due_payments(10) == 0
    assert await shop.engine.release_due_holds(10) == 0
    assert (await shop.payment(payment_id)).payment.status == "pending"
    await shop.level("tee")
    shop.advance(2 * LIFETIME_MS)
    assert (await shop.payment(payment_id)).payment.status == "expired"


async def test_order_leaves_its_owner_room_when_the_clock_stepped_far_back(shop: Shop) -> None:
    await _pending_when_the_clock_stepped_back(shop, "deny", LIFETIME_MS + 1)
    await shop.sell("cup", 1)

    added = await shop.add(ANN, "cup", terms=terms(held_max=1))

    assert added.line is not None
    assert added.line.held == 1


@pytest.mark.parametrize("is_swept", [False, True])
async def test_money_is_taken_when_the_clock_stepped_far_back(shop: Shop, is_swept: bool) -> None:
    """The order is paid whether the money finds it pending or released, and no unit is sold twice."""
    payment_id = await _pending_when_the_clock_stepped_back(shop, "deny", LIFETIME_MS + 1)
    if is_swept:
        assert await shop.engine.release_due_payments(10) == 1

    result = await shop.settle(payment_id)

    assert result.payment.status == "paid"
    assert await shop.counters("tee") == (0, 0, 1, 0)


async def test_money_is_owed_when_the_clock_stepped_far_back_and_the_unit_went_to_another(shop: Shop) -> None:
    payment_id = await _pending_when_the_clock_stepped_back(shop, "deny", LIFETIME_MS + 1)
    other = await shop.buy(BEN, "tee")

    late, paid = await shop.settle(payment_id), await shop.settle(other)

    assert (late.payment.status, paid.payment.status) == ("refund_due", "paid")
    assert await shop.counters("tee") == (0, 0, 1, 0)


async def test_order_that_holds_nothing_is_released_when_it_is_read(shop: Shop) -> None:
    await shop.publish("ebook", policy="untracked")
    payment_id = await shop.buy(ANN, "ebook", 2)
    shop.advance(WINDOW_MS)

    checkout = await shop.payment(payment_id)

    assert checkout.payment.status == "expired"
    assert await shop.quantities(ANN) == {"ebook": 2}


async def test_release_due_payments_releases_all_when_their_windows_are_over(shop: Shop) -> None:
    await shop.sell("tee", 9)
    await shop.publish("ebook", policy="untracked")
    for number in range(3):
        await shop.buy(f"u.{number}", "tee")
    await shop.buy(ANN, "ebook")
    shop.advance(MINUTE_MS)
    await shop.buy(BEN, "tee")
    shop.advance(WINDOW_MS - MINUTE_MS)

    first = await shop.engine.release_due_payments(3)
    second = await shop.engine.release_due_payments(3)
    third = await shop.engine.release_due_payments(3)

    assert (first, second, third) == (3, 1, 0)
    assert await shop.counters("tee") == (9, 1, 0, 0)
    assert (await shop.event_types()).count("payment_released") == 4


async def test_release_due_holds_releases_orders_when_their_windows_are_over(shop: Shop) -> None:
    await shop.sell("tee", 9)
    payment_id = await shop.buy(ANN, "tee", 2)
    shop.advance(WINDOW_MS)

    await shop.engine.release_due_holds(100)

    assert (await shop.event_types())[-1] == "payment_released"
    assert (await shop.payment(payment_id)).payment.status == "expired"


async def test_returned_line_adds_to_the_line_when_there_is_one(shop: Shop) -> None:
    await shop.sell("tee", 9, price_minor=1_000)
    payment_id = await shop.buy(ANN, "tee", 2)
    newer = await shop.publish("tee", price_minor=1_200)
    added = await shop.add(ANN, "tee", 3)

    await shop.cancel(payment_id)

    line = await shop.line(ANN, "tee")
    assert added.line is not None
    assert (line.quantity, line.held) == (5, 3)
    assert (line.unit_price_minor, line.revision) == (1_200, newer.revision)
    assert line.hold_expires_at_ms == added.line.hold_expires_at_ms
    assert line.first_held_at_ms == added.line.first_held_at_ms
    assert (line.ordinal, line.added_at_ms) == (added.line.ordinal, added.line.added_at_ms)
    assert (await shop.summary(ANN)).subtotal_minor == 6_000
    assert await shop.counters("tee") == (9, 3, 0, 0)


async def test_returned_line_comes_last_when_it_is_new(shop: Shop) -> None:
    await shop.sell("a", 9)
    await shop.sell("b", 9)
    await shop.add(ANN, "a")
    await shop.add(ANN, "b")
    payment_id = (await shop.checkout(ANN, line_ids=("a",))).payment.payment_id

    await shop.cancel(payment_id)

    assert list(await shop.quantities(ANN)) == ["b", "a"]
    a, b = await shop.line(ANN, "a"), await shop.line(ANN, "b")
    assert a.ordinal > b.ordinal
    assert a.held == 0
    assert b.held == 1


async def test_returned_line_comes_at_the_price_of_the_order_when_it_was_lower(shop: Shop) -> None:
    await shop.sell("tee", 9, price_minor=1_000)
    added = await shop.add(ANN, "tee", 2)
    await shop.publish("tee", price_minor=800)
    payment_id = (await shop.checkout(ANN)).payment.payment_id

    await shop.cancel(payment_id)

    line = await shop.line(ANN, "tee")
    assert added.line is not None
    assert (line.unit_price_minor, line.revision) == (800, added.line.revision)


async def test_returned_line_is_held_whole_when_it_is_changed(shop: Shop) -> None:
    await shop.sell("tee", 9)
    payment_id = await shop.buy(ANN, "tee", 2)
    added = await shop.add(ANN, "tee", 3)
    await shop.cancel(payment_id)

    result = await shop.add(ANN, "tee", 1)

    assert added.line is not None
    assert result.line is not None
    assert (result.line.quantity, result.line.held) == (6, 6)
    assert result.line.first_held_at_ms == added.line.first_held_at_ms


async def test_returned_line_is_refused_more_when_it_cannot_be_held_whole(shop: Shop) -> None:
    await shop.sell("tee", 6)
    payment_id = await shop.buy(ANN, "tee", 2)
    await shop.add(ANN, "tee", 2)
    await shop.cancel(payment_id)
    await shop.add(BEN, "tee", 3)

    with pytest.raises(InsufficientStock) as caught:
        await shop.add(ANN, "tee", 1)
    lowered = await shop.set(ANN, "tee", 3)

    assert (caught.value.available_quantity, caught.value.requested_quantity) == (3, 5)
    assert lowered.line is not None
    assert (lowered.line.quantity, lowered.line.held) == (3, 3)
    assert (await shop.level("tee")).available == 0


async def test_returned_line_keeps_its_hold_when_it_is_lowered_to_it(shop: Shop) -> None:
    await shop.sell("tee", 5)
    payment_id = await shop.buy(ANN, "tee", 2)
    await shop.add(ANN, "tee", 3)
    await shop.cancel(payment_id)
    await shop.add(BEN, "tee", 2)

    result = await shop.set(ANN, "tee", 3)
    lower = await shop.set(ANN, "tee", 2)

    assert result.line is not None
    assert lower.line is not None
    assert (result.line.held, lower.line.held) == (3, 2)


async def test_returned_line_is_checked_out_whole_when_it_can_be_held(shop: Shop) -> None:
    await shop.sell("tee", 5)
    first = await shop.buy(ANN, "tee", 2)
    await shop.add(ANN, "tee", 3)
    await shop.cancel(first)

    checkout = await shop.checkout(ANN, key="again")

    assert (checkout.orders[0].lines[0].quantity, checkout.orders[0].lines[0].held) == (5, 5)
    assert await shop.counters("tee") == (5, 5, 0, 0)


async def test_nothing_returns_when_the_cart_has_another_currency(shop: Shop) -> None:
    await shop.sell("tee", 5, currency="USD")
    await shop.sell("pull", 5, currency="EUR")
    payment_id = await shop.buy(ANN, "tee", 2)
    added = await shop.add(ANN, "pull")

    result = await shop.cancel(payment_id)

    assert result.payment.status == "cancelled"
    assert (await shop.summary(ANN)) == added.summary
    assert await shop.counters("tee") == (5, 0, 0, 0)


async def test_late_money_leaves_the_cart_alone_when_it_has_another_currency(shop: Shop) -> None:
    await shop.sell("tee", 5, currency="USD")
    await shop.sell("pull", 5, currency="EUR")
    payment_id = await shop.buy(ANN, "tee", 2)
    added = await shop.add(ANN, "pull")
    await shop.cancel(payment_id)

    result = await shop.settle(payment_id)

    assert result.payment.status == "paid"
    assert (await shop.summary(ANN)) == added.summary
    assert await shop.counters("tee") == (3, 0, 2, 0)


async def test_lines_return_in_their_currency_when_the_cart_was_emptied_of_another(shop: Shop) -> None:
    await shop.sell("tee", 5, currency="USD")
    await shop.sell("pull", 5, currency="EUR")
    payment_id = await shop.buy(ANN, "tee", 2)
    await shop.add(ANN, "pull")
    await shop.clear(ANN)

    await shop.cancel(payment_id)

    summary = await shop.summary(ANN)
    assert (summary.currency, summary.total_items) == ("USD", 2)


async def test_lines_return_when_limits_would_refuse_an_add(shop: Shop) -> None:
    few = terms(lines_max=1, items_max=3, quantity_max=3)
    await shop.sell("a", 9)
    await shop.sell("b", 9)
    await shop.add(ANN, "a", 3, terms=few)
    payment_id = (await shop.checkout(ANN, terms=few)).payment.payment_id
    await shop.add(ANN, "b", 3, terms=few)

    await shop.cancel(payment_id)

    assert await shop.quantities(ANN) == {"b": 3, "a": 3}


async def test_if_match_fails_when_lines_came_back_meanwhile(shop: Shop) -> None:
    await shop.sell("tee", 9)
    await shop.buy(ANN, "tee", 2)
    version = (await shop.summary(ANN)).version
    shop.advance(WINDOW_MS)

    with pytest.raises(VersionConflict) as caught:
        await shop.add(ANN, "tee", 1, if_match=version)
    result = await shop.add(ANN, "tee", 1, if_match=caught.value.version)

    assert caught.value.version > version
    assert result.line is not None
    assert (result.line.quantity, result.line.held) == (3, 3)


async def test_set_quantity_finds_the_line_when_its_order_is_over_its_window(shop: Shop) -> None:
    await shop.sell("tee", 9)
    await shop.buy(ANN, "tee", 2)
    shop.advance(WINDOW_MS)

    result = await shop.set(ANN, "tee", 1)

    assert result.line is not None
    assert (result.line.quantity, result.line.held) == (1, 1)


async def test_cancel_and_settle_end_it_once_when_both_come(shop: Shop) -> None:
    await shop.sell("tee", 5)
    first = await shop.buy(ANN, "tee", 2, key="one")
    second = await shop.buy(BEN, "tee", 2, key="two")

    await shop.settle(first)
    with pytest.raises(OrderState):
        await shop.cancel(first)
    await shop.cancel(second)
    await shop.settle(second)
    await shop.settle(second)

    assert await shop.counters("tee") == (1, 0, 4, 0)
    types = await shop.event_types()
    assert (types.count("payment_settled"), types.count("payment_released")) == (2, 1)


async def test_many_orders_are_released_at_once_when_all_are_due(shop: Shop) -> None:
    await shop.sell("tee", 130)
    for number in range(130):
        await shop.buy(f"u.{number}", "tee")
    shop.advance(WINDOW_MS)

    result = await shop.add(ANN, "tee", 99)

    assert result.line is not None
    assert result.line.available_quantity == 130
    assert await shop.counters("tee") == (130, 99, 0, 0)
    assert TERMS.held_max >= 99
