"""Applying events: exactly once, whole or not at all, and nothing that contradicts the record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
from archive_shop import NOW_MS, Story, line, order_id, payment_id, sale, with_body

from cartstore.archive import Archive, migrate
from cartstore.archive.arrays import ROWS_COPIED_MIN
from cartstore.archive.repository import StockTotals
from cartstore.embedded import Database
from cartstore.errors import ContractError, EventRefused, OutboxBroken, StoreUnavailable
from cartstore.model import Event, Order, OrderLine, Partition, Payment, Position


@pytest.fixture
async def archive(database_url: str) -> AsyncIterator[Archive]:
    archive = await Archive.open(database_url, Partition("main"))
    yield archive
    await archive.close()


async def payment_of(archive: Archive, number: int) -> tuple[Payment, list[Order]]:
    found = await archive.find_payment(payment_id(number))
    assert found is not None
    return found


async def statuses(archive: Archive, number: int) -> tuple[str, list[tuple[str, str | None]]]:
    payment, orders = await payment_of(archive, number)
    return payment.status, [(order.status, order.release_reason) for order in orders]


async def test_apply_records_a_checkout_as_it_was_begun(archive: Archive) -> None:
    story = Story()
    story.begun(
        1,
        line("mug", 2),
        line("print", mode="untracked", properties_json='{"name":"Ada"}'),
        sellers=("tern", "skerry"),
        details_json='{"contact": {"email": "ada@example.com"}}',
    )

    position = await archive.apply_events(story.events)

    payment, orders = await payment_of(archive, 1)
    assert position == Position(1, 1)
    assert payment == Payment(
        payment_id=payment_id(1),
        checkout_id=f"c0-{1:032x}",
        checkout_type="full_cart",
        cart_id="u.ada",
        status="pending",
        amount_minor=3_000,
        currency="EUR",
        gateway="simulated",
        method="card",
        attempts=0,
        order_ids=(order_id(1, 1), order_id(1, 2)),
        expires_at_ms=NOW_MS + 900_000,
        created_at_ms=NOW_MS + 1,
        fingerprint="print-1",
        details_json='{"contact": {"email": "ada@example.com"}}',
    )
    assert [order.seller for order in orders] == ["tern", "skerry"]
    assert (await archive.list_orders())[0] == orders[::-1]
    assert orders[1].lines == (
        OrderLine(
            line_id="mug",
            sku="mug",
            quantity=2,
            held=2,
            mode="held",
            unit_price_minor=1_500,
            revision=7,
            first_held_at_ms=NOW_MS,
        ),
        OrderLine(
            line_id="print",
            sku="print",
            quantity=1,
            held=0,
            mode="untracked",
            unit_price_minor=1_500,
            revision=7,
            first_held_at_ms=NOW_MS,
            properties_json='{"name":"Ada"}',
        ),
    )


async def test_apply_sells_what_was_taken_and_counts_what_was_not_there(archive: Archive) -> None:
    story = Story()
    story.adjusted("mug", 5, 5)
    story.adjusted("kit", 1, 1)
    story.begun(1, line("mug", 2), line("kit", 3, "backorder"))
    story.paid(1, sale(1, "mug", 2), sale(1, "kit", 1, 2))

    await archive.apply_events(story.events)

    _, totals = await archive.stock_totals()
    rows, _ = await archive.ledger("kit")
    assert totals == {
        "mug": StockTotals(on_hand=3, sold=2, backordered=0),
        "kit": StockTotals(on_hand=0, sold=3, backordered=2),
    }
    assert [(row.delta, row.on_hand, row.reason, row.reference, row.order_id) for row in rows] == [
        (-1, 0, "sale", order_id(1), order_id(1)),
        (1, 1, "received", "delivery-2", None),
    ]
    assert await statuses(archive, 1) == ("paid", [("paid", None)])


@pytest.mark.parametrize("batch", [1, 2, 100])
async def test_apply_gives_the_same_record_however_the_events_are_cut(archive: Archive, batch: int) -> None:
    story = Story()
    story.adjusted("mug", 10, 10)
    story.begun(1, line("mug", 4), sellers=("tern", "skerry"))
    story.failed(1, 1)
    story.failed(1, 2)
    story.released(1, "cancelled")
    story.begun(2)
    story.paid(1, sale(1, "mug", 4, n=1), sale(1, "mug", 4, n=2))
    story.released(2)
    story.refund_due(2)
    story.begun(3)
    story.refunded(2)

    for start in range(0, len(story.events), batch):
        await archive.apply_events(story.events[start : start + batch])

    payment, _ = await payment_of(archive, 1)
    assert payment.attempts == 2
    assert await statuses(archive, 1) == ("paid", [("paid", None), ("paid", None)])
    assert await statuses(archive, 2) == ("refunded", [("refunded", "expired")])
    assert await statuses(archive, 3) == ("pending", [("pending", None)])
    assert (await archive.stock_totals())[1] == {"mug": StockTotals(on_hand=2, sold=8, backordered=0)}
    assert await archive.events_after(Position(0, 0), 100) == story.events
    assert await archive.cursor() == (Position(1, 11), "nonce-1-11")


async def test_apply_gives_the_same_record_when_rows_are_copied(
    archive: Archive, database: Database, database_url: str
) -> None:
    """Goal: COPY, which takes over for many rows, writes what INSERT writes. Method: one story, applied at
    once here and a few events at a time into another database, and every table compared."""
    other_name = f"{name_of(database_url)}_other"
    database.execute(f"CREATE DATABASE {other_name}")
    await migrate(database.url(other_name))
    story = Story()
    for number in range(1, 2 * ROWS_COPIED_MIN):
        story.adjusted(f"mug-{number}", 10, 10)
        story.begun(number, line(f"mug-{number}", 2, properties_json='{"text": "ä\\n"}'), line("pen"))
        if number % 2:
            story.paid(number, sale(number, f"mug-{number}", 2))
        if number % 4 == 0:
            story.released(number)

    other = await Archive.open(database.url(other_name), Partition("main"))
    try:
        await archive.apply_events(story.events)
        for start in range(0, len(story.events), ROWS_COPIED_MIN // 4):
            await other.apply_events(story.events[start : start + ROWS_COPIED_MIN // 4])

        assert await everything_in(archive) == await everything_in(other)
    finally:
        await other.close()
        database.execute(f"DROP DATABASE {other_name} WITH (FORCE)")


def name_of(database_url: str) -> str:
    return database_url.partition("?")[0].rpartition("/")[2]


async def everything_in(archive: Archive) -> dict[str, list[str]]:
    """Each row as text, by table."""
    tables = ("payments", "orders", "order_lines", "stock", "stock_ledger", "cart_snapshots", "events")
    found = {}
    async with archive.database.reading() as connection:
        for table in (*tables, "outbox_cursor"):
            rows = await connection.exec_driver_sql(f"SELECT t::text FROM {table} AS t ORDER BY 1")
            found[table] = list(rows.scalars())
    assert all(found[table] for table in tables if table != "cart_snapshots")
    return found


async def test_apply_can_be_repeated_when_the_connection_was_lost_while_rows_were_copied(
    archive: Archive, database: Database, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    story = Story()
    for number in range(2 * ROWS_COPIED_MIN):
        story.adjusted(f"mug-{number}", 1, 1)
    other = await Archive.open(database_url, Partition("main"))

    async with other.database.transaction() as connection:
        await connection.exec_driver_sql("LOCK TABLE stock_ledger IN EXCLUSIVE MODE")
        applying = asyncio.create_task(archive.apply_events(story.events))
        ending = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            f" WHERE datname = '{name_of(database_url)}' AND query LIKE 'COPY%' AND wait_event_type = 'Lock'"
        )
        for _ in range(1_000):
            if database.execute(ending) == "1":
                break
            await asyncio.sleep(0.01)
        with pytest.raises(StoreUnavailable):
            await applying
    await other.close()

    assert await archive.apply_events(story.events) == Position(1, len(story.events))
    assert [record.getMessage() for record in caplog.records] == []


async def test_apply_keeps_the_reason_of_a_release(archive: Archive) -> None:
    story = Story()
    story.begun(1)
    story.released(1, "cancelled")

    await archive.apply_events(story.events)

    assert await statuses(archive, 1) == ("cancelled", [("released", "cancelled")])


async def test_apply_refunds_one_order_of_two(archive: Archive) -> None:
    story = Story()
    story.begun(1, sellers=("tern", "skerry"))
    story.released(1)
    story.refund_due(1)
    story.refunded(1, 2, payment_status="refund_due")

    await archive.apply_events(story.events)

    assert await statuses(archive, 1) == ("refund_due", [("refund_due", "expired"), ("refunded", "expired")])


async def test_apply_changes_nothing_when_repeated(archive: Archive) -> None:
    story = Story()
    story.adjusted("mug", 5, 5)
    story.begun(1)
    await archive.apply_events(story.events)
    story.paid(1, sale(1, "mug", 1))
    await archive.apply_events(story.events)

    position = await archive.apply_events(story.events)

    assert position == Position(1, 3)
    assert (await archive.stock_totals())[1] == {"mug": StockTotals(on_hand=4, sold=1, backordered=0)}
    assert len(await archive.events_after(Position(0, 0), 100)) == 3


async def test_apply_counts_once_when_several_drainers_have_the_same_events(archive: Archive) -> None:
    """Goal: the cursor's row lock makes the drain single. Method: eight at once, each with all events cut
    in its own way; afterwards every event is there once."""
    story = Story()
    story.adjusted("mug", 100, 100)
    for number in range(1, 41):
        story.begun(number)
        story.paid(number, sale(number, "mug", 1))

    async def drainer(batch: int) -> None:
        for start in range(0, len(story.events), batch):
            await archive.apply_events(story.events[start : start + batch])

    await asyncio.gather(*(drainer(batch) for batch in (3, 5, 7, 11, 13, 17, 19, 81)))

    assert (await archive.stock_totals())[1] == {"mug": StockTotals(on_hand=60, sold=40, backordered=0)}
    assert await archive.events_after(Position(0, 0), 100) == story.events


async def test_apply_goes_on_when_the_epoch_grows_in_the_middle(archive: Archive) -> None:
    story = Story()
    story.adjusted("mug", 5, 5)
    story.epoch = 3
    story.adjusted("mug", -1, 4)

    position = await archive.apply_events(story.events)

    assert position == Position(3, 2)


@pytest.mark.parametrize(
    "positions",
    [[(1, 2)], [(1, 1), (1, 3)], [(2, 1), (1, 2)], [(1, 1), (0, 2)]],
    ids=["starts late", "gap", "older epoch", "older epoch in the first batch"],
)
async def test_apply_stops_before_the_first_event_that_does_not_join(
    archive: Archive, positions: list[tuple[int, int]]
) -> None:
    story = Story()
    events = [
        msgspec.structs.replace(story.adjusted("mug", 1, n), position=Position(*position))
        for n, position in enumerate(positions, 1)
    ]

    for event in events[:-1]:
        assert await archive.apply_events(events) == event.position
    with pytest.raises(OutboxBroken, match="gap or a fork"):
        await archive.apply_events(events)

    assert (await archive.cursor())[0] == (events[-2].position if len(events) > 1 else Position(0, 0))


async def test_apply_skips_an_event_whose_seq_the_record_has_when_its_epoch_is_not_newer(
    archive: Archive,
) -> None:
    story = Story()
    first, second = story.adjusted("mug", 1, 1), story.adjusted("mug", 1, 2)

    position = await archive.apply_events([first, msgspec.structs.replace(second, position=first.position)])

    assert position == Position(1, 1)
    assert (await archive.stock_totals())[1]["mug"].on_hand == 1


def chained(events: Sequence[Event], previous: str = "") -> list[Event]:
    """The same events, each naming the one before it, as scripts write them."""
    named: list[Event] = []
    for event in events:
        named.append(msgspec.structs.replace(event, previous=named[-1].name if named else previous))
    return named


def moved_to(event: Event, epoch: int, seq: int) -> Event:
    return msgspec.structs.replace(event, position=Position(epoch, seq))


async def test_apply_follows_the_named_event_when_numbers_are_left_out(archive: Archive) -> None:
    story = Story()
    told = [story.adjusted("mug", 1, n) for n in range(1, 4)]
    events = chained([moved_to(told[0], 1, 4), moved_to(told[1], 1, 9), moved_to(told[2], 2, 30)])

    assert await archive.apply_events(events) == Position(2, 30)
    assert (await archive.stock_totals())[1]["mug"].on_hand == 3


async def test_apply_takes_entries_with_and_without_a_predecessor_when_they_are_mixed(
    archive: Archive,
) -> None:
    story = Story()
    by_number, named, again = (story.adjusted("mug", 1, n) for n in range(1, 4))
    named = msgspec.structs.replace(named, previous=by_number.name)

    assert await archive.apply_events([by_number, named, again]) == Position(1, 3)


@pytest.mark.parametrize(
    "previous", ["1-1 another", "1-2 nonce-1-1", "", "1-1"], ids=["nonce", "position", "none", "no nonce"]
)
async def test_apply_refuses_an_event_when_it_names_another_predecessor(
    archive: Archive, previous: str
) -> None:
    story = Story()
    first, second = story.adjusted("mug", 1, 1), story.adjusted("mug", 1, 2)
    await archive.apply_events([first])

    with pytest.raises(OutboxBroken):
        await archive.apply_events([msgspec.structs.replace(second, previous=previous)])


async def test_apply_refuses_the_first_event_of_all_when_it_names_a_predecessor(archive: Archive) -> None:
    first = msgspec.structs.replace(Story().adjusted("mug", 1, 1), previous="0-1 lost")

    with pytest.raises(OutboxBroken):
        await archive.apply_events([first])


async def test_apply_refuses_an_event_of_an_engine_that_was_replaced(archive: Archive) -> None:
    await archive.apply_events([Story(epoch=2).adjusted("mug", 5, 5)])

    with pytest.raises(ContractError, match="fork"):
        await archive.apply_events([Story(epoch=1, seq=1).adjusted("mug", 5, 10)])


def _begun(story: Story, **changes: Any) -> Event:
    return with_body(story.begun(9), **changes)


REFUSED = {
    "an unknown type": lambda story: story.tell("stock_stolen", sku="mug"),
    "no body": lambda story: story.tell("payment_failed"),
    "a number that is none": lambda story: story.tell(
        "payment_failed", payment_id=payment_id(1), attempts="1.5"
    ),
    "a negative count": lambda story: story.adjusted("mug", -6, -1),
    "stock that is not there": lambda story: story.adjusted("mug", -6, 0),
    "a sale that is not there": lambda story: story.paid(1, sale(1, "mug", 6)),
    "a sale of another payment's order": lambda story: story.paid(1, sale(2, "mug", 1)),
    "a sale that does not add up": lambda story: story.paid(1, {**sale(1, "mug", 1), "quantity": "2"}),
    "a sale without money": lambda story: story.tell(
        "payment_settled", payment_id=payment_id(1), outcome="refund_due", sales=[sale(1, "mug", 1)]
    ),
    "sales that are no list": lambda story: story.tell(
        "payment_settled", payment_id=payment_id(1), outcome="paid", sales={"mug": 1}
    ),
    "a reference that was used": lambda story: story.adjusted("mug", 1, 6, "delivery-1"),
    "a checkout that was begun": lambda story: story.begun(1),
    "a checkout in no currency": lambda story: _begun(story, currency="euro"),
    "a checkout that ends before it begins": lambda story: _begun(story, expires_at_ms="1"),
    "a line that holds half": lambda story: story.begun(9, {**line("mug", 2), "held": "1"}),
    "a line of nothing": lambda story: story.begun(9, line("mug", 0)),
    "money due back for a pending payment": lambda story: story.refund_due(1),
    "a payment that nobody began": lambda story: story.paid(8),
    "a second settlement": lambda story: story.paid(2),
    "a failure after settlement": lambda story: story.failed(2, 1),
    "an attempt that was counted": lambda story: story.failed(1, 0),
    "a release after settlement": lambda story: story.released(2),
    "a refund of a pending order": lambda story: story.refunded(1),
    "a refund of an order that nobody placed": lambda story: story.refunded(8),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_apply_refuses_what_contradicts_the_record_and_applies_nothing(
    archive: Archive, name: str
) -> None:
    story = Story()
    story.adjusted("mug", 5, 5)
    story.begun(1)
    story.begun(2)
    story.paid(2)
    await archive.apply_events(story.events)
    before = await archive.stock_totals()
    good = story.adjusted("mug", 0, 5, "counted")
    bad = REFUSED[name](story)

    with pytest.raises(EventRefused):
        await archive.apply_events([good, bad])

    assert await archive.stock_totals() == before
    assert await archive.cursor() == (Position(1, 4), "nonce-1-4")
    assert await archive.find_stock_adjustment("mug", "counted") is None


async def test_reject_puts_the_event_aside_and_moves_on(
    archive: Archive, database: Database, database_url: str
) -> None:
    story = Story()
    bad = story.tell("stock_stolen", sku="mug\0")
    after = story.adjusted("mug", 5, 5)

    position = await archive.reject_event(bad, "nobody knows this type")
    again = await archive.reject_event(bad, "nobody knows this type")
    await archive.apply_events([after])

    name = database_url.partition("?")[0].rpartition("/")[2]
    rejected = database.execute("SELECT seq, type, reason, body FROM rejected_events", name)
    assert (position, again) == (Position(1, 1), Position(1, 1))
    assert rejected == '1|stock_stolen|nobody knows this type|{"sku":"mug\\u0000"}'
    assert [event.position.seq for event in await archive.events_after(Position(0, 0), 10)] == [2]


async def test_reject_refuses_an_event_that_is_not_the_next(archive: Archive) -> None:
    with pytest.raises(ContractError):
        await archive.reject_event(Story(seq=4).adjusted("mug", 5, 5), "why not")
