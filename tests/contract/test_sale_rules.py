"""A SKU's rules that look beyond one line: start of its sale, its maximum over all lines of a cart, and what
one customer may buy."""

from __future__ import annotations

import pytest
from msgspec.structs import replace as msgspec_replace

from cartstore.errors import (
    CartError,
    CheckoutRefused,
    InsufficientStock,
    InvalidField,
    InvalidQuantity,
    NotYetOnSale,
    PurchaseLimitReached,
    StoreUnavailable,
)
from cartstore.model import PutItem, PutItemByLine, line_id_of

from .shop import ANN, BEN, GIL, GUS, MINUTE_MS, WINDOW_MS, Shop

MAIL = "e.of-gus"
PHONE = "t.of-gus"
HOUR_MS = 60 * MINUTE_MS
LIMITED = {"limit_units": 3, "limit_window_ms": HOUR_MS}
ENGRAVED, BLUE = '{"text":"Ann"}', '{"colour":"blue"}'
ENGRAVED_TEE, BLUE_TEE = line_id_of("tee", ENGRAVED), line_id_of("tee", BLUE)


def left_of(error: CartError) -> list[tuple[str, int]]:
    """Per refused line, what it can have."""
    return [(its["line_id"], its["available_quantity"]) for its in error.shortfalls or ()]


# --- start of sale ---------------------------------------------------------------------------------


async def test_add_is_refused_until_the_sale_starts(shop: Shop) -> None:
    await shop.sell("tee", 5, starts_at_ms=shop.now_ms + MINUTE_MS)

    with pytest.raises(NotYetOnSale) as caught:
        await shop.add(ANN, "tee")
    with pytest.raises(NotYetOnSale):
        await shop.put(ANN, ("tee", 1))
    assert (caught.value.sku, caught.value.starts_at_ms) == ("tee", shop.now_ms + MINUTE_MS)
    assert (await shop.level("tee")).held == 0

    shop.advance(MINUTE_MS - 1)
    with pytest.raises(NotYetOnSale):
        await shop.add(ANN, "tee")
    shop.advance(1)
    assert (await shop.add(ANN, "tee")).line


async def test_line_is_lowered_and_removed_before_the_sale_starts(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 3)
    await shop.publish("tee", starts_at_ms=shop.now_ms + MINUTE_MS)

    lowered = await shop.set(ANN, "tee", 2)
    with pytest.raises(NotYetOnSale):
        await shop.set(ANN, "tee", 2)
    line = await shop.line(ANN, "tee")

    assert lowered.line is not None
    assert not lowered.line.is_active
    assert not line.is_active
    assert not line.is_available
    await shop.remove(ANN, "tee")


async def test_checkout_is_refused_before_the_sale_starts(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 3)
    await shop.publish("tee", starts_at_ms=shop.now_ms + MINUTE_MS)

    with pytest.raises(NotYetOnSale) as caught:
        await shop.checkout(ANN)
    assert caught.value.shortfalls is not None
    assert [its["code"] for its in caught.value.shortfalls] == ["NOT_YET_ON_SALE"]

    shop.advance(MINUTE_MS)
    assert (await shop.checkout(ANN)).payment.status == "pending"


async def test_lapsed_line_is_not_held_again_before_the_sale_starts(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 3)
    shop.advance(HOUR_MS)
    await shop.publish("tee", starts_at_ms=shop.now_ms + MINUTE_MS)

    cart = await shop.hold(ANN)

    assert cart.lines[0].held == 0
    shop.advance(MINUTE_MS)
    assert (await shop.hold(ANN)).lines[0].held == 3


# --- maximum over lines ----------------------------------------------------------------------------


async def test_maximum_counts_over_all_lines_of_the_sku(shop: Shop) -> None:
    await shop.sell("tee", 20, max_quantity=5)
    await shop.sell("cap", 20)
    await shop.add(ANN, "cap", 9)
    await shop.add(ANN, "tee", 2)
    await shop.add(ANN, "tee", 2, properties=ENGRAVED)

    for call in (
        lambda: shop.add(ANN, "tee", 2, properties=BLUE),
        lambda: shop.add(ANN, "tee", 2),
        lambda: shop.set(ANN, "tee", 4),
        lambda: shop.put(ANN, PutItem(sku="tee", quantity=4)),
        lambda: shop.put(ANN, ("tee", 2), PutItem(sku="tee", quantity=2, properties_json=BLUE)),
    ):
        with pytest.raises(InvalidQuantity):
            await call()
    assert await shop.quantities(ANN) == {"cap": 9, "tee": 2, ENGRAVED_TEE: 2}

    await shop.add(ANN, "tee", 1, properties=BLUE)
    # What one entry gives back another may take.
    await shop.put(ANN, ("tee", 0), PutItem(sku="tee", quantity=3, properties_json=BLUE))
    assert await shop.quantities(ANN) == {"cap": 9, ENGRAVED_TEE: 2, BLUE_TEE: 3}
    assert (await shop.checkout(ANN)).payment.status == "pending"


async def test_checkout_tells_what_each_line_can_have_when_the_maximum_is_exceeded(shop: Shop) -> None:
    await shop.sell("tee", 20)
    await shop.add(ANN, "tee", 3)
    await shop.add(ANN, "tee", 2, properties=ENGRAVED)
    await shop.add(ANN, "tee", 2, properties=BLUE)
    await shop.publish("tee", max_quantity=4)

    with pytest.raises(InvalidQuantity) as caught:
        await shop.checkout(ANN)

    told = left_of(caught.value)
    assert told == [(ENGRAVED_TEE, 1), (BLUE_TEE, 0)]
    await shop.put(ANN, *(PutItemByLine(line_id=line_id, quantity=quantity) for line_id, quantity in told))
    assert (await shop.checkout(ANN)).payment.status == "pending"


# --- purchase limit --------------------------------------------------------------------------------


async def test_cart_is_refused_more_than_one_customer_may_buy(shop: Shop) -> None:
    await shop.sell("tee", 20, **LIMITED)
    await shop.add(ANN, "tee", 2)

    for call in (
        lambda: shop.add(ANN, "tee", 2),
        lambda: shop.set(ANN, "tee", 4),
        lambda: shop.add(ANN, "tee", 2, properties=ENGRAVED),
        lambda: shop.put(ANN, PutItem(sku="tee", quantity=4)),
    ):
        with pytest.raises(PurchaseLimitReached):
            await call()

    with pytest.raises(PurchaseLimitReached) as caught:
        await shop.add(ANN, "tee", 4, properties=ENGRAVED)
    assert (caught.value.available_quantity, caught.value.requested_quantity) == (1, 4)
    assert await shop.quantities(ANN) == {"tee": 2}
    await shop.add(BEN, "tee", 3)


async def test_purchases_count_until_their_window_is_over(shop: Shop) -> None:
    await shop.sell("tee", 20, **LIMITED)
    first = await shop.buy(ANN, "tee", 2, key="first")
    await shop.settle(first)
    shop.advance(10 * MINUTE_MS)
    await shop.buy(ANN, "tee", 1, key="second")

    with pytest.raises(PurchaseLimitReached) as caught:
        await shop.add(ANN, "tee")
    assert caught.value.available_quantity == 0

    await shop.settle((await shop.engine.list_payments(ANN))[0].payment.payment_id)
    shop.advance(HOUR_MS - 10 * MINUTE_MS - 1)
    with pytest.raises(PurchaseLimitReached):
        await shop.add(ANN, "tee")
    shop.advance(1)
    await shop.add(ANN, "tee", 2)
    with pytest.raises(PurchaseLimitReached) as caught:
        await shop.add(ANN, "tee", 1)
    assert caught.value.available_quantity == 2


@pytest.mark.parametrize("identity", [MAIL, PHONE])
async def test_checkout_knows_a_customer_by_mail_and_phone_when_the_cart_is_another(
    shop: Shop, identity: str
) -> None:
    await shop.sell("tee", 20, **LIMITED)
    await shop.add(GUS, "tee", 2)
    begun = await shop.checkout(GUS, identities=(MAIL, PHONE))
    await shop.add(GIL, "tee", 2)

    with pytest.raises(PurchaseLimitReached) as caught:
        await shop.checkout(GIL, identities=(identity, "e.another"))

    assert left_of(caught.value) == [("tee", 1)]
    assert await shop.quantities(GIL) == {"tee": 2}
    await shop.cancel(begun.payment.payment_id)
    assert (await shop.checkout(GIL, identities=(identity, "e.another"))).payment.status == "pending"


@pytest.mark.parametrize("end", ["cancel", "expire", "late", "twice"])
async def test_released_orders_count_no_more_and_late_money_counts_again(shop: Shop, end: str) -> None:
    await shop.sell("tee", 20, **LIMITED)
    await shop.add(GUS, "tee", 3)
    payment_id = (await shop.checkout(GUS, identities=(MAIL,))).payment.payment_id
    if end == "expire":
        shop.advance(WINDOW_MS)
        assert (await shop.payment(payment_id)).payment.status == "expired"
    else:
        await shop.cancel(payment_id)
    await shop.clear(GUS)

    if end == "late":
        await shop.settle(payment_id)
    if end == "twice":
        await shop.cancel(payment_id)

    await shop.add(GIL, "tee", 1)
    if end == "late":
        with pytest.raises(PurchaseLimitReached) as caught:
            await shop.checkout(GIL, identities=(MAIL,))
        assert left_of(caught.value) == [("tee", 0)]
    else:
        await shop.checkout(GIL, identities=(MAIL,))


async def test_refund_that_is_due_counts_for_nothing(shop: Shop) -> None:
    await shop.sell("tee", 3, **LIMITED)
    payment_id = await shop.buy(ANN, "tee", 3)
    await shop.cancel(payment_id)
    await shop.clear(ANN)
    taken = await shop.buy(BEN, "tee", 3)

    assert (await shop.settle(payment_id)).payment.status == "refund_due"
    await shop.cancel(taken)
    await shop.clear(BEN)

    await shop.add(ANN, "tee", 3)


async def test_restored_payment_counts_again_when_it_is_paid_late(shop: Shop) -> None:
    await shop.sell("tee", 20, **LIMITED)
    await shop.add(GUS, "tee", 3)
    begun = await shop.checkout(GUS, identities=(MAIL,))
    released = await shop.cancel(begun.payment.payment_id)
    other_id = "p0-" + "e" * 32
    orders = [
        msgspec_replace(order, order_id=f"o0-{'e' * 32}-1", payment_id=other_id) for order in released.orders
    ]
    payment = msgspec_replace(released.payment, payment_id=other_id, order_ids=(orders[0].order_id,))
    await shop.clear(GUS)
    await shop.restore(payment, orders, identities=(MAIL,))

    assert (await shop.settle(other_id)).payment.status == "paid"

    await shop.add(GIL, "tee", 1)
    with pytest.raises(PurchaseLimitReached):
        await shop.checkout(GIL, identities=(MAIL,))


async def test_checkout_shares_what_is_left_among_the_lines(shop: Shop) -> None:
    await shop.sell("tee", 20)
    await shop.add(ANN, "tee", 2)
    await shop.add(ANN, "tee", 2, properties=ENGRAVED)
    await shop.add(ANN, "tee", 2, properties=BLUE)
    await shop.publish("tee", **LIMITED)

    with pytest.raises(PurchaseLimitReached) as caught:
        await shop.checkout(ANN)

    told = left_of(caught.value)
    assert told == [(ENGRAVED_TEE, 1), (BLUE_TEE, 0)]
    await shop.put(ANN, *(PutItemByLine(line_id=line_id, quantity=quantity) for line_id, quantity in told))
    assert (await shop.checkout(ANN)).payment.status == "pending"


async def test_checkout_names_both_when_one_line_is_over_its_limit_and_another_is_short(shop: Shop) -> None:
    await shop.sell("tee", 20)
    await shop.sell("cap", 3, hold_policy="on_checkout")
    await shop.add(ANN, "tee", 4)
    await shop.add(ANN, "cap", 3)
    await shop.publish("tee", **LIMITED)
    await shop.adjust("cap", -2)

    with pytest.raises(CheckoutRefused) as caught:
        await shop.checkout(ANN)

    assert [(its["code"], its["available_quantity"]) for its in caught.value.shortfalls or ()] == [
        (PurchaseLimitReached.code, 3),
        (InsufficientStock.code, 1),
    ]


async def test_guest_is_asked_who_it_is_when_a_limited_sku_is_bought(shop: Shop) -> None:
    await shop.sell("tee", 20, **LIMITED)
    await shop.sell("cap", 20)
    await shop.add(GUS, "tee", 1)
    await shop.add(GUS, "cap", 1)
    await shop.add(ANN, "tee", 1)

    with pytest.raises(InvalidField) as caught:
        await shop.checkout(GUS)
    with pytest.raises(StoreUnavailable):
        await shop.checkout(GUS, identities=None)

    assert (caught.value.field, caught.value.sku) == ("contact.email", "tee")
    await shop.checkout(GUS, key="cap", line_ids=("cap",), identities=None)
    await shop.checkout(GUS, identities=(PHONE,))
    await shop.checkout(ANN)


async def test_sku_without_a_limit_counts_nothing(shop: Shop) -> None:
    await shop.sell("tee", 20)
    await shop.add(GUS, "tee", 9)
    await shop.checkout(GUS, identities=(MAIL,))
    await shop.publish("tee", **LIMITED)

    await shop.add(GUS, "tee", 3)
    await shop.checkout(GUS, key="limited", identities=(MAIL,))
    with pytest.raises(PurchaseLimitReached):
        await shop.add(GUS, "tee", 1)

    await shop.publish("tee", limit_units=0, limit_window_ms=0)
    await shop.add(GUS, "tee", 5)


async def test_line_above_the_limit_can_be_lowered(shop: Shop) -> None:
    await shop.sell("tee", 20)
    await shop.add(ANN, "tee", 9)
    await shop.publish("tee", **LIMITED)

    await shop.set(ANN, "tee", 5)

    with pytest.raises(PurchaseLimitReached):
        await shop.set(ANN, "tee", 6)


async def test_purchase_whose_window_ended_counts_no_more_when_the_clock_is_set_back(shop: Shop) -> None:
    """It went when the customer bought again."""
    await shop.sell("tee", 20, **LIMITED)
    await shop.add(ANN, "tee", 2)
    first = await shop.checkout(ANN, key="first")
    await shop.settle(first.payment.payment_id)
    shop.advance(HOUR_MS + 1)
    await shop.add(ANN, "tee", 1)
    await shop.checkout(ANN, key="second")

    shop.advance(-HOUR_MS - 1)

    await shop.add(ANN, "tee", 2)
    with pytest.raises(PurchaseLimitReached):
        await shop.add(ANN, "tee", 1)
