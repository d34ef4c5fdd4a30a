"""A disk that is nearly full: what takes units or room is refused, what gives back goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from cartstore.errors import StoreFull

from .shop import ANN, BEN, WINDOW_MS, Shop

TAKING: dict[str, Callable[[Shop], Awaitable[object]]] = {
    "add": lambda shop: shop.add(BEN, "a", 1),
    "add again": lambda shop: shop.add(ANN, "a", 1),
    "raise": lambda shop: shop.set(ANN, "a", 3),
    "put": lambda shop: shop.put(ANN, ("b", 1)),
    "accept": lambda shop: shop.accept(ANN),
    "extend": lambda shop: shop.hold(ANN),
    "check out": lambda shop: shop.checkout(ANN),
}


@pytest.mark.parametrize("verb", TAKING)
async def test_what_takes_is_refused_and_changes_nothing_when_the_disk_is_low(shop: Shop, verb: str) -> None:
    await shop.sell("a", 5)
    await shop.sell("b", 5)
    await shop.add(ANN, "a", 2)
    before = await shop.cart(ANN), await shop.event_types()
    await shop.mark_disk("low")

    with pytest.raises(StoreFull):
        await TAKING[verb](shop)

    assert (await shop.cart(ANN), await shop.event_types()) == before
    assert await shop.counters("a") == (5, 2, 0, 0)
    await shop.mark_disk("open")
    await TAKING[verb](shop)


async def test_what_gives_back_goes_on_when_the_disk_is_low(shop: Shop) -> None:
    await shop.sell("a", 9)
    paid = await shop.buy(ANN, "a", 1, key="paid")
    late = (await _begin(shop, "late")).payment.payment_id
    cancelled = (await _begin(shop, "cancelled")).payment.payment_id
    await shop.add(ANN, "a", 3)
    await shop.mark_disk("low")

    assert (await shop.settle(paid)).changed
    assert (await shop.cancel(cancelled)).changed
    await shop.set(ANN, "a", 1)
    await shop.remove(ANN, "a")
    await shop.clear(ANN)
    shop.advance(WINDOW_MS)
    assert await shop.engine.release_due_payments(10) == 1
    assert (await shop.settle(late)).payment.status == "paid"

    assert await shop.counters("a") == (7, 0, 2, 0)


async def test_first_results_are_given_again_when_the_disk_is_low(shop: Shop) -> None:
    await shop.sell("a", 5)
    added = await shop.add(BEN, "a", 1, key="add")
    begun = await _begin(shop, "k")
    await shop.mark_disk("low")

    again = await shop.add(BEN, "a", 1, key="add")
    replayed = await shop.checkout(ANN, key="k")

    assert (again.replayed, again.summary) == (True, added.summary)
    assert (replayed.replayed, replayed.payment) == (True, begun.payment)


async def _begin(shop: Shop, key: str) -> object:
    await shop.add(ANN, "a", 1)
    return await shop.checkout(ANN, key=key)
