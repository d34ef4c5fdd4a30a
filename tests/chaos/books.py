"""What the two stores say of some SKUs and carts when everything is quiet: counters, holds, orders, ledger.

Owns the reading, past API and library, so that a defect in either cannot hide itself. Judges nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import asyncpg
import msgspec
import redis
from packed import line_held
from redis.client import NEVER_DECODE

from cartstore.archive.raised_epoch import PUT_ASIDE

_TAG = "{main:0}:"
_US = "\x1f"


class SkuBooks(msgspec.Struct, kw_only=True):
    """One SKU in engine and record."""

    on_hand: int
    held: int
    sold: int
    held_by_holders: int
    """Units that the carts and orders in the SKU's index say that they hold."""
    recorded_on_hand: int = 0
    recorded_sold: int = 0
    ledger_sum: int = 0
    ledger_sold: int = 0
    ledger_delivered: int = 0


class PaymentBooks(msgspec.Struct, kw_only=True):
    """One payment in the record, with its orders and events."""

    payment_id: str
    key: str
    """That of the calls which made it, as they told it in `metadata`."""
    status: str
    units: dict[str, int]
    orders: dict[str, str]
    """Status by order id."""
    begun: int = 0
    settled: int = 0
    released: int = 0
    """Events of each type."""
    sales: int = 0
    """Ledger rows of kind sale."""
    expires_at: float = 0.0
    expired_at: float = 0.0
    """When it was released for the reason that its window was over."""


class Books(msgspec.Struct, kw_only=True):
    skus: dict[str, SkuBooks]
    payments: dict[str, PaymentBooks]
    deliveries: dict[str, int]
    """Units by reference."""
    rejected: int = 0
    """Events that the record refused."""
    put_aside: int = 0
    """Events of another history, or behind a break, that a recovery found in an engine."""
    unreadable: set[str] = set()
    """Positions of events that were destroyed, as the record names them."""
    archived: set[str] = set()
    """Positions of all events in the record."""
    drift: list[str] = []
    """What reconcile found and could not repair."""


_REJECTED = "SELECT count(*) FROM rejected_events WHERE type <> 'unreadable'"
_UNREADABLE = "SELECT epoch || '-' || seq AS position FROM rejected_events WHERE type = 'unreadable'"


async def read_books(redis_url: str, database_url: str, skus: Sequence[str]) -> Books:
    connection = await asyncpg.connect(database_url)
    try:
        with redis.Redis.from_url(redis_url, decode_responses=True) as engine:
            found = {sku: _sku(engine, sku) for sku in skus}
        await _add_recorded_stock(connection, found)
        unreadable = {row["position"] for row in await connection.fetch(_UNREADABLE)}
        positions = await connection.fetch("SELECT epoch || '-' || seq AS position FROM events")
        return Books(
            skus=found,
            payments=await _payments(connection, skus),
            deliveries={
                row["reference"]: row["delta"]
                for row in await connection.fetch(
                    "SELECT reference, delta FROM stock_ledger WHERE kind = 'adjust' AND sku = ANY($1)", skus
                )
            },
            unreadable=unreadable,
            archived={row["position"] for row in positions},
            rejected=await connection.fetchval(f"{_REJECTED} AND reason NOT LIKE $1", f"{PUT_ASIDE}%"),
            put_aside=await connection.fetchval(f"{_REJECTED} AND reason LIKE $1", f"{PUT_ASIDE}%"),
        )
    finally:
        await connection.close()


async def is_archived(redis_url: str, database_url: str) -> bool:
    """Whether the record has every event that the engine has issued."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as engine:
        issued = int(engine.hget(f"{_TAG}gate", "seq") or 0)
    connection = await asyncpg.connect(database_url)
    try:
        return bool(await connection.fetchval("SELECT seq >= $1 FROM outbox_cursor", issued))
    finally:
        await connection.close()


def _sku(engine: redis.Redis, sku: str) -> SkuBooks:
    on_hand, held, sold = (
        int(text or 0) for text in engine.hmget(f"{_TAG}sku:{sku}", "on_hand", "held", "sold")
    )
    by_holders = 0
    for holder in engine.zrange(f"{_TAG}holds:{sku}", 0, -1):
        kind, owner, *rest = holder.split(_US)
        if kind == "c":
            line = f"{_TAG}cart:{owner}", f"l:{rest[0]}"
            by_holders += line_held(engine.execute_command("HGET", *line, **{NEVER_DECODE: True}))
            continue
        order = engine.hgetall(f"{_TAG}order:{owner}")
        lines = [order[name].split(_US) for name in order if name[0] == "l" and name[1:].isdigit()]
        by_holders += sum(int(line[3]) for line in lines if line[1] == sku)
    return SkuBooks(on_hand=on_hand, held=held, sold=sold, held_by_holders=by_holders)


async def _add_recorded_stock(connection: asyncpg.Connection, found: dict[str, SkuBooks]) -> None:
    skus = list(found)
    for row in await connection.fetch("SELECT sku, on_hand, sold FROM stock WHERE sku = ANY($1)", skus):
        its = found[row["sku"]]
        its.recorded_on_hand, its.recorded_sold = row["on_hand"], row["sold"]
    for row in await connection.fetch(
        "SELECT sku, sum(delta)::bigint AS total,"
        " coalesce(sum(-delta) FILTER (WHERE kind = 'sale'), 0)::bigint AS sold,"
        " coalesce(sum(delta) FILTER (WHERE kind = 'adjust'), 0)::bigint AS delivered"
        " FROM stock_ledger WHERE sku = ANY($1) GROUP BY sku",
        skus,
    ):
        its = found[row["sku"]]
        its.ledger_sum, its.ledger_sold, its.ledger_delivered = row["total"], row["sold"], row["delivered"]


async def _payments(connection: asyncpg.Connection, skus: Sequence[str]) -> dict[str, PaymentBooks]:
    found: dict[str, PaymentBooks] = {}
    units: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    orders: dict[str, dict[str, str]] = defaultdict(dict)
    for row in await connection.fetch(
        "SELECT payment_id, order_id, status, sku, quantity FROM orders JOIN order_lines USING (order_id)"
        " WHERE sku = ANY($1)",
        skus,
    ):
        units[row["payment_id"]][row["sku"]] += row["quantity"]
        orders[row["payment_id"]][row["order_id"]] = row["status"]
    for row in await connection.fetch("SELECT * FROM payments WHERE payment_id = ANY($1)", list(units)):
        payment_id = row["payment_id"]
        found[payment_id] = PaymentBooks(
            payment_id=payment_id,
            key=_key_of(row["details_json"]),
            status=row["status"],
            units=dict(units[payment_id]),
            orders=orders[payment_id],
            expires_at=row["expires_at_ms"] / 1_000,
        )
    for row in await connection.fetch(
        "SELECT body->>'payment_id' AS payment_id, type, count(*) AS times, max(at_ms) AS at_ms FROM events"
        " WHERE body->>'payment_id' = ANY($1) GROUP BY 1, 2",
        list(found),
    ):
        its = found[row["payment_id"]]
        if row["type"] == "checkout_begun":
            its.begun = row["times"]
        elif row["type"] == "payment_settled":
            its.settled = row["times"]
        elif row["type"] == "payment_released":
            its.released, its.expired_at = row["times"], row["at_ms"] / 1_000
    for row in await connection.fetch(
        "SELECT payment_id, count(*) AS sales FROM stock_ledger JOIN orders USING (order_id)"
        " WHERE kind = 'sale' AND payment_id = ANY($1) GROUP BY 1",
        list(found),
    ):
        found[row["payment_id"]].sales = row["sales"]
    return found


def _key_of(details_json: str) -> str:
    details: Any = msgspec.json.decode(details_json)
    return str(details.get("metadata", {}).get("key", ""))
