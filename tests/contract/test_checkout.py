"""begin_checkout: what becomes of lines, holds and sellers, and every refusal."""

from __future__ import annotations

from typing import Any

import pytest

from cartstore.errors import (
    CartEmpty,
    CheckoutRefused,
    CurrencyMismatch,
    IdempotencyKeyReused,
    InsufficientStock,
    InvalidQuantity,
    ItemNotFound,
    LimitExceeded,
    PriceChanged,
    ProductInactive,
    TotalChanged,
    VersionConflict,
)
from cartstore.model import checkout_ids, line_id_of, payment_id_of_order

from .shop import ANN, BEN, GUS, MINUTE_MS, PARTITION, TERMS, WINDOW_MS, Shop, terms


async def test_checkout_turns_all_lines_into_an_order_when_there_is_one_seller(shop: Shop) -> None:
    a = await shop.publish("a", price_minor=1_000)
    b = await shop.publish("b", price_minor=250)
    await shop.adjust("a", 5)
    await shop.adjust("b", 5)
    first = await shop.add(ANN, "a", 2)
    shop.advance(MINUTE_MS)
    engraved = '{"text":"Ann"}'
    before = await shop.add(ANN, "b", 3, properties=engraved)

    checkout = await shop.checkout(ANN, key="k", details_json='{"contact":{}}')

    checkout_id, payment_id = checkout_ids(PARTITION, ANN, "k")
    payment = checkout.payment
    assert not checkout.replayed
    assert checkout.read_at_ms == shop.now_ms
    assert checkout.position is not None
    assert (payment.payment_id, payment.checkout_id) == (payment_id, checkout_id)
    assert (payment.checkout_type, payment.cart_id, payment.status) == ("full_cart", ANN, "pending")
    assert (payment.amount_minor, payment.currency) == (2_750, "USD")
    assert (payment.gateway, payment.method, payment.attempts) == ("simulated", "card", 0)
    assert (payment.created_at_ms, payment.expires_at_ms) == (shop.now_ms, shop.now_ms + WINDOW_MS)
    assert (payment.fingerprint, payment.details_json) == ("checkout", '{"contact":{}}')
    (order,) = checkout.orders
    assert payment.order_ids == (order.order_id,)
    assert order.order_id == f"o{payment_id[1:]}-1"
    assert payment_id_of_order(order.order_id) == payment_id
    assert (order.payment_id, order.checkout_id, order.cart_id) == (payment_id, checkout_id, ANN)
    assert (order.seller, order.status, order.release_reason) == ("acme", "pending", None)
    assert (order.total_minor, order.currency, order.created_at_ms) == (2_750, "USD", shop.now_ms)
    one, two = order.lines
    assert (one.line_id, one.sku, one.quantity, one.held, one.mode) == ("a", "a", 2, 2, "held")
    assert (one.unit_price_minor, one.revision, one.properties_json) == (1_000, a.revision, None)
    assert first.line is not None
    assert one.first_held_at_ms == first.line.first_held_at_ms
    assert (two.line_id, two.sku, two.quantity) == (line_id_of("b", engraved), "b", 3)
    assert (two.revision, two.properties_json, two.first_held_at_ms) == (b.revision, engraved, shop.now_ms)
    summary = await shop.summary(ANN)
    assert (summary.lines_count, summary.total_items, summary.subtotal_minor) == (0, 0, 0)
    assert summary.version > before.summary.version
    assert await shop.counters("a") == (5, 2, 0, 0)
    assert await shop.counters("b") == (5, 3, 0, 0)


async def test_checkout_makes_an_order_per_seller_when_there_are_several(shop: Shop) -> None:
    await shop.sell("a", 5, seller="zeta", price_minor=100)
    await shop.sell("b", 5, seller="alpha", price_minor=200)
    await shop.sell("c", 5, seller="zeta", price_minor=400)
    for sku in ("a", "b", "c"):
        await shop.add(ANN, sku)

    checkout = await shop.checkout(ANN)

    base = checkout.payment.payment_id[1:]
    assert [(order.order_id, order.seller, order.total_minor) for order in checkout.orders] == [
        (f"o{base}-1", "zeta", 500),
        (f"o{base}-2", "alpha", 200),
    ]
    assert [[line.line_id for line in order.lines] for order in checkout.orders] == [["a", "c"], ["b"]]
    assert checkout.payment.order_ids == (f"o{base}-1", f"o{base}-2")
    assert checkout.payment.amount_minor == 700


@pytest.mark.parametrize(
    ("skus", "line_ids", "checkout_type"),
    [
        (("a", "b", "c"), None, "full_cart"),
        (("a", "b", "c"), ("c", "a", "b"), "full_cart"),
        (("a",), ("a",), "full_cart"),
        (("a",), None, "full_cart"),
        (("a", "b", "c"), ("b",), "single_item"),
        (("a", "b", "c"), ("c", "a"), "partial"),
    ],
)
async def test_checkout_tells_its_type_when_some_lines_are_meant(
    shop: Shop, skus: tuple[str, ...], line_ids: tuple[str, ...] | None, checkout_type: str
) -> None:
    for sku in skus:
        await shop.sell(sku, 5)
        await shop.add(ANN, sku)

    checkout = await shop.checkout(ANN, line_ids=line_ids)

    bought = sorted(line_ids or skus)
    assert checkout.payment.checkout_type == checkout_type
    assert [line.line_id for line in checkout.orders[0].lines] == bought
    assert list(await shop.quantities(ANN)) == [sku for sku in skus if sku not in bought]


async def test_checkout_can_be_begun_again_when_lines_are_left(shop: Shop) -> None:
    await shop.sell("a", 5)
    await shop.sell("b", 5)
    await shop.add(ANN, "a")
    await shop.add(ANN, "b")

    first = await shop.checkout(ANN, key="one", line_ids=("a",))
    second = await shop.checkout(ANN, key="two")

    assert first.payment.payment_id != second.payment.payment_id
    assert [line.line_id for line in second.orders[0].lines] == ["b"]
    listed = await shop.engine.list_payments(ANN)
    assert {checkout.payment.payment_id for checkout in listed} == {
        first.payment.payment_id,
        second.payment.payment_id,
    }


async def test_checkout_holds_for_the_window_when_the_hold_would_end_sooner(shop: Shop) -> None:
    await shop.sell("tee", 2)
    await shop.add(ANN, "tee", 2, terms=terms(hold_ttl_ms=MINUTE_MS))
    await shop.checkout(ANN)
    shop.advance(WINDOW_MS - 1)

    assert await shop.counters("tee") == (2, 2, 0, 0)


async def test_checkout_holds_now_when_the_hold_comes_at_checkout(shop: Shop) -> None:
    await shop.sell("tee", 3, hold_policy="on_checkout")
    await shop.add(ANN, "tee", 2)
    await shop.add(BEN, "tee", 2)
    shop.advance(MINUTE_MS)

    checkout = await shop.checkout(ANN)
    with pytest.raises(InsufficientStock) as caught:
        await shop.checkout(BEN)

    (line,) = checkout.orders[0].lines
    assert (line.held, line.mode, line.first_held_at_ms) == (2, "held", shop.now_ms)
    assert [one["available_quantity"] for one in caught.value.shortfalls or []] == [1]
    assert await shop.counters("tee") == (3, 2, 0, 0)


async def test_checkout_holds_now_when_reservations_are_off(shop: Shop) -> None:
    await shop.sell("tee", 3)
    off = terms(reservations=False)
    await shop.add(ANN, "tee", 2, terms=off)

    await shop.checkout(ANN, terms=off)

    assert await shop.counters("tee") == (3, 2, 0, 0)


async def test_checkout_holds_again_when_the_hold_lapsed(shop: Shop) -> None:
    await shop.sell("tee", 3)
    await shop.add(ANN, "tee", 2)
    shop.advance(TERMS.hold_ttl_ms + TERMS.hold_rest_ms)

    checkout = await shop.checkout(ANN)

    assert checkout.orders[0].lines[0].first_held_at_ms == shop.now_ms
    assert await shop.counters("tee") == (3, 2, 0, 0)


async def test_checkout_ignores_limits_of_carts_when_they_were_lowered(shop: Shop) -> None:
    await shop.sell("tee", 50)
    await shop.add(ANN, "tee", 5, terms=terms(reservations=False))

    checkout = await shop.checkout(ANN, terms=terms(quantity_max=1, items_max=1))

    assert checkout.orders[0].lines[0].held == 5


async def test_checkout_refuses_when_the_owner_would_hold_too_much(shop: Shop) -> None:
    await shop.sell("tee", 50)
    await shop.sell("late", 50, hold_policy="on_checkout")
    await shop.add(ANN, "tee", 3)
    await shop.add(ANN, "late", 3)

    with pytest.raises(LimitExceeded):
        await shop.checkout(ANN, terms=terms(held_max=5))
    checkout = await shop.checkout(ANN, line_ids=("tee",), terms=terms(held_max=3))

    assert checkout.orders[0].lines[0].held == 3
    assert await shop.quantities(ANN) == {"late": 3}


@pytest.mark.parametrize(("policy", "mode"), [("backorder", "backorder"), ("untracked", "untracked")])
async def test_checkout_holds_nothing_when_stock_does_not_limit(shop: Shop, policy: str, mode: str) -> None:
    await shop.sell("tee", 1, policy=policy)
    await shop.add(ANN, "tee", 4)

    checkout = await shop.checkout(ANN)

    (line,) = checkout.orders[0].lines
    assert (line.quantity, line.held, line.mode) == (4, 0, mode)
    assert (await shop.level("tee")).held == 0


async def test_checkout_sells_at_the_lower_price_when_it_dropped(shop: Shop) -> None:
    await shop.sell("tee", 5, price_minor=1_000)
    added = await shop.add(ANN, "tee", 2)
    await shop.publish("tee", price_minor=800)

    checkout = await shop.checkout(ANN, expected=1_600)

    assert added.line is not None
    (line,) = checkout.orders[0].lines
    assert (line.unit_price_minor, line.revision) == (800, added.line.revision)
    assert (checkout.payment.amount_minor, checkout.orders[0].total_minor) == (1_600, 1_600)


async def test_checkout_refuses_when_a_price_rose(shop: Shop) -> None:
    await shop.sell("tee", 5, price_minor=1_000)
    await shop.add(ANN, "tee", 2)
    await shop.publish("tee", price_minor=1_200)

    with pytest.raises(PriceChanged) as caught:
        await shop.checkout(ANN)
    await shop.accept(ANN)
    checkout = await shop.checkout(ANN)

    (shortfall,) = caught.value.shortfalls or []
    assert (shortfall["line_id"], shortfall["sku"], shortfall["code"]) == ("tee", "tee", "PRICE_CHANGED")
    assert (shortfall["old_price_minor"], shortfall["new_price_minor"]) == (1_000, 1_200)
    assert shortfall["requested_quantity"] == 2
    assert checkout.payment.amount_minor == 2_400


async def test_checkout_refuses_when_the_total_differs(shop: Shop) -> None:
    await shop.sell("tee", 5, price_minor=1_000)
    await shop.add(ANN, "tee", 2)

    with pytest.raises(TotalChanged):
        await shop.checkout(ANN, expected=1_999)
    checkout = await shop.checkout(ANN, expected=2_000)

    assert checkout.payment.amount_minor == 2_000


async def test_checkout_refuses_when_there_is_nothing_to_check_out(shop: Shop) -> None:
    await shop.sell("tee", 5)

    with pytest.raises(CartEmpty):
        await shop.checkout(ANN)
    await shop.add(ANN, "tee")
    with pytest.raises(CartEmpty):
        await shop.checkout(ANN, line_ids=())
    await shop.clear(ANN)
    with pytest.raises(CartEmpty):
        await shop.checkout(ANN, line_ids=("tee",))


async def test_checkout_refuses_when_a_named_line_is_missing(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee")

    with pytest.raises(ItemNotFound):
        await shop.checkout(ANN, line_ids=("tee", "pull"))

    assert await shop.quantities(ANN) == {"tee": 1}


async def test_checkout_refuses_when_if_match_names_another_version(shop: Shop) -> None:
    await shop.sell("tee", 5)
    version = (await shop.add(ANN, "tee")).summary.version

    with pytest.raises(VersionConflict) as caught:
        await shop.checkout(ANN, if_match=version + 1, line_ids=("pull",))
    with pytest.raises(VersionConflict):
        await shop.checkout(BEN, if_match=version)
    await shop.checkout(ANN, if_match=version)

    assert caught.value.version == version


async def test_checkout_names_every_line_when_several_cannot_be_held(shop: Shop) -> None:
    for sku in ("a", "b", "c"):
        await shop.sell(sku, 3)
        await shop.add(ANN, sku, 3)
    shop.advance(TERMS.hold_ttl_ms)
    await shop.add(BEN, "a", 2)
    await shop.add(BEN, "c", 3)
    before = await shop.cart(ANN)

    with pytest.raises(InsufficientStock) as caught:
        await shop.checkout(ANN)

    assert caught.value.shortfalls is not None
    assert [
        (one["line_id"], one["requested_quantity"], one["available_quantity"])
        for one in caught.value.shortfalls
    ] == [("a", 3, 1), ("c", 3, 0)]
    assert await shop.cart(ANN) == before
    assert (await shop.level("b")).held == 0
    assert await shop.engine.list_payments(ANN) == []


async def test_checkout_names_each_problem_when_they_differ(shop: Shop) -> None:
    for sku in ("gone", "dozen", "dear", "short", "fine"):
        await shop.sell(sku, 30)
        await shop.add(ANN, sku, 3)
    await shop.publish("gone", is_active=False, multiple_of=2, price_minor=2_000)
    await shop.publish("dozen", multiple_of=12, price_minor=2_000)
    await shop.publish("dear", price_minor=2_000)
    shop.advance(TERMS.hold_ttl_ms)
    await shop.set_stock("dear", 0)
    await shop.set_stock("short", 2)

    with pytest.raises(CheckoutRefused) as caught:
        await shop.checkout(ANN, expected=1)

    assert [(one["line_id"], one["code"]) for one in caught.value.shortfalls or []] == [
        ("gone", "PRODUCT_INACTIVE"),
        ("dozen", "INVALID_QUANTITY"),
        ("dear", "PRICE_CHANGED"),
        ("short", "INSUFFICIENT_STOCK"),
    ]
    assert (await shop.summary(ANN)).lines_count == 5


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"is_active": False}, ProductInactive),
        ({"min_quantity": 4}, InvalidQuantity),
        ({"max_quantity": 2}, InvalidQuantity),
        ({"multiple_of": 2}, InvalidQuantity),
        ({"price_minor": 1_001}, PriceChanged),
        ({"currency": "EUR"}, CurrencyMismatch),
    ],
)
async def test_checkout_raises_the_errors_own_class_when_all_problems_agree(
    shop: Shop, change: dict[str, Any], refusal: type[Exception]
) -> None:
    for sku in ("a", "b"):
        await shop.sell(sku, 9)
        await shop.add(ANN, sku, 3)
        await shop.publish(sku, **change)

    with pytest.raises(refusal) as caught:
        await shop.checkout(ANN)

    assert [one["line_id"] for one in getattr(caught.value, "shortfalls", [])] == ["a", "b"]
    assert (await shop.level("a")).held == 3


async def test_checkout_looks_only_at_the_named_when_lines_are_named(shop: Shop) -> None:
    await shop.sell("fine", 5)
    await shop.sell("gone", 5)
    await shop.add(ANN, "fine")
    await shop.add(ANN, "gone")
    await shop.publish("gone", is_active=False)

    checkout = await shop.checkout(ANN, line_ids=("fine",))

    assert checkout.payment.checkout_type == "single_item"
    assert list(await shop.quantities(ANN)) == ["gone"]


async def test_checkout_shares_what_is_free_when_two_lines_have_one_sku(shop: Shop) -> None:
    await shop.sell("mug", 9)
    await shop.add(ANN, "mug", 3)
    await shop.add(ANN, "mug", 3, properties='{"text":"Ann"}')
    shop.advance(TERMS.hold_ttl_ms)
    await shop.set_stock("mug", 5)

    with pytest.raises(InsufficientStock) as caught:
        await shop.checkout(ANN)

    assert [(one["line_id"], one["available_quantity"]) for one in caught.value.shortfalls or []] == [
        (line_id_of("mug", '{"text":"Ann"}'), 2)
    ]


async def test_checkout_succeeds_when_each_named_line_is_lowered_to_what_is_available(shop: Shop) -> None:
    engraved = line_id_of("mug", '{"text":"Ann"}')
    await shop.sell("mug", 9)
    await shop.add(ANN, "mug", 4)
    await shop.add(ANN, "mug", 1, properties='{"text":"Ann"}')
    shop.advance(TERMS.hold_ttl_ms)
    await shop.set_stock("mug", 2)

    with pytest.raises(InsufficientStock) as caught:
        await shop.checkout(ANN)
    available = {one["line_id"]: one["available_quantity"] for one in caught.value.shortfalls or []}
    for line_id, quantity in available.items():
        await shop.set(ANN, line_id, quantity)
    checkout = await shop.checkout(ANN)

    assert available == {"mug": 2, engraved: 0}
    assert checkout.orders[0].total_minor == 2_000


async def test_checkout_respects_the_guests_share_when_units_are_not_held_yet(shop: Shop) -> None:
    await shop.sell("tee", 10)
    half = terms(guest_share_ppm=500_000)
    await shop.add(GUS, "tee", 3, terms=terms(reservations=False, guest_share_ppm=500_000))
    await shop.add("g.gil", "tee", 3, terms=half)

    with pytest.raises(InsufficientStock) as caught:
        await shop.checkout(GUS, terms=half)
    await shop.set(GUS, "tee", 2, terms=half)
    checkout = await shop.checkout(GUS, terms=terms(guest_share_ppm=100_000))

    assert [one["available_quantity"] for one in caught.value.shortfalls or []] == [2]
    assert checkout.orders[0].lines[0].held == 2


async def test_checkout_gives_the_first_result_when_it_is_repeated(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 2)
    first = await shop.checkout(ANN, key="k")
    await shop.add(ANN, "tee", 1)

    again = await shop.checkout(ANN, key="k", if_match=0)

    assert again.replayed
    assert (again.payment, again.orders) == (first.payment, first.orders)
    assert await shop.quantities(ANN) == {"tee": 1}
    assert (await shop.event_types()).count("checkout_begun") == 1


async def test_checkout_refuses_when_the_key_had_another_request(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 2)
    await shop.checkout(ANN, key="k", fingerprint="one")

    with pytest.raises(IdempotencyKeyReused):
        await shop.checkout(ANN, key="k", fingerprint="two")


async def test_checkout_can_be_tried_again_when_it_was_refused(shop: Shop) -> None:
    await shop.sell("tee", 5, price_minor=1_000)
    await shop.add(ANN, "tee", 2)
    with pytest.raises(TotalChanged):
        await shop.checkout(ANN, key="k", expected=1)

    checkout = await shop.checkout(ANN, key="k", expected=2_000, fingerprint="other")

    assert not checkout.replayed


async def test_checkout_gives_the_present_state_when_it_is_repeated_later(shop: Shop) -> None:
    await shop.sell("tee", 5)
    payment_id = await shop.buy(ANN, "tee", 2, key="paid")
    await shop.settle(payment_id)
    await shop.buy(ANN, "tee", 2, key="expired")
    shop.advance(WINDOW_MS)

    paid = await shop.checkout(ANN, key="paid")
    expired = await shop.checkout(ANN, key="expired")

    assert (paid.replayed, paid.payment.status, paid.orders[0].status) == (True, "paid", "paid")
    assert (expired.replayed, expired.payment.status) == (True, "expired")
    assert (expired.orders[0].status, expired.orders[0].release_reason) == ("released", "expired")
    assert await shop.quantities(ANN) == {"tee": 2}


async def test_checkout_uses_lapsed_holds_of_others_when_it_needs_them(shop: Shop) -> None:
    await shop.sell("tee", 3, hold_policy="on_checkout")
    await shop.add(ANN, "tee", 3)
    await shop.buy(BEN, "tee", 3)
    shop.advance(WINDOW_MS)

    checkout = await shop.checkout(ANN)

    assert checkout.orders[0].lines[0].held == 3
    assert await shop.counters("tee") == (3, 3, 0, 0)


async def test_checkout_event_tells_all_when_it_was_begun(shop: Shop) -> None:
    a = await shop.publish("a", seller="zeta", price_minor=100)
    b = await shop.publish("b", seller="alpha", price_minor=200, policy="untracked")
    await shop.adjust("a", 5)
    engraved = '{"text":"Ann"}'
    await shop.add(ANN, "a", 2)
    first_held_at_ms = shop.now_ms
    await shop.add(ANN, "b", 1, properties=engraved)
    shop.advance(MINUTE_MS)

    checkout = await shop.checkout(ANN, details_json='{"contact":{"email":"ann@example.org"}}')

    event = (await shop.events())[-1]
    payment = checkout.payment
    assert event.type == "checkout_begun"
    assert event.position == checkout.position
    assert event.at_ms == shop.now_ms
    assert event.body == {
        "payment_id": payment.payment_id,
        "checkout_id": payment.checkout_id,
        "checkout_type": "full_cart",
        "cart_id": ANN,
        "amount_minor": "400",
        "currency": "USD",
        "gateway": "simulated",
        "method": "card",
        "expires_at_ms": str(payment.expires_at_ms),
        "created_at_ms": str(payment.created_at_ms),
        "fingerprint": "checkout",
        "details_json": '{"contact":{"email":"ann@example.org"}}',
        "orders": [
            {
                "order_id": payment.order_ids[0],
                "seller": "zeta",
                "total_minor": "200",
                "lines": [
                    {
                        "line_id": "a",
                        "sku": "a",
                        "quantity": "2",
                        "held": "2",
                        "mode": "held",
                        "unit_price_minor": "100",
                        "revision": str(a.revision),
                        "first_held_at_ms": str(first_held_at_ms),
                    }
                ],
            },
            {
                "order_id": payment.order_ids[1],
                "seller": "alpha",
                "total_minor": "200",
                "lines": [
                    {
                        "line_id": line_id_of("b", engraved),
                        "sku": "b",
                        "quantity": "1",
                        "held": "0",
                        "mode": "untracked",
                        "unit_price_minor": "200",
                        "revision": str(b.revision),
                        "first_held_at_ms": "0",
                        "properties_json": engraved,
                    }
                ],
            },
        ],
    }


@pytest.mark.parametrize("record_was_asked", [True, False])
async def test_begin_checkout_replays_when_the_key_began_one_under_its_other_ids(
    shop: Shop, record_was_asked: bool
) -> None:
    """Whether the record can be asked may change between a call and its repetition."""
    await shop.publish("a")
    await shop.adjust("a", 5)
    await shop.add(ANN, "a", 2)
    first = await shop.checkout(ANN, key="k", record_was_asked=record_was_asked)
    await shop.add(ANN, "a", 1)

    again = await shop.checkout(ANN, key="k", record_was_asked=not record_was_asked)

    assert again.replayed
    assert again.payment == first.payment
    assert [line.quantity for line in (await shop.cart(ANN)).lines] == [1]
    with pytest.raises(IdempotencyKeyReused):
        await shop.checkout(ANN, key="k", fingerprint="other", record_was_asked=not record_was_asked)


async def test_begin_checkout_releases_what_its_other_ids_began_when_that_is_over(shop: Shop) -> None:
    await shop.publish("a")
    await shop.adjust("a", 5)
    await shop.add(ANN, "a", 2)
    await shop.checkout(ANN, key="k", record_was_asked=False)
    shop.advance(WINDOW_MS)

    again = await shop.checkout(ANN, key="k")

    assert again.replayed
    assert again.payment.status == "expired"
    assert (await shop.level("a")).held == 0
