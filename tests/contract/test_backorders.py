"""Paid backorders are served first: units that become free, in whatever way, lower `backordered` in that
step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cartstore.model import PutItem

from .shop import ANN, BEN, TERMS, WINDOW_MS, Shop

ENGRAVED = '{"text":"Ann"}'

DELIVERED = 5
"""Units of the SKU that ever came in: what on_hand + sold - backordered has to be."""


async def _owe_two(shop: Shop) -> None:
    """Of five units Ben holds four, and Ann has paid for three: two of hers are not there."""
    await shop.sell("tee", DELIVERED)
    await shop.add(BEN, "tee", 4)
    await shop.publish("tee", policy="backorder")
    await shop.settle(await shop.buy(ANN, "tee", 3))
    await shop.publish("tee", policy="deny")
    assert await shop.counters("tee") == (4, 4, 3, 2)


async def _filled(shop: Shop) -> list[dict[str, Any]]:
    return [event.body for event in await shop.events() if event.type == "backorder_filled"]


async def _remove(shop: Shop) -> None:
    await shop.remove(BEN, "tee")


async def _remove_under_a_key(shop: Shop) -> None:
    await shop.remove(BEN, "tee", key="k")


async def _clear(shop: Shop) -> None:
    await shop.clear(BEN)


async def _put_none(shop: Shop) -> None:
    await shop.put(BEN, ("tee", 0))


async def _lapse_before_a_read(shop: Shop) -> None:
    shop.advance(TERMS.hold_ttl_ms)
    await shop.level("tee")


async def _lapse_before_the_sweep(shop: Shop) -> None:
    shop.advance(TERMS.hold_ttl_ms)
    await shop.engine.release_due_holds(10)


async def _lapse_before_an_add(shop: Shop) -> None:
    shop.advance(TERMS.hold_ttl_ms)
    await shop.add(ANN, "tee", 2)
    await shop.remove(ANN, "tee")


async def _cancel(shop: Shop) -> None:
    await shop.cancel((await shop.checkout(BEN)).payment.payment_id)


async def _expire(shop: Shop) -> None:
    await shop.checkout(BEN)
    shop.advance(WINDOW_MS)
    await shop.engine.release_due_payments(10)


async def _check_out_unheld(shop: Shop) -> None:
    await shop.publish("tee", policy="untracked")
    await shop.checkout(BEN)


FREEING: list[Callable[[Shop], Awaitable[None]]] = [
    _remove,
    _remove_under_a_key,
    _clear,
    _put_none,
    _lapse_before_a_read,
    _lapse_before_the_sweep,
    _lapse_before_an_add,
    _cancel,
    _expire,
    _check_out_unheld,
]


@pytest.mark.parametrize("free", FREEING)
async def test_backorders_are_served_first_when_units_become_free(
    shop: Shop, free: Callable[[Shop], Awaitable[None]]
) -> None:
    await _owe_two(shop)

    await free(shop)

    on_hand, held, sold, backordered = await shop.counters("tee")
    assert (on_hand, held, sold, backordered) == (2, 0, 3, 0)
    assert on_hand + sold - backordered == DELIVERED
    assert await _filled(shop) == [{"sku": "tee", "filled": "2", "on_hand": "2"}]


async def test_backorders_are_served_when_money_that_came_late_frees_a_hold(shop: Shop) -> None:
    await shop.sell("tee", 2)
    await shop.publish("tee", policy="untracked")
    late = await shop.buy(BEN, "tee", 2)
    await shop.cancel(late)
    await shop.publish("tee", policy="deny")
    await shop.set(BEN, "tee", 2)
    await shop.publish("tee", policy="backorder")
    await shop.settle(await shop.buy(ANN, "tee", 3))
    owing = await shop.counters("tee")

    await shop.settle(late)

    assert owing == (2, 2, 3, 3)
    assert await shop.counters("tee") == (0, 0, 3, 1)
    assert await _filled(shop) == [{"sku": "tee", "filled": "2", "on_hand": "0"}]


@pytest.mark.parametrize("change", ["set", "put"])
async def test_backorders_get_only_what_became_free_when_a_hold_is_lowered(shop: Shop, change: str) -> None:
    await _owe_two(shop)

    if change == "set":
        result = await shop.set(BEN, "tee", 3)
        assert result.line is not None
        # Nobody can have the unit that was given back.
        assert result.line.available_quantity == 3
    else:
        await shop.put(BEN, ("tee", 3))

    assert await shop.counters("tee") == (3, 3, 3, 1)
    assert await _filled(shop) == [{"sku": "tee", "filled": "1", "on_hand": "3"}]


async def test_units_go_from_one_line_to_another_when_a_put_moves_them(shop: Shop) -> None:
    await _owe_two(shop)
    engraved = PutItem(sku="tee", quantity=3, properties_json=ENGRAVED)

    await shop.put(BEN, ("tee", 1), engraved)

    assert await shop.counters("tee") == (4, 4, 3, 2)
    assert await _filled(shop) == []


async def test_nothing_is_filled_when_nothing_is_owed(shop: Shop) -> None:
    await shop.sell("tee", DELIVERED)
    await shop.add(BEN, "tee", 4)

    await shop.remove(BEN, "tee")
    result = await shop.adjust("tee", 2)

    assert await shop.counters("tee") == (7, 0, 0, 0)
    assert await shop.event_types() == ["stock_adjusted", "stock_adjusted"]
    assert (await shop.events())[-1].body["filled"] == "0"
    assert result.delta == 2


@pytest.mark.parametrize(("delta", "after"), [(2, (0, 0, 3, 1)), (3, (0, 0, 3, 0)), (10, (7, 0, 3, 0))])
async def test_adjust_adds_what_is_not_owed_when_units_arrive(
    shop: Shop, delta: int, after: tuple[int, int, int, int]
) -> None:
    await shop.publish("tee", policy="backorder")
    await shop.settle(await shop.buy(ANN, "tee", 3))

    result = await shop.adjust("tee", delta, reference="truck")
    again = await shop.adjust("tee", delta, reference="truck")

    assert result.delta == delta
    level = result.level
    assert (level.on_hand, level.held, level.sold, level.backordered) == after
    assert await shop.counters("tee") == after
    event = (await shop.events())[-1]
    assert event.type == "stock_adjusted"
    assert {name: event.body[name] for name in ("delta", "filled", "on_hand")} == {
        "delta": str(delta),
        "filled": str(3 - after[3]),
        "on_hand": str(after[0]),
    }
    assert again.replayed
    assert again.level == level


async def test_set_serves_backorders_out_of_what_was_counted(shop: Shop) -> None:
    await shop.publish("tee", policy="backorder")
    await shop.settle(await shop.buy(ANN, "tee", 3))

    result = await shop.set_stock("tee", 10)

    assert (result.delta, result.level.on_hand, result.level.backordered) == (10, 7, 0)
    assert await shop.counters("tee") == (7, 0, 3, 0)


async def test_adjust_keeps_what_is_owed_when_units_are_lost(shop: Shop) -> None:
    await _owe_two(shop)
    await shop.adjust("tee", 3)

    await shop.adjust("tee", -1)

    assert await shop.counters("tee") == (4, 4, 3, 0)
