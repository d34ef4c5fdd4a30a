"""add_line: rules, refusals in their order, and what a line knows afterwards."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable

import pytest

from cartstore import limits
from cartstore.errors import (
    CurrencyMismatch,
    IdempotencyKeyReused,
    InsufficientStock,
    InvalidQuantity,
    LimitExceeded,
    ProductInactive,
    ProductNotFound,
    VersionConflict,
)
from cartstore.model import LineResult, line_id_of

from .shop import ANN, BEN, GIL, GUS, MINUTE_MS, TERMS, Shop, terms


async def test_add_line_makes_the_line_when_it_is_new(shop: Shop) -> None:
    fields = await shop.publish("tee", price_minor=1_250)
    await shop.adjust("tee", 5)

    result = await shop.add(ANN, "tee", 2)

    line = result.line
    assert line is not None
    assert result.created
    assert not result.replayed
    assert result.read_at_ms == shop.now_ms
    assert (line.line_id, line.sku, line.properties_json) == ("tee", "tee", None)
    assert (line.quantity, line.held) == (2, 2)
    assert line.hold_expires_at_ms == shop.now_ms + TERMS.hold_ttl_ms
    assert line.first_held_at_ms == shop.now_ms
    assert (line.unit_price_minor, line.revision) == (1_250, fields.revision)
    assert (line.current_price_minor, line.current_revision) == (1_250, fields.revision)
    assert (line.added_at_ms, line.updated_at_ms) == (shop.now_ms, shop.now_ms)
    assert (line.is_active, line.policy, line.available_quantity) == (True, "deny", 5)
    assert line.is_available
    assert line.line_total_minor == 2_500
    assert result.summary.version > 0
    assert (result.summary.lines_count, result.summary.total_items) == (1, 2)
    assert (result.summary.subtotal_minor, result.summary.currency) == (2_500, "USD")
    assert await shop.counters("tee") == (5, 2, 0, 0)


async def test_add_line_adds_to_the_line_when_the_variation_is_there(shop: Shop) -> None:
    await shop.sell("tee", 5)
    first = await shop.add(ANN, "tee", 2)

    shop.advance(MINUTE_MS)
    second = await shop.add(ANN, "tee", 1)

    assert first.line is not None
    assert second.line is not None
    assert not second.created
    assert (second.line.quantity, second.line.held) == (3, 3)
    assert second.line.first_held_at_ms == first.line.first_held_at_ms
    assert second.line.added_at_ms == first.line.added_at_ms
    assert second.line.updated_at_ms == shop.now_ms
    assert second.line.ordinal == first.line.ordinal
    assert second.summary.version > first.summary.version
    assert (second.summary.lines_count, second.summary.total_items) == (1, 3)


async def test_add_line_makes_another_line_when_properties_differ(shop: Shop) -> None:
    await shop.sell("mug", 5)
    engraved = '{"text":"Ann"}'

    await shop.add(ANN, "mug", 1)
    result = await shop.add(ANN, "mug", 2, properties=engraved)

    assert result.created
    assert result.line is not None
    assert result.line.line_id == line_id_of("mug", engraved)
    assert result.line.properties_json == engraved
    assert await shop.quantities(ANN) == {"mug": 1, line_id_of("mug", engraved): 2}
    assert (await shop.level("mug")).held == 3
    assert (await shop.line(ANN, "mug")).available_quantity == 3


async def test_add_line_shows_lines_in_order_when_several_were_added(shop: Shop) -> None:
    for sku in ("c", "a", "b"):
        await shop.sell(sku, 5)
        await shop.add(ANN, sku)

    await shop.add(ANN, "c")

    assert list(await shop.quantities(ANN)) == ["c", "a", "b"]


async def test_add_line_moves_seen_price_and_revision_when_the_line_is_there(shop: Shop) -> None:
    await shop.sell("tee", 5, price_minor=1_000)
    await shop.add(ANN, "tee", 2)
    fields = await shop.publish("tee", price_minor=1_500)

    result = await shop.add(ANN, "tee", 1)

    assert result.line is not None
    assert (result.line.unit_price_minor, result.line.revision) == (1_500, fields.revision)
    assert result.summary.subtotal_minor == 4_500


async def test_add_line_gives_every_cart_another_version_when_both_change(shop: Shop) -> None:
    await shop.sell("tee", 5)

    versions = [(await shop.add(cart_id, "tee")).summary.version for cart_id in (ANN, BEN, ANN, BEN)]

    assert versions == sorted(set(versions))


async def test_add_line_refuses_when_the_product_is_unknown(shop: Shop) -> None:
    with pytest.raises(ProductNotFound):
        await shop.add(ANN, "nothing")

    assert (await shop.cart(ANN)).summary.version == 0


async def test_add_line_refuses_when_the_product_is_inactive(shop: Shop) -> None:
    await shop.sell("tee", 5, is_active=False)

    with pytest.raises(ProductInactive):
        await shop.add(ANN, "tee")

    assert (await shop.level("tee")).held == 0


async def test_add_line_refuses_when_the_cart_has_another_currency(shop: Shop) -> None:
    await shop.sell("tee", 5, currency="USD")
    await shop.sell("pull", 5, currency="EUR")
    await shop.add(ANN, "tee")

    with pytest.raises(CurrencyMismatch):
        await shop.add(ANN, "pull")

    assert await shop.quantities(ANN) == {"tee": 1}


async def test_add_line_takes_another_currency_when_the_cart_was_emptied(shop: Shop) -> None:
    await shop.sell("tee", 5, currency="USD")
    await shop.sell("pull", 5, currency="EUR")
    await shop.add(ANN, "tee")
    await shop.remove(ANN, "tee")

    result = await shop.add(ANN, "pull")

    assert result.summary.currency == "EUR"


@pytest.mark.parametrize(
    ("rules", "quantity", "is_allowed"),
    [
        ({"min_quantity": 3}, 2, False),
        ({"min_quantity": 3}, 3, True),
        ({"max_quantity": 4}, 4, True),
        ({"max_quantity": 4}, 5, False),
        ({"multiple_of": 6}, 6, True),
        ({"multiple_of": 6}, 9, False),
        ({"min_quantity": 4, "multiple_of": 4, "max_quantity": 8}, 8, True),
        ({"min_quantity": 4, "multiple_of": 4, "max_quantity": 8}, 12, False),
    ],
)
async def test_add_line_follows_the_rules_when_the_product_has_some(
    shop: Shop, rules: dict[str, int], quantity: int, is_allowed: bool
) -> None:
    await shop.sell("tee", 50, **rules)

    if is_allowed:
        result = await shop.add(ANN, "tee", quantity)
        assert result.summary.total_items == quantity
    else:
        with pytest.raises(InvalidQuantity):
            await shop.add(ANN, "tee", quantity)
        assert (await shop.level("tee")).held == 0


async def test_add_line_applies_the_rules_to_the_sum_when_the_line_is_there(shop: Shop) -> None:
    await shop.sell("tee", 50, min_quantity=4, max_quantity=6)
    await shop.add(ANN, "tee", 4)

    await shop.add(ANN, "tee", 1)
    with pytest.raises(InvalidQuantity):
        await shop.add(ANN, "tee", 2)

    assert await shop.quantities(ANN) == {"tee": 5}


async def test_add_line_refuses_when_the_line_would_be_too_large(shop: Shop) -> None:
    await shop.sell("tee", 50)
    few = terms(quantity_max=3)
    await shop.add(ANN, "tee", 3, terms=few)

    with pytest.raises(LimitExceeded):
        await shop.add(ANN, "tee", 1, terms=few)

    assert await shop.quantities(ANN) == {"tee": 3}


async def test_add_line_refuses_when_there_would_be_too_many_lines(shop: Shop) -> None:
    for sku in ("a", "b", "c"):
        await shop.sell(sku, 5)
    few = terms(lines_max=2)
    await shop.add(ANN, "a", terms=few)
    await shop.add(ANN, "b", terms=few)

    with pytest.raises(LimitExceeded):
        await shop.add(ANN, "c", terms=few)
    await shop.add(ANN, "b", terms=few)

    assert await shop.quantities(ANN) == {"a": 1, "b": 2}


async def test_add_line_refuses_when_there_would_be_too_many_items(shop: Shop) -> None:
    await shop.sell("a", 50)
    await shop.sell("b", 50)
    few = terms(items_max=5)
    await shop.add(ANN, "a", 4, terms=few)

    with pytest.raises(LimitExceeded):
        await shop.add(ANN, "b", 2, terms=few)
    await shop.add(ANN, "b", 1, terms=few)

    assert (await shop.summary(ANN)).total_items == 5


async def test_add_line_refuses_when_the_total_would_be_too_large(shop: Shop) -> None:
    many = terms(quantity_max=10**6, items_max=10**6)
    units = limits.TOTAL_MINOR_MAX // limits.PRICE_MINOR_MAX
    await shop.publish("gold", price_minor=limits.PRICE_MINOR_MAX, policy="untracked")
    await shop.publish("gum", price_minor=1, policy="untracked")
    await shop.add(ANN, "gold", units, terms=many)

    with pytest.raises(LimitExceeded):
        await shop.add(ANN, "gum", 1, terms=many)

    assert (await shop.summary(ANN)).subtotal_minor == limits.TOTAL_MINOR_MAX


async def test_add_line_counts_the_new_price_when_it_moves_the_seen_one(shop: Shop) -> None:
    many = terms(quantity_max=10**6, items_max=10**6)
    units = limits.TOTAL_MINOR_MAX // limits.PRICE_MINOR_MAX
    await shop.publish("gold", price_minor=1, policy="untracked")
    await shop.add(ANN, "gold", units, terms=many)
    await shop.publish("gold", price_minor=limits.PRICE_MINOR_MAX)

    with pytest.raises(LimitExceeded):
        await shop.add(ANN, "gold", 1, terms=many)

    assert (await shop.summary(ANN)).subtotal_minor == units


async def test_add_line_refuses_when_the_stock_is_short(shop: Shop) -> None:
    await shop.sell("tee", 3)
    await shop.add(BEN, "tee", 2)

    with pytest.raises(InsufficientStock) as caught:
        await shop.add(ANN, "tee", 2)

    assert (caught.value.sku, caught.value.available_quantity, caught.value.requested_quantity) == (
        "tee",
        1,
        2,
    )
    assert (await shop.cart(ANN)).lines == ()
    assert await shop.counters("tee") == (3, 2, 0, 0)


async def test_add_line_tells_what_the_line_could_have_when_the_stock_is_short(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 2)
    await shop.add(BEN, "tee", 2)

    with pytest.raises(InsufficientStock) as caught:
        await shop.add(ANN, "tee", 4)

    assert caught.value.available_quantity == 3
    assert caught.value.requested_quantity == 6
    assert await shop.quantities(ANN) == {"tee": 2}


async def test_add_line_sells_the_last_unit_once_when_two_want_it(shop: Shop) -> None:
    await shop.sell("tee", 1)
    await shop.add(ANN, "tee")

    with pytest.raises(InsufficientStock) as caught:
        await shop.add(BEN, "tee")

    assert caught.value.available_quantity == 0
    assert (await shop.level("tee")).available == 0


async def test_add_line_sells_no_unit_twice_when_many_want_it_at_once(shop: Shop) -> None:
    await shop.sell("tee", 10)
    buyers = [f"u.{number}" for number in range(40)]

    results = await asyncio.gather(*(shop.add(buyer, "tee") for buyer in buyers), return_exceptions=True)

    assert Counter(map(type, results)) == {LineResult: 10, InsufficientStock: 30}
    assert await shop.counters("tee") == (10, 10, 0, 0)
    versions = {result.summary.version for result in results if isinstance(result, LineResult)}
    assert len(versions) == 10


async def test_add_line_answers_each_by_itself_when_many_come_at_once(shop: Shop) -> None:
    await shop.sell("tee", 1_000)
    await shop.sell("gone", 0)
    await shop.sell("off", 5, is_active=False)
    await shop.sell("pair", 5, multiple_of=2)
    await shop.add("u.key", "tee", key="once")
    wanted: list[tuple[Awaitable[LineResult], type]] = []
    for n in range(5):
        wanted += [
            (shop.add(f"u.{n}", "tee", n + 1), LineResult),
            (shop.add(f"u.{n}", "gone"), InsufficientStock),
            (shop.add(f"g.{n}", "tee", properties='{"name":"Änne"}'), LineResult),
            (shop.add(f"u.{n}", "nothing"), ProductNotFound),
            (shop.add(f"u.{n}", "off"), ProductInactive),
            (shop.add(f"u.{n}", "pair"), InvalidQuantity),
            (shop.add(f"u.{n}.new", "tee", if_match=7), VersionConflict),
            (shop.add("u.key", "tee", key="once"), LineResult),
            (shop.add("u.key", "tee", 2, key="once", fingerprint="other"), IdempotencyKeyReused),
        ]

    results = await asyncio.gather(*(call for call, _ in wanted), return_exceptions=True)

    assert list(map(type, results)) == [kind for _, kind in wanted]
    assert [await shop.quantities(f"u.{n}") for n in range(5)] == [{"tee": n + 1} for n in range(5)]
    assert await shop.quantities("u.key") == {"tee": 1}
    assert {result.replayed for result in results[7::9] if isinstance(result, LineResult)} == {True}
    assert (await shop.level("tee")).held == 15 + 5 + 1


@pytest.mark.parametrize("policy", ["backorder", "untracked"])
async def test_add_line_holds_nothing_when_stock_does_not_limit(shop: Shop, policy: str) -> None:
    await shop.sell("tee", 1, policy=policy)

    result = await shop.add(ANN, "tee", 7)

    assert result.line is not None
    assert (result.line.held, result.line.hold_expires_at_ms) == (0, 0)
    assert result.line.available_quantity is None
    assert result.line.is_available
    level = await shop.level("tee")
    assert (level.policy, level.held, level.available) == (policy, 0, None)


async def test_add_line_only_checks_when_the_hold_comes_at_checkout(shop: Shop) -> None:
    await shop.sell("tee", 3, hold_policy="on_checkout")

    result = await shop.add(ANN, "tee", 3)
    await shop.add(BEN, "tee", 3)
    with pytest.raises(InsufficientStock) as caught:
        await shop.add(BEN, "tee", 1)

    assert result.line is not None
    assert (result.line.held, result.line.available_quantity) == (0, 3)
    assert caught.value.available_quantity == 3
    assert (await shop.level("tee")).held == 0


async def test_add_line_only_checks_when_reservations_are_off(shop: Shop) -> None:
    await shop.sell("tee", 3)
    off = terms(reservations=False)

    await shop.add(ANN, "tee", 3, terms=off)
    await shop.add(BEN, "tee", 3, terms=off)
    with pytest.raises(InsufficientStock):
        await shop.add(GUS, "tee", 4, terms=off)

    assert (await shop.level("tee")).held == 0


async def test_add_line_refuses_when_the_owner_would_hold_too_much(shop: Shop) -> None:
    await shop.sell("a", 50)
    await shop.sell("b", 50)
    few = terms(held_max=5)
    await shop.add(ANN, "a", 4, terms=few)

    with pytest.raises(LimitExceeded):
        await shop.add(ANN, "b", 2, terms=few)
    await shop.add(ANN, "b", 1, terms=few)

    assert (await shop.level("b")).held == 1


async def test_add_line_counts_pending_orders_when_it_limits_what_is_held(shop: Shop) -> None:
    await shop.sell("a", 50)
    few = terms(held_max=5)
    await shop.add(ANN, "a", 4, terms=few)
    payment_id = (await shop.checkout(ANN)).payment.payment_id

    with pytest.raises(LimitExceeded):
        await shop.add(ANN, "a", 2, terms=few)
    await shop.settle(payment_id)
    await shop.add(ANN, "a", 5, terms=few)

    assert (await shop.level("a")).held == 5


async def test_add_line_forgets_lapsed_holds_when_it_limits_what_is_held(shop: Shop) -> None:
    await shop.sell("a", 50)
    await shop.sell("b", 50)
    few = terms(held_max=5)
    await shop.add(ANN, "a", 5, terms=few)
    shop.advance(few.hold_ttl_ms)

    result = await shop.add(ANN, "b", 5, terms=few)

    assert result.line is not None
    assert result.line.held == 5
    assert (await shop.line(ANN, "a")).held == 0


async def test_add_line_forgets_orders_over_their_window_when_it_limits_what_is_held(shop: Shop) -> None:
    await shop.sell("a", 50)
    await shop.sell("b", 50)
    few = terms(held_max=5)
    await shop.add(ANN, "a", 5, terms=few)
    await shop.checkout(ANN, window_ms=MINUTE_MS)
    shop.advance(MINUTE_MS)

    result = await shop.add(ANN, "b", 5, terms=few)

    assert result.line is not None
    assert result.line.held == 5


@pytest.mark.parametrize("hold_nothing", ["untracked", "on_checkout", "reservations"])
async def test_add_line_ignores_the_held_limit_when_nothing_is_held(shop: Shop, hold_nothing: str) -> None:
    await shop.sell(
        "tee",
        50,
        policy="untracked" if hold_nothing == "untracked" else "deny",
        hold_policy="on_checkout" if hold_nothing == "on_checkout" else "on_add",
    )

    result = await shop.add(
        ANN, "tee", 9, terms=terms(held_max=1, reservations=hold_nothing != "reservations")
    )

    assert result.summary.total_items == 9


async def test_add_line_refuses_when_the_guests_share_is_used_up(shop: Shop) -> None:
    await shop.sell("tee", 10)
    half = terms(guest_share_ppm=500_000)
    await shop.add("g.gil", "tee", 3, terms=half)
    await shop.add(BEN, "tee", 2)

    with pytest.raises(InsufficientStock) as caught:
        await shop.add(GUS, "tee", 3, terms=half)
    await shop.add(GUS, "tee", 2, terms=half)
    with pytest.raises(InsufficientStock) as again:
        await shop.add(GUS, "tee", 1, terms=half)

    assert caught.value.available_quantity == 2
    assert again.value.available_quantity == 2
    assert (await shop.level("tee")).available == 3


@pytest.mark.parametrize("end", ["settle", "cancel"])
async def test_add_line_has_the_guests_share_again_when_an_order_ended(shop: Shop, end: str) -> None:
    half = terms(guest_share_ppm=500_000)
    await shop.sell("a", 4)
    await shop.add(GUS, "a", 2, terms=half)
    payment = (await shop.checkout(GUS, terms=half)).payment
    if end == "settle":
        await shop.settle(payment.payment_id)
        await shop.adjust("a", 2)
    else:
        await shop.cancel(payment.payment_id)
        await shop.clear(GUS)

    added = await shop.add(GIL, "a", 2, terms=half)

    assert added.line is not None
    assert added.line.held == 2


async def test_add_line_counts_guests_orders_when_it_limits_their_share(shop: Shop) -> None:
    await shop.sell("tee", 10)
    half = terms(guest_share_ppm=500_000)
    await shop.add("g.gil", "tee", 4, terms=half)
    await shop.checkout("g.gil", terms=half)

    with pytest.raises(InsufficientStock) as caught:
        await shop.add(GUS, "tee", 2, terms=half)

    assert caught.value.available_quantity == 1


async def test_add_line_gives_what_is_free_when_that_is_less_than_the_share(shop: Shop) -> None:
    await shop.sell("tee", 10)
    half = terms(guest_share_ppm=500_000)
    await shop.add(BEN, "tee", 9)

    with pytest.raises(InsufficientStock) as caught:
        await shop.add(GUS, "tee", 2, terms=half)

    assert caught.value.available_quantity == 1


async def test_add_line_rounds_the_share_down_when_it_is_no_whole_number(shop: Shop) -> None:
    await shop.sell("tee", 3)
    half = terms(guest_share_ppm=500_000)

    await shop.add(GUS, "tee", 1, terms=half)
    with pytest.raises(InsufficientStock):
        await shop.add(GUS, "tee", 1, terms=half)

    assert (await shop.level("tee")).held == 1


async def test_add_line_ignores_the_share_when_the_owner_is_signed_in(shop: Shop) -> None:
    await shop.sell("tee", 10)

    result = await shop.add(ANN, "tee", 10, terms=terms(guest_share_ppm=1_000_000))

    assert result.line is not None
    assert result.line.held == 10


async def test_add_line_refuses_when_if_match_names_another_version(shop: Shop) -> None:
    await shop.sell("tee", 5)
    version = (await shop.add(ANN, "tee")).summary.version

    with pytest.raises(VersionConflict) as caught:
        await shop.add(ANN, "tee", if_match=version + 1)
    result = await shop.add(ANN, "tee", if_match=version)

    assert caught.value.version == version
    assert result.summary.total_items == 2


async def test_add_line_expects_version_0_when_the_cart_is_absent(shop: Shop) -> None:
    await shop.sell("tee", 5)

    with pytest.raises(VersionConflict) as caught:
        await shop.add(ANN, "tee", if_match=1)
    await shop.add(ANN, "tee", if_match=0)

    assert caught.value.version == 0


async def test_add_line_checks_in_order_when_everything_is_wrong(shop: Shop) -> None:
    none = terms(quantity_max=1)
    await shop.sell("tee", 5)
    await shop.sell("pull", 1)
    await shop.add(ANN, "tee")
    faults = {"is_active": False, "currency": "EUR", "max_quantity": 2}
    await shop.publish("pull", **faults)

    with pytest.raises(VersionConflict):
        await shop.add(ANN, "nothing", 3, terms=none, if_match=0)
    with pytest.raises(ProductNotFound):
        await shop.add(ANN, "nothing", 3, terms=none)
    with pytest.raises(ProductInactive):
        await shop.add(ANN, "pull", 3, terms=none)
    await shop.publish("pull", is_active=True)
    with pytest.raises(CurrencyMismatch):
        await shop.add(ANN, "pull", 3, terms=none)
    await shop.publish("pull", currency="USD")
    with pytest.raises(InvalidQuantity):
        await shop.add(ANN, "pull", 3, terms=none)
    await shop.publish("pull", max_quantity=0)
    with pytest.raises(LimitExceeded):
        await shop.add(ANN, "pull", 3, terms=none)
    with pytest.raises(LimitExceeded):
        await shop.add(ANN, "pull", 3, terms=terms(held_max=2))
    with pytest.raises(InsufficientStock):
        await shop.add(ANN, "pull", 3)


async def test_add_line_changes_nothing_when_it_is_refused(shop: Shop) -> None:
    await shop.sell("tee", 3)
    await shop.add(ANN, "tee", 2)
    before = await shop.cart(ANN)

    with pytest.raises(InsufficientStock):
        await shop.add(ANN, "tee", 9)

    assert await shop.cart(ANN) == before
    assert await shop.event_types() == ["stock_adjusted"]


async def test_add_line_ignores_a_revision_when_a_newer_one_was_published(shop: Shop) -> None:
    await shop.sell("tee", 3, price_minor=1_000)
    newer = await shop.publish("tee", price_minor=2_000)

    await shop.publish("tee", price_minor=1_500, revision=newer.revision - 1)
    result = await shop.add(ANN, "tee")

    assert result.line is not None
    assert (result.line.unit_price_minor, result.line.revision) == (2_000, newer.revision)
