"""read_payment, list_payments, settle_payment, fail_payment, close_refund and restore_payment."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from cartstore.errors import (
    OrderNotFound,
    OrderState,
    PaymentExpired,
    PaymentNotFound,
    PaymentState,
)

from .shop import ANN, BEN, MINUTE_MS, TERMS, UNPAID_KEPT_MS, WINDOW_MS, Shop, terms


async def test_read_payment_gives_it_when_it_is_pending(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 2)
    begun = await shop.checkout(ANN)
    shop.advance(WINDOW_MS - 1)

    read = await shop.payment(begun.payment.payment_id)

    assert (read.payment, read.orders) == (begun.payment, begun.orders)
    assert read.read_at_ms == shop.now_ms


async def test_read_payment_gives_nothing_when_it_is_unknown(shop: Shop) -> None:
    assert await shop.engine.read_payment("p0-unknown") is None
    assert await shop.engine.list_payments(ANN) == []


async def test_list_payments_gives_the_newest_first_when_there_are_several(shop: Shop) -> None:
    await shop.sell("tee", 9)
    payment_ids = []
    for key in ("one", "two", "three"):
        payment_ids.append(await shop.buy(ANN, "tee", key=key))
        shop.advance(MINUTE_MS)
    await shop.buy(BEN, "tee")

    listed = await shop.engine.list_payments(ANN)

    assert [checkout.payment.payment_id for checkout in listed] == payment_ids[::-1]


async def test_list_payments_releases_those_over_their_window_when_it_lists(shop: Shop) -> None:
    await shop.sell("tee", 9)
    await shop.buy(ANN, "tee", key="one")
    shop.advance(MINUTE_MS)
    await shop.buy(ANN, "tee", key="two")
    shop.advance(WINDOW_MS - MINUTE_MS)

    listed = await shop.engine.list_payments(ANN)

    assert [checkout.payment.status for checkout in listed] == ["pending", "expired"]
    assert await shop.quantities(ANN) == {"tee": 1}


async def test_settle_sells_every_unit_when_the_payment_is_pending(shop: Shop) -> None:
    await shop.sell("a", 5, seller="zeta")
    await shop.sell("b", 5, seller="alpha")
    await shop.add(ANN, "a", 2)
    await shop.add(ANN, "b", 3)
    begun = await shop.checkout(ANN)

    result = await shop.settle(begun.payment.payment_id)

    assert result.changed
    assert result.position is not None
    assert result.payment.status == "paid"
    assert [(order.status, order.release_reason) for order in result.orders] == [("paid", None)] * 2
    assert await shop.counters("a") == (3, 0, 2, 0)
    assert await shop.counters("b") == (2, 0, 3, 0)
    assert (await shop.payment(begun.payment.payment_id)).payment == result.payment
    assert (await shop.summary(ANN)).lines_count == 0


async def test_settle_changes_nothing_when_it_is_repeated(shop: Shop) -> None:
    await shop.sell("tee", 5)
    payment_id = await shop.buy(ANN, "tee", 2)
    await shop.settle(payment_id)
    shop.advance(WINDOW_MS)

    result = await shop.settle(payment_id)

    assert not result.changed
    assert result.payment.status == "paid"
    assert await shop.counters("tee") == (3, 0, 2, 0)
    assert (await shop.event_types()).count("payment_settled") == 1


async def test_settle_refuses_when_the_payment_is_unknown(shop: Shop) -> None:
    with pytest.raises(PaymentNotFound):
        await shop.settle("p0-unknown")
    with pytest.raises(PaymentNotFound):
        await shop.fail("p0-unknown")
    with pytest.raises(PaymentNotFound):
        await shop.cancel("p0-unknown")
    with pytest.raises(PaymentNotFound):
        await shop.expire("p0-unknown")


async def test_settle_counts_what_was_not_there_when_it_is_a_backorder(shop: Shop) -> None:
    await shop.sell("tee", 3, policy="backorder")
    first = await shop.buy(ANN, "tee", 2)
    second = await shop.buy(BEN, "tee", 4)

    await shop.settle(first)
    after_first = await shop.counters("tee")
    await shop.settle(second)
    after_second = await shop.counters("tee")

    assert after_first == (1, 0, 2, 0)
    assert after_second == (0, 0, 6, 3)


async def test_settle_takes_only_free_units_when_it_is_a_backorder_beside_holds(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(BEN, "tee", 4)
    await shop.publish("tee", policy="backorder")
    payment_id = await shop.buy(ANN, "tee", 3)

    await shop.settle(payment_id)

    assert await shop.counters("tee") == (4, 4, 3, 2)


async def test_settle_takes_units_of_lapsed_holds_when_it_is_a_backorder(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(BEN, "tee", 4)
    await shop.publish("tee", policy="backorder")
    payment_id = await shop.buy(ANN, "tee", 3)
    shop.advance(TERMS.hold_ttl_ms)

    await shop.settle(payment_id)

    assert await shop.counters("tee") == (2, 0, 3, 0)


async def test_settle_counts_nothing_when_it_is_untracked(shop: Shop) -> None:
    await shop.sell("tee", 3, policy="untracked")
    payment_id = await shop.buy(ANN, "tee", 9)

    result = await shop.settle(payment_id)

    assert result.payment.status == "paid"
    assert await shop.counters("tee") == (3, 0, 0, 0)


async def test_settle_follows_the_orders_mode_when_the_policy_changed_since(shop: Shop) -> None:
    await shop.sell("tee", 3)
    payment_id = await shop.buy(ANN, "tee", 2)
    await shop.publish("tee", policy="untracked")

    await shop.settle(payment_id)

    assert await shop.counters("tee") == (1, 0, 2, 0)


async def test_settle_pays_when_the_window_is_over_but_nobody_released_it(shop: Shop) -> None:
    await shop.sell("tee", 5)
    payment_id = await shop.buy(ANN, "tee", 2)
    shop.advance(WINDOW_MS + MINUTE_MS)

    result = await shop.settle(payment_id)

    assert (result.changed, result.payment.status) == (True, "paid")
    assert await shop.counters("tee") == (3, 0, 2, 0)
    assert await shop.quantities(ANN) == {}


async def test_settle_takes_the_units_again_when_it_comes_late_and_they_are_free(shop: Shop) -> None:
    await shop.sell("a", 5, seller="zeta")
    await shop.sell("b", 5, seller="alpha")
    await shop.add(ANN, "a", 2)
    await shop.add(ANN, "b", 1)
    payment_id = (await shop.checkout(ANN)).payment.payment_id
    shop.advance(WINDOW_MS)
    await shop.expire(payment_id)
    returned = await shop.cart(ANN)

    result = await shop.settle(payment_id)

    assert (result.changed, result.payment.status) == (True, "paid")
    assert [(order.status, order.release_reason) for order in result.orders] == [("paid", None)] * 2
    assert returned.summary.total_items == 3
    after = await shop.cart(ANN)
    assert after.lines == ()
    assert after.summary.version > returned.summary.version
    assert await shop.counters("a") == (3, 0, 2, 0)
    assert await shop.counters("b") == (4, 0, 1, 0)


async def test_settle_pays_late_when_the_buyer_had_cancelled(shop: Shop) -> None:
    await shop.sell("tee", 5)
    payment_id = await shop.buy(ANN, "tee", 2)
    await shop.cancel(payment_id)

    result = await shop.settle(payment_id)

    assert result.payment.status == "paid"
    assert await shop.quantities(ANN) == {}


async def test_settle_uses_the_holds_of_returned_lines_when_it_comes_late(shop: Shop) -> None:
    await shop.sell("tee", 2)
    payment_id = await shop.buy(ANN, "tee", 2)
    await shop.cancel(payment_id)
    await shop.hold(ANN)
    held_again = await shop.counters("tee")

    result = await shop.settle(payment_id)

    assert held_again == (2, 2, 0, 0)
    assert result.payment.status == "paid"
    assert await shop.counters("tee") == (0, 0, 2, 0)
    assert await shop.quantities(ANN) == {}


async def test_settle_keeps_what_the_buyer_added_when_returned_lines_leave(shop: Shop) -> None:
    await shop.sell("tee", 9)
    await shop.sell("pull", 9)
    payment_id = await shop.buy(ANN, "tee", 2)
    await shop.cancel(payment_id)
    await shop.add(ANN, "tee", 3)
    await shop.add(ANN, "pull", 1)

    await shop.settle(payment_id)

    assert await shop.quantities(ANN) == {"tee": 3, "pull": 1}
    tee = await shop.line(ANN, "tee")
    assert tee.held == 3
    assert await shop.counters("tee") == (7, 3, 2, 0)
    assert (await shop.summary(ANN)).total_items == 4


async def test_settle_takes_units_of_the_grown_line_when_it_comes_late(shop: Shop) -> None:
    await shop.sell("tee", 5)
    payment_id = await shop.buy(ANN, "tee", 2)
    await shop.add(ANN, "tee", 3)
    await shop.cancel(payment_id)
    await shop.add(BEN, "tee", 2)
    grown = await shop.line(ANN, "tee")

    result = await shop.settle(payment_id)

    left = await shop.line(ANN, "tee")
    assert (grown.quantity, grown.held) == (5, 3)
    assert result.payment.status == "paid"
    assert (left.quantity, left.held) == (3, 1)
    assert await shop.counters("tee") == (3, 3, 2, 0)


async def test_settle_owes_a_refund_when_the_grown_line_holds_too_little(shop: Shop) -> None:
    await shop.sell("tee", 5)
    payment_id = await shop.buy(ANN, "tee", 3)
    await shop.add(ANN, "tee", 2)
    await shop.cancel(payment_id)
    await shop.add(BEN, "tee", 3)

    result = await shop.settle(payment_id)

    assert result.payment.status == "refund_due"
    assert await shop.quantities(ANN) == {"tee": 5}
    assert await shop.counters("tee") == (5, 5, 0, 0)


async def test_settle_leaves_the_cart_alone_when_returned_lines_are_gone(shop: Shop) -> None:
    await shop.sell("tee", 5)
    payment_id = await shop.buy(ANN, "tee", 2)
    await shop.cancel(payment_id)
    cleared = await shop.clear(ANN)

    result = await shop.settle(payment_id)

    assert result.payment.status == "paid"
    assert (await shop.summary(ANN)) == cleared.summary


async def test_settle_owes_a_refund_when_it_comes_late_and_units_are_gone(shop: Shop) -> None:
    await shop.sell("a", 5, seller="zeta")
    await shop.sell("b", 1, seller="alpha")
    await shop.add(ANN, "a", 2)
    await shop.add(ANN, "b", 1)
    payment_id = (await shop.checkout(ANN)).payment.payment_id
    shop.advance(WINDOW_MS)
    await shop.add(BEN, "b", 1)
    returned = await shop.cart(ANN)

    result = await shop.settle(payment_id)
    again = await shop.settle(payment_id)

    assert (result.changed, result.payment.status) == (True, "refund_due")
    assert [order.status for order in result.orders] == ["refund_due"] * 2
    assert (again.changed, again.payment.status) == (False, "refund_due")
    assert await shop.counters("a") == (5, 0, 0, 0)
    assert await shop.counters("b") == (1, 1, 0, 0)
    assert (await shop.cart(ANN)).summary == returned.summary


async def test_settle_owes_a_refund_when_the_details_may_be_removed(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.sell("cap", 5)
    began_at_ms = shop.now_ms
    in_time, too_late = [await shop.buy(ANN, "tee", key=key) for key in ("one", "two")]
    pending = await shop.buy(BEN, "cap")
    await shop.cancel(in_time)
    await shop.cancel(too_late)
    shop.advance(began_at_ms + UNPAID_KEPT_MS - 1 - shop.now_ms)
    paid = await shop.settle(in_time)
    shop.advance(1)

    owed = await shop.settle(too_late)
    kept = await shop.settle(pending)

    assert (paid.payment.status, owed.payment.status) == ("paid", "refund_due")
    assert kept.payment.status == "paid", "it was never released, so its details stay"
    assert await shop.counters("tee") == (4, 0, 1, 0)


async def test_settle_owes_a_refund_when_the_restored_payment_is_redacted(shop: Shop) -> None:
    await shop.sell("tee", 5)
    payment_id = await shop.buy(ANN, "tee")
    released = await shop.cancel(payment_id)
    redacted = replace(
        released.payment,
        payment_id="p0-redacted",
        order_ids=("o0-redacted-1",),
        details_json="{}",
        is_redacted=True,
    )
    orders = [replace(released.orders[0], payment_id="p0-redacted", order_id="o0-redacted-1")]

    await shop.restore(redacted, orders)
    result = await shop.settle("p0-redacted")

    assert (result.payment.status, result.payment.is_redacted) == ("refund_due", True)
    assert await shop.counters("tee") == (5, 0, 0, 0)


async def test_settle_owes_a_refund_when_lines_share_too_few_units(shop: Shop) -> None:
    await shop.sell("mug", 4)
    await shop.add(ANN, "mug", 2)
    await shop.add(ANN, "mug", 2, properties='{"text":"Ann"}')
    payment_id = (await shop.checkout(ANN)).payment.payment_id
    await shop.cancel(payment_id)
    await shop.adjust("mug", -1)

    result = await shop.settle(payment_id)

    assert result.payment.status == "refund_due"
    assert await shop.counters("mug") == (3, 0, 0, 0)


async def test_settle_takes_lapsed_holds_of_others_when_it_comes_late(shop: Shop) -> None:
    await shop.sell("tee", 2)
    payment_id = await shop.buy(ANN, "tee", 2)
    await shop.cancel(payment_id)
    await shop.add(BEN, "tee", 2)
    shop.advance(TERMS.hold_ttl_ms)

    result = await shop.settle(payment_id)

    assert result.payment.status == "paid"
    assert await shop.counters("tee") == (0, 0, 2, 0)


async def test_settle_backorders_late_when_units_are_gone(shop: Shop) -> None:
    await shop.sell("tee", 2, policy="backorder")
    await shop.publish("ebook", policy="untracked")
    await shop.add(ANN, "tee", 3)
    await shop.add(ANN, "ebook", 1)
    payment_id = (await shop.checkout(ANN)).payment.payment_id
    await shop.cancel(payment_id)

    result = await shop.settle(payment_id)

    assert result.payment.status == "paid"
    assert await shop.counters("tee") == (0, 0, 3, 1)
    assert await shop.quantities(ANN) == {}


async def test_settle_event_names_each_order_and_sku_when_it_was_paid(shop: Shop) -> None:
    await shop.sell("a", 5, seller="zeta")
    await shop.sell("b", 2, seller="alpha", policy="backorder")
    await shop.publish("c", seller="alpha", policy="untracked")
    await shop.add(ANN, "a", 1)
    await shop.add(ANN, "a", 2, properties='{"text":"Ann"}')
    await shop.add(ANN, "b", 3)
    await shop.add(ANN, "c", 1)
    begun = await shop.checkout(ANN)

    result = await shop.settle(begun.payment.payment_id)

    event = (await shop.events())[-1]
    first, second = begun.payment.order_ids
    assert event.type == "payment_settled"
    assert event.position == result.position
    assert event.body == {
        "payment_id": begun.payment.payment_id,
        "outcome": "paid",
        "sales": [
            {"order_id": first, "sku": "a", "quantity": "3", "taken": "3", "backordered": "0"},
            {"order_id": second, "sku": "b", "quantity": "3", "taken": "2", "backordered": "1"},
        ],
    }


async def test_settle_event_names_no_sale_when_a_refund_is_due(shop: Shop) -> None:
    await shop.sell("tee", 1)
    payment_id = await shop.buy(ANN, "tee")
    await shop.cancel(payment_id)
    await shop.add(BEN, "tee")

    result = await shop.settle(payment_id)

    event = (await shop.events())[-1]
    assert event.position == result.position
    assert event.type == "payment_settled"
    assert (event.body["payment_id"], event.body["outcome"]) == (payment_id, "refund_due")
    assert not event.body.get("sales")


async def test_settle_keeps_the_stock_conserved_when_many_payments_end(shop: Shop) -> None:
    await shop.sell("tee", 9)
    payment_ids = [await shop.buy(f"u.{number}", "tee", 2) for number in range(4)]

    await shop.settle(payment_ids[0])
    await shop.cancel(payment_ids[1])
    await shop.settle(payment_ids[2])
    shop.advance(WINDOW_MS)
    await shop.payment(payment_ids[3])

    assert await shop.counters("tee") == (5, 0, 4, 0)


async def test_fail_counts_the_attempt_when_the_payment_is_pending(shop: Shop) -> None:
    await shop.sell("tee", 5)
    payment_id = await shop.buy(ANN, "tee", 2)

    first = await shop.fail(payment_id)
    second = await shop.fail(payment_id)
    paid = await shop.settle(payment_id)

    assert (first.changed, first.payment.status, first.payment.attempts) == (True, "pending", 1)
    assert (second.payment.attempts, paid.payment.attempts) == (2, 2)
    assert paid.payment.status == "paid"
    events = [event for event in await shop.events() if event.type == "payment_failed"]
    assert [event.body for event in events] == [
        {"payment_id": payment_id, "attempts": "1"},
        {"payment_id": payment_id, "attempts": "2"},
    ]
    assert [event.position for event in events] == [first.position, second.position]


async def test_fail_refuses_when_the_window_is_over(shop: Shop) -> None:
    await shop.sell("tee", 5)
    payment_id = await shop.buy(ANN, "tee", 2)
    shop.advance(WINDOW_MS)

    with pytest.raises(PaymentExpired):
        await shop.fail(payment_id)
    with pytest.raises(PaymentExpired):
        await shop.fail(payment_id)

    assert (await shop.payment(payment_id)).payment.attempts == 0


async def test_fail_refuses_when_the_payment_is_over(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.sell("last", 1)
    paid = await shop.buy(ANN, "tee", key="paid")
    await shop.settle(paid)
    cancelled = await shop.buy(ANN, "tee", key="cancelled")
    await shop.cancel(cancelled)
    await shop.clear(ANN)
    owed = await shop.buy(ANN, "last", key="owed")
    await shop.cancel(owed)
    await shop.add(BEN, "last")
    result = await shop.settle(owed)

    for payment_id in (paid, cancelled, owed):
        with pytest.raises(PaymentState):
            await shop.fail(payment_id)
    await shop.close_refund(result.orders[0].order_id)
    with pytest.raises(PaymentState):
        await shop.fail(owed)


async def test_close_refund_closes_the_payment_when_all_orders_are(shop: Shop) -> None:
    await shop.sell("a", 5, seller="zeta")
    await shop.sell("b", 1, seller="alpha")
    await shop.add(ANN, "a")
    await shop.add(ANN, "b")
    payment_id = (await shop.checkout(ANN)).payment.payment_id
    await shop.cancel(payment_id)
    await shop.add(BEN, "b")
    owed = await shop.settle(payment_id)
    one, two = owed.payment.order_ids

    first = await shop.close_refund(two)
    repeated = await shop.close_refund(two)
    second = await shop.close_refund(one)
    settled = await shop.settle(payment_id)

    assert (first.changed, first.payment.status) == (True, "refund_due")
    assert [order.status for order in first.orders] == ["refund_due", "refunded"]
    assert (repeated.changed, repeated.payment.status) == (False, "refund_due")
    assert (second.changed, second.payment.status) == (True, "refunded")
    assert [order.status for order in second.orders] == ["refunded", "refunded"]
    assert (settled.changed, settled.payment.status) == (False, "refunded")
    events = [event for event in await shop.events() if event.type == "order_refunded"]
    assert [event.body for event in events] == [
        {"order_id": two, "payment_status": "refund_due"},
        {"order_id": one, "payment_status": "refunded"},
    ]


async def test_close_refund_refuses_when_no_refund_is_due(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee")
    begun = await shop.checkout(ANN)
    (order_id,) = begun.payment.order_ids

    with pytest.raises(OrderState):
        await shop.close_refund(order_id)
    await shop.cancel(begun.payment.payment_id)
    with pytest.raises(OrderState):
        await shop.close_refund(order_id)
    await shop.settle(begun.payment.payment_id)
    with pytest.raises(OrderState):
        await shop.close_refund(order_id)


async def test_close_refund_refuses_when_the_order_is_unknown(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee")
    begun = await shop.checkout(ANN)

    for order_id in ("o0-unknown-1", "unknown", begun.payment.order_ids[0][:-1] + "2"):
        with pytest.raises(OrderNotFound):
            await shop.close_refund(order_id)


async def test_restore_lets_late_money_find_the_payment_when_it_was_forgotten(shop: Shop) -> None:
    await shop.sell("tee", 5)
    forgotten = await _record_of_a_cancelled_payment(shop)
    events = await shop.event_types()

    await shop.restore(forgotten.payment, forgotten.orders)
    kept = await shop.payment(forgotten.payment.payment_id)
    restored_events = await shop.event_types()
    result = await shop.settle(forgotten.payment.payment_id)

    assert (kept.payment, kept.orders) == (forgotten.payment, forgotten.orders)
    assert restored_events == events
    assert (result.changed, result.payment.status) == (True, "paid")
    assert await shop.counters("tee") == (3, 0, 2, 0)


async def test_restore_does_nothing_when_the_payment_is_kept(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 2)
    begun = await shop.checkout(ANN)
    paid = await shop.settle(begun.payment.payment_id)

    await shop.restore(
        replace(begun.payment, status="cancelled"),
        [replace(order, status="released", release_reason="cancelled") for order in begun.orders],
    )

    assert (await shop.payment(begun.payment.payment_id)).payment == paid.payment


async def test_restore_answers_repeated_calls_when_the_payment_is_over(shop: Shop) -> None:
    await shop.sell("tee", 5)
    forgotten = await _record_of_a_cancelled_payment(shop)
    payment_id = forgotten.payment.payment_id
    paid = replace(forgotten.payment, status="paid")
    await shop.restore(
        paid, [replace(order, status="paid", release_reason=None) for order in forgotten.orders]
    )

    settled = await shop.settle(payment_id)

    assert (settled.changed, settled.payment.status) == (False, "paid")
    with pytest.raises(PaymentState):
        await shop.fail(payment_id)
    with pytest.raises(OrderState):
        await shop.cancel(payment_id)
    assert await shop.counters("tee") == (5, 0, 0, 0)


async def test_restore_lets_a_refund_be_closed_when_it_is_due(shop: Shop) -> None:
    await shop.sell("tee", 5)
    forgotten = await _record_of_a_cancelled_payment(shop)
    await shop.restore(
        replace(forgotten.payment, status="refund_due"),
        [replace(order, status="refund_due") for order in forgotten.orders],
    )

    result = await shop.close_refund(forgotten.orders[0].order_id)

    assert (result.changed, result.payment.status) == (True, "refunded")


async def _record_of_a_cancelled_payment(shop: Shop):  # type: ignore[no-untyped-def]
    """A payment that this shop has never seen, as its record would tell it: of a cart that is gone."""
    await shop.sell("template", 2, policy="untracked")
    await shop.add(BEN, "template", 2)
    begun = await shop.checkout(BEN, key="template")
    payment_id = "p0-0123456789abcdef0123456789abcdef"
    payment = replace(
        begun.payment,
        payment_id=payment_id,
        checkout_id="c0-0123456789abcdef0123456789abcdef",
        cart_id=ANN,
        status="cancelled",
        order_ids=(f"o{payment_id[1:]}-1",),
    )
    (order,) = begun.orders
    (line,) = order.lines
    held = replace(line, line_id="tee", sku="tee", held=2, mode="held", first_held_at_ms=shop.now_ms)
    return replace(
        begun,
        payment=payment,
        orders=(
            replace(
                order,
                order_id=payment.order_ids[0],
                payment_id=payment_id,
                checkout_id=payment.checkout_id,
                cart_id=ANN,
                status="released",
                release_reason="cancelled",
                lines=(held,),
            ),
        ),
    )


async def test_settle_of_a_restored_payment_takes_lines_along_when_they_are_in_the_cart(shop: Shop) -> None:
    await shop.sell("tee", 5)
    forgotten = await _record_of_a_cancelled_payment(shop)
    await shop.add(ANN, "tee", 3, terms=terms())
    await shop.restore(forgotten.payment, forgotten.orders)

    await shop.settle(forgotten.payment.payment_id)

    assert await shop.quantities(ANN) == {"tee": 1}
    assert await shop.counters("tee") == (3, 1, 2, 0)


async def test_settle_backorders_everything_when_nothing_is_on_hand(shop: Shop) -> None:
    await shop.publish("tee", policy="backorder")
    first = await shop.buy(ANN, "tee", 2)
    late = await shop.buy(BEN, "tee", 3)
    await shop.cancel(late)

    await shop.settle(first)
    result = await shop.settle(late)

    assert result.payment.status == "paid"
    assert await shop.counters("tee") == (0, 0, 5, 5)
    assert await shop.quantities(BEN) == {}
