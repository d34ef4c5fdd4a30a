"""begin_checkout of a total of zero: paid in the same step, without a gateway."""

from __future__ import annotations

import pytest

from cartstore.errors import InvalidField
from cartstore.model import NO_GATEWAY

from .shop import ANN, GUS, WINDOW_MS, Shop


async def test_checkout_is_paid_at_once_when_the_total_is_zero(shop: Shop) -> None:
    await shop.sell("tee", 5, price_minor=0)
    await shop.sell("cap", 3, price_minor=0, hold_policy="on_checkout", seller="zeta")
    await shop.sell("pdf", 0, price_minor=0, policy="untracked")
    await shop.sell("mug", 1, price_minor=0, policy="backorder")
    for sku, quantity in (("tee", 2), ("cap", 1), ("pdf", 4), ("mug", 3)):
        await shop.add(GUS, sku, quantity)
    count = len(await shop.events())

    begun = await shop.checkout(GUS)

    assert (begun.payment.status, begun.payment.gateway, begun.payment.amount_minor) == (
        "paid",
        NO_GATEWAY,
        0,
    )
    assert [order.status for order in begun.orders] == ["paid", "paid"]
    assert await shop.counters("tee") == (3, 0, 2, 0)
    assert await shop.counters("cap") == (2, 0, 1, 0)
    assert await shop.counters("mug") == (0, 0, 3, 2)
    assert await shop.quantities(GUS) == {}
    events = (await shop.events())[count:]
    assert [event.type for event in events] == ["checkout_begun", "payment_settled"]
    assert begun.position == events[-1].position
    assert (events[0].body["gateway"], events[1].body["outcome"]) == (NO_GATEWAY, "paid")
    assert await shop.holders(["tee", "cap", "mug"]) == [set(), set(), set()]


async def test_free_checkout_stays_paid_when_its_window_is_over(shop: Shop) -> None:
    await shop.sell("tee", 5, price_minor=0)
    payment_id = await shop.buy(ANN, "tee", 2)
    shop.advance(WINDOW_MS + 1)

    await shop.engine.release_due_payments(10)

    again = await shop.checkout(ANN)
    assert (again.replayed, again.payment.payment_id, again.payment.status) == (True, payment_id, "paid")
    assert not (await shop.settle(payment_id)).changed
    assert await shop.counters("tee") == (3, 0, 2, 0)


async def test_checkout_names_the_gateway_when_none_is_given_and_there_is_something_to_pay(
    shop: Shop,
) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 2)

    with pytest.raises(InvalidField) as caught:
        await shop.checkout(ANN, gateway=NO_GATEWAY)

    assert caught.value.field == "gateway"
    assert await shop.counters("tee") == (5, 2, 0, 0)


async def test_checkout_needs_no_gateway_when_the_total_is_zero(shop: Shop) -> None:
    await shop.sell("tee", 5, price_minor=0)
    await shop.add(ANN, "tee", 2)

    begun = await shop.checkout(ANN, gateway=NO_GATEWAY)

    assert (begun.payment.status, begun.payment.gateway) == ("paid", NO_GATEWAY)
