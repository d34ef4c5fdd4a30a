"""Sale prices with dates: the engine decides by its own clock which price holds."""

from __future__ import annotations

import pytest

from cartstore.errors import PriceChanged

from .shop import ANN, MINUTE_MS, Shop


async def sell_with_sale(shop: Shop, begins_in_ms: int | None = 0, ends_in_ms: int | None = None) -> None:
    """`tee`, 10.00, on sale for 8.00 between two times from now."""
    await shop.sell(
        "tee",
        9,
        price_minor=1_000,
        sale_price_minor=800,
        sale_from_ms=0 if begins_in_ms is None else shop.now_ms + begins_in_ms,
        sale_to_ms=0 if ends_in_ms is None else shop.now_ms + ends_in_ms,
    )


async def prices(shop: Shop) -> tuple[int, int]:
    """(seen, current) of the line."""
    line = await shop.line(ANN, "tee")
    return line.unit_price_minor, line.current_price_minor


async def test_add_takes_the_sale_price_from_its_first_to_before_its_last_moment(shop: Shop) -> None:
    await sell_with_sale(shop, MINUTE_MS, 2 * MINUTE_MS)
    seen: list[tuple[int, int]] = []

    for elapsed_ms in (0, MINUTE_MS - 1, 1, MINUTE_MS - 1, 1):
        shop.advance(elapsed_ms)
        added = await shop.add(ANN, "tee")
        assert added.line is not None
        seen.append((added.line.unit_price_minor, added.line.current_price_minor))
        assert await prices(shop) == seen[-1]

    assert [price for price, _ in seen] == [1_000, 1_000, 800, 800, 1_000]
    assert (await shop.summary(ANN)).subtotal_minor == 5 * 1_000


@pytest.mark.parametrize(
    ("begins_in_ms", "ends_in_ms", "price_minor"),
    [(None, MINUTE_MS, 800), (None, 0, 1_000), (0, None, 800), (1, None, 1_000)],
)
async def test_sale_is_open_on_a_side_without_a_time(
    shop: Shop, begins_in_ms: int | None, ends_in_ms: int | None, price_minor: int
) -> None:
    await sell_with_sale(shop, begins_in_ms, ends_in_ms)

    await shop.put(ANN, ("tee", 1))

    assert await prices(shop) == (price_minor, price_minor)


async def test_sale_that_ends_is_a_price_that_rose(shop: Shop) -> None:
    await sell_with_sale(shop, None, MINUTE_MS)
    await shop.add(ANN, "tee", 2)
    shop.advance(MINUTE_MS)

    assert await prices(shop) == (800, 1_000)
    with pytest.raises(PriceChanged) as caught:
        await shop.checkout(ANN)
    await shop.accept(ANN)
    checkout = await shop.checkout(ANN)

    (shortfall,) = caught.value.shortfalls or []
    assert (shortfall["old_price_minor"], shortfall["new_price_minor"]) == (800, 1_000)
    assert checkout.payment.amount_minor == 2_000


async def test_sale_that_begins_is_taken_in_the_buyers_favour(shop: Shop) -> None:
    await sell_with_sale(shop, MINUTE_MS)
    await shop.add(ANN, "tee", 2)
    shop.advance(MINUTE_MS)

    assert await prices(shop) == (1_000, 800)
    assert (await shop.checkout(ANN)).payment.amount_minor == 1_600


async def test_sale_is_as_the_last_revision_has_it(shop: Shop) -> None:
    await sell_with_sale(shop)
    await shop.add(ANN, "tee")

    await shop.publish("tee", sale_price_minor=700)
    await shop.add(ANN, "tee")
    assert await prices(shop) == (700, 700)
    await shop.publish("tee", sale_price_minor=None, sale_from_ms=0)
    await shop.add(ANN, "tee")

    assert await prices(shop) == (1_000, 1_000)
