"""Holds: expiry, extension and its cap, lapse, holding again, and a clock that steps back."""

from __future__ import annotations

import asyncio

import pytest

from cartstore import limits
from cartstore.errors import InsufficientStock, ItemNotFound, VersionConflict

from .shop import ANN, BEN, GUS, LIFETIME_MS, MINUTE_MS, SECOND_MS, TERMS, Shop, terms


async def test_hold_lasts_when_its_time_is_not_over(shop: Shop) -> None:
    await shop.sell("tee", 1)
    await shop.add(ANN, "tee")
    shop.advance(TERMS.hold_ttl_ms - 1)

    with pytest.raises(InsufficientStock):
        await shop.add(BEN, "tee")

    assert (await shop.line(ANN, "tee")).held == 1


async def test_hold_ends_no_earlier_when_it_is_held_again_for_less_time(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee")
    shop.advance(MINUTE_MS)
    await shop.add(ANN, "tee")
    expires = shop.now_ms + TERMS.hold_ttl_ms

    await shop.add(ANN, "tee", terms=terms(hold_ttl_ms=MINUTE_MS))

    assert (await shop.line(ANN, "tee")).hold_expires_at_ms == expires


async def test_line_holds_no_more_than_its_quantity_when_its_sku_is_held_at_checkout_only_by_now(
    shop: Shop,
) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 4)
    await shop.publish("tee", hold_policy="on_checkout")

    shop.advance(MINUTE_MS)
    result = await shop.set(ANN, "tee", 3)

    line = await shop.line(ANN, "tee")
    assert (line.held, line.hold_expires_at_ms) == (3, shop.now_ms + TERMS.hold_ttl_ms)
    assert result.line == line
    assert (await shop.level("tee")).held == 3
    await shop.add(ANN, "tee", 2)
    assert (await shop.line(ANN, "tee")).held == 3
    await shop.remove(ANN, "tee")
    assert (await shop.level("tee")).held == 0


async def test_hold_goes_to_the_next_buyer_when_its_time_is_over(shop: Shop) -> None:
    await shop.sell("tee", 1)
    await shop.add(ANN, "tee")
    shop.advance(TERMS.hold_ttl_ms)

    result = await shop.add(BEN, "tee")

    assert result.line is not None
    assert result.line.held == 1
    lapsed = await shop.line(ANN, "tee")
    assert (lapsed.quantity, lapsed.held, lapsed.hold_expires_at_ms) == (1, 0, 0)
    assert lapsed.available_quantity == 0
    assert not lapsed.is_available


@pytest.mark.parametrize("verb", ["level", "cart", "set_stock"])
async def test_hold_is_free_when_its_time_is_over_and_stock_is_told(shop: Shop, verb: str) -> None:
    await shop.sell("tee", 3)
    await shop.add(ANN, "tee", 3)
    shop.advance(TERMS.hold_ttl_ms)

    if verb == "level":
        assert await shop.counters("tee") == (3, 0, 0, 0)
    elif verb == "cart":
        line = await shop.line(ANN, "tee")
        assert (line.held, line.available_quantity) == (0, 3)
    else:
        assert (await shop.set_stock("tee", 0)).level.on_hand == 0


async def test_hold_changes_no_version_when_it_lapses(shop: Shop) -> None:
    await shop.sell("tee", 3)
    added = await shop.add(ANN, "tee", 3)
    shop.advance(TERMS.hold_ttl_ms)

    cart = await shop.cart(ANN)

    assert cart.summary == added.summary
    assert cart.updated_at_ms == added.read_at_ms
    assert cart.lines[0].quantity == 3


async def test_hold_takes_the_products_own_time_when_it_has_one(shop: Shop) -> None:
    await shop.sell("tee", 3, hold_ttl_ms=MINUTE_MS)

    result = await shop.add(ANN, "tee")

    assert result.line is not None
    assert result.line.hold_expires_at_ms == shop.now_ms + MINUTE_MS


@pytest.mark.parametrize("mutation", ["add", "set", "remove", "put", "accept", "add to it"])
async def test_hold_is_extended_when_the_cart_is_changed(shop: Shop, mutation: str) -> None:
    for sku in ("a", "b", "c"):
        await shop.sell(sku, 5)
    await shop.add(ANN, "a", 2)
    await shop.add(ANN, "b", 2)
    first = await shop.line(ANN, "a")
    shop.advance(MINUTE_MS)

    if mutation == "add":
        await shop.add(ANN, "c")
    elif mutation == "set":
        await shop.set(ANN, "b", 1)
    elif mutation == "remove":
        await shop.remove(ANN, "b")
    elif mutation == "put":
        await shop.put(ANN, ("b", 3))
    elif mutation == "accept":
        await shop.accept(ANN, ["b"])
    else:
        await shop.add(ANN, "a")

    line = await shop.line(ANN, "a")
    assert line.hold_expires_at_ms == first.hold_expires_at_ms + MINUTE_MS
    assert line.first_held_at_ms == first.first_held_at_ms


async def test_hold_of_remaining_lines_is_extended_when_others_are_checked_out(shop: Shop) -> None:
    await shop.sell("a", 5)
    await shop.sell("b", 5)
    await shop.add(ANN, "a")
    await shop.add(ANN, "b")
    shop.advance(MINUTE_MS)

    await shop.checkout(ANN, line_ids=("b",))

    assert (await shop.line(ANN, "a")).hold_expires_at_ms == shop.now_ms + TERMS.hold_ttl_ms


@pytest.mark.parametrize("call", ["read", "summary", "refused", "clear other", "hold"])
async def test_hold_is_not_extended_when_the_cart_is_not_changed(shop: Shop, call: str) -> None:
    await shop.sell("tee", 5)
    first = await shop.add(ANN, "tee", 2)
    shop.advance(MINUTE_MS)

    if call == "read":
        await shop.cart(ANN)
    elif call == "summary":
        await shop.summary(ANN)
    elif call == "refused":
        with pytest.raises(InsufficientStock):
            await shop.add(ANN, "tee", 9)
    elif call == "clear other":
        await shop.clear(BEN)
    else:
        await shop.hold(ANN, extend=False)

    assert first.line is not None
    assert (await shop.line(ANN, "tee")).hold_expires_at_ms == first.line.hold_expires_at_ms


async def test_short_hold_lapses_when_the_cart_went_on_with_longer_ones(shop: Shop) -> None:
    await shop.sell("short", 1, hold_ttl_ms=MINUTE_MS)
    await shop.sell("long", 5)
    await shop.add(ANN, "short")
    await shop.add(ANN, "long")
    shop.advance(MINUTE_MS)

    await shop.add(ANN, "long")

    assert (await shop.line(ANN, "short")).held == 0
    assert (await shop.add(BEN, "short")).summary.total_items == 1


async def test_cap_counts_from_the_first_hold_when_the_line_itself_is_changed(shop: Shop) -> None:
    await shop.sell("tee", 50)
    capped = terms(hold_ttl_ms=10 * MINUTE_MS, hold_cap_ms=15 * MINUTE_MS)
    await shop.add(ANN, "tee", terms=capped)
    cap_at_ms = shop.now_ms + capped.hold_cap_ms

    for change in (shop.add, shop.set):
        shop.advance(7 * MINUTE_MS)
        await change(ANN, "tee", 3, terms=capped)

    assert (await shop.line(ANN, "tee")).hold_expires_at_ms == cap_at_ms


async def test_hold_is_not_extended_when_its_cap_is_reached(shop: Shop) -> None:
    await shop.sell("a", 5)
    await shop.sell("b", 50)
    capped = terms(hold_ttl_ms=10 * MINUTE_MS, hold_cap_ms=15 * MINUTE_MS)
    await shop.add(ANN, "a", terms=capped)
    cap_at_ms = shop.now_ms + capped.hold_cap_ms

    for _ in range(2):
        shop.advance(7 * MINUTE_MS)
        await shop.add(ANN, "b", terms=capped)
    before = await shop.line(ANN, "a")
    shop.advance(MINUTE_MS)
    after = await shop.line(ANN, "a")

    assert before.hold_expires_at_ms == cap_at_ms
    assert before.held == 1
    assert after.held == 0
    assert (await shop.line(ANN, "b")).held == 2


async def test_hold_ends_at_the_cap_when_that_is_shorter_than_its_time(shop: Shop) -> None:
    await shop.sell("tee", 5)

    result = await shop.add(ANN, "tee", terms=terms(hold_ttl_ms=10 * MINUTE_MS, hold_cap_ms=MINUTE_MS))

    assert result.line is not None
    assert result.line.hold_expires_at_ms == shop.now_ms + MINUTE_MS


async def test_hold_never_moves_backwards_when_terms_are_shorter(shop: Shop) -> None:
    await shop.sell("tee", 5)
    first = await shop.add(ANN, "tee")

    second = await shop.add(ANN, "tee", terms=terms(hold_ttl_ms=SECOND_MS))

    assert first.line is not None
    assert second.line is not None
    assert second.line.hold_expires_at_ms == first.line.hold_expires_at_ms


async def test_hold_starts_anew_when_it_lapsed_before_the_add(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 2)
    shop.advance(TERMS.hold_ttl_ms + TERMS.hold_rest_ms)

    result = await shop.add(ANN, "tee", 1)

    assert result.line is not None
    assert (result.line.quantity, result.line.held) == (3, 3)
    assert result.line.first_held_at_ms == shop.now_ms


async def test_hold_of_another_line_stays_lapsed_when_the_cart_is_changed(shop: Shop) -> None:
    await shop.sell("a", 5)
    await shop.sell("b", 5)
    await shop.add(ANN, "a", 2)
    shop.advance(TERMS.hold_ttl_ms)

    await shop.add(ANN, "b", 1)

    assert (await shop.line(ANN, "a")).held == 0
    assert (await shop.line(ANN, "b")).held == 1


async def test_hold_is_refused_to_a_lapsed_line_when_the_stock_is_gone(shop: Shop) -> None:
    await shop.sell("tee", 3)
    await shop.add(ANN, "tee", 2)
    shop.advance(TERMS.hold_ttl_ms)
    await shop.add(BEN, "tee", 2)

    with pytest.raises(InsufficientStock) as caught:
        await shop.add(ANN, "tee", 1)

    assert (caught.value.available_quantity, caught.value.requested_quantity) == (1, 3)
    assert await shop.quantities(ANN) == {"tee": 2}


@pytest.mark.parametrize(
    ("available", "fitting"), [(11, 9), (9, 9), (8, 6), (6, 6), (5, 0), (3, 0), (2, 0), (0, 0)]
)
async def test_refusal_tells_the_most_that_the_rules_allow_when_stock_is_short(
    shop: Shop, available: int, fitting: int
) -> None:
    await shop.sell("tee", available, multiple_of=3, min_quantity=5)

    with pytest.raises(InsufficientStock) as caught:
        await shop.add(ANN, "tee", 12)

    assert (caught.value.available_quantity, caught.value.fitting_quantity) == (available, fitting)


async def test_refusal_counts_what_the_line_has_when_it_tells_the_most(shop: Shop) -> None:
    await shop.sell("tee", 11, multiple_of=3)
    await shop.add(BEN, "tee", 3)
    await shop.add(ANN, "tee", 3)

    with pytest.raises(InsufficientStock) as caught:
        await shop.set(ANN, "tee", 9)

    assert (caught.value.available_quantity, caught.value.fitting_quantity) == (8, 6)


async def test_hold_is_due_when_the_clock_stepped_far_back(shop: Shop) -> None:
    await shop.sell("tee", 1)
    await shop.add(ANN, "tee")
    shop.advance(-(LIFETIME_MS + MINUTE_MS))

    result = await shop.add(BEN, "tee")

    assert result.line is not None
    assert result.line.held == 1
    assert (await shop.line(ANN, "tee")).held == 0


@pytest.mark.parametrize("verb", ["set", "put", "checkout", "hold"])
async def test_hold_leaves_its_owner_room_when_the_clock_stepped_far_back(shop: Shop, verb: str) -> None:
    few = terms(held_max=2)
    await shop.sell("tee", 2)
    await shop.sell("mug", 1)
    await shop.add(ANN, "mug", terms=terms(reservations=False))
    await shop.add(ANN, "tee", 2, terms=few)
    shop.advance(-(LIFETIME_MS + MINUTE_MS))

    if verb == "set":
        await shop.set(ANN, "mug", 1, terms=few)
    elif verb == "put":
        await shop.put(ANN, ("mug", 1), terms=few)
    elif verb == "hold":
        await shop.hold(ANN, ("mug",), terms=few)
    else:
        await shop.checkout(ANN, line_ids=("mug",), terms=few)

    assert (await shop.level("mug")).held == 1


async def test_hold_lasts_when_the_clock_stepped_back_a_little(shop: Shop) -> None:
    await shop.sell("tee", 2)
    first = await shop.add(ANN, "tee")
    shop.advance(-MINUTE_MS)

    again = await shop.add(ANN, "tee")

    assert first.line is not None
    assert again.line is not None
    assert again.line.held == 2
    assert again.line.hold_expires_at_ms == first.line.hold_expires_at_ms


async def test_extended_hold_lasts_when_the_clock_stepped_back_a_little(shop: Shop) -> None:
    """The hold ends long after the place that it has in its SKU's index, which is over."""
    await shop.sell("tee", 1)
    await shop.sell("mug", 3)
    await shop.add(ANN, "tee")
    shop.advance(TERMS.hold_ttl_ms - MINUTE_MS)
    await shop.add(ANN, "mug")
    shop.advance(MINUTE_MS + 5)
    await shop.add(ANN, "mug")
    shop.advance(-1)

    with pytest.raises(InsufficientStock):
        await shop.add(BEN, "tee")

    shop.advance(TERMS.hold_ttl_ms)
    assert (await shop.line(ANN, "tee")).held == 1
    shop.advance(1)
    await shop.add(BEN, "tee")


async def test_hold_is_due_exactly_when_it_is_further_away_than_the_longest_lifetime(shop: Shop) -> None:
    await shop.sell("tee", 1)
    first = await shop.add(ANN, "tee")
    assert first.line is not None
    shop.advance(first.line.hold_expires_at_ms - LIFETIME_MS - shop.now_ms)

    at_the_bound = await shop.counters("tee")
    shop.advance(-1)
    beyond_it = await shop.counters("tee")

    assert at_the_bound == (1, 1, 0, 0)
    assert beyond_it == (1, 0, 0, 0)


async def test_hold_lasts_when_the_settings_allow_longer_ones_than_the_gate_was_opened_with(
    shop: Shop,
) -> None:
    await shop.sell("tee", 1)
    longer = terms(hold_ttl_ms=2 * LIFETIME_MS, hold_cap_ms=3 * LIFETIME_MS)
    await shop.add(ANN, "tee", terms=longer)

    with pytest.raises(InsufficientStock):
        await shop.add(BEN, "tee")

    shop.advance(2 * LIFETIME_MS - 1)
    assert (await shop.line(ANN, "tee")).held == 1
    shop.advance(1)
    await shop.add(BEN, "tee")


async def test_hold_lines_holds_again_when_holds_lapsed(shop: Shop) -> None:
    await shop.sell("a", 5)
    await shop.sell("b", 5)
    await shop.add(ANN, "a", 2)
    added = await shop.add(ANN, "b", 3)
    shop.advance(TERMS.hold_ttl_ms + TERMS.hold_rest_ms)

    cart = await shop.hold(ANN)

    assert [(line.line_id, line.held) for line in cart.lines] == [("a", 2), ("b", 3)]
    assert {line.first_held_at_ms for line in cart.lines} == {shop.now_ms}
    assert {line.hold_expires_at_ms for line in cart.lines} == {shop.now_ms + TERMS.hold_ttl_ms}
    assert cart.summary == added.summary
    assert cart == await shop.cart(ANN)


async def test_hold_lines_holds_only_the_named_when_lines_are_named(shop: Shop) -> None:
    await shop.sell("a", 5)
    await shop.sell("b", 5)
    await shop.add(ANN, "a")
    await shop.add(ANN, "b")
    shop.advance(TERMS.hold_ttl_ms)

    cart = await shop.hold(ANN, ["b"])

    assert [(line.line_id, line.held) for line in cart.lines] == [("a", 0), ("b", 1)]


async def test_hold_lines_leaves_a_line_unheld_when_the_stock_is_short(shop: Shop) -> None:
    await shop.sell("a", 3)
    await shop.sell("b", 3)
    await shop.add(ANN, "a", 3)
    await shop.add(ANN, "b", 3)
    shop.advance(TERMS.hold_ttl_ms)
    await shop.add(BEN, "a", 1)

    cart = await shop.hold(ANN)

    assert [(line.line_id, line.held, line.available_quantity) for line in cart.lines] == [
        ("a", 0, 2),
        ("b", 3, 3),
    ]


async def test_hold_lines_leaves_a_line_unheld_when_a_limit_is_reached(shop: Shop) -> None:
    await shop.sell("tee", 10)
    await shop.sell("pull", 10)
    await shop.add(GUS, "tee", 4)
    await shop.add(GUS, "pull", 4)
    shop.advance(TERMS.hold_ttl_ms)

    shared = await shop.hold(GUS, ["tee"], terms=terms(guest_share_ppm=300_000))
    few = await shop.hold(GUS, terms=terms(held_max=7))

    assert [line.held for line in shared.lines] == [0, 0]
    assert [line.held for line in few.lines] == [4, 0]


@pytest.mark.parametrize(
    "fields",
    [{"is_active": False}, {"policy": "untracked"}, {"policy": "backorder"}, {"hold_policy": "on_checkout"}],
)
async def test_hold_lines_holds_nothing_when_the_product_is_not_held(
    shop: Shop, fields: dict[str, object]
) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 2)
    shop.advance(TERMS.hold_ttl_ms)
    await shop.publish("tee", **fields)

    cart = await shop.hold(ANN, extend=True)

    assert [line.held for line in cart.lines] == [0]


async def test_hold_lines_holds_nothing_when_reservations_are_off(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 2)
    shop.advance(TERMS.hold_ttl_ms)

    cart = await shop.hold(ANN, terms=terms(reservations=False))

    assert [line.held for line in cart.lines] == [0]


async def test_hold_lines_moves_the_expiry_when_it_extends(shop: Shop) -> None:
    await shop.sell("a", 5)
    await shop.sell("b", 5)
    added = await shop.add(ANN, "a")
    await shop.add(ANN, "b")
    shop.advance(MINUTE_MS)

    cart = await shop.hold(ANN, ["a"], extend=True)

    a, b = cart.lines
    assert added.line is not None
    assert a.hold_expires_at_ms == shop.now_ms + TERMS.hold_ttl_ms
    assert a.first_held_at_ms == added.line.first_held_at_ms
    assert b.hold_expires_at_ms == added.line.hold_expires_at_ms


async def test_hold_lines_gives_a_new_version_when_it_extends(shop: Shop) -> None:
    await shop.sell("tee", 5)
    added = await shop.add(ANN, "tee", 2)
    shop.advance(MINUTE_MS)

    result = await shop.hold_lines(ANN, extend=True)

    assert result.summary.version > added.summary.version
    assert (result.summary.total_items, result.summary.subtotal_minor) == (2, added.summary.subtotal_minor)
    assert result.cart.summary == result.summary
    assert result.cart.updated_at_ms == shop.now_ms


@pytest.mark.parametrize("extend", [True, False])
async def test_hold_lines_refuses_when_the_version_is_another(shop: Shop, extend: bool) -> None:
    await shop.sell("tee", 5)
    added = await shop.add(ANN, "tee")
    shop.advance(TERMS.hold_ttl_ms)

    with pytest.raises(VersionConflict):
        await shop.hold_lines(ANN, extend=extend, if_match=added.summary.version + 1)
    untouched = await shop.cart(ANN)
    held = await shop.hold_lines(ANN, extend=extend, if_match=added.summary.version)

    assert untouched.lines[0].held == 0
    assert held.cart.lines[0].held == 1


async def test_hold_lines_compares_the_version_when_no_line_is_named(shop: Shop) -> None:
    await shop.sell("tee", 2)
    version = (await shop.add(ANN, "tee")).summary.version

    with pytest.raises(VersionConflict):
        await shop.hold_lines(ANN, (), if_match=version + 1)

    assert (await shop.hold_lines(ANN, (), if_match=version)).summary.version == version


async def test_hold_lines_stops_at_the_cap_when_it_extends(shop: Shop) -> None:
    await shop.sell("tee", 5)
    capped = terms(hold_cap_ms=12 * MINUTE_MS)
    added = await shop.add(ANN, "tee", terms=capped)
    shop.advance(9 * MINUTE_MS)

    cart = await shop.hold(ANN, terms=capped, extend=True)

    assert added.line is not None
    assert cart.lines[0].hold_expires_at_ms == added.line.first_held_at_ms + capped.hold_cap_ms


async def test_hold_lines_refuses_when_a_named_line_is_missing(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee")

    with pytest.raises(ItemNotFound):
        await shop.hold(ANN, ["tee", "pull"])
    with pytest.raises(ItemNotFound):
        await shop.hold(BEN, ["tee"])


async def test_hold_lines_gives_an_empty_cart_when_there_is_none(shop: Shop) -> None:
    cart = await shop.hold(ANN)

    assert (cart.summary.version, cart.lines) == (0, ())


async def test_hold_lines_holds_the_missing_units_when_a_line_is_partly_held(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 2)
    payment_id = (await shop.checkout(ANN)).payment.payment_id
    added = await shop.add(ANN, "tee", 1)
    await shop.cancel(payment_id)
    partly = await shop.line(ANN, "tee")

    cart = await shop.hold(ANN)

    assert added.line is not None
    assert (partly.quantity, partly.held) == (3, 1)
    assert (cart.lines[0].held, cart.lines[0].first_held_at_ms) == (3, added.line.first_held_at_ms)


async def test_release_due_holds_frees_them_when_nobody_asks(shop: Shop) -> None:
    for sku in ("a", "b"):
        await shop.sell(sku, 5)
        await shop.add(ANN, sku, 2)
        await shop.add(BEN, sku, 1)
    shop.advance(TERMS.hold_ttl_ms)

    released = await shop.engine.release_due_holds(100)
    again = await shop.engine.release_due_holds(100)

    assert (released, again) == (4, 0)
    assert await shop.counters("a") == (5, 0, 0, 0)
    assert [line.held for line in (await shop.cart(ANN)).lines] == [0, 0]


async def test_release_due_holds_frees_nothing_when_nothing_is_due(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee")
    shop.advance(TERMS.hold_ttl_ms - 1)

    assert await shop.engine.release_due_holds(100) == 0
    assert (await shop.level("tee")).held == 1


async def test_release_due_holds_ends_when_it_is_called_in_small_steps(shop: Shop) -> None:
    await shop.sell("a", 9)
    await shop.sell("b", 9)
    for number in range(3):
        await shop.add(f"u.{number}", "a")
        await shop.add(f"u.{number}", "b")
    shop.advance(TERMS.hold_ttl_ms)

    steps = []
    while step := await shop.engine.release_due_holds(1):
        steps.append(step)
        assert len(steps) <= 6

    assert sum(steps) == 6
    assert [(await shop.level(sku)).held for sku in ("a", "b")] == [0, 0]


async def test_hold_of_many_carts_is_free_at_once_when_all_lapsed(shop: Shop) -> None:
    await shop.sell("tee", 250)
    for number in range(250):
        await shop.add(f"u.{number}", "tee")
    shop.advance(TERMS.hold_ttl_ms)

    result = await shop.add(ANN, "tee", 99)

    assert result.line is not None
    assert result.line.available_quantity == 250
    assert (await shop.level("tee")).held == 99


@pytest.fixture
def hurry(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls go on with what is free after the first step, as when thousands of holds fall due at once."""
    monkeypatch.setattr(limits, "EXACT_ROUNDS", 1)
    monkeypatch.setattr(limits, "RELEASE_STEPS", 1)
    monkeypatch.setattr(limits, "RELEASES_PER_STEP", 2)
    monkeypatch.setattr(shop.engine, "_releases_per_call", 2, raising=False)


async def _let_a_crowd_lapse(shop: Shop, *carts: str) -> None:
    await shop.sell("tee", 12)
    for cart_id in carts or [f"u.{number}" for number in range(12)]:
        await shop.add(cart_id, "tee", 12 // (len(carts) or 12))
    shop.advance(TERMS.hold_ttl_ms + TERMS.hold_rest_ms)


@pytest.mark.usefixtures("hurry")
async def test_add_does_not_wait_for_the_whole_crowd_when_enough_is_free(shop: Shop) -> None:
    await _let_a_crowd_lapse(shop)

    result = await shop.add(ANN, "tee", 2)

    assert result.line is not None
    assert (result.line.held, result.line.hold_expires_at_ms) == (2, shop.now_ms + TERMS.hold_ttl_ms)
    assert 2 <= (result.line.available_quantity or 0) <= 12
    assert (await shop.line(ANN, "tee")).available_quantity in range(2, 13)
    assert await shop.engine.release_due_holds(100) in range(13)
    assert (await shop.line(ANN, "tee")).available_quantity == 12


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("verb", ["add", "set", "put", "checkout"])
async def test_nothing_is_refused_when_the_crowd_would_do(shop: Shop, verb: str) -> None:
    await _let_a_crowd_lapse(shop)
    await shop.add(ANN, "tee", 1)
    if verb == "add":
        await shop.add(ANN, "tee", 11)
    elif verb == "set":
        await shop.set(ANN, "tee", 12)
    elif verb == "put":
        await shop.put(ANN, ("tee", 12))
    else:
        await shop.set(ANN, "tee", 12, terms=terms(reservations=False))
        await shop.checkout(ANN)

    with pytest.raises(InsufficientStock):
        await shop.add(BEN, "tee")
    assert (await shop.level("tee")).held == 12


@pytest.mark.usefixtures("hurry")
async def test_own_hold_starts_anew_when_it_lapsed_with_the_crowd(shop: Shop) -> None:
    await _let_a_crowd_lapse(shop, *(f"u.{number}" for number in range(5)), ANN)

    result = await shop.add(ANN, "tee")

    assert result.line is not None
    assert (result.line.held, result.line.first_held_at_ms) == (3, shop.now_ms)
    await shop.engine.release_due_holds(100)
    assert (await shop.level("tee")).held == 3


async def test_buyers_share_the_release_when_they_want_it_at_the_same_time(shop: Shop) -> None:
    await _let_a_crowd_lapse(shop)

    results = await asyncio.gather(*(shop.add(f"u.next{number}", "tee") for number in range(12)))

    assert all(result.line is not None and result.line.held == 1 for result in results)
    with pytest.raises(InsufficientStock):
        await shop.add(BEN, "tee")


@pytest.mark.usefixtures("hurry")
async def test_hold_lines_holds_again_when_a_crowd_lapsed_before_it(shop: Shop) -> None:
    await shop.sell("tee", 125)
    for number in range(120):
        await shop.add(f"u.{number}", "tee")
    await shop.add(ANN, "tee", 2)
    shop.advance(TERMS.hold_ttl_ms + TERMS.hold_rest_ms)

    cart = await shop.hold(ANN)

    assert [(line.held, line.first_held_at_ms) for line in cart.lines] == [(2, shop.now_ms)]


@pytest.mark.usefixtures("hurry")
async def test_guest_is_told_what_he_can_have_when_guests_lapsed_behind_a_crowd(shop: Shop) -> None:
    half = terms(guest_share_ppm=500_000)
    await shop.sell("tee", 24)
    await shop.add(GUS, "tee", terms=terms(reservations=False))
    for number in range(5):
        await shop.add(f"u.{number}", "tee")
    shop.advance(SECOND_MS)
    for number in range(12):
        await shop.add(f"g.{number}", "tee", terms=half)
    shop.advance(TERMS.hold_ttl_ms)

    cart = await shop.engine.read_cart(GUS, terms=half)

    assert cart.lines[0].available_quantity != 0
