"""read_cart, read_summary and accept_changes."""

from __future__ import annotations

import pytest

from cartstore import limits
from cartstore.errors import CurrencyMismatch, ItemNotFound, LimitExceeded, VersionConflict
from cartstore.model import EMPTY_SUMMARY

from .shop import ANN, BEN, MINUTE_MS, SECOND_MS, TERMS, Shop, terms


async def test_read_cart_gives_an_empty_cart_when_there_is_none(shop: Shop) -> None:
    cart = await shop.cart(ANN)

    assert cart.cart_id == ANN
    assert cart.summary == EMPTY_SUMMARY
    assert cart.lines == ()
    assert (cart.created_at_ms, cart.updated_at_ms, cart.read_at_ms) == (None, None, shop.now_ms)
    assert await shop.summary(ANN) == EMPTY_SUMMARY


async def test_read_cart_tells_times_when_it_was_changed(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee")
    created_at_ms = shop.now_ms
    shop.advance(SECOND_MS)
    await shop.add(ANN, "tee")
    updated_at_ms = shop.now_ms
    shop.advance(SECOND_MS)

    cart = await shop.cart(ANN)

    assert (cart.created_at_ms, cart.updated_at_ms) == (created_at_ms, updated_at_ms)
    assert cart.read_at_ms == shop.now_ms


async def test_read_cart_agrees_with_the_mutation_when_nothing_came_between(shop: Shop) -> None:
    await shop.sell("a", 5, price_minor=300)
    await shop.sell("b", 5, price_minor=50)
    await shop.add(ANN, "a", 2)

    result = await shop.add(ANN, "b", 3, properties='{"text":"Ann"}')

    cart = await shop.cart(ANN)
    assert cart.summary == result.summary == await shop.summary(ANN)
    assert result.line is not None
    assert cart.line(result.line.line_id) == result.line
    assert cart.summary.subtotal_minor == 750


async def test_read_cart_tells_what_this_buyer_can_have_when_others_hold_too(shop: Shop) -> None:
    await shop.sell("tee", 10)
    await shop.add(ANN, "tee", 3)
    await shop.add(BEN, "tee", 4)

    assert (await shop.line(ANN, "tee")).available_quantity == 6
    assert (await shop.line(BEN, "tee")).available_quantity == 7


async def test_read_cart_counts_a_mark_as_part_of_the_line_when_properties_are_set(shop: Shop) -> None:
    await shop.sell("mug", 5)
    text = '{"text":"Ünï ~~ \\"quoted\\""}'

    await shop.add(ANN, "mug", 1, properties=text)

    assert [line.properties_json for line in (await shop.cart(ANN)).lines] == [text]


async def test_read_cart_keeps_carts_apart_when_ids_are_alike(shop: Shop) -> None:
    await shop.sell("tee", 5)

    await shop.add("u.ann", "tee", 1)
    await shop.add("g.ann", "tee", 2)

    assert await shop.quantities("u.ann") == {"tee": 1}
    assert await shop.quantities("g.ann") == {"tee": 2}
    assert await shop.quantities("u.an") == {}


async def test_read_summary_changes_nothing_when_holds_are_due(shop: Shop) -> None:
    await shop.sell("tee", 5)
    added = await shop.add(ANN, "tee", 2)
    shop.advance(TERMS.hold_ttl_ms)

    assert await shop.summary(ANN) == added.summary


async def test_accept_changes_moves_seen_prices_when_all_are_meant(shop: Shop) -> None:
    await shop.sell("a", 5, price_minor=1_000)
    await shop.sell("b", 5, price_minor=1_000)
    await shop.add(ANN, "a", 2)
    before = await shop.add(ANN, "b", 1)
    a = await shop.publish("a", price_minor=1_500)
    b = await shop.publish("b", price_minor=700)

    result = await shop.accept(ANN)

    lines = (await shop.cart(ANN)).lines
    assert [(line.unit_price_minor, line.revision) for line in lines] == [
        (1_500, a.revision),
        (700, b.revision),
    ]
    assert result.summary.subtotal_minor == 3_700
    assert result.summary.version > before.summary.version


async def test_accept_changes_moves_only_the_named_when_lines_are_named(shop: Shop) -> None:
    await shop.sell("a", 5, price_minor=1_000)
    await shop.sell("b", 5, price_minor=1_000)
    await shop.add(ANN, "a", 2)
    await shop.add(ANN, "b", 1)
    await shop.publish("a", price_minor=1_500)
    await shop.publish("b", price_minor=700)

    result = await shop.accept(ANN, ["b"])

    assert [line.unit_price_minor for line in (await shop.cart(ANN)).lines] == [1_000, 700]
    assert result.summary.subtotal_minor == 2_700


async def test_accept_changes_makes_a_version_when_nothing_differs(shop: Shop) -> None:
    await shop.sell("tee", 5)
    before = await shop.add(ANN, "tee")
    shop.advance(MINUTE_MS)

    result = await shop.accept(ANN)

    assert result.summary.version > before.summary.version
    assert (await shop.cart(ANN)).updated_at_ms == shop.now_ms


async def test_accept_changes_makes_no_version_when_the_cart_is_empty(shop: Shop) -> None:
    result = await shop.accept(ANN)

    assert result.summary == EMPTY_SUMMARY
    assert (await shop.cart(ANN)).summary.version == 0


async def test_accept_changes_refuses_when_a_named_line_is_missing(shop: Shop) -> None:
    await shop.sell("tee", 5)
    version = (await shop.add(ANN, "tee")).summary.version

    with pytest.raises(ItemNotFound):
        await shop.accept(ANN, ["tee", "pull"])
    with pytest.raises(VersionConflict):
        await shop.accept(ANN, ["pull"], if_match=version + 1)

    assert (await shop.summary(ANN)).version == version


async def test_accept_changes_refuses_when_the_product_changed_its_currency(shop: Shop) -> None:
    await shop.sell("a", 5, currency="USD")
    await shop.sell("b", 5, currency="USD")
    await shop.add(ANN, "a")
    await shop.add(ANN, "b")
    await shop.publish("b", currency="EUR", price_minor=5)

    with pytest.raises(CurrencyMismatch):
        await shop.accept(ANN)
    await shop.accept(ANN, ["a"])

    assert (await shop.line(ANN, "b")).unit_price_minor == 1_000


async def test_accept_changes_refuses_when_the_total_would_be_too_large(shop: Shop) -> None:
    many = terms(quantity_max=10**6, items_max=10**6)
    units = limits.TOTAL_MINOR_MAX // limits.PRICE_MINOR_MAX + 1
    await shop.publish("gold", price_minor=1, policy="untracked")
    await shop.add(ANN, "gold", units, terms=many)
    await shop.publish("gold", price_minor=limits.PRICE_MINOR_MAX)

    with pytest.raises(LimitExceeded):
        await shop.accept(ANN, terms=many)

    assert (await shop.summary(ANN)).subtotal_minor == units
