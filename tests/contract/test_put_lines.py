"""put_lines: everything or nothing, or each entry on its own."""

from __future__ import annotations

import pytest

from cartstore.errors import (
    CheckoutRefused,
    CurrencyMismatch,
    InsufficientStock,
    InvalidQuantity,
    ItemNotFound,
    LimitExceeded,
    ProductInactive,
    ProductNotFound,
    VersionConflict,
)
from cartstore.model import PutItem, PutItemByLine, line_id_of

from .shop import ANN, BEN, MINUTE_MS, TERMS, Shop, terms


async def test_put_lines_sets_every_line_when_all_can_be_done(shop: Shop) -> None:
    for sku in ("a", "b", "c", "d"):
        await shop.sell(sku, 5)
    await shop.add(ANN, "a", 4)
    await shop.add(ANN, "b", 1)
    before = await shop.add(ANN, "d", 1)

    result = await shop.put(ANN, ("c", 2), ("a", 1), PutItemByLine(line_id="b", quantity=0))

    assert [outcome.code for outcome in result.outcomes] == ["OK", "OK", "OK"]
    assert [outcome.line_id for outcome in result.outcomes] == ["c", "a", "b"]
    assert [outcome.requested_quantity for outcome in result.outcomes] == [2, 1, 0]
    assert result.summary.version > before.summary.version
    assert await shop.quantities(ANN) == {"a": 1, "d": 1, "c": 2}
    assert [(await shop.level(sku)).held for sku in ("a", "b", "c", "d")] == [1, 0, 2, 1]


async def test_put_lines_makes_one_version_when_it_sets_several(shop: Shop) -> None:
    await shop.sell("a", 5)
    await shop.sell("b", 5)
    first = await shop.add(BEN, "a")

    result = await shop.put(ANN, ("a", 1), ("b", 1))
    after = await shop.add(BEN, "b")

    assert after.summary.version - first.summary.version == 2
    assert (await shop.summary(ANN)) == result.summary


async def test_put_lines_changes_nothing_when_one_cannot_be_done(shop: Shop) -> None:
    await shop.sell("a", 5)
    await shop.sell("b", 1)
    await shop.add(ANN, "a", 1)
    before = await shop.cart(ANN)

    with pytest.raises(InsufficientStock) as caught:
        await shop.put(ANN, ("a", 3), ("b", 2))

    assert caught.value.shortfalls == [
        {
            "line_id": "b",
            "sku": "b",
            "code": "INSUFFICIENT_STOCK",
            "requested_quantity": 2,
            "available_quantity": 1,
        }
    ]
    assert await shop.cart(ANN) == before
    assert (await shop.level("a")).held == 1


async def test_put_lines_names_every_shortfall_when_several_are_short(shop: Shop) -> None:
    for sku in ("a", "b", "c"):
        await shop.sell(sku, 2)

    with pytest.raises(InsufficientStock) as caught:
        await shop.put(ANN, ("a", 3), ("b", 1), ("c", 4))

    shortfalls = caught.value.shortfalls or []
    assert [(one["line_id"], one["requested_quantity"], one["available_quantity"]) for one in shortfalls] == [
        ("a", 3, 2),
        ("c", 4, 2),
    ]
    assert (await shop.cart(ANN)).summary.version == 0


async def test_put_lines_names_every_problem_when_they_differ(shop: Shop) -> None:
    await shop.sell("short", 1)
    await shop.sell("gone", 5, is_active=False)
    await shop.sell("dozen", 50, multiple_of=12)
    await shop.sell("foreign", 5, currency="EUR")
    await shop.sell("fine", 5)
    await shop.add(ANN, "fine")

    with pytest.raises(CheckoutRefused) as caught:
        await shop.put(
            ANN,
            ("short", 2),
            ("gone", 1),
            ("dozen", 13),
            ("foreign", 1),
            ("unknown", 1),
            PutItemByLine(line_id="absent", quantity=1),
            ("fine", 120),
            ("fine2", 0),
        )

    assert [(one["line_id"], one["code"]) for one in caught.value.shortfalls or []] == [
        ("short", "INSUFFICIENT_STOCK"),
        ("gone", "PRODUCT_INACTIVE"),
        ("dozen", "INVALID_QUANTITY"),
        ("foreign", "CURRENCY_MISMATCH"),
        ("unknown", "PRODUCT_NOT_FOUND"),
        ("absent", "ITEM_NOT_FOUND"),
        ("fine", "LIMIT_EXCEEDED"),
    ]
    assert await shop.quantities(ANN) == {"fine": 1}


@pytest.mark.parametrize(
    ("fields", "quantity", "refusal"),
    [
        ({"is_active": False}, 1, ProductInactive),
        ({"multiple_of": 2}, 1, InvalidQuantity),
        ({"currency": "EUR"}, 1, CurrencyMismatch),
        ({}, 100, LimitExceeded),
        ({}, 6, InsufficientStock),
    ],
)
async def test_put_lines_raises_the_errors_own_class_when_all_problems_agree(
    shop: Shop, fields: dict[str, object], quantity: int, refusal: type[Exception]
) -> None:
    await shop.sell("here", 5)
    await shop.add(ANN, "here")
    await shop.sell("a", 5, **fields)
    await shop.sell("b", 5, **fields)

    with pytest.raises(refusal) as caught:
        await shop.put(ANN, ("a", quantity), ("b", quantity))

    assert [one["line_id"] for one in getattr(caught.value, "shortfalls", [])] == ["a", "b"]


async def test_put_lines_refuses_when_a_named_line_is_missing(shop: Shop) -> None:
    await shop.sell("tee", 5)

    with pytest.raises(ItemNotFound):
        await shop.put(ANN, PutItemByLine(line_id="tee", quantity=0))
    with pytest.raises(ProductNotFound):
        await shop.put(ANN, ("unknown", 1))


async def test_put_lines_does_each_on_its_own_when_partial(shop: Shop) -> None:
    await shop.sell("a", 5)
    await shop.sell("b", 1)
    await shop.sell("c", 5, is_active=False)

    result = await shop.put(ANN, ("a", 3), ("b", 2), ("c", 1), ("unknown", 1), mode="partial")

    assert [(outcome.line_id, outcome.code) for outcome in result.outcomes] == [
        ("a", "OK"),
        ("b", "INSUFFICIENT_STOCK"),
        ("c", "PRODUCT_INACTIVE"),
        ("unknown", "PRODUCT_NOT_FOUND"),
    ]
    assert result.outcomes[1].available_quantity == 1
    assert result.summary.total_items == 3
    assert await shop.quantities(ANN) == {"a": 3}


async def test_put_lines_makes_no_version_when_partial_did_nothing(shop: Shop) -> None:
    await shop.sell("a", 5)
    await shop.sell("b", 1)
    before = await shop.add(ANN, "a")

    result = await shop.put(ANN, ("b", 2), mode="partial", key="k")
    absent = await shop.put(BEN, ("b", 2), mode="partial")
    again = await shop.put(ANN, ("b", 1), mode="partial", key="k", fingerprint="other")

    assert result.summary == before.summary
    assert absent.summary.version == 0
    assert [outcome.code for outcome in again.outcomes] == ["OK"]


@pytest.mark.parametrize("mode", ["all", "partial"])
async def test_put_lines_makes_no_version_when_0_finds_no_line(shop: Shop, mode: str) -> None:
    await shop.sell("a", 5)
    await shop.sell("b", 5)
    before = await shop.add(ANN, "a")

    result = await shop.put(ANN, ("b", 0), ("unknown", 0), mode="all" if mode == "all" else "partial")

    assert [outcome.code for outcome in result.outcomes] == ["OK", "OK"]
    assert result.summary == before.summary


async def test_put_lines_shares_what_is_free_when_two_lines_have_one_sku(shop: Shop) -> None:
    await shop.sell("mug", 5)
    plain = PutItem(sku="mug", quantity=3)
    engraved = PutItem(sku="mug", quantity=3, properties_json='{"text":"Ann"}')

    with pytest.raises(InsufficientStock) as caught:
        await shop.put(ANN, plain, engraved)
    result = await shop.put(ANN, plain, engraved, mode="partial")

    assert [(one["line_id"], one["available_quantity"]) for one in caught.value.shortfalls or []] == [
        (line_id_of("mug", '{"text":"Ann"}'), 2)
    ]
    assert [outcome.code for outcome in result.outcomes] == ["OK", "INSUFFICIENT_STOCK"]
    assert (await shop.level("mug")).held == 3


@pytest.mark.parametrize("mode", ["all", "partial"])
async def test_put_lines_uses_what_earlier_entries_freed_when_in_order(shop: Shop, mode: str) -> None:
    await shop.sell("mug", 5)
    await shop.add(ANN, "mug", 5)
    engraved = PutItem(sku="mug", quantity=3, properties_json='{"text":"Ann"}')

    await shop.put(ANN, ("mug", 2), engraved, mode="all" if mode == "all" else "partial")

    assert await shop.quantities(ANN) == {"mug": 2, engraved.line_id: 3}
    assert (await shop.level("mug")).held == 5


@pytest.mark.parametrize("limit", [{"lines_max": 2}, {"items_max": 4}, {"held_max": 4}])
async def test_put_lines_counts_earlier_entries_when_a_limit_is_near(
    shop: Shop, limit: dict[str, int]
) -> None:
    for sku in ("a", "b", "c"):
        await shop.sell(sku, 5)

    with pytest.raises(LimitExceeded) as caught:
        await shop.put(ANN, ("a", 2), ("b", 2), ("c", 2), terms=terms(**limit))
    result = await shop.put(ANN, ("a", 2), ("b", 2), ("c", 2), mode="partial", terms=terms(**limit))

    assert [one["line_id"] for one in caught.value.shortfalls or []] == ["c"]
    assert [outcome.code for outcome in result.outcomes] == ["OK", "OK", "LIMIT_EXCEEDED"]
    assert await shop.quantities(ANN) == {"a": 2, "b": 2}


async def test_put_lines_keeps_the_seen_price_when_the_line_is_there(shop: Shop) -> None:
    await shop.sell("a", 5, price_minor=1_000)
    await shop.sell("b", 5)
    await shop.add(ANN, "a", 1)
    await shop.publish("a", price_minor=2_000)
    fields = await shop.publish("b", price_minor=300)

    await shop.put(ANN, ("a", 2), ("b", 1))

    a, b = await shop.line(ANN, "a"), await shop.line(ANN, "b")
    assert (a.unit_price_minor, a.current_price_minor) == (1_000, 2_000)
    assert (b.unit_price_minor, b.revision) == (300, fields.revision)


async def test_put_lines_keeps_properties_when_the_line_is_named(shop: Shop) -> None:
    await shop.sell("mug", 5)
    engraved = '{"text":"Ann"}'
    line_id = line_id_of("mug", engraved)
    await shop.add(ANN, "mug", 1, properties=engraved)

    result = await shop.put(ANN, PutItemByLine(line_id=line_id, quantity=3))

    assert result.outcomes[0].sku == "mug"
    line = await shop.line(ANN, line_id)
    assert (line.quantity, line.held, line.properties_json) == (3, 3, engraved)


async def test_put_lines_only_lowers_when_the_product_is_inactive(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(ANN, "tee", 3)
    await shop.publish("tee", is_active=False)

    with pytest.raises(ProductInactive):
        await shop.put(ANN, ("tee", 3))
    await shop.put(ANN, ("tee", 1))

    assert await shop.quantities(ANN) == {"tee": 1}


async def test_put_lines_extends_all_holds_when_it_writes(shop: Shop) -> None:
    await shop.sell("a", 5)
    await shop.sell("b", 5)
    await shop.add(ANN, "a")
    shop.advance(MINUTE_MS)

    await shop.put(ANN, ("b", 1))

    assert (await shop.line(ANN, "a")).hold_expires_at_ms == shop.now_ms + TERMS.hold_ttl_ms


async def test_put_lines_extends_no_hold_when_it_writes_nothing(shop: Shop) -> None:
    await shop.sell("a", 5)
    await shop.sell("b", 1)
    await shop.add(ANN, "a")
    before = (await shop.line(ANN, "a")).hold_expires_at_ms
    shop.advance(MINUTE_MS)

    await shop.put(ANN, ("b", 2), mode="partial")
    with pytest.raises(InsufficientStock):
        await shop.put(ANN, ("a", 2), ("b", 2))

    assert (await shop.line(ANN, "a")).hold_expires_at_ms == before


async def test_put_lines_refuses_when_if_match_names_another_version(shop: Shop) -> None:
    await shop.sell("tee", 5)
    version = (await shop.add(ANN, "tee")).summary.version

    with pytest.raises(VersionConflict) as caught:
        await shop.put(ANN, ("tee", 2), if_match=version - 1)
    await shop.put(ANN, ("tee", 2), if_match=version)

    assert caught.value.version == version


async def test_put_lines_uses_lapsed_holds_of_others_when_it_needs_them(shop: Shop) -> None:
    await shop.sell("tee", 5)
    await shop.add(BEN, "tee", 5)
    shop.advance(TERMS.hold_ttl_ms)

    await shop.put(ANN, ("tee", 5))

    assert (await shop.line(ANN, "tee")).held == 5
    assert (await shop.line(BEN, "tee")).held == 0
