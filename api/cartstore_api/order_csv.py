"""Orders as CSV, for spreadsheets. Owns the columns, and when CSV is what a caller wants.

Refuses to make a formula of what a buyer or seller wrote: such a cell begins with an apostrophe, as
spreadsheets show text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Final

from cartstore_api.context import RequestContext
from cartstore_api.schemas import Order

MEDIA_TYPE: Final = "text/csv"

COLUMNS: Final = (
    "order_id",
    "created_at",
    "status",
    "release_reason",
    "seller",
    "currency",
    "total",
    "units",
    "lines",
    "fulfilment",
    "carrier",
    "tracking",
    "fulfilment_updated_at",
    "payment_id",
    "checkout_id",
)
"""New ones are added at the end: readers may count."""

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def wants_csv(context: RequestContext) -> bool:
    """Whether `Accept` prefers CSV to JSON; JSON when it likes both alike and names JSON first."""
    best_csv, best_json = (0.0, 0), (0.0, 0)
    for place, item in enumerate(context.items(b"accept")):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        found = (_quality(parameters), -place)
        if name == MEDIA_TYPE:
            best_csv = max(best_csv, found)
        elif name in ("application/json", "application/*", "*/*"):
            best_json = max(best_json, found)
    return best_csv[0] > 0 and best_csv > best_json


def _quality(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


Page = tuple[list[Order], str | None]
"""Orders, and the cursor of the next page."""


async def csv_of(first: Page, following: Callable[[str], Awaitable[Page]]) -> AsyncIterator[bytes]:
    """The pages from the first one on, as they are read: the whole list is never in memory."""
    # The mark tells spreadsheets that this is UTF-8.
    yield ("\ufeff" + _row(COLUMNS)).encode()
    orders, cursor = first
    while True:
        yield "".join(_row(_cells(order)) for order in orders).encode()
        if cursor is None:
            return
        orders, cursor = await following(cursor)


def _cells(order: Order) -> list[str]:
    fulfilment = order.fulfilment
    lines = "; ".join(f"{line.quantity} x {line.sku}" for line in order.lines)
    return [
        order.order_id,
        order.created_at,
        order.status,
        order.release_reason or "",
        _text(order.seller),
        order.currency,
        order.total,
        str(sum(line.quantity for line in order.lines)),
        lines,
        fulfilment.state if fulfilment is not None else "",
        _text(fulfilment.carrier if fulfilment is not None else None),
        _text(fulfilment.tracking if fulfilment is not None else None),
        (fulfilment.updated_at if fulfilment is not None else None) or "",
        order.payment_id,
        order.checkout_id,
    ]


def _text(value: str | None) -> str:
    """A cell that somebody wrote."""
    value = value or ""
    return f"'{value}" if value.startswith(_FORMULA) else value


def _row(cells: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()
