"""What the record answers: pages, ledgers, totals, and the adjustments that a repeated call asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from archive_shop import NOW_MS, Story, order_id, payment_id, sale
from sqlalchemy import text

from cartstore.archive import Archive, repository
from cartstore.archive.order_filters import OrderFilters
from cartstore.archive.repository import LedgerRow, StockTotals
from cartstore.errors import InvalidField
from cartstore.model import Partition, Position, StockLevel, StockResult


@pytest.fixture
async def archive(database_url: str) -> AsyncIterator[Archive]:
    archive = await Archive.open(database_url, Partition("main"))
    yield archive
    await archive.close()


@pytest.fixture
async def shop(archive: Archive) -> Archive:
    """Ten mugs; checkouts 1 to 6, of which 2, 4 and 6 are Bob's, with two orders each; 1 and 2 are paid, 3 is
    released."""
    story = Story()
    story.adjusted("mug", 10, 10)
    for number in range(1, 7):
        cart_id = "u.bob" if number % 2 == 0 else "u.ada"
        story.begun(number, cart_id=cart_id, sellers=("tern", "skerry"))
    story.paid(1, sale(1, "mug", 1, n=1), sale(1, "mug", 1, n=2))
    story.paid(2, sale(2, "mug", 1, n=1), sale(2, "mug", 1, n=2))
    story.released(3)
    await archive.apply_events(story.events)
    return archive


async def test_find_gives_nothing_for_what_was_never_recorded(shop: Archive) -> None:
    assert await shop.find_payment(payment_id(9)) is None
    assert await shop.find_stock_adjustment("mug", "delivery-9") is None
    assert await shop.find_stock_adjustment("cup", "delivery-1") is None


async def test_find_stock_adjustment_gives_the_first_result(shop: Archive) -> None:
    found = await shop.find_stock_adjustment("mug", "delivery-1")

    level = StockLevel(sku="mug", policy="deny", on_hand=10, held=0, sold=0, backordered=0)
    assert found == ("print-10", StockResult(level=level, delta=10, position=Position(1, 1)))


async def test_find_stock_adjustment_does_not_take_a_sale_for_one(shop: Archive) -> None:
    assert await shop.find_stock_adjustment("mug", order_id(1)) is None


async def test_list_payments_gives_those_of_a_cart_newest_first(shop: Archive) -> None:
    first = await shop.list_payments("u.ada", limit=2)
    last = first[-1][0]
    rest = await shop.list_payments("u.ada", limit=2, before=(last.created_at_ms, last.payment_id))

    assert [payment.payment_id for payment, _ in first] == [payment_id(5), payment_id(3)]
    assert [payment.payment_id for payment, _ in rest] == [payment_id(1)]
    assert [order.order_id for order in rest[0][1]] == [order_id(1, 1), order_id(1, 2)]


async def test_list_payments_is_empty_for_a_cart_without_any(shop: Archive) -> None:
    assert await shop.list_payments("u.eve") == []


async def test_pending_payments_are_those_that_nobody_ended(shop: Archive) -> None:
    pending = await shop.pending_payments()

    assert [payment.payment_id for payment, _ in pending] == [payment_id(n) for n in (4, 5, 6)]


async def test_terminal_payments_are_those_that_somebody_ended_latest_first(shop: Archive) -> None:
    _, orders = (await shop.find_payments([payment_id(2)]))[0]

    assert await shop.terminal_payment_ids(0, 10) == [payment_id(n) for n in (3, 2, 1)]
    assert await shop.terminal_payment_ids(0, 2) == [payment_id(n) for n in (3, 2)]
    assert await shop.terminal_payment_ids(orders[0].created_at_ms, 10) == [payment_id(3)]


async def test_terminal_payments_are_found_without_a_look_at_every_payment(shop: Archive) -> None:
    query = str(
        repository._terminal_since(shop.partition, NOW_MS, 10).compile(compile_kwargs={"literal_binds": True})
    )

    async with shop.database.transaction() as connection:
        for node in ("seqscan", "sort"):
            await connection.execute(text(f"SET LOCAL enable_{node} = off"))
        plan = "\n".join((await connection.execute(text(f"EXPLAIN {query}"))).scalars())

    assert "orders_created_at_ms_order_id_idx" in plan
    assert "Index Cond: (created_at_ms > " in plan


async def test_list_orders_pages_through_all_newest_first(shop: Archive) -> None:
    seen: list[str] = []
    cursor: str | None = None
    pages = 0
    while pages == 0 or cursor is not None:
        orders, cursor = await shop.list_orders(limit=5, cursor=cursor)
        seen += [order.order_id for order in orders]
        pages += 1

    assert pages == 3
    assert seen == [order_id(number, n) for number in range(6, 0, -1) for n in (2, 1)]


async def test_list_orders_ends_without_a_cursor_when_the_page_is_just_full(shop: Archive) -> None:
    orders, cursor = await shop.list_orders(OrderFilters(status="paid"), limit=4)

    assert {order.status for order in orders} == {"paid"}
    assert (len(orders), cursor) == (4, None)


@pytest.mark.parametrize(
    "cursor", ["", "x", "1", "1.", ".a", "1.a b", "-1.a", "1.a\n", "９.a", "9" * 19 + ".a", "1.\0"]
)
async def test_lists_refuse_a_cursor_that_is_not_theirs(shop: Archive, cursor: str) -> None:
    with pytest.raises(InvalidField) as orders:
        await shop.list_orders(cursor=cursor)
    with pytest.raises(InvalidField) as ledger:
        await shop.ledger("mug", cursor=cursor)

    assert (orders.value.field, ledger.value.field) == ("cursor", "cursor")


async def test_ledger_refuses_a_cursor_of_the_orders(shop: Archive) -> None:
    _, cursor = await shop.list_orders(limit=1)

    with pytest.raises(InvalidField):
        await shop.ledger("mug", cursor=cursor)


async def test_ledger_pages_through_changes_newest_first(shop: Archive) -> None:
    newest, cursor = await shop.ledger("mug", limit=2)
    older, cursor = await shop.ledger("mug", limit=2, cursor=cursor)
    oldest, end = await shop.ledger("mug", limit=2, cursor=cursor)

    rows = newest + older + oldest
    assert [(row.seq, row.delta, row.on_hand) for row in rows] == [
        (9, -1, 6),
        (9, -1, 7),
        (8, -1, 8),
        (8, -1, 9),
        (1, 10, 10),
    ]
    assert end is None
    assert rows[0] == LedgerRow(
        seq=9,
        delta=-1,
        on_hand=6,
        reason="sale",
        reference=order_id(2, 2),
        order_id=order_id(2, 2),
        at_ms=NOW_MS + 9,
    )


async def test_ledger_is_empty_for_an_unknown_sku(shop: Archive) -> None:
    assert await shop.ledger("cup") == ([], None)


async def test_stock_totals_gives_only_what_was_asked(shop: Archive) -> None:
    mug = StockTotals(on_hand=6, sold=4, backordered=0)

    assert await shop.stock_totals(["mug", "cup"]) == (Position(1, 10), {"mug": mug})
    assert await shop.stock_totals(["cup"]) == (Position(1, 10), {})
    assert await shop.stock_totals([]) == (Position(1, 10), {})
    assert await shop.stock_totals() == (Position(1, 10), {"mug": mug})


async def test_stock_totals_are_of_the_position_that_they_name_while_events_are_applied(
    archive: Archive,
) -> None:
    """Goal: position and counters are one snapshot. Method: read without pause while each event adds one
    unit, so that at seq n there are n units."""
    story = Story()
    events = [story.adjusted("mug", 1, n) for n in range(1, 41)]
    done = False

    async def read() -> int:
        readings = 0
        while not done:
            position, totals = await archive.stock_totals()
            assert position.seq == (totals["mug"].on_hand if totals else 0)
            readings += 1
        return readings

    reading = asyncio.create_task(read())
    for event in events:
        await archive.apply_events([event])
    done = True

    assert await reading > 1


async def test_events_after_gives_the_feed_in_pieces(shop: Archive) -> None:
    first = await shop.events_after(Position(0, 0), 4)
    rest = await shop.events_after(first[-1].position, 100)

    assert [event.position.seq for event in first + rest] == list(range(1, 11))
    assert await shop.events_after(Position(1, 10), 100) == []
