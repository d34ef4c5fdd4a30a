"""set_quantity, remove_line and clear_cart: changing and emptying what is there."""

from __future__ import annotations

import pytest

from cartstore import limits
from cartstore.errors import (
    CurrencyMismatch,
    InsufficientStock,
    InvalidQuantity,
    ItemNotFound,
    LimitExceeded,
    ProductInactive,
    VersionConflict,
)
from cartstore.model import EMPTY_SUMMARY

from .shop import ANN, BEN, GUS, MINUTE_MS, TERMS, Shop, terms


async def test_set_quantity_holds_more_when_it_is_raised(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 2)

    result = await shop.set(ANN, "tee", 5)

    assert result.line is not None
    assert (result.line.quantity, result.line.held) == (5, 5)
    assert not result.created
    assert (await shop.level("tee")).available == 0


async def test_set_quantity_frees_units_when_it_is_lowered(shop: Shop) -> None:
    await shop.sell("tee", 5)
    first = await shop.add(ANN, "tee", 5)

    shop.advance(MINUTE_MS)
    result = await shop.set(ANN, "tee", 2)

    assert first.line is not None
    assert result.line is not None
    assert (result.line.quantity, result.line.held) == (2, 2)
    assert result.line.first_held_at_ms == first.line.first_held_at_ms
    assert result.line.updated_at_ms == shop.now_ms
    assert (await shop.level("tee")).available == 3


async def test_set_quantity_makes_a_new_version_when_it_sets_the_same(shop: Shop) -> None:
    await shop.sell("tee", 5)
    first = await shop.add(ANN, "tee", 2)

    second = await shop.set(ANN, "tee", 2)

    assert second.summary.version > first.summary.version
    assert second.summary.total_items == 2


async def test_set_quantity_keeps_the_seen_price_when_it_changed(shop: Shop) -> None:
    await shop.sell("tee", 5, price_minor=1_000)
    first = await shop.add(ANN, "tee", 1)
    await shop.publish("tee", price_minor=2_000)

    result = await shop.set(ANN, "tee", 3)

    assert first.line is not None
    assert result.line is not None
    assert (result.line.unit_price_minor, result.line.revision) == (1_000, first.line.revision)
    assert result.line.current_price_minor == 2_000
    assert result.summary.subtotal_minor == 3_000


async def test_set_quantity_removes_the_line_when_it_is_0(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 2)

    result = await shop.set(ANN, "tee", 0)

    assert result.line is None
    assert (result.summary.lines_count, result.summary.total_items) == (0, 0)
    assert await shop.counters("tee") == (5, 0, 0, 0)


@pytest.mark.parametrize("quantity", [0, 1])
async def test_set_quantity_refuses_when_there_is_no_line(shop: Shop, quantity: int) -> None:
    await shop.sell("tee", 5)
    await shop.sell("pull", 5)
    await shop.add(ANN, "tee")

    with pytest.raises(ItemNotFound):
        await shop.set(ANN, "pull", quantity)
    with pytest.raises(ItemNotFound):
        await shop.set(BEN, "tee", quantity)
    with pytest.raises(ItemNotFound):
        await shop.set(ANN, "unpublished", quantity)


async def test_set_quantity_refuses_when_the_stock_is_short(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 2)
    await shop.add(BEN, "tee", 1)

    with pytest.raises(InsufficientStock) as caught:
        await shop.set(ANN, "tee", 5)

    assert (caught.value.sku, caught.value.available_quantity, caught.value.requested_quantity) == (
        "tee",
        4,
        5,
    )
    assert await shop.quantities(ANN) == {"tee": 2}
    assert (await shop.level("tee")).held == 3


async def test_set_quantity_refuses_a_lower_one_when_even_that_cannot_be_held(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 5)
    shop.advance(TERMS.hold_ttl_ms)
    await shop.add(BEN, "tee", 4)

    with pytest.raises(InsufficientStock) as caught:
        await shop.set(ANN, "tee", 2)
    result = await shop.set(ANN, "tee", 1)

    assert caught.value.available_quantity == 1
    assert result.line is not None
    assert (result.line.quantity, result.line.held) == (1, 1)


async def test_set_quantity_holds_again_when_the_hold_lapsed(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 2)
    shop.advance(TERMS.hold_ttl_ms + TERMS.hold_rest_ms)

    result = await shop.set(ANN, "tee", 1)

    assert result.line is not None
    assert result.line.held == 1
    assert result.line.first_held_at_ms == shop.now_ms
    assert result.line.hold_expires_at_ms == shop.now_ms + TERMS.hold_ttl_ms


async def test_set_quantity_only_lowers_when_the_product_is_inactive(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 3)
    await shop.publish("tee", is_active=False)

    with pytest.raises(ProductInactive):
        await shop.set(ANN, "tee", 4)
    with pytest.raises(ProductInactive):
        await shop.set(ANN, "tee", 3)
    lowered = await shop.set(ANN, "tee", 2)
    removed = await shop.set(ANN, "tee", 0)

    assert lowered.line is not None
    assert not lowered.line.is_available
    assert removed.summary.lines_count == 0


async def test_set_quantity_follows_the_rules_when_the_product_has_some(shop: Shop) -> None:
    await shop.sell("tee", 50, min_quantity=4, multiple_of=2, max_quantity=8)
    await shop.add(ANN, "tee", 6)

    for quantity in (2, 5, 10):
        with pytest.raises(InvalidQuantity):
            await shop.set(ANN, "tee", quantity)
    await shop.set(ANN, "tee", 8)
    await shop.set(ANN, "tee", 0)

    assert (await shop.summary(ANN)).lines_count == 0


async def test_set_quantity_refuses_when_a_limit_would_be_exceeded(shop: Shop) -> None:
    await shop.sell("a", 50)
    await shop.sell("b", 50)
    await shop.add(ANN, "a", 2)
    await shop.add(ANN, "b", 2)

    with pytest.raises(LimitExceeded):
        await shop.set(ANN, "a", 4, terms=terms(quantity_max=3))
    with pytest.raises(LimitExceeded):
        await shop.set(ANN, "a", 4, terms=terms(items_max=5))
    with pytest.raises(LimitExceeded):
        await shop.set(ANN, "a", 4, terms=terms(held_max=5))
    await shop.set(ANN, "a", 4, terms=terms(quantity_max=4, items_max=6, held_max=6))

    assert await shop.quantities(ANN) == {"a": 4, "b": 2}


async def test_set_quantity_changes_a_line_when_the_cart_has_too_many(shop: Shop) -> None:
    await shop.sell("a", 50)
    await shop.sell("b", 50)
    await shop.add(ANN, "a")
    await shop.add(ANN, "b")

    await shop.set(ANN, "a", 2, terms=terms(lines_max=1))

    assert await shop.quantities(ANN) == {"a": 2, "b": 1}


async def test_set_quantity_lowers_when_the_cart_has_too_many_items(shop: Shop) -> None:
    await shop.sell("a", 50)
    await shop.sell("b", 50)
    await shop.add(ANN, "a", 5)
    await shop.add(ANN, "b", 5)
    few = terms(items_max=6)

    await shop.set(ANN, "a", 4, terms=few)
    await shop.set(ANN, "b", 5, terms=few)
    with pytest.raises(LimitExceeded):
        await shop.set(ANN, "b", 6, terms=few)

    assert await shop.quantities(ANN) == {"a": 4, "b": 5}


async def test_set_quantity_refuses_when_the_total_would_be_too_large(shop: Shop) -> None:
    many = terms(quantity_max=10**6, items_max=10**6)
    units = limits.TOTAL_MINOR_MAX // limits.PRICE_MINOR_MAX
    await shop.publish("gold", price_minor=limits.PRICE_MINOR_MAX, policy="untracked")
    await shop.add(ANN, "gold", terms=many)

    with pytest.raises(LimitExceeded):
        await shop.set(ANN, "gold", units + 1, terms=many)
    result = await shop.set(ANN, "gold", units, terms=many)

    assert result.summary.subtotal_minor == limits.TOTAL_MINOR_MAX


async def test_set_quantity_refuses_when_the_product_changed_its_currency(shop: Shop) -> None:
    await shop.sell("tee", 5, currency="USD")
    await shop.add(ANN, "tee", 2)
    await shop.publish("tee", currency="EUR")

    with pytest.raises(CurrencyMismatch):
        await shop.set(ANN, "tee", 3)
    await shop.remove(ANN, "tee")

    assert (await shop.summary(ANN)).lines_count == 0


async def test_set_quantity_only_checks_when_the_hold_comes_at_checkout(shop: Shop) -> None:
    await shop.sell("tee", 3, hold_policy="on_checkout")
    await shop.add(ANN, "tee", 1)

    result = await shop.set(ANN, "tee", 3)
    with pytest.raises(InsufficientStock) as caught:
        await shop.set(ANN, "tee", 4)

    assert result.line is not None
    assert result.line.held == 0
    assert caught.value.available_quantity == 3


async def test_set_quantity_refuses_when_the_guests_share_is_used_up(shop: Shop) -> None:
    await shop.sell("tee", 10)
    half = terms(guest_share_ppm=500_000)
    await shop.add(GUS, "tee", 4, terms=half)

    with pytest.raises(InsufficientStock) as caught:
        await shop.set(GUS, "tee", 6, terms=half)

    assert caught.value.available_quantity == 5


async def test_set_quantity_lowers_when_the_guests_share_is_overdrawn(shop: Shop) -> None:
    await shop.sell("tee", 10)
    half = terms(guest_share_ppm=500_000)
    await shop.add(GUS, "tee", 5, terms=half)
    await shop.adjust("tee", -4)

    result = await shop.set(GUS, "tee", 4, terms=half)

    assert result.line is not None
    assert (result.line.quantity, result.line.held) == (4, 4)


async def test_set_quantity_refuses_when_if_match_names_another_version(shop: Shop) -> None:
    await shop.sell("tee", 5)
    version = (await shop.add(ANN, "tee")).summary.version

    with pytest.raises(VersionConflict) as caught:
        await shop.set(ANN, "nothing", 3, if_match=version - 1)
    await shop.set(ANN, "tee", 3, if_match=version)

    assert caught.value.version == version


async def test_remove_line_frees_its_units_when_it_was_held(shop: Shop) -> None:
    await shop.sell("a", 5)
    await shop.sell("b", 5)
    await shop.add(ANN, "a", 2)
    added = await shop.add(ANN, "b", 3)

    result = await shop.remove(ANN, "a")

    assert result.line is None
    assert result.summary.version > added.summary.version
    assert (result.summary.lines_count, result.summary.total_items) == (1, 3)
    assert result.summary.subtotal_minor == 3_000
    assert await shop.counters("a") == (5, 0, 0, 0)
    assert await shop.quantities(ANN) == {"b": 3}
    assert await shop.holders(["a", "b"]) == [set(), {f"c\x1f{ANN}\x1fb"}]


async def test_remove_line_refuses_when_there_is_no_line(shop: Shop) -> None:
    await shop.sell("tee", 5)
    version = (await shop.add(ANN, "tee")).summary.version

    with pytest.raises(ItemNotFound):
        await shop.remove(ANN, "pull")
    with pytest.raises(VersionConflict):
        await shop.remove(ANN, "pull", if_match=version + 1)

    assert (await shop.summary(ANN)).version == version


async def test_remove_line_keeps_version_and_currency_when_it_was_the_last(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee")

    result = await shop.remove(ANN, "tee")

    cart = await shop.cart(ANN)
    assert cart.summary == result.summary == await shop.summary(ANN)
    assert cart.summary.version > 0
    assert (cart.summary.lines_count, cart.summary.currency) == (0, "USD")
    assert cart.created_at_ms is not None


async def test_clear_cart_frees_all_units_when_lines_were_held(shop: Shop) -> None:
    await shop.sell("a", 5)
    await shop.sell("b", 5)
    await shop.add(ANN, "a", 2)
    added = await shop.add(ANN, "b", 3)

    result = await shop.clear(ANN)

    assert result.summary.version > added.summary.version
    assert (result.summary.lines_count, result.summary.total_items) == (0, 0)
    assert (await shop.level("a")).held == 0
    assert (await shop.level("b")).held == 0


async def test_clear_cart_changes_nothing_when_it_is_empty(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee")
    cleared = await shop.clear(ANN)

    again = await shop.clear(ANN)
    absent = await shop.clear(BEN)

    assert again.summary == cleared.summary
    assert absent.summary == EMPTY_SUMMARY
    assert (await shop.cart(BEN)).summary.version == 0


async def test_clear_cart_refuses_when_if_match_names_another_version(shop: Shop) -> None:
    await shop.sell("tee", 5)
    version = (await shop.add(ANN, "tee")).summary.version

    with pytest.raises(VersionConflict):
        await shop.clear(ANN, if_match=version + 1)
    with pytest.raises(VersionConflict):
        await shop.clear(BEN, if_match=version)
    result = await shop.clear(ANN, if_match=version)

    assert result.summary.lines_count == 0


async def test_clear_cart_never_repeats_a_version_when_lines_come_again(shop: Shop) -> None:
    await shop.sell("tee", 5)
    versions = []

    for _ in range(3):
        versions.append((await shop.add(ANN, "tee")).summary.version)
        versions.append((await shop.clear(ANN)).summary.version)

    assert versions == sorted(set(versions))
