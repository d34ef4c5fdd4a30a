"""What the cells of a WooCommerce export mean, one by one. Refuses to know how rows make a product."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from cartstore.catalog.csv_source import Row
from cartstore.catalog.money import to_minor
from cartstore.catalog.parsed import units_of
from cartstore.catalog.sales import is_never
from cartstore.catalog.text import one_line
from cartstore.errors import InvalidField
from cartstore.model import StockPolicy

_SEPARATOR: Final = re.compile(r"(?<!\\),")
"""Between values of one cell; a comma inside a value is written with a backslash."""

_FORMULA: Final = frozenset({"'=", "'+", "'-", "'@"})
"""The exporter writes an apostrophe before what a spreadsheet would take for a formula."""


class Stock(msgspec.Struct, frozen=True):
    """How a row's units are counted. `units` None: at the parent, or not at all."""

    policy: StockPolicy
    units: int | None
    is_counted: bool = False
    """The row itself has a count."""
    is_parents: bool = False
    """The row says that its parent has the count."""
    problem: str | None = None
    """Why 0 units stand in for a count."""


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """Of a row, as `Variant` has it."""

    price_minor: int
    sale_price_minor: int | None = None
    sale_from: str | None = None
    sale_to: str | None = None


def unescaped(row: Row) -> Row:
    """The row without the apostrophes of the exporter."""
    if not any(cell.lstrip().startswith("'") for cell in row.cells.values()):
        return row
    cells = {name: _without_apostrophe(cell) for name, cell in row.cells.items()}
    return msgspec.structs.replace(row, cells=cells)


def _without_apostrophe(cell: str) -> str:
    cell = cell.strip()
    return cell[1:] if cell[:2] in _FORMULA else cell


def price_of(row: Row, currency: str) -> Price:
    """The regular price, and a sale price with its dates, which are days or times of UTC here. Raises
    InvalidField."""
    if not row["Regular price"]:
        raise InvalidField("Regular price is blank.")
    regular = to_minor(row["Regular price"], currency)
    if not row["Sale price"]:
        return Price(price_minor=regular)
    price = Price(
        price_minor=regular,
        sale_price_minor=to_minor(row["Sale price"], currency),
        sale_from=_time_of(row, "Date sale price starts", whole_day=("00:00:00",)),
        # WooCommerce ends a sale with its last day and writes the last second of it; older versions wrote
        # the first.
        sale_to=_time_of(row, "Date sale price ends", whole_day=("00:00:00", "23:59:59")),
    )
    return Price(price_minor=regular) if is_never(price.sale_from, price.sale_to) else price


def _time_of(row: Row, column: str, *, whole_day: Sequence[str]) -> str | None:
    """A time in ISO 8601; a date where the time of day is one of `whole_day`."""
    cell = row[column]
    if not cell:
        return None
    try:
        moment = datetime.fromisoformat(cell)
    except ValueError:
        raise InvalidField(f"{column} is {cell[:40]!r}, not a date like 2030-12-31.") from None
    if moment.tzinfo is None and moment.time().isoformat() in whole_day:
        return moment.date().isoformat()
    return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).isoformat()


def stock_of(row: Row) -> Stock:
    """Policy and units of a row. A blank count of something in stock means that nobody counts."""
    takes_backorders = row["Backorders allowed?"].lower() not in ("", "0")
    counted: StockPolicy = "backorder" if takes_backorders else "deny"
    cell, in_stock = row["Stock"], row["In stock?"].lower()
    if "Stock" not in row.cells:
        return Stock(counted, 0, problem="The file has no Stock.")
    if cell.lower() == "parent":
        return Stock(counted, None, is_parents=True)
    if cell:
        try:
            return Stock(counted, units_of(cell, "Stock"), is_counted=True)
        except InvalidField as error:
            return Stock(counted, 0, is_counted=True, problem=error.message)
    if in_stock == "1":
        return Stock("untracked", None)
    problem = None if "In stock?" in row.cells else "Stock is blank, and the file has no In stock?."
    return Stock("backorder" if in_stock == "backorder" else counted, 0, problem=problem)


def is_shared(own: Stock, parents: Stock) -> bool:
    """Whether a variation is counted at its parent. Some exports say so by `parent`, others by leaving the
    variation blank below a parent with a count; taking such a one for untracked would sell without end."""
    return own.is_parents or (parents.is_counted and not own.is_counted)


def shared(units: int, skus: Sequence[str]) -> dict[str, int]:
    """Units dealt out one by one, so that all of them are somewhere and none is there twice."""
    each, rest = divmod(units, len(skus))
    return {sku: each + (number < rest) for number, sku in enumerate(skus)}


def values_of(cell: str) -> tuple[str, ...]:
    """The values of a product's attribute, each once."""
    values = (value_of(part) for part in _SEPARATOR.split(cell))
    return tuple(dict.fromkeys(value for value in values if value))


def value_of(cell: str) -> str:
    """The value of a variation's attribute. The exporter writes a comma in it as backslash and comma, and a
    line break as backslash and n."""
    return one_line(html.unescape(cell.replace("\\,", ",").replace("\\n", "\n")))


def is_published(row: Row) -> bool:
    """Raises InvalidField. Without the column it is."""
    if "Published" not in row.cells:
        return True
    if row["Published"] not in ("1", "0", "-1"):
        raise InvalidField(f"Published is {row['Published'][:20]!r}, not 1, 0 or -1.")
    return row["Published"] == "1"
