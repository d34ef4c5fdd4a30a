"""Address, contact and metadata in the bodies of rejected checkouts (`rejected_events`). Owns how they are
blanked; the row itself stays until a person has decided on it.

A rejected checkout is of a payment that the record has from another event, or does not have at all. Its
details stay while it may have been paid: while the record says so or has it pending, and while a settlement
of it waits for the record or was rejected as well.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from cartstore.archive.arrays import array_of
from cartstore.archive.tables import payments

REJECTED_PER_BATCH: Final = 200

RejectedKey = tuple[int, int, str]
"""Primary key of a row: epoch, seq, nonce."""

FIRST: Final[RejectedKey] = (-1, -1, "")
"""Before every row."""

# The event's own time where it can be believed; never later than when it was put aside.
_OLD: Final = text(
    """
    SELECT epoch, seq, nonce, body FROM rejected_events,
        LATERAL (SELECT (extract(epoch FROM rejected_at) * 1000)::bigint AS aside_ms) AS at
    WHERE type = 'checkout_begun' AND (epoch, seq, nonce) > (:epoch, :seq, :nonce)
        AND CASE WHEN at_ms BETWEEN 1 AND aside_ms THEN at_ms ELSE aside_ms END < :before_ms
        AND strpos(body, '"details_json":"{}"') = 0
    ORDER BY epoch, seq, nonce LIMIT :page
    """
)
_REJECTED_SETTLEMENTS: Final = text(
    """
    SELECT payment_id FROM unnest(cast(:payment_ids AS text[])) AS payment_id
    WHERE EXISTS (SELECT FROM rejected_events WHERE type = 'payment_settled' AND strpos(body, payment_id) > 0)
    """
)
_BLANK: Final = text(
    "UPDATE rejected_events SET body = :body WHERE epoch = :epoch AND seq = :seq AND nonce = :nonce"
)

_MAY_BE_PAID: Final = ("pending", "paid", "refund_due", "refunded")

# Of a body that is no JSON: damaged, or cut short. A quote inside a text is escaped, so these match members.
_DETAILS: Final = re.compile(r'"details_json"\s*:\s*"(?:[^"\\]|\\.)*(?:"|\\?\Z)', re.DOTALL)
_PAYMENT_ID: Final = re.compile(r'"payment_id"\s*:\s*"([^"\\]+)"')
_BLANKED: Final = '"details_json":"{}"'


class RejectedBatch(NamedTuple):
    """What one page came to. `after`: where the next one begins; FIRST when this was the last one."""

    blanked: int
    after: RejectedKey


async def blank_rejected_details(
    connection: AsyncConnection, after: RejectedKey, *, before_ms: int, settling: Collection[str]
) -> RejectedBatch:
    """Blank the details of one page of rejected checkouts that are older than a time. `settling`: payments
    that events on their way to the record name. May run again: what is blanked is not found any more."""
    epoch, seq, nonce = after
    place = {"epoch": epoch, "seq": seq, "nonce": nonce}
    page = {"before_ms": before_ms, "page": REJECTED_PER_BATCH}
    rows = (await connection.execute(_OLD, {**place, **page})).all()
    if not rows:
        return RejectedBatch(0, FIRST)
    payment_ids = [_payment_id_of(row.body) for row in rows]
    kept = {*settling, *await _maybe_paid(connection, sorted({name for name in payment_ids if name}))}
    changes: list[Mapping[str, Any]] = []
    for row, payment_id in zip(rows, payment_ids, strict=True):
        body = blanked(row.body)
        if payment_id not in kept and body != row.body:
            changes.append({"body": body, "epoch": row.epoch, "seq": row.seq, "nonce": row.nonce})
    if changes:
        await connection.execute(_BLANK, changes)
    last = rows[-1]
    is_last = len(rows) < REJECTED_PER_BATCH
    return RejectedBatch(len(changes), FIRST if is_last else (last.epoch, last.seq, last.nonce))


async def _maybe_paid(connection: AsyncConnection, payment_ids: Sequence[str]) -> set[str]:
    if not payment_ids:
        return set()
    recorded = select(payments.c.payment_id).where(
        payments.c.payment_id.in_(array_of(payments.c.payment_id, payment_ids)),
        payments.c.status.in_(_MAY_BE_PAID),
    )
    found = set((await connection.execute(recorded)).scalars())
    rejected = await connection.execute(_REJECTED_SETTLEMENTS, {"payment_ids": list(payment_ids)})
    return found | set(rejected.scalars())


def blanked(body: str) -> str:
    """The body without details, otherwise as it is; also one that is no JSON."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError):
        return _DETAILS.sub(lambda _: _BLANKED, body)
    if not isinstance(decoded, dict) or "details_json" not in decoded:
        return body
    return msgspec.json.encode({**decoded, "details_json": "{}"}).decode()


def _payment_id_of(body: str) -> str | None:
    match = _PAYMENT_ID.search(body)
    return match[1] if match else None
