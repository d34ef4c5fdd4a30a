"""Rests: the cap counts per owner and SKU, and units that were held for as long as it allows are let go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cartstore.errors import InsufficientStock
from cartstore.model import PutItem

from .shop import ANN, BEN, MINUTE_MS, SECOND_MS, WINDOW_MS, Shop, terms

CAPPED = terms(hold_ttl_ms=MINUTE_MS, hold_cap_ms=3 * MINUTE_MS, hold_rest_ms=10 * SECOND_MS)
CAP_MS = CAPPED.hold_cap_ms
REST_MS = CAPPED.hold_rest_ms
RED = '{"color":"red"}'

Verb = Callable[[Shop], Awaitable[Any]]


async def hold_to_the_cap(shop: Shop, cart_id: str = ANN, sku: str = "tee") -> int:
    """Hold a unit until the cap ends it; the time of the first hold."""
    first_ms = shop.now_ms
    await shop.add(cart_id, sku, terms=CAPPED)
    while shop.now_ms < first_ms + CAP_MS:
        await shop.hold(cart_id, terms=CAPPED, extend=True)
        shop.advance(min(CAPPED.hold_ttl_ms - 1, first_ms + CAP_MS - shop.now_ms))
    return first_ms


async def test_units_rest_when_their_owner_extended_them_up_to_the_cap(shop: Shop) -> None:
    await shop.sell("tee", 1)
    await hold_to_the_cap(shop)

    cart = await shop.hold(ANN, terms=CAPPED, extend=True)

    line = cart.lines[0]
    assert (line.held, line.rests_until_ms) == (0, shop.now_ms + REST_MS)
    assert (line.is_available, line.available_quantity) == (True, 1)
    assert line == await shop.line(ANN, "tee", terms=CAPPED)
    added = (await shop.add(BEN, "tee", terms=CAPPED)).line
    assert added is not None
    assert added.held == 1


async def test_first_hold_is_a_new_one_when_the_rest_is_over(shop: Shop) -> None:
    await shop.sell("tee", 1)
    await hold_to_the_cap(shop)
    shop.advance(REST_MS - 1)
    assert (await shop.hold(ANN, terms=CAPPED)).lines[0].held == 0
    shop.advance(1)

    line = (await shop.hold(ANN, terms=CAPPED)).lines[0]

    assert (line.held, line.first_held_at_ms, line.rests_until_ms) == (1, shop.now_ms, 0)


@pytest.mark.parametrize(
    "leave",
    [
        lambda shop: shop.remove(ANN, "tee", terms=CAPPED),
        lambda shop: shop.set(ANN, "tee", 0, terms=CAPPED),
        lambda shop: shop.put(ANN, ("tee", 0), terms=CAPPED),
        lambda shop: shop.clear(ANN, terms=CAPPED),
    ],
    ids=["remove", "set", "put", "clear"],
)
@pytest.mark.parametrize(
    "come_back",
    [
        lambda shop: shop.add(ANN, "tee", terms=CAPPED),
        lambda shop: shop.put(ANN, ("tee", 1), terms=CAPPED),
        lambda shop: shop.add(ANN, "tee", properties=RED, terms=CAPPED),
        lambda shop: shop.put(ANN, PutItem(sku="tee", quantity=1, properties_json=RED), terms=CAPPED),
    ],
    ids=["add", "put", "add_properties", "put_properties"],
)
async def test_first_hold_outlives_the_line_when_it_is_removed_and_added_again(
    shop: Shop, leave: Verb, come_back: Verb
) -> None:
    await shop.sell("tee", 2)
    first_ms = shop.now_ms
    await shop.add(ANN, "tee", terms=CAPPED)
    shop.advance(CAPPED.hold_ttl_ms - 1)
    await leave(shop)
    shop.advance(REST_MS - 1)

    await come_back(shop)

    line = (await shop.cart(ANN, terms=CAPPED)).lines[0]
    assert (line.held, line.first_held_at_ms) == (1, first_ms)


async def test_first_hold_is_a_new_one_when_nothing_was_held_for_a_rest(shop: Shop) -> None:
    await shop.sell("tee", 2)
    await shop.add(ANN, "tee", terms=CAPPED)
    shop.advance(SECOND_MS)
    await shop.remove(ANN, "tee", terms=CAPPED)
    shop.advance(REST_MS)

    line = (await shop.add(ANN, "tee", terms=CAPPED)).line

    assert line is not None
    assert (line.held, line.first_held_at_ms) == (1, shop.now_ms)


async def test_first_hold_goes_on_when_the_hold_lapsed_and_is_taken_again_within_a_rest(shop: Shop) -> None:
    await shop.sell("tee", 2)
    first_ms = shop.now_ms
    await shop.add(ANN, "tee", terms=CAPPED)
    shop.advance(CAPPED.hold_ttl_ms + REST_MS - 1)

    line = (await shop.hold(ANN, terms=CAPPED)).lines[0]

    assert (line.held, line.first_held_at_ms) == (1, first_ms)


@pytest.mark.parametrize("properties", [(None, RED), (RED, None), (RED, '{"color":"blue"}')])
async def test_lines_share_the_first_hold_when_they_are_of_one_sku(
    shop: Shop, properties: tuple[str | None, str | None]
) -> None:
    await shop.sell("tee", 2)
    first_ms = shop.now_ms
    await shop.add(ANN, "tee", properties=properties[0], terms=CAPPED)
    shop.advance(CAPPED.hold_ttl_ms - 1)

    line = (await shop.add(ANN, "tee", properties=properties[1], terms=CAPPED)).line

    assert line is not None
    assert (line.held, line.first_held_at_ms) == (1, first_ms)
    shop.advance(CAPPED.hold_ttl_ms - 1)
    await shop.hold(ANN, terms=CAPPED, extend=True)
    shop.advance(CAPPED.hold_ttl_ms - 1)
    await shop.hold(ANN, terms=CAPPED, extend=True)
    shop.advance(first_ms + CAP_MS - shop.now_ms)
    assert {line.held for line in (await shop.cart(ANN, terms=CAPPED)).lines} == {0}


async def test_lines_share_the_first_hold_when_the_first_one_was_put(shop: Shop) -> None:
    await shop.sell("tee", 2)
    first_ms = shop.now_ms
    await shop.put(ANN, PutItem(sku="tee", quantity=1, properties_json=RED), terms=CAPPED)
    shop.advance(SECOND_MS)

    line = (await shop.add(ANN, "tee", terms=CAPPED)).line

    assert line is not None
    assert (line.held, line.first_held_at_ms) == (1, first_ms)


async def test_first_hold_is_one_for_each_sku(shop: Shop) -> None:
    await shop.sell("tee", 1)
    await shop.sell("mug", 1)
    await hold_to_the_cap(shop)

    line = (await shop.add(ANN, "mug", terms=CAPPED)).line

    assert line is not None
    assert (line.held, line.first_held_at_ms) == (1, shop.now_ms)


@pytest.mark.parametrize(
    ("verb", "quantity"),
    [
        (lambda shop: shop.add(ANN, "tee", 2, terms=CAPPED), 3),
        (lambda shop: shop.set(ANN, "tee", 3, terms=CAPPED), 3),
        (lambda shop: shop.put(ANN, ("tee", 3), terms=CAPPED), 3),
        (lambda shop: shop.add(ANN, "tee", 2, terms=CAPPED, key="k"), 3),
        (lambda shop: shop.hold(ANN, terms=CAPPED), 1),
        (lambda shop: shop.accept(ANN, terms=CAPPED), 1),
    ],
    ids=["add", "set", "put", "add_with_key", "validate", "accept"],
)
async def test_mutation_succeeds_unheld_when_the_units_rest(shop: Shop, verb: Verb, quantity: int) -> None:
    await shop.sell("tee", 3)
    await hold_to_the_cap(shop)

    result = await verb(shop)

    line = await shop.line(ANN, "tee", terms=CAPPED)
    assert (line.quantity, line.held, line.rests_until_ms) == (quantity, 0, shop.now_ms + REST_MS)
    if hasattr(result, "created"):
        assert result.line == line
    assert (await shop.level("tee")).held == 0


async def test_resting_line_is_refused_when_the_units_are_not_there(shop: Shop) -> None:
    await shop.sell("tee", 3)
    await hold_to_the_cap(shop)
    await shop.add(BEN, "tee", 2, terms=CAPPED)

    with pytest.raises(InsufficientStock) as caught:
        await shop.set(ANN, "tee", 2, terms=CAPPED)

    assert caught.value.available_quantity == 1


async def test_limit_of_held_units_does_not_count_when_the_units_rest(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await hold_to_the_cap(shop)
    narrow = terms(hold_ttl_ms=MINUTE_MS, hold_cap_ms=CAP_MS, held_max=1)

    line = (await shop.set(ANN, "tee", 3, terms=narrow)).line

    assert line is not None
    assert (line.quantity, line.held) == (3, 0)


async def test_checkout_holds_units_when_they_rest(shop: Shop) -> None:
    await shop.sell("tee", 1)
    first_ms = await hold_to_the_cap(shop)

    checkout = await shop.checkout(ANN, terms=CAPPED)

    bought = checkout.orders[0].lines[0]
    assert (bought.held, bought.first_held_at_ms) == (1, first_ms)
    with pytest.raises(InsufficientStock):
        await shop.add(BEN, "tee", terms=CAPPED)


async def test_units_rest_from_its_end_on_when_an_order_held_them_beyond_the_cap(shop: Shop) -> None:
    await shop.sell("tee", 2)
    await shop.add(ANN, "tee", terms=CAPPED)
    checkout = await shop.checkout(ANN, terms=CAPPED)
    shop.advance(CAP_MS)

    ordered = (await shop.add(ANN, "tee", terms=CAPPED)).line

    assert ordered is not None
    assert (ordered.held, ordered.rests_until_ms) == (0, checkout.payment.expires_at_ms + REST_MS)
    await shop.cancel(checkout.payment.payment_id)
    ended_ms = shop.now_ms
    shop.advance(REST_MS - 1)
    resting = (await shop.set(ANN, "tee", 2, terms=CAPPED)).line
    assert resting is not None
    assert (resting.held, resting.rests_until_ms) == (0, ended_ms + REST_MS)
    shop.advance(1)
    rested = (await shop.set(ANN, "tee", 2, terms=CAPPED)).line
    assert rested is not None
    assert (rested.held, rested.first_held_at_ms) == (2, shop.now_ms)


@pytest.mark.parametrize("pay", [True, False])
async def test_first_hold_is_that_of_the_order_when_the_order_has_just_ended(shop: Shop, pay: bool) -> None:
    await shop.sell("tee", 2)
    first_ms = shop.now_ms
    await shop.add(ANN, "tee", terms=CAPPED)
    checkout = await shop.checkout(ANN, terms=CAPPED)
    shop.advance(2 * MINUTE_MS)
    await (shop.settle if pay else shop.cancel)(checkout.payment.payment_id)
    shop.advance(REST_MS - 1)

    line = (await shop.add(ANN, "tee", terms=CAPPED)).line

    assert line is not None
    assert (line.held, line.first_held_at_ms) == (line.quantity, first_ms)


@pytest.mark.parametrize("pay", [True, False])
async def test_first_hold_is_a_new_one_when_the_order_ended_a_rest_ago(shop: Shop, pay: bool) -> None:
    await shop.sell("tee", 3)
    await shop.add(ANN, "tee", terms=CAPPED)
    checkout = await shop.checkout(ANN, terms=CAPPED)
    shop.advance(2 * MINUTE_MS)
    await (shop.settle if pay else shop.cancel)(checkout.payment.payment_id)
    shop.advance(REST_MS)

    line = (await shop.add(ANN, "tee", terms=CAPPED)).line

    assert line is not None
    assert (line.held, line.first_held_at_ms) == (line.quantity, shop.now_ms)


async def test_rest_counts_from_the_end_of_the_window_when_an_order_is_released_late(shop: Shop) -> None:
    await shop.sell("tee", 1)
    await shop.add(ANN, "tee", terms=CAPPED)
    await shop.checkout(ANN, terms=CAPPED)
    shop.advance(WINDOW_MS + REST_MS)

    assert (await shop.level("tee")).held == 0

    line = (await shop.hold(ANN, terms=CAPPED)).lines[0]

    assert (line.held, line.first_held_at_ms) == (1, shop.now_ms)


async def test_clock_step_ends_a_rest_when_the_clock_is_set_back(shop: Shop) -> None:
    await shop.sell("tee", 1)
    await hold_to_the_cap(shop)
    assert (await shop.hold(ANN, terms=CAPPED)).lines[0].rests_until_ms
    shop.advance(-2 * MINUTE_MS)

    line = (await shop.hold(ANN, terms=CAPPED)).lines[0]

    assert (line.held, line.first_held_at_ms) == (1, shop.now_ms)


async def test_line_is_not_told_to_rest_when_it_is_not_held_on_add(shop: Shop) -> None:
    await shop.sell("tee", 1)
    await hold_to_the_cap(shop)

    await shop.publish("tee", hold_policy="on_checkout")

    assert (await shop.line(ANN, "tee", terms=CAPPED)).rests_until_ms == 0
